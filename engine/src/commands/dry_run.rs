//! `engine dry-run FILE...`: every problem of every file, and the plan of those that have none.

use super::{Exit, print, report};
use crate::cli::{DryRun, ReportFormat};
use crate::files::RealFiles;
use crate::load::{load_and_plan, registries};
use crate::testing::case::cases;
use engine_base::{Diagnostics, SourceMap};
use engine_plan::print::plan_text;

/// Problems for people go to stderr and the plans to stdout; for machines problems go to stdout, and no plan.
pub(crate) fn run(arguments: &DryRun) -> Exit {
    let mut sources = SourceMap::default();
    let mut diagnostics = Diagnostics::new();
    let mut plans = Vec::new();
    for file in &arguments.files {
        let planned = load_and_plan(file, &arguments.pipeline, false, &mut sources, &mut diagnostics);
        if let Some((pipeline, plan)) = planned {
            // What is wrong with a test is as much a problem as anything else in the file.
            let mut found = Diagnostics::new();
            cases(&pipeline, &registries(), &RealFiles, &mut sources, &mut found);
            plans.extend((!found.has_errors()).then_some(plan));
            diagnostics.extend(found);
        }
    }
    report(arguments.format.format(), &mut diagnostics, &sources);
    if arguments.format == ReportFormat::Human {
        let texts: Vec<String> = plans.iter().map(plan_text).collect();
        print(&texts.join("\n"));
    }
    if diagnostics.has_errors() { Exit::Problems } else { Exit::Success }
}
