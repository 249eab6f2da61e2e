//! One PostgreSQL server on loopback, without passwords.
//!
//! The server refuses to run as root. There it runs as the user `postgres` of Debian's package, in a folder that this user can
//! reach: the cache, or where that lies in a private home, one for services below the system's folder for temporary files.

use super::{free_ports, new_folder_in, run_folder, wait_until_ready};
use crate::process::Guarded;
use crate::{Error, Result};
use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;
use std::{env, thread};

/// Where Debian has the programs of each version.
const VERSIONS: &str = "/usr/lib/postgresql";
/// How often a start is tried again: another took the port in between, or what a killed server left is still being cleared.
const START_ATTEMPTS: usize = 20;

/// A running server. Dropping it kills the server and removes its data.
#[derive(Debug)]
pub struct Postgres {
    prepared: Prepared,
    child: Option<Guarded>,
}

impl Postgres {
    /// Starts an empty server and waits until it takes connections.
    pub fn start() -> Result<Postgres> {
        let mut last_error: Error = "not started".into();
        for _ in 0..3 {
            let mut postgres =
                Postgres { prepared: Prepared::new(&new_folder_in(&folder(), "postgres")?)?, child: None };
            match postgres.restart() {
                Ok(()) => return Ok(postgres),
                Err(error) if error.to_string().contains("Address already in use") => last_error = error,
                Err(error) => return Err(error),
            }
        }
        Err(last_error)
    }

