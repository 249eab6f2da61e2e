//! Windows run by the real binary: against plain loops, on any number of workers, and closing when nothing comes any more.

use crate::runs::{Row, rows, start, write_rows};
use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// Windows, windows of windows, and what comes too late; `DELAY` is to be replaced.
const PIPELINE: &str = "
version: 1
pipeline: windows
sources:
  rows:
    type: file
    path: rows.jsonl
    format: json
    schema: { id: int64, card: string, at: int64, amount: float64, quantity: int64 }
    event_time: { column: at, unit: ms, max_delay: DELAY }
operators:
  some: { type: filter, input: rows, where: quantity % 10 <> 0 }
  tumbled:
    type: window
    input: some
    key: card
    tumbling: 10s
    columns: { n: count(*), total: sum(quantity), mean: avg(amount), kinds: count(DISTINCT quantity % 7) }
  hopped:
    type: window
    input: some
    hopping: { size: 30s, every: 10s }
    columns: { n: count(*), total: sum(quantity) }
  again:
    type: window
    input: tumbled
    tumbling: 30s
    columns: { cards: count(*), n: sum(n) }
sinks:
  of_tumbled: { type: file, input: tumbled, path: tumbled.jsonl, format: json, timestamps: epoch_ms }
  of_hopped: { type: file, input: hopped, path: hopped.jsonl, format: json, timestamps: epoch_ms }
  of_again: { type: file, input: again, path: again.jsonl, format: json, timestamps: epoch_ms }
  of_late: { type: file, input: tumbled.late, path: late.jsonl, format: json, columns: [id] }
";

const FILES: [&str; 4] = ["tumbled.jsonl", "hopped.jsonl", "again.jsonl", "late.jsonl"];

fn lines(folder: &Path, file: &str) -> BTreeSet<String> {
    let text = std::fs::read_to_string(folder.join(file)).unwrap_or_default();
    let lines: Vec<String> = text.lines().map(str::to_owned).collect();
    let count = lines.len();
    let set: BTreeSet<String> = lines.into_iter().collect();
    assert_eq!(set.len(), count, "each row of {file} comes once");
    set
}

/// Runs the pipeline over the rows; what it put out, after the same on other numbers of workers.
fn run(rows: &[Row], delay: &str) -> Vec<BTreeSet<String>> {
    let folder = tempfile::tempdir().expect("a folder");
    let folder = folder.path();
    write_rows(&folder.join("rows.jsonl"), rows);
    std::fs::write(folder.join("pipeline.yaml"), PIPELINE.replace("DELAY", delay)).expect("written");
    assert!(start(folder, &["--record-cuts", "cuts", "--workers", "2"]).wait().expect("it ends").success());
    let first: Vec<_> = FILES.iter().map(|file| lines(folder, file)).collect();
    for workers in ["1", "2", "3", "4"] {
        for file in FILES {
            let _ = std::fs::remove_file(folder.join(file));
        }
        let followed = start(folder, &["--follow-cuts", "cuts", "--workers", workers]).wait().expect("it ends");
        assert!(followed.success());
        let again: Vec<_> = FILES.iter().map(|file| lines(folder, file)).collect();
        assert!(again == first, "{workers} workers give other bits");
    }
    first
}

fn parsed(lines: &BTreeSet<String>) -> Vec<serde_json::Value> {
    lines.iter().map(|line| serde_json::from_str(line).expect("JSON")).collect()
}

#[test]
fn windows_equal_plain_loops_where_nothing_is_late() {
    let rows = rows(300_000, 5);
    // Rows are at most 3 s and a few ms behind.
    let out = run(&rows, "4s");
    assert_eq!(out[3].len(), 0, "nothing is late");
    let counted = || rows.iter().filter(|row| row.quantity % 10 != 0);
    let mut expected: BTreeMap<(u64, i64), Vec<&Row>> = BTreeMap::new();
    counted().for_each(|row| expected.entry((row.key, row.at_ms / 10_000 * 10_000)).or_default().push(row));
    let tumbled = parsed(&out[0]);
    assert_eq!(tumbled.len(), expected.len());
    for window in &tumbled {
        let card: u64 = window["card"].as_str().expect("text")[1..].parse().expect("a number");
        let start = window["window_start"].as_i64().expect("a time");
        assert_eq!(window["window_end"].as_i64(), Some(start + 10_000));
        let rows = &expected[&(card, start)];
        assert_eq!(window["n"].as_u64(), Some(rows.len() as u64), "{window}");
        assert_eq!(window["total"].as_i64(), Some(rows.iter().map(|row| row.quantity).sum()), "{window}");
        let kinds: BTreeSet<i64> = rows.iter().map(|row| row.quantity % 7).collect();
        assert_eq!(window["kinds"].as_u64(), Some(kinds.len() as u64), "{window}");
        let mean = rows.iter().map(|row| row.amount).sum::<f64>() / rows.len() as f64;
        assert!((window["mean"].as_f64().expect("a float") - mean).abs() <= 1e-9 * mean.abs().max(1.0), "{window}");
    }
    let mut hopped: BTreeMap<i64, (u64, i64)> = BTreeMap::new();
    for row in counted() {
        for back in 0..3 {
            let (n, total) = hopped.entry((row.at_ms / 10_000 - back) * 10_000).or_default();
            *n += 1;
            *total += row.quantity;
        }
    }
    let of = |window: &serde_json::Value| {
        let start = window["window_start"].as_i64().expect("a time");
        (start, (window["n"].as_u64().expect("a count"), window["total"].as_i64().expect("a sum")))
    };
    assert_eq!(parsed(&out[1]).iter().map(of).collect::<BTreeMap<_, _>>(), hopped);
    let mut again: BTreeMap<i64, (u64, u64)> = BTreeMap::new();
    for ((_, start), rows) in &expected {
        let (cards, n) = again.entry(start / 30_000 * 30_000).or_default();
        *cards += 1;
        *n += rows.len() as u64;
    }
    let of = |window: &serde_json::Value| {
        let start = window["window_start"].as_i64().expect("a time");
        (start, (window["cards"].as_u64().expect("a count"), window["n"].as_u64().expect("a sum")))
    };
    assert_eq!(parsed(&out[2]).iter().map(of).collect::<BTreeMap<_, _>>(), again);
}

