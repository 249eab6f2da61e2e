//! `engine dead-letters`: what a queue of dead letters holds, and what is to become of it.
//!
//! It works on the file alone, in transactions, so an engine may write to it and read it meanwhile. What letters say is data of
//! whoever sent it: what could move a terminal's cursor or hide text is shown by its number.

use super::{Exit, tell};
use crate::cli::{Chosen, DeadLetters, LetterFilter, LettersCommand};
use engine_connectors::letters::queue::{Done, Filter, Letter, Listed, Queue};
use serde_json::json;
use std::fmt::Write as _;
use std::io::IsTerminal;
use std::path::Path;

/// How wide a line is at most where the terminal does not say, and how wide it is at least.
const WIDTH: usize = 120;
const WIDTH_MIN: usize = 60;

/// Runs the command.
pub(crate) fn run(arguments: &DeadLetters) -> Exit {
    let done = match &arguments.command {
        LettersCommand::List { file, filter, limit, json } => list(file, &meant(filter), *limit, *json),
        LettersCommand::Show { file, id } => show(file, *id),
        LettersCommand::Replay { file, chosen } => replay(file, &chosen_letters(chosen)),
        LettersCommand::Drop { file, chosen } => discard(file, &chosen_letters(chosen)),
    };
    tell(done)
}

fn meant(filter: &LetterFilter) -> Filter {
    let LetterFilter { step, code, since } = filter;
    Filter { step: step.clone(), code: code.clone(), since: since.clone(), ids: None }
}

fn chosen_letters(chosen: &Chosen) -> Filter {
    let ids = (!chosen.ids.is_empty()).then(|| chosen.ids.clone());
    Filter { ids, ..meant(&chosen.filter) }
}

fn list(file: &Path, filter: &Filter, limit: u32, as_json: bool) -> Result<(String, bool), String> {
    let queue = Queue::open(file)?;
    let listed = queue.list(filter, limit.into()).map_err(|fault| queue.sentence(fault))?;
    Ok((if as_json { as_document(&listed) } else { as_table(&listed, width()) }, true))
}

fn standing(letter: &Letter) -> &'static str {
    if letter.turn.is_some() { "replaying" } else { "waiting" }
}

/// How many of those that were asked for are not shown.
fn hidden(listed: &Listed) -> u64 {
    (listed.waiting + listed.replaying).saturating_sub(listed.letters.len() as u64)
}

fn as_document(listed: &Listed) -> String {
    let letters = listed.letters.iter().map(|letter| {
        json!({
            "id": letter.id, "arrived": letter.arrived, "standing": standing(letter), "step": letter.step, "code": letter.code,
            "reason": letter.reason, "position": letter.position, "at": letter.at,
        })
    });
    let document = json!({
        "waiting": listed.waiting, "replaying": listed.replaying, "more": hidden(listed), "letters": letters.collect::<Vec<_>>(),
    });
    format!("{document:#}\n")
}

fn as_table(listed: &Listed, width: Option<usize>) -> String {
    let mut rows = vec![["id", "arrived", "", "step", "code", "reason"].map(str::to_owned)];
    rows.extend(listed.letters.iter().map(|letter| {
        let Letter { id, arrived, step, code, reason, .. } = letter;
        let [step, code, reason] = [step, code, reason].map(|text| shown(text, false));
        [id.to_string(), shown(arrived, false), standing(letter).to_owned(), step, code, reason]
    }));
    let mut text = String::new();
    if rows.len() > 1 {
        let widths: [usize; 5] =
            std::array::from_fn(|at| rows.iter().map(|row| row[at].chars().count()).max().unwrap_or(0));
        for row in &rows {
            let mut line = String::new();
            for (cell, width) in row.iter().zip(widths) {
                let _ = write!(line, "{cell:width$}  ");
            }
            line.push_str(&row[5]);
            text.push_str(cut(line.trim_end(), width).as_str());
            text.push('\n');
        }
        text.push('\n');
    }
    let _ = write!(text, "{} waiting, {} replaying", count(listed.waiting), listed.replaying);
    let _ = match hidden(listed) {
        0 => writeln!(text),
        more => writeln!(text, "; {more} more are not shown: choose by --step or --code, or say --limit"),
    };
    text
}

