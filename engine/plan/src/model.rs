//! The contract of models: what a card promises, and what scores rows once it is loaded.

use engine_base::{Diagnostics, SourceMap};
use engine_spec::{Files, Node};
use indexmap::IndexMap;
use schemars::{Schema, SchemaGenerator};
use std::fmt::Debug;
use std::path::Path;
use std::sync::Arc;

/// The planned models of a pipeline, by the name under `models:`.
pub type ModelSet = IndexMap<String, Arc<dyn PlannedModel>>;

/// A kind of model: the `type:` of a card.
pub struct ModelKind {
    /// The `type:` in the card.
    pub name: &'static str,
    /// One line for the reference.
    pub summary: &'static str,
    /// The JSON Schema of a card of this kind.
    pub config_schema: fn(&mut SchemaGenerator) -> Schema,
    /// Checks a card against its weights and plans it. `None` only with an error noted.
    pub plan: fn(&mut ModelCx<'_>) -> Option<Arc<dyn PlannedModel>>,
}

/// What a model kind is told while it plans a card.
pub struct ModelCx<'a> {
    /// The name under `models:`.
    pub name: &'a str,
    /// The card without its `type`.
    pub card: &'a Node,
    /// The folder that the card's paths are relative to.
    pub base_dir: &'a Path,
    /// Files, through which all reading goes.
    pub files: &'a dyn Files,
    /// Problems found.
    pub diagnostics: &'a mut Diagnostics,
    /// Files that spans point into.
    pub sources: &'a mut SourceMap,
}

/// The type of a tensor's elements.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TensorType {
    /// 32-bit float: the only one that can be fed for now.
    F32,
}

/// A dimension of a shape.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dim {
    /// `N`: the rows of the batch.
    Batch,
    /// A fixed size.
    Size(usize),
}

/// A named tensor of a card: `features: "f32[N, 6]"`.
#[derive(Clone, Debug, PartialEq)]
pub struct TensorSpec {
    /// Its name.
    pub name: String,
    /// Its elements' type.
    pub dtype: TensorType,
    /// Its shape; the first dimension is the batch.
    pub shape: Vec<Dim>,
    /// What a null feature is taken as, for inputs whose card says so: one for all elements.
    pub default: Option<f32>,
}

impl TensorSpec {
    /// Elements of one row: the product of the dimensions after the batch.
    pub fn width(&self) -> usize {
        self.shape
            .iter()
            .map(|dim| match dim {
                Dim::Batch => 1,
                Dim::Size(size) => *size,
            })
            .product()
    }
}

/// A model whose card was checked against its weights.
pub trait PlannedModel: Send + Sync + Debug {
    /// The name under `models:`.
    fn name(&self) -> &str;
    /// SHA-256 over the card's meaning and the weights, in hex: what a prediction names as its model.
    fn digest(&self) -> &str;
    /// Inputs, in the order in which [`Scorer::score`] takes them.
    fn inputs(&self) -> &[TensorSpec];
    /// Outputs, in the order in which [`Scorer::score`] fills them.
    fn outputs(&self) -> &[TensorSpec];
    /// Whether a row's outputs are the same bits whatever batch it stands in.
    fn batch_invariant(&self) -> bool;
    /// Loads the weights and makes a scorer for one worker.
    fn load(&self) -> Result<Box<dyn Scorer>, String>;
    /// What a person should see of it: layers, parameters, digest.
    fn facts(&self) -> Vec<(String, String)>;
}

/// A loaded model on one worker thread.
pub trait Scorer: Send {
    /// Scores `rows` rows. `inputs[i]` is row-major, `rows × inputs()[i].width()`; `outputs[i]` is cleared and filled with
    /// `rows × outputs()[i].width()` elements. An error fails the whole batch: the caller isolates the row.
    fn score(&mut self, rows: usize, inputs: &[&[f32]], outputs: &mut [Vec<f32>]) -> Result<(), String>;
}
