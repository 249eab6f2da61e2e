//! A case on its bench: the dataflow of its plan, fed by the script, on some workers.

use super::case::Case;
use super::compare::{Difference, compare};
use super::rows::cells;
use crate::runtime::errors_file::ErrorsFile;
use crate::runtime::given::GivenRows;
use crate::runtime::graph::{GraphShared, Stand, build};
use arrow::array::AsArray;
use engine_base::{Clock, SourceId, StepId, SystemClock};
use engine_dataflow::capture::Captured;
use engine_dataflow::deliver::SinkShared;
use engine_dataflow::ingest::{Committed, IngestShared};
use engine_dataflow::operate::Room;
use engine_dataflow::operate::StepShared;
use engine_dataflow::rows::RowPosition;
use engine_dataflow::run;
use engine_dataflow::{Budget, Control, Cut, CutBoard, Meter, Reader, Rows, SourceNames, Unmetered};
use engine_plan::Plan;
use engine_state::StateMemory;
use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How a case is run.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Setting {
    pub(crate) workers: usize,
    /// Cut rows into batches and epochs at random places.
    pub(crate) seed: Option<u64>,
}

/// What came of a case.
pub(crate) struct Outcome {
    /// Where it is not as expected.
    pub(crate) differences: Vec<Difference>,
    /// Rows that failed, and nobody asked for.
    pub(crate) failed_rows: Vec<String>,
    /// Why the pipeline stopped.
    pub(crate) stopped: Option<String>,
    pub(crate) took: Duration,
}

impl Outcome {
    /// Whether all was as expected.
    pub(crate) fn passed(&self) -> bool {
        self.differences.is_empty() && self.stopped.is_none()
    }
}

/// Runs a case.
pub(crate) fn run(case: &Case, setting: Setting) -> Outcome {
    let started = Instant::now();
    let table = case.script.timetable(setting.seed);
    let sinks: HashMap<StepId, Arc<Captured>> =
        case.expects.iter().map(|expect| (expect.end, Arc::new(Captured::default()))).collect();
    let errors = Arc::new(Captured::default());
    let stand = Stand { sinks: sinks.clone(), errors: errors.clone() };
    let follow = (!table.cuts.epochs.is_empty()).then(|| Arc::new(table.cuts));
    let stopped = match follow {
        Some(follow) => flow(&case.plan, setting.workers, table.given, stand, follow).err(),
        None => None,
    };
    let came: HashMap<StepId, Vec<(u64, Vec<String>)>> =
        sinks.into_iter().map(|(end, captured)| (end, in_order(captured.take()))).collect();
    let mut seen: HashMap<StepId, u64> = HashMap::new();
    let mut differences = Vec::new();
    for (at, expect) in case.expects.iter().enumerate() {
        let until = table.after[expect.act];
        let from = seen.insert(expect.end, until).unwrap_or(0);
        let rows = came.get(&expect.end).into_iter().flatten();
        let rows = rows.filter(|(epoch, _)| (from..until).contains(epoch)).map(|(_, cells)| cells.clone());
        let rows: Vec<Vec<String>> = rows.collect();
        let rows = if expect.changelog { net(rows) } else { rows };
        differences.extend(compare(at, expect, rows));
    }
    Outcome { differences, failed_rows: failed_rows(errors.take()), stopped, took: started.elapsed() }
}

/// Rows in the order of their epochs and positions, whatever worker had them.
fn in_order(captured: Vec<(u64, Rows)>) -> Vec<(u64, Vec<String>)> {
    let mut all: Vec<(u64, RowPosition, Vec<String>)> = Vec::new();
    for (epoch, rows) in captured {
        let cells = cells(&rows.batch);
        all.extend(cells.into_iter().enumerate().map(|(row, cells)| (epoch, rows.position(row), cells)));
    }
    // Stable: what has one position stays in the order in which it came.
    all.sort_by(|a, b| (a.0, &a.1).cmp(&(b.0, &b.1)));
    all.into_iter().map(|(epoch, _, cells)| (epoch, cells)).collect()
}

