//! A pipeline with all sorts of state and four sinks that deliver exactly once, killed at random moments and started again with
//! another number of workers: what comes out is exactly what plain loops say.
//!
//! `TORTURE_SEED` and `TORTURE_KILLS` say which run it is; any seed runs again (`cargo xtask torture`). With
//! `TORTURE_SERVICES=restart` the broker and the database are the test's own, and are killed too.

use crate::databases::ask;
use crate::engine;
use crate::receiver::Receiver;
use rdkafka::ClientConfig;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::message::Message;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use rusqlite::Connection;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use xtask::services::{Kafka, KafkaOptions, Postgres};

/// When the first payment was, milliseconds since 1970.
const START_MS: i64 = 1_767_225_600_000;
/// Between two payments.
const STEP_MS: i64 = 7;
/// A payment and its label may be so far apart.
const WITHIN_MS: i64 = 3_000;
/// How far `rolling` looks back.
const RECENT_MS: i64 = 5_000;
/// Payments a second that are sent while there are kills.
const RATE: u64 = 400;
/// How long everything may take to come out at the end.
const PATIENCE: Duration = Duration::from_secs(180);

#[derive(Clone, Copy)]
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % bound
    }
}

#[derive(Clone, Debug)]
struct Payment {
    id: i64,
    card: String,
    at_ms: i64,
    amount: i64,
    /// When it was labelled, if it was.
    label_ms: Option<i64>,
}

/// The payment of a number: the same in each run of a seed.
fn payment(seed: u64, id: i64) -> Payment {
    let mut random = Random(seed ^ (id as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15));
    random.below(2);
    let card = format!("c{}", random.below(40));
    let at_ms = START_MS + id * STEP_MS;
    let label_ms = (random.below(4) == 0).then(|| at_ms + random.below(WITHIN_MS as u64 * 2) as i64);
    Payment { id, card, at_ms, amount: random.below(1_000) as i64 + 1, label_ms }
}

const PIPELINE: &str = r#"
version: 1
pipeline: NAME
delivery: exactly_once
commit: { every: 20ms }
checkpoint: { every: 300ms }
connections:
  bus: { type: kafka, brokers: "BROKERS" }
  desk: { type: postgres, url: "DATABASE" }
sources:
  payments:
    type: kafka
    connection: bus
    topic: NAME-payments
    format: json
    start: earliest
    schema: { id: int64, card: string, at: int64, amount: int64 }
    event_time: { column: at, unit: ms, max_delay: 200ms, idle_after: 1h }
  labels:
    type: kafka
    connection: bus
    topic: NAME-labels
    format: json
    start: earliest
    schema: { payment: int64, told: int64 }
    event_time: { column: told, unit: ms, max_delay: 200ms, idle_after: 1h }
models:
  risk: MODEL
operators:
  recent:
    type: rolling
    input: payments
    key: card
    over: 5s
    order: event_time
    columns: { n: count(*), total: sum(amount) }
  features:
    type: map
    input: recent
    set:
      value: CAST(amount AS DOUBLE)
      hour: 12.0
      mean: CAST(total AS DOUBLE) / n
      zero: 0.0
      one: 1.0
      count: CAST(n AS DOUBLE)
  scored:
    type: predict
    input: features
    model: risk
    features: [value, hour, count, mean, zero, zero, mean, one]
    outputs: { risk: score }
  told:
    type: join
    left: scored
    right: labels
    match: { id: payment }
    within: { before: 0s, after: 3s }
  seconds:
    type: window
    input: payments
    key: card
    tumbling: 1s
    columns: { n: count(*), total: sum(amount), distinct_amounts: count(DISTINCT amount) }
  totals: { type: aggregate, input: payments, key: card, columns: { n: count(*), total: sum(amount) } }
sinks:
  scores: { type: kafka, connection: bus, input: scored, topic: NAME-scores, columns: [id, n, total, risk] }
  windows: { type: sqlite, input: seconds, path: windows.db, table: windows, create: true, mode: append, columns: [card, window_start, n, total, distinct_amounts] }
  cards: { type: postgres, connection: desk, input: totals, table: TABLE, create: true, mode: upsert, key: [card] }
  alerts: { type: webhook, input: told, url: "RECEIVER", idempotency_key: "CAST(id AS STRING)", columns: [id, told, risk], retry: { first: 20ms, max: 200ms } }
