//! Faults put into the engine on purpose, one at a time, to see that the simulation finds them. None of this is in what is
//! released.

use std::cell::Cell;

/// A planted fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Planted {
    /// A batch is brought out when its record is written, and before it is durable.
    DeliverBeforeSync,
    /// A commit that can't be made durable counts all the same.
    IgnoreFailedSync,
    /// A commit that the disk has no room for counts all the same: it stays in the buffer.
    IgnoreFullDisk,
    /// Whose state it is, is written in place.
    WriteInPlace,
    /// The source is told what is committed, whether the sinks have it or not.
    CommitSourceEarly,
    /// The source is told that what is committed is never read again, whatever the checkpoints read.
    ReleaseTooMuch,
    /// The journal is cut off up to the newest record, whatever the checkpoints need.
    TruncateTooMuch,
    /// What a replay puts out again is brought out again.
    SkipReplayDrop,
    /// A checkpoint does not need the batches that are delivered and not noted as that.
    ForgetDelivered,
    /// A snapshot is of an epoch later than its checkpoint says.
    SnapshotTooLate,
    /// Which rows failed at a sink is not kept.
    ForgetFailedRows,
    /// That a batch is delivered is noted before the rows that failed of it are committed.
    NoteDeliveredEarly,
    /// A step that goes on does not know how far its watermark was.
    ForgetWatermark,
}

thread_local! {
    static NOW: Cell<Option<Planted>> = const { Cell::new(None) };
}

/// From here on this thread has this fault alone, or none.
pub(crate) fn plant(planted: Option<Planted>) {
    NOW.set(planted);
}

/// Whether this thread has a fault.
pub(crate) fn is(planted: Planted) -> bool {
    NOW.get() == Some(planted)
}
