//! `stateful`: a fold. A record of typed columns for each key, which each row of the key takes further.
//!
//! ```text
//! rows of a batch   a1 b1 a2 c1 a3 b2          a record depends on the one before, so rows of a key can't be folded at once;
//!                                              rows of different keys can: round r takes the r-th row of each key
//! round 1           a1 b1 c1  ┐ keys stand in the order of how many rows they have, so that those of a round are a prefix
//! round 2           a2 b2     │ of those of the round before, and what a round makes is what the next one reads, as it is
//! round 3           a3        ┘
//! ```
//!
//! Only updates go by rounds. What follows from the records after them (`emit`, the timer's `at`) is computed for all rows of
//! the batch together, in their own order. See [`rounds`].
//!
//! Rows are taken in canonical order, late ones too: a fold by arrival has no windows. Timers and expiry go by event time, see
//! [`step`].

mod plan;
mod record;
mod rounds;
mod step;
#[cfg(test)]
mod tests;

pub use plan::{StatefulPlan, kind};
pub use step::render;
