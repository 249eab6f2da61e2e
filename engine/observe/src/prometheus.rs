//! The exposition: our instruments in Prometheus' text format.
//!
//! Names begin with `engine_`, are in base units (seconds, bytes) and carry the pipeline's name as a label; the process is
//! described by the names that every dashboard knows (`process_cpu_seconds_total`). Everything that is exported is
//! listed here, in one place, in the order of the output.

use crate::metrics::{BreakerState, Distribution, Histogram, Metrics, process_usage};
use prometheus::TextEncoder;
use prometheus::proto;

/// The content type of the text.
pub const CONTENT_TYPE: &str = prometheus::TEXT_FORMAT;

const NS_PER_S: f64 = 1e9;

/// All metrics, now.
pub fn encode(metrics: &Metrics) -> String {
    let mut families = Families { pipeline: &metrics.pipeline, list: Vec::new() };
    pipeline(metrics, &mut families);
    sources(metrics, &mut families);
    steps(metrics, &mut families);
    sinks(metrics, &mut families);
    objectives(metrics, &mut families);
    families.list.retain(|family| !family.get_metric().is_empty());
    // It fails only on a family without a name or a metric.
    TextEncoder::new().encode_to_string(&families.list).unwrap_or_default()
}

fn pipeline(metrics: &Metrics, families: &mut Families<'_>) {
    let usage = process_usage();
    let now_ns = metrics.clock().now_ns();
    families
        .gauge("engine_build_info", "The version of the engine, as a label of a constant.")
        .add(&[("version", env!("CARGO_PKG_VERSION"))], 1.0);
    families
        .gauge("engine_phase", "1 for the phase that the pipeline is in: starting, ready, draining or failed.")
        .add(&[("phase", metrics.phase().name())], 1.0);
    families.gauge("engine_uptime_seconds", "Time since the start.").add(&[], metrics.uptime_ns() as f64 / NS_PER_S);
    families
        .counter("engine_epochs_closed_total", "Epochs that were closed, summed over the workers.")
        .add(&[], metrics.epochs_closed.get() as f64);
    families
        .gauge("engine_in_flight_bytes", "Bytes that were read and that the sinks have not acknowledged.")
        .add(&[], metrics.in_flight_bytes.get() as f64);
    if metrics.in_flight_bytes_max.get() > 0 {
        families
            .gauge("engine_in_flight_limit_bytes", "More than this in flight stops the sources.")
            .add(&[], metrics.in_flight_bytes_max.get() as f64);
    }
    families
        .gauge(
            "engine_in_flight_age_seconds",
            "Age of the oldest epoch that the sinks have not acknowledged; 0 if there is none.",
        )
        .add(&[], metrics.in_flight_since.age_ns(now_ns).unwrap_or(0) as f64 / NS_PER_S);
    families
        .gauge("process_resident_memory_bytes", "Resident memory size in bytes.")
        .add(&[], usage.resident_bytes as f64);
    families
        .counter("process_cpu_seconds_total", "Total user and system CPU time spent in seconds.")
        .add(&[], usage.cpu_ns as f64 / NS_PER_S);
}

fn sources(metrics: &Metrics, families: &mut Families<'_>) {
    let sources = metrics.sources();
    let mut records =
        families.counter("engine_source_records_total", "Records read, those that could not be decoded among them.");
    for one in &sources {
        records.add(&[("source", &one.name), ("type", &one.kind)], one.records.get() as f64);
    }
    let mut bytes = families.counter("engine_source_bytes_total", "Bytes read.");
    for one in &sources {
        bytes.add(&[("source", &one.name)], one.bytes.get() as f64);
    }
    let mut errors = families.counter("engine_source_errors_total", "Records that could not be decoded, by reason.");
    for one in &sources {
        for (code, count) in one.errors.counts() {
            errors.add(&[("source", &one.name), ("code", code)], count as f64);
        }
    }
    let mut paused = families.counter(
        "engine_source_paused_seconds_total",
        "Time for which a source did not read, since too much was in flight.",
    );
    for one in &sources {
        paused.add(&[("source", &one.name)], one.paused_ns.get() as f64 / NS_PER_S);
    }
    let mut lag =
        families.gauge("engine_source_lag_records", "Records that a partition holds and that were not read yet.");
    for one in &sources {
        for partition in one.partitions() {
            let labels = [("source", one.name.as_str()), ("partition", partition.name.as_str())];
            lag.add(&labels, partition.lag_records.get() as f64);
        }
    }
}

