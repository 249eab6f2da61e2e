//! The sink `webhook`: rows as JSON to an HTTP endpoint, through [`crate::delivery`].
//!
//! ```text
//! worker: encode ─queue─▶ dispatch ─▶ up to `pending` deliveries ─▶ max_in_flight requests ─▶ receiver
//!                 (bytes)  (task)      (wait for retry or breaker)
//! ```
//!
//! What an answer means: 2xx is taken; 408, 425, 429 and 5xx, like errors of the network, may pass; any other status is
//! final for its rows. Several requests are on their way at one time and failed ones come later again, so **rows reach the
//! receiver in no promised order**, not even those of one key; a receiver that minds sorts by a column of its own, or
//! `max_in_flight: 1` is said and retried rows still come late. A row may come twice (an answer was lost, the engine was
//! restarted): `idempotency_key` is how a receiver tells. With it and a receiver that acts once for each key, rows are delivered
//! exactly once: the journal sends those again, with the same key and body, that it does not know to be answered, and a
//! receiver that can't be reached never makes a row fail.
//!
//! Redirects are not followed: headers with secrets would go to whoever the answer names.

use crate::common::{chain, lock};
use crate::delivery::{
    Delivery, DeliveryKeys, Failure, FailureKind, Health, OnError, Outcome, Time, TokioTimer, WhileOpen,
    parse_retry_after,
};
use crate::formats::{Encoding, RecordEncoder, first_columns};
use crate::queue::{self, Events, Popped, Receiver, Sender};
use crate::tickets::Tickets;
use crate::{SinkEntry, SinkHandle, SinkStart, SinkStats, delivery, runtime, texts};
use arrow::datatypes::SchemaRef;
use engine_base::codes::{spec as spec_codes, system as codes};
use engine_base::{Clock, Diagnostic, RowError};
use engine_dataflow::{Acknowledged, ErrorRow, RowPosition, Rows, Waker, Writer};
use engine_expr::{Program, Scalar, Scope};
use engine_plan::{Columns, Cx, ExactlyOnce, Planned, PlannedSink, SinkCommon, SinkKind, StreamType};
use engine_spec::value::Secret;
use engine_spec::{Expression, TimeSpan};
use indexmap::IndexMap;
use reqwest::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, RETRY_AFTER};
use reqwest::{Client, Method, StatusCode, Url};
use schemars::JsonSchema;
use serde::Deserialize;
use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::{Notify, Semaphore};
use tokio::task::{AbortHandle, JoinHandle, JoinSet};

/// The registry line.
pub const ENTRY: SinkEntry = SinkEntry {
    kind: SinkKind {
        name: "webhook",
        summary: "Rows as JSON to an HTTP endpoint, one request a row, or batches.",
        config_schema: |generator| delivery::schema_with_keys::<WebhookKeys>(generator),
        encodes: true,
        sees_all: true,
        changelogs: false,
        plan,
    },
    open: |planned, start| open(planned, start),
};

/// How many bytes of encoded rows wait for a worker's dispatcher.
const QUEUE_BYTES: usize = 4 << 20;
/// How many rows a request has at most, whatever `batch` says.
const BATCH_ROWS_MAX: usize = 100_000;
/// How much of an answer is read, so that its connection can be used again.
const ANSWER_BYTES_MAX: usize = 64 << 10;
/// How long it takes until a row is tried again that must not fail.
const AGAIN: Duration = Duration::from_millis(100);
/// How much of a refusal stands in an error row.
const REASON_BYTES_MAX: usize = 500;
/// Headers that are not the user's to set.
const OWN_HEADERS: [&str; 5] = ["content-length", "host", "transfer-encoding", "connection", "idempotency-key"];
/// Headers that hold secrets.
const SECRET_HEADERS: [&str; 6] =
    ["authorization", "proxy-authorization", "x-api-key", "api-key", "x-auth-token", "cookie"];

