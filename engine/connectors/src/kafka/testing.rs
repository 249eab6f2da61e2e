//! For tests against a real broker, whose address `KAFKA_BROKERS` gives. Without it they pass, and say that they did nothing.

use crate::runtime;
use rdkafka::admin::{
    AdminClient, AdminOptions, AlterConfig, NewPartitions, NewTopic, ResourceSpecifier, TopicReplication,
};
use rdkafka::client::DefaultClientContext;
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::KafkaError;
use rdkafka::message::{Header, Headers, Message, OwnedHeaders};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

/// The brokers, if there are any.
#[allow(clippy::print_stderr)]
pub(super) fn brokers() -> Option<String> {
    let brokers = std::env::var("KAFKA_BROKERS").ok().filter(|brokers| !brokers.is_empty());
    if brokers.is_none() {
        eprintln!("skipped: KAFKA_BROKERS is not set");
    }
    brokers
}

/// A name that no other test has.
pub(super) fn unique(name: &str) -> String {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let nanos = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_nanos();
    format!("{name}-{nanos}-{}", COUNT.fetch_add(1, Ordering::SeqCst))
}

fn config(brokers: &str) -> ClientConfig {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", brokers);
    config
}

fn admin(brokers: &str) -> AdminClient<DefaultClientContext> {
    config(brokers).create().unwrap()
}

/// Creates a topic of a name of its own.
pub(super) fn topic(brokers: &str, name: &str, partitions: i32) -> String {
    let name = unique(name);
    let new = NewTopic::new(&name, partitions, TopicReplication::Fixed(1));
    let created = runtime::shared().unwrap().block_on(admin(brokers).create_topics([&new], &AdminOptions::new()));
    created.unwrap().remove(0).unwrap();
    name
}

/// The same with settings of its own.
pub(super) fn topic_with(brokers: &str, name: &str, partitions: i32, settings: &[(&str, &str)]) -> String {
    let name = unique(name);
    let new = NewTopic::new(&name, partitions, TopicReplication::Fixed(1));
    let new = settings.iter().fold(new, |new, (key, value)| new.set(key, value));
    let created = runtime::shared().unwrap().block_on(admin(brokers).create_topics([&new], &AdminOptions::new()));
    created.unwrap().remove(0).unwrap();
    name
}

/// Changes a setting of a topic.
pub(super) fn alter_topic(brokers: &str, topic: &str, key: &str, value: &str) {
    let change = AlterConfig::new(ResourceSpecifier::Topic(topic)).set(key, value);
    let altered = runtime::shared().unwrap().block_on(admin(brokers).alter_configs([&change], &AdminOptions::new()));
    altered.unwrap().remove(0).unwrap();
}

