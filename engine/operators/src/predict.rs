//! `predict`: a model's outputs as new columns. The config and its checks; scoring stands in [`step`].

mod mock;
mod step;

use crate::{OperatorEntry, Render, check, planned};
use arrow::datatypes::{DataType, Field, FieldRef};
use engine_base::codes::{operator as codes, spec as spec_codes};
use engine_base::{Diagnostic, suggest};
use engine_plan::kinds::InputKeys;
use engine_plan::{
    Columns, Cx, Dim, OperatorKind, Output, Planned, PlannedModel, PlannedOperator, StreamType, TensorSpec, types,
};
use engine_spec::{Node, TimeSpan};
use indexmap::IndexMap;
use mock::MockPlan;
use schemars::{JsonSchema, Schema as JsonForm, SchemaGenerator, json_schema};
use serde::Deserialize;
use std::sync::Arc;

/// How many rows go to a model at once, unless `batch.max_rows` says otherwise.
const DEFAULT_MAX_ROWS: u32 = 256;

/// The most that `batch.max_rows` may be: beyond it nothing is won, and the features of a batch leave the caches.
const MOST_MAX_ROWS: u32 = 65_536;

static KIND: OperatorKind = OperatorKind {
    name: "predict",
    summary: "Adds a model's outputs as new columns.",
    config_schema: |generator| generator.subschema_for::<PredictConfig>(),
    inputs: InputKeys::One,
    plan,
};

/// The kind for tests: it also takes `mock`.
static TESTED: OperatorKind = OperatorKind {
    config_schema: |generator| {
        let mut schema = PredictConfig::json_schema(generator);
        if let Some(properties) = schema.get_mut("properties").and_then(|properties| properties.as_object_mut()) {
            properties.insert(mock::KEY.to_owned(), true.into());
        }
        schema
    },
    plan: |cx, inputs| {
        cx.config = cx.config.without(&[mock::KEY]);
        plan(cx, inputs)
    },
    ..KIND
};

/// `predict` as tests know it: its component may have the key `mock`, which says what the model answers.
pub(crate) fn tested() -> &'static OperatorKind {
    &TESTED
}

/// The registry line of `predict`.
pub(crate) fn entry() -> OperatorEntry {
    OperatorEntry {
        kind: &KIND,
        render: Render::Rows(|plan, cx| step::render(planned::<PredictPlan>(plan, "predict")?, cx)),
    }
}

/// Adds a model's outputs as new columns, one row for each row.
///
/// Beside the columns of `outputs` there are `NAME_status` (`ok`, or `fallback` where the model could not score the
/// row) and `NAME_model` (the digest of the model's card and weights), NAME being that of the step, with `_` for what
/// can't stand in an identifier.
///
/// A row fails if a feature is null and the card has no default for it, if a feature is NaN or too large for the
/// model's type, if a list has the wrong length, if the model fails on it, or if the model puts out NaN. What becomes
/// of it says `on_error`; every other row goes on.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct PredictConfig {
    /// The name of a model under `models:`.
    model: String,
    /// The columns that the model takes, in its order: a list, or for a model with several inputs `input: [columns]`.
    /// Integers, decimals and wider floats are cast to the model's type, booleans are 0 and 1; a list counts as its
    /// elements.
    features: Features,
    /// `new column: output of the model`, or a list of outputs whose columns have the same names.
    outputs: Outputs,
    /// What becomes of a row that the model can't score.
    #[serde(default)]
    on_error: OnError,
    /// Bounds on how many rows the model gets at once. Nobody has to set them.
    #[serde(default)]
    batch: Batch,
    /// Not built yet: how long all attempts together may take, for models that are not inline.
    #[schemars(schema_with = "anything")]
    #[serde(default)]
    timeout: Option<Node>,
    /// Not built yet: how long one attempt may take, for models that are not inline.
    #[schemars(schema_with = "anything")]
    #[serde(default)]
    attempt_timeout: Option<Node>,
    /// Not built yet: how long rows may hold up those behind them, for models that are not inline.
    #[schemars(schema_with = "anything")]
    #[serde(default)]
    hold: Option<Node>,
    /// Not built yet: how many rows may wait for an answer, for models that are not inline.
    #[schemars(schema_with = "anything")]
    #[serde(default)]
    pending: Option<Node>,
    /// Not built yet: several models, each for a share of the rows.
    #[schemars(schema_with = "anything")]
    #[serde(default)]
    split: Option<Node>,
    /// Not built yet: a second model whose scores are compared and not acted on.
    #[schemars(schema_with = "anything")]
    #[serde(default)]
    shadow: Option<Node>,
    /// Not built yet: what a chat model is asked.
    #[schemars(schema_with = "anything")]
    #[serde(default)]
    prompt: Option<Node>,
    /// Not built yet: the columns of a chat model's answer.
    #[schemars(schema_with = "anything")]
    #[serde(default)]
    response: Option<Node>,
    /// Not built yet: retries of a remote model.
    #[schemars(schema_with = "anything")]
    #[serde(default)]
    retry: Option<Node>,
    /// Not built yet: when a remote model is left alone for a while.
    #[schemars(schema_with = "anything")]
    #[serde(default)]
    breaker: Option<Node>,
    /// Not built yet: how many requests to a remote model may be under way.
    #[schemars(schema_with = "anything")]
    #[serde(default)]
    max_in_flight: Option<Node>,
    /// Not built yet: how many requests a second a remote model may get.
    #[schemars(schema_with = "anything")]
    #[serde(default)]
    rate: Option<Node>,
}

