//! Choosing rows: filter, take and slice that keep the hidden columns right, and stay free where nothing changes.
//!
//! Offsets stay a range while the rows that are left are consecutive, times stay one value while they are one.

use crate::rows::{Positions, RowPosition, Rows, Times};
use arrow::array::{
    Array, ArrayRef, ArrowPrimitiveType, BinaryBuilder, BooleanArray, PrimitiveArray, RecordBatch, UInt32Array,
};
use arrow::array::{RecordBatchOptions, cast::AsArray};
use arrow::buffer::{BooleanBuffer, ScalarBuffer};
use arrow::compute::{FilterBuilder, FilterPredicate, prep_null_mask_filter, take};
use arrow::datatypes::{Int64Type, UInt64Type};
use engine_base::StepId;
use xxhash_rust::xxh3::{xxh3_64, xxh3_64_with_seed};

/// Why Arrow can't refuse here: filter and take are defined for every type of column that the language has.
const EVERY_TYPE: &str = "arrow filters and takes every column type of the language";

impl Rows {
    /// The same rows with other visible columns. `batch` must have as many rows.
    #[must_use]
    pub fn with_batch(&self, batch: RecordBatch) -> Rows {
        debug_assert_eq!(batch.num_rows(), self.num_rows(), "a batch of other rows");
        Rows {
            batch,
            positions: self.positions.clone(),
            ingest_ns: self.ingest_ns.clone(),
            born_ns: self.born_ns.clone(),
            event_ns: self.event_ns.clone(),
            removes: self.removes.clone(),
        }
    }

    /// The rows for which the mask is true; null is false. Copies nothing where all or none are.
    #[must_use]
    pub fn filter(&self, mask: &BooleanArray) -> Rows {
        debug_assert_eq!(mask.len(), self.num_rows(), "a mask for other rows");
        let kept = mask.true_count();
        if kept == self.num_rows() {
            return self.clone();
        }
        if kept == 0 {
            return self.slice(0, 0);
        }
        let mask = if mask.null_count() > 0 { prep_null_mask_filter(mask) } else { mask.clone() };
        if let Some(first) = consecutive(&mask, kept) {
            return self.slice(first, kept);
        }
        let predicate = FilterBuilder::new(&mask).optimize().build();
        Rows {
            batch: predicate.filter_record_batch(&self.batch).expect(EVERY_TYPE),
            positions: self.positions.filter(&mask, &predicate),
            ingest_ns: self.ingest_ns.filter(&predicate),
            born_ns: self.born_ns.filter(&predicate),
            event_ns: self.event_ns.as_ref().map(|times| times.filter(&predicate)),
            removes: self.removes.as_ref().map(|removes| filter_bits(removes, &predicate)),
        }
    }

    /// The rows at these indices, in this order, each as often as it is named. No index may be null or out of range.
    #[must_use]
    pub fn take(&self, indices: &UInt32Array) -> Rows {
        Rows {
            batch: self.take_batch(indices),
            positions: self.positions.take(indices),
            ingest_ns: self.ingest_ns.take(indices),
            born_ns: self.born_ns.take(indices),
            event_ns: self.event_ns.as_ref().map(|times| times.take(indices)),
            removes: self.removes.as_ref().map(|removes| take_bits(removes, indices)),
        }
    }

    fn take_batch(&self, indices: &UInt32Array) -> RecordBatch {
        let columns: Vec<ArrayRef> =
            self.batch.columns().iter().map(|column| take(column, indices, None).expect(EVERY_TYPE)).collect();
        let options = RecordBatchOptions::new().with_row_count(Some(indices.len()));
        RecordBatch::try_new_with_options(self.batch.schema(), columns, &options).expect(EVERY_TYPE)
    }

    /// `len` rows from row `from`, without copying.
    #[must_use]
    pub fn slice(&self, from: usize, len: usize) -> Rows {
        Rows {
            batch: self.batch.slice(from, len),
            positions: self.positions.slice(from, len),
            ingest_ns: self.ingest_ns.slice(from, len),
            born_ns: self.born_ns.slice(from, len),
            event_ns: self.event_ns.as_ref().map(|times| times.slice(from, len)),
            removes: self.removes.as_ref().map(|removes| removes.slice(from, len)),
        }
    }

