//! The source `dead_letters`: the letters that were ordered to be replayed, in the order of their turns.
//!
//! ```text
//! file ◀─ a thread: looks every 100 ms, hands over what has a turn ─bounded queue─▶ Reader: decodes payloads
//!              ▲                                                                       (worker thread)
//!              └─ what is committed and released, by [`Removal`], also after the reader is gone
//! ```
//!
//! The thread alone touches the file. It lives until nobody can tell it anything any more.

use super::queue::{Letter, Queue, Standing, make};
use crate::common::lock;
use crate::database::Fault;
use crate::formats::{Decoding, RecordDecoder};
use crate::queue::{self, Events, Popped, Receiver, Sender};
use crate::sources::bytes::error_row;
use crate::sources::file::metadata;
use crate::sqlite::check_path;
use crate::{SourceEntry, SourceStart};
use arrow::array::{
    ArrayRef, Int64Builder, RecordBatch, RecordBatchOptions, StringBuilder, TimestampNanosecondBuilder,
};
use arrow::datatypes::{DataType, Field, SchemaRef, TimeUnit};
use chrono::DateTime;
use engine_base::codes::system as codes;
use engine_base::{Clock, Diagnostic};
use engine_dataflow::rows::origin;
use engine_dataflow::{Mark, Marks, Polled, Positions, Reader, Removal, Rows, SourceRows, Times};
use engine_plan::{Claim, Columns, Cx, Planned, PlannedSource, SourceCommon, SourceKind, Use};
use schemars::{JsonSchema, SchemaGenerator};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, VecDeque};
use std::fs::{File, OpenOptions, TryLockError};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// How often the thread looks whether letters were ordered to be replayed.
const PACE: Duration = Duration::from_millis(100);
/// How many bytes of letters wait for the worker.
const QUEUE_BYTES: usize = 4 << 20;
/// How many letters are read at once, and how many bytes of them.
const TAKEN: usize = 1_000;
const TAKEN_BYTES: usize = 1 << 20;
/// How many rows a batch has at most.
const BATCH_ROWS: u64 = 8_192;
/// How long a start waits for another's transaction, and for an engine that is ending to give up its lock.
const START_WAIT: Duration = Duration::from_secs(10);
const LOCK_WAIT: Duration = Duration::from_secs(2);
/// How long an end waits until it can write down what is committed.
const END_WAIT: Duration = Duration::from_secs(10);

/// Reads dead letters that were ordered to be replayed with `engine dead-letters replay`.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct LettersConfig {
    /// The file of the queue, as the sink names it; relative to this file. It is made where it is not there.
    path: String,
}

/// The registry's line.
pub(crate) const ENTRY: SourceEntry = SourceEntry {
    kind: SourceKind {
        name: "dead_letters",
        summary: "Dead letters that are replayed: their payloads as records.",
        config_schema: |generator: &mut SchemaGenerator| generator.subschema_for::<LettersConfig>(),
        decodes: true,
        metadata: &["id", "step", "code", "reason", "position", "at"],
        plan,
    },
    start,
};

/// What is known of a letter beside its payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Known {
    Id,
    Step,
    Code,
    Reason,
    Position,
    At,
}

impl Known {
    fn parse(what: &str) -> Option<Known> {
        Some(match what {
            "id" => Known::Id,
            "step" => Known::Step,
            "code" => Known::Code,
            "reason" => Known::Reason,
            "position" => Known::Position,
            "at" => Known::At,
            // The planner has told of it.
            _ => return None,
        })
    }

    fn field(self, name: &str) -> Field {
        let data_type = match self {
            Known::Id => DataType::Int64,
            Known::At => DataType::Timestamp(TimeUnit::Nanosecond, Some("UTC".into())),
            Known::Step | Known::Code | Known::Reason | Known::Position => DataType::Utf8,
        };
        Field::new(name, data_type, false)
    }
}

/// A planned source.
#[derive(Debug)]
struct LettersSource {
    /// The path as it was written.
    written: String,
    /// What it is relative to.
    base_dir: PathBuf,
    decoding: Decoding,
    metadata: Vec<(String, Known)>,
}

