//! The thread that sends one batch after the other.
//!
//! A producer that is initialised fences those before it and ends their transactions; then the last mark is read, which
//! tells what is there. The first transaction of a start is a mark alone that says who writes: an engine whose producer is
//! fenced reads it, to tell another engine from a transaction that took too long. After a fatal error, and wherever the end
//! of a transaction is not known, there is a new producer, and the mark decides whether the batch is sent again.

use super::{Batch, Shared};
use crate::Exact;
use crate::common::lock;
use crate::delivery::OnError;
use crate::exact::{agree, taken_over};
use crate::kafka::connection::Context;
use crate::kafka::marks::{Mark, Marks, Place, Unread};
use crate::kafka::sink::{Record, UNKNOWN_TOPIC_GRACE, find_topic};
use crate::queue::{Popped, Receiver};
use engine_base::RowError;
use engine_dataflow::{ErrorRow, RowPosition};
use rdkafka::client::ClientContext;
use rdkafka::config::{ClientConfig, RDKafkaLogLevel};
use rdkafka::error::{KafkaError, RDKafkaError};
use rdkafka::message::{DeliveryResult, Message};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer, ProducerContext};
use rdkafka::types::RDKafkaErrorCode;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::time::{Duration, Instant};

/// How long an answer to a step of a transaction is waited for before it is asked for again.
const STEP_WAIT: Duration = Duration::from_secs(5);
/// How long an engine that was fenced waits for the other one to say who it is.
const CLAIM_WAIT: Duration = Duration::from_secs(2);
/// How long the thread sleeps at a time while there is nothing to do; then it hears what the brokers tell.
const IDLE_WAIT: Duration = Duration::from_millis(200);
/// How long other reports are waited for when one says that a transaction is to be undone.
const DOOMED_WAIT: Duration = Duration::from_millis(50);
/// The first and the longest pause before something is tried again.
const PAUSE: (Duration, Duration) = (Duration::from_millis(20), Duration::from_secs(2));
/// What goes with the mark, where rows have their number.
const MARK: usize = usize::MAX;

/// What librdkafka reports to.
struct Reports {
    context: Context,
    /// Records without a report.
    open: AtomicI64,
    /// Those that failed: row and why.
    failed: Mutex<Vec<(usize, RDKafkaErrorCode)>>,
    /// Where the last mark stands.
    mark: AtomicI64,
}

impl ClientContext for Reports {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        self.context.log(level, facility, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        self.context.error(error, reason);
    }
}

impl ProducerContext for Reports {
    type DeliveryOpaque = usize;

    fn delivery(&self, result: &DeliveryResult<'_>, row: usize) {
        match result {
            Ok(message) if row == MARK => self.mark.store(message.offset(), Ordering::Release),
            Ok(_) => {}
            Err((error, _)) => {
                let code = error.rdkafka_error_code().unwrap_or(RDKafkaErrorCode::Unknown);
                lock(&self.failed).push((row, code));
            }
        }
        self.open.fetch_sub(1, Ordering::AcqRel);
    }
}

/// Why something did not succeed.
enum Trouble {
    /// The transaction is undone: the same again, after a pause or at once with what was learned.
    Undone(String),
    /// The producer is of no more use, and what became of the transaction is not known.
    Broken { reason: String, fenced: bool },
    /// Nothing more can be done: a sentence.
    Stop(String),
    /// The sink is closed.
    Gone,
}

impl From<Unread> for Trouble {
    fn from(unread: Unread) -> Self {
        match unread {
            Unread::Again(reason) => Trouble::Broken { reason, fenced: false },
            Unread::Stop(reason) => Trouble::Stop(reason),
        }
    }
}

/// A producer with the markers read.
struct Session {
    producer: BaseProducer<Reports>,
    /// The last mark that is committed.
    mark: Mark,
    /// Where it stands.
    place: Place,
}

/// What was learned of the rows of a batch in transactions that were undone.
#[derive(Default)]
struct Learned {
    /// The brokers refuse them.
    refused: BTreeMap<u32, RowError>,
    /// They were in a request with one that is refused.
    suspect: BTreeSet<u32>,
}

/// What the thread has.
pub(super) struct Thread {
    pub(super) config: ClientConfig,
    /// The one topic, if there is one.
    pub(super) topic: Option<Arc<str>>,
    pub(super) on_error: OnError,
    pub(super) marks: Marks,
    pub(super) exact: Exact,
    pub(super) writer: String,
    /// The marks have been compared with the journal, and are ours.
    pub(super) claimed: bool,
    pub(super) shared: Arc<Shared>,
    pub(super) queue: Receiver<Batch>,
}

