//! The journal on a disk that crashes, fails and lies, against the list of records that were appended.

use super::segment::{HEADER_BYTES, Scan};
use super::*;
use crate::disk::lying::{Lie, LyingDisk};
use crate::disk::{RealDisk, SimDisk};
use std::io;

/// SplitMix64, as the disk's.
struct Random(u64);

impl Random {
    fn next(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut x = self.0;
        x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (x ^ (x >> 31)) % bound
    }

    fn payload(&mut self) -> Vec<u8> {
        let length = match self.next(10) {
            0 => 0,
            1 => self.next(20_000),
            _ => self.next(300),
        };
        (0..length).map(|_| self.next(256) as u8).collect()
    }
}

fn dir() -> PathBuf {
    PathBuf::from("/journal")
}

fn config(segment_bytes: u64) -> JournalConfig {
    JournalConfig { segment_bytes, id: 7, first: Sequence(100) }
}

/// What must be there, and what may.
struct Model {
    /// All records since the beginning that are known to be durable.
    synced: Vec<Vec<u8>>,
    appended: Vec<Vec<u8>>,
    /// Everything from here on is kept.
    kept_from: u64,
}

impl Model {
    fn next(&self) -> u64 {
        100 + (self.synced.len() + self.appended.len()) as u64
    }

    /// Compares with what a journal gives that was just opened; what it gives is durable from now on.
    fn check_opened(&mut self, journal: &Journal, opened: &Opened) -> Result<(), String> {
        let first = opened.first.0;
        if first > self.kept_from || first < 100 {
            return Err(format!("begins with {first}, {} is kept", self.kept_from));
        }
        let found = journal.replay(opened.first).and_then(|replay| replay.collect::<Result<Vec<_>>>());
        let found = found.map_err(|error| format!("replay: {error}"))?;
        let end = first + found.len() as u64;
        if end != opened.next.0 || journal.next() != opened.next {
            return Err(format!("ends before {end}, and says {:?}", opened.next));
        }
        let durable = 100 + self.synced.len() as u64;
        if end < durable {
            return Err(format!("ends before {end}, what is before {durable} was synced"));
        }
        for (index, record) in found.into_iter().enumerate() {
            let sequence = first + index as u64;
            if record.sequence.0 != sequence {
                return Err(format!("{:?} in place of {sequence}", record.sequence));
            }
            let at = (sequence - 100) as usize;
            match self.synced.get(at).or_else(|| self.appended.get(at - self.synced.len())) {
                Some(payload) if *payload == record.payload => {}
                Some(_) => return Err(format!("record {sequence} is another")),
                None => return Err(format!("record {sequence} was never appended")),
            }
        }
        let survived = (end - durable) as usize;
        self.synced.extend(self.appended.drain(..survived));
        self.appended.clear();
        self.kept_from = first;
        Ok(())
    }
}

/// A random life of a journal. The error says in what it broke its promise.
fn live(seed: u64, lie: Option<Lie>) -> Result<(), String> {
    let mut random = Random(seed ^ 0x5eed);
    let sim = SimDisk::new(seed);
    let disk: Arc<dyn Disk> = match lie {
        None => Arc::new(sim.clone()),
        Some(lie) => Arc::new(LyingDisk::new(sim.clone(), lie)),
    };
    let config = config(100 + random.next(6_000));
    let mut model = Model { synced: Vec::new(), appended: Vec::new(), kept_from: 100 };
    let open = |model: &mut Model| -> Result<Journal, String> {
        let (journal, opened) =
            Journal::open(Arc::clone(&disk), &dir(), config.clone()).map_err(|error| format!("open: {error}"))?;
        model.check_opened(&journal, &opened)?;
        Ok(journal)
    };
    let mut journal = open(&mut model)?;
    for _ in 0..60 {
        let mut doubtful = false;
        match random.next(20) {
            0..=8 => {
                let payload = random.payload();
                let (left, right) = payload.split_at(payload.len() / 3);
                let sequence = journal.append_parts(&[left, right]).map_err(|error| error.to_string())?;
                if sequence.0 != model.next() {
                    return Err(format!("{sequence:?} in place of {}", model.next()));
                }
                model.appended.push(payload);
            }
            9..=14 => match journal.sync() {
                Ok(()) => model.synced.append(&mut model.appended),
                Err(error) if error.kind() == StateErrorKind::DiskFull => sim.set_free_bytes(None),
                Err(_) => doubtful = true,
            },
            15 => {
                let sequence = 100 + random.next(model.synced.len() as u64 + 1);
                journal.truncate_before(Sequence(sequence)).map_err(|error| error.to_string())?;
                if journal.first().0 > sequence.max(model.kept_from) {
                    return Err(format!("cut up to {:?}, asked for {sequence}", journal.first()));
                }
                model.kept_from = journal.first().0;
            }
            16 => sim.set_free_bytes(Some(random.next(3_000))),
            17 if random.next(2) == 0 => sim.fail_write_in(random.next(3) as u32),
            17 => sim.fail_sync_in(random.next(3) as u32),
            _ => {
                sim.crash();
                sim.set_free_bytes(None);
                journal = open(&mut model)?;
            }
        }
        if doubtful {
            if journal.append(b"more").is_ok() {
                return Err("it took a record after a failure".to_owned());
            }
            // Whether the machine went down with it or not.
            if random.next(2) == 0 {
                sim.crash();
            }
            // As it would be after the room was made: opening writes.
            sim.set_free_bytes(None);
            journal = match open(&mut model) {
                Err(text) if text.contains("made to fail") => open(&mut model)?,
                opened => opened?,
            };
        }
    }
    sim.crash();
    sim.set_free_bytes(None);
    open(&mut model).map(drop)
}

