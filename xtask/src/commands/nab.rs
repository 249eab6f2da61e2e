//! `nab`: the steps of `pipelines/anomaly.yaml` over the two temperature series of the Numenta Anomaly Benchmark, whose
//! anomalies people have labelled.
//!
//! ```text
//! series ──first values──▶ train_series ──▶ model, threshold ─┐
//!   └──────────────────────── engine run xtask/nab/nab.yaml ──┴─▶ abnormal windows ──labels──▶ found, missed, false
//! ```
//!
//! The data (MIT) is not part of this repository. `--data DIR`, or the variable `NAB_DATA`, says where it is: the two files
//! and `combined_windows.json`, as the benchmark's repository has them below `data/realKnownCause` and `labels`. Without
//! it the command says so and does nothing.

use super::{RELEASE, build, cargo};
use serde_json::Value;
use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use xtask::{Result, layout, process};

/// A series of the benchmark, and the length of its windows: a dozen values, or six of the one that has a value an hour.
struct Series {
    name: &'static str,
    window_s: i64,
    window: &'static str,
}

const SERIES: [Series; 2] = [
    Series { name: "machine_temperature_system_failure", window_s: 3_600, window: "1h" },
    Series { name: "ambient_temperature_system_failure", window_s: 21_600, window: "6h" },
];

