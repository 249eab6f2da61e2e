//! Random lives of checkpoints: in memory with crashes, and in the LSM tree with restarts.

use super::*;

/// SplitMix64, as the disk's.
pub(super) struct Random(pub(super) u64);

impl Random {
    pub(super) fn next(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut x = self.0;
        x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (x ^ (x >> 31)) % bound
    }
}

/// What may be planted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Bug {
    Disk(Lie),
    /// Entries are not made durable before the manifest.
    SkipsPersist,
    /// Versions go that a retained checkpoint sees.
    DropsTooMuch,
    /// Batches are not there whole after a crash.
    TearsBatches,
}

enum Medium {
    Sim { disk: SimDisk, entries: MemoryEntries, bug: Option<Bug> },
    Real { folder: tempfile::TempDir },
}

impl Medium {
    fn open(&self) -> Result<(Checkpoints, Report)> {
        let config = CheckpointConfig { retained: 2, batch_bytes: 500 };
        match self {
            Medium::Sim { disk, entries, bug } => {
                let disk: Arc<dyn Disk> = match bug {
                    Some(Bug::Disk(lie)) => Arc::new(LyingDisk::new(disk.clone(), *lie)),
                    _ => Arc::new(disk.clone()),
                };
                let entries = Arc::new(Faulty { inner: entries.clone(), bug: *bug });
                Checkpoints::open(disk, Path::new("/state"), entries, config)
            }
            Medium::Real { folder } => {
                let entries = LsmEntries::open(&folder.path().join("entries"))?;
                Checkpoints::open(Arc::new(RealDisk), folder.path(), Arc::new(entries), config)
            }
        }
    }
}

#[derive(Debug)]
struct Faulty {
    inner: MemoryEntries,
    bug: Option<Bug>,
}

impl EntryStore for Faulty {
    fn write(&self, batch: &mut dyn Iterator<Item = Stored<'_>>) -> Result<()> {
        if self.bug != Some(Bug::TearsBatches) {
            return self.inner.write(batch);
        }
        for one in batch {
            self.inner.write(&mut std::iter::once(one))?;
        }
        Ok(())
    }
    fn persist(&self) -> Result<()> {
        if self.bug == Some(Bug::SkipsPersist) { Ok(()) } else { self.inner.persist() }
    }
    fn scan(&self, from: &[u8], to: &[u8], visit: &mut Visit<'_>) -> Result<()> {
        self.inner.scan(from, to, visit)
    }
    fn follow(&self, lineage: Arc<Lineage>) {
        let mut lineage = Lineage::clone(&lineage);
        if self.bug == Some(Bug::DropsTooMuch) && lineage.views.len() > 1 {
            lineage.views.remove(0);
        }
        self.inner.follow(Arc::new(lineage));
    }
    fn compact(&self) -> Result<()> {
        self.inner.compact()
    }
    fn revive(&self) -> Result<()> {
        self.inner.revive()
    }
    fn bytes(&self) -> u64 {
        self.inner.bytes()
    }
}

type Map = BTreeMap<Owned, Vec<u8>>;

/// What must be there.
#[derive(Default)]
struct Model {
    retained: BTreeMap<u64, Map>,
    savepoints: BTreeMap<String, (u64, Map)>,
}

impl Model {
    fn newest(&self) -> Map {
        self.retained.last_key_value().map(|(_, map)| map.clone()).unwrap_or_default()
    }

    fn check(&self, checkpoints: &Checkpoints) -> std::result::Result<(), String> {
        let retained = checkpoints.retained();
        let numbers: Vec<u64> = retained.iter().map(|manifest| manifest.checkpoint).collect();
        if numbers != self.retained.keys().copied().collect::<Vec<_>>() {
            return Err(format!("{numbers:?} are retained, it should be {:?}", self.retained.keys()));
        }
        let savepoints = checkpoints.savepoints();
        if savepoints.keys().ne(self.savepoints.keys()) {
            return Err(format!("savepoints {:?}, it should be {:?}", savepoints.keys(), self.savepoints.keys()));
        }
        let saved = savepoints.iter().map(|(name, manifest)| (manifest, &self.savepoints[name].1));
        for (manifest, map) in retained.iter().map(|found| (found, &self.retained[&found.checkpoint])).chain(saved) {
            let number = manifest.checkpoint;
            let whole = contents(checkpoints, manifest, &[0..=u16::MAX]);
            if whole != *map {
                return Err(format!("checkpoint {number} has {} entries, it should be {}", whole.len(), map.len()));
            }
            // Some groups and the others are the whole.
            if contents(checkpoints, manifest, &[0..=2, 3..=3, 4..=300]) != *map {
                return Err(format!("checkpoint {number} differs by groups"));
            }
            let differences = checkpoints.verify(manifest).map_err(|error| error.to_string())?;
            if !differences.is_empty() {
                return Err(format!("checkpoint {number}: {differences:?}"));
            }
            for owned in map.keys().take(5) {
                if checkpoints.get(manifest, &key(owned)).map_err(|error| error.to_string())?.as_ref() != map.get(owned)
                {
                    return Err(format!("checkpoint {number}: {owned:?} is another"));
                }
            }
        }
        Ok(())
    }
}

