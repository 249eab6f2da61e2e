//! The thread beside each reader of Kafka: everything of the source that may take time.
//!
//! It finds the partitions, resolves and checks where each starts, assigns this worker's to librdkafka and hands their
//! queues to the reader; later it looks for new partitions, asks for the ends of topics, and stores offsets for those who
//! watch the group. It never touches a record.
//!
//! ```text
//! scout: find topics and partitions ─▶ client for so many ─▶ offsets, checked ─▶ split queues, assign ─▶ reader
//!           ▲ brokers not there: again       └──────── every 5 s: new partitions, ends; every 1 s: offsets to store
//! ```

use super::connection::{Connection, Context};
use super::native::PartitionQueue;
use super::source::{KafkaSource, Start};
use crate::SourceStart;
use engine_dataflow::{Marks, Waker};
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer};
use rdkafka::error::KafkaError;
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use rdkafka::types::RDKafkaErrorCode;
use std::collections::{BTreeMap, HashSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// How many bytes of fetched records wait for a worker, over all its partitions.
const QUEUE_BYTES: usize = 32 << 20;
/// How many fetched records wait for a worker, over all its partitions: each costs librdkafka some hundred bytes of its own.
const QUEUE_RECORDS: usize = 64 << 10;
/// How often partitions are looked for, and the ends of ours asked for.
const REFRESH_EVERY: Duration = Duration::from_secs(5);
/// What the brokers told of an end holds for so long; after that they can't be reached.
pub(super) const TOLD_HOLDS: Duration = Duration::from_secs(15);
/// How often offsets are stored for those who watch the group.
const STORE_EVERY: Duration = Duration::from_secs(1);
/// How long the keeper waits for events at a time; so long may it take to notice that it is to stop.
const KEEPER_WAIT: Duration = Duration::from_millis(200);
/// How long an answer of the brokers is waited for before it is asked for again.
const ANSWER_WAIT: Duration = Duration::from_secs(3);
/// A topic may just have been created, and not be known to all brokers.
const UNKNOWN_TOPIC_GRACE: Duration = Duration::from_secs(5);
/// The bits of a partition's number below its topic's.
pub(super) const PARTITION_BITS: u32 = 20;

/// What a reader and its keeper share.
pub(super) struct Shared {
    pub(super) state: Mutex<State>,
    /// `state` has changed, for the one who waits for the keeper's end.
    pub(super) changed: Condvar,
    /// There is something for the reader in `state`.
    pub(super) news: AtomicBool,
    pub(super) stop: AtomicBool,
    pub(super) waker: Waker,
}

#[derive(Default)]
pub(super) struct State {
    /// Partitions that were assigned to this worker and that the reader has not seen.
    pub(super) arrived: Vec<Arrival>,
    /// All partitions that there were at the start have arrived.
    pub(super) complete: bool,
    pub(super) fault: Option<String>,
    /// Offsets to store for those who watch the group.
    pub(super) store: Option<Vec<(usize, i32, u64)>>,
    /// The ends of partitions, by number, as the brokers last told.
    pub(super) ends: BTreeMap<u32, u64>,
    /// When they told.
    pub(super) told: BTreeMap<u32, Instant>,
    pub(super) ended: bool,
}

impl Shared {
    pub(super) fn new(waker: Waker) -> Self {
        Shared {
            state: Mutex::default(),
            changed: Condvar::new(),
            news: AtomicBool::new(false),
            stop: AtomicBool::new(false),
            waker,
        }
    }

    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn tell(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.state());
        self.news.store(true, Ordering::Release);
        self.waker.wake();
    }

    fn stopping(&self) -> bool {
        self.stop.load(Ordering::Acquire)
    }

    /// Sleeps, less if it is to stop.
    fn sleep(&self, time: Duration) {
        let until = Instant::now() + time;
        while !self.stopping() && Instant::now() < until {
            std::thread::sleep(time.min(Duration::from_millis(50)));
        }
    }
}

/// A partition for the reader.
pub(super) struct Arrival {
    pub(super) number: u32,
    pub(super) topic: usize,
    pub(super) partition: i32,
    pub(super) next: u64,
    /// Where it stood at the start, if it is to be read no further.
    pub(super) end: Option<u64>,
    pub(super) queue: PartitionQueue,
    pub(super) consumer: Arc<BaseConsumer<Context>>,
}

