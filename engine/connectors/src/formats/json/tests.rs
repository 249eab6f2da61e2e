//! The decoder and the encoder against serde_json and a naive conversion.

use super::super::{JSON_MARK, RecordDecoder, RecordEncoder, Timestamps};
use super::{JsonDecoder, JsonEncoder};
use arrow::array::{Array, ArrayRef, AsArray, RecordBatch, RecordBatchOptions};
use arrow::datatypes::{DataType, Field, Fields, Float32Type, Float64Type, Int64Type, Schema, SchemaRef, TimeUnit};
use proptest::prelude::*;
use rand::rngs::SmallRng;
use rand::seq::SliceRandom;
use rand::{Rng, SeedableRng};
use serde_json::{Map, Value, json};
use std::collections::HashMap;
use std::sync::Arc;

fn batch(schema: &SchemaRef, decoder: &mut dyn RecordDecoder) -> RecordBatch {
    let rows = decoder.rows();
    let options = RecordBatchOptions::new().with_row_count(Some(rows));
    RecordBatch::try_new_with_options(schema.clone(), decoder.finish(), &options).unwrap()
}

fn encoded(batch: &RecordBatch, timestamps: Timestamps) -> Vec<Value> {
    let mut out = Vec::new();
    let mut ends = Vec::new();
    JsonEncoder::new(&batch.schema(), timestamps).encode(batch, &mut out, Some(&mut ends)).unwrap();
    assert_eq!(ends.len(), batch.num_rows());
    assert_eq!(ends.last().copied().unwrap_or(0), out.len());
    let lines: Vec<&[u8]> = out.split_inclusive(|byte| *byte == b'\n').collect();
    assert_eq!(lines.len(), batch.num_rows());
    lines.iter().map(|line| serde_json::from_slice(line).unwrap()).collect()
}

/// Decodes one record with one column `x` of this type and gives it back as JSON, or the error.
fn one(data_type: DataType, nullable: bool, record: &[u8]) -> Result<Value, String> {
    one_field(Field::new("x", data_type, nullable), record)
}

fn one_field(field: Field, record: &[u8]) -> Result<Value, String> {
    let schema: SchemaRef = Arc::new(Schema::new(vec![field]));
    let mut decoder = JsonDecoder::new(&schema, schema.fields(), false).unwrap();
    let decoded = decoder.decode(record).map_err(|error| error.to_string());
    let batch = batch(&schema, &mut decoder);
    assert_eq!(batch.num_rows(), usize::from(decoded.is_ok()));
    decoded.map(|()| encoded(&batch, Timestamps::Rfc3339)[0]["x"].clone())
}

const TS: DataType = DataType::Timestamp(TimeUnit::Nanosecond, None);

#[test]
fn each_type_takes_its_values() {
    let check = |data_type: DataType, text: &str, expected: Value| {
        let found = one(data_type.clone(), false, format!("{{\"x\":{text}}}").as_bytes());
        assert_eq!(found, Ok(expected), "{data_type} {text}");
    };
    check(DataType::Boolean, "true", json!(true));
    check(DataType::Boolean, "false", json!(false));
    check(DataType::Int64, "-9223372036854775808", json!(i64::MIN));
    check(DataType::Int64, "9223372036854775807", json!(i64::MAX));
    check(DataType::Int64, "-0", json!(0));
    check(DataType::Int64, "5.0", json!(5));
    check(DataType::Int64, "1e3", json!(1000));
    check(DataType::Int8, "-128", json!(-128));
    check(DataType::UInt32, "4294967295", json!(4_294_967_295_u32));
    check(DataType::UInt64, "18446744073709551615", json!(u64::MAX));
    check(DataType::Float64, "1e308", json!(1e308));
    check(DataType::Float64, "7", json!(7.0));
    check(DataType::Float64, "-0.0", json!(-0.0));
    check(DataType::Float32, "0.1", json!(0.1));
    check(DataType::Decimal128(6, 2), "1.5", json!(1.50));
    check(DataType::Decimal128(6, 2), "\"-0.05\"", json!(-0.05));
    check(DataType::Utf8, "\"a\\n\\u00e9\\ud83d\\ude00\"", json!("a\né😀"));
    check(DataType::Utf8, "\"nul \\u0000\"", json!("nul \0"));
    check(DataType::Binary, "\"aGk=\"", json!("aGk="));
    check(DataType::Date32, "\"2024-02-29\"", json!("2024-02-29"));
    check(TS, "\"2024-02-29T12:00:00.5+01:00\"", json!("2024-02-29T11:00:00.500Z"));
    check(DataType::Timestamp(TimeUnit::Millisecond, None), "1700000000123", json!("2023-11-14T22:13:20.123Z"));
    check(
        DataType::Timestamp(TimeUnit::Millisecond, Some("Europe/Berlin".into())),
        "0",
        json!("1970-01-01T01:00:00+01:00"),
    );
    check(TS, "1700000000123456789", json!("2023-11-14T22:13:20.123456789Z"));
    check(TS, "0", json!("1970-01-01T00:00:00Z"));
    check(DataType::Duration(TimeUnit::Nanosecond), "\"1.5s\"", json!("1500ms"));
    check(DataType::new_list(DataType::Int64, true), "[1, null ,3]", json!([1, null, 3]));
    check(DataType::new_list(DataType::Int64, true), "[ ]", json!([]));
    check(map_of(DataType::Utf8, DataType::Int64), "{\"a\":1, \"b\" : 2}", json!({"a": 1, "b": 2}));
    check(map_of(DataType::Int64, DataType::Int64), "{\"1\":1}", json!({"1": 1}));
    let inner =
        DataType::Struct(vec![Field::new("a", DataType::Int64, false), Field::new("b", DataType::Utf8, true)].into());
    check(inner.clone(), "{\"z\":[{}],\"a\":1}", json!({"a": 1, "b": null}));
    check(
        DataType::new_list(inner, false),
        "[{\"a\":1},{\"b\":\"x\",\"a\":2}]",
        json!([{"a": 1, "b": null}, {"a": 2, "b": "x"}]),
    );
}

