//! Reads checkpoints, checks them, and sweeps away what was deleted.

use super::key::{
    EntryKey, Lens, Lineage, Space, StepId, decode_entry, graves_start, group_start, push_stamp, split_grave,
    split_version,
};
use super::manifest::{Contents, Held, Manifest};
use super::{Checkpoints, Inner};
use crate::error::{Result, StateError};
use std::collections::BTreeMap;
use std::ops::{ControlFlow, RangeInclusive};
use std::sync::Arc;

/// A step whose entries are not what the manifest says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    /// The step's name; none for entries of a step that the manifest does not know.
    pub step: Option<String>,
    /// The step's number.
    pub id: StepId,
    /// What the manifest says.
    pub expected: Contents,
    /// What the store has.
    pub found: Contents,
}

/// Keeps the versions of a checkpoint while it is read.
struct Reading<'a> {
    inner: &'a Inner,
    lineage: Arc<Lineage>,
    view: u64,
}

impl<'a> Reading<'a> {
    fn new(inner: &'a Inner, manifest: &Manifest) -> Result<Reading<'a>> {
        let mut state = inner.lock();
        // Its versions may be gone.
        inner.find(&state, manifest.checkpoint)?;
        *state.reading.entry(manifest.stamp).or_default() += 1;
        Ok(Reading { inner, lineage: Arc::clone(&state.lineage), view: manifest.stamp })
    }
}

impl Drop for Reading<'_> {
    fn drop(&mut self) {
        let mut state = self.inner.lock();
        if let Some(readers) = state.reading.get_mut(&self.view) {
            *readers -= 1;
            if *readers == 0 {
                state.reading.remove(&self.view);
                state.refresh(&*self.inner.entries);
            }
        }
    }
}

