//! E034x: aggregates over windows.

use super::CodeInfo;
use crate::diagnostic::Code;

/// A window that holds nothing.
pub const EMPTY_WINDOW: Code = Code("E0343");
/// A `window` cut in no way or in several, or with bounds that don't go together.
pub const WINDOW_FORM: Code = Code("E0346");
/// `lag` in a window.
pub const NO_ROW_BEFORE: Code = Code("E0347");
/// A step that needs the input to end, or keys to come to an end, on an input that never ends.
pub const WITHOUT_END: Code = Code("E0348");
/// A `rolling` in the order of arrival over rows of several sources.
pub const SEVERAL_SOURCES: Code = Code("E0349");
/// The codes of this subject, in order.
pub const CODES: &[CodeInfo] = &[
    CodeInfo {
        code: EMPTY_WINDOW,
        title: "a window of no length",
        explanation: "A window must be longer than nothing: `over: 5m`, `tumbling: 1m`, `session: { gap: 30s }`.",
    },
    CodeInfo {
        code: WINDOW_FORM,
        title: "a window that is cut in no way, or in two",
        explanation: "A `window` has just one of `tumbling`, `hopping`, `session`, `count` and `global`:\n\n```yaml\n\
                      per_minute:\n  type: window\n  input: readings\n  key: machine\n  tumbling: 1m\n  columns: { mean: avg(temperature) }\n```\n\nWindows of a \
                      time zone are whole days of it: `tumbling: { size: 1d, zone: Europe/Berlin }`.",
    },
    CodeInfo {
        code: NO_ROW_BEFORE,
        title: "`lag` in a window",
        explanation: "`lag(x)` is the value of the row before, which a `rolling` step knows. A `window` has one row for many: \
                      use `first(x)`, `last(x)`, or a `rolling` step before it.",
    },
    CodeInfo {
        code: WITHOUT_END,
        title: "what never ends, on an input that never ends",
        explanation: "A warning. The input goes on for ever, and so does what the step keeps: the last rows of every key that it ever \
                      saw, or rows that wait for a window to be full or for the end of the input. Where new keys go on coming, that is \
                      more and more. Say when a silent key is forgotten, or take a window of event time:\n\n```yaml\nlast_ten:\n  \
                      type: rolling\n  input: payments\n  key: card\n  over: { rows: 10 }\n  expire_after: 90d\n  columns: \
                      { mean: avg(amount) }\n```",
    },
    CodeInfo {
        code: SEVERAL_SOURCES,
        title: "`rolling` in the order of arrival, of rows of several sources",
        explanation: "A warning. In the order of arrival a row is late once it is further behind the latest row of its key than the \
                      windows and `max_delay` reach. Sources are read at their own pace: where one is ahead, the rows of the others are \
                      late by it, and how many depends on which was read first. In the order of event time a row waits until all \
                      sources have passed it, and only what is behind the watermark is late:\n\n```yaml\nlast_minutes:\n  type: \
                      rolling\n  input: all_payments\n  key: card\n  over: 5m\n  order: event_time\n  columns: { mean: avg(amount) }\n```",
    },
];
