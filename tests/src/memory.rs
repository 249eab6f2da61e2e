//! `memory_limit`, by the real binary: state that has no room goes to the disk and results are the same; what can't leave the
//! memory is refused.

use crate::runs::start;
use std::collections::BTreeSet;
use std::path::Path;
use std::process::{Command, Stdio};

/// Keyed steps of all kinds over 20,000 keys, whose state is many times the limit.
const PIPELINE: &str = "
version: 1
pipeline: memory
LIMIT
sources:
  rows:
    type: generate
    rows: 100000
    columns:
      key: row_number() * 7919 % 20011
      amount: row_number() % 1000
      text: \"concat('row ', CAST(row_number() AS varchar))\"
      at: to_timestamp_millis(1700000000000 + row_number())
    event_time: { column: at }
operators:
  hopped: { type: window, input: rows, key: key, hopping: { size: 40s, every: 20s }, columns: { n: count(*), texts: array_agg(text) } }
  recent: { type: rolling, input: rows, key: key, over: 1h, columns: { n: count(*), total: sum(amount), before: lag(text) } }
  folded:
    type: stateful
    input: rows
    key: key
    state: { last: { type: string | null }, n: { type: int64, init: 0 } }
    update: { last: text, n: this.n + 1 }
    emit: { columns: { last: this.last, count: this.n } }
    expire_after: 1d
  totals: { type: aggregate, input: rows, key: key, columns: { n: count(*), kinds: count(DISTINCT text) } }
  best: { type: top, input: rows, key: key, by: amount desc, limit: 2 }
  near: { type: join, left: rows, right: recent, match: key, within: { before: 1s, after: 1s }, columns: { text: left.text, n: right.n } }
sinks:
  of_hopped: { type: file, input: hopped, path: hopped.jsonl, format: json }
  of_recent: { type: file, input: recent, path: recent.jsonl, format: json }
  of_folded: { type: file, input: folded, path: folded.jsonl, format: json }
  of_totals: { type: file, input: totals, path: totals.jsonl, format: json }
  of_best: { type: file, input: best, path: best.jsonl, format: json }
  of_near: { type: file, input: near, path: near.jsonl, format: json }
";

fn run(folder: &Path, limit: &str, arguments: &[&str]) -> Vec<BTreeSet<String>> {
    std::fs::write(folder.join("pipeline.yaml"), PIPELINE.replace("LIMIT", limit)).expect("written");
    assert!(start(folder, arguments).wait().expect("it ends").success());
    let lines = |name: &str| {
        let path = folder.join(name).with_extension("jsonl");
        let text = std::fs::read_to_string(&path).expect("an output");
        std::fs::remove_file(path).expect("removed");
        assert!(!text.is_empty(), "nothing came out of {name}");
        text.lines().map(str::to_owned).collect()
    };
    ["hopped", "recent", "folded", "totals", "best", "near"].map(lines).into()
}

#[test]
fn results_are_the_same_where_state_has_no_room() {
    let folder = tempfile::tempdir().expect("a folder");
    let folder = folder.path();
    let free = run(folder, "", &["--record-cuts", "cuts"]);
    for workers in ["1", "2"] {
        let bound = run(folder, "memory_limit: 1MiB", &["--follow-cuts", "cuts", "--workers", workers]);
        assert!(bound == free, "{workers} workers");
    }
    let left: Vec<_> = walk(&folder.join(".engine"));
    assert!(left.is_empty(), "the cold state is gone with the run: {left:?}");
}

fn walk(folder: &Path) -> Vec<std::path::PathBuf> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    entries.flat_map(|entry| if entry.path().is_dir() { walk(&entry.path()) } else { vec![entry.path()] }).collect()
}

#[test]
fn what_can_not_leave_the_memory_is_refused() {
    let folder = tempfile::tempdir().expect("a folder");
    let folder = folder.path();
    let pipeline = "
version: 1
pipeline: refused
memory_limit: 1MiB
sources:
  rows: { type: generate, rows: 1000000, columns: { key: row_number() } }
operators:
  all: { type: distinct, input: rows }
sinks:
  out: { type: blackhole, input: all }
";
    std::fs::write(folder.join("pipeline.yaml"), pipeline).expect("written");
    let out = Command::new(crate::engine())
        .args(["run", "pipeline.yaml"])
        .current_dir(folder)
        .stdin(Stdio::null())
        .output()
        .expect("it runs");
    let text = String::from_utf8_lossy(&out.stderr);
    assert!(!out.status.success(), "{text}");
    assert!(text.contains("step `all`: the rows that it keeps take more than `memory_limit` allows"), "{text}");
}
