//! The sink against a real server, whose URL `POSTGRES_URL` gives. Without it they pass, and say that they did nothing.

use super::*;
use crate::database::testing::{
    Database, SCHEMA, bad_rows_fail_alone, complaint, inserts, measure, random_changelogs, row_batch, send,
    store_batch, unique,
};
use crate::database::{Marker, Owner, Store, Written, testing};
use crate::exact::testing::{after, fresh, write_after};
use crate::testing::{plan, rows, sink_schema, step};
use arrow::array::{
    ArrayRef, BinaryArray, BooleanArray, Date32Array, Decimal128Array, Float32Array, Float64Array, ListArray,
    RecordBatch, StringArray, TimestampNanosecondArray, UInt64Array,
};
use arrow::datatypes::Int64Type;
use engine_plan::Plan;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::time::Duration;
use tokio_postgres::{NoTls, SimpleQueryMessage};

struct Server {
    /// What the sink connects to.
    url: String,
    /// What the test asks: never cut.
    asked: String,
}

impl Server {
    #[allow(clippy::print_stderr)]
    fn find() -> Option<Server> {
        let url = std::env::var("POSTGRES_URL").ok().filter(|url| !url.is_empty());
        if url.is_none() {
            eprintln!("skipped: POSTGRES_URL is not set");
        }
        url.map(|url| Server { asked: url.clone(), url })
    }

    fn messages(&self, sql: &str) -> Vec<SimpleQueryMessage> {
        crate::runtime::shared().unwrap().block_on(async {
            let (client, connection) = tokio_postgres::connect(&self.asked, NoTls).await.unwrap();
            tokio::spawn(connection);
            client.simple_query(sql).await.unwrap()
        })
    }

    fn count(&self, table: &str) -> String {
        self.query(&format!("SELECT count(*) FROM {table}"))[0][0].clone().unwrap()
    }
}

impl Database for Server {
    fn keys(&self) -> (String, String) {
        let connections = format!("connections:\n  desk: {{ type: postgres, url: \"{}\" }}\n", self.url);
        ("    type: postgres\n    connection: desk\n".to_owned(), connections)
    }

    fn execute(&self, sql: &str) {
        self.messages(sql);
    }

    fn query(&self, sql: &str) -> Vec<Vec<Option<String>>> {
        let rows = self.messages(sql).into_iter().filter_map(|message| match message {
            SimpleQueryMessage::Row(row) => Some(row),
            _ => None,
        });
        rows.map(|row| (0..row.len()).map(|at| row.get(at).map(str::to_owned)).collect()).collect()
    }
}

/// Passes on what is said, until it cuts.
struct Proxy {
    /// Cut when the server has answered to the n-th COMMIT, before the answer is passed on.
    cut_commit: Arc<AtomicI64>,
    /// Cut all that comes.
    closed: Arc<AtomicBool>,
    /// Cut each connection after so many bytes to the server; none if negative.
    cut_bytes: Arc<AtomicI64>,
}

