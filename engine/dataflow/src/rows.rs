//! The container that flows: a record batch with hidden columns (architecture, decision 1).
//!
//! Hidden are each row's position, its ingest time, its event time and the time it was born (for latency). They cost
//! nothing while they are ranges or constants, and are materialised only when rows of several batches mix.

use arrow::array::{ArrayRef, BinaryArray, RecordBatch, StringArray};
use arrow::buffer::{BooleanBuffer, ScalarBuffer};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use engine_base::{CHANGE_COLUMN, RowError, SourceId, StepId};
use std::sync::Arc;

/// A value for each row: one for all, or one each.
#[derive(Clone, Debug, PartialEq)]
pub enum Times {
    /// The same for every row.
    One(i64),
    /// One a row.
    Each(ScalarBuffer<i64>),
}

impl Times {
    /// The value of a row.
    pub fn get(&self, row: usize) -> i64 {
        match self {
            Times::One(value) => *value,
            Times::Each(values) => values[row],
        }
    }
}

/// Where each row comes from: comparable as (source, partition, offset, suffix).
///
/// A row keeps its source position through row-wise steps; a step that copies or expands rows appends
/// (step, input, ordinal) to the suffix, so that positions stay unique and their order is the canonical order.
#[derive(Clone, Debug, PartialEq)]
pub enum Positions {
    /// Consecutive offsets of one partition.
    Range {
        /// Source number << 32 | partition number.
        origin: u64,
        /// The offset of row 0.
        first: u64,
    },
    /// Any offsets of one partition.
    Offsets {
        /// Source number << 32 | partition number.
        origin: u64,
        /// One a row.
        offsets: ScalarBuffer<u64>,
    },
    /// Rows of many partitions, or expanded rows.
    Mixed {
        /// Source number << 32 | partition number, one a row.
        origins: ScalarBuffer<u64>,
        /// One a row.
        offsets: ScalarBuffer<u64>,
        /// What expanding steps appended, one a row; `None` where no step did.
        suffixes: Option<BinaryArray>,
    },
}

/// The origin of a partition's rows: source number << 32 | partition number.
pub fn origin(source: SourceId, partition: u32) -> u64 {
    u64::from(source.0) << 32 | u64::from(partition)
}

/// The origin of rows that a step makes of many: a window's, a timer's. They come after the rows of all sources.
pub fn made_by(step: StepId) -> u64 {
    MADE | u64::from(step.0)
}

/// Whether rows of this origin were made by a step: they are of no partition.
pub fn is_made(origin: u64) -> bool {
    origin & MADE != 0
}

const MADE: u64 = 1 << 63;

/// The source and partition of an origin.
pub fn partition_of(origin: u64) -> (SourceId, u32) {
    (SourceId((origin >> 32) as u16), origin as u32)
}

/// A batch of rows between two operators.
#[derive(Clone, Debug)]
pub struct Rows {
    /// The visible columns, pruned to those somebody reads.
    pub batch: RecordBatch,
    /// The position of each row.
    pub positions: Positions,
    /// When each row entered the engine, nanoseconds since 1970 UTC; what `now()` gives.
    pub ingest_ns: Times,
    /// When each row came into the world for end-to-end latency: the broker's time, else the ingest time. Nanoseconds since 1970 UTC.
    pub born_ns: Times,
    /// Each row's event time, nanoseconds since 1970 UTC, where the stream has one and a later step reads it.
    pub event_ns: Option<Times>,
    /// On a changelog, whether a row takes back one like it that came before; `None` where none does.
    pub removes: Option<BooleanBuffer>,
}

/// A row that failed, on its way to an error output.
#[derive(Clone, Debug)]
pub struct ErrorRow {
    /// The step it failed in.
    pub step: Arc<str>,
    /// Why.
    pub error: RowError,
    /// The raw record of a source, or the row as JSON.
    pub payload: Vec<u8>,
    /// The row's place: source, partition, offset, suffix.
    pub position: RowPosition,
    /// When the row entered the engine, nanoseconds since 1970 UTC.
    pub ingest_ns: i64,
}

/// The position of one row.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct RowPosition {
    /// Source number << 32 | partition number.
    pub origin: u64,
    /// The record's offset in its partition.
    pub offset: u64,
    /// What expanding steps appended.
    pub suffix: Box<[u8]>,
}

impl Rows {
    /// How many rows.
    pub fn num_rows(&self) -> usize {
        self.batch.num_rows()
    }

    /// Whether a row takes back one like it that came before.
    pub fn is_removed(&self, row: usize) -> bool {
        self.removes.as_ref().is_some_and(|removes| removes.value(row))
    }

    /// The same rows with what becomes of each as their first column, [`CHANGE_COLUMN`]: as they leave the engine.
    pub fn with_changes(&self) -> Rows {
        let text = |row| if self.is_removed(row) { "delete" } else { "insert" };
        let changes: StringArray = (0..self.num_rows()).map(|row| Some(text(row))).collect();
        let field = Arc::new(Field::new(CHANGE_COLUMN, DataType::Utf8, false));
        let schema = self.schema();
        let fields = std::iter::once(field).chain(schema.fields().iter().cloned()).collect::<Vec<_>>();
        let columns = std::iter::once(Arc::new(changes) as ArrayRef).chain(self.batch.columns().iter().cloned());
        let batch = RecordBatch::try_new(Arc::new(Schema::new(fields)), columns.collect());
        self.with_batch(batch.unwrap_or_else(|error| panic!("columns of one length: {error}")))
    }

    /// The visible columns.
    pub fn schema(&self) -> SchemaRef {
        self.batch.schema()
    }
}

impl Default for Rows {
    fn default() -> Self {
        Rows {
            batch: RecordBatch::new_empty(Arc::new(Schema::empty())),
            positions: Positions::Range { origin: 0, first: 0 },
            ingest_ns: Times::One(0),
            born_ns: Times::One(0),
            event_ns: None,
            removes: None,
        }
    }
}
