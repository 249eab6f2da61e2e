//! `aggregate` against all rows of each key, looked at again in each epoch.

use super::plan::AggregatePlan;
use super::step::Aggregate;
use crate::testing::{Given, check_problems, with_step};
use arrow::array::{ArrayRef, AsArray, Float64Array, Int64Array, RecordBatch, StringArray};
use arrow::datatypes::{Float64Type, Int64Type};
use engine_base::{Epoch, SourceId};
use engine_dataflow::StepState as _;
use engine_dataflow::rows::origin;
use engine_dataflow::{EpochStep, Moment, Positions, Rows, StepOutput, Times};
use engine_plan::Plan;
use engine_state::Change;
use std::collections::BTreeMap;
use std::sync::Arc;

const SOURCE: &str = "
    schema: { k: string | null, v: int64, f: float64 | null, at: int64 }
    event_time: { column: at, unit: ns }";

/// A row: key, integer, float, event time; and whether it is taken back.
#[derive(Clone, Debug, PartialEq)]
struct Row {
    key: Option<String>,
    v: i64,
    f: Option<f64>,
    at: i64,
    removes: bool,
}

/// By epoch: rows, and the watermark at its close.
type Epochs = Vec<(Vec<Row>, Option<i64>)>;
/// By epoch what comes out, as text, in any order.
type Out = Vec<Vec<String>>;

const COLUMNS: &str = "n: count(*), s: sum(v), fs: sum(f), least: min(f), all: count(DISTINCT v)";
/// The same where everything can be subtracted.
const LINEAR: &str = "n: count(*), s: sum(v), fs: count(f), least: 1 + count(*), all: sum(v) - count(*)";

fn shown(key: &Option<String>, rows: &[Row], linear: bool) -> String {
    let n = rows.len() as i64;
    let s: i64 = rows.iter().map(|row| row.v).sum();
    let floats: Vec<f64> = rows.iter().filter_map(|row| row.f).collect();
    let mut different: Vec<i64> = rows.iter().map(|row| row.v).collect();
    different.sort_unstable();
    different.dedup();
    let of = |value: f64| (!floats.is_empty()).then_some(value);
    let text = |value: Option<f64>| value.map_or("null".to_owned(), |value| value.to_string());
    let (sum, least) = (of(floats.iter().sum()), of(floats.iter().copied().fold(f64::INFINITY, f64::min)));
    match linear {
        false => format!("{key:?} {n} {s} {} {} {}", text(sum), text(least), different.len()),
        true => format!("{key:?} {n} {s} {} {} {}", floats.len(), 1 + n, s - n),
    }
}

fn reference(epochs: &Epochs, expire: Option<i64>, linear: bool) -> (Out, usize) {
    let mut kept: BTreeMap<Option<String>, Vec<Row>> = BTreeMap::new();
    let mut last: BTreeMap<Option<String>, i64> = BTreeMap::new();
    let mut before = None;
    let (mut all, mut late) = (Vec::new(), 0);
    for (rows, watermark) in epochs {
        let was: BTreeMap<_, _> = kept.iter().map(|(key, rows)| (key.clone(), shown(key, rows, linear))).collect();
        for row in rows {
            if let (Some(expire), Some(before)) = (expire, before)
                && row.at + expire < before
            {
                late += 1;
                continue;
            }
            let of_key = kept.entry(row.key.clone()).or_default();
            match row.removes {
                false => of_key.push(row.clone()),
                true => {
                    let like = |other: &Row| (other.v, other.f) == (row.v, row.f);
                    of_key.swap_remove(of_key.iter().position(like).unwrap());
                }
            }
            let time = last.entry(row.key.clone()).or_insert(row.at);
            *time = (*time).max(row.at);
        }
        if let (Some(expire), Some(watermark)) = (expire, watermark.filter(|watermark| *watermark < i64::MAX)) {
            kept.retain(|key, _| last[key] >= watermark - expire);
            last.retain(|_, time| *time >= watermark - expire);
        }
        kept.retain(|_, rows| !rows.is_empty());
        let is: BTreeMap<_, _> = kept.iter().map(|(key, rows)| (key.clone(), shown(key, rows, linear))).collect();
        let gone = was.iter().filter(|(key, text)| is.get(*key) != Some(text)).map(|(_, text)| format!("- {text}"));
        let come = is.iter().filter(|(key, text)| was.get(*key) != Some(text)).map(|(_, text)| format!("+ {text}"));
        let mut out: Vec<String> = gone.chain(come).collect();
        out.sort();
        all.push(out);
        before = *watermark;
    }
    (all, late)
}

