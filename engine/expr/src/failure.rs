//! The failure of a row: DataFusion's and Arrow's errors as a stable code and a short reason.
//!
//! A reason says what went wrong and quotes at most a few characters of the row, never a payload.

use crate::types::type_name;
use arrow::datatypes::DataType;
use arrow::error::ArrowError;
use datafusion_common::DataFusionError;
use engine_base::RowError;
use std::error::Error;

/// An integer divided by zero.
pub(crate) const DIVIDE_BY_ZERO: &str = "divide_by_zero";
/// A number, date or length out of its type's range.
pub(crate) const OVERFLOW: &str = "overflow";
/// A value that can't become one of another type.
pub(crate) const CAST: &str = "cast";
/// A null where none may be.
pub(crate) const NULL: &str = "null";
/// A panic in a kernel.
pub(crate) const PANIC: &str = "panic";
/// Anything else.
pub(crate) const INVALID: &str = "invalid";

/// The longest reason, in characters.
const MOST: usize = 160;
/// The most of a row's own text that a reason quotes, in characters.
const QUOTED: usize = 32;

/// Our own functions report their failures as what they become.
pub(crate) fn failed(code: &'static str, reason: impl Into<String>) -> DataFusionError {
    DataFusionError::External(Box::new(RowError::new(code, reason)))
}

/// The failure that a panic is.
pub(crate) fn panicked(message: &str) -> RowError {
    RowError::new(PANIC, format!("a function panicked: {}", clip(message, MOST - 25)))
}

