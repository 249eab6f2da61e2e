//! Pipelines between systems that are slow, dead for a while, or killed: nothing is lost, and memory does not grow.

use crate::receiver::Receiver;
use crate::running::{PATIENCE, Running};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

fn write(folder: &Path, name: &str, text: &str) {
    std::fs::write(folder.join(name), text).expect("it is written");
}

/// `{"id":0,"text":"..."}` and so on.
fn lines(count: u64, text: &str) -> String {
    (0..count).fold(String::new(), |mut lines, id| {
        writeln!(lines, "{{\"id\":{id},\"text\":\"{text}\"}}").expect("a string takes text");
        lines
    })
}

#[test]
fn a_slow_sink_slows_the_source_and_memory_does_not_grow() {
    const ROWS: u64 = 400_000;
    const LIMIT: f64 = (4 << 20) as f64;
    let folder = tempfile::tempdir().expect("a folder");
    let folder = folder.path();
    write(folder, "rows.jsonl", &lines(ROWS, &"x".repeat(200)));
    write(
        folder,
        "pipeline.yaml",
        "
version: 1
pipeline: slow-sink
max_in_flight: { bytes: 4MiB }
sources:
  rows: { type: file, path: rows.jsonl, format: json, schema: { id: int64, text: string } }
sinks:
  out: { type: stdout, input: rows, format: json }
",
    );
    let mut running = Running::start(folder, &["--workers", "2"], Stdio::piped());
    // Nobody reads the pipe. Once the source stands still, it must go on standing still.
    let mut last = (0.0, Instant::now());
    running.until("the source stands still", |running| {
        let records = running.metric("engine_source_records_total", &[]).unwrap_or_default();
        if records != last.0 {
            last = (records, Instant::now());
        }
        let paused = running.metric("engine_source_paused_seconds_total", &[]).unwrap_or_default();
        paused > 0.5 && last.1.elapsed() > Duration::from_secs(1)
    });
    assert!(last.0 < ROWS as f64 / 2.0, "{} of {ROWS} rows were read though nobody takes them", last.0);
    let in_flight = running.metric("engine_in_flight_bytes", &[]).expect("the metric");
    // The last poll of each worker may go beyond.
    assert!((LIMIT * 0.9..LIMIT * 1.5).contains(&in_flight), "{in_flight} bytes are in flight");
    assert_eq!(running.metric("engine_in_flight_limit_bytes", &[]), Some(LIMIT));
    let resident = running.resident();
    assert!(resident > 0 && resident < 200 << 20, "{} MiB are resident", resident >> 20);
    let stdout = BufReader::new(running.child.stdout.take().expect("a pipe"));
    let ids: BTreeSet<u64> = stdout
        .lines()
        .map(|line| {
            let row: serde_json::Value = serde_json::from_str(&line.expect("a line")).expect("a row");
            row["id"].as_u64().expect("an id")
        })
        .collect();
    assert_eq!(ids.len() as u64, ROWS);
    assert!(running.ended().success(), "{}", running.log());
}

/// With `ENGINE_TEST_OUTAGE=60` the receiver is dead for a minute.
#[test]
fn a_dead_webhook_costs_no_row_and_shows_in_the_metrics() {
    const ROWS: u64 = 2_000;
    let outage = std::env::var("ENGINE_TEST_OUTAGE").ok().and_then(|seconds| seconds.parse().ok()).unwrap_or(2);
    let folder = tempfile::tempdir().expect("a folder");
    let folder = folder.path();
    let receiver = Receiver::start();
    write(
        folder,
        "pipeline.yaml",
        &format!(
            "
version: 1
pipeline: dead-webhook
sources:
  rows: {{ type: generate, rate: 400/s, rows: {ROWS}, columns: {{ id: row_number() }} }}
sinks:
  alerts:
    type: webhook
    input: rows
    url: {}
    idempotency_key: id
    timeout: 1s
    attempt_timeout: 600ms
    retry: {{ first: 50ms, max: 200ms }}
    breaker: {{ failures: 2, within: 10s, pause: 600ms }}
",
            receiver.url()
        ),
    );
    let mut running = Running::start(folder, &[], Stdio::null());
    running.until("the first alerts", |_| receiver.bodies().len() > 50);
    receiver.fall_silent(true);
    let silent = Instant::now();
    let mut states: BTreeMap<&str, u32> = BTreeMap::new();
    running.until("the outage is over", |running| {
        for state in ["closed", "open", "half_open"] {
            let label = format!("state=\"{state}\"");
            if running.metric("engine_sink_breaker_state", &[&label]) == Some(1.0) {
                *states.entry(state).or_default() += 1;
            }
        }
        silent.elapsed() > Duration::from_secs(outage)
            && states.contains_key("open")
            && states.contains_key("half_open")
    });
    assert!(running.metric("engine_sink_breaker_openings_total", &[]).is_some_and(|openings| openings >= 1.0));
    assert!(running.metric("engine_sink_queue_rows", &[]).is_some_and(|rows| rows > 0.0));
    let metrics = running.metrics().expect("the metrics");
    if let Some(checked) = xtask::services::prometheus::check_metrics(&metrics) {
        checked.expect("promtool finds nothing");
    }
    receiver.fall_silent(false);
    running.until("every alert", |_| receiver.bodies().len() as u64 >= ROWS);
    assert!(running.ended().success(), "{}", running.log());
    let ids: BTreeSet<u64> = receiver
        .bodies()
        .iter()
        .map(|body| serde_json::from_str::<serde_json::Value>(body).expect("a row")["id"].as_u64().expect("an id"))
        .collect();
    assert_eq!(ids.len() as u64, ROWS, "each row arrives");
    assert!(!folder.join(".engine").exists(), "no row failed: {}", running.log());
}

