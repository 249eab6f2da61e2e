//! Dead letters behind the real binary: rows that a receiver refuses are kept, put back and act once, over kills at random
//! moments.

use crate::engine;
use crate::receiver::Receiver;
use crate::running::Running;
use rusqlite::Connection;
use serde_json::Value;
use std::collections::BTreeMap;
use std::fs::OpenOptions;
use std::io::Write;
use std::ops::Range;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::Duration;

const PIPELINE: &str = r#"
version: 1
pipeline: holds
DELIVERY
commit: { every: 10ms }
checkpoint: { every: 100ms }
sources:
  risky: { type: file, path: rows.jsonl, follow: true, schema: { id: int64, card: string } }
  again: { type: dead_letters, path: letters/holds.db, schema: { id: int64, card: string } }
operators:
  due: { type: union, inputs: [risky, again] }
sinks:
  holds: { type: webhook, input: due, url: "URL", idempotency_key: CAST(id AS STRING), retry: { first: 20ms, max: 200ms } }
  failed: { type: dead_letters, input: holds.errors, path: letters/holds.db }
"#;

const QUEUE: &str = "letters/holds.db";

fn folder(receiver: &Receiver, delivery: &str) -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    let pipeline = PIPELINE.replace("DELIVERY", delivery).replace("URL", &receiver.url());
    std::fs::write(folder.path().join("pipeline.yaml"), pipeline).expect("written");
    std::fs::write(folder.path().join("rows.jsonl"), "").expect("written");
    folder
}

fn append(folder: &Path, ids: Range<i64>) {
    let mut file = OpenOptions::new().append(true).open(folder.join("rows.jsonl")).expect("it is there");
    let text: String = ids.map(|id| format!("{{\"id\":{id},\"card\":\"c{}\"}}\n", id % 13)).collect();
    file.write_all(text.as_bytes()).expect("written");
}

/// Rows whose number leaves a rest are refused.
fn refuse(receiver: &Receiver, every: i64) {
    receiver.refuse(move |body| id_of(body) % every == 3);
}

fn id_of(body: &str) -> i64 {
    serde_json::from_str::<Value>(body).expect("a row")["id"].as_i64().expect("a number")
}

fn letters(folder: &Path, arguments: &[&str]) -> Output {
    let mut command = Command::new(engine());
    command.current_dir(folder).arg("dead-letters").args(arguments).stdin(Stdio::null()).output().expect("it runs")
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

/// How many wait, and how many are being replayed; none before there is a file.
fn standing(folder: &Path) -> (u64, u64) {
    let output = letters(folder, &["list", QUEUE, "--json", "--limit", "1"]);
    let Ok(found) = serde_json::from_slice::<Value>(&output.stdout) else { return (0, 0) };
    let number = |name: &str| found[name].as_u64().expect("a number");
    (number("waiting"), number("replaying"))
}

fn one(folder: &Path, query: &str) -> i64 {
    let file = Connection::open(folder.join(QUEUE)).expect("it opens");
    file.busy_timeout(Duration::from_secs(20)).expect("it waits");
    file.query_row(query, (), |row| row.get(0)).expect("a number")
}

/// What a receiver that acts once for each key has done: the row of each key.
fn acted(receiver: &Receiver) -> BTreeMap<i64, String> {
    let mut acted = BTreeMap::new();
    for (key, body) in receiver.requests() {
        assert_eq!(key, Some(id_of(&body).to_string()));
        if let Some(before) = acted.insert(id_of(&body), body.clone()) {
            assert_eq!(before, body, "one key, two rows");
        }
    }
    acted
}

struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % bound
    }
}

/// Lets engines die at random moments while `meanwhile` is done, and gives one that lives.
fn killed(folder: &Path, random: &mut Random, kills: u64, mut meanwhile: impl FnMut(u64)) -> Running {
    for kill in 0..kills {
        let workers = (1 + random.below(3)).to_string();
        let mut running = Running::start(folder, &["--state", "state", "--workers", &workers], Stdio::null());
        std::thread::sleep(Duration::from_millis(60 + random.below(200)));
        meanwhile(kill);
        std::thread::sleep(Duration::from_millis(random.below(500)));
        let ended = running.child.try_wait().expect("it can be asked");
        assert!(ended.is_none(), "before kill {kill} it ended; the log is\n{}", running.log());
        running.kill();
    }
    Running::start(folder, &["--state", "state", "--workers", "2"], Stdio::null())
}

fn rest_of(count: i64, every: i64) -> u64 {
    (0..count).filter(|id| id % every == 3).count() as u64
}

