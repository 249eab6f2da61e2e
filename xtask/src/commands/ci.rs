//! `ci`: every check that a change must pass. `.ci/run` calls it.
//!
//! The cheap checks come first, and a failure does not hide the others: all that failed is told at the end.

use super::{cargo, codegen, setup, test, tidy};
use std::fs;
use std::path::Path;
use std::time::Instant;
use xtask::{Result, layout, process};

/// Above this the build folder is pruned, since each clone leaves its own artefacts in the shared cache.
const TARGET_BYTES_MAX: u64 = 15 << 30;

/// Runs every stage and prints how long each took.
pub(crate) fn run(repository: &Path) -> Result<()> {
    println!("ci: {}", setup::describe_machine());
    let stages: [(&str, &dyn Fn() -> Result<()>); 6] = [
        ("setup", &|| setup::run(repository)),
        ("format", &|| process::run(&mut cargo(&["fmt", "--all", "--check"]))),
        ("rules", &|| tidy::run(repository)),
        ("lints", &lints),
        ("tests", &|| test::run(repository, &[])),
        ("generated files", &|| codegen::run(repository, &["--check".into()])),
    ];
    let start = Instant::now();
    let mut report = String::new();
    let mut failed = Vec::new();
    for (name, stage) in stages {
        println!("\n=== {name}");
        let stage_start = Instant::now();
        let result = stage();
        let outcome = if result.is_ok() { "ok" } else { "FAILED" };
        report += &format!("  {name:<16} {outcome:<7} {:>7.1} s\n", stage_start.elapsed().as_secs_f64());
        if let Err(error) = result {
            println!("{name} failed: {error}");
            failed.push(name);
        }
    }
    prune(&layout::target(), TARGET_BYTES_MAX);
    println!("\n=== ci\n{report}  {:<24} {:>7.1} s", "all", start.elapsed().as_secs_f64());
    if failed.is_empty() { Ok(()) } else { Err(format!("failed: {}", failed.join(", ")).into()) }
}

/// In release, as everything here: build scripts and procedural macros are then shared with the tests' build.
fn lints() -> Result<()> {
    let arguments = ["clippy", "--release", "--locked", "--workspace", "--all-targets", "--", "-D", "warnings"];
    process::run(&mut cargo(&arguments))
}

/// Keeps the build folder within `bytes_max`: first goes what only saves time when one clone is built again, then what
/// is ours (each clone has its own copy), at last everything.
fn prune(target: &Path, bytes_max: u64) {
    let size = |target: &Path| layout::folder_size(target);
    let before = size(target);
    if before <= bytes_max {
        return;
    }
    let release = target.join("release");
    let _ = fs::remove_dir_all(release.join("incremental"));
    if size(target) > bytes_max {
        for folder in ["deps", ".fingerprint", "build"] {
            for entry in fs::read_dir(release.join(folder)).into_iter().flatten().flatten() {
                if is_ours(&entry.file_name().to_string_lossy()) {
                    let path = entry.path();
                    let _ = if path.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) };
                }
            }
        }
    }
    if size(target) > bytes_max {
        let _ = fs::remove_dir_all(target);
    }
    let mib = |bytes: u64| bytes >> 20;
    println!("ci: pruned the build folder from {} MiB to {} MiB", mib(before), mib(size(target)));
}

/// Whether an artefact belongs to a package of this workspace.
fn is_ours(file_name: &str) -> bool {
    let name = file_name.strip_prefix("lib").unwrap_or(file_name);
    ["engine-", "engine_", "xtask-", "handwritten-"].iter().any(|prefix| name.starts_with(prefix))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pruning_takes_what_is_cheap_to_rebuild_first() {
        let target = std::env::temp_dir().join(format!("xtask-prune-{}", std::process::id()));
        let release = target.join("release");
        let fill = || {
            for (path, bytes) in [
                ("incremental/engine-1/dep", 1000),
                ("deps/libengine_base-1.rlib", 1000),
                ("deps/libarrow-1.rlib", 1000),
            ] {
                let path = release.join(path);
                fs::create_dir_all(path.parent().unwrap()).unwrap();
                fs::write(path, vec![0; bytes]).unwrap();
            }
        };
        let left = |bytes_max| {
            fill();
            prune(&target, bytes_max);
            layout::folder_size(&target)
        };
        assert_eq!([left(3000), left(2500), left(1500), left(500)], [3000, 2000, 1000, 0]);
        let _ = fs::remove_dir_all(&target);
    }
}
