//! Checkpoints: the state of all steps at a cut of the input, of which only the changes are written.
//!
//! ```text
//!             begin                    writer, writer, ... finish          publish
//! checkpoint 41 ──────▶ draft of 42: nobody sees it, a crash undoes it ──────────────▶ checkpoint 42 counts
//!      │                                   │ dropped, failed                               │
//!      ╰── stays readable                  ╰──▶ its stamps are dead for good               ╰── 40 may go
//! ```
//!
//! The entries of all checkpoints lie in one sorted store ([`EntryStore`]): a version for each change, marked with a stamp
//! that is never used again. A manifest says up to which stamp its checkpoint sees, and which stamps in between were never
//! published. So a draft costs what changed, and publishing one is the rename of a small file.
//!
//! What is promised:
//!
//! - A checkpoint that was published is read as it was written, after any crash, as long as it is retained: the newest
//!   [`CheckpointConfig::retained`] are, and those with a savepoint.
//! - Of a draft that was not published nothing is ever seen.
//! - A manifest that is damaged is refused and the one before it is used; [`Report`] says so. Entries that are damaged are
//!   found by the store's own checksums when they are read, and by [`Checkpoints::verify`].
//! - Of two processes that have the same state open, the one that opened it first can't publish any more.
//!
//! It does not know what is in a key or a value, or when to make a checkpoint.

mod draft;
mod entries;
mod key;
mod lsm;
mod manifest;
mod open;
mod read;
#[cfg(test)]
mod tests;

pub use draft::{Draft, Writer};
pub use entries::{EntryStore, MemoryEntries, Stored, Visit};
pub use key::{EntryKey, KEY_BYTES_MAX, Lineage, Sieve, Space, StepId};
pub use lsm::LsmEntries;
pub(crate) use lsm::{WORKER_THREADS, lsm_error};
pub use manifest::{Contents, Held, Manifest, StepAbout, StepManifest};
pub use open::{Inspection, Refused, Report, inspect};
pub use read::Difference;

use crate::disk::Disk;
use crate::error::{Result, StateErrorKind};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// How checkpoints are kept.
#[derive(Clone, Debug)]
pub struct CheckpointConfig {
    /// How many of the newest are retained, at least one.
    pub retained: usize,
    /// Bytes that a writer holds before it writes them.
    pub batch_bytes: usize,
}

impl Default for CheckpointConfig {
    fn default() -> CheckpointConfig {
        CheckpointConfig { retained: 2, batch_bytes: 16 << 20 }
    }
}

/// What a change replaces. It is needed for counts and checksums; the store looks it up where it isn't told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Before {
    /// Look it up. That costs a search in every table of the store, some 20 to 150 µs: for thousands of changes, remember
    /// what [`Writer::put`] gave.
    Unknown,
    /// There was no entry.
    Absent,
    /// What [`Writer::put`] gave for the entry that was there, in this checkpoint or one before.
    Held(Held),
}

/// What a manifest says besides the contents.
#[derive(Clone, Debug, Default)]
pub struct Publication {
    /// Marks the journal.
    pub journal_id: u64,
    /// The journal's records from this one on are to be replayed on top.
    pub journal_sequence: u64,
    /// The last epoch that the checkpoint contains.
    pub epoch: u64,
    /// Now: nanoseconds since 1970.
    pub time_ns: i64,
    /// The digests of blobs that it needs, by what they are.
    pub blobs: BTreeMap<String, String>,
    /// What sources and sinks keep.
    pub extra: serde_json::Value,
}

/// The checkpoints of a state directory. Clones are the same.
#[derive(Clone, Debug)]
pub struct Checkpoints {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    disk: Arc<dyn Disk>,
    dir: PathBuf,
    entries: Arc<dyn EntryStore>,
    config: CheckpointConfig,
    generation: u64,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    /// Those that are retained, by number.
    manifests: BTreeMap<u64, Arc<Manifest>>,
    savepoints: BTreeMap<String, Arc<Manifest>>,
    /// The stamps of checkpoints that are being read, and by how many.
    reading: BTreeMap<u64, usize>,
    lineage: Arc<Lineage>,
    /// Above those of all manifests that there are, damaged ones too.
    next_number: u64,
    next_stamp: u64,
    /// The draft that is being written: its number, and its first stamp.
    draft: Option<(u64, u64)>,
    /// How many drafts there were.
    drafts: u64,
    /// Why nothing can be published until it is opened again.
    doubt: Option<String>,
}

impl State {
    fn newest(&self) -> Option<&Arc<Manifest>> {
        self.manifests.last_key_value().map(|(_, manifest)| manifest)
    }

