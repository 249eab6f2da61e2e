//! What the engine costs beside its work: epochs, idleness, checking a file, memory over time.

use super::Context;
use super::live::Live;
use super::outcome::{Kind, Outcome, median};
use std::fmt::Write;
use std::fs;
use std::path::PathBuf;
use std::process::Stdio;
use std::thread;
use std::time::{Duration, Instant};
use xtask::Result;
use xtask::process::{Measured, measure};

/// Left out at the start of a measurement of CPU: threads are started, the first batches compiled.
const SETTLE: Duration = Duration::from_secs(2);

/// The CPU of a plan of 200 steps, of which 20 are keyed and exchange rows, at 500 epochs a second of one row each.
pub(super) fn epochs(context: &Context<'_>) -> Result<Outcome> {
    const STEPS: usize = 200;
    let time = Duration::from_secs(context.seconds.unwrap_or(10));
    let rate = context.rate.unwrap_or(500);
    let mut outcome = Outcome::default();
    for (what, keyed_every, workers) in
        [("20 of 200 steps keyed", 10, 4), ("20 of 200 steps keyed", 10, 1), ("200 row-wise steps", usize::MAX, 4)]
    {
        let source = format!(
            "{{ type: generate, rate: {rate}/s, columns: {{ k: row_number() % 1000, x: row_number(), \
             at: to_timestamp_millis(1700000000000 + row_number()) }}, event_time: {{ column: at, max_delay: 1s }} }}"
        );
        let pipeline = write(context, "epochs.yaml", &steps(&source, STEPS, keyed_every))?;
        let mut command = context.run_engine(&pipeline)?;
        command.args(["--workers", &workers.to_string()]);
        let engine = Live::start(command)?;
        thread::sleep(SETTLE);
        let (start, epochs) = (Instant::now(), engine.metric("engine_epochs_closed_total")?);
        let share = engine.cpu_share(time)?;
        let epochs = engine.metric("engine_epochs_closed_total")? - epochs;
        let per_s = epochs / start.elapsed().as_secs_f64();
        engine.interrupt()?;
        let what = format!("{what}, {workers} worker{}", if workers == 1 { "" } else { "s" });
        outcome.add(format!("{what}: epochs"), Kind::Rate, per_s);
        outcome.add(format!("{what}: CPU"), Kind::Share, share);
    }
    Ok(outcome)
}

/// The CPU of pipelines that get nothing: `xtask/bench/open-loop-stdin.yaml` on an open pipe, and `pipelines/fraud.yaml` on
/// a file that does not grow.
pub(super) fn idle(context: &Context<'_>) -> Result<Outcome> {
    let time = Duration::from_secs(context.seconds.unwrap_or(20));
    let empty = write(context, "empty.jsonl", "")?;
    let mut outcome = Outcome::default();
    for workers in ["1", "4"] {
        for (what, pipeline) in [
            ("stdin", context.pipeline("open-loop-stdin.yaml")),
            ("fraud on a followed file", context.repository.join("pipelines/fraud.yaml")),
        ] {
            let mut command = context.run_engine(&pipeline)?;
            command.args(["--workers", workers]).stdin(Stdio::piped());
            if what != "stdin" {
                command.args(["--set", &format!("sources.transactions.path={}", empty.display())]);
                command.args(["--set", "sources.transactions.follow=true"]);
                command
                    .args(["--set", &format!("sinks.alerts.path={}", context.folder.join("alerts.jsonl").display())]);
            }
            let engine = Live::start(command)?;
            thread::sleep(SETTLE);
            let share = engine.cpu_share(time)?;
            engine.interrupt()?;
            outcome.add(format!("{what}, workers: {workers}"), Kind::Share, share);
        }
    }
    Ok(outcome)
}

