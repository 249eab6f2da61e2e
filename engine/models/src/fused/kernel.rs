//! The loops. Every output of a layer is one chain of multiply-adds, from its bias through the inputs in order; the two
//! ways of running them differ only in which of those chains share a vector.

// Indices over registers read as what they are; iterators over arrays of vectors don't unroll as well.
#![allow(clippy::needless_range_loop)]

use super::lanes::Lanes;
use super::{Activation, Layer, math};

/// Vectors of rows in a full panel.
const PANEL_VECTORS: usize = 2;
/// Most vectors of outputs in a tile of a strip.
const STRIP_VECTORS: usize = 4;

/// Rows of scratch that a kernel of `lanes` lanes needs.
pub(super) const fn scratch_rows(lanes: usize) -> usize {
    PANEL_VECTORS * lanes
}

/// The next tile of `left` outputs in a panel: powers of two, the largest first.
const fn panel_tile(left: usize, most: usize) -> usize {
    let mut tile = most;
    while tile > left {
        tile /= 2;
    }
    tile
}

/// Weights in the order in which panels read them: for each tile of outputs the biases, then for each input the tile's
/// weights. `weight` is row-major, outputs by inputs.
pub(super) fn pack_panel(inputs: usize, outputs: usize, weight: &[f32], bias: &[f32], most: usize) -> Vec<f32> {
    let mut packed = Vec::with_capacity((inputs + 1) * outputs);
    let mut first = 0;
    while first < outputs {
        let tile = first..first + panel_tile(outputs - first, most);
        packed.extend_from_slice(&bias[tile.clone()]);
        for input in 0..inputs {
            packed.extend(tile.clone().map(|output| weight[output * inputs + input]));
        }
        first = tile.end;
    }
    packed
}

/// Weights in the order in which strips read them: the same, with tiles of whole vectors padded with zeros.
pub(super) fn pack_strip(inputs: usize, outputs: usize, weight: &[f32], bias: &[f32], lanes: usize) -> Vec<f32> {
    let vectors = outputs.div_ceil(lanes);
    let mut packed = Vec::with_capacity((inputs + 1) * vectors * lanes);
    let mut first = 0;
    while first < vectors {
        let tile = first..first + panel_tile(vectors - first, STRIP_VECTORS);
        let columns = tile.start * lanes..tile.end * lanes;
        packed.extend(columns.clone().map(|output| bias.get(output).copied().unwrap_or(0.0)));
        for input in 0..inputs {
            packed.extend(columns.clone().map(
                |output| {
                    if output < outputs { weight[output * inputs + input] } else { 0.0 }
                },
            ));
        }
        first = tile.end;
    }
    packed
}

/// Runs `layers` over `rows` rows at `x` and writes their outputs to `y`, both row-major.
///
/// # Safety
///
/// The machine has the instruction set of `S`; the weights were packed for it; `x` holds `rows` times the first layer's
/// inputs, `y` room for `rows` times the last one's outputs; `ping` and `pong` are each [`scratch_rows`] times the widest
/// layer, its outputs padded to whole vectors.
#[inline(always)]
pub(super) unsafe fn run<S: Lanes>(
    layers: &[Layer],
    strip_rows_max: usize,
    rows: usize,
    x: *const f32,
    y: *mut f32,
    ping: *mut f32,
    pong: *mut f32,
) {
    let (Some(first), Some(last)) = (layers.first(), layers.last()) else { return };
    let mut row = 0;
    while row < rows {
        let left = rows - row;
        // SAFETY: `row + taken <= rows`, so both pointers stay in what the caller vouches for.
        unsafe {
            let from = x.add(row * first.inputs);
            let to = y.add(row * last.outputs);
            row += if left > S::LANES.saturating_add(strip_rows_max) {
                panel::<S, PANEL_VECTORS>(layers, left.min(PANEL_VECTORS * S::LANES), from, to, ping, pong)
            } else if left > strip_rows_max {
                panel::<S, 1>(layers, left.min(S::LANES), from, to, ping, pong)
            } else if S::STRIP_ROWS >= 4 && left >= 4 {
                strip::<S, 4>(layers, from, to, ping, pong)
            } else if left >= 2 {
                strip::<S, 2>(layers, from, to, ping, pong)
            } else {
                strip::<S, 1>(layers, from, to, ping, pong)
            };
        }
    }
}

