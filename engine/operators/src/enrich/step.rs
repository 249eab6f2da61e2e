//! `enrich` at work on a worker.

use super::plan::{AsOf, EnrichPlan, Missing};
use super::state::{Known, Pending};
use super::{ROWS, TABLE};
use crate::RenderCx;
use crate::changes::RowCodec;
use crate::keyed::{Keys, Waiting, kept_by_key};
use crate::render::{assemble, fail};
use arrow::array::{Array, ArrayRef, BinaryArray, BooleanArray};
use arrow::datatypes::{Field, Schema, SchemaRef};
use engine_base::RowError;
use engine_dataflow::{EpochStep, Moment, Positions, RowPosition, Rows, StepOutput, StepState, Times};
use engine_plan::{Planned, hidden};
use engine_state::{SlotId, SlotStore};
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

/// Makes the step of a planned `enrich` on a worker.
pub(super) fn render(planned: &dyn Planned, cx: &RenderCx<'_>) -> Result<Box<dyn EpochStep>, String> {
    let plan: &EnrichPlan = crate::planned(planned, "enrich")?;
    Ok(Box::new(Enrich::new(plan, cx, cx.store())?))
}

/// How many rows that waited go on before others have their turn.
const PORTION_ROWS: usize = 8_192;

pub(super) struct Enrich {
    step: Arc<str>,
    store: Box<dyn SlotStore<Known>>,
    keys: [Keys; 2],
    /// The places of the key columns of the rows, and of the table: null matches nothing.
    key_places: [Vec<usize>; 2],
    as_of: AsOf,
    wait_ns: Option<i64>,
    missing: Missing,
    /// The columns of the table that are wanted, as bytes.
    table: RowCodec,
    /// Of what `table` gives, those that come out, in order.
    table_wanted: Vec<usize>,
    /// The rows, where they wait.
    rows: Option<RowCodec>,
    rows_schema: SchemaRef,
    rows_wanted: Vec<usize>,
    output: SchemaRef,
    gives_event_time: bool,
    timed_rows: bool,
    /// Keys of rows that wait, by their event time.
    times: BTreeMap<i64, Vec<SlotId>>,
    /// Rows that need not wait any longer, with what the table says.
    due: VecDeque<Due>,
    waiting: Waiting,
}

struct Due {
    time_ns: i64,
    position: RowPosition,
    pending: Pending,
    found: Option<Box<[u8]>>,
}

impl Enrich {
    pub(super) fn new(plan: &EnrichPlan, cx: &RenderCx<'_>, store: Box<dyn SlotStore<Known>>) -> Result<Self, String> {
        let [rows, table] = cx.inputs else { return Err("enrich takes two inputs".to_owned()) };
        let wanted = cx.wanted.first().ok_or("enrich without an output")?;
        let place = |schema: &SchemaRef, name: &String| {
            schema.index_of(name).map_err(|_| format!("column `{name}` is not in the input"))
        };
        let places = |schema: &SchemaRef, names: &[String]| {
            names.iter().map(|name| place(schema, name)).collect::<Result<Vec<usize>, _>>()
        };
        let columns: Vec<&(Field, String)> =
            plan.columns.iter().filter(|(field, _)| wanted.contains(field.name())).collect();
        let is_column = |name: &str| columns.iter().any(|(_, column)| column == name);
        let in_bytes: Vec<&String> =
            table.fields().iter().map(|field| field.name()).filter(|name| is_column(name)).collect();
        let table_wanted = columns.iter().filter_map(|(_, name)| in_bytes.iter().position(|other| *other == name));
        let rows_wanted: Vec<usize> =
            (0..rows.fields().len()).filter(|at| wanted.contains(rows.field(*at).name())).collect();
        let fields = rows_wanted.iter().map(|at| rows.field(*at).clone());
        let fields: Vec<Field> = fields.chain(columns.iter().map(|(field, _)| field.clone())).collect();
        Ok(Enrich {
            step: cx.step.clone(),
            store,
            keys: [Keys::new(&plan.keys[ROWS], rows)?, Keys::new(&plan.keys[TABLE], table)?],
            key_places: [places(rows, &plan.keys[ROWS])?, places(table, &plan.keys[TABLE])?],
            as_of: plan.as_of,
            wait_ns: plan.wait_ns,
            missing: plan.missing,
            table_wanted: table_wanted.collect(),
            table: RowCodec::new(table, is_column)?,
            rows: plan.wait_ns.map(|_| RowCodec::new(rows, |_| true)).transpose()?,
            rows_schema: rows.clone(),
            rows_wanted,
            output: Arc::new(Schema::new(fields)),
            gives_event_time: wanted.contains(hidden::EVENT_TIME),
            timed_rows: plan.as_of == AsOf::EventTime || wanted.contains(hidden::EVENT_TIME),
            times: BTreeMap::new(),
            due: VecDeque::new(),
            waiting: Waiting::new(cx),
        })
    }

