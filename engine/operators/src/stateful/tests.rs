//! Folds against an obvious reference: one row after the other, with a map of records.

use super::plan::StatefulPlan;
use super::step::StatefulStep;
use crate::payload;
use crate::testing::{Given, with_step};
use arrow::array::{ArrayRef, Decimal128Array, Int64Array, RecordBatch, StringArray};
use arrow::datatypes::SchemaRef;
use engine_base::{Epoch, SourceId, StepId};
use engine_dataflow::StepState as _;
use engine_dataflow::rows::{RowPosition, made_by, origin};
use engine_dataflow::{EpochStep, Moment, Positions, Rows, StepOutput, Times};
use engine_state::Change;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

mod cases;

const SOURCE: &str = "
    schema: { id: int64, k: string | null, v: int64 | null, amount: \"decimal(6, 2)\", at: timestamp }
    event_time: { column: at }";

#[derive(Clone, Debug)]
struct Row {
    id: i64,
    k: Option<String>,
    v: Option<i64>,
    cents: i128,
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

/// What is set of a fold.
#[derive(Clone, Copy, Debug)]
struct Form {
    emits: bool,
    when: bool,
    timer: bool,
    timer_emits: bool,
    clear: bool,
    expire_after: Option<i64>,
}

impl Form {
    fn random(random: &mut Random) -> Form {
        let mut coin = || random.below(2) == 0;
        let (emits, when, timer, clear, expires) = (coin(), coin(), coin(), coin(), coin());
        let timer_emits = coin() || !emits || !clear;
        let emits = emits || !timer;
        let expire_after = expires.then(|| 5 + random.below(40) as i64);
        Form { emits, when, timer, timer_emits, clear, expire_after }
    }

    fn yaml(self) -> String {
        let mut text = "f:
           type: stateful
           input: rows
           key: k
           state:
             total: { type: \"decimal(5, 2)\", init: 0.00 }
             n: { type: int32, init: 0 }
             last: { type: int64 | null, init: null }
             share: { type: int64 | null }
             since: { type: timestamp | null }
             path: { type: string, init: '' }
           update:
             total: this.total + amount
             n: this.n + 1
             last: v
             share: 100 / v
             since: CASE WHEN this.total + amount < 0 THEN coalesce(this.since, at) END
             path: right(this.path || CAST(id AS string), 7)
"
        .to_owned();
        if self.emits {
            text += "           emit:\n";
            if self.when {
                text += "             when: this.total < 0 OR v > 3\n";
            }
            text +=
                "             columns: { id: id, total: this.total, n: this.n, path: this.path, odd: 10 / (v - 1) }\n";
        }
        if self.timer {
            text += "           timer:
             at: CASE WHEN 10 / (this.n - 7) > -100 THEN this.since + INTERVAL '10ns' END\n";
            if self.timer_emits {
                text += "             emit: { columns: { n: this.n, path: this.path, fifth: 10 / (this.n - 3) } }\n";
            }
            text += &format!("             clear: {}\n", self.clear);
        }
        if let Some(expire_after) = self.expire_after {
            text += &format!("           expire_after: {expire_after}ns\n");
        }
        text
    }
}

/// The rows of an epoch, and the watermark at its close.
type Epochs = Vec<(Vec<Row>, Option<i64>)>;

/// Rows in some disorder, with late ones, null keys and skew.
fn epochs(random: &mut Random) -> Epochs {
    let mut epochs = Vec::new();
    let (mut now, mut id, mut watermark) = (random.below(100) as i64 - 50, 0, None);
    let large = random.below(4) == 0;
    for _ in 0..random.below(12) {
        let mut rows = Vec::new();
        for _ in 0..random.below(14) {
            now += random.below(6) as i64;
            let at = now - if random.below(10) == 0 { random.below(60) } else { random.below(8) } as i64;
            let k = match random.below(8) {
                0 => None,
                1..5 => Some("hot".to_owned()),
                k => Some(format!("k{k}")),
            };
            let v = (random.below(6) > 0).then(|| random.below(9) as i64);
            let cents = random.below(if large { 120_000 } else { 2_000 }) as i128 - if large { 60_000 } else { 1_000 };
            rows.push(Row { id, k, v, cents, at });
            id += 1;
        }
        if random.below(3) > 0 {
            watermark = watermark.max(Some(now - random.below(20) as i64));
        }
        epochs.push((rows, watermark));
    }
    epochs.push((Vec::new(), Some(i64::MAX)));
    epochs
}

/// What comes out in an epoch: rows that were emitted, rows of timers, and the rows that failed with their codes.
#[derive(Clone, Debug, Default, PartialEq)]
struct Out {
    rows: Vec<String>,
    timers: Vec<String>,
    errors: BTreeSet<(i64, String)>,
}

#[derive(Clone, Debug, Default)]
struct Kept {
    cents: i128,
    n: i64,
    since: Option<i64>,
    path: String,
    seen: i64,
    timer: Option<i64>,
    fired: bool,
}

fn shown(value: Option<impl ToString>) -> String {
    value.map_or("null".to_owned(), |value| value.to_string())
}

fn decimal(cents: i128) -> String {
    format!("{}{}.{:02}", if cents < 0 { "-" } else { "" }, cents.abs() / 100, cents.abs() % 100)
}

fn reference(form: Form, epochs: &Epochs) -> Vec<Out> {
    let mut records: BTreeMap<Option<String>, Kept> = BTreeMap::new();
    let mut before: Option<i64> = None;
    let mut all = Vec::new();
    for (rows, watermark) in epochs {
        let mut out = Out::default();
        for row in rows {
            let mut kept = records.get(&row.k).cloned().unwrap_or(Kept { seen: i64::MIN, ..Kept::default() });
            let total = kept.cents + row.cents;
            if row.v == Some(0) {
                out.errors.insert((row.id, "divide_by_zero".to_owned()));
                continue;
            }
            if total.abs() > 99_999 {
                out.errors.insert((row.id, "overflow".to_owned()));
                continue;
            }
            kept.cents = total;
            kept.n += 1;
            kept.since = if total < 0 { kept.since.or(Some(row.at)) } else { None };
            kept.path += &row.id.to_string();
            kept.path = kept.path[kept.path.len().saturating_sub(7)..].to_owned();
            kept.seen = kept.seen.max(row.at);
            let no_time = form.timer && kept.n == 7;
            if form.timer && !no_time {
                let timer = kept.since.map(|since| since + 10);
                kept.fired &= timer == kept.timer;
                kept.timer = timer;
            }
            records.insert(row.k.clone(), kept.clone());
            if no_time {
                out.errors.insert((row.id, "divide_by_zero".to_owned()));
            } else if form.emits && (!form.when || kept.cents < 0 || row.v.is_some_and(|v| v > 3)) {
                if row.v == Some(1) {
                    out.errors.insert((row.id, "divide_by_zero".to_owned()));
                } else {
                    let odd = row.v.map(|v| 10 / (v - 1));
                    let (total, n, path) = (decimal(kept.cents), kept.n, &kept.path);
                    out.rows.push(format!(
                        "{:?} id={} {total} n={n} {path} odd={} @{}",
                        row.k,
                        row.id,
                        shown(odd),
                        row.at
                    ));
                }
            }
        }
        if let Some(now) = *watermark {
            let mut timers = Vec::new();
            for (key, kept) in &mut records {
                let end = form.expire_after.map(|after| kept.seen + after);
                if let Some(at) = kept.timer
                    && !kept.fired
                    && at <= now
                    && end.is_none_or(|end| at <= end)
                {
                    kept.fired = true;
                    let at = before.map_or(at, |before| at.max(before));
                    if form.timer_emits && kept.n != 3 {
                        let fifth = 10 / (kept.n - 3);
                        timers.push((at, format!("{key:?} n={} {} fifth={fifth} @{at}", kept.n, kept.path)));
                    } else if form.timer_emits {
                        out.errors.insert((-1, "divide_by_zero".to_owned()));
                    }
                    if form.clear {
                        kept.seen = i64::MIN;
                        kept.n = -1;
                    }
                }
            }
            let ended = |kept: &Kept| form.expire_after.is_some_and(|after| kept.seen.saturating_add(after) <= now);
            records.retain(|_, kept| kept.n != -1 && !ended(kept));
            // Of one time in the order of their keys, null first.
            timers.sort();
            out.timers = timers.into_iter().map(|(_, text)| text).collect();
        }
        all.push(out);
        before = before.max(*watermark);
    }
    all
}

/// The steps of some workers over the same epochs, each with the keys that are its own.
fn run(form: Form, epochs: &Epochs, workers: usize, batch: usize, restore: u64) -> Vec<Out> {
    let operators = form.yaml();
    // Something behind it reads the event time.
    let operators = format!("{operators}\nlater: {{ type: map, input: f, set: {{ time: event_time() }} }}");
    let read: &[(&str, &[&str])] = &[("later", &[]), ("f.errors", &[])];
    let given = Given { source: SOURCE, operators: &operators, read, ..Given::default() };
    let (plan, problems) = given.plan();
    let plan = plan.unwrap_or_else(|| panic!("{problems}"));
    let mut steps: Vec<StatefulStep> = (0..workers).map(|_| step_of(&plan)).collect();
    let mut checkpoint: BTreeMap<(Vec<u8>, i64), Vec<u8>> = BTreeMap::new();
    let schema = plan.sources().next().unwrap().outputs[0].stream.schema.clone();
    let mut random = Random(restore);
    let (mut all, mut before) = (Vec::new(), None);
    let mut positions: BTreeSet<RowPosition> = BTreeSet::new();
    for (number, (rows, watermark)) in epochs.iter().enumerate() {
        let mut out = Out::default();
        let mut emitted = Vec::new();
        let mut fired = Vec::new();
        for (worker, step) in steps.iter_mut().enumerate() {
            if restore > 0 && random.below(2) == 0 {
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
            let mine = |row: &&Row| row.k.as_ref().map_or(0, String::len) * 7 % workers == worker;
            let mine: Vec<&Row> = rows.iter().filter(mine).collect();
            let batches = mine.chunks(batch.max(1)).map(|rows| rows_of(rows, &schema)).collect();
            let moment = Moment {
                epoch: Epoch(number as u64),
                late_ns: vec![before],
                watermark_ns: vec![*watermark],
                clock_ns: 0,
            };
            let mut step_out = StepOutput::new(1);
            step.close(&moment, vec![batches], &mut step_out);
            while step.resume(&mut step_out) {}
            for error in &step_out.errors {
                let payload: serde_json::Value = serde_json::from_slice(&error.payload).unwrap();
                let of_row = error.position.origin == origin(SourceId(0), 0);
                let id = payload["id"].as_i64().filter(|_| of_row).unwrap_or(-1);
                out.errors.insert((id, error.error.code.to_owned()));
            }
            let mut last = None;
            for rows in &step_out.ports[0] {
                for (row, line) in lines_of(rows, form.emits).into_iter().enumerate() {
                    let position = rows.position(row);
                    assert!(last.as_ref().is_none_or(|last| *last < position), "rows come in canonical order");
                    assert!(positions.insert(position.clone()), "{position:?} twice");
                    last = Some(position.clone());
                    match position.origin == made_by(StepId(2)) {
                        true => fired.push((position, line)),
                        false => emitted.push((position, line)),
                    }
                }
            }
            if watermark.is_some_and(|watermark| watermark == i64::MAX) && form.expire_after.is_some() {
                assert_eq!(step.records(), 0, "all ends at the end");
            }
        }
        emitted.sort();
        fired.sort();
        out.rows = emitted.into_iter().map(|(_, line)| line).collect();
        out.timers = fired.into_iter().map(|(_, line)| line).collect();
        all.push(out);
        before = before.max(*watermark);
    }
    all
}

fn step_of(plan: &engine_plan::Plan) -> StatefulStep {
    with_step(plan, "f", |planned, cx| {
        let planned: &StatefulPlan = planned.downcast().unwrap();
        StatefulStep::new(planned, cx, crate::testing::store()).unwrap()
    })
}

fn rows_of(rows: &[&Row], schema: &SchemaRef) -> Rows {
    let amounts: Decimal128Array = rows.iter().map(|row| Some(row.cents)).collect();
    let at: Int64Array = rows.iter().map(|row| row.at).collect();
    let columns: Vec<ArrayRef> = vec![
        Arc::new(rows.iter().map(|row| row.id).collect::<Int64Array>()),
        Arc::new(rows.iter().map(|row| row.k.clone()).collect::<StringArray>()),
        Arc::new(rows.iter().map(|row| row.v).collect::<Int64Array>()),
        Arc::new(amounts.with_precision_and_scale(6, 2).unwrap()),
        arrow::compute::cast(&at, schema.field_with_name("at").unwrap().data_type()).unwrap(),
    ];
    Rows {
        batch: RecordBatch::try_new(schema.clone(), columns).unwrap(),
        positions: Positions::Offsets {
            origin: origin(SourceId(0), 0),
            offsets: rows.iter().map(|row| row.id as u64).collect::<Vec<_>>().into(),
        },
        ingest_ns: Times::One(0),
        born_ns: Times::One(0),
        event_ns: Some(Times::Each(rows.iter().map(|row| row.at).collect())),
        removes: None,
    }
}

fn lines_of(rows: &Rows, emits: bool) -> Vec<String> {
    let numbers: Vec<usize> = (0..rows.num_rows()).collect();
    let made = |row: usize| rows.position(row).origin != origin(SourceId(0), 0);
    let lines = payload::json_rows(&rows.batch, &numbers).into_iter().enumerate().map(|(row, line)| {
        let line: serde_json::Value = serde_json::from_slice(&line).unwrap();
        let key = line["k"].as_str().map(str::to_owned);
        let number = |name: &str| line[name].as_i64();
        let (n, path) = (shown(number("n")), line["path"].as_str().unwrap());
        let at = rows.event_ns.as_ref().unwrap().get(row);
        if made(row) {
            assert!(line["id"].is_null() && line["total"].is_null());
            return format!("{key:?} n={n} {path} fifth={} @{at}", shown(number("fifth")));
        }
        assert!(emits && line["fifth"].is_null());
        let total = line["total"].to_string();
        let total: f64 = total.trim_matches('"').parse().unwrap();
        let total = decimal((total * 100.0).round() as i128);
        format!("{key:?} id={} {total} n={n} {path} odd={} @{at}", shown(number("id")), shown(number("odd")))
    });
    lines.collect()
}

/// Runs a case; how many rows, timers and errors came of it.
fn check(seed: u64) -> [usize; 3] {
    let mut random = Random(seed);
    let form = Form::random(&mut random);
    let epochs = epochs(&mut random);
    let expected = reference(form, &epochs);
    for (workers, batch, restore) in [(1, 100, 0), (2, 1, 0), (3, 4, 0), (1, 7, seed + 1), (1, 100, seed + 2)] {
        let got = run(form, &epochs, workers, batch, restore);
        for (at, (got, expected)) in got.iter().zip(&expected).enumerate() {
            let how = format!("{workers} workers, batches of {batch}, restore {restore}");
            assert_eq!(got, expected, "seed {seed}, epoch {at}, {how}: {form:?}\n{epochs:#?}");
        }
    }
    let count = |of: &dyn Fn(&Out) -> usize| expected.iter().map(of).sum();
    [count(&|out| out.rows.len()), count(&|out| out.timers.len()), count(&|out| out.errors.len())]
}

#[test]
fn folds_equal_an_obvious_reference() {
    let counts = (0..1200).map(check).fold([0; 3], |all, one| [0, 1, 2].map(|at| all[at] + one[at]));
    assert!(counts.iter().all(|count| *count > 1_000), "the cases say too little: {counts:?}");
}
