//! What the row-wise steps share while they run: expressions over rows, pruning, and rows that fail.

use crate::payload;
use arrow::array::{Array, ArrayRef, BooleanArray, RecordBatch, RecordBatchOptions};
use arrow::datatypes::{Field, Schema, SchemaRef};
use engine_base::RowError;
use engine_dataflow::{ErrorRow, Rows, StepOutput};
use engine_expr::{Evaluated, Program, RowFacts, Scalar};
use engine_plan::{Columns, hidden, types};
use std::collections::BTreeSet;
use std::sync::Arc;

/// A batch of these columns. They fit the schema, or one of our own steps is wrong: then the process must end
/// (architecture, decision 10), since rows would be lost.
pub(crate) fn assemble(schema: &SchemaRef, columns: Vec<ArrayRef>, rows: usize) -> RecordBatch {
    let options = RecordBatchOptions::new().with_row_count(Some(rows));
    RecordBatch::try_new_with_options(schema.clone(), columns, &options)
        .unwrap_or_else(|error| panic!("a step's columns don't fit its own schema: {error}"))
}

/// The program of an expression over the batches of a schema.
pub(crate) fn compile(scalar: &Scalar, schema: &SchemaRef) -> Result<Program, String> {
    scalar.compile(schema).map_err(|error| format!("`{}`: {}", scalar.text(), error.message))
}

/// The value of an expression for each row; what a row knows beside its columns comes from the hidden ones.
pub(crate) fn evaluate(program: &mut Program, rows: &Rows) -> Evaluated {
    let now_ns = |row| rows.ingest_ns.get(row);
    let seed = |row| rows.seed(row);
    let event_ns = rows.event_ns.as_ref().map(|times| move |row| times.get(row));
    let facts =
        RowFacts { now_ns: &now_ns, event_ns: event_ns.as_ref().map(|get| get as &dyn Fn(usize) -> i64), seed: &seed };
    program.evaluate(&rows.batch, &facts)
}

/// Puts rows out as failed, each with its reason and the columns it came with. `failed` is ascending.
pub(crate) fn fail(step: &Arc<str>, rows: &Rows, failed: Vec<(usize, RowError)>, out: &mut StepOutput) {
    // Where a row is taken back, it has failed before, when it came.
    let failed: Vec<(usize, RowError)> = failed.into_iter().filter(|(row, _)| !rows.is_removed(*row)).collect();
    if failed.is_empty() {
        return;
    }
    let numbers: Vec<usize> = failed.iter().map(|(row, _)| *row).collect();
    let payloads = payload::json_rows(&rows.batch, &numbers);
    out.errors.extend(failed.into_iter().zip(payloads).map(|((row, error), payload)| ErrorRow {
        step: step.clone(),
        error,
        payload,
        position: rows.position(row),
        ingest_ns: rows.ingest_ns.get(row),
    }));
}

/// A mask that is false at the failed rows.
pub(crate) fn sound(rows: usize, failed: &[(usize, RowError)]) -> BooleanArray {
    let mut mask = vec![true; rows];
    for (row, _) in failed {
        mask[*row] = false;
    }
    BooleanArray::from(mask)
}

/// A batch of columns of which those that can't be null may be: as long as failed rows are among them.
pub(crate) fn assemble_loose(schema: &SchemaRef, columns: Vec<ArrayRef>, rows: usize) -> RecordBatch {
    let loose: Vec<Field> = schema.fields().iter().map(|field| field.as_ref().clone().with_nullable(true)).collect();
    assemble(&Arc::new(Schema::new(loose)), columns, rows)
}

/// Puts rows with these columns out at the main port, without those at which the mask is false.
pub(crate) fn give_sound(
    rows: &Rows,
    schema: &SchemaRef,
    columns: Vec<ArrayRef>,
    good: &BooleanArray,
    out: &mut StepOutput,
) {
    let filtered = rows.with_batch(assemble_loose(schema, columns, rows.num_rows())).filter(good);
    let batch = assemble(schema, filtered.batch.columns().to_vec(), filtered.num_rows());
    out.give(0, filtered.with_batch(batch));
}

/// Which columns of its input a port puts out, and as what.
pub(crate) struct Projection {
    /// Places in the input; `None` where the port puts out every column.
    columns: Option<Vec<usize>>,
    /// As they stand in the input.
    plain: SchemaRef,
    /// As they are at the port: some can't be null any more.
    narrowed: Option<SchemaRef>,
    event_time: bool,
}

impl Projection {
    /// The wanted columns of an input, in its order; those of `non_null` can't be null at the port.
    pub(crate) fn new(input: &SchemaRef, wanted: &Columns, non_null: &BTreeSet<String>) -> Self {
        let places: Vec<usize> =
            (0..input.fields().len()).filter(|at| wanted.contains(input.field(*at).name())).collect();
        let fields: Vec<Field> = places.iter().map(|at| input.field(*at).clone()).collect();
        let narrows = fields.iter().any(|field| field.is_nullable() && non_null.contains(field.name()));
        let whole = places.len() == input.fields().len();
        let plain = if whole { input.clone() } else { Arc::new(Schema::new(fields)) };
        Projection {
            columns: (!whole).then_some(places),
            narrowed: narrows.then(|| types::narrow(&plain, non_null)),
            plain,
            event_time: wanted.contains(hidden::EVENT_TIME),
        }
    }

    /// The rows of the mask with the columns of the port.
    pub(crate) fn apply(&self, rows: &Rows, mask: Option<&BooleanArray>) -> Rows {
        let mut projected = self.columns_of(rows);
        if !self.event_time {
            projected.event_ns = None;
        }
        let mut kept = match mask {
            Some(mask) => projected.filter(mask),
            None => projected,
        };
        if let Some(narrowed) = &self.narrowed {
            // A column that can't be null is said to be so; should the promise be broken, the data wins.
            let columns = kept.batch.columns();
            let holds = narrowed
                .fields()
                .iter()
                .zip(columns)
                .all(|(field, column)| field.is_nullable() || column.null_count() == 0);
            if holds {
                kept.batch = assemble(narrowed, columns.to_vec(), kept.batch.num_rows());
            }
        }
        kept
    }

    fn columns_of(&self, rows: &Rows) -> Rows {
        match &self.columns {
            None => rows.clone(),
            Some(places) => {
                let columns = places.iter().map(|at| rows.batch.column(*at).clone()).collect();
                rows.with_batch(assemble(&self.plain, columns, rows.num_rows()))
            }
        }
    }
}
