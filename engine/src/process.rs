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

/// The exit code of a fault of the engine itself (sysexits.h, EX_SOFTWARE).
const EXIT_PANIC: i32 = 70;

/// A panic in an operator ends the process: other workers would wait for it for ever. Panics in pure code are caught before
/// they come here (architecture, decision 10).
pub(crate) fn exit_on_panic() {
    std::panic::set_hook(Box::new(|info| {
        let thread = std::thread::current();
        let place = info.location().map(ToString::to_string).unwrap_or_default();
        let what = info.payload_as_str().unwrap_or("no message");
        tracing::error!(thread = thread.name().unwrap_or("unnamed"), place, "a fault of the engine: {what}");
        std::process::exit(EXIT_PANIC);
    }));
    // Expressions and models install their own hook over this one, which stays silent while they catch.
    drop(engine_expr::quiet_panics());
}
