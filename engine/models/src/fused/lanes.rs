//! Vectors of floats: one trait, and an implementation for each instruction set.
//!
//! Every operation here is exact or correctly rounded by IEEE 754 (the multiply-add has one rounding), so the same
//! sequence of them gives the same bits on each. Nothing here knows about layers.

/// A vector of `f32` and what can be done with it.
///
/// # Safety
///
/// All methods may be called only on a machine that has the instruction set, and pointers must be valid for
/// [`Lanes::LANES`] floats. They need no alignment. Every method must be inlined into a function that enables the
/// instruction set, so none may be called through a closure or a function pointer.
pub(super) trait Lanes: Copy + 'static {
    /// The vector.
    type V: Copy;
    /// Floats in a vector.
    const LANES: usize;
    /// Most outputs that a tile of a panel computes at once: what the registers hold beside the operands.
    const PANEL_OUTPUTS: usize;
    /// Most rows that a tile of a strip computes at once.
    const STRIP_ROWS: usize;

    unsafe fn load(at: *const f32) -> Self::V;
    unsafe fn store(at: *mut f32, v: Self::V);
    unsafe fn splat(x: f32) -> Self::V;
    /// `a * b + c`, rounded once.
    unsafe fn mul_add(a: Self::V, b: Self::V, c: Self::V) -> Self::V;
    unsafe fn add(a: Self::V, b: Self::V) -> Self::V;
    unsafe fn sub(a: Self::V, b: Self::V) -> Self::V;
    unsafe fn mul(a: Self::V, b: Self::V) -> Self::V;
    unsafe fn div(a: Self::V, b: Self::V) -> Self::V;
    /// `a > b ? a : b`: where either is NaN, `b`.
    unsafe fn max(a: Self::V, b: Self::V) -> Self::V;
    /// `a < b ? a : b`: where either is NaN, `b`.
    unsafe fn min(a: Self::V, b: Self::V) -> Self::V;
    /// Two to the power of the whole number in the low nine bits of each lane, from -126 to 127.
    unsafe fn exp2_of_low_bits(a: Self::V) -> Self::V;
}

/// Plain Rust, for machines without the others; the compiler vectorises it where multiply-add is an instruction
/// (aarch64).
#[derive(Clone, Copy)]
pub(super) struct Portable;

const WIDE: usize = 8;

macro_rules! lanewise {
    (|$i:ident| $out:expr) => {{
        let mut out = [0.0; WIDE];
        for $i in 0..WIDE {
            out[$i] = $out;
        }
        out
    }};
}

impl Lanes for Portable {
    type V = [f32; WIDE];
    const LANES: usize = WIDE;
    const PANEL_OUTPUTS: usize = 4;
    const STRIP_ROWS: usize = 2;

    #[inline(always)]
    unsafe fn load(at: *const f32) -> Self::V {
        // SAFETY: the caller vouches for `LANES` floats; an array of floats needs no more alignment than `read_unaligned`.
        unsafe { at.cast::<Self::V>().read_unaligned() }
    }

    #[inline(always)]
    unsafe fn store(at: *mut f32, v: Self::V) {
        // SAFETY: as in `load`.
        unsafe { at.cast::<Self::V>().write_unaligned(v) }
    }

    #[inline(always)]
    unsafe fn splat(x: f32) -> Self::V {
        [x; WIDE]
    }

    #[inline(always)]
    unsafe fn mul_add(a: Self::V, b: Self::V, c: Self::V) -> Self::V {
        lanewise!(|i| a[i].mul_add(b[i], c[i]))
    }

    #[inline(always)]
    unsafe fn add(a: Self::V, b: Self::V) -> Self::V {
        lanewise!(|i| a[i] + b[i])
    }

    #[inline(always)]
    unsafe fn sub(a: Self::V, b: Self::V) -> Self::V {
        lanewise!(|i| a[i] - b[i])
    }

    #[inline(always)]
    unsafe fn mul(a: Self::V, b: Self::V) -> Self::V {
        lanewise!(|i| a[i] * b[i])
    }

    #[inline(always)]
    unsafe fn div(a: Self::V, b: Self::V) -> Self::V {
        lanewise!(|i| a[i] / b[i])
    }

    #[inline(always)]
    unsafe fn max(a: Self::V, b: Self::V) -> Self::V {
        lanewise!(|i| if a[i] > b[i] { a[i] } else { b[i] })
    }

    #[inline(always)]
    unsafe fn min(a: Self::V, b: Self::V) -> Self::V {
        lanewise!(|i| if a[i] < b[i] { a[i] } else { b[i] })
    }

