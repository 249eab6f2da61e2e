//! The commands, one file each.

pub(crate) mod bench;
pub(crate) mod ci;
pub(crate) mod codegen;
pub(crate) mod demo;
pub(crate) mod setup;
pub(crate) mod test;
pub(crate) mod tidy;

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

/// Builds packages of the workspace for use.
fn build(profile: &str, packages: &[&str]) -> Result<()> {
    let mut command = cargo(&["build", "--locked", "--profile", profile]);
    for package in packages {
        command.args(["--package", package]);
    }
    process::run(&mut command)
}
