//! What is in flight: the one rule of backpressure (architecture, decision 12).
//!
//! A source reads no further while what it has read and no sink has acknowledged exceeds the budget in bytes or in age.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// The bounds of what the workers may have in flight.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Budget {
    /// Bytes of input, of all workers together.
    pub bytes: u64,
    /// Age of a worker's oldest epoch that is not acknowledged, nanoseconds.
    pub age_ns: u64,
}

/// Epochs of one worker that are not acknowledged.
#[derive(Debug)]
pub struct InFlight {
    budget: Budget,
    epochs: VecDeque<Opened>,
    bytes: u64,
    /// The bytes of all workers.
    all: Arc<AtomicU64>,
}

#[derive(Debug)]
struct Opened {
    epoch: u64,
    bytes: u64,
    since_ns: u64,
}

impl InFlight {
    /// Nothing in flight. `all` is shared by the workers, and counts the bytes of them all.
    pub fn new(budget: Budget, all: Arc<AtomicU64>) -> Self {
        InFlight { budget, epochs: VecDeque::new(), bytes: 0, all }
    }

    /// Bytes were read in `epoch` at `now_ns`.
    pub fn add(&mut self, epoch: u64, bytes: u64, now_ns: u64) {
        self.bytes += bytes;
        self.all.fetch_add(bytes, Ordering::Relaxed);
        match self.epochs.back_mut() {
            Some(last) if last.epoch == epoch => last.bytes += bytes,
            _ => self.epochs.push_back(Opened { epoch, bytes, since_ns: now_ns }),
        }
    }

    /// The frontier behind all sinks moved: epochs before it are acknowledged. `None`: all are. True if that lets workers
    /// read on that had to pause.
    pub fn release(&mut self, frontier: Option<u64>) -> bool {
        let mut freed = 0;
        while let Some(first) = self.epochs.front() {
            if frontier.is_some_and(|frontier| first.epoch >= frontier) {
                break;
            }
            freed += first.bytes;
            self.epochs.pop_front();
        }
        self.bytes -= freed;
        let before = self.all.fetch_sub(freed, Ordering::Relaxed);
        before >= self.budget.bytes && before - freed < self.budget.bytes
    }

    /// Whether reading must pause. The age counts only once there is something behind the oldest epoch to wait for.
    pub fn exceeds(&self, now_ns: u64) -> bool {
        self.all.load(Ordering::Relaxed) >= self.budget.bytes
            || (self.epochs.len() > 1
                && self.epochs.front().is_some_and(|first| now_ns.saturating_sub(first.since_ns) >= self.budget.age_ns))
    }

    /// Whether anything that was read before this epoch is in flight.
    pub fn has_before(&self, epoch: u64) -> bool {
        self.epochs.front().is_some_and(|first| first.epoch < epoch)
    }

    /// Since when the oldest is in flight, by the monotonic clock.
    pub fn since_ns(&self) -> Option<u64> {
        self.epochs.front().map(|first| first.since_ns)
    }

    /// Bytes in flight.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_and_age_pause_and_release_resumes() {
        let all = Arc::new(AtomicU64::new(0));
        let mut flight = InFlight::new(Budget { bytes: 100, age_ns: 50 }, all.clone());
        flight.add(1, 60, 0);
        assert!(!flight.exceeds(1000), "a single epoch has nothing behind it");
        flight.add(2, 40, 10);
        assert!(flight.exceeds(10), "bytes");
        let other = InFlight::new(Budget { bytes: 100, age_ns: 50 }, all);
        assert!(other.exceeds(0), "the bytes of all workers");
        assert!(flight.release(Some(2)), "they may read on");
        assert_eq!(flight.bytes(), 40);
        assert!(!flight.exceeds(59) && !other.exceeds(0));
        assert!(!flight.has_before(2) && flight.has_before(3), "epoch 2");
        flight.add(3, 1, 60);
        assert!(flight.exceeds(60), "age");
        assert!(!flight.release(None), "nobody paused for bytes");
        assert_eq!(flight.bytes(), 0);
        assert!(!flight.exceeds(1000));
    }
}
