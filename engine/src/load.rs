//! From a file on the command line to a plan, with every kind that is built.

use crate::cli::{self, PipelineArgs};
use crate::commands;
use crate::files::RealFiles;
use engine_base::{Diagnostic, Diagnostics, Severity, SourceMap};
use engine_plan::{Plan, Registries};
use engine_spec::Pipeline;
use std::path::Path;

/// Every kind that is built.
pub(crate) fn registries() -> Registries {
    Registries {
        sources: engine_connectors::source_kinds(),
        operators: engine_operators::operator_kinds(),
        sinks: engine_connectors::sink_kinds(),
        connections: engine_connectors::connection_kinds(),
        models: engine_models::model_kinds(),
    }
}

/// Loads and plans a pipeline. Problems are added to `diagnostics`; with an error there is no plan.
///
/// What `required` asks for, variables and secrets, must be there for a run; otherwise a placeholder stands in.
pub(crate) fn plan_file(
    path: &Path,
    arguments: &PipelineArgs,
    required: bool,
    sources: &mut SourceMap,
    diagnostics: &mut Diagnostics,
) -> Option<Plan> {
    load_and_plan(path, arguments, required, sources, diagnostics).map(|(_, plan)| plan)
}

/// The same, with the pipeline as it was read.
pub(crate) fn load_and_plan(
    path: &Path,
    arguments: &PipelineArgs,
    required: bool,
    sources: &mut SourceMap,
    diagnostics: &mut Diagnostics,
) -> Option<(Pipeline, Plan)> {
    let options = arguments.options(required);
    let mut found = Diagnostics::new();
    let plan = engine_spec::load(path, &RealFiles, &options, sources, &mut found).and_then(|pipeline| {
        let plan = engine_plan::plan(&pipeline, &registries(), &RealFiles, sources, &mut found);
        plan.filter(|_| !found.has_errors()).map(|plan| (pipeline, plan))
    });
    diagnostics.extend(found);
    plan
}

/// The plan of a pipeline that is to run; with an error there is none. Problems go to stderr: for people, or as lines of the
/// log where that is for machines.
pub(crate) fn load_plan(path: &Path, arguments: &PipelineArgs, to_log: bool) -> Option<Plan> {
    let mut sources = SourceMap::default();
    let mut diagnostics = Diagnostics::new();
    let plan = plan_file(path, arguments, true, &mut sources, &mut diagnostics);
    if to_log {
        diagnostics.sort();
        diagnostics.iter().for_each(|diagnostic| log(diagnostic, &sources));
    } else {
        commands::report(cli::human(), &mut diagnostics, &sources);
    }
    plan
}

/// Writes a problem to the log.
fn log(diagnostic: &Diagnostic, sources: &SourceMap) {
    let Diagnostic { code, severity, message, primary, help, .. } = diagnostic;
    let place = primary.as_ref().and_then(|label| {
        let file = sources.file(label.span.file)?;
        let (line, column) = file.line_column(label.span.start);
        Some(format!("{}:{line}:{column}", file.path))
    });
    let (code, place, help) = (code.0, place.unwrap_or_default(), help.join("; "));
    match severity {
        Severity::Error => tracing::error!(code, place, help, "{message}"),
        Severity::Warning => tracing::warn!(code, place, help, "{message}"),
        Severity::Note => tracing::info!(code, place, help, "{message}"),
    }
}
