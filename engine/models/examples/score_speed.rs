//! Times a call of a scorer, fused and through candle-nn, for a few networks and sizes of batch; microseconds, the best of
//! many windows.
//!
//! ```text
//! cargo run --release -p engine-models --example score_speed
//! ```
#![allow(clippy::print_stdout)] // a program for the command line

use candle_core::{DType, Device, Module, Result, Tensor};
use candle_nn::{VarBuilder, VarMap};
use engine_models::candle::{Compiled, Layer, Linear, Network};
use engine_models::fused::Isa;
use std::hint::black_box;
use std::time::Instant;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const BATCHES: [usize; 4] = [1, 8, 128, 1024];
const WINDOWS: usize = 30;

fn layers(widths: &[usize]) -> Vec<Layer> {
    let mut layers = Vec::new();
    for (at, pair) in widths.windows(2).enumerate() {
        if at > 0 {
            layers.push(Layer::Relu);
        }
        layers.push(Layer::Linear(Linear { from: pair[0], to: pair[1], name: format!("fc{at}"), bias: true }));
    }
    layers.push(Layer::Sigmoid);
    layers
}

/// Microseconds a call takes.
fn time(mut call: impl FnMut() -> Result<()>) -> Result<f64> {
    let start = Instant::now();
    call()?;
    let calls = (2e-3 / start.elapsed().as_secs_f64().max(1e-8)).clamp(3.0, 1e5) as u32;
    let mut best = f64::MAX;
    for _ in 0..WINDOWS {
        let start = Instant::now();
        for _ in 0..calls {
            call()?;
        }
        best = best.min(start.elapsed().as_secs_f64() / f64::from(calls));
    }
    Ok(best * 1e6)
}

fn main() -> Result<()> {
    // SAFETY: nothing else runs yet, so no other thread reads the environment.
    unsafe { std::env::set_var("RAYON_NUM_THREADS", "1") };
    println!("{:28} {:>12}{}", "", "", BATCHES.map(|batch| format!("{batch:>10}")).concat());
    for widths in [&[8, 64, 32, 1][..], &[64, 256, 128, 1], &[60, 32, 8, 32, 60]] {
        let variables = VarMap::new();
        let tensors = VarBuilder::from_varmap(&variables, DType::F32, &Device::Cpu);
        let network = Network::build(&layers(widths), &tensors)?;
        let title = widths.iter().map(usize::to_string).collect::<Vec<_>>().join("-");
        // What a scorer does: rows in a slice to a tensor, through the layers, and the results read.
        let whole = |module: &dyn Module, rows: &[f32]| -> Result<()> {
            let x = Tensor::from_slice(rows, (rows.len() / widths[0], widths[0]), &Device::Cpu)?;
            let y = module.forward(&x)?;
            black_box(y.storage_and_layout().1);
            Ok(())
        };
        let line = |name: &str, module: &dyn Module| -> Result<()> {
            let mut cells = String::new();
            for batch in BATCHES {
                let rows = vec![0.3; batch * widths[0]];
                cells += &format!("{:>10.2}", time(|| whole(module, black_box(&rows)))?);
            }
            println!("{title:28} {name:>12}{cells}");
            Ok(())
        };
        line("candle-nn", &network)?;
        for isa in Isa::available() {
            line(isa.name(), &Compiled::new(&network, isa).map_err(candle_core::Error::msg)?)?;
        }
    }
    Ok(())
}