fn plan(operators: &str, late: bool) -> Plan {
    let read: &[(&str, &[&str])] = if late { &[("a", &[]), ("a.late", &["v"])] } else { &[("a", &[])] };
    let (plan, problems) = Given { source: SOURCE, operators, read, ..Given::default() }.plan();
    plan.unwrap_or_else(|| panic!("{problems}"))
}

fn step(plan: &Plan) -> Aggregate {
    with_step(plan, "a", |planned, cx| {
        let plan: &AggregatePlan = crate::planned(planned, "aggregate").unwrap();
        Aggregate::new(plan, cx, crate::testing::store()).unwrap()
    })
}

fn rows_of(rows: &[Row], columns: &[String], timed: bool) -> Rows {
    let column = |name: &String| -> ArrayRef {
        match name.as_str() {
            "k" => Arc::new(rows.iter().map(|row| row.key.clone()).collect::<StringArray>()),
            "v" => Arc::new(rows.iter().map(|row| row.v).collect::<Int64Array>()),
            "f" => Arc::new(rows.iter().map(|row| row.f).collect::<Float64Array>()),
            _ => Arc::new(rows.iter().map(|row| row.at).collect::<Int64Array>()),
        }
    };
    let columns = columns.iter().map(|name| (name, column(name), true));
    Rows {
        batch: RecordBatch::try_from_iter_with_nullable(columns).unwrap(),
        positions: Positions::Range { origin: origin(SourceId(0), 0), first: 0 },
        ingest_ns: Times::One(7),
        born_ns: Times::One(7),
        event_ns: timed.then(|| Times::Each(rows.iter().map(|row| row.at).collect())),
        removes: Some(rows.iter().map(|row| row.removes).collect()),
    }
}

fn text_of(rows: &Rows) -> Vec<String> {
    let cell = |column: &ArrayRef, row: usize| match column.is_null(row) {
        true => "null".to_owned(),
        false => match column.data_type() {
            arrow::datatypes::DataType::Int64 => column.as_primitive::<Int64Type>().value(row).to_string(),
            _ => column.as_primitive::<Float64Type>().value(row).to_string(),
        },
    };
    let of_row = |row: usize| {
        let keys = rows.batch.column(0).as_string::<i32>();
        let key = (!arrow::array::Array::is_null(keys, row)).then(|| keys.value(row).to_owned());
        let cells: Vec<String> = rows.batch.columns()[1..].iter().map(|column| cell(column, row)).collect();
        format!("{} {key:?} {}", if rows.is_removed(row) { "-" } else { "+" }, cells.join(" "))
    };
    (0..rows.num_rows()).map(of_row).collect()
}

