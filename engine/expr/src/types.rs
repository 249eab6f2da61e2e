//! The names of types: Arrow's as the language writes them, and SQL's as Arrow has them.

use crate::parse::TIMESTAMP_IN;
use arrow::datatypes::{DataType, Field, TimeUnit};
use datafusion_sql::sqlparser::ast::{self, ArrayElemTypeDef, ExactNumberInfo, TimezoneInfo};
use std::sync::Arc;

/// The zone of a timestamp column unless another is said.
pub(crate) const UTC: &str = "UTC";

/// The type of `now()`, `event_time()` and `CAST(x AS timestamp)`: UTC, nanoseconds.
pub(crate) fn timestamp() -> DataType {
    DataType::Timestamp(TimeUnit::Nanosecond, Some(UTC.into()))
}

/// A type as the language writes it: `int64`, `list<string>`, `timestamp(ms, "Europe/Berlin")`.
pub fn type_name(data_type: &DataType) -> String {
    let unit = |unit: &TimeUnit| match unit {
        TimeUnit::Second => "s",
        TimeUnit::Millisecond => "ms",
        TimeUnit::Microsecond => "us",
        TimeUnit::Nanosecond => "ns",
    };
    let named = |field: &Field| match field.is_nullable() {
        true if !field.data_type().is_null() => format!("{} | null", type_name(field.data_type())),
        _ => type_name(field.data_type()),
    };
    match data_type {
        DataType::Null => "null".to_owned(),
        DataType::Boolean => "bool".to_owned(),
        DataType::Int8 => "int8".to_owned(),
        DataType::Int16 => "int16".to_owned(),
        DataType::Int32 => "int32".to_owned(),
        DataType::Int64 => "int64".to_owned(),
        DataType::UInt8 => "uint8".to_owned(),
        DataType::UInt16 => "uint16".to_owned(),
        DataType::UInt32 => "uint32".to_owned(),
        DataType::UInt64 => "uint64".to_owned(),
        DataType::Float16 => "float16".to_owned(),
        DataType::Float32 => "float32".to_owned(),
        DataType::Float64 => "float64".to_owned(),
        DataType::Decimal32(precision, scale)
        | DataType::Decimal64(precision, scale)
        | DataType::Decimal128(precision, scale)
        | DataType::Decimal256(precision, scale) => format!("decimal({precision}, {scale})"),
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => "string".to_owned(),
        DataType::Binary | DataType::LargeBinary | DataType::BinaryView | DataType::FixedSizeBinary(_) => {
            "binary".to_owned()
        }
        DataType::Date32 | DataType::Date64 => "date".to_owned(),
        DataType::Time32(_) | DataType::Time64(_) => "time".to_owned(),
        DataType::Timestamp(ticks, zone) => match (ticks, zone.as_deref()) {
            (TimeUnit::Nanosecond, Some(UTC | "+00:00" | "Z")) => "timestamp".to_owned(),
            (ticks, Some(UTC | "+00:00" | "Z")) => format!("timestamp({})", unit(ticks)),
            (ticks, Some(zone)) => format!("timestamp({}, \"{zone}\")", unit(ticks)),
            (ticks, None) => format!("timestamp({}, no zone)", unit(ticks)),
        },
        DataType::Duration(_) => "duration".to_owned(),
        DataType::Interval(_) => "interval".to_owned(),
        DataType::List(field)
        | DataType::LargeList(field)
        | DataType::ListView(field)
        | DataType::LargeListView(field)
        | DataType::FixedSizeList(field, _) => format!("list<{}>", type_name(field.data_type())),
        DataType::Struct(fields) => {
            let fields: Vec<String> =
                fields.iter().map(|field| format!("{}: {}", field.name(), named(field))).collect();
            format!("{{ {} }}", fields.join(", "))
        }
        DataType::Map(entries, _) => match entries.data_type() {
            DataType::Struct(fields) if fields.len() == 2 => {
                format!("map<{}, {}>", type_name(fields[0].data_type()), type_name(fields[1].data_type()))
            }
            _ => "map".to_owned(),
        },
        DataType::Dictionary(_, value) => type_name(value),
        DataType::RunEndEncoded(_, values) => type_name(values.data_type()),
        DataType::Union(..) => "union".to_owned(),
    }
}

/// The names that a cast takes, for a help.
pub(crate) const CAST_TYPES: &[&str] = &[
    "bool",
    "int8",
    "int16",
    "int32",
    "int64",
    "uint8",
    "uint16",
    "uint32",
    "uint64",
    "float32",
    "float64",
    "decimal",
    "string",
    "binary",
    "date",
    "timestamp",
    "duration",
];