#[test]
fn what_does_not_fit_says_so() {
    let check = |data_type: DataType, text: &str, expected: &str| {
        let found = one(data_type.clone(), false, format!("{{\"x\":{text}}}").as_bytes());
        assert_eq!(found, Err(expected.to_owned()), "{data_type} {text}");
    };
    check(DataType::Int64, "\"5\"", "schema: `x`: should be int64, and is a string");
    check(DataType::Int64, "9223372036854775808", "schema: `x`: `9223372036854775808` does not fit int64");
    check(DataType::Int64, "5.5", "schema: `x`: `5.5` is not a whole number, or does not fit int64");
    check(DataType::Int8, "128", "schema: `x`: `128` does not fit int8");
    check(DataType::UInt64, "-1", "schema: `x`: `-1` does not fit uint64");
    check(DataType::UInt8, "{}", "schema: `x`: should be uint8, and is an object");
    check(DataType::Float64, "1e309", "schema: `x`: `1e309` does not fit float64");
    check(DataType::Float32, "1e39", "schema: `x`: `1e39` does not fit float32");
    check(DataType::Float64, "true", "schema: `x`: should be float64, and is a truth value");
    check(DataType::Boolean, "0", "schema: `x`: should be bool, and is a number");
    check(DataType::Utf8, "1", "schema: `x`: should be string, and is a number");
    check(DataType::Utf8, "\"\\ud800\"", "schema: `x`: holds a `\\u` escape that is half of a surrogate pair");
    check(DataType::Utf8, "null", "schema: `x`: is null, and its type allows no null");
    check(DataType::Decimal128(3, 2), "12.345", "schema: `x`: `12.345` has more than 2 digits behind the point");
    check(DataType::Decimal128(3, 2), "12.34", "schema: `x`: `12.34` does not fit decimal(3, 2)");
    check(DataType::Binary, "\"a b\"", "schema: `x`: `a b` is not base64");
    check(DataType::Date32, "\"2023-02-29\"", "schema: `x`: `2023-02-29` is not a date such as `2026-01-31`");
    check(DataType::Date32, "20230229", "schema: `x`: should be date, and is a number");
    check(TS, "\"yesterday\"", "schema: `x`: `yesterday` is not a time such as `2026-01-01T10:00:00Z`");
    let early = "schema: `x`: `1700000000123` as nanoseconds is in early 1970; if it counts milliseconds, the type is `timestamp(ms)`";
    check(TS, "1700000000123", early);
    check(DataType::Duration(TimeUnit::Nanosecond), "5", "schema: `x`: should be duration, and is a number");
    check(
        DataType::new_list(DataType::Int64, false),
        "[1,null]",
        "schema: `x.item`: is null, and its type allows no null",
    );
    check(DataType::new_list(DataType::Int64, false), "5", "schema: `x`: should be list, and is a number");
    check(map_of(DataType::Utf8, DataType::Int64), "{\"a\":1,\"a\":2}", "schema: `x.key`: stands twice in a map");
    check(map_of(DataType::Int64, DataType::Int64), "{\"a\":1}", "schema: `x.key`: `a` is not a whole number (int64)");
    let inner = DataType::Struct(vec![Field::new("a", DataType::Int64, false)].into());
    check(inner.clone(), "{}", "schema: `x.a`: is missing, and its type allows no null");
    check(inner, "{\"a\":[]}", "schema: `x.a`: should be int64, and is an array");
    check(DataType::Int64, "nul", "decode: not JSON: expected a value, found `n`, at byte 5");
    check(DataType::Int64, "01", "decode: not JSON: expected no digit behind a leading zero, found `1`, at byte 6");
    check(DataType::Int64, "1 2", "decode: not JSON: expected a comma or `}`, found `2`, at byte 7");
}

