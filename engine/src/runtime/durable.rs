//! What lets a run be killed (architecture, decisions 7 and 9): the journal of commits, the checkpoints, and the way back.
//!
//! ```text
//!              progress: reached, done            batches
//! dataflow ─────────────▶ committer ─ journal ─▶ ─────────▶ sinks that deliver exactly once ─ delivered ─▶ committer
//!     │                      │ ledger: epochs, marks, sequences                                        (next record)
//!     └─ parts of a snapshot ─▶ checkpointer ─ LSM store, manifest ─▶ the journal is cut off before it
//! ```
//!
//! In the folder of a state:
//!
//! ```text
//! STATE/lock          held while an engine runs on it, with its process; a second one is refused
//! STATE/savepoint     the name of a savepoint that is asked for
//! STATE/pipeline.json whose state it is
//! STATE/journal/      a record for each commit
//! STATE/checkpoint/   manifests; STATE/checkpoint/entries/ the store that they speak of
//! STATE/errors.jsonl  error rows that no step reads
//! ```

mod change;
mod checkpointer;
mod committer;
mod ledger;
mod lock;
mod open;
#[cfg(test)]
pub(crate) mod planted;
mod record;
pub(crate) mod savepoint;
mod start;

pub(crate) use change::{Fate, fates};
pub(crate) use ledger::Kept;
pub(crate) use lock::{holder, lock};
pub(crate) use open::{Recovered, StateDir, lossy_sources, newest, read_journal, tail};
pub(crate) use start::{Parts, Running, assemble, begin, exact_sinks};
#[cfg(test)]
pub(crate) use {
    checkpointer::{Message, Waits},
    committer::Event,
    open::Ground,
    start::Works,
};

use engine_base::SourceId;
use engine_dataflow::{Cut, Mark};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Where partitions stand, by names of sources: identity goes by names, not by their order in the file.
pub(crate) type NamedCut = BTreeMap<String, BTreeMap<u32, StoredMark>>;

/// A mark as it is written down.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct StoredMark {
    pub(crate) next: u64,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub(crate) detail: String,
}

/// The names of the sources of a plan, by their numbers.
#[derive(Clone, Debug)]
pub(crate) struct Sources(Vec<String>);

impl Sources {
    pub(crate) fn of(plan: &engine_plan::Plan) -> Sources {
        Sources(plan.sources().map(|step| step.name.clone()).collect())
    }

    fn len(&self) -> usize {
        self.0.len()
    }

    fn name(&self, source: SourceId) -> &str {
        self.0.get(usize::from(source.0)).map_or("", String::as_str)
    }

    fn id(&self, name: &str) -> Option<SourceId> {
        self.0.iter().position(|known| known == name).map(|at| SourceId(at as u16))
    }

    fn named(&self, cut: &Cut) -> NamedCut {
        let mark = |(partition, mark): (&u32, &Mark)| {
            (*partition, StoredMark { next: mark.next, detail: mark.detail.clone() })
        };
        cut.iter().map(|(source, marks)| (self.name(*source).to_owned(), marks.iter().map(mark).collect())).collect()
    }

    fn numbered(&self, named: &NamedCut) -> Cut {
        let mark = |(partition, mark): (&u32, &StoredMark)| {
            (*partition, Mark { next: mark.next, detail: mark.detail.clone() })
        };
        let of = named.iter().filter_map(|(name, marks)| Some((self.id(name)?, marks.iter().map(mark).collect())));
        of.collect()
    }
}

/// Puts marks in the place of those that are known.
fn move_on(cut: &mut Cut, later: &Cut) {
    for (source, marks) in later {
        let known = cut.entry(*source).or_default();
        known.extend(marks.iter().map(|(partition, mark)| (*partition, mark.clone())));
    }
}

/// Takes over what connectors need to seek to marks that are known without it.
fn fill(cut: &mut Cut, with: &Cut) {
    for (source, marks) in with {
        let Some(known) = cut.get_mut(source) else { continue };
        for (partition, mark) in marks {
            if let Some(known) = known.get_mut(partition).filter(|known| known.next == mark.next) {
                known.detail.clone_from(&mark.detail);
            }
        }
    }
}
