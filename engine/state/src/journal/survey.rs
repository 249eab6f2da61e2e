//! Looks at a journal's folder without changing anything, and afterwards puts it in order.

use super::replay::Replay;
use super::segment::{self, FoundHeader, HEADER_BYTES, Header, Scan, Tail};
use super::{Segment, Sequence, create_segment, segment_first, segment_path};
use crate::disk::{Disk, DiskFile};
use crate::error::{Result, StateError};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// What a crash left half written at the end of a journal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Torn {
    /// The segment.
    pub path: PathBuf,
    /// Where the half written part begins.
    pub offset: u64,
    /// Bytes from there to the end of the file.
    pub bytes: u64,
}

/// What is in a journal's folder.
#[derive(Debug)]
pub struct Survey {
    disk: Arc<dyn Disk>,
    dir: PathBuf,
    /// With the bytes of their valid records.
    segments: Vec<Segment>,
    /// A file that a crash left without a header.
    headless: Option<PathBuf>,
    id: Option<u64>,
    next: Option<u64>,
    /// Where the last batch begins, in the last segment.
    last_batch: u64,
    torn: Option<Torn>,
}

/// Looks at the journal of a folder. It is only read, so it may be another engine's.
pub fn survey(disk: Arc<dyn Disk>, dir: &Path) -> Result<Survey> {
    let names = disk.list(dir).map_err(|error| StateError::io(dir, "list the journal's folder", error))?;
    let mut found = Survey {
        disk,
        dir: dir.to_owned(),
        segments: Vec::new(),
        headless: None,
        id: None,
        next: None,
        last_batch: 0,
        torn: None,
    };
    let mut firsts: Vec<u64> = names.iter().filter_map(|name| segment_first(name)).collect();
    firsts.sort_unstable();
    for (index, first) in firsts.iter().enumerate() {
        let path = segment_path(dir, *first);
        let is_last = index + 1 == firsts.len();
        let file = found.disk.open(&path).map_err(|error| StateError::io(&path, "open journal segment", error))?;
        match read_header(&*file, &path, *first)? {
            Some(header) => found.link(&path, &header)?,
            None if is_last && is_torn_creation(&*file, &path, *first)? => {
                found.torn = Some(Torn { path: path.clone(), offset: 0, bytes: file.len() });
                found.headless = Some(path);
                break;
            }
            None => {
                return Err(StateError::damaged(
                    &path,
                    "read journal segment",
                    Some(0),
                    "its header is not what was written",
                    REMEDY,
                ));
            }
        }
        found.segments.push(Segment { path: path.clone(), first: *first, bytes: file.len() });
    }
    found.read_last()?;
    Ok(found)
}

pub(super) const REMEDY: &str =
    "restore the file from a copy; or begin again from an earlier savepoint, with the journal's folder moved away";

impl Survey {
    /// Marks the journal's segments; none where there is no segment.
    pub fn id(&self) -> Option<u64> {
        self.id
    }

    /// The first record; none where there is no segment.
    pub fn first(&self) -> Option<Sequence> {
        self.segments.first().map(|segment| Sequence(segment.first))
    }

    /// The number behind the last record; none where there is no segment.
    pub fn next(&self) -> Option<Sequence> {
        self.next.map(Sequence)
    }

    /// What a crash left half written.
    pub fn torn(&self) -> Option<&Torn> {
        self.torn.as_ref()
    }

    /// The segments: file, first record, bytes that are valid (of those before the last one: bytes of the file).
    pub fn segments(&self) -> impl Iterator<Item = (&Path, Sequence, u64)> {
        self.segments.iter().map(|segment| (segment.path.as_path(), Sequence(segment.first), segment.bytes))
    }

    /// Reads the records from one on.
    pub fn replay(&self, from: Sequence) -> Result<Replay> {
        let next = self.next.unwrap_or(from.0);
        Replay::new(Arc::clone(&self.disk), self.dir.clone(), self.segments.clone(), from.0, next)
    }

    /// Checks that a segment follows the one before it.
    fn link(&mut self, path: &Path, header: &Header) -> Result<()> {
        let id = *self.id.get_or_insert(header.journal);
        if header.journal != id {
            return Err(StateError::damaged(
                path,
                "read journal segment",
                None,
                format!("it is a segment of journal {:016x}, those before are of {id:016x}", header.journal),
                "move the files of the other journal away",
            ));
        }
        if let Some(last) = self.segments.last()
            && last.first != header.before
        {
            return Err(StateError::damaged(
                &segment_path(&self.dir, header.before),
                "find journal segment",
                None,
                format!("the segment before {} is missing", path.display()),
                REMEDY,
            ));
        }
        Ok(())
    }

