//! A run that is stopped in order, kept by name, and gone back to.

use crate::durable::{PIPELINE, RUN, expected, folder, run, said, totals, write_rows};
use crate::engine;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// Starts a run that waits for more rows.
fn start(folder: &Path, more: &[&str]) -> Child {
    let mut command = Command::new(engine());
    command.current_dir(folder).args(RUN).args(more).stdin(Stdio::null()).stdout(Stdio::null());
    command.stderr(Stdio::null()).spawn().expect("it starts")
}

fn lines(folder: &Path) -> usize {
    std::fs::read_to_string(folder.join("all.jsonl")).map_or(0, |text| text.lines().count())
}

/// Waits until so many rows have come out.
fn wait_for(child: &mut Child, folder: &Path, rows: usize) {
    while lines(folder) < rows {
        assert!(child.try_wait().expect("it can be asked").is_none(), "it ended with {} of {rows}", lines(folder));
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Adds rows to the input.
fn add_rows(folder: &Path, rows: std::ops::Range<i64>, n: i64) {
    let before = std::fs::read_to_string(folder.join("rows.jsonl")).expect("written");
    write_rows(folder, rows, n);
    let more = std::fs::read_to_string(folder.join("rows.jsonl")).expect("written");
    std::fs::write(folder.join("rows.jsonl"), before + &more).expect("written");
}

#[test]
fn a_run_is_stopped_with_a_savepoint_and_gone_back_to() {
    let pipeline =
        PIPELINE.replace("every: 100ms", "every: 1h").replace("path: rows.jsonl,", "path: rows.jsonl, follow: true,");
    let folder = folder(&pipeline);
    let folder = folder.path();
    let stop = ["stop", "--state", "state"];
    let nothing = run(folder, &stop);
    assert!(!nothing.status.success() && said(&nothing).contains("no state directory"), "{}", said(&nothing));

    write_rows(folder, 0..1_000, 3);
    let mut child = start(folder, &[]);
    wait_for(&mut child, folder, 1_000);
    let bad = run(folder, &[&stop[..], &["--savepoint", "a/b"]].concat());
    assert_eq!(bad.status.code(), Some(2), "{}", said(&bad));
    let stopped = run(folder, &[&stop[..], &["--savepoint", "before"]].concat());
    assert!(stopped.status.success(), "{}", said(&stopped));
    assert!(said(&stopped).contains("savepoint `before` is checkpoint 1"), "{}", said(&stopped));
    assert!(child.wait().expect("it ended").success());
    assert!(!folder.join("state/savepoint").exists());
    let list = said(&run(folder, &["state", "list", "state"]));
    assert!(list.contains("savepoint before: checkpoint 1, "), "{list}");

    // Nobody runs, and the name is taken.
    let still = run(folder, &stop);
    assert!(still.status.success() && said(&still).contains("no engine runs on state"), "{}", said(&still));
    let taken = run(folder, &[&stop[..], &["--savepoint", "before"]].concat());
    assert!(!taken.status.success() && said(&taken).contains("that of checkpoint 1 already"), "{}", said(&taken));
    let other = run(folder, &[&stop[..], &["--savepoint", "same"]].concat());
    assert!(other.status.success() && said(&other).contains("savepoint `same` is checkpoint 1"), "{}", said(&other));

    // A day later the rows are wrong; and it dies.
    add_rows(folder, 1_000..2_000, 1_000);
    let mut child = start(folder, &[]);
    wait_for(&mut child, folder, 2_000);
    child.kill().expect("it is killed");
    child.wait().expect("it is gone");
    let dirty = run(folder, &[&stop[..], &["--savepoint", "after"]].concat());
    assert!(!dirty.status.success() && said(&dirty).contains("was not stopped in order"), "{}", said(&dirty));
    let unknown = run(folder, &["state", "restore", "state", "befor"]);
    assert!(!unknown.status.success() && said(&unknown).contains("there are before, same"), "{}", said(&unknown));

    // Back to before, with the right ones.
    let restored = run(folder, &["state", "restore", "state", "before"]);
    let told = said(&restored);
    assert!(restored.status.success() && told.contains("is savepoint `before`") && told.contains("let go: "), "{told}");
    assert!(told.contains("--reset-sink out") && told.contains("--reset-sink all"), "{told}");
    write_rows(folder, 0..1_000, 3);
    add_rows(folder, 1_000..2_000, 5);
    let refused = run(folder, &RUN);
    assert!(!refused.status.success() && said(&refused).contains("--reset-sink"), "{}", said(&refused));
    let mut child = start(folder, &["--reset-sink", "out", "--reset-sink", "all"]);
    wait_for(&mut child, folder, 3_000);
    let stopped = run(folder, &[&stop[..], &["--savepoint", "right"]].concat());
    assert!(stopped.status.success() && child.wait().expect("it ended").success(), "{}", said(&stopped));
    let mut right = expected(1_000, 3);
    for (key, (count, total)) in expected(2_000, 5) {
        let before = right[&key].0;
        right.insert(key, (count, before * 3 + total - before * 5));
    }
    assert_eq!(totals(folder), right);
    let verified = run(folder, &["state", "verify", "state"]);
    assert!(verified.status.success() && said(&verified).contains("0 records behind"), "{}", said(&verified));

    // Over a later one it does not go back before that is released.
    let later = run(folder, &["state", "restore", "state", "before"]);
    assert!(!later.status.success() && said(&later).contains("savepoint `right` is later"), "{}", said(&later));
    for name in ["right", "same"] {
        let released = run(folder, &["state", "release", "state", name]);
        assert!(released.status.success(), "{}", said(&released));
    }
    assert!(!run(folder, &["state", "release", "state", "right"]).status.success());
    assert!(run(folder, &["state", "restore", "state", "before"]).status.success());
    let list = said(&run(folder, &["state", "list", "state"]));
    assert!(list.contains("savepoint before: ") && !list.contains("right"), "{list}");
}

#[test]
fn a_time_that_was_gone_back_from_is_not_gone_on_with() {
    let pipeline = PIPELINE.replace("every: 100ms", "every: 1h");
    let folder = folder(&pipeline);
    let folder = folder.path();
    for (count, name) in [(1_000, "first"), (2_000, "second"), (3_000, "third")] {
        write_rows(folder, 0..count, 3);
        assert!(run(folder, &RUN).status.success());
        let saved = run(folder, &["stop", "--state", "state", "--savepoint", name]);
        assert!(saved.status.success(), "{}", said(&saved));
    }
    assert!(run(folder, &["state", "release", "state", "third"]).status.success());
    assert!(run(folder, &["state", "restore", "state", "second"]).status.success());
    assert!(run(folder, &["state", "release", "state", "second"]).status.success());
    // The new time begins, and dies; then its checkpoint is damaged.
    let reset = [&RUN[..], &["--reset-sink", "out", "--reset-sink", "all"]].concat();
    write_rows(folder, 0..2_000_000, 3);
    let mut child = start(folder, &reset[RUN.len()..]);
    wait_for(&mut child, folder, 4_000);
    child.kill().expect("it is killed");
    child.wait().expect("it is gone");
    let newest = folder.join("state/checkpoint/manifest-0000000004.json");
    let mut bytes = std::fs::read(&newest).expect("it is there");
    let at = bytes.len() / 2;
    bytes[at] ^= 1;
    std::fs::write(&newest, bytes).expect("written");
    let refused = run(folder, &RUN);
    assert!(!refused.status.success() && said(&refused).contains("went back to a savepoint"), "{}", said(&refused));
    // Going back again needs nothing of the journal, though it is gone.
    std::fs::remove_dir_all(folder.join("state/journal")).expect("removed");
    let restored = run(folder, &["state", "restore", "state", "first"]);
    assert!(restored.status.success(), "{}", said(&restored));
    write_rows(folder, 0..5_000, 3);
    let again = run(folder, &reset);
    assert!(again.status.success(), "{}", said(&again));
    assert_eq!(totals(folder), expected(5_000, 3));
    let verified = said(&run(folder, &["state", "verify", "state"]));
    assert!(verified.contains("manifest-0000000004.json") && !verified.contains("are due"), "{verified}");
}