/// The keys of a `webhook` sink, beside those of every sink and of delivery.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct WebhookKeys {
    /// Where rows are sent: `http://` or `https://`. Only its scheme and host are ever shown. Redirects are not followed.
    url: Secret,
    /// The method of the requests.
    #[serde(default)]
    method: Verb,
    /// Headers of every request. Their values are never shown and may hold secrets: `Authorization: "Bearer ${secret:TOKEN}"`.
    #[serde(default)]
    headers: IndexMap<String, Secret>,
    /// What identifies a row: sent as the header `Idempotency-Key`, the same when the row is sent again, so that the
    /// receiver can tell. It must not be null by its type, and not change with time or chance. It sees the columns that
    /// `columns` gives, and those of the input that it leaves out.
    idempotency_key: Option<Expression>,
    /// Send several rows in one request, as a JSON array. Without it a request is one row, as a JSON object.
    batch: Option<BatchKeys>,
}

/// How many rows go together.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
struct BatchKeys {
    /// The most rows of a request.
    max_rows: usize,
    /// How long a row may wait for others. Without it a request takes what has gathered while others were on their way.
    max_wait: TimeSpan,
}

impl Default for BatchKeys {
    fn default() -> Self {
        BatchKeys { max_rows: 500, max_wait: TimeSpan(0) }
    }
}

/// The method of a request.
#[derive(Clone, Copy, Debug, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "UPPERCASE")]
enum Verb {
    /// The receiver does something with the row.
    #[default]
    Post,
    /// The receiver stores the row at the URL.
    Put,
    /// The receiver changes what is at the URL.
    Patch,
}

/// A planned webhook.
#[derive(Debug)]
struct WebhookPlan {
    url: Secret,
    /// Scheme and host: what may be shown.
    origin: String,
    method: Verb,
    headers: Vec<(String, Secret)>,
    key: Option<Scalar>,
    batch: Option<Batch>,
    delivery: DeliveryKeys,
    encoding: Encoding,
    /// The columns of a body.
    columns: SchemaRef,
}

#[derive(Clone, Copy, Debug)]
struct Batch {
    max_rows: usize,
    max_wait: Duration,
}

impl Planned for WebhookPlan {
    fn reads(&self, _wanted: &[Columns]) -> Vec<Columns> {
        let mut reads: Columns = self.columns.fields().iter().map(|field| field.name().clone()).collect();
        if let Some(key) = &self.key {
            reads.extend(key.columns().iter().cloned());
            engine_plan::rowwise::reads_event_time(key, &mut reads);
        }
        vec![reads]
    }

    fn facts(&self) -> Vec<(String, String)> {
        let mut facts = vec![("to".to_owned(), self.origin.clone())];
        if let Some(key) = &self.key {
            facts.push(("idempotency_key".to_owned(), key.text().to_owned()));
        }
        if let Some(batch) = &self.batch {
            facts.push(("batch".to_owned(), format!("up to {} rows", batch.max_rows)));
        }
        facts.push(("max_in_flight".to_owned(), self.delivery.max_in_flight.to_string()));
        facts
    }
}

fn plan(cx: &mut Cx<'_>, input: &StreamType, common: &SinkCommon) -> Option<PlannedSink> {
    let delivery = DeliveryKeys::read(cx);
    let keys: Option<WebhookKeys> = cx.config.without(&DeliveryKeys::NAMES).decode(cx.diagnostics);
    let encoding = plan_format(cx, common);
    let keys = keys?;
    let origin = plan_url(cx, &keys.url);
    let headers = plan_headers(cx, keys.headers);
    let key = match &keys.idempotency_key {
        Some(expression) => plan_key(cx, expression, &input.schema).map(Some),
        None => Some(None),
    };
    let batch = match &keys.batch {
        Some(batch) => plan_batch(cx, batch, keys.idempotency_key.is_some()).map(Some),
        None => Some(None),
    };
    let delivery = delivery?;
    let (can_fail, timeout_ns) = (delivery.on_error == OnError::DeadLetter, delivery.timeout.ns());
    let planned = WebhookPlan {
        url: keys.url,
        origin: origin?,
        method: keys.method,
        headers: headers?,
        key: key?,
        batch: batch?,
        delivery,
        encoding: encoding?,
        columns: common.columns.clone(),
    };
    let exactly_once = match (&planned.key, &planned.batch) {
        (None, _) => ExactlyOnce::No {
            reason: "without an `idempotency_key` the receiver can't tell that a row comes again",
            help: "write `idempotency_key:` with what identifies the event, if the receiver acts once for each key",
        },
        (_, Some(_)) => ExactlyOnce::No {
            reason: "with `batch` a row has no key of its own in its request",
            help: "leave `batch` out",
        },
        (Some(_), None) => {
            ExactlyOnce::By("the same `Idempotency-Key` and body again, if the receiver acts once for each key")
        }
    };
    Some(PlannedSink { can_fail, timeout_ns: Some(timeout_ns), exactly_once, planned: Arc::new(planned) })
}

