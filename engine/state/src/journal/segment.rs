//! One file of a journal: its header and its records.
//!
//! ```text
//! header   magic 8 │ format u32 │ length of the header u32 │ journal u64 │ first sequence u64 │ first of the segment before u64 │ checksum u64
//! record   checksum u64 │ length u32 │ batch u32 │ sequence u64 │ payload
//! ```
//!
//! Numbers are little-endian. A checksum is the xxh3-64 of what follows it in a record, and of what stands before it in the
//! header. Magic, format, length and the checksum at the end stay where they are in every format to come, so a header that
//! a crash tore is told from that of a later format.
//!
//! `batch` is where in the file the batch of records begins that was made durable at once: everything before it was durable
//! when the record was written. That is how a torn tail is told from damage, see [`Tail`].

use crate::disk::DiskFile;
use crate::error::{StateError, StateErrorKind};
use std::io;
use std::path::Path;
use xxhash_rust::xxh3::xxh3_64;

pub(super) const FORMAT: u32 = 1;
pub(super) const HEADER_BYTES: usize = 48;
pub(super) const RECORD_HEADER_BYTES: usize = 24;
/// Bytes of a payload.
pub(super) const PAYLOAD_BYTES_MAX: usize = 1 << 30;
const MAGIC: &[u8; 8] = b"ENGJRNL\n";
/// A read of a file that is gone through.
const READ_BYTES: usize = 1 << 20;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) journal: u64,
    pub(super) first: u64,
    /// The first sequence of the segment before; its own in the first segment of a journal.
    pub(super) before: u64,
}

impl Header {
    pub(super) fn encode(&self) -> [u8; HEADER_BYTES] {
        let mut out = [0; HEADER_BYTES];
        out[..8].copy_from_slice(MAGIC);
        out[8..12].copy_from_slice(&FORMAT.to_le_bytes());
        out[12..16].copy_from_slice(&(HEADER_BYTES as u32).to_le_bytes());
        out[16..24].copy_from_slice(&self.journal.to_le_bytes());
        out[24..32].copy_from_slice(&self.first.to_le_bytes());
        out[32..40].copy_from_slice(&self.before.to_le_bytes());
        let checksum = xxh3_64(&out[..40]);
        out[40..].copy_from_slice(&checksum.to_le_bytes());
        out
    }
}

pub(super) enum FoundHeader {
    Whole(Header),
    /// Not what was written.
    Invalid,
    Later(u32),
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(bytes.get(at..at + 8)?.try_into().ok()?))
}

/// Reads a header from the first bytes of a file, of which there may be too few.
pub(super) fn decode_header(bytes: &[u8]) -> FoundHeader {
    let whole = || {
        let length = u32_at(bytes, 12)? as usize;
        let checked = length.checked_sub(8).filter(|_| (24..=4096).contains(&length))?;
        let sound = bytes.get(..8)? == MAGIC && xxh3_64(bytes.get(..checked)?) == u64_at(bytes, checked)?;
        sound.then_some(length)
    };
    let Some(length) = whole() else { return FoundHeader::Invalid };
    match (u32_at(bytes, 8), u64_at(bytes, 16), u64_at(bytes, 24), u64_at(bytes, 32)) {
        (Some(FORMAT), Some(journal), Some(first), Some(before)) if length == HEADER_BYTES => {
            FoundHeader::Whole(Header { journal, first, before })
        }
        (Some(format), ..) if format != FORMAT => FoundHeader::Later(format),
        _ => FoundHeader::Invalid,
    }
}

/// The error for a segment of a format that this engine does not know.
pub(super) fn later_format(path: &Path, found: u32) -> StateError {
    StateError::new(
        StateErrorKind::Format { found, supported: FORMAT },
        path,
        "read journal segment",
        format!("it has journal format {found}, this engine reads format {FORMAT}"),
        "run the engine that wrote it, or let that one drain the journal with a checkpoint before this one starts",
    )
}

/// Adds a record to a batch.
pub(super) fn encode_record(out: &mut Vec<u8>, batch: u32, sequence: u64, parts: &[&[u8]]) {
    let length: usize = parts.iter().map(|part| part.len()).sum();
    let start = out.len();
    out.reserve(RECORD_HEADER_BYTES + length);
    out.extend_from_slice(&[0; 8]);
    out.extend_from_slice(&(length as u32).to_le_bytes());
    out.extend_from_slice(&batch.to_le_bytes());
    out.extend_from_slice(&sequence.to_le_bytes());
    for part in parts {
        out.extend_from_slice(part);
    }
    let checksum = xxh3_64(&out[start + 8..]);
    out[start..start + 8].copy_from_slice(&checksum.to_le_bytes());
}

/// A record at the start of some bytes, if there is a whole one: (batch, sequence, bytes of header and payload).
fn record_at(bytes: &[u8]) -> Option<(u32, u64, usize)> {
    let end = RECORD_HEADER_BYTES + length_at(bytes)?;
    let checked = bytes.get(8..end)?;
    (xxh3_64(checked) == u64_at(bytes, 0)?).then_some((u32_at(bytes, 12)?, u64_at(bytes, 16)?, end))
}

