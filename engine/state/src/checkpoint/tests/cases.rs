//! Single cases of checkpoints.

use super::model::Random;
use super::*;
use crate::StateErrorKind;

#[test]
fn a_damaged_manifest_is_refused_and_the_one_before_is_used() {
    for offset in [0, 20, 150, 400] {
        let (disk, entries) = (SimDisk::new(1), MemoryEntries::new());
        let (checkpoints, _) = memory(&disk, &entries).unwrap();
        publish(&checkpoints, &[(0, "x", "1"), (1, "y", "1")], &[]);
        publish(&checkpoints, &[(0, "x", "2")], &[(1, "y")]);
        let path = manifest::manifest_path(Path::new("/state"), 2);
        assert!(disk.flip_bit(&path, offset, 0));
        let (checkpoints, report) = memory(&disk, &entries).unwrap();
        assert_eq!(report.used, Some(1));
        assert_eq!(report.refused.iter().map(|refused| &refused.path).collect::<Vec<_>>(), [&path]);
        let newest = checkpoints.newest().unwrap();
        assert_eq!(value(&checkpoints, &newest, 0, "x").as_deref(), Some("1"));
        assert_eq!(value(&checkpoints, &newest, 1, "y").as_deref(), Some("1"));
        // What the damaged one had put or deleted must not come back, nor its number.
        let next = publish(&checkpoints, &[(2, "z", "3")], &[]);
        assert_eq!(next.checkpoint, 3);
        checkpoints.compact().unwrap();
        assert_eq!(value(&checkpoints, &next, 1, "y").as_deref(), Some("1"));
        assert_eq!(checkpoints.verify(&next).unwrap(), []);
    }
}

#[test]
fn all_manifests_damaged_is_an_error_not_an_empty_state() {
    let (disk, entries) = (SimDisk::new(1), MemoryEntries::new());
    let (checkpoints, _) = memory(&disk, &entries).unwrap();
    publish(&checkpoints, &[(0, "x", "1")], &[]);
    disk.flip_bit(&manifest::manifest_path(Path::new("/state"), 1), 200, 1);
    let error = memory(&disk, &entries).unwrap_err();
    assert!(matches!(error.kind(), StateErrorKind::Damaged { .. }), "{error}");
}

#[test]
fn a_lost_store_is_an_error_not_an_empty_state() {
    let disk = SimDisk::new(1);
    let (checkpoints, _) = memory(&disk, &MemoryEntries::new()).unwrap();
    publish(&checkpoints, &[(0, "x", "1")], &[]);
    let error = memory(&disk, &MemoryEntries::new()).unwrap_err();
    assert!(error.to_string().contains("the store has none"), "{error}");
}

#[test]
fn a_savepoint_stands_in_for_its_damaged_manifest() {
    let (disk, entries) = (SimDisk::new(1), MemoryEntries::new());
    let (checkpoints, _) = memory(&disk, &entries).unwrap();
    publish(&checkpoints, &[(0, "x", "1")], &[]);
    publish(&checkpoints, &[(0, "x", "2")], &[]);
    checkpoints.save("before", 2).unwrap();
    disk.flip_bit(&manifest::manifest_path(Path::new("/state"), 2), 200, 1);
    let (checkpoints, report) = memory(&disk, &entries).unwrap();
    assert_eq!((report.used, report.refused.len()), (Some(2), 1));
    assert_eq!(value(&checkpoints, &checkpoints.newest().unwrap(), 0, "x").as_deref(), Some("2"));
}

#[test]
fn a_manifest_of_a_later_format_is_refused_not_passed_over() {
    let (disk, entries) = (SimDisk::new(1), MemoryEntries::new());
    let (checkpoints, _) = memory(&disk, &entries).unwrap();
    publish(&checkpoints, &[(0, "x", "1")], &[]);
    publish(&checkpoints, &[(0, "x", "2")], &[]);
    let path = manifest::manifest_path(Path::new("/state"), 2);
    let text = String::from_utf8(disk.read(&path).unwrap()).unwrap();
    disk.create(&path).unwrap().append(text.replacen("\"format\":1", "\"format\":9", 1).as_bytes()).unwrap();
    let error = memory(&disk, &entries).unwrap_err();
    assert_eq!(error.kind(), StateErrorKind::Format { found: 9, supported: 1 });
    assert!(error.to_string().contains("format 9") && error.to_string().contains("format 1"), "{error}");
}

