//! The webhook against a real server in the same process, which answers by a script.

use crate::testing::{Bell, open, plan, rows, sink_schema, write_all};
use crate::{BreakerState, SinkHandle};
use arrow::array::{Int64Array, RecordBatch, StringArray};
use engine_dataflow::{ErrorRow, Rows};
use engine_plan::Plan;
use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

/// A request as the server saw it.
#[derive(Clone, Debug)]
struct Request {
    method: String,
    path: String,
    headers: BTreeMap<String, String>,
    body: String,
    at: Instant,
}

/// What the server does with a request.
#[derive(Clone)]
enum Reply {
    Status(u16, &'static str, &'static str),
    /// It never answers.
    Hang,
    /// It ends the connection in the middle of its answer.
    Cut,
}

const OK: Reply = Reply::Status(204, "", "");

struct Server {
    address: String,
    requests: Arc<Mutex<Vec<Request>>>,
    connections: Arc<AtomicUsize>,
}

impl Server {
    /// A server that answers by `script`, which is told the request and its number.
    fn start(script: impl Fn(&Request, usize) -> Reply + Send + Sync + 'static) -> Server {
        Self::on(TcpListener::bind("127.0.0.1:0").unwrap(), script)
    }

    fn on(listener: TcpListener, script: impl Fn(&Request, usize) -> Reply + Send + Sync + 'static) -> Server {
        let address = listener.local_addr().unwrap().to_string();
        let requests: Arc<Mutex<Vec<Request>>> = Arc::default();
        let connections = Arc::new(AtomicUsize::new(0));
        let (seen, count, script) = (requests.clone(), connections.clone(), Arc::new(script));
        thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                count.fetch_add(1, Ordering::SeqCst);
                let (seen, script) = (seen.clone(), script.clone());
                thread::spawn(move || serve(stream, &seen, &*script));
            }
        });
        Server { address, requests, connections }
    }

    fn requests(&self) -> Vec<Request> {
        self.requests.lock().unwrap().clone()
    }
}

fn serve(stream: TcpStream, seen: &Mutex<Vec<Request>>, script: &dyn Fn(&Request, usize) -> Reply) -> Option<()> {
    let mut input = BufReader::new(stream.try_clone().ok()?);
    let mut output = stream;
    loop {
        let mut line = String::new();
        if input.read_line(&mut line).ok()? == 0 {
            return None;
        }
        let mut words = line.split_whitespace();
        let (method, path) = (words.next()?.to_owned(), words.next()?.to_owned());
        let mut headers = BTreeMap::new();
        loop {
            let mut line = String::new();
            input.read_line(&mut line).ok()?;
            match line.trim_end().split_once(": ") {
                Some((name, value)) => headers.insert(name.to_ascii_lowercase(), value.to_owned()),
                None => break,
            };
        }
        let mut body = vec![0; headers.get("content-length")?.parse().ok()?];
        input.read_exact(&mut body).ok()?;
        let request = Request { method, path, headers, body: String::from_utf8(body).ok()?, at: Instant::now() };
        let number = {
            let mut seen = seen.lock().unwrap();
            seen.push(request.clone());
            seen.len() - 1
        };
        match script(&request, number) {
            Reply::Status(status, headers, body) => {
                let length = body.len();
                write!(output, "HTTP/1.1 {status} Word\r\ncontent-length: {length}\r\n{headers}\r\n{body}").ok()?;
            }
            Reply::Hang => thread::sleep(Duration::from_secs(600)),
            Reply::Cut => {
                write!(output, "HTTP/1.1 200 O").ok()?;
                return None;
            }
        }
    }
}

/// A pipeline with a webhook of these keys, and rows of id, card and note.
fn pipeline(address: &str, keys: &str) -> Plan {
    let yaml = format!(
        "sources:\n  rows:\n    type: stdin\n    schema: {{ id: int64, card: string, note: string | null }}\n\
         sinks:\n  hook:\n    type: webhook\n    input: rows\n    url: \"http://{address}/alert\"\n{keys}"
    );
    plan(&yaml).unwrap()
}