    #[inline(always)]
    unsafe fn exp2_of_low_bits(a: Self::V) -> Self::V {
        lanewise!(|i| f32::from_bits((a[i].to_bits() << 23).wrapping_add(ONE_BITS)))
    }
}

/// The bits of `1.0`: an exponent of zero with its bias.
const ONE_BITS: u32 = 0x3f80_0000;

#[cfg(target_arch = "x86_64")]
pub(super) use x86::{Avx2, Avx512};

#[cfg(target_arch = "x86_64")]
mod x86 {
    use super::{Lanes, ONE_BITS};
    use std::arch::x86_64::*;

    /// AVX2 with FMA: 16 registers of eight floats.
    #[derive(Clone, Copy)]
    pub(in crate::fused) struct Avx2;

    /// AVX-512F: 32 registers of sixteen floats.
    #[derive(Clone, Copy)]
    pub(in crate::fused) struct Avx512;

    /// The operations that are one intrinsic.
    macro_rules! intrinsics {
        ($($method:ident($($arg:ident),+) = $intrinsic:ident;)+) => {
            $(
                #[inline(always)]
                unsafe fn $method($($arg: Self::V),+) -> Self::V {
                    // SAFETY: the caller vouches for the instruction set.
                    unsafe { $intrinsic($($arg),+) }
                }
            )+
        };
    }

    impl Lanes for Avx2 {
        type V = __m256;
        const LANES: usize = 8;
        const PANEL_OUTPUTS: usize = 4;
        const STRIP_ROWS: usize = 2;

        #[inline(always)]
        unsafe fn load(at: *const f32) -> Self::V {
            // SAFETY: the caller vouches for the instruction set and eight floats.
            unsafe { _mm256_loadu_ps(at) }
        }

        #[inline(always)]
        unsafe fn store(at: *mut f32, v: Self::V) {
            // SAFETY: as in `load`.
            unsafe { _mm256_storeu_ps(at, v) }
        }

        #[inline(always)]
        unsafe fn splat(x: f32) -> Self::V {
            // SAFETY: the caller vouches for the instruction set.
            unsafe { _mm256_set1_ps(x) }
        }

        #[inline(always)]
        unsafe fn exp2_of_low_bits(a: Self::V) -> Self::V {
            // SAFETY: as in `splat`.
            unsafe {
                let exponent = _mm256_slli_epi32::<23>(_mm256_castps_si256(a));
                _mm256_castsi256_ps(_mm256_add_epi32(exponent, _mm256_set1_epi32(ONE_BITS as i32)))
            }
        }

        intrinsics! {
            mul_add(a, b, c) = _mm256_fmadd_ps;
            add(a, b) = _mm256_add_ps;
            sub(a, b) = _mm256_sub_ps;
            mul(a, b) = _mm256_mul_ps;
            div(a, b) = _mm256_div_ps;
            max(a, b) = _mm256_max_ps;
            min(a, b) = _mm256_min_ps;
        }
    }

    impl Lanes for Avx512 {
        type V = __m512;
        const LANES: usize = 16;
        const PANEL_OUTPUTS: usize = 8;
        const STRIP_ROWS: usize = 4;

        #[inline(always)]
        unsafe fn load(at: *const f32) -> Self::V {
            // SAFETY: the caller vouches for the instruction set and sixteen floats.
            unsafe { _mm512_loadu_ps(at) }
        }

        #[inline(always)]
        unsafe fn store(at: *mut f32, v: Self::V) {
            // SAFETY: as in `load`.
            unsafe { _mm512_storeu_ps(at, v) }
        }

        #[inline(always)]
        unsafe fn splat(x: f32) -> Self::V {
            // SAFETY: the caller vouches for the instruction set.
            unsafe { _mm512_set1_ps(x) }
        }

        #[inline(always)]
        unsafe fn exp2_of_low_bits(a: Self::V) -> Self::V {
            // SAFETY: as in `splat`.
            unsafe {
                let exponent = _mm512_slli_epi32::<23>(_mm512_castps_si512(a));
                _mm512_castsi512_ps(_mm512_add_epi32(exponent, _mm512_set1_epi32(ONE_BITS as i32)))
            }
        }

        intrinsics! {
            mul_add(a, b, c) = _mm512_fmadd_ps;
            add(a, b) = _mm512_add_ps;
            sub(a, b) = _mm512_sub_ps;
            mul(a, b) = _mm512_mul_ps;
            div(a, b) = _mm512_div_ps;
            max(a, b) = _mm512_max_ps;
            min(a, b) = _mm512_min_ps;
        }
    }
}
