//! Expressions, what they give and how they fail, as data that a user could read.
//!
//! The files beside this one hold a case a block: the expression, and indented below it what comes of it. They are filled in
//! by `UPDATE_EXPECT=1 cargo test -p engine-expr` and reviewed by a person.

mod aggregates;
mod invariance;
mod robust;

use crate::{Context, Evaluated, ExprError, ParamValue, RowFacts, Scalar, Scope, type_name};
use arrow::array::builder::{ListBuilder, MapBuilder, StringBuilder};
use arrow::array::{
    Array, ArrayRef, BooleanArray, Date32Array, Decimal128Array, DurationNanosecondArray, Float64Array, Int32Array,
    Int64Array, Int64Builder, RecordBatch, StringArray, StructArray, TimestampMillisecondArray,
    TimestampNanosecondArray, UInt64Array,
};
use arrow::datatypes::{DataType, Field, Fields, Schema, SchemaRef};
use arrow::util::display::{ArrayFormatter, FormatOptions};
use std::fmt::Write as _;
use std::path::PathBuf;
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
    RowFacts {
        now_ns: &|row| AT_NS + row as i64 * 1_000_000_000,
        event_ns: Some(&|row| AT_NS - 3_600_000_000_000 + row as i64),
        seed: &|row| row as u64,
    }
}

