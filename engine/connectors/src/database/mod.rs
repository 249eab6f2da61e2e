//! What the sinks of databases share: the keys that name a table, rows as columns that a database takes, what the rows of a
//! batch come to for each key, and the thread that commits one batch after the other.
//!
//! ```text
//! worker: Rows ─queue─▶ thread: gather ─▶ Batch (converted, one act a key) ─▶ Store::write in a transaction ─▶ tickets
//!               (bytes)        ▲                                              └ retried by `delivery` ┘
//!                              └──────── the next batch, when this one is committed or given up
//! ```
//!
//! A worker's rows reach the table in their order: one batch at a time, and the next one when the last is committed. What a
//! transaction looks like is the [`Store`]'s; nothing here knows SQL.

pub mod batch;
pub mod columns;
pub(crate) mod line;
pub(crate) mod plan;

pub use batch::{Act, Batch, Layout};
pub use columns::{Column, Sent};

use crate::delivery::Health;
use engine_base::RowError;
use std::future::Future;

/// The name of the table that holds markers.
pub const MARKERS: &str = "_engine_commits";

/// What tells a transaction from all others: written in the same transaction as the rows, so that a batch whose commit had
/// no answer is known again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Marker {
    /// The pipeline.
    pub pipeline: String,
    /// The sink in it.
    pub sink: String,
    /// The part of the sink that numbers its batches.
    pub shard: i32,
    /// The number of the batch, which grows.
    pub sequence: i64,
}

/// What became of a batch.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Written {
    /// The rows that the database refused, by their number in the batch, and why. All others are in.
    pub failed: Vec<(u32, RowError)>,
    /// The batch was in already, by its marker; nothing was done.
    pub skipped: bool,
}

/// Why a batch could not be written now, or ever.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// It may work later, and nothing is known to be written.
    Retry {
        /// A plain sentence.
        reason: String,
        /// What this says of the database.
        health: Health,
    },
    /// It will never work: the table is another one, the password is wrong, a row was refused and none may be.
    Stop(String),
}

/// A table that is written to in transactions.
///
/// Contract: `write` commits all rows of a batch but those in [`Written::failed`], or none. Its future may be dropped at any
/// point, and whatever was not committed by then is undone or ends as if it had an unknown outcome. With a marker, a batch whose sequence is
/// not above the stored one does nothing, and gives the rows that failed when it was written.
pub trait Store: Send + 'static {
    /// Writes a batch in one transaction.
    fn write(&mut self, batch: &Batch, marker: Option<&Marker>) -> impl Future<Output = Result<Written, Fault>> + Send;

    /// The sequence of the last batch that was committed with a marker.
    fn committed(
        &mut self,
        pipeline: &str,
        sink: &str,
        shard: i32,
    ) -> impl Future<Output = Result<Option<i64>, Fault>> + Send;
}

/// The rows that failed, as they stand beside a marker: a restart gives the same error rows.
pub(crate) fn failed_to_text(failed: &[(u32, RowError)]) -> Option<String> {
    let all: Vec<(u32, &str, &str)> =
        failed.iter().map(|(row, error)| (*row, error.code, error.reason.as_str())).collect();
    if all.is_empty() { None } else { serde_json::to_string(&all).ok() }
}

/// What [`failed_to_text`] wrote.
pub(crate) fn failed_from_text(text: Option<&str>) -> Vec<(u32, RowError)> {
    let all: Option<Vec<(u32, String, String)>> = text.and_then(|text| serde_json::from_str(text).ok());
    let code = |code: &str| [OVERFLOW, REJECTED].into_iter().find(|known| *known == code).unwrap_or(REJECTED);
    all.into_iter().flatten().map(|(row, kind, reason)| (row, RowError::new(code(&kind), reason))).collect()
}

/// The code of a row that the database refused.
pub const REJECTED: &str = "rejected";
/// The code of a row with a value that the database has no room for.
pub const OVERFLOW: &str = "overflow";

#[cfg(test)]
pub(crate) mod testing;
