//! The sink that delivers exactly once, against a real broker.

use super::*;
use crate::exact::testing::{Crashing, Outcome, after, crash, deliver, fresh, write_after};
use crate::kafka::testing::{alter_topic, consume_committed, delete_topic, end_of, fence, leave_open, topic_with};
use crate::testing::open_with;
use crate::{Exact, Opened};
use std::cell::RefCell;

fn exact_pipeline(brokers: &str, topic: &str, keys: &str) -> Plan {
    pipeline(brokers, &format!("    topic: {topic}\n    key: card\n    delivery: exactly_once\n{keys}"))
}

fn open_exact(plan: &Plan, exact: Exact) -> Opened {
    open_with(plan, "out", |start| start.exact = Some(exact))
}

/// The ids of a batch; each third batch has none.
fn ids(number: u64) -> std::ops::Range<i64> {
    let first = number as i64 * 100;
    first..first + if number.is_multiple_of(3) { 0 } else { 1 + number as i64 * 7 % 11 }
}

fn some(plan: &Plan, number: u64) -> Rows {
    batch(plan, ids(number), |_| None)
}

fn stored(brokers: &str, topic: &str) -> Vec<i64> {
    let records = consume_committed(brokers, topic);
    let id = |stored: &Stored| serde_json::from_str::<serde_json::Value>(&stored.value).unwrap()["id"].as_i64();
    let mut ids: Vec<i64> = records.iter().map(|stored| id(stored).unwrap()).collect();
    ids.sort_unstable();
    ids
}

fn all(batches: impl Iterator<Item = u64>) -> Vec<i64> {
    batches.flat_map(ids).collect()
}

fn offsets(outcome: &Outcome) -> Vec<u64> {
    outcome.failed.iter().map(|(row, _)| *row).collect()
}

