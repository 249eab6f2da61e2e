//! Histograms with fixed buckets, fine enough for quantiles and cheap enough to record each row.
//!
//! Latencies go from 1 us to 100 s in 23 buckets a decade, none wider than a fifth of its lower bound, so that an
//! interpolated quantile is a few percent off at most. The bounds are round decimals, since Prometheus is shown a coarser
//! set of the same ones (1, 2.5, 5 a decade, from 10 us) and its counts must be exact. Sizes go by powers of two up to 2^20.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Bounds of a decade, in hundredths of its start.
const DECADE: [u64; 23] =
    [100, 110, 120, 135, 150, 165, 180, 200, 225, 250, 275, 300, 330, 360, 400, 450, 500, 550, 600, 675, 750, 850, 925];
/// 1 us in ns, the first bound.
const LATENCY_FIRST: u64 = 1_000;
/// From 1 us to 100 s.
const LATENCY_DECADES: u32 = 8;
/// Sizes go up to two to the power of this.
const SIZE_POWERS: u32 = 20;
/// A table entry for each exponent of two and the three bits after the leading one.
const TABLE: usize = 64 * 8;

/// The bounds of a histogram's buckets, shared by all of one sort.
#[derive(Debug)]
struct Layout {
    /// Inclusive upper bounds, ascending. One more bucket takes what is above the last.
    bounds: Vec<u64>,
    /// For each leading bits of a value, the first bucket that it can be in.
    first: Vec<u8>,
    /// The bounds that are exported, as indices into `bounds`.
    exported: Vec<usize>,
}

impl Layout {
    fn new(bounds: Vec<u64>, is_exported: impl Fn(u64) -> bool) -> Layout {
        let first_for = |entry: usize| {
            let (exponent, leading) = (entry / 8, (entry % 8) as u64);
            let least = if exponent < 3 { 1 << exponent } else { (8 + leading) << (exponent - 3) };
            bounds.iter().position(|bound| *bound >= least).unwrap_or(bounds.len()) as u8
        };
        let first = (0..TABLE).map(first_for).collect();
        let exported = (0..bounds.len()).filter(|index| is_exported(bounds[*index])).collect();
        Layout { bounds, first, exported }
    }

    fn latencies() -> &'static Layout {
        static LAYOUT: OnceLock<Layout> = OnceLock::new();
        LAYOUT.get_or_init(|| {
            let decades = (0..LATENCY_DECADES).map(|power| LATENCY_FIRST * 10_u64.pow(power));
            let mut bounds: Vec<u64> =
                decades.flat_map(|start| DECADE.map(|hundredths| start * hundredths / 100)).collect();
            bounds.push(LATENCY_FIRST * 10_u64.pow(LATENCY_DECADES));
            let is_exported = |bound: u64| {
                let digits = bound.to_string();
                bound >= 10 * LATENCY_FIRST && ["1", "25", "5"].contains(&digits.trim_end_matches('0'))
            };
            Layout::new(bounds, is_exported)
        })
    }

    fn sizes() -> &'static Layout {
        static LAYOUT: OnceLock<Layout> = OnceLock::new();
        LAYOUT.get_or_init(|| {
            let bounds = (0..=SIZE_POWERS).map(|power| 1 << power).collect();
            Layout::new(bounds, |bound: u64| bound.trailing_zeros().is_multiple_of(2))
        })
    }

    fn bucket(&self, value: u64) -> usize {
        let exponent = 63 - (value | 1).leading_zeros();
        let leading = if exponent < 3 { 0 } else { (value >> (exponent - 3)) & 7 };
        let mut index = usize::from(self.first[exponent as usize * 8 + leading as usize]);
        // The table leaves at most a few to go.
        while index < self.bounds.len() && value > self.bounds[index] {
            index += 1;
        }
        index
    }
}

/// Counts by bucket that many threads record into.
#[derive(Debug)]
pub struct Histogram {
    layout: &'static Layout,
    counts: Box<[AtomicU64]>,
    sum: AtomicU64,
    max: AtomicU64,
}

impl Histogram {
    /// For durations in nanoseconds.
    pub fn latencies() -> Histogram {
        Histogram::new(Layout::latencies())
    }

    /// For numbers of rows.
    pub fn sizes() -> Histogram {
        Histogram::new(Layout::sizes())
    }

    fn new(layout: &'static Layout) -> Histogram {
        let counts = (0..=layout.bounds.len()).map(|_| AtomicU64::new(0)).collect();
        Histogram { layout, counts, sum: AtomicU64::new(0), max: AtomicU64::new(0) }
    }

    /// Records a value `count` times.
    pub fn record_n(&self, value: u64, count: u64) {
        if count > 0 {
            self.add(self.layout.bucket(value), count, value.saturating_mul(count), value);
        }
    }

