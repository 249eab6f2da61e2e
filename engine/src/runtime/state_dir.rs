//! The state directory: the lock, the last acknowledged cut, and what a restart needs to know.
//!
//! ```text
//! STATE/lock         held while an engine runs on it; a second one is refused
//! STATE/cut.json     written whole to a side file, fsynced, then renamed: it is the old one or the new one, never half
//! STATE/errors.jsonl error rows that no step reads
//! ```
//!
//! A pipeline with state in memory starts from an earlier cut: the latest one before which no row's event time reaches into
//! what the state looks back on. For that a few earlier cuts are kept, thinned out with age.
//!
//! ```text
//!                      earlier cut: no partition was beyond the bound        bound      cut
//! partition 0  ────────────────────────┼───────────────────────────────────────┼─ ... ───┼  greatest event time
//! partition 1  ──────────────────────┼─────────────────────────────────────────┼─ ... ─┼    the least of all
//!                                                                              └ look ─┘
//! ```
//!
//! The rows of a key may come from any partition, and partitions are read at their own pace, so the bound goes by the
//! partition that is least far. One that has been silent for a minute while others were read is not waited for.

use engine_dataflow::cuts::{Acknowledged, Events, Seen};
use engine_dataflow::{Cut, Mark, Marks};
use engine_plan::{Plan, Role};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};

/// The format of `cut.json`.
const FORMAT: u32 = 2;
/// How many earlier cuts are kept; between two of them lies at least the look back divided by this.
const EARLIER_CUTS_MAX: i64 = 64;
/// A partition of which nothing was read for so long, while something was of another, does not hold back the bound.
const SILENT_NS: i64 = 60_000_000_000;

/// An open state directory.
#[derive(Debug)]
pub(crate) struct StateDir {
    path: PathBuf,
    /// Locked while it is open.
    _lock: File,
    /// A former run has begun with it.
    begun: bool,
    stored: Stored,
    look_back_ns: i64,
    names: Vec<String>,
}

/// `cut.json`
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
struct Stored {
    format: u32,
    pipeline: String,
    digest: String,
    cut: Named,
    seen: NamedEvents,
    origin: Named,
    earlier: Vec<Earlier>,
}

/// An earlier cut.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Earlier {
    /// The greatest event time of any partition before it.
    event_ns: i64,
    cut: Named,
}

/// What keyed steps saw, by names of sources.
type NamedEvents = BTreeMap<String, BTreeMap<u32, StoredSeen>>;

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct StoredSeen {
    event_ns: i64,
    read_ns: i64,
}

/// The event time that the partition which is least far has reached, the silent ones left out.
fn least_far(seen: &Events) -> Option<i64> {
    let last_ns = seen.values().map(|seen| seen.read_ns).max()?;
    let live = seen.values().filter(|seen| last_ns.saturating_sub(seen.read_ns) <= SILENT_NS);
    live.map(|seen| seen.event_ns).min()
}

/// A cut by names of sources: identity goes by names, not by their order in the file.
type Named = BTreeMap<String, BTreeMap<u32, StoredMark>>;

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct StoredMark {
    next: u64,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    detail: String,
}

/// Where a run starts.
#[derive(Debug, Default)]
pub(crate) struct Resume {
    /// Where sources read from.
    pub(crate) from: Cut,
    /// What was acknowledged before: rows from before this cut are read for state only.
    pub(crate) acknowledged: Acknowledged,
}

