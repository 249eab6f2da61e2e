//! Threads that give way: what writes a checkpoint runs beside the dataflow and should not hold it up where cores are few.

/// How much less often such a thread has its turn (see `nice(2)`): about a tenth of what another gets, while that wants it.
#[cfg(target_os = "linux")]
const NICE: libc::c_int = 10;

/// From here on the thread that calls it gives way to others of the machine; so do those that it starts. Where the system has no
/// such thing for a thread, nothing changes.
pub fn give_way() {
    #[cfg(target_os = "linux")]
    // SAFETY: it reads no memory of ours. On Linux, other than POSIX has it, 0 is the calling thread.
    unsafe {
        let now = libc::getpriority(libc::PRIO_PROCESS, 0);
        libc::setpriority(libc::PRIO_PROCESS, 0, now.max(NICE));
    }
}

/// Does something on a thread that gives way, so that threads which are started by it do so too, and waits for it.
pub(crate) fn on_one<T: Send>(act: impl FnOnce() -> T + Send) -> T {
    let done = std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            give_way();
            act()
        });
        thread.join()
    });
    done.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[cfg(target_os = "linux")]
    fn only_the_thread_and_those_that_it_starts_give_way() {
        // SAFETY: as above.
        let nice = || unsafe { libc::getpriority(libc::PRIO_PROCESS, 0) };
        let before = nice();
        let (here, started) = on_one(|| (nice(), std::thread::spawn(nice).join().unwrap()));
        assert!(here >= NICE && started >= NICE, "{here} {started}");
        assert_eq!(nice(), before);
    }
}