/// What a mark keeps beside the offset: the topic, since its number is its place in a list that may change.
#[derive(serde::Serialize, serde::Deserialize)]
pub(super) struct Detail<'a> {
    topic: &'a str,
}

pub(super) fn detail(topic: &str) -> String {
    serde_json::to_string(&Detail { topic }).unwrap_or_default()
}

pub(super) fn number(topic: usize, partition: i32) -> u32 {
    (topic as u32) << PARTITION_BITS | partition as u32
}

pub(super) fn is_ours(number: u32, worker: usize, workers: usize) -> bool {
    let (topic, partition) = (number >> PARTITION_BITS, number & ((1 << PARTITION_BITS) - 1));
    (topic + partition) as usize % workers.max(1) == worker
}

/// The offsets to go on from, by the numbers that the partitions have now. Marks of topics that are no longer read are left.
pub(super) fn resumed(topics: &[Arc<str>], resume: &Marks) -> BTreeMap<u32, u64> {
    resume
        .iter()
        .filter_map(|(old, mark)| {
            let topic = match serde_json::from_str::<Detail<'_>>(&mark.detail) {
                Ok(detail) => topics.iter().position(|topic| **topic == *detail.topic)?,
                Err(_) => (old >> PARTITION_BITS) as usize,
            };
            Some((number(topic, (old & ((1 << PARTITION_BITS) - 1)) as i32), mark.next))
        })
        .collect()
}

pub(super) fn expected(topics: &[Arc<str>], start: &SourceStart) -> BTreeMap<u32, u64> {
    let resumed = resumed(topics, &start.resume);
    resumed.into_iter().filter(|(number, _)| is_ours(*number, start.worker, start.workers)).collect()
}

/// The thread that stands between the brokers' administration and a reader: everything that may take time.
pub(super) struct Keeper {
    connection: Connection,
    topics: Vec<Arc<str>>,
    group: Option<String>,
    start: Start,
    context: Context,
    name: Arc<str>,
    worker: usize,
    workers: usize,
    finite: bool,
    /// Offsets to go on from, of all workers' partitions.
    resumed: BTreeMap<u32, u64>,
    /// For finding partitions, before it is known how many there are.
    scout: Option<BaseConsumer<Context>>,
    shared: Arc<Shared>,
}

impl Keeper {
    pub(super) fn new(plan: &KafkaSource, start: &SourceStart, shared: Arc<Shared>) -> Result<Self, String> {
        let context = plan.connection.context(&start.name);
        let scout = plan.connection.client(&[], &[]).create_with_context(context.clone());
        Ok(Keeper {
            connection: plan.connection.clone(),
            topics: plan.topics.clone(),
            group: plan.group.clone(),
            start: plan.start.clone(),
            name: start.name.clone(),
            worker: start.worker,
            workers: start.workers,
            finite: start.finite_from_start,
            resumed: resumed(&plan.topics, &start.resume),
            scout: Some(scout.map_err(|error: KafkaError| format!("no client of Kafka can be made: {error}"))?),
            context,
            shared,
        })
    }

    pub(super) fn run(mut self) {
        let shared = self.shared.clone();
        let mut reading = None;
        if let Err(reason) = self.keep(&mut reading)
            && !shared.stopping()
        {
            shared.tell(|state| state.fault = Some(reason));
            // The reader still has queues of this client: it must not be the one who closes it.
            while !shared.stopping() {
                shared.sleep(Duration::from_secs(1));
            }
        }
        drop(reading);
        shared.state().ended = true;
        shared.changed.notify_all();
    }

