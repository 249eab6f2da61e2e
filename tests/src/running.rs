//! A pipeline that runs in a process of its own, and what it says of itself.

use crate::engine;
use std::fs::File;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

/// Longer than anything takes on a busy machine: a test that waits this long has failed.
pub(crate) const PATIENCE: Duration = Duration::from_secs(120);

/// `engine run pipeline.yaml` in a folder. Dropping it kills it.
pub(crate) struct Running {
    pub(crate) child: Child,
    log: PathBuf,
}

impl Running {
    /// Starts it with metrics on a port of its own; the log goes to `engine.log` of the folder.
    pub(crate) fn start(folder: &Path, arguments: &[&str], stdout: Stdio) -> Running {
        let log = folder.join("engine.log");
        let child = Command::new(engine())
            .current_dir(folder)
            .args(["run", "pipeline.yaml", "--quiet", "--metrics", "127.0.0.1:0"])
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(stdout)
            .stderr(File::create(&log).expect("the log"))
            .spawn()
            .expect("the engine starts");
        Running { child, log }
    }

    /// What it has logged.
    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// The page of its metrics; nothing before it serves them.
    pub(crate) fn metrics(&self) -> Option<String> {
        let log = self.log();
        let (_, rest) = log.split_once("metrics at http://")?;
        let address = rest.split('/').next()?;
        let mut stream = TcpStream::connect(address).ok()?;
        stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n").ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).ok()?;
        let (head, body) = answer.split_once("\r\n\r\n")?;
        assert!(head.starts_with("HTTP/1.1 200"), "{head}");
        Some(body.to_owned())
    }

    /// The sum of a metric over the series whose labels hold all of `labels`.
    pub(crate) fn metric(&self, name: &str, labels: &[&str]) -> Option<f64> {
        let metrics = self.metrics()?;
        let values: Vec<f64> = metrics
            .lines()
            .filter(|line| line.strip_prefix(name).is_some_and(|rest| rest.starts_with(['{', ' '])))
            .filter(|line| labels.iter().all(|label| line.contains(label)))
            .filter_map(|line| line.rsplit(' ').next()?.parse().ok())
            .collect();
        (!values.is_empty()).then(|| values.iter().sum())
    }

    /// Its resident memory, in bytes.
    pub(crate) fn resident(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap_or_default();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap_or_default();
        line.trim().trim_end_matches(" kB").trim().parse::<u64>().unwrap_or_default() << 10
    }

    /// Waits until `done` holds; what it waits for stands in the message of a test that fails.
    pub(crate) fn until(&mut self, what: &str, mut done: impl FnMut(&mut Running) -> bool) {
        let start = Instant::now();
        while !done(self) {
            assert!(start.elapsed() < PATIENCE, "{what} did not come about; the log is\n{}", self.log());
            if let Some(status) = self.child.try_wait().expect("it can be asked") {
                assert!(done(self), "it ended with {status} before {what}; the log is\n{}", self.log());
                return;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Asks it to stop, as an operator would.
    pub(crate) fn interrupt(&self) {
        let sent = Command::new("kill").args(["-INT", &self.child.id().to_string()]).status();
        assert!(sent.is_ok_and(|status| status.success()));
    }

    /// Waits for its end.
    pub(crate) fn ended(&mut self) -> ExitStatus {
        let start = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().expect("it can be asked") {
                return status;
            }
            assert!(start.elapsed() < PATIENCE, "it does not end; the log is\n{}", self.log());
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// `kill -9`.
    pub(crate) fn kill(mut self) {
        self.child.kill().expect("it is killed");
        self.child.wait().expect("it is gone");
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
