//! The config of `stateful` and its checks.

use crate::check::{self, OneOrMany};
use crate::literal::literal;
use crate::map::field_of;
use arrow::array::{ArrayRef, new_null_array};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit};
use engine_base::Diagnostic;
use engine_base::codes::{fold as codes, operator as operator_codes, plan as plan_codes, rolling as rolling_codes};
use engine_expr::{Scalar, Scope, type_name};
use engine_plan::types::{column_text, field};
use engine_plan::{
    Columns, Cx, EventTime, OperatorKind, Output, Planned, PlannedOperator, StreamType, hidden, kinds::InputKeys,
};
use engine_spec::{Assignments, Expression, FieldSpec, Node, TimeSpan};
use indexmap::IndexMap;
use schemars::JsonSchema;
use serde::Deserialize;
use std::sync::Arc;

/// Keeps a record for each key, which each of its rows takes further; puts out rows when it likes to, and when a timer fires.
///
/// A row puts out its key and the columns of `emit`, a timer its key and the columns of its own `emit`. A row whose update fails
/// goes to `NAME.errors` and leaves the record as it was.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Config {
    /// The column, or columns, whose equal values share a record. Null is a value of its own.
    key: OneOrMany,
    /// The columns of the record: `total: { type: "decimal(18, 2)", init: 0 }`.
    state: IndexMap<String, StateColumn>,
    /// What a row makes of each column of the record, over the row's columns and the record before, `this.x`. A column without an
    /// update stays as it is.
    update: Assignments,
    /// What a row puts out, with the record after it; nothing where this is left out.
    emit: Option<Emit>,
    /// A time of the record at which something is to happen.
    timer: Option<Timer>,
    /// How long after the last row of a key, in event time, its record goes.
    expire_after: Option<TimeSpan>,
}

/// A column of the record.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct StateColumn {
    /// Its type.
    #[serde(rename = "type")]
    ty: FieldSpec,
    /// Its value before the first row of a key; null unless said.
    init: Option<Node>,
}

/// What a row puts out.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Emit {
    /// The rows that put something out; all unless said.
    when: Option<Expression>,
    /// The columns beside the key, over the row's columns and the record after it, `this.x`.
    columns: Assignments,
}

/// A time of the record at which something is to happen.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Timer {
    /// The time, over the record alone: a timestamp, or null for none. The timer fires when the watermark reaches it, once, until
    /// it is another.
    at: Expression,
    /// What the timer puts out when it fires.
    emit: Option<TimerEmit>,
    /// Forgets the record when the timer fires.
    #[serde(default)]
    clear: bool,
}

/// What a timer puts out.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct TimerEmit {
    /// The columns beside the key, over the record, `this.x`.
    columns: Assignments,
}

/// The planned form of `stateful`.
#[derive(Debug)]
pub struct StatefulPlan {
    pub(super) input: SchemaRef,
    pub(super) output: SchemaRef,
    pub(super) key: Vec<String>,
    pub(super) state: Vec<Column>,
    pub(super) emit: Option<EmitPlan>,
    pub(super) timer: Option<TimerPlan>,
    pub(super) expire_after_ns: Option<i64>,
}

/// A column of the record.
#[derive(Debug)]
pub(super) struct Column {
    pub(super) field: Field,
    /// One row.
    pub(super) init: ArrayRef,
    /// Of the column's type.
    pub(super) update: Option<Scalar>,
}

/// What rows put out.
#[derive(Debug)]
pub(super) struct EmitPlan {
    pub(super) when: Option<Scalar>,
    pub(super) columns: Vec<(String, Scalar)>,
}

/// When a timer fires, and what it does.
#[derive(Debug)]
pub(super) struct TimerPlan {
    /// Nanoseconds since 1970 UTC as a timestamp, or null.
    pub(super) at: Scalar,
    pub(super) emit: Option<Vec<(String, Scalar)>>,
    pub(super) clear: bool,
}

/// The name by which a program reads a column of the record.
pub(super) fn of_this(name: &str) -> String {
    format!("this.{name}")
}

impl StatefulPlan {
    /// Whether it needs to know how late it is.
    fn timed(&self) -> bool {
        self.timer.is_some() || self.expire_after_ns.is_some()
    }
}

