//! What lies in a state directory, what becomes of it when the pipeline or the input changes, and when it is damaged.

use crate::engine;
use crate::receiver::Receiver;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::Duration;

pub(crate) const PIPELINE: &str = "
version: 1
pipeline: durable
delivery: exactly_once
checkpoint: { every: 100ms }
sources:
  rows: { type: file, path: rows.jsonl, format: json, schema: { id: int64, key: string, n: int64 } }
operators:
  totals: { type: aggregate, input: rows, key: key, columns: { c: count(*), total: sum(n) } }
sinks:
  out: { type: sqlite, input: totals, path: out.db, table: totals, create: true, mode: upsert, key: [key] }
  all: { type: file, input: rows, path: all.jsonl }
";

pub(crate) fn write_rows(folder: &Path, rows: std::ops::Range<i64>, n: i64) {
    let text = rows.fold(String::new(), |mut text, id| {
        writeln!(text, r#"{{"id":{id},"key":"k{}","n":{n}}}"#, id % 7).expect("a string takes text");
        text
    });
    std::fs::write(folder.join("rows.jsonl"), text).expect("written");
}

pub(crate) fn run(folder: &Path, arguments: &[&str]) -> Output {
    // A run that hangs is a failure too.
    let mut command = Command::new("timeout");
    command.arg("120").arg(engine()).current_dir(folder).args(arguments).stdin(Stdio::null()).output().expect("it runs")
}

pub(crate) fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

fn said_of(folder: &Path, arguments: &[&str]) -> String {
    said(&run(folder, arguments))
}

pub(crate) const RUN: [&str; 6] = ["run", "pipeline.yaml", "--no-metrics", "--quiet", "--state", "state"];

pub(crate) fn folder(pipeline: &str) -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    std::fs::write(folder.path().join("pipeline.yaml"), pipeline).expect("written");
    folder
}

/// By key: how many, and how much.
pub(crate) fn totals(folder: &Path) -> BTreeMap<String, (i64, i64)> {
    let file = rusqlite::Connection::open(folder.join("out.db")).expect("it opens");
    let mut query = file.prepare("SELECT key, c, total FROM totals").expect("a table");
    let rows = query.query_map((), |row| Ok((row.get(0)?, (row.get(1)?, row.get(2)?)))).expect("rows");
    rows.map(|row| row.expect("a row")).collect()
}

pub(crate) fn expected(count: i64, n: i64) -> BTreeMap<String, (i64, i64)> {
    let mut all = BTreeMap::new();
    for id in 0..count {
        let of: &mut (i64, i64) = all.entry(format!("k{}", id % 7)).or_default();
        *of = (of.0 + 1, of.1 + n);
    }
    all
}

#[test]
fn a_state_directory_can_be_looked_into() {
    let folder = folder(PIPELINE);
    let folder = folder.path();
    write_rows(folder, 0..1_000, 3);
    assert!(run(folder, &RUN).status.success());
    let list = run(folder, &["state", "list", "state"]);
    assert!(list.status.success() && said(&list).contains("checkpoint 1: ") && said(&list).contains("7 entries"));
    let inspect = said(&run(folder, &["state", "inspect", "state"]));
    for part in [
        "source rows, partition 0: read up to 1000",
        "step totals (aggregate): 7 entries",
        "sink out: batches up to",
        "sink all: batches up to",
    ] {
        assert!(inspect.contains(part), "{part}: {inspect}");
    }
    let none = run(folder, &["state", "inspect", "state", "99"]);
    assert!(!none.status.success() && said(&none).contains("no such checkpoint: there are 1"), "{}", said(&none));
    let verify = run(folder, &["state", "verify", "state"]);
    assert!(verify.status.success() && said(&verify).contains("7 entries, as written"), "{}", said(&verify));
    let nothing = run(folder, &["state", "list", "nowhere"]);
    assert!(!nothing.status.success() && said(&nothing).contains("no state directory"), "{}", said(&nothing));
}

