//! `enrich` against a table that is searched row by row.

use super::plan::EnrichPlan;
use super::step::Enrich;
use crate::testing::{Given, check_problems, with_step};
use arrow::array::{Array, ArrayRef, AsArray, Int64Array, RecordBatch};
use arrow::datatypes::Int64Type;
use engine_base::{Epoch, SourceId};
use engine_dataflow::StepState as _;
use engine_dataflow::rows::origin;
use engine_dataflow::{EpochStep, Moment, Positions, Rows, StepOutput, Times};
use engine_plan::Plan;
use engine_state::Change;
use std::collections::BTreeMap;
use std::sync::Arc;

const SOURCE: &str = "
    schema: { id: int64, k: int64 | null, v: int64, at: int64 }
    event_time: { column: at, unit: ns }";

/// A row: number, key, value, event time.
type Row = (i64, Option<i64>, i64, i64);

/// An epoch: rows of both inputs, and their watermarks at its close.
#[derive(Clone, Debug, Default)]
struct Turn {
    rows: Vec<Row>,
    table: Vec<Row>,
    passed: [Option<i64>; 2],
}

/// By epoch: the number of each row that goes on, and the table's value for it.
type Out = Vec<Vec<(i64, Option<i64>)>>;

#[derive(Clone, Copy, Debug)]
struct Form {
    by_time: bool,
    /// How far event time goes on while rows wait; the greatest for a table that ends, none where rows don't wait.
    wait: Option<i64>,
    missing: &'static str,
}

/// What the definition says, with everything that ever came at hand.
fn reference(form: Form, turns: &[Turn]) -> (Out, usize) {
    let mut table: Vec<Row> = Vec::new();
    let mut pending: Vec<Row> = Vec::new();
    let (mut all, mut failed) = (Vec::new(), 0);
    for turn in turns {
        table.extend(&turn.table);
        pending.extend(&turn.rows);
        let mut out = Vec::new();
        pending.retain(|row| {
            let (id, key, _, at) = *row;
            let told = match turn.passed[1] {
                Some(i64::MAX) => true,
                passed => form.by_time && passed.is_some_and(|passed| at < passed),
            };
            let waited =
                |wait: i64| wait < i64::MAX && turn.passed[0].is_some_and(|passed| passed.saturating_sub(wait) >= at);
            if !(key.is_none() || told || form.wait.is_none_or(waited)) {
                return true;
            }
            let of_key = table.iter().filter(|other| key.is_some() && other.1 == key);
            let found = match form.by_time {
                true => of_key.filter(|other| other.3 <= at).max_by_key(|other| other.3).map(|other| other.2),
                false => of_key.max_by_key(|other| other.0).map(|other| other.2),
            };
            match (found, form.missing) {
                (None, "drop") => {}
                (None, "error") => failed += 1,
                (found, _) => out.push((id, found)),
            }
            false
        });
        out.sort_unstable();
        all.push(out);
    }
    (all, failed)
}

fn planned(form: Form) -> Plan {
    let wait = form.wait.filter(|wait| *wait < i64::MAX).map_or(String::new(), |wait| format!(", wait: {wait}ns"));
    let wait = if form.wait.is_none() && form.by_time { ", wait: 0s".to_owned() } else { wait };
    let as_of = if form.by_time { "event_time" } else { "latest" };
    let operators = format!(
        "t: {{ type: map, input: rows, keep: [k, v] }}
e: {{ type: enrich, input: rows, table: t, match: k, as_of: {as_of}{wait}, missing: {}, columns: {{ w: v }} }}",
        form.missing
    );
    let (plan, problems) =
        Given { source: SOURCE, operators: &operators, read: &[("e", &["id", "w"])], ..Given::default() }.plan();
    plan.unwrap_or_else(|| panic!("{problems}"))
}

fn step(plan: &Plan, form: Form) -> Enrich {
    with_step(plan, "e", |planned, cx| {
        let plan: &EnrichPlan = crate::planned(planned, "enrich").unwrap();
        assert_eq!(plan.wait_ns, form.wait.or((!form.by_time).then_some(i64::MAX)), "{form:?}");
        Enrich::new(plan, cx, crate::testing::store()).unwrap()
    })
}

