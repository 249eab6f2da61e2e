//! The sink against a real broker.

use super::super::testing::{Stored, brokers, consume, topic, unique};
use super::*;
use crate::testing::{Bell, open, plan, rows, sink_schema, write_all};
use arrow::array::{ArrayRef, Int64Array, RecordBatch, StringArray};
use engine_plan::Plan;
use std::collections::{BTreeMap, BTreeSet};

mod exactly_once;

fn text(brokers: &str, keys: &str) -> String {
    format!(
        "connections:\n  bank: {{ type: kafka, brokers: \"{brokers}\" }}\n\
         sources:\n  rows:\n    type: stdin\n    schema: {{ id: int64, card: string, note: string | null, tags: list<string> | null }}\n\
         sinks:\n  out:\n    type: kafka\n    input: rows\n    columns: [id, card, note]\n    connection: bank\n{keys}"
    )
}

fn pipeline(brokers: &str, keys: &str) -> Plan {
    plan(&text(brokers, keys)).unwrap()
}

fn batch(plan: &Plan, ids: std::ops::Range<i64>, note: impl Fn(i64) -> Option<String>) -> Rows {
    let cards = StringArray::from_iter_values(ids.clone().map(|id| format!("c{}", id % 13)));
    let notes: StringArray = ids.clone().map(note).collect();
    let first = ids.start as u64;
    let columns: Vec<ArrayRef> = vec![Arc::new(Int64Array::from_iter_values(ids)), Arc::new(cards), Arc::new(notes)];
    rows(RecordBatch::try_new(sink_schema(plan, "out"), columns).unwrap(), first)
}

fn send(plan: &Plan, batches: Vec<Rows>) -> Result<Vec<ErrorRow>, String> {
    let sink = open(plan, "out");
    let bell = Bell::default();
    let mut writer = sink.writer(0, bell.waker());
    let sent = write_all(&mut *writer, &bell, batches);
    drop(writer);
    sink.close().unwrap();
    sent
}

#[test]
fn rows_become_records_with_key_and_headers() {
    let Some(brokers) = brokers() else { return };
    let topic = topic(&brokers, "out", 3);
    let keys = format!("    topic: {topic}\n    key: card\n    headers: {{ kind: \"'sale'\", note: note }}\n");
    let plan = pipeline(&brokers, &keys);
    let note = |id: i64| (id % 2 == 0).then(|| format!("n{id}"));
    let batches = (0..50).map(|at| batch(&plan, at * 20..at * 20 + 20, note)).collect();
    assert_eq!(send(&plan, batches).unwrap().len(), 0);
    let stored = consume(&brokers, &topic, 1_000);
    let mut last: BTreeMap<String, (i32, i64)> = BTreeMap::new();
    let mut seen = BTreeSet::new();
    for Stored { partition, key, value, headers } in stored {
        let row: serde_json::Value = serde_json::from_str(&value).unwrap();
        let id = row["id"].as_i64().unwrap();
        assert_eq!(key.as_deref(), row["card"].as_str());
        let mut expected = vec![("kind".to_owned(), "sale".to_owned())];
        expected.extend(note(id).map(|note| ("note".to_owned(), note)));
        assert_eq!(headers, expected);
        let (place, before) = *last.entry(key.unwrap()).or_insert((partition, -1));
        assert!(place == partition && before < id, "one key, one partition, in order");
        last.get_mut(row["card"].as_str().unwrap()).unwrap().1 = id;
        seen.insert(id);
    }
    assert_eq!(seen, (0..1_000).collect());
    assert!(last.values().map(|(partition, _)| partition).collect::<BTreeSet<_>>().len() > 1);
}

