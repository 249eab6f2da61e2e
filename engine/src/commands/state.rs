//! `engine state`: what a state directory holds.

use super::{Exit, tell};
use crate::cli::{State, StateCommand};
use crate::runtime::durable::{self, Kept, savepoint};
use chrono::DateTime;
use engine_base::units::format_size;
use engine_state::checkpoint::{CheckpointConfig, Checkpoints, Inspection, LsmEntries, Manifest, inspect};
use engine_state::disk::RealDisk;
use engine_state::journal::survey;
use std::fmt::Write as _;
use std::path::Path;
use std::sync::Arc;

/// Runs the command.
pub(crate) fn run(arguments: &State) -> Exit {
    let done = match &arguments.command {
        StateCommand::List { dir } => list(dir),
        StateCommand::Inspect { dir, checkpoint } => show(dir, *checkpoint),
        StateCommand::Verify { dir } => verify(dir),
        StateCommand::Restore { dir, savepoint } => restore(dir, savepoint),
        StateCommand::Release { dir, savepoint } => {
            savepoint::release(dir, savepoint).map(|()| (format!("savepoint `{savepoint}` is released\n"), true))
        }
    };
    tell(done)
}

/// What the manifests say, and whether all can be used.
fn look(dir: &Path) -> Result<Inspection, String> {
    if !dir.join("pipeline.json").is_file() {
        return Err(format!("{} is no state directory: it has no pipeline.json", dir.display()));
    }
    inspect(&RealDisk, &dir.join("checkpoint")).map_err(|error| error.to_string())
}

fn refused(found: &Inspection, text: &mut String) {
    for refused in &found.report.refused {
        let _ = writeln!(text, "not used: {}: {}", refused.path.display(), refused.why);
    }
}

fn list(dir: &Path) -> Result<(String, bool), String> {
    let found = look(dir)?;
    let mut text = String::new();
    for manifest in &found.retained {
        let contents = manifest.contents();
        let _ = writeln!(
            text,
            "checkpoint {}: {}, epoch {}, {} entries, {}",
            manifest.checkpoint,
            time(manifest),
            manifest.epoch,
            contents.entries,
            format_size(contents.bytes)
        );
    }
    for (name, manifest) in &found.savepoints {
        let _ = writeln!(
            text,
            "savepoint {name}: checkpoint {}, {}, epoch {}",
            manifest.checkpoint,
            time(manifest),
            manifest.epoch
        );
    }
    if found.retained.is_empty() {
        text.push_str("no checkpoint yet: a start replays the whole journal\n");
    }
    let journal = survey(Arc::new(RealDisk), &dir.join("journal")).map_err(|error| error.to_string())?;
    let number = |at: Option<engine_state::journal::Sequence>| at.map_or(0, |at| at.0);
    let _ = writeln!(text, "journal: records {} to {}", number(journal.first()), number(journal.next()));
    refused(&found, &mut text);
    Ok((text, found.report.refused.is_empty()))
}

fn show(dir: &Path, checkpoint: Option<u64>) -> Result<(String, bool), String> {
    let found = look(dir)?;
    let manifest = match checkpoint {
        Some(number) => found.retained.iter().find(|manifest| manifest.checkpoint == number),
        None => found.retained.last(),
    };
    let Some(manifest) = manifest else {
        let kept: Vec<String> = found.retained.iter().map(|manifest| manifest.checkpoint.to_string()).collect();
        let kept =
            if kept.is_empty() { "there is none yet".to_owned() } else { format!("there are {}", kept.join(", ")) };
        return Err(format!("{} has no such checkpoint: {kept}", dir.display()));
    };
    let kept = Kept::of(manifest)?;
    let mut text = format!(
        "checkpoint {}: {}, epoch {}, the journal from record {} on\n",
        manifest.checkpoint,
        time(manifest),
        manifest.epoch,
        manifest.journal_sequence
    );
    for (source, marks) in &kept.marks {
        for (partition, mark) in marks {
            let _ = writeln!(text, "source {source}, partition {partition}: read up to {}", mark.next);
        }
    }
    for (name, step) in &manifest.steps {
        let (about, contents) = (&step.about, step.contents);
        let _ = writeln!(
            text,
            "step {name} ({}): {} entries, {}",
            about.kind,
            contents.entries,
            format_size(contents.bytes)
        );
    }
    for (sink, delivered) in &kept.delivered {
        let last = kept.sequences.get(sink).copied().unwrap_or(delivered.sequence);
        let _ = writeln!(text, "sink {sink}: batches up to {last}, delivered up to {}", delivered.sequence);
    }
    Ok((text, true))
}

fn verify(dir: &Path) -> Result<(String, bool), String> {
    let found = look(dir)?;
    let _lock = durable::lock(dir)?;
    let mut text = String::new();
    refused(&found, &mut text);
    let mut sound = found.report.refused.is_empty();
    let folder = dir.join("checkpoint");
    let told = |error: engine_state::StateError| error.to_string();
    let entries = Arc::new(LsmEntries::open(&folder.join("entries")).map_err(told)?);
    let (checkpoints, _) =
        Checkpoints::open(Arc::new(RealDisk), &folder, entries, CheckpointConfig::default()).map_err(told)?;
    let mut kept = checkpoints.retained();
    kept.extend(
        checkpoints
            .savepoints()
            .into_values()
            .filter(|saved| !kept.iter().any(|kept| kept.checkpoint == saved.checkpoint))
            .collect::<Vec<_>>(),
    );
    for manifest in kept {
        let differences = checkpoints.verify(&manifest).map_err(told)?;
        for difference in &differences {
            let step = difference.step.as_deref().unwrap_or("a step that it does not know");
            let (expected, found) = (difference.expected, difference.found);
            let _ = writeln!(
                text,
                "checkpoint {}: {step} has {} entries and {} bytes, and {} and {} are due",
                manifest.checkpoint, found.entries, found.bytes, expected.entries, expected.bytes
            );
        }
        if differences.is_empty() {
            let _ = writeln!(
                text,
                "checkpoint {}: {} entries, as written",
                manifest.checkpoint,
                manifest.contents().entries
            );
        }
        sound &= differences.is_empty();
    }
    let records = durable::read_journal(dir, checkpoints.newest().map_or(0, |manifest| manifest.journal_sequence))?;
    let _ = writeln!(text, "journal: {records} records behind the last checkpoint, as written");
    Ok((text, sound))
}

fn restore(dir: &Path, name: &str) -> Result<(String, bool), String> {
    let savepoint::Restored { manifest, epochs, batches, ahead, unread } = savepoint::restore(dir, name)?;
    let mut text = format!("checkpoint {} is savepoint `{name}`, epoch {}\n", manifest.checkpoint, manifest.epoch);
    if epochs > 0 {
        let _ = writeln!(text, "let go: {epochs} epochs that were read behind the last checkpoint");
    }
    if batches > 0 {
        let _ = writeln!(text, "let go: {batches} batches that were committed and perhaps not delivered");
    }
    if let Some(reason) = unread {
        let _ = writeln!(text, "what is let go behind the last checkpoint can't be told: {reason}");
    }
    for sink in ahead {
        let _ = writeln!(
            text,
            "sink {sink} was given more than that: start once with --reset-sink {sink}, and what comes after the savepoint goes to it again"
        );
    }
    Ok((text, true))
}

/// When a checkpoint was made.
fn time(manifest: &Manifest) -> String {
    DateTime::from_timestamp_nanos(manifest.time_ns).format("%Y-%m-%d %H:%M:%S UTC").to_string()
}
