//! E038x: joins.

use super::CodeInfo;
use crate::diagnostic::Code;

/// A `join` with both `within` and `window`, or with bounds of a window that it does not have.
pub const JOIN_FORM: Code = Code("E0380");
/// Columns to match whose values can't be compared.
pub const MATCH_TYPES: Code = Code("E0381");
/// A column of the right side where there is none of it.
pub const LEFT_ROWS_ONLY: Code = Code("E0382");

/// The codes of this subject, in order.
pub const CODES: &[CodeInfo] = &[
    CodeInfo {
        code: JOIN_FORM,
        title: "a join that is bounded in two ways",
        explanation: "\
A `join` has either `within`, how far apart in event time two rows may be, or `window`, in which both must be. With
`window`, the columns `window_start` and `window_end` are added, and `as:` gives them other names.

```yaml
  paid: { type: join, left: orders, right: payments, match: { id: order_id }, within: { before: 0s, after: 1h } }
  both: { type: join, left: clicks, right: views, match: [user], window: { tumbling: 1m } }
```",
    },
    CodeInfo {
        code: MATCH_TYPES,
        title: "columns that can't be compared",
        explanation: "\
`match:` names columns of the left and the right rows that must be equal. They are of one type, or integers of any two
widths. Where one side has a number and the other a text, a `map` before the join makes them agree:

```yaml
  typed: { type: map, input: payments, set: { order_id: CAST(order_id AS BIGINT) } }
```",
    },
    CodeInfo {
        code: LEFT_ROWS_ONLY,
        title: "a column of the right side in a join that puts out left rows",
        explanation: "\
`join: semi` puts out the left rows that have a match, `join: anti` those that have none; either has the columns of the
left side only. `where:` may name both sides. To get columns of both, use `join: inner` or `join: left`.",
    },
];
