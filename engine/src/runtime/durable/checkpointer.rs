//! The thread that writes checkpoints: it asks for a snapshot every so often, writes its parts as they come, and publishes a
//! manifest once all of them are there and what came before is committed and delivered. It goes turn by turn, as the committer
//! does.

use super::ledger::{Chunks, Kept, Ledger};
#[cfg(test)]
use super::planted::{self, Planted};
use super::{Sources, common};
use engine_dataflow::ingest::Committed;
use engine_dataflow::snapshot::{LAST, Part, Snapshots, changes};
use engine_dataflow::{Control, Cut, KeyGroups};
use engine_state::checkpoint::{
    Before, Checkpoints, Draft, EntryKey, Held, Manifest, Publication, Space, StepAbout, StepId, Writer,
};
use engine_state::journal::Sequence;
use engine_state::{Change, StateError};
use std::collections::{BTreeMap, HashMap};
use std::ops::ControlFlow;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use xxhash_rust::xxh3::xxh3_64;

/// How often it is looked whether what a checkpoint needs is committed.
const PATIENCE: Duration = Duration::from_millis(2);
/// How many changes are written at once.
const PORTION: usize = 4_096;
/// Rows that a chunk of a logged input holds, about.
const CHUNK_ROWS: usize = 4_096;
/// A logged input is written anew when it holds so many times the rows that are left of it, and so many more.
const LOG_FACTOR: u64 = 3;
const LOG_ROWS: u64 = 50_000;
/// Store entries that are looked at in one sweep.
const SWEEP_ENTRIES: usize = 100_000;
/// The store is written anew when so many attempts were interrupted.
const LEFTOVERS_MAX: usize = 64;

/// What the checkpointer hears.
pub(crate) enum Message {
    /// A piece of a snapshot of this number.
    Part(u64, Part),
    /// A worker has given all its pieces of it.
    Through(u64),
    /// The run is over.
    End,
}

/// What there is of entries in the store, by a hash of their places.
pub(crate) type HeldEntries = HashMap<u64, Held>;

/// The checkpointer.
pub(crate) struct Checkpointer {
    pub(super) checkpoints: Checkpoints,
    pub(super) ledger: Arc<Mutex<Ledger>>,
    pub(super) snapshots: Arc<Snapshots>,
    pub(super) control: Arc<Control>,
    pub(super) sources: Sources,
    /// Where it is told before which places nothing is read again.
    pub(super) committed: Arc<Committed>,
    pub(super) workers: usize,
    pub(super) every_ns: u64,
    pub(super) journal_id: u64,
    pub(super) plan: String,
    /// What the steps with state are, by their names.
    pub(super) abouts: BTreeMap<String, StepAbout>,
    /// Filled while state is restored.
    pub(super) held: Arc<Mutex<HeldEntries>>,
    /// What the last manifest kept.
    pub(super) kept: Kept,
    /// Of the last snapshot, which may begin while another is under way.
    pub(super) later: Vec<Part>,
    pub(super) clock: Arc<dyn engine_base::Clock>,
    /// When the last one was due, by the monotonic clock.
    pub(super) last_ns: u64,
    /// The epoch of the last one that was published, or where the run began.
    pub(super) last_epoch: u64,
    /// The one under way.
    pub(super) open: Option<Open>,
}

/// A checkpoint under way.
pub(super) struct Open {
    number: u64,
    epoch: u64,
    draft: Draft,
    writer: Writer,
    through: usize,
    begun_ns: u64,
}

impl Open {
    fn step(&mut self, abouts: &BTreeMap<String, StepAbout>, name: &str) -> Result<StepId, String> {
        let about = abouts.get(name).cloned().ok_or_else(|| format!("`{name}` has state, and no plan of it"))?;
        Ok(self.draft.step(name, about))
    }
}

/// What the checkpointer waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Waits {
    /// A message, for so long or for ever.
    ForMessage(Option<Duration>),
    /// What it holds is to be committed first; until then it takes no message.
    ForCommit,
}

