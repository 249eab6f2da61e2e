//! A network as it scores: runs of linear layers and activations fused, everything else row by row, in one Candle custom
//! operation.
//!
//! Candle's own operations are not used here: their matrix product sums in another order for another size of batch, and
//! the larger ones start threads, which makes a small model many times slower.

use super::network::{Network, Step};
use super::{Normalize, Planned, Statistics, weights};
use crate::fused::{Activation, Chain, Dense, Function, Isa, Scratch, elementwise};
use candle_core::{CpuStorage, CustomOp1, DType, Device, Layout, Module, Shape, Storage, Tensor};
use candle_nn::VarBuilder;
use engine_plan::Scorer;
use std::cell::RefCell;

/// A network that scores rows on one thread. The result for a row has the same bits in every batch.
#[derive(Debug)]
pub struct Compiled {
    isa: Isa,
    blocks: Vec<Block>,
    scratch: RefCell<Scratch>,
}

/// What runs at once.
#[derive(Debug)]
enum Block {
    /// Linear layers and activations.
    Chain(Chain),
    /// An activation that follows no linear layer.
    Activation(Activation),
    LayerNorm {
        weight: Vec<f32>,
        bias: Vec<f32>,
        eps: f64,
    },
    Softmax,
    Residual(Vec<Block>),
}

impl Compiled {
    /// Compiles a network for an instruction set that this machine has.
    pub fn new(network: &Network, isa: Isa) -> Result<Compiled, String> {
        Ok(Compiled { isa, blocks: blocks(network, isa)?, scratch: RefCell::default() })
    }

    /// Whether it does nothing.
    fn is_empty(&self) -> bool {
        self.blocks.is_empty()
    }

    fn run(&self, rows: usize, x: &[f32]) -> Result<Vec<f32>, String> {
        run(&self.blocks, self.isa, rows, x, &mut self.scratch.borrow_mut())
    }
}

fn blocks(network: &Network, isa: Isa) -> Result<Vec<Block>, String> {
    let mut blocks = Vec::new();
    let mut chain: Vec<Dense> = Vec::new();
    let mut steps = network.steps.iter().peekable();
    while let Some(step) = steps.next() {
        if let Step::Linear(linear) = step {
            let mut dense = dense(linear).map_err(|error| error.to_string())?;
            if let Some(Step::Activation(activation)) = steps.peek() {
                dense.activation = *activation;
                steps.next();
            }
            chain.push(dense);
            continue;
        }
        if !chain.is_empty() {
            blocks.push(Block::Chain(Chain::new(&std::mem::take(&mut chain), isa)?));
        }
        blocks.push(match step {
            Step::Linear(_) => continue,
            Step::Activation(activation) => Block::Activation(*activation),
            Step::LayerNorm(norm) => Block::LayerNorm {
                weight: values(norm.weight()).map_err(|error| error.to_string())?,
                bias: match norm.bias() {
                    Some(bias) => values(bias).map_err(|error| error.to_string())?,
                    None => return Err("a layer norm without a bias".to_owned()),
                },
                eps: norm.eps(),
            },
            Step::Softmax => Block::Softmax,
            Step::Residual(inner) => Block::Residual(self::blocks(inner, isa)?),
        });
    }
    if !chain.is_empty() {
        blocks.push(Block::Chain(Chain::new(&chain, isa)?));
    }
    Ok(blocks)
}

fn dense(linear: &candle_nn::Linear) -> candle_core::Result<Dense> {
    let (outputs, inputs) = linear.weight().dims2()?;
    Ok(Dense {
        inputs,
        outputs,
        weight: values(linear.weight())?,
        bias: linear.bias().map_or_else(|| Ok(vec![0.0; outputs]), values)?,
        activation: Activation::Identity,
    })
}

fn values(tensor: &Tensor) -> candle_core::Result<Vec<f32>> {
    tensor.flatten_all()?.to_vec1()
}

/// Runs blocks over rows. Those that keep the width work in place.
fn run(blocks: &[Block], isa: Isa, rows: usize, x: &[f32], scratch: &mut Scratch) -> Result<Vec<f32>, String> {
    let mut now: Option<Vec<f32>> = None;
    for block in blocks {
        if let Block::Chain(chain) = block {
            let x = now.as_deref().unwrap_or(x);
            if x.len() != rows * chain.inputs() {
                return Err(width_error(x.len(), rows, chain.inputs()));
            }
            let mut y = vec![0.0; rows * chain.outputs()];
            chain.run(rows, x, &mut y, scratch);
            now = Some(y);
            continue;
        }
        let values = now.get_or_insert_with(|| x.to_vec());
        match block {
            Block::Chain(_) => {}
            Block::Activation(activation) => elementwise(isa, Function::Activation(*activation), values),
            Block::LayerNorm { weight, bias, eps } => {
                if values.len() != rows * weight.len() {
                    return Err(width_error(values.len(), rows, weight.len()));
                }
                layer_norm(values, weight, bias, *eps);
            }
            Block::Softmax => softmax(isa, rows, values),
            Block::Residual(inner) => {
                let added = run(inner, isa, rows, values, scratch)?;
                if added.len() != values.len() {
                    return Err(width_error(added.len(), rows, values.len() / rows.max(1)));
                }
                values.iter_mut().zip(&added).for_each(|(value, added)| *value += added);
            }
        }
    }
    Ok(now.unwrap_or_else(|| x.to_vec()))
}

