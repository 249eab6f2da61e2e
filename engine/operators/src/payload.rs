//! A failed row as JSON text: what an error output carries of it.

use arrow::array::{Array, AsArray, RecordBatch, UInt32Array};
use arrow::compute::take;
use arrow::datatypes::{FieldRef, Float32Type, Float64Type};
use arrow::error::ArrowError;
use arrow::json::writer::{Encoder, EncoderFactory, EncoderOptions, LineDelimited, NullableEncoder, WriterBuilder};
use arrow::util::display::{ArrayFormatter, FormatOptions};
use std::sync::Arc;

/// The most bytes that a failed row takes in the error output. Of a larger one, the columns that fit are there, and
/// `@left_out` names the others.
pub(crate) const MAX_PAYLOAD_BYTES: usize = 64 << 10;

/// The key under which a payload names the columns that were too large for it; no column can have this name.
const LEFT_OUT: &str = "@left_out";

/// These rows of a batch, each a JSON object.
pub(crate) fn json_rows(batch: &RecordBatch, rows: &[usize]) -> Vec<Vec<u8>> {
    if batch.num_columns() == 0 {
        return vec![b"{}".to_vec(); rows.len()];
    }
    let indices: UInt32Array = rows.iter().map(|row| *row as u32).collect();
    let whole = pick(batch, &indices).and_then(|batch| lines(&batch));
    match whole {
        Some(lines) if lines.len() == rows.len() => lines
            .into_iter()
            .zip(rows)
            .map(|(line, row)| if line.len() <= MAX_PAYLOAD_BYTES { line } else { by_column(batch, *row) })
            .collect(),
        _ => rows.iter().map(|row| by_column(batch, *row)).collect(),
    }
}

fn pick(batch: &RecordBatch, indices: &UInt32Array) -> Option<RecordBatch> {
    let columns = batch.columns().iter().map(|column| take(column, indices, None)).collect::<Result<_, _>>().ok()?;
    RecordBatch::try_new(batch.schema(), columns).ok()
}

/// Every row of a batch as a line; `None` where a column is of a type that JSON has no form for.
fn lines(batch: &RecordBatch) -> Option<Vec<Vec<u8>>> {
    let builder = WriterBuilder::new().with_explicit_nulls(true).with_encoder_factory(Arc::new(Words));
    let mut writer = builder.build::<_, LineDelimited>(Vec::new());
    writer.write(batch).ok()?;
    writer.finish().ok()?;
    // A line end inside of a text is written as \n, so that each line is a row.
    Some(writer.into_inner().split(|byte| *byte == b'\n').filter(|line| !line.is_empty()).map(<[u8]>::to_vec).collect())
}

/// Floats that are not finite as `"NaN"`, `"Infinity"` and `"-Infinity"`, as sinks write them; Arrow would say null.
#[derive(Debug)]
struct Words;

impl EncoderFactory for Words {
    fn make_default_encoder<'a>(
        &self,
        _field: &'a FieldRef,
        array: &'a dyn Array,
        _options: &'a EncoderOptions,
    ) -> Result<Option<NullableEncoder<'a>>, ArrowError> {
        let values: Vec<f64> = if let Some(floats) = array.as_primitive_opt::<Float64Type>() {
            floats.values().to_vec()
        } else if let Some(floats) = array.as_primitive_opt::<Float32Type>() {
            // By way of its text, so that 0.1 stays 0.1.
            floats.values().iter().map(|value| value.to_string().parse().unwrap_or(f64::NAN)).collect()
        } else {
            return Ok(None);
        };
        if values.iter().all(|value| value.is_finite()) {
            return Ok(None);
        }
        Ok(Some(NullableEncoder::new(Box::new(WithWords(values)), array.nulls().cloned())))
    }
}

struct WithWords(Vec<f64>);

impl Encoder for WithWords {
    fn encode(&mut self, row: usize, out: &mut Vec<u8>) {
        let value = self.0[row];
        let text = match value {
            value if value.is_finite() => format!("{value:?}"),
            value if value.is_nan() => "\"NaN\"".to_owned(),
            value if value > 0.0 => "\"Infinity\"".to_owned(),
            _ => "\"-Infinity\"".to_owned(),
        };
        out.extend_from_slice(text.as_bytes());
    }
}

