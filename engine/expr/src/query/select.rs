//! The clauses of a SELECT.

use super::words::Words;
use super::{Item, Order, Query, Select, Term};
use crate::error::{ExprError, every};
use datafusion_sql::sqlparser::tokenizer::Token;
use engine_base::codes::{expr, query as codes};
use std::ops::Range;

/// The clauses in the order in which they stand.
const CLAUSES: &[&str] = &["FROM", "WHERE", "GROUP", "HAVING", "ORDER", "LIMIT"];

/// Clauses of other SQL: the word, what it is called, and what does it here.
const REFUSED: &[(&str, &str, &str)] = &[
    ("OFFSET", "OFFSET", "leave it out: `top` has the first rows"),
    ("FETCH", "FETCH", "write `LIMIT n` behind ORDER BY"),
    ("QUALIFY", "QUALIFY", "the first rows of each key are what the operator `top` gives"),
    ("WINDOW", "WINDOW", "rows of the past are what the operator `rolling` gives"),
    ("INTO", "INTO", "leave it out: sinks read the step by its name"),
    (
        "FOR",
        "FOR",
        "the row of a table as it was at a time is what the operator `enrich` gives, with `as_of: event_time`",
    ),
    ("CLUSTER", "CLUSTER BY", "leave it out: rows are brought together as each step needs it"),
    ("DISTRIBUTE", "DISTRIBUTE BY", "leave it out: rows are brought together as each step needs it"),
    ("SORT", "SORT BY", "a stream has no order: the first rows are what ORDER BY with LIMIT gives"),
    ("EMIT", "EMIT", "leave it out: windows come out once, when no more of their rows are expected"),
    ("INTERSECT", "INTERSECT", "rows that are in both are what a join gives: `LEFT SEMI JOIN`"),
    ("EXCEPT", "EXCEPT", "rows that are in the first only are what a join gives: `LEFT ANTI JOIN`"),
    ("MINUS", "MINUS", "rows that are in the first only are what a join gives: `LEFT ANTI JOIN`"),
];

/// What can't begin a query.
const OTHER_QUERIES: &[&str] = &["INSERT", "UPDATE", "DELETE", "MERGE", "CREATE", "DROP", "ALTER", "SET", "EXPLAIN"];

pub(super) fn query(text: &str) -> Result<Query, ExprError> {
    let words = Words::new(text)?;
    if words.len() == 0 {
        return Err(ExprError::new(expr::EMPTY, "a query is due here, and nothing is written")
            .help("write `SELECT ... FROM ...`"));
    }
    foreign(&words)?;
    let mut starts = vec![0];
    for at in 1..words.len() {
        if !words.begins(at) {
            continue;
        }
        if words.is(at, "UNION") {
            if !words.is(at + 1, "ALL") {
                let help = "write UNION ALL, and read it with the operator `distinct`";
                return Err(words.refused("UNION without ALL", at..at + 1, help));
            }
            starts.push(at);
        }
    }
    starts.push(words.len());
    let selects = starts.windows(2).enumerate().map(|(number, bounds)| {
        let first = if number == 0 { bounds[0] } else { bounds[0] + 2 };
        let select = select(&words, first..bounds[1])?;
        if let (true, Some(order)) = (starts.len() > 2, select.order_by.first()) {
            let range = order.term.range.clone();
            return Err(ExprError::new(codes::QUERY_CLAUSE, "ORDER BY is not supported in a query with UNION ALL")
                .at(range)
                .help("the first rows of the union are what the operator `top` gives, as a step of its own"));
        }
        Ok(select)
    });
    Ok(Query { selects: every(selects)? })
}

