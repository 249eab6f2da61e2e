//! Joins against an obvious reference: all rows are kept, and each pair of them is looked at.

mod config;
mod rest;

use super::interval::Interval;
use super::plan::{Form, JoinPlan};
use super::same_window::SameWindow;
use super::{LEFT, RIGHT};
use crate::testing::{Given, with_step};
use arrow::array::{ArrayRef, Int32Array, Int64Array, RecordBatch};
use arrow::datatypes::{DataType, SchemaRef};
use engine_base::{Epoch, SourceId, StepId};
use engine_dataflow::StepState as _;
use engine_dataflow::rows::{made_by, origin};
use engine_dataflow::{EpochStep, Moment, Positions, RowPosition, Rows, StepOutput, Times};
use engine_state::{Change, SlotState};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

const SOURCE: &str = "
    schema: { id: int64, k: int64 | null, v: int64, at: timestamp }
    event_time: { column: at }";

/// The two sides, of which the right one has a narrower key.
const SIDES: &str = "
    l: { type: map, input: rows, rename: { lid: id } }
    r: { type: map, input: rows, set: { rk: 'CAST(k AS INT)' }, rename: { rid: id, rv: v }, drop: [k] }";

#[derive(Clone, Debug)]
struct Row {
    id: i64,
    k: Option<i64>,
    v: i64,
    at: i64,
}

/// Random numbers with a seed.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % bound
    }
}

#[derive(Clone, Copy, Debug)]
enum Near {
    Within { before: i64, after: i64 },
    Window { size: i64, every: i64, offset: i64 },
}

#[derive(Clone, Debug)]
struct Case {
    kind: &'static str,
    near: Near,
    condition: bool,
    epochs: Vec<EpochRows>,
}

/// The rows of both sides, and their watermarks at the close.
#[derive(Clone, Debug)]
struct EpochRows {
    rows: [Vec<Row>; 2],
    watermarks: [Option<i64>; 2],
}

const KINDS: [&str; 6] = ["inner", "left", "right", "full", "semi", "anti"];

impl Case {
    fn random(seed: u64) -> Case {
        let mut random = Random(seed);
        let kind = KINDS[random.below(6) as usize];
        let near = match random.below(2) {
            0 => Near::Within { before: random.below(3) as i64 * 4, after: random.below(4) as i64 * 5 },
            _ => {
                let size = 1 + random.below(20) as i64;
                let every = if random.below(2) == 0 { size } else { 1 + random.below(12) as i64 };
                Near::Window { size, every, offset: random.below(9) as i64 }
            }
        };
        let condition = random.below(3) == 0;
        let mut epochs: Vec<EpochRows> = Vec::new();
        let mut now = [random.below(100) as i64 - 50; 2];
        let mut watermarks = [None; 2];
        let mut id = 0;
        for _ in 0..random.below(12) {
            let mut rows: [Vec<Row>; 2] = Default::default();
            for side in [LEFT, RIGHT] {
                if watermarks[side] == Some(i64::MAX) {
                    continue;
                }
                for _ in 0..random.below(8) {
                    now[side] += random.below(5) as i64;
                    let at = now[side] - if random.below(10) == 0 { random.below(60) } else { random.below(8) } as i64;
                    let k = match random.below(8) {
                        0 => None,
                        1..5 => Some(-7),
                        k => Some(k as i64),
                    };
                    rows[side].push(Row { id, k, v: random.below(4) as i64, at });
                    id += 1;
                }
                watermarks[side] = match random.below(24) {
                    0 => Some(i64::MAX),
                    1..16 => watermarks[side].max(Some(now[side] - random.below(20) as i64)),
                    _ => watermarks[side],
                };
            }
            epochs.push(EpochRows { rows, watermarks });
        }
        epochs.push(EpochRows { rows: Default::default(), watermarks: [Some(i64::MAX); 2] });
        Case { kind, near, condition, epochs }
    }