    /// Records each value. Neighbours in one bucket, as the latencies of a batch mostly are, cost one update.
    pub fn record_all(&self, values: impl IntoIterator<Item = u64>) {
        let (mut bucket, mut count, mut sum, mut max) = (0, 0, 0_u64, 0);
        for value in values {
            let own = self.layout.bucket(value);
            if own != bucket && count > 0 {
                self.add(bucket, count, sum, max);
                (count, sum, max) = (0, 0, 0);
            }
            bucket = own;
            count += 1;
            sum = sum.saturating_add(value);
            max = max.max(value);
        }
        if count > 0 {
            self.add(bucket, count, sum, max);
        }
    }

    fn add(&self, bucket: usize, count: u64, sum: u64, max: u64) {
        self.counts[bucket].fetch_add(count, Relaxed);
        self.sum.fetch_add(sum, Relaxed);
        if max > self.max.load(Relaxed) {
            self.max.fetch_max(max, Relaxed);
        }
    }

    /// The counts now. Records in progress may be in them or not.
    pub fn read(&self) -> Distribution {
        Distribution {
            layout: self.layout,
            counts: self.counts.iter().map(|count| count.load(Relaxed)).collect(),
            sum: self.sum.load(Relaxed),
            max: self.max.load(Relaxed),
        }
    }
}

/// The counts of a histogram at one moment, or between two.
#[derive(Clone, Debug)]
pub struct Distribution {
    layout: &'static Layout,
    counts: Vec<u64>,
    sum: u64,
    max: u64,
}

impl Distribution {
    /// An empty one, for durations.
    pub fn of_latencies() -> Distribution {
        Histogram::latencies().read()
    }