impl Thread {
    pub(super) fn run(mut self, told: &mpsc::Sender<Option<String>>) {
        let ended = self.work(told);
        if let Err(Trouble::Stop(reason)) = ended {
            // The one who opens it may be gone by now.
            let _ = told.send(Some(reason.clone()));
            self.shared.fail(reason);
        }
    }

    fn work(&mut self, told: &mpsc::Sender<Option<String>>) -> Result<(), Trouble> {
        let mut session = self.connect_again()?;
        let _ = told.send(None);
        loop {
            let batch = match self.queue.pop_within(IDLE_WAIT) {
                _ if self.shared.stopping() => return Ok(()),
                Popped::Item(batch) => batch,
                Popped::Empty => {
                    session.producer.poll(Duration::ZERO);
                    continue;
                }
                Popped::Closed => return Ok(()),
            };
            let refused = self.deliver(&mut session, &batch)?;
            self.answer(&session, batch, refused);
        }
    }

    /// A batch is in the topic when this returns. The rows that the brokers refused.
    fn deliver(&mut self, session: &mut Session, batch: &Batch) -> Result<Vec<(u32, RowError)>, Trouble> {
        let (mut learned, mut pause) = (Learned::default(), PAUSE.0);
        if let Some((_, error)) = batch.failed.first() {
            self.may_fail(error)?;
        }
        loop {
            if batch.sequence <= session.mark.sequence {
                let (name, sequence, last) = (&self.shared.name, batch.sequence, session.mark.sequence);
                return session.mark.failed_of(sequence).ok_or_else(|| {
                    Trouble::Stop(format!(
                        "`{name}`: batch {sequence} was written before batch {last}, too long ago to know which of its rows \
                         failed; start once with `--reset-sink {name}`: then its rows come again"
                    ))
                });
            }
            let known = learned.refused.len() + learned.suspect.len();
            match self.transact(session, batch, &mut learned) {
                Ok(refused) => return Ok(refused),
                Err(Trouble::Undone(reason)) => {
                    self.shared.retries.fetch_add(1, Ordering::Relaxed);
                    if learned.refused.len() + learned.suspect.len() == known {
                        self.shared.context.trouble("a transaction was undone; trying again", &reason);
                        self.pause(&mut pause)?;
                    }
                }
                Err(Trouble::Broken { reason, fenced }) => {
                    self.shared.retries.fetch_add(1, Ordering::Relaxed);
                    self.shared.context.trouble("a transaction has no end that is known; looking", &reason);
                    if fenced {
                        self.look_who_writes()?;
                    }
                    self.pause(&mut pause)?;
                    *session = self.connect_again()?;
                }
                Err(trouble) => return Err(trouble),
            }
        }
    }

    /// One transaction. What the brokers say of single rows is learned, and the transaction undone.
    fn transact(
        &self,
        session: &mut Session,
        batch: &Batch,
        learned: &mut Learned,
    ) -> Result<Vec<(u32, RowError)>, Trouble> {
        let producer = &session.producer;
        self.check_faults(producer)?;
        producer.begin_transaction().map_err(|error| self.broken(producer, &error))?;
        let mut sent = Ok(());
        for record in &batch.records {
            let row = record.what as u32;
            if learned.refused.contains_key(&row) {
                continue;
            }
            let alone = learned.suspect.contains(&row);
            if alone {
                self.drain(producer)?;
            }
            match self.send(producer, record) {
                Ok(()) => {}
                Err(error) => match row_fault(&error) {
                    // Nothing was sent, so the transaction is as good as before.
                    Some(fault) => drop(learned.refused.insert(row, fault)),
                    None => {
                        sent = Err(error);
                        break;
                    }
                },
            }
            if alone {
                self.drain(producer)?;
            }
            if !lock(&producer.context().failed).is_empty() {
                break;
            }
        }
        let refused: Vec<(u32, RowError)> = learned.refused.iter().map(|(row, error)| (*row, error.clone())).collect();
        let mut mark = session.mark.next(batch.sequence, &refused);
        mark.writer.clone_from(&self.writer);
        let is_doomed = |producer: &BaseProducer<Reports>| !lock(&producer.context().failed).is_empty();
        if sent.is_ok() && !is_doomed(producer) {
            sent = self.send_mark(producer, &mark, session.place.partition);
        }
        self.drain(producer)?;
        let failed = std::mem::take(&mut *lock(&producer.context().failed));
        if let Some((_, code)) = failed.first() {
            learned.add(&failed);
            let undone = self.undo(producer, code.to_string());
            if let Some((_, error)) = learned.refused.first_key_value() {
                self.may_fail(error)?;
            }
            return Err(undone);
        }
        if let Err(error) = sent {
            return Err(self.undo(producer, error.to_string()));
        }
        if let Some((_, error)) = refused.first() {
            // With `on_error: stop` nothing of such a batch is written.
            if let Err(stop) = self.may_fail(error) {
                let _ = self.undo(producer, error.to_string());
                return Err(stop);
            }
        }
        self.commit(producer)?;
        session.place.offset = producer.context().mark.load(Ordering::Acquire);
        session.mark = mark;
        Ok(refused)
    }

