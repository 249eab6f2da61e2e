//! What the bytes of a record mean: `format:` as it is written, decoders of records into columns, encoders of rows.
//!
//! Formats know no system. A decoder takes one record at a time and is told nothing of where it came from; finding the
//! ends of records in a stream of bytes is [`split`]'s, and a message of a broker is a record as it is.
//!
//! | format | a record | decodes | encodes |
//! |---|---|---|---|
//! | `json` | an object; in files one a line | yes | yes |
//! | `csv` | a record of RFC 4180 | yes | yes |
//! | `raw` | a line, as the column `line` | yes | no |

pub mod columns;
pub mod csv;
pub mod json;
pub mod plan;
pub mod raw;
pub mod split;
pub mod text;
pub mod values;

pub use plan::{Decoding, Encoding};

use arrow::array::{ArrayRef, RecordBatch};
use arrow::datatypes::Field;
use engine_base::RowError;

/// Codes of the row errors of decoders.
pub mod reasons {
    /// The record is not of its format.
    pub const DECODE: &str = "decode";
    /// The record does not fit the schema.
    pub const SCHEMA: &str = "schema";
    /// The record is larger than `max_record`.
    pub const TOO_LARGE: &str = "too_large";
}

/// Turns records into columns.
///
/// Contract: a record that fails leaves no trace in the columns; any bytes may be given, and none makes it panic; what it
/// holds is bounded by the records given since the last `finish`.
pub trait RecordDecoder: Send {
    /// Appends a record to the columns.
    fn decode(&mut self, record: &[u8]) -> Result<(), RowError>;

    /// Takes the first record of a file, for a format that has its columns' names there. A sentence, to be read after the
    /// place, where nothing below it could be read.
    fn header(&mut self, _record: &[u8]) -> Result<(), String> {
        Ok(())
    }

    /// How many records the columns hold.
    fn rows(&self) -> usize;

    /// The columns, in the order in which they were asked for. The decoder is empty after that.
    fn finish(&mut self) -> Vec<ArrayRef>;
}

/// Turns rows into bytes.
pub trait RecordEncoder: Send {
    /// What a file starts with, the line end included; empty for most formats.
    fn header(&self) -> Vec<u8> {
        Vec::new()
    }

    /// Appends each row and a line end, and to `ends` where that stands. A sentence if the columns are of another type
    /// than was planned.
    fn encode(&mut self, batch: &RecordBatch, out: &mut Vec<u8>, ends: Option<&mut Vec<usize>>) -> Result<(), String>;
}

/// The columns that are put out, which stand before those that are only read beside them.
pub fn first_columns(batch: &RecordBatch, count: usize) -> Result<RecordBatch, String> {
    if batch.num_columns() <= count {
        return Ok(batch.clone());
    }
    batch.project(&(0..count).collect::<Vec<_>>()).map_err(|error| error.to_string())
}

/// How timestamps are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Timestamps {
    /// `"2026-01-01T10:00:00Z"`
    #[default]
    Rfc3339,
    /// Milliseconds since 1970-01-01 UTC, as a number.
    EpochMs,
}

/// Key and value in a field's metadata that mark text as JSON (`json` in a schema): Arrow's canonical extension type.
pub const JSON_MARK: (&str, &str) = ("ARROW:extension:name", "arrow.json");

/// Whether a text column holds JSON, to be read and written as it stands.
pub fn is_json(field: &Field) -> bool {
    field.metadata().get(JSON_MARK.0).is_some_and(|name| name == JSON_MARK.1)
}

/// Why a record can't be decoded.
#[derive(Debug, PartialEq, Eq)]
pub enum RecordError {
    /// It is not of its format.
    Syntax {
        /// What is wrong.
        what: String,
        /// Where, in bytes from its start.
        at: usize,
    },
    /// A field does not fit its column.
    Column {
        /// The column, and the way down from there: `a.b`.
        path: String,
        /// What is wrong, to be read after the column.
        what: String,
    },
}

impl RecordError {
    /// The same error, seen from a column above.
    #[must_use]
    pub fn within(mut self: Box<Self>, parent: &str) -> Box<Self> {
        if let RecordError::Column { path, .. } = self.as_mut() {
            *path = format!("{parent}.{path}");
        }
        self
    }

    /// The error as data.
    pub fn into_row_error(self, format: &str) -> RowError {
        match self {
            RecordError::Syntax { what, at } => {
                RowError::new(reasons::DECODE, format!("not {format}: {what}, at byte {at}"))
            }
            RecordError::Column { path, what } => RowError::new(reasons::SCHEMA, format!("`{path}`: {what}")),
        }
    }
}