impl Planned for LettersSource {
    fn reads(&self, _wanted: &[Columns]) -> Vec<Columns> {
        Vec::new()
    }

    fn facts(&self) -> Vec<(String, String)> {
        vec![("path".to_owned(), self.written.clone()), ("format".to_owned(), self.decoding.name().to_owned())]
    }

    fn removes(&self) -> bool {
        true
    }

    /// Sinks may write letters to the file meanwhile; the turns are for one source.
    fn claims(&self) -> Vec<Claim> {
        let file = Claim::file(&self.base_dir, &self.written, Use::Read);
        let turns = format!("the replayed letters of {}", file.thing);
        vec![file, Claim { thing: turns, by: Use::Take }]
    }
}

fn plan(cx: &mut Cx<'_>, common: &SourceCommon) -> Option<PlannedSource> {
    let config: Option<LettersConfig> = cx.config();
    let decoding = Decoding::plan(cx, common);
    let path = config.map(|config| config.path).filter(|path| check_path(cx, path, "letters/holds.db"));
    let decoding = decoding?;
    if decoding.has_header() {
        let found =
            Diagnostic::error(codes::FORMAT_NOT_CARRIED, cx.span(&["format"]), "a letter has no header before it")
                .help("write `format: { type: csv, header: false }`");
        cx.push(found);
        return None;
    }
    let (metadata, schema) = metadata(cx, &decoding, common, Known::parse, |known, name| known.field(name))?;
    let base_dir = cx.component.dir(&["path"]).to_path_buf();
    let planned = Arc::new(LettersSource { written: path?, base_dir, decoding, metadata });
    Some(PlannedSource { schema: Arc::new(schema), replayable: true, finite: false, planned })
}

/// What stands in a mark beside the turn: of which file it speaks.
#[derive(Debug, Serialize, Deserialize)]
struct Detail {
    queue: String,
}

fn start(planned: &dyn Planned, start: SourceStart) -> Result<Option<Box<dyn Reader>>, String> {
    let plan: &LettersSource = planned.downcast().ok_or("not a planned source of dead letters")?;
    if !start.owns_single_partition() {
        return Ok(None);
    }
    let path = plan.base_dir.join(&plan.written);
    let file = open(&path)?;
    let alone = take_lock(&path, &plan.written)?;
    let standing = patiently(START_WAIT, || file.standing()).map_err(|fault| file.sentence(fault))?;
    let next = begins_at(start.resume.get(&0), &standing, &plan.written)?;
    let (columns, decoded) = Layout::new(plan, &start.columns);
    let decoder = plan.decoding.decoder(&decoded)?;
    let shared = Arc::new(Shared::default());
    shared.given.store(standing.next_turn, Ordering::Release);
    let (waker, room) = (start.waker.clone(), shared.clone());
    let events = Events { filled: Box::new(move || waker.wake()), room: Box::new(move || room.changed.notify_all()) };
    let (sender, receiver) = queue::bounded(QUEUE_BYTES, events);
    let keeper = Keeper {
        name: start.name.clone(),
        file,
        _alone: alone,
        shared: shared.clone(),
        sender: Some(sender),
        next,
        before: start.finite_from_start.then_some(standing.next_turn),
        seen: None,
        committed: standing.done,
        released: standing.removed,
        complained: false,
    };
    let thread = std::thread::Builder::new()
        .name(format!("letters {}", start.name))
        .spawn(move || keeper.run())
        .map_err(|error| format!("a thread can't be started: {error}"))?;
    let removal = Arc::new(Remover { shared: shared.clone(), thread: Mutex::new(Some(thread)) });
    let detail = serde_json::to_string(&Detail { queue: standing.name }).map_err(|error| error.to_string())?;
    Ok(Some(Box::new(LettersReader {
        name: start.name.clone(),
        origin: origin(start.source, 0),
        clock: start.clock.clone(),
        schema: start.columns.clone(),
        next,
        detail,
        receiver,
        waiting: VecDeque::new(),
        end: None,
        decoder,
        columns,
        turns: Vec::new(),
        shared,
        removal,
    })))
}

