//! E06xx: the tests of a pipeline.

use super::CodeInfo;
use crate::diagnostic::Code;

/// A test names what is not there, or has the name of another.
pub const TEST_NAME: Code = Code("E0601");
/// A row of a test does not fit its schema.
pub const TEST_ROW: Code = Code("E0602");
/// A value in a test can't be used.
pub const TEST_VALUE: Code = Code("E0603");
/// The codes of this subject, in order.
pub const CODES: &[CodeInfo] = &[
    CodeInfo {
        code: TEST_NAME,
        title: "a name in a test",
        explanation: "A test names something that the pipeline does not have: `give`, `watermark`, `idle` and `end` name sources, `mock` \
                      names a `predict` step or a model, `expect` names a sink, a step or a side output such as `history.late`. Or two \
                      tests have one name.",
    },
    CodeInfo {
        code: TEST_ROW,
        title: "a row of a test that does not fit",
        explanation: "The rows of a test are read by the schema of the source, or of the output that they are expected of: the column must \
                      be there and the value of its type. In `give`, a column that may not be null must be written:\n\n```yaml\ntests:\n  - \
                      name: a large amount\n    steps:\n      - give: { transactions: [{ card: a, amount: 900 }] }\n      - expect: { holds: \
                      [{ card: a }] }\n```",
    },
    CodeInfo {
        code: TEST_VALUE,
        title: "a value in a test",
        explanation: "A time is written `2026-01-01T10:00:00Z`, the rows of a mock that fail `1..3`, rows as a list of maps or as `{ file: \
                      rows.jsonl }`. `watermark` goes on only: event time never goes back, and only sources that a window or another step \
                      with event time reads have any.",
    },
];
