//! A test against the plan of its pipeline: names, columns and values checked, ready to run.

use super::rows::{ExpectedRow, Written, expected, given};
use super::script::{Act, Script};
use crate::runtime::graph::{entry_row_step, pruned, time_policy};
use arrow::array::RecordBatch;
use arrow::compute::kernels::cast_utils::string_to_timestamp_nanos;
use arrow::datatypes::SchemaRef;
use engine_base::codes::{spec as spec_codes, testing as codes};
use engine_base::{Diagnostic, Diagnostics, SourceId, SourceMap, Span, StepId, suggest};
use engine_dataflow::rows::origin;
use engine_dataflow::{Positions, Rows, StepOutput, Times};
use engine_plan::{Columns, Plan, Planned, PlannedSink, Registries, Role, SinkCommon, SinkKind, StreamType, types};
use engine_spec::{Component, Entry, ExpectedConfig, Files, Node, Pipeline, Test, TestStepConfig, Value};
use schemars::JsonSchema;
use std::path::PathBuf;
use std::sync::Arc;

/// Where the clock of a test stands unless it says otherwise.
const CLOCK: &str = "2026-01-01T00:00:00Z";

/// A test that is ready to run.
pub(crate) struct Case {
    pub(crate) name: String,
    pub(crate) span: Span,
    pub(crate) plan: Arc<Plan>,
    pub(crate) script: Script,
    pub(crate) expects: Vec<Expect>,
}

/// What is expected of an output at some moment.
pub(crate) struct Expect {
    /// The name of the sink, step or side output.
    pub(crate) name: String,
    /// Where it is named.
    pub(crate) span: Span,
    /// Where the rows stand, and in which file of their own if they do.
    pub(crate) rows_span: Span,
    pub(crate) file: Option<PathBuf>,
    /// The end of the plan that remembers its rows.
    pub(crate) end: StepId,
    /// The act of the script that it is.
    pub(crate) act: usize,
    pub(crate) schema: SchemaRef,
    /// Whether it is a changelog, whose rows are what has changed over all epochs since the last `expect`.
    pub(crate) changelog: bool,
    pub(crate) rows: Vec<ExpectedRow>,
    pub(crate) ordered: bool,
    pub(crate) exact: bool,
    pub(crate) subset: bool,
    pub(crate) tolerance: Option<f64>,
}

/// An end that remembers: what stands for a sink in a test.
static END: SinkKind = SinkKind {
    name: "end of a test",
    summary: "",
    config_schema: |generator| {
        #[derive(JsonSchema)]
        #[schemars(deny_unknown_fields)]
        struct NoKeys {}
        generator.subschema_for::<NoKeys>()
    },
    encodes: false,
    sees_all: false,
    changelogs: true,
    plan: |_, input: &StreamType, _: &SinkCommon| {
        let all = input.schema.fields().iter().map(|field| field.name().clone()).collect();
        Some(PlannedSink {
            can_fail: false,
            timeout_ns: None,
            exactly_once: engine_plan::ExactlyOnce::By("a test"),
            planned: Arc::new(All(all)),
        })
    },
};

#[derive(Debug)]
struct All(Columns);

impl Planned for All {
    fn reads(&self, _: &[Columns]) -> Vec<Columns> {
        vec![self.0.clone()]
    }
}

/// Makes the tests of a pipeline that has a plan ready to run; what is wrong with one is noted, and it is left out.
pub(crate) fn cases(
    pipeline: &Pipeline,
    registries: &Registries,
    files: &dyn Files,
    sources: &mut SourceMap,
    diagnostics: &mut Diagnostics,
) -> Vec<Case> {
    let mut registries = registries.clone();
    registries.operators = engine_operators::test_operator_kinds();
    registries.sinks.push(&END);
    let make = |test| Maker { pipeline, files, test, found: Diagnostics::new() };
    let mut cases = Vec::new();
    for test in &pipeline.tests {
        let mut maker = make(test);
        let case = maker.case(&registries, sources);
        let sound = !maker.found.has_errors();
        diagnostics.extend(maker.found);
        cases.extend(case.filter(|_| sound));
    }
    cases
}

struct Maker<'a> {
    pipeline: &'a Pipeline,
    files: &'a dyn Files,
    test: &'a Test,
    found: Diagnostics,
}

