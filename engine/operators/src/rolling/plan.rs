//! The config of `rolling` and its checks.

use crate::aggregates::null_of_rows;
use crate::check::{self, OneOrMany};
use arrow::datatypes::{DataType, Field, SchemaRef};
use engine_base::Diagnostic;
use engine_base::codes::{rolling as codes, spec as spec_codes};
use engine_expr::{Aggregation, Scope};
use engine_plan::{Columns, Cx, OperatorKind, Output, Planned, PlannedOperator, StreamType, hidden, kinds::InputKeys};
use engine_spec::{Expression, SpanOr, TimeSpan};
use indexmap::IndexMap;
use schemars::JsonSchema;
use serde::Deserialize;
use std::sync::Arc;

/// One row out for each row in, with aggregates over the rows of its key in the last while of event time.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Config {
    /// The column, or columns, whose equal values belong together.
    key: OneOrMany,
    /// How far back a row looks in event time, itself included: `5m`. `lag(x)` is the value of the row of the key that came
    /// before, if it is not further back.
    #[schemars(with = "TimeSpan")]
    over: Over,
    /// New columns: an aggregate, or one with a window of its own.
    columns: IndexMap<String, Column>,
    /// The order in which rows are taken: `arrival` (the default), or `event_time`: then a row waits until none from before it
    /// is expected any more.
    #[serde(default)]
    order: Order,
    /// When the rows of a silent key go. Not built yet.
    expire_after: Option<TimeSpan>,
}

/// A span of event time, or a number of rows.
#[derive(Debug, Deserialize)]
#[serde(from = "SpanOr<RowCount>")]
enum Over {
    /// A span of event time.
    Time(TimeSpan),
    /// A number of rows of the key. Not built yet, and not in the schema.
    Rows(#[expect(dead_code, reason = "named in the language, refused by the plan")] RowCount),
}

impl From<SpanOr<RowCount>> for Over {
    fn from(over: SpanOr<RowCount>) -> Over {
        match over {
            SpanOr::Span(span) => Over::Time(span),
            SpanOr::Map(rows) => Over::Rows(rows),
        }
    }
}

/// A number of rows.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(dead_code, reason = "named in the language, refused by the plan")]
struct RowCount {
    /// How many rows, the row itself included.
    rows: u64,
}

/// In which order a step takes the rows of a key.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(super) enum Order {
    /// As they come.
    #[default]
    Arrival,
    /// By event time, and rows of one time by their places in the source. Rows that come when the watermark has passed them are
    /// the output `NAME.late`.
    EventTime,
}

/// A new column.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(untagged)]
enum Column {
    /// An aggregate over the step's window: `count(*)`.
    Value(Expression),
    /// An aggregate over a window of its own.
    Own(OwnWindow),
}

/// An aggregate over a window of its own.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct OwnWindow {
    /// The aggregate.
    value: Expression,
    /// How far back it looks; the step's `over` where it is not said.
    #[schemars(with = "Option<TimeSpan>")]
    over: Option<Over>,
    /// Leaves the row itself out of its window.
    #[serde(default)]
    exclude_current: bool,
}

/// The planned form of `rolling`.
#[derive(Debug)]
pub struct RollingPlan {
    pub(super) input: SchemaRef,
    pub(super) output: SchemaRef,
    pub(super) key: Vec<String>,
    pub(super) columns: Vec<RollingColumn>,
    /// The longest look back of any column, nanoseconds.
    pub(super) over_ns: i64,
    /// How far behind the latest row of its key another may come, nanoseconds.
    pub(super) max_delay_ns: i64,
    pub(super) order: Order,
}

/// A new column of `rolling`.
#[derive(Debug)]
pub(super) struct RollingColumn {
    pub(super) name: String,
    pub(super) aggregation: Aggregation,
    pub(super) over_ns: i64,
    pub(super) exclude_current: bool,
}

impl Planned for RollingPlan {
    fn reads(&self, wanted: &[Columns]) -> Vec<Columns> {
        let wanted: Columns = wanted.iter().flatten().cloned().collect();
        let mut reads: Columns = self.key.iter().cloned().collect();
        reads.insert(hidden::EVENT_TIME.to_owned());
        reads.extend(wanted.iter().filter(|name| self.input.column_with_name(name).is_some()).cloned());
        for column in self.columns.iter().filter(|column| wanted.contains(&column.name)) {
            reads.extend(column.aggregation.columns().iter().cloned());
            reads.extend(column.aggregation.current_columns().iter().map(|name| beside(name).to_owned()));
        }
        vec![reads]
    }

    fn facts(&self) -> Vec<(String, String)> {
        let mut facts = vec![("key".to_owned(), self.key.join(", "))];
        if self.order == Order::EventTime {
            facts.push(("order".to_owned(), "event time".to_owned()));
        }
        for column in &self.columns {
            let mut text = format!("{} over {}", column.aggregation.text(), TimeSpan(column.over_ns));
            if column.exclude_current {
                text.push_str(", without the row itself");
            }
            facts.push((column.name.clone(), text));
        }
        facts
    }
}

/// The column of the input behind `current.x`.
pub(super) fn beside(name: &str) -> &str {
    name.strip_prefix("current.").unwrap_or(name)
}

impl RollingColumn {
    /// Whether it may be null. A window with the row itself in it is never empty.
    pub(super) fn nullable(&self) -> bool {
        if self.exclude_current { self.aggregation.nullable } else { null_of_rows(&self.aggregation) }
    }
}