    /// An error is a sentence that stops the pipeline; `Ok` is the end.
    fn keep(&mut self, reading: &mut Option<Arc<BaseConsumer<Context>>>) -> Result<(), String> {
        let Some(scout) = self.scout.take() else { return Ok(()) };
        let Some(found) = self.find_all(&scout)? else { return Ok(()) };
        drop(scout);
        let consumer = Arc::new(self.consumer(found.len().div_ceil(self.workers.max(1)))?);
        *reading = Some(consumer.clone());
        let mut known: HashSet<u32> = HashSet::new();
        if self.assign(&consumer, &found, &mut known, true)?.is_none() {
            return Ok(());
        }
        self.shared.tell(|state| state.complete = true);
        let (mut refreshed, mut stored) = (Instant::now(), Instant::now());
        let mut unknown_since = None;
        loop {
            match consumer.poll(KEEPER_WAIT) {
                None => {}
                Some(Err(error)) => self.notice(&error)?,
                // Each partition's records go to its own queue.
                Some(Ok(_)) => return Err("a record came where none is waited for".to_owned()),
            }
            if let Some(fault) = self.context.fault() {
                return Err(fault);
            }
            let stopping = self.shared.stopping();
            if stopping || stored.elapsed() >= STORE_EVERY {
                stored = Instant::now();
                self.store(&consumer, stopping);
            }
            if stopping {
                return Ok(());
            }
            if refreshed.elapsed() >= REFRESH_EVERY {
                refreshed = Instant::now();
                if !self.finite
                    && let Some(found) = self.find_once(&consumer, &mut unknown_since)?
                    && self.assign(&consumer, &found, &mut known, false)?.is_none()
                {
                    return Ok(());
                }
                self.ask_ends(&consumer, &known);
            }
        }
    }

    /// The client that reads this worker's partitions.
    fn consumer(&self, partitions: usize) -> Result<BaseConsumer<Context>, String> {
        let partitions = partitions.max(1);
        let bytes = (QUEUE_BYTES / partitions / 1_000).max(1_024).to_string();
        let records = (QUEUE_RECORDS / partitions).max(1_024).to_string();
        let speed = [
            // Bounds for each partition's queue, of which a worker has so many.
            ("queued.max.messages.kbytes", bytes.as_str()),
            ("queued.min.messages", records.as_str()),
            // A full queue is asked for more as soon as there is room: the default is a second.
            ("fetch.queue.backoff.ms", "5"),
            ("fetch.error.backoff.ms", "200"),
            ("max.partition.fetch.bytes", "2097152"),
            ("fetch.wait.max.ms", "100"),
        ];
        let fixed = [
            ("group.id", self.group.as_deref().unwrap_or("engine")),
            ("enable.auto.commit", "false"),
            ("enable.auto.offset.store", "false"),
            ("enable.partition.eof", "true"),
            // An offset that is gone is told, never replaced by another.
            ("auto.offset.reset", "error"),
            ("isolation.level", "read_committed"),
        ];
        self.connection
            .client(&speed, &fixed)
            .create_with_context(self.context.clone())
            .map_err(|error| format!("no client of Kafka can be made: {error}"))
    }

    /// All partitions of all topics; waits for brokers that can't be reached. `None` when it is to stop.
    fn find_all(&self, client: &BaseConsumer<Context>) -> Result<Option<Vec<(usize, i32)>>, String> {
        let mut unknown_since = None;
        loop {
            if self.shared.stopping() {
                return Ok(None);
            }
            if let Some(found) = self.find_once(client, &mut unknown_since)? {
                return Ok(Some(found));
            }
            // What the client has to say: a refused password, say.
            while client.poll(Duration::ZERO).is_some() {}
            if let Some(fault) = self.context.fault() {
                return Err(fault);
            }
            self.shared.sleep(Duration::from_millis(200));
        }
    }

