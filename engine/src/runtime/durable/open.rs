//! Opening the folder of a state, and what a run that goes on needs of it.

use super::change::{Change, Fate, abouts, fates};
use super::checkpointer::{Checkpointer, HeldEntries, hash_of, input_name, read_chunk, released, told};
use super::committer::Committer;
use super::ledger::{Kept, Ledger};
use super::lock::{lock, sign};
#[cfg(test)]
use super::planted;
use super::record::Record;
use super::start::exact_sinks;
use super::{NamedCut, Sources, move_on, savepoint};
use engine_base::{Clock, Epoch, SourceId};
use engine_connectors::{Delivered, Exact};
use engine_dataflow::changes::KeptInputs;
use engine_dataflow::cuts::{Check, Offsets, Together};
use engine_dataflow::exchange::groups_of;
use engine_dataflow::ingest::Committed;
use engine_dataflow::snapshot::Snapshots;
use engine_dataflow::stage::{Batch, OnDelivered, Outbox};
use engine_dataflow::watermark::{Standing, Statement};
use engine_dataflow::{Control, Cut, CutBoard, RecordedCuts, Rows, StepState, wire};
use engine_plan::{Plan, Role};
use engine_state::checkpoint::{
    CheckpointConfig, Checkpoints, EntryKey, EntryStore, LsmEntries, Manifest, Space, inspect,
};
use engine_state::disk::{Disk, RealDisk};
use engine_state::journal::{Journal, JournalConfig, Replay, Sequence, survey};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::fs::File;
use std::io;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

/// The format of the folder.
const FORMAT: u32 = 3;

/// `pipeline.json`
#[derive(Debug, Serialize, Deserialize)]
struct Whose {
    format: u32,
    pipeline: String,
}

/// What a state directory lies on.
pub(crate) struct Ground {
    pub(crate) disk: Arc<dyn Disk>,
    /// Opens the store of the checkpoints' entries in the folder of the checkpoints.
    pub(crate) entries: OpenEntries,
    /// How a new journal is made.
    pub(crate) journal: JournalConfig,
}

/// Opens a store of entries in a folder.
pub(crate) type OpenEntries = Box<dyn FnOnce(&Path) -> engine_state::Result<Arc<dyn EntryStore>>>;

/// An open state directory.
pub(crate) struct StateDir {
    path: PathBuf,
    /// Locked while it is open.
    lock: Option<File>,
    disk: Arc<dyn Disk>,
    journal: Journal,
    journal_id: u64,
    checkpoints: Checkpoints,
    manifest: Option<Arc<Manifest>>,
    kept: Kept,
    held: Arc<Mutex<HeldEntries>>,
    begun: bool,
}

/// What a run goes on from.
#[derive(Default)]
pub(crate) struct Recovered {
    /// Where sources start.
    pub(crate) from: Cut,
    /// The cuts of the tail that is replayed.
    pub(crate) tail: RecordedCuts,
    /// The last epoch that is committed.
    pub(crate) committed: Option<u64>,
    /// The last epoch that every sink has acknowledged.
    pub(crate) done: Option<u64>,
    /// What each sink that delivers exactly once goes on from.
    pub(crate) exact: HashMap<String, Exact>,
    /// Batches that are committed and perhaps not delivered.
    outstanding: HashMap<String, Vec<Batch>>,
    /// Rows that came out of the error outputs of sinks in the tail.
    pub(crate) failed: HashMap<String, Vec<(u64, Rows)>>,
    /// Event times and watermarks at the checkpoint.
    kept: Kept,
    standings: BTreeMap<SourceId, (Standing, i64)>,
    state: Option<(Checkpoints, Arc<Manifest>, Arc<Mutex<HeldEntries>>)>,
}

/// The newest checkpoint of a state directory, which is only read, and what it keeps.
pub(crate) fn newest(path: &Path, plan: &Plan) -> Result<Option<(Manifest, Kept)>, String> {
    if !check_whose(&RealDisk, path, plan)? {
        return Err(format!("{} is no state directory: it has no pipeline.json", path.display()));
    }
    let found = inspect(&RealDisk, &path.join("checkpoint")).map_err(told)?;
    let Some(manifest) = found.retained.last() else { return Ok(None) };
    Ok(Some((Manifest::clone(manifest), Kept::of(manifest)?)))
}

