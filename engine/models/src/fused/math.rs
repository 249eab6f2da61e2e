//! Activation functions on vectors, from operations that round alike everywhere: the same bits in each lane and on each
//! instruction set. Accurate to a few units in the last place; NaN stays NaN.

// The coefficients stand as they were published.
#![allow(clippy::excessive_precision)]

use super::Activation;
use super::lanes::Lanes;

/// The polynomial with `coefficients` from the highest power down.
#[inline(always)]
unsafe fn polynomial<S: Lanes, const N: usize>(x: S::V, coefficients: [f32; N]) -> S::V {
    // SAFETY: the caller vouches for the instruction set, here and below.
    unsafe {
        let mut sum = S::splat(coefficients[0]);
        let mut i = 1;
        while i < N {
            sum = S::mul_add(sum, x, S::splat(coefficients[i]));
            i += 1;
        }
        sum
    }
}

/// `x` between `low` and `high`; NaN stays.
#[inline(always)]
unsafe fn clamp<S: Lanes>(x: S::V, low: f32, high: f32) -> S::V {
    unsafe { S::min(S::splat(high), S::max(S::splat(low), x)) }
}

/// e to the `x`, for `x` clamped to where the result is a normal number. The reduction and polynomial are Cephes' `expf`.
#[inline(always)]
pub(super) unsafe fn exp<S: Lanes>(x: S::V) -> S::V {
    /// Adding it leaves the nearest whole number in the low bits.
    const ROUND: f32 = 12_582_912.0;
    const LN_2_HIGH: f32 = 0.693359375;
    const LN_2_LOW: f32 = -2.12194440e-4;
    unsafe {
        let x = clamp::<S>(x, -87.0, 88.0);
        let shifted = S::mul_add(x, S::splat(std::f32::consts::LOG2_E), S::splat(ROUND));
        let power = S::sub(shifted, S::splat(ROUND));
        let rest = S::mul_add(power, S::splat(-LN_2_HIGH), x);
        let rest = S::mul_add(power, S::splat(-LN_2_LOW), rest);
        let sum = polynomial::<S, 6>(
            rest,
            [1.9875691500e-4, 1.3981999507e-3, 8.3334519073e-3, 4.1665795894e-2, 1.6666665459e-1, 5.0000001201e-1],
        );
        let sum = S::mul_add(sum, S::mul(rest, rest), S::add(rest, S::splat(1.0)));
        S::mul(sum, S::exp2_of_low_bits(shifted))
    }
}

#[inline(always)]
unsafe fn sigmoid<S: Lanes>(x: S::V) -> S::V {
    unsafe {
        let one = S::splat(1.0);
        S::div(one, S::add(one, exp::<S>(S::sub(S::splat(0.0), x))))
    }
}

/// A rational approximation, as in Eigen and XLA.
#[inline(always)]
unsafe fn tanh<S: Lanes>(x: S::V) -> S::V {
    unsafe {
        let x = clamp::<S>(x, -7.90531110763549805, 7.90531110763549805);
        let square = S::mul(x, x);
        let above = polynomial::<S, 7>(
            square,
            [
                -2.76076847742355e-16,
                2.00018790482477e-13,
                -8.60467152213735e-11,
                5.12229709037114e-08,
                1.48572235717979e-05,
                6.37261928875436e-04,
                4.89352455891786e-03,
            ],
        );
        let below = polynomial::<S, 4>(
            square,
            [1.19825839466702e-06, 1.18534705686654e-04, 2.26843463243900e-03, 4.89352518554385e-03],
        );
        S::div(S::mul(x, above), below)
    }
}

/// The error function: a rational approximation, as in Eigen and XLA.
#[inline(always)]
unsafe fn erf<S: Lanes>(x: S::V) -> S::V {
    unsafe {
        let x = clamp::<S>(x, -3.832506856900711, 3.832506856900711);
        let square = S::mul(x, x);
        let above = polynomial::<S, 5>(
            square,
            [
                0.00022905065861350646,
                0.0034082910107109506,
                0.050955695062380861,
                0.18520832239976145,
                1.128379143519084,
            ],
        );
        let below = polynomial::<S, 7>(
            square,
            [
                -1.1791602954361697e-7,
                0.000023547966471313185,
                0.0010179625278914885,
                0.014070470171167667,
                0.11098505178285362,
                0.49746925110067538,
                1.0,
            ],
        );
        S::div(S::mul(x, above), below)
    }
}

/// `x` times the normal distribution's share below `x`: the exact form, as PyTorch's default.
#[inline(always)]
unsafe fn gelu<S: Lanes>(x: S::V) -> S::V {
    unsafe {
        let erf = erf::<S>(S::mul(x, S::splat(std::f32::consts::FRAC_1_SQRT_2)));
        let half = S::mul(x, S::splat(0.5));
        S::mul_add(half, erf, half)
    }
}

/// The larger of zero and `x`; NaN stays NaN, so that the guard on outputs sees it.
#[inline(always)]
pub(super) unsafe fn relu<S: Lanes>(x: S::V) -> S::V {
    unsafe { S::max(S::splat(0.0), x) }
}

macro_rules! each {
    ($function:ident, $at:ident, $vectors:ident) => {
        for i in 0..$vectors {
            let place = $at.add(i * S::LANES);
            S::store(place, $function::<S>(S::load(place)));
        }
    };
}

/// Applies `activation` to `vectors` vectors at `at`, in place; but for the ones that a tile applies to its registers.
#[inline(always)]
pub(super) unsafe fn apply_curve<S: Lanes>(activation: Activation, at: *mut f32, vectors: usize) {
    // SAFETY: the caller vouches for the instruction set and for `vectors` vectors.
    unsafe {
        match activation {
            Activation::Identity | Activation::Relu => {}
            Activation::Gelu => each!(gelu, at, vectors),
            Activation::Tanh => each!(tanh, at, vectors),
            Activation::Sigmoid => each!(sigmoid, at, vectors),
        }
    }
}

/// [`relu`] of `vectors` vectors at `at`, in place.
#[inline(always)]
pub(super) unsafe fn apply_relu<S: Lanes>(at: *mut f32, vectors: usize) {
    // SAFETY: as in `apply_curve`.
    unsafe { each!(relu, at, vectors) }
}

/// [`exp`] of `vectors` vectors at `at`, in place.
#[inline(always)]
pub(super) unsafe fn apply_exp<S: Lanes>(at: *mut f32, vectors: usize) {
    // SAFETY: as in `apply_curve`.
    unsafe { each!(exp, at, vectors) }
}
