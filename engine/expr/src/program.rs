//! A compiled expression, and the rule that the row alone decides.
//!
//! ```text
//! whole batch ──ok──▶ done                     the fast path: one vectorised pass
//!      │ a row fails, or a kernel panics
//!      ▼
//!   halves ──ok──▶ piece                       again, down to single rows
//!      │ more than 5 % of the rows failed
//!      ▼
//!  row by row ──▶ piece or row error
//! ```
//!
//! What a row gives never depends on the rows beside it: a batch is evaluated as a whole only where that equals evaluating
//! each row alone, and where anything fails, the row alone is asked. A row alone stops at `false AND …`, at the first branch
//! of a `CASE` that is true, and at the first value of a `coalesce`; so `d <> 0 AND 1/d > 2` never fails, in any company.

use crate::comparison::{FloatComparison, compares_floats};
use crate::decimal::{InRange, in_range};
use crate::error::ExprError;
use crate::failure::{panicked, row_error};
use crate::functions::functions;
use crate::panics::{catching, quiet_panics};
use crate::scalar::{Hidden, Scalar};
use crate::types::type_name;
use arrow::array::{
    Array, ArrayRef, Float64Array, RecordBatch, RecordBatchOptions, StringArray, TimestampNanosecondArray,
};
use arrow::array::{new_empty_array, new_null_array};
use arrow::compute::{CastOptions, cast_with_options, concat};
use arrow::datatypes::{DataType, Field, FieldRef, Schema, SchemaRef};
use arrow::util::display::FormatOptions;
use datafusion_common::tree_node::{Transformed, TreeNode};
use datafusion_common::{DFSchema, DataFusionError, Result as DataFusionResult, ScalarValue};
use datafusion_expr::physical_planning_context::PhysicalPlanningContext;
use datafusion_expr::{ColumnarValue, Expr, Operator};
use datafusion_physical_expr::expressions::{BinaryExpr, Literal, NegativeExpr};
use datafusion_physical_expr::{PhysicalExpr, create_physical_expr};
use engine_base::{RowError, codes};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

/// What is known of the rows of a batch beside their columns. Asked only for what the expression reads.
pub struct RowFacts<'a> {
    /// When a row entered the engine, nanoseconds since 1970 UTC.
    pub now_ns: &'a dyn Fn(usize) -> i64,
    /// A row's event time, nanoseconds since 1970 UTC, where the stream has one.
    pub event_ns: Option<&'a dyn Fn(usize) -> i64>,
    /// A number that is a function of the row's position.
    pub seed: &'a dyn Fn(usize) -> u64,
}

impl RowFacts<'static> {
    /// For expressions that read none of it: the time is 1970, the position the row's number.
    pub fn none() -> Self {
        RowFacts { now_ns: &|_| 0, event_ns: None, seed: &|row| row as u64 }
    }
}

impl std::fmt::Debug for RowFacts<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RowFacts").finish_non_exhaustive()
    }
}

/// What a program gives for a batch.
#[derive(Clone, Debug)]
pub struct Evaluated {
    /// One value a row; null where the row failed.
    pub array: ArrayRef,
    /// The rows that failed, in ascending order, and why.
    pub errors: Vec<(usize, RowError)>,
}

/// An expression bound to the columns of a batch.
#[derive(Debug)]
pub struct Program {
    plan: Plan,
    data_type: DataType,
    salt: u64,
}

#[derive(Debug)]
enum Plan {
    /// A plain column, given as it is.
    Column(usize),
    /// A constant; the array of the longest batch so far is kept.
    Constant(ScalarValue, Option<ArrayRef>),
    /// Anything else.
    Compute { expr: Arc<dyn PhysicalExpr>, inputs: Vec<Input>, schema: SchemaRef },
}

#[derive(Clone, Copy, Debug)]
enum Input {
    Column(usize),
    Hidden(Hidden),
}

/// Above this share of failed rows the rest goes row by row, in percent.
const LINEAR_ABOVE_PERCENT: usize = 5;

