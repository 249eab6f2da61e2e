//! What the tests of all databases share: a database to write to, and random changelogs with the table that they come to.

use super::{Batch, Layout};
use crate::Exact;
use crate::exact::testing::{self as exact, Crashing, Outcome, fresh};
use crate::testing::{Bell, open_with, plan, rows as rows_of, sink_schema, write_all};
use arrow::array::{ArrayRef, AsArray, BooleanArray, Int64Array, RecordBatch, StringArray};
use arrow::datatypes::Int64Type;
use engine_base::CHANGE_COLUMN;
use engine_dataflow::{ErrorRow, Rows};
use engine_plan::Plan;
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

/// A database that tests write to.
pub(crate) trait Database {
    /// The keys of its sink, and of its connection.
    fn keys(&self) -> (String, String);
    /// Runs statements.
    fn execute(&self, sql: &str);
    /// The rows of a query, as text.
    fn query(&self, sql: &str) -> Vec<Vec<Option<String>>>;

    /// A pipeline from rows of `schema` into a table.
    fn pipeline(&self, schema: &str, table: &str, keys: &str) -> Plan {
        plan(&self.yaml(schema, table, keys)).unwrap()
    }

    /// Its text.
    fn yaml(&self, schema: &str, table: &str, keys: &str) -> String {
        let (sink, connections) = self.keys();
        format!(
            "{connections}sources:\n  rows:\n    type: stdin\n    schema: {schema}\n\
             sinks:\n  out:\n    input: rows\n    table: {table}\n{sink}{keys}"
        )
    }
}

/// A name that no other test has.
pub(crate) fn unique(name: &str) -> String {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let nanos = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_nanos();
    format!("{name}_{}_{}", nanos % 1_000_000_000_000, COUNT.fetch_add(1, Ordering::SeqCst))
}

/// Writes batches through the sink of a plan: the rows that failed, or why the pipeline stops.
pub(crate) fn send(plan: &Plan, batches: Vec<Rows>) -> Result<Vec<ErrorRow>, String> {
    let sink = open_with(plan, "out", |_| {})?;
    deliver(sink, batches)
}

/// The same for rows that may be taken back.
pub(crate) fn send_changes(plan: &Plan, batches: Vec<Rows>) -> Result<Vec<ErrorRow>, String> {
    let sink = open_with(plan, "out", |start| start.schema = engine_plan::types::with_change(&start.schema))?;
    deliver(sink, batches.iter().map(Rows::with_changes).collect())
}

fn deliver(sink: Box<dyn crate::SinkHandle>, batches: Vec<Rows>) -> Result<Vec<ErrorRow>, String> {
    let bell = Bell::default();
    let mut writer = sink.writer(0, bell.waker());
    let total: usize = batches.iter().map(Rows::num_rows).sum();
    let sent = write_all(&mut *writer, &bell, batches);
    drop(writer);
    let stats = sink.close().unwrap();
    if let Ok(failed) = &sent {
        assert_eq!((stats.rows, stats.failed), ((total - failed.len()) as u64, failed.len() as u64));
        assert_eq!((stats.queued_rows, stats.queued_bytes), (0, 0));
    }
    sent
}

/// The columns of [`row_batch`].
pub(crate) const SCHEMA: &str = "{ id: int64, name: string | null, n: int64 }";

/// A row of [`SCHEMA`], and whether it is taken back.
pub(crate) type Change = (bool, i64, Option<String>, i64);

/// Rows as a batch.
pub(crate) fn row_batch(plan: &Plan, changes: &[Change], first: u64) -> Rows {
    let columns: Vec<ArrayRef> = vec![
        Arc::new(Int64Array::from_iter_values(changes.iter().map(|change| change.1))),
        Arc::new(changes.iter().map(|change| change.2.clone()).collect::<StringArray>()),
        Arc::new(Int64Array::from_iter_values(changes.iter().map(|change| change.3))),
    ];
    let mut rows = rows_of(RecordBatch::try_new(sink_schema(plan, "out"), columns).unwrap(), first);
    if changes.iter().any(|change| change.0) {
        let removes: BooleanArray = changes.iter().map(|change| Some(change.0)).collect();
        rows.removes = Some(removes.values().clone());
    }
    rows
}

