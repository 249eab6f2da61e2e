//! The rows of the source, made by the seed.

use super::random::Random;

pub(super) const PARTITIONS: u32 = 2;
/// How far behind the latest of its partition a row may be, seconds; the pipeline says 5.
const DISORDER_S: u64 = 4;

/// A row of the source.
#[derive(Clone, Debug)]
pub(super) struct Given {
    pub(super) id: i64,
    /// A key that only rows of this partition have.
    pub(super) key: i64,
    /// A key that rows of all partitions have.
    pub(super) group: i64,
    pub(super) value: i64,
    /// Seconds since 1970.
    pub(super) at_s: i64,
}

impl Given {
    /// Whether the table refuses it.
    pub(super) fn is_refused(id: i64) -> bool {
        id % 13 == 5
    }
}

/// The rows of each partition.
pub(super) fn make(random: &mut Random) -> Vec<Vec<Given>> {
    (0..PARTITIONS)
        .map(|partition| {
            let rows = 20 + random.below(60);
            let mut now_s = 100;
            (0..rows)
                .map(|at| {
                    now_s += random.below(3);
                    if random.once_in(12) {
                        now_s += random.below(40);
                    }
                    Given {
                        id: (i64::from(partition) + 1) * 1_000 + at as i64,
                        key: i64::from(partition) * 10 + random.below(3) as i64,
                        group: random.below(3) as i64,
                        value: random.below(1_000) as i64 - 300,
                        at_s: (now_s - random.below(DISORDER_S + 1)) as i64,
                    }
                })
                .collect()
        })
        .collect()
}