fn count(letters: u64) -> String {
    if letters == 1 { "1 letter".to_owned() } else { format!("{letters} letters") }
}

/// A line of so many characters.
fn cut(line: &str, width: Option<usize>) -> String {
    match width {
        Some(width) if line.chars().count() > width => line.chars().take(width - 1).chain(['…']).collect(),
        _ => line.to_owned(),
    }
}

/// How wide a line may be; as wide as it is where no terminal shows it.
fn width() -> Option<usize> {
    if !std::io::stdout().is_terminal() {
        return None;
    }
    // SAFETY: all bytes zero are a `winsize`, and `ioctl` writes to nothing else.
    let columns = unsafe {
        let mut size: libc::winsize = std::mem::zeroed();
        let asked = libc::ioctl(libc::STDOUT_FILENO, libc::TIOCGWINSZ, &raw mut size);
        if asked == 0 { usize::from(size.ws_col) } else { 0 }
    };
    Some(if columns == 0 { WIDTH } else { columns.max(WIDTH_MIN) })
}

/// Text of others for a terminal: control characters, and those that turn the direction of writing, by their numbers.
fn shown(text: &str, lines: bool) -> String {
    let turns = |c: char| matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\n' | '\t' if lines => out.push(c),
            c if c.is_control() || turns(c) => out.extend(c.escape_default()),
            c => out.push(c),
        }
    }
    out
}

fn show(file: &Path, id: i64) -> Result<(String, bool), String> {
    let queue = Queue::open(file)?;
    let found = queue.show(id).map_err(|fault| queue.sentence(fault))?;
    let Some(letter) = found else {
        return Err(format!("{} has no letter {id}, or no longer: it was replayed, or dropped", file.display()));
    };
    let mut text = String::new();
    let is = match letter.turn {
        Some(turn) => format!("replaying, as turn {turn}"),
        None => "waiting".to_owned(),
    };
    let parts = [
        ("id", letter.id.to_string()),
        ("is", is),
        ("step", letter.step),
        ("code", letter.code),
        ("reason", letter.reason),
        ("position", letter.position),
        ("at", letter.at),
        ("arrived", letter.arrived),
    ];
    for (name, value) in parts {
        let _ = writeln!(text, "{name:8}  {}", shown(&value, false));
    }
    let payload = indented(&letter.payload).unwrap_or(letter.payload);
    let _ = writeln!(text, "payload\n{}", shown(&payload, true));
    Ok((text, true))
}

/// JSON with a line for each value, every value as it is written; `None` of what is no JSON.
fn indented(json: &str) -> Option<String> {
    serde_json::from_str::<serde::de::IgnoredAny>(json).ok()?;
    let mut out = String::with_capacity(json.len() * 2);
    let (mut depth, mut in_text, mut escaped) = (0_usize, false, false);
    let line = |out: &mut String, depth: usize| {
        out.push('\n');
        (0..depth).for_each(|_| out.push_str("  "));
    };
    let mut rest = json.chars().peekable();
    while let Some(c) = rest.next() {
        if in_text {
            out.push(c);
            in_text = escaped || c != '"';
            escaped = !escaped && c == '\\';
            continue;
        }
        match c {
            c if c.is_ascii_whitespace() => {}
            '{' | '[' => {
                out.push(c);
                while rest.next_if(char::is_ascii_whitespace).is_some() {}
                if let Some(end) = rest.next_if(|c| matches!(c, '}' | ']')) {
                    out.push(end);
                } else {
                    depth += 1;
                    line(&mut out, depth);
                }
            }
            '}' | ']' => {
                depth = depth.saturating_sub(1);
                line(&mut out, depth);
                out.push(c);
            }
            ',' => {
                out.push(c);
                line(&mut out, depth);
            }
            ':' => out.push_str(": "),
            c => {
                in_text = c == '"';
                out.push(c);
            }
        }
    }
    Some(out)
}

