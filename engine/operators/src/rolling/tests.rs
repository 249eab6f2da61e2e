//! Rolling aggregates against an obvious reference: all rows of a key are kept, and each window is computed anew from them.

use super::RollingPlan;
use super::step::Rolling;
use crate::testing::{Given, check_problems, with_step};
use arrow::array::{Array, ArrayRef, AsArray, Float64Array, Int64Array, RecordBatch, StringArray};
use arrow::datatypes::{Float64Type, Int64Type, SchemaRef};
use engine_base::{Epoch, SourceId};
use engine_dataflow::StepState as _;
use engine_dataflow::rows::origin;
use engine_dataflow::{EpochStep, Moment, Positions, Rows, StepOutput, Times};
use engine_state::Change;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

const SCHEMA: &str = "schema: { id: int64, k: string | null, v: int64 | null, x: float64, at: int64 }";

/// Random numbers with a seed.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % bound
    }
}

#[derive(Clone, Debug)]
struct Row {
    id: i64,
    partition: u32,
    k: Option<String>,
    v: Option<i64>,
    x: f64,
    at: i64,
}

/// The rows of each epoch, and the watermark at its close.
type Epochs = Vec<(Vec<Row>, Option<i64>)>;

/// How far back a window reaches.
#[derive(Clone, Copy, Debug)]
enum Back {
    Time(i64),
    Rows(usize),
}

impl Back {
    fn yaml(self) -> String {
        match self {
            Back::Time(ns) => format!("{ns}ns"),
            Back::Rows(rows) => format!("{{ rows: {rows} }}"),
        }
    }
}

/// A step of a test.
#[derive(Clone, Copy, Debug)]
struct Case {
    over: Back,
    own: Back,
    max_delay: i64,
    by_time: bool,
    expire: Option<i64>,
}

impl Case {
    fn random(random: &mut Random) -> Case {
        let mut back = || match random.below(3) {
            0 => Back::Rows(1 + random.below(12) as usize),
            _ => Back::Time(1 + random.below(40) as i64),
        };
        let (over, own) = (back(), back());
        let expire = (random.below(3) == 0).then(|| 1 + random.below(60) as i64);
        Case { over, own, max_delay: random.below(12) as i64, by_time: random.below(2) == 0, expire }
    }

    fn plan(&self) -> engine_plan::Plan {
        let Case { over, own, max_delay, by_time, expire } = *self;
        let (over, own) = (over.yaml(), own.yaml());
        let order = if by_time { "order: event_time" } else { "" };
        let expire = expire.map_or(String::new(), |expire| format!("expire_after: {expire}ns"));
        let source = format!("{SCHEMA}\nevent_time: {{ column: at, unit: ns, max_delay: {max_delay}ns }}");
        let operators = format!(
            "r:
               type: rolling
               input: rows
               key: k
               over: {over}
               {order}
               {expire}
               columns:
                 n: count(*)
                 nv: count(v)
                 big: count(*) FILTER (WHERE v > 100)
                 sum: sum(v)
                 least: min(v)
                 kinds: count(DISTINCT v % 5)
                 head: first(id)
                 early: first_value(id ORDER BY at)
                 top: first_value(id ORDER BY v DESC NULLS LAST)
                 own_top: {{ value: last_value(id ORDER BY v NULLS FIRST), over: {own} }}
                 middle: median(CAST(v AS float64))
                 high: percentile_cont(0.9) WITHIN GROUP (ORDER BY CAST(v AS float64))
                 total: sum(x)
                 dev: stddev_pop(x)
                 own_n: {{ value: count(*), over: {own} }}
                 own_total: {{ value: sum(x), over: {own} }}
                 others: {{ value: count(*), over: {own}, exclude_current: true }}
                 most: {{ value: max(v), over: {own}, exclude_current: true }}
                 tail: {{ value: last(id), over: {own}, exclude_current: true }}
                 before: {{ value: lag(id), over: {own} }}"
        );
        let given =
            Given { source: &source, operators: &operators, read: &[("r", &[]), ("r.late", &[])], ..Given::default() };
        let (plan, problems) = given.plan();
        plan.unwrap_or_else(|| panic!("{problems}"))
    }

    /// How far back any window of time reaches, beside what may come late.
    fn longest(&self) -> Option<i64> {
        let time = |back: &Back| if let Back::Time(ns) = back { Some(*ns) } else { None };
        [self.over, self.own].iter().filter_map(time).max()
    }

