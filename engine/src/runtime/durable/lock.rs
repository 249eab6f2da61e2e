//! The lock of a state directory, and who holds it.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::AsRawFd;
#[cfg(target_os = "linux")]
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// Takes the lock of a state directory; it is given back when the file is closed, also by a kill.
pub(crate) fn lock(path: &Path) -> Result<File, String> {
    let shown = path.display();
    let lock = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .open(path.join("lock"))
        .map_err(|error| format!("the state directory {shown} can't be locked: {error}"))?;
    // SAFETY: `flock` reads nothing but the descriptor, which `lock` keeps open.
    if unsafe { libc::flock(lock.as_raw_fd(), libc::LOCK_EX | libc::LOCK_NB) } != 0 {
        return Err(format!("another engine runs on the state directory {shown}; stop it, or give another --state"));
    }
    Ok(lock)
}

/// Writes into the lock which process runs on the directory, for `engine stop`.
pub(super) fn sign(lock: &mut File) -> io::Result<()> {
    lock.set_len(0)?;
    lock.write_all(format!("{}\n", std::process::id()).as_bytes())
}

/// The process that runs on a state directory, if one does.
pub(crate) fn holder(path: &Path) -> Result<Option<i32>, String> {
    let lock = path.join("lock");
    let Ok(text) = std::fs::read_to_string(&lock) else { return Ok(None) };
    let Some(process) = text.trim().parse::<i32>().ok().filter(|process| *process > 0) else { return Ok(None) };
    match has_open(process, &lock) {
        Ok(held) => Ok(held.then_some(process)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(format!(
            "whether process {process} runs on the state directory {} can't be told: {error}; ask as the user that it runs as",
            path.display()
        )),
    }
}

/// Whether a process has a file open: numbers of processes come again, and another container has its own.
#[cfg(target_os = "linux")]
fn has_open(process: i32, file: &Path) -> io::Result<bool> {
    let ours = std::fs::metadata(file)?;
    for entry in std::fs::read_dir(format!("/proc/{process}/fd"))? {
        // Descriptors may be closed meanwhile.
        let Ok(found) = std::fs::metadata(entry?.path()) else { continue };
        if (found.dev(), found.ino()) == (ours.dev(), ours.ino()) {
            return Ok(true);
        }
    }
    Ok(false)
}

#[cfg(not(target_os = "linux"))]
fn has_open(process: i32, _file: &Path) -> io::Result<bool> {
    // SAFETY: signal 0 asks whether the process is there, and sends nothing.
    match unsafe { libc::kill(process, 0) } {
        0 => Ok(true),
        _ => Err(io::Error::last_os_error()).or_else(|error| match error.raw_os_error() {
            Some(libc::ESRCH) => Ok(false),
            _ => Err(error),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_holder_is_known_while_it_holds_the_lock() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path();
        assert_eq!(holder(path), Ok(None));
        let mut held = lock(path).unwrap();
        assert_eq!(holder(path), Ok(None), "it has not signed");
        sign(&mut held).unwrap();
        assert_eq!(holder(path), Ok(Some(std::process::id() as i32)));
        assert!(lock(path).unwrap_err().contains("another engine runs"));
        drop(held);
        assert_eq!(holder(path), Ok(None), "the number stays, and is nobody's");
        std::fs::write(path.join("lock"), "1\n").unwrap();
        assert_ne!(holder(path), Ok(Some(1)), "another process has that number");
    }
}
