//! What a window keeps: panes of rows, by key and slice or by key and session.

use crate::aggregates::layout::Change;
use crate::aggregates::{Call, Calls, Form, Keeps, Results};
use crate::codec::{Bytes, put, put_bytes, put_optional};
use engine_base::RowError;
use engine_state::SlotState;
use smallvec::SmallVec;
use std::collections::BTreeMap;

/// A session, or the one pane of a slice, of a count or of all rows: from when to when, nanoseconds since 1970 UTC, and its rows.
/// A session ends one gap after its last row; a pane of a count right after its last row.
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
    /// What only the other calls need.
    more: Option<Box<More>>,
}

/// What the calls need that are computed from all rows again.
#[derive(Clone, Debug, Default, PartialEq)]
struct More {
    /// The rows, in the order in which they came.
    rows: Vec<Kept>,
    /// For each call that does not need the arguments of each row those that it needs; none yet where it is empty.
    needed: Vec<Needed>,
}

/// Some of the encoded arguments of a call, each with the arrival of the first row that had them.
#[derive(Clone, Debug, Default, PartialEq)]
enum Needed {
    #[default]
    None,
    One(Box<[u8]>, u64),
    Once(BTreeMap<Box<[u8]>, u64>),
}

/// A row for the calls that are computed from all rows again.
#[derive(Clone, Debug, PartialEq)]
struct Kept {
    /// The how manieth row of the step it was: the order of a key's rows over several slices.
    arrival: u64,
    /// The encoded arguments of each such call; none where its filter leaves the row out.
    arguments: Box<[Option<Box<[u8]>>]>,
}

impl Pane {
    /// Of no rows yet, with states of so many words.
    pub(crate) fn new(words: usize) -> Self {
        Pane { words: SmallVec::from_elem(0, words), ..Pane::default() }
    }

    /// Adds a row.
    #[inline]
    pub(crate) fn add(&mut self, row: &mut NewRow, calls: &Calls) {
        for state in &calls.states {
            state.load(&row.words, &mut row.leaf);
            state.kind.merge(&mut self.words[state.words()], &row.leaf[state.words()]);
        }
        if row.extras.is_empty() {
            return;
        }
        let more = self.more.get_or_insert_default();
        for (at, extra) in row.extras.iter_mut().enumerate() {
            if calls.keeps(at) != Keeps::Each
                && let Some(arguments) = extra.take()
            {
                more.needed(calls)[at].add(arguments, row.arrival, at, calls);
            }
        }
        if row.extras.iter().any(Option::is_some) {
            more.rows.push(Kept { arrival: row.arrival, arguments: std::mem::take(&mut row.extras).into() });
        }
    }

    /// The encoded arguments of a call, in the order in which they came.
    fn arguments(&self, extra: usize) -> Vec<&[u8]> {
        let Some(more) = &self.more else { return Vec::new() };
        match more.needed.get(extra) {
            Some(Needed::One(arguments, _)) => vec![&**arguments],
            Some(Needed::Once(once)) => {
                let mut once: Vec<(&[u8], u64)> = once.iter().map(|(key, arrival)| (&**key, *arrival)).collect();
                once.sort_unstable_by_key(|(_, arrival)| *arrival);
                once.into_iter().map(|(arguments, _)| arguments).collect()
            }
            Some(Needed::None) | None => more.rows.iter().filter_map(|row| row.arguments[extra].as_deref()).collect(),
        }
    }

    /// The result of a call.
    pub(crate) fn finish(&self, call: &Call, result: &mut Results) -> Result<(), RowError> {
        match &call.form {
            Form::Words(words) => call.finish(words.kind, &self.words[words.words()], result),
            Form::Extra { at, encoder, counts, .. } => {
                let needed = self.more.as_ref().and_then(|more| more.needed.get(*at));
                match (needed, counts, &mut *result) {
                    (Some(Needed::Once(once)), Some(null), Results::Ints(ints)) => {
                        // It comes before all.
                        let nulls = once.keys().next().is_some_and(|first| first == null);
                        ints.append_value(once.len() as i64 - i64::from(nulls));
                        Ok(())
                    }
                    _ => call.read_again(self.arguments(*at).into_iter(), encoder, result),
                }
            }
            // The plans refuse it.
            Form::Lag { .. } => Ok(()),
        }
    }