/// How many epochs are to be replayed by the pipeline as it was, behind the newest checkpoint of a state directory.
pub(crate) fn tail(path: &Path, plan: &Plan, newest: Option<(Manifest, Kept)>) -> Result<Option<usize>, String> {
    let (epoch, sequence) = newest.as_ref().map_or((0, 0), |(manifest, _)| (manifest.epoch, manifest.journal_sequence));
    let mut others = Others::default();
    let mut epochs = 0;
    let folder = path.join("journal");
    let found = survey(Arc::new(RealDisk), &folder).map_err(told)?;
    let first = Sequence(sequence).max(found.first().unwrap_or_default());
    for record in records(found.replay(first), path)? {
        let record = record?;
        others.see(&record, epoch, plan);
        epochs += record.epochs.iter().filter(|passed| passed.epoch > epoch).count();
    }
    let is_changed = newest.is_some_and(|(_, kept)| kept.plan != plan.logic) || others.is_any;
    Ok((is_changed && epochs > 0).then_some(epochs))
}

impl StateDir {
    /// Opens or makes the directory and takes its lock.
    pub(crate) fn open(path: &Path, plan: &Plan) -> Result<StateDir, String> {
        let shown = path.display();
        RealDisk.create_dir_all(path).map_err(|error| format!("the state directory {shown} can't be made: {error}"))?;
        let mut lock = lock(path)?;
        // One that nobody got is not for this run.
        savepoint::take_back(&RealDisk, path)?;
        sign(&mut lock).map_err(|error| format!("{shown}/lock can't be written: {error}"))?;
        let ground = Ground {
            disk: Arc::new(RealDisk),
            entries: Box::new(|folder| Ok(Arc::new(LsmEntries::open(&folder.join("entries"))?))),
            journal: JournalConfig { id: new_journal_id(), ..JournalConfig::default() },
        };
        Ok(StateDir { lock: Some(lock), ..StateDir::open_on(ground, path, plan)? })
    }

    /// Opens or makes the directory on a disk, without a lock.
    pub(crate) fn open_on(ground: Ground, path: &Path, plan: &Plan) -> Result<StateDir, String> {
        let shown = path.display();
        let Ground { disk, entries, journal: config } = ground;
        let begun = check_whose(&*disk, path, plan)?;
        let (journal, opened) = Journal::open(disk.clone(), &path.join("journal"), config).map_err(told)?;
        if let Some(torn) = &opened.torn {
            tracing::info!("the end of the journal was half written when the last run ended, and is cut off: {torn:?}");
        }
        let folder = path.join("checkpoint");
        disk.create_dir_all(&folder).map_err(|error| format!("{} can't be made: {error}", folder.display()))?;
        let entries = entries(&folder).map_err(told)?;
        let (checkpoints, report) =
            Checkpoints::open(disk.clone(), &folder, entries, CheckpointConfig::default()).map_err(told)?;
        for refused in &report.refused {
            tracing::warn!("the checkpoint {} is not used: {}", refused.path.display(), refused.why);
        }
        let manifest = checkpoints.newest();
        let kept = match &manifest {
            Some(manifest) => {
                Kept::of(manifest).map_err(|problem| format!("the state directory {shown}: {problem}"))?
            }
            None => Kept::default(),
        };
        let journal_id = journal.id();
        if let Some(manifest) = manifest.as_ref().filter(|manifest| manifest.journal_id != journal_id) {
            return Err(format!(
                "the journal in {shown} is not the one that checkpoint {} was made with: one of the two was replaced; \
                 put both back from the same copy, or give another --state",
                manifest.checkpoint
            ));
        }
        let held = Arc::default();
        Ok(StateDir {
            path: path.to_owned(),
            lock: None,
            disk,
            journal,
            journal_id,
            checkpoints,
            manifest,
            kept,
            held,
            begun,
        })
    }

    /// Whether a former run has begun with it.
    pub(crate) fn begun(&self) -> bool {
        self.begun
    }

