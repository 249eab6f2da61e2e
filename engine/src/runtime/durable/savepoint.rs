//! Savepoints: checkpoints that are kept by name, of a run that was stopped with nothing left to replay.
//!
//! ```text
//! engine stop --savepoint a   ──▶ STATE/savepoint ("a"), then the signal
//! engine run                      stops, writes its last checkpoint, names it `a`, removes STATE/savepoint
//! engine state restore a      ──▶ the checkpoint again as the newest, and the journal from here on
//! ```
//!
//! The run itself makes the savepoint: who restarts it at once would otherwise have it again before anybody could.

use super::checkpointer::told;
use super::ledger::Kept;
use super::lock::lock;
use super::open::{new_journal_id, records, whose};
use engine_base::SystemClock;
use engine_state::checkpoint::{CheckpointConfig, Checkpoints, LsmEntries, Manifest, Publication};
use engine_state::disk::{Disk, RealDisk, write_atomically};
use engine_state::journal::{Journal, JournalConfig, Sequence};
use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The file in a state directory that asks its engine to make a savepoint when it stops.
fn asking(path: &Path) -> PathBuf {
    path.join("savepoint")
}

/// Asks the engine that runs on a state directory for a savepoint when it stops.
pub(crate) fn ask(path: &Path, name: &str) -> Result<(), String> {
    let asking = asking(path);
    if let Ok(other) = std::fs::read_to_string(&asking) {
        return Err(format!(
            "savepoint `{other}` is asked for already, and is made when the engine stops; to take that back, remove {}",
            asking.display()
        ));
    }
    write_atomically(&RealDisk, &asking, name.as_bytes())
        .map_err(|error| format!("{} can't be written: {error}", asking.display()))
}

/// Takes back what was asked for, if it stands there still.
pub(crate) fn take_back(disk: &dyn Disk, path: &Path) -> Result<(), String> {
    let asking = asking(path);
    match disk.remove(&asking) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(format!("{} can't be removed: {error}", asking.display()))
        }
        _ => Ok(()),
    }
}

/// Makes the savepoint that was asked for, of a run that has stopped with nothing left.
pub(super) fn grant(disk: &dyn Disk, path: &Path, checkpoints: &Checkpoints) -> Result<(), String> {
    let name = match disk.read(&asking(path)) {
        Ok(name) => String::from_utf8_lossy(&name).into_owned(),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(format!("{} can't be read: {error}", asking(path).display())),
    };
    let newest = checkpoints.newest().ok_or_else(|| format!("savepoint `{name}`: there is no checkpoint yet"))?;
    checkpoints.save(&name, newest.checkpoint).map_err(told)?;
    tracing::info!(name, checkpoint = newest.checkpoint, "savepoint");
    take_back(disk, path)
}

/// A state directory that no engine runs on.
struct Still {
    path: PathBuf,
    checkpoints: Checkpoints,
    _lock: File,
}

impl Still {
    fn open(path: &Path) -> Result<Still, String> {
        if whose(&RealDisk, path)?.is_none() {
            return Err(format!("{} is no state directory: it has no pipeline.json", path.display()));
        }
        let lock = lock(path)?;
        let folder = path.join("checkpoint");
        let entries = Arc::new(LsmEntries::open(&folder.join("entries")).map_err(told)?);
        let (checkpoints, _) =
            Checkpoints::open(Arc::new(RealDisk), &folder, entries, CheckpointConfig::default()).map_err(told)?;
        Ok(Still { path: path.to_owned(), checkpoints, _lock: lock })
    }

    /// The journal. One that is gone is made anew, behind all that checkpoints know of it.
    fn journal(&self) -> Result<Journal, String> {
        let retained = self.checkpoints.retained();
        let known = retained.iter().map(|kept| kept.journal_sequence).max().unwrap_or(0);
        let config = JournalConfig { id: new_journal_id(), first: Sequence(known + 1), ..JournalConfig::default() };
        let (journal, _) = Journal::open(Arc::new(RealDisk), &self.path.join("journal"), config).map_err(told)?;
        Ok(journal)
    }

