//! `rolling`: one row out for each row in, with what is known about its key so far.
//!
//! The window of a row is the rows of its key that arrived before it, and itself, with event times in `(t - over, t]`. A key
//! keeps its rows back to its greatest event time less the longest `over` and the source's `max_delay`; a row older than that
//! goes to `late`. How the rows of a window combine stands in [`tree`]; what is combined in [`crate::aggregates`].

mod plan;
mod step;
mod tree;

pub use plan::{RollingPlan, kind};
pub use step::render;
