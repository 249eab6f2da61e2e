//! `enrich`: each row with the row of a table that has its key, as it was at the row's event time or as it is.
//!
//! ```text
//! table   a:1 ────── a:2 ─────────── a:3          kept by key: the latest, or each with its event time
//! rows         │            │              │
//!              a, 1         a, 2           a, 3
//! ```
//!
//! In an epoch the table's rows come first. A row waits where the table may still have what it needs: until a table that comes
//! to an end has ended, or for so long as `wait` says. What waits is kept with its key, in the store.

mod plan;
mod state;
mod step;
#[cfg(test)]
mod tests;

use crate::{OperatorEntry, Render};

/// The registry line of `enrich`.
pub(crate) fn entry() -> OperatorEntry {
    OperatorEntry { kind: plan::kind(), render: Render::Epochs(step::render) }
}

/// The place of the rows among the inputs.
const ROWS: usize = 0;
/// The place of the table.
const TABLE: usize = 1;
