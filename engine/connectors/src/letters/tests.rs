//! The queue against a plain model, the sink over crashes, and the source over restarts.

use super::queue::{Done, Filter, Queue, make};
use crate::database::Fault;
use crate::exact::testing::{self as exact, Crashing, fresh};
use crate::testing::{Begin, Bell, begin, open_with, plan, read_until, rows, step, write_all};
use crate::{SourceStart, find_source};
use arrow::array::{ArrayRef, AsArray, RecordBatch, StringArray, TimestampNanosecondArray};
use arrow::datatypes::{Int64Type, TimestampNanosecondType};
use engine_base::SystemClock;
use engine_dataflow::{Mark, Marks, Polled, Reader, Rows, Waker};
use engine_plan::{Plan, error_schema};
use proptest::prelude::*;
use rusqlite::Connection;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

fn path(folder: &tempfile::TempDir) -> PathBuf {
    folder.path().join("letters/q.db")
}

fn sentence(fault: Fault) -> String {
    match fault {
        Fault::Stop(reason) | Fault::Retry { reason, .. } => reason,
    }
}

/// Letters with these payloads, as a sink writes them.
fn write(file: &Path, letters: &[(&str, &str, &str)]) {
    make(file).unwrap();
    let file = Connection::open(file).unwrap();
    for (step, code, payload) in letters {
        let insert =
            "INSERT INTO letters (step, code, reason, payload, position, at) VALUES (?1, ?2, 'why', ?3, 's/0/1', ?4)";
        file.execute(insert, (step, code, payload, "2026-01-31T10:00:00.000000001Z")).unwrap();
    }
}

fn ids(ids: &[i64]) -> Filter {
    Filter { ids: Some(ids.to_vec()), ..Filter::default() }
}

fn of_step(step: &str) -> Filter {
    Filter { step: Some(step.to_owned()), ..Filter::default() }
}

/// What happens to a queue.
#[derive(Clone, Debug)]
enum Act {
    Write(u8, u8),
    Replay(Choice),
    Drop(Choice),
    /// The engine reads so many letters.
    Read(u64),
    /// It commits so many of those that it has read, and so many of these are released.
    Commit(u64),
    Release(u64),
    /// Everything is closed, and the engine goes on where it had committed, or at an older checkpoint.
    Restart,
}

#[derive(Clone, Debug)]
enum Choice {
    All,
    Step(u8),
    Ids(Vec<i64>),
}

impl Choice {
    fn filter(&self) -> Filter {
        match self {
            Choice::All => Filter::default(),
            Choice::Step(step) => of_step(&format!("s{step}")),
            Choice::Ids(some) => ids(some),
        }
    }

    fn has(&self, id: i64, step: u8) -> bool {
        match self {
            Choice::All => true,
            Choice::Step(of) => *of == step,
            Choice::Ids(some) => some.contains(&id),
        }
    }
}

fn act() -> impl Strategy<Value = Act> {
    let choice = || {
        prop_oneof![
            1 => Just(Choice::All),
            2 => (0..3u8).prop_map(Choice::Step),
            4 => proptest::collection::vec(1..30i64, 1..4).prop_map(Choice::Ids),
        ]
    };
    prop_oneof![
        4 => (0..3u8, 0..5u8).prop_map(|(step, count)| Act::Write(step, count)),
        2 => choice().prop_map(Act::Replay),
        1 => choice().prop_map(Act::Drop),
        3 => (0..4u64).prop_map(Act::Read),
        2 => (0..4u64).prop_map(Act::Commit),
        2 => (0..4u64).prop_map(Act::Release),
        1 => Just(Act::Restart),
    ]
}