    /// Where error rows go.
    pub(crate) fn errors_path(&self) -> PathBuf {
        self.path.join("errors.jsonl")
    }

    /// Notes that a run has begun, and the notes of sinks before their first batch. Called when the sinks are open and nothing is
    /// written yet.
    pub(crate) fn begin(&mut self, plan: &Plan, first: &BTreeMap<String, Delivered>) -> Result<(), String> {
        let path = self.path.clone();
        let failed = |error: String| format!("the state directory {} can't be written: {error}", path.display());
        // The journal says as well that it went back: no checkpoint of before is started from then.
        let went_back = self
            .manifest
            .as_ref()
            .is_some_and(|manifest| manifest.timeline > 0 && manifest.journal_sequence == self.journal.next().0);
        if !first.is_empty() || went_back {
            let mut record = Record { delivered: first.clone(), timeline: self.timeline(), ..Record::default() };
            let bytes = record.encode().map_err(failed)?;
            let written = self.journal.append(&bytes).and_then(|_| self.journal.sync());
            written.map_err(|error| failed(error.to_string()))?;
        }
        if self.begun {
            return Ok(());
        }
        let whose = Whose { format: FORMAT, pipeline: plan.name.clone() };
        let text = serde_json::to_vec(&whose).map_err(|error| failed(error.to_string()))?;
        let path = self.path.join("pipeline.json");
        #[cfg(test)]
        if planted::is(planted::Planted::WriteInPlace) {
            let written = self.disk.create(&path).and_then(|mut file| file.append(&text));
            let written = written.and_then(|()| self.disk.sync_dir(&self.path));
            return written.map_err(|error| failed(error.to_string()));
        }
        engine_state::disk::write_atomically(&*self.disk, &path, &text).map_err(|error| failed(error.to_string()))
    }

