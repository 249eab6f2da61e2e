//! The engine against hand-written programs that do the same job from a file to a file, in paired runs.

use super::outcome::{Comparison, Kind, Outcome, median};
use super::{Context, SEED};
use serde_json::Value;
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use xtask::Result;
use xtask::process::{Usage, measure};

const ROWS: u64 = 1_000_000;
/// How far two scores of a row may lie apart, and how near to the threshold a row may be held by one and not by the other.
pub(super) const SCORE_TOLERANCE: f64 = 1e-5;
/// Above it `pipelines/fraud.yaml` holds a row.
pub(super) const THRESHOLD: f64 = 0.9;

pub(super) fn json_filter(context: &Context<'_>) -> Result<Outcome> {
    json_lines(context, "json-filter.yaml", "filter", difference)
}

pub(super) fn json_map_all(context: &Context<'_>) -> Result<Outcome> {
    json_lines(context, "json-map-all.yaml", "map", difference)
}

pub(super) fn tumbling(context: &Context<'_>) -> Result<Outcome> {
    json_lines(context, "tumbling.yaml", "tumbling", other_lines)
}

pub(super) fn hopping(context: &Context<'_>) -> Result<Outcome> {
    json_lines(context, "hopping.yaml", "hopping", other_lines)
}

pub(super) fn join(context: &Context<'_>) -> Result<Outcome> {
    json_lines(context, "join.yaml", "join", other_lines)
}

/// Two workers with two cores against one worker with one: by how much sooner they are done. The whole process is pinned.
pub(super) fn two_workers(context: &Context<'_>) -> Result<Outcome> {
    const TARGET: f64 = 1.6;
    let bids = context.bids(context.rows.unwrap_or(ROWS))?;
    let mut outcome = Outcome::default();
    for pipeline in ["json-map-all.yaml", "tumbling.yaml", "hopping.yaml", "join.yaml"] {
        let run = |workers: &str, cores: &str| {
            let engine = context.run_engine(&context.pipeline(pipeline))?;
            let mut command = std::process::Command::new("taskset");
            command.args(["-c", cores]).arg(engine.get_program()).args(engine.get_args()).current_dir(&context.folder);
            command.args(["--workers", workers, "--set", &format!("sources.bids.path={}", bids.display())]);
            measure(command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()))
        };
        let (one, two) = paired(&|| run("1", "0"), &|| run("2", "0,1"), context.runs)?;
        let ratios = one.iter().zip(&two).map(|(one, two)| one.wall_s / two.wall_s);
        let name = pipeline.trim_end_matches(".yaml");
        outcome.add(format!("{name}: one worker on one core / two on two"), Kind::Ratio, median(ratios));
    }
    outcome
        .remarks
        .push(format!("the project aims at {TARGET}; the input is one file, which one worker reads and decodes"));
    Ok(outcome)
}

/// Exactly once into files against the same without a state directory: what is left of the throughput, where one row in a
/// hundred is put out (fraud), and where all are (map-all).
pub(super) fn exactly_once(context: &Context<'_>) -> Result<Outcome> {
    const TARGET: f64 = 0.9;
    let rows = context.rows.unwrap_or(3 * ROWS);
    let outputs = outputs(context);
    let [holds, alerts] = outputs.clone();
    let state = context.folder.join("exactly-once-state");
    let fraud = context.repository.join("pipelines/fraud.yaml");
    let map_all = context.pipeline("json-map-all.yaml");
    let fraud_keys = vec![
        format!("sources.transactions.path={}", context.transactions(rows)?.display()),
        "sinks.holds.type=file".to_owned(),
        format!("sinks.holds.path={}", holds.display()),
        format!("sinks.alerts.path={}", alerts.display()),
    ];
    let map_keys = vec![
        format!("sources.bids.path={}", context.bids(rows)?.display()),
        "sinks.out.type=file".to_owned(),
        format!("sinks.out.path={}", holds.display()),
    ];
    let mut outcome = Outcome::default();
    for (name, pipeline, keys) in [("fraud", fraud, fraud_keys), ("map-all", map_all, map_keys)] {
        let run = |exactly_once: bool| {
            for output in &outputs {
                let _ = fs::remove_file(output);
            }
            let _ = fs::remove_dir_all(&state);
            let mut command = context.run_engine(&pipeline)?;
            command.args(["--workers", "1"]);
            keys.iter().for_each(|key| {
                command.args(["--set", key]);
            });
            if exactly_once {
                command.args(["--set", "delivery=exactly_once"]).arg("--state").arg(&state);
            }
            measure(command.stdout(Stdio::null()).stderr(Stdio::null()))
        };
        let (without, with) = paired(&|| run(false), &|| run(true), context.runs)?;
        let seconds = |of: &[Usage]| median(of.iter().map(|usage| usage.wall_s)) * 1_000.0;
        outcome.add(format!("{name}: without, wall"), Kind::Duration, seconds(&without));
        outcome.add(format!("{name}: exactly once, wall"), Kind::Duration, seconds(&with));
        let shares = without.iter().zip(&with).map(|(without, with)| without.wall_s / with.wall_s);
        outcome.add(format!("{name}: throughput exactly once / without"), Kind::Ratio, median(shares));
    }
    outputs.iter().filter(|output| output.exists()).try_for_each(fs::remove_file)?;
    // The last run may have been one without it.
    let _ = fs::remove_dir_all(&state);
    outcome.remarks.push(format!("{rows} rows, commit 20 ms, checkpoint 10 s; the project aims at {TARGET} for fraud"));
    Ok(outcome)
}