    /// Takes up a slot that was put back.
    fn restored(&mut self, id: SlotId, _key: &[u8], _slice: i64) {
        let Some(known) = self.store.get(id) else { return };
        for (time_ns, _) in known.pending.keys() {
            self.times.entry(*time_ns).or_default().push(id);
        }
    }

    /// The rows of a batch whose key has a null; none where no row has.
    fn nulls(&self, side: usize, rows: &Rows) -> Option<Vec<bool>> {
        let columns = self.key_places[side].iter().map(|at| rows.batch.column(*at));
        let columns: Vec<&ArrayRef> = columns.filter(|column| column.null_count() > 0).collect();
        let any = |row: usize| columns.iter().any(|column| column.is_null(row));
        (!columns.is_empty()).then(|| (0..rows.num_rows()).map(any).collect())
    }

    /// Takes rows of the table. `passed_ns` is the time from which rows still ask.
    fn learn(&mut self, rows: &Rows, passed_ns: Option<i64>) {
        let keys = self.keys[TABLE].encode(rows);
        let encoded = self.table.encode(rows);
        let nulls = self.nulls(TABLE, rows);
        for row in 0..rows.num_rows() {
            if nulls.as_ref().is_some_and(|nulls| nulls[row]) {
                continue;
            }
            let bytes = encoded.as_ref().map_or(&[][..], |rows| rows.row(row).data());
            let id = self.store.find_or_insert(keys.get(row), 0, &mut Known::default);
            let Some(known) = self.store.get_mut(id) else { continue };
            if rows.is_removed(row) {
                known.take_back(bytes);
                if known.versions.is_empty() && known.pending.is_empty() {
                    self.store.remove(id);
                }
                continue;
            }
            let from_ns = match self.as_of {
                AsOf::Latest => 0,
                AsOf::EventTime => rows.event_ns.as_ref().map_or(0, |times| times.get(row)),
            };
            known.put(from_ns, bytes);
            if let Some(passed_ns) = passed_ns {
                known.forget(passed_ns);
            }
        }
    }

    /// Takes rows: those that need not wait go on at once.
    fn take(&mut self, rows: &Rows, bound_ns: i64, out: &mut StepOutput) {
        let keys = self.keys[ROWS].encode(rows);
        let nulls = self.nulls(ROWS, rows);
        let encoded = self.rows.as_ref().and_then(|codec| codec.encode(rows));
        let count = rows.num_rows();
        let mut found: Vec<Option<Box<[u8]>>> = Vec::with_capacity(count);
        let mut goes = vec![true; count];
        for (row, goes) in goes.iter_mut().enumerate() {
            let time_ns = match &rows.event_ns {
                Some(times) => times.get(row),
                None => 0,
            };
            if nulls.as_ref().is_some_and(|nulls| nulls[row]) {
                found.push(None);
                continue;
            }
            let key = keys.get(row);
            if self.wait_ns.is_some() && time_ns >= bound_ns {
                *goes = false;
                let id = self.store.find_or_insert(key, 0, &mut Known::default);
                let Some(known) = self.store.get_mut(id) else { continue };
                let bytes = encoded.as_ref().map_or(&[][..], |rows| rows.row(row).data());
                let (ingest_ns, born_ns) = (rows.ingest_ns.get(row), rows.born_ns.get(row));
                let pending = Pending { ingest_ns, born_ns, row: bytes.into() };
                known.pending.insert((time_ns, rows.position(row)), pending);
                self.times.entry(time_ns).or_default().push(id);
                continue;
            }
            let known = self.store.find(key, 0).and_then(|id| self.store.get(id));
            let at_ns = if self.as_of == AsOf::Latest { 0 } else { time_ns };
            found.push(known.and_then(|known| known.at(at_ns)).map(Into::into));
        }
        match goes.iter().all(|goes| *goes) {
            true => self.give(rows, &found, out),
            false => self.give(&rows.filter(&BooleanArray::from(goes)), &found, out),
        }
    }

    /// Lets the rows go on that waited for times before the bound.
    fn release(&mut self, bound_ns: i64) {
        let later = self.times.split_off(&bound_ns);
        let mut due = Vec::new();
        for (time_ns, ids) in std::mem::replace(&mut self.times, later) {
            for id in ids {
                let Some(known) = self.store.get_mut(id) else { continue };
                let next = known.pending.range((time_ns, RowPosition::default())..).next();
                let Some(key) = next.map(|(key, _)| key.clone()).filter(|(at, _)| *at == time_ns) else { continue };
                let Some(pending) = known.pending.remove(&key) else { continue };
                let at_ns = if self.as_of == AsOf::Latest { 0 } else { time_ns };
                let found = known.at(at_ns).map(Into::into);
                if known.versions.is_empty() && known.pending.is_empty() {
                    self.store.remove(id);
                }
                due.push(Due { time_ns, position: key.1, pending, found });
            }
        }
        due.sort_by(|a, b| a.position.cmp(&b.position));
        self.due.extend(due);
    }

