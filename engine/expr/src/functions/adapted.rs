//! DataFusion's functions as we want them: bounded, and known to be null only where they are.
//!
//! *Bounded* are functions whose result is as long as an argument says: `repeat('x', n)`, `range(n)`. DataFusion reserves
//! the memory for a whole batch first, and a number in the data could end the process. With the bound a row that asks for too
//! much fails alone, and a batch that asks for too much together is computed in parts.
//!
//! *Nulls*: most functions are declared as if any result might be null, so that `concat(card, ':', id)` could be no key. What
//! is really null is known here, and a test holds each function to it.

use crate::failure::{INVALID, OVERFLOW, failed};
use arrow::array::{Array, ArrayRef};
use arrow::compute::cast;
use arrow::datatypes::{DataType, FieldRef, Int64Type, IntervalMonthDayNanoType};
use datafusion_common::Result;
use datafusion_common::cast::{as_primitive_array, as_string_array};
use datafusion_expr::simplify::{ExprSimplifyResult, SimplifyContext};
use datafusion_expr::{
    ColumnarValue, Documentation, Expr, ReturnFieldArgs, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature,
};
use std::sync::Arc;

/// The most bytes or elements that one row may ask for.
const MOST_PER_ROW: u64 = 16 * 1024 * 1024;
/// The most that one evaluation may ask for.
const MOST_AT_ONCE: u64 = 4 * MOST_PER_ROW;

/// What a function's result is as long as.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Length {
    /// The text's length times argument 1.
    TextTimes,
    /// Argument 1.
    Count,
    /// The steps from one argument to the next.
    Steps,
}

/// When a result is null.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Nulls {
    /// Where any argument is.
    AnyArgument,
    /// Where all arguments are.
    AllArguments,
    /// Where the first argument is.
    FirstArgument,
    /// Never.
    Never,
}

/// The functions whose result is null where an argument is, and only there.
pub(crate) const NULL_WHERE_AN_ARGUMENT_IS: &[&str] = &[
    "abs",
    "acos",
    "acosh",
    "ascii",
    "asin",
    "asinh",
    "atan",
    "atan2",
    "atanh",
    "bit_length",
    "btrim",
    "cbrt",
    "ceil",
    "character_length",
    "contains",
    "cos",
    "cosh",
    "cot",
    "date_bin",
    "date_part",
    "date_trunc",
    "degrees",
    "ends_with",
    "exp",
    "floor",
    "from_unixtime",
    "initcap",
    "isnan",
    "iszero",
    "left",
    "levenshtein",
    "ln",
    "log10",
    "log2",
    "lower",
    "lpad",
    "ltrim",
    "make_date",
    "md5",
    "octet_length",
    "radians",
    "regexp_like",
    "regexp_replace",
    "repeat",
    "replace",
    "reverse",
    "right",
    "round",
    "rpad",
    "rtrim",
    "sha224",
    "sha256",
    "sha384",
    "sha512",
    "signum",
    "sin",
    "sinh",
    "split_part",
    "starts_with",
    "strpos",
    "substr",
    "tan",
    "tanh",
    "to_char",
    "to_date",
    "to_hex",
    "to_timestamp",
    "to_timestamp_micros",
    "to_timestamp_millis",
    "to_timestamp_nanos",
    "to_timestamp_seconds",
    "to_unixtime",
    "translate",
    "trunc",
    "upper",
];

const DATE_BIN: &str = "date_bin";

/// The function, adapted if it must be.
pub(super) fn adapted(function: Arc<ScalarUDF>) -> Arc<ScalarUDF> {
    let length = match function.name() {
        "repeat" => Some(Length::TextTimes),
        "lpad" | "rpad" | "array_repeat" | "array_resize" => Some(Length::Count),
        "range" | "generate_series" => Some(Length::Steps),
        _ => None,
    };
    let nulls = match function.name() {
        name if NULL_WHERE_AN_ARGUMENT_IS.contains(&name) => Some(Nulls::AnyArgument),
        "greatest" | "least" => Some(Nulls::AllArguments),
        "concat_ws" => Some(Nulls::FirstArgument),
        "concat" | "make_array" | "named_struct" | "struct" => Some(Nulls::Never),
        _ => None,
    };
    match (length, nulls) {
        (None, None) => function,
        (length, nulls) => Arc::new(ScalarUDF::new_from_impl(Adapted { function, length, nulls })),
    }
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct Adapted {
    function: Arc<ScalarUDF>,
    length: Option<Length>,
    nulls: Option<Nulls>,
}

impl ScalarUDFImpl for Adapted {
    fn name(&self) -> &str {
        self.function.name()
    }
    fn aliases(&self) -> &[String] {
        self.function.aliases()
    }
    fn signature(&self) -> &Signature {
        self.function.signature()
    }
    fn return_type(&self, types: &[DataType]) -> Result<DataType> {
        self.function.return_type(types)
    }
    fn return_field_from_args(&self, args: ReturnFieldArgs<'_>) -> Result<FieldRef> {
        let given: Vec<bool> = args.arg_fields.iter().map(|field| field.is_nullable()).collect();
        let field = self.function.return_field_from_args(args)?;
        let nullable = match self.nulls {
            None => return Ok(field),
            Some(Nulls::AnyArgument) => given.contains(&true),
            Some(Nulls::AllArguments) => !given.contains(&false),
            Some(Nulls::FirstArgument) => given.first().is_none_or(|first| *first),
            Some(Nulls::Never) => false,
        };
        Ok(Arc::new(field.as_ref().clone().with_nullable(nullable)))
    }
    fn coerce_types(&self, types: &[DataType]) -> Result<Vec<DataType>> {
        self.function.coerce_types(types)
    }
    fn simplify(&self, args: Vec<Expr>, info: &SimplifyContext) -> Result<ExprSimplifyResult> {
        self.function.simplify(args, info)
    }
    fn is_strict(&self) -> bool {
        self.nulls == Some(Nulls::AnyArgument) || self.function.is_strict()
    }
    fn documentation(&self) -> Option<&Documentation> {
        self.function.documentation()
    }
    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        if let Some(length) = self.length {
            self.check(length, &args)?;
        }
        if self.name() != DATE_BIN {
            return self.function.invoke_with_args(args);
        }
        // Where a bin would start before the first timestamp there is, it gives null; that is an overflow like any other.
        let rows = args.number_rows;
        let nulls = |value: &ColumnarValue| match value {
            ColumnarValue::Array(array) => array.null_count(),
            ColumnarValue::Scalar(value) => usize::from(value.is_null()) * rows,
        };
        let given: usize = args.args.iter().map(nulls).sum();
        let bins = self.function.invoke_with_args(args)?;
        match nulls(&bins) > given {
            true => Err(failed(OVERFLOW, "the timestamp is out of range")),
            false => Ok(bins),
        }
    }
}

