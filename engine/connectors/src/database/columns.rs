//! Columns in the few forms that databases take.

use super::OVERFLOW;
use crate::formats::values::Values;
use crate::formats::{Timestamps, is_json};
use arrow::array::{
    Array, ArrayRef, AsArray, BinaryArray, BooleanArray, Date32Array, Float64Array, Int64Array, StringArray,
    StringBuilder,
};
use arrow::compute::cast;
use arrow::datatypes::{
    DataType, Field, TimeUnit, TimestampMicrosecondType, TimestampMillisecondType, TimestampNanosecondType,
    TimestampSecondType,
};
use engine_base::RowError;

/// The form in which a column goes to a database.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sent {
    /// True or false.
    Bool,
    /// A whole number of 64 bits with a sign.
    Int,
    /// A double.
    Float,
    /// A double that is a number or infinite: SQLite has no other.
    FloatNotNan,
    /// Text; nested values as JSON.
    Text,
    /// Bytes.
    Binary,
    /// Days since 1970.
    Date,
    /// Microseconds since 1970 UTC, rounded down.
    Micros,
}

/// A column in that form.
#[derive(Clone, Debug)]
pub enum Column {
    /// True or false.
    Bool(BooleanArray),
    /// Whole numbers.
    Int(Int64Array),
    /// Doubles.
    Float(Float64Array),
    /// Text.
    Text(StringArray),
    /// Bytes.
    Binary(BinaryArray),
    /// Days.
    Date(Date32Array),
    /// Microseconds.
    Micros(Int64Array),
}

impl Column {
    /// The values.
    pub fn array(&self) -> &dyn Array {
        match self {
            Column::Bool(array) => array,
            Column::Int(array) | Column::Micros(array) => array,
            Column::Float(array) => array,
            Column::Text(array) => array,
            Column::Binary(array) => array,
            Column::Date(array) => array,
        }
    }

    /// The same values, shared.
    pub fn shared(&self) -> ArrayRef {
        self.array().slice(0, self.array().len())
    }
}

/// What a column's values are, as far as databases tell them apart. `None` where no database takes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// `bool`
    Bool,
    /// Whole numbers that fit into 64 bits with a sign.
    Int,
    /// `uint64`
    UInt64,
    /// `float32`
    Float32,
    /// `float64`
    Float64,
    /// `decimal(p, s)`
    Decimal {
        /// All digits.
        precision: u8,
        /// Those behind the point.
        scale: i8,
    },
    /// `string`
    Text,
    /// `json`, and everything nested.
    Json,
    /// `binary`
    Binary,
    /// `date`
    Date,
    /// `timestamp`
    Timestamp,
}

impl Kind {
    /// What a column is.
    pub fn of(field: &Field) -> Option<Kind> {
        Some(match field.data_type() {
            DataType::Boolean => Kind::Bool,
            DataType::Int8
            | DataType::Int16
            | DataType::Int32
            | DataType::Int64
            | DataType::UInt8
            | DataType::UInt16
            | DataType::UInt32 => Kind::Int,
            DataType::UInt64 => Kind::UInt64,
            DataType::Float16 | DataType::Float32 => Kind::Float32,
            DataType::Float64 => Kind::Float64,
            DataType::Decimal32(precision, scale)
            | DataType::Decimal64(precision, scale)
            | DataType::Decimal128(precision, scale)
            | DataType::Decimal256(precision, scale) => Kind::Decimal { precision: *precision, scale: *scale },
            DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => match is_json(field) {
                true => Kind::Json,
                false => Kind::Text,
            },
            DataType::Binary | DataType::LargeBinary | DataType::BinaryView | DataType::FixedSizeBinary(_) => {
                Kind::Binary
            }
            DataType::Date32 => Kind::Date,
            DataType::Timestamp(..) => Kind::Timestamp,
            DataType::List(_)
            | DataType::LargeList(_)
            | DataType::FixedSizeList(..)
            | DataType::Struct(_)
            | DataType::Map(..) => Kind::Json,
            DataType::Dictionary(_, value) => {
                return Kind::of(&Field::new(field.name(), value.as_ref().clone(), field.is_nullable()));
            }
            _ => return None,
        })
    }
}

