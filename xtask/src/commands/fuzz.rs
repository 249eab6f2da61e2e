//! `fuzz`: libFuzzer, through cargo-fuzz, against all that takes texts or bytes from outside.
//!
//! ```text
//! tests/fuzz/targets/TARGET.rs ──cargo fuzz build──▶ a program ──▶ runs for N minutes, or until it fails
//! files of the repository ──▶ seeds/TARGET ──┐         │  │
//! findings of earlier runs ─▶ corpus/TARGET ─┴─────────┘  └──▶ findings/TARGET/crash-…, timeout-…, oom-…
//! ```
//!
//! All of that is in the cache, so that what one run learns the next one starts from. The targets need no nightly
//! toolchain: without sanitizers only options of the stable compiler are used.

use super::{cargo, setup};
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use xtask::{Result, layout, process};

/// A fuzz target: its name, the dictionary of its language, and what its inputs may look like.
struct Target {
    name: &'static str,
    dictionary: &'static str,
    seeds: fn(&Path) -> Result<Vec<Vec<u8>>>,
}

const TARGETS: [Target; 4] = [
    Target { name: "front_end", dictionary: "yaml.dict", seeds: pipelines },
    Target { name: "expressions", dictionary: "sql.dict", seeds: expressions },
    Target { name: "decoders", dictionary: "rows.dict", seeds: rows },
    Target { name: "plans", dictionary: "yaml.dict", seeds: pipelines },
];

const MINUTES: u64 = 10;
/// What takes longer hangs.
const TIMEOUT_S: u64 = 10;
const MEMORY_MIB: u64 = 4096;
const INPUT_BYTES_MAX: usize = 4096;
/// How many bytes of an input that failed are shown.
const SHOWN_BYTES: usize = 2000;
/// How many decodings the target `decoders` knows; the first byte of its input says which.
const DECODINGS: u8 = 6;

/// Names of targets, all without; `--minutes N` for each; `--input FILE` runs one target on one input.
pub(crate) fn run(repository: &Path, arguments: &[String]) -> Result<()> {
    let mut minutes = MINUTES;
    let mut input = None;
    let mut chosen: Vec<&Target> = Vec::new();
    let mut rest = arguments.iter();
    while let Some(argument) = rest.next() {
        match argument.as_str() {
            "--minutes" => minutes = rest.next().ok_or("--minutes wants a number")?.parse()?,
            "--input" => input = Some(rest.next().ok_or("--input wants a file")?),
            flag if flag.starts_with('-') => return Err(format!("fuzz knows no option {flag}").into()),
            name => chosen.push(TARGETS.iter().find(|target| target.name == name).ok_or_else(|| {
                let names: Vec<&str> = TARGETS.iter().map(|target| target.name).collect();
                format!("no target is called {name}; there are {}", names.join(", "))
            })?),
        }
    }
    if chosen.is_empty() {
        chosen.extend(&TARGETS);
    }
    setup::for_build()?;
    install_cargo_fuzz()?;
    let programs = build(&chosen)?;
    if let Some(input) = input {
        let [program] = programs.as_slice() else { return Err("--input wants the name of one target".into()) };
        return process::run(Command::new(program).args(limits()).arg(input));
    }
    let (mut report, mut failed) = (String::new(), Vec::new());
    for (target, program) in chosen.iter().zip(&programs) {
        println!("\n=== {}, {minutes} minutes", target.name);
        let outcome = fuzz(repository, target, program, minutes)?;
        report += &format!("  {:<12} {}\n", target.name, outcome.figures);
        if !outcome.passed {
            failed.push(target.name);
            show(target, outcome.input.as_deref());
        }
    }
    println!("\n=== fuzz\n{report}");
    if failed.is_empty() { Ok(()) } else { Err(format!("failed: {}", failed.join(", ")).into()) }
}

fn folder(name: &str) -> PathBuf {
    layout::cache().join("fuzz").join(name)
}

fn install_cargo_fuzz() -> Result<()> {
    let mut version = cargo(&["fuzz", "--version"]);
    version.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    if version.status().is_ok_and(|status| status.success()) {
        return Ok(());
    }
    println!("fuzz: cargo install cargo-fuzz");
    let mut install = cargo(&["install", "cargo-fuzz", "--locked"]);
    process::run(install.env("CARGO_TARGET_DIR", folder("target")))
}

