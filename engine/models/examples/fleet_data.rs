//! Writes the readings of a simulated fleet as CSV, and the faults that were planted in them as JSON Lines: see
//! `fleet/mod.rs` for what is in them. None of it is real.
//!
//! ```text
//! cargo run --release -p engine-models --example fleet_data -- --out pipelines/data
//! ```
//!
//! `fleet.csv` holds the readings in the order in which they arrive: one in a hundred comes a second late.
//! `fleet-m4.jsonl` holds a quarter of an hour of one machine as JSON Lines, with a spike, for the tests of the pipeline.
//! `fleet-faults.jsonl` says of each fault the machine, the sensor, the kind, and from when to before when it lasts.
#![allow(clippy::print_stderr)] // a program for the command line

mod fleet;
mod random;

use fleet::{EVERY_S, FLEET, Machine, PLANTED, Reading, SENSORS, START_S, name, time};
use random::Random;
use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

const SEED: u64 = 2026;
/// The machine of the tests, and from and to which second.
const EXCERPT: (u64, i64, i64) = (3, 3_600, 4_560);

fn main() -> ExitCode {
    let mut args = std::env::args().skip(1);
    let out = match (args.next().as_deref(), args.next()) {
        (None, _) => PathBuf::from("pipelines/data"),
        (Some("--out"), Some(out)) => PathBuf::from(out),
        _ => {
            eprintln!("usage: fleet_data [--out FOLDER]");
            return ExitCode::from(2);
        }
    };
    match write(&out) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("fleet_data: {error}");
            ExitCode::FAILURE
        }
    }
}

fn write(out: &Path) -> Result<(), Box<dyn std::error::Error>> {
    let (machines, hours) = FLEET;
    let mut random = Random(SEED);
    let mut rows: Vec<(i64, u64, Reading)> = Vec::new();
    for number in 0..machines {
        let mut machine = Machine::new(SEED, number, &PLANTED);
        for _ in 0..hours * 3_600 / EVERY_S {
            let reading = machine.read();
            let late = i64::from(random.chance(0.01));
            rows.push((reading.at_s + late, number, reading));
        }
    }
    rows.sort_by_key(|(arrives_s, number, _)| (*arrives_s, *number));
    let mut text = format!("at,machine,{}\n", SENSORS.join(","));
    let mut excerpt = String::new();
    for (_, number, Reading { at_s, values: [t, v, c] }) in rows {
        let (at, machine) = (time(at_s), name(number));
        let [t, c] = [t, c].map(|hundredths| format!("{}.{:02}", hundredths / 100, hundredths % 100));
        let v = format!("{}.{:03}", v / 1000, v % 1000);
        writeln!(text, "{at},{machine},{t},{v},{c}")?;
        if number == EXCERPT.0 && (EXCERPT.1..EXCERPT.2).contains(&(at_s - START_S)) {
            let [x, y, z] = SENSORS;
            writeln!(excerpt, r#"{{"at":"{at}","machine":"{machine}","{x}":{t},"{y}":{v},"{z}":{c}}}"#)?;
        }
    }
    std::fs::write(out.join("fleet.csv"), text)?;
    std::fs::write(out.join("fleet-m4.jsonl"), excerpt)?;
    let mut text = String::new();
    for fault in PLANTED {
        writeln!(
            text,
            r#"{{"machine":"{}","sensor":"{}","kind":"{}","from":"{}","to":"{}"}}"#,
            name(fault.machine),
            SENSORS[fault.sensor],
            fault.kind.name(),
            time(START_S + fault.from_s),
            time(START_S + fault.to_s),
        )?;
    }
    std::fs::write(out.join("fleet-faults.jsonl"), text)?;
    Ok(())
}
