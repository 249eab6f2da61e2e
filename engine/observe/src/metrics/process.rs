//! What the operating system says about this process. Linux; elsewhere what is not known is zero.

use std::fs;

/// Memory and processor time of this process.
#[derive(Clone, Copy, Debug, Default)]
pub struct ProcessUsage {
    /// Memory that is resident now.
    pub resident_bytes: u64,
    /// User and system time of all threads so far.
    pub cpu_ns: u64,
}

/// The usage now.
pub fn process_usage() -> ProcessUsage {
    ProcessUsage { resident_bytes: resident_bytes().unwrap_or(0), cpu_ns: cpu_ns() }
}

fn resident_bytes() -> Option<u64> {
    let pages: u64 = fs::read_to_string("/proc/self/statm").ok()?.split(' ').nth(1)?.parse().ok()?;
    // SAFETY: sysconf takes a constant and has no side effect.
    let page_bytes = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
    Some(pages * u64::try_from(page_bytes).ok()?)
}

fn cpu_ns() -> u64 {
    // SAFETY: an all-zero rusage is valid, and getrusage writes only to it.
    let usage = unsafe {
        let mut usage: libc::rusage = std::mem::zeroed();
        libc::getrusage(libc::RUSAGE_SELF, &mut usage);
        usage
    };
    let ns = |time: libc::timeval| {
        u64::try_from(time.tv_sec).unwrap_or(0) * 1_000_000_000 + u64::try_from(time.tv_usec).unwrap_or(0) * 1_000
    };
    ns(usage.ru_utime) + ns(usage.ru_stime)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_uses_memory_and_time() {
        let mut sum = 0_u64;
        (0..10_000_000_u64).for_each(|number| sum = std::hint::black_box(sum.wrapping_add(number)));
        let usage = process_usage();
        assert!(usage.resident_bytes > 100_000 && usage.cpu_ns > 0, "{usage:?} {sum}");
    }
}