impl Checkpointer {
    /// Runs until the run is over. The sentence with which it failed.
    pub(crate) fn run(mut self, messages: &Receiver<Message>) -> Result<(), String> {
        loop {
            let heard = match self.waits() {
                Waits::ForMessage(Some(wait)) => messages.recv_timeout(wait),
                Waits::ForMessage(None) => messages.recv().map_err(|_| RecvTimeoutError::Disconnected),
                Waits::ForCommit => {
                    std::thread::sleep(PATIENCE);
                    Err(RecvTimeoutError::Timeout)
                }
            };
            let message = match heard {
                Ok(message) => Some(message),
                Err(RecvTimeoutError::Timeout) => None,
                Err(RecvTimeoutError::Disconnected) => Some(Message::End),
            };
            if !self.turn(message)? {
                return Ok(());
            }
        }
    }

    /// What its next turn is for.
    pub(crate) fn waits(&self) -> Waits {
        match &self.open {
            Some(open) if open.through == self.workers => Waits::ForCommit,
            Some(_) => Waits::ForMessage(None),
            None => Waits::ForMessage(Some(self.due_in().max(PATIENCE))),
        }
    }

    /// In how long the next checkpoint is due.
    fn due_in(&self) -> Duration {
        let since_ns = self.clock.monotonic_ns().saturating_sub(self.last_ns);
        Duration::from_nanos(self.every_ns.saturating_sub(since_ns))
    }

    /// Takes a message, if there is one, and goes on with what is due. False when the run is over.
    pub(crate) fn turn(&mut self, message: Option<Message>) -> Result<bool, String> {
        let result = self.go_on(message);
        if let Err(reason) = &result {
            self.control.fail(reason.clone());
        }
        result
    }

    fn go_on(&mut self, message: Option<Message>) -> Result<bool, String> {
        match message {
            Some(Message::Part(number, part)) => self.take(number, part)?,
            Some(Message::Through(LAST)) => self.last()?,
            Some(Message::Through(number)) => {
                if let Some(open) = self.open.as_mut().filter(|open| open.number == number) {
                    open.through += 1;
                }
            }
            Some(Message::End) => {
                self.keep_later()?;
                if let Some(mut open) = self.open.take().filter(|_| !self.control.failed()) {
                    open.epoch = self.ledger().committed;
                    self.publish(open)?;
                }
                return Ok(false);
            }
            None => {}
        }
        if let Some(open) = self.open.take_if(|open| open.through == self.workers) {
            self.publish_once_committed(open)?;
        }
        if self.open.is_none() && self.due_in().is_zero() && !self.control.failed() {
            self.last_ns = self.clock.monotonic_ns();
            // Without anything new there is nothing to write.
            if self.ledger().committed > self.last_epoch
                && let Some((number, epoch)) = self.snapshots.ask()
            {
                self.open = Some(self.begin(number, epoch)?);
                self.control.wake();
            }
        }
        Ok(true)
    }

    /// What is delivered is committed, but the committer may not have noted it yet.
    fn publish_once_committed(&mut self, mut open: Open) -> Result<(), String> {
        if self.ledger().over {
            // The last epochs had nothing in them.
            open.epoch = open.epoch.min(self.ledger().committed);
        }
        let is_committed = self.ledger().committed >= open.epoch;
        if is_committed {
            self.last_epoch = open.epoch;
            return self.publish(open);
        }
        // A commit that failed never comes, and the draft comes to nothing.
        if !self.control.failed() && !self.ledger().failed {
            self.open = Some(open);
        }
        Ok(())
    }

    fn ledger(&self) -> std::sync::MutexGuard<'_, Ledger> {
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn begin(&mut self, number: u64, epoch: u64) -> Result<Open, String> {
        let mut draft = self.checkpoints.begin().map_err(told)?;
        for (name, about) in &self.abouts {
            draft.step(name, about.clone());
        }
        let writer = draft.writer();
        Ok(Open { number, epoch, draft, writer, through: 0, begun_ns: self.clock.monotonic_ns() })
    }

