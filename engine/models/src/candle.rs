//! `type: candle`: a network of layers over weights in a safetensors file.
//!
//! ```yaml
//! model: risk
//! type: candle
//! weights: risk.safetensors
//! inputs: { features: "f32[N, 6]" }
//! outputs: { score: "f32[N]" }
//! normalize: { mean: [..6], std: [..6] }
//! layers: [ { linear: { from: 6, to: 64, name: fc1 } }, relu, { linear: { from: 64, to: 1, name: fc2 } }, sigmoid ]
//! ```
//!
//! What flows where, with every part there is:
//!
//! ```text
//!  input a ─ normalize ─ branches.a ─┐                              ┌─ heads.score ─▶ output score
//!                                    ├─ side by side ─ layers ──────┤
//!  input b ─ normalize ─ branches.b ─┘  (in the order of `inputs`)  └─ heads.kind ──▶ output kind
//! ```
//!
//! [`plan`] checks the card against the header of the weights, all problems at once; `check` holds the checks. `network`
//! builds the layers through candle-nn: what training uses, and the oracle of tests. `compiled` turns them into what
//! scores, one Candle custom operation without threads, whose results for a row do not depend on its batch.

mod check;
mod compiled;
mod network;
mod weights;

use crate::tensor;
use check::Check;
pub use compiled::Compiled;
use engine_base::codes::{model as codes, spec as spec_codes};
use engine_base::{Diagnostic, Diagnostics};
use engine_plan::{ModelCx, ModelKind, PlannedModel, Scorer, TensorSpec};
use indexmap::IndexMap;
pub use network::Network;
use schemars::JsonSchema;
use serde::de::{MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};
use sha2::{Digest, Sha256};
use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;
use weights::Weights;

/// The kind's line for the registry.
pub static KIND: ModelKind = ModelKind {
    name: "candle",
    summary: "a network of layers over weights in a safetensors file, run by Candle",
    config_schema: |generator| generator.subschema_for::<CandleCard>(),
    plan,
};

/// The card of a network of layers over weights in a safetensors file.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CandleCard {
    /// The model's name, for people: a pipeline gives it its own under `models:`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// What it is for and how it came to be.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// The safetensors file, relative to the card. Tensors may be f32, f16, bf16 or f64; they are read as f32.
    pub weights: String,
    /// What it takes: a name and a tensor, `f32[N, 6]`, for each input. `N` is the rows of a batch.
    pub inputs: IndexMap<String, String>,
    /// What it gives: a name and a tensor, `f32[N]` or `f32[N, 3]`, for each output.
    pub outputs: IndexMap<String, String>,
    /// What is done to the inputs first: `(x - mean) / std`, a number for each value of a row. `{ mean, std }` for a model
    /// with one input, else `{ INPUT: { mean, std } }`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub normalize: Option<Normalize>,
    /// What a null is taken as, before it is normalized: `{ INPUT: number }`. Without it a null is a row error.
    #[serde(default, skip_serializing_if = "IndexMap::is_empty")]
    pub defaults: IndexMap<String, f64>,
    /// For a model with several inputs: layers that one of them passes before they are put side by side, in the order of
    /// `inputs`.
    #[serde(default, skip_serializing_if = "IndexMap::is_empty")]
    pub branches: IndexMap<String, Vec<Layer>>,
    /// The layers, in order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub layers: Vec<Layer>,
    /// For a model with several outputs: the layers that lead to each, after those of `layers`.
    #[serde(default, skip_serializing_if = "IndexMap::is_empty")]
    pub heads: IndexMap<String, Vec<Layer>>,
}

/// A layer. A linear layer and the activation after it run as one.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Layer {
    /// `x W' + b`, with the tensors `NAME.weight`, of shape `[to, from]`, and `NAME.bias`, of shape `[to]`.
    Linear(Linear),
    /// Each row less its mean, over its standard deviation, times `NAME.weight`, plus `NAME.bias`.
    LayerNorm(LayerNorm),
    /// The share of values that training dropped; nothing is dropped when scoring.
    Dropout(f64),
    /// `max(x, 0)`
    Relu,
    /// `x` times the normal distribution's share below `x`, in its exact form.
    Gelu,
    /// Hyperbolic tangent.
    Tanh,
    /// `1 / (1 + exp(-x))`
    Sigmoid,
    /// `exp(x)` of each value over the sum of its row's.
    Softmax,
    /// `x` plus what these layers make of it, which must be as wide.
    Residual(Vec<Layer>),
}

/// A linear layer.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Linear {
    /// Width in.
    pub from: usize,
    /// Width out.
    pub to: usize,
    /// The tensors are `NAME.weight` and `NAME.bias`.
    pub name: String,
    /// Whether there is a bias.
    #[serde(default = "yes", skip_serializing_if = "is_true")]
    pub bias: bool,
}

/// A layer normalization.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct LayerNorm {
    /// Width.
    pub size: usize,
    /// The tensors are `NAME.weight` and `NAME.bias`.
    pub name: String,
    /// Added to the variance.
    #[serde(default = "default_eps")]
    pub eps: f64,
}

