//! Freeing of keys that have been silent for so long that nothing can come which would see their rows.
//!
//! Each key stands in one bucket, by when it could be freed when it was put there. Once the watermark reaches a bucket, each of its
//! keys is looked at: it is freed, or was heard of since and goes to a later one. So a row costs nothing here, and a key that
//! is always busy is looked at once in a while.

use super::plan::Reach;
use super::tree::KeyRows;
use engine_state::{SlotId, SlotStore};
use std::collections::BTreeMap;

/// How many buckets lie in the time for which a key may be silent.
const BUCKETS: i64 = 32;

/// The keys of a step, by when they may be freed.
pub(super) struct Silent {
    silent_ns: i64,
    /// How far behind the watermark the latest row of a key must be, beside `silent_ns`.
    behind_ns: i64,
    width_ns: i64,
    /// Each by the end of its bucket, nanoseconds of event time.
    buckets: BTreeMap<i64, Vec<SlotId>>,
}

impl Silent {
    /// The index of no keys yet; `None` where keys are kept for ever. `behind_ns` is how far behind the watermark a row may be
    /// that is not late.
    pub(super) fn new(reach: &Reach, behind_ns: i64) -> Option<Self> {
        let silent_ns = reach.silent_ns?;
        Some(Silent { silent_ns, behind_ns, width_ns: silent_ns / BUCKETS + 1, buckets: BTreeMap::new() })
    }

    /// Notes a key that is new, with the event time of a row of it, nanoseconds.
    pub(super) fn add(&mut self, id: SlotId, time_ns: i64) {
        let due_ns = time_ns.saturating_add(self.silent_ns);
        let end_ns = due_ns.saturating_sub(due_ns.rem_euclid(self.width_ns)).saturating_add(self.width_ns);
        self.buckets.entry(end_ns).or_default().push(id);
    }

    /// Frees what the watermark has left behind.
    pub(super) fn free(&mut self, watermark_ns: i64, store: &mut dyn SlotStore<KeyRows>) {
        let bound_ns = watermark_ns.saturating_sub(self.behind_ns);
        while self.buckets.first_key_value().is_some_and(|(end_ns, _)| *end_ns <= bound_ns) {
            let Some((_, ids)) = self.buckets.pop_first() else { break };
            for id in ids {
                let Some(key) = store.get(id) else { continue };
                let latest_ns = key.pending().next_back().map(|(time_ns, _)| *time_ns).max(key.greatest_ns());
                match latest_ns.filter(|latest_ns| latest_ns.saturating_add(self.silent_ns) > bound_ns) {
                    Some(latest_ns) => self.add(id, latest_ns),
                    None => store.remove(id),
                }
            }
        }
    }
}
