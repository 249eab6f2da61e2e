//! Chains of linear layers and activations as one operation, with the same bits for a row whatever its batch.
//!
//! A library for matrices picks its blocking by the size of the batch, and with it the order in which products are
//! summed. Here the order never changes: an output is `bias`, then one multiply-add for each input in order, rounded once
//! each, then the activation. Only what shares a vector changes with the batch:
//!
//! ```text
//!  panel: many rows, one a lane              strip: a few rows, outputs in the lanes
//!
//!            row 0 … row 31                             output 0 … output 63
//!  output 0  [ sums │ sums ]                     row 0  [ sums │ sums │ sums │ sums ]
//!  output 1  [ sums │ sums ]   += weight         row 1  [ sums │ sums │ sums │ sums ]  += input
//!     ⋮           ⋮               × inputs         ⋮             ⋮                        × weights
//!  output 7  [ sums │ sums ]                     row 3  [ sums │ sums │ sums │ sums ]
//! ```
//!
//! Sums stay in registers for the whole of a layer; weights are stored in the order of reading, once at load; what is
//! between layers stays in scratch that fits the first cache. As multiply-add is exact up to its one rounding, AVX-512,
//! AVX2 and the portable twin agree to the bit too, and so do their activations, which are built from such operations.
//! The tests hold all of this against plain loops.
//!
//! Nothing here knows of Candle or cards; there is no allocation but for scratch, and no thread.

mod kernel;
mod lanes;
mod math;

use lanes::{Lanes, Portable};

/// What follows a linear layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activation {
    /// Nothing.
    Identity,
    /// `max(x, 0)`
    Relu,
    /// `x` times the normal distribution's share below `x`: the exact form.
    Gelu,
    /// Hyperbolic tangent.
    Tanh,
    /// `1 / (1 + exp(-x))`
    Sigmoid,
}

/// The instruction set that runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Isa {
    /// Plain Rust.
    Portable,
    /// AVX2 and FMA, x86-64.
    #[cfg(target_arch = "x86_64")]
    Avx2,
    /// AVX-512F, x86-64.
    #[cfg(target_arch = "x86_64")]
    Avx512,
}

impl Isa {
    /// Those that this machine has, the fastest first.
    pub fn available() -> Vec<Isa> {
        #[cfg(target_arch = "x86_64")]
        let all = [Isa::Avx512, Isa::Avx2, Isa::Portable];
        #[cfg(not(target_arch = "x86_64"))]
        let all = [Isa::Portable];
        all.into_iter().filter(|isa| isa.is_here()).collect()
    }

    /// Whether this machine has it.
    pub fn is_here(self) -> bool {
        match self {
            Isa::Portable => true,
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma"),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 => is_x86_feature_detected!("avx512f"),
        }
    }

    /// The fastest that this machine has.
    pub fn best() -> Isa {
        Isa::available()[0]
    }

    /// Its name, as people write it.
    pub fn name(self) -> &'static str {
        match self {
            Isa::Portable => "portable",
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => "AVX2",
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 => "AVX-512",
        }
    }

    fn lanes(self) -> usize {
        match self {
            Isa::Portable => Portable::LANES,
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => lanes::Avx2::LANES,
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 => lanes::Avx512::LANES,
        }
    }

    fn panel_outputs(self) -> usize {
        match self {
            Isa::Portable => Portable::PANEL_OUTPUTS,
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => lanes::Avx2::PANEL_OUTPUTS,
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 => lanes::Avx512::PANEL_OUTPUTS,
        }
    }
}

/// A linear layer and its activation, as they come from a model.
#[derive(Clone, Debug)]
pub struct Dense {
    /// Width in.
    pub inputs: usize,
    /// Width out.
    pub outputs: usize,
    /// Row-major, outputs by inputs.
    pub weight: Vec<f32>,
    /// One for each output; zeros where the layer has none.
    pub bias: Vec<f32>,
    /// What follows.
    pub activation: Activation,
}

/// A layer packed for one instruction set.
#[derive(Debug)]
struct Layer {
    inputs: usize,
    outputs: usize,
    activation: Activation,
    panel: Aligned,
    strip: Aligned,
}

/// A chain of layers packed for one instruction set. Immutable: each thread brings its own [`Scratch`].
#[derive(Debug)]
pub struct Chain {
    isa: Isa,
    layers: Vec<Layer>,
    /// Rows left over up to which strips are cheaper than a panel padded with empty rows.
    strip_rows_max: usize,
    /// Floats in one half of the scratch.
    scratch: usize,
}

