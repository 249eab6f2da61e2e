//! What a drain has still to visit, as it was when it was frozen, while the slots go on changing.
//!
//! ```text
//! freeze     the slots that changed are those of the old mark; from now on others get the new one
//! get_mut    of a slot with the old mark: its bytes are put aside first
//! drain      visits what was put aside, then slots that have the old mark still, then what was deleted
//! ```
//!
//! Freezing costs nothing, however many slots changed; a slot is encoded once, by the drain or by who changes it first.

use crate::Change;
use smallvec::SmallVec;
use std::collections::BTreeSet;
use std::vec::IntoIter;

/// A key's bytes; a short one lies in the slot itself, so that to compare it costs no other cache line.
pub(crate) type Key = SmallVec<[u8; 24]>;

/// What is to be drained.
#[derive(Debug, Default)]
pub(crate) struct Frozen {
    /// Places of slots that had changed. Some are visited already, or hold another slot now.
    places: IntoIter<u32>,
    /// Slots that were durable and were gone.
    deleted: BTreeSet<(Key, i64)>,
    /// Slots that changed again, or went, before they were visited: as they were.
    aside: Vec<(Key, i64, Vec<u8>)>,
}

impl Frozen {
    pub(crate) fn new(places: Vec<u32>, deleted: BTreeSet<(Key, i64)>) -> Frozen {
        Frozen { places: places.into_iter(), deleted, aside: Vec::new() }
    }

    /// Puts a slot aside that is about to change.
    pub(crate) fn put_aside(&mut self, key: &Key, slice: i64, encode: impl FnOnce(&mut Vec<u8>)) {
        let mut state = Vec::new();
        encode(&mut state);
        self.aside.push((key.clone(), slice, state));
    }

    /// Visits about so many bytes. `slot` encodes the slot of a place and gives its key and slice, if it is to be visited. False
    /// when nothing is left.
    pub(crate) fn drain(
        &mut self,
        bytes: usize,
        mut slot: impl FnMut(u32, &mut Vec<u8>) -> Option<(Key, i64)>,
        visit: &mut dyn FnMut(Change<'_>),
    ) -> bool {
        let mut given = 0;
        let mut put = |deleted: &mut BTreeSet<(Key, i64)>, (key, slice): (Key, i64), state: &[u8]| {
            visit(Change::Put { key: &key, slice, state });
            given += key.len() + state.len();
            if !deleted.is_empty() {
                deleted.remove(&(key, slice));
            }
            given >= bytes
        };
        while let Some((key, slice, state)) = self.aside.pop() {
            if put(&mut self.deleted, (key, slice), &state) {
                return true;
            }
        }
        let mut state = Vec::new();
        for place in self.places.by_ref() {
            state.clear();
            let Some(name) = slot(place, &mut state) else { continue };
            if put(&mut self.deleted, name, &state) {
                return true;
            }
        }
        while let Some((key, slice)) = self.deleted.pop_first() {
            visit(Change::Delete { key: &key, slice });
            given += key.len();
            if given >= bytes {
                return true;
            }
        }
        false
    }
}
