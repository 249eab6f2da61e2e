//! `engine run FILE`: a plan made to run until its input ends or a signal asks it to stop.
//!
//! Exit codes: 0 the input ended or a signal was obeyed, everything read is acknowledged; 1 the pipeline has problems or
//! stopped for a fault; 2 usage; 70 an operator panicked (a fault of the engine).

use crate::cli::{PipelineArgs, duration};
use crate::load::load_plan;
use crate::process;
use crate::runtime::durable::{
    Parts, Recovered, Running, StateDir, assemble, begin, exact_sinks, lossy_sources, move_on,
};
use crate::runtime::errors_file::ErrorsFile;
use crate::runtime::graph::{GraphShared, SharedSink, build, pruned};
use crate::runtime::watch::{Instruments, Loading, Watch, WatchArgs};
use engine_base::{Clock, StepId, SystemClock};
use engine_connectors::{Exact, SinkStart};
use engine_dataflow::deliver::SinkShared;
use engine_dataflow::ingest::{Committed, IngestShared};
use engine_dataflow::operate::Room;
use engine_dataflow::operate::StepShared;
use engine_dataflow::run;
use engine_dataflow::snapshot::PORTION_BYTES;
use engine_dataflow::{Budget, Control, Cut, CutBoard, RecordedCuts, SourceNames};
use engine_plan::plan::{Plan, Role};
use engine_plan::types;
use engine_state::StateMemory;
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Bytes of input in flight where the pipeline does not say.
const IN_FLIGHT_BYTES: u64 = 64 << 20;
/// Age of the oldest unacknowledged epoch where the pipeline does not say, nanoseconds.
const IN_FLIGHT_AGE_NS: u64 = 10_000_000_000;
/// Signals within this time of the first are the first.
const ONE_SIGNAL: Duration = Duration::from_millis(300);
/// How long sinks may take to close after a drain was given up.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(5);

/// Run a pipeline until its input ends or it is told to stop.
#[derive(Debug, clap::Args)]
pub(crate) struct RunArgs {
    /// The pipeline file.
    file: PathBuf,

    #[command(flatten)]
    pipeline: PipelineArgs,

    /// Worker threads.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=256))]
    workers: u16,

    /// Where the pipeline keeps what a restart needs; without it, sources start where their configuration says.
    #[arg(long, value_name = "DIR")]
    state: Option<PathBuf>,

    /// How long a signal waits for what was read to be acknowledged. What is not by then is given up, and with `--state`
    /// read again at the next start.
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = duration)]
    drain_timeout: Duration,

    /// Lets a sink that delivers exactly once go on from what the journal says, though its system says otherwise: it was
    /// written by another state, or its marks are lost. Rows may come twice.
    #[arg(long = "reset-sink", value_name = "NAME")]
    reset_sinks: Vec<String>,

    /// Lets the state of a step go that changed, or that the pipeline has no longer; the step begins with nothing. One that is as
    /// it was keeps its state, so the flag may stay where it is.
    #[arg(long, value_name = "STEP")]
    rebuild: Vec<String>,

    /// Goes on although the input since the last checkpoint is not what it was when it was read before: a topic that was
    /// compacted, a file that was rewritten.
    #[arg(long)]
    accept_changed_input: bool,

    #[command(flatten)]
    watch: WatchArgs,

    /// Writes where each epoch was cut, for `--follow-cuts`.
    #[arg(long, value_name = "FILE", help_heading = "Reproducing a run")]
    record_cuts: Option<PathBuf>,

    /// Cuts the input where a recorded run did, and ends with the last cut: the same results to the bit, on any number of
    /// workers.
    #[arg(long, value_name = "FILE", help_heading = "Reproducing a run")]
    follow_cuts: Option<PathBuf>,
}

/// Runs the command.
pub(crate) fn run(args: RunArgs) -> ExitCode {
    args.watch.start_logging();
    let Some(plan) = load_plan(&args.file, &args.pipeline, args.watch.logs_json()) else { return ExitCode::from(1) };
    match execute(&args, Arc::new(plan)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(reason) => {
            tracing::error!("{reason}");
            ExitCode::from(1)
        }
    }
}