"#;

/// What a receiver that acts once for each `Idempotency-Key` has done, and the keys that came with different bodies.
fn acted(receiver: &Receiver) -> (BTreeMap<String, String>, Vec<String>) {
    let (mut acted, mut wrong) = (BTreeMap::new(), Vec::new());
    for (key, body) in receiver.requests() {
        let key = key.unwrap_or_default();
        if let Some(before) = acted.insert(key.clone(), body.clone())
            && before != body
        {
            wrong.push(format!("{key} came with {before}, and again with {body}"));
        }
    }
    (acted, wrong)
}

fn client(brokers: &str) -> ClientConfig {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", brokers);
    config
}

fn make_topics(brokers: &str, topics: &[(&str, i32)]) {
    let admin: AdminClient<DefaultClientContext> = client(brokers).create().expect("a client");
    let topics: Vec<NewTopic<'_>> =
        topics.iter().map(|(name, partitions)| NewTopic::new(name, *partitions, TopicReplication::Fixed(1))).collect();
    let made = admin.create_topics(&topics, &AdminOptions::new());
    let waiting = std::pin::pin!(made);
    block_on(waiting).expect("topics are made");
}

/// Waits for a future on this thread.
fn block_on<F: Future>(mut future: std::pin::Pin<&mut F>) -> F::Output {
    struct Unpark(std::thread::Thread);
    impl std::task::Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }
    let waker = Arc::new(Unpark(std::thread::current())).into();
    let mut cx = std::task::Context::from_waker(&waker);
    loop {
        match future.as_mut().poll(&mut cx) {
            std::task::Poll::Ready(done) => return done,
            std::task::Poll::Pending => std::thread::park_timeout(Duration::from_millis(50)),
        }
    }
}

