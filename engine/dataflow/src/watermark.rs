//! Event time (architecture, decision 4): what each source states at an epoch's close, and how all workers come to the same
//! watermarks.
//!
//! ```text
//! worker 0  partition 0 ─ greatest event time less max_delay ┐
//!           partition 3 ─ idle: left out                     ├─ statement at the close of epoch e ─┐ broadcast
//! worker 1  partition 1 ─ no row yet: holds                  ┘                                     ├──▶ every worker's
//!           ...                                                                                    ┘    [`Timeline`]
//! a step's watermark in e:  the least of the sources that it stands on, each less what steps between may still put out
//! ```
//!
//! A watermark `W` says that no row with an event time before `W` is expected any more. It never goes back. A source whose
//! partitions are all idle goes on with the clock, from where the farthest of them stood, so that the last window closes.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// How a source tells its watermark.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TimePolicy {
    /// How far behind the greatest event time seen a row may come, nanoseconds.
    pub max_delay_ns: i64,
    /// How long a partition may be silent at its end before it is left out, nanoseconds.
    pub idle_after_ns: u64,
}

/// Where a source, or a worker's share of it, stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Standing {
    /// No partitions here.
    Absent,
    /// Rows are due whose times are not known yet: nothing may close.
    Unknown,
    /// Rows come, none before this time (nanoseconds since 1970 UTC) any more.
    Active(i64),
    /// Nothing has come for a while. The time it has reached, if anything ever came.
    Idle(Option<i64>),
    /// Nothing will ever come again.
    Ended,
}

impl Standing {
    /// Of several together: the least of the active ones; without any, the farthest of the idle ones.
    pub fn of_all(all: impl IntoIterator<Item = Standing>) -> Standing {
        all.into_iter().fold(Standing::Absent, |one, other| match (one, other) {
            (Standing::Absent, other) => other,
            (one, Standing::Absent) => one,
            (Standing::Unknown, _) | (_, Standing::Unknown) => Standing::Unknown,
            (Standing::Active(a), Standing::Active(b)) => Standing::Active(a.min(b)),
            (Standing::Active(a), _) | (_, Standing::Active(a)) => Standing::Active(a),
            (Standing::Idle(a), Standing::Idle(b)) => Standing::Idle(a.max(b)),
            (Standing::Idle(a), Standing::Ended) | (Standing::Ended, Standing::Idle(a)) => Standing::Idle(a),
            (Standing::Ended, Standing::Ended) => Standing::Ended,
        })
    }

    /// The watermark, nanoseconds since 1970 UTC; `None` where nothing is known.
    pub fn watermark_ns(self) -> Option<i64> {
        match self {
            Standing::Absent | Standing::Unknown => None,
            Standing::Active(at) => Some(at),
            Standing::Idle(at) => at,
            Standing::Ended => Some(i64::MAX),
        }
    }

    /// The same, for a stream on which rows come up to `hold_ns` behind this.
    fn held(self, hold_ns: i64) -> Standing {
        match self {
            Standing::Active(at) => Standing::Active(at.saturating_sub(hold_ns)),
            Standing::Idle(at) => Standing::Idle(at.map(|at| at.saturating_sub(hold_ns))),
            other => other,
        }
    }
}

/// The event times of a worker's share of a source.
#[derive(Debug)]
pub struct SourceTime {
    policy: TimePolicy,
    partitions: BTreeMap<u32, PartitionTime>,
}

#[derive(Clone, Copy, Debug)]
struct PartitionTime {
    watermark_ns: Option<i64>,
    /// Since when nothing came, monotonic nanoseconds.
    quiet_since_ns: u64,
    /// It was said to be idle then, monotonic nanoseconds.
    silenced_ns: Option<u64>,
}

impl SourceTime {
    /// Nothing seen yet.
    pub fn new(policy: TimePolicy) -> Self {
        SourceTime { policy, partitions: BTreeMap::new() }
    }