    /// All partitions of all topics; `None` if that can't be told now.
    fn find_once(
        &self,
        client: &BaseConsumer<Context>,
        unknown_since: &mut Option<Instant>,
    ) -> Result<Option<Vec<(usize, i32)>>, String> {
        let mut all = Vec::new();
        for (at, topic) in self.topics.iter().enumerate() {
            let metadata = match client.fetch_metadata(Some(topic), ANSWER_WAIT) {
                Ok(metadata) => metadata,
                Err(error) => {
                    self.context.trouble("the brokers don't tell the partitions; asking again", &error.to_string());
                    return Ok(None);
                }
            };
            let Some(found) = metadata.topics().iter().find(|found| found.name() == &**topic) else { return Ok(None) };
            match found.error().map(RDKafkaErrorCode::from) {
                None => {}
                Some(RDKafkaErrorCode::UnknownTopic | RDKafkaErrorCode::UnknownTopicOrPartition) => {
                    if unknown_since.get_or_insert_with(Instant::now).elapsed() > UNKNOWN_TOPIC_GRACE {
                        return Err(self.unknown_topic(client, topic));
                    }
                    return Ok(None);
                }
                Some(RDKafkaErrorCode::TopicAuthorizationFailed) => {
                    return Err(format!("the brokers don't allow reading the topic `{topic}`"));
                }
                Some(error @ RDKafkaErrorCode::InvalidTopic) => return Err(format!("the topic `{topic}`: {error}")),
                Some(error) => {
                    self.context.trouble("a topic can't be read yet; asking again", &format!("`{topic}`: {error}"));
                    return Ok(None);
                }
            }
            if found.partitions().is_empty() {
                return Ok(None);
            }
            for partition in found.partitions() {
                if !(0..1 << PARTITION_BITS).contains(&partition.id()) {
                    return Err(format!("the topic `{topic}` has more partitions than can be numbered"));
                }
                all.push((at, partition.id()));
            }
        }
        *unknown_since = None;
        all.sort_unstable();
        Ok(Some(all))
    }

    fn unknown_topic(&self, client: &BaseConsumer<Context>, topic: &str) -> String {
        let mut reason = format!("there is no topic `{topic}` at {}", self.context.brokers());
        if let Ok(metadata) = client.fetch_metadata(None, ANSWER_WAIT) {
            let names = metadata.topics().iter().map(|topic| topic.name());
            if let Some(near) = engine_base::suggest::nearest(topic, names) {
                reason.push_str(&format!("; did you mean `{near}`?"));
            }
        }
        reason
    }

    /// Assigns those of the partitions that are new and this worker's. `None` when it is to stop.
    fn assign(
        &self,
        consumer: &Arc<BaseConsumer<Context>>,
        found: &[(usize, i32)],
        known: &mut HashSet<u32>,
        first: bool,
    ) -> Result<Option<()>, String> {
        let new = |(topic, partition): &&(usize, i32)| {
            let number = number(*topic, *partition);
            is_ours(number, self.worker, self.workers) && !known.contains(&number)
        };
        let new: Vec<(usize, i32)> = found.iter().filter(new).copied().collect();
        if new.is_empty() {
            return Ok(Some(()));
        }
        if first
            && let Start::Offsets(offsets) = &self.start
            && let Some(partition) = offsets.keys().find(|partition| !found.contains(&(0, **partition)))
        {
            return Err(format!(
                "`start` names partition {partition}, which the topic `{}` does not have",
                self.topics[0]
            ));
        }
        let Some(starts) = self.starts(consumer, &new, first)? else { return Ok(None) };
        let mut arrivals = Vec::new();
        let mut list = TopicPartitionList::with_capacity(new.len());
        for ((topic, partition), (next, end)) in new.into_iter().zip(starts) {
            let (name, number) = (&self.topics[topic], number(topic, partition));
            let failed = |what: String| format!("`{name}`, partition {partition}, can't be read: {what}");
            let queue = PartitionQueue::split(consumer, name, partition, self.shared.waker.clone())
                .ok_or_else(|| failed("librdkafka does not know it".to_owned()))?;
            let offset = i64::try_from(next).map_err(|_| failed(format!("{next} is no offset")))?;
            list.add_partition_offset(name, partition, Offset::Offset(offset))
                .map_err(|error| failed(error.to_string()))?;
            known.insert(number);
            let end = self.finite.then_some(end);
            arrivals.push(Arrival { number, topic, partition, next, end, queue, consumer: consumer.clone() });
        }
        consumer.incremental_assign(&list).map_err(|error| format!("partitions can't be assigned: {error}"))?;
        tracing::info!(
            name = &*self.name,
            worker = self.worker,
            partitions = arrivals.len(),
            "kafka: {}",
            if first { "reading partitions" } else { "reading new partitions" }
        );
        self.shared.tell(|state| {
            state.ends.extend(arrivals.iter().filter_map(|arrival| Some((arrival.number, arrival.end?))));
            state.told.extend(arrivals.iter().map(|arrival| (arrival.number, Instant::now())));
            state.arrived.extend(arrivals);
        });
        Ok(Some(()))
    }

