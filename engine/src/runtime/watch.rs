//! The instruments of a run, and who reads them: the log, the progress line, `/metrics`, the objectives.

use super::errors_file::ErrorsFile;
use super::graph::SharedSink;
use clap::{Args, ValueEnum};
use engine_base::{Clock, StepId};
use engine_connectors::BreakerState;
use engine_dataflow::{Control, Meter, Pulse};
use engine_observe::metrics::{self, Metrics, Phase, SinkMetrics, SourceMetrics, StepMetrics};
use engine_observe::objectives::{Evaluation, Measure, ObjectiveConfig, Objectives, Statistic};
use engine_observe::progress::{LogWriter, Progress, ProgressMode};
use engine_observe::server::Server;
use engine_plan::plan::{Plan, Role};
use engine_spec::pipeline;
use std::collections::HashMap;
use std::io::IsTerminal;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use tracing_subscriber::EnvFilter;

/// Where metrics are served if nothing is said; another free port is taken if it is in use.
const METRICS_PORT: u16 = 9464;
/// How often the figures of connectors are taken over.
const STATS_EVERY: Duration = Duration::from_millis(250);

/// How a run is watched.
#[derive(Args, Debug)]
#[command(next_help_heading = "Watching")]
pub(crate) struct WatchArgs {
    /// Where Prometheus metrics are served [default: 127.0.0.1:9464, or a free port]
    #[arg(long, value_name = "ADDRESS:PORT")]
    metrics: Option<SocketAddr>,
    /// Serve no metrics
    #[arg(long, conflicts_with = "metrics")]
    no_metrics: bool,
    /// How log lines are written
    #[arg(long, value_enum, default_value_t = LogFormat::Text)]
    log_format: LogFormat,
    /// What is logged: error, warn, info, debug, trace, or a filter such as `engine_connectors=debug`
    #[arg(long, value_name = "FILTER", default_value = "info", value_parser = log_filter)]
    log: String,
    /// No progress line
    #[arg(long)]
    quiet: bool,
}

/// How log lines are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum LogFormat {
    /// For people
    Text,
    /// One JSON object a line
    Json,
}

/// Checks `--log`.
fn log_filter(text: &str) -> Result<String, String> {
    // Below brackets stand the fields of spans, which may be compared; outside of them the parser passes over what follows
    // a second `=`.
    let mut depth = 0;
    let outside = text.chars().filter(|c| {
        depth += i32::from(matches!(c, '[' | '{')) - i32::from(matches!(c, ']' | '}'));
        depth == 0
    });
    if outside.collect::<String>().split(',').any(|directive| directive.matches('=').count() > 1) {
        return Err("a directive is `level`, `target` or `target=level`".to_owned());
    }
    EnvFilter::builder().parse(text).map(|_| text.to_owned()).map_err(|error| error.to_string())
}

impl WatchArgs {
    /// Whether the log is for machines.
    pub(crate) fn logs_json(&self) -> bool {
        self.log_format == LogFormat::Json
    }

    /// Logs to stderr from now on.
    pub(crate) fn start_logging(&self) {
        let filter = EnvFilter::try_new(&self.log).unwrap_or_else(|_| EnvFilter::new("info"));
        let color =
            std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
        let builder = tracing_subscriber::fmt().with_env_filter(filter).with_ansi(color).with_writer(LogWriter::new);
        // A logger that is there already (in a test) stays.
        let _ = match self.log_format {
            LogFormat::Text => builder.with_target(false).try_init(),
            LogFormat::Json => builder.json().flatten_event(true).try_init(),
        };
    }
}

/// What a run counts into.
pub(crate) struct Instruments {
    metrics: Arc<Metrics>,
    errors: Arc<StepMetrics>,
    workers: Vec<WorkerFlight>,
}

/// What a worker has in flight.
struct WorkerFlight {
    bytes: AtomicU64,
    /// Since when, by the wall clock; `i64::MAX` if there is nothing.
    since_ns: AtomicI64,
}

