//! `predict` at work: columns to row-major scratch, scratch to scores, scores to columns.
//!
//! ```text
//!  batch ──cut──▶ chunks of at most max_rows ──▶ scratch [rows × width], reused ──▶ score ──▶ outputs [rows × width]
//!                                                      │ null, NaN, too large         │ an error or a panic: row by
//! row
//!                                                      ▼                              ▼
//!                                                   failed rows: to the error output, or with their fallbacks
//! ```
//!
//! A failed row stands as zeros in its chunk, so that no row moves; what the model makes of it is not looked at. A
//! model whose results depend on the batch gets one row at a time: a row's score depends on that row alone.

use super::mock::{Mock, MockPlan};
use super::{Feature, PredictPlan};
use crate::RenderCx;
use crate::render::{assemble, fail, sound};
use arrow::array::{
    Array, ArrayRef, ArrowPrimitiveType, AsArray, Float32Array, ListArray, OffsetSizeTrait, PrimitiveArray, StringArray,
};
use arrow::buffer::{NullBuffer, OffsetBuffer};
use arrow::compute::cast;
use arrow::datatypes::{
    DataType, Field, FieldRef, Float32Type, Float64Type, Int8Type, Int16Type, Int32Type, Int64Type, Schema, SchemaRef,
    UInt8Type, UInt16Type, UInt32Type, UInt64Type,
};
use engine_base::RowError;
use engine_dataflow::{RowStep, Rows, StepOutput};
use engine_expr::catching;
use engine_plan::{PlannedModel, Scorer, hidden};
use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

/// Rows that failed, each with its first reason.
type Failed = BTreeMap<usize, RowError>;

/// The step of a planned `predict`.
pub(super) fn render(plan: &PredictPlan, cx: &RenderCx<'_>) -> Result<Box<dyn RowStep>, String> {
    let schema = cx.inputs.first().ok_or("a predict without an input")?;
    let wanted = cx.wanted.first().ok_or("a predict without an output")?;
    let asks = plan.mock.as_ref().is_none_or(MockPlan::asks);
    let load = || plan.model.load().map_err(|error| format!("the model `{}`: {error}", plan.model.name()));
    let scorer = if asks { Some(load()?) } else { None };
    let inputs = plan
        .inputs
        .iter()
        .zip(plan.model.inputs())
        .map(|(features, tensor)| Input::new(features, tensor.width(), tensor.default, schema))
        .collect::<Result<Vec<_>, String>>()?;
    let mut fields: Vec<FieldRef> = Vec::new();
    let mut columns = Vec::new();
    for (at, field) in schema.fields().iter().enumerate() {
        if wanted.contains(field.name()) {
            fields.push(field.clone());
            columns.push(Column::Input(at));
        }
    }
    for (at, output) in plan.outputs.iter().enumerate() {
        if wanted.contains(output.field.name()) {
            fields.push(output.field.clone());
            columns.push(Column::Score(at));
        }
    }
    for (name, column) in [(&plan.status, Column::Status), (&plan.digest, Column::Digest)] {
        if wanted.contains(name) {
            fields.push(Arc::new(Field::new(name, DataType::Utf8, false)));
            columns.push(column);
        }
    }
    let outputs = plan
        .outputs
        .iter()
        .map(|output| Output {
            name: output.field.name().clone(),
            from: output.output,
            list: output.list,
            fallback: output.fallback.clone(),
        })
        .collect();
    Ok(Box::new(Predict {
        step: cx.step.clone(),
        chunk: if plan.model.batch_invariant() { plan.max_rows } else { 1 },
        widths: plan.model.outputs().iter().map(|output| output.width()).collect(),
        scores: vec![Vec::new(); plan.model.outputs().len()],
        model: plan.model.clone(),
        scorer,
        inputs,
        outputs,
        falls_back: plan.falls_back,
        stops: plan.stops,
        columns,
        schema: Arc::new(Schema::new(fields)),
        event_time: wanted.contains(hidden::EVENT_TIME),
        mock: plan.mock.as_ref().map(|mock| Mock::new(mock, cx)).transpose()?,
        ok: Repeated::new("ok"),
        digest: Repeated::new(plan.model.digest()),
    }))
}

/// What a column of the output holds.
enum Column {
    /// A column of the input.
    Input(usize),
    /// A column of scores.
    Score(usize),
    Status,
    Digest,
}