    fn last(&mut self) -> Result<(), String> {
        match &mut self.open {
            // From here on it holds what comes after its epoch: it is a snapshot of the end.
            Some(open) => open.number = LAST,
            None => self.open = Some(self.begin(LAST, 0)?),
        }
        self.keep_later()
    }

    fn keep_later(&mut self) -> Result<(), String> {
        std::mem::take(&mut self.later).into_iter().try_for_each(|part| self.keep(part))
    }

    fn take(&mut self, number: u64, part: Part) -> Result<(), String> {
        let writes = matches!(part, Part::Slots { .. } | Part::Input { .. });
        if writes && number == LAST {
            // All there is: with what a snapshot under way has of it already.
            self.last()?;
        }
        if number == LAST && self.open.as_ref().is_some_and(|open| open.number != LAST) {
            // It is of the end, and the snapshot under way is not.
            self.later.push(part);
            return Ok(());
        }
        self.keep(part)
    }

    fn keep(&mut self, part: Part) -> Result<(), String> {
        match part {
            Part::Reached { step, watermarks_ns } => {
                self.kept.watermarks_ns.insert(step.to_string(), watermarks_ns);
            }
            Part::Times { source, reached_ns } => {
                let name = self.sources.name(source).to_owned();
                self.kept.reached_ns.entry(name).or_default().extend(reached_ns);
            }
            Part::Slots { step, changes: bytes, groups } => {
                let Some(open) = &mut self.open else { return Ok(()) };
                let id = open.step(&self.abouts, &step)?;
                let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
                let mut all = changes(&bytes).peekable();
                while all.peek().is_some() {
                    let portion: Vec<Change<'_>> = all.by_ref().take(PORTION).collect();
                    put(id, &portion, &groups, &mut open.writer, &mut held)?;
                }
            }
            Part::Input { step, input, rows } => {
                let Some(open) = &mut self.open else { return Ok(()) };
                let id = open.step(&self.abouts, &step)?;
                let chunks = self.kept.inputs.entry(input_name(&step, input)).or_default();
                write_chunks(id, input, rows, chunks, &mut open.writer)?;
            }
        }
        Ok(())
    }

    fn publish(&mut self, mut open: Open) -> Result<(), String> {
        #[cfg(test)]
        if planted::is(Planted::SnapshotTooLate) {
            open.epoch = open.epoch.saturating_sub(1);
        }
        self.shorten_logs(&mut open)?;
        open.writer.finish().map_err(told)?;
        let (place, epoch) = (self.ledger().place(open.epoch), open.epoch);
        let kept = self.ledger().kept(&place);
        self.kept = Kept {
            plan: self.plan.clone(),
            reached_ns: std::mem::take(&mut self.kept.reached_ns),
            watermarks_ns: std::mem::take(&mut self.kept.watermarks_ns),
            inputs: std::mem::take(&mut self.kept.inputs),
            ..kept
        };
        let publication = Publication {
            journal_id: self.journal_id,
            journal_sequence: place.record.0,
            epoch,
            time_ns: self.clock.now_ns(),
            blobs: BTreeMap::new(),
            extra: serde_json::to_value(&self.kept).map_err(|error| error.to_string())?,
        };
        let manifest = open.draft.publish(publication).map_err(told)?;
        // The checkpoints before it may be needed too.
        let needed = self.checkpoints.retained().iter().map(|manifest| manifest.journal_sequence).min();
        let mut ledger = self.ledger();
        ledger.checkpointed(epoch, place);
        ledger.needless = needed.map(Sequence);
        #[cfg(test)]
        if planted::is(Planted::TruncateTooMuch) {
            ledger.needless = Some(ledger.next_record);
        }
        drop(ledger);
        self.keep_later()?;
        self.committed.release(released(&self.checkpoints, &self.sources)?);
        let contents = manifest.contents();
        tracing::debug!(
            checkpoint = manifest.checkpoint,
            epoch,
            entries = contents.entries,
            bytes = contents.bytes,
            took_ms = self.clock.monotonic_ns().saturating_sub(open.begun_ns) / 1_000_000,
            "checkpoint"
        );
        if open.number == LAST {
            return Ok(());
        }
        self.checkpoints.sweep(SWEEP_ENTRIES).map_err(told)?;
        if self.checkpoints.leftovers() > LEFTOVERS_MAX {
            self.checkpoints.compact().map_err(told)?;
        }
        Ok(())
    }

