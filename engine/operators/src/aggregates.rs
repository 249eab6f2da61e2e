//! Aggregate calls of a step over a window of rows: their arguments, their states, their results.
//!
//! Calls whose states fit in a few words ([`states`]) share them; for the others (`median`, `array_agg`, distinct ones)
//! the encoded arguments of the rows are kept, and read again for each result.

pub(crate) mod layout;
pub(crate) mod states;

use crate::render::{compile, evaluate};
use arrow::array::{
    Array, ArrayRef, AsArray, BooleanArray, Float64Builder, Int64Builder, PrimitiveArray, new_null_array,
};
use arrow::compute::{SortOptions, cast, concat};
use arrow::datatypes::{DataType, Float64Type, Int64Type, SchemaRef};
use arrow::row::{OwnedRow, RowConverter, Rows as EncodedRows, SortField};
use engine_base::RowError;
use engine_dataflow::Rows;
use engine_expr::{AggregateCall, AggregateFunction, Aggregation, OrderBy, Program};
use states::{CallState, StateKind};
use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

/// All aggregate calls of a step.
#[derive(Default)]
pub(crate) struct Calls {
    pub(crate) calls: Vec<Call>,
    /// The states of all calls that fit in words, each once.
    pub(crate) states: Vec<CallState>,
    /// For each state what it is made of, and the call whose arguments and filter it goes by.
    states_of: Vec<(String, usize)>,
    /// The arguments that rows keep: what each is made of.
    values: Vec<String>,
    /// Words of the states together.
    pub(crate) words: usize,
    /// How many calls keep encoded arguments.
    pub(crate) extras: usize,
    /// For each of them, which arguments a pane keeps.
    kept: Vec<KeptOf>,
    lags: usize,
}

/// Which of the encoded arguments of a call are kept, and how a null is encoded.
struct KeptOf {
    keeps: Keeps,
    null: Box<[u8]>,
}

/// Which of the encoded arguments of a call its result needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Keeps {
    /// All, in the order of the rows.
    Each,
    /// Equal ones once.
    Once,
    /// One alone.
    One(Best),
}

/// Which of all arguments is the one. The encoding of values compares as they do, and nulls come before all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Best {
    Least,
    Greatest,
    First,
    Last,
    /// By the keys of an order, of equal ones the first.
    FirstOfOrder,
    /// By the keys of an order, of equal ones the last.
    LastOfOrder,
}

/// Whether an expression over aggregates of at least one row may be null: an aggregate that is null only of no rows is not.
pub(crate) fn null_of_rows(aggregation: &Aggregation) -> bool {
    let alone = aggregation.outer().as_column() == Some("$0");
    match aggregation.calls.as_slice() {
        [call] if alone => {
            let of_values = matches!(
                call.function,
                AggregateFunction::Sum | AggregateFunction::Avg | AggregateFunction::Min | AggregateFunction::Max
            );
            let all_count = call.filter.is_none() && call.args.iter().all(|argument| !argument.nullable());
            aggregation.nullable && !(of_values && all_count)
        }
        _ => aggregation.nullable,
    }
}

/// An aggregate call of some column.
pub(crate) struct Call {
    /// Which of the step's windows it is over.
    pub(crate) window: usize,
    argument: Option<Program>,
    filter: Option<Program>,
    pub(crate) form: Form,
    pub(crate) call: AggregateCall,
}

/// How a call is kept and computed.
pub(crate) enum Form {
    /// As words, merged in the tree.
    Words(CallState),
    /// As the encoded arguments of each row and the keys of its order, read again for each result.
    Extra {
        at: usize,
        encoder: RowConverter,
        arguments: Vec<Program>,
        /// Of the first or last value in an order: the keys of the order, which stand before the value.
        order: Option<RowConverter>,
        /// Where how many different arguments there are is all: the null, which does not count.
        counts: Option<Box<[u8]>>,
    },
    /// The argument at the row before.
    Lag { at: usize, encoder: RowConverter },
}

/// The evaluated arguments of a call for a batch.
pub(crate) enum Arguments {
    None,
    Ints(PrimitiveArray<Int64Type>),
    Floats(PrimitiveArray<Float64Type>),
    Encoded(EncodedRows),
    /// The keys of an order, and values.
    Ordered(EncodedRows, EncodedRows),
}

/// The results of a call for the rows of a batch.
pub(crate) enum Results {
    Ints(Int64Builder),
    Floats(Float64Builder),
    Encoded(Vec<Option<OwnedRow>>),
    Arrays(Vec<ArrayRef>),
}

