//! Slots of which the cold ones are on disk: a bound for the memory of state.
//!
//! A slot that is read or changed is in memory; when the step has settled ([`SlotStore::settle`]) and all stores together hold
//! more than the limit, those that were not used since the hand of a clock passed them last are written to the cold store and
//! leave (the CLOCK algorithm: Corbató 1968). What stays in memory of a cold slot is where it is: its place and an index entry.

use crate::cold::{ColdStore, LsmCold};
use crate::error::Result;
use crate::frozen::{Frozen, Key};
use crate::tags::{self, hash_of};
use crate::{Change, SlotId, SlotState, SlotStore};
use hashbrown::HashTable;
use std::cell::{Cell, OnceCell, RefCell};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use xxhash_rust::xxh3::xxh3_64_with_seed;

/// Bytes of slots that are written to the cold store at one time.
const BATCH_BYTES: usize = 1 << 20;

/// The memory that the state of a process may take, and where the rest is.
#[derive(Debug)]
pub struct StateMemory {
    limit: i64,
    used: AtomicI64,
    /// Of that, what can't leave.
    fixed: AtomicI64,
    path: PathBuf,
    /// None until it is needed.
    cold: Mutex<Option<Arc<dyn ColdStore>>>,
    /// Stores that share the limit.
    stores: AtomicU32,
    named: AtomicU32,
    /// It was said that cold slots can't be written.
    complained: AtomicBool,
}

impl StateMemory {
    /// So many bytes; what has no room is kept in a folder, which is made when it is needed.
    pub fn new(limit_bytes: u64, path: &Path) -> Arc<StateMemory> {
        Self::over(limit_bytes, path.to_owned(), None)
    }

    /// The same with a cold store that is there.
    pub fn with_store(limit_bytes: u64, cold: Arc<dyn ColdStore>) -> Arc<StateMemory> {
        Self::over(limit_bytes, PathBuf::new(), Some(cold))
    }

    fn over(limit_bytes: u64, path: PathBuf, cold: Option<Arc<dyn ColdStore>>) -> Arc<StateMemory> {
        Arc::new(StateMemory {
            limit: i64::try_from(limit_bytes).unwrap_or(i64::MAX),
            used: AtomicI64::new(0),
            fixed: AtomicI64::new(0),
            path,
            cold: Mutex::new(cold),
            stores: AtomicU32::new(0),
            named: AtomicU32::new(0),
            complained: AtomicBool::new(false),
        })
    }

    /// Notes that so many bytes more, or less, are held of what can't leave the memory. Says whether all of it is within the
    /// limit.
    pub fn charge_fixed(&self, bytes: i64) -> bool {
        self.charge(bytes);
        self.fixed.fetch_add(bytes, Ordering::Relaxed).saturating_add(bytes) <= self.limit
    }

    fn charge(&self, bytes: i64) {
        self.used.fetch_add(bytes, Ordering::Relaxed);
    }

    fn cold(&self) -> Result<Arc<dyn ColdStore>> {
        let mut cold = self.cold.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(cold) = &*cold {
            return Ok(cold.clone());
        }
        let opened: Arc<dyn ColdStore> = Arc::new(LsmCold::open(&self.path)?);
        *cold = Some(opened.clone());
        Ok(opened)
    }
}

/// A store that holds its cold slots on disk once the memory is used up.
#[derive(Debug)]
pub struct TieredStore<S> {
    memory: Arc<StateMemory>,
    /// What the keys of its cold slots begin with.
    name: u32,
    index: HashTable<Entry>,
    places: Vec<Place<S>>,
    free: Vec<u32>,
    tracking: bool,
    /// How slots are marked that change now: one of [`MARKS`].
    mark: u8,
    dirty: Vec<u32>,
    deleted: BTreeSet<(Key, i64)>,
    frozen: Frozen,
    /// Slots whose size may be another than it was.
    touched: RefCell<Vec<u32>>,
    /// Cold copies of slots that are gone.
    removed: Vec<u32>,
    resident: i64,
    hand: usize,
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    tag: u32,
    at: u32,
}

#[derive(Debug)]
struct Place<S> {
    slot: OnceCell<Box<Slot<S>>>,
    tag: u32,
    /// What it takes in memory, as it was counted last.
    bytes: Cell<u32>,
    flags: Cell<u8>,
}

#[derive(Debug)]
struct Slot<S> {
    key: Key,
    slice: i64,
    state: S,
}

