//! `test`: set up, start the services, run every test, stop the services, and count.

use super::{cargo, setup};
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use xtask::services::kafka::{KafkaOptions, Starting};
use xtask::services::postgres;
use xtask::{Result, process};

/// How many tests there were, by outcome.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    pub(crate) passed: u64,
    pub(crate) failed: u64,
    pub(crate) ignored: u64,
}

/// Arguments after `test`: filters, `-p PACKAGE`, `--no-services`, and `-- ARGUMENTS` for the test binaries.
pub(crate) fn run(repository: &Path, arguments: &[String]) -> Result<()> {
    run_with(repository, arguments, &[])
}

/// The same with variables for the tests.
pub(crate) fn run_with(repository: &Path, arguments: &[String], variables: &[(&str, String)]) -> Result<()> {
    setup::run(repository)?;
    let (ours, tests) = match arguments.iter().position(|argument| argument == "--") {
        Some(at) => (&arguments[..at], &arguments[at + 1..]),
        None => (arguments, &[][..]),
    };
    let mut selection = vec!["--workspace".to_owned()];
    let mut filters = Vec::new();
    let mut services = true;
    let mut rest = ours.iter();
    while let Some(argument) = rest.next() {
        match argument.as_str() {
            "-p" | "--package" => {
                selection.retain(|part| part != "--workspace");
                selection.extend(["--package".into(), rest.next().ok_or("-p wants a package")?.clone()]);
            }
            "--no-services" => services = false,
            flag if flag.starts_with('-') => return Err(format!("test knows no option {flag}").into()),
            filter => filters.push(filter.to_owned()),
        }
    }
    // The services start while the tests compile.
    let starting = services.then(|| (Starting::begin(KafkaOptions::default()), postgres::Starting::begin()));
    process::run(cargo(&["test", "--release", "--locked", "--no-run", "--no-fail-fast"]).args(&selection))?;
    let (kafka, postgres) = match starting {
        Some((kafka, postgres)) => (Some(kafka.finish()?), Some(postgres.finish()?)),
        None => (None, None),
    };
    let mut command = cargo(&["test", "--release", "--locked", "--no-fail-fast"]);
    command.args(&selection).arg("--").args(&filters).args(tests);
    let environment = kafka.iter().flat_map(|kafka| kafka.environment());
    command.envs(environment.chain(postgres.iter().flat_map(|postgres| postgres.environment())));
    command.envs(variables.iter().map(|(name, value)| (*name, value)));
    let (counts, passed) = run_and_count(&mut command)?;
    drop((kafka, postgres));
    println!("tests: {} passed, {} failed, {} ignored", counts.passed, counts.failed, counts.ignored);
    match counts {
        _ if !passed => Err("tests failed".into()),
        Counts { passed: 0, .. } => Err("no test ran".into()),
        _ => Ok(()),
    }
}

/// Passes the output on, line by line, and adds up what each test binary says of itself.
fn run_and_count(command: &mut Command) -> Result<(Counts, bool)> {
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn()?;
    let mut counts = Counts::default();
    let mut lines = BufReader::new(child.stdout.take().ok_or("no output")?);
    let mut line = Vec::new();
    while lines.read_until(b'\n', &mut line)? > 0 {
        let text = String::from_utf8_lossy(&line);
        print!("{text}");
        counts.add(&text);
        line.clear();
    }
    Ok((counts, child.wait()?.success()))
}

impl Counts {
    /// Adds `test result: ok. 3 passed; 0 failed; 1 ignored; ...`; other lines say nothing.
    fn add(&mut self, line: &str) {
        let Some((_, result)) = line.trim().strip_prefix("test result: ").and_then(|rest| rest.split_once(". ")) else {
            return;
        };
        for part in result.split("; ") {
            if let Some((count, what)) = part.split_once(' ') {
                let count = count.parse::<u64>().unwrap_or(0);
                match what {
                    "passed" => self.passed += count,
                    "failed" => self.failed += count,
                    "ignored" => self.ignored += count,
                    _ => {}
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_results_of_test_binaries_are_added_up() {
        let mut counts = Counts::default();
        for line in [
            "running 4 tests",
            "test result: ok. 3 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.01s\n",
            "test result: FAILED. 7 passed; 2 failed; 0 ignored; 0 measured; 5 filtered out; finished in 1.01s",
            "test a_result ... ok",
        ] {
            counts.add(line);
        }
        assert_eq!(counts, Counts { passed: 10, failed: 2, ignored: 1 });
    }
}
