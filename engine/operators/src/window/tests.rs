//! Windows against an obvious reference: all rows are kept, and each window is computed anew from them.

use super::plan::WindowPlan;
use super::step::WindowStep;
use crate::payload;
use crate::testing::{Given, check_problems, with_step};
use arrow::array::{Array, ArrayRef, AsArray, Float64Array, Int64Array, RecordBatch, StringArray};
use arrow::datatypes::Float64Type;
use engine_base::{Epoch, SourceId, StepId};
use engine_dataflow::StepState as _;
use engine_dataflow::rows::origin;
use engine_dataflow::{EpochStep, Moment, Positions, Rows, StepOutput, Times};
use engine_state::Change;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

const SOURCE: &str = "
    schema: { id: int64, k: string | null, v: int64 | null, x: float64, at: timestamp }
    event_time: { column: at }";

#[derive(Clone, Debug)]
struct Row {
    id: i64,
    k: Option<String>,
    v: Option<i64>,
    x: f64,
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

/// How the windows of a case are cut.
#[derive(Clone, Copy, Debug)]
enum Form {
    Hopping { size: i64, every: i64, offset: i64 },
    Session { gap: i64 },
    Count { rows: usize },
    Global,
}

impl Form {
    fn yaml(self) -> String {
        match self {
            Form::Hopping { size, every, offset } if size == every => {
                format!("tumbling: {{ size: {size}ns, offset: {offset}ns }}")
            }
            Form::Hopping { size, every, offset } => {
                format!("hopping: {{ size: {size}ns, every: {every}ns, offset: {offset}ns }}")
            }
            Form::Session { gap } => format!("session: {{ gap: {gap}ns }}"),
            Form::Count { rows } => format!("count: {rows}"),
            Form::Global => "global: {}".to_owned(),
        }
    }

