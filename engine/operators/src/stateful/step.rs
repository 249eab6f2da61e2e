//! `stateful` at work on a worker: rows into records, and what comes out of them.
//!
//! A record is found by its key and, where it has a timer or an end, by the time at which it is to be looked at: `wake`. A time
//! that moves away leaves its entry where it is; when it is reached, the record says what is really due. So a key costs one
//! entry, and a row that puts its timer further off none.
//!
//! ```text
//! watermark ──▶ wake ──▶ due? ──timer──▶ a row of event time max(at, watermark before the epoch), then cleared or fired
//!                         └────end────▶ gone
//! ```

use super::plan::{StatefulPlan, TimerPlan, of_this};
use super::record::Record;
use super::rounds::{Folder, taken};
use crate::RenderCx;
use crate::keyed::{Keys, Waiting, kept_by_key};
use crate::render::{assemble, assemble_loose, compile, evaluate, fail, give_sound};
use arrow::array::{Array, ArrayRef, AsArray, BinaryArray, BooleanArray, UInt32Array, new_null_array};
use arrow::datatypes::{Field, Schema, SchemaRef, TimestampNanosecondType};
use engine_base::{RowError, StepId};
use engine_dataflow::rows::made_by;
use engine_dataflow::{EpochStep, Moment, Positions, Rows, StepOutput, StepState, Times};
use engine_expr::{Evaluated, Program, Scalar};
use engine_plan::{Planned, hidden};
use engine_state::{SlotId, SlotStore};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

/// By how many rows the slot of a key is asked for ahead of its use.
const AHEAD: usize = 12;
/// Batches of an epoch with fewer rows than this are taken together: more keys side by side make shorter work.
const TOGETHER_ROWS: usize = 8_192;
/// How many timers fire before others have their turn.
const FIRE_ROWS: usize = 8_192;

/// Makes the step of a planned `stateful` on a worker.
pub fn render(planned: &dyn Planned, cx: &RenderCx<'_>) -> Result<Box<dyn EpochStep>, String> {
    let plan: &StatefulPlan = crate::planned(planned, "stateful")?;
    Ok(Box::new(StatefulStep::new(plan, cx, cx.store())?))
}

/// Expressions over a row and the record after it, or over a record alone.
struct Reader {
    /// Places in the input, then in the record.
    row_places: Vec<usize>,
    this_places: Vec<usize>,
    schema: SchemaRef,
    programs: Vec<Program>,
}

impl Reader {
    fn new<'a>(
        values: impl Iterator<Item = (usize, &'a Scalar)> + Clone,
        input: &SchemaRef,
        record: &[Field],
    ) -> Result<Reader, String> {
        let read = |name: &str| values.clone().any(|(_, value)| value.columns().contains(name));
        let row_places: Vec<usize> = (0..input.fields().len()).filter(|at| read(input.field(*at).name())).collect();
        let this_places: Vec<usize> = (0..record.len()).filter(|at| read(&of_this(record[*at].name()))).collect();
        let of_row = row_places.iter().map(|at| input.field(*at).clone());
        let of_record = this_places.iter().map(|at| record[*at].clone().with_name(of_this(record[*at].name())));
        let all: Vec<Field> = of_row.chain(of_record).map(|field| field.with_nullable(true)).collect();
        let schema: SchemaRef = Arc::new(Schema::new(all));
        let programs = values.map(|(salt, value)| Ok(compile(value, &schema)?.with_salt(salt as u64)));
        Ok(Reader { programs: programs.collect::<Result<_, String>>()?, row_places, this_places, schema })
    }

    /// What the expressions read, with the rows' other facts.
    fn rows(&self, rows: &Rows, record: &[ArrayRef]) -> Rows {
        let of_row = self.row_places.iter().map(|at| rows.batch.column(*at).clone());
        let columns = of_row.chain(self.this_places.iter().map(|at| record[*at].clone())).collect();
        rows.with_batch(assemble(&self.schema, columns, rows.num_rows()))
    }

    fn evaluate(&mut self, rows: &Rows) -> Vec<Evaluated> {
        self.programs.iter_mut().map(|program| evaluate(program, rows)).collect()
    }
}

/// A column of what is put out.
#[derive(Clone, Copy)]
enum From {
    /// A column of the key, by its place there.
    Key(usize),
    /// An expression, by its place in the reader.
    Value(usize),
    /// Nothing: it is null.
    Null,
}

/// Rows that are put out.
struct Port {
    reader: Reader,
    columns: Vec<From>,
}