#[test]
fn keeps_its_promise_through_crashes_and_faults() {
    for seed in 0..6_000 {
        if let Err(problem) = live(seed, None) {
            panic!("seed {seed}: {problem}");
        }
    }
}

#[test]
fn a_disk_that_lies_is_found_out() {
    for lie in [Lie::SkipsSync, Lie::SkipsSyncOfFolders, Lie::LosesAnAppend, Lie::SkipsRewrite, Lie::SwapsAppends] {
        let found = (0..3_000).find_map(|seed| live(seed, Some(lie)).err().map(|problem| (seed, problem)));
        assert!(found.is_some(), "{lie:?} goes unnoticed");
    }
}

/// A journal of several segments, nothing of it in doubt.
fn written(seed: u64) -> (SimDisk, Vec<Record>) {
    let mut random = Random(seed);
    let sim = SimDisk::new(seed);
    let (mut journal, _) = Journal::open(Arc::new(sim.clone()), &dir(), config(1_000)).unwrap();
    let mut records = Vec::new();
    for _ in 0..4 + random.next(16) {
        for _ in 0..1 + random.next(4) {
            let payload = random.payload();
            let sequence = journal.append(&payload).unwrap();
            records.push(Record { sequence, payload });
        }
        journal.sync().unwrap();
    }
    (sim, records)
}

fn read_all(sim: &SimDisk) -> Result<(Vec<Record>, Option<Torn>)> {
    let (journal, opened) = Journal::open(Arc::new(sim.clone()), &dir(), config(1_000))?;
    let records = journal.replay(opened.first)?.collect::<Result<Vec<_>>>()?;
    Ok((records, opened.torn))
}

/// Where the last batch begins, in which file.
fn last_batch(sim: &SimDisk) -> (PathBuf, u64) {
    let name = sim.list(&dir()).unwrap().pop().unwrap();
    let path = dir().join(&name);
    let mut scan = Scan::new(sim.open(&path).unwrap(), Disk::len(sim, &path).unwrap(), segment_first(&name).unwrap());
    let mut batch = 0;
    while let Some((record, _)) = scan.next().unwrap() {
        batch = record.batch.into();
    }
    (path, batch)
}

#[test]
fn a_flipped_bit_is_an_error_or_a_torn_last_batch() {
    for seed in 0..3_000 {
        let mut random = Random(seed ^ 0xf11b);
        let (sim, records) = written(seed);
        let names = sim.list(&dir()).unwrap();
        let path = dir().join(&names[random.next(names.len() as u64) as usize]);
        let (last_path, batch) = last_batch(&sim);
        let offset = random.next(Disk::len(&sim, &path).unwrap());
        assert!(sim.flip_bit(&path, offset, random.next(8) as u8));
        match read_all(&sim) {
            Err(error) => {
                let known = matches!(error.kind(), StateErrorKind::Damaged { .. });
                assert!(known && error.path() == path, "seed {seed}: {error}");
            }
            Ok((found, torn)) => {
                assert!(path == last_path && offset >= batch, "seed {seed}: byte {offset} of {}", path.display());
                assert!(torn.is_some_and(|torn| torn.bytes > 0 && torn.offset >= batch), "seed {seed}");
                assert!(records.starts_with(&found), "seed {seed}");
            }
        }
    }
}

#[test]
fn a_missing_segment_is_an_error() {
    for seed in 0..200 {
        let (sim, records) = written(seed);
        let names = sim.list(&dir()).unwrap();
        for missing in 0..names.len() {
            let (sim, _) = written(seed);
            sim.remove(&dir().join(&names[missing])).unwrap();
            // The first one may have been removed on purpose, and of the last nobody here knows: whoever asks for a record does.
            let asked = if missing + 1 == names.len() { Sequence(100 + records.len() as u64) } else { Sequence(100) };
            let opened = Journal::open(Arc::new(sim.clone()), &dir(), config(1_000));
            let read = opened.and_then(|(journal, _)| journal.replay(asked)?.collect::<Result<Vec<_>>>());
            assert!(read.is_err(), "seed {seed}: {} is missing", names[missing]);
        }
    }
}

