//! The journal: an append-only log of records that others make sense of.
//!
//! ```text
//! append ─▶ buffer ─sync─▶ one write, one fdatasync ─▶ 00000000000000000042.journal      records 42 to 99
//!                                                      00000000000000000100.journal      records 100 to ...
//! ```
//!
//! What is promised:
//!
//! - When [`Journal::sync`] returns, every record appended before is there, in order, after any crash.
//! - After a crash the records are those that were synced, and behind them perhaps some of those that were not, in order
//!   and without a gap. None is made up. What [`Journal::open`] has returned is durable, whatever it was before.
//! - Damage is an error that names the file and the place, never a record silently left out, with one exception that no
//!   log can tell: damage in the last batch that was synced (or before a batch that a crash tore) looks like a write
//!   that a crash cut off. It is cut off, and [`Opened::torn`] says so.
//! - A disk that is full costs nothing: [`Journal::sync`] fails, the records stay in the buffer, and it may be called again.
//!   After any other failure the journal takes nothing more until it is opened again, since what a failed sync left on
//!   disk can't be known without reading it, and can't be relied on without writing it again.
//!
//! It does not know what is in a record, when to sync, or who else writes to its folder: the lock of the state directory
//! sees to that.

mod replay;
mod segment;
mod survey;
#[cfg(test)]
mod tests;

pub use replay::{Record, Replay};
pub use survey::{Survey, Torn, survey};

use crate::disk::{Disk, DiskFile};
use crate::error::{Result, StateError, StateErrorKind, is_full};
use segment::{HEADER_BYTES, Header, PAYLOAD_BYTES_MAX, RECORD_HEADER_BYTES, encode_record};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The number of a record: one more than that of the record before.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Sequence(pub u64);

/// How a journal is kept.
#[derive(Clone, Debug)]
pub struct JournalConfig {
    /// A segment that has reached this many bytes is followed by a new one. At most 2 GiB.
    pub segment_bytes: u64,
    /// Marks the segments of a new journal, so that those of another are not taken for its own. Any number will do.
    pub id: u64,
    /// The number of a new journal's first record.
    pub first: Sequence,
}

impl Default for JournalConfig {
    fn default() -> JournalConfig {
        JournalConfig { segment_bytes: 64 << 20, id: 0, first: Sequence(0) }
    }
}

/// What was found when a journal was opened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Opened {
    /// The first record that is kept.
    pub first: Sequence,
    /// The number that the next record gets.
    pub next: Sequence,
    /// What a crash left half written, and was cut off.
    pub torn: Option<Torn>,
}

/// A segment: records from `first` on.
#[derive(Clone, Debug)]
pub(crate) struct Segment {
    path: PathBuf,
    first: u64,
    bytes: u64,
}

/// An append-only log of records in a folder.
///
/// ```text
///          append            sync                        disk full
/// empty ──────────▶ buffered ────▶ empty      buffered ───────────▶ buffered (try again)
///                      │ any other failure
///                      ▼
///                   poisoned: open it again
/// ```
#[derive(Debug)]
pub struct Journal {
    disk: Arc<dyn Disk>,
    dir: PathBuf,
    config: JournalConfig,
    /// With the sizes of what is durable; the last one is written to.
    segments: Vec<Segment>,
    file: Box<dyn DiskFile>,
    buffer: Vec<u8>,
    /// The number of the first record of the buffer, or of the next one.
    buffered_from: u64,
    next: u64,
    /// What is in the buffer goes into a segment of its own.
    rolls: bool,
    poisoned: Option<String>,
}