fn width_error(len: usize, rows: usize, width: usize) -> String {
    format!("{len} values are not {rows} rows of {width}")
}

/// Each row less its mean, over its standard deviation. Sums are in double precision and in order.
fn layer_norm(values: &mut [f32], weight: &[f32], bias: &[f32], eps: f64) {
    let width = weight.len() as f64;
    for row in values.chunks_exact_mut(weight.len()) {
        let mean = row.iter().map(|x| f64::from(*x)).sum::<f64>() / width;
        let variance = row.iter().map(|x| (f64::from(*x) - mean).powi(2)).sum::<f64>() / width;
        let scale = 1.0 / (variance + eps).sqrt();
        for ((x, weight), bias) in row.iter_mut().zip(weight).zip(bias) {
            *x = ((f64::from(*x) - mean) * scale * f64::from(*weight) + f64::from(*bias)) as f32;
        }
    }
}

fn softmax(isa: Isa, rows: usize, values: &mut [f32]) {
    let width = values.len() / rows.max(1);
    if width == 0 {
        return;
    }
    for row in values.chunks_exact_mut(width) {
        let most = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        row.iter_mut().for_each(|x| *x -= most);
    }
    elementwise(isa, Function::Exp, values);
    for row in values.chunks_exact_mut(width) {
        let sum: f32 = row.iter().sum();
        row.iter_mut().for_each(|x| *x /= sum);
    }
}

impl CustomOp1 for Compiled {
    fn name(&self) -> &'static str {
        "engine-network"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> candle_core::Result<(CpuStorage, Shape)> {
        let (rows, _) = layout.shape().dims2()?;
        let Some((start, end)) = layout.contiguous_offsets() else {
            candle_core::bail!("{}: rows must be contiguous", self.name());
        };
        let y = self.run(rows, &storage.as_slice::<f32>()?[start..end]).map_err(candle_core::Error::msg)?;
        let width = y.len() / rows.max(1);
        Ok((CpuStorage::F32(y), Shape::from((rows, width))))
    }
}

impl Module for Compiled {
    fn forward(&self, x: &Tensor) -> candle_core::Result<Tensor> {
        if self.is_empty() { Ok(x.clone()) } else { x.apply_op1_no_bwd(self) }
    }
}

/// A model on one worker.
pub(super) struct CandleScorer {
    inputs: Vec<Feed>,
    trunk: Compiled,
    outputs: Vec<Head>,
}

struct Feed {
    name: String,
    width: usize,
    normalize: Option<(Vec<f32>, Vec<f32>)>,
    branch: Compiled,
}

struct Head {
    name: String,
    width: usize,
    network: Compiled,
}

impl CandleScorer {
    pub(super) fn load(model: &Planned) -> Result<CandleScorer, String> {
        let text = |error: candle_core::Error| error.to_string();
        let card = &model.card;
        let tensors = weights::tensors(&model.weights, &model.used).map_err(text)?;
        let tensors = VarBuilder::from_tensors(tensors, DType::F32, &Device::Cpu);
        let isa = Isa::best();
        let compile = |layers: &[super::Layer]| Compiled::new(&Network::build(layers, &tensors).map_err(text)?, isa);
        let layers_of = |parts: &indexmap::IndexMap<String, Vec<super::Layer>>, name: &str| {
            compile(parts.get(name).map_or(&[][..], Vec::as_slice))
        };
        let inputs = model
            .inputs
            .iter()
            .map(|input| {
                let normalize = match &card.normalize {
                    None => None,
                    Some(Normalize::Only(statistics)) => Some(statistics),
                    Some(Normalize::ByInput(by_input)) => by_input.get(&input.name),
                };
                Ok(Feed {
                    name: input.name.clone(),
                    width: input.width(),
                    normalize: normalize.map(Statistics::as_f32),
                    branch: layers_of(&card.branches, &input.name)?,
                })
            })
            .collect::<Result<_, String>>()?;
        let outputs = model
            .outputs
            .iter()
            .map(|output| {
                Ok(Head {
                    name: output.name.clone(),
                    width: output.width(),
                    network: layers_of(&card.heads, &output.name)?,
                })
            })
            .collect::<Result<_, String>>()?;
        Ok(CandleScorer { inputs, trunk: compile(&card.layers)?, outputs })
    }