/// There is a slot here, in memory or not.
const THERE: u8 = 1;
/// The cold store has a copy, of the slot or of one that was here before.
const COPY: u8 = 2;
/// The copy is what the slot is.
const CLEAN: u8 = 4;
/// It was used since the hand passed.
const USED: u8 = 8;
/// It is among those that were touched.
const TOUCHED: u8 = 16;
/// A drain has visited it, or it was restored.
const DURABLE: u8 = 32;
/// It changed: since the last freeze, or before it and is not drained. Which of the two it is goes by turns.
const MARKS: u8 = 64 | 128;
const FIRST_MARK: u8 = 64;

impl<S> Place<S> {
    fn has(&self, flag: u8) -> bool {
        self.flags.get() & flag != 0
    }

    fn set(&self, flags: u8) {
        self.flags.set(self.flags.get() | flags);
    }

    fn clear(&self, flags: u8) {
        self.flags.set(self.flags.get() & !flags);
    }
}

impl<S: SlotState> Place<S> {
    /// Its slot is in memory and about to change or to go, and not marked as changed since the last freeze: what is still to be
    /// drained of it is put aside.
    fn thaw(&self, frozen: &mut Frozen) {
        if let Some(slot) = self.slot.get().filter(|_| self.has(MARKS)) {
            frozen.put_aside(&slot.key, slot.slice, |bytes| slot.state.encode(bytes));
            self.clear(MARKS);
            self.set(DURABLE);
        }
    }
}

fn tag(key: &[u8], slice: i64) -> u32 {
    tags::tag_of(xxh3_64_with_seed(key, slice as u64))
}

impl<S: SlotState> TieredStore<S> {
    /// An empty store of which nobody drains the changes.
    pub fn new(memory: &Arc<StateMemory>) -> Self {
        memory.stores.fetch_add(1, Ordering::Relaxed);
        TieredStore {
            name: memory.named.fetch_add(1, Ordering::Relaxed),
            memory: memory.clone(),
            index: HashTable::new(),
            places: Vec::new(),
            free: Vec::new(),
            tracking: false,
            mark: FIRST_MARK,
            dirty: Vec::new(),
            deleted: BTreeSet::new(),
            frozen: Frozen::default(),
            touched: RefCell::default(),
            removed: Vec::new(),
            resident: 0,
            hand: 0,
        }
    }

    /// An empty store that notes its changes for [`SlotStore::drain_changes`].
    pub fn tracking(memory: &Arc<StateMemory>) -> Self {
        let mut store = Self::new(memory);
        store.tracking = true;
        store
    }

    fn cold_key(&self, at: u32) -> [u8; 8] {
        (u64::from(self.name) << 32 | u64::from(at)).to_be_bytes()
    }

    /// The slot at a place, from the cold store where it is there.
    fn slot(&self, at: u32) -> Option<&Slot<S>> {
        let place = self.places.get(at as usize).filter(|place| place.has(THERE))?;
        place.set(USED);
        Some(place.slot.get_or_init(|| {
            self.touch(at, place);
            Box::new(self.read(at))
        }))
    }

    fn touch(&self, at: u32, place: &Place<S>) {
        if !place.has(TOUCHED) {
            place.set(TOUCHED);
            self.touched.borrow_mut().push(at);
        }
    }

    /// Reads a cold slot. Without it the step can't go on, and what it has done since the last checkpoint comes again.
    fn read(&self, at: u32) -> Slot<S> {
        let mut bytes = Vec::new();
        let found = self.memory.cold().and_then(|cold| cold.get(&self.cold_key(at), &mut bytes));
        match found {
            Ok(true) => {}
            Ok(false) => panic!("a slot is gone from the cold store in {}", self.memory.path.display()),
            Err(error) => panic!("a slot can't be read back from the cold store: {error}"),
        }
        decode(&bytes).unwrap_or_else(|reason| panic!("a slot came back from the cold store in pieces: {reason}"))
    }

    fn lookup(&self, tag: u32, key: &[u8], slice: i64) -> Option<u32> {
        let same = |entry: &Entry| {
            entry.tag == tag && self.slot(entry.at).is_some_and(|slot| slot.slice == slice && *slot.key == *key)
        };
        self.index.find(hash_of(tag), same).map(|entry| entry.at)
    }