impl Journal {
    /// Opens the journal of a folder, or begins one. Cuts off what a crash left half written.
    pub fn open(disk: Arc<dyn Disk>, dir: &Path, config: JournalConfig) -> Result<(Journal, Opened)> {
        disk.create_dir_all(dir).map_err(|error| StateError::io(dir, "make the journal's folder", error))?;
        let found = survey(Arc::clone(&disk), dir)?;
        let mut config = config;
        config.segment_bytes = config.segment_bytes.clamp(HEADER_BYTES as u64 + 1, 2 << 30);
        config.id = found.id().unwrap_or(config.id);
        let next = found.next().map_or(config.first.0, |next| next.0);
        let opened =
            Opened { first: found.first().unwrap_or(config.first), next: Sequence(next), torn: found.torn().cloned() };
        let (segments, file) = found.settle(config.id, config.first.0)?;
        let journal = Journal {
            disk,
            dir: dir.to_owned(),
            config,
            segments,
            file,
            buffer: Vec::new(),
            buffered_from: next,
            next,
            rolls: false,
            poisoned: None,
        };
        Ok((journal, opened))
    }

    /// Takes a record. It is durable once [`Journal::sync`] has returned.
    pub fn append(&mut self, payload: &[u8]) -> Result<Sequence> {
        self.append_parts(&[payload])
    }

    /// Takes a record that is in several pieces of memory.
    pub fn append_parts(&mut self, parts: &[&[u8]]) -> Result<Sequence> {
        self.check_sound()?;
        let bytes: usize = parts.iter().map(|part| part.len()).sum();
        if bytes > PAYLOAD_BYTES_MAX {
            return Err(StateError::new(
                StateErrorKind::TooLarge,
                &self.dir,
                "append to the journal",
                format!("a record of {bytes} bytes is over the bound of {PAYLOAD_BYTES_MAX}"),
                "make the batches of the sources smaller",
            ));
        }
        let segment_bytes = self.segments.last().map_or(0, |segment| segment.bytes);
        if self.buffer.is_empty() {
            self.rolls = segment_bytes >= self.config.segment_bytes;
        }
        let batch = if self.rolls { HEADER_BYTES as u64 } else { segment_bytes };
        let sequence = self.next;
        encode_record(&mut self.buffer, batch as u32, sequence, parts);
        self.next += 1;
        Ok(Sequence(sequence))
    }

    /// Makes all records durable that were appended before.
    ///
    /// On [`StateErrorKind::DiskFull`] they stay in the buffer: call it again when there is room. After any other error the
    /// journal must be opened again, and which of the records are there then is not known.
    pub fn sync(&mut self) -> Result<()> {
        self.check_sound()?;
        if self.buffer.is_empty() {
            return Ok(());
        }
        if self.rolls {
            self.roll()?;
            self.rolls = false;
        }
        let path = self.tail_path();
        let durable = self.segments.last().map_or(0, |segment| segment.bytes);
        if let Err(error) = self.file.append(&self.buffer) {
            // Cut off now, so that the room is free and the same bytes can be written to the same place.
            let cut = self.file.truncate(durable);
            let full = is_full(&error);
            let error = StateError::io(&path, "write to journal segment", error);
            return match cut {
                Ok(()) if full => Err(error.with_remedy("make room on the disk: the records are kept and tried again")),
                _ => Err(self.poison(error)),
            };
        }
        if let Err(error) = self.file.sync_data() {
            let error = StateError::io(&path, "sync journal segment", error);
            return Err(self.poison(error));
        }
        if let Some(segment) = self.segments.last_mut() {
            segment.bytes += self.buffer.len() as u64;
        }
        self.buffer.clear();
        self.buffered_from = self.next;
        Ok(())
    }

    /// Begins a segment for what is in the buffer. The one before is durable whole.
    fn roll(&mut self) -> Result<()> {
        let before = self.segments.last().map_or(self.buffered_from, |segment| segment.first);
        let path = segment_path(&self.dir, self.buffered_from);
        let header = Header { journal: self.config.id, first: self.buffered_from, before };
        let failed = match create_segment(&*self.disk, &path, &header) {
            Ok(file) => match self.disk.sync_dir(&self.dir) {
                Ok(()) => {
                    self.file = file;
                    self.segments.push(Segment { path, first: self.buffered_from, bytes: HEADER_BYTES as u64 });
                    return Ok(());
                }
                Err(error) => error,
            },
            Err(error) => error,
        };
        let full = is_full(&failed);
        let error = StateError::io(&path, "begin journal segment", failed);
        // One that is left without records is taken for torn and removed when the journal is opened.
        let removed = self.disk.remove(&path);
        let gone = removed.as_ref().err().is_none_or(|error| error.kind() == std::io::ErrorKind::NotFound);
        if full && gone { Err(error) } else { Err(self.poison(error)) }
    }

