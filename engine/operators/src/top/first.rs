//! `top` of rows that stay: no row that falls out comes back, so that the first rows of each key are all that is kept.

use super::{Order, Ties, TopPlan};
use crate::changes::{RowCodec, build, wanted_of};
use crate::codec::{Bytes, put, put_bytes};
use crate::keyed::{Keys, kept_by_key};
use crate::{RenderCx, planned};
use engine_dataflow::changes::{Build, Sides};
use engine_dataflow::{EpochStep, Moment, Rows, StepOutput, StepState};
use engine_plan::Planned;
use engine_state::{SlotId, SlotState, SlotStore};
use std::collections::BTreeMap;

/// How many changes a step puts out before others have their turn.
const CHANGES: usize = 8_192;

/// Makes the step of a planned `top` on a worker.
pub(super) fn render(plan: &dyn Planned, cx: &RenderCx<'_>) -> Result<Box<dyn EpochStep>, String> {
    Ok(Box::new(FirstRows::new(planned(plan, "top")?, cx, cx.store())?))
}

/// The place of a row in the order, and its bytes.
type Ordered = (Box<[u8]>, Box<[u8]>);

/// The first rows of a key: their places in the order and their bytes, and how many there are of each.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct First {
    rows: BTreeMap<Ordered, u64>,
    /// How many there are together.
    count: u64,
}

impl First {
    /// Whether a row is not among the first.
    fn is_behind(&self, order: &[u8], row: &[u8], limit: u64, ties: Ties) -> bool {
        let last = self.rows.last_key_value().filter(|_| self.count >= limit);
        last.is_some_and(|((last, last_row), _)| match ties {
            Ties::First => (order, row) >= (&**last, &**last_row),
            Ties::All => order > &**last,
        })
    }

    /// Adds a row that is among the first, and gives those that are no longer, with how many of each.
    fn add(&mut self, order: &[u8], row: &[u8], limit: u64, ties: Ties) -> Vec<(Box<[u8]>, u64)> {
        *self.rows.entry((order.into(), row.into())).or_default() += 1;
        self.count += 1;
        let mut gone = Vec::new();
        while let Some(last) = self.rows.last_entry() {
            let there = *last.get();
            let going = match ties {
                Ties::First => there.min(self.count.saturating_sub(limit)),
                // All that are equal go together, once those before them are enough.
                Ties::All => {
                    let order = last.key().0.clone();
                    let equal: u64 =
                        self.rows.iter().rev().take_while(|((o, _), _)| *o == order).map(|(_, n)| *n).sum();
                    if self.count - equal >= limit { there } else { 0 }
                }
            };
            if going == 0 {
                break;
            }
            let Some(mut last) = self.rows.last_entry() else { break };
            self.count -= going;
            gone.push((last.key().1.clone(), going));
            *last.get_mut() -= going;
            if *last.get() == 0 {
                last.remove();
            }
        }
        gone
    }
}

/// The format of the encoded state.
const FORMAT: u8 = 1;

impl SlotState for First {
    fn encode(&self, out: &mut Vec<u8>) {
        out.push(FORMAT);
        put(self.rows.len() as u64, out);
        for ((order, row), count) in &self.rows {
            put_bytes(order, out);
            put_bytes(row, out);
            put(*count, out);
        }
    }

    fn decode(bytes: &[u8]) -> Result<Self, String> {
        let mut bytes = Bytes::of_format(bytes, FORMAT, "top")?;
        let mut first = First::default();
        for _ in 0..bytes.number()? {
            let (order, row) = (bytes.bytes()?.into(), bytes.bytes()?.into());
            let count = bytes.number()?;
            first.count += count;
            first.rows.insert((order, row), count);
        }
        bytes.end()?;
        Ok(first)
    }

    fn heap_bytes(&self) -> usize {
        self.rows.keys().map(|(order, row)| order.len() + row.len() + 48).sum()
    }
}

pub(super) struct FirstRows {
    keys: Keys,
    order: Order,
    codec: RowCodec,
    limit: u64,
    ties: Ties,
    pub(super) store: Box<dyn SlotStore<First>>,
    build: Build,
    /// By how much each row is there more or less often than before the epoch.
    changed: BTreeMap<Box<[u8]>, i64>,
    epoch: u64,
    clock_ns: i64,
}

impl FirstRows {
    /// Takes up a slot that was put back.
    fn restored(&mut self, _: SlotId, _key: &[u8], _slice: i64) {}