    /// What a run goes on from. A pipeline that changed changes the state first, where it can.
    pub(crate) fn recover(&mut self, plan: &Plan, rebuild: &[String]) -> Result<Recovered, String> {
        let fates = fates(plan, self.manifest.as_deref());
        if let Some(name) = rebuild.iter().find(|name| !fates.contains_key(*name)) {
            return Err(format!(
                "--rebuild {name}: no step of that name keeps anything, now or in the state directory {}",
                self.path.display()
            ));
        }
        let shown = self.path.display();
        let sources = Sources::of(plan);
        let (mut base, mut from_record) = (0, self.journal.first());
        let mut recovered = Recovered::default();
        let mut delivered = self.kept.delivered.clone();
        let mut sequences = self.kept.sequences.clone();
        if let Some(manifest) = &self.manifest {
            base = manifest.epoch;
            from_record = Sequence(manifest.journal_sequence);
            recovered.from = sources.numbered(&self.kept.marks);
            recovered.committed = Some(base);
            recovered.done = Some(base);
            recovered.state = Some((self.checkpoints.clone(), manifest.clone(), self.held.clone()));
        } else if from_record.0 > 0 {
            return Err(format!(
                "the journal in {shown} begins behind a checkpoint, and there is none: its folder `checkpoint` was emptied or \
                 replaced; put it back from a copy, or start from the beginning with another --state"
            ));
        }
        let mut others = Others::default();
        let mut starts = NamedCut::new();
        let mut staged = Vec::new();
        for record in records(self.journal.replay(from_record), &self.path)? {
            let record = record?;
            self.check_timeline(&record)?;
            others.see(&record, base, plan);
            starts.extend(record.starts.clone());
            for (source, marks) in sources.numbered(&record.starts) {
                let known = recovered.from.entry(source).or_default();
                for (partition, mark) in marks {
                    known.entry(partition).or_insert(mark);
                }
            }
            for epoch in &record.epochs {
                if epoch.epoch > base {
                    add_epoch(&mut recovered.tail, epoch, &sources);
                }
            }
            if record.upto > base {
                recovered.committed = recovered.committed.max(Some(record.upto));
            }
            if record.done.is_some_and(|done| done > base) {
                recovered.done = recovered.done.max(record.done);
            }
            for staged in &record.staged {
                sequences.insert(staged.sink.clone(), staged.sequence);
            }
            for failed in &record.failed {
                if failed.epoch > base {
                    let rows = wire::from_bytes(&failed.rows)?;
                    recovered.failed.entry(failed.sink.clone()).or_default().push((failed.epoch, rows));
                }
            }
            staged.extend(record.staged);
            delivered.extend(record.delivered);
        }
        for staged in staged {
            if delivered.get(&staged.sink).is_none_or(|last| last.sequence < staged.sequence) {
                let rows = wire::from_bytes(&staged.rows)?;
                let batch = Batch { sequence: staged.sequence, epoch: staged.epoch, rows };
                recovered.outstanding.entry(staged.sink).or_default().push(batch);
            }
        }
        let is_changed = self.manifest.is_some() && self.kept.plan != plan.logic;
        if is_changed || others.is_any {
            self.check_changed(others.epochs, &recovered, &fates, rebuild)?;
        }
        if let Some(sink) = recovered.outstanding.keys().find(|sink| !exact_sinks(plan).any(|step| step.name == **sink))
        {
            return Err(format!(
                "the state directory {shown} has output that is committed and not delivered for the sink `{sink}`, which the \
                 pipeline no longer has, or no longer with `delivery: exactly_once`: run the pipeline as it was until that is out"
            ));
        }
        if let (true, Some(manifest)) = (is_changed, &self.manifest) {
            let change = Change {
                plan,
                checkpoints: &self.checkpoints,
                manifest,
                kept: self.kept.clone(),
                starts,
                delivered,
                sequences,
                next_record: self.journal.next().0,
                time_ns: engine_base::SystemClock::shared().now_ns(),
            };
            let (manifest, kept) = change.publish(&fates)?;
            (self.manifest, self.kept) = (Some(manifest), kept);
            // It is not another one any more, and nothing is left of the journal.
            return self.recover(plan, &[]);
        }
        check_sources(&self.kept, &sources).map_err(|problem| format!("the state directory {shown} {problem}"))?;
        for step in exact_sinks(plan) {
            let exact = Exact {
                pipeline: plan.name.as_str().into(),
                delivered: delivered.get(&step.name).cloned(),
                last: sequences.get(&step.name).copied().unwrap_or(0),
                reset: false,
            };
            recovered.exact.insert(step.name.clone(), exact);
        }
        for (name, standing) in &self.kept.standings {
            if let Some(source) = sources.id(name) {
                recovered.standings.insert(source, *standing);
            }
        }
        // The first epoch that is replayed hears of all that was stated before.
        if let Some((first, _)) = recovered.tail.epochs.first() {
            let times = recovered.tail.times.entry(first.0).or_default();
            for (source, (standing, clock_ns)) in &recovered.standings {
                if !times.iter().any(|said| said.source == source.0) {
                    times.push(Statement { worker: 0, source: source.0, standing: *standing, clock_ns: *clock_ns });
                }
            }
        }
        recovered.kept = self.kept.clone();
        Ok(recovered)
    }

    /// Refuses what was read in a time that was gone back from.
    fn check_timeline(&self, record: &Record) -> Result<(), String> {
        let ours = self.timeline();
        if record.timeline == ours {
            return Ok(());
        }
        let checkpoint = self.manifest.as_ref().map_or(0, |manifest| manifest.checkpoint);
        Err(format!(
            "the state directory {} went back to a savepoint, and checkpoint {checkpoint} is of another time than the journal behind it: \
             the checkpoint that belongs to it is lost or damaged; put it back from a copy, or go back with `engine state restore`",
            self.path.display()
        ))
    }

    fn timeline(&self) -> u64 {
        self.manifest.as_ref().map_or(0, |manifest| manifest.timeline)
    }

