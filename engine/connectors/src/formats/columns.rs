//! Columns that grow by one value a record, lose a failed record again, and become Arrow arrays without being copied.
//!
//! Every decoder writes into these. A column knows its type and whether it may be null; it takes values of its own type
//! ([`Column::push_long`] and its like, checked for range), or text ([`Column::push_text`]) for formats that have nothing else.

use super::text;
use super::{RecordError, is_json};
use arrow::array::timezone::Tz;
use arrow::array::{
    ArrayRef, BinaryArray, BooleanArray, BooleanBufferBuilder, Date32Array, Decimal128Array, Float32Array,
    Float64Array, Int8Array, Int16Array, Int32Array, Int64Array, ListArray, MapArray, StringArray, StructArray,
    UInt8Array, UInt16Array, UInt32Array, UInt64Array, make_array, new_empty_array,
};
use arrow::buffer::{Buffer, NullBuffer, OffsetBuffer, ScalarBuffer};
use arrow::datatypes::{DataType, Field, Fields, TimeUnit};
use std::sync::Arc;

type Result<T> = std::result::Result<T, Box<RecordError>>;

/// One growing column.
#[derive(Debug)]
pub struct Column {
    field: Arc<Field>,
    kind: Kind,
    data: Data,
    /// A bit for each value, from the first null on.
    validity: Option<BooleanBufferBuilder>,
    /// Room that the last batch took, in values and bytes, as a guess for the next.
    last: (usize, usize),
}

/// What values mean: enough to read one from text or from a typed value.
#[derive(Debug)]
pub enum Kind {
    /// True or false.
    Bool,
    /// A whole number of at most 64 bits with a sign, or of at most 32 without, and its range.
    Int {
        /// The least value.
        min: i64,
        /// The greatest value.
        max: i64,
        /// The name of the type in the language.
        name: &'static str,
    },
    /// `uint64`
    UInt64,
    /// `float32`
    Float32,
    /// `float64`
    Float64,
    /// A decimal of at most 38 digits.
    Decimal {
        /// Digits in all.
        precision: u8,
        /// Digits behind the point.
        scale: i8,
    },
    /// Text.
    String,
    /// Bytes, as base64 in text.
    Binary,
    /// Days since 1970-01-01.
    Date,
    /// Ticks since 1970-01-01 UTC.
    Timestamp {
        /// A tick.
        unit: TimeUnit,
        /// The zone of a text without one, where it is not UTC.
        zone: Option<Tz>,
    },
    /// Ticks.
    Duration {
        /// A tick.
        unit: TimeUnit,
    },
    /// Text that holds JSON.
    Json,
    /// Values of one type.
    List,
    /// Keys and values.
    Map,
    /// Named fields.
    Struct,
}

/// Where values are kept. Small integers are kept wide and narrowed at the end, so that one path takes them all.
#[derive(Debug)]
pub enum Data {
    /// Bits.
    Bool(BooleanBufferBuilder),
    /// Whole numbers, dates, times and durations.
    Long(Vec<i64>),
    /// `uint64`
    ULong(Vec<u64>),
    /// `float32`
    Float(Vec<f32>),
    /// `float64`
    Double(Vec<f64>),
    /// Decimals.
    Wide(Vec<i128>),
    /// Text and bytes: where each value ends, after a zero.
    Bytes {
        /// Ends.
        ends: Vec<i32>,
        /// All values.
        bytes: Vec<u8>,
    },
    /// Lists and maps: where each ends, after a zero.
    Many {
        /// Ends.
        ends: Vec<i32>,
        /// The column of a list's items, or those of a map's keys and values.
        children: Vec<Column>,
    },
    /// Structs.
    Struct {
        /// The columns of the fields.
        children: Vec<Column>,
        /// How many.
        len: usize,
    },
}

impl Column {
    /// An empty column. A sentence if no format can read the type.
    pub fn new(field: &Arc<Field>) -> std::result::Result<Self, String> {
        let (kind, data) = kind_and_data(field)?;
        Ok(Column { field: field.clone(), kind, data, validity: None, last: (0, 0) })
    }

