//! What the repository's own tooling shares with its tests: where things lie, child processes that never outlive
//! their parent, and real systems (a Kafka broker, Prometheus) started on loopback.
//!
//! The commands themselves are in the binary of this package; see `cargo xtask help`.

pub mod layout;
pub mod process;
pub mod services;

/// The error of a task: a sentence for people, since nothing here is handled by kind.
pub type Error = Box<dyn std::error::Error + Send + Sync>;

/// The result of a task.
pub type Result<T, E = Error> = std::result::Result<T, E>;