impl Instruments {
    /// The instruments of a plan, all at zero.
    pub(crate) fn new(plan: &Plan, workers: usize, budget_bytes: u64, clock: Arc<dyn Clock>) -> Arc<Self> {
        let metrics = Metrics::new(&plan.name, clock);
        metrics.in_flight_bytes_max.set(budget_bytes);
        let errors = metrics.step("errors.jsonl", "errors");
        let idle = || WorkerFlight { bytes: AtomicU64::new(0), since_ns: AtomicI64::new(i64::MAX) };
        Arc::new(Instruments { metrics, errors, workers: std::iter::repeat_with(idle).take(workers).collect() })
    }

    /// The meter of each step, by its id.
    pub(crate) fn meters(&self, plan: &Plan) -> Vec<Arc<dyn Meter>> {
        let meter = |step: &engine_plan::Step| -> Arc<dyn Meter> {
            match step.role {
                Role::Source { .. } => Arc::new(SourceMeter(self.metrics.source(&step.name, step.kind))),
                Role::Operator => {
                    let late_unread = late_unread(plan, step);
                    Arc::new(StepMeter::new(self.metrics.step(&step.name, step.kind), late_unread))
                }
                Role::Sink { .. } => Arc::new(SinkMeter {
                    sink: self.metrics.sink(&step.name, step.kind),
                    waiting: (0..self.workers.len()).map(|_| AtomicU64::new(0)).collect(),
                }),
            }
        };
        plan.steps.iter().map(meter).collect()
    }

    /// A sink's system has taken so many rows in all, more perhaps than its answers told before a fault.
    pub(crate) fn taken(&self, sink: &str, rows: u64) {
        if let Some(sink) = self.metrics.sinks().iter().find(|known| known.name == sink) {
            sink.acknowledged.add(rows.saturating_sub(sink.acknowledged.get()));
        }
    }

    /// The meter of `errors.jsonl`.
    pub(crate) fn errors_meter(&self) -> Arc<dyn Meter> {
        Arc::new(StepMeter::new(self.errors.clone(), None))
    }
}

impl Pulse for Instruments {
    fn epoch_closed(&self) {
        self.metrics.epochs_closed.add(1);
    }

    fn in_flight(&self, worker: usize, bytes: u64, since_ns: Option<i64>) {
        let Some(own) = self.workers.get(worker) else { return };
        if own.bytes.swap(bytes, Ordering::Relaxed) != bytes {
            let all = self.workers.iter().map(|own| own.bytes.load(Ordering::Relaxed)).sum();
            self.metrics.in_flight_bytes.set(all);
        }
        let since_ns = since_ns.unwrap_or(i64::MAX);
        if own.since_ns.swap(since_ns, Ordering::Relaxed) != since_ns {
            let oldest = self.workers.iter().map(|own| own.since_ns.load(Ordering::Relaxed)).min();
            self.metrics.in_flight_since.set(oldest.filter(|since_ns| *since_ns != i64::MAX));
        }
    }
}

struct SourceMeter(Arc<SourceMetrics>);

impl Meter for SourceMeter {
    fn batch(&self, rows_in: u64, _rows_out: u64, _busy_ns: u64) {
        self.0.records.add(rows_in);
    }
    fn failed(&self, code: &'static str, rows: u64) {
        self.0.errors.add(code, rows);
    }
    fn bytes(&self, bytes: u64) {
        self.0.bytes.add(bytes);
    }
    fn paused(&self, ns: u64) {
        self.0.paused_ns.add(ns);
    }
    fn lag(&self, partition: u32, records: u64) {
        self.0.partition(partition).lag_records.set(records);
    }
}

struct StepMeter {
    step: Arc<StepMetrics>,
    /// The outputs of late rows that nothing reads.
    late_unread: Option<String>,
    /// The log knows that there are late rows.
    late_said: AtomicBool,
}

