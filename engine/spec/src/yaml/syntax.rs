//! A parser's complaint as a plain sentence with the likely remedy, and what can still be read after it.
//!
//! Parsers say where they gave up, which is often a line after the slip. [`explain`] looks at the lines around that place
//! for the slips that people make: indentation, tabs, a missing space or colon, text that needs quotes, a quote or
//! bracket left open.

use engine_base::codes::spec as codes;
use engine_base::{Code, Diagnostic, FileId, Span};

/// Where and why a parser gave up.
#[derive(Debug)]
pub(super) struct Failure {
    /// The byte at which it did.
    pub(super) byte: usize,
    /// Its own words.
    pub(super) reason: String,
    /// The innermost bracket that is open there.
    pub(super) open_flow: Option<usize>,
}

/// A line: its first byte, its text without the line break.
#[derive(Clone, Copy)]
struct Line<'t> {
    start: usize,
    text: &'t str,
}

impl<'t> Line<'t> {
    fn at(text: &'t str, byte: usize) -> Line<'t> {
        let mut byte = byte.min(text.len());
        while !text.is_char_boundary(byte) {
            byte -= 1;
        }
        let start = text[..byte].rfind('\n').map_or(0, |at| at + 1);
        let end = text[byte..].find('\n').map_or(text.len(), |at| byte + at);
        Line { start, text: text[start..end].trim_end_matches('\r') }
    }

    fn end(self) -> usize {
        self.start + self.text.len()
    }

    fn content(self) -> &'t str {
        self.text.trim()
    }

    fn content_start(self) -> usize {
        self.start + self.indent()
    }

    fn indent(self) -> usize {
        self.text.len() - self.text.trim_start().len()
    }

    fn says_something(self) -> bool {
        let content = self.content();
        !content.is_empty() && !content.starts_with('#')
    }

    fn previous(self, text: &'t str) -> Option<Line<'t>> {
        let mut line = self;
        while line.start > 0 {
            line = Line::at(text, line.start - 1);
            if line.says_something() {
                return Some(line);
            }
        }
        None
    }

    fn next(self, text: &'t str) -> Option<Line<'t>> {
        let after = self.start + text[self.start..].find('\n')? + 1;
        (after < text.len()).then(|| Line::at(text, after))
    }

    /// The key and the value of `key: value`, the value with its first byte.
    fn key_value(self) -> Option<(&'t str, usize, &'t str)> {
        let body = self.text.trim_start().trim_start_matches("- ").trim_start();
        let offset = self.text.len() - body.len();
        let (key, rest) = body.split_once(": ").or_else(|| body.strip_suffix(':').map(|key| (key, "")))?;
        let value = without_comment(rest.trim_start());
        let value_at = self.start + offset + body.len() - rest.trim_start().len();
        Some((key.trim(), value_at, value))
    }
}

fn without_comment(text: &str) -> &str {
    text.split(" #").next().unwrap_or_default().trim_end()
}

/// `text` in the quotes that suit it.
pub(crate) fn quoted(text: &str) -> String {
    match (text.contains(['"', '\\']), text.contains('\'')) {
        (false, _) => format!("\"{text}\""),
        (true, false) => format!("'{text}'"),
        (true, true) => format!("'{}'", text.replace('\'', "''")),
    }
}

/// How long a text a remedy repeats.
const SHOWN: usize = 80;

fn quote_help(key: Option<&str>, value: &str) -> String {
    match key {
        _ if value.is_empty() || value.len() > SHOWN => "put the whole value in quotes, or below a `|`".to_owned(),
        Some(key) => format!("put the whole value in quotes: `{key}: {}`", quoted(value)),
        None => format!("put the whole text in quotes: `{}`", quoted(value)),
    }
}

struct Say<'t> {
    file: FileId,
    text: &'t str,
    line: Line<'t>,
    byte: usize,
}

impl<'t> Say<'t> {
    fn say(&self, code: Code, start: usize, end: usize, message: impl Into<String>) -> Diagnostic {
        let start = start.min(self.text.len());
        Diagnostic::error(code, Span { file: self.file, start, end: end.clamp(start, self.text.len()) }, message)
    }

    /// What starts with a quote, a bracket or another sign of YAML's and goes on after it.
    fn needs_quotes(&self, message: impl Into<String>) -> Diagnostic {
        match self.line.key_value() {
            Some((key, at, value)) if !value.is_empty() => {
                self.say(codes::NEEDS_QUOTES, at, at + value.len(), message).help(quote_help(Some(key), value))
            }
            _ => self.say(codes::NEEDS_QUOTES, self.byte, self.line.end(), message).help(quote_help(None, "")),
        }
    }