    fn by_rows(&self) -> bool {
        [self.over, self.own].iter().any(|back| matches!(back, Back::Rows(_)))
    }

    /// What is so far behind is late.
    fn late(&self) -> Option<i64> {
        let delay = if self.by_time { 0 } else { self.max_delay };
        let least = [self.longest(), self.expire].into_iter().flatten().min();
        least.map(|least| least + delay)
    }
}

const INTEGERS: [&str; 15] = [
    "id", "n", "nv", "big", "sum", "least", "kinds", "head", "early", "top", "own_top", "own_n", "others", "most",
    "tail",
];
const FLOATS: [&str; 5] = ["total", "dev", "own_total", "middle", "high"];

/// What comes out of a row: integers, the row before, and floats.
#[derive(Clone, Debug, PartialEq)]
struct Result {
    integers: Vec<Option<i64>>,
    floats: Vec<f64>,
}

/// What comes out in an epoch: rows in their order, and the ids of late ones.
#[derive(Clone, Debug, Default, PartialEq)]
struct Out {
    rows: Vec<Result>,
    late: Vec<i64>,
}

/// The rows of a key that were taken, in order.
#[derive(Default)]
struct Taken(Vec<Row>);

impl Taken {
    /// What a row gives, or `None` where it is late.
    fn take(&mut self, case: &Case, row: &Row, watermark: Option<i64>) -> Option<Result> {
        let delay = if case.by_time { 0 } else { case.max_delay };
        let greatest = self.0.iter().map(|row| row.at).max().unwrap_or(row.at).max(row.at);
        // Where keys are kept for ever, each goes by itself.
        let by_itself = case.by_time || case.by_rows() && case.expire.is_none();
        let passed = if by_itself { greatest } else { watermark.unwrap_or(greatest).max(greatest) };
        if case.late().is_some_and(|late| row.at <= passed.saturating_sub(late)) {
            return None;
        }
        if case.expire.is_some_and(|expire| self.0.iter().all(|before| before.at + expire <= row.at)) {
            self.0.clear();
        }
        let bound = case.longest().map_or(i64::MIN, |longest| greatest - longest - delay);
        let inside = |back: Back, with_self: bool| -> Vec<&Row> {
            let all = self.0.iter().chain(with_self.then_some(row));
            match back {
                Back::Time(over) => {
                    all.filter(|other| (row.at - over).max(bound) < other.at && other.at <= row.at).collect()
                }
                Back::Rows(rows) => {
                    let all: Vec<&Row> = all.collect();
                    all[all.len().saturating_sub(rows)..].to_vec()
                }
            }
        };
        let main = inside(case.over, true);
        let own = inside(case.own, true);
        let others = inside(case.own, false);
        let before = self.0.last().filter(|before| match case.own {
            Back::Time(over) => before.at > (row.at - over).max(bound),
            Back::Rows(rows) => rows > 1,
        });
        let values: Vec<i64> = main.iter().filter_map(|row| row.v).collect();
        let kinds: BTreeSet<i64> = values.iter().map(|v| v % 5).collect();
        let total: f64 = main.iter().map(|row| row.x).sum();
        let mean = total / main.len() as f64;
        let squares: f64 = main.iter().map(|row| (row.x - mean).powi(2)).sum();
        // Of equal ones the first that came, or the last.
        let by_value = |row: &&&Row| (row.v.is_some(), row.v);
        let top = main.iter().rev().max_by_key(by_value);
        let own_top = own.iter().max_by_key(by_value);
        let mut sorted = values.clone();
        sorted.sort_unstable();
        let percentile = |share: f64| match sorted.len() {
            0 => f64::NAN,
            count => {
                let at = share * (count - 1) as f64;
                let (low, high) = (sorted[at.floor() as usize] as f64, sorted[at.ceil() as usize] as f64);
                // As DataFusion does, to a millionth of the gap.
                low + (high - low) * ((at.fract() * 1e6).floor() / 1e6)
            }
        };
        let count = |n: usize| Some(n as i64);
        let result = Result {
            integers: vec![
                Some(row.id),
                count(main.len()),
                count(values.len()),
                count(values.iter().filter(|v| **v > 100).count()),
                (!values.is_empty()).then(|| values.iter().sum()),
                values.iter().min().copied(),
                count(kinds.len()),
                Some(main[0].id),
                main.iter().min_by_key(|row| row.at).map(|row| row.id),
                top.map(|row| row.id),
                own_top.map(|row| row.id),
                count(own.len()),
                count(others.len()),
                others.iter().filter_map(|row| row.v).max(),
                others.last().map(|row| row.id),
                before.map(|row| row.id),
            ],
            floats: vec![
                total,
                (squares / main.len() as f64).sqrt(),
                own.iter().map(|row| row.x).sum(),
                percentile(0.5),
                percentile(0.9),
            ],
        };
        self.0.push(row.clone());
        Some(result)
    }
}