fn rows_of(rows: &[Row], columns: &[&str], source: u16) -> Rows {
    let column = |name: &&str| -> ArrayRef {
        match *name {
            "at" => Arc::new(rows.iter().map(|row| row.3).collect::<Int64Array>()),
            "id" => Arc::new(rows.iter().map(|row| row.0).collect::<Int64Array>()),
            "k" => Arc::new(rows.iter().map(|row| row.1).collect::<Int64Array>()),
            _ => Arc::new(rows.iter().map(|row| row.2).collect::<Int64Array>()),
        }
    };
    let columns = columns.iter().map(|name| (*name, column(name), *name == "k"));
    Rows {
        batch: RecordBatch::try_from_iter_with_nullable(columns).unwrap(),
        positions: Positions::Offsets {
            origin: origin(SourceId(source), 0),
            offsets: rows.iter().map(|row| row.0 as u64).collect::<Vec<_>>().into(),
        },
        ingest_ns: Times::One(5),
        born_ns: Times::One(6),
        event_ns: Some(Times::Each(rows.iter().map(|row| row.3).collect())),
        removes: None,
    }
}

fn run(plan: &Plan, form: Form, turns: &[Turn], batch: usize, restart: Option<usize>) -> (Out, usize) {
    let mut at_work = step(plan, form);
    let columns = |input: usize| -> Vec<&str> {
        let edge = plan.find("e").unwrap().inputs[input];
        let wanted = &plan.step(edge.from).wanted[edge.port];
        let fields = plan.output(edge).stream.schema.fields().iter();
        fields.map(|field| field.name().as_str()).filter(|name| wanted.contains(*name)).collect()
    };
    let mut slots: BTreeMap<(Vec<u8>, i64), Vec<u8>> = BTreeMap::new();
    let mut before = vec![None; 2];
    let (mut all, mut failed) = (Vec::new(), 0);
    for (number, turn) in turns.iter().enumerate() {
        if restart == Some(number) {
            at_work = step(plan, form);
            slots.iter().for_each(|((key, slice), state)| at_work.restore(key, *slice, state).unwrap());
        }
        let batches = |rows: &[Row], columns: &[&str], source| -> Vec<Rows> {
            rows.chunks(batch).map(|rows| rows_of(rows, columns, source)).collect()
        };
        let inputs = vec![batches(&turn.rows, &columns(0), 0), batches(&turn.table, &columns(1), 1)];
        let moment = Moment {
            epoch: Epoch(number as u64),
            late_ns: before.clone(),
            watermark_ns: turn.passed.to_vec(),
            clock_ns: 0,
        };
        let mut out = StepOutput::new(1);
        at_work.close(&moment, inputs, &mut out);
        while at_work.resume(&mut out) {}
        let mut came = Vec::new();
        for rows in &out.ports[0] {
            let ids = rows.batch.column(0).as_primitive::<Int64Type>();
            let found = rows.batch.column(1).as_primitive::<Int64Type>();
            let of = |row| (ids.value(row), (!found.is_null(row)).then(|| found.value(row)));
            came.extend((0..rows.num_rows()).map(of));
            for row in 0..rows.num_rows() {
                assert_eq!(
                    (rows.position(row).offset as i64, rows.ingest_ns.get(row), rows.born_ns.get(row)),
                    (ids.value(row), 5, 6)
                );
            }
        }
        came.sort_unstable();
        all.push(came);
        failed += out.errors.len();
        at_work.drain_changes(&mut |change| match change {
            Change::Put { key, slice, state } => {
                slots.insert((key.to_vec(), slice), state.to_vec());
            }
            Change::Delete { key, slice } => {
                slots.remove(&(key.to_vec(), slice));
            }
        });
        before = turn.passed.to_vec();
    }
    (all, failed)
}