impl Program {
    pub(crate) fn new(scalar: &Scalar, schema: &SchemaRef) -> Result<Self, ExprError> {
        let misfit = |what: String| ExprError::new(codes::expr::INTERNAL, what);
        let mut inputs = Vec::with_capacity(scalar.fields().len());
        for field in scalar.fields() {
            if let Some(hidden) = Hidden::of(field.name()) {
                inputs.push(Input::Hidden(hidden));
                continue;
            }
            let (at, found) = schema
                .column_with_name(field.name())
                .ok_or_else(|| misfit(format!("the batch has no column `{}`", field.name())))?;
            if found.data_type() != field.data_type() {
                return Err(misfit(format!(
                    "the column `{}` was planned as {} and is {}",
                    field.name(),
                    type_name(field.data_type()),
                    type_name(found.data_type())
                )));
            }
            inputs.push(Input::Column(at));
        }
        let plan = match (scalar.expr(), inputs.as_slice()) {
            (Expr::Column(_), [Input::Column(at)]) => Plan::Column(*at),
            (Expr::Literal(value, _), _) => Plan::Constant(value.clone(), None),
            (expr, _) => {
                let known = schema_of(scalar.fields()).map_err(|error| misfit(row_error(&error).reason))?;
                let expr = lower(expr, &known).map_err(|error| misfit(row_error(&error).reason))?;
                // The types decide; that a column is never null was checked where it came from.
                let fields: Vec<Field> =
                    scalar.fields().iter().map(|field| field.as_ref().clone().with_nullable(true)).collect();
                Plan::Compute { expr, inputs, schema: Arc::new(Schema::new(fields)) }
            }
        };
        Ok(Program { plan, data_type: scalar.data_type().clone(), salt: 0 })
    }

    /// Sets apart what `random()` and `uuid()` draw in programs of the same rows: give each column of a step its own number.
    #[must_use]
    pub fn with_salt(mut self, salt: u64) -> Self {
        self.salt = salt;
        self
    }

    /// The type of the values.
    pub fn data_type(&self) -> &DataType {
        &self.data_type
    }

    /// Evaluates the expression for every row of a batch.
    ///
    /// The batch has the schema that the program was compiled for. A row that can't be computed is null in the array and has
    /// an entry in the errors; all others are as if they had been evaluated alone.
    pub fn evaluate(&mut self, batch: &RecordBatch, facts: &RowFacts<'_>) -> Evaluated {
        let rows = batch.num_rows();
        match &mut self.plan {
            Plan::Column(at) => match batch.columns().get(*at) {
                Some(column) => Evaluated { array: Arc::clone(column), errors: Vec::new() },
                None => all_failed(&self.data_type, rows, &RowError::new("invalid", "the batch lacks a column")),
            },
            Plan::Constant(value, kept) => match kept {
                Some(array) if array.len() >= rows => Evaluated { array: array.slice(0, rows), errors: Vec::new() },
                _ => match value.to_array_of_size(rows) {
                    Ok(array) => {
                        *kept = Some(Arc::clone(&array));
                        Evaluated { array, errors: Vec::new() }
                    }
                    Err(error) => all_failed(&self.data_type, rows, &row_error(&error)),
                },
            },
            Plan::Compute { expr, inputs, schema } => {
                if rows == 0 {
                    return Evaluated { array: new_empty_array(&self.data_type), errors: Vec::new() };
                }
                match gather(inputs, schema, batch, facts, self.salt) {
                    Ok(batch) => Isolation { expr, data_type: &self.data_type, batch: &batch }.run(),
                    Err(error) => all_failed(&self.data_type, rows, &error),
                }
            }
        }
    }
}

fn all_failed(data_type: &DataType, rows: usize, error: &RowError) -> Evaluated {
    Evaluated { array: new_null_array(data_type, rows), errors: (0..rows).map(|row| (row, error.clone())).collect() }
}

/// The batch that the expression reads: its columns in its order, the hidden ones made from the facts.
fn gather(
    inputs: &[Input],
    schema: &SchemaRef,
    batch: &RecordBatch,
    facts: &RowFacts<'_>,
    salt: u64,
) -> Result<RecordBatch, RowError> {
    let rows = batch.num_rows();
    let invalid = |reason: &str| RowError::new("invalid", reason);
    let column = |input: &Input| -> Result<ArrayRef, RowError> {
        Ok(match input {
            Input::Column(at) => {
                Arc::clone(batch.columns().get(*at).ok_or_else(|| invalid("the batch lacks a column"))?)
            }
            Input::Hidden(Hidden::Now) => times(rows, facts.now_ns),
            Input::Hidden(Hidden::EventTime) => {
                times(rows, facts.event_ns.ok_or_else(|| invalid("the row has no event time"))?)
            }
            Input::Hidden(Hidden::Random(place)) => {
                let draw = |row| unit(mix((facts.seed)(row), salt, u64::from(*place)));
                Arc::new((0..rows).map(draw).collect::<Vec<f64>>().into_iter().collect::<Float64Array>())
            }
            Input::Hidden(Hidden::Uuid(place)) => {
                let draw = |row| {
                    let seed = (facts.seed)(row);
                    // Places of random() and uuid() share the numbers; the high bit keeps them apart.
                    let place = u64::from(*place) << 1 | 1 << 40;
                    uuid(mix(seed, salt, place), mix(seed, salt, place | 1))
                };
                Arc::new(StringArray::from_iter_values((0..rows).map(draw)))
            }
        })
    };
    let columns = inputs.iter().map(column).collect::<Result<Vec<_>, _>>()?;
    let options = RecordBatchOptions::new().with_row_count(Some(rows));
    RecordBatch::try_new_with_options(Arc::clone(schema), columns, &options)
        .map_err(|_| invalid("the batch has columns of other types than planned"))
}

