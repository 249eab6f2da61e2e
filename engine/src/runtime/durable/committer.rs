//! The thread that makes commits durable, and has what is committed brought out. It goes turn by turn: a simulation takes them
//! one by one.

use super::ledger::Ledger;
#[cfg(test)]
use super::planted::{self, Planted};
use super::record::{EpochRecord, Failed, Place, Record, Staged};
use super::{Sources, fill, move_on};
use engine_base::Clock;
use engine_dataflow::cuts::Together;
use engine_dataflow::ingest::Committed;
use engine_dataflow::run::Progress;
use engine_dataflow::stage::{Batch, Delivered, Outbox};
use engine_dataflow::{Control, Cut, CutBoard, wire};
use engine_state::journal::{Journal, Sequence};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// What the committer hears.
pub(crate) enum Event {
    /// The run went on.
    Progress(Progress),
    /// A sink, by its place, has brought out a batch.
    Delivered(usize, Delivered),
    /// The run is over, or has failed.
    End,
}

/// The committer.
pub(crate) struct Committer {
    pub(super) journal: Journal,
    pub(super) ledger: Arc<Mutex<Ledger>>,
    pub(super) sources: Sources,
    pub(super) board: Arc<CutBoard>,
    pub(super) control: Arc<Control>,
    pub(super) committed: Arc<Committed>,
    /// The sinks that deliver exactly once.
    pub(super) outboxes: Vec<(String, Arc<Outbox>)>,
    pub(super) every_ns: u64,
    pub(super) clock: Arc<dyn Clock>,
    /// When it committed last, by the monotonic clock.
    pub(super) last_ns: Option<u64>,
    /// How far the run is, if it went on since.
    pub(super) progress: Option<Progress>,
    pub(super) together: Together,
    /// The digest of the plan's logic.
    pub(super) plan: Option<String>,
    /// How many times a savepoint was gone back to.
    pub(super) timeline: u64,
    /// The last epoch that is committed.
    pub(super) upto: u64,
    /// The last epoch that all sinks have acknowledged, and the cut at its close.
    pub(super) done: u64,
    pub(super) done_cut: Cut,
    /// Cuts of epochs that are not done yet.
    pub(super) not_done: VecDeque<(u64, Cut)>,
    /// What was delivered, and waits for an epoch to be committed.
    pub(super) waiting: Vec<(usize, Delivered)>,
}

impl Committer {
    /// Runs until the run is over. The sentence with which it failed.
    pub(crate) fn run(mut self, events: &Receiver<Event>) -> Result<(), String> {
        loop {
            let heard = match self.due_in() {
                Some(due_in) => events.recv_timeout(due_in),
                None => events.recv().map_err(|_| RecvTimeoutError::Disconnected),
            };
            let event = match heard {
                Ok(event) => Some(event),
                Err(RecvTimeoutError::Timeout) => None,
                Err(RecvTimeoutError::Disconnected) => Some(Event::End),
            };
            if !self.turn(event)? {
                return Ok(());
            }
        }
    }

    /// In how long the next commit is due; `None` while nothing waits for one.
    pub(crate) fn due_in(&self) -> Option<Duration> {
        let waits = self.progress.is_some() || !self.waiting.is_empty();
        let now_ns = self.clock.monotonic_ns();
        let left_ns = |last_ns| self.every_ns.saturating_sub(now_ns.saturating_sub(last_ns));
        (waits && !self.control.failed()).then(|| Duration::from_nanos(self.last_ns.map_or(0, left_ns)))
    }

    /// Takes an event, if there is one, and commits if that is due. False when the run is over.
    pub(crate) fn turn(&mut self, event: Option<Event>) -> Result<bool, String> {
        let result = self.take(event);
        if let Err(reason) = &result {
            self.ledger().failed = true;
            self.control.fail(reason.clone());
        }
        result
    }

