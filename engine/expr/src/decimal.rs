//! Decimal arithmetic that fails where its result has more digits than its type: Arrow looks only whether it fits in 128 bits.

use crate::failure::{OVERFLOW, failed};
use crate::types::type_name;
use arrow::array::{Array, AsArray};
use arrow::datatypes::{DataType, Decimal128Type, FieldRef, Schema};
use arrow::record_batch::RecordBatch;
use datafusion_common::{Result, internal_err};
use datafusion_expr::ColumnarValue;
use datafusion_physical_expr::PhysicalExpr;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

/// Fails where a decimal has more digits than its type says. Other types pass.
pub(crate) fn in_range(array: &dyn Array) -> Result<()> {
    if let DataType::Decimal128(precision, _) = array.data_type() {
        let values = array.as_primitive::<Decimal128Type>();
        values
            .validate_decimal_precision(*precision)
            .map_err(|_| failed(OVERFLOW, format!("out of range for {}", type_name(array.data_type()))))?;
    }
    Ok(())
}

/// A value of which [`in_range`] holds, or a failure.
#[derive(Debug)]
pub(crate) struct InRange(Arc<dyn PhysicalExpr>);

impl InRange {
    /// Checks what an expression gives.
    pub(crate) fn new(expr: Arc<dyn PhysicalExpr>) -> Self {
        InRange(expr)
    }
}

impl PartialEq for InRange {
    fn eq(&self, other: &Self) -> bool {
        self.0.eq(&other.0)
    }
}

impl Eq for InRange {}

impl Hash for InRange {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.hash(state);
    }
}

impl fmt::Display for InRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl PhysicalExpr for InRange {
    // By default both are taken of the field, which asks for both: twice the work for each level of a long sum.
    fn data_type(&self, schema: &Schema) -> Result<DataType> {
        self.0.data_type(schema)
    }

    fn nullable(&self, schema: &Schema) -> Result<bool> {
        self.0.nullable(schema)
    }

    fn return_field(&self, schema: &Schema) -> Result<FieldRef> {
        self.0.return_field(schema)
    }

    fn evaluate(&self, batch: &RecordBatch) -> Result<ColumnarValue> {
        let value = self.0.evaluate(batch)?;
        match &value {
            ColumnarValue::Array(array) => in_range(array)?,
            ColumnarValue::Scalar(scalar) => in_range(&*scalar.to_array()?)?,
        }
        Ok(value)
    }

    fn children(&self) -> Vec<&Arc<dyn PhysicalExpr>> {
        vec![&self.0]
    }

    fn with_new_children(self: Arc<Self>, children: Vec<Arc<dyn PhysicalExpr>>) -> Result<Arc<dyn PhysicalExpr>> {
        match <[_; 1]>::try_from(children) {
            Ok([child]) => Ok(Arc::new(InRange(child))),
            Err(_) => internal_err!("one value is checked"),
        }
    }

    fn fmt_sql(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt_sql(f)
    }
}
