//! What the programs that train have in common: statistics of features, first weights, and pieces of a card.

#![allow(dead_code)] // each program uses a part

pub(crate) mod autoencoder;

use crate::random::Random;
use candle_core::{Device, Result, Tensor};
use candle_nn::VarMap;
use engine_models::candle::Layer;

/// Mean and standard deviation of each feature, to five digits: what the card says is what training used. A feature that
/// never varies has the deviation one.
pub(crate) fn statistics(features: &[f32], width: usize) -> (Vec<f64>, Vec<f64>) {
    let of = |column: usize| features.iter().skip(column).step_by(width).map(|x| f64::from(*x));
    let rows = (features.len() / width) as f64;
    let mean: Vec<f64> = (0..width).map(|column| of(column).sum::<f64>() / rows).collect();
    let std = (0..width).map(|column| (of(column).map(|x| (x - mean[column]).powi(2)).sum::<f64>() / rows).sqrt());
    (mean.iter().map(|x| digits(*x)).collect(), std.map(|std| if std > 0.0 { digits(std) } else { 1.0 }).collect())
}

/// A number rounded to five digits.
pub(crate) fn digits(x: f64) -> f64 {
    format!("{x:.4e}").parse().unwrap_or(x)
}

/// Each feature less its mean, over its deviation.
pub(crate) fn normalized(features: &[f32], mean: &[f64], std: &[f64]) -> Vec<f32> {
    let rows = features.chunks_exact(mean.len());
    rows.flat_map(|row| row.iter().zip(mean).zip(std).map(|((x, mean), std)| (x - *mean as f32) / *std as f32))
        .collect()
}

/// Kaiming's even start, from our own numbers in the order of the names; biases start at zero.
pub(crate) fn start(variables: &VarMap, seed: u64) -> Result<()> {
    let mut random = Random(seed);
    let data = variables.data().lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    let mut names: Vec<&String> = data.keys().collect();
    names.sort();
    for name in names {
        let shape = data[name].dims().to_vec();
        let count = shape.iter().product();
        let values: Vec<f32> = match shape[..] {
            [_, from] => {
                let bound = (6.0 / from as f64).sqrt();
                (0..count).map(|_| random.between(-bound, bound) as f32).collect()
            }
            _ => vec![0.0; count],
        };
        data[name].set(&Tensor::from_vec(values, shape, &Device::Cpu)?)?;
    }
    Ok(())
}

/// The order in which an epoch takes the rows.
pub(crate) fn shuffle(order: &mut [usize], random: &mut Random) {
    for at in (1..order.len()).rev() {
        order.swap(at, random.range(0, at as u64 + 1) as usize);
    }
}

/// `1, 2.5`
pub(crate) fn list(values: &[f64]) -> String {
    values.iter().map(f64::to_string).collect::<Vec<_>>().join(", ")
}

/// Layers as a card lists them, `indent` spaces from the left. Those that none of the programs makes are left out.
pub(crate) fn lines(layers: &[Layer], indent: usize) -> String {
    let mut text = String::new();
    for layer in layers {
        text += &" ".repeat(indent);
        text += &match layer {
            Layer::Linear(linear) => {
                format!("- linear: {{ from: {}, to: {}, name: {} }}\n", linear.from, linear.to, linear.name)
            }
            Layer::Residual(inner) => format!("- residual:\n{}", lines(inner, indent + 4)),
            Layer::Relu => "- relu\n".to_owned(),
            Layer::Tanh => "- tanh\n".to_owned(),
            Layer::Sigmoid => "- sigmoid\n".to_owned(),
            _ => continue,
        };
    }
    text
}

/// The value below which this share of the values lies.
pub(crate) fn quantile(values: &[f64], share: f64) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let at = (sorted.len() as f64 * share).ceil() as usize;
    sorted[at.clamp(1, sorted.len()) - 1]
}
