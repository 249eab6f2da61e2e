//! What the keyed steps share while they run: keys as bytes, and the note that something waits for time to pass.

use crate::RenderCx;
use arrow::array::{ArrayRef, UInt32Array};
use arrow::datatypes::{DataType, SchemaRef};
use arrow::row::{RowConverter, Rows as EncodedRows, SortField};
use engine_dataflow::exchange::{group_of, hash_rows};
use engine_dataflow::{KeyGroups, Rows, StepOutput};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// The key columns of a step: equal keys have equal bytes.
pub(crate) struct Keys {
    places: Vec<usize>,
    types: Vec<DataType>,
    encoder: RowConverter,
}

impl Keys {
    /// The keys made of these columns of an input.
    pub(crate) fn new(names: &[String], input: &SchemaRef) -> Result<Self, String> {
        let place = |name: &String| input.index_of(name).map_err(|_| format!("column `{name}` is not in the input"));
        let places = names.iter().map(place).collect::<Result<Vec<_>, _>>()?;
        let types: Vec<DataType> = places.iter().map(|at| input.field(*at).data_type().clone()).collect();
        let fields = types.iter().map(|of_key| SortField::new(of_key.clone())).collect();
        Ok(Keys { places, types, encoder: RowConverter::new(fields).map_err(|error| error.to_string())? })
    }

    /// The types of the columns.
    pub(crate) fn types(&self) -> Vec<DataType> {
        self.types.clone()
    }

    /// The key of each row.
    pub(crate) fn encode(&self, rows: &Rows) -> RowKeys {
        let columns: Vec<ArrayRef> = self.places.iter().map(|at| rows.batch.column(*at).clone()).collect();
        let encoded = || {
            self.encoder
                .convert_columns(&columns)
                .unwrap_or_else(|error| panic!("key columns changed their types: {error}"))
        };
        RowKeys((!columns.is_empty()).then(encoded))
    }

    /// The columns of encoded keys.
    pub(crate) fn decode<'a>(&self, keys: impl IntoIterator<Item = &'a [u8]>) -> Vec<ArrayRef> {
        if self.places.is_empty() {
            return Vec::new();
        }
        let parser = self.encoder.parser();
        self.encoder
            .convert_rows(keys.into_iter().map(|key| parser.parse(key)))
            .unwrap_or_else(|error| panic!("a key can't be read back: {error}"))
    }
}

/// How the groups of keys are found that the row format has encoded as these types: by the hash that the exchange goes by.
pub(crate) fn key_groups(types: Vec<DataType>) -> KeyGroups {
    Box::new(move |keys| {
        if types.is_empty() {
            return Ok(vec![0; keys.len()]);
        }
        let fields = types.iter().map(|of_key| SortField::new(of_key.clone())).collect();
        let encoder = RowConverter::new(fields).map_err(|error| error.to_string())?;
        let parser = encoder.parser();
        let columns = encoder.convert_rows(keys.iter().map(|key| parser.parse(key)));
        let hashes = hash_rows(&columns.map_err(|error| error.to_string())?, keys.len());
        Ok(hashes.into_iter().map(group_of).collect())
    })
}

/// Lets a step with the fields `store` and `keys` (and the method `restored`, which takes up a slot that was put back) be
/// written down.
macro_rules! kept_by_key {
    ($step:ty, |$of:ident| $keys:expr) => {
        impl engine_dataflow::StepState for $step {
            fn freeze(&mut self) {
                self.store.freeze();
            }

            fn drain(&mut self, bytes: usize, visit: &mut dyn FnMut(engine_state::Change<'_>)) -> bool {
                self.store.drain(bytes, visit)
            }

            fn restore(&mut self, key: &[u8], slice: i64, state: &[u8]) -> Result<(), String> {
                self.store.restore(key, slice, state)?;
                if let Some(slot) = self.store.find(key, slice) {
                    self.restored(slot, key, slice);
                }
                Ok(())
            }

            fn key_groups(&self) -> engine_dataflow::KeyGroups {
                let $of = self;
                crate::keyed::key_groups($keys)
            }
        }
    };
}
pub(crate) use kept_by_key;

/// The keys of the rows of a batch; none where the key has no columns, so that all rows have the same.
pub(crate) struct RowKeys(Option<EncodedRows>);

impl RowKeys {
    /// The key of a row.
    #[inline]
    pub(crate) fn get(&self, row: usize) -> &[u8] {
        self.0.as_ref().map_or(&[], |keys| keys.row(row).data())
    }
}

/// The output of rows that came too late for a step.
pub(crate) struct LatePort {
    port: usize,
    /// Its columns; `None` where nobody reads it.
    columns: Option<Vec<usize>>,
}

impl LatePort {
    /// The output at a port.
    pub(crate) fn new(cx: &RenderCx<'_>, port: usize) -> Result<Self, String> {
        LatePort::of_input(cx, 0, port)
    }

    /// The output at a port of the late rows of one of several inputs.
    pub(crate) fn of_input(cx: &RenderCx<'_>, input: usize, port: usize) -> Result<Self, String> {
        let input = cx.inputs.get(input).ok_or("a step without that input")?;
        let read = cx.read.get(port).copied().unwrap_or(false);
        let wanted = cx.wanted.get(port).filter(|_| read);
        let places = |wanted: &engine_plan::Columns| {
            (0..input.fields().len()).filter(|at| wanted.contains(input.field(*at).name())).collect()
        };
        Ok(LatePort { port, columns: wanted.map(places) })
    }

    /// Puts these rows of a batch out, and counts them.
    pub(crate) fn give(&self, rows: &Rows, late: Vec<u32>, out: &mut StepOutput) {
        out.late += late.len() as u64;
        let Some(columns) = &self.columns else {
            out.dropped += late.len() as u64;
            return;
        };
        if late.is_empty() {
            return;
        }
        let mut rows = rows.take(&UInt32Array::from(late));
        rows.batch = rows.batch.project(columns).unwrap_or(rows.batch);
        out.give(self.port, rows);
    }
}

/// A step's part in what waits for time to pass: as long as any does, silent sources let event time go on.
pub(crate) struct Waiting {
    all: Arc<AtomicU64>,
    counted: bool,
}

impl Waiting {
    /// Nothing waits yet.
    pub(crate) fn new(cx: &RenderCx<'_>) -> Self {
        Waiting { all: cx.waiting_for_time.clone(), counted: false }
    }

    /// Says whether something waits now.
    pub(crate) fn set(&mut self, waits: bool) {
        if std::mem::replace(&mut self.counted, waits) != waits {
            match waits {
                true => self.all.fetch_add(1, Ordering::Relaxed),
                false => self.all.fetch_sub(1, Ordering::Relaxed),
            };
        }
    }
}
