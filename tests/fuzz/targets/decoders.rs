//! Fuzz target: any bytes as files of JSON, CSV or lines, in chunks of any size.
//!
//! ```text
//! 1 byte   1 byte       1 byte       1 byte    1 byte          the rest
//! format   chunk size   chunk size   portion   largest record  files, between bytes 0xff
//! ```
//!
//! Chunks and portions make no difference; every record is a row or an error; what was read as JSON can be written, and
//! what was written is read as the same.

#![no_main]

#[path = "../../../engine/connectors/src/sources/tests/streamed.rs"]
mod streamed;

use arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit};
use engine_connectors::formats::csv::CsvOptions;
use engine_connectors::formats::{Decoding, JSON_MARK};
use libfuzzer_sys::fuzz_target;
use std::collections::HashMap;
use std::sync::{Arc, LazyLock};
use streamed::{streamed, written_is_read_again};

/// How many files at most.
const FILES_MAX: usize = 4;

/// One decoding for each value of the first byte, which is taken by their number.
static DECODINGS: LazyLock<Vec<Decoding>> = LazyLock::new(|| {
    let semicolon = CsvOptions { delimiter: b';', quote: b'\'', header: false, null: Some("NA".into()) };
    vec![
        Decoding::json(schema(true), false),
        Decoding::csv(schema(false), CsvOptions::default(), false),
        Decoding::raw(),
        Decoding::json(schema(true), true),
        Decoding::csv(schema(false), CsvOptions::default(), true),
        Decoding::csv(schema(false), semicolon, false),
    ]
});

/// Columns of every type that can be read; a list, a map and a struct where the format has them.
fn schema(nested: bool) -> SchemaRef {
    let column = |name: &str, data_type: DataType| Field::new(name, data_type, true);
    let json = HashMap::from([(JSON_MARK.0.to_owned(), JSON_MARK.1.to_owned())]);
    let mut fields = vec![
        column("b", DataType::Boolean),
        column("i8", DataType::Int8),
        column("i", DataType::Int64),
        column("u16", DataType::UInt16),
        column("u", DataType::UInt64),
        column("f32", DataType::Float32),
        column("f", DataType::Float64),
        column("d", DataType::Decimal128(10, 2)),
        column("s", DataType::Utf8),
        column("x", DataType::Binary),
        column("day", DataType::Date32),
        column("at", DataType::Timestamp(TimeUnit::Nanosecond, Some("UTC".into()))),
        column("ms", DataType::Timestamp(TimeUnit::Millisecond, Some("+05:30".into()))),
        column("span", DataType::Duration(TimeUnit::Nanosecond)),
        column("j", DataType::Utf8).with_metadata(json),
    ];
    if nested {
        let key = Field::new("key", DataType::Utf8, false);
        let entries = DataType::Struct(vec![key, column("value", DataType::Int64)].into());
        fields.push(column("l", DataType::new_list(DataType::Utf8, true)));
        fields.push(column("m", DataType::Map(Arc::new(Field::new("entries", entries, false)), false)));
        let inner =
            vec![Field::new("a", DataType::Int64, false), column("l", DataType::new_list(DataType::Date32, true))];
        fields.push(column("t", DataType::Struct(inner.into())));
    } else {
        fields.push(Field::new("n", DataType::Int64, false));
    }
    Arc::new(Schema::new(fields))
}

fuzz_target!(|bytes: &[u8]| {
    let [format, one, other, portion, record_max, text @ ..] = bytes else { return };
    let format = usize::from(*format) % DECODINGS.len();
    let decoding = &DECODINGS[format];
    let files: Vec<&[u8]> = text.splitn(FILES_MAX, |byte| *byte == 0xff).collect();
    let sizes = [usize::from(*one) + 1, usize::from(*other) + 1];
    let record_max = usize::from(*record_max) * 8 + 5;
    let whole = streamed(decoding, &files, &[text.len() + 1], 1 << 20, record_max);
    assert_eq!(streamed(decoding, &files, &sizes, usize::from(*portion), record_max), whole);
    written_is_read_again(decoding, &whole);
});
