//! The progress line: one that rewrites itself on a terminal, a plain log line every ten seconds elsewhere.
//!
//! Standard error carries both the line and the log. So that they don't run into each other, the log writes through
//! [`LogWriter`], which takes the line away first; the next tick brings it back.

use crate::metrics::{Metrics, Totals};
use crate::ticker::Ticker;
use std::io::{self, IsTerminal, Write};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// How often the line on a terminal is rewritten.
const LINE_PERIOD: Duration = Duration::from_millis(500);
/// How often a log line is written elsewhere.
const LOG_PERIOD: Duration = Duration::from_secs(10);
/// The window over which rates and quantiles are told, in ticks of the line: four seconds.
const LINE_WINDOW: usize = 8;
/// Assumed where the terminal does not say.
const WIDTH_DEFAULT: usize = 80;
/// Back to the first column, and clear to the end of the line.
const CLEAR: &str = "\r\x1b[K";

/// Whether the line is on the terminal now.
static SHOWN: Mutex<bool> = Mutex::new(false);

/// How progress is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProgressMode {
    /// A line that rewrites itself, on standard error.
    Line,
    /// Log lines.
    Log,
    /// Not at all.
    Off,
}

impl ProgressMode {
    /// A line if standard error is a terminal, otherwise log lines. Rows that go to standard output are told apart from the
    /// line only if standard output is not a terminal too: `rows_to_stdout` says that there are such rows.
    pub fn detect(rows_to_stdout: bool) -> ProgressMode {
        let shares_terminal = rows_to_stdout && io::stdout().is_terminal();
        if io::stderr().is_terminal() && !shares_terminal { ProgressMode::Line } else { ProgressMode::Log }
    }
}

