//! The contracts that each kind of source, operator and sink fulfils, and what a kind is told while it plans itself.
//!
//! A kind is one file in `operators` or `connectors` and one line in a registry there: its config struct (whose doc
//! comments are the reference and the JSON Schema), `plan`, and a `render` or `start` that the planner never sees.

use crate::model::{ModelKind, ModelSet, PlannedModel};
use crate::types;
use arrow::datatypes::{DataType, Field, FieldRef, Fields, Schema as ArrowSchema, SchemaRef};
use engine_base::codes::FOLLOWS;
use engine_base::codes::plan as codes;
use engine_base::{Code, Diagnostic, Diagnostics, SourceId, SourceMap, Span};
use engine_expr::{Context, ExprError, Scalar, Scope, is_open};
use engine_spec::{Component, Expression, Files, Node};
use indexmap::IndexMap;
use schemars::{Schema, SchemaGenerator};
use serde::de::DeserializeOwned;
use std::any::Any;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Debug;
use std::path::{self, Path, PathBuf};
use std::sync::Arc;

/// Names of columns. Hidden columns have the names in [`hidden`].
pub type Columns = BTreeSet<String>;

/// Names under which hidden columns appear in [`Columns`]; no user column can start with `@`.
pub mod hidden {
    /// Each row's event time.
    pub const EVENT_TIME: &str = "@event_time";
    /// What a row of a changelog does, where the change leaves the engine: `insert` or `delete`.
    pub const CHANGE: &str = engine_base::CHANGE_COLUMN;
}

/// What is known of the rows on an edge.
#[derive(Clone, Debug, PartialEq)]
pub struct StreamType {
    /// The visible columns.
    pub schema: SchemaRef,
    /// Whether rows have event time, and how late they may be.
    pub event_time: Option<EventTime>,
    /// Append or changelog.
    pub kind: StreamKind,
    /// What the rows come from.
    pub origins: Origins,
}

/// The sources behind a stream.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Origins {
    /// Their numbers.
    pub sources: BTreeSet<SourceId>,
    /// Whether all of them come to an end by themselves.
    pub finite: bool,
}

impl Origins {
    /// Those of several streams together.
    pub fn of_all<'a>(all: impl IntoIterator<Item = &'a Origins>) -> Origins {
        let mut one = Origins { sources: BTreeSet::new(), finite: true };
        for origins in all {
            one.sources.extend(origins.sources.iter().copied());
            one.finite &= origins.finite;
        }
        one
    }
}

impl StreamType {
    /// Rows of which nothing is known. They may well have event time: nothing is to be blamed for its absence.
    pub(crate) fn unknown() -> StreamType {
        StreamType {
            schema: engine_expr::open(&ArrowSchema::empty()),
            event_time: Some(EventTime::default()),
            kind: StreamKind::Append,
            origins: Origins::default(),
        }
    }

    /// The same stream with another schema.
    #[must_use]
    pub fn with_schema(&self, schema: SchemaRef) -> StreamType {
        StreamType { schema, ..self.clone() }
    }

    /// The same stream with these columns, and those that are not known, if there are any.
    #[must_use]
    pub fn with_columns(&self, columns: impl Into<Fields>) -> StreamType {
        self.with_schema(Arc::new(ArrowSchema::new_with_metadata(columns, self.schema.metadata().clone())))
    }

    /// The same stream, which may have more columns than are known.
    #[must_use]
    pub fn opened(&self) -> StreamType {
        self.with_schema(engine_expr::open(&self.schema))
    }

    /// The same stream where the columns of `from` have these names now, and those that are not among them are gone or others.
    #[must_use]
    pub fn renamed(mut self, now: impl Fn(&str) -> Option<String>) -> StreamType {
        if let Some(event_time) = &mut self.event_time {
            event_time.windows = event_time.windows.iter().filter_map(|column| now(column)).collect();
        }
        if let StreamKind::Changelog { key } = &mut self.kind {
            // Without one of its columns, a key tells rows apart no longer: whole rows do.
            *key = key.iter().map(|column| now(column)).collect::<Option<_>>().unwrap_or_default();
        }
        self
    }

    /// The same stream with no column that may be null, so that no false problem comes of a guess.
    #[must_use]
    pub fn never_null(&self) -> StreamType {
        let all = self.schema.fields().iter().map(|field| field.name().clone()).collect();
        self.with_schema(types::narrow(&self.schema, &all))
    }
}