fn reference(case: &Case, epochs: &Epochs) -> Vec<Out> {
    let mut keys: BTreeMap<Option<String>, Taken> = BTreeMap::new();
    let mut pending: Vec<Row> = Vec::new();
    let mut before: Option<i64> = None;
    let mut all = Vec::new();
    for (rows, watermark) in epochs {
        let mut out = Out::default();
        let mut now: Vec<Row> = rows.clone();
        if case.by_time {
            let (late, rows): (Vec<Row>, Vec<Row>) =
                now.into_iter().partition(|row| before.is_some_and(|before| row.at < before));
            out.late.extend(late.iter().map(|row| row.id));
            pending.extend(rows);
            let passed = |row: &Row| watermark.is_some_and(|watermark| watermark == i64::MAX || row.at < watermark);
            now = pending.extract_if(.., |row| passed(row)).collect();
            now.sort_by_key(|row| (row.at, row.partition, row.id));
        }
        for row in &now {
            match keys.entry(row.k.clone()).or_default().take(case, row, before) {
                Some(result) => out.rows.push(result),
                None => out.late.push(row.id),
            }
        }
        all.push(out);
        before = *watermark;
    }
    all
}

fn step_of(plan: &engine_plan::Plan) -> Rolling {
    with_step(plan, "r", |planned, cx| {
        let planned: &RollingPlan = planned.downcast().unwrap();
        Rolling::new(planned, cx, crate::testing::store()).unwrap()
    })
}

fn rows_of(rows: &[&Row], schema: &SchemaRef) -> Rows {
    let columns: Vec<ArrayRef> = vec![
        Arc::new(rows.iter().map(|row| row.id).collect::<Int64Array>()),
        Arc::new(rows.iter().map(|row| row.k.clone()).collect::<StringArray>()),
        Arc::new(rows.iter().map(|row| row.v).collect::<Int64Array>()),
        Arc::new(rows.iter().map(|row| row.x).collect::<Float64Array>()),
        Arc::new(rows.iter().map(|row| row.at).collect::<Int64Array>()),
    ];
    Rows {
        batch: RecordBatch::try_new(schema.clone(), columns).unwrap(),
        positions: Positions::Mixed {
            origins: rows.iter().map(|row| origin(SourceId(0), row.partition)).collect::<Vec<_>>().into(),
            offsets: rows.iter().map(|row| row.id as u64).collect::<Vec<_>>().into(),
            suffixes: None,
        },
        ingest_ns: Times::Each(rows.iter().map(|row| 1000 + row.id).collect()),
        born_ns: Times::Each(rows.iter().map(|row| 2000 + row.id).collect()),
        event_ns: Some(Times::Each(rows.iter().map(|row| row.at).collect())),
        removes: None,
    }
}

/// The results of a batch. The rows are what they were.
fn results_of(rows: &Rows) -> Vec<Result> {
    let integers = |name: &str| rows.batch.column_by_name(name).unwrap().as_primitive::<Int64Type>().clone();
    let floats = |name: &str| rows.batch.column_by_name(name).unwrap().as_primitive::<Float64Type>().clone();
    (0..rows.num_rows())
        .map(|row| {
            let id = integers("id").value(row);
            assert_eq!(rows.positions.source(row).1, id as u64);
            assert_eq!((rows.ingest_ns.get(row), rows.born_ns.get(row)), (1000 + id, 2000 + id));
            let integer = |name: &&str| integers(name).is_valid(row).then(|| integers(name).value(row));
            Result {
                integers: INTEGERS.iter().chain(&["before"]).map(integer).collect(),
                floats: FLOATS
                    .iter()
                    .map(|name| if floats(name).is_valid(row) { floats(name).value(row) } else { f64::NAN })
                    .collect(),
            }
        })
        .collect()
}

/// How a step is run over the epochs.
#[derive(Clone, Copy, Debug)]
struct How {
    workers: usize,
    batch: usize,
    /// After each epoch its state is written down and read back into a new step.
    restore: bool,
}

const PLAIN: How = How { workers: 1, batch: 1000, restore: false };