/// The length that a record's header claims, if it can be one.
fn length_at(bytes: &[u8]) -> Option<usize> {
    u32_at(bytes, 8).map(|length| length as usize).filter(|length| *length <= PAYLOAD_BYTES_MAX)
}

/// A record of a segment.
#[derive(Clone, Copy, Debug)]
pub(super) struct Found {
    pub(super) batch: u32,
    pub(super) sequence: u64,
}

/// Goes through a file's records, some of them in memory at a time.
#[derive(Debug)]
pub(super) struct Scan {
    file: Box<dyn DiskFile>,
    /// Where it stops reading: the end of the file, or what is durable of it.
    end: u64,
    /// The place in the file of the first byte of `window`.
    window_at: u64,
    window: Vec<u8>,
    /// How far it is within the window.
    position: usize,
    expected: u64,
}

impl Scan {
    /// Starts behind the header.
    pub(super) fn new(file: Box<dyn DiskFile>, end: u64, first: u64) -> Scan {
        let window_at = HEADER_BYTES as u64;
        Scan { file, end, window_at, window: Vec::new(), position: 0, expected: first }
    }

    /// Where the next record would begin.
    pub(super) fn at(&self) -> u64 {
        self.window_at + self.position as u64
    }

    /// The sequence that the next record would have.
    pub(super) fn expected(&self) -> u64 {
        self.expected
    }

    pub(super) fn is_at_end(&self) -> bool {
        self.at() >= self.end
    }

    /// The next record and its payload; none where there is no valid one: then `at` tells whether that is the end.
    pub(super) fn next(&mut self) -> io::Result<Option<(Found, &[u8])>> {
        self.fill(RECORD_HEADER_BYTES)?;
        let Some(length) = length_at(&self.window[self.position..]) else { return Ok(None) };
        // A length that is damaged must not make it read, or hold, more than there is.
        if (self.end - self.at()) < (RECORD_HEADER_BYTES + length) as u64 {
            return Ok(None);
        }
        self.fill(RECORD_HEADER_BYTES + length)?;
        let (at, start) = (self.at(), self.position);
        let Some((batch, sequence, bytes)) = record_at(&self.window[start..]) else { return Ok(None) };
        if sequence != self.expected || u64::from(batch) > at {
            return Ok(None);
        }
        self.position += bytes;
        self.expected += 1;
        Ok(Some((Found { batch, sequence }, &self.window[start + RECORD_HEADER_BYTES..start + bytes])))
    }

    /// Sees to it that so many bytes from here are in the window, if the file has them.
    fn fill(&mut self, bytes: usize) -> io::Result<()> {
        let has = self.window.len() - self.position;
        let left = self.end.saturating_sub(self.window_at + self.window.len() as u64);
        if has >= bytes || left == 0 {
            return Ok(());
        }
        self.window.drain(..self.position);
        self.window_at += self.position as u64;
        self.position = 0;
        let more = (bytes - has).max(READ_BYTES).min(usize::try_from(left).unwrap_or(usize::MAX));
        let from = self.window.len();
        self.window.resize(from + more, 0);
        let read = self.file.read_at(self.window_at + from as u64, &mut self.window[from..])?;
        self.window.truncate(from + read);
        Ok(())
    }
}

/// What stands behind the last valid record of a file.
///
/// ```text
///            batch 7                batch 8
/// ... │ record │ record ║ record │ ??????? │ record ]   a later record of the same batch: the crash came before the
///                              invalid ─┘                sync, and pages reach a disk in any order: torn
///
/// ... │ record │ ?????? ║ record │ record ]             the record behind says that batch 7 was durable: damage
///          invalid ─┘
/// ```
///
/// What can't be told apart: damage in the last batch that was made durable, or before a batch of which nothing is left.
#[derive(Debug)]
pub(super) enum Tail {
    /// The records go to the end of the file.
    Whole,
    /// Nothing behind it was known to be durable.
    Torn,
    /// A record behind it was written when it was durable already.
    Damaged {
        /// Where that record is.
        follows_at: u64,
    },
}

/// Looks at what stands in a file from a place on where a record should be and is none. `first` is the sequence it should have.
pub(super) fn tail(file: &dyn DiskFile, at: u64, expected: u64) -> io::Result<Tail> {
    let left = file.len().saturating_sub(at);
    if left == 0 {
        return Ok(Tail::Whole);
    }
    let mut rest = vec![0; usize::try_from(left).unwrap_or(usize::MAX)];
    let read = file.read_at(at, &mut rest)?;
    rest.truncate(read);
    // No more records than this can follow, which spares a checksum at nearly every place.
    let sequences = expected..=expected.saturating_add(left / RECORD_HEADER_BYTES as u64 + 1);
    for offset in 0..rest.len() {
        let here = &rest[offset..];
        let plausible = u64_at(here, 16).is_some_and(|sequence| sequences.contains(&sequence));
        if plausible && let Some((batch, ..)) = record_at(here) {
            let follows_at = at + offset as u64;
            if u64::from(batch) > at && u64::from(batch) <= follows_at {
                return Ok(Tail::Damaged { follows_at });
            }
        }
    }
    Ok(Tail::Torn)
}
