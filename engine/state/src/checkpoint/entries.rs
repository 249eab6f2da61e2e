//! What checkpoints ask of the store below them, and the plainest one there is.

use super::key::{Lineage, Sieve};
use crate::error::Result;
use std::collections::BTreeMap;
use std::fmt;
use std::ops::ControlFlow;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// A stored key and its value; no value means that the key is removed.
pub type Stored<'a> = (&'a [u8], Option<&'a [u8]>);

/// Gets a key and its value, and says whether to go on.
pub type Visit<'a> = dyn FnMut(&[u8], &[u8]) -> ControlFlow<()> + 'a;

/// A sorted map of bytes that can be read while it is written.
///
/// Contract: a batch is there whole or not at all, also after a crash; it is there for good once [`EntryStore::persist`] has
/// returned; a scan sees the batches that were written before it began. The store may at any time drop keys that the
/// [`Sieve`] of what it was last told to follow does not keep; before it was told anything, it drops nothing.
pub trait EntryStore: Send + Sync + fmt::Debug {
    /// Writes a batch whose keys come in ascending order, each once.
    fn write(&self, batch: &mut dyn Iterator<Item = Stored<'_>>) -> Result<()>;
    /// Makes all batches durable that were written before.
    fn persist(&self) -> Result<()>;
    /// Visits keys from one on and before another, in order, until told to stop.
    fn scan(&self, from: &[u8], to: &[u8], visit: &mut Visit<'_>) -> Result<()>;
    /// Tells which versions are still of use.
    fn follow(&self, lineage: Arc<Lineage>);
    /// Drops all that is of no use any more. It may take long: it writes what is left.
    fn compact(&self) -> Result<()>;
    /// Makes it usable after an error, if it can: the reason may be gone, as when there is room on the disk again.
    fn revive(&self) -> Result<()>;
    /// Bytes on disk, or in memory.
    fn bytes(&self) -> u64;
}

/// A store in memory, for simulation: what is not persisted is lost in a crash, or not. Clones are the same store.
#[derive(Clone, Debug, Default)]
pub struct MemoryEntries {
    inner: Arc<Mutex<Memory>>,
}

/// What stood in place of a batch's keys.
type Replaced = Vec<(Vec<u8>, Option<Vec<u8>>)>;

#[derive(Debug, Default)]
struct Memory {
    entries: BTreeMap<Vec<u8>, Vec<u8>>,
    /// What the batches that are not persisted replaced.
    replaced: Vec<Replaced>,
    lineage: Option<Arc<Lineage>>,
}

impl MemoryEntries {
    /// An empty store.
    pub fn new() -> MemoryEntries {
        MemoryEntries::default()
    }

    /// The same store as a process finds it that has just begun: what counts, it must be told again.
    pub fn reopened(&self) -> MemoryEntries {
        self.lock().lineage = None;
        self.clone()
    }

    /// The power fails: of the batches that were not persisted, the bits of a number say which are lost.
    pub fn crash(&self, mut random: u64) {
        let memory = &mut *self.lock();
        memory.lineage = None;
        for replaced in std::mem::take(&mut memory.replaced).into_iter().rev() {
            random = random.rotate_right(1);
            if random & 1 == 0 {
                continue;
            }
            for (key, before) in replaced {
                match before {
                    Some(value) => memory.entries.insert(key, value),
                    None => memory.entries.remove(&key),
                };
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Memory> {
        // The map is whole between two operations, whoever panicked.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl EntryStore for MemoryEntries {
    fn write(&self, batch: &mut dyn Iterator<Item = Stored<'_>>) -> Result<()> {
        let memory = &mut *self.lock();
        let mut replaced = Vec::new();
        for (key, value) in batch {
            let before = match value {
                Some(value) => memory.entries.insert(key.to_vec(), value.to_vec()),
                None => memory.entries.remove(key),
            };
            replaced.push((key.to_vec(), before));
        }
        memory.replaced.push(replaced);
        Ok(())
    }

    fn persist(&self) -> Result<()> {
        self.lock().replaced.clear();
        Ok(())
    }

    fn scan(&self, from: &[u8], to: &[u8], visit: &mut Visit<'_>) -> Result<()> {
        let memory = self.lock();
        let range = (std::ops::Bound::Included(from), std::ops::Bound::Excluded(to));
        for (key, value) in memory.entries.range::<[u8], _>(range) {
            if visit(key, value).is_break() {
                break;
            }
        }
        Ok(())
    }

    fn follow(&self, lineage: Arc<Lineage>) {
        self.lock().lineage = Some(lineage);
    }

    fn compact(&self) -> Result<()> {
        let memory = &mut *self.lock();
        let mut sieve = Sieve::new(memory.lineage.clone());
        memory.entries.retain(|key, _| sieve.keeps(key));
        Ok(())
    }

    fn revive(&self) -> Result<()> {
        Ok(())
    }

    fn bytes(&self) -> u64 {
        self.lock().entries.iter().map(|(key, value)| (key.len() + value.len()) as u64).sum()
    }
}
