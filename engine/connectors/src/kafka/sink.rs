//! The sink `kafka`: one idempotent producer a process, shared by the workers.
//!
//! ```text
//! worker: encode, key, headers ─▶ librdkafka's queue (bounded) ─▶ broker ─▶ delivery reports ─▶ tickets in order
//! ```
//!
//! The producer waits for all replicas (`acks=all`), numbers its records so that a retry is never stored twice or out of
//! order (`enable.idempotence`), and tries for ever unless `timeout` says otherwise: brokers that can't be reached slow the
//! source and lose nothing. Rows of one partition of the pipeline reach the topic in their order, key by key. A record that
//! the brokers will never take (too large, no such topic) is a failed row; a fault of the producer itself, a refused
//! password or a topic of the pipeline that is not there stop the pipeline.
//!
//! Exactly once it is another one: [`exact`].

mod exact;

use super::check_topic;
use super::connection::{Connection, Context};
use crate::common::lock;
use crate::delivery::OnError;
use crate::formats::{Encoding, RecordEncoder, first_columns};
use crate::tickets::Tickets;
use crate::{SinkEntry, SinkHandle, SinkStart, SinkStats, texts};
use arrow::datatypes::SchemaRef;
use engine_base::codes::{spec as spec_codes, system as codes};
use engine_base::{Diagnostic, RowError};
use engine_dataflow::{Acknowledged, ErrorRow, Positions, RowPosition, Rows, Times, Waker, Writer};
use engine_expr::{Program, Scalar, Scope};
use engine_plan::{Columns, Cx, ExactlyOnce, Planned, PlannedSink, SinkCommon, SinkKind, StreamType};
use engine_spec::{Expression, TimeSpan};
use indexmap::IndexMap;
use rdkafka::client::{Client, ClientContext};
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::error::KafkaError;
use rdkafka::message::{DeliveryResult, Header, Message, OwnedHeaders};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer, ProducerContext};
use rdkafka::types::RDKafkaErrorCode;
use schemars::JsonSchema;
use serde::Deserialize;
use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// The registry line.
pub const ENTRY: SinkEntry = SinkEntry {
    kind: SinkKind {
        name: "kafka",
        summary: "Rows as records of a Kafka topic.",
        config_schema: |generator| KafkaSinkKeys::json_schema(generator),
        encodes: true,
        sees_all: true,
        changelogs: false,
        plan,
    },
    open: |planned, start| open(planned, start),
};

/// How many bytes of records wait for the brokers.
const QUEUE_BYTES: u64 = 32 << 20;
/// How many records wait for the brokers: each costs librdkafka some hundred bytes of its own.
const QUEUE_ROWS: u64 = 200_000;
/// How long the thread waits for delivery reports at a time; so long may it take to notice that it is to stop.
const POLL_WAIT: Duration = Duration::from_millis(200);
/// How long an answer of the brokers is waited for before it is asked for again.
const ANSWER_WAIT: Duration = Duration::from_secs(2);
/// The shortest `timeout`: records wait for their batch, and for the brokers' disks.
const TIMEOUT_MIN: Duration = Duration::from_millis(100);
/// A topic may just have been created, and not be known to all brokers.
const UNKNOWN_TOPIC_GRACE: Duration = Duration::from_secs(5);
/// How many bits of what goes with a record are its row and its ticket; above them stands its writer.
const ROW_BITS: u32 = 24;
const TICKET_BITS: u32 = 24;
const TICKET_MASK: u64 = (1 << TICKET_BITS) - 1;

/// The keys of a `kafka` sink, beside those of every sink.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct KafkaSinkKeys {
    /// The connection, of type `kafka`.
    connection: String,
    /// The topic; or `{ expression: ... }`, which gives each row's.
    topic: TopicKey,
    /// What records are put into partitions by: those of one key stay in their order. Partitions are chosen as Java's clients
    /// do. Without a key, or where it is null, they are spread. It sees the columns that `columns` gives, and those of the
    /// input that it leaves out.
    key: Option<Expression>,
    /// Headers of each record: name and expression. A header that is null is left out.
    #[serde(default)]
    headers: IndexMap<String, Expression>,
    /// The topic of the marks by which batches are known again, with `delivery: exactly_once`: `_engine_commits` unless said. It
    /// is made, compacted, if it is not there. A pipeline that changes it needs `--reset-sink`.
    commits_topic: Option<String>,
    /// How long a record may try to reach the brokers before it fails. For ever unless said, so that an outage costs no row.
    timeout: Option<TimeSpan>,
    /// What becomes of a row that can't be delivered.
    #[serde(default)]
    on_error: OnError,
}

