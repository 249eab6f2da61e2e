//! FROM: tables, windows and a join.

use super::words::Words;
use super::{Bound, Condition, Interval, Join, JoinKind, Name, Table, WindowForm, Windows, Word};
use crate::error::{ExprError, every};
use datafusion_sql::sqlparser::tokenizer::Token;
use engine_base::codes::query as codes;
use std::ops::Range;

/// Words that follow a table and are no name for it.
const NO_ALIAS: &[&str] = &[
    "JOIN",
    "INNER",
    "LEFT",
    "RIGHT",
    "FULL",
    "CROSS",
    "NATURAL",
    "SEMI",
    "ANTI",
    "ASOF",
    "ON",
    "USING",
    "OUTER",
    "FOR",
    "TABLESAMPLE",
    "PIVOT",
    "UNPIVOT",
    "MATCH_RECOGNIZE",
    "LATERAL",
    "EMIT",
    "GLOBAL",
];

/// What follows a table in other SQL: the word, what it is called, and what does it here.
const REFUSED: &[(&str, &str, &str)] = &[
    ("CROSS", "CROSS JOIN", "rows meet by columns that are equal: `JOIN ... ON a.x = b.y`"),
    ("NATURAL", "NATURAL JOIN", "say which columns are equal: `JOIN ... ON a.x = b.x`"),
    (
        "ASOF",
        "ASOF JOIN",
        "the row of a table as it was at a time is what the operator `enrich` gives, with `as_of: event_time`",
    ),
    (
        "FOR",
        "FOR SYSTEM_TIME",
        "the row of a table as it was at a time is what the operator `enrich` gives, with `as_of: event_time`",
    ),
    ("TABLESAMPLE", "TABLESAMPLE", "a part of the rows is what a condition gives: `WHERE random() < 0.1`"),
    ("PIVOT", "PIVOT", "write an aggregate for each column: `sum(x) FILTER (WHERE kind = 'a') AS a`"),
    ("UNPIVOT", "UNPIVOT", "make a list of the columns in a `map`, and rows of it with the operator `flatten`"),
    ("MATCH_RECOGNIZE", "MATCH_RECOGNIZE", "rows that follow each other are what the operator `pattern` finds"),
    ("LATERAL", "LATERAL", "rows of the elements of a list are what the operator `flatten` gives"),
];

/// What stands before JOIN.
const JOINS: &[(&[&str], JoinKind)] = &[
    (&["JOIN"], JoinKind::Inner),
    (&["INNER", "JOIN"], JoinKind::Inner),
    (&["LEFT", "JOIN"], JoinKind::Left),
    (&["LEFT", "OUTER", "JOIN"], JoinKind::Left),
    (&["RIGHT", "JOIN"], JoinKind::Right),
    (&["RIGHT", "OUTER", "JOIN"], JoinKind::Right),
    (&["FULL", "JOIN"], JoinKind::Full),
    (&["FULL", "OUTER", "JOIN"], JoinKind::Full),
    (&["LEFT", "SEMI", "JOIN"], JoinKind::Semi),
    (&["SEMI", "JOIN"], JoinKind::Semi),
    (&["LEFT", "ANTI", "JOIN"], JoinKind::Anti),
    (&["ANTI", "JOIN"], JoinKind::Anti),
];

pub(super) fn from(words: &Words<'_>, tokens: Range<usize>) -> Result<(Table, Option<Join>), ExprError> {
    let (table, at) = table(words, tokens.start, tokens.end)?;
    if at == tokens.end {
        return Ok((table, None));
    }
    behind(words, at)?;
    let is_join = |(spelt, _): &&(&[&str], JoinKind)| spelt.iter().enumerate().all(|(n, word)| words.is(at + n, word));
    let Some((spelt, kind)) = JOINS.iter().find(is_join) else {
        if words.is(at, "RIGHT") && words.any(at + 1, &["SEMI", "ANTI"]) {
            let what = format!("RIGHT {} JOIN", words.bare(at + 1).unwrap_or_default().to_uppercase());
            return Err(words.refused(&what, at..at + 3, "let the tables change places, and write LEFT"));
        }
        return Err(words.unexpected(at, "a clause"));
    };
    let range = words.bytes(at..at + spelt.len());
    let (right, at) = self::table(words, at + spelt.len(), tokens.end)?;
    if at < tokens.end {
        behind(words, at)?;
    }
    if words.is(at, "USING") && at < tokens.end {
        let help = "write ON, with the table in front of each column: `ON a.id = b.id`";
        return Err(words.refused("USING", at..at + 1, help));
    }
    if !words.is(at, "ON") || at >= tokens.end {
        let error = ExprError::new(codes::QUERY_JOIN, "this join does not say which rows belong together");
        return Err(error.at(range).help("add the columns that are equal: `ON a.x = b.y`"));
    }
    if let Some(more) = (at + 1..tokens.end).find(|at| words.depth[*at] == 0 && words.is(*at, "JOIN")) {
        let help = "give the first join a step of its own of `type: sql`, and read that by its name";
        return Err(words.refused("more than one JOIN", more..more + 1, help));
    }
    let on = at + 1..tokens.end;
    if let [_, more, ..] = words.parts(on.clone()).as_slice() {
        return Err(comma(words, more.start - 1));
    }
    let on_range = words.bytes(on.clone());
    let on = every(words.conditions(on).into_iter().map(|part| condition(words, part)))?;
    Ok((table, Some(Join { kind: *kind, range, table: right, on, on_range })))
}

