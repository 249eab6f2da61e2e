//! `within`: rows that are near each other in event time.
//!
//! ```text
//! an epoch:  meet    new left rows meet the right ones that are kept ──▶ pairs
//!            keep    they are kept
//!            meet    new right rows meet all left ones, the new too ──▶ pairs
//!            keep    they are kept
//!            expire  rows that no other can meet any more ──▶ those without a match, where they are wanted
//! ```
//!
//! A left row can be met as long as the right watermark is not beyond `after` behind it, a right one as long as the left
//! watermark is not beyond `before` behind it. Rows lie in slots of a key and a slice of time, in order of time.

use super::index::{KeyIndex, hash_of};
use super::pairs::{Matching, Pairs, Portion};
use super::plan::{JoinKind, JoinPlan, Reach};
use super::slot::{Slot, Stored, View, kept_row};
use super::taken::{At, Reader, Taken};
use super::{LEFT, PORTION_ROWS, RIGHT};
use crate::RenderCx;
use crate::keyed::{Waiting, kept_by_key};
use engine_dataflow::{EpochStep, Moment, Rows, StepOutput, StepState};
use engine_state::{SlotId, SlotStore};
use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::mem::take;

/// By how many rows the place of a key is asked for ahead of its use.
const AHEAD: usize = 12;

pub(super) struct Interval {
    kind: JoinKind,
    reach: Reach,
    readers: [Reader; 2],
    pairs: Pairs,
    store: Box<dyn SlotStore<Slot>>,
    index: KeyIndex,
    /// The slots of each slice.
    slices: BTreeMap<i64, Slice>,
    /// Rows of a side that have no match yet, where they go out alone in the end.
    alone: [BinaryHeap<Reverse<(i64, SlotId)>>; 2],
    epoch: Epoch,
    portion_rows: usize,
    waiting: Waiting,
}

#[derive(Default)]
struct Slice {
    slots: Vec<SlotId>,
    /// Nothing is left of a side.
    cleared: [bool; 2],
}

/// The epoch that closes.
#[derive(Default)]
struct Epoch {
    phase: Phase,
    taken: [Taken; 2],
    /// The key's place in the index for each new row that has met the kept ones.
    places: [Vec<Option<u32>>; 2],
    /// Which new rows have had a match.
    matched: [Vec<bool>; 2],
    /// The next new row that meets the others.
    next: usize,
    /// Pairs that were found; those up to `given` are done with.
    found: Vec<Found>,
    given: usize,
    /// Slots in which left rows had their match and are to go.
    touched: Vec<SlotId>,
    /// What no row of a side can be met any more by, before the epoch and at its close.
    dead_before: [Dead; 2],
    dead: [Dead; 2],
    /// Rows that go out alone.
    fired: Vec<Fired>,
    clock_ns: i64,
}

#[derive(Clone, Copy, Default, PartialEq)]
enum Phase {
    /// New rows of a side meet the kept rows of the other.
    Meet(usize),
    /// They are kept.
    Keep(usize),
    /// Rows go that can't be met any more.
    Expire,
    /// Rows go out alone.
    Alone,
    #[default]
    Done,
}

/// A new row and a kept one of the other side.
#[derive(Clone, Copy)]
struct Found {
    new: u32,
    slot: SlotId,
    row: u32,
}

struct Fired {
    side: usize,
    row: FiredRow,
}

enum FiredRow {
    New(At),
    Kept(Stored),
}

impl Fired {
    fn view<'a>(&'a self, taken: &'a [Taken; 2]) -> View<'a> {
        match &self.row {
            FiredRow::New(at) => taken[self.side].view(*at),
            FiredRow::Kept(row) => row.view(),
        }
    }
}

/// The rows of a side that no row of the other can meet: those before a time, or all of them when the other has ended.
#[derive(Clone, Copy, Default)]
struct Dead {
    all: bool,
    before_ns: Option<i64>,
}

impl Dead {
    /// A row is met by others up to `reach_ns` later than itself.
    fn by(watermark_ns: Option<i64>, reach_ns: i64) -> Dead {
        let before_ns = watermark_ns.map(|watermark_ns| watermark_ns.saturating_sub(reach_ns));
        Dead { all: watermark_ns == Some(i64::MAX), before_ns }
    }