#[test]
fn who_opened_first_publishes_no_more() {
    let (disk, entries) = (SimDisk::new(1), MemoryEntries::new());
    let (first, _) = memory(&disk, &entries).unwrap();
    publish(&first, &[(0, "x", "1")], &[]);
    let mut stale = first.begin().unwrap();
    let step = stale.step("a", about());
    let mut writer = stale.writer();
    let (second, _) = memory(&disk, &entries).unwrap();
    assert!(second.generation() > first.generation());
    // It does not know yet, and writes; the second one must not see it.
    let key = EntryKey { space: Space::SLOTS, step, group: 0, key: b"x", slice: 0 };
    writer.put(&key, b"stale", Before::Unknown).unwrap();
    writer.finish().unwrap();
    let error = stale.publish(Publication::default()).unwrap_err();
    assert_eq!(error.kind(), StateErrorKind::Fenced { ours: first.generation(), stored: second.generation() });
    let newest = publish(&second, &[(1, "y", "2")], &[]);
    assert_eq!(value(&second, &newest, 0, "x").as_deref(), Some("1"));
    assert_eq!(second.verify(&newest).unwrap(), []);
}

#[test]
fn a_writer_that_outlives_its_draft_writes_nothing_into_the_next() {
    let (disk, entries) = (SimDisk::new(1), MemoryEntries::new());
    let (checkpoints, _) = memory(&disk, &entries).unwrap();
    let mut draft = checkpoints.begin().unwrap();
    assert_eq!(checkpoints.begin().unwrap_err().kind(), StateErrorKind::Misused);
    let step = draft.step("a", about());
    let mut writer = draft.writer();
    let key = EntryKey { space: Space::SLOTS, step, group: 0, key: b"x", slice: 0 };
    writer.put(&key, b"late", Before::Unknown).unwrap();
    drop(draft);
    let next = checkpoints.begin().unwrap();
    assert_eq!(writer.finish().unwrap_err().kind(), StateErrorKind::Misused);
    let manifest = next.publish(Publication::default()).unwrap();
    assert_eq!(checkpoints.verify(&manifest).unwrap(), []);
}

#[test]
fn a_full_disk_leaves_the_checkpoint_before() {
    let (disk, entries) = (SimDisk::new(1), MemoryEntries::new());
    let (checkpoints, _) = memory(&disk, &entries).unwrap();
    publish(&checkpoints, &[(0, "x", "1")], &[]);
    for room in [0, 1, 300] {
        disk.set_free_bytes(Some(room));
        let mut draft = checkpoints.begin().unwrap();
        let step = draft.step("a", about());
        let mut writer = draft.writer();
        let key = EntryKey { space: Space::SLOTS, step, group: 0, key: b"x", slice: 0 };
        writer.put(&key, b"2", Before::Unknown).unwrap();
        writer.finish().unwrap();
        let error = draft.publish(Publication::default()).unwrap_err();
        assert_eq!(error.kind(), StateErrorKind::DiskFull, "{error}");
        assert_eq!(disk.free_bytes(Path::new("/state")), Some(room), "the half written file takes room");
        assert_eq!(value(&checkpoints, &checkpoints.newest().unwrap(), 0, "x").as_deref(), Some("1"));
    }
    disk.set_free_bytes(None);
    let newest = publish(&checkpoints, &[(0, "y", "3")], &[]);
    assert_eq!(value(&checkpoints, &newest, 0, "x").as_deref(), Some("1"));
    assert_eq!((newest.checkpoint, checkpoints.verify(&newest).unwrap().len()), (2, 0));
}