    /// These are the partitions now. A new one starts where the others stand.
    pub fn assigned(&mut self, partitions: impl Iterator<Item = u32>, now_ns: u64) {
        let watermark_ns = self.partitions.values().filter_map(|partition| partition.watermark_ns).min();
        for partition in partitions {
            let new = PartitionTime { watermark_ns, quiet_since_ns: now_ns, silenced_ns: None };
            self.partitions.entry(partition).or_insert(new);
        }
    }

    /// Puts a partition back to where a former run had brought it. One that had no row then still holds back the others: it is not
    /// new.
    pub fn restore(&mut self, partition: u32, watermark_ns: Option<i64>, now_ns: u64) {
        let at = PartitionTime { watermark_ns, quiet_since_ns: now_ns, silenced_ns: None };
        self.partitions.insert(partition, at);
    }

    /// Where its partitions stand, those of which rows came.
    pub fn reached_ns(&self) -> BTreeMap<u32, i64> {
        let of = |(partition, time): (&u32, &PartitionTime)| Some((*partition, time.watermark_ns?));
        self.partitions.iter().filter_map(of).collect()
    }

    /// Rows of a partition came, the latest with this event time.
    pub fn saw(&mut self, partition: u32, greatest_ns: i64, now_ns: u64) {
        let watermark_ns = greatest_ns.saturating_sub(self.policy.max_delay_ns);
        let new = PartitionTime { watermark_ns: None, quiet_since_ns: now_ns, silenced_ns: None };
        let known = self.partitions.entry(partition).or_insert(new);
        known.watermark_ns = known.watermark_ns.max(Some(watermark_ns));
        known.quiet_since_ns = now_ns;
        known.silenced_ns = None;
    }

    /// All partitions are idle from now on, until a row comes: what a test says.
    pub fn silence(&mut self, now_ns: u64) {
        for partition in self.partitions.values_mut() {
            partition.silenced_ns.get_or_insert(now_ns);
        }
    }

    /// Asks of each partition that seems idle whether it is at its end, by what its system says. One that was not read, or
    /// can't be reached, or has more, only seems so.
    pub fn look(&mut self, now_ns: u64, at_end: impl Fn(u32) -> bool) {
        for (number, partition) in &mut self.partitions {
            let quiet_ns = now_ns.saturating_sub(partition.quiet_since_ns);
            if quiet_ns >= self.policy.idle_after_ns && !at_end(*number) {
                partition.quiet_since_ns = now_ns;
            }
        }
    }

    /// Where it stands. `now_ns` is monotonic.
    pub fn standing(&self, now_ns: u64) -> Standing {
        Standing::of_all(self.partitions.values().map(|partition| {
            let quiet_ns = now_ns.saturating_sub(partition.silenced_ns.unwrap_or(partition.quiet_since_ns));
            if partition.silenced_ns.is_some() || quiet_ns >= self.policy.idle_after_ns {
                // By the time elapsed since, never to `now`: the rows may be of long ago.
                let since_ns = i64::try_from(quiet_ns).unwrap_or(i64::MAX);
                return Standing::Idle(partition.watermark_ns.map(|at| at.saturating_add(since_ns)));
            }
            partition.watermark_ns.map_or(Standing::Unknown, Standing::Active)
        }))
    }

    /// When the next partition becomes idle unless a row comes, monotonic nanoseconds.
    pub fn idle_at_ns(&self, now_ns: u64) -> Option<u64> {
        let idle_at = |partition: &PartitionTime| partition.quiet_since_ns.saturating_add(self.policy.idle_after_ns);
        self.partitions.values().map(idle_at).filter(|at| *at > now_ns).min()
    }
}

/// What a worker states of a source at the close of an epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Statement {
    /// Who states it.
    pub worker: u32,
    /// The number of the source.
    pub source: u16,
    /// Where the worker's share of it stands.
    pub standing: Standing,
    /// The wall clock of the worker, nanoseconds since 1970 UTC.
    pub clock_ns: i64,
}

/// Where every source stands, from the statements of all workers; the same on each worker at each epoch.
#[derive(Clone, Debug)]
pub struct Timeline {
    /// By source, then by worker.
    stated: Vec<Vec<Standing>>,
    clock_ns: i64,
}

