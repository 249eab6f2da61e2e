//! The thread that commits the batches of one worker, one after the other.

use super::plan::Table;
use super::{Batch, Fault, Marker, Owner, REJECTED, Store, UNDELIVERED, Written};
use crate::common::lock;
use crate::delivery::{Delivery, Failure, Health, OnError, Outcome, Time, TokioTimer, WhileOpen};
use crate::exact::writer_name;
use crate::formats::json::JsonEncoder;
use crate::formats::{RecordEncoder, Timestamps};
use crate::queue::{self, Events, Popped, Receiver, Sender};
use crate::tickets::Tickets;
use crate::{Exact, SinkHandle, SinkStart, SinkStats, runtime};
use arrow::array::{Array, RecordBatch};
use arrow::compute::concat_batches;
use arrow::datatypes::SchemaRef;
use engine_base::{CHANGE_COLUMN, RowError};
use engine_dataflow::{Acknowledged, ErrorRow, Rows, Waker, Writer};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use tokio::sync::Notify;

/// How many bytes of rows wait for a worker's thread.
const QUEUE_BYTES: usize = 8 << 20;
/// How many bytes of rows go into one transaction, about.
const BATCH_BYTES: usize = 16 << 20;

/// How long it takes until a batch is tried again that must not fail.
const AGAIN: Duration = Duration::from_millis(100);

/// A store that a worker's thread uses: its own, or one of the whole process.
pub(crate) type SharedStore<S> = Arc<tokio::sync::Mutex<S>>;

/// An open sink.
pub(crate) struct TableSink<S: Store> {
    shared: Arc<Shared>,
    /// Gives the store of a worker.
    store: Box<dyn Fn() -> SharedStore<S> + Send + Sync>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

/// What the threads of a sink share.
struct Shared {
    name: Arc<str>,
    table: Table,
    /// All columns of the rows that come, with what becomes of the row first where it is a changelog.
    schema: SchemaRef,
    is_changelog: bool,
    delivery: Delivery,
    runtime: &'static tokio::runtime::Runtime,
    /// For a sink that delivers exactly once.
    exact: Option<Markers>,
    counts: Counts,
}

/// What a sink that delivers exactly once needs for its markers.
struct Markers {
    exact: Exact,
    owner: Owner,
    /// They have been compared with the journal, and are ours.
    claimed: AtomicBool,
}

impl Markers {
    fn new(name: &str, exact: Exact) -> Markers {
        let owner =
            Owner { pipeline: exact.pipeline.to_string(), sink: name.to_owned(), shard: 0, writer: writer_name() };
        Markers { exact, owner, claimed: AtomicBool::new(false) }
    }

    async fn claim<S: Store>(&self, store: &SharedStore<S>) -> Result<(), Fault> {
        if !self.claimed.load(Ordering::Acquire) {
            store.lock().await.claim(&self.owner, &self.exact).await?;
            self.claimed.store(true, Ordering::Release);
        }
        Ok(())
    }
}

#[derive(Default)]
struct Counts {
    rows: AtomicU64,
    bytes: AtomicU64,
    failed: AtomicU64,
    queued_rows: AtomicU64,
    queued_bytes: AtomicU64,
}

impl<S: Store> TableSink<S> {
    /// A sink whose writers' threads get their stores from `store`.
    pub(crate) fn new(
        table: Table,
        start: SinkStart,
        store: Box<dyn Fn() -> SharedStore<S> + Send + Sync>,
    ) -> Result<Self, String> {
        let runtime = runtime::shared()?;
        let time = Time { clock: start.clock.clone(), timer: Arc::new(TokioTimer) };
        // Replicas that start together must not call together.
        let seed = start.clock.now_ns().unsigned_abs() ^ u64::from(std::process::id());
        let delivery = Delivery::new(start.name.clone(), table.delivery.policy(WhileOpen::Wait), time, seed);
        let exact = start.exact.map(|exact| Markers::new(&start.name, exact));
        let is_changelog = start.schema.fields().first().is_some_and(|field| field.name() == CHANGE_COLUMN);
        let shared = Shared {
            name: start.name,
            table,
            schema: start.schema,
            is_changelog,
            delivery,
            runtime,
            exact,
            counts: Counts::default(),
        };
        Ok(TableSink { shared: Arc::new(shared), store, threads: Mutex::default() })
    }