    /// The place of a row.
    pub fn position(&self, row: usize) -> RowPosition {
        let (origin, offset) = self.positions.source(row);
        RowPosition { origin, offset, suffix: self.positions.suffix(row).into() }
    }

    /// A number that is the same for a row in every run, on any worker and in any batch: the seed of its random
    /// functions.
    pub fn seed(&self, row: usize) -> u64 {
        let (origin, offset) = self.positions.source(row);
        let mut bytes = [0u8; 16];
        bytes[..8].copy_from_slice(&origin.to_be_bytes());
        bytes[8..].copy_from_slice(&offset.to_be_bytes());
        let seed = xxh3_64(&bytes);
        match self.positions.suffix(row) {
            [] => seed,
            suffix => xxh3_64_with_seed(suffix, seed),
        }
    }

    /// Appends (step, input, ordinal of the row) to each position: what a step does that copies or expands rows, so
    /// that positions stay unique and their order is that of the rows.
    pub fn extend_positions(&mut self, step: StepId, input: u16, ordinal: impl Fn(usize) -> u32) {
        let rows = self.num_rows();
        let mut origins = Vec::with_capacity(rows);
        let mut offsets = Vec::with_capacity(rows);
        let mut suffixes = BinaryBuilder::with_capacity(rows, rows * 10);
        let mut suffix = Vec::new();
        for row in 0..rows {
            let (origin, offset) = self.positions.source(row);
            origins.push(origin);
            offsets.push(offset);
            suffix.clear();
            suffix.extend_from_slice(self.positions.suffix(row));
            suffix.extend_from_slice(&step.0.to_be_bytes());
            suffix.extend_from_slice(&input.to_be_bytes());
            suffix.extend_from_slice(&ordinal(row).to_be_bytes());
            suffixes.append_value(&suffix);
        }
        let suffixes = Some(suffixes.finish());
        self.positions = Positions::Mixed { origins: origins.into(), offsets: offsets.into(), suffixes };
    }
}

fn filter_bits(bits: &BooleanBuffer, predicate: &FilterPredicate) -> BooleanBuffer {
    let filtered = predicate.filter(&BooleanArray::new(bits.clone(), None)).expect(EVERY_TYPE);
    filtered.as_boolean().values().clone()
}

fn take_bits(bits: &BooleanBuffer, indices: &UInt32Array) -> BooleanBuffer {
    indices.values().iter().map(|row| bits.value(*row as usize)).collect()
}

/// The first true row, where the `kept` true rows stand one after the other.
fn consecutive(mask: &BooleanArray, kept: usize) -> Option<usize> {
    let first = mask.values().set_indices().next()?;
    let last = first.checked_add(kept - 1)?;
    (last < mask.len() && mask.values().slice(first, kept).count_set_bits() == kept).then_some(first)
}

/// The values of a buffer that a predicate keeps, by Arrow's own kernels.
fn filter_buffer<T: ArrowPrimitiveType>(
    values: &ScalarBuffer<T::Native>,
    predicate: &FilterPredicate,
) -> ScalarBuffer<T::Native> {
    let array = PrimitiveArray::<T>::new(values.clone(), None);
    predicate.filter(&array).expect(EVERY_TYPE).as_primitive::<T>().values().clone()
}

fn take_buffer<T: Copy + arrow::datatypes::ArrowNativeType>(
    values: &ScalarBuffer<T>,
    indices: &UInt32Array,
) -> ScalarBuffer<T> {
    indices.values().iter().map(|row| values[*row as usize]).collect()
}

impl Times {
    fn filter(&self, predicate: &FilterPredicate) -> Times {
        match self {
            Times::One(value) => Times::One(*value),
            Times::Each(values) => Times::Each(filter_buffer::<Int64Type>(values, predicate)),
        }
    }

    fn take(&self, indices: &UInt32Array) -> Times {
        match self {
            Times::One(value) => Times::One(*value),
            Times::Each(values) => Times::Each(take_buffer(values, indices)),
        }
    }