/// A column in the form in which it goes, and the rows whose value has no such form.
pub fn convert(
    field: &Field,
    array: &ArrayRef,
    sent: Sent,
    failed: &mut Vec<(u32, RowError)>,
) -> Result<Column, String> {
    let to = |data_type: &DataType| cast(array, data_type).map_err(|error| format!("`{}`: {error}", field.name()));
    Ok(match sent {
        Sent::Bool => Column::Bool(to(&DataType::Boolean)?.as_boolean().clone()),
        Sent::Int => {
            let made = to(&DataType::Int64)?;
            overflows(field, array, &made, "64 bits with a sign", failed);
            Column::Int(made.as_primitive().clone())
        }
        Sent::Float | Sent::FloatNotNan => {
            let made: Float64Array = to(&DataType::Float64)?.as_primitive().clone();
            if sent == Sent::FloatNotNan {
                let not_numbers = made.iter().enumerate().filter(|(_, value)| value.is_some_and(f64::is_nan));
                failed.extend(not_numbers.map(|(row, _)| {
                    let reason = format!("`{}`: NaN can't be stored", field.name());
                    (row as u32, RowError::new(OVERFLOW, reason))
                }));
            }
            Column::Float(made)
        }
        Sent::Text => Column::Text(texts(field, array)?),
        Sent::Binary => Column::Binary(to(&DataType::Binary)?.as_binary().clone()),
        Sent::Date => Column::Date(to(&DataType::Date32)?.as_primitive().clone()),
        Sent::Micros => {
            let made = micros(array);
            overflows(field, array, &made, "microseconds of 64 bits", failed);
            Column::Micros(made)
        }
    })
}

/// Notes the rows that have a value in `from` and none in `made`.
fn overflows(field: &Field, from: &ArrayRef, made: &dyn Array, what: &str, failed: &mut Vec<(u32, RowError)>) {
    if made.null_count() == from.null_count() {
        return;
    }
    let lost = (0..from.len()).filter(|row| made.is_null(*row) && !from.is_null(*row));
    failed.extend(lost.map(|row| {
        let reason = format!("`{}`: the value does not fit into {what}", field.name());
        (row as u32, RowError::new(OVERFLOW, reason))
    }));
}

fn texts(field: &Field, array: &ArrayRef) -> Result<StringArray, String> {
    if let DataType::Utf8 = array.data_type() {
        return Ok(array.as_string().clone());
    }
    let values = Values::new(field, array, Timestamps::Rfc3339)?;
    let (mut out, mut text) = (StringBuilder::with_capacity(array.len(), array.len() * 16), Vec::new());
    for row in 0..array.len() {
        if values.is_null(row) {
            out.append_null();
            continue;
        }
        text.clear();
        values.write_plain(row, &mut text);
        out.append_value(String::from_utf8_lossy(&text));
    }
    Ok(out.finish())
}

fn micros(array: &ArrayRef) -> Int64Array {
    let scaled = |values: &Int64Array, by: i64| values.iter().map(|value| value?.checked_mul(by)).collect();
    match array.data_type() {
        DataType::Timestamp(TimeUnit::Second, _) => {
            scaled(&array.as_primitive::<TimestampSecondType>().reinterpret_cast(), 1_000_000)
        }
        DataType::Timestamp(TimeUnit::Millisecond, _) => {
            scaled(&array.as_primitive::<TimestampMillisecondType>().reinterpret_cast(), 1_000)
        }
        DataType::Timestamp(TimeUnit::Microsecond, _) => {
            array.as_primitive::<TimestampMicrosecondType>().reinterpret_cast()
        }
        DataType::Timestamp(TimeUnit::Nanosecond, _) => {
            let values: Int64Array = array.as_primitive::<TimestampNanosecondType>().reinterpret_cast();
            values.unary(|value| value.div_euclid(1_000))
        }
        _ => Int64Array::new_null(array.len()),
    }
}