    /// Adds the rows of a later one.
    pub(crate) fn join(&mut self, later: &Pane, calls: &Calls) {
        for state in &calls.states {
            state.kind.merge(&mut self.words[state.words()], &later.words[state.words()]);
        }
        let Some(later) = &later.more else { return };
        let more = self.more.get_or_insert_default();
        more.rows.extend(later.rows.iter().cloned());
        more.rows.sort_by_key(|row| row.arrival);
        for (at, later) in later.needed.iter().enumerate() {
            for (arguments, arrival) in later.all() {
                more.needed(calls)[at].add(arguments.into(), arrival, at, calls);
            }
        }
    }

    /// The arrival of the last row that is kept here.
    pub(crate) fn last_arrival(&self) -> Option<u64> {
        let more = self.more.as_ref()?;
        let needed = more.needed.iter().flat_map(|needed| needed.all().map(|(_, arrival)| arrival));
        needed.chain(more.rows.last().map(|row| row.arrival)).max()
    }

    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        put(self.words.len() as u64, out);
        self.words.iter().for_each(|word| put(*word, out));
        out.push(self.more.is_some().into());
        let Some(more) = &self.more else { return };
        put(more.rows.len() as u64, out);
        for row in &more.rows {
            put(row.arrival, out);
            put(row.arguments.len() as u64, out);
            row.arguments.iter().for_each(|argument| put_optional(argument.as_deref(), out));
        }
        put(more.needed.len() as u64, out);
        for needed in &more.needed {
            let (form, count) = match needed {
                Needed::None => (0, 0),
                Needed::One(..) => (1, 1),
                Needed::Once(once) => (2, once.len()),
            };
            out.push(form);
            put(count as u64, out);
            for (arguments, arrival) in needed.all() {
                put_bytes(arguments, out);
                put(arrival, out);
            }
        }
    }

    pub(crate) fn decode(bytes: &mut Bytes<'_>) -> Result<Pane, String> {
        let words = (0..bytes.number()?).map(|_| bytes.number()).collect::<Result<_, _>>()?;
        let mut pane = Pane { words, ..Pane::default() };
        if bytes.byte()? == 0 {
            return Ok(pane);
        }
        let mut more = More::default();
        for _ in 0..bytes.number()? {
            let arrival = bytes.number()?;
            let arguments: Vec<_> = (0..bytes.number()?).map(|_| bytes.optional()).collect::<Result<_, _>>()?;
            more.rows.push(Kept { arrival, arguments: arguments.into() });
        }
        for _ in 0..bytes.number()? {
            let one = |bytes: &mut Bytes<'_>| Ok::<(Box<[u8]>, u64), String>((bytes.bytes()?.into(), bytes.number()?));
            let form = bytes.byte()?;
            let mut all: BTreeMap<_, _> = (0..bytes.number()?).map(|_| one(bytes)).collect::<Result<_, _>>()?;
            more.needed.push(match (form, all.pop_first()) {
                (0, None) => Needed::None,
                (1, Some((arguments, arrival))) if all.is_empty() => Needed::One(arguments, arrival),
                (2, first) => Needed::Once(all.into_iter().chain(first).collect()),
                _ => return Err("a state of arguments that this engine does not know".to_owned()),
            });
        }
        pane.more = Some(Box::new(more));
        Ok(pane)
    }

    /// As it is where other calls are kept.
    fn converted(self, change: &Change) -> Result<Pane, String> {
        let words = change.words(&self.words)?.into();
        let Some(mut more) = self.more.filter(|_| change.to().sizes().2 > 0) else {
            return Ok(Pane { words, more: None });
        };
        for row in &mut more.rows {
            row.arguments = change.extras(&row.arguments)?.into();
        }
        // As if the calls that are gone had never been there.
        more.rows.retain(|row| row.arguments.iter().any(Option::is_some));
        if !more.needed.is_empty() {
            more.needed = change.extras(&more.needed)?;
        }
        if more.needed.iter().all(|needed| *needed == Needed::None) {
            more.needed = Vec::new();
        }
        Ok(Pane { words, more: Some(more) })
    }

    pub(crate) fn heap_bytes(&self) -> usize {
        let row = |row: &Kept| {
            let bytes: usize = row.arguments.iter().flatten().map(|argument| argument.len()).sum();
            bytes + row.arguments.len() * size_of::<Option<Box<[u8]>>>()
        };
        let words = if self.words.spilled() { self.words.capacity() } else { 0 };
        let Some(more) = &self.more else { return words * 8 };
        let needed = more.needed.iter().flat_map(Needed::all);
        let needed: usize = needed.map(|(arguments, _)| arguments.len() + size_of::<(Box<[u8]>, u64)>()).sum();
        let rows: usize = more.rows.iter().map(row).sum();
        words * 8 + needed + rows + size_of::<More>() + more.rows.capacity() * size_of::<Kept>()
    }
}

