//! The source `kafka`: partitions are assigned to workers by the engine, and records decoded straight from librdkafka's
//! fetch buffers into columns.
//!
//! ```text
//! broker ─▶ librdkafka's threads ─▶ a queue for each partition ─▶ Reader::poll: peek, decode, pass ─▶ Rows
//!             (fetch, decompress)     (bounded in bytes and records)    (worker thread, no copy of a record)
//!                      ▲
//! keeper (a thread) ───┘ finds partitions, resolves and checks offsets, assigns, finds new partitions, stores offsets
//! ```
//!
//! Partition `p` of topic number `t` is numbered `t << 20 | p` and belongs to worker `(t + p) % workers`. Where it goes on
//! is in the marks of the engine, never with the brokers; the `group` only gets the offsets that are safe, for those who
//! watch it. Offsets may have gaps (compaction, transactions), so positions are what the broker says, and a mark moves over
//! a gap at the end when the broker says that the end is reached.
//!
//! What happens when things go wrong: brokers that can't be reached are tried again for ever, with a line in the log;
//! a password that is refused, a topic that is not there and offsets that are gone stop the pipeline with a sentence. No
//! record is ever passed over in silence.

use super::check_topic;
use super::connection::{Connection, Context};
use super::keeper::{Arrival, Keeper, PARTITION_BITS, Shared, TOLD_HOLDS, detail, expected, is_ours};
use super::native::{self, PARTITION_EOF, PartitionQueue, Record};
use crate::formats::{Decoding, RecordDecoder, reasons};
use crate::sources::bytes::error_row;
use crate::{SourceEntry, SourceStart};
use arrow::array::{
    ArrayRef, Int32Array, Int64Array, RecordBatch, RecordBatchOptions, StringArray, StringBuilder,
    TimestampNanosecondArray,
};
use arrow::buffer::ScalarBuffer;
use arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit};
use chrono::DateTime;
use engine_base::codes::{spec as spec_codes, system as codes};
use engine_base::{Clock, Diagnostic, RowError, Span};
use engine_dataflow::rows::origin;
use engine_dataflow::{Mark, Marks, Polled, Positions, Reader, Rows, SourceRows, Times};
use engine_plan::{Columns, Cx, Planned, PlannedSource, SourceCommon, SourceKind};
use rdkafka::consumer::BaseConsumer;
use schemars::{JsonSchema, Schema as JsonSchemaValue, SchemaGenerator, json_schema};
use serde::de::{self, Deserialize, Deserializer, MapAccess, Visitor};
use std::collections::{BTreeMap, HashSet};
use std::ffi::{CStr, CString};
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// The registry line.
pub const ENTRY: SourceEntry = SourceEntry {
    kind: SourceKind {
        name: "kafka",
        summary: "The records of Kafka topics.",
        config_schema: |generator| KafkaSourceKeys::json_schema(generator),
        decodes: true,
        metadata: &["key", "headers['...']", "topic", "partition", "offset", "timestamp"],
        plan,
    },
    start: |planned, start| start_reader(planned, start),
};

/// How many rows a batch has at most.
const BATCH_ROWS: usize = 8_192;
/// How long a reader that goes waits for its last offsets to be stored.
const STOP_WAIT: Duration = Duration::from_secs(2);
const TOPICS_MAX: usize = 1 << (32 - PARTITION_BITS);
/// librdkafka's "the start can't be told", which follows a broker's "out of range".
const AUTO_OFFSET_RESET: i32 = -140;

/// The keys of a `kafka` source, beside those of every source that decodes records.
#[derive(Debug, serde::Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct KafkaSourceKeys {
    /// The connection, of type `kafka`.
    connection: String,
    /// The topic, or a list of topics of one schema.
    topic: Topics,
    /// The consumer group in which offsets are stored for monitoring, and from which `start: committed` takes them. The engine
    /// itself goes on from its own state, and assigns partitions to its workers without the group.
    group: Option<String>,
    /// Where to start when there is no state to go on from: `earliest`, `latest`, `committed`, a time such as
    /// `2026-01-01T00:00:00Z`, or an offset for each partition, `{ "0": 1500, "1": 1710 }`. Partitions that come later start at
    /// their beginning.
    #[serde(default)]
    start: StartKey,
}