impl Port {
    /// The wanted columns: keys first, then those of `values`.
    fn new(
        output: &SchemaRef,
        key: &[String],
        values: &[(String, Scalar)],
        input: &SchemaRef,
        record: &[Field],
    ) -> Result<Port, String> {
        let wanted = |name: &str| output.field_with_name(name).is_ok();
        let read: Vec<&(String, Scalar)> = values.iter().filter(|(name, _)| wanted(name)).collect();
        let columns = output.fields().iter().map(|field| {
            let of_key = key.iter().position(|name| name == field.name()).map(From::Key);
            let of_value = || read.iter().position(|(name, _)| name == field.name()).map(From::Value);
            of_key.or_else(of_value).unwrap_or(From::Null)
        });
        let columns = columns.collect();
        // The numbers that columns draw are their own, not those of updates.
        let numbered = read.iter().enumerate().map(|(at, (_, value))| (record.len() + at, value));
        Ok(Port { reader: Reader::new(numbered, input, record)?, columns })
    }

    /// Puts rows out, those that fail as failed ones. `whole` is what a failed row shows; the row as it is put out if none.
    #[allow(clippy::too_many_arguments)] // the parts of the rows that are put out
    fn give(
        &mut self,
        step: &Arc<str>,
        output: &SchemaRef,
        rows: &Rows,
        whole: Option<&Rows>,
        keys: &[ArrayRef],
        record: &[ArrayRef],
        keeps_event_time: bool,
        out: &mut StepOutput,
    ) {
        let count = rows.num_rows();
        let evaluated = self.reader.evaluate(&self.reader.rows(rows, record));
        let mut failed: BTreeMap<usize, RowError> = BTreeMap::new();
        for (row, error) in evaluated.iter().flat_map(|evaluated| &evaluated.errors) {
            failed.entry(*row).or_insert_with(|| error.clone());
        }
        let columns = self.columns.iter().zip(output.fields()).map(|(from, field)| match from {
            From::Key(at) => keys[*at].clone(),
            From::Value(at) => evaluated[*at].array.clone(),
            From::Null => new_null_array(field.data_type(), count),
        });
        let columns: Vec<ArrayRef> = columns.collect();
        let mut given = rows.clone();
        if !keeps_event_time {
            given.event_ns = None;
        }
        if failed.is_empty() {
            out.give(0, given.with_batch(assemble(output, columns, count)));
            return;
        }
        let good: BooleanArray = (0..count).map(|row| Some(!failed.contains_key(&row))).collect();
        let failed = failed.into_iter().collect();
        match whole {
            Some(whole) => fail(step, whole, failed, out),
            None => fail(step, &rows.with_batch(assemble_loose(output, columns.clone(), count)), failed, out),
        }
        give_sound(&given, output, columns, &good, out);
    }
}

/// What rows put out.
struct EmitStep {
    when: Option<Reader>,
    port: Port,
}

/// The timers of records.
struct TimerStep {
    at: Reader,
    port: Option<Port>,
    clear: bool,
}

/// A timer on its way out.
struct Fired {
    event_ns: i64,
    key: Box<[u8]>,
    slot: SlotId,
    /// The record goes, by the timer or by its end.
    remove: bool,
}

pub(super) struct StatefulStep {
    step: Arc<str>,
    step_id: StepId,
    store: Box<dyn SlotStore<Record>>,
    keys: Keys,
    key_places: Vec<usize>,
    folder: Folder,
    emit: Option<EmitStep>,
    timer: Option<TimerStep>,
    expire_after_ns: Option<i64>,
    output: SchemaRef,
    keeps_event_time: bool,
    /// Records by the time at which they are looked at.
    wake: BTreeSet<(i64, SlotId)>,
    /// How many timers are set and have not fired.
    armed: usize,
    /// How many batches came.
    batches: u64,
    fired: VecDeque<Fired>,
    epoch: u64,
    clock_ns: i64,
    waiting: Waiting,
}