    /// Where each partition starts, checked to be there, and its end. `None` when it is to stop.
    fn starts(
        &self,
        consumer: &BaseConsumer<Context>,
        partitions: &[(usize, i32)],
        first: bool,
    ) -> Result<Option<Vec<(u64, u64)>>, String> {
        let all = |offset: Offset| partitions.iter().map(|_| offset).collect::<Vec<_>>();
        let Some(begins) = self.offsets(consumer, partitions, &all(Offset::Beginning))? else { return Ok(None) };
        let Some(ends) = self.offsets(consumer, partitions, &all(Offset::End))? else { return Ok(None) };
        // Where there is a mark of a topic, a partition without one has come since.
        let fresh = first && self.resumed.is_empty();
        let chosen: Vec<u64> = match &self.start {
            Start::Latest if fresh => ends.clone(),
            Start::Time { ms } if fresh => {
                let Some(at) = self.offsets(consumer, partitions, &all(Offset::Offset((*ms).max(0))))? else {
                    return Ok(None);
                };
                // No record at or after the time: the next one to come.
                at.iter().zip(&ends).map(|(at, end)| if *at == u64::MAX { *end } else { *at }).collect()
            }
            Start::Committed if fresh => {
                let Some(at) = self.committed(consumer, partitions)? else { return Ok(None) };
                at.iter().zip(&begins).map(|(at, begin)| at.unwrap_or(*begin)).collect()
            }
            Start::Offsets(offsets) if fresh => {
                let chosen = partitions.iter().zip(&begins);
                chosen.map(|((_, partition), begin)| offsets.get(partition).copied().unwrap_or(*begin)).collect()
            }
            _ => begins.clone(),
        };
        let mut starts = Vec::new();
        for (at, (topic, partition)) in partitions.iter().enumerate() {
            let (begin, end) = (begins[at], ends[at]);
            let next = self.resumed.get(&number(*topic, *partition)).copied().unwrap_or(chosen[at]);
            let place = format!("offset {next} of `{}`, partition {partition}", self.topics[*topic]);
            if next < begin {
                return Err(format!(
                    "{place}, is gone: the partition begins at {begin} now, and what stood before was deleted before it was \
                     read; to go on without it, start with another `--state`"
                ));
            }
            if next > end {
                return Err(format!(
                    "{place}, is not there: the partition ends at {end}; has the topic been made anew? To read it from where \
                     `start` says, start with another `--state`"
                ));
            }
            starts.push((next, end));
        }
        Ok(Some(starts))
    }

    /// Offsets that the brokers look up: `Beginning`, `End`, or by time (milliseconds as an offset; `u64::MAX` where there is
    /// no record at or after it). `None` when it is to stop.
    fn offsets(
        &self,
        consumer: &BaseConsumer<Context>,
        partitions: &[(usize, i32)],
        asked: &[Offset],
    ) -> Result<Option<Vec<u64>>, String> {
        self.ask(consumer, |consumer| {
            let mut list = TopicPartitionList::with_capacity(partitions.len());
            for ((topic, partition), offset) in partitions.iter().zip(asked) {
                list.add_partition_offset(&self.topics[*topic], *partition, *offset)?;
            }
            let found = consumer.offsets_for_times(list, ANSWER_WAIT)?;
            self.in_order(&found, partitions, |offset| match offset {
                Offset::Offset(offset) => u64::try_from(offset).ok(),
                Offset::End => Some(u64::MAX),
                _ => None,
            })
        })
    }

    fn committed(
        &self,
        consumer: &BaseConsumer<Context>,
        partitions: &[(usize, i32)],
    ) -> Result<Option<Vec<Option<u64>>>, String> {
        self.ask(consumer, |consumer| {
            let mut list = TopicPartitionList::with_capacity(partitions.len());
            for (topic, partition) in partitions {
                list.add_partition(&self.topics[*topic], *partition);
            }
            let found = consumer.committed_offsets(list, ANSWER_WAIT)?;
            self.in_order(&found, partitions, |offset| match offset {
                Offset::Offset(offset) => Some(u64::try_from(offset).ok()),
                _ => Some(None),
            })
        })
    }

