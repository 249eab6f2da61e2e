//! All slots in memory: a slab of entries behind a raw hash table.

use crate::frozen::{Frozen, Key};
use crate::tags::{self, hash_of};
use crate::{Change, SlotId, SlotState, SlotStore, prefetch};
use hashbrown::HashTable;
use std::collections::BTreeSet;
use xxhash_rust::xxh3::xxh3_64_with_seed;

/// A store without a disk behind it.
#[derive(Debug)]
pub struct MemoryStore<S> {
    index: HashTable<Entry>,
    slots: Slab<Slot<S>>,
    free: Vec<u32>,
    /// Whether changes are noted for [`SlotStore::drain_changes`]: what nobody drains must not grow.
    tracking: bool,
    /// How slots are marked that change now.
    mark: Mark,
    /// Slots that changed, in the order of their first change.
    dirty: Vec<u32>,
    /// Slots that were durable and are gone.
    deleted: BTreeSet<(Key, i64)>,
    frozen: Frozen,
}

/// Where a slot is, and what its hash is told by.
#[derive(Clone, Copy, Debug)]
struct Entry {
    tag: u32,
    at: u32,
}

/// Whether a slot changed: since the last freeze, or before it and not drained. Which of the two it is goes by turns.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Mark {
    Clean,
    #[default]
    Odd,
    Even,
}

impl Mark {
    fn other(self) -> Mark {
        if self == Mark::Odd { Mark::Even } else { Mark::Odd }
    }
}

#[derive(Debug)]
struct Slot<S> {
    tag: u32,
    key: Key,
    slice: i64,
    state: S,
    mark: Mark,
    /// A drain has visited it, or it was restored.
    durable: bool,
}

impl<S> Default for MemoryStore<S> {
    fn default() -> Self {
        MemoryStore {
            index: HashTable::new(),
            slots: Slab { parts: Vec::new(), len: 0 },
            free: Vec::new(),
            tracking: false,
            mark: Mark::default(),
            dirty: Vec::new(),
            deleted: BTreeSet::new(),
            frozen: Frozen::default(),
        }
    }
}

/// Places that stay where they are: it grows by parts, so that no insertion copies all there is, and no room is kept for as
/// much again.
#[derive(Debug)]
struct Slab<T> {
    parts: Vec<Box<[Option<T>]>>,
    len: usize,
}

/// Places of a part.
const PART: usize = 1 << 12;

impl<T> Slab<T> {
    #[inline]
    fn get(&self, at: u32) -> Option<&T> {
        self.parts.get(at as usize / PART)?[at as usize % PART].as_ref()
    }

    #[inline]
    fn place(&mut self, at: u32) -> Option<&mut Option<T>> {
        self.parts.get_mut(at as usize / PART).map(|part| &mut part[at as usize % PART])
    }

    fn push(&mut self, value: T) -> u32 {
        if self.len == self.parts.len() * PART {
            self.parts.push(std::iter::repeat_with(|| None).take(PART).collect());
        }
        let at = self.len as u32;
        self.len += 1;
        if let Some(place) = self.place(at) {
            *place = Some(value);
        }
        at
    }

    fn iter(&self) -> impl Iterator<Item = &T> {
        self.parts.iter().flat_map(|part| part.iter()).flatten()
    }
}

/// Bytes that come from the memory together.
const CACHE_LINE: usize = 64;

impl<S: SlotState> Slot<S> {
    /// It is about to change or to go, and is not marked as changed since the last freeze: what is still to be drained of it is
    /// put aside.
    fn thaw(&mut self, frozen: &mut Frozen) {
        if self.mark != Mark::Clean {
            frozen.put_aside(&self.key, self.slice, |bytes| self.state.encode(bytes));
            self.durable = true;
        }
    }
}

fn tag(key: &[u8], slice: i64) -> u32 {
    tags::tag_of(xxh3_64_with_seed(key, slice as u64))
}

impl<S> MemoryStore<S> {
    /// An empty store of which nobody drains the changes.
    pub fn new() -> Self {
        Self::default()
    }

    /// An empty store that notes its changes for [`SlotStore::drain_changes`].
    pub fn tracking() -> Self {
        MemoryStore { tracking: true, ..Self::default() }
    }

