//! Values that are written in the file, read as the type that they are for. Nothing is rounded or guessed at: what is not
//! just a value of the type is an error.

use arrow::array::{
    Array, ArrayRef, BooleanArray, DurationNanosecondArray, Float64Array, Int64Array, ListArray, MapArray, StringArray,
    StructArray, UInt64Array, new_empty_array, new_null_array,
};
use arrow::buffer::OffsetBuffer;
use arrow::compute::{CastOptions, cast_with_options, concat};
use arrow::datatypes::{DataType, Field, FieldRef};
use arrow::util::display::FormatOptions;
use engine_base::units;
use engine_plan::types::{column_text, is_json, type_text};
use engine_spec::{Node, Value};
use std::sync::Arc;

/// The value of a column, as an array of one row; or a sentence that says why it is none.
pub(crate) fn literal(node: &Node, field: &Field) -> Result<ArrayRef, String> {
    if node.secret {
        return Err("a secret can't stand here: plans show it".to_owned());
    }
    if node.is_placeholder() {
        // Known only in a run; a dry-run goes on without it.
        return Ok(new_null_array(field.data_type(), 1));
    }
    let other = || Err(format!("{} is no value of type {}", shown(node), column_text(field)));
    let data_type = field.data_type();
    match (data_type, &node.value) {
        (_, Value::Null) if field.is_nullable() => Ok(new_null_array(data_type, 1)),
        (_, Value::Null) => other(),
        (DataType::Boolean, _) => match boolean(node) {
            Some(value) => Ok(Arc::new(BooleanArray::from(vec![value]))),
            None => other(),
        },
        (integer, _) if integer.is_integer() => match whole(node) {
            Some(value) => integer_of(value, data_type),
            None => other(),
        },
        (DataType::Float32 | DataType::Float64, _) => match number(node) {
            Some(value) => convert(Arc::new(Float64Array::from(vec![value])), data_type),
            None => other(),
        },
        (DataType::Decimal128(_, scale) | DataType::Decimal256(_, scale), _) => match node.text() {
            Some(text) => decimal(text.trim(), *scale, data_type).unwrap_or_else(other),
            None => other(),
        },
        (DataType::Utf8, _) if is_json(field) => {
            Ok(Arc::new(StringArray::from(vec![json(node).ok_or("this is no value of JSON")?.to_string()])))
        }
        (DataType::Utf8, Value::String(text)) => Ok(Arc::new(StringArray::from(vec![text.as_str()]))),
        (DataType::Date32 | DataType::Timestamp(..), Value::String(text)) => {
            convert(Arc::new(StringArray::from(vec![text.as_str()])), data_type).or_else(|_| other())
        }
        (DataType::Duration(_), Value::String(text)) => match units::parse_duration(text) {
            Ok(ns) => Ok(Arc::new(DurationNanosecondArray::from(vec![ns]))),
            Err(error) => Err(format!("{}; {}", error.message, error.help)),
        },
        (DataType::List(item), Value::List(nodes)) => list(nodes, item),
        (DataType::Struct(fields), Value::Map(entries)) => {
            if let Some(unknown) = entries.iter().find(|entry| fields.find(&entry.key).is_none()) {
                return Err(format!("there is no field `{}`", unknown.key));
            }
            let columns = fields.iter().map(|field| match node.get(field.name()) {
                Some(value) => literal(value, field),
                None if field.is_nullable() => Ok(new_null_array(field.data_type(), 1)),
                None => Err(format!("the field `{}` is missing", field.name())),
            });
            let columns = columns.collect::<Result<Vec<_>, _>>()?;
            let array = StructArray::try_new(fields.clone(), columns, None).map_err(|error| error.to_string())?;
            Ok(Arc::new(array))
        }
        (DataType::Map(entry, sorted), Value::Map(_)) => map(node, entry, *sorted).unwrap_or_else(other),
        _ => other(),
    }
}

/// A node in a sentence.
fn shown(node: &Node) -> String {
    match (&node.value, node.text()) {
        (Value::Null, _) => "null".to_owned(),
        (_, Some(text)) => format!("`{text}`"),
        (Value::List(_), None) => "a list".to_owned(),
        (_, None) => "a map".to_owned(),
    }
}

/// The text of a value that came from outside, which reads as what its place wants.
fn from_outside(node: &Node) -> Option<&str> {
    node.as_str().filter(|_| node.substituted)
}

fn boolean(node: &Node) -> Option<bool> {
    match (&node.value, from_outside(node)) {
        (Value::Bool(value), _) => Some(*value),
        (_, Some(text)) => text.parse().ok(),
        _ => None,
    }
}

fn whole(node: &Node) -> Option<i128> {
    match (&node.value, from_outside(node)) {
        (Value::Int(value), _) => Some(*value),
        (_, Some(text)) => text.parse().ok(),
        _ => None,
    }
}

