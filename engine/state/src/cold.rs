//! Cold slots: state of a running process that has no room in memory.
//!
//! It lives no longer than the process: a checkpoint has its own copy, and a restart begins with an empty one. So nothing
//! is synced. Most questions are for keys that are not here, and are answered by a filter in memory.

use crate::checkpoint::{WORKER_THREADS, lsm_error};
use crate::error::{Result, StateError};
use fjall::config::{BlockSizePolicy, BloomConstructionPolicy, FilterPolicy, FilterPolicyEntry};
use fjall::{Database, Keyspace, KeyspaceCreateOptions};
use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Bytes of blocks that are kept in memory.
const CACHE_BYTES: u64 = 16 << 20;
/// Bytes of changes that are gathered in memory before they become a table.
const MEMTABLE_BYTES: u64 = 16 << 20;
/// Of a hundred keys that are not there, one is looked for on disk.
const FALSE_POSITIVES: f32 = 0.01;

/// A map of bytes that is out of the way of the memory.
pub trait ColdStore: Send + Sync + fmt::Debug {
    /// Puts entries, in any order.
    fn put_batch(&self, entries: &mut dyn Iterator<Item = (&[u8], &[u8])>) -> Result<()>;
    /// Reads an entry into a buffer, which is cleared. False if there is none.
    fn get(&self, key: &[u8], out: &mut Vec<u8>) -> Result<bool>;
    /// Removes entries; those that are not there are no error.
    fn remove_batch(&self, keys: &mut dyn Iterator<Item = &[u8]>) -> Result<()>;
    /// Removes everything.
    fn clear(&self) -> Result<()>;
    /// Bytes on disk, about.
    fn bytes(&self) -> u64;
}

/// Cold slots in a folder.
pub struct LsmCold {
    path: PathBuf,
    // Dropped before its database.
    keyspace: Keyspace,
    database: Database,
}

impl fmt::Debug for LsmCold {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LsmCold").field("path", &self.path).finish_non_exhaustive()
    }
}

impl LsmCold {
    /// An empty store in a folder of its own. What a former process left in it is removed.
    pub fn open(path: &Path) -> Result<LsmCold> {
        match fs::remove_dir_all(path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(StateError::io(path, "clear", error));
            }
            _ => {}
        }
        let failed = |error| lsm_error(path, "open the cold slots", error);
        let database = Database::builder(path)
            .cache_size(CACHE_BYTES)
            .worker_threads(WORKER_THREADS)
            .manual_journal_persist(true)
            .temporary(true)
            .open()
            .map_err(failed)?;
        let options = || {
            KeyspaceCreateOptions::default()
                .manual_journal_persist(true)
                .max_memtable_size(MEMTABLE_BYTES)
                .data_block_size_policy(BlockSizePolicy::all(4 << 10))
                .filter_policy(FilterPolicy::all(FilterPolicyEntry::Bloom(BloomConstructionPolicy::FalsePositiveRate(
                    FALSE_POSITIVES,
                ))))
        };
        let keyspace = database.keyspace("cold", options).map_err(failed)?;
        Ok(LsmCold { path: path.to_owned(), keyspace, database })
    }

    fn write(&self, fill: impl FnOnce(&mut fjall::OwnedWriteBatch)) -> Result<()> {
        let mut batch = self.database.batch();
        fill(&mut batch);
        batch.commit().map_err(|error| lsm_error(&self.path, "write to the cold slots", error))
    }
}

impl ColdStore for LsmCold {
    fn put_batch(&self, entries: &mut dyn Iterator<Item = (&[u8], &[u8])>) -> Result<()> {
        self.write(|batch| entries.for_each(|(key, value)| batch.insert(&self.keyspace, key, value)))
    }

    fn get(&self, key: &[u8], out: &mut Vec<u8>) -> Result<bool> {
        out.clear();
        match self.keyspace.get(key) {
            Ok(Some(value)) => {
                out.extend_from_slice(&value);
                Ok(true)
            }
            Ok(None) => Ok(false),
            Err(error) => Err(lsm_error(&self.path, "read the cold slots", error)),
        }
    }

    fn remove_batch(&self, keys: &mut dyn Iterator<Item = &[u8]>) -> Result<()> {
        self.write(|batch| keys.for_each(|key| batch.remove(&self.keyspace, key)))
    }

    fn clear(&self) -> Result<()> {
        self.keyspace.clear().map_err(|error| lsm_error(&self.path, "clear the cold slots", error))
    }

    fn bytes(&self) -> u64 {
        self.database.disk_space().unwrap_or(0)
    }
}

/// Cold slots in memory, for simulation.
#[derive(Debug, Default)]
pub struct MemoryCold {
    entries: Mutex<BTreeMap<Vec<u8>, Vec<u8>>>,
}

impl MemoryCold {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<Vec<u8>, Vec<u8>>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ColdStore for MemoryCold {
    fn put_batch(&self, entries: &mut dyn Iterator<Item = (&[u8], &[u8])>) -> Result<()> {
        self.lock().extend(entries.map(|(key, value)| (key.to_vec(), value.to_vec())));
        Ok(())
    }

    fn get(&self, key: &[u8], out: &mut Vec<u8>) -> Result<bool> {
        out.clear();
        let entries = self.lock();
        let found = entries.get(key);
        out.extend_from_slice(found.map_or(&[], Vec::as_slice));
        Ok(found.is_some())
    }

    fn remove_batch(&self, keys: &mut dyn Iterator<Item = &[u8]>) -> Result<()> {
        let mut entries = self.lock();
        keys.for_each(|key| {
            entries.remove(key);
        });
        Ok(())
    }

    fn clear(&self) -> Result<()> {
        self.lock().clear();
        Ok(())
    }

    fn bytes(&self) -> u64 {
        self.lock().iter().map(|(key, value)| (key.len() + value.len()) as u64).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(store: &dyn ColdStore) {
        let key = |number: u32| number.to_be_bytes();
        let mut plain = BTreeMap::new();
        let mut out = Vec::new();
        for round in 0..50_u32 {
            let put: Vec<([u8; 4], Vec<u8>)> =
                (0..200).map(|at| (key(at * 7 % 1_000 + round), vec![round as u8; (at % 50) as usize])).collect();
            store.put_batch(&mut put.iter().map(|(key, value)| (key.as_slice(), value.as_slice()))).unwrap();
            plain.extend(put);
            let gone: Vec<[u8; 4]> = (0..40).map(|at| key(at * 31 + round)).collect();
            store.remove_batch(&mut gone.iter().map(|key| key.as_slice())).unwrap();
            gone.iter().for_each(|key| {
                plain.remove(key);
            });
            if round == 30 {
                store.clear().unwrap();
                plain.clear();
            }
            for number in 0..1_300 {
                let found = store.get(&key(number), &mut out).unwrap();
                assert_eq!(found.then_some(&out), plain.get(&key(number)), "round {round}, key {number}");
            }
        }
        assert!(store.bytes() > 0);
    }

    #[test]
    fn both_are_maps() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("cold");
        check(&MemoryCold::default());
        check(&LsmCold::open(&path).unwrap());
        // A process that was killed leaves its own behind.
        fs::create_dir_all(path.join("left")).unwrap();
        let store = LsmCold::open(&path).unwrap();
        assert!(!store.get(&0_u32.to_be_bytes(), &mut Vec::new()).unwrap());
    }
}