/// The kind `rolling`.
pub fn kind() -> &'static OperatorKind {
    static KIND: OperatorKind = OperatorKind {
        name: "rolling",
        summary: "One row out for each row in, with aggregates over its key's rows of the last while",
        config_schema: |generator| generator.subschema_for::<Config>(),
        inputs: InputKeys::One,
        plan,
    };
    &KIND
}

fn plan(cx: &mut Cx<'_>, inputs: &[StreamType]) -> Option<PlannedOperator> {
    let config: Config = cx.config()?;
    let input = inputs.first()?;
    let mut sound = true;
    let mut refuse = |cx: &mut Cx<'_>, path: &[&str], what: &str, instead: &str| {
        let span = cx.span(path);
        cx.push(Diagnostic::error(spec_codes::NOT_BUILT, span, format!("{what} is not built yet")).help(instead));
        sound = false;
    };
    if config.expire_after.is_some() {
        refuse(cx, &["expire_after"], "`expire_after` of rolling", "rows go when they are older than `over`");
    }
    if matches!(config.over, Over::Rows(_)) {
        refuse(cx, &["over"], "a rolling window by rows", "write a span of event time: `over: 5m`");
    }
    for (name, column) in &config.columns {
        if let Column::Own(OwnWindow { over: Some(Over::Rows(_)), .. }) = column {
            let path = ["columns", name.as_str(), "over"];
            refuse(cx, &path, "a rolling window by rows", "write a span of event time: `over: 5m`");
        }
    }
    let key = config.key.names();
    sound &= check::key(cx, &key, &input.schema);
    sound &= check::timed(cx, input);
    let expected_ns = input.event_time.as_ref().map_or(0, |event_time| event_time.max_delay_ns);
    // In the order of event time no row comes behind another of its key.
    let max_delay_ns = if config.order == Order::EventTime { 0 } else { expected_ns };
    let over_ns = positive(cx, &["over"], &config.over);
    sound &= over_ns.is_some();
    let scope = Scope::new(input.schema.clone()).with("current", input.schema.clone());
    let mut columns = Vec::new();
    let mut fields: Vec<Arc<Field>> = input.schema.fields().iter().cloned().collect();
    for (name, column) in config.columns {
        if let Some((_, existing)) = input.schema.column_with_name(&name) {
            let span = check::key_span(cx, &["columns"], &name);
            cx.push(check::taken(span, existing.name()).help("give the new column another name"));
            sound = false;
        }
        let (path, value, over, exclude_current) = match &column {
            Column::Value(value) => (vec!["columns", &name], value, None, false),
            Column::Own(own) => (vec!["columns", &name, "value"], &own.value, own.over.as_ref(), own.exclude_current),
        };
        let over_ns = match over {
            Some(over) => positive(cx, &["columns", &name, "over"], over),
            None => over_ns,
        };
        let planned = cx.expr.aggregate(&value.0, &scope);
        let aggregation = cx.noted(&path, planned);
        if let Some(aggregation) = &aggregation {
            sound &= check::unordered(cx, &path, aggregation, "rows are taken in the step's own order");
        }
        match (aggregation, over_ns) {
            (Some(aggregation), over_ns) => {
                let data_type = aggregation.data_type.clone();
                // What the width of the window decides does not decide the type.
                let column = RollingColumn { name, aggregation, over_ns: over_ns.unwrap_or(0), exclude_current };
                sound &= over_ns.is_some();
                fields.push(Arc::new(Field::new(&column.name, data_type, column.nullable())));
                columns.push(column);
            }
            (None, _) => {
                fields.push(Arc::new(Field::new(&name, DataType::Null, true)));
                sound = false;
            }
        }
    }
    let stream = input.with_columns(fields);
    let (Some(over_ns), true) = (over_ns, sound) else {
        let late = Output { port: "late".to_owned(), stream: input.clone() };
        return Some(PlannedOperator::wrong(vec![Output { port: String::new(), stream }, late]));
    };
    let output = stream.schema.clone();
    let over_ns = columns.iter().map(|column| column.over_ns).fold(over_ns, i64::max);
    let order = config.order;
    let planned =
        RollingPlan { input: input.schema.clone(), output, key: key.clone(), columns, over_ns, max_delay_ns, order };
    Some(PlannedOperator {
        // Rows in order leave in the epoch in which the watermark passes them: none is behind the one before, by which rows
        // are late in that epoch, so that nothing is held.
        outputs: vec![
            Output { port: String::new(), stream },
            Output { port: "late".to_owned(), stream: input.clone() },
        ],
        can_fail: true,
        state: Some(format!("the rows of each {} over {}", key.join(", "), TimeSpan(over_ns))),
        exchange: Some(vec![key]),
        look_back_ns: over_ns.saturating_add(expected_ns),
        timed: order == Order::EventTime,
        planned: Arc::new(planned),
    })
}

fn positive(cx: &mut Cx<'_>, path: &[&str], over: &Over) -> Option<i64> {
    match over {
        Over::Time(span) if span.ns() > 0 => Some(span.ns()),
        Over::Time(_) => {
            cx.error(codes::EMPTY_WINDOW, path, "a window must be longer than nothing");
            None
        }
        Over::Rows(_) => None,
    }
}
