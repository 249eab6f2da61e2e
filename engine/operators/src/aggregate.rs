//! `aggregate`: totals of each key, as a changelog.
//!
//! Each key has a slot: the states of its aggregates, or, of a changelog where they can't be subtracted from, its rows. A key
//! that rows of an epoch touched puts out what it was and what it is, once. Where the key has the bounds of a window that is put
//! out once, all its rows come in one epoch: then there is nothing to take back, and nothing is kept.

mod plan;
mod state;
mod step;
#[cfg(test)]
mod tests;

use crate::{OperatorEntry, Render};

/// The registry line of `aggregate`.
pub(crate) fn entry() -> OperatorEntry {
    OperatorEntry { kind: plan::kind(), render: Render::Epochs(step::render) }
}
