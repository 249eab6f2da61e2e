//! `aggregate` at work on a worker: rows into totals, and what changed at the close of the epoch.

use super::plan::AggregatePlan;
use super::state::Total;
use crate::RenderCx;
use crate::aggregates::{Calls, Results};
use crate::changes::RowCodec;
use crate::keyed::{Keys, LatePort, Waiting, kept_by_key};
use crate::render::{assemble, assemble_loose, evaluate, fail};
use crate::window::pane::NewRow;
use arrow::array::{ArrayRef, BinaryBuilder, BooleanArray, UInt32Array};
use arrow::buffer::BooleanBuffer;
use arrow::compute::take;
use arrow::datatypes::{Field, Schema, SchemaRef};
use arrow::row::Rows as EncodedRows;
use engine_base::{RowError, StepId};
use engine_dataflow::rows::made_by;
use engine_dataflow::{EpochStep, Moment, Positions, Rows, StepOutput, StepState, Times};
use engine_expr::Program;
use engine_plan::{Planned, hidden};
use engine_state::{SlotId, SlotStore};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Makes the step of a planned `aggregate` on a worker.
pub(super) fn render(planned: &dyn Planned, cx: &RenderCx<'_>) -> Result<Box<dyn EpochStep>, String> {
    let plan: &AggregatePlan = crate::planned(planned, "aggregate")?;
    Ok(Box::new(Aggregate::new(plan, cx, cx.store())?))
}

/// How many keys a step puts out before others have their turn.
const CHANGED_KEYS: usize = 8_192;

struct OutputColumn {
    calls: std::ops::Range<usize>,
    schema: SchemaRef,
    program: Program,
}

pub(super) struct Aggregate {
    step: Arc<str>,
    step_id: StepId,
    store: Box<dyn SlotStore<Total>>,
    keys: Keys,
    calls: Calls,
    keys_wanted: Vec<usize>,
    columns: Vec<OutputColumn>,
    output: SchemaRef,
    /// Tells rows that changed from those that did not; `None` where their types can't be compared.
    codec: Option<RowCodec>,
    gives_event_time: bool,
    at_once: bool,
    /// Rows may be taken back, and some state can't be subtracted from.
    keeps_rows: bool,
    expire_ns: Option<i64>,
    late: Option<LatePort>,
    /// Where totals expire: keys by a time that their last row had, each once.
    times: BTreeMap<i64, Vec<Box<[u8]>>>,
    /// The keys that were touched in this epoch.
    touched: BTreeMap<Box<[u8]>, Touched>,
    /// What they came to before.
    before: Before,
    epoch: u64,
    waiting: Waiting,
}

/// A key of whose rows some came or went in an epoch.
struct Touched {
    /// Where what it came to before stands, if there was anything.
    before: Option<u32>,
    /// When the last of the rows entered the engine, and came into the world.
    ingest_ns: i64,
    born_ns: i64,
}

/// What keys came to before the epoch: their results, as they were first touched. To keep copies of the states would cost as
/// much as the states themselves.
#[derive(Default)]
struct Before {
    count: u32,
    /// One a call, none yet where nothing was touched.
    results: Vec<Results>,
    failed: BTreeMap<u32, RowError>,
    /// The results, once the epoch's rows are in.
    arrays: Vec<ArrayRef>,
}

impl Before {
    /// Notes what a total comes to; where it stands.
    fn add(&mut self, total: &Total, calls: &Calls) -> Option<u32> {
        if total.rows <= 0 {
            return None;
        }
        if self.results.is_empty() {
            self.results = calls.calls.iter().map(|call| call.results(0)).collect();
        }
        for (call, result) in calls.calls.iter().zip(&mut self.results) {
            if let Err(error) = total.pane.finish(call, result) {
                self.failed.insert(self.count, error);
            }
        }
        self.count += 1;
        Some(self.count - 1)
    }
}

/// The totals of a key on their way out.
struct Leaving<'a> {
    key: &'a [u8],
    last_ns: i64,
    touched: &'a Touched,
}

/// The results of all calls for totals, and why some failed.
struct Finished {
    arrays: Vec<ArrayRef>,
    failed: BTreeMap<usize, RowError>,
}

/// The same as rows.
struct Totals {
    rows: Rows,
    /// Which are sound.
    good: BooleanArray,
    /// Their bytes, where they can be compared.
    encoded: Option<EncodedRows>,
}

