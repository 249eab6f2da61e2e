//! What a run asks of its process: that what can't be written is an error, never silence.

use std::sync::atomic::{AtomicBool, Ordering};

/// Standard output was closed when the process began (`>&-`).
static STDOUT_CLOSED: AtomicBool = AtomicBool::new(false);

/// Looks before the standard library does, which puts `/dev/null` in the place of a closed stream.
#[cfg(target_os = "linux")]
#[used]
// SAFETY: the loader calls what stands in this section once, before `main`, with arguments that C lets us leave out.
#[unsafe(link_section = ".init_array")]
static LOOK: extern "C" fn() = {
    extern "C" fn look() {
        // SAFETY: `fcntl` with `F_GETFD` reads the descriptor's flags and nothing else.
        let closed = unsafe { libc::fcntl(libc::STDOUT_FILENO, libc::F_GETFD) } == -1;
        STDOUT_CLOSED.store(closed, Ordering::Relaxed);
    }
    look
};

/// Whether there was no standard output to write to.
pub(crate) fn stdout_is_closed() -> bool {
    STDOUT_CLOSED.load(Ordering::Relaxed)
}

/// A file that may not become larger (`ulimit -f`) is an error of the write, as a full disk is; by default it is a signal
/// that ends the process.
pub(crate) fn survive_file_size_limit() {
    // SAFETY: ignoring a signal runs no code of ours.
    unsafe { libc::signal(libc::SIGXFSZ, libc::SIG_IGN) };
}