fn execute(args: &RunArgs, plan: Arc<Plan>) -> Result<(), String> {
    let started = Instant::now();
    let clock = SystemClock::shared();
    let control = Arc::new(Control::default());
    stop_on_signals(&control, args.drain_timeout)?;
    process::exit_on_panic();
    process::survive_file_size_limit();
    if process::stdout_is_closed()
        && let Some(step) = plan.sinks().find(|step| step.kind == "stdout")
    {
        return Err(format!("sink `{}`: standard output is closed", step.name));
    }

    if let (Some(step), None) = (exact_sinks(&plan).next(), &args.state) {
        return Err(format!(
            "sink `{}` delivers exactly once, which needs a state directory: say where it is with --state DIR",
            step.name
        ));
    }
    if let (Some((sink, step)), true) = (behind_failures(&plan), args.state.is_some()) {
        return Err(format!(
            "step `{step}` keeps state of the rows that sink `{sink}` could not deliver, and those of a sink that delivers at least \
             once can't be told again after a crash: give the sink `delivery: exactly_once`, or let no step with state read its errors"
        ));
    }
    if args.follow_cuts.is_some() && args.state.is_some() {
        return Err(
            "--follow-cuts makes a run again from the beginning, and --state goes on: give one of the two".to_owned()
        );
    }
    let mut state = args.state.as_deref().map(|path| StateDir::open(path, &plan)).transpose()?;
    let mut recovered = state.as_mut().map(|state| state.recover(&plan, &args.rebuild)).transpose()?;
    say_how_it_starts(&plan, recovered.as_ref());
    let follow = args.follow_cuts.as_ref().map(|path| {
        let text = std::fs::read_to_string(path).map_err(|error| error.to_string());
        text.and_then(|text| RecordedCuts::from_text(&text))
            .map_err(|error| format!("the cuts in {} can't be followed: {error}", path.display()))
    });
    let follow = follow.transpose()?.map(Arc::new);

    let errors_path = match &state {
        Some(state) => state.errors_path(),
        None => PathBuf::from(".engine").join(&plan.name).join("errors.jsonl"),
    };
    let begun = state.as_ref().is_some_and(StateDir::begun);
    let errors = ErrorsFile::new(errors_path, state.is_some());
    let instruments = Instruments::new(&plan, usize::from(args.workers), budget_bytes(&plan), clock.clone());
    let handles = open_sinks(&plan, &clock, recovered.as_ref(), begun, &args.reset_sinks)?;
    if let (Some(state), Some(recovered)) = (&mut state, &mut recovered) {
        begin(state, recovered, &plan, &handles)?;
    }
    let board = Arc::new(CutBoard::default());
    if args.record_cuts.is_some() {
        board.record();
    }
    let removes = plan.sources().any(|step| step.planned.removes());
    if state.is_some() || removes {
        board.watch();
    }
    let names = SourceNames::new(plan.sources().map(|step| Arc::from(step.name.as_str())));
    let committed = Arc::new(Committed::default());
    let state_memory = plan.memory_limit.map(|limit| StateMemory::new(limit, &cold_path(&plan, args.state.as_deref())));
    let workers = usize::from(args.workers);
    let first = recovered.as_ref().map_or(0, |recovered| recovered.first());
    let done = recovered.as_ref().and_then(|recovered| recovered.done);
    let loads = recovered.as_ref().and_then(Recovered::bytes);
    let then_live = follow.is_none();
    let follow = follow.or_else(|| recovered.as_ref().map(|recovered| Arc::new(recovered.tail.clone())));
    let running = match (state, recovered) {
        (Some(state), Some(recovered)) => {
            let parts = Parts {
                plan: &plan,
                workers,
                board: &board,
                control: &control,
                committed: &committed,
                clock: &clock,
                portion_bytes: PORTION_BYTES,
            };
            let (durable, works) = assemble(state, recovered, parts);
            Some((durable, works.start()?))
        }
        _ => None,
    };
    let (durable, running) = running.unzip();
    let snapshots = running.as_ref().map(|running| running.snapshots.clone());
    let shared = GraphShared {
        workers,
        ingest: IngestShared {
            board: board.clone(),
            control: control.clone(),
            clock: clock.clone(),
            budget: budget(&plan),
            in_flight: Arc::default(),
            follow,
            then_live,
            first,
            snapshots: snapshots.clone(),
            accept_changed_input: args.accept_changed_input,
            names: names.clone(),
            committed: committed.clone(),
            pulse: instruments.clone(),
            waiting_for_time: Arc::default(),
            align_ns: plan.align_ns,
            ticks_ns: plan.steps.iter().filter_map(|step| step.planned.ticks_ns()).collect(),
        },
        steps: StepShared {
            clock: clock.clone(),
            names: names.clone(),
            control: control.clone(),
            room: state_memory.clone().map(|memory| Room(Arc::new(move |bytes| memory.charge_fixed(bytes)))),
            snapshots: snapshots.clone(),
        },
        sinks: SinkShared { control: control.clone(), clock: clock.clone(), names, acknowledged: done },
        handles: handles.clone(),
        errors: errors.clone(),
        from: durable.as_ref().map(|durable| durable.recovered.from.clone()).unwrap_or_default(),
        meters: instruments.meters(&plan),
        errors_meter: instruments.errors_meter(),
        state_memory,
        start_source: Arc::new(engine_connectors::start_source),
        stand: None,
        durable,
        clock,
        plan: plan.clone(),
    };
    let watch = Watch::start(&args.watch, &plan, &instruments, &handles, &control)?;

    let watcher: Arc<dyn run::Watch> = match &running {
        Some(running) => running.watcher.clone(),
        None if removes => {
            Arc::new(Telling { board: board.clone(), committed: committed.clone(), cut: Mutex::default() })
        }
        None => Arc::new(run::Unwatched),
    };
    let loading = Loading::begin(workers, loads, &instruments, &control);
    let outcome = run::run(workers, &control, watcher, snapshots, move |scope, worker| {
        let built = build(&shared, scope, worker);
        loading.built();
        built
    });
    // The next engine is let in when sinks and sources are closed too.
    let (durable, _closing) = running.map(Running::finish).unzip();
    let durable = durable.unwrap_or(Ok(()));
    let closed = close_sinks(&plan, &handles, &instruments, outcome.is_err());
    if let Some(path) = &args.record_cuts {
        let text = board.recorded().to_text();
        std::fs::write(path, text).map_err(|error| format!("{} can't be written: {error}", path.display()))?;
    }
    let removed = committed.finish();
    watch.finish(&plan, &instruments, &errors, started.elapsed());
    outcome.and(durable).and(closed).and(removed)
}

