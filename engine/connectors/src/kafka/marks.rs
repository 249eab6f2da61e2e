//! What tells a sink's batches from all others: a mark in a topic that all sinks share, in the transaction of the batch.
//!
//! The topic is compacted, so the last mark of each sink stays. A sink's marks are in one partition: the one in which the
//! first was found, or else one that its name chooses. The journal keeps the place of the last one that it knows of, so
//! that a start reads only what came after it.

use super::connection::{Connection, Context};
use crate::Exact;
use crate::runtime;
use engine_base::RowError;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, ResourceSpecifier, TopicReplication};
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::KafkaError;
use rdkafka::message::Message;
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use rdkafka::types::RDKafkaErrorCode;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::time::{Duration, Instant};

/// The topic of marks where the sink names no other.
pub(super) const TOPIC: &str = "_engine_commits";
/// How many partitions it is made with. A transaction that hangs delays the starts of those only that share its partition.
const PARTITIONS: i32 = 8;
/// How it is made: small segments, so that a start has little to read that compaction would take away.
const TOPIC_CONFIG: [(&str, &str); 4] = [
    ("cleanup.policy", "compact"),
    ("segment.bytes", "8388608"),
    ("segment.ms", "3600000"),
    ("min.cleanable.dirty.ratio", "0.1"),
];
/// How many batches back the rows that failed are known, and how many bytes of them.
const FAILED_BATCHES: u64 = 10_000;
const FAILED_BYTES: usize = 256 << 10;
/// How long an answer of the brokers is waited for before it is asked for again.
const ANSWER_WAIT: Duration = Duration::from_secs(5);
/// How long a transaction of another is waited for that keeps marks from being read.
const READ_WAIT: Duration = Duration::from_secs(90);

/// A mark, as it stands in the topic.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Mark {
    /// The last batch.
    pub(super) sequence: u64,
    /// Rows of it, and of those shortly before it, that the brokers would not have.
    #[serde(default)]
    pub(super) failed: Vec<Failed>,
    /// The first batch of which `failed` tells all.
    #[serde(default)]
    pub(super) since: u64,
    /// Who has written it.
    #[serde(default)]
    pub(super) writer: String,
}

/// Rows of a batch that failed for one reason.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Failed {
    pub(super) batch: u64,
    pub(super) code: String,
    pub(super) reason: String,
    pub(super) rows: Vec<u32>,
}

impl Failed {
    fn size(&self) -> usize {
        self.reason.len() + 8 * self.rows.len() + 60
    }
}

impl Mark {
    /// The mark of the next batch, with the rows of it that failed.
    pub(super) fn next(&self, sequence: u64, failed: &[(u32, RowError)]) -> Mark {
        let mut next = Mark { sequence, ..self.clone() };
        for (row, error) in failed {
            let same = |known: &&mut Failed| {
                known.batch == sequence && known.code == error.code && known.reason == error.reason
            };
            match next.failed.iter_mut().find(same) {
                Some(known) => known.rows.push(*row),
                None => next.failed.push(Failed {
                    batch: sequence,
                    code: error.code.to_owned(),
                    reason: error.reason.clone(),
                    rows: vec![*row],
                }),
            }
        }
        let mut size: usize = next.failed.iter().map(Failed::size).sum();
        next.since = next.since.max(sequence.saturating_sub(FAILED_BATCHES) + 1).min(sequence);
        while let Some(first) = next.failed.first()
            && (first.batch < next.since || size > FAILED_BYTES && first.batch < sequence)
        {
            next.since = next.since.max(first.batch + 1);
            size -= first.size();
            next.failed.remove(0);
        }
        next
    }

    /// The rows of a batch that failed; `None` where that is no longer known.
    pub(super) fn failed_of(&self, batch: u64) -> Option<Vec<(u32, RowError)>> {
        let code = |code: &str| ["too_large", "undelivered"].into_iter().find(|known| *known == code);
        let rows = self.failed.iter().filter(|failed| failed.batch == batch).flat_map(|failed| {
            let error = RowError::new(code(&failed.code).unwrap_or("rejected"), failed.reason.clone());
            failed.rows.iter().map(move |row| (*row, error.clone()))
        });
        (batch >= self.since).then(|| rows.collect())
    }
}

/// Where a mark stands: what the journal keeps.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Place {
    pub(super) topic: String,
    pub(super) partition: i32,
    pub(super) offset: i64,
}

/// Why marks can't be read.
pub(super) enum Unread {
    /// Now.
    Again(String),
    /// Ever.
    Stop(String),
}

impl From<KafkaError> for Unread {
    fn from(error: KafkaError) -> Self {
        Unread::Again(error.to_string())
    }
}

/// The topic of marks, and which of them are a sink's.
pub(super) struct Marks {
    pub(super) topic: String,
    pub(super) key: String,
    connection: Connection,
    context: Context,
}

