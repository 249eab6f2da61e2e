//! `window`: rows that are in the same window, put out when it closes.
//!
//! Rows lie in slots of a key and a slice of time, in the order in which they came; a slot that is full has others behind it, so
//! that a checkpoint never writes all rows of a hot key. A window is put together from its slices when both watermarks have
//! passed its end, one window after the other.

use super::pairs::{Matching, Pairs, Portion};
use super::plan::{JoinKind, JoinPlan};
use super::slot::{Slot, Stored, kept_row};
use super::taken::{At, Reader, Taken};
use super::{LEFT, PORTION_ROWS, RIGHT};
use crate::RenderCx;
use crate::keyed::Waiting;
use crate::keyed::kept_by_key;
use crate::window::assign::Windows;
use engine_dataflow::{EpochStep, Moment, Rows, StepOutput, StepState};
use engine_state::{SlotId, SlotStore};
use std::collections::BTreeMap;
use std::ops::Range;

/// How many rows of a key and a slice lie in one slot.
const SLOT_ROWS: usize = 1_024;
/// What a further slot of a key and a slice has behind the key: its number.
const PART_BYTES: usize = 4;

pub(super) struct SameWindow {
    kind: JoinKind,
    windows: Windows,
    readers: [Reader; 2],
    pairs: Pairs,
    store: Box<dyn SlotStore<Slot>>,
    slot_rows: usize,
    portion_rows: usize,
    /// The slots of each slice, by its start.
    slices: BTreeMap<i64, Slice>,
    taken: [Taken; 2],
    /// Rows that go out alone since their key has a null; the first is the last.
    unkeyed: Vec<Unkeyed>,
    /// The windows that end after the one and up to the other are to be put out.
    closing: Option<(Option<i64>, i64)>,
    window: Option<Window>,
    clock_ns: i64,
    waiting: Waiting,
}

struct Slice {
    end: i64,
    slots: Vec<SlotId>,
}

struct Unkeyed {
    side: usize,
    at: At,
    window: (i64, i64),
}

/// A window on its way out.
#[derive(Default)]
struct Window {
    bounds: (i64, i64),
    /// Its rows of each side; those of a key stand together.
    rows: [Vec<(SlotId, u32)>; 2],
    /// Which of them have a match.
    matched: [Vec<bool>; 2],
    /// For each key its rows of both sides.
    keys: Vec<[Range<usize>; 2]>,
    /// The key, and the left row of it, that meets the right rows next.
    key: usize,
    left: usize,
    /// Pairs that were found; those up to `given` are done with.
    found: Vec<(u32, u32)>,
    given: usize,
    /// The next row of each side that may stand alone.
    alone: [usize; 2],
}

impl SameWindow {
    pub(super) fn new(
        plan: &JoinPlan,
        windows: Windows,
        cx: &RenderCx<'_>,
        store: Box<dyn SlotStore<Slot>>,
    ) -> Result<Self, String> {
        let wanted = cx.wanted.first().ok_or("a join without an output")?;
        let reader = |side: usize| Reader::new(cx, side, &plan.keys[side], &plan.key_types, &plan.kept(side, wanted));
        Ok(SameWindow {
            kind: plan.kind,
            windows,
            readers: [reader(LEFT)?, reader(RIGHT)?],
            pairs: Pairs::new(plan, cx)?,
            store,
            slot_rows: SLOT_ROWS,
            portion_rows: PORTION_ROWS,
            slices: BTreeMap::new(),
            taken: Default::default(),
            unkeyed: Vec::new(),
            closing: None,
            window: None,
            clock_ns: 0,
            waiting: Waiting::new(cx),
        })
    }

    /// Takes up a slot that was put back.
    fn restored(&mut self, id: SlotId, _key: &[u8], slice: i64) {
        let end = self.windows.slice_of(slice).1;
        self.slices.entry(slice).or_insert_with(|| Slice { end, slots: Vec::new() }).slots.push(id);
    }

    /// How many slots there are.
    #[cfg(test)]
    pub(super) fn slots(&self) -> usize {
        self.store.len()
    }

