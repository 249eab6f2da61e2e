//! `rolling` at work on a worker: the rows of an epoch in canonical order, each looking back over its key.

use super::calls::{CallState, StateKind};
use super::plan::{RollingPlan, beside};
use super::tree::{Fold, KeyRows, NewRow, Shape, Window};
use crate::RenderCx;
use crate::render::{assemble, compile, evaluate, fail};
use arrow::array::{
    Array, ArrayRef, AsArray, BooleanArray, Float64Builder, Int64Builder, PrimitiveArray, UInt32Array, new_null_array,
};
use arrow::compute::{cast, concat};
use arrow::datatypes::{DataType, Field, Float64Type, Int64Type, Schema, SchemaRef};
use arrow::row::{OwnedRow, RowConverter, Rows as EncodedRows, SortField};
use engine_base::{Epoch, RowError};
use engine_dataflow::{EpochStep, Rows, StepOutput};
use engine_expr::{AggregateCall, AggregateFunction, Program};
use engine_plan::{Planned, hidden};
use engine_state::{MemoryStore, SlotId, SlotStore};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Makes the step of a planned `rolling` on a worker.
pub fn render(planned: &dyn Planned, cx: &RenderCx<'_>) -> Result<Box<dyn EpochStep>, String> {
    let plan: &RollingPlan = crate::planned(planned, "rolling")?;
    let step = Rolling::new(plan, cx, Box::new(MemoryStore::new())).map_err(|error| error.to_string())?;
    Ok(Box::new(step))
}

/// By how many rows the state of a key is asked for ahead of its use.
const AHEAD: usize = 8;

struct Rolling {
    step: Arc<str>,
    store: Box<dyn SlotStore<KeyRows>>,
    key: Vec<usize>,
    key_encoder: RowConverter,
    calls: Vec<Call>,
    /// The states of all calls that fit in words, each once.
    states: Vec<CallState>,
    /// For each state what it is made of, and the call whose arguments and filter it goes by.
    states_of: Vec<(String, usize)>,
    /// The arguments that rows keep: what each is made of.
    values: Vec<String>,
    words: usize,
    fold: Fold,
    extras: usize,
    /// The sizes of a key's parts, once all calls are known.
    shape: Shape,
    lags: usize,
    /// Windows that calls ask for; several calls may share one.
    windows: Vec<WindowKind>,
    columns: Vec<OutputColumn>,
    /// Places of the input's columns in the output.
    passed: Vec<usize>,
    output: SchemaRef,
    keeps_event_time: bool,
    late_columns: Vec<usize>,
    late_read: bool,
    over_ns: i64,
    max_delay_ns: i64,
}

/// A window and the states that are combined over it.
struct WindowKind {
    over_ns: i64,
    exclude_current: bool,
    states: Vec<CallState>,
}

/// An aggregate call of some column.
struct Call {
    window: usize,
    argument: Option<Program>,
    filter: Option<Program>,
    form: Form,
    call: AggregateCall,
}

/// How a call is kept and computed.
enum Form {
    /// As words, merged in the tree.
    Words(CallState),
    /// As the encoded arguments of each row, read again for each result.
    Extra { at: usize, encoder: RowConverter, arguments: Vec<Program> },
    /// The argument at the row before.
    Lag { at: usize, encoder: RowConverter },
}

/// A new column: its calls and what is computed from their results.
struct OutputColumn {
    calls: std::ops::Range<usize>,
    schema: SchemaRef,
    /// Columns of the input that the expression reads as `current.x`.
    current: Vec<usize>,
    program: Program,
}

/// The evaluated arguments of a call for a batch.
enum Arguments {
    None,
    Ints(PrimitiveArray<Int64Type>),
    Floats(PrimitiveArray<Float64Type>),
    Encoded(EncodedRows),
}

/// The results of a call for the rows of a batch.
enum Results {
    Ints(Int64Builder),
    Floats(Float64Builder),
    Encoded(Vec<Option<OwnedRow>>),
    Arrays(Vec<ArrayRef>),
}

