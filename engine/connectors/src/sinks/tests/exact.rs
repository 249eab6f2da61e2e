//! The file that takes each batch once.

use super::{lines, open_with, some};
use crate::Exact;
use crate::exact::testing::{self, Crashing, after, fresh};
use engine_dataflow::Rows;
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use std::cell::RefCell;
use std::fs;
use std::path::Path;
use std::time::Duration;

const EXACT: &str = ", delivery: exactly_once";

fn open(path: &Path, keys: &str, exact: &Exact, begun: bool) -> crate::Opened {
    open_with(path, &format!("{EXACT}{keys}"), |start| {
        start.exact = Some(exact.clone());
        start.begun = begun;
    })
}

fn batch(number: u64) -> Rows {
    some(number as i64 * 100, count(number))
}

fn count(number: u64) -> i64 {
    number as i64 * 13 % 17
}

fn written(batches: impl Iterator<Item = u64>) -> String {
    batches.map(|number| lines(number as i64 * 100, count(number))).collect()
}

fn deliver(path: &Path, keys: &str, exact: &Exact, batches: std::ops::RangeInclusive<u64>) -> (String, String) {
    let sink = open(path, keys, exact, exact.delivered.is_some()).unwrap();
    let first = sink.first_note().unwrap_or_default();
    (first, testing::deliver(sink, batches.start() - 1, batches.map(batch).collect()).unwrap().note)
}

#[test]
fn a_file_is_cut_to_what_is_delivered() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a/out.jsonl");
    let read = || fs::read_to_string(&path).unwrap();
    let (first, third) = deliver(&path, "", &fresh("p", 5), 1..=3);
    assert_eq!(first, format!("{{\"path\":\"{}\",\"length\":0}}", path.display()));
    assert!(third.contains(&format!("\"length\":{}}}", written(1..=3).len())), "{third}");
    // Two more that the journal holds and does not know to be delivered; of the second there is a part only.
    let (again, fifth) = deliver(&path, "", &after("p", 3, &third, 5), 4..=5);
    assert_eq!(again, third);
    open(&path, "", &after("p", 3, &third, 5), true).unwrap().close().unwrap();
    assert_eq!(read(), written(1..=3), "it is cut at once");
    let torn = &written(1..=5)[..written(1..=5).len() - 5];
    fs::write(&path, torn).unwrap();
    assert_eq!(deliver(&path, "", &after("p", 3, &third, 5), 4..=5).1, fifth);
    assert_eq!(read(), written(1..=5));
    // From the first on, too.
    deliver(&path, "", &after("p", 0, &first, 5), 1..=5);
    assert_eq!(read(), written(1..=5));

    let refused = |exact: Exact| open(&path, "", &exact, true).err().unwrap_or_else(|| panic!("it opens"));
    // Somebody has written behind the last batch that there is.
    fs::write(&path, format!("{}more\n", written(1..=5))).unwrap();
    let reason = refused(after("p", 5, &fifth, 5));
    assert!(reason.contains("this state knows of") && reason.contains("--reset-sink out"), "{reason}");
    fs::write(&path, &written(1..=5)[..20]).unwrap();
    let reason = refused(after("p", 5, &fifth, 5));
    assert!(reason.contains("has 20 bytes, and this state says") && reason.contains("--reset-sink out"), "{reason}");
    assert_eq!(read().len(), 20, "it is left as it is");
    fs::remove_file(&path).unwrap();
    assert!(refused(after("p", 5, &fifth, 5)).contains("has 0 bytes"));
    assert!(!path.exists());
    // It goes on at the end of what there is.
    fs::write(&path, "more\n").unwrap();
    let (reset, _) = deliver(&path, "", &Exact { reset: true, ..after("p", 5, &fifth, 7) }, 6..=7);
    assert!(reset.contains("\"length\":5}"), "{reset}");
    assert_eq!(read(), format!("more\n{}", written(6..=7)));
    let reason = refused(after("p", 5, "nonsense", 7));
    assert!(reason.contains("the recorded length of the file can't be read"), "{reason}");
}