    fn has(&self, time_ns: i64) -> bool {
        self.all || self.before_ns.is_some_and(|before_ns| time_ns < before_ns)
    }
}

impl Interval {
    pub(super) fn new(
        plan: &JoinPlan,
        reach: Reach,
        cx: &RenderCx<'_>,
        store: Box<dyn SlotStore<Slot>>,
    ) -> Result<Self, String> {
        let wanted = cx.wanted.first().ok_or("a join without an output")?;
        let reader = |side: usize| Reader::new(cx, side, &plan.keys[side], &plan.key_types, &plan.kept(side, wanted));
        Ok(Interval {
            kind: plan.kind,
            reach,
            readers: [reader(LEFT)?, reader(RIGHT)?],
            pairs: Pairs::new(plan, cx)?,
            store,
            index: KeyIndex::default(),
            slices: BTreeMap::new(),
            alone: Default::default(),
            epoch: Epoch::default(),
            portion_rows: PORTION_ROWS,
            waiting: Waiting::new(cx),
        })
    }

    /// Takes up a slot that was put back.
    fn restored(&mut self, id: SlotId, key: &[u8], slice: i64) {
        self.note_slot(None, key, slice, id);
        let Some(slot) = self.store.get(id) else { return };
        for side in [LEFT, RIGHT] {
            if self.kind.alone(side) {
                let open = slot.sides[side].iter().filter(|row| !row.matched);
                self.alone[side].extend(open.map(|row| Reverse((row.time_ns, id))));
            }
        }
    }

    /// How many slots there are.
    #[cfg(test)]
    pub(super) fn slots(&self) -> usize {
        self.store.len()
    }