impl StepMeter {
    fn new(step: Arc<StepMetrics>, late_unread: Option<String>) -> Self {
        StepMeter { step, late_unread, late_said: AtomicBool::new(false) }
    }
}

impl Meter for StepMeter {
    fn batch(&self, rows_in: u64, rows_out: u64, busy_ns: u64) {
        self.step.arrived(rows_in);
        self.step.rows_out.add(rows_out);
        self.step.busy_ns.add(busy_ns);
    }
    fn failed(&self, code: &'static str, rows: u64) {
        self.step.errors.add(code, rows);
    }
    fn latency(&self, ns: u64, rows: u64) {
        self.step.latency.record_n(ns, rows);
    }
    fn late(&self, rows: u64) {
        self.step.late.add(rows);
        let Some(unread) = &self.late_unread else { return };
        if !self.late_said.load(Ordering::Relaxed) && !self.late_said.swap(true, Ordering::Relaxed) {
            tracing::warn!(
                "{}: rows come too late, and nothing reads {unread}; how many, the metric engine_step_late_rows_total tells, \
                 and the summary at the end",
                self.step.name
            );
        }
    }
    fn dropped(&self, rows: u64) {
        self.step.dropped.add(rows);
    }
    fn outcome(&self, outcome: &'static str, rows: u64) {
        self.step.outcomes.add(outcome, rows);
    }
}

struct SinkMeter {
    sink: Arc<SinkMetrics>,
    /// The oldest birth that each worker waits for; 0 for none.
    waiting: Vec<AtomicU64>,
}

impl Meter for SinkMeter {
    fn batch(&self, rows_in: u64, rows_out: u64, _busy_ns: u64) {
        self.sink.rows.add(rows_in);
        self.sink.acknowledged.add(rows_out);
    }
    fn failed(&self, code: &'static str, rows: u64) {
        self.sink.failed.add(code, rows);
    }
    fn latency(&self, ns: u64, rows: u64) {
        self.sink.end_to_end.record_n(ns, rows);
    }
    fn waiting(&self, worker: usize, born_ns: Option<i64>) {
        let born = born_ns.map_or(0, |born| born.max(1) as u64);
        if let Some(own) = self.waiting.get(worker)
            && own.swap(born, Ordering::Relaxed) != born
        {
            let oldest = self.waiting.iter().map(|own| own.load(Ordering::Relaxed)).filter(|born| *born > 0).min();
            self.sink.waiting_since.set(oldest.map(|born| born as i64));
        }
    }
}

/// The outputs of the late rows of a step that no step reads, as they stand in a sentence.
fn late_unread(plan: &Plan, step: &engine_plan::Step) -> Option<String> {
    let is_read = |port: usize| {
        let mut edges = plan.steps.iter().flat_map(|step| &step.inputs);
        edges.any(|edge| edge.from == step.id && edge.port == port)
    };
    let is_late = |name: &str| name == "late" || name.starts_with("late_");
    let late = (0..step.outputs.len()).filter(|port| is_late(&step.outputs[*port].port));
    let unread: Vec<String> =
        late.filter(|port| !is_read(*port)).map(|port| format!("`{}`", step.output_name(port))).collect();
    (!unread.is_empty()).then(|| unread.join(" and "))
}

/// Says that rows flow when all workers have built their share, which puts back what steps keep.
pub(crate) struct Loading {
    /// Workers that have not.
    left: AtomicUsize,
    begun: Instant,
    /// Bytes of a checkpoint, where one is put back.
    bytes: Option<u64>,
    metrics: Arc<Metrics>,
    control: Arc<Control>,
}

impl Loading {
    /// So many workers begin to build, and put back so many bytes of a checkpoint if there is one.
    pub(crate) fn begin(
        workers: usize,
        bytes: Option<u64>,
        instruments: &Instruments,
        control: &Arc<Control>,
    ) -> Loading {
        let (metrics, control) = (instruments.metrics.clone(), control.clone());
        Loading { left: AtomicUsize::new(workers), begun: Instant::now(), bytes, metrics, control }
    }

