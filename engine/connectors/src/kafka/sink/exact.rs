//! The sink that delivers exactly once: a batch is a transaction, with a mark in it by which it is known again.
//!
//! ```text
//! worker: encode, key, headers ─queue─▶ thread: begin ─▶ rows, mark ─▶ all stored? ─▶ commit ─▶ tickets
//!                              (bytes)     ▲                              │ no: abort
//!                                          └──── without the rows that the brokers refused, or the same again
//! ```

mod transact;

use super::{Beside, Compiled, KafkaSink, QUEUE_BYTES, Record, Topic, size_of};
use crate::common::lock;
use crate::exact::writer_name;
use crate::formats::{Encoding, RecordEncoder, first_columns};
use crate::kafka::connection::Context;
use crate::kafka::marks::{Marks, TOPIC};
use crate::queue::{self, Events, Sender};
use crate::{Exact, SinkHandle, SinkStart, SinkStats, texts};
use arrow::datatypes::SchemaRef;
use engine_base::RowError;
use engine_dataflow::{Acknowledged, ErrorRow, Positions, Rows, Times, Waker, Writer};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;
use transact::Thread;

/// How long a sink that is opened waits for the brokers before the pipeline begins without them.
const OPEN_WAIT: Duration = Duration::from_secs(10);
/// Opens the sink. What is wrong is told at once, where the brokers can be reached.
pub(super) fn open(plan: &KafkaSink, start: SinkStart, exact: Exact) -> Result<Box<dyn SinkHandle>, String> {
    let context = plan.connection.context(&start.name);
    let topic = plan.commits_topic.clone().unwrap_or_else(|| TOPIC.to_owned());
    let key = format!("{}/{}/0", exact.pipeline, start.name);
    let transactional_id = format!("engine.{}.{}.0", exact.pipeline, start.name);
    let speed = [
        // Nothing is waited for: what goes together is known.
        ("linger.ms", "0"),
        ("compression.type", "none"),
        ("partitioner", "murmur2_random"),
        ("queue.buffering.max.messages", "400000"),
        ("queue.buffering.max.kbytes", "131072"),
        ("topic.metadata.propagation.max.ms", "10000"),
        // Readers of what is committed wait so long for an engine that was killed and is not started again.
        ("transaction.timeout.ms", "60000"),
    ];
    let fixed = [
        ("transactional.id", transactional_id.as_str()),
        ("enable.idempotence", "true"),
        ("acks", "all"),
        ("delivery.report.only.error", "false"),
    ];
    let shared = Arc::new(Shared {
        name: start.name.clone(),
        context: context.clone(),
        delivered: exact.delivered_sequence(),
        end: Mutex::default(),
        rows: AtomicU64::new(0),
        bytes: AtomicU64::new(0),
        failed: AtomicU64::new(0),
        retries: AtomicU64::new(0),
        queued_rows: AtomicU64::new(0),
        queued_bytes: AtomicU64::new(0),
        stop: AtomicBool::new(false),
    });
    lock(&shared.end).up_to = shared.delivered;
    let room = shared.clone();
    let events = Events { room: Box::new(move || room.wake()), ..Events::default() };
    let (sender, receiver) = queue::bounded(QUEUE_BYTES as usize, events);
    let (told, first) = mpsc::channel();
    let thread = Thread {
        config: plan.connection.client(&speed, &fixed),
        topic: match &plan.topic {
            Topic::Name(name) => Some(name.clone()),
            Topic::ByRow(_) => None,
        },
        on_error: plan.on_error,
        marks: Marks::new(topic, key, plan.connection.clone(), context),
        exact,
        writer: writer_name(),
        claimed: false,
        shared: shared.clone(),
        queue: receiver,
    };
    let thread = std::thread::Builder::new()
        .name(format!("kafka {}", start.name))
        .spawn(move || thread.run(&told))
        .map_err(|error| format!("a thread can't be started: {error}"))?;
    match first.recv_timeout(OPEN_WAIT) {
        Ok(Some(reason)) => return Err(reason),
        Ok(None) | Err(RecvTimeoutError::Disconnected) => {}
        Err(RecvTimeoutError::Timeout) => {
            tracing::warn!(name = &*start.name, "the brokers don't answer yet: its rows wait");
        }
    }
    Ok(Box::new(Handle {
        compiled: Mutex::new(Some(Compiled::new(plan, &start.schema)?)),
        encoding: plan.encoding.clone(),
        columns: plan.columns.clone(),
        sender: Some(sender),
        shared,
        thread: Some(thread),
    }))
}

/// What the writer, the thread and the handle share.
struct Shared {
    name: Arc<str>,
    context: Context,
    delivered: u64,
    end: Mutex<End>,
    rows: AtomicU64,
    bytes: AtomicU64,
    failed: AtomicU64,
    retries: AtomicU64,
    queued_rows: AtomicU64,
    queued_bytes: AtomicU64,
    stop: AtomicBool,
}

#[derive(Default)]
struct End {
    up_to: u64,
    note: Option<String>,
    failed: Vec<ErrorRow>,
    fatal: Option<String>,
    waker: Option<Waker>,
}

