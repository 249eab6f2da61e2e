//! Bare Kafka clients: an open-loop producer, and a consumer that is librdkafka and a counter.

use crate::Error;
use crate::bids::Generator;
use rdkafka::ClientConfig;
use rdkafka::bindings as raw;
use rdkafka::client::ClientContext;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{DeliveryResult, Message};
use rdkafka::producer::{BaseRecord, Producer, ProducerContext, ThreadedProducer};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use std::io::{self, BufWriter, Write};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use std::{fs, ptr, thread};

/// Messages taken from librdkafka at a time.
const CONSUME_BATCH: usize = 4096;
/// How long a broker may take to answer.
const TIMEOUT: Duration = Duration::from_secs(30);
/// After this librdkafka gives a message up.
const MESSAGE_TIMEOUT_MS: &str = "40000";
/// How long the last messages may take: longer than that.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(60);
/// The producer sleeps at least so long, and then sends all that is due: a sleep for each message costs a core.
const TICK: Duration = Duration::from_millis(1);

#[derive(Default)]
struct Deliveries {
    acknowledged: AtomicU64,
    failed: AtomicU64,
    last_error: Mutex<Option<KafkaError>>,
}

impl ClientContext for Deliveries {}

impl ProducerContext for Deliveries {
    type DeliveryOpaque = ();

    fn delivery(&self, result: &DeliveryResult<'_>, _: ()) {
        match result {
            Ok(_) => self.acknowledged.fetch_add(1, Ordering::Relaxed),
            Err((error, _)) => {
                *self.last_error.lock().unwrap_or_else(PoisonError::into_inner) = Some(error.clone());
                self.failed.fetch_add(1, Ordering::Relaxed)
            }
        };
    }
}

/// Sends messages by a fixed timetable, whether or not the broker keeps up. A message's timestamp is the time at which it
/// was due, so that a late producer does not flatter who reads it.
pub(crate) fn produce(
    brokers: &str,
    topic: &str,
    rate: f64,
    count: u64,
    file: Option<&str>,
    key: Option<&str>,
) -> Result<(), Error> {
    if !(rate >= 0.0 && rate.is_finite()) {
        return Err(format!("a rate is a number from 0, not {rate}").into());
    }
    let mut lines = Lines::new(file)?;
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", brokers).set("acks", "all").set("enable.idempotence", "true");
    config.set("linger.ms", if rate == 0.0 { "20" } else { "1" });
    config.set("queue.buffering.max.messages", "500000").set("message.timeout.ms", MESSAGE_TIMEOUT_MS);
    let producer: ThreadedProducer<Deliveries> = config.create_with_context(Deliveries::default())?;
    let (start, start_us) = (Instant::now(), now_us());
    let mut behind_max = Duration::ZERO;
    for number in 0..count {
        let due = if rate == 0.0 { start.elapsed() } else { Duration::from_secs_f64(number as f64 / rate) };
        let now = start.elapsed();
        match due.checked_sub(now) {
            Some(early) if early > Duration::ZERO => thread::sleep(early.max(TICK)),
            _ => behind_max = behind_max.max(now - due),
        }
        let line = lines.next(number)?;
        let field = match key {
            Some(field) => sonic_rs::get(line, &[field])?.as_raw_str().trim_matches('"').to_owned(),
            None => String::new(),
        };
        let timestamp_ms = (start_us + due.as_micros() as i64) / 1000;
        let mut record = BaseRecord::<str, [u8]>::to(topic).payload(line).timestamp(timestamp_ms);
        if key.is_some() {
            record = record.key(&field);
        }
        while let Err((error, again)) = producer.send(record) {
            if error != KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull) {
                return Err(error.into());
            }
            thread::sleep(Duration::from_millis(1));
            record = again;
        }
    }
    producer.flush(FLUSH_TIMEOUT)?;
    let wall_s = start.elapsed().as_secs_f64();
    let counted = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
    let (acknowledged, failed) = (counted(&producer.context().acknowledged), counted(&producer.context().failed));
    println!(
        "{{\"acknowledged\":{acknowledged},\"failed\":{failed},\"start_us\":{start_us},\"wall_s\":{wall_s:.3},\
         \"per_s\":{:.0},\"behind_ms_max\":{:.1},\"cpu_s\":{:.3}}}",
        count as f64 / wall_s,
        behind_max.as_secs_f64() * 1e3,
        cpu_s(),
    );
    if acknowledged == count {
        return Ok(());
    }
    let last_error = producer.context().last_error.lock().unwrap_or_else(PoisonError::into_inner).take();
    let reason = last_error.map_or("no reason was given".into(), |error| error.to_string());
    Err(format!("{} messages were not acknowledged: {reason}", count - acknowledged).into())
}

/// Where messages come from: the lines of a file, over and over, or a generator of bids.
enum Lines {
    File { text: Vec<u8>, ends: Vec<usize> },
    Bids { generator: Generator, line: Vec<u8> },
}

impl Lines {
    fn new(file: Option<&str>) -> Result<Lines, Error> {
        let Some(file) = file else { return Ok(Lines::Bids { generator: Generator::new(1), line: Vec::new() }) };
        let mut text = fs::read(file)?;
        if !text.ends_with(b"\n") {
            text.push(b'\n');
        }
        let ends: Vec<usize> = memchr::memchr_iter(b'\n', &text).collect();
        Ok(Lines::File { text, ends })
    }

