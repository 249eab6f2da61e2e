//! The values of an Arrow array as text: the shared half of the JSON and CSV encoders.
//!
//! An array is looked at once a batch (its type, its nulls, whether any of its strings needs an escape), so that a value
//! costs little more than its bytes. Types that the language does not have, but an expression may give, are written too.

use super::json::stop_of_string;
use super::text;
use super::{Timestamps, is_json};
use arrow::array::timezone::Tz;
use arrow::array::types::{
    ArrowPrimitiveType, Date32Type, Date64Type, Decimal128Type, DurationMicrosecondType, DurationMillisecondType,
    DurationNanosecondType, DurationSecondType, Float32Type, Float64Type, Int8Type, Int16Type, Int32Type, Int64Type,
    TimestampMicrosecondType, TimestampMillisecondType, TimestampNanosecondType, TimestampSecondType, UInt8Type,
    UInt16Type, UInt32Type, UInt64Type,
};
use arrow::array::{Array, ArrayRef, AsArray, BooleanArray};
use arrow::buffer::{Buffer, NullBuffer, OffsetBuffer, ScalarBuffer};
use arrow::datatypes::{DataType, Field, TimeUnit};
use arrow::util::display::{ArrayFormatter, FormatOptions};

/// An array, ready to be written value by value.
pub struct Values {
    nulls: Option<NullBuffer>,
    kind: Kind,
}

enum Kind {
    Null,
    Bool(BooleanArray),
    Int8(ScalarBuffer<i8>),
    Int16(ScalarBuffer<i16>),
    Int32(ScalarBuffer<i32>),
    Int64(ScalarBuffer<i64>),
    UInt8(ScalarBuffer<u8>),
    UInt16(ScalarBuffer<u16>),
    UInt32(ScalarBuffer<u32>),
    UInt64(ScalarBuffer<u64>),
    Float32(ScalarBuffer<f32>),
    Float64(ScalarBuffer<f64>),
    Decimal(ScalarBuffer<i128>, i8),
    Date(ScalarBuffer<i32>),
    Time(ScalarBuffer<i64>, TimeUnit, Option<Tz>),
    /// Milliseconds since 1970 as a number.
    Epoch(ScalarBuffer<i64>, TimeUnit),
    Duration(ScalarBuffer<i64>, TimeUnit),
    String {
        ends: OffsetBuffer<i32>,
        bytes: Buffer,
        plain: bool,
    },
    Json {
        ends: OffsetBuffer<i32>,
        bytes: Buffer,
    },
    Binary(ArrayRef),
    List {
        ends: OffsetBuffer<i32>,
        items: Box<Values>,
    },
    Map {
        ends: OffsetBuffer<i32>,
        keys: Box<Values>,
        values: Box<Values>,
    },
    Struct(Vec<(Vec<u8>, Values)>),
    /// A type that only arrow knows how to write.
    Other(ArrayRef),
}

impl Values {
    /// Looks at an array. Dictionaries, views and the like are brought to their plain form first.
    pub fn new(field: &Field, array: &ArrayRef, timestamps: Timestamps) -> Result<Self, String> {
        let plain = plain_type(array.data_type());
        let cast;
        let array = if let Some(plain) = &plain {
            cast = arrow::compute::cast(array, plain).map_err(|error| error.to_string())?;
            &cast
        } else {
            array
        };
        Ok(Values { nulls: array.logical_nulls(), kind: Kind::of(field, array, timestamps)? })
    }

    /// Whether a value is null.
    #[inline(always)]
    pub fn is_null(&self, row: usize) -> bool {
        matches!(self.kind, Kind::Null) || self.nulls.as_ref().is_some_and(|nulls| nulls.is_null(row))
    }

    /// Whether the text of a value is plain: no quote, delimiter or line end can stand in it.
    pub fn is_simple(&self) -> bool {
        !matches!(
            self.kind,
            Kind::String { .. }
                | Kind::Json { .. }
                | Kind::List { .. }
                | Kind::Map { .. }
                | Kind::Struct(_)
                | Kind::Other(_)
        )
    }

    /// Appends a value as JSON.
    #[inline]
    pub fn write_json(&self, row: usize, out: &mut Vec<u8>) {
        if self.is_null(row) {
            out.extend_from_slice(b"null");
            return;
        }
        match &self.kind {
            Kind::Int64(values) => write_int(out, values[row]),
            Kind::String { ends, bytes, plain } => {
                let value = &bytes[ends[row] as usize..ends[row + 1] as usize];
                out.push(b'"');
                if *plain {
                    out.extend_from_slice(value);
                } else {
                    escape(out, value);
                }
                out.push(b'"');
            }
            Kind::Float64(values) => write_double(out, values[row]),
            _ => self.write_other(row, out),
        }
    }

