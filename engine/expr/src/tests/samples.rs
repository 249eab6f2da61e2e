//! What the tests plan and evaluate against, and the fuzz target `expressions` too: a batch with columns of every type,
//! parameters, facts of the rows.

use arrow::array::builder::{ListBuilder, MapBuilder, StringBuilder};
use arrow::array::{
    Array, ArrayRef, BooleanArray, Date32Array, Decimal128Array, DurationNanosecondArray, Float64Array, Int32Array,
    Int64Array, Int64Builder, RecordBatch, StringArray, StructArray, TimestampMillisecondArray,
    TimestampNanosecondArray, UInt64Array,
};
use arrow::datatypes::{DataType, Field, Fields, Schema};
use arrow::util::display::{ArrayFormatter, FormatOptions};
use engine_expr::{Context, Evaluated, ParamValue, RowFacts, Scalar, Scope};
use std::sync::Arc;

/// 2026-01-31T10:30:00Z.
const AT_NS: i64 = 1_769_855_400_000_000_000;

/// Four rows of every type, with nulls and extremes.
pub(crate) fn batch() -> RecordBatch {
    let hour = 3_600_000_000_000i64;
    let mut tags = ListBuilder::new(StringBuilder::new());
    tags.append_value([Some("x"), Some("y")]);
    tags.append_value([None::<&str>; 0]);
    tags.append_null();
    tags.append_value([Some("z"), None]);
    let tags = tags.finish();
    let mut attrs = MapBuilder::new(None, StringBuilder::new(), Int64Builder::new());
    for pairs in [vec![("a", 1), ("b", 2)], vec![], vec![("a", 7)], vec![("b", 9)]] {
        for (key, value) in pairs {
            attrs.keys().append_value(key);
            attrs.values().append_value(value);
        }
        attrs.append(true).expect("as many keys as values");
    }
    let attrs = attrs.finish();
    let geo =
        Fields::from(vec![Field::new("lat", DataType::Float64, false), Field::new("lon", DataType::Float64, false)]);
    let geo_column = StructArray::new(
        geo.clone(),
        vec![
            Arc::new(Float64Array::from(vec![52.52, 48.8566, 0.0, 90.0])),
            Arc::new(Float64Array::from(vec![13.405, 2.3522, 0.0, 0.0])),
        ],
        None,
    );
    let place_fields =
        Fields::from(vec![Field::new("city", DataType::Utf8, true), Field::new("geo", DataType::Struct(geo), false)]);
    let place = StructArray::new(
        place_fields,
        vec![
            Arc::new(StringArray::from(vec![Some("Berlin"), Some("Paris"), None, Some("Pole")])),
            Arc::new(geo_column),
        ],
        None,
    );
    let column =
        |name: &str, nullable: bool, array: ArrayRef| (Field::new(name, array.data_type().clone(), nullable), array);
    let columns: Vec<(Field, ArrayRef)> = vec![
        column("id", false, Arc::new(Int64Array::from(vec![1, 2, 3, 4]))),
        column("amount", true, Arc::new(Float64Array::from(vec![Some(10.5), None, Some(-3.0), Some(0.0)]))),
        column("n", true, Arc::new(Int32Array::from(vec![Some(7), Some(0), None, Some(i32::MIN)]))),
        column("big", false, Arc::new(Int64Array::from(vec![i64::MAX, 5, i64::MIN, 0]))),
        column("u", false, Arc::new(UInt64Array::from(vec![0, 1, u64::MAX, 5]))),
        column("card", false, Arc::new(StringArray::from(vec!["a1", "b2", "Ünï", ""]))),
        column("digits", false, Arc::new(StringArray::from(vec!["12", "x7", "-3", "1e3"]))),
        column(
            "note",
            true,
            Arc::new(StringArray::from(vec![Some(NOTE), Some("not json"), None, Some(r#"{"a":null}"#)])),
        ),
        column("ok", true, Arc::new(BooleanArray::from(vec![Some(true), Some(false), None, Some(true)]))),
        column("day", false, Arc::new(Date32Array::from(vec![20_484, 0, -1, 20_512]))),
        column(
            "at",
            false,
            Arc::new(TimestampNanosecondArray::from(vec![AT_NS, AT_NS + hour, 0, -1]).with_timezone("UTC")),
        ),
        column(
            "seen",
            true,
            Arc::new(
                TimestampMillisecondArray::from(vec![Some(AT_NS / 1_000_000), None, Some(5), Some(0)])
                    .with_timezone("UTC"),
            ),
        ),
        column(
            "local",
            false,
            Arc::new(
                TimestampMillisecondArray::from(vec![AT_NS / 1_000_000, 0, 1, 1_782_864_000_000])
                    .with_timezone("Europe/Berlin"),
            ),
        ),
        column(
            "price",
            true,
            Arc::new(
                Decimal128Array::from(vec![Some(1050), Some(1), None, Some(9_999_999_999)])
                    .with_precision_and_scale(10, 2)
                    .expect("a decimal type"),
            ),
        ),
        column("span", false, Arc::new(DurationNanosecondArray::from(vec![1_000_000_000, 0, -5, 86_400_000_000_000]))),
        column("tags", true, Arc::new(tags)),
        column("attrs", false, Arc::new(attrs)),
        column("place", false, Arc::new(place)),
        column("userId", false, Arc::new(Int64Array::from(vec![11, 12, 13, 14]))),
        column("order", false, Arc::new(StringArray::from(vec!["o1", "o2", "o3", "o4"]))),
        column("timestamp", false, Arc::new(Int64Array::from(vec![1, 2, 3, 4]))),
        column("user", false, Arc::new(StringArray::from(vec!["u1", "u2", "u3", "u4"]))),
        column("@type", false, Arc::new(StringArray::from(vec!["t", "t", "t", "t"]))),
    ];
    let (fields, arrays): (Vec<Field>, Vec<ArrayRef>) = columns.into_iter().unzip();
    RecordBatch::try_new(Arc::new(Schema::new(fields)), arrays).expect("columns that fit their schema")
}

const NOTE: &str = r#"{"a":{"b":"x\ny"},"n":5,"l":[1,{"k":true}],"s":"","e.f":2}"#;

pub(crate) fn context() -> Context {
    let at = DataType::Timestamp(arrow::datatypes::TimeUnit::Nanosecond, Some("UTC".into()));
    Context::new(vec![
        ("threshold".into(), DataType::Float64, false, ParamValue::Float(0.5)),
        ("limit".into(), DataType::Int32, false, ParamValue::Int(7)),
        ("zero".into(), DataType::Int64, false, ParamValue::Int(0)),
        ("city".into(), DataType::Utf8, false, ParamValue::String("Paris".into())),
        ("since".into(), at, false, ParamValue::String("2026-01-01T00:00:00Z".into())),
        ("strict".into(), DataType::Boolean, false, ParamValue::Bool(true)),
        ("nothing".into(), DataType::Utf8, true, ParamValue::Null),
        ("missing".into(), DataType::Int64, false, ParamValue::Null),
        ("wrong".into(), DataType::Int64, false, ParamValue::String("abc".into())),
    ])
}

pub(crate) fn scope() -> Scope {
    Scope::new(batch().schema())
}

/// The rows' facts: ingested a second apart, event time an hour before, position by number.
pub(crate) fn facts<'a>() -> RowFacts<'a> {
    RowFacts { now_ns: &now_ns, event_ns: Some(&event_ns), seed: &|row| row as u64 }
}

fn now_ns(row: usize) -> i64 {
    AT_NS + row as i64 * 1_000_000_000
}

fn event_ns(row: usize) -> i64 {
    AT_NS - 3_600_000_000_000 + row as i64
}

pub(crate) fn evaluate(scalar: &Scalar, batch: &RecordBatch) -> Evaluated {
    evaluate_part(scalar, batch, 0, batch.num_rows())
}

/// Some rows of a batch, with the facts that they have there.
pub(crate) fn evaluate_part(scalar: &Scalar, batch: &RecordBatch, first: usize, count: usize) -> Evaluated {
    let facts = RowFacts {
        now_ns: &|row| now_ns(first + row),
        event_ns: Some(&|row| event_ns(first + row)),
        seed: &|row| (first + row) as u64,
    };
    let mut program = scalar.compile(&batch.schema()).expect("compiles on its own schema");
    program.evaluate(&batch.slice(first, count), &facts)
}

/// One cell a row; a failed row as `!code: reason`.
pub(crate) fn rendered(evaluated: &Evaluated) -> Vec<String> {
    let options = FormatOptions::default().with_null("null");
    let formatter = ArrayFormatter::try_new(evaluated.array.as_ref(), &options).expect("a type that can be shown");
    let mut cells: Vec<String> = (0..evaluated.array.len())
        .map(|row| match (evaluated.array.data_type(), evaluated.array.is_null(row)) {
            (_, true) => "null".to_owned(),
            (DataType::Utf8, _) => format!("'{}'", formatter.value(row)),
            _ => formatter.value(row).to_string(),
        })
        .collect();
    for (row, error) in &evaluated.errors {
        assert!(evaluated.array.is_null(*row), "a failed row is null");
        cells[*row] = format!("!{error}");
    }
    cells
}
