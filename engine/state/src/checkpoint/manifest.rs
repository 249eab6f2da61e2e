//! Manifests: what makes a checkpoint count.
//!
//! ```text
//! manifest-0000000042.json    of the last few checkpoints
//! savepoint-NAME.json         a copy of one that is kept until it is released
//! generation.json             the newest generation that took over the state
//! ```
//!
//! Each is two lines of JSON or more: the first says the format and the BLAKE3 digest of what follows, the second begins the
//! content. So a half written or changed file is known as such, and `tail -n +2 FILE | jq` reads it.

use super::key::StepId;
use crate::disk::{Disk, write_atomically};
use crate::error::{Result, StateError, StateErrorKind};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// The format of manifests, savepoints and the generation.
pub(crate) const FORMAT: u32 = 1;

/// A published checkpoint.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    /// Its number, one more than that of the one before.
    pub checkpoint: u64,
    /// The generation of the process that wrote it.
    pub generation: u64,
    /// The journal's records from this one on are to be replayed on top of it.
    pub journal_sequence: u64,
    /// Marks the journal, see `JournalConfig::id`.
    pub journal_id: u64,
    /// The last epoch that it contains.
    pub epoch: u64,
    /// When it was published: nanoseconds since 1970, by the clock that was handed in.
    pub time_ns: i64,
    /// The steps that have state, by name.
    pub steps: BTreeMap<String, StepManifest>,
    /// The number that the next new step gets.
    pub next_step: u32,
    /// The digests of blobs that it needs, by what they are: the plan, a model, a table.
    pub blobs: BTreeMap<String, String>,
    /// What sources and sinks keep.
    pub extra: serde_json::Value,
    /// How many times a savepoint was gone back to before it. What the journal has of another timeline is not to be replayed on
    /// top of it.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub timeline: u64,
    /// The greatest stamp that it sees.
    pub(crate) stamp: u64,
    /// First and last stamps that were never published.
    pub(crate) dead: Vec<(u64, u64)>,
}

#[allow(clippy::trivially_copy_pass_by_ref)] // as serde asks
fn is_zero(timeline: &u64) -> bool {
    *timeline == 0
}

/// A step with state.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct StepManifest {
    /// The number that stands for its name.
    pub id: u32,
    /// What it is.
    #[serde(flatten)]
    pub about: StepAbout,
    /// What there is of it.
    pub contents: Contents,
}

/// What a step is: enough to say whether another plan's step of that name can go on with its state.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct StepAbout {
    /// Its kind.
    pub kind: String,
    /// The version of the format of its entries.
    pub format: u32,
    /// A digest of its configuration.
    pub config_digest: String,
    /// The schema of what it keeps, as text.
    pub schema: String,
}

/// What there is of a step: counts, and a checksum that does not depend on the order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Contents {
    /// How many entries.
    pub entries: u64,
    /// Bytes of their keys and values.
    pub bytes: u64,
    /// The sum of the xxh3-64 of each entry's place and value.
    #[serde(with = "hexadecimal")]
    pub sum: u64,
}

/// JSON readers round large numbers.
mod hexadecimal {
    use serde::{Deserialize, Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(sum: &u64, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&format!("{sum:016x}"))
    }

    pub(super) fn deserialize<'a, D: Deserializer<'a>>(deserializer: D) -> Result<u64, D::Error> {
        let text = String::deserialize(deserializer)?;
        u64::from_str_radix(&text, 16).map_err(serde::de::Error::custom)
    }
}

impl Contents {
    /// Adds what changed. Sums wrap, so the order of changes does not matter.
    pub(crate) fn add(&mut self, change: Contents) {
        self.entries = self.entries.wrapping_add(change.entries);
        self.bytes = self.bytes.wrapping_add(change.bytes);
        self.sum = self.sum.wrapping_add(change.sum);
    }

    pub(crate) fn put(&mut self, held: Held) {
        self.add(Contents { entries: 1, bytes: u64::from(held.bytes), sum: held.digest });
    }

    pub(crate) fn take(&mut self, held: Held) {
        self.entries = self.entries.wrapping_sub(1);
        self.bytes = self.bytes.wrapping_sub(u64::from(held.bytes));
        self.sum = self.sum.wrapping_sub(held.digest);
    }
}

