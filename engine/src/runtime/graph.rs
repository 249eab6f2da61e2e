//! A plan to a dataflow: each source, chain, keyed step and sink becomes one operator, the same graph on every worker.
//!
//! What a step reads is pruned to the columns that the plan wants on that edge; error outputs that no step reads meet in
//! `errors.jsonl`.

use super::durable::Recovered;
use super::errors_file::ErrorsFile;
use arrow::datatypes::{Schema, SchemaRef};
use engine_base::{Clock, SourceId, StepId};
use engine_connectors::{SinkHandle, SourceStart, Started};
use engine_dataflow::capture::{Captured, capture};
use engine_dataflow::changes::{Encode, Give, Join, Region, RegionStep, region};
use engine_dataflow::deliver::{SinkShared, deliver};
use engine_dataflow::ingest::{IngestShared, Ingested, SourceInput, ingest};
use engine_dataflow::meter::Meter;
use engine_dataflow::operate::{ChainStep, KeyedInput, KeyedTime, StepShared, chain, keyed};
use engine_dataflow::run::Built;
use engine_dataflow::snapshot::Participants;
use engine_dataflow::stage::{Outbox, stage};
use engine_dataflow::watermark::{InputTime, Statement, TimePolicy};
use engine_dataflow::{Cut, RowStep, Rows, StepOutput, Unmetered};
use engine_operators::{Render, RenderCx};
use engine_plan::event_time::EventTimePlan;
use engine_plan::plan::{Edge, Plan, Role, Step};
use engine_plan::{Output, Planned};
use engine_state::StateMemory;
use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};
use timely::dataflow::operators::Concatenate;
use timely::dataflow::{Scope, Stream, StreamVec};

/// A sink of the process; taken out and closed when the run is over.
pub(crate) type SharedSink = Arc<Mutex<Option<Box<dyn SinkHandle>>>>;

/// What every worker builds its graph from.
pub(crate) struct GraphShared {
    pub(crate) plan: Arc<Plan>,
    pub(crate) workers: usize,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) ingest: IngestShared,
    pub(crate) steps: StepShared,
    pub(crate) sinks: SinkShared,
    /// The open sinks, by step.
    pub(crate) handles: HashMap<StepId, SharedSink>,
    pub(crate) errors: Arc<ErrorsFile>,
    /// Where each source starts.
    pub(crate) from: Cut,
    /// The instruments of each step, by its id; one more for `errors.jsonl`.
    pub(crate) meters: Vec<Arc<dyn Meter>>,
    pub(crate) errors_meter: Arc<dyn Meter>,
    /// The bound for the memory of state.
    pub(crate) state_memory: Option<Arc<StateMemory>>,
    /// Starts the shares of sources.
    pub(crate) start_source: StartSource,
    /// In a test, what stands for all sinks.
    pub(crate) stand: Option<Arc<Stand>>,
    /// What the run goes on from, and what makes it durable.
    pub(crate) durable: Option<Durable>,
}

/// What makes a run durable.
pub(crate) struct Durable {
    pub(crate) recovered: Recovered,
    /// The outboxes of the sinks that deliver exactly once.
    pub(crate) outboxes: HashMap<StepId, Arc<Outbox>>,
}

/// Starts a worker's share of a source of some kind.
pub(crate) type StartSource = Arc<dyn Fn(&str, &dyn Planned, SourceStart) -> Started + Send + Sync>;

/// What stands for all sinks in a test: ends that remember.
pub(crate) struct Stand {
    /// What came to each sink.
    pub(crate) sinks: HashMap<StepId, Arc<Captured>>,
    /// Error rows that no step reads.
    pub(crate) errors: Arc<Captured>,
}

type Streams<'scope> = HashMap<Edge, Stream<'scope, u64, Rows>>;

/// The schema of the batches at an output: its columns that somebody reads, in order.
pub(crate) fn pruned(step: &Step, port: usize) -> SchemaRef {
    let schema = &step.outputs[port].stream.schema;
    let wanted = &step.wanted[port];
    let fields: Vec<_> = schema.fields().iter().filter(|field| wanted.contains(field.name())).cloned().collect();
    if fields.len() == schema.fields().len() { schema.clone() } else { Arc::new(Schema::new(fields)) }
}