fn plan_format(cx: &mut Cx<'_>, common: &SinkCommon) -> Option<Encoding> {
    let encoding = Encoding::plan(cx, common)?;
    if encoding.name() != "json" {
        let found = Diagnostic::error(
            codes::FORMAT_NOT_CARRIED,
            cx.span(&["format"]),
            format!("a webhook sends JSON, not `{}`", encoding.name()),
        );
        cx.push(found.help("leave `format` out"));
        return None;
    }
    Some(encoding)
}

/// Warns of a password that stands in the URL as it is.
fn warn_password(cx: &mut Cx<'_>, url: &Url) {
    let written = cx.component.node.get("url").is_some_and(|node| !node.substituted);
    if written && url.password().is_some() {
        let span = cx.span(&["url"]);
        let found = Diagnostic::warning(codes::PASSWORD_IN_FILE, span, "a password stands in the URL in the file");
        cx.push(
            found.help(
                "write `url: \"https://user:${secret:NAME}@host/path\"` and set the secret where the engine runs",
            ),
        );
    }
}

/// Checks the URL and gives what may be shown of it.
fn plan_url(cx: &mut Cx<'_>, url: &Secret) -> Option<String> {
    if cx.component.node.get("url").is_some_and(|node| node.is_placeholder()) {
        return Some("known when it runs".to_owned());
    }
    let problem = match Url::parse(url.reveal()) {
        Ok(url) if !matches!(url.scheme(), "http" | "https") => {
            format!("a webhook can't be sent over `{}:`", url.scheme())
        }
        Ok(parsed) => match parsed.host_str() {
            Some(_) => {
                warn_password(cx, &parsed);
                return Some(parsed.origin().ascii_serialization());
            }
            None => "the URL names no host".to_owned(),
        },
        Err(error) => format!("this is not a URL: {error}"),
    };
    let found = Diagnostic::error(codes::BAD_URL, cx.span(&["url"]), problem);
    cx.push(found.help("write `http://` or `https://`, a host and a path: `https://example.com/alerts`"));
    None
}

fn plan_headers(cx: &mut Cx<'_>, headers: IndexMap<String, Secret>) -> Option<Vec<(String, Secret)>> {
    let mut sound = true;
    for (name, value) in &headers {
        let entry = cx.component.node.get("headers").and_then(|node| node.entry(name));
        let (name_at, node) = entry.map_or((cx.span(&["headers"]), None), |entry| (entry.key_span, Some(&entry.value)));
        let lower = name.to_ascii_lowercase();
        let placeholder = node.is_some_and(|node| node.is_placeholder());
        let value_at = node.map_or(name_at, |node| node.span);
        let found = if HeaderName::from_bytes(name.as_bytes()).is_err() {
            Diagnostic::error(codes::BAD_HEADER, name_at, format!("`{name}` can't be the name of a header"))
                .help("a name has letters, digits and signs such as `-`")
        } else if OWN_HEADERS.contains(&lower.as_str()) {
            let found =
                Diagnostic::error(codes::BAD_HEADER, name_at, format!("the engine sets the header `{name}` itself"));
            match lower.as_str() {
                "idempotency-key" => found.help("write `idempotency_key:` with an expression beside `headers:`"),
                _ => found.help("leave it out"),
            }
        } else if !placeholder && HeaderValue::from_str(value.reveal()).is_err() {
            Diagnostic::error(
                codes::BAD_HEADER,
                value_at,
                format!("the value of `{name}` has characters that no header can have"),
            )
            .help("a value is one line of text")
        } else {
            if SECRET_HEADERS.contains(&lower.as_str()) && node.is_some_and(|node| !node.substituted) {
                let found = Diagnostic::warning(
                    codes::PASSWORD_IN_FILE,
                    value_at,
                    format!("the value of `{name}` stands in the file"),
                );
                cx.push(
                    found
                        .help(format!("write `{name}: \"${{secret:NAME}}\"` and set the secret where the engine runs")),
                );
            }
            continue;
        };
        cx.push(found);
        sound = false;
    }
    sound.then(|| headers.into_iter().collect())
}