/// The event time of a stream.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EventTime {
    /// How far behind the greatest event time seen a row may come, nanoseconds.
    pub max_delay_ns: i64,
    /// The column that it is the value of, where it is that of a column that is still there.
    pub column: Option<String>,
    /// Where that column was replaced by one of other values.
    pub replaced: Option<Replaced>,
    /// The sources whose watermarks it follows, each with how far behind rows may still come, nanoseconds: what the steps
    /// between hold back.
    pub follows: BTreeMap<SourceId, i64>,
    /// Columns each value of which comes in one epoch and never again: the bounds of windows that are put out once.
    pub windows: Vec<String>,
}

/// A column that shows the event time no longer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Replaced {
    /// The column.
    pub column: String,
    /// The step that replaces it.
    pub step: String,
    /// Where it is replaced.
    pub span: Span,
}

impl EventTime {
    /// Event time that follows what several streams do.
    pub fn of_all<'a>(all: impl IntoIterator<Item = &'a EventTime>) -> EventTime {
        let mut one = EventTime::default();
        for event_time in all {
            one.replaced = one.replaced.or_else(|| event_time.replaced.clone());
            one.max_delay_ns = one.max_delay_ns.max(event_time.max_delay_ns);
            for (source, hold_ns) in &event_time.follows {
                let held = one.follows.entry(*source).or_default();
                *held = (*held).max(*hold_ns);
            }
        }
        one
    }

    /// The event time of rows that a step makes, up to `hold_ns` behind the watermark of what it reads.
    pub fn held(&self, hold_ns: i64) -> EventTime {
        let follows = self.follows.iter().map(|(source, held)| (*source, held.saturating_add(hold_ns))).collect();
        EventTime { follows, ..EventTime::default() }
    }
}

impl StreamKind {
    /// Whether rows may be taken back.
    pub fn is_changelog(&self) -> bool {
        matches!(self, StreamKind::Changelog { .. })
    }
}

/// Whether rows are facts or changes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StreamKind {
    /// Each row is a fact that stays.
    Append,
    /// Rows insert and delete; the key tells which row they speak of.
    Changelog {
        /// The columns of the key.
        key: Vec<String>,
    },
}

/// The planned, immutable form of a step: what `render` or `start` of its kind downcasts to its own type.
pub trait Planned: Any + Send + Sync + Debug {
    /// The columns of each input that must be there when the `wanted` columns of each output port are read.
    ///
    /// This prunes columns down to the decoder: a step is rendered against inputs that hold these columns only.
    fn reads(&self, wanted: &[Columns]) -> Vec<Columns>;

    /// What a person should see of the step in `dry-run`, `graph` and `plan`: `("where", "amount > 0")`. Never a secret.
    fn facts(&self) -> Vec<(String, String)> {
        Vec::new()
    }

    /// At the multiples of how many nanoseconds of the clock it puts something out, though no row comes; none where it goes by rows
    /// and watermarks alone.
    fn ticks_ns(&self) -> Option<i64> {
        None
    }

    /// What is to be said of it where an input never ends: state that grows for ever, or results that never come.
    fn endless(&self) -> Option<Caution> {
        None
    }

    /// What its slots are made of when these columns of each output are read, for steps whose state can be converted when that
    /// changes.
    fn state_layout(&self, _wanted: &[Columns]) -> Option<StateLayout> {
        None
    }

    /// Of a source: whether what it hands out is removed from its system once every sink has taken it.
    fn removes(&self) -> bool {
        false
    }

    /// What the component uses that another one must not use at the same time.
    fn claims(&self) -> Vec<Claim> {
        Vec::new()
    }
}

/// What the slots of a step are made of.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StateLayout {
    /// What must be the same for one to go on with the state of the other, beside the kind, the inputs and their keys.
    pub fixed: String,
    /// The parts of a slot, in a form that the kind alone reads: of those that are others it can keep what both have.
    pub parts: String,
}

/// What a warning says, and what can be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Caution {
    /// What is to be expected.
    pub message: String,
    /// What can be done.
    pub help: String,
}

/// A component's use of a thing outside of the pipeline: a file, the standard input.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claim {
    /// The thing, in one form whoever names it.
    pub thing: String,
    /// How it is used.
    pub by: Use,
}

