//! The columns of a match: aggregates over the rows of its elements, and what is computed of their results.

use super::kept::Kept;
use super::plan::PatternPlan;
use super::slot::Match;
use crate::RenderCx;
use crate::keyed::Keys;
use crate::render::{assemble, assemble_loose, compile, evaluate, fail, give_sound};
use arrow::array::{Array, ArrayRef, AsArray, BinaryArray, BooleanArray, Int64Array, UInt32Array, new_null_array};
use arrow::compute::{cast, concat, take};
use arrow::datatypes::{Field, Schema, SchemaRef};
use engine_base::{RowError, StepId};
use engine_dataflow::rows::made_by;
use engine_dataflow::{Positions, Rows, StepOutput, Times};
use engine_expr::{AggregateCall, AggregateFunction, Program};
use engine_plan::{Columns, hidden};
use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

/// A match of a key on its way out.
pub(super) struct Fired {
    pub(super) key: Box<[u8]>,
    pub(super) found: Match,
}

impl Fired {
    /// Its order among others. No two begin with one row.
    pub(super) fn order(&self) -> (i64, &[u8]) {
        (self.found.event_ns, self.found.rows.first().map_or(&[], |(_, first)| &first.place))
    }
}

/// An aggregate.
struct Call {
    /// The place in `groups`.
    group: usize,
    args: Vec<Program>,
    filter: Option<Program>,
    call: AggregateCall,
}

/// A new column.
struct Column {
    calls: Range<usize>,
    /// Columns of the one row of an element: the element, and the place among the kept columns.
    beside: Vec<(usize, usize)>,
    schema: SchemaRef,
    program: Program,
}

/// How matches are put out.
pub(super) struct Output {
    step: Arc<str>,
    step_id: StepId,
    /// The rows that aggregates are over: those of an element, or all; and the names of their columns.
    groups: Vec<(Option<usize>, SchemaRef)>,
    calls: Vec<Call>,
    keys_wanted: Vec<usize>,
    columns: Vec<Column>,
    output: SchemaRef,
    gives_event_time: bool,
}

/// The rows of a group in some matches: those of match `i` are the rows `of[i]`.
struct GroupRows {
    rows: Rows,
    of: Vec<Range<usize>>,
}

impl Output {
    pub(super) fn new(plan: &PatternPlan, cx: &RenderCx<'_>, kept: &Kept) -> Result<Output, String> {
        let wanted = cx.wanted.first().ok_or("a pattern without an output")?;
        let fields: Vec<_> =
            plan.output.fields().iter().filter(|field| wanted.contains(field.name())).cloned().collect();
        let (mut groups, mut calls, mut columns) = (Vec::new(), Vec::new(), Vec::new());
        for (_, value) in plan.columns.iter().filter(|(name, _)| wanted.contains(name)) {
            let first = calls.len();
            for call in &value.calls {
                let element = call.group.as_ref().and_then(|group| plan.element(group));
                let at = groups.iter().position(|(known, _)| *known == element).unwrap_or_else(|| {
                    let name = |column: &str| match element {
                        Some(element) => format!("{}.{column}", plan.elements[element].name),
                        None => column.to_owned(),
                    };
                    let schema: SchemaRef = Arc::new(Schema::new(kept.named(name)));
                    groups.push((element, schema));
                    groups.len() - 1
                });
                let schema = &groups[at].1;
                calls.push(Call {
                    group: at,
                    args: call.args.iter().map(|arg| compile(arg, schema)).collect::<Result<_, _>>()?,
                    filter: call.filter.as_ref().map(|filter| compile(filter, schema)).transpose()?,
                    call: call.clone(),
                });
            }
            let results = value.calls.iter().enumerate();
            let mut inner: Vec<Field> =
                results.map(|(at, call)| Field::new(format!("${at}"), call.data_type.clone(), true)).collect();
            let mut beside = Vec::new();
            for name in value.current_columns() {
                let (Some(element), column) = plan.behind(name) else { continue };
                let place = kept.place(column)?;
                beside.push((element, place));
                inner.push(kept.named(|_| name.clone())[place].clone());
            }
            let schema: SchemaRef = Arc::new(Schema::new(inner));
            let program = value.finish(&schema).map_err(|error| error.message)?;
            columns.push(Column { calls: first..calls.len(), beside, schema, program });
        }
        Ok(Output {
            step: cx.step.clone(),
            step_id: cx.step_id,
            groups,
            calls,
            keys_wanted: (0..plan.key.len()).filter(|at| wanted.contains(&plan.key[*at])).collect(),
            columns,
            output: Arc::new(Schema::new(fields)),
            gives_event_time: wanted.contains(hidden::EVENT_TIME),
        })
    }

