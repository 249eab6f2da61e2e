//! Stopping: by a signal, by a fault, by the end of the input.

use crate::source::Waker;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

/// Shared by the workers, the connectors and the command line.
#[derive(Debug, Default)]
pub struct Control {
    stop: AtomicBool,
    failed: AtomicBool,
    reason: Mutex<Option<String>>,
    wakers: Mutex<Vec<Waker>>,
    /// Sources are to close every epoch before this one.
    close_before: AtomicU64,
}

impl Control {
    /// Asks all sources to end: what was read is finished, flushed and acknowledged, then the run returns.
    pub fn stop(&self) {
        self.stop.store(true, Ordering::SeqCst);
        self.wake();
    }

    /// Stops because of a fault. The first reason is kept; from now on no cut is committed.
    pub fn fail(&self, reason: impl Into<String>) {
        self.reason.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(reason.into());
        self.failed.store(true, Ordering::SeqCst);
        self.stop();
    }

    /// Whether sources should end.
    pub fn stopping(&self) -> bool {
        self.stop.load(Ordering::SeqCst)
    }

    /// Whether it stopped for a fault.
    pub fn failed(&self) -> bool {
        self.failed.load(Ordering::SeqCst)
    }

    /// The fault.
    pub fn reason(&self) -> Option<String> {
        self.reason.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Asks all sources to close their epochs up to this one, though nothing may have come in it.
    pub fn close_epochs(&self, up_to: u64) {
        if self.close_before.fetch_max(up_to + 1, Ordering::SeqCst) <= up_to {
            self.wake();
        }
    }

    /// Whether somebody waits for this epoch to close.
    pub fn is_to_close(&self, epoch: u64) -> bool {
        self.close_before.load(Ordering::SeqCst) > epoch
    }

    /// Adds someone to wake on a stop.
    pub fn on_stop(&self, waker: Waker) {
        self.wakers.lock().unwrap_or_else(PoisonError::into_inner).push(waker);
    }

    /// Wakes every worker: something it looks at has changed.
    pub fn wake(&self) {
        for waker in self.wakers.lock().unwrap_or_else(PoisonError::into_inner).iter() {
            waker.wake();
        }
    }
}
