//! A disk that does not do what it says: bugs planted where a test must find them.

use super::{Disk, DiskFile, SimDisk};
use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex};

/// What it lies about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Lie {
    /// Files are not made durable.
    SkipsSync,
    /// Names are not made durable.
    SkipsSyncOfFolders,
    /// One append in a while writes nothing.
    LosesAnAppend,
    /// What is written again isn't.
    SkipsRewrite,
    /// One append in a while comes after the next one.
    SwapsAppends,
}

#[derive(Debug)]
pub(crate) struct LyingDisk {
    inner: SimDisk,
    lie: Lie,
    appends: Arc<Mutex<u64>>,
}

impl LyingDisk {
    pub(crate) fn new(inner: SimDisk, lie: Lie) -> LyingDisk {
        LyingDisk { inner, lie, appends: Arc::default() }
    }

    fn file(&self, inner: Box<dyn DiskFile>) -> Box<dyn DiskFile> {
        Box::new(LyingFile { inner, lie: self.lie, appends: Arc::clone(&self.appends), held: Vec::new() })
    }
}

#[derive(Debug)]
struct LyingFile {
    inner: Box<dyn DiskFile>,
    lie: Lie,
    appends: Arc<Mutex<u64>>,
    held: Vec<u8>,
}

impl Disk for LyingDisk {
    fn create_dir_all(&self, path: &Path) -> io::Result<()> {
        self.inner.create_dir_all(path)
    }
    fn create(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        Ok(self.file(self.inner.create(path)?))
    }
    fn open(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        Ok(self.file(self.inner.open(path)?))
    }
    fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        self.inner.read(path)
    }
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.inner.rename(from, to)
    }
    fn remove(&self, path: &Path) -> io::Result<()> {
        self.inner.remove(path)
    }
    fn list(&self, path: &Path) -> io::Result<Vec<String>> {
        self.inner.list(path)
    }
    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        if self.lie == Lie::SkipsSyncOfFolders { Ok(()) } else { self.inner.sync_dir(path) }
    }
    fn len(&self, path: &Path) -> io::Result<u64> {
        Disk::len(&self.inner, path)
    }
    fn free_bytes(&self, path: &Path) -> Option<u64> {
        self.inner.free_bytes(path)
    }
}

impl DiskFile for LyingFile {
    fn len(&self) -> u64 {
        self.inner.len()
    }
    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        let turn = {
            let mut appends = self.appends.lock().unwrap();
            *appends += 1;
            appends.is_multiple_of(7)
        };
        match self.lie {
            Lie::LosesAnAppend if turn => Ok(()),
            Lie::SwapsAppends if turn => {
                self.held = bytes.to_vec();
                Ok(())
            }
            _ => {
                self.inner.append(bytes)?;
                let held = std::mem::take(&mut self.held);
                self.inner.append(&held)
            }
        }
    }
    fn rewrite(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        if self.lie == Lie::SkipsRewrite { Ok(()) } else { self.inner.rewrite(offset, bytes) }
    }
    fn truncate(&mut self, len: u64) -> io::Result<()> {
        self.inner.truncate(len)
    }
    fn sync_data(&mut self) -> io::Result<()> {
        if self.lie == Lie::SkipsSync { Ok(()) } else { self.inner.sync_data() }
    }
    fn read_at(&self, offset: u64, out: &mut [u8]) -> io::Result<usize> {
        self.inner.read_at(offset, out)
    }
}