impl StatefulStep {
    pub(super) fn new(
        plan: &StatefulPlan,
        cx: &RenderCx<'_>,
        store: Box<dyn SlotStore<Record>>,
    ) -> Result<Self, String> {
        let input = cx.inputs.first().ok_or("stateful without an input")?;
        let wanted = cx.wanted.first().ok_or("stateful without an output")?;
        let fields: Vec<_> =
            plan.output.fields().iter().filter(|field| wanted.contains(field.name())).cloned().collect();
        let output: SchemaRef = Arc::new(Schema::new(fields));
        let record: Vec<Field> = plan.state.iter().map(|column| column.field.clone()).collect();
        let emit = plan.emit.as_ref().map(|emit| {
            let when = emit.when.as_ref().map(|when| Reader::new([(record.len(), when)].into_iter(), input, &record));
            let port = Port::new(&output, &plan.key, &emit.columns, input, &record)?;
            Ok::<_, String>(EmitStep { when: when.transpose()?, port })
        });
        let none: SchemaRef = Arc::new(Schema::empty());
        let timer = plan.timer.as_ref().map(|TimerPlan { at, emit, clear }| {
            let port = emit.as_ref().map(|columns| Port::new(&output, &plan.key, columns, &none, &record));
            let at = Reader::new([(0, at)].into_iter(), &none, &record)?;
            Ok::<_, String>(TimerStep { at, port: port.transpose()?, clear: *clear })
        });
        let place = |name: &String| input.index_of(name).map_err(|_| format!("column `{name}` is not in the input"));
        Ok(StatefulStep {
            step: cx.step.clone(),
            step_id: cx.step_id,
            store,
            keys: Keys::new(&plan.key, input)?,
            key_places: plan.key.iter().map(place).collect::<Result<_, _>>()?,
            folder: Folder::new(&plan.state, input)?,
            emit: emit.transpose()?,
            timer: timer.transpose()?,
            expire_after_ns: plan.expire_after_ns,
            output,
            keeps_event_time: wanted.contains(hidden::EVENT_TIME),
            wake: BTreeSet::new(),
            armed: 0,
            batches: 0,
            fired: VecDeque::new(),
            epoch: 0,
            clock_ns: 0,
            waiting: Waiting::new(cx),
        })
    }

    /// Takes up a slot that was put back.
    fn restored(&mut self, slot: SlotId, _key: &[u8], _slice: i64) {
        let fires = self.store.get(slot).is_some_and(|record| record.clock.fires_ns().is_some());
        self.armed += usize::from(fires);
        self.wake_when_due(slot);
    }

    /// How many records there are.
    #[cfg(test)]
    pub(super) fn records(&self) -> usize {
        self.store.len()
    }

    /// Takes the rows of a batch into their records, and puts out what they emit.
    fn batch(&mut self, rows: &Rows, out: &mut StepOutput) {
        let count = rows.num_rows();
        self.batches += 1;
        let keys = self.keys.encode(rows);
        // The keys of the batch by number, in the order in which they appear.
        let mut slots: Vec<SlotId> = Vec::new();
        let mut key_of: Vec<u32> = Vec::with_capacity(count);
        // The first row of each key that has no record yet.
        let mut new: Vec<Option<usize>> = Vec::new();
        for row in 0..count {
            if row + AHEAD < count {
                self.store.prefetch(keys.get(row + AHEAD), 0);
            }
            if row > 0 && keys.get(row) == keys.get(row - 1) {
                key_of.push(key_of[row - 1]);
                continue;
            }
            let mut is_new = false;
            let initial = self.folder.initial();
            let slot = self.store.find_or_insert(keys.get(row), 0, &mut || {
                is_new = true;
                Record::new(initial)
            });
            let number = slots.len() as u32;
            let Some(record) = self.store.get_mut(slot) else { continue };
            if record.met.0 != self.batches {
                record.met = (self.batches, number);
                slots.push(slot);
                new.push(is_new.then_some(row));
            }
            key_of.push(record.met.1);
        }
        let records: Vec<&[u8]> =
            slots.iter().map(|slot| self.store.get(*slot).map_or(&[][..], |record| &record.columns)).collect();
        let folded = self.folder.fold(rows, &key_of, &records);
        let mut failed = folded.failed;
        let updated = |row: usize, failed: &BTreeMap<usize, RowError>| failed.is_empty() || !failed.contains_key(&row);

        let mut clocks: Vec<_> =
            slots.iter().map(|slot| self.store.get(*slot).map(|record| record.clock).unwrap_or_default()).collect();
        let before = clocks.clone();
        let mut touched = vec![false; slots.len()];
        // A timer's time that fails leaves the timer as it is: the record goes on without the row that fails.
        let times =
            self.timer.as_mut().map(|timer| timer.at.evaluate(&timer.at.rows(rows, &folded.after)).swap_remove(0));
        let no_time: BTreeMap<usize, RowError> = times
            .iter()
            .flat_map(|times| times.errors.iter().cloned())
            .filter(|(row, _)| updated(*row, &failed))
            .collect();
        let times = times.as_ref().map(|times| times.array.as_primitive::<TimestampNanosecondType>());
        for (row, key) in key_of.iter().enumerate() {
            if !updated(row, &failed) {
                continue;
            }
            let key = *key as usize;
            touched[key] = true;
            if let (Some(event_ns), Some(_)) = (&rows.event_ns, self.expire_after_ns) {
                clocks[key].last_ns = clocks[key].last_ns.max(Some(event_ns.get(row)));
            }
            if let Some(times) = times
                && !no_time.contains_key(&row)
            {
                clocks[key].set_timer(times.is_valid(row).then(|| times.value(row)));
            }
        }
        for (number, slot) in slots.iter().enumerate() {
            if !touched[number] {
                if new[number].is_some() {
                    // All its rows failed: it is as if it had not come.
                    self.store.remove(*slot);
                }
                continue;
            }
            let Some(record) = self.store.get_mut(*slot) else { continue };
            let columns = folded.last.row(number).data();
            match record.columns.len() == columns.len() {
                true => record.columns.copy_from_slice(columns),
                false => record.columns = columns.into(),
            }
            record.clock = clocks[number];
            self.armed += usize::from(clocks[number].fires_ns().is_some());
            self.armed -= usize::from(before[number].fires_ns().is_some());
            self.wake_when_due(*slot);
        }
        failed.extend(no_time);
        self.emit(rows, &folded.after, failed, out);
    }

