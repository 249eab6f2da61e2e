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
use engine_dataflow::{Cut, Mark, Marks};
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
pub(crate) fn move_on(cut: &mut Cut, later: &Cut) {
    for (source, marks) in later {
        let known = cut.entry(*source).or_default();
        known.extend(marks.iter().map(|(partition, mark)| (*partition, mark.clone())));
    }
}

/// What stands before both cuts: of the partitions that both know, the mark that comes first.
fn common(cut: &Cut, other: &Cut) -> Cut {
    let of = |(source, marks): (&SourceId, &Marks)| {
        let others = other.get(source)?;
        let earlier = |(partition, mark): (&u32, &Mark)| {
            let other = others.get(partition)?;
            Some((*partition, if other.next < mark.next { other.clone() } else { mark.clone() }))
        };
        Some((*source, marks.iter().filter_map(earlier).collect()))
    };
    cut.iter().filter_map(of).collect()
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

#[cfg(test)]
mod tests {
    use super::*;
    use engine_state::checkpoint::{CheckpointConfig, Checkpoints, MemoryEntries, Publication};
    use engine_state::disk::RealDisk;
    use std::sync::Arc;

    fn cut(marks: &[(u16, u32, u64)]) -> Cut {
        let mut cut = Cut::new();
        for (source, partition, next) in marks {
            let mark = Mark { next: *next, detail: String::new() };
            cut.entry(SourceId(*source)).or_default().insert(*partition, mark);
        }
        cut
    }

    #[test]
    fn what_two_cuts_have_in_common_is_what_both_have_passed() {
        let found =
            common(&cut(&[(0, 0, 5), (0, 1, 9), (1, 0, 3), (2, 7, 1)]), &cut(&[(0, 0, 7), (0, 1, 2), (2, 8, 1)]));
        assert_eq!(found, {
            let mut cut = cut(&[(0, 0, 5), (0, 1, 2)]);
            cut.insert(SourceId(2), Marks::new());
            cut
        });
    }

    /// Two of the newest are kept, and those with a savepoint.
    #[test]
    fn nothing_is_released_that_a_kept_checkpoint_reads() {
        let folder = tempfile::tempdir().unwrap();
        let entries = Arc::new(MemoryEntries::default());
        let (checkpoints, _) =
            Checkpoints::open(Arc::new(RealDisk), folder.path(), entries, CheckpointConfig::default()).unwrap();
        let sources = Sources(vec!["a".to_owned(), "b".to_owned()]);
        let publish = |epoch: u64, marks: &[(u16, u32, u64)]| {
            let kept = Kept { marks: sources.named(&cut(marks)), ..Kept::default() };
            let extra = serde_json::to_value(kept).unwrap();
            checkpoints.begin().unwrap().publish(Publication { epoch, extra, ..Publication::default() }).unwrap()
        };
        let released = || checkpointer::released(&checkpoints, &sources).unwrap();
        assert_eq!(released(), Cut::new());
        let first = publish(1, &[(0, 0, 5)]);
        assert_eq!(released(), cut(&[(0, 0, 5)]));
        // A source that is new is not in all of them.
        publish(2, &[(0, 0, 7), (1, 0, 3)]);
        assert_eq!(released(), cut(&[(0, 0, 5)]));
        checkpoints.save("before", first.checkpoint).unwrap();
        publish(3, &[(0, 0, 9), (1, 0, 4)]);
        assert_eq!(released(), cut(&[(0, 0, 5)]));
        assert!(checkpoints.release("before").unwrap());
        assert_eq!(released(), cut(&[(0, 0, 7), (1, 0, 3)]));
        publish(4, &[(0, 0, 9), (1, 0, 4)]);
        assert_eq!(released(), cut(&[(0, 0, 9), (1, 0, 4)]));
    }
}
