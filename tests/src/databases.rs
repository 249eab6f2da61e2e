//! Tables of databases behind the real binary.

use crate::engine;
use crate::running::Running;
use crate::runs::start;
use rusqlite::Connection;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;
use xtask::services::{Postgres, postgres};

fn write(folder: &Path, name: &str, text: &str) {
    std::fs::write(folder.join(name), text).expect("it is written");
}

/// The one line that a query on a server gives.
pub(crate) fn ask(url: &str, query: &str) -> String {
    let psql = postgres::program("psql").expect("psql is there");
    let output = Command::new(psql).args([url, "-X", "-A", "-t", "-c", query]).output().expect("it runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

fn url() -> Option<String> {
    std::env::var("POSTGRES_URL").ok().filter(|url| !url.is_empty())
}

const TOTALS: &str = "
version: 1
pipeline: totals
CONNECTIONS
sources:
  rows: { type: generate, rate: 20000/s, rows: 30000, columns: { shop: \"row_number() * 7919 % 101\", amount: \"row_number() % 13\" } }
operators:
  totals: { type: aggregate, input: rows, key: shop, columns: { n: count(*), total: sum(amount) } }
  many: { type: filter, input: totals, where: n % 10 <> 7 }
sinks:
  out: { SINK, input: many, table: TABLE, mode: upsert, key: shop, create: true, batch: { max_rows: 50 } }
";

/// The totals by shop, those that end in 7 left out, in the order of the shops.
fn totals() -> Vec<(i64, i64, i64)> {
    let mut all = vec![(0, 0); 101];
    for row in 1..=30_000_i64 {
        let at = &mut all[(row * 7919 % 101) as usize];
        *at = (at.0 + 1, at.1 + row % 13);
    }
    let all = all.into_iter().enumerate().filter(|(_, (n, _))| *n > 0 && n % 10 != 7);
    all.map(|(shop, (n, total))| (shop as i64, n, total)).collect()
}

/// Rows come, change and go, and the file has what is.
#[test]
fn a_changelog_becomes_a_table_of_sqlite() {
    let folder = tempfile::tempdir().expect("a folder");
    let folder = folder.path();
    let pipeline = TOTALS.replace("CONNECTIONS", "").replace("SINK", "type: sqlite, path: out/totals.db");
    write(folder, "pipeline.yaml", &pipeline.replace("TABLE", "totals"));
    assert!(start(folder, &["--workers", "2"]).wait().expect("it ends").success());
    let file = Connection::open(folder.join("out/totals.db")).expect("it opens");
    let mut query = file.prepare("SELECT shop, n, total FROM totals ORDER BY shop").expect("there is such a table");
    let rows = query.query_map((), |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?))).expect("rows");
    let found: Vec<(i64, i64, i64)> = rows.map(|row| row.expect("a row")).collect();
    assert_eq!(found, totals());
}

#[test]
fn a_changelog_becomes_a_table_of_postgres() {
    let Some(url) = url() else { return };
    let folder = tempfile::tempdir().expect("a folder");
    let folder = folder.path();
    let table = format!("totals_{}", std::process::id());
    let pipeline = TOTALS
        .replace("CONNECTIONS", &format!("connections:\n  desk: {{ type: postgres, url: \"{url}\" }}"))
        .replace("SINK", "type: postgres, connection: desk");
    write(folder, "pipeline.yaml", &pipeline.replace("TABLE", &table));
    assert!(start(folder, &["--workers", "2"]).wait().expect("it ends").success());
    let found = ask(&url, &format!("SELECT shop, n, total FROM {table} ORDER BY shop"));
    let found: Vec<(i64, i64, i64)> = found
        .lines()
        .map(|line| {
            let values: Vec<i64> = line.split('|').map(|value| value.parse().expect("a number")).collect();
            (values[0], values[1], values[2])
        })
        .collect();
    assert_eq!(found, totals());
    ask(&url, &format!("DROP TABLE {table}"));
}

/// The server is killed twice in the middle, and stopped once: all rows arrive, the bad one in the error output.
#[test]
fn a_server_that_dies_costs_no_row() {
    const ROWS: u64 = 24_000;
    if url().is_none() {
        return;
    }
    let mut server = Postgres::start().expect("a server of our own");
    ask(server.url(), "CREATE TABLE cases (id bigint PRIMARY KEY CHECK (id <> 777), half numeric(12, 1))");
    let folder = tempfile::tempdir().expect("a folder");
    let folder = folder.path();
    let pipeline = format!(
        "
version: 1
pipeline: outage
connections:
  desk: {{ type: postgres, url: \"{}\" }}
sources:
  rows: {{ type: generate, rate: 4000/s, rows: {ROWS}, columns: {{ id: row_number(), half: \"CAST(row_number() AS DECIMAL(11, 1)) / 2\" }} }}
sinks:
  cases:
    type: postgres
    connection: desk
    input: rows
    table: public.cases
    columns: {{ id: id, half: \"CAST(half AS DECIMAL(12, 1))\" }}
    mode: upsert
    key: [id]
    retry: {{ first: 50ms, max: 200ms }}
    breaker: {{ failures: 2, within: 10s, pause: 300ms }}
    timeout: 2s
  bad: {{ type: file, input: cases.errors, path: bad.jsonl, format: json }}
",
        server.url()
    );
    write(folder, "pipeline.yaml", &pipeline);
    let mut running = Running::start(folder, &[], Stdio::null());
    let arrived = |url: &str| ask(url, "SELECT count(*) FROM cases").parse::<u64>().expect("a count");
    for turn in 1..=3 {
        let url = server.url().to_owned();
        running.until("rows arrive", |_| arrived(&url) > turn * 4_000);
        match turn {
            3 => server.stop(),
            _ => server.kill(),
        }
        std::thread::sleep(Duration::from_millis(1_200));
        server.restart().expect("it comes back");
    }
    assert!(running.ended().success(), "{}", running.log());
    assert_eq!(ask(server.url(), "SELECT count(*), count(DISTINCT id) FROM cases"), format!("{0}|{0}", ROWS - 1));
    assert_eq!(ask(server.url(), "SELECT half FROM cases WHERE id = 101"), "50.5");
    let bad = std::fs::read_to_string(folder.join("bad.jsonl")).expect("there is one");
    assert!(bad.lines().count() >= 1 && bad.lines().all(|line| line.contains("777")), "{bad}");
}

#[test]
fn what_can_not_work_is_told_in_dry_run() {
    let folder = tempfile::tempdir().expect("a folder");
    let folder = folder.path();
    let told = |sink: &str| {
        let pipeline = TOTALS.replace("CONNECTIONS", "");
        let (head, _) = pipeline.split_once("  out:").expect("a sink");
        write(folder, "pipeline.yaml", &format!("{head}  out: {{ input: many, table: t, {sink} }}\n"));
        let output = Command::new(engine()).current_dir(folder).args(["dry-run", "pipeline.yaml"]).output();
        let output = output.expect("it runs");
        (
            output.status.success(),
            String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr),
        )
    };
    let (works, text) = told("type: sqlite, path: a.db, create: true");
    assert!(
        !works && text.contains("E0309") && text.contains("only adds rows, and its input is a changelog"),
        "{text}"
    );
    let (works, text) = told("type: sqlite, path: a.db, create: true, mode: upsert, key: shop");
    assert!(works && text.contains("upsert"), "{text}");
    let (works, text) = told("type: sqlite, path: a.db, create: true, mode: upsert, key: n");
    assert!(works && text.contains("`key` leaves out `shop`, by which the changelog tells its rows apart"), "{text}");
    let (works, text) = told("type: postgres, connection: desk, mode: upsert, key: shop");
    assert!(!works && text.contains("there is no connection named `desk`"), "{text}");
    let (works, text) = told("type: sqlite, path: a.db, mode: upsert, key: shop, delivery: exactly_once");
    assert!(works && text.contains("exactly once, by"), "{text}");
}
