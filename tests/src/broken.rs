//! The corpus of broken specs, through the real binary: `tests/cases/broken/SUBJECT/NAME.yaml` gives what stands in
//! `NAME.stderr` beside it.
//!
//! A case is given to `engine dry-run`, or as its first line says: `# options: --run --profile p --set a.b=c --param x=1`,
//! where `--run` stands for `engine run`, which must find the problem before anything starts. The environment has `SET=5`
//! and the secret `PASSWORD`. `BLESS=1` writes what came out, for a person to review.
//!
//! The subject `spec` is blessed by the tests of the crate `spec`, which knows no kinds: there the binary must say all that
//! stands in the file, and may say more.

use crate::{engine, package};
use engine_base::codes;
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// Codes that no pipeline can bring about yet, and why.
const OUT_OF_REACH: &[(&str, &str)] = &[
    ("E0206", "a text of this size is made by the tests of the crate `expr`, not kept in a file"),
    ("E0219", "no function that is built changes its value but those that are seeded or recorded"),
    ("E0225", "an expression that was planned always fits; it stands for a fault of ours"),
    ("E0314", "there is one kind of connection only"),
];

/// The least number of cases, so that a lost folder is noticed.
const CASES_MIN: usize = 80;

/// The size of `file_too_large.yaml`, which does not stand in the repository at its full length.
const LARGE_BYTES: usize = 10 << 20;

fn corpus() -> PathBuf {
    package().join("cases/broken")
}

fn files(folder: &Path, extension: &str) -> Vec<PathBuf> {
    let mut files: Vec<PathBuf> = fs::read_dir(folder)
        .unwrap_or_else(|error| panic!("{}: {error}", folder.display()))
        .map(|entry| entry.expect("an entry").path())
        .filter(|path| path.extension().is_some_and(|found| found == extension))
        .collect();
    files.sort();
    files
}

fn subjects() -> Vec<PathBuf> {
    let mut folders: Vec<PathBuf> = fs::read_dir(corpus())
        .expect("the corpus")
        .map(|entry| entry.expect("an entry").path())
        .filter(|path| path.is_dir())
        .collect();
    folders.sort();
    folders
}

fn run(case: &Path) -> Output {
    let name = case.file_name().expect("a name");
    let mut folder = case.parent().expect("a folder").to_path_buf();
    let text = String::from_utf8_lossy(&fs::read(case).expect("a case")).into_owned();
    let options = text.lines().next().and_then(|line| line.strip_prefix("# options: ")).unwrap_or_default();
    let mut arguments: Vec<&str> = options.split_whitespace().collect();
    let is_run = arguments.iter().position(|option| *option == "--run");
    let command = match is_run {
        Some(at) => {
            arguments.remove(at);
            "run"
        }
        None => "dry-run",
    };
    let large = tempfile::tempdir().expect("a folder");
    if name == "file_too_large.yaml" {
        let line = "# a pipeline of ten megabytes\n";
        fs::write(large.path().join(name), line.repeat(LARGE_BYTES / line.len() + 1)).expect("a file");
        folder = large.path().to_path_buf();
    }
    Command::new(engine())
        .arg(command)
        .arg(name)
        .args(arguments)
        .current_dir(folder)
        .env_clear()
        .env("SET", "5")
        .env("ENGINE_SECRET_PASSWORD", "s3cret-value")
        .output()
        .expect("the engine runs")
}

/// The diagnostics of a report: a blank line stands between them.
fn blocks(report: &str) -> Vec<&str> {
    report.split("\n\n").map(str::trim_end).filter(|block| !block.is_empty()).collect()
}

#[test]
fn every_broken_spec_gives_its_diagnostics() {
    let bless = std::env::var_os("BLESS").is_some();
    let mut wrong = Vec::new();
    let mut cases = 0;
    for subject in subjects() {
        for case in files(&subject, "yaml") {
            cases += 1;
            let output = run(&case);
            let found = String::from_utf8(output.stderr).expect("UTF-8");
            let partial = subject.ends_with("spec");
            // What the real kinds say where the stand-ins of the crate `spec` say something else.
            let with_kinds = case.with_extension("engine.stderr");
            let (expected_path, partial) = match partial && (with_kinds.exists() || bless) {
                true => (with_kinds, false),
                false => (case.with_extension("stderr"), partial),
            };
            let expected = fs::read_to_string(&expected_path).unwrap_or_default();
            let name = case.strip_prefix(corpus()).expect("below the corpus").display().to_string();
            let same = match partial {
                true => blocks(&expected).iter().all(|block| blocks(&found).contains(block)),
                false => found == expected,
            };
            if !same && bless && !partial {
                fs::write(&expected_path, &found).expect("a file");
            } else if !same {
                wrong.push(format!("=== {name}\n--- expected\n{expected}\n--- found\n{found}"));
            }
            // A case of warnings and notes alone is no failure.
            let code = if found.contains("error[") { 1 } else { 0 };
            if output.status.code() != Some(code) {
                wrong.push(format!("=== {name}: ended with {}, not with {code}\n{found}", output.status));
            }
            if found.contains("s3cret-value") || String::from_utf8_lossy(&output.stdout).contains("s3cret-value") {
                wrong.push(format!("=== {name}: shows a secret"));
            }
        }
    }
    assert!(cases >= CASES_MIN, "only {cases} cases");
    assert!(
        wrong.is_empty(),
        "{}\n\n{} of {cases} cases differ; BLESS=1 writes what came out",
        wrong.join("\n"),
        wrong.len()
    );
}

#[test]
fn every_code_is_in_the_corpus() {
    let mut seen = BTreeSet::new();
    for subject in subjects() {
        for file in files(&subject, "stderr") {
            let text = fs::read_to_string(file).expect("a report");
            for (at, _) in text.match_indices("[E") {
                seen.extend(text.get(at + 1..at + 6).map(str::to_owned));
            }
        }
    }
    // Expressions have a corpus of their own, held by the tests of the crate `expr`.
    let expressions = corpus().join("../../../engine/expr/src/tests/errors.txt");
    let text = fs::read_to_string(&expressions).expect("the broken expressions");
    for (at, _) in text.match_indices("E02") {
        seen.extend(text.get(at..at + 5).map(str::to_owned));
    }
    let missing: Vec<&str> = codes::all()
        .map(|info| info.code.0)
        .filter(|code| !seen.contains(*code) && !OUT_OF_REACH.iter().any(|(out, _)| out == code))
        .collect();
    assert!(missing.is_empty(), "no broken spec brings about {}", missing.join(", "));
    let stale: Vec<&str> = OUT_OF_REACH.iter().map(|(code, _)| *code).filter(|code| seen.contains(*code)).collect();
    assert!(stale.is_empty(), "brought about after all: {}", stale.join(", "));
}

#[test]
fn codes_are_in_order_and_explained() {
    let mut before = "";
    for info in codes::all() {
        let code = info.code.0;
        assert!(before < code, "{code} stands after {before}");
        before = code;
        assert!(!info.title.is_empty() && !info.title.ends_with('.'), "{code}: a title is a few words");
        assert!(info.explanation.trim().len() > 40, "{code} is not explained");
    }
}
