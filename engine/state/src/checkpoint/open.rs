//! Finds the newest checkpoint that is whole, and takes over the state.

use super::key::{Lineage, graves_start, split_version};
use super::manifest::{
    self, Claim, Manifest, claim_path, manifest_number, manifest_path, savepoint_name, savepoint_path,
};
use super::{CheckpointConfig, Checkpoints, EntryStore, Inner, State};
use crate::disk::Disk;
use crate::error::{Result, StateError, StateErrorKind};
use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

/// What was found in a state directory.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// The checkpoint that is used.
    pub used: Option<u64>,
    /// Files that can't be used.
    pub refused: Vec<Refused>,
}

/// A file that can't be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    /// The file.
    pub path: PathBuf,
    /// What is wrong with it, and what to do.
    pub why: String,
}

/// What the manifests of a folder say.
#[derive(Debug, Default)]
struct Found {
    manifests: BTreeMap<u64, Arc<Manifest>>,
    savepoints: BTreeMap<String, Arc<Manifest>>,
    /// Those that a savepoint was restored over; a crash left their manifests.
    undone: Vec<u64>,
    greatest_number: u64,
    report: Report,
}

fn find(disk: &dyn Disk, dir: &Path) -> Result<Found> {
    let names = disk.list(dir).map_err(|error| StateError::io(dir, "list", error))?;
    let mut found = Found::default();
    let mut later: Vec<(u64, StateError)> = Vec::new();
    for name in &names {
        let number = manifest_number(name);
        let savepoint = savepoint_name(name);
        let path = match (number, savepoint) {
            (Some(number), _) => manifest_path(dir, number),
            (_, Some(savepoint)) => savepoint_path(dir, savepoint),
            _ => continue,
        };
        found.greatest_number = found.greatest_number.max(number.unwrap_or(0));
        match manifest::read::<Manifest>(disk, &path) {
            Ok(manifest) if number.is_some_and(|number| number != manifest.checkpoint) => {
                let why = format!("it is the manifest of checkpoint {}; give it its name back", manifest.checkpoint);
                found.report.refused.push(Refused { path, why });
            }
            Ok(manifest) => {
                let manifest = Arc::new(manifest);
                found.greatest_number = found.greatest_number.max(manifest.checkpoint);
                if let Some(savepoint) = savepoint {
                    found.savepoints.insert(savepoint.to_owned(), Arc::clone(&manifest));
                }
                // A savepoint is a whole copy, whatever became of the manifest.
                if number.is_some() || !found.manifests.contains_key(&manifest.checkpoint) {
                    found.manifests.insert(manifest.checkpoint, manifest);
                }
            }
            Err(error) => {
                found.report.refused.push(Refused { path, why: error.to_string() });
                if let (Some(number), StateErrorKind::Format { .. }) = (number, error.kind()) {
                    later.push((number, error));
                }
            }
        }
    }
    let newest = found.manifests.last_key_value().map(|(number, _)| *number);
    // Going on with an earlier one would undo, without a word, what a later engine did.
    if let Some((_, error)) = later.into_iter().find(|(number, _)| newest.is_none_or(|newest| *number > newest)) {
        return Err(error);
    }
    if newest.is_none() && !found.report.refused.is_empty() {
        let files: Vec<String> = found.report.refused.iter().map(|refused| refused.why.clone()).collect();
        return Err(StateError::damaged(
            dir,
            "find a whole checkpoint in",
            None,
            files.join("; "),
            "restore the files from a copy, or start with an empty state directory",
        ));
    }
    if let Some(newest) = found.manifests.last_key_value().map(|(_, newest)| Arc::clone(newest)) {
        let is_undone = |manifest: &Arc<Manifest>| {
            manifest.timeline < newest.timeline && !found.savepoints.values().any(|saved| Arc::ptr_eq(saved, manifest))
        };
        found.undone = found.manifests.values().filter(|old| is_undone(old)).map(|old| old.checkpoint).collect();
        found.manifests.retain(|_, manifest| !is_undone(manifest));
    }
    // Only those that are not a copy kept for its name count as retained; the newest always does.
    found.manifests.retain(|number, manifest| {
        Some(*number) == newest || !found.savepoints.values().any(|saved| Arc::ptr_eq(saved, manifest))
    });
    found.report.used = newest;
    Ok(found)
}

/// What can be told of a folder by its manifests alone.
#[derive(Clone, Debug)]
pub struct Inspection {
    /// The checkpoints that are retained, the oldest first.
    pub retained: Vec<Arc<Manifest>>,
    /// Those that are kept by name.
    pub savepoints: BTreeMap<String, Arc<Manifest>>,
    /// What would be used, and what not.
    pub report: Report,
}

