//! The rows of one side in an epoch: which are late or can't match, and the bytes of the others.

use super::slot::View;
use crate::RenderCx;
use crate::keyed::LatePort;
use arrow::array::{Array, ArrayRef};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Field, SchemaRef};
use arrow::row::{RowConverter, Rows as EncodedRows, SortField};
use engine_dataflow::{Rows, StepOutput};
use engine_plan::Columns;

/// A row of a batch of an epoch.
pub(super) type At = (u32, u32);

/// How the rows of a side are read.
pub(super) struct Reader {
    keys: Vec<usize>,
    key_types: Vec<DataType>,
    key_encoder: RowConverter,
    data: Vec<usize>,
    data_encoder: Option<RowConverter>,
    late: LatePort,
}

/// The rows of a side in an epoch.
#[derive(Default)]
pub(super) struct Taken {
    batches: Vec<Batch>,
    /// Those that may have a match, in canonical order.
    pub(super) rows: Vec<At>,
    /// Those whose key has a null.
    pub(super) unkeyed: Vec<At>,
}

struct Batch {
    rows: Rows,
    keys: EncodedRows,
    data: Option<EncodedRows>,
}

/// The columns of an input that are kept, in its order.
pub(super) fn kept_fields(input: &SchemaRef, kept: &Columns) -> Vec<Field> {
    input.fields().iter().filter(|field| kept.contains(field.name())).map(|field| field.as_ref().clone()).collect()
}

/// The row format of some columns; none where there are none.
pub(super) fn converter(fields: &[Field]) -> Result<Option<RowConverter>, String> {
    if fields.is_empty() {
        return Ok(None);
    }
    let fields = fields.iter().map(|field| SortField::new(field.data_type().clone())).collect();
    RowConverter::new(fields).map(Some).map_err(|error| error.to_string())
}

impl Reader {
    /// Reads an input: its key columns compared as these types, and of the others those that are kept.
    pub(super) fn new(
        cx: &RenderCx<'_>,
        side: usize,
        keys: &[String],
        key_types: &[DataType],
        kept: &Columns,
    ) -> Result<Self, String> {
        let input = cx.inputs.get(side).ok_or("a join with one input")?;
        let place = |name: &String| input.index_of(name).map_err(|_| format!("column `{name}` is not in the input"));
        let fields = key_types.iter().map(|ty| SortField::new(ty.clone())).collect();
        Ok(Reader {
            keys: keys.iter().map(place).collect::<Result<_, _>>()?,
            key_types: key_types.to_vec(),
            key_encoder: RowConverter::new(fields).map_err(|error| error.to_string())?,
            data: (0..input.fields().len()).filter(|at| kept.contains(input.field(*at).name())).collect(),
            data_encoder: converter(&kept_fields(input, kept))?,
            late: LatePort::of_input(cx, side, 1 + side)?,
        })
    }

    /// The types that the key columns are compared as.
    pub(super) fn key_types(&self) -> Vec<DataType> {
        self.key_types.clone()
    }

    /// Takes the rows of an epoch; the ones that are late are put out.
    pub(super) fn take(&self, batches: Vec<Rows>, is_late: &mut dyn FnMut(i64) -> bool, out: &mut StepOutput) -> Taken {
        let mut taken = Taken::default();
        for rows in batches {
            let number = taken.batches.len() as u32;
            let mut late = Vec::new();
            let has_null = self.has_null(&rows);
            for row in 0..rows.num_rows() {
                // The plan refuses inputs without event time, and the source makes a null one an error row.
                if is_late(time_of(&rows, row)) {
                    late.push(row as u32);
                } else if has_null.as_ref().is_some_and(|nulls| nulls[row]) {
                    taken.unkeyed.push((number, row as u32));
                } else {
                    taken.rows.push((number, row as u32));
                }
            }
            self.late.give(&rows, late, out);
            let keys = self.encode_keys(&rows);
            let data = self.data_encoder.as_ref().map(|encoder| {
                let columns: Vec<ArrayRef> = self.data.iter().map(|at| rows.batch.column(*at).clone()).collect();
                encode(encoder, &columns)
            });
            taken.batches.push(Batch { rows, keys, data });
        }
        taken
    }

    /// Which rows have a null in their key; none where no row has.
    fn has_null(&self, rows: &Rows) -> Option<Vec<bool>> {
        let nullable = self.keys.iter().map(|at| rows.batch.column(*at)).filter(|column| column.null_count() > 0);
        let columns: Vec<&ArrayRef> = nullable.collect();
        let any = |row: usize| columns.iter().any(|column| column.is_null(row));
        (!columns.is_empty()).then(|| (0..rows.num_rows()).map(any).collect())
    }

    fn encode_keys(&self, rows: &Rows) -> EncodedRows {
        let columns: Vec<ArrayRef> = self
            .keys
            .iter()
            .zip(&self.key_types)
            .map(|(at, ty)| {
                let column = rows.batch.column(*at);
                if column.data_type() == ty {
                    return column.clone();
                }
                cast(column, ty).unwrap_or_else(|error| panic!("a key can't be widened: {error}"))
            })
            .collect();
        encode(&self.key_encoder, &columns)
    }
}

fn encode(encoder: &RowConverter, columns: &[ArrayRef]) -> EncodedRows {
    encoder.convert_columns(columns).unwrap_or_else(|error| panic!("columns changed their types: {error}"))
}

fn time_of(rows: &Rows, row: usize) -> i64 {
    rows.event_ns.as_ref().map_or(0, |times| times.get(row))
}

impl Taken {
    /// The key of a row.
    pub(super) fn key(&self, (batch, row): At) -> &[u8] {
        self.batches[batch as usize].keys.row(row as usize).data()
    }

    /// A row's event time.
    pub(super) fn time_ns(&self, (batch, row): At) -> i64 {
        time_of(&self.batches[batch as usize].rows, row as usize)
    }

    /// When a row came into the world.
    pub(super) fn born_ns(&self, (batch, row): At) -> i64 {
        self.batches[batch as usize].rows.born_ns.get(row as usize)
    }

    /// A row.
    pub(super) fn view(&self, at: At) -> View<'_> {
        let (batch, row) = (&self.batches[at.0 as usize], at.1 as usize);
        let (origin, offset) = batch.rows.positions.source(row);
        View {
            time_ns: self.time_ns(at),
            origin,
            offset,
            suffix: batch.rows.positions.suffix(row),
            data: batch.data.as_ref().map_or(&[], |data| data.row(row).data()),
        }
    }
}