struct Predict {
    step: Arc<str>,
    model: Arc<dyn PlannedModel>,
    /// `None` where a test answers for it.
    scorer: Option<Box<dyn Scorer>>,
    mock: Option<Mock>,
    /// The most rows at once.
    chunk: usize,
    inputs: Vec<Input>,
    /// Elements of one row, for each output of the model.
    widths: Vec<usize>,
    /// What the model puts out for one chunk, for each of its outputs.
    scores: Vec<Vec<f32>>,
    outputs: Vec<Output>,
    falls_back: bool,
    stops: bool,
    columns: Vec<Column>,
    schema: SchemaRef,
    event_time: bool,
    ok: Repeated,
    digest: Repeated,
}

/// A new column.
struct Output {
    name: String,
    /// The index of the model's output.
    from: usize,
    list: Option<usize>,
    fallback: Option<Vec<f32>>,
}

impl RowStep for Predict {
    fn step(&mut self, mut rows: Rows, out: &mut StepOutput) {
        if !self.event_time {
            rows.event_ns = None;
        }
        let count = rows.num_rows();
        let mut failed = Failed::new();
        let columns: Vec<Vec<ArrayRef>> = self.inputs.iter().map(|input| input.prepare(&rows)).collect();
        let mut results: Vec<Vec<f32>> =
            self.outputs.iter().map(|output| Vec::with_capacity(count * self.widths[output.from])).collect();
        let mut from = 0;
        while from < count {
            let to = count.min(from + self.chunk);
            for (input, columns) in self.inputs.iter_mut().zip(&columns) {
                input.fill(columns, from..to, &mut failed);
            }
            if self.scorer.is_some() {
                self.score_chunk(from..to, &mut failed, &mut results);
            }
            from = to;
        }
        if let Some(mock) = &mut self.mock {
            mock.answer(&rows, &mut results, &mut failed);
        }
        self.check_numbers(count, &results, &mut failed);
        self.put_out(rows, results, failed, out);
    }
}

impl Predict {
    /// Scores the chunk that stands in the scratch, and appends what comes out to `results`.
    fn score_chunk(&mut self, rows: Range<usize>, failed: &mut Failed, results: &mut [Vec<f32>]) {
        let all_failed = rows.clone().all(|row| failed.contains_key(&row));
        if !all_failed && self.score(0..rows.len()).is_ok() {
            for (output, result) in self.outputs.iter().zip(results.iter_mut()) {
                result.extend_from_slice(&self.scores[output.from]);
            }
            return;
        }
        for (at, row) in rows.enumerate() {
            let scored = match failed.get(&row) {
                Some(_) => false,
                None => match self.score(at..at + 1) {
                    Ok(()) => true,
                    Err(error) => {
                        failed.insert(row, error);
                        false
                    }
                },
            };
            for (output, result) in self.outputs.iter().zip(results.iter_mut()) {
                match scored {
                    true => result.extend_from_slice(&self.scores[output.from]),
                    false => result.resize(result.len() + self.widths[output.from], 0.0),
                }
            }
        }
    }

    /// Scores some rows of the scratch into `self.scores`.
    fn score(&mut self, rows: Range<usize>) -> Result<(), RowError> {
        let inputs: Vec<&[f32]> =
            self.inputs.iter().map(|input| &input.scratch[rows.start * input.width..rows.end * input.width]).collect();
        for scores in &mut self.scores {
            scores.clear();
        }
        let (Some(scorer), scores) = (&mut self.scorer, &mut self.scores) else { return Ok(()) };
        // A scorer starts each call from its inputs, so that one that panicked can be asked again.
        let result = catching(|| scorer.score(rows.len(), &inputs, scores));
        let name = self.model.name();
        match result {
            Ok(Ok(())) => {}
            Ok(Err(reason)) => return Err(RowError::new("model", format!("the model `{name}` failed: {reason}"))),
            Err(reason) => {
                return Err(RowError::new("panic", format!("the model `{name}` panicked: {reason}")));
            }
        }
        for (at, (scores, width)) in self.scores.iter().zip(&self.widths).enumerate() {
            if scores.len() != rows.len() * width {
                let output = &self.model.outputs()[at].name;
                let reason = format!(
                    "the model `{name}` put out {} numbers as `{output}` for {} rows of {width}",
                    scores.len(),
                    rows.len()
                );
                return Err(RowError::new("model", reason));
            }
        }
        Ok(())
    }

