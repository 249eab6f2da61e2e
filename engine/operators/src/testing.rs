//! Row-wise pipelines in tests: YAML in, rows in as JSON lines, rows and failed rows out as JSON lines.
//!
//! A pipeline is loaded, planned and pruned as a real one, then its steps are run one after the other without a
//! dataflow. Every batch on the way is held against the plan: just the columns that somebody reads, of the planned
//! types.

use crate::{Render, RenderCx, payload, render_union_input};
use arrow::array::RecordBatch;
use arrow::datatypes::{Field, SchemaRef};
use arrow::json::ReaderBuilder;
use engine_base::{Diagnostics, SourceId, SourceMap, StepId, VirtualClock};
use engine_dataflow::rows::origin;
use engine_dataflow::{Positions, RowStep, Rows, StepOutput, Times};
use engine_plan::{
    Columns, Dim, ModelCx, ModelKind, Plan, Planned, PlannedModel, PlannedSink, PlannedSource, Registries, Role,
    Scorer, SinkCommon, SinkKind, SourceCommon, SourceKind, StreamType, TensorSpec, TensorType, hidden,
};
use engine_spec::{Files, LoadOptions};
use engine_state::cold::MemoryCold;
use engine_state::{MemoryStore, SlotState, SlotStore, StateMemory, TieredStore};
use indexmap::IndexMap;
use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::Deserialize;
use std::cell::Cell;
use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// When the test rows were taken in: 2026-01-01T00:00:00Z.
const INGEST_NS: i64 = 1_767_225_600_000_000_000;

/// A pipeline of test rows from a source `rows`, through some operators, to whoever reads.
#[derive(Clone, Default)]
pub(crate) struct Given<'a> {
    /// Further keys of the source, among them `schema`.
    pub(crate) source: &'a str,
    /// The `operators:`.
    pub(crate) operators: &'a str,
    /// The `models:`, of type `fake`.
    pub(crate) models: &'a str,
    /// What is read, each with the columns it is read for; none for all.
    pub(crate) read: &'a [(&'a str, &'a [&'a str])],
}

impl Given<'_> {
    /// The pipeline file.
    pub(crate) fn yaml(&self) -> String {
        let mut text =
            format!("version: 1\npipeline: test\nsources:\n  rows:\n    type: rows\n{}", indent(self.source, 4));
        if !self.models.is_empty() {
            text += &format!("models:\n{}", indent(self.models, 2));
        }
        text += &format!("operators:\n{}sinks:\n", indent(self.operators, 2));
        for (at, (name, columns)) in self.read.iter().enumerate() {
            text += &format!("  read{at}:\n    type: lines\n    input: {name}\n");
            if !columns.is_empty() {
                text += &format!("    columns: [{}]\n", columns.join(", "));
            }
        }
        text
    }

    /// The plan, and every problem with the text it points at: ``E0320 `amuont` message ^ label | help``. A model that
    /// a test has no use for is none.
    pub(crate) fn plan(&self) -> (Option<Plan>, String) {
        let files = OneFile(self.yaml());
        let mut sources = SourceMap::default();
        let mut diagnostics = Diagnostics::new();
        let path = Path::new("test.yaml");
        let pipeline = engine_spec::load(path, &files, &LoadOptions::default(), &mut sources, &mut diagnostics);
        let plan = pipeline
            .and_then(|pipeline| engine_plan::plan(&pipeline, &registries(), &files, &mut sources, &mut diagnostics));
        diagnostics.sort();
        let mut text = String::new();
        for problem in diagnostics.iter() {
            if problem.code == engine_base::codes::plan::UNUSED_MODEL {
                continue;
            }
            let pointed = problem.primary.as_ref().and_then(|label| {
                let text = sources.file(label.span.file)?.text.get(label.span.start..label.span.end)?;
                text.lines().next()
            });
            text += &format!("{} `{}` {}", problem.code, pointed.unwrap_or_default(), problem.message);
            if let Some(label) = problem.primary.as_ref().filter(|label| !label.text.is_empty()) {
                text += &format!(" ^ {}", label.text);
            }
            for help in &problem.help {
                text += &format!(" | {help}");
            }
            text.push('\n');
        }
        (plan, text)
    }

    /// Runs the pipeline over rows given as JSON lines and cut into batches of these sizes (the last for all that
    /// follow).
    pub(crate) fn run(&self, lines: &str, cuts: &[usize]) -> BTreeMap<String, Vec<String>> {
        let (plan, problems) = self.plan();
        let plan = plan.unwrap_or_else(|| panic!("no plan:\n{problems}\n{}", self.yaml()));
        let mut run = Run::new(&plan);
        let source = plan.sources().next().expect("a source");
        let schema = &source.outputs[0].stream.schema;
        let reader = ReaderBuilder::new(schema.clone()).build(io::Cursor::new(lines)).expect("a reader");
        let batches: Vec<RecordBatch> = reader.collect::<Result<_, _>>().expect("rows of the schema");
        let batch = arrow::compute::concat_batches(schema, &batches).expect("one batch");
        let mut cuts = cuts.iter().copied();
        let (mut from, mut size) = (0, batch.num_rows());
        while from < batch.num_rows() {
            size = cuts.next().unwrap_or(size).clamp(1, batch.num_rows() - from);
            run.source(source.id, batch.slice(from, size), from as u64);
            from += size;
        }
        run.read
    }
}