/// Deletes a topic, and waits until it is gone.
pub(super) fn delete_topic(brokers: &str, topic: &str) {
    let deleted = runtime::shared().unwrap().block_on(admin(brokers).delete_topics(&[topic], &AdminOptions::new()));
    deleted.unwrap().remove(0).unwrap();
    let consumer: BaseConsumer = config(brokers).create().unwrap();
    let deadline = Instant::now() + Duration::from_secs(30);
    while consumer.fetch_metadata(Some(topic), Duration::from_secs(10)).unwrap().topics()[0].error().is_none() {
        assert!(Instant::now() < deadline, "{topic} stays");
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn transactional(brokers: &str, id: &str) -> BaseProducer {
    let producer: BaseProducer = config(brokers).set("transactional.id", id).create().unwrap();
    producer.init_transactions(Duration::from_secs(30)).unwrap();
    producer
}

/// Takes a transactional id from whoever has it.
pub(super) fn fence(brokers: &str, id: &str) {
    drop(transactional(brokers, id));
}

/// Writes records in a transaction, and goes without an end.
pub(super) fn leave_open(brokers: &str, id: &str, topic: &str, count: i64) {
    let producer = transactional(brokers, id);
    producer.begin_transaction().unwrap();
    for new in numbers(0, 0, count) {
        send(&producer, topic, &new);
    }
    producer.flush(Duration::from_secs(30)).unwrap();
}

/// The end of partition 0 as one sees it who reads so.
pub(super) fn end_of(brokers: &str, topic: &str, isolation: &str) -> i64 {
    ends_of(brokers, topic, 1, isolation)[0]
}

fn ends_of(brokers: &str, topic: &str, partitions: i32, isolation: &str) -> Vec<i64> {
    let consumer: BaseConsumer = config(brokers).set("isolation.level", isolation).create().unwrap();
    let end = |partition| consumer.fetch_watermarks(topic, partition, Duration::from_secs(10)).unwrap().1;
    (0..partitions).map(end).collect()
}

/// All that is committed in a topic.
pub(super) fn consume_committed(brokers: &str, topic: &str) -> Vec<Stored> {
    let consumer: BaseConsumer = config(brokers)
        .set("group.id", "tests")
        .set("enable.auto.commit", "false")
        .set("isolation.level", "read_committed")
        .set("enable.partition.eof", "true")
        .create()
        .unwrap();
    let partitions =
        consumer.fetch_metadata(Some(topic), Duration::from_secs(10)).unwrap().topics()[0].partitions().len();
    let deadline = Instant::now() + Duration::from_secs(30);
    // The marks of a commit come a moment later.
    while ends_of(brokers, topic, partitions as i32, "read_committed")
        != ends_of(brokers, topic, partitions as i32, "read_uncommitted")
    {
        assert!(Instant::now() < deadline, "a transaction of {topic} is open");
        std::thread::sleep(Duration::from_millis(5));
    }
    let mut list = TopicPartitionList::new();
    for partition in 0..partitions as i32 {
        list.add_partition_offset(topic, partition, Offset::Beginning).unwrap();
    }
    consumer.assign(&list).unwrap();
    let (mut all, mut open) = (Vec::new(), partitions);
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    while open > 0 {
        assert!(Instant::now() < deadline, "{topic} can't be read");
        match consumer.poll(Duration::from_millis(100)) {
            None => {}
            Some(Err(KafkaError::PartitionEOF(_))) => open -= 1,
            Some(message) => {
                let message = message.unwrap();
                all.push(Stored {
                    partition: message.partition(),
                    key: message.key().map(text),
                    value: message.payload().map(text).unwrap_or_default(),
                    headers: Vec::new(),
                });
            }
        }
    }
    all
}

/// Gives a topic more partitions.
pub(super) fn add_partitions(brokers: &str, topic: &str, partitions: usize) {
    let new = NewPartitions::new(topic, partitions);
    let added = runtime::shared().unwrap().block_on(admin(brokers).create_partitions([&new], &AdminOptions::new()));
    added.unwrap().remove(0).unwrap();
}

/// Deletes what stands before an offset of partition 0.
pub(super) fn delete_before(brokers: &str, topic: &str, offset: i64) {
    let mut list = TopicPartitionList::new();
    list.add_partition_offset(topic, 0, Offset::Offset(offset)).unwrap();
    let deleted = runtime::shared().unwrap().block_on(admin(brokers).delete_records(&list, &AdminOptions::new()));
    deleted.unwrap();
}

/// A record for a topic.
#[derive(Clone, Default)]
pub(super) struct New {
    pub(super) partition: i32,
    pub(super) key: Option<Vec<u8>>,
    pub(super) value: Option<Vec<u8>>,
    pub(super) headers: Vec<(&'static str, &'static str)>,
    pub(super) timestamp_ms: Option<i64>,
}

/// `count` records of JSON in a partition, numbered on from `from`.
pub(super) fn numbers(partition: i32, from: i64, count: i64) -> Vec<New> {
    let value = |n: i64| format!("{{\"id\":{n},\"card\":\"card {}\",\"note\":null}}", n % 10).into_bytes();
    (from..from + count).map(|n| New { partition, value: Some(value(n)), ..New::default() }).collect()
}

/// Puts records into a topic.
pub(super) fn produce(brokers: &str, topic: &str, records: &[New]) {
    let producer: BaseProducer = config(brokers).set("linger.ms", "5").set("acks", "all").create().unwrap();
    for new in records {
        send(&producer, topic, new);
    }
    producer.flush(Duration::from_secs(30)).unwrap();
}

fn send(producer: &BaseProducer, topic: &str, new: &New) {
    loop {
        let mut record: BaseRecord<'_, [u8], [u8]> = BaseRecord::to(topic).partition(new.partition);
        record.key = new.key.as_deref();
        record.payload = new.value.as_deref();
        record.timestamp = new.timestamp_ms;
        if !new.headers.is_empty() {
            let all = new.headers.iter();
            record.headers = Some(all.fold(OwnedHeaders::new(), |headers, (key, value)| {
                headers.insert(Header { key, value: Some(*value) })
            }));
        }
        match producer.send(record) {
            Ok(()) => break,
            Err(_) => producer.poll(Duration::from_millis(10)),
        }
    }
    producer.poll(Duration::ZERO);
}

/// Puts records into a topic within a transaction, and waits for its mark: the broker answers before it writes that, and what
/// another producer sends meanwhile would stand before it.
pub(super) fn transact(brokers: &str, topic: &str, records: &[New], commit: bool) {
    let producer: BaseProducer = config(brokers).set("transactional.id", unique("tx")).create().unwrap();
    let patience = Duration::from_secs(30);
    producer.init_transactions(patience).unwrap();
    producer.begin_transaction().unwrap();
    for new in records {
        send(&producer, topic, new);
    }
    producer.flush(patience).unwrap();
    match commit {
        true => producer.commit_transaction(patience).unwrap(),
        false => producer.abort_transaction(patience).unwrap(),
    }
    let end = |isolation| {
        let consumer: BaseConsumer = config(brokers).set("isolation.level", isolation).create().unwrap();
        let partitions: BTreeSet<i32> = records.iter().map(|new| new.partition).collect();
        let ends = partitions.iter().map(|partition| consumer.fetch_watermarks(topic, *partition, patience).unwrap().1);
        ends.collect::<Vec<_>>()
    };
    let deadline = Instant::now() + patience;
    while end("read_committed") != end("read_uncommitted") {
        assert!(Instant::now() < deadline, "the transaction has no mark in {topic}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// A record as it stands in a topic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Stored {
    pub(super) partition: i32,
    pub(super) key: Option<String>,
    pub(super) value: String,
    pub(super) headers: Vec<(String, String)>,
}

/// The first `count` records of a topic, in the order of each partition.
pub(super) fn consume(brokers: &str, topic: &str, count: usize) -> Vec<Stored> {
    let consumer: BaseConsumer =
        config(brokers).set("group.id", "tests").set("enable.auto.commit", "false").create().unwrap();
    let metadata = consumer.fetch_metadata(Some(topic), Duration::from_secs(10)).unwrap();
    let mut list = TopicPartitionList::new();
    for partition in metadata.topics()[0].partitions() {
        list.add_partition_offset(topic, partition.id(), Offset::Beginning).unwrap();
    }
    consumer.assign(&list).unwrap();
    let mut all = Vec::new();
    let deadline = Instant::now() + Duration::from_secs(30);
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    while all.len() < count {
        assert!(Instant::now() < deadline, "only {} of {count} records are in {topic}", all.len());
        let Some(message) = consumer.poll(Duration::from_millis(100)) else { continue };
        let message = message.unwrap();
        let headers = message.headers().map(|headers| {
            headers.iter().map(|header| (header.key.to_owned(), header.value.map(text).unwrap_or_default())).collect()
        });
        all.push(Stored {
            partition: message.partition(),
            key: message.key().map(text),
            value: message.payload().map(text).unwrap_or_default(),
            headers: headers.unwrap_or_default(),
        });
    }
    all
}

/// Where a group stands in partitions 0 to `partitions` of a topic.
pub(super) fn group_offsets(brokers: &str, group: &str, topic: &str, partitions: i32) -> Vec<Option<i64>> {
    let consumer: BaseConsumer = config(brokers).set("group.id", group).create().unwrap();
    let mut list = TopicPartitionList::new();
    list.add_partition_range(topic, 0, partitions - 1);
    let found = consumer.committed_offsets(list, Duration::from_secs(10)).unwrap();
    (0..partitions)
        .map(|partition| match found.find_partition(topic, partition).unwrap().offset() {
            Offset::Offset(offset) => Some(offset),
            _ => None,
        })
        .collect()
}

/// CPU time of this process, all threads, user and system.
pub(super) fn cpu_seconds() -> f64 {
    // In ticks of a hundredth of a second.
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    let fields: Vec<&str> = stat.rsplit_once(')').unwrap().1.split_whitespace().collect();
    (fields[11].parse::<f64>().unwrap() + fields[12].parse::<f64>().unwrap()) / 100.0
}
