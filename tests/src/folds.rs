//! Folds and patterns run by the real binary: against plain loops, on any number of workers, and over a restart.

use crate::runs::{Row, rows, start, write_rows};
use std::collections::BTreeMap;
use std::path::Path;

/// A fold that puts out each row, and one that counts the rows of a busy while.
const PIPELINE: &str = "
version: 1
pipeline: folds
sources:
  rows:
    type: file
    path: rows.jsonl
    format: json
    schema: { id: int64, card: string, at: int64, amount: float64, quantity: int64 }
    event_time: { column: at, unit: ms, max_delay: 4s }
operators:
  running:
    type: stateful
    input: rows
    key: card
    state:
      n: { type: int64, init: 0 }
      total: { type: int64, init: 0 }
      least: { type: int64 | null }
    update:
      n: this.n + 1
      total: this.total + quantity / (quantity % 10)
      least: least(this.least, quantity)
    emit:
      when: this.n % 3 > 0
      columns: { id: id, n: this.n, total: this.total, least: this.least }
    expire_after: 3650d
  busy:
    type: stateful
    input: rows
    key: card
    state: { n: { type: int64, init: 0 }, total: { type: int64, init: 0 }, last: { type: timestamp | null } }
    update: { n: this.n + 1, total: this.total + quantity, last: 'greatest(this.last, event_time())' }
    timer:
      at: this.last + INTERVAL '5s'
      emit: { columns: { n: this.n, total: this.total, last: this.last } }
      clear: true
sinks:
  of_running: { type: file, input: running, path: running.jsonl, format: json }
  of_errors: { type: file, input: running.errors, path: errors.jsonl, format: json, columns: [code, payload] }
  of_busy: { type: file, input: busy, path: busy.jsonl, format: json, timestamps: epoch_ms }
";

const FILES: [&str; 3] = ["running.jsonl", "errors.jsonl", "busy.jsonl"];

/// The lines of a file, sorted.
fn lines(folder: &Path, file: &str) -> Vec<String> {
    let text = std::fs::read_to_string(folder.join(file)).unwrap_or_default();
    let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
    lines.sort();
    lines
}