fn replay(file: &Path, filter: &Filter) -> Result<(String, bool), String> {
    let mut queue = Queue::open(file)?;
    let done = queue.replay(filter).map_err(|fault| queue.sentence(fault))?;
    let mut text = format!("{} to be replayed\n", is_or_are(done.count));
    if done.replaying > 0 {
        let _ = writeln!(text, "{} being replayed already", is_or_are(done.replaying));
    }
    if done.cut > 0 {
        let more = done.cut - done.cut_ids.len() as u64;
        let _ = writeln!(
            text,
            "{} not whole and can't be replayed, since the row was too large to be kept: {}{}",
            is_or_are(done.cut),
            numbers(&done.cut_ids),
            if more > 0 { format!(" and {more} more") } else { String::new() }
        );
    }
    missing(&done, &mut text);
    Ok((text, done.cut == 0 && done.missing.is_empty()))
}

fn discard(file: &Path, filter: &Filter) -> Result<(String, bool), String> {
    let mut queue = Queue::open(file)?;
    let done = queue.discard(filter).map_err(|fault| queue.sentence(fault))?;
    let mut text = format!("{} dropped\n", is_or_are(done.count));
    if done.replaying > 0 {
        let _ = writeln!(text, "{} being replayed and can't be dropped any more", is_or_are(done.replaying));
    }
    missing(&done, &mut text);
    let refused = filter.ids.is_some() && done.replaying > 0;
    Ok((text, !refused && done.missing.is_empty()))
}

fn is_or_are(letters: u64) -> String {
    format!("{} {}", count(letters), if letters == 1 { "is" } else { "are" })
}

fn missing(done: &Done, text: &mut String) {
    if !done.missing.is_empty() {
        let _ = writeln!(text, "there is no letter {}, or no longer", numbers(&done.missing));
    }
}

fn numbers(ids: &[i64]) -> String {
    ids.iter().map(i64::to_string).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_is_shown_as_it_is_written() {
        let check = |json: &str, expected: &str| assert_eq!(indented(json).as_deref(), Some(expected), "{json}");
        check(
            r#"{"b":1e400,"a":[1, 2,{}],"c":{ "d" : "x,\"{y" } ,"e":[]}"#,
            "{\n  \"b\": 1e400,\n  \"a\": [\n    1,\n    2,\n    {}\n  ],\n  \"c\": {\n    \"d\": \"x,\\\"{y\"\n  },\n  \"e\": []\n}",
        );
        check(r#""a\\""#, r#""a\\""#);
        check("12345678901234567890123", "12345678901234567890123");
        assert_eq!((indented("{"), indented("a;b"), indented("")), (None, None, None));
    }

    #[test]
    fn text_can_not_move_the_cursor() {
        assert_eq!(shown("a\u{1b}[2Jb\n\u{9b}\u{202e}ä", false), "a\\u{1b}[2Jb\\n\\u{9b}\\u{202e}ä");
        assert_eq!(shown("a\nb\r", true), "a\nb\\r");
    }

    #[test]
    fn a_reason_is_cut_to_the_width() {
        let letter = Letter {
            id: 7,
            step: "holds".into(),
            code: "rejected".into(),
            reason: "x".repeat(200),
            position: "rows/0/1".into(),
            at: "2026-01-31T10:00:00Z".into(),
            arrived: "2026-01-31T10:00:00.000Z".into(),
            turn: Some(3),
            payload: String::new(),
        };
        let listed = Listed { letters: vec![letter], waiting: 4, replaying: 1 };
        let text = as_table(&listed, Some(80));
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!((lines[1].chars().count(), lines[1].chars().last()), (80, Some('…')));
        assert!(lines[1].starts_with("7   2026-01-31T10:00:00.000Z  replaying  holds  rejected  xxx"), "{text}");
        assert_eq!(
            lines[3],
            "4 letters waiting, 1 replaying; 4 more are not shown: choose by --step or --code, or say --limit"
        );
        assert!(as_table(&listed, None).contains(&"x".repeat(200)));
    }
}
