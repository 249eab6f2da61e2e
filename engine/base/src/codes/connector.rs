//! E0401 to E0449: formats, files and other local connectors.

use super::CodeInfo;
use crate::diagnostic::Code;

/// An unknown format.
pub const UNKNOWN_FORMAT: Code = Code("E0401");
/// A format that can be read and not written, or the other way about.
pub const FORMAT_ONE_WAY: Code = Code("E0402");
/// A format needs a schema.
pub const SCHEMA_NEEDED: Code = Code("E0403");
/// A format has its own columns.
pub const SCHEMA_NOT_TAKEN: Code = Code("E0404");
/// A column of a type that the format can't carry.
pub const TYPE_NOT_CARRIED: Code = Code("E0405");
/// An option of a format that can't be.
pub const BAD_FORMAT_OPTION: Code = Code("E0406");
/// A path that can't be.
pub const BAD_PATH: Code = Code("E0407");
/// No file is there now.
pub const NO_FILE: Code = Code("E0408");
/// A file of a kind that the format can't read.
pub const FILE_KIND: Code = Code("E0409");
/// A place to start at that the source does not have.
pub const BAD_START: Code = Code("E0410");
/// A generator without columns.
pub const NOTHING_TO_GENERATE: Code = Code("E0411");
/// A number that is too large or too small for a connector.
pub const OUT_OF_BOUNDS: Code = Code("E0412");
/// Two columns of a record with one name.
pub const COLUMN_TWICE: Code = Code("E0413");
/// Rows for a queue of dead letters that are no error rows.
pub const NO_ERROR_ROWS: Code = Code("E0414");

/// The codes of this subject, in order.
pub const CODES: &[CodeInfo] = &[
    CodeInfo {
        code: UNKNOWN_FORMAT,
        title: "unknown format",
        explanation: "\
`format:` names how the bytes of a record are read or written. Sources read `json`, `csv` and `raw`; sinks write `json` and
`csv`.

    sources:
      orders: { type: file, path: orders.jsonl, format: jsonl, schema: order.yaml }

JSON Lines is `format: json`. A format with options is a map with `type`: `format: { type: csv, delimiter: \";\" }`.",
    },
    CodeInfo {
        code: FORMAT_ONE_WAY,
        title: "format that can't be written",
        explanation: "\
`raw` gives each line of a source as the text column `line`; there is no row that it could write.

    sinks:
      out: { type: stdout, input: lines, format: raw }

Write `format: csv` with `columns: [line]`, or `format: json`.",
    },
    CodeInfo {
        code: SCHEMA_NEEDED,
        title: "format needs a schema",
        explanation: "\
`json` and `csv` say nothing of the columns and their types, and the plan checks every step against them.

    sources:
      orders: { type: file, path: orders.jsonl, format: json }

Add `schema:` with a file, or with the columns themselves: `schema: { id: int64, at: timestamp, note: string | null }`. For
lines of text without a schema there is `format: raw`.",
    },
    CodeInfo {
        code: SCHEMA_NOT_TAKEN,
        title: "format has its own columns",
        explanation: "\
`format: raw` gives one column, `line`, of type `string`; a `schema:` beside it would have no effect.

    sources:
      log: { type: file, path: app.log, format: raw, schema: { message: string } }

Leave `schema:` out and read the text in a `map` step: `set: { level: \"regexp_extract(line, 'level=(\\\\w+)', 1)\" }`.",
    },
    CodeInfo {
        code: TYPE_NOT_CARRIED,
        title: "type that the format can't carry",
        explanation: "\
A field of a CSV record is text, so it can't hold a list, a map or a struct.

    format: csv
    schema: { id: int64, tags: list<string> }

Read it as `string` or `json` and take it apart in a `map` step, or use `format: json`.",
    },
    CodeInfo {
        code: BAD_FORMAT_OPTION,
        title: "format option that can't be",
        explanation: "\
`delimiter` and `quote` are one ASCII character each, differ from each other, and are no line end.

    format: { type: csv, delimiter: \"::\" }

A tab is written `delimiter: \"\\t\"`.",
    },
    CodeInfo {
        code: BAD_PATH,
        title: "path that can't be",
        explanation: "\
`path` is a file, or for a source a pattern such as `logs/*.jsonl`, relative to the file that names it. It must not be empty, a
pattern must be well-formed, and a sink writes to one file, which is no pattern.

    sinks:
      out: { type: file, input: scored, path: \"out/*.jsonl\" }",
    },
    CodeInfo {
        code: NO_FILE,
        title: "no such file now",
        explanation: "\
A warning: when the pipeline was checked, nothing was there that the `path` of a source names. `engine run` stops with an error
if that is still so, except with `follow: true`, which waits for the file. The same is said of a file that is there and can't be
read: a folder, or one that the engine's user may not open.

Paths are relative to the folder of the file that names them, not to the folder where `engine` is started.",
    },
    CodeInfo {
        code: FILE_KIND,
        title: "file that the format can't read",
        explanation: "\
The file's name says that it is compressed, or of a format with files of its own, while `format:` reads lines of text.

    sources:
      orders: { type: file, path: orders.jsonl.gz, format: json, schema: order.yaml }

Unpack it first: `gunzip -k orders.jsonl.gz`.",
    },
    CodeInfo {
        code: BAD_START,
        title: "place to start at that the source does not have",
        explanation: "\
A file is read from its beginning: `start: earliest`, which is also what happens without `start`. Where a run stopped is kept
in the state directory (`--state`), and needs no key.",
    },
    CodeInfo {
        code: NOTHING_TO_GENERATE,
        title: "generator without columns",
        explanation: "\
`generate` makes rows from expressions, and `columns:` names them.

    sources:
      orders:
        type: generate
        rows: 1000
        columns:
          id: row_number()
          amount: 10 + random() * 90

Or it gives the events of the Nexmark benchmark: `nexmark: { events: bid }`.",
    },
    CodeInfo {
        code: OUT_OF_BOUNDS,
        title: "number out of bounds",
        explanation: "\
A size or a count is outside of what the connector can work with; the message names the bounds. `max_record` lies between 1 KiB
and 1 GiB: a record must fit into memory several times.",
    },
    CodeInfo {
        code: COLUMN_TWICE,
        title: "column given twice",
        explanation: "\
A column of `metadata:` has the name of a column that the format gives by itself.

    format: raw
    metadata: { line: offset }

Give it another name: `metadata: { number: offset }`.",
    },
    CodeInfo {
        code: NO_ERROR_ROWS,
        title: "dead letters that are no error rows",
        explanation: "\
A queue of dead letters keeps rows that failed: what the error output of a step, source or sink gives, whole. Its columns are
`step`, `code`, `reason`, `payload`, `position` and `at`.

    sinks:
      holds: { type: webhook, input: risky, url: \"https://desk.example.com/holds\" }
      failed: { type: dead_letters, input: risky, path: letters/holds.db }

Write `input: holds.errors`. Several error outputs may go to one queue, by a `union` or by a sink each; a `where` may choose among
them, and `columns` is left out.",
    },
];
