//! What is kept of a key.

use crate::codec::{Bytes, put, put_bytes, put_wake, wake_of};
use engine_state::SlotState;

/// The record of a key, and when it is to be looked at.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Record {
    /// Its columns in Arrow's row format.
    pub(super) columns: Box<[u8]>,
    pub(super) clock: Clock,
    /// Not kept: which batch of this step met the key last, and as its how manieth key.
    pub(super) met: (u64, u32),
    /// Not kept: the time under which the step finds it; never later than what is due.
    pub(super) wake_ns: Option<i64>,
}

/// The times of a record, nanoseconds since 1970 UTC.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Clock {
    /// The greatest event time of its rows.
    pub(super) last_ns: Option<i64>,
    /// The time of its timer.
    pub(super) timer_ns: Option<i64>,
    /// The timer has fired for that time.
    pub(super) fired: bool,
}

impl Clock {
    /// The timer's time is this now. Another time than before may fire again.
    pub(super) fn set_timer(&mut self, timer_ns: Option<i64>) {
        if self.timer_ns != timer_ns {
            self.timer_ns = timer_ns;
            self.fired = false;
        }
    }

    /// When the timer fires, if it has not.
    pub(super) fn fires_ns(&self) -> Option<i64> {
        self.timer_ns.filter(|_| !self.fired)
    }

    /// When the record goes.
    pub(super) fn expires_ns(&self, expire_after_ns: Option<i64>) -> Option<i64> {
        Some(self.last_ns?.saturating_add(expire_after_ns?))
    }

    /// When there is something to do.
    pub(super) fn due_ns(&self, expire_after_ns: Option<i64>) -> Option<i64> {
        [self.fires_ns(), self.expires_ns(expire_after_ns)].into_iter().flatten().min()
    }
}

impl Record {
    /// A record of these columns that no row has met.
    pub(super) fn new(columns: &[u8]) -> Self {
        Record { columns: columns.into(), clock: Clock::default(), met: (0, 0), wake_ns: None }
    }
}

/// The format of the encoded state.
const FORMAT: u8 = 1;

fn put_time(time_ns: Option<i64>, out: &mut Vec<u8>) {
    out.push(time_ns.is_some().into());
    put(time_ns.unwrap_or_default() as u64, out);
}

fn time(bytes: &mut Bytes<'_>) -> Result<Option<i64>, String> {
    let some = bytes.byte()? == 1;
    let time_ns = bytes.number()? as i64;
    Ok(some.then_some(time_ns))
}

impl SlotState for Record {
    fn encode(&self, out: &mut Vec<u8>) {
        out.push(FORMAT);
        put_bytes(&self.columns, out);
        put_time(self.clock.last_ns, out);
        put_time(self.clock.timer_ns, out);
        out.push(self.clock.fired.into());
    }

    fn decode(bytes: &[u8]) -> Result<Self, String> {
        let mut bytes = Bytes::of_format(bytes, FORMAT, "stateful")?;
        let mut record = Record::new(bytes.bytes()?);
        record.clock.last_ns = time(&mut bytes)?;
        record.clock.timer_ns = time(&mut bytes)?;
        record.clock.fired = bytes.byte()? == 1;
        bytes.end()?;
        Ok(record)
    }

    fn suspend(&self, out: &mut Vec<u8>) {
        put_wake(self.wake_ns, out);
        self.encode(out);
    }

    fn resume(bytes: &[u8]) -> Result<Self, String> {
        let (wake_ns, bytes) = wake_of(bytes)?;
        Ok(Record { wake_ns, ..Self::decode(bytes)? })
    }

    fn heap_bytes(&self) -> usize {
        self.columns.len()
    }
}
