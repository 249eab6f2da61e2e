//! The kernels against plain loops: to the bit for sums, within a few units in the last place for curves.

use super::*;

/// A repeatable stream of numbers, evenly from -1 to 1.
struct Numbers(u64);

impl Numbers {
    fn next(&mut self) -> f32 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) >> 40) as f32 / (1u32 << 23) as f32 - 1.0
    }

    fn take(&mut self, n: usize, scale: f32) -> Vec<f32> {
        (0..n).map(|_| self.next() * scale).collect()
    }
}

fn layers(widths: &[usize], activations: &[Activation], seed: u64) -> Vec<Dense> {
    let mut numbers = Numbers(seed);
    widths
        .windows(2)
        .zip(activations.iter().cycle())
        .map(|(pair, activation)| Dense {
            inputs: pair[0],
            outputs: pair[1],
            weight: numbers.take(pair[0] * pair[1], 2.0 / (pair[0] as f32).sqrt()),
            bias: numbers.take(pair[1], 0.5),
            activation: *activation,
        })
        .collect()
}

fn run(chain: &Chain, rows: usize, x: &[f32]) -> Vec<f32> {
    let mut y = vec![f32::NAN; rows * chain.outputs()];
    chain.run(rows, x, &mut y, &mut Scratch::default());
    y
}

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|value| value.to_bits()).collect()
}

/// The oracle: plain loops over one row, summing in the order that the module documents. Activations one at a time.
fn plain(layers: &[Dense], row: &[f32]) -> Vec<f32> {
    layers.iter().fold(row.to_vec(), |x, layer| {
        let mut y: Vec<f32> = (0..layer.outputs)
            .map(|output| {
                (0..layer.inputs).fold(layer.bias[output], |sum, input| {
                    layer.weight[output * layer.inputs + input].mul_add(x[input], sum)
                })
            })
            .collect();
        for value in &mut y {
            elementwise(Isa::Portable, Function::Activation(layer.activation), std::slice::from_mut(value));
        }
        y
    })
}

/// The same in double precision, with the functions of the standard library.
fn exact(layers: &[Dense], row: &[f32]) -> Vec<f64> {
    layers.iter().fold(row.iter().map(|x| f64::from(*x)).collect(), |x: Vec<f64>, layer| {
        (0..layer.outputs)
            .map(|output| {
                let sum = (0..layer.inputs).fold(f64::from(layer.bias[output]), |sum, input| {
                    f64::from(layer.weight[output * layer.inputs + input]) * x[input] + sum
                });
                curve(layer.activation, sum)
            })
            .collect()
    })
}

fn curve(activation: Activation, x: f64) -> f64 {
    match activation {
        Activation::Identity => x,
        Activation::Relu => x.max(0.0),
        Activation::Gelu => 0.5 * x * (1.0 + erf(x / std::f64::consts::SQRT_2)),
        Activation::Tanh => x.tanh(),
        Activation::Sigmoid => 1.0 / (1.0 + (-x).exp()),
    }
}

/// By Simpson's rule, and from where it differs from one by less than 1e-16, one.
fn erf(x: f64) -> f64 {
    const STEPS: usize = 2000;
    if x.abs() > 6.0 {
        return x.signum();
    }
    let h = x / STEPS as f64;
    let sum: f64 = (0..=STEPS)
        .map(|i| {
            let weight = if i == 0 || i == STEPS {
                1.0
            } else if i % 2 == 1 {
                4.0
            } else {
                2.0
            };
            let t = i as f64 * h;
            weight * (-t * t).exp()
        })
        .sum();
    sum * h / 3.0 * 2.0 / std::f64::consts::PI.sqrt()
}

use Activation::{Gelu, Identity, Relu, Sigmoid, Tanh};

/// Widths of odd sizes, single layers, wide ones, and every activation.
fn shapes() -> Vec<(&'static [usize], &'static [Activation])> {
    vec![
        (&[8, 64, 32, 1], &[Relu, Relu, Sigmoid]),
        (&[1, 1], &[Identity]),
        (&[3, 5], &[Tanh]),
        (&[7, 13, 17, 3], &[Gelu, Tanh, Sigmoid]),
        (&[60, 32, 8, 32, 60], &[Relu, Relu, Relu, Identity]),
        (&[2, 100, 31, 2], &[Tanh, Gelu, Identity]),
        (&[64, 256, 128, 1], &[Relu, Relu, Sigmoid]),
    ]
}

#[test]
fn a_row_has_the_same_bits_in_every_batch_and_on_every_instruction_set() {
    const ROWS: usize = 300;
    for (at, (widths, activations)) in shapes().into_iter().enumerate() {
        let layers = layers(widths, activations, at as u64);
        let x = Numbers(99).take(ROWS * widths[0], 3.0);
        let want: Vec<u32> = x.chunks(widths[0]).flat_map(|row| bits(&plain(&layers, row))).collect();
        let outputs = widths[widths.len() - 1];
        for isa in Isa::available() {
            let chain = Chain::new(&layers, isa).unwrap();
            // The portable twin is slow where multiply-add is a call: fewer sizes of the large shape.
            let step = if isa == Isa::Portable && widths[0] == 64 { 37 } else { 1 };
            for rows in (1..=ROWS).step_by(step) {
                // Start at another row each time, so that each row meets each place in a batch.
                let first = (rows * 7) % (ROWS - rows + 1);
                let got = run(&chain, rows, &x[first * widths[0]..(first + rows) * widths[0]]);
                assert_eq!(
                    bits(&got),
                    want[first * outputs..(first + rows) * outputs],
                    "{isa:?} {widths:?} batch of {rows}"
                );
            }
        }
    }
}