/// A batch as a store takes it.
pub(crate) fn store_batch(layout: &Layout, plan: &Plan, changes: &[Change]) -> Batch {
    let rows = row_batch(plan, changes, 0);
    let (batch, failed) = Batch::new(layout, &rows.batch, |row| rows.is_removed(row)).unwrap();
    assert_eq!(failed, []);
    batch
}

/// What rows are inserted.
pub(crate) fn inserts(ids: impl IntoIterator<Item = i64>) -> Vec<Change> {
    ids.into_iter().map(|id| (false, id, Some(format!("name {id}")), id * 10)).collect()
}

/// Epochs of a changelog: keys come, change, go, come again, several times in an epoch too.
fn changelog(random: &mut SmallRng, table: &mut BTreeMap<i64, (Option<String>, i64)>) -> Vec<Vec<Change>> {
    let keys = random.random_range(1..60);
    let epochs = random.random_range(1..30);
    let mut all = Vec::new();
    for _ in 0..epochs {
        let (mut gone, mut come) = (Vec::new(), Vec::new());
        let in_order = random.random_bool(0.5);
        let mut touched = std::collections::BTreeSet::new();
        for _ in 0..random.random_range(0..40) {
            let id = random.random_range(0..keys);
            // What goes stands before what comes; only one change a key keeps that in any case.
            if !in_order && !touched.insert(id) {
                continue;
            }
            let old = table.get(&id).cloned();
            if let Some((name, n)) = old.clone() {
                let change = (true, id, name, n);
                if in_order {
                    come.push(change)
                } else {
                    gone.push(change)
                }
                table.remove(&id);
            }
            if old.is_none() || random.random_bool(0.6) {
                let row = (random.random_bool(0.8).then(|| format!("n\u{e4}me '{id}'")), random.random());
                come.push((false, id, row.0.clone(), row.1));
                table.insert(id, row);
            }
        }
        gone.append(&mut come);
        all.push(gone);
    }
    all
}

/// Random changelogs, cut in any way, come to the table that they should.
pub(crate) fn random_changelogs(database: &impl Database, runs: u64) {
    let mut rows = 0;
    for seed in 0..runs {
        let mut random = SmallRng::seed_from_u64(seed);
        let table = unique("changes");
        let max_rows = [2, 9, 70, 5_000][random.random_range(0..4)];
        let keys =
            format!("    mode: upsert\n    key: [id]\n    create: true\n    batch: {{ max_rows: {max_rows} }}\n");
        let plan = database.pipeline(SCHEMA, &table, &keys);
        let mut expected = BTreeMap::new();
        // A run goes on where another one ended.
        for _ in 0..random.random_range(1..3) {
            let epochs = changelog(&mut random, &mut expected);
            let (mut batches, mut first) = (Vec::new(), 0);
            for epoch in epochs {
                let mut rest = &epoch[..];
                while !rest.is_empty() {
                    let (now, then) = rest.split_at(random.random_range(1..=rest.len()));
                    batches.push(row_batch(&plan, now, first));
                    first += now.len() as u64;
                    rest = then;
                }
            }
            rows += first;
            assert_eq!(send_changes(&plan, batches).unwrap().len(), 0);
        }
        let expected: Vec<Vec<Option<String>>> =
            expected.into_iter().map(|(id, (name, n))| vec![Some(id.to_string()), name, Some(n.to_string())]).collect();
        let found = database.query(&format!("SELECT id, name, n FROM {table} ORDER BY id"));
        assert_eq!(found, expected, "seed {seed}");
        database.execute(&format!("DROP TABLE {table}"));
    }
    assert!(rows > runs * 100, "{rows}");
}

