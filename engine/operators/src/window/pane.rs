//! What a window keeps: panes of rows, by key and slice or by key and session.

use crate::aggregates::states::CallState;
use crate::codec::{Bytes, put, put_optional};
use engine_state::SlotState;
use smallvec::SmallVec;

/// A session, or the one pane of a slice: from when to when, nanoseconds since 1970 UTC, and its rows. A session ends one gap
/// after its last row.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Session {
    pub(crate) start: i64,
    pub(crate) end: i64,
    pub(crate) pane: Pane,
}

/// What is kept of the rows of one key and slice.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Pane {
    /// The states of the calls that fit in words.
    pub(crate) words: SmallVec<[u64; 4]>,
    /// The rows of the other calls, in the order in which they came.
    pub(crate) rows: Vec<Kept>,
}

/// A row for the calls that are computed from all rows again.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Kept {
    /// The how manieth row of the step it was: the order of a key's rows over several slices.
    pub(crate) arrival: u64,
    /// The encoded arguments of each such call; none where its filter leaves the row out.
    pub(crate) arguments: Box<[Option<Box<[u8]>>]>,
}

impl Pane {
    /// Of no rows yet, with states of so many words.
    pub(crate) fn new(words: usize) -> Self {
        Pane { words: SmallVec::from_elem(0, words), rows: Vec::new() }
    }

    /// Adds a row.
    #[inline]
    pub(crate) fn add(&mut self, row: &mut NewRow, states: &[CallState]) {
        for state in states {
            state.load(&row.words, &mut row.leaf);
            state.kind.merge(&mut self.words[state.words()], &row.leaf[state.words()]);
        }
        if !row.extras.is_empty() {
            self.rows.push(Kept { arrival: row.arrival, arguments: std::mem::take(&mut row.extras).into() });
        }
    }

    /// Adds the rows of a later one.
    pub(crate) fn join(&mut self, later: &Pane, states: &[CallState]) {
        for state in states {
            state.kind.merge(&mut self.words[state.words()], &later.words[state.words()]);
        }
        if !later.rows.is_empty() {
            self.rows.extend(later.rows.iter().cloned());
            self.rows.sort_by_key(|row| row.arrival);
        }
    }

    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        put(self.words.len() as u64, out);
        self.words.iter().for_each(|word| put(*word, out));
        put(self.rows.len() as u64, out);
        for row in &self.rows {
            put(row.arrival, out);
            put(row.arguments.len() as u64, out);
            row.arguments.iter().for_each(|argument| put_optional(argument.as_deref(), out));
        }
    }

    pub(crate) fn decode(bytes: &mut Bytes<'_>) -> Result<Pane, String> {
        let words = (0..bytes.number()?).map(|_| bytes.number()).collect::<Result<_, _>>()?;
        let mut pane = Pane { words, rows: Vec::new() };
        for _ in 0..bytes.number()? {
            let arrival = bytes.number()?;
            let arguments: Vec<_> = (0..bytes.number()?).map(|_| bytes.optional()).collect::<Result<_, _>>()?;
            pane.rows.push(Kept { arrival, arguments: arguments.into() });
        }
        Ok(pane)
    }

    pub(crate) fn heap_bytes(&self) -> usize {
        let row = |row: &Kept| {
            let bytes: usize = row.arguments.iter().flatten().map(|argument| argument.len()).sum();
            bytes + row.arguments.len() * size_of::<Option<Box<[u8]>>>()
        };
        let words = if self.words.spilled() { self.words.capacity() } else { 0 };
        words * 8 + self.rows.capacity() * size_of::<Kept>() + self.rows.iter().map(row).sum::<usize>()
    }
}

/// A row on its way into a pane.
pub(crate) struct NewRow {
    /// What [`crate::aggregates::Calls::keep`] writes.
    pub(crate) words: Vec<u64>,
    pub(crate) extras: Vec<Option<Box<[u8]>>>,
    pub(crate) arrival: u64,
    /// Room for its state.
    pub(crate) leaf: Vec<u64>,
}

/// The format of the encoded state.
const FORMAT: u8 = 1;

/// The sessions of a key, or the one pane of a slice.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Slot {
    pub(crate) sessions: SmallVec<[Session; 1]>,
}

impl SlotState for Slot {
    fn encode(&self, out: &mut Vec<u8>) {
        out.push(FORMAT);
        put(self.sessions.len() as u64, out);
        for session in &self.sessions {
            put(session.start as u64, out);
            put(session.end as u64, out);
            session.pane.encode(out);
        }
    }

    fn decode(bytes: &[u8]) -> Result<Self, String> {
        let mut bytes = Bytes::of_format(bytes, FORMAT, "window")?;
        let mut slot = Slot::default();
        for _ in 0..bytes.number()? {
            let (start, end) = (bytes.number()? as i64, bytes.number()? as i64);
            slot.sessions.push(Session { start, end, pane: Pane::decode(&mut bytes)? });
        }
        bytes.end()?;
        Ok(slot)
    }

    fn heap_bytes(&self) -> usize {
        let panes: usize = self.sessions.iter().map(|session| session.pane.heap_bytes()).sum();
        let spilled = if self.sessions.spilled() { self.sessions.capacity() } else { 0 };
        spilled * size_of::<Session>() + panes
    }
}
