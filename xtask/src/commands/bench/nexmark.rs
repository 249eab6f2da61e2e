//! `nexmark`: the queries of `pipelines/nexmark`, each with one worker and with two, on sinks that drop the rows.
//!
//! The rows are made while they are read, by the workers, so the generator's share is in every figure; `q0` is little else.

use super::Context;
use super::outcome::{Outcome, Query, median};
use std::fs;
use std::path::{Path, PathBuf};
use xtask::Result;
use xtask::process::{Usage, measure};

/// Events of all kinds.
const EVENTS: u64 = 2_000_000;
const WORKERS: [usize; 2] = [1, 2];
/// Of so many events, how many each source gives.
const ROUND: u64 = 50;
const SOURCES: [(&str, u64); 3] = [("persons", 1), ("auctions", 3), ("bids", 46)];

pub(super) fn run(context: &Context<'_>) -> Result<Outcome> {
    let events = context.rows.unwrap_or(EVENTS);
    let mut outcome = Outcome::default();
    for (name, pipeline) in queries(&context.repository.join("pipelines/nexmark"))? {
        if !context.queries.is_empty() && !context.queries.contains(&name) {
            continue;
        }
        let sources = sources(&fs::read_to_string(&pipeline)?, events);
        let rows = sources.iter().map(|(_, rows)| rows).sum();
        let mut of_workers = Vec::new();
        for workers in WORKERS {
            let once = || one(context, &pipeline, &sources, workers);
            // The first has to read the binary from the disk.
            if outcome.queries.is_empty() && of_workers.is_empty() {
                once()?;
            }
            let usages = (0..context.runs).map(|_| once()).collect::<Result<Vec<_>>>()?;
            eprintln!("  {name}, workers: {workers}: {:.2} s", median(usages.iter().map(|usage| usage.wall_s)));
            of_workers.push((workers, usages));
        }
        outcome.queries.push(Query { name, rows, of_workers });
    }
    if outcome.queries.is_empty() {
        return Err("none of these queries is in pipelines/nexmark".into());
    }
    outcome.remarks.push("rows are those of all sources of a query; making them is part of it".into());
    Ok(outcome)
}

/// The pipelines by their names, in the order of their numbers.
fn queries(folder: &Path) -> Result<Vec<(String, PathBuf)>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        let name = name.strip_suffix(".yaml").unwrap_or_default().to_owned();
        if let Some(number) = name.strip_prefix('q').and_then(|number| number.parse::<u32>().ok()) {
            found.push((number, name, path));
        }
    }
    found.sort();
    Ok(found.into_iter().map(|(_, name, path)| (name, path)).collect())
}

/// The sources of a pipeline, and how many rows each gives.
fn sources(pipeline: &str, events: u64) -> Vec<(&'static str, u64)> {
    let is_there = |(name, _): &(&'static str, u64)| pipeline.contains(&format!("\n  {name}: {{ type: generate"));
    SOURCES.into_iter().filter(is_there).map(|(name, of_round)| (name, events * of_round / ROUND)).collect()
}

fn one(context: &Context<'_>, pipeline: &Path, sources: &[(&str, u64)], workers: usize) -> Result<Usage> {
    let mut command = context.run_engine(pipeline)?;
    command.args(["--no-metrics", "--workers", &workers.to_string()]);
    for (source, rows) in sources {
        command.args(["--set", &format!("sources.{source}.rows={rows}")]);
    }
    // The query that is about a file writes it here.
    let out = context.folder.join("nexmark.out");
    if fs::read_to_string(pipeline)?.contains("type: file") {
        command.args(["--set", &format!("sinks.out.path={}", out.display())]);
    }
    let usage = measure(&mut command);
    let _ = fs::remove_file(out);
    usage
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_query_is_found_with_its_sources() {
        let root =
            std::env::var_os("CARGO_MANIFEST_DIR").map_or_else(|| env!("CARGO_MANIFEST_DIR").into(), PathBuf::from);
        let found = queries(&root.join("../pipelines/nexmark")).unwrap();
        let names: Vec<&str> = found.iter().map(|(name, _)| name.as_str()).collect();
        assert!(names.starts_with(&["q0", "q1", "q2", "q3"]) && names.ends_with(&["q21", "q22"]), "{names:?}");
        for (name, path) in &found {
            let text = fs::read_to_string(path).unwrap();
            assert_eq!(sources(&text, 100).len(), text.matches("nexmark: {").count(), "{name}");
        }
        let (_, q3) = &found[3];
        assert_eq!(sources(&fs::read_to_string(q3).unwrap(), 1_000), [("persons", 20), ("auctions", 60)]);
    }
}