    /// The columns of the input that the wanted columns read.
    pub(super) fn reads(plan: &PatternPlan, wanted: &Columns) -> Columns {
        let columns = plan.columns.iter().filter(|(name, _)| wanted.contains(name));
        let names = columns.flat_map(|(_, value)| value.columns().iter().chain(value.current_columns()));
        names.map(|name| plan.behind(name).1.to_owned()).collect()
    }

    /// Puts matches out.
    pub(super) fn give(&mut self, kept: &Kept, keys: &Keys, fired: &[Fired], clock_ns: i64, out: &mut StepOutput) {
        let count = fired.len();
        let mut failed: BTreeMap<usize, RowError> = BTreeMap::new();
        let groups: Vec<GroupRows> =
            self.groups.iter().map(|(element, schema)| group(kept, *element, schema, fired)).collect();
        let results: Vec<ArrayRef> =
            self.calls.iter_mut().map(|call| call.results(&groups[call.group], &mut failed)).collect();
        let facts = Rows {
            batch: assemble(&Arc::new(Schema::empty()), Vec::new(), count),
            positions: Positions::Mixed {
                origins: vec![made_by(self.step_id); count].into(),
                // In the order of time, also before 1970.
                offsets: fired.iter().map(|fired| fired.found.event_ns as u64 ^ 1 << 63).collect::<Vec<u64>>().into(),
                suffixes: Some(BinaryArray::from_iter_values(fired.iter().map(|fired| fired.order().1))),
            },
            ingest_ns: Times::One(clock_ns),
            born_ns: Times::One(clock_ns),
            event_ns: Some(Times::Each(fired.iter().map(|fired| fired.found.event_ns).collect())),
            removes: None,
        };
        let key_columns = keys.decode(fired.iter().map(|fired| &*fired.key));
        let mut columns: Vec<ArrayRef> = self.keys_wanted.iter().map(|at| key_columns[*at].clone()).collect();
        for column in &mut self.columns {
            let mut inner = results[column.calls.clone()].to_vec();
            for (element, place) in &column.beside {
                let row_of =
                    |fired: &Fired| fired.found.rows.iter().find(|(of, _)| of == element).map(|(_, row)| row.clone());
                let rows: Vec<_> = fired.iter().map(row_of).collect();
                inner.push(kept.decode(rows.iter().map(Option::as_deref)).swap_remove(*place));
            }
            let evaluated = evaluate(&mut column.program, &facts.with_batch(assemble(&column.schema, inner, count)));
            for (row, error) in evaluated.errors {
                failed.entry(row).or_insert(error);
            }
            columns.push(evaluated.array);
        }
        let mut rows = facts;
        if !self.gives_event_time {
            rows.event_ns = None;
        }
        if failed.is_empty() {
            out.give(0, rows.with_batch(assemble(&self.output, columns, count)));
            return;
        }
        let good: BooleanArray = (0..count).map(|row| Some(!failed.contains_key(&row))).collect();
        let whole = rows.with_batch(assemble_loose(&self.output, columns.clone(), count));
        fail(&self.step, &whole, failed.into_iter().collect(), out);
        give_sound(&rows, &self.output, columns, &good, out);
    }
}