impl Maker<'_> {
    fn case(&mut self, registries: &Registries, sources: &mut SourceMap) -> Option<Case> {
        let plan = Arc::new(self.plan(registries, sources)?);
        let mut script = Script { clock_ns: self.clock()?, ..Script::default() };
        let timed = plan.timed_sources();
        for step in plan.sources() {
            let Role::Source { source, .. } = step.role else { continue };
            if timed.contains(&source) {
                script.times.insert(source, time_policy(&plan, step.id));
            }
        }
        let mut expects = Vec::new();
        for (at, step) in self.test.config.steps.iter().enumerate() {
            let at = at.to_string();
            let at = ["steps", at.as_str()];
            let act = match step {
                TestStepConfig::Give(_) => Act::Give(self.give(&plan, &at)),
                TestStepConfig::Watermark(node) => Act::Watermark(self.watermark(&plan, &script, node)),
                TestStepConfig::Advance(span) => Act::Advance(span.ns()),
                TestStepConfig::Idle(node) => Act::Idle(self.names(&plan, node, false)),
                TestStepConfig::End(node) => Act::End(self.names(&plan, node, true)),
                TestStepConfig::Expect(_) => {
                    let act = script.acts.len();
                    expects.extend(self.expect(&plan, &at, act));
                    Act::Expect
                }
                TestStepConfig::Crash(node) => {
                    let problem = Diagnostic::error(spec_codes::NOT_BUILT, node.head(), "`crash` is not built yet");
                    self.found
                        .push(problem.help("leave it out: nothing survives the end of a process but what sinks took"));
                    return None;
                }
            };
            script.acts.push(act);
        }
        let span = self.test.node.span_at(&["name"]);
        Some(Case { name: self.test.config.name.clone(), span, plan, script, expects })
    }

    /// The plan with mocks, and an end for each name that is expected of.
    fn plan(&mut self, registries: &Registries, sources: &mut SourceMap) -> Option<Plan> {
        let mut pipeline = self.pipeline.clone();
        for (name, mock) in self.test.config.mock.iter().flatten() {
            self.mock(&mut pipeline, name, mock);
        }
        for (name, span) in self.expected_names() {
            let read = match self.pipeline.sinks.get(&name) {
                Some(sink) => sink.node.only(&["input", "where", "columns"]),
                None => {
                    let input = Node::new(span, Value::String(name.clone()));
                    let entry = Entry { key: "input".to_owned(), key_span: span, value: input };
                    Node::new(span, Value::Map(vec![entry]))
                }
            };
            let end = Component {
                name: end_of(&name),
                name_span: span,
                kind: END.name.to_owned(),
                kind_span: span,
                node: read,
                base_dir: pipeline.folders.of(span).to_path_buf(),
                folders: pipeline.folders.clone(),
                instance: None,
                unnamed: false,
                renamed_from: None,
                kept: Vec::new(),
            };
            pipeline.sinks.insert(end_of(&name), end);
        }
        let mut found = Diagnostics::new();
        let plan = engine_plan::plan(&pipeline, registries, self.files, sources, &mut found);
        // The pipeline itself has a plan: what is wrong is wrong with the test. Warnings were given with that plan.
        let errors: Vec<&Diagnostic> =
            found.iter().filter(|problem| problem.severity == engine_base::Severity::Error).collect();
        errors.into_iter().for_each(|problem| self.found.push(problem.clone()));
        plan
    }

    /// Every name that an `expect` has, and where it stands first.
    fn expected_names(&self) -> Vec<(String, Span)> {
        let mut names: Vec<(String, Span)> = Vec::new();
        let steps = match self.test.node.get("steps").map(|steps| &steps.value) {
            Some(Value::List(steps)) => steps.as_slice(),
            _ => &[],
        };
        for entry in steps.iter().filter_map(|step| step.get("expect")).flat_map(Node::entries) {
            if !names.iter().any(|(name, _)| *name == entry.key) {
                names.push((entry.key.clone(), entry.key_span));
            }
        }
        names
    }

    /// Puts a mock into the steps that it is for.
    fn mock(&mut self, pipeline: &mut Pipeline, name: &str, mock: &Node) {
        let is_for = |step: &Component| {
            let model = step.node.get("model").and_then(Node::as_str);
            step.kind == "predict" && (step.name == name || model == Some(name))
        };
        let mut found = false;
        for step in pipeline.operators.values_mut().filter(|step| is_for(step)) {
            found = true;
            let mut mock = mock.clone();
            if step.name != name {
                by_columns(&mut mock, step);
            }
            if let Value::Map(entries) = &mut step.node.value {
                entries.push(Entry { key: "mock".to_owned(), key_span: mock.span, value: mock });
            }
        }
        if !found {
            let span = self
                .test
                .node
                .at(&["mock"])
                .and_then(|mocks| mocks.entry(name))
                .map_or(mock.span, |entry| entry.key_span);
            let steps = self.pipeline.operators.values().filter(|step| step.kind == "predict");
            let names: Vec<&str> =
                steps.map(|step| step.name.as_str()).chain(self.pipeline.models.keys().map(String::as_str)).collect();
            let message = format!("there is no `predict` step and no model `{name}`");
            self.unknown(span, message, name, &names);
        }
    }

    fn unknown(&mut self, span: Span, message: String, name: &str, names: &[&str]) {
        let problem = Diagnostic::error(codes::TEST_NAME, span, message);
        self.found.push(match suggest::nearest(name, names.iter().copied()) {
            Some(near) => problem.help(format!("did you mean `{near}`?")),
            None if names.is_empty() => problem,
            None => problem.help(format!("there are `{}`", names.join("`, `"))),
        });
    }

    fn clock(&mut self) -> Option<i64> {
        match &self.test.config.clock {
            None => string_to_timestamp_nanos(CLOCK).ok(),
            Some(text) => self.time(text, self.test.node.span_at(&["clock"])),
        }
    }

    fn time(&mut self, text: &str, span: Span) -> Option<i64> {
        match string_to_timestamp_nanos(text) {
            Ok(ns) => Some(ns),
            Err(_) => {
                let problem = Diagnostic::error(codes::TEST_VALUE, span, format!("`{text}` is no time"));
                self.found.push(problem.help("write it as `2026-01-01T10:00:00Z`"));
                None
            }
        }
    }

    fn source<'p>(&mut self, plan: &'p Plan, name: &str, span: Span) -> Option<(SourceId, &'p engine_plan::Step)> {
        let found = plan.sources().find(|step| step.name == name);
        match found.map(|step| (&step.role, step)) {
            Some((Role::Source { source, .. }, step)) => Some((*source, step)),
            _ => {
                let names: Vec<&str> = plan.sources().map(|step| step.name.as_str()).collect();
                self.unknown(span, format!("there is no source `{name}`"), name, &names);
                None
            }
        }
    }

    fn give(&mut self, plan: &Plan, at: &[&str]) -> Vec<(SourceId, RecordBatch, Option<i64>)> {
        let Some(give) = self.test.node.at(&[at[0], at[1], "give"]) else { return Vec::new() };
        let mut all = Vec::new();
        for entry in give.entries() {
            let Some((source, step)) = self.source(plan, &entry.key, entry.key_span) else { continue };
            let base_dir = self.pipeline.folders.of(entry.value.span);
            let Some(written) = Written::read(&entry.value, base_dir, self.files, &mut self.found) else { continue };
            let (schema, read) = (&step.outputs[0].stream.schema, pruned(step, 0));
            let Some(batch) = given(&written, schema, &read, &mut self.found) else { continue };
            if batch.num_rows() == 0 {
                continue;
            }
            match greatest_event_ns(plan, step, source, &batch) {
                Ok(greatest_ns) => all.push((source, batch, greatest_ns)),
                Err(reason) => {
                    self.found.push(Diagnostic::error(codes::TEST_ROW, entry.value.span, reason));
                }
            }
        }
        all
    }

    fn watermark(&mut self, plan: &Plan, script: &Script, node: &Node) -> Vec<(SourceId, i64)> {
        let mut all = Vec::new();
        match &node.value {
            Value::Map(entries) => {
                for entry in entries {
                    let source = self.source(plan, &entry.key, entry.key_span);
                    let time = self.time(entry.value.text().unwrap_or_default(), entry.value.span);
                    let (Some((source, _)), Some(time)) = (source, time) else { continue };
                    if !script.times.contains_key(&source) {
                        let message = format!("nothing asks for the event time of `{}`", entry.key);
                        let problem = Diagnostic::error(codes::TEST_VALUE, entry.key_span, message);
                        self.found.push(
                            problem
                                .help("leave it out: only windows and other steps with event time act on watermarks"),
                        );
                    }
                    all.push((source, time));
                }
            }
            _ => {
                if let Some(time) = self.time(node.text().unwrap_or_default(), node.span) {
                    // Of a source without event time only its end is known.
                    let timed = script.times.iter().filter(|(_, policy)| policy.idle_after_ns < u64::MAX);
                    all.extend(timed.map(|(source, _)| (*source, time)));
                }
            }
        }
        all
    }

    fn names(&mut self, plan: &Plan, node: &Node, all: bool) -> Vec<SourceId> {
        let items: Vec<&Node> = match &node.value {
            Value::List(items) => items.iter().collect(),
            _ => vec![node],
        };
        let of_all = |plan: &Plan| plan.sources().enumerate().map(|(at, _)| SourceId(at as u16)).collect();
        let mut sources = Vec::new();
        for item in items {
            let name = item.text().unwrap_or_default();
            if all && name == "all" && plan.sources().all(|step| step.name != "all") {
                return of_all(plan);
            }
            sources.extend(self.source(plan, name, item.span).map(|(source, _)| source));
        }
        sources
    }

    fn expect(&mut self, plan: &Plan, at: &[&str], act: usize) -> Vec<Expect> {
        let Some(expect) = self.test.node.at(&[at[0], at[1], "expect"]) else { return Vec::new() };
        let mut all = Vec::new();
        for entry in expect.entries() {
            let Some(end) = plan.find(&end_of(&entry.key)) else { continue };
            let input = end.inputs[0];
            let schema = pruned(plan.step(input.from), input.port);
            let changelog = plan.output(input).stream.kind.is_changelog();
            let schema = if changelog { types::with_change(&schema) } else { schema };
            let is_list = matches!(entry.value.value, Value::List(_) | Value::Null);
            let config = match is_list {
                true => Some(ExpectedConfig { rows: Some(entry.value.clone()), ..ExpectedConfig::default() }),
                false => entry.value.decode::<ExpectedConfig>(&mut self.found),
            };
            let Some(config) = config else { continue };
            let base_dir = self.pipeline.folders.of(entry.value.span);
            let written = match (&config.rows, &config.file) {
                (Some(_), Some(_)) | (None, None) => {
                    let problem =
                        Diagnostic::error(codes::TEST_VALUE, entry.value.head(), "either `rows` or `file` is expected");
                    self.found.push(problem.help("write `rows: [...]`, or `file: rows.jsonl`"));
                    continue;
                }
                (Some(rows), None) => Written::read(rows, base_dir, self.files, &mut self.found),
                (None, Some(file)) => {
                    Written::file(file, entry.value.span_at(&["file"]), base_dir, self.files, &mut self.found)
                }
            };
            let Some(written) = written else { continue };
            let Some(rows) = expected(&written, &schema, &mut self.found) else { continue };
            if config.tolerance.is_some_and(|tolerance| tolerance.is_nan() || tolerance < 0.0) {
                let span = entry.value.span_at(&["tolerance"]);
                let problem = Diagnostic::error(codes::TEST_VALUE, span, "`tolerance` is a number from zero on");
                self.found.push(problem.help("write by how much numbers may differ: `tolerance: 0.001`"));
            }
            let file = match written {
                Written::File { path, .. } => Some(path),
                Written::Nodes(_) => None,
            };
            all.push(Expect {
                name: entry.key.clone(),
                span: entry.key_span,
                rows_span: config.rows.as_ref().map_or(entry.value.span, |rows| rows.span),
                file,
                end: end.id,
                act,
                schema,
                changelog,
                rows,
                ordered: config.ordered,
                exact: config.exact,
                subset: config.subset,
                tolerance: config.tolerance,
            });
        }
        all
    }
}