/// What the store holds of an entry, in a few bytes: whoever changes the entry next can say what it replaces.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Held {
    /// The xxh3-64 of the entry's place and value.
    pub digest: u64,
    /// Bytes of its key and value.
    pub bytes: u32,
}

impl Held {
    /// Of an entry's bytes and its value; `buffer` is for scratch.
    pub(crate) fn of(entry: &[u8], key_bytes: usize, value: &[u8], buffer: &mut Vec<u8>) -> Held {
        buffer.clear();
        buffer.extend_from_slice(entry);
        buffer.extend_from_slice(value);
        let bytes = u32::try_from(key_bytes + value.len()).unwrap_or(u32::MAX);
        Held { digest: xxhash_rust::xxh3::xxh3_64(buffer), bytes }
    }
}

impl Manifest {
    /// The number that stands for a step's name.
    pub fn step(&self, name: &str) -> Option<StepId> {
        self.steps.get(name).map(|step| StepId(step.id))
    }

    /// All of its contents together.
    pub fn contents(&self) -> Contents {
        let mut all = Contents::default();
        self.steps.values().for_each(|step| all.add(step.contents));
        all
    }
}

/// The newest generation that took over.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Claim {
    pub(crate) generation: u64,
}

#[derive(Serialize, Deserialize)]
struct Header {
    format: u32,
    blake3: String,
}

pub(crate) fn manifest_path(dir: &Path, checkpoint: u64) -> PathBuf {
    dir.join(format!("manifest-{checkpoint:010}.json"))
}

pub(crate) fn manifest_number(name: &str) -> Option<u64> {
    name.strip_prefix("manifest-")?.strip_suffix(".json")?.parse().ok()
}

pub(crate) fn savepoint_path(dir: &Path, name: &str) -> PathBuf {
    dir.join(format!("savepoint-{name}.json"))
}

pub(crate) fn savepoint_name(name: &str) -> Option<&str> {
    name.strip_prefix("savepoint-")?.strip_suffix(".json")
}

pub(crate) fn claim_path(dir: &Path) -> PathBuf {
    dir.join("generation.json")
}

/// The bytes of a file with its header.
pub(crate) fn encode<T: Serialize>(content: &T) -> serde_json::Result<Vec<u8>> {
    let mut body = serde_json::to_vec_pretty(content)?;
    body.push(b'\n');
    let header = Header { format: FORMAT, blake3: blake3::hash(&body).to_hex().to_string() };
    let mut bytes = serde_json::to_vec(&header)?;
    bytes.push(b'\n');
    bytes.append(&mut body);
    Ok(bytes)
}

/// Writes a file so that it is there whole or not at all.
pub(crate) fn write<T: Serialize>(disk: &dyn Disk, path: &Path, content: &T) -> Result<()> {
    let bytes = encode(content).map_err(|error| StateError::io(path, "write", error.into()))?;
    write_atomically(disk, path, &bytes).map_err(|error| StateError::io(path, "write", error))
}

const REMEDY: &str = "restore the file from a copy, or remove it to go on with an earlier checkpoint";

/// Reads a file and checks it.
pub(crate) fn read<T: DeserializeOwned>(disk: &dyn Disk, path: &Path) -> Result<T> {
    let bytes = disk.read(path).map_err(|error| StateError::io(path, "read", error))?;
    let damaged = |detail: String| StateError::damaged(path, "read", None, detail, REMEDY);
    let end = bytes.iter().position(|byte| *byte == b'\n').ok_or_else(|| damaged("it has no first line".to_owned()))?;
    let (header, body) = (&bytes[..end], &bytes[end + 1..]);
    let header: Header = serde_json::from_slice(header).map_err(|error| damaged(format!("its first line: {error}")))?;
    // What a later format digests is not known, but its first line is there to say which one it is.
    if header.format > FORMAT {
        return Err(StateError::new(
            StateErrorKind::Format { found: header.format, supported: FORMAT },
            path,
            "read",
            format!("it has manifest format {}, this engine reads up to format {FORMAT}", header.format),
            "run the engine that wrote it, or a later one",
        ));
    }
    if blake3::hash(body).to_hex().as_str() != header.blake3 {
        return Err(damaged("it is not what was written: its digest differs".to_owned()));
    }
    serde_json::from_slice(body).map_err(|error| damaged(error.to_string()))
}