/// Builds the graph of this worker.
pub(crate) fn build<'scope>(shared: &GraphShared, scope: Scope<'scope, u64>, worker: usize) -> Built<'scope> {
    let plan = &*shared.plan;
    let mut streams: Streams<'scope> = HashMap::new();
    let mut done = Vec::new();
    let mut reached = Vec::new();
    let participants = Participants::default();

    let sources: Vec<&Step> = plan.sources().collect();
    let readers = plan.readers();
    let timed = plan.timed_sources();
    let inputs = sources.iter().map(|step| source_input(shared, step, worker, &readers, &timed)).collect();
    let ingested = ingest(scope, inputs, &shared.ingest, &shared.steps);
    let Ingested { rows, errors, step_errors, statements, flight, activator } = ingested;
    for (((source, rows), errors), step_errors) in sources.iter().zip(rows).zip(errors).zip(step_errors) {
        let entry = plan.entry_steps(source.id);
        let last = entry.last().copied().unwrap_or(source.id);
        streams.insert(Edge { from: last, port: 0 }, rows);
        for (id, errors) in std::iter::once(source.id).chain(entry).zip(std::iter::once(errors).chain(step_errors)) {
            // A step that can't fail still has a stream of errors, which stays empty.
            if let Some(port) = plan.step(id).error_port() {
                streams.insert(Edge { from: id, port }, errors);
            }
        }
    }

    let entered: HashSet<StepId> = sources.iter().flat_map(|source| plan.entry_steps(source.id)).collect();
    let chains: HashMap<StepId, Vec<StepId>> =
        plan.chains().into_iter().filter_map(|chain| Some((*chain.first()?, chain))).collect();
    for step in &plan.steps {
        match &step.role {
            Role::Source { .. } => {}
            Role::Sink { .. } => {
                let Some(input) = streams.get(&step.inputs[0]).cloned() else { continue };
                let is_changelog = plan.output(step.inputs[0]).stream.kind.is_changelog();
                let input = if is_changelog { changes_shown(input, &step.name, &shared.steps) } else { input };
                if let Some(stand) = &shared.stand {
                    let Some(captured) = stand.sinks.get(&step.id) else { continue };
                    let nothing = capture(input, &step.name, captured.clone());
                    if let Some(port) = step.error_port() {
                        streams.insert(Edge { from: step.id, port }, nothing.clone());
                    }
                    done.push(nothing);
                    continue;
                }
                let Some(handle) = shared.handles.get(&step.id).cloned() else { continue };
                let open = Box::new(move |waker| {
                    let guard = handle.lock().unwrap_or_else(PoisonError::into_inner);
                    guard.as_ref().map(|handle| handle.writer(worker, waker)).ok_or_else(|| "it is closed".to_owned())
                });
                let meter = shared.meters[step.id.0 as usize].clone();
                let durable = shared.durable.as_ref();
                let outbox = durable.and_then(|durable| durable.outboxes.get(&step.id));
                let errors = match (durable, outbox) {
                    (Some(durable), Some(outbox)) => {
                        let failed = durable.recovered.failed.get(&step.name).cloned().unwrap_or_default();
                        let out = stage(input, &step.name, outbox.clone(), open, failed, meter, &shared.sinks);
                        done.push(out.done);
                        reached.push(out.reached);
                        out.errors
                    }
                    _ => {
                        let out = deliver(input, &step.name, open, meter, &shared.sinks);
                        done.push(out.done);
                        out.errors
                    }
                };
                if let Some(port) = step.error_port() {
                    streams.insert(Edge { from: step.id, port }, errors);
                } else {
                    // A sink that can't fail a row still has its error stream; nothing ever comes.
                    done.push(errors);
                }
            }
            Role::Operator => {
                if entered.contains(&step.id) {
                } else if let Some(chain) = chains.get(&step.id) {
                    add_chain(shared, chain, worker, &readers, &mut streams);
                } else if !step.is_row_wise() {
                    add_step(shared, scope, step, worker, &readers, &statements, &participants, &mut streams);
                }
            }
        }
    }

    let unread: Vec<_> = plan
        .steps
        .iter()
        .filter_map(|step| {
            let port = step.error_port()?;
            let nobody = readers[step.id.0 as usize][port].is_empty();
            nobody.then(|| streams.remove(&Edge { from: step.id, port }))?
        })
        .collect();
    if let (Some(stand), false) = (&shared.stand, unread.is_empty()) {
        done.push(capture(scope.concatenate(unread), "errors", stand.errors.clone()));
    } else if !unread.is_empty() {
        let errors = shared.errors.clone();
        let open = Box::new(move |_waker| Ok(errors.writer()));
        let input = scope.concatenate(unread);
        let out = deliver(input, "errors.jsonl", open, shared.errors_meter.clone(), &shared.sinks);
        done.push(out.done);
    }
    // What nobody reads still has to be passed before its epoch counts as done.
    done.extend(
        streams
            .into_iter()
            .filter(|(edge, _)| readers[edge.from.0 as usize][edge.port].is_empty())
            .map(|(_, stream)| stream),
    );
    Built { done, reached, participants, flight, activator }
}

