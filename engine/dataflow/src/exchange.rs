//! The exchange by key: columns to hashes, hashes to workers, a batch to a batch for each worker.
//!
//! Hashes are the same on every machine and in every run, so that a key's state is found again by any process.

use crate::rows::Rows;
use arrow::array::{Array, ArrayRef, AsArray, UInt32Array};
use arrow::compute::SortOptions;
use arrow::datatypes::{
    DataType, Int8Type, Int16Type, Int32Type, Int64Type, TimestampNanosecondType, UInt8Type, UInt16Type, UInt32Type,
    UInt64Type,
};
use arrow::row::{RowConverter, SortField};
use timely::communication::Push;
use timely::dataflow::channels::Message;
use timely::dataflow::channels::pushers::exchange::Distributor;
use timely::progress::Stamp;
use xxhash_rust::xxh3::xxh3_64;

/// What a null hashes to.
const NULL_HASH: u64 = 0x9e37_79b9_7f4a_7c15;

/// A 64-bit finaliser with full avalanche (MurmurHash3's fmix64).
fn mix(mut value: u64) -> u64 {
    value ^= value >> 33;
    value = value.wrapping_mul(0xff51_afd7_ed55_8ccd);
    value ^= value >> 33;
    value = value.wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    value ^ (value >> 33)
}

/// One stable hash a row over the key columns. Rows with equal keys have equal hashes; nulls are equal to each other.
pub fn hash_rows(columns: &[ArrayRef], rows: usize) -> Vec<u64> {
    let mut hashes = vec![0u64; rows];
    for column in columns {
        combine(column, &mut hashes);
    }
    hashes
}

fn combine(column: &ArrayRef, hashes: &mut [u64]) {
    fn each(column: &dyn Array, hashes: &mut [u64], value: impl Fn(usize) -> u64) {
        for (row, hash) in hashes.iter_mut().enumerate() {
            let one = if column.is_null(row) { NULL_HASH } else { value(row) };
            *hash = mix(hash.rotate_left(23) ^ one);
        }
    }
    // Integers of all widths and texts of all layouts are equal where their values are: two inputs of a step may differ in them.
    match column.data_type() {
        DataType::Int8 => {
            let values = column.as_primitive::<Int8Type>().values();
            each(column, hashes, |row| i64::from(values[row]) as u64);
        }
        DataType::Int16 => {
            let values = column.as_primitive::<Int16Type>().values();
            each(column, hashes, |row| i64::from(values[row]) as u64);
        }
        DataType::UInt8 => {
            let values = column.as_primitive::<UInt8Type>().values();
            each(column, hashes, |row| u64::from(values[row]));
        }
        DataType::UInt16 => {
            let values = column.as_primitive::<UInt16Type>().values();
            each(column, hashes, |row| u64::from(values[row]));
        }
        DataType::UInt32 => {
            let values = column.as_primitive::<UInt32Type>().values();
            each(column, hashes, |row| u64::from(values[row]));
        }
        DataType::Int64 => {
            let values = column.as_primitive::<Int64Type>().values();
            each(column, hashes, |row| values[row] as u64);
        }
        DataType::Int32 => {
            let values = column.as_primitive::<Int32Type>().values();
            each(column, hashes, |row| values[row] as i64 as u64);
        }
        DataType::UInt64 => {
            let values = column.as_primitive::<UInt64Type>().values();
            each(column, hashes, |row| values[row]);
        }
        DataType::Timestamp(arrow::datatypes::TimeUnit::Nanosecond, _) => {
            let values = column.as_primitive::<TimestampNanosecondType>().values();
            each(column, hashes, |row| values[row] as u64);
        }
        DataType::Utf8 => {
            let values = column.as_string::<i32>();
            each(column, hashes, |row| xxh3_64(values.value(row).as_bytes()));
        }
        DataType::LargeUtf8 => {
            let values = column.as_string::<i64>();
            each(column, hashes, |row| xxh3_64(values.value(row).as_bytes()));
        }
        DataType::Utf8View => {
            let values = column.as_string_view();
            each(column, hashes, |row| xxh3_64(values.value(row).as_bytes()));
        }
        other => {
            // Any other type goes through Arrow's row format, which is stable and equal for equal values.
            let field = SortField::new_with_options(other.clone(), SortOptions::default());
            match RowConverter::new(vec![field])
                .and_then(|convert| convert.convert_columns(std::slice::from_ref(column)))
            {
                Ok(rows) => each(column, hashes, |row| xxh3_64(rows.row(row).as_ref())),
                // The plan refuses keys of types without a row format; should one come, one worker takes all its rows.
                Err(_) => each(column, hashes, |_| NULL_HASH),
            }
        }
    }
}

