//! Where the repository and its cache are.
//!
//! Everything large (the build folder, downloaded jars, running services) lies in the user's cache folder, outside the
//! clone, so that a second clone builds quickly and `git status` stays clean.

use crate::Result;
use std::env;
use std::path::{Path, PathBuf};

/// The root of the clone: the nearest folder upwards that holds a Cargo workspace.
///
/// Cargo tells a running test or task its package's folder; without that the current folder is the start.
pub fn repository() -> Result<PathBuf> {
    let start = match env::var_os("CARGO_MANIFEST_DIR") {
        Some(folder) => PathBuf::from(folder),
        None => env::current_dir()?,
    };
    for folder in start.ancestors() {
        let manifest = folder.join("Cargo.toml");
        if std::fs::read_to_string(manifest).is_ok_and(|text| text.contains("[workspace]")) {
            return Ok(folder.to_path_buf());
        }
    }
    Err(format!("{} is not inside the repository", start.display()).into())
}

/// The cache of the project: `$XDG_CACHE_HOME/engine`, or `~/.cache/engine`.
pub fn cache() -> PathBuf {
    let folder = |name: &str| env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    folder("XDG_CACHE_HOME")
        .or_else(|| folder("HOME").map(|home| home.join(".cache")))
        .unwrap_or_else(env::temp_dir)
        .join("engine")
}

/// The build folder: `CARGO_TARGET_DIR` if it is set, otherwise in the cache.
pub fn target() -> PathBuf {
    env::var_os("CARGO_TARGET_DIR").map_or_else(|| cache().join("target"), PathBuf::from)
}

/// A binary of the workspace, as `cargo build --profile PROFILE` leaves it.
pub fn binary(profile: &str, name: &str) -> PathBuf {
    target().join(profile).join(name)
}

/// Where services are installed and run.
pub fn services() -> PathBuf {
    cache().join("services")
}

/// A program, looked for in `PATH` and then in what `setup` put into the cache.
pub fn find_program(name: &str) -> Option<PathBuf> {
    let is_program = |path: &PathBuf| path.is_file();
    let on_path =
        env::var_os("PATH").and_then(|paths| env::split_paths(&paths).map(|folder| folder.join(name)).find(is_program));
    on_path.or_else(|| Some(services().join("prometheus/usr/bin").join(name)).filter(is_program))
}

/// The size in bytes of all files below `folder`; links are not followed. Zero if it does not exist.
pub fn folder_size(folder: &Path) -> u64 {
    let Ok(entries) = std::fs::read_dir(folder) else { return 0 };
    entries
        .flatten()
        .map(|entry| match entry.metadata() {
            Ok(data) if data.is_dir() => folder_size(&entry.path()),
            Ok(data) => data.len(),
            Err(_) => 0,
        })
        .sum()
}
