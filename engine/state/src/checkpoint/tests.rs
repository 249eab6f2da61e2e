//! Checkpoints in a store that crashes, against plain maps.

use super::*;
use crate::disk::lying::{Lie, LyingDisk};
use crate::disk::{RealDisk, SimDisk};
use std::ops::ControlFlow;
use std::path::Path;

mod cases;
mod model;

/// An entry in its parts.
type Owned = (Space, StepId, u16, Vec<u8>, i64);

fn key(owned: &Owned) -> EntryKey<'_> {
    EntryKey { space: owned.0, step: owned.1, group: owned.2, key: &owned.3, slice: owned.4 }
}

/// Everything that a checkpoint has.
fn contents(
    checkpoints: &Checkpoints,
    manifest: &Manifest,
    groups: &[std::ops::RangeInclusive<u16>],
) -> BTreeMap<Owned, Vec<u8>> {
    let mut found = BTreeMap::new();
    for space in Space::ALL {
        for step in manifest.steps.values().map(|step| StepId(step.id)) {
            for groups in groups {
                let mut before = None;
                let mut visit = |key: EntryKey<'_>, value: &[u8]| {
                    assert!(key.space == space && key.step == step && groups.contains(&key.group));
                    assert!(before.is_none_or(|before| before <= key.group), "groups come in order");
                    before = Some(key.group);
                    let owned = (key.space, key.step, key.group, key.key.to_vec(), key.slice);
                    assert!(found.insert(owned, value.to_vec()).is_none(), "an entry comes once");
                    ControlFlow::Continue(())
                };
                checkpoints.load(manifest, space, step, groups.clone(), &mut visit).unwrap();
            }
        }
    }
    found
}

fn about() -> StepAbout {
    StepAbout { kind: "rolling".to_owned(), format: 1, config_digest: "d".to_owned(), schema: "s".to_owned() }
}

fn memory(disk: &SimDisk, entries: &MemoryEntries) -> Result<(Checkpoints, Report)> {
    let config = CheckpointConfig { retained: 2, batch_bytes: 500 };
    Checkpoints::open(Arc::new(disk.clone()), Path::new("/state"), Arc::new(entries.clone()), config)
}

/// One more checkpoint, of a step `a`.
fn publish(checkpoints: &Checkpoints, puts: &[(u16, &str, &str)], deletes: &[(u16, &str)]) -> Arc<Manifest> {
    let mut draft = checkpoints.begin().unwrap();
    let step = draft.step("a", about());
    let mut writer = draft.writer();
    for (group, key, value) in puts {
        let key = EntryKey { space: Space::SLOTS, step, group: *group, key: key.as_bytes(), slice: 0 };
        writer.put(&key, value.as_bytes(), Before::Unknown).unwrap();
    }
    for (group, key) in deletes {
        let key = EntryKey { space: Space::SLOTS, step, group: *group, key: key.as_bytes(), slice: 0 };
        writer.delete(&key, Before::Unknown).unwrap();
    }
    writer.finish().unwrap();
    draft.publish(Publication::default()).unwrap()
}

/// A value of step `a`.
fn value(checkpoints: &Checkpoints, manifest: &Manifest, group: u16, key: &str) -> Option<String> {
    let key = EntryKey { space: Space::SLOTS, step: manifest.step("a")?, group, key: key.as_bytes(), slice: 0 };
    checkpoints.get(manifest, &key).unwrap().map(|value| String::from_utf8(value).unwrap())
}