/// An empty store that notes its changes: by turns one in memory, and one that has room for nothing, so that each slot is
/// written down and read back whenever a step has settled.
pub(crate) fn store<S: SlotState + 'static>() -> Box<dyn SlotStore<S>> {
    thread_local! {
        static TURN: Cell<bool> = const { Cell::new(false) };
    }
    match TURN.replace(!TURN.get()) {
        false => Box::new(MemoryStore::tracking()),
        true => Box::new(TieredStore::tracking(&StateMemory::with_store(0, Arc::new(MemoryCold::default())))),
    }
}

/// What comes out of each output that is read, one line a row; the same for several ways to cut the rows into batches.
pub(crate) fn check(given: &Given<'_>, lines: &str, expected: &str) {
    let mut whole = None;
    for cuts in [&[][..], &[1], &[2], &[3, 1], &[5, 2]] {
        let read = given.run(lines, cuts);
        let mut text = String::new();
        for (name, rows) in &read {
            for row in rows {
                text += &format!("{name} {row}\n");
            }
        }
        let whole = whole.get_or_insert_with(|| text.clone());
        assert_eq!(*whole, text, "cut into {cuts:?}");
    }
    let expected: Vec<&str> = expected.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    let whole = whole.unwrap_or_default();
    assert_eq!(whole.lines().collect::<Vec<_>>(), expected, "\n{whole}");
}

/// The problems of a pipeline that can't be planned, or the warnings of one that can.
pub(crate) fn check_problems(given: &Given<'_>, expected: &str) {
    let (_, problems) = given.plan();
    let expected: Vec<&str> = expected.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    assert_eq!(problems.lines().collect::<Vec<_>>(), expected, "\n{problems}\n{}", given.yaml());
}

fn indent(text: &str, by: usize) -> String {
    let lines: Vec<&str> = text.lines().filter(|line| !line.trim().is_empty()).collect();
    let least = lines.iter().map(|line| line.len() - line.trim_start().len()).min().unwrap_or(0);
    lines.iter().map(|line| format!("{}{}\n", " ".repeat(by), &line[least..])).collect()
}

struct OneFile(String);

impl Files for OneFile {
    fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        match path.file_name().is_some_and(|name| name == "test.yaml") {
            true => Ok(self.0.clone().into_bytes()),
            false => Err(io::ErrorKind::NotFound.into()),
        }
    }
    fn env(&self, _: &str) -> Option<String> {
        None
    }
    fn secret(&self, _: &str) -> Option<String> {
        None
    }
    fn glob(&self, _: &Path) -> io::Result<Vec<PathBuf>> {
        Ok(Vec::new())
    }
}