#[test]
fn of_a_damaged_checkpoint_the_one_before_is_used() {
    let folder = folder(PIPELINE);
    let folder = folder.path();
    for count in [1_000, 2_000, 3_000] {
        write_rows(folder, 0..count, 3);
        assert!(run(folder, &RUN).status.success());
    }
    assert_eq!(totals(folder), expected(3_000, 3));
    let newest = folder.join("state/checkpoint/manifest-0000000003.json");
    let mut bytes = std::fs::read(&newest).expect("it is there");
    let at = bytes.len() / 2;
    bytes[at] ^= 1;
    std::fs::write(&newest, bytes).expect("written");
    let list = run(folder, &["state", "list", "state"]);
    assert!(!list.status.success() && said(&list).contains("not used: "), "{}", said(&list));
    write_rows(folder, 0..4_000, 3);
    let output = run(folder, &RUN);
    assert!(output.status.success() && said(&output).contains("is not used"), "{}", said(&output));
    assert_eq!(totals(folder), expected(4_000, 3));
    assert_eq!(std::fs::read_to_string(folder.join("all.jsonl")).expect("written").lines().count(), 4_000);
}

#[test]
fn what_a_changed_pipeline_makes_of_its_state_is_told_before() {
    let folder = folder(PIPELINE);
    let folder = folder.path();
    write_rows(folder, 0..1_000, 3);
    assert!(run(folder, &RUN).status.success());
    let plan = ["plan", "pipeline.yaml", "--state", "state"];
    let same = run(folder, &plan);
    assert!(same.status.success() && said(&same).contains("totals: keep"), "{}", said(&same));

    let more = PIPELINE
        .replace("total: sum(n)", "total: sum(n), least: min(n)")
        .replace("  totals:", "  first: { type: top, input: rows, key: key, by: id, limit: 1 }\n  totals:");
    std::fs::write(folder.join("pipeline.yaml"), &more).expect("written");
    let changed = run(folder, &plan);
    assert!(!changed.status.success(), "{}", said(&changed));
    assert!(said(&changed).contains("totals: reject") && said(&changed).contains("first: new"), "{}", said(&changed));
    let refused = run(folder, &RUN);
    assert!(!refused.status.success() && said(&refused).contains("--rebuild totals"), "{}", said(&refused));
    let unknown = run(folder, &[&RUN[..], &["--rebuild", "others"]].concat());
    assert!(!unknown.status.success() && said(&unknown).contains("no step of that name"), "{}", said(&unknown));

    // It begins with nothing, behind what was read.
    let other = more.replace("out.db", "other.db");
    std::fs::write(folder.join("pipeline.yaml"), other).expect("written");
    write_rows(folder, 0..1_700, 3);
    let rebuilt = run(folder, &[&RUN[..], &["--rebuild", "totals", "--reset-sink", "out"]].concat());
    assert!(rebuilt.status.success(), "{}", said(&rebuilt));
    let file = rusqlite::Connection::open(folder.join("other.db")).expect("it opens");
    let counted: i64 = file.query_row("SELECT sum(c) FROM totals", (), |row| row.get(0)).expect("a row");
    assert_eq!(counted, 700);
    let now = run(folder, &plan);
    assert!(now.status.success() && said(&now).contains("totals: keep"), "{}", said(&now));

    let gone = PIPELINE.replace(
        "input: totals, path: out.db, table: totals, create: true, mode: upsert, key: [key]",
        "input: rows, path: rows.db, table: rows, create: true, mode: append",
    );
    let (head, tail) = gone.split_once("  totals:").expect("the step");
    let (_, tail) = tail.split_once("sinks:").expect("sinks");
    std::fs::write(folder.join("pipeline.yaml"), format!("{}sinks:{tail}", head.replace("operators:\n", "")))
        .expect("written");
    let told = said(&run(folder, &plan));
    assert!(told.contains("totals: reject: the pipeline has it no longer"), "{told}");
}

const SPENDING: &str = "
version: 1
pipeline: durable
delivery: exactly_once
checkpoint: { every: 100ms }
sources:
  rows:
    type: file
    path: rows.jsonl
    format: json
    schema: { id: int64, key: string, n: int64 }
    event_time: { value: to_timestamp_millis(id) }
operators:
  spend:
    type: rolling
    input: rows
    key: key
    over: 1d
    columns: { c: count(*), total: sum(n), kinds: count(DISTINCT n) }
  seen: { type: rolling, input: rows, key: n, over: 1d, columns: { times: count(*) } }
sinks:
  out: { type: file, input: spend, path: out.jsonl }
  kinds: { type: file, input: seen, path: kinds.jsonl }