fn anything(_: &mut SchemaGenerator) -> JsonForm {
    json_schema!(true)
}

/// The columns that a model takes.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(untagged, expecting = "a list of columns is due here, or `input: [columns]` for each input of the model")]
enum Features {
    /// Those of the only input.
    One(Vec<String>),
    /// Those of each input.
    Each(IndexMap<String, Vec<String>>),
}

/// New columns and the outputs they hold.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(untagged, expecting = "`new column: output` for each new column is due here, or a list of outputs")]
enum Outputs {
    /// Columns named as the outputs.
    Same(Vec<String>),
    /// New column: output.
    Named(IndexMap<String, String>),
}

/// What becomes of a row that can't be scored.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
enum OnError {
    /// It goes to `NAME.errors`.
    #[default]
    DeadLetter,
    /// The pipeline stops with an error that names the row, and reads it again when it is started again: for models that
    /// must not fail, where a row that is left out would do harm.
    Stop,
    /// It goes on with these values: for each new column a number, a list of numbers, or null.
    Fallback(IndexMap<String, Literal>),
}

/// The value of a column in a row that can't be scored.
#[derive(Clone, Debug, PartialEq, Deserialize, JsonSchema)]
#[serde(untagged, expecting = "a number is due here, a list of numbers, or `null`")]
enum Literal {
    /// Of a `float32` column.
    Number(f32),
    /// Of a list column.
    List(Vec<f32>),
    /// Of any.
    Null(()),
}

/// Bounds on batches.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
struct Batch {
    /// The most rows at once, 256 unless said.
    #[schemars(range(min = 1, max = 65_536))]
    max_rows: Option<u32>,
    /// Not built yet: how long rows wait for company. An inline model takes what is there.
    #[schemars(skip)]
    max_wait: Option<TimeSpan>,
}

/// A planned `predict`.
#[derive(Debug)]
pub struct PredictPlan {
    model: Arc<dyn PlannedModel>,
    /// For each input of the model, what is fed to it.
    inputs: Vec<Vec<Feature>>,
    outputs: Vec<OutputColumn>,
    /// Whether a row that can't be scored goes on with the fallbacks of `outputs`.
    falls_back: bool,
    /// Whether such a row stops the pipeline.
    stops: bool,
    status: String,
    digest: String,
    max_rows: usize,
    /// In a test, what is answered instead.
    mock: Option<MockPlan>,
}

/// A column and how many elements of the model's input it fills.
#[derive(Clone, Debug, PartialEq)]
struct Feature {
    column: String,
    /// `None` for a number, else the length of the list.
    list: Option<usize>,
}

/// A new column.
#[derive(Debug)]
struct OutputColumn {
    field: FieldRef,
    /// The index of the model's output.
    output: usize,
    /// `None` for a number, else the length of the list.
    list: Option<usize>,
    /// The value in a row that can't be scored; `None` for null.
    fallback: Option<Vec<f32>>,
}

impl Planned for PredictPlan {
    fn reads(&self, wanted: &[Columns]) -> Vec<Columns> {
        let own = |name: &String| {
            *name == self.status
                || *name == self.digest
                || self.outputs.iter().any(|output| output.field.name() == name)
        };
        let mut reads: Columns = wanted.iter().flatten().filter(|name| !own(name)).cloned().collect();
        reads.extend(self.inputs.iter().flatten().map(|feature| feature.column.clone()));
        reads.extend(self.mock.iter().flat_map(MockPlan::reads));
        vec![reads]
    }

    fn facts(&self) -> Vec<(String, String)> {
        let features = self.inputs.iter().zip(self.model.inputs()).map(|(features, input)| {
            let names: Vec<&str> = features.iter().map(|feature| feature.column.as_str()).collect();
            format!("{}: {} ({})", input.name, shape(input), names.join(", "))
        });
        let outputs = self.outputs.iter().map(|output| {
            let from = &self.model.outputs()[output.output];
            format!("{}: {} ({})", output.field.name(), types::column_text(&output.field), from.name)
        });
        let on_error = match (self.falls_back, self.stops) {
            (true, _) => "fallback",
            (false, true) => "stop",
            (false, false) => "dead_letter",
        };
        let digest = self.model.digest();
        let mut facts = vec![
            ("model".to_owned(), format!("{} ({})", self.model.name(), digest.get(..12).unwrap_or(digest))),
            ("features".to_owned(), features.collect::<Vec<_>>().join("; ")),
            ("outputs".to_owned(), outputs.collect::<Vec<_>>().join(", ")),
            ("on_error".to_owned(), on_error.to_owned()),
        ];
        facts.push(match self.model.batch_invariant() {
            true => ("batch".to_owned(), format!("up to {} rows", self.max_rows)),
            false => ("batch".to_owned(), "1 row: the model's results depend on the batch".to_owned()),
        });
        facts
    }
}

/// `f32[N, 6]`
fn shape(tensor: &TensorSpec) -> String {
    let dims: Vec<String> = tensor
        .shape
        .iter()
        .map(|dim| match dim {
            Dim::Batch => "N".to_owned(),
            Dim::Size(size) => size.to_string(),
        })
        .collect();
    format!("f32[{}]", dims.join(", "))
}