#[test]
fn rows_get_what_the_table_says_of_them() {
    let mut forms = Vec::new();
    for missing in ["keep", "drop", "error"] {
        forms.push(Form { by_time: false, wait: Some(i64::MAX), missing });
        for wait in [None, Some(i64::MAX), Some(7), Some(30)] {
            // A table that ends is waited for unless something else is said.
            forms.push(Form { by_time: true, wait, missing });
        }
    }
    let (mut found, mut not_found) = (0, 0);
    for form in forms {
        let plan = planned(form);
        for seed in 0..300u64 {
            let mut random = seed;
            let mut next = move |bound: u64| {
                random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                (random >> 33) % bound
            };
            let mut turns: Vec<Turn> = Vec::new();
            let (mut now, mut id, mut passed) = (0, 0, [None, None]);
            for _ in 0..1 + next(10) {
                let mut rows = |next: &mut dyn FnMut(u64) -> u64, passed: Option<i64>| -> Vec<Row> {
                    let count = next(6);
                    let row = |_| {
                        now += next(4) as i64;
                        id += 1;
                        let key = (next(8) > 0).then(|| next(3) as i64);
                        let at = (now - next(12) as i64).max(passed.unwrap_or(i64::MIN));
                        (id, key, 1_000 + id, at)
                    };
                    (0..count).map(row).collect()
                };
                let (of_rows, of_table) = (rows(&mut next, passed[0]), rows(&mut next, passed[1]));
                for passed in &mut passed {
                    *passed = (*passed).max((next(2) > 0).then(|| now - next(12) as i64));
                }
                turns.push(Turn { rows: of_rows, table: of_table, passed });
            }
            let ended = [passed[0], Some(i64::MAX)];
            turns.push(Turn { passed: ended, ..Turn::default() });
            let later = next(5) as i64;
            turns.push(Turn {
                rows: vec![(id + 1, Some(1), 0, now + later)],
                passed: [Some(i64::MAX); 2],
                ..Turn::default()
            });
            let expected = reference(form, &turns);
            let counts = expected.0.iter().flatten();
            counts.for_each(|(_, value)| if value.is_some() { found += 1 } else { not_found += 1 });
            let restart = next(turns.len() as u64) as usize;
            for (batch, restart) in [(100, None), (1, Some(restart)), (2, Some(restart))] {
                assert_eq!(run(&plan, form, &turns, batch, restart), expected, "seed {seed} {form:?}: {turns:?}");
            }
        }
    }
    assert!(found > 20_000 && not_found > 2_000, "{found} {not_found}");
}

#[test]
fn many_rows_that_waited_go_on_in_portions() {
    let form = Form { by_time: false, wait: Some(i64::MAX), missing: "keep" };
    let plan = planned(form);
    let rows = (0..20_000).map(|id| (id, Some(id % 7), 0, 0)).collect();
    let table = (0..5).map(|id| (id, Some(id), 100 + id, 0)).collect();
    let turns = [
        Turn { rows, ..Turn::default() },
        Turn { table, ..Turn::default() },
        Turn { passed: [None, Some(i64::MAX)], ..Turn::default() },
    ];
    assert_eq!(run(&plan, form, &turns, 1_000, Some(2)), reference(form, &turns));
}

#[test]
fn what_is_wrong_is_told() {
    let problems = |enrich: &str, expected: &str| {
        let operators = format!(
            "t: {{ type: map, input: rows, set: {{ f: v * 1.5 }}, rename: {{ key: k }} }}
e: {{ type: enrich, input: rows, table: t, {enrich} }}"
        );
        check_problems(
            &Given { source: SOURCE, operators: &operators, read: &[("e", &[])], ..Given::default() },
            expected,
        );
    };
    problems(
        "match: { k: kex, v: f }, as_of: latest, wait: 5s, columns: [id, nope]",
        "E0320 `kex` there is no column `kex` here | did you mean `key`? | the columns are `id`, `key`, `v`, `at`, `f`
         E0308 `f` `f` is of type float64, which can't be matched | cast it to an integer, a decimal or a string with a `map` before
         E0151 `wait` `wait` is for a table that is looked at as of event time | leave it out: the table is taken as it is when a \
         row comes, once one that ends has ended
         E0319 `id` there is a column `id` already | give it another name: `columns: { table_id: id }`
         E0320 `nope` there is no column `nope` here | the columns are `id`, `key`, `v`, `at`, `f`",
    );
    problems(
        "match: {}, as_of: event_time, lookup: { type: redis }",
        "E0151 `{}` `match` names no column | name at least one that is equal in a row and its row of the table: `match: { sku: id }`
         E0143 `lookup` `lookup` is not built yet | read the table with a source, and name it in `table`",
    );
}