/// How much of a series is trained on: in words, and how many of so many values.
type Share = (&'static str, fn(usize) -> usize);

/// The benchmark itself has 15 %, of at most 5,000 values.
const SHARES: [Share; 2] =
    [("the first 15 %", |rows| rows * 15 / 100), ("the benchmark's own share", |rows| rows.min(5_000) * 15 / 100)];

const DAY_S: i64 = 86_400;

/// `--data DIR`.
pub(crate) fn run(repository: &Path, arguments: &[String]) -> Result<()> {
    let data = match arguments {
        [] => env::var_os("NAB_DATA").map(PathBuf::from),
        [flag, folder] if flag == "--data" => Some(PathBuf::from(folder)),
        _ => return Err("nab knows only --data DIR".into()),
    };
    let Some(data) = data.filter(|data| data.join("combined_windows.json").is_file()) else {
        println!("nab: skipped, the data is not here: give `--data DIR` or set NAB_DATA");
        return Ok(());
    };
    let labels: Value = serde_json::from_slice(&fs::read(data.join("combined_windows.json"))?)?;
    build(RELEASE, &["engine"])?;
    process::run(&mut cargo(&["build", "--locked", "--release", "--workspace", "--example", "train_series"]))?;
    for series in &SERIES {
        let labels = labels_of(&labels, series.name)?;
        let text = fs::read_to_string(data.join(format!("{}.csv", series.name)))?;
        for (share, rows) in SHARES {
            println!("\n{}, windows of {}, trained on {share}:", series.name, series.window);
            one(repository, series, &text, rows(text.lines().count() - 1), &labels)?;
        }
    }
    Ok(())
}

/// Trains on the first `rows` values, runs the engine over all of them, and prints what it found.
fn one(repository: &Path, series: &Series, text: &str, rows: usize, labels: &[(i64, i64)]) -> Result<()> {
    let folder = layout::cache().join("nab").join(series.name);
    fs::create_dir_all(&folder)?;
    fs::write(folder.join("series.csv"), text)?;
    fs::copy(repository.join("xtask/nab/nab.yaml"), folder.join("nab.yaml"))?;
    let mut training = Command::new(layout::binary(RELEASE, "examples").join("train_series"));
    training.current_dir(&folder).args(["--series", "series.csv", "--out", ".", "--rows", &rows.to_string()]);
    let said = output(training.args(["--window-s", &series.window_s.to_string()]))?;
    let (windows, threshold) = said.trim().split_once(' ').ok_or("train_series says no threshold")?;
    let mut engine = Command::new(layout::binary(RELEASE, "engine"));
    engine.current_dir(&folder).args(["run", "nab.yaml", "--no-metrics", "--quiet", "--log", "warn"]);
    engine.args(["--param", &format!("threshold={threshold}"), "--set"]);
    let found = output(engine.arg(format!("operators.windows.tumbling={}", series.window)))?;
    println!("  {rows} values, {windows} windows, threshold {threshold}");
    let at = |line: Option<&str>| line.and_then(seconds).ok_or("a series without values");
    let from = at(text.lines().nth(rows))?;
    let to = at(text.lines().last())?;
    let mut abnormal = Vec::new();
    for line in found.lines() {
        let row: Value = serde_json::from_str(line)?;
        let time = |name: &str| row[name].as_str().and_then(seconds).ok_or("a window without its bounds");
        abnormal.push((time("window_start")?, time("window_end")?));
    }
    report(&abnormal, labels, from, to);
    Ok(())
}

/// Prints what became of each label, and how often there was nothing. What was trained on does not count.
fn report(abnormal: &[(i64, i64)], labels: &[(i64, i64)], from: i64, to: i64) {
    let overlap = |window: &(i64, i64), label: &(i64, i64)| window.1 > label.0 && window.0 <= label.1;
    let mut labelled_s = 0;
    for (number, label) in (1..).zip(labels) {
        let own: Vec<&(i64, i64)> = abnormal.iter().filter(|window| overlap(window, label)).collect();
        if label.0 < from {
            println!("  label {number}: in what was trained on");
            continue;
        }
        labelled_s += label.1 - label.0;
        match own.first() {
            Some((_, end)) => {
                let hours = (end - label.0) as f64 / 3_600.0;
                println!("  label {number}: found {hours:.0} h after it begins, in {} windows", own.len());
            }
            None => println!("  label {number}: missed"),
        }
    }
    let others: Vec<&(i64, i64)> = abnormal
        .iter()
        .filter(|window| window.0 >= from && !labels.iter().any(|label| overlap(window, label)))
        .collect();
    // Windows less than a day apart are one alarm to who has to look.
    let alarms =
        others.iter().enumerate().filter(|(at, window)| *at == 0 || window.0 - others[at - 1].0 > DAY_S).count();
    let weeks = (to - from - labelled_s) as f64 / (7 * DAY_S) as f64;
    println!(
        "  false: {} windows, {:.2} a week; {alarms} alarms a day apart, {:.2} a week; in {weeks:.1} weeks without labels",
        others.len(),
        others.len() as f64 / weeks,
        alarms as f64 / weeks,
    );
}

fn labels_of(labels: &Value, name: &str) -> Result<Vec<(i64, i64)>> {
    let windows = labels[format!("realKnownCause/{name}.csv")].as_array().ok_or("a series without labels")?;
    let bounds = |window: &Value| {
        let at = |at: usize| window[at].as_str().and_then(seconds);
        at(0).zip(at(1)).ok_or_else(|| format!("no window: {window}").into())
    };
    windows.iter().map(bounds).collect()
}

/// `2013-12-02 21:15:00`, and what may follow it, in seconds since 1970.
fn seconds(time: &str) -> Option<i64> {
    let number = |from: usize, to: usize| time.get(from..to)?.parse::<i64>().ok();
    let (year, month, day) = (number(0, 4)?, number(5, 7)?, number(8, 10)?);
    // Days before a month, of years that begin in March.
    let (year, month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let days = 365 * year + year / 4 - year / 100 + year / 400 + (153 * month + 2) / 5 + day - 1 - 719_468;
    Some(days * DAY_S + number(11, 13)? * 3_600 + number(14, 16)? * 60 + number(17, 19)?)
}

/// What a command wrote to standard output.
fn output(command: &mut Command) -> Result<String> {
    let output = command.output()?;
    if !output.status.success() {
        let message = String::from_utf8_lossy(&output.stderr);
        return Err(format!("`{}` ended with {}: {message}", process::line(command), output.status).into());
    }
    Ok(String::from_utf8(output.stdout)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read() {
        assert_eq!(seconds("1970-01-01 00:00:00"), Some(0));
        assert_eq!(seconds("2024-02-29T23:59:59.999Z"), Some(1_709_251_199));
        assert_eq!(seconds("2013-12-02 21:15:00,73.9"), Some(1_386_018_900));
        assert_eq!(seconds("timestamp,value"), None);
    }
}
