//! The sink against files.

use super::*;
use crate::database::testing::{
    Database, SCHEMA, bad_rows_fail_alone, complaint, inserts, measure, random_changelogs, row_batch, send, store_batch,
};
use crate::database::{Marker, Owner, Store, UNDELIVERED, Written, testing};
use crate::exact::testing::fresh;
use crate::testing::{plan, rows, sink_schema, step};
use arrow::array::{
    ArrayRef, BinaryArray, BooleanArray, Date32Array, Decimal128Array, Float64Array, RecordBatch, StringArray,
    TimestampNanosecondArray, UInt64Array,
};
use engine_base::RowError;
use engine_plan::Plan;
use rusqlite::Connection;
use rusqlite::types::Value;

struct File {
    folder: tempfile::TempDir,
}

impl File {
    fn new() -> File {
        File { folder: tempfile::tempdir().unwrap() }
    }

    fn connection(&self) -> Connection {
        Connection::open(self.folder.path().join("a.db")).unwrap()
    }
}

impl Database for File {
    fn keys(&self) -> (String, String) {
        let path = self.folder.path().join("a.db");
        (format!("    type: sqlite\n    path: {}\n", path.display()), String::new())
    }

    fn execute(&self, sql: &str) {
        self.connection().execute_batch(sql).unwrap();
    }

    fn query(&self, sql: &str) -> Vec<Vec<Option<String>>> {
        let connection = self.connection();
        let mut query = connection.prepare(sql).unwrap();
        let count = query.column_count();
        let text = |value: Value| match value {
            Value::Null => None,
            Value::Integer(value) => Some(value.to_string()),
            Value::Real(value) => Some(format!("{value:?}")),
            Value::Text(value) => Some(value),
            Value::Blob(value) => Some(format!("{value:?}")),
        };
        let rows = query.query_map((), |row| (0..count).map(|at| row.get(at).map(text)).collect()).unwrap();
        rows.map(Result::unwrap).collect()
    }
}

#[test]
fn random_changelogs_end_as_their_table() {
    // Each commit waits for the disk, so there are not too many.
    random_changelogs(&File::new(), 30);
}

#[test]
fn a_bad_row_fails_alone() {
    bad_rows_fail_alone(&File::new(), true);
    bad_rows_fail_alone(&File::new(), false);
}

#[test]
#[ignore = "a measurement"]
fn speed() {
    measure("sqlite", &File::new());
}

#[test]
fn values_are_kept_as_they_are() {
    let file = File::new();
    let schema = "{ a: uint64, b: bool, c: float64 | null, d: \"decimal(20, 4)\", e: date, f: timestamp, g: binary, h: json, \
                  i: list<int64> | null }";
    let plan = file.pipeline(schema, "t", "    create: true\n    columns: [a, b, c, d, e, f, g, h]\n");
    let columns: Vec<ArrayRef> = vec![
        Arc::new(UInt64Array::from(vec![7, u64::MAX, 8, 9])),
        Arc::new(BooleanArray::from(vec![true, false, false, true])),
        Arc::new(Float64Array::from(vec![Some(f64::INFINITY), Some(1.0), Some(f64::NAN), None])),
        Arc::new(Decimal128Array::from(vec![12_3400, 1, 1, -5]).with_precision_and_scale(20, 4).unwrap()),
        Arc::new(Date32Array::from(vec![0, 1, 2, -1])),
        Arc::new(TimestampNanosecondArray::from(vec![1, 2, 3, -1]).with_timezone("UTC")),
        Arc::new(BinaryArray::from(vec![&b"ab"[..], b"", b"", b"c"])),
        Arc::new(StringArray::from(vec!["{\"x\": 1}", "1", "2", "null"])),
    ];
    let schema = sink_schema(&plan, "out");
    let batch = RecordBatch::try_new(schema, columns).unwrap();
    let failed = send(&plan, vec![rows(batch, 0)]).unwrap();
    let reasons: Vec<String> = failed.iter().map(|failed| failed.error.to_string()).collect();
    assert_eq!(
        reasons,
        ["overflow: `a`: the value does not fit into 64 bits with a sign", "overflow: `c`: NaN can't be stored"]
    );
    let text = |values: [&str; 8]| values.map(|value| (value != "-").then(|| value.to_owned())).to_vec();
    assert_eq!(
        file.query("SELECT * FROM t ORDER BY a"),
        [
            text([
                "7",
                "1",
                "inf",
                "12.3400",
                "1970-01-01",
                "1970-01-01T00:00:00.000000001Z",
                "[97, 98]",
                "{\"x\": 1}"
            ]),
            text(["9", "1", "-", "-0.0005", "1969-12-31", "1969-12-31T23:59:59.999999999Z", "[99]", "null"]),
        ]
    );
}

