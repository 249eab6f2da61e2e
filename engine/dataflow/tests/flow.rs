//! Whole dataflows over readers, steps and writers of the tests' own: what every pipeline rests on.

use arrow::array::{ArrayRef, AsArray, Int64Array, RecordBatch};
use arrow::datatypes::Int64Type;
use engine_base::{RowError, SourceId, SystemClock};
use engine_dataflow::deliver::{SinkShared, deliver};
use engine_dataflow::ingest::{Committed, IngestShared, Ingested, SourceInput, ingest};
use engine_dataflow::operate::{ChainStep, KeyedInput, KeyedTime, StepShared, chain, keyed};
use engine_dataflow::run::{Built, Progress, Watch, run};
use engine_dataflow::snapshot::Participants;
use engine_dataflow::watermark::{InputTime, TimePolicy};
use engine_dataflow::{
    Acknowledged, Budget, Control, CutBoard, EpochStep, ErrorRow, Mark, Marks, Moment, Polled, Positions, Reader,
    RecordedCuts, RowPosition, RowStep, Rows, SourceNames, SourceRows, StepOutput, Times, Unmetered, Waker, Writer,
};
use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use timely::dataflow::operators::Concatenate;

/// Partitions `p` with `p % workers == worker`; row `n` of partition `p` has key `(n * 7 + p) % 13` and value `n`.
struct Numbers {
    source: SourceId,
    next: BTreeMap<u32, u64>,
    rows: u64,
    batch: u64,
    /// Polls that give nothing in between, so that workers run at different speeds.
    rest: u32,
    resting: u32,
    waker: Waker,
}

impl Reader for Numbers {
    fn poll(&mut self, _max_bytes: usize, until: Option<&BTreeMap<u32, u64>>) -> Polled {
        if self.resting > 0 {
            self.resting -= 1;
            self.waker.wake();
            return Polled::Pending;
        }
        self.resting = self.rest;
        let mut given = SourceRows::default();
        let mut ended = true;
        for (partition, next) in &mut self.next {
            let limit = until.map_or(self.rows, |until| until.get(partition).copied().unwrap_or(*next));
            ended &= *next >= self.rows;
            let end = (*next + self.batch).min(limit).min(self.rows);
            if *next >= end {
                continue;
            }
            let keys =
                Int64Array::from_iter_values((*next..end).map(|n| ((n * 7 + u64::from(*partition)) % 13) as i64));
            let values = Int64Array::from_iter_values((*next..end).map(|n| n as i64));
            let batch = RecordBatch::try_from_iter([
                ("key", Arc::new(keys) as ArrayRef),
                ("value", Arc::new(values) as ArrayRef),
            ])
            .unwrap();
            given.bytes += (end - *next) * 16;
            given.records += end - *next;
            given.rows.push(Rows {
                batch,
                positions: Positions::Range {
                    origin: engine_dataflow::rows::origin(self.source, *partition),
                    first: *next,
                },
                ingest_ns: Times::One(1),
                born_ns: Times::One(1),
                event_ns: Some(Times::Each((*next..end).map(|n| n as i64).collect())),
                removes: None,
            });
            *next = end;
        }
        if !given.rows.is_empty() {
            Polled::Some(given)
        } else if ended {
            Polled::Done
        } else {
            Polled::Pending
        }
    }

    fn marks(&self) -> Marks {
        self.next.iter().map(|(partition, next)| (*partition, Mark { next: *next, detail: String::new() })).collect()
    }
}

/// Fails every row whose value is a multiple of 100.
struct FailHundreds;

impl RowStep for FailHundreds {
    fn step(&mut self, rows: Rows, out: &mut StepOutput) {
        let values = rows.batch.column(1).as_primitive::<Int64Type>().clone();
        let good = (0..rows.num_rows()).map(|row| Some(values.value(row) % 100 != 0)).collect();
        for row in (0..rows.num_rows()).filter(|row| values.value(*row) % 100 == 0) {
            out.errors.push(ErrorRow {
                step: "hundreds".into(),
                error: RowError::new("hundred", "a multiple of 100"),
                payload: Vec::new(),
                position: rows.position(row),
                ingest_ns: 1,
            });
        }
        out.give(0, rows.filter(&good));
    }
}

