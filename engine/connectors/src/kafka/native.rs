//! What the safe API of rdkafka does not have: reading a partition's queue in batches without copies, and librdkafka's
//! list of properties. The only unsafe code of the connectors.

use super::Context;
use engine_dataflow::Waker;
use rdkafka::bindings as rd;
use rdkafka::client::NativeClient;
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::KafkaError;
use rdkafka::types::RDKafkaConfRes;
use std::ffi::{CStr, CString, c_void};
use std::ptr::{self, NonNull};
use std::sync::Arc;

/// How many records are taken from librdkafka at once.
const TAKEN_AT_ONCE: usize = 512;

/// The code of "the end of the partition is reached".
pub(super) const PARTITION_EOF: i32 = rd::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR__PARTITION_EOF as i32;

/// The records of one partition, apart from those of the others, as they stand in librdkafka's fetch buffers.
///
/// The waker is called, from a thread of librdkafka, when something comes into the empty queue.
pub(super) struct PartitionQueue {
    /// Records that were taken from the queue: those from `at` on are still to be looked at. Before `consumer`, since they
    /// must be gone when it goes.
    taken: Vec<Record>,
    at: usize,
    queue: NonNull<rd::rd_kafka_queue_t>,
    /// What the callback is given; a box, so that it stays where it is.
    _waker: Box<Waker>,
    /// Kept alive for the queue.
    _consumer: Arc<BaseConsumer<Context>>,
}

// SAFETY: librdkafka's queues may be used from any thread; the records belong to whoever holds the queue.
unsafe impl Send for PartitionQueue {}

impl PartitionQueue {
    /// Leads a partition's records apart. To be called before the partition is assigned, so that none goes elsewhere.
    pub(super) fn split(
        consumer: &Arc<BaseConsumer<Context>>,
        topic: &str,
        partition: i32,
        waker: Waker,
    ) -> Option<PartitionQueue> {
        let topic = CString::new(topic).ok()?;
        let client: *mut rd::rd_kafka_t = NativeClient::ptr(consumer.client().native_client());
        // SAFETY: the client lives as long as the consumer, and the name as long as the call.
        let queue = NonNull::new(unsafe { rd::rd_kafka_queue_get_partition(client, topic.as_ptr(), partition) })?;
        let waker = Box::new(waker);
        let opaque: *const Waker = &*waker;
        // SAFETY: the queue is ours; the waker stays where it is until the callback is taken away, in `drop`.
        unsafe {
            rd::rd_kafka_queue_forward(queue.as_ptr(), ptr::null_mut());
            rd::rd_kafka_queue_cb_event_enable(queue.as_ptr(), Some(wake), opaque.cast_mut().cast());
        }
        let taken = Vec::with_capacity(TAKEN_AT_ONCE);
        Some(PartitionQueue { taken, at: 0, queue, _waker: waker, _consumer: consumer.clone() })
    }

    /// The oldest record or event that was not passed by, if there is one now. Never waits.
    #[inline]
    pub(super) fn peek(&mut self) -> Option<&Record> {
        if self.at == self.taken.len() {
            self.take();
        }
        self.taken.get(self.at)
    }

    /// Passes the record by that `peek` gave.
    #[inline]
    pub(super) fn pass(&mut self) {
        self.at = (self.at + 1).min(self.taken.len());
    }

    fn take(&mut self) {
        self.taken.clear();
        self.at = 0;
        let room = self.taken.spare_capacity_mut();
        // SAFETY: a `Record` is a pointer to a message, and there is room for as many as are asked for.
        let taken =
            unsafe { rd::rd_kafka_consume_batch_queue(self.queue.as_ptr(), 0, room.as_mut_ptr().cast(), room.len()) };
        // SAFETY: so many were written; librdkafka writes no null pointers. It gives -1 where the queue is not to be read.
        unsafe { self.taken.set_len(usize::try_from(taken).unwrap_or(0)) };
    }
}

