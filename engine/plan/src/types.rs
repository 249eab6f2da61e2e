//! Column types as they are written, and as Arrow has them.
//!
//! A `timestamp` without a zone is in UTC. A `json` column is text whose field says so with Arrow's own extension type
//! `arrow.json`: decoders keep any JSON value's text in it, encoders put it out as JSON rather than as a quoted text.

use arrow::datatypes::{DataType, Field, FieldRef, Fields, Schema, SchemaRef, TimeUnit};
use engine_spec::types::TimeUnit as WrittenUnit;
use engine_spec::{ColumnType, FieldSpec, SchemaSpec};
use std::collections::BTreeSet;
use std::sync::Arc;

/// The zone of a timestamp for which none was written.
pub const UTC: &str = "UTC";

const EXTENSION_NAME: &str = "ARROW:extension:name";
const JSON_EXTENSION: &str = "arrow.json";

/// The columns of a written schema.
pub fn schema(written: &SchemaSpec) -> SchemaRef {
    Arc::new(Schema::new(written.fields.iter().map(|(name, spec, _)| field(name, spec)).collect::<Vec<_>>()))
}

/// A column of a written type.
pub fn field(name: &str, written: &FieldSpec) -> Field {
    let field = Field::new(name, data_type(&written.ty), written.nullable);
    if written.ty == ColumnType::Json { json(field) } else { field }
}

/// The Arrow type of a written type.
pub fn data_type(written: &ColumnType) -> DataType {
    match written {
        ColumnType::Bool => DataType::Boolean,
        ColumnType::Int8 => DataType::Int8,
        ColumnType::Int16 => DataType::Int16,
        ColumnType::Int32 => DataType::Int32,
        ColumnType::Int64 => DataType::Int64,
        ColumnType::UInt8 => DataType::UInt8,
        ColumnType::UInt16 => DataType::UInt16,
        ColumnType::UInt32 => DataType::UInt32,
        ColumnType::UInt64 => DataType::UInt64,
        ColumnType::Float32 => DataType::Float32,
        ColumnType::Float64 => DataType::Float64,
        ColumnType::Decimal(precision, scale) if *precision <= 38 => DataType::Decimal128(*precision, *scale),
        ColumnType::Decimal(precision, scale) => DataType::Decimal256(*precision, *scale),
        ColumnType::String | ColumnType::Json => DataType::Utf8,
        ColumnType::Binary => DataType::Binary,
        ColumnType::Date => DataType::Date32,
        ColumnType::Timestamp { unit, zone } => {
            DataType::Timestamp(time_unit(*unit), Some(zone.as_deref().unwrap_or(UTC).into()))
        }
        ColumnType::Duration => DataType::Duration(TimeUnit::Nanosecond),
        ColumnType::List(item) => DataType::List(Arc::new(field(Field::LIST_FIELD_DEFAULT_NAME, item))),
        ColumnType::Map(key, value) => {
            let key = Field::new("key", data_type(key), false);
            let entries = DataType::Struct(vec![key, field("value", value)].into());
            DataType::Map(Arc::new(Field::new("entries", entries, false)), false)
        }
        ColumnType::Struct(fields) => {
            DataType::Struct(fields.iter().map(|(name, spec)| field(name, spec)).collect::<Fields>())
        }
    }
}

fn time_unit(written: WrittenUnit) -> TimeUnit {
    match written {
        WrittenUnit::S => TimeUnit::Second,
        WrittenUnit::Ms => TimeUnit::Millisecond,
        WrittenUnit::Us => TimeUnit::Microsecond,
        WrittenUnit::Ns => TimeUnit::Nanosecond,
    }
}

/// Marks a text column as JSON.
pub fn json(field: Field) -> Field {
    let mut metadata = field.metadata().clone();
    metadata.insert(EXTENSION_NAME.to_owned(), JSON_EXTENSION.to_owned());
    field.with_metadata(metadata)
}

/// Whether the text of a column is JSON.
pub fn is_json(field: &Field) -> bool {
    field.metadata().get(EXTENSION_NAME).is_some_and(|name| name == JSON_EXTENSION)
}