    fn indentation(&self, line: Line<'t>) -> Diagnostic {
        let mut levels: Vec<usize> = Vec::new();
        let mut above = line.previous(self.text);
        while let Some(line) = above.filter(|_| levels.len() < 8) {
            let indent = line.indent();
            if levels.last().is_none_or(|last| indent < *last) {
                levels.push(indent);
                // The items of a list have keys of their own.
                let inner = indent + line.text[indent..].len() - line.text[indent..].trim_start_matches("- ").len();
                if inner > indent {
                    levels.insert(levels.len() - 1, inner);
                }
            }
            if indent == 0 {
                break;
            }
            above = line.previous(self.text);
        }
        let indent = line.indent();
        let levels: Vec<String> = levels.iter().filter(|level| **level != indent).map(usize::to_string).collect();
        let fitting = match levels.split_last() {
            Some((last, [])) => format!("{last} spaces"),
            Some((last, others)) => format!("{} or {last} spaces", others.join(", ")),
            None => "the keys beside it".to_owned(),
        };
        self.say(
            codes::INDENTATION,
            line.content_start(),
            line.end(),
            format!("this line is indented by {indent} spaces, which fits no line above it"),
        )
        .help(format!("indent it like the keys that it belongs with: by {fitting}"))
    }
}

/// A line that should be `key: value` and has no `: `.
fn missing_colon(say: &Say<'_>, line: Line<'_>) -> Diagnostic {
    if let Some(above) = line.previous(say.text)
        && above.content().starts_with("- ")
        && above.indent() == line.indent()
    {
        let item = without_comment(line.content());
        return say
            .say(codes::YAML_SYNTAX, line.content_start(), line.end(), "a `- ` is missing before this item of a list")
            .help(format!("write `- {}`", item.chars().take(SHOWN).collect::<String>()));
    }
    let content = without_comment(line.content());
    let start = line.content_start();
    let word = content.trim_start_matches("- ");
    let split = word.find(|c: char| !(c.is_alphanumeric() || "_-.".contains(c))).unwrap_or(word.len());
    let (key, rest) = word.split_at(split);
    let at_word = start + content.len() - word.len();
    match rest.chars().next() {
        Some(':') if !key.is_empty() => say
            .say(codes::YAML_SYNTAX, at_word, at_word + word.len(), format!("a space is missing after `{key}:`"))
            .help(format!("write `{key}: {}`", rest[1..].trim_start())),
        Some('=') if !key.is_empty() => say
            .say(
                codes::YAML_SYNTAX,
                at_word,
                at_word + word.len(),
                format!("`{key}` is set with `=`; YAML sets keys with `:`"),
            )
            .help(format!("write `{key}: {}`", rest[1..].trim_start())),
        Some(' ') if !key.is_empty() => {
            let rest = rest.trim_start().trim_start_matches('=').trim_start();
            say.say(codes::YAML_SYNTAX, at_word, at_word + word.len(), format!("a `:` is missing after `{key}`"))
                .help(format!("write `{key}: {rest}`"))
        }
        _ => say
            .say(codes::YAML_SYNTAX, at_word, at_word + word.len(), "this line is neither a key nor the text of one")
            .help("write `key: value`; a text of several lines stands indented below `key: |`"),
    }
}

/// What to tell the person who wrote `text`.
pub(super) fn explain(file: FileId, text: &str, failure: &Failure) -> Diagnostic {
    let line = Line::at(text, failure.byte);
    let say = Say { file, text, line, byte: failure.byte };
    let reason = failure.reason.as_str();
    let has = |part: &str| reason.contains(part);

    for line in [Some(line), line.next(text)].into_iter().flatten() {
        let blanks = &line.text[..line.indent()];
        if let Some(tab) = blanks.find('\t').filter(|_| has("tab") || has("cannot start any token")) {
            let at = line.start + tab;
            let tabs = blanks[tab..].len() - blanks[tab..].trim_start_matches('\t').len();
            return say
                .say(codes::TAB_INDENTATION, at, at + tabs, "a tab stands where YAML takes only spaces")
                .help("indent with spaces, two for each level");
        }
    }
    if has("tab") {
        return say
            .say(codes::TAB_INDENTATION, failure.byte, failure.byte + 1, "a tab stands where YAML takes only spaces")
            .help("put spaces there");
    }
    if has("escape") || has("hexadecimal") {
        return escape(&say);
    }
    if has("quoted scalar") && !has("trailing content") {
        return unclosed_quote(&say, failure);
    }
    if has("trailing content") {
        return after_quote(&say, failure);
    }
    if has("unknown anchor") {
        let word = text[failure.byte.min(text.len())..].split(|c: char| c.is_whitespace() || ",]}".contains(c)).next();
        let word = word.unwrap_or_default();
        return say
            .say(
                codes::ALIAS,
                failure.byte,
                failure.byte + word.len(),
                format!("`{word}` is a YAML alias, and no anchor `&{}` stands above it", word.trim_start_matches('*')),
            )
            .help(format!("if it is text or an expression, put it in quotes: {}", {
                let value = line.key_value().map_or(word, |(_, _, value)| value);
                format!("`{}`", quoted(value))
            }));
    }
    if has("block scalar") && (has("comment or line break") || has("indentation indicator")) {
        let sign = if line.key_value().is_some_and(|(_, _, value)| value.starts_with('>')) { '>' } else { '|' };
        return say.needs_quotes(format!("`{sign}` at the start of a value begins a block of text in YAML"));
    }
    if has("unexpected character") || has("cannot start any token") {
        let c = text.get(failure.byte..).and_then(|rest| rest.chars().next()).unwrap_or('@');
        return say.needs_quotes(format!("a text can't start with `{c}` without quotes"));
    }
    if let Some(open) = failure.open_flow.filter(|_| !has("misplaced bracket")) {
        return in_brackets(&say, failure, open);
    }
    if has("misplaced bracket") || (text[failure.byte.min(text.len())..].starts_with(['}', ']']) && has("expected key"))
    {
        let bracket = text.get(failure.byte..failure.byte + 1).unwrap_or("}");
        return say
            .say(codes::UNCLOSED, failure.byte, failure.byte + 1, format!("this `{bracket}` closes nothing"))
            .help("remove it, or open the bracket that it should close");
    }
    if has("mapping values are not allowed") || has("illegal placement of ':'") {
        return second_colon(&say, failure);
    }
    if has("simple key expect") || has("could not find expected ':'") {
        let culprit = if line.key_value().is_some() || !line.says_something() || failure.byte <= line.content_start() {
            line.previous(text).unwrap_or(line)
        } else {
            line
        };
        return missing_colon(&say, culprit);
    }
    if has("block sequence entries are not allowed") || has(r#""-" is only valid"#) {
        return say
            .say(codes::INDENTATION, failure.byte, line.end(), "a list can't begin here")
            .help("begin it on a line of its own below the key, or write `[a, b]`");
    }
    if has("'-' indicator") {
        return say
            .say(codes::INDENTATION, line.content_start(), line.end(), "a list ends here without its key ending")
            .help("begin the line with `- ` if it belongs to the list; else indent it like the key of the list");
    }
    if has("expected key") || has("<document start>") {
        if line.content().starts_with("- ") || line.content() == "-" {
            return say
                .say(codes::INDENTATION, line.content_start(), line.end(), "a list item stands where a key is due")
                .help("indent the list below the key that it belongs to");
        }
        return say.indentation(line);
    }
    if has("indent") {
        return say.indentation(line);
    }
    if has("expected node content") {
        return say.needs_quotes("a value can't start like this without quotes");
    }
    say.say(codes::YAML_SYNTAX, failure.byte, failure.byte + 1, "this is not YAML")
        .at_caret(reason.split(" at line").next().unwrap_or_default())
        .help("check the indentation, and put text with signs such as `: # { } [ ] , & * ! | > % @` in quotes")
}

/// A backslash in double quotes.
fn escape(say: &Say<'_>) -> Diagnostic {
    let known = "0abt\tnvfre \"/\\N_LPxuU\n\r";
    let rest = &say.text[say.byte.min(say.text.len())..];
    let mut chars = rest.char_indices();
    let mut found = None;
    while let Some((at, c)) = chars.next() {
        if c == '\\' {
            match chars.next() {
                Some((_, next)) if known.contains(next) && !"xuU".contains(next) => {}
                Some((_, next)) => {
                    found = Some((at, 1 + next.len_utf8(), next));
                    break;
                }
                None => break,
            }
        }
    }
    let (at, length, c) = found.unwrap_or((0, 1, '\\'));
    say.say(
        codes::NEEDS_QUOTES,
        say.byte + at,
        say.byte + at + length,
        format!("`\\{c}` is no escape that YAML knows in double quotes"),
    )
    .help("use single quotes, where a backslash is a backslash, or write it twice")
}

fn unclosed_quote(say: &Say<'_>, failure: &Failure) -> Diagnostic {
    // serde_yaml says where the text ended; saphyr where the quote stands.
    let at = match say.text[failure.byte.min(say.text.len())..].starts_with(['"', '\'']) {
        true => failure.byte,
        false => say.text[..failure.byte.min(say.text.len())].rfind(['"', '\'']).unwrap_or(failure.byte),
    };
    say.say(codes::UNCLOSED, at, at + 1, "this quote is not closed")
        .help("close it; a text that spans lines must be indented deeper than its key")
}

/// `'EUR' = currency`: YAML ends the value at the second quote.
fn after_quote(say: &Say<'_>, failure: &Failure) -> Diagnostic {
    if let Some(open) = failure.open_flow
        && let Some((key, at, whole)) = flow_value(say.text, open, failure.byte)
    {
        return say
            .say(
                codes::NEEDS_QUOTES,
                at,
                at + whole.len(),
                "the value starts with a quote, so YAML ends it at the next one",
            )
            .help(quote_help(key, whole));
    }
    match say.line.key_value() {
        Some((key, at, value)) if value.starts_with(['"', '\'']) => say
            .say(
                codes::NEEDS_QUOTES,
                at,
                at + value.len(),
                "the value starts with a quote, so YAML ends it at the next one",
            )
            .help(quote_help(Some(key), value)),
        _ => say
            .say(codes::NEEDS_QUOTES, failure.byte, say.line.end(), "text stands after the closing quote")
            .help("put the whole text in quotes, or below a `|`"),
    }
}

/// The piece between commas of the bracket at `open` that holds `byte`: its key, first byte and value.
fn flow_value(text: &str, open: usize, byte: usize) -> Option<(Option<&str>, usize, &str)> {
    let inside = text.get(open + 1..byte)?;
    let mut start = open + 1;
    let mut depth = 0_i32;
    let mut quote = None;
    for (at, c) in inside.char_indices() {
        match (quote, c) {
            (Some(q), c) if c == q => quote = None,
            (None, '"' | '\'') => quote = Some(c),
            (None, '(' | '[' | '{') => depth += 1,
            (None, ')' | ']' | '}') => depth -= 1,
            (None, ',') if depth <= 0 => start = open + 1 + at + 1,
            _ => {}
        }
    }
    // On to the comma or bracket that ends the piece.
    let rest = text.get(start..)?;
    let mut depth = 0_i32;
    let mut quote = None;
    let mut end = rest.find('\n').unwrap_or(rest.len());
    for (at, c) in rest[..end].char_indices() {
        match (quote, c) {
            (Some(q), c) if c == q => quote = None,
            (None, '"' | '\'') => quote = Some(c),
            (None, '(' | '[' | '{') => depth += 1,
            (None, ')' | ']' | '}') if depth > 0 => depth -= 1,
            (None, ',' | ']' | '}') if depth <= 0 => {
                end = at;
                break;
            }
            _ => {}
        }
    }
    let piece = rest[..end].trim_end();
    let lead = piece.len() - piece.trim_start().len();
    let (start, piece) = (start + lead, piece.trim_start());
    Some(match piece.split_once(": ") {
        Some((key, value)) => (Some(key.trim()), start + piece.len() - value.trim_start().len(), value.trim_start()),
        None => (None, start, piece),
    })
}

/// Something went wrong inside `{...}` or `[...]`.
fn in_brackets(say: &Say<'_>, failure: &Failure, open: usize) -> Diagnostic {
    let bracket = &say.text[open..=open];
    let opening = Line::at(say.text, open);
    let past_it = say.line.start > opening.start && say.line.indent() <= opening.indent();
    if past_it || failure.byte >= say.text.trim_end().len() {
        let close = if bracket == "{" { "}" } else { "]" };
        let what = if past_it
            && say.line.content().starts_with(['}', ']', '"', '{', '['])
            && failure.reason.contains("indent")
        {
            say.say(
                codes::INDENTATION,
                say.line.content_start(),
                say.line.end(),
                format!("the lines of a `{bracket}` that spans lines must be indented deeper than its key"),
            )
            .also(Span { file: say.file, start: open, end: open + 1 }, "opened here")
            .help("indent them, or close the bracket on its line")
        } else {
            say.say(codes::UNCLOSED, open, open + 1, format!("this `{bracket}` is not closed"))
                .help(format!("close it with `{close}`; a value of many parts reads better on lines of its own"))
        };
        return what;
    }
    let at_char = say.text[failure.byte.min(say.text.len())..].chars().next();
    if let Some((key, at, value)) = flow_value(say.text, open, failure.byte) {
        if value.contains(['[', ']', '{', '}', '"', '\'']) {
            let sign = value.chars().find(|c| "[]{}\"'".contains(*c)).unwrap_or('[');
            return say
                .say(
                    codes::NEEDS_QUOTES,
                    at,
                    at + value.len(),
                    format!("inside `{bracket}` a text with `{sign}` needs quotes"),
                )
                .help(quote_help(key, value));
        }
        if at_char == Some(':') {
            let next = value.split(": ").next().unwrap_or_default();
            let next = next.rsplit([' ', '\n']).next().unwrap_or_default();
            let start = failure.byte.saturating_sub(next.len());
            return say
                .say(codes::YAML_SYNTAX, start, failure.byte, format!("a comma is missing before `{next}`"))
                .help("put a comma between the entries; a text with `: ` needs quotes");
        }
    }
    say.say(
        codes::YAML_SYNTAX,
        failure.byte,
        failure.byte + 1,
        format!("a comma or the end of this `{bracket}` is missing here"),
    )
    .also(Span { file: say.file, start: open, end: open + 1 }, "opened here")
    .help("put a comma between the entries, and text with signs in quotes")
}

/// `a: b: c`, or a key below a value.
fn second_colon(say: &Say<'_>, failure: &Failure) -> Diagnostic {
    let line = say.line;
    let before = &say.text[line.start..failure.byte.clamp(line.start, line.end())];
    if before.contains(": ") || before.contains(":\t") {
        return match line.key_value() {
            Some((key, at, value)) => say
                .say(
                    codes::NEEDS_QUOTES,
                    at,
                    at + value.len(),
                    format!("the value of `{key}` has a `: ` in it, which ends a key in YAML"),
                )
                .help(quote_help(Some(key), value)),
            None => say.needs_quotes("a `: ` ends a key in YAML"),
        };
    }
    let key = before.trim().trim_start_matches("- ");
    let Some(above) = line.previous(say.text) else {
        return say.needs_quotes("a `:` can't stand here");
    };
    match above.key_value() {
        Some((owner, _, value)) if !value.is_empty() && line.indent() > above.indent() => say
            .say(
                codes::INDENTATION,
                line.content_start(),
                failure.byte,
                format!("`{key}` is indented below `{owner}`, which has a value of its own"),
            )
            .also(
                Span { file: say.file, start: above.content_start(), end: above.end() },
                "the value ends here, unless the next line is indented deeper",
            )
            .help(format!("indent `{key}` by {} spaces, like `{owner}`", above.indent())),
        Some(_) => say.indentation(line),
        None => missing_colon(say, above),
    }
}

/// A block that was left out because it could not be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Lost {
    /// The key at the top of the file that it belongs to.
    pub(crate) section: String,
    /// The key below that; the whole section is lost if `None`.
    pub(crate) entry: Option<String>,
}

