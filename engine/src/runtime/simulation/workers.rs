//! Several timely workers on one thread.

use timely::communication::Hooks;
use timely::communication::allocator::{Allocator, Process, ProcessBuilder};
use timely::worker::Worker;

/// What is carried to another thread.
struct Carried(Process);

// SAFETY: a process allocator holds `Rc`s that nobody else has: it is made whole by the thread that gives it away, which ends
// with that, and `join` has everything that it did happen before.
unsafe impl Send for Carried {}

/// Workers that talk to each other, to be stepped by turns. Without a clock of their own: what is to be woken after a while is
/// woken at once, and looks at the clock that it was given.
pub(super) fn workers(count: usize) -> Vec<Worker> {
    let config = engine_dataflow::run::config(count);
    let hooks = Hooks::default();
    let builders = ProcessBuilder::new_typed_vector(count, hooks.refill, hooks.spill);
    // Each waits until all others have begun, so no one thread can make them one after the other.
    let making: Vec<_> =
        builders.into_iter().map(|builder| std::thread::spawn(move || Carried(builder.build()))).collect();
    let made = making.into_iter().map(|making| making.join().unwrap_or_else(|_| panic!("an allocator can't be made")));
    made.map(|Carried(process)| Worker::new(config.worker.clone(), Allocator::Process(process), None)).collect()
}
