//! The only generic timely layer: rows, exchange by key, epochs, cuts, backpressure and workers.
//!
//! Nothing here knows the language, an operator kind or a system; it moves [`Rows`] between the traits below, which
//! `operators` and `connectors` implement:
//!
//! | trait | lives on | does |
//! |---|---|---|
//! | [`Reader`] | a worker's source operator | hands out rows of its partitions, follows cuts |
//! | [`RowStep`] | a fused chain | maps rows to rows as they arrive |
//! | [`EpochStep`] | a keyed operator | takes the rows of a closed epoch in canonical order |
//! | [`Writer`] | a worker's sink operator | encodes rows, hands them to the system, says when they are acknowledged |

pub mod capture;
pub mod changes;
pub mod control;
pub mod cuts;
pub mod deliver;
pub mod errors;
pub mod exchange;
pub mod flight;
pub mod ingest;
pub mod meter;
pub mod operate;
pub mod order;
pub mod rows;
pub mod run;
pub mod select;
pub mod sink;
pub mod snapshot;
pub mod source;
pub mod stage;
pub mod step;
pub mod watermark;
pub mod wire;

pub use control::Control;
pub use cuts::{ClosedEpoch, Cut, CutBoard, RecordedCuts};
pub use errors::{SourceNames, error_schema};
pub use flight::Budget;
pub use meter::{Meter, Pulse, Unmetered};
pub use rows::{ErrorRow, Positions, RowPosition, Rows, Times};
pub use sink::{Acknowledged, Writer};
pub use source::{Mark, Marks, Polled, Reader, Removal, SourceRows, Waker};
pub use step::{EpochStep, KeyGroups, Moment, RowStep, StepOutput, StepState};
