//! JSON objects into columns, one record at a time.
//!
//! What it takes, by the type of the column:
//!
//! | type | JSON |
//! |---|---|
//! | integers | a whole number in range; `5.0` and `1e3` are whole |
//! | `float32`, `float64` | a number; one too large for the type is an error; `"NaN"`, `"Infinity"`, `"-Infinity"` |
//! | `decimal(p, s)` | a number, or a number in a string; digits that don't fit are an error, never rounded |
//! | `string` | a string |
//! | `binary` | a string in base64 |
//! | `date` | `"2026-01-31"` |
//! | `timestamp` | an RFC 3339 string (without a zone: the column's, else UTC), or an integer in the column's unit |
//! | `duration` | a string with a unit: `"250ms"` |
//! | `json` | any value, kept as it stands |
//! | `list`, `map`, struct | an array, an object, an object |
//!
//! A field that stands twice in a record counts with its last value, as in JavaScript and serde_json; a key that stands
//! twice in a map is an error. Fields that are not wanted are checked for their grammar and not for anything else.

use super::super::columns::{Column, Kind};
use super::super::{RecordDecoder, RecordError};
use super::scan::{Cursor, Number, Quoted, Token, unescape};
use arrow::array::ArrayRef;
use arrow::datatypes::{DataType, Field, Schema};
use engine_base::RowError;
use std::collections::HashMap;
use std::sync::Arc;

type Result<T> = std::result::Result<T, Box<RecordError>>;

/// Decodes objects into the wanted columns of a schema.
#[derive(Debug)]
pub struct JsonDecoder {
    fields: Fields,
    columns: Vec<Column>,
    rows: usize,
}

/// What is to be read below a column.
#[derive(Debug)]
enum Shape {
    /// One value.
    Leaf,
    /// An array of these.
    List(Box<Shape>),
    /// An object of which the keys are data.
    Map(Box<Shape>),
    /// An object with these fields.
    Struct(Fields),
}

/// The fields of an object and the order in which they are expected.
#[derive(Debug)]
struct Fields {
    shapes: Vec<Shape>,
    targets: HashMap<Box<[u8]>, Target>,
    /// What becomes of a field that `targets` does not name.
    others: Target,
    /// The fields in the order of the records before: the next one is nearly always the one that comes.
    expected: Vec<Expected>,
}

#[derive(Debug)]
struct Expected {
    token: Token,
    target: Target,
}

#[derive(Clone, Copy, Debug)]
enum Target {
    /// The column of this number.
    Column(usize),
    /// Nothing.
    Skip,
    /// An error: the schema does not know it, and says `extra: error`.
    Refuse,
}

/// How many fields may be expected; beyond that the order is learnt anew.
const EXPECTED_MAX: usize = 128;
/// How many expected fields a record may leave out before the rest is looked up.
const LOOK_AHEAD: usize = 4;
/// The longest key that is expected rather than looked up.
const EXPECTED_KEY_MAX: usize = 64;

impl JsonDecoder {
    /// A decoder of `columns`, which are some of the fields of `schema`. With `extra_error`, a field that is not in
    /// `schema` fails the record.
    pub fn new(schema: &Schema, columns: &[Arc<Field>], extra_error: bool) -> std::result::Result<Self, String> {
        let mut fields = Fields::new(columns)?;
        if extra_error {
            fields.others = Target::Refuse;
            for field in schema.fields() {
                fields.targets.entry(field.name().as_bytes().into()).or_insert(Target::Skip);
            }
        }
        let columns = columns.iter().map(Column::new).collect::<std::result::Result<_, _>>()?;
        Ok(JsonDecoder { fields, columns, rows: 0 })
    }

    fn record(&mut self, record: &[u8]) -> Result<()> {
        let mut cursor = Cursor::new(record);
        cursor.space();
        if !cursor.take(b'{') {
            return Err(no_object(&cursor));
        }
        self.fields.object(&mut cursor, &mut self.columns, self.rows)?;
        cursor.end()
    }
}