/// A topic, or how to tell each row's.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(untagged, expecting = "the name of a topic, or `{ expression: ... }`")]
enum TopicKey {
    /// The same for all rows.
    Name(String),
    /// Each row's own.
    ByRow(TopicExpression),
}

/// How to tell each row's topic.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct TopicExpression {
    /// A text that must not be null.
    expression: Expression,
}

/// A planned sink.
#[derive(Debug)]
struct KafkaSink {
    connection: Connection,
    topic: Topic<Scalar>,
    key: Option<Scalar>,
    headers: Vec<(String, Scalar)>,
    commits_topic: Option<String>,
    timeout: Option<TimeSpan>,
    on_error: OnError,
    encoding: Encoding,
    /// The columns of a record's value.
    columns: SchemaRef,
}

#[derive(Clone, Debug)]
enum Topic<E> {
    Name(Arc<str>),
    ByRow(E),
}

impl KafkaSink {
    fn expressions(&self) -> impl Iterator<Item = &Scalar> {
        let topic = match &self.topic {
            Topic::Name(_) => None,
            Topic::ByRow(expression) => Some(expression),
        };
        topic.into_iter().chain(&self.key).chain(self.headers.iter().map(|(_, value)| value))
    }
}

impl Planned for KafkaSink {
    fn reads(&self, _wanted: &[Columns]) -> Vec<Columns> {
        let mut reads: Columns = self.columns.fields().iter().map(|field| field.name().clone()).collect();
        for expression in self.expressions() {
            reads.extend(expression.columns().iter().cloned());
            engine_plan::rowwise::reads_event_time(expression, &mut reads);
        }
        vec![reads]
    }

    fn facts(&self) -> Vec<(String, String)> {
        let topic = match &self.topic {
            Topic::Name(name) => name.to_string(),
            Topic::ByRow(expression) => expression.text().to_owned(),
        };
        let mut facts = vec![
            ("topic".to_owned(), topic),
            ("brokers".to_owned(), self.connection.brokers.clone()),
            ("format".to_owned(), self.encoding.name().to_owned()),
        ];
        if let Some(key) = &self.key {
            facts.push(("key".to_owned(), key.text().to_owned()));
        }
        facts
    }
}

fn plan(cx: &mut Cx<'_>, input: &StreamType, common: &SinkCommon) -> Option<PlannedSink> {
    let keys: Option<KafkaSinkKeys> = cx.config.decode(cx.diagnostics);
    let encoding = Encoding::plan(cx, common);
    let encoding = encoding.filter(|encoding| {
        let has_header = !encoding.encoder(&common.columns).header().is_empty();
        if has_header {
            let found = Diagnostic::error(
                codes::FORMAT_NOT_CARRIED,
                cx.span(&["format"]),
                "a record of a topic has no header before it",
            );
            cx.push(found.help("write `format: { type: csv, header: false }`"));
        }
        !has_header
    });
    let keys = keys?;
    let connection = Connection::find(cx, &keys.connection);
    let scope = Scope::new(input.schema.clone());
    let topic_of_rows = match &keys.topic {
        TopicKey::Name(name) => check_topic(cx, &["topic"], name).then(|| Topic::Name(Arc::from(name.as_str()))),
        TopicKey::ByRow(topic) => plan_topic(cx, &topic.expression, &scope).map(Topic::ByRow),
    };
    let key = match &keys.key {
        Some(key) => plan_text(cx, &["key"], key, &scope, "a key").map(Some),
        None => Some(None),
    };
    let headers = plan_headers(cx, &keys.headers, &scope);
    let mut sound = true;
    if keys.timeout.is_some_and(|timeout| timeout.duration() < TIMEOUT_MIN) {
        let message =
            format!("a `timeout` of less than {} leaves no time to deliver", TimeSpan(TIMEOUT_MIN.as_nanos() as i64));
        let found = Diagnostic::error(spec_codes::OUT_OF_RANGE, cx.span(&["timeout"]), message);
        cx.push(found.help("leave it out to wait as long as it takes"));
        sound = false;
    }
    if let Some(topic) = &keys.commits_topic {
        sound &= check_topic(cx, &["commits_topic"], topic);
        if let (true, Some(Topic::Name(rows))) = (sound, &topic_of_rows)
            && **rows == **topic
        {
            let message = format!("rows and marks can't both be in `{topic}`");
            let found = Diagnostic::error(spec_codes::BAD_VALUE, cx.span(&["commits_topic"]), message);
            cx.push(found.help("leave `commits_topic` out, or name a topic for marks alone"));
            sound = false;
        }
    }
    let planned = KafkaSink {
        connection: connection?,
        topic: topic_of_rows?,
        key: key?,
        headers: headers?,
        commits_topic: keys.commits_topic,
        timeout: keys.timeout,
        on_error: keys.on_error,
        encoding: encoding?,
        columns: common.columns.clone(),
    };
    let (can_fail, timeout_ns) = (keys.on_error == OnError::DeadLetter, keys.timeout.map(TimeSpan::ns));
    sound.then(|| PlannedSink {
        can_fail,
        timeout_ns,
        exactly_once: match keys.timeout {
            Some(_) => ExactlyOnce::No {
                reason: "`timeout` gives up rows that the brokers may have",
                help: "leave `timeout` out: rows wait for the brokers as long as it takes",
            },
            None => {
                ExactlyOnce::By("rows and a mark in one transaction, for readers with `isolation.level=read_committed`")
            }
        },
        planned: Arc::new(planned),
    })
}

