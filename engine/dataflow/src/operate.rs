//! The operators that run steps: a fused chain of row-wise ones, and one that acts at an epoch's close.

use crate::control::Control;
use crate::errors::{SourceNames, error_rows};
use crate::exchange::ByKey;
use crate::meter::{Meter, count_failed};
use crate::rows::{ErrorRow, Rows};
use crate::snapshot::{Part, Participant, Participants, Snapshots, part_of};
use crate::step::{EpochStep, Moment, RowStep, StepOutput};
use crate::watermark::{InputTime, Statement, Timeline, watermarks_ns};
use engine_base::{Clock, Epoch};
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fmt;
use std::rc::Rc;
use std::sync::Arc;
use timely::container::NoopBuilder;
use timely::dataflow::channels::pact::{DistributorPact, Pipeline};
use timely::dataflow::operators::generic::OutputBuilder;
use timely::dataflow::operators::generic::builder_rc::OperatorBuilder;
use timely::dataflow::operators::{Capability, CapabilityTrait};
use timely::dataflow::{Scope, Stream, StreamVec};
use timely::progress::operate::FrontierInterest;

type Output = OutputBuilder<u64, NoopBuilder<Rows>>;

/// What the operators of a worker share.
#[derive(Clone)]
pub struct StepShared {
    /// The clock, for busy time and latency.
    pub clock: Arc<dyn Clock>,
    /// Names of sources, for error rows.
    pub names: SourceNames,
    /// Told where a row stops the pipeline.
    pub control: Arc<Control>,
    /// The room for what regions keep, where it is bounded.
    pub room: Option<Room>,
    /// Who takes snapshots, where there are any.
    pub snapshots: Option<Arc<Snapshots>>,
}

/// Room for state that can't leave the memory: told of bytes that come and go, it says whether there is enough.
#[derive(Clone)]
pub struct Room(pub Arc<dyn Fn(i64) -> bool + Send + Sync>);

impl fmt::Debug for Room {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Room")
    }
}

/// A row-wise step on its way into a chain.
pub struct ChainStep {
    /// Its name.
    pub name: Arc<str>,
    /// The step.
    pub step: Box<dyn RowStep>,
    /// Side outputs after the main one.
    pub side_ports: usize,
    /// Its instruments.
    pub meter: Arc<dyn Meter>,
}

/// The streams of a chain.
pub struct ChainStreams<'scope> {
    /// The main output of the last step.
    pub main: Stream<'scope, u64, Rows>,
    /// The side outputs of each step.
    pub sides: Vec<Vec<Stream<'scope, u64, Rows>>>,
    /// The failed rows of each step.
    pub errors: Vec<Stream<'scope, u64, Rows>>,
}

/// One operator for a run of row-wise steps: rows go from step to step by call, without a queue in between.
pub fn chain<'scope>(
    input: Stream<'scope, u64, Rows>,
    steps: Vec<ChainStep>,
    shared: &StepShared,
) -> ChainStreams<'scope> {
    let name = steps.iter().map(|step| &*step.name).collect::<Vec<_>>().join(" + ");
    let mut builder = OperatorBuilder::new(name, input.scope());
    let mut input = builder.new_input(input, Pipeline);
    builder.set_notify_for(0, FrontierInterest::Never);
    let (main_out, main) = builder.new_output::<Rows>();
    let mut links: Vec<Link> = Vec::new();
    let mut sides = Vec::new();
    let mut errors = Vec::new();
    for step in steps {
        let (outs, streams): (Vec<_>, Vec<_>) = (0..step.side_ports)
            .map(|_| {
                let (output, stream) = builder.new_output::<Rows>();
                (Output::from(output), stream)
            })
            .unzip();
        let (errors_out, error_stream) = builder.new_output::<Rows>();
        sides.push(streams);
        errors.push(error_stream);
        links.push(Link { step: step.step, meter: step.meter, sides: outs, errors: Output::from(errors_out) });
    }
    let mut main_out = Output::from(main_out);
    let shared = shared.clone();
    builder.build(move |_caps| {
        move |_frontiers| {
            input.for_each(|cap, rows| {
                run_links(&mut links, &mut main_out, std::mem::take(rows), &cap, &shared);
            });
        }
    });
    ChainStreams { main, sides, errors }
}

