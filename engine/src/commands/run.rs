//! `engine run FILE`: a plan made to run until its input ends or a signal asks it to stop.
//!
//! Exit codes: 0 the input ended or a signal was obeyed, everything read is acknowledged; 1 the pipeline has problems or
//! stopped for a fault; 2 usage; 70 an operator panicked (a fault of the engine).

use crate::cli::PipelineArgs;
use crate::load::load_plan;
use crate::process;
use crate::runtime::errors_file::ErrorsFile;
use crate::runtime::graph::{GraphShared, SharedSink, build, pruned};
use crate::runtime::state_dir::{Resume, StateDir, lossy_sources};
use crate::runtime::watch::{Instruments, Watch, WatchArgs};
use engine_base::units::parse_duration;
use engine_base::{Clock, StepId, SystemClock};
use engine_connectors::SinkStart;
use engine_dataflow::cuts::Acknowledged;
use engine_dataflow::deliver::SinkShared;
use engine_dataflow::ingest::{Committed, IngestShared};
use engine_dataflow::operate::Room;
use engine_dataflow::operate::StepShared;
use engine_dataflow::{Budget, Control, CutBoard, RecordedCuts, SourceNames};
use engine_plan::plan::{Plan, Role};
use engine_plan::types;
use engine_state::StateMemory;
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Bytes of input in flight where the pipeline does not say.
const IN_FLIGHT_BYTES: u64 = 64 << 20;
/// Age of the oldest unacknowledged epoch where the pipeline does not say, nanoseconds.
const IN_FLIGHT_AGE_NS: u64 = 10_000_000_000;
/// The shortest time between two commits of a cut: an fsync each would be wasted.
const COMMIT_EVERY: Duration = Duration::from_millis(20);
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
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = drain_timeout)]
    drain_timeout: Duration,

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

    if let (Some(step), Some(_)) = (plan.steps.iter().find(|step| step.timed && !step.planned.rebuilds()), &args.state)
    {
        return Err(format!(
            "`{}` keeps its state in memory, and checkpoints are not built yet: with --state, a restart would give other results \
             for want of the rows that it does not read again. Run it without --state; it then reads its input from the start",
            step.name
        ));
    }
    let mut state = args.state.as_deref().map(|path| StateDir::open(path, &plan)).transpose()?;
    let resume = state.as_ref().map(StateDir::resume).unwrap_or_default();
    say_how_it_starts(&plan, &resume, state.is_some());
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
    let handles = open_sinks(&plan, &clock, &resume, begun)?;
    state.as_mut().map_or(Ok(()), |state| state.begin(&plan))?;
    let board = Arc::new(CutBoard::starting_at(resume.acknowledged.clone()));
    if args.record_cuts.is_some() {
        board.record();
    }
    let names = SourceNames::new(plan.sources().map(|step| Arc::from(step.name.as_str())));
    let committed = Arc::new(Committed::default());
    let state_memory = plan.memory_limit.map(|limit| StateMemory::new(limit, &cold_path(&plan, args.state.as_deref())));
    let shared = GraphShared {
        workers: usize::from(args.workers),
        ingest: IngestShared {
            board: board.clone(),
            control: control.clone(),
            clock: clock.clone(),
            budget: budget(&plan),
            in_flight: Arc::default(),
            follow,
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
            board: board.clone(),
            control: control.clone(),
            room: state_memory.clone().map(|memory| Room(Arc::new(move |bytes| memory.charge_fixed(bytes)))),
        },
        sinks: SinkShared {
            control: control.clone(),
            clock: clock.clone(),
            names,
            resume: Arc::new(resume.acknowledged.cut.clone()),
        },
        handles: handles.clone(),
        errors: errors.clone(),
        from: resume.from,
        meters: instruments.meters(&plan),
        errors_meter: instruments.errors_meter(),
        state_memory,
        stand: None,
        clock,
        plan: plan.clone(),
    };
    let watch = Watch::start(&args.watch, &plan, &instruments, &handles, &control)?;

    let (cuts, acknowledged) = channel();
    let committer = state.take().map(|state| {
        let (plan, control, committed) = (plan.clone(), control.clone(), committed.clone());
        std::thread::spawn(move || commit(state, &plan, &acknowledged, &control, &committed))
    });
    let cuts = Mutex::new(Some(cuts));
    let on_cut = move |acknowledged: Acknowledged| {
        if let Some(cuts) = &*cuts.lock().unwrap_or_else(PoisonError::into_inner) {
            // Without a state directory nobody listens.
            let _: Result<(), _> = Sender::send(cuts, acknowledged);
        }
    };
    let outcome = engine_dataflow::run::run(
        usize::from(args.workers),
        &control,
        &board,
        Arc::new(on_cut),
        move |scope, worker| build(&shared, scope, worker),
    );
    // The sender is gone with the dataflow, so the committer has written the last cut when it returns.
    let durable = committer.map_or(Ok(()), |committer| {
        committer.join().unwrap_or_else(|_| Err("the thread that commits cuts panicked".to_owned()))
    });
    let closed = close_sinks(&plan, &handles, &instruments, outcome.is_err());
    if let Some(path) = &args.record_cuts {
        let text = board.recorded().to_text();
        std::fs::write(path, text).map_err(|error| format!("{} can't be written: {error}", path.display()))?;
    }
    watch.finish(&plan, &instruments, &errors, started.elapsed());
    outcome.and(durable).and(closed)
}

