//! Snapshots: the state of all steps as it is after an epoch, taken piece by piece while the dataflow goes on (architecture,
//! decision 7).
//!
//! ```text
//! ask ─▶ the epoch: the greatest that is open on any worker, so that no step has seen its close
//!          │ sources close it
//!          ├─▶ a step that is about to act in a later epoch freezes what has changed first
//!          └─▶ the others when the frontier behind all has passed it
//!                └─▶ portion by portion what is frozen is given, between turns of the dataflow ─▶ through, on each worker
//! ```
//!
//! So a snapshot is of one cut of the input, a step freezes when it is between two epochs, and no row waits for longer than a
//! portion takes. What is written down of the parts, and when it counts, is left to whoever asks.

use crate::step::{KeyGroups, StepState};
use engine_base::SourceId;
use engine_state::Change;
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// The number of the last snapshot of a run: of all there is when the dataflow has come to its end.
pub const LAST: u64 = u64::MAX;

/// In the place of the open epoch of a worker that replays.
const NONE: u64 = u64::MAX;
/// In the place of the open epoch of a worker whose sources have ended.
const ENDED: u64 = u64::MAX - 1;

/// A piece of a snapshot.
pub enum Part {
    /// Some of the slots of a step that changed on a worker since the snapshot before.
    Slots {
        /// The step.
        step: Arc<str>,
        /// The changes, as [`changes`] reads them.
        changes: Vec<u8>,
        /// How the groups of its keys are found.
        groups: KeyGroups,
    },
    /// Rows that came to an input of a step on differential dataflow, or left it, since the snapshot before.
    Input {
        /// The step.
        step: Arc<str>,
        /// Which of its inputs.
        input: u16,
        /// The rows as bytes, each with by how many there are more or less of it.
        rows: Vec<(Vec<u8>, i64)>,
    },
    /// The watermarks that the inputs of a step have reached: the same on all workers.
    Reached {
        /// The step.
        step: Arc<str>,
        /// Of each input, nanoseconds since 1970 UTC.
        watermarks_ns: Vec<Option<i64>>,
    },
    /// The event time that partitions have reached.
    Times {
        /// The source.
        source: SourceId,
        /// By partition, nanoseconds since 1970 UTC.
        reached_ns: BTreeMap<u32, i64>,
    },
}

/// Something on a worker that has a part in snapshots.
pub trait Participant {
    /// Freezes its part of the snapshot of this number, unless it has done so. Nothing that comes later is in it.
    fn take_part(&mut self, number: u64, snapshots: &Snapshots);

    /// Gives about so many bytes of its part, if any are left. False when none are.
    fn give(&mut self, bytes: usize, snapshots: &Snapshots) -> bool;
}

/// One that an operator and its worker's loop share.
pub type Shared = Rc<RefCell<dyn Participant>>;

/// All of a worker that have a part in snapshots.
#[derive(Clone, Default)]
pub struct Participants(Rc<RefCell<Vec<Shared>>>);

impl Participants {
    /// One more.
    pub fn add(&self, participant: Shared) {
        self.0.borrow_mut().push(participant);
    }

    /// All freeze their parts that have not yet.
    pub fn take_part(&self, number: u64, snapshots: &Snapshots) {
        for participant in &*self.0.borrow() {
            participant.borrow_mut().take_part(number, snapshots);
        }
    }

    /// Gives a portion of what is frozen. False when nothing is left of it.
    pub fn give(&self, bytes: usize, snapshots: &Snapshots) -> bool {
        self.0.borrow().iter().any(|participant| participant.borrow_mut().give(bytes, snapshots))
    }
}

/// Bytes of changes that a worker may give between two turns of its operators: that takes some tenths of a millisecond, so
/// that rows have their turn as often.
pub const PORTION_BYTES: usize = 64 << 10;

/// The snapshots of a process.
pub struct Snapshots {
    /// The epoch after which the latest one stands, [`NONE`] before the first.
    due: AtomicU64,
    /// The number of the latest one, from 1.
    number: AtomicU64,
    /// The open epoch of each worker.
    open: Mutex<Vec<u64>>,
    portion_bytes: usize,
    give: Box<dyn Fn(u64, Part) + Send + Sync>,
}

impl Snapshots {
    /// None yet. Between two turns of its operators a worker gives so many bytes; [`PORTION_BYTES`] are good. `give` takes the
    /// parts with the number of their snapshot, on the workers' threads.
    pub fn new(workers: usize, portion_bytes: usize, give: Box<dyn Fn(u64, Part) + Send + Sync>) -> Self {
        let open = Mutex::new(vec![NONE; workers]);
        Snapshots { due: AtomicU64::new(NONE), number: AtomicU64::new(0), open, portion_bytes, give }
    }

    /// Bytes that a worker gives between two turns of its operators.
    pub fn portion_bytes(&self) -> usize {
        self.portion_bytes
    }

    /// A worker opens an epoch, the first that is not replayed; `None` where its sources have ended.
    pub fn opens(&self, worker: usize, epoch: Option<u64>) {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        open[worker] = epoch.unwrap_or(ENDED);
    }