    fn commit(&self, producer: &BaseProducer<Reports>) -> Result<(), Trouble> {
        loop {
            let error = match producer.commit_transaction(STEP_WAIT) {
                Ok(()) => return Ok(()),
                Err(error) => error,
            };
            match &error {
                // It goes on where it was, and the end is awaited again.
                KafkaError::Transaction(inner) if inner.is_retriable() && !inner.is_fatal() => {}
                KafkaError::Flush(_) => {}
                KafkaError::Transaction(inner) if inner.txn_requires_abort() => {
                    return Err(self.undo(producer, error.to_string()));
                }
                _ => return Err(self.broken(producer, &error)),
            }
            self.shared.context.trouble("a commit has no answer yet; asking again", &error.to_string());
            self.check_faults(producer)?;
        }
    }

    /// Undoes a transaction: why the batch is not written.
    fn undo(&self, producer: &BaseProducer<Reports>, reason: String) -> Trouble {
        let done = AtomicBool::new(false);
        let undone = std::thread::scope(|scope| {
            // What was still on its way is reported, and the reports are to be heard meanwhile.
            scope.spawn(|| {
                while !done.load(Ordering::Acquire) {
                    producer.poll(Duration::from_millis(1));
                }
            });
            let undone = loop {
                match producer.abort_transaction(STEP_WAIT) {
                    Err(KafkaError::Transaction(error)) if error.is_retriable() && !error.is_fatal() => {
                        if let Err(trouble) = self.check_faults(producer) {
                            break Err(trouble);
                        }
                    }
                    Err(error) => break Err(self.broken(producer, &error)),
                    Ok(()) => break Ok(()),
                }
            };
            done.store(true, Ordering::Release);
            undone
        });
        // No report of this transaction may be taken for one of the next.
        while undone.is_ok() && producer.context().open.load(Ordering::Acquire) > 0 {
            producer.poll(Duration::from_millis(1));
            if let Err(trouble) = self.check_faults(producer) {
                return trouble;
            }
        }
        lock(&producer.context().failed).clear();
        undone.err().unwrap_or(Trouble::Undone(reason))
    }

    fn send(&self, producer: &BaseProducer<Reports>, record: &Record) -> Result<(), KafkaError> {
        let named;
        let topic = match (&record.topic, &self.topic) {
            (Some(topic), _) => {
                named = String::from_utf8_lossy(topic);
                &*named
            }
            (None, Some(topic)) => topic,
            (None, None) => return Err(KafkaError::MessageProduction(RDKafkaErrorCode::InvalidTopic)),
        };
        let mut new: BaseRecord<'_, [u8], [u8], usize> =
            BaseRecord::with_opaque_to(topic, record.what as usize).payload(&record.value);
        new.key = record.key.as_deref();
        new.headers = record.headers.clone();
        self.send_new(producer, new)
    }

    fn send_mark(&self, producer: &BaseProducer<Reports>, mark: &Mark, partition: i32) -> Result<(), KafkaError> {
        let value = serde_json::to_vec(mark).unwrap_or_default();
        let new: BaseRecord<'_, [u8], [u8], usize> = BaseRecord::with_opaque_to(&self.marks.topic, MARK)
            .partition(partition)
            .key(self.marks.key.as_bytes())
            .payload(&value);
        self.send_new(producer, new)
    }

