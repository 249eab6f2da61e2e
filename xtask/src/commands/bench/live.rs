//! An engine that runs while others give it work: watched by its metrics, ended by SIGINT, its cost taken by `wait4`.

use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};
use xtask::Result;
use xtask::process::{Measured, Usage};
use xtask::services::{free_ports, http_get};

const READY_TIMEOUT: Duration = Duration::from_secs(30);
/// How often metrics are looked at. Each look costs the engine a fraction of a millisecond.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// A running engine.
pub(super) struct Live {
    /// The process.
    pub(super) process: Measured,
    /// Where its metrics are served.
    metrics: String,
}

impl Live {
    /// Starts `engine run ...` and waits until it is ready.
    pub(super) fn start(mut command: Command) -> Result<Live> {
        let metrics = format!("127.0.0.1:{}", free_ports(1)?[0]);
        let process = Measured::start(command.args(["--metrics", &metrics]))?;
        let live = Live { process, metrics };
        live.wait("it was ready", READY_TIMEOUT, |metrics| metrics.contains("phase=\"ready\"} 1"))?;
        Ok(live)
    }

    /// The sum of all series of a metric; 0 if there is none.
    pub(super) fn metric(&self, name: &str) -> Result<f64> {
        Ok(sum(&http_get(&self.metrics, "/metrics")?.1, name))
    }

    /// Waits until the sum of a metric's series is `least` or more, and says when.
    pub(super) fn wait_for(&self, name: &str, least: u64, timeout: Duration) -> Result<Instant> {
        self.wait(&format!("{name} was {least}"), timeout, |metrics| sum(metrics, name) >= least as f64)
    }

    fn wait(&self, what: &str, timeout: Duration, done: impl Fn(&str) -> bool) -> Result<Instant> {
        let start = Instant::now();
        while start.elapsed() < timeout {
            if !self.process.runs() {
                return Err(format!("the engine ended before {what}; engine.log among the inputs says why").into());
            }
            if http_get(&self.metrics, "/metrics").is_ok_and(|(_, metrics)| done(&metrics)) {
                return Ok(Instant::now());
            }
            thread::sleep(LOOK_EVERY);
        }
        Err(format!("{} s went by before {what}", timeout.as_secs()).into())
    }

    /// Lets it finish what it has read, and says what it cost from its start to its end.
    pub(super) fn interrupt(self) -> Result<Usage> {
        self.process.signal(libc::SIGINT);
        self.process.finish()
    }

    /// Per cent of one core that it takes over `time`.
    pub(super) fn cpu_share(&self, time: Duration) -> Result<f64> {
        let (start, cpu_s) = (Instant::now(), self.process.cpu_s()?);
        thread::sleep(time);
        Ok((self.process.cpu_s()? - cpu_s) / start.elapsed().as_secs_f64() * 100.0)
    }
}

fn sum(metrics: &str, name: &str) -> f64 {
    let value = |line: &str| {
        let rest = line.strip_prefix(name)?;
        let rest = if rest.starts_with('{') { rest.rsplit_once('}')?.1 } else { rest };
        rest.strip_prefix(' ')?.split(' ').next()?.parse::<f64>().ok()
    };
    metrics.lines().filter_map(value).fold(0.0, |sum, one| sum + one)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_series_of_a_metric_are_added_up() {
        let metrics = "# HELP a_total a\na_total{p=\"x } y\"} 2\na_total{p=\"z\"} 3\na_total_more 7\nb 0.5\n";
        assert_eq!(sum(metrics, "a_total"), 5.0);
        assert_eq!(sum(metrics, "b"), 0.5);
        assert_eq!(sum(metrics, "c"), 0.0);
    }
}
