//! What the committer knows and a checkpoint needs: which epochs are committed, and what each brought.

#[cfg(test)]
use super::planted;
use super::{NamedCut, Sources, fill, move_on};
use engine_base::SourceId;
use engine_connectors::Delivered;
use engine_dataflow::Cut;
use engine_dataflow::watermark::{Standing, Statement};
use engine_state::checkpoint::Manifest;
use engine_state::journal::Sequence;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, VecDeque};

/// What a manifest keeps beside the contents of the store.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Kept {
    /// The digest of the plan that wrote it.
    pub(crate) plan: String,
    /// Where each partition stands.
    pub(crate) marks: NamedCut,
    /// Where each source stands in event time, and the clock.
    pub(crate) standings: BTreeMap<String, (Standing, i64)>,
    /// The event time that each partition has reached, nanoseconds since 1970 UTC.
    pub(crate) reached_ns: BTreeMap<String, BTreeMap<u32, i64>>,
    /// The watermarks that the inputs of each step have reached.
    pub(crate) watermarks_ns: BTreeMap<String, Vec<Option<i64>>>,
    /// The last batch that each sink has delivered.
    pub(crate) delivered: BTreeMap<String, Delivered>,
    /// The number of the last batch of each sink.
    pub(crate) sequences: BTreeMap<String, u64>,
    /// The chunks of the logged inputs of steps on differential dataflow.
    pub(crate) inputs: BTreeMap<String, Chunks>,
}

impl Kept {
    /// What a manifest keeps.
    pub(crate) fn of(manifest: &Manifest) -> Result<Kept, String> {
        serde_json::from_value(manifest.extra.clone())
            .map_err(|error| format!("checkpoint {} can't be read: {error}", manifest.checkpoint))
    }
}

/// The chunks of a logged input.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Chunks {
    /// The number of the first.
    pub(crate) first: u64,
    /// The number that the next one gets.
    pub(crate) next: u64,
    /// How many rows they hold, those that take others back too.
    pub(crate) rows: u64,
    /// How many are left of them.
    pub(crate) net: i64,
}

/// An epoch that is committed, and not in a checkpoint.
struct Epoch {
    number: u64,
    cut: Cut,
    times: Vec<Statement>,
}

/// A record of the journal since the last checkpoint.
struct Written {
    record: Sequence,
    /// The last epoch that it commits.
    upto: u64,
    /// The batches that it holds.
    staged: Vec<(String, u64)>,
}

/// Shared by the committer, which writes it, and the checkpointer.
pub(super) struct Ledger {
    sources: Sources,
    /// At the last checkpoint.
    marks: Cut,
    standings: BTreeMap<SourceId, (Standing, i64)>,
    epochs: VecDeque<Epoch>,
    records: VecDeque<Written>,
    /// The number of the next record.
    pub(super) next_record: Sequence,
    pub(super) committed: u64,
    pub(super) delivered: BTreeMap<String, Delivered>,
    pub(super) sequences: BTreeMap<String, u64>,
    /// Records before this one are not needed any more.
    pub(super) needless: Option<Sequence>,
    /// The committer has failed.
    pub(super) failed: bool,
    /// Nothing more will be committed.
    pub(super) over: bool,
}

/// Where a checkpoint stands.
pub(super) struct Place {
    pub(super) record: Sequence,
    marks: Cut,
    standings: BTreeMap<SourceId, (Standing, i64)>,
}

impl Ledger {
    pub(super) fn new(sources: Sources, marks: Cut, committed: u64, next_record: Sequence) -> Ledger {
        Ledger {
            sources,
            marks,
            standings: BTreeMap::new(),
            epochs: VecDeque::new(),
            records: VecDeque::new(),
            next_record,
            committed,
            delivered: BTreeMap::new(),
            sequences: BTreeMap::new(),
            needless: None,
            failed: false,
            over: false,
        }
    }

    /// Partitions are seen for the first time.
    pub(super) fn starts(&mut self, starts: &Cut) {
        for (source, marks) in starts {
            let known = self.marks.entry(*source).or_default();
            for (partition, mark) in marks {
                known.entry(*partition).or_insert_with(|| mark.clone());
            }
        }
    }

    /// An epoch has closed.
    pub(super) fn closes(&mut self, number: u64, cut: Cut, times: Vec<Statement>) {
        self.epochs.push_back(Epoch { number, cut, times });
    }

    /// What connectors need to seek to these marks.
    pub(super) fn details(&mut self, cut: &Cut) {
        self.epochs.iter_mut().for_each(|passed| fill(&mut passed.cut, cut));
        fill(&mut self.marks, cut);
    }

    /// A record is durable.
    pub(super) fn records(&mut self, record: Sequence, upto: u64, staged: Vec<(String, u64)>) {
        self.records.push_back(Written { record, upto, staged });
        self.next_record = Sequence(record.0 + 1);
    }

    /// Whether nothing is behind the last checkpoint.
    pub(super) fn is_empty(&self) -> bool {
        self.epochs.is_empty() && self.records.is_empty()
    }

    /// Where a checkpoint after an epoch stands.
    pub(super) fn place(&self, epoch: u64) -> Place {
        // A batch that is delivered is needed until that is noted: the sink must be told where it stands.
        let is_out = |(sink, sequence): &(String, u64)| {
            self.delivered.get(sink).is_some_and(|delivered| delivered.sequence >= *sequence)
        };
        #[cfg(test)]
        let is_out = |batch: &(String, u64)| is_out(batch) || planted::is(planted::Planted::ForgetDelivered);
        let is_needed = |written: &&Written| written.upto > epoch || !written.staged.iter().all(is_out);
        let mut place = Place {
            record: self.records.iter().find(is_needed).map_or(self.next_record, |written| written.record),
            marks: self.marks.clone(),
            standings: self.standings.clone(),
        };
        for passed in self.epochs.iter().take_while(|passed| passed.number <= epoch) {
            move_on(&mut place.marks, &passed.cut);
            for said in &passed.times {
                place.standings.insert(SourceId(said.source), (said.standing, said.clock_ns));
            }
        }
        place
    }

    /// A checkpoint stands there: what was before is not needed.
    pub(super) fn checkpointed(&mut self, epoch: u64, place: Place) {
        self.epochs.retain(|passed| passed.number > epoch);
        self.records.retain(|written| written.record >= place.record);
        (self.marks, self.standings) = (place.marks, place.standings);
    }

    /// What the manifest of a checkpoint there keeps.
    pub(super) fn kept(&self, place: &Place) -> Kept {
        let named =
            |(source, standing): (&SourceId, &(Standing, i64))| (self.sources.name(*source).to_owned(), *standing);
        Kept {
            marks: self.sources.named(&place.marks),
            standings: place.standings.iter().map(named).collect(),
            delivered: self.delivered.clone(),
            sequences: self.sequences.clone(),
            ..Kept::default()
        }
    }

    /// Records from this one on are replayed.
    pub(super) fn replayed(&mut self, record: Sequence, upto: u64, staged: Vec<(String, u64)>) {
        self.records.push_back(Written { record, upto, staged });
    }

    pub(super) fn stands(&mut self, standings: BTreeMap<SourceId, (Standing, i64)>) {
        self.standings = standings;
    }
}
