//! Objectives: promises on latency, error rate and lag, measured while the pipeline runs.
//!
//! Once a second each objective takes a reading of what it is about, compares it with the reading at the start of its
//! window, and notes the value and whether it is too great. A change is logged; the state is in the metrics. What an
//! objective does about a breach is nobody's business here: it only tells.

use crate::metrics::{Distribution, Metrics, ObjectiveMetrics, SinkMetrics};
use crate::ticker::Ticker;
use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::Duration;

/// How often objectives are evaluated.
const PERIOD: Duration = Duration::from_secs(1);
/// A window keeps about so many readings, however long it is; a long one moves in steps of its length by this.
const READINGS: u32 = 60;
const NS_PER_S: f64 = 1e9;

/// One comparison: a measure, and what it may be at most.
#[derive(Clone, Debug)]
pub struct ObjectiveConfig {
    /// The objective's name. An objective with several thresholds is several of these.
    pub name: String,
    /// What is measured.
    pub measure: Measure,
    /// What is taken of the measure.
    pub statistic: Statistic,
    /// What it may be at most: seconds for times, errors per row for the error rate, records for [`Measure::LagRecords`].
    pub threshold: f64,
    /// The time over which it is measured.
    pub over: Duration,
}

/// What is measured. Where no name is given it holds for each, and the worst counts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Measure {
    /// From the event's or the broker's time to the acknowledgement of a sink, by row. While a sink acknowledges nothing,
    /// the age of its oldest waiting row counts, so that a sink that stands still is not taken for a fast one.
    EndToEnd {
        /// The sink.
        sink: Option<String>,
    },
    /// The time of a row in a step.
    StepLatency {
        /// The step.
        step: Option<String>,
    },
    /// Rows that failed to rows that came in: of one step, or of all against the records of the sources.
    ErrorRate {
        /// The step.
        step: Option<String>,
    },
    /// How long ago the source's end was where its reader is now, in seconds. Told from how the end moved, so it is known
    /// from the start of this run only: a backlog from before counts from the start.
    LagTime {
        /// The source.
        source: Option<String>,
    },
    /// How many records the source holds that were not read yet.
    LagRecords {
        /// The source.
        source: Option<String>,
    },
}

/// What is taken of the measure over the window.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Statistic {
    /// A quantile, from 0 to 1.
    Quantile(f64),
    /// The greatest value.
    Max,
    /// The ratio itself, for the error rate.
    Ratio,
}

impl fmt::Display for Statistic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Statistic::Quantile(quantile) => {
                let percent = (quantile * 100.0 * 1e6).round() / 1e6;
                write!(f, "p{percent}")
            }
            Statistic::Max => f.write_str("max"),
            Statistic::Ratio => f.write_str("ratio"),
        }
    }
}

/// All objectives of a pipeline, with their readings.
#[derive(Debug)]
pub struct Objectives {
    metrics: Arc<Metrics>,
    objectives: Vec<Objective>,
    ends: HashMap<String, EndHistory>,
}

