//! Numbers for the keys that have panes, so that the panes of a window are put together without comparing keys.
//!
//! It holds nothing that the store does not: a restart builds it anew.

use engine_state::tags::{hash_of, tag_of};
use engine_state::{SlotId, prefetch};
use hashbrown::HashTable;
use smallvec::SmallVec;
use xxhash_rust::xxh3::xxh3_64;

/// A number for each key, low ones first. Numbers of keys without panes are given again.
#[derive(Default)]
pub(super) struct KeyNumbers {
    table: HashTable<Entry>,
    keys: Vec<Numbered>,
    free: Vec<u32>,
}

/// The number of a key, and what its hash is told by.
struct Entry {
    tag: u32,
    at: u32,
}

struct Numbered {
    tag: u32,
    key: SmallVec<[u8; 24]>,
    panes: u32,
}

/// A pane of a slice, and the number of its key.
#[derive(Clone, Copy)]
pub(super) struct Numbers {
    pub(super) slot: SlotId,
    pub(super) key: u32,
}

impl KeyNumbers {
    /// The number of a key, which has one pane more.
    pub(super) fn add(&mut self, key: &[u8]) -> u32 {
        let tag = tag_of(xxh3_64(key));
        let keys = &self.keys;
        let same = |entry: &Entry| entry.tag == tag && *keys[entry.at as usize].key == *key;
        if let Some(at) = self.table.find(hash_of(tag), same).map(|entry| entry.at) {
            self.keys[at as usize].panes += 1;
            return at;
        }
        let new = Numbered { tag, key: SmallVec::from_slice(key), panes: 1 };
        let at = match self.free.pop() {
            Some(at) => {
                self.keys[at as usize] = new;
                at
            }
            None => {
                self.keys.push(new);
                (self.keys.len() - 1) as u32
            }
        };
        self.table.insert_unique(hash_of(tag), Entry { tag, at }, |entry| hash_of(entry.tag));
        at
    }

    /// Asks the memory for the key of this number, which will be used soon.
    pub(super) fn prefetch(&self, at: u32) {
        if let Some(numbered) = self.keys.get(at as usize) {
            prefetch(numbered);
        }
    }

    /// The key of this number has one pane less.
    pub(super) fn remove(&mut self, at: u32) {
        let numbered = &mut self.keys[at as usize];
        numbered.panes -= 1;
        if numbered.panes == 0 {
            if let Ok(entry) = self.table.find_entry(hash_of(numbered.tag), |entry| entry.at == at) {
                entry.remove();
            }
            self.free.push(at);
        }
    }

    /// The panes of slices, those of a key side by side in the order of the slices, and how many each key has.
    pub(super) fn by_key<'a>(&self, slices: impl Iterator<Item = &'a [Numbers]> + Clone) -> (Vec<SlotId>, Vec<u32>) {
        const NONE: u32 = u32::MAX;
        let mut place = vec![NONE; self.keys.len()];
        let mut counts: Vec<u32> = Vec::new();
        for pane in slices.clone().flatten() {
            let place = &mut place[pane.key as usize];
            if *place == NONE {
                *place = counts.len() as u32;
                counts.push(0);
            }
            counts[*place as usize] += 1;
        }
        let mut next: Vec<u32> = Vec::with_capacity(counts.len());
        let mut total = 0;
        for count in &counts {
            next.push(total);
            total += count;
        }
        // Each place is written once: the counts are of the same panes.
        let mut panes = match slices.clone().flatten().next() {
            Some(pane) => vec![pane.slot; total as usize],
            None => Vec::new(),
        };
        for pane in slices.flatten() {
            let next = &mut next[place[pane.key as usize] as usize];
            panes[*next as usize] = pane.slot;
            *next += 1;
        }
        (panes, counts)
    }
}