fn steps(metrics: &Metrics, families: &mut Families<'_>) {
    let steps = metrics.steps();
    let mut rows_in = families.counter("engine_step_input_rows_total", "Rows that a step was given.");
    for one in &steps {
        rows_in.add(&[("step", &one.name), ("type", &one.kind)], one.rows_in.get() as f64);
    }
    let mut rows_out =
        families.counter("engine_step_output_rows_total", "Rows that a step put out, errors not among them.");
    for one in &steps {
        rows_out.add(&[("step", &one.name), ("type", &one.kind)], one.rows_out.get() as f64);
    }
    let mut errors = families.counter("engine_step_errors_total", "Rows that failed in a step, by reason.");
    for one in &steps {
        for (code, count) in one.errors.counts() {
            errors.add(&[("step", &one.name), ("code", code)], count as f64);
        }
    }
    let mut late = families.counter("engine_step_late_rows_total", "Rows that came too late for a step's state.");
    for one in &steps {
        late.add(&[("step", &one.name)], one.late.get() as f64);
    }
    let mut dropped = families.counter(
        "engine_step_dropped_rows_total",
        "Rows that a step put out nowhere, since nothing reads the output that they belong to: input is output, errors and these.",
    );
    for one in &steps {
        dropped.add(&[("step", &one.name)], one.dropped.get() as f64);
    }
    let mut outcomes = families
        .counter("engine_step_outcomes_total", "Rows by what became of them: of predictions ok, fallback or shed.");
    for one in &steps {
        for (outcome, count) in one.outcomes.counts() {
            outcomes.add(&[("step", &one.name), ("outcome", outcome)], count as f64);
        }
    }
    let mut busy =
        families.counter("engine_step_busy_seconds_total", "Time spent in a step's code, summed over the workers.");
    for one in &steps {
        busy.add(&[("step", &one.name)], one.busy_ns.get() as f64 / NS_PER_S);
    }
    let mut sizes = families.histogram("engine_step_batch_rows", "Rows in the batches that a step was given.", 1.0);
    for one in &steps {
        sizes.add_histogram(&[("step", &one.name)], &one.batch_rows);
    }
    let mut latency = families.histogram(
        "engine_step_latency_seconds",
        "Time from a row's being read by its source to its leaving the step.",
        NS_PER_S,
    );
    for one in &steps {
        latency.add_histogram(&[("step", &one.name)], &one.latency);
    }
}

fn sinks(metrics: &Metrics, families: &mut Families<'_>) {
    let sinks = metrics.sinks();
    let mut rows = families.counter("engine_sink_rows_total", "Rows that a sink was given.");
    for one in &sinks {
        rows.add(&[("sink", &one.name), ("type", &one.kind)], one.rows.get() as f64);
    }
    let mut bytes = families.counter("engine_sink_bytes_total", "Bytes that a sink sent.");
    for one in &sinks {
        bytes.add(&[("sink", &one.name)], one.bytes.get() as f64);
    }
    let mut acknowledged = families.counter("engine_sink_acknowledged_rows_total", "Rows that the sink's system took.");
    for one in &sinks {
        acknowledged.add(&[("sink", &one.name)], one.acknowledged.get() as f64);
    }
    let mut failed = families.counter("engine_sink_failed_rows_total", "Rows that could not be delivered, by reason.");
    for one in &sinks {
        for (code, count) in one.failed.counts() {
            failed.add(&[("sink", &one.name), ("code", code)], count as f64);
        }
    }
    let mut retries = families.counter("engine_sink_retries_total", "Attempts to deliver after the first.");
    for one in &sinks {
        retries.add(&[("sink", &one.name)], one.retries.get() as f64);
    }
    let mut queue =
        families.gauge("engine_sink_queue_rows", "Rows that a sink was given and that are not answered yet.");
    for one in &sinks {
        queue.add(&[("sink", &one.name)], one.queue_rows.get() as f64);
    }
    let now_ns = metrics.clock().now_ns();
    let mut waiting = families
        .gauge("engine_sink_waiting_seconds", "Age of the oldest row that is not answered yet; 0 if there is none.");
    for one in &sinks {
        waiting.add(&[("sink", &one.name)], one.waiting_since.age_ns(now_ns).unwrap_or(0) as f64 / NS_PER_S);
    }
    let mut state = families
        .gauge("engine_sink_breaker_state", "1 for the state that a sink's circuit breaker is in, 0 for the others.");
    for one in &sinks {
        if let Some(now) = one.breaker.get() {
            for known in BreakerState::ALL {
                state.add(&[("sink", &one.name), ("state", known.name())], f64::from(u8::from(known == now)));
            }
        }
    }
    let mut openings =
        families.counter("engine_sink_breaker_openings_total", "How often a sink's circuit breaker opened.");
    for one in &sinks {
        if one.breaker.get().is_some() {
            openings.add(&[("sink", &one.name)], one.breaker.openings.get() as f64);
        }
    }
    let mut latency = families.histogram(
        "engine_sink_end_to_end_latency_seconds",
        "From the event's or the broker's time to the sink's acknowledgement, by row.",
        NS_PER_S,
    );
    for one in &sinks {
        latency.add_histogram(&[("sink", &one.name)], &one.end_to_end);
    }
}

