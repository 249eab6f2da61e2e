//! `array_sum` and `array_product` of integers and decimals: exact and checked, as their arithmetic is everywhere else.
//! DataFusion's, which go by float64, are left for floats.

use crate::failure::{OVERFLOW, failed};
use arrow::array::{Array, ArrayRef, ArrowPrimitiveType, AsArray, ListArray, PrimitiveArray};
use arrow::datatypes::{
    ArrowNativeTypeOp, DECIMAL128_MAX_PRECISION, DataType, Decimal128Type, DecimalType, Field, Int64Type, UInt64Type,
};
use datafusion_common::Result;
use datafusion_common::utils::take_function_args;
use datafusion_expr::{ColumnarValue, Documentation, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature};
use std::sync::Arc;

/// The function that is exact where the list's elements are, for one of DataFusion's.
pub(super) fn exact(floats: &Arc<ScalarUDF>) -> Option<Arc<ScalarUDF>> {
    let fold = match floats.name() {
        "array_sum" => Fold::Sum,
        "array_product" => Fold::Product,
        _ => return None,
    };
    Some(Arc::new(ScalarUDF::new_from_impl(Exact { fold, floats: Arc::clone(floats) })))
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Fold {
    Sum,
    Product,
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct Exact {
    fold: Fold,
    /// For elements that are no integers and no decimals.
    floats: Arc<ScalarUDF>,
}

impl Exact {
    /// The type in which the elements are folded; `None` for floats.
    fn element(&self, list: &DataType) -> Option<DataType> {
        let (DataType::List(item) | DataType::LargeList(item) | DataType::FixedSizeList(item, _)) = list else {
            return None;
        };
        match (item.data_type(), self.fold) {
            (DataType::UInt64, _) => Some(DataType::UInt64),
            (of, _) if of.is_integer() => Some(DataType::Int64),
            // A product would have more digits than any type.
            // With all the digits there are, since a type is coerced more than once and must then stay.
            (DataType::Decimal128(_, scale), Fold::Sum) => Some(DataType::Decimal128(DECIMAL128_MAX_PRECISION, *scale)),
            _ => None,
        }
    }
}

impl ScalarUDFImpl for Exact {
    fn name(&self) -> &str {
        self.floats.name()
    }
    fn aliases(&self) -> &[String] {
        self.floats.aliases()
    }
    fn signature(&self) -> &Signature {
        self.floats.signature()
    }
    fn return_type(&self, types: &[DataType]) -> Result<DataType> {
        match types {
            // Coerced already: the element's type is the result's.
            [DataType::List(item)] if self.element(&types[0]).is_some() => Ok(item.data_type().clone()),
            _ => self.floats.return_type(types),
        }
    }
    fn coerce_types(&self, types: &[DataType]) -> Result<Vec<DataType>> {
        let element = types.first().filter(|_| types.len() == 1).and_then(|list| self.element(list));
        match element {
            Some(element) => Ok(vec![DataType::List(Arc::new(Field::new_list_field(element, true)))]),
            None => self.floats.coerce_types(types),
        }
    }
    fn documentation(&self) -> Option<&Documentation> {
        self.floats.documentation()
    }
    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let [list] = take_function_args(self.name(), &args.args)?;
        if self.element(&list.data_type()).is_none() {
            return self.floats.invoke_with_args(args);
        }
        let array = list.to_array(args.number_rows)?;
        let list = array.as_list::<i32>();
        let folded: ArrayRef = match list.value_type() {
            DataType::UInt64 => Arc::new(self.folded::<UInt64Type>(list, |_| true)?),
            DataType::Decimal128(precision, scale) => {
                let fits = |value: i128| Decimal128Type::validate_decimal_precision(value, precision, scale).is_ok();
                let sums = self.folded::<Decimal128Type>(list, fits)?;
                Arc::new(sums.with_precision_and_scale(precision, scale)?)
            }
            _ => Arc::new(self.folded::<Int64Type>(list, |_| true)?),
        };
        Ok(ColumnarValue::Array(folded))
    }
}

impl Exact {
    /// The fold of each list, nulls left out; null where nothing is left, as with an aggregate.
    fn folded<T: ArrowPrimitiveType>(
        &self,
        lists: &ListArray,
        fits: impl Fn(T::Native) -> bool,
    ) -> Result<PrimitiveArray<T>> {
        let values = lists.values().as_primitive::<T>();
        let step = |folded: T::Native, value: T::Native| match self.fold {
            Fold::Sum => folded.add_checked(value),
            Fold::Product => folded.mul_checked(value),
        };
        let too_large = || failed(OVERFLOW, format!("{} is out of range", self.name()));
        let fold = |row: usize| -> Result<Option<T::Native>> {
            if lists.is_null(row) {
                return Ok(None);
            }
            let mut folded = None;
            for at in lists.value_offsets()[row] as usize..lists.value_offsets()[row + 1] as usize {
                if values.is_valid(at) {
                    let value = values.value(at);
                    let next = folded.map_or(Ok(value), |folded| step(folded, value)).map_err(|_| too_large())?;
                    folded = Some(next);
                }
            }
            match folded {
                Some(value) if !fits(value) => Err(too_large()),
                folded => Ok(folded),
            }
        };
        (0..lists.len()).map(fold).collect()
    }
}
