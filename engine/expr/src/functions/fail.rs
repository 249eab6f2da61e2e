//! The constant that fails: what the planner leaves of `1 / 0` in a branch that a row may never take.

use crate::failure::failed;
use arrow::array::new_empty_array;
use arrow::datatypes::{DataType, Field, FieldRef};
use datafusion_common::Result;
use datafusion_expr::expr::ScalarFunction;
use datafusion_expr::{
    ColumnarValue, Expr, ReturnFieldArgs, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, TypeSignature,
    Volatility,
};
use engine_base::RowError;
use std::sync::Arc;

/// An expression of a type that fails whenever a row needs it.
pub(crate) fn fail(error: &RowError, data_type: DataType, nullable: bool) -> Expr {
    let function = Fail {
        code: error.code,
        reason: error.reason.clone(),
        data_type,
        nullable,
        // Volatile, so that nobody computes it beforehand.
        signature: Signature::new(TypeSignature::Nullary, Volatility::Volatile),
    };
    Expr::ScalarFunction(ScalarFunction::new_udf(Arc::new(ScalarUDF::new_from_impl(function)), Vec::new()))
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct Fail {
    code: &'static str,
    reason: String,
    data_type: DataType,
    nullable: bool,
    signature: Signature,
}

impl ScalarUDFImpl for Fail {
    fn name(&self) -> &str {
        "fail"
    }
    fn signature(&self) -> &Signature {
        &self.signature
    }
    fn return_type(&self, _: &[DataType]) -> Result<DataType> {
        Ok(self.data_type.clone())
    }
    fn return_field_from_args(&self, _: ReturnFieldArgs<'_>) -> Result<FieldRef> {
        Ok(Arc::new(Field::new(self.name(), self.data_type.clone(), self.nullable)))
    }
    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        match args.number_rows {
            0 => Ok(ColumnarValue::Array(new_empty_array(&self.data_type))),
            _ => Err(failed(self.code, self.reason.clone())),
        }
    }
}
