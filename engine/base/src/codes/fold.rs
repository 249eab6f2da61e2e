//! E039x: folds and patterns.

use super::CodeInfo;
use crate::diagnostic::Code;

/// A fold whose records are never forgotten.
pub const UNBOUNDED_STATE: Code = Code("E0390");
/// A column of a record without a first value of its type.
pub const BAD_INIT: Code = Code("E0391");
/// An update that its column can't hold.
pub const BAD_UPDATE: Code = Code("E0392");
/// A column of several types in the rows that a step puts out.
pub const UNEQUAL_ROWS: Code = Code("E0393");
/// A timer's time that is none, or that the record alone does not tell.
pub const TIMER_TIME: Code = Code("E0394");
/// A sequence that is none.
pub const BAD_SEQUENCE: Code = Code("E0395");
/// An element of a sequence that takes no such number of rows.
pub const BAD_REPEAT: Code = Code("E0396");

/// The codes of this subject, in order.
pub const CODES: &[CodeInfo] = &[
    CodeInfo {
        code: UNBOUNDED_STATE,
        title: "a state that can grow for ever",
        explanation: "\
A warning. A `stateful` step keeps a record for each key that it ever saw. Where new keys go on coming, that is more and more:
say when the record of a silent key goes.

```yaml
    expire_after: 90d     # in event time, after the last row of the key
```

A timer with `clear: true` forgets its record too.",
    },
    CodeInfo {
        code: BAD_INIT,
        title: "a column of a record without a first value",
        explanation: "\
`init` is what a column of a record is before the first row of a key: a value of the column's type, written as YAML writes it.
It may be left out where the column can be null.

```yaml
    state:
      total: { type: \"decimal(18, 2)\", init: 0 }
      since: { type: timestamp | null }
      tags: { type: list<string>, init: [] }
```",
    },
    CodeInfo {
        code: BAD_UPDATE,
        title: "an update that its column can't hold",
        explanation: "\
An update becomes a value of its column's type where nothing can be lost unseen: an integer in a larger one or in a smaller one
(where it does not fit, the row fails), a decimal in one with as many digits behind the point or more. Anything else needs to be
said: `CAST(this.total * 1.05 AS decimal(18, 2))`.

A column that can't be null takes no value that may be: write `coalesce(amount, 0)`, or `type: float64 | null`.",
    },
    CodeInfo {
        code: UNEQUAL_ROWS,
        title: "a column of several types",
        explanation: "\
The rows of `emit` and those of the timer's `emit` are one stream. A column that both have is of one type; one that only one of
them has is null in the rows of the other.

```yaml
    emit: { columns: { total: this.total, why: \"'row'\" } }
    timer:
      at: this.since + INTERVAL '30 days'
      emit: { columns: { total: this.total, why: \"'timer'\" } }
```",
    },
    CodeInfo {
        code: TIMER_TIME,
        title: "a timer without a time",
        explanation: "\
`at` of a timer is a timestamp, or null for no timer, and follows from the record alone: `this.since + INTERVAL '30 days'`. What
it is to know of a row, keep in the record: `last: event_time()` under `update`, and `at: this.last + INTERVAL '30m'`.",
    },
    CodeInfo {
        code: BAD_SEQUENCE,
        title: "a sequence that is none",
        explanation: "\
A `sequence` is a list of elements, each one name and what it takes. Names are its own: not twice, and none of a column, which
expressions could not tell from it. At least one element must come: one that is neither `absent` nor `optional`. An absent
element stands behind another one: no such row may come after that one's last row.

```yaml
    sequence:
      - order: { where: kind = 'order' }
      - payment: { where: kind = 'payment', absent: true }
```",
    },
    CodeInfo {
        code: BAD_REPEAT,
        title: "an element that takes no such number of rows",
        explanation: "\
`repeat` is how many rows an element takes: `3`, `3..` for three or more, `2..5` for two to five; one unless said. An element that
may be missing has `optional: true`, and then comes once or more often, `repeat: 1..`. An absent one takes no rows.",
    },
];