fn plan(cx: &mut Cx<'_>, inputs: &[StreamType]) -> Option<PlannedOperator> {
    let input = inputs.first()?;
    let config: PredictConfig = cx.config()?;
    let noted = problems(cx);
    refuse(cx, &config);
    let Some(model) = cx.model(&["model"], &config.model) else {
        let names: Vec<String> = match config.outputs {
            Outputs::Same(names) => names,
            Outputs::Named(columns) => columns.into_keys().collect(),
        };
        let unknown = names.iter().map(|name| Arc::new(Field::new(name, DataType::Null, true)));
        return Some(wrong(cx, input, unknown.collect()));
    };
    let max_rows = max_rows(cx, &config.batch, &*model);
    let features = features(cx, &config.features, input, &*model);
    let mut outputs = outputs(cx, &config.outputs, input, &*model);
    let falls_back = match &config.on_error {
        OnError::Fallback(values) => {
            fallbacks(cx, values, &mut outputs);
            true
        }
        OnError::DeadLetter | OnError::Stop => false,
    };
    let stops = matches!(config.on_error, OnError::Stop);
    let [status, digest] = own_columns(cx);
    let mut fields: Vec<FieldRef> = input.schema.fields().iter().cloned().collect();
    fields.extend(outputs.iter().map(|output| output.field.clone()));
    for name in [&status, &digest] {
        if fields.iter().any(|field| field.name() == name) {
            let span = cx.component.name_span;
            cx.push(
                check::taken(span, name)
                    .at_caret(format!("this step adds `{name}`"))
                    .help("give the step or the column another name"),
            );
        }
        fields.push(Arc::new(Field::new(name, DataType::Utf8, false)));
    }
    let mock = mock::plan(cx, input, &outputs);
    if problems(cx) > noted {
        // An output that could not be planned is missing: any name may be it.
        return Some(wrong(cx, &input.opened(), outputs.into_iter().map(|output| output.field).collect()));
    }
    let stream = input.with_columns(fields);
    Some(PlannedOperator {
        outputs: vec![Output { port: String::new(), stream }],
        can_fail: !falls_back && !stops,
        exchange: None,
        state: None,
        timed: false,
        planned: Arc::new(PredictPlan {
            model,
            inputs: features,
            outputs,
            falls_back,
            stops,
            status,
            digest,
            max_rows,
            mock,
        }),
    })
}

/// What can be told of a step with errors.
fn wrong(cx: &Cx<'_>, input: &StreamType, outputs: Vec<FieldRef>) -> PlannedOperator {
    let own = own_columns(cx).into_iter().map(|name| Arc::new(Field::new(name, DataType::Utf8, false)));
    let fields: Vec<FieldRef> = input.schema.fields().iter().cloned().chain(outputs).chain(own).collect();
    PlannedOperator::wrong(vec![Output { port: String::new(), stream: input.with_columns(fields) }])
}

/// The columns that each `predict` adds beside its outputs: whether a row was scored, and by what.
fn own_columns(cx: &Cx<'_>) -> [String; 2] {
    let step = step_column(cx.component.local_name());
    [format!("{step}_status"), format!("{step}_model")]
}

/// How many errors are noted; warnings don't keep a step from being planned.
fn problems(cx: &Cx<'_>) -> usize {
    cx.diagnostics.iter().filter(|diagnostic| diagnostic.severity == engine_base::Severity::Error).count()
}

/// A step's name as part of a column's: that of an unnamed step of a chain has a dot.
fn step_column(name: &str) -> String {
    name.replace(|other: char| !other.is_alphanumeric() && other != '_', "_")
}

/// Refuses what the language has and this version has not.
fn refuse(cx: &mut Cx<'_>, config: &PredictConfig) {
    const INLINE: &str = "models run inline, on the worker: a row has its score when the call returns; leave this out";
    const REMOTE: &str = "only models on this machine are built yet; leave this out";
    let keys = [
        ("timeout", &config.timeout, INLINE),
        ("attempt_timeout", &config.attempt_timeout, INLINE),
        ("hold", &config.hold, INLINE),
        ("pending", &config.pending, INLINE),
        ("split", &config.split, "one step has one model: use a `route` before and a `union` after"),
        ("shadow", &config.shadow, "add a second `predict` step, and don't act on what it puts out"),
        ("prompt", &config.prompt, REMOTE),
        ("response", &config.response, REMOTE),
        ("retry", &config.retry, REMOTE),
        ("breaker", &config.breaker, REMOTE),
        ("max_in_flight", &config.max_in_flight, REMOTE),
        ("rate", &config.rate, REMOTE),
    ];
    for (key, value, why) in keys {
        if value.is_some() {
            check::not_built(cx, &[], key, why);
        }
    }
    if config.batch.max_wait.is_some() {
        check::not_built(cx, &["batch"], "max_wait", "an inline model takes what is there, without waiting");
    }
}