/// A queue as plain collections.
#[derive(Default)]
struct Model {
    /// By number: the step.
    waiting: BTreeMap<i64, u8>,
    /// All that ever had a turn, in the order of their turns: number and step.
    turns: Vec<(i64, u8)>,
    last: i64,
    read: u64,
    done: u64,
    released: u64,
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    #[test]
    fn a_queue_is_what_plain_collections_say(acts in proptest::collection::vec(act(), 1..40)) {
        let folder = tempfile::tempdir().unwrap();
        let file = path(&folder);
        let mut queue = make(&file).unwrap();
        let mut model = Model::default();
        for act in acts {
            match &act {
                Act::Write(step, count) => {
                    let name = format!("s{step}");
                    let some: Vec<(&str, &str, &str)> = (0..*count).map(|_| (&*name, "c", "{}")).collect();
                    write(&file, &some);
                    for _ in 0..*count {
                        model.last += 1;
                        model.waiting.insert(model.last, *step);
                    }
                }
                Act::Replay(choice) => {
                    let found = queue.replay(&choice.filter()).unwrap();
                    let chosen: Vec<(i64, u8)> =
                        model.waiting.iter().map(|(id, step)| (*id, *step)).filter(|(id, step)| choice.has(*id, *step)).collect();
                    let expected = Done { count: chosen.len() as u64, ..model.beside(choice) };
                    prop_assert_eq!(found, expected);
                    model.waiting.retain(|id, step| !choice.has(*id, *step));
                    model.turns.extend(chosen);
                }
                Act::Drop(choice) => {
                    let found = queue.discard(&choice.filter()).unwrap();
                    let before = model.waiting.len();
                    let beside = model.beside(choice);
                    model.waiting.retain(|id, step| !choice.has(*id, *step));
                    prop_assert_eq!(found, Done { count: (before - model.waiting.len()) as u64, ..beside });
                }
                Act::Read(count) => {
                    let before = (model.read + count).min(model.turns.len() as u64);
                    let found = queue.take(model.read, before, 100, 1 << 20).unwrap();
                    let found: Vec<i64> = found.iter().map(|letter| letter.id).collect();
                    let expected: Vec<i64> =
                        model.turns[model.read as usize..before as usize].iter().map(|(id, _)| *id).collect();
                    prop_assert_eq!(found, expected);
                    model.read = before;
                }
                Act::Commit(count) => {
                    model.done = model.done.max((model.done + count).min(model.read));
                    queue.committed(model.done).unwrap();
                }
                Act::Release(count) => {
                    // Nobody releases what he has not read again himself.
                    let most = model.done.min(model.read);
                    model.released = model.released.max((model.released + count).min(most));
                    prop_assert!(queue.released(model.released).unwrap());
                }
                Act::Restart => {
                    queue = Queue::open(&file).unwrap();
                    // The oldest checkpoint that is kept.
                    model.read = model.released;
                }
            }
            model.check(&queue)?;
        }
    }
}

impl Model {
    /// Of letters that are meant: those that are being replayed, and numbers without a letter.
    fn beside(&self, choice: &Choice) -> Done {
        let replaying: BTreeMap<i64, u8> = self.turns[self.done as usize..].iter().copied().collect();
        let is_there = |id: &i64| self.waiting.contains_key(id) || replaying.contains_key(id);
        let missing = match choice {
            Choice::Ids(some) => some.iter().copied().filter(|id| !is_there(id)).collect(),
            _ => Vec::new(),
        };
        let replaying = replaying.iter().filter(|(id, step)| choice.has(**id, **step)).count() as u64;
        Done { replaying, missing, ..Done::default() }
    }