#[test]
fn random_splits_of_a_stream_give_the_same_bits() {
    const ROWS: usize = 5000;
    let layers = layers(&[8, 64, 32, 1], &[Relu, Relu, Sigmoid], 5);
    let x = Numbers(6).take(ROWS * 8, 3.0);
    for isa in Isa::available().into_iter().filter(|isa| *isa != Isa::Portable) {
        let chain = Chain::new(&layers, isa).unwrap();
        let whole = bits(&run(&chain, ROWS, &x));
        let mut numbers = Numbers(7);
        for _ in 0..20 {
            let mut split = Vec::new();
            let mut first = 0;
            while first < ROWS {
                let rows = (((numbers.next() + 1.0) * 60.0) as usize + 1).min(ROWS - first);
                split.extend(bits(&run(&chain, rows, &x[first * 8..(first + rows) * 8])));
                first += rows;
            }
            assert_eq!(split, whole);
        }
    }
}

#[test]
fn close_to_double_precision() {
    for (at, (widths, activations)) in shapes().into_iter().enumerate() {
        let layers = layers(widths, activations, at as u64);
        let chain = Chain::new(&layers, Isa::best()).unwrap();
        let x = Numbers(3).take(50 * widths[0], 2.0);
        let got = run(&chain, 50, &x);
        let want: Vec<f64> = x.chunks(widths[0]).flat_map(|row| exact(&layers, row)).collect();
        for (got, want) in got.iter().zip(&want) {
            let error = (f64::from(*got) - want).abs();
            assert!(error <= 2e-6 * want.abs().max(1.0), "{widths:?}: {got} for {want}");
        }
    }
}

#[test]
fn curves_are_accurate_over_their_range() {
    let mut values: Vec<f32> = (-4000..=4000).map(|i| i as f32 * 0.004).collect();
    values.extend([0.0, -0.0, 1e-30, -1e-30, 1e-4, 50.0, -50.0, 80.0, -80.0, 1e30, -1e30]);
    for (activation, most) in [(Identity, 0.0), (Relu, 0.0), (Gelu, 6e-7), (Tanh, 3e-7), (Sigmoid, 2e-7)] {
        let mut got = values.clone();
        elementwise(Isa::best(), Function::Activation(activation), &mut got);
        let worst = values
            .iter()
            .zip(&got)
            .map(|(x, y)| {
                let want = curve(activation, f64::from(*x));
                ((f64::from(*y) - want).abs() / want.abs().max(1.0), *x, *y)
            })
            .fold((0.0, 0.0, 0.0), |worst, next| if next.0 > worst.0 { next } else { worst });
        assert!(worst.0 <= most, "{activation:?}({}) = {}, off by {:e}", worst.1, worst.2, worst.0);
    }
    let mut got: Vec<f32> = (-860..=870).map(|i| i as f32 * 0.1).collect();
    let at = got.clone();
    elementwise(Isa::best(), Function::Exp, &mut got);
    for (x, y) in at.iter().zip(&got) {
        let want = f64::from(*x).exp();
        assert!((f64::from(*y) / want - 1.0).abs() < 2e-7, "exp({x}) = {y}");
    }
}

#[test]
fn a_value_has_the_same_bits_in_every_lane() {
    let values: Vec<f32> = Numbers(1).take(67, 6.0);
    for activation in [Relu, Gelu, Tanh, Sigmoid] {
        let function = Function::Activation(activation);
        let mut want = values.clone();
        for value in &mut want {
            elementwise(Isa::Portable, function, std::slice::from_mut(value));
        }
        for isa in Isa::available() {
            for from in 0..20 {
                let mut got = values[from..].to_vec();
                elementwise(isa, function, &mut got);
                assert_eq!(bits(&got), bits(&want[from..]), "{isa:?} {activation:?}");
            }
        }
    }
}

#[test]
fn nan_and_infinity_are_not_hidden() {
    for activation in [Identity, Relu, Gelu, Tanh, Sigmoid] {
        for isa in Isa::available() {
            let layers = [Dense { inputs: 2, outputs: 3, weight: vec![1.0; 6], bias: vec![0.0; 3], activation }];
            let chain = Chain::new(&layers, isa).unwrap();
            for rows in [1, 40] {
                let mut x = vec![0.5; rows * 2];
                x[0] = f32::NAN;
                let y = run(&chain, rows, &x);
                assert!(y[..3].iter().all(|y| y.is_nan()), "{isa:?} {activation:?}");
                assert!(y[3..].iter().all(|y| y.is_finite()), "a row spoilt its neighbours");
            }
        }
    }
}

#[test]
fn wrong_layers_are_refused() {
    let good = Dense { inputs: 2, outputs: 1, weight: vec![1.0; 2], bias: vec![0.0], activation: Identity };
    let cases = [
        vec![],
        vec![Dense { weight: vec![1.0; 3], ..good.clone() }],
        vec![Dense { bias: vec![], ..good.clone() }],
        vec![Dense { outputs: 0, weight: vec![], bias: vec![], ..good.clone() }],
        vec![Dense { inputs: usize::MAX, ..good.clone() }],
        vec![good.clone(), good],
    ];
    for layers in cases {
        assert!(Chain::new(&layers, Isa::best()).is_err(), "{layers:?}");
    }
}