fn plan_text(cx: &mut Cx<'_>, path: &[&str], expression: &Expression, scope: &Scope, what: &str) -> Option<Scalar> {
    let scalar = cx.scalar(path, expression, scope)?;
    texts::check(cx, path, &scalar, what).then_some(scalar)
}

fn plan_topic(cx: &mut Cx<'_>, expression: &Expression, scope: &Scope) -> Option<Scalar> {
    const PATH: [&str; 2] = ["topic", "expression"];
    let topic = plan_text(cx, &PATH, expression, scope, "a topic")?;
    if topic.nullable() {
        let found =
            Diagnostic::error(codes::MAY_BE_NULL, cx.span(&PATH), "a topic must not be null, and this one may be")
                .help(format!("filter such rows away, or give them a topic: `coalesce({}, 'other')`", topic.text()));
        cx.push(found);
        return None;
    }
    Some(topic)
}

fn plan_headers(
    cx: &mut Cx<'_>,
    headers: &IndexMap<String, Expression>,
    scope: &Scope,
) -> Option<Vec<(String, Scalar)>> {
    let mut sound = true;
    let mut planned = Vec::new();
    for (name, expression) in headers {
        let path = ["headers", name.as_str()];
        if name.is_empty() || name.contains('\0') {
            let entry = cx.component.node.get("headers").and_then(|node| node.entry(name));
            let span = entry.map_or_else(|| cx.span(&["headers"]), |entry| entry.key_span);
            cx.push(Diagnostic::error(codes::BAD_HEADER, span, "a header has a name").help("name it, or leave it out"));
            sound = false;
        }
        match plan_text(cx, &path, expression, scope, "a header") {
            Some(value) => planned.push((name.clone(), value)),
            None => sound = false,
        }
    }
    sound.then_some(planned)
}

