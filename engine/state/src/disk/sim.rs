//! A disk in memory that fails as disks do, by a seed.
//!
//! Each file has two contents: what programs see, and what is on the platter. They differ in the pages that were written
//! and not synced; a failed sync forgets which those are (as Linux does), so a later sync that succeeds does not write
//! them. Names of files likewise have two states, with the operations in between.

use super::{Disk, DiskFile};
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

const PAGE_BYTES: usize = 4096;
const SECTOR_BYTES: usize = 512;

/// A simulated disk. Clones are the same disk.
#[derive(Clone, Debug)]
pub struct SimDisk {
    inner: Arc<Mutex<Inner>>,
}

#[derive(Debug)]
struct Inner {
    random: Random,
    /// Counts crashes: a file opened before one can't be used after it.
    era: u64,
    nodes: Vec<Node>,
    names: BTreeMap<PathBuf, usize>,
    durable_names: BTreeMap<PathBuf, usize>,
    pending: Vec<NameChange>,
    folders: BTreeSet<PathBuf>,
    free_bytes: Option<u64>,
    failing_write_in: Option<u32>,
    failing_sync_in: Option<u32>,
    syncs: u64,
}

#[derive(Debug, Default)]
struct Node {
    /// What programs see.
    seen: Vec<u8>,
    /// What is on the platter.
    durable: Vec<u8>,
    /// Pages that a sync would write.
    dirty: BTreeSet<usize>,
    /// The least length it was cut to since the last sync.
    cut_to: Option<usize>,
}

#[derive(Clone, Debug)]
enum NameChange {
    Put(PathBuf, usize),
    Rename(PathBuf, PathBuf, usize),
    Remove(PathBuf),
}

/// SplitMix64, by Sebastiano Vigna: enough to make choices.
#[derive(Debug)]
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut x = self.0;
        x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        x ^ (x >> 31)
    }

    /// A number up to a bound, the bound too.
    fn upto(&mut self, bound: usize) -> usize {
        (self.next() % (bound as u64 + 1)) as usize
    }

    fn coin(&mut self) -> bool {
        self.next() & 1 == 0
    }
}

impl SimDisk {
    /// An empty disk whose choices follow the seed.
    pub fn new(seed: u64) -> SimDisk {
        SimDisk {
            inner: Arc::new(Mutex::new(Inner {
                random: Random(seed),
                era: 0,
                nodes: Vec::new(),
                names: BTreeMap::new(),
                durable_names: BTreeMap::new(),
                pending: Vec::new(),
                folders: BTreeSet::new(),
                free_bytes: None,
                failing_write_in: None,
                failing_sync_in: None,
                syncs: 0,
            })),
        }
    }

    /// The power fails: of what was not synced, some survives, some is lost, some is torn. All files must be opened again.
    pub fn crash(&self) {
        let inner = &mut *self.lock();
        inner.era += 1;
        // In order, as file systems with a journal do it; or any of them, which is all that is promised.
        let pending = std::mem::take(&mut inner.pending);
        let in_order = inner.random.coin();
        let survivors = inner.random.upto(pending.len());
        for (index, change) in pending.into_iter().enumerate() {
            let survives = if in_order { index < survivors } else { inner.random.coin() };
            if survives {
                apply(&mut inner.durable_names, change);
            }
        }
        inner.names = inner.durable_names.clone();
        for node in &mut inner.nodes {
            node.crash(&mut inner.random);
        }
        inner.failing_write_in = None;
        inner.failing_sync_in = None;
    }

    /// Room for so many bytes more; `None` for no bound.
    pub fn set_free_bytes(&self, bytes: Option<u64>) {
        self.lock().free_bytes = bytes;
    }

    /// The write after so many others fails, with some of its bytes written.
    pub fn fail_write_in(&self, writes: u32) {
        self.lock().failing_write_in = Some(writes);
    }

    /// The sync of a file after so many others fails, and what it should have made durable never will be.
    pub fn fail_sync_in(&self, syncs: u32) {
        self.lock().failing_sync_in = Some(syncs);
    }

    /// Turns over one bit of what is durable, and is seen, of a file. False if there is no such byte.
    pub fn flip_bit(&self, path: &Path, offset: u64, bit: u8) -> bool {
        let inner = &mut *self.lock();
        let Some(node) = inner.names.get(path).and_then(|id| inner.nodes.get_mut(*id)) else { return false };
        let offset = offset as usize;
        if offset >= node.durable.len() || offset >= node.seen.len() {
            return false;
        }
        node.durable[offset] ^= 1 << (bit % 8);
        node.seen[offset] ^= 1 << (bit % 8);
        true
    }

    /// How many syncs of files there were.
    pub fn syncs(&self) -> u64 {
        self.lock().syncs
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // A test that panicked while it held the disk says so itself.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn file(&self, id: usize, era: u64) -> Box<dyn DiskFile> {
        Box::new(SimFile { disk: self.clone(), id, era })
    }
}