/// What comes out in each epoch, with a restart before some of them.
fn run(plan: &Plan, epochs: &Epochs, batch: usize, restarts: &[usize]) -> (Out, usize) {
    let mut at_work = step(plan);
    let columns: Vec<String> = {
        let input = plan.find("a").unwrap().inputs[0];
        let output = &plan.output(input).stream.schema;
        let wanted = &plan.step(input.from).wanted[input.port];
        output.fields().iter().map(|field| field.name().clone()).filter(|name| wanted.contains(name)).collect()
    };
    let ports = plan.find("a").unwrap().row_outputs().len();
    let mut slots: BTreeMap<(Vec<u8>, i64), Vec<u8>> = BTreeMap::new();
    let mut before = None;
    let (mut all, mut late) = (Vec::new(), 0);
    for (number, (rows, watermark)) in epochs.iter().enumerate() {
        if restarts.contains(&number) {
            at_work = step(plan);
            for ((key, slice), state) in &slots {
                at_work.restore(key, *slice, state).unwrap();
            }
        }
        let batches = rows.chunks(batch).map(|rows| rows_of(rows, &columns, ports > 1)).collect();
        let moment =
            Moment { epoch: Epoch(number as u64), late_ns: vec![before], watermark_ns: vec![*watermark], clock_ns: 9 };
        let mut out = StepOutput::new(ports);
        at_work.close(&moment, vec![batches], &mut out);
        while at_work.resume(&mut out) {}
        assert!(out.errors.is_empty(), "{:?}", out.errors);
        let mut texts: Vec<String> = out.ports[0].iter().flat_map(text_of).collect();
        texts.sort();
        all.push(texts);
        late += out.late as usize;
        at_work.drain_changes(&mut |change| match change {
            Change::Put { key, slice, state } => {
                slots.insert((key.to_vec(), slice), state.to_vec());
            }
            Change::Delete { key, slice } => {
                slots.remove(&(key.to_vec(), slice));
            }
        });
        before = *watermark;
    }
    (all, late)
}

fn random_epochs(next: &mut impl FnMut(u64) -> u64, changelog: bool) -> Epochs {
    let mut live: Vec<Row> = Vec::new();
    let (mut now, mut watermark) = (0, None);
    let mut epochs = Epochs::new();
    for _ in 0..next(10) {
        let mut rows = Vec::new();
        for _ in 0..next(10) {
            now += next(5) as i64;
            if changelog && !live.is_empty() && next(3) == 0 {
                let row = live.swap_remove(next(live.len() as u64) as usize);
                rows.push(Row { removes: true, ..row });
                continue;
            }
            let key = match next(6) {
                0 => None,
                1..4 => Some("hot".to_owned()),
                key => Some(format!("k{key}")),
            };
            let f = (next(5) > 0).then(|| next(64) as f64 / 8.0);
            let row = Row { key, v: next(20) as i64 - 5, f, at: now - next(12) as i64, removes: false };
            live.push(row.clone());
            rows.push(row);
        }
        watermark = watermark.max((next(2) > 0).then(|| now - next(10) as i64));
        epochs.push((rows, watermark));
    }
    epochs.push((Vec::new(), Some(i64::MAX)));
    epochs
}

#[test]
fn totals_equal_an_obvious_reference() {
    let pre = "p: { type: top, input: rows, by: at, limit: 1 }";
    let forms = [
        (format!("a: {{ type: aggregate, input: rows, key: k, columns: {{ {COLUMNS} }} }}"), None, false, false),
        (
            format!("a: {{ type: aggregate, input: rows, key: k, columns: {{ {COLUMNS} }}, expire_after: 9ns }}"),
            Some(9),
            false,
            false,
        ),
        (format!("{pre}\na: {{ type: aggregate, input: p, key: k, columns: {{ {COLUMNS} }} }}"), None, true, false),
        (format!("{pre}\na: {{ type: aggregate, input: p, key: k, columns: {{ {LINEAR} }} }}"), None, true, true),
    ];
    let (mut changes, mut too_late) = (0, 0);
    for (operators, expire, changelog, linear) in &forms {
        let plan = plan(operators, expire.is_some());
        for seed in 0..300u64 {
            let mut random = seed;
            let mut next = move |bound: u64| {
                random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                (random >> 33) % bound
            };
            let epochs = random_epochs(&mut next, *changelog);
            let (expected, late) = reference(&epochs, *expire, *linear);
            changes += expected.iter().map(Vec::len).sum::<usize>();
            too_late += late;
            let restart = next(epochs.len() as u64) as usize;
            for (batch, restarts) in [(100, &[][..]), (1, &[restart]), (3, &[restart])] {
                let came = run(&plan, &epochs, batch, restarts);
                assert_eq!(came, (expected.clone(), late), "seed {seed} {operators} {restarts:?}: {epochs:?}");
            }
        }
    }
    assert!(changes > 5_000 && too_late > 3, "{changes} {too_late}");
}