fn batch(plan: &Plan, ids: std::ops::Range<i64>) -> Rows {
    let cards = StringArray::from_iter_values(ids.clone().map(|id| format!("c\"{}", id % 7)));
    let notes: StringArray = ids.clone().map(|id| (id % 2 == 0).then_some("even")).collect();
    let first = ids.start as u64;
    let columns: Vec<arrow::array::ArrayRef> =
        vec![Arc::new(Int64Array::from_iter_values(ids)), Arc::new(cards), Arc::new(notes)];
    rows(RecordBatch::try_new(sink_schema(plan, "hook"), columns).unwrap(), first)
}

/// Sends rows in batches of `size` and gives what failed, and the open sink.
fn send(plan: &Plan, count: i64, size: i64) -> (Result<Vec<ErrorRow>, String>, Box<dyn SinkHandle>) {
    let sink = open(plan, "hook");
    let bell = Bell::default();
    let mut writer = sink.writer(0, bell.waker());
    let batches = (0..count).step_by(size as usize).map(|from| batch(plan, from..(from + size).min(count)));
    let sent = write_all(&mut *writer, &bell, batches.collect());
    (sent, sink)
}

fn ids(requests: &[Request]) -> Vec<i64> {
    let id = |value: &serde_json::Value| value["id"].as_i64().unwrap();
    requests
        .iter()
        .flat_map(|request| match serde_json::from_str(&request.body).unwrap() {
            serde_json::Value::Array(rows) => rows.iter().map(id).collect(),
            row => vec![id(&row)],
        })
        .collect()
}

