//! Models: what a card says of one, whether its weights agree, and what scores rows.
//!
//! A kind of model is one file here and one line in [`model_kinds`]. This crate knows no columns, pipelines or operators:
//! `predict` feeds it rows of numbers and reads rows of numbers. It opens no connection, starts no thread, and reads files
//! only through [`engine_spec::Files`].

pub mod candle;
pub mod fused;
mod tensor;

/// Every kind of model that is built.
pub fn model_kinds() -> Vec<&'static engine_plan::ModelKind> {
    vec![&candle::KIND]
}
