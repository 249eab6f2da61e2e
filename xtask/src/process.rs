//! Child processes: one that ends with its parent, and one that is measured.

use crate::Result;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Condvar, Mutex, PoisonError, mpsc};
use std::time::{Duration, Instant};
use std::{fs, io, thread};

/// A child that can't outlive this process, whatever ends it.
///
/// Dropping it kills the child. If this process is killed itself, the kernel does it (`PR_SET_PDEATHSIG`). The kernel
/// goes by the *thread* that started the child, and threads of tests are short-lived, so each child gets a thread of its own:
///
/// ```text
///   start() ──▶ keeper thread: spawn, wait until it ended, note the status, reap ──▶ ends
/// ```
#[derive(Debug)]
pub struct Guarded {
    pid: libc::pid_t,
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    ended: Mutex<Option<ExitStatus>>,
    changed: Condvar,
}

impl Guarded {
    /// Starts the command. Its standard input is empty.
    pub fn start(mut command: Command) -> Result<Guarded> {
        let shared = Arc::new(Shared::default());
        let (started, wait_for_start) = mpsc::channel();
        let keeper = Arc::clone(&shared);
        let parent = std::process::id();
        command.stdin(Stdio::null());
        // SAFETY: between fork and exec only async-signal-safe calls are made: prctl, getppid and _exit.
        unsafe {
            command.pre_exec(move || {
                libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
                if libc::getppid() as u32 != parent {
                    libc::_exit(1); // the parent died before the call above
                }
                Ok(())
            });
        }
        thread::Builder::new().name("child-keeper".into()).spawn(move || {
            let mut child = match command.spawn() {
                Ok(child) => child,
                Err(error) => {
                    let _ = started.send(Err(error));
                    return;
                }
            };
            let _ = started.send(Ok(child.id()));
            wait_without_reaping(child.id());
            // Reaping frees the process id for others, so it happens under the lock that `signal` takes.
            let mut ended = keeper.ended.lock().unwrap_or_else(PoisonError::into_inner);
            *ended = Some(child.wait().unwrap_or_default());
            keeper.changed.notify_all();
        })?;
        let pid = wait_for_start.recv()??;
        Ok(Guarded { pid: libc::pid_t::try_from(pid)?, shared })
    }

    /// The process id.
    pub fn pid(&self) -> u32 {
        self.pid as u32
    }

    /// How it ended, if it did.
    pub fn ended(&self) -> Option<ExitStatus> {
        *self.shared.ended.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sends a signal, such as `libc::SIGTERM`, unless it has ended.
    pub fn signal(&self, signal: i32) {
        let ended = self.shared.ended.lock().unwrap_or_else(PoisonError::into_inner);
        if ended.is_none() {
            // SAFETY: kill takes no pointers; the id is ours, since the child is not reaped while the lock is held.
            unsafe { libc::kill(self.pid, signal) };
        }
    }

    /// Waits until it ends, at most for `timeout`.
    pub fn wait(&self, timeout: Duration) -> Option<ExitStatus> {
        let ended = self.shared.ended.lock().unwrap_or_else(PoisonError::into_inner);
        let (ended, _) = self
            .shared
            .changed
            .wait_timeout_while(ended, timeout, |ended| ended.is_none())
            .unwrap_or_else(PoisonError::into_inner);
        *ended
    }

    /// Ends it: asks first, kills after `patience`.
    pub fn stop(&self, patience: Duration) -> Option<ExitStatus> {
        self.signal(libc::SIGTERM);
        self.wait(patience).or_else(|| {
            self.signal(libc::SIGKILL);
            self.wait(Duration::from_secs(10))
        })
    }
}

impl Drop for Guarded {
    fn drop(&mut self) {
        self.signal(libc::SIGKILL);
        self.wait(Duration::from_secs(10));
    }
}

fn wait_without_reaping(pid: u32) {
    loop {
        // SAFETY: an all-zero siginfo_t is valid, and waitid writes only to it.
        let result = unsafe {
            let mut info: libc::siginfo_t = std::mem::zeroed();
            libc::waitid(libc::P_PID, pid, &mut info, libc::WEXITED | libc::WNOWAIT)
        };
        if result == 0 || io::Error::last_os_error().kind() != io::ErrorKind::Interrupted {
            return;
        }
    }
}

/// What one run of a command cost.
#[derive(Clone, Copy, Debug)]
pub struct Usage {
    /// User and system time of all threads, in seconds.
    pub cpu_s: f64,
    /// Time by the clock, in seconds.
    pub wall_s: f64,
    /// The largest resident set, in bytes.
    pub rss_bytes_max: u64,
}

/// Runs a command to its end and says what it cost. A failure of the command is an error.
///
/// A large process leaves its own peak of memory to a child (the kernel keeps it over exec), so measure from a small one.
pub fn measure(command: &mut Command) -> Result<Usage> {
    Measured::start(command)?.finish()
}

/// A child that is watched while it runs, and whose whole cost is known when it ends. Dropped before, it is killed.
///
/// Start it from a thread that lives as long as it should: the child ends with that thread (`PR_SET_PDEATHSIG`).
#[derive(Debug)]
pub struct Measured {
    child: Child,
    line: String,
    start: Instant,
    reaped: bool,
}

impl Measured {
    /// Starts the command, with the standard streams that it was given.
    pub fn start(command: &mut Command) -> Result<Measured> {
        // SAFETY: between fork and exec only prctl is called, which is async-signal-safe.
        unsafe {
            command.pre_exec(|| {
                libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
                Ok(())
            });
        }
        let start = Instant::now();
        let child = command.spawn().map_err(|error| format!("{} did not start: {error}", line(command)))?;
        Ok(Measured { child, line: line(command), start, reaped: false })
    }