/// A column's type as the language writes it: `int64`, `string | null`, `list<float32>`, `{ a: json }`.
pub fn column_text(field: &Field) -> String {
    let text = if is_json(field) { "json".to_owned() } else { type_text(field.data_type()) };
    if field.is_nullable() && *field.data_type() != DataType::Null { format!("{text} | null") } else { text }
}

/// A type as the language writes it. A type that the language can't write has Arrow's name.
pub fn type_text(data_type: &DataType) -> String {
    match data_type {
        DataType::Null => "null".into(),
        DataType::Boolean => "bool".into(),
        DataType::Int8 => "int8".into(),
        DataType::Int16 => "int16".into(),
        DataType::Int32 => "int32".into(),
        DataType::Int64 => "int64".into(),
        DataType::UInt8 => "uint8".into(),
        DataType::UInt16 => "uint16".into(),
        DataType::UInt32 => "uint32".into(),
        DataType::UInt64 => "uint64".into(),
        DataType::Float16 => "float16".into(),
        DataType::Float32 => "float32".into(),
        DataType::Float64 => "float64".into(),
        DataType::Decimal32(precision, scale)
        | DataType::Decimal64(precision, scale)
        | DataType::Decimal128(precision, scale)
        | DataType::Decimal256(precision, scale) => format!("decimal({precision}, {scale})"),
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => "string".into(),
        DataType::Binary | DataType::LargeBinary | DataType::BinaryView | DataType::FixedSizeBinary(_) => {
            "binary".into()
        }
        DataType::Date32 | DataType::Date64 => "date".into(),
        DataType::Timestamp(unit, zone) => timestamp_text(*unit, zone.as_deref()),
        DataType::Duration(_) => "duration".into(),
        DataType::Interval(_) => "interval".into(),
        DataType::List(item)
        | DataType::LargeList(item)
        | DataType::FixedSizeList(item, _)
        | DataType::ListView(item)
        | DataType::LargeListView(item) => format!("list<{}>", column_text(item)),
        DataType::Map(entries, _) => match entries.data_type() {
            DataType::Struct(fields) if fields.len() == 2 => {
                format!("map<{}, {}>", type_text(fields[0].data_type()), column_text(&fields[1]))
            }
            other => format!("map<{other}>"),
        },
        DataType::Struct(fields) => {
            let fields: Vec<String> =
                fields.iter().map(|field| format!("{}: {}", field.name(), column_text(field))).collect();
            format!("{{ {} }}", fields.join(", "))
        }
        DataType::Dictionary(_, value) => type_text(value),
        DataType::RunEndEncoded(_, value) => type_text(value.data_type()),
        other => other.to_string(),
    }
}

fn timestamp_text(unit: TimeUnit, zone: Option<&str>) -> String {
    let unit = match unit {
        TimeUnit::Second => "s",
        TimeUnit::Millisecond => "ms",
        TimeUnit::Microsecond => "us",
        TimeUnit::Nanosecond => "ns",
    };
    match (unit, zone) {
        ("ns", None | Some(UTC | "+00:00")) => "timestamp".into(),
        (unit, None | Some(UTC | "+00:00")) => format!("timestamp({unit})"),
        (unit, Some(zone)) => format!("timestamp({unit}, \"{zone}\")"),
    }
}

/// Why values of a type can't be a key, or `None` where they can.
///
/// A key must have one form for each value, on every machine: floats have two zeros and many NaNs, and the entries of a
/// map no order.
pub fn unhashable(data_type: &DataType) -> Option<&'static str> {
    match data_type {
        DataType::Float16 | DataType::Float32 | DataType::Float64 => {
            Some("floats that look alike may differ in their last bit")
        }
        DataType::Map(..) => Some("the entries of a map have no order"),
        DataType::Union(..) | DataType::ListView(_) | DataType::LargeListView(_) => Some("its values have no one form"),
        DataType::List(item) | DataType::LargeList(item) | DataType::FixedSizeList(item, _) => {
            unhashable(item.data_type())
        }
        DataType::Struct(fields) => fields.iter().find_map(|field| unhashable(field.data_type())),
        DataType::Dictionary(_, value) => unhashable(value),
        DataType::RunEndEncoded(_, value) => unhashable(value.data_type()),
        _ => None,
    }
}