/// Each row acts once in the end: those that the receiver takes, those that it takes when they are replayed, and those that fail
/// again and are replayed once more.
#[test]
fn letters_act_once_over_kills() {
    const PORTION: i64 = 150;
    let seed = std::env::var("TORTURE_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(1);
    let kills = std::env::var("TORTURE_KILLS").ok().and_then(|kills| kills.parse().ok()).unwrap_or(8_u64);
    let mut random = Random(seed);
    let receiver = Receiver::start();
    let folder = folder(&receiver, "delivery: exactly_once");
    let folder = folder.path();
    let count = PORTION * kills as i64;

    refuse(&receiver, 7);
    let mut running =
        killed(folder, &mut random, kills, |kill| append(folder, kill as i64 * PORTION..(kill as i64 + 1) * PORTION));
    let refused = rest_of(count, 7);
    running.until("all rows act or are letters", |_| {
        standing(folder) == (refused, 0) && acted(&receiver).len() as u64 == count as u64 - refused
    });
    running.kill();

    // Half of the cause is mended.
    refuse(&receiver, 14);
    let mut running = killed(folder, &mut random, kills, |kill| {
        if kill == 0 {
            let output = letters(folder, &["replay", QUEUE, "--all"]);
            assert_eq!(said(&output), format!("{refused} letters are to be replayed\n"));
        }
    });
    let again = rest_of(count, 14);
    running.until("what fails again is a letter again", |_| {
        standing(folder) == (again, 0) && acted(&receiver).len() as u64 == count as u64 - again
    });
    running.kill();

    // All of it is, and some are ordered one by one while engines die.
    receiver.refuse(|_| false);
    let mut running = killed(folder, &mut random, kills, |kill| {
        let most = (refused + again).to_string();
        let chosen: &[&str] = if kill == 0 { &[&most] } else { &["--step", "holds", "--code", "rejected"] };
        let output = letters(folder, &[&["replay", QUEUE], chosen].concat());
        assert!(output.status.success(), "{}", said(&output));
    });
    running.until("the queue is empty", |_| standing(folder) == (0, 0) && acted(&receiver).len() as i64 == count);
    // No letter was ever written twice.
    let written = "SELECT seq FROM sqlite_sequence WHERE name = 'letters'";
    assert_eq!(one(folder, written), (refused + again) as i64, "seed {seed}");
    assert_eq!(one(folder, "SELECT next_turn FROM queue"), (refused + again) as i64);
    // Checkpoints come with rows, and what no checkpoint reads is gone.
    let mut next = count;
    running.until("rows are gone from the file", |_| {
        append(folder, next..next + 1);
        next += 1;
        std::thread::sleep(Duration::from_millis(50));
        one(folder, "SELECT count(*) FROM letters") == 0
    });
    running.interrupt();
    assert!(running.ended().success(), "{}", running.log());
    assert_eq!(acted(&receiver).into_keys().collect::<Vec<_>>(), (0..next).collect::<Vec<_>>());
}

/// Without a state directory a letter is gone when it has acted, and a start without one does not read it again.
#[test]
fn without_a_state_letters_go_when_they_have_acted() {
    let receiver = Receiver::start();
    let folder = folder(&receiver, "");
    let folder = folder.path();
    refuse(&receiver, 7);
    append(folder, 0..70);
    let mut running = Running::start(folder, &[], Stdio::null());
    running.until("letters wait", |_| standing(folder) == (10, 0));
    receiver.refuse(|_| false);
    assert!(letters(folder, &["replay", QUEUE, "3", "4"]).status.success());
    running.until("two are gone", |_| one(folder, "SELECT count(*) FROM letters") == 8);
    assert!(letters(folder, &["replay", QUEUE, "--all"]).status.success());
    running.until("all act", |_| acted(&receiver).len() == 70);
    // Asked to stop at once, it writes down first what has acted.
    running.interrupt();
    assert!(running.ended().success(), "{}", running.log());
    assert_eq!(one(folder, "SELECT count(*) FROM letters"), 0);
    assert_eq!(one(folder, "SELECT done FROM queue"), 10);
    std::fs::write(folder.join("rows.jsonl"), "").expect("written");
    let before = receiver.requests().len();
    let mut running = Running::start(folder, &[], Stdio::null());
    append(folder, 70..71);
    running.until("it reads", |_| acted(&receiver).len() == 71);
    assert_eq!(receiver.requests().len(), before + 1);
}

#[test]
fn a_second_engine_and_an_older_state_are_refused() {
    let receiver = Receiver::start();
    let folder = folder(&receiver, "");
    let folder = folder.path();
    refuse(&receiver, 7);
    append(folder, 0..70);
    let mut running = Running::start(folder, &["--state", "state"], Stdio::null());
    running.until("letters wait", |_| standing(folder) == (10, 0));
    let second = || {
        let mut command = Command::new("timeout");
        command
            .args(["60"])
            .arg(engine())
            .args(["run", "pipeline.yaml", "--no-metrics", "--quiet"])
            .current_dir(folder);
        command.args(["--state", "other"]).output().expect("it runs")
    };
    let refused = second();
    assert!(said(&refused).contains("another engine replays the letters of `letters/holds.db`"), "{}", said(&refused));
    assert_eq!(refused.status.code(), Some(1));
    receiver.refuse(|_| false);
    assert!(letters(folder, &["replay", QUEUE, "--all"]).status.success());
    running.until("all act", |_| acted(&receiver).len() == 70);
    running.interrupt();
    assert!(running.ended().success(), "{}", running.log());
    std::fs::remove_dir_all(folder.join("letters")).expect("it is gone");
    let mut running = Running::start(folder, &["--state", "state"], Stdio::null());
    assert!(!running.ended().success());
    assert!(running.log().contains("is not the queue that this state has read"), "{}", running.log());
}

#[test]
fn the_command_lists_shows_and_drops() {
    let receiver = Receiver::start();
    let folder = folder(&receiver, "");
    let folder = folder.path();
    let none = letters(folder, &["list", QUEUE]);
    assert_eq!(none.status.code(), Some(1));
    assert!(
        said(&none).contains("error: there is no file `letters/holds.db`; name the `path` of a sink"),
        "{}",
        said(&none)
    );
    refuse(&receiver, 7);
    append(folder, 0..70);
    let mut running = Running::start(folder, &[], Stdio::null());
    running.until("letters wait", |_| standing(folder) == (10, 0));
    running.kill();
    let text = said(&letters(folder, &["list", QUEUE, "--limit", "2"]));
    let lines: Vec<&str> = text.lines().collect();
    assert!(lines[0].starts_with("id  arrived") && lines[1].starts_with("1   2"), "{text}");
    assert!(lines[2].contains("waiting  holds  rejected  ") && lines[2].contains("no such card"), "{text}");
    assert_eq!(
        lines[4],
        "10 letters waiting, 0 replaying; 8 more are not shown: choose by --step or --code, or say --limit"
    );
    let list = |arguments: &[&str]| said(&letters(folder, &[&["list", QUEUE], arguments].concat()));
    assert!(list(&["--since", "1h"]).ends_with("\n10 letters waiting, 0 replaying\n"));
    assert_eq!(list(&["--since", "2100-01-01T00:00:00Z"]), "0 letters waiting, 0 replaying\n");
    assert_eq!(list(&["--code", "decode"]), "0 letters waiting, 0 replaying\n");
    let text = said(&letters(folder, &["show", QUEUE, "4"]));
    let body = one(folder, "SELECT json_extract(payload, '$.id') FROM letters WHERE id = 4");
    let shown = format!("payload\n{{\n  \"id\": {body},\n  \"card\": \"c{}\"\n}}\n", body % 13);
    assert!(text.starts_with("id        4\nis        waiting\nstep      holds\n") && text.ends_with(&shown), "{text}");

    let check = |arguments: &[&str], code: i32, expected: &str| {
        let output = letters(folder, arguments);
        assert_eq!((output.status.code(), &*said(&output)), (Some(code), expected), "{arguments:?}");
    };
    check(&["replay", QUEUE, "1", "2"], 0, "2 letters are to be replayed\n");
    check(&["replay", QUEUE, "2"], 0, "0 letters are to be replayed\n1 letter is being replayed already\n");
    check(
        &["drop", QUEUE, "2", "3"],
        1,
        "1 letter is dropped\n1 letter is being replayed and can't be dropped any more\n",
    );
    check(&["drop", QUEUE, "3"], 1, "0 letters are dropped\nthere is no letter 3, or no longer\n");
    check(&["drop", QUEUE, "--code", "decode"], 0, "0 letters are dropped\n");
    check(
        &["drop", QUEUE, "--all"],
        0,
        "7 letters are dropped\n2 letters are being replayed and can't be dropped any more\n",
    );
    let gone = letters(folder, &["show", QUEUE, "3"]);
    assert!(gone.status.code() == Some(1) && said(&gone).contains("has no letter 3, or no longer"), "{}", said(&gone));
    // Which ones must be said, and in one way.
    for usage in [&["drop", QUEUE][..], &["replay", QUEUE, "1", "--all"], &["drop", QUEUE, "--all", "--step", "a"]] {
        assert_eq!(letters(folder, usage).status.code(), Some(2), "{usage:?}");
    }
    assert_eq!(letters(folder, &["list", QUEUE, "--since", "yesterday"]).status.code(), Some(2));
}
