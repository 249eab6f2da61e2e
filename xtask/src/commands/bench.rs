//! `bench`: the engine beside hand-written programs, in paired runs.
//!
//! A benchmark is a function in [`BENCHMARKS`]. It builds what it needs, makes its input once (in the cache) and hands
//! pairs of commands to [`paired`], which runs them in turns, so that a change of the machine's pace hits both. What
//! counts is the ratio of CPU seconds within a pair; the median of the pairs is printed.
//!
//! The hand-written programs are always built with link-time optimisation, at their best: without it their JSON parser
//! takes nearly twice as long. The engine is built as for tests; `--dist` builds it as it is shipped.

use super::{DIST, RELEASE, build, setup};
use serde_json::{Value, json};
use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use xtask::process::{Usage, measure};
use xtask::{Result, layout};

/// A benchmark: its name, what it compares, and the function.
struct Benchmark {
    name: &'static str,
    compares: &'static str,
    run: fn(&Context<'_>) -> Result<Vec<Comparison>>,
}

const BENCHMARKS: [Benchmark; 2] = [
    Benchmark { name: "json-filter", compares: "JSON Lines, filter and project two columns", run: json_filter },
    Benchmark { name: "json-map-all", compares: "JSON Lines, every row with an expression", run: json_map_all },
];

const RUNS: usize = 5;
const ROWS: u64 = 1_000_000;
const SEED: u64 = 1;

/// What a benchmark is given.
struct Context<'a> {
    repository: &'a Path,
    runs: usize,
    rows: u64,
    /// The engine's build profile.
    profile: &'static str,
    /// For inputs and outputs, in the cache.
    folder: PathBuf,
}

/// Two programs that did the same work.
struct Comparison {
    name: String,
    rows: u64,
    ours: Vec<Usage>,
    other: Vec<Usage>,
    /// How the outputs differ, if they do: then the ratio means little.
    difference: Option<String>,
}

/// Runs those that are named, or all.
pub(crate) fn run(repository: &Path, arguments: &[String]) -> Result<()> {
    let folder = layout::cache().join("bench");
    let mut context = Context { repository, runs: RUNS, rows: ROWS, profile: RELEASE, folder };
    let mut names = Vec::new();
    let mut as_json = false;
    let mut rest = arguments.iter();
    while let Some(argument) = rest.next() {
        let mut number = || -> Result<u64> {
            let value = rest.next().ok_or_else(|| format!("{argument} wants a number"))?;
            let number = value.parse().map_err(|_| format!("{argument} wants a number, not {value}"))?;
            if number == 0 { Err(format!("{argument} wants at least 1").into()) } else { Ok(number) }
        };
        match argument.as_str() {
            "--json" => as_json = true,
            "--dist" => context.profile = DIST,
            "--list" => {
                for benchmark in &BENCHMARKS {
                    println!("{:<14} {}", benchmark.name, benchmark.compares);
                }
                return Ok(());
            }
            "--runs" => context.runs = usize::try_from(number()?)?,
            "--rows" => context.rows = number()?,
            flag if flag.starts_with('-') => return Err(format!("bench knows no option {flag}").into()),
            name => names.push(name),
        }
    }
    if let Some(unknown) = names.iter().find(|name| !BENCHMARKS.iter().any(|one| one.name == **name)) {
        return Err(format!("no benchmark is called {unknown}; `cargo xtask bench --list` names them").into());
    }
    fs::create_dir_all(&context.folder)?;
    let mut comparisons = Vec::new();
    for benchmark in BENCHMARKS.iter().filter(|one| names.is_empty() || names.contains(&one.name)) {
        eprintln!("bench: {}", benchmark.name);
        comparisons.extend((benchmark.run)(&context)?);
    }
    if as_json {
        let all: Vec<Value> = comparisons.iter().map(Comparison::to_json).collect();
        println!(
            "{:#}",
            json!({ "machine": setup::describe_machine(), "profile": context.profile, "runs": context.runs, "results": all })
        );
    } else {
        print!("{}", table(&context, &comparisons));
    }
    Ok(())
}

fn json_filter(context: &Context<'_>) -> Result<Vec<Comparison>> {
    against_handwritten(context, "json-filter", "filter")
}

fn json_map_all(context: &Context<'_>) -> Result<Vec<Comparison>> {
    against_handwritten(context, "json-map-all", "map")
}

