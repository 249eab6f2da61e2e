//! The sink operator of output that is due exactly once: rows wait for their epoch to be committed, then one writer brings
//! them out, batch by batch (architecture, decision 7).
//!
//! ```text
//! every worker: rows ─▶ Outbox.staged, by epoch ─┐              frontier `reached` passes the epoch
//!                                                ├─ committer: staged rows into the journal, durable, numbered
//! worker 0:     Writer::write(batch, sequence) ◀─┴─ Outbox.due
//!                    └▶ acknowledged ─▶ `delivered` is told, failed rows go to the error output, capabilities are dropped
//! ```
//!
//! There are two accounts. `reached` says up to where all rows have come, and never waits for the system: a commit goes by it.
//! `done` says up to where the system has them: what is in flight goes by it, and what is staged counts.
//!
//! A row that fails comes out of the error output in an epoch that is open then, not in its own, which is closed for good. Which
//! one that was is a decision that a replay can't make again, so it is kept ([`Outbox::take_failed`]).

use crate::deliver::{OpenWriter, SinkShared, latency};
use crate::errors::error_rows;
use crate::meter::{Meter, count_failed};
use crate::rows::{Rows, Times};
use crate::source::Waker;
use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use timely::container::NoopBuilder;
use timely::dataflow::Stream;
use timely::dataflow::channels::pact::Pipeline;
use timely::dataflow::operators::Capability;
use timely::dataflow::operators::generic::OutputBuilder;
use timely::dataflow::operators::generic::builder_rc::OperatorBuilder;
use timely::progress::operate::FrontierInterest;

/// A batch that is committed.
#[derive(Clone, Debug)]
pub struct Batch {
    /// Its number, one more than that of the sink's batch before.
    pub sequence: u64,
    /// The last epoch that it has rows of.
    pub epoch: u64,
    /// Its rows.
    pub rows: Rows,
}

/// A batch that the system has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Delivered {
    /// Its number.
    pub sequence: u64,
    /// What the sink wants to be told when it goes on after it.
    pub note: Option<String>,
    /// The epoch in which rows of it came out of the error output, if any failed. That it is delivered must not be durable
    /// before that epoch is.
    pub failed_in: Option<u64>,
}

/// Hears of batches that the system has.
pub type OnDelivered = Box<dyn Fn(Delivered) + Send + Sync>;

/// What the workers, the committer and the writer of a sink share.
pub struct Outbox {
    inner: Mutex<Inner>,
    delivered: OnDelivered,
    /// The last epoch that is committed when the run starts: what comes again of it is in the journal.
    committed: Option<u64>,
}

#[derive(Default)]
struct Inner {
    /// By epoch: rows of each worker, as they came.
    staged: BTreeMap<u64, Vec<(usize, Rows)>>,
    due: VecDeque<Batch>,
    /// Taken to be committed and not yet delivered, those under way too.
    undelivered: usize,
    /// Every epoch up to this one is delivered.
    released: Option<u64>,
    failed: BTreeMap<u64, Vec<Rows>>,
    wakers: Vec<Waker>,
}