fn max_rows(cx: &mut Cx<'_>, batch: &Batch, model: &dyn PlannedModel) -> usize {
    let Some(max_rows) = batch.max_rows else { return DEFAULT_MAX_ROWS as usize };
    let span = cx.span(&["batch", "max_rows"]);
    if !(1..=MOST_MAX_ROWS).contains(&max_rows) {
        let message = format!("`max_rows` must be from 1 to {MOST_MAX_ROWS}");
        cx.push(Diagnostic::error(spec_codes::OUT_OF_RANGE, span, message).help("leave it out: 256 is right for most"));
    } else if !model.batch_invariant() {
        let message = format!("`max_rows` has no effect: the results of `{}` depend on the batch", model.name());
        cx.push(
            Diagnostic::warning(codes::NO_EFFECT, span, message)
                .help("leave it out: such a model gets one row at a time, so that a row always has the same score"),
        );
    }
    max_rows as usize
}

/// The features of each input of the model, in its order.
fn features(cx: &mut Cx<'_>, config: &Features, input: &StreamType, model: &dyn PlannedModel) -> Vec<Vec<Feature>> {
    match (config, model.inputs()) {
        (Features::One(columns), [only]) => vec![input_features(cx, &["features"], columns, input, model, only)],
        (Features::One(_), inputs) => {
            let span = cx.span(&["features"]);
            let example: Vec<String> = inputs.iter().map(|input| format!("{}: [...]", input.name)).collect();
            let message = format!("the model `{}` has {} inputs", model.name(), inputs.len());
            cx.push(
                Diagnostic::error(codes::MODEL_INPUTS, span, message)
                    .at_caret("this is a list for one input")
                    .help(format!("write `features: {{ {} }}`", example.join(", "))),
            );
            Vec::new()
        }
        (Features::Each(lists), inputs) => {
            let unknown: Vec<&String> =
                lists.keys().filter(|name| !inputs.iter().any(|input| input.name == **name)).collect();
            for name in &unknown {
                let span = check::key_span(cx, &["features"], name);
                let names = || inputs.iter().map(|input| input.name.as_str());
                let message = format!("the model `{}` has no input `{name}`", model.name());
                let mut error = Diagnostic::error(codes::MODEL_INPUTS, span, message).did_you_mean(name, names());
                error = error.help(match inputs {
                    [only] => format!("its only input is `{}`", only.name),
                    _ => format!("its inputs are {}", check::listed(names())),
                });
                cx.push(error);
            }
            let mut fed = Vec::new();
            for tensor in inputs {
                match lists.get(&tensor.name) {
                    Some(columns) => {
                        let path = ["features", tensor.name.as_str()];
                        fed.push(input_features(cx, &path, columns, input, model, tensor));
                    }
                    // A misspelt one was noted, with the right name.
                    None if unknown.iter().any(|name| suggest::nearest(name, [tensor.name.as_str()]).is_some()) => {}
                    None => {
                        let message =
                            format!("the input `{}` of the model `{}` gets nothing", tensor.name, model.name());
                        let span = check::key_span(cx, &[], "features");
                        cx.push(Diagnostic::error(codes::MODEL_INPUTS, span, message).help(format!(
                            "it takes {}: add `{}: [...]`",
                            shape(tensor),
                            tensor.name
                        )));
                    }
                }
            }
            fed
        }
    }
}

/// What a column gives as a feature.
enum Gives {
    Number,
    /// As many as its elements, known by its type or not.
    List(Option<usize>),
    Nothing,
}

fn gives(data_type: &DataType) -> Gives {
    let is_number = |data_type: &DataType| data_type.is_numeric() || *data_type == DataType::Boolean;
    match data_type {
        data_type if is_number(data_type) => Gives::Number,
        DataType::List(item) | DataType::LargeList(item) if is_number(item.data_type()) => Gives::List(None),
        DataType::FixedSizeList(item, size) if is_number(item.data_type()) => Gives::List(usize::try_from(*size).ok()),
        _ => Gives::Nothing,
    }
}

/// The features of one input; its problems are noted.
fn input_features(
    cx: &mut Cx<'_>,
    path: &[&str],
    columns: &[String],
    input: &StreamType,
    model: &dyn PlannedModel,
    tensor: &TensorSpec,
) -> Vec<Feature> {
    let noted = problems(cx);
    let mut found: Vec<(Feature, bool)> = Vec::new();
    for (at, name) in columns.iter().enumerate() {
        let place = at.to_string();
        let mut path = path.to_vec();
        path.push(&place);
        if let Some(feature) = feature(cx, &path, name, input, model, tensor) {
            found.push(feature);
        }
    }
    if problems(cx) > noted {
        return Vec::new();
    }
    let width = tensor.width();
    let given: usize = found.iter().filter(|(_, open)| !open).map(|(feature, _)| feature.list.unwrap_or(1)).sum();
    let open: Vec<usize> = (0..found.len()).filter(|at| found[*at].1).collect();
    match open.as_slice() {
        [] if given == width => {}
        // The only list whose length is not in its type gives what is left.
        [at] if given < width => found[*at].0.list = Some(width - given),
        [_, _, ..] => {
            let span = cx.span(path);
            let message = format!("{} lists are given whose lengths are not in their types", open.len());
            cx.push(
                Diagnostic::error(codes::FEATURE_COUNT, span, message)
                    .help("give at most one such list, or single elements: `set: { x1: x[1], x2: x[2] }` in a `map`"),
            );
        }
        lists => {
            let span = cx.span(path);
            let takes = match model.inputs() {
                [_] => format!("the model `{}` takes {}", model.name(), counted(width, "feature")),
                _ => format!("`{}` of the model `{}` takes {}", tensor.name, model.name(), counted(width, "feature")),
            };
            let are = if given == 1 { "is" } else { "are" };
            let besides = if lists.is_empty() { "" } else { " beside the list" };
            cx.push(
                Diagnostic::error(codes::FEATURE_COUNT, span, format!("{takes}, {given} {are} given{besides}"))
                    .at_caret(format!("its card says {}", shape(tensor)))
                    .help("name the columns that it was trained with, in the same order"),
            );
        }
    }
    found.into_iter().map(|(feature, _)| feature).collect()
}