/// Of a run without a state directory: tells sources what every sink has acknowledged, which nobody will ask for again.
struct Telling {
    board: Arc<CutBoard>,
    committed: Arc<Committed>,
    cut: Mutex<Cut>,
}

impl run::Watch for Telling {
    fn progress(&self, progress: run::Progress) {
        let mut cut = self.cut.lock().unwrap_or_else(PoisonError::into_inner);
        self.board.take_starts();
        for closed in self.board.take(progress.done) {
            move_on(&mut cut, &closed.cut);
        }
        self.committed.set(cut.clone());
        self.committed.release(cut.clone());
    }
}

/// Where state goes for which there is no room in memory. What runs that were killed have left there goes first.
fn cold_path(plan: &Plan, state: Option<&Path>) -> PathBuf {
    if let Some(state) = state {
        return state.join("cold");
    }
    let folder = PathBuf::from(".engine").join(&plan.name);
    const NAME: &str = "cold-";
    for entry in std::fs::read_dir(&folder).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let process = name.to_str().and_then(|name| name.strip_prefix(NAME)?.parse::<u32>().ok());
        if process.is_some_and(|process| !Path::new("/proc").join(process.to_string()).exists())
            && Path::new("/proc/self").exists()
        {
            let _ = std::fs::remove_dir_all(entry.path());
        }
    }
    folder.join(format!("{NAME}{}", std::process::id()))
}

/// A sink that delivers at least once, and a step that keeps state of its failed rows.
fn behind_failures(plan: &Plan) -> Option<(&str, &str)> {
    let mut of: BTreeMap<StepId, &str> = BTreeMap::new();
    for step in &plan.steps {
        let found = step.inputs.iter().find_map(|edge| match plan.step(edge.from) {
            sink if matches!(sink.role, Role::Sink { exact: None, .. }) => Some(&*sink.name),
            before => of.get(&before.id).copied(),
        });
        let Some(sink) = found else { continue };
        if matches!(step.role, Role::Operator) && !step.is_row_wise() {
            return Some((sink, &step.name));
        }
        of.insert(step.id, sink);
    }
    None
}

fn budget_bytes(plan: &Plan) -> u64 {
    plan.max_in_flight.bytes.map_or(IN_FLIGHT_BYTES, |size| size.bytes())
}

fn budget(plan: &Plan) -> Budget {
    let age_ns = plan.max_in_flight.age.map_or(IN_FLIGHT_AGE_NS, |age| age.ns().max(0) as u64);
    Budget { bytes: budget_bytes(plan).max(1), age_ns }
}

