//! `open-loop-file`: from a row's time in a timetable, by a growing file or by stdin, to its appearance at the engine's stdout.

use super::Context;
use super::live::Live;
use super::outcome::{Kind, Outcome};
use std::fs::File;
use std::io::{Read, Write};
use std::process::Stdio;
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};
use xtask::Result;

const RATE: u64 = 20_000;
const SECONDS: u64 = 20;
const P99_TARGET_MS: f64 = 20.0;
/// Left out of the latencies.
const WARM_UP_S: u64 = 2;
/// The writer sleeps so long, and then writes all rows that are due.
const TICK: Duration = Duration::from_millis(1);
/// How long the last rows may take.
const PATIENCE: Duration = Duration::from_secs(10);

pub(super) fn run(context: &Context<'_>) -> Result<Outcome> {
    let (rate, seconds) = (context.rate.unwrap_or(RATE), context.seconds.unwrap_or(SECONDS));
    let count = usize::try_from(rate * (WARM_UP_S + seconds))?;
    let mut outcome = Outcome::default();
    for (what, pipeline) in [("growing file", "open-loop-file.yaml"), ("stdin", "open-loop-stdin.yaml")] {
        let rows = context.folder.join("open-loop.jsonl");
        let file = File::create(&rows)?;
        let mut command = context.run_engine(&context.pipeline(pipeline))?;
        command.args(["--workers", "1"]).stdin(Stdio::piped()).stdout(Stdio::piped());
        if what != "stdin" {
            command.args(["--set", &format!("sources.rows.path={}", rows.display())]);
        }
        let mut engine = Live::start(command)?;
        let streams = engine.process.streams();
        let stdin = streams.stdin.take().ok_or("no stdin")?;
        let stdout = streams.stdout.take().ok_or("no stdout")?;
        let (mut to, _open): (Box<dyn Write + Send>, _) =
            if what == "stdin" { (Box::new(stdin), None) } else { (Box::new(file), Some(stdin)) };
        let start = Instant::now();
        let (seen, all_seen) = mpsc::channel();
        let reader = thread::spawn(move || {
            let arrivals = read(stdout, start, count);
            let _ = seen.send(());
            arrivals
        });
        let behind = write(&mut *to, start, rate as f64, count)?;
        let _ = all_seen.recv_timeout(PATIENCE);
        drop(to);
        engine.interrupt()?; // ends stdout, and so the reader
        let arrivals = reader.join().map_err(|_| "the reader failed")??;
        let came = arrivals.iter().flatten().count();
        let warm = usize::try_from(rate * WARM_UP_S)?;
        let latency_ms = |(number, at): (usize, &Option<Duration>)| {
            Some((at.as_ref()?.as_secs_f64() - number as f64 / rate as f64) * 1e3)
        };
        let mut latencies_ms: Vec<f64> = arrivals.iter().enumerate().skip(warm).filter_map(latency_ms).collect();
        outcome.add_latencies(&format!("{what} to stdout"), &mut latencies_ms, Some(P99_TARGET_MS));
        outcome.add(format!("{what}: writer behind, at most"), Kind::Duration, behind.as_secs_f64() * 1e3);
        if came != count {
            outcome.remarks.push(format!("{what}: {came} of {count} rows came"));
        }
    }
    outcome.remarks.push(format!("{rate} rows a second for {seconds} s, written each millisecond"));
    Ok(outcome)
}

/// Writes rows by the timetable, and says how far it fell behind at most.
fn write(to: &mut dyn Write, start: Instant, rate: f64, count: usize) -> Result<Duration> {
    let (mut number, mut behind, mut lines) = (0, Duration::ZERO, Vec::new());
    while number < count {
        let due = ((start.elapsed().as_secs_f64() * rate) as usize + 1).min(count);
        behind = behind.max(start.elapsed().saturating_sub(Duration::from_secs_f64(number as f64 / rate)));
        lines.clear();
        while number < due {
            writeln!(
                lines,
                "{{\"number\":{number},\"name\":\"row {number}\",\"price\":{}.5,\"text\":\"of a row that is of an \
                 ordinary length\"}}",
                number % 1000
            )?;
            number += 1;
        }
        to.write_all(&lines)?;
        thread::sleep(TICK);
    }
    Ok(behind)
}

/// When each row's line was there, by the number in it: `{"number":17,...`. Ends when all have come, or with the stream.
pub(super) fn read(mut stdout: impl Read, start: Instant, count: usize) -> Result<Vec<Option<Duration>>> {
    let mut arrivals = vec![None; count];
    let (mut buffer, mut chunk, mut left) = (Vec::new(), vec![0; 1 << 16], count);
    while left > 0 {
        let length = stdout.read(&mut chunk)?;
        let at = start.elapsed();
        if length == 0 {
            break;
        }
        buffer.extend_from_slice(&chunk[..length]);
        let mut from = 0;
        while let Some(end) = buffer[from..].iter().position(|byte| *byte == b'\n') {
            let line = &buffer[from..from + end];
            from += end + 1;
            let digits = line.strip_prefix(b"{\"number\":").ok_or("a line without a number")?;
            let number = digits.iter().take_while(|byte| byte.is_ascii_digit());
            let number = number.fold(0, |number, byte| number * 10 + usize::from(byte - b'0'));
            let place = arrivals.get_mut(number).ok_or_else(|| format!("row {number} was not written"))?;
            if place.replace(at).is_none() {
                left -= 1;
            }
        }
        buffer.drain(..from);
    }
    Ok(arrivals)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_written_in_time_and_found_again() {
        let (start, mut lines) = (Instant::now(), Vec::new());
        write(&mut lines, start, 10_000.0, 100).unwrap();
        assert!(start.elapsed() >= Duration::from_micros(9_900));
        // A row that is missing, and one that comes twice.
        let text = String::from_utf8(lines).unwrap();
        let some: Vec<&str> = text.lines().filter(|line| !line.contains("\"number\":7,")).collect();
        let text = format!("{}\n{}\n", some[0], some.join("\n"));
        let arrivals = read(text.as_bytes(), start, 100).unwrap();
        assert!(arrivals.iter().enumerate().all(|(number, arrival)| arrival.is_some() == (number != 7)));
        assert!(read(&b"what\n"[..], start, 1).is_err());
    }
}