    /// Compares the markers with the journal before anything runs. A sentence if they don't fit; a database that can't be
    /// reached now is asked before the first batch.
    pub(crate) fn claim(&self, wait: Duration) -> Result<(), String> {
        let Some(markers) = &self.shared.exact else { return Ok(()) };
        let store = (self.store)();
        let claimed = async { tokio::time::timeout(wait, markers.claim(&store)).await };
        let reason = match self.shared.runtime.block_on(claimed) {
            Ok(Ok(())) => return Ok(()),
            Ok(Err(Fault::Stop(reason))) => return Err(reason),
            Ok(Err(Fault::Retry { reason, .. })) => reason,
            Err(_) => "no answer".to_owned(),
        };
        tracing::warn!(name = &*self.shared.name, reason, "the markers of the sink can't be read yet: its rows wait");
        Ok(())
    }
}

impl<S: Store> SinkHandle for TableSink<S> {
    fn writer(&self, worker: usize, waker: Waker) -> Box<dyn Writer> {
        let room = waker.clone();
        let events = Events { room: Box::new(move || room.wake()), ..Events::default() };
        let (sender, receiver) = queue::bounded(QUEUE_BYTES, events);
        let delivered = self.shared.exact.as_ref().map_or(0, |markers| markers.exact.delivered_sequence());
        let answers = Answers { tickets: Tickets::after(delivered), ..Answers::default() };
        let end =
            Arc::new(End { answers: Mutex::new(answers), waker, gone: AtomicBool::new(false), leaves: Notify::new() });
        let line = Line {
            shared: self.shared.clone(),
            end: end.clone(),
            store: (self.store)(),
            queue: receiver,
            rest: None,
            encoder: JsonEncoder::new(&self.shared.schema, Timestamps::Rfc3339),
        };
        let told = end.clone();
        let name = format!("{} {worker}", self.shared.name);
        let run = move || {
            if catch_unwind(AssertUnwindSafe(|| line.run())).is_err() {
                told.fail("the thread that writes to the database panicked".to_owned());
            }
        };
        match std::thread::Builder::new().name(name).spawn(run) {
            Ok(thread) => lock(&self.threads).push(thread),
            Err(error) => end.fail(format!("a thread can't be started: {error}")),
        }
        Box::new(TableWriter { shared: self.shared.clone(), end, queue: sender })
    }

    fn close(self: Box<Self>) -> Result<SinkStats, String> {
        let mut ended = Ok(());
        for thread in std::mem::take(&mut *lock(&self.threads)) {
            ended = ended.and(thread.join());
        }
        ended.map_err(|_| format!("a thread of `{}` ended badly", self.shared.name))?;
        Ok(self.stats())
    }

    fn stats(&self) -> SinkStats {
        let (counts, delivery) = (&self.shared.counts, self.shared.delivery.stats());
        SinkStats {
            rows: counts.rows.load(Ordering::Relaxed),
            bytes: counts.bytes.load(Ordering::Relaxed),
            failed: counts.failed.load(Ordering::Relaxed),
            retries: delivery.retries,
            queued_rows: counts.queued_rows.load(Ordering::Relaxed),
            queued_bytes: counts.queued_bytes.load(Ordering::Relaxed),
            breaker: Some(delivery.breaker),
        }
    }
}

/// What a writer and its thread share.
struct End {
    answers: Mutex<Answers>,
    waker: Waker,
    /// The writer is gone: nobody waits for what is not committed yet.
    gone: AtomicBool,
    leaves: Notify,
}

#[derive(Default)]
struct Answers {
    tickets: Tickets,
    failed: Vec<ErrorRow>,
    fatal: Option<String>,
}

impl End {
    fn fail(&self, reason: String) {
        lock(&self.answers).fatal.get_or_insert(reason);
        self.waker.wake();
    }
}

/// Rows of one write.
struct Item {
    ticket: u64,
    rows: Rows,
    /// Of the rows that no batch has taken yet.
    bytes: usize,
}

struct TableWriter {
    shared: Arc<Shared>,
    end: Arc<End>,
    queue: Sender<Item>,
}

/// A writer goes when all its tickets are acknowledged, or when the pipeline has failed and nobody waits for them any more:
/// then a batch may be waiting for a database that never comes back.
impl Drop for TableWriter {
    fn drop(&mut self) {
        self.end.gone.store(true, Ordering::Release);
        self.end.leaves.notify_one();
    }
}

impl Writer for TableWriter {
    fn write(&mut self, rows: Rows, ticket: u64) -> Result<(), Rows> {
        if !self.queue.has_room() {
            return Err(rows);
        }
        let size = |array: &arrow::array::ArrayRef| array.to_data().get_slice_memory_size().unwrap_or(0);
        let bytes: usize = rows.batch.columns().iter().map(size).sum();
        // A batch without rows has its marker too.
        let parts = if self.shared.exact.is_some() { 1 } else { rows.num_rows() };
        lock(&self.end.answers).tickets.add(ticket, parts);
        self.shared.counts.queued_rows.fetch_add(rows.num_rows() as u64, Ordering::Relaxed);
        self.shared.counts.queued_bytes.fetch_add(bytes as u64, Ordering::Relaxed);
        if !self.queue.force_push(Item { ticket, rows, bytes }, bytes) {
            self.end.fail("the thread that writes to the database has ended".to_owned());
        }
        Ok(())
    }

