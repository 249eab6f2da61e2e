//! From kept bytes to rows that go out: a portion of pairs, or of rows that stand alone, at a time.

use super::columns::{Term, Value};
use super::plan::JoinPlan;
use super::slot::View;
use super::taken::{converter, kept_fields};
use super::{LEFT, RIGHT};
use crate::RenderCx;
use crate::render::{assemble, assemble_loose, evaluate, fail, give_sound};
use arrow::array::{
    ArrayRef, AsArray, BinaryBuilder, BooleanArray, TimestampNanosecondArray, UInt32Array, new_null_array,
};
use arrow::compute::take;
use arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit};
use arrow::row::RowConverter;
use engine_base::{RowError, StepId};
use engine_dataflow::rows::made_by;
use engine_dataflow::{Positions, Rows, StepOutput, Times};
use engine_expr::Program;
use engine_plan::hidden;
use std::collections::BTreeMap;
use std::sync::Arc;

/// How rows are made of what is kept.
pub(super) struct Pairs {
    step: Arc<str>,
    step_id: StepId,
    decoders: [Option<RowConverter>; 2],
    /// The kept columns of both sides, by qualified names, then the bounds of the window.
    both: SchemaRef,
    /// How many of them are of each side.
    widths: [usize; 2],
    filter: Option<Bound>,
    columns: Vec<Source>,
    output: SchemaRef,
    gives_event_time: bool,
}

/// A column that comes out.
enum Source {
    /// One of `both`.
    Of(usize),
    /// An expression.
    Program(Bound),
}

/// Which pairs of a portion match, and those for which that can't be told.
pub(super) struct Matching {
    pub(super) mask: Vec<bool>,
    pub(super) errors: BTreeMap<usize, RowError>,
}

/// An expression, and the columns of `both` that it reads.
struct Bound {
    places: Vec<usize>,
    schema: SchemaRef,
    program: Program,
}

impl Bound {
    fn new(term: &Term, both: &SchemaRef, salt: u64) -> Result<Bound, String> {
        let mut places = Vec::new();
        let mut fields = Vec::new();
        for (name, side, column) in &term.names {
            let at = place(both, *side, column)?;
            places.push(at);
            fields.push(both.field(at).clone().with_name(name));
        }
        let schema: SchemaRef = Arc::new(Schema::new(fields));
        let program = crate::render::compile(&term.scalar, &schema)?.with_salt(salt);
        Ok(Bound { places, schema, program })
    }

    /// The value for each row, and the rows that failed.
    fn evaluate(&mut self, rows: &Rows) -> engine_expr::Evaluated {
        let columns = self.places.iter().map(|at| rows.batch.column(*at).clone()).collect();
        evaluate(&mut self.program, &rows.with_batch(assemble(&self.schema, columns, rows.num_rows())))
    }
}

fn place(both: &SchemaRef, side: usize, column: &str) -> Result<usize, String> {
    let name = qualified(side, column);
    both.index_of(&name).map_err(|_| format!("column `{name}` is not kept"))
}

fn qualified(side: usize, column: &str) -> String {
    format!("{}.{column}", ["left", "right"][side])
}

/// Rows that go out together, all of them pairs or all of them of one side.
#[derive(Default)]
pub(super) struct Portion<'a> {
    data: [Vec<&'a [u8]>; 2],
    offsets: Vec<u64>,
    suffixes: BinaryBuilder,
    /// Room for one of them.
    suffix: Vec<u8>,
    event_ns: Vec<i64>,
    born_ns: Vec<i64>,
    windows: Vec<(i64, i64)>,
}