    /// Whether nothing is kept.
    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.store.is_empty() && self.slices.is_empty()
    }

    /// Slots and portions of another size.
    #[cfg(test)]
    pub(super) fn sized(&mut self, slot_rows: usize, portion_rows: usize) {
        (self.slot_rows, self.portion_rows) = (slot_rows, portion_rows);
    }

    /// Keeps the new rows of a side.
    fn keep(&mut self, side: usize, out: &mut StepOutput) {
        let mut further: Vec<u8> = Vec::new();
        let taken = &self.taken[side];
        for at in &taken.rows {
            let time_ns = taken.time_ns(*at);
            let slice = self.windows.slice_of(time_ns);
            // With gaps between windows, a row may be in none: it is of no use, and not late.
            if self.windows.ends(slice).next().is_none() {
                out.dropped += 1;
                continue;
            }
            let key = taken.key(*at);
            let (mut id, new) = slot_of(&mut *self.store, key, slice.0, 0);
            let slots =
                &mut self.slices.entry(slice.0).or_insert_with(|| Slice { end: slice.1, slots: Vec::new() }).slots;
            if new {
                slots.push(id);
            }
            let rows = |slot: &Slot| slot.sides.iter().map(|rows| rows.len()).sum::<usize>();
            let full = |slot: Option<&Slot>| slot.is_some_and(|slot| rows(slot) >= self.slot_rows);
            if full(self.store.get(id)) {
                let first = id;
                let mut part = self.store.get(first).map_or(0, |slot| slot.more);
                let mut is_full = part == 0;
                if part > 0 {
                    id = slot_of(&mut *self.store, part_key(key, part, &mut further), slice.0, part).0;
                    is_full = full(self.store.get(id));
                }
                if is_full {
                    part += 1;
                    id = slot_of(&mut *self.store, part_key(key, part, &mut further), slice.0, part).0;
                    slots.push(id);
                    if let Some(slot) = self.store.get_mut(first) {
                        slot.more = part;
                    }
                }
            }
            if let Some(slot) = self.store.get_mut(id) {
                slot.sides[side].push(Stored::new(&taken.view(*at), false));
            }
        }
    }

    /// Rows whose key has a null match nothing: where such rows come out, they do at once, for each of their windows that is open.
    fn stand_alone(&mut self, side: usize, closed_ns: Option<i64>, out: &mut StepOutput) {
        let taken = &self.taken[side];
        for at in &taken.unkeyed {
            let slice = self.windows.slice_of(taken.time_ns(*at));
            let open = self.windows.ends(slice).filter(|end| closed_ns.is_none_or(|closed_ns| closed_ns < *end));
            let before = self.unkeyed.len();
            if self.kind.alone(side) {
                let rows =
                    open.map(|end| Unkeyed { side, at: *at, window: (self.windows.start_of(end, slice.0), end) });
                self.unkeyed.extend(rows);
            }
            out.dropped += u64::from(self.unkeyed.len() == before);
        }
    }

    /// The next of the windows that close now: where it starts and ends. They are looked for one by one: there may be as many as
    /// there is time between two watermarks.
    fn next_due(&mut self) -> Option<(i64, i64)> {
        let (after_ns, closed_ns) = self.closing?;
        let from = after_ns.map_or(i64::MIN, |after_ns| self.windows.slices_from(after_ns));
        let slices = self.slices.range(from..closed_ns).map(|(start, slice)| (*start, slice.end));
        let next = self.windows.next(after_ns, slices).filter(|(_, end)| *end <= closed_ns);
        self.closing = next.map(|(_, end)| (Some(end), closed_ns));
        next
    }

    /// Puts the rows of a window together.
    fn open(&self, bounds: (i64, i64)) -> Window {
        let mut window = Window { bounds, ..Window::default() };
        let slices = self.slices.range(bounds.0..bounds.1);
        // The first bytes of a key mostly tell it from others, and lie at hand.
        let head = |id: SlotId| {
            let mut head = [0; 16];
            let key = self.base_key(id);
            let len = key.len().min(16);
            head[..len].copy_from_slice(&key[..len]);
            u128::from_be_bytes(head)
        };
        let mut slots: Vec<(u128, i64, SlotId)> =
            slices.flat_map(|(start, slice)| slice.slots.iter().map(|id| (head(*id), *start, *id))).collect();
        let part = |id: SlotId| self.store.get(id).map_or(0, |slot| slot.part);
        slots.sort_unstable_by(|a, b| {
            let keys = || self.base_key(a.2).cmp(self.base_key(b.2));
            a.0.cmp(&b.0).then_with(keys).then(a.1.cmp(&b.1)).then_with(|| part(a.2).cmp(&part(b.2)))
        });
        for of_key in slots.chunk_by(|a, b| a.0 == b.0 && self.base_key(a.2) == self.base_key(b.2)) {
            let mut ranges = [0..0, 0..0];
            for (side, range) in ranges.iter_mut().enumerate() {
                let rows = &mut window.rows[side];
                let first = rows.len();
                for (.., id) in of_key {
                    let count = self.store.get(*id).map_or(0, |slot| slot.sides[side].len());
                    rows.extend((0..count).map(|row| (*id, row as u32)));
                }
                *range = first..rows.len();
            }
            // Without a further condition, all rows of a key match that has rows of both sides.
            let all = !self.pairs.has_condition() && ranges.iter().all(|range| !range.is_empty());
            for (matched, range) in window.matched.iter_mut().zip(&ranges) {
                matched.resize(range.end, all);
            }
            window.keys.push(ranges);
        }
        if !self.kind.pairs() && !self.pairs.has_condition() {
            // The pairs themselves are of no interest.
            window.key = window.keys.len();
        }
        window
    }

    /// The key of a slot, without the number of a further one.
    fn base_key(&self, id: SlotId) -> &[u8] {
        let key = self.store.key(id).unwrap_or_default();
        match self.store.get(id) {
            Some(slot) if slot.part > 0 => &key[..key.len().saturating_sub(PART_BYTES)],
            _ => key,
        }
    }

    /// Puts out a portion of a window; how many rows or pairs it went through, none when all are out.
    fn give(&mut self, window: &mut Window, out: &mut StepOutput) -> usize {
        if window.given == window.found.len() {
            window.meet(self.portion_rows);
        }
        if !window.found.is_empty() {
            return self.give_pairs(window, out);
        }
        for side in [LEFT, RIGHT] {
            // Which rows come out by themselves: those that had a match, or those that had none.
            let wanted = match self.kind {
                JoinKind::Semi if side == LEFT => true,
                kind if kind.alone(side) => false,
                _ => continue,
            };
            let matched = window.matched[side].iter().enumerate().skip(window.alone[side]);
            let rows: Vec<usize> = matched
                .filter(|(_, matched)| **matched == wanted)
                .map(|(row, _)| row)
                .take(self.portion_rows)
                .collect();
            window.alone[side] = rows.last().map_or(window.matched[side].len(), |last| last + 1);
            if rows.is_empty() {
                continue;
            }
            let mut portion = Portion::default();
            for row in &rows {
                let (id, row) = window.rows[side][*row];
                let view = kept_row(&*self.store, id, side, row).view();
                let rows = if side == LEFT { [Some(view), None] } else { [None, Some(view)] };
                portion.push_in(rows, window.bounds, self.clock_ns);
            }
            let given = self.pairs.gather(portion, self.clock_ns);
            self.pairs.put_out(&given, None, out);
            return rows.len();
        }
        0
    }

    fn give_pairs(&mut self, window: &mut Window, out: &mut StepOutput) -> usize {
        let end = window.found.len().min(window.given + self.portion_rows);
        let found = &window.found[window.given..end];
        let mut portion = Portion::default();
        for (left, right) in found {
            let of = |side: usize, row: u32| {
                let (id, row) = window.rows[side][row as usize];
                Some(kept_row(&*self.store, id, side, row).view())
            };
            portion.push_in([of(LEFT, *left), of(RIGHT, *right)], window.bounds, self.clock_ns);
        }
        let rows = self.pairs.gather(portion, self.clock_ns);
        let mut found_out = self.pairs.matching(&rows);
        if let Some(Matching { mask, errors }) = &mut found_out {
            for (at, (left, right)) in found.iter().enumerate() {
                let (left, right) = (*left as usize, *right as usize);
                // What comes out has its match: nothing more is asked.
                let settled = !self.kind.pairs() && window.matched[LEFT][left];
                if settled {
                    errors.remove(&at);
                }
                mask[at] &= !settled;
                if mask[at] {
                    window.matched[LEFT][left] = true;
                    window.matched[RIGHT][right] = true;
                }
            }
        }
        let mask = self.pairs.sort_out(&rows, found_out, out);
        if self.kind.pairs() {
            self.pairs.put_out(&rows, mask.as_ref(), out);
        }
        let count = found.len();
        window.given = end;
        count
    }

    /// Frees the slices of which a window was the last.
    fn free(&mut self, bounds: (i64, i64)) {
        let last =
            |(start, slice): (&i64, &Slice)| (self.windows.last_end((*start, slice.end)) == bounds.1).then_some(*start);
        let freed: Vec<i64> = self.slices.range(bounds.0..bounds.1).filter_map(last).collect();
        for start in freed {
            let slice = self.slices.remove(&start);
            slice.into_iter().flat_map(|slice| slice.slots).for_each(|id| self.store.remove(id));
        }
    }

    /// Puts out a portion of the rows that match nothing.
    fn give_unkeyed(&mut self, out: &mut StepOutput) -> usize {
        let side = self.unkeyed.last().map_or(LEFT, |row| row.side);
        let rows = self.unkeyed.iter().rev().take(self.portion_rows).take_while(|row| row.side == side);
        let mut portion = Portion::default();
        let mut count = 0;
        for row in rows {
            let view = self.taken[side].view(row.at);
            let rows = if side == LEFT { [Some(view), None] } else { [None, Some(view)] };
            portion.push_in(rows, row.window, self.taken[side].born_ns(row.at));
            count += 1;
        }
        let rows = self.pairs.gather(portion, self.clock_ns);
        self.pairs.put_out(&rows, None, out);
        self.unkeyed.truncate(self.unkeyed.len() - count);
        count
    }
}