/// What stands anywhere and is not supported: queries in queries, OVER.
fn foreign(words: &Words<'_>) -> Result<(), ExprError> {
    if words.is(0, "WITH") {
        let help = "give each of its queries a step of its own of `type: sql`, and read that by its name";
        return Err(words.refused("WITH", 0..1, help));
    }
    if words.any(0, OTHER_QUERIES) {
        let help = "a step has one SELECT, and sinks write what comes out";
        return Err(words.refused(&words.bare(0).unwrap_or_default().to_uppercase(), 0..1, help));
    }
    for at in 0..words.len() {
        let behind = |word: &str| at.checked_sub(1).is_some_and(|before| words.is(before, word));
        if words.sign(at, &Token::LParen) && words.any(at + 1, &["SELECT", "WITH"]) {
            let (what, help) = match () {
                () if behind("IN") && at >= 2 && words.is(at - 2, "NOT") => {
                    ("NOT IN with a query", "rows without a match are what `LEFT ANTI JOIN ... ON` gives")
                }
                () if behind("IN") => ("IN with a query", "rows with a match are what `LEFT SEMI JOIN ... ON` gives"),
                () if behind("EXISTS") => (
                    "EXISTS",
                    "rows with a match are what `LEFT SEMI JOIN ... ON` gives, those without `LEFT ANTI JOIN`",
                ),
                () => ("another query", "give it a step of its own of `type: sql`, and read that by its name"),
            };
            let start = if behind("EXISTS") { at - 1 } else { at };
            return Err(words.refused(what, start..at + 2, help));
        }
        let called = words.sign(at + 1, &Token::LParen) || words.word(at + 1).is_some();
        if words.is(at, "OVER") && called && at > 0 && words.sign(at - 1, &Token::RParen) {
            let help = "rows of the past are what the operator `rolling` gives; the first rows of each key, by ROW_NUMBER \
                        elsewhere, are what `top` gives";
            return Err(words.refused("OVER", at..at + 1, help));
        }
    }
    Ok(())
}

fn select(words: &Words<'_>, tokens: Range<usize>) -> Result<Select, ExprError> {
    if !words.is(tokens.start, "SELECT") || tokens.is_empty() {
        return Err(words.unexpected(tokens.start, "SELECT"));
    }
    // Where each clause stands: its first word, in the order of the text.
    let mut clauses: Vec<(usize, usize)> = Vec::new();
    for at in tokens.start + 1..tokens.end {
        if let Some(number) = CLAUSES.iter().position(|clause| words.is(at, clause)).filter(|_| words.depth[at] == 0) {
            let by = !matches!(CLAUSES[number], "GROUP" | "ORDER") || words.is(at + 1, "BY");
            // A clause may stand at once behind another's first word, where what is due is missing; a column may have its name.
            let distinct_from = words.is(at, "FROM") && words.is(at - 1, "DISTINCT") && at > tokens.start + 2;
            let missing = words.is(at, "FROM") && clauses.is_empty();
            if by && !distinct_from && (words.begins(at) || missing && !words.sign(at + 1, &Token::Comma)) {
                clauses.push((at, number));
                continue;
            }
        }
        if words.begins(at) {
            refused(words, at, &clauses)?;
        }
    }
    for pair in clauses.windows(2) {
        let ((at, number), (_, before)) = (pair[1], pair[0]);
        if number <= before {
            let message = match number == before {
                true => format!("{} stands here twice", spelt(CLAUSES[number])),
                false => format!("{} stands behind {}", spelt(CLAUSES[number]), spelt(CLAUSES[before])),
            };
            return Err(ExprError::new(codes::QUERY_SYNTAX, message)
                .at(words.bytes(at..at + 1))
                .help("the order is SELECT, FROM, WHERE, GROUP BY, HAVING, ORDER BY, LIMIT"));
        }
    }
    let clause = |name: &str| {
        let found = clauses.iter().position(|(_, number)| CLAUSES[*number] == name)?;
        let (at, _) = clauses[found];
        let words = if matches!(name, "GROUP" | "ORDER") { 2 } else { 1 };
        let end = clauses.get(found + 1).map_or(tokens.end, |(at, _)| *at);
        Some((at, (at + words).min(end)..end))
    };
    let Some((from_at, from)) = clause("FROM") else {
        let end = clauses.first().map_or(tokens.end, |(at, _)| *at);
        return Err(words.unexpected(end, "FROM").help("name the input that the query reads: `FROM bids`"));
    };
    let (distinct, items) = items(words, tokens.start + 1..from_at)?;
    let (from, join) = super::from::from(words, from)?;
    let filter = clause("WHERE").map(|(_, tokens)| words.term(tokens, "a condition")).transpose()?;
    let group_by = match clause("GROUP") {
        Some((at, tokens)) => Some((group_by(words, tokens)?, words.bytes(at..at + 2))),
        None => None,
    };
    let having = match clause("HAVING") {
        Some((_, tokens)) => every(words.conditions(tokens).into_iter().map(|part| words.term(part, "a condition")))?,
        None => Vec::new(),
    };
    let order = clause("ORDER");
    let order_by = match &order {
        Some((_, tokens)) => every(words.parts(tokens.clone()).into_iter().map(|part| order_item(words, part)))?,
        None => Vec::new(),
    };
    let limit = match clause("LIMIT") {
        Some((at, tokens)) => Some(limit(words, at, tokens)?),
        None => None,
    };
    if let (Some((at, _)), None) = (&order, &limit) {
        let help = "add `LIMIT n` for the first rows; a sink that needs an order takes a column for it";
        return Err(words.refused("ORDER BY without LIMIT", *at..at + 2, help));
    }
    if let (None, Some((_, range))) = (&order, &limit) {
        return Err(ExprError::new(codes::QUERY_CLAUSE, "LIMIT without ORDER BY is not supported in a query")
            .at(range.clone())
            .help("say which rows are the first: `ORDER BY total DESC LIMIT 10`"));
    }
    let range = words.bytes(tokens);
    Ok(Select { range, distinct, items, from, join, filter, group_by, having, order_by, limit })
}

