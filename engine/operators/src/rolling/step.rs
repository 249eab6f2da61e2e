//! `rolling` at work on a worker: rows in canonical order or in that of event time, each looking back over its key.

use super::expire::Silent;
use super::order::InOrder;
use super::plan::{Back, Order, Reach, RollingPlan, beside};
use super::tree::{Fold, Keep, KeyRows, NewRow, Shape, Window};
use crate::RenderCx;
use crate::aggregates::states::CallState;
use crate::aggregates::{Arguments, Calls, Form, Results};
use crate::keyed::{Keys, LatePort, Waiting, kept_by_key};
use crate::render::{assemble, evaluate, fail, give_sound};
use arrow::array::{ArrayRef, BooleanArray, UInt32Array};
use arrow::datatypes::{Field, Schema, SchemaRef};
use engine_base::RowError;
use engine_dataflow::{EpochStep, Moment, Rows, StepOutput, StepState};
use engine_expr::Program;
use engine_plan::{Planned, hidden};
use engine_state::{SlotId, SlotStore};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Makes the step of a planned `rolling` on a worker.
pub fn render(planned: &dyn Planned, cx: &RenderCx<'_>) -> Result<Box<dyn EpochStep>, String> {
    let plan: &RollingPlan = crate::planned(planned, "rolling")?;
    let step = Rolling::new(plan, cx, cx.store()).map_err(|error| error.to_string())?;
    Ok(Box::new(step))
}

/// By how many rows the state of a key is asked for ahead of its use.
const AHEAD: usize = 8;
/// How many rows that waited are taken before other steps have their turn.
const TAKE_ROWS: usize = 8_192;

pub(super) struct Rolling {
    step: Arc<str>,
    store: Box<dyn SlotStore<KeyRows>>,
    keys: Keys,
    calls: Calls,
    fold: Fold,
    /// The sizes of a key's parts, once all calls are known.
    shape: Shape,
    /// Windows that calls ask for; several calls may share one.
    windows: Vec<WindowKind>,
    columns: Vec<OutputColumn>,
    /// Places of the input's columns in the output.
    passed: Vec<usize>,
    output: SchemaRef,
    keeps_event_time: bool,
    late: LatePort,
    reach: Reach,
    /// Where rows are taken in the order of event time.
    in_order: Option<InOrder>,
    /// Where keys are freed.
    silent: Option<Silent>,
    /// The watermark before the epoch, nanoseconds.
    watermark_ns: Option<i64>,
    waiting: Waiting,
}

/// A window and the states that are combined over it.
struct WindowKind {
    over: Back,
    exclude_current: bool,
    states: Vec<CallState>,
}

/// A new column: its calls and what is computed from their results.
struct OutputColumn {
    calls: std::ops::Range<usize>,
    schema: SchemaRef,
    /// Columns of the input that the expression reads as `current.x`.
    current: Vec<usize>,
    program: Program,
}