    /// Its standard streams, as far as they are pipes and were not taken.
    pub fn streams(&mut self) -> &mut Child {
        &mut self.child
    }

    /// When it was started.
    pub fn started(&self) -> Instant {
        self.start
    }

    /// Whether it has not ended by itself.
    pub fn runs(&self) -> bool {
        // A process that has ended and was not waited for is a zombie.
        self.stat(0).is_ok_and(|state| state != "Z" && state != "X")
    }

    /// User and system time of all its threads so far, in seconds; the kernel counts hundredths.
    pub fn cpu_s(&self) -> Result<f64> {
        let ticks = self.stat(11)?.parse::<f64>()? + self.stat(12)?.parse::<f64>()?;
        // SAFETY: sysconf takes no pointers.
        Ok(ticks / unsafe { libc::sysconf(libc::_SC_CLK_TCK) } as f64)
    }

    /// Its resident set now, in bytes.
    pub fn rss_bytes(&self) -> Result<u64> {
        // SAFETY: sysconf takes no pointers.
        Ok(self.stat(21)?.parse::<u64>()? * u64::try_from(unsafe { libc::sysconf(libc::_SC_PAGESIZE) })?)
    }

    /// Field number `at` of `/proc/PID/stat`, counted from the state on.
    fn stat(&self, at: usize) -> Result<String> {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.child.id()))?;
        let fields = stat.rsplit_once(") ").and_then(|(_, fields)| fields.split(' ').nth(at));
        Ok(fields.ok_or("an unknown form of /proc/PID/stat")?.trim().to_owned())
    }

    /// Sends a signal, such as `libc::SIGINT`.
    pub fn signal(&self, signal: i32) {
        // SAFETY: kill takes no pointers; the id is ours, since the child is not reaped before `finish` takes it.
        unsafe { libc::kill(self.child.id() as libc::pid_t, signal) };
    }

    /// Waits until it ends and says what it cost. A failure is an error.
    pub fn finish(mut self) -> Result<Usage> {
        let mut status = 0;
        // SAFETY: an all-zero rusage is valid, and wait4 writes only to the two variables it is given. The child is
        // reaped here, and `Child` neither waits nor kills when it is dropped.
        let usage = unsafe {
            let mut usage: libc::rusage = std::mem::zeroed();
            if libc::wait4(libc::pid_t::try_from(self.child.id())?, &mut status, 0, &mut usage) < 0 {
                return Err(io::Error::last_os_error().into());
            }
            usage
        };
        self.reaped = true;
        let wall_s = self.start.elapsed().as_secs_f64();
        check(&self.line, std::os::unix::process::ExitStatusExt::from_raw(status))?;
        let seconds = |time: libc::timeval| time.tv_sec as f64 + time.tv_usec as f64 / 1e6;
        Ok(Usage {
            cpu_s: seconds(usage.ru_utime) + seconds(usage.ru_stime),
            wall_s,
            rss_bytes_max: u64::try_from(usage.ru_maxrss).unwrap_or(0) * 1024,
        })
    }
}

