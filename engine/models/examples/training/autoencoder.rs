//! An autoencoder whose output is what it could not reconstruct.
//!
//! ```text
//!  features ─ normalize ─▶ x ─┬─ linear, tanh, linear, linear, tanh, linear: -x, as well as a few numbers can say it ─┐
//!                             └──────────────────────────────────────────────────────────────────────────────── plus ─┴▶
//!  ─ less its mean, over its deviation ─▶ deviations
//! ```
//!
//! The layers in the middle are as narrow as `code`. As a `residual`, they learn the reconstruction with its sign turned,
//! and what comes out is the error of each feature. A last linear layer, which is computed and not trained, puts that in
//! deviations of the ordinary: features that follow from the others weigh more than those that are noise.

use super::{digits, normalized, shuffle, start, statistics};
use crate::random::Random;
use candle_core::{DType, Device, Module, Result, Tensor};
use candle_nn::{AdamW, Optimizer, ParamsAdamW, VarBuilder, VarMap};
use engine_models::candle::{Compiled, Layer, Linear, Network};
use engine_models::fused::Isa;
use std::path::Path;

/// What is trained, and how.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Settings {
    /// Width of the layers beside the narrow one.
    pub(crate) hidden: usize,
    /// Width of the narrow one.
    pub(crate) code: usize,
    /// How often each row is seen.
    pub(crate) epochs: usize,
    /// Rows to a step.
    pub(crate) batch: usize,
    /// The rate of learning at first and at last.
    pub(crate) rate: (f64, f64),
    /// Of the first weights and of the order.
    pub(crate) seed: u64,
}

/// A trained model.
pub(crate) struct Autoencoder {
    pub(crate) mean: Vec<f64>,
    pub(crate) std: Vec<f64>,
    pub(crate) layers: Vec<Layer>,
    variables: VarMap,
    compiled: Compiled,
}

fn linear(from: usize, to: usize, name: &str) -> Layer {
    Layer::Linear(Linear { from, to, name: name.to_owned(), bias: true })
}

fn table(rows: Vec<f32>, width: usize) -> Result<Tensor> {
    let count = rows.len() / width;
    Tensor::from_vec(rows, (count, width), &Device::Cpu)
}

/// Trains on rows of features that hold nothing abnormal, one after the other in `features`.
///
/// `weights` says how much each feature counts in training. A feature that is mostly noise counts little: otherwise the
/// narrow layers would be spent on what no other feature tells of.
pub(crate) fn train(features: &[f32], weights: &[f64], settings: Settings) -> Result<Autoencoder> {
    let width = weights.len();
    let Settings { hidden, code, epochs, batch, rate, seed } = settings;
    let (mean, mut std) = statistics(features, width);
    std.iter_mut().zip(weights).for_each(|(std, weight)| *std = digits(*std / weight));
    let x = normalized(features, &mean, &std);
    let variables = VarMap::new();
    let tensors = VarBuilder::from_varmap(&variables, DType::F32, &Device::Cpu);
    let residual = Layer::Residual(vec![
        linear(width, hidden, "encode1"),
        Layer::Tanh,
        linear(hidden, code, "encode2"),
        linear(code, hidden, "decode1"),
        Layer::Tanh,
        linear(hidden, width, "decode2"),
    ]);
    let network = Network::build(std::slice::from_ref(&residual), &tensors)?;
    start(&variables, seed)?;
    let mut optimizer =
        AdamW::new(variables.all_vars(), ParamsAdamW { lr: rate.0, weight_decay: 1e-5, ..ParamsAdamW::default() })?;
    let mut random = Random(seed + 1);
    let mut order: Vec<usize> = (0..x.len() / width).collect();
    let steps = (epochs * order.len().div_ceil(batch)) as f64;
    let mut step = 0.0;
    for _ in 0..epochs {
        shuffle(&mut order, &mut random);
        for rows in order.chunks(batch) {
            let rows = rows.iter().flat_map(|row| &x[row * width..(row + 1) * width]).copied().collect();
            let loss = network.forward(&table(rows, width)?)?.sqr()?.mean_all()?;
            optimizer.set_learning_rate(rate.0 * (rate.1 / rate.0).powf(step / steps));
            optimizer.backward_step(&loss)?;
            step += 1.0;
        }
    }

    let errors = network.forward(&table(x, width)?)?.flatten_all()?.to_vec1::<f32>()?;
    let (off, scale) = statistics(&errors, width);
    let layers = vec![residual, linear(width, width, "scale")];
    let network = Network::build(&layers, &tensors)?;
    let diagonal =
        (0..width * width).map(|at| if at % (width + 1) == 0 { (1.0 / scale[at / width]) as f32 } else { 0.0 });
    let bias = off.iter().zip(&scale).map(|(off, scale)| (-off / scale) as f32);
    {
        let data = variables.data().lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        data["scale.weight"].set(&table(diagonal.collect(), width)?)?;
        data["scale.bias"].set(&Tensor::from_vec(bias.collect::<Vec<f32>>(), width, &Device::Cpu)?)?;
    }
    let compiled = Compiled::new(&network, Isa::best()).map_err(candle_core::Error::msg)?;
    Ok(Autoencoder { mean, std, layers, variables, compiled })
}

impl Autoencoder {
    /// What each row deviates by, feature by feature.
    pub(crate) fn deviations(&self, features: &[f32]) -> Result<Vec<Vec<f32>>> {
        self.compiled.forward(&table(normalized(features, &self.mean, &self.std), self.mean.len())?)?.to_vec2()
    }

    /// The length of each row's deviations, as one number: the error of its reconstruction.
    pub(crate) fn errors(&self, features: &[f32]) -> Result<Vec<f64>> {
        Ok(self.deviations(features)?.iter().map(|row| length(row)).collect())
    }

    /// Writes the weights.
    pub(crate) fn save(&self, path: &Path) -> Result<()> {
        self.variables.save(path)
    }
}

/// The square root of the sum of squares.
pub(crate) fn length(deviations: &[f32]) -> f64 {
    deviations.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>().sqrt()
}