pub(crate) fn evaluate(scalar: &Scalar, batch: &RecordBatch) -> Evaluated {
    scalar.compile(&batch.schema()).expect("compiles on its own schema").evaluate(batch, &facts())
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

pub(crate) fn shown_type(data_type: &DataType, nullable: bool) -> String {
    format!("{}{}", type_name(data_type), if nullable { " | null" } else { "" })
}

/// A value that a file of cases can hold: a long one is cut, and says how long it is.
fn shortened(cell: String) -> String {
    let length = cell.chars().count();
    if length <= 200 { cell } else { format!("{}… ({length} characters)", cell.chars().take(40).collect::<String>()) }
}

/// A problem as the file's reader would see it: message, caret, remedies.
pub(crate) fn shown_error(text: &str, error: &ExprError) -> String {
    let mut shown = format!("{}: {}\n", error.code, error.message);
    if let Some(range) = &error.range {
        let line = text[..range.start].matches('\n').count();
        let start = text[..range.start].rfind('\n').map_or(0, |at| at + 1);
        let end = text[range.start..].find('\n').map_or(text.len(), |at| range.start + at);
        let before = text[start..range.start].chars().count();
        let marked = text[range.start..range.end.min(end)].chars().count().max(1);
        if line > 0 {
            writeln!(shown, "{}", &text[start..end]).expect("a string takes text");
        }
        writeln!(shown, "{}{}", " ".repeat(before), "^".repeat(marked)).expect("a string takes text");
    }
    for help in &error.help {
        writeln!(shown, "help: {help}").expect("a string takes text");
    }
    shown
}

/// Runs every block of a file through `outcome` and compares what stands below it.
pub(crate) fn check_file(name: &str, outcome: impl Fn(&str) -> String) {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("src/tests").join(name);
    let written = std::fs::read_to_string(&path).expect("the file of cases");
    let mut filled = String::new();
    let mut lines = written.lines().peekable();
    while let Some(line) = lines.next() {
        if line.is_empty() || line.starts_with("# ") {
            writeln!(filled, "{line}").expect("a string takes text");
            continue;
        }
        // A case of several lines goes on with `| `.
        let mut text = line.to_owned();
        writeln!(filled, "{line}").expect("a string takes text");
        while let Some(more) = lines.next_if(|line| line.starts_with("| ")) {
            writeln!(filled, "{more}").expect("a string takes text");
            text.push('\n');
            text.push_str(&more[2..]);
        }
        while lines.next_if(|line| line.starts_with("    ")).is_some() {}
        for line in outcome(&text).lines() {
            writeln!(filled, "    {line}").expect("a string takes text");
        }
    }
    if std::env::var_os("UPDATE_EXPECT").is_some() {
        std::fs::write(&path, &filled).expect("the file of cases");
        return;
    }
    for (number, (want, got)) in written.lines().zip(filled.lines()).enumerate() {
        assert_eq!(want, got, "{name}, line {}", number + 1);
    }
    assert_eq!(written.lines().count(), filled.lines().count(), "{name}");
}

#[test]
fn values() {
    let (context, scope, batch) = (context(), scope(), batch());
    check_file("values.txt", |text| match context.scalar(text, &scope) {
        Ok(scalar) => {
            let cells: Vec<String> = rendered(&evaluate(&scalar, &batch)).into_iter().map(shortened).collect();
            let same = cells.iter().all(|cell| *cell == cells[0]) && scalar.is_constant();
            let cells = if same { format!("constant {}", cells[0]) } else { cells.join("  ·  ") };
            format!("{}\n{cells}", shown_type(scalar.data_type(), scalar.nullable()))
        }
        Err(error) => shown_error(text, &error),
    });
}

#[test]
fn errors() {
    let context = context();
    let scope = scope().with("current", batch().schema());
    check_file("errors.txt", |text| {
        let text = text.strip_prefix("(empty)").unwrap_or(text);
        match context.scalar(text, &scope) {
            Ok(scalar) => format!("OK {}", shown_type(scalar.data_type(), scalar.nullable())),
            Err(error) => shown_error(text, &error),
        }
    });
}

#[test]
fn conditions() {
    let (context, scope) = (context(), scope());
    check_file("conditions.txt", |text| match context.predicate(text, &scope) {
        Ok(scalar) => format!("non-null when true: {}", Vec::from_iter(scalar.non_null_when_true()).join(", ")),
        Err(error) => shown_error(text, &error),
    });
}

#[test]
fn reads_only_what_it_needs() {
    let (context, scope) = (context(), scope());
    let reads = |text: &str| {
        let scalar = context.scalar(text, &scope).expect(text);
        let columns = Vec::from_iter(scalar.columns().iter().cloned()).join(" ");
        (
            columns,
            scalar.reads_now(),
            scalar.reads_event_time(),
            scalar.reads_position(),
            scalar.as_column().map(str::to_owned),
        )
    };
    let column = Some("amount".to_owned());
    assert_eq!(reads("amount"), ("amount".into(), false, false, false, column.clone()));
    assert_eq!(reads("(amount)"), ("amount".into(), false, false, false, column));
    assert_eq!(reads("amount + id"), ("amount id".into(), false, false, false, None));
    assert_eq!(reads("now()"), (String::new(), true, false, false, None));
    assert_eq!(reads("at > now() - INTERVAL '5m'"), ("at".into(), true, false, false, None));
    assert_eq!(reads("event_time()"), (String::new(), false, true, false, None));
    assert_eq!(reads("id + random()"), ("id".into(), false, false, true, None));
    assert_eq!(reads("uuid()"), (String::new(), false, false, true, None));
    // A branch that the parameter cuts is not read.
    assert_eq!(
        reads("CASE WHEN param.strict THEN id ELSE big END"),
        ("id".into(), false, false, false, Some("id".into()))
    );
    assert_eq!(reads("param.strict AND ok"), ("ok".into(), false, false, false, Some("ok".into())));
}

#[test]
fn a_plain_column_is_not_copied_and_a_pruned_schema_is_enough() {
    let batch = batch();
    let context = context();
    let column = evaluate(&context.scalar("card", &scope()).expect("plans"), &batch).array;
    assert!(Arc::ptr_eq(&column, batch.column_by_name("card").expect("there")));

    let scalar = context.scalar("amount * id", &scope()).expect("plans");
    let at = |name: &str| batch.schema().index_of(name).expect("there");
    let pruned = batch.project(&[at("id"), at("card"), at("amount")]).expect("columns that are there");
    let evaluated = scalar.compile(&pruned.schema()).expect("compiles").evaluate(&pruned, &RowFacts::none());
    assert_eq!(rendered(&evaluated), ["10.5", "null", "-9.0", "0.0"]);
    let missing = batch.project(&[at("id")]).expect("columns that are there");
    assert_eq!(
        scalar.compile(&missing.schema()).expect_err("a column is missing").message,
        "the batch has no column `amount`"
    );
}

#[test]
fn time_and_chance_are_facts_of_the_row() {
    let context = context();
    let scope = scope();
    let batch = batch();
    let cells = |text: &str| rendered(&evaluate(&context.scalar(text, &scope).expect(text), &batch));
    assert_eq!(cells("now()")[0], "2026-01-31T10:30:00Z");
    assert_eq!(cells("now()")[3], "2026-01-31T10:30:03Z");
    assert_eq!(cells("CURRENT_TIMESTAMP"), cells("now()"));
    assert_eq!(cells("current_date")[0], "2026-01-31");
    assert_eq!(cells("event_time()")[0], "2026-01-31T09:30:00Z");
    // The same rows draw the same, each call and each program of its own.
    assert_eq!(cells("random()"), cells("random()"));
    assert_eq!(cells("random() = random()"), ["false"; 4]);
    assert_eq!(cells("random() >= 0 AND random() < 1"), ["true"; 4]);
    assert_ne!(cells("random()")[0], cells("random()")[1]);
    assert!(
        cells("uuid() ~ '^[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$'")
            .iter()
            .all(|cell| cell == "true")
    );
    let random = context.scalar("random()", &scope).expect("plans");
    let salted = random.compile(&batch.schema()).expect("compiles").with_salt(7).evaluate(&batch, &facts());
    assert_ne!(rendered(&salted), rendered(&evaluate(&random, &batch)));
    // Where there is no event time, each row says so.
    let event = context.scalar("event_time()", &scope).expect("plans");
    let evaluated = event.compile(&batch.schema()).expect("compiles").evaluate(&batch, &RowFacts::none());
    assert_eq!(rendered(&evaluated), ["!invalid: the row has no event time"; 4]);
}

#[test]
fn a_missing_parameter_is_checked_and_fails_only_when_it_is_needed() {
    let context = context();
    let scalar = context.scalar("id + param.missing", &scope()).expect("plans without the value");
    assert_eq!(shown_type(scalar.data_type(), scalar.nullable()), "int64");
    assert_eq!(rendered(&evaluate(&scalar, &batch()))[0], "!invalid: the parameter `missing` has no value");
    assert!(context.scalar("card + param.missing", &scope()).is_err());
}

#[test]
fn an_empty_batch_has_no_failures() {
    let empty = batch().slice(0, 0);
    for text in ["id / 0 + id / id", "CASE WHEN ok THEN 1 / 0 END", "1", "card", "now()", "CAST(card AS int64)"] {
        let Ok(scalar) = context().scalar(text, &scope()) else { continue };
        let evaluated = evaluate(&scalar, &empty);
        assert_eq!((evaluated.array.len(), evaluated.errors.len()), (0, 0), "{text}");
        assert_eq!(evaluated.array.data_type(), scalar.data_type(), "{text}");
    }
}

/// A schema of the columns in a list such as `a: int64`, for other tests.
pub(crate) fn schema(fields: Vec<Field>) -> SchemaRef {
    Arc::new(Schema::new(fields))
}
