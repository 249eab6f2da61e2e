//! What is wrong with a fold, what a record holds, and how fast it goes.

use super::{Random, Row, SOURCE, rows_of, step_of};
use crate::payload;
use crate::testing::{Given, check_problems};
use engine_base::Epoch;
use engine_dataflow::StepState as _;
use engine_dataflow::{EpochStep, Moment, StepOutput};
use engine_state::Change;
use std::collections::BTreeMap;

fn problems(keys: &str, expected: &str) {
    let operators = format!("f:\n  type: stateful\n  input: rows\n{keys}");
    check_problems(&Given { source: SOURCE, operators: &operators, read: &[("f", &[])], ..Given::default() }, expected);
}

#[test]
fn what_is_wrong_with_a_fold_is_told() {
    problems(
        "  key: kk
  state: { n: { type: int64 }, s: { type: \"decimal(4, 2)\", init: 1.125 }, d: { type: date, init: soon } }
  update: { n: this.m + 1, s: this.s, d: this.d, q: 1 }
  expire_after: 0s",
        r#"E0350 `stateful` nothing ever comes out of this step | say what a row puts out: `emit: { columns: { total: this.total } }`, or a timer: `timer: { at, emit }`
         E0320 `kk` there is no column `kk` here | did you mean `k`? | the columns are `id`, `k`, `v`, `amount`, `at`
         E0391 `n` `n` has no value before the first row, and can't be null | give it one: `init: ...`, or let it be null: `type: int64 | null`
         E0391 `1.125` `1.125` has more digits behind the point than decimal(4, 2) | write a value such as `0`
         E0391 `soon` `soon` is no value of type date | write a value such as `"2026-01-31"`
         E0207 `m` `this` has no column `m` | its columns are: n, s, d
         E0320 `q` the record has no column `q` | its columns are `n`, `s`, `d`
         E0343 `0s` `expire_after` must be longer than nothing"#,
    );
    problems(
        "  key: k
  state: { n: { type: int32, init: 0 }, x: { type: float64, init: 0 }, s: { type: \"decimal(4, 2)\", init: 0 } }
  update: { n: this.n + v, x: v * 0.5, s: this.s * 1.5 }
  emit: { when: this.n, columns: { k: v, n: this.n, y: count(v) } }
  expire_after: 1d",
        r#"E0392 `this.n + v` `n` can't be null, and this may be | write `coalesce(..., this.n)`, or let it be null: `type: int32 | null`
         E0392 `v * 0.5` `x` can't be null, and this may be | write `coalesce(..., this.x)`, or let it be null: `type: float64 | null`
         E0392 `this.s * 1.5` `s` is of type decimal(4, 2), and this is of type float64 | say so where what is lost does not matter: `CAST(... AS decimal(4, 2))`
         E0223 `this.n` a condition is due here, and this is a value of type int32 | compare it: `this.n <> 0`
         E0319 `k` there is a column `k` already | the key is put out anyway; give the new column another name
         E0220 `count(v)` `count` needs many rows, and here there is one | aggregates stand under `columns:` of `rolling`, `window` and `aggregate`"#,
    );
    problems(
        "  key: k
  state: { n: { type: int32, init: 0 }, free: { type: bool, init: false } }
  update: { n: this.n + 1 }
  emit: { columns: { n: this.n, x: v, y: v } }
  timer:
    at: this.n
    emit: { columns: { n: \"'text'\", z: v } }",
        r#"E0360 `free` `free` never changes: it has no update | say what a row makes of it: `update: { free: ... }`, or leave it out
         E0394 `this.n` a timer's time is a timestamp, and this is of type int32 | write `this.since + INTERVAL '30 days'`, for example
         E0393 `"'text'"` `n` is of type string here, and of type int32 in `emit` | cast one of them: `CAST(... AS int32)`, or give it another name
         E0207 `v` there is no column `v` | for text, write single quotes: `'v'`, in YAML `"'v'"`"#,
    );
    problems(
        "  key: k
  state: { last: { type: timestamp | null } }
  update: { last: at }
  timer: { at: event_time() + INTERVAL '1h' }",
        r#"E0350 `stateful` nothing ever comes out of this step | say what a row puts out: `emit: { columns: { total: this.total } }`, or a timer: `timer: { at, emit }`
         E0394 `event_time() + INTERVAL '1h'` a timer's time follows from the record alone | keep the time in the record: `update: { last: event_time() }`, and write `this.last` here"#,
    );
    problems(
        "  key: k
  state: {}
  update: {}",
        r#"E0350 `stateful` nothing ever comes out of this step | say what a row puts out: `emit: { columns: { total: this.total } }`, or a timer: `timer: { at, emit }`
         E0350 `state` this step keeps nothing | name a column of the record: `state: { total: { type: float64, init: 0 } }`, or use a `map`"#,
    );
    problems(
        "  key: k
  state: { n: { type: int32, init: 0 }, free: { type: bool, init: false } }
  update: { n: this.n + 1 }
  emit: { columns: { n: this.n } }",
        r#"E0390 `stateful` a record is kept for each k for ever | say when the record of a silent key goes: `expire_after: 90d`
         E0360 `free` `free` never changes: it has no update | say what a row makes of it: `update: { free: ... }`, or leave it out"#,
    );
}

/// What comes out for rows of an id, a key and a number, in one epoch, then with every record put back from a checkpoint.
fn lines(operators: &str, rows: &[(i64, Option<&str>, Option<i64>)]) -> Vec<String> {
    let given = Given { source: SOURCE, operators, read: &[("f", &[])], ..Given::default() };
    let (plan, problems) = given.plan();
    let plan = plan.unwrap_or_else(|| panic!("{problems}"));
    let schema = plan.sources().next().unwrap().outputs[0].stream.schema.clone();
    let wanted = &plan.sources().next().unwrap().wanted[0];
    let places: Vec<usize> =
        (0..schema.fields().len()).filter(|at| wanted.contains(schema.field(*at).name())).collect();
    let rows: Vec<Row> = rows
        .iter()
        .map(|(id, k, v)| Row { id: *id, k: k.map(str::to_owned), v: *v, cents: *id as i128, at: *id })
        .collect();
    let mut lines: Vec<Vec<String>> = Vec::new();
    for at_once in [true, false] {
        let mut step = step_of(&plan);
        let mut checkpoint: BTreeMap<Vec<u8>, Vec<u8>> = BTreeMap::new();
        let mut read = Vec::new();
        let rows: Vec<&Row> = rows.iter().collect();
        for (epoch, rows) in rows.chunks(if at_once { rows.len() } else { 1 }).enumerate() {
            let mut rows = rows_of(rows, &schema);
            rows.batch = rows.batch.project(&places).unwrap();
            let mut out = StepOutput::new(1);
            step.close(&Moment::timeless(Epoch(epoch as u64), 1), vec![vec![rows]], &mut out);
            assert!(!step.resume(&mut out));
            assert!(out.errors.is_empty(), "{:?}", out.errors);
            for rows in &out.ports[0] {
                let all: Vec<usize> = (0..rows.num_rows()).collect();
                read.extend(
                    payload::json_rows(&rows.batch, &all).into_iter().map(|line| String::from_utf8(line).unwrap()),
                );
            }
            step.drain_changes(&mut |change| {
                let Change::Put { key, state, .. } = change else { panic!("nothing goes") };
                checkpoint.insert(key.to_vec(), state.to_vec());
            });
            step = step_of(&plan);
            checkpoint.iter().for_each(|(key, state)| step.restore(key, 0, state).unwrap());
        }
        lines.push(read);
    }
    assert_eq!(lines[0], lines[1], "at once, and one row an epoch with a restart after each");
    lines.swap_remove(0)
}

#[test]
fn a_record_holds_every_type_of_column() {
    let operators = r#"f:
       type: stateful
       input: rows
       key: [k, v]
       state:
         tags: { type: list<string>, init: [a, b] }
         place: { type: { x: float64, y: int64 | null }, init: { x: -0.0 } }
         counts: { type: "map<string, int64>", init: { one: 1 } }
         doc: { type: json, init: { a: [1, null] } }
         day: { type: date, init: "2026-01-31" }
         local: { type: 'timestamp(ms, "Europe/Berlin")', init: "2026-01-31T12:00:00Z" }
         span: { type: duration, init: 90s }
         large: { type: "decimal(38, 2)", init: 123456789012345678901234567890.12 }
         unsigned: { type: uint64, init: 18446744073709551615 }
         raw: { type: binary | null }
         yes: { type: bool, init: true }
         before: { type: int64 | null }
       update:
         tags: coalesce(array_append(this.tags, coalesce(k, '-')), this.tags)
         place: this.place
         counts: this.counts
         doc: this.doc
         day: this.day + 1
         local: this.local
         span: this.span
         large: this.large
         unsigned: this.unsigned
         raw: CAST(k AS binary)
         yes: NOT this.yes
         before: id
       emit:
         columns:
           tags: this.tags
           place: this.place
           counts: this.counts
           doc: this.doc
           day: this.day
           local: this.local
           span: this.span
           large: this.large
           unsigned: this.unsigned
           raw: this.raw
           yes: this.yes
           before: this.before
       expire_after: 1d"#;
    let expected = |key: &str, k: &str, tags: &str, day: u32, yes: bool, before: i64, raw: &str| {
        format!(
            r#"{{"k":{k},"v":{key},"tags":["a","b",{tags}],"place":{{"x":-0.0,"y":null}},"counts":{{"one":1}},"doc":"{{\"a\":[1,null]}}","day":"2026-02-{day:02}","local":"2026-01-31T13:00:00+01:00","span":"PT90S","large":123456789012345678901234567890.12,"unsigned":18446744073709551615,"raw":{raw},"yes":{yes},"before":{before}}}"#
        )
    };
    let rows = [(1, Some("x"), Some(1)), (2, None, Some(1)), (3, Some("x"), Some(1)), (4, Some("x"), None)];
    assert_eq!(
        lines(operators, &rows),
        [
            expected("1", "\"x\"", "\"x\"", 1, false, 1, "\"78\""),
            expected("1", "null", "\"-\"", 1, false, 2, "null"),
            expected("1", "\"x\"", "\"x\",\"x\"", 2, true, 3, "\"78\""),
            expected("null", "\"x\"", "\"x\"", 1, false, 4, "\"78\""),
        ]
    );
}

#[test]
fn what_nobody_reads_is_not_put_out_and_rows_without_event_time_will_do() {
    let operators = "
    f:
      type: stateful
      input: rows
      key: k
      state: { n: { type: int64, init: 0 } }
      update: { n: this.n + id }
      emit: { when: this.n > 2, columns: { n: this.n, unread: 1 / (id - id) } }
    m: { type: map, input: f, keep: [n] }";
    let source = "schema: { id: int64, k: string | null, v: int64 | null, amount: \"decimal(6, 2)\", at: timestamp }";
    let given = Given { source, operators, read: &[("m", &[])], ..Given::default() };
    let (plan, problems) = given.plan();
    let plan = plan.unwrap_or_else(|| panic!("{problems}"));
    let step = plan.find("f").unwrap();
    assert!(!step.timed, "without a timer and an end, event time is not needed");
    let wanted: Vec<&str> = plan.sources().next().unwrap().wanted[0].iter().map(String::as_str).collect();
    assert_eq!(wanted, ["id", "k"]);
}

#[test]
fn a_hot_key_with_failures_among_other_keys_keeps_its_order() {
    // More rounds than are put together at once.
    let operators = "f:
       type: stateful
       input: rows
       key: k
       state: { path: { type: string, init: '' }, n: { type: int64, init: 0 } }
       update: { path: right(this.path || CAST(id AS string), 9), n: this.n + 1 }
       emit: { columns: { id: id, path: this.path, n: this.n } }";
    let rows: Vec<_> = (0..6_000).map(|id| (id, (id % 5 > 0).then_some("hot"), None)).collect();
    let (mut kept, mut expected) = ([(String::new(), 0), (String::new(), 0)], Vec::new());
    for (id, key, _) in &rows {
        let (path, n) = &mut kept[usize::from(key.is_some())];
        *path += &id.to_string();
        *path = path[path.len().saturating_sub(9)..].to_owned();
        *n += 1;
        let k = key.map_or("null".to_owned(), |key| format!("{key:?}"));
        expected.push(format!(r#"{{"k":{k},"id":{id},"path":"{path}","n":{n}}}"#));
    }
    assert_eq!(lines(operators, &rows), expected);
}

/// How many rows a second one worker takes, in epochs of 100,000 rows: `rows_a_second --ignored --nocapture`.
#[test]
#[ignore = "measures"]
#[allow(clippy::print_stdout)] // what it is for
fn rows_a_second() {
    const ROWS: usize = 100_000;
    let operators = "f:
       type: stateful
       input: rows
       key: k
       state:
         total: { type: \"decimal(18, 2)\", init: 0 }
         since: { type: timestamp | null }
       update:
         total: this.total + amount
         since: coalesce(this.since, at)
       emit:
         when: this.total < 0
         columns: { total: this.total, since: this.since }
       timer:
         at: this.since + INTERVAL '30 days'
         emit: { columns: { total: this.total } }
         clear: true
       expire_after: 90d";
    let given = Given { source: SOURCE, operators, read: &[("f", &[])], ..Given::default() };
    let (plan, problems) = given.plan();
    let plan = plan.unwrap_or_else(|| panic!("{problems}"));
    let schema = plan.sources().next().unwrap().outputs[0].stream.schema.clone();
    for keys in [1, 10, 1_000, 100_000] {
        let mut step = step_of(&plan);
        let mut random = Random(keys);
        let mut took = Vec::new();
        for epoch in 0..5u64 {
            let rows: Vec<Row> = (0..ROWS as i64)
                .map(|row| Row {
                    id: epoch as i64 * ROWS as i64 + row,
                    k: Some(format!("key-{}", random.below(keys))),
                    v: None,
                    cents: random.below(2_000) as i128 - 990,
                    at: epoch as i64 * 1_000_000_000 + row,
                })
                .collect();
            let rows = rows_of(&rows.iter().collect::<Vec<_>>(), &schema);
            let names: Vec<&str> = schema.fields().iter().map(|field| field.name().as_str()).collect();
            let wanted = ["k", "amount", "at"].map(|name| names.iter().position(|column| *column == name).unwrap());
            let rows = rows.with_batch(rows.batch.project(&wanted).unwrap());
            let watermark = Some(epoch as i64 * 1_000_000_000);
            let moment =
                Moment { epoch: Epoch(epoch), late_ns: vec![watermark], watermark_ns: vec![watermark], clock_ns: 0 };
            let started = std::time::Instant::now();
            let mut out = StepOutput::new(1);
            step.close(&moment, vec![vec![rows]], &mut out);
            while step.resume(&mut out) {}
            took.push(started.elapsed().as_secs_f64());
        }
        took.sort_by(f64::total_cmp);
        println!("{keys} keys: {:.0} rows a second", ROWS as f64 / took[2]);
    }
}