";

/// The last line of a file for each key.
fn last_of_each(path: &Path) -> BTreeMap<String, serde_json::Value> {
    let text = std::fs::read_to_string(path).expect("written");
    let lines = text.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).expect("JSON"));
    lines.map(|line| (line["key"].as_str().expect("a key").to_owned(), line)).collect()
}

#[test]
fn state_goes_over_a_rename_and_over_other_aggregates() {
    let folder = folder(SPENDING);
    let folder = folder.path();
    write_rows(folder, 0..1_000, 3);
    assert!(run(folder, &RUN).status.success());

    // Renamed, with one aggregate more, one less, and another order.
    let changed = SPENDING
        .replace("  rows:\n", "  events:\n    renamed_from: rows\n")
        .replace("input: rows", "input: events")
        .replace("  spend:\n", "  spending:\n    renamed_from: spend\n")
        .replace("input: spend,", "input: spending,")
        .replace(
            "{ c: count(*), total: sum(n), kinds: count(DISTINCT n) }",
            "{ most: max(n), total: sum(n), c: count(*) }",
        );
    std::fs::write(folder.join("pipeline.yaml"), &changed).expect("written");
    let told = run(folder, &["plan", "pipeline.yaml", "--state", "state"]);
    assert!(told.status.success(), "{}", said(&told));
    let expected = "spending: migrate: it was `spend`; begins with nothing: max(n: Int64); is dropped: \
                    count(distinct n: Int64); the rest goes on";
    assert!(said(&told).contains(expected), "{}", said(&told));
    assert!(said(&told).contains("seen: keep: it is as it was"), "{}", said(&told));

    // The last row of the former run, and what was greatest of it, are not seen by what is new.
    let text = std::fs::read_to_string(folder.join("rows.jsonl")).expect("written");
    write_rows(folder, 1_000..2_000, 2);
    let more = std::fs::read_to_string(folder.join("rows.jsonl")).expect("written");
    std::fs::write(folder.join("rows.jsonl"), text + &more).expect("written");
    let output = run(folder, &RUN);
    assert!(output.status.success(), "{}", said(&output));
    for (key, last) in last_of_each(&folder.join("out.jsonl")) {
        let of = |ids: std::ops::Range<i64>| ids.filter(|id| format!("k{}", id % 7) == key).count() as i64;
        assert_eq!(last["c"], of(0..2_000), "{last}");
        assert_eq!(last["total"], 3 * of(0..1_000) + 2 * of(1_000..2_000), "{last}");
        assert_eq!(last["most"], 2, "{last}");
        assert_eq!(last["kinds"], serde_json::Value::Null);
    }
    let kinds = std::fs::read_to_string(folder.join("kinds.jsonl")).expect("written");
    let last = kinds.lines().last().expect("a line");
    assert!(kinds.lines().count() == 2_000 && last.contains(r#""times":1000"#), "{last}");
    let now = said(&run(folder, &["plan", "pipeline.yaml", "--state", "state"]));
    assert!(now.contains("spending: keep: it is as it was"), "{now}");

    // What is read behind a step decides what it keeps: a column that nobody reads is not kept.
    let less =
        changed.replace("input: spending, path: out.jsonl", "input: spending, columns: [key, c], path: less.jsonl");
    std::fs::write(folder.join("pipeline.yaml"), &less).expect("written");
    let told = said(&run(folder, &["plan", "pipeline.yaml", "--state", "state"]));
    assert!(told.contains("spending: migrate: is dropped: ") && told.contains("sum(n: Int64)"), "{told}");
    let moved = run(folder, &[&RUN[..], &["--reset-sink", "out"]].concat());
    assert!(moved.status.success(), "{}", said(&moved));
    std::fs::write(folder.join("pipeline.yaml"), changed.replace("out.jsonl", "again.jsonl")).expect("written");
    let again = run(folder, &[&RUN[..], &["--reset-sink", "out"]].concat());
    assert!(again.status.success(), "{}", said(&again));
    let verify = run(folder, &["state", "verify", "state"]);
    assert!(verify.status.success(), "{}", said(&verify));
}

/// Starts a run, lets it bring so many bytes out to `all.jsonl`, and kills it.
fn run_and_kill(folder: &Path, bytes: u64) {
    let mut child = Command::new(engine())
        .current_dir(folder)
        .args(RUN)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("it starts");
    // What is brought out is committed.
    let brought_out = || std::fs::metadata(folder.join("all.jsonl")).map_or(0, |file| file.len());
    while brought_out() < bytes && child.try_wait().expect("it can be asked").is_none() {
        std::thread::sleep(Duration::from_millis(5));
    }
    child.kill().expect("it is killed");
    child.wait().expect("it is gone");
}

#[test]
fn a_replay_comes_to_its_end_before_a_signal_is_obeyed() {
    let pipeline = PIPELINE.replace("every: 100ms", "every: 1h")
        + "  copy: { type: file, input: rows, path: copy.jsonl, delivery: at_least_once }\n";
    let folder = folder(&pipeline);
    let folder = folder.path();
    write_rows(folder, 0..600_000, 3);
    run_and_kill(folder, 500_000);
    let mut child = Command::new("timeout")
        .arg("120")
        .arg(engine())
        .current_dir(folder)
        .args(["run", "pipeline.yaml", "--no-metrics", "--state", "state"])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .expect("it starts");
    let mut lines = BufReader::new(child.stderr.take().expect("piped")).lines().map_while(Result::ok);
    let replays = lines.by_ref().any(|line| line.contains("replaying what came after"));
    assert!(replays, "there is something to replay");
    let stopped = Command::new("kill").args(["-TERM", &child.id().to_string()]).status().expect("it is sent");
    let said: Vec<String> = lines.collect();
    assert!(stopped.success() && child.wait().expect("it ends").success(), "{said:?}");
    // What was committed is in the state, and nothing is left to be replayed.
    let inspect = said_of(folder, &["state", "verify", "state"]);
    assert!(inspect.contains("journal: 0 records behind the last checkpoint"), "{inspect}");
    assert!(run(folder, &RUN).status.success());
    assert_eq!(totals(folder), expected(600_000, 3));
    let copied = std::fs::read_to_string(folder.join("copy.jsonl")).expect("written");
    assert_eq!(copied.lines().collect::<std::collections::HashSet<_>>().len(), 600_000);
    assert_eq!(std::fs::read_to_string(folder.join("all.jsonl")).expect("written").lines().count(), 600_000);
}

#[test]
fn a_file_that_was_replayed_to_its_end_goes_on_when_it_grows() {
    let receiver = Receiver::start();
    let hook = format!(
        "  hook: {{ type: webhook, input: rows, url: \"{}\", idempotency_key: CAST(id AS string) }}\n",
        receiver.url()
    );
    let folder = folder(&(PIPELINE.replace("every: 100ms", "every: 1h") + &hook));
    let folder = folder.path();
    receiver.fall_silent(true);
    write_rows(folder, 0..20, 3);
    // All of it is read and committed, and not delivered.
    let whole = 20 * r#"{"id":0,"key":"k0","n":3}"#.len() as u64;
    run_and_kill(folder, whole);
    receiver.fall_silent(false);
    for count in [20, 30, 40] {
        write_rows(folder, 0..count, 3);
        let output = run(folder, &RUN);
        assert!(output.status.success(), "{count}: {}", said(&output));
        assert_eq!(totals(folder), expected(count, 3));
        let keys: BTreeSet<_> = receiver.requests().into_iter().map(|(key, _)| key).collect();
        assert_eq!(keys.len() as i64, count);
    }
}

#[test]
fn input_that_is_not_what_it_was_is_not_taken_in_silence() {
    let pipeline = PIPELINE.replace("every: 100ms", "every: 1h");
    let folder = folder(&pipeline);
    let folder = folder.path();
    write_rows(folder, 0..2_000_000, 3);
    run_and_kill(folder, 1);
    write_rows(folder, 0..2_000_000, 4);
    let refused = run(folder, &RUN);
    assert_eq!(refused.status.code(), Some(1), "{}", said(&refused));
    for part in ["source `rows`: partition 0 has other records", "--accept-changed-input", "another --state"] {
        assert!(said(&refused).contains(part), "{part}: {}", said(&refused));
    }
    // As it was, it goes on.
    write_rows(folder, 0..2_000_000, 3);
    assert!(run(folder, &RUN).status.success());
    assert_eq!(totals(folder), expected(2_000_000, 3));
}