    fn insert(&mut self, tag: u32, key: &[u8], slice: i64, state: S, flags: u8) -> u32 {
        let slot = OnceCell::from(Box::new(Slot { key: Key::from_slice(key), slice, state }));
        let at = self.free.pop().unwrap_or(self.places.len() as u32);
        // A copy of what was here before is written over or removed.
        let copy = self.places.get(at as usize).map_or(0, |place| place.flags.get() & COPY);
        let place = Place { slot, tag, bytes: Cell::new(0), flags: Cell::new(THERE | USED | copy | flags) };
        match self.places.get_mut(at as usize) {
            Some(free) => *free = place,
            None => self.places.push(place),
        }
        self.index.insert_unique(hash_of(tag), Entry { tag, at }, |entry| hash_of(entry.tag));
        if let Some(place) = self.places.get(at as usize) {
            self.touch(at, place);
        }
        if flags & MARKS != 0 {
            self.dirty.push(at);
        }
        at
    }

    /// Counts what the slots that were touched take now.
    fn count(&mut self) {
        let mut change = 0;
        for at in self.touched.take() {
            let Some(place) = self.places.get(at as usize) else { continue };
            place.clear(TOUCHED);
            let bytes = place.slot.get().map_or(0, |slot| slot.bytes());
            change += bytes as i64 - i64::from(place.bytes.replace(u32::try_from(bytes).unwrap_or(u32::MAX)));
        }
        self.resident += change;
        self.memory.charge(change);
    }

    /// Lets slots leave until what all stores hold is within the limit, or this one holds no more than a small share of it.
    fn evict(&mut self) -> Result<()> {
        let limit = self.memory.limit;
        let share = limit / 2 / i64::from(self.memory.stores.load(Ordering::Relaxed).max(1));
        let over = |used: i64| used > limit;
        if !over(self.memory.used.load(Ordering::Relaxed)) || self.resident <= share {
            return Ok(());
        }
        // Some more than is needed, so that it need not be done again at once.
        let wanted = limit - limit / 8;
        let mut steps = 2 * self.places.len();
        let mut leaving: Vec<u32> = Vec::new();
        let mut batch: Vec<(u32, Vec<u8>)> = Vec::new();
        let (mut freed, mut batch_bytes) = (0, 0);
        loop {
            let enough = self.memory.used.load(Ordering::Relaxed) - freed <= wanted || self.resident - freed <= share;
            if enough || steps == 0 || batch_bytes >= BATCH_BYTES {
                self.write(&batch)?;
                for at in leaving.drain(..) {
                    let Some(place) = self.places.get_mut(at as usize) else { continue };
                    place.slot.take();
                    place.bytes.set(0);
                    place.set(COPY | CLEAN);
                }
                self.resident -= freed;
                self.memory.charge(-freed);
                batch.clear();
                (freed, batch_bytes) = (0, 0);
                if enough || steps == 0 {
                    return Ok(());
                }
            }
            steps -= 1;
            self.hand = if self.hand + 1 < self.places.len() { self.hand + 1 } else { 0 };
            let Some(place) = self.places.get(self.hand) else { continue };
            let Some(slot) = place.slot.get().filter(|_| place.has(THERE)) else { continue };
            if place.has(USED) {
                place.clear(USED);
                continue;
            }
            if !place.has(CLEAN) {
                let bytes = encode(slot);
                batch_bytes += bytes.len();
                batch.push((self.hand as u32, bytes));
            }
            freed += i64::from(place.bytes.get());
            leaving.push(self.hand as u32);
            // Where the hand comes by again before the batch is written, it is left alone.
            place.set(USED);
        }
    }

    fn write(&self, batch: &[(u32, Vec<u8>)]) -> Result<()> {
        if batch.is_empty() {
            return Ok(());
        }
        let keys: Vec<[u8; 8]> = batch.iter().map(|(at, _)| self.cold_key(*at)).collect();
        let mut entries = keys.iter().zip(batch).map(|(key, (_, bytes))| (&key[..], &bytes[..]));
        self.memory.cold()?.put_batch(&mut entries)
    }

    /// Removes the copies of slots that are gone, but for those whose place has another.
    fn forget(&mut self) -> Result<()> {
        let gone = |at: &u32| self.places.get(*at as usize).is_some_and(|place| place.has(COPY) && !place.has(THERE));
        let gone: Vec<u32> = std::mem::take(&mut self.removed).into_iter().filter(gone).collect();
        if gone.is_empty() {
            return Ok(());
        }
        let keys: Vec<[u8; 8]> = gone.iter().map(|at| self.cold_key(*at)).collect();
        self.memory.cold()?.remove_batch(&mut keys.iter().map(|key| &key[..]))?;
        for at in gone {
            if let Some(place) = self.places.get(at as usize) {
                place.clear(COPY);
            }
        }
        Ok(())
    }
}