/// Tells progress until it is dropped; then the line is taken away.
#[derive(Debug)]
pub struct Progress(#[expect(dead_code, reason = "held for its drop")] Option<Ticker>);

impl Progress {
    /// Starts to tell.
    pub fn start(metrics: Arc<Metrics>, mode: ProgressMode) -> io::Result<Progress> {
        let first = metrics.totals();
        let ticker = match mode {
            ProgressMode::Off => None,
            ProgressMode::Line => {
                let mut window = Window { readings: vec![first], length: LINE_WINDOW };
                let tick = move || show(&window.line(metrics.totals()));
                Some(Ticker::start("progress", LINE_PERIOD, tick, || hide(&mut io::stderr().lock()))?)
            }
            ProgressMode::Log => {
                let mut window = Window { readings: vec![first], length: 1 };
                let tick = move || tracing::info!("{}", window.line(metrics.totals()));
                Some(Ticker::start("progress", LOG_PERIOD, tick, || ())?)
            }
        };
        Ok(Progress(ticker))
    }
}

/// The last readings, oldest first.
struct Window {
    readings: Vec<Totals>,
    length: usize,
}

impl Window {
    fn line(&mut self, now: Totals) -> String {
        let line = format_line(&self.readings[0], &now);
        self.readings.push(now);
        if self.readings.len() > self.length {
            self.readings.remove(0);
        }
        line
    }
}

/// Two readings as a line: rows a second in and out, lag, errors since the start, p99 end to end, bytes in flight.
pub fn format_line(before: &Totals, now: &Totals) -> String {
    let seconds = now.at_ns.saturating_sub(before.at_ns) as f64 / 1e9;
    let rate = |now: u64, before: u64| if seconds > 0.0 { now.saturating_sub(before) as f64 / seconds } else { 0.0 };
    let mut line = format!(
        "in {}/s, out {}/s",
        count(rate(now.rows_in, before.rows_in)),
        count(rate(now.rows_out, before.rows_out))
    );
    if let Some(lag) = now.lag_records {
        line += &format!(", lag {}", count(lag as f64));
    }
    line += &format!(", errors {}", count(now.errors as f64));
    if let Some(p99_ns) = now.end_to_end.since(&before.end_to_end).quantile(0.99) {
        line += &format!(", p99 {}", duration(p99_ns));
    }
    line + &format!(", in flight {}", bytes(now.in_flight_bytes))
}

/// A number with at most three digits before its unit: `999`, `12.3k`, `4.56M`.
fn count(number: f64) -> String {
    let units = [(1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")];
    // Rounded first, so that 999,999 is 1.00M and not 1000k.
    let rounded = if number >= 1.0 { round_to_digits(number, 3) } else { number };
    match units.into_iter().find(|(unit, _)| rounded >= *unit) {
        Some((unit, name)) => digits(rounded / unit) + name,
        None => format!("{number:.0}"),
    }
}

fn bytes(number: u64) -> String {
    let units = [(1_u64 << 40, "TiB"), (1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")];
    match units.into_iter().find(|(unit, _)| number >= *unit) {
        Some((unit, name)) => format!("{} {name}", digits(number as f64 / unit as f64)),
        None => format!("{number} B"),
    }
}

fn duration(ns: u64) -> String {
    match ns {
        0..1_000_000 => format!("{} us", digits(ns as f64 / 1e3)),
        1_000_000..1_000_000_000 => format!("{} ms", digits(ns as f64 / 1e6)),
        _ => format!("{} s", digits(ns as f64 / 1e9)),
    }
}

/// Three digits in all, or more before the point.
fn digits(number: f64) -> String {
    let decimals = if number < 9.995 { 2 } else { usize::from(number < 99.95) };
    format!("{number:.decimals$}")
}

fn round_to_digits(number: f64, digits: i32) -> f64 {
    let scale = 10_f64.powi(digits - 1 - number.log10().floor() as i32);
    (number * scale).round() / scale
}

fn show(line: &str) {
    let mut shown = SHOWN.lock().unwrap_or_else(PoisonError::into_inner);
    // A line as wide as the terminal would wrap, and then not go away.
    let fitting: String = line.chars().take(terminal_width().saturating_sub(1)).collect();
    let mut stderr = io::stderr().lock();
    // A terminal that is gone is no reason to stop.
    let _ = write!(stderr, "{CLEAR}{fitting}").and_then(|()| stderr.flush());
    *shown = true;
}

fn hide(out: &mut impl Write) {
    let mut shown = SHOWN.lock().unwrap_or_else(PoisonError::into_inner);
    if *shown {
        let _ = out.write_all(CLEAR.as_bytes()).and_then(|()| out.flush());
        *shown = false;
    }
}

fn terminal_width() -> usize {
    // SAFETY: an all-zero winsize is valid, and the call writes only to it.
    let size = unsafe {
        let mut size: libc::winsize = std::mem::zeroed();
        libc::ioctl(libc::STDERR_FILENO, libc::TIOCGWINSZ, &mut size);
        size
    };
    if size.ws_col == 0 { WIDTH_DEFAULT } else { usize::from(size.ws_col) }
}

/// Standard error for the log: takes the progress line away before it writes. Give `LogWriter::new` to
/// `tracing_subscriber` as its writer.
#[derive(Debug)]
pub struct LogWriter(io::Stderr);

impl LogWriter {
    /// A writer to standard error.
    #[expect(clippy::new_without_default, reason = "it stands for a resource")]
    pub fn new() -> LogWriter {
        LogWriter(io::stderr())
    }
}

impl Write for LogWriter {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        hide(&mut self.0);
        self.0.write(buffer)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use engine_base::VirtualClock;

    #[test]
    fn a_line_tells_rates_of_the_window_and_sums_of_the_run() {
        let clock = VirtualClock::at(0);
        let metrics = Metrics::new("p", clock.clone());
        let (source, sink) = (metrics.source("in", "kafka"), metrics.sink("out", "stdout"));
        source.records.add(1_000_000);
        let before = metrics.totals();
        assert_eq!(format_line(&before, &metrics.totals()), "in 0/s, out 0/s, errors 0, in flight 0 B");
        clock.advance_ns(2_000_000_000);
        source.records.add(24_690);
        source.partition(0).lag_records.set(1_234_567);
        sink.acknowledge(5_000_000_000, [4_988_000_000; 200]);
        metrics.step("s", "map").errors.add("cast", 3);
        metrics.in_flight_bytes.set(3 << 19);
        assert_eq!(
            format_line(&before, &metrics.totals()),
            "in 12.3k/s, out 100/s, lag 1.23M, errors 3, p99 12.0 ms, in flight 1.50 MiB"
        );
    }

    #[test]
    fn numbers_are_short() {
        let counts = [0.0, 0.4, 7.0, 999.4, 999.6, 1_000.0, 12_345.0, 999_999.0, 5.0e9].map(count);
        assert_eq!(counts, ["0", "0", "7", "999", "1.00k", "1.00k", "12.3k", "1.00M", "5.00G"]);
        let durations = [1, 12_345, 999_900, 250_000_000, 90_000_000_000].map(duration);
        assert_eq!(durations, ["0.00 us", "12.3 us", "1000 us", "250 ms", "90.0 s"]);
        assert_eq!([0, 1023, 1 << 20].map(bytes), ["0 B", "1023 B", "1.00 MiB"]);
    }

    #[test]
    fn the_window_slides() {
        let clock = VirtualClock::at(0);
        let metrics = Metrics::new("p", clock.clone());
        let source = metrics.source("in", "file");
        let mut window = Window { readings: vec![metrics.totals()], length: 2 };
        let mut rates = Vec::new();
        for rows in [10, 20, 40, 80] {
            clock.advance_ns(1_000_000_000);
            source.records.add(rows);
            rates.push(window.line(metrics.totals()).split("/s").next().unwrap_or_default().to_owned());
        }
        assert_eq!(rates, ["in 10", "in 15", "in 30", "in 60"]);
    }

    #[test]
    fn it_starts_and_stops_in_every_mode() {
        let metrics = Metrics::new("p", VirtualClock::at(0));
        for mode in [ProgressMode::Off, ProgressMode::Log] {
            drop(Progress::start(Arc::clone(&metrics), mode).unwrap());
        }
    }

    #[test]
    fn the_log_takes_the_line_away() {
        let mut out = Vec::new();
        hide(&mut out);
        assert_eq!(out, b"");
        *SHOWN.lock().unwrap() = true;
        hide(&mut out);
        assert_eq!(out, CLEAR.as_bytes());
        assert!(!*SHOWN.lock().unwrap());
    }
}
