//! A process that writes a journal and checkpoints on the machine's disk is killed at random moments, again and again.

use engine_state::checkpoint::{
    Before, CheckpointConfig, Checkpoints, EntryKey, LsmEntries, Publication, Space, StepAbout,
};
use engine_state::disk::RealDisk;
use engine_state::journal::{Journal, JournalConfig, Sequence};
use std::io::{BufRead, BufReader};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

/// Tells the child where to write; its presence makes a process the child.
const FOLDER: &str = "ENGINE_STATE_KILLED_FOLDER";
const KEYS: u32 = 3_000;

fn open(folder: &Path) -> (Journal, Checkpoints) {
    let config = JournalConfig { segment_bytes: 20_000, ..JournalConfig::default() };
    let (journal, _) = Journal::open(Arc::new(RealDisk), &folder.join("journal"), config).unwrap();
    let entries = Arc::new(LsmEntries::open(&folder.join("entries")).unwrap());
    let config = CheckpointConfig { retained: 2, batch_bytes: 20_000 };
    let (checkpoints, report) = Checkpoints::open(Arc::new(RealDisk), folder, entries, config).unwrap();
    assert_eq!(report.refused, []);
    (journal, checkpoints)
}

/// Checks that the newest checkpoint is whole, that all of it is of one time, and that the journal goes on from there.
fn check(journal: &Journal, checkpoints: &Checkpoints) -> u64 {
    let Some(newest) = checkpoints.newest() else { return 0 };
    assert_eq!(checkpoints.verify(&newest).unwrap(), []);
    let expected = newest.epoch.to_be_bytes();
    let mut count = 0;
    let step = newest.step("all").unwrap();
    let visit = &mut |_: EntryKey<'_>, value: &[u8]| {
        assert!(value.ends_with(&expected), "an entry of another checkpoint");
        count += 1;
        ControlFlow::Continue(())
    };
    checkpoints.load(&newest, Space::SLOTS, step, 0..=255, visit).unwrap();
    // A third of the keys is deleted by each checkpoint.
    assert_eq!(count, KEYS / 3 * 2);
    let from = newest.journal_sequence;
    for (next, record) in (from..).zip(journal.replay(Sequence(from)).unwrap()) {
        let record = record.unwrap();
        assert_eq!((record.sequence.0, &record.payload[..8]), (next, &next.to_be_bytes()[..]));
    }
    newest.epoch
}

/// Writes until it is killed. Says each record and checkpoint that is durable.
#[allow(clippy::print_stdout)]
fn child(folder: &Path) {
    let (mut journal, checkpoints) = open(folder);
    let mut epoch = check(&journal, &checkpoints);
    loop {
        epoch += 1;
        for _ in 0..5 {
            let next = journal.next().0.to_be_bytes();
            journal.append_parts(&[&next, &[7; 700]]).unwrap();
            journal.sync().unwrap();
            println!("journal {}", journal.durable().0);
        }
        let mut draft = checkpoints.begin().unwrap();
        let step = draft.step("all", StepAbout::default());
        let mut writer = draft.writer();
        for number in 0..KEYS {
            let bytes = number.to_be_bytes();
            let key = EntryKey { space: Space::SLOTS, step, group: (number % 256) as u16, key: &bytes, slice: 0 };
            let value = [&[1; 40][..], &epoch.to_be_bytes()].concat();
            if u64::from(number) % 3 == epoch % 3 {
                writer.delete(&key, Before::Unknown).unwrap();
            } else {
                writer.put(&key, &value, Before::Unknown).unwrap();
            }
        }
        writer.finish().unwrap();
        let journal_sequence = journal.next().0;
        draft.publish(Publication { epoch, journal_sequence, ..Publication::default() }).unwrap();
        println!("checkpoint {epoch}");
        let kept = checkpoints.retained()[0].journal_sequence;
        journal.truncate_before(Sequence(kept)).unwrap();
        checkpoints.sweep(10_000).unwrap();
    }
}

#[test]
fn what_it_said_was_durable_is_there_after_a_kill() {
    if let Some(folder) = std::env::var_os(FOLDER) {
        return child(&PathBuf::from(folder));
    }
    let folder = tempfile::tempdir().unwrap();
    let (mut durable, mut published) = (0, 0);
    for kill in 0..12_u64 {
        let mut running = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "what_it_said_was_durable_is_there_after_a_kill", "--nocapture"])
            .env(FOLDER, folder.path())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(running.stdout.take().unwrap()).lines();
        let reader = std::thread::spawn(move || {
            let (mut durable, mut published) = (0, 0);
            for line in lines.map_while(Result::ok) {
                match line.rsplit_once(' ') {
                    Some((what, number)) if what.ends_with("journal") => durable = number.parse().unwrap_or(durable),
                    Some((what, number)) if what.ends_with("checkpoint") => {
                        published = number.parse().unwrap_or(published);
                    }
                    _ => {}
                }
            }
            (durable, published)
        });
        std::thread::sleep(Duration::from_millis(300 + kill * 7919 % 500));
        running.kill().unwrap();
        running.wait().unwrap();
        let said: (u64, u64) = reader.join().unwrap();
        durable = durable.max(said.0);
        published = published.max(said.1);
        let (journal, checkpoints) = open(folder.path());
        assert!(journal.next().0 >= durable, "{:?}, it said {durable}", journal.next());
        let newest = check(&journal, &checkpoints);
        assert!(newest >= published, "checkpoint {newest}, it said {published}");
    }
    assert!(durable > 0 && published > 0, "it was killed before it did anything");
}