/// Opens or makes the file, whoever writes to it just now.
fn open(path: &Path) -> Result<Queue, String> {
    patiently(START_WAIT, || make(path)).map_err(|fault| match fault {
        Fault::Stop(reason) => reason,
        Fault::Retry { reason, .. } => format!("`{}` can't be opened: {reason}", path.display()),
    })
}

/// Tries again what another's transaction is in the way of.
fn patiently<T>(wait: Duration, mut attempt: impl FnMut() -> Result<T, Fault>) -> Result<T, Fault> {
    let begun = Instant::now();
    loop {
        match attempt() {
            Err(Fault::Retry { .. }) if begun.elapsed() < wait => std::thread::sleep(PACE),
            done => return done,
        }
    }
}

/// Keeps a second engine from reading the queue; the lock goes with the process.
fn take_lock(path: &Path, written: &str) -> Result<File, String> {
    let mut beside = path.as_os_str().to_owned();
    beside.push(".lock");
    // SQLite's own locks are on the file itself, and closing it here would give them up.
    let file = OpenOptions::new().create(true).truncate(false).write(true).open(&beside);
    let file = file.map_err(|error| format!("`{}` can't be made: {error}", Path::new(&beside).display()))?;
    let begun = Instant::now();
    loop {
        match file.try_lock() {
            // Not every file system has locks.
            Ok(()) | Err(TryLockError::Error(_)) => return Ok(file),
            Err(TryLockError::WouldBlock) if begun.elapsed() > LOCK_WAIT => {
                return Err(format!(
                    "another engine replays the letters of `{written}`, and only one may; stop that one, or leave this source out"
                ));
            }
            Err(TryLockError::WouldBlock) => std::thread::sleep(Duration::from_millis(5)),
        }
    }
}

/// The turn at which it goes on.
fn begins_at(mark: Option<&Mark>, standing: &Standing, written: &str) -> Result<u64, String> {
    let Some(mark) = mark else { return Ok(standing.done) };
    let remedy = "put the file and the state back from one copy, or start with another --state: it begins with the letters that \
                  nobody has replayed";
    let detail: Option<Detail> = serde_json::from_str(&mark.detail).ok();
    if detail.is_some_and(|detail| detail.queue != standing.name) {
        return Err(format!("`{written}` is not the queue that this state has read: the file was replaced; {remedy}"));
    }
    if mark.next > standing.next_turn {
        return Err(format!(
            "this state has read `{written}` up to turn {}, and the file knows of {} turns: an older copy was put back; {remedy}",
            mark.next, standing.next_turn
        ));
    }
    if mark.next < standing.removed {
        return Err(format!(
            "this state goes on at turn {} of `{written}`, and the letters before turn {} are gone: the state is an older copy, or \
             another engine has replayed them; {remedy}",
            mark.next, standing.removed
        ));
    }
    Ok(mark.next)
}

/// What the thread hands over.
enum Piece {
    Letters(Vec<Letter>),
    Failed(String),
}

/// What the thread, the reader and the removal share.
#[derive(Debug, Default)]
struct Shared {
    told: Mutex<Told>,
    /// Rung when something was told, or there is room again.
    changed: Condvar,
    /// The turn that is given next, as far as is known.
    given: AtomicU64,
}

#[derive(Clone, Copy, Debug, Default)]
struct Told {
    committed: u64,
    released: u64,
    /// Nothing more will be told.
    over: bool,
}

impl Shared {
    fn tell(&self, change: impl FnOnce(&mut Told)) {
        change(&mut lock(&self.told));
        self.changed.notify_all();
    }
}

/// Passes on to the thread what is committed and released.
#[derive(Debug)]
struct Remover {
    shared: Arc<Shared>,
    thread: Mutex<Option<JoinHandle<Result<(), String>>>>,
}

fn turn_of(marks: &Marks) -> u64 {
    marks.get(&0).map_or(0, |mark| mark.next)
}

impl Removal for Remover {
    fn committed(&self, marks: &Marks) {
        self.shared.tell(|told| told.committed = told.committed.max(turn_of(marks)));
    }

