//! Lines as they are: one column of text.

use super::columns::Column;
use super::{RecordDecoder, reasons};
use arrow::array::ArrayRef;
use arrow::datatypes::Field;
use engine_base::RowError;
use std::sync::Arc;

/// The name of the one column.
pub const LINE: &str = "line";

/// Puts each record into a column of text; a carriage return at its end is not part of it.
#[derive(Debug)]
pub struct RawDecoder {
    /// `None` where nobody reads it: then records are counted and not looked at.
    column: Option<Column>,
    rows: usize,
}

impl RawDecoder {
    /// A decoder into the column, if it is asked for.
    pub fn new(columns: &[Arc<Field>]) -> Result<Self, String> {
        Ok(RawDecoder { column: columns.first().map(Column::new).transpose()?, rows: 0 })
    }
}

impl RecordDecoder for RawDecoder {
    fn decode(&mut self, record: &[u8]) -> Result<(), RowError> {
        if let Some(column) = &mut self.column {
            let line = record.strip_suffix(b"\r").unwrap_or(record);
            if let Err(error) = std::str::from_utf8(line) {
                return Err(RowError::new(reasons::DECODE, format!("not UTF-8, at byte {}", error.valid_up_to())));
            }
            column.push_bytes(line);
        }
        self.rows += 1;
        Ok(())
    }

    fn rows(&self) -> usize {
        self.rows
    }

    fn finish(&mut self) -> Vec<ArrayRef> {
        self.rows = 0;
        self.column.iter_mut().map(Column::finish).collect()
    }
}