    /// Whether a pipeline that changed can go on from here. `rebuild` are steps whose state may go.
    fn check_changed(
        &self,
        epochs: usize,
        recovered: &Recovered,
        fates: &BTreeMap<String, Fate>,
        rebuild: &[String],
    ) -> Result<(), String> {
        let shown = self.path.display();
        let left = match (recovered.tail.epochs.len().max(epochs), recovered.outstanding()) {
            (0, 0) => None,
            (0, rows) => Some(format!("{rows} rows of what it committed are still to be delivered")),
            (epochs, _) => {
                Some(format!("{epochs} epochs since the last checkpoint are to be replayed with what wrote them"))
            }
        };
        if let Some(left) = left {
            return Err(format!(
                "the pipeline changed, and in {shown} {left}: run it once more as it was, and stop it with a signal; then start \
                 the changed one"
            ));
        }
        for (name, fate) in fates {
            let what = match fate {
                Fate::Keep(_) | Fate::Migrate(..) | Fate::New => continue,
                _ if rebuild.contains(name) => continue,
                Fate::Changed => "which is another one now",
                Fate::Gone => "which the pipeline no longer has",
            };
            return Err(format!(
                "the state directory {shown} has state of the step `{name}`, {what}: change it back, let the state of the step go \
                 with --rebuild {name} (it begins with nothing), or give the pipeline another --state; `engine plan` compares the \
                 two",
            ));
        }
        Ok(())
    }

    /// The threads that make the run durable: their work, to be run on them.
    pub(super) fn threads(self, parts: Threads<'_>, recovered: &Recovered) -> (Committer, Checkpointer, Closing) {
        let sources = Sources::of(parts.plan);
        let committed = recovered.committed.unwrap_or(0);
        let mut ledger = Ledger::new(sources.clone(), recovered.from.clone(), committed, self.journal.next());
        ledger.stands(recovered.standings.clone());
        // The tail is not in the checkpoint.
        let mut done_cut = recovered.from.clone();
        let mut not_done = VecDeque::new();
        let base = self.manifest.as_ref().map_or(0, |manifest| manifest.epoch);
        let first_record = self.manifest.as_ref().map_or(self.journal.first(), |m| Sequence(m.journal_sequence));
        for (epoch, offsets) in &recovered.tail.epochs {
            let cut = cut_of(offsets);
            let times = recovered.tail.times.get(&epoch.0).cloned().unwrap_or_default();
            if recovered.done >= Some(epoch.0) {
                move_on(&mut done_cut, &cut);
            } else {
                not_done.push_back((epoch.0, cut.clone()));
            }
            ledger.closes(epoch.0, cut, times);
        }
        let timeline = self.timeline();
        let outstanding = parts.outstanding.clone();
        if committed > base || !outstanding.is_empty() {
            ledger.replayed(first_record, committed, outstanding);
        }
        ledger.delivered =
            recovered.exact.iter().filter_map(|(n, e)| Some((n.clone(), e.delivered.clone()?))).collect();
        ledger.sequences = recovered.exact.iter().map(|(name, exact)| (name.clone(), exact.last)).collect();
        let ledger = Arc::new(Mutex::new(ledger));
        let closing = Closing {
            path: self.path,
            disk: self.disk,
            checkpoints: self.checkpoints.clone(),
            ledger: ledger.clone(),
            _lock: self.lock,
        };
        match released(&self.checkpoints, &sources) {
            Ok(released) => parts.committed.resume(done_cut.clone(), released),
            Err(reason) => parts.control.fail(reason),
        }
        let checkpointer = Checkpointer {
            checkpoints: self.checkpoints,
            ledger: ledger.clone(),
            snapshots: parts.snapshots,
            control: parts.control.clone(),
            sources: sources.clone(),
            committed: parts.committed.clone(),
            workers: parts.workers,
            every_ns: parts.plan.checkpoint_ns.max(1) as u64,
            journal_id: self.journal_id,
            plan: parts.plan.logic.clone(),
            abouts: abouts(parts.plan),
            held: self.held,
            kept: self.kept,
            later: Vec::new(),
            last_ns: parts.clock.monotonic_ns(),
            last_epoch: committed,
            open: None,
            clock: parts.clock.clone(),
        };
        let together = Together::new(sources.len(), parts.workers);
        let committer = Committer {
            journal: self.journal,
            ledger,
            sources,
            board: parts.board,
            control: parts.control,
            committed: parts.committed,
            outboxes: parts.outboxes,
            every_ns: parts.plan.commit_ns.max(1) as u64,
            clock: parts.clock,
            last_ns: None,
            progress: None,
            together,
            plan: Some(parts.plan.logic.clone()),
            timeline,
            upto: committed,
            done: recovered.done.unwrap_or(0),
            done_cut,
            not_done,
            waiting: Vec::new(),
        };
        (committer, checkpointer, closing)
    }
}

