//! The store on a disk that is really full: `ENGINE_STATE_SMALL_DISK=FOLDER cargo test -p engine-state -- --ignored full`.
//!
//! The folder is to be empty and on a file system of some 60 MB, such as a tmpfs; it is filled.

use engine_state::StateErrorKind;
use engine_state::checkpoint::{
    Before, CheckpointConfig, Checkpoints, EntryKey, LsmEntries, Manifest, Publication, Space, StepAbout,
};
use engine_state::disk::{Disk, RealDisk};
use std::path::PathBuf;
use std::sync::Arc;

fn write(checkpoints: &Checkpoints, entries: u32, round: u8) -> engine_state::Result<Arc<Manifest>> {
    let mut draft = checkpoints.begin()?;
    let step = draft.step("all", StepAbout::default());
    let mut writer = draft.writer();
    for number in 0..entries {
        let bytes = number.wrapping_mul(0x9e37_79b9).to_be_bytes();
        let key = EntryKey { space: Space::SLOTS, step, group: (number % 256) as u16, key: &bytes, slice: 0 };
        writer.put(&key, &[round; 90], Before::Unknown)?;
    }
    writer.finish()?;
    draft.publish(Publication::default())
}

#[test]
#[ignore = "needs a small file system"]
fn a_full_disk_is_an_error_and_loses_nothing() {
    let Some(folder) = std::env::var_os("ENGINE_STATE_SMALL_DISK").map(PathBuf::from) else { return };
    let open = || {
        let entries = Arc::new(LsmEntries::open(&folder.join("entries")).unwrap());
        let config = CheckpointConfig { retained: 2, batch_bytes: 1 << 20 };
        Checkpoints::open(Arc::new(RealDisk), &folder, entries, config).unwrap().0
    };
    let checkpoints = open();
    write(&checkpoints, 50_000, 1).unwrap();
    let ballast = folder.join("ballast");
    let mut file = RealDisk.create(&ballast).unwrap();
    let mut refused = 0;
    for room in [12_u64 << 20, 8 << 20, 4 << 20, 1 << 20, 0] {
        while RealDisk.free_bytes(&folder).unwrap() > room && file.append(&[0; 64 << 10]).is_ok() {}
        for round in 0..6 {
            match write(&checkpoints, 50_000, 2 + round) {
                Ok(_) => {}
                Err(error) => {
                    let kind = error.kind();
                    refused += 1;
                    assert!(matches!(kind, StateErrorKind::DiskFull | StateErrorKind::Poisoned), "{error}");
                }
            }
            let newest = checkpoints.newest().unwrap();
            assert_eq!(checkpoints.verify(&newest).unwrap(), []);
        }
    }
    assert!(refused > 5, "the disk was not full");
    drop(file);
    RealDisk.remove(&ballast).unwrap();
    let published = checkpoints.newest().unwrap().checkpoint;
    let next = write(&checkpoints, 50_000, 9).unwrap();
    assert!(next.checkpoint > published);
    drop(checkpoints);
    let checkpoints = open();
    let newest = checkpoints.newest().unwrap();
    assert_eq!((newest.checkpoint, checkpoints.verify(&newest).unwrap().len()), (next.checkpoint, 0));
}
