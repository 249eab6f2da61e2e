//! The config of `aggregate` and its checks.

use crate::aggregates::null_of_rows;
use crate::check::{self, OneOrMany};
use arrow::datatypes::{DataType, Field, SchemaRef};
use engine_base::Diagnostic;
use engine_base::codes::rolling as codes;
use engine_expr::{AggregateFunction, Aggregation, Scope};
use engine_plan::kinds::{Caution, InputKeys};
use engine_plan::{Columns, Cx, OperatorKind, Output, Planned, PlannedOperator, StreamKind, StreamType, hidden};
use engine_spec::{Expression, TimeSpan};
use indexmap::IndexMap;
use schemars::JsonSchema;
use serde::Deserialize;
use std::sync::Arc;

/// Totals of each key over all rows so far, as a changelog: when they change, the row from before is taken back.
///
/// Where the key has the start or the end of a window that is put out once, all rows of a key come together: then its totals
/// come out once, and stay.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Config {
    /// The column, or columns, whose equal values belong together; all rows together where it is left out. Null is a value of
    /// its own.
    key: Option<OneOrMany>,
    /// New columns, each an aggregate: `count(*)`.
    columns: IndexMap<String, Expression>,
    /// How long after the last row of its key, in event time, totals are taken back and forgotten.
    expire_after: Option<TimeSpan>,
}

/// The planned form of `aggregate`.
#[derive(Debug)]
pub(super) struct AggregatePlan {
    pub(super) output: SchemaRef,
    pub(super) key: Vec<String>,
    pub(super) columns: Vec<(String, Aggregation)>,
    pub(super) expire_ns: Option<i64>,
    /// All rows of a key come in one epoch.
    pub(super) at_once: bool,
    /// Rows may be taken back.
    pub(super) changelog: bool,
}

impl Planned for AggregatePlan {
    fn reads(&self, wanted: &[Columns]) -> Vec<Columns> {
        let main = wanted.first().cloned().unwrap_or_default();
        let mut reads: Columns = self.key.iter().cloned().collect();
        if self.expire_ns.is_some() || self.at_once && main.contains(hidden::EVENT_TIME) {
            reads.insert(hidden::EVENT_TIME.to_owned());
        }
        reads.extend(wanted.iter().skip(1).flatten().cloned());
        for (_, aggregation) in self.columns.iter().filter(|(name, _)| main.contains(name)) {
            reads.extend(aggregation.columns().iter().cloned());
        }
        vec![reads]
    }

    fn facts(&self) -> Vec<(String, String)> {
        let mut facts = Vec::new();
        if !self.key.is_empty() {
            facts.push(("key".to_owned(), self.key.join(", ")));
        }
        facts.extend(self.expire_ns.map(|ns| ("expire after".to_owned(), TimeSpan(ns).to_string())));
        facts.extend(self.columns.iter().map(|(name, value)| (name.clone(), value.text().to_owned())));
        facts
    }

    fn endless(&self) -> Option<Caution> {
        let grows = self.expire_ns.is_none() && !self.at_once && !self.key.is_empty();
        grows.then(|| Caution {
            message: format!("totals are kept of each {} for ever", self.key.join(", ")),
            help: "where new keys keep coming, say when the totals of a silent one go: `expire_after: 30d`".to_owned(),
        })
    }
}

/// The kind `aggregate`.
pub(super) fn kind() -> &'static OperatorKind {
    static KIND: OperatorKind = OperatorKind {
        name: "aggregate",
        summary: "Totals of each key over all rows so far, as a changelog.",
        config_schema: |generator| generator.subschema_for::<Config>(),
        inputs: InputKeys::One,
        plan,
    };
    &KIND
}