fn comma(words: &Words<'_>, at: usize) -> ExprError {
    words.refused("a list of tables", at..at + 1, "rows meet by columns that are equal: `FROM a JOIN b ON a.x = b.y`")
}

/// What follows a table and is not supported.
fn behind(words: &Words<'_>, at: usize) -> Result<(), ExprError> {
    if words.sign(at, &Token::Comma) {
        return Err(comma(words, at));
    }
    match REFUSED.iter().find(|(word, ..)| words.is(at, word)) {
        Some((_, what, help)) => Err(words.refused(what, at..at + 1, help)),
        None => Ok(()),
    }
}

/// A table and where it ends.
fn table(words: &Words<'_>, at: usize, end: usize) -> Result<(Table, usize), ExprError> {
    if at >= end {
        return Err(words.unexpected(at, "a table"));
    }
    if words.sign(at, &Token::LParen) {
        let help = "name the input alone: `FROM bids`; a query or VALUES is a step of its own";
        return Err(words.refused("brackets in FROM", at..at + 1, help));
    }
    let called = words.sign(at + 1, &Token::LParen);
    if words.any(at, &["UNNEST", "LATERAL", "EXPLODE"]) && (called || words.is(at, "LATERAL")) {
        let what = words.bare(at).unwrap_or_default().to_uppercase();
        let help = "rows of the elements of a list are what the operator `flatten` gives";
        return Err(words.refused(&what, at..at + 1, help));
    }
    if words.is(at, "TABLE") && called {
        let close = closing(words, at + 1);
        let (mut table, inner) = windowed(words, at + 2)?;
        if inner != close {
            return Err(words.unexpected(inner, "`)`"));
        }
        let (alias, next) = alias(words, close + 1, end)?;
        table.alias = alias;
        return Ok((table, next));
    }
    if called {
        let (mut table, next) = windowed(words, at)?;
        let (alias, next) = alias(words, next, end)?;
        table.alias = alias;
        return Ok((table, next));
    }
    let Some((name, next)) = words.name(at) else { return Err(words.unexpected(at, "a table")) };
    let (alias, next) = alias(words, next, end)?;
    Ok((Table { name: joined(&name), alias, windows: None }, next))
}

/// A name with dots as one.
fn joined(name: &Name) -> Word {
    let parts: Vec<&str> = name.parts.iter().map(|part| part.text.as_str()).collect();
    Word { text: parts.join("."), range: name.range() }
}

fn alias(words: &Words<'_>, mut at: usize, end: usize) -> Result<(Option<Word>, usize), ExprError> {
    let said = words.is(at, "AS") && at < end;
    at += usize::from(said);
    let alias = match words.word(at).filter(|_| at < end) {
        Some(word) if said || !words.any(at, NO_ALIAS) => word,
        _ if said => return Err(words.unexpected(at, "a name")),
        _ => return Ok((None, at)),
    };
    if words.sign(at + 1, &Token::LParen) && at + 1 < end {
        let help = "give columns other names in the SELECT list: `x AS y`";
        return Err(words.refused("a list of columns behind a table", at + 1..closing(words, at + 1) + 1, help));
    }
    Ok((Some(alias), at + 1))
}

/// The bracket that closes the one at `open`.
fn closing(words: &Words<'_>, open: usize) -> usize {
    let close = |at: &usize| words.depth[*at] == words.depth[open] && words.sign(*at, &Token::RParen);
    (open + 1..words.len()).find(close).unwrap_or(words.len())
}