    /// Fails rows whose scores are not numbers.
    fn check_numbers(&self, count: usize, results: &[Vec<f32>], failed: &mut Failed) {
        for (output, result) in self.outputs.iter().zip(results) {
            // One pass that a compiler can vectorise, for the many batches in which nothing is wrong.
            if !result.iter().fold(false, |found, score| found | score.is_nan()) {
                continue;
            }
            let width = self.widths[output.from];
            for row in 0..count {
                if result[row * width..(row + 1) * width].iter().any(|score| score.is_nan()) {
                    let reason = || {
                        let name = self.model.name();
                        RowError::new("nan", format!("the model `{name}` put out NaN for `{}`", output.name))
                    };
                    failed.entry(row).or_insert_with(reason);
                }
            }
        }
    }

    fn put_out(&mut self, rows: Rows, mut results: Vec<Vec<f32>>, failed: Failed, out: &mut StepOutput) {
        let count = rows.num_rows();
        for (output, result) in self.outputs.iter().zip(&mut results) {
            let width = self.widths[output.from];
            for row in failed.keys() {
                let place = &mut result[row * width..(row + 1) * width];
                match &output.fallback {
                    Some(values) if values.len() == width => place.copy_from_slice(values),
                    _ => place.fill(0.0),
                }
            }
        }
        let mut columns: Vec<ArrayRef> = Vec::with_capacity(self.columns.len());
        for column in &self.columns {
            columns.push(match column {
                Column::Input(at) => rows.batch.column(*at).clone(),
                Column::Score(at) => {
                    let nulls = match self.falls_back && self.outputs[*at].fallback.is_none() && !failed.is_empty() {
                        true => Some((0..count).map(|row| !failed.contains_key(&row)).collect::<NullBuffer>()),
                        false => None,
                    };
                    score_column(std::mem::take(&mut results[*at]), self.outputs[*at].list, count, nulls)
                }
                Column::Status if self.falls_back && !failed.is_empty() => {
                    let status = (0..count).map(|row| if failed.contains_key(&row) { "fallback" } else { "ok" });
                    Arc::new(StringArray::from_iter_values(status))
                }
                Column::Status => self.ok.take(count),
                Column::Digest => self.digest.take(count),
            });
        }
        if self.falls_back {
            out.outcomes = vec![("ok", (count - failed.len()) as u64), ("fallback", failed.len() as u64)];
        }
        let scored = rows.with_batch(assemble(&self.schema, columns, count));
        if self.falls_back || failed.is_empty() {
            out.give(0, scored);
            return;
        }
        let failed: Vec<(usize, RowError)> = failed.into_iter().collect();
        if self.stops {
            fail(&self.step, &rows, failed, out);
            out.fatal = out.errors.drain(..).next();
            return;
        }
        out.give(0, scored.filter(&sound(count, &failed)));
        fail(&self.step, &rows, failed, out);
    }
}

/// Row-major scores as a column of numbers or lists.
fn score_column(scores: Vec<f32>, list: Option<usize>, rows: usize, nulls: Option<NullBuffer>) -> ArrayRef {
    match list {
        None => Arc::new(Float32Array::new(scores.into(), nulls)),
        Some(len) => {
            let item = Arc::new(Field::new(Field::LIST_FIELD_DEFAULT_NAME, DataType::Float32, false));
            let offsets = OffsetBuffer::from_repeated_length(len, rows);
            Arc::new(ListArray::new(item, offsets, Arc::new(Float32Array::new(scores.into(), None)), nulls))
        }
    }
}

/// A column of one text, made once and sliced.
struct Repeated {
    text: String,
    column: StringArray,
}

impl Repeated {
    fn new(text: &str) -> Self {
        Repeated { text: text.to_owned(), column: StringArray::from_iter_values(std::iter::empty::<&str>()) }
    }

    fn take(&mut self, rows: usize) -> ArrayRef {
        if self.column.len() < rows {
            let rows = rows.next_power_of_two();
            self.column = StringArray::from_iter_values(std::iter::repeat_n(&self.text, rows));
        }
        Arc::new(self.column.slice(0, rows))
    }
}

/// An input of the model and the scratch in which its rows are laid out.
struct Input {
    width: usize,
    default: Option<f32>,
    feeds: Vec<Feed>,
    /// Row-major, `rows × width`.
    scratch: Vec<f32>,
}