    #[inline(never)]
    fn write_other(&self, row: usize, out: &mut Vec<u8>) {
        match &self.kind {
            Kind::Json { ends, bytes } => {
                let from = out.len();
                out.extend_from_slice(&bytes[ends[row] as usize..ends[row + 1] as usize]);
                // Outside of strings, where JSON has no line ends, they are white space; a record is one line.
                out[from..].iter_mut().filter(|byte| matches!(byte, b'\n' | b'\r')).for_each(|byte| *byte = b' ');
            }
            Kind::Date(_) | Kind::Time(..) | Kind::Duration(..) | Kind::Binary(_) => {
                out.push(b'"');
                self.write_plain(row, out);
                out.push(b'"');
            }
            Kind::Other(values) if matches!(values.data_type(), DataType::Decimal256(..)) => self.write_plain(row, out),
            Kind::Other(_) => {
                let mut text = Vec::new();
                self.write_plain(row, &mut text);
                out.push(b'"');
                escape(out, &text);
                out.push(b'"');
            }
            Kind::List { ends, items } => {
                out.push(b'[');
                let range = ends[row] as usize..ends[row + 1] as usize;
                for at in range.clone() {
                    if at > range.start {
                        out.push(b',');
                    }
                    items.write_json(at, out);
                }
                out.push(b']');
            }
            Kind::Map { ends, keys, values } => {
                out.push(b'{');
                let range = ends[row] as usize..ends[row + 1] as usize;
                for at in range.clone() {
                    if at > range.start {
                        out.push(b',');
                    }
                    let mut key = Vec::new();
                    keys.write_plain(at, &mut key);
                    out.push(b'"');
                    escape(out, &key);
                    out.extend_from_slice(b"\":");
                    values.write_json(at, out);
                }
                out.push(b'}');
            }
            Kind::Struct(fields) => {
                for (prefix, values) in fields {
                    out.extend_from_slice(prefix);
                    values.write_json(row, out);
                }
                out.extend_from_slice(if fields.is_empty() { b"{}" } else { b"}" });
            }
            Kind::Float32(values) if !values[row].is_finite() => write_word(out, f64::from(values[row])),
            _ => self.write_plain(row, out),
        }
    }

    /// Appends a value that is not null as bare text: a string without quotes, nested values as JSON.
    pub fn write_plain(&self, row: usize, out: &mut Vec<u8>) {
        match &self.kind {
            Kind::Null => (),
            Kind::Bool(values) => out.extend_from_slice(if values.value(row) { b"true" } else { b"false" }),
            Kind::Int8(values) => write_int(out, values[row]),
            Kind::Int16(values) => write_int(out, values[row]),
            Kind::Int32(values) => write_int(out, values[row]),
            Kind::Int64(values) | Kind::Epoch(values, TimeUnit::Millisecond) => write_int(out, values[row]),
            Kind::UInt8(values) => write_int(out, values[row]),
            Kind::UInt16(values) => write_int(out, values[row]),
            Kind::UInt32(values) => write_int(out, values[row]),
            Kind::UInt64(values) => write_int(out, values[row]),
            Kind::Float32(values) if values[row].is_finite() => {
                out.extend_from_slice(zmij::Buffer::new().format_finite(values[row]).as_bytes());
            }
            Kind::Float64(values) if values[row].is_finite() => {
                out.extend_from_slice(zmij::Buffer::new().format_finite(values[row]).as_bytes());
            }
            Kind::Float32(values) => out.extend_from_slice(word(f64::from(values[row])).as_bytes()),
            Kind::Float64(values) => out.extend_from_slice(word(values[row]).as_bytes()),
            Kind::Decimal(values, scale) => text::write_decimal(out, values[row], *scale),
            Kind::Date(values) => text::write_date(out, i64::from(values[row])),
            Kind::Time(values, unit, zone) => text::write_timestamp(out, values[row], *unit, zone.as_ref()),
            Kind::Epoch(values, unit) => {
                let ms = i128::from(values[row]) * 1_000;
                write_int(out, ms.div_euclid(i128::from(text::per_second(*unit))));
            }
            Kind::Duration(values, unit) => text::write_duration(out, values[row], *unit),
            Kind::String { ends, bytes, .. } => {
                out.extend_from_slice(&bytes[ends[row] as usize..ends[row + 1] as usize])
            }
            Kind::Binary(values) => text::write_base64(out, bytes_of(values, row)),
            Kind::Other(values) => {
                let options = FormatOptions::default();
                if let Ok(formatter) = ArrayFormatter::try_new(values.as_ref(), &options) {
                    out.extend_from_slice(formatter.value(row).to_string().as_bytes());
                }
            }
            Kind::Json { .. } | Kind::List { .. } | Kind::Map { .. } | Kind::Struct(_) => self.write_other(row, out),
        }
    }
}