/// The name of the end that remembers the rows of an output. No component can have it.
fn end_of(name: &str) -> String {
    format!("@{name}")
}

/// A mock by model names the model's outputs: put as the step's columns.
fn by_columns(mock: &mut Node, step: &Component) {
    let (Value::Map(answers), Some(Value::Map(outputs))) =
        (&mut mock.value, step.node.get("outputs").map(|outputs| &outputs.value))
    else {
        return;
    };
    for answer in answers {
        let column = outputs.iter().find(|output| output.value.as_str() == Some(&answer.key));
        if let Some(column) = column {
            answer.key.clone_from(&column.key);
        }
    }
}

/// The greatest of the event times that the source's own keys give these rows.
fn greatest_event_ns(
    plan: &Plan,
    step: &engine_plan::Step,
    source: SourceId,
    batch: &RecordBatch,
) -> Result<Option<i64>, String> {
    let mut all = vec![Rows {
        batch: batch.clone(),
        positions: Positions::Range { origin: origin(source, 0), first: 0 },
        ingest_ns: Times::One(0),
        born_ns: Times::One(0),
        event_ns: None,
        removes: None,
    }];
    for id in plan.entry_steps(step.id) {
        let mut rendered = entry_row_step(plan, plan.step(id))?;
        let mut out = StepOutput::new(1);
        all.into_iter().filter(|rows| rows.num_rows() > 0).for_each(|rows| rendered.step(rows, &mut out));
        all = out.ports.swap_remove(0);
    }
    let greatest = |times: &Times, rows: usize| (0..rows).map(|row| times.get(row)).max();
    Ok(all.iter().filter_map(|rows| greatest(rows.event_ns.as_ref()?, rows.num_rows())).max())
}