/// Puts out each row with the running hash of all values of its key: any change of order shows.
#[derive(Default)]
struct Order(HashMap<i64, i64>);

impl EpochStep for Order {
    fn close(&mut self, _moment: &Moment, inputs: Vec<Vec<Rows>>, out: &mut StepOutput) {
        for rows in inputs.into_iter().flatten() {
            let keys = rows.batch.column(0).as_primitive::<Int64Type>();
            let values = rows.batch.column(1).as_primitive::<Int64Type>();
            let hashes = Int64Array::from_iter_values((0..rows.num_rows()).map(|row| {
                let hash = self.0.entry(keys.value(row)).or_default();
                *hash = hash
                    .wrapping_mul(31)
                    .wrapping_add(values.value(row))
                    .wrapping_add(rows.positions.source(row).0 as i64);
                *hash
            }));
            let batch = RecordBatch::try_from_iter([
                ("key", rows.batch.column(0).clone()),
                ("value", rows.batch.column(1).clone()),
                ("hash", Arc::new(hashes) as ArrayRef),
            ])
            .unwrap();
            out.give(0, rows.with_batch(batch));
        }
    }
}

type Collected = Arc<Mutex<Vec<(RowPosition, i64)>>>;

/// Keeps the last column by position; acknowledges `delay` calls later; takes at most `room` batches at a time.
struct Collect {
    rows: Collected,
    waiting: Vec<u64>,
    done: u64,
    delay: u32,
    room: usize,
    waker: Waker,
    unacknowledged: Arc<AtomicU64>,
}

impl Writer for Collect {
    fn write(&mut self, rows: Rows, ticket: u64) -> Result<(), Rows> {
        if self.waiting.len() >= self.room {
            return Err(rows);
        }
        let last = rows.batch.columns().last().and_then(|column| column.as_primitive_opt::<Int64Type>().cloned());
        let mut kept = self.rows.lock().unwrap();
        for row in 0..rows.num_rows() {
            kept.push((rows.position(row), last.as_ref().map_or(0, |column| column.value(row))));
        }
        self.unacknowledged.fetch_add(1, Ordering::Relaxed);
        self.waiting.push(ticket);
        Ok(())
    }

    fn acknowledged(&mut self) -> Acknowledged {
        if self.delay > 0 && !self.waiting.is_empty() {
            self.delay -= 1;
            self.waker.wake();
        } else if let Some(last) = self.waiting.drain(..).next_back() {
            self.done = last;
        }
        Acknowledged { up_to: self.done, ..Acknowledged::default() }
    }

    fn flush(&mut self) {}
}

struct Outcome {
    rows: BTreeMap<RowPosition, i64>,
    errors: BTreeMap<RowPosition, i64>,
    cuts: RecordedCuts,
    last_cut: BTreeMap<(SourceId, u32), u64>,
    moments: BTreeMap<u64, (Option<i64>, Option<i64>)>,
}

/// By epoch, the watermark before it and the one at its close.
type Moments = Arc<Mutex<BTreeMap<u64, (Option<i64>, Option<i64>)>>>;

/// Notes what each epoch's close says of event time, the same on all workers, and that no row comes too late.
struct Noted(Moments, Option<i64>);

impl EpochStep for Noted {
    fn close(&mut self, moment: &Moment, inputs: Vec<Vec<Rows>>, _out: &mut StepOutput) {
        let (late, watermark) = (moment.late_ns[0], moment.watermark_ns[0]);
        assert!(late <= watermark, "{late:?} {watermark:?}");
        for rows in inputs.iter().flatten() {
            for row in 0..rows.num_rows() {
                let time = rows.event_ns.as_ref().unwrap().get(row);
                assert!(late.is_none_or(|late| late <= time), "{time} is late by {late:?}");
                if let (Some(apart), Some(watermark)) = (self.1, watermark) {
                    assert!(time <= watermark.saturating_add(apart), "{time} is far ahead of {watermark}");
                }
            }
        }
        if late != watermark {
            let known = self.0.lock().unwrap().insert(moment.epoch.0, (late, watermark));
            assert!(known.is_none_or(|known| known == (late, watermark)), "workers differ at {}", moment.epoch);
        }
    }
}