impl RecordDecoder for JsonDecoder {
    fn decode(&mut self, record: &[u8]) -> std::result::Result<(), RowError> {
        match self.record(record) {
            Ok(()) => {
                self.rows += 1;
                Ok(())
            }
            Err(error) => {
                self.columns.iter_mut().for_each(|column| column.truncate(self.rows));
                Err(error.into_row_error("JSON"))
            }
        }
    }

    fn rows(&self) -> usize {
        self.rows
    }

    fn finish(&mut self) -> Vec<ArrayRef> {
        self.rows = 0;
        self.columns.iter_mut().map(Column::finish).collect()
    }
}

impl Shape {
    fn of(data_type: &DataType) -> std::result::Result<Shape, String> {
        Ok(match data_type {
            DataType::List(item) => Shape::List(Box::new(Shape::of(item.data_type())?)),
            DataType::Struct(fields) => Shape::Struct(Fields::new(fields)?),
            DataType::Map(entries, _) => match entries.data_type() {
                DataType::Struct(fields) if fields.len() == 2 => {
                    Shape::Map(Box::new(Shape::of(fields[1].data_type())?))
                }
                _ => return Err("a map has no key and value".to_owned()),
            },
            _ => Shape::Leaf,
        })
    }
}

impl Fields {
    fn new(fields: &[Arc<Field>]) -> std::result::Result<Self, String> {
        let targets = fields.iter().enumerate();
        Ok(Fields {
            shapes: fields.iter().map(|field| Shape::of(field.data_type())).collect::<std::result::Result<_, _>>()?,
            targets: targets.map(|(at, field)| (field.name().as_bytes().into(), Target::Column(at))).collect(),
            others: Target::Skip,
            expected: Vec::new(),
        })
    }

    /// The rest of an object whose brace was taken, as value number `row` of its columns.
    #[inline]
    fn object(&mut self, cursor: &mut Cursor<'_>, columns: &mut [Column], row: usize) -> Result<()> {
        let mut filled = 0;
        let mut slot = 0;
        cursor.space();
        if !cursor.take(b'}') {
            loop {
                let target = match self.expected.get(slot) {
                    Some(expected) if cursor.take_token(&expected.token) => {
                        slot += 1;
                        expected.target
                    }
                    _ => self.find(cursor, &mut slot)?,
                };
                cursor.space();
                if let Target::Column(at) = target {
                    let column = &mut columns[at];
                    if column.count() > row {
                        column.truncate(row);
                    } else {
                        filled += 1;
                    }
                    value(&mut self.shapes[at], column, cursor)?;
                } else {
                    cursor.skip()?;
                }
                cursor.space();
                if cursor.take(b',') {
                    cursor.space();
                } else if cursor.take(b'}') {
                    break;
                } else {
                    return Err(cursor.unexpected("a comma or `}`"));
                }
            }
        }
        if filled < columns.len() {
            for column in columns.iter_mut().filter(|column| column.count() == row) {
                column.push_missing()?;
            }
        }
        Ok(())
    }

    /// The target of the key that comes next and is not the expected one; learns it.
    #[cold]
    #[inline(never)]
    fn find(&mut self, cursor: &mut Cursor<'_>, slot: &mut usize) -> Result<Target> {
        // Optional fields may be left out.
        for ahead in 1..=LOOK_AHEAD {
            if let Some(expected) = self.expected.get(*slot + ahead)
                && cursor.take_token(&expected.token)
            {
                *slot += ahead + 1;
                return Ok(expected.target);
            }
        }
        let start = cursor.at();
        let key = cursor.key()?;
        let unescaped;
        let name = if key.escaped {
            unescaped = text_of(&key).map_err(|what| cursor.error(what))?;
            &unescaped
        } else {
            key.raw
        };
        let target = self.targets.get(name).copied().unwrap_or(self.others);
        if let Target::Refuse = target {
            let path = String::from_utf8_lossy(name).into_owned();
            return Err(Box::new(RecordError::Column {
                path,
                what: "is not in the schema, which says `extra: error`".to_owned(),
            }));
        }
        let compact = cursor.at() - start == key.raw.len() + 3;
        if compact && !key.escaped && key.raw.len() <= EXPECTED_KEY_MAX {
            if self.expected.len() == EXPECTED_MAX {
                self.expected.clear();
            }
            *slot = (*slot).min(self.expected.len());
            self.expected.insert(*slot, Expected { token: Token::of_key(key.raw), target });
            *slot += 1;
        }
        Ok(target)
    }
}