#[test]
fn what_is_no_object_says_so() {
    let check = |record: &[u8], expected: &str| {
        assert_eq!(one(DataType::Int64, true, record), Err(format!("decode: not JSON: {expected}")), "{record:?}");
    };
    check(b"", "it ends where an object is expected, at byte 0");
    check(b"   ", "it ends where an object is expected, at byte 3");
    check(b"[{\"x\":1}]", "a record is an object, and this is an array, at byte 0");
    check(b"null", "a record is an object, and this is null, at byte 0");
    check(b"x=1", "expected an object, found `x`, at byte 0");
    check(b"\0\0", "expected an object, found the byte 0x00, at byte 0");
    check(b"{\"x\":1", "it ends where a comma or `}` is expected, at byte 6");
    check(b"{\"x\":1}{\"x\":2}", "expected the end of the record, found `{`, at byte 7");
    check(b"{\"x\":1,}", "expected a key, found `}`, at byte 7");
    check(b"{\"x\" 1}", "expected a colon, found `1`, at byte 5");
    check(b"{\"y\":\"\xff\"}", "it is not UTF-8, at byte 6");
    check(b"{\"y\":\"\x01\"}", "a control character stands in a string, at byte 6");
    check(b"{\"y\":tru}", "expected a value, found `t`, at byte 5");
    check(
        &[&b"{\"y\":"[..], &[b'['; 200], &[b']'; 200], b"}"].concat(),
        "it is nested more than 128 deep, at byte 133",
    );
}

#[test]
fn the_last_of_two_fields_counts_and_failed_records_leave_nothing() {
    let schema: SchemaRef = Arc::new(Schema::new(vec![
        Field::new("a", DataType::Int64, true),
        Field::new("b", DataType::Utf8, true),
        Field::new("c", DataType::new_list(DataType::Utf8, true), true),
    ]));
    let mut decoder = JsonDecoder::new(&schema, schema.fields(), false).unwrap();
    let good =
        ["{\"a\":1,\"a\":2,\"b\":\"x\",\"b\":\"y\"}", "{}", "{\"b\":\"z\",\"a\":3,\"c\":[\"q\"],\"c\":[\"r\",null]}"];
    let bad =
        ["{\"a\":1,\"b\":\"lost\",\"c\":[\"lost\",1]}", "{\"c\":[\"lost\"],\"b\":", "{\"b\":\"lost\"} x", "nonsense"];
    for record in good {
        for bad in bad {
            assert!(decoder.decode(bad.as_bytes()).is_err());
        }
        decoder.decode(record.as_bytes()).unwrap();
    }
    let batch = batch(&schema, &mut decoder);
    assert_eq!(
        encoded(&batch, Timestamps::Rfc3339),
        [
            json!({"a": 2, "b": "y", "c": null}),
            json!({"a": null, "b": null, "c": null}),
            json!({"a": 3, "b": "z", "c": ["r", null]})
        ]
    );
}

#[test]
fn unknown_fields_are_ignored_or_refused() {
    let schema: SchemaRef =
        Arc::new(Schema::new(vec![Field::new("a", DataType::Int64, true), Field::new("b", DataType::Int64, true)]));
    let pruned = [schema.fields()[0].clone()];
    let record = "{\"b\":\"not looked at\",\"zz\":1,\"a\":5}".as_bytes();
    let mut lenient = JsonDecoder::new(&schema, &pruned, false).unwrap();
    lenient.decode(record).unwrap();
    assert_eq!(lenient.finish()[0].as_primitive::<Int64Type>().values(), &[5]);
    let mut strict = JsonDecoder::new(&schema, &pruned, true).unwrap();
    let error = strict.decode(record).unwrap_err();
    assert_eq!(error.to_string(), "schema: `zz`: is not in the schema, which says `extra: error`");
    strict.decode(b"{\"b\":1,\"a\":5}").unwrap();
    assert_eq!(strict.finish()[0].len(), 1);
}

#[test]
fn no_columns_still_count_rows() {
    let schema: SchemaRef = Arc::new(Schema::new(vec![Field::new("a", DataType::Int64, false)]));
    let mut decoder = JsonDecoder::new(&schema, &[], false).unwrap();
    decoder.decode(b"{}").unwrap();
    decoder.decode(b"{\"a\":1}").unwrap();
    assert!(decoder.decode(b"{\"a\":}").is_err());
    let empty: SchemaRef = Arc::new(Schema::empty());
    let batch = batch(&empty, &mut decoder);
    assert_eq!(encoded(&batch, Timestamps::Rfc3339), [json!({}), json!({})]);
}

