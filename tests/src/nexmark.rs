//! The queries of Nexmark by the real binary, against plain loops over all events, on one and on two workers.
//!
//! A query is run as it stands in `pipelines/nexmark`, but for how many rows there are, how fast their time goes, and its sink,
//! which is a file here. The events are made by the `nexmark` crate a second time. Once they come from files, in some disorder.
//! What comes out is compared by what it comes to in the end, since how many steps a changelog takes is not fixed.

mod reference;

use crate::{engine, package};
use nexmark::EventGenerator;
use nexmark::config::NexmarkConfig;
use nexmark::event::{Auction, Bid, Event, Person};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::Path;
use std::process::{Command, Stdio};

/// All events, in the order of their time.
struct Events {
    persons: Vec<Person>,
    auctions: Vec<Auction>,
    bids: Vec<Bid>,
}

/// A row that comes out: column to value.
type Row = BTreeMap<String, Value>;

/// How many events there are, and how a query gets them.
#[derive(Clone, Copy)]
struct Input {
    events: usize,
    per_second: usize,
    /// In some disorder, and with prices that are powers of ten, so that many are equal.
    from_files: bool,
}

const QUICK: Input = Input { events: 30_000, per_second: 1_000, from_files: false };
const SLOW: Input = Input { events: 20_000, per_second: 100, from_files: false };
const DISORDERED: Input = Input { from_files: true, ..QUICK };
/// So few bids in ten seconds that several auctions have as many.
const SPARSE: Input = Input { events: 3_000, per_second: 1, from_files: false };
/// More than a day.
const DAYS: Input = Input { events: 90_000, per_second: 1, from_files: false };

/// Rows of files come in groups that are shuffled: half a second of `QUICK`.
const GROUP: usize = 500;

impl Input {
    fn events(self) -> Events {
        let config = NexmarkConfig {
            base_time: 1_436_918_400_000,
            first_rate: self.per_second,
            next_rate: self.per_second,
            ..NexmarkConfig::default()
        };
        let mut all = Events { persons: Vec::new(), auctions: Vec::new(), bids: Vec::new() };
        for event in EventGenerator::new(config).take(self.events) {
            match event {
                Event::Person(person) => all.persons.push(person),
                Event::Auction(auction) => all.auctions.push(auction),
                Event::Bid(mut bid) => {
                    if self.from_files {
                        bid.price = 10_usize.pow(bid.price.ilog10());
                    }
                    all.bids.push(bid);
                }
            }
        }
        all
    }
}

fn person(of: &Person) -> Value {
    json!({
        "id": of.id, "name": of.name, "email_address": of.email_address, "credit_card": of.credit_card, "city": of.city,
        "state": of.state, "date_time": of.date_time, "extra": of.extra,
    })
}

fn auction(of: &Auction) -> Value {
    json!({
        "id": of.id, "item_name": of.item_name, "description": of.description, "initial_bid": of.initial_bid,
        "reserve": of.reserve, "date_time": of.date_time, "expires": of.expires, "seller": of.seller,
        "category": of.category, "extra": of.extra,
    })
}

fn bid(of: &Bid) -> Value {
    json!({
        "auction": of.auction, "bidder": of.bidder, "price": of.price, "channel": of.channel, "url": of.url,
        "date_time": of.date_time, "extra": of.extra,
    })
}

const SCHEMAS: [(&str, &str); 3] = [
    (
        "persons",
        "id: int64, name: string, email_address: string, credit_card: string, city: string, state: string, \
         date_time: timestamp(ms), extra: string",
    ),
    (
        "auctions",
        "id: int64, item_name: string, description: string, initial_bid: int64, reserve: int64, \
         date_time: timestamp(ms), expires: timestamp(ms), seller: int64, category: int64, extra: string",
    ),
    (
        "bids",
        "auction: int64, bidder: int64, price: int64, channel: string, url: string, date_time: timestamp(ms), \
         extra: string",
    ),
];

/// Writes rows to a file, each group of them in another order.
fn write_shuffled(path: &Path, rows: Vec<Value>, group: usize) {
    let mut text = String::new();
    for rows in rows.chunks(group) {
        // 7919 is a prime, and no group is as long.
        for at in 0..rows.len() {
            writeln!(text, "{}", rows[at * 7919 % rows.len()]).expect("a string takes text");
        }
    }
    std::fs::write(path, text).expect("the rows are written");
}