impl Checkpoints {
    /// Visits a step's entries of some key groups, ordered by group, until told to stop.
    ///
    /// Several threads may load at the same time. `visit` must not call this store.
    pub fn load(
        &self,
        manifest: &Manifest,
        space: Space,
        step: StepId,
        groups: RangeInclusive<u16>,
        visit: &mut dyn FnMut(EntryKey<'_>, &[u8]) -> ControlFlow<()>,
    ) -> Result<()> {
        let reading = Reading::new(&self.inner, manifest)?;
        let from = group_start(space, step, u32::from(*groups.start()));
        let to = group_start(space, step, u32::from(*groups.end()) + 1);
        let mut lens = Lens::new(&reading.lineage, reading.view);
        self.inner.entries.scan(&from, &to, &mut |key, value| match lens.sees(key, value) {
            Some((entry, value)) => match decode_entry(entry) {
                Some(key) => visit(key, value),
                None => ControlFlow::Continue(()),
            },
            None => ControlFlow::Continue(()),
        })
    }

    /// The value of one entry.
    pub fn get(&self, manifest: &Manifest, key: &EntryKey<'_>) -> Result<Option<Vec<u8>>> {
        let reading = Reading::new(&self.inner, manifest)?;
        let mut entry = Vec::new();
        key.encode(&mut entry)?;
        let mut found = None;
        self.inner.see(&entry, &reading.lineage, reading.view, &mut |value| found = Some(value.to_vec()))?;
        Ok(found)
    }

    /// What [`super::Before::Held`] takes of an entry that was loaded.
    pub fn held(key: &EntryKey<'_>, value: &[u8]) -> Result<Held> {
        let mut entry = Vec::new();
        key.encode(&mut entry)?;
        Ok(Held::of(&entry, key.key.len(), value, &mut Vec::new()))
    }

    /// Reads all of a checkpoint and compares it with what its manifest says. None is good.
    pub fn verify(&self, manifest: &Manifest) -> Result<Vec<Difference>> {
        let reading = Reading::new(&self.inner, manifest)?;
        let mut found: BTreeMap<StepId, Contents> = BTreeMap::new();
        let mut lens = Lens::new(&reading.lineage, reading.view);
        let mut scratch = Vec::new();
        let mut stray = None;
        self.inner.entries.scan(&[], &graves_start(0), &mut |key, value| {
            let Some((entry, value)) = lens.sees(key, value) else { return ControlFlow::Continue(()) };
            match decode_entry(entry) {
                Some(key) => {
                    let held = Held::of(entry, key.key.len(), value, &mut scratch);
                    found.entry(key.step).or_default().put(held);
                    ControlFlow::Continue(())
                }
                None => {
                    stray = Some(format!("it holds a key that is no entry's: {entry:02x?}"));
                    ControlFlow::Break(())
                }
            }
        })?;
        if let Some(detail) = stray {
            let remedy = "restore the folder from a copy, or go back to an earlier checkpoint";
            return Err(StateError::damaged(&self.inner.dir, "verify", None, detail, remedy));
        }
        let mut differences = Vec::new();
        for (name, step) in &manifest.steps {
            let id = StepId(step.id);
            let found = found.remove(&id).unwrap_or_default();
            if found != step.contents {
                differences.push(Difference { step: Some(name.clone()), id, expected: step.contents, found });
            }
        }
        let strangers =
            found.into_iter().map(|(id, found)| Difference { step: None, id, expected: Contents::default(), found });
        differences.extend(strangers);
        Ok(differences)
    }

    /// Removes some of the entries that were deleted before all checkpoints that are kept. True if there are more.
    ///
    /// To be called after a checkpoint is published, in the background; each call takes no longer than its bound allows
    /// (some microseconds an entry). What was overwritten, not deleted, goes by itself when the store compacts.
    pub fn sweep(&self, entries_max: usize) -> Result<bool> {
        let lineage = Arc::clone(&self.inner.lock().lineage);
        let Some(oldest) = lineage.views.first().copied() else { return Ok(false) };
        let mut graves: Vec<Vec<u8>> = Vec::new();
        self.inner.entries.scan(&graves_start(0), &graves_start(oldest + 1), &mut |key, _| {
            graves.push(key.to_vec());
            if graves.len() < entries_max.max(1) { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
        })?;
        let mut gone: Vec<Vec<u8>> = Vec::new();
        for grave in &graves {
            let Some((stamp, entry)) = split_grave(grave) else { continue };
            if lineage.is_dead(stamp) {
                continue;
            }
            let (from, to) = versions(entry, stamp);
            self.inner.entries.scan(&from, &to, &mut |key, _| {
                gone.push(key.to_vec());
                ControlFlow::Continue(())
            })?;
        }
        let has_more = graves.len() >= entries_max.max(1);
        gone.append(&mut graves);
        // An entry may have been deleted more than once.
        gone.sort_unstable();
        gone.dedup();
        if !gone.is_empty() {
            self.inner.entries.write(&mut gone.iter().map(|key| (key.as_slice(), None)))?;
        }
        Ok(has_more)
    }
}

/// The range of an entry's versions up to a stamp.
fn versions(entry: &[u8], stamp: u64) -> (Vec<u8>, Vec<u8>) {
    let mut from = entry.to_vec();
    push_stamp(&mut from, stamp);
    (from, behind(entry))
}

/// Behind all of an entry's versions, and before any other's.
fn behind(entry: &[u8]) -> Vec<u8> {
    let mut key = entry.to_vec();
    push_stamp(&mut key, 0);
    key.push(0);
    key
}

impl Inner {
    fn see(&self, entry: &[u8], lineage: &Lineage, view: u64, visit: &mut dyn FnMut(&[u8])) -> Result<()> {
        let (from, to) = versions(entry, view);
        let mut lens = Lens::new(lineage, view);
        self.entries.scan(&from, &to, &mut |key, value| {
            if let Some((_, value)) = lens.sees(key, value) {
                visit(value);
                return ControlFlow::Break(());
            }
            // The newest that the view sees may be a deletion.
            let is_dead = split_version(key).is_none_or(|(_, stamp)| lineage.is_dead(stamp));
            if is_dead { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
        })
    }

    /// What there is of an entry, with what the draft has written.
    pub(super) fn held_now(&self, entry: &[u8], key_bytes: usize) -> Result<Option<Held>> {
        let lineage = Arc::clone(&self.lock().lineage);
        let mut held = None;
        let mut scratch = Vec::new();
        self.see(entry, &lineage, u64::MAX, &mut |value| held = Some(Held::of(entry, key_bytes, value, &mut scratch)))?;
        Ok(held)
    }

    /// Visits entries with what the draft has written, so many at most. Gives where to go on, if there may be more.
    pub(super) fn seen_now(
        &self,
        from: &[u8],
        to: &[u8],
        entries_max: usize,
        visit: &mut dyn FnMut(&[u8], Held),
    ) -> Result<Option<Vec<u8>>> {
        let lineage = Arc::clone(&self.lock().lineage);
        let mut lens = Lens::new(&lineage, u64::MAX);
        let mut scratch = Vec::new();
        let (mut seen, mut next) = (0, None);
        self.entries.scan(from, to, &mut |key, value| {
            if let Some((entry, value)) = lens.sees(key, value)
                && let Some(decoded) = decode_entry(entry)
            {
                visit(entry, Held::of(entry, decoded.key.len(), value, &mut scratch));
                seen += 1;
                if seen == entries_max {
                    next = Some(behind(entry));
                    return ControlFlow::Break(());
                }
            }
            ControlFlow::Continue(())
        })?;
        Ok(next)
    }
}
