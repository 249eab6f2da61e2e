//! A source whose rows are given beforehand: what a test reads.

use engine_dataflow::{Mark, Marks, Polled, Reader, Rows, SourceRows};
use std::collections::{BTreeMap, VecDeque};

/// Hands out given rows, batch by batch, up to where the cuts that are followed allow. It never ends by itself.
pub(crate) struct GivenRows {
    rows: VecDeque<Rows>,
    next: u64,
}

impl GivenRows {
    /// A reader of these batches: rows of one partition from offset 0 on, one after the other.
    pub(crate) fn new(rows: Vec<Rows>) -> Self {
        GivenRows { rows: rows.into(), next: 0 }
    }
}

impl Reader for GivenRows {
    fn poll(&mut self, _max_bytes: usize, until: Option<&BTreeMap<u32, u64>>) -> Polled {
        let until = until.and_then(|until| until.get(&0)).copied().unwrap_or(0);
        let Some(rows) = self.rows.front().filter(|rows| self.next + rows.num_rows() as u64 <= until) else {
            return Polled::Pending;
        };
        let rows_given = rows.num_rows() as u64;
        self.next += rows_given;
        let rows = self.rows.pop_front().into_iter().collect();
        Polled::Some(SourceRows { rows, errors: Vec::new(), bytes: rows_given, records: rows_given })
    }

    fn marks(&self) -> Marks {
        Marks::from([(0, Mark { next: self.next, detail: String::new() })])
    }
}