fn yes() -> bool {
    true
}

fn is_true(value: &bool) -> bool {
    *value
}

fn default_eps() -> f64 {
    1e-5
}

/// A mean and a standard deviation for each value of a row.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Statistics {
    /// What is taken off.
    pub mean: Vec<f64>,
    /// What the rest is divided by.
    pub std: Vec<f64>,
}

/// `{ mean, std }`, or `{ INPUT: { mean, std } }`.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub enum Normalize {
    /// Of a model's only input; a half that was not written is empty.
    Only(Statistics),
    /// By input.
    ByInput(IndexMap<String, Statistics>),
}

impl<'de> Deserialize<'de> for Normalize {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct V;
        impl<'de> Visitor<'de> for V {
            type Value = Normalize;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("`{ mean, std }`, or that for each input")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Normalize, A::Error> {
                let mut only = None;
                let mut by_input = IndexMap::new();
                while let Some(key) = map.next_key::<String>()? {
                    match key.as_str() {
                        "mean" => only.get_or_insert_with(Statistics::empty).mean = map.next_value()?,
                        "std" => only.get_or_insert_with(Statistics::empty).std = map.next_value()?,
                        _ => {
                            by_input.insert(key, map.next_value()?);
                        }
                    }
                }
                match only {
                    Some(only) if by_input.is_empty() => Ok(Normalize::Only(only)),
                    // `mean` and `std` can't be inputs beside others: `plan` says so.
                    Some(only) => {
                        by_input.insert("mean".to_owned(), only);
                        Ok(Normalize::ByInput(by_input))
                    }
                    None => Ok(Normalize::ByInput(by_input)),
                }
            }
        }
        deserializer.deserialize_map(V)
    }
}

impl Statistics {
    fn empty() -> Statistics {
        Statistics { mean: Vec::new(), std: Vec::new() }
    }
}

impl JsonSchema for Normalize {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Normalize".into()
    }

    fn json_schema(generator: &mut schemars::SchemaGenerator) -> schemars::Schema {
        let statistics = generator.subschema_for::<Statistics>();
        schemars::json_schema!({
            "anyOf": [statistics, { "type": "object", "additionalProperties": statistics, "minProperties": 1 }],
        })
    }
}

/// A card that agrees with its weights.
struct Planned {
    name: String,
    digest: String,
    inputs: Vec<TensorSpec>,
    outputs: Vec<TensorSpec>,
    card: CandleCard,
    /// The file's bytes, read when planned: what is scored with is what was checked, whatever becomes of the file.
    weights: Arc<[u8]>,
    /// The tensors that the layers name.
    used: BTreeSet<String>,
    parameters: usize,
}

/// Checks a card against its weights and plans it.
fn plan(cx: &mut ModelCx<'_>) -> Option<Arc<dyn PlannedModel>> {
    let mut found = Diagnostics::new();
    let planned = plan_card(cx, &mut found);
    let failed = found.has_errors();
    cx.diagnostics.extend(found);
    if failed { None } else { planned }
}

fn plan_card(cx: &ModelCx<'_>, found: &mut Diagnostics) -> Option<Arc<dyn PlannedModel>> {
    if let Some(baseline) = cx.card.entry("baseline") {
        found.push(
            Diagnostic::error(spec_codes::NOT_BUILT, baseline.key_span, "`baseline` is not built yet")
                .help("it is what `drift` compares with, which is not built either: take it out"),
        );
    }
    let node = cx.card.without(&["baseline"]);
    let card: CandleCard = node.decode(found)?;
    let inputs = tensors(&node, "inputs", &card.inputs, found);
    let outputs = tensors(&node, "outputs", &card.outputs, found);
    let weights = match Weights::read(&cx.base_dir.join(&card.weights), cx.files) {
        Ok(weights) => Some(weights),
        Err(problem) => {
            let span = node.span_at(&["weights"]);
            found.push(
                Diagnostic::error(problem.code, span, format!("`{}` {}", card.weights, problem.message))
                    .help(problem.help),
            );
            None
        }
    };
    let mut check = Check::new(&node, &card, weights.as_ref(), found);
    check.normalize(&inputs);
    check.defaults(&inputs);
    check.layers(&inputs, &outputs);
    let (used, parameters) = check.finish();
    let weights = weights?;
    let inputs = inputs
        .into_iter()
        .map(|input| {
            input.map(|mut input| {
                input.default = card.defaults.get(&input.name).map(|default| *default as f32);
                input
            })
        })
        .collect::<Option<Vec<_>>>()?;
    let outputs = outputs.into_iter().collect::<Option<Vec<_>>>()?;
    Some(Arc::new(Planned {
        name: cx.name.to_owned(),
        digest: digest(&card, weights.bytes())?,
        inputs,
        outputs,
        card,
        weights: weights.bytes().clone(),
        used,
        parameters,
    }))
}