impl<S: SlotState> Slot<S> {
    fn bytes(&self) -> usize {
        let key = if self.key.spilled() { self.key.capacity() } else { 0 };
        size_of::<Self>() + key + self.state.heap_bytes()
    }
}

fn encode<S: SlotState>(slot: &Slot<S>) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(12 + slot.key.len() + 32);
    bytes.extend_from_slice(&slot.slice.to_le_bytes());
    bytes.extend_from_slice(&(slot.key.len() as u32).to_le_bytes());
    bytes.extend_from_slice(&slot.key);
    slot.state.suspend(&mut bytes);
    bytes
}

fn decode<S: SlotState>(bytes: &[u8]) -> std::result::Result<Slot<S>, String> {
    let short = || "it is cut short".to_owned();
    let (slice, rest) = bytes.split_first_chunk().ok_or_else(short)?;
    let (len, rest) = rest.split_first_chunk().ok_or_else(short)?;
    let (key, state) = rest.split_at_checked(u32::from_le_bytes(*len) as usize).ok_or_else(short)?;
    Ok(Slot { key: Key::from_slice(key), slice: i64::from_le_bytes(*slice), state: S::resume(state)? })
}

impl<S> Drop for TieredStore<S> {
    fn drop(&mut self) {
        self.memory.charge(-self.resident);
        self.memory.stores.fetch_sub(1, Ordering::Relaxed);
    }
}

impl<S: SlotState> SlotStore<S> for TieredStore<S> {
    fn find(&self, key: &[u8], slice: i64) -> Option<SlotId> {
        self.lookup(tag(key, slice), key, slice).map(SlotId)
    }

    fn find_or_insert(&mut self, key: &[u8], slice: i64, make: &mut dyn FnMut() -> S) -> SlotId {
        let tag = tag(key, slice);
        match self.lookup(tag, key, slice) {
            Some(at) => SlotId(at),
            None => SlotId(self.insert(tag, key, slice, make(), if self.tracking { self.mark } else { 0 })),
        }
    }

    fn key(&self, id: SlotId) -> Option<&[u8]> {
        self.slot(id.0).map(|slot| &*slot.key)
    }

    fn get(&self, id: SlotId) -> Option<&S> {
        self.slot(id.0).map(|slot| &slot.state)
    }

    fn prefetch(&self, _key: &[u8], _slice: i64) {}

    fn prefetch_slot(&self, _id: SlotId) {}

    fn get_mut(&mut self, id: SlotId) -> Option<&mut S> {
        self.slot(id.0)?;
        let place = self.places.get(id.0 as usize)?;
        self.touch(id.0, place);
        place.clear(CLEAN);
        if self.tracking && !place.has(self.mark) {
            place.thaw(&mut self.frozen);
            place.set(self.mark);
            self.dirty.push(id.0);
        }
        self.places.get_mut(id.0 as usize)?.slot.get_mut().map(|slot| &mut slot.state)
    }

    fn remove(&mut self, id: SlotId) {
        let Some(place) = self.places.get(id.0 as usize).filter(|place| place.has(THERE)) else { return };
        if place.has(MARKS & !self.mark) {
            // What is drained of it is put aside from memory.
            self.slot(id.0);
            if let Some(place) = self.places.get(id.0 as usize) {
                place.thaw(&mut self.frozen);
            }
        }
        let Some(place) = self.places.get(id.0 as usize) else { return };
        if self.tracking && place.has(DURABLE) {
            let name = self.slot(id.0).map(|slot| (slot.key.clone(), slot.slice));
            self.deleted.extend(name);
        }
        let Some(place) = self.places.get_mut(id.0 as usize) else { return };
        if let Ok(entry) = self.index.find_entry(hash_of(place.tag), |entry| entry.at == id.0) {
            entry.remove();
        }
        place.slot.take();
        place.clear(THERE | CLEAN | USED | MARKS | DURABLE);
        let bytes = i64::from(place.bytes.replace(0));
        if place.has(COPY) {
            self.removed.push(id.0);
        }
        self.resident -= bytes;
        self.memory.charge(-bytes);
        self.free.push(id.0);
    }