/// The keys of a pipeline that are set to give it this input.
fn sources(pipeline: &str, input: Input, events: &Events, folder: &Path) -> Vec<String> {
    let mut set = Vec::new();
    for (source, schema) in SCHEMAS {
        if !pipeline.contains(&format!("\n  {source}: ")) {
            continue;
        }
        let (rows, of_group) = match source {
            "persons" => (events.persons.len(), 1),
            "auctions" => (events.auctions.len(), 3),
            _ => (events.bids.len(), 46),
        };
        if input.from_files {
            let path = folder.join(format!("{source}.jsonl"));
            let rows = match source {
                "persons" => events.persons.iter().map(person).collect(),
                "auctions" => events.auctions.iter().map(auction).collect(),
                _ => events.bids.iter().map(bid).collect(),
            };
            write_shuffled(&path, rows, GROUP / 50 * of_group);
            set.push(format!(
                "sources.{source}={{ type: file, path: \"{}\", format: json, schema: {{ {schema} }}, \
                 event_time: {{ column: date_time, max_delay: 1s }} }}",
                path.display()
            ));
        } else {
            set.push(format!("sources.{source}.rows={rows}"));
            set.push(format!("sources.{source}.nexmark.per_second={}", input.per_second));
        }
    }
    set
}

/// Runs a query and gives the lines that it put out.
fn run(query: &str, workers: &str, input: Input, events: &Events) -> String {
    let folder = tempfile::tempdir().expect("a folder");
    let folder = folder.path();
    let pipeline = package().join(format!("../pipelines/nexmark/{query}.yaml"));
    let text = std::fs::read_to_string(&pipeline).unwrap_or_else(|error| panic!("{}: {error}", pipeline.display()));
    let mut set = sources(&text, input, events, folder);
    let out = folder.join("out.jsonl");
    set.extend(["type=file", "format=json", "timestamps=epoch_ms"].map(|key| format!("sinks.out.{key}")));
    set.push(format!("sinks.out.path=\"{}\"", out.display()));
    let output = Command::new(engine())
        .args(["run", "--no-metrics", "--quiet", "--log", "warn", "--workers", workers])
        .args(set.iter().flat_map(|set| ["--set", set]))
        .arg(&pipeline)
        .current_dir(folder)
        .stdin(Stdio::null())
        .output()
        .expect("the engine runs");
    let log = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{query}: {log}");
    assert!(log.is_empty(), "{query}: neither late rows nor errors: {log}");
    std::fs::read_to_string(out).expect("it is written")
}

/// The rows that are there in the end.
fn net(lines: &str) -> Vec<Row> {
    let mut counts: BTreeMap<String, (i64, Row)> = BTreeMap::new();
    for line in lines.lines() {
        let mut row: Row = serde_json::from_str(line).expect("an object");
        let change = match row.remove("@change").as_ref().map(|change| change.as_str()) {
            None | Some(Some("insert")) => 1,
            Some(Some("delete")) => -1,
            Some(other) => panic!("{other:?} is no change"),
        };
        let text = serde_json::to_string(&row).expect("JSON");
        counts.entry(text).or_insert((0, row)).0 += change;
    }
    let mut rows = Vec::new();
    for (text, (count, row)) in counts {
        assert!(count >= 0, "more of these are taken back than came: {text}");
        rows.extend(std::iter::repeat_n(row, count as usize));
    }
    rows
}

fn same(one: &Value, other: &Value) -> bool {
    match (one.as_f64(), other.as_f64()) {
        // Integers are exact; sums of floats are not to the last bit.
        (Some(a), Some(b)) if one.is_f64() || other.is_f64() => (a - b).abs() <= 1e-12 * a.abs().max(1.0),
        _ => one == other,
    }
}

/// In the order of all but floats.
fn sorted(mut rows: Vec<Row>) -> Vec<Row> {
    rows.sort_by_cached_key(|row| {
        let rest: BTreeMap<&String, &Value> = row.iter().filter(|(_, value)| !value.is_f64()).collect();
        serde_json::to_string(&rest).expect("JSON")
    });
    rows
}

fn compare(what: &str, found: Vec<Row>, expected: &[Row]) {
    let found = sorted(found);
    for (found, expected) in found.iter().zip(expected) {
        let equal = found.len() == expected.len()
            && found.iter().zip(expected).all(|((a, one), (b, other))| a == b && same(one, other));
        assert!(equal, "{what}: {found:?}, not {expected:?}");
    }
    assert_eq!(found.len(), expected.len(), "{what}: rows");
}