/// The same columns, of which some are now known not to be null: what a filter leaves (see
/// [`engine_expr::Scalar::non_null_when_true`]).
pub fn narrow(schema: &SchemaRef, non_null: &BTreeSet<String>) -> SchemaRef {
    let narrows = |field: &FieldRef| field.is_nullable() && non_null.contains(field.name());
    if !schema.fields().iter().any(narrows) {
        return schema.clone();
    }
    let fields: Vec<FieldRef> = schema
        .fields()
        .iter()
        .map(|field| if narrows(field) { Arc::new(field.as_ref().clone().with_nullable(false)) } else { field.clone() })
        .collect();
    Arc::new(Schema::new_with_metadata(fields, schema.metadata().clone()))
}

/// The columns of a changelog where it leaves the engine: what becomes of each row stands before them.
pub fn with_change(columns: &SchemaRef) -> SchemaRef {
    let change = Arc::new(Field::new(engine_base::CHANGE_COLUMN, DataType::Utf8, false));
    Arc::new(Schema::new(std::iter::once(change).chain(columns.fields().iter().cloned()).collect::<Vec<_>>()))
}

/// The columns of every `name.errors`, in this order. The dataflow makes rows of just this schema.
pub fn error_schema() -> SchemaRef {
    let text = |name: &str| Field::new(name, DataType::Utf8, false);
    Arc::new(Schema::new(vec![
        text("step"),
        text("code"),
        text("reason"),
        text("payload"),
        text("position"),
        Field::new("at", DataType::Timestamp(TimeUnit::Nanosecond, Some(UTC.into())), false),
    ]))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(ty: ColumnType, nullable: bool) -> FieldSpec {
        FieldSpec { ty, nullable }
    }

    #[test]
    fn a_type_is_shown_as_it_is_written() {
        let check = |written: FieldSpec, text: &str| assert_eq!(column_text(&field("x", &written)), text);
        check(spec(ColumnType::Int64, false), "int64");
        check(spec(ColumnType::String, true), "string | null");
        check(spec(ColumnType::Json, true), "json | null");
        check(spec(ColumnType::Decimal(18, 2), false), "decimal(18, 2)");
        check(spec(ColumnType::Decimal(60, 2), false), "decimal(60, 2)");
        check(spec(ColumnType::Timestamp { unit: WrittenUnit::Ns, zone: None }, false), "timestamp");
        check(spec(ColumnType::Timestamp { unit: WrittenUnit::Ms, zone: None }, false), "timestamp(ms)");
        check(
            spec(ColumnType::Timestamp { unit: WrittenUnit::Ms, zone: Some("Europe/Berlin".into()) }, false),
            "timestamp(ms, \"Europe/Berlin\")",
        );
        check(spec(ColumnType::List(Box::new(spec(ColumnType::Float32, true))), false), "list<float32 | null>");
        check(
            spec(ColumnType::Map(Box::new(ColumnType::String), Box::new(spec(ColumnType::Json, false))), true),
            "map<string, json> | null",
        );
        check(spec(ColumnType::Struct(vec![("a".into(), spec(ColumnType::Date, false))]), false), "{ a: date }");
    }

    #[test]
    fn floats_and_maps_are_no_keys_wherever_they_hide() {
        let hidden = ColumnType::List(Box::new(spec(ColumnType::Float64, false)));
        assert!(unhashable(&data_type(&hidden)).is_some());
        assert!(unhashable(&data_type(&ColumnType::Decimal(9, 2))).is_none());
        let map = ColumnType::Map(Box::new(ColumnType::String), Box::new(spec(ColumnType::Int64, false)));
        assert!(unhashable(&data_type(&ColumnType::Struct(vec![("m".into(), spec(map, false))]))).is_some());
    }
}