const STEPS: [&str; 3] = ["a", "b", "c"];

fn random_key(random: &mut Random, steps: &[StepId], writer: u16) -> Owned {
    // Keys of which one begins with another, and such as look like what stands around them.
    let keys: [&[u8]; 8] = [b"", b"k", b"k\0", b"k\0\0\0\0\0\0\0\0", b"\xff\xff", b"\0", b"ka", b"longer than others"];
    let space = Space::ALL[random.next(3) as usize];
    let step = steps[random.next(steps.len() as u64) as usize];
    let group = random.next(3) as u16 * 2 + writer;
    let slice = [i64::MIN, -1, 0, 1, 1 << 40][random.next(5) as usize];
    (space, step, group, keys[random.next(8) as usize].to_vec(), slice)
}

/// Writes random changes. Gives what there is afterwards, unless it failed.
fn write(draft: &mut Draft, random: &mut Random, mut map: Map, finish: bool) -> Result<Map> {
    let steps: Vec<StepId> = STEPS.iter().map(|name| draft.step(name, about())).collect();
    let mut writers = [draft.writer(), draft.writer()];
    let mut helds: BTreeMap<Owned, Held> = BTreeMap::new();
    for (owned, value) in &map {
        helds.insert(owned.clone(), Checkpoints::held(&key(owned), value)?);
    }
    for _ in 0..random.next(60) {
        let of = random.next(2) as usize;
        let owned = random_key(random, &steps, of as u16);
        let known = helds.get(&owned).map_or(Before::Absent, |held| Before::Held(*held));
        let before = if random.next(2) == 0 { known } else { Before::Unknown };
        if random.next(3) == 0 {
            writers[of].delete(&key(&owned), before)?;
            helds.remove(&owned);
            map.remove(&owned);
        } else {
            let value: Vec<u8> = (0..random.next(40)).map(|_| random.next(256) as u8).collect();
            let held = writers[of].put(&key(&owned), &value, before)?;
            helds.insert(owned.clone(), held);
            map.insert(owned, value);
        }
    }
    for writer in writers {
        if finish {
            writer.finish()?;
        }
    }
    Ok(map)
}