impl Claim {
    /// A use of the file at `path`, which is relative to `base_dir`. Links are not followed: a plan looks at no file.
    pub fn file(base_dir: &Path, path: &str, by: Use) -> Claim {
        let mut clean = PathBuf::new();
        for part in base_dir.join(path).components() {
            match part {
                path::Component::CurDir => {}
                path::Component::ParentDir if clean.file_name().is_some() => {
                    clean.pop();
                }
                part => clean.push(part),
            }
        }
        Claim { thing: format!("the file {}", clean.display()), by }
    }
}

/// How a component uses a thing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Use {
    /// Others may read it as well.
    Read,
    /// What one reads is gone for others.
    Take,
    /// Nobody else may read or write it.
    Write,
}

impl dyn Planned {
    /// The concrete planned type of a kind.
    pub fn downcast<T: Planned>(&self) -> Option<&T> {
        (self as &dyn Any).downcast_ref()
    }
}

/// What a kind is told while it plans one component, and where it leaves problems.
pub struct Cx<'a> {
    /// The component: its name, type, config node and the folder its paths are relative to.
    pub component: &'a Component,
    /// The part of the component's map that is the kind's own: without `type` and the keys that all kinds share.
    pub config: Node,
    /// Files, through which all reading goes.
    pub files: &'a dyn Files,
    /// Parameters and functions of expressions.
    pub expr: &'a Context,
    /// Problems found.
    pub diagnostics: &'a mut Diagnostics,
    /// Files that spans point into; schemas and cards that are read get added.
    pub sources: &'a mut SourceMap,
    /// The connections of the pipeline, by name.
    pub connections: &'a IndexMap<String, Component>,
    /// The planned models of the pipeline, by name.
    pub models: &'a ModelSet,
    /// The whole pipeline: what is declared, planned or not.
    pub root: &'a Node,
}