fn open(planned: &dyn Planned, start: SinkStart) -> Result<Box<dyn SinkHandle>, String> {
    let plan: &KafkaSink = planned.downcast().ok_or("not a planned kafka sink")?;
    let compiled = Compiled::new(plan, &start.schema)?;
    drop(compiled);
    if let Some(exact) = start.exact.clone() {
        return exact::open(plan, start, exact);
    }
    let timeout_ms = plan.timeout.map_or(0, |timeout| timeout.duration().as_millis()).to_string();
    let speed = [
        // What gathers while requests are on their way goes together anyhow.
        ("linger.ms", "2"),
        ("compression.type", "none"),
        // Where Java's clients put a key, so do we.
        ("partitioner", "murmur2_random"),
        ("queue.buffering.max.messages", "400000"),
        ("queue.buffering.max.kbytes", "131072"),
        ("topic.metadata.propagation.max.ms", "10000"),
    ];
    let fixed = [
        ("enable.idempotence", "true"),
        ("acks", "all"),
        ("message.timeout.ms", timeout_ms.as_str()),
        ("delivery.report.only.error", "false"),
    ];
    let shared = Arc::new(Shared {
        name: start.name.clone(),
        context: plan.connection.context(&start.name),
        on_error: plan.on_error,
        lines: Mutex::default(),
        fatal: OnceLock::new(),
        rows: AtomicU64::new(0),
        bytes: AtomicU64::new(0),
        failed: AtomicU64::new(0),
        queued_rows: AtomicU64::new(0),
        queued_bytes: AtomicU64::new(0),
        stop: AtomicBool::new(false),
    });
    let producer: BaseProducer<Reports> = plan
        .connection
        .client(&speed, &fixed)
        .create_with_context(Reports(shared.clone()))
        .map_err(|error| format!("no client of Kafka can be made: {error}"))?;
    let producer = Arc::new(producer);
    let topic = match &plan.topic {
        Topic::Name(name) => Some(name.clone()),
        Topic::ByRow(_) => None,
    };
    let (polled, told) = (producer.clone(), shared.clone());
    let thread = std::thread::Builder::new()
        .name(format!("kafka {}", start.name))
        .spawn(move || poll(&polled, &told, topic.as_deref()))
        .map_err(|error| format!("a thread can't be started: {error}"))?;
    Ok(Box::new(Handle {
        plan: Planner {
            topic: plan.topic.clone(),
            key: plan.key.clone(),
            headers: plan.headers.clone(),
            encoding: plan.encoding.clone(),
            columns: plan.columns.clone(),
            schema: start.schema,
        },
        producer,
        shared,
        thread: Some(thread),
    }))
}

/// Serves what the brokers tell until it is to stop.
fn poll(producer: &BaseProducer<Reports>, shared: &Shared, topic: Option<&str>) {
    let mut unchecked = topic;
    let mut unknown_since: Option<Instant> = None;
    while !shared.stop.load(Ordering::Acquire) {
        producer.poll(if unchecked.is_some() { Duration::from_millis(10) } else { POLL_WAIT });
        if let Some(topic) = unchecked {
            match find_topic(producer.client(), &shared.context, topic) {
                Ok(Some(true)) => unchecked = None,
                Ok(Some(false)) if unknown_since.get_or_insert_with(Instant::now).elapsed() > UNKNOWN_TOPIC_GRACE => {
                    shared.fail(format!("there is no topic `{topic}` at {}", shared.context.brokers()));
                    unchecked = None;
                }
                Ok(Some(false) | None) => {}
                Err(problem) => {
                    shared.fail(problem);
                    unchecked = None;
                }
            }
        }
        if let Some(fault) = shared.context.fault() {
            shared.fail(fault);
        }
        if shared.context.is_fatal()
            && let Some((_, reason)) = producer.client().fatal_error()
        {
            shared.fail(format!("the producer can't go on: {reason}"));
        }
    }
}

/// Whether there is such a topic; `None` if that can't be told now, and a sentence if it may not be written to.
fn find_topic<C: ClientContext>(client: &Client<C>, context: &Context, topic: &str) -> Result<Option<bool>, String> {
    match client.fetch_metadata(Some(topic), ANSWER_WAIT) {
        Ok(metadata) => {
            let Some(found) = metadata.topics().iter().find(|found| found.name() == topic) else { return Ok(None) };
            match found.error().map(RDKafkaErrorCode::from) {
                None => Ok(Some(true)),
                Some(RDKafkaErrorCode::UnknownTopic | RDKafkaErrorCode::UnknownTopicOrPartition) => Ok(Some(false)),
                Some(error @ (RDKafkaErrorCode::TopicAuthorizationFailed | RDKafkaErrorCode::InvalidTopic)) => {
                    Err(format!("the topic `{topic}` can't be written to: {error}"))
                }
                Some(_) => Ok(None),
            }
        }
        Err(error) => {
            context.trouble("the brokers can't be reached yet; rows wait", &error.to_string());
            Ok(None)
        }
    }
}

/// What is needed to make a writer.
struct Planner {
    topic: Topic<Scalar>,
    key: Option<Scalar>,
    headers: Vec<(String, Scalar)>,
    encoding: Encoding,
    /// The columns of a record's value, and all that come with a row.
    columns: SchemaRef,
    schema: SchemaRef,
}

/// The expressions of one writer.
struct Compiled {
    topic: Topic<Program>,
    key: Option<Program>,
    headers: Vec<(String, Program)>,
}

impl Compiled {
    fn new(plan: &KafkaSink, schema: &SchemaRef) -> Result<Self, String> {
        Self::of(&plan.topic, plan.key.as_ref(), &plan.headers, schema)
    }

