//! `engine test`, through the real binary: the tests of the project's own pipelines, and what it says of those that fail.

use crate::{engine, package};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

fn yaml_files(folder: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display())) {
        let path = entry.expect("an entry").path();
        match path.is_dir() {
            true => files.extend(yaml_files(&path)),
            false if path.extension().is_some_and(|extension| extension == "yaml") => files.push(path),
            false => {}
        }
    }
    files.sort();
    files
}

fn test(arguments: &[&str], files: &[PathBuf]) -> Output {
    Command::new(engine()).arg("test").args(arguments).args(files).output().expect("the engine runs")
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

#[test]
fn pipelines_do_what_their_tests_say_however_they_are_cut() {
    let root = package().parent().expect("the repository").to_path_buf();
    let mut files = yaml_files(&package().join("cases/pipelines"));
    files.extend(
        yaml_files(&root.join("pipelines"))
            .into_iter()
            .filter(|path| fs::read_to_string(path).expect("a pipeline").contains("\ntests:\n")),
    );
    let output = test(&["--workers", "1,2,3", "--random-cuts", "5"], &files);
    assert!(output.status.success(), "{}", text(&output));
    let said = text(&output);
    let passed = said.lines().filter(|line| line.starts_with("  ok ")).count();
    let written: usize = files
        .iter()
        .map(|path| {
            let text = fs::read_to_string(path).expect("a pipeline");
            let tests = text.split_once("\ntests:\n").map_or("", |(_, tests)| tests);
            tests.lines().filter(|line| line.starts_with("  - name: ")).count()
        })
        .sum();
    assert!(passed == written && passed >= 10, "{passed} of {written}:\n{said}");
}

const PIPELINE: &str = r#"version: 1
pipeline: tried
sources:
  readings:
    type: stdin
    format: json
    schema: { machine: string, temperature: float64, at: timestamp }
    event_time: { column: at, max_delay: 5s }
operators:
  per_minute:
    type: window
    input: readings
    key: machine
    tumbling: 1m
    columns: { mean: avg(temperature), n: count(*) }
  checked: { type: map, input: per_minute, set: { half: 10 / (n - 3) } }
sinks:
  out: { type: stdout, input: checked }
tests:
"#;

fn tried(tests: &str, arguments: &[&str]) -> (Output, tempfile::TempDir) {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("tried.yaml");
    fs::write(&path, format!("{PIPELINE}{tests}")).expect("a file");
    (test(arguments, &[path]), folder)
}

const FAILS: &str = r#"  - name: it fails
    steps:
      - give:
          readings:
            - { machine: a, temperature: 20, at: "2026-01-01T10:00:05Z" }
            - { machine: a, temperature: 21, at: "2026-01-01T10:00:06Z" }
            - { machine: b, temperature: 5, at: "2026-01-01T10:00:06Z" }
            - { machine: c, temperature: 1, at: "2026-01-01T10:00:06Z" }
      - end: all
      - expect:
          out:
            - { machine: a, mean: 20 }
            - { machine: x, mean: 7 }
            - { machine: c, mean: 1, n: 1 }
      - expect: { out: [{ n: 3 }] }
"#;

#[test]
fn a_difference_is_told_and_can_be_written_into_the_file() {
    let (output, folder) = tried(FAILS, &[]);
    assert_eq!(output.status.code(), Some(1));
    let said = text(&output);
    for line in [
        "  FAIL  it fails",
        "tried.yaml:30:11 `out`: 2 rows are missing, 2 rows are not expected",
        "          ~ { machine: a, mean: 20.0 is 20.5 }",
        "          - { machine: x, mean: 7.0 }",
        "          + { machine: b, mean: 5.0, n: 1 }",
        "tried.yaml:34:19 `out`: 1 row is missing",
        "          - { n: 3 }",
        "1 failed",
    ] {
        assert!(said.contains(line), "{line:?} in:\n{said}");
    }
    let path = folder.path().join("tried.yaml");
    let report = folder.path().join("report.xml");
    let output = test(&["--fix", "--junit", report.to_str().expect("a path")], std::slice::from_ref(&path));
    assert!(output.status.success(), "{}", text(&output));
    let report = fs::read_to_string(report).expect("a report");
    assert!(report.contains("<testsuite name=") && report.contains("failures=\"1\""), "{report}");
    assert!(report.contains("&lt;") || !report.contains("<>"), "{report}");
    let fixed = fs::read_to_string(&path).expect("the file");
    let tests = fixed.strip_prefix(PIPELINE).expect("the rest stays as it was");
    let expected = FAILS
        .replace("{ machine: a, mean: 20 }", "{ machine: a, mean: 20.5, n: 2 }")
        .replace("{ machine: x, mean: 7 }", "{ machine: b, mean: 5.0, n: 1 }")
        .replace("{ machine: c, mean: 1, n: 1 }", "{ machine: c, mean: 1.0, n: 1 }")
        .replace("[{ n: 3 }]", "[]");
    assert_eq!(tests, expected);
    assert!(test(&[], &[path]).status.success());
}

#[test]
fn expectations_can_be_ordered_exact_partial_and_near() {
    let given = r#"  - name: NAME
    steps:
      - give:
          readings:
            - { machine: a, temperature: 20, at: "2026-01-01T10:00:05Z" }
            - { machine: b, temperature: 21, at: "2026-01-01T10:00:06Z" }
            - { machine: b, temperature: 21.5, at: "2026-01-01T10:00:06Z" }
            - { machine: b, temperature: 21.5, at: "2026-01-01T10:00:06Z" }
      - end: all
      - expect:
          per_minute: EXPECTED
"#;
    let verdict = |expected: &str| {
        let (output, _folder) = tried(&given.replace("NAME", "it").replace("EXPECTED", expected), &[]);
        (output.status.success(), text(&output))
    };
    let rows = "[{ machine: b }, { machine: a }]";
    for (expected, holds) in [
        (rows.to_owned(), true),
        (format!("{{ rows: {rows} }}"), true),
        (format!("{{ rows: {rows}, ordered: true }}"), false),
        ("{ rows: [{ machine: a }, { machine: b }], ordered: true }".to_owned(), true),
        (format!("{{ rows: {rows}, exact: true }}"), false),
        ("[{ machine: b }]".to_owned(), false),
        ("{ rows: [{ machine: b }], subset: true }".to_owned(), true),
        ("{ rows: [{ machine: c }], subset: true }".to_owned(), false),
        ("{ rows: [{ mean: 21.3 }, { mean: 20 }], tolerance: 0.05 }".to_owned(), true),
        ("{ rows: [{ mean: 21.3 }, { mean: 20 }], tolerance: 0.01 }".to_owned(), false),
    ] {
        let (passed, said) = verdict(&expected);
        assert_eq!(passed, holds, "{expected}:\n{said}");
        // The row of `checked` that fails, by division by zero, is told of.
        assert!(said.contains("a row"), "{said}");
    }
}

#[test]
fn rows_may_stand_in_files() {
    let folder = tempfile::tempdir().expect("a folder");
    let tests = r#"  - name: by file
    steps:
      - give: { readings: { file: given.jsonl } }
      - end: readings
      - expect: { out: { file: expected.jsonl } }
"#;
    let path = folder.path().join("tried.yaml");
    fs::write(&path, format!("{PIPELINE}{tests}")).expect("a file");
    let given = "{\"machine\": \"a\", \"temperature\": 4, \"at\": \"2026-01-01T10:00:05Z\"}\n";
    fs::write(folder.path().join("given.jsonl"), given).expect("a file");
    fs::write(folder.path().join("expected.jsonl"), "{\"mean\": 5}\n").expect("a file");
    let output = test(&[], std::slice::from_ref(&path));
    assert_eq!(output.status.code(), Some(1), "{}", text(&output));
    assert!(test(&["--fix"], std::slice::from_ref(&path)).status.success());
    let fixed = fs::read_to_string(folder.path().join("expected.jsonl")).expect("the file");
    assert_eq!(fixed, "{\"mean\":4.0}\n");
    assert!(test(&["--filter", "by file"], &[path]).status.success());
}
