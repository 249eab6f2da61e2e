//! A plan made to run: the dataflow on each worker, the state directory, the instruments, and how it all ends.
//!
//! ```text
//! Plan ──graph──▶ dataflow on N workers ──commits, snapshots──▶ state directory (durable)
//!                        └── meters ──▶ progress line, /metrics, objectives (watch thread)
//! ```

pub(crate) mod durable;
pub(crate) mod errors_file;
pub(crate) mod given;
pub(crate) mod graph;
#[cfg(test)]
mod simulation;
pub(crate) mod watch;
