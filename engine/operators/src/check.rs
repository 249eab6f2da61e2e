//! What the kinds share while they are planned: expressions against a stream, names of columns, keys not built yet.

use arrow::datatypes::{DataType, SchemaRef};
use engine_base::codes::{plan as codes, spec as spec_codes};
use engine_base::{Diagnostic, Span};
use engine_expr::{Aggregation, Scalar, Scope};
use engine_plan::{Cx, StreamType};
use engine_spec::Expression;
use schemars::JsonSchema;
use serde::Deserialize;

/// Plans the expression at `path` over the columns of `input`.
pub(crate) fn scalar(cx: &mut Cx<'_>, path: &[&str], text: &Expression, input: &StreamType) -> Option<Scalar> {
    let scalar = cx.scalar(path, text, &Scope::new(input.schema.clone()))?;
    has_time(cx, path, &scalar, input).then_some(scalar)
}

/// The same for an expression that must be boolean.
pub(crate) fn predicate(cx: &mut Cx<'_>, path: &[&str], text: &Expression, input: &StreamType) -> Option<Scalar> {
    let scalar = cx.predicate(path, text, &Scope::new(input.schema.clone()))?;
    has_time(cx, path, &scalar, input).then_some(scalar)
}

/// Whether an expression that reads the event time finds one; where not, that is noted.
pub(crate) fn has_time(cx: &mut Cx<'_>, path: &[&str], scalar: &Scalar, input: &StreamType) -> bool {
    if !cx.lasts(path, scalar, input) {
        return false;
    }
    if !scalar.reads_event_time() || input.event_time.is_some() {
        return true;
    }
    let span = cx.span(path);
    cx.push(
        Diagnostic::error(codes::NO_EVENT_TIME, span, "`event_time()` needs event time, which these rows don't have")
            .help("declare it at the source: `event_time: { column: at, max_delay: 5s }`"),
    );
    false
}

/// Whether the rows have event time; where not, that is noted of the kind that needs it.
pub(crate) fn timed(cx: &mut Cx<'_>, input: &StreamType) -> bool {
    if input.event_time.is_some() {
        return true;
    }
    if input.kind.is_changelog() {
        // Refused as such.
        cx.follows(&[]);
        return false;
    }
    let message = format!("`{}` needs event time, which these rows don't have", cx.component.kind);
    cx.push(
        Diagnostic::error(codes::NO_EVENT_TIME, cx.component.kind_span, message)
            .help("say when each row happened, at the source: `event_time: { column: at, max_delay: 5s }`"),
    );
    false
}

/// Refuses an order inside of aggregates, for a kind that takes rows in its own. `instead` says in which.
pub(crate) fn unordered(cx: &mut Cx<'_>, path: &[&str], aggregation: &Aggregation, instead: &str) -> bool {
    if aggregation.calls.iter().all(|call| call.order_by.is_empty()) {
        return true;
    }
    let message = format!("`ORDER BY` inside an aggregate of `{}` is not built yet", cx.component.kind);
    let span = cx.span(path);
    cx.push(Diagnostic::error(spec_codes::NOT_BUILT, span, message).help(instead));
    false
}

/// Names in a sentence: `a`, `b` and 3 more.
pub(crate) fn listed<'a>(names: impl IntoIterator<Item = &'a str>) -> String {
    const SHOWN_MAX: usize = 12;
    let names: Vec<&str> = names.into_iter().collect();
    let shown: Vec<String> = names.iter().take(SHOWN_MAX).map(|name| format!("`{name}`")).collect();
    match names.len().saturating_sub(SHOWN_MAX) {
        0 => shown.join(", "),
        more => format!("{} and {more} more", shown.join(", ")),
    }
}

/// A new column whose name is taken; the caret goes to `span`.
pub(crate) fn taken(span: Span, name: &str) -> Diagnostic {
    Diagnostic::error(codes::COLUMN_TAKEN, span, format!("there is a column `{name}` already"))
}

/// The place of a key of a map at `path`: of the key itself, not of its value.
pub(crate) fn key_span(cx: &Cx<'_>, path: &[&str], key: &str) -> Span {
    cx.component.node.at(path).and_then(|node| node.entry(key)).map_or_else(|| cx.span(path), |entry| entry.key_span)
}

/// Refuses a key that the language has and this version does not, if it is there.
pub(crate) fn not_built(cx: &mut Cx<'_>, path: &[&str], key: &str, why: &str) {
    if cx.component.node.at(path).is_some_and(|node| node.get(key).is_some()) {
        let span = key_span(cx, path, key);
        cx.push(Diagnostic::error(spec_codes::NOT_BUILT, span, format!("`{key}` is not built yet")).help(why));
    }
}

/// One name or a list of them.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(untagged)]
pub(crate) enum OneOrMany {
    /// One column.
    One(String),
    /// Several columns.
    Many(Vec<String>),
}

impl OneOrMany {
    /// The names.
    pub(crate) fn names(&self) -> Vec<String> {
        match self {
            OneOrMany::One(name) => vec![name.clone()],
            OneOrMany::Many(names) => names.clone(),
        }
    }
}

/// Checks the columns of a `key:`. False with a problem noted.
pub(crate) fn key(cx: &mut Cx<'_>, key: &[String], schema: &SchemaRef) -> bool {
    let mut sound = true;
    for (at, name) in key.iter().enumerate() {
        let place = at.to_string();
        let listed = ["key", place.as_str()];
        let path: &[&str] = if cx.component.node.at(&listed).is_some() { &listed } else { &["key"] };
        let span = cx.span(path);
        if key[..at].contains(name) {
            cx.push(
                Diagnostic::error(codes::COLUMN_TAKEN, span, format!("`{name}` is named twice"))
                    .help("name each column once"),
            );
            sound = false;
            continue;
        }
        match schema.field_with_name(name) {
            Ok(field) if !can_be_key(field.data_type()) => {
                let ty = engine_expr::type_name(field.data_type());
                let message = format!("`{name}` is of type {ty}, which can't be a key");
                cx.push(
                    Diagnostic::error(codes::UNHASHABLE_KEY, span, message)
                        .help("cast it to an integer, a decimal or a string with a `map` before"),
                );
                sound = false;
            }
            Ok(_) => {}
            Err(_) => {
                cx.column(path, name, schema);
                sound = false;
            }
        }
    }
    sound
}

/// Whether equal values of a type have equal bytes, so that rows can be brought together by them.
pub(crate) fn can_be_key(data_type: &DataType) -> bool {
    !(data_type.is_floating() || data_type.is_nested())
}