/// The steps of a plan at work, and what was read of their outputs.
struct Run<'a> {
    plan: &'a Plan,
    readers: Vec<Vec<Vec<(StepId, usize)>>>,
    /// For each step, one for each of its inputs.
    steps: Vec<Vec<Box<dyn RowStep>>>,
    read: BTreeMap<String, Vec<String>>,
}

impl<'a> Run<'a> {
    fn new(plan: &'a Plan) -> Self {
        let readers = plan.readers();
        let steps = plan.steps.iter().map(|step| render(plan, step, &readers[step.id.0 as usize])).collect();
        Run { plan, readers, steps, read: BTreeMap::new() }
    }

    fn source(&mut self, id: StepId, batch: RecordBatch, first: u64) {
        let wanted = &self.plan.step(id).wanted[0];
        let columns: Vec<usize> =
            (0..batch.num_columns()).filter(|at| wanted.contains(batch.schema().field(*at).name())).collect();
        let rows = batch.num_rows() as u64;
        self.give(
            id,
            0,
            Rows {
                batch: batch.project(&columns).expect("columns of the schema"),
                positions: Positions::Range { origin: origin(SourceId(0), 0), first },
                ingest_ns: Times::Each((first..first + rows).map(|row| INGEST_NS + row as i64).collect()),
                born_ns: Times::One(INGEST_NS),
                event_ns: None,
                removes: None,
            },
        );
    }

    /// Hands rows of an output to whoever reads it.
    fn give(&mut self, id: StepId, port: usize, rows: Rows) {
        let step = self.plan.step(id);
        let stream = &step.outputs[port].stream;
        let wanted = &step.wanted[port];
        let planned: Vec<&Arc<Field>> =
            stream.schema.fields().iter().filter(|field| wanted.contains(field.name())).collect();
        assert_eq!(rows.schema().fields().iter().collect::<Vec<_>>(), planned, "{}", step.output_name(port));
        assert_eq!(rows.event_ns.is_some(), wanted.contains(hidden::EVENT_TIME), "{}", step.output_name(port));
        assert!(rows.num_rows() > 0, "an empty batch of {}", step.output_name(port));
        for (reader, input) in self.readers[id.0 as usize][port].clone() {
            self.take(reader, input, rows.clone());
        }
    }

    fn take(&mut self, id: StepId, input: usize, rows: Rows) {
        let step = self.plan.step(id);
        if matches!(step.role, Role::Sink { .. }) {
            let all: Vec<usize> = (0..rows.num_rows()).collect();
            let lines =
                payload::json_rows(&rows.batch, &all).into_iter().map(|line| String::from_utf8(line).expect("JSON"));
            let name = self.what_is_read(id);
            self.read.entry(name).or_default().extend(lines);
            return;
        }
        let mut out = StepOutput::new(step.row_outputs().len());
        self.steps[id.0 as usize][input].step(rows, &mut out);
        if let Some(row) = &out.fatal {
            let name = format!("{} stops", step.name);
            self.read.entry(name).or_default().push(format!("{} {}", row.position.offset, row.error));
        }
        for (port, batches) in out.ports.into_iter().enumerate() {
            for rows in batches {
                self.give(id, port, rows);
            }
        }
        let errors = step.error_port().map(|port| &self.readers[id.0 as usize][port]);
        assert!(out.errors.is_empty() || errors.is_some(), "rows of {} fail and can't", step.name);
        if !out.errors.is_empty() && errors.is_some_and(|readers| !readers.is_empty()) {
            let lines = out.errors.iter().map(|error| {
                let payload = String::from_utf8_lossy(&error.payload);
                format!("{} {} {payload}", error.position.offset, error.error)
            });
            self.read.entry(format!("{}.errors", step.name)).or_default().extend(lines);
        }
    }

