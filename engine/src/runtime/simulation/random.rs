//! Choices by a seed, and what they came to.

use xxhash_rust::xxh3::xxh3_64_with_seed;

/// SplitMix64, by Sebastiano Vigna: enough to make choices.
#[derive(Clone, Debug)]
pub(super) struct Random(u64);

impl Random {
    pub(super) fn new(seed: u64) -> Random {
        Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(17))
    }

    pub(super) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut x = self.0;
        x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        x ^ (x >> 31)
    }

    /// A number below a bound.
    pub(super) fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound.max(1)
    }

    /// True once in so many times.
    pub(super) fn once_in(&mut self, times: u64) -> bool {
        self.below(times) == 0
    }

    pub(super) fn one_of<T: Copy>(&mut self, all: &[T]) -> T {
        all[self.below(all.len() as u64) as usize]
    }

    /// The place of one of these weights, those that are heavier more often.
    pub(super) fn weighed(&mut self, weights: &[u64]) -> usize {
        let mut at = self.below(weights.iter().sum());
        weights
            .iter()
            .position(|weight| {
                if at < *weight {
                    true
                } else {
                    at -= weight;
                    false
                }
            })
            .unwrap_or(0)
    }
}

/// What happened: a hash of it, and if wanted the lines.
#[derive(Debug, Default)]
pub(super) struct Trace {
    hash: u64,
    lines: u64,
    prints: bool,
}

impl Trace {
    pub(super) fn new(prints: bool) -> Trace {
        Trace { prints, ..Trace::default() }
    }

    #[allow(clippy::print_stderr)] // for whoever looks into a seed
    pub(super) fn note(&mut self, line: &str) {
        self.hash = xxh3_64_with_seed(line.as_bytes(), self.hash);
        self.lines += 1;
        if self.prints {
            eprintln!("{:>6} {line}", self.lines);
        }
    }

    /// The hash of all lines, and how many there were.
    pub(super) fn sum(&self) -> (u64, u64) {
        (self.hash, self.lines)
    }
}
