//! The source against a real broker.

use super::super::testing::{
    New, add_partitions, brokers, cpu_seconds, delete_before, group_offsets, numbers, produce, topic, transact, unique,
};
use super::*;
use crate::kafka::keeper::{number, resumed};
use crate::testing::{Begin, Bell, PATIENCE, begin, plan, read_until};
use arrow::array::{Array, AsArray};
use arrow::datatypes::{Int32Type, Int64Type, TimestampNanosecondType};
use engine_plan::Plan;
use rdkafka::consumer::Consumer;
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::time::Instant;

/// A pipeline that reads topics with these keys.
fn pipeline(brokers: &str, topic: &str, keys: &str) -> Plan {
    plan(&text(brokers, topic, keys)).unwrap()
}

fn text(brokers: &str, topic: &str, keys: &str) -> String {
    format!(
        "connections:\n  bank: {{ type: kafka, brokers: \"{brokers}\" }}\n\
         sources:\n  rows:\n    type: kafka\n    connection: bank\n    topic: {topic}\n    \
         schema: {{ id: int64, card: string, note: string | null }}\n{keys}\
         sinks:\n  out: {{ type: blackhole, input: rows }}\n"
    )
}

fn first(name: &str) -> Begin<'_> {
    Begin { name, worker: 0, workers: 1, resume: Marks::new(), columns: &[], finite: false }
}

fn ids(rows: &[Rows]) -> Vec<i64> {
    rows.iter().flat_map(|rows| rows.batch["id"].as_primitive::<Int64Type>().values().to_vec()).collect()
}

fn records(count: u64) -> impl FnMut(&SourceRows, &dyn Reader) -> bool {
    move |all, _| all.records >= count
}

/// All that a reader gives until it has `count` records.
fn read(plan: &Plan, how: Begin<'_>, count: u64) -> Result<(SourceRows, Marks), String> {
    let bell = Bell::default();
    let mut reader = begin(plan, how, &bell);
    let all = read_until(&mut *reader, &bell, None, records(count))?;
    let marks = reader.marks();
    Ok((all, marks))
}

#[test]
fn each_record_comes_once_with_all_that_is_known_of_it() {
    let Some(brokers) = brokers() else { return };
    let topic = topic(&brokers, "all", 3);
    let mut new = Vec::new();
    for partition in 0..3 {
        new.extend(numbers(partition, i64::from(partition) * 10_000, 3_000));
    }
    new[5].key = Some(b"k5".to_vec());
    new[5].headers = vec![("trace", "first"), ("trace", "last"), ("other", "x")];
    new[5].timestamp_ms = Some(1_700_000_000_123);
    produce(&brokers, &topic, &new);
    let keys =
        "    metadata: { k: key, trace: \"headers['trace']\", t: topic, p: partition, o: offset, at: timestamp }\n";
    let plan = pipeline(&brokers, &topic, keys);
    let mut all = Vec::new();
    for worker in 0..2 {
        let (read, marks) =
            read(&plan, Begin { worker, workers: 2, ..first("rows") }, if worker == 0 { 6_000 } else { 3_000 })
                .unwrap();
        assert_eq!(read.errors.len(), 0);
        assert_eq!(marks.keys().copied().collect::<Vec<_>>(), if worker == 0 { vec![0, 2] } else { vec![1] });
        assert!(marks.values().all(|mark| mark.next == 3_000));
        for rows in &read.rows {
            let partition = rows.batch["p"].as_primitive::<Int32Type>();
            assert!(partition.iter().all(|found| found == Some(partition.value(0))), "rows of one partition");
            let offsets = rows.batch["o"].as_primitive::<Int64Type>();
            for row in 0..rows.num_rows() {
                let position = rows.position(row);
                assert_eq!(position.offset, offsets.value(row) as u64);
                assert_eq!(position.origin, partition.value(0) as u64);
                assert_eq!(
                    rows.batch["id"].as_primitive::<Int64Type>().value(row),
                    i64::from(partition.value(0)) * 10_000 + offsets.value(row)
                );
                assert_eq!(
                    rows.batch["at"].as_primitive::<TimestampNanosecondType>().value(row),
                    rows.born_ns.get(row)
                );
                assert!(rows.ingest_ns.get(row) >= rows.born_ns.get(row));
            }
            assert!(rows.batch["t"].as_string::<i32>().iter().all(|found| found == Some(&topic)));
            if partition.value(0) == 0 && rows.position(0).offset == 0 {
                let text = |column: &str, row: usize| {
                    let texts = rows.batch[column].as_string::<i32>();
                    texts.is_valid(row).then(|| texts.value(row).to_owned())
                };
                assert_eq!((text("k", 5).as_deref(), text("trace", 5).as_deref()), (Some("k5"), Some("last")));
                assert_eq!((text("k", 4), text("trace", 4)), (None, None));
                assert_eq!(rows.born_ns.get(5), 1_700_000_000_123_000_000);
            }
        }
        all.extend(ids(&read.rows));
    }
    all.sort_unstable();
    let expected: Vec<i64> = (0..3).flat_map(|partition| partition * 10_000..partition * 10_000 + 3_000).collect();
    assert_eq!(all, expected);
}

