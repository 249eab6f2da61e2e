//! Whole lives of a durable run on one thread, by a seed: the real plan, dataflow, committer and checkpointer on a simulated
//! disk, source and systems.
//!
//! ```text
//!             seed ──▶ who goes on: a worker, the committer, the checkpointer, the source, a system, the clock
//!               └────▶ what breaks: the power, the process, a write, a sync, the room on the disk, an answer
//! life ─▶ life ─▶ ... ─▶ a life without faults, to the end of the input ─▶ what the systems have, against plain loops
//! ```
//!
//! Nothing goes by the machine's clock, by threads, or by hashes with random keys, so a seed is one run: its trace is the same
//! each time. `ENGINE_SEEDS=5000` has as many tried, from `ENGINE_SEED` on (0 unless said); `ENGINE_SEED` alone is that one seed, and
//! `ENGINE_TRACE=1` prints what happens.

mod input;
mod life;
mod random;
mod reference;
mod source;
mod systems;
mod tests;
mod workers;
mod world;