impl Outbox {
    /// An empty one. `committed` is the last epoch that an earlier run has committed.
    pub fn new(committed: Option<u64>, delivered: OnDelivered) -> Self {
        Outbox { inner: Mutex::default(), delivered, committed }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // A panic elsewhere ends the process; what is in here is never left half changed.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The rows of all epochs that a frontier has passed (`None`: all), in the order of epochs and workers, and the last of
    /// the epochs. From here on they count as a batch that is not delivered, until [`Outbox::deliver`] is given it.
    pub fn take_staged(&self, frontier: Option<u64>) -> Option<(u64, Rows)> {
        let mut inner = self.lock();
        let later = frontier.map_or_else(BTreeMap::new, |frontier| inner.staged.split_off(&frontier));
        let mut passed = std::mem::replace(&mut inner.staged, later);
        inner.undelivered += usize::from(!passed.is_empty());
        drop(inner);
        let (epoch, _) = passed.last_key_value()?;
        let epoch = *epoch;
        // Of one worker in the order in which they came.
        passed.values_mut().for_each(|rows| rows.sort_by_key(|(worker, _)| *worker));
        let parts: Vec<Rows> = passed.into_values().flatten().map(|(_, rows)| rows).collect();
        Some((epoch, Rows::concat(&parts)))
    }

    /// Rows that came out of the error output, by epoch, of those that a frontier has passed.
    pub fn take_failed(&self, frontier: Option<u64>) -> BTreeMap<u64, Vec<Rows>> {
        let mut inner = self.lock();
        let later = frontier.map_or_else(BTreeMap::new, |frontier| inner.failed.split_off(&frontier));
        std::mem::replace(&mut inner.failed, later)
    }

    /// Has a batch of an earlier run brought out. In the order of their sequences, before all others.
    pub fn deliver_again(&self, batch: Batch) {
        self.lock().undelivered += 1;
        self.deliver(batch);
    }

    /// Has a batch brought out that was staged and is committed. In the order of their sequences.
    pub fn deliver(&self, batch: Batch) {
        let mut inner = self.lock();
        inner.due.push_back(batch);
        inner.wakers.iter().for_each(Waker::wake);
    }

    /// How many committed batches the system does not have yet.
    pub fn undelivered(&self) -> usize {
        self.lock().undelivered
    }
}

/// The streams of a sink that delivers exactly once.
pub struct StagedStreams<'scope> {
    /// Never carries rows; its frontier tells what the system has.
    pub done: Stream<'scope, u64, Rows>,
    /// Rows that could not be delivered.
    pub errors: Stream<'scope, u64, Rows>,
    /// Never carries rows; its frontier tells what is staged whole.
    pub reached: Stream<'scope, u64, Rows>,
}

/// A batch on its way.
struct Sent {
    sequence: u64,
    epoch: u64,
    born_ns: Times,
    rows: usize,
}