/// Held until the run is over.
pub(crate) struct Closing {
    path: PathBuf,
    disk: Arc<dyn Disk>,
    checkpoints: Checkpoints,
    ledger: Arc<Mutex<Ledger>>,
    _lock: Option<File>,
}

impl Closing {
    /// Makes the savepoint that was asked for. Called when all is written, and the run was stopped in order.
    pub(super) fn grant_savepoint(&self) -> Result<(), String> {
        let is_whole = self.ledger.lock().unwrap_or_else(PoisonError::into_inner).is_empty();
        if is_whole { savepoint::grant(&*self.disk, &self.path, &self.checkpoints) } else { Ok(()) }
    }
}

/// What the threads share with the dataflow.
pub(super) struct Threads<'a> {
    pub(super) plan: &'a Plan,
    pub(super) workers: usize,
    pub(super) board: Arc<CutBoard>,
    pub(super) control: Arc<Control>,
    pub(super) committed: Arc<Committed>,
    pub(super) snapshots: Arc<Snapshots>,
    pub(super) outboxes: Vec<(String, Arc<Outbox>)>,
    /// The batches of a former run that are perhaps not delivered: their sinks and sequences.
    pub(super) outstanding: Vec<(String, u64)>,
    pub(super) clock: Arc<dyn Clock>,
}

impl Recovered {
    /// The first epoch of what is new.
    pub(crate) fn first(&self) -> u64 {
        self.committed.map_or(1, |committed| committed + 1)
    }

    /// The outbox of a sink that delivers exactly once, with what is still to be brought out.
    pub(super) fn outbox(&mut self, sink: &str, delivered: OnDelivered) -> Arc<Outbox> {
        let committed = self.committed;
        #[cfg(test)]
        let committed = committed.filter(|_| !planted::is(planted::Planted::SkipReplayDrop));
        let outbox = Outbox::new(committed, delivered);
        for batch in self.outstanding.remove(sink).unwrap_or_default() {
            outbox.deliver_again(batch);
        }
        Arc::new(outbox)
    }

    /// The batches that are committed and perhaps not delivered: their sinks and sequences.
    pub(super) fn batches(&self) -> Vec<(String, u64)> {
        let of = |(sink, batches): (&String, &Vec<Batch>)| {
            batches.iter().map(|batch| (sink.clone(), batch.sequence)).collect::<Vec<_>>()
        };
        self.outstanding.iter().flat_map(of).collect()
    }

    /// How many rows are committed and perhaps not delivered.
    pub(crate) fn outstanding(&self) -> usize {
        self.outstanding.values().flatten().map(|batch| batch.rows.num_rows()).sum()
    }

    /// Bytes of the checkpoint that it goes on from.
    pub(crate) fn bytes(&self) -> Option<u64> {
        self.state.as_ref().map(|(_, manifest, _)| manifest.contents().bytes)
    }

    /// The event times that the partitions of a source had reached.
    pub(crate) fn reached_ns(&self, source: &str) -> BTreeMap<u32, i64> {
        self.kept.reached_ns.get(source).cloned().unwrap_or_default()
    }

    /// The watermarks that the inputs of a step had reached.
    pub(crate) fn watermarks_ns(&self, step: &str) -> Vec<Option<i64>> {
        #[cfg(test)]
        if planted::is(planted::Planted::ForgetWatermark) {
            return Vec::new();
        }
        let reached = self.kept.watermarks_ns.get(step).into_iter().flatten();
        // An input that had ended may have more now: a file that grew. Its rows are not late for that.
        reached.map(|reached_ns| reached_ns.filter(|reached_ns| *reached_ns < i64::MAX)).collect()
    }