impl Window {
    /// Finds pairs, up to a portion: each left row with all right rows of its key.
    fn meet(&mut self, portion_rows: usize) {
        self.found.clear();
        self.given = 0;
        while self.found.len() < portion_rows
            && let Some([lefts, rights]) = self.keys.get(self.key)
        {
            let left = lefts.start + self.left;
            if rights.is_empty() || left >= lefts.end {
                self.key += 1;
                self.left = 0;
                continue;
            }
            self.found.extend(rights.clone().map(|right| (left as u32, right as u32)));
            self.left += 1;
        }
    }
}

/// The slot of a key and a slice, and whether it is new.
fn slot_of(store: &mut dyn SlotStore<Slot>, key: &[u8], slice: i64, part: u32) -> (SlotId, bool) {
    let mut new = false;
    let id = store.find_or_insert(key, slice, &mut || {
        new = true;
        Slot { part, ..Slot::default() }
    });
    (id, new)
}

/// The key of a further slot. No key is the beginning of another one, so it is no key itself.
fn part_key<'b>(key: &[u8], part: u32, further: &'b mut Vec<u8>) -> &'b [u8] {
    further.clear();
    further.extend_from_slice(key);
    further.extend_from_slice(&part.to_be_bytes());
    further
}

kept_by_key!(SameWindow, |step| step.readers[LEFT].key_types());

