//! What happens in a test, as a run sees it: rows by source, cuts, and where each source stands in event time.

use arrow::array::RecordBatch;
use engine_base::{Epoch, SourceId};
use engine_dataflow::rows::origin;
use engine_dataflow::watermark::{SourceTime, Standing, Statement, TimePolicy};
use engine_dataflow::{Positions, RecordedCuts, Rows, Times};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use std::collections::{BTreeMap, HashMap};

/// The monotonic clock at the beginning of a test, nanoseconds: silence may be of before.
const START_NS: u64 = 1 << 62;

/// What happens, in order.
#[derive(Debug, Default)]
pub(crate) struct Script {
    /// The wall clock at the beginning, nanoseconds since 1970 UTC.
    pub(crate) clock_ns: i64,
    /// How each source that some step asks for tells its watermark.
    pub(crate) times: BTreeMap<SourceId, TimePolicy>,
    pub(crate) acts: Vec<Act>,
}

/// One thing that happens.
#[derive(Debug)]
pub(crate) enum Act {
    /// Rows come in, with the greatest of their event times.
    Give(Vec<(SourceId, RecordBatch, Option<i64>)>),
    /// No row from before is expected any more, nanoseconds since 1970 UTC.
    Watermark(Vec<(SourceId, i64)>),
    /// The clock goes on, nanoseconds.
    Advance(i64),
    /// Sources fall silent.
    Idle(Vec<SourceId>),
    /// Sources end.
    End(Vec<SourceId>),
    /// Something is looked at.
    Expect,
}

/// A script as a dataflow follows it.
pub(crate) struct Timetable {
    pub(crate) given: HashMap<SourceId, Vec<Rows>>,
    pub(crate) cuts: RecordedCuts,
    /// For each act, the first epoch after it.
    pub(crate) after: Vec<u64>,
}

impl Script {
    /// The timetable. With a seed, rows are cut into batches and epochs at random places; what comes in at once still
    /// counts before the watermark moves.
    pub(crate) fn timetable(&self, seed: Option<u64>) -> Timetable {
        let mut random = seed.map(SmallRng::seed_from_u64);
        let mut table = Timetable { given: HashMap::new(), cuts: RecordedCuts::default(), after: Vec::new() };
        let mut offsets: BTreeMap<SourceId, u64> = BTreeMap::new();
        let mut sources: BTreeMap<SourceId, (SourceTime, bool, Option<Standing>)> = BTreeMap::new();
        for (source, policy) in &self.times {
            let mut time = SourceTime::new(*policy);
            time.assigned(std::iter::once(0), START_NS);
            sources.insert(*source, (time, false, None));
        }
        let (mut clock_ns, mut now_ns, mut epoch) = (self.clock_ns, START_NS, 0u64);
        for act in &self.acts {
            match act {
                Act::Give(given) => {
                    let epochs = random.as_mut().map_or(1, |random| random.random_range(1..=4u64));
                    let mut marks: BTreeMap<u64, BTreeMap<(SourceId, u32), u64>> = BTreeMap::new();
                    for (source, batch, greatest_ns) in given {
                        let mut at_epoch = 0;
                        let mut from = 0;
                        while from < batch.num_rows() {
                            let left = batch.num_rows() - from;
                            let rows = random.as_mut().map_or(left, |random| random.random_range(1..=left));
                            if let Some(random) = &mut random {
                                at_epoch = random.random_range(at_epoch..epochs);
                            }
                            let next = offsets.entry(*source).or_default();
                            table.given.entry(*source).or_default().push(Rows {
                                batch: batch.slice(from, rows),
                                positions: Positions::Range { origin: origin(*source, 0), first: *next },
                                ingest_ns: Times::One(clock_ns),
                                born_ns: Times::One(clock_ns),
                                event_ns: None,
                                removes: None,
                            });
                            *next += rows as u64;
                            from += rows;
                            marks.entry(at_epoch).or_default().insert((*source, 0), *next);
                        }
                        if let (Some((time, ..)), Some(greatest_ns)) = (sources.get_mut(source), greatest_ns) {
                            time.saw(0, *greatest_ns, now_ns);
                        }
                    }
                    for at in 0..epochs {
                        let marks = marks.remove(&at).unwrap_or_default();
                        table.cuts.epochs.push((Epoch(epoch + at), marks));
                    }
                    epoch += epochs;
                }
                Act::Expect => {
                    table.after.push(epoch);
                    continue;
                }
                Act::Watermark(_) | Act::Advance(_) | Act::Idle(_) | Act::End(_) => {
                    table.cuts.epochs.push((Epoch(epoch), BTreeMap::new()));
                    epoch += 1;
                }
            }
            match act {
                Act::Watermark(times) => {
                    for (source, at_ns) in times {
                        if let (Some((time, ..)), Some(policy)) = (sources.get_mut(source), self.times.get(source)) {
                            time.saw(0, at_ns.saturating_add(policy.max_delay_ns), now_ns);
                        }
                    }
                }
                Act::Advance(ns) => {
                    clock_ns = clock_ns.saturating_add(*ns);
                    now_ns = now_ns.saturating_add(ns.unsigned_abs());
                }
                Act::Idle(names) => {
                    for source in names {
                        sources.entry(*source).and_modify(|(time, ..)| time.silence(now_ns));
                    }
                }
                Act::End(names) => {
                    for source in names {
                        sources.entry(*source).and_modify(|(_, ended, _)| *ended = true);
                    }
                }
                Act::Give(_) | Act::Expect => {}
            }
            let mut statements = Vec::new();
            for (source, (time, ended, stated)) in &mut sources {
                let standing = if *ended { Standing::Ended } else { time.standing(now_ns) };
                // The first also tells the clock.
                if *stated != Some(standing) || statements.is_empty() {
                    *stated = Some(standing);
                    statements.push(Statement { worker: 0, source: source.0, standing, clock_ns });
                }
            }
            if !statements.is_empty() {
                table.cuts.times.insert(epoch - 1, statements);
            }
            table.after.push(epoch);
        }
        table
    }
}
