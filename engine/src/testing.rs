//! `tests:` of a pipeline file: checked against the plan, and run on a virtual clock.
//!
//! ```text
//! tests ──case──▶ plan with mocks and ends that remember + script of what happens
//!       ──script──▶ given rows, cuts and statements of event time ──bench──▶ dataflow on N workers ──compare──▶ differences
//! ```
//!
//! A test runs the very dataflow that `engine run` does: only its edges are others. It follows cuts that the script makes up
//! as a run follows recorded ones, so that the clock of the machine plays no part.

pub(crate) mod bench;
pub(crate) mod case;
pub(crate) mod compare;
pub(crate) mod fix;
pub(crate) mod junit;
mod rows;
pub(crate) mod script;