fn run(case: &Case, epochs: &Epochs, how: How) -> Vec<Out> {
    let plan = case.plan();
    let schema = plan.sources().next().unwrap().outputs[0].stream.schema.clone();
    let mut steps: Vec<Rolling> = (0..how.workers).map(|_| step_of(&plan)).collect();
    let mut checkpoint: BTreeMap<(Vec<u8>, i64), Vec<u8>> = BTreeMap::new();
    let mut before = None;
    let mut random = Random(7);
    let mut all = Vec::new();
    for (number, (rows, watermark)) in epochs.iter().enumerate() {
        let mut out = Out::default();
        for (worker, step) in steps.iter_mut().enumerate() {
            if how.restore {
                step.drain_changes(&mut |change| match change {
                    Change::Put { key, slice, state } => {
                        checkpoint.insert((key.to_vec(), slice), state.to_vec());
                    }
                    Change::Delete { key, slice } => {
                        checkpoint.remove(&(key.to_vec(), slice));
                    }
                });
                *step = step_of(&plan);
                for ((key, slice), state) in &checkpoint {
                    let cut = random.below(state.len() as u64) as usize;
                    assert!(step.restore(key, *slice, &state[..cut]).is_err());
                    step.restore(key, *slice, state).unwrap();
                }
            }
            let mine = |row: &&Row| row.k.as_ref().map_or(0, String::len) % how.workers == worker;
            let mine: Vec<&Row> = rows.iter().filter(mine).collect();
            let batches = mine.chunks(how.batch).map(|rows| rows_of(rows, &schema)).collect();
            let (late_ns, watermark_ns) = match plan.find("r").unwrap().timed {
                true => (vec![before], vec![*watermark]),
                // It does not ask for event time.
                false => (vec![None], vec![None]),
            };
            let moment = Moment { epoch: Epoch(number as u64), late_ns, watermark_ns, clock_ns: 0 };
            let mut step_out = StepOutput::new(2);
            step.close(&moment, vec![batches], &mut step_out);
            while step.resume(&mut step_out) {}
            assert!(step_out.errors.is_empty(), "{:?}", step_out.errors);
            out.rows.extend(step_out.ports[0].iter().flat_map(results_of));
            assert_eq!(step_out.late as usize, step_out.ports[1].iter().map(Rows::num_rows).sum::<usize>());
            if watermark == &Some(i64::MAX) {
                let end = Moment { late_ns: vec![Some(i64::MAX)], ..moment };
                step.close(&end, vec![Vec::new()], &mut step_out);
                let for_ever = case.by_rows() && case.expire.is_none();
                assert!(step.keys_kept() == 0 || for_ever, "in the end nothing is left: {case:?}");
            }
            for rows in &step_out.ports[1] {
                out.late.extend(rows.batch.column_by_name("id").unwrap().as_primitive::<Int64Type>().values());
            }
        }
        all.push(out);
        before = *watermark;
    }
    all
}

/// Rows in some disorder, with late ones, null keys, skew, equal times and infinities, from one or two partitions; those of an
/// epoch in canonical order.
fn epochs(random: &mut Random, max_delay: i64) -> Epochs {
    let mut epochs = Vec::new();
    let partitions = 1 + random.below(2);
    let (mut now, mut id, mut watermark) = (random.below(100) as i64 - 50, 0, None);
    for _ in 0..random.below(14) {
        let mut rows = Vec::new();
        for _ in 0..random.below(14) {
            now += match random.below(40) {
                0 => random.below(120),
                _ => random.below(6),
            } as i64;
            let late = if random.below(10) == 0 { 60 } else { 1 + max_delay as u64 };
            let k = match random.below(8) {
                0 => None,
                1..5 => Some("hot".to_owned()),
                k => Some("k".repeat(k as usize)),
            };
            let v = (random.below(6) > 0).then(|| random.below(1000) as i64 - 500);
            let x = if random.below(30) == 0 { f64::INFINITY } else { random.below(1000) as f64 / 7.0 };
            let partition = random.below(partitions) as u32;
            rows.push(Row { id, partition, k, v, x, at: now - random.below(late) as i64 });
            // Offsets have gaps, and two partitions have their own.
            let gap = if random.below(9) == 0 { 5000 } else { 2 };
            id += 1 + random.below(gap) as i64;
        }
        if random.below(3) > 0 {
            watermark = watermark.max(Some(now - random.below(20) as i64));
        }
        rows.sort_by_key(|row| (row.partition, row.id));
        epochs.push((rows, watermark));
    }
    epochs.push((Vec::new(), Some(i64::MAX)));
    epochs
}