/// The failure that an error is.
pub(crate) fn row_error(error: &DataFusionError) -> RowError {
    let mut source: Option<&(dyn Error + 'static)> = Some(error);
    let mut arrow = None;
    while let Some(error) = source {
        if let Some(own) = error.downcast_ref::<RowError>() {
            return own.clone();
        }
        if let Some(found) = error.downcast_ref::<ArrowError>() {
            arrow = Some(found);
        }
        source = error.source();
    }
    match arrow {
        Some(error) => arrow_error(error),
        None => from_text(&error.find_root().strip_backtrace()),
    }
}

fn arrow_error(error: &ArrowError) -> RowError {
    match error {
        ArrowError::DivideByZero => divided(),
        ArrowError::ArithmeticOverflow(text) => {
            let what = text.rsplit(": ").next().unwrap_or_default();
            RowError::new(OVERFLOW, format!("out of range: {}", clip(what, 80)))
        }
        ArrowError::CastError(text) | ArrowError::ParseError(text) => from_text(text).or_code(CAST),
        ArrowError::OffsetOverflowError(_) => RowError::new(OVERFLOW, "the result is too large"),
        ArrowError::ExternalError(error) => match error.downcast_ref::<RowError>() {
            Some(own) => own.clone(),
            None => from_text(&error.to_string()),
        },
        other => from_text(&other.to_string()),
    }
}

fn divided() -> RowError {
    RowError::new(DIVIDE_BY_ZERO, "division by zero")
}

trait OrCode {
    fn or_code(self, code: &'static str) -> Self;
}

impl OrCode for RowError {
    fn or_code(mut self, code: &'static str) -> Self {
        if self.code == INVALID {
            self.code = code;
        }
        self
    }
}

/// Reads a message: there is no better way to tell the kinds apart.
fn from_text(text: &str) -> RowError {
    let mut text = text.trim();
    while let Some(rest) = PREFIXES.iter().find_map(|prefix| text.strip_prefix(prefix)) {
        text = rest.trim_start();
    }
    let text = text.split("\nThis issue was likely caused").next().unwrap_or_default();
    let text =
        text.split("This was likely caused by a bug").next().unwrap_or_default().trim_end_matches(['.', ' ', '\n']);
    let lower = text.to_lowercase();
    if lower.contains("divide by zero") || lower.contains("division by zero") {
        return divided();
    }
    if let Some(cast) = cast_text(text) {
        return cast;
    }
    let code = if ["overflow", "out of range", "too large to store", "too small to store", "too large", "exceed"]
        .iter()
        .any(|sign| lower.contains(sign))
    {
        OVERFLOW
    } else if lower.contains("cast") || lower.contains("pars") {
        CAST
    } else if lower.contains("null") {
        NULL
    } else {
        INVALID
    };
    RowError::new(code, clip(&plain(text), MOST))
}

/// Arrow's names of types within a sentence, in the language's words.
fn plain(text: &str) -> String {
    let mut plain = String::with_capacity(text.len());
    let mut word = String::new();
    for c in text.chars().chain(['\n']) {
        if c.is_ascii_alphanumeric() {
            word.push(c);
            continue;
        }
        match word.as_str() {
            "Utf8" | "LargeUtf8" | "Utf8View" => plain.push_str("string"),
            "Int8" | "Int16" | "Int32" | "Int64" | "UInt8" | "UInt16" | "UInt32" | "UInt64" | "Float32" | "Float64" => {
                plain.push_str(&word.to_lowercase());
            }
            "Boolean" => plain.push_str("bool"),
            "Date32" | "Date64" => plain.push_str("date"),
            "Decimal128" | "Decimal256" => plain.push_str("decimal"),
            other => plain.push_str(other),
        }
        word.clear();
        plain.push(c);
    }
    plain.pop();
    plain
}

const PREFIXES: &[&str] = &[
    "Arrow error: ",
    "Execution error: ",
    "Internal error: ",
    "External error: ",
    "Cast error: ",
    "Parser error: ",
    "Compute error: ",
    "Invalid argument error: ",
    "Arithmetic overflow: ",
    "Overflow happened on: ",
    "Error during planning: ",
    "This feature is not implemented: ",
    "Optimizer rule 'simplify_expressions' failed",
];

/// Arrow's "Cannot cast string 'x' to value of Int64 type" and its kin.
fn cast_text(text: &str) -> Option<RowError> {
    if let Some(rest) = text.strip_prefix("Cannot cast string '") {
        let (value, rest) = rest.rsplit_once("' to value of ")?;
        let wanted = rest.strip_suffix(" type").unwrap_or(rest);
        return Some(RowError::new(
            CAST,
            format!("'{}' is not a value of type {}", clip(value, QUOTED), arrow_name(wanted)),
        ));
    }
    if let Some(rest) = text.strip_prefix("Cannot cast value '") {
        let (value, rest) = rest.rsplit_once("' to value of ")?;
        let wanted = rest.strip_suffix(" type").unwrap_or(rest);
        return Some(RowError::new(
            CAST,
            format!("'{}' is not a value of type {}", clip(value, QUOTED), arrow_name(wanted)),
        ));
    }
    if let Some(rest) = text.strip_prefix("Can't cast value ") {
        let (value, wanted) = rest.rsplit_once(" to type ")?;
        return Some(RowError::new(
            OVERFLOW,
            format!("{} is out of range for {}", clip(value, QUOTED), arrow_name(wanted)),
        ));
    }
    if let Some((value, rest)) =
        text.split_once(" is too large to store in a ").or_else(|| text.split_once(" is too small to store in a "))
    {
        let digits = rest.split_once("precision ").map_or("", |(_, rest)| rest.split('.').next().unwrap_or_default());
        return Some(RowError::new(
            OVERFLOW,
            format!("{} is out of range for a decimal of {digits} digits", clip(value, QUOTED)),
        ));
    }
    if text.starts_with("Date arithmetic overflow") {
        return Some(RowError::new(OVERFLOW, "the date is out of range"));
    }
    if text.starts_with("Timestamp out of range") {
        return Some(RowError::new(OVERFLOW, "the timestamp is out of range"));
    }
    if let Some((_, call)) = text.split_once("Array overflow on ") {
        return Some(RowError::new(OVERFLOW, format!("out of range: {}", clip(call, QUOTED))));
    }
    if let Some(rest) = text.strip_prefix("Cannot cast Timestamp(")
        && let Some((value, _)) = rest.split_once("value ").and_then(|(_, rest)| rest.split_once(' '))
    {
        return Some(RowError::new(OVERFLOW, format!("{} is out of range for a timestamp", clip(value, QUOTED))));
    }
    if let Some(rest) = text.strip_prefix("Error parsing timestamp from '") {
        let value = rest.rsplit_once("':").map_or(rest, |(value, _)| value);
        return Some(RowError::new(
            CAST,
            format!("'{}' is not a timestamp", clip(value.trim_end_matches('\''), QUOTED)),
        ));
    }
    None
}

/// Arrow's name of a type, as it stands in its messages, in the language's words.
fn arrow_name(name: &str) -> String {
    let simple = match name.trim() {
        "Boolean" | "boolean" => Some(DataType::Boolean),
        "Int8" => Some(DataType::Int8),
        "Int16" => Some(DataType::Int16),
        "Int32" => Some(DataType::Int32),
        "Int64" => Some(DataType::Int64),
        "UInt8" => Some(DataType::UInt8),
        "UInt16" => Some(DataType::UInt16),
        "UInt32" => Some(DataType::UInt32),
        "UInt64" => Some(DataType::UInt64),
        "Float32" => Some(DataType::Float32),
        "Float64" => Some(DataType::Float64),
        "Utf8" => Some(DataType::Utf8),
        "Date32" | "Date64" => Some(DataType::Date32),
        _ => None,
    };
    match simple {
        Some(simple) => type_name(&simple),
        None if name.starts_with("Decimal") => {
            name.split_once('(').map_or("decimal".to_owned(), |(_, rest)| format!("decimal({rest}"))
        }
        None if name.starts_with("Timestamp") => "timestamp".to_owned(),
        None if name.starts_with("Interval") => "interval".to_owned(),
        None => clip(&name.to_lowercase(), QUOTED),
    }
}

/// The first characters of a text, on one line.
pub(crate) fn clip(text: &str, most: usize) -> String {
    let line = |c: char| if c.is_control() { ' ' } else { c };
    if text.chars().count() <= most {
        return text.chars().map(line).collect();
    }
    text.chars().take(most.saturating_sub(1)).map(line).chain(std::iter::once('…')).collect()
}