/// One or several.
#[derive(Debug, serde::Deserialize, JsonSchema)]
#[serde(untagged, expecting = "the name of a topic, or a list of names")]
enum Topics {
    /// One topic.
    One(String),
    /// Several topics.
    Many(Vec<String>),
}

/// Where to start, as it is written.
#[derive(Debug)]
enum StartKey {
    Word(String),
    Offsets(Vec<(String, i64)>),
}

impl Default for StartKey {
    fn default() -> Self {
        StartKey::Word("earliest".to_owned())
    }
}

impl<'de> Deserialize<'de> for StartKey {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct V;
        impl<'de> Visitor<'de> for V {
            type Value = StartKey;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("`earliest`, `latest`, `committed`, a time, or an offset for each partition")
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<StartKey, E> {
                Ok(StartKey::Word(text.to_owned()))
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<StartKey, A::Error> {
                let mut offsets = Vec::new();
                while let Some(entry) = map.next_entry()? {
                    offsets.push(entry);
                }
                Ok(StartKey::Offsets(offsets))
            }
        }
        deserializer.deserialize_any(V)
    }
}

impl JsonSchema for StartKey {
    fn inline_schema() -> bool {
        true
    }
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "KafkaStart".into()
    }
    fn json_schema(_: &mut SchemaGenerator) -> JsonSchemaValue {
        json_schema!({ "anyOf": [
            { "enum": ["earliest", "latest", "committed"] },
            { "type": "string", "format": "date-time", "description": "The first record at or after this time." },
            {
                "type": "object",
                "description": "Partition to offset. Partitions that are not named start at their beginning.",
                "additionalProperties": { "type": "integer", "minimum": 0 },
                "minProperties": 1
            }
        ] })
    }
}

/// Where to start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Start {
    Earliest,
    Latest,
    Committed,
    Time { ms: i64 },
    Offsets(BTreeMap<i32, u64>),
}

/// What is known of a record beside its value.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Known {
    Key,
    Header(CString),
    Topic,
    Partition,
    Offset,
    Timestamp,
}

impl Known {
    fn parse(what: &str) -> Option<Known> {
        Some(match what {
            "key" => Known::Key,
            "topic" => Known::Topic,
            "partition" => Known::Partition,
            "offset" => Known::Offset,
            "timestamp" => Known::Timestamp,
            what => {
                let name = what.strip_prefix("headers")?.trim().strip_prefix('[')?.strip_suffix(']')?.trim();
                Known::Header(CString::new(name.strip_prefix('\'')?.strip_suffix('\'')?).ok()?)
            }
        })
    }

    fn field(&self, name: &str) -> Field {
        match self {
            Known::Key | Known::Header(_) => Field::new(name, DataType::Utf8, true),
            Known::Topic => Field::new(name, DataType::Utf8, false),
            Known::Partition => Field::new(name, DataType::Int32, false),
            Known::Offset => Field::new(name, DataType::Int64, false),
            Known::Timestamp => Field::new(name, DataType::Timestamp(TimeUnit::Nanosecond, Some("UTC".into())), false),
        }
    }
}

/// A planned source.
#[derive(Debug)]
pub(super) struct KafkaSource {
    pub(super) connection: Connection,
    pub(super) topics: Vec<Arc<str>>,
    pub(super) group: Option<String>,
    pub(super) start: Start,
    decoding: Decoding,
    metadata: Vec<(String, Known)>,
}

impl Planned for KafkaSource {
    fn reads(&self, _wanted: &[Columns]) -> Vec<Columns> {
        Vec::new()
    }

    fn facts(&self) -> Vec<(String, String)> {
        let mut facts = vec![
            ("topic".to_owned(), self.topics.join(", ")),
            ("brokers".to_owned(), self.connection.brokers.clone()),
            ("format".to_owned(), self.decoding.name().to_owned()),
        ];
        let start = match &self.start {
            Start::Earliest => "earliest".to_owned(),
            Start::Latest => "latest".to_owned(),
            Start::Committed => "committed".to_owned(),
            Start::Time { ms } => {
                DateTime::from_timestamp_millis(*ms).map_or_else(String::new, |time| time.to_rfc3339())
            }
            Start::Offsets(offsets) => format!("offsets of {} partitions", offsets.len()),
        };
        facts.push(("start".to_owned(), start));
        if let Some(group) = &self.group {
            facts.push(("group".to_owned(), group.clone()));
        }
        facts
    }
}