/// A step in its chain with its outputs.
pub(crate) struct Link {
    step: Box<dyn RowStep>,
    meter: Arc<dyn Meter>,
    sides: Vec<Output>,
    errors: Output,
}

impl Link {
    /// A step without side outputs, whose failed rows go to a new output of the operator that is being built.
    pub(crate) fn alone<'scope>(
        step: ChainStep,
        builder: &mut OperatorBuilder<'scope, u64>,
    ) -> (Link, Stream<'scope, u64, Rows>) {
        let (errors, stream) = builder.new_output::<Rows>();
        (Link { step: step.step, meter: step.meter, sides: Vec::new(), errors: Output::from(errors) }, stream)
    }
}

fn run_links<C: CapabilityTrait<u64>>(links: &mut [Link], main: &mut Output, rows: Rows, cap: &C, shared: &StepShared) {
    let mut give = |mut rows: Rows| {
        main.activate().session_with_builder(cap).give_container(&mut rows);
    };
    through(links, rows, &|_| cap, &mut give, shared);
}

/// Takes rows through steps one after the other; what is left goes to `give`. `cap_of` gives the capability for the side
/// outputs of the step with so many steps behind it.
pub(crate) fn through<'c, C: CapabilityTrait<u64> + 'c>(
    links: &mut [Link],
    rows: Rows,
    cap_of: &dyn Fn(usize) -> &'c C,
    give: &mut dyn FnMut(Rows),
    shared: &StepShared,
) {
    let Some((link, rest)) = links.split_first_mut() else {
        if rows.num_rows() > 0 {
            give(rows);
        }
        return;
    };
    let cap = cap_of(rest.len());
    if rows.num_rows() == 0 {
        return;
    }
    let start_ns = shared.clock.monotonic_ns();
    let rows_in = rows.num_rows() as u64;
    let mut out = StepOutput::new(1 + link.sides.len());
    link.step.step(rows, &mut out);
    measure(&*link.meter, rows_in, &out, start_ns, shared);
    if stops(&out, shared) {
        return;
    }
    give_errors(&mut link.errors, out.errors, cap, &shared.names);
    let mut ports = out.ports.into_iter();
    let passed = ports.next().unwrap_or_default();
    for (output, side) in link.sides.iter_mut().zip(ports) {
        let mut output = output.activate();
        let mut session = output.session_with_builder(cap);
        for mut rows in side {
            session.give_container(&mut rows);
        }
    }
    for rows in passed {
        through(rest, rows, cap_of, give, shared);
    }
}

pub(crate) fn measure(meter: &dyn Meter, rows_in: u64, out: &StepOutput, start_ns: u64, shared: &StepShared) {
    let rows_out = out.ports.iter().flatten().map(|rows| rows.num_rows() as u64).sum();
    let busy_ns = shared.clock.monotonic_ns().saturating_sub(start_ns);
    meter.batch(rows_in, rows_out, busy_ns);
    count_failed(meter, &out.errors);
    if out.late > 0 {
        meter.late(out.late);
    }
    if out.dropped > 0 {
        meter.dropped(out.dropped);
    }
    for (outcome, rows) in &out.outcomes {
        meter.outcome(outcome, *rows);
    }
    let now_ns = shared.clock.now_ns();
    for rows in out.ports.iter().flatten() {
        // Rows of a batch came together: the first stands for all.
        meter.latency(now_ns.saturating_sub(rows.ingest_ns.get(0)).max(0) as u64, rows.num_rows() as u64);
    }
}

/// Stops the pipeline where a row asks for it. No cut is committed from then on, so the row is read again by the next run.
fn stops(out: &StepOutput, shared: &StepShared) -> bool {
    let Some(row) = &out.fatal else { return false };
    let position = shared.names.describe(&row.position);
    shared.control.fail(format!("step `{}`: {} (the row {position}; `on_error: stop`)", row.step, row.error.reason));
    true
}

pub(crate) fn give_errors<C: CapabilityTrait<u64>>(
    output: &mut Output,
    errors: Vec<ErrorRow>,
    cap: &C,
    names: &SourceNames,
) {
    if !errors.is_empty() {
        output.activate().session_with_builder(cap).give_container(&mut error_rows(errors, names));
    }
}

/// An input of a keyed operator: its stream and the columns that bring rows of one key together (none: all to worker 0).
pub struct KeyedInput<'scope> {
    /// The rows.
    pub stream: Stream<'scope, u64, Rows>,
    /// The key columns.
    pub key: Vec<String>,
}