impl StateDir {
    /// Opens or makes the directory and takes its lock.
    pub(crate) fn open(path: &Path, plan: &Plan) -> Result<StateDir, String> {
        let shown = path.display();
        fs::create_dir_all(path).map_err(|error| format!("the state directory {shown} can't be made: {error}"))?;
        let lock = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .open(path.join("lock"))
            .map_err(|error| format!("the state directory {shown} can't be locked: {error}"))?;
        // SAFETY: `flock` reads nothing but the descriptor, which `lock` keeps open.
        if unsafe { libc::flock(lock.as_raw_fd(), libc::LOCK_EX | libc::LOCK_NB) } != 0 {
            return Err(format!(
                "another engine runs on the state directory {shown}; stop it, or give another --state"
            ));
        }
        let found = fs::read(path.join("cut.json"));
        let begun = found.is_ok();
        let stored = match found {
            Ok(bytes) => read(&bytes).map_err(|error| {
                format!("{shown}/cut.json can't be read: {error}; move the file away to start from the beginning")
            })?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => Stored::default(),
            Err(error) => return Err(format!("{shown}/cut.json can't be read: {error}")),
        };
        if !stored.pipeline.is_empty() && stored.pipeline != plan.name {
            return Err(format!(
                "the state directory {shown} is that of pipeline `{}`, not of `{}`; give another --state",
                stored.pipeline, plan.name
            ));
        }
        let names: Vec<String> = plan.sources().map(|step| step.name.clone()).collect();
        check_sources(&stored, &names).map_err(|problem| format!("the state directory {shown} {problem}"))?;
        let look_back_ns = plan.steps.iter().map(|step| step.look_back_ns).max().unwrap_or(0);
        Ok(StateDir { path: path.to_owned(), _lock: lock, begun, stored, look_back_ns, names })
    }

    /// Whether a former run has begun with it: what is half written at the end of a sink's file is that run's.
    pub(crate) fn begun(&self) -> bool {
        self.begun
    }

    /// Notes that a run has begun. Called when the sinks are open and nothing is written yet.
    pub(crate) fn begin(&mut self, plan: &Plan) -> Result<(), String> {
        if self.begun {
            return Ok(());
        }
        self.stored =
            Stored { format: FORMAT, pipeline: plan.name.clone(), digest: plan.digest.clone(), ..Stored::default() };
        self.store().map_err(|error| format!("the state directory {} can't be written: {error}", self.path.display()))
    }

    /// Where error rows go.
    pub(crate) fn errors_path(&self) -> PathBuf {
        self.path.join("errors.jsonl")
    }

    /// Where the next run starts.
    pub(crate) fn resume(&self) -> Resume {
        let numbered = |named: &Named| self.numbered(named);
        let acknowledged = Acknowledged {
            cut: numbered(&self.stored.cut),
            seen: self.numbered_events(&self.stored.seen),
            origin: numbered(&self.stored.origin),
        };
        let from = match (least_far(&acknowledged.seen), self.look_back_ns) {
            (Some(event_ns), look_back_ns) if look_back_ns > 0 => {
                let bound = event_ns.saturating_sub(look_back_ns);
                let earlier = self.stored.earlier.iter().rev().find(|earlier| earlier.event_ns <= bound);
                earlier.map_or_else(|| acknowledged.origin.clone(), |earlier| numbered(&earlier.cut))
            }
            // What is kept stands on all rows, with event time or without.
            (None, i64::MAX) => acknowledged.origin.clone(),
            _ => acknowledged.cut.clone(),
        };
        // A partition of which nothing is acknowledged starts where it started.
        let mut from = from;
        for (source, marks) in &acknowledged.origin {
            let from = from.entry(*source).or_default();
            for (partition, mark) in marks {
                from.entry(*partition).or_insert_with(|| mark.clone());
            }
        }
        Resume { from, acknowledged }
    }

    /// Makes a cut durable.
    pub(crate) fn commit(&mut self, plan: &Plan, acknowledged: &Acknowledged) -> io::Result<()> {
        let cut = self.named(&acknowledged.cut);
        let mut earlier = std::mem::take(&mut self.stored.earlier);
        let greatest = acknowledged.seen.values().map(|seen| seen.event_ns).max();
        if let (Some(event_ns), Some(least_ns)) = (greatest, least_far(&acknowledged.seen))
            && self.look_back_ns > 0
        {
            let apart = self.look_back_ns / EARLIER_CUTS_MAX;
            if earlier.last().is_none_or(|last| event_ns.saturating_sub(last.event_ns) > apart) {
                earlier.push(Earlier { event_ns, cut: cut.clone() });
            }
            // The latest one at or before the bound serves; those before it never will again, since no partition goes back.
            let bound = least_ns.saturating_sub(self.look_back_ns);
            let needless = earlier.iter().take_while(|earlier| earlier.event_ns <= bound).count().saturating_sub(1);
            earlier.drain(..needless);
        }
        self.stored = Stored {
            format: FORMAT,
            pipeline: plan.name.clone(),
            digest: plan.digest.clone(),
            cut,
            seen: self.named_events(&acknowledged.seen),
            origin: self.named(&acknowledged.origin),
            earlier,
        };
        self.store()
    }