impl Rolling {
    pub(super) fn new(
        plan: &RollingPlan,
        cx: &RenderCx<'_>,
        store: Box<dyn SlotStore<KeyRows>>,
    ) -> Result<Self, String> {
        let input = cx.inputs.first().ok_or("rolling without an input")?;
        let place = |name: &str| input.index_of(name).map_err(|_| format!("column `{name}` is not in the input"));
        let wanted = cx.wanted.first().ok_or("rolling without an output")?;
        let mut rolling = Rolling {
            step: cx.step.clone(),
            store,
            keys: Keys::new(&plan.key, input)?,
            calls: Calls::default(),
            fold: Fold::default(),
            shape: Shape::default(),
            windows: Vec::new(),
            columns: Vec::new(),
            passed: Vec::new(),
            output: Arc::new(Schema::empty()),
            keeps_event_time: wanted.contains(hidden::EVENT_TIME),
            late: LatePort::new(cx, 1)?,
            reach: plan.reach,
            in_order: (plan.order == Order::EventTime).then(|| InOrder::new(input)).transpose()?,
            silent: match plan.order {
                Order::Arrival => Silent::new(&plan.reach, plan.reach.late_ns.unwrap_or(0)),
                // What the watermark has passed is late.
                Order::EventTime => Silent::new(&plan.reach, 0),
            },
            watermark_ns: None,
            waiting: Waiting::new(cx),
        };
        let mut fields = Vec::new();
        for field in plan.output.fields() {
            if wanted.contains(field.name())
                && let Some((at, _)) = plan.input.column_with_name(field.name())
            {
                rolling.passed.push(place(plan.input.field(at).name())?);
                fields.push(field.clone());
            }
        }
        for column in plan.columns.iter().filter(|column| wanted.contains(&column.name)) {
            let first = rolling.calls.calls.len();
            let window = rolling.window(column.over, column.exclude_current);
            for call in &column.aggregation.calls {
                rolling.calls.add(call, window, input)?;
            }
            let calls = first..rolling.calls.calls.len();
            let results = column.aggregation.calls.iter().enumerate();
            let mut inner: Vec<Field> =
                results.map(|(at, call)| Field::new(format!("${at}"), call.data_type.clone(), true)).collect();
            let mut current = Vec::new();
            for name in column.aggregation.current_columns() {
                let at = place(beside(name))?;
                current.push(at);
                inner.push(input.field(at).clone().with_name(name));
            }
            let schema: SchemaRef = Arc::new(Schema::new(inner));
            let program = column.aggregation.finish(&schema).map_err(|error| error.message)?;
            rolling.columns.push(OutputColumn { calls, schema, current, program });
            let aggregation = &column.aggregation;
            let field = Field::new(&column.name, aggregation.data_type.clone(), column.nullable());
            fields.push(Arc::new(field));
        }
        rolling.calls = rolling.calls.placed();
        for (at, window) in rolling.windows.iter_mut().enumerate() {
            window.states = rolling.calls.states_over(at);
        }
        let size = |words: usize| u16::try_from(words).map_err(|_| "rolling with more aggregates than it can keep");
        rolling.shape = Shape {
            words: size(rolling.calls.words)?,
            row_words: size(rolling.calls.row_words())?,
            extras: size(rolling.calls.extras)?,
        };
        rolling.output = Arc::new(Schema::new(fields));
        Ok(rolling)
    }

    fn window(&mut self, over: Back, exclude_current: bool) -> usize {
        let same = |window: &WindowKind| window.over == over && window.exclude_current == exclude_current;
        self.windows.iter().position(same).unwrap_or_else(|| {
            self.windows.push(WindowKind { over, exclude_current, states: Vec::new() });
            self.windows.len() - 1
        })
    }

    /// Takes up a slot that was put back.
    fn restored(&mut self, id: SlotId, _key: &[u8], _slice: i64) {
        let Some(state) = self.store.get(id) else { return };
        if let Some(in_order) = &mut self.in_order {
            in_order.restored(id, state);
        }
        if let Some(silent) = &mut self.silent {
            // It goes where it belongs when it is looked at.
            silent.add(id, state.greatest_ns().unwrap_or(i64::MIN));
        }
    }

    /// How many keys are kept.
    #[cfg(test)]
    pub(super) fn keys_kept(&self) -> usize {
        self.store.len()
    }

