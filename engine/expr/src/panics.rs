//! Panics of pure code as errors: an expression's kernel, a decoder, a model.
//!
//! Such a panic belongs to the row that caused it (architecture, decision 10), so the report on standard error that a panic
//! makes is kept quiet while one is being caught. All other panics are reported as ever.

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Once;

thread_local! {
    static QUIET: Cell<u32> = const { Cell::new(0) };
}

/// While it lives, panics of this thread are not reported.
#[derive(Debug)]
pub struct QuietPanics(());

/// Keeps the reports of this thread's panics quiet until the guard is dropped.
pub fn quiet_panics() -> QuietPanics {
    static INSTALL: Once = Once::new();
    INSTALL.call_once(|| {
        let report = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            if QUIET.try_with(Cell::get).unwrap_or(0) == 0 {
                report(info);
            }
        }));
    });
    QUIET.with(|quiet| quiet.set(quiet.get() + 1));
    QuietPanics(())
}

impl Drop for QuietPanics {
    fn drop(&mut self) {
        // A guard may outlive its thread's locals when a thread is torn down; there is nothing left to quieten then.
        let _ = QUIET.try_with(|quiet| quiet.set(quiet.get().saturating_sub(1)));
    }
}

/// Runs pure code; a panic becomes its message.
///
/// What `work` borrows mutably may be left half changed by a panic: use it only where that is thrown away or reset.
pub fn catching<T>(work: impl FnOnce() -> T) -> Result<T, String> {
    let _quiet = quiet_panics();
    catch_unwind(AssertUnwindSafe(work)).map_err(|payload| {
        let message = payload.downcast_ref::<&str>().map(|text| (*text).to_owned());
        message
            .or_else(|| payload.downcast_ref::<String>().cloned())
            .unwrap_or_else(|| "a panic without a message".to_owned())
    })
}

#[cfg(test)]
mod tests {
    use super::catching;

    #[test]
    fn a_panic_becomes_its_message() {
        assert_eq!(catching(|| 1), Ok(1));
        assert_eq!(catching(|| -> i32 { panic!("at {}", 7) }), Err("at 7".to_owned()));
        let none: Vec<i32> = Vec::new();
        assert!(catching(|| none[3]).is_err());
    }
}
