//! What the kinds share while they are planned: expressions against a stream, names of columns, keys not built yet.

use engine_base::codes::{plan as codes, spec as spec_codes};
use engine_base::{Diagnostic, Span};
use engine_expr::{Scalar, Scope};
use engine_plan::{Cx, StreamType};
use engine_spec::Expression;

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

fn has_time(cx: &mut Cx<'_>, path: &[&str], scalar: &Scalar, input: &StreamType) -> bool {
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