    /// Whether nothing is kept.
    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.store.is_empty()
            && self.index.is_empty()
            && self.slices.is_empty()
            && self.alone.iter().all(BinaryHeap::is_empty)
    }

    /// Slices and portions of another size.
    #[cfg(test)]
    pub(super) fn sized(&mut self, slice_ns: i64, portion_rows: usize) {
        (self.reach.slice, self.portion_rows) = (slice_ns, portion_rows);
    }

    fn slice_of(&self, time_ns: i64) -> i64 {
        time_ns.div_euclid(self.reach.slice)
    }

    /// Whether only left rows come out, each at most once: a row that had its match is kept no longer.
    fn left_only(&self) -> bool {
        !self.kind.pairs()
    }

    /// Whether it matters which rows of a side had a match.
    fn tracks(&self, side: usize) -> bool {
        self.kind.alone(side) || self.left_only() && side == LEFT
    }

    /// Finds the key of a new row in the index, and where the other side's rows lie that it matches.
    fn look(&self, side: usize, at: At) -> (Option<u32>, i64, i64) {
        let taken = &self.epoch.taken[side];
        let (key, time_ns) = (taken.key(at), taken.time_ns(at));
        let place = self.index.find(hash_of(key), |slot| self.store.key(slot) == Some(key));
        let Reach { before, after, .. } = self.reach;
        let (earlier, later) = if side == LEFT { (before, after) } else { (after, before) };
        (place, time_ns.saturating_sub(earlier), time_ns.saturating_add(later))
    }

    /// Lets new rows of a side meet the kept ones of the other, until there is a portion of pairs.
    fn meet(&mut self, side: usize) {
        let other = 1 - side;
        let mut slots: Vec<SlotId> = Vec::new();
        while self.epoch.found.len() < self.portion_rows
            && let Some(at) = self.epoch.taken[side].rows.get(self.epoch.next).copied()
        {
            let new = self.epoch.next;
            self.epoch.next += 1;
            if let Some(later) = self.epoch.taken[side].rows.get(new + AHEAD) {
                self.index.prefetch(hash_of(self.epoch.taken[side].key(*later)));
            }
            let (place, from_ns, to_ns) = self.look(side, at);
            self.epoch.places[side].push(place);
            let Some(place) = place else { continue };
            slots.clear();
            slots.extend(self.index.between(place, self.slice_of(from_ns), self.slice_of(to_ns)));
            for id in &slots {
                let Some(slot) = self.store.get(*id) else { continue };
                let range = slot.between(other, from_ns, to_ns);
                if range.is_empty() {
                    continue;
                }
                if !self.left_only() || self.pairs.has_condition() {
                    let found = range.map(|row| Found { new: new as u32, slot: *id, row: row as u32 });
                    self.epoch.found.extend(found);
                } else if side == LEFT {
                    self.epoch.matched[LEFT][new] = true;
                    break;
                } else if let Some(slot) = self.store.get_mut(*id) {
                    let rows = slot.sides[LEFT].drain(range);
                    if self.kind == JoinKind::Semi {
                        self.epoch.fired.extend(rows.map(|row| Fired { side: LEFT, row: FiredRow::Kept(row) }));
                    }
                }
            }
        }
    }

    /// Puts out a portion of the pairs that were found, and notes which rows had a match.
    fn give_pairs(&mut self, side: usize, out: &mut StepOutput) -> usize {
        let other = 1 - side;
        let (tracks, left_only) = ([self.tracks(LEFT), self.tracks(RIGHT)], self.left_only());
        let epoch = &mut self.epoch;
        let end = epoch.found.len().min(epoch.given + self.portion_rows);
        let found = &epoch.found[epoch.given..end];
        let mut portion = Portion::default();
        for pair in found {
            let at = epoch.taken[side].rows[pair.new as usize];
            let new = epoch.taken[side].view(at);
            let kept = kept_row(&*self.store, pair.slot, other, pair.row).view();
            let rows = if side == LEFT { [Some(new), Some(kept)] } else { [Some(kept), Some(new)] };
            portion.push(rows, new.time_ns.max(kept.time_ns), epoch.taken[side].born_ns(at));
        }
        let rows = self.pairs.gather(portion, epoch.clock_ns);
        let mut found_out = self.pairs.matching(&rows);
        for (at, pair) in found.iter().enumerate() {
            let kept = kept_row(&*self.store, pair.slot, other, pair.row).matched;
            // What comes out has its match: nothing more is asked.
            let settled = left_only && (if side == LEFT { epoch.matched[LEFT][pair.new as usize] } else { kept });
            if let Some(Matching { mask, errors }) = &mut found_out {
                if settled {
                    errors.remove(&at);
                    mask[at] = false;
                }
                if !mask[at] {
                    continue;
                }
            }
            epoch.matched[side][pair.new as usize] |= tracks[side];
            if tracks[other]
                && !kept
                && let Some(slot) = self.store.get_mut(pair.slot)
            {
                slot.sides[other][pair.row as usize].matched = true;
                if left_only {
                    epoch.touched.push(pair.slot);
                }
            }
        }
        let mask = self.pairs.sort_out(&rows, found_out, out);
        let count = found.len();
        epoch.given = end;
        if self.kind.pairs() {
            self.pairs.put_out(&rows, mask.as_ref(), out);
        }
        count
    }

    /// All pairs that were found are done with: where only left rows come out, those that had a match go.
    fn settle(&mut self) {
        self.epoch.found.clear();
        self.epoch.given = 0;
        let mut touched = take(&mut self.epoch.touched);
        if !self.left_only() {
            return;
        }
        touched.sort_unstable();
        touched.dedup();
        for id in touched {
            let Some(slot) = self.store.get_mut(id) else { continue };
            let (matched, open): (Vec<Stored>, Vec<Stored>) = slot.sides[LEFT].drain(..).partition(|row| row.matched);
            slot.sides[LEFT].extend(open);
            if self.kind == JoinKind::Semi {
                let fired = matched.into_iter().map(|row| Fired { side: LEFT, row: FiredRow::Kept(row) });
                self.epoch.fired.extend(fired);
            }
        }
    }

    /// Keeps the new rows of a side, but those that no row can meet any more.
    fn keep(&mut self, side: usize) {
        // All right rows of the epoch have met the left ones when they are kept; the left ones are yet to be met by them.
        let done = side == RIGHT || self.epoch.taken[RIGHT].rows.is_empty();
        for new in 0..self.epoch.taken[side].rows.len() {
            let taken = &self.epoch.taken[side];
            let at = taken.rows[new];
            let (time_ns, matched) = (taken.time_ns(at), self.epoch.matched[side][new]);
            if self.left_only() && matched {
                if self.kind == JoinKind::Semi {
                    self.epoch.fired.push(Fired { side, row: FiredRow::New(at) });
                }
                continue;
            }
            if self.epoch.dead_before[side].has(time_ns) || done && self.epoch.dead[side].has(time_ns) {
                if self.kind.alone(side) && !matched {
                    self.epoch.fired.push(Fired { side, row: FiredRow::New(at) });
                }
                continue;
            }
            let slice = self.slice_of(time_ns);
            let key = taken.key(at);
            let place = self.epoch.places[side][new];
            // A row before it may have been the first of its key.
            let place = place.or_else(|| self.index.find(hash_of(key), |slot| self.store.key(slot) == Some(key)));
            let id = match place.and_then(|place| self.index.slot(place, slice)) {
                Some(id) => id,
                None => {
                    let id = self.store.find_or_insert(key, slice, &mut Slot::default);
                    self.index.insert(place, hash_of(key), slice, id);
                    self.slices.entry(slice).or_default().slots.push(id);
                    id
                }
            };
            if let Some(slot) = self.store.get_mut(id) {
                slot.insert(side, Stored::new(&taken.view(at), matched));
            }
            if self.kind.alone(side) && !matched {
                self.alone[side].push(Reverse((time_ns, id)));
            }
        }
    }

    fn note_slot(&mut self, place: Option<u32>, key: &[u8], slice: i64, id: SlotId) {
        let place = place.or_else(|| self.index.find(hash_of(key), |slot| self.store.key(slot) == Some(key)));
        self.index.insert(place, hash_of(key), slice, id);
        self.slices.entry(slice).or_default().slots.push(id);
    }

    /// Takes out the rows without a match that no row can meet any more.
    fn expire(&mut self) {
        for side in [LEFT, RIGHT] {
            let dead = self.epoch.dead[side];
            while let Some(Reverse((time_ns, id))) = self.alone[side].peek().copied()
                && dead.has(time_ns)
            {
                self.alone[side].pop();
                let count = |slot: &Slot| slot.sides[side].partition_point(|row| dead.has(row.time_ns));
                let Some(count) = self.store.get(id).map(count).filter(|count| *count > 0) else { continue };
                let Some(slot) = self.store.get_mut(id) else { continue };
                let open = slot.sides[side].drain(..count).filter(|row| !row.matched);
                self.epoch.fired.extend(open.map(|row| Fired { side, row: FiredRow::Kept(row) }));
            }
        }
        let taken = &self.epoch.taken;
        self.epoch.fired.sort_by(|a, b| b.side.cmp(&a.side).then_with(|| b.view(taken).order(&a.view(taken))));
    }

    /// Puts out a portion of the rows that stand alone. The first is the last in the list.
    fn give_alone(&mut self, out: &mut StepOutput) -> usize {
        let fired = &self.epoch.fired;
        let side = fired.last().map_or(LEFT, |row| row.side);
        let rows = fired.iter().rev().take(self.portion_rows).take_while(|row| row.side == side);
        let mut portion = Portion::default();
        let mut count = 0;
        for row in rows {
            let view = row.view(&self.epoch.taken);
            let born_ns = match row.row {
                FiredRow::New(at) => self.epoch.taken[side].born_ns(at),
                FiredRow::Kept(_) => self.epoch.clock_ns,
            };
            let rows = if side == LEFT { [Some(view), None] } else { [None, Some(view)] };
            portion.push(rows, view.time_ns, born_ns);
            count += 1;
        }
        let rows = self.pairs.gather(portion, self.epoch.clock_ns);
        self.pairs.put_out(&rows, None, out);
        self.epoch.fired.truncate(self.epoch.fired.len() - count);
        count
    }

    /// Frees the slices of which no row can be met any more.
    fn clear(&mut self) {
        let mut gone = Vec::new();
        let dead = self.epoch.dead;
        let slice_ns = self.reach.slice;
        let is_dead = |side: usize, slice: i64| {
            let last_ns = slice.saturating_add(1).saturating_mul(slice_ns).saturating_sub(1);
            dead[side].has(last_ns)
        };
        for (slice, of_slice) in &mut self.slices {
            let now = [is_dead(LEFT, *slice), is_dead(RIGHT, *slice)];
            if now == [false, false] {
                break;
            }
            if now == [true, true] {
                gone.push(*slice);
                continue;
            }
            for side in [LEFT, RIGHT] {
                if !now[side] || of_slice.cleared[side] {
                    continue;
                }
                of_slice.cleared[side] = true;
                for id in &of_slice.slots {
                    if self.store.get(*id).is_some_and(|slot| !slot.sides[side].is_empty())
                        && let Some(slot) = self.store.get_mut(*id)
                    {
                        slot.sides[side] = Default::default();
                    }
                }
            }
        }
        for slice in gone {
            for id in self.slices.remove(&slice).into_iter().flat_map(|slice| slice.slots) {
                let hash = self.store.key(id).map(hash_of);
                if let Some(hash) = hash {
                    self.index.remove(hash, slice, id);
                }
                self.store.remove(id);
            }
        }
    }
}