/// What changed over all, however it was cut into epochs: rows that go, then rows that come. The first cell of each says which.
fn net(rows: Vec<Vec<String>>) -> Vec<Vec<String>> {
    const DELETE: &str = "\"delete\"";
    const INSERT: &str = "\"insert\"";
    let mut counts: BTreeMap<Vec<String>, i64> = BTreeMap::new();
    for mut row in rows {
        let removes = row.remove(0) == DELETE;
        *counts.entry(row).or_default() += if removes { -1 } else { 1 };
    }
    let some = |change: &'static str, sign: i64| {
        counts.iter().flat_map(move |(row, count)| {
            let row = std::iter::once(change.to_owned()).chain(row.iter().cloned()).collect();
            std::iter::repeat_n(row, usize::try_from(count * sign).unwrap_or(0))
        })
    };
    some(DELETE, -1).chain(some(INSERT, 1)).collect()
}

fn failed_rows(captured: Vec<(u64, Rows)>) -> Vec<String> {
    let mut all = Vec::new();
    for (_, rows) in captured {
        let text = |name: &str, row: usize| {
            let column = rows.batch.column_by_name(name).map(|column| column.as_string::<i32>());
            column.map_or_else(String::new, |column| column.value(row).to_owned())
        };
        for row in 0..rows.num_rows() {
            all.push(format!("{}: {}: {}", text("step", row), text("reason", row), text("payload", row)));
        }
    }
    all
}

/// Runs the dataflow to the end of the cuts.
fn flow(
    plan: &Arc<Plan>,
    workers: usize,
    given: HashMap<SourceId, Vec<Rows>>,
    stand: Stand,
    follow: Arc<engine_dataflow::RecordedCuts>,
) -> Result<(), String> {
    let clock: Arc<dyn Clock> = SystemClock::shared();
    let control = Arc::new(Control::default());
    let board = Arc::new(CutBoard::default());
    let names = SourceNames::new(plan.sources().map(|step| Arc::from(step.name.as_str())));
    let unmetered = || Arc::new(Unmetered) as Arc<dyn Meter>;
    let state_memory = plan
        .memory_limit
        .map(|limit| StateMemory::with_store(limit, Arc::new(engine_state::cold::MemoryCold::default())));
    let shared = GraphShared {
        workers,
        ingest: IngestShared {
            board: board.clone(),
            control: control.clone(),
            clock: clock.clone(),
            budget: Budget { bytes: u64::MAX, age_ns: u64::MAX },
            in_flight: Arc::default(),
            follow: Some(follow),
            then_live: false,
            first: 0,
            snapshots: None,
            accept_changed_input: false,
            names: names.clone(),
            committed: Arc::new(Committed::default()),
            pulse: Arc::new(Unmetered),
            waiting_for_time: Arc::default(),
            align_ns: None,
            ticks_ns: Vec::new(),
        },
        steps: StepShared {
            clock: clock.clone(),
            names: names.clone(),
            control: control.clone(),
            room: state_memory.clone().map(|memory| Room(Arc::new(move |bytes| memory.charge_fixed(bytes)))),
            snapshots: None,
        },
        sinks: SinkShared { control: control.clone(), clock: clock.clone(), names, acknowledged: None },
        handles: HashMap::new(),
        errors: ErrorsFile::new(PathBuf::new(), false),
        from: Cut::new(),
        meters: plan.steps.iter().map(|_| unmetered()).collect(),
        errors_meter: unmetered(),
        state_memory,
        clock,
        plan: plan.clone(),
        start_source: Arc::new(move |_, _, start| {
            let rows = given.get(&start.source).filter(|_| start.owns_single_partition());
            Ok(rows.map(|rows| Box::new(GivenRows::new(rows.clone())) as Box<dyn Reader>))
        }),
        stand: Some(Arc::new(stand)),
        durable: None,
    };
    run::run(workers, &control, Arc::new(run::Unwatched), None, move |scope, worker| build(&shared, scope, worker))
}