impl Marks {
    pub(super) fn new(topic: String, key: String, connection: Connection, context: Context) -> Marks {
        Marks { topic, key, connection, context }
    }

    /// Where they stand, for messages.
    pub(super) fn shown(&self) -> String {
        format!("the topic `{}` at {}", self.topic, self.context.brokers())
    }

    /// The last mark that is committed, from what the journal says on, and the partition in which marks go. All
    /// transactions must be ended that may hold one.
    pub(super) fn read(&self, exact: &Exact, stopping: &dyn Fn() -> bool) -> Result<(Option<Mark>, i32), Unread> {
        let note = exact.delivered.as_ref().and_then(|delivered| serde_json::from_str::<Place>(&delivered.note).ok());
        let known = note.filter(|place| place.topic == self.topic && !exact.reset);
        let fixed = [
            ("group.id", "engine"),
            ("enable.auto.commit", "false"),
            ("auto.offset.reset", "earliest"),
            ("enable.partition.eof", "true"),
        ];
        let client = |isolation| {
            let speed = [("fetch.wait.max.ms", "10")];
            let mut config = self.connection.client(&speed, &fixed);
            config.set("isolation.level", isolation);
            config.create_with_context::<_, BaseConsumer<Context>>(self.context.clone())
        };
        let (all, committed) = (client("read_uncommitted")?, client("read_committed")?);
        let count = self.partitions(&committed)?;
        let whole = || (0..count).map(|partition| (partition, Offset::Beginning)).collect::<Vec<_>>();
        let parts = match &known {
            Some(place) if place.partition < count => {
                let (low, high) = all.fetch_watermarks(&self.topic, place.partition, ANSWER_WAIT)?;
                match (low..high).contains(&place.offset) {
                    true => vec![(place.partition, Offset::Offset(place.offset))],
                    // Compaction has gone beyond, or the topic is another one.
                    false => whole(),
                }
            }
            _ => whole(),
        };
        // What is committed counts, up to what there is now; a transaction that another has open stands before that.
        let until = Instant::now() + READ_WAIT;
        for (partition, _) in &parts {
            let end = all.fetch_watermarks(&self.topic, *partition, ANSWER_WAIT)?.1;
            while committed.fetch_watermarks(&self.topic, *partition, ANSWER_WAIT)?.1 < end {
                if stopping() || Instant::now() > until {
                    return Err(Unread::Again("a transaction of another keeps the marks from being read".to_owned()));
                }
                std::thread::sleep(Duration::from_millis(5));
            }
        }
        let mut list = TopicPartitionList::new();
        for (partition, offset) in &parts {
            list.add_partition_offset(&self.topic, *partition, *offset)?;
        }
        committed.assign(&list)?;
        let mut open: BTreeSet<i32> = parts.iter().map(|(partition, _)| *partition).collect();
        let mut last: Option<(Mark, i32)> = None;
        while !open.is_empty() {
            if stopping() || Instant::now() > until {
                return Err(Unread::Again("the marks could not be read in time".to_owned()));
            }
            match committed.poll(Duration::from_millis(100)) {
                None => {}
                Some(Err(KafkaError::PartitionEOF(partition))) => drop(open.remove(&partition)),
                Some(Err(error)) => return Err(error.into()),
                Some(Ok(record)) if record.key() == Some(self.key.as_bytes()) => {
                    let mark = record.payload().map(serde_json::from_slice::<Mark>);
                    let Some(mark) = mark else { continue };
                    let mark = mark.map_err(|error| {
                        let at = format!("partition {}, offset {}", record.partition(), record.offset());
                        Unread::Stop(format!("the mark in {} ({at}) can't be read: {error}", self.shown()))
                    })?;
                    // In one partition the last one counts; in several, where a user has moved them, the highest.
                    let is_last = last.as_ref().is_none_or(|(known, partition)| {
                        *partition == record.partition() || known.sequence <= mark.sequence
                    });
                    if is_last {
                        last = Some((mark, record.partition()));
                    }
                }
                Some(Ok(_)) => {}
            }
        }
        let chosen = (fnv(self.key.as_bytes()) % count.unsigned_abs() as u64) as i32;
        let partition = last.as_ref().map(|(_, partition)| *partition);
        let partition = partition.or(known.map(|place| place.partition).filter(|partition| *partition < count));
        Ok((last.map(|(mark, _)| mark), partition.unwrap_or(chosen)))
    }

