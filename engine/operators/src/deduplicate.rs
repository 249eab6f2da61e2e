//! `deduplicate`: of the rows of a key that are close in event time, the first.
//!
//! A row is a duplicate if a row of its key that was kept is less than `within` away, before it or after it. What was kept is
//! forgotten once the watermark is `within` beyond it: a row that could meet it would be late, and goes to `late`.

use crate::check::{self, OneOrMany};
use crate::codec::{Bytes, put};
use crate::keyed::{Keys, Waiting, kept_by_key};
use crate::render::Projection;
use crate::{OperatorEntry, Render, RenderCx, planned};
use arrow::array::BooleanArray;
use engine_base::codes::rolling as codes;
use engine_dataflow::{EpochStep, Moment, Rows, StepOutput, StepState};
use engine_plan::kinds::{InputKeys, StateLayout};
use engine_plan::{Columns, Cx, OperatorKind, Output, Planned, PlannedOperator, StreamType, hidden};
use engine_spec::TimeSpan;
use engine_state::{SlotId, SlotState, SlotStore};
use schemars::JsonSchema;
use serde::Deserialize;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

static KIND: OperatorKind = OperatorKind {
    name: "deduplicate",
    summary: "Keeps the first row of each key within a span of event time; the others can be read as `NAME.duplicates`.",
    config_schema: |generator| generator.subschema_for::<Config>(),
    inputs: InputKeys::One,
    plan,
};

/// The registry line of `deduplicate`.
pub(crate) fn entry() -> OperatorEntry {
    OperatorEntry {
        kind: &KIND,
        render: Render::Epochs(|plan, cx| Ok(Box::new(Deduplicate::new(planned(plan, "deduplicate")?, cx)?))),
    }
}

/// Keeps the first row of each key within a span of event time.
///
/// A row is dropped if a row of its key that was kept is less than `within` away in event time, before it or after it. Dropped
/// rows are the output `NAME.duplicates`; rows that come too late to tell are the output `NAME.late`.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Config {
    /// The column, or columns, in which rows are the same. Null is a value of its own.
    key: OneOrMany,
    /// How far apart in event time two rows of a key are both kept: `1h`.
    within: TimeSpan,
}

/// The planned form of `deduplicate`.
#[derive(Debug)]
pub(crate) struct DeduplicatePlan {
    key: Vec<String>,
    within_ns: i64,
}

impl Planned for DeduplicatePlan {
    fn reads(&self, wanted: &[Columns]) -> Vec<Columns> {
        let mut reads: Columns = wanted.iter().flatten().cloned().collect();
        reads.extend(self.key.iter().cloned());
        reads.insert(hidden::EVENT_TIME.to_owned());
        vec![reads]
    }

    fn state_layout(&self, _wanted: &[Columns]) -> Option<StateLayout> {
        Some(StateLayout { fixed: self.within_ns.to_string(), parts: String::new() })
    }

    fn facts(&self) -> Vec<(String, String)> {
        let within = TimeSpan(self.within_ns).to_string();
        vec![("key".to_owned(), self.key.join(", ")), ("within".to_owned(), within)]
    }
}

fn plan(cx: &mut Cx<'_>, inputs: &[StreamType]) -> Option<PlannedOperator> {
    let input = inputs.first()?;
    let output = |port: &str| Output { port: port.to_owned(), stream: input.clone() };
    let outputs = vec![output(""), output("duplicates"), output("late")];
    let Some(config) = cx.config::<Config>() else { return Some(PlannedOperator::wrong(outputs)) };
    let key = config.key.names();
    let mut sound = check::key(cx, &key, &input.schema);
    sound &= check::timed(cx, input);
    let within_ns = config.within.ns();
    if within_ns <= 0 {
        cx.error(codes::EMPTY_WINDOW, &["within"], "`within` must be longer than nothing");
        sound = false;
    }
    let (Some(_), true) = (&input.event_time, sound) else { return Some(PlannedOperator::wrong(outputs)) };
    Some(PlannedOperator {
        outputs,
        can_fail: false,
        state: Some(format!("the times of each {} within {}", key.join(", "), TimeSpan(within_ns))),
        exchange: Some(vec![key.clone()]),
        timed: true,
        planned: Arc::new(DeduplicatePlan { key, within_ns }),
    })
}