    /// Writes the logged inputs anew that hold much more than what is left of them.
    fn shorten_logs(&mut self, open: &mut Open) -> Result<(), String> {
        let Some(manifest) = self.checkpoints.newest() else { return Ok(()) };
        let names: Vec<String> = self.kept.inputs.keys().cloned().collect();
        for name in names {
            let Some(chunks) = self.kept.inputs.get(&name).copied() else { continue };
            let left = u64::try_from(chunks.net).unwrap_or(0);
            let published = published_chunks(&manifest, &name);
            if chunks.rows < left * LOG_FACTOR + LOG_ROWS || published.next <= published.first {
                continue;
            }
            let Some((step, input)) = named_input(&name) else { continue };
            let id = open.step(&self.abouts, step)?;
            // What the last checkpoint has; the chunks of this one stay behind it.
            let mut rows: HashMap<Vec<u8>, i64> = HashMap::new();
            let mut held = Vec::new();
            let mut problem = None;
            let visit = &mut |key: EntryKey<'_>, value: &[u8]| {
                if key.slice != i64::from(input) {
                    return ControlFlow::Continue(());
                }
                if let Err(reason) = read_chunk(value, &mut |row, diff| *rows.entry(row.to_vec()).or_default() += diff)
                {
                    problem = Some(reason);
                    return ControlFlow::Break(());
                }
                held.push((key.group, key.key.to_vec(), Checkpoints::held(&key, value)));
                ControlFlow::Continue(())
            };
            self.checkpoints.load(&manifest, Space::INPUTS, id, 0..=u16::MAX, visit).map_err(told)?;
            if let Some(problem) = problem {
                return Err(problem);
            }
            let before = held.len();
            for (group, key, held) in held {
                let key = EntryKey { space: Space::INPUTS, step: id, group, key: &key, slice: i64::from(input) };
                open.writer.delete(&key, Before::Held(held.map_err(told)?)).map_err(told)?;
            }
            let rows: Vec<(Vec<u8>, i64)> = rows.into_iter().filter(|(_, diff)| *diff != 0).collect();
            let chunks = self.kept.inputs.entry(name.clone()).or_default();
            chunks.first = published.next;
            (chunks.rows, chunks.net) = (chunks.rows - published.rows, chunks.net - published.net);
            tracing::debug!(step, input, before, rows = rows.len(), "a logged input is written anew");
            write_chunks(id, input, rows, chunks, &mut open.writer)?;
        }
        Ok(())
    }
}

/// Writes changed slots.
fn put(
    step: StepId,
    portion: &[Change<'_>],
    groups: &KeyGroups,
    writer: &mut Writer,
    held: &mut HeldEntries,
) -> Result<(), String> {
    let keys: Vec<&[u8]> = portion.iter().map(key_of).collect();
    for (change, group) in portion.iter().zip(groups(&keys)?) {
        let place = |key, slice| EntryKey { space: Space::SLOTS, step, group, key, slice };
        match *change {
            Change::Put { key, slice, state } => {
                let key = place(key, slice);
                let hash = hash_of(&key);
                let before = held.get(&hash).map_or(Before::Absent, |held| Before::Held(*held));
                held.insert(hash, writer.put(&key, state, before).map_err(told)?);
            }
            Change::Delete { key, slice } => {
                let key = place(key, slice);
                // One that came and went between two checkpoints was never there.
                if let Some(before) = held.remove(&hash_of(&key)) {
                    writer.delete(&key, Before::Held(before)).map_err(told)?;
                }
            }
        }
    }
    Ok(())
}

fn key_of<'a>(change: &Change<'a>) -> &'a [u8] {
    match *change {
        Change::Put { key, .. } | Change::Delete { key, .. } => key,
    }
}