    fn released(&self, marks: &Marks) {
        self.shared.tell(|told| told.released = told.released.max(turn_of(marks)));
    }

    fn close(&self) -> Result<(), String> {
        self.shared.tell(|told| told.over = true);
        match lock(&self.thread).take() {
            Some(thread) => thread.join().unwrap_or_else(|_| Err("the thread of dead letters panicked".to_owned())),
            None => Ok(()),
        }
    }
}

/// Where nobody waits for it, the thread ends by itself.
impl Drop for Remover {
    fn drop(&mut self) {
        self.shared.tell(|told| told.over = true);
    }
}

/// The thread that has the file.
struct Keeper {
    name: Arc<str>,
    file: Queue,
    /// The lock.
    _alone: File,
    shared: Arc<Shared>,
    /// Gone when the source has come to its end, or has failed.
    sender: Option<Sender<Piece>>,
    /// The next turn to be handed over.
    next: u64,
    /// The turn before which it ends, where it does.
    before: Option<u64>,
    /// The version of the file in which nothing more was found.
    seen: Option<i64>,
    /// What stands in the file.
    committed: u64,
    released: u64,
    /// It was told that the file can't be used now.
    complained: bool,
}

impl Keeper {
    /// Runs until nothing more will be told. The sentence with which it could not write down what was.
    fn run(mut self) -> Result<(), String> {
        loop {
            let told = *lock(&self.shared.told);
            let done = self.note(told).and_then(|is_noted| Ok(!self.hand_over()? && is_noted));
            let rests = match done {
                Ok(rests) => {
                    self.complained = false;
                    rests
                }
                Err(fault @ Fault::Stop(_)) => {
                    let reason = self.file.sentence(fault);
                    if let Some(sender) = self.sender.take() {
                        sender.force_push(Piece::Failed(reason.clone()), 0);
                    }
                    return Err(reason);
                }
                Err(fault) if told.over => return self.end(told, fault),
                Err(fault @ Fault::Retry { .. }) => {
                    if !std::mem::replace(&mut self.complained, true) {
                        tracing::warn!(name = &*self.name, "{}: it is tried again", self.file.sentence(fault));
                    }
                    true
                }
            };
            if told.over && self.committed >= told.committed && self.released >= told.released {
                return Ok(());
            }
            if rests {
                let waiting = lock(&self.shared.told);
                let is_new = waiting.over || waiting.committed > self.committed || waiting.released > self.released;
                if !is_new || self.complained {
                    drop(self.shared.changed.wait_timeout(waiting, PACE).unwrap_or_else(PoisonError::into_inner));
                }
            }
        }
    }

    /// Writes down what was told when the run is over, though the file can't be used now.
    fn end(mut self, told: Told, first: Fault) -> Result<(), String> {
        let begun = Instant::now();
        let mut fault = first;
        while begun.elapsed() < END_WAIT {
            std::thread::sleep(PACE);
            match self.note(told) {
                Ok(true) => return Ok(()),
                Ok(false) => {}
                Err(again) => fault = again,
            }
        }
        Err(format!("{}; letters that were replayed without --state would come again", self.file.sentence(fault)))
    }

    /// Has the file follow what was told, some of it at least: whether it does.
    fn note(&mut self, told: Told) -> Result<bool, Fault> {
        if told.committed > self.committed {
            self.file.committed(told.committed)?;
            self.committed = told.committed;
        }
        if told.released > self.released && self.file.released(told.released)? {
            self.released = told.released;
        }
        Ok(self.released >= told.released)
    }

    /// Hands over letters whose turn it is, if there are any and there is room: whether there may be more.
    fn hand_over(&mut self) -> Result<bool, Fault> {
        let Some(sender) = &self.sender else { return Ok(false) };
        if sender.is_closed() || self.before.is_some_and(|before| self.next >= before) {
            self.sender = None;
            return Ok(false);
        }
        if !sender.has_room() {
            return Ok(false);
        }
        let version = self.file.version()?;
        if self.seen == Some(version) {
            return Ok(false);
        }
        let given = self.file.standing()?.next_turn;
        self.shared.given.store(given, Ordering::Release);
        let before = self.before.map_or(given, |before| before.min(given));
        if self.next >= before {
            self.seen = Some(version);
            return Ok(false);
        }
        let letters = self.file.take(self.next, before, TAKEN, TAKEN_BYTES)?;
        self.next += letters.len() as u64;
        let bytes = letters.iter().map(|letter| letter.payload.len() + size_of::<Letter>()).sum();
        sender.force_push(Piece::Letters(letters), bytes);
        Ok(true)
    }
}

