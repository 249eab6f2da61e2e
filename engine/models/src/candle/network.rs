//! Layers as candle-nn has them: what training runs and what tests compare with. Scoring runs [`super::Compiled`].

use super::Layer;
use candle_core::{Module, Result, Tensor};
use candle_nn::{LayerNormConfig, VarBuilder};

/// A list of layers with their tensors.
#[derive(Clone, Debug)]
pub struct Network {
    pub(super) steps: Vec<Step>,
}

/// A layer with its tensors.
#[derive(Clone, Debug)]
pub(super) enum Step {
    Linear(candle_nn::Linear),
    LayerNorm(candle_nn::LayerNorm),
    Activation(crate::fused::Activation),
    Softmax,
    Residual(Network),
}

impl Network {
    /// Builds the layers of a card over tensors of these names; a builder over a `VarMap` makes those that are missing.
    pub fn build(layers: &[Layer], tensors: &VarBuilder<'_>) -> Result<Network> {
        use crate::fused::Activation::{Gelu, Relu, Sigmoid, Tanh};
        let mut steps = Vec::with_capacity(layers.len());
        for layer in layers {
            steps.push(match layer {
                Layer::Linear(linear) if linear.bias => {
                    Step::Linear(candle_nn::linear(linear.from, linear.to, tensors.pp(&linear.name))?)
                }
                Layer::Linear(linear) => {
                    Step::Linear(candle_nn::linear_no_bias(linear.from, linear.to, tensors.pp(&linear.name))?)
                }
                Layer::LayerNorm(norm) => {
                    let config = LayerNormConfig { eps: norm.eps, ..Default::default() };
                    Step::LayerNorm(candle_nn::layer_norm(norm.size, config, tensors.pp(&norm.name))?)
                }
                Layer::Dropout(_) => continue,
                Layer::Relu => Step::Activation(Relu),
                Layer::Gelu => Step::Activation(Gelu),
                Layer::Tanh => Step::Activation(Tanh),
                Layer::Sigmoid => Step::Activation(Sigmoid),
                Layer::Softmax => Step::Softmax,
                Layer::Residual(inner) => Step::Residual(Network::build(inner, tensors)?),
            });
        }
        Ok(Network { steps })
    }
}

impl Module for Network {
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        use crate::fused::Activation::{Gelu, Identity, Relu, Sigmoid, Tanh};
        self.steps.iter().try_fold(x.clone(), |x, step| match step {
            Step::Linear(linear) => linear.forward(&x),
            Step::LayerNorm(norm) => norm.forward(&x),
            Step::Activation(Identity) => Ok(x),
            Step::Activation(Relu) => x.relu(),
            Step::Activation(Gelu) => x.gelu_erf(),
            Step::Activation(Tanh) => x.tanh(),
            Step::Activation(Sigmoid) => candle_nn::ops::sigmoid(&x),
            Step::Softmax => candle_nn::ops::softmax(&x, candle_core::D::Minus1),
            Step::Residual(inner) => &x + inner.forward(&x)?,
        })
    }
}