fn plan_key(cx: &mut Cx<'_>, expression: &Expression, schema: &SchemaRef) -> Option<Scalar> {
    const PATH: [&str; 1] = ["idempotency_key"];
    let key = cx.scalar(&PATH, expression, &Scope::new(schema.clone()))?;
    let mut sound = true;
    if key.reads_now() || key.reads_position() {
        let what = if key.reads_now() { "time" } else { "chance" };
        let found = Diagnostic::error(codes::UNSTABLE_KEY, cx.span(&PATH), format!("this key changes with {what}"))
            .at_caret("a row that is sent again would have another key")
            .help("make it of the columns that identify the event");
        cx.push(found);
        sound = false;
    }
    sound &= texts::check(cx, &PATH, &key, "an idempotency key");
    if key.nullable() {
        let found = Diagnostic::error(
            codes::MAY_BE_NULL,
            cx.span(&PATH),
            "an idempotency key must not be null, and this one may be",
        )
        .help(format!("filter such rows away, or give them a value: `coalesce({}, '')`", key.text()));
        cx.push(found);
        sound = false;
    }
    sound.then_some(key)
}

fn plan_batch(cx: &mut Cx<'_>, batch: &BatchKeys, has_key: bool) -> Option<Batch> {
    if !(1..=BATCH_ROWS_MAX).contains(&batch.max_rows) {
        let message = format!("`max_rows` is from 1 to {BATCH_ROWS_MAX}");
        let found = Diagnostic::error(spec_codes::OUT_OF_RANGE, cx.span(&["batch", "max_rows"]), message);
        cx.push(found.help("leave it out for 500; without `batch` a request is one row"));
        return None;
    }
    if has_key && batch.max_rows > 1 {
        let found = Diagnostic::error(
            codes::KEY_AND_BATCH,
            cx.span(&["batch"]),
            "`batch` and `idempotency_key` don't go together",
        )
        .at_caret("rows would come in other batches after a restart")
        .also(cx.span(&["idempotency_key"]), "this is the key of one row")
        .help("leave out one of them");
        cx.push(found);
        return None;
    }
    Some(Batch { max_rows: batch.max_rows, max_wait: batch.max_wait.duration() })
}

fn open(planned: &dyn Planned, start: SinkStart) -> Result<Box<dyn SinkHandle>, String> {
    let plan: &WebhookPlan = planned.downcast().ok_or("not a planned webhook")?;
    let key = plan.key.as_ref().map(|key| key.compile(&start.schema).map(|_| key.clone())).transpose();
    let key = key.map_err(|error| error.message)?;
    let runtime = runtime::shared()?;
    let url = Url::parse(plan.url.reveal()).map_err(|error| format!("`url` is not a URL: {error}"))?;
    let mut headers = HeaderMap::new();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    for (name, value) in &plan.headers {
        let bad = || format!("the header `{name}` can't be sent");
        let mut value = HeaderValue::from_str(value.reveal()).map_err(|_| bad())?;
        value.set_sensitive(true);
        headers.insert(HeaderName::from_bytes(name.as_bytes()).map_err(|_| bad())?, value);
    }
    let mut client = Client::builder()
        .user_agent(concat!("engine/", env!("CARGO_PKG_VERSION")))
        .redirect(reqwest::redirect::Policy::none())
        .pool_max_idle_per_host(plan.delivery.max_in_flight)
        .tcp_nodelay(true);
    if is_loopback(&url) {
        // A proxy of the environment can't reach this machine.
        client = client.no_proxy();
    }
    let client = client.build().map_err(|error| format!("the HTTP client can't be made: {}", chain(&error)))?;
    let time = Time { clock: start.clock.clone(), timer: Arc::new(TokioTimer) };
    // Replicas that start together must not call together.
    let seed = start.clock.now_ns().unsigned_abs() ^ u64::from(std::process::id());
    let way = Delivery::new(start.name.clone(), plan.delivery.policy(WhileOpen::Wait), time, seed);
    let shared = Arc::new(Shared {
        name: start.name,
        client,
        url,
        method: match plan.method {
            Verb::Post => Method::POST,
            Verb::Put => Method::PUT,
            Verb::Patch => Method::PATCH,
        },
        headers,
        delivery: way,
        on_error: plan.delivery.on_error,
        exact: start.exact.map(|exact| exact.delivered_sequence()),
        clock: start.clock,
        counts: Counts::default(),
    });
    Ok(Box::new(Webhook {
        shared,
        runtime,
        key,
        batch: plan.batch,
        encoding: plan.encoding.clone(),
        columns: plan.columns.clone(),
        schema: start.schema,
        max_in_flight: plan.delivery.max_in_flight,
        tasks: Mutex::new(Vec::new()),
    }))
}