fn near(a: f64, b: f64) -> bool {
    a == b || (a.is_nan() && b.is_nan()) || (a - b).abs() <= 1e-9 * a.abs().max(b.abs()).max(1.0)
}

/// All rows by id, floats by their bits, and the ids of late ones.
fn by_id(all: &[Out]) -> (BTreeMap<i64, String>, BTreeSet<i64>) {
    let bits = |floats: &[f64]| floats.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
    let rows = all.iter().flat_map(|out| &out.rows);
    let line = |row: &Result| (row.integers[0].unwrap(), format!("{:?} {:?}", row.integers, bits(&row.floats)));
    (rows.map(line).collect(), all.iter().flat_map(|out| out.late.iter().copied()).collect())
}

fn check(seed: u64) {
    let mut random = Random(seed);
    let case = Case::random(&mut random);
    let epochs = epochs(&mut random, case.max_delay);
    let expected = reference(&case, &epochs);
    let once = run(&case, &epochs, PLAIN);
    for (at, (got, expected)) in once.iter().zip(&expected).enumerate() {
        let of = |out: &Out| out.rows.iter().map(|row| row.integers.clone()).collect::<Vec<_>>();
        assert_eq!(of(got), of(expected), "seed {seed}, epoch {at}: {case:?}\n{epochs:#?}");
        assert_eq!(got.late, expected.late, "seed {seed}, epoch {at}: {case:?}");
        for (got, expected) in got.rows.iter().zip(&expected.rows) {
            let mut floats = got.floats.iter().zip(&expected.floats);
            assert!(floats.all(|(a, b)| near(*a, *b)), "seed {seed}: {got:?} {expected:?}");
        }
    }
    // The same to the bit, however many workers, whatever the batches, and over restarts.
    for (workers, batch, restore) in [(2, 1, false), (3, 4, false), (1, 7, true)] {
        let how = How { workers, batch, restore };
        let again = run(&case, &epochs, how);
        assert_eq!(by_id(&again), by_id(&once), "seed {seed}: {case:?}, {how:?}");
    }
    if case.by_time {
        check_arrival(seed, &case, &epochs, &mut random);
    }
}

/// Rows that come in another order within the watermark give the same to the bit.
fn check_arrival(seed: u64, case: &Case, epochs: &Epochs, random: &mut Random) {
    let mut all: Vec<Row> = epochs.iter().flat_map(|(rows, _)| rows.clone()).collect();
    all.sort_by_key(|row| (row.at, row.partition, row.id));
    let sorted = vec![(Vec::new(), None), (all.clone(), None), (Vec::new(), Some(i64::MAX))];
    let mut shuffled: Epochs = Vec::new();
    for at in (1..all.len()).rev() {
        all.swap(at, random.below(at as u64 + 1) as usize);
    }
    while !all.is_empty() {
        let mut rows: Vec<Row> = all.drain(..all.len().min(1 + random.below(20) as usize)).collect();
        rows.sort_by_key(|row| (row.partition, row.id));
        // Anything that is before all the rows that are still to come.
        let least = all.iter().map(|row| row.at).min().unwrap_or(i64::MAX);
        let before = shuffled.last().and_then(|(_, watermark): &(_, Option<i64>)| *watermark);
        let watermark = (random.below(3) > 0).then(|| least.saturating_sub(random.below(3) as i64));
        shuffled.push((rows, before.max(watermark)));
    }
    shuffled.push((Vec::new(), Some(i64::MAX)));
    let (one, other) = (run(case, &sorted, PLAIN), run(case, &shuffled, How { batch: 3, restore: true, ..PLAIN }));
    assert_eq!(by_id(&one), by_id(&other), "seed {seed}: {case:?}");
    assert!(by_id(&one).1.is_empty(), "seed {seed}: nothing is late");
    let order = |out: &[Out]| out.iter().flat_map(|out| out.rows.iter().map(|row| row.integers[0])).collect::<Vec<_>>();
    assert_eq!(order(&one), order(&other), "seed {seed}: they leave in the same order");
}

#[test]
fn rolling_equals_an_obvious_reference() {
    (0..3000).for_each(check);
}