    /// A worker that has an open epoch goes on to another. The number of the snapshot that stands between the two.
    pub fn moves(&self, worker: usize, epoch: u64) -> Option<u64> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let before = std::mem::replace(open.get_mut(worker)?, epoch);
        if before == NONE || before == ENDED {
            open[worker] = before;
            return None;
        }
        let (number, due) = self.latest();
        (number > 0 && before <= due && due < epoch).then_some(number)
    }

    /// Asks for one, of everything up to the epoch that is returned; `None` while a worker replays, and when all sources have
    /// ended. Those who close epochs are to be woken.
    pub fn ask(&self) -> Option<(u64, u64)> {
        let open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if open.contains(&NONE) {
            return None;
        }
        let epoch = open.iter().copied().filter(|epoch| *epoch != ENDED).max()?;
        // In this order: who sees the number sees the epoch.
        self.due.store(epoch, Ordering::SeqCst);
        let number = self.number.fetch_add(1, Ordering::SeqCst) + 1;
        Some((number, epoch))
    }

    /// The epoch that is to be closed for the latest one.
    pub fn due(&self) -> Option<u64> {
        Some(self.due.load(Ordering::SeqCst)).filter(|due| *due != NONE)
    }

    /// The number of the latest one, 0 before the first, and its epoch.
    pub fn latest(&self) -> (u64, u64) {
        let number = self.number.load(Ordering::SeqCst);
        (number, self.due.load(Ordering::SeqCst))
    }

    /// The number of the snapshot that has to be given to before anything happens in this epoch.
    pub fn before(&self, epoch: u64) -> Option<u64> {
        let (number, due) = self.latest();
        (number > 0 && due < epoch).then_some(number)
    }

    /// Gives a part.
    pub fn give(&self, number: u64, part: Part) {
        (self.give)(number, part);
    }
}

/// A portion of no more than that is not worth to make room for.
const SMALL_BYTES: usize = 8 << 10;

/// About so many bytes of the slots of a step that are frozen, and whether more are left.
pub fn part_of(step: &Arc<str>, state: &mut dyn StepState, bytes: usize) -> (Option<Part>, bool) {
    let mut changes = Vec::new();
    let more = state.drain(bytes, &mut |change| {
        // Once for a whole portion: growing step by step would touch twice the memory.
        if changes.len() > SMALL_BYTES && changes.capacity() < bytes {
            changes.reserve_exact(bytes.min(PORTION_BYTES) + SMALL_BYTES);
        }
        put_change(&change, &mut changes);
    });
    let part = (!changes.is_empty()).then(|| Part::Slots { step: step.clone(), changes, groups: state.key_groups() });
    (part, more)
}

/// `0 or 1 (put) │ slice i64 │ length of the key u32 │ length of the state u32 │ key │ state`
fn put_change(change: &Change<'_>, out: &mut Vec<u8>) {
    let (put, key, slice, state) = match *change {
        Change::Put { key, slice, state } => (1, key, slice, state),
        Change::Delete { key, slice } => (0, key, slice, &[][..]),
    };
    out.push(put);
    out.extend_from_slice(&slice.to_le_bytes());
    out.extend_from_slice(&(key.len() as u32).to_le_bytes());
    out.extend_from_slice(&(state.len() as u32).to_le_bytes());
    out.extend_from_slice(key);
    out.extend_from_slice(state);
}

/// The changes of a [`Part::Slots`].
pub fn changes(mut bytes: &[u8]) -> impl Iterator<Item = Change<'_>> {
    std::iter::from_fn(move || {
        let (head, rest) = bytes.split_at_checked(17)?;
        let slice = i64::from_le_bytes(head[1..9].try_into().ok()?);
        let length = |at: usize| Some(u32::from_le_bytes(head[at..at + 4].try_into().ok()?) as usize);
        let (key, rest) = rest.split_at_checked(length(9)?)?;
        let (state, rest) = rest.split_at_checked(length(13)?)?;
        bytes = rest;
        Some(if head[0] == 1 { Change::Put { key, slice, state } } else { Change::Delete { key, slice } })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_are_read_as_they_were_written() {
        let all = [
            Change::Put { key: b"a", slice: -5, state: b"xyz" },
            Change::Delete { key: b"", slice: i64::MAX },
            Change::Put { key: b"long key", slice: 0, state: b"" },
        ];
        let mut bytes = Vec::new();
        all.iter().for_each(|change| put_change(change, &mut bytes));
        assert_eq!(changes(&bytes).collect::<Vec<_>>(), all);
    }

    #[test]
    fn one_is_of_the_greatest_open_epoch_and_only_while_all_have_one() {
        let snapshots = Snapshots::new(2, PORTION_BYTES, Box::new(|_, _| ()));
        snapshots.opens(0, Some(3));
        assert_eq!((snapshots.ask(), snapshots.before(99)), (None, None), "the other one replays");
        snapshots.opens(1, Some(5));
        assert_eq!(snapshots.ask(), Some((1, 5)));
        assert_eq!((snapshots.before(5), snapshots.before(6), snapshots.due()), (None, Some(1), Some(5)));
        assert_eq!((snapshots.moves(0, 4), snapshots.moves(1, 6), snapshots.moves(0, 7)), (None, Some(1), Some(1)));
        snapshots.opens(1, None);
        assert_eq!(snapshots.ask(), Some((2, 7)), "one that has ended holds nobody back");
        snapshots.opens(0, None);
        assert_eq!(snapshots.ask(), None, "all have ended");
    }
}