    /// A worker is done.
    pub(crate) fn built(&self) {
        // A signal may have come meanwhile, or something could not be put back.
        if self.left.fetch_sub(1, Ordering::SeqCst) > 1 || self.control.stopping() {
            return;
        }
        self.metrics.set_phase(Phase::Ready);
        if let Some(bytes) = self.bytes {
            let took_ms = self.begun.elapsed().as_millis() as u64;
            tracing::info!(bytes, took_ms, "what steps keep is loaded");
        }
    }
}

/// The readers of a run's instruments; they end with it.
pub(crate) struct Watch {
    server: Option<Server>,
    progress: Option<Progress>,
    evaluation: Option<Evaluation>,
    stats: Option<(Arc<AtomicBool>, JoinHandle<()>)>,
}

impl Watch {
    /// Starts what was asked for.
    pub(crate) fn start(
        args: &WatchArgs,
        plan: &Plan,
        instruments: &Instruments,
        handles: &HashMap<StepId, SharedSink>,
        control: &Arc<Control>,
    ) -> Result<Watch, String> {
        let metrics = &instruments.metrics;
        let to_stdout = plan.sinks().any(|step| step.kind == "stdout");
        let mode = if args.quiet { ProgressMode::Off } else { ProgressMode::detect(to_stdout) };
        let threads = |error: std::io::Error| format!("a thread can't be started: {error}");
        Ok(Watch {
            server: serve(args, metrics)?,
            progress: Some(Progress::start(metrics.clone(), mode).map_err(threads)?),
            evaluation: Objectives::new(objectives(plan), metrics.clone()).spawn().map_err(threads)?,
            stats: Some(follow_sinks(plan, metrics, handles, control.clone())),
        })
    }

    /// Ends the readers and says what the run did.
    pub(crate) fn finish(mut self, plan: &Plan, instruments: &Instruments, errors: &ErrorsFile, took: Duration) {
        drop(self.progress.take());
        drop(self.evaluation.take());
        if let Some((stop, thread)) = self.stats.take() {
            stop.store(true, Ordering::Relaxed);
            thread.thread().unpark();
            let _ = thread.join();
        }
        let seconds = took.as_secs_f64();
        let records: u64 = instruments.metrics.sources().iter().map(|source| source.records.get()).sum();
        tracing::info!("{}: {records} records read in {seconds:.2} s", plan.name);
        for sink in instruments.metrics.sinks() {
            let latency = sink.end_to_end.read();
            let quantile = |q: f64| latency.quantile(q).map_or(0.0, |ns| ns as f64 / 1e6);
            tracing::info!(
                "{}: {} rows acknowledged, {} failed, end to end p50 {:.1} ms, p99 {:.1} ms",
                sink.name,
                sink.acknowledged.get(),
                sink.failed.total(),
                quantile(0.5),
                quantile(0.99)
            );
        }
        for step in instruments.metrics.steps().iter().filter(|step| step.late.get() > 0) {
            if let Some(unread) = plan.find(&step.name).and_then(|step| late_unread(plan, step)) {
                tracing::warn!("{}: {} rows came too late, and nothing reads {unread}", step.name, step.late.get());
            }
        }
        if errors.written() > 0 {
            tracing::warn!("{} rows failed; they are kept in {}", errors.written(), errors.path().display());
        }
        drop(self.server.take());
    }
}

fn serve(args: &WatchArgs, metrics: &Arc<Metrics>) -> Result<Option<Server>, String> {
    if args.no_metrics {
        return Ok(None);
    }
    let server = match args.metrics {
        Some(address) => Server::start(address, metrics.clone())
            .map_err(|error| format!("metrics can't be served at {address}: {error}"))?,
        None => {
            let at = |port| Server::start((Ipv4Addr::LOCALHOST, port).into(), metrics.clone());
            at(METRICS_PORT).or_else(|_| at(0)).map_err(|error| format!("metrics can't be served: {error}"))?
        }
    };
    tracing::info!("metrics at http://{}/metrics", server.address());
    Ok(Some(server))
}