/// The times of the rows of a key that were kept, in order, nanoseconds since 1970 UTC.
#[derive(Clone, Debug, Default, PartialEq)]
struct Kept(Vec<i64>);

/// The format of the encoded state.
const FORMAT: u8 = 1;

impl SlotState for Kept {
    fn encode(&self, out: &mut Vec<u8>) {
        out.push(FORMAT);
        put(self.0.len() as u64, out);
        self.0.iter().for_each(|time| put(*time as u64, out));
    }

    fn decode(bytes: &[u8]) -> Result<Self, String> {
        let mut bytes = Bytes::of_format(bytes, FORMAT, "deduplicate")?;
        let times = (0..bytes.number()?).map(|_| Ok(bytes.number()? as i64)).collect::<Result<_, String>>()?;
        bytes.end()?;
        Ok(Kept(times))
    }

    fn heap_bytes(&self) -> usize {
        self.0.capacity() * 8
    }
}

impl Kept {
    /// Keeps a time unless one that is kept is less than `within_ns` away.
    fn take(&mut self, time_ns: i64, within_ns: i64) -> bool {
        let at = self.0.partition_point(|kept| *kept < time_ns);
        let near = |other: Option<&i64>| other.is_some_and(|other| other.abs_diff(time_ns) < within_ns.unsigned_abs());
        if near(self.0.get(at)) || near(at.checked_sub(1).and_then(|before| self.0.get(before))) {
            return false;
        }
        self.0.insert(at, time_ns);
        true
    }
}

struct Deduplicate {
    store: Box<dyn SlotStore<Kept>>,
    keys: Keys,
    within_ns: i64,
    /// Keys by a time that was kept of them.
    times: BTreeMap<i64, Vec<Box<[u8]>>>,
    /// The rows that are kept, duplicates, and late ones; `None` where nobody reads them.
    ports: [Option<Projection>; 3],
    waiting: Waiting,
}

impl Deduplicate {
    fn new(plan: &DeduplicatePlan, cx: &RenderCx<'_>) -> Result<Self, String> {
        let input = cx.inputs.first().ok_or("deduplicate without an input")?;
        let port = |at: usize| match (cx.wanted.get(at), cx.read.get(at)) {
            (Some(wanted), Some(true)) => Some(Projection::new(input, wanted, &BTreeSet::new())),
            _ => None,
        };
        Ok(Deduplicate {
            store: cx.store(),
            keys: Keys::new(&plan.key, input)?,
            within_ns: plan.within_ns,
            times: BTreeMap::new(),
            ports: [port(0), port(1), port(2)],
            waiting: Waiting::new(cx),
        })
    }

    fn batch(&mut self, rows: &Rows, late_ns: Option<i64>, out: &mut StepOutput) {
        let keys = self.keys.encode(rows);
        // The port of each row.
        let mut ports = vec![0u8; rows.num_rows()];
        for (row, port) in ports.iter_mut().enumerate() {
            // The plan refuses inputs without event time, and the source makes a null one an error row.
            let time_ns = rows.event_ns.as_ref().map_or(0, |times| times.get(row));
            if late_ns.is_some_and(|late_ns| time_ns < late_ns) {
                *port = 2;
                continue;
            }
            let key = keys.get(row);
            let id = self.store.find_or_insert(key, 0, &mut Kept::default);
            if self.store.get_mut(id).is_some_and(|kept| kept.take(time_ns, self.within_ns)) {
                self.times.entry(time_ns).or_default().push(key.into());
            } else {
                *port = 1;
            }
        }
        out.late += ports.iter().filter(|port| **port == 2).count() as u64;
        for (at, port) in self.ports.iter().enumerate() {
            let mask: BooleanArray = ports.iter().map(|of_row| Some(usize::from(*of_row) == at)).collect();
            match port {
                Some(port) if mask.true_count() == rows.num_rows() => out.give(at, port.apply(rows, None)),
                Some(port) => out.give(at, port.apply(rows, Some(&mask))),
                None => out.dropped += mask.true_count() as u64,
            }
        }
    }