    /// Goes through the last segment. A segment that is followed by another was durable whole, even if that one is headless.
    fn read_last(&mut self) -> Result<()> {
        let Some(last) = self.segments.last_mut() else { return Ok(()) };
        let failed = |error| StateError::io(&last.path, "read journal segment", error);
        let file = self.disk.open(&last.path).map_err(failed)?;
        let mut scan = Scan::new(file, last.bytes, last.first);
        let mut last_batch = 0;
        while let Some((record, _)) = scan.next().map_err(failed)? {
            last_batch = u64::from(record.batch);
        }
        let (at, expected) = (scan.at(), scan.expected());
        if !scan.is_at_end() {
            let file = self.disk.open(&last.path).map_err(failed)?;
            let damage = match segment::tail(&*file, at, expected).map_err(failed)? {
                Tail::Whole => None,
                Tail::Damaged { follows_at } => Some(format!(
                    "record {expected} is not what was written, and a later one stands at byte {follows_at}"
                )),
                Tail::Torn if self.headless.is_some() => {
                    Some(format!("record {expected} is not what was written, and a later segment was begun"))
                }
                Tail::Torn => {
                    self.torn = Some(Torn { path: last.path.clone(), offset: at, bytes: last.bytes - at });
                    None
                }
            };
            if let Some(detail) = damage {
                return Err(StateError::damaged(&last.path, "read journal segment", Some(at), detail, REMEDY));
            }
        }
        last.bytes = at;
        self.last_batch = last_batch;
        self.next = Some(expected);
        Ok(())
    }

    /// Cuts off what is torn, and makes sure that all that is left is durable. Gives the segments and the file to write to.
    pub(super) fn settle(self, id: u64, first: u64) -> Result<(Vec<Segment>, Box<dyn DiskFile>)> {
        let Survey { disk, dir, mut segments, headless, last_batch, .. } = self;
        // Removed before it could be made again: a headless one is always the last.
        if let Some(path) = headless {
            disk.remove(&path).map_err(|error| StateError::io(&path, "remove half-made journal segment", error))?;
        }
        let file = match segments.last() {
            Some(last) => {
                let settled = (|| {
                    let mut file = disk.open(&last.path)?;
                    if file.len() > last.bytes {
                        file.truncate(last.bytes)?;
                    }
                    // After a failed sync, what can be read need not be on disk, and no later sync would write it.
                    // Only the last batch is in doubt. It is written again as it is, in place: nothing is at risk.
                    let mut again = vec![0; usize::try_from(last.bytes - last_batch).unwrap_or(usize::MAX)];
                    let read = file.read_at(last_batch, &mut again)?;
                    file.rewrite(last_batch, &again[..read])?;
                    file.sync_data()?;
                    Ok(file)
                })();
                settled.map_err(|error| StateError::io(&last.path, "make durable journal segment", error))?
            }
            None => {
                let path = segment_path(&dir, first);
                let header = Header { journal: id, first, before: first };
                let file = create_segment(&*disk, &path, &header)
                    .map_err(|error| StateError::io(&path, "begin journal segment", error))?;
                segments.push(Segment { path, first, bytes: HEADER_BYTES as u64 });
                file
            }
        };
        disk.sync_dir(&dir).map_err(|error| StateError::io(&dir, "sync the journal's folder", error))?;
        Ok((segments, file))
    }
}

/// The header of a segment; none where it is not whole.
pub(super) fn read_header(file: &dyn DiskFile, path: &Path, first: u64) -> Result<Option<Header>> {
    let mut bytes = vec![0; 4096];
    let read = file.read_at(0, &mut bytes).map_err(|error| StateError::io(path, "read journal segment", error))?;
    match segment::decode_header(&bytes[..read]) {
        FoundHeader::Later(format) => Err(segment::later_format(path, format)),
        FoundHeader::Whole(header) if header.first == first => Ok(Some(header)),
        FoundHeader::Whole(header) => Err(StateError::damaged(
            path,
            "read journal segment",
            None,
            format!("its header says that it begins with record {}, its name with {first}", header.first),
            "give the file its name back",
        )),
        FoundHeader::Invalid => Ok(None),
    }
}

/// Whether a crash left a file before its header was durable: then no record was ever written to it.
fn is_torn_creation(file: &dyn DiskFile, path: &Path, first: u64) -> Result<bool> {
    let failed = |error| StateError::io(path, "read journal segment", error);
    Ok(matches!(segment::tail(file, 0, first).map_err(failed)?, Tail::Whole | Tail::Torn))
}