fn objectives(metrics: &Metrics, families: &mut Families<'_>) {
    let objectives = metrics.objectives();
    let mut value = families.gauge(
        "engine_objective_value",
        "What was measured of an objective: seconds, records or a ratio, as its threshold.",
    );
    for one in &objectives {
        if let Some(measured) = one.value() {
            value.add(&[("objective", &one.name), ("statistic", &one.statistic)], measured);
        }
    }
    let mut threshold = families.gauge("engine_objective_threshold", "What an objective's value may be at most.");
    for one in &objectives {
        threshold.add(&[("objective", &one.name), ("statistic", &one.statistic)], one.threshold);
    }
    let mut breached =
        families.gauge("engine_objective_breached", "1 while an objective's value is above its threshold.");
    for one in &objectives {
        let labels = [("objective", one.name.as_str()), ("statistic", one.statistic.as_str())];
        breached.add(&labels, f64::from(u8::from(one.breached())));
    }
    let mut breaches =
        families.counter("engine_objective_breaches_total", "How often an objective was breached after it was kept.");
    for one in &objectives {
        breaches.add(&[("objective", &one.name), ("statistic", &one.statistic)], one.breaches.get() as f64);
    }
}

struct Families<'a> {
    pipeline: &'a str,
    list: Vec<proto::MetricFamily>,
}

/// One family while its metrics are added.
struct Family<'a> {
    pipeline: &'a str,
    /// What a histogram's integers are divided by to give the unit of the name.
    scale: f64,
    family: &'a mut proto::MetricFamily,
}

impl Families<'_> {
    fn counter(&mut self, name: &str, help: &str) -> Family<'_> {
        self.family(name, help, proto::MetricType::COUNTER, 1.0)
    }

    fn gauge(&mut self, name: &str, help: &str) -> Family<'_> {
        self.family(name, help, proto::MetricType::GAUGE, 1.0)
    }

    fn histogram(&mut self, name: &str, help: &str, scale: f64) -> Family<'_> {
        self.family(name, help, proto::MetricType::HISTOGRAM, scale)
    }

    fn family(&mut self, name: &str, help: &str, of: proto::MetricType, scale: f64) -> Family<'_> {
        let mut family = proto::MetricFamily::default();
        family.set_name(name.to_owned());
        family.set_help(help.to_owned());
        family.set_field_type(of);
        self.list.push(family);
        let index = self.list.len() - 1;
        Family { pipeline: self.pipeline, scale, family: &mut self.list[index] }
    }
}