fn plan(cx: &mut Cx<'_>, common: &SourceCommon) -> Option<PlannedSource> {
    let keys: Option<KafkaSourceKeys> = cx.config.decode(cx.diagnostics);
    let decoding = Decoding::plan(cx, common);
    if decoding.as_ref().is_some_and(Decoding::has_header) {
        let found = Diagnostic::error(
            codes::FORMAT_NOT_CARRIED,
            cx.span(&["format"]),
            "a record of a topic has no header before it",
        )
        .help("write `format: { type: csv, header: false }`");
        cx.push(found);
        return None;
    }
    let keys = keys?;
    let connection = Connection::find(cx, &keys.connection);
    let topics = plan_topics(cx, &keys.topic);
    let group = plan_group(cx, keys.group);
    let start = plan_start(cx, &keys.start, &keys.topic, group.as_ref().is_none_or(Option::is_some));
    let metadata: Vec<(String, Known)> = common
        .metadata
        .iter()
        .map(|(column, what)| Some((column.clone(), Known::parse(what)?)))
        .collect::<Option<_>>()?;
    let decoding = decoding?;
    let mut fields: Vec<_> = decoding.schema().fields().iter().cloned().collect();
    fields.extend(metadata.iter().map(|(column, known)| Arc::new(known.field(column))));
    let schema = Arc::new(Schema::new(fields));
    let planned =
        KafkaSource { connection: connection?, topics: topics?, group: group?, start: start?, decoding, metadata };
    Some(PlannedSource { schema, replayable: true, finite: false, planned: Arc::new(planned) })
}

fn plan_topics(cx: &mut Cx<'_>, topics: &Topics) -> Option<Vec<Arc<str>>> {
    let names: &[String] = match topics {
        Topics::One(name) => std::slice::from_ref(name),
        Topics::Many(names) => names,
    };
    if names.is_empty() || names.len() > TOPICS_MAX {
        let problem =
            if names.is_empty() { "there is no topic in this list" } else { "there are too many topics in this list" };
        let found = Diagnostic::error(codes::BAD_TOPIC, cx.span(&["topic"]), problem);
        cx.push(found.help(format!("name from 1 to {TOPICS_MAX} topics: `topic: [orders, returns]`")));
        return None;
    }
    let mut sound = true;
    let mut seen = HashSet::new();
    for (at, name) in names.iter().enumerate() {
        let index = at.to_string();
        let path: &[&str] = if matches!(topics, Topics::One(_)) { &["topic"] } else { &["topic", &index] };
        sound &= check_topic(cx, path, name);
        if !seen.insert(name) {
            let found = Diagnostic::error(
                codes::BAD_TOPIC,
                cx.span(path),
                format!("the topic `{name}` stands in this list twice"),
            );
            cx.push(found.help("name it once"));
            sound = false;
        }
    }
    sound.then(|| names.iter().map(|name| Arc::from(name.as_str())).collect())
}

fn plan_group(cx: &mut Cx<'_>, group: Option<String>) -> Option<Option<String>> {
    if group.as_ref().is_some_and(|group| group.trim().is_empty()) {
        let found = Diagnostic::error(spec_codes::BAD_VALUE, cx.span(&["group"]), "a group has a name");
        cx.push(found.help("name it, or leave `group` out"));
        return None;
    }
    Some(group)
}