/// How long `engine dry-run` takes over a pipeline of 50 steps, the start of the process included.
pub(super) fn dry_run(context: &Context<'_>) -> Result<Outcome> {
    const STEPS: usize = 50;
    const RUNS: usize = 20;
    const TARGET_MS: f64 = 200.0;
    let source = "{ type: file, path: rows.jsonl, follow: true, schema: { k: int64, x: int64, at: timestamp }, \
                  event_time: { column: at, max_delay: 1s } }";
    let pipeline = write(context, "dry-run.yaml", &steps(source, STEPS, 5))?;
    let mut times_ms = Vec::new();
    for _ in 0..=RUNS {
        let mut command = std::process::Command::new(context.engine()?);
        let usage = measure(command.arg("dry-run").arg(&pipeline).stdout(Stdio::null()))?;
        times_ms.push(usage.wall_s * 1e3);
    }
    let mut outcome = Outcome::default();
    let time_ms = median(times_ms[1..].iter().copied()); // the first has to read the binary from the disk
    outcome.add_with_target(format!("{STEPS} steps, median of {RUNS}"), Kind::Duration, time_ms, TARGET_MS);
    Ok(outcome)
}

/// The resident set of a keyed pipeline while it takes all rows.
pub(super) fn memory(context: &Context<'_>) -> Result<Outcome> {
    const ROWS: u64 = 10_000_000;
    const POINTS: usize = 10;
    const EVERY: Duration = Duration::from_secs(1);
    let rows = context.rows.unwrap_or(ROWS);
    let mut command = context.run_engine(&context.pipeline("memory.yaml"))?;
    let engine = Measured::start(command.args(["--workers", "1", "--set", &format!("sources.rows.rows={rows}")]))?;
    let mut curve = Vec::new();
    while engine.runs() {
        thread::sleep(EVERY);
        // It may have ended just now: then there is no more to see.
        match engine.rss_bytes() {
            Ok(bytes) if bytes > 0 => curve.push((engine.started().elapsed().as_secs_f64(), bytes)),
            _ => break,
        }
    }
    let usage = engine.finish()?;
    let mut outcome = Outcome::default();
    for point in 1..=POINTS.min(curve.len()) {
        let (at_s, bytes) = curve[point * curve.len() / POINTS.min(curve.len()) - 1];
        outcome.add(format!("resident after {at_s:.0} s"), Kind::Size, bytes as f64 / f64::from(1 << 20));
    }
    outcome.add("resident, at most", Kind::Size, usage.rss_bytes_max as f64 / f64::from(1 << 20));
    outcome.add("rows", Kind::Rate, rows as f64 / usage.wall_s);
    outcome.remarks.push(format!("{rows} rows of 10,000 keys, 60,000 rows in the window"));
    Ok(outcome)
}

fn write(context: &Context<'_>, name: &str, text: &str) -> Result<PathBuf> {
    let path = context.folder.join(name);
    fs::write(&path, text)?;
    Ok(path)
}

/// A pipeline of `count` steps, one after the other. Every so many is a `rolling` by `k`, the others are maps and filters.
fn steps(source: &str, count: usize, keyed_every: usize) -> String {
    let mut text = format!("version: 1\npipeline: bench_steps\nsources:\n  rows:\n    {source}\noperators:\n");
    let mut input = "rows".to_owned();
    let mut counted: Option<String> = None;
    for at in 1..=count {
        let _ = write!(text, "  step_{at}:\n    input: {input}\n    ");
        text += &match counted.take() {
            _ if at % keyed_every == 0 => {
                counted = Some(format!("c_{at}"));
                format!("type: rolling\n    key: k\n    over: 1s\n    columns: {{ c_{at}: count(*) }}\n")
            }
            // The map behind a keyed step takes its result in.
            Some(column) => format!("type: map\n    set: {{ x: x + {column} }}\n    keep: [k, x, at]\n"),
            None if at % 2 == 0 => "type: filter\n    where: x >= 0\n".into(),
            None => "type: map\n    set: { x: x + 1 }\n".into(),
        };
        input = format!("step_{at}");
    }
    text + &format!("sinks:\n  out: {{ type: blackhole, input: {input} }}\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pipeline_has_the_steps_that_were_asked_for() {
        let text = steps("{ type: stdin }", 20, 10);
        assert_eq!(text.matches("  step_").count(), 20);
        assert_eq!(text.matches("type: rolling").count(), 2);
        assert!(text.contains("set: { x: x + c_10 }") && text.contains("out: { type: blackhole, input: step_20 }"));
        assert_eq!(steps("{ type: stdin }", 20, usize::MAX).matches("rolling").count(), 0);
    }
}
