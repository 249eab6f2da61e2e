//! The binary's contract with scripts: exit codes, and what goes to which stream.

use std::process::{Command, Output};

fn engine(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_engine")).args(arguments).output().expect("the engine starts")
}

/// Runs a command and compares its exit code, and what its stdout and stderr must hold.
fn check(arguments: &[&str], code: i32, stdout: &str, stderr: &str) {
    let output = engine(arguments);
    let shown = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert_eq!(output.status.code(), Some(code), "{arguments:?}: {}", shown(&output.stderr));
    assert!(shown(&output.stdout).contains(stdout), "{arguments:?}: stdout is {}", shown(&output.stdout));
    assert!(shown(&output.stderr).contains(stderr), "{arguments:?}: stderr is {}", shown(&output.stderr));
}

#[test]
fn exit_codes_tell_success_problems_and_usage_apart() {
    check(&["--version"], 0, "engine ", "");
    check(&["--help"], 0, "dry-run", "");
    check(&[], 2, "", "Usage");
    check(&["no-such-command"], 2, "", "no-such-command");
    check(&["run", "x.yaml", "--workers", "0"], 2, "", "--workers");
    check(&["dry-run", "no-such-file.yaml"], 1, "", "no-such-file.yaml");
    check(&["run", "no-such-file.yaml"], 1, "", "no-such-file.yaml");
    check(&["explain", "E9999"], 2, "", "E9999");
    check(&["explain", "e0101"], 0, "E0101", "");
}