fn apply(names: &mut BTreeMap<PathBuf, usize>, change: NameChange) {
    match change {
        NameChange::Put(path, id) => {
            names.insert(path, id);
        }
        NameChange::Rename(from, to, id) => {
            names.remove(&from);
            names.insert(to, id);
        }
        NameChange::Remove(path) => {
            names.remove(&path);
        }
    }
}

impl NameChange {
    fn is_in(&self, folder: &Path) -> bool {
        let (NameChange::Put(path, _) | NameChange::Rename(path, ..) | NameChange::Remove(path)) = self;
        path.parent() == Some(folder)
    }
}

impl Node {
    fn mark(&mut self, from: usize, to: usize) {
        self.dirty.extend(from / PAGE_BYTES..to.div_ceil(PAGE_BYTES));
    }

    fn write(&mut self, offset: usize, bytes: &[u8]) {
        let end = offset + bytes.len();
        if self.seen.len() < end {
            self.seen.resize(end, 0);
        }
        self.seen[offset..end].copy_from_slice(bytes);
        self.mark(offset, end);
    }

    fn truncate(&mut self, len: usize) {
        self.seen.resize(len, 0);
        self.cut_to = Some(self.cut_to.map_or(len, |cut| cut.min(len)));
        self.mark(len / PAGE_BYTES * PAGE_BYTES, len);
        self.dirty.retain(|page| page * PAGE_BYTES < len);
    }

    /// Copies what is seen of a page, up to a place in the file, to the platter.
    fn write_back(&mut self, page: usize, end: usize) {
        let from = page * PAGE_BYTES;
        let to = (from + PAGE_BYTES).min(end).min(self.seen.len());
        if from < to {
            if self.durable.len() < to {
                self.durable.resize(to, 0);
            }
            self.durable[from..to].copy_from_slice(&self.seen[from..to]);
        }
    }

    fn sync(&mut self) {
        if let Some(cut) = self.cut_to.take() {
            self.durable.truncate(cut);
        }
        for page in std::mem::take(&mut self.dirty) {
            self.write_back(page, usize::MAX);
        }
        // Pages that an earlier failed sync lost are holes.
        self.durable.resize(self.seen.len(), 0);
    }

    fn crash(&mut self, random: &mut Random) {
        if let Some(cut) = self.cut_to.take()
            && random.coin()
        {
            self.durable.truncate(cut);
        }
        let dirty = std::mem::take(&mut self.dirty);
        let old = self.durable.len().min(self.seen.len());
        // Where a write was cut off; or pages came to the platter in any order.
        let in_order = random.coin();
        let end = old + random.upto(self.seen.len() - old);
        for page in dirty {
            let written_over = (page + 1) * PAGE_BYTES <= old;
            let survives = if in_order && !written_over { page * PAGE_BYTES < end } else { random.coin() };
            if survives {
                self.write_back(page, if in_order { end } else { usize::MAX });
            }
        }
        if in_order && self.durable.len() == end && end > old && random.coin() {
            // The sector that was being written holds anything.
            let torn = random.upto(SECTOR_BYTES - 1 - end % SECTOR_BYTES);
            for _ in 0..torn {
                self.durable.push(random.next() as u8);
            }
        }
        if !in_order && random.coin() {
            // The length is written apart from the pages.
            self.durable.resize(self.durable.len().max(end), 0);
        }
        self.seen = self.durable.clone();
    }
}

fn missing(path: &Path) -> io::Error {
    io::Error::new(io::ErrorKind::NotFound, format!("no file {}", path.display()))
}

impl Disk for SimDisk {
    fn create_dir_all(&self, path: &Path) -> io::Result<()> {
        self.lock().folders.insert(path.to_owned());
        Ok(())
    }

    fn create(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        let inner = &mut *self.lock();
        if inner.free_bytes == Some(0) {
            return Err(io::ErrorKind::StorageFull.into());
        }
        if let Some(id) = inner.names.get(path).copied() {
            inner.nodes[id].truncate(0);
            return Ok(self.file(id, inner.era));
        }
        let id = inner.nodes.len();
        inner.nodes.push(Node::default());
        let change = NameChange::Put(path.to_owned(), id);
        apply(&mut inner.names, change.clone());
        inner.pending.push(change);
        Ok(self.file(id, inner.era))
    }

    fn open(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        let inner = self.lock();
        let id = inner.names.get(path).copied().ok_or_else(|| missing(path))?;
        Ok(self.file(id, inner.era))
    }

    fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        let inner = self.lock();
        let id = inner.names.get(path).copied().ok_or_else(|| missing(path))?;
        Ok(inner.nodes[id].seen.clone())
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let inner = &mut *self.lock();
        let id = inner.names.get(from).copied().ok_or_else(|| missing(from))?;
        let change = NameChange::Rename(from.to_owned(), to.to_owned(), id);
        apply(&mut inner.names, change.clone());
        inner.pending.push(change);
        Ok(())
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let inner = &mut *self.lock();
        let id = inner.names.get(path).copied().ok_or_else(|| missing(path))?;
        if let Some(free) = &mut inner.free_bytes {
            *free += inner.nodes[id].seen.len() as u64;
        }
        let change = NameChange::Remove(path.to_owned());
        apply(&mut inner.names, change.clone());
        inner.pending.push(change);
        Ok(())
    }

    fn list(&self, path: &Path) -> io::Result<Vec<String>> {
        let inner = self.lock();
        let inside = inner.names.keys().filter(|name| name.parent() == Some(path));
        Ok(inside.filter_map(|name| Some(name.file_name()?.to_str()?.to_owned())).collect())
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        let inner = &mut *self.lock();
        for change in inner.pending.extract_if(.., |change| change.is_in(path)) {
            apply(&mut inner.durable_names, change);
        }
        Ok(())
    }

    fn len(&self, path: &Path) -> io::Result<u64> {
        let inner = self.lock();
        let id = inner.names.get(path).copied().ok_or_else(|| missing(path))?;
        Ok(inner.nodes[id].seen.len() as u64)
    }

    fn free_bytes(&self, _: &Path) -> Option<u64> {
        self.lock().free_bytes
    }
}

#[derive(Debug)]
struct SimFile {
    disk: SimDisk,
    id: usize,
    era: u64,
}

impl SimFile {
    fn with<T>(&self, act: impl FnOnce(&mut Inner, usize) -> io::Result<T>) -> io::Result<T> {
        let inner = &mut *self.disk.lock();
        if inner.era != self.era {
            return Err(io::Error::other("the file was opened before the crash"));
        }
        act(inner, self.id)
    }
}

/// Counts down to a fault; true when it is its turn.
fn falls_due(countdown: &mut Option<u32>) -> bool {
    match countdown {
        Some(0) => {
            *countdown = None;
            true
        }
        Some(left) => {
            *left -= 1;
            false
        }
        None => false,
    }
}

impl DiskFile for SimFile {
    fn len(&self) -> u64 {
        self.with(|inner, id| Ok(inner.nodes[id].seen.len() as u64)).unwrap_or(0)
    }

    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.with(|inner, id| {
            let at = inner.nodes[id].seen.len();
            if falls_due(&mut inner.failing_write_in) {
                let written = inner.random.upto(bytes.len());
                inner.nodes[id].write(at, &bytes[..written]);
                return Err(io::Error::other("a write that was made to fail"));
            }
            let room = inner.free_bytes.map_or(bytes.len(), |free| bytes.len().min(free as usize));
            inner.nodes[id].write(at, &bytes[..room]);
            if let Some(free) = &mut inner.free_bytes {
                *free -= room as u64;
            }
            if room < bytes.len() { Err(io::ErrorKind::StorageFull.into()) } else { Ok(()) }
        })
    }

    fn rewrite(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.with(|inner, id| {
            if offset as usize + bytes.len() > inner.nodes[id].seen.len() {
                return Err(io::Error::other("a rewrite beyond the end"));
            }
            inner.nodes[id].write(offset as usize, bytes);
            Ok(())
        })
    }

    fn truncate(&mut self, len: u64) -> io::Result<()> {
        self.with(|inner, id| {
            let freed = (inner.nodes[id].seen.len() as u64).saturating_sub(len);
            if let Some(free) = &mut inner.free_bytes {
                *free += freed;
            }
            inner.nodes[id].truncate(len as usize);
            Ok(())
        })
    }

    fn sync_data(&mut self) -> io::Result<()> {
        self.with(|inner, id| {
            inner.syncs += 1;
            if falls_due(&mut inner.failing_sync_in) {
                // Some of it may have been written before the failure.
                let lost = std::mem::take(&mut inner.nodes[id].dirty);
                if inner.random.coin() {
                    // Other systems show what is on the platter from now on.
                    let node = &mut inner.nodes[id];
                    for page in lost {
                        let from = page * PAGE_BYTES;
                        let to = (from + PAGE_BYTES).min(node.seen.len());
                        for at in from..to {
                            node.seen[at] = node.durable.get(at).copied().unwrap_or(0);
                        }
                    }
                }
                return Err(io::Error::other("a sync that was made to fail"));
            }
            inner.nodes[id].sync();
            Ok(())
        })
    }

    fn read_at(&self, offset: u64, out: &mut [u8]) -> io::Result<usize> {
        self.with(|inner, id| {
            let seen = &inner.nodes[id].seen;
            let from = (offset as usize).min(seen.len());
            let to = (from + out.len()).min(seen.len());
            out[..to - from].copy_from_slice(&seen[from..to]);
            Ok(to - from)
        })
    }
}