    fn check(&self, queue: &Queue) -> Result<(), TestCaseError> {
        let standing = queue.standing().unwrap();
        let expected = (self.turns.len() as u64, self.done, self.released);
        prop_assert_eq!((standing.next_turn, standing.done, standing.removed), expected);
        let all = queue.list(&Filter::default(), 1_000).unwrap();
        let shown: Vec<(i64, Option<u64>)> = all.letters.iter().map(|letter| (letter.id, letter.turn)).collect();
        let mut expected: Vec<(i64, Option<u64>)> = self.waiting.keys().map(|id| (*id, None)).collect();
        let replaying = self.turns.iter().enumerate().skip(self.done as usize);
        expected.extend(replaying.map(|(turn, (id, _))| (*id, Some(turn as u64))));
        expected.sort_unstable();
        prop_assert_eq!(&shown, &expected);
        prop_assert_eq!((all.waiting, all.replaying), (self.waiting.len() as u64, self.turns.len() as u64 - self.done));
        let few = queue.list(&of_step("s1"), 2).unwrap();
        let of_s1 = self.waiting.values().filter(|step| **step == 1).count() as u64;
        prop_assert!(
            few.waiting == of_s1 && few.letters.len() <= 2 && few.letters.iter().all(|letter| letter.step == "s1")
        );
        Ok(())
    }
}