    /// Removes segments of which all records come before one. The segment that is written to stays.
    pub fn truncate_before(&mut self, sequence: Sequence) -> Result<()> {
        while self.segments.get(1).is_some_and(|after| after.first <= sequence.0) {
            let path = self.segments[0].path.clone();
            let removed = self.disk.remove(&path);
            if let Err(error) = removed
                && error.kind() != std::io::ErrorKind::NotFound
            {
                return Err(StateError::io(&path, "remove journal segment", error));
            }
            self.segments.remove(0);
            // One at a time: a crash must not leave a gap.
            self.disk
                .sync_dir(&self.dir)
                .map_err(|error| StateError::io(&self.dir, "sync the journal's folder", error))?;
        }
        Ok(())
    }

    /// Reads the durable records from one on. One that is no longer kept, or not written yet, is an error; the next one is not.
    pub fn replay(&self, from: Sequence) -> Result<Replay> {
        Replay::new(Arc::clone(&self.disk), self.dir.clone(), self.segments.clone(), from.0, self.buffered_from)
    }

    /// Marks the journal's segments.
    pub fn id(&self) -> u64 {
        self.config.id
    }

    /// The first record that is kept.
    pub fn first(&self) -> Sequence {
        Sequence(self.segments.first().map_or(self.buffered_from, |segment| segment.first))
    }

    /// The number that the next record gets.
    pub fn next(&self) -> Sequence {
        Sequence(self.next)
    }

    /// The first number that is not durable.
    pub fn durable(&self) -> Sequence {
        Sequence(self.buffered_from)
    }

    /// Bytes of all segments, and of what is not yet written.
    pub fn bytes(&self) -> u64 {
        self.segments.iter().map(|segment| segment.bytes).sum::<u64>() + self.buffer.len() as u64
    }

    /// Bytes that a record takes besides its payload.
    pub const RECORD_OVERHEAD_BYTES: usize = RECORD_HEADER_BYTES;

    fn tail_path(&self) -> PathBuf {
        self.segments.last().map_or_else(|| self.dir.clone(), |segment| segment.path.clone())
    }

    fn poison(&mut self, error: StateError) -> StateError {
        let error = error.with_remedy(
            "open the journal again, or restart the engine: what was durable before is there, of the rest the journal \
             tells then",
        );
        self.poisoned = Some(error.to_string());
        error
    }

    fn check_sound(&self) -> Result<()> {
        match &self.poisoned {
            None => Ok(()),
            Some(earlier) => Err(StateError::new(
                StateErrorKind::Poisoned,
                &self.dir,
                "write to the journal",
                format!("an earlier failure left it in doubt what is on disk ({earlier})"),
                "open the journal again, or restart the engine",
            )),
        }
    }
}

/// The file of the segment that begins with a record.
fn segment_path(dir: &Path, first: u64) -> PathBuf {
    dir.join(format!("{first:020}.journal"))
}

/// The first record of the segment in a file, by its name.
fn segment_first(name: &str) -> Option<u64> {
    let digits = name.strip_suffix(".journal")?;
    (digits.len() == 20 && digits.bytes().all(|byte| byte.is_ascii_digit())).then(|| digits.parse().ok())?
}

/// A segment without records, durable but for its name.
fn create_segment(disk: &dyn Disk, path: &Path, header: &Header) -> std::io::Result<Box<dyn DiskFile>> {
    let mut file = disk.create(path)?;
    file.append(&header.encode())?;
    file.sync_data()?;
    Ok(file)
}