    fn yaml(&self) -> String {
        let near = match self.near {
            Near::Within { before, after } => format!("within: {{ before: {before}ns, after: {after}ns }}"),
            Near::Window { size, every, offset } if size == every => {
                format!("window: {{ tumbling: {{ size: {size}ns, offset: {offset}ns }} }}")
            }
            Near::Window { size, every, offset } => {
                format!("window: {{ hopping: {{ size: {size}ns, every: {every}ns, offset: {offset}ns }} }}")
            }
        };
        let both = matches!(self.kind, "inner" | "left" | "right" | "full");
        let columns =
            if both { "l: lid, r: right.rid, s: v + rv" } else { "l: left.lid, r: CAST(NULL AS BIGINT), s: 0" };
        let condition = if self.condition { "where: 10 / (left.v - r.rv) < 6" } else { "" };
        format!(
            "{SIDES}
    j:
      type: join
      left: l
      right: r
      match: {{ k: rk }}
      join: {}
      {near}
      {condition}
      columns: {{ {columns}, t: CAST(event_time() AS BIGINT) }}",
            self.kind
        )
    }

    /// How far behind the least of the watermarks before a row may come out.
    fn hold(&self) -> i64 {
        match (self.near, self.kind) {
            (Near::Window { .. }, _) | (_, "inner") => 0,
            (Near::Within { after, .. }, "left" | "semi" | "anti") => after,
            (Near::Within { before, .. }, "right") => before,
            (Near::Within { before, after }, _) => before.max(after),
        }
    }
}

/// What comes out in an epoch.
#[derive(Clone, Debug, Default, PartialEq)]
struct Out {
    rows: Vec<String>,
    errors: Vec<String>,
    late: [Vec<i64>; 2],
    dropped: u64,
}

impl Out {
    fn sorted(&self) -> Out {
        let mut sorted = self.clone();
        sorted.rows.sort();
        sorted.errors.sort();
        sorted
    }
}

fn line(left: Option<&Row>, right: Option<&Row>, t: i64, window: Option<(i64, i64)>, both: bool) -> String {
    let text = |value: Option<i64>| value.map_or("null".to_owned(), |value| value.to_string());
    let sum = if both { left.zip(right).map(|(left, right)| left.v + right.v) } else { Some(0) };
    let mut line = format!(
        "l={} r={} s={} t={t}",
        text(left.map(|row| row.id)),
        text(right.map(|row| row.id).filter(|_| both)),
        text(sum)
    );
    if let Some((start, end)) = window {
        line += &format!(" {start}..{end}");
    }
    line
}

/// Whether two rows match by the further condition; `None` where it fails.
fn condition(case: &Case, left: &Row, right: &Row) -> Option<bool> {
    match (case.condition, left.v - right.v) {
        (false, _) => Some(true),
        (true, 0) => None,
        (true, by) => Some(10 / by < 6),
    }
}

/// A row that is there, and whether it had its match.
#[derive(Clone)]
struct Kept {
    row: Row,
    new: bool,
    matched: bool,
    gone: bool,
}

fn reference(case: &Case) -> Vec<Out> {
    match case.near {
        Near::Within { before, after } => reference_within(case, before, after),
        Near::Window { size, every, offset } => reference_window(case, size, every, offset),
    }
}

fn alone(kind: &str) -> [bool; 2] {
    [matches!(kind, "left" | "full" | "anti"), matches!(kind, "right" | "full")]
}