    /// Writes `cut.json`.
    fn store(&self) -> io::Result<()> {
        let side = self.path.join("cut.json.new");
        let mut file = File::create(&side)?;
        serde_json::to_writer(&mut file, &self.stored)?;
        file.write_all(b"\n")?;
        file.sync_all()?;
        fs::rename(&side, self.path.join("cut.json"))?;
        // The rename itself is durable once the directory is.
        File::open(&self.path)?.sync_all()
    }

    fn named(&self, cut: &Cut) -> Named {
        cut.iter()
            .filter_map(|(source, marks)| {
                let name = self.names.get(usize::from(source.0))?;
                let marks = marks
                    .iter()
                    .map(|(partition, mark)| (*partition, StoredMark { next: mark.next, detail: mark.detail.clone() }))
                    .collect();
                Some((name.clone(), marks))
            })
            .collect()
    }

    fn named_events(&self, seen: &Events) -> NamedEvents {
        let mut named = NamedEvents::new();
        for ((source, partition), seen) in seen {
            if let Some(name) = self.names.get(usize::from(source.0)) {
                let seen = StoredSeen { event_ns: seen.event_ns, read_ns: seen.read_ns };
                named.entry(name.clone()).or_default().insert(*partition, seen);
            }
        }
        named
    }

    fn numbered_events(&self, named: &NamedEvents) -> Events {
        let mut events = Events::new();
        for (name, partitions) in named {
            let Some(at) = self.names.iter().position(|known| known == name) else { continue };
            for (partition, seen) in partitions {
                let seen = Seen { event_ns: seen.event_ns, read_ns: seen.read_ns };
                events.insert((engine_base::SourceId(at as u16), *partition), seen);
            }
        }
        events
    }

    fn numbered(&self, named: &Named) -> Cut {
        named
            .iter()
            .filter_map(|(name, marks)| {
                let at = self.names.iter().position(|known| known == name)?;
                let marks: Marks = marks
                    .iter()
                    .map(|(partition, mark)| (*partition, Mark { next: mark.next, detail: mark.detail.clone() }))
                    .collect();
                Some((engine_base::SourceId(at as u16), marks))
            })
            .collect()
    }
}

/// Refuses a source that may be one of the state's under another name: it would start from the beginning, and everything
/// would come twice. One that is gone, and in whose place nothing came, is only told of.
fn check_sources(stored: &Stored, names: &[String]) -> Result<(), String> {
    let known: Vec<&String> =
        stored.cut.iter().filter(|(_, marks)| marks.values().any(|mark| mark.next > 0)).map(|(name, _)| name).collect();
    let gone: Vec<&String> = known.iter().copied().filter(|known| !names.contains(known)).collect();
    let new: Vec<&String> = names.iter().filter(|name| !stored.cut.contains_key(*name)).collect();
    let listed = |names: &[&String]| names.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ");
    if gone.is_empty() {
        return Ok(());
    }
    if new.is_empty() {
        tracing::warn!("the state directory holds marks of {}, which the pipeline no longer has", listed(&gone));
        return Ok(());
    }
    Err(format!(
        "holds marks of the sources {}; the pipeline has no {}, and {} would start from the beginning: if it was renamed, \
         give it its old name back; if all is to start from the beginning, give another --state or delete this one",
        listed(&known),
        listed(&gone),
        listed(&new)
    ))
}

fn read(bytes: &[u8]) -> Result<Stored, String> {
    let stored: Stored = serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
    if stored.format != FORMAT {
        return Err(format!("it has format {}, this engine reads format {FORMAT}", stored.format));
    }
    Ok(stored)
}

/// Sources that can't be read again: what a restart would lose of them.
pub(crate) fn lossy_sources(plan: &Plan) -> Vec<&str> {
    plan.sources()
        .filter(|step| matches!(step.role, Role::Source { replayable: false, .. }))
        .map(|step| step.name.as_str())
        .collect()
}