/// The query over these inputs; there must be so many rows at least, or it is not put to the test.
fn check(query: &str, inputs: &[Input], least: usize, expected: impl Fn(&Events) -> Vec<Value>) {
    for (nth, input) in inputs.iter().enumerate() {
        let events = input.events();
        let expected = expected(&events).into_iter().map(|row| match row {
            Value::Object(row) => row.into_iter().collect(),
            other => panic!("{other} is no row"),
        });
        let expected = sorted(expected.collect());
        assert!(expected.len() >= least, "{query} is put to the test: {}", expected.len());
        for workers in ["1", "2"] {
            let lines = run(query, workers, *input, &events);
            compare(&format!("{query}, input {nth}, workers: {workers}"), net(&lines), &expected);
        }
    }
}

macro_rules! queries {
    ($($query:ident $inputs:expr, $least:expr;)+) => {
        $(#[test]
        fn $query() {
            check(stringify!($query), &$inputs, $least, reference::$query);
        })+
    };
}

queries! {
    q0 [QUICK, DISORDERED], 20_000;
    q1 [QUICK, DISORDERED], 20_000;
    q2 [QUICK, DISORDERED], 50;
    q3 [QUICK, DISORDERED], 50;
    q4 [QUICK, SLOW, DISORDERED], 5;
    q5 [QUICK, SLOW, SPARSE, DISORDERED], 15;
    q6 [QUICK, DISORDERED], 50;
    q7 [QUICK, SLOW, DISORDERED], 3;
    q8 [QUICK, SLOW, DISORDERED], 50;
    q9 [QUICK, SLOW, DISORDERED], 1_000;
    q10 [QUICK, DAYS], 20_000;
    q11 [QUICK, SLOW, SPARSE, DISORDERED], 500;
    q13 [QUICK, DISORDERED], 20_000;
    q14 [QUICK, DAYS, DISORDERED], 2_000;
    q15 [QUICK, DAYS, DISORDERED], 1;
    q16 [QUICK, DAYS], 1_000;
    q17 [QUICK, DAYS, DISORDERED], 1_000;
    q18 [QUICK, DISORDERED], 5_000;
    q19 [QUICK, DISORDERED], 5_000;
    q20 [QUICK, DISORDERED], 1_000;
    q21 [QUICK, DISORDERED], 10_000;
    q22 [QUICK, DISORDERED], 20_000;
}

/// By the clock of the machine: which window a bid is in can't be foretold, but it is in one.
#[test]
fn q12() {
    let events = QUICK.events();
    let now_ms =
        || std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("a time").as_millis() as u64;
    let mut expected: BTreeMap<u64, u64> = BTreeMap::new();
    for bid in &events.bids {
        *expected.entry(bid.bidder as u64).or_default() += 1;
    }
    for workers in ["1", "2"] {
        let from_ms = now_ms();
        let rows = net(&run("q12", workers, QUICK, &events));
        let until_ms = now_ms();
        let mut counts: BTreeMap<u64, u64> = BTreeMap::new();
        let mut windows = std::collections::BTreeSet::new();
        for row in rows {
            let [bidder, count, start, end] = ["bidder", "bid_count", "starttime", "endtime"]
                .map(|column| row[column].as_u64().unwrap_or_else(|| panic!("{column} of {row:?}")));
            *counts.entry(bidder).or_default() += count;
            assert!(windows.insert((bidder, start)), "a bidder has one row for a window");
            assert!(start % 10_000 == 0 && end == start + 10_000, "{row:?}");
            assert!(start <= until_ms && end >= from_ms, "{row:?} between {from_ms} and {until_ms}");
        }
        assert_eq!(counts, expected, "workers: {workers}");
    }
}

/// A query that is not there is told of.
#[test]
fn the_readme_tells_of_every_query() {
    let folder = package().join("../pipelines/nexmark");
    let readme = std::fs::read_to_string(folder.join("README.md")).expect("a README");
    for query in (0..=22).map(|number| format!("q{number}")) {
        let line = readme.lines().find(|line| line.starts_with(&format!("| {query} |")));
        let line = line.unwrap_or_else(|| panic!("{query} is not told of"));
        let is_there = folder.join(format!("{query}.yaml")).exists();
        assert_eq!(is_there, !line.contains("| no |"), "{line}");
    }
}