    pub(super) fn new(plan: &TopPlan, cx: &RenderCx<'_>, store: Box<dyn SlotStore<First>>) -> Result<Self, String> {
        let input = cx.inputs.first().ok_or("top without an input")?;
        let wanted = cx.wanted.first().cloned().unwrap_or_default();
        let (codec, columns) = plan.rows_as_bytes(input, &wanted)?;
        Ok(FirstRows {
            keys: Keys::new(&plan.key, input)?,
            order: Order::new(plan, cx, input)?,
            codec,
            limit: plan.limit as u64,
            ties: plan.ties,
            store,
            build: build(cx, wanted_of(input, &wanted), columns),
            changed: BTreeMap::new(),
            epoch: 0,
            clock_ns: 0,
        })
    }

    fn batch(&mut self, rows: &Rows, out: &mut StepOutput) {
        let keys = self.keys.encode(rows);
        let (ordered, failed) = self.order.encode(rows, out);
        let encoded = self.codec.encode(rows);
        for at in (0..rows.num_rows()).filter(|at| !failed.contains(at)) {
            let row = encoded.as_ref().map_or(&[][..], |rows| rows.row(at).data());
            let id = self.store.find_or_insert(keys.get(at), 0, &mut First::default);
            let ordered = ordered.row(at);
            // Most rows are behind those that are there: they change nothing, and mark nothing as changed.
            let (limit, ties) = (self.limit, self.ties);
            if self.store.get(id).is_some_and(|first| first.is_behind(ordered.data(), row, limit, ties)) {
                continue;
            }
            let Some(first) = self.store.get_mut(id) else { continue };
            let gone = first.add(ordered.data(), row, limit, ties);
            let came = std::iter::once((Box::from(row), 1));
            for (row, change) in came.chain(gone.into_iter().map(|(row, count)| (row, -(count as i64)))) {
                *self.changed.entry(row).or_default() += change;
            }
        }
    }
}

kept_by_key!(FirstRows, |step| step.keys.types());

impl EpochStep for FirstRows {
    fn state(&mut self) -> Option<&mut dyn StepState> {
        Some(self)
    }

    fn close(&mut self, moment: &Moment, inputs: Vec<Vec<Rows>>, out: &mut StepOutput) {
        (self.epoch, self.clock_ns) = (moment.epoch.0, moment.clock_ns);
        for rows in inputs.iter().flatten() {
            self.batch(rows, out);
        }
        self.changed.retain(|_, change| *change != 0);
    }

    fn resume(&mut self, out: &mut StepOutput) -> bool {
        let portion = match self.changed.keys().nth(CHANGES).cloned() {
            Some(next) => {
                let later = self.changed.split_off(&next);
                std::mem::replace(&mut self.changed, later)
            }
            None => std::mem::take(&mut self.changed),
        };
        let side = |(row, change): (Box<[u8]>, i64)| ((Some(row.into_vec()), None), change as isize);
        let changes: Vec<(Sides, isize)> = portion.into_iter().map(side).collect();
        // What goes stands before what comes.
        let (gone, come): (Vec<_>, Vec<_>) = changes.into_iter().partition(|(_, change)| *change < 0);
        for changes in [gone, come].iter().filter(|changes| !changes.is_empty()) {
            (self.build)(self.epoch, self.clock_ns, changes, out);
        }
        self.store.settle();
        !self.changed.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Given, with_step};
    use arrow::array::{ArrayRef, AsArray, Int64Array, RecordBatch, StringArray};
    use arrow::datatypes::Int64Type;
    use engine_base::{Epoch, SourceId};
    use engine_dataflow::rows::origin;
    use engine_dataflow::{Positions, Times};
    use engine_state::Change;
    use std::sync::Arc;

    type Row = (Option<String>, i64, i64);

    /// All rows of a key in their order, cut off: by hand, from all rows there were.
    fn reference(rows: &[Row], limit: usize, ties: Ties) -> Vec<Row> {
        let mut keys: Vec<Option<String>> = rows.iter().map(|row| row.0.clone()).collect();
        keys.sort();
        keys.dedup();
        let mut all = Vec::new();
        for key in keys {
            let mut of_key: Vec<&Row> = rows.iter().filter(|row| row.0 == key).collect();
            of_key.sort_by_key(|row| (-row.1, row.2));
            let mut taken = limit.min(of_key.len());
            while ties == Ties::All && taken < of_key.len() && of_key[taken].1 == of_key[taken - 1].1 {
                taken += 1;
            }
            all.extend(of_key[..taken].iter().map(|row| (*row).clone()));
        }
        all.sort();
        all
    }