impl Cx<'_> {
    /// The kind's config struct, or `None` with every problem noted.
    pub fn config<T: DeserializeOwned>(&mut self) -> Option<T> {
        let mut found = Diagnostics::new();
        let config = self.config.decode(&mut found);
        self.diagnostics.extend(found);
        config
    }

    /// The place of a key of the component, for a diagnostic.
    pub fn span(&self, path: &[&str]) -> Span {
        self.component.node.span_at(path)
    }

    /// Notes a problem.
    pub fn push(&mut self, diagnostic: Diagnostic) {
        self.diagnostics.push(diagnostic);
    }

    /// Notes an error at a key of the component.
    pub fn error(&mut self, code: Code, path: &[&str], message: impl Into<String>) {
        let span = self.span(path);
        self.push(Diagnostic::error(code, span, message));
    }

    /// Notes that something can't be checked, because of a problem that is told elsewhere. It counts as an error and is
    /// never shown.
    pub fn follows(&mut self, path: &[&str]) {
        let span = self.span(path);
        self.push(Diagnostic::error(FOLLOWS, span, "a part of this is not known"));
    }

    /// Plans the scalar expression written at `path`; a problem points at the very characters.
    pub fn scalar(&mut self, path: &[&str], expression: &Expression, scope: &Scope) -> Option<Scalar> {
        let planned = self.expr.scalar(&expression.0, scope);
        self.noted(path, planned)
    }

    /// Plans the boolean expression written at `path`.
    pub fn predicate(&mut self, path: &[&str], expression: &Expression, scope: &Scope) -> Option<Scalar> {
        let planned = self.expr.predicate(&expression.0, scope);
        self.noted(path, planned)
    }

    /// The column that is named at `path`, or a problem with the nearest name. A column that a wrong step before makes is
    /// none, and no problem of its own.
    pub fn column<'s>(&mut self, path: &[&str], name: &str, schema: &'s SchemaRef) -> Option<&'s Field> {
        let span = self.span(path);
        self.column_at(span, name, schema)
    }

    /// The same for a column that is named at `span`: a key of a map, for one.
    pub fn column_at<'s>(&mut self, span: Span, name: &str, schema: &'s SchemaRef) -> Option<&'s Field> {
        match schema.field_with_name(name) {
            Ok(field) if !field.data_type().is_null() => return Some(field),
            Err(_) if !is_open(schema) => {}
            _ => {
                self.push(Diagnostic::error(FOLLOWS, span, "a part of this is not known"));
                return None;
            }
        }
        const SHOWN_MAX: usize = 12;
        let columns: Vec<&str> = schema.fields().iter().map(|field| field.name().as_str()).collect();
        let problem = Diagnostic::error(codes::UNKNOWN_COLUMN, span, format!("there is no column `{name}` here"))
            .did_you_mean(name, columns.iter().copied());
        let shown: Vec<String> = columns.iter().take(SHOWN_MAX).map(|column| format!("`{column}`")).collect();
        let more = if columns.len() > SHOWN_MAX { ", ..." } else { "" };
        self.push(match columns.len() {
            0 => problem.help("the rows have no columns"),
            _ => problem.help(format!("the columns are {}{more}", shown.join(", "))),
        });
        None
    }

    /// The connection that is named at `path`, which must be of type `kind`; or a problem.
    pub fn connection(&mut self, path: &[&str], name: &str, kind: &str) -> Option<&Component> {
        let connections = self.connections;
        let span = self.span(path);
        let Some(connection) = connections.get(name) else {
            if self.is_declared("connections", name) {
                self.follows(path);
                return None;
            }
            let problem =
                Diagnostic::error(codes::UNKNOWN_CONNECTION, span, format!("there is no connection named `{name}`"))
                    .did_you_mean(name, connections.keys().map(String::as_str));
            let known: Vec<String> = connections.keys().map(|name| format!("`{name}`")).collect();
            self.push(match known.len() {
                0 => problem.help(format!("declare it: `connections: {{ {name}: {{ type: {kind}, ... }} }}`")),
                1..=8 if problem.help.is_empty() => problem.help(format!("the connections are {}", known.join(", "))),
                _ => problem,
            });
            return None;
        };
        if connection.kind != kind {
            let message = format!("`{name}` is a connection of type `{}`, and this needs `{kind}`", connection.kind);
            let fitting: Vec<&Component> = connections.values().filter(|other| other.kind == kind).collect();
            let problem = Diagnostic::error(codes::CONNECTION_KIND, span, message)
                .also(connection.kind_span, format!("`{name}` is `{}`", connection.kind));
            self.push(match fitting.as_slice() {
                [] => problem.help(format!("declare a connection of type `{kind}`")),
                [one, ..] => problem.help(format!("`{}` is of type `{kind}`", one.name)),
            });
            return None;
        }
        Some(connection)
    }

    /// The model that is named at `path`, or a problem. A model whose own card is wrong is none, and no problem of its own.
    pub fn model(&mut self, path: &[&str], name: &str) -> Option<Arc<dyn PlannedModel>> {
        let models = self.models;
        if let Some(model) = models.get(name) {
            return Some(model.clone());
        }
        if self.is_declared("models", name) {
            self.follows(path);
            return None;
        }
        let span = self.span(path);
        let problem = Diagnostic::error(codes::UNKNOWN_MODEL, span, format!("there is no model named `{name}`"))
            .did_you_mean(name, models.keys().map(String::as_str));
        let known: Vec<String> = models.keys().map(|name| format!("`{name}`")).collect();
        self.push(match known.len() {
            0 => problem.help(format!("declare it: `models: {{ {name}: models/{name}/model.yaml }}`")),
            1..=8 if problem.help.is_empty() => problem.help(format!("the models are {}", known.join(", "))),
            _ => problem,
        });
        None
    }

    fn is_declared(&self, section: &str, name: &str) -> bool {
        self.root.get(section).is_some_and(|section| section.get(name).is_some())
    }

    /// Whether the value of the expression at `path` is the same whenever a row is looked at, as it must be of rows that may be
    /// taken back; where not, that is noted.
    pub fn lasts(&mut self, path: &[&str], value: &Scalar, input: &StreamType) -> bool {
        let lasts = !input.kind.is_changelog() || !value.reads_now() && !value.reads_position();
        if !lasts {
            let what = if value.reads_now() { "the time of the row's arrival" } else { "a random number" };
            let message = format!("{what} is another one when the row is taken back");
            let span = self.span(path);
            self.push(
                Diagnostic::error(codes::CHANGELOG_INPUT, span, message)
                    .at_caret("these rows are a changelog")
                    .help("compute it before the step that makes the changelog, as a column"),
            );
        }
        lasts
    }

    /// Turns the problems of the expression at `path` into diagnostics.
    pub fn noted<T>(&mut self, path: &[&str], planned: Result<T, ExprError>) -> Option<T> {
        match planned {
            Ok(planned) => Some(planned),
            Err(error) => {
                let node = self.component.node.at(path);
                for problem in error.all() {
                    let span = match (node, problem.range) {
                        (Some(node), Some(range)) => node.locate(range),
                        (Some(node), None) => node.span,
                        (None, _) => self.span(path),
                    };
                    let mut diagnostic = Diagnostic::error(problem.code, span, problem.message);
                    diagnostic.help = problem.help;
                    self.push(diagnostic);
                }
                None
            }
        }
    }
}

