//! `large-state`: a gigabyte of state. What a checkpoint holds rows up by, how long it takes to load, and how long after a kill
//! with ten seconds to replay the engine is back in step with an input that went on meanwhile.

use super::Context;
use super::live::Live;
use super::open_loop::read;
use super::outcome::{Kind, Outcome, percentile};
use std::fs::{self, File, OpenOptions};
use std::io::{BufWriter, Write};
use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};
use xtask::Result;

/// Of `xtask/bench/large-state.yaml`.
const SAMPLE: u64 = 500;
const KEYS: u64 = 1_000_000;
/// Rows that make up a gigabyte.
const ROWS: u64 = 10_000_000;
const CHECKPOINT: Duration = Duration::from_secs(10);
/// It is killed so long before the next checkpoint begins.
const BEFORE_CHECKPOINT: Duration = Duration::from_millis(300);
/// A row that takes longer is not in step.
const IN_STEP_MS: f64 = 500.0;
const PAUSE_TARGET_MS: f64 = 20.0;
const LOAD_TARGET_MS: f64 = 10_000.0;
const BACK_TARGET_MS: f64 = 20_000.0;
const PATIENCE: Duration = Duration::from_secs(120);
const TICK: Duration = Duration::from_millis(1);

pub(super) fn run(context: &Context<'_>) -> Result<Outcome> {
    let fill = context.rows.unwrap_or(ROWS);
    let (rows, state) = (context.folder.join("large-state.jsonl"), context.folder.join("large-state"));
    let kept = context.folder.join("large-state-kept.jsonl");
    let _ = fs::remove_dir_all(&state);
    let _ = fs::remove_file(&kept);
    let mut writer = BufWriter::new(File::create(&rows)?);
    (0..fill).try_for_each(|number| line(&mut writer, number))?;
    writer.flush()?;
    drop(writer);
    let start = || -> Result<Live> {
        let mut command = context.run_engine(&context.pipeline("large-state.yaml"))?;
        command.args(["--workers", "1", "--set", &format!("sources.rows.path={}", rows.display())]);
        command.args(["--set", &format!("sinks.kept.path={}", kept.display()), "--state"]).arg(&state);
        // The last checkpoint may be of all there is.
        command.args(["--drain-timeout", "5m"]);
        command.stdout(Stdio::piped());
        Live::start(command)
    };
    let mut outcome = Outcome::default();

    // All of it as fast as it goes, and stopped in order.
    let mut engine = start()?;
    let begun = Instant::now();
    let out = engine.process.streams().stdout.take().ok_or("no stdout")?;
    let samples = usize::try_from(fill / SAMPLE)?;
    let (seen, all_seen) = mpsc::channel();
    thread::spawn(move || seen.send(read(out, begun, samples)));
    let arrivals =
        all_seen.recv_timeout(PATIENCE).map_err(|_| "not all rows came; engine.log among the inputs says why")??;
    let filled = arrivals.iter().flatten().max().copied().unwrap_or_default();
    let most = fill as f64 / filled.as_secs_f64();
    let rate = context.rate.map_or(most / 2.0, |rate| rate as f64);
    engine.interrupt()?;
    outcome.add("rows a second that fill it", Kind::Rate, most);
    outcome.add("entries of the checkpoint", Kind::Size, entries_bytes(context, &state)? / f64::from(1 << 20));

    // Rows at half of that, by a timetable that waits for nobody.
    let seconds = 60 + PATIENCE.as_secs();
    let count = usize::try_from(fill / SAMPLE)? + (rate * seconds as f64) as usize / SAMPLE as usize;
    let before = Instant::now();
    let mut engine = start()?;
    outcome.add_with_target("load it: from the start to ready", Kind::Duration, ms(before.elapsed()), LOAD_TARGET_MS);
    let out = engine.process.streams().stdout.take().ok_or("no stdout")?;
    let begun = Instant::now();
    let ends = Arc::new(AtomicBool::new(false));
    let feeder = {
        let (rows, ends) = (rows.clone(), ends.clone());
        thread::spawn(move || feed(&rows, begun, rate, fill, &ends))
    };
    let reader = thread::spawn(move || read(out, begun, count));
    let second = second_checkpoint(&state, begun)?;
    thread::sleep((second + CHECKPOINT - BEFORE_CHECKPOINT).saturating_sub(begun.elapsed()));
    let killed = begun.elapsed();
    engine.process.signal(libc::SIGKILL);
    let _ = engine.process.finish();
    let first = reader.join().map_err(|_| "the reader failed")??;

    // Again, while the rows go on.
    let again = begun.elapsed();
    let mut engine = start()?;
    let loaded = begun.elapsed() - again;
    let out = engine.process.streams().stdout.take().ok_or("no stdout")?;
    let reader = thread::spawn(move || read(out, begun, count));
    thread::sleep(Duration::from_secs(40));
    ends.store(true, Ordering::Relaxed);
    let behind = feeder.join().map_err(|_| "the feeder failed")??;
    engine.interrupt()?;
    let later = reader.join().map_err(|_| "the reader failed")??;

    let latency_ms = |(sample, at): (usize, &Option<Duration>)| {
        let due_s = (sample as f64 * SAMPLE as f64 - fill as f64) / rate;
        let at = (*at)?;
        (due_s >= 0.0).then_some((at, (at.as_secs_f64() - due_s) * 1e3))
    };
    let mut steady: Vec<(Duration, f64)> = first.iter().enumerate().filter_map(latency_ms).collect();
    steady.retain(|(at, _)| *at > Duration::from_secs(3));
    let quiet = |at: &Duration| *at < CHECKPOINT - Duration::from_secs(1);
    for (what, of) in [("before a checkpoint", true), ("with checkpoints", false)] {
        let mut latencies: Vec<f64> = steady.iter().filter(|(at, _)| quiet(at) == of).map(|(_, ms)| *ms).collect();
        outcome.add_latencies(&format!("under load, {what}"), &mut latencies, None);
        outcome.add(format!("under load, {what}, longest"), Kind::Latency, percentile(&latencies, 1.0));
    }
    let longest = |of: bool| steady.iter().filter(|(at, _)| quiet(at) == of).map(|(_, ms)| *ms).fold(0.0, f64::max);
    outcome.add_with_target(
        "a checkpoint adds to the longest",
        Kind::Latency,
        longest(false) - longest(true),
        PAUSE_TARGET_MS,
    );
    outcome.add("killed so long after its start", Kind::Duration, ms(killed));
    outcome.add_with_target("load it after the kill", Kind::Duration, ms(loaded), LOAD_TARGET_MS);
    let back = later.iter().enumerate().filter_map(latency_ms).find(|(_, ms)| *ms < IN_STEP_MS);
    let back = back.map_or(f64::INFINITY, |(at, _)| ms(at - again));
    outcome.add_with_target("in step again, from the start after the kill", Kind::Duration, back, BACK_TARGET_MS);
    outcome.remarks.push(format!(
        "{fill} rows of {KEYS} keys, then {rate:.0} rows a second; the feeder was behind by {:.0} ms at most; the machine's cores are \
         shared by engine, feeder and reader",
        ms(behind)
    ));
    let _ = fs::remove_dir_all(&state);
    let _ = fs::remove_file(&rows);
    let _ = fs::remove_file(&kept);
    Ok(outcome)
}

fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

/// A row: its key is its number, well mixed.
fn line(to: &mut impl Write, number: u64) -> Result<()> {
    const AT_MS: u64 = 1_700_000_000_000;
    let key = number.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 20;
    let at = AT_MS + number / 100;
    writeln!(to, "{{\"number\":{number},\"key\":{},\"amount\":{}.5,\"at\":{at}}}", key % KEYS, number % 1000)?;
    Ok(())
}

/// Adds rows by the timetable until it is told to end. How far it fell behind at most.
fn feed(rows: &Path, start: Instant, rate: f64, first: u64, ends: &AtomicBool) -> Result<Duration> {
    let mut file = OpenOptions::new().append(true).open(rows)?;
    let (mut number, mut behind, mut lines) = (0, Duration::ZERO, Vec::new());
    while !ends.load(Ordering::Relaxed) {
        let due = (start.elapsed().as_secs_f64() * rate) as u64 + 1;
        behind = behind.max(start.elapsed().saturating_sub(Duration::from_secs_f64(number as f64 / rate)));
        lines.clear();
        while number < due {
            line(&mut lines, first + number)?;
            number += 1;
        }
        file.write_all(&lines)?;
        thread::sleep(TICK);
    }
    Ok(behind)
}

/// When the second new checkpoint was there.
fn second_checkpoint(state: &Path, begun: Instant) -> Result<Duration> {
    let newest = || -> Result<Option<String>> {
        let names =
            fs::read_dir(state.join("checkpoint"))?.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
        Ok(names.filter(|name| name.starts_with("manifest-") && name.ends_with(".json")).max())
    };
    let mut last = newest()?;
    let mut seen = 0;
    while begun.elapsed() < PATIENCE {
        let now = newest()?;
        if now > last {
            last = now;
            seen += 1;
            if seen == 2 {
                return Ok(begun.elapsed());
            }
        }
        thread::sleep(Duration::from_millis(5));
    }
    Err("no second checkpoint was made".into())
}

/// Bytes of what the newest checkpoint holds.
fn entries_bytes(context: &Context<'_>, state: &Path) -> Result<f64> {
    let output = std::process::Command::new(context.engine()?).args(["state", "list"]).arg(state).output()?;
    let text = String::from_utf8(output.stdout)?;
    let last = text.lines().rfind(|line| line.starts_with("checkpoint ")).ok_or("no checkpoint")?;
    let size = last.rsplit(", ").next().unwrap_or_default();
    let unit = size.trim_start_matches(|c: char| c.is_ascii_digit());
    let number = size.strip_suffix(unit).unwrap_or(size);
    let factor = match unit {
        "KiB" => 1024.0,
        "MiB" => 1024.0 * 1024.0,
        "GiB" => 1024.0 * 1024.0 * 1024.0,
        _ => 1.0,
    };
    Ok(number.parse::<f64>()? * factor)
}
