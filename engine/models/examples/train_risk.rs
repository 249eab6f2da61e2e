//! Trains `models/risk` on simulated transactions and writes its card and weights.
//!
//! ```text
//! cargo run --release -p engine-models --example train_risk -- --out models/risk
//! ```
//!
//! The same machine gives the same bytes each time: data, first weights and the order of the rows follow from seeds, and
//! Candle runs on one thread. What is printed last is measured on transactions of another seed, which training never saw.
#![allow(clippy::print_stdout, clippy::print_stderr)] // a program for the command line

mod fraud;
mod random;
mod training;

use candle_core::{DType, Device, Module, Result, Tensor};
use candle_nn::{AdamW, Optimizer, ParamsAdamW, VarBuilder, VarMap};
use engine_models::candle::{Layer, Linear, Network};
use engine_models::fused::Isa;
use fraud::features::{FEATURES, History};
use random::Random;
use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use training::{list, normalized, statistics};

const TRAIN: (u64, u64) = (400_000, 11);
const HELD_OUT: (u64, u64) = (200_000, 12);
const WEIGHTS_SEED: u64 = 13;
const ORDER_SEED: u64 = 14;
const EPOCHS: usize = 12;
const BATCH: usize = 1024;
const RATE: (f64, f64) = (3e-3, 1e-4);
/// How much a missed fraud is worse than an ordinary row that is held.
const WEIGHT: f64 = 4.0;
const THRESHOLD: f32 = 0.9;
const WIDTHS: [usize; 4] = [FEATURES.len(), 64, 32, 1];

/// Rows of features and whether each is fraud.
struct Data {
    rows: usize,
    features: Vec<f32>,
    fraud: Vec<f32>,
    /// The burst that a fraudulent row is part of: all of its card within an hour.
    burst: Vec<Option<usize>>,
}

fn data((rows, seed): (u64, u64)) -> Data {
    let mut history = History::default();
    let mut data = Data { rows: rows as usize, features: Vec::new(), fraud: Vec::new(), burst: Vec::new() };
    let mut bursts: HashMap<u64, (i64, usize)> = HashMap::new();
    let mut count = 0;
    for transaction in fraud::stream(rows, seed) {
        data.features.extend(history.features(&transaction).map(|feature| feature as f32));
        data.fraud.push(if transaction.fraud { 1.0 } else { 0.0 });
        data.burst.push(transaction.fraud.then(|| {
            let (last, burst) = bursts.entry(transaction.card).or_insert((i64::MIN / 2, 0));
            if transaction.at_ms - *last > 3_600_000 {
                *burst = count;
                count += 1;
            }
            *last = transaction.at_ms;
            *burst
        }));
    }
    data
}

/// The layers of the card, but for the last activation, which training's loss holds.
fn layers() -> Vec<Layer> {
    let mut layers = Vec::new();
    for (at, pair) in WIDTHS.windows(2).enumerate() {
        if at > 0 {
            layers.push(Layer::Relu);
        }
        layers.push(Layer::Linear(Linear { from: pair[0], to: pair[1], name: format!("fc{}", at + 1), bias: true }));
    }
    layers
}

/// The cross entropy of `sigmoid(logits)`, in the form that does not overflow: candle-nn's own takes the logarithm of a
/// sigmoid that has become zero. A fraud counts [`WEIGHT`] times.
fn cross_entropy(logits: &Tensor, fraud: &Tensor) -> Result<Tensor> {
    let far = ((logits.abs()?.neg()?.exp()? + 1.0)?).log()?;
    let loss = ((logits.relu()? - (logits * fraud)?)? + far)?;
    (loss * ((fraud * (WEIGHT - 1.0))? + 1.0)?)?.mean_all()
}

fn train(data: &Data, x: &[f32], network: &Network, variables: &VarMap) -> Result<()> {
    let width = FEATURES.len();
    let mut optimizer =
        AdamW::new(variables.all_vars(), ParamsAdamW { lr: RATE.0, weight_decay: 1e-4, ..ParamsAdamW::default() })?;
    let mut order: Vec<usize> = (0..data.rows).collect();
    let mut random = Random(ORDER_SEED);
    let steps = EPOCHS * data.rows.div_ceil(BATCH);
    let mut step = 0;
    for epoch in 1..=EPOCHS {
        for at in (1..order.len()).rev() {
            order.swap(at, random.range(0, at as u64 + 1) as usize);
        }
        let mut sum = 0.0;
        for batch in order.chunks(BATCH) {
            let rows: Vec<f32> = batch.iter().flat_map(|row| &x[row * width..(row + 1) * width]).copied().collect();
            let rows = Tensor::from_vec(rows, (batch.len(), width), &Device::Cpu)?;
            let fraud: Vec<f32> = batch.iter().map(|row| data.fraud[*row]).collect();
            let fraud = Tensor::from_vec(fraud, (batch.len(), 1), &Device::Cpu)?;
            let loss = cross_entropy(&network.forward(&rows)?, &fraud)?;
            let done = step as f64 / steps as f64;
            optimizer.set_learning_rate(RATE.0 * (RATE.1 / RATE.0).powf(done));
            optimizer.backward_step(&loss)?;
            sum += f64::from(loss.to_scalar::<f32>()?) * batch.len() as f64;
            step += 1;
        }
        println!("epoch {epoch:2}: loss {:.5}", sum / data.rows as f64);
    }
    Ok(())
}