    fn lookup(&self, tag: u32, key: &[u8], slice: i64) -> Option<u32> {
        let slots = &self.slots;
        let same = |entry: &Entry| {
            entry.tag == tag && slots.get(entry.at).is_some_and(|slot| slot.slice == slice && *slot.key == *key)
        };
        self.index.find(hash_of(tag), same).map(|entry| entry.at)
    }

    fn insert(&mut self, tag: u32, key: &[u8], slice: i64, state: S, durable: bool) -> u32 {
        let dirty = self.tracking && !durable;
        let mark = if dirty { self.mark } else { Mark::Clean };
        let slot = Slot { tag, key: Key::from_slice(key), slice, state, mark, durable };
        let at = match self.free.pop() {
            Some(at) => {
                if let Some(place) = self.slots.place(at) {
                    *place = Some(slot);
                }
                at
            }
            None => self.slots.push(slot),
        };
        self.index.insert_unique(hash_of(tag), Entry { tag, at }, |entry| hash_of(entry.tag));
        if dirty {
            self.dirty.push(at);
        }
        at
    }
}

impl<S: SlotState> SlotStore<S> for MemoryStore<S> {
    fn find(&self, key: &[u8], slice: i64) -> Option<SlotId> {
        self.lookup(tag(key, slice), key, slice).map(SlotId)
    }

    fn find_or_insert(&mut self, key: &[u8], slice: i64, make: &mut dyn FnMut() -> S) -> SlotId {
        let tag = tag(key, slice);
        match self.lookup(tag, key, slice) {
            Some(at) => SlotId(at),
            None => SlotId(self.insert(tag, key, slice, make(), false)),
        }
    }

    fn key(&self, id: SlotId) -> Option<&[u8]> {
        self.slots.get(id.0).map(|slot| &*slot.key)
    }

    fn get(&self, id: SlotId) -> Option<&S> {
        self.slots.get(id.0).map(|slot| &slot.state)
    }

    fn prefetch(&self, key: &[u8], slice: i64) {
        let tag = tag(key, slice);
        let likely = self.index.find(hash_of(tag), |entry| entry.tag == tag);
        if let Some(entry) = likely {
            self.prefetch_slot(SlotId(entry.at));
        }
    }

    fn prefetch_slot(&self, id: SlotId) {
        if let Some(slot) = self.slots.get(id.0) {
            let start = std::ptr::from_ref(slot).cast::<u8>();
            (0..size_of_val(slot)).step_by(CACHE_LINE).for_each(|at| prefetch(start.wrapping_add(at)));
        }
    }

    fn get_mut(&mut self, id: SlotId) -> Option<&mut S> {
        let slot = self.slots.place(id.0)?.as_mut()?;
        if self.tracking && slot.mark != self.mark {
            slot.thaw(&mut self.frozen);
            slot.mark = self.mark;
            self.dirty.push(id.0);
        }
        Some(&mut slot.state)
    }

    fn remove(&mut self, id: SlotId) {
        let Some(mut slot) = self.slots.place(id.0).and_then(Option::take) else { return };
        if self.tracking && slot.mark != self.mark {
            slot.thaw(&mut self.frozen);
        }
        if let Ok(entry) = self.index.find_entry(hash_of(slot.tag), |entry| entry.at == id.0) {
            entry.remove();
        }
        if self.tracking && slot.durable {
            self.deleted.insert((slot.key, slot.slice));
        }
        // The place is used again only after the next drain would have skipped it: `dirty` may still name it, and the
        // flag of whatever stands there then decides.
        self.free.push(id.0);
    }

    fn len(&self) -> usize {
        self.index.len()
    }

    fn freeze(&mut self) {
        self.frozen = Frozen::new(std::mem::take(&mut self.dirty), std::mem::take(&mut self.deleted));
        self.mark = self.mark.other();
    }