fn number(node: &Node) -> Option<f64> {
    match (&node.value, from_outside(node)) {
        (Value::Int(value), _) => Some(*value as f64),
        (Value::Float(value), _) => Some(*value),
        (_, Some(text)) => text.parse().ok(),
        _ => None,
    }
}

fn integer_of(value: i128, data_type: &DataType) -> Result<ArrayRef, String> {
    let array: ArrayRef = match (i64::try_from(value), u64::try_from(value)) {
        (Ok(value), _) => Arc::new(Int64Array::from(vec![value])),
        (_, Ok(value)) => Arc::new(UInt64Array::from(vec![value])),
        _ => return Err(format!("{value} is out of range for {}", type_text(data_type))),
    };
    convert(array, data_type).map_err(|_| format!("{value} is out of range for {}", type_text(data_type)))
}

/// A decimal by its digits; `None` where it is no number.
fn decimal(text: &str, scale: i8, data_type: &DataType) -> Option<Result<ArrayRef, String>> {
    let digits = text.strip_prefix(['-', '+']).unwrap_or(text);
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
    let is_number = |digits: &str| digits.bytes().all(|byte| byte.is_ascii_digit());
    if whole.is_empty() || !is_number(whole) || !is_number(fraction) {
        return None;
    }
    let fraction = fraction.trim_end_matches('0');
    if fraction.len() > usize::try_from(scale).unwrap_or(0) {
        return Some(Err(format!("`{text}` has more digits behind the point than {}", type_text(data_type))));
    }
    let array = convert(Arc::new(StringArray::from(vec![text])), data_type);
    Some(array.map_err(|_| format!("`{text}` is out of range for {}", type_text(data_type))))
}

fn list(nodes: &[Node], item: &FieldRef) -> Result<ArrayRef, String> {
    let values = joined(nodes.iter().map(|node| literal(node, item)), item.data_type())?;
    let lengths = OffsetBuffer::from_lengths([nodes.len()]);
    let list = ListArray::try_new(item.clone(), lengths, values, None).map_err(|error| error.to_string())?;
    Ok(Arc::new(list))
}

/// A map with keys of text; `None` where its keys are of another type and there are any.
fn map(node: &Node, entry: &FieldRef, sorted: bool) -> Option<Result<ArrayRef, String>> {
    let DataType::Struct(fields) = entry.data_type() else { return None };
    let [key, value] = fields.as_ref() else { return None };
    let entries = node.entries();
    let keys: ArrayRef = match key.data_type() {
        DataType::Utf8 => Arc::new(StringArray::from_iter_values(entries.iter().map(|entry| &entry.key))),
        other if entries.is_empty() => new_empty_array(other),
        _ => return None,
    };
    let built =
        joined(entries.iter().map(|entry| literal(&entry.value, value)), value.data_type()).and_then(|values| {
            let entries = StructArray::try_new(fields.clone(), vec![keys, values], None);
            let lengths = OffsetBuffer::from_lengths([node.entries().len()]);
            let map = entries.and_then(|entries| MapArray::try_new(entry.clone(), lengths, entries, None, sorted));
            map.map(|map| Arc::new(map) as ArrayRef).map_err(|error| error.to_string())
        });
    Some(built)
}

fn joined(values: impl Iterator<Item = Result<ArrayRef, String>>, data_type: &DataType) -> Result<ArrayRef, String> {
    let values = values.collect::<Result<Vec<_>, _>>()?;
    let values: Vec<&dyn Array> = values.iter().map(AsRef::as_ref).collect();
    match values.as_slice() {
        [] => Ok(new_empty_array(data_type)),
        values => concat(values).map_err(|error| error.to_string()),
    }
}

fn json(node: &Node) -> Option<serde_json::Value> {
    Some(match &node.value {
        Value::Null => serde_json::Value::Null,
        Value::Bool(value) => (*value).into(),
        Value::Int(value) => i64::try_from(*value)
            .map_or_else(|_| u64::try_from(*value).map(Into::into), |value| Ok(value.into()))
            .ok()?,
        Value::Float(value) => serde_json::Number::from_f64(*value)?.into(),
        Value::String(text) => text.clone().into(),
        Value::List(items) => items.iter().map(json).collect::<Option<Vec<_>>>()?.into(),
        Value::Map(entries) => {
            let members = entries.iter().map(|entry| Some((entry.key.clone(), json(&entry.value)?)));
            serde_json::Value::Object(members.collect::<Option<_>>()?)
        }
    })
}

/// A cast that fails where a value has no counterpart.
fn convert(array: ArrayRef, to: &DataType) -> Result<ArrayRef, String> {
    let options = CastOptions { safe: false, format_options: FormatOptions::default() };
    cast_with_options(&array, to, &options).map_err(|error| error.to_string())
}