fn reference_within(case: &Case, before: i64, after: i64) -> Vec<Out> {
    let mut kept: [Vec<Kept>; 2] = Default::default();
    let mut late_by: [Option<i64>; 2] = [None; 2];
    let both = !matches!(case.kind, "semi" | "anti");
    let (alone, mut all) = (alone(case.kind), Vec::new());
    for EpochRows { rows, watermarks } in &case.epochs {
        let mut out = Out::default();
        let single = |side: usize, row: &Row| match side {
            LEFT => line(Some(row), None, row.at, None, both),
            _ => line(None, Some(row), row.at, None, both),
        };
        for side in [LEFT, RIGHT] {
            for row in &rows[side] {
                if late_by[side].is_some_and(|late_by| row.at < late_by) {
                    out.late[side].push(row.id);
                } else if row.k.is_some() {
                    kept[side].push(Kept { row: row.clone(), new: true, matched: false, gone: false });
                } else if alone[side] {
                    out.rows.push(single(side, row));
                } else {
                    out.dropped += 1;
                }
            }
        }
        // New left rows meet the right ones that were there; new right rows meet all left ones. The other side's come in order.
        let mut meetings: Vec<(usize, usize)> = Vec::new();
        let order = |side: usize| {
            let mut order: Vec<usize> = (0..kept[side].len()).collect();
            order.sort_by_key(|at| (kept[side][*at].row.at, kept[side][*at].row.id));
            order
        };
        let (lefts, rights) = (order(LEFT), order(RIGHT));
        for left in (0..kept[LEFT].len()).filter(|left| kept[LEFT][*left].new) {
            meetings.extend(rights.iter().filter(|right| !kept[RIGHT][**right].new).map(|right| (left, *right)));
        }
        for right in (0..kept[RIGHT].len()).filter(|right| kept[RIGHT][*right].new) {
            meetings.extend(lefts.iter().map(|left| (*left, right)));
        }
        for (left, right) in meetings {
            let (l, r) = (kept[LEFT][left].clone(), kept[RIGHT][right].clone());
            let near = l.row.at - before <= r.row.at && r.row.at <= l.row.at + after;
            if l.gone || r.gone || l.row.k != r.row.k || !near || !both && l.matched {
                continue;
            }
            match condition(case, &l.row, &r.row) {
                None => out.errors.push(format!("{} {}", l.row.v, r.row.v)),
                Some(false) => {}
                Some(true) => {
                    kept[LEFT][left].matched = true;
                    kept[RIGHT][right].matched = true;
                    if both {
                        out.rows.push(line(Some(&l.row), Some(&r.row), l.row.at.max(r.row.at), None, true));
                    } else if case.kind == "semi" {
                        out.rows.push(single(LEFT, &l.row));
                    }
                }
            }
        }
        for side in [LEFT, RIGHT] {
            let reach = if side == LEFT { after } else { before };
            for row in &mut kept[side] {
                row.new = false;
                let passed = watermarks[1 - side].is_some_and(|by| by == i64::MAX || row.row.at + reach < by);
                if passed && !row.gone {
                    row.gone = true;
                    if alone[side] && !row.matched {
                        out.rows.push(single(side, &row.row));
                    }
                }
            }
        }
        all.push(out.sorted());
        late_by = *watermarks;
    }
    all
}

fn reference_window(case: &Case, size: i64, every: i64, offset: i64) -> Vec<Out> {
    let mut kept: [Vec<Row>; 2] = Default::default();
    let mut closed: Option<i64> = None;
    let both = !matches!(case.kind, "semi" | "anti");
    let (alone, mut all) = (alone(case.kind), Vec::new());
    let ends = |at: i64| (at + 1..=at + size).filter(move |end| (end - size - offset).rem_euclid(every) == 0);
    for EpochRows { rows, watermarks } in &case.epochs {
        let mut out = Out::default();
        let single = |side: usize, row: &Row, end: i64| match side {
            LEFT => line(Some(row), None, end - 1, Some((end - size, end)), both),
            _ => line(None, Some(row), end - 1, Some((end - size, end)), both),
        };
        let is_open = |end: &i64| closed.is_none_or(|closed| closed < *end);
        for side in [LEFT, RIGHT] {
            for row in &rows[side] {
                if ends(row.at).next().is_none() {
                    out.dropped += 1;
                } else if !ends(row.at).any(|end| is_open(&end)) {
                    out.late[side].push(row.id);
                } else if row.k.is_some() {
                    kept[side].push(row.clone());
                } else if alone[side] {
                    out.rows.extend(ends(row.at).filter(is_open).map(|end| single(side, row, end)));
                } else {
                    out.dropped += 1;
                }
            }
        }
        let closing = watermarks.iter().copied().min().flatten();
        let all_ends: BTreeSet<i64> = kept.iter().flatten().flat_map(|row| ends(row.at)).collect();
        for end in all_ends.into_iter().filter(|end| closing.is_some_and(|closing| *end <= closing) && is_open(end)) {
            // In the order of slices, and in one of arrival: which pairs are asked for first.
            let slice = (1..=size.min(every)).rev().find(|slice| size % slice == 0 && every % slice == 0).unwrap();
            let of = |side: usize| -> Vec<&Row> {
                let mut rows: Vec<&Row> =
                    kept[side].iter().filter(|row| end - size <= row.at && row.at < end).collect();
                rows.sort_by_key(|row| (row.at - offset).div_euclid(slice));
                rows
            };
            let (lefts, rights) = (of(LEFT), of(RIGHT));
            let mut matched = [vec![false; lefts.len()], vec![false; rights.len()]];
            for (l, left) in lefts.iter().enumerate() {
                for (r, right) in rights.iter().enumerate() {
                    if left.k != right.k || !both && matched[LEFT][l] {
                        continue;
                    }
                    match condition(case, left, right) {
                        None => out.errors.push(format!("{} {}", left.v, right.v)),
                        Some(false) => {}
                        Some(true) => {
                            (matched[LEFT][l], matched[RIGHT][r]) = (true, true);
                            if both {
                                out.rows.push(line(Some(left), Some(right), end - 1, Some((end - size, end)), true));
                            }
                        }
                    }
                }
            }
            for (side, rows) in [(LEFT, &lefts), (RIGHT, &rights)] {
                for (row, matched) in rows.iter().zip(&matched[side]) {
                    if alone[side] && !matched || case.kind == "semi" && side == LEFT && *matched {
                        out.rows.push(single(side, row, end));
                    }
                }
            }
        }
        all.push(out.sorted());
        closed = closing;
    }
    all
}