impl Drop for Measured {
    fn drop(&mut self) {
        if !self.reaped {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

/// Runs a command; anything but success is an error that names it.
pub fn run(command: &mut Command) -> Result<()> {
    let status = command.status().map_err(|error| format!("{} did not start: {error}", line(command)))?;
    check(&line(command), status)
}

fn check(line: &str, status: ExitStatus) -> Result<()> {
    if status.success() { Ok(()) } else { Err(format!("`{line}` ended with {status}").into()) }
}

/// The command as a person would type it.
pub fn line(command: &Command) -> String {
    let program = command.get_program().to_string_lossy();
    let program = program.rsplit('/').next().unwrap_or_default().to_owned();
    let arguments = command.get_args().map(|argument| argument.to_string_lossy().into_owned());
    std::iter::once(program).chain(arguments).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        command
    }

    fn alive(pid: u32) -> bool {
        std::path::Path::new(&format!("/proc/{pid}")).exists()
    }

    #[test]
    fn a_guarded_child_ends_when_it_is_dropped_even_by_a_panic() {
        let child = Guarded::start(shell("exec sleep 600")).unwrap();
        let pid = child.pid();
        assert!(alive(pid) && child.ended().is_none());
        let result = thread::spawn(move || {
            let _child = child;
            panic!("the panic of this test is part of it");
        })
        .join();
        assert!(result.is_err() && !alive(pid));
    }

    #[test]
    fn a_guarded_child_outlives_the_thread_that_asked_for_it() {
        let child = thread::spawn(|| Guarded::start(shell("exec sleep 600")).unwrap()).join().unwrap();
        thread::sleep(Duration::from_millis(50));
        assert!(child.ended().is_none());
        assert!(child.stop(Duration::from_secs(5)).is_some());
    }

    /// Run again as a process of its own, this test starts a child and waits to be killed.
    #[test]
    #[expect(clippy::print_stderr, reason = "the way in which the parent tells the child's id")]
    fn a_guarded_child_ends_when_its_parent_is_killed() {
        const ROLE: &str = "XTASK_TEST_ROLE";
        if std::env::var_os(ROLE).is_some() {
            let child = Guarded::start(shell("exec sleep 600")).unwrap();
            eprintln!("child {}", child.pid());
            thread::sleep(Duration::from_secs(600));
        }
        let name = "process::tests::a_guarded_child_ends_when_its_parent_is_killed";
        let mut parent = Command::new(std::env::current_exe().unwrap());
        parent.args([name, "--exact", "--nocapture"]).env(ROLE, "parent").stderr(Stdio::piped()).stdout(Stdio::null());
        let mut parent = parent.spawn().unwrap();
        let mut lines = io::BufRead::lines(io::BufReader::new(parent.stderr.take().unwrap()));
        let pid = lines.find_map(|line| line.unwrap().strip_prefix("child ").and_then(|pid| pid.parse().ok())).unwrap();
        assert!(alive(pid));
        parent.kill().unwrap();
        parent.wait().unwrap();
        let start = Instant::now();
        while alive(pid) && start.elapsed() < Duration::from_secs(10) {
            thread::sleep(Duration::from_millis(10));
        }
        // Its new parent may not have reaped it, but it runs no more.
        let state = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        assert!(state.is_empty() || state.contains(") Z "), "{state}");
    }

    #[test]
    fn the_end_of_a_child_is_noticed() {
        let child = Guarded::start(shell("exit 3")).unwrap();
        assert_eq!(child.wait(Duration::from_secs(10)).and_then(|status| status.code()), Some(3));
        assert!(Guarded::start(Command::new("/nowhere/no-such-program")).is_err());
    }

    #[test]
    fn a_child_is_measured_while_it_runs() {
        let child = Measured::start(&mut shell("while :; do :; done")).unwrap();
        let start = Instant::now();
        while child.cpu_s().unwrap() == 0.0 && start.elapsed() < Duration::from_secs(30) {
            thread::sleep(Duration::from_millis(10));
        }
        assert!(child.runs() && child.cpu_s().unwrap() > 0.0 && child.rss_bytes().unwrap() > 0);
        child.signal(libc::SIGTERM);
        assert!(child.finish().unwrap_err().to_string().contains("while"));
        let dropped = Measured::start(&mut shell("exec sleep 600")).unwrap();
        let pid = dropped.child.id();
        drop(dropped);
        assert!(!alive(pid));
    }

    #[test]
    fn cpu_time_and_failure_are_measured() {
        let usage = measure(&mut shell("i=0; while [ $i -lt 100000 ]; do i=$((i+1)); done")).unwrap();
        assert!(usage.cpu_s > 0.0 && usage.wall_s > 0.0 && usage.rss_bytes_max > 0, "{usage:?}");
        let idle = measure(&mut shell("sleep 0.2")).unwrap();
        assert!(idle.wall_s >= 0.2 && idle.cpu_s < 0.2, "{idle:?}");
        let error = measure(&mut shell("exit 3")).unwrap_err().to_string();
        assert!(error.contains("exit 3") && error.contains("exit status: 3"), "{error}");
    }
}
