//! The registry of diagnostic codes: one explicit, greppable list a subject.
//!
//! A code never changes its meaning and is never used again. `engine explain CODE` prints what stands here, and a test
//! holds that every code is covered by the corpus of broken specs.

pub mod connector;
pub mod expr;
pub mod fold;
pub mod join;
pub mod model;
pub mod operator;
pub mod plan;
pub mod query;
pub mod rolling;
pub mod spec;
pub mod system;
pub mod testing;

use crate::diagnostic::Code;

/// Stands for a problem that is told elsewhere and whose consequence this is. Never shown.
pub const FOLLOWS: Code = Code("E0000");

/// A code in full.
#[derive(Clone, Copy, Debug)]
pub struct CodeInfo {
    /// The code.
    pub code: Code,
    /// A few words.
    pub title: &'static str,
    /// What it means, an example of the mistake, and the remedy. Markdown.
    pub explanation: &'static str,
}

/// Every code, in order.
pub fn all() -> impl Iterator<Item = &'static CodeInfo> {
    spec::CODES
        .iter()
        .chain(expr::CODES)
        .chain(plan::CODES)
        .chain(rolling::CODES)
        .chain(operator::CODES)
        .chain(join::CODES)
        .chain(fold::CODES)
        .chain(connector::CODES)
        .chain(system::CODES)
        .chain(model::CODES)
        .chain(testing::CODES)
        .chain(query::CODES)
}

/// The code with this text, in any case.
pub fn find(text: &str) -> Option<&'static CodeInfo> {
    all().find(|info| info.code.0.eq_ignore_ascii_case(text))
}