impl Planned for StatefulPlan {
    fn reads(&self, wanted: &[Columns]) -> Vec<Columns> {
        let main = wanted.first().cloned().unwrap_or_default();
        let mut reads: Columns = self.key.iter().cloned().collect();
        let mut event_time = self.timed() || main.contains(hidden::EVENT_TIME);
        let updates = self.state.iter().filter_map(|column| column.update.as_ref());
        let emit = self.emit.iter();
        let columns = emit.clone().flat_map(|emit| &emit.columns).filter(|(name, _)| main.contains(name));
        for scalar in updates.chain(emit.filter_map(|emit| emit.when.as_ref())).chain(columns.map(|(_, value)| value)) {
            event_time |= scalar.reads_event_time();
            let of_row = |name: &&String| self.input.column_with_name(name).is_some();
            reads.extend(scalar.columns().iter().filter(of_row).cloned());
        }
        if event_time {
            reads.insert(hidden::EVENT_TIME.to_owned());
        }
        vec![reads]
    }

    fn facts(&self) -> Vec<(String, String)> {
        let mut facts = vec![("key".to_owned(), self.key.join(", "))];
        let state: Vec<String> = self
            .state
            .iter()
            .map(|column| format!("{}: {}", column.field.name(), column_text(&column.field)))
            .collect();
        facts.push(("state".to_owned(), state.join(", ")));
        let mut text = |name: &str, text: &str| facts.push((name.to_owned(), text.to_owned()));
        for column in &self.state {
            if let Some(update) = &column.update {
                text(&of_this(column.field.name()), update.text());
            }
        }
        if let Some(emit) = &self.emit {
            emit.when.iter().for_each(|when| text("when", when.text()));
            emit.columns.iter().for_each(|(name, value)| text(name, value.text()));
        }
        if let Some(timer) = &self.timer {
            text("timer", timer.at.text());
            timer.emit.iter().flatten().for_each(|(name, value)| text(&format!("timer {name}"), value.text()));
            if timer.clear {
                text("clears", "the record, by the timer");
            }
        }
        if let Some(expire_after_ns) = self.expire_after_ns {
            text("expires", &format!("{} after the last row", TimeSpan(expire_after_ns)));
        }
        facts
    }
}

/// The kind `stateful`.
pub fn kind() -> &'static OperatorKind {
    static KIND: OperatorKind = OperatorKind {
        name: "stateful",
        summary: "A fold: a record for each key, which each row takes further, with a timer and an end",
        config_schema: |generator| generator.subschema_for::<Config>(),
        inputs: InputKeys::One,
        plan,
    };
    &KIND
}

