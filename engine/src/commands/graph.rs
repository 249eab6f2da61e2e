//! `engine graph FILE`: the dataflow as a drawing.

use super::{Exit, planned, print};
use crate::cli::{Drawing, Graph};

/// A pipeline with problems is not drawn: they are reported instead.
pub(crate) fn run(arguments: &Graph) -> Exit {
    let plan = match planned(&arguments.file, &arguments.pipeline) {
        Ok(plan) => plan,
        Err(exit) => return exit,
    };
    print(&match arguments.format {
        Drawing::Text => engine_plan::graph::text(&plan),
        Drawing::Mermaid => engine_plan::graph::mermaid(&plan),
    });
    Exit::Success
}
