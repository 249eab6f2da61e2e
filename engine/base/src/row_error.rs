//! A failure of one row: data, not a fault of the pipeline (architecture, decision 10).

use std::fmt;

/// Why one row failed. It travels to the step's error output with the row's payload and position.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RowError {
    /// A stable, machine-readable reason such as `decode`, `divide_by_zero`, `overflow`, `cast`, `null`, `panic`.
    pub code: &'static str,
    /// A plain sentence for people.
    pub reason: String,
}

impl RowError {
    /// An error with a code and a sentence.
    pub fn new(code: &'static str, reason: impl Into<String>) -> Self {
        RowError { code, reason: reason.into() }
    }
}

impl fmt::Display for RowError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.code, self.reason)
    }
}

impl std::error::Error for RowError {}
