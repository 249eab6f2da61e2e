//! The lives of a run: each from the opening of the state directory to its end, by a fault or well.

use super::random::{Random, Trace};
use super::systems;
use super::workers::workers;
use super::world::{Partition, Shared, World};
use super::{input, source};
use crate::runtime::durable::planted::{Planted, plant};
use crate::runtime::durable::{Event, Ground, Message, Parts, StateDir, Waits, Works, assemble, begin};
use crate::runtime::errors_file::ErrorsFile;
use crate::runtime::graph::{Durable, GraphShared, SharedSink, build};
use engine_base::{Clock, StepId, VirtualClock};
use engine_dataflow::deliver::SinkShared;
use engine_dataflow::ingest::{Committed, IngestShared};
use engine_dataflow::operate::StepShared;
use engine_dataflow::run::Share;
use engine_dataflow::{Budget, Control, CutBoard, Meter, SourceNames, Unmetered};
use engine_plan::Plan;
use engine_state::checkpoint::MemoryEntries;
use engine_state::disk::SimDisk;
use engine_state::journal::JournalConfig;
use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use timely::worker::Worker;

/// A life that has not ended after so many steps never will.
const STEPS_MAX: u64 = 300_000;
/// Where the clock stands first, nanoseconds since 1970.
const BEGINNING_NS: i64 = 1_700_000_000_000_000_000;
const MS: i64 = 1_000_000;

/// A run by a seed, over all its lives.
pub(super) struct Simulation {
    pub(super) world: Shared,
    pub(super) plan: Arc<Plan>,
    disk: SimDisk,
    entries: MemoryEntries,
    now_ns: i64,
    /// A fault of the disk has been arranged and has perhaps not come yet.
    armed: bool,
    full: bool,
    segment_bytes: u64,
    budget: Budget,
    pub(super) lives: u64,
}

/// How a life ended.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum End {
    /// The input ended, or it was asked to stop.
    Well,
    /// The engine stopped with this sentence.
    Failed(String),
    /// The process was killed, or the power failed.
    Killed,
}

/// What breaks in a life, and after how many steps.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Faults {
    killed: Option<u64>,
    stopped: Option<u64>,
    disk: Option<(u64, DiskFault)>,
}

#[derive(Clone, Copy, Debug)]
enum DiskFault {
    Write(u32),
    Sync(u32),
    Full(u64),
}

/// Who goes on.
#[derive(Clone, Copy)]
enum Actor {
    Worker,
    Committer,
    Checkpointer,
    Source,
    Systems,
    Clock,
}

const ACTORS: [Actor; 6] =
    [Actor::Worker, Actor::Committer, Actor::Checkpointer, Actor::Source, Actor::Systems, Actor::Clock];

impl Faults {
    /// By chance.
    pub(super) fn some(random: &mut Random) -> Faults {
        let mut faults = Faults::default();
        let step = |random: &mut Random| match random.once_in(4) {
            // While it starts.
            true => random.below(8),
            false => random.below(900),
        };
        match random.below(10) {
            0..5 => faults.killed = Some(step(random)),
            5..9 => {
                let at = step(random);
                let fault = match random.below(3) {
                    0 => DiskFault::Write(random.below(4) as u32),
                    1 => DiskFault::Sync(random.below(4) as u32),
                    _ => DiskFault::Full(random.below(6_000)),
                };
                faults.disk = Some((at, fault));
                faults.killed = Some(at + 1 + random.below(1_000));
            }
            _ => faults.stopped = Some(step(random)),
        }
        faults
    }
}

impl Simulation {
    pub(super) fn new(seed: u64, (plan, idles): (Arc<Plan>, bool), prints: bool) -> Simulation {
        let mut random = Random::new(seed);
        let disk = SimDisk::new(random.next());
        let segment_bytes = random.one_of(&[600, 4_000, 30_000]);
        let budget = Budget {
            bytes: random.one_of(&[100, 1_000, 1 << 20]),
            age_ns: random.one_of(&[5_000_000, 100_000_000, 10_000_000_000]),
        };
        let rows = input::make(&mut random);
        let partitions = rows.into_iter().map(|rows| Partition { rows, there: 0, committed: 0, released: 0 }).collect();
        let world = World {
            random,
            trace: Trace::new(prints),
            partitions,
            systems: BTreeMap::new(),
            readers: Vec::new(),
            idles,
            broken: None,
        };
        Simulation {
            world: Shared::new(world),
            plan,
            disk,
            entries: MemoryEntries::new(),
            now_ns: BEGINNING_NS,
            armed: false,
            full: false,
            segment_bytes,
            budget,
            lives: 0,
        }
    }