/// A worker's step of either form.
enum Step {
    Interval(Box<Interval>),
    Window(Box<SameWindow>),
}

impl Step {
    /// The step `j` of a plan, and the schemas of its inputs. `sizes` are those of a slice or slot, and of a portion.
    fn new(plan: &engine_plan::Plan, sizes: (usize, usize)) -> (Step, Vec<SchemaRef>) {
        with_step(plan, "j", |planned, cx| {
            let planned: &JoinPlan = planned.downcast().unwrap();
            let store = crate::testing::store();
            let step = match &planned.form {
                Form::Interval(reach) => {
                    let mut step = Interval::new(planned, *reach, cx, store).unwrap();
                    step.sized(sizes.0 as i64, sizes.1);
                    Step::Interval(Box::new(step))
                }
                Form::Window(windows) => {
                    let mut step = SameWindow::new(planned, windows.clone(), cx, store).unwrap();
                    step.sized(sizes.0, sizes.1);
                    Step::Window(Box::new(step))
                }
                Form::Changelog => panic!("it has no step of its own"),
            };
            (step, cx.inputs.to_vec())
        })
    }

    fn step(&mut self) -> &mut dyn EpochStep {
        match self {
            Step::Interval(step) => &mut **step,
            Step::Window(step) => &mut **step,
        }
    }

