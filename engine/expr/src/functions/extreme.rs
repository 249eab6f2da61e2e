//! `max_by(value, by)` and `min_by(value, by)`: the value of the row whose `by` is greatest or least.
//!
//! Rows whose `by` is null don't count. Of equal rows the first wins. NaN is greater than all numbers, as in `max`.

use arrow::array::{Array, ArrayRef, UInt64Array, make_comparator};
use arrow::compute::{SortOptions, take};
use arrow::datatypes::{DataType, Field, FieldRef};
use datafusion_common::utils::take_function_args;
use datafusion_common::{Result, ScalarValue, plan_err};
use datafusion_expr::function::{AccumulatorArgs, StateFieldsArgs};
use datafusion_expr::{Accumulator, AggregateUDF, AggregateUDFImpl, Signature, Volatility};
use std::cmp::Ordering;
use std::sync::Arc;

pub(super) fn max_by() -> Arc<AggregateUDF> {
    by(true)
}

pub(super) fn min_by() -> Arc<AggregateUDF> {
    by(false)
}

fn by(max: bool) -> Arc<AggregateUDF> {
    Arc::new(AggregateUDF::new_from_impl(ExtremeBy { max, signature: Signature::any(2, Volatility::Immutable) }))
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct ExtremeBy {
    max: bool,
    signature: Signature,
}

impl AggregateUDFImpl for ExtremeBy {
    fn name(&self) -> &str {
        if self.max { "max_by" } else { "min_by" }
    }
    fn signature(&self) -> &Signature {
        &self.signature
    }
    fn return_type(&self, types: &[DataType]) -> Result<DataType> {
        match types {
            [_, DataType::Map(..) | DataType::Union(..) | DataType::Interval(_)] => {
                plan_err!("{} can't order by this", self.name())
            }
            [value, _] => Ok(value.clone()),
            _ => plan_err!("{} takes two arguments", self.name()),
        }
    }
    fn accumulator(&self, args: AccumulatorArgs<'_>) -> Result<Box<dyn Accumulator>> {
        let none = |field: &FieldRef| ScalarValue::try_new_null(field.data_type())?.to_array();
        let [value, by] = take_function_args(self.name(), args.expr_fields)?;
        Ok(Box::new(Extreme { max: self.max, value: none(value)?, by: none(by)? }))
    }
    fn state_fields(&self, args: StateFieldsArgs<'_>) -> Result<Vec<FieldRef>> {
        let [value, by] = take_function_args(self.name(), args.input_fields)?;
        let field = |name: &str, of: &FieldRef| {
            Arc::new(Field::new(format!("{}[{name}]", args.name), of.data_type().clone(), true))
        };
        Ok(vec![field("value", value), field("by", by)])
    }
}

/// The best row so far, as arrays of one row; none while `by` is null.
#[derive(Debug)]
struct Extreme {
    max: bool,
    value: ArrayRef,
    by: ArrayRef,
}

impl Extreme {
    fn better(&self, order: Ordering) -> bool {
        order == if self.max { Ordering::Greater } else { Ordering::Less }
    }
}

impl Accumulator for Extreme {
    fn update_batch(&mut self, values: &[ArrayRef]) -> Result<()> {
        let [value, by] = take_function_args("max_by", values)?;
        let within = make_comparator(by.as_ref(), by.as_ref(), SortOptions::default())?;
        let mut best: Option<usize> = None;
        let nulls = by.logical_nulls();
        for row in (0..by.len()).filter(|row| nulls.as_ref().is_none_or(|nulls| nulls.is_valid(*row))) {
            if best.is_none_or(|best| self.better(within(row, best))) {
                best = Some(row);
            }
        }
        let Some(best) = best else { return Ok(()) };
        let against = make_comparator(by.as_ref(), self.by.as_ref(), SortOptions::default())?;
        if self.by.is_null(0) || self.better(against(best, 0)) {
            // Taken, not sliced: a slice would keep the whole batch alive.
            let row = UInt64Array::from(vec![best as u64]);
            self.value = take(value, &row, None)?;
            self.by = take(by, &row, None)?;
        }
        Ok(())
    }
    fn merge_batch(&mut self, states: &[ArrayRef]) -> Result<()> {
        self.update_batch(states)
    }
    fn state(&mut self) -> Result<Vec<ScalarValue>> {
        Ok(vec![ScalarValue::try_from_array(&self.value, 0)?, ScalarValue::try_from_array(&self.by, 0)?])
    }
    fn evaluate(&mut self) -> Result<ScalarValue> {
        ScalarValue::try_from_array(&self.value, 0)
    }
    fn size(&self) -> usize {
        size_of_val(self) + self.value.get_array_memory_size() + self.by.get_array_memory_size()
    }
}
