//! Trains `models/fleet` on a simulated fleet without faults and writes its card and weights.
//!
//! ```text
//! cargo run --release -p engine-models --example train_fleet -- --out models/fleet
//! ```
//!
//! The same machine gives the same bytes each time: data, first weights and the order of the rows follow from seeds, and
//! Candle runs on one thread. The threshold is a quantile of the errors on another fleet without faults; what is printed
//! last is measured on fleets that neither training nor the threshold has seen.
#![allow(clippy::print_stdout, clippy::print_stderr)] // a program for the command line

mod fleet;
mod random;
mod training;

use candle_core::Result;
use fleet::features::{FEATURES, of_fleet};
use fleet::{FLEET, PLANTED, SENSORS, name};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use training::autoencoder::{Autoencoder, Settings, train};
use training::{digits, lines, list, quantile};

/// Seed, machines, and hours of each; and the seeds of fleets into which the faults of `pipelines/data` are planted.
const TRAIN: (u64, u64, i64) = (21, 192, 12);
const CALIBRATE: (u64, u64, i64) = (22, 384, 12);
const HELD_OUT: (u64, u64, i64) = (23, 192, 12);
const FAULTY: std::ops::Range<u64> = 200..220;
/// The share of ordinary windows that are below the threshold.
const QUANTILE: f64 = 0.9999;
const SETTINGS: Settings = Settings { hidden: 40, code: 4, epochs: 30, batch: 512, rate: (3e-3, 1e-4), seed: 24 };

fn features((seed, machines, hours): (u64, u64, i64)) -> Vec<f32> {
    of_fleet(seed, machines, hours, &[]).iter().flat_map(|(_, _, row)| row.map(|x| x as f32)).collect()
}

fn card(model: &Autoencoder, threshold: f64) -> String {
    format!(
        "\
# Written by `cargo run --release -p engine-models --example train_fleet`; see README.md.
model: fleet
description: >-
  By how much each feature of a machine's minute deviates from what the others say of it, in deviations of the ordinary.
  Of windows without a fault, {QUANTILE} have a length of at most {threshold}. Trained on a simulated fleet.
type: candle
weights: fleet.safetensors
# {}
inputs: {{ features: \"f32[N, {width}]\" }}
outputs: {{ deviations: \"f32[N, {width}]\" }}
normalize:
  mean: [{}]
  std: [{}]
layers:
{}",
        FEATURES.map(|(name, _)| name).join(", "),
        list(&model.mean),
        list(&model.std),
        lines(&model.layers, 2),
        width = FEATURES.len(),
    )
}

/// Prints what becomes of windows without a fault, and how soon planted faults are found.
fn report(model: &Autoencoder, threshold: f64) -> Result<()> {
    let errors = model.errors(&features(HELD_OUT))?;
    let above = errors.iter().filter(|error| **error > threshold).count();
    let days = errors.len() as f64 / 1440.0;
    println!("held out: {above} of {} windows are above, {:.2} a machine-day", errors.len(), above as f64 / days);

    let mut found: Vec<Vec<Option<i64>>> = vec![Vec::new(); PLANTED.len()];
    let (mut inside, mut others, mut false_alarms) = (0, 0, 0);
    for seed in FAULTY {
        let rows = of_fleet(seed, FLEET.0, FLEET.1, &PLANTED);
        let table: Vec<f32> = rows.iter().flat_map(|(_, _, row)| row.map(|x| x as f32)).collect();
        let abnormal: Vec<(u64, i64)> = rows
            .iter()
            .zip(model.errors(&table)?)
            .filter(|(_, error)| *error > threshold)
            .map(|((machine, end, _), _)| (*machine, *end))
            .collect();
        for (fault, found) in PLANTED.iter().zip(&mut found) {
            let own = |(machine, end): &&(u64, i64)| {
                *machine == fault.machine && *end > fault.from_s && *end - 60 < fault.to_s
            };
            found.push(abnormal.iter().find(own).map(|(_, end)| (end - fault.from_s + 59) / 60));
        }
        for (machine, end) in abnormal {
            let of = |after_s: i64| {
                PLANTED
                    .iter()
                    .any(|fault| fault.machine == machine && end > fault.from_s && end - 60 < fault.to_s + after_s)
            };
            match (of(0), of(600)) {
                (true, _) => inside += 1,
                (false, true) => others += 1,
                (false, false) => false_alarms += 1,
            }
        }
    }
    for (fault, found) in PLANTED.iter().zip(found) {
        let mut after: Vec<i64> = found.iter().flatten().copied().collect();
        after.sort_unstable();
        println!(
            "{} {} {}: {} of {} found, in window {:?} in the middle, {:?} at most",
            name(fault.machine),
            SENSORS[fault.sensor],
            fault.kind.name(),
            after.len(),
            found.len(),
            after.get(after.len() / 2),
            after.last(),
        );
    }
    println!("{inside} abnormal windows in faults, {others} within ten minutes after, {false_alarms} others");
    Ok(())
}

fn run(out: &Path) -> Result<()> {
    let model = train(&features(TRAIN), &FEATURES.map(|(_, weight)| weight), SETTINGS)?;
    let errors = model.errors(&features(CALIBRATE))?;
    let threshold = digits(quantile(&errors, QUANTILE));
    println!("the error: half below {:.3}, {QUANTILE} below {threshold}", quantile(&errors, 0.5));
    std::fs::create_dir_all(out)?;
    model.save(&out.join("fleet.safetensors"))?;
    std::fs::write(out.join("model.yaml"), card(&model, threshold))?;
    report(&model, threshold)
}

fn main() -> ExitCode {
    // SAFETY: nothing else runs yet, so no other thread reads the environment.
    unsafe { std::env::set_var("RAYON_NUM_THREADS", "1") };
    let mut args = std::env::args().skip(1);
    let out = match (args.next().as_deref(), args.next()) {
        (None, _) => PathBuf::from("models/fleet"),
        (Some("--out"), Some(out)) => PathBuf::from(out),
        _ => {
            eprintln!("usage: train_fleet [--out FOLDER]");
            return ExitCode::from(2);
        }
    };
    match run(&out) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("train_fleet: {error}");
            ExitCode::FAILURE
        }
    }
}