/// Writes the latest acknowledged cut, at most once a [`COMMIT_EVERY`]; ends when the dataflow is gone.
fn commit(
    mut state: StateDir,
    plan: &Plan,
    acknowledged: &Receiver<Acknowledged>,
    control: &Control,
    committed: &Committed,
) -> Result<(), String> {
    while let Ok(mut latest) = acknowledged.recv() {
        latest = acknowledged.try_iter().last().unwrap_or(latest);
        if let Err(error) = state.commit(plan, &latest) {
            let reason = format!("the state directory can't be written: {error}");
            control.fail(reason.clone());
            return Err(reason);
        }
        committed.set(latest.cut);
        std::thread::sleep(COMMIT_EVERY);
    }
    Ok(())
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

fn budget_bytes(plan: &Plan) -> u64 {
    plan.max_in_flight.bytes.map_or(IN_FLIGHT_BYTES, |size| size.bytes())
}

fn budget(plan: &Plan) -> Budget {
    let age_ns = plan.max_in_flight.age.map_or(IN_FLIGHT_AGE_NS, |age| age.ns().max(0) as u64);
    Budget { bytes: budget_bytes(plan).max(1), age_ns }
}

fn say_how_it_starts(plan: &Plan, resume: &Resume, has_state: bool) {
    if resume.acknowledged != Acknowledged::default() {
        for (at, step) in plan.sources().enumerate() {
            let id = engine_base::SourceId(at as u16);
            for (partition, mark) in resume.acknowledged.cut.get(&id).into_iter().flatten() {
                let from = resume.from.get(&id).and_then(|marks| marks.get(partition)).map_or(0, |mark| mark.next);
                if from < mark.next {
                    tracing::info!(
                        source = step.name,
                        partition,
                        from,
                        acknowledged = mark.next,
                        "reading again {} records to rebuild state; their output was acknowledged and is dropped",
                        mark.next - from
                    );
                } else {
                    tracing::info!(source = step.name, partition, from, "going on");
                }
            }
        }
    }
    if has_state {
        for source in lossy_sources(plan) {
            tracing::warn!(source, "can't be read again: what is in flight when the engine dies is lost");
        }
    }
}

fn open_sinks(
    plan: &Plan,
    clock: &Arc<dyn Clock>,
    resume: &Resume,
    begun: bool,
) -> Result<HashMap<StepId, SharedSink>, String> {
    let resumed = resume.acknowledged != Acknowledged::default();
    let mut handles = HashMap::new();
    for step in plan.sinks() {
        let entry = engine_connectors::find_sink(step.kind)
            .ok_or_else(|| format!("sink `{}`: no sink of type `{}`", step.name, step.kind))?;
        let input = step.inputs.first().ok_or_else(|| format!("sink `{}` has no input", step.name))?;
        let columns = pruned(plan.step(input.from), input.port);
        let is_changelog = plan.output(*input).stream.kind.is_changelog();
        let start = SinkStart {
            name: step.name.as_str().into(),
            schema: if is_changelog { types::with_change(&columns) } else { columns },
            clock: clock.clone(),
            resumed,
            begun,
            exact: None,
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

/// Reads `--drain-timeout`.
fn drain_timeout(text: &str) -> Result<Duration, String> {
    let ns = parse_duration(text).map_err(|error| format!("{}: {}", error.message, error.help))?;
    u64::try_from(ns).map(Duration::from_nanos).map_err(|_| "a time from zero is due".to_owned())
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