/// A row that is refused fails alone, wherever it stands, and what came before it of its key stays.
pub(crate) fn bad_rows_fail_alone(database: &impl Database, append: bool) {
    for seed in 0..6 {
        let mut random = SmallRng::seed_from_u64(seed);
        let table = unique("bad");
        database.execute(&format!(
            "CREATE TABLE {table} (id bigint NOT NULL, name varchar(30), n bigint NOT NULL CHECK (n >= 0), PRIMARY KEY (id))"
        ));
        let keys = if append { "    mode: append\n" } else { "    mode: upsert\n    key: id\n" };
        let plan = database.pipeline(SCHEMA, &table, keys);
        let share = [0.0, 0.002, 0.05, 0.5, 0.98, 1.0][seed as usize];
        let mut expected = BTreeMap::new();
        let mut bad = Vec::new();
        let mut changes: Vec<Change> = Vec::new();
        for at in 0..700 {
            let id = if append { at } else { random.random_range(0..200) };
            let n = if random.random_bool(share) { -1 } else { at };
            match n {
                -1 => bad.push(at as u64),
                n => drop(expected.insert(id, n)),
            }
            changes.push((false, id, None, n));
        }
        let batches: Vec<Rows> =
            changes.chunks(350).enumerate().map(|(at, some)| row_batch(&plan, some, at as u64 * 350)).collect();
        let mut failed = send(&plan, batches).unwrap();
        failed.sort_by_key(|failed| failed.position.offset);
        let offsets: Vec<u64> = failed.iter().map(|failed| failed.position.offset).collect();
        let found = database.query(&format!("SELECT id, n FROM {table} ORDER BY id"));
        let expected: Vec<Vec<Option<String>>> =
            expected.into_iter().map(|(id, n)| vec![Some(id.to_string()), Some(n.to_string())]).collect();
        assert_eq!(found, expected, "seed {seed}");
        if append {
            assert_eq!(offsets, bad);
        } else {
            // One that is put right by a later row of its key comes to nothing.
            assert!(offsets.iter().all(|offset| bad.contains(offset)) && offsets.len() <= bad.len());
            assert!(share < 0.5 || !offsets.is_empty());
        }
        for failed in &failed {
            assert_eq!((failed.error.code, &*failed.step), ("rejected", "out"));
            let row: serde_json::Value = serde_json::from_slice(&failed.payload).unwrap();
            assert_eq!((row["n"].as_i64(), row.get(CHANGE_COLUMN)), (Some(-1), None));
            assert_eq!(row["id"].as_i64(), Some(changes[failed.position.offset as usize].1));
        }
        // With `on_error: stop` nothing of a batch with such a row is written.
        if seed == 2 {
            database.execute(&format!("DELETE FROM {table}"));
            let plan = database.pipeline(SCHEMA, &table, &format!("{keys}    on_error: stop\n"));
            let stopped = send(&plan, vec![row_batch(&plan, &changes[..350], 0)]).unwrap_err();
            assert!(stopped.starts_with("a row could not be delivered: rejected: "), "{stopped}");
            assert_eq!(database.query(&format!("SELECT count(*) FROM {table}"))[0][0].as_deref(), Some("0"));
        }
    }
}

/// Opens the sink of a plan for exactly once.
pub(crate) fn open_exact(plan: &Plan, exact: Exact) -> crate::Opened {
    open_with(plan, "out", |start| start.exact = Some(exact))
}

/// The rows of batch `number`: some are refused by a table with `CHECK (n % 7 <> 3)`.
pub(crate) fn exact_batch(plan: &Plan, number: u64) -> Rows {
    // Every fifth has no rows.
    let count = if number.is_multiple_of(5) { 0 } else { 1 + number as i64 * 7 % 11 };
    let first = number as i64 * 100;
    let changes: Vec<Change> = (first..first + count).map(|id| (false, id, None, id)).collect();
    row_batch(plan, &changes, first as u64)
}