fn plan(cx: &mut Cx<'_>, inputs: &[StreamType]) -> Option<PlannedOperator> {
    let config: Config = cx.config()?;
    let input = inputs.first()?;
    let key = config.key.names();
    check::key(cx, &key, &input.schema);
    if config.timer.is_some() || config.expire_after.is_some() {
        check::timed(cx, input);
    }
    if let Some(span) = config.expire_after
        && span.ns() <= 0
    {
        cx.error(rolling_codes::EMPTY_WINDOW, &["expire_after"], "`expire_after` must be longer than nothing");
    }
    does_something(cx, &config);
    let mut state = state(cx, &config.state, input);
    let scope = Scope::new(input.schema.clone()).with("this", this(&state));
    updates(cx, &config.update, &scope, input, &mut state);
    // What an expression may read, by the names that programs know.
    let beside = state.iter().map(|column| Arc::new(column.field.clone().with_name(of_this(column.field.name()))));
    let known: SchemaRef =
        Arc::new(Schema::new(input.schema.fields().iter().cloned().chain(beside).collect::<Vec<_>>()));
    let mut fields: Vec<Field> =
        key.iter().filter_map(|name| input.schema.field_with_name(name).ok().cloned()).collect();
    let keys = fields.len();
    let emit = config.emit.as_ref().map(|emit| {
        let when = emit.when.as_ref().and_then(|when| {
            let path = ["emit", "when"];
            let planned = cx.predicate(&path, when, &scope)?;
            check::has_time(cx, &path, &planned, input).then_some(planned)
        });
        EmitPlan { when, columns: columns(cx, &["emit", "columns"], &emit.columns, &scope, input) }
    });
    let alone = Scope::new(Arc::new(Schema::empty())).with("this", this(&state));
    let timer = config.timer.as_ref().map(|timer| {
        let path = ["timer", "emit", "columns"];
        let emit = timer.emit.as_ref().map(|emit| columns(cx, &path, &emit.columns, &alone, input));
        (at(cx, &timer.at, &alone), emit, timer.clear)
    });
    let of_emit = emit.as_ref().map(|emit| emit.columns.as_slice());
    let of_timer = timer.as_ref().and_then(|(_, emit, _)| emit.as_deref());
    let written = [
        config.emit.as_ref().map(|emit| &emit.columns),
        config.timer.as_ref().and_then(|timer| Some(&timer.emit.as_ref()?.columns)),
    ];
    for (path, names) in [&["emit", "columns"][..], &["timer", "emit", "columns"]].into_iter().zip(written) {
        for name in names.into_iter().flat_map(IndexMap::keys) {
            if fields[..keys].iter().any(|field| field.name() == name) {
                let span = check::key_span(cx, path, name);
                cx.push(check::taken(span, name).help("the key is put out anyway; give the new column another name"));
            } else if !fields.iter().any(|field| field.name() == name) {
                fields.push(output_field(cx, name, of_emit, of_timer, &known));
            }
        }
    }
    let event_time = input.event_time.as_ref().map(|event_time| EventTime {
        // A row has the event time that it came with, and a timer's row is never late.
        column: None,
        // A column that is written anew is another, and a timer puts out the rows of a key again, in a later epoch.
        windows: match &config.timer {
            Some(timer) if timer.emit.is_some() => Vec::new(),
            _ => event_time.windows.iter().filter(|name| key.contains(name)).cloned().collect(),
        },
        ..event_time.clone()
    });
    let stream = StreamType { event_time, ..input.with_columns(fields) };
    let output = stream.schema.clone();
    let outputs = vec![Output { port: String::new(), stream }];
    if cx.diagnostics.has_errors() {
        return Some(PlannedOperator::wrong(outputs));
    }
    let timer = match timer {
        Some((Some(at), emit, clear)) => Some(TimerPlan { at, emit, clear }),
        Some((None, ..)) => return Some(PlannedOperator::wrong(outputs)),
        None => None,
    };
    let expire_after_ns = config.expire_after.map(TimeSpan::ns);
    if expire_after_ns.is_none() && !timer.as_ref().is_some_and(|timer| timer.clear) {
        let message = format!("a record is kept for each {} for ever", key.join(", "));
        let span = cx.component.kind_span;
        cx.push(
            Diagnostic::warning(codes::UNBOUNDED_STATE, span, message)
                .help("say when the record of a silent key goes: `expire_after: 90d`"),
        );
    }
    let until = expire_after_ns.map_or_else(String::new, |ns| format!(" until {} after its last row", TimeSpan(ns)));
    let planned =
        StatefulPlan { input: input.schema.clone(), output, key: key.clone(), state, emit, timer, expire_after_ns };
    Some(PlannedOperator {
        outputs,
        can_fail: true,
        state: Some(format!("a record of each {}{until}", key.join(", "))),
        exchange: Some(vec![key]),
        timed: planned.timed(),
        planned: Arc::new(planned),
    })
}

/// Notes where nothing would ever come out, and a timer that does nothing.
fn does_something(cx: &mut Cx<'_>, config: &Config) {
    let span = cx.component.kind_span;
    let timer_emits = config.timer.as_ref().is_some_and(|timer| timer.emit.is_some());
    if config.emit.is_none() && !timer_emits {
        cx.push(Diagnostic::error(operator_codes::NOTHING_TO_DO, span, "nothing ever comes out of this step").help(
            "say what a row puts out: `emit: { columns: { total: this.total } }`, or a timer: `timer: { at, emit }`",
        ));
    } else if config.timer.as_ref().is_some_and(|timer| timer.emit.is_none() && !timer.clear) {
        let span = check::key_span(cx, &[], "timer");
        cx.push(
            Diagnostic::error(operator_codes::NOTHING_TO_DO, span, "this timer does nothing")
                .help("give it `emit: { columns: { ... } }`, or `clear: true`"),
        );
    }
    if config.state.is_empty() {
        let span = check::key_span(cx, &[], "state");
        cx.push(
            Diagnostic::error(operator_codes::NOTHING_TO_DO, span, "this step keeps nothing")
                .help("name a column of the record: `state: { total: { type: float64, init: 0 } }`, or use a `map`"),
        );
    }
}

/// The columns of the record. One that is wrong is of type null.
fn state(cx: &mut Cx<'_>, written: &IndexMap<String, StateColumn>, input: &StreamType) -> Vec<Column> {
    let mut columns = Vec::new();
    for (name, column) in written {
        let known = field(name, &column.ty);
        if input.schema.field_with_name(&of_this(name)).is_ok() {
            let span = check::key_span(cx, &["state"], name);
            cx.push(
                check::taken(span, &of_this(name))
                    .help("give the column of the record another name, or rename that one before"),
            );
        }
        let init = match &column.init {
            Some(node) => literal(node, &known).map_err(|reason| {
                let span = cx.span(&["state", name, "init"]);
                let problem = Diagnostic::error(codes::BAD_INIT, span, reason);
                match example(known.data_type()) {
                    Some(example) => problem.help(format!("write a value such as `{example}`")),
                    None => problem,
                }
            }),
            None if known.is_nullable() => Ok(new_null_array(known.data_type(), 1)),
            None => {
                let span = check::key_span(cx, &["state"], name);
                let message = format!("`{name}` has no value before the first row, and can't be null");
                let help =
                    format!("give it one: `init: ...`, or let it be null: `type: {} | null`", column_text(&known));
                Err(Diagnostic::error(codes::BAD_INIT, span, message).help(help))
            }
        };
        columns.push(match init {
            Ok(init) => Column { field: known, init, update: None },
            Err(problem) => {
                cx.push(problem);
                // Its type is known all the same.
                Column { init: new_null_array(known.data_type(), 1), field: known, update: None }
            }
        });
    }
    columns
}