    /// Its name.
    pub fn name(&self) -> &str {
        self.field.name()
    }

    /// Whether a value may be null.
    pub fn is_nullable(&self) -> bool {
        self.field.is_nullable()
    }

    /// What its values mean.
    #[inline(always)]
    pub fn kind(&self) -> &Kind {
        &self.kind
    }

    /// How many values.
    #[inline(always)]
    pub fn count(&self) -> usize {
        match &self.data {
            Data::Bool(bits) => bits.len(),
            Data::Long(values) => values.len(),
            Data::ULong(values) => values.len(),
            Data::Float(values) => values.len(),
            Data::Double(values) => values.len(),
            Data::Wide(values) => values.len(),
            Data::Bytes { ends, .. } | Data::Many { ends, .. } => ends.len() - 1,
            Data::Struct { len, .. } => *len,
        }
    }

    /// Forgets the values from `len` on.
    pub fn truncate(&mut self, len: usize) {
        if let Some(bits) = &mut self.validity {
            bits.truncate(len);
        }
        match &mut self.data {
            Data::Bool(bits) => bits.truncate(len),
            Data::Long(values) => values.truncate(len),
            Data::ULong(values) => values.truncate(len),
            Data::Float(values) => values.truncate(len),
            Data::Double(values) => values.truncate(len),
            Data::Wide(values) => values.truncate(len),
            Data::Bytes { ends, bytes } => {
                ends.truncate(len + 1);
                bytes.truncate(last_end(ends));
            }
            Data::Many { ends, children } => {
                ends.truncate(len + 1);
                let end = last_end(ends);
                children.iter_mut().for_each(|child| child.truncate(end));
            }
            Data::Struct { children, len: structs } => {
                children.iter_mut().for_each(|child| child.truncate(len));
                *structs = len;
            }
        }
    }

    /// The columns below it: of a list's items, a map's keys and values, a struct's fields.
    pub fn children(&mut self) -> &mut [Column] {
        match &mut self.data {
            Data::Many { children, .. } | Data::Struct { children, .. } => children,
            _ => &mut [],
        }
    }

    #[inline(always)]
    fn valid(&mut self) {
        if let Some(bits) = &mut self.validity {
            bits.append(true);
        }
    }

    /// Appends a null, or fails where there may be none.
    #[inline]
    pub fn push_null(&mut self) -> Result<()> {
        if !self.field.is_nullable() {
            return Err(self.wrong("is null, and its type allows no null"));
        }
        self.push_filler();
        Ok(())
    }

    /// Appends a null for a field that a record does not have.
    #[inline]
    pub fn push_missing(&mut self) -> Result<()> {
        if !self.field.is_nullable() {
            return Err(self.wrong("is missing, and its type allows no null"));
        }
        self.push_filler();
        Ok(())
    }

    /// Appends a value that is not there: null where it may be, else a zero below a null of the parent.
    fn push_filler(&mut self) {
        let len = self.count();
        match &mut self.data {
            Data::Bool(bits) => bits.append(false),
            Data::Long(values) => values.push(0),
            Data::ULong(values) => values.push(0),
            Data::Float(values) => values.push(0.0),
            Data::Double(values) => values.push(0.0),
            Data::Wide(values) => values.push(0),
            Data::Bytes { ends, .. } | Data::Many { ends, .. } => ends.push(ends.last().copied().unwrap_or(0)),
            Data::Struct { children, len } => {
                children.iter_mut().for_each(Column::push_filler);
                *len += 1;
            }
        }
        if self.field.is_nullable() {
            let bits = self.validity.get_or_insert_with(|| {
                let mut bits = BooleanBufferBuilder::new(len + 1);
                bits.append_n(len, true);
                bits
            });
            bits.append(false);
        }
    }

    /// Appends a truth value to a column that holds them.
    #[inline]
    pub fn push_bool(&mut self, value: bool) {
        if let Data::Bool(bits) = &mut self.data {
            bits.append(value);
        }
        self.valid();
    }

    /// Appends a whole number, date, time or duration that is known to be in range.
    #[inline(always)]
    pub fn push_long(&mut self, value: i64) {
        if let Data::Long(values) = &mut self.data {
            values.push(value);
        }
        self.valid();
    }

