//! Rows in the order of event time: each waits with its key until the watermark has passed it.
//!
//! ```text
//! rows as they come ─▶ pending, by key (in the store) ─▶ due: by event time, then position ─▶ the step, as if they came so
//!        └ behind the watermark before their epoch: late               └ when the watermark has passed them
//! ```
//!
//! Rows of one event time become due in the same epoch, since a watermark passes all of them at once. So what the step sees is
//! ordered over all epochs, and does not depend on how rows came.

use super::expire::Silent;
use super::tree::{KeyRows, Shape};
use crate::codec::{Bytes, put, put_bytes};
use crate::keyed::RowKeys;
use crate::render::assemble;
use arrow::array::{ArrayRef, BinaryArray};
use arrow::datatypes::SchemaRef;
use arrow::row::{RowConverter, SortField};
use engine_dataflow::{Positions, RowPosition, Rows, Times};
use engine_state::{SlotId, SlotStore};
use std::collections::{BTreeMap, VecDeque};

/// A row that waits, without its position and event time.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Pending {
    ingest_ns: i64,
    born_ns: i64,
    columns: Box<[u8]>,
}

impl Pending {
    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        put(self.ingest_ns as u64, out);
        put(self.born_ns as u64, out);
        put_bytes(&self.columns, out);
    }

    pub(super) fn decode(bytes: &mut Bytes<'_>) -> Result<Self, String> {
        let (ingest_ns, born_ns) = (bytes.number()? as i64, bytes.number()? as i64);
        Ok(Pending { ingest_ns, born_ns, columns: bytes.bytes()?.into() })
    }

    /// Bytes it holds, about.
    pub(super) fn bytes(&self) -> usize {
        size_of::<(i64, RowPosition, Pending)>() + self.columns.len()
    }
}

/// The rows of a step that wait, and those that are due.
pub(super) struct InOrder {
    schema: SchemaRef,
    /// Whole rows as bytes; `None` where they have no columns.
    encoder: Option<RowConverter>,
    /// The slots of the keys of rows that wait, by the time that they wait for.
    times: BTreeMap<i64, Vec<SlotId>>,
    due: VecDeque<((i64, RowPosition), Pending)>,
}

impl InOrder {
    /// Nothing waits yet of an input.
    pub(super) fn new(input: &SchemaRef) -> Result<Self, String> {
        let fields: Vec<SortField> =
            input.fields().iter().map(|field| SortField::new(field.data_type().clone())).collect();
        let encoder = (!fields.is_empty()).then(|| RowConverter::new(fields)).transpose();
        Ok(InOrder {
            schema: input.clone(),
            encoder: encoder.map_err(|error| error.to_string())?,
            times: BTreeMap::new(),
            due: VecDeque::new(),
        })
    }

    /// Whether any row waits for event time to pass.
    pub(super) fn waits(&self) -> bool {
        !self.times.is_empty()
    }

    /// Keeps the rows of a batch until they are due. Gives the numbers of those that come too late.
    pub(super) fn take(
        &mut self,
        rows: &Rows,
        keys: &RowKeys,
        late_ns: Option<i64>,
        store: &mut dyn SlotStore<KeyRows>,
        shape: Shape,
        silent: &mut Option<Silent>,
    ) -> Vec<u32> {
        let encode = |encoder: &RowConverter| {
            let encoded = encoder.convert_columns(rows.batch.columns());
            encoded.unwrap_or_else(|error| panic!("columns changed their types: {error}"))
        };
        let encoded = self.encoder.as_ref().map(encode);
        let mut late = Vec::new();
        for row in 0..rows.num_rows() {
            // The plan refuses inputs without event time, and the source makes a null one an error row.
            let time_ns = rows.event_ns.as_ref().map_or(0, |times| times.get(row));
            if late_ns.is_some_and(|late_ns| time_ns < late_ns) {
                late.push(row as u32);
                continue;
            }
            let columns = encoded.as_ref().map_or(Box::from([]), |encoded| encoded.row(row).data().into());
            let pending = Pending { ingest_ns: rows.ingest_ns.get(row), born_ns: rows.born_ns.get(row), columns };
            let mut new = false;
            let make = &mut || {
                new = true;
                KeyRows::new(shape)
            };
            let id = store.find_or_insert(keys.get(row), 0, make);
            if new && let Some(silent) = silent {
                silent.add(id, time_ns);
            }
            if let Some(key) = store.get_mut(id) {
                key.wait(time_ns, rows.position(row), pending);
                self.times.entry(time_ns).or_default().push(id);
            }
        }
        late
    }

    /// Makes the rows due that the watermark has passed.
    pub(super) fn pass(&mut self, watermark_ns: i64, store: &mut dyn SlotStore<KeyRows>) {
        // At the end of the input nothing is waited for.
        let bound_ns = (watermark_ns < i64::MAX).then_some(watermark_ns);
        let later = bound_ns.map_or_else(BTreeMap::new, |bound_ns| self.times.split_off(&bound_ns));
        let passed = std::mem::replace(&mut self.times, later);
        for id in passed.into_values().flatten() {
            // A slot stands there once for each of its rows; the first gives them all.
            if let Some(key) = store.get_mut(id) {
                self.due.extend(key.ripe(bound_ns));
            }
        }
        self.due.make_contiguous().sort_unstable_by(|a, b| a.0.cmp(&b.0));
    }

    /// The next rows that are due, at most so many.
    pub(super) fn portion(&mut self, rows_max: usize) -> Option<Rows> {
        let count = self.due.len().min(rows_max);
        if count == 0 {
            return None;
        }
        let (mut origins, mut offsets, mut suffixes) = (Vec::new(), Vec::new(), Vec::new());
        let (mut times, mut ingest, mut born, mut columns) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        for ((time_ns, position), row) in self.due.drain(..count) {
            origins.push(position.origin);
            offsets.push(position.offset);
            suffixes.push(position.suffix);
            times.push(time_ns);
            ingest.push(row.ingest_ns);
            born.push(row.born_ns);
            columns.push(row.columns);
        }
        let decode = |encoder: &RowConverter| {
            let parser = encoder.parser();
            let decoded = encoder.convert_rows(columns.iter().map(|bytes| parser.parse(bytes)));
            decoded.unwrap_or_else(|error| panic!("a row that waited can't be read back: {error}"))
        };
        let columns: Vec<ArrayRef> = self.encoder.as_ref().map(decode).unwrap_or_default();
        let made = suffixes.iter().any(|suffix| !suffix.is_empty());
        let one = origins.iter().all(|origin| *origin == origins[0]);
        let positions = match one && !made {
            true => Positions::Offsets { origin: origins[0], offsets: offsets.into() },
            false => Positions::Mixed {
                origins: origins.into(),
                offsets: offsets.into(),
                suffixes: made.then(|| BinaryArray::from_iter_values(&suffixes)),
            },
        };
        Some(Rows {
            batch: assemble(&self.schema, columns, count),
            positions,
            ingest_ns: Times::Each(ingest.into()),
            born_ns: Times::Each(born.into()),
            event_ns: Some(Times::Each(times.into())),
            removes: None,
        })
    }

    /// Whether rows are due.
    pub(super) fn has_due(&self) -> bool {
        !self.due.is_empty()
    }

    /// Notes the rows of a key that was restored.
    pub(super) fn restored(&mut self, id: SlotId, key: &KeyRows) {
        for (time_ns, _) in key.pending() {
            self.times.entry(*time_ns).or_default().push(id);
        }
    }
}