/// A value of a type as it is written.
fn example(data_type: &DataType) -> Option<&'static str> {
    Some(match data_type {
        DataType::Boolean => "false",
        DataType::Float32 | DataType::Float64 => "0.5",
        DataType::Date32 => "\"2026-01-31\"",
        DataType::Timestamp(..) => "\"2026-01-31T12:00:00Z\"",
        DataType::Duration(_) => "5m",
        DataType::Utf8 => "\"text\"",
        DataType::List(_) => "[]",
        DataType::Map(..) => "{}",
        DataType::Struct(_) | DataType::Binary => return None,
        _ => "0",
    })
}

/// The record as expressions see it.
fn this(state: &[Column]) -> SchemaRef {
    Arc::new(Schema::new(state.iter().map(|column| column.field.clone()).collect::<Vec<_>>()))
}

fn updates(cx: &mut Cx<'_>, written: &Assignments, scope: &Scope, input: &StreamType, state: &mut [Column]) {
    for (name, expression) in written {
        let path = ["update", name.as_str()];
        let Some(at) = state.iter().position(|column| column.field.name() == name) else {
            let span = check::key_span(cx, &["update"], name);
            let names: Vec<&str> = state.iter().map(|column| column.field.name().as_str()).collect();
            cx.push(
                Diagnostic::error(plan_codes::UNKNOWN_COLUMN, span, format!("the record has no column `{name}`"))
                    .did_you_mean(name, names.iter().copied())
                    .help(format!("its columns are {}", check::listed(names))),
            );
            continue;
        };
        let Some(scalar) = cx.scalar(&path, expression, scope) else { continue };
        if check::has_time(cx, &path, &scalar, input) {
            state[at].update = assigned(cx, &path, &scalar, &state[at].field);
        }
    }
    for column in state.iter().filter(|column| !written.contains_key(column.field.name())) {
        let name = column.field.name();
        let span = check::key_span(cx, &["state"], name);
        cx.push(
            Diagnostic::warning(operator_codes::NO_EFFECT, span, format!("`{name}` never changes: it has no update"))
                .help(format!("say what a row makes of it: `update: {{ {name}: ... }}`, or leave it out")),
        );
    }
}

/// A value as one of a column of the record, where nothing is lost unseen.
fn assigned(cx: &mut Cx<'_>, path: &[&str], scalar: &Scalar, column: &Field) -> Option<Scalar> {
    let name = column.name();
    let to = column_text(column);
    if !assigns(scalar.data_type(), column.data_type()) {
        let span = cx.span(path);
        let from = type_name(scalar.data_type());
        let message = format!("`{name}` is of type {to}, and this is of type {from}");
        let help = match engine_plan::types::type_text(column.data_type()) {
            to if to.starts_with(['{', 'm']) => "make it one of just the column's type".to_owned(),
            to => format!("say so where what is lost does not matter: `CAST(... AS {to})`"),
        };
        cx.push(Diagnostic::error(codes::BAD_UPDATE, span, message).help(help));
        return None;
    }
    if scalar.nullable() && !column.is_nullable() {
        let span = cx.span(path);
        let message = format!("`{name}` can't be null, and this may be");
        let help = format!("write `coalesce(..., this.{name})`, or let it be null: `type: {to} | null`");
        cx.push(Diagnostic::error(codes::BAD_UPDATE, span, message).help(help));
        return None;
    }
    let cast = scalar.cast(column.data_type());
    cx.noted(path, cast)
}

