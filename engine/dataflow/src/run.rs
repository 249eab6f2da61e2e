//! Workers: building the dataflow on each, stepping it, parking when there is nothing to do.

use crate::control::Control;
use crate::cuts::{Acknowledged, CutBoard};
use crate::flight::InFlight;
use crate::rows::Rows;
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
    /// What this worker has in flight.
    pub flight: Rc<RefCell<InFlight>>,
    /// Wakes this worker's source operator.
    pub activator: Activator,
}

/// How many updates an arrangement merges in a turn in which nothing came.
const IDLE_MERGE_EFFORT: isize = 1_000;

/// Takes what is acknowledged, in order; called on the thread of worker 0. The last call comes before the run returns.
pub type OnCut = Arc<dyn Fn(Acknowledged) + Send + Sync>;

/// Runs a dataflow on `workers` threads until its sources end, and everything they gave is acknowledged.
///
/// `build` is called once on each worker with its index, and must build the same graph on all. Returns the reason where
/// [`Control::fail`] was called.
pub fn run<B>(
    workers: usize,
    control: &Arc<Control>,
    board: &Arc<CutBoard>,
    on_cut: OnCut,
    build: B,
) -> Result<(), String>
where
    B: for<'scope> Fn(Scope<'scope, u64>, usize) -> Built<'scope> + Send + Sync + 'static,
{
    let (workers_control, board) = (control.clone(), board.clone());
    let mut config = timely::Config::process(workers.max(1));
    // Arrangements become compact while there is nothing else to do.
    let effort = differential_dataflow::Config::default().idle_merge_effort(Some(IDLE_MERGE_EFFORT));
    differential_dataflow::configure(&mut config.worker, &effort);
    let guards = timely::execute(config, move |worker| {
        let index = worker.index();
        let (probe, flight, activator) = worker.dataflow_named("pipeline", |scope| {
            let built = build(scope, index);
            let probe = ProbeHandle::new();
            scope.concatenate(built.done).probe_with(&probe);
            (probe, built.flight, built.activator)
        });
        let mut last = Some(0);
        loop {
            let live = worker.step_or_park(None);
            let frontier = probe.with_frontier(|frontier| frontier.first().copied());
            if index == 0 && frontier == last && board.origin_grew() && !workers_control.failed() {
                board.take(frontier).into_iter().for_each(|acknowledged| on_cut(acknowledged));
            }
            if frontier != last {
                last = frontier;
                if flight.borrow_mut().release(frontier) {
                    workers_control.wake();
                }
                activator.activate();
                // After a fault capabilities are dropped without an acknowledgement: nothing may be committed.
                if index == 0
                    && !workers_control.failed()
                    && let Some(acknowledged) = board.take(frontier)
                {
                    on_cut(acknowledged);
                }
            }
            if !live || !worker.has_dataflows() {
                break;
            }
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