/// How a source tells its watermark. Of one without event time only its end is stated.
pub(crate) fn time_policy(plan: &Plan, source: StepId) -> TimePolicy {
    let entry = plan.entry_steps(source);
    let policy = entry.iter().filter_map(|id| plan.step(*id).planned.downcast::<EventTimePlan>()).next_back();
    TimePolicy {
        max_delay_ns: policy.map_or(0, |plan| plan.max_delay_ns),
        idle_after_ns: policy.map_or(u64::MAX, |plan| u64::try_from(plan.idle_after_ns).unwrap_or(0)),
    }
}

/// The rows of a changelog as they leave the engine: with a column that says what becomes of each.
fn changes_shown<'scope>(
    input: Stream<'scope, u64, Rows>,
    name: &str,
    shared: &StepShared,
) -> Stream<'scope, u64, Rows> {
    struct Shown;
    impl RowStep for Shown {
        fn step(&mut self, rows: Rows, out: &mut engine_dataflow::StepOutput) {
            out.give(0, rows.with_changes());
        }
    }
    let meter = Arc::new(Unmetered);
    let step = ChainStep { name: format!("{name}: changes").into(), step: Box::new(Shown), side_ports: 0, meter };
    chain(input, vec![step], shared).main
}

fn source_input(
    shared: &GraphShared,
    step: &Step,
    worker: usize,
    readers: &[Vec<Vec<(StepId, usize)>>],
    timed: &BTreeSet<SourceId>,
) -> SourceInput {
    let name: Arc<str> = step.name.as_str().into();
    let id = match step.role {
        Role::Source { source, .. } => source,
        // Not to be had: it is one of the plan's sources.
        _ => SourceId(u16::MAX),
    };
    let entry = shared.plan.entry_steps(step.id);
    let time = timed.contains(&id).then(|| time_policy(&shared.plan, step.id));
    let steps = entry.iter().map(|id| chain_step(shared, *id, worker, readers)).collect();
    let start = SourceStart {
        name: name.clone(),
        source: id,
        worker,
        workers: shared.workers,
        waker: engine_dataflow::Waker::none(),
        resume: shared.from.get(&id).cloned().unwrap_or_default(),
        columns: pruned(step, 0),
        clock: shared.clock.clone(),
        finite_from_start: false,
    };
    let reached = shared.durable.as_ref().map(|durable| durable.recovered.reached_ns(&step.name)).unwrap_or_default();
    let known = shared.from.get(&id).into_iter().flat_map(|marks| marks.keys());
    let reached_ns = known.map(|partition| (*partition, reached.get(partition).copied())).collect();
    let (kind, planned) = (step.kind, step.planned.clone());
    let start_source = shared.start_source.clone();
    let open = Box::new(move |waker| start_source(kind, &*planned, SourceStart { waker, ..start }));
    SourceInput { name, id, open, meter: shared.meters[step.id.0 as usize].clone(), steps, time, reached_ns }
}

/// A row-wise step. One that could not be rendered fails the run, and stands there all the same: the graph must have the same
/// shape on every worker, and it is never fed.
fn chain_step(shared: &GraphShared, id: StepId, worker: usize, readers: &[Vec<Vec<(StepId, usize)>>]) -> ChainStep {
    let step = shared.plan.step(id);
    let rendered = row_step(shared, step, worker, readers).unwrap_or_else(|reason| {
        shared.ingest.control.fail(format!("step `{}`: {reason}", step.name));
        Box::new(Broken)
    });
    ChainStep {
        name: step.name.as_str().into(),
        step: rendered,
        side_ports: step.row_outputs().len() - 1,
        meter: shared.meters[id.0 as usize].clone(),
    }
}