    fn acknowledged(&mut self) -> Acknowledged {
        let mut answers = lock(&self.end.answers);
        Acknowledged {
            up_to: answers.tickets.up_to(),
            failed: std::mem::take(&mut answers.failed),
            fatal: answers.fatal.take(),
            note: None,
        }
    }

    /// Rows wait for others no longer than `batch.max_wait`, which is the user's word.
    fn flush(&mut self) {}
}

/// Rows of an item that go into one batch.
struct Piece {
    ticket: u64,
    rows: Rows,
    from: usize,
    count: usize,
    bytes: usize,
}

struct Line<S: Store> {
    shared: Arc<Shared>,
    end: Arc<End>,
    store: SharedStore<S>,
    queue: Receiver<Item>,
    /// An item of which a batch took the first rows only.
    rest: Option<(Item, usize)>,
    encoder: JsonEncoder,
}

impl<S: Store> Line<S> {
    fn run(mut self) {
        while let Some(pieces) = self.gather() {
            if self.end.gone.load(Ordering::Acquire) {
                return;
            }
            if let Err(reason) = self.send(&pieces) {
                self.end.fail(reason);
                return;
            }
        }
    }

    /// Waits for rows, and for those that go with them. `None` when the writer is gone.
    fn gather(&mut self) -> Option<Vec<Piece>> {
        if self.shared.exact.is_some() {
            // What was written together is one batch.
            let Item { ticket, rows, bytes } = self.queue.pop()?;
            let count = rows.num_rows();
            return Some(vec![Piece { ticket, rows, from: 0, count, bytes }]);
        }
        let mut next = match self.rest.take() {
            Some(rest) => Some(rest),
            None => Some((self.queue.pop()?, 0)),
        };
        let (max_rows, max_wait) = (self.shared.table.max_rows, self.shared.table.max_wait);
        let begun = Instant::now();
        let (mut pieces, mut rows, mut bytes) = (Vec::new(), 0, 0);
        while let Some((mut item, from)) = next.take() {
            let left = item.rows.num_rows() - from;
            let count = left.min(max_rows - rows);
            // What is left of it has what is left of its bytes.
            let piece_bytes = item.bytes * count / left.max(1);
            item.bytes -= piece_bytes;
            pieces.push(Piece { ticket: item.ticket, rows: item.rows.clone(), from, count, bytes: piece_bytes });
            (rows, bytes) = (rows + count, bytes + piece_bytes);
            if count < left {
                self.rest = Some((item, from + count));
            } else if rows < max_rows && bytes < BATCH_BYTES {
                let wait = max_wait.saturating_sub(begun.elapsed());
                let popped = if wait.is_zero() { self.queue.try_pop() } else { self.queue.pop_within(wait) };
                next = match popped {
                    Popped::Item(item) => Some((item, 0)),
                    Popped::Empty | Popped::Closed => None,
                };
            }
        }
        Some(pieces)
    }

