//! What every crate of the engine shares: diagnostics, identities, units, the clock and row errors.
//!
//! It imports nothing of ours, does no I/O and starts no threads.

pub mod clock;
pub mod codes;
pub mod diagnostic;
pub mod ids;
pub mod row_error;
pub mod suggest;
pub mod units;

/// The column that says of a row of a changelog, where it leaves the engine, whether it comes or goes: `insert`, `delete`.
pub const CHANGE_COLUMN: &str = "@change";

pub use clock::{Clock, SystemClock, VirtualClock};
pub use diagnostic::{Code, Diagnostic, Diagnostics, FileId, Label, Severity, SourceMap, Span};
pub use ids::{Epoch, SourceId, StepId};
pub use row_error::RowError;