    /// What stands in the journal behind the newest checkpoint.
    fn left(&self, journal: &Journal) -> Result<Left, String> {
        let Some(newest) = self.checkpoints.newest() else { return Ok(Left::default()) };
        if newest.journal_id != journal.id() {
            return Err(format!(
                "the journal in {} is not the one that checkpoint {} was made with",
                self.path.display(),
                newest.checkpoint
            ));
        }
        let Kept { mut delivered, sequences, .. } = Kept::of(&newest)?;
        let mut left = Left { records: 0, epochs: 0, batches: 0, sequences };
        let mut staged = Vec::new();
        for record in records(journal.replay(Sequence(newest.journal_sequence)), &self.path)? {
            let record = record?;
            left.records += 1;
            left.epochs += record.epochs.iter().filter(|passed| passed.epoch > newest.epoch).count();
            left.sequences.extend(record.staged.iter().map(|batch| (batch.sink.clone(), batch.sequence)));
            staged.extend(record.staged);
            delivered.extend(record.delivered);
        }
        let is_out = |sink: &str, sequence| delivered.get(sink).is_some_and(|last| last.sequence >= sequence);
        left.batches = staged.iter().filter(|batch| !is_out(&batch.sink, batch.sequence)).count();
        Ok(left)
    }
}

/// What is in no checkpoint.
#[derive(Default)]
struct Left {
    records: usize,
    epochs: usize,
    /// Batches that are committed and perhaps not delivered.
    batches: usize,
    /// The number of the last batch of each sink.
    sequences: BTreeMap<String, u64>,
}

/// Keeps what a stopped run has left by name.
pub(crate) fn save(path: &Path, name: &str) -> Result<u64, String> {
    let still = Still::open(path)?;
    let newest = still.checkpoints.newest().ok_or_else(|| format!("{} has no checkpoint yet", path.display()))?;
    // Also what a sink has delivered is to stand in the checkpoint: going back reads nothing of the journal.
    if still.left(&still.journal()?)?.records > 0 {
        return Err(format!(
            "the last run on {} was not stopped in order: not all that its journal has is in its last checkpoint. Start it once more, \
             and stop it with `engine stop --savepoint {name}`",
            path.display()
        ));
    }
    still.checkpoints.save(name, newest.checkpoint).map_err(told)?;
    Ok(newest.checkpoint)
}

/// What going back has let go.
pub(crate) struct Restored {
    /// The new checkpoint.
    pub(crate) manifest: Arc<Manifest>,
    /// Epochs that were read and are in no checkpoint.
    pub(crate) epochs: usize,
    /// Batches that were committed, and perhaps not delivered.
    pub(crate) batches: usize,
    /// The sinks that deliver exactly once and have more than the savepoint knows of.
    pub(crate) ahead: Vec<String>,
    /// Why none of this is known, if it is not.
    pub(crate) unread: Option<String>,
}

/// Goes back to a savepoint. What came after it is let go, what systems were given excepted.
pub(crate) fn restore(path: &Path, name: &str) -> Result<Restored, String> {
    let still = Still::open(path)?;
    let journal = still.journal().map_err(|reason| {
        format!(
            "{reason}. To go back nothing of the journal is needed: move its folder {} away, and do it again",
            path.join("journal").display()
        )
    })?;
    // Only to say what is let go: where it can't be read, that is let go too.
    let (left, unread) = match still.left(&journal) {
        Ok(left) => (left, None),
        Err(reason) => (Left::default(), Some(reason)),
    };
    let publication = Publication {
        journal_id: journal.id(),
        // Nothing of what is in the journal belongs to it.
        journal_sequence: journal.next().0,
        time_ns: SystemClock::shared().now_ns(),
        ..Publication::default()
    };
    let manifest = still.checkpoints.restore(name, publication).map_err(told)?;
    let known = Kept::of(&manifest)?.sequences;
    let is_ahead = |(sink, sequence): &(String, u64)| known.get(sink).is_none_or(|known| known < sequence);
    let ahead = left.sequences.into_iter().filter(is_ahead).map(|(sink, _)| sink).collect();
    Ok(Restored { manifest, epochs: left.epochs, batches: left.batches, ahead, unread })
}

/// Lets a savepoint go.
pub(crate) fn release(path: &Path, name: &str) -> Result<(), String> {
    let still = Still::open(path)?;
    if still.checkpoints.release(name).map_err(told)? {
        return Ok(());
    }
    let known: Vec<String> = still.checkpoints.savepoints().into_keys().collect();
    let known = if known.is_empty() { "there are none".to_owned() } else { format!("there are {}", known.join(", ")) };
    Err(format!("{} has no savepoint `{name}`: {known}", path.display()))
}
