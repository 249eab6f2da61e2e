//! A checkpoint while it is written: nobody sees any of it until it is published.

use super::key::{EntryKey, Space, StepId, decode_entry, grave, group_start, push_stamp};
use super::manifest::{Contents, Held, Manifest, StepAbout, StepManifest};
use super::{Before, Inner, Publication};
use crate::error::{Result, StateError, StateErrorKind};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

/// A checkpoint that is being written. Dropped without being published, it never was.
#[derive(Debug)]
pub struct Draft {
    inner: Arc<Inner>,
    shared: Arc<Shared>,
    number: u64,
    manifest: Manifest,
}

/// What the writers of a draft add up.
#[derive(Debug, Default)]
pub(super) struct Shared {
    changes: Mutex<Changes>,
}

#[derive(Debug, Default)]
struct Changes {
    steps: BTreeMap<StepId, Contents>,
    /// Writers that are neither finished nor dropped.
    open: usize,
    /// A writer was dropped with changes that it had not written, or failed.
    lost: bool,
}

impl Shared {
    fn with<T>(&self, act: impl FnOnce(&mut Changes) -> T) -> T {
        act(&mut self.changes.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Draft {
    pub(super) fn new(inner: Arc<Inner>, number: u64, manifest: Manifest) -> Draft {
        Draft { inner, shared: Arc::default(), number, manifest }
    }

    /// The number that stands for a step's name, from now on if there was none. Notes what the step is.
    pub fn step(&mut self, name: &str, about: StepAbout) -> StepId {
        let next = self.manifest.next_step;
        let step = self.manifest.steps.entry(name.to_owned()).or_insert_with(|| {
            self.manifest.next_step += 1;
            StepManifest { id: next, ..StepManifest::default() }
        });
        step.about = about;
        StepId(step.id)
    }

    /// Gives a step another name, with its state. False if there is no such step, or the other name is taken.
    pub fn rename_step(&mut self, from: &str, to: &str) -> bool {
        if self.manifest.steps.contains_key(to) {
            return false;
        }
        let Some(step) = self.manifest.steps.remove(from) else { return false };
        self.manifest.steps.insert(to.to_owned(), step);
        true
    }

    /// Forgets a step with all its state. What other writers of this draft write of it meanwhile is not seen.
    pub fn delete_step(&mut self, name: &str) -> Result<()> {
        let Some(step) = self.manifest.step(name) else { return Ok(()) };
        let mut writer = self.writer();
        for space in Space::ALL {
            let (mut from, to) = (group_start(space, step, 0), group_start(space, step, u32::MAX));
            loop {
                let mut found: Vec<(Vec<u8>, Held)> = Vec::new();
                let next =
                    self.inner.seen_now(&from, &to, 10_000, &mut |entry, held| found.push((entry.to_vec(), held)))?;
                for (entry, held) in &found {
                    if let Some(key) = decode_entry(entry) {
                        writer.delete(&key, Before::Held(*held))?;
                    }
                }
                match next {
                    Some(next) => from = next,
                    None => break,
                }
            }
        }
        writer.finish()?;
        self.manifest.steps.remove(name);
        Ok(())
    }

    /// A writer, for a worker to write its changes beside others. An entry belongs to one writer.
    pub fn writer(&self) -> Writer {
        self.shared.with(|changes| changes.open += 1);
        Writer {
            inner: Arc::clone(&self.inner),
            shared: Arc::clone(&self.shared),
            draft: self.number,
            bytes: Vec::new(),
            changes: Vec::new(),
            steps: BTreeMap::new(),
            scratch: Vec::new(),
            is_finished: false,
        }
    }

    /// Makes the checkpoint count. All writers must be finished. Durable first: the entries, then the manifest under its name.
    ///
    /// On an error it does not count, and the one before stays. Only where the manifest has its name and that could not be
    /// made durable, it is in doubt: then nothing more is begun until the checkpoints are opened again.
    pub fn publish(mut self, publication: Publication) -> Result<Arc<Manifest>> {
        let steps = self.shared.with(|changes| {
            let is_whole = changes.open == 0 && !changes.lost;
            is_whole.then(|| std::mem::take(&mut changes.steps))
        });
        let Some(steps) = steps else {
            return Err(self.inner.error(
                StateErrorKind::Misused,
                "publish a checkpoint to",
                "not all of its writers have finished",
                "begin a new checkpoint",
            ));
        };
        for step in self.manifest.steps.values_mut() {
            step.contents.add(steps.get(&StepId(step.id)).copied().unwrap_or_default());
        }
        let Publication { journal_id, journal_sequence, epoch, time_ns, blobs, extra } = publication;
        let manifest = Manifest {
            journal_id,
            journal_sequence,
            epoch,
            time_ns,
            blobs,
            extra,
            ..std::mem::take(&mut self.manifest)
        };
        self.inner.publish(manifest)
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        // Nothing to do where it was published.
        self.inner.abandon(self.number);
    }
}

#[derive(Clone, Copy, Debug)]
struct Change {
    /// Where its entry and its value lie in the buffer.
    at: usize,
    entry_bytes: u32,
    /// What there is of it afterwards.
    after: Option<Held>,
    /// With the byte before it that says whether there is one.
    value_bytes: u32,
    before: Before,
}

/// Writes changes of a checkpoint. What it holds in memory is bounded by `CheckpointConfig::batch_bytes`, about twice.
///
/// Any call may sort and write a batch, which takes a good part of a second: it is not for a thread that must not wait.
/// Entries that come ordered by group make batches that overlap less, and load faster until the store has compacted.
#[derive(Debug)]
pub struct Writer {
    inner: Arc<Inner>,
    shared: Arc<Shared>,
    draft: u64,
    bytes: Vec<u8>,
    changes: Vec<Change>,
    steps: BTreeMap<StepId, Contents>,
    scratch: Vec<u8>,
    is_finished: bool,
}

impl Writer {
    /// Puts an entry in place of what was there. Gives what to say of it when it is changed the next time.
    pub fn put(&mut self, key: &EntryKey<'_>, value: &[u8], before: Before) -> Result<Held> {
        let at = self.bytes.len();
        key.encode(&mut self.bytes)?;
        let held = Held::of(&self.bytes[at..], key.key.len(), value, &mut self.scratch);
        let entry_bytes = self.bytes.len() - at;
        self.bytes.push(1);
        self.bytes.extend_from_slice(value);
        self.push(at, entry_bytes, Some(held), before)?;
        Ok(held)
    }

    /// Deletes an entry.
    pub fn delete(&mut self, key: &EntryKey<'_>, before: Before) -> Result<()> {
        let at = self.bytes.len();
        key.encode(&mut self.bytes)?;
        let entry_bytes = self.bytes.len() - at;
        self.bytes.push(0);
        self.push(at, entry_bytes, None, before)
    }

    /// Writes what is left. Without it the draft can't be published.
    pub fn finish(mut self) -> Result<()> {
        self.write()?;
        self.is_finished = true;
        Ok(())
    }

    fn push(&mut self, at: usize, entry_bytes: usize, after: Option<Held>, before: Before) -> Result<()> {
        let value_bytes = self.bytes.len() - at - entry_bytes;
        let Ok(value_bytes) = u32::try_from(value_bytes) else {
            self.bytes.truncate(at);
            return Err(self.inner.error(
                StateErrorKind::TooLarge,
                "write an entry to",
                "a value is over the bound of 4 GiB",
                "let the step keep less for a key",
            ));
        };
        self.changes.push(Change { at, entry_bytes: entry_bytes as u32, after, value_bytes, before });
        if self.bytes.len() >= self.inner.config.batch_bytes { self.write() } else { Ok(()) }
    }

    fn write(&mut self) -> Result<()> {
        let mut changes = std::mem::take(&mut self.changes);
        let bytes = std::mem::take(&mut self.bytes);
        let entry_of = |change: &Change| &bytes[change.at..change.at + change.entry_bytes as usize];
        let value_of = |change: &Change| {
            let at = change.at + change.entry_bytes as usize;
            &bytes[at..at + change.value_bytes as usize]
        };
        // Stable: of several changes of an entry the last one counts, in place of what the first one found.
        changes.sort_by(|a, b| entry_of(a).cmp(entry_of(b)));
        changes.dedup_by(|later, kept| {
            let is_same = entry_of(later) == entry_of(kept);
            if is_same {
                *kept = Change { before: kept.before, ..*later };
            }
            is_same
        });
        for change in &changes {
            let Some(key) = decode_entry(entry_of(change)) else { continue };
            let before = match change.before {
                Before::Absent => None,
                Before::Held(held) => Some(held),
                Before::Unknown => self.inner.held_now(entry_of(change), key.key.len())?,
            };
            let contents = self.steps.entry(key.step).or_default();
            if let Some(held) = before {
                contents.take(held);
            }
            if let Some(held) = change.after {
                contents.put(held);
            }
        }
        if changes.is_empty() {
            return Ok(());
        }
        let stamp = self.inner.next_stamp(self.draft)?;
        let mut keys = Vec::with_capacity(bytes.len());
        let mut ends = Vec::with_capacity(changes.len());
        for change in &changes {
            keys.extend_from_slice(entry_of(change));
            push_stamp(&mut keys, stamp);
            ends.push(keys.len());
        }
        let deleted = changes.iter().filter(|change| change.after.is_none());
        let graves: Vec<Vec<u8>> = deleted.map(|change| grave(stamp, entry_of(change))).collect();
        let starts = std::iter::once(0).chain(ends.iter().copied());
        let versions =
            starts.zip(&ends).zip(&changes).map(|((start, end), change)| (&keys[start..*end], Some(value_of(change))));
        let mut batch = versions.chain(graves.iter().map(|grave| (grave.as_slice(), Some(&[][..]))));
        self.inner.entries.write(&mut batch)?;
        // The buffer serves again.
        self.bytes = bytes;
        self.bytes.clear();
        changes.clear();
        self.changes = changes;
        Ok(())
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        let steps = std::mem::take(&mut self.steps);
        self.shared.with(|changes| {
            changes.open -= 1;
            changes.lost |= !self.is_finished;
            for (step, change) in steps {
                changes.steps.entry(step).or_default().add(change);
            }
        });
    }
}

/// So that a caller need not know the error's parts.
impl Inner {
    pub(super) fn error(
        &self,
        kind: StateErrorKind,
        operation: &'static str,
        detail: impl Into<String>,
        remedy: impl Into<String>,
    ) -> StateError {
        StateError::new(kind, &self.dir, operation, detail, remedy)
    }
}
