//! Services that stay when the command ends: `cargo xtask services start|stop|status`.
//!
//! One of each name at a time, in a folder of its own that holds its process id and what it puts into the environment.

use super::{kafka, kafka_wire, postgres, prometheus, run_folder};
use crate::Result;
use std::cell::RefCell;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::str::FromStr;
use std::time::{Duration, Instant};
use std::{fs, thread};

/// Which service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Service {
    /// A Kafka broker without security.
    Kafka,
    /// A Kafka broker with SASL over TLS.
    KafkaSecure,
    /// A PostgreSQL server.
    Postgres,
    /// A Prometheus server.
    Prometheus,
}

impl Service {
    /// Every service, in the order of `status`.
    pub const ALL: [Service; 4] = [Service::Kafka, Service::KafkaSecure, Service::Postgres, Service::Prometheus];

    /// Its name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Service::Kafka => "kafka",
            Service::KafkaSecure => "kafka-secure",
            Service::Postgres => "postgres",
            Service::Prometheus => "prometheus",
        }
    }

    fn folder(self) -> PathBuf {
        let parent = if self == Service::Postgres { postgres::folder() } else { run_folder() };
        parent.join(format!("detached-{}", self.name()))
    }
}

impl FromStr for Service {
    type Err = crate::Error;

    fn from_str(name: &str) -> Result<Service> {
        let found = Service::ALL.into_iter().find(|service| service.name() == name);
        found.ok_or_else(|| format!("no service is called {name}: kafka, kafka-secure, postgres, prometheus").into())
    }
}

/// A service that runs: its process id, and `NAME=value` lines for the environment of its clients.
#[derive(Clone, Debug)]
pub struct Running {
    /// The process id.
    pub pid: u32,
    /// `NAME=value` lines.
    pub environment: String,
}

/// The service, if it runs.
pub fn status(service: Service) -> Option<Running> {
    let folder = service.folder();
    let environment = fs::read_to_string(folder.join("environment")).ok()?;
    Some(Running { pid: pid(&folder)?, environment })
}

/// Starts the service, or returns the one that runs. `target` is what Prometheus scrapes.
pub fn start(service: Service, target: &str) -> Result<Running> {
    if let Some(running) = status(service) {
        return Ok(running);
    }
    stop(service)?; // what an interrupted start left
    let folder = service.folder();
    fs::create_dir_all(&folder)?;
    let secure = service == Service::KafkaSecure;
    let (pid, environment) = match service {
        Service::Kafka | Service::KafkaSecure => {
            let prepared = kafka::Prepared::new(kafka::KafkaOptions { secure }, &folder)?;
            let pid = spawn(prepared.command()?, &folder, |alive| prepared.wait_until_ready(alive))?;
            (pid, prepared.environment())
        }
        Service::Postgres => {
            let prepared = postgres::Prepared::new(&folder)?;
            let pid = spawn(prepared.command()?, &folder, |alive| prepared.wait_until_ready(alive))?;
            (pid, prepared.environment())
        }
        Service::Prometheus => {
            let prepared = prometheus::Prepared::new(&folder, target)?;
            let pid = spawn(prepared.command()?, &folder, |alive| prepared.wait_until_ready(alive))?;
            (pid, prepared.environment())
        }
    };
    let environment: String = environment.iter().map(|(name, value)| format!("{name}={value}\n")).collect();
    fs::write(folder.join("environment"), &environment)?;
    Ok(Running { pid, environment })
}

/// Stops the service and removes its data. Says whether it ran.
pub fn stop(service: Service) -> Result<bool> {
    let folder = service.folder();
    let pid = pid(&folder);
    if let Some(pid) = pid {
        signal(pid, libc::SIGTERM);
        let start = Instant::now();
        while is_of(&folder, pid) {
            if start.elapsed() > Duration::from_secs(20) {
                signal(pid, libc::SIGKILL);
            }
            thread::sleep(Duration::from_millis(50));
        }
    }
    if folder.exists() {
        fs::remove_dir_all(&folder)?;
    }
    Ok(pid.is_some())
}

/// Creates a topic on the open broker that runs.
pub fn create_topic(name: &str, partitions: i32) -> Result<()> {
    let running = status(Service::Kafka).ok_or("no broker runs: `cargo xtask services start kafka`")?;
    let brokers = running.environment.trim().strip_prefix("KAFKA_BROKERS=").ok_or("the broker has no address")?;
    kafka_wire::create_topic(brokers, name, partitions, &[])
}

/// Starts it and waits until it is ready; one that does not get there is ended.
///
/// It is in a process group of its own, so that Ctrl-C in the terminal does not reach it.
fn spawn(mut command: Command, folder: &Path, ready: impl FnOnce(&dyn Fn() -> bool) -> Result<()>) -> Result<u32> {
    let child = command.stdin(Stdio::null()).process_group(0).spawn()?;
    let pid = child.id();
    fs::write(folder.join("pid"), pid.to_string())?;
    let child = RefCell::new(child);
    let result = ready(&|| child.borrow_mut().try_wait().is_ok_and(|ended| ended.is_none()));
    if result.is_err() {
        signal(pid, libc::SIGKILL);
    }
    result.map(|()| pid)
}

/// The process id written in the folder, if that process lives.
fn pid(folder: &Path) -> Option<u32> {
    let pid = fs::read_to_string(folder.join("pid")).ok()?.trim().parse().ok()?;
    is_of(folder, pid).then_some(pid)
}

/// Whether the process is the one whose files are in `folder`, and not a stranger with a reused id.
fn is_of(folder: &Path, pid: u32) -> bool {
    let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    String::from_utf8_lossy(&line).contains(&*folder.to_string_lossy())
}

fn signal(pid: u32, signal: i32) {
    // SAFETY: kill takes no pointers.
    unsafe { libc::kill(pid as libc::pid_t, signal) };
}