/// How two outputs differ, whatever the order of their lines.
fn other_lines(ours: &Path, other: &Path) -> Result<Option<String>> {
    let sorted = |path: &Path| -> Result<Vec<String>> {
        let mut lines: Vec<String> = fs::read_to_string(path)?.lines().map(str::to_owned).collect();
        lines.sort_unstable();
        Ok(lines)
    };
    let (ours, other) = (sorted(ours)?, sorted(other)?);
    if ours.is_empty() && other.is_empty() {
        return Ok(Some("both are empty".into()));
    }
    let different = ours.iter().zip(&other).find(|(a, b)| a != b);
    Ok(match different {
        Some((a, b)) => Some(format!("ours {a}, theirs {b}")),
        None => (ours.len() != other.len()).then(|| format!("{} lines against {}", ours.len(), other.len())),
    })
}

/// How the outputs of two programs differ, if they do.
type Differ = fn(&Path, &Path) -> Result<Option<String>>;

/// A pipeline of `xtask/bench` with one worker against a mode of the hand-written program, over the same bids.
fn json_lines(context: &Context<'_>, pipeline: &str, mode: &str, differ: Differ) -> Result<Outcome> {
    let rows = context.rows.unwrap_or(ROWS);
    let bids = context.bids(rows)?;
    let outputs = outputs(context);
    let engine = || {
        let mut command = context.run_engine(&context.pipeline(pipeline))?;
        command.args(["--workers", "1", "--set", &format!("sources.bids.path={}", bids.display())]);
        measure(command.stdout(File::create(&outputs[0])?))
    };
    let handwritten =
        || measure(context.handwritten(&[mode, &bids.to_string_lossy()])?.stdout(File::create(&outputs[1])?));
    let (ours, other) = paired(&engine, &handwritten, context.runs)?;
    let difference = differ(&outputs[0], &outputs[1])?;
    outputs.iter().try_for_each(fs::remove_file)?;
    let comparison = Comparison { rows, ours, other, difference, target: None };
    Ok(Outcome { comparison: Some(comparison), ..Outcome::default() })
}

/// `pipelines/fraud.yaml` as it is, with one worker, against the same by hand.
pub(super) fn fraud(context: &Context<'_>) -> Result<Outcome> {
    let rows = context.rows.unwrap_or(ROWS);
    let transactions = context.transactions(rows)?;
    let outputs = outputs(context);
    let alerts = context.folder.join("alerts.jsonl");
    let model = context.repository.join("models/risk");
    let engine = || {
        let _ = fs::remove_file(&alerts); // the sink of the engine appends
        let mut command = context.run_engine(&context.repository.join("pipelines/fraud.yaml"))?;
        command.args(["--workers", "1", "--set", &format!("sources.transactions.path={}", transactions.display())]);
        command.args(["--set", &format!("sinks.alerts.path={}", alerts.display())]);
        measure(command.stdout(File::create(&outputs[0])?))
    };
    let handwritten = || {
        let files = [&transactions, &model, &alerts].map(|path| path.to_string_lossy());
        measure(context.handwritten(&["fraud", &files[0], &files[1], &files[2]])?.stdout(File::create(&outputs[1])?))
    };
    let (ours, other) = paired(&engine, &handwritten, context.runs)?;
    let [ours_held, theirs_held] = [scores(&outputs[0])?, scores(&outputs[1])?];
    let difference = held_differently(&ours_held, &theirs_held);
    outputs.iter().chain([&alerts]).try_for_each(fs::remove_file)?;
    let comparison = Comparison { rows, ours, other, difference, target: None };
    let remark = format!("{} rows were held; simulated transactions, seed {SEED}", ours_held.len());
    Ok(Outcome { comparison: Some(comparison), remarks: vec![remark], ..Outcome::default() })
}

fn outputs(context: &Context<'_>) -> [PathBuf; 2] {
    ["ours.out", "other.out"].map(|name| context.folder.join(name))
}

/// One run of a program.
type Run<'a> = &'a dyn Fn() -> Result<Usage>;

/// Runs `a` and `b` in turns, `runs` times each after one run to warm up; which of them goes first changes each time.
pub(super) fn paired(a: Run<'_>, b: Run<'_>, runs: usize) -> Result<(Vec<Usage>, Vec<Usage>)> {
    a()?;
    b()?;
    let (mut of_a, mut of_b) = (Vec::new(), Vec::new());
    for run in 0..runs {
        if run % 2 == 0 {
            of_a.push(a()?);
            of_b.push(b()?);
        } else {
            of_b.push(b()?);
            of_a.push(a()?);
        }
    }
    Ok((of_a, of_b))
}

