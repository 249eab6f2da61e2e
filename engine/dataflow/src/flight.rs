//! What is in flight: the one rule of backpressure (architecture, decision 12).
//!
//! A source reads no further while what it has read and no sink has acknowledged exceeds the budget in bytes or in age.

use std::collections::VecDeque;

/// The bounds of what one worker may have in flight.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Budget {
    /// Bytes of input.
    pub bytes: u64,
    /// Age of the oldest epoch that is not acknowledged, nanoseconds.
    pub age_ns: u64,
}

/// Epochs of one worker that are not acknowledged.
#[derive(Debug, Default)]
pub struct InFlight {
    epochs: VecDeque<Opened>,
    bytes: u64,
}

#[derive(Debug)]
struct Opened {
    epoch: u64,
    bytes: u64,
    since_ns: u64,
}

impl InFlight {
    /// Bytes were read in `epoch` at `now_ns`.
    pub fn add(&mut self, epoch: u64, bytes: u64, now_ns: u64) {
        self.bytes += bytes;
        match self.epochs.back_mut() {
            Some(last) if last.epoch == epoch => last.bytes += bytes,
            _ => self.epochs.push_back(Opened { epoch, bytes, since_ns: now_ns }),
        }
    }

    /// The frontier behind all sinks moved: epochs before it are acknowledged. `None`: all are.
    pub fn release(&mut self, frontier: Option<u64>) {
        while let Some(first) = self.epochs.front() {
            if frontier.is_some_and(|frontier| first.epoch >= frontier) {
                break;
            }
            self.bytes -= first.bytes;
            self.epochs.pop_front();
        }
    }

    /// Whether reading must pause. The age counts only once there is something behind the oldest epoch to wait for.
    pub fn exceeds(&self, budget: Budget, now_ns: u64) -> bool {
        self.bytes >= budget.bytes
            || (self.epochs.len() > 1
                && self.epochs.front().is_some_and(|first| now_ns.saturating_sub(first.since_ns) >= budget.age_ns))
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
        let budget = Budget { bytes: 100, age_ns: 50 };
        let mut flight = InFlight::default();
        flight.add(1, 60, 0);
        assert!(!flight.exceeds(budget, 1000), "a single epoch has nothing behind it");
        flight.add(2, 40, 10);
        assert!(flight.exceeds(budget, 10), "bytes");
        flight.release(Some(2));
        assert_eq!(flight.bytes(), 40);
        assert!(!flight.exceeds(budget, 59));
        flight.add(3, 1, 60);
        assert!(flight.exceeds(budget, 60), "age");
        flight.release(None);
        assert_eq!(flight.bytes(), 0);
        assert!(!flight.exceeds(budget, 1000));
    }
}
