//! `engine test FILE...`: the `tests:` of pipeline files, each on a virtual clock.
//!
//! Exit codes: 0 all passed, 1 problems or failed tests, 2 usage.

use super::{Exit, print, report};
use crate::cli::{PipelineArgs, human};
use crate::files::RealFiles;
use crate::load::{load_and_plan, registries};
use crate::process;
use crate::testing::bench::{Outcome, Setting, run as run_case};
use crate::testing::case::{Case, cases};
use crate::testing::compare::Difference;
use crate::testing::fix::fix;
use crate::testing::junit::{self, Record};
use engine_base::{Diagnostic, Diagnostics, SourceMap, Span};
use std::fmt::Write;
use std::path::PathBuf;

/// `engine test`.
#[derive(clap::Args, Debug)]
pub(crate) struct TestArgs {
    /// Pipeline files
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
    /// Run only tests whose names contain this
    #[arg(long, value_name = "TEXT")]
    filter: Option<String>,
    /// Worker threads; several numbers, `1,2,3`, run each test with each of them
    #[arg(long, value_name = "N", default_value = "1", value_delimiter = ',',
          value_parser = clap::value_parser!(u16).range(1..=256))]
    workers: Vec<u16>,
    /// Run each test this many times more, its rows cut into batches and epochs at random places
    #[arg(long, value_name = "TIMES", default_value_t = 0)]
    random_cuts: u32,
    /// Where the random cuts begin; a failed test names its own
    #[arg(long, value_name = "NUMBER", default_value_t = 1)]
    seed: u64,
    /// Write what came out into the files as what is expected
    #[arg(long)]
    fix: bool,
    /// Write a report in the form of JUnit
    #[arg(long, value_name = "FILE")]
    junit: Option<PathBuf>,
    #[command(flatten)]
    pipeline: PipelineArgs,
}

/// Runs the command.
pub(crate) fn run(arguments: &TestArgs) -> Exit {
    process::exit_on_panic();
    // A test's own outcome says what matters.
    let mut sources = SourceMap::default();
    let mut diagnostics = Diagnostics::new();
    let mut records = Vec::new();
    let (mut passed, mut failed, mut fixed) = (0, 0, 0);
    for file in &arguments.files {
        let mut found = Diagnostics::new();
        let all = load_and_plan(file, &arguments.pipeline, false, &mut sources, &mut found)
            .map(|(pipeline, _)| cases(&pipeline, &registries(), &RealFiles, &mut sources, &mut found));
        if all.is_none() && !found.has_errors() {
            let message = format!("{}: this pipeline has values that are known only in a run", file.display());
            let problem =
                Diagnostic::new(engine_base::Severity::Error, engine_base::codes::spec::MISSING_ENV, None, message);
            found.push(problem.help("set them to test it: see the notes"));
        }
        let sound = !found.has_errors();
        diagnostics.extend(found);
        let chosen = |case: &&Case| arguments.filter.as_ref().is_none_or(|text| case.name.contains(text.as_str()));
        let all = all.unwrap_or_default();
        let chosen: Vec<&Case> = all.iter().filter(chosen).filter(|_| sound).collect();
        if sound {
            print(&format!("{}\n", file.display()));
        }
        let mut differences: Vec<(&Case, Difference)> = Vec::new();
        for case in chosen {
            let (case_records, first) = run_settings(arguments, case, &sources, &file.display().to_string());
            records.extend(case_records);
            match first {
                None => passed += 1,
                Some(outcome) if arguments.fix && outcome.stopped.is_none() => {
                    differences.extend(outcome.differences.into_iter().map(|difference| (case, difference)));
                    fixed += 1;
                }
                Some(_) => failed += 1,
            }
        }
        for file in fix(&differences, &sources) {
            if let Err(error) = std::fs::write(&file.path, &file.text) {
                let message = format!("{} can't be written: {error}", file.path.display());
                diagnostics.push(Diagnostic::new(
                    engine_base::Severity::Error,
                    engine_base::codes::spec::UNREADABLE_FILE,
                    None,
                    message,
                ));
            }
        }
    }
    if let Some(path) = &arguments.junit {
        let written = junit::report(&records).and_then(|report| std::fs::write(path, report));
        if let Err(error) = written {
            let message = format!("{} can't be written: {error}", path.display());
            diagnostics.push(Diagnostic::new(
                engine_base::Severity::Error,
                engine_base::codes::spec::UNREADABLE_FILE,
                None,
                message,
            ));
        }
    }
    report(human(), &mut diagnostics, &sources);
    let counted = |n: u32, what: &str| (n > 0).then(|| format!("{n} {what}"));
    let counts = [counted(passed, "passed"), counted(failed, "failed"), counted(fixed, "fixed")];
    let counts: Vec<String> = counts.into_iter().flatten().collect();
    print(&format!("{}\n", if counts.is_empty() { "no tests".to_owned() } else { counts.join(", ") }));
    if failed > 0 || diagnostics.has_errors() { Exit::Problems } else { Exit::Success }
}