#[test]
fn each_row_is_in_its_window_or_late() {
    let rows = rows(200_000, 6);
    let out = run(&rows, "500ms");
    let counted = rows.iter().filter(|row| row.quantity % 10 != 0).count();
    assert!(!out[3].is_empty(), "some rows are late");
    let in_windows: u64 = parsed(&out[0]).iter().map(|window| window["n"].as_u64().expect("a count")).sum();
    assert_eq!(in_windows as usize + out[3].len(), counted);
    let again: u64 = parsed(&out[2]).iter().map(|window| window["n"].as_u64().expect("a sum")).sum();
    assert_eq!(again, in_windows, "a window of windows has them all");
}

#[test]
fn the_last_window_closes_when_nothing_comes_any_more() {
    let folder = tempfile::tempdir().expect("a folder");
    let folder = folder.path();
    let pipeline = "
version: 1
pipeline: idle
sources:
  rows: { type: stdin, format: json, schema: { at: int64 }, event_time: { column: at, unit: ms, idle_after: 200ms } }
operators:
  w: { type: window, input: rows, tumbling: 500ms, columns: { n: count(*) } }
sinks:
  out: { type: file, input: w, path: out.jsonl, format: json, timestamps: epoch_ms }
";
    std::fs::write(folder.join("pipeline.yaml"), pipeline).expect("written");
    for workers in ["1", "2"] {
        let _ = std::fs::remove_file(folder.join("out.jsonl"));
        let mut child = Command::new(crate::engine())
            .current_dir(folder)
            .args(["run", "pipeline.yaml", "--no-metrics", "--quiet", "--log", "warn", "--workers", workers])
            .stdin(Stdio::piped())
            .spawn()
            .expect("the engine starts");
        let mut input = child.stdin.take().expect("its input");
        input.write_all(b"{\"at\":1000}\n{\"at\":1100}\n{\"at\":1700}\n").expect("it reads");
        let deadline = Instant::now() + Duration::from_secs(60);
        let read = || std::fs::read_to_string(folder.join("out.jsonl")).unwrap_or_default();
        while read().lines().count() < 2 {
            assert!(Instant::now() < deadline, "the windows did not close: {}", read());
            std::thread::sleep(Duration::from_millis(20));
        }
        let expected = "{\"window_start\":1000,\"window_end\":1500,\"n\":2}\n{\"window_start\":1500,\"window_end\":2000,\"n\":1}\n";
        assert_eq!(read(), expected);
        drop(input);
        assert!(child.wait().expect("it ends").success());
        assert_eq!(read(), expected, "nothing comes twice");
    }
}

/// A window of an hour of which something is seen every 200 ms, though its end is far and no row comes any more.
#[test]
fn a_window_is_put_out_early() {
    let folder = tempfile::tempdir().expect("a folder");
    let pipeline = "
version: 1
pipeline: early
sources:
  rows: { type: stdin, format: json, schema: { k: string, at: timestamp }, event_time: { column: at } }
operators:
  hours: { type: window, input: rows, key: k, tumbling: 1h, emit: { early: 200ms }, columns: { n: count(*) } }
sinks:
  out: { type: stdout, input: hours, format: json, columns: [k, n] }
";
    std::fs::write(folder.path().join("pipeline.yaml"), pipeline).expect("written");
    let mut engine = Command::new(crate::engine())
        .args(["run", "pipeline.yaml", "--no-metrics", "--quiet", "--workers", "2"])
        .current_dir(folder.path())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("the engine starts");
    let mut input = engine.stdin.take().expect("its input");
    let mut lines = BufReader::new(engine.stdout.take().expect("its output")).lines().map_while(Result::ok);
    for number in 1..=3 {
        input.write_all(b"{\"k\":\"a\",\"at\":\"2026-01-01T10:00:05Z\"}\n").expect("written");
        input.flush().expect("written");
        // It comes without an end of the input.
        let mut came = lines.by_ref().take(if number == 1 { 1 } else { 2 });
        let wanted = format!("{{\"@change\":\"insert\",\"k\":\"a\",\"n\":{number}}}");
        assert!(came.any(|line| line == wanted), "total {number}");
    }
    drop(input);
    assert!(engine.wait().expect("it ends").success());
    assert_eq!(lines.next(), None, "what has not changed is not put out again");
}
