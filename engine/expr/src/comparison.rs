//! Comparisons of floats by IEEE 754: NaN is neither less nor greater than anything, nor equal, not even to itself, and -0.0
//! equals 0.0. (Arrow's kernels order floats totally, by their bits: what `0.0 / 0.0` gives would be below all numbers on one
//! processor and above all on another.)
//!
//! `IS NOT DISTINCT FROM` asks whether two values are the same, and there NaN is.

use arrow::array::{Array, ArrayRef, ArrowPrimitiveType, BooleanArray, PrimitiveArray};
use arrow::buffer::{BooleanBuffer, NullBuffer};
use arrow::datatypes::{DataType, Field, FieldRef, Float32Type, Float64Type, Schema};
use arrow::record_batch::RecordBatch;
use datafusion_common::cast::as_primitive_array;
use datafusion_common::{Result, ScalarValue, internal_err};
use datafusion_expr::{ColumnarValue, Operator};
use datafusion_physical_expr::PhysicalExpr;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

/// Whether a comparison of two types is one of floats.
pub(crate) fn compares_floats(op: Operator, left: &DataType, right: &DataType) -> bool {
    let comparison = matches!(
        op,
        Operator::Eq
            | Operator::NotEq
            | Operator::Lt
            | Operator::LtEq
            | Operator::Gt
            | Operator::GtEq
            | Operator::IsDistinctFrom
            | Operator::IsNotDistinctFrom
    );
    comparison && left == right && matches!(left, DataType::Float32 | DataType::Float64)
}

/// A comparison of two floats of one type.
#[derive(Debug)]
pub(crate) struct FloatComparison {
    left: Arc<dyn PhysicalExpr>,
    op: Operator,
    right: Arc<dyn PhysicalExpr>,
}

impl FloatComparison {
    /// `left op right`, for what [`compares_floats`] holds of.
    pub(crate) fn new(left: Arc<dyn PhysicalExpr>, op: Operator, right: Arc<dyn PhysicalExpr>) -> Self {
        FloatComparison { left, op, right }
    }
}

impl PartialEq for FloatComparison {
    fn eq(&self, other: &Self) -> bool {
        self.op == other.op && self.left.eq(&other.left) && self.right.eq(&other.right)
    }
}

impl Eq for FloatComparison {}

impl Hash for FloatComparison {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.left.hash(state);
        self.op.hash(state);
        self.right.hash(state);
    }
}

impl fmt::Display for FloatComparison {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} {}", self.left, self.op, self.right)
    }
}

impl PhysicalExpr for FloatComparison {
    fn data_type(&self, _schema: &Schema) -> Result<DataType> {
        Ok(DataType::Boolean)
    }

    fn return_field(&self, schema: &Schema) -> Result<FieldRef> {
        let distinct = matches!(self.op, Operator::IsDistinctFrom | Operator::IsNotDistinctFrom);
        let nullable = !distinct && (self.left.nullable(schema)? || self.right.nullable(schema)?);
        Ok(Arc::new(Field::new(self.to_string(), DataType::Boolean, nullable)))
    }

    fn evaluate(&self, batch: &RecordBatch) -> Result<ColumnarValue> {
        let (left, right) = (self.left.evaluate(batch)?, self.right.evaluate(batch)?);
        if let (ColumnarValue::Scalar(left), ColumnarValue::Scalar(right)) = (&left, &right) {
            let (left, right) = (left.to_array()?, right.to_array()?);
            let compared = compare(self.op, &Side::Array(left), &Side::Array(right), 1)?;
            return Ok(ColumnarValue::Scalar(ScalarValue::try_from_array(&compared, 0)?));
        }
        let rows = batch.num_rows();
        let compared = compare(self.op, &Side::of(left)?, &Side::of(right)?, rows)?;
        Ok(ColumnarValue::Array(Arc::new(compared)))
    }

    fn children(&self) -> Vec<&Arc<dyn PhysicalExpr>> {
        vec![&self.left, &self.right]
    }

    fn with_new_children(self: Arc<Self>, children: Vec<Arc<dyn PhysicalExpr>>) -> Result<Arc<dyn PhysicalExpr>> {
        match <[_; 2]>::try_from(children) {
            Ok([left, right]) => Ok(Arc::new(FloatComparison { left, op: self.op, right })),
            Err(_) => internal_err!("a comparison has two sides"),
        }
    }

    fn fmt_sql(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.left.fmt_sql(f)?;
        write!(f, " {} ", self.op)?;
        self.right.fmt_sql(f)
    }
}

/// One side: a value for each row, or one for all (an array of length one).
enum Side {
    Array(ArrayRef),
    Scalar(ArrayRef),
}

impl Side {
    fn of(value: ColumnarValue) -> Result<Side> {
        Ok(match value {
            ColumnarValue::Array(array) => Side::Array(array),
            ColumnarValue::Scalar(value) => Side::Scalar(value.to_array()?),
        })
    }

    fn array(&self) -> &ArrayRef {
        match self {
            Side::Array(array) | Side::Scalar(array) => array,
        }
    }

    /// Where it is null, row by row.
    fn nulls(&self, rows: usize) -> Option<NullBuffer> {
        match self {
            Side::Array(array) => array.logical_nulls(),
            Side::Scalar(value) => value.is_null(0).then(|| NullBuffer::new_null(rows)),
        }
    }
}