#[test]
fn only_what_is_read_is_decoded() {
    let Some(brokers) = brokers() else { return };
    let topic = topic(&brokers, "pruned", 1);
    produce(&brokers, &topic, &numbers(0, 0, 10));
    let plan = pipeline(&brokers, &topic, "    metadata: { o: offset }\n");
    let (read, _) = read(&plan, Begin { columns: &["o", "card"], ..first("rows") }, 10).unwrap();
    let names: Vec<String> = read.rows[0].schema().fields().iter().map(|field| field.name().clone()).collect();
    assert_eq!(names, ["o", "card"], "in the order that was asked for");
    let (read, _) = self::read(&plan, Begin { columns: &["o"], ..first("rows") }, 10).unwrap();
    assert_eq!(read.rows.iter().map(Rows::num_rows).sum::<usize>(), 10);
}

#[test]
fn it_goes_on_where_it_stood_and_honours_limits() {
    let Some(brokers) = brokers() else { return };
    let topic = topic(&brokers, "limits", 3);
    for partition in 0..3 {
        produce(&brokers, &topic, &numbers(partition, 0, 2_000));
    }
    let plan = pipeline(&brokers, &topic, "");
    let mark = |next| Mark { next, detail: detail(&topic) };
    let resume: Marks = [(0, mark(100)), (1, mark(2_000)), (2, mark(7))].into();
    let bell = Bell::default();
    let mut reader = begin(&plan, Begin { resume, ..first("rows") }, &bell);
    let standing =
        |reader: &dyn Reader| reader.marks().into_iter().map(|(at, mark)| (at, mark.next)).collect::<Vec<_>>();
    assert_eq!(standing(&*reader), [(0, 100), (1, 2_000), (2, 7)], "from the very start");

    // Partition 2 is not named, so it is not read.
    let until = BTreeMap::from([(0, 101), (1, 2_000)]);
    let reached = |next| move |_: &SourceRows, reader: &dyn Reader| reader.marks()[&0].next >= next;
    let some = read_until(&mut *reader, &bell, Some(&until), reached(101)).unwrap();
    assert_eq!((ids(&some.rows), standing(&*reader)), (vec![100], vec![(0, 101), (1, 2_000), (2, 7)]));
    let until = BTreeMap::from([(0, 1_500), (1, 2_000), (2, 7)]);
    let some = read_until(&mut *reader, &bell, Some(&until), reached(1_500)).unwrap();
    assert_eq!(ids(&some.rows), (101..1_500).collect::<Vec<_>>());
    assert!(matches!(reader.poll(1 << 20, Some(&until)), Polled::Pending), "at its limits");

    let rest = read_until(&mut *reader, &bell, None, records(500 + 1_993)).unwrap();
    assert_eq!(rest.records, 500 + 1_993);
    assert_eq!(standing(&*reader), [(0, 2_000), (1, 2_000), (2, 2_000)]);
}