#[test]
fn batches_act_once_and_marks_are_compared() {
    let Some(brokers) = brokers() else { return };
    let (topic, pipeline) = (topic(&brokers, "exact", 3), &*unique("p"));
    let plan = exact_pipeline(&brokers, &topic, "");
    let open = |exact| open_exact(&plan, exact);
    let batches = |numbers: std::ops::RangeInclusive<u64>| numbers.map(|n| some(&plan, n)).collect::<Vec<_>>();
    let first = deliver(open(fresh(pipeline, 8)).unwrap(), 0, batches(1..=8)).unwrap();
    assert!(first.note.starts_with(r#"{"topic":"_engine_commits","partition":"#), "{}", first.note);
    assert_eq!(stored(&brokers, &topic), all(1..=8));
    for (delivered, note) in [(0, ""), (3, ""), (8, first.note.as_str()), (7, ""), (8, "")] {
        let exact = after(pipeline, delivered, note, 8);
        let again = deliver(open(exact).unwrap(), delivered, batches(delivered + 1..=8)).unwrap();
        assert_eq!(again.failed, []);
        assert_eq!(stored(&brokers, &topic), all(1..=8), "each once, after {delivered}");
    }
    deliver(open(after(pipeline, 6, "", 10)).unwrap(), 6, batches(7..=10)).unwrap();
    assert_eq!(stored(&brokers, &topic), all(1..=10));

    let refused = |exact: Exact| open(exact).err().unwrap_or_else(|| panic!("it opens"));
    for exact in [fresh(pipeline, 0), fresh(pipeline, 9), after(pipeline, 4, &first.note, 9)] {
        let reason = refused(exact);
        assert!(reason.contains("the topic `_engine_commits` at") && reason.contains("has batch 10"), "{reason}");
        assert!(reason.contains("another state") && reason.contains("--reset-sink out"), "{reason}");
    }
    let reason = refused(after(pipeline, 11, "", 12));
    assert!(reason.contains("has batch 10 of this sink as the last, and this state says that batch 11"), "{reason}");
    let reason = refused(after(&unique("p"), 3, &first.note, 12));
    assert!(reason.contains("knows of no batch") && reason.contains("--reset-sink out"), "{reason}");
    let exact = Exact { reset: true, ..after(pipeline, 7, &first.note, 9) };
    let reset = deliver(open(exact).unwrap(), 7, batches(8..=9)).unwrap();
    let mut twice = all((1..=10).chain(8..=9));
    twice.sort_unstable();
    assert_eq!(stored(&brokers, &topic), twice);
    deliver(open(after(pipeline, 9, &reset.note, 9)).unwrap(), 9, vec![]).unwrap();
    let reset = Exact { reset: true, ..fresh(pipeline, 0) };
    deliver(open(reset).unwrap(), 0, vec![]).unwrap();
    deliver(open(fresh(pipeline, 0)).unwrap(), 0, vec![]).unwrap();
}

/// Rows that the brokers refuse fail, alone and the same ones again; those beside them are stored.
#[test]
fn refused_rows_are_known_again() {
    let Some(brokers) = brokers() else { return };
    let small = topic_with(&brokers, "small", 1, &[("max.message.bytes", "2000")]);
    let pipeline = &*unique("p");
    let keys = format!(
        "    topic:\n      expression: |\n        CASE WHEN id % 10 = 7 THEN 'not a topic' ELSE '{small}' END\n    \
         delivery: exactly_once\n"
    );
    let plan = self::pipeline(&brokers, &keys);
    let note = |id: i64| match id % 10 {
        3 => Some("x".repeat(5_000)),
        5 => Some("y".repeat(2_000_000)),
        _ => None,
    };
    let batches = |numbers: std::ops::Range<i64>| {
        numbers.map(|number| batch(&plan, number * 10..number * 10 + 10, note)).collect::<Vec<_>>()
    };
    let first = deliver(open_exact(&plan, fresh(pipeline, 3)).unwrap(), 0, batches(0..3)).unwrap();
    let expected: Vec<u64> = (0..3).flat_map(|batch| [3, 5, 7].map(|row| batch * 10 + row)).collect();
    assert_eq!(offsets(&first), expected);
    assert!(first.failed[0].1.starts_with("too_large: ") && first.failed[2].1.starts_with("rejected: "));
    let kept: Vec<i64> = (0..30).filter(|id| ![3, 5, 7].contains(&(id % 10))).collect();
    assert_eq!(stored(&brokers, &small), kept);
    for delivered in [0, 1, 2] {
        let sink = open_exact(&plan, after(pipeline, delivered, "", 3)).unwrap();
        let again = deliver(sink, delivered, batches(delivered as i64..3)).unwrap();
        assert_eq!(again.failed, first.failed[delivered as usize * 3..]);
        assert_eq!(stored(&brokers, &small), kept);
    }
    // With `on_error: stop` nothing of such a batch is written.
    let plan = self::pipeline(&brokers, &format!("{keys}    on_error: stop\n"));
    let batches = vec![batch(&plan, 100..103, note), batch(&plan, 103..106, note)];
    let reason = deliver(open_exact(&plan, fresh(&unique("p"), 2)).unwrap(), 0, batches).unwrap_err();
    assert!(reason.starts_with("a row could not be delivered: too_large"), "{reason}");
    assert_eq!(stored(&brokers, &small), [kept, vec![100, 101, 102]].concat());
}

#[test]
fn the_older_writer_is_fenced_and_stops() {
    let Some(brokers) = brokers() else { return };
    let (topic, pipeline) = (topic(&brokers, "fenced", 1), &*unique("p"));
    let plan = exact_pipeline(&brokers, &topic, "");
    let first = open_exact(&plan, fresh(pipeline, 9)).unwrap();
    let bell = Bell::default();
    let mut writer = first.writer(0, bell.waker());
    write_after(&mut *writer, &bell, 0, vec![some(&plan, 1)]).unwrap();
    let second = open_exact(&plan, after(pipeline, 1, "", 9)).unwrap();
    deliver(second, 1, vec![some(&plan, 2)]).unwrap();
    let reason = write_after(&mut *writer, &bell, 1, vec![some(&plan, 2)]).unwrap_err();
    assert!(reason.starts_with("`out`: another engine has taken over: the topic `_engine_commits`"), "{reason}");
    drop(writer);
    first.close().unwrap();
    assert_eq!(stored(&brokers, &topic), all(1..=2));
}

/// A transaction that takes too long is ended by the brokers, which looks like a newer producer: the same batch again.
#[test]
fn a_transaction_that_was_ended_by_the_brokers_is_sent_again() {
    let Some(brokers) = brokers() else { return };
    let (topic, pipeline) = (topic(&brokers, "ended", 1), &*unique("p"));
    let plan = exact_pipeline(&brokers, &topic, "");
    let sink = open_exact(&plan, fresh(pipeline, 9)).unwrap();
    let bell = Bell::default();
    let mut writer = sink.writer(0, bell.waker());
    write_after(&mut *writer, &bell, 0, vec![some(&plan, 1)]).unwrap();
    // Another producer of the same name, which is no engine: it writes no mark.
    fence(&brokers, &format!("engine.{pipeline}.out.0"));
    write_after(&mut *writer, &bell, 1, vec![some(&plan, 2), some(&plan, 3), some(&plan, 4)]).unwrap();
    assert!(sink.stats().retries > 0);
    drop(writer);
    sink.close().unwrap();
    assert_eq!(stored(&brokers, &topic), all(1..=4));
}

/// What is written and not committed nobody sees who reads what is committed.
#[test]
fn rows_without_a_commit_are_not_seen() {
    let Some(brokers) = brokers() else { return };
    let (topic, pipeline) = (topic(&brokers, "killed", 1), &*unique("p"));
    let plan = exact_pipeline(&brokers, &topic, "");
    let id = format!("engine.{pipeline}.out.0");
    deliver(open_exact(&plan, fresh(pipeline, 9)).unwrap(), 0, vec![some(&plan, 1)]).unwrap();
    leave_open(&brokers, &id, &topic, 5);
    assert_eq!(end_of(&brokers, &topic, "read_uncommitted") - end_of(&brokers, &topic, "read_committed"), 5);
    // The next start ends it.
    deliver(open_exact(&plan, after(pipeline, 1, "", 9)).unwrap(), 1, vec![some(&plan, 2)]).unwrap();
    assert_eq!(stored(&brokers, &topic), all(1..=2));
}

#[test]
fn crashes_leave_no_trace() {
    let Some(brokers) = brokers() else { return };
    let (topic, run) = (topic(&brokers, "crashing", 2), unique("p"));
    let plan = exact_pipeline(&brokers, &topic, "");
    let opened = RefCell::new(0);
    let sink = Crashing {
        open: &|exact| {
            *opened.borrow_mut() += 1;
            open_exact(&plan, Exact { pipeline: run.as_str().into(), ..exact })
        },
        batch: &|number| some(&plan, number),
        batch_of: &|row| row / 100,
        life: Duration::from_millis(600),
    };
    let (last, failed) = crash(3, 20, &sink);
    assert_eq!((failed, *opened.borrow()), (Vec::new(), 21));
    assert!(last > 20);
    assert_eq!(stored(&brokers, &topic), all(1..=last));
}

#[test]
fn the_topic_of_marks_may_be_another_one() {
    let Some(brokers) = brokers() else { return };
    let (topic, marks, pipeline) = (topic(&brokers, "rows", 1), unique("marks"), &*unique("p"));
    let plan = exact_pipeline(&brokers, &topic, &format!("    commits_topic: {marks}\n"));
    let first = deliver(open_exact(&plan, fresh(pipeline, 2)).unwrap(), 0, vec![some(&plan, 1)]).unwrap();
    let last = consume_committed(&brokers, &marks).pop().unwrap();
    assert_eq!(last.key.as_deref(), Some(format!("{pipeline}/out/0").as_str()));
    let mark: serde_json::Value = serde_json::from_str(&last.value).unwrap();
    assert_eq!((&mark["sequence"], &mark["failed"]), (&serde_json::json!(1), &serde_json::json!([])));
    // Marks that are deleted are missed.
    delete_topic(&brokers, &marks);
    let reason = open_exact(&plan, after(pipeline, 1, &first.note, 2)).err().unwrap();
    assert!(reason.contains("knows of no batch of this sink"), "{reason}");
    // A topic that would delete them is refused.
    alter_topic(&brokers, &marks, "cleanup.policy", "delete");
    let reason = open_exact(&plan, fresh(pipeline, 2)).err().unwrap();
    assert!(reason.contains("has `cleanup.policy=delete`, which deletes marks"), "{reason}");
}

/// Brokers that can't be reached are waited for, and nobody waits for them in the end.
#[test]
fn brokers_that_are_gone_are_waited_for() {
    let plan = exact_pipeline("127.0.0.1:1", "nobody", "");
    let sink = open_exact(&plan, after("p", 4, "", 6)).unwrap();
    let bell = Bell::default();
    let mut writer = sink.writer(0, bell.waker());
    writer.write(some(&plan, 5), 5).unwrap();
    let answered = writer.acknowledged();
    assert_eq!((answered.up_to, answered.failed.len(), answered.fatal), (4, 0, None));
    drop(writer);
    let begun = Instant::now();
    sink.close().unwrap();
    assert!(begun.elapsed() < Duration::from_secs(8));
}

/// Not a test of right and wrong.
#[test]
#[ignore = "a measurement"]
#[allow(clippy::print_stderr)]
fn time_of_a_transaction() {
    let Some(brokers) = brokers() else { return };
    let (topic, pipeline) = (topic(&brokers, "measured", 1), &*unique("p"));
    let plan = exact_pipeline(&brokers, &topic, "");
    let sink = open_exact(&plan, fresh(pipeline, 10_000)).unwrap();
    let bell = Bell::default();
    let mut writer = sink.writer(0, bell.waker());
    for rows in [10, 1_000] {
        let mut times = Vec::new();
        for turn in 0..600_u64 {
            let number = turn + if rows == 10 { 0 } else { 600 };
            let first = number as i64 * 1_000;
            let begun = Instant::now();
            let rows = batch(&plan, first..first + rows, |_| None);
            write_after(&mut *writer, &bell, number, vec![rows]).unwrap();
            times.push(begun.elapsed());
        }
        times.drain(..100);
        times.sort();
        eprintln!("{rows} rows: p50 {:?}, p99 {:?}, most {:?}", times[250], times[495], times[499]);
    }
}
