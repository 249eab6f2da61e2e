//! What is kept of a key: rows that the watermark has not passed, walks by where they stand, and the rows they stand on.

use super::walk::{Found, Last, Shape, Stand};
use crate::codec::{Bytes, put, put_bytes, put_wake, wake_of};
use engine_state::SlotState;
use smallvec::SmallVec;
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

/// A row as it is kept.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Row {
    pub(super) facts: Arc<Facts>,
    /// The conditions that hold for it, of those that read no other row.
    pub(super) holds: u64,
    /// The conditions that hold for it together with the last rows of earlier elements, in the order of those.
    pub(super) with: Vec<(Last, u64)>,
}

/// What is known of a row.
#[derive(Debug, PartialEq)]
pub(super) struct Facts {
    pub(super) time_ns: i64,
    pub(super) ingest_ns: i64,
    /// Its position, in bytes that order as positions do.
    pub(super) place: Box<[u8]>,
    /// Its columns, in Arrow's row format.
    pub(super) values: Box<[u8]>,
}

impl Row {
    fn order(&self) -> (i64, &[u8]) {
        (self.facts.time_ns, &self.facts.place)
    }

    /// The conditions that hold for a walk that stands there.
    fn holds(&self, last: Option<&Last>) -> u64 {
        let known = match last {
            Some(last) => self.with.binary_search_by(|(known, _)| known.cmp(last)).ok(),
            // Where nothing was taken comes before all others.
            None => self.with.first().filter(|(known, _)| known.iter().all(|row| *row == 0)).map(|_| 0),
        };
        self.holds | known.map_or(0, |at| self.with[at].1)
    }
}

/// A match: its time and its rows, each with its element.
#[derive(Debug)]
pub(super) struct Match {
    pub(super) event_ns: i64,
    pub(super) rows: Vec<(usize, Arc<Facts>)>,
}

/// The rules of a step that a slot goes by.
#[derive(Clone, Debug)]
pub(super) struct Rules {
    pub(super) shape: Shape,
    pub(super) within_ns: i64,
    pub(super) overlap: bool,
}

/// What is kept of a key.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Slot {
    /// Rows that the watermark has not passed, as they came: those of many partitions may be far apart.
    waiting: Vec<Row>,
    /// The least of their times.
    least_ns: Option<i64>,
    /// The number of the first of `rows`.
    first: u64,
    /// The rows that some walk did anything with, from the first one of the oldest walk on.
    rows: VecDeque<Row>,
    /// The first rows of walks, ascending, by where they stand.
    walks: BTreeMap<Stand, VecDeque<u64>>,
    /// Not kept: the time under which the step finds it.
    pub(super) wake_ns: Option<i64>,
}