/// Reads a value and appends it to its column. What is half appended when it fails, the caller takes back.
#[inline]
fn value(shape: &mut Shape, column: &mut Column, cursor: &mut Cursor<'_>) -> Result<()> {
    let first = cursor.peek();
    if first == b'n' {
        cursor.word(b"null")?;
        return column.push_null();
    }
    let number = first == b'-' || first.is_ascii_digit();
    match column.kind() {
        Kind::Int { min, max, .. } if number => {
            let (min, max) = (*min, *max);
            match cursor.small_integer() {
                Some(value) if (min..=max).contains(&value) => column.push_long(value),
                Some(value) => return Err(no_int(column, value.to_string().as_bytes())),
                None => {
                    let number = cursor.number()?;
                    let value = long(&number).filter(|value| (min..=max).contains(value));
                    column.push_long(value.ok_or_else(|| no_int(column, number.text))?);
                }
            }
            Ok(())
        }
        Kind::String if first == b'"' => {
            cursor.take(b'"');
            let quoted = cursor.string_rest()?;
            if quoted.escaped {
                let pushed = column.push_written(|bytes| unescape(quoted.raw, bytes));
                return pushed.map_err(|what| column.wrong(format!("holds {what}")));
            }
            column.push_bytes(quoted.raw);
            Ok(())
        }
        Kind::Float64 if number => {
            let number = cursor.number()?;
            match double(&number) {
                Some(value) => {
                    column.push_double(value);
                    Ok(())
                }
                None => Err(column.wrong_text(number.text, "does not fit float64")),
            }
        }
        _ => other_value(shape, column, cursor, first),
    }
}

/// The less frequent types, and values of the wrong one.
#[inline(never)]
fn other_value(shape: &mut Shape, column: &mut Column, cursor: &mut Cursor<'_>, first: u8) -> Result<()> {
    let number = first == b'-' || first.is_ascii_digit();
    let string = first == b'"';
    match (column.kind(), shape) {
        (Kind::Bool, _) if first == b't' => {
            cursor.word(b"true")?;
            column.push_bool(true);
        }
        (Kind::Bool, _) if first == b'f' => {
            cursor.word(b"false")?;
            column.push_bool(false);
        }
        (Kind::UInt64, _) if number => {
            let number = cursor.number()?;
            column.push_ulong(ulong(&number).ok_or_else(|| no_int(column, number.text))?);
        }
        (Kind::Float32, _) if number => {
            let number = cursor.number()?;
            column.push_float(float(&number).ok_or_else(|| column.wrong_text(number.text, "does not fit float32"))?);
        }
        (Kind::Float32 | Kind::Float64, _) if string => with_text(column, cursor, push_word)?,
        (Kind::Decimal { .. }, _) if number => column.push_decimal(cursor.number()?.text)?,
        (Kind::Decimal { .. }, _) if string => with_text(column, cursor, Column::push_decimal)?,
        (Kind::Binary, _) if string => with_text(column, cursor, Column::push_base64)?,
        (Kind::Date | Kind::Duration { .. } | Kind::Timestamp { .. }, _) if string => {
            with_text(column, cursor, Column::push_time)?
        }
        (Kind::Timestamp { unit, .. }, _) if number => {
            let unit = *unit;
            let number = cursor.number()?;
            let ticks = long(&number).ok_or_else(|| no_int(column, number.text))?;
            if unit == arrow::datatypes::TimeUnit::Nanosecond && ticks != 0 && ticks.unsigned_abs() < PLAUSIBLE_NS {
                let what = "as nanoseconds is in early 1970; if it counts milliseconds, the type is `timestamp(ms)`";
                return Err(column.wrong_text(number.text, what));
            }
            column.push_long(ticks);
        }
        (Kind::Json, _) => {
            let start = cursor.at();
            cursor.skip()?;
            column.push_bytes(cursor.since(start));
        }
        (Kind::List, Shape::List(item)) if first == b'[' => {
            cursor.take(b'[');
            list(item, &mut column.children()[0], cursor).map_err(|error| error.within(column.name()))?;
            column.push_many();
        }
        (Kind::Map, Shape::Map(values)) if first == b'{' => {
            cursor.take(b'{');
            let open = column.open_items();
            map(values, column.children(), open, cursor).map_err(|error| error.within(column.name()))?;
            column.push_many();
        }
        (Kind::Struct, Shape::Struct(fields)) if first == b'{' => {
            cursor.take(b'{');
            let row = column.count();
            fields.object(cursor, column.children(), row).map_err(|error| error.within(column.name()))?;
            column.push_struct();
        }
        _ => return Err(mismatch(column, cursor)),
    }
    Ok(())
}