/// `HOP(bids, INTERVAL '2 seconds', INTERVAL '10 seconds')`, and where it ends.
fn windowed(words: &Words<'_>, at: usize) -> Result<(Table, usize), ExprError> {
    let name = words.bare(at).unwrap_or_default().to_uppercase();
    let close = closing(words, at + 1);
    let usage = match name.as_str() {
        "TUMBLE" => "write `TUMBLE(bids, INTERVAL '1 minute')`",
        "HOP" => {
            "write `HOP(bids, INTERVAL '1 minute', INTERVAL '10 minutes')`: how long after one window the next starts, then \
                  how long they are"
        }
        "SESSION" => "write `SESSION(bids, INTERVAL '30 seconds')`: a window ends where nothing comes for so long",
        _ => {
            let help = match name.as_str() {
                "CUMULATE" => "windows that grow are not built; take `TUMBLE`, or the operator `rolling`",
                _ => "the functions of FROM are `TUMBLE`, `HOP` and `SESSION`",
            };
            let what = format!("`{}` in FROM", words.bare(at).unwrap_or("this"));
            return Err(words.refused(&what, at..close + 1, help));
        }
    };
    let wrong = |tokens: Range<usize>, message: &str| {
        Err(ExprError::new(codes::QUERY_SYNTAX, message.to_owned()).at(words.bytes(tokens)).help(usage))
    };
    let arguments = words.parts(at + 2..close);
    if let Some(named) = arguments.iter().find(|part| words.sign(part.start + 1, &Token::RArrow)) {
        return wrong(named.clone(), "arguments have no names here");
    }
    let mut arguments = arguments.into_iter();
    let first = arguments.next().unwrap_or(close..close);
    let first = if words.is(first.start, "TABLE") { first.start + 1..first.end } else { first };
    let Some((table, next)) = words.name(first.start).filter(|(_, next)| *next <= first.end) else {
        return wrong(first, "the table stands first");
    };
    if next < first.end {
        if words.is(next, "PARTITION") {
            return Err(words.refused(
                "PARTITION BY",
                next..first.end,
                "name the columns in GROUP BY, beside the window",
            ));
        }
        return wrong(next..first.end, "a table and nothing else stands first");
    }
    let mut time = None;
    let mut spans: Vec<Interval> = Vec::new();
    for (number, part) in arguments.enumerate() {
        let descriptor = words.is(part.start, "DESCRIPTOR") && words.sign(part.start + 1, &Token::LParen);
        if descriptor && number == 0 {
            match words.word(part.start + 2).filter(|_| part.len() == 4) {
                Some(column) => time = Some(column),
                None => return wrong(part, "DESCRIPTOR takes the column of the event time"),
            }
            continue;
        }
        match words.interval(part.start) {
            Some(Ok((interval, end))) if end == part.end && interval.ns > 0 => spans.push(interval),
            Some(Ok((_, end))) if end == part.end => return wrong(part, "a window is longer than nothing"),
            Some(Err(error)) => return Err(error),
            _ => return wrong(part, "an interval is due here"),
        }
    }
    let range = words.bytes(at..close + 1);
    let mut spans = spans.into_iter();
    let (form, offset) = match (name.as_str(), spans.next(), spans.next(), spans.next(), spans.next()) {
        ("TUMBLE", Some(size), offset, None, _) => (WindowForm::Tumble { size }, offset),
        ("HOP", Some(slide), Some(size), offset, None) => (WindowForm::Hop { slide, size }, offset),
        ("SESSION", Some(gap), None, ..) => (WindowForm::Session { gap }, None),
        _ => return wrong(at..close + 1, "these are not the intervals that it takes"),
    };
    let windows = Windows { form, offset, time, range };
    Ok((Table { name: joined(&table), alias: None, windows: Some(windows) }, close + 1))
}

fn condition(words: &Words<'_>, tokens: Range<usize>) -> Result<Condition, ExprError> {
    let term = words.term(tokens.clone(), "a condition")?;
    let mut condition = Condition { term, equal: None, bounds: Vec::new() };
    let Some((value, at)) = words.name(tokens.start).filter(|(_, at)| *at < tokens.end) else { return Ok(condition) };
    if words.is(at, "BETWEEN") {
        let both = moment(words, at + 1).and_then(|(low, and)| {
            let (high, end) = moment(words, and + 1)?;
            (words.is(and, "AND") && end == tokens.end).then_some([low, high])
        });
        if let Some([low, high]) = both {
            condition.bounds = vec![low.of(&value, true), high.of(&value, false)];
        }
        return Ok(condition);
    }
    let sign = words.token(at);
    let Some((other, end)) = moment(words, at + 1) else { return Ok(condition) };
    if end != tokens.end {
        return Ok(condition);
    }
    match sign {
        Some(Token::Eq) if other.offset_ns == 0 && other.plain => condition.equal = Some((value, other.column)),
        Some(Token::GtEq) => condition.bounds = vec![other.of(&value, true)],
        Some(Token::LtEq) => condition.bounds = vec![other.of(&value, false)],
        _ => {}
    }
    Ok(condition)
}

/// A column, and what is added to it.
struct Moment {
    column: Name,
    offset_ns: i64,
    plain: bool,
    range: Range<usize>,
}

impl Moment {
    fn of(self, value: &Name, at_least: bool) -> Bound {
        let Moment { column, offset_ns, range, .. } = self;
        Bound { value: value.clone(), other: column, offset_ns, at_least, range }
    }
}

/// `b.at - INTERVAL '1 minute'`, and where it ends.
fn moment(words: &Words<'_>, at: usize) -> Option<(Moment, usize)> {
    let (column, next) = words.name(at)?;
    let sign = match words.token(next) {
        Some(Token::Plus) => 1,
        Some(Token::Minus) => -1,
        _ => return Some((Moment { column, offset_ns: 0, plain: true, range: words.bytes(at..next) }, next)),
    };
    let (interval, end) = words.interval(next + 1)?.ok()?;
    let offset_ns = interval.ns.checked_mul(sign)?;
    Some((Moment { column, offset_ns, plain: false, range: words.bytes(at..end) }, end))
}