impl Proxy {
    fn start(url: &str) -> (Proxy, Server) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let config: tokio_postgres::Config = url.parse().unwrap();
        let server = config.get_ports()[0];
        let proxy = Proxy {
            cut_commit: Arc::new(AtomicI64::new(-1)),
            closed: Arc::default(),
            cut_bytes: Arc::new(AtomicI64::new(-1)),
        };
        let (cut_commit, closed, cut_bytes) = (proxy.cut_commit.clone(), proxy.closed.clone(), proxy.cut_bytes.clone());
        std::thread::spawn(move || {
            for client in listener.incoming() {
                let mut client = client.unwrap();
                if closed.load(Ordering::SeqCst) {
                    continue;
                }
                let mut server = TcpStream::connect(("127.0.0.1", server)).unwrap();
                let cut = Arc::new(AtomicBool::new(false));
                let (mut answers, mut back, silent) =
                    (server.try_clone().unwrap(), client.try_clone().unwrap(), cut.clone());
                std::thread::spawn(move || {
                    let mut bytes = [0; 65536];
                    while let Ok(count @ 1..) = answers.read(&mut bytes) {
                        if silent.load(Ordering::SeqCst) {
                            // The server has done it, and nobody hears of it.
                            break;
                        }
                        if back.write_all(&bytes[..count]).is_err() {
                            break;
                        }
                    }
                    let _ = (back.shutdown(Shutdown::Both), answers.shutdown(Shutdown::Both));
                });
                let (cut_commit, closed, cut_bytes) = (cut_commit.clone(), closed.clone(), cut_bytes.clone());
                std::thread::spawn(move || {
                    let mut bytes = [0; 65536];
                    let mut left = cut_bytes.load(Ordering::SeqCst);
                    while let Ok(count @ 1..) = client.read(&mut bytes) {
                        if left >= 0 {
                            left -= count as i64;
                        }
                        if closed.load(Ordering::SeqCst) || cut_bytes.load(Ordering::SeqCst) >= 0 && left < 0 {
                            break;
                        }
                        let commits = bytes[..count].windows(6).any(|bytes| bytes == b"COMMIT");
                        if commits && cut_commit.fetch_sub(1, Ordering::SeqCst) == 0 {
                            cut.store(true, Ordering::SeqCst);
                        }
                        if server.write_all(&bytes[..count]).is_err() {
                            break;
                        }
                    }
                    if !cut.load(Ordering::SeqCst) {
                        let _ = (client.shutdown(Shutdown::Both), server.shutdown(Shutdown::Both));
                    }
                });
            }
        });
        let through = format!("postgresql://postgres@127.0.0.1:{port}/postgres");
        (proxy, Server { url: through, asked: url.to_owned() })
    }
}

#[test]
fn random_changelogs_end_as_their_table() {
    let Some(server) = Server::find() else { return };
    random_changelogs(&server, 40);
}

#[test]
fn a_bad_row_fails_alone() {
    let Some(server) = Server::find() else { return };
    bad_rows_fail_alone(&server, true);
    bad_rows_fail_alone(&server, false);
}

#[test]
#[ignore = "a measurement"]
fn speed() {
    let Some(server) = Server::find() else { return };
    measure("postgres", &server);
}