/// The plan's objectives as comparisons of the metrics.
fn objectives(plan: &Plan) -> Vec<ObjectiveConfig> {
    let mut configs = Vec::new();
    for planned in &plan.objectives {
        let objective = &planned.objective;
        let target = objective.target.as_ref().map(|(name, _)| name.clone());
        let over = objective.over.duration();
        let mut add = |measure: Measure, statistic: Statistic, threshold: f64| {
            configs.push(ObjectiveConfig { name: objective.name.clone(), measure, statistic, threshold, over });
        };
        let times = [
            (Statistic::Quantile(0.5), objective.p50),
            (Statistic::Quantile(0.95), objective.p95),
            (Statistic::Quantile(0.99), objective.p99),
            (Statistic::Max, objective.max),
        ];
        let measure = match objective.measure {
            pipeline::Measure::EndToEnd => Measure::EndToEnd { sink: target },
            pipeline::Measure::StepLatency => Measure::StepLatency { step: target },
            pipeline::Measure::Lag => Measure::LagTime { source: target },
            pipeline::Measure::ErrorRate => Measure::ErrorRate { step: target },
        };
        for (statistic, limit) in times {
            if let Some(limit) = limit {
                add(measure.clone(), statistic, limit.ns() as f64 / 1e9);
            }
        }
        if let Some(ratio) = objective.max_ratio {
            add(measure.clone(), Statistic::Ratio, ratio);
        }
        if let (Some(rows), Measure::LagTime { source }) = (objective.max_rows, measure) {
            add(Measure::LagRecords { source }, Statistic::Max, rows as f64);
        }
    }
    configs
}

/// Takes over what connectors count themselves: bytes, retries, queues, breakers.
fn follow_sinks(
    plan: &Plan,
    metrics: &Arc<Metrics>,
    handles: &HashMap<StepId, SharedSink>,
    control: Arc<Control>,
) -> (Arc<AtomicBool>, JoinHandle<()>) {
    let stop = Arc::new(AtomicBool::new(false));
    let sinks: Vec<_> = plan
        .sinks()
        .filter_map(|step| {
            let shown = metrics.sinks().into_iter().find(|sink| sink.name == step.name)?;
            Some((shown, handles.get(&step.id)?.clone()))
        })
        .collect();
    let (stopped, metrics) = (stop.clone(), metrics.clone());
    let thread = std::thread::spawn(move || {
        let mut told: Vec<(u64, u64)> = vec![(0, 0); sinks.len()];
        loop {
            for ((shown, handle), (bytes, retries)) in sinks.iter().zip(&mut told) {
                let guard = handle.lock().unwrap_or_else(PoisonError::into_inner);
                let Some(stats) = guard.as_ref().map(|handle| handle.stats()) else { continue };
                shown.bytes.add(stats.bytes.saturating_sub(*bytes));
                shown.retries.add(stats.retries.saturating_sub(*retries));
                (*bytes, *retries) = (stats.bytes, stats.retries);
                shown.queue_rows.set(stats.queued_rows);
                if let Some(state) = stats.breaker {
                    shown.breaker.set(match state {
                        BreakerState::Closed => metrics::BreakerState::Closed,
                        BreakerState::HalfOpen => metrics::BreakerState::HalfOpen,
                        BreakerState::Open => metrics::BreakerState::Open,
                    });
                }
            }
            if control.stopping() {
                metrics.set_phase(if control.failed() { Phase::Failed } else { Phase::Draining });
            }
            if stopped.load(Ordering::Relaxed) {
                break;
            }
            std::thread::park_timeout(STATS_EVERY);
        }
    });
    (stop, thread)
}
