//! Pipelines run by the real binary: against an independent slow reference, on any number of workers, over kill -9.

use crate::engine;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// A transaction of the tests' own.
#[derive(Clone, Debug)]
pub(crate) struct Row {
    pub(crate) id: u64,
    pub(crate) key: u64,
    pub(crate) at_ms: i64,
    pub(crate) amount: f64,
    pub(crate) quantity: i64,
}

/// Rows in some disorder, skewed over keys, from a seed.
pub(crate) fn rows(count: u64, seed: u64) -> Vec<Row> {
    let mut random = seed;
    let mut next = move |bound: u64| {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (random >> 33) % bound
    };
    let mut now = 1_767_225_600_000i64;
    (0..count)
        .map(|id| {
            now += next(40) as i64;
            let keys = 1 + next(300);
            let key = next(keys);
            let late = if next(10) == 0 { next(3000) as i64 } else { 0 };
            Row { id, key, at_ms: now - late, amount: next(1_000_000) as f64 / 7.0, quantity: next(2000) as i64 - 1000 }
        })
        .collect()
}

pub(crate) fn write_rows(path: &Path, rows: &[Row]) {
    let mut text = String::new();
    for row in rows {
        let Row { id, key, at_ms, amount, quantity } = row;
        writeln!(text, r#"{{"id":{id},"card":"c{key}","at":{at_ms},"amount":{amount:?},"quantity":{quantity}}}"#)
            .expect("a string takes text");
    }
    std::fs::write(path, text).expect("the rows are written");
}

const PIPELINE: &str = "
version: 1
pipeline: rolling-test
sources:
  rows:
    type: file
    path: rows.jsonl
    format: json
    schema: { id: int64, card: string, at: int64, amount: float64, quantity: int64 }
    event_time: { column: at, unit: ms, max_delay: 2s }
operators:
  some: { type: filter, input: rows, where: quantity % 10 <> 0 }
  history:
    type: rolling
    input: some
    key: card
    over: 20s
    columns:
      n: count(*)
      big: count(*) FILTER (WHERE amount > 100000)
      total: sum(quantity)
      least: min(quantity)
      mean: avg(amount)
      sd: coalesce(stddev(amount), 0)
      before: { value: max(amount), over: 5s, exclude_current: true }
      kinds: count(DISTINCT quantity % 7)
      last: { value: lag(quantity), over: 5s }
sinks:
  out:
    type: file
    input: history
    path: out.jsonl
    format: json
    columns: [id, n, big, total, least, mean, sd, before, kinds, last]
";

/// What one row must give: integers, floats, and what may be null.
type Expected = ([i64; 5], [f64; 2], Option<f64>, Option<i64>);

/// The meaning of the pipeline in plain loops over plain vectors.
fn reference(rows: &[Row]) -> BTreeMap<u64, Expected> {
    let mut by_key: BTreeMap<u64, Vec<Row>> = BTreeMap::new();
    let mut arrived_last: BTreeMap<u64, &Row> = BTreeMap::new();
    let mut expected = BTreeMap::new();
    for row in rows.iter().filter(|row| row.quantity % 10 != 0) {
        let kept = by_key.entry(row.key).or_default();
        let greatest = kept.iter().map(|row| row.at_ms).max().unwrap_or(row.at_ms).max(row.at_ms);
        let bound = greatest - 20_000 - 2_000;
        if row.at_ms <= bound {
            continue;
        }
        let window = |over_ms: i64| {
            let after = (row.at_ms - over_ms).max(bound);
            move |other: &&Row| after < other.at_ms && other.at_ms <= row.at_ms
        };
        let before = kept.iter().filter(window(5_000)).map(|row| row.amount).reduce(f64::max);
        let after = (row.at_ms - 5_000).max(bound);
        let last = arrived_last.insert(row.key, row).filter(|last| last.at_ms > after).map(|last| last.quantity);
        kept.push(row.clone());
        let inside: Vec<&Row> = kept.iter().filter(window(20_000)).collect();
        let n = inside.len() as f64;
        let mean = inside.iter().map(|row| row.amount).sum::<f64>() / n;
        let squares: f64 = inside.iter().map(|row| (row.amount - mean).powi(2)).sum();
        let sd = if inside.len() > 1 { (squares / (n - 1.0)).sqrt() } else { 0.0 };
        let integers = [
            inside.len() as i64,
            inside.iter().filter(|row| row.amount > 100_000.0).count() as i64,
            inside.iter().map(|row| row.quantity).sum(),
            inside.iter().map(|row| row.quantity).min().unwrap_or_default(),
            inside.iter().map(|row| row.quantity % 7).collect::<BTreeSet<i64>>().len() as i64,
        ];
        expected.insert(row.id, (integers, [mean, sd], before, last));
        // Only so that the loops end some day: what is dropped could never be seen again.
        kept.retain(|row| row.at_ms > bound);
    }
    expected
}

pub(crate) fn start(folder: &Path, arguments: &[&str]) -> Child {
    Command::new(engine())
        .current_dir(folder)
        .args(["run", "pipeline.yaml", "--no-metrics", "--quiet", "--log", "warn"])
        .args(arguments)
        .stdin(Stdio::null())
        .spawn()
        .expect("the engine starts")
}

/// The output by row: the line as it is, to compare to the bit.
fn output(folder: &Path) -> BTreeMap<u64, String> {
    let text = std::fs::read_to_string(folder.join("out.jsonl")).unwrap_or_default();
    // A line that a kill cut short is no row.
    text.lines()
        .filter_map(|line| {
            let value: serde_json::Value = serde_json::from_str(line).ok()?;
            Some((value["id"].as_u64()?, line.to_owned()))
        })
        .collect()
}

fn compare(output: &BTreeMap<u64, String>, expected: &BTreeMap<u64, Expected>) {
    assert_eq!(output.keys().collect::<Vec<_>>(), expected.keys().collect::<Vec<_>>(), "the same rows");
    let near = |a: f64, b: f64| (a - b).abs() <= 1e-9 * a.abs().max(b.abs()).max(1.0);
    for (id, line) in output {
        let value: serde_json::Value = serde_json::from_str(line).expect("checked before");
        let (integers, floats, before, last) = &expected[id];
        for (name, expected) in ["n", "big", "total", "least", "kinds"].iter().zip(integers) {
            assert_eq!(value[name].as_i64(), Some(*expected), "{name} of {line}");
        }
        for (name, expected) in ["mean", "sd"].iter().zip(floats) {
            assert!(near(value[name].as_f64().expect("a float"), *expected), "{name} of {line}, not {expected}");
        }
        assert_eq!(value["before"].as_f64(), *before, "before of {line}");
        assert_eq!(value["last"].as_i64(), *last, "last of {line}");
    }
}

#[test]
fn rolling_equals_plain_loops_and_itself_to_the_bit_on_any_number_of_workers() {
    let folder = tempfile::tempdir().expect("a folder");
    let folder = folder.path();
    let rows = rows(1_000_000, 1);
    write_rows(&folder.join("rows.jsonl"), &rows);
    std::fs::write(folder.join("pipeline.yaml"), PIPELINE).expect("written");
    assert!(start(folder, &["--record-cuts", "cuts"]).wait().expect("it ends").success());
    let first = output(folder);
    compare(&first, &reference(&rows));
    for workers in ["1", "2", "4"] {
        std::fs::remove_file(folder.join("out.jsonl")).expect("it was there");
        let followed = start(folder, &["--follow-cuts", "cuts", "--workers", workers]).wait().expect("it ends");
        assert!(followed.success());
        assert!(output(folder) == first, "{workers} workers give other bits");
    }
}

#[test]
fn killed_and_started_again_nothing_is_lost() {
    let folder = tempfile::tempdir().expect("a folder");
    let folder = folder.path();
    let rows = rows(300_000, 2);
    write_rows(&folder.join("rows.jsonl"), &rows);
    std::fs::write(folder.join("pipeline.yaml"), PIPELINE).expect("written");
    let mut kills = 0;
    for attempt in 0u64..40 {
        let mut child = start(folder, &["--state", "state", "--workers", if attempt % 2 == 0 { "2" } else { "1" }]);
        // In the middle of the run as long as it takes this long; the last attempts are let through.
        let patience =
            if attempt < 10 { Duration::from_millis(60 + attempt * 41 % 200) } else { Duration::from_secs(60) };
        let deadline = std::time::Instant::now() + patience;
        let status = loop {
            match child.try_wait().expect("it can be waited for") {
                Some(status) => break Some(status),
                None if std::time::Instant::now() >= deadline => break None,
                None => std::thread::sleep(Duration::from_millis(5)),
            }
        };
        match status {
            Some(status) => {
                assert!(status.success());
                break;
            }
            None => {
                child.kill().expect("it is killed");
                child.wait().expect("it is gone");
                kills += 1;
            }
        }
    }
    assert!(kills > 0, "it was never killed in the middle");
    compare(&output(folder), &reference(&rows));
}

#[test]
fn cuts_of_another_input_are_not_followed() {
    let folder = tempfile::tempdir().expect("a folder");
    let folder = folder.path();
    std::fs::write(folder.join("pipeline.yaml"), PIPELINE).expect("written");
    write_rows(&folder.join("rows.jsonl"), &rows(1000, 3));
    assert!(start(folder, &["--record-cuts", "cuts"]).wait().expect("it ends").success());
    write_rows(&folder.join("rows.jsonl"), &rows(500, 3));
    assert_eq!(start(folder, &["--follow-cuts", "cuts"]).wait().expect("it ends").code(), Some(1));
}

/// Which rows fail, and what is seen of them, does not depend on what else is read.
#[test]
fn errors_that_are_read_have_whole_rows() {
    let folder = tempfile::tempdir().expect("a folder");
    let folder = folder.path();
    let lines = r#"{"id":1,"n":2,"s":"a"}
{"id":2,"n":0,"s":"b"}
{"id":3,"n":"bad","s":"c"}
"#;
    std::fs::write(folder.join("rows.jsonl"), lines).expect("written");
    let pipeline = "
version: 1
pipeline: errors-read
sources:
  rows: { type: file, path: rows.jsonl, format: json, schema: { id: int64, n: int64, s: string } }
operators:
  divided: { type: map, input: rows, set: { q: 10 / n } }
sinks:
  out: { type: file, input: divided, path: out.jsonl, format: json, columns: [id] }
  failed: { type: file, input: divided.errors, path: failed.jsonl, format: json, columns: [code, payload] }
  undecoded: { type: file, input: rows.errors, path: undecoded.jsonl, format: json, columns: [code, payload] }
";
    std::fs::write(folder.join("pipeline.yaml"), pipeline).expect("written");
    assert!(start(folder, &[]).wait().expect("it ends").success());
    let read = |name: &str| std::fs::read_to_string(folder.join(name)).expect("it is written");
    assert_eq!(read("out.jsonl"), "{\"id\":1}\n");
    let failed: serde_json::Value = serde_json::from_str(&read("failed.jsonl")).expect("one row");
    assert_eq!(failed["code"], "divide_by_zero");
    let payload: serde_json::Value = serde_json::from_str(failed["payload"].as_str().expect("text")).expect("a row");
    assert_eq!(payload, serde_json::json!({ "id": 2, "n": 0, "s": "b" }));
    let undecoded: serde_json::Value = serde_json::from_str(&read("undecoded.jsonl")).expect("one row");
    assert_eq!(undecoded["payload"], r#"{"id":3,"n":"bad","s":"c"}"#);
}

/// The errors of a chain are those of all its steps, each with the step's name.
#[test]
fn the_errors_of_a_chain_are_those_of_all_its_steps() {
    let folder = tempfile::tempdir().expect("a folder");
    let folder = folder.path();
    let lines = r#"{"id":1,"n":2,"s":"7"}
{"id":2,"n":0,"s":"7"}
{"id":3,"n":5,"s":"x"}
{"id":4,"n":10,"s":"0"}
"#;
    std::fs::write(folder.join("rows.jsonl"), lines).expect("written");
    let pipeline = "
version: 1
pipeline: chained
sources:
  rows: { type: file, path: rows.jsonl, format: json, schema: { id: int64, n: int64, s: string } }
operators:
  c:
    type: chain
    input: rows
    steps:
      - { type: map, set: { q: 10 / n } }
      - { type: map, keep: [id, q, s] }
      - { type: map, name: parsed, set: { s: CAST(s AS int64) } }
      - { type: filter, where: q / s >= 0 }
sinks:
  out: { type: file, input: c, path: out.jsonl, format: json, columns: [id] }
  failed: { type: file, input: c.errors, path: failed.jsonl, format: json, columns: [step, code, payload] }
  first: { type: file, input: c.1.errors, path: first.jsonl, format: json, columns: [step] }
";
    std::fs::write(folder.join("pipeline.yaml"), pipeline).expect("written");
    assert!(start(folder, &[]).wait().expect("it ends").success());
    let read = |name: &str| std::fs::read_to_string(folder.join(name)).expect("it is written");
    assert_eq!(read("out.jsonl"), "{\"id\":1}\n");
    assert_eq!(read("first.jsonl"), "{\"step\":\"c.1\"}\n");
    let failed: BTreeSet<String> = read("failed.jsonl").lines().map(str::to_owned).collect();
    let expected = [
        r#"{"step":"c","code":"divide_by_zero","payload":"{\"id\":4,\"q\":1,\"s\":0}"}"#,
        r#"{"step":"c.1","code":"divide_by_zero","payload":"{\"id\":2,\"n\":0,\"s\":\"7\"}"}"#,
        r#"{"step":"parsed","code":"cast","payload":"{\"id\":3,\"q\":2,\"s\":\"x\"}"}"#,
    ];
    assert_eq!(failed, expected.into_iter().map(str::to_owned).collect());
    // None of them is in errors.jsonl beside.
    let beside = folder.join(".engine/chained/errors.jsonl");
    assert!(!beside.exists() || std::fs::read_to_string(beside).expect("text").is_empty());
}

/// `on_error: stop`: the run ends with an error that names the row, and the next one reads the row again.
#[test]
fn a_row_that_a_model_fails_on_can_stop_the_pipeline() {
    let folder = tempfile::tempdir().expect("a folder");
    let folder = folder.path();
    let models = crate::package().join("../models/risk/model.yaml");
    let pipeline = format!(
        "
version: 1
pipeline: careful
sources:
  rows: {{ type: file, path: rows.jsonl, format: json, schema: {{ id: int64, x: float32 | null }} }}
models:
  risk: {}
operators:
  scored:
    type: predict
    input: rows
    model: risk
    features: [x, x, x, x, x, x, x, x]
    outputs: [score]
    on_error: stop
sinks:
  out: {{ type: file, input: scored, path: out.jsonl, format: json, columns: [id] }}
",
        models.display()
    );
    std::fs::write(folder.join("pipeline.yaml"), pipeline).expect("written");
    std::fs::write(folder.join("rows.jsonl"), "{\"id\":1,\"x\":0.5}\n{\"id\":2,\"x\":null}\n").expect("written");
    let run = || {
        let child = Command::new(engine())
            .args(["run", "pipeline.yaml", "--state", "state", "--no-metrics"])
            .current_dir(folder)
            .stdin(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the engine starts");
        let output = child.wait_with_output().expect("it ends");
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    for _ in 0..2 {
        let (code, log) = run();
        assert_eq!(code, Some(1), "{log}");
        let told = "step `scored`: the feature `x` is null, and the model has no default (the row rows/0/";
        assert!(log.contains(told), "{log}");
    }
    // Mended, it goes on from there.
    std::fs::write(folder.join("rows.jsonl"), "{\"id\":1,\"x\":0.5}\n{\"id\":2,\"x\":0.50}\n").expect("written");
    let (code, log) = run();
    assert_eq!(code, Some(0), "{log}");
    let out = std::fs::read_to_string(folder.join("out.jsonl")).expect("it is written");
    assert!(out.lines().any(|line| line == "{\"id\":2}"), "{out}");
}