/// Builds the targets: all at once, or the one that is asked for. Their programs, in the same order.
fn build(targets: &[&Target]) -> Result<Vec<PathBuf>> {
    let about = Command::new("rustc").arg("-vV").output()?;
    let about = String::from_utf8_lossy(&about.stdout).into_owned();
    let triple = about.lines().find_map(|line| line.strip_prefix("host: ")).ok_or("rustc -vV names no host")?;
    // The profile of tests/fuzz decides about assertions (-O), and no sanitizer is used (-s none).
    let mut command = cargo(&["fuzz", "build", "--fuzz-dir", "tests/fuzz", "-O", "-s", "none", "--target", triple]);
    if let [target] = targets {
        command.arg(target.name);
    }
    process::run(command.env("CARGO_TARGET_DIR", folder("target")))?;
    let programs = folder("target").join(triple).join("release");
    Ok(targets.iter().map(|target| programs.join(target.name)).collect())
}

fn limits() -> [String; 3] {
    [format!("-timeout={TIMEOUT_S}"), format!("-rss_limit_mb={MEMORY_MIB}"), format!("-max_len={INPUT_BYTES_MAX}")]
}

/// How a run ended.
struct Outcome {
    passed: bool,
    figures: String,
    /// The input that failed.
    input: Option<PathBuf>,
}

fn fuzz(repository: &Path, target: &Target, program: &Path, minutes: u64) -> Result<Outcome> {
    let place = |what: &str| folder(what).join(target.name);
    let (corpus, seeds, findings) = (place("corpus"), place("seeds"), place("findings"));
    let _ = fs::remove_dir_all(&seeds);
    for folder in [&corpus, &seeds, &findings] {
        fs::create_dir_all(folder)?;
    }
    for (number, seed) in (target.seeds)(repository)?.iter().enumerate() {
        fs::write(seeds.join(number.to_string()), seed)?;
    }
    let mut command = Command::new(program);
    command.args(limits()).args(["-print_final_stats=1".into(), format!("-max_total_time={}", minutes * 60)]);
    command.arg(format!("-dict={}", repository.join("tests/fuzz/dictionaries").join(target.dictionary).display()));
    command.arg(format!("-artifact_prefix={}/", findings.display()));
    let mut child = command.args([corpus, seeds]).stdin(Stdio::null()).stderr(Stdio::piped()).spawn()?;
    let mut figures = Figures::default();
    let mut lines = BufReader::new(child.stderr.take().ok_or("no output")?);
    let mut line = Vec::new();
    while lines.read_until(b'\n', &mut line)? > 0 {
        let text = String::from_utf8_lossy(&line);
        // Each input or function that is new has a line, and each text that helped to find one, which nobody reads.
        if !text.contains("\tNEW") && !text.contains("\tREDUCE ") && !text.starts_with(['"', '\n']) {
            print!("{text}");
        }
        figures.read(text.trim_end());
        line.clear();
    }
    let passed = child.wait()?.success();
    Ok(Outcome { passed, figures: figures.shown(), input: figures.input })
}

/// What libFuzzer tells of a run.
#[derive(Debug, Default)]
struct Figures {
    executions: u64,
    per_second: u64,
    /// Points of the code that were reached, and these with how often, in classes.
    coverage: u64,
    features: u64,
    input: Option<PathBuf>,
}

impl Figures {
    /// Reads `#4711  NEW  cov: 9 ft: 12 corp: ...`, `stat::NAME: N` or `...; Test unit written to PATH`.
    fn read(&mut self, line: &str) {
        let number = |name: &str| line.split_once(name)?.1.split_whitespace().next()?.parse::<u64>().ok();
        if let Some(path) = line.split_once("Test unit written to ").map(|(_, path)| path) {
            self.input = Some(path.into());
        } else if line.starts_with('#') {
            self.coverage = number(" cov: ").unwrap_or(self.coverage);
            self.features = number(" ft: ").unwrap_or(self.features);
        } else if line.starts_with("stat::") {
            self.executions = number("number_of_executed_units: ").unwrap_or(self.executions);
            self.per_second = number("average_exec_per_sec: ").unwrap_or(self.per_second);
        }
    }