    /// One batch in the order in which its rows are taken.
    fn batch(&mut self, rows: &Rows, out: &mut StepOutput) {
        let count = rows.num_rows();
        let mut failed: BTreeMap<usize, RowError> = BTreeMap::new();
        let arguments = self.calls.arguments(rows, &mut failed);
        let keys = self.keys.encode(rows);

        let mut results: Vec<Results> = self.calls.calls.iter().map(|call| call.results(count)).collect();
        let mut kept: Vec<u32> = Vec::with_capacity(count);
        let mut late: Vec<u32> = Vec::new();
        let mut new_row = vec![0u64; usize::from(self.shape.row_words)];
        let mut new_extras: Vec<Option<Box<[u8]>>> = Vec::new();
        let mut combined = vec![vec![0u64; self.calls.words]; self.windows.len()];
        let shape = self.shape;
        let by_time = self.in_order.is_some();
        // The plan refuses inputs without event time, and the source makes a null one an error row.
        let time_of = |row: usize| rows.event_ns.as_ref().map_or(0, |times| times.get(row));
        let mut slots: Vec<Option<SlotId>> = Vec::with_capacity(count);
        for row in 0..count {
            // The memory is asked for what later rows will need while this one is worked on: first for the slot of the key,
            // then for its rows.
            if row + 3 * AHEAD < count {
                self.store.prefetch(keys.get(row + 3 * AHEAD), 0);
            }
            while slots.len() < count.min(row + 2 * AHEAD) {
                let row = slots.len();
                let sound = failed.is_empty() || !failed.contains_key(&row);
                let mut new = false;
                let make = &mut || {
                    new = true;
                    KeyRows::new(shape)
                };
                slots.push(sound.then(|| self.store.find_or_insert(keys.get(row), 0, make)));
                if new && let (Some(silent), Some(Some(slot))) = (&mut self.silent, slots.last()) {
                    silent.add(*slot, time_of(row));
                }
            }
            if let Some(state) = slots.get(row + AHEAD).and_then(|slot| self.store.get((*slot)?)) {
                state.prefetch();
            }
            let Some(slot) = slots[row] else { continue };
            let time_ns = time_of(row);
            let Some(state) = self.store.get_mut(slot) else { continue };
            let greatest = state.greatest_with(time_ns);
            let reached = if by_time { greatest } else { self.watermark_ns.map_or(greatest, |at| at.max(greatest)) };
            if self.reach.late_ns.is_some_and(|late_ns| time_ns <= reached.saturating_sub(late_ns)) {
                late.push(row as u32);
                continue;
            }
            let silent_since = |expire_ns: i64| {
                state.greatest_ns().is_some_and(|greatest_ns| greatest_ns.saturating_add(expire_ns) <= time_ns)
            };
            if self.reach.expire_ns.is_some_and(silent_since) {
                state.begin_anew();
            }
            if state.is_dormant() {
                state.revive(&self.calls.states, &mut self.fold);
            }
            let kept_after_ns = self.reach.kept_after_ns(greatest);
            new_row.fill(0);
            self.calls.keep(&arguments, row, &mut new_row, &mut new_extras);
            let after_ns = |over_ns: i64| time_ns.saturating_sub(over_ns).max(kept_after_ns);
            let row_before_ns = state.last_ns();
            // Windows without the row itself are read before it goes in, the others after.
            for before in [true, false] {
                for (at, window) in self.windows.iter().enumerate() {
                    if window.exclude_current == before {
                        let span = match window.over {
                            Back::Time(over_ns) => Window::of_time(after_ns(over_ns), time_ns),
                            Back::Rows(rows) => state.last_rows(rows),
                        };
                        if !window.states.is_empty() {
                            state.combine(span, &window.states, &mut self.fold, &mut combined[at]);
                        }
                        for (call, result) in self.calls.calls.iter().zip(&mut results) {
                            if call.window == at
                                && let Form::Extra { at: extra, encoder, .. } = &call.form
                            {
                                let inside = state.extras_in(span, *extra);
                                if let Err(error) = call.read_again(inside, encoder, result) {
                                    failed.insert(row, error);
                                }
                            }
                        }
                    }
                }
                if before {
                    let anchor = if by_time { time_ns as u64 ^ 1 << 63 } else { rows.positions.source(row).1 };
                    let new = NewRow { time_ns, anchor, row: &new_row, extras: &mut new_extras };
                    let keep = Keep { after_ns: kept_after_ns, rows: self.reach.rows };
                    state.push(new, keep, &self.calls.states, &mut self.fold);
                }
            }
            for ((call, argument), result) in self.calls.calls.iter().zip(&arguments.of).zip(&mut results) {
                match (&call.form, argument) {
                    (Form::Words(words), _) => {
                        let words_of = &combined[call.window][words.at..words.at + words.kind.words()];
                        if let Err(error) = call.finish(words.kind, words_of, result) {
                            failed.insert(row, error);
                        }
                    }
                    (Form::Lag { at, encoder }, Arguments::Encoded(values)) => {
                        // Beyond the window it is as if there had been none: a restart would not know it either.
                        let window = &self.windows[call.window];
                        let within = row_before_ns.is_some_and(|before_ns| match window.over {
                            Back::Time(over_ns) => after_ns(over_ns) < before_ns,
                            Back::Rows(rows) => rows > 1 || window.exclude_current,
                        });
                        let before = state.lag(*at).filter(|bytes| within && !bytes.is_empty());
                        let before = before.map(|bytes| encoder.parser().parse(bytes).owned());
                        if let Results::Encoded(found) = result {
                            found.push(before);
                        }
                        state.set_lag(*at, values.row(row).as_ref());
                    }
                    _ => {}
                }
            }
            kept.push(row as u32);
        }
        self.late.give(rows, late, out);
        let whole = kept.len() == count;
        let mut kept_rows = if whole { rows.clone() } else { rows.take(&UInt32Array::from(kept.clone())) };
        let arrays: Vec<ArrayRef> =
            self.calls.calls.iter().zip(results).map(|(call, result)| call.array(result)).collect();
        let mut columns: Vec<ArrayRef> = self.passed.iter().map(|at| kept_rows.batch.column(*at).clone()).collect();
        for column in &mut self.columns {
            let mut inner: Vec<ArrayRef> = arrays[column.calls.clone()].to_vec();
            inner.extend(column.current.iter().map(|at| kept_rows.batch.column(*at).clone()));
            let inner = kept_rows.with_batch(assemble(&column.schema, inner, kept_rows.num_rows()));
            let evaluated = evaluate(&mut column.program, &inner);
            for (at, error) in evaluated.errors {
                failed.insert(kept[at] as usize, error);
            }
            columns.push(evaluated.array);
        }
        if !self.keeps_event_time {
            kept_rows.event_ns = None;
        }
        if failed.is_empty() {
            let batch = assemble(&self.output, columns, kept_rows.num_rows());
            out.give(0, kept_rows.with_batch(batch));
            return;
        }
        // Rows that failed only at their results are in the state all the same: the next row of the key sees them.
        let good: BooleanArray = kept.iter().map(|row| Some(!failed.contains_key(&(*row as usize)))).collect();
        fail(&self.step, rows, failed.into_iter().collect(), out);
        give_sound(&kept_rows, &self.output, columns, &good, out);
    }
}

