//! The config of `window` and its checks.

use super::assign::Windows;
use super::fixed::{Bounds, Hopping, TumblingFrom, hopping, positive, tumbling};
use crate::aggregates::layout::Layout;
use crate::aggregates::null_of_rows;
use crate::check::{self, OneOrMany};
use arrow::datatypes::{DataType, Field, SchemaRef};
use engine_base::Diagnostic;
use engine_base::codes::rolling as codes;
use engine_expr::{Aggregation, Scope};
use engine_plan::kinds::{Caution, InputKeys, StateLayout};
use engine_plan::{Columns, Cx, OperatorKind, Output, Planned, PlannedOperator, StreamKind, StreamType, hidden};
use engine_spec::{Expression, SpanOr, TimeSpan};
use indexmap::IndexMap;
use schemars::JsonSchema;
use serde::Deserialize;
use std::sync::Arc;

/// One row for each key and window of event time, with aggregates over its rows. Just one of `tumbling`, `hopping`, `session`,
/// `count` and `global` says how rows fall into windows.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Config {
    /// The column, or columns, whose equal values belong together; all rows together where it is left out. Null is a value of
    /// its own.
    key: Option<OneOrMany>,
    /// Windows one after the other: a length, `1m`, or a map with a zone or an offset.
    tumbling: Option<SpanOr<TumblingFrom>>,
    /// Windows that overlap.
    hopping: Option<Hopping>,
    /// Windows of rows that are less than a gap apart.
    session: Option<Session>,
    /// Windows of so many rows of a key, in the order in which they come, whatever their times. The last may have fewer: it is
    /// put out at the end of the input.
    count: Option<u64>,
    /// One window of all rows, `{}`: it is put out at the end of the input.
    global: Option<Global>,
    /// New columns, each an aggregate: `count(*)`.
    columns: IndexMap<String, Expression>,
    /// How long after its end a window waits for rows that the watermark did not expect any more; `0s` unless said.
    #[serde(default)]
    lateness: Option<TimeSpan>,
    /// When a window is put out: `on_close` (the default), once, when no more rows of it are expected.
    #[serde(default)]
    emit: Emit,
    /// Other names for `window_start` and `window_end`.
    #[serde(default, rename = "as")]
    names: Bounds,
}

/// Windows of rows that are less than a gap apart.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Session {
    /// A row that comes this long after the one before, or later, starts a new window; the window ends this long after its
    /// last row.
    gap: TimeSpan,
}

/// One window of all rows.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Global {}

/// When a window is put out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
enum Emit {
    /// Once, when no more rows of it are expected: at its end and `lateness`.
    #[default]
    OnClose,
    /// At its end, and again where rows come within `lateness` after it: as a changelog, which takes back what was put out.
    AtEnd,
    /// Every so often by the clock, where rows came since, at its end, and again where rows come within `lateness`: as a changelog.
    Early(TimeSpan),
}

/// When windows are put out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum When {
    /// Once.
    OnClose,
    /// At their end, and corrected until they close.
    AtEnd,
    /// At every multiple of so many nanoseconds of the clock as well.
    Early { every_ns: i64 },
}

/// The planned form of `window`.
#[derive(Debug)]
pub struct WindowPlan {
    pub(super) output: SchemaRef,
    pub(super) key: Vec<String>,
    pub(super) form: WindowForm,
    pub(super) lateness_ns: i64,
    /// Windows are put out at their end, and corrected when rows come after it.
    pub(super) when: When,
    /// The columns that tell the window's start and end.
    pub(super) bounds: [String; 2],
    pub(super) columns: Vec<(String, Aggregation)>,
}

/// How rows fall into windows.
#[derive(Clone, Debug)]
pub(super) enum WindowForm {
    /// Into windows of fixed bounds.
    Fixed(Windows),
    /// Into windows that end when nothing came for so long, nanoseconds.
    Session { gap_ns: i64 },
    /// Into windows of so many rows.
    Count { rows: u64 },
    /// All into one.
    Global,
}

impl Planned for WindowPlan {
    fn reads(&self, wanted: &[Columns]) -> Vec<Columns> {
        let main = wanted.first().cloned().unwrap_or_default();
        let mut reads: Columns = self.key.iter().cloned().collect();
        reads.insert(hidden::EVENT_TIME.to_owned());
        reads.extend(wanted.iter().skip(1).flatten().cloned());
        for (_, aggregation) in self.columns.iter().filter(|(name, _)| main.contains(name)) {
            reads.extend(aggregation.columns().iter().cloned());
        }
        vec![reads]
    }