/// The thread that evaluates them. Dropping it ends it.
#[derive(Debug)]
pub struct Evaluation(#[expect(dead_code, reason = "held for its drop")] Ticker);

impl Objectives {
    /// Objectives over these metrics. The sinks, steps and sources that they name need not exist yet.
    pub fn new(configs: Vec<ObjectiveConfig>, metrics: Arc<Metrics>) -> Objectives {
        let objective = |config: ObjectiveConfig| Objective {
            shown: metrics.objective(&config.name, &config.statistic.to_string(), config.threshold),
            config,
            windows: HashMap::new(),
        };
        let objectives = configs.into_iter().map(objective).collect();
        let mut objectives = Objectives { metrics, objectives, ends: HashMap::new() };
        objectives.evaluate(); // the reading at the start, against which the first window is measured
        objectives
    }

    /// Evaluates every second, on a thread of its own. `None` if there is nothing to evaluate.
    pub fn spawn(mut self) -> io::Result<Option<Evaluation>> {
        if self.objectives.is_empty() {
            return Ok(None);
        }
        Ok(Some(Evaluation(Ticker::start("objectives", PERIOD, move || self.evaluate(), || ())?)))
    }

    /// Evaluates all, at the present time of the metrics' clock.
    pub fn evaluate(&mut self) {
        let now = Now { monotonic_ns: self.metrics.clock().monotonic_ns(), wall_ns: self.metrics.clock().now_ns() };
        let lags: Vec<(String, Option<Lag>)> = self
            .metrics
            .sources()
            .iter()
            .map(|source| {
                let records = source.lag_records();
                let lag = records.map(|records| {
                    let ends = self.ends.entry(source.name.clone()).or_default();
                    Lag { records, time_ns: ends.observe(now.monotonic_ns, source.records.get(), records) }
                });
                (source.name.clone(), lag)
            })
            .collect();
        for objective in &mut self.objectives {
            objective.evaluate(&self.metrics, &lags, now);
        }
    }
}

#[derive(Clone, Copy)]
struct Now {
    monotonic_ns: u64,
    wall_ns: i64,
}

/// How far a source is behind.
#[derive(Clone, Copy)]
struct Lag {
    records: u64,
    time_ns: u64,
}

#[derive(Debug)]
struct Objective {
    config: ObjectiveConfig,
    shown: Arc<ObjectiveMetrics>,
    /// The readings by sink, step or source.
    windows: HashMap<String, Window>,
}

/// Readings, oldest first, that reach back over a window's length.
#[derive(Debug, Default)]
struct Window {
    readings: VecDeque<(u64, Reading)>,
}

#[derive(Clone, Debug)]
enum Reading {
    /// What was recorded since the start.
    Latency(Distribution),
    /// Errors and rows since the start.
    Rate { errors: u64, rows: u64 },
    /// The value at this moment.
    Level(f64),
}

impl Objective {
    fn evaluate(&mut self, metrics: &Metrics, lags: &[(String, Option<Lag>)], now: Now) {
        let is_wanted = |wanted: &Option<String>, name: &str| wanted.as_deref().is_none_or(|wanted| wanted == name);
        let mut values = Vec::new();
        match &self.config.measure {
            Measure::EndToEnd { sink } => {
                for one in metrics.sinks().iter().filter(|one| is_wanted(sink, &one.name)) {
                    let reading = Reading::Latency(one.end_to_end.read());
                    let value = measure(&mut self.windows, &self.config, &one.name, reading, now);
                    values.push(waiting(&self.config, value, one, now));
                }
            }
            Measure::StepLatency { step } => {
                for one in metrics.steps().iter().filter(|one| is_wanted(step, &one.name)) {
                    let reading = Reading::Latency(one.latency.read());
                    values.push(measure(&mut self.windows, &self.config, &one.name, reading, now));
                }
            }
            Measure::ErrorRate { step: None } => {
                let totals = metrics.totals();
                let reading = Reading::Rate { errors: totals.errors, rows: totals.rows_in };
                values.push(measure(&mut self.windows, &self.config, "", reading, now));
            }
            Measure::ErrorRate { step } => {
                for one in metrics.steps().iter().filter(|one| is_wanted(step, &one.name)) {
                    let reading = Reading::Rate { errors: one.errors.total(), rows: one.rows_in.get() };
                    values.push(measure(&mut self.windows, &self.config, &one.name, reading, now));
                }
            }
            Measure::LagTime { source } | Measure::LagRecords { source } => {
                let in_time = matches!(self.config.measure, Measure::LagTime { .. });
                for (name, lag) in lags.iter().filter(|(name, _)| is_wanted(source, name)) {
                    let Some(lag) = lag else { continue };
                    let level = if in_time { lag.time_ns as f64 / NS_PER_S } else { lag.records as f64 };
                    values.push(measure(&mut self.windows, &self.config, name, Reading::Level(level), now));
                }
            }
        }
        let worst = values.into_iter().flatten().reduce(f64::max);
        self.show(worst);
    }

    fn show(&self, value: Option<f64>) {
        let (config, was_breached) = (&self.config, self.shown.breached());
        // With nothing to measure a promise is neither broken nor kept again: it stays as it was.
        let breached = value.map_or(was_breached, |value| value > config.threshold);
        self.shown.set(value, breached);
        let (objective, statistic) = (config.name.as_str(), config.statistic.to_string());
        let (value, threshold) = (value.unwrap_or(f64::NAN), config.threshold);
        match (was_breached, breached) {
            (false, true) => tracing::warn!(objective, statistic, value, threshold, "objective breached"),
            (true, false) => tracing::info!(objective, statistic, value, threshold, "objective kept again"),
            _ => {}
        }
    }
}

/// Takes a reading into its window, and of the window the statistic. `None` if nothing happened in it.
fn measure(
    windows: &mut HashMap<String, Window>,
    config: &ObjectiveConfig,
    name: &str,
    reading: Reading,
    now: Now,
) -> Option<f64> {
    let over_ns = u64::try_from(config.over.as_nanos()).unwrap_or(u64::MAX);
    let window = windows.entry(name.to_owned()).or_default();
    window.forget(now.monotonic_ns, over_ns);
    let value = window.value(&reading, config.statistic, now.monotonic_ns, over_ns);
    window.push(reading, now.monotonic_ns, over_ns);
    value
}

/// The measured value, or where nothing was acknowledged the age of the oldest row that waits for it.
fn waiting(config: &ObjectiveConfig, value: Option<f64>, sink: &SinkMetrics, now: Now) -> Option<f64> {
    let age_s = sink.waiting_since.age_ns(now.wall_ns).map(|age_ns| age_ns as f64 / NS_PER_S);
    match config.statistic {
        Statistic::Max => value.into_iter().chain(age_s).reduce(f64::max),
        _ => value.or(age_s),
    }
}

impl Window {
    /// Compares the reading with the one at the window's start.
    fn value(&self, reading: &Reading, statistic: Statistic, now_ns: u64, over_ns: u64) -> Option<f64> {
        match (reading, self.readings.front().map(|(_, start)| start)) {
            (Reading::Latency(now), Some(Reading::Latency(start))) => {
                let window = now.since(start);
                match statistic {
                    Statistic::Quantile(quantile) => window.quantile(quantile),
                    Statistic::Max | Statistic::Ratio => (window.count() > 0).then(|| window.max_ns()),
                }
                .map(|ns| ns as f64 / NS_PER_S)
            }
            (Reading::Rate { errors, rows }, Some(Reading::Rate { errors: errors_before, rows: rows_before })) => {
                let (errors, rows) = (errors.saturating_sub(*errors_before), rows.saturating_sub(*rows_before));
                // A row can fail in several steps, and some that fail now came in before.
                (errors > 0 || rows > 0).then(|| errors as f64 / rows.max(errors) as f64)
            }
            (Reading::Level(now), _) => {
                let inside = self.readings.iter().filter(|(at_ns, _)| at_ns.saturating_add(over_ns) >= now_ns);
                let mut levels: Vec<f64> = inside
                    .filter_map(|(_, reading)| if let Reading::Level(level) = reading { Some(*level) } else { None })
                    .collect();
                levels.push(*now);
                levels.sort_by(f64::total_cmp);
                let quantile = if let Statistic::Quantile(quantile) = statistic { quantile } else { 1.0 };
                let rank = (quantile * levels.len() as f64).ceil().max(1.0) as usize;
                levels.get(rank.min(levels.len()) - 1).copied()
            }
            _ => None,
        }
    }

    /// Forgets what lies before the window's start.
    fn forget(&mut self, now_ns: u64, over_ns: u64) {
        // The second oldest becomes the start once it is as old as the window is long.
        while self.readings.get(1).is_some_and(|(at_ns, _)| at_ns.saturating_add(over_ns) <= now_ns) {
            self.readings.pop_front();
        }
    }

    /// Keeps the reading, unless it is too soon after the last.
    fn push(&mut self, reading: Reading, now_ns: u64, over_ns: u64) {
        // Half a period less, so that a tick that comes a little early is not skipped.
        let step_ns = (over_ns / u64::from(READINGS)).saturating_sub(PERIOD.as_nanos() as u64 / 2);
        let is_due = self.readings.back().is_none_or(|(at_ns, _)| now_ns.saturating_sub(*at_ns) >= step_ns);
        match (&reading, self.readings.back_mut()) {
            // A level between two readings counts: the greater one is kept.
            (Reading::Level(level), Some((_, Reading::Level(last)))) if !is_due => *last = last.max(*level),
            _ if is_due => self.readings.push_back((now_ns, reading)),
            _ => {}
        }
    }
}

/// How the end of a source moved: when it was first seen at which count of records.
#[derive(Debug, Default)]
struct EndHistory {
    ends: VecDeque<(u64, u64)>,
}

/// A bound on the readings that an [`EndHistory`] keeps: a quarter of an hour, second by second. Older ones are thinned.
const ENDS_MAX: usize = 900;

impl EndHistory {
    /// Notes that at `now_ns` the reader had read `read` records and `lag` more were there; says how long ago the end was
    /// where the reader is.
    fn observe(&mut self, now_ns: u64, read: u64, lag: u64) -> u64 {
        let end = read.saturating_add(lag);
        if self.ends.back().is_none_or(|(_, last)| end > *last) {
            self.ends.push_back((now_ns, end));
        }
        if lag == 0 {
            self.ends.clear();
            self.ends.push_back((now_ns, end));
            return 0;
        }
        while self.ends.get(1).is_some_and(|(_, end)| *end <= read) {
            self.ends.pop_front();
        }
        if self.ends.len() > ENDS_MAX {
            let mut keep = false;
            self.ends.retain(|_| {
                keep = !keep;
                keep
            });
        }
        // The end passed the reader's place between the first two readings: as far between as the place is.
        let (seen_ns, end) = self.ends[0];
        let passed_ns = match self.ends.get(1) {
            Some((next_ns, next_end)) if read > end => {
                let share = (read - end) as f64 / (next_end - end) as f64;
                seen_ns + ((next_ns - seen_ns) as f64 * share) as u64
            }
            _ => seen_ns,
        };
        now_ns.saturating_sub(passed_ns)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use engine_base::VirtualClock;

    const S: i64 = 1_000_000_000;

    struct World {
        clock: Arc<VirtualClock>,
        metrics: Arc<Metrics>,
        objectives: Objectives,
    }

    impl World {
        fn new(measure: Measure, statistic: Statistic, threshold: f64, over_s: u64) -> World {
            let clock = VirtualClock::at(1_000 * S);
            let metrics = Metrics::new("p", clock.clone());
            let over = Duration::from_secs(over_s);
            let config = ObjectiveConfig { name: "goal".into(), measure, statistic, threshold, over };
            // Instruments are made at the start, as the runtime does.
            metrics.sink("out", "webhook");
            metrics.step("score", "predict");
            metrics.source("in", "kafka");
            let objectives = Objectives::new(vec![config], Arc::clone(&metrics));
            World { clock, metrics, objectives }
        }

        /// One second later: the value, and whether it is breached.
        fn tick(&mut self) -> (Option<f64>, bool) {
            self.clock.advance_ns(S);
            self.objectives.evaluate();
            let shown = &self.metrics.objectives()[0];
            (shown.value(), shown.breached())
        }
    }

    #[track_caller]
    fn assert_near(shown: (Option<f64>, bool), value: f64, breached: bool) {
        let near = shown.0.is_some_and(|shown| (shown - value).abs() <= 0.05 * value.abs().max(1e-9));
        assert!(near && shown.1 == breached, "{shown:?}, expected about {value}, {breached}");
    }

    #[test]
    fn a_quantile_of_latency_over_a_sliding_window() {
        let sink = Some("out".to_owned());
        let mut world = World::new(Measure::EndToEnd { sink }, Statistic::Quantile(0.99), 0.25, 10);
        assert_eq!(world.tick(), (None, false));
        let out = world.metrics.sink("out", "webhook");
        out.end_to_end.record_n(100_000_000, 1_000);
        assert_near(world.tick(), 0.1, false);
        out.end_to_end.record_n(400_000_000, 100);
        assert_near(world.tick(), 0.4, true);
        // Both leave the window ten seconds after they came, the fast rows first.
        for _ in 0..9 {
            assert_near(world.tick(), 0.4, true);
        }
        // Nothing is measured: the state stays until something is.
        assert_eq!(world.tick(), (None, true));
        out.end_to_end.record_n(50_000_000, 1);
        assert_near(world.tick(), 0.05, false);
        assert_eq!(world.metrics.objectives()[0].breaches.get(), 1);
    }

    #[test]
    fn a_sink_that_stands_still_is_not_fast() {
        let mut world = World::new(Measure::EndToEnd { sink: None }, Statistic::Quantile(0.99), 5.0, 60);
        let out = world.metrics.sink("out", "webhook");
        out.waiting_since.set(Some(1_000 * S));
        assert_near(world.tick(), 1.0, false);
        for _ in 0..8 {
            world.tick();
        }
        assert_near(world.tick(), 10.0, true);
        out.waiting_since.set(None);
        out.acknowledge(1_010 * S, [1_009 * S]);
        assert_near(world.tick(), 1.0, false);
    }

    #[test]
    fn the_worst_of_all_steps_counts() {
        let mut world = World::new(Measure::StepLatency { step: None }, Statistic::Max, 0.02, 60);
        world.metrics.step("score", "predict").latency.record_n(30_000_000, 1);
        world.metrics.step("fast", "map").latency.record_n(1_000, 1_000_000);
        assert_near(world.tick(), 0.03, true);
    }

    #[test]
    fn an_error_rate_is_of_the_window() {
        let mut world = World::new(Measure::ErrorRate { step: None }, Statistic::Ratio, 0.01, 5);
        let (source, step) = (world.metrics.source("in", "kafka"), world.metrics.step("score", "predict"));
        assert_eq!(world.tick(), (None, false));
        source.records.add(1_000);
        assert_eq!(world.tick(), (Some(0.0), false));
        step.errors.add("cast", 50);
        assert_near(world.tick(), 0.05, true);
        for _ in 0..6 {
            source.records.add(1_000);
            world.tick();
        }
        assert_eq!(world.tick(), (Some(0.0), false));
    }

    #[test]
    fn lag_in_records_is_the_greatest_of_the_window() {
        let mut world = World::new(Measure::LagRecords { source: None }, Statistic::Max, 100.0, 3);
        assert_eq!(world.tick(), (None, false));
        let partition = world.metrics.source("in", "kafka").partition(0);
        partition.lag_records.set(500);
        assert_near(world.tick(), 500.0, true);
        partition.lag_records.set(10);
        for _ in 0..3 {
            assert_near(world.tick(), 500.0, true);
        }
        assert_near(world.tick(), 10.0, false);
    }

    #[test]
    fn lag_in_time_is_told_from_how_the_end_moved() {
        let mut world = World::new(Measure::LagTime { source: None }, Statistic::Max, 3.5, 1);
        let source = world.metrics.source("in", "kafka");
        let lag = source.partition(0).lag_records.get();
        assert_eq!(lag, 0);
        assert_eq!(world.tick(), (Some(0.0), false));
        // 100 records a second arrive and 50 are read: after t seconds the reader is t/2 behind.
        let mut shown = (None, false);
        for second in 1..=8 {
            source.records.add(50);
            source.partition(0).lag_records.set(50 * second);
            shown = world.tick();
        }
        assert_near(shown, 4.0, true);
        // Close behind a busy end it is a part of a second.
        source.records.add(400 + 95);
        source.partition(0).lag_records.set(5);
        world.tick();
        source.records.add(100);
        assert_near(world.tick(), 0.05, false);
        source.records.add(5);
        source.partition(0).lag_records.set(0);
        world.tick();
        assert_eq!(world.tick(), (Some(0.0), false));
    }

    #[test]
    fn a_long_window_keeps_few_readings() {
        let mut world = World::new(Measure::EndToEnd { sink: None }, Statistic::Max, 1.0, 3_600);
        let out = world.metrics.sink("out", "webhook");
        out.end_to_end.record_n(2_000_000_000, 1);
        for second in 0..3_500 {
            out.end_to_end.record_n(1_000_000, 1);
            assert!(world.tick().1, "{second}");
        }
        let kept = world.objectives.objectives[0].windows["out"].readings.len();
        assert!((55..=65).contains(&kept), "{kept}");
        for _ in 0..300 {
            out.end_to_end.record_n(1_000_000, 1);
            world.tick();
        }
        let shown = world.tick();
        assert!(!shown.1 && shown.0.is_some_and(|value| value < 0.002), "{shown:?}");
    }

    #[test]
    fn statistics_have_the_names_of_the_pipeline_file() {
        let names = [0.5, 0.95, 0.99, 0.999].map(|quantile| Statistic::Quantile(quantile).to_string());
        assert_eq!(names, ["p50", "p95", "p99", "p99.9"]);
    }

    #[test]
    fn a_thread_evaluates_them() {
        let metrics = Metrics::new("p", engine_base::SystemClock::shared());
        assert!(Objectives::new(Vec::new(), Arc::clone(&metrics)).spawn().unwrap().is_none());
        let step = metrics.step("score", "predict");
        let config = ObjectiveConfig {
            name: "quick".into(),
            measure: Measure::StepLatency { step: None },
            statistic: Statistic::Max,
            threshold: 0.001,
            over: Duration::from_secs(60),
        };
        let evaluation = Objectives::new(vec![config], Arc::clone(&metrics)).spawn().unwrap();
        step.latency.record_n(1_000_000_000, 1);
        let start = std::time::Instant::now();
        while !metrics.objectives()[0].breached() {
            assert!(start.elapsed() < Duration::from_secs(30), "not evaluated");
            std::thread::sleep(Duration::from_millis(20));
        }
        drop(evaluation);
    }
}
