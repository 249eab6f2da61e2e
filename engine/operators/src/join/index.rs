//! Which slots a key has: the store finds a slot by its key and slice, and a row meets rows of several slices.
//!
//! It holds nothing that the store does not: a restart builds it anew.

use engine_state::tags::{self, tag_of};
use engine_state::{SlotId, prefetch};
use hashbrown::HashTable;
use smallvec::SmallVec;
use xxhash_rust::xxh3::xxh3_64;

/// The hash of a key.
pub(super) fn hash_of(key: &[u8]) -> u64 {
    tags::hash_of(tag_of(xxh3_64(key)))
}

/// The slots of each key.
#[derive(Default)]
pub(super) struct KeyIndex {
    table: HashTable<Entry>,
    keys: Vec<Key>,
    free: Vec<u32>,
}

/// Where a key is, and what its hash is told by.
#[derive(Clone, Copy)]
struct Entry {
    tag: u32,
    at: u32,
}

struct Key {
    /// In the order of their slices.
    slots: SmallVec<[(i64, SlotId); 2]>,
}

impl KeyIndex {
    /// The place of a key. `is` says whether a slot is one of it.
    pub(super) fn find(&self, hash: u64, is: impl Fn(SlotId) -> bool) -> Option<u32> {
        let same = |entry: &Entry| {
            entry.tag == tag_of(hash) && self.keys[entry.at as usize].slots.first().is_some_and(|(_, slot)| is(*slot))
        };
        self.table.find(hash, same).map(|entry| entry.at)
    }

    /// Asks the memory for the place of a key that will be looked up soon.
    pub(super) fn prefetch(&self, hash: u64) {
        if let Some(entry) = self.table.find(hash, |entry| entry.tag == tag_of(hash)) {
            prefetch(&raw const self.keys[entry.at as usize]);
        }
    }

    /// The slots of the key at a place with slices from one to another, both inclusive, in order.
    pub(super) fn between(&self, at: u32, from: i64, to: i64) -> impl Iterator<Item = SlotId> {
        let slots = &self.keys[at as usize].slots;
        let first = slots.partition_point(|(slice, _)| *slice < from);
        slots[first..].iter().take_while(move |(slice, _)| *slice <= to).map(|(_, slot)| *slot)
    }

    /// The slot of the key at a place with just this slice.
    pub(super) fn slot(&self, at: u32, slice: i64) -> Option<SlotId> {
        let slots = &self.keys[at as usize].slots;
        // Mostly the latest.
        match slots.last() {
            Some((last, slot)) if *last == slice => Some(*slot),
            _ => slots.binary_search_by_key(&slice, |(slice, _)| *slice).ok().map(|at| slots[at].1),
        }
    }

    /// Adds a slot to the key at a place, or to a new one; gives its place.
    pub(super) fn insert(&mut self, at: Option<u32>, hash: u64, slice: i64, slot: SlotId) -> u32 {
        if let Some(at) = at {
            let slots = &mut self.keys[at as usize].slots;
            let place = slots.partition_point(|(other, _)| *other < slice);
            slots.insert(place, (slice, slot));
            return at;
        }
        let key = Key { slots: SmallVec::from_slice(&[(slice, slot)]) };
        let at = match self.free.pop() {
            Some(at) => {
                self.keys[at as usize] = key;
                at
            }
            None => {
                self.keys.push(key);
                (self.keys.len() - 1) as u32
            }
        };
        self.table.insert_unique(hash, Entry { tag: tag_of(hash), at }, |entry| tags::hash_of(entry.tag));
        at
    }

    /// Takes a slot from its key.
    pub(super) fn remove(&mut self, hash: u64, slice: i64, slot: SlotId) {
        let keys = &mut self.keys;
        let has = |entry: &Entry| {
            let of_key = || keys[entry.at as usize].slots.binary_search_by_key(&slice, |(slice, _)| *slice);
            entry.tag == tag_of(hash) && of_key().is_ok_and(|at| keys[entry.at as usize].slots[at].1 == slot)
        };
        let Ok(entry) = self.table.find_entry(hash, has) else { return };
        let at = entry.get().at;
        let slots = &mut keys[at as usize].slots;
        slots.retain(|(_, other)| *other != slot);
        if slots.is_empty() {
            entry.remove();
            self.free.push(at);
        }
    }

    /// Whether there is no key.
    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.table.is_empty()
    }
}