fn times(rows: usize, of: &dyn Fn(usize) -> i64) -> ArrayRef {
    Arc::new(TimestampNanosecondArray::from_iter_values((0..rows).map(of)).with_timezone(crate::types::UTC))
}

/// SplitMix64 over position, program and place: the same on every machine.
fn mix(seed: u64, salt: u64, place: u64) -> u64 {
    let step = |x: u64| {
        let x = x.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let x = (x ^ (x >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let x = (x ^ (x >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        x ^ (x >> 31)
    };
    step(step(step(seed) ^ salt) ^ place)
}

/// 53 bits as a number from 0 to below 1.
fn unit(bits: u64) -> f64 {
    (bits >> 11) as f64 / (1u64 << 53) as f64
}

/// A UUID of version 4.
fn uuid(high: u64, low: u64) -> String {
    let high = high & !0xF000 | 0x4000;
    let low = low & !(0b11 << 62) | 0b10 << 62;
    format!(
        "{:08x}-{:04x}-{:04x}-{:04x}-{:012x}",
        high >> 32,
        high >> 16 & 0xFFFF,
        high & 0xFFFF,
        low >> 48,
        low & 0xFFFF_FFFF_FFFF
    )
}

/// One evaluation of a batch that may have failing rows.
struct Isolation<'a> {
    expr: &'a Arc<dyn PhysicalExpr>,
    data_type: &'a DataType,
    batch: &'a RecordBatch,
}

impl Isolation<'_> {
    fn run(&self) -> Evaluated {
        let rows = self.batch.num_rows();
        let _quiet = quiet_panics();
        let error = match self.attempt(self.batch) {
            Ok(array) => return Evaluated { array, errors: Vec::new() },
            Err(error) => error,
        };
        if rows == 1 {
            return all_failed(self.data_type, 1, &error);
        }
        let mut pieces: Vec<ArrayRef> = Vec::new();
        let mut errors: Vec<(usize, RowError)> = Vec::new();
        // What is still to be done, the next on top: (first row, number of rows, known to fail).
        let half = rows / 2;
        let mut todo = vec![(half, rows - half), (0, half)];
        while let Some((first, count)) = todo.pop() {
            let linear = errors.len() * 100 > rows * LINEAR_ABOVE_PERCENT;
            if linear && count > 1 {
                todo.extend((first..first + count).rev().map(|row| (row, 1)));
                continue;
            }
            match self.attempt(&self.batch.slice(first, count)) {
                Ok(array) => pieces.push(array),
                Err(error) if count == 1 => {
                    pieces.push(new_null_array(self.data_type, 1));
                    errors.push((first, error));
                }
                Err(_) => {
                    let half = count / 2;
                    todo.push((first + half, count - half));
                    todo.push((first, half));
                }
            }
        }
        let parts: Vec<&dyn Array> = pieces.iter().map(AsRef::as_ref).collect();
        match concat(&parts) {
            Ok(array) => Evaluated { array, errors },
            Err(error) => all_failed(self.data_type, rows, &row_error(&error.into())),
        }
    }

    /// The values of some rows, or why not all of them have one.
    fn attempt(&self, batch: &RecordBatch) -> Result<ArrayRef, RowError> {
        // The guard against printing is the caller's, so that it is taken once a batch.
        match catch_unwind(AssertUnwindSafe(|| self.compute(batch))) {
            Ok(Ok(array)) => Ok(array),
            Ok(Err(error)) => Err(row_error(&error)),
            Err(payload) => {
                let text = payload.downcast_ref::<&str>().map(|text| (*text).to_owned());
                Err(panicked(&text.or_else(|| payload.downcast_ref::<String>().cloned()).unwrap_or_default()))
            }
        }
    }

    fn compute(&self, batch: &RecordBatch) -> DataFusionResult<ArrayRef> {
        let array = match self.expr.evaluate(batch)? {
            ColumnarValue::Array(array) => array,
            ColumnarValue::Scalar(value) => value.to_array_of_size(batch.num_rows())?,
        };
        let array = if array.data_type() == self.data_type { array } else { strict_cast(&array, self.data_type)? };
        in_range(&array)?;
        if array.len() != batch.num_rows() {
            return Err(DataFusionError::Execution(
                "a function gave another number of rows than it was given".to_owned(),
            ));
        }
        Ok(array)
    }
}

/// A cast that fails where a value has no counterpart.
pub(crate) fn strict_cast(array: &ArrayRef, to: &DataType) -> DataFusionResult<ArrayRef> {
    let options = CastOptions { safe: false, format_options: FormatOptions::default() };
    Ok(cast_with_options(array, to, &options)?)
}

/// The schema that an expression's columns make.
pub(crate) fn schema_of(fields: &[FieldRef]) -> DataFusionResult<DFSchema> {
    DFSchema::from_unqualified_fields(fields.iter().cloned().collect(), std::collections::HashMap::new())
}

/// A logical expression as one that runs, with checked arithmetic.
pub(crate) fn lower(expr: &Expr, schema: &DFSchema) -> DataFusionResult<Arc<dyn PhysicalExpr>> {
    let expr = create_physical_expr(expr, schema, &functions().props, &PhysicalPlanningContext::default())?;
    let arrow = schema.as_arrow();
    expr.transform_up(|node| {
        if let Some(binary) = node.downcast_ref::<BinaryExpr>()
            && matches!(
                binary.op(),
                Operator::Plus | Operator::Minus | Operator::Multiply | Operator::Divide | Operator::Modulo
            )
        {
            let checked = BinaryExpr::new(Arc::clone(binary.left()), *binary.op(), Arc::clone(binary.right()));
            let checked: Arc<dyn PhysicalExpr> = Arc::new(checked.with_fail_on_overflow(true));
            return Ok(Transformed::yes(match checked.data_type(arrow)? {
                DataType::Decimal128(..) => Arc::new(InRange::new(checked)),
                _ => checked,
            }));
        }
        if let Some(binary) = node.downcast_ref::<BinaryExpr>() {
            let (left, right) = (binary.left().data_type(arrow)?, binary.right().data_type(arrow)?);
            if compares_floats(*binary.op(), &left, &right) {
                let (left, right) = (Arc::clone(binary.left()), Arc::clone(binary.right()));
                let compared = FloatComparison::new(left, *binary.op(), right);
                return Ok(Transformed::yes(Arc::new(compared) as Arc<dyn PhysicalExpr>));
            }
        }
        // Negation wraps at the least number; subtracting from zero doesn't.
        if let Some(negative) = node.downcast_ref::<NegativeExpr>() {
            let data_type = negative.arg().data_type(arrow)?;
            if data_type.is_signed_integer() || matches!(data_type, DataType::Duration(_)) {
                let zero = Arc::new(Literal::new(ScalarValue::new_zero(&data_type)?));
                let checked = BinaryExpr::new(zero, Operator::Minus, Arc::clone(negative.arg()));
                return Ok(Transformed::yes(Arc::new(checked.with_fail_on_overflow(true)) as Arc<dyn PhysicalExpr>));
            }
        }
        Ok(Transformed::no(node))
    })
    .map(|transformed| transformed.data)
}

/// How a constant expression turns out.
pub(crate) enum Constant {
    /// It has a value.
    Value(ScalarValue),
    /// It fails, as it would for every row.
    Fails(RowError),
    /// It can't be run at all.
    Refused(DataFusionError),
}

/// Computes an expression that reads nothing.
pub(crate) fn constant(expr: &Expr) -> Constant {
    let lowered = match lower(expr, DFSchema::empty_ref()) {
        Ok(lowered) => lowered,
        Err(error) => return Constant::Refused(error),
    };
    let row = RecordBatchOptions::new().with_row_count(Some(1));
    let batch = match RecordBatch::try_new_with_options(Arc::new(Schema::empty()), Vec::new(), &row) {
        Ok(batch) => batch,
        Err(error) => return Constant::Refused(error.into()),
    };
    let computed = catching(|| match lowered.evaluate(&batch)? {
        ColumnarValue::Scalar(value) => Ok(value),
        ColumnarValue::Array(array) => ScalarValue::try_from_array(&array, 0),
    });
    match computed {
        Ok(Ok(value)) => Constant::Value(value),
        Ok(Err(error)) => Constant::Fails(row_error(&error)),
        Err(message) => Constant::Fails(panicked(&message)),
    }
}