/// Prints how well scores tell fraud from the rest.
fn report(scores: &[f32], data: &Data) {
    let mut ranked: Vec<(f32, bool)> =
        scores.iter().zip(&data.fraud).map(|(score, fraud)| (*score, *fraud > 0.5)).collect();
    ranked.sort_by(|a, b| a.0.total_cmp(&b.0));
    let positives = ranked.iter().filter(|(_, fraud)| *fraud).count() as f64;
    let negatives = ranked.len() as f64 - positives;
    // The chance that a fraud scores above another row; equal scores count half.
    let mut below = 0.0;
    let mut auc = 0.0;
    for equal in ranked.chunk_by(|a, b| a.0 == b.0) {
        let hits = equal.iter().filter(|(_, fraud)| *fraud).count() as f64;
        let others = equal.len() as f64 - hits;
        auc += hits * (below + others / 2.0);
        below += others;
    }
    println!("held out: {} rows, {positives} of them fraud", ranked.len());
    println!("AUC {:.4}", auc / (positives * negatives));
    for threshold in [0.5, THRESHOLD] {
        let held = ranked.iter().filter(|(score, _)| *score > threshold).count() as f64;
        let hits = ranked.iter().filter(|(score, fraud)| *score > threshold && *fraud).count() as f64;
        let all: HashSet<usize> = data.burst.iter().flatten().copied().collect();
        let noticed = scores.iter().zip(&data.burst).filter(|(score, _)| **score > threshold);
        let noticed: HashSet<usize> = noticed.filter_map(|(_, burst)| *burst).collect();
        println!(
            "above {threshold}: {held} rows, precision {:.3}, recall {:.3}; {} of {} bursts noticed",
            hits / held.max(1.0),
            hits / positives,
            noticed.len(),
            all.len(),
        );
    }
}

fn card(mean: &[f64], std: &[f64]) -> String {
    let mut card = format!(
        "\
# Written by `cargo run --release -p engine-models --example train_risk`; see README.md.
model: risk
description: The chance that a card transaction is fraud. Trained on simulated transactions.
type: candle
weights: risk.safetensors
inputs: {{ features: \"f32[N, {}]\" }}       # {}
outputs: {{ score: \"f32[N]\" }}
normalize:
  mean: [{}]
  std: [{}]
layers:
",
        FEATURES.len(),
        FEATURES.join(", "),
        list(mean),
        list(std),
    );
    for layer in layers() {
        card += &match layer {
            Layer::Linear(linear) => {
                format!("  - linear: {{ from: {}, to: {}, name: {} }}\n", linear.from, linear.to, linear.name)
            }
            _ => "  - relu\n".to_owned(),
        };
    }
    card + "  - sigmoid\n"
}

fn save(variables: &VarMap, out: &Path) -> Result<()> {
    variables.save(out.join("risk.safetensors"))
}

fn run(out: &Path) -> Result<()> {
    println!("training on {} simulated transactions of seed {}", TRAIN.0, TRAIN.1);
    let training = data(TRAIN);
    let (mean, std) = statistics(&training.features, FEATURES.len());
    let variables = VarMap::new();
    let network = Network::build(&layers(), &VarBuilder::from_varmap(&variables, DType::F32, &Device::Cpu))?;
    training::start(&variables, WEIGHTS_SEED)?;
    train(&training, &normalized(&training.features, &mean, &std), &network, &variables)?;
    save(&variables, out)?;
    std::fs::write(out.join("model.yaml"), card(&mean, &std))?;

    let held_out = data(HELD_OUT);
    let compiled = engine_models::candle::Compiled::new(&network, Isa::best()).map_err(candle_core::Error::msg)?;
    let x =
        Tensor::from_vec(normalized(&held_out.features, &mean, &std), (held_out.rows, FEATURES.len()), &Device::Cpu)?;
    let logits = compiled.forward(&x)?.flatten_all()?.to_vec1::<f32>()?;
    let scores: Vec<f32> = logits.iter().map(|logit| 1.0 / (1.0 + (-logit).exp())).collect();
    report(&scores, &held_out);
    Ok(())
}

fn main() -> ExitCode {
    // SAFETY: nothing else runs yet, so no other thread reads the environment.
    unsafe { std::env::set_var("RAYON_NUM_THREADS", "1") };
    let mut args = std::env::args().skip(1);
    let out = match (args.next().as_deref(), args.next()) {
        (None, _) => PathBuf::from("models/risk"),
        (Some("--out"), Some(out)) => PathBuf::from(out),
        _ => {
            eprintln!("usage: train_risk [--out FOLDER]");
            return ExitCode::from(2);
        }
    };
    match run(&out) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("train_risk: {error}");
            ExitCode::FAILURE
        }
    }
}