    /// Takes up a slot that was put back.
    fn restored(&mut self, id: SlotId, key: &[u8], _slice: i64) {
        for time_ns in self.store.get(id).iter().flat_map(|kept| &kept.0) {
            self.times.entry(*time_ns).or_default().push(key.into());
        }
    }

    /// Forgets what no row can meet that is not late.
    fn forget(&mut self, watermark_ns: i64) {
        let bound = watermark_ns.saturating_sub(self.within_ns);
        let later = self.times.split_off(&bound.saturating_add(1));
        for (time_ns, keys) in std::mem::replace(&mut self.times, later) {
            for key in keys {
                let Some(id) = self.store.find(&key, 0) else { continue };
                let Some(kept) = self.store.get_mut(id) else { continue };
                kept.0.retain(|kept| *kept != time_ns);
                if kept.0.is_empty() {
                    self.store.remove(id);
                }
            }
        }
    }
}

kept_by_key!(Deduplicate, |step| step.keys.types());

impl EpochStep for Deduplicate {
    fn state(&mut self) -> Option<&mut dyn StepState> {
        Some(self)
    }

    fn close(&mut self, moment: &Moment, inputs: Vec<Vec<Rows>>, out: &mut StepOutput) {
        let late_ns = moment.late_ns.first().copied().flatten();
        for rows in inputs.iter().flatten() {
            self.batch(rows, late_ns, out);
        }
        if let Some(watermark_ns) = moment.watermark_ns.first().copied().flatten() {
            self.forget(watermark_ns);
        }
        self.waiting.set(!self.times.is_empty());
        self.store.settle();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Given, check_problems, with_step};
    use arrow::array::{ArrayRef, AsArray, Int64Array, RecordBatch, StringArray};
    use arrow::datatypes::Int64Type;
    use engine_base::{Epoch, SourceId};
    use engine_dataflow::rows::origin;
    use engine_dataflow::{Positions, Times};

    const SOURCE: &str = "
        schema: { id: int64, k: string | null, at: int64 }
        event_time: { column: at, unit: ns }";

    /// By epoch: rows of an id, a key and a time, and the watermark at the close.
    type Epochs = Vec<(Vec<(i64, Option<String>, i64)>, Option<i64>)>;

    /// The ids at each port, by epoch.
    type Out = Vec<[Vec<i64>; 3]>;

    fn reference(within: i64, epochs: &Epochs) -> Out {
        let mut kept: Vec<(Option<String>, i64)> = Vec::new();
        let mut before = None;
        let mut all = Vec::new();
        for (rows, watermark) in epochs {
            let mut out: [Vec<i64>; 3] = Default::default();
            for (id, key, at) in rows {
                let late = before.is_some_and(|before| *at < before);
                let seen = kept.iter().any(|(other, time)| other == key && (time - at).abs() < within);
                out[if late { 2 } else { usize::from(seen) }].push(*id);
                if !late && !seen {
                    kept.push((key.clone(), *at));
                }
            }
            all.push(out);
            before = *watermark;
        }
        all
    }