impl More {
    fn needed(&mut self, calls: &Calls) -> &mut [Needed] {
        if self.needed.is_empty() {
            self.needed = vec![Needed::None; calls.extras];
        }
        &mut self.needed
    }
}

impl Needed {
    /// Adds arguments, where they are needed. `extra` is the call's place among those that keep encoded arguments.
    fn add(&mut self, arguments: Box<[u8]>, arrival: u64, extra: usize, calls: &Calls) {
        match (calls.keeps(extra), &mut *self) {
            (Keeps::One(best), Needed::One(known, since)) => {
                if calls.is_better(extra, best, (known, *since), (&arguments, arrival)) {
                    (*known, *since) = (arguments, arrival);
                }
            }
            (Keeps::One(_), _) => *self = Needed::One(arguments, arrival),
            (_, Needed::Once(once)) => {
                let known = once.entry(arguments).or_insert(arrival);
                *known = (*known).min(arrival);
            }
            _ => *self = Needed::Once(BTreeMap::from([(arguments, arrival)])),
        }
    }

    /// The arguments and the arrivals of their rows.
    fn all(&self) -> impl Iterator<Item = (&[u8], u64)> {
        let (one, once) = match self {
            Needed::None => (None, None),
            Needed::One(arguments, arrival) => (Some((&**arguments, *arrival)), None),
            Needed::Once(once) => (None, Some(once)),
        };
        one.into_iter().chain(once.into_iter().flatten().map(|(arguments, arrival)| (&**arguments, *arrival)))
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
const FORMAT: u8 = 4;

/// The sessions of a key, or the one pane of a slice, of a count or of all rows.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Slot {
    pub(crate) sessions: SmallVec<[Session; 1]>,
    /// Of a count: how many rows are in its pane.
    pub(crate) taken: u64,
    /// Of windows that are corrected: what it was when it was put out, where it has been another since.
    pub(crate) before: Option<Box<Before>>,
}

/// What a pane was when it was put out.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Before {
    /// Since when it has been another, by the clock, nanoseconds since 1970 UTC.
    pub(crate) since_ns: i64,
    /// None where it was not there.
    pub(crate) pane: Option<Pane>,
}

impl Slot {
    /// As it is where other calls are kept.
    pub(crate) fn converted(mut self, change: &Change) -> Result<Slot, String> {
        for session in &mut self.sessions {
            session.pane = std::mem::take(&mut session.pane).converted(change)?;
        }
        if let Some(before) = &mut self.before {
            before.pane = before.pane.take().map(|pane| pane.converted(change)).transpose()?;
        }
        Ok(self)
    }
}

impl SlotState for Slot {
    fn encode(&self, out: &mut Vec<u8>) {
        out.push(FORMAT);
        put(self.taken, out);
        put(self.sessions.len() as u64, out);
        for session in &self.sessions {
            put(session.start as u64, out);
            put(session.end as u64, out);
            session.pane.encode(out);
        }
        out.push(self.before.is_some().into());
        if let Some(before) = &self.before {
            put(before.since_ns as u64, out);
            out.push(before.pane.is_some().into());
            before.pane.iter().for_each(|pane| pane.encode(out));
        }
    }

    fn decode(bytes: &[u8]) -> Result<Self, String> {
        let mut bytes = Bytes::of_format(bytes, FORMAT, "window")?;
        let mut slot = Slot { taken: bytes.number()?, ..Slot::default() };
        for _ in 0..bytes.number()? {
            let (start, end) = (bytes.number()? as i64, bytes.number()? as i64);
            slot.sessions.push(Session { start, end, pane: Pane::decode(&mut bytes)? });
        }
        if bytes.byte()? == 1 {
            let since_ns = bytes.number()? as i64;
            let pane = if bytes.byte()? == 1 { Some(Pane::decode(&mut bytes)?) } else { None };
            slot.before = Some(Box::new(Before { since_ns, pane }));
        }
        bytes.end()?;
        Ok(slot)
    }

    fn heap_bytes(&self) -> usize {
        let panes: usize = self.sessions.iter().map(|session| session.pane.heap_bytes()).sum();
        let spilled = if self.sessions.spilled() { self.sessions.capacity() } else { 0 };
        let before = self.before.as_ref().and_then(|before| before.pane.as_ref());
        let before = before.map_or(0, |pane| size_of::<Before>() + pane.heap_bytes());
        spilled * size_of::<Session>() + panes + before
    }
}