    /// Puts a portion of the rows out that waited.
    fn portion(&mut self, out: &mut StepOutput) {
        let count = self.due.len().min(PORTION_ROWS);
        let Some(codec) = self.rows.as_ref().filter(|_| count > 0) else { return };
        let due: Vec<Due> = self.due.drain(..count).collect();
        let columns = codec.decode(due.iter().map(|due| Some(&*due.pending.row)));
        let times = |of: fn(&Due) -> i64| Times::Each(due.iter().map(of).collect());
        let rows = Rows {
            batch: assemble(&self.rows_schema, columns, count),
            positions: Positions::Mixed {
                origins: due.iter().map(|due| due.position.origin).collect(),
                offsets: due.iter().map(|due| due.position.offset).collect(),
                suffixes: Some(BinaryArray::from_iter_values(due.iter().map(|due| &due.position.suffix))),
            },
            ingest_ns: times(|due| due.pending.ingest_ns),
            born_ns: times(|due| due.pending.born_ns),
            event_ns: self.timed_rows.then(|| times(|due| due.time_ns)),
            removes: None,
        };
        let found: Vec<Option<Box<[u8]>>> = due.into_iter().map(|due| due.found).collect();
        self.give(&rows, &found, out);
    }

    /// Puts rows out with what the table says of each.
    fn give(&self, rows: &Rows, found: &[Option<Box<[u8]>>], out: &mut StepOutput) {
        let count = rows.num_rows();
        if count == 0 {
            return;
        }
        if self.missing != Missing::Keep && found.iter().any(Option::is_none) {
            let mask: BooleanArray = found.iter().map(|found| Some(found.is_some())).collect();
            match self.missing {
                Missing::Error => {
                    let error = || RowError::new("missing", "the table has no row with this key");
                    let failed = (0..count).filter(|row| found[*row].is_none()).map(|row| (row, error()));
                    fail(&self.step, rows, failed.collect(), out);
                }
                _ => out.dropped += (count - mask.true_count()) as u64,
            }
            let there: Vec<Option<Box<[u8]>>> = found.iter().filter(|found| found.is_some()).cloned().collect();
            self.give(&rows.filter(&mask), &there, out);
            return;
        }
        let table = self.table.decode(found.iter().map(|found| found.as_deref()));
        let mut columns: Vec<ArrayRef> = self.rows_wanted.iter().map(|at| rows.batch.column(*at).clone()).collect();
        columns.extend(self.table_wanted.iter().map(|at| table[*at].clone()));
        let mut rows = rows.with_batch(assemble(&self.output, columns, count));
        if !self.gives_event_time {
            rows.event_ns = None;
        }
        out.give(0, rows);
    }
}

kept_by_key!(Enrich, |step| step.keys[ROWS].types());

impl EpochStep for Enrich {
    fn state(&mut self) -> Option<&mut dyn StepState> {
        Some(self)
    }

    fn close(&mut self, moment: &Moment, inputs: Vec<Vec<Rows>>, out: &mut StepOutput) {
        let watermark = |input: usize| moment.watermark_ns.get(input).copied().flatten();
        // Rows from before this time are not waited for: the table can't say otherwise any more, or not in time.
        let known_ns = match (watermark(TABLE), self.as_of) {
            (Some(i64::MAX), _) => i64::MAX,
            (Some(at_ns), AsOf::EventTime) => at_ns,
            _ => i64::MIN,
        };
        let waited_ns = match (watermark(ROWS), self.wait_ns) {
            (Some(at_ns), Some(wait_ns)) if wait_ns < i64::MAX => match at_ns {
                i64::MAX => i64::MAX,
                at_ns => at_ns.saturating_sub(wait_ns).saturating_add(1),
            },
            _ => i64::MIN,
        };
        let bound_ns = known_ns.max(waited_ns);
        let late_ns = moment.late_ns.first().copied().flatten();
        let mut inputs = inputs.into_iter();
        let rows = inputs.next().unwrap_or_default();
        for table in inputs.next().unwrap_or_default() {
            self.learn(&table, late_ns);
        }
        self.release(bound_ns);
        for rows in rows {
            self.take(&rows, bound_ns, out);
        }
        self.waiting.set(!self.times.is_empty());
    }

    fn resume(&mut self, out: &mut StepOutput) -> bool {
        self.portion(out);
        self.store.settle();
        !self.due.is_empty()
    }
}
