//! What a connector gives the dataflow to read from: a [`Reader`] on each worker.
//!
//! ```text
//! connector thread ──bounded queue──▶ Reader::poll (worker thread, never blocks) ──Rows──▶ source operator
//!        └────────── Waker::wake after each enqueue, and once more after the end ──────────▶┘
//! ```

use crate::rows::{ErrorRow, Rows};
use std::collections::BTreeMap;
use std::sync::Arc;
use timely::dataflow::Scope;
use timely::dataflow::operators::generic::OperatorInfo;

/// Where a partition stands: everything before it has been handed out, nothing after.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Mark {
    /// The offset of the next record: comparable within the partition (a Kafka offset, a record's ordinal in a file source).
    pub next: u64,
    /// What the connector needs to seek there, as JSON text (a file's path and byte, say). Opaque to the dataflow.
    pub detail: String,
}

/// The marks of the partitions of one source, by partition number.
pub type Marks = BTreeMap<u32, Mark>;

/// Wakes the worker that owns a reader. Cheap; any thread may call it.
#[derive(Clone)]
pub struct Waker(Arc<dyn Fn() + Send + Sync>);

impl Waker {
    /// A waker that runs `wake`.
    pub fn new(wake: impl Fn() + Send + Sync + 'static) -> Self {
        Waker(Arc::new(wake))
    }

    /// A waker of an operator of this worker.
    pub(crate) fn of_operator(scope: &Scope<'_, u64>, operator: &OperatorInfo) -> Self {
        let sync = scope.worker().sync_activator_for(operator.address.to_vec());
        // An activation that fails says that the worker is gone: there is nobody left to wake.
        Waker::new(move || {
            let _ = sync.activate();
        })
    }

    /// A waker that does nothing, for tests that poll.
    pub fn none() -> Self {
        Waker::new(|| ())
    }

    /// Has the worker poll its readers soon.
    pub fn wake(&self) {
        (self.0)();
    }
}

impl std::fmt::Debug for Waker {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Waker")
    }
}

/// What one poll gave.
#[derive(Debug, Default)]
pub struct SourceRows {
    /// Decoded rows, in order within each partition. Every `Rows` holds rows of one partition.
    pub rows: Vec<Rows>,
    /// Records that could not be decoded. They count as handed out.
    pub errors: Vec<ErrorRow>,
    /// Bytes of input behind both, for backpressure and metrics.
    pub bytes: u64,
    /// Records behind both.
    pub records: u64,
}

/// The state of a reader after a poll.
#[derive(Debug)]
pub enum Polled {
    /// Rows or errors; there may be more at once.
    Some(SourceRows),
    /// Nothing now. The reader calls its [`Waker`] when there is.
    Pending,
    /// Nothing, ever again.
    Done,
    /// The source can't go on. The pipeline stops with this sentence; nothing that was handed out is lost.
    Failed(String),
}

/// Removes from a system what a source has handed out of it.
///
/// It hears of that on whatever thread makes it so, and after its reader is gone too: the last epochs of a run are committed when
/// nothing reads any more. The calls don't block.
pub trait Removal: Send + Sync + std::fmt::Debug {
    /// What stands before these marks has acted, or is in the journal on its way out again, and that is durable: a restart may read
    /// it again to get back to where it was, but nobody else has to see it any more.
    fn committed(&self, marks: &Marks);

    /// What stands before these marks is never read again, whichever of the checkpoints that are kept a restart begins with.
    fn released(&self, marks: &Marks);

    /// The run is over, and nothing more will be told: carries out what was, and lets go of the system. It may block. A sentence if
    /// something could not be done.
    fn close(&self) -> Result<(), String>;
}

/// A worker's share of a source: the partitions assigned to it.
///
/// Contract: `poll` never blocks; each record of a partition is handed out once, in order, as a row or as an error;
/// `marks` tells where each assigned partition stands after the last poll; what is queued inside is bounded.
pub trait Reader {
    /// Takes what has arrived, up to about `max_bytes` of input (at least one record if there is one).
    ///
    /// With `until`, no record at or beyond the given offset of its partition is handed out: the reader returns
    /// `Pending` when every partition has reached its limit. A partition that is not named is not read at all.
    fn poll(&mut self, max_bytes: usize, until: Option<&BTreeMap<u32, u64>>) -> Polled;

    /// Where each partition of this worker stands.
    fn marks(&self) -> Marks;

    /// Partitions that were found since the last call, and where each stood before anything was read of it. What stands in
    /// [`Reader::marks`] before the first poll need not be told here.
    fn found(&mut self) -> Marks {
        Marks::new()
    }

    /// Whether it knows its share: the partitions that there were at the start stand in [`Reader::marks`].
    fn knows_its_share(&self) -> bool {
        true
    }

    /// Whether nothing more of a partition is to be had now, as far as its system says: it is reached, and at its end. Asked
    /// when nothing has come of it for a while, to tell silence from a fault.
    fn at_end(&self, _partition: u32) -> bool {
        true
    }

    /// What was handed out up to these marks is safe for good: offsets may be stored for monitoring, input acknowledged.
    fn committed(&mut self, _marks: &Marks) {}

    /// Of a source that removes from its system what is safe: who does that. He outlives the reader.
    fn removal(&self) -> Option<Arc<dyn Removal>> {
        None
    }

    /// How many records the system still holds behind each partition's mark, where the system can tell.
    fn lag(&self) -> BTreeMap<u32, u64> {
        BTreeMap::new()
    }
}