    fn note(&self, line: &str) {
        self.world.lock().note(line);
    }

    /// What stands between two lives: a process that is gone, and perhaps the power with it.
    pub(super) fn falls(&mut self, power: bool) {
        let mut world = self.world.lock();
        world.note(if power { "the power fails" } else { "the process is gone" });
        world.crash(power);
        if power {
            self.disk.crash();
            let lost = world.random.next();
            self.entries.crash(lost);
            self.armed = false;
        }
        self.entries = self.entries.reopened();
        if self.full && world.random.once_in(2) {
            self.disk.set_free_bytes(None);
            self.full = false;
        }
    }

    /// Nothing is wrong with the disk from here on.
    pub(super) fn heal(&mut self) {
        if self.armed {
            self.falls(true);
        }
        self.disk.set_free_bytes(None);
        self.full = false;
    }

    fn arrange(&mut self, fault: DiskFault) {
        self.note(&format!("{fault:?}"));
        match fault {
            DiskFault::Write(after) => self.disk.fail_write_in(after),
            DiskFault::Sync(after) => self.disk.fail_sync_in(after),
            DiskFault::Full(bytes) => self.disk.set_free_bytes(Some(bytes)),
        }
        match fault {
            DiskFault::Full(_) => self.full = true,
            _ => self.armed = true,
        }
    }

    /// One life. An engine that fails though nothing is wrong with its disk has broken what it promises.
    pub(super) fn live(&mut self, workers: usize, faults: Faults) -> End {
        self.lives += 1;
        self.note(&format!("life {} on {workers} workers: {faults:?}", self.lives));
        let was_broken = self.armed || self.full;
        let mut steps = Steps { taken: 0, faults };
        let end = self.try_to_live(workers, &mut steps).unwrap_or_else(End::Failed);
        self.note(&format!("{end:?}"));
        if let (End::Failed(reason), false) = (&end, was_broken || self.armed || self.full) {
            self.world.lock().breaks(format!("it failed without a fault: {reason}"));
        }
        end
    }

    fn try_to_live(&mut self, workers: usize, steps: &mut Steps) -> Result<End, String> {
        let clock = VirtualClock::at(self.now_ns);
        let shared_clock: Arc<dyn Clock> = clock.clone();
        let plan = self.plan.clone();
        if steps.step(self) {
            return Ok(End::Killed);
        }
        let entries = self.entries.clone();
        let ground = Ground {
            disk: Arc::new(self.disk.clone()),
            entries: Box::new(move |_| Ok(Arc::new(entries))),
            journal: JournalConfig { segment_bytes: self.segment_bytes, id: 7, ..JournalConfig::default() },
        };
        let mut state = StateDir::open_on(ground, Path::new("/state"), &plan)?;
        if steps.step(self) {
            return Ok(End::Killed);
        }
        let mut recovered = state.recover(&plan, &[])?;
        let mut handles: HashMap<StepId, SharedSink> = HashMap::new();
        for step in plan.sinks() {
            let exact = recovered.exact.get(&step.name);
            let handle = systems::open(&self.world, &step.name, &*step.planned, exact)?;
            handles.insert(step.id, Arc::new(Mutex::new(Some(handle))));
        }
        if steps.step(self) {
            return Ok(End::Killed);
        }
        begin(&mut state, &mut recovered, &plan, &handles)?;
        if steps.step(self) {
            return Ok(End::Killed);
        }
        let board = Arc::new(CutBoard::default());
        board.watch();
        let control = Arc::new(Control::default());
        let committed = Arc::new(Committed::default());
        let parts = Parts {
            plan: &plan,
            workers,
            board: &board,
            control: &control,
            committed: &committed,
            clock: &shared_clock,
            portion_bytes: self.world.lock().random.one_of(&[1, 60, 1 << 20]),
        };
        let (durable, works) = assemble(state, recovered, parts);
        let graph = self.graph(workers, &shared_clock, durable, &works, (&board, &control, &committed), handles);
        let mut life = Life { sim: self, control, clock, works, committer_ended: false, checkpointer_ended: false };
        let end = life.run(&graph, workers, steps);
        let now_ns = life.clock.now_ns();
        self.now_ns = now_ns + MS;
        end
    }