#[test]
fn values_are_kept_as_they_are() {
    let Some(server) = Server::find() else { return };
    let schema = "{ a: uint64, b: bool, c: float64 | null, c4: float32, d: \"decimal(20, 4)\", e: date, f: timestamp, \
                  g: binary, h: json, i: list<int64 | null> | null, j: string }";
    let table = unique("kept");
    let made = server.pipeline(schema, &table, "    create: true\n");
    let columns = |schema: &arrow::datatypes::SchemaRef| -> Vec<ArrayRef> {
        let list =
            ListArray::from_iter_primitive::<Int64Type, _, _>(vec![Some(vec![Some(1), None]), None, Some(vec![])]);
        let list = arrow::compute::cast(&list, schema.field_with_name("i").unwrap().data_type()).unwrap();
        vec![
            Arc::new(UInt64Array::from(vec![7, u64::MAX, 9])),
            Arc::new(BooleanArray::from(vec![true, false, true])),
            Arc::new(Float64Array::from(vec![Some(f64::INFINITY), Some(f64::NAN), None])),
            Arc::new(Float32Array::from(vec![0.1, f32::NEG_INFINITY, -0.0])),
            Arc::new(Decimal128Array::from(vec![12_3400, 1, -5]).with_precision_and_scale(20, 4).unwrap()),
            Arc::new(Date32Array::from(vec![0, 1, -800_000])),
            Arc::new(TimestampNanosecondArray::from(vec![1_999, 0, -1]).with_timezone("UTC")),
            Arc::new(BinaryArray::from(vec![&b"ab"[..], b"", b"\0"])),
            Arc::new(StringArray::from(vec!["{\"x\": 1}", "1", "null"])),
            list,
            Arc::new(StringArray::from(vec!["it's", "", "\u{1F600}"])),
        ]
    };
    let schema = sink_schema(&made, "out");
    let batch = RecordBatch::try_new(schema.clone(), columns(&schema)).unwrap();
    assert_eq!(send(&made, vec![rows(batch.clone(), 0)]).unwrap().len(), 0);
    let text = |values: [&str; 11]| values.map(|value| (value != "-").then(|| value.to_owned())).to_vec();
    let found = server.query(&format!("SET TimeZone = 'UTC'; SELECT * FROM {table} ORDER BY a"));
    assert_eq!(
        found,
        [
            text([
                "7",
                "t",
                "Infinity",
                "0.1",
                "12.3400",
                "1970-01-01",
                "1970-01-01 00:00:00.000001+00",
                "\\x6162",
                "{\"x\": 1}",
                "[1, null]",
                "it's"
            ]),
            text([
                "9",
                "t",
                "-",
                "-0",
                "-0.0005",
                "0222-09-04 BC",
                "1969-12-31 23:59:59.999999+00",
                "\\x00",
                "null",
                "[]",
                "\u{1F600}"
            ]),
            text([
                "18446744073709551615",
                "f",
                "NaN",
                "-Infinity",
                "0.0001",
                "1970-01-02",
                "1970-01-01 00:00:00+00",
                "\\x",
                "1",
                "-",
                ""
            ]),
        ]
    );
    // Into a table with other types, as far as nothing is lost; what does not fit is a row that fails.
    let other = unique("other");
    server.execute(&format!(
        "CREATE TABLE {other} (a bigint, b bool, c numeric, c4 float8, d numeric, e date, f timestamp, g bytea, h text, i json, j varchar(4))"
    ));
    let plan = server.pipeline(
        "{ a: uint64, b: bool, c: float64 | null, c4: float32, d: \"decimal(20, 4)\", e: date, f: timestamp, g: binary, \
         h: json, i: list<int64 | null> | null, j: string }",
        &other,
        "",
    );
    let failed = send(&plan, vec![rows(batch, 0)]).unwrap();
    assert_eq!(failed.len(), 1);
    assert_eq!(failed[0].error.to_string(), "rejected: bigint out of range");
    assert_eq!(
        server.query(&format!("SELECT f FROM {other} WHERE a = 7"))[0][0].as_deref(),
        Some("1970-01-01 00:00:00.000001")
    );
}

#[test]
fn texts_become_what_the_server_reads_in_them() {
    let Some(server) = Server::find() else { return };
    let (table, mood) = (unique("texts"), unique("mood"));
    server.execute(&format!(
        "CREATE TYPE {mood} AS ENUM ('good'); CREATE DOMAIN {mood}_d AS varchar(3) CHECK (VALUE <> 'no'); \
         CREATE TABLE {table} (id uuid PRIMARY KEY, a {mood}, b {mood}_d, c jsonb)"
    ));
    let plan =
        server.pipeline("{ id: string, a: string, b: string, c: string }", &table, "    mode: upsert\n    key: id\n");
    let ids: Vec<String> = (0..6).map(|at| format!("00000000-0000-0000-0000-00000000000{at}")).collect();
    let mut id: Vec<&str> = ids.iter().map(String::as_str).collect();
    id[1] = "none";
    let columns: Vec<ArrayRef> = vec![
        Arc::new(StringArray::from(id)),
        Arc::new(StringArray::from(vec!["good", "good", "bad", "good", "good", "good"])),
        Arc::new(StringArray::from(vec!["yes", "yes", "yes", "no", "long", "yes"])),
        Arc::new(StringArray::from(vec!["1", "1", "1", "1", "1", "\"\\u0000\""])),
    ];
    let batch = RecordBatch::try_new(sink_schema(&plan, "out"), columns).unwrap();
    let mut failed = send(&plan, vec![rows(batch, 0)]).unwrap();
    failed.sort_by_key(|failed| failed.position.offset);
    let failed: Vec<(u64, &str)> =
        failed.iter().map(|failed| (failed.position.offset, failed.error.reason.as_str())).collect();
    assert_eq!(failed.iter().map(|(at, _)| *at).collect::<Vec<_>>(), [1, 2, 3, 4, 5], "{failed:?}");
    assert!(failed[0].1.contains("invalid input syntax for type uuid"), "{failed:?}");
    assert!(failed[3].1.contains("value too long"), "a longer text is never cut: {failed:?}");
    assert_eq!(server.count(&table), "1");
}

