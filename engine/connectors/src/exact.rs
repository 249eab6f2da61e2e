//! What sinks that deliver exactly once share: who writes, and whether the system and the journal know of the same batches.

use crate::Exact;
use std::hash::{BuildHasher, Hasher};
use std::sync::atomic::{AtomicU64, Ordering};

impl Exact {
    /// The sequence of the last batch of which the journal knows that it was delivered, 0 for none.
    pub fn delivered_sequence(&self) -> u64 {
        self.delivered.as_ref().map_or(0, |delivered| delivered.sequence)
    }
}

/// A name that no other writer has, in this process or another.
pub(crate) fn writer_name() -> String {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    // The keys of a hasher are random.
    let chance = std::hash::RandomState::new().build_hasher().finish();
    format!("{chance:016x}-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed))
}

/// Compares the last batch that a system has (0 or none: it has none) with the journal. `place` is where its marker stands.
/// The sentence of an error is for the user, who has to choose.
pub(crate) fn agree(sink: &str, place: &str, exact: &Exact, found: Option<u64>) -> Result<(), String> {
    let (found, delivered) = (found.unwrap_or(0), exact.delivered_sequence());
    if found > exact.last {
        let known = match exact.last {
            0 => "none".to_owned(),
            last => format!("{last} as the last"),
        };
        return Err(format!(
            "`{sink}`: {place} has batch {found} of this sink, and this state knows of {known}, so the batch was written \
             from another state or a newer copy of this one; start with the state that wrote it, or once with \
             `--reset-sink {sink}`: then what this state says counts, and rows may come twice"
        ));
    }
    if found < delivered {
        let has = match found {
            0 => "knows of no batch of this sink".to_owned(),
            found => format!("has batch {found} of this sink as the last"),
        };
        return Err(format!(
            "`{sink}`: {place} {has}, and this state says that batch {delivered} was delivered, so something was deleted \
             or an older copy was put back; put back what is missing, or start once with `--reset-sink {sink}`: then it goes \
             on behind batch {delivered}, and what is missing stays so"
        ));
    }
    Ok(())
}

/// The sentence of a writer that finds another one in its place.
pub(crate) fn taken_over(sink: &str, place: &str) -> String {
    format!("`{sink}`: another engine has taken over: {place} says that it writes to this sink now; only one may run")
}

#[cfg(test)]
pub(crate) mod testing;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Delivered;

    #[test]
    fn the_system_and_the_journal_know_of_the_same_batches_or_it_stops() {
        let exact = |delivered: Option<u64>, last| Exact {
            delivered: delivered.map(|sequence| Delivered { sequence, note: String::new() }),
            last,
            ..Exact::default()
        };
        for (delivered, last, found, good) in [
            (None, 0, None, true),
            (None, 0, Some(0), true),
            (None, 0, Some(1), false),
            (None, 3, Some(3), true),
            (None, 3, Some(4), false),
            (Some(0), 3, None, true),
            (Some(2), 3, Some(2), true),
            (Some(2), 3, Some(3), true),
            (Some(2), 3, Some(1), false),
            (Some(2), 3, None, false),
            (Some(2), 3, Some(4), false),
        ] {
            let agreed = agree("out", "the table", &exact(delivered, last), found);
            assert_eq!(agreed.is_ok(), good, "{delivered:?} {last} {found:?} {agreed:?}");
            assert!(agreed.err().is_none_or(|text| text.contains("`--reset-sink out`")));
        }
        assert_ne!(writer_name(), writer_name());
    }
}
