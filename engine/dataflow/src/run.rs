//! Workers: building the dataflow on each, stepping it, parking when there is nothing to do.

use crate::control::Control;
use crate::flight::InFlight;
use crate::rows::Rows;
use crate::snapshot::{LAST, Participants, Snapshots};
use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use timely::dataflow::operators::probe::Handle as ProbeHandle;
use timely::dataflow::operators::{Concatenate, Probe};
use timely::dataflow::{Scope, Stream};
use timely::scheduling::Activator;

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
    let mut config = timely::Config::process(workers.max(1));
    // Arrangements become compact while there is nothing else to do.
    let effort = differential_dataflow::Config::default().idle_merge_effort(Some(IDLE_MERGE_EFFORT));
    differential_dataflow::configure(&mut config.worker, &effort);
    let guards = timely::execute(config, move |worker| {
        let index = worker.index();
        let (probe, reached, built) = worker.dataflow_named("pipeline", |scope| {
            let mut built = build(scope, index);
            let probe = ProbeHandle::new();
            scope.concatenate(std::mem::take(&mut built.done)).probe_with(&probe);
            let reached = (!built.reached.is_empty()).then(|| {
                let probe = ProbeHandle::new();
                scope.concatenate(std::mem::take(&mut built.reached)).probe_with(&probe);
                probe
            });
            (probe, reached, (built.flight, built.activator, built.participants))
        });
        let (flight, activator, participants) = built;
        let mut last = Some(0);
        let mut told = None;
        let mut through = 0;
        loop {
            let live = worker.step_or_park(None);
            let frontier = probe.with_frontier(|frontier| frontier.first().copied());
            if frontier != last {
                last = frontier;
                if flight.borrow_mut().release(frontier) {
                    workers_control.wake();
                }
                activator.activate();
            }
            // After a fault capabilities are dropped without an acknowledgement: nothing may be committed.
            if index == 0 && !workers_control.failed() {
                let reached = reached
                    .as_ref()
                    .map_or(frontier, |probe| probe.with_frontier(|frontier| frontier.first().copied()));
                let progress = Progress { reached, done: frontier };
                if told != Some(progress) {
                    told = Some(progress);
                    watch.progress(progress);
                }
            }
            if let Some(snapshots) = &snapshots {
                let (number, due) = snapshots.latest();
                if number > through && frontier.is_none_or(|frontier| frontier > due) && !workers_control.failed() {
                    participants.take_part(number, snapshots);
                    through = number;
                    watch.through(index, number);
                }
            }
            if !live || !worker.has_dataflows() {
                break;
            }
        }
        if let Some(snapshots) = &snapshots
            && !workers_control.failed()
        {
            participants.take_part(LAST, snapshots);
            watch.through(index, LAST);
        }
    })?;
    for result in guards.join() {
        result?;
    }
    match control.reason() {
        Some(reason) => Err(reason),
        None => Ok(()),
    }
}