fn is_loopback(url: &Url) -> bool {
    url.host_str().is_some_and(|host| {
        let host = host.trim_start_matches('[').trim_end_matches(']');
        host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback())
    })
}

/// An open webhook.
struct Webhook {
    shared: Arc<Shared>,
    runtime: &'static tokio::runtime::Runtime,
    key: Option<Scalar>,
    batch: Option<Batch>,
    encoding: Encoding,
    /// The columns of a body, and all that come with a row.
    columns: SchemaRef,
    schema: SchemaRef,
    max_in_flight: usize,
    /// The dispatchers of the writers.
    tasks: Mutex<Vec<JoinHandle<()>>>,
}

/// What the writers of a webhook share.
struct Shared {
    name: Arc<str>,
    client: Client,
    url: Url,
    method: Method,
    headers: HeaderMap,
    delivery: Delivery,
    on_error: OnError,
    /// Exactly once: the last batch of which all rows are answered at the start.
    exact: Option<u64>,
    clock: Arc<dyn Clock>,
    counts: Counts,
}

#[derive(Default)]
struct Counts {
    rows: AtomicU64,
    bytes: AtomicU64,
    failed: AtomicU64,
    queued_rows: AtomicU64,
    queued_bytes: AtomicU64,
}

impl SinkHandle for Webhook {
    fn writer(&self, _worker: usize, waker: Waker) -> Box<dyn Writer> {
        let filled = Arc::new(Notify::new());
        let (notify, room) = (filled.clone(), waker.clone());
        let events = Events { filled: Box::new(move || notify.notify_one()), room: Box::new(move || room.wake()) };
        let (sender, receiver) = queue::bounded(QUEUE_BYTES, events);
        let tickets = Tickets::after(self.shared.exact.unwrap_or(0));
        let answers = Mutex::new(Answers { tickets, ..Answers::default() });
        let line = Arc::new(Line { shared: self.shared.clone(), answers, waker });
        // With batches, rows gather while all requests are on their way; without, rows that wait for their next attempt
        // must not keep others from their first.
        let pending = if self.batch.is_some() { self.max_in_flight } else { 4 * self.max_in_flight };
        let dispatcher = Dispatcher {
            line: line.clone(),
            queue: receiver,
            filled,
            gathered: VecDeque::new(),
            batch: self.batch.unwrap_or(Batch { max_rows: 1, max_wait: Duration::ZERO }),
            array: self.batch.is_some(),
            pending: Arc::new(Semaphore::new(pending)),
        };
        let task = self.runtime.spawn(dispatcher.run());
        let abort = task.abort_handle();
        lock(&self.tasks).push(task);
        Box::new(WebhookWriter {
            line,
            dispatcher: abort,
            queue: sender,
            encoder: self.encoding.encoder(&self.columns),
            body_columns: self.columns.fields().len(),
            // It was compiled once when the sink was opened, so this does not fail.
            key: self.key.as_ref().and_then(|key| key.compile(&self.schema).ok()),
        })
    }

    fn close(self: Box<Self>) -> Result<SinkStats, String> {
        let tasks = std::mem::take(&mut *lock(&self.tasks));
        let ended = self.runtime.block_on(async {
            let mut ended = Ok(());
            for task in tasks {
                ended = ended.and(task.await.or_else(|error| if error.is_cancelled() { Ok(()) } else { Err(error) }));
            }
            ended
        });
        ended.map_err(|error| format!("a dispatcher of `{}` ended badly: {error}", self.shared.name))?;
        Ok(self.stats())
    }