#[test]
fn keys_are_found_in_any_order_and_form() {
    let names: Vec<String> = (0..40).map(|n| format!("key_{n}")).collect();
    let fields: Vec<Field> = names.iter().map(|name| Field::new(name, DataType::Int64, true)).collect();
    let schema: SchemaRef = Arc::new(Schema::new(fields));
    let mut decoder = JsonDecoder::new(&schema, schema.fields(), false).unwrap();
    let mut rng = SmallRng::seed_from_u64(7);
    let mut expected = Vec::new();
    for row in 0..2_000_i64 {
        let mut some: Vec<usize> = (0..40).filter(|_| rng.random_bool(0.7)).collect();
        if row % 3 == 0 {
            some.shuffle(&mut rng);
        }
        let field = |at: &usize| match rng.random_range(0..6) {
            0 => format!("\"\\u006bey_{at}\":{row}"),
            1 => format!(" \"key_{at}\" : {row} "),
            2 => format!("\"other_{row}\":[1,{{\"key_1\":2}}],\"key_{at}\":{row}"),
            _ => format!("\"key_{at}\":{row}"),
        };
        let record = format!("{{{}}}", some.iter().map(field).collect::<Vec<_>>().join(","));
        decoder.decode(record.as_bytes()).unwrap();
        let object: Map<String, Value> =
            (0..40).map(|at| (names[at].clone(), if some.contains(&at) { json!(row) } else { Value::Null })).collect();
        expected.push(Value::Object(object));
    }
    let batch = batch(&schema, &mut decoder);
    assert_eq!(encoded(&batch, Timestamps::Rfc3339), expected);
}

#[test]
fn json_columns_are_kept_and_written_as_they_stand() {
    let field = json_field("x", true);
    assert_eq!(one_field(field.clone(), b"{\"x\": {\"b\" : [1,\n2] }}"), Ok(json!({"b": [1, 2]})));
    assert_eq!(one_field(field.clone(), b"{\"x\":\"s\"}"), Ok(json!("s")));
    assert_eq!(one_field(field, b"{\"x\":null}"), Ok(Value::Null));
}

#[test]
fn timestamps_may_be_milliseconds() {
    let schema: SchemaRef = Arc::new(Schema::new(vec![Field::new("x", TS, true)]));
    let mut decoder = JsonDecoder::new(&schema, schema.fields(), false).unwrap();
    decoder.decode(b"{\"x\":\"1969-12-31T23:59:59.9995Z\"}").unwrap();
    decoder.decode(b"{\"x\":\"2023-11-14T22:13:20.123456Z\"}").unwrap();
    let batch = batch(&schema, &mut decoder);
    assert_eq!(encoded(&batch, Timestamps::EpochMs), [json!({"x": -1}), json!({"x": 1_700_000_000_123_i64})]);
}

#[test]
fn what_is_not_finite_is_a_string_that_is_read_again() {
    let values = [f64::NAN, f64::INFINITY, f64::NEG_INFINITY, 1.5];
    let floats: ArrayRef = Arc::new(arrow::array::Float64Array::from(values.to_vec()));
    let singles: ArrayRef = Arc::new(arrow::array::Float32Array::from(values.map(|value| value as f32).to_vec()));
    let batch = RecordBatch::try_from_iter([("a", floats), ("b", singles)]).unwrap();
    let both = |word: &str| json!({"a": word, "b": word});
    let written = [both("NaN"), both("Infinity"), both("-Infinity"), json!({"a": 1.5, "b": 1.5})];
    assert_eq!(encoded(&batch, Timestamps::Rfc3339), written);
    for float in [DataType::Float64, DataType::Float32] {
        for word in ["NaN", "Infinity", "-Infinity"] {
            let record = json!({ "x": word }).to_string();
            assert_eq!(one(float.clone(), false, record.as_bytes()), Ok(json!(word)));
        }
        for text in ["1.5", "nan", "inf", "+Infinity", ""] {
            let record = json!({ "x": text }).to_string();
            let expected =
                Err(format!("schema: `x`: should be {}, and is a string", format!("{float}").to_lowercase()));
            assert_eq!(one(float.clone(), false, record.as_bytes()), expected);
        }
    }
    let list = DataType::new_list(DataType::Float64, false);
    assert_eq!(one(list, false, b"{\"x\":[1,\"NaN\"]}"), Ok(json!([1.0, "NaN"])));
}

