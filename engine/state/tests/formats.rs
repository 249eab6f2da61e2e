//! Files of every format that was ever written are still read. `BLESS=1` writes the newest format's again.

use engine_state::checkpoint::{
    Before, CheckpointConfig, Checkpoints, EntryKey, MemoryEntries, Publication, Space, StepAbout, StepId, inspect,
};
use engine_state::disk::{Disk, RealDisk};
use engine_state::journal::{Journal, JournalConfig, Sequence, survey};
use std::path::Path;
use std::sync::Arc;

/// The fixture's bytes; written first where that is asked for.
fn fixture(name: &str, written: &[u8]) -> Vec<u8> {
    let path = Path::new("tests/fixtures").join(name);
    if std::env::var_os("BLESS").is_some() {
        std::fs::write(&path, written).unwrap();
    }
    std::fs::read(&path).unwrap()
}

#[test]
fn a_journal_segment_of_format_1() {
    let name = "00000000000000000100.journal";
    let folder = tempfile::tempdir().unwrap();
    let config = JournalConfig { id: 0x00c0_ffee, first: Sequence(100), ..JournalConfig::default() };
    let (mut journal, _) = Journal::open(Arc::new(RealDisk), folder.path(), config).unwrap();
    journal.append(b"first").unwrap();
    journal.append_parts(&[b"", b"in ", b"parts"]).unwrap();
    journal.sync().unwrap();
    journal.append(b"").unwrap();
    journal.append(&[0xff; 300]).unwrap();
    journal.sync().unwrap();
    let path = folder.path().join(name);
    let written = RealDisk.read(&path).unwrap();
    let kept = fixture("journal-1.bin", &written);
    assert!(kept == written, "the format has changed: give it a new number, and keep the fixture of the old one");

    std::fs::write(&path, &kept).unwrap();
    let found = survey(Arc::new(RealDisk), folder.path()).unwrap();
    assert_eq!(
        (found.id(), found.first(), found.next()),
        (Some(0x00c0_ffee), Some(Sequence(100)), Some(Sequence(104)))
    );
    let payloads: Vec<Vec<u8>> = found.replay(Sequence(100)).unwrap().map(|record| record.unwrap().payload).collect();
    assert_eq!(payloads, [b"first".to_vec(), b"in parts".to_vec(), Vec::new(), vec![0xff; 300]]);
}

#[test]
fn a_manifest_of_format_1() {
    let folder = tempfile::tempdir().unwrap();
    let open = || {
        let entries = Arc::new(MemoryEntries::new());
        Checkpoints::open(Arc::new(RealDisk), folder.path(), entries, CheckpointConfig::default()).unwrap().0
    };
    let checkpoints = open();
    let mut draft = checkpoints.begin().unwrap();
    let about = StepAbout {
        kind: "rolling".to_owned(),
        format: 3,
        config_digest: "0123456789abcdef".to_owned(),
        schema: "card: utf8, amount: float64".to_owned(),
    };
    let step = draft.step("spend_1h", about.clone());
    let mut writer = draft.writer();
    let key = EntryKey { space: Space::SLOTS, step, group: 77, key: b"card-1", slice: -5 };
    writer.put(&key, b"state", Before::Absent).unwrap();
    writer.finish().unwrap();
    let publication = Publication {
        journal_id: 0x00c0_ffee,
        journal_sequence: 104,
        epoch: 9,
        time_ns: 1_700_000_000_000_000_000,
        blobs: [("plan".to_owned(), "ab".repeat(32))].into(),
        extra: serde_json::json!({ "payments": { "0": 42 } }),
    };
    draft.publish(publication).unwrap();
    let path = folder.path().join("manifest-0000000001.json");
    let kept = fixture("manifest-1.json", &RealDisk.read(&path).unwrap());
    assert!(
        kept == RealDisk.read(&path).unwrap(),
        "the format has changed: give it a new number if an engine of before can't read it, and keep the old fixture"
    );

    std::fs::write(&path, &kept).unwrap();
    let found = inspect(&RealDisk, folder.path()).unwrap();
    assert_eq!((found.report.used, found.report.refused.len()), (Some(1), 0));
    let manifest = &found.retained[0];
    assert_eq!((manifest.journal_id, manifest.journal_sequence, manifest.epoch), (0x00c0_ffee, 104, 9));
    assert_eq!((manifest.generation, manifest.time_ns), (1, 1_700_000_000_000_000_000));
    assert_eq!(manifest.steps["spend_1h"].about, about);
    assert_eq!(manifest.step("spend_1h"), Some(StepId(0)));
    assert_eq!((manifest.contents().entries, manifest.contents().bytes), (1, 11));
    assert_eq!(manifest.blobs["plan"], "ab".repeat(32));
    assert_eq!(manifest.extra["payments"]["0"], 42);
}