/// The pipeline `xtask/bench/NAME.yaml` with one worker against a mode of the hand-written program, over the same bids.
fn against_handwritten(context: &Context<'_>, name: &str, mode: &str) -> Result<Vec<Comparison>> {
    build(context.profile, &["engine"])?;
    build(DIST, &["handwritten"])?;
    let bids = bids(context)?;
    let outputs = [context.folder.join("ours.out"), context.folder.join("other.out")];
    let engine = || -> Result<Command> {
        let mut command = Command::new(layout::binary(context.profile, "engine"));
        command.arg("run").arg(context.repository.join(format!("xtask/bench/{name}.yaml")));
        command.args(["--workers", "1", "--set", &format!("sources.bids.path={}", bids.display())]);
        command.stdin(Stdio::null()).stdout(File::create(&outputs[0])?).stderr(Stdio::null());
        Ok(command)
    };
    let handwritten = || -> Result<Command> {
        let mut command = Command::new(layout::binary(DIST, "handwritten"));
        command.args([mode, &bids.display().to_string()]);
        command.stdin(Stdio::null()).stdout(File::create(&outputs[1])?);
        Ok(command)
    };
    let (ours, other) = paired(&engine, &handwritten, context.runs)?;
    let difference = difference(&outputs[0], &outputs[1])?;
    outputs.iter().try_for_each(fs::remove_file)?;
    Ok(vec![Comparison { name: name.into(), rows: context.rows, ours, other, difference }])
}

/// A file of bids, made once for each number of rows.
fn bids(context: &Context<'_>) -> Result<PathBuf> {
    let path = context.folder.join(format!("bids-{}-{SEED}.jsonl", context.rows));
    if !path.exists() {
        let partial = path.with_extension("partial");
        let mut command = Command::new(layout::binary(DIST, "handwritten"));
        command.args(["bids", &context.rows.to_string(), &SEED.to_string()]).stdout(File::create(&partial)?);
        xtask::process::run(&mut command)?;
        fs::rename(partial, &path)?;
    }
    Ok(path)
}

/// Makes the command of one run.
type MakeCommand<'a> = &'a dyn Fn() -> Result<Command>;

/// Runs `a` and `b` in turns, `runs` times each after one run to warm up; which of them goes first changes each time.
fn paired(a: MakeCommand<'_>, b: MakeCommand<'_>, runs: usize) -> Result<(Vec<Usage>, Vec<Usage>)> {
    measure(&mut a()?)?;
    measure(&mut b()?)?;
    let (mut of_a, mut of_b) = (Vec::new(), Vec::new());
    for run in 0..runs {
        if run % 2 == 0 {
            of_a.push(measure(&mut a()?)?);
            of_b.push(measure(&mut b()?)?);
        } else {
            of_b.push(measure(&mut b()?)?);
            of_a.push(measure(&mut a()?)?);
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

impl Comparison {
    fn ratio(&self) -> f64 {
        median(self.ours.iter().zip(&self.other).map(|(ours, other)| ours.cpu_s / other.cpu_s))
    }

    fn to_json(&self) -> Value {
        let side = |usages: &[Usage]| {
            json!({
                "cpu_s": median(usages.iter().map(|usage| usage.cpu_s)),
                "wall_s": median(usages.iter().map(|usage| usage.wall_s)),
                "rss_bytes_max": usages.iter().map(|usage| usage.rss_bytes_max).max(),
            })
        };
        json!({
            "name": self.name, "rows": self.rows, "engine": side(&self.ours), "handwritten": side(&self.other),
            "cpu_ratio": self.ratio(), "difference": self.difference,
        })
    }
}

fn table(context: &Context<'_>, comparisons: &[Comparison]) -> String {
    let mut text = format!(
        "{}; engine built as {}; medians of {} paired runs\n\n",
        setup::describe_machine(),
        context.profile,
        context.runs
    );
    text += "| benchmark | rows | engine CPU s | other CPU s | ratio | engine s | engine MiB |\n|---|---|---|---|---|---|---|\n";
    for one in comparisons {
        let cpu = |usages: &[Usage]| median(usages.iter().map(|usage| usage.cpu_s));
        let mib = one.ours.iter().map(|usage| usage.rss_bytes_max >> 20).max().unwrap_or(0);
        text += &format!(
            "| {} | {} | {:.3} | {:.3} | {:.2} | {:.3} | {mib} |\n",
            one.name,
            one.rows,
            cpu(&one.ours),
            cpu(&one.other),
            one.ratio(),
            median(one.ours.iter().map(|usage| usage.wall_s)),
        );
    }
    for one in comparisons {
        if let Some(difference) = &one.difference {
            text += &format!("\n{}: the outputs differ: {difference}\n", one.name);
        }
    }
    text
}

/// The middle value; of an even number the mean of the two in the middle; NaN of none.
fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    match values.len() {
        0 => f64::NAN,
        length => (values[(length - 1) / 2] + values[length / 2]) / 2.0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians() {
        assert_eq!(median([3.0, 1.0, 2.0].into_iter()), 2.0);
        assert_eq!(median([4.0, 1.0, 2.0, 3.0].into_iter()), 2.5);
        assert!(median(std::iter::empty()).is_nan());
    }

    #[test]
    fn pairs_are_run_in_turns_after_one_run_to_warm_up() {
        let make = || {
            let mut command = Command::new("sh");
            command.args(["-c", "exit 0"]);
            Ok(command)
        };
        let (a, b) = paired(&make, &make, 3).unwrap();
        assert_eq!((a.len(), b.len()), (3, 3));
        let fail = || Ok(Command::new("false"));
        assert!(paired(&make, &fail, 3).is_err());
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
}