#[test]
fn types_from_expressions_are_written_too() {
    use arrow::array::{
        BinaryViewArray, DictionaryArray, LargeStringArray, NullArray, StringViewArray, Time64MicrosecondArray,
    };
    let dictionary: DictionaryArray<arrow::datatypes::Int32Type> = ["x", "y", "x"].into_iter().collect();
    let wide = arrow::array::Decimal256Array::from(vec![arrow::datatypes::i256::from_i128(150); 3])
        .with_precision_and_scale(60, 2);
    let columns: Vec<(&str, ArrayRef)> = vec![
        ("view", Arc::new(StringViewArray::from(vec![Some("a \"long\" string beyond twelve bytes"), None, Some("s")]))),
        ("large", Arc::new(LargeStringArray::from(vec!["a", "b", "c\n"]))),
        ("bytes", Arc::new(BinaryViewArray::from(vec![&b"hi"[..], b"h", b""]))),
        ("dict", Arc::new(dictionary)),
        ("null", Arc::new(NullArray::new(3))),
        ("time", Arc::new(Time64MicrosecondArray::from(vec![0, 1, 2]))),
        ("wide", Arc::new(wide.unwrap())),
    ];
    let fields: Vec<Field> =
        columns.iter().map(|(name, array)| Field::new(*name, array.data_type().clone(), true)).collect();
    let arrays = columns.into_iter().map(|(_, array)| array).collect();
    let batch = RecordBatch::try_new(Arc::new(Schema::new(fields)), arrays).unwrap();
    // A slice must not be mistaken for its array.
    let rows = encoded(&batch.slice(1, 2), Timestamps::Rfc3339);
    assert_eq!(
        rows[0],
        json!({"view": null, "large": "b", "bytes": "aA==", "dict": "y", "null": null, "time": "00:00:00.000001", "wide": 1.5})
    );
    assert_eq!(rows[1]["view"], json!("s"));
    assert_eq!(rows[1]["large"], json!("c\n"));
    assert_eq!(encoded(&batch, Timestamps::Rfc3339)[0]["view"], json!("a \"long\" string beyond twelve bytes"));
}

fn json_field(name: &str, nullable: bool) -> Field {
    Field::new(name, DataType::Utf8, nullable)
        .with_metadata(HashMap::from([(JSON_MARK.0.to_owned(), JSON_MARK.1.to_owned())]))
}

fn map_of(key: DataType, value: DataType) -> DataType {
    let entries = vec![Field::new("key", key, false), Field::new("value", value, false)];
    DataType::Map(Arc::new(Field::new("entries", DataType::Struct(entries.into()), false)), false)
}

/// A random field.
fn random_field(rng: &mut SmallRng, name: &str, depth: u32) -> Field {
    let nullable = rng.random_bool(0.5);
    let data_type = match rng.random_range(0..if depth == 0 { 14 } else { 18 }) {
        0 => DataType::Boolean,
        1 => DataType::Int8,
        2 => DataType::Int64,
        3 => DataType::UInt16,
        4 => DataType::UInt64,
        5 => DataType::Float32,
        6 => DataType::Float64,
        7 => DataType::Decimal128(8, 3),
        8 | 9 => DataType::Utf8,
        10 => DataType::Binary,
        11 => DataType::Date32,
        12 => DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into())),
        13 => return json_field(name, nullable),
        14 => DataType::List(Arc::new(random_field(rng, "item", depth - 1))),
        15 => {
            let value = random_field(rng, "value", depth - 1);
            let entries = vec![Field::new("key", DataType::Utf8, false), value];
            DataType::Map(Arc::new(Field::new("entries", DataType::Struct(entries.into()), false)), false)
        }
        _ => DataType::Struct(random_fields(rng, depth - 1)),
    };
    Field::new(name, data_type, nullable)
}

fn random_fields(rng: &mut SmallRng, depth: u32) -> Fields {
    (0..rng.random_range(0..5)).map(|at| random_field(rng, &format!("f{at}"), depth)).collect()
}

const TEXTS: [&str; 8] = [
    "",
    "a",
    "a longer text without any escape in it",
    "\"quoted\" \\ and\nbroken",
    "é😀",
    "\u{1}\t\0",
    "null?",
    "1.5",
];