    /// How many values.
    pub fn count(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// The sum of the values; of durations, in nanoseconds.
    pub fn sum(&self) -> u64 {
        self.sum
    }

    /// The greatest value. Of a difference it is exact if the greatest value of all is in it, otherwise the upper bound of
    /// the greatest value's bucket.
    pub fn max_ns(&self) -> u64 {
        self.max
    }

    /// What was recorded after `earlier`, which is a reading of the same histogram.
    pub fn since(&self, earlier: &Distribution) -> Distribution {
        let counts: Vec<u64> =
            self.counts.iter().zip(&earlier.counts).map(|(now, then)| now.saturating_sub(*then)).collect();
        let max = if self.max > earlier.max {
            self.max
        } else {
            let last = counts.iter().rposition(|count| *count > 0);
            last.map_or(0, |bucket| self.layout.bounds.get(bucket).map_or(self.max, |bound| self.max.min(*bound)))
        };
        Distribution { layout: self.layout, counts, sum: self.sum.saturating_sub(earlier.sum), max }
    }

    /// Adds the counts of another of the same sort.
    pub fn merge(&mut self, other: &Distribution) {
        self.counts.iter_mut().zip(&other.counts).for_each(|(count, more)| *count += more);
        self.sum = self.sum.saturating_add(other.sum);
        self.max = self.max.max(other.max);
    }

    /// The value below which the part `quantile` (0 to 1) of the values lies, interpolated within its bucket. Nothing if
    /// there are no values.
    pub fn quantile(&self, quantile: f64) -> Option<u64> {
        let count = self.count();
        if count == 0 {
            return None;
        }
        let rank = (quantile.clamp(0.0, 1.0) * count as f64).max(1.0);
        let mut below = 0;
        for (bucket, in_bucket) in self.counts.iter().enumerate() {
            if *in_bucket > 0 && (below + in_bucket) as f64 >= rank {
                let Some(bound) = self.layout.bounds.get(bucket) else { return Some(self.max) };
                let lower = if bucket == 0 { 0 } else { self.layout.bounds[bucket - 1] };
                let upper = (*bound).min(self.max).max(lower);
                let share = (rank - below as f64) / *in_bucket as f64;
                return Some(lower + ((upper - lower) as f64 * share) as u64);
            }
            below += in_bucket;
        }
        Some(self.max)
    }

    /// For each exported bound, ascending, how many values are at most that.
    pub fn cumulative(&self) -> Vec<(u64, u64)> {
        let mut pairs = Vec::with_capacity(self.layout.exported.len());
        let (mut next, mut sum) = (0, 0);
        for index in &self.layout.exported {
            sum += self.counts[next..=*index].iter().sum::<u64>();
            next = index + 1;
            pairs.push((self.layout.bounds[*index], sum));
        }
        pairs
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::thread;

    #[test]
    fn every_value_is_in_the_bucket_whose_bounds_enclose_it() {
        for layout in [Layout::latencies(), Layout::sizes()] {
            assert!(layout.bounds.is_sorted() && layout.bounds.len() < 255);
            let around = layout.bounds.iter().flat_map(|bound| [bound - 1, *bound, bound + 1]);
            for value in around.chain([0, 1, 7, 8, u64::MAX, u64::MAX / 2]) {
                let bucket = layout.bucket(value);
                assert_eq!(bucket, layout.bounds.partition_point(|bound| *bound < value), "{value}");
            }
        }
    }

    #[test]
    fn buckets_are_narrow_and_exported_bounds_are_round() {
        let layout = Layout::latencies();
        for pair in layout.bounds.windows(2) {
            assert!((pair[1] - pair[0]) * 5 <= pair[0], "{pair:?}");
        }
        let exported: Vec<u64> = layout.exported.iter().map(|index| layout.bounds[*index]).collect();
        assert_eq!(exported[..4], [10_000, 25_000, 50_000, 100_000]);
        assert_eq!(exported[exported.len() - 2..], [50_000_000_000, 100_000_000_000]);
        assert_eq!(exported.len(), 22);
    }

    #[test]
    fn quantiles_are_a_few_percent_off_at_most() {
        let histogram = Histogram::latencies();
        // 1 us, 2 us, … 100 ms: the true quantile is the rank.
        (1..=100_000_u64).for_each(|us| histogram.record_n(us * 1_000, 1));
        let distribution = histogram.read();
        for quantile in [0.001, 0.1, 0.5, 0.9, 0.95, 0.99, 0.999, 1.0] {
            let truth = quantile * 100_000.0 * 1_000.0;
            let estimate = distribution.quantile(quantile).unwrap() as f64;
            assert!((estimate / truth - 1.0).abs() < 0.02, "{quantile}: {estimate} for {truth}");
        }
        assert_eq!(distribution.max_ns(), 100_000_000);
        assert_eq!(distribution.sum(), (1..=100_000_u64).sum::<u64>() * 1_000);
    }

    #[test]
    fn the_edges_of_quantiles() {
        assert_eq!(Distribution::of_latencies().quantile(0.5), None);
        let histogram = Histogram::latencies();
        histogram.record_n(5, 0);
        assert_eq!(histogram.read().count(), 0);
        histogram.record_n(1_000_000_000_000, 1); // beyond the last bound
        assert_eq!(histogram.read().quantile(0.5), Some(1_000_000_000_000));
        histogram.record_n(0, 9);
        assert!(histogram.read().quantile(0.5).unwrap() <= 1_000);
        let one = Histogram::latencies();
        one.record_n(123_456_789, 1);
        assert_eq!(one.read().quantile(0.99), Some(123_456_789));
    }

    #[test]
    fn a_window_is_the_difference_of_two_readings() {
        let histogram = Histogram::latencies();
        histogram.record_n(50_000_000, 10);
        let before = histogram.read();
        histogram.record_n(1_000_000, 5);
        let window = histogram.read().since(&before);
        assert_eq!((window.count(), window.sum()), (5, 5_000_000));
        assert!(window.max_ns() <= 1_100_000 && window.quantile(1.0).unwrap() <= 1_100_000, "{}", window.max_ns());
        histogram.record_n(70_000_000, 1);
        assert_eq!(histogram.read().since(&before).max_ns(), 70_000_000);
        let same = histogram.read();
        assert_eq!((same.since(&same).count(), same.since(&same).max_ns()), (0, 0));
    }

    #[test]
    fn recording_all_equals_recording_each() {
        let values: Vec<u64> = (0..1_000_u64).map(|number| (number * number * 7919) % 10_000_000).collect();
        let (all, each) = (Histogram::latencies(), Histogram::latencies());
        all.record_all(values.iter().copied());
        values.iter().for_each(|value| each.record_n(*value, 1));
        let (all, each) = (all.read(), each.read());
        assert_eq!((all.counts, all.sum, all.max), (each.counts, each.sum, each.max));
    }

    #[test]
    fn exported_counts_are_exact_at_their_bounds() {
        let sizes = Histogram::sizes();
        sizes.record_all([1, 2, 3, 4, 5, 16, 17, 5_000_000]);
        let cumulative = sizes.read().cumulative();
        assert_eq!(cumulative[..4], [(1, 1), (4, 4), (16, 6), (64, 7)]);
        assert_eq!(cumulative.last(), Some(&(1 << 20, 7)));
        assert_eq!(sizes.read().count(), 8);
    }

    #[test]
    fn nothing_is_lost_between_threads() {
        let histogram = Arc::new(Histogram::latencies());
        let record = |seed: u64| {
            let histogram = Arc::clone(&histogram);
            move || (0..100_000_u64).for_each(|number| histogram.record_n((number * seed) % 5_000_000, 2))
        };
        let threads: Vec<_> = (1..=4).map(|seed| thread::spawn(record(seed))).collect();
        let mut last = 0;
        while threads.iter().any(|thread| !thread.is_finished()) {
            let count = histogram.read().count();
            assert!(count >= last);
            last = count;
        }
        threads.into_iter().for_each(|thread| thread.join().unwrap());
        assert_eq!(histogram.read().count(), 800_000);
        assert_eq!(histogram.read().max_ns(), 4 * 99_999);
    }
}
