//! `codegen`: files that the engine writes about itself, committed so that readers and editors find them.

use super::{RELEASE, build};
use std::fs;
use std::path::Path;
use std::process::Command;
use xtask::{Result, layout};

/// Each generated file, and the arguments of the `engine` command that prints it.
const GENERATED: [(&str, &[&str]); 2] =
    [("schemas/pipeline.schema.json", &["schema"]), ("docs/reference/codes.md", &["explain", "--all"])];

/// Writes the files, or with `--check` compares them.
pub(crate) fn run(repository: &Path, arguments: &[String]) -> Result<()> {
    let check = match arguments {
        [] => false,
        [flag] if flag == "--check" => true,
        _ => return Err("codegen knows only --check".into()),
    };
    build(RELEASE, &["engine"])?;
    let mut stale = Vec::new();
    for (file, arguments) in GENERATED {
        let output = Command::new(layout::binary(RELEASE, "engine")).args(arguments).output()?;
        if !output.status.success() {
            let message = String::from_utf8_lossy(&output.stderr);
            return Err(format!("`engine {}` ended with {}: {message}", arguments.join(" "), output.status).into());
        }
        let path = repository.join(file);
        if fs::read(&path).is_ok_and(|bytes| bytes == output.stdout) {
            continue;
        }
        if check {
            stale.push(file);
            continue;
        }
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder)?;
        }
        fs::write(path, output.stdout)?;
        println!("codegen: wrote {file}");
    }
    if stale.is_empty() {
        return Ok(());
    }
    Err(format!("not up to date: {}\nrun `cargo xtask codegen` and commit what it writes", stale.join(", ")).into())
}