    /// Puts together anew what the store must keep.
    fn refresh(&mut self, entries: &dyn EntryStore) {
        let published = self.manifests.values().chain(self.savepoints.values()).map(|manifest| manifest.stamp);
        let mut views: Vec<u64> = published.chain(self.reading.keys().copied()).collect();
        views.sort_unstable();
        views.dedup();
        self.lineage = Arc::new(Lineage { views, dead: self.lineage.dead.clone() });
        entries.follow(Arc::clone(&self.lineage));
    }

    fn bury(&mut self, first: u64, last: u64) {
        let mut lineage = Lineage::clone(&self.lineage);
        lineage.bury(first, last);
        self.lineage = Arc::new(lineage);
    }
}

/// Whether a savepoint may have this name: up to 100 letters, digits, `.`, `_` and `-`, with no `.` first.
pub fn is_savepoint_name(name: &str) -> bool {
    let is_sound = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
    !name.is_empty() && name.len() <= 100 && !name.starts_with('.') && name.bytes().all(is_sound)
}

impl Checkpoints {
    /// The newest one.
    pub fn newest(&self) -> Option<Arc<Manifest>> {
        self.inner.lock().newest().cloned()
    }

    /// Those that are retained, the oldest first.
    pub fn retained(&self) -> Vec<Arc<Manifest>> {
        self.inner.lock().manifests.values().cloned().collect()
    }

    /// Those that are kept by name.
    pub fn savepoints(&self) -> BTreeMap<String, Arc<Manifest>> {
        self.inner.lock().savepoints.clone()
    }

    /// The generation of this process, greater than that of any before.
    pub fn generation(&self) -> u64 {
        self.inner.generation
    }

    /// Bytes of the store.
    pub fn bytes(&self) -> u64 {
        self.inner.entries.bytes()
    }

    /// The digests of all blobs that a retained checkpoint needs.
    pub fn blobs(&self) -> std::collections::BTreeSet<String> {
        let state = self.inner.lock();
        let manifests = state.manifests.values().chain(state.savepoints.values());
        manifests.flat_map(|manifest| manifest.blobs.values().cloned()).collect()
    }

    /// Begins the next checkpoint. One at a time.
    pub fn begin(&self) -> Result<Draft> {
        let mut state = self.inner.lock();
        if let Some(doubt) = &state.doubt {
            return Err(self.inner.error(
                StateErrorKind::Poisoned,
                "begin a checkpoint in",
                format!("an earlier failure left it in doubt what is published ({doubt})"),
                "restart the engine",
            ));
        }
        if state.draft.is_some() {
            return Err(self.inner.error(
                StateErrorKind::Misused,
                "begin a checkpoint in",
                "another one is being written",
                "publish or drop that one first",
            ));
        }
        self.inner.entries.revive()?;
        state.drafts += 1;
        let draft = state.drafts;
        state.draft = Some((draft, state.next_stamp));
        let manifest = state.newest().map(|manifest| Manifest::clone(manifest)).unwrap_or_default();
        Ok(Draft::new(Arc::clone(&self.inner), draft, manifest))
    }

    /// Keeps a retained checkpoint by name, until it is released. The name is of letters, digits, `.`, `_` and `-`.
    pub fn save(&self, name: &str, checkpoint: u64) -> Result<()> {
        if !is_savepoint_name(name) {
            return Err(self.inner.error(
                StateErrorKind::Misused,
                "make a savepoint in",
                format!("`{name}` is no name for one"),
                "use up to 100 letters, digits, `.`, `_` and `-`, and begin with no `.`",
            ));
        }
        let mut state = self.inner.lock();
        let savepoint = state.savepoints.get(name).filter(|found| found.checkpoint != checkpoint);
        if let Some(found) = savepoint {
            return Err(self.inner.error(
                StateErrorKind::Misused,
                "make a savepoint in",
                format!("`{name}` is that of checkpoint {} already", found.checkpoint),
                "choose another name, or release that one",
            ));
        }
        let manifest = self.inner.find(&state, checkpoint)?;
        manifest::write(&*self.inner.disk, &manifest::savepoint_path(&self.inner.dir, name), &*manifest)?;
        state.savepoints.insert(name.to_owned(), manifest);
        state.refresh(&*self.inner.entries);
        Ok(())
    }

    /// Releases a savepoint. False if there is none of that name.
    pub fn release(&self, name: &str) -> Result<bool> {
        let mut state = self.inner.lock();
        if !state.savepoints.contains_key(name) {
            return Ok(false);
        }
        self.inner.remove_file(&manifest::savepoint_path(&self.inner.dir, name))?;
        state.savepoints.remove(name);
        state.refresh(&*self.inner.entries);
        Ok(true)
    }