#[test]
fn a_letter_of_which_a_part_is_gone_is_not_replayed() {
    let folder = tempfile::tempdir().unwrap();
    let file = path(&folder);
    write(
        &file,
        &[
            ("a", "c", r#"{"x":1,"@left_out":["big"]}"#),
            ("a", "c", r#"{"x":"\"@left_out\":"}"#),
            ("a", "c", r#"no JSON "@left_out":"#),
            ("a", "decode", "{\"x"),
        ],
    );
    let cut = "not JSON: it ends, at byte 7 (of its 70000 bytes, the first 65536 are kept)";
    Connection::open(&file).unwrap().execute("UPDATE letters SET reason = ?1 WHERE id = 4", [cut]).unwrap();
    let mut queue = Queue::open(&file).unwrap();
    let done = queue.replay(&Filter::default()).unwrap();
    assert_eq!(done, Done { count: 2, cut: 2, cut_ids: vec![1, 4], ..Done::default() });
    let done = queue.replay(&ids(&[1, 2, 9])).unwrap();
    assert_eq!(done, Done { replaying: 1, cut: 1, cut_ids: vec![1], missing: vec![9], ..Done::default() });
    let letter = queue.show(2).unwrap().unwrap();
    assert_eq!((letter.turn, &*letter.payload, &*letter.position), (Some(0), r#"{"x":"\"@left_out\":"}"#, "s/0/1"));
    assert_eq!(queue.show(9).unwrap(), None);
    // Those that can't be replayed can be dropped, the others not any more.
    assert_eq!(queue.discard(&Filter::default()).unwrap(), Done { count: 2, replaying: 2, ..Done::default() });
}

#[test]
fn letters_are_found_by_when_they_came() {
    let folder = tempfile::tempdir().unwrap();
    let file = path(&folder);
    write(&file, &[("a", "c", "{}"), ("a", "d", "{}")]);
    let old = "UPDATE letters SET arrived = '2026-01-31T10:00:00.000Z' WHERE id = 1";
    Connection::open(&file).unwrap().execute(old, ()).unwrap();
    let queue = Queue::open(&file).unwrap();
    let found = |since: &str, code: Option<&str>| {
        let filter = Filter { since: Some(since.to_owned()), code: code.map(str::to_owned), ..Filter::default() };
        queue.list(&filter, 10).unwrap().letters.iter().map(|letter| letter.id).collect::<Vec<_>>()
    };
    assert_eq!(found("2026-01-31T10:00:00.000Z", None), [1, 2]);
    assert_eq!(found("2026-01-31T10:00:00.001Z", None), [2]);
    assert_eq!(found("2026-01-31T10:00:00.000Z", Some("c")), [1]);
}

#[test]
fn a_file_that_is_no_queue_is_told_apart() {
    let folder = tempfile::tempdir().unwrap();
    let check = |name: &str, expected: &str| {
        let reason = Queue::open(&folder.path().join(name)).unwrap_err();
        assert!(reason.contains(expected) && reason.contains(name), "{reason}\nand not\n{expected}");
    };
    check("none.db", "there is no file `");
    std::fs::write(folder.path().join("text.db"), "hello, this is text ".repeat(100)).unwrap();
    check("text.db", "is no queue of dead letters: it is no file of SQLite");
    std::fs::write(folder.path().join("empty.db"), "").unwrap();
    check("empty.db", "is no queue of dead letters: it is empty");
    Connection::open(folder.path().join("other.db")).unwrap().execute_batch("CREATE TABLE t (a)").unwrap();
    check("other.db", "is no queue of dead letters: it has other tables");
    let foreign = "PRAGMA application_id = 77; CREATE TABLE t (a)";
    Connection::open(folder.path().join("foreign.db")).unwrap().execute_batch(foreign).unwrap();
    check("foreign.db", "is no queue of dead letters: it is a file of another program");
    let file = folder.path().join("newer.db");
    make(&file).unwrap();
    Connection::open(&file).unwrap().execute_batch("PRAGMA user_version = 2").unwrap();
    check("newer.db", "has format 2 of dead letters, and this engine knows format 1: a newer one wrote it");
    let reason = sentence(make(&folder.path().join("other.db")).unwrap_err());
    assert!(reason.contains("it has other tables"), "{reason}");
}

/// Many letters go in pieces, and their room is given back.
#[test]
fn room_is_given_back() {
    let folder = tempfile::tempdir().unwrap();
    let file = path(&folder);
    make(&file).unwrap();
    let many = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 12000) \
                INSERT INTO letters (step, code, reason, payload, position, at) \
                SELECT 's', 'c', 'r', printf('%.500c', 'x'), 'p', 'a' FROM n";
    Connection::open(&file).unwrap().execute_batch(many).unwrap();
    let mut queue = Queue::open(&file).unwrap();
    let pages = || -> i64 {
        let file = Connection::open(&file).unwrap();
        file.pragma_query_value(None, "page_count", |row| row.get(0)).unwrap()
    };
    let before = pages();
    assert_eq!(queue.replay(&Filter::default()).unwrap().count, 12_000);
    let mut turns = 0;
    while !queue.released(12_000).unwrap() {
        turns += 1;
    }
    assert_eq!((turns, queue.standing().unwrap().done), (2, 12_000));
    assert!(pages() < before / 2, "{} of {before} pages", pages());
}

/// A pipeline with a queue as sink and as source.
fn both(file: &Path, sink: &str, source: &str) -> Plan {
    let file = file.display();
    let text = format!(
        "sources:\n  rows: {{ type: stdin, schema: {{ a: int64 }} }}\n  again: {{ type: dead_letters, path: \"{file}\"{source} }}\n\
         sinks:\n  out: {{ type: dead_letters, input: rows.errors, path: \"{file}\"{sink} }}\n  rest: {{ type: blackhole, input: rows }}\n  \
         more: {{ type: blackhole, input: again }}\n"
    );
    plan(&text).unwrap_or_else(|problems| panic!("{problems:?}\n{text}"))
}

const SCHEMA: &str = ", schema: { a: int64 }";

/// Error rows with these payloads, the first at an offset.
fn errors(payloads: &[String], first: u64) -> Rows {
    let same = |text: &str| Arc::new(StringArray::from(vec![text; payloads.len()])) as ArrayRef;
    let at = vec![1_769_853_600_000_000_001; payloads.len()];
    let columns: Vec<ArrayRef> = vec![
        same("rows"),
        same("decode"),
        same("no JSON"),
        Arc::new(StringArray::from(payloads.to_vec())),
        same("rows/0/7"),
        Arc::new(TimestampNanosecondArray::from(at).with_timezone("UTC")),
    ];
    rows(RecordBatch::try_new(error_schema(), columns).unwrap(), first)
}

fn payloads(numbers: impl IntoIterator<Item = u64>) -> Vec<String> {
    numbers.into_iter().map(|number| format!("{{\"a\":{number}}}")).collect()
}

/// The payloads of all letters in a file, in the order of their numbers.
fn kept(file: &Path) -> Vec<String> {
    let file = Connection::open(file).unwrap();
    let mut all = file.prepare("SELECT payload FROM letters ORDER BY id").unwrap();
    all.query_map((), |row| row.get(0)).unwrap().map(Result::unwrap).collect()
}

fn open_exact(plan: &Plan, exact: crate::Exact) -> crate::Opened {
    open_with(plan, "out", |start| start.exact = Some(exact))
}

#[test]
fn a_sink_keeps_what_it_is_given() {
    let folder = tempfile::tempdir().unwrap();
    let file = path(&folder);
    let plan = both(&file, "", SCHEMA);
    let sink = open_with(&plan, "out", |_| {}).unwrap();
    let bell = Bell::default();
    let mut writer = sink.writer(0, bell.waker());
    let batches = vec![errors(&payloads(0..5), 0), errors(&payloads(5..9), 5)];
    assert_eq!(write_all(&mut *writer, &bell, batches).unwrap().len(), 0);
    drop(writer);
    assert_eq!(sink.close().unwrap().rows, 9);
    assert_eq!(kept(&file), payloads(0..9));
    let letter = Queue::open(&file).unwrap().show(3).unwrap().unwrap();
    assert_eq!((&*letter.step, &*letter.code, &*letter.reason), ("rows", "decode", "no JSON"));
    assert_eq!((&*letter.at, letter.turn), ("2026-01-31T10:00:00.000000001Z", None));
    assert!(letter.arrived.len() == 24 && letter.arrived.ends_with('Z'), "{}", letter.arrived);
}

#[test]
fn a_sink_writes_to_no_other_file() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("other.db");
    Connection::open(&file).unwrap().execute_batch("CREATE TABLE letters (a)").unwrap();
    let reason = open_with(&both(&file, "", SCHEMA), "out", |_| {}).err().unwrap();
    assert!(reason.contains("is no queue of dead letters: it has other tables"), "{reason}");
}

/// However often it crashes, each letter is there once.
#[test]
fn crashes_leave_no_trace() {
    let folder = tempfile::tempdir().unwrap();
    let file = path(&folder);
    let plan = both(&file, ", delivery: exactly_once", SCHEMA);
    let numbers = |batch: u64| {
        let count = if batch.is_multiple_of(5) { 0 } else { 1 + batch * 7 % 11 };
        batch * 100..batch * 100 + count
    };
    let sink = Crashing {
        open: &|exact| open_exact(&plan, crate::Exact { pipeline: "p".into(), ..exact }),
        batch: &|batch| errors(&payloads(numbers(batch)), batch * 100),
        batch_of: &|row| row / 100,
        life: Duration::from_millis(40),
    };
    let (last, failed) = exact::crash(7, 40, &sink);
    assert!(last > 40 && failed.is_empty());
    let mut found = kept(&file);
    let mut expected = payloads((1..=last).flat_map(numbers));
    found.sort();
    expected.sort();
    assert_eq!(found, expected);
    // What a person drops does not come again with a batch that does.
    Queue::open(&file).unwrap().discard(&Filter::default()).unwrap();
    let again = exact::after("p", last - 1, "", last);
    exact::deliver(open_exact(&plan, again).unwrap(), last - 1, vec![errors(&payloads(numbers(last)), last * 100)])
        .unwrap();
    assert_eq!(kept(&file), Vec::<String>::new());
    assert!(open_exact(&plan, fresh("p", 0)).is_err(), "another state");
}

/// A queue of which so many letters have their turn, with payloads from zero.
fn ordered(file: &Path, count: u64) {
    let all = payloads(0..count);
    write(file, &all.iter().map(|payload| ("s", "c", &**payload)).collect::<Vec<_>>());
    assert_eq!(Queue::open(file).unwrap().replay(&Filter::default()).unwrap().count, count);
}

fn marks(next: u64, detail: &str) -> Marks {
    Marks::from([(0, Mark { next, detail: detail.to_owned() })])
}

fn detail(file: &Path) -> String {
    format!("{{\"queue\":\"{}\"}}", Queue::open(file).unwrap().standing().unwrap().name)
}

fn begun(plan: &Plan, resume: Marks, finite: bool, bell: &Bell) -> Box<dyn Reader> {
    begin(plan, Begin { name: "again", worker: 1, workers: 2, resume, columns: &[], finite }, bell)
}

/// The values of the column `a`.
fn values(all: &[Rows]) -> Vec<i64> {
    let of = |rows: &Rows| rows.batch.column(0).as_primitive::<Int64Type>().values().to_vec();
    all.iter().flat_map(of).collect()
}

fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !holds() {
        assert!(begun.elapsed() < crate::testing::PATIENCE, "{what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn letters_come_in_the_order_of_their_turns_as_they_are_ordered() {
    let folder = tempfile::tempdir().unwrap();
    let file = path(&folder);
    let plan = both(&file, "", SCHEMA);
    let bell = Bell::default();
    let mut reader = begun(&plan, Marks::new(), false, &bell);
    assert!(matches!(reader.poll(1 << 20, None), Polled::Pending) && reader.at_end(0));
    let all = payloads(0..3_000);
    write(&file, &all.iter().map(|payload| ("s", "c", &**payload)).collect::<Vec<_>>());
    let mut queue = Queue::open(&file).unwrap();
    queue.replay(&ids(&[3, 2])).unwrap();
    let some = read_until(&mut *reader, &bell, None, |some, _| some.records == 2).unwrap();
    assert_eq!((values(&some.rows), reader.marks()), (vec![1, 2], marks(2, &detail(&file))));
    queue.replay(&Filter::default()).unwrap();
    let rest = read_until(&mut *reader, &bell, None, |some, _| some.records == 2_998).unwrap();
    let expected: Vec<i64> = [0].into_iter().chain(3..3_000).collect();
    assert_eq!((values(&rest.rows), reader.marks()[&0].next, reader.lag()[&0]), (expected, 3_000, 0));
}

#[test]
fn reading_goes_on_at_any_mark_and_stops_at_any_limit() {
    let folder = tempfile::tempdir().unwrap();
    let file = path(&folder);
    ordered(&file, 20);
    let plan = both(&file, "", SCHEMA);
    for next in 0..=20 {
        let bell = Bell::default();
        let mut reader = begun(&plan, marks(next, ""), true, &bell);
        let mut found = Vec::new();
        let nothing = BTreeMap::new();
        assert!(matches!(reader.poll(1 << 20, Some(&nothing)), Polled::Pending));
        for limit in [next, next + 1, next + 5, 20] {
            let limits = BTreeMap::from([(0, limit.min(20))]);
            let some =
                read_until(&mut *reader, &bell, Some(&limits), |_, reader| reader.marks()[&0].next == limit.min(20));
            found.extend(values(&some.unwrap().rows));
            assert_eq!(reader.marks()[&0].next, limit.min(20));
        }
        assert_eq!(found, (next as i64..20).collect::<Vec<_>>());
        eventually("it ends", || matches!(reader.poll(1 << 20, None), Polled::Done));
    }
}

#[test]
fn what_is_known_beside_the_payload_are_columns() {
    let folder = tempfile::tempdir().unwrap();
    let file = path(&folder);
    write(&file, &[("s", "c", "{\"a\":5}"), ("t", "d", "nonsense"), ("u", "e", "{\"a\":6}")]);
    Queue::open(&file).unwrap().replay(&Filter::default()).unwrap();
    let metadata = ", metadata: { n: id, where_: step, word: code, why: reason, place: position, entered: at }";
    let plan = both(&file, "", &format!("{SCHEMA}{metadata}"));
    let bell = Bell::default();
    let mut reader = begun(&plan, Marks::new(), true, &bell);
    let all = read_until(&mut *reader, &bell, None, |_, _| false).unwrap();
    let batch = &all.rows[0].batch;
    assert_eq!(values(&all.rows), [5, 6]);
    assert_eq!(batch.column(1).as_primitive::<Int64Type>().values(), &[1, 3]);
    let text = |at: usize| batch.column(at).as_string::<i32>().iter().map(Option::unwrap).collect::<Vec<_>>();
    assert_eq!(
        (text(2), text(3), text(4), text(5)),
        (vec!["s", "u"], vec!["c", "e"], vec!["why"; 2], vec!["s/0/1"; 2])
    );
    assert_eq!(batch.column(6).as_primitive::<TimestampNanosecondType>().value(0), 1_769_853_600_000_000_001);
    // What can't be decoded is an error row at its turn, and the turns of the others are their own.
    let failed: Vec<(u64, &[u8])> = all.errors.iter().map(|row| (row.position.offset, &*row.payload)).collect();
    assert_eq!(failed, [(1, &b"nonsense"[..])]);
    assert_eq!((all.rows[0].position(0).offset, all.rows[0].position(1).offset), (0, 2));
    // Pruned columns are neither decoded nor made.
    drop(reader);
    let columns = ["place"];
    let begin_with =
        Begin { name: "again", worker: 1, workers: 2, resume: Marks::new(), columns: &columns, finite: true };
    let mut reader = begin(&plan, begin_with, &bell);
    let all = read_until(&mut *reader, &bell, None, |_, _| false).unwrap();
    assert_eq!(all.rows.iter().map(|rows| rows.batch.num_columns()).collect::<BTreeSet<_>>(), BTreeSet::from([1]));
}

#[test]
fn what_is_committed_is_done_and_what_is_released_is_gone() {
    let folder = tempfile::tempdir().unwrap();
    let file = path(&folder);
    ordered(&file, 10);
    let plan = both(&file, "", SCHEMA);
    let bell = Bell::default();
    let mut reader = begun(&plan, Marks::new(), false, &bell);
    read_until(&mut *reader, &bell, None, |some, _| some.records == 10).unwrap();
    let removal = reader.removal().unwrap();
    let standing = || Queue::open(&file).unwrap().standing().unwrap();
    removal.committed(&marks(7, ""));
    eventually("letters are done", || standing().done == 7);
    assert_eq!(
        (kept(&file).len(), Queue::open(&file).unwrap().list(&Filter::default(), 99).unwrap().replaying),
        (10, 3)
    );
    removal.released(&marks(4, ""));
    eventually("letters are gone", || standing().removed == 4);
    assert_eq!(kept(&file).len(), 6);
    // The last ones are told of when the reader is gone.
    drop(reader);
    removal.committed(&marks(9, ""));
    removal.released(&marks(8, ""));
    removal.close().unwrap();
    assert_eq!((standing().done, standing().removed, kept(&file).len()), (9, 8, 2));
    // Who knows of nothing goes on behind what is done; who knows of a mark, there.
    let bell = Bell::default();
    let next = |resume: Marks| begun(&plan, resume, false, &bell).marks()[&0].next;
    assert_eq!((next(Marks::new()), next(marks(8, &detail(&file))), next(marks(10, ""))), (9, 8, 10));
}

#[test]
fn a_state_and_a_file_that_do_not_fit_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let file = path(&folder);
    ordered(&file, 10);
    let mut queue = Queue::open(&file).unwrap();
    assert!(queue.released(4).unwrap());
    let plan = both(&file, "", SCHEMA);
    let source = step(&plan, "again");
    let start = |resume: Marks| {
        let start = SourceStart {
            name: "again".into(),
            source: engine_base::SourceId(1),
            worker: 0,
            workers: 1,
            waker: Waker::none(),
            resume,
            columns: source.outputs[0].stream.schema.clone(),
            clock: SystemClock::shared(),
            finite_from_start: false,
        };
        (find_source("dead_letters").unwrap().start)(&*source.planned, start)
    };
    let check = |resume: Marks, expected: &str| {
        let reason = start(resume).err().expect("it does not start");
        assert!(reason.contains(expected), "{reason}\nand not\n{expected}");
    };
    check(marks(3, ""), "this state goes on at turn 3 of `");
    check(marks(3, ""), "and the letters before turn 4 are gone");
    check(marks(11, ""), "and the file knows of 10 turns: an older copy was put back");
    check(marks(5, r#"{"queue":"other"}"#), "is not the queue that this state has read: the file was replaced");
    let held = start(marks(4, &detail(&file))).unwrap();
    check(Marks::new(), "another engine replays the letters of `");
    drop(held);
    assert!(start(Marks::new()).is_ok(), "the lock goes with the reader");
}

/// A row that somebody else removed is never passed over.
#[test]
fn a_gap_stops_the_source() {
    let folder = tempfile::tempdir().unwrap();
    let file = path(&folder);
    ordered(&file, 10);
    let plan = both(&file, "", SCHEMA);
    for gone in ["turn = 5", "turn > 2", "1"] {
        Connection::open(&file).unwrap().execute(&format!("DELETE FROM letters WHERE {gone}"), ()).unwrap();
        let bell = Bell::default();
        let mut reader = begun(&plan, Marks::new(), false, &bell);
        let reason = read_until(&mut *reader, &bell, None, |_, _| false).unwrap_err();
        assert!(reason.contains("is gone from `") && reason.contains("put the file back"), "{reason}");
    }
}

#[test]
fn problems_of_the_plan() {
    let check = |text: &str, expected: &[&str]| {
        let rows = "  rows: { type: stdin, schema: { a: int64 } }\n";
        let text = format!("sources:\n{rows}{text}");
        assert_eq!(plan(&text).map_or_else(|problems| problems, |_| Vec::new()), expected, "{text}");
    };
    let sink = |keys: &str| {
        format!("sinks:\n  out: {{ type: dead_letters, {keys} }}\n  rest: {{ type: blackhole, input: rows }}\n")
    };
    check(&sink("input: rows.errors, path: q.db"), &[]);
    check(&sink("input: rows.errors, path: q.db, where: code = 'decode', timeout: 1m, delivery: exactly_once"), &[]);
    check(&sink("input: rows, path: q.db"), &["E0414 `out` keeps error rows, and its input has other columns"]);
    check(
        &sink("input: rows.errors, columns: [payload], path: q.db"),
        &["E0414 `out` keeps error rows, and its input has other columns"],
    );
    check(&sink("input: rows.errors, path: ''"), &["E0407 the path names no file"]);
    check(&sink("input: rows.errors, path: 'a/*.db'"), &["E0407 the path names no file"]);
    let source = |keys: &str| {
        format!(
            "  again: {{ type: dead_letters, {keys} }}\nsinks:\n  out: {{ type: blackhole, input: again }}\n  rest: {{ type: blackhole, input: rows }}\n"
        )
    };
    check(&source("path: q.db, schema: { a: int64 }"), &[]);
    check(&source("path: 'q.db/', schema: { a: int64 }"), &["E0407 the path names no file"]);
    check(&source("path: q.db"), &["E0403 a schema is missing"]);
    check(&source("path: q.db, format: csv, schema: { a: int64 }"), &["E0465 a letter has no header before it"]);
    check(
        &source("path: q.db, schema: { a: int64 }, metadata: { a: id }"),
        &["E0319 `a` is a column of the schema already"],
    );
    let twice = "  one: { type: dead_letters, path: q.db, schema: { a: int64 } }\n  two: { type: dead_letters, path: ./q.db, schema: { a: int64 } }\n\
                 sinks:\n  out: { type: blackhole, input: one }\n  more: { type: blackhole, input: two }\n  rest: { type: blackhole, input: rows }\n";
    check(twice, &["E0330 `two` reads the replayed letters of the file /q.db, which `one` reads"]);
}
