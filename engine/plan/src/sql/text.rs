//! Texts and nodes of the steps of a query.

use engine_base::Span;
use engine_expr::query::{Name, Term};
use engine_spec::{Entry, Node, Piece, Value};
use std::ops::Range;

pub(super) fn entry(key: &str, span: Span, value: Node) -> Entry {
    Entry { key: key.to_owned(), key_span: span, value }
}

pub(super) fn string(span: Span, text: impl Into<String>) -> Node {
    Node::new(span, Value::String(text.into()))
}

pub(super) fn map(span: Span, entries: Vec<Entry>) -> Node {
    Node::new(span, Value::Map(entries)).below(span)
}

pub(super) fn list(span: Span, items: Vec<Node>) -> Node {
    Node::new(span, Value::List(items))
}

/// A name as an expression has it.
pub(super) fn quoted(name: &str) -> String {
    let plain = name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
        && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
    if plain { name.to_owned() } else { format!("\"{}\"", name.replace('"', "\"\"")) }
}

/// An expression with other names for some of its columns: `rename` gives the bytes that go, and what comes for them.
pub(super) fn renamed(term: &Term, rename: impl Fn(&Name) -> Option<(Range<usize>, String)>) -> Vec<Piece> {
    let mut pieces = Vec::new();
    let mut at = term.range.start;
    for (range, text) in term.names.iter().filter_map(rename) {
        if range.start < at {
            continue;
        }
        if at < range.start {
            pieces.push(Piece::Of(at..range.start));
        }
        if !text.is_empty() {
            pieces.push(Piece::Instead(range.clone(), text));
        }
        at = range.end;
    }
    if at < term.range.end {
        pieces.push(Piece::Of(at..term.range.end));
    }
    pieces
}

/// Conditions all of which hold, as one.
pub(super) fn all(conditions: Vec<Vec<Piece>>) -> Vec<Piece> {
    if conditions.len() == 1 {
        return conditions.into_iter().flatten().collect();
    }
    let mut pieces: Vec<Piece> = Vec::new();
    for condition in conditions {
        let place = |piece: Option<&Piece>| match piece {
            Some(Piece::Of(range) | Piece::Instead(range, _)) => range.clone(),
            None => 0..0,
        };
        let start = place(condition.first()).start;
        let end = place(condition.last()).end;
        let before = if pieces.is_empty() { "(" } else { " AND (" };
        pieces.push(Piece::Instead(start..start + 1, before.to_owned()));
        pieces.extend(condition);
        pieces.push(Piece::Instead(end.saturating_sub(1)..end, ")".to_owned()));
    }
    pieces
}