#[test]
fn a_drain_that_can_not_end_is_given_up_and_comes_again() {
    const ROWS: u64 = 300;
    let folder = tempfile::tempdir().expect("a folder");
    let folder = folder.path();
    let receiver = Receiver::start();
    receiver.fall_silent(true);
    write(folder, "rows.jsonl", &lines(ROWS, ""));
    write(
        folder,
        "pipeline.yaml",
        &format!(
            "
version: 1
pipeline: drain
sources:
  rows: {{ type: file, path: rows.jsonl, format: json, schema: {{ id: int64 }} }}
sinks:
  alerts: {{ type: webhook, input: rows, url: {}, attempt_timeout: 300ms }}
",
            receiver.url()
        ),
    );
    let arguments = ["--state", "state", "--drain-timeout", "500ms"];
    let mut running = Running::start(folder, &arguments, Stdio::null());
    running.until("rows wait", |running| running.metric("engine_sink_queue_rows", &[]).is_some_and(|rows| rows > 0.0));
    running.interrupt();
    assert_eq!(running.ended().code(), Some(1), "{}", running.log());
    assert!(running.log().contains("that a sink's system has not taken"), "{}", running.log());
    receiver.fall_silent(false);
    let mut running = Running::start(folder, &arguments, Stdio::null());
    assert!(running.ended().success(), "{}", running.log());
    assert_eq!(receiver.bodies().len() as u64, ROWS);
}