impl Rolling {
    fn new(plan: &RollingPlan, cx: &RenderCx<'_>, store: Box<dyn SlotStore<KeyRows>>) -> Result<Self, String> {
        let input = cx.inputs.first().ok_or("rolling without an input")?;
        let place = |name: &str| input.index_of(name).map_err(|_| format!("column `{name}` is not in the input"));
        let key = plan.key.iter().map(|name| place(name)).collect::<Result<Vec<_>, _>>()?;
        let fields = key.iter().map(|at| SortField::new(input.field(*at).data_type().clone())).collect();
        let key_encoder = RowConverter::new(fields).map_err(|error| error.to_string())?;
        let wanted = cx.wanted.first().ok_or("rolling without an output")?;
        let mut rolling = Rolling {
            step: cx.step.clone(),
            store,
            key,
            key_encoder,
            calls: Vec::new(),
            states: Vec::new(),
            states_of: Vec::new(),
            values: Vec::new(),
            words: 0,
            fold: Fold::default(),
            extras: 0,
            shape: Shape::default(),
            lags: 0,
            windows: Vec::new(),
            columns: Vec::new(),
            passed: Vec::new(),
            output: Arc::new(Schema::empty()),
            keeps_event_time: wanted.contains(hidden::EVENT_TIME),
            late_columns: Vec::new(),
            late_read: cx.read.get(1).copied().unwrap_or(false),
            over_ns: plan.over_ns,
            max_delay_ns: plan.max_delay_ns,
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
            let first = rolling.calls.len();
            let window = rolling.window(column.over_ns, column.exclude_current);
            for call in &column.aggregation.calls {
                rolling.add_call(call, window, input)?;
            }
            let calls = first..rolling.calls.len();
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
        rolling.place_values();
        let size = |words: usize| u16::try_from(words).map_err(|_| "rolling with more aggregates than it can keep");
        rolling.shape = Shape {
            words: size(rolling.words)?,
            row_words: size(CallState::mask_words(rolling.states.len()) + rolling.values.len())?,
            extras: size(rolling.extras)?,
        };
        rolling.output = Arc::new(Schema::new(fields));
        let late = cx.wanted.get(1).cloned().unwrap_or_default();
        let names = plan.input.fields().iter().filter(|field| late.contains(field.name()));
        rolling.late_columns = names.map(|field| place(field.name())).collect::<Result<_, _>>()?;
        Ok(rolling)
    }

    fn window(&mut self, over_ns: i64, exclude_current: bool) -> usize {
        let same = |window: &WindowKind| window.over_ns == over_ns && window.exclude_current == exclude_current;
        self.windows.iter().position(same).unwrap_or_else(|| {
            self.windows.push(WindowKind { over_ns, exclude_current, states: Vec::new() });
            self.windows.len() - 1
        })
    }

    fn add_call(&mut self, call: &AggregateCall, window: usize, input: &SchemaRef) -> Result<(), String> {
        let filter = call.filter.as_ref().map(|filter| compile(filter, input)).transpose()?;
        let argument_type = call.args.first().map(|argument| argument.data_type().clone());
        let form = if call.function == AggregateFunction::Lag {
            let data_type = argument_type.ok_or("lag takes a value")?;
            self.lags += 1;
            Form::Lag { at: self.lags - 1, encoder: encoder([&data_type])? }
        } else if let Some(kind) = word_state(call, argument_type.as_ref()) {
            Form::Words(self.state(kind, call, window))
        } else {
            let arguments = call.args.iter().map(|argument| compile(argument, input)).collect::<Result<_, _>>()?;
            self.extras += 1;
            let encoder = encoder(call.args.iter().map(|argument| argument.data_type()))?;
            Form::Extra { at: self.extras - 1, encoder, arguments }
        };
        let argument = match &form {
            Form::Extra { .. } => None,
            // Another call evaluates it.
            Form::Words(state) if self.states_of[state.index].1 < self.calls.len() => None,
            _ => call.args.first().map(|argument| compile(argument, input)).transpose()?,
        };
        self.calls.push(Call { window, argument, filter, form, call: call.clone() });
        Ok(())
    }

    /// The state of a call, one with another where both are the same.
    fn state(&mut self, kind: StateKind, call: &AggregateCall, window: usize) -> CallState {
        let text = |scalar: Option<&engine_expr::Scalar>| scalar.map(|scalar| scalar.text().to_owned());
        let (argument, filter) = (text(call.args.first()), text(call.filter.as_ref()));
        let made_of = format!("{kind:?} of {argument:?} where {filter:?}");
        let index = self.states_of.iter().position(|(known, _)| *known == made_of).unwrap_or_else(|| {
            // A float and an integer of one text differ in their bits.
            let value = argument.filter(|_| kind != StateKind::Count).map(|argument| {
                let value = format!("{argument} as {}", if kind.of_floats() { "float" } else { "integer" });
                self.values.iter().position(|known| *known == value).unwrap_or_else(|| {
                    self.values.push(value);
                    self.values.len() - 1
                })
            });
            let index = self.states.len();
            self.states.push(CallState { kind, at: self.words, index, value });
            self.states_of.push((made_of, self.calls.len()));
            self.words += kind.words();
            index
        });
        let state = self.states[index];
        let of_window = &mut self.windows[window].states;
        if !of_window.contains(&state) {
            of_window.push(state);
        }
        state
    }

    /// Values stand behind the mask, whose length is known once all states are.
    fn place_values(&mut self) {
        let masks = CallState::mask_words(self.states.len());
        let place = |state: &mut CallState| state.value = state.value.map(|value| masks + value);
        self.states.iter_mut().for_each(place);
        self.windows.iter_mut().flat_map(|window| &mut window.states).for_each(place);
    }

    /// One batch in canonical order.
    fn batch(&mut self, rows: &Rows, out: &mut StepOutput) {
        let count = rows.num_rows();
        let mut failed: BTreeMap<usize, RowError> = BTreeMap::new();
        let mut arguments = Vec::with_capacity(self.calls.len());
        let mut filters = Vec::with_capacity(self.calls.len());
        for call in &mut self.calls {
            filters.push(call.filter.as_mut().map(|filter| {
                let evaluated = evaluate(filter, rows);
                failed.extend(evaluated.errors);
                as_mask(&evaluated.array)
            }));
            arguments.push(call.arguments(rows, &mut failed));
        }
        let keys: Vec<ArrayRef> = self.key.iter().map(|at| rows.batch.column(*at).clone()).collect();
        let keys = self
            .key_encoder
            .convert_columns(&keys)
            .unwrap_or_else(|error| panic!("key columns changed their types: {error}"));

        let mut results: Vec<Results> = self.calls.iter().map(|call| call.results(count)).collect();
        let mut kept: Vec<u32> = Vec::with_capacity(count);
        let mut late: Vec<u32> = Vec::new();
        let mut new_row = vec![0u64; usize::from(self.shape.row_words)];
        let mut new_extras: Vec<Option<Box<[u8]>>> = Vec::new();
        let mut combined = vec![vec![0u64; self.words]; self.windows.len()];
        let mut spans = vec![Window { after_ns: 0, until_ns: 0 }; self.windows.len()];
        let shape = self.shape;
        let mut slots: Vec<Option<SlotId>> = Vec::with_capacity(count);
        for row in 0..count {
            // The memory is asked for what later rows will need while this one is worked on: first for the slot of the key,
            // then for its rows.
            if row + 3 * AHEAD < count {
                self.store.prefetch(keys.row(row + 3 * AHEAD).as_ref(), 0);
            }
            while slots.len() < count.min(row + 2 * AHEAD) {
                let row = slots.len();
                let sound = failed.is_empty() || !failed.contains_key(&row);
                let make = &mut || KeyRows::new(shape);
                slots.push(sound.then(|| self.store.find_or_insert(keys.row(row).as_ref(), 0, make)));
            }
            if let Some(state) = slots.get(row + AHEAD).and_then(|slot| self.store.get((*slot)?)) {
                state.prefetch();
            }
            let Some(slot) = slots[row] else { continue };
            // The plan refuses inputs without event time, and the source makes a null one an error row.
            let time_ns = rows.event_ns.as_ref().map_or(0, |times| times.get(row));
            let Some(state) = self.store.get_mut(slot) else { continue };
            if state.is_dormant() {
                state.revive(&self.states, &mut self.fold);
            }
            let greatest = state.greatest_with(time_ns);
            let keep_after_ns = greatest.saturating_sub(self.over_ns).saturating_sub(self.max_delay_ns);
            if time_ns <= keep_after_ns {
                late.push(row as u32);
                continue;
            }
            new_row.fill(0);
            for (state, (_, call)) in self.states.iter().zip(&self.states_of) {
                let there = match (&arguments[*call], state.value) {
                    (Arguments::Ints(values), value) if values.is_valid(row) => {
                        value.into_iter().for_each(|at| new_row[at] = values.value(row) as u64);
                        true
                    }
                    (Arguments::Floats(values), Some(at)) if values.is_valid(row) => {
                        new_row[at] = values.value(row).to_bits();
                        true
                    }
                    (Arguments::None, _) => true,
                    _ => false,
                };
                if there && filters[*call].as_ref().is_none_or(|mask| mask.value(row)) {
                    state.set(&mut new_row);
                }
            }
            for ((call, argument), filter) in self.calls.iter().zip(&arguments).zip(&filters) {
                if let Form::Extra { .. } = call.form {
                    let counts = filter.as_ref().is_none_or(|mask| mask.value(row));
                    new_extras.push(match argument {
                        Arguments::Encoded(values) if counts => Some(values.row(row).as_ref().into()),
                        _ => None,
                    });
                }
            }
            for (window, span) in self.windows.iter().zip(&mut spans) {
                let after_ns = time_ns.saturating_sub(window.over_ns).max(keep_after_ns);
                *span = Window { after_ns, until_ns: time_ns };
            }
            let row_before_ns = state.last_ns();
            // Windows without the row itself are read before it goes in, the others after.
            for before in [true, false] {
                for (at, window) in self.windows.iter().enumerate() {
                    if window.exclude_current == before {
                        if !window.states.is_empty() {
                            state.combine(spans[at], &window.states, &mut self.fold, &mut combined[at]);
                        }
                        for (call, result) in self.calls.iter().zip(&mut results) {
                            if call.window == at
                                && let Form::Extra { at: extra, encoder, .. } = &call.form
                            {
                                let inside = state.extras_in(spans[at], *extra);
                                if let Err(error) = call.read_again(inside, encoder, result) {
                                    failed.insert(row, error);
                                }
                            }
                        }
                    }
                }
                if before {
                    let new = NewRow {
                        time_ns,
                        offset: rows.positions.source(row).1,
                        row: &new_row,
                        extras: &mut new_extras,
                    };
                    state.push(new, keep_after_ns, &self.states, &mut self.fold);
                }
            }
            for ((call, argument), result) in self.calls.iter().zip(&arguments).zip(&mut results) {
                match (&call.form, argument) {
                    (Form::Words(words), _) => {
                        let words_of = &combined[call.window][words.at..words.at + words.kind.words()];
                        if let Err(error) = call.finish(words.kind, words_of, result) {
                            failed.insert(row, error);
                        }
                    }
                    (Form::Lag { at, encoder }, Arguments::Encoded(values)) => {
                        // Beyond the window it is as if there had been none: a restart would not know it either.
                        let within = row_before_ns.is_some_and(|time_ns| spans[call.window].after_ns < time_ns);
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
        out.late += late.len() as u64;
        if !self.late_read {
            out.dropped += late.len() as u64;
        }
        if self.late_read && !late.is_empty() {
            let mut rows = rows.take(&UInt32Array::from(late));
            rows.batch = rows.batch.project(&self.late_columns).unwrap_or(rows.batch);
            out.give(1, rows);
        }
        let whole = kept.len() == count;
        let mut kept_rows = if whole { rows.clone() } else { rows.take(&UInt32Array::from(kept.clone())) };
        let arrays: Vec<ArrayRef> = self.calls.iter().zip(results).map(|(call, result)| call.array(result)).collect();
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
        // A column that can't be null is null where its row failed, so the batch is put together after the filter.
        let loose: Vec<Field> =
            self.output.fields().iter().map(|field| field.as_ref().clone().with_nullable(true)).collect();
        let batch = assemble(&Arc::new(Schema::new(loose)), columns, kept_rows.num_rows());
        let filtered = kept_rows.with_batch(batch).filter(&good);
        let batch = assemble(&self.output, filtered.batch.columns().to_vec(), filtered.num_rows());
        out.give(0, filtered.with_batch(batch));
    }
}

impl EpochStep for Rolling {
    fn close(&mut self, _epoch: Epoch, inputs: Vec<Vec<Rows>>, out: &mut StepOutput) {
        for rows in inputs.iter().flatten() {
            self.batch(rows, out);
        }
    }
}

impl Call {
    fn arguments(&mut self, rows: &Rows, failed: &mut BTreeMap<usize, RowError>) -> Arguments {
        let mut value = |program: &mut Program| {
            let evaluated = evaluate(program, rows);
            failed.extend(evaluated.errors);
            evaluated.array
        };
        let encode = |encoder: &RowConverter, columns: &[ArrayRef]| {
            encoder
                .convert_columns(columns)
                .map(Arguments::Encoded)
                .unwrap_or_else(|error| panic!("arguments changed their types: {error}"))
        };
        match (&mut self.form, &mut self.argument) {
            (Form::Words(_), None) => Arguments::None,
            (Form::Words(state), Some(argument)) => {
                let array = value(argument);
                match state.kind {
                    // Only whether a value is there matters.
                    StateKind::Count => {
                        Arguments::Ints(PrimitiveArray::new(vec![0i64; array.len()].into(), array.logical_nulls()))
                    }
                    StateKind::SumFloat | StateKind::Moments | StateKind::MinFloat | StateKind::MaxFloat => {
                        Arguments::Floats(as_type::<Float64Type>(&array))
                    }
                    _ => Arguments::Ints(as_type::<Int64Type>(&array)),
                }
            }
            (Form::Extra { encoder, arguments, .. }, _) => {
                let columns: Vec<ArrayRef> = arguments.iter_mut().map(value).collect();
                encode(encoder, &columns)
            }
            (Form::Lag { encoder, .. }, Some(argument)) => {
                let column = value(argument);
                encode(encoder, &[column])
            }
            (Form::Lag { .. }, None) => Arguments::None,
        }
    }

    fn results(&self, rows: usize) -> Results {
        match &self.form {
            Form::Words(state) => match (state.kind, &self.call.function) {
                (StateKind::Count | StateKind::SumInt | StateKind::MinInt | StateKind::MaxInt, _) => {
                    Results::Ints(Int64Builder::with_capacity(rows))
                }
                _ => Results::Floats(Float64Builder::with_capacity(rows)),
            },
            Form::Lag { .. } => Results::Encoded(Vec::with_capacity(rows)),
            Form::Extra { .. } => match self.call.function {
                AggregateFunction::First | AggregateFunction::Last if !self.call.distinct => {
                    Results::Encoded(Vec::with_capacity(rows))
                }
                _ => Results::Arrays(Vec::with_capacity(rows)),
            },
        }
    }

    /// The result of a combined state.
    fn finish(&self, kind: StateKind, words: &[u64], results: &mut Results) -> Result<(), RowError> {
        let n = StateKind::count(words);
        match results {
            Results::Ints(ints) => match kind {
                StateKind::Count => ints.append_value(n as i64),
                _ if n == 0 => ints.append_null(),
                _ => match kind.int(words) {
                    Ok(value) => ints.append_value(value),
                    Err(_) => {
                        ints.append_null();
                        return Err(RowError::new("overflow", "a sum does not fit in int64"));
                    }
                },
            },
            Results::Floats(floats) => {
                let count = n as f64;
                floats.append_option(match self.call.function {
                    _ if n == 0 => None,
                    AggregateFunction::Avg => Some(StateKind::float(words) / count),
                    AggregateFunction::Variance { population: true } => Some(StateKind::squares(words) / count),
                    AggregateFunction::Stddev { population: true } => Some((StateKind::squares(words) / count).sqrt()),
                    AggregateFunction::Variance { population: false } => {
                        (n > 1).then(|| StateKind::squares(words) / (count - 1.0))
                    }
                    AggregateFunction::Stddev { population: false } => {
                        (n > 1).then(|| (StateKind::squares(words) / (count - 1.0)).sqrt())
                    }
                    _ => Some(StateKind::float(words)),
                });
            }
            Results::Encoded(_) | Results::Arrays(_) => {}
        }
        Ok(())
    }

    /// The result of a call whose rows are read again.
    fn read_again<'a>(
        &self,
        mut inside: impl DoubleEndedIterator<Item = &'a [u8]>,
        encoder: &RowConverter,
        results: &mut Results,
    ) -> Result<(), RowError> {
        match results {
            Results::Encoded(found) => {
                let one = match self.call.function {
                    AggregateFunction::First => inside.next(),
                    _ => inside.next_back(),
                };
                found.push(one.map(|bytes| encoder.parser().parse(bytes).owned()));
                Ok(())
            }
            Results::Arrays(arrays) => {
                let value = self.accumulate(inside, encoder);
                let (array, error) = match value {
                    Ok(array) => (array, None),
                    Err(error) => (new_null_array(&self.call.data_type, 1), Some(error)),
                };
                arrays.push(array);
                error.map_or(Ok(()), Err)
            }
            Results::Ints(_) | Results::Floats(_) => Ok(()),
        }
    }

    fn accumulate<'a>(
        &self,
        inside: impl Iterator<Item = &'a [u8]>,
        encoder: &RowConverter,
    ) -> Result<ArrayRef, RowError> {
        let invalid = |reason: String| RowError::new("invalid", reason);
        let mut accumulator = self.call.accumulator().map_err(|error| invalid(error.message))?;
        let parser = encoder.parser();
        let columns = encoder
            .convert_rows(inside.map(|bytes| parser.parse(bytes)))
            .map_err(|error| invalid(error.to_string()))?;
        if columns.first().is_some_and(|column| !column.is_empty()) {
            accumulator.update(&columns)?;
        }
        accumulator.evaluate()
    }

    /// All results of a batch as a column of the call's type.
    fn array(&self, results: Results) -> ArrayRef {
        let array: ArrayRef = match results {
            Results::Ints(mut ints) => Arc::new(ints.finish()),
            Results::Floats(mut floats) => Arc::new(floats.finish()),
            Results::Arrays(arrays) => {
                let parts: Vec<&dyn Array> = arrays.iter().map(|array| array.as_ref()).collect();
                match parts.as_slice() {
                    [] => new_null_array(&self.call.data_type, 0),
                    parts => concat(parts).unwrap_or_else(|error| panic!("results of one call differ: {error}")),
                }
            }
            Results::Encoded(found) => match &self.form {
                Form::Extra { encoder, .. } | Form::Lag { encoder, .. } => self.decode(&found, encoder),
                Form::Words(_) => new_null_array(&self.call.data_type, found.len()),
            },
        };
        retype(array, &self.call.data_type)
    }

    fn decode(&self, found: &[Option<OwnedRow>], encoder: &RowConverter) -> ArrayRef {
        let decoded = (|| {
            let argument = self.call.args.first().map_or(&self.call.data_type, |argument| argument.data_type());
            let null = encoder.convert_columns(&[new_null_array(argument, 1)])?;
            let rows = found.iter().map(|row| row.as_ref().map_or_else(|| null.row(0), OwnedRow::row));
            let mut columns = encoder.convert_rows(rows)?;
            Ok::<_, arrow::error::ArrowError>(columns.swap_remove(0))
        })();
        decoded.unwrap_or_else(|error| panic!("an encoded argument can't be read back: {error}"))
    }
}

/// The state in words of a call, where it has one.
fn word_state(call: &AggregateCall, argument: Option<&DataType>) -> Option<StateKind> {
    if call.distinct {
        return None;
    }
    let as_int = |data_type: &DataType| {
        matches!(
            data_type,
            DataType::Int8
                | DataType::Int16
                | DataType::Int32
                | DataType::Int64
                | DataType::UInt8
                | DataType::UInt16
                | DataType::UInt32
                | DataType::Timestamp(..)
        )
    };
    match (&call.function, argument) {
        (AggregateFunction::Count, _) if call.args.len() <= 1 => Some(StateKind::Count),
        (AggregateFunction::Sum, Some(DataType::Int64)) => Some(StateKind::SumInt),
        (AggregateFunction::Sum | AggregateFunction::Avg, Some(DataType::Float64)) => Some(StateKind::SumFloat),
        (AggregateFunction::Variance { .. } | AggregateFunction::Stddev { .. }, Some(DataType::Float64)) => {
            Some(StateKind::Moments)
        }
        (AggregateFunction::Min, Some(data_type)) if as_int(data_type) => Some(StateKind::MinInt),
        (AggregateFunction::Max, Some(data_type)) if as_int(data_type) => Some(StateKind::MaxInt),
        (AggregateFunction::Min, Some(DataType::Float64)) => Some(StateKind::MinFloat),
        (AggregateFunction::Max, Some(DataType::Float64)) => Some(StateKind::MaxFloat),
        _ => None,
    }
}

fn encoder<'a>(types: impl IntoIterator<Item = &'a DataType>) -> Result<RowConverter, String> {
    let fields = types.into_iter().map(|data_type| SortField::new(data_type.clone())).collect();
    RowConverter::new(fields).map_err(|error| error.to_string())
}

/// A column as another type that holds all its values: the plan chose the pair.
fn retype(array: ArrayRef, to: &DataType) -> ArrayRef {
    if array.data_type() == to {
        return array;
    }
    cast(&array, to).unwrap_or_else(|error| panic!("a result can't be read as its own type: {error}"))
}

fn as_type<T: arrow::datatypes::ArrowPrimitiveType>(array: &ArrayRef) -> PrimitiveArray<T> {
    retype(array.clone(), &T::DATA_TYPE).as_primitive::<T>().clone()
}

/// A boolean column as a mask without nulls: null is false.
fn as_mask(array: &ArrayRef) -> BooleanArray {
    let mask = array.as_boolean();
    if mask.null_count() == 0 { mask.clone() } else { arrow::compute::prep_null_mask_filter(mask) }
}