    /// Has a batch committed, and notes what came of it. A sentence if the pipeline is to stop.
    fn send(&mut self, pieces: &[Piece]) -> Result<(), String> {
        let shared = self.shared.clone();
        let all = concat_batches(
            &shared.schema,
            pieces.iter().map(|piece| piece.rows.batch.slice(piece.from, piece.count)).collect::<Vec<_>>().iter(),
        )
        .map_err(|error| error.to_string())?;
        let removed: Vec<bool> = pieces
            .iter()
            .flat_map(|piece| (piece.from..piece.from + piece.count).map(|row| piece.rows.is_removed(row)))
            .collect();
        let values = match shared.is_changelog {
            true => all.project(&(1..all.num_columns()).collect::<Vec<_>>()).map_err(|error| error.to_string())?,
            false => all.clone(),
        };
        let (mut batch, mut failed) = Batch::new(&shared.table.layout, &values, |row| removed[row])?;
        let stops = shared.table.delivery.on_error == OnError::Stop;
        if let Some((_, error)) = failed.first().filter(|_| stops) {
            return Err(format!("a row could not be delivered: {error}"));
        }
        let marker = shared.exact.as_ref().zip(pieces.first());
        let marker =
            marker.map(|(markers, piece)| Marker { owner: markers.owner.clone(), sequence: piece.ticket as i64 });
        loop {
            let (store, end, down) = (&self.store, &self.end, &AtomicBool::new(false));
            let attempt = |_| attempt(&shared, store, &batch, marker.as_ref(), down);
            let result = shared.runtime.block_on(async {
                tokio::select! {
                    biased;
                    () = end.leaves.notified() => None,
                    result = shared.delivery.deliver(attempt) => Some(result),
                }
            });
            match result {
                // The writer is gone, and this thread soon.
                None => return Ok(()),
                Some(Ok(Ok(written))) => failed.extend(written.failed),
                Some(Ok(Err(reason))) => return Err(reason),
                Some(Err(failure)) if marker.is_some() && down.load(Ordering::Relaxed) => {
                    // A database that is not there gives no reason to give rows up, which may be written by now.
                    tracing::warn!(name = &*shared.name, reason = failure.reason, "the batch is tried again");
                    std::thread::sleep(AGAIN);
                    continue;
                }
                Some(Err(failure)) if stops => return Err(format!("rows could not be delivered: {}", failure.reason)),
                Some(Err(failure)) if marker.is_some() => {
                    // That the rows are given up stands with the marker; but it may turn out that they are written.
                    batch.give_up(&given_up(&failure));
                    continue;
                }
                Some(Err(failure)) => {
                    let error = given_up(&failure);
                    failed = (0..all.num_rows() as u32).map(|row| (row, error.clone())).collect();
                }
            }
            break;
        }
        self.answer(pieces, &all, failed)
    }

    fn answer(&mut self, pieces: &[Piece], all: &RecordBatch, mut failed: Vec<(u32, RowError)>) -> Result<(), String> {
        failed.sort_by_key(|(row, _)| *row);
        let mut errors = Vec::with_capacity(failed.len());
        let (mut at, mut first) = (0, 0);
        for (row, error) in failed {
            let row = row as usize;
            while row >= first + pieces[at].count {
                first += pieces[at].count;
                at += 1;
            }
            let mut payload = Vec::new();
            self.encoder.encode(&all.slice(row, 1), &mut payload, None)?;
            payload.pop();
            let (rows, row) = (&pieces[at].rows, row - first + pieces[at].from);
            let (position, ingest_ns) = (rows.position(row), rows.ingest_ns.get(row));
            errors.push(ErrorRow { step: self.shared.name.clone(), error, payload, position, ingest_ns });
        }
        let counts = &self.shared.counts;
        let bytes: u64 = pieces.iter().map(|piece| piece.bytes as u64).sum();
        let rows = all.num_rows() as u64;
        counts.queued_rows.fetch_sub(rows, Ordering::Relaxed);
        counts.queued_bytes.fetch_sub(bytes, Ordering::Relaxed);
        counts.rows.fetch_add(rows - errors.len() as u64, Ordering::Relaxed);
        counts.bytes.fetch_add(bytes, Ordering::Relaxed);
        counts.failed.fetch_add(errors.len() as u64, Ordering::Relaxed);
        let mut answers = lock(&self.end.answers);
        let mut news = !errors.is_empty();
        answers.failed.extend(errors);
        for piece in pieces {
            let parts = if self.shared.exact.is_some() { 1 } else { piece.count };
            news |= answers.tickets.done(piece.ticket, parts);
        }
        drop(answers);
        if news {
            self.end.waker.wake();
        }
        Ok(())
    }
}

/// One attempt, with the markers if there are any. What stops the pipeline is no failure that a further attempt could mend,
/// so it counts as an answer. `down` is whether the database was not there.
async fn attempt<S: Store>(
    shared: &Shared,
    store: &SharedStore<S>,
    batch: &Batch,
    marker: Option<&Marker>,
    down: &AtomicBool,
) -> Outcome<Result<Written, String>> {
    // Stays so where the attempt has no end.
    down.store(true, Ordering::Relaxed);
    let result = async {
        if let Some(markers) = &shared.exact {
            markers.claim(store).await?;
        }
        store.lock().await.write(batch, marker).await
    };
    let result = result.await;
    down.store(matches!(result, Err(Fault::Retry { health: Health::Down, .. })), Ordering::Relaxed);
    match result {
        Ok(written) => Outcome::Ok(Ok(written)),
        Err(Fault::Stop(reason)) => Outcome::Ok(Err(reason)),
        Err(Fault::Retry { reason, health }) => Outcome::Retryable { reason, retry_after: None, health },
    }
}

fn given_up(failure: &Failure) -> RowError {
    RowError::new(UNDELIVERED, format!("given up after {} attempts: {}", failure.attempts, failure.reason))
}

/// A row that the database refused.
pub(crate) fn rejected(reason: impl Into<String>) -> RowError {
    RowError::new(REJECTED, reason)
}