    /// The offsets of a list, in the order of `partitions`.
    fn in_order<T>(
        &self,
        list: &TopicPartitionList,
        partitions: &[(usize, i32)],
        read: impl Fn(Offset) -> Option<T>,
    ) -> Result<Vec<T>, KafkaError> {
        let unknown = || KafkaError::OffsetFetch(RDKafkaErrorCode::UnknownPartition);
        partitions
            .iter()
            .map(|(topic, partition)| {
                let found = list.find_partition(&self.topics[*topic], *partition).ok_or_else(unknown)?;
                found.error()?;
                read(found.offset()).ok_or_else(unknown)
            })
            .collect()
    }

    /// Asks until there is an answer. `None` when it is to stop.
    fn ask<T>(
        &self,
        consumer: &BaseConsumer<Context>,
        question: impl Fn(&BaseConsumer<Context>) -> Result<T, KafkaError>,
    ) -> Result<Option<T>, String> {
        loop {
            if self.shared.stopping() {
                return Ok(None);
            }
            match question(consumer) {
                Ok(answer) => return Ok(Some(answer)),
                Err(error) => {
                    self.notice(&error)?;
                    self.context.trouble("the brokers don't tell offsets; asking again", &error.to_string());
                }
            }
            while consumer.poll(Duration::ZERO).is_some() {}
            if let Some(fault) = self.context.fault() {
                return Err(fault);
            }
            self.shared.sleep(Duration::from_millis(200));
        }
    }

    /// Sorts out an error: one that won't pass is the end.
    fn notice(&self, error: &KafkaError) -> Result<(), String> {
        match error.rdkafka_error_code() {
            Some(RDKafkaErrorCode::TopicAuthorizationFailed) => {
                Err(format!("the brokers don't allow reading `{}`", self.topics.join("`, `")))
            }
            Some(RDKafkaErrorCode::GroupAuthorizationFailed) if matches!(self.start, Start::Committed) => Err(format!(
                "the brokers don't allow reading the group `{}`",
                self.group.as_deref().unwrap_or_default()
            )),
            Some(RDKafkaErrorCode::GroupAuthorizationFailed) => {
                self.context.trouble("offsets can't be stored for monitoring", &error.to_string());
                Ok(())
            }
            _ => Ok(()),
        }
    }

    /// Stores offsets for those who watch the group.
    fn store(&self, consumer: &BaseConsumer<Context>, last: bool) {
        let Some(offsets) = self.shared.state().store.take() else { return };
        let mut list = TopicPartitionList::with_capacity(offsets.len());
        for (topic, partition, next) in offsets {
            let offset = Offset::Offset(i64::try_from(next).unwrap_or(i64::MAX));
            // What can't be an offset was never handed out.
            let _ = list.add_partition_offset(&self.topics[topic], partition, offset);
        }
        let mode = if last { CommitMode::Sync } else { CommitMode::Async };
        if let Err(error) = consumer.commit(&list, mode) {
            self.context.trouble("offsets can't be stored for monitoring", &error.to_string());
        }
    }

    /// Asks for the ends of this worker's partitions, for the lag. What is not answered now is asked next time.
    fn ask_ends(&self, consumer: &BaseConsumer<Context>, known: &HashSet<u32>) {
        if known.is_empty() {
            return;
        }
        let mut list = TopicPartitionList::with_capacity(known.len());
        for number in known {
            let (topic, partition) = (number >> PARTITION_BITS, number & ((1 << PARTITION_BITS) - 1));
            let _ = list.add_partition_offset(&self.topics[topic as usize], partition as i32, Offset::End);
        }
        let Ok(found) = consumer.offsets_for_times(list, Duration::from_secs(1)) else { return };
        let mut state = self.shared.state();
        for element in found.elements() {
            if let (Ok(()), Offset::Offset(end)) = (element.error(), element.offset())
                && let Some(topic) = self.topics.iter().position(|topic| **topic == *element.topic())
                && let Ok(end) = u64::try_from(end)
            {
                state.ends.insert(number(topic, element.partition()), end);
                state.told.insert(number(topic, element.partition()), Instant::now());
            }
        }
    }
}