    fn graph(
        &self,
        workers: usize,
        clock: &Arc<dyn Clock>,
        durable: Durable,
        works: &Works,
        (board, control, committed): (&Arc<CutBoard>, &Arc<Control>, &Arc<Committed>),
        handles: HashMap<StepId, SharedSink>,
    ) -> GraphShared {
        let plan = self.plan.clone();
        let names = SourceNames::new(plan.sources().map(|step| Arc::from(step.name.as_str())));
        let unmetered = || Arc::new(Unmetered) as Arc<dyn Meter>;
        let snapshots = Some(works.hub.snapshots.clone());
        let recovered = &durable.recovered;
        let world = self.world.clone();
        GraphShared {
            workers,
            ingest: IngestShared {
                board: board.clone(),
                control: control.clone(),
                clock: clock.clone(),
                budget: self.budget,
                in_flight: Arc::default(),
                follow: Some(Arc::new(recovered.tail.clone())),
                then_live: true,
                first: recovered.first(),
                snapshots: snapshots.clone(),
                accept_changed_input: false,
                names: names.clone(),
                committed: committed.clone(),
                pulse: Arc::new(Unmetered),
                waiting_for_time: Arc::default(),
                align_ns: plan.align_ns,
                ticks_ns: plan.steps.iter().filter_map(|step| step.planned.ticks_ns()).collect(),
            },
            steps: StepShared {
                clock: clock.clone(),
                names: names.clone(),
                control: control.clone(),
                room: None,
                snapshots,
            },
            sinks: SinkShared { control: control.clone(), clock: clock.clone(), names, acknowledged: recovered.done },
            handles,
            errors: ErrorsFile::new(PathBuf::new(), false),
            from: recovered.from.clone(),
            meters: plan.steps.iter().map(|_| unmetered()).collect(),
            errors_meter: unmetered(),
            state_memory: None,
            clock: clock.clone(),
            start_source: Arc::new(move |_, _, start| source::start(&world, start)),
            stand: None,
            durable: Some(durable),
            plan,
        }
    }
}

/// Counts the steps of a life, and has its faults come when they are due.
struct Steps {
    taken: u64,
    faults: Faults,
}

impl Steps {
    /// One step more. True when the process is killed there.
    fn step(&mut self, sim: &mut Simulation) -> bool {
        if let Some((_, fault)) = self.faults.disk.filter(|(at, _)| *at == self.taken) {
            sim.arrange(fault);
        }
        self.taken += 1;
        self.faults.killed.is_some_and(|at| at < self.taken)
    }
}

/// A life that has begun.
struct Life<'a> {
    sim: &'a mut Simulation,
    control: Arc<Control>,
    clock: Arc<VirtualClock>,
    works: Works,
    committer_ended: bool,
    checkpointer_ended: bool,
}