    fn slice(&self, from: usize, len: usize) -> Times {
        match self {
            Times::One(value) => Times::One(*value),
            Times::Each(values) => Times::Each(values.slice(from, len)),
        }
    }
}

impl Positions {
    /// A row's origin and offset.
    pub fn source(&self, row: usize) -> (u64, u64) {
        match self {
            Positions::Range { origin, first } => (*origin, first + row as u64),
            Positions::Offsets { origin, offsets } => (*origin, offsets[row]),
            Positions::Mixed { origins, offsets, .. } => (origins[row], offsets[row]),
        }
    }

    /// What expanding steps appended to a row's position.
    pub fn suffix(&self, row: usize) -> &[u8] {
        match self {
            Positions::Mixed { suffixes: Some(suffixes), .. } => suffixes.value(row),
            _ => &[],
        }
    }

    fn filter(&self, mask: &BooleanArray, predicate: &FilterPredicate) -> Positions {
        match self {
            Positions::Range { origin, first } => Positions::Offsets {
                origin: *origin,
                offsets: mask.values().set_indices().map(|row| first + row as u64).collect(),
            },
            Positions::Offsets { origin, offsets } => {
                Positions::Offsets { origin: *origin, offsets: filter_buffer::<UInt64Type>(offsets, predicate) }
            }
            Positions::Mixed { origins, offsets, suffixes } => Positions::Mixed {
                origins: filter_buffer::<UInt64Type>(origins, predicate),
                offsets: filter_buffer::<UInt64Type>(offsets, predicate),
                suffixes: suffixes
                    .as_ref()
                    .map(|suffixes| predicate.filter(suffixes).expect(EVERY_TYPE).as_binary().clone()),
            },
        }
    }

    fn take(&self, indices: &UInt32Array) -> Positions {
        match self {
            Positions::Range { origin, first } => Positions::Offsets {
                origin: *origin,
                offsets: indices.values().iter().map(|row| first + u64::from(*row)).collect(),
            },
            Positions::Offsets { origin, offsets } => {
                Positions::Offsets { origin: *origin, offsets: take_buffer(offsets, indices) }
            }
            Positions::Mixed { origins, offsets, suffixes } => Positions::Mixed {
                origins: take_buffer(origins, indices),
                offsets: take_buffer(offsets, indices),
                suffixes: suffixes
                    .as_ref()
                    .map(|suffixes| take(suffixes, indices, None).expect(EVERY_TYPE).as_binary().clone()),
            },
        }
    }