/// The streams of a keyed operator.
pub struct KeyedStreams<'scope> {
    /// The main output, then the side outputs.
    pub ports: Vec<Stream<'scope, u64, Rows>>,
    /// Failed rows.
    pub errors: Stream<'scope, u64, Rows>,
}

/// What a keyed operator needs to know the event time.
pub struct KeyedTime<'scope> {
    /// What the workers state of the sources.
    pub statements: StreamVec<'scope, u64, Statement>,
    /// How many sources there are.
    pub sources: usize,
    /// The event time of each input.
    pub inputs: Vec<InputTime>,
    /// The watermark that each input had reached in the run that this one goes on from; empty for none.
    pub reached: Vec<Option<i64>>,
}

/// The event time of a keyed operator: what was stated up to the epoch that closes.
struct Watch {
    timeline: Timeline,
    inputs: Vec<InputTime>,
    reached: Vec<Option<i64>>,
}

impl Watch {
    /// Takes the statements of an epoch.
    fn close(&mut self, epoch: u64, statements: Vec<Statement>) -> Moment {
        statements.into_iter().for_each(|statement| self.timeline.hear(statement));
        let late_ns = self.reached.clone();
        for (reached, stated) in self.reached.iter_mut().zip(watermarks_ns(&self.timeline, &self.inputs)) {
            // It never goes back, and what was not known may still be less than what is.
            *reached = (*reached).max(stated);
        }
        Moment { epoch: Epoch(epoch), late_ns, watermark_ns: self.reached.clone(), clock_ns: self.timeline.clock_ns() }
    }
}

/// A step and its event time: what a snapshot takes its part of.
struct Kept {
    name: Arc<str>,
    step: Box<dyn EpochStep>,
    watch: Option<Watch>,
    /// The number of the last snapshot that it took part in.
    taken: u64,
    /// Not all of that is given.
    gives: bool,
    worker: usize,
}

impl Participant for Kept {
    fn take_part(&mut self, number: u64, snapshots: &Snapshots) {
        if self.taken == number {
            return;
        }
        // The last one may come while another is given.
        while self.give(usize::MAX, snapshots) {}
        self.taken = number;
        if let Some(state) = self.step.state() {
            state.freeze();
            self.gives = true;
        }
        // It is the same on all workers.
        if let (Some(watch), 0) = (&self.watch, self.worker) {
            snapshots.give(number, Part::Reached { step: self.name.clone(), watermarks_ns: watch.reached.clone() });
        }
    }

    fn give(&mut self, bytes: usize, snapshots: &Snapshots) -> bool {
        let Some(state) = self.step.state().filter(|_| self.gives) else { return false };
        let (part, more) = part_of(&self.name, state, bytes);
        if let Some(part) = part {
            snapshots.give(self.taken, part);
        }
        self.gives = more;
        more
    }
}