/// A kind of operator.
pub struct OperatorKind {
    /// The `type:` in the file.
    pub name: &'static str,
    /// One line for the reference.
    pub summary: &'static str,
    /// The JSON Schema of its own keys.
    pub config_schema: fn(&mut SchemaGenerator) -> Schema,
    /// How many inputs it takes, and under which keys they stand.
    pub inputs: InputKeys,
    /// Checks a component and plans it. `None` only with an error noted.
    ///
    /// Where there are errors and its outputs can be told all the same, it gives those ([`PlannedOperator::wrong`]), so that
    /// what stands behind it is checked: a column that could not be planned is of type null, and a stream whose columns are
    /// not all known has an open schema ([`engine_expr::open`]).
    pub plan: fn(&mut Cx<'_>, inputs: &[StreamType]) -> Option<PlannedOperator>,
}

/// The keys under which an operator names its inputs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InputKeys {
    /// `input:`
    One,
    /// `inputs:`, a list of two or more.
    Many,
    /// Inputs with a key each, such as `left:` and `right:`, all of them due. Beside each stands what it is, for the reference.
    Named(&'static [(&'static str, &'static str)]),
}

impl InputKeys {
    /// The keys, in the order of the inputs.
    pub fn keys(self) -> Vec<&'static str> {
        match self {
            InputKeys::One => vec!["input"],
            InputKeys::Many => vec!["inputs"],
            InputKeys::Named(keys) => keys.iter().map(|(key, _)| *key).collect(),
        }
    }
}

/// An output port of a step.
#[derive(Clone, Debug)]
pub struct Output {
    /// Empty for the main output; `rejected`, `late`, a case's name for side outputs, read as `step.name`.
    pub port: String,
    /// Its rows.
    pub stream: StreamType,
}

/// What an operator's `plan` gives.
#[derive(Debug)]
pub struct PlannedOperator {
    /// Its outputs: the main one first. The error output is added by the planner where `can_fail`.
    pub outputs: Vec<Output>,
    /// Whether a row can fail, so that there is a `name.errors`.
    pub can_fail: bool,
    /// Key columns of each input, where rows must be brought together by key; an empty list brings all to one worker.
    pub exchange: Option<Vec<Vec<String>>>,
    /// What it keeps, in words for the dry-run ("recent rows by card, 30d"), where it has state.
    pub state: Option<String>,
    /// Whether it acts on watermarks.
    pub timed: bool,
    /// Its planned form.
    pub planned: Arc<dyn Planned>,
}

impl PlannedOperator {
    /// What can be told of an operator that has errors. A column that is there twice, which is one of them, is of no known
    /// type.
    pub fn wrong(mut outputs: Vec<Output>) -> PlannedOperator {
        for output in &mut outputs {
            let fields = output.stream.schema.fields();
            let mut once: IndexMap<String, FieldRef> = IndexMap::with_capacity(fields.len());
            for field in fields {
                let twice = once.contains_key(field.name());
                let unknown = || Arc::new(field.as_ref().clone().with_data_type(DataType::Null));
                once.insert(field.name().clone(), if twice { unknown() } else { field.clone() });
            }
            if once.len() < fields.len() {
                output.stream = output.stream.with_columns(once.into_values().collect::<Vec<_>>());
            }
        }
        PlannedOperator {
            outputs,
            can_fail: true,
            exchange: None,
            state: None,
            timed: false,
            planned: Arc::new(Unplanned),
        }
    }
}

/// Stands in for a step that could not be planned. Never in a plan.
#[derive(Debug)]
pub(crate) struct Unplanned;

impl Planned for Unplanned {
    fn reads(&self, wanted: &[Columns]) -> Vec<Columns> {
        vec![wanted.iter().flatten().cloned().collect()]
    }
}

/// A kind of source.
pub struct SourceKind {
    /// The `type:` in the file.
    pub name: &'static str,
    /// One line for the reference.
    pub summary: &'static str,
    /// The JSON Schema of its own keys.
    pub config_schema: fn(&mut SchemaGenerator) -> Schema,
    /// Whether it decodes records, and so takes `format`, `schema` and `metadata`.
    pub decodes: bool,
    /// What `metadata:` may name: `key`, `headers['...']`, `timestamp`, `path`, ...
    pub metadata: &'static [&'static str],
    /// Checks a component and plans it. `None` only with an error noted.
    pub plan: fn(&mut Cx<'_>, common: &SourceCommon) -> Option<PlannedSource>,
}