impl Kind {
    fn of(field: &Field, array: &ArrayRef, timestamps: Timestamps) -> Result<Self, String> {
        let child = |field: &Field, array: &ArrayRef| Values::new(field, array, timestamps).map(Box::new);
        Ok(match array.data_type() {
            DataType::Null => Kind::Null,
            DataType::Boolean => Kind::Bool(array.as_boolean().clone()),
            DataType::Int8 => Kind::Int8(values::<Int8Type>(array)),
            DataType::Int16 => Kind::Int16(values::<Int16Type>(array)),
            DataType::Int32 => Kind::Int32(values::<Int32Type>(array)),
            DataType::Int64 => Kind::Int64(values::<Int64Type>(array)),
            DataType::UInt8 => Kind::UInt8(values::<UInt8Type>(array)),
            DataType::UInt16 => Kind::UInt16(values::<UInt16Type>(array)),
            DataType::UInt32 => Kind::UInt32(values::<UInt32Type>(array)),
            DataType::UInt64 => Kind::UInt64(values::<UInt64Type>(array)),
            DataType::Float32 => Kind::Float32(values::<Float32Type>(array)),
            DataType::Float64 => Kind::Float64(values::<Float64Type>(array)),
            DataType::Decimal128(_, scale) => Kind::Decimal(values::<Decimal128Type>(array), *scale),
            DataType::Date32 => Kind::Date(values::<Date32Type>(array)),
            DataType::Date64 => Kind::Time(values::<Date64Type>(array), TimeUnit::Millisecond, None),
            DataType::Timestamp(unit, zone) => {
                let values = match unit {
                    TimeUnit::Second => values::<TimestampSecondType>(array),
                    TimeUnit::Millisecond => values::<TimestampMillisecondType>(array),
                    TimeUnit::Microsecond => values::<TimestampMicrosecondType>(array),
                    TimeUnit::Nanosecond => values::<TimestampNanosecondType>(array),
                };
                match timestamps {
                    Timestamps::Rfc3339 => Kind::Time(values, *unit, text::zone_of(zone.as_deref())?),
                    Timestamps::EpochMs => Kind::Epoch(values, *unit),
                }
            }
            DataType::Duration(unit) => {
                let values = match unit {
                    TimeUnit::Second => values::<DurationSecondType>(array),
                    TimeUnit::Millisecond => values::<DurationMillisecondType>(array),
                    TimeUnit::Microsecond => values::<DurationMicrosecondType>(array),
                    TimeUnit::Nanosecond => values::<DurationNanosecondType>(array),
                };
                Kind::Duration(values, *unit)
            }
            DataType::Utf8 => {
                let strings = array.as_string::<i32>();
                let (ends, bytes) = (strings.offsets().clone(), strings.values().clone());
                if is_json(field) {
                    return Ok(Kind::Json { ends, bytes });
                }
                let used = &bytes[ends[0] as usize..ends[ends.len() - 1] as usize];
                let plain = stop_of_string(used, 0).0 == used.len();
                Kind::String { ends, bytes, plain }
            }
            DataType::Binary | DataType::LargeBinary | DataType::FixedSizeBinary(_) => Kind::Binary(array.clone()),
            DataType::List(item) => {
                let list = array.as_list::<i32>();
                Kind::List { ends: list.offsets().clone(), items: child(item, list.values())? }
            }
            DataType::Map(_, _) => {
                let map = array.as_map();
                let fields = map.entries().fields();
                Kind::Map {
                    ends: map.offsets().clone(),
                    keys: child(&fields[0], map.keys())?,
                    values: child(&fields[1], map.values())?,
                }
            }
            DataType::Struct(fields) => {
                let columns = array.as_struct().columns();
                let prefixes = prefixes(fields.iter().map(|field| field.name().as_str()));
                let values = fields.iter().zip(columns).map(|(field, column)| Values::new(field, column, timestamps));
                Kind::Struct(
                    prefixes
                        .into_iter()
                        .zip(values)
                        .map(|(prefix, values)| Ok((prefix, values?)))
                        .collect::<Result<_, String>>()?,
                )
            }
            _ => Kind::Other(array.clone()),
        })
    }
}