    fn stats(&self) -> SinkStats {
        let (counts, delivery) = (&self.shared.counts, self.shared.delivery.stats());
        SinkStats {
            rows: counts.rows.load(Ordering::Relaxed),
            bytes: counts.bytes.load(Ordering::Relaxed),
            failed: counts.failed.load(Ordering::Relaxed),
            retries: delivery.retries,
            queued_rows: counts.queued_rows.load(Ordering::Relaxed),
            queued_bytes: counts.queued_bytes.load(Ordering::Relaxed),
            breaker: Some(delivery.breaker),
        }
    }
}

/// A row on its way.
struct Item {
    ticket: u64,
    body: Vec<u8>,
    key: Option<HeaderValue>,
    position: RowPosition,
    ingest_ns: i64,
}

/// What a writer and its dispatcher share.
struct Line {
    shared: Arc<Shared>,
    answers: Mutex<Answers>,
    waker: Waker,
}

#[derive(Default)]
struct Answers {
    tickets: Tickets,
    /// Rows that failed, each with its ticket.
    failed: Vec<(u64, ErrorRow)>,
    fatal: Option<String>,
}

struct WebhookWriter {
    line: Arc<Line>,
    queue: Sender<Vec<Item>>,
    dispatcher: AbortHandle,
    encoder: Box<dyn RecordEncoder>,
    body_columns: usize,
    key: Option<Program>,
}

/// A writer goes when all its tickets are acknowledged, or when the pipeline has failed and nobody waits for them any more:
/// then deliveries may be waiting for a receiver that never comes back.
impl Drop for WebhookWriter {
    fn drop(&mut self) {
        self.dispatcher.abort();
    }
}

impl Writer for WebhookWriter {
    fn write(&mut self, rows: Rows, ticket: u64) -> Result<(), Rows> {
        if !self.queue.has_room() {
            return Err(rows);
        }
        let (mut bytes, mut ends) = (Vec::new(), Vec::new());
        let encoded = first_columns(&rows.batch, self.body_columns)
            .and_then(|batch| self.encoder.encode(&batch, &mut bytes, Some(&mut ends)));
        if let Err(problem) = encoded {
            lock(&self.line.answers).fatal = Some(problem);
            self.line.waker.wake();
            return Ok(());
        }
        let keys = self.keys(&rows);
        let mut answers = lock(&self.line.answers);
        answers.tickets.add(ticket, rows.num_rows());
        let mut items = Vec::with_capacity(rows.num_rows());
        let (mut from, mut failed) = (0, 0);
        for (row, (end, key)) in ends.iter().zip(keys).enumerate() {
            let body = &bytes[from..end - 1];
            from = *end;
            let (position, ingest_ns) = (rows.position(row), rows.ingest_ns.get(row));
            match key {
                Ok(key) => items.push(Item { ticket, body: body.to_vec(), key, position, ingest_ns }),
                Err(error) => {
                    let step = self.line.shared.name.clone();
                    let row = ErrorRow { step, error, payload: body.to_vec(), position, ingest_ns };
                    answers.failed.push((ticket, row));
                    failed += 1;
                }
            }
        }
        if failed > 0 {
            self.line.shared.counts.failed.fetch_add(failed, Ordering::Relaxed);
            answers.tickets.done(ticket, failed as usize);
            self.line.waker.wake();
        }
        drop(answers);
        if !items.is_empty() {
            let counts = &self.line.shared.counts;
            counts.queued_rows.fetch_add(items.len() as u64, Ordering::Relaxed);
            counts.queued_bytes.fetch_add(items.iter().map(|item| item.body.len() as u64).sum(), Ordering::Relaxed);
            self.queue.force_push(items, bytes.len());
        }
        Ok(())
    }

    fn acknowledged(&mut self) -> Acknowledged {
        let mut answers = lock(&self.line.answers);
        let up_to = answers.tickets.up_to();
        // A batch that is to take effect once may come again as a whole after a crash, with all that failed of it: what did is told
        // with the batch, not before.
        let at_once = self.line.shared.exact.is_none();
        let failed = answers.failed.extract_if(.., |(ticket, _)| at_once || *ticket <= up_to);
        Acknowledged { up_to, failed: failed.map(|(_, row)| row).collect(), fatal: answers.fatal.take(), note: None }
    }