/// What `running` gives for each row that it emits, and how many rows fail.
fn reference(rows: &[Row]) -> (Vec<String>, usize) {
    let mut records: BTreeMap<u64, (i64, i64, i64)> = BTreeMap::new();
    let (mut expected, mut failed) = (Vec::new(), 0);
    for row in rows {
        if row.quantity % 10 == 0 {
            failed += 1;
            continue;
        }
        let (n, total, least) = records.entry(row.key).or_insert((0, 0, i64::MAX));
        *n += 1;
        *total += row.quantity / (row.quantity % 10);
        *least = row.quantity.min(*least);
        if *n % 3 > 0 {
            let (card, id) = (row.key, row.id);
            expected.push(format!(r#"{{"card":"c{card}","id":{id},"n":{n},"total":{total},"least":{least}}}"#));
        }
    }
    expected.sort();
    (expected, failed)
}

#[test]
fn folds_equal_plain_loops_on_any_number_of_workers() {
    let rows = rows(200_000, 8);
    let folder = tempfile::tempdir().expect("a folder");
    let folder = folder.path();
    write_rows(&folder.join("rows.jsonl"), &rows);
    std::fs::write(folder.join("pipeline.yaml"), PIPELINE).expect("written");
    assert!(start(folder, &["--record-cuts", "cuts", "--workers", "2"]).wait().expect("it ends").success());
    let first: Vec<_> = FILES.iter().map(|file| lines(folder, file)).collect();
    let (expected, failed) = reference(&rows);
    assert!(first[0] == expected, "{} rows, {} expected", first[0].len(), expected.len());
    assert_eq!(first[1].len(), failed);
    let busy: Vec<serde_json::Value> = first[2].iter().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    let sum = |name: &str| busy.iter().map(|row| row[name].as_i64().expect("a number")).sum::<i64>();
    assert_eq!(sum("n"), rows.len() as i64, "each row is in one busy while");
    assert_eq!(sum("total"), rows.iter().map(|row| row.quantity).sum::<i64>());
    assert!(busy.len() > 300, "keys are silent for a while now and then");
    for workers in ["1", "2", "3"] {
        for file in FILES {
            let _ = std::fs::remove_file(folder.join(file));
        }
        let followed = start(folder, &["--follow-cuts", "cuts", "--workers", workers]).wait().expect("it ends");
        assert!(followed.success());
        let again: Vec<_> = FILES.iter().map(|file| lines(folder, file)).collect();
        assert!(again == first, "{workers} workers give other rows");
    }
}

#[test]
fn a_fold_without_event_time_goes_on_after_a_restart() {
    let pipeline = "
version: 1
pipeline: restarted
sources:
  rows: { type: file, path: rows.jsonl, format: json, schema: { id: int64, card: string, quantity: int64 } }
operators:
  running:
    type: stateful
    input: rows
    key: card
    state: { n: { type: int64, init: 0 }, total: { type: int64, init: 0 } }
    update: { n: this.n + 1, total: this.total + quantity }
    emit: { columns: { id: id, n: this.n, total: this.total } }
sinks:
  out: { type: file, input: running, path: out.jsonl, format: json }
";
    let rows = rows(20_000, 9);
    let folder = tempfile::tempdir().expect("a folder");
    let folder = folder.path();
    std::fs::write(folder.join("pipeline.yaml"), pipeline).expect("written");
    for count in [12_000, 20_000] {
        write_rows(&folder.join("rows.jsonl"), &rows[..count]);
        let state = start(folder, &["--state", "state", "--workers", "2"]).wait().expect("it ends");
        assert!(state.success());
    }
    let mut records: BTreeMap<u64, (i64, i64)> = BTreeMap::new();
    let expected = rows.iter().map(|row| {
        let (n, total) = records.entry(row.key).or_default();
        *n += 1;
        *total += row.quantity;
        format!(r#"{{"card":"c{}","id":{},"n":{n},"total":{total}}}"#, row.key, row.id)
    });
    let mut expected: Vec<String> = expected.collect();
    expected.sort();
    let found = lines(folder, "out.jsonl");
    assert!(found == expected, "{} rows, {} expected", found.len(), expected.len());
}

#[test]
fn patterns_are_the_same_on_any_number_of_workers() {
    let pipeline = "
version: 1
pipeline: patterns
sources:
  rows:
    type: file
    path: rows.jsonl
    format: json
    schema: { id: int64, card: string, at: int64, amount: float64, quantity: int64 }
    event_time: { column: at, unit: ms, max_delay: 2s }
operators:
  probing:
    type: pattern
    input: rows
    key: card
    within: 5s
    sequence:
      - small: { where: quantity < 40, repeat: 2.. }
      - large: { where: quantity > small.quantity, optional: true }
      - last: { where: quantity > 80 }
    columns: { first: first(small.id), n: count(small), large: large.id, last: last.id }
  silent:
    type: pattern
    input: rows
    key: card
    within: 3s
    overlap: true
    sequence:
      - one: { where: quantity > 70 }
      - other: { where: id <> one.id, absent: true }
    columns: { id: one.id }
sinks:
  of_probing: { type: file, input: probing, path: probing.jsonl, format: json }
  of_silent: { type: file, input: silent, path: silent.jsonl, format: json }
  of_late: { type: file, input: silent.late, path: late.jsonl, format: json, columns: [id] }
";
    let rows = rows(100_000, 10);
    let folder = tempfile::tempdir().expect("a folder");
    let folder = folder.path();
    write_rows(&folder.join("rows.jsonl"), &rows);
    std::fs::write(folder.join("pipeline.yaml"), pipeline).expect("written");
    let files = ["probing.jsonl", "silent.jsonl", "late.jsonl"];
    assert!(start(folder, &["--record-cuts", "cuts", "--workers", "2"]).wait().expect("it ends").success());
    let first: Vec<_> = files.iter().map(|file| lines(folder, file)).collect();
    let counts: Vec<usize> = first.iter().map(Vec::len).collect();
    assert!(counts[0] > 100 && counts[1] > 100, "{counts:?} matches and late rows");
    // A row is silent that no other of its card follows within three seconds: plain loops over the rows that were not late.
    let late: std::collections::BTreeSet<u64> = first[2]
        .iter()
        .map(|line| serde_json::from_str::<serde_json::Value>(line).expect("JSON")["id"].as_u64().expect("an id"))
        .collect();
    let mut of_cards: BTreeMap<u64, Vec<&Row>> = BTreeMap::new();
    for row in rows.iter().filter(|row| !late.contains(&row.id)) {
        of_cards.entry(row.key).or_default().push(row);
    }
    let mut expected: Vec<String> = Vec::new();
    for (card, mut rows) in of_cards {
        rows.sort_by_key(|row| (row.at_ms, row.id));
        for (at, row) in rows.iter().enumerate().filter(|(_, row)| row.quantity > 70) {
            if rows.get(at + 1).is_none_or(|next| next.at_ms > row.at_ms + 3_000) {
                expected.push(format!(r#"{{"card":"c{card}","id":{}}}"#, row.id));
            }
        }
    }
    expected.sort();
    assert!(first[1] == expected, "{} matches, {} expected", first[1].len(), expected.len());
    for workers in ["1", "2", "3"] {
        for file in files {
            let _ = std::fs::remove_file(folder.join(file));
        }
        let followed = start(folder, &["--follow-cuts", "cuts", "--workers", workers]).wait().expect("it ends");
        assert!(followed.success());
        let again: Vec<_> = files.iter().map(|file| lines(folder, file)).collect();
        assert!(again == first, "{workers} workers give other rows");
    }
}
