//! What `enrich` keeps of a key: what the table says of it, and the rows that wait.

use crate::codec::{Bytes, put, put_bytes};
use engine_dataflow::RowPosition;
use engine_state::SlotState;
use std::collections::BTreeMap;

/// A row of the table, from when it counts.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Version {
    /// Nanoseconds since 1970 UTC; 0 where the table is looked at as it is.
    pub(super) from_ns: i64,
    pub(super) row: Box<[u8]>,
}

/// A row that waits.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Pending {
    pub(super) ingest_ns: i64,
    pub(super) born_ns: i64,
    pub(super) row: Box<[u8]>,
}

/// A key.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Known {
    /// The earliest first; of one time the last that came counts.
    pub(super) versions: Vec<Version>,
    /// By event time (0 where there is none) and position.
    pub(super) pending: BTreeMap<(i64, RowPosition), Pending>,
}

impl Known {
    /// The row of the table at a time.
    pub(super) fn at(&self, time_ns: i64) -> Option<&[u8]> {
        let after = self.versions.partition_point(|version| version.from_ns <= time_ns);
        Some(&self.versions[after.checked_sub(1)?].row)
    }

    /// A row of the table that counts from a time.
    pub(super) fn put(&mut self, from_ns: i64, row: &[u8]) {
        let after = self.versions.partition_point(|version| version.from_ns <= from_ns);
        match after.checked_sub(1).filter(|at| self.versions[*at].from_ns == from_ns) {
            Some(same) => self.versions[same].row = row.into(),
            None => self.versions.insert(after, Version { from_ns, row: row.into() }),
        }
    }

    /// A row of the table is taken back.
    pub(super) fn take_back(&mut self, row: &[u8]) {
        self.versions.retain(|version| *version.row != *row);
    }

    /// Forgets what no row from this time on can ask for.
    pub(super) fn forget(&mut self, time_ns: i64) {
        let needed = self.pending.keys().next().map_or(time_ns, |(first_ns, _)| time_ns.min(*first_ns));
        let after = self.versions.partition_point(|version| version.from_ns <= needed);
        self.versions.drain(..after.saturating_sub(1));
    }
}

/// The format of the encoded state.
const FORMAT: u8 = 1;

impl SlotState for Known {
    fn encode(&self, out: &mut Vec<u8>) {
        out.push(FORMAT);
        put(self.versions.len() as u64, out);
        for version in &self.versions {
            put(version.from_ns as u64, out);
            put_bytes(&version.row, out);
        }
        put(self.pending.len() as u64, out);
        for ((time_ns, position), pending) in &self.pending {
            [*time_ns as u64, position.origin, position.offset].into_iter().for_each(|word| put(word, out));
            put_bytes(&position.suffix, out);
            put(pending.ingest_ns as u64, out);
            put(pending.born_ns as u64, out);
            put_bytes(&pending.row, out);
        }
    }

    fn decode(bytes: &[u8]) -> Result<Self, String> {
        let mut bytes = Bytes::of_format(bytes, FORMAT, "enrich")?;
        let mut known = Known::default();
        for _ in 0..bytes.number()? {
            let from_ns = bytes.number()? as i64;
            known.versions.push(Version { from_ns, row: bytes.bytes()?.into() });
        }
        for _ in 0..bytes.number()? {
            let (time_ns, origin, offset) = (bytes.number()? as i64, bytes.number()?, bytes.number()?);
            let position = RowPosition { origin, offset, suffix: bytes.bytes()?.into() };
            let (ingest_ns, born_ns) = (bytes.number()? as i64, bytes.number()? as i64);
            known.pending.insert((time_ns, position), Pending { ingest_ns, born_ns, row: bytes.bytes()?.into() });
        }
        bytes.end()?;
        Ok(known)
    }

    fn heap_bytes(&self) -> usize {
        let versions: usize = self.versions.iter().map(|version| size_of::<Version>() + version.row.len()).sum();
        let of_row = |(position, pending): (&(i64, RowPosition), &Pending)| {
            size_of::<((i64, RowPosition), Pending)>() + position.1.suffix.len() + pending.row.len()
        };
        versions + self.pending.iter().map(of_row).sum::<usize>()
    }
}