/// Looks at the manifests of a folder. Nothing is changed or taken over, so it may be another engine's.
pub fn inspect(disk: &dyn Disk, dir: &Path) -> Result<Inspection> {
    let Found { manifests, savepoints, report, .. } = find(disk, dir)?;
    Ok(Inspection { retained: manifests.into_values().collect(), savepoints, report })
}

impl Checkpoints {
    /// Opens the checkpoints of a folder, and takes them over: whoever opened them before can't publish any more.
    ///
    /// `entries` is the store that belongs to the folder.
    pub fn open(
        disk: Arc<dyn Disk>,
        dir: &Path,
        entries: Arc<dyn EntryStore>,
        config: CheckpointConfig,
    ) -> Result<(Checkpoints, Report)> {
        disk.create_dir_all(dir).map_err(|error| StateError::io(dir, "make", error))?;
        let found = find(&*disk, dir)?;
        let newest = found.manifests.last_key_value().map(|(_, manifest)| Arc::clone(manifest));
        if let Some(newest) = &newest
            && newest.contents().entries > 0
            && is_empty(&*entries)?
        {
            return Err(StateError::damaged(
                dir,
                "find the entries of",
                None,
                format!("checkpoint {} has entries, and the store has none", newest.checkpoint),
                "restore the folder of the store from a copy, or start with an empty state directory",
            ));
        }
        let generation = claim(&*disk, dir, &found)?;
        // Nothing in a folder that a crash left may be taken for ours.
        for name in disk.list(dir).map_err(|error| StateError::io(dir, "list", error))? {
            if name.ends_with(".json.new") {
                let path = dir.join(name);
                disk.remove(&path).map_err(|error| StateError::io(&path, "remove", error))?;
            }
        }
        if let Some(newest) = &newest
            && found.savepoints.values().any(|saved| Arc::ptr_eq(saved, newest))
        {
            // It was damaged, or going back was interrupted.
            manifest::write(&*disk, &manifest_path(dir, newest.checkpoint), &**newest)?;
        }
        for number in &found.undone {
            let path = manifest_path(dir, *number);
            disk.remove(&path).map_err(|error| StateError::io(&path, "remove", error))?;
        }
        let next_stamp = generation << 32;
        let dead = newest.as_ref().map_or_else(Vec::new, |manifest| manifest.dead.clone());
        let mut lineage = Lineage { views: Vec::new(), dead };
        // What was written behind the newest checkpoint never counted.
        lineage.bury(newest.as_ref().map_or(0, |manifest| manifest.stamp + 1), next_stamp - 1);
        let mut state = State {
            manifests: found.manifests,
            savepoints: found.savepoints,
            reading: BTreeMap::new(),
            lineage: Arc::new(lineage),
            next_number: found.greatest_number + 1,
            next_stamp,
            draft: None,
            drafts: 0,
            doubt: None,
        };
        state.refresh(&*entries);
        let inner = Inner { disk, dir: dir.to_owned(), entries, config, generation, state: Mutex::new(state) };
        Ok((Checkpoints { inner: Arc::new(inner) }, found.report))
    }
}

/// Takes the next generation, durably.
fn claim(disk: &dyn Disk, dir: &Path, found: &Found) -> Result<u64> {
    let path = claim_path(dir);
    let published = found.manifests.values().chain(found.savepoints.values());
    let published = published.map(|manifest| manifest.generation).max().unwrap_or(0);
    let before = match manifest::read::<Claim>(disk, &path) {
        Ok(claim) => claim.generation.max(published),
        Err(error) => match error.kind() {
            StateErrorKind::Format { .. } => return Err(error),
            StateErrorKind::Io if published == 0 => 0,
            // It is lost. A good deal more than the newest that is known is more than any that came to nothing.
            _ => published + (1 << 12),
        },
    };
    let generation = before + 1;
    if generation >= 1 << 31 {
        return Err(StateError::damaged(
            &path,
            "read",
            None,
            format!("generation {before} can't be"),
            "remove the file",
        ));
    }
    manifest::write(disk, &path, &Claim { generation })?;
    Ok(generation)
}

fn is_empty(entries: &dyn EntryStore) -> Result<bool> {
    let mut is_empty = true;
    entries.scan(&[], &graves_start(0), &mut |key, _| {
        is_empty = split_version(key).is_none();
        if is_empty { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
    })?;
    Ok(is_empty)
}