impl Drop for PartitionQueue {
    fn drop(&mut self) {
        self.taken.clear();
        // SAFETY: the queue is ours, and nobody uses it after this.
        unsafe {
            rd::rd_kafka_queue_cb_event_enable(self.queue.as_ptr(), None, ptr::null_mut());
            rd::rd_kafka_queue_destroy(self.queue.as_ptr());
        }
    }
}

/// Runs on a thread of librdkafka, with the queue's lock held: it must be short, and must not unwind.
unsafe extern "C" fn wake(_client: *mut rd::rd_kafka_t, opaque: *mut c_void) {
    // SAFETY: this is the waker of a queue that has not been dropped.
    let waker = unsafe { &*opaque.cast_const().cast::<Waker>() };
    waker.wake();
}

/// A record, or an event in its place, in a fetch buffer of librdkafka.
#[repr(transparent)]
pub(super) struct Record(NonNull<rd::rd_kafka_message_t>);

impl Record {
    fn message(&self) -> &rd::rd_kafka_message_t {
        // SAFETY: the message is ours until it is dropped. Its `err` is never read through this: a broker newer than the
        // bindings may send a number that the enum does not have.
        unsafe { self.0.as_ref() }
    }

    /// Zero for a record, [`PARTITION_EOF`] where the end of what there is has been reached (at the offset), else
    /// librdkafka's number for what keeps the partition from being read on.
    #[inline]
    pub(super) fn code(&self) -> i32 {
        // SAFETY: `err` is a C enum, thus an integer of this size, whatever its value.
        unsafe { ptr::addr_of!((*self.0.as_ptr()).err).cast::<i32>().read() }
    }

    /// What librdkafka says where the code is of an error.
    pub(super) fn reason(&self) -> String {
        self.payload().map(String::from_utf8_lossy).unwrap_or_default().into_owned()
    }

    /// Its place in the partition.
    #[inline]
    pub(super) fn offset(&self) -> i64 {
        self.message().offset
    }

    /// Its value; `None` for a tombstone.
    #[inline]
    pub(super) fn payload(&self) -> Option<&[u8]> {
        let message = self.message();
        // SAFETY: the bytes live as long as the message.
        unsafe { bytes(message.payload, message.len) }
    }

    /// Its key.
    #[inline]
    pub(super) fn key(&self) -> Option<&[u8]> {
        let message = self.message();
        // SAFETY: the bytes live as long as the message.
        unsafe { bytes(message.key, message.key_len) }
    }

    /// Its time in milliseconds since 1970, if it has one.
    #[inline]
    pub(super) fn timestamp_ms(&self) -> Option<i64> {
        let mut kind = rd::rd_kafka_timestamp_type_t::RD_KAFKA_TIMESTAMP_NOT_AVAILABLE;
        // SAFETY: the message is ours, and `kind` is written by the call.
        let ms = unsafe { rd::rd_kafka_message_timestamp(self.0.as_ptr(), &mut kind) };
        (ms >= 0).then_some(ms)
    }

    /// The value of the last header of that name; `None` where there is none, or it is null.
    pub(super) fn header(&self, name: &CStr) -> Option<&[u8]> {
        let mut headers = ptr::null_mut();
        let (mut value, mut len) = (ptr::null(), 0);
        // SAFETY: the headers stay the message's, and live as long as it; the outputs are written where the calls succeed.
        unsafe {
            if rd::rd_kafka_message_headers(self.0.as_ptr(), &mut headers)
                != rd::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR
                || rd::rd_kafka_header_get_last(headers, name.as_ptr(), &mut value, &mut len)
                    != rd::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR
            {
                return None;
            }
            bytes(value.cast_mut(), len)
        }
    }
}

impl Drop for Record {
    fn drop(&mut self) {
        // SAFETY: it is ours, and is given back once.
        unsafe { rd::rd_kafka_message_destroy(self.0.as_ptr()) }
    }
}