    fn of(
        topic: &Topic<Scalar>,
        key: Option<&Scalar>,
        headers: &[(String, Scalar)],
        schema: &SchemaRef,
    ) -> Result<Self, String> {
        let compile = |scalar: &Scalar| scalar.compile(schema).map_err(|error| error.message);
        Ok(Compiled {
            topic: match topic {
                Topic::Name(name) => Topic::Name(name.clone()),
                Topic::ByRow(expression) => Topic::ByRow(compile(expression)?),
            },
            key: key.map(compile).transpose()?,
            headers: headers
                .iter()
                .map(|(name, value)| Ok((name.clone(), compile(value)?)))
                .collect::<Result<_, String>>()?,
        })
    }
}

/// An open sink.
struct Handle {
    plan: Planner,
    producer: Arc<BaseProducer<Reports>>,
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

/// What the writers of a sink and its thread share.
struct Shared {
    name: Arc<str>,
    context: Context,
    on_error: OnError,
    /// The writers, by number.
    lines: Mutex<Vec<Arc<Line>>>,
    fatal: OnceLock<String>,
    rows: AtomicU64,
    bytes: AtomicU64,
    failed: AtomicU64,
    queued_rows: AtomicU64,
    queued_bytes: AtomicU64,
    stop: AtomicBool,
}

impl Shared {
    fn fail(&self, reason: String) {
        if self.fatal.set(reason).is_ok() {
            lock(&self.lines).iter().for_each(|line| line.waker.wake());
        }
    }

    /// Whether librdkafka's queue holds as much as it is to hold.
    fn is_full(&self) -> bool {
        self.queued_bytes.load(Ordering::Acquire) >= QUEUE_BYTES
            || self.queued_rows.load(Ordering::Acquire) >= QUEUE_ROWS
    }
}

/// What a writer and the thread share.
struct Line {
    number: u64,
    answers: Mutex<Answers>,
    /// The writer waits for room.
    refused: AtomicBool,
    waker: Waker,
}

#[derive(Default)]
struct Answers {
    tickets: Tickets,
    /// Where the rows of tickets come from, for those that fail.
    origins: VecDeque<(u64, Positions, Times)>,
    failed: Vec<ErrorRow>,
}

impl Answers {
    /// A row is done. True if its writer is to be told.
    fn done(&mut self, ticket: u64, failed: Option<ErrorRow>) -> bool {
        let mut news = failed.is_some();
        self.failed.extend(failed);
        news |= self.tickets.done(ticket, 1);
        while self.origins.front().is_some_and(|(front, ..)| *front <= self.tickets.up_to()) {
            self.origins.pop_front();
        }
        news
    }

    fn origin(&self, ticket: u64, row: usize) -> (RowPosition, i64) {
        let at = self.origins.front().map_or(0, |(front, ..)| ticket.saturating_sub(*front)) as usize;
        match self.origins.get(at) {
            Some((_, positions, ingest_ns)) => {
                let (origin, offset) = positions.source(row);
                (RowPosition { origin, offset, suffix: positions.suffix(row).into() }, ingest_ns.get(row))
            }
            None => (RowPosition::default(), 0),
        }
    }
}

/// What librdkafka reports to.
struct Reports(Arc<Shared>);

impl ClientContext for Reports {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        self.0.context.log(level, facility, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        self.0.context.error(error, reason);
    }
}

impl ProducerContext for Reports {
    /// Writer, ticket and row.
    type DeliveryOpaque = usize;

