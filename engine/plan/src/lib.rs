//! The plan: names, types, shapes, kinds of stream and guarantees, all known before anything runs.
//!
//! Pure: it reads files only through [`engine_spec::Files`], opens no connection, and gets the registries of kinds as
//! arguments ([`kinds::Registries`]), so that it knows no kind itself.

mod common;
pub mod event_time;
pub mod graph;
pub mod kinds;
pub mod language;
pub mod model;
pub mod plan;
mod planner;
pub mod print;
pub mod rowwise;
pub mod schema;
mod sql;
pub mod types;

pub use event_time::EventTimePlan;
pub use kinds::{
    Claim, Columns, ConnectionKind, Cx, EventTime, ExactlyOnce, InputKeys, OperatorKind, Origins, Output, Planned,
    PlannedOperator, PlannedSink, PlannedSource, Registries, Replaced, SinkCommon, SinkKind, SourceCommon, SourceKind,
    StreamKind, StreamType, Use, hidden,
};
pub use model::{Dim, ModelCx, ModelKind, ModelSet, PlannedModel, Scorer, TensorSpec, TensorType};
pub use plan::{ERRORS, Edge, Plan, PlannedObjective, Role, Step};
pub use planner::plan;
pub use types::error_schema;

#[cfg(test)]
mod tests;
