//! The features of `pipelines/anomaly.yaml` in plain loops: what the engine's `window`, `rolling` and `map` must agree with.
//!
//! A window is a whole minute of a machine, `[start, end)`. Windows of fewer than [`LEAST`] readings are left out.

use super::{EVERY_S, Fault, Machine, Reading, START_S};

/// Values of a window, in the order in which the model takes them, and how much each counts in training.
pub(crate) const FEATURES: [(&str, f64); 12] = [
    ("temperature_mean", 1.0),
    ("temperature_spread", 0.2),
    ("temperature_range", 0.1),
    ("temperature_change", 0.5),
    ("vibration_mean", 1.0),
    ("vibration_spread", 0.2),
    ("vibration_range", 0.1),
    ("current_mean", 1.0),
    ("current_spread", 0.2),
    ("current_range", 0.1),
    ("current_5m", 1.0),
    ("current_10m", 1.0),
];

/// Of fewer readings than these a window is not judged.
const LEAST: usize = 6;
/// With fewer windows in the ten minutes before it is not judged either.
const LEAST_BEFORE: usize = 8;
const WINDOW_S: i64 = 60;
/// A tenth of each sensor's noise: keeps a deviation of zero from being divided by, and its logarithm finite.
const FLOORS: [f64; 3] = [0.025, 0.008, 0.02];

/// The windows of a machine's readings, each with its end and its features.
pub(crate) fn windows(readings: &[Reading]) -> Vec<(i64, [f64; FEATURES.len()])> {
    let mut past: Vec<(i64, f64, f64)> = Vec::new();
    let mut windows = Vec::new();
    for window in readings.chunk_by(|a, b| a.at_s.div_euclid(WINDOW_S) == b.at_s.div_euclid(WINDOW_S)) {
        if window.len() < LEAST {
            continue;
        }
        let end = (window[0].at_s.div_euclid(WINDOW_S) + 1) * WINDOW_S;
        let [t, v, c] = [0, 1, 2].map(|sensor| {
            let values: Vec<f64> = window.iter().map(|reading| reading.value(sensor)).collect();
            let mean = mean(values.iter().copied()).unwrap_or_default();
            let squares: f64 = values.iter().map(|x| (x - mean).powi(2)).sum();
            let std = FLOORS[sensor] + (squares / (values.len() - 1) as f64).sqrt();
            let least = values.iter().copied().fold(f64::MAX, f64::min);
            let most = values.iter().copied().fold(f64::MIN, f64::max);
            [mean, std.ln(), (most - least) / std]
        });
        // The windows that ended less than so many seconds before this one.
        let within = |seconds: i64| past.iter().filter(move |(at, _, _)| *at > end - seconds);
        let change = t[0] - mean(within(600).map(|(_, temperature, _)| *temperature)).unwrap_or(t[0]);
        let current = |seconds: i64| mean(within(seconds).map(|(_, _, current)| *current)).unwrap_or(c[0]);
        let row = [t[0], t[1], t[2], change, v[0], v[1], v[2], c[0], c[1], c[2], current(300), current(600)];
        if within(600).count() >= LEAST_BEFORE {
            windows.push((end, row));
        }
        past.push((end, t[0], c[0]));
    }
    windows
}

fn mean(values: impl Iterator<Item = f64>) -> Option<f64> {
    let (sum, count) = values.fold((0.0, 0.0), |(sum, count), value| (sum + value, count + 1.0));
    (count > 0.0).then(|| sum / count)
}

/// The windows of machines that run for some hours: machine, end of the window, features.
pub(crate) fn of_fleet(
    seed: u64,
    machines: u64,
    hours: i64,
    faults: &[Fault],
) -> Vec<(u64, i64, [f64; FEATURES.len()])> {
    let mut rows = Vec::new();
    for number in 0..machines {
        let mut machine = Machine::new(seed, number, faults);
        let readings: Vec<Reading> = (0..hours * 3_600 / EVERY_S).map(|_| machine.read()).collect();
        rows.extend(windows(&readings).into_iter().map(|(end, row)| (number, end - START_S, row)));
    }
    rows
}
