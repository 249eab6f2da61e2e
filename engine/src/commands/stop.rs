//! `engine stop`: stops the engine that runs on a state directory, in order, and keeps its state by name where that is asked.

use super::{Exit, tell};
use crate::cli::duration;
use crate::runtime::durable::{holder, lock, savepoint};
use engine_state::checkpoint::{inspect, is_savepoint_name};
use engine_state::disk::RealDisk;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// How often it looks whether the engine has ended.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// Stop the engine that runs on a state directory.
#[derive(Debug, clap::Args)]
pub(crate) struct StopArgs {
    /// The state directory.
    #[arg(long, value_name = "DIR")]
    state: PathBuf,

    /// Keep the state by this name, until `engine state release`. `engine state restore` goes back to it.
    #[arg(long, value_name = "NAME", value_parser = savepoint_name)]
    savepoint: Option<String>,

    /// How long to wait for it to end. It goes on stopping after that.
    #[arg(long, value_name = "TIME", default_value = "60s", value_parser = duration)]
    timeout: Duration,
}

/// A name for a savepoint.
pub(crate) fn savepoint_name(text: &str) -> Result<String, String> {
    match is_savepoint_name(text) {
        true => Ok(text.to_owned()),
        false => Err("use up to 100 letters, digits, `.`, `_` and `-`, and begin with no `.`".to_owned()),
    }
}

/// Runs the command.
pub(crate) fn run(arguments: &StopArgs) -> Exit {
    tell(stop(arguments).map(|text| (text, true)))
}

fn stop(arguments: &StopArgs) -> Result<String, String> {
    let (path, name) = (&*arguments.state, arguments.savepoint.as_deref());
    let shown = path.display();
    if !path.join("pipeline.json").is_file() {
        return Err(format!("{shown} is no state directory: it has no pipeline.json"));
    }
    if let Some(name) = name
        && let Some(checkpoint) = saved(path, name)?
    {
        return Err(format!(
            "`{name}` is that of checkpoint {checkpoint} already: choose another name, or release that one"
        ));
    }
    let Some(process) = holder(path)? else {
        drop(lock(path).map_err(|_| {
            format!(
                "an engine runs on {shown}, and its process can't be seen from here (it is in another container, or has just begun): send \
                 it SIGTERM where it runs"
            )
        })?);
        let mut text = format!("no engine runs on {shown}\n");
        if let Some(name) = name {
            let checkpoint = savepoint::save(path, name)?;
            text = format!("no engine runs on {shown}; savepoint `{name}` is checkpoint {checkpoint}\n");
        }
        return Ok(text);
    };
    if let Some(name) = name {
        savepoint::ask(path, name)?;
    }
    let begun = Instant::now();
    // SAFETY: it sends a signal, and touches no memory of ours.
    if unsafe { libc::kill(process, libc::SIGTERM) } != 0 {
        let error = std::io::Error::last_os_error();
        savepoint::take_back(&RealDisk, path)?;
        return Err(format!("process {process} can't be stopped: {error}"));
    }
    while holder(path)? == Some(process) {
        if begun.elapsed() > arguments.timeout {
            return Err(format!(
                "process {process} has not ended after {:?}: it goes on stopping, and what it waits for stands in its log",
                arguments.timeout
            ));
        }
        std::thread::sleep(LOOK_EVERY);
    }
    let stopped = format!("process {process} stopped in {:.1} s", begun.elapsed().as_secs_f64());
    let Some(name) = name else { return Ok(stopped + "\n") };
    match saved(path, name)? {
        Some(checkpoint) => Ok(format!("{stopped}; savepoint `{name}` is checkpoint {checkpoint}\n")),
        None => Err(format!(
            "{stopped}, and there is no savepoint: it was not stopped in order, so there is something to replay or to deliver, and its \
             log says why. Start it once more, and stop it again"
        )),
    }
}

/// The checkpoint of a savepoint.
fn saved(path: &Path, name: &str) -> Result<Option<u64>, String> {
    let found = inspect(&RealDisk, &path.join("checkpoint")).map_err(|error| error.to_string())?;
    Ok(found.savepoints.get(name).map(|manifest| manifest.checkpoint))
}
