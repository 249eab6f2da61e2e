//! Canonical order (architecture, decision 3): the rows of an epoch, whatever way they came, ordered by position.

use crate::rows::{Positions, Rows, Times};
use arrow::array::{BinaryBuilder, RecordBatch, RecordBatchOptions, UInt32Array};
use arrow::buffer::ScalarBuffer;
use arrow::compute;
use std::cmp::Ordering;

impl Positions {
    /// Whether each row's position is after the one before it.
    pub fn is_ascending(&self, rows: usize) -> bool {
        match self {
            Positions::Range { .. } => true,
            Positions::Offsets { offsets, .. } => offsets.windows(2).all(|pair| pair[0] < pair[1]),
            Positions::Mixed { .. } => (1..rows).all(|row| self.compare(row - 1, self, row).is_lt()),
        }
    }

    /// The canonical order of two rows.
    pub fn compare(&self, row: usize, other: &Positions, other_row: usize) -> Ordering {
        self.source(row).cmp(&other.source(other_row)).then_with(|| self.suffix(row).cmp(other.suffix(other_row)))
    }
}

impl Rows {
    /// All rows of several batches of one schema, one batch after the other.
    #[must_use]
    pub fn concat(parts: &[Rows]) -> Rows {
        let parts: Vec<&Rows> = parts.iter().filter(|rows| rows.num_rows() > 0).collect();
        match parts.as_slice() {
            [] => Rows::default(),
            [one] => (*one).clone(),
            many => {
                let total = many.iter().map(|rows| rows.num_rows()).sum();
                let has_event = many.iter().all(|rows| rows.event_ns.is_some());
                Rows {
                    batch: concat_batches(many, total),
                    positions: concat_positions(many, total),
                    ingest_ns: concat_times(many, total, |rows| &rows.ingest_ns),
                    born_ns: concat_times(many, total, |rows| &rows.born_ns),
                    event_ns: has_event
                        .then(|| concat_times(many, total, |rows| rows.event_ns.as_ref().unwrap_or(&Times::One(0)))),
                    removes: many.iter().any(|rows| rows.removes.is_some()).then(|| {
                        let bits =
                            |rows: &Rows| (0..rows.num_rows()).map(|row| rows.is_removed(row)).collect::<Vec<_>>();
                        many.iter().flat_map(|rows| bits(rows)).collect()
                    }),
                }
            }
        }
    }

    /// The same rows in canonical order. Batches that are in order already, the common case, pass without copying.
    #[must_use]
    pub fn in_canonical_order(mut parts: Vec<Rows>) -> Vec<Rows> {
        parts.retain(|rows| rows.num_rows() > 0);
        if parts.iter().all(|rows| rows.positions.is_ascending(rows.num_rows())) {
            parts.sort_by(|a, b| a.positions.compare(0, &b.positions, 0));
            let apart = parts.windows(2).all(|pair| {
                let last = pair[0].num_rows() - 1;
                pair[0].positions.compare(last, &pair[1].positions, 0).is_lt()
            });
            if apart {
                return parts;
            }
        }
        let all = Rows::concat(&parts);
        let mut order: Vec<u32> = (0..all.num_rows() as u32).collect();
        order.sort_by(|a, b| all.positions.compare(*a as usize, &all.positions, *b as usize));
        vec![all.take(&UInt32Array::from(order))]
    }
}

fn concat_batches(parts: &[&Rows], total: usize) -> RecordBatch {
    let schema = parts[0].batch.schema();
    let joined = if schema.fields().is_empty() {
        let options = RecordBatchOptions::new().with_row_count(Some(total));
        RecordBatch::try_new_with_options(schema, Vec::new(), &options)
    } else {
        compute::concat_batches(&schema, parts.iter().map(|rows| &rows.batch))
    };
    // Batches of one edge have one schema; another would be a fault of a step, which must not go on.
    joined.unwrap_or_else(|error| panic!("batches of one edge differ: {error}"))
}

/// Stays one value where all batches agree.
fn concat_times<'a>(parts: &[&'a Rows], total: usize, of: impl Fn(&'a Rows) -> &'a Times) -> Times {
    if let Times::One(first) = of(parts[0])
        && parts.iter().all(|rows| *of(rows) == Times::One(*first))
    {
        return Times::One(*first);
    }
    let mut all = Vec::with_capacity(total);
    for rows in parts {
        match of(rows) {
            Times::One(value) => all.extend(std::iter::repeat_n(*value, rows.num_rows())),
            Times::Each(values) => all.extend_from_slice(values),
        }
    }
    Times::Each(all.into())
}

/// A run of one partition stays a range; rows of one partition keep one origin.
fn concat_positions(parts: &[&Rows], total: usize) -> Positions {
    if let Positions::Range { origin, first } = parts[0].positions {
        let mut next = first;
        let run = parts.iter().all(|rows| match rows.positions {
            Positions::Range { origin: o, first: f } if o == origin && f == next => {
                next += rows.num_rows() as u64;
                true
            }
            _ => false,
        });
        if run {
            return Positions::Range { origin, first };
        }
    }
    let has_suffix = parts.iter().any(|rows| matches!(rows.positions, Positions::Mixed { suffixes: Some(_), .. }));
    let mut origins = Vec::with_capacity(total);
    let mut offsets = Vec::with_capacity(total);
    let mut suffixes = BinaryBuilder::new();
    for rows in parts {
        for row in 0..rows.num_rows() {
            let (origin, offset) = rows.positions.source(row);
            origins.push(origin);
            offsets.push(offset);
            if has_suffix {
                suffixes.append_value(rows.positions.suffix(row));
            }
        }
    }
    if !has_suffix && origins.windows(2).all(|pair| pair[0] == pair[1]) {
        return Positions::Offsets { origin: origins[0], offsets: ScalarBuffer::from(offsets) };
    }
    Positions::Mixed {
        origins: origins.into(),
        offsets: offsets.into(),
        suffixes: has_suffix.then(|| suffixes.finish()),
    }
}
