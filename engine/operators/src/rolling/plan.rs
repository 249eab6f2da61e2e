//! The config of `rolling` and its checks.

use crate::aggregates::layout::{Layout, lags};
use crate::aggregates::null_of_rows;
use crate::check::{self, OneOrMany};
use arrow::datatypes::{DataType, Field, SchemaRef};
use engine_base::Diagnostic;
use engine_base::codes::rolling as codes;
use engine_expr::{Aggregation, Scope};
use engine_plan::kinds::{Caution, InputKeys, StateLayout};
use engine_plan::{Columns, Cx, OperatorKind, Output, Planned, PlannedOperator, StreamType, hidden};
use engine_spec::{Expression, SpanOr, TimeSpan};
use indexmap::IndexMap;
use schemars::JsonSchema;
use serde::Deserialize;
use std::collections::BTreeSet;
use std::fmt::{self, Write};
use std::sync::Arc;

/// One row out for each row in, with aggregates over the rows of its key in the last while of event time.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Config {
    /// The column, or columns, whose equal values belong together.
    key: OneOrMany,
    /// How far back a row looks, itself included: in event time, `5m`, or over the last rows of the key, `{ rows: 10 }`. `lag(x)`
    /// is the value of the row of the key that came before, if it is not further back.
    over: SpanOr<RowCount>,
    /// New columns: an aggregate, or one with a window of its own.
    columns: IndexMap<String, Column>,
    /// The order in which rows are taken: `arrival` (the default), or `event_time`: then a row waits until none from before it
    /// is expected any more.
    #[serde(default)]
    order: Order,
    /// How long after its latest row a key is forgotten, in event time: a row that comes this long after the one before it, or
    /// later, sees none of them.
    expire_after: Option<TimeSpan>,
}

/// A number of rows.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
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
    over: Option<SpanOr<RowCount>>,
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
    pub(super) reach: Reach,
    pub(super) order: Order,
}

/// A new column of `rolling`.
#[derive(Debug)]
pub(super) struct RollingColumn {
    pub(super) name: String,
    pub(super) aggregation: Aggregation,
    pub(super) over: Back,
    pub(super) exclude_current: bool,
}

/// How far back a window looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Back {
    /// In event time, nanoseconds.
    Time(i64),
    /// Over the last rows of the key.
    Rows(usize),
}

impl fmt::Display for Back {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Back::Time(ns) => TimeSpan(*ns).fmt(f),
            Back::Rows(1) => f.write_str("one row"),
            Back::Rows(rows) => write!(f, "{rows} rows"),
        }
    }
}

/// How long the rows of a key matter, nanoseconds of event time.
///
/// ```text
/// rows as they come        late ◀──────┤ late_ns ├────── the greater of the key's latest row and the watermark
/// a silent key             its latest row ├─ silent_ns ─┼─ late_ns ─┤ the watermark: freed
/// ```
///
/// What comes for a key that was freed is late, or comes `silent_ns` after its latest row and could see nothing of it: so nobody
/// can tell whether it was freed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Reach {
    /// The longest window of time.
    pub(super) time_ns: Option<i64>,
    /// The longest window of rows, or 0.
    pub(super) rows: usize,
    /// How far behind the latest row of its key another may come. None does in the order of event time.
    pub(super) max_delay_ns: i64,
    /// A row so long after the latest of its key begins anew.
    pub(super) expire_ns: Option<i64>,
    /// What is so far behind is late.
    pub(super) late_ns: Option<i64>,
    /// A key that is silent for so long is of no more use.
    pub(super) silent_ns: Option<i64>,
}

impl Reach {
    fn new(windows: &[Back], max_delay_ns: i64, expire_ns: Option<i64>) -> Reach {
        let time = |back: &Back| if let Back::Time(ns) = back { Some(*ns) } else { None };
        let rows = |back: &Back| if let Back::Rows(rows) = back { *rows } else { 0 };
        let time_ns = windows.iter().filter_map(time).max();
        let rows = windows.iter().map(rows).max().unwrap_or(0);
        // The lesser of both where there are both.
        let least = time_ns.into_iter().chain(expire_ns).min();
        Reach {
            time_ns,
            rows,
            max_delay_ns,
            expire_ns,
            late_ns: least.map(|ns| ns.saturating_add(max_delay_ns)),
            silent_ns: if rows > 0 { expire_ns } else { least },
        }
    }

    /// Up to which time no window of time looks back, once the greatest time of a key is this.
    pub(super) fn kept_after_ns(&self, greatest_ns: i64) -> i64 {
        let kept = |time_ns: i64| greatest_ns.saturating_sub(time_ns).saturating_sub(self.max_delay_ns);
        self.time_ns.map_or(i64::MAX, kept)
    }

    fn text(&self, key: &str) -> String {
        match self.time_ns.map(Back::Time) {
            Some(time) if self.rows > 0 => format!("the rows of each {key} over {time}, and the last {}", self.rows),
            Some(time) => format!("the rows of each {key} over {time}"),
            None => format!("the last {} of each {key}", Back::Rows(self.rows)),
        }
    }
}