    fn send_new(
        &self,
        producer: &BaseProducer<Reports>,
        mut new: BaseRecord<'_, [u8], [u8], usize>,
    ) -> Result<(), KafkaError> {
        producer.context().open.fetch_add(1, Ordering::AcqRel);
        loop {
            let error = match producer.send(new) {
                Ok(()) => return Ok(()),
                Err((error, unsent)) => {
                    new = unsent;
                    error
                }
            };
            let is_full = error.rdkafka_error_code() == Some(RDKafkaErrorCode::QueueFull);
            if !is_full || self.shared.stopping() {
                producer.context().open.fetch_sub(1, Ordering::AcqRel);
                return Err(error);
            }
            producer.poll(Duration::from_millis(1));
        }
    }

    /// Waits until all that was sent is reported; a little longer only, where something failed and all is to be undone.
    fn drain(&self, producer: &BaseProducer<Reports>) -> Result<(), Trouble> {
        let begun = Instant::now();
        let mut doomed: Option<Instant> = None;
        while producer.context().open.load(Ordering::Acquire) > 0 {
            let wait = if begun.elapsed() < Duration::from_millis(100) { 1 } else { 10 };
            producer.poll(Duration::from_millis(wait));
            self.check_faults(producer)?;
            if !lock(&producer.context().failed).is_empty()
                && doomed.get_or_insert_with(Instant::now).elapsed() > DOOMED_WAIT
            {
                break;
            }
        }
        Ok(())
    }

    /// Whether it makes sense to go on with this producer.
    fn check_faults(&self, producer: &BaseProducer<Reports>) -> Result<(), Trouble> {
        if self.shared.stopping() {
            return Err(Trouble::Gone);
        }
        if let Some(fault) = self.shared.context.fault() {
            return Err(Trouble::Stop(fault));
        }
        match self.shared.context.is_fatal().then(|| producer.client().fatal_error()).flatten() {
            Some((code, reason)) => Err(broken_by(code, reason)),
            None => Ok(()),
        }
    }

    fn broken(&self, producer: &BaseProducer<Reports>, error: &KafkaError) -> Trouble {
        match producer.client().fatal_error() {
            Some((code, reason)) => broken_by(code, reason),
            None => broken_by(code_of(error), error.to_string()),
        }
    }

    /// With `on_error: stop` no row may fail.
    fn may_fail(&self, error: &RowError) -> Result<(), Trouble> {
        match self.on_error {
            OnError::Stop => Err(Trouble::Stop(format!("a row could not be delivered: {error}"))),
            OnError::DeadLetter => Ok(()),
        }
    }

    fn pause(&self, pause: &mut Duration) -> Result<(), Trouble> {
        let until = Instant::now() + *pause;
        *pause = (*pause * 2).min(PAUSE.1);
        while Instant::now() < until {
            if self.shared.stopping() {
                return Err(Trouble::Gone);
            }
            std::thread::sleep(until.saturating_duration_since(Instant::now()).min(Duration::from_millis(50)));
        }
        Ok(())
    }

    /// After a newer producer has ended ours: whether it is another engine's. Otherwise our transaction took too long.
    fn look_who_writes(&self) -> Result<(), Trouble> {
        self.pause(&mut CLAIM_WAIT.clone())?;
        let exact = Exact { reset: false, ..self.exact.clone() };
        let mut pause = PAUSE.0;
        loop {
            match self.marks.read(&exact, &|| self.shared.stopping()) {
                Ok((Some(mark), _)) if mark.writer == self.writer => return Ok(()),
                Ok(_) => return Err(self.taken_over()),
                Err(Unread::Stop(reason)) => return Err(Trouble::Stop(reason)),
                Err(Unread::Again(reason)) => {
                    self.shared.context.trouble("the marks can't be read; trying again", &reason);
                    self.pause(&mut pause)?;
                }
            }
        }
    }

    fn taken_over(&self) -> Trouble {
        Trouble::Stop(taken_over(&self.shared.name, &self.marks.shown()))
    }

    /// A producer that the brokers have accepted, tried for until there is one.
    fn connect_again(&mut self) -> Result<Session, Trouble> {
        let mut pause = PAUSE.0;
        loop {
            match self.connect() {
                Err(Trouble::Broken { reason, .. } | Trouble::Undone(reason)) => {
                    self.shared.context.trouble("no transactions yet; trying again", &reason);
                    self.pause(&mut pause)?;
                }
                connected => return connected,
            }
        }
    }

