//! E034x: rolling aggregates.

use super::CodeInfo;
use crate::diagnostic::Code;

/// A window that holds nothing.
pub const EMPTY_WINDOW: Code = Code("E0343");
/// The codes of this subject, in order.
pub const CODES: &[CodeInfo] = &[CodeInfo {
    code: EMPTY_WINDOW,
    title: "a window of no length",
    explanation: "`over:` must be longer than nothing: `over: 5m`.",
}];