impl Life<'_> {
    fn run(&mut self, graph: &GraphShared, count: usize, steps: &mut Steps) -> Result<End, String> {
        let mut running: Vec<(Worker, Option<Share>)> = Vec::new();
        for mut worker in workers(count) {
            let (watcher, snapshots) = (self.works.hub.watcher.clone(), graph.ingest.snapshots.clone());
            let share = Share::build(&mut worker, self.control.clone(), watcher, snapshots, &|scope, worker| {
                build(graph, scope, worker)
            });
            running.push((worker, Some(share)));
        }
        let mut weights: [u64; 6] = std::array::from_fn(|_| self.sim.world.lock().random.one_of(&[1, 3, 10, 30]));
        while running.iter().any(|(_, share)| share.is_some()) {
            if steps.step(self.sim) {
                return Ok(End::Killed);
            }
            if steps.faults.stopped == Some(steps.taken) {
                self.sim.note("it is asked to stop");
                self.control.stop();
            }
            if steps.taken > STEPS_MAX {
                self.sim.world.lock().breaks("it does not come to an end".to_owned());
                return Ok(End::Killed);
            }
            let actor = {
                let mut world = self.sim.world.lock();
                // A source that has given all it has takes no turns.
                weights[Actor::Source as usize] *= u64::from(!world.is_given());
                ACTORS[world.random.weighed(&weights)]
            };
            match actor {
                Actor::Worker => {
                    let at = self.sim.world.lock().random.below(count as u64) as usize;
                    let (worker, share) = &mut running[at];
                    if let Some(mut taken) = share.take() {
                        self.sim.note(&format!("worker {at}"));
                        match taken.turn(worker, Some(Duration::ZERO)) {
                            true => *share = Some(taken),
                            false => taken.end(),
                        }
                    }
                }
                Actor::Committer => self.commit(),
                Actor::Checkpointer => self.checkpoint(),
                Actor::Source => self.sim.world.lock().give_some(),
                Actor::Systems => {
                    self.sim.world.lock().some_system_acts();
                }
                Actor::Clock => {
                    let ms = self.sim.world.lock().random.one_of(&[1, 1, 2, 5, 20]);
                    self.clock.advance_ns(ms * MS);
                    running.iter().filter_map(|(_, share)| share.as_ref()).for_each(Share::time_passes);
                }
            }
        }
        drop(running);
        // As the threads end: the committer with what it was told, then the checkpointer.
        let _ = self.works.hub.events.send(Event::End);
        while !self.committer_ended {
            if steps.step(self.sim) {
                return Ok(End::Killed);
            }
            let checkpoints = self.sim.world.lock().random.once_in(3);
            match checkpoints {
                true => self.checkpoint(),
                false => self.commit(),
            }
        }
        let _ = self.works.hub.messages.send(Message::End);
        while !self.checkpointer_ended {
            if steps.step(self.sim) {
                return Ok(End::Killed);
            }
            self.checkpoint();
        }
        self.control.reason().map_or(Ok(End::Well), Err)
    }

    fn commit(&mut self) {
        if self.committer_ended {
            return;
        }
        let event = self.works.events.try_recv().ok();
        let line = match &event {
            Some(Event::Progress(progress)) => format!("committer: {progress:?}"),
            Some(Event::Delivered(sink, delivered)) => format!("committer: sink {sink}, {delivered:?}"),
            Some(Event::End) => "committer: the end".to_owned(),
            None => format!("committer: {:?}", self.works.committer.due_in()),
        };
        self.sim.note(&line);
        match self.works.committer.turn(event) {
            Ok(goes_on) => self.committer_ended = !goes_on,
            Err(reason) => {
                self.sim.note(&reason);
                self.committer_ended = true;
            }
        }
    }

    fn checkpoint(&mut self) {
        if self.checkpointer_ended {
            return;
        }
        let waits = self.works.checkpointer.waits();
        let message = match waits {
            Waits::ForCommit => None,
            Waits::ForMessage(_) => self.works.messages.try_recv().ok(),
        };
        let line = match &message {
            Some(Message::Part(number, _)) => format!("checkpointer: a part of {number}"),
            Some(Message::Through(number)) => format!("checkpointer: {number} is through"),
            Some(Message::End) => "checkpointer: the end".to_owned(),
            None => format!("checkpointer: {waits:?}"),
        };
        self.sim.note(&line);
        match self.works.checkpointer.turn(message) {
            Ok(goes_on) => self.checkpointer_ended = !goes_on,
            Err(reason) => {
                self.sim.note(&reason);
                self.checkpointer_ended = true;
            }
        }
    }
}

/// What came of a seed.
#[derive(Debug)]
pub(super) struct Outcome {
    /// What it broke, if anything.
    pub(super) broken: Option<String>,
    /// The hash of its trace, and how many lines that has.
    pub(super) sum: (u64, u64),
    pub(super) lives: u64,
}

/// All lives of a seed, with a fault planted or none. With the plan comes whether partitions fall idle in it.
pub(super) fn run(seed: u64, plan: (Arc<Plan>, bool), planted: Option<Planted>, prints: bool) -> Outcome {
    plant(planted);
    let mut sim = Simulation::new(seed, plan, prints);
    let lives = 1 + sim.world.lock().random.below(6);
    let draw = |sim: &Simulation| 1 + sim.world.lock().random.below(3) as usize;
    for _ in 0..lives {
        let (workers, faults) = (draw(&sim), Faults::some(&mut sim.world.lock().random));
        sim.live(workers, faults);
        let power = sim.world.lock().random.once_in(2);
        sim.falls(power);
        if sim.world.lock().broken.is_some() {
            break;
        }
    }
    sim.heal();
    // The last two have no faults: one to the end of the input, and one that finds nothing left to do.
    for _ in 0..2 {
        if sim.world.lock().broken.is_none() {
            let workers = draw(&sim);
            let end = sim.live(workers, Faults::default());
            sim.falls(false);
            if end != End::Well {
                sim.world.lock().breaks(format!("without a fault it ended with {end:?}"));
            }
        }
    }
    plant(None);
    let mut world = sim.world.lock();
    if world.broken.is_none()
        && let Some(reason) = super::reference::difference(&world)
    {
        world.breaks(reason);
    }
    Outcome { broken: world.broken.clone(), sum: world.trace.sum(), lives: sim.lives }
}
