//! A Prometheus server that scrapes one target each second, and its tool that checks an exposition.

use super::{free_ports, http_get, new_folder, wait_until_ready};
use crate::process::Guarded;
use crate::{Result, layout};
use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// A running server. Dropping it kills the server and removes its data.
#[derive(Debug)]
pub struct Prometheus {
    prepared: Prepared,
    _child: Guarded,
}

impl Prometheus {
    /// Starts a server that scrapes `http://TARGET/metrics`, and waits until it is ready.
    pub fn start(target: &str) -> Result<Prometheus> {
        let prepared = Prepared::new(&new_folder("prometheus")?, target)?;
        let child = Guarded::start(prepared.command()?)?;
        prepared.wait_until_ready(|| child.ended().is_none())?;
        Ok(Prometheus { prepared, _child: child })
    }

    /// `host:port` of its API.
    pub fn address(&self) -> &str {
        &self.prepared.address
    }

    /// The answer of an instant query: for each series its labels and value.
    pub fn query(&self, expression: &str) -> Result<Vec<(serde_json::Value, f64)>> {
        let query: String = expression.bytes().map(|byte| format!("%{byte:02X}")).collect();
        let (status, body) = http_get(self.address(), &format!("/api/v1/query?query={query}"))?;
        let answer: serde_json::Value = serde_json::from_str(&body)?;
        let series = answer["data"]["result"].as_array().ok_or_else(|| format!("status {status}: {body}"))?;
        let value = |one: &serde_json::Value| one["value"][1].as_str().and_then(|text| text.parse().ok());
        Ok(series.iter().filter_map(|one| Some((one["metric"].clone(), value(one)?))).collect())
    }
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        self._child.signal(libc::SIGKILL);
        let _ = fs::remove_dir_all(&self.prepared.folder);
    }
}

/// A server's folder with its configuration, ready to run.
#[derive(Debug)]
pub(super) struct Prepared {
    folder: PathBuf,
    address: String,
}

impl Prepared {
    pub(super) fn new(folder: &Path, target: &str) -> Result<Prepared> {
        let address = format!("127.0.0.1:{}", free_ports(1)?[0]);
        let config = format!(
            "global: {{scrape_interval: 1s}}\nscrape_configs:\n- job_name: engine\n  static_configs: [{{targets: \
             ['{target}']}}]\n"
        );
        fs::write(folder.join("prometheus.yml"), config)?;
        Ok(Prepared { folder: folder.to_path_buf(), address })
    }

    pub(super) fn command(&self) -> Result<Command> {
        let program = layout::find_program("prometheus")
            .ok_or("Prometheus is not installed: run `cargo xtask setup`, which says why if it can't be")?;
        let log = File::create(self.log())?;
        let mut command = Command::new(program);
        command.arg(format!("--config.file={}", self.folder.join("prometheus.yml").display()));
        command.arg(format!("--storage.tsdb.path={}", self.folder.join("data").display()));
        command.arg(format!("--web.listen-address={}", self.address));
        command.stdout(log.try_clone()?).stderr(log);
        Ok(command)
    }

    pub(super) fn log(&self) -> PathBuf {
        self.folder.join("prometheus.log")
    }

    pub(super) fn wait_until_ready(&self, alive: impl Fn() -> bool) -> Result<()> {
        let ready = || http_get(&self.address, "/-/ready").is_ok_and(|(status, _)| status == 200);
        wait_until_ready("prometheus", &self.log(), alive, ready)
    }

    pub(super) fn environment(&self) -> Vec<(&'static str, String)> {
        vec![("PROMETHEUS_URL", format!("http://{}", self.address))]
    }
}

/// What `promtool check metrics` says about an exposition: an error with its remarks if there are any.
/// `None` if the tool is not installed.
pub fn check_metrics(exposition: &str) -> Option<Result<()>> {
    let program = layout::find_program("promtool")?;
    let check = || -> Result<()> {
        let mut command = Command::new(program);
        command.args(["check", "metrics"]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn()?;
        if let Some(mut stdin) = child.stdin.take() {
            stdin.write_all(exposition.as_bytes())?;
        }
        let output = child.wait_with_output()?;
        let remarks = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
        if output.status.success() && remarks.trim().is_empty() { Ok(()) } else { Err(remarks.into()) }
    };
    Some(check())
}