/// The rows of an element, or all, in some matches.
fn group(kept: &Kept, element: Option<usize>, schema: &SchemaRef, fired: &[Fired]) -> GroupRows {
    let (mut facts, mut of) = (Vec::new(), Vec::new());
    for fired in fired {
        let first = facts.len();
        let rows = fired.found.rows.iter().filter(|(of, _)| element.is_none_or(|element| *of == element));
        facts.extend(rows.map(|(_, row)| &**row));
        of.push(first..facts.len());
    }
    let rows = kept.rows(&facts);
    let columns = rows.batch.columns().to_vec();
    GroupRows { rows: rows.with_batch(assemble(schema, columns, facts.len())), of }
}

impl Call {
    /// Its result for each match. Matches for which it fails are in `failed`, the earlier reason first.
    fn results(&mut self, group: &GroupRows, failed: &mut BTreeMap<usize, RowError>) -> ArrayRef {
        let mut wrong: BTreeMap<usize, RowError> = BTreeMap::new();
        let mut value = |program: &mut Program| {
            let evaluated = evaluate(program, &group.rows);
            for (row, error) in evaluated.errors {
                wrong.entry(row).or_insert(error);
            }
            evaluated.array
        };
        let args: Vec<ArrayRef> = self.args.iter_mut().map(&mut value).collect();
        let filter = self.filter.as_mut().map(value);
        let filter = filter.as_ref().map(|filter| filter.as_boolean());
        let counts = |row: &usize| filter.is_none_or(|filter| filter.is_valid(*row) && filter.value(*row));
        let mut results: Vec<ArrayRef> = Vec::new();
        for (found, rows) in group.of.iter().enumerate() {
            let reason = wrong.range(rows.clone()).next().map(|(_, error)| error.clone());
            let result = match reason {
                Some(error) => Err(error),
                None => self.result(&args, rows.clone().filter(counts).collect()),
            };
            results.push(result.unwrap_or_else(|error| {
                failed.entry(found).or_insert(error);
                new_null_array(&self.call.data_type, 1)
            }));
        }
        let results: Vec<&dyn Array> = results.iter().map(AsRef::as_ref).collect();
        match results.as_slice() {
            [] => new_null_array(&self.call.data_type, 0),
            results => concat(results).unwrap_or_else(|error| panic!("results of one call differ: {error}")),
        }
    }

    /// Its result over these rows.
    fn result(&self, args: &[ArrayRef], rows: Vec<usize>) -> Result<ArrayRef, RowError> {
        let invalid = |reason: String| RowError::new("invalid", reason);
        let null = || new_null_array(&self.call.data_type, 1);
        let one = |row: Option<&usize>| match (row, args.first()) {
            (Some(row), Some(values)) => retyped(values.slice(*row, 1), &self.call),
            _ => null(),
        };
        match (&self.call.function, args) {
            (AggregateFunction::First, _) if !self.call.distinct => Ok(one(rows.first())),
            (AggregateFunction::Last, _) if !self.call.distinct => Ok(one(rows.last())),
            (AggregateFunction::Count, args) if !self.call.distinct && args.len() <= 1 => {
                let there = |row: &&usize| args.first().is_none_or(|values| values.is_valid(**row));
                let count = rows.iter().filter(there).count();
                Ok(retyped(Arc::new(Int64Array::from(vec![count as i64])), &self.call))
            }
            (_, args) => {
                let mut accumulator = self.call.accumulator().map_err(|error| invalid(error.message))?;
                if !rows.is_empty() {
                    let rows: UInt32Array = rows.into_iter().map(|row| row as u32).collect();
                    let taken =
                        |values: &ArrayRef| take(values, &rows, None).map_err(|error| invalid(error.to_string()));
                    accumulator.update(&args.iter().map(taken).collect::<Result<Vec<_>, _>>()?)?;
                }
                accumulator.evaluate()
            }
        }
    }
}

fn retyped(array: ArrayRef, call: &AggregateCall) -> ArrayRef {
    if *array.data_type() == call.data_type {
        return array;
    }
    cast(&array, &call.data_type).unwrap_or_else(|error| panic!("a result can't be read as its own type: {error}"))
}
