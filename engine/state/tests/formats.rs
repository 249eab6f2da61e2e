//! Files of every format that was ever written are still read. `BLESS=1` writes the newest format's again.

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