/// Into how many groups keys fall. Workers share the groups, so that the state of a key is found whatever their number.
pub const GROUPS: u16 = 1024;

/// The group of a key, by its hash.
pub fn group_of(hash: u64) -> u16 {
    (hash >> (64 - GROUPS.trailing_zeros())) as u16
}

/// The worker, of several, that has a group: each has groups that lie together, and as many as the others or one more.
pub fn worker_of(group: u16, workers: usize) -> usize {
    usize::from(group) * workers / usize::from(GROUPS)
}

/// The groups of a worker.
pub fn groups_of(worker: usize, workers: usize) -> std::ops::Range<u16> {
    let first = |worker: usize| (worker * usize::from(GROUPS)).div_ceil(workers) as u16;
    first(worker)..first(worker + 1)
}

/// Distributes rows to workers by their key columns; without key columns, all rows go to worker 0.
pub struct ByKey {
    key: Vec<String>,
    indices: Vec<Vec<u32>>,
}

impl ByKey {
    /// A distributor by the named columns over `workers` workers.
    pub fn new(key: Vec<String>, workers: usize) -> Self {
        ByKey { key, indices: vec![Vec::new(); workers] }
    }
}

impl Distributor<Rows> for ByKey {
    fn partition<T: Clone, P: Push<Message<T, Rows>>>(
        &mut self,
        container: &mut Rows,
        stamp: &Stamp<T>,
        pushers: &mut [P],
    ) {
        let mut rows = std::mem::take(container);
        if rows.num_rows() == 0 {
            return;
        }
        if pushers.len() == 1 || self.key.is_empty() {
            Message::push_at(&mut rows, stamp.clone(), &mut pushers[0]);
            return;
        }
        let columns: Vec<ArrayRef> =
            self.key.iter().filter_map(|name| rows.batch.column_by_name(name).cloned()).collect();
        let workers = pushers.len();
        for (row, hash) in hash_rows(&columns, rows.num_rows()).into_iter().enumerate() {
            self.indices[worker_of(group_of(hash), workers)].push(row as u32);
        }
        let total = rows.num_rows();
        for (indices, pusher) in self.indices.iter_mut().zip(pushers) {
            if indices.is_empty() {
                continue;
            }
            let mut part = if indices.len() == total {
                rows.clone()
            } else {
                rows.take(&UInt32Array::from(std::mem::take(indices)))
            };
            indices.clear();
            Message::push_at(&mut part, stamp.clone(), pusher);
        }
    }

    fn flush<T: Clone, P: Push<Message<T, Rows>>>(&mut self, _stamp: &Stamp<T>, _pushers: &mut [P]) {}
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::array::{Int64Array, StringArray};
    use std::sync::Arc;

    #[test]
    fn hashes_are_stable_and_tell_keys_apart() {
        let ids: ArrayRef = Arc::new(Int64Array::from(vec![Some(1), Some(2), None, Some(1)]));
        let names: ArrayRef = Arc::new(StringArray::from(vec!["a", "a", "a", "a"]));
        let hashes = hash_rows(&[ids, names], 4);
        assert_eq!(hashes[0], hashes[3]);
        assert_ne!(hashes[0], hashes[1]);
        assert_ne!(hashes[0], hashes[2]);
        // The value itself is part of the state's format: a change would lose keys on a restart.
        assert_eq!(hash_rows(&[Arc::new(StringArray::from(vec!["card"])) as ArrayRef], 1), [PINNED]);
    }

    #[test]
    fn a_value_has_one_hash_in_all_widths() {
        let wide: ArrayRef = Arc::new(Int64Array::from(vec![Some(1), Some(127), None]));
        let expected = hash_rows(std::slice::from_ref(&wide), 3);
        let integers = [
            DataType::Int8,
            DataType::Int16,
            DataType::Int32,
            DataType::UInt8,
            DataType::UInt16,
            DataType::UInt32,
            DataType::UInt64,
        ];
        for narrow in integers {
            assert_eq!(hash_rows(&[arrow::compute::cast(&wide, &narrow).unwrap()], 3), expected, "{narrow}");
        }
        let text: ArrayRef =
            Arc::new(StringArray::from(vec![Some("a"), Some("a longer text than twelve bytes"), None]));
        let expected = hash_rows(std::slice::from_ref(&text), 3);
        for layout in [DataType::LargeUtf8, DataType::Utf8View] {
            assert_eq!(hash_rows(&[arrow::compute::cast(&text, &layout).unwrap()], 3), expected, "{layout}");
        }
    }

    const PINNED: u64 = 2_759_706_347_809_948_198;
}