#[test]
fn what_was_there_stays_or_goes_exactly_once() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("out.jsonl");
    let read = || fs::read_to_string(&path).unwrap();
    fs::write(&path, "old\n").unwrap();
    let (first, _) = deliver(&path, "", &fresh("p", 2), 1..=2);
    assert!(first.contains("\"length\":4}"), "{first}");
    deliver(&path, "", &after("p", 0, &first, 2), 1..=2);
    assert_eq!(read(), format!("old\n{}", written(1..=2)));
    // Emptied at the first run only.
    let replace = ", existing: replace";
    let (first, second) = deliver(&path, replace, &fresh("p", 2), 1..=2);
    assert!(first.contains("\"length\":0}"), "{first}");
    assert_eq!(read(), written(1..=2));
    deliver(&path, replace, &after("p", 2, &second, 3), 3..=3);
    deliver(&path, replace, &after("p", 2, &second, 3), 3..=3);
    assert_eq!(read(), written(1..=3));
    // Another path is another file, which goes on at its own end.
    let other = folder.path().join("other.jsonl");
    fs::write(&other, "mine\n").unwrap();
    let (moved, _) = deliver(&other, replace, &after("p", 3, &second, 4), 4..=4);
    assert!(moved.contains("other.jsonl\",\"length\":5}"), "{moved}");
    deliver(&other, replace, &after("p", 3, &moved, 4), 4..=4);
    assert_eq!(fs::read_to_string(&other).unwrap(), format!("mine\n{}", written(4..=4)));
    assert_eq!(read(), written(1..=3));
    // The header comes once.
    let csv = folder.path().join("out.csv");
    let keys = ", format: csv";
    let (first, _) = deliver(&csv, keys, &fresh("p", 2), 1..=2);
    assert!(first.contains("\"length\":4}"), "behind `a,b`: {first}");
    let once = fs::read_to_string(&csv).unwrap();
    deliver(&csv, keys, &after("p", 0, &first, 2), 1..=2);
    assert_eq!(fs::read_to_string(&csv).unwrap(), once);
    assert!(once.starts_with("a,b\n100,"), "{once}");
}

#[test]
fn one_engine_writes_to_a_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("out.jsonl");
    let first = open(&path, "", &fresh("p", 1), false).unwrap();
    let reason = open(&path, "", &fresh("p", 1), false).err().unwrap();
    assert!(reason.contains("another engine writes to"), "{reason}");
    first.close().unwrap();
    assert!(open(&path, "", &fresh("p", 1), false).is_ok());
    let reason = crate::testing::plan(&super::file_pipeline(Path::new("/dev/null"), EXACT)).unwrap_err();
    assert!(reason[0].contains("can't deliver exactly once: what was written to a device"), "{reason:?}");
    let pipe = folder.path().join("pipe");
    assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    let reason = open(&pipe, "", &fresh("p", 1), false).err().unwrap();
    assert!(reason.contains("is not a file that can be cut"), "{reason}");
}

#[test]
fn crashes_leave_no_trace_in_a_file() {
    for seed in 0..4 {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("out.jsonl");
        let random = RefCell::new(SmallRng::seed_from_u64(seed));
        let torn = RefCell::new(0);
        let open = |exact: Exact| {
            // Of what is not known to be delivered the disk has any part, and anything behind it.
            if let (Some(delivered), Ok(mut text)) = (&exact.delivered, fs::read(&path))
                && exact.last > delivered.sequence
            {
                let note: serde_json::Value = serde_json::from_str(&delivered.note).unwrap();
                let length = note["length"].as_u64().unwrap() as usize;
                assert!(text.len() >= length);
                // The writer of before may still be at it.
                let held = fs::File::open(&path).unwrap();
                held.lock().unwrap();
                text = fs::read(&path).unwrap();
                let mut random = random.borrow_mut();
                *torn.borrow_mut() += usize::from(text.len() > length);
                text.truncate(random.random_range(length..=text.len()));
                if random.random_bool(0.3) {
                    text.extend_from_slice(b"{\"a\":");
                }
                fs::write(&path, &text).unwrap();
            }
            self::open(&path, "", &exact, exact.delivered.is_some())
        };
        let sink = Crashing { open: &open, batch: &batch, batch_of: &|row| row / 100, life: Duration::from_millis(20) };
        let (last, failed) = testing::crash(seed, 100, &sink);
        assert_eq!(failed, []);
        assert_eq!(fs::read_to_string(&path).unwrap(), written(1..=last), "seed {seed}");
        assert!(*torn.borrow() > 10, "{torn:?}");
    }
}
