//! `bench`: what the engine costs and how quick it is.
//!
//! A benchmark is a function in [`BENCHMARKS`]. It builds what it needs, makes its input once (in the cache), runs the engine
//! and says what it saw as an [`Outcome`]:
//!
//! * a [`Comparison`](outcome::Comparison) beside a hand-written program: pairs of runs in turns ([`paired`]), so that a change
//!   of the machine's pace hits both. What counts is the ratio of CPU seconds within a pair; the median of the pairs is printed;
//! * figures of its own: latencies, rates, shares of a core, sizes. Where the project has set itself a target it stands beside.
//!
//! The hand-written programs are always built with link-time optimisation, at their best: without it their JSON parser
//! takes nearly twice as long. The engine is built as for tests; `--dist` builds it as it is shipped, and `--engine PATH`
//! takes one that is there. A latency counts from when a row was *due*, by a timetable that waits for nobody.

mod cost;
mod crayfish;
mod fraud_kafka;
mod kafka_read;
mod large_state;
mod live;
mod many_keys;
mod nexmark;
mod open_loop;
mod outcome;
mod paired;
mod topics;
mod webhook;

use super::{DIST, RELEASE, build, cargo, setup};
use outcome::Outcome;
use serde_json::{Value, json};
use std::cell::OnceCell;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use xtask::{Result, layout, process};

/// A benchmark: its name, what it measures, whether it runs when none is named, and the function.
struct Benchmark {
    name: &'static str,
    measures: &'static str,
    by_default: bool,
    run: fn(&Context<'_>) -> Result<Outcome>,
}

const fn benchmark(name: &'static str, measures: &'static str, run: fn(&Context<'_>) -> Result<Outcome>) -> Benchmark {
    Benchmark { name, measures, by_default: true, run }
}

const BENCHMARKS: [Benchmark; 20] = [
    benchmark(
        "json-filter",
        "JSON Lines, filter and project two columns; against a program by hand",
        paired::json_filter,
    ),
    benchmark(
        "json-map-all",
        "JSON Lines, every row with an expression; against a program by hand",
        paired::json_map_all,
    ),
    benchmark(
        "tumbling",
        "JSON Lines, count and sum by key in windows of ten seconds; against a program by hand",
        paired::tumbling,
    ),
    benchmark("hopping", "the same in windows that overlap five times; against a program by hand", paired::hopping),
    benchmark("join", "two streams of bids within half a minute; against a program by hand", paired::join),
    benchmark("two-workers", "two workers on two cores against one on one", paired::two_workers),
    benchmark("many-keys", "a window of 1 M keys over 10 M rows, beside a branch that must not wait", many_keys::run),
    benchmark("fraud", "pipelines/fraud.yaml from file to file; against a program by hand", paired::fraud),
    benchmark(
        "exactly-once",
        "fraud and map-all from file to file, exactly once against without state",
        paired::exactly_once,
    ),
    Benchmark {
        name: "large-state",
        measures: "a gigabyte of state: loading it, checkpoints under load, back in step after a kill; by name only",
        by_default: false,
        run: large_state::run,
    },
    benchmark("kafka-read", "read and decode a topic; against bare librdkafka", kafka_read::run),
    benchmark(
        "crayfish",
        "Kafka, a network of 28,618 parameters, Kafka: sustained rate, latency at 80 %",
        crayfish::run,
    ),
    benchmark("epochs", "CPU of 500 epochs a second over 200 steps", cost::epochs),
    benchmark("idle", "CPU of a pipeline without input", cost::idle),
    benchmark("open-loop-file", "20,000 rows a second from a growing file, and from stdin, to stdout", open_loop::run),
    benchmark("dry-run", "`engine dry-run` of 50 steps", cost::dry_run),
    benchmark("memory", "resident memory over 10 M rows of a keyed step", cost::memory),
    Benchmark {
        name: "nexmark",
        measures: "the queries of pipelines/nexmark, one worker and two (--queries q5,q7 for some of them); by name only",
        by_default: false,
        run: nexmark::run,
    },
    Benchmark {
        name: "fraud-kafka",
        measures: "pipelines/fraud.yaml --profile kafka: time to hold and to alert, five minutes; by name only",
        by_default: false,
        run: fraud_kafka::run,
    },
    Benchmark {
        name: "fraud-kafka-exactly-once",
        measures: "the same, and each row exactly once; by name only",
        by_default: false,
        run: fraud_kafka::exactly_once,
    },
];

const RUNS: usize = 5;
const SEED: u64 = 1;

/// What a benchmark is given.
struct Context<'a> {
    repository: &'a Path,
    /// For inputs and outputs, in the cache.
    folder: PathBuf,
    runs: usize,
    rows: Option<u64>,
    seconds: Option<u64>,
    rate: Option<u64>,
    /// Those of `nexmark`; all if there are none.
    queries: Vec<String>,
    /// The engine's build profile.
    profile: &'static str,
    engine: OnceCell<PathBuf>,
    handwritten: OnceCell<PathBuf>,
}

/// Runs those that are named, or all that run by default.
pub(crate) fn run(repository: &Path, arguments: &[String]) -> Result<()> {
    let mut context = Context {
        repository,
        folder: layout::cache().join("bench"),
        runs: RUNS,
        rows: None,
        seconds: None,
        rate: None,
        queries: Vec::new(),
        profile: RELEASE,
        engine: OnceCell::new(),
        handwritten: OnceCell::new(),
    };
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
                    println!("{:<14} {}", benchmark.name, benchmark.measures);
                }
                return Ok(());
            }
            "--runs" => context.runs = usize::try_from(number()?)?,
            "--rows" => context.rows = Some(number()?),
            "--seconds" => context.seconds = Some(number()?),
            "--rate" => context.rate = Some(number()?),
            "--queries" => {
                let names = rest.next().ok_or("--queries wants names, such as q5,q7")?;
                context.queries = names.split(',').map(str::to_owned).collect();
            }
            "--engine" => {
                let path = rest.next().ok_or("--engine wants the path of a binary")?;
                context.engine = fs::canonicalize(path).map_err(|error| format!("{path}: {error}"))?.into();
            }
            flag if flag.starts_with('-') => return Err(format!("bench knows no option {flag}").into()),
            name => names.push(name),
        }
    }
    if let Some(unknown) = names.iter().find(|name| !BENCHMARKS.iter().any(|one| one.name == **name)) {
        return Err(format!("no benchmark is called {unknown}; `cargo xtask bench --list` names them").into());
    }
    fs::create_dir_all(&context.folder)?;
    let is_wanted = |one: &&Benchmark| if names.is_empty() { one.by_default } else { names.contains(&one.name) };
    let (mut outcomes, mut failures) = (Vec::new(), Vec::new());
    for benchmark in BENCHMARKS.iter().filter(is_wanted) {
        eprintln!("bench: {}", benchmark.name);
        // One that fails does not cost the figures of the others.
        match (benchmark.run)(&context) {
            Ok(outcome) => outcomes.push((benchmark.name, outcome)),
            Err(error) => failures.push(format!("{}: {error}", benchmark.name)),
        }
    }
    let engine = if context.profile == DIST { "dist" } else { "release" };
    if as_json {
        let all: Vec<Value> = outcomes.iter().map(|(name, outcome)| outcome.to_json(name)).collect();
        println!(
            "{:#}",
            json!({
                "machine": setup::describe_machine(), "profile": engine, "runs": context.runs, "results": all,
                "failures": failures,
            })
        );
    } else {
        println!("{}; engine built as {engine}\n", setup::describe_machine());
        print!("{}", outcome::tables(&outcomes, context.runs));
    }
    if failures.is_empty() { Ok(()) } else { Err(failures.join("\n").into()) }
}