/// How two outputs of rows differ, told shortly; nothing if they are the same to the byte.
fn difference(ours: &Path, other: &Path) -> Result<Option<String>> {
    let mut lines = [ours, other].map(|path| File::open(path).map(|file| BufReader::new(file).split(b'\n')));
    let [Ok(ours), Ok(other)] = &mut lines else { return Ok(Some("an output is missing".into())) };
    for number in 1.. {
        let (a, b) = (ours.next().transpose()?, other.next().transpose()?);
        if a.is_none() && b.is_none() {
            return Ok((number == 1).then(|| "both are empty".into()));
        }
        if a != b {
            let show =
                |line: Option<Vec<u8>>| line.map_or("(end)".into(), |line| String::from_utf8_lossy(&line).into_owned());
            return Ok(Some(format!("line {number}: ours {}, theirs {}", show(a), show(b))));
        }
    }
    Ok(None)
}

/// The held rows of a file: transaction and score.
pub(super) fn scores(holds: &Path) -> Result<BTreeMap<u64, f64>> {
    let score = |line: std::io::Result<String>| -> Result<(u64, f64)> {
        let line = line?;
        let row: Value = serde_json::from_str(&line)?;
        let pair = row["tx_id"].as_u64().zip(row["risk"].as_f64());
        pair.ok_or_else(|| format!("a hold without `tx_id` or `risk`: {line}").into())
    };
    BufReader::new(File::open(holds)?).lines().map(score).collect()
}

/// How two sets of held rows differ, told shortly. A score at the threshold may fall to either side.
pub(super) fn held_differently(ours: &BTreeMap<u64, f64>, other: &BTreeMap<u64, f64>) -> Option<String> {
    if ours.is_empty() && other.is_empty() {
        return Some("nothing was held".into());
    }
    let mut found = Vec::new();
    for (tx_id, score) in ours {
        match other.get(tx_id) {
            Some(theirs) if (theirs - score).abs() <= SCORE_TOLERANCE => {}
            Some(theirs) => found.push(format!("{tx_id} scores {score} and {theirs}")),
            None if *score <= THRESHOLD + SCORE_TOLERANCE => {}
            None => found.push(format!("only ours holds {tx_id}, with {score}")),
        }
    }
    for (tx_id, score) in other {
        if !ours.contains_key(tx_id) && *score > THRESHOLD + SCORE_TOLERANCE {
            found.push(format!("only theirs holds {tx_id}, with {score}"));
        }
    }
    let first = found.first()?;
    Some(format!("{} rows, the first: {first}", found.len()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;

    #[test]
    fn pairs_are_run_in_turns_after_one_run_to_warm_up() {
        let (order, usage) = (Cell::new(0), Usage { cpu_s: 1.0, wall_s: 1.0, rss_bytes_max: 1 });
        let note = |digit| {
            order.set(order.get() * 10 + digit);
            Ok(usage)
        };
        let (a, b) = paired(&|| note(1), &|| note(2), 3).unwrap();
        assert_eq!((a.len(), b.len()), (3, 3));
        assert_eq!(order.get(), 12_12_21_12);
        assert!(paired(&|| note(1), &|| Err("no".into()), 3).is_err());
    }

    #[test]
    fn outputs_are_compared_by_line() {
        let folder = std::env::temp_dir();
        let path = |name: &str| folder.join(format!("xtask-bench-{}-{name}", std::process::id()));
        let [a, b, empty] = ["a", "b", "empty"].map(path);
        fs::write(&a, "1\n2\n").unwrap();
        fs::write(&b, "1\n3\n").unwrap();
        fs::write(&empty, "").unwrap();
        assert_eq!(difference(&a, &a).unwrap(), None);
        assert_eq!(difference(&a, &b).unwrap().unwrap(), "line 2: ours 2, theirs 3");
        assert_eq!(difference(&a, &empty).unwrap().unwrap(), "line 1: ours 1, theirs (end)");
        assert_eq!(difference(&empty, &empty).unwrap().unwrap(), "both are empty");
        [a, b, empty].iter().for_each(|path| fs::remove_file(path).unwrap());
    }

    #[test]
    fn held_rows_are_compared_with_tolerance() {
        let held = |rows: &[(u64, f64)]| rows.iter().copied().collect::<BTreeMap<_, _>>();
        let ours = held(&[(1, 0.95), (2, 0.900_001), (3, 0.99)]);
        assert_eq!(held_differently(&ours, &held(&[(1, 0.950_001), (3, 0.99), (4, 0.900_002)])), None);
        let found = held_differently(&ours, &held(&[(1, 0.96), (5, 0.99)])).unwrap();
        assert_eq!(found, "3 rows, the first: 1 scores 0.95 and 0.96");
        assert!(held_differently(&held(&[]), &held(&[])).is_some());
    }
}