/// Whether a value becomes one of another type with nothing lost, or with a failure where something would be.
fn assigns(from: &DataType, to: &DataType) -> bool {
    let places = |unit: &TimeUnit| match unit {
        TimeUnit::Second => 0,
        TimeUnit::Millisecond => 3,
        TimeUnit::Microsecond => 6,
        TimeUnit::Nanosecond => 9,
    };
    match (from, to) {
        (from, to) if from == to => true,
        (from, to) if from.is_integer() => to.is_numeric(),
        (DataType::Float32, DataType::Float64) => true,
        (
            DataType::Decimal128(_, scale) | DataType::Decimal256(_, scale),
            DataType::Decimal128(_, more) | DataType::Decimal256(_, more),
        ) => scale <= more,
        (DataType::Decimal128(..) | DataType::Decimal256(..), DataType::Float64) => true,
        (DataType::Date32, DataType::Timestamp(..)) => true,
        (DataType::Timestamp(unit, _), DataType::Timestamp(finer, _)) => places(unit) <= places(finer),
        (DataType::List(from), DataType::List(to)) => assigns(from.data_type(), to.data_type()),
        (DataType::Struct(from), DataType::Struct(to)) => {
            let same = |(from, to): (&Arc<Field>, &Arc<Field>)| {
                from.name() == to.name() && assigns(from.data_type(), to.data_type())
            };
            from.len() == to.len() && from.iter().zip(to).all(same)
        }
        _ => false,
    }
}

/// The new columns of what is put out; those that are wrong are missing.
fn columns(
    cx: &mut Cx<'_>,
    path: &[&str],
    written: &Assignments,
    scope: &Scope,
    input: &StreamType,
) -> Vec<(String, Scalar)> {
    let mut columns = Vec::new();
    for (name, expression) in written {
        let path: Vec<&str> = path.iter().copied().chain([name.as_str()]).collect();
        if let Some(scalar) = cx.scalar(&path, expression, scope)
            && check::has_time(cx, &path, &scalar, input)
        {
            columns.push((name.clone(), scalar));
        }
    }
    columns
}

/// The time of a timer, as a timestamp in nanoseconds.
fn at(cx: &mut Cx<'_>, written: &Expression, alone: &Scope) -> Option<Scalar> {
    let path = ["timer", "at"];
    let at = cx.scalar(&path, written, alone)?;
    let span = cx.span(&path);
    if !matches!(at.data_type(), DataType::Timestamp(..)) {
        let message = format!("a timer's time is a timestamp, and this is of type {}", type_name(at.data_type()));
        cx.push(
            Diagnostic::error(codes::TIMER_TIME, span, message)
                .help("write `this.since + INTERVAL '30 days'`, for example"),
        );
        return None;
    }
    if at.reads_event_time() || at.reads_now() || at.reads_position() {
        let message = "a timer's time follows from the record alone";
        cx.push(
            Diagnostic::error(codes::TIMER_TIME, span, message)
                .help("keep the time in the record: `update: { last: event_time() }`, and write `this.last` here"),
        );
        return None;
    }
    let cast = at.cast(&DataType::Timestamp(TimeUnit::Nanosecond, Some("UTC".into())));
    cx.noted(&path, cast)
}

/// A column of what is put out, of rows, of timers or of both.
fn output_field(
    cx: &mut Cx<'_>,
    name: &str,
    of_emit: Option<&[(String, Scalar)]>,
    of_timer: Option<&[(String, Scalar)]>,
    known: &SchemaRef,
) -> Field {
    let find = |columns: Option<&[(String, Scalar)]>| {
        let found = columns?.iter().find(|(column, _)| column == name);
        found.map(|(_, value)| field_of(name, value, known))
    };
    let (emitted, timed) = (find(of_emit), find(of_timer));
    // A column that only one of two has is null in the rows of the other.
    let alone = of_emit.is_none() || of_timer.is_none();
    match (emitted, timed) {
        (Some(emitted), Some(timed)) => {
            if emitted.data_type() != timed.data_type() {
                let path = ["timer", "emit", "columns", name];
                let [here, there] = [&timed, &emitted].map(|field| type_name(field.data_type()));
                let span = cx.span(&path);
                let rows = cx.span(&["emit", "columns", name]);
                cx.push(
                    Diagnostic::error(
                        codes::UNEQUAL_ROWS,
                        span,
                        format!("`{name}` is of type {here} here, and of type {there} in `emit`"),
                    )
                    .also(rows, format!("of type {there}"))
                    .help(format!("cast one of them: `CAST(... AS {there})`, or give it another name")),
                );
                return Field::new(name, DataType::Null, true);
            }
            let nullable = emitted.is_nullable() || timed.is_nullable();
            emitted.with_nullable(nullable)
        }
        (Some(one), None) | (None, Some(one)) => {
            let nullable = one.is_nullable() || !alone;
            one.with_nullable(nullable)
        }
        (None, None) => Field::new(name, DataType::Null, true),
    }
}