    /// The dispatcher never holds rows back longer than `batch.max_wait`, which is the user's word.
    fn flush(&mut self) {}
}

impl WebhookWriter {
    /// The idempotency key of each row.
    fn keys(&mut self, rows: &Rows) -> Vec<Result<Option<HeaderValue>, RowError>> {
        let Some(program) = &mut self.key else { return vec![Ok(None); rows.num_rows()] };
        texts::evaluate(program, rows)
            .into_iter()
            .map(|text| {
                let text = text?.ok_or_else(|| RowError::new("null", "the idempotency key is null"))?;
                HeaderValue::from_bytes(&text)
                    .map(Some)
                    .map_err(|_| RowError::new("encode", "the idempotency key has characters that no header can have"))
            })
            .collect()
    }
}

/// Takes rows from a writer's queue and has them delivered.
struct Dispatcher {
    line: Arc<Line>,
    queue: Receiver<Vec<Item>>,
    filled: Arc<Notify>,
    gathered: VecDeque<Item>,
    batch: Batch,
    array: bool,
    pending: Arc<Semaphore>,
}

impl Dispatcher {
    async fn run(mut self) {
        let mut tasks = JoinSet::new();
        loop {
            let Ok(permit) = self.pending.clone().acquire_owned().await else { return };
            while let Some(ended) = tasks.try_join_next() {
                if let Err(error) = ended {
                    self.line.fail(format!("a delivery ended badly: {error}"));
                }
            }
            if !self.gather().await {
                return;
            }
            let rows: Vec<Item> = self.gathered.drain(..self.gathered.len().min(self.batch.max_rows)).collect();
            let (line, array) = (self.line.clone(), self.array);
            tasks.spawn(async move {
                line.send(rows, array).await;
                drop(permit);
            });
        }
    }

    /// Waits for a row, and for the others of its batch. False when the writer is gone.
    async fn gather(&mut self) -> bool {
        while self.gathered.is_empty() {
            match self.queue.try_pop() {
                Popped::Item(items) => self.gathered.extend(items),
                Popped::Closed => return false,
                Popped::Empty => self.filled.notified().await,
            }
        }
        let full = tokio::time::sleep(self.batch.max_wait);
        tokio::pin!(full);
        while self.gathered.len() < self.batch.max_rows {
            match self.queue.try_pop() {
                Popped::Item(items) => self.gathered.extend(items),
                Popped::Closed => return false,
                Popped::Empty => tokio::select! {
                    biased;
                    () = &mut full => break,
                    () = self.filled.notified() => {}
                },
            }
        }
        true
    }
}

impl Line {
    /// Delivers a request and notes what came of it.
    async fn send(&self, rows: Vec<Item>, array: bool) {
        let body = body_of(&rows, array);
        let key = if array { None } else { rows.first().and_then(|row| row.key.clone()) };
        let shared = &self.shared;
        let result = loop {
            // Stays so where an attempt has no end.
            let down = &AtomicBool::new(true);
            let attempt = |_| {
                down.store(true, Ordering::Relaxed);
                let attempt = shared.attempt(body.clone(), key.clone());
                async move {
                    let outcome = attempt.await;
                    down.store(matches!(outcome, Outcome::Retryable { health: Health::Down, .. }), Ordering::Relaxed);
                    outcome
                }
            };
            match shared.delivery.deliver(attempt).await {
                // A row without an answer may have been taken: exactly once it is asked about until there is one.
                Err(failure)
                    if shared.exact.is_some()
                        && failure.kind != FailureKind::Refused
                        && down.load(Ordering::Relaxed) =>
                {
                    tracing::warn!(name = &*shared.name, reason = failure.reason, "a row is tried again");
                    tokio::time::sleep(AGAIN).await;
                }
                result => break result,
            }
        };
        let bytes: u64 = rows.iter().map(|row| row.body.len() as u64).sum();
        shared.counts.queued_rows.fetch_sub(rows.len() as u64, Ordering::Relaxed);
        shared.counts.queued_bytes.fetch_sub(bytes, Ordering::Relaxed);
        let mut answers = lock(&self.answers);
        let mut news = false;
        let error = match result {
            Ok(()) => {
                shared.counts.rows.fetch_add(rows.len() as u64, Ordering::Relaxed);
                shared.counts.bytes.fetch_add(body.len() as u64, Ordering::Relaxed);
                None
            }
            Err(failure) if shared.on_error == OnError::Stop => {
                drop(answers);
                self.fail(format!("a row could not be delivered: {}", failure.reason));
                return;
            }
            Err(failure) => {
                shared.counts.failed.fetch_add(rows.len() as u64, Ordering::Relaxed);
                Some(row_error(&failure))
            }
        };
        for row in rows {
            if let Some(error) = &error {
                let Item { body: payload, position, ingest_ns, .. } = row;
                let step = shared.name.clone();
                let failed = ErrorRow { step, error: error.clone(), payload, position, ingest_ns };
                answers.failed.push((row.ticket, failed));
                news = true;
            }
            news |= answers.tickets.done(row.ticket, 1);
        }
        drop(answers);
        if news {
            self.waker.wake();
        }
    }