    fn facts(&self) -> Vec<(String, String)> {
        let span = |ns: i64| TimeSpan(ns).to_string();
        let mut facts = Vec::new();
        if !self.key.is_empty() {
            facts.push(("key".to_owned(), self.key.join(", ")));
        }
        facts.push(match &self.form {
            WindowForm::Fixed(windows) => windows.fact(),
            WindowForm::Session { gap_ns } => ("session".to_owned(), format!("a gap of {}", span(*gap_ns))),
            WindowForm::Count { rows } => ("count".to_owned(), rows.to_string()),
            WindowForm::Global => ("global".to_owned(), "until the input ends".to_owned()),
        });
        match self.when {
            When::OnClose => {}
            When::AtEnd => facts.push(("emit".to_owned(), "at the end, and corrections".to_owned())),
            When::Early { every_ns } => {
                facts.push(("emit".to_owned(), format!("every {}, and at the end", span(every_ns))))
            }
        }
        if self.lateness_ns > 0 {
            facts.push(("lateness".to_owned(), span(self.lateness_ns)));
        }
        let column = |(name, aggregation): &(String, Aggregation)| (name.clone(), aggregation.text().to_owned());
        facts.extend(self.columns.iter().map(column));
        facts
    }

    fn state_layout(&self, wanted: &[Columns]) -> Option<StateLayout> {
        let main = wanted.first()?;
        let read = self.columns.iter().filter(|(name, _)| main.contains(name));
        let parts = Layout::of(read.flat_map(|(_, aggregation)| &aggregation.calls)).text();
        Some(StateLayout { fixed: format!("{:?} {} {:?}", self.form, self.lateness_ns, self.when), parts })
    }

    fn ticks_ns(&self) -> Option<i64> {
        match self.when {
            When::Early { every_ns } => Some(every_ns),
            _ => None,
        }
    }

    fn endless(&self) -> Option<Caution> {
        match self.form {
            WindowForm::Global => Some(Caution {
                message: "the one window of all rows is put out when the input ends, which this one never does"
                    .to_owned(),
                help: "take windows of time: `tumbling: 1h`".to_owned(),
            }),
            WindowForm::Count { rows } if rows > 1 && !self.key.is_empty() => Some(Caution {
                message: format!("a {} that falls silent keeps its window open for ever", self.key.join(", ")),
                help: "where new keys keep coming, take windows of time: `tumbling: 1h`, or `session: { gap: 1h }`"
                    .to_owned(),
            }),
            _ => None,
        }
    }
}

