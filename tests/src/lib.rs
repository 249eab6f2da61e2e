//! The tests over the whole engine, through its binary. Cases are files below `cases/`.

#![cfg(test)]

mod anomaly;
mod broken;
mod cases;
mod changelogs;
mod databases;
mod durable;
mod edges;
mod folds;
mod joins;
mod language;
mod letters;
mod memory;
mod nexmark;
mod receiver;
mod running;
mod runs;
mod savepoints;
mod systems;
mod torture;
mod windows;

use std::path::{Path, PathBuf};

/// The binary of the same build: tests run from `TARGET/release/deps`.
fn engine() -> PathBuf {
    let tests = std::env::current_exe().expect("the path of this test");
    let folder = tests.parent().and_then(Path::parent).expect("the folder of the build");
    let engine = folder.join("engine");
    assert!(engine.is_file(), "{} is not there: run `cargo build --release -p engine` first", engine.display());
    engine
}

/// The folder of this package: where cargo says it is now, since a binary of another clone may be found in a shared build
/// folder.
fn package() -> PathBuf {
    std::env::var_os("CARGO_MANIFEST_DIR").map_or_else(|| env!("CARGO_MANIFEST_DIR").into(), PathBuf::from)
}