/// Runs a case in every setting, and prints how it ends; its first failure.
fn run_settings(arguments: &TestArgs, case: &Case, sources: &SourceMap, file: &str) -> (Vec<Record>, Option<Outcome>) {
    let mut settings = Vec::new();
    for workers in &arguments.workers {
        let seeds = (0..u64::from(arguments.random_cuts)).map(|at| Some(arguments.seed.wrapping_add(at)));
        settings
            .extend(std::iter::once(None).chain(seeds).map(|seed| Setting { workers: usize::from(*workers), seed }));
    }
    let mut records = Vec::new();
    let mut first = None;
    let mut failed_rows = Vec::new();
    for setting in &settings {
        let outcome = run_case(case, *setting);
        let failure = (!outcome.passed()).then(|| failure_text(case, &outcome, sources));
        let name = match settings.len() {
            1 => case.name.clone(),
            _ => format!("{} ({})", case.name, described(*setting)),
        };
        records.push(Record { file: file.to_owned(), name, took: outcome.took, failure: failure.clone() });
        if let Some(text) = failure {
            let setting = if settings.len() > 1 { format!(" ({})", described(*setting)) } else { String::new() };
            print(&format!("  FAIL  {}{setting}\n{text}", case.name));
            first = Some(outcome);
            break;
        }
        failed_rows = outcome.failed_rows;
    }
    if first.is_none() {
        let mut text = format!("  ok    {}\n", case.name);
        for row in &failed_rows {
            // Writing to a string can't fail.
            let _ = writeln!(text, "        a row failed, and no `expect` asks for it: {row}");
        }
        print(&text);
    }
    (records, first)
}

fn described(setting: Setting) -> String {
    let workers = if setting.workers == 1 { "1 worker".to_owned() } else { format!("{} workers", setting.workers) };
    match setting.seed {
        Some(seed) => format!("{workers}, cut at random with --seed {seed}"),
        None => workers,
    }
}

fn failure_text(case: &Case, outcome: &Outcome, sources: &SourceMap) -> String {
    let mut text = String::new();
    // Writing to a string can't fail.
    if let Some(reason) = &outcome.stopped {
        let _ = writeln!(text, "        {} the pipeline stopped: {reason}", place(case.span, sources));
    }
    for difference in &outcome.differences {
        let expect = &case.expects[difference.expect];
        let _ = writeln!(text, "        {} `{}`: {}", place(expect.span, sources), expect.name, difference.summary);
        for line in &difference.lines {
            let _ = writeln!(text, "          {line}");
        }
    }
    for row in &outcome.failed_rows {
        let _ = writeln!(text, "        a row failed: {row}");
    }
    text
}

fn place(span: Span, sources: &SourceMap) -> String {
    let Some(file) = sources.file(span.file) else { return String::new() };
    let (line, column) = file.line_column(span.start);
    format!("{}:{line}:{column}", file.path)
}