impl<'a> Portion<'a> {
    /// Adds a pair, or a row that stands alone.
    pub(super) fn push(&mut self, rows: [Option<View<'a>>; 2], event_ns: i64, born_ns: i64) {
        write_suffix(&rows, &mut self.suffix);
        self.suffixes.append_value(&self.suffix);
        for (data, row) in self.data.iter_mut().zip(rows) {
            data.extend(row.map(|row| row.data));
        }
        // In the order of event time, also before 1970.
        self.offsets.push(event_ns as u64 ^ 1 << 63);
        self.event_ns.push(event_ns);
        self.born_ns.push(born_ns);
    }

    /// Adds one of a window: from and to.
    pub(super) fn push_in(&mut self, rows: [Option<View<'a>>; 2], window: (i64, i64), born_ns: i64) {
        self.push(rows, window.1.saturating_sub(1), born_ns);
        self.windows.push(window);
    }
}

/// What tells rows of one event time apart: whose they are, and their positions.
fn write_suffix(rows: &[Option<View<'_>>; 2], suffix: &mut Vec<u8>) {
    suffix.clear();
    suffix.push(u8::from(rows[LEFT].is_none()) << 1 | u8::from(rows[RIGHT].is_none()));
    for row in rows.iter().flatten() {
        suffix.extend_from_slice(&row.origin.to_be_bytes());
        suffix.extend_from_slice(&row.offset.to_be_bytes());
        suffix.extend_from_slice(&(row.suffix.len() as u32).to_be_bytes());
        suffix.extend_from_slice(row.suffix);
    }
}

impl Pairs {
    pub(super) fn new(plan: &JoinPlan, cx: &RenderCx<'_>) -> Result<Pairs, String> {
        let wanted = cx.wanted.first().ok_or("a join without an output")?;
        let mut decoders = [None, None];
        let mut widths = [0; 2];
        let mut fields: Vec<Field> = Vec::new();
        for side in [LEFT, RIGHT] {
            let input = cx.inputs.get(side).ok_or("a join with one input")?;
            let kept = kept_fields(input, &plan.kept(side, wanted));
            decoders[side] = converter(&kept)?;
            widths[side] = kept.len();
            let named = kept.into_iter().map(|field| {
                let name = qualified(side, field.name());
                field.with_name(name).with_nullable(true)
            });
            fields.extend(named);
        }
        let utc = DataType::Timestamp(TimeUnit::Nanosecond, Some("UTC".into()));
        fields.extend(["window_start", "window_end"].map(|bound| Field::new(bound, utc.clone(), true)));
        let (start, end) = (fields.len() - 2, fields.len() - 1);
        let both: SchemaRef = Arc::new(Schema::new(fields));
        let mut columns = Vec::new();
        let mut output = Vec::new();
        for (at, column) in plan.columns.iter().enumerate() {
            if !wanted.contains(column.field.name()) {
                continue;
            }
            columns.push(match &column.value {
                Value::Of(side, name) => Source::Of(place(&both, *side, name)?),
                Value::Either(term, _) | Value::Term(term) => Source::Program(Bound::new(term, &both, at as u64)?),
                Value::Start => Source::Of(start),
                Value::End => Source::Of(end),
                Value::Unknown => return Err(format!("the column `{}` was not planned", column.field.name())),
            });
            output.push(column.field.clone());
        }
        let salt = plan.columns.len() as u64;
        Ok(Pairs {
            step: cx.step.clone(),
            step_id: cx.step_id,
            decoders,
            widths,
            filter: plan.filter.as_ref().map(|filter| Bound::new(filter, &both, salt)).transpose()?,
            both,
            columns,
            output: Arc::new(Schema::new(output)),
            gives_event_time: wanted.contains(hidden::EVENT_TIME),
        })
    }

    /// Whether equal keys and times alone make no match.
    pub(super) fn has_condition(&self) -> bool {
        self.filter.is_some()
    }

    /// The columns of a portion.
    pub(super) fn gather(&self, mut portion: Portion<'_>, clock_ns: i64) -> Rows {
        let count = portion.event_ns.len();
        let mut columns: Vec<ArrayRef> = Vec::with_capacity(self.both.fields().len());
        for side in [LEFT, RIGHT] {
            let fields = self.both.fields()[columns.len()..].iter().take(self.widths[side]);
            match &self.decoders[side] {
                Some(decoder) if !portion.data[side].is_empty() => columns.extend(decode(decoder, &portion.data[side])),
                _ => columns.extend(fields.map(|field| new_null_array(field.data_type(), count))),
            }
        }
        let utc = |of: &dyn Fn(&(i64, i64)) -> i64| -> ArrayRef {
            Arc::new(TimestampNanosecondArray::from_iter_values(portion.windows.iter().map(of)).with_timezone("UTC"))
        };
        match portion.windows.is_empty() {
            true => columns.extend(
                self.both.fields()[columns.len()..].iter().map(|field| new_null_array(field.data_type(), count)),
            ),
            false => columns.extend([utc(&|window| window.0), utc(&|window| window.1)]),
        }
        Rows {
            batch: assemble(&self.both, columns, count),
            positions: Positions::Mixed {
                origins: vec![made_by(self.step_id); count].into(),
                offsets: portion.offsets.into(),
                suffixes: Some(portion.suffixes.finish()),
            },
            ingest_ns: Times::One(clock_ns),
            born_ns: Times::Each(portion.born_ns.into()),
            event_ns: Some(Times::Each(portion.event_ns.into())),
            removes: None,
        }
    }

    /// Which pairs match by the further condition, if there is one, and for which it fails.
    pub(super) fn matching(&mut self, pairs: &Rows) -> Option<Matching> {
        let evaluated = self.filter.as_mut()?.evaluate(pairs);
        // The plan holds a condition to be boolean. Null is false, as is a row that failed.
        let values = evaluated.array.as_boolean_opt();
        let mask = values.map_or_else(
            || vec![false; pairs.num_rows()],
            |values| values.iter().map(|one| one == Some(true)).collect(),
        );
        Some(Matching { mask, errors: evaluated.errors.into_iter().collect() })
    }

    /// Puts out the pairs for which the condition failed, and gives a mask of those that match.
    pub(super) fn sort_out(
        &self,
        pairs: &Rows,
        matching: Option<Matching>,
        out: &mut StepOutput,
    ) -> Option<BooleanArray> {
        let Matching { mask, errors } = matching?;
        fail(&self.step, &self.seen(pairs), errors.into_iter().collect(), out);
        Some(BooleanArray::from(mask))
    }

    /// Puts rows out, of a mask those for which it is true.
    pub(super) fn put_out(&mut self, rows: &Rows, mask: Option<&BooleanArray>, out: &mut StepOutput) {
        let mut rows = mask.map_or_else(|| rows.clone(), |mask| rows.filter(mask));
        let count = rows.num_rows();
        if count == 0 {
            return;
        }
        let mut failed: BTreeMap<usize, RowError> = BTreeMap::new();
        let mut columns = Vec::with_capacity(self.columns.len());
        for column in &mut self.columns {
            columns.push(match column {
                Source::Of(at) => rows.batch.column(*at).clone(),
                Source::Program(bound) => {
                    let evaluated = bound.evaluate(&rows);
                    for (row, error) in evaluated.errors {
                        failed.entry(row).or_insert(error);
                    }
                    evaluated.array
                }
            });
        }
        let good: BooleanArray = (0..count).map(|row| Some(!failed.contains_key(&row))).collect();
        fail(&self.step, &self.seen(&rows), failed.into_iter().collect(), out);
        if !self.gives_event_time {
            rows.event_ns = None;
        }
        if good.true_count() == count {
            out.give(0, rows.with_batch(assemble(&self.output, columns, count)));
        } else {
            give_sound(&rows, &self.output, columns, &good, out);
        }
    }

    /// What is seen of rows that fail: the columns of both sides.
    fn seen(&self, rows: &Rows) -> Rows {
        let sides = self.widths[LEFT] + self.widths[RIGHT];
        let fields: Vec<Field> = self.both.fields()[..sides].iter().map(|field| field.as_ref().clone()).collect();
        let columns = rows.batch.columns()[..sides].to_vec();
        rows.with_batch(assemble_loose(&Arc::new(Schema::new(fields)), columns, rows.num_rows()))
    }
}

/// The columns of encoded rows. A row that stands beside many others stands there many times in a run: it is read once.
fn decode(decoder: &RowConverter, data: &[&[u8]]) -> Vec<ArrayRef> {
    let same = |a: &&[u8], b: &&[u8]| std::ptr::eq(*a, *b);
    let runs = data.chunk_by(same).count();
    let parser = decoder.parser();
    let read = |data: &mut dyn Iterator<Item = &[u8]>| {
        decoder
            .convert_rows(data.map(|row| parser.parse(row)))
            .unwrap_or_else(|error| panic!("a row that was kept can't be read back: {error}"))
    };
    if runs * 2 > data.len() {
        return read(&mut data.iter().copied());
    }
    let columns = read(&mut data.chunk_by(same).map(|run| run[0]));
    let runs = data.chunk_by(same).enumerate();
    let indices: UInt32Array = runs.flat_map(|(at, run)| std::iter::repeat_n(at as u32, run.len())).collect();
    let spread = |column: &ArrayRef| {
        take(column, &indices, None).unwrap_or_else(|error| panic!("arrow takes rows of every type: {error}"))
    };
    columns.iter().map(spread).collect()
}