/// One operator with state by key: gathers each epoch's rows and acts when the epoch has closed on all workers.
#[allow(clippy::too_many_arguments)] // the parts of an operator
pub fn keyed<'scope>(
    scope: Scope<'scope, u64>,
    name: &str,
    inputs: Vec<KeyedInput<'scope>>,
    time: Option<KeyedTime<'scope>>,
    ports: usize,
    step: Box<dyn EpochStep>,
    meter: Arc<dyn Meter>,
    shared: &StepShared,
    participants: &Participants,
) -> KeyedStreams<'scope> {
    let mut builder = OperatorBuilder::new(name.to_owned(), scope);
    let mut handles: Vec<_> = inputs
        .into_iter()
        .map(|input| {
            let key = input.key;
            builder.new_input(input.stream, DistributorPact(move |workers| ByKey::new(key, workers)))
        })
        .collect();
    let count = handles.len();
    let peers = scope.peers();
    let mut watch = None;
    let mut heard = time.map(|time| {
        let mut reached = time.reached;
        reached.resize(time.inputs.len(), None);
        watch = Some(Watch { timeline: Timeline::new(time.sources, peers), inputs: time.inputs, reached });
        builder.new_input(time.statements, Pipeline)
    });
    for input in 0..count + usize::from(heard.is_some()) {
        builder.set_notify_for(input, FrontierInterest::IfCapability);
    }
    let activator = scope.activator_for(builder.operator_info().address);
    let (mut outs, streams): (Vec<Output>, Vec<_>) = (0..ports)
        .map(|_| {
            let (output, stream) = builder.new_output::<Rows>();
            (Output::from(output), stream)
        })
        .unzip();
    let (errors_out, errors) = builder.new_output::<Rows>();
    let mut errors_out = Output::from(errors_out);
    let shared = shared.clone();
    let kept =
        Rc::new(RefCell::new(Kept { name: name.into(), step, watch, taken: 0, gives: false, worker: scope.index() }));
    if shared.snapshots.is_some() {
        participants.add(kept.clone());
    }
    builder.build(move |caps| {
        drop(caps);
        let mut waiting: BTreeMap<u64, Waiting> = BTreeMap::new();
        let sides = ports + 1;
        // The epoch that a step has not finished.
        let mut unfinished: Option<(u64, Vec<Capability<u64>>)> = None;
        move |frontiers| {
            for (at, handle) in handles.iter_mut().enumerate() {
                handle.for_each(|cap, rows| {
                    // A message always has a time here: sources stamp every batch with their epoch.
                    let Some(epoch) = cap.least().copied() else { return };
                    let entry = waiting.entry(epoch).or_insert_with(|| Waiting::new(count));
                    entry.hold(|| (0..sides).filter_map(|port| cap.retain_least(port)).collect());
                    entry.inputs[at].push(std::mem::take(rows));
                });
            }
            if let Some(heard) = &mut heard {
                heard.for_each(|cap, statements| {
                    let Some(epoch) = cap.least().copied() else { return };
                    let entry = waiting.entry(epoch).or_insert_with(|| Waiting::new(count));
                    entry.hold(|| (0..sides).filter_map(|port| cap.retain_least(port)).collect());
                    entry.statements.append(statements);
                });
            }
            let kept = &mut *kept.borrow_mut();
            loop {
                let (mut out, start_ns, mut rows_in) = (StepOutput::new(ports), shared.clock.monotonic_ns(), 0);
                let (epoch, caps) = match unfinished.take() {
                    Some(unfinished) => unfinished,
                    None => {
                        let Some(entry) = waiting.first_entry() else { break };
                        let epoch = *entry.key();
                        if frontiers.iter().any(|frontier| frontier.less_equal(&epoch)) {
                            break;
                        }
                        let closing = entry.remove();
                        if let Some(snapshots) = &shared.snapshots
                            && let Some(number) = snapshots.before(epoch)
                        {
                            kept.take_part(number, snapshots);
                        }
                        rows_in = closing.inputs.iter().flatten().map(|rows| rows.num_rows() as u64).sum();
                        let inputs: Vec<Vec<Rows>> = closing.inputs.into_iter().map(Rows::in_canonical_order).collect();
                        let moment = match &mut kept.watch {
                            Some(watch) => watch.close(epoch, closing.statements),
                            None => Moment::timeless(Epoch(epoch), count),
                        };
                        kept.step.close(&moment, inputs, &mut out);
                        (epoch, closing.caps)
                    }
                };
                let more = kept.step.resume(&mut out);
                measure(&*meter, rows_in, &out, start_ns, &shared);
                if stops(&out, &shared) {
                    return;
                }
                give_errors(&mut errors_out, out.errors, &caps[ports], &shared.names);
                for ((output, batches), cap) in outs.iter_mut().zip(out.ports).zip(&caps) {
                    let mut output = output.activate();
                    let mut session = output.session_with_builder(cap);
                    for mut rows in batches {
                        session.give_container(&mut rows);
                    }
                }
                if more {
                    // Others have their turn first.
                    unfinished = Some((epoch, caps));
                    activator.activate();
                    break;
                }
            }
        }
    });
    KeyedStreams { ports: streams, errors }
}

/// An epoch that has not closed: its rows by input, and a capability for each output.
struct Waiting {
    caps: Vec<Capability<u64>>,
    inputs: Vec<Vec<Rows>>,
    statements: Vec<Statement>,
}

impl Waiting {
    fn new(inputs: usize) -> Self {
        Waiting { caps: Vec::new(), inputs: vec![Vec::new(); inputs], statements: Vec::new() }
    }

    fn hold(&mut self, caps: impl FnOnce() -> Vec<Capability<u64>>) {
        if self.caps.is_empty() {
            self.caps = caps();
        }
    }
}