    /// Puts back the state of a step on a worker.
    pub(crate) fn restore(
        &self,
        step: &str,
        worker: usize,
        workers: usize,
        state: &mut dyn StepState,
    ) -> Result<(), String> {
        let Some((checkpoints, manifest, all_held)) = &self.state else { return Ok(()) };
        let Some(id) = manifest.step(step) else { return Ok(()) };
        let groups = groups_of(worker, workers);
        if groups.is_empty() {
            return Ok(());
        }
        let mut held = Vec::new();
        let mut problem = None;
        let visit = &mut |key: EntryKey<'_>, value: &[u8]| {
            let put = state.restore(key.key, key.slice, value);
            match put.and_then(|()| Checkpoints::held(&key, value).map_err(told)) {
                Ok(of) => held.push((hash_of(&key), of)),
                Err(reason) => {
                    problem = Some(reason);
                    return ControlFlow::Break(());
                }
            }
            ControlFlow::Continue(())
        };
        checkpoints.load(manifest, Space::SLOTS, id, groups.start..=groups.end - 1, visit).map_err(told)?;
        all_held.lock().unwrap_or_else(PoisonError::into_inner).extend(held);
        problem.map_or(Ok(()), |reason| {
            Err(format!("its state in checkpoint {} can't be read: {reason}", manifest.checkpoint))
        })
    }

    /// The rows that a worker puts back into the inputs of a step on differential dataflow.
    pub(crate) fn inputs(
        &self,
        step: &str,
        inputs: usize,
        worker: usize,
        workers: usize,
    ) -> Result<KeptInputs, String> {
        let mut all: KeptInputs = vec![Vec::new(); inputs];
        let Some((checkpoints, manifest, _)) = &self.state else { return Ok(all) };
        let Some(id) = manifest.step(step) else { return Ok(all) };
        let groups = groups_of(worker, workers);
        if groups.is_empty() || !(0..inputs).any(|at| self.kept.inputs.contains_key(&input_name(step, at as u16))) {
            return Ok(all);
        }
        let mut problem = None;
        let visit = &mut |key: EntryKey<'_>, value: &[u8]| {
            let input = usize::try_from(key.slice).ok().and_then(|at| all.get_mut(at));
            let read = match input {
                Some(rows) => read_chunk(value, &mut |row, diff| rows.push((row.to_vec(), diff))),
                None => Err(format!("it has no input {}", key.slice)),
            };
            match read {
                Ok(()) => ControlFlow::Continue(()),
                Err(reason) => {
                    problem = Some(reason);
                    ControlFlow::Break(())
                }
            }
        };
        checkpoints.load(manifest, Space::INPUTS, id, groups.start..=groups.end - 1, visit).map_err(told)?;
        problem.map_or(Ok(all), Err)
    }
}

/// Reads all records of a journal from one on. How many there are.
pub(crate) fn read_journal(path: &Path, from: u64) -> Result<u64, String> {
    let (journal, _) =
        Journal::open(Arc::new(RealDisk), &path.join("journal"), JournalConfig::default()).map_err(told)?;
    let mut count = 0;
    for record in records(journal.replay(Sequence(from).max(journal.first())), path)? {
        record?;
        count += 1;
    }
    Ok(count)
}

/// Marks a new journal.
pub(super) fn new_journal_id() -> u64 {
    rand::random::<u64>() >> 1
}

/// The commits in the journal of a state directory.
pub(super) fn records(
    replay: engine_state::Result<Replay>,
    path: &Path,
) -> Result<impl Iterator<Item = Result<Record, String>>, String> {
    let shown = path.display();
    Ok(replay.map_err(told)?.map(move |record| {
        let record = record.map_err(told)?;
        Record::decode(&record.payload)
            .map_err(|reason| format!("record {} of the journal in {shown} can't be read: {reason}", record.sequence.0))
    }))
}

/// Whether a former run has begun with the folder. Refuses one of another pipeline, or of another engine.
fn check_whose(disk: &dyn Disk, path: &Path, plan: &Plan) -> Result<bool, String> {
    let Some(pipeline) = whose(disk, path)? else { return Ok(false) };
    if pipeline == plan.name {
        return Ok(true);
    }
    Err(format!(
        "the state directory {} is that of pipeline `{pipeline}`, not of `{}`; give another --state",
        path.display(),
        plan.name
    ))
}