impl Planned for RollingPlan {
    fn state_layout(&self, wanted: &[Columns]) -> Option<StateLayout> {
        let main = wanted.first()?;
        let read = || self.columns.iter().filter(|column| main.contains(&column.name));
        let calls = || read().flat_map(|column| &column.aggregation.calls);
        let mut fixed = format!("{:?} {:?}", self.order, lags(calls()));
        if self.order == Order::EventTime {
            // Whole rows wait.
            for field in self.reads(wanted).iter().flatten().filter_map(|name| self.input.field_with_name(name).ok()) {
                let _ = write!(fixed, " {} as {}", field.name(), field.data_type());
            }
        }
        let windows: BTreeSet<String> = read().map(|column| format!("over {}", column.over)).collect();
        Some(StateLayout { fixed, parts: Layout::of(calls()).over(windows.into_iter().collect()).text() })
    }

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
            let mut text = format!("{} over {}", column.aggregation.text(), column.over);
            if column.exclude_current {
                text.push_str(", without the row itself");
            }
            facts.push((column.name.clone(), text));
        }
        if let Some(expire_ns) = self.reach.expire_ns {
            facts.push(("expire after".to_owned(), TimeSpan(expire_ns).to_string()));
        }
        facts
    }

    fn endless(&self) -> Option<Caution> {
        self.reach.silent_ns.is_none().then(|| Caution {
            message: format!("the last rows of each {} are kept for ever", self.key.join(", ")),
            help: "where new keys keep coming, say when a silent one is forgotten: `expire_after: 30d`".to_owned(),
        })
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
    let key = config.key.names();
    let mut sound = check::key(cx, &key, &input.schema);
    sound &= check::timed(cx, input);
    let expected_ns = input.event_time.as_ref().map_or(0, |event_time| event_time.max_delay_ns);
    // In the order of event time no row comes behind another of its key.
    let max_delay_ns = if config.order == Order::EventTime { 0 } else { expected_ns };
    let over = positive(cx, &["over"], &config.over);
    sound &= over.is_some();
    if config.expire_after.is_some_and(|expire| expire.ns() <= 0) {
        cx.error(codes::EMPTY_WINDOW, &["expire_after"], "`expire_after` must be longer than nothing");
        sound = false;
    }
    let scope = Scope::new(input.schema.clone()).with("current", input.schema.clone());
    let mut columns = Vec::new();
    let mut fields: Vec<Arc<Field>> = input.schema.fields().iter().cloned().collect();
    for (name, column) in config.columns {
        if let Some((_, existing)) = input.schema.column_with_name(&name) {
            let span = check::key_span(cx, &["columns"], &name);
            cx.push(check::taken(span, existing.name()).help("give the new column another name"));
            sound = false;
        }
        let (path, value, own, exclude_current) = match &column {
            Column::Value(value) => (vec!["columns", &name], value, None, false),
            Column::Own(own) => (vec!["columns", &name, "value"], &own.value, own.over.as_ref(), own.exclude_current),
        };
        let over = match own {
            Some(own) => positive(cx, &["columns", &name, "over"], own),
            None => over,
        };
        let planned = cx.expr.aggregate(&value.0, &scope);
        let aggregation = cx.noted(&path, planned);
        match (aggregation, over) {
            (Some(aggregation), over) => {
                let data_type = aggregation.data_type.clone();
                // What the width of the window decides does not decide the type.
                let back = over.unwrap_or(Back::Time(0));
                let column = RollingColumn { name, aggregation, over: back, exclude_current };
                sound &= over.is_some();
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
    let (Some(over), true) = (over, sound) else {
        let late = Output { port: "late".to_owned(), stream: input.clone() };
        return Some(PlannedOperator::wrong(vec![Output { port: String::new(), stream }, late]));
    };
    let output = stream.schema.clone();
    let windows: Vec<Back> = columns.iter().map(|column| column.over).chain([over]).collect();
    let reach = Reach::new(&windows, max_delay_ns, config.expire_after.map(TimeSpan::ns));
    let order = config.order;
    if order == Order::Arrival && input.origins.sources.len() > 1 {
        let message = "the input has rows of several sources, which are read at their own pace";
        let span = cx.component.kind_span;
        cx.push(
            Diagnostic::warning(codes::SEVERAL_SOURCES, span, message).help(
                "a row that is far behind the latest of its key is late; `order: event_time` waits for all sources",
            ),
        );
    }
    let planned = RollingPlan { input: input.schema.clone(), output, key: key.clone(), columns, reach, order };
    Some(PlannedOperator {
        // Rows in order leave in the epoch in which the watermark passes them: none is behind the one before, by which rows
        // are late in that epoch, so that nothing is held.
        outputs: vec![
            Output { port: String::new(), stream },
            Output { port: "late".to_owned(), stream: input.clone() },
        ],
        can_fail: true,
        state: Some(reach.text(&key.join(", "))),
        exchange: Some(vec![key]),
        timed: order == Order::EventTime || reach.silent_ns.is_some(),
        planned: Arc::new(planned),
    })
}

fn positive(cx: &mut Cx<'_>, path: &[&str], over: &SpanOr<RowCount>) -> Option<Back> {
    match over {
        SpanOr::Span(span) if span.ns() > 0 => Some(Back::Time(span.ns())),
        SpanOr::Map(RowCount { rows }) if *rows > 0 => Some(Back::Rows(usize::try_from(*rows).unwrap_or(usize::MAX))),
        SpanOr::Span(_) | SpanOr::Map(_) => {
            cx.error(codes::EMPTY_WINDOW, path, "a window must be longer than nothing");
            None
        }
    }
}