    fn drain(&mut self, bytes: usize, visit: &mut dyn FnMut(Change<'_>)) -> bool {
        let old = self.mark.other();
        let slots = &mut self.slots;
        let slot = |at: u32, bytes: &mut Vec<u8>| {
            let slot = slots.place(at)?.as_mut().filter(|slot| slot.mark == old)?;
            (slot.mark, slot.durable) = (Mark::Clean, true);
            slot.state.encode(bytes);
            Some((slot.key.clone(), slot.slice))
        };
        self.frozen.drain(bytes, slot, visit)
    }

    fn restore(&mut self, key: &[u8], slice: i64, state: &[u8]) -> Result<(), String> {
        let state = S::decode(state)?;
        let tag = tag(key, slice);
        match self.lookup(tag, key, slice) {
            Some(at) => {
                if let Some(Some(slot)) = self.slots.place(at) {
                    slot.state = state;
                }
            }
            None => {
                self.insert(tag, key, slice, state, true);
            }
        }
        Ok(())
    }

    fn heap_bytes(&self) -> usize {
        let per_slot = size_of::<Option<Slot<S>>>() + size_of::<Entry>();
        let held: usize = self.slots.iter().map(|slot| slot.key.len() + slot.state.heap_bytes()).sum();
        held + self.slots.len * per_slot
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use std::collections::BTreeMap;

    impl SlotState for u64 {
        fn encode(&self, out: &mut Vec<u8>) {
            out.extend_from_slice(&self.to_le_bytes());
        }
        fn decode(bytes: &[u8]) -> Result<Self, String> {
            Ok(u64::from_le_bytes(bytes.try_into().map_err(|_| "not eight bytes".to_owned())?))
        }
        fn heap_bytes(&self) -> usize {
            0
        }
    }

    /// A store, a plain map beside it, and a checkpoint kept up from drains, which take several steps; random steps from a seed.
    pub(crate) fn check(seed: u64, new: &dyn Fn() -> Box<dyn SlotStore<u64>>) {
        let mut random = seed;
        let mut next = move |bound: u64| {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (random >> 33) % bound
        };
        let mut store = new();
        let mut plain: BTreeMap<(Vec<u8>, i64), u64> = BTreeMap::new();
        let mut checkpoint: BTreeMap<(Vec<u8>, i64), Vec<u8>> = BTreeMap::new();
        // As it was at the freeze, while that is drained.
        let mut frozen: Option<BTreeMap<(Vec<u8>, i64), u64>> = None;
        for _ in 0..600 {
            let key = vec![b'k', next(12) as u8];
            let slice = next(3) as i64;
            match next(10) {
                0..6 => {
                    let id = store.find_or_insert(&key, slice, &mut || 0);
                    let value = next(1000);
                    *store.get_mut(id).unwrap() += value;
                    *plain.entry((key, slice)).or_default() += value;
                }
                6..8 => {
                    if let Some(id) = store.find(&key, slice) {
                        store.remove(id);
                    }
                    plain.remove(&(key, slice));
                }
                _ => {
                    let was = match frozen.take() {
                        Some(was) => was,
                        None => {
                            store.freeze();
                            plain.clone()
                        }
                    };
                    let bytes = if next(2) == 0 { usize::MAX } else { next(60) as usize };
                    let mut visited = 0;
                    let more = store.drain(bytes, &mut |change| match change {
                        Change::Put { key, slice, state } => {
                            visited += 1;
                            checkpoint.insert((key.to_vec(), slice), state.to_vec());
                        }
                        Change::Delete { key, slice } => {
                            visited += 1;
                            checkpoint.remove(&(key.to_vec(), slice));
                        }
                    });
                    assert!(visited <= 31 || bytes > 60, "seed {seed}: {visited} of {bytes} bytes");
                    store.settle();
                    if more {
                        frozen = Some(was);
                        continue;
                    }
                    let mut restored = new();
                    for ((key, slice), state) in &checkpoint {
                        restored.restore(key, *slice, state).unwrap();
                    }
                    assert_eq!(restored.len(), was.len(), "seed {seed}");
                    for ((key, slice), value) in &was {
                        let id = restored.find(key, *slice).unwrap();
                        assert_eq!(restored.get(id), Some(value), "seed {seed}");
                    }
                    if next(4) == 0 {
                        (store, plain) = (restored, was);
                    }
                }
            }
            assert_eq!(store.len(), plain.len(), "seed {seed}");
        }
    }

    #[test]
    fn drains_keep_a_checkpoint_equal_to_the_store() {
        (0..200).for_each(|seed| check(seed, &|| Box::new(MemoryStore::tracking())));
    }
}