    fn drain_changes(&mut self, visit: &mut dyn FnMut(Change<'_>)) {
        match self {
            Step::Interval(step) => step.drain_changes(visit),
            Step::Window(step) => step.drain_changes(visit),
        }
    }

    fn restore(&mut self, key: &[u8], slice: i64, state: &[u8]) -> Result<(), String> {
        match self {
            Step::Interval(step) => step.restore(key, slice, state),
            Step::Window(step) => step.restore(key, slice, state),
        }
    }

    fn slots(&self) -> usize {
        match self {
            Step::Interval(step) => step.slots(),
            Step::Window(step) => step.slots(),
        }
    }

    fn is_empty(&self) -> bool {
        match self {
            Step::Interval(step) => step.is_empty(),
            Step::Window(step) => step.is_empty(),
        }
    }
}

/// Rows of a side as the step is given them.
fn rows_of(rows: &[&Row], side: usize, schema: &SchemaRef) -> Rows {
    let columns: Vec<ArrayRef> = schema
        .fields()
        .iter()
        .map(|field| -> ArrayRef {
            match field.name().as_str() {
                "lid" | "rid" => Arc::new(rows.iter().map(|row| row.id).collect::<Int64Array>()),
                "v" | "rv" => Arc::new(rows.iter().map(|row| row.v).collect::<Int64Array>()),
                "k" => Arc::new(rows.iter().map(|row| row.k).collect::<Int64Array>()),
                "rk" => Arc::new(rows.iter().map(|row| row.k.map(|k| k as i32)).collect::<Int32Array>()),
                "at" => {
                    let times: Int64Array = rows.iter().map(|row| row.at).collect();
                    arrow::compute::cast(&times, field.data_type()).unwrap()
                }
                other => panic!("a column {other}"),
            }
        })
        .collect();
    let mut given = Rows {
        batch: RecordBatch::try_new(schema.clone(), columns).unwrap(),
        positions: Positions::Offsets {
            origin: origin(SourceId(side as u16), 0),
            offsets: rows.iter().map(|row| row.id as u64).collect::<Vec<_>>().into(),
        },
        ingest_ns: Times::One(0),
        born_ns: Times::One(7),
        event_ns: Some(Times::Each(rows.iter().map(|row| row.at).collect())),
        removes: None,
    };
    // Rows of some steps have more to their position.
    if rows.first().is_some_and(|row| row.id % 3 == 0) {
        given.extend_positions(StepId(9), 1, |row| row as u32);
    }
    given
}

fn lines_of(rows: &Rows) -> Vec<String> {
    let int = |name: &str, row: usize| {
        let column = rows.batch.column_by_name(name)?;
        let column = arrow::compute::cast(column, &DataType::Int64).unwrap();
        let column = column.as_any().downcast_ref::<Int64Array>().unwrap();
        Some(if arrow::array::Array::is_null(column, row) { "null".to_owned() } else { column.value(row).to_string() })
    };
    (0..rows.num_rows())
        .map(|row| {
            let of = |name: &str| int(name, row).unwrap();
            let mut line = format!("l={} r={} s={} t={}", of("l"), of("r"), of("s"), of("t"));
            if let (Some(start), Some(end)) = (int("window_start", row), int("window_end", row)) {
                line += &format!(" {start}..{end}");
            }
            assert_eq!(rows.event_ns.as_ref().map(|times| times.get(row).to_string()), Some(of("t")));
            line
        })
        .collect()
}

/// The bytes of each key and slice.
type Checkpoint = BTreeMap<(Vec<u8>, i64), Vec<u8>>;

/// How a case is run.
#[derive(Clone, Copy, Debug)]
struct Way {
    workers: usize,
    batch: usize,
    restore: bool,
    sizes: (usize, usize),
}

fn run(case: &Case, way: Way) -> Vec<Out> {
    let operators = format!("{}\n    after: {{ type: deduplicate, input: j, key: l, within: 1s }}", case.yaml());
    let read: &[(&str, &[&str])] = &[("j", &[]), ("after", &[]), ("j.late_left", &["lid"]), ("j.late_right", &["rid"])];
    let given = Given { source: SOURCE, operators: &operators, read, ..Given::default() };
    let (plan, problems) = given.plan();
    let plan = plan.unwrap_or_else(|| panic!("{problems}\n{operators}"));
    let follows = plan.find("j").unwrap().outputs[0].stream.event_time.as_ref().unwrap().follows.values();
    assert_eq!(follows.copied().collect::<Vec<_>>(), [case.hold()], "{case:?}");
    let new = || Step::new(&plan, way.sizes);
    let mut steps: Vec<_> = (0..way.workers).map(|_| new()).collect();
    let mut checkpoints: Vec<Checkpoint> = vec![Checkpoint::new(); way.workers];
    let mut positions: BTreeSet<RowPosition> = BTreeSet::new();
    let mut before = [None; 2];
    let mut random = Random(way.batch as u64);
    let mut all = Vec::new();
    for (number, EpochRows { rows, watermarks }) in case.epochs.iter().enumerate() {
        let mut out = Out::default();
        for (worker, (step, schemas)) in steps.iter_mut().enumerate() {
            if way.restore && random.below(3) > 0 {
                let checkpoint = &mut checkpoints[worker];
                step.drain_changes(&mut |change| match change {
                    Change::Put { key, slice, state } => {
                        checkpoint.insert((key.to_vec(), slice), state.to_vec());
                    }
                    Change::Delete { key, slice } => {
                        checkpoint.remove(&(key.to_vec(), slice));
                    }
                });
                *step = new().0;
                for ((key, slice), state) in checkpoint.iter() {
                    let cut = random.below(state.len() as u64) as usize;
                    assert!(step.restore(key, *slice, &state[..cut]).is_err());
                    step.restore(key, *slice, state).unwrap();
                    let mut again = Vec::new();
                    super::slot::Slot::decode(state).unwrap().encode(&mut again);
                    assert_eq!(again, *state);
                }
            }
            let inputs = [LEFT, RIGHT].map(|side| {
                let mine = |row: &&Row| row.k.unwrap_or(row.id).unsigned_abs() as usize % way.workers == worker;
                let mine: Vec<&Row> = rows[side].iter().filter(mine).collect();
                mine.chunks(way.batch).map(|rows| rows_of(rows, side, &schemas[side])).collect()
            });
            let moment = Moment {
                epoch: Epoch(number as u64),
                late_ns: before.to_vec(),
                watermark_ns: watermarks.to_vec(),
                clock_ns: 77,
            };
            let mut given = StepOutput::new(3);
            step.step().close(&moment, inputs.to_vec(), &mut given);
            while step.step().resume(&mut given) {}
            assert!(!step.step().resume(&mut StepOutput::new(3)), "nothing is left");
            for rows in &given.ports[0] {
                out.rows.extend(lines_of(rows));
                for row in 0..rows.num_rows() {
                    let position = rows.position(row);
                    assert_eq!(position.origin, made_by(plan.find("j").unwrap().id));
                    assert!(positions.insert(position), "each row has a position of its own");
                    assert_eq!(rows.ingest_ns.get(row), 77);
                    // What is put out is not behind what the plan says.
                    let least = before.iter().copied().min().flatten().unwrap_or(i64::MIN);
                    let time_ns = rows.event_ns.as_ref().unwrap().get(row);
                    assert!(time_ns >= least.saturating_sub(case.hold()), "{time_ns} {least} {case:?}");
                }
            }
            for (side, name) in [(LEFT, "lid"), (RIGHT, "rid")] {
                for rows in &given.ports[1 + side] {
                    assert_eq!(rows.batch.num_columns(), 1);
                    let ids = rows.batch.column_by_name(name).unwrap();
                    out.late[side].extend(ids.as_any().downcast_ref::<Int64Array>().unwrap().values());
                }
            }
            assert_eq!(given.late as usize, given.ports[1..].iter().flatten().map(Rows::num_rows).sum::<usize>());
            out.errors.extend(given.errors.iter().map(|row| {
                let payload: serde_json::Value = serde_json::from_slice(&row.payload).unwrap();
                assert_eq!(payload["left.k"], payload["right.rk"]);
                format!("{} {}", payload["left.v"], payload["right.rv"])
            }));
            out.dropped += given.dropped;
        }
        out.late.iter_mut().for_each(|late| late.sort_unstable());
        all.push(out);
        before = *watermarks;
    }
    assert!(steps.iter().all(|(step, _)| step.is_empty()), "at the end nothing is kept");
    all
}

fn check(seed: u64) {
    let case = Case::random(seed);
    let expected = reference(&case);
    let once = run(&case, Way { workers: 1, batch: 100, restore: false, sizes: (7, 8_192) });
    for (at, (got, expected)) in once.iter().zip(&expected).enumerate() {
        assert_eq!(got.sorted(), *expected, "seed {seed}, epoch {at}: {case:#?}");
    }
    // The same in the same order, whatever the batches, and with a restart in between.
    for way in [
        Way { workers: 1, batch: 1, restore: false, sizes: (7, 3) },
        Way { workers: 1, batch: 3, restore: true, sizes: (7, 8_192) },
    ] {
        assert_eq!(run(&case, way), once, "seed {seed}, {way:?}: {case:#?}");
    }
    // The same rows, whatever the workers, slices and portions.
    for way in [
        Way { workers: 3, batch: 2, restore: true, sizes: (2, 1) },
        Way { workers: 2, batch: 100, restore: false, sizes: (1_000, 2) },
    ] {
        let again: Vec<Out> = run(&case, way).iter().map(Out::sorted).collect();
        assert_eq!(again, expected, "seed {seed}, {way:?}: {case:#?}");
    }
}

#[test]
fn joins_equal_an_obvious_reference() {
    (0..4000).for_each(check);
}