    fn by_rows(self) -> bool {
        matches!(self, Form::Count { .. } | Form::Global)
    }
}

/// A worker's step.
fn step_of(plan: &engine_plan::Plan) -> WindowStep {
    with_step(plan, "w", |planned, cx| {
        let planned: &WindowPlan = planned.downcast().unwrap();
        WindowStep::new(planned, cx, crate::testing::store()).unwrap()
    })
}

/// The rows of an epoch, and the watermark at its close.
type Epochs = Vec<(Vec<Row>, Option<i64>)>;

/// Rows in some disorder, with late ones, null keys, skew and infinities.
fn epochs(random: &mut Random) -> Epochs {
    let mut epochs = Vec::new();
    let (mut now, mut id, mut watermark) = (random.below(100) as i64 - 50, 0, None);
    for _ in 0..random.below(12) {
        let mut rows = Vec::new();
        for _ in 0..random.below(12) {
            now += random.below(6) as i64;
            let at = now - if random.below(10) == 0 { random.below(60) } else { random.below(8) } as i64;
            let k = match random.below(8) {
                0 => None,
                1..5 => Some("hot".to_owned()),
                k => Some(format!("k{k}")),
            };
            let v = (random.below(6) > 0).then(|| random.below(1000) as i64 - 500);
            let x = if random.below(30) == 0 { f64::INFINITY } else { random.below(1000) as f64 / 7.0 };
            rows.push(Row { id, k, v, x, at });
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

/// A step of a test.
#[derive(Clone, Copy, Debug)]
struct Case {
    form: Form,
    lateness: i64,
    keyed: bool,
}

/// What comes out in each epoch, sorted, and the ids of late rows.
#[derive(Debug, PartialEq)]
struct Out {
    windows: Vec<(String, Vec<f64>)>,
    late: Vec<i64>,
}

fn reference(form: Form, lateness: i64, epochs: &Epochs) -> Vec<Out> {
    // Rows that count, with the window for a session that is out.
    let mut taken: Vec<Row> = Vec::new();
    // Windows of rows that are not full.
    let mut filling: BTreeMap<Option<String>, Vec<Row>> = BTreeMap::new();
    let mut before: Option<i64> = None;
    let bound = |watermark: Option<i64>| watermark.map(|at| if at == i64::MAX { at } else { at - lateness });
    let mut all = Vec::new();
    for (rows, watermark) in epochs {
        let mut out = Out { windows: Vec::new(), late: Vec::new() };
        let (closed, closing) = (bound(before), bound(*watermark));
        for row in rows {
            let last_end = match form {
                Form::Hopping { size, every, offset } => {
                    let ends = (row.at + 1..=row.at + size).filter(|end| (end - size - offset).rem_euclid(every) == 0);
                    match ends.max() {
                        Some(end) => end,
                        None => continue,
                    }
                }
                Form::Session { gap } => {
                    let touches = |other: &&Row| other.k == row.k && (other.at - row.at).abs() < gap;
                    // What it would join decides.
                    if taken.iter().any(|other| touches(&other)) { i64::MAX } else { row.at + gap }
                }
                Form::Count { .. } | Form::Global => i64::MAX,
            };
            match closed.is_some_and(|closed| last_end <= closed) {
                true if !form.by_rows() => out.late.push(row.id),
                _ => taken.push(row.clone()),
            }
        }
        if let Some(closing) = closing {
            let mut windows: BTreeMap<(Option<String>, i64, i64), Vec<Row>> = BTreeMap::new();
            match form {
                Form::Hopping { size, every, offset } => {
                    for row in &taken {
                        for end in
                            (row.at + 1..=row.at + size).filter(|end| (end - size - offset).rem_euclid(every) == 0)
                        {
                            if end <= closing && closed.is_none_or(|closed| closed < end) {
                                windows.entry((row.k.clone(), end - size, end)).or_default().push(row.clone());
                            }
                        }
                    }
                }
                Form::Session { gap } => {
                    let mut keys: Vec<Option<String>> = taken.iter().map(|row| row.k.clone()).collect();
                    keys.sort();
                    keys.dedup();
                    for key in keys {
                        let mut times: Vec<i64> = taken.iter().filter(|row| row.k == key).map(|row| row.at).collect();
                        times.sort_unstable();
                        for session in times.chunk_by(|a, b| b - a < gap) {
                            let (start, end) = (session[0], session[session.len() - 1] + gap);
                            if end <= closing {
                                let of = |row: &Row| row.k == key && start <= row.at && row.at < end;
                                let rows = taken.iter().filter(|row| of(row)).cloned().collect();
                                taken.retain(|row| !of(row));
                                windows.insert((key.clone(), start, end), rows);
                            }
                        }
                    }
                }
                // They are filled as rows come.
                Form::Count { .. } | Form::Global => {}
            }
            for ((key, start, end), rows) in windows {
                out.windows.push(results(&key, start, end, rows));
            }
        }
        if form.by_rows() {
            let full = if let Form::Count { rows } = form { rows } else { usize::MAX };
            for row in taken.drain(..) {
                let rows = filling.entry(row.k.clone()).or_default();
                rows.push(row.clone());
                if rows.len() == full {
                    out.windows.push(of_rows(&row.k, std::mem::take(rows)));
                }
            }
            if *watermark == Some(i64::MAX) {
                let rest = std::mem::take(&mut filling).into_iter().filter(|(_, rows)| !rows.is_empty());
                out.windows.extend(rest.map(|(key, rows)| of_rows(&key, rows)));
            }
        }
        out.windows.sort_by(|a, b| a.0.cmp(&b.0));
        all.push(out);
        before = *watermark;
    }
    all
}

/// A window whose bounds are those of its rows.
fn of_rows(key: &Option<String>, rows: Vec<Row>) -> (String, Vec<f64>) {
    let times = || rows.iter().map(|row| row.at);
    let (start, end) = (times().min().unwrap(), times().max().unwrap() + 1);
    results(key, start, end, rows)
}

/// What comes out for the rows of a window, which stand in the order in which they came.
fn results(key: &Option<String>, start: i64, end: i64, rows: Vec<Row>) -> (String, Vec<f64>) {
    let mut values: Vec<i64> = rows.iter().filter_map(|row| row.v).collect();
    let mut distinct = values.clone();
    distinct.sort_unstable();
    distinct.dedup();
    let option = |value: Option<i64>| value.map_or("null".to_owned(), |value| value.to_string());
    let joined = |ids: Vec<i64>| ids.iter().map(i64::to_string).collect::<Vec<_>>().join(" ");
    // In the order of arrival where others are equal: `sort` is stable.
    let sorted = |by: &dyn Fn(&Row) -> (i64, i64)| {
        let mut rows = rows.clone();
        rows.sort_by_key(by);
        rows.into_iter().map(|row| row.id).collect::<Vec<i64>>()
    };
    let by_time = sorted(&|row| (row.at, 0));
    let by_value = sorted(&|row| (i64::from(row.v.is_none()), -row.v.unwrap_or(0)));
    let mut kinds: Vec<i64> = Vec::new();
    for kind in values.iter().map(|v| v % 5) {
        if !kinds.contains(&kind) {
            kinds.push(kind);
        }
    }
    kinds.sort_unstable();
    let exact: Vec<String> = vec![
        format!("{key:?} {start} {end} n={}", rows.len()),
        format!("nv={} d={}", values.len(), distinct.len()),
        format!("sum={}", option((!values.is_empty()).then(|| values.iter().sum()))),
        format!("least={}", option(values.iter().min().copied())),
        format!("first={}", rows[0].id),
        format!("last={}", rows[rows.len() - 1].id),
        format!("early={} latest={}", by_time[0], by_time[by_time.len() - 1]),
        format!("top={}", by_value[0]),
        format!("dsum={}", option((!distinct.is_empty()).then(|| distinct.iter().sum()))),
        format!("listed='{}' kinds='{}'", joined(by_value), joined(kinds.clone())),
        format!("down='{}'", joined(kinds.into_iter().rev().collect())),
    ];
    let total: f64 = rows.iter().map(|row| row.x).sum();
    let mean = total / rows.len() as f64;
    let squares: f64 = rows.iter().map(|row| (row.x - mean).powi(2)).sum();
    values.sort_unstable();
    let percentile = |share: f64| match values.len() {
        0 => f64::NAN,
        count => {
            let at = share * (count - 1) as f64;
            let (low, high) = (values[at.floor() as usize] as f64, values[at.ceil() as usize] as f64);
            // As DataFusion does, to a millionth of the gap.
            low + (high - low) * ((at.fract() * 1e6).floor() / 1e6)
        }
    };
    let floats = vec![total, (squares / rows.len() as f64).sqrt(), percentile(0.5), percentile(0.9)];
    (exact.join(" "), floats)
}

/// The steps of some workers over the same epochs, each with the keys that are its own.
fn run(case: &Case, epochs: &Epochs, workers: usize, batch: usize, restore: bool) -> Vec<Out> {
    let Case { form, lateness, keyed } = *case;
    let (key, lateness) = (
        if keyed { "key: k" } else { "" },
        if form.by_rows() { String::new() } else { format!("lateness: {lateness}ns") },
    );
    let operators = format!(
        "w:
           type: window
           input: rows
           {key}
           {}
           {lateness}
           columns:
             n: count(*)
             nv: count(v)
             d: count(DISTINCT v)
             sum: sum(v)
             least: min(v)
             first: first(id)
             last: last(id)
             early: first_value(id ORDER BY at)
             latest: last_value(id ORDER BY event_time())
             top: first_value(id ORDER BY v DESC NULLS LAST)
             dsum: sum(DISTINCT v)
             listed: array_to_string(array_agg(id ORDER BY v DESC NULLS LAST), ' ')
             kinds: array_to_string(array_agg(DISTINCT v % 5), ' ')
             down: array_to_string(array_agg(DISTINCT v % 5 ORDER BY v % 5 DESC), ' ')
             total: sum(x)
             dev: stddev_pop(x)
             middle: median(CAST(v AS float64))
             high: percentile_cont(0.9) WITHIN GROUP (ORDER BY CAST(v AS float64))",
        form.yaml(),
    );
    let given =
        Given { source: SOURCE, operators: &operators, read: &[("w", &[]), ("w.late", &[])], ..Given::default() };
    let (plan, problems) = given.plan();
    let plan = plan.unwrap_or_else(|| panic!("{problems}"));
    let mut steps: Vec<WindowStep> = (0..workers).map(|_| step_of(&plan)).collect();
    let mut checkpoint: BTreeMap<(Vec<u8>, i64), Vec<u8>> = BTreeMap::new();
    let schema = plan.sources().next().unwrap().outputs[0].stream.schema.clone();
    let mut all = Vec::new();
    let mut before = None;
    let mut random = Random(7);
    let mut positions = BTreeSet::new();
    for (number, (rows, watermark)) in epochs.iter().enumerate() {
        let mut out = Out { windows: Vec::new(), late: Vec::new() };
        for (worker, step) in steps.iter_mut().enumerate() {
            if restore {
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
            let mut step_out = StepOutput::new(2);
            step.close(&moment, vec![batches], &mut step_out);
            while step.resume(&mut step_out) {}
            assert!(step_out.errors.is_empty(), "{:?}", step_out.errors);
            for rows in &step_out.ports[0] {
                out.windows.extend(windows_of(&rows.batch));
                for row in 0..rows.num_rows() {
                    assert_eq!(rows.positions.source(row).0, engine_dataflow::rows::made_by(StepId(2)));
                    assert!(
                        positions.insert(rows.position(row)),
                        "a position that was there: {:?}",
                        rows.position(row)
                    );
                }
            }
            for rows in &step_out.ports[1] {
                let ids = rows.batch.column_by_name("id").unwrap();
                let ids = ids.as_any().downcast_ref::<Int64Array>().unwrap();
                out.late.extend(ids.values());
            }
        }
        out.windows.sort_by(|a, b| a.0.cmp(&b.0));
        out.late.sort_unstable();
        all.push(out);
        before = *watermark;
    }
    all
}

fn rows_of(rows: &[&Row], schema: &arrow::datatypes::SchemaRef) -> Rows {
    let columns: Vec<ArrayRef> = vec![
        Arc::new(rows.iter().map(|row| row.id).collect::<Int64Array>()),
        Arc::new(rows.iter().map(|row| row.k.clone()).collect::<StringArray>()),
        Arc::new(rows.iter().map(|row| row.v).collect::<Int64Array>()),
        Arc::new(rows.iter().map(|row| row.x).collect::<Float64Array>()),
        arrow::compute::cast(
            &rows.iter().map(|row| row.at).collect::<Int64Array>(),
            schema.field_with_name("at").unwrap().data_type(),
        )
        .unwrap(),
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

fn windows_of(batch: &RecordBatch) -> Vec<(String, Vec<f64>)> {
    let as_int = |name: &str| {
        let column = batch.column_by_name(name).unwrap();
        arrow::compute::cast(column, &arrow::datatypes::DataType::Int64).unwrap()
    };
    let text = |name: &str, row: usize| {
        let column = as_int(name);
        let column = column.as_any().downcast_ref::<Int64Array>().unwrap();
        if arrow::array::Array::is_null(column, row) { "null".to_owned() } else { column.value(row).to_string() }
    };
    let float = |name: &str, row: usize| {
        let column = batch.column_by_name(name).unwrap().as_primitive::<Float64Type>();
        if column.is_valid(row) { column.value(row) } else { f64::NAN }
    };
    (0..batch.num_rows())
        .map(|row| {
            let string = |name: &str| {
                let column = batch.column_by_name(name)?.as_string::<i32>();
                column.is_valid(row).then(|| column.value(row).to_owned())
            };
            let mut exact = format!("{:?} {} {}", string("k"), text("window_start", row), text("window_end", row));
            for name in ["n", "nv", "d", "sum", "least", "first", "last", "early", "latest", "top", "dsum"] {
                exact += &format!(" {name}={}", text(name, row));
            }
            for name in ["listed", "kinds", "down"] {
                exact += &format!(" {name}='{}'", string(name).unwrap_or_default());
            }
            (exact, ["total", "dev", "middle", "high"].map(|name| float(name, row)).to_vec())
        })
        .collect()
}

fn close(a: f64, b: f64) -> bool {
    a == b || (a.is_nan() && b.is_nan()) || (a - b).abs() <= 1e-9 * a.abs().max(b.abs()).max(1.0)
}

fn check(seed: u64) {
    let mut random = Random(seed);
    let form = match random.below(5) {
        0 => {
            let size = 1 + random.below(30) as i64;
            Form::Hopping { size, every: size, offset: random.below(9) as i64 }
        }
        1 => Form::Hopping {
            size: 1 + random.below(30) as i64,
            every: 1 + random.below(12) as i64,
            offset: random.below(9) as i64,
        },
        2 => Form::Session { gap: 1 + random.below(12) as i64 },
        3 => Form::Count { rows: 1 + random.below(9) as usize },
        _ => Form::Global,
    };
    let lateness = if form.by_rows() { 0 } else { random.below(3) as i64 * 5 };
    let case = Case { form, lateness, keyed: random.below(4) > 0 };
    let mut epochs = epochs(&mut random);
    if !case.keyed {
        epochs.iter_mut().flat_map(|(rows, _)| rows).for_each(|row| row.k = None);
    }
    let expected = reference(form, lateness, &epochs);
    let once = run(&case, &epochs, 1, 100, false);
    for (at, (got, expected)) in once.iter().zip(&expected).enumerate() {
        let texts = |out: &Out| out.windows.iter().map(|window| window.0.clone()).collect::<Vec<_>>();
        assert_eq!(texts(got), texts(expected), "seed {seed}, epoch {at}: {form:?}, lateness {lateness}\n{epochs:#?}");
        assert_eq!(got.late, expected.late, "seed {seed}, epoch {at}: {form:?}, lateness {lateness}");
        for (got, expected) in got.windows.iter().zip(&expected.windows) {
            let floats = got.1.iter().zip(&expected.1);
            assert!(floats.into_iter().all(|(a, b)| close(*a, *b)), "seed {seed}: {got:?} {expected:?}");
        }
    }
    // The same to the bit, however many workers and whatever the batches.
    for (workers, batch, restore) in [(2, 1, false), (3, 4, false), (1, 7, true)] {
        let bits = |all: &[Out]| -> Vec<String> {
            let windows = all.iter().flat_map(|out| &out.windows);
            windows
                .map(|(text, floats)| format!("{text} {:?}", floats.iter().map(|x| x.to_bits()).collect::<Vec<_>>()))
                .collect()
        };
        let again = run(&case, &epochs, workers, batch, restore);
        assert_eq!(bits(&again), bits(&once), "seed {seed}: {form:?}, {workers} workers, batches of {batch}");
    }
}

#[test]
fn windows_equal_an_obvious_reference() {
    (0..3000).for_each(check);
}

#[test]
fn what_is_wrong_with_a_window_is_told() {
    let problems = |operators: &str, expected: &str| {
        check_problems(&Given { source: SOURCE, operators, read: &[("w", &[])], ..Given::default() }, expected);
    };
    problems(
        "w: { type: window, input: rows, columns: { n: count(*) } }",
        "E0346 `window` a window needs one of `tumbling`, `hopping`, `session`, `count` and `global` | write just one: `tumbling: 1m`, for example",
    );
    problems(
        "w: { type: window, input: rows, tumbling: 1m, session: { gap: 5s }, columns: { n: count(*) } }",
        "E0346 `{ gap: 5s }` a window is either `tumbling` or `session` | write just one: `tumbling: 1m`, for example",
    );
    problems(
        "w: { type: window, input: rows, tumbling: { size: 1h, zone: Europe/Berlin }, columns: { n: count(*) } }",
        "E0346 `{ size: 1h, zone: Europe/Berlin }` windows of a time zone are whole days of it, without an offset | write \
         `size: 1d`, or leave `zone` out: hours are the same in most zones",
    );
    problems(
        "w: { type: window, input: rows, tumbling: { size: 1d, zone: Europe/Berlim }, columns: { n: count(*) } }",
        "E0151 `Europe/Berlim` there is no time zone `Europe/Berlim` | write a name of the IANA time zone database, such as \
         `Europe/Berlin`",
    );
    problems(
        "w: { type: window, input: rows, tumbling: 0s, columns: { n: count(*) } }",
        "E0343 `0s` a window must be longer than nothing",
    );
    problems(
        "w: { type: window, input: rows, key: k, tumbling: 1s, columns: { k: count(*), b: lag(v) } }",
        "E0319 `k` there is a column `k` already | give the new column another name
         E0347 `lag(v)` `lag` is the value of the row before, and a window has one row for many | use `rolling`, or `last(x)`",
    );
    problems(
        "w: { type: window, input: rows, count: 0, columns: { n: count(*) } }",
        "E0343 `0` a window must hold a row",
    );
    problems(
        "w: { type: window, input: rows, global: {}, lateness: 5s, columns: { n: count(*) } }",
        "E0346 `lateness` nothing is late for a window of rows, whatever their times | leave `lateness` out",
    );
    problems(
        "w: { type: window, input: rows, global: {}, count: 5, columns: { n: count(*) } }",
        "E0346 `{}` a window is either `count` or `global` | write just one: `tumbling: 1m`, for example",
    );
    problems(
        "w: { type: window, input: rows, tumbling: 1s, emit: { early: 0s }, columns: { n: count(*) } }",
        "E0343 `0s` a window must be longer than nothing",
    );
    problems(
        "w: { type: window, input: rows, session: { gap: 1s }, emit: at_end, columns: { n: count(*) } }",
        "E0143 `emit` `emit` is not built yet | leave it out: only windows of fixed bounds are put out before they close, and \
         corrected",
    );
}

/// Rows may be late for a window of rows; what comes of them must not be.
#[test]
fn what_comes_of_late_rows_is_not_late() {
    let operators = "
        w: { type: window, input: rows, key: k, count: 2, columns: { n: count(*) } }
        m: { type: map, input: w, set: { t: event_time() } }";
    let given = Given { source: SOURCE, operators, read: &[("m", &[]), ("w.late", &[])], ..Given::default() };
    let plan = given.plan().0.unwrap();
    let mut step = step_of(&plan);
    let schema = plan.sources().next().unwrap().outputs[0].stream.schema.clone();
    let rows = [5, 7, 90, 200, 3].map(|at| Row { id: at, k: None, v: None, x: 0.0, at });
    let close = |step: &mut WindowStep, rows: &[Row], late: i64, watermark: i64| {
        let rows: Vec<&Row> = rows.iter().collect();
        let moment =
            Moment { epoch: Epoch(0), late_ns: vec![Some(late)], watermark_ns: vec![Some(watermark)], clock_ns: 0 };
        let mut out = StepOutput::new(2);
        step.close(&moment, vec![vec![rows_of(&rows, &schema)]], &mut out);
        while step.resume(&mut out) {}
        assert_eq!(out.late, 0);
        let times = out.ports[0].iter().flat_map(|rows| {
            (0..rows.num_rows()).map(|row| rows.event_ns.as_ref().unwrap().get(row)).collect::<Vec<_>>()
        });
        times.collect::<Vec<i64>>()
    };
    assert_eq!(close(&mut step, &rows[..4], 100, 100), [100, 200]);
    assert_eq!(close(&mut step, &rows[4..], 100, i64::MAX), [100]);
}

#[test]
fn the_endless_input_of_a_window_of_rows_is_told_of() {
    let endless = |form: &str| {
        let operators = format!("w: {{ type: window, input: rows, {form}, columns: {{ n: count(*) }} }}");
        let given = Given { source: SOURCE, operators: &operators, read: &[("w", &[])], ..Given::default() };
        given.plan().0.unwrap().find("w").unwrap().planned.endless().is_some()
    };
    assert!(endless("global: {}") && endless("key: k, count: 5"));
    assert!(!endless("count: 5") && !endless("key: k, count: 1") && !endless("key: k, tumbling: 5s"));
}

#[test]
fn the_bounds_and_the_rows_are_of_the_planned_types() {
    let operators =
        "w: { type: window, input: rows, tumbling: 10ns, as: { start: from, end: to }, columns: { n: count(*) } }";
    let given = Given { source: SOURCE, operators, read: &[("w", &["to", "n"])], ..Given::default() };
    let (plan, problems) = given.plan();
    let plan = plan.unwrap_or_else(|| panic!("{problems}"));
    let mut step = step_of(&plan);
    let row = Row { id: 1, k: None, v: None, x: 0.0, at: 25 };
    let schema = plan.sources().next().unwrap().outputs[0].stream.schema.clone();
    let moment =
        |late, watermark| Moment { epoch: Epoch(0), late_ns: vec![late], watermark_ns: vec![watermark], clock_ns: 77 };
    let mut out = StepOutput::new(2);
    step.close(&moment(None, Some(29)), vec![vec![rows_of(&[&row], &schema)]], &mut out);
    assert!(!step.resume(&mut out));
    assert!(out.ports[0].is_empty());
    step.close(&moment(Some(29), Some(30)), vec![vec![]], &mut out);
    assert!(!step.resume(&mut out));
    let rows = &out.ports[0][0];
    let lines = payload::json_rows(&rows.batch, &[0]);
    assert_eq!(String::from_utf8_lossy(&lines[0]), r#"{"to":"1970-01-01T00:00:00.000000030Z","n":1}"#);
    assert_eq!((rows.born_ns.get(0), rows.ingest_ns.get(0)), (77, 77));
}

/// The clock of an epoch of the test below, nanoseconds.
fn clock_of(number: usize) -> i64 {
    number as i64 * 7
}

/// The windows that are out after each epoch: those that the watermark has passed the end of, of all rows that were taken; where
/// they are put out `early`, those that had a row before the clock passed a multiple of it.
fn standing(size: i64, every: i64, lateness: i64, early: Option<i64>, epochs: &Epochs) -> Vec<BTreeMap<String, usize>> {
    // With what was closed already when they came.
    let mut taken: Vec<(Row, Option<i64>)> = Vec::new();
    let mut before: Option<i64> = None;
    let mut all: Vec<BTreeMap<String, usize>> = Vec::new();
    // Of what has changed: the clock of the first, and the first end of a window.
    let mut changed: Option<(i64, i64)> = None;
    for (number, (rows, watermark)) in epochs.iter().enumerate() {
        let closed = before.map(|at| if at == i64::MAX { at } else { at - lateness });
        let ends = |at: i64| (at + 1..=at + size).filter(|end| (end - size).rem_euclid(every) == 0);
        let last_end = |at: i64| (at + 1..=at + size).filter(|end| (end - size).rem_euclid(every) == 0).max();
        let counts =
            rows.iter().filter(|row| last_end(row.at).is_some_and(|end| closed.is_none_or(|closed| end > closed)));
        let counts: Vec<&Row> = counts.collect();
        if let Some(end) = counts.iter().filter_map(|row| ends(row.at).min()).min() {
            let known = changed.unwrap_or((clock_of(number), end));
            changed = Some((known.0, known.1.min(end)));
        }
        taken.extend(counts.into_iter().map(|row| (row.clone(), closed)));
        let due = match (early, changed) {
            (None, _) => true,
            (Some(_), None) => false,
            (Some(early), Some((since, end))) => {
                since / early < clock_of(number) / early || watermark.is_some_and(|watermark| end <= watermark)
            }
        };
        if !due {
            all.push(all.last().cloned().unwrap_or_default());
            before = *watermark;
            continue;
        }
        changed = None;
        let mut windows: BTreeMap<(Option<String>, i64), (usize, i64)> = BTreeMap::new();
        for (row, closed) in &taken {
            for end in (row.at + 1..=row.at + size).filter(|end| (end - size).rem_euclid(every) == 0) {
                let is_out = early.is_some() || watermark.is_some_and(|watermark| end <= watermark);
                if is_out && closed.is_none_or(|closed| end > closed) {
                    let window = windows.entry((row.k.clone(), end)).or_default();
                    *window = (window.0 + 1, window.1 + row.v.unwrap_or(0));
                }
            }
        }
        let text =
            |((key, end), (n, sum)): ((Option<String>, i64), (usize, i64))| (format!("{key:?} {end} {n} {sum}"), 1);
        all.push(windows.into_iter().map(text).collect());
        before = *watermark;
    }
    all
}

#[test]
fn windows_that_are_out_are_corrected_until_they_close() {
    let mut taken_back = 0;
    for seed in 0..3_000 {
        let mut random = Random(seed);
        let every = 1 + random.below(12) as i64;
        let size = if random.below(2) == 0 { every } else { 1 + random.below(30) as i64 };
        let lateness = random.below(4) as i64 * 8;
        let early = (seed % 2 == 0).then(|| 1 + random.below(40) as i64);
        let emit = early.map_or("at_end".to_owned(), |early| format!("{{ early: {early}ns }}"));
        let epochs = epochs(&mut random);
        let operators = format!(
            "w: {{ type: window, input: rows, key: k, hopping: {{ size: {size}ns, every: {every}ns }}, emit: {emit}, \
             lateness: {lateness}ns, columns: {{ n: count(*), sum: coalesce(sum(v), 0) }} }}"
        );
        let (plan, problems) =
            Given { source: SOURCE, operators: &operators, read: &[("w", &[])], ..Given::default() }.plan();
        let plan = plan.unwrap_or_else(|| panic!("{problems}"));
        let schema: arrow::datatypes::SchemaRef = {
            let source = plan.sources().next().unwrap();
            let wanted = &source.wanted[0];
            let fields = source.outputs[0].stream.schema.fields().iter();
            Arc::new(arrow::datatypes::Schema::new(
                fields.filter(|field| wanted.contains(field.name())).cloned().collect::<Vec<_>>(),
            ))
        };
        let expected = standing(size, every, lateness, early, &epochs);
        for (batch, restore) in [(100, false), (2, true)] {
            let mut step = step_of(&plan);
            let mut checkpoint: BTreeMap<(Vec<u8>, i64), Vec<u8>> = BTreeMap::new();
            let mut out_now: BTreeMap<String, usize> = BTreeMap::new();
            let (mut before, mut positions) = (None, BTreeSet::new());
            for (number, (rows, watermark)) in epochs.iter().enumerate() {
                if restore {
                    step.drain_changes(&mut |change| match change {
                        Change::Put { key, slice, state } => {
                            checkpoint.insert((key.to_vec(), slice), state.to_vec());
                        }
                        Change::Delete { key, slice } => {
                            checkpoint.remove(&(key.to_vec(), slice));
                        }
                    });
                    step = step_of(&plan);
                    checkpoint.iter().for_each(|((key, slice), state)| step.restore(key, *slice, state).unwrap());
                }
                let mine: Vec<&Row> = rows.iter().collect();
                let batches = mine.chunks(batch).map(|rows| {
                    let mut rows = rows_of(rows, &plan.sources().next().unwrap().outputs[0].stream.schema);
                    let places: Vec<usize> = schema
                        .fields()
                        .iter()
                        .map(|field| rows.batch.schema().index_of(field.name()).unwrap())
                        .collect();
                    rows.batch = rows.batch.project(&places).unwrap();
                    rows
                });
                let moment = Moment {
                    epoch: Epoch(number as u64),
                    late_ns: vec![before],
                    watermark_ns: vec![*watermark],
                    clock_ns: clock_of(number),
                };
                let mut out = StepOutput::new(2);
                step.close(&moment, vec![batches.collect()], &mut out);
                while step.resume(&mut out) {}
                for rows in &out.ports[0] {
                    let int = |name: &str, row: usize| {
                        let column = rows.batch.column_by_name(name).unwrap();
                        let column = arrow::compute::cast(column, &arrow::datatypes::DataType::Int64).unwrap();
                        column.as_primitive::<arrow::datatypes::Int64Type>().value(row)
                    };
                    for row in 0..rows.num_rows() {
                        let keys = rows.batch.column_by_name("k").unwrap().as_string::<i32>();
                        let key = keys.is_valid(row).then(|| keys.value(row).to_owned());
                        let (end, n, sum) = (int("window_end", row), int("n", row), int("sum", row));
                        let text = format!("{key:?} {end} {n} {sum}");
                        assert!(positions.insert(rows.position(row)), "{text}");
                        if rows.is_removed(row) {
                            taken_back += 1;
                            assert_eq!(out_now.remove(&text), Some(1), "seed {seed}: {text} was not out");
                        } else {
                            *out_now.entry(text).or_default() += 1;
                        }
                    }
                }
                assert_eq!(
                    out_now, expected[number],
                    "seed {seed}, epoch {number}: {size} {every} {lateness}\n{epochs:#?}"
                );
                before = *watermark;
            }
        }
    }
    assert!(taken_back > 500, "{taken_back}");
}
