//! Keyed state: one slot for each (key, slice) of a stateful step, behind a trait (architecture, decision 5).
//!
//! A step never holds state of its own: it asks a [`SlotStore`]. So a checkpoint is the same for every kind of step: it
//! writes the slots that changed since the last one ([`SlotStore::drain_changes`]), and a restart puts them back
//! ([`SlotStore::restore`]).
//!
//! Durable state lies below: the [`journal`] of small records that a commit writes, the [`checkpoint`]s of all slots, the
//! [`blobs`] they need, the [`cold`] slots that memory has no room for, and the files of [`disk`], which can be simulated. This crate knows neither the language nor the dataflow: to it a record or an entry is bytes.

pub mod background;
pub mod blobs;
pub mod checkpoint;
pub mod cold;
pub mod disk;
mod error;
mod frozen;
pub mod journal;
mod memory;
mod tiered;

pub use error::{Result, StateError, StateErrorKind};
pub use memory::MemoryStore;
pub use tiered::{StateMemory, TieredStore};

/// The place of a slot in its store. Valid until the slot is removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SlotId(pub(crate) u32);

/// What a slot holds: it can be written down and read back.
pub trait SlotState: Sized {
    /// Appends its bytes. Equal states have equal bytes.
    fn encode(&self, out: &mut Vec<u8>);
    /// Reads what `encode` wrote, all of it; anything else is an error that says what is wrong.
    fn decode(bytes: &[u8]) -> Result<Self, String>;
    /// Bytes it holds on the heap, about.
    fn heap_bytes(&self) -> usize;
    /// Appends its bytes and whatever only the running step knows of it: it leaves the memory for a while.
    fn suspend(&self, out: &mut Vec<u8>) {
        self.encode(out);
    }
    /// Reads what `suspend` wrote.
    fn resume(bytes: &[u8]) -> Result<Self, String> {
        Self::decode(bytes)
    }
}

/// A slot that changed since the last drain.
#[derive(Debug, PartialEq, Eq)]
pub enum Change<'a> {
    /// The slot is new or has another state.
    Put {
        /// The key, as the step encoded it.
        key: &'a [u8],
        /// The slice: a window's start, or 0 where a step has one slot a key.
        slice: i64,
        /// The state's bytes.
        state: &'a [u8],
    },
    /// The slot is gone.
    Delete {
        /// The key.
        key: &'a [u8],
        /// The slice.
        slice: i64,
    },
}

/// The slots of one step on one worker.
///
/// Contract: a state is changed only through [`SlotStore::get_mut`], which marks it; every change between two freezes is
/// visited once by the drain of the second; restoring all puts of a drain into an empty store gives an equal store.
pub trait SlotStore<S: SlotState> {
    /// The slot of a key and slice, if there is one.
    fn find(&self, key: &[u8], slice: i64) -> Option<SlotId>;
    /// The slot of a key and slice; a new one holds what `make` gives.
    fn find_or_insert(&mut self, key: &[u8], slice: i64, make: &mut dyn FnMut() -> S) -> SlotId;
    /// The key of a slot.
    fn key(&self, id: SlotId) -> Option<&[u8]>;
    /// Reads a slot.
    fn get(&self, id: SlotId) -> Option<&S>;
    /// Asks the memory for the slot of a key and slice that will be looked up soon.
    fn prefetch(&self, key: &[u8], slice: i64);
    /// Asks the memory for a slot that will be read soon.
    fn prefetch_slot(&self, id: SlotId);
    /// Changes a slot and marks it.
    fn get_mut(&mut self, id: SlotId) -> Option<&mut S>;
    /// Frees a slot.
    fn remove(&mut self, id: SlotId);
    /// How many slots there are.
    fn len(&self) -> usize;
    /// Whether there are none.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }
    /// From now on [`SlotStore::drain`] visits what has changed up to now, as it is now, whatever becomes of it meanwhile. What was
    /// frozen before must be drained. A store that does not note its changes has none.
    fn freeze(&mut self);
    /// Visits about so many bytes of what is frozen, at least one change, and forgets that it changed. False when nothing is left
    /// of it.
    fn drain(&mut self, bytes: usize, visit: &mut dyn FnMut(Change<'_>)) -> bool;
    /// Visits what changed since the last drain, at once.
    fn drain_changes(&mut self, visit: &mut dyn FnMut(Change<'_>)) {
        while self.drain(usize::MAX, visit) {}
        self.freeze();
        while self.drain(usize::MAX, visit) {}
    }
    /// Puts a slot back as a checkpoint has it, unmarked.
    fn restore(&mut self, key: &[u8], slice: i64, state: &[u8]) -> Result<(), String>;
    /// Bytes of keys and states, about.
    fn heap_bytes(&self) -> usize;
    /// The step has put out what there is for now: what it looked at may leave the memory. Called after each portion.
    fn settle(&mut self) {}
}

/// A hash that can be told again from 32 of its bits, which an index keeps: then it grows without a look at the keys, each of
/// which is a wait for memory. Entries whose 32 bits are equal are told apart by their keys.
pub mod tags {
    /// The hash of these bits.
    #[inline]
    pub fn hash_of(tag: u32) -> u64 {
        // A table takes the place from the low bits, and tells entries of a place apart by the highest.
        u64::from(tag) << 32 | u64::from(tag)
    }

    /// The bits that a well mixed hash is told by.
    #[inline]
    pub fn tag_of(mixed: u64) -> u32 {
        (mixed >> 32) as u32
    }
}

/// Asks the memory for the cache line of a place that will be read soon. The place need not be valid: nothing is read.
#[inline]
pub fn prefetch<T>(place: *const T) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: a prefetch of any address has no effect but on the cache (Intel SDM, PREFETCHh).
    unsafe {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        _mm_prefetch::<_MM_HINT_T0>(place.cast());
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = place;
}
