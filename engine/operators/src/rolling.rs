//! `rolling`: one row out for each row in, with what is known about its key so far.
//!
//! The window of a row is the rows of its key that were taken before it, and itself, with event times in `(t - over, t]`; or the
//! last so many of them. Rows are taken as they arrive: a key keeps its rows back to its greatest event time less the longest
//! `over` and the source's `max_delay`, and a row older than that goes to `late`. Or they are taken in the order of event time
//! ([`order`]). Keys that are silent for long are freed ([`expire`]).
//!
//! How the rows of a window combine stands in [`tree`]; what is combined in [`crate::aggregates`].

mod expire;
mod order;
mod plan;
mod step;
#[cfg(test)]
mod tests;
mod tree;

use crate::aggregates::layout::Change;
use engine_state::SlotState;

/// The bytes of a key's rows where other calls are kept.
pub(crate) fn convert(state: &[u8], change: &Change) -> Result<Vec<u8>, String> {
    let mut bytes = Vec::new();
    tree::KeyRows::decode(state)?.converted(change)?.encode(&mut bytes);
    Ok(bytes)
}

pub use plan::{RollingPlan, kind};
pub use step::render;