/// Fraud's shape between topics: killed ten times, nothing is lost.
#[test]
fn killed_between_topics_nothing_is_lost() {
    let Some(brokers) = std::env::var("KAFKA_BROKERS").ok().filter(|brokers| !brokers.is_empty()) else { return };
    let topic = |name: &str| format!("{name}-{}", std::process::id());
    let (given, taken) = (topic("given"), topic("taken"));
    for name in [&given, &taken] {
        xtask::services::kafka::create_topic(&brokers, name, 3, &[]).expect("a topic");
    }
    let folder = tempfile::tempdir().expect("a folder");
    let folder = folder.path();
    write(
        folder,
        "pipeline.yaml",
        &format!(
            "
version: 1
pipeline: between-topics
connections:
  bank: {{ type: kafka, brokers: \"{brokers}\" }}
sources:
  rows:
    type: kafka
    connection: bank
    topic: {given}
    group: {given}
    start: earliest
    format: json
    schema: {{ id: int64, card: int64, at: int64 }}
    event_time: {{ column: at, unit: ms, max_delay: 1s }}
operators:
  some: {{ type: filter, input: rows, where: id % 7 <> 0 }}
  history:
    type: rolling
    input: some
    key: card
    over: 2s
    columns: {{ n: count(*) }}
sinks:
  out: {{ type: kafka, connection: bank, input: history, topic: {taken}, key: card, columns: [id, card, n] }}
"
        ),
    );
    let killed = Arc::new(AtomicBool::new(false));
    let producing = std::thread::spawn({
        let (brokers, given, killed) = (brokers.clone(), given.clone(), killed.clone());
        move || topics::produce(&brokers, &given, &killed)
    });
    let mut kills = 0;
    while kills < 10 {
        let mut running = Running::start(folder, &["--state", "state", "--workers", "2"], Stdio::null());
        let before = running.metric("engine_sink_acknowledged_rows_total", &[]).unwrap_or_default();
        running.until("rows are acknowledged", |running| {
            running.metric("engine_sink_acknowledged_rows_total", &[]).is_some_and(|rows| rows > before + 200.0)
        });
        std::thread::sleep(Duration::from_millis(kills * 37 % 150));
        running.kill();
        kills += 1;
    }
    killed.store(true, Ordering::SeqCst);
    let produced = producing.join().expect("the producer").expect("all are produced");
    let mut running = Running::start(folder, &["--state", "state", "--workers", "1"], Stdio::null());
    let expected: BTreeSet<u64> = (0..produced).filter(|id| id % 7 != 0).collect();
    let found = topics::consume(&brokers, &taken, PATIENCE, |found| expected.iter().all(|id| found.contains_key(id)));
    let missing: Vec<&u64> = expected.iter().filter(|id| !found.contains_key(id)).collect();
    assert!(missing.is_empty(), "{} rows are lost, such as {:?}", missing.len(), &missing[..missing.len().min(5)]);
    assert!(found.keys().all(|id| expected.contains(id)), "rows that were filtered came out");
    // A row's history is that of its key in the order of its partition, whatever was killed in between.
    for (id, counts) in &found {
        assert!(
            counts.iter().all(|n| *n == topics::history(*id)),
            "{id} counts {counts:?}, not {}",
            topics::history(*id)
        );
    }
    running.interrupt();
    assert!(running.ended().success(), "{}", running.log());
}

/// The topics of the test above.
mod topics {
    use rdkafka::ClientConfig;
    use rdkafka::consumer::{BaseConsumer, Consumer};
    use rdkafka::error::KafkaError;
    use rdkafka::message::Message;
    use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
    use rdkafka::types::RDKafkaErrorCode;
    use std::collections::BTreeMap;
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::time::{Duration, Instant};

    const CARDS: u64 = 50;
    const STEP_MS: u64 = 5;

    /// How many rows of its card a row sees, those that the filter lets through, in (at - 2 s, at].
    pub(super) fn history(id: u64) -> u64 {
        (0..)
            .map(|back| id.checked_sub(back * CARDS))
            .take_while(|seen| seen.is_some_and(|seen| (id - seen) * STEP_MS < 2_000))
            .flatten()
            .filter(|seen| seen % 7 != 0)
            .count() as u64
    }

    /// Rows at a steady pace until the last kill, so that each kill finds the engine at work; a card's rows are in one
    /// partition. How many there were.
    pub(super) fn produce(brokers: &str, topic: &str, killed: &AtomicBool) -> Result<u64, KafkaError> {
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", brokers).set("acks", "all").set("enable.idempotence", "true");
        let producer: BaseProducer = config.create()?;
        let start = Instant::now();
        let mut id = 0;
        while !killed.load(Ordering::SeqCst) {
            let due = Duration::from_micros(id * 200);
            if let Some(early) = due.checked_sub(start.elapsed())
                && early > Duration::from_millis(2)
            {
                producer.poll(Duration::ZERO);
                std::thread::sleep(early);
            }
            let card = id % CARDS;
            let at = 1_767_225_600_000 + id * STEP_MS;
            let value = format!("{{\"id\":{id},\"card\":{card},\"at\":{at}}}");
            let key = card.to_string();
            let mut record = BaseRecord::to(topic).partition((card % 3) as i32).key(&key).payload(&value);
            while let Err((error, again)) = producer.send(record) {
                if error != KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull) {
                    return Err(error);
                }
                producer.poll(Duration::from_millis(10));
                record = again;
            }
            id += 1;
        }
        producer.flush(Duration::from_secs(60))?;
        Ok(id)
    }

    /// What stands in a topic, by row: each count that it came with.
    pub(super) fn consume(
        brokers: &str,
        topic: &str,
        patience: Duration,
        mut done: impl FnMut(&BTreeMap<u64, Vec<u64>>) -> bool,
    ) -> BTreeMap<u64, Vec<u64>> {
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", brokers).set("group.id", topic).set("auto.offset.reset", "earliest");
        let consumer: BaseConsumer = config.create().expect("a consumer");
        consumer.subscribe(&[topic]).expect("the topic");
        let mut found: BTreeMap<u64, Vec<u64>> = BTreeMap::new();
        let start = Instant::now();
        let mut quiet = 0;
        // Done once nothing has come for a while and nothing is missing.
        while start.elapsed() < patience && !(quiet >= 5 && done(&found)) {
            match consumer.poll(Duration::from_millis(200)) {
                Some(message) => {
                    quiet = 0;
                    let message = message.expect("a message");
                    let row: serde_json::Value =
                        serde_json::from_slice(message.payload().unwrap_or_default()).expect("a row");
                    let (id, n) = (row["id"].as_u64().expect("an id"), row["n"].as_u64().expect("a count"));
                    found.entry(id).or_default().push(n);
                }
                None => quiet += 1,
            }
        }
        found
    }
}