/// `text` with the block that holds `byte` blanked, so that the rest can be read at the same places: the entry of a
/// section (a component), or the section. `None` if there is nothing left.
pub(super) fn without_block(text: &str, byte: usize) -> Option<(String, Lost)> {
    let key = |line: Line<'_>| {
        let key = line.content().split(':').next().unwrap_or_default();
        key.trim().trim_matches(['"', '\'']).to_owned()
    };
    let at = Line::at(text, byte);
    let at = if at.says_something() { at } else { at.previous(text)? };
    let mut section = at;
    while section.indent() > 0 || section.content().starts_with(['-', '}', ']']) {
        section = section.previous(text)?;
    }
    let mut first = section.next(text);
    while let Some(line) = first.filter(|line| !line.says_something()) {
        first = line.next(text);
    }
    let level = first.map_or(0, Line::indent);
    let mut head = at;
    while head.indent() > level {
        head = head.previous(text)?;
    }
    // A line that is indented less than the entries beside it belongs to none of them.
    let is_entry = level > 0 && head.indent() == level && head.start > section.start;
    let (head, level) = if is_entry { (head, level) } else { (section, 0) };
    let mut end = at;
    while let Some(next) = end.next(text) {
        if next.says_something() && next.indent() <= level && !next.content().starts_with(['}', ']']) {
            break;
        }
        end = next;
    }
    let block = text.get(head.start..end.end())?;
    if block.trim().is_empty() {
        return None;
    }
    // The same number of bytes, and the same lines.
    let blank = block.chars().flat_map(|c| std::iter::repeat_n(if c == '\n' { '\n' } else { ' ' }, c.len_utf8()));
    let blank: String = blank.collect();
    let rest = [&text[..head.start], &blank, &text[end.end()..]].concat();
    let lost = Lost { section: key(section), entry: is_entry.then(|| key(head)) };
    (!rest.trim().is_empty()).then_some((rest, lost))
}