    fn delivery(&self, result: &DeliveryResult<'_>, what: usize) {
        let (line, ticket, row) = unpack(what as u64);
        let Some(line) = lock(&self.0.lines).get(line).cloned() else { return };
        let (message, error) = match result {
            Ok(message) => (message, None),
            Err((error, message)) => (message, Some(error)),
        };
        let bytes = size_of(message.payload(), message.key());
        self.0.queued_rows.fetch_sub(1, Ordering::AcqRel);
        self.0.queued_bytes.fetch_sub(bytes, Ordering::AcqRel);
        let mut answers = lock(&line.answers);
        // Only some of the bits came along; open tickets are far fewer than those can tell apart.
        let up_to = answers.tickets.up_to();
        let ticket = up_to + (ticket.wrapping_sub(up_to) & TICKET_MASK);
        let failed = match error {
            None => {
                self.0.rows.fetch_add(1, Ordering::Relaxed);
                self.0.bytes.fetch_add(bytes, Ordering::Relaxed);
                None
            }
            Some(error) => match self.0.sort(error) {
                Some(error) => {
                    let (position, ingest_ns) = answers.origin(ticket, row);
                    let payload = message.payload().unwrap_or_default().to_vec();
                    Some(ErrorRow { step: self.0.name.clone(), error, payload, position, ingest_ns })
                }
                // The pipeline stops: the row counts as not delivered.
                None => return,
            },
        };
        let news = answers.done(ticket, failed);
        drop(answers);
        if news || (line.refused.load(Ordering::Acquire) && !self.0.is_full()) {
            line.refused.store(false, Ordering::Release);
            line.waker.wake();
        }
    }
}

impl Shared {
    /// The error of a row that the brokers will not have; `None` where the pipeline stops instead.
    fn sort(&self, error: &KafkaError) -> Option<RowError> {
        let code = match error.rdkafka_error_code() {
            // The sink is being closed before the brokers have answered.
            Some(RDKafkaErrorCode::PurgeQueue | RDKafkaErrorCode::PurgeInflight) => return None,
            Some(RDKafkaErrorCode::Fatal) => {
                self.fail(format!("the producer can't go on: {error}"));
                return None;
            }
            Some(RDKafkaErrorCode::MessageSizeTooLarge | RDKafkaErrorCode::InvalidMessageSize) => "too_large",
            Some(RDKafkaErrorCode::MessageTimedOut) => "undelivered",
            _ => "rejected",
        };
        if self.on_error == OnError::Stop {
            self.fail(format!("a row could not be delivered: {error}"));
            return None;
        }
        self.failed.fetch_add(1, Ordering::Relaxed);
        let reason = error.rdkafka_error_code().map_or_else(|| error.to_string(), |code| code.to_string());
        Some(RowError::new(code, reason))
    }
}

fn pack(line: u64, ticket: u64, row: usize) -> u64 {
    line << (TICKET_BITS + ROW_BITS) | (ticket & TICKET_MASK) << ROW_BITS | row as u64
}

fn unpack(what: u64) -> (usize, u64, usize) {
    let row = what & ((1 << ROW_BITS) - 1);
    ((what >> (TICKET_BITS + ROW_BITS)) as usize, what >> ROW_BITS & TICKET_MASK, row as usize)
}

fn size_of(payload: Option<&[u8]>, key: Option<&[u8]>) -> u64 {
    (payload.map_or(0, <[u8]>::len) + key.map_or(0, <[u8]>::len)) as u64
}

impl SinkHandle for Handle {
    fn writer(&self, _worker: usize, waker: Waker) -> Box<dyn Writer> {
        let mut lines = lock(&self.shared.lines);
        let line = Arc::new(Line {
            number: lines.len() as u64,
            answers: Mutex::default(),
            refused: AtomicBool::new(false),
            waker,
        });
        lines.push(line.clone());
        drop(lines);
        let Planner { topic, key, headers, encoding, columns, schema } = &self.plan;
        let compiled = Compiled::of(topic, key.as_ref(), headers, schema);
        let compiled = compiled.map_err(|problem| self.shared.fail(problem)).ok();
        Box::new(KafkaWriter {
            compiled,
            encoder: encoding.encoder(columns),
            value_columns: columns.fields().len(),
            producer: self.producer.clone(),
            shared: self.shared.clone(),
            line,
            unsent: VecDeque::new(),
            bytes: Vec::new(),
            ends: Vec::new(),
        })
    }

    fn close(mut self: Box<Self>) -> Result<SinkStats, String> {
        self.shared.stop.store(true, Ordering::Release);
        match self.thread.take().map(JoinHandle::join) {
            Some(Err(_)) => Err(format!("the thread of `{}` has panicked", self.shared.name)),
            _ => Ok(self.stats()),
        }
    }