impl Aggregate {
    pub(super) fn new(
        plan: &AggregatePlan,
        cx: &RenderCx<'_>,
        store: Box<dyn SlotStore<Total>>,
    ) -> Result<Self, String> {
        let input = cx.inputs.first().ok_or("aggregate without an input")?;
        let wanted = cx.wanted.first().ok_or("aggregate without an output")?;
        let mut calls = Calls::default();
        let mut columns = Vec::new();
        for (_, aggregation) in plan.columns.iter().filter(|(name, _)| wanted.contains(name)) {
            let first = calls.calls.len();
            for call in &aggregation.calls {
                calls.add(call, 0, input)?;
            }
            let results = aggregation.calls.iter().enumerate();
            let inner: Vec<Field> =
                results.map(|(at, call)| Field::new(format!("${at}"), call.data_type.clone(), true)).collect();
            let schema: SchemaRef = Arc::new(Schema::new(inner));
            let program = aggregation.finish(&schema).map_err(|error| error.message)?;
            columns.push(OutputColumn { calls: first..calls.calls.len(), schema, program });
        }
        let fields: Vec<_> =
            plan.output.fields().iter().filter(|field| wanted.contains(field.name())).cloned().collect();
        let output: SchemaRef = Arc::new(Schema::new(fields));
        let calls = calls.placed();
        let linear = calls.extras == 0 && calls.states.iter().all(|state| state.kind.can_subtract());
        Ok(Aggregate {
            step: cx.step.clone(),
            step_id: cx.step_id,
            store,
            keys: Keys::new(&plan.key, input)?,
            keeps_rows: plan.changelog && !linear,
            calls,
            keys_wanted: (0..plan.key.len()).filter(|at| wanted.contains(&plan.key[*at])).collect(),
            columns,
            codec: RowCodec::new(&output, |_| true).ok(),
            output,
            gives_event_time: plan.at_once && wanted.contains(hidden::EVENT_TIME),
            at_once: plan.at_once,
            expire_ns: plan.expire_ns,
            late: plan.expire_ns.map(|_| LatePort::new(cx, 1)).transpose()?,
            times: BTreeMap::new(),
            touched: BTreeMap::new(),
            before: Before::default(),
            epoch: 0,
            waiting: Waiting::new(cx),
        })
    }

    /// Takes up a slot that was put back.
    fn restored(&mut self, id: SlotId, key: &[u8], _slice: i64) {
        let total = self.store.get(id);
        if let (Some(total), Some(_)) = (total, self.expire_ns) {
            self.times.entry(total.last_ns).or_default().push(key.into());
        }
    }

    fn new_row(&self) -> NewRow {
        NewRow {
            words: vec![0; self.calls.row_words()],
            extras: Vec::new(),
            arrival: 0,
            leaf: vec![0; self.calls.words],
        }
    }

    fn batch(&mut self, rows: &Rows, late_ns: Option<i64>, out: &mut StepOutput) {
        let mut failed: BTreeMap<usize, RowError> = BTreeMap::new();
        let arguments = self.calls.arguments(rows, &mut failed);
        let keys = self.keys.encode(rows);
        let mut late: Vec<u32> = Vec::new();
        let mut new = self.new_row();
        for row in 0..rows.num_rows() {
            if failed.contains_key(&row) {
                continue;
            }
            let time_ns = rows.event_ns.as_ref().map_or(0, |times| times.get(row));
            if let (Some(expire_ns), Some(late_ns)) = (self.expire_ns, late_ns)
                && time_ns.saturating_add(expire_ns) < late_ns
            {
                late.push(row as u32);
                continue;
            }
            let key = keys.get(row);
            let mut is_new = false;
            let words = self.calls.words;
            let id = self.store.find_or_insert(key, 0, &mut || {
                is_new = true;
                Total::new(words)
            });
            let Some(total) = self.store.get_mut(id) else { continue };
            let (ingest_ns, born_ns) = (rows.ingest_ns.get(row), rows.born_ns.get(row));
            match self.touched.get_mut(key) {
                Some(touched) => {
                    touched.ingest_ns = touched.ingest_ns.max(ingest_ns);
                    touched.born_ns = touched.born_ns.max(born_ns);
                }
                None => {
                    let before = self.before.add(total, &self.calls);
                    self.touched.insert(key.into(), Touched { before, ingest_ns, born_ns });
                }
            }
            if is_new && self.expire_ns.is_some() {
                self.times.entry(time_ns).or_default().push(key.into());
            }
            total.last_ns = total.last_ns.max(time_ns);
            new.words.fill(0);
            new.extras.clear();
            // Of rows that stay, how many there are; where they may go, their order is that of their bytes.
            new.arrival = total.rows as u64;
            self.calls.keep(&arguments, row, &mut new.words, &mut new.extras);
            let removes = rows.is_removed(row);
            if self.keeps_rows {
                total.keep(&new, removes);
            } else {
                total.change(&mut new, &self.calls, removes);
            }
        }
        if let Some(port) = &self.late {
            port.give(rows, late, out);
        }
        fail(&self.step, rows, failed.into_iter().collect(), out);
    }