/// The Arrow type of a type in a cast; `None` if the language has none such.
pub(crate) fn cast_type(written: &ast::DataType) -> Option<DataType> {
    use ast::DataType as Sql;
    Some(match written {
        Sql::Bool | Sql::Boolean => DataType::Boolean,
        Sql::Int8(_) | Sql::TinyInt(_) => DataType::Int8,
        Sql::Int16 | Sql::SmallInt(_) | Sql::Int2(_) => DataType::Int16,
        Sql::Int32 | Sql::Int(_) | Sql::Integer(_) | Sql::Int4(_) | Sql::MediumInt(_) => DataType::Int32,
        Sql::Int64 | Sql::BigInt(_) => DataType::Int64,
        Sql::UInt8 | Sql::Int8Unsigned(_) | Sql::TinyIntUnsigned(_) | Sql::UTinyInt => DataType::UInt8,
        Sql::UInt16 | Sql::Int2Unsigned(_) | Sql::SmallIntUnsigned(_) | Sql::USmallInt => DataType::UInt16,
        Sql::UInt32 | Sql::IntUnsigned(_) | Sql::IntegerUnsigned(_) | Sql::Int4Unsigned(_) => DataType::UInt32,
        Sql::UInt64 | Sql::BigIntUnsigned(_) | Sql::UBigInt => DataType::UInt64,
        Sql::Float32 | Sql::Real | Sql::Float4 => DataType::Float32,
        Sql::Float64 | Sql::Float8 | Sql::Double(_) | Sql::DoublePrecision | Sql::Float(_) => DataType::Float64,
        Sql::Decimal(size) | Sql::Numeric(size) | Sql::Dec(size) => decimal(*size)?,
        Sql::String(_)
        | Sql::Text
        | Sql::Varchar(None)
        | Sql::CharacterVarying(None)
        | Sql::CharVarying(None)
        | Sql::Character(None)
        | Sql::Char(None)
        | Sql::JSON => DataType::Utf8,
        Sql::Binary(None) | Sql::Varbinary(None) | Sql::Bytea | Sql::Bytes(None) | Sql::Blob(None) => DataType::Binary,
        Sql::Date => DataType::Date32,
        Sql::Timestamp(precision, zone) => {
            let unit = unit_of(*precision)?;
            match zone {
                TimezoneInfo::WithoutTimeZone => DataType::Timestamp(unit, None),
                _ => DataType::Timestamp(unit, Some(UTC.into())),
            }
        }
        Sql::Datetime(precision) => DataType::Timestamp(unit_of(*precision)?, Some(UTC.into())),
        Sql::Array(ArrayElemTypeDef::AngleBracket(item) | ArrayElemTypeDef::SquareBracket(item, None)) => {
            DataType::List(Arc::new(Field::new_list_field(cast_type(item)?, true)))
        }
        Sql::Custom(name, arguments) if arguments.is_empty() => match name.to_string().to_ascii_lowercase().as_str() {
            "duration" => DataType::Duration(TimeUnit::Nanosecond),
            _ => return None,
        },
        Sql::Custom(name, arguments) if name.to_string() == TIMESTAMP_IN => {
            let unit = match arguments.first()?.as_str() {
                "s" => TimeUnit::Second,
                "ms" => TimeUnit::Millisecond,
                "us" => TimeUnit::Microsecond,
                "ns" => TimeUnit::Nanosecond,
                _ => return None,
            };
            let zone = match arguments.get(1..)? {
                [] => UTC,
                [zone] if zone.parse::<arrow::array::timezone::Tz>().is_ok() => zone,
                _ => return None,
            };
            DataType::Timestamp(unit, Some(zone.into()))
        }
        _ => return None,
    })
}

fn unit_of(precision: Option<u64>) -> Option<TimeUnit> {
    match precision {
        None | Some(9) => Some(TimeUnit::Nanosecond),
        Some(6) => Some(TimeUnit::Microsecond),
        Some(3) => Some(TimeUnit::Millisecond),
        Some(0) => Some(TimeUnit::Second),
        Some(_) => None,
    }
}

fn decimal(size: ExactNumberInfo) -> Option<DataType> {
    let (precision, scale) = match size {
        ExactNumberInfo::None => (38, 10),
        ExactNumberInfo::Precision(precision) => (precision, 0),
        ExactNumberInfo::PrecisionAndScale(precision, scale) => (precision, scale),
    };
    let (precision, scale) = (u8::try_from(precision).ok()?, i8::try_from(scale).ok()?);
    ((1..=38).contains(&precision) && scale >= 0 && scale.unsigned_abs() <= precision)
        .then_some(DataType::Decimal128(precision, scale))
}

/// The type that a computed value has as a column: the language knows one string, one list and so on, where Arrow and
/// DataFusion have several. `None` where the language has no such type.
pub(crate) fn column_type(computed: &DataType) -> Option<DataType> {
    let item = |field: &Field| Some(Arc::new(field.clone().with_data_type(column_type(field.data_type())?)));
    Some(match computed {
        DataType::Null | DataType::Interval(_) | DataType::Time32(_) | DataType::Time64(_) => return None,
        DataType::Union(..) => return None,
        DataType::LargeUtf8 | DataType::Utf8View => DataType::Utf8,
        DataType::LargeBinary | DataType::BinaryView | DataType::FixedSizeBinary(_) => DataType::Binary,
        DataType::Float16 => DataType::Float32,
        DataType::Date64 => DataType::Date32,
        DataType::Duration(_) => DataType::Duration(TimeUnit::Nanosecond),
        DataType::Decimal32(precision, scale) | DataType::Decimal64(precision, scale) => {
            DataType::Decimal128(*precision, *scale)
        }
        DataType::Decimal256(_, scale) => DataType::Decimal128(38, *scale),
        DataType::Timestamp(unit, None) => DataType::Timestamp(*unit, Some(UTC.into())),
        DataType::Timestamp(unit, Some(zone)) if zone.as_ref() == "+00:00" => {
            DataType::Timestamp(*unit, Some(UTC.into()))
        }
        DataType::Dictionary(_, value) => column_type(value)?,
        DataType::RunEndEncoded(_, values) => column_type(values.data_type())?,
        DataType::List(field)
        | DataType::LargeList(field)
        | DataType::ListView(field)
        | DataType::LargeListView(field)
        | DataType::FixedSizeList(field, _) => DataType::List(item(field)?),
        DataType::Struct(fields) => DataType::Struct(fields.iter().map(|field| item(field)).collect::<Option<_>>()?),
        DataType::Map(entries, sorted) => DataType::Map(item(entries)?, *sorted),
        other => other.clone(),
    })
}