fn plan_start(cx: &mut Cx<'_>, start: &StartKey, topics: &Topics, has_group: bool) -> Option<Start> {
    if cx.component.node.get("start").is_some_and(|node| node.is_placeholder()) {
        return Some(Start::Earliest);
    }
    let bad = |message: String| Diagnostic::error(codes::BAD_TOPIC_START, cx.span(&["start"]), message);
    let found = match start {
        StartKey::Word(word) => match word.as_str() {
            "earliest" => return Some(Start::Earliest),
            "latest" => return Some(Start::Latest),
            "committed" if has_group => return Some(Start::Committed),
            "committed" => bad("`committed` is where a group stands, and there is none".to_owned())
                .help("name it with `group:`, or start at `earliest`"),
            text => match DateTime::parse_from_rfc3339(text) {
                Ok(time) => return Some(Start::Time { ms: time.timestamp_millis() }),
                Err(_) => bad(format!("`{text}` is not a place to start at"))
                    .did_you_mean(text, ["earliest", "latest", "committed"])
                    .help("it is `earliest`, `latest`, `committed`, a time such as `2026-01-01T00:00:00Z`, or an offset for each partition"),
            },
        },
        StartKey::Offsets(_) if !matches!(topics, Topics::One(_)) => {
            bad("offsets are of one topic, and there are several".to_owned()).help("read the topics with a source each")
        }
        StartKey::Offsets(offsets) => {
            let mut all = BTreeMap::new();
            let mut wrong = None;
            for (partition, offset) in offsets {
                match (partition.parse::<u32>(), u64::try_from(*offset)) {
                    (Ok(number), Ok(offset)) if number < 1 << PARTITION_BITS => {
                        all.insert(number as i32, offset);
                    }
                    (Ok(_), Err(_)) => wrong = Some((partition, format!("`{offset}` is not an offset"))),
                    _ => wrong = Some((partition, format!("`{partition}` is not the number of a partition"))),
                }
            }
            match wrong {
                None if !all.is_empty() => return Some(Start::Offsets(all)),
                None => bad("there is no offset in this map".to_owned()).help("write `{ \"0\": 1500 }`"),
                Some((partition, problem)) => {
                    let entry = cx.component.node.get("start").and_then(|node| node.entry(partition));
                    let span = entry.map_or_else(|| cx.span(&["start"]), |entry| Span { end: entry.value.span.end, ..entry.key_span });
                    Diagnostic::error(codes::BAD_TOPIC_START, span, problem)
                        .help("write partition and offset, both from zero: `{ \"0\": 1500 }`")
                }
            }
        }
    };
    cx.push(found);
    None
}

fn start_reader(planned: &dyn Planned, start: SourceStart) -> Result<Option<Box<dyn Reader>>, String> {
    let plan: &KafkaSource = planned.downcast().ok_or("not a planned kafka source")?;
    let columns = Layout::new(plan, &start.columns)?;
    let decoder = plan.decoding.decoder(&columns.decoded)?;
    let shared = Arc::new(Shared::new(start.waker.clone()));
    let keeper = Keeper::new(plan, &start, shared.clone())?;
    std::thread::Builder::new()
        .name(format!("kafka {}", start.name))
        .spawn(move || keeper.run())
        .map_err(|error| format!("a thread can't be started: {error}"))?;
    Ok(Some(Box::new(KafkaReader {
        name: start.name.clone(),
        topics: plan.topics.clone(),
        details: plan.topics.iter().map(|topic| detail(topic)).collect(),
        names: plan.topics.iter().map(|topic| CString::new(&**topic).unwrap_or_default()).collect(),
        source: start.source,
        workers: start.workers.max(1),
        worker: start.worker,
        clock: start.clock.clone(),
        // A partition that is gone on with is known at once; the others when the brokers have told of them.
        expected: expected(&plan.topics, &start),
        finite: start.finite_from_start,
        has_group: plan.group.is_some(),
        found: Marks::new(),
        partitions: Vec::new(),
        turn: 0,
        complete: false,
        decoder,
        columns,
        offsets: Vec::new(),
        born_ns: Vec::new(),
        shared,
    })))
}

/// Which columns a batch has, and where each comes from.
struct Layout {
    schema: SchemaRef,
    decoded: Vec<Arc<Field>>,
    from: Vec<From>,
    key: Option<Texts>,
    headers: Vec<(CString, Texts)>,
}

/// Where a column comes from.
enum From {
    Decoded(usize),
    Key,
    Header(usize),
    Topic,
    Partition,
    Offset,
    Timestamp,
}

/// A column of texts that grows by a record.
type Texts = StringBuilder;

impl Layout {
    fn new(plan: &KafkaSource, columns: &SchemaRef) -> Result<Self, String> {
        let mut layout =
            Layout { schema: columns.clone(), decoded: Vec::new(), from: Vec::new(), key: None, headers: Vec::new() };
        for field in columns.fields() {
            let known = plan.metadata.iter().find(|(column, _)| column == field.name()).map(|(_, known)| known);
            layout.from.push(match known {
                None => {
                    layout.decoded.push(field.clone());
                    From::Decoded(layout.decoded.len() - 1)
                }
                Some(Known::Key) => {
                    layout.key.get_or_insert_with(Texts::new);
                    From::Key
                }
                Some(Known::Header(name)) => {
                    layout.headers.push((name.clone(), Texts::new()));
                    From::Header(layout.headers.len() - 1)
                }
                Some(Known::Topic) => From::Topic,
                Some(Known::Partition) => From::Partition,
                Some(Known::Offset) => From::Offset,
                Some(Known::Timestamp) => From::Timestamp,
            });
        }
        Ok(layout)
    }