    fn fail(&self, reason: String) {
        lock(&self.answers).fatal.get_or_insert(reason);
        self.waker.wake();
    }
}

fn body_of(rows: &[Item], array: bool) -> Vec<u8> {
    let mut body = Vec::with_capacity(rows.iter().map(|row| row.body.len() + 1).sum::<usize>() + 1);
    for (at, row) in rows.iter().enumerate() {
        if array {
            body.push(if at == 0 { b'[' } else { b',' });
        }
        body.extend_from_slice(&row.body);
    }
    if array {
        body.push(b']');
    }
    body
}

fn row_error(failure: &Failure) -> RowError {
    match failure.kind {
        FailureKind::Refused => RowError::new("rejected", failure.reason.clone()),
        FailureKind::Attempts | FailureKind::Timeout | FailureKind::Open => {
            let attempts = failure.attempts;
            RowError::new("undelivered", format!("given up after {attempts} attempts: {}", failure.reason))
        }
    }
}

impl Shared {
    /// One request.
    async fn attempt(&self, body: Vec<u8>, key: Option<HeaderValue>) -> Outcome<()> {
        let mut request =
            self.client.request(self.method.clone(), self.url.clone()).headers(self.headers.clone()).body(body);
        if let Some(key) = key {
            request = request.header("idempotency-key", key);
        }
        let response = match request.send().await {
            Ok(response) => response,
            // Without its URL, which may hold a secret.
            Err(error) => {
                let reason = chain(&error.without_url());
                return Outcome::Retryable { reason, retry_after: None, health: Health::Down };
            }
        };
        let status = response.status();
        let retry_after = response.headers().get(RETRY_AFTER).and_then(|value| value.to_str().ok());
        let retry_after = retry_after.and_then(|text| parse_retry_after(text, self.clock.now_ns()));
        let answer = answer_of(response).await;
        if status.is_success() {
            return Outcome::Ok(());
        }
        let mut reason = format!("HTTP {status}");
        if status.is_redirection() {
            reason.push_str(": redirects are not followed");
        }
        let text = String::from_utf8_lossy(&answer[..answer.len().min(REASON_BYTES_MAX)]);
        if !text.trim().is_empty() {
            reason.push_str(": ");
            reason.push_str(text.trim());
        }
        let may_pass =
            matches!(status, StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_EARLY | StatusCode::TOO_MANY_REQUESTS);
        if may_pass || status.is_server_error() {
            let health = match status {
                StatusCode::BAD_GATEWAY | StatusCode::SERVICE_UNAVAILABLE | StatusCode::GATEWAY_TIMEOUT => Health::Down,
                status if status.is_server_error() => Health::Faulty,
                _ => Health::Busy,
            };
            Outcome::Retryable { reason, retry_after, health }
        } else {
            Outcome::Permanent { reason }
        }
    }
}

/// The beginning of an answer. It is read so that its connection can be used again; the status has decided already.
async fn answer_of(mut response: reqwest::Response) -> Vec<u8> {
    let mut answer = Vec::new();
    while answer.len() < ANSWER_BYTES_MAX {
        match response.chunk().await {
            Ok(Some(chunk)) => answer.extend_from_slice(&chunk),
            Ok(None) | Err(_) => break,
        }
    }
    answer
}

#[cfg(test)]
mod tests;