/// The last cut that all sinks have acknowledged.
struct Cuts {
    board: Arc<CutBoard>,
    last: Mutex<BTreeMap<(SourceId, u32), u64>>,
}

impl Watch for Cuts {
    fn progress(&self, progress: Progress) {
        for closed in self.board.take(progress.done) {
            for (source, marks) in closed.cut {
                for (partition, mark) in marks {
                    let before = self.last.lock().unwrap().insert((source, partition), mark.next);
                    assert!(before.is_none_or(|before| before <= mark.next), "cuts only move on");
                }
            }
        }
    }
}

struct Setup {
    workers: usize,
    batch: u64,
    rows: u64,
    partitions: u32,
    follow: Option<RecordedCuts>,
    budget: u64,
    delay: u32,
    align_ns: Option<i64>,
}

fn check(setup: Setup) -> Outcome {
    let board = Arc::new(CutBoard::default());
    board.record();
    let control = Arc::new(Control::default());
    let clock = SystemClock::shared();
    let names = SourceNames::new(["numbers".into()]);
    let shared = IngestShared {
        board: board.clone(),
        control: control.clone(),
        clock: clock.clone(),
        budget: Budget { bytes: setup.budget, age_ns: u64::MAX },
        in_flight: Arc::default(),
        follow: setup.follow.map(Arc::new),
        then_live: false,
        first: 0,
        snapshots: None,
        accept_changed_input: false,
        names: names.clone(),
        committed: Arc::new(Committed::default()),
        pulse: Arc::new(Unmetered),
        waiting_for_time: Arc::default(),
        align_ns: setup.align_ns,
        ticks_ns: Vec::new(),
    };
    let steps = StepShared {
        clock: clock.clone(),
        names: names.clone(),
        control: control.clone(),
        room: None,
        snapshots: None,
    };
    let sinks = SinkShared { control: control.clone(), clock, names, acknowledged: None };
    let (good, bad): (Collected, Collected) = Default::default();
    board.watch();
    let last_cut: Arc<Cuts> = Arc::new(Cuts { board: board.clone(), last: Mutex::default() });
    let moments = Moments::default();
    let (kept, failed, noted, told) = (good.clone(), bad.clone(), last_cut.clone(), moments.clone());
    let workers = setup.workers;
    let (batch, rows, partitions, delay) = (setup.batch, setup.rows, setup.partitions, setup.delay);
    run(workers, &control, noted, None, move |scope, worker| {
        let nobody = Participants::default();
        let source = SourceInput {
            name: "numbers".into(),
            id: SourceId(0),
            open: Box::new(move |waker| {
                let mine = (0..partitions).filter(|partition| *partition as usize % workers == worker);
                let next: BTreeMap<u32, u64> = mine.map(|partition| (partition, 0)).collect();
                let rest = worker as u32 * 3;
                Ok(Some(Box::new(Numbers { source: SourceId(0), next, rows, batch, rest, resting: 0, waker })))
            }),
            meter: Arc::new(Unmetered),
            steps: Vec::new(),
            time: Some(TimePolicy { max_delay_ns: 3, idle_after_ns: u64::MAX }),
            reached_ns: BTreeMap::new(),
        };
        let Ingested { rows, errors, flight, activator, statements, .. } = ingest(scope, vec![source], &shared, &steps);
        let input = scope.concatenate(rows);
        let hundreds = ChainStep {
            name: "hundreds".into(),
            step: Box::new(FailHundreds),
            side_ports: 0,
            meter: Arc::new(Unmetered),
        };
        let chained = chain(input, vec![hundreds], &steps);
        let timed = KeyedInput { stream: chained.main.clone(), key: vec!["key".into()] };
        let time = KeyedTime {
            statements,
            sources: 1,
            inputs: vec![InputTime { sources: vec![(0, 10)], max_delay_ns: 0 }],
            reached: Vec::new(),
        };
        let noted = Box::new(Noted(told.clone(), setup.align_ns.map(|align_ns| align_ns + 3 + 10 + 200)));
        let noted = keyed(scope, "noted", vec![timed], Some(time), 1, noted, Arc::new(Unmetered), &steps, &nobody);
        let by_key = KeyedInput { stream: chained.main, key: vec!["key".into()] };
        let step = Box::<Order>::default();
        let ordered = keyed(scope, "order", vec![by_key], None, 1, step, Arc::new(Unmetered), &steps, &nobody);
        let mut all_errors = errors;
        all_errors.extend(chained.errors);
        all_errors.push(ordered.errors);
        let collect = |to: &Collected| {
            let to = to.clone();
            Box::new(move |waker| {
                let writer = Collect {
                    rows: to,
                    waiting: Vec::new(),
                    done: 0,
                    delay,
                    room: 2,
                    waker,
                    unacknowledged: Arc::default(),
                };
                Ok(Box::new(writer) as Box<dyn Writer>)
            })
        };
        let mut done = vec![noted.errors];
        done.extend(noted.ports);
        for (streams, to) in [(ordered.ports, &kept), (all_errors, &failed)] {
            let out = deliver(scope.concatenate(streams), "collect", collect(to), Arc::new(Unmetered), &sinks);
            done.extend([out.done, out.errors]);
        }
        Built { done, reached: Vec::new(), participants: nobody, flight, activator }
    })
    .unwrap();
    let once = |rows: &Collected| {
        let rows = rows.lock().unwrap();
        let map: BTreeMap<RowPosition, i64> = rows.iter().cloned().collect();
        assert_eq!(map.len(), rows.len(), "each row comes out once");
        map
    };
    let last = last_cut.last.lock().unwrap().clone();
    Outcome {
        rows: once(&good),
        errors: once(&bad),
        cuts: board.recorded(),
        last_cut: last,
        moments: moments.lock().unwrap().clone(),
    }
}