#[test]
fn damage_and_lies_are_found_by_verify() {
    let (disk, entries) = (SimDisk::new(1), MemoryEntries::new());
    let (checkpoints, _) = memory(&disk, &entries).unwrap();
    let newest = publish(&checkpoints, &[(0, "x", "1"), (1, "y", "2")], &[]);
    let step = newest.step("a").unwrap();
    let mut stored = Vec::new();
    EntryKey { space: Space::SLOTS, step, group: 0, key: b"x", slice: 0 }.encode(&mut stored).unwrap();
    key::push_stamp(&mut stored, newest.stamp);
    entries.write(&mut std::iter::once((stored.as_slice(), Some(&b"\x017"[..])))).unwrap();
    let differences = checkpoints.verify(&newest).unwrap();
    assert_eq!(differences.len(), 1);
    assert_eq!((differences[0].step.as_deref(), differences[0].id), (Some("a"), step));
    assert_ne!(differences[0].expected.sum, differences[0].found.sum);
    assert_eq!(differences[0].expected.entries, differences[0].found.entries);
}

/// A store compacts by itself as soon as it is open, when it does not know yet what counts.
#[test]
fn a_store_that_was_told_nothing_drops_nothing() {
    fn check(disk: Arc<dyn Disk>, dir: &Path, open: &dyn Fn() -> Arc<dyn EntryStore>) {
        let config = CheckpointConfig::default();
        let (checkpoints, _) = Checkpoints::open(Arc::clone(&disk), dir, open(), config.clone()).unwrap();
        publish(&checkpoints, &[(0, "x", "1"), (1, "y", "1")], &[]);
        publish(&checkpoints, &[(0, "x", "2")], &[]);
        let mut draft = checkpoints.begin().unwrap();
        let step = draft.step("a", about());
        let mut writer = draft.writer();
        let key = EntryKey { space: Space::SLOTS, step, group: 1, key: b"y", slice: 0 };
        writer.put(&key, b"half written", Before::Unknown).unwrap();
        writer.finish().unwrap();
        drop((draft, checkpoints));
        let entries = open();
        entries.compact().unwrap();
        let (checkpoints, _) = Checkpoints::open(disk, dir, entries, config).unwrap();
        for (manifest, expected) in checkpoints.retained().iter().zip(["1", "2"]) {
            assert_eq!(value(&checkpoints, manifest, 0, "x").as_deref(), Some(expected));
            assert_eq!(checkpoints.verify(manifest).unwrap(), []);
        }
    }
    let (disk, entries) = (SimDisk::new(1), MemoryEntries::new());
    check(Arc::new(disk), Path::new("/state"), &|| Arc::new(entries.reopened()));
    let folder = tempfile::tempdir().unwrap();
    check(Arc::new(RealDisk), folder.path(), &|| Arc::new(LsmEntries::open(&folder.path().join("entries")).unwrap()));
}

#[test]
fn leftovers_are_forgotten_once_they_are_gone() {
    let (disk, entries) = (SimDisk::new(1), MemoryEntries::new());
    for round in 0..5 {
        let (checkpoints, _) = memory(&disk, &entries).unwrap();
        let mut draft = checkpoints.begin().unwrap();
        let step = draft.step("a", about());
        let mut writer = draft.writer();
        let key = EntryKey { space: Space::SLOTS, step, group: 0, key: b"left", slice: 0 };
        writer.put(&key, b"half written", Before::Unknown).unwrap();
        writer.finish().unwrap();
        drop(draft);
        publish(&checkpoints, &[(round, "x", "1")], &[]);
    }
    let (checkpoints, _) = memory(&disk, &entries).unwrap();
    assert!(checkpoints.leftovers() >= 5);
    checkpoints.compact().unwrap();
    assert_eq!(checkpoints.leftovers(), 0);
    let newest = publish(&checkpoints, &[(9, "x", "1")], &[]);
    assert_eq!((newest.contents().entries, checkpoints.verify(&newest).unwrap()), (6, Vec::new()));
    assert_eq!(newest.dead, []);
}