/// A column that is fed to the model.
struct Feed {
    name: String,
    /// Its place in the batch.
    column: usize,
    /// The first element of the row that it fills.
    at: usize,
    /// The length of the list; `None` for a number.
    list: Option<usize>,
}

impl Input {
    fn new(features: &[Feature], width: usize, default: Option<f32>, schema: &SchemaRef) -> Result<Input, String> {
        let mut at = 0;
        let mut feeds = Vec::new();
        for feature in features {
            let column =
                schema.index_of(&feature.column).map_err(|_| format!("the column `{}` was pruned", feature.column))?;
            feeds.push(Feed { name: feature.column.clone(), column, at, list: feature.list });
            at += feature.list.unwrap_or(1);
        }
        if at != width {
            return Err(format!("{at} features are planned for an input of {width}"));
        }
        Ok(Input { width, default, feeds, scratch: Vec::new() })
    }

    /// The columns in types that [`Self::fill`] reads.
    fn prepare(&self, rows: &Rows) -> Vec<ArrayRef> {
        self.feeds.iter().map(|feed| readable(rows.batch.column(feed.column))).collect()
    }

    /// Lays out some rows. A row that can't be is noted, and stands as zeros where it can't.
    fn fill(&mut self, columns: &[ArrayRef], rows: Range<usize>, failed: &mut Failed) {
        self.scratch.clear();
        self.scratch.resize(rows.len() * self.width, 0.0);
        for (feed, column) in self.feeds.iter().zip(columns) {
            let mut layout = Layout {
                scratch: &mut self.scratch,
                width: self.width,
                at: feed.at,
                first: rows.start,
                default: self.default,
                name: &feed.name,
                failed,
            };
            match feed.list {
                None => layout.numbers(column, rows.clone()),
                Some(len) => layout.lists(column, rows.clone(), len),
            }
        }
    }
}

/// The column with numbers that [`Layout::numbers`] reads; others (decimals) as `f64`.
fn readable(column: &ArrayRef) -> ArrayRef {
    let as_f64 = |column: &ArrayRef| {
        // The plan admits only numbers; should one have no form as f64, its rows fail for being null.
        cast(column, &DataType::Float64)
            .unwrap_or_else(|_| arrow::array::new_null_array(&DataType::Float64, column.len()))
    };
    match column.data_type() {
        DataType::List(_) | DataType::LargeList(_) | DataType::FixedSizeList(..) => column.clone(),
        DataType::Float32 | DataType::Float64 | DataType::Boolean => column.clone(),
        data_type if data_type.is_integer() => column.clone(),
        _ => as_f64(column),
    }
}

/// Where the elements of one feature go.
struct Layout<'a> {
    scratch: &'a mut [f32],
    width: usize,
    at: usize,
    /// The row that stands first in the scratch.
    first: usize,
    default: Option<f32>,
    name: &'a str,
    failed: &'a mut Failed,
}