impl EpochStep for SameWindow {
    fn state(&mut self) -> Option<&mut dyn StepState> {
        Some(self)
    }

    fn close(&mut self, moment: &Moment, inputs: Vec<Vec<Rows>>, out: &mut StepOutput) {
        self.clock_ns = moment.clock_ns;
        // What both sides have passed.
        let least = |watermarks: &[Option<i64>]| watermarks.iter().copied().min().flatten();
        let (before_ns, closed_ns) = (least(&moment.late_ns), least(&moment.watermark_ns));
        let windows = self.windows.clone();
        let mut is_late = |time_ns: i64| {
            let slice = windows.slice_of(time_ns);
            if !windows.hold(time_ns) {
                return true;
            }
            let closed = before_ns.is_some_and(|before_ns| windows.last_end(slice) <= before_ns);
            closed && windows.ends(slice).next().is_some()
        };
        for (side, batches) in inputs.into_iter().enumerate().take(2) {
            self.taken[side] = self.readers[side].take(batches, &mut is_late, out);
            self.keep(side, out);
            self.stand_alone(side, before_ns, out);
        }
        self.unkeyed.reverse();
        if let Some(closed_ns) = closed_ns.filter(|closed_ns| before_ns != Some(*closed_ns)) {
            self.closing = Some((before_ns, closed_ns));
        }
    }

    fn resume(&mut self, out: &mut StepOutput) -> bool {
        self.store.settle();
        let mut given = 0;
        while given < self.portion_rows {
            if !self.unkeyed.is_empty() {
                given += self.give_unkeyed(out);
                continue;
            }
            let Some(mut window) = self.window.take() else {
                let Some(bounds) = self.next_due() else {
                    self.taken = Default::default();
                    self.waiting.set(!self.slices.is_empty());
                    return false;
                };
                self.window = Some(self.open(bounds));
                continue;
            };
            match self.give(&mut window, out) {
                0 => self.free(window.bounds),
                count => {
                    given += count;
                    self.window = Some(window);
                }
            }
        }
        true
    }
}