    fn len(&self) -> usize {
        self.index.len()
    }

    fn freeze(&mut self) {
        self.frozen = Frozen::new(std::mem::take(&mut self.dirty), std::mem::take(&mut self.deleted));
        self.mark = MARKS & !self.mark;
    }

    fn drain(&mut self, bytes: usize, visit: &mut dyn FnMut(Change<'_>)) -> bool {
        let old = MARKS & !self.mark;
        let mut frozen = std::mem::take(&mut self.frozen);
        let slot = |at: u32, bytes: &mut Vec<u8>| {
            let place = self.places.get(at as usize).filter(|place| place.has(old))?;
            place.clear(MARKS);
            place.set(DURABLE);
            let read;
            let slot = match place.slot.get() {
                Some(slot) => &**slot,
                None => {
                    read = self.read(at);
                    &read
                }
            };
            slot.state.encode(bytes);
            Some((slot.key.clone(), slot.slice))
        };
        let more = frozen.drain(bytes, slot, visit);
        self.frozen = frozen;
        more
    }

    fn restore(&mut self, key: &[u8], slice: i64, state: &[u8]) -> std::result::Result<(), String> {
        let state = S::decode(state)?;
        let tag = tag(key, slice);
        match self.lookup(tag, key, slice) {
            Some(at) => {
                if let Some(place) = self.places.get(at as usize) {
                    self.touch(at, place);
                    place.clear(CLEAN);
                }
                if let Some(slot) = self.places.get_mut(at as usize).and_then(|place| place.slot.get_mut()) {
                    slot.state = state;
                }
            }
            None => {
                self.insert(tag, key, slice, state, DURABLE);
            }
        }
        Ok(())
    }

    fn heap_bytes(&self) -> usize {
        let resident = usize::try_from(self.resident).unwrap_or(0);
        resident + self.places.len() * (size_of::<Place<S>>() + size_of::<Entry>())
    }

    fn settle(&mut self) {
        self.count();
        if let Err(error) = self.forget().and_then(|()| self.evict())
            && !self.memory.complained.swap(true, Ordering::Relaxed)
        {
            // Nothing is lost: what can't leave stays.
            tracing::error!("cold state can't be written, and memory grows beyond `memory_limit`: {error}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cold::MemoryCold;
    use crate::memory::tests::check;

    #[test]
    fn drains_keep_a_checkpoint_equal_to_the_store() {
        for limit in [0, 500, 2_000, 1 << 20] {
            (0..200).for_each(|seed| {
                let memory = StateMemory::with_store(limit, Arc::new(MemoryCold::default()));
                check(seed, &|| Box::new(TieredStore::<u64>::tracking(&memory)));
                assert_eq!(memory.used.load(Ordering::Relaxed), 0, "what is dropped takes nothing");
            });
        }
    }

    #[test]
    fn what_has_no_room_is_on_disk_and_comes_back() {
        let folder = std::env::temp_dir().join(format!("engine-cold-{}", std::process::id()));
        let memory = StateMemory::new(100_000, &folder);
        let mut stores = [TieredStore::<u64>::new(&memory), TieredStore::<u64>::new(&memory)];
        let mut most = 0;
        for round in 0..3 {
            for key in 0..20_000_u64 {
                for store in &mut stores {
                    let id = store.find_or_insert(&key.to_be_bytes(), 7, &mut || 0);
                    *store.get_mut(id).unwrap() += key;
                    assert_eq!(*store.get(id).unwrap(), key * (round + 1));
                    if key % 100 == 99 {
                        store.settle();
                        most = most.max(memory.used.load(Ordering::Relaxed));
                    }
                }
            }
        }
        // What a step looks at until it settles stands above the limit.
        assert!(most < 120_000, "{most} bytes");
        let [mut first, second] = stores;
        for key in 0..20_000_u64 {
            let id = first.find(&key.to_be_bytes(), 7).unwrap();
            assert_eq!(first.get(id), Some(&(key * 3)));
            first.remove(id);
        }
        first.settle();
        assert_eq!((first.len(), first.resident), (0, 0));
        assert_eq!(second.find(&5_u64.to_be_bytes(), 7).and_then(|id| second.get(id)), Some(&15));
        drop((first, second));
        assert_eq!(memory.used.load(Ordering::Relaxed), 0);
        drop(memory);
        assert!(!folder.exists(), "nothing is left on disk");
    }
}