/// A value that mostly fits a field.
fn random_value(rng: &mut SmallRng, field: &Field, depth: u32) -> Value {
    if rng.random_bool(0.03) {
        return random_any(rng, depth);
    }
    if field.is_nullable() && rng.random_bool(0.2) {
        return Value::Null;
    }
    let json = field.metadata().contains_key(JSON_MARK.0);
    match field.data_type() {
        DataType::Boolean => json!(rng.random_bool(0.5)),
        DataType::Int8 => json!(rng.random_range(-130..130)),
        DataType::Int64 => json!(rng.random::<i64>() >> rng.random_range(0..64)),
        DataType::UInt16 => json!(rng.random_range(0..66_000)),
        DataType::UInt64 => json!(rng.random::<u64>() >> rng.random_range(0..64)),
        DataType::Float32 => json!((rng.random::<f32>() * 100.0) as f64),
        DataType::Float64 => json!(rng.random::<f64>() * 10_f64.powi(rng.random_range(-30..30))),
        DataType::Decimal128(..) if rng.random_bool(0.5) => {
            json!(format!("{}.{}", rng.random_range(-9999..9999), rng.random_range(0..999)))
        }
        DataType::Decimal128(..) => json!(rng.random_range(-99_999..99_999)),
        DataType::Utf8 if json => random_any(rng, 2),
        DataType::Utf8 => json!(TEXTS[rng.random_range(0..TEXTS.len())]),
        DataType::Binary => json!(["", "aGk=", "aGkh", "-_8="][rng.random_range(0..3)]),
        DataType::Date32 => json!(format!(
            "20{:02}-{:02}-{:02}",
            rng.random_range(0..99),
            rng.random_range(1..13),
            rng.random_range(1..31)
        )),
        DataType::Timestamp(..) => {
            let time = chrono::DateTime::from_timestamp(
                rng.random_range(-5_000_000_000..5_000_000_000),
                rng.random_range(0..1_000_000) * 1_000,
            );
            json!(time.unwrap().to_rfc3339_opts(chrono::SecondsFormat::AutoSi, rng.random_bool(0.5)))
        }
        DataType::List(item) => {
            (0..rng.random_range(0..4)).map(|_| random_value(rng, item, depth.saturating_sub(1))).collect()
        }
        DataType::Map(entries, _) => {
            let DataType::Struct(fields) = entries.data_type() else { unreachable!() };
            let entry = |at: usize, rng: &mut SmallRng| {
                (format!("k{at}"), random_value(rng, &fields[1], depth.saturating_sub(1)))
            };
            Value::Object((0..rng.random_range(0..4)).map(|at| entry(at, rng)).collect())
        }
        DataType::Struct(fields) => random_object(rng, fields, depth.saturating_sub(1)),
        other => unreachable!("{other}"),
    }
}

fn random_object(rng: &mut SmallRng, fields: &Fields, depth: u32) -> Value {
    let mut object = Map::new();
    for field in fields {
        if rng.random_bool(0.93) {
            object.insert(field.name().clone(), random_value(rng, field, depth));
        }
    }
    if rng.random_bool(0.2) {
        object.insert("unknown".to_owned(), random_any(rng, 2));
    }
    Value::Object(object)
}

fn random_any(rng: &mut SmallRng, depth: u32) -> Value {
    match rng.random_range(0..if depth == 0 { 5 } else { 7 }) {
        0 => Value::Null,
        1 => json!(rng.random_bool(0.5)),
        2 => json!(rng.random_range(-1_000..1_000)),
        3 => json!(rng.random_range(-1_000..1_000) as f64 / 8.0),
        4 => json!(TEXTS[rng.random_range(0..TEXTS.len())]),
        5 => (0..rng.random_range(0..3)).map(|_| random_any(rng, depth - 1)).collect(),
        _ => Value::Object(
            (0..rng.random_range(0..3)).map(|at| (format!("f{at}"), random_any(rng, depth - 1))).collect(),
        ),
    }
}

/// A value as text, its fields in random order and with random white space.
fn random_text(rng: &mut SmallRng, value: &Value, shuffle: bool, out: &mut String) {
    let space = |rng: &mut SmallRng| ["", "", "", " ", "\t", "\r"][rng.random_range(0..if shuffle { 6 } else { 3 })];
    match value {
        Value::Array(items) => {
            out.push('[');
            for (at, item) in items.iter().enumerate() {
                out.push_str(if at > 0 { "," } else { "" });
                out.push_str(space(rng));
                random_text(rng, item, shuffle, out);
                out.push_str(space(rng));
            }
            out.push(']');
        }
        Value::Object(fields) => {
            let mut fields: Vec<_> = fields.iter().collect();
            if shuffle {
                fields.shuffle(rng);
            }
            out.push('{');
            for (at, (key, value)) in fields.into_iter().enumerate() {
                out.push_str(if at > 0 { "," } else { "" });
                out.push_str(space(rng));
                out.push_str(&json!(key).to_string());
                out.push_str(space(rng));
                out.push(':');
                out.push_str(space(rng));
                random_text(rng, value, shuffle, out);
                out.push_str(space(rng));
            }
            out.push('}');
        }
        leaf => out.push_str(&leaf.to_string()),
    }
}