kept_by_key!(Rolling, |step| step.keys.types());

impl EpochStep for Rolling {
    fn state(&mut self) -> Option<&mut dyn StepState> {
        Some(self)
    }

    fn close(&mut self, moment: &Moment, inputs: Vec<Vec<Rows>>, out: &mut StepOutput) {
        self.watermark_ns = moment.late_ns.first().copied().flatten();
        if let (Some(silent), Some(watermark_ns)) = (&mut self.silent, self.watermark_ns) {
            silent.free(watermark_ns, &mut *self.store);
        }
        let Some(in_order) = &mut self.in_order else {
            inputs.iter().flatten().for_each(|rows| self.batch(rows, out));
            return;
        };
        for rows in inputs.iter().flatten() {
            let keys = self.keys.encode(rows);
            let late = in_order.take(rows, &keys, self.watermark_ns, &mut *self.store, self.shape, &mut self.silent);
            self.late.give(rows, late, out);
        }
        if let Some(watermark_ns) = moment.watermark_ns.first().copied().flatten() {
            in_order.pass(watermark_ns, &mut *self.store);
        }
        self.waiting.set(in_order.waits());
    }

    fn resume(&mut self, out: &mut StepOutput) -> bool {
        self.store.settle();
        let Some(in_order) = &mut self.in_order else { return false };
        let Some(rows) = in_order.portion(TAKE_ROWS) else { return false };
        let more = in_order.has_due();
        self.batch(&rows, out);
        more
    }
}
