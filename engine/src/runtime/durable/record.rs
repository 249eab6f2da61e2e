//! The journal's record of a commit.
//!
//! ```text
//! length of the head u32 │ head: JSON │ rows of each batch and of each failure, as the exchange between processes has them
//! ```
//!
//! All that is needed to make the same epochs again of the same input: where each was cut and when it was read, what was
//! stated of event time, and what was decided (what failed at a sink, and when that was known). Beside it the output that is
//! due exactly once.

use super::NamedCut;
use engine_connectors::Delivered;
use engine_dataflow::watermark::Standing;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// The format of records.
const FORMAT: u32 = 1;

/// A commit.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Record {
    pub(super) format: u32,
    /// Every epoch up to this one is committed.
    pub(crate) upto: u64,
    /// What made it: the digest of the plan's logic.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) plan: Option<String>,
    /// How many times a savepoint was gone back to before it.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub(crate) timeline: u64,
    /// Every sink has acknowledged the epochs up to this one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) done: Option<u64>,
    /// Where partitions stood when they were first seen.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) starts: NamedCut,
    /// The epochs that it commits.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) epochs: Vec<EpochRecord>,
    /// Output that is due exactly once.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) staged: Vec<Staged>,
    /// Rows that came out of the error outputs of sinks.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) failed: Vec<Failed>,
    /// The last batch that each sink has delivered.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) delivered: BTreeMap<String, Delivered>,
}

#[allow(clippy::trivially_copy_pass_by_ref)] // as serde asks
fn is_zero(timeline: &u64) -> bool {
    *timeline == 0
}

/// Where a partition stands after an epoch, and what was read of it in the epoch.
pub(crate) type Place = (u64, i64, u64, u64);

/// An epoch.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct EpochRecord {
    pub(crate) epoch: u64,
    /// Of each partition that moved: the offset before which it was read, when it was read (nanoseconds since 1970 UTC), how
    /// many records that were, and a hash of the first and last of them.
    pub(crate) cut: BTreeMap<String, BTreeMap<u32, Place>>,
    /// Where each source stood in event time at its close, where that changed, and the clock.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) times: Vec<(String, Standing, i64)>,
}

/// A batch of a sink.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Staged {
    pub(crate) sink: String,
    pub(crate) sequence: u64,
    /// The last epoch that it has rows of.
    pub(crate) epoch: u64,
    /// Bytes of its rows.
    bytes: u64,
    #[serde(skip)]
    pub(crate) rows: Vec<u8>,
}

/// Rows that a sink could not deliver.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Failed {
    pub(crate) sink: String,
    /// The epoch in which they came out of its error output.
    pub(crate) epoch: u64,
    bytes: u64,
    #[serde(skip)]
    pub(crate) rows: Vec<u8>,
}

impl Staged {
    pub(crate) fn new(sink: String, sequence: u64, epoch: u64, rows: Vec<u8>) -> Staged {
        Staged { sink, sequence, epoch, bytes: rows.len() as u64, rows }
    }
}

impl Failed {
    pub(crate) fn new(sink: String, epoch: u64, rows: Vec<u8>) -> Failed {
        Failed { sink, epoch, bytes: rows.len() as u64, rows }
    }
}

impl Record {
    /// Its head, and the pieces behind it.
    pub(crate) fn encode(&mut self) -> Result<Vec<u8>, String> {
        self.format = FORMAT;
        let head = serde_json::to_vec(self).map_err(|error| error.to_string())?;
        let rows = self.staged.iter().map(|staged| &staged.rows).chain(self.failed.iter().map(|failed| &failed.rows));
        let mut bytes = Vec::with_capacity(4 + head.len() + rows.clone().map(Vec::len).sum::<usize>());
        bytes.extend_from_slice(&(head.len() as u32).to_le_bytes());
        bytes.extend_from_slice(&head);
        rows.for_each(|rows| bytes.extend_from_slice(rows));
        Ok(bytes)
    }

    /// Reads what [`Record::encode`] wrote; a sentence if it is something else.
    pub(crate) fn decode(bytes: &[u8]) -> Result<Record, String> {
        #[derive(Deserialize)]
        struct Format {
            format: u32,
        }
        let (length, rest) = bytes.split_at_checked(4).ok_or("it is cut short")?;
        let length = u32::from_le_bytes([length[0], length[1], length[2], length[3]]);
        let (head, mut rest) = rest.split_at_checked(length as usize).ok_or("it is cut short")?;
        let found: Format = serde_json::from_slice(head).map_err(|error| error.to_string())?;
        if found.format != FORMAT {
            return Err(format!("it has format {}, this engine reads format {FORMAT}", found.format));
        }
        let mut record: Record = serde_json::from_slice(head).map_err(|error| error.to_string())?;
        let mut take = |bytes: u64| {
            let (rows, behind) = rest.split_at_checked(bytes as usize).ok_or("it is cut short")?;
            rest = behind;
            Ok::<_, &str>(rows.to_vec())
        };
        for staged in &mut record.staged {
            staged.rows = take(staged.bytes)?;
        }
        for failed in &mut record.failed {
            failed.rows = take(failed.bytes)?;
        }
        if rest.is_empty() { Ok(record) } else { Err(format!("{} bytes too many stand behind it", rest.len())) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Format 1, as it was first written.
    const FIXTURE: &str = "{\"format\":1,\"upto\":9,\"done\":7,\"epochs\":[{\"epoch\":8,\"cut\":{\"in\":{\"0\":[5,77,3,9]}},\
        \"times\":[[\"in\",{\"Active\":3},4]]}],\"staged\":[{\"sink\":\"out\",\"sequence\":2,\"epoch\":8,\"bytes\":3}],\
        \"failed\":[{\"sink\":\"out\",\"epoch\":9,\"bytes\":2}],\"delivered\":{\"out\":{\"sequence\":1,\"note\":\"x\"}}}";

    fn record() -> Record {
        let cut = BTreeMap::from([("in".to_owned(), BTreeMap::from([(0, (5, 77, 3, 9))]))]);
        Record {
            format: FORMAT,
            upto: 9,
            done: Some(7),
            epochs: vec![EpochRecord { epoch: 8, cut, times: vec![("in".to_owned(), Standing::Active(3), 4)] }],
            staged: vec![Staged::new("out".to_owned(), 2, 8, b"abc".to_vec())],
            failed: vec![Failed::new("out".to_owned(), 9, b"de".to_vec())],
            delivered: BTreeMap::from([("out".to_owned(), Delivered { sequence: 1, note: "x".to_owned() })]),
            ..Record::default()
        }
    }

    #[test]
    fn a_record_is_read_as_it_was_written_and_any_damage_is_told() {
        let bytes = record().encode().unwrap();
        assert_eq!(Record::decode(&bytes), Ok(record()));
        for length in 0..bytes.len() {
            assert!(Record::decode(&bytes[..length]).is_err(), "{length}");
        }
        assert!(Record::decode(&[&bytes[..], b"x"].concat()).is_err());
    }

    #[test]
    fn the_first_format_is_read() {
        let bytes = [&(FIXTURE.len() as u32).to_le_bytes()[..], FIXTURE.as_bytes(), b"abcde"].concat();
        assert_eq!(Record::decode(&bytes), Ok(record()));
        let later = FIXTURE.replace("\"format\":1", "\"format\":2");
        let bytes = [&(later.len() as u32).to_le_bytes()[..], later.as_bytes(), b"abcde"].concat();
        assert_eq!(Record::decode(&bytes).unwrap_err(), "it has format 2, this engine reads format 1");
    }
}
