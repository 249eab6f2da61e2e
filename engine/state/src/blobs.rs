//! Blobs: plans, weights and tables, kept by the BLAKE3 digest of their content.
//!
//! A blob never changes, so it is written once and may be read by anyone. Which ones are needed, the manifests say.

use crate::disk::{Disk, write_atomically};
use crate::error::{Result, StateError, StateErrorKind};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The blobs of a folder: a file for each, named by its digest.
#[derive(Clone, Debug)]
pub struct Blobs {
    disk: Arc<dyn Disk>,
    dir: PathBuf,
}

impl Blobs {
    /// The blobs of a folder, which is made.
    pub fn open(disk: Arc<dyn Disk>, dir: &Path) -> Result<Blobs> {
        disk.create_dir_all(dir).map_err(|error| StateError::io(dir, "make", error))?;
        Ok(Blobs { disk, dir: dir.to_owned() })
    }

    /// Keeps a blob, durably, and gives its digest. One that is there already, and whole, is not written again.
    pub fn put(&self, bytes: &[u8]) -> Result<String> {
        let digest = blake3::hash(bytes).to_hex().to_string();
        if self.get(&digest).is_err() {
            let path = self.dir.join(&digest);
            write_atomically(&*self.disk, &path, bytes).map_err(|error| StateError::io(&path, "write", error))?;
        }
        Ok(digest)
    }

    /// Reads a blob and checks that it is what was kept.
    pub fn get(&self, digest: &str) -> Result<Vec<u8>> {
        let path = self.dir.join(digest);
        if !is_digest(digest) {
            let remedy = "look at the manifest that names it";
            return Err(StateError::new(
                StateErrorKind::Missing,
                &self.dir,
                "read a blob of",
                format!("`{digest}` is no digest"),
                remedy,
            ));
        }
        let bytes = match self.disk.read(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                let remedy = "restore the file from a copy: what was computed with it can't be computed again without";
                return Err(StateError::new(StateErrorKind::Missing, path, "read", "it is not there", remedy));
            }
            Err(error) => return Err(StateError::io(&path, "read", error)),
        };
        if blake3::hash(&bytes).to_hex().as_str() != digest {
            let remedy = "restore the file from a copy: what was computed with it can't be computed again without";
            return Err(StateError::damaged(
                &path,
                "read",
                None,
                "it is not what was kept: its digest differs",
                remedy,
            ));
        }
        Ok(bytes)
    }

    /// Removes all blobs but some. Gives how many bytes were freed.
    pub fn retain(&self, digests: &BTreeSet<String>) -> Result<u64> {
        let names = self.disk.list(&self.dir).map_err(|error| StateError::io(&self.dir, "list", error))?;
        let mut freed = 0;
        for name in names {
            // A side file is what a crash left.
            let is_ours = is_digest(name.strip_suffix(".new").unwrap_or(&name));
            if !is_ours || digests.contains(&name) {
                continue;
            }
            let path = self.dir.join(&name);
            freed += self.disk.len(&path).unwrap_or(0);
            self.disk.remove(&path).map_err(|error| StateError::io(&path, "remove", error))?;
        }
        self.disk.sync_dir(&self.dir).map_err(|error| StateError::io(&self.dir, "sync the folder", error))?;
        Ok(freed)
    }
}

fn is_digest(name: &str) -> bool {
    name.len() == 64 && name.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::SimDisk;

    #[test]
    fn a_blob_is_read_as_it_was_kept_or_not_at_all() {
        let dir = Path::new("/blobs");
        for seed in 0..300 {
            let disk = SimDisk::new(seed);
            let blobs = Blobs::open(Arc::new(disk.clone()), dir).unwrap();
            let kept = blobs.put(&[7; 5_000]).unwrap();
            let other = blobs.put(b"other").unwrap();
            disk.set_free_bytes(Some(100));
            assert_eq!(blobs.put(&[8; 5_000]).unwrap_err().kind(), StateErrorKind::DiskFull);
            disk.set_free_bytes(None);
            disk.crash();
            assert_eq!(blobs.get(&kept).unwrap(), [7; 5_000], "seed {seed}");
            disk.flip_bit(&dir.join(&kept), seed, 3);
            assert!(matches!(blobs.get(&kept).unwrap_err().kind(), StateErrorKind::Damaged { .. }));
            // Kept again, it is whole again.
            assert_eq!(blobs.put(&[7; 5_000]).unwrap(), kept);
            assert_eq!(blobs.get(&kept).unwrap(), [7; 5_000]);
            // The crash may have brought back the side file.
            assert!(blobs.retain(&BTreeSet::from([kept.clone()])).unwrap() >= 5);
            assert_eq!(blobs.get(&other).unwrap_err().kind(), StateErrorKind::Missing);
            assert!(blobs.get("../secret").is_err() && blobs.get(&kept).is_ok());
        }
    }
}
