//! `pattern`: a sequence of rows of one key within a span of event time.
//!
//! ```text
//! sequence   small{3..}  large
//! rows       s1  s2  s3  l1  s4  s5         each row that can be first begins a walk of its own: every row after it goes to
//! from s1    s   s   s   l                  the farthest element that takes it, or is passed over
//! from s2        s   s   ·
//! ```
//!
//! What a walk does with a row depends on where it stands alone ([`walk::Stand`]), not on the rows it took. So walks that come to
//! stand in the same place are one group from there on, and a row costs one look a group, however many rows a key has. A walk is
//! kept as nothing but the number of its first row; which rows it took is found by walking again, once there is a match.
//!
//! Rows wait until the watermark passes them, and are taken in the order of event time. So what comes out does not depend on how
//! rows are cut into epochs, but for those that are late. See [`walk`] for the rule, [`slot`] for what is kept of a key, [`step`]
//! for what happens when, [`output`] for the columns of a match.

mod kept;
mod output;
mod plan;
mod slot;
mod step;
#[cfg(test)]
mod tests;
mod walk;

pub use plan::{PatternPlan, kind};
pub use step::render;