impl Calls {
    /// Adds a call over one of the step's windows.
    pub(crate) fn add(&mut self, call: &AggregateCall, window: usize, input: &SchemaRef) -> Result<(), String> {
        let filter = call.filter.as_ref().map(|filter| compile(filter, input)).transpose()?;
        let argument_type = call.args.first().map(|argument| argument.data_type().clone());
        let form = if call.function == AggregateFunction::Lag {
            let data_type = argument_type.ok_or("lag takes a value")?;
            self.lags += 1;
            Form::Lag { at: self.lags - 1, encoder: encoder([&data_type])? }
        } else if let Some(kind) = word_state(call, argument_type.as_ref()) {
            Form::Words(self.state(kind, call))
        } else {
            let values = || call.args.iter().chain(call.order_by.iter().map(|key| &key.value));
            let arguments = values().map(|argument| compile(argument, input)).collect::<Result<_, _>>()?;
            self.extras += 1;
            let order = end_of_order(call).map(|_| order_encoder(&call.order_by)).transpose()?;
            let types: Vec<&DataType> = match order {
                Some(_) => call.args.iter().map(|argument| argument.data_type()).collect(),
                None => values().map(|argument| argument.data_type()).collect(),
            };
            let encoder = encoder(types.iter().copied())?;
            let nulls: Vec<ArrayRef> = types.iter().map(|data_type| new_null_array(data_type, 1)).collect();
            let null = encoder.convert_columns(&nulls).map_err(|error| error.to_string())?;
            let null: Box<[u8]> = null.row(0).as_ref().into();
            let counts = counts_different(call).then(|| null.clone());
            self.kept.push(KeptOf { keeps: keeps(call), null });
            Form::Extra { at: self.extras - 1, encoder, arguments, order, counts }
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
    fn state(&mut self, kind: StateKind, call: &AggregateCall) -> CallState {
        let made_of = layout::made_of(kind, call);
        let index = self.states_of.iter().position(|(known, _)| *known == made_of).unwrap_or_else(|| {
            let value = layout::value_of(kind, call).map(|value| {
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
        self.states[index]
    }

    /// Once all calls are known: values stand behind the mask, whose length goes by the number of states.
    pub(crate) fn placed(mut self) -> Self {
        let masks = CallState::mask_words(self.states.len());
        let place = |state: &mut CallState| state.value = state.value.map(|value| masks + value);
        self.states.iter_mut().for_each(place);
        for call in &mut self.calls {
            if let Form::Words(state) = &mut call.form {
                place(state);
            }
        }
        self
    }

    /// The states that calls over a window need.
    pub(crate) fn states_over(&self, window: usize) -> Vec<CallState> {
        let of_window = |state: &&CallState| {
            let mut over = self.calls.iter().filter(|call| call.window == window);
            over.any(|call| matches!(&call.form, Form::Words(words) if words.index == state.index))
        };
        self.states.iter().filter(of_window).copied().collect()
    }

    /// Which of its arguments a call needs. `extra` is its place among those that keep encoded arguments.
    pub(crate) fn keeps(&self, extra: usize) -> Keeps {
        self.kept[extra].keeps
    }

    /// Whether these arguments are the null. `extra` is the call's place among those that keep encoded arguments.
    pub(crate) fn is_null(&self, extra: usize, arguments: &[u8]) -> bool {
        *self.kept[extra].null == *arguments
    }

    /// Whether of two arguments of a call, each with the arrival of its row, the second is the one that it needs.
    pub(crate) fn is_better(&self, extra: usize, best: Best, known: (&[u8], u64), new: (&[u8], u64)) -> bool {
        match best {
            // A minimum is null only where all are.
            Best::Least => (self.is_null(extra, new.0), new) < (self.is_null(extra, known.0), known),
            Best::Greatest => new.0 > known.0,
            Best::First => new.1 < known.1,
            Best::Last => new.1 > known.1,
            Best::FirstOfOrder => (split(new.0).0, new.1) < (split(known.0).0, known.1),
            Best::LastOfOrder => (split(new.0).0, new.1) > (split(known.0).0, known.1),
        }
    }

    /// Words of what is kept of a row.
    pub(crate) fn row_words(&self) -> usize {
        CallState::mask_words(self.states.len()) + self.values.len()
    }

    /// The arguments of all calls for a batch. Rows for which one failed are in `failed`.
    pub(crate) fn arguments(&mut self, rows: &Rows, failed: &mut BTreeMap<usize, RowError>) -> BatchArguments {
        let mut batch = BatchArguments { of: Vec::new(), filters: Vec::new() };
        for call in &mut self.calls {
            batch.filters.push(call.filter.as_mut().map(|filter| {
                let evaluated = evaluate(filter, rows);
                failed.extend(evaluated.errors);
                as_mask(&evaluated.array)
            }));
            batch.of.push(call.arguments(rows, failed));
        }
        batch
    }

    /// Writes what is kept of a row: [`Calls::row_words`] words, all zero before, and its encoded arguments.
    #[inline]
    pub(crate) fn keep(
        &self,
        batch: &BatchArguments,
        row: usize,
        words: &mut [u64],
        extras: &mut Vec<Option<Box<[u8]>>>,
    ) {
        for (state, (_, call)) in self.states.iter().zip(&self.states_of) {
            let there = match (&batch.of[*call], state.value) {
                (Arguments::Ints(values), value) if values.is_valid(row) => {
                    value.into_iter().for_each(|at| words[at] = values.value(row) as u64);
                    true
                }
                (Arguments::Floats(values), Some(at)) if values.is_valid(row) => {
                    words[at] = values.value(row).to_bits();
                    true
                }
                (Arguments::None, _) => true,
                _ => false,
            };
            if there && batch.filters[*call].as_ref().is_none_or(|mask| mask.value(row)) {
                state.set(words);
            }
        }
        if self.extras == 0 {
            return;
        }
        for ((call, argument), filter) in self.calls.iter().zip(&batch.of).zip(&batch.filters) {
            if let Form::Extra { .. } = call.form {
                let counts = filter.as_ref().is_none_or(|mask| mask.value(row));
                extras.push(match argument {
                    Arguments::Encoded(values) if counts => Some(values.row(row).as_ref().into()),
                    Arguments::Ordered(keys, values) if counts => {
                        Some(keyed(keys.row(row).as_ref(), values.row(row).as_ref()))
                    }
                    _ => None,
                });
            }
        }
    }
}

/// The evaluated arguments and filters of all calls for a batch.
pub(crate) struct BatchArguments {
    pub(crate) of: Vec<Arguments>,
    filters: Vec<Option<BooleanArray>>,
}

impl Call {
    fn arguments(&mut self, rows: &Rows, failed: &mut BTreeMap<usize, RowError>) -> Arguments {
        let mut value = |program: &mut Program| {
            let evaluated = evaluate(program, rows);
            failed.extend(evaluated.errors);
            evaluated.array
        };
        let encode = |encoder: &RowConverter, columns: &[ArrayRef]| {
            encoder.convert_columns(columns).unwrap_or_else(|error| panic!("arguments changed their types: {error}"))
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
            (Form::Extra { encoder, arguments, order, .. }, _) => {
                let columns: Vec<ArrayRef> = arguments.iter_mut().map(value).collect();
                match order {
                    Some(order) => {
                        let (values, keys) = columns.split_at(self.call.args.len());
                        Arguments::Ordered(encode(order, keys), encode(encoder, values))
                    }
                    None => Arguments::Encoded(encode(encoder, &columns)),
                }
            }
            (Form::Lag { encoder, .. }, Some(argument)) => {
                let column = value(argument);
                Arguments::Encoded(encode(encoder, &[column]))
            }
            (Form::Lag { .. }, None) => Arguments::None,
        }
    }

    /// Room for the results of so many rows.
    pub(crate) fn results(&self, rows: usize) -> Results {
        match &self.form {
            Form::Words(state) => match (state.kind, &self.call.function) {
                (StateKind::Count | StateKind::SumInt | StateKind::MinInt | StateKind::MaxInt, _) => {
                    Results::Ints(Int64Builder::with_capacity(rows))
                }
                _ => Results::Floats(Float64Builder::with_capacity(rows)),
            },
            Form::Lag { .. } => Results::Encoded(Vec::with_capacity(rows)),
            Form::Extra { order: Some(_), .. } => Results::Encoded(Vec::with_capacity(rows)),
            Form::Extra { counts: Some(_), .. } => Results::Ints(Int64Builder::with_capacity(rows)),
            Form::Extra { .. } => match self.call.function {
                AggregateFunction::First | AggregateFunction::Last if !self.call.distinct => {
                    Results::Encoded(Vec::with_capacity(rows))
                }
                _ => Results::Arrays(Vec::with_capacity(rows)),
            },
        }
    }

    /// The result of a combined state.
    pub(crate) fn finish(&self, kind: StateKind, words: &[u64], results: &mut Results) -> Result<(), RowError> {
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
    pub(crate) fn read_again<'a>(
        &self,
        mut inside: impl DoubleEndedIterator<Item = &'a [u8]>,
        encoder: &RowConverter,
        results: &mut Results,
    ) -> Result<(), RowError> {
        match results {
            Results::Encoded(found) => {
                // Of equal keys the first minimum and the last maximum.
                let one = match (end_of_order(&self.call), &self.call.function) {
                    (Some(End::First), _) => inside.map(split).min_by(|a, b| a.0.cmp(b.0)).map(|(_, value)| value),
                    (Some(End::Last), _) => inside.map(split).max_by(|a, b| a.0.cmp(b.0)).map(|(_, value)| value),
                    (None, AggregateFunction::First) => inside.next(),
                    (None, _) => inside.next_back(),
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
            Results::Ints(ints) => {
                let Form::Extra { counts: Some(null), .. } = &self.form else { return Ok(()) };
                let different: HashSet<&[u8]> = inside.filter(|arguments| *arguments != &**null).collect();
                ints.append_value(different.len() as i64);
                Ok(())
            }
            Results::Floats(_) => Ok(()),
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
    pub(crate) fn array(&self, results: Results) -> ArrayRef {
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

/// Which end of its rows' order a call takes.
#[derive(Clone, Copy)]
enum End {
    First,
    Last,
}

/// Whether a call takes the first or the last value in an order of its own.
fn end_of_order(call: &AggregateCall) -> Option<End> {
    if call.order_by.is_empty() || call.distinct || call.ignores_nulls() {
        return None;
    }
    match &call.function {
        AggregateFunction::Other(name) if name == "first_value" => Some(End::First),
        AggregateFunction::Other(name) if name == "last_value" => Some(End::Last),
        _ => None,
    }
}

/// Keys of an order as bytes that compare as they do.
fn order_encoder(keys: &[OrderBy]) -> Result<RowConverter, String> {
    let field = |key: &OrderBy| {
        let options = SortOptions { descending: key.descending, nulls_first: key.nulls_first };
        SortField::new_with_options(key.value.data_type().clone(), options)
    };
    RowConverter::new(keys.iter().map(field).collect()).map_err(|error| error.to_string())
}

/// A value behind the keys of its order, and their length before them.
fn keyed(keys: &[u8], value: &[u8]) -> Box<[u8]> {
    let length = u32::try_from(keys.len()).unwrap_or(u32::MAX).to_le_bytes();
    [&length[..], keys, value].concat().into()
}

/// The keys and the value of [`keyed`].
fn split(bytes: &[u8]) -> (&[u8], &[u8]) {
    let (length, rest) = bytes.split_first_chunk().unwrap_or((&[0; 4], bytes));
    rest.split_at_checked(u32::from_le_bytes(*length) as usize).unwrap_or((&[], rest))
}

/// Which arguments a call needs.
fn keeps(call: &AggregateCall) -> Keeps {
    let ordered = !call.order_by.is_empty();
    // Floats have more than one zero, and the parts of nested values have nulls of their own.
    let compares = |argument: &engine_expr::Scalar| {
        let data_type = argument.data_type();
        !data_type.is_floating() && !data_type.is_nested()
    };
    let plain = !ordered && call.args.iter().all(compares);
    match &call.function {
        AggregateFunction::Min if plain => Keeps::One(Best::Least),
        AggregateFunction::Max if plain => Keeps::One(Best::Greatest),
        AggregateFunction::Lag => Keeps::Each,
        _ if call.distinct => {
            let of_order = match &call.function {
                AggregateFunction::First | AggregateFunction::Last => true,
                AggregateFunction::Other(name) => {
                    ["array_agg", "median", "percentile_cont", "approx_distinct", "bit_xor"].contains(&name.as_str())
                }
                _ => false,
            };
            if of_order { Keeps::Each } else { Keeps::Once }
        }
        function => match (end_of_order(call), function) {
            (Some(End::First), _) => Keeps::One(Best::FirstOfOrder),
            (Some(End::Last), _) => Keeps::One(Best::LastOfOrder),
            (None, AggregateFunction::First) => Keeps::One(Best::First),
            (None, AggregateFunction::Last) => Keeps::One(Best::Last),
            _ => Keeps::Each,
        },
    }
}

/// Whether a call counts different arguments, of which equal ones have equal bytes.
fn counts_different(call: &AggregateCall) -> bool {
    let plain = |data_type: &DataType| {
        data_type.is_integer() || data_type.is_temporal() || matches!(data_type, DataType::Utf8 | DataType::Boolean)
    };
    call.function == AggregateFunction::Count
        && matches!(call.args.as_slice(), [one] if plain(one.data_type()))
        && keeps(call) == Keeps::Once
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
