//! Joins run by the real binary: against plain nested loops, on any number of workers, and with a side that falls silent.

use crate::runs::{Row, rows, start};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

const BEFORE_MS: i64 = 1_500;
const AFTER_MS: i64 = 4_000;
const WINDOW_MS: i64 = 5_000;
const KINDS: [&str; 6] = ["inner", "left", "right", "full", "semi", "anti"];

/// All kinds of join over two files, each to a file of its name. `delay` is that of both sources.
fn pipeline(delay: &str) -> String {
    let mut operators = String::new();
    let mut sinks = String::new();
    let mut add = |name: &str, kind: &str, near: &str, right: bool| {
        let columns = if right {
            "{ l: left.id, r: right.id, sum: left.quantity + right.quantity, mean: (left.amount + right.amount) / 2, at: event_time() }"
        } else {
            "{ l: id, at: event_time() }"
        };
        write!(
            operators,
            "
  {name}:
    type: join
    left: lefts
    right: rights
    match: {{ card: number }}
    join: {kind}
    {near}
    where: (left.quantity + right.quantity) % 3 <> 0
    columns: {columns}"
        )
        .expect("a string takes text");
        for (output, file, columns) in [
            ("", "", ""),
            (".late_left", "_late_left", ", columns: [id]"),
            (".late_right", "_late_right", ", columns: [id]"),
        ] {
            writeln!(
                sinks,
                "  of_{name}{file}: {{ type: file, input: {name}{output}, path: {name}{file}.jsonl, format: json, timestamps: epoch_ms{columns} }}"
            )
            .expect("a string takes text");
        }
    };
    for kind in KINDS {
        let right = !matches!(kind, "semi" | "anti");
        add(kind, kind, &format!("within: {{ before: {BEFORE_MS}ms, after: {AFTER_MS}ms }}"), right);
    }
    add("window", "full", &format!("window: {{ tumbling: {WINDOW_MS}ms }}"), true);
    format!(
        "
version: 1
pipeline: joins
sources:
  lefts:
    type: file
    path: lefts.jsonl
    format: json
    schema: {{ id: int64, card: int64 | null, at: int64, amount: float64, quantity: int64 }}
    event_time: {{ column: at, unit: ms, max_delay: {delay} }}
  rights:
    type: file
    path: rights.jsonl
    format: json
    schema: {{ id: int64, number: int32 | null, at: int64, amount: float64, quantity: int64 }}
    event_time: {{ column: at, unit: ms, max_delay: {delay} }}
operators:{operators}
sinks:
{sinks}"
    )
}

/// The key of a row: some have none.
fn key(row: &Row) -> Option<u64> {
    (row.quantity % 17 != 0).then_some(row.key)
}

