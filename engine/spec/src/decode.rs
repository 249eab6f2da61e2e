//! A node to a typed struct, with every problem and its place.
//!
//! Serde stops at the first error. So on an error we report it at its place, repair that place in a copy of the tree and
//! decode again: a wrong entry is taken out, a missing one becomes a blank that reads as any value. What comes out after
//! a repair is thrown away; its only use is that each problem is found, once.
//!
//! ```text
//! Node ──▶ T::deserialize ──ok──▶ T (if nothing was repaired)
//!   ▲            │ error, with the path to where it arose
//!   └── repair ◀─┘ report
//! ```
//!
//! For authors of config structs: use `#[serde(deny_unknown_fields)]`, the newtypes of [`crate::value`], and plain enums of
//! names (`rename_all = "snake_case"`) or of one key (`{ session: { gap: 5m } }`). Avoid `flatten` and `tag`, which lose
//! places, and give an `untagged` enum `#[serde(expecting = "...")]`.

mod blank;
mod de;
mod failure;

use engine_base::codes::spec as codes;
use engine_base::{Code, Diagnostic, Diagnostics, Span};
use serde::de::DeserializeOwned;

use crate::node::{Entry, Node, StandIn, Value};
use failure::{Failure, Kind, Step};

pub(crate) use blank::PLACEHOLDER;
pub(crate) use de::plain_scalar;
pub(crate) use failure::{found, list, refuse_secret};

/// How many problems of one node are reported.
const MAX_PROBLEMS: usize = 100;
/// How often a node is decoded again: each problem takes up to three repairs.
const MAX_ROUNDS: usize = 4 * MAX_PROBLEMS;

/// The typed struct that `node` is written for, with every problem.
///
/// `None` if there was an error, or if a placeholder (a variable or secret that is not to be had in a dry run) stands where
/// no value can be made up.
pub fn decode<T: DeserializeOwned>(node: &Node, diagnostics: &mut Diagnostics) -> Option<T> {
    let mut failure = match de::read::<T>(node) {
        // A blank that the parser left stands for something wrong that it reported.
        Ok(value) => return (!has_blank(node)).then_some(value),
        Err(failure) => failure,
    };
    let mut tree = node.clone();
    let mut problems = 0;
    if matches!(failure.kind, Kind::Silent) && !has_blank(node) {
        // Nothing is wrong, yet nothing can be made of it either: better said than skipped.
        let span = Context::of(&tree, &failure).span;
        let message = "this can't be checked without the variable or secret that it comes from";
        diagnostics.push(
            Diagnostic::warning(codes::MISSING_ENV, span, message)
                .help("set it, or write a default: `${env:NAME:-value}`"),
        );
    }
    for _ in 0..MAX_ROUNDS {
        let owner = tree_at(&mut tree, failure.path());
        let known = match (&failure.kind, owner) {
            (Kind::Silent, _) => true,
            (Kind::Missing(key), Some(owner)) => owner.written.dropped.iter().any(|dropped| dropped == key),
            _ => false,
        };
        if !known {
            let context = Context::of(&tree, &failure);
            diagnostics.push(failure::explain(&failure, &context));
            problems += 1;
        }
        if problems >= MAX_PROBLEMS || !repair(&mut tree, &failure) {
            return None;
        }
        failure = match de::read::<T>(&tree) {
            Ok(_) => return None,
            Err(failure) => failure,
        };
    }
    None
}

/// The text of a serde error that carries a code, a sentence and a remedy through `Error::custom`.
pub fn coded(code: Code, message: &str, help: &str) -> String {
    format!("\u{1}{code}\u{1}{message}\u{1}{help}")
}

/// What is around the place of a failure.
struct Context {
    /// The key that holds the value, if it is the value of one.
    key: Option<String>,
    /// The node at the place; for a wrong key its value.
    node: Option<Node>,
    span: Span,
}

impl Context {
    fn of(tree: &Node, failure: &Failure) -> Context {
        let path = failure.path();
        let mut node = tree;
        let mut key = None;
        let mut span = None;
        for step in &path {
            match (&node.value, step) {
                (Value::Map(entries), Step::Entry(at)) if *at < entries.len() => {
                    let entry = &entries[*at];
                    key = Some(entry.key.clone());
                    span = Some(if failure.on_key { entry.key_span } else { entry.value.span });
                    node = &entry.value;
                }
                (Value::List(items), Step::Item(at)) if *at < items.len() => {
                    node = &items[*at];
                    key = None;
                    span = Some(node.span);
                }
                _ => break,
            }
        }
        let span = match failure.kind {
            Kind::Missing(_) => node.head(),
            _ => span.unwrap_or_else(|| node.head()),
        };
        Context { key, node: Some(node.clone()), span }
    }
}

fn tree_at(tree: &mut Node, path: Vec<Step>) -> Option<&mut Node> {
    path.iter().try_fold(tree, |node, step| match (&mut node.value, step) {
        (Value::Map(entries), Step::Entry(at)) => entries.get_mut(*at).map(|entry| &mut entry.value),
        (Value::List(items), Step::Item(at)) => items.get_mut(*at),
        _ => None,
    })
}

/// Changes the tree so that the failure does not arise again. False if nothing is left to change.
fn repair(tree: &mut Node, failure: &Failure) -> bool {
    let path = failure.path();
    if let Kind::Missing(key) = &failure.kind {
        let Some(owner) = tree_at(tree, path.clone()) else { return false };
        let span = owner.head();
        let Value::Map(entries) = &mut owner.value else { return blank_out(tree, &path) };
        if entries.iter().any(|entry| entry.key == *key) {
            return blank_out(tree, &path);
        }
        let mut value = Node::new(span, Value::Null);
        value.written.stand_in = Some(StandIn::Blank);
        entries.push(Entry { key: key.clone(), key_span: span, value });
        return true;
    }
    let Some((last, parent_path)) = path.split_last() else { return false };
    // A blank that will not do: its owner becomes a blank.
    let was_blank = tree_at(tree, path.clone()).is_some_and(|node| node.written.stand_in.is_some());
    if was_blank {
        return blank_out(tree, parent_path);
    }
    let Some(parent) = tree_at(tree, parent_path.to_vec()) else { return false };
    match (&mut parent.value, last) {
        (Value::Map(entries), Step::Entry(at)) if *at < entries.len() => {
            let entry = entries.remove(*at);
            if let Kind::UnknownField { field, expected } = &failure.kind
                && let Some(meant) = engine_base::suggest::nearest(field, expected.iter().copied())
            {
                parent.written.dropped.push(meant.to_owned());
            }
            parent.written.dropped.push(entry.key);
            true
        }
        (Value::List(_), Step::Item(_)) => blank_out(tree, &path),
        _ => false,
    }
}

/// Whether something in `node` was wrong, which was reported.
fn has_blank(node: &Node) -> bool {
    let below = match &node.value {
        Value::List(items) => items.iter().any(has_blank),
        Value::Map(entries) => entries.iter().any(|entry| has_blank(&entry.value)),
        _ => false,
    };
    below || node.written.stand_in == Some(StandIn::Blank)
}

fn blank_out(tree: &mut Node, path: &[Step]) -> bool {
    let is_root = path.is_empty();
    match tree_at(tree, path.to_vec()) {
        Some(node) if node.written.stand_in != Some(StandIn::Blank) => {
            node.written.stand_in = Some(StandIn::Blank);
            node.value = Value::Null;
            !is_root
        }
        _ if is_root => false,
        _ => blank_out(tree, &path[..path.len() - 1]),
    }
}

#[cfg(test)]
mod tests;