/// Whichever bit of the store is wrong: it is an error or it made no difference.
#[test]
fn a_flipped_bit_in_the_store_is_found() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("entries");
    let open = || {
        let entries = Arc::new(LsmEntries::open(&path)?);
        Checkpoints::open(Arc::new(RealDisk), folder.path(), entries, CheckpointConfig::default())
    };
    let puts: Vec<(u16, String)> = (0..3_000).map(|number| (number % 256, format!("key {number}"))).collect();
    let puts: Vec<(u16, &str, &str)> = puts.iter().map(|(group, key)| (*group, key.as_str(), "a value")).collect();
    let (checkpoints, _) = open().unwrap();
    publish(&checkpoints, &puts, &[]);
    let published = publish(&checkpoints, &puts[..100], &[]);
    drop(checkpoints);
    let mut files = Vec::new();
    let mut folders = vec![path.clone()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let entry = entry.unwrap();
            match entry.file_type().unwrap().is_dir() {
                true => folders.push(entry.path()),
                // Its log is 64 MiB of nothing.
                false if entry.path().extension().is_none_or(|ending| ending != "jnl") => {
                    files.push((entry.path(), std::fs::read(entry.path()).unwrap()));
                }
                false => {}
            }
        }
    }
    let mut random = Random(99);
    let (mut found, mut harmless) = (0, 0);
    for round in 0..80 {
        let (changed, bytes) = &files[round % files.len()];
        if bytes.is_empty() {
            continue;
        }
        for (file, bytes) in &files {
            std::fs::write(file, bytes).unwrap();
        }
        let mut bytes = bytes.clone();
        let at = random.next(bytes.len() as u64) as usize;
        bytes[at] ^= 1 << random.next(8);
        std::fs::write(changed, &bytes).unwrap();
        let verified = open().and_then(|(checkpoints, _)| checkpoints.verify(&published));
        match verified {
            Err(_) => found += 1,
            Ok(differences) if !differences.is_empty() => found += 1,
            Ok(_) => harmless += 1,
        }
    }
    assert!(found > 10, "{found} were found, {harmless} made no difference");
}

#[test]
fn a_key_that_is_too_long_is_an_error() {
    let (disk, entries) = (SimDisk::new(1), MemoryEntries::new());
    let (checkpoints, _) = memory(&disk, &entries).unwrap();
    let mut draft = checkpoints.begin().unwrap();
    let step = draft.step("a", about());
    let long = vec![0; KEY_BYTES_MAX + 1];
    let mut writer = draft.writer();
    let key = EntryKey { space: Space::SLOTS, step, group: 0, key: &long, slice: 0 };
    assert_eq!(writer.put(&key, b"", Before::Unknown).unwrap_err().kind(), StateErrorKind::TooLarge);
    let key = EntryKey { key: &long[1..], ..key };
    writer.put(&key, b"", Before::Unknown).unwrap();
    writer.finish().unwrap();
    let manifest = draft.publish(Publication::default()).unwrap();
    assert_eq!(checkpoints.get(&manifest, &key).unwrap(), Some(Vec::new()));
}

#[test]
fn steps_are_renamed_with_their_state() {
    let (disk, entries) = (SimDisk::new(1), MemoryEntries::new());
    let (checkpoints, _) = memory(&disk, &entries).unwrap();
    let first = publish(&checkpoints, &[(0, "x", "1")], &[]);
    let mut draft = checkpoints.begin().unwrap();
    assert!(!draft.rename_step("none", "b") && draft.rename_step("a", "b") && !draft.rename_step("a", "b"));
    // The old name is free for another step, with another number.
    assert_ne!(Some(draft.step("a", about())), first.step("a"));
    let renamed = draft.publish(Publication::default()).unwrap();
    assert_eq!(renamed.step("b"), first.step("a"));
    assert_eq!(value(&checkpoints, &renamed, 0, "x"), None);
    assert_eq!(checkpoints.verify(&renamed).unwrap(), []);
}

