//! The commands, one file each, and what they share: exit codes, writing problems and results.

pub(crate) mod dead_letters;
pub(crate) mod dry_run;
pub(crate) mod explain;
pub(crate) mod graph;
pub(crate) mod plan;
pub(crate) mod run;
pub(crate) mod schema;
pub(crate) mod state;
pub(crate) mod stop;
pub(crate) mod test;

use crate::cli::{self, PipelineArgs};
use crate::load::plan_file;
use engine_base::diagnostic::render::{Format, render};
use engine_base::{Diagnostics, SourceMap};
use engine_plan::Plan;
use std::io::{self, Write};
use std::path::Path;
use std::process::ExitCode;

/// How a command ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Exit {
    /// All is well.
    Success,
    /// The pipeline has problems.
    Problems,
    /// The command line is wrong.
    Usage,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> ExitCode {
        ExitCode::from(match exit {
            Exit::Success => 0,
            Exit::Problems => 1,
            Exit::Usage => 2,
        })
    }
}

/// The plan of a file, with its problems reported to a person; without one, how the command ends.
pub(crate) fn planned(file: &Path, arguments: &PipelineArgs) -> Result<Plan, Exit> {
    let mut sources = SourceMap::default();
    let mut diagnostics = Diagnostics::new();
    let plan = plan_file(file, arguments, false, &mut sources, &mut diagnostics);
    report(cli::human(), &mut diagnostics, &sources);
    plan.ok_or(if diagnostics.has_errors() { Exit::Problems } else { Exit::Success })
}

/// Writes problems: for people to stderr, for machines to stdout.
pub(crate) fn report(format: Format, diagnostics: &mut Diagnostics, sources: &SourceMap) {
    diagnostics.sort();
    let text = render(format, diagnostics, sources);
    match format {
        Format::Human { .. } => write_to(&mut io::stderr().lock(), &text),
        _ => write_to(&mut io::stdout().lock(), &text),
    }
}

/// Writes what a command found to stdout, and whether all is well with that; or why it could not be done, to stderr.
pub(crate) fn tell(done: Result<(String, bool), String>) -> Exit {
    match done {
        Ok((text, is_well)) => {
            print(&text);
            if is_well { Exit::Success } else { Exit::Problems }
        }
        Err(reason) => {
            write_to(&mut io::stderr().lock(), &format!("error: {reason}\n"));
            Exit::Problems
        }
    }
}

/// Writes a command's result to stdout.
pub(crate) fn print(text: &str) {
    write_to(&mut io::stdout().lock(), text);
}

/// A reader that went away (`engine schema | head`) is no problem of ours.
fn write_to(out: &mut dyn Write, text: &str) {
    let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
}
