//! Rows as JSON Lines.

use super::super::values::{Short, Values, prefixes};
use super::super::{RecordEncoder, Timestamps};
use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;

/// Encodes rows as one object a line, without white space, every column in every object.
#[derive(Debug)]
pub struct JsonEncoder {
    prefixes: Vec<Short>,
    timestamps: Timestamps,
}

impl JsonEncoder {
    /// An encoder of rows of this schema.
    pub fn new(schema: &SchemaRef, timestamps: Timestamps) -> Self {
        let names = schema.fields().iter().map(|field| field.name().as_str());
        JsonEncoder { prefixes: prefixes(names).iter().map(|prefix| Short::new(prefix)).collect(), timestamps }
    }
}

impl RecordEncoder for JsonEncoder {
    fn encode(
        &mut self,
        batch: &RecordBatch,
        out: &mut Vec<u8>,
        mut ends: Option<&mut Vec<usize>>,
    ) -> Result<(), String> {
        let schema = batch.schema();
        let fields = schema.fields().iter().zip(batch.columns());
        let columns =
            fields.map(|(field, array)| Values::new(field, array, self.timestamps)).collect::<Result<Vec<_>, _>>()?;
        let before = out.len();
        for row in 0..batch.num_rows() {
            for (prefix, column) in self.prefixes.iter().zip(&columns) {
                prefix.write(out);
                column.write_json(row, out);
            }
            out.extend_from_slice(if columns.is_empty() { b"{}\n" } else { b"}\n" });
            if let Some(ends) = &mut ends {
                ends.push(out.len());
            }
            if row == 0 {
                // Rows are much alike: grow once instead of step by step.
                out.reserve((out.len() - before) * batch.num_rows() * 5 / 4);
            }
        }
        Ok(())
    }
}