    fn ledger(&self) -> std::sync::MutexGuard<'_, Ledger> {
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take(&mut self, event: Option<Event>) -> Result<bool, String> {
        match event {
            Some(Event::Progress(reached)) => self.progress = Some(reached),
            Some(Event::Delivered(sink, delivered)) => self.waiting.push((sink, delivered)),
            Some(Event::End) => {
                if !self.control.failed() {
                    self.commit()?;
                }
                self.ledger().over = true;
                return Ok(false);
            }
            None => {}
        }
        if self.due_in() == Some(Duration::ZERO) {
            self.commit()?;
            self.last_ns = Some(self.clock.monotonic_ns());
        }
        Ok(true)
    }

    /// Commits what there is. Nothing is written where there is nothing new.
    fn commit(&mut self) -> Result<(), String> {
        let mut record = Record::default();
        let mut batches: Vec<(usize, Batch)> = Vec::new();
        let mut epochs = Vec::new();
        let mut upto = self.upto;
        if let Some(progress) = self.progress.take() {
            let frontier = progress.reached;
            upto = upto.max(frontier.unwrap_or(0).saturating_sub(1));
            for closed in self.board.take(frontier) {
                let times = self.together.close(&closed.statements);
                if closed.epoch <= self.upto {
                    // It was replayed. What connectors need to seek there is not in the journal.
                    self.ledger().details(&closed.cut);
                    let cuts = self.not_done.iter_mut().map(|(_, cut)| cut).chain([&mut self.done_cut]);
                    cuts.for_each(|cut| fill(cut, &closed.cut));
                    continue;
                }
                upto = upto.max(closed.epoch);
                let mut cut: BTreeMap<String, BTreeMap<u32, Place>> = BTreeMap::new();
                for (source, marks) in &closed.cut {
                    let of = cut.entry(self.sources.name(*source).to_owned()).or_default();
                    for (partition, mark) in marks {
                        let read_ns = closed.read_ns.get(&(*source, *partition)).copied().unwrap_or(0);
                        let check = closed.checks.get(&(*source, *partition)).copied().unwrap_or_default();
                        of.insert(*partition, (mark.next, read_ns, check.records, check.ends));
                    }
                }
                let named = times.iter().map(|said| {
                    let source = engine_base::SourceId(said.source);
                    (self.sources.name(source).to_owned(), said.standing, said.clock_ns)
                });
                record.epochs.push(EpochRecord { epoch: closed.epoch, cut, times: named.collect() });
                self.not_done.push_back((closed.epoch, closed.cut.clone()));
                epochs.push((closed.epoch, closed.cut, times));
            }
            let sequences = self.ledger().sequences.clone();
            for (at, (sink, outbox)) in self.outboxes.iter().enumerate() {
                if let Some((epoch, rows)) = outbox.take_staged(frontier) {
                    let sequence = sequences.get(sink).copied().unwrap_or(0) + 1;
                    record.staged.push(Staged::new(sink.clone(), sequence, epoch, wire::to_bytes(&rows)));
                    batches.push((at, Batch { sequence, epoch, rows }));
                    upto = upto.max(epoch);
                }
                for (epoch, failed) in outbox.take_failed(frontier) {
                    upto = upto.max(epoch);
                    #[cfg(test)]
                    let failed = if planted::is(Planted::ForgetFailedRows) { Vec::new() } else { failed };
                    let all = failed.iter().map(|rows| Failed::new(sink.clone(), epoch, wire::to_bytes(rows)));
                    record.failed.extend(all);
                }
            }
            let done = progress.done.map_or(upto, |frontier| frontier.saturating_sub(1)).min(upto);
            if done > self.done {
                self.done = done;
                record.done = Some(done);
            }
        }
        let starts = self.board.take_starts();
        record.starts = self.sources.named(&starts);
        for (sink, delivered) in self.take_delivered(upto) {
            let note = delivered.note.clone().unwrap_or_default();
            let delivered = engine_connectors::Delivered { sequence: delivered.sequence, note };
            record.delivered.insert(self.outboxes[sink].0.clone(), delivered);
        }
        let is_empty = record.epochs.is_empty()
            && record.staged.is_empty()
            && record.failed.is_empty()
            && record.delivered.is_empty()
            && record.starts.is_empty()
            && record.done.is_none();
        if is_empty {
            self.upto = upto;
            self.ledger().committed = upto;
            return Ok(());
        }
        record.upto = upto;
        record.plan = self.plan.clone();
        record.timeline = self.timeline;
        let sequence = self.write(&mut record)?;
        let mut ledger = self.ledger();
        ledger.starts(&starts);
        for (epoch, cut, times) in epochs {
            ledger.closes(epoch, cut, times);
        }
        for staged in &record.staged {
            ledger.sequences.insert(staged.sink.clone(), staged.sequence);
        }
        ledger.delivered.append(&mut record.delivered);
        let staged = record.staged.iter().map(|staged| (staged.sink.clone(), staged.sequence)).collect();
        ledger.records(sequence, upto, staged);
        ledger.committed = upto;
        let needless = ledger.needless.take();
        drop(ledger);
        self.upto = upto;
        for (sink, batch) in batches {
            self.outboxes[sink].1.deliver(batch);
        }
        self.tell_done();
        if let Some(needless) = needless {
            self.journal.truncate_before(needless).map_err(|error| error.to_string())?;
        }
        Ok(())
    }