kept_by_key!(Interval, |step| step.readers[LEFT].key_types());

impl EpochStep for Interval {
    fn state(&mut self) -> Option<&mut dyn StepState> {
        Some(self)
    }

    fn close(&mut self, moment: &Moment, inputs: Vec<Vec<Rows>>, out: &mut StepOutput) {
        let Reach { before, after, .. } = self.reach;
        let of = |watermarks: &[Option<i64>], side: usize| watermarks.get(side).copied().flatten();
        // What the other side's watermark says.
        let dead = |watermarks: &[Option<i64>]| {
            [Dead::by(of(watermarks, RIGHT), after), Dead::by(of(watermarks, LEFT), before)]
        };
        let mut epoch = Epoch {
            phase: Phase::Meet(LEFT),
            dead_before: dead(&moment.late_ns),
            dead: dead(&moment.watermark_ns),
            clock_ns: moment.clock_ns,
            ..Epoch::default()
        };
        for (side, batches) in inputs.into_iter().enumerate().take(2) {
            let late_ns = of(&moment.late_ns, side);
            let mut is_late = |time_ns: i64| late_ns.is_some_and(|late_ns| time_ns < late_ns);
            let taken = self.readers[side].take(batches, &mut is_late, out);
            epoch.matched[side] = vec![false; taken.rows.len()];
            match self.kind.alone(side) {
                // Null equals nothing.
                true => {
                    let fired = taken.unkeyed.iter().map(|at| Fired { side, row: FiredRow::New(*at) });
                    epoch.fired.extend(fired);
                }
                false => out.dropped += taken.unkeyed.len() as u64,
            }
            epoch.taken[side] = taken;
        }
        self.epoch = epoch;
    }

    fn resume(&mut self, out: &mut StepOutput) -> bool {
        self.store.settle();
        let mut given = 0;
        while given < self.portion_rows {
            match self.epoch.phase {
                Phase::Meet(side) => {
                    if self.epoch.given < self.epoch.found.len() {
                        given += self.give_pairs(side, out);
                        continue;
                    }
                    self.settle();
                    if self.epoch.next < self.epoch.taken[side].rows.len() {
                        self.meet(side);
                        continue;
                    }
                    self.epoch.next = 0;
                    self.epoch.phase = Phase::Keep(side);
                }
                Phase::Keep(side) => {
                    self.keep(side);
                    self.epoch.phase = if side == LEFT { Phase::Meet(RIGHT) } else { Phase::Expire };
                }
                Phase::Expire => {
                    self.expire();
                    self.epoch.phase = Phase::Alone;
                }
                Phase::Alone if !self.epoch.fired.is_empty() => given += self.give_alone(out),
                Phase::Alone => {
                    self.clear();
                    self.epoch = Epoch::default();
                    self.waiting.set(!self.slices.is_empty());
                }
                Phase::Done => return false,
            }
        }
        true
    }
}