fn add_chain<'scope>(
    shared: &GraphShared,
    ids: &[StepId],
    worker: usize,
    readers: &[Vec<Vec<(StepId, usize)>>],
    streams: &mut Streams<'scope>,
) {
    let plan = &*shared.plan;
    let (Some(first), Some(last)) = (ids.first(), ids.last()) else { return };
    let Some(input) = streams.get(&plan.step(*first).inputs[0]).cloned() else { return };
    let steps = ids.iter().map(|id| chain_step(shared, *id, worker, readers)).collect();
    let built = chain(input, steps, &shared.steps);
    streams.insert(Edge { from: *last, port: 0 }, built.main);
    for ((id, sides), errors) in ids.iter().zip(built.sides).zip(built.errors) {
        for (at, side) in sides.into_iter().enumerate() {
            streams.insert(Edge { from: *id, port: 1 + at }, side);
        }
        let step = plan.step(*id);
        // A step that can't fail still has a stream of errors, which stays empty.
        let port = step.error_port().unwrap_or(step.outputs.len());
        if step.can_fail {
            streams.insert(Edge { from: *id, port }, errors);
        }
    }
}

/// Stands where a step could not be rendered; the run is failing already and gives it no rows to lose.
struct Broken;

impl RowStep for Broken {
    fn step(&mut self, _rows: Rows, _out: &mut engine_dataflow::StepOutput) {}
}

fn row_step(
    shared: &GraphShared,
    step: &Step,
    worker: usize,
    readers: &[Vec<Vec<(StepId, usize)>>],
) -> Result<Box<dyn RowStep>, String> {
    let inputs = input_schemas(shared, step);
    let read = read_ports(step, readers);
    let cx = render_cx(shared, step, worker, &inputs, &read);
    match engine_operators::render_of(step.kind, &*step.planned) {
        Some(Render::Rows(render)) => render(&*step.planned, &cx),
        _ => Err(format!("`{}` is not row-wise", step.kind)),
    }
}

/// A step that the keys of a source imply, without a dataflow around it: to see what event times it gives.
pub(crate) fn entry_row_step(plan: &Plan, step: &Step) -> Result<Box<dyn RowStep>, String> {
    let inputs: Vec<SchemaRef> = step.inputs.iter().map(|edge| pruned(plan.step(edge.from), edge.port)).collect();
    let cx = RenderCx {
        step: step.name.as_str().into(),
        step_id: step.id,
        inputs: &inputs,
        wanted: &step.wanted[..step.row_outputs().len()],
        read: &[true],
        worker: 0,
        workers: 1,
        clock: engine_base::SystemClock::shared(),
        waiting_for_time: Arc::default(),
        state_memory: None,
        durable: false,
    };
    match engine_operators::render_of(step.kind, &*step.planned) {
        Some(Render::Rows(render)) => render(&*step.planned, &cx),
        _ => Err(format!("`{}` is not row-wise", step.kind)),
    }
}

#[allow(clippy::too_many_arguments)] // what a graph is built of
fn add_step<'scope>(
    shared: &GraphShared,
    scope: Scope<'scope, u64>,
    step: &Step,
    worker: usize,
    readers: &[Vec<Vec<(StepId, usize)>>],
    statements: &StreamVec<'scope, u64, Statement>,
    participants: &Participants,
    streams: &mut Streams<'scope>,
) {
    let inputs = input_schemas(shared, step);
    let read = read_ports(step, readers);
    let sources: Vec<_> = step.inputs.iter().filter_map(|edge| streams.get(edge).cloned()).collect();
    let render = engine_operators::render_of(step.kind, &*step.planned);
    let meter = shared.meters[step.id.0 as usize].clone();
    let fail = |reason: String| shared.ingest.control.fail(format!("step `{}`: {reason}", step.name));
    match render {
        Some(Render::Union) => {
            let mut united = Vec::new();
            for (at, source) in sources.into_iter().enumerate() {
                let cx = render_cx(shared, step, worker, &inputs, &read);
                let rendered = engine_operators::render_union_input(&*step.planned, &cx, at).unwrap_or_else(|reason| {
                    fail(reason);
                    Box::new(Broken)
                });
                let one = ChainStep {
                    name: format!("{} {at}", step.name).into(),
                    step: rendered,
                    side_ports: 0,
                    meter: meter.clone(),
                };
                united.push(chain(source, vec![one], &shared.steps).main);
            }
            streams.insert(Edge { from: step.id, port: 0 }, scope.concatenate(united));
        }
        Some(Render::Epochs(render)) => {
            let cx = render_cx(shared, step, worker, &inputs, &read);
            let mut rendered = render(&*step.planned, &cx).unwrap_or_else(|reason| {
                fail(reason);
                Box::new(BrokenEpochs)
            });
            let recovered = shared.durable.as_ref().map(|durable| &durable.recovered);
            if let (Some(recovered), Some(state)) = (recovered, rendered.state()) {
                recovered.restore(&step.name, worker, shared.workers, state).unwrap_or_else(&fail);
            }
            let keys = step.exchange.clone().unwrap_or_default();
            let keyed_inputs = sources
                .into_iter()
                .zip(keys.into_iter().chain(std::iter::repeat(Vec::new())))
                .map(|(stream, key)| KeyedInput { stream, key })
                .collect();
            let ports = step.row_outputs().len();
            let time = step.timed.then(|| KeyedTime {
                statements: statements.clone(),
                sources: shared.plan.sources().count(),
                inputs: step.inputs.iter().map(|edge| input_time(shared.plan.output(*edge))).collect(),
                reached: recovered.map(|recovered| recovered.watermarks_ns(&step.name)).unwrap_or_default(),
            });
            let built =
                keyed(scope, &step.name, keyed_inputs, time, ports, rendered, meter, &shared.steps, participants);
            for (port, stream) in built.ports.into_iter().enumerate() {
                streams.insert(Edge { from: step.id, port }, stream);
            }
            if let Some(port) = step.error_port() {
                streams.insert(Edge { from: step.id, port }, built.errors);
            }
        }
        Some(Render::Region(render)) => {
            let cx = render_cx(shared, step, worker, &inputs, &read);
            let rendered = render(&*step.planned, &cx).unwrap_or_else(|reason| {
                fail(reason);
                broken_region(sources.len())
            });
            let recovered = shared.durable.as_ref().map(|durable| &durable.recovered);
            let inputs = recovered.map(|recovered| recovered.inputs(&step.name, sources.len(), worker, shared.workers));
            let inputs = inputs.transpose().unwrap_or_else(|reason| {
                fail(reason);
                None
            });
            let inputs = inputs.unwrap_or_default();
            let built = region(&step.name, sources, rendered, meter, &shared.steps, inputs, participants);
            streams.insert(Edge { from: step.id, port: 0 }, built.changes);
            let errors = scope.concatenate(built.errors);
            if let Some(port) = step.error_port() {
                streams.insert(Edge { from: step.id, port }, errors);
            }
        }
        _ => fail(format!("nothing runs a step of type `{}`", step.kind)),
    }
}

