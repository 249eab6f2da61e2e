//! What a connector gives the dataflow to write to: a [`Writer`] on each worker.

use crate::rows::{ErrorRow, Rows};

/// What a system has answered since the last question.
#[derive(Debug, Default)]
pub struct Acknowledged {
    /// Every ticket up to this one is done: accepted by the system, or failed for good and listed in `failed`.
    pub up_to: u64,
    /// Rows that could not be delivered: they go to the sink's error output before their ticket is released.
    pub failed: Vec<ErrorRow>,
    /// Of a sink that delivers exactly once: what it wants to be told again when it goes on after `up_to`.
    pub note: Option<String>,
    /// The sink can't go on (`on_error: stop`, or a fatal fault). The pipeline stops with this sentence.
    pub fatal: Option<String>,
}

/// A worker's end of a sink.
///
/// Contract: no call blocks; tickets grow by one for each accepted `write`; a ticket is acknowledged only when the system
/// has taken all its rows (or they are in `failed`); the waker given at the start is called when `acknowledged` has news
/// and when a full queue has room again; rows of one partition reach the system in order.
pub trait Writer {
    /// Takes rows under a ticket, or gives them back if the queue is full.
    fn write(&mut self, rows: Rows, ticket: u64) -> Result<(), Rows>;

    /// What has been answered.
    fn acknowledged(&mut self) -> Acknowledged;

    /// No more rows will come, or the epoch closed: send what is gathered now rather than later.
    fn flush(&mut self);
}
