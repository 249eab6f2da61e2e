//! The injected clock (architecture, decision 13).
//!
//! Nothing in the engine asks the operating system for the time except [`SystemClock`]; tests, simulation and replay
//! run on a [`VirtualClock`].

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

/// A source of time. Cheap to clone as an `Arc<dyn Clock>`.
pub trait Clock: Send + Sync + std::fmt::Debug {
    /// Wall-clock time, nanoseconds since 1970-01-01 UTC. May step backwards when the host's clock does.
    fn now_ns(&self) -> i64;
    /// Time that never goes back, nanoseconds since an arbitrary start.
    fn monotonic_ns(&self) -> u64;
}

/// The host's clock.
#[derive(Debug)]
pub struct SystemClock {
    start: Instant,
}

impl SystemClock {
    /// The host's clock; monotonic time counts from this call.
    pub fn shared() -> Arc<dyn Clock> {
        Arc::new(SystemClock { start: Instant::now() })
    }
}

impl Clock for SystemClock {
    fn now_ns(&self) -> i64 {
        match SystemTime::now().duration_since(UNIX_EPOCH) {
            Ok(since) => i64::try_from(since.as_nanos()).unwrap_or(i64::MAX),
            Err(before) => i64::try_from(before.duration().as_nanos()).map_or(i64::MIN, |ns| -ns),
        }
    }

    fn monotonic_ns(&self) -> u64 {
        u64::try_from(self.start.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }
}

/// A clock that moves only when told to.
#[derive(Debug, Default)]
pub struct VirtualClock {
    now_ns: AtomicI64,
    start_ns: i64,
}

impl VirtualClock {
    /// A clock that stands at `now_ns` (nanoseconds since 1970-01-01 UTC).
    pub fn at(now_ns: i64) -> Arc<Self> {
        Arc::new(VirtualClock { now_ns: AtomicI64::new(now_ns), start_ns: now_ns })
    }

    /// Moves the clock on by `ns` nanoseconds.
    pub fn advance_ns(&self, ns: i64) {
        self.now_ns.fetch_add(ns, Ordering::SeqCst);
    }
}

impl Clock for VirtualClock {
    fn now_ns(&self) -> i64 {
        self.now_ns.load(Ordering::SeqCst)
    }

    fn monotonic_ns(&self) -> u64 {
        (self.now_ns() - self.start_ns).max(0) as u64
    }
}
