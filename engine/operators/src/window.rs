//! `window`: one row for each key and window of event time, once no more rows of it are expected.
//!
//! ```text
//! hopping, size 3, every 1:     slices   │ 0 │ 1 │ 2 │ 3 │ 4 │      a row goes into one slice, whatever the overlap
//!                               windows  └─────┬─────┘                a window is put together from its slices
//!                                            └─────┬─────┘            when the watermark passes its end
//! ```
//!
//! A slice is freed with the last window it is part of; a row of a freed slice goes to `late`. Rows of an epoch go in in
//! canonical order, so that the bits of a result depend on the rows and their cuts alone.
//!
//! Windows of so many rows, and the one of all rows, know no watermark: a key has one that is open, which goes out with the row
//! that fills it, or at the end of the input.

pub(crate) mod assign;
pub(crate) mod fixed;
mod numbers;
pub(crate) mod pane;
mod plan;
mod session;
mod step;
#[cfg(test)]
mod tests;

use crate::aggregates::layout::Change;
use engine_state::SlotState;

/// The bytes of a slot where other calls are kept.
pub(crate) fn convert(state: &[u8], change: &Change) -> Result<Vec<u8>, String> {
    let mut bytes = Vec::new();
    pane::Slot::decode(state)?.converted(change)?.encode(&mut bytes);
    Ok(bytes)
}

pub use plan::{WindowPlan, kind};
pub use step::render;