impl Timeline {
    /// Nothing stated yet: every worker may have rows.
    pub fn new(sources: usize, workers: usize) -> Self {
        Timeline { stated: vec![vec![Standing::Unknown; workers]; sources], clock_ns: i64::MIN }
    }

    /// Takes a statement.
    pub fn hear(&mut self, statement: Statement) {
        let source = self.stated.get_mut(usize::from(statement.source));
        if let Some(known) = source.and_then(|workers| workers.get_mut(statement.worker as usize)) {
            *known = statement.standing;
        }
        self.clock_ns = self.clock_ns.max(statement.clock_ns);
    }

    /// Where a source stands.
    pub fn standing(&self, source: usize) -> Standing {
        Standing::of_all(self.stated[source].iter().copied())
    }

    /// The latest clock that any worker has stated, nanoseconds since 1970 UTC.
    pub fn clock_ns(&self) -> i64 {
        self.clock_ns
    }
}

/// The sources that a stream stands on, each with how far behind its watermark rows still come, nanoseconds.
pub type TimeSources = Vec<(u16, i64)>;

/// The event time of an input of a step.
#[derive(Clone, Debug)]
pub struct InputTime {
    /// What it stands on.
    pub sources: TimeSources,
    /// How far behind the latest row another may come, nanoseconds.
    pub max_delay_ns: i64,
}