#[test]
fn limits_count_before_partitions_are_known() {
    let Some(brokers) = brokers() else { return };
    let topic = topic(&brokers, "unknown-yet", 2);
    produce(&brokers, &topic, &numbers(1, 0, 50));
    let plan = pipeline(&brokers, &topic, "");
    let bell = Bell::default();
    let mut reader = begin(&plan, first("rows"), &bell);
    let until = BTreeMap::from([(1, 20)]);
    assert!(matches!(reader.poll(1 << 20, Some(&until)), Polled::Pending));
    assert_eq!(reader.marks()[&1].next, 0, "what has not arrived is not taken for read");
    let some = read_until(&mut *reader, &bell, Some(&until), |_, reader| reader.marks()[&1].next >= 20).unwrap();
    assert_eq!(ids(&some.rows), (0..20).collect::<Vec<_>>());
}

#[test]
fn bad_records_are_error_rows() {
    let Some(brokers) = brokers() else { return };
    let topic = topic(&brokers, "bad", 1);
    let mut new = numbers(0, 0, 6);
    new[1].value = None;
    new[2].value = Some(b"{\"id\":".to_vec());
    new[3].value = Some(b"\0\0".to_vec());
    new[4].key = Some(vec![0xff]);
    produce(&brokers, &topic, &new);
    let plan = pipeline(&brokers, &topic, "    metadata: { k: key }\n");
    let (read, marks) = read(&plan, first("rows"), 6).unwrap();
    assert_eq!(ids(&read.rows), [0, 5]);
    assert_eq!(read.rows[0].position(1).offset, 5);
    let errors: Vec<_> = read.errors.iter().map(|error| (error.position.offset, error.error.code)).collect();
    assert_eq!(errors, [(1, "tombstone"), (2, "decode"), (3, "decode"), (4, "decode")]);
    assert_eq!(read.errors[1].payload, b"{\"id\":");
    assert_eq!((marks[&0].next, read.records), (6, 6));
}

#[test]
fn it_starts_where_it_is_told() {
    let Some(brokers) = brokers() else { return };
    let topic = topic(&brokers, "start", 2);
    let group = unique("group");
    for partition in 0..2 {
        let mut new = numbers(partition, 0, 100);
        for (at, record) in new.iter_mut().enumerate() {
            record.timestamp_ms = Some(1_767_225_600_000 + at as i64 * 1_000);
        }
        produce(&brokers, &topic, &new);
    }
    let check = |keys: &str, expected: [u64; 2]| {
        let plan = pipeline(&brokers, &topic, keys);
        let bell = Bell::default();
        let mut reader = begin(&plan, first("rows"), &bell);
        let known = |_: &SourceRows, reader: &dyn Reader| reader.marks().len() == 2;
        let none = BTreeMap::new();
        read_until(&mut *reader, &bell, Some(&none), known).unwrap();
        let marks = reader.marks();
        assert_eq!([marks[&0].next, marks[&1].next], expected, "{keys}");
        // The first record that comes is that one.
        let left = 200 - expected[0] - expected[1];
        let all = read_until(&mut *reader, &bell, None, records(left)).unwrap();
        assert_eq!(all.records, left, "{keys}");
    };
    check("", [0, 0]);
    check("    start: earliest\n", [0, 0]);
    check("    start: latest\n", [100, 100]);
    check("    start: \"2026-01-01T00:00:50Z\"\n", [50, 50]);
    check("    start: \"2026-01-01T00:00:49.5Z\"\n", [50, 50]);
    check("    start: \"2025-01-01T00:00:00Z\"\n", [0, 0]);
    check("    start: \"2030-01-01T00:00:00Z\"\n", [100, 100]);
    check("    start: { \"1\": 30 }\n", [0, 30]);
    check(&format!("    group: {group}\n    start: committed\n"), [0, 0]);

    let plan = pipeline(&brokers, &topic, &format!("    group: {group}\n"));
    let bell = Bell::default();
    let mut reader = begin(&plan, first("rows"), &bell);
    read_until(&mut *reader, &bell, None, records(200)).unwrap();
    let mark = |next| Mark { next, detail: detail(&topic) };
    reader.committed(&[(0, mark(40)), (1, mark(60))].into());
    drop(reader);
    assert_eq!(group_offsets(&brokers, &group, &topic, 2), [Some(40), Some(60)], "stored for those who watch");
    check(&format!("    group: {group}\n    start: committed\n"), [40, 60]);
}

