//! Fuzz target: any text as a pipeline, planned with every kind as `engine dry-run` does, and shown in every form.
//!
//! Behind a byte 0xff, which no text holds, stands what every other file holds: a schema, a part, weights. Without it, that
//! is a small file of weights.

#![no_main]

use engine_base::diagnostic::render::{Format, render};
use engine_base::{Diagnostics, SourceMap};
use engine_plan::{Registries, graph, plan, print};
use engine_spec::{Files, LoadOptions, load};
use libfuzzer_sys::fuzz_target;
use std::io;
use std::path::{Path, PathBuf};

const PIPELINE: &str = "pipeline.yaml";
const WEIGHTS: &[u8] = include_bytes!("../../cases/broken/model/small.safetensors");

/// A pipeline, and the same bytes in every other file.
struct TwoFiles<'b> {
    pipeline: &'b [u8],
    other: &'b [u8],
}

impl Files for TwoFiles<'_> {
    fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        Ok(if path == Path::new(PIPELINE) { self.pipeline } else { self.other }.to_vec())
    }
    fn env(&self, name: &str) -> Option<String> {
        name.len().is_multiple_of(2).then(|| "1".to_owned())
    }
    fn secret(&self, name: &str) -> Option<String> {
        self.env(name)
    }
    fn glob(&self, pattern: &Path) -> io::Result<Vec<PathBuf>> {
        Ok(vec![pattern.to_path_buf()])
    }
}

fn registries() -> Registries {
    Registries {
        sources: engine_connectors::source_kinds(),
        operators: engine_operators::operator_kinds(),
        sinks: engine_connectors::sink_kinds(),
        connections: engine_connectors::connection_kinds(),
        models: engine_models::model_kinds(),
    }
}

fuzz_target!(|bytes: &[u8]| {
    let (pipeline, other) = match bytes.iter().position(|byte| *byte == 0xff) {
        Some(at) => (&bytes[..at], &bytes[at + 1..]),
        None => (bytes, WEIGHTS),
    };
    let files = TwoFiles { pipeline, other };
    let (mut sources, mut found) = (SourceMap::default(), Diagnostics::new());
    let options = LoadOptions { secrets_required: false, ..LoadOptions::default() };
    let planned = load(Path::new(PIPELINE), &files, &options, &mut sources, &mut found)
        .and_then(|pipeline| plan(&pipeline, &registries(), &files, &mut sources, &mut found));
    if let Some(plan) = planned.filter(|_| !found.has_errors()) {
        print::plan_text(&plan);
        graph::text(&plan);
        graph::mermaid(&plan);
    }
    found.sort();
    for format in [Format::Human { color: false }, Format::Json, Format::Sarif, Format::Github] {
        render(format, &found, &sources);
    }
});