    /// Goes back to a savepoint: it is published anew as the newest checkpoint, and what came after it is never seen again.
    /// Later savepoints must be released before. The savepoint stays, and is that of the new checkpoint.
    ///
    /// The rename of its file is what counts: interrupted before it nothing has changed, and after it the rest is done when the
    /// folder is opened. It begins another timeline, and of what is retained only it is. Of `publication` the blobs and what sources and sinks keep are those of the savepoint.
    pub fn restore(&self, name: &str, publication: Publication) -> Result<Arc<Manifest>> {
        let inner = &self.inner;
        let misused = |detail: String, remedy: &str| {
            Err(inner.error(StateErrorKind::Misused, "go back to a savepoint in", detail, remedy))
        };
        let mut state = inner.lock();
        if state.doubt.is_some() || state.draft.is_some() {
            return misused("a checkpoint is being written, or in doubt".to_owned(), "open the folder again");
        }
        let Some(target) = state.savepoints.get(name).cloned() else {
            let known: Vec<&str> = state.savepoints.keys().map(String::as_str).collect();
            let remedy = match known.as_slice() {
                [] => "there are none".to_owned(),
                known => format!("there are {}", known.join(", ")),
            };
            return Err(inner.error(
                StateErrorKind::Missing,
                "find a savepoint in",
                format!("there is no savepoint `{name}`"),
                remedy,
            ));
        };
        if let Some((later, _)) = state.savepoints.iter().find(|(_, saved)| saved.stamp > target.stamp) {
            return misused(format!("savepoint `{later}` is later"), "release it first: what it holds is let go");
        }
        inner.check_not_fenced()?;
        let mut lineage = Lineage::clone(&state.lineage);
        lineage.bury(target.stamp + 1, state.next_stamp - 1);
        let known = state.manifests.values().chain(state.savepoints.values());
        let timeline = known.map(|manifest| manifest.timeline).max().unwrap_or(0) + 1;
        let Publication { journal_id, journal_sequence, time_ns, .. } = publication;
        let manifest = Manifest {
            checkpoint: state.next_number,
            generation: inner.generation,
            timeline,
            journal_id,
            journal_sequence,
            time_ns,
            dead: lineage.dead.clone(),
            ..Manifest::clone(&target)
        };
        // A savepoint is a whole copy: from its rename on this is the newest checkpoint, whatever becomes of its manifest.
        let saved = manifest::savepoint_path(&inner.dir, name);
        if let Err(error) = manifest::write(&*inner.disk, &saved, &manifest) {
            state.doubt = Some(error.to_string());
            return Err(error);
        }
        let manifest = Arc::new(manifest);
        state.next_number += 1;
        state.lineage = Arc::new(lineage);
        state.savepoints.insert(name.to_owned(), Arc::clone(&manifest));
        inner.write_manifest(&mut state, &manifest)?;
        let undone: Vec<u64> = state.manifests.keys().copied().collect();
        state.manifests.insert(manifest.checkpoint, Arc::clone(&manifest));
        for number in undone {
            inner.remove_file(&manifest::manifest_path(&inner.dir, number))?;
            state.manifests.remove(&number);
        }
        inner.let_go(&mut state);
        Ok(manifest)
    }

    /// Rewrites the store without what is of no use any more. It may take long: seconds for a gigabyte.
    ///
    /// The store does so by itself with what changes often. It is worth calling where much was deleted at once, and where
    /// [`Checkpoints::leftovers`] are many.
    pub fn compact(&self) -> Result<()> {
        while self.sweep(100_000)? {}
        self.inner.entries.compact()?;
        // Seen with our own eyes, since an attempt that is forgotten too early would come back to life.
        let lineage = Arc::clone(&self.inner.lock().lineage);
        let mut left = std::collections::BTreeSet::new();
        self.inner.entries.scan(&[], &key::graves_start(u64::MAX), &mut |key, _| {
            let stamp = key::split_version(key).or_else(|| key::split_grave(key).map(|(stamp, entry)| (entry, stamp)));
            left.extend(stamp.and_then(|(_, stamp)| lineage.burial(stamp)));
            std::ops::ControlFlow::Continue(())
        })?;
        let mut state = self.inner.lock();
        let mut lineage = Lineage::clone(&state.lineage);
        // Those of this process stay: a batch of a dropped draft may have been under way.
        lineage.dead.retain(|range| range.1 >= self.inner.generation << 32 || left.contains(range));
        state.lineage = Arc::new(lineage);
        state.refresh(&*self.inner.entries);
        Ok(())
    }