fn counted(number: usize, what: &str) -> String {
    if number == 1 { format!("1 {what}") } else { format!("{number} {what}s") }
}

/// A column as a feature, and whether it is a list whose length is not in its type.
fn feature(
    cx: &mut Cx<'_>,
    path: &[&str],
    name: &str,
    input: &StreamType,
    model: &dyn PlannedModel,
    tensor: &TensorSpec,
) -> Option<(Feature, bool)> {
    let span = cx.span(path);
    let is_name = |c: char| c.is_alphanumeric() || "_-.@ ".contains(c);
    if input.schema.field_with_name(name).is_err() && !name.chars().all(is_name) {
        cx.push(
            Diagnostic::error(
                codes::FEATURE_TYPE,
                span,
                format!("a feature is a column, and `{name}` is an expression"),
            )
            .help(format!("make it a column in a `map` before: `set: {{ x: {name} }}`")),
        );
        return None;
    }
    let field = cx.column(path, name, &input.schema)?;
    let (list, open) = match gives(field.data_type()) {
        Gives::Number => (None, false),
        Gives::List(Some(size)) => (Some(size), false),
        Gives::List(None) => (Some(0), true),
        Gives::Nothing => {
            cx.push(
                Diagnostic::error(codes::FEATURE_TYPE, span, format!("`{name}` can't be a feature"))
                    .at_caret(format!("this is `{}`", types::column_text(field)))
                    .help(remedy(name, field.data_type())),
            );
            return None;
        }
    };
    let nullable_inside = match field.data_type() {
        DataType::List(item) | DataType::LargeList(item) | DataType::FixedSizeList(item, _) => item.is_nullable(),
        _ => false,
    };
    if (field.is_nullable() || nullable_inside) && tensor.default.is_none() {
        let what = if field.is_nullable() { "may be null" } else { "may hold nulls" };
        let message = format!("`{name}` {what}, and the model `{}` has no default for a null", model.name());
        let help = match list {
            None => {
                format!("a row with a null fails: write `coalesce({name}, 0)` in a `map` before, or filter such rows")
            }
            Some(_) => {
                format!(
                    "a row with a null fails: filter such rows, or write `defaults: {{ {}: 0 }}` in the card",
                    tensor.name
                )
            }
        };
        cx.push(Diagnostic::warning(codes::NULLABLE_FEATURE, span, message).help(help));
    }
    Some((Feature { column: name.to_owned(), list }, open))
}

/// How a column that is no number becomes one.
fn remedy(name: &str, data_type: &DataType) -> String {
    match data_type {
        DataType::Utf8 => {
            format!("make a number of it in a `map` before: `CASE {name} WHEN 'a' THEN 0 ELSE 1 END`")
        }
        DataType::Timestamp(..) | DataType::Date32 | DataType::Duration(_) => {
            format!("make a number of it in a `map` before: `date_part('hour', {name})`")
        }
        DataType::Struct(fields) => match fields.iter().find(|field| matches!(gives(field.data_type()), Gives::Number))
        {
            Some(field) => format!("take its fields in a `map` before: `{name}.{}`", field.name()),
            None => "features are numbers and lists of numbers".to_owned(),
        },
        _ => "features are numbers and lists of numbers".to_owned(),
    }
}

/// The new columns.
fn outputs(cx: &mut Cx<'_>, config: &Outputs, input: &StreamType, model: &dyn PlannedModel) -> Vec<OutputColumn> {
    let named: Vec<(&str, &str, Vec<String>)> = match config {
        Outputs::Same(names) => names
            .iter()
            .enumerate()
            .map(|(at, name)| (name.as_str(), name.as_str(), vec!["outputs".to_owned(), at.to_string()]))
            .collect(),
        Outputs::Named(names) => names
            .iter()
            .map(|(new, output)| (new.as_str(), output.as_str(), vec!["outputs".to_owned(), new.clone()]))
            .collect(),
    };
    if named.is_empty() {
        let first = model.outputs().first().map_or("score", |output| output.name.as_str());
        let span = check::key_span(cx, &[], "outputs");
        cx.push(
            Diagnostic::error(codes::NOTHING_TO_DO, span, "`outputs` names no column")
                .help(format!("name at least one: `outputs: {{ {first}: {first} }}`")),
        );
    }
    let mut columns: Vec<OutputColumn> = Vec::new();
    for (new, from, path) in named {
        let path: Vec<&str> = path.iter().map(String::as_str).collect();
        let span = cx.span(&path);
        let there =
            input.schema.field_with_name(new).is_ok() || columns.iter().any(|column| column.field.name() == new);
        if there {
            let span = match config {
                Outputs::Named(_) => check::key_span(cx, &["outputs"], new),
                Outputs::Same(_) => span,
            };
            cx.push(check::taken(span, new).help("give the new column another name: `outputs: { new: output }`"));
            continue;
        }
        let Some(output) = model.outputs().iter().position(|output| output.name == from) else {
            cx.push(unknown_output(span, new, from, model));
            continue;
        };
        let tensor = &model.outputs()[output];
        let list = match tensor.shape.as_slice() {
            [Dim::Batch] => None,
            [Dim::Batch, Dim::Size(size)] => Some(*size),
            _ => {
                let message = format!("`{from}` is {}, which can't be a column", shape(tensor));
                cx.push(
                    Diagnostic::error(codes::MODEL_OUTPUTS, span, message)
                        .help("a column holds `f32[N]` as numbers, or `f32[N, k]` as lists"),
                );
                continue;
            }
        };
        let data_type = match list {
            None => DataType::Float32,
            Some(_) => DataType::List(Arc::new(Field::new(Field::LIST_FIELD_DEFAULT_NAME, DataType::Float32, false))),
        };
        columns.push(OutputColumn { field: Arc::new(Field::new(new, data_type, false)), output, list, fallback: None });
    }
    columns
}