    /// Appends to a `uint64` column.
    #[inline]
    pub fn push_ulong(&mut self, value: u64) {
        if let Data::ULong(values) = &mut self.data {
            values.push(value);
        }
        self.valid();
    }

    /// Appends to a `float32` column.
    #[inline]
    pub fn push_float(&mut self, value: f32) {
        if let Data::Float(values) = &mut self.data {
            values.push(value);
        }
        self.valid();
    }

    /// Appends to a `float64` column.
    #[inline]
    pub fn push_double(&mut self, value: f64) {
        if let Data::Double(values) = &mut self.data {
            values.push(value);
        }
        self.valid();
    }

    /// Appends to a decimal column.
    #[inline]
    pub fn push_wide(&mut self, value: i128) {
        if let Data::Wide(values) = &mut self.data {
            values.push(value);
        }
        self.valid();
    }

    /// Appends text or bytes.
    #[inline(always)]
    pub fn push_bytes(&mut self, value: &[u8]) {
        if let Data::Bytes { ends, bytes } = &mut self.data {
            bytes.extend_from_slice(value);
            ends.push(bytes.len() as i32);
        }
        self.valid();
    }

    /// Appends text or bytes that `write` puts at the end of the others.
    pub fn push_written<E>(
        &mut self,
        write: impl FnOnce(&mut Vec<u8>) -> std::result::Result<(), E>,
    ) -> std::result::Result<(), E> {
        if let Data::Bytes { ends, bytes } = &mut self.data {
            write(bytes)?;
            ends.push(bytes.len() as i32);
        }
        self.valid();
        Ok(())
    }

    /// Ends a list or map whose items have been appended to the children.
    pub fn push_many(&mut self) {
        if let Data::Many { ends, children } = &mut self.data {
            ends.push(children[0].count() as i32);
        }
        self.valid();
    }

    /// Ends a struct whose fields have been appended to the children.
    pub fn push_struct(&mut self) {
        if let Data::Struct { len, .. } = &mut self.data {
            *len += 1;
        }
        self.valid();
    }

    /// The number of items in the lists or maps before this one, so that a map's keys can be told apart.
    pub fn open_items(&self) -> usize {
        match &self.data {
            Data::Many { ends, .. } => last_end(ends),
            _ => 0,
        }
    }

    /// Text or bytes of a row.
    pub fn bytes_at(&self, row: usize) -> &[u8] {
        match &self.data {
            Data::Bytes { ends, bytes } => &bytes[ends[row] as usize..ends[row + 1] as usize],
            _ => &[],
        }
    }

    /// A map's key as bytes that are equal for equal keys.
    pub fn key_at(&self, row: usize) -> Vec<u8> {
        match &self.data {
            Data::Bool(bits) => vec![u8::from(bits.get_bit(row))],
            Data::Long(values) => values[row].to_le_bytes().to_vec(),
            Data::ULong(values) => values[row].to_le_bytes().to_vec(),
            Data::Float(values) => values[row].to_le_bytes().to_vec(),
            Data::Double(values) => values[row].to_le_bytes().to_vec(),
            Data::Wide(values) => values[row].to_le_bytes().to_vec(),
            Data::Bytes { .. } => self.bytes_at(row).to_vec(),
            Data::Many { .. } | Data::Struct { .. } => Vec::new(),
        }
    }

