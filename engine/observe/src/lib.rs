//! What is watched while a pipeline runs: metrics, their exposition to Prometheus, objectives, and the progress line.
//!
//! Nobody here decides anything: the runtime counts into [`metrics`], the rest reads. It knows nothing of plans or of
//! pipeline files; what an objective says comes in as plain data ([`objectives::ObjectiveConfig`]).
//!
//! ```text
//!   workers, connectors ──atomics──▶ Metrics ◀──reads── server (/metrics, /healthz, /readyz)
//!                                       ▲ ▲────reads── objectives, once a second ──▶ log, and back into Metrics
//!                                       └──────reads── progress line
//! ```

pub mod metrics;
pub mod objectives;
pub mod progress;
pub mod prometheus;
pub mod server;
mod ticker;

pub use metrics::{Metrics, SinkMetrics, SourceMetrics, StepMetrics};
pub use objectives::{ObjectiveConfig, Objectives};
pub use progress::{Progress, ProgressMode};
pub use server::Server;