    /// Whether the texts beside the value are texts.
    fn check(&self, record: &Record) -> Result<(), RowError> {
        let text = |what: &dyn Fn() -> String, bytes: Option<&[u8]>| match bytes.map(std::str::from_utf8) {
            Some(Err(error)) => {
                let reason = format!("{} is not UTF-8, at byte {}", what(), error.valid_up_to());
                Err(RowError::new(reasons::DECODE, reason))
            }
            _ => Ok(()),
        };
        if self.key.is_some() {
            text(&|| "the key".to_owned(), record.key())?;
        }
        for (name, _) in &self.headers {
            text(&|| format!("the header `{}`", name.to_string_lossy()), record.header(name))?;
        }
        Ok(())
    }

    /// Appends what stands beside the value of a record that was checked.
    fn push(&mut self, record: &Record) {
        if let Some(keys) = &mut self.key {
            keys.append_option(record.key().and_then(|key| std::str::from_utf8(key).ok()));
        }
        for (name, texts) in &mut self.headers {
            texts.append_option(record.header(name).and_then(|value| std::str::from_utf8(value).ok()));
        }
    }
}

/// A partition as its reader has it. The queue goes before the client that it belongs to.
struct Partition {
    number: u32,
    topic: usize,
    partition: i32,
    next: u64,
    end: Option<u64>,
    queue: PartitionQueue,
    consumer: Arc<BaseConsumer<Context>>,
}

/// A worker's reader.
struct KafkaReader {
    name: Arc<str>,
    topics: Vec<Arc<str>>,
    details: Vec<String>,
    names: Vec<CString>,
    source: engine_base::SourceId,
    worker: usize,
    workers: usize,
    clock: Arc<dyn Clock>,
    /// Partitions that are ours and have not arrived, with the offsets at which they will stand.
    expected: BTreeMap<u32, u64>,
    finite: bool,
    has_group: bool,
    /// Partitions that have arrived and were not told of, with the offsets at which they began.
    found: Marks,
    partitions: Vec<Partition>,
    /// The partition whose turn it is.
    turn: usize,
    complete: bool,
    decoder: Box<dyn RecordDecoder>,
    columns: Layout,
    offsets: Vec<u64>,
    born_ns: Vec<i64>,
    shared: Arc<Shared>,
}

impl KafkaReader {
    /// Takes what the keeper has left. An error is a fault.
    fn hear(&mut self) -> Result<(), String> {
        if !self.shared.news.swap(false, Ordering::AcqRel) {
            return Ok(());
        }
        let mut state = self.shared.state();
        for arrival in state.arrived.drain(..) {
            let Arrival { number, topic, partition, next, end, queue, consumer } = arrival;
            self.expected.remove(&number);
            let detail = self.details.get((number >> PARTITION_BITS) as usize).cloned().unwrap_or_default();
            self.found.insert(number, Mark { next, detail });
            self.partitions.push(Partition { number, topic, partition, next, end, queue, consumer });
        }
        self.complete = state.complete;
        match &state.fault {
            Some(fault) => {
                // Told again at the next poll, if there is one.
                self.shared.news.store(true, Ordering::Release);
                Err(fault.clone())
            }
            None => Ok(()),
        }
    }

    /// Reads one partition up to a limit of bytes and before an offset. What was read before a fault is handed out too.
    fn read(
        &mut self,
        at: usize,
        max_bytes: u64,
        limit: u64,
        ingest_ns: i64,
        out: &mut SourceRows,
    ) -> Result<(), String> {
        let read = self.read_records(at, max_bytes, limit, ingest_ns, out);
        if !self.offsets.is_empty() {
            let rows = self.finish(at, ingest_ns)?;
            out.rows.push(rows);
        }
        read
    }

