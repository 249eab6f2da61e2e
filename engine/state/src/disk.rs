//! The file system as the journal, the manifests and the blobs see it: small enough to be simulated.
//!
//! [`RealDisk`] is the machine's; [`SimDisk`] is one in memory that loses what was not synced, tears it, fills up and fails
//! by a seed. Nothing here knows what is in the files.
//!
//! What callers may rely on is what a journalling file system gives, no more:
//!
//! ```text
//! append, rewrite, truncate   durable after sync_data of the file; before that any part of it may survive a crash
//! create, rename, remove      durable after sync_dir of the folder; before that they may or may not survive
//! a failed sync_data          what was written since the last one is lost, although it can still be read: to know what
//!                             is durable, the file is opened and written again
//! ```

#[cfg(test)]
pub(crate) mod lying;
mod sim;

pub use sim::SimDisk;

use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

/// A file system.
pub trait Disk: Send + Sync + fmt::Debug {
    /// Makes a folder and those above it, durably.
    fn create_dir_all(&self, path: &Path) -> io::Result<()>;
    /// Makes an empty file, or empties one that is there.
    fn create(&self, path: &Path) -> io::Result<Box<dyn DiskFile>>;
    /// Opens a file to append to it and to read it.
    fn open(&self, path: &Path) -> io::Result<Box<dyn DiskFile>>;
    /// Reads a file whole.
    fn read(&self, path: &Path) -> io::Result<Vec<u8>>;
    /// Gives a file another name, in place of one that has it.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Removes a file.
    fn remove(&self, path: &Path) -> io::Result<()>;
    /// The names of the files in a folder, in order; folders are left out.
    fn list(&self, path: &Path) -> io::Result<Vec<String>>;
    /// Makes durable which names a folder holds.
    fn sync_dir(&self, path: &Path) -> io::Result<()>;
    /// Bytes of a file.
    fn len(&self, path: &Path) -> io::Result<u64>;
    /// Bytes that can still be written below a path, if it is known.
    fn free_bytes(&self, path: &Path) -> Option<u64>;
}

/// An open file.
pub trait DiskFile: Send + Sync + fmt::Debug {
    /// Bytes in it.
    fn len(&self) -> u64;
    /// Whether there are none.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }
    /// Adds bytes at the end. On an error any part of them may have been added: `len` tells.
    fn append(&mut self, bytes: &[u8]) -> io::Result<()>;
    /// Writes over bytes that are there.
    fn rewrite(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()>;
    /// Cuts the file.
    fn truncate(&mut self, len: u64) -> io::Result<()>;
    /// Makes all that was written durable, with the length.
    fn sync_data(&mut self) -> io::Result<()>;
    /// Reads from a place; less than asked for only at the end.
    fn read_at(&self, offset: u64, out: &mut [u8]) -> io::Result<usize>;
}

/// Writes a file so that, whatever happens, it is the old one or the new one: side file, sync, rename, sync of the folder.
pub fn write_atomically(disk: &dyn Disk, path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".new");
    let side = path.with_file_name(name);
    let written = (|| {
        let mut file = disk.create(&side)?;
        file.append(bytes)?;
        file.sync_data()
    })();
    if let Err(error) = written {
        // A side file is never read, so leaving it costs only its room; but room may be what is missing.
        let _ = disk.remove(&side);
        return Err(error);
    }
    disk.rename(&side, path)?;
    disk.sync_dir(path.parent().unwrap_or(Path::new(".")))
}

/// The machine's file system.
#[derive(Clone, Copy, Debug, Default)]
pub struct RealDisk;

#[derive(Debug)]
struct RealFile {
    file: File,
    len: u64,
}

impl Disk for RealDisk {
    fn create_dir_all(&self, path: &Path) -> io::Result<()> {
        let made: Vec<&Path> = path.ancestors().take_while(|above| !above.is_dir()).collect();
        fs::create_dir_all(path)?;
        // A folder's own name is held by the one above it.
        for parent in made.into_iter().filter_map(Path::parent).filter(|parent| !parent.as_os_str().is_empty()) {
            self.sync_dir(parent)?;
        }
        Ok(())
    }

    fn create(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        let file = OpenOptions::new().create(true).truncate(true).read(true).write(true).open(path)?;
        Ok(Box::new(RealFile { file, len: 0 }))
    }

    fn open(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        // A reader of a state that it may not change gets what it may have.
        let file = match OpenOptions::new().read(true).write(true).open(path) {
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => File::open(path)?,
            opened => opened?,
        };
        let len = file.metadata()?.len();
        Ok(Box::new(RealFile { file, len }))
    }

    fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        fs::read(path)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        fs::remove_file(path)
    }

    fn list(&self, path: &Path) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in fs::read_dir(path)? {
            let entry = entry?;
            // A name that is not UTF-8 is none of ours.
            if let (false, Ok(name)) = (entry.file_type()?.is_dir(), entry.file_name().into_string()) {
                names.push(name);
            }
        }
        names.sort_unstable();
        Ok(names)
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        File::open(path)?.sync_all()
    }

    fn len(&self, path: &Path) -> io::Result<u64> {
        Ok(fs::metadata(path)?.len())
    }

    fn free_bytes(&self, path: &Path) -> Option<u64> {
        use std::os::unix::ffi::OsStrExt;
        let path = std::ffi::CString::new(path.as_os_str().as_bytes()).ok()?;
        let mut found = std::mem::MaybeUninit::<libc::statvfs>::zeroed();
        // SAFETY: the path ends in a zero byte, and `statvfs` writes nothing but the struct it is given.
        let found = unsafe {
            if libc::statvfs(path.as_ptr(), found.as_mut_ptr()) != 0 {
                return None;
            }
            found.assume_init()
        };
        // The types of the fields differ by system.
        #[allow(clippy::unnecessary_cast)]
        Some((found.f_bavail as u64).saturating_mul(found.f_frsize as u64))
    }
}

impl DiskFile for RealFile {
    fn len(&self) -> u64 {
        self.len
    }

    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        match self.file.write_all_at(bytes, self.len) {
            Ok(()) => {
                self.len += bytes.len() as u64;
                Ok(())
            }
            Err(error) => {
                // How much of it was written only the file knows.
                self.len = self.file.metadata().map_or(self.len, |found| found.len().max(self.len));
                Err(error)
            }
        }
    }

    fn rewrite(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.file.write_all_at(bytes, offset)
    }

    fn truncate(&mut self, len: u64) -> io::Result<()> {
        self.file.set_len(len)?;
        self.len = len;
        Ok(())
    }

    fn sync_data(&mut self) -> io::Result<()> {
        self.file.sync_data()
    }

    fn read_at(&self, offset: u64, out: &mut [u8]) -> io::Result<usize> {
        let mut filled = 0;
        while filled < out.len() {
            match self.file.read_at(&mut out[filled..], offset + filled as u64) {
                Ok(0) => break,
                Ok(count) => filled += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(filled)
    }
}
