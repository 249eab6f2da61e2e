//! `demo`: the main job on embedded defaults, with no broker and no server.

use super::{RELEASE, build};
use std::process::Command;
use xtask::{Result, layout, process};

/// Builds the engine and runs the fraud pipeline; further arguments go to `engine run`.
pub(crate) fn run(arguments: &[String]) -> Result<()> {
    super::setup::for_build()?;
    build(RELEASE, &["engine"])?;
    let mut engine = Command::new(layout::binary(RELEASE, "engine"));
    engine.args(["run", "pipelines/fraud.yaml"]).args(arguments);
    process::run(&mut engine)
}