/// Builds the operator of a sink on this worker. `open` is called on worker 0 only; `failed` are the rows that came out of the
/// error output in epochs that are replayed.
pub fn stage<'scope>(
    input: Stream<'scope, u64, Rows>,
    name: &str,
    outbox: Arc<Outbox>,
    open: OpenWriter,
    failed: Vec<(u64, Rows)>,
    meter: Arc<dyn Meter>,
    shared: &SinkShared,
) -> StagedStreams<'scope> {
    let scope = input.scope();
    let mut builder = OperatorBuilder::new(name.to_owned(), scope);
    let mut input = builder.new_input(input, Pipeline);
    builder.set_notify_for(0, FrontierInterest::Always);
    let (done_out, done) = builder.new_output::<Rows>();
    let (errors_out, errors) = builder.new_output::<Rows>();
    let mut errors_out = OutputBuilder::<_, NoopBuilder<Rows>>::from(errors_out);
    let (reached_out, reached) = builder.new_output::<Rows>();
    let waker = Waker::of_operator(&scope, &builder.operator_info());
    shared.control.on_stop(waker.clone());
    outbox.lock().wakers.push(waker.clone());
    let worker = scope.index();
    let mut writer = match (worker == 0).then(|| open(waker)).transpose() {
        Ok(writer) => writer,
        Err(error) => {
            shared.control.fail(format!("sink `{name}`: {error}"));
            None
        }
    };
    let (shared, name) = (shared.clone(), name.to_owned());
    builder.build(move |mut caps: Vec<Capability<u64>>| {
        drop((done_out, reached_out));
        // In the order of the outputs.
        caps.truncate(2);
        let mut errors_cap = caps.pop().filter(|_| worker == 0);
        let mut again = failed;
        let mut held: BTreeMap<u64, Capability<u64>> = BTreeMap::new();
        // Batches of an earlier run are not done before the system has them.
        let last = outbox.lock().due.back().map(|batch| batch.epoch);
        if let (Some(last), Some(cap), 0) = (last, caps.pop(), worker) {
            held.insert(last, cap);
        }
        drop(caps);
        let mut sent: VecDeque<Sent> = VecDeque::new();
        let mut has_ended = false;
        // What is delivered later must not be known before what failed earlier is: it never goes back.
        let mut failed_in = None;
        move |frontiers| {
            let mut inner = outbox.lock();
            input.for_each(|cap, rows| {
                let Some(epoch) = cap.least().copied() else { return };
                let rows = std::mem::take(rows);
                if rows.num_rows() == 0 || outbox.committed >= Some(epoch) {
                    return;
                }
                meter.batch(rows.num_rows() as u64, 0, 0);
                if let (Some(done), false) = (cap.retain_least(0), held.contains_key(&epoch)) {
                    held.insert(epoch, done);
                }
                inner.staged.entry(epoch).or_default().push((worker, rows));
            });
            let is_over = inner.undelivered == 0 && inner.staged.is_empty();
            drop(inner);
            if shared.control.failed() {
                // Nothing is committed any more.
                held.clear();
                (writer, errors_cap) = (None, None);
                return;
            }
            let frontier = frontiers[0].frontier().first().copied();
            if let Some(cap) = &mut errors_cap {
                for (epoch, rows) in again.drain(..) {
                    let cap = cap.delayed(&epoch);
                    errors_out.activate().session_with_builder(&cap).give_container(&mut rows.clone());
                }
                match frontier {
                    Some(frontier) => cap.downgrade(&frontier),
                    // When the input has ended the last epoch is to be committed, so that what fails of it comes after it. Several
                    // may have passed since this worker looked last.
                    None if !std::mem::replace(&mut has_ended, true) => {
                        let staged = outbox.lock().staged.last_key_value().map_or(0, |(epoch, _)| *epoch);
                        cap.downgrade(&(staged.max(*cap.time()) + 1));
                    }
                    None => {}
                }
            }
            if let (Some(out), Some(cap)) = (&mut writer, &errors_cap) {
                loop {
                    let Some(batch) = outbox.lock().due.pop_front() else { break };
                    let (sequence, epoch) = (batch.sequence, batch.epoch);
                    let (born_ns, rows) = (batch.rows.born_ns.clone(), batch.rows.num_rows());
                    match out.write(batch.rows, sequence) {
                        Ok(()) => sent.push_back(Sent { sequence, epoch, born_ns, rows }),
                        Err(rows) => {
                            outbox.lock().due.push_front(Batch { sequence, epoch, rows });
                            break;
                        }
                    }
                }
                out.flush();
                let answered = out.acknowledged();
                if let Some(reason) = answered.fatal {
                    shared.control.fail(format!("sink `{name}`: {reason}"));
                    return;
                }
                let failed = answered.failed.len() as u64;
                if failed > 0 {
                    count_failed(&*meter, &answered.failed);
                    // Not in an epoch that is replayed: what comes out of it is committed already.
                    let epoch = outbox.committed.map_or(0, |committed| committed + 1).max(*cap.time());
                    let mut rows = error_rows(answered.failed, &shared.names);
                    outbox.lock().failed.entry(epoch).or_default().push(rows.clone());
                    let cap = cap.delayed(&epoch);
                    errors_out.activate().session_with_builder(&cap).give_container(&mut rows);
                    failed_in = failed_in.max(Some(epoch));
                    // It is not to wait for the next row of a source.
                    shared.control.close_epochs(epoch);
                }
                let now_ns = shared.clock.now_ns();
                let mut rows = 0;
                let mut last: Option<Sent> = None;
                while sent.front().is_some_and(|first| first.sequence <= answered.up_to) {
                    let Some(first) = sent.pop_front() else { break };
                    latency(&*meter, now_ns, &first.born_ns, first.rows);
                    rows += first.rows as u64;
                    let mut inner = outbox.lock();
                    inner.undelivered -= 1;
                    inner.released = Some(first.epoch);
                    last = Some(first);
                }
                if let Some(last) = last {
                    meter.batch(0, rows.saturating_sub(failed), 0);
                    (outbox.delivered)(Delivered { sequence: last.sequence, note: answered.note, failed_in });
                    outbox.lock().wakers.iter().for_each(Waker::wake);
                }
                meter.waiting(worker, sent.front().map(|first| first.born_ns.get(0)));
            }
            let inner = outbox.lock();
            if let Some(released) = inner.released {
                held = held.split_off(&(released + 1));
            }
            if frontier.is_none() && inner.undelivered == 0 && inner.staged.is_empty() && is_over {
                errors_cap = None;
                writer = None;
            }
        }
    });
    StagedStreams { done, errors, reached }
}
