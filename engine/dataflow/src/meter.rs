//! What the dataflow tells those who watch it, without knowing who watches.

use crate::rows::ErrorRow;

/// The instruments of one step, source or sink. Called a few times a batch, from the workers' threads. What a kind of step
/// has no use for it never hears of.
pub trait Meter: Send + Sync {
    /// A batch went through: rows (or a source's records) in, rows out over all ports, and the time it took.
    fn batch(&self, _rows_in: u64, _rows_out: u64, _busy_ns: u64) {}
    /// Rows failed, for the reason with this code.
    fn failed(&self, _code: &'static str, _rows: u64) {}
    /// `rows` rows left the step (or were acknowledged, for a sink) this long after they were born.
    fn latency(&self, _ns: u64, _rows: u64) {}
    /// Rows came too late.
    fn late(&self, _rows: u64) {}
    /// Rows were put out nowhere, since nothing reads the output that they belong to.
    fn dropped(&self, _rows: u64) {}
    /// Rows by what became of them, such as `ok` or `fallback` of a prediction.
    fn outcome(&self, _outcome: &'static str, _rows: u64) {}
    /// A source did not read for so long, because too much was in flight.
    fn paused(&self, _ns: u64) {}
    /// Bytes read from a system.
    fn bytes(&self, _bytes: u64) {}
    /// A system holds so many records of a partition that were not read yet.
    fn lag(&self, _partition: u32, _records: u64) {}
    /// The oldest row that a sink has not answered was born then, nanoseconds since 1970 UTC; `None`: all are answered.
    fn waiting(&self, _worker: usize, _born_ns: Option<i64>) {}
}

/// A meter that forgets.
#[derive(Debug)]
pub struct Unmetered;

impl Meter for Unmetered {}

/// What a worker tells about itself.
pub trait Pulse: Send + Sync {
    /// An epoch closed on a worker.
    fn epoch_closed(&self) {}
    /// So many bytes that a worker has read are not acknowledged, the oldest since then (nanoseconds since 1970 UTC).
    fn in_flight(&self, _worker: usize, _bytes: u64, _since_ns: Option<i64>) {}
}

impl Pulse for Unmetered {}

/// Tells a meter about failed rows, by reason.
pub(crate) fn count_failed(meter: &dyn Meter, errors: &[ErrorRow]) {
    let mut rest = errors;
    while let Some(first) = rest.first() {
        let code = first.error.code;
        let run = rest.iter().take_while(|error| error.error.code == code).count();
        meter.failed(code, run as u64);
        rest = &rest[run..];
    }
}
