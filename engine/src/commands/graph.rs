//! `engine graph FILE`: the dataflow as a drawing.

use super::{Exit, print, report};
use crate::cli::{self, Drawing, Graph};
use crate::load::plan_file;
use engine_base::{Diagnostics, SourceMap};

/// A pipeline with problems is not drawn: they are reported instead.
pub(crate) fn run(arguments: &Graph) -> Exit {
    let mut sources = SourceMap::default();
    let mut diagnostics = Diagnostics::new();
    let plan = plan_file(&arguments.file, &arguments.pipeline, false, &mut sources, &mut diagnostics);
    report(cli::human(), &mut diagnostics, &sources);
    let Some(plan) = plan else {
        return if diagnostics.has_errors() { Exit::Problems } else { Exit::Success };
    };
    print(&match arguments.format {
        Drawing::Text => engine_plan::graph::text(&plan),
        Drawing::Mermaid => engine_plan::graph::mermaid(&plan),
    });
    Exit::Success
}