    /// How many times checkpoints were interrupted, or the process ended, since the store was last compacted: what was
    /// written of them may still take room.
    pub fn leftovers(&self) -> usize {
        self.inner.lock().lineage.dead.len()
    }
}

impl Inner {
    fn lock(&self) -> MutexGuard<'_, State> {
        // Each change of the state is made at once, after what can fail.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn find(&self, state: &State, checkpoint: u64) -> Result<Arc<Manifest>> {
        let saved = || state.savepoints.values().find(|manifest| manifest.checkpoint == checkpoint);
        let found = state.manifests.get(&checkpoint).or_else(saved).cloned();
        found.ok_or_else(|| {
            let kept: Vec<String> = state.manifests.keys().map(u64::to_string).collect();
            self.error(
                StateErrorKind::Missing,
                "find a checkpoint in",
                format!("there is no checkpoint {checkpoint}"),
                format!("those that are kept are {}", kept.join(", ")),
            )
        })
    }

    fn remove_file(&self, path: &std::path::Path) -> Result<()> {
        use crate::error::StateError;
        match self.disk.remove(path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(StateError::io(path, "remove", error)),
            _ => self.disk.sync_dir(&self.dir).map_err(|error| StateError::io(&self.dir, "sync the folder", error)),
        }
    }

    /// A stamp for a batch of a draft. It is used once, whatever becomes of the batch.
    fn next_stamp(&self, draft: u64) -> Result<u64> {
        let mut state = self.lock();
        // A writer may outlive its draft; what it wrote would count as the next one's.
        if state.draft.is_none_or(|(written, _)| written != draft) {
            return Err(self.error(
                StateErrorKind::Misused,
                "write to a checkpoint in",
                "the checkpoint of this writer was dropped",
                "begin a new checkpoint",
            ));
        }
        let stamp = state.next_stamp;
        // The upper half is the generation.
        if stamp as u32 == u32::MAX {
            return Err(self.error(
                StateErrorKind::TooLarge,
                "write to a checkpoint in",
                "the process has written four billion batches",
                "restart the engine",
            ));
        }
        state.next_stamp += 1;
        Ok(stamp)
    }

    fn publish(&self, mut manifest: Manifest) -> Result<Arc<Manifest>> {
        self.entries.persist()?;
        self.check_not_fenced()?;
        let mut state = self.lock();
        manifest.checkpoint = state.next_number;
        manifest.generation = self.generation;
        manifest.stamp = state.next_stamp - 1;
        manifest.dead = state.lineage.dead.clone();
        self.write_manifest(&mut state, &manifest)?;
        let manifest = Arc::new(manifest);
        state.draft = None;
        state.next_number += 1;
        state.manifests.insert(manifest.checkpoint, Arc::clone(&manifest));
        self.let_go(&mut state);
        Ok(manifest)
    }

    /// Refuses where another process has taken over.
    fn check_not_fenced(&self) -> Result<()> {
        let claim: manifest::Claim = manifest::read(&*self.disk, &manifest::claim_path(&self.dir))?;
        if claim.generation <= self.generation {
            return Ok(());
        }
        Err(self.error(
            StateErrorKind::Fenced { ours: self.generation, stored: claim.generation },
            "publish a checkpoint to",
            format!("generation {} has taken over from {}", claim.generation, self.generation),
            "this process must stop",
        ))
    }

    fn write_manifest(&self, state: &mut State, manifest: &Manifest) -> Result<()> {
        let path = manifest::manifest_path(&self.dir, manifest.checkpoint);
        let written = manifest::write(&*self.disk, &path, manifest);
        if let Err(error) = &written
            && self.disk.len(&path).is_ok()
        {
            // Under its name it may count after a crash, or not.
            state.doubt = Some(error.to_string());
        }
        written
    }

    /// Removes the manifests that are too many.
    fn let_go(&self, state: &mut State) {
        let excess = state.manifests.len().saturating_sub(self.config.retained.max(1));
        for _ in 0..excess {
            let Some(number) = state.manifests.keys().next().copied() else { break };
            // One that can't be removed is retained, and tried again with the next.
            if self.remove_file(&manifest::manifest_path(&self.dir, number)).is_err() {
                break;
            }
            state.manifests.remove(&number);
        }
        state.refresh(&*self.entries);
    }

    /// A draft comes to nothing, unless it was published.
    fn abandon(&self, draft: u64) {
        let mut state = self.lock();
        let Some((_, from)) = state.draft.take_if(|(written, _)| *written == draft) else { return };
        // Where it is in doubt whether it was published, its entries stay.
        if state.doubt.is_none() && from < state.next_stamp {
            let last = state.next_stamp - 1;
            state.bury(from, last);
            state.refresh(&*self.entries);
        }
    }
}