#[test]
fn a_table_that_does_not_fit_is_told_before_anything_runs() {
    let file = File::new();
    let upsert = "    mode: upsert\n    key: [id]\n";
    let check = |schema: &str, table: &str, keys: &str, expected: &str| {
        let found = complaint(&file, schema, table, keys);
        assert!(found.contains(expected), "{found}\nand not\n{expected}");
        assert!(found.starts_with("/pipeline.yaml:10: "), "{found}");
    };
    check(SCHEMA, "cases", "", "there is no file `");
    file.execute(
        "CREATE TABLE cases (id INTEGER, name TEXT, n INTEGER); CREATE TABLE other (id TEXT PRIMARY KEY, name, n INT); \
         CREATE UNIQUE INDEX part ON cases (id) WHERE n > 0; CREATE TABLE due (id INTEGER PRIMARY KEY, name, n, x INT NOT NULL); \
         CREATE TABLE made (id INTEGER PRIMARY KEY, name, n AS (id + 1))",
    );
    check(SCHEMA, "caes", "", "there is no table `caes`; make it, or add `create: true` to have it made");
    check(
        "{ id: int64, who: string }",
        "cases",
        "",
        "the table `cases` has no column `who`; its columns are id, name, n:",
    );
    check(SCHEMA, "other", "", "`id` is int64, and `TEXT` in `other` would change it; declare the column as INTEGER");
    check(SCHEMA, "due", "", "the column `x` of `due` must not be null and has no default; give it in `columns`");
    check(SCHEMA, "made", "", "the column `n` of `made` can't be written: it is computed; leave it out");
    check(
        SCHEMA,
        "cases",
        upsert,
        "the table `cases` has no unique index of (id); `upsert` goes by one: CREATE UNIQUE INDEX \"cases_key\" ON \"cases\" (\"id\")",
    );
    file.execute("CREATE UNIQUE INDEX whole ON cases (ID)");
    assert_eq!(complaint(&file, SCHEMA, "cases", upsert), "it opens");
}

#[test]
fn what_goes_together_and_what_does_not() {
    let file = File::new();
    let check = |schema: &str, keys: &str, expected: &[&str]| {
        let found = plan(&file.yaml(schema, "t", keys)).map_or_else(|problems| problems, |_| Vec::new());
        assert_eq!(found, expected, "{schema} {keys}");
    };
    check(SCHEMA, "    mode: upsert\n    key: [id, n]\n", &[]);
    check(SCHEMA, "    mode: upsert\n", &["E0118 `upsert` needs a `key`"]);
    check(SCHEMA, "    key: id\n", &["E0151 `append` uses no `key`"]);
    check(SCHEMA, "    mode: upsert\n    key: [ids]\n", &["E0320 there is no column `ids` here"]);
    check(SCHEMA, "    mode: upsert\n    key: [id, id]\n", &["E0413 `id` stands in the key twice"]);
    check(SCHEMA, "    mode: upsert\n    key: name\n", &["E0461 a key must not be null, and `name` is string | null"]);
    check("{ id: float64 }", "    mode: upsert\n    key: id\n", &["E0308 `id` is float64 and can't be a key"]);
    check("{ id: json }", "    mode: upsert\n    key: id\n", &["E0308 `id` is json and can't be a key"]);
    check(
        SCHEMA,
        "    delivery: exactly_once\n    batch: { max_rows: 5 }\n",
        &[
            "E0310 `out` can't deliver exactly once: a transaction has the rows of one commit of the pipeline then, and \
           `batch` would cut them otherwise",
        ],
    );
    check("{ id: duration }", "", &["E0405 the column `id` is duration, which a table can't hold"]);
    check(SCHEMA, "    batch: { max_rows: 0 }\n", &["E0142 `max_rows` is from 1 to 100000"]);
    check(SCHEMA, "    timeout: 0s\n", &["E0142 a `timeout` of nothing leaves no time to deliver"]);
    let found = plan(&file.yaml(SCHEMA, "a.b", "")).unwrap_err();
    assert_eq!(found, ["E0151 `a.b` has 2 parts, and a table's name has at most 1 here"]);
}

fn store(plan: &Plan) -> (SqliteStore, Table) {
    let sink: &SqliteSink = step(plan, "out").planned.downcast().unwrap();
    (SqliteStore::new(sink.base_dir.join(&sink.written), sink.table.clone()), sink.table.clone())
}

fn marker(sequence: i64) -> Marker {
    let owner = Owner { pipeline: "p".into(), sink: "out".into(), shard: 3, writer: "w".into() };
    Marker { owner, sequence }
}