/// Integers below this, 26 April 1970 as nanoseconds, were most likely written in another unit.
const PLAUSIBLE_NS: u64 = 10_000_000_000_000_000;

fn list(item: &mut Shape, items: &mut Column, cursor: &mut Cursor<'_>) -> Result<()> {
    cursor.space();
    if cursor.take(b']') {
        return Ok(());
    }
    loop {
        cursor.space();
        value(item, items, cursor)?;
        cursor.space();
        if cursor.take(b']') {
            return Ok(());
        }
        if !cursor.take(b',') {
            return Err(cursor.unexpected("a comma or `]`"));
        }
    }
}

fn map(shape: &mut Shape, columns: &mut [Column], open: usize, cursor: &mut Cursor<'_>) -> Result<()> {
    let [keys, values] = columns else { return Err(cursor.error("a map without key and value")) };
    cursor.space();
    if cursor.take(b'}') {
        return Ok(());
    }
    loop {
        cursor.space();
        let quoted = cursor.key()?;
        let key = text_of(&quoted).map_err(|what| cursor.error(what))?;
        keys.push_text(&key)?;
        cursor.space();
        value(shape, values, cursor)?;
        cursor.space();
        if cursor.take(b'}') {
            return distinct(keys, open);
        }
        if !cursor.take(b',') {
            return Err(cursor.unexpected("a comma or `}`"));
        }
    }
}

/// The keys from `open` on must differ from each other.
fn distinct(keys: &Column, open: usize) -> Result<()> {
    let mut seen = std::collections::HashSet::new();
    match (open..keys.count()).map(|row| keys.key_at(row)).find(|key| !seen.insert(key.clone())) {
        None => Ok(()),
        Some(_) => Err(keys.wrong("stands twice in a map")),
    }
}