const SETUP: Setup = Setup {
    workers: 1,
    batch: 37,
    rows: 5000,
    partitions: 3,
    follow: None,
    budget: u64::MAX,
    delay: 0,
    align_ns: None,
};

#[test]
fn every_row_comes_out_once_and_the_last_cut_is_the_end() {
    for workers in 1..=4 {
        let outcome = check(Setup { workers, delay: 3, ..SETUP });
        assert_eq!(outcome.errors.len(), 150);
        assert_eq!(outcome.rows.len(), 15_000 - 150);
        assert_eq!(outcome.last_cut, (0..3).map(|p| ((SourceId(0), p), 5000)).collect());
        let reached = outcome.moments.values().last().unwrap();
        assert_eq!(reached.1, Some(i64::MAX), "the input has ended");
    }
}

#[test]
fn the_same_cuts_give_the_same_results_on_any_number_of_workers_and_with_any_batches() {
    let first = check(Setup { workers: 2, batch: 2, ..SETUP });
    assert!(first.cuts.epochs.len() > 2, "{} epochs", first.cuts.epochs.len());
    for (workers, batch) in [(1, 1), (1, 1000), (2, 11), (3, 64), (4, 5)] {
        let again = check(Setup { workers, batch, follow: Some(first.cuts.clone()), ..SETUP });
        assert_eq!(again.rows, first.rows, "{workers} workers, batches of {batch}");
        assert_eq!(again.errors.len(), first.errors.len());
        assert_eq!(again.moments, first.moments, "{workers} workers, batches of {batch}");
        assert_eq!(again.cuts.times, first.cuts.times, "{workers} workers, batches of {batch}");
    }
}

#[test]
fn a_share_that_is_ahead_waits_for_the_others() {
    // Worker 1 reads every fourth time only. `Noted` holds every row against the watermark of its epoch.
    for align_ns in [20, 200] {
        let outcome = check(Setup { workers: 2, batch: 2, align_ns: Some(align_ns), ..SETUP });
        assert!(outcome.rows.keys().eq(check(SETUP).rows.keys()));
    }
}

#[test]
fn a_small_budget_and_a_slow_sink_only_slow_the_source() {
    let outcome = check(Setup { workers: 2, budget: 2000, delay: 40, ..SETUP });
    assert_eq!(outcome.rows.len(), 15_000 - 150);
}