fn spelt(clause: &str) -> String {
    format!("{clause}{}", if matches!(clause, "GROUP" | "ORDER") { " BY" } else { "" })
}

/// A clause of other SQL, where one begins at `at`.
fn refused(words: &Words<'_>, at: usize, clauses: &[(usize, usize)]) -> Result<(), ExprError> {
    let Some((word, what, help)) = REFUSED.iter().find(|(word, ..)| words.is(at, word)) else { return Ok(()) };
    let by = !what.ends_with(" BY") || words.is(at + 1, "BY");
    let is_set = matches!(*word, "INTERSECT" | "EXCEPT" | "MINUS");
    let set = !is_set || words.any(at + 1, &["SELECT", "ALL", "DISTINCT"]) || words.sign(at + 1, &Token::LParen);
    // `SELECT price offset FROM` gives a name.
    let named = clauses.is_empty() && !matches!(*word, "INTO") && !is_set;
    // `* EXCEPT (a)` is told of as a part of the list.
    let of_star = is_set && clauses.is_empty();
    let for_time = *word != "FOR" || words.any(at + 1, &["SYSTEM_TIME", "UPDATE", "SHARE"]);
    match by && set && !named && !of_star && for_time {
        true => Err(words.refused(what, at..at + 1, help)),
        false => Ok(()),
    }
}

fn items(words: &Words<'_>, mut tokens: Range<usize>) -> Result<(Option<Range<usize>>, Vec<Item>), ExprError> {
    let mut distinct = None;
    if words.is(tokens.start, "DISTINCT") && tokens.len() > 1 {
        if words.is(tokens.start + 1, "ON") {
            let help = "the first row of each key is what `top` gives, with `limit: 1`, and, for rows that are near in time, \
                        `deduplicate`";
            return Err(words.refused("DISTINCT ON", tokens.start..tokens.start + 2, help));
        }
        distinct = Some(words.bytes(tokens.start..tokens.start + 1));
        tokens.start += 1;
    } else if words.is(tokens.start, "ALL") && tokens.len() > 1 {
        tokens.start += 1;
    }
    if words.is(tokens.start, "TOP") && matches!(words.token(tokens.start + 1), Some(Token::Number(..))) {
        return Err(words.refused("TOP", tokens.start..tokens.start + 1, "write `ORDER BY ... LIMIT n` at the end"));
    }
    let items = every(words.parts(tokens).into_iter().map(|part| item(words, part)))?;
    Ok((distinct, items))
}