fn unknown_output(span: engine_base::Span, new: &str, from: &str, model: &dyn PlannedModel) -> Diagnostic {
    let names = || model.outputs().iter().map(|output| output.name.as_str());
    let message = format!("the model `{}` has no output `{from}`", model.name());
    let error = Diagnostic::error(codes::MODEL_OUTPUTS, span, message);
    if new != from && names().any(|name| name == new) {
        return error.help(format!("it is `new column: output`; did you mean `{from}: {new}`?"));
    }
    let error = error.did_you_mean(from, names());
    match model.outputs() {
        [only] => error.help(format!("its output is `{}`, {}", only.name, shape(only))),
        _ => error.help(format!("its outputs are {}", check::listed(names()))),
    }
}

/// The value of each new column in a row that can't be scored.
fn fallbacks(cx: &mut Cx<'_>, values: &IndexMap<String, Literal>, outputs: &mut [OutputColumn]) {
    let names: Vec<String> = outputs.iter().map(|output| output.field.name().clone()).collect();
    let unknown: Vec<&String> = values.keys().filter(|name| !names.contains(name)).collect();
    for name in &unknown {
        let span = check::key_span(cx, &["on_error", "fallback"], name);
        let message = format!("`{name}` is not one of the new columns of `outputs`");
        let error = Diagnostic::error(codes::BAD_FALLBACK, span, message);
        cx.push(
            error
                .did_you_mean(name, names.iter().map(String::as_str))
                .help(format!("the new columns are {}", check::listed(names.iter().map(String::as_str)))),
        );
    }
    for output in outputs {
        let name = output.field.name().clone();
        let Some(value) = values.get(&name) else {
            // A misspelt one was noted, with the right name.
            let misspelt = unknown.iter().any(|key| suggest::nearest(key, [name.as_str()]).is_some());
            if !misspelt {
                let span = cx.span(&["on_error", "fallback"]);
                cx.push(
                    Diagnostic::error(codes::BAD_FALLBACK, span, format!("there is no fallback for `{name}`"))
                        .help(format!("add `{name}:` with the value of a row that can't be scored")),
                );
            }
            continue;
        };
        output.fallback = match (value, output.list) {
            (Literal::Number(value), None) => Some(vec![*value]),
            (Literal::List(values), Some(len)) if values.len() == len => Some(values.clone()),
            (Literal::Null(()), _) => {
                output.field = Arc::new(output.field.as_ref().clone().with_nullable(true));
                None
            }
            (_, list) => {
                let span = cx.span(&["on_error", "fallback", &name]);
                let is = match list {
                    None => "a number".to_owned(),
                    Some(len) => format!("a list of {}", counted(len, "number")),
                };
                cx.push(
                    Diagnostic::error(codes::BAD_FALLBACK, span, format!("the fallback of `{name}` must be {is}"))
                        .help("or `null`"),
                );
                None
            }
        };
    }
}

#[cfg(test)]
mod tests {
    use crate::testing::{Given, check, check_problems};

    const SOURCE: &str = "schema: { id: int64, x: float64, n: int32, on: bool, maybe: float32 | null, list: list<float32>, text: string }";
    const MODELS: &str = "
        risk: { type: fake, inputs: { features: 2 }, outputs: { score: 0, pair: 2 } }
        lenient: { type: fake, inputs: { features: 2 }, outputs: { score: 0 }, default: 7.0 }
        two: { type: fake, inputs: { user: 1, item: 2 }, outputs: { score: 0 } }
        moody: { type: fake, inputs: { features: 2 }, outputs: { score: 0 }, depends_on_batch: true }";
    const LINES: &str = r#"
        {"id": 0, "x": 1.5, "n": 1, "on": true, "maybe": 1.0, "list": [1, 2], "text": ""}
        {"id": 1, "x": -1, "n": 2, "on": false, "maybe": null, "list": [1], "text": ""}
        {"id": 2, "x": -2, "n": 3, "on": true, "maybe": 2.0, "list": [1, 2, 3], "text": ""}
        {"id": 3, "x": -3, "n": 4, "on": true, "maybe": 3.0, "list": [], "text": ""}
        {"id": 4, "x": 1e300, "n": 5, "on": true, "maybe": 4.0, "list": [3, 4], "text": ""}
        {"id": 5, "x": 2.5, "n": 6, "on": true, "maybe": 5.0, "list": [5, 6], "text": ""}
    "#;