#[test]
fn a_table_that_does_not_fit_is_told_before_anything_runs() {
    let Some(server) = Server::find() else { return };
    let upsert = "    mode: upsert\n    key: [id]\n";
    let table = |definition: &str| {
        let name = unique("fit");
        server.execute(&format!("CREATE TABLE {name} ({definition})"));
        name
    };
    let check = |schema: &str, table: &str, keys: &str, expected: &str| {
        let found = complaint(&server, schema, table, keys);
        assert!(found.contains(&expected.replace("TABLE", table)), "{found}\nand not\n{expected}");
        assert!(found.starts_with("/pipeline.yaml:12: "), "{found}");
    };
    check(SCHEMA, "no_such", "", "there is no table `no_such`; make it, or add `create: true` to have it made");
    check(SCHEMA, "No_such", "", "names are taken as they are written, capitals included");
    let plain = table("id bigint, name text, n bigint");
    check("{ who: string }", &plain, "", "the table `TABLE` has no column `who`; its columns are id, n, name:");
    check("{ id: string }", &plain, "", "`id` is string, and that column of `TABLE` is bigint; make one of them like");
    check("{ id: timestamp }", &plain, "", "`id` is timestamp, and that column");
    check(
        SCHEMA,
        &plain,
        upsert,
        "has no unique index of (id); `upsert` goes by one: CREATE UNIQUE INDEX ON \"TABLE\" (\"id\")",
    );
    server.execute(&format!("CREATE UNIQUE INDEX ON {plain} (id) WHERE n > 0; CREATE UNIQUE INDEX ON {plain} (id, n)"));
    check(SCHEMA, &plain, upsert, "has no unique index of (id)");
    assert_eq!(complaint(&server, SCHEMA, &plain, "    mode: upsert\n    key: [n, id]\n"), "it opens");
    server.execute(&format!("CREATE UNIQUE INDEX ON {plain} (id) INCLUDE (name)"));
    assert_eq!(complaint(&server, SCHEMA, &plain, upsert), "it opens");
    check(SCHEMA, &table("id int, name text, n int, x int NOT NULL"), "", "the column `x` of `TABLE` must not be null");
    check(SCHEMA, &table("id int GENERATED ALWAYS AS IDENTITY, name text, n int"), "", "the server numbers it");
    check(SCHEMA, &table("id int, name text, n int GENERATED ALWAYS AS (id) STORED"), "", "the server computes it");
    check("{ d: \"decimal(9, 3)\" }", &table("d numeric(9, 2)"), "", "digits behind the point would be rounded away");
    check("{ f: float64 }", &table("f real"), "", "digits would be lost");
    assert_eq!(
        complaint(&server, SCHEMA, &table("id int, name text, n int, x int GENERATED ALWAYS AS IDENTITY"), ""),
        "it opens"
    );
    // A password is never shown, nor is where it was expected.
    let wrong = Server { url: server.url.replace("postgres@", "nobody:s3cret@"), asked: server.asked.clone() };
    let found = complaint(&wrong, SCHEMA, "t", "");
    assert!(found.contains("role \"nobody\" does not exist") && !found.contains("s3cret"), "{found}");
}