/// All layers over up to `V` vectors of rows, one row a lane: nothing is padded but the last panel's rows.
#[inline(always)]
unsafe fn panel<S: Lanes, const V: usize>(
    layers: &[Layer],
    rows: usize,
    from: *const f32,
    to: *mut f32,
    ping: *mut f32,
    pong: *mut f32,
) -> usize {
    let lanes = V * S::LANES;
    let (mut x, mut y) = (ping, pong);
    // SAFETY: `run`'s contract; `rows <= lanes`, and each tile stays within its layer's weights and scratch.
    unsafe {
        let inputs = layers[0].inputs;
        for input in 0..inputs {
            for row in 0..rows {
                *x.add(input * lanes + row) = *from.add(row * inputs + input);
            }
            for row in rows..lanes {
                *x.add(input * lanes + row) = 0.0;
            }
        }
        for layer in layers {
            let mut weights = layer.panel.as_ptr();
            let mut out = y;
            let mut left = layer.outputs;
            while left > 0 {
                let tile = panel_tile(left, S::PANEL_OUTPUTS);
                match tile {
                    8 => panel_tile_run::<S, V, 8>(weights, layer.inputs, x, out, layer.activation),
                    4 => panel_tile_run::<S, V, 4>(weights, layer.inputs, x, out, layer.activation),
                    2 => panel_tile_run::<S, V, 2>(weights, layer.inputs, x, out, layer.activation),
                    _ => panel_tile_run::<S, V, 1>(weights, layer.inputs, x, out, layer.activation),
                }
                weights = weights.add((layer.inputs + 1) * tile);
                out = out.add(tile * lanes);
                left -= tile;
            }
            math::apply_curve::<S>(layer.activation, y, layer.outputs * V);
            std::mem::swap(&mut x, &mut y);
        }
        let outputs = layers[layers.len() - 1].outputs;
        for row in 0..rows {
            for output in 0..outputs {
                *to.add(row * outputs + output) = *x.add(output * lanes + row);
            }
        }
    }
    rows
}

/// `O` outputs of `V` vectors of rows, in `O × V` registers.
#[inline(always)]
unsafe fn panel_tile_run<S: Lanes, const V: usize, const O: usize>(
    weights: *const f32,
    inputs: usize,
    x: *const f32,
    y: *mut f32,
    activation: Activation,
) {
    // SAFETY: `panel`'s contract.
    unsafe {
        let mut sums = [[S::splat(0.0); V]; O];
        for o in 0..O {
            for v in 0..V {
                sums[o][v] = S::splat(*weights.add(o));
            }
        }
        for input in 0..inputs {
            let at = weights.add((input + 1) * O);
            let mut values = [S::splat(0.0); V];
            for v in 0..V {
                values[v] = S::load(x.add((input * V + v) * S::LANES));
            }
            for o in 0..O {
                let weight = S::splat(*at.add(o));
                for v in 0..V {
                    sums[o][v] = S::mul_add(weight, values[v], sums[o][v]);
                }
            }
        }
        for o in 0..O {
            for v in 0..V {
                let sum = if activation == Activation::Relu { math::relu::<S>(sums[o][v]) } else { sums[o][v] };
                S::store(y.add((o * V + v) * S::LANES), sum);
            }
        }
    }
}

/// All layers over `R` rows, outputs in the lanes: for batches too small to fill a panel.
#[inline(always)]
unsafe fn strip<S: Lanes, const R: usize>(
    layers: &[Layer],
    from: *const f32,
    to: *mut f32,
    ping: *mut f32,
    pong: *mut f32,
) -> usize {
    let mut x = from;
    let mut stride = layers[0].inputs;
    let (mut y, mut other) = (ping, pong);
    // SAFETY: `run`'s contract.
    unsafe {
        for layer in layers {
            let vectors = layer.outputs.div_ceil(S::LANES);
            let width = vectors * S::LANES;
            let mut weights = layer.strip.as_ptr();
            let mut out = y;
            let mut left = vectors;
            while left > 0 {
                let tile = panel_tile(left, STRIP_VECTORS);
                match tile {
                    4 => strip_tile_run::<S, R, 4>(weights, layer.inputs, x, stride, out, width, layer.activation),
                    2 => strip_tile_run::<S, R, 2>(weights, layer.inputs, x, stride, out, width, layer.activation),
                    _ => strip_tile_run::<S, R, 1>(weights, layer.inputs, x, stride, out, width, layer.activation),
                }
                weights = weights.add((layer.inputs + 1) * tile * S::LANES);
                out = out.add(tile * S::LANES);
                left -= tile;
            }
            math::apply_curve::<S>(layer.activation, y, R * vectors);
            x = y;
            stride = width;
            std::mem::swap(&mut y, &mut other);
        }
        let outputs = layers[layers.len() - 1].outputs;
        for row in 0..R {
            std::ptr::copy_nonoverlapping(x.add(row * stride), to.add(row * outputs), outputs);
        }
    }
    R
}

/// `C` vectors of outputs of `R` rows, in `R × C` registers.
#[inline(always)]
unsafe fn strip_tile_run<S: Lanes, const R: usize, const C: usize>(
    weights: *const f32,
    inputs: usize,
    x: *const f32,
    x_stride: usize,
    y: *mut f32,
    y_stride: usize,
    activation: Activation,
) {
    // SAFETY: `strip`'s contract.
    unsafe {
        let mut sums = [[S::splat(0.0); C]; R];
        for c in 0..C {
            let bias = S::load(weights.add(c * S::LANES));
            for r in 0..R {
                sums[r][c] = bias;
            }
        }
        for input in 0..inputs {
            let at = weights.add((input + 1) * C * S::LANES);
            let mut row = [S::splat(0.0); C];
            for c in 0..C {
                row[c] = S::load(at.add(c * S::LANES));
            }
            for r in 0..R {
                let value = S::splat(*x.add(r * x_stride + input));
                for c in 0..C {
                    sums[r][c] = S::mul_add(row[c], value, sums[r][c]);
                }
            }
        }
        for r in 0..R {
            let out = y.add(r * y_stride);
            for c in 0..C {
                let sum = if activation == Activation::Relu { math::relu::<S>(sums[r][c]) } else { sums[r][c] };
                S::store(out.add(c * S::LANES), sum);
            }
        }
    }
}
