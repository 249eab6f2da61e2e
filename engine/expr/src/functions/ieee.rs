//! `sqrt` and `power` by IEEE: DataFusion's fail where these give NaN or infinity, and floats follow IEEE here.

use arrow::array::Float64Array;
use arrow::compute::binary;
use arrow::datatypes::{DataType, Field, FieldRef, Float64Type};
use datafusion_common::Result;
use datafusion_common::cast::as_primitive_array;
use datafusion_common::utils::take_function_args;
use datafusion_expr::{
    ColumnarValue, ReturnFieldArgs, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility,
};
use std::sync::Arc;

pub(super) fn sqrt() -> Arc<ScalarUDF> {
    of("sqrt", 1)
}

pub(super) fn power() -> Arc<ScalarUDF> {
    of("power", 2)
}

fn of(name: &'static str, arguments: usize) -> Arc<ScalarUDF> {
    let signature = Signature::exact(vec![DataType::Float64; arguments], Volatility::Immutable);
    let aliases = if name == "power" { vec!["pow".to_owned()] } else { Vec::new() };
    Arc::new(ScalarUDF::new_from_impl(Ieee { name, aliases, signature }))
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct Ieee {
    name: &'static str,
    aliases: Vec<String>,
    signature: Signature,
}

impl ScalarUDFImpl for Ieee {
    fn name(&self) -> &str {
        self.name
    }
    fn aliases(&self) -> &[String] {
        &self.aliases
    }
    fn signature(&self) -> &Signature {
        &self.signature
    }
    fn return_type(&self, _: &[DataType]) -> Result<DataType> {
        Ok(DataType::Float64)
    }
    fn is_strict(&self) -> bool {
        true
    }
    fn return_field_from_args(&self, args: ReturnFieldArgs<'_>) -> Result<FieldRef> {
        let nullable = args.arg_fields.iter().any(|field| field.is_nullable());
        Ok(Arc::new(Field::new(self.name, DataType::Float64, nullable)))
    }
    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let arrays = args.args.iter().map(|arg| arg.to_array(args.number_rows)).collect::<Result<Vec<_>>>()?;
        let result: Float64Array = match self.name {
            "sqrt" => {
                let [x] = take_function_args(self.name, &arrays)?;
                as_primitive_array::<Float64Type>(x)?.unary(f64::sqrt)
            }
            _ => {
                let [x, y] = take_function_args(self.name, &arrays)?;
                binary(as_primitive_array::<Float64Type>(x)?, as_primitive_array::<Float64Type>(y)?, f64::powf)?
            }
        };
        Ok(ColumnarValue::Array(Arc::new(result)))
    }
}
