//! Real systems for tests and benchmarks: started on loopback, on free ports, each in a folder of its own, stopped by
//! process id.
//!
//! There are two ways to run one. [`Kafka::start`], [`Postgres::start`] and [`Prometheus::start`] tie it to a value: it ends when the value
//! is dropped, on a panic, and when the process is killed. [`detached`] leaves it running for a person at a terminal,
//! until `cargo xtask services stop`. Installing them is the business of `cargo xtask setup`.

pub mod detached;
pub mod kafka;
pub mod kafka_wire;
pub mod postgres;
pub mod prometheus;

pub use kafka::{Kafka, KafkaOptions, shared_kafka};
pub use postgres::{Postgres, shared_postgres};
pub use prometheus::Prometheus;

use crate::{Result, layout};
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use std::{fs, thread};

/// Ports below the range from which the kernel serves outgoing connections, so that none of those takes one of ours
/// between the probe and the start of the service.
const PORTS: std::ops::Range<u16> = 18_000..32_000;

/// How long a service may take to become ready; a JVM on a busy machine of two cores is slow.
const READY_TIMEOUT: Duration = Duration::from_secs(120);

/// `count` ports of 127.0.0.1 on which nobody listens now.
pub fn free_ports(count: usize) -> Result<Vec<u16>> {
    static CALLS: AtomicU32 = AtomicU32::new(0);
    // Processes and calls start at different places, so that they rarely compete for a port.
    let time_ns = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.subsec_nanos());
    let seed = std::process::id().wrapping_mul(7919) ^ (time_ns >> 8);
    let first = seed.wrapping_add(CALLS.fetch_add(1, Ordering::Relaxed).wrapping_mul(97)) % PORTS.len() as u32;
    let mut listeners = Vec::with_capacity(count);
    for step in 0..PORTS.len() as u32 {
        let port = PORTS.start + ((first + step) % PORTS.len() as u32) as u16;
        if let Ok(listener) = TcpListener::bind(("127.0.0.1", port)) {
            listeners.push((port, listener));
            if listeners.len() == count {
                return Ok(listeners.iter().map(|(port, _)| *port).collect());
            }
        }
    }
    Err("no free port on 127.0.0.1".into())
}

/// Where running services have their folders.
fn run_folder() -> PathBuf {
    layout::services().join("run")
}

/// A fresh folder for a service of this process. Folders whose process is gone are removed on the way.
fn new_folder(name: &str) -> Result<PathBuf> {
    new_folder_in(&run_folder(), name)
}

fn new_folder_in(parent: &Path, name: &str) -> Result<PathBuf> {
    static NUMBER: AtomicU32 = AtomicU32::new(0);
    for entry in fs::read_dir(parent).into_iter().flatten().flatten() {
        let file_name = entry.file_name().to_string_lossy().into_owned();
        let owner = file_name.split('.').nth(1).and_then(|pid| pid.parse::<u32>().ok());
        if owner.is_some_and(|pid| !Path::new("/proc").join(pid.to_string()).exists()) {
            let _ = fs::remove_dir_all(entry.path());
        }
    }
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    let folder = parent.join(format!("{name}.{}.{number}", std::process::id()));
    if folder.exists() {
        fs::remove_dir_all(&folder)?; // left by an earlier process with this id
    }
    fs::create_dir_all(&folder)?;
    Ok(folder)
}

/// Waits until `ready` says yes. `alive` says no when the service has ended; `log` is quoted in the error.
fn wait_until_ready(name: &str, log: &Path, alive: impl Fn() -> bool, ready: impl Fn() -> bool) -> Result<()> {
    let start = Instant::now();
    while start.elapsed() < READY_TIMEOUT {
        if ready() {
            return Ok(());
        }
        if !alive() {
            return Err(format!("{name} ended at its start:\n{}", last_lines(log, 20)).into());
        }
        thread::sleep(Duration::from_millis(50));
    }
    let log = last_lines(log, 20);
    Err(format!("{name} was not ready within {} s:\n{log}", READY_TIMEOUT.as_secs()).into())
}

fn last_lines(file: &Path, count: usize) -> String {
    let text = fs::read(file).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(count)..].join("\n")
}

/// A plain `GET` over HTTP/1.0: the status and the body. For loopback services only; no TLS, no redirects.
pub fn http_get(address: &str, path: &str) -> Result<(u16, String)> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    stream.write_all(format!("GET {path} HTTP/1.0\r\nHost: {address}\r\n\r\n").as_bytes())?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    let answer = String::from_utf8_lossy(&answer);
    let (head, body) = answer.split_once("\r\n\r\n").ok_or("an answer without a header")?;
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).ok_or("an answer without a status")?;
    Ok((status, body.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn free_ports_are_distinct_and_free() {
        let ports = free_ports(5).unwrap();
        let listeners: Vec<_> = ports.iter().map(|port| TcpListener::bind(("127.0.0.1", *port)).unwrap()).collect();
        assert_eq!(listeners.len(), 5);
        assert!(ports.iter().all(|port| PORTS.contains(port)));
    }

    #[test]
    fn folders_are_fresh_and_those_of_the_dead_are_removed() {
        let dead = run_folder().join("test.4294967295.0");
        fs::create_dir_all(&dead).unwrap();
        let [first, second] = [new_folder("test").unwrap(), new_folder("test").unwrap()];
        assert!(first != second && first.is_dir() && second.is_dir() && !dead.exists());
        fs::remove_dir_all(first).unwrap();
        fs::remove_dir_all(second).unwrap();
    }
}