/// The tensors of `inputs:` or `outputs:`, those that could be read.
fn tensors(
    node: &engine_spec::Node,
    key: &str,
    written: &IndexMap<String, String>,
    found: &mut Diagnostics,
) -> Vec<Option<TensorSpec>> {
    if written.is_empty() {
        found.push(
            Diagnostic::error(codes::BAD_TENSOR, node.span_at(&[key]), format!("`{key}` is empty"))
                .help(format!("name at least one, `{key}: {{ NAME: \"f32[N, 6]\" }}`")),
        );
    }
    let mut read = Vec::new();
    for (name, text) in written {
        read.push(match tensor::parse(name, text) {
            Ok(spec) => Some(spec),
            Err(problem) => {
                let span = node
                    .at(&[key, name])
                    .map_or_else(|| node.span_at(&[key]), |text| text.locate(problem.range.clone()));
                found.push(Diagnostic::error(problem.code, span, problem.message).help(problem.help));
                None
            }
        });
    }
    read
}

/// SHA-256 over what decides a score: the card but for what is written for people and where the weights lie, and the
/// weights.
fn digest(card: &CandleCard, weights: &[u8]) -> Option<String> {
    let meaning = CandleCard { model: None, description: None, weights: String::new(), ..card.clone() };
    // A card without numbers that JSON lacks: `check` refused those.
    let meaning = serde_json::to_vec(&meaning).ok()?;
    let mut hash = Sha256::new();
    hash.update(b"engine model candle 1\0");
    hash.update((meaning.len() as u64).to_le_bytes());
    hash.update(&meaning);
    hash.update(weights);
    Some(hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
}

impl fmt::Debug for Planned {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CandleModel").field("name", &self.name).field("digest", &self.digest).finish_non_exhaustive()
    }
}

impl PlannedModel for Planned {
    fn name(&self) -> &str {
        &self.name
    }

    fn digest(&self) -> &str {
        &self.digest
    }

    fn inputs(&self) -> &[TensorSpec] {
        &self.inputs
    }

    fn outputs(&self) -> &[TensorSpec] {
        &self.outputs
    }

    fn batch_invariant(&self) -> bool {
        true
    }

    fn load(&self) -> Result<Box<dyn Scorer>, String> {
        let scorer = compiled::CandleScorer::load(self)
            .map_err(|error| format!("the model `{}` can't be loaded: {error}", self.name))?;
        Ok(Box::new(scorer))
    }

    fn facts(&self) -> Vec<(String, String)> {
        let list = |specs: &[TensorSpec]| {
            specs.iter().map(|spec| format!("{} {}", spec.name, tensor::show(spec))).collect::<Vec<_>>().join(", ")
        };
        let mut facts = vec![
            ("takes".to_owned(), list(&self.inputs)),
            ("gives".to_owned(), list(&self.outputs)),
            ("layers".to_owned(), self.card.show_layers()),
            ("parameters".to_owned(), self.parameters.to_string()),
            ("weights".to_owned(), self.card.weights.clone()),
            ("digest".to_owned(), self.digest.clone()),
        ];
        facts.retain(|(_, value)| !value.is_empty());
        facts
    }
}

impl CandleCard {
    /// The names of all layers that have tensors.
    fn layer_names(&self) -> BTreeSet<&str> {
        fn add<'c>(layers: &'c [Layer], names: &mut BTreeSet<&'c str>) {
            for layer in layers {
                match layer {
                    Layer::Linear(linear) => {
                        names.insert(&linear.name);
                    }
                    Layer::LayerNorm(norm) => {
                        names.insert(&norm.name);
                    }
                    Layer::Residual(inner) => add(inner, names),
                    _ => {}
                }
            }
        }
        let mut names = BTreeSet::new();
        self.branches.values().chain([&self.layers]).chain(self.heads.values()).for_each(|part| add(part, &mut names));
        names
    }

    /// The layers in a line: `linear 64, relu, linear 1, sigmoid`.
    fn show_layers(&self) -> String {
        fn show(layers: &[Layer]) -> String {
            let names = layers.iter().map(|layer| match layer {
                Layer::Linear(linear) => format!("linear {}", linear.to),
                Layer::LayerNorm(_) => "layer_norm".to_owned(),
                Layer::Dropout(_) => "dropout".to_owned(),
                Layer::Relu => "relu".to_owned(),
                Layer::Gelu => "gelu".to_owned(),
                Layer::Tanh => "tanh".to_owned(),
                Layer::Sigmoid => "sigmoid".to_owned(),
                Layer::Softmax => "softmax".to_owned(),
                Layer::Residual(inner) => format!("residual ({})", show(inner)),
            });
            names.collect::<Vec<_>>().join(", ")
        }
        let branches = self.branches.iter().map(|(name, layers)| format!("{name}: {}", show(layers)));
        let trunk = (!self.layers.is_empty()).then(|| show(&self.layers));
        let heads = self.heads.iter().map(|(name, layers)| format!("{name}: {}", show(layers)));
        branches.chain(trunk).chain(heads).collect::<Vec<_>>().join("; ")
    }
}

#[cfg(test)]
mod tests;