    fn connect(&mut self) -> Result<Session, Trouble> {
        let reports = Reports {
            context: self.shared.context.clone(),
            open: AtomicI64::new(0),
            failed: Mutex::default(),
            mark: AtomicI64::new(-1),
        };
        let producer: BaseProducer<Reports> = self
            .config
            .create_with_context(reports)
            .map_err(|error| Trouble::Stop(format!("no client of Kafka can be made: {error}")))?;
        self.check_topic(&producer)?;
        // Ends what an earlier producer has begun, and keeps it from going on.
        loop {
            match producer.init_transactions(STEP_WAIT) {
                Ok(()) => break,
                Err(KafkaError::Transaction(error)) if error.is_retriable() && !error.is_fatal() => {
                    self.shared.context.trouble("no transactions yet; trying again", &error.string());
                    self.check_faults(&producer)?;
                }
                Err(error) => return Err(self.not_initialised(&producer, &error)),
            }
        }
        let (found, partition) = self.marks.read(&self.exact, &|| self.shared.stopping())?;
        let place = Place { topic: self.marks.topic.clone(), partition, offset: 0 };
        let mut session = Session { producer, mark: found.clone().unwrap_or_default(), place };
        if self.claimed {
            return match session.mark.writer == self.writer {
                true => Ok(session),
                false => Err(self.taken_over()),
            };
        }
        if self.exact.reset {
            let sequence = self.exact.delivered_sequence();
            session.mark = Mark { sequence, since: sequence + 1, ..Mark::default() };
        } else {
            let known = found.map(|mark| mark.sequence);
            agree(&self.shared.name, &self.marks.shown(), &self.exact, known).map_err(Trouble::Stop)?;
            let delivered = self.exact.delivered_sequence();
            session.mark.failed.retain(|failed| failed.batch > delivered);
        }
        self.claim(&mut session)?;
        self.claimed = true;
        // A second reading is to go by what was written now.
        self.exact.reset = false;
        Ok(session)
    }

    /// A transaction with the mark alone, which says that we write.
    fn claim(&self, session: &mut Session) -> Result<(), Trouble> {
        let producer = &session.producer;
        session.mark.writer.clone_from(&self.writer);
        producer.begin_transaction().map_err(|error| self.broken(producer, &error))?;
        let sent = self.send_mark(producer, &session.mark, session.place.partition);
        sent.map_err(|error| self.broken(producer, &error))?;
        self.drain(producer)?;
        let failed = lock(&producer.context().failed).pop();
        if let Some((_, code)) = failed {
            return Err(match code {
                RDKafkaErrorCode::TopicAuthorizationFailed => {
                    Trouble::Stop(format!("{} can't be written to: it is not allowed", self.marks.shown()))
                }
                code => Trouble::Broken { reason: code.to_string(), fenced: false },
            });
        }
        self.commit(producer)?;
        session.place.offset = producer.context().mark.load(Ordering::Acquire);
        Ok(())
    }

    fn check_topic(&self, producer: &BaseProducer<Reports>) -> Result<(), Trouble> {
        let Some(topic) = &self.topic else { return Ok(()) };
        let begun = Instant::now();
        loop {
            match find_topic(producer.client(), &self.shared.context, topic).map_err(Trouble::Stop)? {
                Some(true) => return Ok(()),
                Some(false) if begun.elapsed() > UNKNOWN_TOPIC_GRACE => {
                    let brokers = self.shared.context.brokers();
                    return Err(Trouble::Stop(format!("there is no topic `{topic}` at {brokers}")));
                }
                Some(false) => std::thread::sleep(Duration::from_millis(20)),
                None => return Err(Trouble::Broken { reason: "no answer".to_owned(), fenced: false }),
            }
            producer.poll(Duration::ZERO);
            self.check_faults(producer)?;
        }
    }

    fn not_initialised(&self, producer: &BaseProducer<Reports>, error: &KafkaError) -> Trouble {
        let sentence = |what: &str| Trouble::Stop(format!("`{}`: {what}", self.shared.name));
        match code_of(error) {
            RDKafkaErrorCode::TransactionalIdAuthorizationFailed | RDKafkaErrorCode::ClusterAuthorizationFailed => {
                let id = self.config.get("transactional.id").unwrap_or_default();
                sentence(&format!("the brokers don't allow transactions of the transactional id `{id}`"))
            }
            RDKafkaErrorCode::InvalidTransactionTimeout => sentence(
                "the brokers allow no transaction so long as `transaction.timeout.ms` says; lower it in `options` of the \
                 connection",
            ),
            RDKafkaErrorCode::UnsupportedFeature => sentence("the brokers have no transactions"),
            _ => match self.broken(producer, error) {
                // It is fenced at once by one that starts beside it; whoever is the last will write.
                Trouble::Broken { reason, .. } => Trouble::Broken { reason, fenced: false },
                trouble => trouble,
            },
        }
    }