impl Context<'_> {
    /// The engine, built unless one was given.
    fn engine(&self) -> Result<&Path> {
        if let Some(engine) = self.engine.get() {
            return Ok(engine);
        }
        build(self.profile, &["engine"])?;
        Ok(self.engine.get_or_init(|| layout::binary(self.profile, "engine")))
    }

    /// `engine run` of a pipeline. It runs in the folder of the benchmarks, and what it logs is kept there in `engine.log`.
    fn run_engine(&self, pipeline: &Path) -> Result<Command> {
        let mut command = Command::new(self.engine()?);
        command.args(["run", "--quiet"]).arg(pipeline).current_dir(&self.folder);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(File::create(self.folder.join("engine.log"))?);
        Ok(command)
    }

    /// A pipeline of `xtask/bench`.
    fn pipeline(&self, name: &str) -> PathBuf {
        self.repository.join("xtask/bench").join(name)
    }

    /// The hand-written program.
    fn handwritten(&self, arguments: &[&str]) -> Result<Command> {
        let program = match self.handwritten.get() {
            Some(program) => program,
            None => {
                build(DIST, &["handwritten"])?;
                self.handwritten.get_or_init(|| layout::binary(DIST, "handwritten"))
            }
        };
        let mut command = Command::new(program);
        command.args(arguments).stdin(Stdio::null());
        Ok(command)
    }

    /// A file of inputs, made once by a command that writes it to its standard output.
    fn made(&self, name: &str, command: impl FnOnce() -> Result<Command>) -> Result<PathBuf> {
        let path = self.folder.join(name);
        if !path.exists() {
            let partial = path.with_extension("partial");
            process::run(command()?.stdout(File::create(&partial)?))?;
            fs::rename(partial, &path)?;
        }
        Ok(path)
    }

    /// Bids, as JSON Lines.
    fn bids(&self, rows: u64) -> Result<PathBuf> {
        let (rows, seed) = (rows.to_string(), SEED.to_string());
        self.made(&format!("bids-{rows}-{seed}.jsonl"), || self.handwritten(&["bids", &rows, &seed]))
    }

    /// Simulated card transactions, as JSON Lines.
    fn transactions(&self, rows: u64) -> Result<PathBuf> {
        let (rows, seed) = (rows.to_string(), SEED.to_string());
        self.made(&format!("transactions-{rows}-{seed}.jsonl"), || {
            // An example is built with the features of the tests, as everything of that profile.
            process::run(&mut cargo(&["build", "--locked", "--release", "--workspace", "--example", "fraud_data"]))?;
            let mut command = Command::new(layout::binary(RELEASE, "examples/fraud_data"));
            command.args(["--rows", &rows, "--seed", &seed]);
            Ok(command)
        })
    }
}
