//! Sources and sinks: one file or folder a system, and one registry line each.
//!
//! A connector talks to the outside in threads of its own and meets the dataflow in two places only, a [`Reader`] and a
//! [`Writer`] on each worker; between them stands a bounded [`queue`]. What the bytes of a record mean is left to
//! [`formats`], which knows no system; which pipeline uses what, to the planner; cuts, epochs and state, to `dataflow`.
//!
//! ```text
//! system ─▶ connector thread ─queue─▶ Reader (decodes on the worker)      Writer (encodes on the worker) ─queue─▶ connector thread ─▶ system
//! ```
//!
//! A new kind is one file with its config struct, `plan` and `start` (or `open`), and one line in [`sources`] or [`sinks`].

#[cfg(test)]
extern crate self as engine_connectors; // the tests' files that fuzz targets share name the crate as these do

#[cfg(any(feature = "postgres", feature = "sqlite"))]
mod common;
pub mod database;
pub mod delivery;
mod exact;
pub mod formats;
pub mod kafka;
#[cfg(feature = "sqlite")]
pub mod letters;
#[cfg(feature = "postgres")]
pub mod postgres;
pub mod queue;
mod runtime;
pub mod sinks;
pub mod sources;
#[cfg(feature = "sqlite")]
pub mod sqlite;
mod texts;
pub mod tickets;
pub mod webhook;

use arrow::datatypes::SchemaRef;
use engine_base::{Clock, SourceId};
use engine_dataflow::{Marks, Reader, Waker, Writer};
use engine_plan::{ConnectionKind, Planned, SinkKind, SourceKind};
use std::sync::Arc;

/// A kind of source and how a worker's share of it is started.
pub struct SourceEntry {
    /// What the planner sees.
    pub kind: SourceKind,
    /// Starts the share of one worker; `None` where it has none. The sentence of an error stops the pipeline.
    pub start: fn(&dyn Planned, SourceStart) -> Started,
}

/// A worker's share of a source, if it has one, or why it can't start.
pub type Started = Result<Option<Box<dyn Reader>>, String>;

/// What a source is told when it starts on a worker.
#[derive(Clone)]
pub struct SourceStart {
    /// Its name in the pipeline.
    pub name: Arc<str>,
    /// Its number, which stands in the positions of its rows.
    pub source: SourceId,
    /// This worker's index over the whole cluster.
    pub worker: usize,
    /// How many workers there are.
    pub workers: usize,
    /// Wakes this worker.
    pub waker: Waker,
    /// Where each partition goes on. A partition that is not named starts where the configuration says.
    pub resume: Marks,
    /// The columns to hand out, a subset of the planned source's schema in its order: what nobody reads is not decoded.
    pub columns: SchemaRef,
    /// The clock.
    pub clock: Arc<dyn Clock>,
    /// Come to an end where the source stood when it was started, even if its kind would wait for more.
    pub finite_from_start: bool,
}

impl SourceStart {
    /// Whether this worker owns partition 0 of a source that has only that one.
    pub fn owns_single_partition(&self) -> bool {
        usize::from(self.source.0) % self.workers.max(1) == self.worker
    }
}

/// A kind of sink and how it is opened, once a process.
pub struct SinkEntry {
    /// What the planner sees.
    pub kind: SinkKind,
    /// Opens the sink. The sentence of an error stops the pipeline.
    pub open: fn(&dyn Planned, SinkStart) -> Opened,
}

/// An open sink, or why it can't be opened.
pub type Opened = Result<Box<dyn SinkHandle>, String>;

/// What a sink is told when it is opened.
#[derive(Clone)]
pub struct SinkStart {
    /// Its name in the pipeline.
    pub name: Arc<str>,
    /// The visible columns of the rows it will be given.
    pub schema: SchemaRef,
    /// The clock.
    pub clock: Arc<dyn Clock>,
    /// The pipeline goes on from recorded marks: what a former run delivered stays.
    pub resumed: bool,
    /// A former run with the same state has begun, whether it recorded marks or not: half a line at the end of a file is its.
    pub begun: bool,
    /// What a sink that delivers exactly once needs to know; `None` for one that delivers at least once.
    pub exact: Option<Exact>,
}

/// Where a sink that delivers exactly once goes on.
///
/// Such a sink is given batches that a journal holds, by one writer only (that of worker 0): each [`Writer::write`] is a whole
/// batch, and its ticket is the batch's sequence, one more than that of the batch before. It takes effect as a whole, once: a
/// batch that an earlier process has brought to the system already is known again by the sink (a marker, a length, a key),
/// is not written, and fails the same rows as it did then.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Exact {
    /// The name of the pipeline.
    pub pipeline: Arc<str>,
    /// The last batch of which the journal knows that it was delivered.
    pub delivered: Option<Delivered>,
    /// The sequence of the last batch that the journal holds, 0 for none. A system that has a later one belongs to another
    /// state, and the sink refuses to open.
    pub last: u64,
    /// Asked for by the user: what the system says of earlier batches does not count, and is replaced.
    pub reset: bool,
}