impl Family<'_> {
    fn add(&mut self, labels: &[(&str, &str)], value: f64) {
        let mut metric = proto::Metric::from_label(self.labels(labels));
        if self.family.get_field_type() == proto::MetricType::COUNTER {
            let mut counter = proto::Counter::default();
            counter.set_value(value);
            metric.set_counter(counter);
        } else {
            let mut gauge = proto::Gauge::default();
            gauge.set_value(value);
            metric.set_gauge(gauge);
        }
        self.family.mut_metric().push(metric);
    }

    fn add_histogram(&mut self, labels: &[(&str, &str)], histogram: &Histogram) {
        let distribution: Distribution = histogram.read();
        let bucket = |(bound, count): (u64, u64)| {
            let mut bucket = proto::Bucket::default();
            bucket.set_upper_bound(bound as f64 / self.scale);
            bucket.set_cumulative_count(count);
            bucket
        };
        let mut shown = proto::Histogram::default();
        shown.set_bucket(distribution.cumulative().into_iter().map(bucket).collect());
        shown.set_sample_count(distribution.count());
        shown.set_sample_sum(distribution.sum() as f64 / self.scale);
        let mut metric = proto::Metric::from_label(self.labels(labels));
        metric.set_histogram(shown);
        self.family.mut_metric().push(metric);
    }

    fn labels(&self, labels: &[(&str, &str)]) -> Vec<proto::LabelPair> {
        let label = |(name, value): (&str, &str)| {
            let mut pair = proto::LabelPair::default();
            pair.set_name(name.to_owned());
            pair.set_value(value.to_owned());
            pair
        };
        std::iter::once(("pipeline", self.pipeline)).chain(labels.iter().copied()).map(label).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use engine_base::VirtualClock;
    use std::sync::Arc;
    use std::time::Duration;

    use crate::objectives::{Measure, ObjectiveConfig, Objectives, Statistic};

    /// Metrics with something in every instrument.
    pub(crate) fn full() -> Arc<Metrics> {
        let clock = VirtualClock::at(100_000_000_000);
        let metrics = Metrics::new("fraud \"1\"\n", clock.clone());
        let source = metrics.source("transactions", "kafka");
        source.records.add(1_000);
        source.errors.add("decode", 2);
        source.partition(0).lag_records.set(17);
        let step = metrics.step("scored", "predict");
        step.batch(64, 300_000);
        step.rows_out.add(64);
        step.errors.add("divide_by_zero", 3);
        step.outcomes.add("ok", 60);
        let sink = metrics.sink("alerts", "webhook");
        sink.acknowledge(100_000_000_000, [99_980_000_000, 99_900_000_000]);
        sink.failed.add("refused", 1);
        sink.breaker.set(BreakerState::Open);
        metrics.in_flight_bytes_max.set(1 << 20);
        let config = ObjectiveConfig {
            name: "hold in time".into(),
            measure: Measure::EndToEnd { sink: None },
            statistic: Statistic::Quantile(0.99),
            threshold: 0.05,
            over: Duration::from_secs(60),
        };
        let mut objectives = Objectives::new(vec![config], Arc::clone(&metrics));
        sink.acknowledge(100_000_000_000, [99_900_000_000; 10]);
        clock.advance_ns(1_000_000_000);
        objectives.evaluate();
        metrics
    }

    #[test]
    fn the_exposition_says_what_was_counted() {
        let text = encode(&full());
        let pipeline = r#"pipeline="fraud \"1\"\n""#;
        for line in [
            format!("engine_source_records_total{{{pipeline},source=\"transactions\",type=\"kafka\"}} 1000"),
            format!("engine_source_lag_records{{{pipeline},source=\"transactions\",partition=\"0\"}} 17"),
            format!("engine_step_errors_total{{{pipeline},step=\"scored\",code=\"divide_by_zero\"}} 3"),
            format!("engine_step_batch_rows_bucket{{{pipeline},step=\"scored\",le=\"16\"}} 0"),
            format!("engine_step_batch_rows_bucket{{{pipeline},step=\"scored\",le=\"64\"}} 1"),
            format!("engine_step_latency_seconds_bucket{{{pipeline},step=\"scored\",le=\"0.0005\"}} 64"),
            format!("engine_step_latency_seconds_sum{{{pipeline},step=\"scored\"}} 0.0192"),
            format!("engine_sink_end_to_end_latency_seconds_bucket{{{pipeline},sink=\"alerts\",le=\"0.025\"}} 1"),
            format!("engine_sink_end_to_end_latency_seconds_bucket{{{pipeline},sink=\"alerts\",le=\"0.1\"}} 12"),
            format!("engine_sink_end_to_end_latency_seconds_bucket{{{pipeline},sink=\"alerts\",le=\"+Inf\"}} 12"),
            format!("engine_sink_end_to_end_latency_seconds_count{{{pipeline},sink=\"alerts\"}} 12"),
            format!("engine_sink_breaker_state{{{pipeline},sink=\"alerts\",state=\"open\"}} 1"),
            format!("engine_sink_breaker_state{{{pipeline},sink=\"alerts\",state=\"closed\"}} 0"),
            format!("engine_objective_breached{{{pipeline},objective=\"hold in time\",statistic=\"p99\"}} 1"),
            format!("engine_uptime_seconds{{{pipeline}}} 1"),
        ] {
            assert!(text.contains(&format!("\n{line}\n")), "no line {line} in\n{text}");
        }
    }

    #[test]
    fn promtool_has_no_remarks() {
        for metrics in [full(), Metrics::new("empty", VirtualClock::at(0))] {
            match xtask::services::prometheus::check_metrics(&encode(&metrics)) {
                Some(result) => result.unwrap(),
                None => assert!(std::env::var_os("CI").is_none(), "promtool is missing: run `cargo xtask setup`"),
            }
        }
    }
}