/// The watermark of each input of a step.
///
/// An input whose sources are all silent does not hold back what waits for it: it goes on with the other inputs, behind them
/// by what its own rows may be late. So what a step puts out is never behind the least of its inputs by more than that.
pub fn watermarks_ns(timeline: &Timeline, inputs: &[InputTime]) -> Vec<Option<i64>> {
    let held = |(source, hold_ns): &(u16, i64)| timeline.standing(usize::from(*source)).held(*hold_ns);
    let standings: Vec<Standing> =
        inputs.iter().map(|input| Standing::of_all(input.sources.iter().map(held))).collect();
    let together = Standing::of_all(standings.iter().copied());
    let own = inputs.iter().zip(standings);
    own.map(|(input, standing)| match standing {
        Standing::Idle(_) | Standing::Absent => {
            standing.watermark_ns().max(together.held(input.max_delay_ns).watermark_ns())
        }
        standing => standing.watermark_ns(),
    })
    .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use Standing::{Absent, Active, Ended, Idle, Unknown};

    #[test]
    fn the_least_of_the_active_counts_and_without_any_the_farthest_of_the_idle() {
        let of = |all: &[Standing]| Standing::of_all(all.iter().copied());
        assert_eq!(of(&[]), Absent);
        assert_eq!(of(&[Active(5), Absent, Active(3), Idle(Some(1)), Idle(None), Ended]), Active(3));
        assert_eq!(of(&[Active(5), Unknown]), Unknown);
        assert_eq!(of(&[Idle(Some(4)), Idle(Some(9)), Idle(None), Ended]), Idle(Some(9)));
        assert_eq!(of(&[Idle(None), Ended]), Idle(None));
        assert_eq!(of(&[Ended, Absent]), Ended);
        assert_eq!([Unknown, Idle(None), Ended].map(Standing::watermark_ns), [None, None, Some(i64::MAX)]);
    }

    #[test]
    fn a_silent_partition_is_left_out_and_when_all_are_silent_time_goes_on() {
        let mut time = SourceTime::new(TimePolicy { max_delay_ns: 10, idle_after_ns: 100 });
        assert_eq!(time.standing(0), Absent);
        time.assigned([0, 1].into_iter(), 0);
        assert_eq!(time.standing(0), Unknown);
        time.saw(0, 1_000, 5);
        assert_eq!(time.standing(5), Unknown);
        assert_eq!(time.idle_at_ns(5), Some(100));
        // Partition 1 has never had a row: it does not hold back the other.
        assert_eq!(time.standing(100), Active(990));
        time.saw(1, 700, 101);
        assert_eq!(time.standing(101), Active(690));
        time.saw(1, 600, 102);
        assert_eq!(time.standing(102), Active(690));
        // The first is silent, then both are.
        assert_eq!(time.standing(150), Active(690));
        assert_eq!(time.standing(202), Idle(Some(990 + 197)));
        // It was not read: then it is not silent.
        time.look(202, |partition| partition == 0);
        assert_eq!(time.standing(202), Active(690));
        assert_eq!(time.standing(302), Idle(Some(990 + 297)));
        // A new partition starts where the others stand.
        time.assigned([2].into_iter(), 302);
        assert_eq!(time.standing(302), Active(690));
        // One that a former run knew, and that had no row, does not.
        time.restore(3, None, 302);
        time.restore(4, Some(500), 302);
        time.assigned([3, 4].into_iter(), 302);
        assert_eq!(time.standing(302), Unknown);
        time.saw(3, 1_000, 303);
        assert_eq!(time.standing(303), Active(500));
    }

    #[test]
    fn a_stream_holds_for_what_steps_before_it_may_still_put_out() {
        let mut timeline = Timeline::new(2, 2);
        let stated = |worker, source, standing| Statement { worker, source, standing, clock_ns: 7 };
        let watermark_ns = |timeline: &Timeline, sources: &TimeSources| {
            watermarks_ns(timeline, &[InputTime { sources: sources.clone(), max_delay_ns: 5 }])[0]
        };
        assert_eq!(watermark_ns(&timeline, &vec![(0, 0)]), None);
        [stated(0, 0, Active(100)), stated(1, 0, Absent)].into_iter().for_each(|said| timeline.hear(said));
        assert_eq!(watermark_ns(&timeline, &vec![(0, 0)]), Some(100));
        assert_eq!(watermark_ns(&timeline, &vec![(0, 30), (1, 0)]), None);
        [stated(0, 1, Ended), stated(1, 1, Ended)].into_iter().for_each(|said| timeline.hear(said));
        assert_eq!(watermark_ns(&timeline, &vec![(0, 30), (1, 5)]), Some(70));
        assert_eq!(watermark_ns(&timeline, &vec![(1, 5)]), Some(i64::MAX));
        assert_eq!(timeline.clock_ns(), 7);
    }

    #[test]
    fn a_silent_input_goes_on_with_the_others() {
        let mut timeline = Timeline::new(3, 1);
        let input = |source, max_delay_ns| InputTime { sources: vec![(source, 0)], max_delay_ns };
        let inputs = [input(0, 3), input(1, 20), InputTime { sources: vec![(1, 7), (2, 0)], max_delay_ns: 0 }];
        let mut check = |standings: [Standing; 3], expected: [Option<i64>; 3]| {
            for (source, standing) in standings.into_iter().enumerate() {
                timeline.hear(Statement { worker: 0, source: source as u16, standing, clock_ns: 0 });
            }
            assert_eq!(watermarks_ns(&timeline, &inputs), expected, "{standings:?}");
        };
        check([Active(100), Active(200), Active(150)], [Some(100), Some(200), Some(150)]);
        // Each has its own watermark while any of its sources is active; a silent one is behind the others by its delay.
        check([Active(100), Idle(Some(10)), Active(150)], [Some(100), Some(80), Some(150)]);
        check([Active(100), Idle(Some(90)), Idle(None)], [Some(100), Some(90), Some(100)]);
        check([Active(100), Idle(None), Idle(None)], [Some(100), Some(80), Some(100)]);
        // All silent: time goes on with the clock, from the farthest.
        check([Idle(Some(50)), Idle(Some(90)), Idle(None)], [Some(87), Some(90), Some(90)]);
        // What may have rows of times that are not known holds back what is silent.
        check([Unknown, Idle(Some(90)), Ended], [None, Some(90), Some(83)]);
        check([Ended, Idle(Some(90)), Ended], [Some(i64::MAX), Some(90), Some(90)]);
        check([Ended, Ended, Ended], [Some(i64::MAX); 3]);
    }
}
