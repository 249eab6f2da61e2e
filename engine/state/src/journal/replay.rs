//! Reads the records of a journal in order, a part of a segment in memory at a time.

use super::segment::Scan;
use super::survey::{REMEDY, read_header};
use super::{Segment, Sequence};
use crate::disk::Disk;
use crate::error::{Result, StateError, StateErrorKind};
use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::Arc;

/// A record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Its number.
    pub sequence: Sequence,
    /// What was appended.
    pub payload: Vec<u8>,
}

/// The records of a journal, in order and without a gap, up to what was durable when it was asked for.
///
/// After an error there is nothing more: what follows damage is never handed out.
#[derive(Debug)]
pub struct Replay {
    disk: Arc<dyn Disk>,
    /// Those not yet begun.
    segments: VecDeque<Segment>,
    scan: Option<(PathBuf, Scan)>,
    from: u64,
    expected: u64,
    /// The number behind the last record.
    end: u64,
    failed: bool,
}

impl Replay {
    pub(super) fn new(
        disk: Arc<dyn Disk>,
        dir: PathBuf,
        segments: Vec<Segment>,
        from: u64,
        end: u64,
    ) -> Result<Replay> {
        let first = segments.first().map_or(end, |segment| segment.first);
        if from < first || from > end {
            let (kind, detail) = if from < first {
                (StateErrorKind::Missing, format!("record {from} is no longer kept, the first one is {first}"))
            } else {
                (
                    StateErrorKind::Damaged { offset: None },
                    format!("record {from} is asked for, and it ends before {end}"),
                )
            };
            return Err(StateError::new(kind, dir, "replay the journal", detail, REMEDY));
        }
        let skipped = segments.partition_point(|segment| segment.first <= from).saturating_sub(1);
        let mut segments = VecDeque::from(segments);
        segments.drain(..skipped);
        let expected = segments.front().map_or(end, |segment| segment.first);
        Ok(Replay { disk, segments, scan: None, from, expected, end, failed: false })
    }

    fn advance(&mut self) -> Result<Option<Record>> {
        while self.expected < self.end {
            let Some((path, scan)) = &mut self.scan else {
                self.begin_segment()?;
                continue;
            };
            let at = scan.at();
            let failed = |error| StateError::io(path, "read journal segment", error);
            let from = self.from;
            // Records from before the first that is wanted are checked, and not copied.
            let found = scan
                .next()
                .map_err(failed)?
                .map(|(record, payload)| (record.sequence, (record.sequence >= from).then(|| payload.to_vec())));
            match found {
                Some((sequence, payload)) => {
                    self.expected = sequence + 1;
                    if let Some(payload) = payload {
                        return Ok(Some(Record { sequence: Sequence(sequence), payload }));
                    }
                }
                None if scan.is_at_end() => self.scan = None,
                None => {
                    let detail = format!("record {} is not what was written", self.expected);
                    return Err(StateError::damaged(path, "read journal segment", Some(at), detail, REMEDY));
                }
            }
        }
        Ok(None)
    }

    fn begin_segment(&mut self) -> Result<()> {
        let missing = |path: PathBuf, detail: String| {
            Err(StateError::damaged(&path, "read journal segment", None, detail, REMEDY))
        };
        let Some(segment) = self.segments.pop_front() else {
            return missing(PathBuf::new(), format!("it ends before record {}", self.expected));
        };
        if segment.first != self.expected {
            return missing(
                segment.path,
                format!("it begins with record {}, record {} should follow", segment.first, self.expected),
            );
        }
        let failed = |error| StateError::io(&segment.path, "open journal segment", error);
        let file = self.disk.open(&segment.path).map_err(failed)?;
        if read_header(&*file, &segment.path, segment.first)?.is_none() {
            return missing(segment.path, "its header is not what was written".to_owned());
        }
        if file.len() < segment.bytes {
            return missing(segment.path, format!("it has {} bytes of {}", file.len(), segment.bytes));
        }
        self.scan = Some((segment.path, Scan::new(file, segment.bytes, segment.first)));
        Ok(())
    }
}

impl Iterator for Replay {
    type Item = Result<Record>;

    fn next(&mut self) -> Option<Result<Record>> {
        if self.failed {
            return None;
        }
        let record = self.advance();
        self.failed = record.is_err();
        record.transpose()
    }
}