    /// Puts out what the sound rows of a batch emit, and the failed ones.
    fn emit(&mut self, rows: &Rows, after: &[ArrayRef], mut failed: BTreeMap<usize, RowError>, out: &mut StepOutput) {
        let Some(emit) = &mut self.emit else {
            fail(&self.step, rows, failed.into_iter().collect(), out);
            return;
        };
        let mut chosen = None;
        if let Some(when) = &mut emit.when {
            let evaluated = when.evaluate(&when.rows(rows, after)).swap_remove(0);
            for (row, error) in evaluated.errors {
                failed.entry(row).or_insert(error);
            }
            chosen = Some(evaluated.array);
        }
        let chosen = chosen.as_ref().map(|chosen| chosen.as_boolean());
        let is_chosen = |row: usize| {
            let when = chosen.is_none_or(|chosen| chosen.is_valid(row) && chosen.value(row));
            when && (failed.is_empty() || !failed.contains_key(&row))
        };
        let picked: Vec<u32> = (0..rows.num_rows()).filter(|row| is_chosen(*row)).map(|row| row as u32).collect();
        fail(&self.step, rows, failed.into_iter().collect(), out);
        if picked.is_empty() {
            return;
        }
        let whole = picked.len() == rows.num_rows();
        let picked = UInt32Array::from(picked);
        let (rows, after) = match whole {
            true => (rows.clone(), after.to_vec()),
            false => (rows.take(&picked), after.iter().map(|column| taken(column, &picked)).collect()),
        };
        let keys: Vec<ArrayRef> = self.key_places.iter().map(|at| rows.batch.column(*at).clone()).collect();
        emit.port.give(&self.step, &self.output, &rows, Some(&rows), &keys, &after, self.keeps_event_time, out);
    }

    /// Sees to it that a record is looked at when something of it is due.
    fn wake_when_due(&mut self, slot: SlotId) {
        let Some(record) = self.store.get_mut(slot) else { return };
        let Some(due_ns) = record.clock.due_ns(self.expire_after_ns) else { return };
        if record.wake_ns.is_some_and(|wake_ns| wake_ns <= due_ns) {
            return;
        }
        if let Some(wake_ns) = record.wake_ns.replace(due_ns) {
            self.wake.remove(&(wake_ns, slot));
        }
        self.wake.insert((due_ns, slot));
    }