/// Sends payments and their labels until told to stop, then what closes all windows. How many payments there were.
fn produce(seed: u64, brokers: &str, name: &str, stop: &AtomicBool) -> i64 {
    let producer: BaseProducer =
        client(brokers).set("enable.idempotence", "true").set("linger.ms", "5").create().expect("a producer");
    let send = |topic: &str, partition: i32, value: String| {
        let topic = format!("{name}-{topic}");
        let mut record = BaseRecord::<(), _>::to(&topic).partition(partition).payload(&value);
        while let Err((_, again)) = producer.send(record) {
            record = again;
            producer.poll(Duration::from_millis(20));
        }
    };
    let mut random = Random(seed);
    let (mut next, begun) = (0i64, Instant::now());
    // Labels that are not sent yet, by the number of the payment after which they are.
    let mut labels: BTreeMap<i64, Vec<(i64, i64)>> = BTreeMap::new();
    let mut sent_upto = 0i64;
    while !stop.load(Ordering::SeqCst) {
        let due = (begun.elapsed().as_millis() as u64 * RATE / 1_000) as i64;
        while next < due {
            // In blocks, in some order.
            let mut block: Vec<i64> = (next..next + 8).collect();
            for at in (1..block.len()).rev() {
                block.swap(at, random.below(at as u64 + 1) as usize);
            }
            next += 8;
            for id in block {
                let Payment { card, at_ms, amount, label_ms, .. } = payment(seed, id);
                let partition = random.below(3) as i32;
                send("payments", partition, format!(r#"{{"id":{id},"card":"{card}","at":{at_ms},"amount":{amount}}}"#));
                if let Some(label_ms) = label_ms {
                    labels.entry((label_ms - START_MS) / STEP_MS).or_default().push((id, label_ms));
                }
            }
            let later = labels.split_off(&next);
            for (payment, told) in std::mem::replace(&mut labels, later).into_values().flatten() {
                send("labels", random.below(2) as i32, format!(r#"{{"payment":{payment},"told":{told}}}"#));
            }
            sent_upto = next;
        }
        producer.poll(Duration::from_millis(5));
    }
    for (payment, told) in labels.into_values().flatten() {
        send("labels", 0, format!(r#"{{"payment":{payment},"told":{told}}}"#));
    }
    let end_ms = START_MS + sent_upto * STEP_MS + 3_600_000;
    for partition in 0..3 {
        send(
            "payments",
            partition,
            format!(r#"{{"id":-{},"card":"end","at":{},"amount":1}}"#, partition + 1, end_ms + i64::from(partition)),
        );
    }
    for partition in 0..2 {
        send("labels", partition, format!(r#"{{"payment":-9,"told":{end_ms}}}"#));
    }
    producer.flush(Duration::from_secs(60)).expect("all is sent");
    sent_upto
}

/// What plain loops make of the payments.
struct Expected {
    /// By payment: how many, and how much, in the last seconds.
    scores: BTreeMap<i64, (i64, i64)>,
    /// By card and second.
    windows: BTreeMap<(String, i64), (i64, i64, i64)>,
    cards: BTreeMap<String, (i64, i64)>,
    alerts: BTreeSet<i64>,
}

fn expected(seed: u64, count: i64) -> Expected {
    let payments: Vec<Payment> = (0..count).map(|id| payment(seed, id)).collect();
    let mut expected =
        Expected { scores: BTreeMap::new(), windows: BTreeMap::new(), cards: BTreeMap::new(), alerts: BTreeSet::new() };
    let mut amounts: BTreeMap<(String, i64), BTreeSet<i64>> = BTreeMap::new();
    let mut by_card: BTreeMap<String, Vec<(i64, i64)>> = BTreeMap::new();
    for payment in payments {
        let Payment { id, card, at_ms, amount, label_ms } = payment;
        let before = by_card.entry(card.clone()).or_default();
        before.push((at_ms, amount));
        let recent = before.iter().rev().take_while(|(at, _)| *at > at_ms - RECENT_MS);
        let (n, total) = recent.fold((0, 0), |(n, total), (_, amount)| (n + 1, total + amount));
        expected.scores.insert(id, (n, total));
        let second = at_ms.div_euclid(1_000);
        let window = expected.windows.entry((card.clone(), second)).or_default();
        amounts.entry((card.clone(), second)).or_default().insert(amount);
        *window = (window.0 + 1, window.1 + amount, amounts[&(card.clone(), second)].len() as i64);
        let of_card = expected.cards.entry(card).or_default();
        *of_card = (of_card.0 + 1, of_card.1 + amount);
        if label_ms.is_some_and(|label_ms| label_ms - at_ms <= WITHIN_MS) {
            expected.alerts.insert(id);
        }
    }
    expected
}

/// All that a reader of committed records sees of a topic: by payment, what came.
fn scores(brokers: &str, topic: &str) -> Vec<Value> {
    let consumer: BaseConsumer = client(brokers)
        .set("group.id", "torture")
        .set("enable.auto.commit", "false")
        .set("isolation.level", "read_committed")
        .set("enable.partition.eof", "true")
        .create()
        .expect("a consumer");
    let metadata = consumer.fetch_metadata(Some(topic), Duration::from_secs(30)).expect("metadata");
    let partitions: Vec<i32> = metadata.topics()[0].partitions().iter().map(|partition| partition.id()).collect();
    let mut list = TopicPartitionList::new();
    for partition in &partitions {
        list.add_partition_offset(topic, *partition, Offset::Beginning).expect("a place");
    }
    consumer.assign(&list).expect("assigned");
    let (mut ended, mut found) = (BTreeSet::new(), Vec::new());
    let begun = Instant::now();
    while ended.len() < partitions.len() {
        assert!(begun.elapsed() < PATIENCE, "the topic has no end");
        match consumer.poll(Duration::from_millis(200)) {
            Some(Ok(message)) => {
                found.push(serde_json::from_slice(message.payload().unwrap_or_default()).expect("a row"));
            }
            Some(Err(rdkafka::error::KafkaError::PartitionEOF(partition))) => {
                ended.insert(partition);
            }
            Some(Err(error)) => panic!("{error}"),
            None => {}
        }
    }
    found
}

struct Run<'a> {
    folder: &'a Path,
    logs: usize,
}

impl Run<'_> {
    fn log(&self) -> PathBuf {
        self.folder.join(format!("log.{}", self.logs))
    }

    fn start(&mut self, workers: u64) -> Child {
        self.logs += 1;
        Command::new(engine())
            .current_dir(self.folder)
            .args(["run", "pipeline.yaml", "--state", "state", "--no-metrics", "--quiet"])
            .args(["--workers", &workers.to_string()])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(std::fs::File::create(self.log()).expect("the log"))
            .spawn()
            .expect("the engine starts")
    }

    fn said(&self) -> String {
        std::fs::read_to_string(self.log()).unwrap_or_default()
    }
}

fn number(name: &str, otherwise: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(otherwise)
}

#[test]
fn killed_at_random_moments_it_delivers_exactly_once() {
    let variable = |name: &str| std::env::var(name).ok().filter(|text| !text.is_empty());
    let mut own = (variable("TORTURE_SERVICES").as_deref() == Some("restart")).then(|| {
        let kafka = Kafka::start(KafkaOptions::default()).expect("a broker of our own");
        (kafka, Postgres::start().expect("a server of our own"))
    });
    let (brokers, database) = match &own {
        Some((kafka, postgres)) => (kafka.brokers().to_owned(), postgres.url().to_owned()),
        None => match (variable("KAFKA_BROKERS"), variable("POSTGRES_URL")) {
            (Some(brokers), Some(database)) => (brokers, database),
            _ => return,
        },
    };
    let (seed, kills) = (number("TORTURE_SEED", 1), number("TORTURE_KILLS", 20));
    let folder = tempfile::tempdir().expect("a folder");
    let folder = folder.path();
    let name = format!("torture-{seed}-{}", std::process::id());
    let table = name.replace('-', "_");
    let receiver = Receiver::start();
    let model = crate::package().parent().expect("the repository").join("models/risk/model.yaml");
    let pipeline = PIPELINE
        .replace("NAME", &name)
        .replace("BROKERS", &brokers)
        .replace("DATABASE", &database)
        .replace("TABLE", &table)
        .replace("RECEIVER", &receiver.url())
        .replace("MODEL", &model.display().to_string());
    std::fs::write(folder.join("pipeline.yaml"), pipeline).expect("written");
    let topic = |of: &str| format!("{name}-{of}");
    let topics = [(topic("payments"), 3), (topic("labels"), 2), (topic("scores"), 2)];
    let topics: Vec<(&str, i32)> = topics.iter().map(|(name, partitions)| (name.as_str(), *partitions)).collect();
    make_topics(&brokers, &topics);

    let stop = Arc::new(AtomicBool::new(false));
    let producing = {
        let (stop, brokers, name) = (stop.clone(), brokers.clone(), name.clone());
        std::thread::spawn(move || produce(seed, &brokers, &name, &stop))
    };
    let mut random = Random(seed.wrapping_add(77));
    let mut run = Run { folder, logs: 0 };
    for kill in 0..kills {
        let workers = [1, 2, 4][random.below(3) as usize];
        let mut child = run.start(workers);
        if let Some((kafka, postgres)) = &mut own {
            std::thread::sleep(Duration::from_millis(random.below(800)));
            match random.below(12) {
                0 => {
                    kafka.kill();
                    std::thread::sleep(Duration::from_millis(random.below(1_000)));
                    kafka.restart().expect("the broker comes back");
                }
                1 => {
                    postgres.kill();
                    std::thread::sleep(Duration::from_millis(random.below(1_000)));
                    postgres.restart().expect("the server comes back");
                }
                2 => {
                    postgres.stop();
                    postgres.restart().expect("the server comes back");
                }
                _ => {}
            }
        }
        // Some die before they have begun, some after several checkpoints.
        std::thread::sleep(Duration::from_millis(150 + random.below(1_500)));
        if let Some(status) = child.try_wait().expect("it can be asked") {
            panic!("seed {seed}: before kill {kill} it ended with {status}:\n{}", run.said());
        }
        child.kill().expect("it is killed");
        child.wait().expect("it is gone");
    }
    stop.store(true, Ordering::SeqCst);
    let count = producing.join().expect("all is sent");
    let expected = expected(seed, count);
    let mut child = run.start(2);
    let begun = Instant::now();
    let windows = || -> i64 {
        let file = Connection::open(folder.join("windows.db")).expect("it opens");
        let count = file.query_row("SELECT count(*) FROM windows WHERE card <> 'end'", (), |row| row.get(0));
        count.unwrap_or(0)
    };
    let all_there = || {
        windows() as usize >= expected.windows.len()
            && acted(&receiver).0.len() >= expected.alerts.len()
            && ask(&database, &format!("SELECT coalesce(sum(n), 0) FROM {table} WHERE card <> 'end'"))
                == count.to_string()
    };
    while !all_there() && begun.elapsed() < PATIENCE {
        if let Some(status) = child.try_wait().expect("it can be asked") {
            panic!("seed {seed}: it ended with {status}:\n{}", run.said());
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    // What comes too much comes soon after.
    std::thread::sleep(Duration::from_millis(500));
    let sent = Command::new("kill").args(["-INT", &child.id().to_string()]).status();
    assert!(sent.is_ok_and(|status| status.success()));
    assert!(child.wait().expect("it ends").success(), "seed {seed}: {}", run.said());

    let found = scores(&brokers, &topic("scores"));
    let mut by_id: BTreeMap<i64, (i64, i64, f64)> = BTreeMap::new();
    for row in found.iter().filter(|row| row["id"].as_i64() >= Some(0)) {
        let int = |name: &str| row[name].as_i64().expect("an integer");
        let before = by_id.insert(int("id"), (int("n"), int("total"), row["risk"].as_f64().expect("a float")));
        assert!(before.is_none(), "seed {seed}: payment {} is scored twice", int("id"));
    }
    let scored: BTreeMap<i64, (i64, i64)> = by_id.iter().map(|(id, (n, total, _))| (*id, (*n, *total))).collect();
    assert_eq!(scored.len(), expected.scores.len(), "seed {seed}: payments are missing in the topic");
    assert!(scored == expected.scores, "seed {seed}: other scores");

    let file = Connection::open(folder.join("windows.db")).expect("it opens");
    let mut query = file
        .prepare("SELECT card, window_start, n, total, distinct_amounts FROM windows WHERE card <> 'end'")
        .expect("a table");
    let mut in_table: BTreeMap<(String, i64), (i64, i64, i64)> = BTreeMap::new();
    let mut rows = query.query(()).expect("rows");
    while let Some(row) = rows.next().expect("a row") {
        let start: String = row.get(1).expect("text");
        let start = seconds(&start);
        let values = (row.get(2).expect("n"), row.get(3).expect("total"), row.get(4).expect("amounts"));
        let before = in_table.insert((row.get(0).expect("a card"), start), values);
        assert!(before.is_none(), "seed {seed}: the window at {start} is there twice");
    }
    assert_eq!(in_table.len(), expected.windows.len(), "seed {seed}: windows");
    assert!(in_table == expected.windows, "seed {seed}: other windows");

    let cards = ask(&database, &format!("SELECT card, n, total FROM {table} WHERE card <> 'end' ORDER BY card"));
    let cards: BTreeMap<String, (i64, i64)> = cards
        .lines()
        .map(|line| {
            let values: Vec<&str> = line.split('|').collect();
            (values[0].to_owned(), (values[1].parse().expect("n"), values[2].parse().expect("total")))
        })
        .collect();
    assert!(cards == expected.cards, "seed {seed}: other totals");

    let (acted, wrong) = acted(&receiver);
    assert!(wrong.is_empty(), "seed {seed}: {wrong:?}");
    let ids: BTreeSet<i64> = acted.keys().map(|key| key.parse().expect("an id")).collect();
    assert!(ids == expected.alerts, "seed {seed}: acted on {}, {} expected", ids.len(), expected.alerts.len());
    for (key, body) in &acted {
        let body: Value = serde_json::from_str(body).expect("a row");
        let body = if body.is_array() { body[0].clone() } else { body };
        let risk = by_id[&key.parse::<i64>().expect("an id")].2;
        assert_eq!(body["risk"].as_f64(), Some(risk), "seed {seed}: the alert and the score of {key}");
    }
    ask(&database, &format!("DROP TABLE {table}"));
}

/// The seconds since 1970 of a time in SQLite.
fn seconds(text: &str) -> i64 {
    let file = Connection::open_in_memory().expect("it opens");
    let query = "SELECT CAST(strftime('%s', ?1) AS INTEGER)";
    file.query_row(query, [text], |row| row.get::<_, i64>(0)).expect("a time")
}