#[test]
fn many_keys_leave_in_portions() {
    let plan = plan("a: { type: aggregate, input: rows, key: k, columns: { n: count(*), s: sum(v) } }", false);
    let row = |n: i64| Row { key: Some(n.to_string()), v: n, f: None, at: 0, removes: false };
    let rows: Vec<Row> = (0..20_000).map(row).collect();
    let mut step = step(&plan);
    let columns = ["k".to_owned(), "v".to_owned()];
    let mut out = StepOutput::new(1);
    step.close(&Moment::timeless(Epoch(0), 1), vec![vec![rows_of(&rows, &columns, false)]], &mut out);
    let mut portions = 1;
    while step.resume(&mut out) {
        portions += 1;
    }
    let mut came: Vec<String> = out.ports[0].iter().flat_map(text_of).collect();
    came.sort();
    let mut expected: Vec<String> = (0..20_000).map(|n| format!("+ {:?} 1 {n}", Some(n.to_string()))).collect();
    expected.sort();
    assert!(came == expected && portions == 3, "{portions}");
}

#[test]
fn a_total_that_fails_is_told_once_and_comes_back() {
    let plan = plan("a: { type: aggregate, input: rows, key: k, columns: { s: sum(v) } }", false);
    let mut step = step(&plan);
    let row = |v: i64| Row { key: None, v, f: None, at: 0, removes: false };
    let columns = ["k".to_owned(), "v".to_owned()];
    let mut epoch = 0;
    let mut give = |values: &[i64]| {
        let rows: Vec<Row> = values.iter().map(|v| row(*v)).collect();
        let mut out = StepOutput::new(1);
        step.close(&Moment::timeless(Epoch(epoch), 1), vec![vec![rows_of(&rows, &columns, false)]], &mut out);
        while step.resume(&mut out) {}
        epoch += 1;
        let errors = out.errors.iter().map(|error| error.error.code.to_string());
        out.ports[0].iter().flat_map(text_of).chain(errors).collect::<Vec<_>>()
    };
    assert_eq!(give(&[1]), ["+ None 1"]);
    assert_eq!(give(&[i64::MAX]), ["- None 1", "overflow"]);
    assert_eq!(give(&[-5]), ["+ None 9223372036854775803"]);
}

#[test]
fn what_is_wrong_is_told() {
    let problems = |operators: &str, expected: &str| {
        check_problems(&Given { source: SOURCE, operators, read: &[("a", &[])], ..Given::default() }, expected);
    };
    problems("a: { type: aggregate, input: rows, key: kk, columns: { k: count(*), l: lag(v) }, expire_after: 0s }",
        "E0320 `kk` there is no column `kk` here | did you mean `k`? | the columns are `k`, `v`, `f`, `at`
         E0347 `lag(v)` `lag` is the value of the row before, and totals have one row for many | use `rolling`, or `last(x)`
         E0343 `0s` `expire_after` must be longer than nothing",
    );
    problems(
        "a: { type: aggregate, input: w, key: window_end, columns: { n: count(*) }, expire_after: 1h }\nw: { type: window, input: rows, tumbling: 1m, columns: { n: count(*) } }",
        "E0343 `expire_after` nothing is kept here that could expire | leave it out: the key has the bounds of a window, so that \
         all its rows come at once",
    );
    problems(
        "t: { type: top, input: rows, by: v, limit: 1 }\na: { type: aggregate, input: t, columns: { n: min(CAST(now() AS BIGINT)) } }",
        "E0309 `min(CAST(now() AS BIGINT))` the time of the row's arrival is another one when the row is taken back ^ these rows \
         are a changelog | compute it before the step that makes the changelog, as a column",
    );
    problems("a: { type: top, input: rows, key: f, by: [v desc, g], limit: 0 }",
        "E0308 `f` `f` is of type float64, which can't be a key | cast it to an integer, a decimal or a string with a `map` before
         E0207 `g` there is no column `g` | the columns are: k, v, f, at | for text, write single quotes: `'g'`, in YAML `\"'g'\"`
         E0151 `0` `limit` is at least 1 | write how many rows of each key come out: `limit: 10`",
    );
}