/// Tells the places of entries apart.
pub(super) fn hash_of(key: &EntryKey<'_>) -> u64 {
    let mut bytes = Vec::with_capacity(16 + key.key.len());
    bytes.extend_from_slice(&key.step.0.to_le_bytes());
    bytes.extend_from_slice(&key.slice.to_le_bytes());
    bytes.extend_from_slice(key.key);
    xxh3_64(&bytes)
}

/// The places before which nothing is read again, whichever of the checkpoints and savepoints that are kept a restart begins with.
/// A partition that one of them does not know is not among them: from there it would be read from its start.
pub(super) fn released(checkpoints: &Checkpoints, sources: &Sources) -> Result<Cut, String> {
    let mut least: Option<Cut> = None;
    for manifest in checkpoints.retained().into_iter().chain(checkpoints.savepoints().into_values()) {
        let cut = sources.numbered(&Kept::of(&manifest)?.marks);
        least = Some(match least {
            Some(least) => common(&least, &cut),
            None => cut,
        });
    }
    Ok(least.unwrap_or_default())
}

/// The name by which the chunks of an input are kept.
pub(super) fn input_name(step: &str, input: u16) -> String {
    format!("{step}/{input}")
}

pub(super) fn named_input(name: &str) -> Option<(&str, u16)> {
    let (step, input) = name.rsplit_once('/')?;
    Some((step, input.parse().ok()?))
}

fn published_chunks(manifest: &Manifest, name: &str) -> Chunks {
    Kept::of(manifest).ok().and_then(|kept| kept.inputs.get(name).copied()).unwrap_or_default()
}

/// Adds rows to a logged input, as chunks: `length of the row u32 │ by how many there are more i64 │ row`, again and again.
fn write_chunks(
    step: StepId,
    input: u16,
    rows: Vec<(Vec<u8>, i64)>,
    chunks: &mut Chunks,
    writer: &mut Writer,
) -> Result<(), String> {
    for rows in rows.chunks(CHUNK_ROWS) {
        let mut value = Vec::new();
        for (row, diff) in rows {
            value.extend_from_slice(&(row.len() as u32).to_le_bytes());
            value.extend_from_slice(&diff.to_le_bytes());
            value.extend_from_slice(row);
            chunks.rows += 1;
            chunks.net += diff;
        }
        let number = chunks.next.to_be_bytes();
        // Workers share them by their numbers.
        let group = (chunks.next % u64::from(engine_dataflow::exchange::GROUPS)) as u16;
        let key = EntryKey { space: Space::INPUTS, step, group, key: &number, slice: i64::from(input) };
        writer.put(&key, &value, Before::Absent).map_err(told)?;
        chunks.next += 1;
    }
    Ok(())
}

/// Visits the rows of a chunk.
pub(super) fn read_chunk(mut value: &[u8], visit: &mut dyn FnMut(&[u8], i64)) -> Result<(), String> {
    while !value.is_empty() {
        let row = value.split_at_checked(12).and_then(|(head, rest)| {
            let length = u32::from_le_bytes(head[..4].try_into().ok()?);
            let diff = i64::from_le_bytes(head[4..].try_into().ok()?);
            let (row, rest) = rest.split_at_checked(length as usize)?;
            Some((row, diff, rest))
        });
        let Some((row, diff, rest)) = row else { return Err("a chunk of logged rows is cut short".to_owned()) };
        visit(row, diff);
        value = rest;
    }
    Ok(())
}

pub(super) fn told(error: StateError) -> String {
    error.to_string()
}