/// What a value is in a column, as the encoder writes it; `Err` where it does not fit. Slow and obvious.
fn convert(field: &Field, value: Option<&Value>) -> Result<Value, ()> {
    let value = match value {
        None | Some(Value::Null) if field.is_nullable() => return Ok(Value::Null),
        None | Some(Value::Null) => return Err(()),
        Some(value) => value,
    };
    let whole = |least: i128, most: i128| {
        let number = match value {
            Value::Number(number) if number.is_f64() => {
                let float = number.as_f64().unwrap();
                if float.fract() != 0.0 {
                    return Err(());
                }
                float as i128
            }
            Value::Number(number) => number.to_string().parse().unwrap(),
            _ => return Err(()),
        };
        if (least..=most).contains(&number) { Ok(serde_json::from_str(&number.to_string()).unwrap()) } else { Err(()) }
    };
    match field.data_type() {
        DataType::Boolean => value.as_bool().map(Into::into).ok_or(()),
        DataType::Int8 => whole(-128, 127),
        DataType::Int64 => whole(i64::MIN.into(), i64::MAX.into()),
        DataType::UInt16 => whole(0, 65_535),
        DataType::UInt64 => whole(0, u64::MAX.into()),
        DataType::Float32 => value.as_f64().map(|value| json!(value)).ok_or(()),
        DataType::Float64 => value.as_f64().map(|value| json!(value)).ok_or(()),
        DataType::Decimal128(precision, scale) => {
            let text = match value {
                Value::String(text) => text.clone(),
                Value::Number(number) => number.to_string(),
                _ => return Err(()),
            };
            let fraction = text.split_once('.').map_or("", |(_, fraction)| fraction.trim_end_matches('0'));
            let number: f64 = text.parse().map_err(drop)?;
            let fits = fraction.len() <= *scale as usize
                && number.abs() < 10_f64.powi(i32::from(*precision) - i32::from(*scale));
            if fits { Ok(json!(number)) } else { Err(()) }
        }
        DataType::Utf8 if field.metadata().contains_key(JSON_MARK.0) => Ok(value.clone()),
        DataType::Utf8 => value.as_str().map(Into::into).ok_or(()),
        DataType::Binary => value.as_str().filter(|text| ["", "aGk=", "aGkh"].contains(text)).map(Into::into).ok_or(()),
        DataType::Date32 => {
            let text = value.as_str().ok_or(())?;
            chrono::NaiveDate::parse_from_str(text, "%Y-%m-%d").map(|_| json!(text)).map_err(drop)
        }
        DataType::Timestamp(..) => match value {
            Value::Number(_) => {
                let micros = whole(i64::MIN.into(), i64::MAX.into())?.as_i64().unwrap();
                Ok(json!(
                    chrono::DateTime::from_timestamp_micros(micros)
                        .unwrap()
                        .to_rfc3339_opts(chrono::SecondsFormat::AutoSi, true)
                ))
            }
            _ => {
                let time = chrono::DateTime::parse_from_rfc3339(value.as_str().ok_or(())?).map_err(drop)?.to_utc();
                Ok(json!(time.to_rfc3339_opts(chrono::SecondsFormat::AutoSi, true)))
            }
        },
        DataType::List(item) => value.as_array().ok_or(())?.iter().map(|value| convert(item, Some(value))).collect(),
        DataType::Map(entries, _) => {
            let DataType::Struct(fields) = entries.data_type() else { unreachable!() };
            let entries = value
                .as_object()
                .ok_or(())?
                .iter()
                .map(|(key, value)| Ok((key.clone(), convert(&fields[1], Some(value))?)));
            entries.collect::<Result<Map<_, _>, ()>>().map(Value::Object)
        }
        DataType::Struct(fields) => convert_object(fields, value),
        other => unreachable!("{other}"),
    }
}

fn convert_object(fields: &Fields, value: &Value) -> Result<Value, ()> {
    let object = value.as_object().ok_or(())?;
    let fields = fields.iter().map(|field| Ok((field.name().clone(), convert(field, object.get(field.name()))?)));
    fields.collect::<Result<Map<_, _>, ()>>().map(Value::Object)
}