    /// Forgets the totals whose last row is longer ago than they are kept.
    fn expire(&mut self, watermark_ns: i64, expire_ns: i64, clock_ns: i64) {
        let bound = watermark_ns.saturating_sub(expire_ns);
        // At the end of the input nothing becomes older.
        while let Some(entry) = self.times.first_entry().filter(|entry| *entry.key() < bound && watermark_ns < i64::MAX)
        {
            for key in entry.remove() {
                let Some(id) = self.store.find(&key, 0) else { continue };
                let Some(total) = self.store.get(id) else { continue };
                if total.last_ns >= bound {
                    self.times.entry(total.last_ns).or_default().push(key);
                    continue;
                }
                if !self.touched.contains_key(&key) {
                    let before = self.before.add(total, &self.calls);
                    self.touched.insert(key, Touched { before, ingest_ns: clock_ns, born_ns: clock_ns });
                }
                self.store.remove(id);
            }
        }
    }

    /// The totals of keys as they leave.
    fn totals(&mut self, all: &[Leaving<'_>], finished: Finished, comes: bool, out: &mut StepOutput) -> Totals {
        let count = all.len();
        let Finished { arrays, mut failed } = finished;
        let keys = self.keys.decode(all.iter().map(|leaving| leaving.key));
        let times = |of: fn(&Leaving<'_>) -> i64| Times::Each(all.iter().map(of).collect());
        let mut suffixes = BinaryBuilder::new();
        let mut suffix = Vec::new();
        for leaving in all {
            suffix.clear();
            suffix.push(u8::from(comes));
            suffix.extend_from_slice(leaving.key);
            suffixes.append_value(&suffix);
        }
        let facts = Rows {
            batch: assemble(&Arc::new(Schema::empty()), Vec::new(), count),
            positions: Positions::Mixed {
                origins: vec![made_by(self.step_id); count].into(),
                offsets: vec![self.epoch; count].into(),
                suffixes: Some(suffixes.finish()),
            },
            ingest_ns: times(|leaving| leaving.touched.ingest_ns),
            born_ns: times(|leaving| leaving.touched.born_ns),
            event_ns: self.gives_event_time.then(|| times(|leaving| leaving.last_ns)),
            removes: (!comes).then(|| BooleanBuffer::new_set(count)),
        };
        let mut columns: Vec<ArrayRef> = self.keys_wanted.iter().map(|at| keys[*at].clone()).collect();
        for column in &mut self.columns {
            let inner = facts.with_batch(assemble(&column.schema, arrays[column.calls.clone()].to_vec(), count));
            let evaluated = evaluate(&mut column.program, &inner);
            failed.extend(evaluated.errors);
            columns.push(evaluated.array);
        }
        let good = (0..count).map(|row| Some(!failed.contains_key(&row))).collect();
        let rows = facts.with_batch(assemble_loose(&self.output, columns, count));
        // Totals that are taken back have failed before, when they came.
        fail(&self.step, &rows, failed.into_iter().collect(), out);
        let encoded = self.codec.as_ref().and_then(|codec| codec.encode(&rows));
        Totals { rows, good, encoded }
    }

    /// Puts out what changed of a portion of the keys that were touched.
    fn put_out(&mut self, out: &mut StepOutput) {
        let portion = match self.touched.keys().nth(CHANGED_KEYS).cloned() {
            Some(next) => {
                let later = self.touched.split_off(&next);
                std::mem::replace(&mut self.touched, later)
            }
            None => std::mem::take(&mut self.touched),
        };
        if portion.is_empty() {
            return;
        }
        let mut again = self.new_row();
        let mut before: Vec<Leaving<'_>> = Vec::new();
        let mut places: Vec<u32> = Vec::new();
        let mut after: Vec<Leaving<'_>> = Vec::new();
        let mut failed = BTreeMap::new();
        let mut results: Vec<Results> = self.calls.calls.iter().map(|call| call.results(portion.len())).collect();
        for (key, touched) in &portion {
            if let Some(place) = touched.before {
                before.push(Leaving { key, last_ns: 0, touched });
                places.push(place);
            }
            let Some(id) = self.store.find(key, 0) else { continue };
            let Some(total) = self.store.get_mut(id) else { continue };
            if self.keeps_rows {
                total.again(&mut again, &self.calls);
            }
            if total.rows > 0 {
                for (call, result) in self.calls.calls.iter().zip(&mut results) {
                    if let Err(error) = total.pane.finish(call, result) {
                        failed.insert(after.len(), error);
                    }
                }
                after.push(Leaving { key, last_ns: total.last_ns, touched });
            }
            // What takes back more than there was leaves less than nothing: what comes next makes up for it.
            if total.rows == 0 || self.at_once {
                self.store.remove(id);
            }
        }
        let calls = &self.calls.calls;
        let now =
            Finished { arrays: calls.iter().zip(results).map(|(call, result)| call.array(result)).collect(), failed };
        let failed = places.iter().enumerate();
        let failed = failed.filter_map(|(row, place)| Some((row, self.before.failed.get(place)?.clone()))).collect();
        let places = UInt32Array::from(places);
        let pick = |array: &ArrayRef| {
            take(array, &places, None).unwrap_or_else(|error| panic!("totals of before are gone: {error}"))
        };
        let then = match before.as_slice() {
            [] => calls.iter().map(|call| call.array(call.results(0))).collect(),
            _ => self.before.arrays.iter().map(pick).collect(),
        };
        let gone = self.totals(&before, Finished { arrays: then, failed }, false, out);
        let come = self.totals(&after, now, true, out);
        let stays = |row: usize, key: &[u8], totals: &Totals, others: &[Leaving<'_>], other: &Totals| {
            let found = others.binary_search_by(|leaving| leaving.key.cmp(key)).ok();
            let same = |at: usize| match (&totals.encoded, &other.encoded) {
                (Some(rows), Some(others)) => rows.row(row) == others.row(at),
                _ => false,
            };
            found.is_some_and(|at| other.good.value(at) && same(at))
        };
        for (totals, all, other, others) in [(&gone, &before, &come, &after), (&come, &after, &gone, &before)] {
            let moves = |row: usize| totals.good.value(row) && !stays(row, all[row].key, totals, others, other);
            let mask: BooleanArray = (0..all.len()).map(|row| Some(moves(row))).collect();
            let rows = totals.rows.filter(&mask);
            let batch = assemble(&self.output, rows.batch.columns().to_vec(), rows.num_rows());
            out.give(0, rows.with_batch(batch));
        }
    }
}

kept_by_key!(Aggregate, |step| step.keys.types());

impl EpochStep for Aggregate {
    fn state(&mut self) -> Option<&mut dyn StepState> {
        Some(self)
    }

    fn close(&mut self, moment: &Moment, inputs: Vec<Vec<Rows>>, out: &mut StepOutput) {
        self.epoch = moment.epoch.0;
        let late_ns = moment.late_ns.first().copied().flatten();
        for rows in inputs.iter().flatten() {
            self.batch(rows, late_ns, out);
        }
        if let (Some(expire_ns), Some(watermark_ns)) = (self.expire_ns, moment.watermark_ns.first().copied().flatten())
        {
            self.expire(watermark_ns, expire_ns, moment.clock_ns);
            self.waiting.set(!self.times.is_empty());
        }
        let results = std::mem::take(&mut self.before.results);
        let calls = self.calls.calls.iter();
        self.before.arrays = calls.zip(results).map(|(call, result)| call.array(result)).collect();
    }

    fn resume(&mut self, out: &mut StepOutput) -> bool {
        self.put_out(out);
        self.store.settle();
        if self.touched.is_empty() {
            self.before = Before::default();
        }
        !self.touched.is_empty()
    }
}
