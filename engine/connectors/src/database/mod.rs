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

use crate::Exact;
use crate::delivery::Health;
use engine_base::RowError;
use std::future::Future;

/// The name of the table that holds markers.
pub const MARKERS: &str = "_engine_commits";

/// How many batches back the rows that failed are known. The runtime is never so far behind with what it notes as delivered.
pub(crate) const FAILED_KEPT: i64 = 10_000;

/// Whose markers: the row of a writer in the table of markers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Owner {
    /// The pipeline.
    pub pipeline: String,
    /// The sink in it.
    pub sink: String,
    /// The part of the sink that numbers its batches.
    pub shard: i32,
    /// Who writes. One who claims the markers ([`Store::claim`]) keeps those from writing that claimed them before.
    pub writer: String,
}

/// What tells a transaction from all others: written in the same transaction as the rows, so that a batch whose commit had
/// no answer is known again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Marker {
    /// Whose it is.
    pub owner: Owner,
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
/// point, and whatever was not committed by then is undone or ends as if it had an unknown outcome. With a marker, a batch whose
/// sequence is not above the stored one does nothing, and gives the rows that failed when it was written; and one whose writer
/// is not the last that claimed the markers is refused with [`Fault::Stop`].
pub trait Store: Send + 'static {
    /// Makes `owner` the one who writes, once whatever another has begun to commit is committed or undone. Before, the stored
    /// sequence is compared with the journal ([`Exact`]), or set to what that says if so asked.
    fn claim(&mut self, owner: &Owner, exact: &Exact) -> impl Future<Output = Result<(), Fault>> + Send;

    /// Writes a batch in one transaction.
    fn write(&mut self, batch: &Batch, marker: Option<&Marker>) -> impl Future<Output = Result<Written, Fault>> + Send;
}

/// What the rows of a batch that is written already failed of, by what stands beside its marker. A sentence where that is no
/// longer known.
pub(crate) fn known_again(marker: &Marker, last: i64, text: Option<&str>) -> Result<Written, Fault> {
    if last - marker.sequence >= FAILED_KEPT {
        let Marker { owner, sequence } = marker;
        return Err(Fault::Stop(format!(
            "`{}`: batch {sequence} was written before batch {last}, too long ago to know which of its rows failed; start once \
             with `--reset-sink {}`: then its rows come again",
            owner.sink, owner.sink
        )));
    }
    Ok(Written { failed: failed_from_text(text), skipped: true })
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
    let code =
        |code: &str| [OVERFLOW, REJECTED, UNDELIVERED].into_iter().find(|known| *known == code).unwrap_or(REJECTED);
    all.into_iter().flatten().map(|(row, kind, reason)| (row, RowError::new(code(&kind), reason))).collect()
}

/// The code of a row that the database refused.
pub const REJECTED: &str = "rejected";
/// The code of a row that was given up.
pub const UNDELIVERED: &str = "undelivered";
/// The code of a row with a value that the database has no room for.
pub const OVERFLOW: &str = "overflow";

#[cfg(test)]
pub(crate) mod testing;