#[test]
fn gaps_are_no_records() {
    let Some(brokers) = brokers() else { return };
    let topic = topic(&brokers, "gaps", 1);
    produce(&brokers, &topic, &numbers(0, 0, 5));
    transact(&brokers, &topic, &numbers(0, 5, 5), false);
    transact(&brokers, &topic, &numbers(0, 10, 5), true);
    // 5 records, 5 aborted and their mark, 5 committed and theirs: the partition ends at 17.
    let plan = pipeline(&brokers, &topic, "");
    let bell = Bell::default();
    let mut reader = begin(&plan, first("rows"), &bell);
    let at_end = |_: &SourceRows, reader: &dyn Reader| reader.marks().get(&0).is_some_and(|mark| mark.next == 17);
    let all = read_until(&mut *reader, &bell, None, at_end).unwrap();
    assert_eq!(ids(&all.rows), [0, 1, 2, 3, 4, 10, 11, 12, 13, 14]);
    let offsets: Vec<u64> =
        all.rows.iter().flat_map(|rows| (0..rows.num_rows()).map(|row| rows.position(row).offset)).collect();
    assert_eq!(offsets, [0, 1, 2, 3, 4, 11, 12, 13, 14, 15]);
    assert_eq!(reader.lag(), BTreeMap::from([(0, 0)]), "a transaction's mark is not behind us");

    // A limit within a gap, and one at the end, are reached though no record stands there.
    for limit in [5, 8, 11, 16, 17] {
        let mut reader = begin(&plan, first("rows"), &bell);
        let until = BTreeMap::from([(0, limit)]);
        let reached =
            |_: &SourceRows, reader: &dyn Reader| reader.marks().get(&0).is_some_and(|mark| mark.next == limit);
        let some = read_until(&mut *reader, &bell, Some(&until), reached).unwrap();
        assert_eq!(some.records as usize, offsets.iter().filter(|offset| **offset < limit).count(), "{limit}");
    }
}

#[test]
fn it_ends_where_the_topic_stood() {
    let Some(brokers) = brokers() else { return };
    let topic = topic(&brokers, "finite", 3);
    produce(&brokers, &topic, &numbers(0, 0, 700));
    transact(&brokers, &topic, &numbers(1, 0, 20), true);
    let plan = pipeline(&brokers, &topic, "");
    let bell = Bell::default();
    let mut reader = begin(&plan, Begin { finite: true, ..first("rows") }, &bell);
    let all = read_until(&mut *reader, &bell, None, |_, _| false).unwrap();
    assert_eq!(all.records, 720);
    assert!(matches!(reader.poll(1, None), Polled::Done));
}

#[test]
fn offsets_that_are_gone_stop_it() {
    let Some(brokers) = brokers() else { return };
    let topic = topic(&brokers, "gone", 1);
    produce(&brokers, &topic, &numbers(0, 0, 100));
    let plan = pipeline(&brokers, &topic, "");
    let resume = |next| Begin { resume: [(0, Mark { next, detail: detail(&topic) })].into(), ..first("rows") };
    let reason = read(&plan, resume(101), 1).map(|_| ()).unwrap_err();
    assert!(reason.contains("offset 101 of") && reason.contains("ends at 100"), "{reason}");
    delete_before(&brokers, &topic, 60);
    let reason = read(&plan, resume(59), 1).map(|_| ()).unwrap_err();
    assert!(reason.contains("offset 59 of") && reason.contains("begins at 60 now"), "{reason}");
    assert_eq!(read(&plan, resume(60), 40).unwrap().0.records, 40);
    assert_eq!(read(&plan, first("rows"), 40).unwrap().0.records, 40);
}

#[test]
fn a_mark_knows_its_topic() {
    let topics = [Arc::from("a"), Arc::from("b")];
    let mark = |topic: &str, next| Mark { next, detail: detail(topic) };
    // `b` was the first topic of the list once, and `c` is no longer read.
    let resume: Marks =
        [(number(0, 3), mark("b", 5)), (number(1, 0), mark("c", 9)), (number(2, 1), mark("a", 7))].into();
    assert_eq!(resumed(&topics, &resume), BTreeMap::from([(number(1, 3), 5), (number(0, 1), 7)]));
}