fn exact_table(database: &impl Database, keys: &str) -> (String, Plan) {
    let table = unique("exact");
    database.execute(&format!(
        "CREATE TABLE {table} (id bigint NOT NULL, name varchar(30), n bigint NOT NULL CHECK (n % 7 <> 3))"
    ));
    let plan = database.pipeline(SCHEMA, &table, &format!("    delivery: exactly_once\n{keys}"));
    (table, plan)
}

/// The ids that batches come to, in a table and in failed rows.
fn exact_result(plan: &Plan, batches: impl Iterator<Item = u64>) -> (Vec<i64>, Vec<u64>) {
    let (mut kept, mut failed) = (Vec::new(), Vec::new());
    for number in batches {
        for id in exact_batch(plan, number).batch.column(0).as_primitive::<Int64Type>().values() {
            match id % 7 == 3 {
                true => failed.push(*id as u64),
                false => kept.push(*id),
            }
        }
    }
    (kept, failed)
}

fn ids(database: &impl Database, table: &str) -> Vec<i64> {
    let found = database.query(&format!("SELECT id FROM {table} ORDER BY id"));
    found.iter().map(|row| row[0].as_ref().unwrap().parse().unwrap()).collect()
}

/// Batches that come again are known again, with the rows that failed.
pub(crate) fn batches_act_once(database: &impl Database) {
    let (table, plan) = exact_table(database, "");
    let pipeline = &*unique("p");
    let batches = |numbers: std::ops::RangeInclusive<u64>| numbers.map(|n| exact_batch(&plan, n)).collect::<Vec<_>>();
    let open = |exact| open_exact(&plan, exact);
    let offsets = |outcome: &Outcome| outcome.failed.iter().map(|(row, _)| *row).collect::<Vec<_>>();
    let first = exact::deliver(open(fresh(pipeline, 8)).unwrap(), 0, batches(1..=8)).unwrap();
    let (kept, failed) = exact_result(&plan, 1..=8);
    assert_eq!((ids(database, &table), offsets(&first)), (kept.clone(), failed));
    for delivered in [0, 3, 7, 8] {
        let exact = exact::after(pipeline, delivered, "", 8);
        let again = exact::deliver(open(exact).unwrap(), delivered, batches(delivered + 1..=8)).unwrap();
        assert_eq!(ids(database, &table), kept, "each once");
        let expected: Vec<_> = first.failed.iter().filter(|(row, _)| *row >= (delivered + 1) * 100).cloned().collect();
        assert_eq!(again.failed, expected, "the same rows fail again");
    }
    // Some were there, some were not; then other sinks and pipelines are of no concern.
    exact::deliver(open(exact::after(pipeline, 6, "", 10)).unwrap(), 6, batches(7..=10)).unwrap();
    assert_eq!(ids(database, &table), exact_result(&plan, 1..=10).0);
    assert!(open(fresh(&unique("p"), 0)).is_ok());

    // Another or an older state.
    let refused = |exact: Exact| open(exact).err().unwrap_or_else(|| panic!("it opens"));
    for exact in [fresh(pipeline, 0), fresh(pipeline, 9), exact::after(pipeline, 4, "", 9)] {
        let reason = refused(exact);
        assert!(reason.contains("`out`: ") && reason.contains("has batch 10 of this sink"), "{reason}");
        assert!(reason.contains("another state") && reason.contains("--reset-sink out"), "{reason}");
    }
    // Markers are lost.
    let reason = refused(exact::after(pipeline, 11, "", 12));
    assert!(reason.contains("has batch 10 of this sink as the last, and this state says that batch 11"), "{reason}");
    let reason = refused(exact::after(&unique("p"), 3, "", 12));
    assert!(reason.contains("knows of no batch") && reason.contains("--reset-sink out"), "{reason}");
    // What the state says counts when it is asked for, and rows come twice.
    let exact = Exact { reset: true, ..exact::after(pipeline, 7, "", 9) };
    let outcome = exact::deliver(open(exact).unwrap(), 7, batches(8..=9)).unwrap();
    assert_eq!(offsets(&outcome), exact_result(&plan, 8..=9).1);
    let mut twice = exact_result(&plan, (1..=10).chain(8..=9)).0;
    twice.sort_unstable();
    assert_eq!(ids(database, &table), twice);
    exact::deliver(open(exact::after(pipeline, 9, "", 9)).unwrap(), 9, vec![]).unwrap();
}