#[test]
fn rows_that_wait_are_put_out_in_portions() {
    let case = Case { over: Back::Time(5), own: Back::Rows(3), max_delay: 0, by_time: true, expire: None };
    let row = |id: i64| Row { id, partition: 0, k: Some(format!("{}", id % 7)), v: None, x: 0.5, at: -id / 2 };
    let rows: Vec<Row> = (0..20_000).map(row).collect();
    let epochs = vec![(rows, None), (Vec::new(), Some(i64::MAX))];
    let out = run(&case, &epochs, PLAIN);
    assert_eq!(out[0].rows.len(), 0);
    let ids: Vec<i64> = out[1].rows.iter().filter_map(|row| row.integers[0]).collect();
    let mut expected: Vec<i64> = (0..20_000).collect();
    expected.sort_by_key(|id| (-id / 2, *id));
    assert_eq!(ids, expected);
}

/// A million keys that come once are not kept, however busy one other is.
#[test]
fn silent_keys_are_freed() {
    for (by_time, expire, over) in [
        (false, None, Back::Time(100)),
        (true, None, Back::Time(100)),
        (false, Some(100), Back::Rows(3)),
        (true, Some(100), Back::Rows(3)),
    ] {
        let case = Case { over, own: over, max_delay: 0, by_time, expire };
        let plan = case.plan();
        let schema = plan.sources().next().unwrap().outputs[0].stream.schema.clone();
        let mut step = step_of(&plan);
        for epoch in 0..200i64 {
            let row = |at: i64| Row {
                id: at,
                partition: 0,
                k: Some(if at % 2 == 0 { "busy".to_owned() } else { format!("{at}") }),
                v: None,
                x: 0.5,
                at,
            };
            let rows: Vec<Row> = (epoch * 50..(epoch + 1) * 50).map(row).collect();
            let rows: Vec<&Row> = rows.iter().collect();
            let (late_ns, watermark_ns) = (vec![Some(epoch * 50 - 1)], vec![Some(epoch * 50 + 49)]);
            let moment = Moment { epoch: Epoch(epoch as u64), late_ns, watermark_ns, clock_ns: 0 };
            let mut out = StepOutput::new(2);
            step.close(&moment, vec![vec![rows_of(&rows, &schema)]], &mut out);
            while step.resume(&mut out) {}
            assert_eq!(out.late, 0);
            assert!(step.keys_kept() < 180, "{} keys: {case:?}", step.keys_kept());
        }
        assert!(step.keys_kept() > 50, "{} keys: {case:?}", step.keys_kept());
    }
}

#[test]
fn what_is_wrong_with_rolling_is_told() {
    let source = format!("{SCHEMA}\nevent_time: {{ column: at, unit: ns }}");
    let problems = |source: &str, operators: &str, expected: &str| {
        check_problems(&Given { source, operators, read: &[("r", &[])], ..Given::default() }, expected);
    };
    problems(
        &source,
        "r: { type: rolling, input: rows, key: k, over: 5ns, order: time, columns: { n: count(*) } }",
        "E0121 `time` `order` can't be `time` | it is `arrival` or `event_time`",
    );
    problems(
        SCHEMA,
        "r: { type: rolling, input: rows, key: k, over: 5ns, order: event_time, columns: { n: count(*) } }",
        "E0323 `rolling` `rolling` needs event time, which these rows don't have | say when each row happened, at the source: \
         `event_time: { column: at, max_delay: 5s }`",
    );
    problems(
        &source,
        "r: { type: rolling, input: rows, key: k, over: { rows: 0 }, expire_after: 0s, columns: { n: count(*) } }",
        "E0343 `{ rows: 0 }` a window must be longer than nothing
         E0343 `0s` `expire_after` must be longer than nothing",
    );
    problems(
        &source,
        "r: { type: rolling, input: rows, key: k, over: { row: 3 }, columns: { n: count(*) } }",
        "E0117 `row` unknown key `row` | did you mean `rows`? | the keys here are `rows`",
    );
}

#[test]
fn what_is_kept_for_ever_is_said_of_an_endless_input() {
    let source = format!("{SCHEMA}\nevent_time: {{ column: at, unit: ns }}");
    let endless = |over: &str| {
        let operators = format!("r: {{ type: rolling, input: rows, key: k, {over}, columns: {{ n: count(*) }} }}");
        let given = Given { source: &source, operators: &operators, read: &[("r", &[])], ..Given::default() };
        given.plan().0.unwrap().find("r").unwrap().planned.endless()
    };
    assert!(endless("over: { rows: 3 }").unwrap().message.contains("the last rows of each k"));
    assert_eq!(endless("over: { rows: 3 }, expire_after: 1d"), None);
    assert_eq!(endless("over: 5m"), None);
}