    fn next(&mut self, number: u64) -> Result<&[u8], Error> {
        match self {
            Lines::File { text, ends } => {
                let index = (number % ends.len() as u64) as usize;
                let start = if index == 0 { 0 } else { ends[index - 1] + 1 };
                Ok(&text[start..ends[index]])
            }
            Lines::Bids { generator, line } => {
                line.clear();
                generator.bid(number, line)?;
                Ok(line)
            }
        }
    }
}

/// Reads `count` messages of all partitions from their start, in batches, by librdkafka's own interface.
pub(crate) fn consume(brokers: &str, topic: &str, count: u64) -> Result<(), Error> {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", brokers).set("group.id", format!("bare-{}", now_us()));
    config.set("enable.auto.commit", "false").set("check.crcs", "false").set("fetch.wait.max.ms", "10");
    config.set("queued.max.messages.kbytes", "65536");
    config.set("fetch.max.bytes", "52428800").set("max.partition.fetch.bytes", "4194304");
    let consumer: BaseConsumer = config.create()?;
    let metadata = consumer.fetch_metadata(Some(topic), TIMEOUT)?;
    let partitions = metadata.topics().first().map_or(0, |topic| topic.partitions().len());
    let mut assignment = TopicPartitionList::new();
    for partition in 0..i32::try_from(partitions)? {
        assignment.add_partition_offset(topic, partition, Offset::Beginning)?;
    }
    consumer.assign(&assignment)?;

    let start = Instant::now();
    let mut first = None;
    let (mut messages, mut bytes) = (0, 0);
    let mut batch = [ptr::null_mut(); CONSUME_BATCH];
    // SAFETY: the queue belongs to the consumer, which outlives it. librdkafka fills at most as many entries as the
    // batch has and says how many; each is a valid message until it is destroyed, once, below.
    unsafe {
        let queue = raw::rd_kafka_queue_get_consumer(consumer.client().native_ptr());
        let mut error = raw::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR;
        while messages < count && error == raw::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR {
            // The call waits until it has all it was asked for: at the end no more than there is.
            let wanted = CONSUME_BATCH.min(usize::try_from(count - messages)?);
            let received = raw::rd_kafka_consume_batch_queue(queue, 1000, batch.as_mut_ptr(), wanted);
            for message in &batch[..usize::try_from(received).unwrap_or(0)] {
                match (**message).err {
                    raw::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR => {
                        first.get_or_insert_with(Instant::now);
                        messages += 1;
                        bytes += (**message).len;
                    }
                    raw::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR__PARTITION_EOF => {}
                    other => error = other,
                }
                raw::rd_kafka_message_destroy(*message);
            }
        }
        raw::rd_kafka_queue_destroy(queue);
        if error != raw::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR {
            return Err(format!("the consumer failed: {error:?}").into());
        }
    }
    // Connecting takes its time once; the pace counts from the first message.
    let wall_s = first.unwrap_or(start).elapsed().as_secs_f64();
    println!(
        "{{\"messages\":{messages},\"bytes\":{bytes},\"wall_s\":{wall_s:.3},\"per_s\":{:.0},\"cpu_s\":{:.3}}}",
        messages as f64 / wall_s,
        cpu_s(),
    );
    Ok(())
}

/// Prints, for every message that the topic holds now, some of its JSON fields and its timestamp in milliseconds. In a topic
/// with `message.timestamp.type=LogAppendTime` that is when the broker took it.
pub(crate) fn arrivals(brokers: &str, topic: &str, fields: &[&str]) -> Result<(), Error> {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", brokers).set("group.id", format!("arrivals-{}", now_us()));
    // The marks of transactions take offsets and are no records: only the broker can tell where the end is.
    config.set("enable.auto.commit", "false").set("enable.partition.eof", "true");
    let consumer: BaseConsumer = config.create()?;
    let metadata = consumer.fetch_metadata(Some(topic), TIMEOUT)?;
    let partitions = metadata.topics().first().map_or(0, |topic| topic.partitions().len());
    let mut assignment = TopicPartitionList::new();
    let mut left = partitions;
    for partition in 0..i32::try_from(partitions)? {
        assignment.add_partition_offset(topic, partition, Offset::Beginning)?;
    }
    consumer.assign(&assignment)?;
    let mut out = BufWriter::new(io::stdout().lock());
    while left > 0 {
        let message = match consumer.poll(TIMEOUT).ok_or("the broker went silent")? {
            Err(KafkaError::PartitionEOF(_)) => {
                left -= 1;
                continue;
            }
            message => message?,
        };
        for field in fields {
            let value = sonic_rs::get(message.payload().unwrap_or_default(), &[*field])?;
            write!(out, "{} ", value.as_raw_str().trim_matches('"'))?;
        }
        let timestamp_ms = message.timestamp().to_millis().ok_or("a message without a timestamp")?;
        writeln!(out, "{timestamp_ms}")?;
    }
    Ok(out.flush()?)
}

fn now_us() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_micros() as i64)
}

/// User and system time of this process so far, in seconds.
fn cpu_s() -> f64 {
    // SAFETY: an all-zero rusage is valid, and getrusage writes only to it.
    let usage = unsafe {
        let mut usage: libc::rusage = std::mem::zeroed();
        libc::getrusage(libc::RUSAGE_SELF, &mut usage);
        usage
    };
    let seconds = |time: libc::timeval| time.tv_sec as f64 + time.tv_usec as f64 / 1e6;
    seconds(usage.ru_utime) + seconds(usage.ru_stime)
}
