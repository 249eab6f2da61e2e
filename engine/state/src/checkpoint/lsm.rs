//! The store of checkpoints on disk: the LSM tree of `fjall`.
//!
//! Batches are written as tables of their own (what `fjall` calls ingestion), beside its log: a batch is synced, then joined
//! to the tree by one atomic step. So nothing is written twice, writers don't wait for each other, and a power failure leaves no
//! half written log for the next start to stumble over. Compaction drops what the [`Sieve`] does not keep.

use super::entries::{EntryStore, Stored, Visit};
use super::key::{Lineage, Sieve};
use crate::background;
use crate::error::{Result, StateError, StateErrorKind, is_full};
use fjall::compaction::Leveled;
use fjall::compaction::filter::{CompactionFilter, CompactionFilterResult, Context, Factory, ItemAccessor, Verdict};
use fjall::config::{BlockSizePolicy, FilterPolicy};
use fjall::{Database, Keyspace, KeyspaceCreateOptions, PersistMode};
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};

/// Of several threads of fjall 3.1 the first hands compactions back to the queue, again and again, while another compacts: it
/// takes a core for nothing. One thread flushes and compacts by turns.
pub(crate) const WORKER_THREADS: usize = 1;

/// Bytes of blocks that are kept in memory.
const CACHE_BYTES: u64 = 32 << 20;
/// Blocks are read whole by a load, and searched by a lookup.
const BLOCK_BYTES: u32 = 16 << 10;
/// Every writer of a checkpoint adds a table: fewer than this, and each checkpoint would rewrite the level below.
const TABLES_BEFORE_COMPACTION: u8 = 16;
const TABLE_BYTES: u64 = 16 << 20;

/// A store in a folder.
pub struct LsmEntries {
    path: PathBuf,
    lineage: Followed,
    /// None between an attempt to open it again that failed and the next.
    open: RwLock<Option<Open>>,
}

struct Open {
    // The keyspace is dropped before its database.
    keyspace: Keyspace,
    database: Database,
}

/// Shared with the compactions that run. They begin as soon as the store is open, when nobody has said yet what counts.
#[derive(Clone, Default)]
struct Followed(Arc<RwLock<Option<Arc<Lineage>>>>);

impl std::fmt::Debug for LsmEntries {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LsmEntries").field("path", &self.path).finish_non_exhaustive()
    }
}

impl LsmEntries {
    /// Opens the store of a folder, or makes one.
    pub fn open(path: &Path) -> Result<LsmEntries> {
        let lineage = Followed::default();
        let open = background::on_one(|| open_database(path, &lineage))?;
        Ok(LsmEntries { path: path.to_owned(), lineage, open: RwLock::new(Some(open)) })
    }

    fn with<T>(&self, operation: &'static str, act: impl FnOnce(&Open) -> fjall::Result<T>) -> Result<T> {
        let open = self.open.read().unwrap_or_else(PoisonError::into_inner);
        match &*open {
            Some(open) => act(open).map_err(|error| lsm_error(&self.path, operation, error)),
            None => Err(lsm_error(&self.path, operation, fjall::Error::Poisoned)),
        }
    }
}

fn open_database(path: &Path, lineage: &Followed) -> Result<Open> {
    let failed = |error| lsm_error(path, "open the checkpoint store", error);
    let factory: Arc<dyn Factory> = Arc::new(lineage.clone());
    let database = Database::builder(path)
        .cache_size(CACHE_BYTES)
        .worker_threads(WORKER_THREADS)
        .with_compaction_filter_factories(Arc::new(move |_| Some(Arc::clone(&factory))))
        .open()
        .map_err(failed)?;
    let options = || {
        KeyspaceCreateOptions::default()
            .data_block_size_policy(BlockSizePolicy::all(BLOCK_BYTES))
            // A lookup is for the newest version up to one, not for a key: filters can't help.
            .filter_policy(FilterPolicy::disabled())
            .compaction_strategy(Arc::new(
                Leveled::default().with_l0_threshold(TABLES_BEFORE_COMPACTION).with_table_target_size(TABLE_BYTES),
            ))
    };
    let keyspace = database.keyspace("entries", options).map_err(failed)?;
    Ok(Open { keyspace, database })
}