#[test]
fn a_hole_in_the_last_batch_is_torn_and_one_before_it_is_damage() {
    let sim = SimDisk::new(1);
    let (mut journal, _) = Journal::open(Arc::new(sim.clone()), &dir(), config(1 << 20)).unwrap();
    let mut starts = Vec::new();
    for payload in [b"one", b"two", b"six"] {
        starts.push(journal.bytes());
        journal.append(payload).unwrap();
        journal.append(payload).unwrap();
        journal.sync().unwrap();
    }
    let path = segment_path(&dir(), 100);
    // The first record of the last batch: the second one behind it does not make it damage.
    let flipped = sim.read(&path).unwrap();
    sim.flip_bit(&path, starts[2] + 25, 0);
    let found = survey(Arc::new(sim.clone()), &dir()).unwrap();
    assert_eq!(found.torn().map(|torn| (torn.offset, torn.bytes)), Some((starts[2], flipped.len() as u64 - starts[2])));
    assert_eq!(found.next(), Some(Sequence(104)));
    sim.flip_bit(&path, starts[2] + 25, 0);
    sim.flip_bit(&path, starts[1] + 25, 0);
    let error = survey(Arc::new(sim), &dir()).unwrap_err();
    assert_eq!(error.kind(), StateErrorKind::Damaged { offset: Some(starts[1]) });
}

#[test]
fn a_full_disk_costs_nothing() {
    let sim = SimDisk::new(3);
    let (mut journal, _) = Journal::open(Arc::new(sim.clone()), &dir(), config(200)).unwrap();
    for round in 0..20_u8 {
        journal.append(&[round; 90]).unwrap();
        // Not enough for the record, and sometimes not for the header of the next segment either.
        sim.set_free_bytes(Some(u64::from(round) * 5));
        let error = journal.sync().unwrap_err();
        assert_eq!(error.kind(), StateErrorKind::DiskFull, "{error}");
        // A new segment's header stays; the half written part of the record must not.
        let taken = u64::from(round) * 5 - sim.free_bytes(&dir()).unwrap();
        assert!(taken == 0 || taken == HEADER_BYTES as u64, "{taken} bytes are taken");
        sim.set_free_bytes(None);
        journal.sync().unwrap();
    }
    sim.crash();
    let (records, torn) = read_all(&sim).unwrap();
    assert_eq!((records.len(), torn), (20, None));
}

#[test]
fn on_the_machines_disk_it_rolls_cuts_and_goes_on() -> io::Result<()> {
    let folder = tempfile::tempdir()?;
    let dir = folder.path().join("journal");
    let open = || Journal::open(Arc::new(RealDisk), &dir, config(10_000)).unwrap();
    let (mut journal, opened) = open();
    assert_eq!(opened, Opened { first: Sequence(100), next: Sequence(100), torn: None });
    for _ in 0..100 {
        journal.append(&[1; 1_000]).unwrap();
        journal.sync().unwrap();
    }
    journal.truncate_before(Sequence(150)).unwrap();
    let (first, bytes) = (journal.first(), journal.bytes());
    assert!(first > Sequence(130) && first <= Sequence(150) && bytes < 80_000, "{first:?}, {bytes} bytes");
    drop(journal);
    // Half a record, as a kill leaves it.
    let last = dir.join(RealDisk.list(&dir)?.pop().unwrap());
    RealDisk.open(&last)?.append(&[0; 11])?;
    let (journal, opened) = open();
    assert_eq!((opened.first, opened.next), (first, Sequence(200)));
    assert_eq!(opened.torn.map(|torn| (torn.path, torn.bytes)), Some((last, 11)));
    assert_eq!(journal.bytes(), bytes);
    assert_eq!(journal.replay(Sequence(170)).unwrap().count(), 30);
    assert_eq!(journal.replay(Sequence(200)).unwrap().count(), 0);
    assert_eq!(journal.replay(Sequence(100)).unwrap_err().kind(), StateErrorKind::Missing);
    assert!(RealDisk.free_bytes(&dir).is_some_and(|free| free > 0));
    Ok(())
}

#[test]
fn a_later_format_is_refused() {
    let (sim, _) = written(5);
    let path = segment_path(&dir(), 100);
    let mut bytes = sim.read(&path).unwrap();
    bytes[8] = 2;
    let checksum = xxhash_rust::xxh3::xxh3_64(&bytes[..HEADER_BYTES - 8]);
    bytes[HEADER_BYTES - 8..HEADER_BYTES].copy_from_slice(&checksum.to_le_bytes());
    sim.create(&path).unwrap().append(&bytes).unwrap();
    let error = survey(Arc::new(sim), &dir()).unwrap_err();
    assert_eq!(error.kind(), StateErrorKind::Format { found: 2, supported: 1 });
    assert!(error.to_string().contains("journal format 2, this engine reads format 1"), "{error}");
}

#[test]
fn segments_of_two_journals_do_not_mix() {
    let (sim, _) = written(5);
    let other = Header { journal: 8, first: 1_000, before: 100 };
    create_segment(&sim, &segment_path(&dir(), 1_000), &other).unwrap();
    let error = survey(Arc::new(sim), &dir()).unwrap_err();
    assert!(error.to_string().contains("another journal") || error.to_string().contains("other journal"), "{error}");
}