    fn predict<'a>(operators: &'a str, read: &'a [(&'a str, &'a [&'a str])]) -> Given<'a> {
        Given { source: SOURCE, models: MODELS, operators, read }
    }

    #[test]
    fn each_row_that_fails_does_so_alone() {
        check(
            &predict(
                "p: { type: predict, input: rows, model: risk, features: [x, n], outputs: { risk: score, both: pair } }",
                &[("p", &["id", "risk", "both", "p_status", "p_model"]), ("p.errors", &[])],
            ),
            LINES,
            r#"
            p {"id":0,"risk":2.5,"both":[2.5,3.5],"p_status":"ok","p_model":"d1ge57"}
            p {"id":5,"risk":8.5,"both":[8.5,9.5],"p_status":"ok","p_model":"d1ge57"}
            p.errors 1 panic: the model `risk` panicked: a feature of -1 {"id":1,"x":-1.0,"n":2,"on":false,"maybe":null,"list":[1.0],"text":""}
            p.errors 2 model: the model `risk` failed: a feature of -2 {"id":2,"x":-2.0,"n":3,"on":true,"maybe":2.0,"list":[1.0,2.0,3.0],"text":""}
            p.errors 3 nan: the model `risk` put out NaN for `risk` {"id":3,"x":-3.0,"n":4,"on":true,"maybe":3.0,"list":[],"text":""}
            p.errors 4 cast: the feature `x` is too large for a 32-bit float {"id":4,"x":1.0e300,"n":5,"on":true,"maybe":4.0,"list":[3.0,4.0],"text":""}
            "#,
        );
    }

    #[test]
    fn a_fallback_stands_in_for_the_score() {
        check(
            &predict(
                "
                p:
                  type: predict
                  input: rows
                  model: risk
                  features: [x, n]
                  outputs: { risk: score, both: pair }
                  on_error: { fallback: { risk: 1, both: null } }
                  batch: { max_rows: 2 }",
                &[("p", &["id", "risk", "both", "p_status"])],
            ),
            LINES,
            r#"
            p {"id":0,"risk":2.5,"both":[2.5,3.5],"p_status":"ok"}
            p {"id":1,"risk":1.0,"both":null,"p_status":"fallback"}
            p {"id":2,"risk":1.0,"both":null,"p_status":"fallback"}
            p {"id":3,"risk":1.0,"both":null,"p_status":"fallback"}
            p {"id":4,"risk":1.0,"both":null,"p_status":"fallback"}
            p {"id":5,"risk":8.5,"both":[8.5,9.5],"p_status":"ok"}
            "#,
        );
    }

    #[test]
    fn a_row_that_fails_can_stop_the_pipeline() {
        let keys = "p: { type: predict, input: rows, model: risk, features: [x, n], outputs: [score], on_error: stop }";
        let given = predict(keys, &[("p", &["id", "score"])]);
        let good = LINES.lines().take(2).collect::<Vec<_>>().join("\n");
        check(&given, &good, r#"p {"id":0,"score":2.5}"#);
        // One batch: nothing of it goes on. Row by row: those before it have.
        let whole = given.run(LINES, &[]);
        let fatal = "1 panic: the model `risk` panicked: a feature of -1";
        assert_eq!(whole["p stops"], [fatal]);
        assert!(!whole.contains_key("p"), "{whole:?}");
        let each = given.run(LINES, &[1]);
        assert_eq!(each["p stops"][0], fatal);
        assert_eq!(each["p"][0], r#"{"id":0,"score":2.5}"#);
        let (plan, problems) = given.plan();
        let plan = plan.expect(&problems);
        let step = plan.find("p").expect("the step");
        assert!(!step.can_fail);
        assert!(step.facts.contains(&("on_error".to_owned(), "stop".to_owned())));
    }

    #[test]
    fn nulls_and_lists_of_the_wrong_length_fail() {
        check(
            &predict(
                "
                nulls: { type: predict, input: rows, model: risk, features: [maybe, on], outputs: [score] }
                filled: { type: predict, input: rows, model: lenient, features: [maybe, on], outputs: { s: score } }
                lists: { type: predict, input: rows, model: risk, features: [list], outputs: { s: score } }",
                &[
                    ("nulls", &["id", "score"]),
                    ("nulls.errors", &[]),
                    ("filled", &["s"]),
                    ("lists", &["id", "s"]),
                    ("lists.errors", &[]),
                ],
            ),
            &LINES.lines().take(4).collect::<Vec<_>>().join("\n"),
            r#"
            filled {"s":2.0}
            filled {"s":7.0}
            filled {"s":3.0}
            lists {"id":0,"s":3.0}
            lists.errors 1 length: the feature `list` has 1 elements, and 2 are due {"id":1,"x":-1.0,"n":2,"on":false,"maybe":null,"list":[1.0],"text":""}
            lists.errors 2 length: the feature `list` has 3 elements, and 2 are due {"id":2,"x":-2.0,"n":3,"on":true,"maybe":2.0,"list":[1.0,2.0,3.0],"text":""}
            nulls {"id":0,"score":2.0}
            nulls {"id":2,"score":3.0}
            nulls.errors 1 null: the feature `maybe` is null, and the model has no default {"id":1,"x":-1.0,"n":2,"on":false,"maybe":null,"list":[1.0],"text":""}
            "#,
        );
    }

    #[test]
    fn several_inputs_and_models_that_depend_on_the_batch() {
        check(
            &predict(
                "
                p: { type: predict, input: rows, model: two, features: { item: [list], user: [n] }, outputs: [score] }
                m: { type: predict, input: rows, model: moody, features: [n, id], outputs: { s: score } }",
                &[("p", &["score"]), ("m", &["s"])],
            ),
            &LINES
                .lines()
                .filter(|line| line.contains("\"on\": true") && line.contains(", "))
                .take(1)
                .collect::<String>(),
            r#"
            m {"s":1001.0}
            p {"score":4.0}
            "#,
        );
        check(
            &predict(
                "m: { type: predict, input: rows, model: moody, features: [n, id], outputs: { s: score } }",
                &[("m", &["s"])],
            ),
            LINES,
            r#"
            m {"s":1001.0}
            m {"s":1003.0}
            m {"s":1005.0}
            m {"s":1007.0}
            m {"s":1009.0}
            m {"s":1011.0}
            "#,
        );
    }

    /// The problems of a `predict` with these keys beside `type` and `input`.
    fn problems(keys: &str, expected: &str) {
        let operators = format!("p: {{ type: predict, input: rows, {keys} }}");
        check_problems(&predict(&operators, &[("p", &[])]), expected);
    }

    #[test]
    fn features_are_held_against_the_card() {
        problems(
            "model: risc, features: [x, n], outputs: [score]",
            "E0316 `risc` there is no model named `risc` | did you mean `risk`?",
        );
        problems(
            "model: risk, features: [x], outputs: [score]",
            "E0354 `[x]` the model `risk` takes 2 features, 1 is given ^ its card says f32[N, 2] \
             | name the columns that it was trained with, in the same order",
        );
        problems(
            "model: risk, features: [list, x, n], outputs: [score]",
            "E0354 `[list, x, n]` the model `risk` takes 2 features, 2 are given beside the list ^ its card says f32[N, 2] \
             | name the columns that it was trained with, in the same order",
        );
        problems(
            "model: risk, features: [x, text], outputs: [score]",
            "E0355 `text` `text` can't be a feature ^ this is `string` \
             | make a number of it in a `map` before: `CASE text WHEN 'a' THEN 0 ELSE 1 END`",
        );
        problems(
            "model: risk, features: [x, maybe], outputs: [score]",
            "E0359 `maybe` `maybe` may be null, and the model `risk` has no default for a null \
             | a row with a null fails: write `coalesce(maybe, 0)` in a `map` before, or filter such rows",
        );
        problems(
            "model: risk, features: [x, 'n * 2'], outputs: [score]",
            "E0355 `'n * 2'` a feature is a column, and `n * 2` is an expression \
             | make it a column in a `map` before: `set: { x: n * 2 }`",
        );
        problems(
            "model: two, features: [x, n], outputs: [score]",
            "E0356 `[x, n]` the model `two` has 2 inputs ^ this is a list for one input | write `features: { user: [...], item: [...] }`",
        );
        problems(
            "model: two, features: { usr: [x] }, outputs: [score]",
            "
            E0356 `features` the input `item` of the model `two` gets nothing | it takes f32[N, 2]: add `item: [...]`
            E0356 `usr` the model `two` has no input `usr` | did you mean `user`? | its inputs are `user`, `item`
            ",
        );
    }

    #[test]
    fn outputs_are_held_against_the_card() {
        problems(
            "model: risk, features: [x, n], outputs: { risk: scor }",
            "E0357 `scor` the model `risk` has no output `scor` | did you mean `score`? | its outputs are `score`, `pair`",
        );
        problems(
            "model: risk, features: [x, n], outputs: { score: risk }",
            "E0357 `risk` the model `risk` has no output `risk` | it is `new column: output`; did you mean `risk: score`?",
        );
        problems(
            "model: risk, features: [x, n], outputs: { x: score }",
            "E0319 `x` there is a column `x` already | give the new column another name: `outputs: { new: output }`",
        );
        problems(
            "model: risk, features: [x, n], outputs: { r: score, both: pair }, on_error: { fallback: { r: [1], other: 2 } }",
            "
            E0358 `{ r: [1], other: 2 }` there is no fallback for `both` | add `both:` with the value of a row that can't be scored
            E0358 `[1]` the fallback of `r` must be a number | or `null`
            E0358 `other` `other` is not one of the new columns of `outputs` | the new columns are `r`, `both`
            ",
        );
    }

    #[test]
    fn what_is_not_built_is_said() {
        problems(
            "model: risk, features: [x, n], outputs: [score], timeout: 50ms, on_error: stop",
            "E0143 `timeout` `timeout` is not built yet \
             | models run inline, on the worker: a row has its score when the call returns; leave this out",
        );
        problems(
            "model: moody, features: [x, n], outputs: [score], batch: { max_rows: 8 }",
            "E0360 `8` `max_rows` has no effect: the results of `moody` depend on the batch \
             | leave it out: such a model gets one row at a time, so that a row always has the same score",
        );
        problems(
            "model: risk, features: [x, n], outputs: [score], batch: { max_rows: 0 }",
            "E0142 `0` `max_rows` must be from 1 to 65536 | leave it out: 256 is right for most",
        );
    }
}