    fn read_records(
        &mut self,
        at: usize,
        max_bytes: u64,
        limit: u64,
        ingest_ns: i64,
        out: &mut SourceRows,
    ) -> Result<(), String> {
        let Partition { number, topic, partition, next, queue, .. } = &mut self.partitions[at];
        let most = out.records + BATCH_ROWS as u64;
        while out.bytes < max_bytes && out.records < most {
            let Some(record) = queue.peek() else { break };
            let code = record.code();
            if code == PARTITION_EOF {
                // What stood between was no record of ours: compacted, or a mark of a transaction.
                let end = u64::try_from(record.offset()).unwrap_or(0);
                *next = (*next).max(end.min(limit));
                queue.pass();
                continue;
            }
            if code != 0 {
                let place = format!("`{}`, partition {partition}", self.topics[*topic]);
                let reason = record.reason();
                queue.pass();
                return Err(match code {
                    AUTO_OFFSET_RESET => format!(
                        "{place}: offset {next} is gone; what stood there was deleted before it was read ({reason}); to go on \
                         without it, start with another `--state`"
                    ),
                    _ => format!("{place} can't be read on: {reason}"),
                });
            }
            let offset = u64::try_from(record.offset()).unwrap_or(0);
            if offset < *next {
                queue.pass();
                continue;
            }
            if offset >= limit {
                *next = (*next).max(limit);
                break;
            }
            let payload = record.payload();
            out.bytes += (payload.map_or(0, <[u8]>::len) + record.key().map_or(0, <[u8]>::len)) as u64;
            out.records += 1;
            let decoded = match payload {
                None => Err(RowError::new("tombstone", "the record has no value")),
                Some(payload) => self.columns.check(record).and_then(|()| self.decoder.decode(payload)),
            };
            match decoded {
                Ok(()) => {
                    self.columns.push(record);
                    self.offsets.push(offset);
                    self.born_ns.push(record.timestamp_ms().map_or(ingest_ns, |ms| ms.saturating_mul(1_000_000)));
                }
                Err(error) => {
                    let payload = payload.unwrap_or_default();
                    let (origin, bytes) = (origin(self.source, *number), payload.len() as u64);
                    out.errors.push(error_row(&self.name, origin, offset, ingest_ns, error, payload, bytes));
                }
            }
            *next = offset + 1;
            queue.pass();
        }
        Ok(())
    }

    /// The rows that were read from one partition.
    fn finish(&mut self, at: usize, ingest_ns: i64) -> Result<Rows, String> {
        let Partition { number, topic, partition, .. } = self.partitions[at];
        let origin = origin(self.source, number);
        let count = self.offsets.len();
        let offsets = std::mem::take(&mut self.offsets);
        let born_ns = std::mem::take(&mut self.born_ns);
        // Their like will come again.
        self.offsets.reserve(count);
        self.born_ns.reserve(count);
        let born_ns = ScalarBuffer::from(born_ns);
        let mut decoded: Vec<Option<ArrayRef>> = self.decoder.finish().into_iter().map(Some).collect();
        let mut columns: Vec<ArrayRef> = Vec::with_capacity(self.columns.from.len());
        let key: Option<ArrayRef> = self.columns.key.as_mut().map(|key| Arc::new(key.finish()) as ArrayRef);
        for from in &self.columns.from {
            columns.push(match from {
                From::Decoded(at) => {
                    decoded.get_mut(*at).and_then(Option::take).ok_or("a decoder has lost a column")?
                }
                From::Key => key.clone().ok_or("the keys were not kept")?,
                From::Header(at) => Arc::new(self.columns.headers[*at].1.finish()),
                From::Topic => {
                    Arc::new(StringArray::from_iter_values(std::iter::repeat_n(&*self.topics[topic], count)))
                }
                From::Partition => Arc::new(Int32Array::from_value(partition, count)),
                From::Offset => Arc::new(
                    offsets.iter().map(|offset| i64::try_from(*offset).unwrap_or(i64::MAX)).collect::<Int64Array>(),
                ),
                From::Timestamp => Arc::new(TimestampNanosecondArray::new(born_ns.clone(), None).with_timezone("UTC")),
            });
        }
        let options = RecordBatchOptions::new().with_row_count(Some(count));
        let batch = RecordBatch::try_new_with_options(self.columns.schema.clone(), columns, &options)
            .map_err(|error| format!("the decoded columns don't fit: {error}"))?;
        let (first, last) = (offsets[0], offsets[count - 1]);
        let positions = if last - first == count as u64 - 1 {
            Positions::Range { origin, first }
        } else {
            Positions::Offsets { origin, offsets: offsets.into() }
        };
        let born =
            if born_ns.iter().all(|born| *born == born_ns[0]) { Times::One(born_ns[0]) } else { Times::Each(born_ns) };
        Ok(Rows { batch, positions, ingest_ns: Times::One(ingest_ns), born_ns: born, event_ns: None, removes: None })
    }