/// The keys that every decoding source shares, checked by the planner.
#[derive(Clone, Debug)]
pub struct SourceCommon {
    /// The columns of `schema:`; `None` where it was not given.
    pub schema: Option<SchemaRef>,
    /// `extra: error` in the schema: an unknown field fails the record.
    pub extra_error: bool,
    /// The node of `format:` (a name or a map with `type`), where it was given.
    pub format: Option<Node>,
    /// `metadata:`: new column and what it names.
    pub metadata: Vec<(String, String)>,
}

/// What a source's `plan` gives.
#[derive(Debug)]
pub struct PlannedSource {
    /// The columns it can hand out: those of the schema, then those of `metadata`.
    pub schema: SchemaRef,
    /// Whether it can be read again from a recorded mark.
    pub replayable: bool,
    /// Whether it comes to an end by itself.
    pub finite: bool,
    /// Its planned form.
    pub planned: Arc<dyn Planned>,
}

/// A kind of sink.
pub struct SinkKind {
    /// The `type:` in the file.
    pub name: &'static str,
    /// One line for the reference.
    pub summary: &'static str,
    /// The JSON Schema of its own keys.
    pub config_schema: fn(&mut SchemaGenerator) -> Schema,
    /// Whether it encodes rows, and so takes `format` and `timestamps`.
    pub encodes: bool,
    /// Whether it has expressions of its own, such as a record's key. They see the columns that `columns` gives and beside
    /// them those it leaves out: `input` of `plan` has both, and [`SinkCommon::columns`] the ones that are put out.
    pub sees_all: bool,
    /// Whether it takes changelogs; otherwise rows that stay only.
    pub changelogs: bool,
    /// Checks a component and plans it. `None` only with an error noted.
    pub plan: fn(&mut Cx<'_>, input: &StreamType, common: &SinkCommon) -> Option<PlannedSink>,
}

/// The keys that every encoding sink shares. `where` and `columns` are planned as steps before the sink.
#[derive(Clone, Debug)]
pub struct SinkCommon {
    /// The node of `format:`, where it was given.
    pub format: Option<Node>,
    /// The node of `timestamps:`, where it was given.
    pub timestamps: Option<Node>,
    /// The columns that are put out. The rows that come have them first; behind them stand those that the sink reads beside.
    /// The first column of a changelog is [`hidden::CHANGE`], which says what becomes of the row.
    pub columns: SchemaRef,
}

/// What a sink's `plan` gives.
#[derive(Debug)]
pub struct PlannedSink {
    /// Whether a row can fail for good (delivery refused, encoding), so that there is a `name.errors`.
    pub can_fail: bool,
    /// The longest a delivery may take before it fails, nanoseconds, where it is bounded: for the latency estimate.
    pub timeout_ns: Option<i64>,
    /// Whether it can deliver exactly once as it is configured.
    pub exactly_once: ExactlyOnce,
    /// Its planned form.
    pub planned: Arc<dyn Planned>,
}

/// Whether a sink can deliver exactly once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExactlyOnce {
    /// It can: by what means, as the end of a sentence that begins with "exactly once by".
    By(&'static str),
    /// It can't.
    No {
        /// Why, as a sentence without its full stop.
        reason: &'static str,
        /// What to do instead.
        help: &'static str,
    },
}

/// A kind of connection.
pub struct ConnectionKind {
    /// The `type:` in the file.
    pub name: &'static str,
    /// One line for the reference.
    pub summary: &'static str,
    /// The JSON Schema of its own keys.
    pub config_schema: fn(&mut SchemaGenerator) -> Schema,
    /// Checks a connection, used or not.
    pub check: fn(&mut Cx<'_>),
}

/// The registries, handed to the planner by the command line.
#[derive(Clone, Default)]
pub struct Registries {
    /// Kinds of source.
    pub sources: Vec<&'static SourceKind>,
    /// Kinds of operator.
    pub operators: Vec<&'static OperatorKind>,
    /// Kinds of sink.
    pub sinks: Vec<&'static SinkKind>,
    /// Kinds of connection.
    pub connections: Vec<&'static ConnectionKind>,
    /// Kinds of model.
    pub models: Vec<&'static ModelKind>,
}