    /// What was delivered of which no row failed in an epoch after this one. A batch waits with those before it: that it is
    /// delivered says so of them too.
    fn take_delivered(&mut self, upto: u64) -> Vec<(usize, Delivered)> {
        let mut waits = BTreeSet::new();
        let mut ready = |(sink, delivered): &(usize, Delivered)| {
            let is_ready = delivered.failed_in.is_none_or(|epoch| epoch <= upto);
            #[cfg(test)]
            let is_ready = is_ready || planted::is(Planted::NoteDeliveredEarly);
            if !is_ready {
                waits.insert(*sink);
            }
            !waits.contains(sink)
        };
        let (ready, later) = std::mem::take(&mut self.waiting).into_iter().partition(&mut ready);
        self.waiting = later;
        ready
    }

    fn write(&mut self, record: &mut Record) -> Result<Sequence, String> {
        let bytes = record.encode()?;
        #[cfg(test)]
        if planted::is(Planted::DeliverBeforeSync) {
            // That of the commit before.
            let synced = self.journal.sync().and_then(|()| self.journal.append(&bytes));
            return synced.map_err(|error| error.to_string());
        }
        let written = self.journal.append(&bytes).and_then(|sequence| self.journal.sync().map(|()| sequence));
        #[cfg(test)]
        let written = written.or_else(|error| {
            let is_full = error.kind() == engine_state::StateErrorKind::DiskFull;
            let planted = if is_full { Planted::IgnoreFullDisk } else { Planted::IgnoreFailedSync };
            if planted::is(planted) { Ok(Sequence(self.journal.next().0 - 1)) } else { Err(error) }
        });
        written.map_err(|error| format!("the commit of epochs up to {} can't be made durable: {error}", record.upto))
    }

    /// What every sink has, and is durable, may be told to the sources.
    fn tell_done(&mut self) {
        let mut moved = false;
        let done = self.done;
        #[cfg(test)]
        let done = if planted::is(Planted::CommitSourceEarly) { self.upto } else { done };
        while self.not_done.front().is_some_and(|(epoch, _)| *epoch <= done) {
            let Some((_, cut)) = self.not_done.pop_front() else { break };
            move_on(&mut self.done_cut, &cut);
            moved = true;
        }
        if moved {
            self.committed.set(self.done_cut.clone());
            #[cfg(test)]
            if planted::is(Planted::ReleaseTooMuch) {
                self.committed.release(self.done_cut.clone());
            }
        }
    }
}
