//! A window of many keys: what a key takes, and by how much firing it holds up another branch.

use super::Context;
use super::outcome::{Kind, Outcome};
use std::io::{BufRead, BufReader};
use std::process::Stdio;
use std::time::{Duration, Instant};
use xtask::Result;
use xtask::process::Measured;

/// Of `xtask/bench/many-keys.yaml`.
const KEYS: f64 = 1e6;
const TICK: Duration = Duration::from_millis(5);

/// Runs it, and a second time without the window's rows, for what the process takes anyway.
pub(super) fn run(context: &Context<'_>) -> Result<Outcome> {
    const DELAY_TARGET_MS: f64 = 100.0;
    let rows = context.rows.unwrap_or(10_000_000);
    let mut outcome = Outcome::default();
    let (empty_bytes, _) = once(context, 1, 1)?;
    for workers in [1, 2] {
        let (bytes, gaps) = once(context, rows, workers)?;
        let of = format!("{workers} worker{}", if workers == 1 { "" } else { "s" });
        let of_key = bytes.saturating_sub(empty_bytes) as f64 / KEYS.min(rows as f64);
        outcome.add(format!("{of}: bytes for each key, at most"), Kind::Count, of_key);
        let worst = gaps.iter().max().copied().unwrap_or_default().saturating_sub(TICK);
        outcome.add_with_target(
            format!("{of}: the longest wait of the other branch"),
            Kind::Latency,
            worst.as_secs_f64() * 1e3,
            DELAY_TARGET_MS,
        );
    }
    outcome.remarks.push(format!("{rows} rows; the other branch has a row every {} ms", TICK.as_millis()));
    Ok(outcome)
}

/// The most memory that was resident, and the times between the rows of the other branch.
fn once(context: &Context<'_>, rows: u64, workers: usize) -> Result<(u64, Vec<Duration>)> {
    let mut command = context.run_engine(&context.pipeline("many-keys.yaml"))?;
    command.args(["--workers", &workers.to_string(), "--set", &format!("sources.rows.rows={rows}")]);
    if rows < 1_000 {
        command.args(["--set", "sources.ticks.rows=400"]);
    }
    let mut engine = Measured::start(command.stdout(Stdio::piped()))?;
    let out = engine.streams().stdout.take().ok_or("the engine has no output")?;
    let mut gaps = Vec::new();
    let mut last: Option<Instant> = None;
    for line in BufReader::new(out).lines() {
        line?;
        let now = Instant::now();
        gaps.extend(last.map(|last| now - last));
        last = Some(now);
    }
    Ok((engine.finish()?.rss_bytes_max, gaps))
}
