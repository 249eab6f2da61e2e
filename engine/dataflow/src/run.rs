//! Workers: building the dataflow on each, stepping it, parking when there is nothing to do.

use crate::control::Control;
use crate::flight::InFlight;
use crate::rows::Rows;
use crate::snapshot::{LAST, Participants, Snapshots};
use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;
use timely::dataflow::operators::probe::Handle as ProbeHandle;
use timely::dataflow::operators::{Concatenate, Probe};
use timely::dataflow::{Scope, Stream};
use timely::scheduling::Activator;
use timely::worker::Worker;

/// What building the dataflow leaves for the loop that steps it.
pub struct Built<'scope> {
    /// The `done` streams of every sink: the frontier of all of them together is what is acknowledged.
    pub done: Vec<Stream<'scope, u64, Rows>>,
    /// The `reached` streams of the sinks that deliver exactly once: by their frontier goes what may be committed.
    pub reached: Vec<Stream<'scope, u64, Rows>>,
    /// What has a part in snapshots on this worker.
    pub participants: Participants,
    /// What this worker has in flight.
    pub flight: Rc<RefCell<InFlight>>,
    /// Wakes this worker's source operator.
    pub activator: Activator,
}

/// How many updates an arrangement merges in a turn in which nothing came.
const IDLE_MERGE_EFFORT: isize = 1_000;

/// How far a run is: epochs before a frontier are passed; all are where it is `None`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// What may be committed: all output of these epochs is staged. Where no sink delivers exactly once, what is done.
    pub reached: Option<u64>,
    /// What every sink has acknowledged.
    pub done: Option<u64>,
}

/// Hears how far a run is.
pub trait Watch: Send + Sync {
    /// It went on. Called on the thread of worker 0, in order, and not after a fault; the last call comes before the run returns.
    fn progress(&self, progress: Progress);

    /// A worker has given all its parts of a snapshot. Called on its thread.
    fn through(&self, _worker: usize, _snapshot: u64) {}
}

/// Nobody hears of it.
pub struct Unwatched;

impl Watch for Unwatched {
    fn progress(&self, _progress: Progress) {}
}

/// How timely is set up for so many workers.
pub fn config(workers: usize) -> timely::Config {
    let mut config = timely::Config::process(workers.max(1));
    // Arrangements become compact while there is nothing else to do.
    let effort = differential_dataflow::Config::default().idle_merge_effort(Some(IDLE_MERGE_EFFORT));
    differential_dataflow::configure(&mut config.worker, &effort);
    config
}

/// Runs a dataflow on `workers` threads until its sources end, and everything they gave is acknowledged.
///
/// `build` is called once on each worker with its index, and must build the same graph on all. Returns the reason where
/// [`Control::fail`] was called.
pub fn run<B>(
    workers: usize,
    control: &Arc<Control>,
    watch: Arc<dyn Watch>,
    snapshots: Option<Arc<Snapshots>>,
    build: B,
) -> Result<(), String>
where
    B: for<'scope> Fn(Scope<'scope, u64>, usize) -> Built<'scope> + Send + Sync + 'static,
{
    let workers_control = control.clone();
    let guards = timely::execute(config(workers), move |worker| {
        let mut share = Share::build(worker, workers_control.clone(), watch.clone(), snapshots.clone(), &build);
        while share.turn(worker, None) {}
        share.end();
    })?;
    for result in guards.join() {
        result?;
    }
    match control.reason() {
        Some(reason) => Err(reason),
        None => Ok(()),
    }
}

/// A worker's share of a dataflow: it is stepped until it ends.
pub struct Share {
    worker: usize,
    control: Arc<Control>,
    watch: Arc<dyn Watch>,
    snapshots: Option<Arc<Snapshots>>,
    /// Behind all sinks.
    done: ProbeHandle<u64>,
    /// Behind what is staged, where anything is.
    reached: Option<ProbeHandle<u64>>,
    flight: Rc<RefCell<InFlight>>,
    activator: Activator,
    participants: Participants,
    frontier: Option<u64>,
    told: Option<Progress>,
    /// The last snapshot that it took part in.
    taken: u64,
    /// Not all of its parts of that are given.
    gives: bool,
}

impl Share {
    /// Builds it on a worker.
    pub fn build<B>(
        worker: &mut Worker,
        control: Arc<Control>,
        watch: Arc<dyn Watch>,
        snapshots: Option<Arc<Snapshots>>,
        build: &B,
    ) -> Share
    where
        B: for<'scope> Fn(Scope<'scope, u64>, usize) -> Built<'scope>,
    {
        let index = worker.index();
        worker.dataflow_named("pipeline", |scope| {
            let built = build(scope, index);
            let done = ProbeHandle::new();
            scope.concatenate(built.done).probe_with(&done);
            let reached = (!built.reached.is_empty()).then(|| {
                let reached = ProbeHandle::new();
                scope.concatenate(built.reached).probe_with(&reached);
                reached
            });
            Share {
                worker: index,
                control,
                watch,
                snapshots,
                done,
                reached,
                flight: built.flight,
                activator: built.activator,
                participants: built.participants,
                frontier: Some(0),
                told: None,
                taken: 0,
                gives: false,
            }
        })
    }

    /// One turn of its operators that have something to do; where none has, it waits for that for so long, or for ever. False
    /// when the dataflow has come to its end.
    pub fn turn(&mut self, worker: &mut Worker, wait: Option<Duration>) -> bool {
        let live = worker.step_or_park(if self.gives { Some(Duration::ZERO) } else { wait });
        let frontier = frontier_of(&self.done);
        if frontier != self.frontier {
            self.frontier = frontier;
            if self.flight.borrow_mut().release(frontier) {
                self.control.wake();
            }
            self.activator.activate();
        }
        // After a fault capabilities are dropped without an acknowledgement: nothing may be committed.
        if self.worker == 0 && !self.control.failed() {
            let progress = Progress { reached: self.reached.as_ref().map_or(frontier, frontier_of), done: frontier };
            if self.told != Some(progress) {
                self.told = Some(progress);
                self.watch.progress(progress);
            }
        }
        if let Some(snapshots) = &self.snapshots
            && !self.control.failed()
        {
            let (number, due) = snapshots.latest();
            let is_passed = frontier.is_none_or(|frontier| frontier > due);
            if number > self.taken && is_passed {
                self.participants.take_part(number, snapshots);
                (self.taken, self.gives) = (number, true);
            }
            if self.gives && !self.participants.give(snapshots.portion_bytes(), snapshots) {
                self.gives = false;
                self.watch.through(self.worker, self.taken);
            }
        }
        live && worker.has_dataflows()
    }

    /// A clock that was given has moved: what its sources wait for may be due. Without a clock of its own timely can't tell.
    pub fn time_passes(&self) {
        self.activator.activate();
    }

    /// Gives its parts of the last snapshot, of all there is.
    pub fn end(self) {
        if let Some(snapshots) = &self.snapshots
            && !self.control.failed()
        {
            self.participants.take_part(LAST, snapshots);
            while self.participants.give(snapshots.portion_bytes(), snapshots) {}
            self.watch.through(self.worker, LAST);
        }
    }
}

fn frontier_of(probe: &ProbeHandle<u64>) -> Option<u64> {
    probe.with_frontier(|frontier| frontier.first().copied())
}
