//! The columns of rows that are kept, and rows made of them again.

use super::slot::Facts;
use crate::render::assemble;
use arrow::array::{ArrayRef, BinaryArray, new_null_array};
use arrow::datatypes::{Field, Schema, SchemaRef};
use arrow::row::{RowConverter, Rows as EncodedRows, SortField};
use engine_dataflow::{Positions, Rows, Times};
use engine_plan::Columns;
use std::sync::Arc;

/// The columns of the input that are kept.
pub(super) struct Kept {
    /// Their places in the input.
    places: Vec<usize>,
    fields: Vec<Field>,
    /// None where no column is kept.
    encoder: Option<RowConverter>,
    /// A row of nulls.
    nulls: Box<[u8]>,
}

impl Kept {
    /// These columns of an input.
    pub(super) fn new(input: &SchemaRef, names: &Columns) -> Result<Kept, String> {
        let places: Vec<usize> =
            (0..input.fields().len()).filter(|at| names.contains(input.field(*at).name())).collect();
        let fields: Vec<Field> = places.iter().map(|at| input.field(*at).clone()).collect();
        let sorts = fields.iter().map(|field| SortField::new(field.data_type().clone())).collect();
        let encoder = (!fields.is_empty()).then(|| RowConverter::new(sorts)).transpose();
        let encoder = encoder.map_err(|error| error.to_string())?;
        let mut kept = Kept { places, fields, encoder, nulls: Box::default() };
        let nulls: Vec<ArrayRef> = kept.fields.iter().map(|field| new_null_array(field.data_type(), 1)).collect();
        if let Some(nulls) = kept.encoded(&nulls) {
            kept.nulls = nulls.row(0).data().into();
        }
        Ok(kept)
    }

    /// The place among the kept columns.
    pub(super) fn place(&self, name: &str) -> Result<usize, String> {
        let place = self.fields.iter().position(|field| field.name() == name);
        place.ok_or_else(|| format!("column `{name}` is not in the input"))
    }

    /// The kept columns under other names. All may be null: of rows that are missing.
    pub(super) fn named(&self, name: impl Fn(&str) -> String) -> Vec<Field> {
        let named = |field: &Field| field.clone().with_name(name(field.name())).with_nullable(true);
        self.fields.iter().map(named).collect()
    }

    fn encoded(&self, columns: &[ArrayRef]) -> Option<EncodedRows> {
        let encoded = self.encoder.as_ref()?.convert_columns(columns);
        Some(encoded.unwrap_or_else(|error| panic!("columns changed their types: {error}")))
    }

    /// What is kept of rows.
    pub(super) fn encode(&self, rows: &Rows) -> Option<EncodedRows> {
        let columns: Vec<ArrayRef> = self.places.iter().map(|at| rows.batch.column(*at).clone()).collect();
        self.encoded(&columns)
    }

    /// The kept columns of rows; those that are missing are null.
    pub(super) fn decode<'a>(&self, rows: impl IntoIterator<Item = Option<&'a Facts>>) -> Vec<ArrayRef> {
        let Some(encoder) = &self.encoder else { return Vec::new() };
        let parser = encoder.parser();
        let values = rows.into_iter().map(|facts| parser.parse(facts.map_or(&*self.nulls, |facts| &facts.values)));
        encoder.convert_rows(values).unwrap_or_else(|error| panic!("a row can't be read back: {error}"))
    }

    /// Rows again, with the kept columns.
    pub(super) fn rows(&self, facts: &[&Facts]) -> Rows {
        let schema: SchemaRef = Arc::new(Schema::new(self.named(str::to_owned)));
        let columns = self.decode(facts.iter().map(|facts| Some(*facts)));
        rows_with(facts, schema, columns)
    }
}

/// Rows with other columns.
pub(super) fn rows_with(facts: &[&Facts], schema: SchemaRef, columns: Vec<ArrayRef>) -> Rows {
    let number = |facts: &Facts, from: usize| {
        let bytes = facts.place.get(from..from + 8).and_then(|bytes| bytes.try_into().ok());
        bytes.map_or(0, u64::from_be_bytes)
    };
    Rows {
        batch: assemble(&schema, columns, facts.len()),
        positions: Positions::Mixed {
            origins: facts.iter().map(|facts| number(facts, 0)).collect::<Vec<_>>().into(),
            offsets: facts.iter().map(|facts| number(facts, 8)).collect::<Vec<_>>().into(),
            suffixes: Some(BinaryArray::from_iter_values(
                facts.iter().map(|facts| facts.place.get(16..).unwrap_or_default()),
            )),
        },
        ingest_ns: Times::Each(facts.iter().map(|facts| facts.ingest_ns).collect()),
        born_ns: Times::Each(facts.iter().map(|facts| facts.ingest_ns).collect()),
        event_ns: Some(Times::Each(facts.iter().map(|facts| facts.time_ns).collect())),
        removes: None,
    }
}

/// The bytes of a row's position, which order as positions do.
pub(super) fn place_of(rows: &Rows, row: usize) -> Box<[u8]> {
    let position = rows.position(row);
    [&position.origin.to_be_bytes()[..], &position.offset.to_be_bytes(), &position.suffix].concat().into()
}