    fn step(limit: usize, ties: Ties, epochs: &[Vec<Row>], batch: usize, restart_at: usize) -> Vec<Vec<Row>> {
        let ties = if ties == Ties::All { "all" } else { "first" };
        let operators = format!("t: {{ type: top, input: rows, key: k, by: v desc, limit: {limit}, ties: {ties} }}");
        let source = "schema: { k: string | null, v: int64, id: int64 }";
        let given = Given { source, operators: &operators, read: &[("t", &[])], ..Given::default() };
        let (plan, problems) = given.plan();
        let plan = plan.unwrap_or_else(|| panic!("{problems}"));
        let new = || {
            with_step(&plan, "t", |planned, cx| {
                FirstRows::new(crate::planned(planned, "top").unwrap(), cx, crate::testing::store()).unwrap()
            })
        };
        let mut step = new();
        let mut checkpoint: BTreeMap<Vec<u8>, Vec<u8>> = BTreeMap::new();
        let mut there: BTreeMap<Row, i64> = BTreeMap::new();
        let mut all = Vec::new();
        let schema = plan.sources().next().unwrap().outputs[0].stream.schema.clone();
        for (number, rows) in epochs.iter().enumerate() {
            if number == restart_at {
                step = new();
                for (key, state) in &checkpoint {
                    step.store.restore(key, 0, state).unwrap();
                }
            }
            let batches = rows.chunks(batch).map(|rows| {
                let columns: Vec<ArrayRef> = vec![
                    Arc::new(rows.iter().map(|row| row.0.clone()).collect::<StringArray>()),
                    Arc::new(rows.iter().map(|row| row.1).collect::<Int64Array>()),
                    Arc::new(rows.iter().map(|row| row.2).collect::<Int64Array>()),
                ];
                Rows {
                    batch: RecordBatch::try_new(schema.clone(), columns).unwrap(),
                    positions: Positions::Range { origin: origin(SourceId(0), 0), first: 0 },
                    ingest_ns: Times::One(0),
                    born_ns: Times::One(0),
                    event_ns: None,
                    removes: None,
                }
            });
            let mut out = StepOutput::new(1);
            step.close(&Moment::timeless(Epoch(number as u64), 1), vec![batches.collect()], &mut out);
            while step.resume(&mut out) {}
            for rows in &out.ports[0] {
                let text = rows.batch.column_by_name("k").unwrap().as_string::<i32>().clone();
                let int = |name: &str| rows.batch.column_by_name(name).unwrap().as_primitive::<Int64Type>().clone();
                let (v, id) = (int("v"), int("id"));
                for row in 0..rows.num_rows() {
                    let key = text.iter().nth(row).flatten().map(str::to_owned);
                    let count = there.entry((key, v.value(row), id.value(row))).or_default();
                    *count += if rows.is_removed(row) { -1 } else { 1 };
                    assert!(*count >= 0, "a row is taken back that was not there");
                }
            }
            step.store.drain_changes(&mut |change| match change {
                Change::Put { key, state, .. } => {
                    let decoded = First::decode(state).unwrap();
                    let mut again = Vec::new();
                    decoded.encode(&mut again);
                    assert_eq!(again, state);
                    checkpoint.insert(key.to_vec(), state.to_vec());
                }
                Change::Delete { key, .. } => {
                    checkpoint.remove(key);
                }
            });
            let now = there.iter().flat_map(|(row, count)| (0..*count).map(|_| row.clone()));
            all.push(now.collect());
        }
        all
    }

    #[test]
    fn the_first_rows_equal_an_obvious_reference() {
        for seed in 0..1500u64 {
            let mut random = seed;
            let mut next = move |bound: u64| {
                random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                (random >> 33) % bound
            };
            let limit = 1 + next(4) as usize;
            let ties = if next(2) == 0 { Ties::First } else { Ties::All };
            let epochs: Vec<Vec<Row>> = (0..1 + next(8))
                .map(|_| {
                    let count = next(9);
                    let row = |_| {
                        let key = (next(5) > 0).then(|| format!("k{}", next(3)));
                        (key, next(6) as i64, next(5) as i64)
                    };
                    (0..count).map(row).collect()
                })
                .collect();
            let expected: Vec<Vec<Row>> =
                (0..epochs.len()).map(|at| reference(&epochs[..=at].concat(), limit, ties)).collect();
            let restart_at = next(9) as usize;
            for batch in [100, 1, 3] {
                let found = step(limit, ties, &epochs, batch, restart_at);
                assert_eq!(found, expected, "seed {seed}, limit {limit}, {ties:?}, batches of {batch}: {epochs:?}");
            }
        }
    }
}