    /// How many partitions the topic has. It is made where it is not there.
    fn partitions(&self, client: &BaseConsumer<Context>) -> Result<i32, Unread> {
        let mut made = false;
        let until = Instant::now() + ANSWER_WAIT;
        loop {
            let metadata = client.fetch_metadata(Some(&self.topic), ANSWER_WAIT)?;
            let found = metadata.topics().iter().find(|found| found.name() == self.topic);
            match found.map(|found| found.error().map(RDKafkaErrorCode::from)) {
                Some(None) => {
                    let count = found.map_or(0, |found| found.partitions().len());
                    if count > 0 {
                        if !made {
                            self.check_policy()?;
                        }
                        return i32::try_from(count).map_err(|error| Unread::Stop(error.to_string()));
                    }
                }
                Some(Some(RDKafkaErrorCode::UnknownTopic | RDKafkaErrorCode::UnknownTopicOrPartition)) | None => {
                    if !made {
                        self.make()?;
                        made = true;
                    }
                }
                Some(Some(RDKafkaErrorCode::TopicAuthorizationFailed)) => {
                    return Err(Unread::Stop(format!("{} can't be read: it is not allowed", self.shown())));
                }
                Some(Some(error)) => return Err(Unread::Again(error.to_string())),
            }
            if Instant::now() > until {
                return Err(Unread::Again(format!("{} is not there yet", self.shown())));
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn admin(&self) -> Result<AdminClient<Context>, Unread> {
        Ok(self.connection.client(&[], &[]).create_with_context(self.context.clone())?)
    }

    fn make(&self) -> Result<(), Unread> {
        let topic = NewTopic::new(&self.topic, PARTITIONS, TopicReplication::Fixed(-1));
        let topic = TOPIC_CONFIG.iter().fold(topic, |topic, (name, value)| topic.set(name, value));
        let options = AdminOptions::new().request_timeout(Some(ANSWER_WAIT));
        let runtime = runtime::shared().map_err(Unread::Again)?;
        let made = runtime.block_on(self.admin()?.create_topics([&topic], &options))?;
        match made.into_iter().next() {
            Some(Err((_, RDKafkaErrorCode::TopicAlreadyExists))) | Some(Ok(_)) | None => Ok(()),
            Some(Err((_, error))) => Err(Unread::Stop(format!(
                "{}, which exactly once needs, can't be made: {error}; make it with `cleanup.policy=compact`",
                self.shown()
            ))),
        }
    }

    /// A topic that deletes what is old would lose marks. Where it may not be asked, the user is to know.
    fn check_policy(&self) -> Result<(), Unread> {
        let options = AdminOptions::new().request_timeout(Some(ANSWER_WAIT));
        let runtime = runtime::shared().map_err(Unread::Again)?;
        let resource = ResourceSpecifier::Topic(&self.topic);
        let told = runtime.block_on(self.admin()?.describe_configs([&resource], &options))?;
        let policy = told.into_iter().find_map(Result::ok);
        let policy = policy.and_then(|config| config.get("cleanup.policy")?.value.clone());
        match policy {
            Some(policy) if policy != "compact" => Err(Unread::Stop(format!(
                "{} has `cleanup.policy={policy}`, which deletes marks; exactly once needs `cleanup.policy=compact`",
                self.shown()
            ))),
            _ => Ok(()),
        }
    }
}

/// Chooses a partition by a name, the same one always.
fn fnv(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_knows_the_rows_that_failed_for_a_while() {
        let error = |reason: &str| RowError::new("too_large", reason);
        let first = Mark::default().next(1, &[(3, error("a")), (4, error("b")), (9, error("a"))]);
        assert_eq!(first.failed.len(), 2);
        let second = first.next(2, &[]);
        let text = serde_json::to_string(&second).unwrap();
        let second: Mark = serde_json::from_str(&text).unwrap();
        let mut known = second.failed_of(1).unwrap();
        known.sort_by_key(|(row, _)| *row);
        assert_eq!(known, [(3, error("a")), (4, error("b")), (9, error("a"))]);
        assert_eq!(second.failed_of(2), Some(Vec::new()));
        // Not for ever, by number or by size; but always those of the last batch.
        let late = second.next(FAILED_BATCHES + 1, &[]);
        assert_eq!((late.failed_of(1), late.failed_of(2)), (None, Some(Vec::new())));
        let many: Vec<_> = (0..40_000).map(|row| (row, error("c"))).collect();
        let large = second.next(3, &many).next(4, &many);
        assert_eq!((large.failed_of(1), large.failed_of(3)), (None, None));
        assert_eq!(large.failed_of(4).map(|rows| rows.len()), Some(40_000));
        assert!(serde_json::to_string(&large).unwrap().len() < 900_000);
        let large = large.next(5, &[]);
        assert_eq!((large.failed_of(4).map(|rows| rows.len()), large.failed_of(5)), (None, Some(Vec::new())));
    }

    #[test]
    fn a_mark_of_the_first_version_is_read() {
        let mark: Mark = serde_json::from_str(r#"{"sequence":7,"failed":[]}"#).unwrap();
        assert_eq!(mark, Mark { sequence: 7, ..Mark::default() });
    }
}
