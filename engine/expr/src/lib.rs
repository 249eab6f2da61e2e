//! SQL text to typed, vectorised expressions and aggregates.
//!
//! ```text
//! text ──parse──▶ syntax tree ──plan──▶ typed expression ──compile──▶ program ──evaluate──▶ an array, and the rows that failed
//! ```
//!
//! The only crate that imports datafusion: its functions, coercions and kernels, without its planner, simplifier and
//! session. Ours are the errors, in the language's words and at a place in the text; checked arithmetic; the rule that the
//! row alone decides; time and chance as facts of the row; and a few functions.
//!
//! It knows no pipelines: names come in a [`Scope`], parameters in a [`Context`], and who has a problem to show puts the
//! [`ExprError`]'s range into a file.

#[cfg(test)]
extern crate self as engine_expr; // the tests' files that fuzz targets share name the crate as these do

mod aggregate;
mod comparison;
mod context;
mod decimal;
mod error;
mod failure;
mod functions;
mod narrow;
mod panics;
mod parse;
mod plan;
mod program;
pub mod query;
mod scalar;
#[cfg(test)]
mod tests;
mod types;

pub use aggregate::{AggregateCall, AggregateFunction, Aggregation, OrderBy, RowAccumulator};
pub use context::{Context, ParamValue, Scope, is_open, open};
pub use error::ExprError;
pub use panics::{QuietPanics, catching, quiet_panics};
pub use program::{Evaluated, Program, RowFacts};
pub use scalar::Scalar;
pub use types::type_name;
