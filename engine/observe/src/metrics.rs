//! The instruments that a running pipeline counts into.
//!
//! They are created by name when the pipeline starts; after that, counting takes no lock and allocates nothing (the
//! exception, errors by their code, takes a read lock). All counts are since the start and only grow; who wants a rate or
//! a window takes two readings. Relaxed order is enough: each number stands for itself.

mod histogram;
mod process;

pub use histogram::{Distribution, Histogram};
pub use process::{ProcessUsage, process_usage};

use engine_base::Clock;
use std::fmt;
use std::sync::atomic::{AtomicI64, AtomicU8, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

/// A number that only grows.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds `count`.
    pub fn add(&self, count: u64) {
        self.0.fetch_add(count, Relaxed);
    }

    /// The sum so far.
    pub fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

/// A number that is set.
#[derive(Debug, Default)]
pub struct Gauge(AtomicU64);

impl Gauge {
    /// Sets it.
    pub fn set(&self, value: u64) {
        self.0.store(value, Relaxed);
    }

    /// Adds to it.
    pub fn add(&self, value: u64) {
        self.0.fetch_add(value, Relaxed);
    }

    /// Takes from it; the result is never less than zero.
    pub fn sub(&self, value: u64) {
        let _ = self.0.fetch_update(Relaxed, Relaxed, |now| Some(now.saturating_sub(value)));
    }

    /// Its value.
    pub fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

/// Since when something lasts, in wall-clock nanoseconds; or that it does not.
#[derive(Debug, Default)]
pub struct Since(AtomicI64);

impl Since {
    /// It lasts since `start_ns`, or not at all.
    pub fn set(&self, start_ns: Option<i64>) {
        self.0.store(start_ns.unwrap_or(0), Relaxed);
    }

    /// How long it has lasted at `now_ns`.
    pub fn age_ns(&self, now_ns: i64) -> Option<u64> {
        match self.0.load(Relaxed) {
            0 => None,
            start_ns => Some(u64::try_from(now_ns.saturating_sub(start_ns)).unwrap_or(0)),
        }
    }
}

/// Counters by a label whose values are few and fixed in the code, such as the codes of row errors.
#[derive(Debug, Default)]
pub struct Labelled(RwLock<Vec<(&'static str, Counter)>>);

impl Labelled {
    /// Adds `count` to the counter of `label`.
    pub fn add(&self, label: &'static str, count: u64) {
        {
            let counters = self.0.read().unwrap_or_else(PoisonError::into_inner);
            if let Some((_, counter)) = counters.iter().find(|(name, _)| *name == label) {
                return counter.add(count);
            }
        }
        let mut counters = self.0.write().unwrap_or_else(PoisonError::into_inner);
        // Another thread may have added the label in between.
        let index = counters.iter().position(|(name, _)| *name == label).unwrap_or_else(|| {
            counters.push((label, Counter::default()));
            counters.len() - 1
        });
        counters[index].1.add(count);
    }

    /// The sum over all labels.
    pub fn total(&self) -> u64 {
        self.0.read().unwrap_or_else(PoisonError::into_inner).iter().map(|(_, counter)| counter.get()).sum()
    }

    /// Each label with its count, in the order of their first use.
    pub fn counts(&self) -> Vec<(&'static str, u64)> {
        let counters = self.0.read().unwrap_or_else(PoisonError::into_inner);
        counters.iter().map(|(label, counter)| (*label, counter.get())).collect()
    }
}

/// What one step did, over all workers.
#[derive(Debug)]
pub struct StepMetrics {
    /// The step's name in the pipeline file.
    pub name: String,
    /// Its kind, such as `filter`.
    pub kind: String,
    /// Rows it was given.
    pub rows_in: Counter,
    /// Rows it put out, over all its outputs but errors.
    pub rows_out: Counter,
    /// Rows that failed, by the code of their reason.
    pub errors: Labelled,
    /// Rows that came too late for its state.
    pub late: Counter,
    /// Rows that it put out nowhere, since nothing reads the output that they belong to. What it was given is what it put
    /// out, what failed, and these; only `flatten` puts out another number of rows than it takes.
    pub dropped: Counter,
    /// Rows by what became of them, where a step knows several ends: `ok`, `fallback` and `shed` of a prediction.
    pub outcomes: Labelled,
    /// Batches it was given.
    pub batches: Counter,
    /// Time spent in its code, summed over the workers.
    pub busy_ns: Counter,
    /// Rows in each batch.
    pub batch_rows: Histogram,
    /// Time from a row's being read by its source to its leaving the step, by row.
    pub latency: Histogram,
}

impl StepMetrics {
    fn new(name: &str, kind: &str) -> Self {
        StepMetrics {
            name: name.to_owned(),
            kind: kind.to_owned(),
            rows_in: Counter::default(),
            rows_out: Counter::default(),
            errors: Labelled::default(),
            late: Counter::default(),
            dropped: Counter::default(),
            outcomes: Labelled::default(),
            batches: Counter::default(),
            busy_ns: Counter::default(),
            batch_rows: Histogram::sizes(),
            latency: Histogram::latencies(),
        }
    }

    /// Counts a batch that was worked on as soon as it was read: its rows, and the time it took, which is each row's latency.
    pub fn batch(&self, rows: u64, busy_ns: u64) {
        self.arrived(rows);
        self.busy_ns.add(busy_ns);
        self.latency.record_n(busy_ns, rows);
    }

    /// Counts a batch whose rows leave later; `busy_ns` and `latency` are recorded when they do.
    pub fn arrived(&self, rows: u64) {
        self.rows_in.add(rows);
        self.batches.add(1);
        self.batch_rows.record_n(rows, 1);
    }
}

/// What one source read.
#[derive(Debug)]
pub struct SourceMetrics {
    /// The source's name in the pipeline file.
    pub name: String,
    /// Its kind, such as `kafka`.
    pub kind: String,
    /// Records that were read, those that could not be decoded among them.
    pub records: Counter,
    /// Bytes that were read.
    pub bytes: Counter,
    /// Records that could not be decoded, by the code of their reason.
    pub errors: Labelled,
    /// Time for which it did not read, because too much was in flight.
    pub paused_ns: Counter,
    partitions: Mutex<Vec<Arc<PartitionMetrics>>>,
}

/// Where one partition of a source stands.
#[derive(Debug)]
pub struct PartitionMetrics {
    /// The partition's name, such as its number.
    pub name: String,
    /// Records that the system holds and that were not read yet.
    pub lag_records: Gauge,
}

impl SourceMetrics {
    fn new(name: &str, kind: &str) -> Self {
        SourceMetrics {
            name: name.to_owned(),
            kind: kind.to_owned(),
            records: Counter::default(),
            bytes: Counter::default(),
            errors: Labelled::default(),
            paused_ns: Counter::default(),
            partitions: Mutex::default(),
        }
    }

    /// The instruments of a partition; partitions are discovered while the source runs. Keep the result.
    pub fn partition(&self, name: impl fmt::Display) -> Arc<PartitionMetrics> {
        let name = name.to_string();
        let mut partitions = self.partitions.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(partition) = partitions.iter().find(|partition| partition.name == name) {
            return Arc::clone(partition);
        }
        let partition = Arc::new(PartitionMetrics { name, lag_records: Gauge::default() });
        partitions.push(Arc::clone(&partition));
        partition
    }

    /// The partitions of which the lag is known.
    pub fn partitions(&self) -> Vec<Arc<PartitionMetrics>> {
        self.partitions.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Records not read yet, over all partitions; nothing for a source that can't tell.
    pub fn lag_records(&self) -> Option<u64> {
        let partitions = self.partitions.lock().unwrap_or_else(PoisonError::into_inner);
        partitions.iter().map(|partition| partition.lag_records.get()).reduce(u64::saturating_add)
    }
}

/// The states of a circuit breaker.
///
/// ```text
///   Closed ──failures──▶ Open ──pause over──▶ HalfOpen ──success──▶ Closed
///                          ▲───────────failure───┘
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum BreakerState {
    /// Requests are sent.
    Closed = 1,
    /// One request is sent to try.
    HalfOpen = 2,
    /// No request is sent.
    Open = 3,
}

impl BreakerState {
    /// Every state.
    pub const ALL: [BreakerState; 3] = [BreakerState::Closed, BreakerState::HalfOpen, BreakerState::Open];

    /// Its name in the metrics.
    pub fn name(self) -> &'static str {
        match self {
            BreakerState::Closed => "closed",
            BreakerState::HalfOpen => "half_open",
            BreakerState::Open => "open",
        }
    }
}

/// A breaker's state and how often it opened; without a breaker nothing is exported.
#[derive(Debug, Default)]
pub struct BreakerMetrics {
    state: AtomicU8,
    /// How often it opened.
    pub openings: Counter,
}

impl BreakerMetrics {
    /// Notes the state. Openings are counted here.
    pub fn set(&self, state: BreakerState) {
        let before = self.state.swap(state as u8, Relaxed);
        if state == BreakerState::Open && before != state as u8 {
            self.openings.add(1);
        }
    }

    /// The state, once there is one.
    pub fn get(&self) -> Option<BreakerState> {
        let state = self.state.load(Relaxed);
        BreakerState::ALL.into_iter().find(|known| *known as u8 == state)
    }
}

/// What one sink delivered.
#[derive(Debug)]
pub struct SinkMetrics {
    /// The sink's name in the pipeline file.
    pub name: String,
    /// Its kind, such as `webhook`.
    pub kind: String,
    /// Rows it was given.
    pub rows: Counter,
    /// Bytes it sent.
    pub bytes: Counter,
    /// Rows that the system took.
    pub acknowledged: Counter,
    /// Rows that could not be delivered, by the code of their reason.
    pub failed: Labelled,
    /// Attempts after the first.
    pub retries: Counter,
    /// Rows that were given and are not answered yet.
    pub queue_rows: Gauge,
    /// The end-to-end start (the event's or the broker's time) of the oldest row that is not answered yet.
    pub waiting_since: Since,
    /// From the event's or the broker's time to the acknowledgement, by row.
    pub end_to_end: Histogram,
    /// The circuit breaker, for sinks that have one.
    pub breaker: BreakerMetrics,
}

impl SinkMetrics {
    fn new(name: &str, kind: &str) -> Self {
        SinkMetrics {
            name: name.to_owned(),
            kind: kind.to_owned(),
            rows: Counter::default(),
            bytes: Counter::default(),
            acknowledged: Counter::default(),
            failed: Labelled::default(),
            retries: Counter::default(),
            queue_rows: Gauge::default(),
            waiting_since: Since::default(),
            end_to_end: Histogram::latencies(),
            breaker: BreakerMetrics::default(),
        }
    }

    /// Counts rows that were acknowledged at `now_ns` (wall clock), given when each began. A start in the future, which a
    /// skewed clock gives, counts as no time at all.
    pub fn acknowledge(&self, now_ns: i64, starts_ns: impl IntoIterator<Item = i64>) {
        let mut rows = 0;
        let latencies =
            starts_ns.into_iter().map(|start_ns| u64::try_from(now_ns.saturating_sub(start_ns)).unwrap_or(0));
        self.end_to_end.record_all(latencies.inspect(|_| rows += 1));
        self.acknowledged.add(rows);
    }
}

/// What an objective shows, written by the one who evaluates it.
#[derive(Debug)]
pub struct ObjectiveMetrics {
    /// The objective's name in the pipeline file.
    pub name: String,
    /// What is compared, such as `p99`.
    pub statistic: String,
    /// What it may be at most: seconds, or a ratio.
    pub threshold: f64,
    value_bits: AtomicU64,
    breached: AtomicU8,
    /// How often it was breached after it was kept.
    pub breaches: Counter,
}

impl ObjectiveMetrics {
    /// Notes the last evaluation: the value if there was anything to measure, and whether it is too great.
    pub fn set(&self, value: Option<f64>, breached: bool) {
        self.value_bits.store(value.unwrap_or(f64::NAN).to_bits(), Relaxed);
        if self.breached.swap(u8::from(breached), Relaxed) == 0 && breached {
            self.breaches.add(1);
        }
    }

    /// The last value, if there was anything to measure.
    pub fn value(&self) -> Option<f64> {
        Some(f64::from_bits(self.value_bits.load(Relaxed))).filter(|value| !value.is_nan())
    }

    /// Whether it was breached at the last evaluation.
    pub fn breached(&self) -> bool {
        self.breached.load(Relaxed) != 0
    }
}

/// Where a pipeline is in its life; `/healthz` and `/readyz` answer by it.
///
/// ```text
///   Starting ──▶ Ready ──▶ Draining
///       └──────────┴───────────┴────▶ Failed
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Phase {
    /// Sources, models and sinks are being opened.
    Starting = 0,
    /// Rows flow.
    Ready = 1,
    /// No more is read; what is in flight is being delivered.
    Draining = 2,
    /// It can't go on.
    Failed = 3,
}

impl Phase {
    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Phase::Starting => "starting",
            Phase::Ready => "ready",
            Phase::Draining => "draining",
            Phase::Failed => "failed",
        }
    }
}

/// Everything that is counted in one process.
#[derive(Debug)]
pub struct Metrics {
    /// The pipeline's name, a label of every metric.
    pub pipeline: String,
    clock: Arc<dyn Clock>,
    started_ns: u64,
    phase: AtomicU8,
    steps: Mutex<Vec<Arc<StepMetrics>>>,
    sources: Mutex<Vec<Arc<SourceMetrics>>>,
    sinks: Mutex<Vec<Arc<SinkMetrics>>>,
    objectives: Mutex<Vec<Arc<ObjectiveMetrics>>>,
    /// Epochs that every worker has closed.
    pub epochs_closed: Counter,
    /// Bytes of rows between the sources and the sinks.
    pub in_flight_bytes: Gauge,
    /// More than this in flight stops the sources; zero if there is no limit.
    pub in_flight_bytes_max: Gauge,
    /// When the oldest epoch that is not closed was opened.
    pub in_flight_since: Since,
}

impl Metrics {
    /// No instruments yet; time counts from here.
    pub fn new(pipeline: &str, clock: Arc<dyn Clock>) -> Arc<Metrics> {
        Arc::new(Metrics {
            pipeline: pipeline.to_owned(),
            started_ns: clock.monotonic_ns(),
            clock,
            phase: AtomicU8::new(Phase::Starting as u8),
            steps: Mutex::default(),
            sources: Mutex::default(),
            sinks: Mutex::default(),
            objectives: Mutex::default(),
            epochs_closed: Counter::default(),
            in_flight_bytes: Gauge::default(),
            in_flight_bytes_max: Gauge::default(),
            in_flight_since: Since::default(),
        })
    }

    /// The instruments of a step: new, or those that another worker created. Call it at the start and keep the result.
    pub fn step(&self, name: &str, kind: &str) -> Arc<StepMetrics> {
        named(&self.steps, |step| step.name == name, || StepMetrics::new(name, kind))
    }

    /// The instruments of a source.
    pub fn source(&self, name: &str, kind: &str) -> Arc<SourceMetrics> {
        named(&self.sources, |source| source.name == name, || SourceMetrics::new(name, kind))
    }

    /// The instruments of a sink.
    pub fn sink(&self, name: &str, kind: &str) -> Arc<SinkMetrics> {
        named(&self.sinks, |sink| sink.name == name, || SinkMetrics::new(name, kind))
    }

    /// The instruments of one comparison of an objective.
    pub fn objective(&self, name: &str, statistic: &str, threshold: f64) -> Arc<ObjectiveMetrics> {
        let new = || ObjectiveMetrics {
            name: name.to_owned(),
            statistic: statistic.to_owned(),
            threshold,
            value_bits: AtomicU64::new(f64::NAN.to_bits()),
            breached: AtomicU8::new(0),
            breaches: Counter::default(),
        };
        named(&self.objectives, |one| one.name == name && one.statistic == statistic, new)
    }

    /// All steps, in the order of their creation.
    pub fn steps(&self) -> Vec<Arc<StepMetrics>> {
        all(&self.steps)
    }

    /// All sources.
    pub fn sources(&self) -> Vec<Arc<SourceMetrics>> {
        all(&self.sources)
    }

    /// All sinks.
    pub fn sinks(&self) -> Vec<Arc<SinkMetrics>> {
        all(&self.sinks)
    }

    /// All objectives.
    pub fn objectives(&self) -> Vec<Arc<ObjectiveMetrics>> {
        all(&self.objectives)
    }

    /// Where the pipeline is in its life.
    pub fn phase(&self) -> Phase {
        let phase = self.phase.load(Relaxed);
        [Phase::Ready, Phase::Draining, Phase::Failed]
            .into_iter()
            .find(|one| *one as u8 == phase)
            .unwrap_or(Phase::Starting)
    }

    /// Notes where the pipeline is in its life.
    pub fn set_phase(&self, phase: Phase) {
        self.phase.store(phase as u8, Relaxed);
    }

    /// The clock that all ages here go by.
    pub fn clock(&self) -> &Arc<dyn Clock> {
        &self.clock
    }

    /// How long it runs.
    pub fn uptime_ns(&self) -> u64 {
        self.clock.monotonic_ns().saturating_sub(self.started_ns)
    }

    /// The sums that a person wants to see, at one moment.
    pub fn totals(&self) -> Totals {
        let (sources, sinks) = (self.sources(), self.sinks());
        let errors = self.steps().iter().map(|step| step.errors.total()).sum::<u64>()
            + sources.iter().map(|source| source.errors.total()).sum::<u64>()
            + sinks.iter().map(|sink| sink.failed.total()).sum::<u64>();
        let mut end_to_end = Distribution::of_latencies();
        sinks.iter().for_each(|sink| end_to_end.merge(&sink.end_to_end.read()));
        Totals {
            at_ns: self.clock.monotonic_ns(),
            rows_in: sources.iter().map(|source| source.records.get()).sum(),
            rows_out: sinks.iter().map(|sink| sink.acknowledged.get()).sum(),
            errors,
            lag_records: sources.iter().filter_map(|source| source.lag_records()).reduce(u64::saturating_add),
            in_flight_bytes: self.in_flight_bytes.get(),
            end_to_end,
        }
    }
}

/// Sums over a pipeline at one moment: counts are since the start.
#[derive(Clone, Debug)]
pub struct Totals {
    /// When, by the monotonic clock.
    pub at_ns: u64,
    /// Records that were read.
    pub rows_in: u64,
    /// Rows that sinks had acknowledged.
    pub rows_out: u64,
    /// Records and rows that failed, in sources, steps and sinks.
    pub errors: u64,
    /// Records that were not read yet, where sources can tell.
    pub lag_records: Option<u64>,
    /// Bytes between sources and sinks, now.
    pub in_flight_bytes: u64,
    /// End-to-end latency over all sinks.
    pub end_to_end: Distribution,
}

fn named<T>(list: &Mutex<Vec<Arc<T>>>, is_it: impl Fn(&T) -> bool, new: impl FnOnce() -> T) -> Arc<T> {
    let mut list = list.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(found) = list.iter().find(|one| is_it(one)) {
        return Arc::clone(found);
    }
    let created = Arc::new(new());
    list.push(Arc::clone(&created));
    created
}

fn all<T>(list: &Mutex<Vec<Arc<T>>>) -> Vec<Arc<T>> {
    list.lock().unwrap_or_else(PoisonError::into_inner).clone()
}

#[cfg(test)]
mod tests {
    use super::*;
    use engine_base::VirtualClock;
    use std::thread;

    #[test]
    fn workers_count_into_the_same_instruments() {
        let metrics = Metrics::new("p", VirtualClock::at(0));
        let worker = |metrics: Arc<Metrics>| {
            move || {
                let step = metrics.step("score", "predict");
                let source = metrics.source("in", "kafka");
                for round in 0..10_000 {
                    step.batch(3, 1_000);
                    step.errors.add(if round % 2 == 0 { "cast" } else { "overflow" }, 1);
                    source.partition(round % 4).lag_records.set(5);
                }
            }
        };
        let threads: Vec<_> = (0..4).map(|_| thread::spawn(worker(Arc::clone(&metrics)))).collect();
        threads.into_iter().for_each(|thread| thread.join().unwrap());
        let [step] = &metrics.steps()[..] else { panic!("one step") };
        assert_eq!((step.rows_in.get(), step.batches.get()), (120_000, 40_000));
        assert_eq!(step.busy_ns.get(), 40_000_000);
        assert_eq!(step.latency.read().count(), 120_000);
        assert_eq!(step.errors.total(), 40_000);
        let mut counts = step.errors.counts();
        counts.sort();
        assert_eq!(counts, [("cast", 20_000), ("overflow", 20_000)]);
        assert_eq!(metrics.sources()[0].lag_records(), Some(20));
    }

    #[test]
    fn totals_add_up_over_the_pipeline() {
        let clock = VirtualClock::at(1_000);
        let metrics = Metrics::new("p", clock.clone());
        assert_eq!(metrics.totals().lag_records, None);
        metrics.source("a", "file").records.add(10);
        metrics.source("b", "kafka").partition(0).lag_records.set(7);
        metrics.source("b", "kafka").errors.add("decode", 1);
        metrics.step("s", "map").errors.add("cast", 2);
        let sink = metrics.sink("out", "stdout");
        sink.failed.add("refused", 4);
        sink.acknowledge(5_000_000, [1_000_000, 2_000_000, 9_000_000]);
        clock.advance_ns(500);
        let totals = metrics.totals();
        assert_eq!((totals.rows_in, totals.rows_out, totals.errors, totals.lag_records), (10, 3, 7, Some(7)));
        assert_eq!((totals.at_ns, metrics.uptime_ns()), (500, 500));
        // A row from the future counts as no time at all.
        assert_eq!((totals.end_to_end.count(), totals.end_to_end.max_ns()), (3, 4_000_000));
    }

    #[test]
    fn a_breaker_counts_its_openings() {
        let breaker = BreakerMetrics::default();
        assert_eq!(breaker.get(), None);
        for state in [BreakerState::Closed, BreakerState::Open, BreakerState::Open, BreakerState::HalfOpen] {
            breaker.set(state);
            assert_eq!(breaker.get(), Some(state));
        }
        breaker.set(BreakerState::Open);
        assert_eq!(breaker.openings.get(), 2);
    }

    #[test]
    fn a_gauge_does_not_go_below_zero_and_an_age_not_before_its_start() {
        let gauge = Gauge::default();
        gauge.add(3);
        gauge.sub(5);
        assert_eq!(gauge.get(), 0);
        let since = Since::default();
        assert_eq!(since.age_ns(10), None);
        since.set(Some(7));
        assert_eq!((since.age_ns(10), since.age_ns(5)), (Some(3), Some(0)));
        since.set(None);
        assert_eq!(since.age_ns(10), None);
    }

    #[test]
    fn phases() {
        let metrics = Metrics::new("p", VirtualClock::at(0));
        assert_eq!(metrics.phase(), Phase::Starting);
        for phase in [Phase::Ready, Phase::Draining, Phase::Failed] {
            metrics.set_phase(phase);
            assert_eq!(metrics.phase(), phase);
        }
    }
}