    /// The inputs normalized, through their branches and side by side.
    fn feed(&self, rows: usize, inputs: &[&[f32]]) -> candle_core::Result<Tensor> {
        let mut parts = Vec::with_capacity(inputs.len());
        for (feed, values) in self.inputs.iter().zip(inputs) {
            let values = match &feed.normalize {
                None => values.to_vec(),
                Some((mean, std)) => normalized(values, mean, std),
            };
            let part = Tensor::from_vec(values, (rows, feed.width), &Device::Cpu)?;
            parts.push(feed.branch.forward(&part)?);
        }
        match parts.len() {
            1 => Ok(parts.swap_remove(0)),
            _ => side_by_side(rows, &parts),
        }
    }
}

impl Statistics {
    fn as_f32(&self) -> (Vec<f32>, Vec<f32>) {
        let list = |values: &[f64]| values.iter().map(|value| *value as f32).collect();
        (list(&self.mean), list(&self.std))
    }
}

fn normalized(values: &[f32], mean: &[f32], std: &[f32]) -> Vec<f32> {
    let mut out = Vec::with_capacity(values.len());
    for row in values.chunks_exact(mean.len()) {
        out.extend(row.iter().zip(mean).zip(std).map(|((x, mean), std)| (x - mean) / std));
    }
    out
}

/// Like `Tensor::cat`, which may start threads.
fn side_by_side(rows: usize, parts: &[Tensor]) -> candle_core::Result<Tensor> {
    let mut widths = Vec::with_capacity(parts.len());
    for part in parts {
        widths.push(part.dim(1)?);
    }
    let width: usize = widths.iter().sum();
    let mut all = vec![0.0; rows * width];
    let mut first = 0;
    for (part, own) in parts.iter().zip(&widths) {
        with_values(part, |values| {
            for (from, to) in values.chunks_exact(*own).zip(all.chunks_exact_mut(width)) {
                to[first..first + own].copy_from_slice(from);
            }
        })?;
        first += own;
    }
    Tensor::from_vec(all, (rows, width), &Device::Cpu)
}

/// Reads a tensor's values where they lie.
fn with_values<T>(tensor: &Tensor, read: impl FnOnce(&[f32]) -> T) -> candle_core::Result<T> {
    let (storage, layout) = tensor.storage_and_layout();
    match (&*storage, layout.contiguous_offsets()) {
        (Storage::Cpu(CpuStorage::F32(values)), Some((start, end))) => Ok(read(&values[start..end])),
        _ => candle_core::bail!("a tensor is not contiguous f32 on the CPU"),
    }
}

/// The first value that is no number.
fn not_finite(values: &[f32]) -> Option<usize> {
    /// The bits that are all set in infinities and NaN, and in nothing else.
    const EXPONENT: u32 = 0x7f80_0000;
    // Folding over all is vectorised; looking for the place is for the rare case.
    let any = values.iter().fold(false, |any, value| any | (value.to_bits() & EXPONENT == EXPONENT));
    any.then(|| values.iter().position(|value| !value.is_finite())).flatten()
}

/// `NaN`, `infinity` or `-infinity`.
fn in_words(value: f32) -> &'static str {
    match value {
        value if value.is_nan() => "not a number (NaN)",
        value if value > 0.0 => "infinite",
        _ => "minus infinite",
    }
}

impl Scorer for CandleScorer {
    fn score(&mut self, rows: usize, inputs: &[&[f32]], outputs: &mut [Vec<f32>]) -> Result<(), String> {
        if inputs.len() != self.inputs.len() || outputs.len() != self.outputs.len() {
            return Err(format!(
                "the model takes {} inputs and gives {} outputs, not {} and {}",
                self.inputs.len(),
                self.outputs.len(),
                inputs.len(),
                outputs.len()
            ));
        }
        outputs.iter_mut().for_each(Vec::clear);
        for (feed, values) in self.inputs.iter().zip(inputs) {
            if rows.checked_mul(feed.width) != Some(values.len()) {
                return Err(format!("input `{}`: {}", feed.name, width_error(values.len(), rows, feed.width)));
            }
            if let Some(at) = not_finite(values) {
                let place = at % feed.width + 1;
                return Err(format!("value {place} of input `{}` is {}", feed.name, in_words(values[at])));
            }
        }
        if rows == 0 {
            return Ok(());
        }
        let text = |error: candle_core::Error| error.to_string();
        let trunk = self.feed(rows, inputs).and_then(|x| self.trunk.forward(&x)).map_err(text)?;
        for (head, out) in self.outputs.iter().zip(outputs.iter_mut()) {
            let y = head.network.forward(&trunk).map_err(text)?;
            with_values(&y, |values| out.extend_from_slice(values)).map_err(text)?;
            if out.len() != rows * head.width {
                return Err(format!("output `{}`: {}", head.name, width_error(out.len(), rows, head.width)));
            }
            if let Some(at) = not_finite(out) {
                let place = at % head.width + 1;
                return Err(format!("value {place} of output `{}` is {}", head.name, in_words(out[at])));
            }
        }
        Ok(())
    }
}