    /// The name of the output that a sink reads, through the steps that its keys imply.
    fn what_is_read(&self, sink: StepId) -> String {
        let mut edge = self.plan.step(sink).inputs[0];
        while self.plan.step(edge.from).implied && self.plan.step(edge.from).name.starts_with("read") {
            edge = self.plan.step(edge.from).inputs[0];
        }
        self.plan.step(edge.from).output_name(edge.port)
    }
}

fn render(plan: &Plan, step: &engine_plan::Step, readers: &[Vec<(StepId, usize)>]) -> Vec<Box<dyn RowStep>> {
    if step.role != Role::Operator {
        return Vec::new();
    }
    with_cx(plan, step, readers, |schemas, cx| match crate::render_of(step.kind, &*step.planned).expect("a kind") {
        Render::Rows(render) => vec![render(&*step.planned, cx).expect("renders")],
        Render::Union => {
            (0..schemas).map(|input| render_union_input(&*step.planned, cx, input).expect("renders")).collect()
        }
        _ => panic!("`{}` is not row-wise", step.kind),
    })
}

/// What a step of a plan is told while it is rendered.
pub(crate) fn with_step<T>(plan: &Plan, name: &str, render: impl FnOnce(&dyn Planned, &RenderCx<'_>) -> T) -> T {
    let step = plan.find(name).expect("a step");
    let readers = plan.readers();
    with_cx(plan, step, &readers[step.id.0 as usize], |_, cx| render(&*step.planned, cx))
}

fn with_cx<T>(
    plan: &Plan,
    step: &engine_plan::Step,
    readers: &[Vec<(StepId, usize)>],
    render: impl FnOnce(usize, &RenderCx<'_>) -> T,
) -> T {
    let schemas: Vec<SchemaRef> = step
        .inputs
        .iter()
        .map(|edge| {
            let stream = &plan.output(*edge).stream;
            let wanted = &plan.step(edge.from).wanted[edge.port];
            let fields = stream.schema.fields().iter().filter(|field| wanted.contains(field.name())).cloned();
            Arc::new(arrow::datatypes::Schema::new(fields.collect::<Vec<_>>()))
        })
        .collect();
    let read: Vec<bool> = readers.iter().map(|readers| !readers.is_empty()).collect();
    let cx = RenderCx {
        step: step.name.as_str().into(),
        step_id: step.id,
        inputs: &schemas,
        wanted: &step.wanted[..step.row_outputs().len()],
        read: &read[..step.row_outputs().len()],
        worker: 0,
        workers: 1,
        clock: VirtualClock::at(INGEST_NS),
        waiting_for_time: Arc::default(),
        state_memory: None,
        durable: false,
    };
    render(schemas.len(), &cx)
}

/// The kinds of a test: every operator, and a source, a sink and a model that are there for the test alone.
pub(crate) fn registries() -> Registries {
    static ROWS: SourceKind = SourceKind {
        name: "rows",
        summary: "",
        config_schema: no_keys,
        decodes: true,
        metadata: &[],
        plan: |_, common: &SourceCommon| {
            Some(PlannedSource {
                schema: common.schema.clone()?,
                replayable: true,
                finite: true,
                planned: Arc::new(Nothing),
            })
        },
    };
    static LINES: SinkKind = SinkKind {
        name: "lines",
        summary: "",
        config_schema: no_keys,
        encodes: false,
        sees_all: false,
        changelogs: true,
        plan: |_, input: &StreamType, _: &SinkCommon| {
            let names = input.schema.fields().iter().map(|field| field.name().clone()).collect();
            Some(PlannedSink {
                can_fail: false,
                timeout_ns: None,
                exactly_once: engine_plan::ExactlyOnce::By("a test"),
                planned: Arc::new(All(names)),
            })
        },
    };
    static FAKE: ModelKind = ModelKind {
        name: "fake",
        summary: "",
        config_schema: |generator| generator.subschema_for::<FakeCard>(),
        plan: fake_model,
    };
    Registries {
        sources: vec![&ROWS],
        operators: crate::operator_kinds(),
        sinks: vec![&LINES],
        models: vec![&FAKE],
        ..Registries::default()
    }
}

#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
struct NoKeys {}

fn no_keys(generator: &mut SchemaGenerator) -> Schema {
    generator.subschema_for::<NoKeys>()
}

#[derive(Debug)]
struct Nothing;

impl Planned for Nothing {
    fn reads(&self, _: &[Columns]) -> Vec<Columns> {
        Vec::new()
    }
}

#[derive(Debug)]
struct All(Columns);

impl Planned for All {
    fn reads(&self, _: &[Columns]) -> Vec<Columns> {
        vec![self.0.clone()]
    }
}

/// A model whose outputs are made of the sum of all features. It panics where the first feature is -1, fails where it
/// is -2, and puts out NaN where it is -3; a batch with such a row as a whole for -1 and -2.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct FakeCard {
    /// Input and width.
    inputs: IndexMap<String, usize>,
    /// Output and its size: 0 for `f32[N]`, else the `k` of `f32[N, k]`.
    outputs: IndexMap<String, usize>,
    /// What a null is taken as.
    default: Option<f32>,
    /// It adds the number of rows in the batch to each output.
    #[serde(default)]
    depends_on_batch: bool,
}

fn fake_model(cx: &mut ModelCx<'_>) -> Option<Arc<dyn PlannedModel>> {
    let card: FakeCard = cx.card.decode(cx.diagnostics)?;
    let tensor = |name: &String, shape: Vec<Dim>| TensorSpec {
        name: name.clone(),
        dtype: TensorType::F32,
        shape,
        default: card.default,
    };
    let inputs = card.inputs.iter().map(|(name, width)| tensor(name, vec![Dim::Batch, Dim::Size(*width)])).collect();
    let outputs = card.outputs.iter().map(|(name, size)| match size {
        0 => tensor(name, vec![Dim::Batch]),
        size => tensor(name, vec![Dim::Batch, Dim::Size(*size)]),
    });
    let outputs = outputs.collect();
    Some(Arc::new(FakeModel { name: cx.name.to_owned(), inputs, outputs, depends_on_batch: card.depends_on_batch }))
}

#[derive(Clone, Debug)]
struct FakeModel {
    name: String,
    inputs: Vec<TensorSpec>,
    outputs: Vec<TensorSpec>,
    depends_on_batch: bool,
}

impl PlannedModel for FakeModel {
    fn name(&self) -> &str {
        &self.name
    }
    fn digest(&self) -> &str {
        "d1ge57"
    }
    fn inputs(&self) -> &[TensorSpec] {
        &self.inputs
    }
    fn outputs(&self) -> &[TensorSpec] {
        &self.outputs
    }
    fn batch_invariant(&self) -> bool {
        !self.depends_on_batch
    }
    fn load(&self) -> Result<Box<dyn Scorer>, String> {
        Ok(Box::new(FakeScorer(self.clone())))
    }
    fn facts(&self) -> Vec<(String, String)> {
        Vec::new()
    }
}

struct FakeScorer(FakeModel);

impl Scorer for FakeScorer {
    fn score(&mut self, rows: usize, inputs: &[&[f32]], outputs: &mut [Vec<f32>]) -> Result<(), String> {
        for row in 0..rows {
            let mut sum = 0.0;
            for (input, tensor) in inputs.iter().zip(&self.0.inputs) {
                let width = tensor.width();
                assert_eq!(input.len(), rows * width);
                sum += input[row * width..(row + 1) * width].iter().sum::<f32>();
            }
            match inputs[0][row * self.0.inputs[0].width()] {
                -1.0 => panic!("a feature of -1"),
                -2.0 => return Err("a feature of -2".to_owned()),
                -3.0 => sum = f32::NAN,
                _ => {}
            }
            if self.0.depends_on_batch {
                sum += rows as f32 * 1000.0;
            }
            for (output, tensor) in outputs.iter_mut().zip(&self.0.outputs) {
                output.extend((0..tensor.width()).map(|at| sum + at as f32));
            }
        }
        Ok(())
    }
}