/// A second engine takes the sink over, and the first one stops.
pub(crate) fn the_older_writer_stops(database: &impl Database) {
    let (table, plan) = exact_table(database, "");
    let pipeline = &*unique("p");
    let batch = |number| vec![exact_batch(&plan, number)];
    let first = open_exact(&plan, fresh(pipeline, 9)).unwrap();
    let bell = Bell::default();
    let mut writer = first.writer(0, bell.waker());
    exact::write_after(&mut *writer, &bell, 0, batch(1)).unwrap();
    let second = open_exact(&plan, exact::after(pipeline, 1, "", 9)).unwrap();
    exact::deliver(second, 1, batch(2)).unwrap();
    // A batch that nobody has written: only the writer tells.
    let reason = exact::write_after(&mut *writer, &bell, 2, batch(3)).unwrap_err();
    assert!(reason.starts_with("`out`: another engine has taken over: the table `_engine_commits`"), "{reason}");
    drop(writer);
    first.close().unwrap();
    assert_eq!(ids(database, &table), exact_result(&plan, 1..=2).0);
}

/// However often it crashes, the table is that of a sink that never did.
pub(crate) fn crashes_leave_no_trace(database: &impl Database, seed: u64, crashes: usize, life_ms: u64, keys: &str) {
    let (table, plan) = exact_table(database, keys);
    let run = unique("p");
    let sink = Crashing {
        open: &|exact| open_exact(&plan, Exact { pipeline: run.as_str().into(), ..exact }),
        batch: &|number| exact_batch(&plan, number),
        batch_of: &|row| row / 100,
        life: std::time::Duration::from_millis(life_ms),
    };
    let (last, failed) = exact::crash(seed, crashes, &sink);
    let (kept, expected) = exact_result(&plan, 1..=last);
    assert!(last > crashes as u64 && !expected.is_empty());
    assert_eq!(ids(database, &table), kept, "seed {seed}");
    assert_eq!(failed.iter().map(|(row, _)| *row).collect::<Vec<_>>(), expected, "seed {seed}");
}

/// What `run` says of a table that does not fit.
pub(crate) fn complaint(database: &impl Database, schema: &str, table: &str, keys: &str) -> String {
    let plan = database.pipeline(schema, table, keys);
    match open_with(&plan, "out", |_| {}) {
        Ok(_) => "it opens".to_owned(),
        Err(problem) => problem,
    }
}

/// Rows a second through the sink, `append` and `upsert` of new keys, then `upsert` of the same keys.
#[allow(clippy::print_stderr)]
pub(crate) fn measure(name: &str, database: &impl Database) {
    const ROWS: i64 = 400_000;
    for (what, keys) in [
        ("append", "    mode: append\n    create: true\n"),
        ("upsert", "    mode: upsert\n    key: id\n    create: true\n"),
    ] {
        let table = unique("speed");
        let plan = database.pipeline(SCHEMA, &table, keys);
        for turn in ["new rows", "the same rows again"] {
            let all = inserts(0..ROWS);
            let batches = all.chunks(1_000).enumerate().map(|(at, some)| row_batch(&plan, some, at as u64 * 1_000));
            let batches = batches.collect();
            let start = std::time::Instant::now();
            assert_eq!(send(&plan, batches).unwrap().len(), 0);
            let rate = ROWS as f64 / start.elapsed().as_secs_f64();
            eprintln!("{name} {what}, {turn}: {rate:.0} rows/s");
        }
        database.execute(&format!("DROP TABLE {table}"));
    }
}
