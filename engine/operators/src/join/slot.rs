//! The rows of a key that a `join` keeps, as bytes.

use crate::codec::{Bytes, put, put_bytes};
use engine_state::{SlotId, SlotState, SlotStore};
use smallvec::SmallVec;
use std::cmp::Ordering;

/// A row that is kept.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Stored {
    pub(super) time_ns: i64,
    origin: u64,
    offset: u64,
    /// It has had a match.
    pub(super) matched: bool,
    /// How many of the bytes are the suffix of its position.
    suffix: u32,
    bytes: Box<[u8]>,
}

/// A row at hand: new or kept.
#[derive(Clone, Copy, Debug)]
pub(super) struct View<'a> {
    pub(super) time_ns: i64,
    pub(super) origin: u64,
    pub(super) offset: u64,
    pub(super) suffix: &'a [u8],
    /// The columns that are read of it, in the row format of its side.
    pub(super) data: &'a [u8],
}

impl View<'_> {
    /// The order of rows of one side: by event time, then by position.
    pub(super) fn order(&self, other: &View<'_>) -> Ordering {
        let of = |row: &View<'_>| (row.time_ns, row.origin, row.offset);
        of(self).cmp(&of(other)).then_with(|| self.suffix.cmp(other.suffix))
    }
}

impl Stored {
    /// Keeps a row.
    pub(super) fn new(row: &View<'_>, matched: bool) -> Stored {
        let View { time_ns, origin, offset, suffix, data } = *row;
        let bytes = if suffix.is_empty() { data.into() } else { [suffix, data].concat().into_boxed_slice() };
        Stored { time_ns, origin, offset, matched, suffix: suffix.len() as u32, bytes }
    }

    pub(super) fn view(&self) -> View<'_> {
        let (suffix, data) = self.bytes.split_at_checked(self.suffix as usize).unwrap_or((&self.bytes, &[]));
        View { time_ns: self.time_ns, origin: self.origin, offset: self.offset, suffix, data }
    }
}

/// Rows of one side.
pub(super) type StoredRows = SmallVec<[Stored; 1]>;

/// Rows of a key and a slice of time: those of both sides.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Slot {
    /// Of the left and of the right side.
    pub(super) sides: [StoredRows; 2],
    /// Which of the slots of its key and slice it is, where there may be several.
    pub(super) part: u32,
    /// Of the first: how many more there are.
    pub(super) more: u32,
}

/// A row of a slot. Nothing is taken out of a slot between finding a row in it and reading it.
pub(super) fn kept_row(store: &dyn SlotStore<Slot>, id: SlotId, side: usize, row: u32) -> &Stored {
    let found = store.get(id).and_then(|slot| slot.sides[side].get(row as usize));
    found.unwrap_or_else(|| panic!("a row that was found is gone"))
}

/// The format of the encoded state.
const FORMAT: u8 = 1;

impl Slot {
    /// Adds a row of a side in order of time.
    pub(super) fn insert(&mut self, side: usize, row: Stored) {
        let rows = &mut self.sides[side];
        let after = |last: &Stored| last.view().order(&row.view()).is_le();
        let at = match rows.last() {
            Some(last) if !after(last) => rows.partition_point(after),
            _ => rows.len(),
        };
        rows.insert(at, row);
    }

    /// The rows of a side, which are in order of time, with times from one to another, both inclusive.
    pub(super) fn between(&self, side: usize, from_ns: i64, to_ns: i64) -> std::ops::Range<usize> {
        let rows = &self.sides[side];
        let first = rows.partition_point(|row| row.time_ns < from_ns);
        let count = rows[first..].partition_point(|row| row.time_ns <= to_ns);
        first..first + count
    }
}

impl SlotState for Slot {
    fn encode(&self, out: &mut Vec<u8>) {
        out.push(FORMAT);
        put(u64::from(self.part) << 32 | u64::from(self.more), out);
        for rows in &self.sides {
            put(rows.len() as u64, out);
            for row in rows {
                put(row.time_ns as u64, out);
                put(row.origin, out);
                put(row.offset, out);
                put(u64::from(row.suffix) << 1 | u64::from(row.matched), out);
                put_bytes(&row.bytes, out);
            }
        }
    }

    fn decode(bytes: &[u8]) -> Result<Self, String> {
        let mut bytes = Bytes::of_format(bytes, FORMAT, "join")?;
        let parts = bytes.number()?;
        let mut slot = Slot { part: (parts >> 32) as u32, more: parts as u32, ..Slot::default() };
        for rows in &mut slot.sides {
            for _ in 0..bytes.number()? {
                let (time_ns, origin, offset) = (bytes.number()? as i64, bytes.number()?, bytes.number()?);
                let flags = bytes.number()?;
                let row = Stored {
                    time_ns,
                    origin,
                    offset,
                    matched: flags & 1 == 1,
                    suffix: (flags >> 1) as u32,
                    bytes: bytes.bytes()?.into(),
                };
                if row.suffix as usize > row.bytes.len() {
                    return Err("join state has a position that is longer than its row".to_owned());
                }
                rows.push(row);
            }
        }
        bytes.end()?;
        Ok(slot)
    }

    fn heap_bytes(&self) -> usize {
        let spilled = |rows: &StoredRows| if rows.spilled() { rows.capacity() * size_of::<Stored>() } else { 0 };
        let of = |rows: &StoredRows| spilled(rows) + rows.iter().map(|row| row.bytes.len()).sum::<usize>();
        self.sides.iter().map(of).sum()
    }
}