/// An error of the store in our words.
pub(crate) fn lsm_error(path: &Path, operation: &'static str, error: fjall::Error) -> StateError {
    let text = error.to_string();
    match error {
        fjall::Error::Io(error) => StateError::io(path, operation, error),
        // The tree keeps the system's error in one of its own.
        fjall::Error::Storage(inner) => {
            match std::error::Error::source(&inner).and_then(|source| source.downcast_ref::<std::io::Error>()) {
                Some(error) if is_full(error) => StateError::io(path, operation, std::io::Error::from(error.kind())),
                Some(error) => StateError::io(path, operation, std::io::Error::new(error.kind(), text)),
                None => damaged(path, operation, text),
            }
        }
        fjall::Error::Locked => StateError::new(
            StateErrorKind::Misused,
            path,
            operation,
            "another engine has it open",
            "stop that one, or give another --state",
        ),
        fjall::Error::Poisoned => StateError::new(
            StateErrorKind::Poisoned,
            path,
            operation,
            "an earlier write failed, in the background perhaps",
            "make room on the disk if it is full, then start again: published checkpoints are not touched by this",
        ),
        _ => damaged(path, operation, text),
    }
}

fn damaged(path: &Path, operation: &'static str, detail: String) -> StateError {
    StateError::damaged(
        path,
        operation,
        None,
        detail,
        "restore the folder from a copy, or start with an empty state directory",
    )
}

impl Factory for Followed {
    fn name(&self) -> &str {
        "sieve"
    }

    fn make_filter(&self, _: &Context) -> Box<dyn CompactionFilter> {
        let lineage = self.0.read().unwrap_or_else(PoisonError::into_inner).clone();
        Box::new(Filter(Sieve::new(lineage)))
    }
}

struct Filter(Sieve);

impl CompactionFilter for Filter {
    fn filter_item(&mut self, item: ItemAccessor<'_>, _: &Context) -> CompactionFilterResult {
        // A version is written once, so nothing older can come to light below it.
        Ok(if self.0.keeps(item.key()) { Verdict::Keep } else { Verdict::Destroy })
    }
}

impl EntryStore for LsmEntries {
    fn write(&self, batch: &mut dyn Iterator<Item = Stored<'_>>) -> Result<()> {
        self.with("write to the checkpoint store", |open| {
            let mut tables = open.keyspace.start_ingestion()?;
            for (key, value) in batch {
                match value {
                    Some(value) => tables.write(key, value)?,
                    None => tables.write_tombstone(key)?,
                }
            }
            tables.finish()
        })
    }

    fn persist(&self) -> Result<()> {
        // Batches are durable already; what matters is that the store is sound.
        self.with("sync the checkpoint store", |open| open.database.persist(PersistMode::SyncAll))
    }

    fn scan(&self, from: &[u8], to: &[u8], visit: &mut Visit<'_>) -> Result<()> {
        self.with("read the checkpoint store", |open| {
            for item in open.keyspace.range(from..to) {
                let (key, value) = item.into_inner()?;
                if visit(&key, &value).is_break() {
                    break;
                }
            }
            Ok(())
        })
    }

    fn follow(&self, lineage: Arc<Lineage>) {
        *self.lineage.0.write().unwrap_or_else(PoisonError::into_inner) = Some(lineage);
    }

    fn compact(&self) -> Result<()> {
        self.with("compact the checkpoint store", |open| open.keyspace.major_compact())
    }

    fn revive(&self) -> Result<()> {
        let is_sound =
            |open: &Option<Open>| open.as_ref().is_some_and(|open| open.database.persist(PersistMode::Buffer).is_ok());
        // Whoever reads holds the lock for as long as that takes, so it isn't taken for nothing.
        if is_sound(&self.open.read().unwrap_or_else(PoisonError::into_inner)) {
            return Ok(());
        }
        let mut open = self.open.write().unwrap_or_else(PoisonError::into_inner);
        if !is_sound(&open) {
            // The old one holds the lock of the folder.
            *open = None;
            *open = Some(open_database(&self.path, &self.lineage)?);
        }
        Ok(())
    }

    fn bytes(&self) -> u64 {
        // Its log stays empty: a file with a length and no content.
        self.with("measure the checkpoint store", |open| Ok(open.keyspace.disk_space())).unwrap_or(0)
    }
}