#[test]
fn what_goes_together_and_what_does_not() {
    let check = |connection: &str, sink: &str, expected: &[&str]| {
        let yaml = format!(
            "connections:\n  desk: {{ type: postgres, {connection} }}\nsources:\n  rows: {{ type: stdin, schema: {SCHEMA} }}\n\
             sinks:\n  out: {{ type: postgres, input: rows, {sink} }}\n"
        );
        let found = plan(&yaml).map_or_else(|problems| problems, |_| Vec::new());
        assert_eq!(found, expected, "{connection} {sink}");
    };
    let good = "host: db, user: me, password: \"${secret:TOKEN}\"";
    let sink = "connection: desk, table: a.b";
    check(good, sink, &[]);
    check("url: \"postgresql://me:${secret:TOKEN}@db:5433/cases\", tls: require", sink, &[]);
    check(good, "connection: desks, table: a", &["E0313 there is no connection named `desks`"]);
    check(
        good,
        "connection: desk, table: a.b.c",
        &["E0151 `a.b.c` has 3 parts, and a table's name has at most 2 here"],
    );
    check(good, "connection: desk, table: \"\"", &["E0151 `` can't be the name of a table"]);
    check("user: me", sink, &["E0118 a connection needs a `host`"]);
    check("host: db", sink, &["E0118 a connection needs a `user`"]);
    check("url: \"db:5432\"", sink, &["E0459 this is not the URL of a PostgreSQL server"]);
    check("url: \"postgresql://db/x\", host: db", sink, &["E0151 `host` is said in the `url`"]);
    check(
        &format!("{good}, ca: /no/such.pem, tls: require"),
        sink,
        &["E0454 `/no/such.pem` can't be read: No such file or directory (os error 2)"],
    );
    let yaml = format!(
        "connections:\n  desk: {{ type: postgres, url: \"postgresql://me:${{secret:TOKEN}}@db/x\" }}\n\
         sources:\n  rows: {{ type: stdin, schema: {SCHEMA} }}\n\
         sinks:\n  out: {{ type: postgres, input: rows, connection: desk, table: a }}\n"
    );
    let plan = plan(&yaml).unwrap();
    let shown = format!("{:?} {:?}", step(&plan, "out").planned, step(&plan, "out").planned.facts());
    assert!(shown.contains("db:5432/x") && !shown.contains("s3cret"), "{shown}");
}

fn store(plan: &Plan) -> (PostgresStore, Table) {
    let sink: &PostgresSink = step(plan, "out").planned.downcast().unwrap();
    let target = Target::new(sink.connection.clone(), sink.table.clone());
    (PostgresStore::new(Arc::new(target)), sink.table.clone())
}

#[test]
fn a_batch_with_a_marker_acts_once() {
    let Some(server) = Server::find() else { return };
    let (table, pipeline) = (unique("marked"), unique("p"));
    server.execute(&format!("CREATE TABLE {table} (id bigint, name text, n bigint CHECK (n <> 30))"));
    let plan = server.pipeline(SCHEMA, &table, "");
    let (mut first, planned) = store(&plan);
    let (mut second, _) = store(&plan);
    let owner = Owner { pipeline: pipeline.clone(), sink: "out".into(), shard: 3, writer: "w".into() };
    let marker = |sequence| Marker { owner: owner.clone(), sequence };
    let batch = |ids| store_batch(&planned.layout, &plan, &inserts(ids));
    crate::runtime::shared().unwrap().block_on(async {
        first.claim(&owner, &fresh(&pipeline, 9)).await.unwrap();
        assert_eq!(first.write(&batch(10..20), Some(&marker(1))).await, Ok(Written::default()));
        assert!(first.write(&batch(10..20), Some(&marker(1))).await.unwrap().skipped);
        assert!(second.write(&batch(10..20), Some(&marker(1))).await.unwrap().skipped);
        // Two at one time, of which one is to act; the row that fails is known to both.
        let (nine, nine_again) = (batch(0..9), batch(0..9));
        let mark = marker(2);
        let (one, other) = tokio::join!(first.write(&nine, Some(&mark)), second.write(&nine_again, Some(&mark)));
        let (one, other) = (one.unwrap(), other.unwrap());
        assert!(one.skipped != other.skipped);
        assert_eq!(one.failed.iter().map(|(row, _)| *row).collect::<Vec<_>>(), [3]);
        assert_eq!(one.failed, other.failed);
        assert!(second.write(&batch(50..60), Some(&marker(1))).await.unwrap().skipped, "an older one");
    });
    assert_eq!(server.count(&table), "18");
}