fn say_how_it_starts(plan: &Plan, recovered: Option<&Recovered>) {
    let Some(recovered) = recovered else { return };
    for source in lossy_sources(plan) {
        tracing::warn!(source, "can't be read again: what is in flight when the engine dies is lost");
    }
    for (at, step) in plan.sources().enumerate() {
        let id = engine_base::SourceId(at as u16);
        for (partition, mark) in recovered.from.get(&id).into_iter().flatten() {
            let places = recovered.tail.epochs.iter().filter_map(|(_, cut)| cut.get(&(id, *partition)));
            let tail = places.max().map_or(0, |next| next.saturating_sub(mark.next));
            tracing::info!(source = step.name, partition, from = mark.next, replayed = tail, "going on");
        }
    }
    if !recovered.tail.epochs.is_empty() {
        tracing::info!(
            epochs = recovered.tail.epochs.len(),
            "replaying what came after the last checkpoint; its committed output is not put out again"
        );
    }
    let outstanding = recovered.outstanding();
    if outstanding > 0 {
        tracing::info!(rows = outstanding, "rows were committed and perhaps not delivered: their sinks are asked");
    }
}

fn open_sinks(
    plan: &Plan,
    clock: &Arc<dyn Clock>,
    recovered: Option<&Recovered>,
    begun: bool,
    reset: &[String],
) -> Result<HashMap<StepId, SharedSink>, String> {
    if let Some(name) = reset.iter().find(|name| !exact_sinks(plan).any(|step| step.name == **name)) {
        return Err(format!("--reset-sink {name}: the pipeline has no sink of that name that delivers exactly once"));
    }
    let resumed = recovered.is_some_and(|recovered| recovered.committed.is_some());
    let mut handles = HashMap::new();
    for step in plan.sinks() {
        let entry = engine_connectors::find_sink(step.kind)
            .ok_or_else(|| format!("sink `{}`: no sink of type `{}`", step.name, step.kind))?;
        let input = step.inputs.first().ok_or_else(|| format!("sink `{}` has no input", step.name))?;
        let columns = pruned(plan.step(input.from), input.port);
        let is_changelog = plan.output(*input).stream.kind.is_changelog();
        let exact = recovered.and_then(|recovered| recovered.exact.get(&step.name).cloned());
        let start = SinkStart {
            name: step.name.as_str().into(),
            schema: if is_changelog { types::with_change(&columns) } else { columns },
            clock: clock.clone(),
            resumed,
            begun,
            exact: exact.map(|exact| Exact { reset: reset.contains(&step.name), ..exact }),
        };
        let handle = (entry.open)(&*step.planned, start).map_err(|error| format!("sink `{}`: {error}", step.name))?;
        handles.insert(step.id, Arc::new(Mutex::new(Some(handle))));
    }
    Ok(handles)
}

/// Closes the sinks. After a fault nobody heard what systems took last, so the summary goes by the sinks' own figures.
fn close_sinks(
    plan: &Plan,
    handles: &HashMap<StepId, SharedSink>,
    instruments: &Instruments,
    faulted: bool,
) -> Result<(), String> {
    let mut outcome = Ok(());
    for step in plan.steps.iter().filter(|step| matches!(step.role, Role::Sink { .. })) {
        let handle =
            handles.get(&step.id).and_then(|handle| handle.lock().unwrap_or_else(PoisonError::into_inner).take());
        match handle.map(|handle| handle.close()) {
            Some(Ok(stats)) if faulted => instruments.taken(&step.name, stats.rows),
            Some(Err(error)) => outcome = outcome.and(Err(format!("sink `{}`: {error}", step.name))),
            _ => {}
        }
    }
    outcome
}

/// The first SIGINT or SIGTERM stops reading and lets what was read finish, for as long as `drain`; the second ends the
/// process.
fn stop_on_signals(control: &Arc<Control>, drain: Duration) -> Result<(), String> {
    let mut signals = Signals::new([SIGINT, SIGTERM]).map_err(|error| format!("signals can't be handled: {error}"))?;
    let control = control.clone();
    std::thread::spawn(move || {
        let mut asked: Option<Instant> = None;
        for signal in signals.forever() {
            match asked {
                // A terminal and a supervisor may each send one.
                Some(first) if first.elapsed() < ONE_SIGNAL => continue,
                Some(_) => std::process::exit(128 + signal),
                None => asked = Some(Instant::now()),
            }
            tracing::info!("stopping: finishing what was read; a second signal ends at once");
            control.stop();
            let control = control.clone();
            std::thread::spawn(move || give_up_draining(&control, drain));
        }
    });
    Ok(())
}

/// Ends a run that can't finish what it read, because a sink's system does not answer.
fn give_up_draining(control: &Control, drain: Duration) {
    std::thread::sleep(drain);
    control.fail(format!(
        "stopped {drain:?} after the signal with rows that a sink's system has not taken; \
         with `--state` they are read again at the next start (`--drain-timeout` says how long to wait)"
    ));
    std::thread::sleep(CLOSE_TIMEOUT);
    tracing::error!("a sink can't be closed: ending without it");
    std::process::exit(1);
}
