//! A thread that does something at a fixed pace until it is told to stop.

use std::io;
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::thread::{self, JoinHandle};
use std::time::Duration;

/// The thread. Dropping it ends it: at once if it sleeps, after the tick if it is in one.
#[derive(Debug)]
pub(crate) struct Ticker {
    stop: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Ticker {
    /// Calls `tick` every `period`, first after one period, and then `last` when it is stopped.
    pub(crate) fn start(
        name: &str,
        period: Duration,
        mut tick: impl FnMut() + Send + 'static,
        last: impl FnOnce() + Send + 'static,
    ) -> io::Result<Ticker> {
        let (stop, stopped) = mpsc::channel::<()>();
        let run = move || {
            while stopped.recv_timeout(period) == Err(RecvTimeoutError::Timeout) {
                tick();
            }
            last();
        };
        let thread = thread::Builder::new().name(name.to_owned()).spawn(run)?;
        Ok(Ticker { stop: Some(stop), thread: Some(thread) })
    }
}

impl Drop for Ticker {
    fn drop(&mut self) {
        self.stop = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