/// Where a column of a batch comes from.
enum From {
    Decoded(usize),
    Known(Filled),
}

/// A column that grows by what is known of a letter.
enum Filled {
    Number(Int64Builder),
    Text(Known, StringBuilder),
    Time(TimestampNanosecondBuilder),
}

/// The columns of a batch.
struct Layout(Vec<From>);

impl Layout {
    fn new(plan: &LettersSource, columns: &SchemaRef) -> (Layout, Vec<Arc<Field>>) {
        let mut decoded = Vec::new();
        let from = columns.fields().iter().map(|field| {
            let known = plan.metadata.iter().find(|(column, _)| column == field.name()).map(|(_, known)| *known);
            match known {
                None => {
                    decoded.push(field.clone());
                    From::Decoded(decoded.len() - 1)
                }
                Some(Known::Id) => From::Known(Filled::Number(Int64Builder::new())),
                Some(Known::At) => From::Known(Filled::Time(TimestampNanosecondBuilder::new().with_timezone("UTC"))),
                Some(known) => From::Known(Filled::Text(known, StringBuilder::new())),
            }
        });
        (Layout(from.collect()), decoded)
    }

    /// Appends what stands beside the payload.
    fn push(&mut self, letter: &Letter) {
        for from in &mut self.0 {
            match from {
                From::Decoded(_) => {}
                From::Known(Filled::Number(column)) => column.append_value(letter.id),
                From::Known(Filled::Time(column)) => column.append_value(time_ns(&letter.at)),
                From::Known(Filled::Text(known, column)) => column.append_value(match known {
                    Known::Step => &letter.step,
                    Known::Code => &letter.code,
                    Known::Reason => &letter.reason,
                    _ => &letter.position,
                }),
            }
        }
    }

    fn finish(&mut self, decoded: Vec<ArrayRef>) -> Result<Vec<ArrayRef>, String> {
        let mut decoded: Vec<Option<ArrayRef>> = decoded.into_iter().map(Some).collect();
        let column = |from: &mut From| -> Result<ArrayRef, String> {
            Ok(match from {
                From::Decoded(at) => {
                    decoded.get_mut(*at).and_then(Option::take).ok_or("a decoder has lost a column")?
                }
                From::Known(Filled::Number(column)) => Arc::new(column.finish()),
                From::Known(Filled::Text(_, column)) => Arc::new(column.finish()),
                From::Known(Filled::Time(column)) => Arc::new(column.finish()),
            })
        };
        self.0.iter_mut().map(column).collect()
    }
}

/// A time as the sink writes it, nanoseconds since 1970 UTC.
fn time_ns(text: &str) -> i64 {
    DateTime::parse_from_rfc3339(text).ok().and_then(|time| time.timestamp_nanos_opt()).unwrap_or(0)
}

/// A worker's reader.
struct LettersReader {
    name: Arc<str>,
    origin: u64,
    clock: Arc<dyn Clock>,
    schema: SchemaRef,
    /// The turn of the next letter.
    next: u64,
    detail: String,
    receiver: Receiver<Piece>,
    waiting: VecDeque<Letter>,
    /// Why nothing more comes; the end, if there is no reason.
    end: Option<Option<String>>,
    decoder: Box<dyn RecordDecoder>,
    columns: Layout,
    /// Of the letters in the decoder.
    turns: Vec<u64>,
    shared: Arc<Shared>,
    removal: Arc<Remover>,
}