impl Shared {
    fn wake(&self) {
        let waker = lock(&self.end).waker.clone();
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    fn fail(&self, reason: String) {
        lock(&self.end).fatal.get_or_insert(reason);
        self.wake();
    }

    fn stopping(&self) -> bool {
        self.stop.load(Ordering::Acquire)
    }
}

/// An open sink.
struct Handle {
    /// For the one writer.
    compiled: Mutex<Option<Compiled>>,
    encoding: Encoding,
    columns: SchemaRef,
    /// None while it is closed.
    sender: Option<Sender<Batch>>,
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

impl SinkHandle for Handle {
    fn writer(&self, _worker: usize, waker: Waker) -> Box<dyn Writer> {
        lock(&self.shared.end).waker = Some(waker);
        let compiled = lock(&self.compiled).take();
        if compiled.is_none() {
            self.shared.fail(format!("`{}` has one writer, exactly once", self.shared.name));
        }
        Box::new(ExactWriter {
            compiled,
            encoder: self.encoding.encoder(&self.columns),
            value_columns: self.columns.fields().len(),
            sender: self.sender.clone(),
            shared: self.shared.clone(),
        })
    }

    fn close(mut self: Box<Self>) -> Result<SinkStats, String> {
        self.shared.stop.store(true, Ordering::Release);
        // Wakes the thread.
        self.sender = None;
        match self.thread.take().map(JoinHandle::join) {
            Some(Err(_)) => Err(format!("the thread of `{}` has panicked", self.shared.name)),
            _ => Ok(self.stats()),
        }
    }

    fn stats(&self) -> SinkStats {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        SinkStats {
            rows: read(&self.shared.rows),
            bytes: read(&self.shared.bytes),
            failed: read(&self.shared.failed),
            retries: read(&self.shared.retries),
            queued_rows: read(&self.shared.queued_rows),
            queued_bytes: read(&self.shared.queued_bytes),
            breaker: None,
        }
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Release);
    }
}

/// Rows as records.
struct Batch {
    sequence: u64,
    /// What goes with a record is its row.
    records: Vec<Record>,
    /// Rows whose key, topic or headers have no value; the same ones each time.
    failed: Vec<(u32, RowError)>,
    /// The values of those rows.
    values: BTreeMap<u32, Vec<u8>>,
    bytes: u64,
    positions: Positions,
    ingest_ns: Times,
}

struct ExactWriter {
    compiled: Option<Compiled>,
    encoder: Box<dyn RecordEncoder>,
    value_columns: usize,
    sender: Option<Sender<Batch>>,
    shared: Arc<Shared>,
}

/// The writer goes when all is acknowledged, or when the pipeline has failed and nobody waits any more.
impl Drop for ExactWriter {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Release);
    }
}

impl Writer for ExactWriter {
    fn write(&mut self, rows: Rows, ticket: u64) -> Result<(), Rows> {
        if !self.sender.as_ref().is_some_and(Sender::has_room) {
            return Err(rows);
        }
        match self.batch(&rows, ticket) {
            Ok(batch) => {
                let Some(sender) = &self.sender else { return Err(rows) };
                let bytes = batch.bytes;
                self.shared.queued_rows.fetch_add(rows.num_rows() as u64, Ordering::Relaxed);
                self.shared.queued_bytes.fetch_add(bytes, Ordering::Relaxed);
                // The thread may have ended on a fault, which `acknowledged` tells.
                sender.force_push(batch, bytes as usize + 1);
                Ok(())
            }
            Err(problem) => {
                self.shared.fail(problem);
                Err(rows)
            }
        }
    }

    fn acknowledged(&mut self) -> Acknowledged {
        let mut end = lock(&self.shared.end);
        Acknowledged {
            up_to: end.up_to,
            failed: std::mem::take(&mut end.failed),
            note: end.note.clone(),
            fatal: end.fatal.clone(),
        }
    }

    /// Nothing is held back.
    fn flush(&mut self) {}
}

impl ExactWriter {
    fn batch(&mut self, rows: &Rows, sequence: u64) -> Result<Batch, String> {
        let compiled = self.compiled.as_mut().ok_or("the sink has failed")?;
        let (mut bytes, mut ends) = (Vec::new(), Vec::new());
        let values = first_columns(&rows.batch, self.value_columns)?;
        self.encoder.encode(&values, &mut bytes, Some(&mut ends))?;
        let topics = match &mut compiled.topic {
            Topic::Name(_) => None,
            Topic::ByRow(program) => Some(texts::evaluate(program, rows)),
        };
        let keys = compiled.key.as_mut().map(|program| texts::evaluate(program, rows));
        let programs = compiled.headers.iter_mut();
        let headers: Vec<(String, Vec<_>)> =
            programs.map(|(name, program)| (name.clone(), texts::evaluate(program, rows))).collect();
        let mut batch = Batch {
            sequence,
            records: Vec::with_capacity(rows.num_rows()),
            failed: Vec::new(),
            values: BTreeMap::new(),
            bytes: 0,
            positions: rows.positions.clone(),
            ingest_ns: rows.ingest_ns.clone(),
        };
        let mut from = 0;
        for row in 0..rows.num_rows() {
            let (start, end) = (from, ends.get(row).copied().unwrap_or(from));
            from = end;
            let mut stop = end;
            while stop > start && matches!(bytes[stop - 1], b'\n' | b'\r') {
                stop -= 1;
            }
            let value = bytes[start..stop].to_vec();
            match Beside::of(row, topics.as_deref(), keys.as_deref(), &headers) {
                Ok(Beside { topic, key, headers }) => {
                    batch.bytes += size_of(Some(&value), key);
                    let (topic, key) = (topic.map(<[u8]>::to_vec), key.map(<[u8]>::to_vec));
                    batch.records.push(Record { topic, key, headers, value, what: row as u64 });
                }
                Err(error) => {
                    batch.failed.push((row as u32, error));
                    batch.values.insert(row as u32, value);
                }
            }
        }
        Ok(batch)
    }
}
