//! What the steps on differential dataflow share: rows as bytes and back ([`engine_dataflow::changes`]).

use crate::RenderCx;
use crate::render::assemble;
use arrow::array::{ArrayRef, BinaryBuilder, new_null_array};
use arrow::datatypes::{Field, SchemaRef};
use arrow::row::{RowConverter, Rows as EncodedRows, SortField};
use engine_base::Diagnostic;
use engine_base::codes::plan as codes;
use engine_dataflow::changes::{Build, Sides};
use engine_dataflow::rows::made_by;
use engine_dataflow::{Positions, Rows, Times};
use engine_plan::{Columns, Cx, StreamType};
use std::sync::Arc;

/// Columns of an input as bytes: equal rows have equal bytes.
pub(crate) struct RowCodec {
    places: Vec<usize>,
    types: Vec<arrow::datatypes::DataType>,
    converter: RowConverter,
}

impl RowCodec {
    /// Of the columns with these names, in the order of the input.
    pub(crate) fn new(input: &SchemaRef, columns: impl Fn(&str) -> bool) -> Result<Self, String> {
        let places: Vec<usize> = (0..input.fields().len()).filter(|at| columns(input.field(*at).name())).collect();
        let types: Vec<_> = places.iter().map(|at| input.field(*at).data_type().clone()).collect();
        let fields = types.iter().map(|data_type| SortField::new(data_type.clone())).collect();
        let converter = RowConverter::new(fields).map_err(|error| error.to_string())?;
        Ok(RowCodec { places, types, converter })
    }

    /// The rows of a batch; `None` where they have no columns.
    pub(crate) fn encode(&self, rows: &Rows) -> Option<EncodedRows> {
        let columns: Vec<ArrayRef> = self.places.iter().map(|at| rows.batch.column(*at).clone()).collect();
        let encoded = || {
            self.converter
                .convert_columns(&columns)
                .unwrap_or_else(|error| panic!("columns changed their types: {error}"))
        };
        (!columns.is_empty()).then(encoded)
    }

    /// The columns of rows; where there is no row, they are null.
    pub(crate) fn decode<'a>(&self, rows: impl Iterator<Item = Option<&'a [u8]>> + Clone) -> Vec<ArrayRef> {
        if self.places.is_empty() {
            return Vec::new();
        }
        let parser = self.converter.parser();
        let decode = |rows: &mut dyn Iterator<Item = &'a [u8]>| {
            self.converter
                .convert_rows(rows.map(|row| parser.parse(row)))
                .unwrap_or_else(|error| panic!("a row can't be read back: {error}"))
        };
        if rows.clone().all(|row| row.is_some()) {
            return decode(&mut rows.flatten());
        }
        let nulls: Vec<ArrayRef> = self.types.iter().map(|data_type| new_null_array(data_type, 1)).collect();
        let null = self.converter.convert_columns(&nulls).unwrap_or_else(|error| panic!("nulls are rows: {error}"));
        let null = null.row(0).owned();
        let null: &[u8] = null.as_ref();
        let decoded = self.converter.convert_rows(rows.map(|row| parser.parse(row.unwrap_or(null))));
        decoded.unwrap_or_else(|error| panic!("a row can't be read back: {error}"))
    }
}

/// Puts changed rows together. `columns` gives those of the output, of rows that are there once for each time.
pub(crate) fn build(
    cx: &RenderCx<'_>,
    output: SchemaRef,
    mut columns: impl FnMut(&[&Sides]) -> Vec<ArrayRef> + 'static,
) -> Build {
    let step_id = cx.step_id;
    Box::new(move |epoch, now_ns, changes, out| {
        let mut all: Vec<&Sides> = Vec::with_capacity(changes.len());
        let mut removes: Vec<bool> = Vec::with_capacity(changes.len());
        let mut suffixes = BinaryBuilder::new();
        for (sides, count) in changes {
            for ordinal in 0..count.unsigned_abs() {
                all.push(sides);
                removes.push(*count < 0);
                suffixes.append_value(suffix(sides, *count > 0, ordinal));
            }
        }
        let count = all.len();
        if count == 0 {
            return;
        }
        let batch = assemble(&output, columns(&all), count);
        let positions = Positions::Mixed {
            origins: vec![made_by(step_id); count].into(),
            offsets: vec![epoch; count].into(),
            suffixes: Some(suffixes.finish()),
        };
        out.give(
            0,
            Rows {
                batch,
                positions,
                ingest_ns: Times::One(now_ns),
                born_ns: Times::One(now_ns),
                event_ns: None,
                removes: removes.contains(&true).then(|| removes.into_iter().collect()),
            },
        );
    })
}

/// What tells the changes of an epoch apart; in their order rows go before others come.
pub(crate) fn suffix(sides: &Sides, comes: bool, ordinal: usize) -> Box<[u8]> {
    let mut bytes = vec![u8::from(comes)];
    for side in [&sides.0, &sides.1].into_iter().flatten() {
        bytes.extend((side.len() as u32).to_be_bytes());
        bytes.extend(side);
    }
    bytes.extend((ordinal as u64).to_be_bytes());
    bytes.into()
}

/// The fields of a schema that are wanted.
pub(crate) fn wanted_of(schema: &SchemaRef, wanted: &Columns) -> SchemaRef {
    let fields: Vec<Arc<Field>> =
        schema.fields().iter().filter(|field| wanted.contains(field.name())).cloned().collect();
    Arc::new(arrow::datatypes::Schema::new(fields))
}

/// Whether the rows of an input can be kept and compared as bytes; a column of which that is not so is noted.
pub(crate) fn comparable(cx: &mut Cx<'_>, input: &StreamType) -> bool {
    let mut sound = true;
    for field in input.schema.fields() {
        let comparable = RowConverter::supports_fields(&[SortField::new(field.data_type().clone())]);
        if !comparable && !field.data_type().is_null() {
            let ty = engine_expr::type_name(field.data_type());
            let message = format!("`{}` is of type {ty}, whose values can't be told apart", field.name());
            let help =
                format!("drop it before, or make another column of it: `{{ type: map, drop: [{}] }}`", field.name());
            cx.push(Diagnostic::error(codes::UNHASHABLE_KEY, cx.component.kind_span, message).help(help));
            sound = false;
        }
    }
    sound
}
