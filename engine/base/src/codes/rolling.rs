//! E034x: rolling aggregates.

use super::CodeInfo;
use crate::diagnostic::Code;

/// `rolling` over a stream without event time.
pub const NO_EVENT_TIME: Code = Code("E0340");
/// A key column that is not there.
pub const UNKNOWN_KEY_COLUMN: Code = Code("E0341");
/// A new column with the name of one that is there.
pub const COLUMN_EXISTS: Code = Code("E0342");
/// A window that holds nothing.
pub const EMPTY_WINDOW: Code = Code("E0343");
/// A part of `rolling` that is not built yet.
pub const NOT_BUILT: Code = Code("E0344");
/// A key of a type that can't be compared for equality.
pub const UNHASHABLE_KEY: Code = Code("E0345");

/// The codes of this subject, in order.
pub const CODES: &[CodeInfo] = &[
    CodeInfo {
        code: NO_EVENT_TIME,
        title: "a step over time needs event time",
        explanation: "A `rolling` step looks back over event time, but its input has none.\n\nSay on the source which column tells when an event happened:\n\n```yaml\nsources:\n  transactions:\n    event_time: { column: at, max_delay: 5s }\n```",
    },
    CodeInfo {
        code: UNKNOWN_KEY_COLUMN,
        title: "a key names a column that is not there",
        explanation: "`key:` lists columns of the input. To key by something computed, add it with a `map` before.",
    },
    CodeInfo {
        code: COLUMN_EXISTS,
        title: "a new column has the name of one that is there",
        explanation: "`rolling` puts out all columns of its input and the new ones beside them, so a new one needs a name of its own.",
    },
    CodeInfo {
        code: EMPTY_WINDOW,
        title: "a window of no length",
        explanation: "`over:` must be longer than nothing: `over: 5m`.",
    },
    CodeInfo {
        code: NOT_BUILT,
        title: "a part of `rolling` that is not built yet",
        explanation: "The language has this key, but this version of the engine does not do it yet, and it never ignores what it can't do. Rolling windows are by event time, in order of arrival: `over: 5m`, `order: arrival`.",
    },
    CodeInfo {
        code: UNHASHABLE_KEY,
        title: "a key of a type that can't be a key",
        explanation: "Keys are compared for equality. Floats (whose equality surprises), lists, maps, structs and json can't be keys; cast to another type with a `map` before.",
    },
];