/// The pipeline whose state a folder has, `None` if it has none. Refuses one of another engine.
pub(super) fn whose(disk: &dyn Disk, path: &Path) -> Result<Option<String>, String> {
    let shown = path.display();
    if disk.len(&path.join("cut.json")).is_ok() {
        return Err(format!(
            "the state directory {shown} was made by an earlier version of the engine, which kept no checkpoints; give another \
             --state, or move its files away to start from the beginning"
        ));
    }
    let found = match disk.read(&path.join("pipeline.json")) {
        Ok(found) => found,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(format!("{shown}/pipeline.json can't be read: {error}")),
    };
    let whose: Whose = serde_json::from_slice(&found).map_err(|error| {
        format!("{shown}/pipeline.json can't be read: {error}; put it back from a copy, or give another --state")
    })?;
    if whose.format != FORMAT {
        return Err(format!(
            "the state directory {shown} has format {}, this engine reads format {FORMAT}; give another --state",
            whose.format
        ));
    }
    Ok(Some(whose.pipeline))
}

/// What another pipeline than this one has left in the journal behind the newest checkpoint.
#[derive(Default)]
struct Others {
    /// Epochs that it committed.
    epochs: usize,
    /// Whether there is anything of it.
    is_any: bool,
}

impl Others {
    fn see(&mut self, record: &Record, base: u64, plan: &Plan) {
        if record.plan.as_ref().is_some_and(|digest| *digest != plan.logic) {
            let epochs = record.epochs.iter().filter(|passed| passed.epoch > base).count();
            self.epochs += epochs;
            self.is_any |= epochs > 0 || !record.staged.is_empty();
        }
    }
}

fn add_epoch(tail: &mut RecordedCuts, epoch: &super::record::EpochRecord, sources: &Sources) {
    let mut offsets = Offsets::new();
    for (name, partitions) in &epoch.cut {
        let Some(source) = sources.id(name) else { continue };
        for (partition, (next, read_ns, records, ends)) in partitions {
            offsets.insert((source, *partition), *next);
            let check = Check { records: *records, ends: *ends };
            tail.checks.entry(epoch.epoch).or_default().insert((source, *partition), check);
            tail.read_ns.entry(epoch.epoch).or_default().insert((source, *partition), *read_ns);
        }
    }
    let statement = |(name, standing, clock_ns): &(String, Standing, i64)| {
        let source = sources.id(name)?;
        Some(Statement { worker: 0, source: source.0, standing: *standing, clock_ns: *clock_ns })
    };
    let times: Vec<Statement> = epoch.times.iter().filter_map(statement).collect();
    if !times.is_empty() {
        tail.times.insert(epoch.epoch, times);
    }
    tail.epochs.push((Epoch(epoch.epoch), offsets));
}

/// Marks of offsets; what connectors need to seek there is not known.
fn cut_of(offsets: &Offsets) -> Cut {
    let mut cut = Cut::new();
    for ((source, partition), next) in offsets {
        let mark = engine_dataflow::Mark { next: *next, detail: String::new() };
        cut.entry(*source).or_default().insert(*partition, mark);
    }
    cut
}

/// Refuses a source that may be one of the state's under another name: it would start from the beginning, and everything
/// would come twice. One that is gone, and in whose place nothing came, is only told of.
fn check_sources(kept: &Kept, sources: &Sources) -> Result<(), String> {
    let known: Vec<&String> =
        kept.marks.iter().filter(|(_, marks)| marks.values().any(|mark| mark.next > 0)).map(|(name, _)| name).collect();
    let gone: Vec<&String> = known.iter().copied().filter(|known| sources.id(known).is_none()).collect();
    let new: Vec<&String> = sources.0.iter().filter(|name| !kept.marks.contains_key(*name)).collect();
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

/// Sources that can't be read again: what a restart would lose of them.
pub(crate) fn lossy_sources(plan: &Plan) -> Vec<&str> {
    plan.sources()
        .filter(|step| matches!(step.role, Role::Source { replayable: false, .. }))
        .map(|step| step.name.as_str())
        .collect()
}
