//! The steps that keys of sources and sinks imply: `where:`, `columns:`, `set:` and `event_time:`.

use super::{Incoming, NewStep, Planner};
use crate::common::EventTimeKeys;
use crate::event_time::EventTimePlan;
use crate::kinds::{Cx, EventTime, Output, Planned, StreamType, Unplanned};
use crate::plan::{Edge, Role};
use crate::rowwise::{FilterPlan, MapPlan};
use crate::types;
use arrow::datatypes::{DataType, Field, Schema};
use engine_base::codes::{plan as codes, spec as spec_codes};
use engine_base::{Diagnostic, Diagnostics, SourceId};
use engine_expr::{Scalar, Scope};
use engine_spec::{Assignments, Component, Expression, Node, Value};
use std::collections::BTreeSet;
use std::sync::Arc;

/// How long a partition is silent before it is left out, where `idle_after` is not said, nanoseconds.
const IDLE_AFTER_NS: i64 = 30_000_000_000;

impl Planner<'_> {
    /// The rows for which the expression at `path` is true. Where it is wrong, that is noted, and the rows are given as
    /// they came with no column null, so that no false problem follows.
    pub(super) fn imply_filter(
        &mut self,
        component: &Component,
        name: String,
        path: &[&str],
        expression: &Expression,
        input: &Incoming,
    ) -> Incoming {
        let scope = Scope::new(input.stream.schema.clone());
        let predicate = self.with_cx(component, |cx| cx.predicate(path, expression, &scope));
        let Some(predicate) = predicate else {
            self.failed.insert(component.name.clone());
            return Incoming { edge: input.edge, stream: input.stream.never_null() };
        };
        self.check_event_time(component, path, &predicate, &input.stream);
        let schema = types::narrow(&input.stream.schema, &predicate.non_null_when_true());
        let stream = input.stream.with_schema(schema);
        self.imply(component, name, "filter", input, stream, true, Arc::new(FilterPlan { predicate }))
    }

    /// `set:` of a source: columns that are added, or replace those of the same name. Each sees the columns as they came.
    pub(super) fn imply_set(&mut self, component: &Component, set: &Assignments, input: &Incoming) -> Incoming {
        let mut columns = Vec::new();
        for field in input.stream.schema.fields() {
            if !set.contains_key(field.name()) {
                columns.push((field.as_ref().clone(), self.column(field.name(), &input.stream)));
            }
        }
        let order: Vec<String> = input.stream.schema.fields().iter().map(|field| field.name().clone()).collect();
        for (name, expression) in set {
            columns.push(self.assignment(component, &["set", name], name, expression, &input.stream));
        }
        // A replaced column keeps its place.
        columns.sort_by_key(|(field, _)| order.iter().position(|name| name == field.name()).unwrap_or(order.len()));
        self.imply_map(component, format!("{}.set", component.name), columns, input)
    }

    /// `columns:` of a sink: a list of columns, or a map of new column to expression.
    pub(super) fn sink_columns(
        &mut self,
        component: &Component,
        keys: &Node,
        input: &Incoming,
    ) -> Option<Vec<(Field, Option<Scalar>)>> {
        let mut columns = Vec::new();
        let mut sound = true;
        match &keys.value {
            Value::List(items) => {
                let mut seen = BTreeSet::new();
                for (at, item) in items.iter().enumerate() {
                    let at = at.to_string();
                    let Some(name) = item.decode::<String>(&mut self.found) else {
                        sound = false;
                        continue;
                    };
                    let schema = &input.stream.schema;
                    let known = match schema.field_with_name(&name) {
                        Ok(field) => Some(field.clone()),
                        Err(_) => self.with_cx(component, |cx| cx.column(&["columns", &at], &name, schema).cloned()),
                    };
                    if !seen.insert(name.clone()) {
                        self.found.push(
                            Diagnostic::error(codes::COLUMN_TAKEN, item.span, format!("`{name}` is named twice"))
                                .help("name each column once"),
                        );
                        sound = false;
                    }
                    match known {
                        Some(field) => columns.push((field, self.column(&name, &input.stream))),
                        None => columns.push((Field::new(&name, DataType::Null, true), None)),
                    }
                }
            }
            _ => {
                let assignments: Option<Assignments> = keys.decode(&mut self.found);
                sound &= assignments.is_some();
                for (name, expression) in assignments.iter().flatten() {
                    columns.push(self.assignment(component, &["columns", name], name, expression, &input.stream));
                }
            }
        }
        if sound && columns.is_empty() {
            self.found.push(
                Diagnostic::error(spec_codes::BAD_VALUE, keys.span, "`columns` names no column")
                    .help("name at least one, or leave the key out for all"),
            );
            sound = false;
        }
        sound.then_some(columns)
    }

    /// The columns of an input that are not among `columns`, as they are.
    pub(super) fn columns_beside(&mut self, columns: &Schema, input: &Incoming) -> Vec<(Field, Option<Scalar>)> {
        let schema = input.stream.schema.clone();
        let others = schema.fields().iter().filter(|field| columns.field_with_name(field.name()).is_err());
        others.map(|field| (field.as_ref().clone(), self.column(field.name(), &input.stream))).collect()
    }

    /// `event_time:` of a source. Where it is wrong, that is noted, and the step that fails is left out.
    pub(super) fn imply_event_time(
        &mut self,
        component: &Component,
        source: SourceId,
        keys: &EventTimeKeys,
        input: &Incoming,
    ) -> Incoming {
        let max_delay_ns = keys.max_delay.map_or(0, |max_delay| max_delay.ns());
        let event_time = EventTime {
            max_delay_ns,
            column: keys.column.clone(),
            follows: [(source, 0)].into(),
            ..EventTime::default()
        };
        let stream = StreamType { event_time: Some(event_time), ..input.stream.clone() };
        let planned = self.event_time(component, keys, input);
        let Some((value, unit_ns)) = planned else {
            // The rows are taken to have event time, so that nothing behind is blamed for its absence.
            self.failed.insert(component.name.clone());
            return self.stand_in(component, format!("{}.event_time", component.name), input, stream);
        };
        let idle_after_ns = keys.idle_after.map_or(IDLE_AFTER_NS, |idle_after| idle_after.ns());
        let planned = EventTimePlan { value, unit_ns, max_delay_ns, idle_after_ns };
        let can_fail = planned.can_fail();
        let name = format!("{}.event_time", component.name);
        self.imply(component, name, "event_time", input, stream, can_fail, Arc::new(planned))
    }

    /// The value of `event_time:` and its unit.
    fn event_time(&mut self, component: &Component, keys: &EventTimeKeys, input: &Incoming) -> Option<(Scalar, i64)> {
        let span = component.node.span_at(&["event_time"]);
        let (value, path) = match (&keys.column, &keys.value) {
            (Some(column), None) => {
                let path = ["event_time", "column"];
                self.with_cx(component, |cx| cx.column(&path, column, &input.stream.schema).map(|_| ()))?;
                (self.column(column, &input.stream)?, path)
            }
            (None, Some(expression)) => {
                let path = ["event_time", "value"];
                let scope = Scope::new(input.stream.schema.clone());
                (self.with_cx(component, |cx| cx.scalar(&path, expression, &scope))?, path)
            }
            (column, _) => {
                let message = match column {
                    Some(_) => "`event_time` has both `column` and `value`",
                    None => "`event_time` has neither `column` nor `value`",
                };
                self.found.push(
                    Diagnostic::error(codes::EVENT_TIME_SOURCE, span, message)
                        .help("write `column:` with the column that tells it, or `value:` with an expression"),
                );
                return None;
            }
        };
        let span = component.node.span_at(&path);
        let shown = types::type_text(value.data_type());
        match (EventTimePlan::own_unit_ns(value.data_type()), keys.unit) {
            (Err(()), _) => {
                self.found.push(
                    Diagnostic::error(
                        codes::EVENT_TIME_TYPE,
                        span,
                        format!("the event time is {shown}: it takes a timestamp, a date, or an integer with its `unit`"),
                    )
                    .help("make it a `timestamp` in the schema, or write `value:` with an expression such as `to_timestamp(at)`"),
                );
                None
            }
            (Ok(Some(_)), Some(_)) => {
                self.found.push(
                    Diagnostic::error(
                        codes::EVENT_TIME_UNIT,
                        component.node.span_at(&["event_time", "unit"]),
                        format!("a {shown} has its own unit"),
                    )
                    .help("leave `unit` out"),
                );
                None
            }
            (Ok(None), None) => {
                self.found.push(
                    Diagnostic::error(
                        codes::EVENT_TIME_UNIT,
                        span,
                        format!("the event time is {shown}, so it needs a unit"),
                    )
                    .help("say what it counts since 1970: `unit: s`, `ms`, `us` or `ns`"),
                );
                None
            }
            (Ok(Some(unit_ns)), None) => Some((value, unit_ns)),
            (Ok(None), Some(unit)) => Some((value, unit.ns())),
        }
    }

    /// A column and the scalar that makes it; where that is wrong, which is noted, a column of no known type.
    fn assignment(
        &mut self,
        component: &Component,
        path: &[&str],
        name: &str,
        expression: &Expression,
        input: &StreamType,
    ) -> (Field, Option<Scalar>) {
        let scope = Scope::new(input.schema.clone());
        let Some(value) = self.with_cx(component, |cx| cx.scalar(path, expression, &scope)) else {
            return (Field::new(name, DataType::Null, true), None);
        };
        self.check_event_time(component, path, &value, input);
        let field = match value.as_column().and_then(|column| input.schema.field_with_name(column).ok()) {
            Some(field) => field.clone().with_name(name),
            None => Field::new(name, value.data_type().clone(), value.nullable()),
        };
        (field, Some(value))
    }

    pub(super) fn imply_map(
        &mut self,
        component: &Component,
        name: String,
        columns: Vec<(Field, Option<Scalar>)>,
        input: &Incoming,
    ) -> Incoming {
        let fields: Vec<Field> = columns.iter().map(|(field, _)| field.clone()).collect();
        let same = |name: &str, value: &Option<Scalar>| value.as_ref().and_then(Scalar::as_column) == Some(name);
        let now = |column: &str| {
            let found = columns.iter().find(|(_, value)| same(column, value));
            found.map(|(field, _)| field.name().clone())
        };
        let mut stream = input.stream.with_columns(fields).renamed(now);
        let sound = self.check_columns(component, &mut stream);
        let values = columns.into_iter().map(|(field, value)| Some((field.name().clone(), value?)));
        let Some(columns) = values.collect::<Option<Vec<(String, Scalar)>>>().filter(|_| sound) else {
            self.failed.insert(component.name.clone());
            return self.stand_in(component, name, input, stream);
        };
        let can_fail = columns.iter().any(|(_, value)| value.as_column().is_none());
        self.imply(component, name, "map", input, stream, can_fail, Arc::new(MapPlan { columns }))
    }

    /// Stands in for a step that could not be planned, so that those behind it can be checked.
    pub(super) fn stand_in(
        &mut self,
        component: &Component,
        name: String,
        input: &Incoming,
        stream: StreamType,
    ) -> Incoming {
        self.imply(component, name, "map", input, stream, true, Arc::new(Unplanned))
    }

    #[allow(clippy::too_many_arguments)]
    fn imply(
        &mut self,
        component: &Component,
        name: String,
        kind: &'static str,
        input: &Incoming,
        stream: StreamType,
        can_fail: bool,
        planned: Arc<dyn Planned>,
    ) -> Incoming {
        let id = self.add(NewStep {
            name,
            kind,
            implied: true,
            role: Role::Operator,
            inputs: vec![input.edge],
            outputs: vec![Output { port: String::new(), stream: stream.clone() }],
            can_fail,
            planned,
            span: component.name_span,
        });
        Incoming { edge: Edge { from: id, port: 0 }, stream }
    }

    /// The scalar that is a column and nothing else; `None` where its type is not known.
    fn column(&mut self, name: &str, input: &StreamType) -> Option<Scalar> {
        let quoted = format!("\"{}\"", name.replace('"', "\"\""));
        self.expr.scalar(&quoted, &Scope::new(input.schema.clone())).ok()
    }

    fn check_event_time(&mut self, component: &Component, path: &[&str], value: &Scalar, input: &StreamType) {
        self.with_cx(component, |cx| cx.lasts(path, value, input));
        if value.reads_event_time() {
            let span = component.node.span_at(path);
            self.check_timed(span, "`event_time()`", [input]);
        }
    }

    fn with_cx<T>(&mut self, component: &Component, run: impl FnOnce(&mut Cx<'_>) -> T) -> T {
        let mut found = Diagnostics::new();
        let result = run(&mut self.cx(component, component.node.clone(), &mut found));
        self.take(found, true);
        result
    }
}