/// What stands before each value of an object: the brace or a comma, and the key, escaped.
pub fn prefixes<'a>(names: impl Iterator<Item = &'a str>) -> Vec<Vec<u8>> {
    let prefix = |(at, name): (usize, &str)| {
        let mut prefix = vec![if at == 0 { b'{' } else { b',' }, b'"'];
        escape(&mut prefix, name.as_bytes());
        prefix.extend_from_slice(b"\":");
        prefix
    };
    names.enumerate().map(prefix).collect()
}

/// Appends text with what JSON wants escaped.
pub fn escape(out: &mut Vec<u8>, text: &[u8]) {
    let mut done = 0;
    loop {
        let (stop, _) = stop_of_string(text, done);
        out.extend_from_slice(&text[done..stop]);
        let Some(byte) = text.get(stop) else { return };
        match byte {
            b'"' => out.extend_from_slice(b"\\\""),
            b'\\' => out.extend_from_slice(b"\\\\"),
            b'\n' => out.extend_from_slice(b"\\n"),
            b'\r' => out.extend_from_slice(b"\\r"),
            b'\t' => out.extend_from_slice(b"\\t"),
            other => out.extend_from_slice(format!("\\u{other:04x}").as_bytes()),
        }
        done = stop + 1;
    }
}

#[inline(always)]
fn write_int(out: &mut Vec<u8>, value: impl itoa::Integer) {
    out.extend_from_slice(itoa::Buffer::new().format(value).as_bytes());
}

/// A short text that is appended often: as a whole block, of which the rest is cut off, instead of byte by byte.
#[derive(Debug)]
pub struct Short {
    block: [u8; Short::MAX],
    len: usize,
    /// What does not fit the block.
    long: Option<Vec<u8>>,
}

impl Short {
    const MAX: usize = 32;

    /// Of any text.
    pub fn new(text: &[u8]) -> Self {
        let mut block = [0; Short::MAX];
        match block.get_mut(..text.len()) {
            Some(part) => {
                part.copy_from_slice(text);
                Short { block, len: text.len(), long: None }
            }
            None => Short { block, len: 0, long: Some(text.to_vec()) },
        }
    }

    /// Appends it.
    #[inline(always)]
    pub fn write(&self, out: &mut Vec<u8>) {
        match &self.long {
            None => {
                let end = out.len() + self.len;
                out.extend_from_slice(&self.block);
                out.truncate(end);
            }
            Some(text) => out.extend_from_slice(text),
        }
    }
}

#[inline(always)]
fn write_double(out: &mut Vec<u8>, value: f64) {
    if value.is_finite() {
        out.extend_from_slice(zmij::Buffer::new().format_finite(value).as_bytes());
    } else {
        write_word(out, value);
    }
}

/// JSON has no number for what is not finite: a string stands for it, as in the JSON of protocol buffers.
#[cold]
fn write_word(out: &mut Vec<u8>, value: f64) {
    out.push(b'"');
    out.extend_from_slice(word(value).as_bytes());
    out.push(b'"');
}

/// The name of what is not finite.
fn word(value: f64) -> &'static str {
    match value {
        value if value.is_nan() => "NaN",
        value if value > 0.0 => "Infinity",
        _ => "-Infinity",
    }
}

fn values<T: ArrowPrimitiveType>(array: &ArrayRef) -> ScalarBuffer<T::Native> {
    array.as_primitive::<T>().values().clone()
}

fn bytes_of(array: &ArrayRef, row: usize) -> &[u8] {
    match array.data_type() {
        DataType::Binary => array.as_binary::<i32>().value(row),
        DataType::LargeBinary => array.as_binary::<i64>().value(row),
        _ => array.as_fixed_size_binary().value(row),
    }
}

/// The type that an array of another layout is brought to.
fn plain_type(data_type: &DataType) -> Option<DataType> {
    match data_type {
        DataType::Utf8View | DataType::LargeUtf8 => Some(DataType::Utf8),
        DataType::BinaryView => Some(DataType::Binary),
        DataType::Float16 => Some(DataType::Float32),
        DataType::Decimal32(precision, scale) | DataType::Decimal64(precision, scale) => {
            Some(DataType::Decimal128(*precision, *scale))
        }
        DataType::Dictionary(_, values) => Some(plain_type(values).unwrap_or_else(|| values.as_ref().clone())),
        DataType::RunEndEncoded(_, values) => Some(values.data_type().clone()),
        DataType::LargeList(item)
        | DataType::FixedSizeList(item, _)
        | DataType::ListView(item)
        | DataType::LargeListView(item) => Some(DataType::List(item.clone())),
        _ => None,
    }
}