    /// Finds what is due now that the watermark has come to `now_ns`.
    fn due(&mut self, before_ns: Option<i64>, now_ns: i64) {
        let mut fired: Vec<Fired> = Vec::new();
        let mut later: Vec<SlotId> = Vec::new();
        while let Some((wake_ns, slot)) = self.wake.first().copied()
            && wake_ns <= now_ns
        {
            self.wake.pop_first();
            let Some(record) = self.store.get_mut(slot) else { continue };
            record.wake_ns = None;
            let clock = record.clock;
            let ends_ns = clock.expires_ns(self.expire_after_ns);
            let ends = ends_ns.is_some_and(|ends_ns| ends_ns <= now_ns);
            // A timer that is set to later than the record lives does not fire.
            let fires_ns = clock.fires_ns().filter(|at| *at <= now_ns && ends_ns.is_none_or(|ends_ns| *at <= ends_ns));
            let Some((timer, fires_ns)) = self.timer.as_ref().zip(fires_ns) else {
                if ends {
                    self.armed -= usize::from(clock.fires_ns().is_some());
                    self.store.remove(slot);
                } else {
                    later.push(slot);
                }
                continue;
            };
            self.armed -= 1;
            record.clock.fired = true;
            let remove = ends || timer.clear;
            if timer.port.is_some() {
                let event_ns = before_ns.map_or(fires_ns, |before_ns| fires_ns.max(before_ns));
                let key = self.store.key(slot).unwrap_or_default().into();
                fired.push(Fired { event_ns, key, slot, remove });
            } else if remove {
                self.store.remove(slot);
            }
            if !remove {
                later.push(slot);
            }
        }
        later.into_iter().for_each(|slot| self.wake_when_due(slot));
        fired.sort_unstable_by(|a, b| (a.event_ns, &a.key).cmp(&(b.event_ns, &b.key)));
        self.fired = fired.into();
    }

    /// Puts out a portion of the timers that have fired.
    fn put_out(&mut self, out: &mut StepOutput) {
        let count = self.fired.len().min(FIRE_ROWS);
        let Some(port) = self.timer.as_mut().and_then(|timer| timer.port.as_mut()).filter(|_| count > 0) else {
            return;
        };
        let fired: Vec<Fired> = self.fired.drain(..count).collect();
        let of_slot = |fired: &Fired| self.store.get(fired.slot).map_or(&[][..], |record| &record.columns);
        let record = self.folder.decode(fired.iter().map(of_slot));
        let keys = self.keys.decode(fired.iter().map(|fired| &*fired.key));
        let rows = Rows {
            batch: assemble(&Arc::new(Schema::empty()), Vec::new(), count),
            positions: Positions::Mixed {
                origins: vec![made_by(self.step_id); count].into(),
                // In the order of time, also before 1970.
                offsets: fired.iter().map(|fired| fired.event_ns as u64 ^ 1 << 63).collect::<Vec<u64>>().into(),
                suffixes: Some(BinaryArray::from_iter_values(fired.iter().map(|fired| suffix(&fired.key, self.epoch)))),
            },
            ingest_ns: Times::One(self.clock_ns),
            born_ns: Times::One(self.clock_ns),
            event_ns: Some(Times::Each(fired.iter().map(|fired| fired.event_ns).collect())),
            removes: None,
        };
        port.give(&self.step, &self.output, &rows, None, &keys, &record, self.keeps_event_time, out);
        for fired in fired.iter().filter(|fired| fired.remove) {
            self.store.remove(fired.slot);
        }
    }
}

/// What tells timers of one time apart: the key, and the epoch, since a key's timer fires once in it.
fn suffix(key: &[u8], epoch: u64) -> Box<[u8]> {
    key.iter().copied().chain(epoch.to_be_bytes()).collect()
}

kept_by_key!(StatefulStep, |step| step.keys.types());

impl EpochStep for StatefulStep {
    fn state(&mut self) -> Option<&mut dyn StepState> {
        Some(self)
    }

    fn close(&mut self, moment: &Moment, inputs: Vec<Vec<Rows>>, out: &mut StepOutput) {
        (self.epoch, self.clock_ns) = (moment.epoch.0, moment.clock_ns);
        let mut batches: Vec<Rows> = Vec::new();
        let mut rows = 0;
        for batch in inputs.into_iter().flatten() {
            rows += batch.num_rows();
            batches.push(batch);
            if rows >= TOGETHER_ROWS {
                self.batch(&Rows::concat(&std::mem::take(&mut batches)), out);
                rows = 0;
            }
        }
        if rows > 0 {
            self.batch(&Rows::concat(&batches), out);
        }
        let before_ns = moment.late_ns.first().copied().flatten();
        if let Some(now_ns) = moment.watermark_ns.first().copied().flatten() {
            self.due(before_ns, now_ns);
        }
        self.waiting.set(self.armed > 0);
    }

    fn resume(&mut self, out: &mut StepOutput) -> bool {
        self.put_out(out);
        self.store.settle();
        !self.fired.is_empty()
    }
}