/// The size of the store while 1 % changes at a time: half of the entries are written over, half live for a while.
#[test]
fn the_size_on_disk_follows_the_live_state() {
    let folder = tempfile::tempdir().unwrap();
    let entries = Arc::new(LsmEntries::open(&folder.path().join("entries")).unwrap());
    let config = CheckpointConfig { retained: 2, batch_bytes: 1 << 20 };
    let (checkpoints, _) = Checkpoints::open(Arc::new(RealDisk), folder.path(), entries, config).unwrap();
    let mut random = Random(7);
    let half = 20_000_u64;
    let mut oldest = 0;
    let mut most: f64 = 0.0;
    let bytes = |number: u64| number.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_be_bytes();
    for round in 0..=200 {
        let mut draft = checkpoints.begin().unwrap();
        let steps = [draft.step("written over", about()), draft.step("short-lived", about())];
        let mut writer = draft.writer();
        let put = |writer: &mut Writer, step: usize, number: u64, before: Before| {
            let key = bytes(number);
            let place =
                EntryKey { space: Space::SLOTS, step: steps[step], group: (number % 256) as u16, key: &key, slice: 0 };
            let value: Vec<u8> = (0..90).map(|at| (round + at) as u8 ^ key[at as usize % 8]).collect();
            writer.put(&place, &value, before).unwrap();
        };
        if round == 0 {
            (0..half).for_each(|number| put(&mut writer, 0, number, Before::Absent));
            (0..half).for_each(|number| put(&mut writer, 1, number, Before::Absent));
        }
        for _ in 0..half / 100 {
            put(&mut writer, 0, random.next(half), Before::Unknown);
            let key = bytes(oldest);
            let group = (oldest % 256) as u16;
            let place = EntryKey { space: Space::SLOTS, step: steps[1], group, key: &key, slice: 0 };
            writer.delete(&place, Before::Unknown).unwrap();
            put(&mut writer, 1, oldest + half, Before::Absent);
            oldest += 1;
        }
        writer.finish().unwrap();
        let manifest = draft.publish(Publication::default()).unwrap();
        assert_eq!(manifest.contents().entries, 2 * half);
        if round % 5 == 0 {
            while checkpoints.sweep(10_000).unwrap() {}
        }
        most = most.max(checkpoints.bytes() as f64 / manifest.contents().bytes as f64);
    }
    let newest = checkpoints.newest().unwrap();
    assert_eq!(checkpoints.verify(&newest).unwrap(), []);
    checkpoints.compact().unwrap();
    let after = checkpoints.bytes() as f64 / newest.contents().bytes as f64;
    assert_eq!(checkpoints.verify(&newest).unwrap(), []);
    // Measured: 1.5 and 1.3, with what the store adds to each key.
    assert!(most < 3.0 && after < 1.6, "{most:.2} times the live bytes, {after:.2} after compaction");
}

#[test]
fn what_was_gone_back_from_is_not_used_again() {
    let (disk, entries) = (SimDisk::new(1), MemoryEntries::new());
    let (checkpoints, _) = memory(&disk, &entries).unwrap();
    publish(&checkpoints, &[(0, "x", "1")], &[]);
    checkpoints.save("before", 1).unwrap();
    publish(&checkpoints, &[(0, "x", "2")], &[]);
    publish(&checkpoints, &[(0, "x", "3")], &[]);
    let restored =
        checkpoints.restore("before", Publication { journal_sequence: 9, ..Publication::default() }).unwrap();
    assert_eq!((restored.checkpoint, restored.timeline, restored.journal_sequence), (4, 1, 9));
    assert_eq!(checkpoints.retained().len(), 1, "those of before would have another journal behind them");
    assert_eq!(value(&checkpoints, &restored, 0, "x").as_deref(), Some("1"));
    // Damaged, it is the savepoint that stands in, with the same place in the journal.
    disk.flip_bit(&manifest::manifest_path(Path::new("/state"), 4), 200, 1);
    let (checkpoints, report) = memory(&disk, &entries).unwrap();
    let newest = checkpoints.newest().unwrap();
    assert_eq!((report.used, newest.timeline, newest.journal_sequence), (Some(4), 1, 9));
    assert_eq!(value(&checkpoints, &newest, 0, "x").as_deref(), Some("1"));
    let next = publish(&checkpoints, &[(0, "x", "4")], &[]);
    assert_eq!((next.checkpoint, next.timeline), (5, 1));
    assert_eq!(value(&checkpoints, &next, 0, "x").as_deref(), Some("4"));
    assert_eq!(checkpoints.verify(&next).unwrap(), []);
    // Without the savepoint and its manifest there is nothing to fall back to.
    let (disk, entries) = (SimDisk::new(1), MemoryEntries::new());
    let (checkpoints, _) = memory(&disk, &entries).unwrap();
    publish(&checkpoints, &[(0, "x", "1")], &[]);
    checkpoints.save("before", 1).unwrap();
    checkpoints.restore("before", Publication::default()).unwrap();
    checkpoints.release("before").unwrap();
    disk.flip_bit(&manifest::manifest_path(Path::new("/state"), 2), 200, 1);
    assert!(memory(&disk, &entries).is_err());
}