fn write_side(path: &Path, name: &str, rows: &[Row]) {
    let mut text = String::new();
    for row in rows {
        let Row { id, at_ms, amount, quantity, .. } = row;
        let key = key(row).map_or("null".to_owned(), |key| key.to_string());
        writeln!(text, r#"{{"id":{id},"{name}":{key},"at":{at_ms},"amount":{amount:?},"quantity":{quantity}}}"#)
            .expect("a string takes text");
    }
    std::fs::write(path, text).expect("the rows are written");
}

fn lines(folder: &Path, name: &str) -> BTreeSet<String> {
    let text = std::fs::read_to_string(folder.join(format!("{name}.jsonl"))).unwrap_or_default();
    let set: BTreeSet<String> = text.lines().map(str::to_owned).collect();
    assert_eq!(set.len(), text.lines().count(), "each row of {name} comes once");
    set
}

/// What a join puts out, and its late rows of the left and of the right side.
type Outs = Vec<[BTreeSet<String>; 3]>;

/// Runs all joins; what they put out, after the same on other numbers of workers.
fn run(lefts: &[Row], rights: &[Row], delay: &str) -> Outs {
    let folder = tempfile::tempdir().expect("a folder");
    let folder = folder.path();
    write_side(&folder.join("lefts.jsonl"), "card", lefts);
    write_side(&folder.join("rights.jsonl"), "number", rights);
    std::fs::write(folder.join("pipeline.yaml"), pipeline(delay)).expect("written");
    let names: Vec<&str> = KINDS.into_iter().chain(["window"]).collect();
    let outs = || -> Outs {
        let of = |name: &&str| ["", "_late_left", "_late_right"].map(|late| lines(folder, &format!("{name}{late}")));
        names.iter().map(of).collect()
    };
    assert!(start(folder, &["--record-cuts", "cuts", "--workers", "2"]).wait().expect("it ends").success());
    let cuts = std::fs::read_to_string(folder.join("cuts")).expect("text");
    assert!(cuts.lines().count() > 1, "rows of several epochs meet: {cuts}");
    let first = outs();
    for workers in ["1", "2", "4"] {
        for file in std::fs::read_dir(folder).expect("it is there").flatten() {
            if names.iter().any(|name| file.file_name().to_string_lossy().starts_with(name))
                && !["lefts.jsonl", "rights.jsonl"].contains(&&*file.file_name().to_string_lossy())
            {
                std::fs::remove_file(file.path()).expect("it was there");
            }
        }
        let followed = start(folder, &["--follow-cuts", "cuts", "--workers", workers]).wait().expect("it ends");
        assert!(followed.success());
        assert!(outs() == first, "{workers} workers give other bits");
    }
    first
}

/// A row that comes out: its left and its right row, and its event time.
type Pair = (Option<u64>, Option<u64>, i64);

fn parsed(lines: &BTreeSet<String>, lefts: &[Row], rights: &[Row]) -> BTreeSet<Pair> {
    let pairs: BTreeSet<Pair> = lines
        .iter()
        .map(|line| {
            let value: serde_json::Value = serde_json::from_str(line).expect("JSON");
            let (left, right) = (value["l"].as_u64(), value["r"].as_u64());
            if let (Some(left), Some(right)) = (left, right) {
                let (left, right) = (&lefts[left as usize], &rights[right as usize]);
                assert_eq!(value["sum"].as_i64(), Some(left.quantity + right.quantity), "{line}");
                let mean = (left.amount + right.amount) / 2.0;
                assert!(
                    (value["mean"].as_f64().expect("a float") - mean).abs() <= 1e-9 * mean.abs().max(1.0),
                    "{line}"
                );
            } else {
                assert!(value["sum"].is_null() && value["mean"].is_null(), "{line}");
            }
            (left, right, value["at"].as_i64().expect("a time"))
        })
        .collect();
    assert_eq!(pairs.len(), lines.len());
    pairs
}

/// What a kind of join puts out: each row of one side is held against each row of its key of the other.
fn reference(
    kind: &str,
    lefts: &[Row],
    rights: &[Row],
    near: impl Fn(&Row, &Row) -> bool,
    time: impl Fn(Option<&Row>, Option<&Row>) -> i64,
) -> BTreeSet<Pair> {
    let mut all = BTreeSet::new();
    let mut met = vec![false; rights.len()];
    let mut of_key: BTreeMap<u64, Vec<&Row>> = BTreeMap::new();
    for right in rights {
        of_key.entry(key(right).unwrap_or(u64::MAX)).or_default().push(right);
    }
    for left in lefts {
        let mut matches = 0;
        for right in key(left).and_then(|key| of_key.get(&key)).into_iter().flatten() {
            if near(left, right) && (left.quantity + right.quantity) % 3 != 0 {
                matches += 1;
                met[right.id as usize] = true;
                if !matches!(kind, "semi" | "anti") {
                    all.insert((Some(left.id), Some(right.id), time(Some(left), Some(right))));
                }
            }
        }
        if matches == 0 && matches!(kind, "left" | "full" | "anti") || matches > 0 && kind == "semi" {
            all.insert((Some(left.id), None, time(Some(left), None)));
        }
    }
    if matches!(kind, "right" | "full") {
        let alone = rights.iter().zip(met).filter(|(_, met)| !met);
        all.extend(alone.map(|(right, _)| (None, Some(right.id), time(None, Some(right)))));
    }
    all
}

#[test]
fn joins_equal_nested_loops_where_nothing_is_late() {
    let (lefts, rights) = (rows(100_000, 11), rows(90_000, 12));
    // Rows are at most 3 s and a few ms behind.
    let outs = run(&lefts, &rights, "4s");
    for (kind, [out, late_left, late_right]) in KINDS.into_iter().zip(&outs) {
        assert!(late_left.is_empty() && late_right.is_empty(), "nothing is late");
        let near = |left: &Row, right: &Row| (-BEFORE_MS..=AFTER_MS).contains(&(right.at_ms - left.at_ms));
        let later = |left: Option<&Row>, right: Option<&Row>| {
            left.into_iter().chain(right).map(|row| row.at_ms).max().unwrap_or_default()
        };
        let expected = reference(kind, &lefts, &rights, near, later);
        assert!(expected.len() > 10_000, "{kind} is put to the test: {}", expected.len());
        assert!(parsed(out, &lefts, &rights) == expected, "{kind}");
    }
    let window = |row: &Row| row.at_ms.div_euclid(WINDOW_MS);
    // The last nanosecond before the end, in whole milliseconds.
    let end =
        |left: Option<&Row>, right: Option<&Row>| left.or(right).map_or(0, |row| (window(row) + 1) * WINDOW_MS - 1);
    let expected = reference("full", &lefts, &rights, |left, right| window(left) == window(right), end);
    assert!(parsed(&outs[6][0], &lefts, &rights) == expected, "in windows");
}

/// Where rows are late, which ones depends on what is read together; but each left row has its match, has none, or is late.
#[test]
fn each_left_row_has_a_match_or_none_or_is_late() {
    let (lefts, rights) = (rows(60_000, 13), rows(60_000, 14));
    let outs = run(&lefts, &rights, "200ms");
    let ids = |lines: &BTreeSet<String>, key: &str| -> BTreeSet<u64> {
        let id = |line: &String| serde_json::from_str::<serde_json::Value>(line).expect("JSON")[key].as_u64();
        lines.iter().filter_map(id).collect()
    };
    let late = ids(&outs[0][1], "id");
    assert!(!late.is_empty() && !outs[0][2].is_empty(), "some rows of both sides are late");
    for of_kind in &outs[1..6] {
        assert!(of_kind[1] == outs[0][1] && of_kind[2] == outs[0][2], "the same are late for every kind");
    }
    let (semi, anti) = (ids(&outs[4][0], "l"), ids(&outs[5][0], "l"));
    assert_eq!(semi.len() + anti.len() + late.len(), lefts.len());
    let all: BTreeSet<u64> = semi.iter().chain(&anti).chain(&late).copied().collect();
    assert_eq!(all.len(), lefts.len(), "each of them is one of the three");
    assert!(ids(&outs[0][0], "l") == semi, "those in pairs are those with a match");
    assert!(outs[1][0].is_superset(&outs[0][0]) && outs[3][0].is_superset(&outs[1][0]));
    assert_eq!(outs[3][0].len() + outs[0][0].len(), outs[1][0].len() + outs[2][0].len());
    let rights_out = ids(&outs[2][0], "r").len();
    assert_eq!(rights_out + outs[0][2].len(), rights.len(), "right rows come out of a right join, or are late");
}

#[test]
fn a_missing_counterpart_is_told_when_nothing_comes_any_more() {
    let folder = tempfile::tempdir().expect("a folder");
    let folder = folder.path();
    let pipeline = "
version: 1
pipeline: unpaid
sources:
  events:
    type: stdin
    format: json
    schema: { what: string, order: int64, at: int64 }
    event_time: { column: at, unit: ms, idle_after: 200ms }
operators:
  sorted: { type: route, input: events, cases: { orders: \"what = 'order'\", payments: \"what = 'payment'\" } }
  unpaid: { type: join, left: sorted.orders, right: sorted.payments, match: order, within: { after: 500ms }, join: anti }
sinks:
  out: { type: file, input: unpaid, path: out.jsonl, format: json, columns: [order, at] }
  late_orders: { type: file, input: unpaid.late_left, path: late.jsonl, format: json, columns: [order] }
";
    std::fs::write(folder.join("pipeline.yaml"), pipeline).expect("written");
    for workers in ["1", "2"] {
        for file in ["out.jsonl", "late.jsonl"] {
            let _ = std::fs::remove_file(folder.join(file));
        }
        let mut child = Command::new(crate::engine())
            .current_dir(folder)
            .args(["run", "pipeline.yaml", "--no-metrics", "--quiet", "--log", "warn", "--workers", workers])
            .stdin(Stdio::piped())
            .stderr(File::create(folder.join("log")).expect("a log"))
            .spawn()
            .expect("the engine starts");
        let mut input = child.stdin.take().expect("its input");
        let events = [("order", 1, 1000), ("order", 2, 1100), ("payment", 1, 1500), ("payment", 2, 1601)];
        for (what, order, at) in events {
            writeln!(input, r#"{{"what":"{what}","order":{order},"at":{at}}}"#).expect("it reads");
        }
        let deadline = Instant::now() + Duration::from_secs(60);
        let read = || std::fs::read_to_string(folder.join("out.jsonl")).unwrap_or_default();
        let expected = "{\"order\":2,\"at\":1100}\n";
        while read() != expected {
            assert!(Instant::now() < deadline, "it is not told: {}", read());
            std::thread::sleep(Duration::from_millis(20));
        }
        writeln!(input, r#"{{"what":"order","order":3,"at":9000}}"#).expect("it reads");
        // It waits for the clock to go on, not for another event.
        while read().lines().count() < 2 {
            assert!(Instant::now() < deadline, "it is not told: {}", read());
            std::thread::sleep(Duration::from_millis(20));
        }
        // Too late for either side; only late orders are read.
        for what in ["order", "payment"] {
            writeln!(input, r#"{{"what":"{what}","order":4,"at":1}}"#).expect("it reads");
        }
        drop(input);
        assert!(child.wait().expect("it ends").success());
        let late = std::fs::read_to_string(folder.join("late.jsonl")).expect("it is written");
        assert_eq!(late, "{\"order\":4}\n");
        let log = std::fs::read_to_string(folder.join("log")).expect("text");
        assert!(log.contains("unpaid: 2 rows came too late, and nothing reads `unpaid.late_right`\n"), "{log}");
        assert_eq!(read(), format!("{expected}{{\"order\":3,\"at\":9000}}\n"));
    }
}