fn live(seed: u64, medium: &Medium, rounds: u64) -> std::result::Result<(), String> {
    let mut random = Random(seed);
    let mut model = Model::default();
    let shown = |error: crate::StateError| error.to_string();
    let mut checkpoints = medium.open().map_err(shown)?.0;
    for _ in 0..rounds {
        match random.next(20) {
            0..=8 => {
                let mut draft = checkpoints.begin().map_err(shown)?;
                let mut map = write(&mut draft, &mut random, model.newest(), true).map_err(shown)?;
                if random.next(8) == 0 {
                    let step = draft.step("b", about());
                    draft.delete_step("b").map_err(shown)?;
                    map.retain(|owned, _| owned.1 != step);
                }
                let publication =
                    Publication { epoch: seed, extra: serde_json::json!({ "at": 7 }), ..Publication::default() };
                let manifest = draft.publish(publication).map_err(shown)?;
                model.retained.insert(manifest.checkpoint, map);
                while model.retained.len() > 2 {
                    model.retained.pop_first();
                }
            }
            9 | 10 => {
                // Half written, and dropped in one way or the other.
                let finish = random.next(2) == 0;
                let mut draft = checkpoints.begin().map_err(shown)?;
                write(&mut draft, &mut random, model.newest(), finish).map_err(shown)?;
                let fails = match medium {
                    Medium::Sim { disk, bug: None, .. } if finish => {
                        if random.next(2) == 0 {
                            disk.fail_sync_in(0)
                        } else {
                            disk.fail_write_in(0)
                        }
                        true
                    }
                    _ => !finish,
                };
                if fails && draft.publish(Publication::default()).is_ok() {
                    return Err("it was published without all of its changes, or without its manifest".to_owned());
                }
            }
            11 | 12 => {
                // The process ends, in the middle of a checkpoint sometimes; or the machine.
                let mut draft = checkpoints.begin().map_err(shown)?;
                if random.next(2) == 0 {
                    write(&mut draft, &mut random, model.newest(), true).map_err(shown)?;
                }
                if let Medium::Sim { disk, entries, .. } = medium {
                    std::mem::forget(draft.writer());
                    std::mem::forget(draft);
                    disk.crash();
                    entries.crash(random.next(u64::MAX));
                } else {
                    // A lock would outlive a draft that is forgotten.
                    drop(draft);
                }
                drop(checkpoints);
                let (opened, report) = medium.open().map_err(shown)?;
                if !report.refused.is_empty() || report.used != model.retained.keys().last().copied() {
                    return Err(format!("{report:?}, it should use {:?}", model.retained.keys().last()));
                }
                checkpoints = opened;
            }
            13 => {
                let name = format!("s{}", random.next(3));
                if let Some(number) = model.retained.keys().next().copied()
                    && !model.savepoints.contains_key(&name)
                {
                    checkpoints.save(&name, number).map_err(shown)?;
                    model.savepoints.insert(name, (number, model.retained[&number].clone()));
                }
            }
            14 => {
                let name = format!("s{}", random.next(3));
                let is_there = model.savepoints.remove(&name).is_some();
                if checkpoints.release(&name).map_err(shown)? != is_there {
                    return Err(format!("savepoint {name}"));
                }
            }
            15 | 16 => {
                checkpoints.sweep(1 + random.next(50) as usize).map_err(shown)?;
            }
            17 | 18 => checkpoints.compact().map_err(shown)?,
            _ => {
                let last = model.savepoints.iter().max_by_key(|(_, (number, _))| *number);
                let Some((name, (number, map))) = last.map(|(name, saved)| (name.clone(), saved.clone())) else {
                    continue;
                };
                let saved = checkpoints.savepoints();
                if let Some(earlier) = saved.keys().find(|earlier| saved[*earlier].stamp < saved[&name].stamp)
                    && checkpoints.restore(earlier, Publication::default()).is_ok()
                {
                    return Err(format!("it went back to `{earlier}`, over the later `{name}`"));
                }
                let publication = Publication { journal_sequence: seed, ..Publication::default() };
                match medium {
                    // It is interrupted anywhere: it went back or it did not.
                    Medium::Sim { disk, entries, bug: None } if random.next(2) == 0 => {
                        if random.next(2) == 0 {
                            disk.fail_write_in(random.next(4) as u32);
                        } else {
                            disk.fail_sync_in(random.next(6) as u32);
                        }
                        let _ = checkpoints.restore(&name, publication);
                        drop(checkpoints);
                        disk.crash();
                        entries.crash(random.next(u64::MAX));
                        checkpoints = medium.open().map_err(shown)?.0;
                    }
                    _ => {
                        let manifest = checkpoints.restore(&name, publication).map_err(shown)?;
                        if manifest.journal_sequence != seed || manifest.checkpoint <= number {
                            return Err(format!("it went back to {manifest:?}"));
                        }
                    }
                }
                let newest = checkpoints.newest().map_or(0, |newest| newest.checkpoint);
                if model.retained.keys().last().is_none_or(|last| newest > *last) {
                    // What was published behind it and differs is gone: of what is retained the contents are compared.
                    let kept: Vec<u64> = checkpoints.retained().iter().map(|kept| kept.checkpoint).collect();
                    model.retained.retain(|number, _| kept.contains(number));
                    model.retained.insert(newest, map.clone());
                    // After a crash it may still be that of the older one, which is the same.
                    model.savepoints.insert(name.clone(), (checkpoints.savepoints()[&name].checkpoint, map));
                }
            }
        }
        model.check(&checkpoints)?;
    }
    Ok(())
}

fn sim(seed: u64, bug: Option<Bug>) -> std::result::Result<(), String> {
    let medium = Medium::Sim { disk: SimDisk::new(seed), entries: MemoryEntries::new(), bug };
    live(seed, &medium, 40)
}

#[test]
fn in_memory_with_crashes_it_equals_maps() {
    for seed in 0..600 {
        if let Err(problem) = sim(seed, None) {
            panic!("seed {seed}: {problem}");
        }
    }
}

#[test]
fn in_the_lsm_tree_it_equals_maps() {
    for seed in 0..5 {
        let medium = Medium::Real { folder: tempfile::tempdir().unwrap() };
        if let Err(problem) = live(seed, &medium, 40) {
            panic!("seed {seed}: {problem}");
        }
    }
}

#[test]
fn planted_bugs_are_found() {
    let bugs = [
        Bug::Disk(Lie::SkipsSync),
        Bug::Disk(Lie::SkipsSyncOfFolders),
        Bug::Disk(Lie::LosesAnAppend),
        Bug::SkipsPersist,
        Bug::DropsTooMuch,
        Bug::TearsBatches,
    ];
    for bug in bugs {
        assert!((0..500).any(|seed| sim(seed, Some(bug)).is_err()), "{bug:?} goes unnoticed");
    }
}