impl Slot {
    /// Nothing is kept.
    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_empty() && self.walks.is_empty()
    }

    /// A row comes.
    pub(super) fn add(&mut self, row: Row) {
        let time_ns = row.facts.time_ns;
        self.least_ns = Some(self.least_ns.map_or(time_ns, |least_ns| least_ns.min(time_ns)));
        self.waiting.push(row);
    }

    /// The rows that the watermark has passed, in order.
    pub(super) fn passed(&mut self, passed: impl Fn(i64) -> bool) -> VecDeque<Row> {
        if self.least_ns.is_none_or(|least_ns| !passed(least_ns)) {
            return VecDeque::new();
        }
        let mut rows: Vec<Row> = self.waiting.extract_if(.., |row| passed(row.facts.time_ns)).collect();
        self.least_ns = least_ns(&self.waiting);
        rows.sort_by(|a, b| a.order().cmp(&b.order()));
        rows.into()
    }

    /// When there is something to do, once the watermark is beyond it.
    pub(super) fn due_ns(&self, within_ns: i64) -> Option<i64> {
        let ends = (!self.walks.is_empty()).then(|| self.rows.front().map(|row| end_of(row, within_ns))).flatten();
        self.least_ns.into_iter().chain(ends).min()
    }

    /// How many rows there are.
    #[cfg(test)]
    pub(super) fn rows(&self) -> usize {
        self.waiting.len() + self.rows.len()
    }

    fn row(&self, number: u64) -> Option<&Row> {
        self.rows.get(usize::try_from(number.checked_sub(self.first)?).ok()?)
    }

    /// A row that a condition reads.
    pub(super) fn facts(&self, number: u64) -> Option<&Arc<Facts>> {
        self.row(number).map(|row| &row.facts)
    }

    /// Ends the walks whose time is over, the oldest first.
    pub(super) fn settle(&mut self, rules: &Rules, over: impl Fn(i64) -> bool, out: &mut Vec<Match>) {
        // The first row that is kept is the first one of the oldest walk.
        if self.rows.front().is_none_or(|row| !over(end_of(row, rules.within_ns))) {
            return;
        }
        while let Some((start, stand)) = self.oldest() {
            let Some(end_ns) = self.row(start).map(|row| end_of(row, rules.within_ns)).filter(|end| over(*end)) else {
                break;
            };
            let complete = rules.shape.is_complete(&stand);
            self.drop_first(&stand);
            if complete {
                self.matched(rules, start, end_ns, out);
            }
        }
        self.forget();
    }

    /// The walk with the earliest first row.
    fn oldest(&self) -> Option<(u64, Stand)> {
        let first = |(stand, starts): (&Stand, &VecDeque<u64>)| Some((*starts.front()?, stand.clone()));
        match self.walks.len() {
            1 => self.walks.iter().next().and_then(first),
            _ => self.walks.iter().filter_map(first).min_by_key(|(start, _)| *start),
        }
    }

    fn drop_first(&mut self, stand: &Stand) {
        if let Some(starts) = self.walks.get_mut(stand) {
            starts.pop_front();
            if starts.is_empty() {
                self.walks.remove(stand);
            }
        }
    }

    /// Puts the match out that begins with a row.
    fn matched(&mut self, rules: &Rules, start: u64, event_ns: i64, out: &mut Vec<Match>) {
        let taken = self.walk(&rules.shape, start);
        if !rules.overlap
            && let Some((_, last)) = taken.last()
        {
            self.walks.retain(|_, starts| {
                let gone = starts.partition_point(|start| start <= last);
                starts.drain(..gone);
                !starts.is_empty()
            });
        }
        let facts = |(element, row): (usize, u64)| Some((element, self.row(row)?.facts.clone()));
        out.push(Match { event_ns, rows: taken.into_iter().filter_map(facts).collect() });
    }

    /// Walks again: the rows that are taken, each with its element.
    fn walk(&self, shape: &Shape, start: u64) -> Vec<(usize, u64)> {
        let mut taken = Vec::new();
        let mut stand: Option<Stand> = None;
        for number in start..self.first + self.rows.len() as u64 {
            let Some(row) = self.row(number) else { continue };
            let found = shape.find(stand.as_ref(), row.holds(stand.as_ref().map(|stand| &stand.last)));
            if let Found::Takes(element) = found {
                taken.push((element, number));
            }
            stand = shape.go(stand.as_ref(), found, number);
            if stand.as_ref().is_some_and(|stand| shape.is_final(stand)) {
                break;
            }
        }
        taken
    }

    /// The conditions that need to be known of the next row beside those that read no other row: the elements, by the last rows
    /// that they read.
    pub(super) fn questions(&self, shape: &Shape, others: u64) -> BTreeMap<Last, u64> {
        let mut questions: BTreeMap<Last, u64> = BTreeMap::new();
        let none = Last::from_elem(0, shape.read.len());
        let stands = self.walks.keys().map(|stand| (&stand.last, shape.asked(Some(stand))));
        for (last, asked) in stands.chain([(&none, shape.asked(None))]).filter(|(_, asked)| asked & others != 0) {
            *questions.entry(last.clone()).or_default() |= asked & others;
        }
        questions
    }

    /// Takes the next row, whose conditions are known. What was over before it is settled.
    pub(super) fn take(&mut self, rules: &Rules, row: Row, out: &mut Vec<Match>) {
        let shape = &rules.shape;
        let number = self.first + self.rows.len() as u64;
        let time_ns = row.facts.time_ns;
        let mut moves: SmallVec<[(Stand, Stand); 4]> = SmallVec::new();
        for stand in self.walks.keys() {
            let found = shape.find(Some(stand), row.holds(Some(&stand.last)));
            if found != Found::Nothing
                && let Some(to) = shape.go(Some(stand), found, number)
            {
                moves.push((stand.clone(), to));
            }
        }
        let begun = match shape.find(None, row.holds(None)) {
            Found::Takes(element) => shape.go(None, Found::Takes(element), number),
            Found::Nothing | Found::Seen(_) => None,
        };
        if moves.is_empty() && begun.is_none() {
            return;
        }
        self.rows.push_back(row);
        let moved: SmallVec<[_; 4]> =
            moves.into_iter().filter_map(|(from, to)| Some((to, self.walks.remove(&from)?))).collect();
        let begun = begun.map(|stand| (stand, VecDeque::from([number])));
        let mut done: Vec<u64> = Vec::new();
        for (stand, starts) in moved.into_iter().chain(begun) {
            if shape.is_final(&stand) {
                done.extend(starts);
            } else if !shape.is_dead(&stand) {
                merge(self.walks.entry(stand).or_default(), starts);
            }
        }
        done.sort_unstable();
        if !rules.overlap {
            done.truncate(1);
        }
        for start in done {
            self.matched(rules, start, time_ns, out);
        }
        self.forget();
    }

    /// Forgets the rows that no walk stands on.
    fn forget(&mut self) {
        let end = self.first + self.rows.len() as u64;
        let oldest = self.walks.values().filter_map(VecDeque::front).min().copied().unwrap_or(end);
        self.rows.drain(..(oldest - self.first) as usize);
        self.first = oldest;
    }
}