    /// Appends a value that is written as text, as in CSV or in the key of a map.
    pub fn push_text(&mut self, value: &[u8]) -> Result<()> {
        match &self.kind {
            Kind::String => {
                self.push_bytes(value);
                Ok(())
            }
            Kind::Bool => match value {
                b"true" => {
                    self.push_bool(true);
                    Ok(())
                }
                b"false" => {
                    self.push_bool(false);
                    Ok(())
                }
                _ => Err(self.wrong_text(value, "is not `true` or `false`")),
            },
            Kind::Int { min, max, name } => match parse::<i128>(value) {
                Some(number) if (i128::from(*min)..=i128::from(*max)).contains(&number) => {
                    self.push_long(number as i64);
                    Ok(())
                }
                Some(_) => Err(self.wrong_text(value, format!("does not fit {name}"))),
                None => Err(self.wrong_text(value, format!("is not a whole number ({name})"))),
            },
            Kind::UInt64 => match parse::<i128>(value).map(u64::try_from) {
                Some(Ok(number)) => {
                    self.push_ulong(number);
                    Ok(())
                }
                Some(Err(_)) => Err(self.wrong_text(value, "does not fit uint64")),
                None => Err(self.wrong_text(value, "is not a whole number (uint64)")),
            },
            Kind::Float64 => match parse::<f64>(value) {
                Some(number) => {
                    self.push_double(number);
                    Ok(())
                }
                None => Err(self.wrong_text(value, "is not a number (float64)")),
            },
            Kind::Float32 => match parse::<f32>(value) {
                Some(number) => {
                    self.push_float(number);
                    Ok(())
                }
                None => Err(self.wrong_text(value, "is not a number (float32)")),
            },
            Kind::Decimal { .. } => self.push_decimal(value),
            Kind::Binary => self.push_base64(value),
            Kind::Date | Kind::Timestamp { .. } | Kind::Duration { .. } => self.push_time(value),
            Kind::Json if super::json::is_valid(value) => {
                // White space around it is none of it, as in a record of JSON: one value has one text.
                self.push_bytes(value.trim_ascii());
                Ok(())
            }
            Kind::Json => Err(self.wrong_text(value, "is not JSON")),
            Kind::List | Kind::Map | Kind::Struct => Err(self.wrong("can't be read from text")),
        }
    }

    /// Appends a decimal written as text or as a JSON number.
    pub fn push_decimal(&mut self, value: &[u8]) -> Result<()> {
        let Kind::Decimal { precision, scale } = self.kind else { return Err(self.wrong("is no decimal")) };
        match text::parse_decimal(value, precision, scale) {
            Ok(number) => {
                self.push_wide(number);
                Ok(())
            }
            Err(what) => Err(self.wrong_text(value, what)),
        }
    }

    /// Appends bytes written in base64.
    pub fn push_base64(&mut self, value: &[u8]) -> Result<()> {
        let pushed = self.push_written(|bytes| text::parse_base64(value, bytes));
        pushed.map_err(|what| self.wrong_text(value, what))
    }

    /// Appends a date, time or duration written as text.
    #[inline]
    pub fn push_time(&mut self, value: &[u8]) -> Result<()> {
        let parsed = match &self.kind {
            Kind::Date => text::parse_date(value).ok_or_else(|| "is not a date such as `2026-01-31`".to_owned()),
            Kind::Timestamp { unit, zone } => text::parse_timestamp(value, *unit, zone.as_ref()).map_err(str::to_owned),
            Kind::Duration { unit } => {
                text::parse_duration(value).map(|ns| ns / (1_000_000_000 / text::per_second(*unit)))
            }
            _ => Err("is no time".to_owned()),
        };
        match parsed {
            Ok(ticks) => {
                self.push_long(ticks);
                Ok(())
            }
            Err(what) => Err(self.wrong_text(value, what)),
        }
    }

    /// The error that this column's value is wrong.
    #[cold]
    pub fn wrong(&self, what: impl Into<String>) -> Box<RecordError> {
        Box::new(RecordError::Column { path: self.name().to_owned(), what: what.into() })
    }

    /// The error that a text is no value of this column.
    #[cold]
    pub fn wrong_text(&self, value: &[u8], what: impl std::fmt::Display) -> Box<RecordError> {
        const SHOWN: usize = 60;
        let text = String::from_utf8_lossy(value);
        let shown: String = text.chars().take(SHOWN).collect();
        let more = if text.chars().nth(SHOWN).is_some() { "…" } else { "" };
        self.wrong(format!("`{shown}{more}` {what}"))
    }