/// Equal, with floats that went through float32 or serde_json's own reading near enough.
fn same(left: &Value, right: &Value) -> bool {
    match (left, right) {
        (Value::Number(a), Value::Number(b)) if a.is_f64() || b.is_f64() => {
            let (a, b) = (a.as_f64().unwrap(), b.as_f64().unwrap());
            a == b || (a - b).abs() <= 1e-6 * a.abs().max(b.abs())
        }
        (Value::Array(a), Value::Array(b)) => a.len() == b.len() && a.iter().zip(b).all(|(a, b)| same(a, b)),
        (Value::Object(a), Value::Object(b)) => {
            a.len() == b.len() && a.iter().all(|(key, a)| b.get(key).is_some_and(|b| same(a, b)))
        }
        _ => left == right,
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(ProptestConfig::default().cases.max(400)))]

    #[test]
    fn agrees_with_a_naive_conversion(seed: u64) {
        let mut rng = SmallRng::seed_from_u64(seed);
        let fields = random_fields(&mut rng, 2);
        let wanted: Vec<Arc<Field>> = fields.iter().filter(|_| rng.random_bool(0.8)).cloned().collect();
        let schema: SchemaRef = Arc::new(Schema::new(wanted.clone()));
        let mut decoder = JsonDecoder::new(&Schema::new(fields.clone()), &wanted, false).unwrap();
        for _ in 0..3 {
            let mut expected = Vec::new();
            for _ in 0..rng.random_range(0..40) {
                let record = random_object(&mut rng, &fields, 2);
                let mut text = String::new();
                let shuffle = rng.random_bool(0.3);
                random_text(&mut rng, &record, shuffle, &mut text);
                // serde_json has the last word on what the text says.
                let read: Value = serde_json::from_str(&text).unwrap();
                let wanted = convert_object(schema.fields(), &read);
                let found = decoder.decode(text.as_bytes());
                prop_assert_eq!(found.is_ok(), wanted.is_ok(), "{} {:?} {:?}", text, found, schema);
                expected.extend(wanted.ok());
            }
            let rows = encoded(&batch(&schema, &mut decoder), Timestamps::Rfc3339);
            prop_assert_eq!(rows.len(), expected.len());
            for (row, expected) in rows.iter().zip(&expected) {
                prop_assert!(same(row, expected), "{} is not {}", row, expected);
            }
        }
    }

    #[test]
    fn damaged_records_are_refused_or_read_as_serde_json_does(seed: u64) {
        let mut rng = SmallRng::seed_from_u64(seed);
        let fields = random_fields(&mut rng, 2);
        let schema: SchemaRef = Arc::new(Schema::new(fields.clone()));
        let mut decoder = JsonDecoder::new(&schema, &fields, false).unwrap();
        for _ in 0..30 {
            let mut text = String::new();
            let record = random_object(&mut rng, &fields, 2);
            random_text(&mut rng, &record, false, &mut text);
            let mut bytes = text.into_bytes();
            let at = rng.random_range(0..bytes.len());
            match rng.random_range(0..3) {
                0 => bytes[at] = rng.random(),
                1 => bytes.truncate(at),
                _ => bytes.insert(at, b"{}[]\",:\\e1"[rng.random_range(0..10)]),
            }
            let before = decoder.rows();
            let found = decoder.decode(&bytes);
            prop_assert_eq!(decoder.rows(), before + usize::from(found.is_ok()));
            if found.is_ok() {
                // A record that is taken is JSON.
                prop_assert!(serde_json::from_slice::<serde::de::IgnoredAny>(&bytes).is_ok(), "{}", String::from_utf8_lossy(&bytes));
            }
        }
        batch(&schema, &mut decoder);
    }

    #[test]
    fn floats_are_the_nearest(text in "-?(0|[1-9][0-9]{0,20})(\\.[0-9]{1,20})?([eE][+-]?[0-9]{1,3})?") {
        let fields = vec![Field::new("x", DataType::Float64, true), Field::new("y", DataType::Float32, true)];
        let schema: SchemaRef = Arc::new(Schema::new(fields));
        let mut decoder = JsonDecoder::new(&schema, schema.fields(), false).unwrap();
        let (double, float): (f64, f32) = (text.parse().unwrap(), text.parse().unwrap());
        let found = decoder.decode(format!("{{\"x\":{text}}}").as_bytes());
        prop_assert_eq!(found.is_ok(), double.is_finite());
        if found.is_ok() {
            prop_assert_eq!(decoder.finish()[0].as_primitive::<Float64Type>().value(0).to_bits(), double.to_bits());
        }
        let found = decoder.decode(format!("{{\"y\":{text}}}").as_bytes());
        prop_assert_eq!(found.is_ok(), float.is_finite());
        if found.is_ok() {
            prop_assert_eq!(decoder.finish()[1].as_primitive::<Float32Type>().value(0).to_bits(), float.to_bits());
        }
    }

    #[test]
    fn integers_are_exact(value: i64, zeros in 0..3_usize, spaces in " {0,3}") {
        let text = format!("{{\"x\":{spaces}{value}{}{spaces}}}", if zeros > 0 { format!(".{}", "0".repeat(zeros)) } else { String::new() });
        prop_assert_eq!(one(DataType::Int64, false, text.as_bytes()), Ok(json!(value)));
    }

    #[test]
    fn texts_come_back(texts in proptest::collection::vec(any::<Option<String>>(), 1..20)) {
        let array: ArrayRef = Arc::new(arrow::array::StringArray::from(texts.clone()));
        let batch = RecordBatch::try_from_iter_with_nullable([("x", array, true)]).unwrap();
        let rows = encoded(&batch, Timestamps::Rfc3339);
        let found: Vec<Option<String>> = rows.iter().map(|row| row["x"].as_str().map(str::to_owned)).collect();
        prop_assert_eq!(found, texts);
    }
}