#[test]
fn workers_share_all_partitions() {
    for workers in 1..5 {
        for topic in 0..4 {
            for partition in 0..20 {
                let owners = (0..workers).filter(|worker| is_ours(number(topic, partition), *worker, workers));
                assert_eq!(owners.count(), 1);
            }
        }
    }
    assert_eq!(number(1, 0), 1 << 20);
}

#[test]
fn new_partitions_are_found_and_read_from_their_beginning() {
    let Some(brokers) = brokers() else { return };
    let topic = topic(&brokers, "grows", 1);
    produce(&brokers, &topic, &numbers(0, 0, 10));
    let plan = pipeline(&brokers, &topic, "    start: latest\n");
    let bell = Bell::default();
    let mut reader = begin(&plan, first("rows"), &bell);
    read_until(&mut *reader, &bell, None, |_, reader| reader.marks().len() == 1).unwrap();
    add_partitions(&brokers, &topic, 3);
    std::thread::sleep(Duration::from_millis(300));
    produce(&brokers, &topic, &numbers(2, 500, 5));
    let all = read_until(&mut *reader, &bell, None, records(5)).unwrap();
    assert_eq!(ids(&all.rows), [500, 501, 502, 503, 504]);
    assert_eq!(reader.marks().len(), 3);
}

#[test]
fn several_topics_are_one_source() {
    let Some(brokers) = brokers() else { return };
    let (a, b) = (topic(&brokers, "several-a", 1), topic(&brokers, "several-b", 2));
    produce(&brokers, &a, &numbers(0, 0, 3));
    produce(&brokers, &b, &numbers(1, 10, 3));
    let plan = pipeline(&brokers, &format!("[{a}, {b}]"), "    metadata: { t: topic }\n");
    let (read, marks) = read(&plan, first("rows"), 6).unwrap();
    let mut all = ids(&read.rows);
    all.sort_unstable();
    assert_eq!(all, [0, 1, 2, 10, 11, 12]);
    assert_eq!(marks.keys().copied().collect::<Vec<_>>(), [0, 1 << 20, 1 << 20 | 1]);
    assert_eq!(marks[&(1 << 20 | 1)], Mark { next: 3, detail: detail(&b) });
    for rows in &read.rows {
        let expected = if rows.position(0).origin < 1 << 20 { &a } else { &b };
        assert_eq!(rows.batch["t"].as_string::<i32>().value(0), expected);
    }
}

#[test]
fn lag_is_what_is_left() {
    let Some(brokers) = brokers() else { return };
    let topic = topic(&brokers, "lag", 1);
    produce(&brokers, &topic, &numbers(0, 0, 1_000));
    let plan = pipeline(&brokers, &topic, "");
    let bell = Bell::default();
    let mut reader = begin(&plan, first("rows"), &bell);
    let until = BTreeMap::from([(0, 400)]);
    read_until(&mut *reader, &bell, Some(&until), |all, _| all.records >= 400).unwrap();
    assert_eq!(reader.lag(), BTreeMap::from([(0, 600)]));
}

#[test]
fn a_topic_that_is_not_there_stops_it() {
    let Some(brokers) = brokers() else { return };
    let topic = topic(&brokers, "misspelt-topic", 1);
    let wrong = topic.replace("misspelt", "misspelled");
    let plan = pipeline(&brokers, &wrong, "");
    let reason = read(&plan, first("rows"), 1).map(|_| ()).unwrap_err();
    assert_eq!(reason, format!("there is no topic `{wrong}` at {brokers}; did you mean `{topic}`?"));
    let plan = pipeline(&brokers, &topic, "    start: { \"7\": 0 }\n");
    let reason = read(&plan, first("rows"), 1).map(|_| ()).unwrap_err();
    assert_eq!(reason, format!("`start` names partition 7, which the topic `{topic}` does not have"));
}