/// A batch that was delivered.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Delivered {
    /// Its sequence; 0 before the first.
    pub sequence: u64,
    /// What the sink wants to be told again at the next start: a file's length, say.
    pub note: String,
}

/// An open sink, shared by the workers of a process.
pub trait SinkHandle: Send + Sync {
    /// The end of one worker. The waker is called when `acknowledged` has news or a full queue has room.
    fn writer(&self, worker: usize, waker: Waker) -> Box<dyn Writer>;

    /// Called once after the last writer is gone: sends what is left, makes it durable and joins the sink's threads. The
    /// last figures.
    fn close(self: Box<Self>) -> Result<SinkStats, String>;

    /// Figures for the metrics, at any time.
    fn stats(&self) -> SinkStats;

    /// Of a sink that delivers exactly once: the note of the place where it goes on, asked for after each opening. Where it is
    /// not the one that the sink was told ([`Delivered::note`]), it is kept in the journal, beside the sequence that was
    /// delivered (0 for none), before a batch is written. `None` where it goes on as it was told.
    fn first_note(&self) -> Option<String> {
        None
    }
}

/// The figures of a sink, counted since it was opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SinkStats {
    /// Rows that the system has taken.
    pub rows: u64,
    /// Bytes that the system has taken.
    pub bytes: u64,
    /// Rows that failed for good.
    pub failed: u64,
    /// Attempts beyond the first.
    pub retries: u64,
    /// Rows that wait or are on their way.
    pub queued_rows: u64,
    /// Their bytes.
    pub queued_bytes: u64,
    /// The circuit breaker, where there is one.
    pub breaker: Option<BreakerState>,
}

/// The state of a circuit breaker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BreakerState {
    /// Requests go out.
    Closed,
    /// One request is let through to see whether the system is back.
    HalfOpen,
    /// None goes out.
    Open,
}

/// Every kind of source.
pub fn sources() -> &'static [SourceEntry] {
    static SOURCES: &[SourceEntry] = &[
        sources::file::ENTRY,
        sources::stdin::ENTRY,
        sources::generate::ENTRY,
        kafka::source::ENTRY,
        #[cfg(feature = "sqlite")]
        letters::source::ENTRY,
    ];
    SOURCES
}

/// Every kind of sink.
pub fn sinks() -> &'static [SinkEntry] {
    static SINKS: &[SinkEntry] = &[
        sinks::stdout::ENTRY,
        sinks::file::ENTRY,
        sinks::blackhole::ENTRY,
        kafka::sink::ENTRY,
        webhook::ENTRY,
        #[cfg(feature = "postgres")]
        postgres::ENTRY,
        #[cfg(feature = "sqlite")]
        sqlite::ENTRY,
        #[cfg(feature = "sqlite")]
        letters::sink::ENTRY,
    ];
    SINKS
}

/// Every kind of connection.
pub fn connections() -> &'static [ConnectionKind] {
    static CONNECTIONS: &[ConnectionKind] = &[
        kafka::connection::KIND,
        #[cfg(feature = "postgres")]
        postgres::connection::KIND,
    ];
    CONNECTIONS
}

/// The kinds of source for the planner.
pub fn source_kinds() -> Vec<&'static SourceKind> {
    sources().iter().map(|entry| &entry.kind).collect()
}

/// The kinds of sink for the planner.
pub fn sink_kinds() -> Vec<&'static SinkKind> {
    sinks().iter().map(|entry| &entry.kind).collect()
}

/// The kinds of connection for the planner.
pub fn connection_kinds() -> Vec<&'static ConnectionKind> {
    connections().iter().collect()
}

/// The source of that `type:`.
pub fn find_source(kind: &str) -> Option<&'static SourceEntry> {
    sources().iter().find(|entry| entry.kind.name == kind)
}

/// Starts a worker's share of a source of that `type:`.
pub fn start_source(kind: &str, planned: &dyn Planned, start: SourceStart) -> Started {
    let entry = find_source(kind).ok_or_else(|| format!("no source of type `{kind}`"))?;
    (entry.start)(planned, start)
}

/// The sink of that `type:`.
pub fn find_sink(kind: &str) -> Option<&'static SinkEntry> {
    sinks().iter().find(|entry| entry.kind.name == kind)
}

#[cfg(test)]
mod testing;