    fn shown(&self) -> String {
        let Figures { executions, per_second, coverage, features, .. } = self;
        let outcome = if self.input.is_some() { "FAILED" } else { "ok" };
        format!(
            "{outcome:<7} {executions:>10} executions, {per_second:>6}/s, {coverage:>6} points reached, {features:>6} features"
        )
    }
}

/// Shows an input that failed, and how to run it again.
fn show(target: &Target, input: Option<&Path>) {
    let Some(input) = input else {
        println!("\n{}: failed, and left no input", target.name);
        return;
    };
    let bytes = fs::read(input).unwrap_or_default();
    let shown = bytes[..bytes.len().min(SHOWN_BYTES)].escape_ascii();
    println!("\n{}: {} bytes: \"{shown}\"", target.name, bytes.len());
    println!("run it again: cargo xtask fuzz {} --input {}", target.name, input.display());
}

/// Every pipeline of the repository, good or broken.
fn pipelines(repository: &Path) -> Result<Vec<Vec<u8>>> {
    let mut files = vec![repository.join("engine/spec/tests/good.yaml")];
    for folder in ["tests/cases", "pipelines"] {
        find(&repository.join(folder), "yaml", &mut files)?;
    }
    Ok(files.iter().map(fs::read).collect::<Result<_, _>>()?)
}

/// The expressions of the tests' files of cases: a block starts with one, which goes on behind `| `.
fn expressions(repository: &Path) -> Result<Vec<Vec<u8>>> {
    let mut files = Vec::new();
    find(&repository.join("engine/expr/src/tests"), "txt", &mut files)?;
    let mut found: Vec<Vec<u8>> = Vec::new();
    for file in files {
        for line in fs::read_to_string(file)?.lines().filter(|line| !line.is_empty() && !line.starts_with([' ', '#'])) {
            match (line.strip_prefix("| "), found.last_mut()) {
                (Some(more), Some(text)) => {
                    text.push(b'\n');
                    text.extend_from_slice(more.as_bytes());
                }
                _ => found.push(line.into()),
            }
        }
    }
    Ok(found)
}

/// Files of rows, each as every format: whole, and in small chunks.
fn rows(repository: &Path) -> Result<Vec<Vec<u8>>> {
    let mut found = Vec::new();
    for file in fs::read_dir(repository.join("tests/fuzz/seeds"))?.flatten() {
        let text = fs::read(file.path())?;
        for format in 0..DECODINGS {
            for head in [[format, 255, 255, 255, 255], [format, 2, 6, 10, 3]] {
                found.push([&head[..], &text].concat());
            }
        }
    }
    Ok(found)
}

/// All files below a folder with this ending.
fn find(folder: &Path, ending: &str, found: &mut Vec<PathBuf>) -> Result<()> {
    for entry in fs::read_dir(folder)?.flatten() {
        let path = entry.path();
        if path.is_dir() {
            find(&path, ending, found)?;
        } else if path.extension().is_some_and(|extension| extension == ending) {
            found.push(path);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_read_from_what_libfuzzer_prints() {
        let mut figures = Figures::default();
        for line in [
            "INFO: seed corpus: files: 12 min: 1b max: 900b total: 4000b rss: 60Mb",
            "#512\tpulse  cov: 99 ft: 120 corp: 3/10b lim: 4 exec/s: 256 rss: 61Mb",
            "#4711\tDONE   cov: 100 ft: 130 corp: 4/12b lim: 4 exec/s: 471 rss: 61Mb",
            "stat::number_of_executed_units: 4711",
            "stat::average_exec_per_sec:     471",
            "artifact_prefix='x/'; Test unit written to x/crash-1",
        ] {
            figures.read(line);
        }
        assert_eq!((figures.executions, figures.per_second, figures.coverage, figures.features), (4711, 471, 100, 130));
        assert_eq!(figures.input.as_deref(), Some(Path::new("x/crash-1")));
    }

    #[test]
    fn every_target_has_seeds_a_dictionary_and_a_program() {
        let repository = layout::repository().unwrap();
        for target in &TARGETS {
            assert!((target.seeds)(&repository).unwrap().len() > 10, "{}", target.name);
            for file in [format!("targets/{}.rs", target.name), format!("dictionaries/{}", target.dictionary)] {
                assert!(repository.join("tests/fuzz").join(&file).is_file(), "{file}");
            }
        }
    }
}
