//! The commands, one file each.

pub(crate) mod bench;
pub(crate) mod ci;
pub(crate) mod codegen;
pub(crate) mod demo;
pub(crate) mod fuzz;
pub(crate) mod nab;
pub(crate) mod setup;
pub(crate) mod test;
pub(crate) mod tidy;
pub(crate) mod torture;

use std::env;
use std::process::Command;
use xtask::{Result, layout, process};

/// `cargo` with our build folder and the committed lock file.
fn cargo(arguments: &[&str]) -> Command {
    let mut command = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.args(arguments).env("CARGO_TARGET_DIR", layout::target());
    command
}

/// The profile of tests, checks and daily use.
const RELEASE: &str = "release";
/// The profile of what is shipped: with link-time optimisation, and slow to build.
const DIST: &str = "dist";

/// Builds binaries for use.
///
/// For tests and daily use as a part of the workspace's tests: Cargo chooses the features of dependencies by what is
/// selected, and another selection would compile most of them a second time.
fn build(profile: &str, binaries: &[&str]) -> Result<()> {
    let mut command = if profile == RELEASE {
        cargo(&["test", "--locked", "--release", "--workspace", "--no-run"])
    } else {
        cargo(&["build", "--locked", "--profile", profile, "--workspace"])
    };
    for binary in binaries {
        // An integration test builds the binaries of its package; its name says which.
        match (profile, *binary) {
            (RELEASE, "engine") => command.args(["--test", "cli"]),
            _ => command.args(["--bin", binary]),
        };
    }
    process::run(&mut command)
}