/// One row column by column, as far as the columns fit.
fn by_column(batch: &RecordBatch, row: usize) -> Vec<u8> {
    let mut text = b"{".to_vec();
    let mut left_out: Vec<&str> = Vec::new();
    let schema = batch.schema_ref();
    for (at, field) in schema.fields().iter().enumerate() {
        // The names of what is left out need room too.
        let room = MAX_PAYLOAD_BYTES.saturating_sub(text.len() + LEFT_OUT.len() + 64 + names_len(&left_out));
        match member(batch, at, row) {
            Some(member) if member.len() < room => {
                if text.len() > 1 {
                    text.push(b',');
                }
                text.extend_from_slice(&member);
            }
            _ => left_out.push(field.name()),
        }
    }
    if !left_out.is_empty() {
        if text.len() > 1 {
            text.push(b',');
        }
        let mut names = serde_json::to_vec(&left_out).unwrap_or_default();
        if text.len() + names.len() + LEFT_OUT.len() + 8 > MAX_PAYLOAD_BYTES {
            names = left_out.len().to_string().into_bytes();
        }
        text.extend_from_slice(format!("\"{LEFT_OUT}\":").as_bytes());
        text.extend_from_slice(&names);
    }
    text.push(b'}');
    text
}

fn names_len(names: &[&str]) -> usize {
    names.iter().map(|name| name.len() + 3).sum()
}

/// `"name":value` of one column and row.
fn member(batch: &RecordBatch, column: usize, row: usize) -> Option<Vec<u8>> {
    let one = batch.project(&[column]).ok()?.slice(row, 1);
    if let Some(line) = lines(&one).and_then(|mut lines| lines.pop()) {
        // Without the braces around the only member.
        return Some(line.get(1..line.len().checked_sub(1)?)?.to_vec());
    }
    let formatter = ArrayFormatter::try_new(one.column(0), &FormatOptions::new().with_display_error(true)).ok()?;
    let name = serde_json::to_string(one.schema_ref().field(0).name()).ok()?;
    let value = serde_json::to_string(&formatter.value(0).to_string()).ok()?;
    Some(format!("{name}:{value}").into_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::array::{ArrayRef, Float32Array, Float64Array, IntervalMonthDayNanoArray, StringArray};
    use arrow::datatypes::IntervalMonthDayNano;

    fn check(columns: Vec<(&str, ArrayRef)>, row: usize, expected: &str) {
        let batch = RecordBatch::try_from_iter_with_nullable(columns.into_iter().map(|(n, a)| (n, a, true))).unwrap();
        let rows = json_rows(&batch, &[row]);
        assert_eq!(rows.len(), 1);
        assert!(rows[0].len() <= MAX_PAYLOAD_BYTES);
        serde_json::from_slice::<serde_json::Value>(&rows[0]).unwrap();
        assert_eq!(String::from_utf8(rows[0].clone()).unwrap(), expected);
    }

    #[test]
    fn rows_are_objects() {
        let texts: ArrayRef = Arc::new(StringArray::from(vec![Some("a\n\"b\""), None]));
        let numbers: ArrayRef = Arc::new(Float64Array::from(vec![1.5, f64::NAN]));
        let singles: ArrayRef = Arc::new(Float32Array::from(vec![Some(0.1), Some(f32::NEG_INFINITY), None]));
        check(vec![("n", singles.clone())], 0, r#"{"n":0.1}"#);
        check(vec![("n", singles.clone())], 1, r#"{"n":"-Infinity"}"#);
        check(vec![("n", singles)], 2, r#"{"n":null}"#);
        check(vec![("t", texts.clone()), ("n", numbers.clone())], 0, r#"{"t":"a\n\"b\"","n":1.5}"#);
        check(vec![("t", texts), ("n", numbers)], 1, r#"{"t":null,"n":"NaN"}"#);
        let none = RecordBatch::new_empty(Arc::new(arrow::datatypes::Schema::empty()));
        assert_eq!(json_rows(&none, &[0]), [b"{}"]);
    }

    #[test]
    fn what_is_too_large_is_left_out_by_name() {
        let large: ArrayRef = Arc::new(StringArray::from(vec!["x".repeat(MAX_PAYLOAD_BYTES)]));
        let small: ArrayRef = Arc::new(StringArray::from(vec!["y"]));
        check(vec![("a", large), ("b", small)], 0, r#"{"b":"y","@left_out":["a"]}"#);
    }

    #[test]
    fn types_without_a_form_in_json_are_text() {
        let value = IntervalMonthDayNano::new(0, 2, 0);
        let column: ArrayRef = Arc::new(IntervalMonthDayNanoArray::from(vec![value]));
        let number: ArrayRef = Arc::new(Float64Array::from(vec![1.0]));
        let batch = RecordBatch::try_from_iter(vec![("i", column), ("n", number)]).unwrap();
        let row: serde_json::Value = serde_json::from_slice(&json_rows(&batch, &[0])[0]).unwrap();
        assert!(row["i"].is_string() && row["n"] == 1.0, "{row}");
    }
}
