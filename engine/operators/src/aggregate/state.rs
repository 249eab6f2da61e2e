//! What `aggregate` keeps of a key.

use crate::aggregates::Calls;
use crate::codec::{Bytes, put, put_bytes};
use crate::window::pane::{NewRow, Pane};
use engine_state::SlotState;
use std::collections::BTreeMap;

/// The totals of a key.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Total {
    /// How many rows there are.
    pub(super) rows: i64,
    /// The greatest event time of its rows, nanoseconds since 1970 UTC; where it is needed.
    pub(super) last_ns: i64,
    pub(super) pane: Pane,
    /// Of a changelog whose aggregates can't be subtracted from: what is kept of its rows, and how many there are of each.
    pub(super) kept: BTreeMap<Box<[u8]>, i64>,
}

impl Total {
    /// Of no rows yet, with states of so many words.
    pub(super) fn new(words: usize) -> Self {
        Total { rows: 0, last_ns: i64::MIN, pane: Pane::new(words), kept: BTreeMap::new() }
    }

    /// Adds a row, or takes one back, to states that can be subtracted from.
    pub(super) fn change(&mut self, row: &mut NewRow, calls: &Calls, removes: bool) {
        self.rows += if removes { -1 } else { 1 };
        if !removes {
            self.pane.add(row, calls);
            return;
        }
        for state in &calls.states {
            state.load(&row.words, &mut row.leaf);
            state.kind.unmerge(&mut self.pane.words[state.words()], &row.leaf[state.words()]);
        }
    }

    /// Adds a row, or takes one back, among those that are kept.
    pub(super) fn keep(&mut self, row: &NewRow, removes: bool) {
        let change = if removes { -1 } else { 1 };
        self.rows += change;
        let mut bytes = vec![FORMAT];
        row.words.iter().for_each(|word| put(*word, &mut bytes));
        for extra in &row.extras {
            bytes.push(extra.is_some().into());
            put_bytes(extra.as_deref().unwrap_or_default(), &mut bytes);
        }
        let count = self.kept.entry(bytes.clone().into()).or_default();
        *count += change;
        if *count == 0 {
            self.kept.remove(&*bytes);
        }
    }

    /// Computes the states of the rows that are kept again, in the order of their bytes.
    pub(super) fn again(&mut self, row: &mut NewRow, calls: &Calls) {
        self.pane = Pane::new(calls.words);
        let mut arrival = 0;
        for (bytes, count) in &self.kept {
            for _ in 0..*count {
                let Ok(mut bytes) = Bytes::of_format(bytes, FORMAT, "aggregate") else { continue };
                row.words.iter_mut().for_each(|word| *word = bytes.number().unwrap_or_default());
                row.extras = (0..calls.extras)
                    .map(|_| {
                        let there = bytes.byte().unwrap_or_default() == 1;
                        let extra = bytes.bytes().unwrap_or_default();
                        there.then(|| extra.into())
                    })
                    .collect();
                row.arrival = arrival;
                arrival += 1;
                self.pane.add(row, calls);
            }
        }
    }
}

/// The format of the encoded state.
const FORMAT: u8 = 1;

impl SlotState for Total {
    fn encode(&self, out: &mut Vec<u8>) {
        out.push(FORMAT);
        put(self.rows as u64, out);
        put(self.last_ns as u64, out);
        self.pane.encode(out);
        put(self.kept.len() as u64, out);
        for (row, count) in &self.kept {
            put_bytes(row, out);
            put(*count as u64, out);
        }
    }

    fn decode(bytes: &[u8]) -> Result<Self, String> {
        let mut bytes = Bytes::of_format(bytes, FORMAT, "aggregate")?;
        let (rows, last_ns) = (bytes.number()? as i64, bytes.number()? as i64);
        let pane = Pane::decode(&mut bytes)?;
        let mut kept = BTreeMap::new();
        for _ in 0..bytes.number()? {
            let row = bytes.bytes()?.into();
            kept.insert(row, bytes.number()? as i64);
        }
        bytes.end()?;
        Ok(Total { rows, last_ns, pane, kept })
    }

    fn heap_bytes(&self) -> usize {
        let kept: usize = self.kept.keys().map(|row| row.len() + 40).sum();
        self.pane.heap_bytes() + kept
    }
}