/// # Safety
///
/// `start` is null or points to `len` bytes that live for `'a`.
unsafe fn bytes<'a>(start: *mut c_void, len: usize) -> Option<&'a [u8]> {
    NonNull::new(start).map(|start| {
        // SAFETY: so says the caller.
        unsafe { std::slice::from_raw_parts(start.as_ptr().cast_const().cast(), len) }
    })
}

/// The last known end of a partition, without asking the brokers.
pub(super) fn cached_high_watermark(consumer: &BaseConsumer<Context>, topic: &CStr, partition: i32) -> Option<u64> {
    let (mut low, mut high) = (-1, -1);
    let client: *mut rd::rd_kafka_t = NativeClient::ptr(consumer.client().native_client());
    // SAFETY: the client lives as long as the consumer; the outputs are written where the call succeeds.
    let result = unsafe { rd::rd_kafka_get_watermark_offsets(client, topic.as_ptr(), partition, &mut low, &mut high) };
    if result != rd::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR {
        return None;
    }
    u64::try_from(high).ok()
}

/// Why a property can't be set.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum BadProperty {
    /// There is none of this name.
    Unknown,
    /// It does not take this value, for this reason.
    Value(String),
}

/// Whether librdkafka takes a property with a value.
pub(super) fn check_property(name: &str, value: &str) -> Result<(), BadProperty> {
    let mut config = ClientConfig::new();
    config.set(name, value);
    match config.create_native_config() {
        Ok(_) => Ok(()),
        Err(KafkaError::ClientConfig(RDKafkaConfRes::RD_KAFKA_CONF_UNKNOWN, ..)) => Err(BadProperty::Unknown),
        Err(KafkaError::ClientConfig(_, problem, ..)) => Err(BadProperty::Value(problem)),
        Err(error) => Err(BadProperty::Value(error.to_string())),
    }
}

/// The names of librdkafka's properties, for suggestions.
pub(super) fn property_names() -> Vec<String> {
    let mut names = Vec::new();
    // SAFETY: the configurations are ours; the lists hold `count` texts, names and values in turn, until they are freed.
    unsafe {
        let config = rd::rd_kafka_conf_new();
        let topic = rd::rd_kafka_topic_conf_new();
        for topics in [false, true] {
            let mut count = 0;
            let list = match topics {
                false => rd::rd_kafka_conf_dump(config, &mut count),
                true => rd::rd_kafka_topic_conf_dump(topic, &mut count),
            };
            for at in (0..count).step_by(2) {
                names.push(CStr::from_ptr(*list.add(at)).to_string_lossy().into_owned());
            }
            rd::rd_kafka_conf_dump_free(list, count);
        }
        rd::rd_kafka_topic_conf_destroy(topic);
        rd::rd_kafka_conf_destroy(config);
    }
    names
}

/// Takes `count` records from a consumer's own queue and gives them back, for comparison.
#[cfg(test)]
pub(super) fn drain_for_measurement<C: rdkafka::consumer::ConsumerContext>(consumer: &BaseConsumer<C>, count: u64) {
    let client: *mut rd::rd_kafka_t = NativeClient::ptr(consumer.client().native_client());
    let mut taken: Vec<Record> = Vec::with_capacity(4_096);
    let mut seen = 0;
    // SAFETY: the queue is the client's, and is given back; a `Record` is a pointer to a message, as in `take`.
    unsafe {
        let queue = rd::rd_kafka_queue_get_consumer(client);
        while seen < count {
            taken.clear();
            let room = taken.spare_capacity_mut();
            let got = rd::rd_kafka_consume_batch_queue(queue, 1_000, room.as_mut_ptr().cast(), room.len());
            taken.set_len(usize::try_from(got).unwrap_or(0));
            seen += taken.iter().filter(|record| record.code() == 0).count() as u64;
        }
        drop(taken);
        rd::rd_kafka_queue_destroy(queue);
    }
}