    fn run(within: i64, epochs: &Epochs, batch: usize) -> Out {
        let operators = format!("d: {{ type: deduplicate, input: rows, key: k, within: {within}ns }}");
        let read: &[(&str, &[&str])] = &[("d", &[]), ("d.duplicates", &[]), ("d.late", &["id"])];
        let (plan, problems) = Given { source: SOURCE, operators: &operators, read, ..Given::default() }.plan();
        let plan = plan.unwrap_or_else(|| panic!("{problems}"));
        let mut step = with_step(&plan, "d", |planned, cx| {
            let plan = crate::planned(planned, "deduplicate").unwrap();
            Deduplicate { store: crate::testing::store(), ..Deduplicate::new(plan, cx).unwrap() }
        });
        let schema = plan.sources().next().unwrap().outputs[0].stream.schema.clone();
        let mut before = None;
        let mut all = Vec::new();
        for (number, (rows, watermark)) in epochs.iter().enumerate() {
            let batches = rows.chunks(batch).map(|rows| {
                let columns: Vec<ArrayRef> = vec![
                    Arc::new(rows.iter().map(|(id, ..)| *id).collect::<Int64Array>()),
                    Arc::new(rows.iter().map(|(_, key, _)| key.clone()).collect::<StringArray>()),
                    Arc::new(rows.iter().map(|(.., at)| *at).collect::<Int64Array>()),
                ];
                Rows {
                    batch: RecordBatch::try_new(schema.clone(), columns).unwrap(),
                    positions: Positions::Range { origin: origin(SourceId(0), 0), first: rows[0].0 as u64 },
                    ingest_ns: Times::One(0),
                    born_ns: Times::One(0),
                    event_ns: Some(Times::Each(rows.iter().map(|(.., at)| *at).collect())),
                    removes: None,
                }
            });
            let moment = Moment {
                epoch: Epoch(number as u64),
                late_ns: vec![before],
                watermark_ns: vec![*watermark],
                clock_ns: 0,
            };
            let mut out = StepOutput::new(3);
            step.close(&moment, vec![batches.collect()], &mut out);
            let ids = |port: usize| {
                let batches = out.ports[port].iter();
                let ids = |rows: &Rows| {
                    rows.batch.column_by_name("id").unwrap().as_primitive::<Int64Type>().values().to_vec()
                };
                batches.flat_map(ids).collect()
            };
            all.push([ids(0), ids(1), ids(2)]);
            let kept: usize = step.times.values().map(Vec::len).sum();
            let mut bytes = Vec::new();
            let mut slots = 0;
            step.store.drain_changes(&mut |change| {
                if let engine_state::Change::Put { state, .. } = change {
                    let decoded = Kept::decode(state).unwrap();
                    decoded.encode(&mut bytes);
                    slots += decoded.0.len();
                    assert!((0..state.len()).all(|cut| Kept::decode(&state[..cut]).is_err()));
                }
            });
            assert!(slots <= kept, "each time that is kept is forgotten some day");
            before = *watermark;
        }
        assert!(step.store.is_empty() && step.times.is_empty(), "at the end nothing is left");
        all
    }

    #[test]
    fn duplicates_equal_an_obvious_reference() {
        for seed in 0..2000u64 {
            let mut random = seed;
            let mut next = move |bound: u64| {
                random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                (random >> 33) % bound
            };
            let within = 1 + next(20) as i64;
            let (mut now, mut id, mut watermark) = (0i64, 0, None);
            let mut epochs: Epochs = Vec::new();
            for _ in 0..next(10) {
                let rows = (0..next(10)).map(|_| {
                    now += next(5) as i64;
                    id += 1;
                    let key = match next(6) {
                        0 => None,
                        1..4 => Some("hot".to_owned()),
                        key => Some(format!("k{key}")),
                    };
                    (id, key, now - next(12) as i64)
                });
                let rows = rows.collect();
                watermark = watermark.max((next(2) > 0).then(|| now - next(10) as i64));
                epochs.push((rows, watermark));
            }
            epochs.push((Vec::new(), Some(i64::MAX)));
            let expected = reference(within, &epochs);
            for batch in [100, 1, 3] {
                assert_eq!(run(within, &epochs, batch), expected, "seed {seed}, batches of {batch}: {epochs:?}");
            }
        }
    }

    #[test]
    fn what_is_wrong_is_told() {
        let problems = |operators: &str, expected: &str| {
            check_problems(&Given { source: SOURCE, operators, read: &[("d", &[])], ..Given::default() }, expected);
        };
        problems(
            "d: { type: deduplicate, input: rows, key: kk, within: 0s }",
            "E0320 `kk` there is no column `kk` here | did you mean `k`? | the columns are `id`, `k`, `at`
             E0343 `0s` `within` must be longer than nothing",
        );
        problems(
            "d: { type: deduplicate, input: rows, key: k }",
            "E0118 `d` the key `within` is missing | add `within:`",
        );
    }
}
