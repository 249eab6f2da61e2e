//! `setup`: what a fresh machine lacks, checked and installed.
//!
//! Needed on the machine: Rust, a C compiler, and for the tests a JDK and Maven. The rest comes from Debian's packages
//! (as root, or with `sudo` that asks for no password) and from Maven. It is quick when all is there.

use std::env;
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use xtask::services::{kafka, postgres};
use xtask::{Result, layout, process};

/// A program or C header that is needed, the Debian package that has it, and for what.
struct Tool {
    name: &'static str,
    package: &'static str,
    purpose: &'static str,
}

const fn tool(name: &'static str, package: &'static str, purpose: &'static str) -> Tool {
    Tool { name, package, purpose }
}

/// The server, which Debian keeps out of `PATH`.
const POSTGRES: &str = "postgres";

impl Tool {
    fn is_there(&self) -> bool {
        match self.name {
            POSTGRES => postgres::program(POSTGRES).is_some(),
            header if header.ends_with(".h") => finds_header(header),
            program => layout::find_program(program).is_some(),
        }
    }
}

/// Whether the C compiler finds a header.
fn finds_header(name: &str) -> bool {
    let mut command = Command::new("cc");
    command.args(["-E", "-include", name, "-x", "c", "/dev/null"]);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command.status().is_ok_and(|status| status.success())
}

/// Needed to build the engine.
const BUILD_TOOLS: [Tool; 7] = [
    tool("cc", "gcc", "C code of dependencies"),
    tool("c++", "g++", "the CMake project of librdkafka asks for it"),
    tool("cmake", "cmake", "librdkafka"),
    tool("make", "make", "librdkafka and OpenSSL"),
    tool("perl", "perl", "the configuration of OpenSSL"),
    tool("pkg-config", "pkg-config", "the search for C libraries"),
    // librdkafka 2.12 includes the header even where it is built without the library (its issue 5135).
    tool("curl/curl.h", "libcurl4-openssl-dev", "librdkafka"),
];

/// Needed by the tests, besides the above.
const TEST_TOOLS: [Tool; 6] = [
    tool("git", "git", "the rules of the repository"),
    tool("curl", "curl", "webhook and metrics examples"),
    tool("openssl", "openssl", "certificates of the secure Kafka broker"),
    tool("java", "default-jdk-headless", "Kafka"),
    tool("mvn", "maven", "Kafka's jars"),
    tool(POSTGRES, "postgresql", "the tests of databases"),
];

/// Everything, for builds and tests.
pub(crate) fn run(repository: &Path) -> Result<()> {
    let mut done = install_missing(BUILD_TOOLS.iter().chain(&TEST_TOOLS))?;
    fs::create_dir_all(layout::target())?;
    if !kafka::is_installed() {
        println!("setup: fetching Kafka {} with Maven", kafka::VERSION);
        kafka::install(repository)?;
        done.push(format!("Kafka {}", kafka::VERSION));
    }
    if layout::find_program("promtool").is_none() || layout::find_program("prometheus").is_none() {
        match unpack_prometheus() {
            Ok(()) => done.push("Prometheus".into()),
            Err(error) => println!("setup: no Prometheus, so the tests that scrape and lint metrics skip: {error}"),
        }
    }
    println!(
        "setup: {}",
        if done.is_empty() { "all is there".into() } else { format!("installed {}", done.join(", ")) }
    );
    Ok(())
}

/// Only what a build needs.
pub(crate) fn for_build() -> Result<()> {
    let done = install_missing(BUILD_TOOLS.iter())?;
    if !done.is_empty() {
        println!("setup: installed {}", done.join(", "));
    }
    Ok(())
}

fn install_missing<'a>(tools: impl Iterator<Item = &'a Tool>) -> Result<Vec<String>> {
    let missing: Vec<&Tool> = tools.filter(|tool| !tool.is_there()).collect();
    if missing.is_empty() {
        return Ok(Vec::new());
    }
    for tool in &missing {
        println!("setup: `{}` is missing ({})", tool.name, tool.purpose);
    }
    let packages: Vec<&str> = missing.iter().map(|tool| tool.package).collect();
    apt_install(&packages).map_err(|error| {
        format!("{error}\ninstall these packages, then try again: apt-get install {}", packages.join(" "))
    })?;
    match missing.iter().find(|tool| !tool.is_there()) {
        Some(tool) => {
            Err(format!("package {} is installed, but `{}` is still missing", tool.package, tool.name).into())
        }
        None => Ok(packages.into_iter().map(str::to_owned).collect()),
    }
}

fn apt_install(packages: &[&str]) -> Result<()> {
    println!("setup: apt-get install {}", packages.join(" "));
    apt(&["update", "-qq"])?;
    let mut arguments = vec!["install", "-y", "-qq", "--no-install-recommends"];
    arguments.extend(packages);
    apt(&arguments)
}

/// Runs `apt-get` with the rights that it needs; never asks for a password.
fn apt(arguments: &[&str]) -> Result<()> {
    if layout::find_program("apt-get").is_none() {
        return Err("there is no apt-get here".into());
    }
    // SAFETY: geteuid takes no arguments and can't fail.
    let is_root = unsafe { libc::geteuid() } == 0;
    let mut command = if is_root { Command::new("apt-get") } else { Command::new("sudo") };
    if !is_root {
        command.args(["-n", "--preserve-env=DEBIAN_FRONTEND", "apt-get"]);
    }
    command.args(arguments).env("DEBIAN_FRONTEND", "noninteractive").stdin(Stdio::null());
    process::run(&mut command)
}

/// Unpacks Debian's package into the cache. It is not installed, since that would start a server on all interfaces.
fn unpack_prometheus() -> Result<()> {
    let folder = layout::services().join("prometheus");
    let partial = layout::services().join(format!("prometheus.{}", std::process::id()));
    fs::create_dir_all(&partial)?;
    let download = || {
        let mut command = Command::new("apt-get");
        command.args(["download", "-qq", "prometheus"]).current_dir(&partial).stderr(Stdio::null());
        process::run(&mut command)
    };
    println!("setup: unpacking Prometheus into the cache");
    let unpacked = download().or_else(|_| apt(&["update", "-qq"]).and_then(|()| download())).and_then(|()| {
        let archives = fs::read_dir(&partial)?.flatten().map(|entry| entry.path());
        let archive = archives.into_iter().find(|path| path.extension().is_some_and(|extension| extension == "deb"));
        let archive = archive.ok_or("apt-get download left no package")?;
        process::run(Command::new("dpkg-deb").arg("-x").arg(&archive).arg(&partial))?;
        fs::remove_file(archive)?;
        Ok(())
    });
    if let Err(error) = unpacked {
        let _ = fs::remove_dir_all(&partial);
        return Err(error);
    }
    let _ = fs::remove_dir_all(&folder);
    fs::rename(&partial, &folder)?;
    Ok(())
}

/// Says once which machine this is, for the reader of a log.
pub(crate) fn describe_machine() -> String {
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    let memory = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let kib = memory.lines().next().and_then(|line| line.split_whitespace().nth(1)?.parse::<u64>().ok());
    let ci = if env::var_os("CI").is_some() { ", CI" } else { "" };
    format!("{processors} processors, {} GiB of memory{ci}", kib.unwrap_or(0) >> 20)
}