    /// All that is to be read has been.
    fn is_done(&self) -> bool {
        self.finite
            && self.complete
            && self.partitions.iter().all(|partition| partition.end.is_some_and(|end| partition.next >= end))
    }
}

impl Reader for KafkaReader {
    fn poll(&mut self, max_bytes: usize, until: Option<&BTreeMap<u32, u64>>) -> Polled {
        if let Err(fault) = self.hear() {
            return Polled::Failed(fault);
        }
        if let Some(until) = until {
            // What is to be read and has not arrived must not be taken for what is read already.
            for number in until.keys().filter(|number| is_ours(**number, self.worker, self.workers)) {
                if !self.partitions.iter().any(|partition| partition.number == *number) {
                    self.expected.entry(*number).or_insert(0);
                }
            }
        }
        let mut out = SourceRows::default();
        let ingest_ns = self.clock.now_ns();
        let count = self.partitions.len();
        for step in 0..count {
            let at = (self.turn + step) % count;
            let partition = &self.partitions[at];
            let limit = match until {
                Some(until) => match until.get(&partition.number) {
                    Some(limit) => *limit,
                    None => continue,
                },
                None => u64::MAX,
            };
            let limit = limit.min(partition.end.unwrap_or(u64::MAX));
            if let Err(fault) = self.read(at, max_bytes as u64, limit, ingest_ns, &mut out) {
                self.shared.tell(|state| state.fault = Some(fault.clone()));
                // What was read before is handed out first.
                return if out.records > 0 { Polled::Some(out) } else { Polled::Failed(fault) };
            }
            if out.bytes >= max_bytes as u64 {
                self.turn = (at + 1) % count;
                break;
            }
        }
        match out.records {
            0 if self.is_done() => Polled::Done,
            0 => Polled::Pending,
            _ => Polled::Some(out),
        }
    }

    fn marks(&self) -> Marks {
        let topic = |number: u32| (number >> PARTITION_BITS) as usize;
        let expected = self.expected.iter().map(|(number, next)| (*number, *next));
        let read = self.partitions.iter().map(|partition| (partition.number, partition.next));
        expected
            .chain(read)
            .map(|(number, next)| {
                let detail = self.details.get(topic(number)).cloned().unwrap_or_default();
                (number, Mark { next, detail })
            })
            .collect()
    }

    fn found(&mut self) -> Marks {
        std::mem::take(&mut self.found)
    }

    fn knows_its_share(&self) -> bool {
        self.complete
    }

    fn at_end(&self, partition: u32) -> bool {
        let Some(ours) = self.partitions.iter().find(|ours| ours.number == partition) else { return false };
        let state = self.shared.state();
        let reached = state.told.get(&partition).is_some_and(|told| told.elapsed() < TOLD_HOLDS);
        reached && state.ends.get(&partition).is_some_and(|end| *end <= ours.next)
    }

    fn committed(&mut self, marks: &Marks) {
        if !self.has_group {
            return;
        }
        let ours = self.partitions.iter().filter_map(|partition| {
            let mark = marks.get(&partition.number)?;
            Some((partition.topic, partition.partition, mark.next))
        });
        self.shared.state().store = Some(ours.collect());
    }

    fn lag(&self) -> BTreeMap<u32, u64> {
        let state = self.shared.state();
        self.partitions
            .iter()
            .filter_map(|partition| {
                let name: &CStr = &self.names[partition.topic];
                let fetched = native::cached_high_watermark(&partition.consumer, name, partition.partition);
                let end = fetched.max(state.ends.get(&partition.number).copied())?;
                Some((partition.number, end.saturating_sub(partition.next)))
            })
            .collect()
    }
}

/// The last offsets are stored, for a while; queues go before the keeper lets go of their client.
impl Drop for KafkaReader {
    fn drop(&mut self) {
        self.partitions.clear();
        let mut state = self.shared.state();
        state.arrived.clear();
        self.shared.stop.store(true, Ordering::Release);
        let ended = self.shared.changed.wait_timeout_while(state, STOP_WAIT, |state| !state.ended);
        drop(ended);
    }
}

#[cfg(test)]
mod tests;