    /// The name of the type, as it is written in a schema.
    pub fn type_name(&self) -> String {
        match &self.kind {
            Kind::Bool => "bool".to_owned(),
            Kind::Int { name, .. } => (*name).to_owned(),
            Kind::UInt64 => "uint64".to_owned(),
            Kind::Float32 => "float32".to_owned(),
            Kind::Float64 => "float64".to_owned(),
            Kind::Decimal { precision, scale } => format!("decimal({precision}, {scale})"),
            Kind::String => "string".to_owned(),
            Kind::Binary => "binary".to_owned(),
            Kind::Date => "date".to_owned(),
            Kind::Timestamp { .. } => "timestamp".to_owned(),
            Kind::Duration { .. } => "duration".to_owned(),
            Kind::Json => "json".to_owned(),
            Kind::List => "list".to_owned(),
            Kind::Map => "map".to_owned(),
            Kind::Struct => "struct".to_owned(),
        }
    }

    /// The values as an array; the column is empty after that.
    pub fn finish(&mut self) -> ArrayRef {
        let len = self.count();
        let nulls = self.validity.take().map(|mut bits| NullBuffer::new(bits.finish()));
        let bytes = match &self.data {
            Data::Bytes { bytes, .. } => bytes.len(),
            _ => 0,
        };
        self.last = (len, bytes);
        let room = |size: usize| size + size / 8;
        let data_type = self.field.data_type();
        match &mut self.data {
            Data::Bool(bits) => Arc::new(BooleanArray::new(bits.finish(), nulls)),
            Data::Long(values) => {
                long_array(std::mem::replace(values, Vec::with_capacity(room(len))), nulls, data_type)
            }
            Data::ULong(values) => Arc::new(UInt64Array::new(take(values), nulls)),
            Data::Float(values) => Arc::new(Float32Array::new(take(values), nulls)),
            Data::Double(values) => Arc::new(Float64Array::new(take(values), nulls)),
            Data::Wide(values) => Arc::new(Decimal128Array::new(take(values), nulls).with_data_type(data_type.clone())),
            Data::Bytes { ends, bytes: values } => {
                let values = Buffer::from_vec(std::mem::replace(values, Vec::with_capacity(room(bytes))));
                let ends = take_ends(ends, room(len));
                match self.kind {
                    Kind::Binary => Arc::new(BinaryArray::new(ends, values, nulls)),
                    _ => Arc::new(StringArray::new(ends, values, nulls)),
                }
            }
            Data::Many { ends, children } => {
                let ends = take_ends(ends, room(len));
                let mut arrays: Vec<ArrayRef> = children.iter_mut().map(Column::finish).collect();
                match data_type {
                    DataType::Map(entries, sorted) => {
                        let fields = children.iter().map(|child| child.field.clone()).collect::<Fields>();
                        Arc::new(MapArray::new(
                            entries.clone(),
                            ends,
                            StructArray::new(fields, arrays, None),
                            nulls,
                            *sorted,
                        ))
                    }
                    _ => Arc::new(ListArray::new(children[0].field.clone(), ends, arrays.swap_remove(0), nulls)),
                }
            }
            Data::Struct { children, len } => {
                let rows = std::mem::take(len);
                let arrays: Vec<ArrayRef> = children.iter_mut().map(Column::finish).collect();
                let fields = children.iter().map(|child| child.field.clone()).collect::<Fields>();
                match StructArray::try_new_with_length(fields, arrays, nulls, rows) {
                    Ok(array) => Arc::new(array),
                    // The columns below have as many values as this one, and of their own types.
                    Err(_) => new_empty_array(data_type),
                }
            }
        }
    }
}

fn last_end(ends: &[i32]) -> usize {
    ends.last().map_or(0, |end| *end as usize)
}

fn parse<T: std::str::FromStr>(value: &[u8]) -> Option<T> {
    std::str::from_utf8(value).ok()?.parse().ok()
}

fn take<T: arrow::datatypes::ArrowNativeType>(values: &mut Vec<T>) -> ScalarBuffer<T> {
    let room = values.len() + values.len() / 8;
    std::mem::replace(values, Vec::with_capacity(room)).into()
}

fn take_ends(ends: &mut Vec<i32>, room: usize) -> OffsetBuffer<i32> {
    let mut fresh = Vec::with_capacity(room + 1);
    fresh.push(0);
    OffsetBuffer::new(std::mem::replace(ends, fresh).into())
}

