//! Error rows as a stream like any other: the schema of every `name.errors`.

use crate::rows::{ErrorRow, Positions, RowPosition, Rows, Times, is_made};
use arrow::array::{ArrayRef, BinaryArray, RecordBatch, StringBuilder, TimestampNanosecondArray};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit};
use std::borrow::Cow;
use std::sync::{Arc, LazyLock};

/// The columns of an error stream: step, code, reason, payload, position, at (when the row entered the engine).
pub fn error_schema() -> SchemaRef {
    static SCHEMA: LazyLock<SchemaRef> = LazyLock::new(|| {
        let text = |name: &str| Field::new(name, DataType::Utf8, false);
        Arc::new(Schema::new(vec![
            text("step"),
            text("code"),
            text("reason"),
            text("payload"),
            text("position"),
            Field::new("at", DataType::Timestamp(TimeUnit::Nanosecond, Some("UTC".into())), false),
        ]))
    });
    SCHEMA.clone()
}

/// Names for the numbers in positions: `transactions/0/1234`.
#[derive(Clone, Debug, Default)]
pub struct SourceNames(Arc<[Arc<str>]>);

impl SourceNames {
    /// The names of the plan's sources in the order of their numbers.
    pub fn new(names: impl IntoIterator<Item = Arc<str>>) -> Self {
        SourceNames(names.into_iter().collect())
    }

    /// A position as people read it: source/partition/offset, and the suffix in hex.
    pub fn describe(&self, position: &RowPosition) -> String {
        let source = (position.origin >> 32) as usize;
        let partition = position.origin as u32;
        let mut text = match is_made(position.origin) {
            true => format!("step {partition}/{}", position.offset),
            false => self.of_source(source, partition, position.offset),
        };
        if !position.suffix.is_empty() {
            text.push('/');
            for byte in &position.suffix {
                text.push_str(&format!("{byte:02x}"));
            }
        }
        text
    }

    fn of_source(&self, source: usize, partition: u32, offset: u64) -> String {
        match self.0.get(source) {
            Some(name) => format!("{name}/{partition}/{offset}"),
            None => format!("{source}/{partition}/{offset}"),
        }
    }
}

/// What the reason of an error row ends with where its payload, as text, is not what it was.
pub const REPLACED: &str = "(bytes of the payload that are not UTF-8 are shown as U+FFFD)";

/// Error rows as a batch of [`error_schema`], each at its row's position.
pub fn error_rows(errors: Vec<ErrorRow>, names: &SourceNames) -> Rows {
    let mut text: [StringBuilder; 5] = std::array::from_fn(|_| StringBuilder::new());
    for error in &errors {
        text[0].append_value(&error.step);
        text[1].append_value(error.error.code);
        match String::from_utf8_lossy(&error.payload) {
            Cow::Borrowed(payload) => {
                text[2].append_value(&error.error.reason);
                text[3].append_value(payload);
            }
            Cow::Owned(payload) => {
                text[2].append_value(format!("{} {REPLACED}", error.error.reason));
                text[3].append_value(payload);
            }
        }
        text[4].append_value(names.describe(&error.position));
    }
    let at: Vec<i64> = errors.iter().map(|error| error.ingest_ns).collect();
    let mut columns: Vec<ArrayRef> = text.iter_mut().map(|column| Arc::new(column.finish()) as ArrayRef).collect();
    columns.push(Arc::new(TimestampNanosecondArray::from(at.clone()).with_timezone("UTC")));
    let batch = RecordBatch::try_new(error_schema(), columns)
        .unwrap_or_else(|error| panic!("error rows do not fit their own schema: {error}"));
    Rows {
        batch,
        positions: Positions::Mixed {
            origins: errors.iter().map(|error| error.position.origin).collect(),
            offsets: errors.iter().map(|error| error.position.offset).collect(),
            suffixes: Some(BinaryArray::from_iter_values(errors.iter().map(|error| &error.position.suffix))),
        },
        ingest_ns: Times::Each(at.clone().into()),
        born_ns: Times::Each(at.into()),
        event_ns: None,
        removes: None,
    }
}