    fn stats(&self) -> SinkStats {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        SinkStats {
            rows: read(&self.shared.rows),
            bytes: read(&self.shared.bytes),
            failed: read(&self.shared.failed),
            retries: 0,
            queued_rows: read(&self.shared.queued_rows),
            queued_bytes: read(&self.shared.queued_bytes),
            breaker: None,
        }
    }
}

struct KafkaWriter {
    /// `None` where the sink has failed.
    compiled: Option<Compiled>,
    encoder: Box<dyn RecordEncoder>,
    value_columns: usize,
    producer: Arc<BaseProducer<Reports>>,
    shared: Arc<Shared>,
    line: Arc<Line>,
    /// Records of accepted tickets that librdkafka's queue had no room for.
    unsent: VecDeque<Record>,
    bytes: Vec<u8>,
    ends: Vec<usize>,
}

/// A record on its way.
struct Record {
    topic: Option<Vec<u8>>,
    key: Option<Vec<u8>>,
    headers: Option<OwnedHeaders>,
    value: Vec<u8>,
    what: u64,
}

/// What became of a record that was given to librdkafka.
enum Sent {
    Yes,
    /// Its queue is full.
    Full,
    /// It will not have it.
    Refused(KafkaError),
}

impl Writer for KafkaWriter {
    fn write(&mut self, rows: Rows, ticket: u64) -> Result<(), Rows> {
        if !self.has_room() {
            return Err(rows);
        }
        let Some(compiled) = &mut self.compiled else { return Err(rows) };
        let count = rows.num_rows();
        self.bytes.clear();
        self.ends.clear();
        let encoded = first_columns(&rows.batch, self.value_columns)
            .and_then(|batch| self.encoder.encode(&batch, &mut self.bytes, Some(&mut self.ends)));
        if let Err(problem) = encoded {
            self.shared.fail(problem);
            return Err(rows);
        }
        let topics = match &mut compiled.topic {
            Topic::Name(_) => None,
            Topic::ByRow(program) => Some(texts::evaluate(program, &rows)),
        };
        let keys = compiled.key.as_mut().map(|program| texts::evaluate(program, &rows));
        let headers: Vec<(String, Vec<_>)> = compiled
            .headers
            .iter_mut()
            .map(|(name, program)| (name.clone(), texts::evaluate(program, &rows)))
            .collect();
        let mut answers = lock(&self.line.answers);
        answers.tickets.add(ticket, count);
        answers.origins.push_back((ticket, rows.positions.clone(), rows.ingest_ns.clone()));
        drop(answers);

        let mut from = 0;
        for row in 0..count {
            let end = self.ends.get(row).copied().unwrap_or(from);
            let (start, mut stop) = (from, end);
            from = end;
            while stop > start && matches!(self.bytes[stop - 1], b'\n' | b'\r') {
                stop -= 1;
            }
            let beside = Beside::of(row, topics.as_deref(), keys.as_deref(), &headers);
            let what = pack(self.line.number, ticket, row);
            let Beside { topic, key, headers } = match beside {
                Ok(beside) => beside,
                Err(error) => {
                    self.shared.failed.fetch_add(1, Ordering::Relaxed);
                    self.fail_row(what, error, self.bytes[start..stop].to_vec());
                    continue;
                }
            };
            if !self.unsent.is_empty() {
                self.unsent.push_back(self.record(topic, key, headers, start..stop, what));
                continue;
            }
            let value = &self.bytes[start..stop];
            match self.send(topic, key, headers.clone(), value, what) {
                Sent::Yes => {}
                Sent::Full => self.unsent.push_back(self.record(topic, key, headers, start..stop, what)),
                Sent::Refused(error) => self.refuse(&error, what, self.bytes[start..stop].to_vec()),
            }
        }
        if !self.unsent.is_empty() {
            self.line.refused.store(true, Ordering::Release);
        }
        Ok(())
    }

    fn acknowledged(&mut self) -> Acknowledged {
        self.send_unsent();
        let mut answers = lock(&self.line.answers);
        Acknowledged {
            up_to: answers.tickets.up_to(),
            failed: std::mem::take(&mut answers.failed),
            fatal: self.shared.fatal.get().cloned(),
            note: None,
        }
    }

    /// The producer sends what it has within its linger of two milliseconds.
    fn flush(&mut self) {
        self.send_unsent();
    }
}

/// What goes beside the value of a record.
struct Beside<'a> {
    topic: Option<&'a [u8]>,
    key: Option<&'a [u8]>,
    headers: Option<OwnedHeaders>,
}

type Text = Result<Option<Vec<u8>>, RowError>;