    fn answer(&self, session: &Session, batch: Batch, refused: Vec<(u32, RowError)>) {
        let Batch { sequence, records, failed, mut values, bytes, positions, ingest_ns } = batch;
        let shared = &self.shared;
        let rows = (records.len() + failed.len()) as u64;
        let mut errors: Vec<(u32, RowError)> = failed;
        errors.extend(refused.iter().cloned());
        errors.sort_by_key(|(row, _)| *row);
        let refused: BTreeSet<u32> = refused.into_iter().map(|(row, _)| row).collect();
        if !refused.is_empty() {
            let of_refused = records.into_iter().filter(|record| refused.contains(&(record.what as u32)));
            values.extend(of_refused.map(|record| (record.what as u32, record.value)));
        }
        let errors = errors.into_iter().map(|(row, error)| {
            let (origin, offset) = positions.source(row as usize);
            let position = RowPosition { origin, offset, suffix: positions.suffix(row as usize).into() };
            let payload = values.remove(&row).unwrap_or_default();
            ErrorRow { step: shared.name.clone(), error, payload, position, ingest_ns: ingest_ns.get(row as usize) }
        });
        let errors: Vec<ErrorRow> = errors.collect();
        let count = errors.len() as u64;
        shared.queued_rows.fetch_sub(rows, Ordering::Relaxed);
        shared.queued_bytes.fetch_sub(bytes, Ordering::Relaxed);
        shared.rows.fetch_add(rows - count, Ordering::Relaxed);
        shared.bytes.fetch_add(bytes, Ordering::Relaxed);
        shared.failed.fetch_add(count, Ordering::Relaxed);
        let note = serde_json::to_string(&session.place).ok();
        let mut end = lock(&shared.end);
        end.up_to = sequence;
        end.note = note;
        end.failed.extend(errors);
        drop(end);
        shared.wake();
    }
}

impl Learned {
    /// Goes by the reports of a transaction. Where a request is too large, any of its records may be at fault.
    fn add(&mut self, failed: &[(usize, RDKafkaErrorCode)]) {
        let of_rows = failed.iter().filter(|(row, _)| *row != MARK);
        let faults: VecDeque<(u32, RDKafkaErrorCode, RowError)> = of_rows
            .filter_map(|(row, code)| Some((*row as u32, *code, row_fault(&KafkaError::MessageProduction(*code))?)))
            .collect();
        let too_large = |code| matches!(code, RDKafkaErrorCode::MessageSizeTooLarge);
        let alone = faults.iter().filter(|(_, code, _)| too_large(*code)).count() == 1;
        for (row, code, error) in faults {
            match too_large(code) && !alone {
                true => drop(self.suspect.insert(row)),
                false => {
                    self.suspect.remove(&row);
                    self.refused.insert(row, error);
                }
            }
        }
    }
}

/// The error of a row, where the brokers will never have it as it is.
fn row_fault(error: &KafkaError) -> Option<RowError> {
    let code = error.rdkafka_error_code()?;
    let kind = match code {
        RDKafkaErrorCode::MessageSizeTooLarge | RDKafkaErrorCode::InvalidMessageSize => "too_large",
        RDKafkaErrorCode::UnknownTopic
        | RDKafkaErrorCode::UnknownTopicOrPartition
        | RDKafkaErrorCode::UnknownPartition
        | RDKafkaErrorCode::InvalidTopic
        | RDKafkaErrorCode::InvalidArgument
        | RDKafkaErrorCode::TopicAuthorizationFailed
        | RDKafkaErrorCode::InvalidRecord
        | RDKafkaErrorCode::InvalidTimestamp
        | RDKafkaErrorCode::PolicyViolation => "rejected",
        _ => return None,
    };
    Some(RowError::new(kind, code.to_string()))
}

fn code_of(error: &KafkaError) -> RDKafkaErrorCode {
    let inner = match error {
        KafkaError::Transaction(inner) => Some(RDKafkaError::code(inner)),
        _ => None,
    };
    inner.or_else(|| error.rdkafka_error_code()).unwrap_or(RDKafkaErrorCode::Unknown)
}

fn broken_by(code: RDKafkaErrorCode, reason: String) -> Trouble {
    let fenced = matches!(
        code,
        RDKafkaErrorCode::Fenced | RDKafkaErrorCode::ProducerFenced | RDKafkaErrorCode::InvalidProducerEpoch
    );
    Trouble::Broken { reason, fenced }
}