/// The connection is cut between COMMIT and its answer: the rows are in, and the writer can't know.
#[test]
fn a_commit_without_an_answer_acts_once_with_a_marker() {
    let Some(server) = Server::find() else { return };
    let (proxy, through) = Proxy::start(&server.url);
    let (table, pipeline) = (unique("cut"), unique("p"));
    server.execute(&format!("CREATE TABLE {table} (id bigint, name text, n bigint)"));
    let plan = through.pipeline(SCHEMA, &table, "");
    let (mut store, planned) = store(&plan);
    crate::runtime::shared().unwrap().block_on(async {
        let owner = Owner { pipeline: pipeline.clone(), sink: "out".into(), shard: 0, writer: "w".into() };
        store.claim(&owner, &fresh(&pipeline, 9)).await.unwrap();
        for sequence in 1..=5 {
            let marker = Marker { owner: owner.clone(), sequence };
            let batch = store_batch(&planned.layout, &plan, &inserts(sequence * 10..sequence * 10 + 10));
            proxy.cut_commit.store(0, Ordering::SeqCst);
            let cut = store.write(&batch, Some(&marker)).await;
            assert!(matches!(cut, Err(Fault::Retry { .. })), "{cut:?}");
            assert_eq!(store.write(&batch, Some(&marker)).await, Ok(Written { failed: vec![], skipped: true }));
        }
    });
    assert_eq!(
        server.query(&format!("SELECT count(*), count(DISTINCT id) FROM {table}"))[0],
        [Some("50".into()), Some("50".into())]
    );
}

#[test]
fn batches_act_once() {
    let Some(server) = Server::find() else { return };
    testing::batches_act_once(&server);
}

#[test]
fn the_older_writer_stops() {
    let Some(server) = Server::find() else { return };
    testing::the_older_writer_stops(&server);
}

#[test]
fn crashes_leave_no_trace() {
    let Some(server) = Server::find() else { return };
    testing::crashes_leave_no_trace(&server, 1, 20, 150, "");
}

/// Crashes, and connections that are cut everywhere, after COMMIT too.
#[test]
fn crashes_and_cuts_leave_no_trace() {
    let Some(server) = Server::find() else { return };
    let (proxy, through) = Proxy::start(&server.url);
    let over = Arc::new(AtomicBool::new(false));
    let stop = over.clone();
    let cutter = std::thread::spawn(move || {
        let mut at = 0;
        while !stop.load(Ordering::SeqCst) {
            at += 1;
            match at % 3 {
                0 => proxy.cut_commit.store(at % 4, Ordering::SeqCst),
                1 => proxy.cut_bytes.store(5_000 + at * 500, Ordering::SeqCst),
                _ => proxy.closed.store(true, Ordering::SeqCst),
            }
            std::thread::sleep(Duration::from_millis(30));
            proxy.cut_bytes.store(-1, Ordering::SeqCst);
            proxy.closed.store(false, Ordering::SeqCst);
            std::thread::sleep(Duration::from_millis(70));
        }
    });
    let retry = "    retry: { attempts: 3, first: 5ms, max: 20ms }\n    breaker: { failures: 3, pause: 50ms }\n    timeout: 1s\n";
    testing::crashes_leave_no_trace(&through, 2, 20, 600, retry);
    over.store(true, Ordering::SeqCst);
    cutter.join().unwrap();
}