fn plan(cx: &mut Cx<'_>, inputs: &[StreamType]) -> Option<PlannedOperator> {
    let config: Config = cx.config()?;
    let input = inputs.first()?;
    let before = cx.diagnostics.len();
    let key = config.key.as_ref().map(OneOrMany::names).unwrap_or_default();
    check::key(cx, &key, &input.schema);
    let scope = Scope::new(input.schema.clone());
    let mut fields: Vec<Arc<Field>> = Vec::new();
    for name in &key {
        if let Ok(field) = input.schema.field_with_name(name) {
            fields.push(Arc::new(field.clone()));
        }
    }
    let mut columns = Vec::new();
    for (name, value) in config.columns {
        if fields.iter().any(|field| *field.name() == name) {
            let span = check::key_span(cx, &["columns"], &name);
            cx.push(check::taken(span, &name).help("give the new column another name"));
        }
        let path = ["columns", name.as_str()];
        let planned = cx.expr.aggregate(&value.0, &scope);
        let Some(aggregation) = cx.noted(&path, planned) else {
            fields.push(Arc::new(Field::new(&name, DataType::Null, true)));
            continue;
        };
        if aggregation.calls.iter().any(|call| call.function == AggregateFunction::Lag) {
            let span = cx.span(&path);
            let message = "`lag` is the value of the row before, and totals have one row for many";
            cx.push(Diagnostic::error(codes::NO_ROW_BEFORE, span, message).help("use `rolling`, or `last(x)`"));
        }
        for scalar in aggregation.calls.iter().flat_map(|call| call.args.iter().chain(&call.filter)) {
            cx.lasts(&path, scalar, input);
        }
        let nullable = null_of_rows(&aggregation);
        fields.push(Arc::new(Field::new(&name, aggregation.data_type.clone(), nullable)));
        columns.push((name, aggregation));
    }
    let windows = input.event_time.as_ref().map(|time| time.windows.as_slice()).unwrap_or_default();
    let at_once = key.iter().any(|column| windows.contains(column));
    let expire_ns = config.expire_after.map(|span| span.ns());
    if expire_ns.is_some() {
        if at_once {
            let span = check::key_span(cx, &[], "expire_after");
            let message = "nothing is kept here that could expire";
            let help = "leave it out: the key has the bounds of a window, so that all its rows come at once";
            cx.push(Diagnostic::error(codes::EMPTY_WINDOW, span, message).help(help));
        }
        check::timed(cx, input);
        if expire_ns.is_some_and(|ns| ns <= 0) {
            cx.error(codes::EMPTY_WINDOW, &["expire_after"], "`expire_after` must be longer than nothing");
        }
    }
    let kind = if at_once { StreamKind::Append } else { StreamKind::Changelog { key: key.clone() } };
    let event_time = input.event_time.as_ref().filter(|_| at_once).map(|event_time| {
        let mut held = event_time.held(0);
        held.windows = windows.iter().filter(|column| key.contains(column)).cloned().collect();
        held
    });
    let stream = StreamType { kind, event_time, ..input.with_columns(fields) };
    let output = stream.schema.clone();
    let mut outputs = vec![Output { port: String::new(), stream }];
    if expire_ns.is_some() {
        outputs.push(Output { port: "late".to_owned(), stream: input.clone() });
    }
    if cx.diagnostics.len() > before {
        return Some(PlannedOperator::wrong(outputs));
    }
    let of = if key.is_empty() {
        "the totals of all rows".to_owned()
    } else {
        format!("the totals of each {}", key.join(", "))
    };
    let state = match expire_ns {
        Some(ns) => format!("{of}, {} after its last row at most", TimeSpan(ns)),
        None => of,
    };
    let changelog = input.kind.is_changelog();
    let planned = AggregatePlan { output, key: key.clone(), columns, expire_ns, at_once, changelog };
    Some(PlannedOperator {
        outputs,
        can_fail: true,
        exchange: Some(vec![key]),
        state: (!at_once).then_some(state),
        timed: expire_ns.is_some(),
        planned: Arc::new(planned),
    })
}