fn item(words: &Words<'_>, tokens: Range<usize>) -> Result<Item, ExprError> {
    let table = match (words.word(tokens.start), words.sign(tokens.start + 1, &Token::Period)) {
        (Some(table), true) if words.sign(tokens.start + 2, &Token::Mul) && tokens.len() >= 3 => Some(table),
        _ => None,
    };
    let star = tokens.start + if table.is_some() { 2 } else { 0 };
    if words.sign(star, &Token::Mul) && star < tokens.end {
        if star + 1 < tokens.end {
            let help = "columns are taken out and put in others' places by a `map` behind: `drop: [a]`";
            let what = format!("`*` with {}", words.bare(star + 1).unwrap_or("more").to_uppercase());
            return Err(words.refused(&what, star..tokens.end, help));
        }
        return Ok(Item::All { table, range: words.bytes(tokens) });
    }
    let last = tokens.end.saturating_sub(1);
    let (term, alias) = if tokens.len() >= 3 && words.depth[last] == 0 && words.is(last - 1, "AS") {
        (tokens.start..last - 1, Some(words.word(last).ok_or_else(|| words.unexpected(last, "a name"))?))
    } else if words.names_item(&tokens) {
        (tokens.start..last, words.word(last))
    } else {
        (tokens, None)
    };
    Ok(Item::Column { term: words.term(term, "a column")?, alias })
}

fn group_by(words: &Words<'_>, tokens: Range<usize>) -> Result<Vec<Term>, ExprError> {
    let grouped = words.any(tokens.start, &["ALL", "ROLLUP", "CUBE"]) && {
        words.sign(tokens.start + 1, &Token::LParen) || tokens.len() == 1
    };
    if grouped || words.is(tokens.start, "GROUPING") && words.is(tokens.start + 1, "SETS") {
        let (word, more) =
            (words.bare(tokens.start).unwrap_or_default().to_uppercase(), words.is(tokens.start, "GROUPING"));
        let what = format!("GROUP BY {word}{}", if more { " SETS" } else { "" });
        let help = "name the columns; totals of several kinds are a step each, of `aggregate` or `window`";
        return Err(words.refused(&what, tokens.start..tokens.start + 1, help));
    }
    let term = |part: Range<usize>| {
        let called = words.sign(part.start + 1, &Token::LParen);
        if words.any(part.start, &["TUMBLE", "HOP", "SESSION"]) && called {
            let help = "windows stand in FROM: `FROM TUMBLE(bids, INTERVAL '1 minute') GROUP BY window_start`";
            return Err(words.refused("a window in GROUP BY", part.start..part.end, help));
        }
        let term = words.term(part, "a column")?;
        if term.number {
            return Err(ExprError::new(codes::QUERY_CLAUSE, "GROUP BY by the number of a column is not supported")
                .at(term.range)
                .help("name the column"));
        }
        if term.aggregates {
            return Err(ExprError::new(
                codes::QUERY_GROUP,
                "an aggregate is over the rows of a group, and can't make one",
            )
            .at(term.range)
            .help("group what comes out of this query, in a step of its own"));
        }
        Ok(term)
    };
    every(words.parts(tokens).into_iter().map(term))
}

fn order_item(words: &Words<'_>, tokens: Range<usize>) -> Result<Order, ExprError> {
    let mut end = tokens.end;
    let mut nulls_first = None;
    if end >= tokens.start + 3 && words.is(end - 2, "NULLS") && words.any(end - 1, &["FIRST", "LAST"]) {
        nulls_first = Some(words.is(end - 1, "FIRST"));
        end -= 2;
    }
    let mut descending = false;
    if end > tokens.start + 1 && words.any(end - 1, &["ASC", "DESC"]) {
        descending = words.is(end - 1, "DESC");
        end -= 1;
    }
    let term = words.term(tokens.start..end, "a column")?;
    if term.number {
        return Err(ExprError::new(codes::QUERY_CLAUSE, "ORDER BY by the number of a column is not supported")
            .at(term.range)
            .help("name the column"));
    }
    Ok(Order { term, descending, nulls_first })
}

fn limit(words: &Words<'_>, at: usize, tokens: Range<usize>) -> Result<(u64, Range<usize>), ExprError> {
    let number = match words.token(tokens.start) {
        Some(Token::Number(number, _)) if tokens.len() == 1 => number.parse().ok(),
        _ => None,
    };
    match number {
        Some(number) => Ok((number, words.bytes(at..tokens.end))),
        None => Err(ExprError::new(codes::QUERY_SYNTAX, "LIMIT takes a whole number")
            .at(words.bytes(tokens.start..tokens.end.max(tokens.start + 1)))
            .help("write `LIMIT 10`")),
    }
}