    /// Starts it again on the same port and data, after [`Postgres::kill`] or [`Postgres::stop`].
    pub fn restart(&mut self) -> Result<()> {
        self.child = None;
        for attempt in 1.. {
            let child = Guarded::start(self.prepared.command()?)?;
            match self.prepared.wait_until_ready(|| child.ended().is_none()) {
                Ok(()) => {
                    self.child = Some(child);
                    return Ok(());
                }
                // Processes of the killed server notice its end within a moment.
                Err(error) if attempt < START_ATTEMPTS && error.to_string().contains("shared memory") => {
                    thread::sleep(Duration::from_millis(200));
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Ends it at once, as a crash would (`kill -9`).
    pub fn kill(&mut self) {
        self.child = None;
    }

    /// Ends it in good order; clients are cut off.
    pub fn stop(&mut self) {
        if let Some(child) = self.child.take() {
            child.signal(libc::SIGINT);
            child.wait(Duration::from_secs(20));
        }
    }

    /// The URL of its database, without a password.
    pub fn url(&self) -> &str {
        &self.prepared.url
    }

    /// The port on 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.prepared.port
    }

    /// What a test or pipeline finds in its environment.
    pub fn environment(&self) -> Vec<(&'static str, String)> {
        self.prepared.environment()
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        self.child = None;
        let _ = fs::remove_dir_all(&self.prepared.folder);
    }
}

/// The server of the environment (`POSTGRES_URL`), or else one that all callers in this process share, as
/// [`super::shared_kafka`] has it.
pub fn shared_postgres() -> Result<String> {
    static SHARED: Mutex<Option<Postgres>> = Mutex::new(None);
    if let Some(url) = env::var("POSTGRES_URL").ok().filter(|url| !url.is_empty()) {
        return Ok(url);
    }
    let mut shared = SHARED.lock().unwrap_or_else(PoisonError::into_inner);
    let postgres = match shared.take() {
        Some(postgres) => postgres,
        None => Postgres::start()?,
    };
    Ok(shared.insert(postgres).url().to_owned())
}

/// Where servers have their folders.
pub(super) fn folder() -> PathBuf {
    let folder = run_folder();
    let reachable = |path: &Path| fs::metadata(path).map_or(true, |data| data.permissions().mode() & 0o001 != 0);
    match !is_root() || folder.ancestors().all(reachable) {
        true => folder,
        false => env::temp_dir().join("engine-services"),
    }
}

fn is_root() -> bool {
    // SAFETY: geteuid takes no arguments and can't fail.
    unsafe { libc::geteuid() == 0 }
}

/// A program of the newest version that is installed.
pub fn program(name: &str) -> Option<PathBuf> {
    let version = |path: &Path| path.file_name().and_then(|name| name.to_str()?.parse::<u32>().ok());
    let mut versions: Vec<PathBuf> = fs::read_dir(VERSIONS).ok()?.flatten().map(|entry| entry.path()).collect();
    versions.sort_by_key(|path| version(path));
    versions.into_iter().rev().map(|path| path.join("bin").join(name)).find(|path| path.is_file())
}

/// A server's folder with its data, ready to run.
#[derive(Debug)]
pub(super) struct Prepared {
    folder: PathBuf,
    port: u16,
    url: String,
}

impl Prepared {
    pub(super) fn new(folder: &Path) -> Result<Prepared> {
        let port = free_ports(1)?[0];
        let url = format!("postgresql://postgres@127.0.0.1:{port}/postgres");
        let prepared = Prepared { folder: folder.to_path_buf(), port, url };
        fs::create_dir_all(folder)?;
        if is_root() {
            let mut owner = Command::new("chown");
            crate::process::run(owner.arg("postgres").arg(folder))?;
        }
        let mut make = prepared.run("initdb")?;
        make.arg("-D").arg(prepared.data()).args(["-A", "trust", "-U", "postgres", "-E", "UTF8", "--locale=C"]);
        let output = make.arg("--no-sync").stdin(Stdio::null()).output()?;
        if !output.status.success() {
            return Err(format!("PostgreSQL made no database:\n{}", String::from_utf8_lossy(&output.stderr)).into());
        }
        Ok(prepared)
    }

    /// A program, as a user that the server accepts, which ends with this process.
    fn run(&self, name: &str) -> Result<Command> {
        let program = program(name).ok_or("PostgreSQL is not installed: run `cargo xtask setup`")?;
        if !is_root() {
            return Ok(Command::new(program));
        }
        let mut command = Command::new("setpriv");
        command.args(["--reuid=postgres", "--regid=postgres", "--clear-groups", "--pdeathsig", "keep"]).arg(program);
        command.current_dir(&self.folder);
        Ok(command)
    }

    fn data(&self) -> PathBuf {
        self.folder.join("data")
    }

    pub(super) fn command(&self) -> Result<Command> {
        let log = File::options().create(true).append(true).open(self.log())?;
        let mut command = self.run("postgres")?;
        command.arg("-D").arg(self.data());
        for setting in [
            "listen_addresses=127.0.0.1",
            &format!("port={}", self.port),
            &format!("unix_socket_directories={}", self.folder.display()),
            "fsync=off",
            "shared_buffers=32MB",
            "wal_level=logical",
            "max_prepared_transactions=20",
        ] {
            command.args(["-c", setting]);
        }
        command.stdout(log.try_clone()?).stderr(log);
        Ok(command)
    }

    pub(super) fn log(&self) -> PathBuf {
        self.folder.join("server.log")
    }

    pub(super) fn wait_until_ready(&self, alive: impl Fn() -> bool) -> Result<()> {
        let ready = || {
            let asked = program("pg_isready").map(|program| {
                let mut ask = Command::new(program);
                ask.args(["-q", "-h", "127.0.0.1", "-p", &self.port.to_string()]).stdin(Stdio::null()).status()
            });
            asked.is_some_and(|asked| asked.is_ok_and(|status| status.success()))
        };
        wait_until_ready("postgres", &self.log(), alive, ready)
    }

    pub(super) fn environment(&self) -> Vec<(&'static str, String)> {
        vec![("POSTGRES_URL", self.url.clone())]
    }
}

/// Waits in the background: start a server now, ask for it later.
#[derive(Debug)]
pub struct Starting(thread::JoinHandle<Result<Postgres>>);

impl Starting {
    /// Begins to start a server on a thread of its own.
    pub fn begin() -> Starting {
        Starting(thread::spawn(Postgres::start))
    }

    /// The server, once it is ready.
    pub fn finish(self) -> Result<Postgres> {
        self.0.join().unwrap_or_else(|_| Err("the thread that started PostgreSQL panicked".into()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpStream;

    #[test]
    fn a_server_starts_survives_a_crash_and_leaves_nothing() {
        let mut postgres = Postgres::start().unwrap();
        let connects = |postgres: &Postgres| TcpStream::connect(("127.0.0.1", postgres.port())).is_ok();
        assert!(connects(&postgres) && postgres.environment().len() == 1);
        postgres.kill();
        assert!(!connects(&postgres));
        postgres.restart().unwrap();
        assert!(connects(&postgres));
        postgres.stop();
        postgres.restart().unwrap();
        let folder = postgres.prepared.folder.clone();
        drop(postgres);
        assert!(!folder.exists());
    }
}