impl<'a> Beside<'a> {
    fn of(
        row: usize,
        topics: Option<&'a [Text]>,
        keys: Option<&'a [Text]>,
        headers: &[(String, Vec<Text>)],
    ) -> Result<Self, RowError> {
        let text = |texts: Option<&'a [Text]>| match texts.map(|texts| &texts[row]) {
            None => Ok(None),
            Some(Ok(text)) => Ok(text.as_deref()),
            Some(Err(error)) => Err(error.clone()),
        };
        let topic = text(topics)?;
        if topics.is_some() && topic.is_none() {
            return Err(RowError::new("null", "the topic is null"));
        }
        let key = text(keys)?;
        let mut all: Option<OwnedHeaders> = None;
        for (name, texts) in headers {
            if let Some(value) = texts[row].as_ref().map_err(Clone::clone)? {
                let before = all.take().unwrap_or_else(|| OwnedHeaders::new_with_capacity(headers.len()));
                all = Some(before.insert(Header { key: name, value: Some(value) }));
            }
        }
        Ok(Beside { topic, key, headers: all })
    }
}

impl KafkaWriter {
    /// Whether a write may be accepted; if not, the waker will be called.
    fn has_room(&mut self) -> bool {
        self.send_unsent();
        if self.unsent.is_empty() && !self.shared.is_full() {
            return true;
        }
        // First the wish, then a second look: room that came in between is not missed.
        self.line.refused.store(true, Ordering::Release);
        self.unsent.is_empty() && !self.shared.is_full()
    }

    fn send_unsent(&mut self) {
        while let Some(record) = self.unsent.pop_front() {
            let Record { topic, key, headers, value, what } = record;
            match self.send(topic.as_deref(), key.as_deref(), headers.clone(), &value, what) {
                Sent::Yes => {}
                Sent::Full => {
                    self.unsent.push_front(Record { topic, key, headers, value, what });
                    self.line.refused.store(true, Ordering::Release);
                    return;
                }
                Sent::Refused(error) => self.refuse(&error, what, value),
            }
        }
    }

    fn send(
        &self,
        topic: Option<&[u8]>,
        key: Option<&[u8]>,
        headers: Option<OwnedHeaders>,
        value: &[u8],
        what: u64,
    ) -> Sent {
        let named;
        let topic = match (topic, self.compiled.as_ref().map(|compiled| &compiled.topic)) {
            (Some(topic), _) => {
                named = String::from_utf8_lossy(topic);
                &*named
            }
            (None, Some(Topic::Name(name))) => name,
            (None, _) => return Sent::Refused(KafkaError::MessageProduction(RDKafkaErrorCode::InvalidTopic)),
        };
        let mut record: BaseRecord<'_, [u8], [u8], usize> =
            BaseRecord::with_opaque_to(topic, what as usize).payload(value);
        record.key = key;
        record.headers = headers;
        // Counted before, since the report may come at once.
        let size = size_of(Some(value), key);
        self.shared.queued_rows.fetch_add(1, Ordering::AcqRel);
        self.shared.queued_bytes.fetch_add(size, Ordering::AcqRel);
        let error = match self.producer.send(record) {
            Ok(()) => return Sent::Yes,
            Err((error, _)) => error,
        };
        self.shared.queued_rows.fetch_sub(1, Ordering::AcqRel);
        self.shared.queued_bytes.fetch_sub(size, Ordering::AcqRel);
        match error.rdkafka_error_code() {
            Some(RDKafkaErrorCode::QueueFull) => Sent::Full,
            _ => Sent::Refused(error),
        }
    }

    fn record(
        &self,
        topic: Option<&[u8]>,
        key: Option<&[u8]>,
        headers: Option<OwnedHeaders>,
        value: std::ops::Range<usize>,
        what: u64,
    ) -> Record {
        Record {
            topic: topic.map(<[u8]>::to_vec),
            key: key.map(<[u8]>::to_vec),
            headers,
            value: self.bytes[value].to_vec(),
            what,
        }
    }

    /// librdkafka refused a record at once.
    fn refuse(&self, error: &KafkaError, what: u64, payload: Vec<u8>) {
        if let Some(error) = self.shared.sort(error) {
            self.fail_row(what, error, payload);
        }
    }

    fn fail_row(&self, what: u64, error: RowError, payload: Vec<u8>) {
        let (_, ticket, row) = unpack(what);
        let mut answers = lock(&self.line.answers);
        let up_to = answers.tickets.up_to();
        let ticket = up_to + (ticket.wrapping_sub(up_to) & TICKET_MASK);
        let (position, ingest_ns) = answers.origin(ticket, row);
        answers.done(ticket, Some(ErrorRow { step: self.shared.name.clone(), error, payload, position, ingest_ns }));
        drop(answers);
        self.line.waker.wake();
    }
}

#[cfg(test)]
mod tests;