#[test]
fn rows_go_out_as_json_with_headers_and_key() {
    let server = Server::start(|_, _| OK);
    let keys = "    headers: { Authorization: \"Bearer ${secret:TOKEN}\", X-Team: risk }\n    idempotency_key: |\n      concat(card, ':', id)\n";
    let plan = pipeline(&server.address, keys);
    let (sent, sink) = send(&plan, 400, 7);
    assert_eq!(sent.unwrap().len(), 0);
    let mut requests = server.requests();
    requests.sort_by_key(|request| ids(std::slice::from_ref(request))[0]);
    assert_eq!(ids(&requests), (0..400).collect::<Vec<_>>());
    let request = &requests[9];
    assert_eq!((request.method.as_str(), request.path.as_str()), ("POST", "/alert"));
    assert_eq!(request.body, r#"{"id":9,"card":"c\"2","note":null}"#);
    for (name, value) in [
        ("authorization", "Bearer s3cret"),
        ("x-team", "risk"),
        ("content-type", "application/json"),
        ("idempotency-key", "c\"2:9"),
    ] {
        assert_eq!(request.headers[name], value, "{name}");
    }
    assert!(server.connections.load(Ordering::SeqCst) < 200, "connections are kept and used again");
    let stats = sink.stats();
    assert_eq!((stats.rows, stats.failed, stats.queued_rows, stats.queued_bytes), (400, 0, 0, 0));
    assert_eq!(stats.breaker, Some(BreakerState::Closed));
    sink.close().unwrap();
}

/// `columns` is about what is sent; a key may be made of what is not.
#[test]
fn a_key_sees_the_columns_that_are_left_out() {
    let server = Server::start(|_, _| OK);
    let yaml = format!(
        "sources:\n  rows:\n    type: stdin\n    schema: {{ id: int64, card: string, note: string | null }}\nsinks:\n  hook:\n    \
         type: webhook\n    input: rows\n    url: http://{}/alert\n    columns: {{ number: id + 1 }}\n    \
         idempotency_key: concat(card, ':', number)\n",
        server.address
    );
    let plan = plan(&yaml).unwrap();
    let schema = sink_schema(&plan, "hook");
    assert_eq!(schema.fields().iter().map(|field| field.name().as_str()).collect::<Vec<_>>(), ["number", "card"]);
    let numbers = Arc::new(Int64Array::from(vec![2, 3]));
    let cards = Arc::new(StringArray::from(vec!["a", "b"]));
    let batch = RecordBatch::try_new(schema, vec![numbers, cards]).unwrap();
    let sink = open(&plan, "hook");
    let bell = Bell::default();
    let mut writer = sink.writer(0, bell.waker());
    assert_eq!(write_all(&mut *writer, &bell, vec![rows(batch, 0)]).unwrap().len(), 0);
    let mut seen: Vec<(String, String)> = server
        .requests()
        .into_iter()
        .map(|request| (request.body, request.headers["idempotency-key"].clone()))
        .collect();
    seen.sort();
    let expected = [(r#"{"number":2}"#, "a:2"), (r#"{"number":3}"#, "b:3")];
    assert_eq!(seen, expected.map(|(body, key)| (body.to_owned(), key.to_owned())));
}

#[test]
fn nothing_secret_is_shown() {
    let yaml = "sources:\n  rows:\n    type: stdin\n    schema: { id: int64 }\nsinks:\n  hook:\n    type: webhook\n    \
                input: rows\n    url: \"https://user:${secret:TOKEN}@example.com/hooks/${secret:TOKEN}\"\n    headers: { \
                Authorization: \"Bearer ${secret:TOKEN}\" }\n";
    let plan = plan(yaml).unwrap();
    let sink = crate::testing::step(&plan, "hook");
    let shown = format!("{:?} {:?}", sink.planned, sink.facts);
    assert!(!shown.contains("s3cret"), "{shown}");
    assert!(sink.facts.contains(&("to".to_owned(), "https://example.com".to_owned())), "{:?}", sink.facts);
}

#[test]
fn what_fails_at_first_is_sent_again() {
    for reply in [
        Reply::Status(500, "", "oh"),
        Reply::Status(503, "retry-after: 0\r\n", ""),
        Reply::Status(408, "", ""),
        Reply::Status(425, "", ""),
        Reply::Cut,
        Reply::Hang,
    ] {
        let first = reply.clone();
        let server = Server::start(move |_, number| if number < 3 { first.clone() } else { OK });
        let plan = pipeline(&server.address, "    attempt_timeout: 400ms\n    retry: { first: 10ms }\n");
        let (sent, sink) = send(&plan, 5, 5);
        assert_eq!(sent.unwrap().len(), 0);
        assert_eq!(server.requests().len(), 8);
        assert_eq!(ids(&server.requests()).into_iter().collect::<BTreeSet<_>>(), (0..5).collect());
        assert_eq!(sink.stats().retries, 3);
    }
}

#[test]
fn retry_after_is_honoured() {
    let server = Server::start(|_, number| if number == 0 { Reply::Status(429, "retry-after: 1\r\n", "") } else { OK });
    let plan = pipeline(&server.address, "    max_in_flight: 1\n    retry: { first: 1ms }\n");
    let (sent, _sink) = send(&plan, 3, 3);
    assert_eq!(sent.unwrap().len(), 0);
    let requests = server.requests();
    assert_eq!(requests.len(), 4);
    let pause = requests[1].at - requests[0].at;
    assert!(pause >= Duration::from_millis(990), "{pause:?}");
}

#[test]
fn an_outage_costs_nothing_and_opens_the_breaker() {
    // Nobody listens there until the outage is over.
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let plan = pipeline(
        &address.to_string(),
        "    breaker: { failures: 3, pause: 100ms }\n    timeout: 1s\n    retry: { first: 10ms, max: 50ms }\n",
    );
    let sink = open(&plan, "hook");
    let bell = Bell::default();
    let mut writer = sink.writer(0, bell.waker());
    let server = thread::spawn(move || {
        thread::sleep(Duration::from_secs(3));
        Server::on(TcpListener::bind(address).unwrap(), |_, _| OK)
    });
    let states = Mutex::new(BTreeSet::new());
    let failed = thread::scope(|scope| {
        let over = Arc::new(AtomicUsize::new(0));
        let seen = over.clone();
        let (states, sink) = (&states, &sink);
        scope.spawn(move || {
            while seen.load(Ordering::SeqCst) == 0 {
                states.lock().unwrap().insert(format!("{:?}", sink.stats().breaker.unwrap()));
                thread::sleep(Duration::from_millis(1));
            }
        });
        let failed = write_all(&mut *writer, &bell, (0..10).map(|at| batch(&plan, at * 20..at * 20 + 20)).collect());
        over.store(1, Ordering::SeqCst);
        failed
    });
    assert_eq!(failed.unwrap().len(), 0, "three times the timeout, and nothing is given up");
    let requests = server.join().unwrap().requests();
    assert_eq!(ids(&requests).into_iter().collect::<BTreeSet<_>>(), (0..200).collect());
    let states = states.into_inner().unwrap();
    assert!(states.contains("Open") && states.contains("Closed"), "{states:?}");
    assert_eq!(sink.stats().breaker, Some(BreakerState::Closed));
}

#[test]
fn a_refused_row_is_an_error_row() {
    const LONG: &str = concat!("no such card", "................................................................");
    let server = Server::start(|request, _| match request.body.contains("\"id\":3") {
        true => Reply::Status(400, "", LONG),
        false => OK,
    });
    let plan = pipeline(&server.address, "");
    let (sent, sink) = send(&plan, 6, 6);
    let failed = sent.unwrap();
    let [failed] = failed.as_slice() else { panic!("{failed:?}") };
    assert_eq!((failed.error.code, &*failed.step, failed.position.offset), ("rejected", "hook", 3));
    assert!(failed.error.reason.starts_with("HTTP 400 Bad Request: no such card...."), "{}", failed.error.reason);
    assert_eq!(String::from_utf8_lossy(&failed.payload), r#"{"id":3,"card":"c\"3","note":null}"#);
    assert_eq!(server.requests().len(), 6, "a refusal is not asked for again");
    assert_eq!((sink.stats().rows, sink.stats().failed), (5, 1));
}

#[test]
fn redirects_are_not_followed() {
    let elsewhere = Server::start(|_, _| OK);
    let server = Server::start(|_, _| Reply::Status(307, "location: http://127.0.0.1:1/\r\n", ""));
    let plan = pipeline(&server.address, "    headers: { Authorization: \"Bearer ${secret:TOKEN}\" }\n");
    let (sent, _sink) = send(&plan, 1, 1);
    let failed = sent.unwrap();
    assert!(failed[0].error.reason.contains("redirects are not followed"), "{}", failed[0].error.reason);
    assert_eq!(elsewhere.requests().len(), 0);
}

#[test]
fn attempts_and_time_have_an_end_if_said() {
    let server = Server::start(|_, _| Reply::Status(500, "", "broken"));
    let plan = pipeline(&server.address, "    retry: { attempts: 3, first: 1ms }\n    breaker: { pause: 1ms }\n");
    let failed = send(&plan, 1, 1).0.unwrap();
    assert_eq!(failed[0].error.code, "undelivered");
    assert_eq!(failed[0].error.reason, "given up after 3 attempts: HTTP 500 Internal Server Error: broken");

    let server = Server::start(|_, _| Reply::Status(429, "", ""));
    let plan = pipeline(&server.address, "    timeout: 500ms\n    retry: { first: 20ms, max: 20ms }\n");
    let failed = send(&plan, 1, 1).0.unwrap();
    assert_eq!(failed[0].error.code, "undelivered");
    assert!(server.requests().len() > 3);
}

#[test]
fn the_pipeline_stops_if_that_is_wished() {
    let server = Server::start(|_, _| Reply::Status(403, "", ""));
    let plan = pipeline(&server.address, "    on_error: stop\n");
    let (sent, sink) = send(&plan, 3, 3);
    assert_eq!(sent.unwrap_err(), "a row could not be delivered: HTTP 403 Forbidden");
    sink.close().unwrap();
}

#[test]
fn batches_hold_what_they_may() {
    let server = Server::start(|_, _| OK);
    let plan = pipeline(&server.address, "    batch: { max_rows: 10, max_wait: 200ms }\n    max_in_flight: 2\n");
    let (sent, _sink) = send(&plan, 95, 4);
    assert_eq!(sent.unwrap().len(), 0);
    let requests = server.requests();
    assert_eq!(requests.len(), 10, "full ones, and the rest after its wait");
    let mut all = ids(&requests);
    all.sort_unstable();
    assert_eq!(all, (0..95).collect::<Vec<_>>());
    assert!(requests.iter().all(|request| request.body.starts_with("[{") && request.body.ends_with("}]")));
}

#[test]
fn a_slow_receiver_slows_the_writer() {
    let server = Server::start(|_, number| {
        // The first answers come after a second.
        thread::sleep(Duration::from_millis(if number < 16 { 1_000 } else { 0 }));
        OK
    });
    let plan = pipeline(&server.address, "");
    let sink = open(&plan, "hook");
    let bell = Bell::default();
    let mut writer = sink.writer(0, bell.waker());
    let long = "x".repeat(100_000);
    let mut written = 0;
    let mut refused = false;
    while !refused {
        let ids = Int64Array::from_iter_values([written]);
        let columns: Vec<arrow::array::ArrayRef> =
            vec![Arc::new(ids), Arc::new(StringArray::from_iter_values([&long])), Arc::new(StringArray::new_null(1))];
        let rows = rows(RecordBatch::try_new(sink_schema(&plan, "hook"), columns).unwrap(), written as u64);
        match writer.write(rows, written as u64 + 1) {
            Ok(()) => written += 1,
            Err(rows) => {
                refused = true;
                assert_eq!(rows.num_rows(), 1, "they are given back");
            }
        }
        assert!(written < 1_000, "the queue has a bound");
    }
    assert!(written > 40, "{written} rows of 100 kB wait");
    let start = Instant::now();
    while writer.acknowledged().up_to < written as u64 {
        assert!(start.elapsed() < Duration::from_secs(30));
        assert!(bell.wait(Duration::from_secs(10)), "whoever waits is woken");
    }
    assert_eq!(server.requests().len(), written as usize);
    assert_eq!(sink.stats().queued_rows, 0);
}

#[test]
fn a_writer_that_goes_leaves_nothing_running() {
    let server = Server::start(|_, _| Reply::Hang);
    let plan = pipeline(&server.address, "    attempt_timeout: 1h\n");
    let sink = open(&plan, "hook");
    let mut writer = sink.writer(0, Bell::default().waker());
    writer.write(batch(&plan, 0..100), 1).unwrap();
    let start = Instant::now();
    while server.requests().len() < 16 && start.elapsed() < Duration::from_secs(10) {
        thread::sleep(Duration::from_millis(5));
    }
    drop(writer);
    sink.close().unwrap();
    assert!(start.elapsed() < Duration::from_secs(15), "closing does not wait for a receiver that never answers");
}

#[test]
fn whatever_the_receiver_does_each_row_is_taken_or_failed() {
    // A third of all attempts fail in one way or another, by the hash of what was sent.
    let taken: Arc<Mutex<BTreeMap<i64, usize>>> = Arc::default();
    let seen = taken.clone();
    let server = Server::start(move |request, number| {
        let id = ids(std::slice::from_ref(request))[0];
        match (id * 31 + number as i64 * 17) % 9 {
            0 => Reply::Status(500, "", ""),
            1 => Reply::Cut,
            2 => Reply::Status(429, "", ""),
            _ if id % 50 == 0 => Reply::Status(422, "", "never"),
            _ => {
                *seen.lock().unwrap().entry(id).or_default() += 1;
                OK
            }
        }
    });
    let plan = pipeline(&server.address, "    retry: { first: 1ms, max: 5ms }\n    breaker: { pause: 5ms }\n");
    let sink = open(&plan, "hook");
    let failed: Vec<i64> = thread::scope(|scope| {
        let writers: Vec<_> = (0..3)
            .map(|worker| {
                let (sink, plan) = (&sink, &plan);
                scope.spawn(move || {
                    let bell = Bell::default();
                    let mut writer = sink.writer(worker, bell.waker());
                    let from = worker as i64 * 200;
                    let batches = (0..20).map(|at| batch(plan, from + at * 10..from + at * 10 + 10));
                    write_all(&mut *writer, &bell, batches.collect()).unwrap()
                })
            })
            .collect();
        writers
            .into_iter()
            .flat_map(|writer| writer.join().unwrap())
            .map(|failed| failed.position.offset as i64)
            .collect()
    });
    let mut failed = failed;
    failed.sort_unstable();
    assert_eq!(failed, (0..600).filter(|id| id % 50 == 0).collect::<Vec<_>>());
    let taken = taken.lock().unwrap();
    assert_eq!(taken.keys().copied().collect::<Vec<_>>(), (0..600).filter(|id| id % 50 != 0).collect::<Vec<_>>());
    assert!(taken.values().all(|times| *times == 1), "what was taken is not sent again");
    sink.close().unwrap();
}

#[test]
fn bad_keys_are_told() {
    let check = |keys: &str, expected: &[&str]| {
        let yaml = format!(
            "sources:\n  rows:\n    type: stdin\n    schema: {{ id: int64, tags: list<string>, note: string | null }}\n    format: json\n\
             sinks:\n  hook:\n    type: webhook\n    input: rows\n{keys}"
        );
        assert_eq!(plan(&yaml).map(|_| ()).unwrap_err(), expected, "{keys}");
    };
    let url = "    url: http://localhost/\n";
    check("    url: \"127.0.0.1:9900/alert\"\n", &["E0459 this is not a URL: relative URL without a base"]);
    check("    url: ftp://example.com/\n", &["E0459 a webhook can't be sent over `ftp:`"]);
    let with = |keys: &str| format!("{url}{keys}");
    check(&with("    headers: { \"X Token\": a }\n"), &["E0460 `X Token` can't be the name of a header"]);
    check(&with("    headers: { Host: a }\n"), &["E0460 the engine sets the header `Host` itself"]);
    check(
        &with("    headers: { X-A: \"é\\n\" }\n"),
        &["E0460 the value of `X-A` has characters that no header can have"],
    );
    check(&with("    idempotency_key: note\n"), &["E0461 an idempotency key must not be null, and this one may be"]);
    check(&with("    idempotency_key: tags\n"), &["E0463 an idempotency key can't be of type `list<string>`"]);
    check(
        &with("    idempotency_key: concat(cast(id AS VARCHAR), cast(now() AS VARCHAR))\n"),
        &["E0462 this key changes with time"],
    );
    check(
        &with("    idempotency_key: id\n    batch: { max_rows: 2 }\n"),
        &["E0464 `batch` and `idempotency_key` don't go together"],
    );
    check(&with("    format: csv\n"), &["E0465 a webhook sends JSON, not `csv`"]);
    check(&with("    max_in_flight: 0\n"), &["E0142 `max_in_flight` is from 1 to 10000"]);
    check(&with("    retry: { first: 1m }\n"), &["E0142 the `first` pause is longer than the longest, `max`"]);
    check(&with("    batch: { max_rows: 0 }\n"), &["E0142 `max_rows` is from 1 to 100000"]);
}

const EXACT: &str = "    delivery: exactly_once\n    idempotency_key: id\n    attempt_timeout: 300ms\n    \
                     retry: { first: 5ms, max: 50ms }\n    breaker: { failures: 3, pause: 100ms }\n";

fn exact_batch(plan: &Plan, number: u64) -> Rows {
    let first = number as i64 * 100;
    batch(plan, first..first + number as i64 * 7 % 11)
}

/// What a receiver has that acts once for each key: the body of each, and how many requests it answered.
#[derive(Default)]
struct Once {
    taken: BTreeMap<u64, String>,
    again: usize,
}

fn receiver(cuts: bool) -> (Server, Arc<Mutex<Once>>) {
    let once: Arc<Mutex<Once>> = Arc::default();
    let held = once.clone();
    let server = Server::start(move |request, number| {
        let key: u64 = request.headers["idempotency-key"].parse().unwrap();
        if key % 13 == 5 {
            return Reply::Status(422, "", "never");
        }
        if cuts && number % 5 == 1 {
            return Reply::Status(503, "", "");
        }
        let mut once = held.lock().unwrap();
        match once.taken.insert(key, request.body.clone()) {
            Some(before) => {
                assert_eq!(before, request.body);
                once.again += 1;
            }
            // It is done, and its answer is lost.
            None if cuts && number % 3 == 0 => return Reply::Cut,
            None => {}
        }
        OK
    });
    (server, once)
}

#[test]
fn crashes_leave_no_trace_at_a_receiver_that_acts_once() {
    use crate::exact::testing::{Crashing, crash};
    let (server, once) = receiver(true);
    let plan = pipeline(&server.address, EXACT);
    let sink = Crashing {
        open: &|exact| crate::testing::open_with(&plan, "hook", |start| start.exact = Some(exact)),
        batch: &|number| exact_batch(&plan, number),
        batch_of: &|row| row / 100,
        life: Duration::from_millis(300),
    };
    let (last, failed) = crash(7, 30, &sink);
    let keys = |number: u64| number * 100..number * 100 + number * 7 % 11;
    let (refused, taken): (Vec<u64>, Vec<u64>) = (1..=last).flat_map(keys).partition(|key| key % 13 == 5);
    let once = once.lock().unwrap();
    assert_eq!(once.taken.keys().copied().collect::<Vec<_>>(), taken);
    assert!(once.again > 10, "some came again: {}", once.again);
    assert_eq!(failed.iter().map(|(row, _)| *row).collect::<Vec<_>>(), refused);
}

/// Where there is no answer, the row may have been taken: it never fails for it.
#[test]
fn no_answer_fails_no_row_exactly_once() {
    use crate::exact::testing::{deliver, fresh};
    let begun = Instant::now();
    let server = Server::start(move |_, _| if begun.elapsed() < Duration::from_secs(3) { Reply::Cut } else { OK });
    let plan = pipeline(
        &server.address,
        &EXACT.replace("first: 5ms", "attempts: 2, first: 5ms").replace("failures: 3", "failures: 1000"),
    );
    let sink = crate::testing::open_with(&plan, "hook", |start| start.exact = Some(fresh("p", 3))).unwrap();
    let batches = (1..=3).map(|number| exact_batch(&plan, number)).collect();
    assert_eq!(deliver(sink, 0, batches).unwrap().failed, []);
    assert!(begun.elapsed() >= Duration::from_secs(3));
}

#[test]
fn exactly_once_needs_a_key_for_each_request() {
    let check = |keys: &str, expected: &str| {
        let yaml = format!(
            "sources:\n  rows: {{ type: stdin, schema: {{ id: int64 }} }}\nsinks:\n  hook:\n    type: webhook\n    \
             input: rows\n    url: http://a/b\n    delivery: exactly_once\n{keys}"
        );
        let found = plan(&yaml).map(|_| ()).unwrap_err();
        assert!(found[0].starts_with(&format!("E0310 `hook` can't deliver exactly once: {expected}")), "{found:?}");
    };
    check("", "without an `idempotency_key` the receiver can't tell");
    check("    idempotency_key: id\n    batch: { max_rows: 1 }\n", "with `batch` a row has no key of its own");
}