/// The array of a type that is kept as 64-bit integers.
fn long_array(values: Vec<i64>, nulls: Option<NullBuffer>, data_type: &DataType) -> ArrayRef {
    macro_rules! narrow {
        ($array:ident, $native:ty) => {
            Arc::new($array::new(values.iter().map(|value| *value as $native).collect::<Vec<_>>().into(), nulls))
        };
    }
    match data_type {
        DataType::Int8 => narrow!(Int8Array, i8),
        DataType::Int16 => narrow!(Int16Array, i16),
        DataType::Int32 => narrow!(Int32Array, i32),
        DataType::UInt8 => narrow!(UInt8Array, u8),
        DataType::UInt16 => narrow!(UInt16Array, u16),
        DataType::UInt32 => narrow!(UInt32Array, u32),
        DataType::Date32 => narrow!(Date32Array, i32),
        // Times and durations differ from integers in their type only.
        other => {
            let ints = Int64Array::new(values.into(), nulls);
            let data = arrow::array::Array::into_data(ints).into_builder().data_type(other.clone());
            data.build().map_or_else(|_| new_empty_array(other), make_array)
        }
    }
}

fn kind_and_data(field: &Arc<Field>) -> std::result::Result<(Kind, Data), String> {
    let int = |min: i64, max: i64, name| Ok((Kind::Int { min, max, name }, Data::Long(Vec::new())));
    let bytes = || Data::Bytes { ends: vec![0], bytes: Vec::new() };
    let columns = |fields: &[Arc<Field>]| fields.iter().map(Column::new).collect::<std::result::Result<Vec<_>, _>>();
    match field.data_type() {
        DataType::Boolean => Ok((Kind::Bool, Data::Bool(BooleanBufferBuilder::new(0)))),
        DataType::Int8 => int(i8::MIN.into(), i8::MAX.into(), "int8"),
        DataType::Int16 => int(i16::MIN.into(), i16::MAX.into(), "int16"),
        DataType::Int32 => int(i32::MIN.into(), i32::MAX.into(), "int32"),
        DataType::Int64 => int(i64::MIN, i64::MAX, "int64"),
        DataType::UInt8 => int(0, u8::MAX.into(), "uint8"),
        DataType::UInt16 => int(0, u16::MAX.into(), "uint16"),
        DataType::UInt32 => int(0, u32::MAX.into(), "uint32"),
        DataType::UInt64 => Ok((Kind::UInt64, Data::ULong(Vec::new()))),
        DataType::Float32 => Ok((Kind::Float32, Data::Float(Vec::new()))),
        DataType::Float64 => Ok((Kind::Float64, Data::Double(Vec::new()))),
        DataType::Decimal128(precision, scale) => {
            Ok((Kind::Decimal { precision: *precision, scale: *scale }, Data::Wide(Vec::new())))
        }
        DataType::Utf8 if is_json(field) => Ok((Kind::Json, bytes())),
        DataType::Utf8 => Ok((Kind::String, bytes())),
        DataType::Binary => Ok((Kind::Binary, bytes())),
        DataType::Date32 => Ok((Kind::Date, Data::Long(Vec::new()))),
        DataType::Timestamp(unit, zone) => {
            let zone = text::zone_of(zone.as_deref())?;
            Ok((Kind::Timestamp { unit: *unit, zone }, Data::Long(Vec::new())))
        }
        DataType::Duration(unit) => Ok((Kind::Duration { unit: *unit }, Data::Long(Vec::new()))),
        DataType::List(item) => {
            Ok((Kind::List, Data::Many { ends: vec![0], children: columns(std::slice::from_ref(item))? }))
        }
        DataType::Map(entries, _) => match entries.data_type() {
            DataType::Struct(fields) if fields.len() == 2 => {
                Ok((Kind::Map, Data::Many { ends: vec![0], children: columns(fields)? }))
            }
            _ => Err(format!("the map `{}` has no key and value", field.name())),
        },
        DataType::Struct(fields) => Ok((Kind::Struct, Data::Struct { children: columns(fields)?, len: 0 })),
        other => Err(format!("no format reads the type {other} of `{}`", field.name())),
    }
}