/// The characters of a string.
fn text_of(quoted: &Quoted<'_>) -> std::result::Result<Vec<u8>, &'static str> {
    if !quoted.escaped {
        return Ok(quoted.raw.to_vec());
    }
    let mut text = Vec::with_capacity(quoted.raw.len());
    unescape(quoted.raw, &mut text)?;
    Ok(text)
}

/// Reads a string and has the column take its characters.
fn with_text(column: &mut Column, cursor: &mut Cursor<'_>, push: fn(&mut Column, &[u8]) -> Result<()>) -> Result<()> {
    cursor.take(b'"');
    let quoted = cursor.string_rest()?;
    if quoted.escaped {
        let text = text_of(&quoted).map_err(|what| column.wrong(format!("holds {what}")))?;
        return push(column, &text);
    }
    push(column, quoted.raw)
}

/// Appends a float that is not finite, which no JSON number can be: its name in a string, as the encoder writes it.
fn push_word(column: &mut Column, text: &[u8]) -> Result<()> {
    let value = match text {
        b"NaN" => f64::NAN,
        b"Infinity" => f64::INFINITY,
        b"-Infinity" => f64::NEG_INFINITY,
        _ => return Err(column.wrong(format!("should be {}, and is a string", column.type_name()))),
    };
    match column.kind() {
        Kind::Float32 => column.push_float(value as f32),
        _ => column.push_double(value),
    }
    Ok(())
}

/// The whole number that a number is, if it is one that fits.
#[inline(always)]
fn long(number: &Number<'_>) -> Option<i64> {
    if number.whole && number.count <= 18 {
        let value = number.digits as i64;
        return Some(if number.negative { -value } else { value });
    }
    big(number.text).and_then(|value| i64::try_from(value).ok())
}

fn ulong(number: &Number<'_>) -> Option<u64> {
    big(number.text).and_then(|value| u64::try_from(value).ok())
}

/// A whole number of up to 38 digits, also as `5.0` or `1e3`.
fn big(text: &[u8]) -> Option<i128> {
    super::super::text::parse_decimal(text, 38, 0).ok()
}

#[cold]
fn no_int(column: &Column, text: &[u8]) -> Box<RecordError> {
    let what = if big(text).is_some() { "does not fit" } else { "is not a whole number, or does not fit" };
    column.wrong_text(text, format!("{what} {}", column.type_name()))
}

/// Powers of ten that a float64 holds exactly.
const EXACT_POWERS: [f64; 23] = [
    1e0, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9, 1e10, 1e11, 1e12, 1e13, 1e14, 1e15, 1e16, 1e17, 1e18, 1e19, 1e20,
    1e21, 1e22,
];

/// The float64 nearest to a number; `None` beyond its range.
#[inline(always)]
fn double(number: &Number<'_>) -> Option<f64> {
    let exponent = number.exponent - number.fraction as i32;
    // Both are exact, so that one rounding gives the nearest (Clinger's fast path).
    if number.count <= 19 && number.digits <= 1 << 53 && exponent.unsigned_abs() <= 22 {
        let digits = number.digits as f64;
        let power = EXACT_POWERS[exponent.unsigned_abs() as usize];
        let size = if exponent < 0 { digits / power } else { digits * power };
        return Some(if number.negative { -size } else { size });
    }
    std::str::from_utf8(number.text).ok()?.parse().ok().filter(|value: &f64| value.is_finite())
}

/// The float32 nearest to a number; `None` beyond its range.
fn float(number: &Number<'_>) -> Option<f32> {
    std::str::from_utf8(number.text).ok()?.parse().ok().filter(|value: &f32| value.is_finite())
}

/// What stands there, for an error.
fn found(cursor: &Cursor<'_>) -> Option<&'static str> {
    match cursor.peek() {
        b'"' => Some("a string"),
        b'{' => Some("an object"),
        b'[' => Some("an array"),
        b'-' | b'0'..=b'9' => Some("a number"),
        _ => {
            let words = [("true", "a truth value"), ("false", "a truth value"), ("null", "null")];
            words.into_iter().find(|(word, _)| cursor.ahead().starts_with(word.as_bytes())).map(|(_, what)| what)
        }
    }
}

#[cold]
fn mismatch(column: &Column, cursor: &mut Cursor<'_>) -> Box<RecordError> {
    let Some(found) = found(cursor) else { return cursor.unexpected("a value") };
    column.wrong(format!("should be {}, and is {found}", column.type_name()))
}

#[cold]
fn no_object(cursor: &Cursor<'_>) -> Box<RecordError> {
    match found(cursor) {
        Some(found) => cursor.error(format!("a record is an object, and this is {found}")),
        None => cursor.unexpected("an object"),
    }
}
