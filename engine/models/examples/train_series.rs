//! Trains an autoencoder on the beginning of a single series, and writes its card, its weights and its threshold.
//!
//! ```text
//! cargo run --release -p engine-models --example train_series -- --series FILE --rows 750 --window-s 3600 --out FOLDER
//! ```
//!
//! `cargo xtask nab` runs it: see `docs/anomaly.md`. The file has a line `timestamp,value` for each value. Only the first
//! `--rows` values are looked at. The threshold is the greatest error of a training window, times a margin.
#![allow(clippy::print_stdout, clippy::print_stderr)] // a program for the command line

mod random;
mod training;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use training::autoencoder::{Settings, train};
use training::{digits, lines, list};

type Error = Box<dyn std::error::Error>;

/// Values of a window, in the order in which the model takes them, and how much each counts in training.
const FEATURES: [(&str, f64); 5] = [("mean", 1.0), ("spread", 0.5), ("below", 0.5), ("above", 0.5), ("change", 1.0)];
/// A window of fewer values is not judged, nor one with fewer windows in the day before it.
const LEAST: usize = 3;
const DAY_S: i64 = 86_400;
/// What is added to a deviation before its logarithm is taken.
const FLOOR: f64 = 0.05;
/// How far the threshold is above the greatest error that training has seen.
const MARGIN: f64 = 1.25;
const SETTINGS: Settings = Settings { hidden: 12, code: 2, epochs: 300, batch: 32, rate: (3e-3, 1e-4), seed: 31 };

struct Options {
    series: PathBuf,
    rows: usize,
    window_s: i64,
    out: PathBuf,
}

fn options() -> Option<Options> {
    let (mut series, mut rows, mut window_s, mut out) = (None, None, None, None);
    let mut args = std::env::args().skip(1);
    while let Some(arg) = args.next() {
        let value = args.next()?;
        match arg.as_str() {
            "--series" => series = Some(PathBuf::from(value)),
            "--rows" => rows = Some(value.parse().ok()?),
            "--window-s" => window_s = Some(value.parse().ok().filter(|seconds| *seconds > 0)?),
            "--out" => out = Some(PathBuf::from(value)),
            _ => return None,
        }
    }
    Some(Options { series: series?, rows: rows?, window_s: window_s?, out: out? })
}

/// `2013-12-02 21:15:00` in seconds since 1970.
fn seconds(time: &str) -> Option<i64> {
    let number = |from: usize, to: usize| time.get(from..to)?.parse::<i64>().ok();
    let (year, month, day) = (number(0, 4)?, number(5, 7)?, number(8, 10)?);
    // Days before a month, of years that begin in March.
    let (year, month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let days = 365 * year + year / 4 - year / 100 + year / 400 + (153 * month + 2) / 5 + day - 1 - 719_468;
    Some(days * DAY_S + number(11, 13)? * 3_600 + number(14, 16)? * 60 + number(17, 19)?)
}

fn read(path: &Path, rows: usize) -> Result<Vec<(i64, f64)>, Error> {
    let text = std::fs::read_to_string(path)?;
    let row = |line: &str| {
        let (time, value) = line.split_once(',')?;
        Some((seconds(time)?, value.parse().ok()?))
    };
    text.lines().skip(1).take(rows).map(|line| row(line).ok_or_else(|| format!("no value: {line}").into())).collect()
}

/// The features of whole windows, as `xtask/nab/nab.yaml` defines them.
fn features(values: &[(i64, f64)], window_s: i64) -> Vec<f32> {
    let mut past: Vec<(i64, f64)> = Vec::new();
    let mut rows = Vec::new();
    // The last window may go on behind the values that are looked at.
    let last = values.last().map_or(0, |(at, _)| at.div_euclid(window_s));
    for window in values.chunk_by(|a, b| a.0.div_euclid(window_s) == b.0.div_euclid(window_s)) {
        let number = window[0].0.div_euclid(window_s);
        if window.len() < LEAST || number == last {
            continue;
        }
        let end = (number + 1) * window_s;
        let count = window.len() as f64;
        let mean = window.iter().map(|(_, value)| value).sum::<f64>() / count;
        let std = (window.iter().map(|(_, value)| (value - mean).powi(2)).sum::<f64>() / (count - 1.0)).sqrt();
        let least = window.iter().map(|(_, value)| *value).fold(f64::MAX, f64::min);
        let most = window.iter().map(|(_, value)| *value).fold(f64::MIN, f64::max);
        let day: Vec<f64> = past.iter().filter(|(at, _)| *at > end - DAY_S).map(|(_, mean)| *mean).collect();
        if day.len() >= LEAST {
            let change = mean - day.iter().sum::<f64>() / day.len() as f64;
            let log = |x: f64| (FLOOR + x).ln();
            rows.extend([mean, log(std), log(mean - least), log(most - mean), change].map(|x| x as f32));
        }
        past.push((end, mean));
    }
    rows
}

fn run(options: &Options) -> Result<(), Error> {
    let features = features(&read(&options.series, options.rows)?, options.window_s);
    let width = FEATURES.len();
    let model = train(&features, &FEATURES.map(|(_, weight)| weight), SETTINGS)?;
    let greatest = model.errors(&features)?.into_iter().fold(0.0, f64::max);
    std::fs::create_dir_all(&options.out)?;
    model.save(&options.out.join("series.safetensors"))?;
    let card = format!(
        "model: series\ntype: candle\nweights: series.safetensors\ninputs: {{ features: \"f32[N, {width}]\" }}\n\
         outputs: {{ deviations: \"f32[N, {width}]\" }}\nnormalize:\n  mean: [{}]\n  std: [{}]\nlayers:\n{}",
        list(&model.mean),
        list(&model.std),
        lines(&model.layers, 2)
    );
    std::fs::write(options.out.join("model.yaml"), card)?;
    // What `cargo xtask nab` reads: windows that were trained on, and the threshold.
    println!("{} {}", features.len() / width, digits(greatest * MARGIN));
    Ok(())
}

fn main() -> ExitCode {
    // SAFETY: nothing else runs yet, so no other thread reads the environment.
    unsafe { std::env::set_var("RAYON_NUM_THREADS", "1") };
    let Some(options) = options() else {
        eprintln!("usage: train_series --series FILE --rows N --window-s SECONDS --out FOLDER");
        return ExitCode::from(2);
    };
    match run(&options) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("train_series: {error}");
            ExitCode::FAILURE
        }
    }
}