#[test]
fn brokers_that_come_late_are_waited_for() {
    let Some(brokers) = brokers() else { return };
    let topic = topic(&brokers, "late", 1);
    produce(&brokers, &topic, &numbers(0, 0, 10));
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let plan = pipeline(&address.to_string(), &topic, "");
    let bell = Bell::default();
    let mut reader = begin(&plan, first("rows"), &bell);
    let start = Instant::now();
    while start.elapsed() < Duration::from_millis(1_500) {
        assert!(matches!(reader.poll(1 << 20, None), Polled::Pending), "no failure while nobody is there");
        bell.wait(Duration::from_millis(100));
    }
    // From now on the address leads to the broker.
    let target = brokers.split(',').next().unwrap().to_owned();
    let listener = TcpListener::bind(address).unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            let broker = TcpStream::connect(&target).unwrap();
            for (mut from, mut to) in [(stream.try_clone().unwrap(), broker.try_clone().unwrap()), (broker, stream)] {
                std::thread::spawn(move || {
                    let mut buffer = [0; 4096];
                    while let Ok(count @ 1..) = from.read(&mut buffer) {
                        if to.write_all(&buffer[..count]).is_err() {
                            break;
                        }
                    }
                });
            }
        }
    });
    assert_eq!(read_until(&mut *reader, &bell, None, records(10)).unwrap().records, 10);
}

#[test]
fn a_reader_that_goes_is_quick_about_it() {
    let plan = pipeline("127.0.0.1:1", "nobody", "");
    let reader = begin(&plan, first("rows"), &Bell::default());
    let start = Instant::now();
    drop(reader);
    assert!(start.elapsed() < Duration::from_secs(4), "{:?}", start.elapsed());
}

/// The secured broker that `KAFKA_SECURE_BROKERS` and its like name.
#[test]
#[allow(clippy::print_stderr)]
fn passwords_over_tls() {
    let read_env = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
    let (Some(brokers), Some(ca), Some(user), Some(password)) = (
        read_env("KAFKA_SECURE_BROKERS"),
        read_env("KAFKA_SECURE_CA"),
        read_env("KAFKA_SECURE_USER"),
        read_env("KAFKA_SECURE_PASSWORD"),
    ) else {
        eprintln!("skipped: KAFKA_SECURE_BROKERS is not set");
        return;
    };
    let with = |mechanism: &str, password: &str, ca: &str| {
        let security = format!(
            "security: {{ protocol: SASL_SSL, sasl: {{ mechanism: {mechanism}, username: {user}, password: \"{password}\" }}, tls: {{ {ca} }} }}"
        );
        let yaml = text(&brokers, "no-such-topic", "");
        plan(&yaml.replace("type: kafka, brokers", &format!("type: kafka, {security}, brokers"))).unwrap()
    };
    let trusted = format!("ca: \"{ca}\"");
    for mechanism in ["PLAIN", "SCRAM-SHA-512"] {
        // Let in, we are told that there is no such topic.
        let reason = read(&with(mechanism, &password, &trusted), first("rows"), 1).map(|_| ()).unwrap_err();
        assert!(reason.starts_with("there is no topic `no-such-topic`"), "{mechanism}: {reason}");
        let reason = read(&with(mechanism, "wrong", &trusted), first("rows"), 1).map(|_| ()).unwrap_err();
        assert!(
            reason.contains(&format!("don't let `{user}` in")) && !reason.contains("wrong"),
            "{mechanism}: {reason}"
        );
    }
    let reason = read(&with("PLAIN", &password, "verify_hostname: true"), first("rows"), 1).map(|_| ()).unwrap_err();
    assert!(reason.starts_with("no TLS connection with the brokers"), "{reason}");
}

#[test]
fn bad_keys_are_told() {
    let check = |topic: &str, keys: &str, expected: &[&str]| {
        assert_eq!(plan(&text("a:1", topic, keys)).map(|_| ()).unwrap_err(), expected, "{topic} {keys}");
    };
    check("\"a,b\"", "", &["E0457 the name of a topic has letters, digits, `.`, `_` and `-` only"]);
    check("[a, b, a]", "", &["E0457 the topic `a` stands in this list twice"]);
    check("[]", "", &["E0457 there is no topic in this list"]);
    check("a", "    start: early\n", &["E0458 `early` is not a place to start at"]);
    check("a", "    start: committed\n", &["E0458 `committed` is where a group stands, and there is none"]);
    check("[a, b]", "    start: { \"0\": 1 }\n", &["E0458 offsets are of one topic, and there are several"]);
    check("a", "    start: { one: 1 }\n", &["E0458 `one` is not the number of a partition"]);
    check("a", "    format: csv\n", &["E0465 a record of a topic has no header before it"]);
    check(
        "a",
        "    metadata: { x: \"header['a']\" }\n",
        &["E0318 a `kafka` source knows no `header['a']` of its records"],
    );
    let unknown = text("a:1", "a", "").replace("connection: bank", "connection: banc");
    assert_eq!(plan(&unknown).map(|_| ()).unwrap_err(), ["E0313 there is no connection named `banc`"]);
}