impl Adapted {
    fn check(&self, of: Length, args: &ScalarFunctionArgs) -> Result<()> {
        // All constant: one value is computed, whatever the number of rows.
        let constant = args.args.iter().all(|arg| matches!(arg, ColumnarValue::Scalar(_)));
        let rows = if constant { 1 } else { args.number_rows };
        let arrays = args.args.iter().map(|arg| arg.to_array(rows)).collect::<Result<Vec<_>>>()?;
        let mut total = 0u64;
        for row in 0..rows {
            if arrays.iter().any(|array| array.is_null(row)) {
                continue;
            }
            let length = of.of(&arrays, row)?;
            total = total.saturating_add(length);
            if length > MOST_PER_ROW {
                return Err(failed(
                    OVERFLOW,
                    format!("{} would give more than {MOST_PER_ROW} bytes or elements", self.name()),
                ));
            }
        }
        match total > MOST_AT_ONCE {
            true => Err(failed(OVERFLOW, format!("{} would give too much at once", self.name()))),
            false => Ok(()),
        }
    }
}

impl Length {
    /// How many bytes or elements a row asks for.
    fn of(self, arrays: &[ArrayRef], row: usize) -> Result<u64> {
        let count = |at: usize| -> Result<u64> {
            let Some(array) = arrays.get(at) else { return Ok(0) };
            let one = cast(&array.slice(row, 1), &DataType::Int64)?;
            let value = as_primitive_array::<Int64Type>(&one)?.value(0);
            match u64::try_from(value) {
                Ok(value) => Ok(value),
                // Some kernels take it for a huge one.
                Err(_) if self == Length::Count => Err(failed(INVALID, "a length can't be negative")),
                Err(_) => Ok(0),
            }
        };
        match self {
            Length::Count => count(1),
            Length::TextTimes => {
                let one = cast(&arrays[0].slice(row, 1), &DataType::Utf8)?;
                let text = as_string_array(&one)?.value(0).len() as u64;
                Ok(text.saturating_mul(count(1)?))
            }
            Length::Steps => steps(arrays, row),
        }
    }
}

/// How many steps lie between start and stop, at most.
fn steps(arrays: &[ArrayRef], row: usize) -> Result<u64> {
    let number = |array: &ArrayRef| -> Result<i128> {
        let one = array.slice(row, 1);
        // Dates count days; as nanoseconds they compare with an interval's.
        let (one, unit) = match one.data_type() {
            DataType::Date32 | DataType::Date64 => (cast(&cast(&one, &DataType::Date32)?, &DataType::Int32)?, DAY_NS),
            DataType::Timestamp(unit, _) => {
                let ns = match unit {
                    arrow::datatypes::TimeUnit::Second => 1_000_000_000,
                    arrow::datatypes::TimeUnit::Millisecond => 1_000_000,
                    arrow::datatypes::TimeUnit::Microsecond => 1_000,
                    arrow::datatypes::TimeUnit::Nanosecond => 1,
                };
                (one, ns)
            }
            _ => (one, 1),
        };
        let one = cast(&one, &DataType::Int64)?;
        Ok(i128::from(as_primitive_array::<Int64Type>(&one)?.value(0)) * unit)
    };
    let (start, stop) = match arrays {
        [stop] => (0, number(stop)?),
        [start, stop, ..] => (number(start)?, number(stop)?),
        [] => return Ok(0),
    };
    let step = match arrays.get(2) {
        Some(step) if matches!(step.data_type(), DataType::Interval(_)) => {
            let step = cast(&step.slice(row, 1), &DataType::Interval(arrow::datatypes::IntervalUnit::MonthDayNano))?;
            let step = as_primitive_array::<IntervalMonthDayNanoType>(&step)?.value(0);
            // The shortest month, so that the count is at least the real one.
            i128::from(step.months) * 28 * DAY_NS + i128::from(step.days) * DAY_NS + i128::from(step.nanoseconds)
        }
        Some(step) => number(step)?,
        None => 1,
    };
    // A step of nothing is an error of the function's own.
    let count = (stop - start).unsigned_abs().checked_div(step.unsigned_abs()).unwrap_or(0);
    Ok(u64::try_from(count).unwrap_or(u64::MAX))
}

const DAY_NS: i128 = 86_400_000_000_000;