/// A transaction that another session holds open at the start is waited for: it may commit yet.
#[test]
fn what_is_committed_late_is_seen() {
    let Some(server) = Server::find() else { return };
    let table = unique("late");
    server.execute(&format!("CREATE TABLE {table} (id bigint, name text, n bigint)"));
    let plan = server.pipeline(SCHEMA, &table, "    delivery: exactly_once\n");
    let pipeline = unique("p");
    drop(testing::open_exact(&plan, fresh(&pipeline, 5)).unwrap());
    let url = server.url.clone();
    let (begun, wait) = std::sync::mpsc::channel();
    let ours = pipeline.clone();
    let other = std::thread::spawn(move || {
        crate::runtime::shared().unwrap().block_on(async {
            let (client, connection) = tokio_postgres::connect(&url, NoTls).await.unwrap();
            tokio::spawn(connection);
            let set = format!("BEGIN; UPDATE _engine_commits SET sequence = 1 WHERE pipeline = '{ours}'");
            client.batch_execute(&set).await.unwrap();
            begun.send(()).unwrap();
            tokio::time::sleep(Duration::from_millis(500)).await;
            client.batch_execute("COMMIT").await.unwrap();
        });
    });
    wait.recv().unwrap();
    let sink = testing::open_exact(&plan, fresh(&pipeline, 5)).unwrap();
    other.join().unwrap();
    let bell = crate::testing::Bell::default();
    let mut writer = sink.writer(0, bell.waker());
    let batches = vec![testing::exact_batch(&plan, 1), testing::exact_batch(&plan, 2)];
    write_after(&mut *writer, &bell, 0, batches).unwrap();
    assert_eq!(server.count(&table), testing::exact_batch(&plan, 2).num_rows().to_string());
    drop(writer);
    sink.close().unwrap();
    // A server that is not there yet is waited for, and then the markers are compared.
    let (proxy, through) = Proxy::start(&server.url);
    proxy.closed.store(true, Ordering::SeqCst);
    let keys = "    delivery: exactly_once\n    breaker: { failures: 1, pause: 50ms }\n";
    let plan = through.pipeline(SCHEMA, &table, keys);
    let sink = testing::open_exact(&plan, after(&pipeline, 1, "", 1)).unwrap();
    proxy.closed.store(false, Ordering::SeqCst);
    let mut writer = sink.writer(0, bell.waker());
    let reason = write_after(&mut *writer, &bell, 1, vec![testing::exact_batch(&plan, 2)]).unwrap_err();
    assert!(reason.contains("has batch 2 of this sink, and this state knows of 1 as the last"), "{reason}");
}

/// Without a marker rows come again, and none is missing; `upsert` makes that harmless.
#[test]
fn connections_that_are_cut_cost_no_row() {
    let Some(server) = Server::find() else { return };
    let (proxy, through) = Proxy::start(&server.url);
    let retry = "    retry: { first: 5ms, max: 20ms }\n    breaker: { failures: 3, pause: 50ms }\n    timeout: 1s\n    batch: { max_rows: 5 }\n";
    for mode in ["    mode: append\n", "    mode: upsert\n    key: id\n"] {
        let table = unique("cuts");
        server.execute(&format!(
            "CREATE TABLE {table} (id bigint {}, name text, n bigint)",
            if mode.contains("key") { "PRIMARY KEY" } else { "" }
        ));
        let plan = through.pipeline(SCHEMA, &table, &format!("{mode}{retry}"));
        let batches: Vec<_> =
            (0..100).map(|at| row_batch(&plan, &inserts(at * 20..at * 20 + 20), at as u64 * 20)).collect();
        let (over, ended) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
        let (commits, bytes, closed, stop, told) =
            (proxy.cut_commit.clone(), proxy.cut_bytes.clone(), proxy.closed.clone(), over.clone(), ended.clone());
        let cutter = std::thread::spawn(move || {
            for at in 0..12 {
                if stop.load(Ordering::SeqCst) {
                    break;
                }
                match at % 3 {
                    0 => commits.store(1, Ordering::SeqCst),
                    1 => bytes.store(9_000, Ordering::SeqCst),
                    _ => closed.store(true, Ordering::SeqCst),
                }
                std::thread::sleep(Duration::from_millis(120));
                bytes.store(-1, Ordering::SeqCst);
                closed.store(false, Ordering::SeqCst);
                std::thread::sleep(Duration::from_millis(20));
            }
            told.store(true, Ordering::SeqCst);
        });
        assert_eq!(send(&plan, batches).unwrap().len(), 0);
        over.store(true, Ordering::SeqCst);
        cutter.join().unwrap();
        assert!(ended.load(Ordering::SeqCst));
        let found = server.query(&format!("SELECT count(DISTINCT id), count(*) FROM {table}"));
        assert_eq!(found[0][0].as_deref(), Some("2000"), "{found:?}");
        if mode.contains("key") {
            assert_eq!(found[0][1].as_deref(), Some("2000"));
        }
    }
}