#[test]
fn a_batch_with_a_marker_acts_once() {
    let file = File::new();
    let plan = file.pipeline(SCHEMA, "t", "    create: true\n");
    let (mut first, table) = store(&plan);
    let runtime = crate::runtime::shared().unwrap();
    let count = || file.query("SELECT count(*) FROM t")[0][0].clone().unwrap();
    let batch = |ids| store_batch(&table.layout, &plan, &inserts(ids));
    runtime.block_on(async {
        let unclaimed = first.write(&batch(0..10), Some(&marker(1))).await;
        assert!(matches!(unclaimed, Err(Fault::Stop(_))), "{unclaimed:?}");
        first.claim(&marker(0).owner, &fresh("p", 9)).await.unwrap();
        assert_eq!(first.write(&batch(0..10), Some(&marker(1))).await, Ok(Written::default()));
        // The same again, also by one who does not know of it.
        assert!(first.write(&batch(0..10), Some(&marker(1))).await.unwrap().skipped);
        let (mut second, _) = store(&plan);
        assert!(second.write(&batch(0..10), Some(&marker(1))).await.unwrap().skipped);
        assert_eq!(count(), "10");
        assert!(!second.write(&batch(10..15), Some(&marker(2))).await.unwrap().skipped);
        assert!(first.write(&batch(15..20), Some(&marker(1))).await.unwrap().skipped, "an older one");
        assert_eq!(count(), "15");
        // Without a marker the same rows come again.
        assert!(!first.write(&batch(0..10), None).await.unwrap().skipped);
        assert_eq!(count(), "25");
    });
}

#[test]
fn rows_that_are_given_up_are_known_with_their_marker() {
    let file = File::new();
    let plan = file.pipeline(SCHEMA, "t", "    create: true\n");
    let (mut store, table) = store(&plan);
    let mut batch = store_batch(&table.layout, &plan, &inserts(0..3));
    batch.give_up(&RowError::new(UNDELIVERED, "it took too long"));
    crate::runtime::shared().unwrap().block_on(async {
        store.claim(&marker(0).owner, &fresh("p", 9)).await.unwrap();
        for skipped in [false, true] {
            let written = store.write(&batch, Some(&marker(1))).await.unwrap();
            assert_eq!((written.skipped, written.failed.len()), (skipped, 3));
            assert_eq!(written.failed[2], (2, RowError::new(UNDELIVERED, "it took too long")));
        }
        // Far behind the last marker nobody knows any more.
        let empty = store_batch(&table.layout, &plan, &[]);
        assert!(!store.write(&empty, Some(&marker(10_001))).await.unwrap().skipped);
        assert!(store.write(&batch, Some(&marker(2))).await.unwrap().skipped);
        let lost = store.write(&batch, Some(&marker(1))).await;
        assert!(matches!(&lost, Err(Fault::Stop(reason)) if reason.contains("--reset-sink out")), "{lost:?}");
    });
    assert_eq!(file.query("SELECT count(*) FROM t")[0], [Some("0".into())]);
}

#[test]
fn batches_act_once() {
    testing::batches_act_once(&File::new());
}

#[test]
fn the_older_writer_stops() {
    testing::the_older_writer_stops(&File::new());
}

#[test]
fn crashes_leave_no_trace() {
    testing::crashes_leave_no_trace(&File::new(), 1, 100, 40, "");
}

/// Rows of an outage are not given up, even where a few attempts are all there may be.
#[test]
fn an_outage_costs_no_row_exactly_once() {
    let file = File::new();
    file.execute("CREATE TABLE t (id INTEGER, name TEXT, n INTEGER)");
    let keys = "    delivery: exactly_once\n    retry: { attempts: 1, first: 5ms, max: 10ms }\n    timeout: 100ms\n";
    let plan = file.pipeline(SCHEMA, "t", keys);
    let other = file.connection();
    let sink = testing::open_exact(&plan, fresh("p", 20)).unwrap();
    other.execute_batch("BEGIN EXCLUSIVE").unwrap();
    let freed = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_secs(5));
        other.execute_batch("COMMIT").unwrap();
    });
    let batches = (1..=20).map(|number| testing::exact_batch(&plan, number)).collect();
    assert_eq!(crate::exact::testing::deliver(sink, 0, batches).unwrap().failed, []);
    freed.join().unwrap();
    let batches = (1..=20).map(|number| testing::exact_batch(&plan, number).num_rows());
    assert_eq!(file.query("SELECT count(*) FROM t")[0][0], Some(batches.sum::<usize>().to_string()));
}

/// Another program holds the file for a while: rows wait, and none is lost.
#[test]
fn a_lock_is_waited_for() {
    let file = File::new();
    file.execute("CREATE TABLE t (id INTEGER, name TEXT, n INTEGER)");
    let plan = file.pipeline(SCHEMA, "t", "    breaker: { failures: 1, pause: 200ms }\n    timeout: 100ms\n");
    let other = file.connection();
    other.execute_batch("BEGIN EXCLUSIVE").unwrap();
    let freed = std::thread::spawn(move || {
        std::thread::sleep(std::time::Duration::from_secs(3));
        other.execute_batch("COMMIT").unwrap();
    });
    let batches = (0..50).map(|at| row_batch(&plan, &inserts(at * 10..at * 10 + 10), at as u64 * 10)).collect();
    assert_eq!(send(&plan, batches).unwrap().len(), 0);
    freed.join().unwrap();
    assert_eq!(file.query("SELECT count(*), count(DISTINCT id) FROM t")[0], [Some("500".into()), Some("500".into())]);
}