fn least_ns(rows: &[Row]) -> Option<i64> {
    rows.iter().map(|row| row.facts.time_ns).min()
}

/// The last time at which a walk that begins with a row may take another.
fn end_of(row: &Row, within_ns: i64) -> i64 {
    row.facts.time_ns.saturating_add(within_ns)
}

/// Puts ascending numbers together.
fn merge(into: &mut VecDeque<u64>, mut other: VecDeque<u64>) {
    if into.len() < other.len() {
        std::mem::swap(into, &mut other);
    }
    match (into.front(), into.back(), other.front(), other.back()) {
        (_, Some(back), Some(front), _) if back < front => into.extend(other),
        (Some(front), _, _, Some(back)) if back < front => {
            other.into_iter().rev().for_each(|start| into.push_front(start))
        }
        (_, _, None, _) => {}
        _ => {
            into.extend(other);
            into.make_contiguous().sort_unstable();
        }
    }
}

/// The format of the encoded state.
const FORMAT: u8 = 1;

fn put_row(row: &Row, out: &mut Vec<u8>) {
    put(row.facts.time_ns as u64, out);
    put(row.facts.ingest_ns as u64, out);
    put_bytes(&row.facts.place, out);
    put_bytes(&row.facts.values, out);
    put(row.holds, out);
    put(row.with.len() as u64, out);
    for (last, holds) in &row.with {
        put_last(last, out);
        put(*holds, out);
    }
}

fn read_row(bytes: &mut Bytes<'_>) -> Result<Row, String> {
    let facts = Facts {
        time_ns: bytes.number()? as i64,
        ingest_ns: bytes.number()? as i64,
        place: bytes.bytes()?.into(),
        values: bytes.bytes()?.into(),
    };
    let holds = bytes.number()?;
    let with = (0..bytes.number()?).map(|_| Ok((read_last(bytes)?, bytes.number()?))).collect::<Result<_, String>>()?;
    Ok(Row { facts: Arc::new(facts), holds, with })
}

fn put_last(last: &Last, out: &mut Vec<u8>) {
    put(last.len() as u64, out);
    last.iter().for_each(|row| put(*row, out));
}

fn read_last(bytes: &mut Bytes<'_>) -> Result<Last, String> {
    (0..bytes.number()?).map(|_| bytes.number()).collect()
}

fn put_rows<'a>(rows: impl ExactSizeIterator<Item = &'a Row>, out: &mut Vec<u8>) {
    put(rows.len() as u64, out);
    rows.for_each(|row| put_row(row, out));
}

fn read_rows<T: FromIterator<Row>>(bytes: &mut Bytes<'_>) -> Result<T, String> {
    (0..bytes.number()?).map(|_| read_row(bytes)).collect()
}

impl SlotState for Slot {
    fn encode(&self, out: &mut Vec<u8>) {
        out.push(FORMAT);
        put_rows(self.waiting.iter(), out);
        put(self.first, out);
        put_rows(self.rows.iter(), out);
        put(self.walks.len() as u64, out);
        for (stand, starts) in &self.walks {
            put(stand.at as u64, out);
            put(stand.count.into(), out);
            put(stand.seen, out);
            put_last(&stand.last, out);
            put(starts.len() as u64, out);
            starts.iter().for_each(|start| put(*start, out));
        }
    }

    fn decode(bytes: &[u8]) -> Result<Self, String> {
        let mut bytes = Bytes::of_format(bytes, FORMAT, "pattern")?;
        let waiting: Vec<Row> = read_rows(&mut bytes)?;
        let first = bytes.number()?;
        let rows = read_rows(&mut bytes)?;
        let mut walks = BTreeMap::new();
        for _ in 0..bytes.number()? {
            let at = bytes.number()? as usize;
            let count = bytes.number()? as u32;
            let stand = Stand { at, count, seen: bytes.number()?, last: read_last(&mut bytes)? };
            let starts: VecDeque<u64> = (0..bytes.number()?).map(|_| bytes.number()).collect::<Result<_, String>>()?;
            walks.insert(stand, starts);
        }
        bytes.end()?;
        Ok(Slot { least_ns: least_ns(&waiting), waiting, first, rows, walks, wake_ns: None })
    }

    fn suspend(&self, out: &mut Vec<u8>) {
        put_wake(self.wake_ns, out);
        self.encode(out);
    }

    fn resume(bytes: &[u8]) -> Result<Self, String> {
        let (wake_ns, bytes) = wake_of(bytes)?;
        Ok(Slot { wake_ns, ..Self::decode(bytes)? })
    }

    fn heap_bytes(&self) -> usize {
        let of_row = |row: &Row| size_of::<Row>() + size_of::<Facts>() + row.facts.place.len() + row.facts.values.len();
        let rows: usize = self.waiting.iter().chain(&self.rows).map(of_row).sum();
        rows + self.walks.values().map(|starts| size_of::<Stand>() + starts.len() * 8).sum::<usize>()
    }
}