fn compare(op: Operator, left: &Side, right: &Side, rows: usize) -> Result<BooleanArray> {
    match left.array().data_type() {
        DataType::Float32 => compare_typed::<Float32Type>(op, left, right, rows),
        _ => compare_typed::<Float64Type>(op, left, right, rows),
    }
}

fn compare_typed<T: ArrowPrimitiveType>(op: Operator, left: &Side, right: &Side, rows: usize) -> Result<BooleanArray>
where
    T::Native: PartialOrd,
{
    let is_nan = |value: T::Native| value.partial_cmp(&value).is_none();
    let same = |a: T::Native, b: T::Native| a == b || (is_nan(a) && is_nan(b));
    match op {
        Operator::Eq => over::<T>(left, right, rows, |a, b| a == b),
        Operator::NotEq => over::<T>(left, right, rows, |a, b| a != b),
        Operator::Lt => over::<T>(left, right, rows, |a, b| a < b),
        Operator::LtEq => over::<T>(left, right, rows, |a, b| a <= b),
        Operator::Gt => over::<T>(left, right, rows, |a, b| a > b),
        Operator::GtEq => over::<T>(left, right, rows, |a, b| a >= b),
        Operator::IsDistinctFrom | Operator::IsNotDistinctFrom => {
            let equal = over::<T>(left, right, rows, same)?;
            let (left, right) = (left.nulls(rows), right.nulls(rows));
            let null = |nulls: &Option<NullBuffer>, row| nulls.as_ref().is_some_and(|nulls| nulls.is_null(row));
            let wanted = op == Operator::IsNotDistinctFrom;
            let found = BooleanBuffer::collect_bool(rows, |row| {
                let same = match (null(&left, row), null(&right, row)) {
                    (false, false) => equal.value(row),
                    (left, right) => left == right,
                };
                same == wanted
            });
            Ok(BooleanArray::new(found, None))
        }
        _ => internal_err!("`{op}` is no comparison"),
    }
}

/// `holds` of each row's values; null where either is. What stands below a null is compared as well, and means nothing.
fn over<T: ArrowPrimitiveType>(
    left: &Side,
    right: &Side,
    rows: usize,
    holds: impl Fn(T::Native, T::Native) -> bool,
) -> Result<BooleanArray> {
    let values = |side: &Side| -> Result<PrimitiveArray<T>> { Ok(as_primitive_array::<T>(side.array())?.clone()) };
    let (left_values, right_values) = (values(left)?, values(right)?);
    let (a, b) = (left_values.values(), right_values.values());
    let found = match (left, right) {
        (Side::Array(_), Side::Array(_)) => BooleanBuffer::collect_bool(rows, |row| holds(a[row], b[row])),
        (Side::Array(_), Side::Scalar(_)) => {
            let b = b[0];
            BooleanBuffer::collect_bool(rows, |row| holds(a[row], b))
        }
        (Side::Scalar(_), Side::Array(_)) => {
            let a = a[0];
            BooleanBuffer::collect_bool(rows, |row| holds(a, b[row]))
        }
        (Side::Scalar(_), Side::Scalar(_)) => BooleanBuffer::collect_bool(rows, |_| holds(a[0], b[0])),
    };
    let nulls = NullBuffer::union(left.nulls(rows).as_ref(), right.nulls(rows).as_ref());
    Ok(BooleanArray::new(found, nulls))
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::array::{Float32Array, Float64Array};

    #[test]
    fn every_pair_compares_as_rust_does() {
        let values = [None, Some(f64::NAN), Some(-f64::NAN), Some(-0.0), Some(0.0), Some(1.5), Some(f64::NEG_INFINITY)];
        type Rust = fn(f64, f64) -> bool;
        let operators: [(Operator, Rust); 6] = [
            (Operator::Eq, |a, b| a == b),
            (Operator::NotEq, |a, b| a != b),
            (Operator::Lt, |a, b| a < b),
            (Operator::LtEq, |a, b| a <= b),
            (Operator::Gt, |a, b| a > b),
            (Operator::GtEq, |a, b| a >= b),
        ];
        for a in values {
            for b in values {
                let doubles = |value: Option<f64>| -> ArrayRef { Arc::new(Float64Array::from(vec![value])) };
                let singles = |value: Option<f64>| -> ArrayRef {
                    Arc::new(Float32Array::from(vec![value.map(|value| value as f32)]))
                };
                let sides = [
                    (Side::Array(doubles(a)), Side::Array(doubles(b))),
                    (Side::Scalar(doubles(a)), Side::Array(doubles(b))),
                    (Side::Array(doubles(a)), Side::Scalar(doubles(b))),
                    (Side::Array(singles(a)), Side::Array(singles(b))),
                ];
                for (left, right) in &sides {
                    for (operator, rust) in operators {
                        let found = compare(operator, left, right, 1).unwrap();
                        let expected = a.zip(b).map(|(a, b)| rust(a, b));
                        assert_eq!(found.is_valid(0).then(|| found.value(0)), expected, "{a:?} {operator} {b:?}");
                    }
                    let same = match (a, b) {
                        (Some(a), Some(b)) => a == b || (a.is_nan() && b.is_nan()),
                        (a, b) => a.is_none() && b.is_none(),
                    };
                    let found = compare(Operator::IsNotDistinctFrom, left, right, 1).unwrap();
                    assert_eq!((found.null_count(), found.value(0)), (0, same), "{a:?} {b:?}");
                }
            }
        }
    }
}