/// Room for what stands between layers.
#[derive(Debug, Default)]
pub struct Scratch {
    ping: Aligned,
    pong: Aligned,
}

impl Chain {
    /// Packs `layers` for `isa`, which this machine must have: see [`Isa::available`].
    ///
    /// An error where a layer's lists are not as long as its widths say, a width is zero, or a layer does not take what
    /// the one before it gives.
    pub fn new(layers: &[Dense], isa: Isa) -> Result<Chain, String> {
        if !isa.is_here() {
            return Err(format!("this machine has no {}", isa.name()));
        }
        if layers.is_empty() {
            return Err("a chain needs a layer".to_owned());
        }
        let mut given = None;
        for layer in layers {
            let Dense { inputs, outputs, weight, bias, .. } = layer;
            if *inputs == 0
                || *outputs == 0
                || inputs.checked_mul(*outputs) != Some(weight.len())
                || bias.len() != *outputs
            {
                return Err(format!(
                    "a layer from {inputs} to {outputs} has {} weights and {} biases",
                    weight.len(),
                    bias.len()
                ));
            }
            if given.is_some_and(|given| given != *inputs) {
                return Err(format!("a layer takes {inputs} values where the one before gives {}", given.unwrap_or(0)));
            }
            given = Some(*outputs);
        }
        let lanes = isa.lanes();
        let padded = |width: usize| width.div_ceil(lanes) * lanes;
        let widest = layers.iter().map(|layer| layer.inputs.max(padded(layer.outputs))).max().unwrap_or(0);
        let strip_rows_max = strip_rows_max(layers, lanes);
        let layers = layers
            .iter()
            .map(|layer| {
                let Dense { inputs, outputs, weight, bias, activation } = layer;
                Layer {
                    inputs: *inputs,
                    outputs: *outputs,
                    activation: *activation,
                    panel: Aligned::of(&kernel::pack_panel(*inputs, *outputs, weight, bias, isa.panel_outputs())),
                    strip: Aligned::of(&kernel::pack_strip(*inputs, *outputs, weight, bias, lanes)),
                }
            })
            .collect();
        Ok(Chain { isa, layers, strip_rows_max, scratch: widest * kernel::scratch_rows(lanes) })
    }

    /// Width in.
    pub fn inputs(&self) -> usize {
        self.layers.first().map_or(0, |layer| layer.inputs)
    }

    /// Width out.
    pub fn outputs(&self) -> usize {
        self.layers.last().map_or(0, |layer| layer.outputs)
    }

    /// Runs the chain over `rows` rows of `x` into `y`, both row-major.
    ///
    /// # Panics
    ///
    /// Where `x` or `y` is not of `rows` rows.
    pub fn run(&self, rows: usize, x: &[f32], y: &mut [f32], scratch: &mut Scratch) {
        assert_eq!(x.len(), rows * self.inputs(), "rows of input");
        assert_eq!(y.len(), rows * self.outputs(), "rows of output");
        let ping = scratch.ping.room(self.scratch);
        let pong = scratch.pong.room(self.scratch);
        let (layers, strips) = (&self.layers[..], self.strip_rows_max);
        // SAFETY: `new` found the instruction set on this machine, packed the weights for it and measured the scratch, and
        // the lengths were checked above.
        unsafe {
            match self.isa {
                Isa::Portable => kernel::run::<Portable>(layers, strips, rows, x.as_ptr(), y.as_mut_ptr(), ping, pong),
                #[cfg(target_arch = "x86_64")]
                Isa::Avx2 => x86::run_avx2(layers, strips, rows, x.as_ptr(), y.as_mut_ptr(), ping, pong),
                #[cfg(target_arch = "x86_64")]
                Isa::Avx512 => x86::run_avx512(layers, strips, rows, x.as_ptr(), y.as_mut_ptr(), ping, pong),
            }
        }
    }
}

/// Rows up to which strips are cheaper than a panel of one vector, which costs the same however many of its lanes are
/// used. Speed alone depends on it. Costs are in multiply-adds of a vector; that a strip's rows cost a quarter more than
/// that, and that a panel pays about one for each value it transposes, was measured on AVX-512 and AVX2.
fn strip_rows_max(layers: &[Dense], lanes: usize) -> usize {
    let transposed = layers.first().map_or(0, |layer| layer.inputs) + layers.last().map_or(0, |layer| layer.outputs);
    let panel: usize = layers.iter().map(|layer| layer.inputs * layer.outputs).sum::<usize>() + transposed * lanes;
    let strip: usize = layers.iter().map(|layer| layer.inputs * layer.outputs.div_ceil(lanes)).sum();
    let rows = panel / (strip + strip / 4).max(1);
    if rows >= lanes { usize::MAX } else { rows }
}