/// `columns` is about a record's value; key and headers may be made of what is not in it.
#[test]
fn a_key_sees_the_columns_that_are_left_out() {
    let Some(brokers) = brokers() else { return };
    let topic = topic(&brokers, "beside", 1);
    let keys = format!("    topic: {topic}\n    key: card\n    headers: {{ note: note }}\n");
    let plan =
        plan(&text(&brokers, &keys).replace("columns: [id, card, note]", "columns: { number: id + 1 }")).unwrap();
    let schema = sink_schema(&plan, "out");
    assert_eq!(
        schema.fields().iter().map(|field| field.name().as_str()).collect::<Vec<_>>(),
        ["number", "card", "note"]
    );
    let columns: Vec<ArrayRef> = vec![
        Arc::new(Int64Array::from(vec![2])),
        Arc::new(StringArray::from(vec!["a"])),
        Arc::new(StringArray::from(vec!["n"])),
    ];
    let sent = send(&plan, vec![rows(RecordBatch::try_new(schema, columns).unwrap(), 0)]);
    assert_eq!(sent.unwrap().len(), 0);
    let Some(Stored { key, value, headers, .. }) = consume(&brokers, &topic, 1).pop() else { panic!("no record") };
    assert_eq!((key.as_deref(), value.as_str()), (Some("a"), r#"{"number":2}"#));
    assert_eq!(headers, [("note".to_owned(), "n".to_owned())]);
}

#[test]
fn the_topic_may_be_chosen_by_row() {
    let Some(brokers) = brokers() else { return };
    let prefix = unique("by-row");
    let topics: Vec<String> = (0..2).map(|at| topic(&brokers, &format!("{prefix}-{at}"), 1)).collect();
    let keys = format!(
        "    topic:\n      expression: |\n        CASE id % 3 WHEN 0 THEN '{}' WHEN 1 THEN '{}' ELSE 'not a topic' END\n",
        topics[0], topics[1]
    );
    let plan = pipeline(&brokers, &keys);
    let failed = send(&plan, vec![batch(&plan, 0..30, |_| None)]).unwrap();
    assert_eq!(failed.len(), 10);
    assert!(
        failed.iter().all(|row| row.position.offset % 3 == 2 && row.error.code == "rejected" && &*row.step == "out"),
        "{failed:?}"
    );
    assert_eq!(
        String::from_utf8_lossy(&failed[0].payload),
        format!("{{\"id\":{},\"card\":\"c2\",\"note\":null}}", failed[0].position.offset)
    );
    for (at, topic) in topics.iter().enumerate() {
        let values: Vec<String> = consume(&brokers, topic, 10).into_iter().map(|stored| stored.value).collect();
        assert!(values[1].starts_with(&format!("{{\"id\":{},", 3 + at)), "{values:?}");
    }
}

#[test]
fn a_record_that_is_too_large_is_an_error_row() {
    let Some(brokers) = brokers() else { return };
    let topic = topic(&brokers, "large", 1);
    let plan = pipeline(&brokers, &format!("    topic: {topic}\n"));
    let note = |id: i64| Some(if id == 5 { "x".repeat(3_000_000) } else { "small".to_owned() });
    let failed = send(&plan, vec![batch(&plan, 0..10, note)]).unwrap();
    let [failed] = failed.as_slice() else { panic!("{} failed", failed.len()) };
    assert_eq!((failed.error.code, failed.position.offset), ("too_large", 5));
    assert_eq!(consume(&brokers, &topic, 9).len(), 9);

    let plan = pipeline(&brokers, &format!("    topic: {topic}\n    on_error: stop\n"));
    let reason = send(&plan, vec![batch(&plan, 0..10, note)]).unwrap_err();
    assert!(reason.starts_with("a row could not be delivered"), "{reason}");
}

#[test]
fn a_topic_that_is_not_there_stops_it() {
    let Some(brokers) = brokers() else { return };
    let topic = unique("nowhere");
    let plan = pipeline(&brokers, &format!("    topic: {topic}\n"));
    let reason = send(&plan, vec![batch(&plan, 0..10, |_| None)]).unwrap_err();
    assert_eq!(reason, format!("there is no topic `{topic}` at {brokers}"));
}

#[test]
fn many_rows_of_many_workers() {
    let Some(brokers) = brokers() else { return };
    let topic = topic(&brokers, "many", 4);
    let plan = pipeline(&brokers, &format!("    topic: {topic}\n    key: card\n"));
    let sink = open(&plan, "out");
    std::thread::scope(|scope| {
        for worker in 0..3 {
            let (sink, plan) = (&sink, &plan);
            scope.spawn(move || {
                let bell = Bell::default();
                let mut writer = sink.writer(worker, bell.waker());
                let from = worker as i64 * 100_000;
                // 80 MB in all: more than may wait at one time.
                let note = |_| Some("y".repeat(250));
                let batches = (0..100).map(|at| batch(plan, from + at * 1_000..from + at * 1_000 + 1_000, note));
                assert_eq!(write_all(&mut *writer, &bell, batches.collect()).unwrap().len(), 0);
            });
        }
    });
    let stats = sink.stats();
    assert_eq!((stats.rows, stats.failed, stats.queued_rows, stats.queued_bytes), (300_000, 0, 0, 0));
    sink.close().unwrap();
    let mut ids: Vec<i64> = consume(&brokers, &topic, 300_000)
        .into_iter()
        .map(|stored| serde_json::from_str::<serde_json::Value>(&stored.value).unwrap()["id"].as_i64().unwrap())
        .collect();
    ids.sort_unstable();
    assert_eq!(ids, (0..300_000).collect::<Vec<_>>(), "each of them once");
}

#[test]
fn brokers_that_are_gone_slow_the_writer() {
    let plan = pipeline("127.0.0.1:1", "    topic: nobody\n");
    let sink = open(&plan, "out");
    let mut writer = sink.writer(0, Bell::default().waker());
    let mut tickets = 0;
    while writer.write(batch(&plan, 0..1_000, |_| Some("z".repeat(1_000))), tickets + 1).is_ok() {
        tickets += 1;
        assert!(tickets < 1_000, "the queue has a bound");
    }
    assert!((25..40).contains(&tickets), "{tickets} MB wait");
    let answered = writer.acknowledged();
    assert_eq!((answered.up_to, answered.failed.len(), answered.fatal), (0, 0, None));
    assert_eq!(sink.stats().queued_rows, tickets * 1_000);
    drop(writer);
    let start = Instant::now();
    sink.close().unwrap();
    assert!(start.elapsed() < Duration::from_secs(5), "nobody waits for brokers that are gone");
}

#[test]
fn what_goes_with_a_record_comes_back() {
    for (line, ticket, row) in [(0, 1, 0), (65_535, TICKET_MASK, (1 << ROW_BITS) - 1), (3, 1 << 23, 5)] {
        assert_eq!(unpack(pack(line as u64, ticket, row)), (line, ticket, row));
    }
}

#[test]
fn bad_keys_are_told() {
    let check = |keys: &str, expected: &[&str]| {
        assert_eq!(plan(&text("a:1", keys)).map(|_| ()).unwrap_err(), expected, "{keys}");
    };
    check("    topic: a b\n", &["E0457 the name of a topic has letters, digits, `.`, `_` and `-` only"]);
    check("    topic: { expression: note }\n", &["E0461 a topic must not be null, and this one may be"]);
    check("    topic: a\n    timeout: 0s\n", &["E0142 a `timeout` of less than 100ms leaves no time to deliver"]);
    check("    topic: a\n    format: csv\n", &["E0465 a record of a topic has no header before it"]);
    check(
        "    topic: a\n    delivery: exactly_once\n    timeout: 5s\n",
        &["E0310 `out` can't deliver exactly once: `timeout` gives up rows that the brokers may have"],
    );
    check(
        "    topic: a\n    commits_topic: a\n    delivery: exactly_once\n",
        &["E0151 rows and marks can't both be in `a`"],
    );
    let all = text("a:1", "    topic: a\n    key: tags\n").replace("    columns: [id, card, note]\n", "");
    assert_eq!(plan(&all).map(|_| ()).unwrap_err(), ["E0463 a key can't be of type `list<string>`"]);
}

/// Not a test of right and wrong: `cargo test --release -p engine-connectors -- --ignored --nocapture cpu`.
#[test]
#[ignore = "a measurement"]
#[allow(clippy::print_stderr)]
fn cpu_of_writing() {
    let Some(brokers) = brokers() else { return };
    let plan = pipeline(&brokers, &format!("    topic: {}\n    key: card\n", topic(&brokers, "measure-out", 4)));
    let note =
        "the quick brown fox jumps over the lazy dog and keeps running and running on and on, for all that we know";
    let batches: Vec<Rows> =
        (0..1_000).map(|at| batch(&plan, at * 1_000..at * 1_000 + 1_000, |_| Some(note.to_owned()))).collect();
    let start = Instant::now();
    let used = super::super::testing::cpu_seconds();
    assert_eq!(send(&plan, batches).unwrap().len(), 0);
    eprintln!(
        "{:.3} CPU s a million; {:.0} records/s",
        super::super::testing::cpu_seconds() - used,
        1e6 / start.elapsed().as_secs_f64()
    );
}