/// The kind `window`.
pub fn kind() -> &'static OperatorKind {
    static KIND: OperatorKind = OperatorKind {
        name: "window",
        summary: "One row for each key and window of event time, with aggregates over its rows",
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
    check::timed(cx, input);
    let when = match config.emit {
        Emit::OnClose => When::OnClose,
        Emit::AtEnd => When::AtEnd,
        Emit::Early(every) => When::Early { every_ns: positive(cx, &["emit", "early"], every)? },
    };
    let corrects = when != When::OnClose;
    let form = form(cx, &config);
    if corrects && !matches!(form, Some(WindowForm::Fixed(_)) | None) {
        let help = "leave it out: only windows of fixed bounds are put out before they close, and corrected";
        check::not_built(cx, &[], "emit", help);
    }
    if config.lateness.is_some()
        && let Some(WindowForm::Count { .. } | WindowForm::Global) = form
    {
        let span = check::key_span(cx, &[], "lateness");
        let message = "nothing is late for a window of rows, whatever their times";
        cx.push(Diagnostic::error(codes::WINDOW_FORM, span, message).help("leave `lateness` out"));
    }
    let lateness_ns = config.lateness.map_or(0, |lateness| lateness.ns());
    let scope = Scope::new(input.schema.clone());
    let mut fields: Vec<Arc<Field>> = Vec::new();
    for name in &key {
        if let Ok(field) = input.schema.field_with_name(name) {
            fields.push(Arc::new(field.clone()));
        }
    }
    let bounds = config.names.add_to(cx, &mut fields);
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
        if aggregation.calls.iter().any(|call| call.function == engine_expr::AggregateFunction::Lag) {
            let span = cx.span(&path);
            let message = "`lag` is the value of the row before, and a window has one row for many";
            cx.push(Diagnostic::error(codes::NO_ROW_BEFORE, span, message).help("use `rolling`, or `last(x)`"));
        }
        let nullable = null_of_rows(&aggregation);
        fields.push(Arc::new(Field::new(&name, aggregation.data_type.clone(), nullable)));
        columns.push((name, aggregation));
    }
    let held = input.event_time.as_ref().map(|event_time| {
        let mut held = event_time.held(lateness_ns);
        // Windows of one end are put out together; sessions of one start may end at several times.
        held.windows = match &form {
            Some(WindowForm::Fixed(_)) => bounds.to_vec(),
            Some(WindowForm::Session { .. }) => bounds[1..].to_vec(),
            _ => Vec::new(),
        };
        held
    });
    let (kind, held) = match corrects {
        true => (StreamKind::Changelog { key: key.iter().chain(&bounds[..1]).cloned().collect() }, None),
        false => (StreamKind::Append, held),
    };
    let stream = StreamType { event_time: held, kind, ..input.with_columns(fields) };
    let output = stream.schema.clone();
    let outputs =
        vec![Output { port: String::new(), stream }, Output { port: "late".to_owned(), stream: input.clone() }];
    let (Some(form), Some(_), true) = (form, &input.event_time, cx.diagnostics.len() == before) else {
        return Some(PlannedOperator::wrong(outputs));
    };
    let state = match &form {
        WindowForm::Fixed(windows) => {
            format!("the open windows of {}, each at most {}", of(&key), TimeSpan(windows.longest_ns()))
        }
        WindowForm::Session { gap_ns } => {
            format!("the open sessions of {}, with a gap of {}", of(&key), TimeSpan(*gap_ns))
        }
        WindowForm::Count { rows } => format!("the window of {}, up to {rows} rows", of(&key)),
        WindowForm::Global => format!("the window of {} until the input ends", of(&key)),
    };
    let planned = WindowPlan { output, key: key.clone(), form, lateness_ns, when, bounds, columns };
    Some(PlannedOperator {
        outputs,
        can_fail: true,
        state: Some(state),
        exchange: Some(vec![key]),
        timed: true,
        planned: Arc::new(planned),
    })
}

fn of(key: &[String]) -> String {
    if key.is_empty() { "all rows".to_owned() } else { format!("each {}", key.join(", ")) }
}

fn form(cx: &mut Cx<'_>, config: &Config) -> Option<WindowForm> {
    let given: Vec<&str> = [
        ("tumbling", config.tumbling.is_some()),
        ("hopping", config.hopping.is_some()),
        ("session", config.session.is_some()),
        ("count", config.count.is_some()),
        ("global", config.global.is_some()),
    ]
    .into_iter()
    .filter_map(|(name, given)| given.then_some(name))
    .collect();
    if given.len() != 1 {
        let message = match given.as_slice() {
            [] => "a window needs one of `tumbling`, `hopping`, `session`, `count` and `global`".to_owned(),
            [first, second, ..] => format!("a window is either `{first}` or `{second}`"),
            [_] => String::new(),
        };
        let span = given.get(1).map_or(cx.component.kind_span, |name| cx.span(&[name]));
        cx.push(
            Diagnostic::error(codes::WINDOW_FORM, span, message).help("write just one: `tumbling: 1m`, for example"),
        );
        return None;
    }
    if let Some(session) = &config.session {
        let gap_ns = positive(cx, &["session", "gap"], session.gap)?;
        return Some(WindowForm::Session { gap_ns });
    }
    if let Some(rows) = config.count {
        if rows == 0 {
            cx.error(codes::EMPTY_WINDOW, &["count"], "a window must hold a row");
            return None;
        }
        return Some(WindowForm::Count { rows });
    }
    if config.global.is_some() {
        return Some(WindowForm::Global);
    }
    if let Some(form) = &config.hopping {
        return hopping(cx, &["hopping"], form).map(WindowForm::Fixed);
    }
    tumbling(cx, &["tumbling"], config.tumbling.as_ref()?).map(WindowForm::Fixed)
}