/// What the event time of a stream stands on.
fn input_time(output: &Output) -> InputTime {
    let event_time = output.stream.event_time.as_ref();
    let sources = match event_time {
        Some(event_time) => event_time.follows.iter().map(|(source, hold_ns)| (source.0, *hold_ns)).collect(),
        None => output.stream.origins.sources.iter().map(|source| (source.0, 0)).collect(),
    };
    InputTime { sources, max_delay_ns: event_time.map_or(0, |event_time| event_time.max_delay_ns) }
}

/// Stands where a keyed step could not be rendered.
struct BrokenEpochs;

impl engine_dataflow::EpochStep for BrokenEpochs {
    fn close(
        &mut self,
        _moment: &engine_dataflow::Moment,
        _inputs: Vec<Vec<Rows>>,
        _out: &mut engine_dataflow::StepOutput,
    ) {
    }
}

/// Stands where a step on differential dataflow could not be rendered.
fn broken_region(inputs: usize) -> RegionStep {
    RegionStep {
        inputs: (0..inputs).map(|_| Box::new(|_: &Rows, _: &mut Give<'_>, _: &mut StepOutput| ()) as Encode).collect(),
        region: if inputs == 2 { Region::Join(Join::Inner) } else { Region::Distinct },
        build: Box::new(|_, _, _, _| ()),
    }
}

fn input_schemas(shared: &GraphShared, step: &Step) -> Vec<SchemaRef> {
    step.inputs.iter().map(|edge| pruned(shared.plan.step(edge.from), edge.port)).collect()
}

fn read_ports(step: &Step, readers: &[Vec<Vec<(StepId, usize)>>]) -> Vec<bool> {
    let of = &readers[step.id.0 as usize];
    (0..step.row_outputs().len()).map(|port| port == 0 || !of[port].is_empty()).collect()
}

fn render_cx<'a>(
    shared: &GraphShared,
    step: &'a Step,
    worker: usize,
    inputs: &'a [SchemaRef],
    read: &'a [bool],
) -> RenderCx<'a> {
    RenderCx {
        step: step.name.as_str().into(),
        step_id: step.id,
        inputs,
        wanted: &step.wanted[..step.row_outputs().len()],
        read,
        worker,
        workers: shared.workers,
        clock: shared.clock.clone(),
        waiting_for_time: shared.ingest.waiting_for_time.clone(),
        state_memory: shared.state_memory.clone(),
        durable: shared.durable.is_some(),
    }
}