impl LettersReader {
    /// The next letter, if there is one before a turn.
    fn pop(&mut self, limit: u64) -> Option<Letter> {
        if self.waiting.is_empty() && self.end.is_none() {
            match self.receiver.try_pop() {
                Popped::Item(Piece::Letters(letters)) => self.waiting = letters.into(),
                Popped::Item(Piece::Failed(reason)) => self.end = Some(Some(reason)),
                Popped::Closed => self.end = Some(None),
                Popped::Empty => {}
            }
        }
        self.waiting.pop_front_if(|letter| letter.turn.is_some_and(|turn| turn < limit))
    }

    fn decode(&mut self, letter: &Letter, ingest_ns: i64, out: &mut SourceRows) {
        let payload = letter.payload.as_bytes();
        out.bytes += payload.len() as u64;
        out.records += 1;
        match self.decoder.decode(payload) {
            Ok(()) => {
                self.columns.push(letter);
                self.turns.push(self.next);
            }
            Err(error) => {
                let bytes = payload.len() as u64;
                out.errors.push(error_row(&self.name, self.origin, self.next, ingest_ns, error, payload, bytes));
            }
        }
        self.next += 1;
    }

    /// The rows that were decoded.
    fn finish(&mut self, ingest_ns: i64) -> Result<Rows, String> {
        let turns = std::mem::take(&mut self.turns);
        let columns = self.columns.finish(self.decoder.finish())?;
        let options = RecordBatchOptions::new().with_row_count(Some(turns.len()));
        let batch = RecordBatch::try_new_with_options(self.schema.clone(), columns, &options)
            .map_err(|error| format!("the decoded columns don't fit: {error}"))?;
        let (first, last) = (turns[0], turns[turns.len() - 1]);
        let positions = match last - first == turns.len() as u64 - 1 {
            true => Positions::Range { origin: self.origin, first },
            false => Positions::Offsets { origin: self.origin, offsets: turns.into() },
        };
        // It is born again: objectives measure from the replay on.
        let (ingest_ns, born_ns) = (Times::One(ingest_ns), Times::One(ingest_ns));
        Ok(Rows { batch, positions, ingest_ns, born_ns, event_ns: None, removes: None })
    }
}

impl Reader for LettersReader {
    fn poll(&mut self, max_bytes: usize, until: Option<&BTreeMap<u32, u64>>) -> Polled {
        let limit = match until {
            None => u64::MAX,
            Some(limits) => match limits.get(&0) {
                Some(limit) => *limit,
                None => return Polled::Pending,
            },
        };
        let given = self.shared.given.load(Ordering::Acquire);
        if until.is_some() && limit > given {
            return Polled::Failed(format!(
                "this state has read the queue up to turn {limit}, and the file knows of {given} turns: an older copy was put back; put \
                 the file and the state back from one copy, or start with another --state"
            ));
        }
        let ingest_ns = self.clock.now_ns();
        let mut out = SourceRows::default();
        while out.bytes < max_bytes.max(1) as u64 && out.records < BATCH_ROWS {
            let Some(letter) = self.pop(limit) else { break };
            self.decode(&letter, ingest_ns, &mut out);
        }
        if !self.turns.is_empty() {
            match self.finish(ingest_ns) {
                Ok(rows) => out.rows.push(rows),
                Err(reason) => return Polled::Failed(reason),
            }
        }
        match &self.end {
            // What was read before is handed out first.
            _ if out.records > 0 => Polled::Some(out),
            Some(end) if self.waiting.is_empty() => match end {
                Some(reason) => Polled::Failed(reason.clone()),
                None => Polled::Done,
            },
            _ => Polled::Pending,
        }
    }

    fn marks(&self) -> Marks {
        Marks::from([(0, Mark { next: self.next, detail: self.detail.clone() })])
    }

    fn at_end(&self, _partition: u32) -> bool {
        self.next >= self.shared.given.load(Ordering::Acquire)
    }

    fn removal(&self) -> Option<Arc<dyn Removal>> {
        Some(self.removal.clone())
    }

    fn lag(&self) -> BTreeMap<u32, u64> {
        BTreeMap::from([(0, self.shared.given.load(Ordering::Acquire).saturating_sub(self.next))])
    }
}