impl Layout<'_> {
    fn fail(&mut self, row: usize, code: &'static str, reason: String) {
        self.failed.entry(row).or_insert_with(|| RowError::new(code, reason));
    }

    fn null(&mut self, row: usize, place: usize) {
        match self.default {
            Some(default) => self.scratch[place] = default,
            None => {
                self.fail(row, "null", format!("the feature `{}` is null, and the model has no default", self.name))
            }
        }
    }

    /// The place of a row's first element.
    fn place(&self, row: usize) -> usize {
        (row - self.first) * self.width + self.at
    }

    fn numbers(&mut self, column: &ArrayRef, rows: Range<usize>) {
        match column.data_type() {
            DataType::Float32 => {
                let values = column.as_primitive::<Float32Type>();
                self.each(column, rows, |layout, row, place| layout.float(row, place, values.value(row)));
            }
            DataType::Float64 => {
                let values = column.as_primitive::<Float64Type>();
                self.each(column, rows, |layout, row, place| layout.double(row, place, values.value(row)));
            }
            DataType::Boolean => {
                let values = column.as_boolean();
                self.each(column, rows, |layout, row, place| {
                    layout.scratch[place] = f32::from(u8::from(values.value(row)))
                });
            }
            DataType::Int8 => self.integers::<Int8Type>(column, rows, f32::from),
            DataType::Int16 => self.integers::<Int16Type>(column, rows, f32::from),
            DataType::Int32 => self.integers::<Int32Type>(column, rows, |value| value as f32),
            DataType::Int64 => self.integers::<Int64Type>(column, rows, |value| value as f32),
            DataType::UInt8 => self.integers::<UInt8Type>(column, rows, f32::from),
            DataType::UInt16 => self.integers::<UInt16Type>(column, rows, f32::from),
            DataType::UInt32 => self.integers::<UInt32Type>(column, rows, |value| value as f32),
            DataType::UInt64 => self.integers::<UInt64Type>(column, rows, |value| value as f32),
            other => {
                let reason = format!("the feature `{}` is of type {other}, which is no number", self.name);
                for row in rows {
                    self.fail(row, "cast", reason.clone());
                }
            }
        }
    }

    fn integers<T: ArrowPrimitiveType>(
        &mut self,
        column: &ArrayRef,
        rows: Range<usize>,
        to: impl Fn(T::Native) -> f32,
    ) {
        let values: &PrimitiveArray<T> = column.as_primitive();
        self.each(column, rows, |layout, row, place| layout.scratch[place] = to(values.value(row)));
    }

    /// Calls `fill` for each row that is not null.
    fn each(&mut self, column: &ArrayRef, rows: Range<usize>, mut fill: impl FnMut(&mut Self, usize, usize)) {
        if column.null_count() == 0 {
            for row in rows {
                let place = self.place(row);
                fill(self, row, place);
            }
            return;
        }
        for row in rows {
            let place = self.place(row);
            if column.is_null(row) {
                self.null(row, place);
            } else {
                fill(self, row, place);
            }
        }
    }

    fn float(&mut self, row: usize, place: usize, value: f32) {
        if value.is_nan() {
            return self.fail(row, "nan", format!("the feature `{}` is NaN", self.name));
        }
        self.scratch[place] = value;
    }

    fn double(&mut self, row: usize, place: usize, value: f64) {
        let narrow = value as f32;
        if narrow.is_infinite() && value.is_finite() {
            return self.fail(row, "cast", format!("the feature `{}` is too large for a 32-bit float", self.name));
        }
        self.float(row, place, narrow);
    }

    fn lists(&mut self, column: &ArrayRef, rows: Range<usize>, len: usize) {
        match column.data_type() {
            DataType::List(_) => self.offset_lists::<i32>(column, rows, len),
            DataType::LargeList(_) => self.offset_lists::<i64>(column, rows, len),
            DataType::FixedSizeList(..) => {
                let lists = column.as_fixed_size_list();
                let values = readable(lists.values());
                for row in rows {
                    let start = usize::try_from(lists.value_offset(row)).unwrap_or(0);
                    let size = usize::try_from(lists.value_length()).unwrap_or(0);
                    self.list(lists.is_null(row), &values, row, start..start + size, len);
                }
            }
            other => {
                let reason = format!("the feature `{}` is of type {other}, which is no list", self.name);
                for row in rows {
                    self.fail(row, "cast", reason.clone());
                }
            }
        }
    }

    fn offset_lists<O: OffsetSizeTrait>(&mut self, column: &ArrayRef, rows: Range<usize>, len: usize) {
        let lists = column.as_list::<O>();
        let values = readable(lists.values());
        let ends = lists.value_offsets();
        for row in rows {
            self.list(lists.is_null(row), &values, row, ends[row].as_usize()..ends[row + 1].as_usize(), len);
        }
    }

    /// The elements of one row's list, which must be `len`.
    fn list(&mut self, is_null: bool, values: &ArrayRef, row: usize, elements: Range<usize>, len: usize) {
        let place = self.place(row);
        if is_null {
            for at in 0..len {
                self.null(row, place + at);
            }
        } else if elements.len() != len {
            let reason = format!("the feature `{}` has {} elements, and {len} are due", self.name, elements.len());
            self.fail(row, "length", reason);
        } else {
            // As if the list were a row of numbers of its own.
            let mut failed = Failed::new();
            let mut inner = Layout {
                scratch: &mut *self.scratch,
                width: 1,
                at: place,
                first: elements.start,
                default: self.default,
                name: self.name,
                failed: &mut failed,
            };
            inner.numbers(values, elements);
            if let Some((_, error)) = failed.pop_first() {
                self.failed.entry(row).or_insert(error);
            }
        }
    }
}