/// Not a test of right and wrong: `cargo test --release -p engine-connectors -- --ignored --nocapture cpu`.
#[test]
#[ignore = "a measurement"]
#[allow(clippy::print_stderr)]
fn cpu_against_a_bare_client() {
    let Some(brokers) = brokers() else { return };
    let count: u64 = std::env::var("RECORDS").ok().and_then(|count| count.parse().ok()).unwrap_or(2_000_000);
    let topic = topic(&brokers, "measure", 4);
    let value = |n: u64| {
        format!(
            "{{\"id\":{n},\"card\":\"user-{:07}\",\"ts\":{},\"amount\":{}.{:02},\"text\":\"the quick brown fox jumps over the lazy dog and keeps \
             running {:06}\",\"country\":\"US\",\"device\":\"mobile\",\"score\":0.{:05}}}",
            n % 100_000, 1_700_000_000_000 + n, n % 1_000, n % 100, n % 999_983, n % 99_991
        )
        .into_bytes()
    };
    for from in (0..count).step_by(100_000) {
        let to = (from + 100_000).min(count);
        let new: Vec<New> =
            (from..to).map(|n| New { partition: (n % 4) as i32, value: Some(value(n)), ..New::default() }).collect();
        produce(&brokers, &topic, &new);
    }
    let schema = "{ id: int64, card: string, ts: int64, amount: float64, text: string, country: string, device: string, score: float64 }";
    let yaml = text(&brokers, &topic, "").replace("{ id: int64, card: string, note: string | null }", schema);
    let plan = plan(&yaml).unwrap();
    for round in 0..3 {
        let used = cpu_seconds();
        bare(&brokers, &topic, count);
        let bare_s = cpu_seconds() - used;
        for (what, columns) in
            [("all columns", &[][..]), ("three columns", &["id", "card", "amount"][..]), ("one column", &["id"][..])]
        {
            let (used, start) = (cpu_seconds(), Instant::now());
            let bell = Bell::default();
            let mut reader = begin(&plan, Begin { columns, ..first("rows") }, &bell);
            let mut seen = 0;
            while seen < count {
                match reader.poll(256 << 10, None) {
                    Polled::Some(some) => seen += some.records,
                    Polled::Pending => drop(bell.wait(PATIENCE)),
                    other => panic!("{other:?}"),
                }
            }
            let (cpu_s, elapsed_s) = (cpu_seconds() - used, start.elapsed().as_secs_f64());
            drop(reader);
            let million = count as f64 / 1e6;
            eprintln!(
                "round {round}, {what}: {:.3} CPU s a million, bare client {:.3}, ratio {:.2}; {:.0} records/s",
                cpu_s / million,
                bare_s / million,
                cpu_s / bare_s,
                count as f64 / elapsed_s
            );
        }
    }
}

/// As `cons.c` does it: batches from one queue, looked at and given back.
fn bare(brokers: &str, topic: &str, count: u64) {
    let mut config = rdkafka::config::ClientConfig::new();
    for (name, value) in [
        ("bootstrap.servers", brokers),
        ("group.id", "bare"),
        ("enable.auto.commit", "false"),
        ("fetch.max.bytes", "52428800"),
        ("max.partition.fetch.bytes", "4194304"),
        ("queued.max.messages.kbytes", "65536"),
        ("check.crcs", "false"),
        ("fetch.wait.max.ms", "10"),
    ] {
        config.set(name, value);
    }
    let consumer: BaseConsumer = config.create().unwrap();
    let mut list = TopicPartitionList::new();
    for partition in 0..4 {
        list.add_partition_offset(topic, partition, Offset::Offset(0)).unwrap();
    }
    consumer.assign(&list).unwrap();
    native::drain_for_measurement(&consumer, count);
}
