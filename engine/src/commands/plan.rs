//! `engine plan FILE --state DIR`: what a pipeline that changed makes of the state of its last run.

use super::{Exit, planned, tell};
use crate::cli::PlanArgs;
use crate::runtime::durable::{Fate, fates, newest, tail};
use std::fmt::Write as _;

/// Compares the two. The state is only read, so an engine may run on it meanwhile.
pub(crate) fn run(arguments: &PlanArgs) -> Exit {
    let plan = match planned(&arguments.file, &arguments.pipeline) {
        Ok(plan) => plan,
        Err(exit) => return exit,
    };
    let compared = newest(&arguments.state, &plan).and_then(|manifest| {
        let fates = fates(&plan, manifest.as_ref().map(|(manifest, _)| manifest));
        Ok((fates, tail(&arguments.state, &plan, manifest)?))
    });
    let (fates, tail) = match compared {
        Ok(compared) => compared,
        Err(reason) => return tell(Err(reason)),
    };
    let mut text = String::new();
    let mut refused = false;
    for (step, fate) in &fates {
        let (word, why) = match fate {
            Fate::Keep(before) if before != step => ("keep", format!("it was `{before}`")),
            Fate::Keep(_) => ("keep", "it is as it was".to_owned()),
            Fate::Migrate(before, new, gone) => ("migrate", migration(step, before, new, gone)),
            Fate::New => ("new", "it begins with nothing".to_owned()),
            Fate::Changed => {
                let why = "its keys, its inputs or what is read of it changed";
                ("reject", format!("{why}: `engine run --rebuild {step}` lets its state go"))
            }
            Fate::Gone => {
                ("reject", format!("the pipeline has it no longer: `engine run --rebuild {step}` lets its state go"))
            }
        };
        refused |= matches!(fate, Fate::Changed | Fate::Gone);
        let _ = writeln!(text, "{step}: {word}: {why}");
    }
    if fates.is_empty() {
        text.push_str("no step keeps anything\n");
    }
    if let Some(epochs) = tail {
        refused = true;
        let _ = writeln!(
            text,
            "{epochs} epochs since the last checkpoint are to be replayed by the pipeline as it was: run that once more, and stop it \
             with a signal"
        );
    }
    tell(Ok((text, !refused)))
}

/// What becomes of a state of which parts changed.
fn migration(step: &str, before: &str, new: &[String], gone: &[String]) -> String {
    let mut parts = Vec::new();
    if before != step {
        parts.push(format!("it was `{before}`"));
    }
    if !new.is_empty() {
        parts.push(format!("begins with nothing: {}", new.join(", ")));
    }
    if !gone.is_empty() {
        parts.push(format!("is dropped: {}", gone.join(", ")));
    }
    parts.push("the rest goes on".to_owned());
    parts.join("; ")
}