    fn slice(&self, from: usize, len: usize) -> Positions {
        match self {
            Positions::Range { origin, first } => Positions::Range { origin: *origin, first: first + from as u64 },
            Positions::Offsets { origin, offsets } => {
                Positions::Offsets { origin: *origin, offsets: offsets.slice(from, len) }
            }
            Positions::Mixed { origins, offsets, suffixes } => Positions::Mixed {
                origins: origins.slice(from, len),
                offsets: offsets.slice(from, len),
                suffixes: suffixes.as_ref().map(|suffixes| suffixes.slice(from, len)),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::array::Int64Array;
    use arrow::datatypes::{DataType, Field, Schema};
    use std::sync::Arc;

    /// Ten rows of each form of hidden columns; the visible column holds the row's number.
    fn samples() -> Vec<Rows> {
        let schema = Arc::new(Schema::new(vec![Field::new("n", DataType::Int64, false)]));
        let batch = RecordBatch::try_new(schema, vec![Arc::new(Int64Array::from_iter_values(0..10))]).unwrap();
        let range = Rows {
            batch,
            positions: Positions::Range { origin: 7, first: 100 },
            ingest_ns: Times::One(5),
            born_ns: Times::Each((0..10).collect()),
            event_ns: Some(Times::Each((20..30).collect())),
            removes: Some((0..10).map(|row| row % 3 == 0).collect()),
        };
        let mut offsets = range.clone();
        offsets.positions = Positions::Offsets { origin: 7, offsets: (0..10).map(|n| 100 + n * n).collect() };
        let mut mixed = offsets.clone();
        mixed.extend_positions(StepId(3), 0, |row| row as u32 % 2);
        let mut twice = mixed.clone();
        twice.extend_positions(StepId(4), 1, |row| row as u32);
        vec![range, offsets, mixed, twice]
    }

    /// Row `at[i]` of `all` is row `i` of `some`, hidden columns included.
    fn check(all: &Rows, some: &Rows, at: &[usize]) {
        assert_eq!(some.num_rows(), at.len());
        for (row, from) in at.iter().enumerate() {
            assert_eq!(some.position(row), all.position(*from));
            assert_eq!(some.seed(row), all.seed(*from));
            assert_eq!(some.ingest_ns.get(row), all.ingest_ns.get(*from));
            assert_eq!(some.born_ns.get(row), all.born_ns.get(*from));
            assert_eq!(
                some.event_ns.as_ref().map(|times| times.get(row)),
                all.event_ns.as_ref().map(|times| times.get(*from))
            );
            let numbers = some.batch.column(0).as_primitive::<Int64Type>();
            assert_eq!(numbers.value(row), *from as i64);
        }
    }

    #[test]
    fn hidden_columns_follow_their_rows() {
        for rows in samples() {
            for at in [vec![], vec![0], vec![3, 4, 5], vec![0, 2, 9], (0..10).collect::<Vec<_>>()] {
                let mask: BooleanArray = (0..10).map(|row| Some(at.contains(&row))).collect();
                check(&rows, &rows.filter(&mask), &at);
                let nulls: BooleanArray = (0..10).map(|row| at.contains(&row).then_some(true)).collect();
                check(&rows, &rows.filter(&nulls), &at);
            }
            check(&rows, &rows.take(&UInt32Array::from(vec![9, 0, 0, 4])), &[9, 0, 0, 4]);
            check(&rows, &rows.slice(2, 3), &[2, 3, 4]);
            let odd: BooleanArray = (0..5).map(|row| Some(row % 2 == 1)).collect();
            check(&rows, &rows.slice(5, 5).filter(&odd), &[6, 8]);
        }
    }

    #[test]
    fn nothing_is_copied_that_need_not_be() {
        let rows = &samples()[0];
        let middle: BooleanArray = (0..10).map(|row| Some((4..7).contains(&row))).collect();
        assert_eq!(rows.filter(&middle).positions, Positions::Range { origin: 7, first: 104 });
        let all = BooleanArray::from(vec![true; 10]);
        assert!(Arc::ptr_eq(rows.filter(&all).batch.column(0), rows.batch.column(0)));
    }

    #[test]
    fn rows_without_columns_keep_their_number() {
        let mut rows = samples().remove(0);
        rows.batch = rows.batch.project(&[]).unwrap();
        let mask: BooleanArray = (0..10).map(|row| Some(row % 3 == 0)).collect();
        assert_eq!(rows.filter(&mask).num_rows(), 4);
        assert_eq!(rows.take(&UInt32Array::from(vec![1, 1])).num_rows(), 2);
        assert_eq!(rows.slice(1, 2).num_rows(), 2);
    }

    #[test]
    fn seeds_are_stable_and_tell_rows_apart() {
        let samples = samples();
        let rows = || samples.iter().flat_map(|rows| (0..10).map(move |row| (rows.position(row), rows.seed(row))));
        let seeds: std::collections::BTreeSet<u64> = rows().map(|(_, seed)| seed).collect();
        let pairs: std::collections::BTreeSet<(RowPosition, u64)> = rows().collect();
        let positions: std::collections::BTreeSet<RowPosition> = rows().map(|(position, _)| position).collect();
        assert_eq!(pairs.len(), positions.len(), "one seed a position");
        assert_eq!(seeds.len(), positions.len(), "another seed for another position");
    }

    #[test]
    fn positions_order_as_rows_do() {
        let mut rows = samples()[0].take(&UInt32Array::from(vec![0, 0, 1, 1]));
        rows.extend_positions(StepId(1), 0, |row| row as u32 % 2);
        let positions: Vec<RowPosition> = (0..4).map(|row| rows.position(row)).collect();
        assert!(positions.windows(2).all(|pair| pair[0] < pair[1]));
    }
}