/// What [`elementwise`] applies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Function {
    /// An activation.
    Activation(Activation),
    /// e to the x, of x from -87 to 88.
    Exp,
}

/// Applies a function to each value in place, with the same bits for a value wherever it stands.
///
/// # Panics
///
/// Where this machine does not have `isa`.
pub fn elementwise(isa: Isa, function: Function, values: &mut [f32]) {
    /// Floats in the widest vector.
    const WIDEST: usize = 16;
    let whole = values.len() / isa.lanes() * isa.lanes();
    let (body, tail) = values.split_at_mut(whole);
    apply(isa, function, body);
    if !tail.is_empty() {
        let mut padded = [0.0; WIDEST];
        padded[..tail.len()].copy_from_slice(tail);
        apply(isa, function, &mut padded[..isa.lanes()]);
        tail.copy_from_slice(&padded[..tail.len()]);
    }
}

/// [`elementwise`] for whole vectors.
fn apply(isa: Isa, function: Function, values: &mut [f32]) {
    assert!(isa.is_here(), "this machine has no {}", isa.name());
    let vectors = values.len() / isa.lanes();
    let at = values.as_mut_ptr();
    // SAFETY: the instruction set was just found, and `values` holds `vectors` vectors.
    unsafe {
        match isa {
            Isa::Portable => elementwise_on::<Portable>(function, at, vectors),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => x86::elementwise_avx2(function, at, vectors),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 => x86::elementwise_avx512(function, at, vectors),
        }
    }
}

#[inline(always)]
unsafe fn elementwise_on<S: Lanes>(function: Function, at: *mut f32, vectors: usize) {
    // SAFETY: the caller vouches for the instruction set and the vectors.
    unsafe {
        match function {
            Function::Activation(Activation::Relu) => math::apply_relu::<S>(at, vectors),
            Function::Activation(activation) => math::apply_curve::<S>(activation, at, vectors),
            Function::Exp => math::apply_exp::<S>(at, vectors),
        }
    }
}

/// The kernels compiled for an instruction set: everything they call is inlined here.
#[cfg(target_arch = "x86_64")]
mod x86 {
    use super::lanes::{Avx2, Avx512};
    use super::{Function, Layer, elementwise_on, kernel};

    macro_rules! compiled_for {
        ($features:literal, $lanes:ident, $run:ident, $elementwise:ident) => {
            #[target_feature(enable = $features)]
            pub(super) unsafe fn $run(
                layers: &[Layer],
                strip_rows_max: usize,
                rows: usize,
                x: *const f32,
                y: *mut f32,
                ping: *mut f32,
                pong: *mut f32,
            ) {
                // SAFETY: the caller's contract is the same.
                unsafe { kernel::run::<$lanes>(layers, strip_rows_max, rows, x, y, ping, pong) }
            }

            #[target_feature(enable = $features)]
            pub(super) unsafe fn $elementwise(function: Function, at: *mut f32, vectors: usize) {
                // SAFETY: the caller's contract is the same.
                unsafe { elementwise_on::<$lanes>(function, at, vectors) }
            }
        };
    }

    compiled_for!("avx2,fma", Avx2, run_avx2, elementwise_avx2);
    compiled_for!("avx512f", Avx512, run_avx512, elementwise_avx512);
}

/// Floats that start at a cache line.
#[derive(Debug, Default)]
struct Aligned(Vec<Line>);

/// A cache line of floats.
#[derive(Clone, Copy, Debug)]
#[repr(C, align(64))]
struct Line([f32; 16]);

impl Aligned {
    fn of(values: &[f32]) -> Aligned {
        Aligned(
            values
                .chunks(16)
                .map(|chunk| {
                    let mut line = Line([0.0; 16]);
                    line.0[..chunk.len()].copy_from_slice(chunk);
                    line
                })
                .collect(),
        )
    }

    fn as_ptr(&self) -> *const f32 {
        self.0.as_ptr().cast()
    }

    /// Room for at least `floats`, with whatever stood there.
    fn room(&mut self, floats: usize) -> *mut f32 {
        let lines = floats.div_ceil(16);
        if self.0.len() < lines {
            self.0.resize(lines, Line([0.0; 16]));
        }
        self.0.as_mut_ptr().cast()
    }
}

#[cfg(test)]
mod tests;
