//! The text of a type: `decimal(18, 2)`, `list<string | null>`, `map<string, float64>`.

use std::ops::Range;

use engine_base::codes::spec as codes;
use engine_base::{Diagnostic, Diagnostics};

use super::{ColumnType, FieldSpec, TimeUnit};
use crate::Node;

/// The types that are a single word.
pub(super) const NAMES: &[(&str, ColumnType)] = &[
    ("bool", ColumnType::Bool),
    ("int8", ColumnType::Int8),
    ("int16", ColumnType::Int16),
    ("int32", ColumnType::Int32),
    ("int64", ColumnType::Int64),
    ("uint8", ColumnType::UInt8),
    ("uint16", ColumnType::UInt16),
    ("uint32", ColumnType::UInt32),
    ("uint64", ColumnType::UInt64),
    ("float32", ColumnType::Float32),
    ("float64", ColumnType::Float64),
    ("string", ColumnType::String),
    ("binary", ColumnType::Binary),
    ("date", ColumnType::Date),
    ("timestamp", ColumnType::Timestamp { unit: TimeUnit::Ns, zone: None }),
    ("duration", ColumnType::Duration),
    ("json", ColumnType::Json),
];

/// What other systems call them.
const OTHER_NAMES: &[(&str, &str)] = &[
    ("boolean", "bool"),
    ("tinyint", "int8"),
    ("i8", "int8"),
    ("smallint", "int16"),
    ("i16", "int16"),
    ("i32", "int32"),
    ("int", "int64"),
    ("integer", "int64"),
    ("bigint", "int64"),
    ("long", "int64"),
    ("i64", "int64"),
    ("u8", "uint8"),
    ("u16", "uint16"),
    ("u32", "uint32"),
    ("uint", "uint64"),
    ("u64", "uint64"),
    ("real", "float32"),
    ("f32", "float32"),
    ("float", "float64"),
    ("double", "float64"),
    ("number", "float64"),
    ("f64", "float64"),
    ("numeric", "decimal(18, 2)"),
    ("decimal", "decimal(18, 2)"),
    ("str", "string"),
    ("text", "string"),
    ("varchar", "string"),
    ("char", "string"),
    ("utf8", "string"),
    ("uuid", "string"),
    ("bytes", "binary"),
    ("blob", "binary"),
    ("bytea", "binary"),
    ("datetime", "timestamp"),
    ("timestamptz", "timestamp"),
    ("time", "timestamp"),
    ("interval", "duration"),
    ("object", "json"),
    ("variant", "json"),
    ("array", "list<T>"),
    ("list", "list<T>"),
    ("map", "map<K, V>"),
    ("struct", "{ field: T }"),
];

const MAX_DEPTH: usize = 32;

struct Problem {
    range: Range<usize>,
    message: String,
    help: String,
}

struct Parser<'t> {
    text: &'t str,
    at: usize,
    depth: usize,
}

/// Parses `text`, the scalar of `node`.
pub(super) fn parse(text: &str, node: &Node, diagnostics: &mut Diagnostics) -> Option<FieldSpec> {
    let mut parser = Parser { text, at: 0, depth: 0 };
    let parsed = parser.field().and_then(|field| {
        parser.blanks();
        match parser.at == text.len() {
            true => Ok(field),
            false => Err(parser.problem(
                parser.at..text.len(),
                "this is too much for a type".to_owned(),
                "end the type before it; alternatives other than `| null` are not part of the language",
            )),
        }
    });
    match parsed {
        Ok(field) => Some(field),
        Err(problem) => {
            let span = node.locate(problem.range);
            diagnostics.push(Diagnostic::error(codes::BAD_TYPE, span, problem.message).help(problem.help));
            None
        }
    }
}

type Parsed<T> = Result<T, Problem>;

impl<'t> Parser<'t> {
    fn problem(&self, range: Range<usize>, message: String, help: &str) -> Problem {
        let whole = self.text.len().max(1);
        let range = if range.is_empty() { range.start.min(whole - 1)..whole } else { range };
        Problem { range, message, help: help.to_owned() }
    }

    fn blanks(&mut self) {
        let rest = &self.text[self.at..];
        self.at += rest.len() - rest.trim_start().len();
    }

    fn eat(&mut self, sign: char) -> bool {
        self.blanks();
        let found = self.text[self.at..].starts_with(sign);
        if found {
            self.at += sign.len_utf8();
        }
        found
    }

    fn expect(&mut self, sign: char, after: &str) -> Parsed<()> {
        if self.eat(sign) {
            return Ok(());
        }
        let at = self.at;
        Err(self.problem(
            at..self.text.len(),
            format!("a `{sign}` is missing in this type"),
            &format!("write it like `{after}`"),
        ))
    }

    fn word(&mut self) -> (Range<usize>, &'t str) {
        self.blanks();
        let start = self.at;
        let rest = &self.text[start..];
        let end = start + rest.find(|c: char| !(c.is_alphanumeric() || c == '_')).unwrap_or(rest.len());
        self.at = end;
        (start..end, &self.text[start..end])
    }

    fn field(&mut self) -> Parsed<FieldSpec> {
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            return Err(self.problem(
                self.at..self.text.len(),
                "this type is nested too deeply".to_owned(),
                "flatten it",
            ));
        }
        let mut nullable = false;
        let mut ty = None;
        loop {
            let start = self.at;
            let (range, word) = self.word();
            if word == "null" {
                nullable = true;
            } else if ty.is_some() {
                let help = "a column has one type, which may be `| null`; for values of many types use `json`";
                return Err(self.problem(range, format!("`{word}` is a second type"), help));
            } else {
                ty = Some(self.column_type(range, word, start)?);
            }
            if !self.eat('|') {
                break;
            }
        }
        self.depth -= 1;
        match ty {
            Some(ty) => Ok(FieldSpec { ty, nullable }),
            None => Err(self.problem(
                0..self.text.len(),
                "`null` alone is no type".to_owned(),
                "write a type such as `string | null`",
            )),
        }
    }

    fn column_type(&mut self, range: Range<usize>, word: &str, start: usize) -> Parsed<ColumnType> {
        match word {
            "list" if self.eat('<') => {
                let item = self.field()?;
                self.expect('>', "list<string>")?;
                Ok(ColumnType::List(Box::new(item)))
            }
            "map" if self.eat('<') => {
                let key_start = self.at;
                let key = self.field()?;
                if key.nullable || !key.ty.is_scalar() {
                    let message = format!("`{key}` can't be the key of a map");
                    return Err(self.problem(
                        key_start..self.at,
                        message,
                        "a key is a scalar that is not null, such as `string`",
                    ));
                }
                self.expect(',', "map<string, float64>")?;
                let value = self.field()?;
                self.expect('>', "map<string, float64>")?;
                Ok(ColumnType::Map(Box::new(key.ty), Box::new(value)))
            }
            "decimal" if self.eat('(') => {
                let (precision_range, precision) = self.word();
                let precision = precision.parse::<u8>().ok().filter(|precision| (1..=38).contains(precision));
                let Some(precision) = precision else {
                    return Err(self.problem(
                        precision_range,
                        "the precision of a decimal is 1 to 38".to_owned(),
                        "write `decimal(18, 2)`: 18 digits, 2 of them after the point",
                    ));
                };
                let scale = match self.eat(',') {
                    false => Some(0),
                    true => {
                        self.word().1.parse::<i8>().ok().filter(|scale| (0..=precision.cast_signed()).contains(scale))
                    }
                };
                let Some(scale) = scale else {
                    return Err(self.problem(
                        range.start..self.at,
                        format!("the scale of this decimal is 0 to {precision}"),
                        "write `decimal(18, 2)`: 18 digits, 2 of them after the point",
                    ));
                };
                self.expect(')', "decimal(18, 2)")?;
                Ok(ColumnType::Decimal(precision, scale))
            }
            "timestamp" if self.eat('(') => {
                let ty = self.timestamp(range.start)?;
                self.expect(')', "timestamp(ms, \"Europe/Berlin\")")?;
                Ok(ty)
            }
            _ => match NAMES.iter().find(|(name, _)| *name == word) {
                Some((_, ty)) => Ok(ty.clone()),
                None => Err(self.unknown(range, word, start)),
            },
        }
    }

    fn timestamp(&mut self, start: usize) -> Parsed<ColumnType> {
        let help = "write `timestamp`, `timestamp(ms)` or `timestamp(ms, \"Europe/Berlin\")`; units are s, ms, us, ns";
        self.blanks();
        let mut unit = TimeUnit::Ns;
        if !self.text[self.at..].starts_with(['"', '\'']) {
            let (range, word) = self.word();
            unit = match word {
                "s" => TimeUnit::S,
                "ms" => TimeUnit::Ms,
                "us" => TimeUnit::Us,
                "ns" => TimeUnit::Ns,
                _ => return Err(self.problem(range, format!("`{word}` is no unit of time"), help)),
            };
            if !self.eat(',') {
                return Ok(ColumnType::Timestamp { unit, zone: None });
            }
            self.blanks();
        }
        let rest = &self.text[self.at..];
        let zone = rest.chars().next().filter(|quote| matches!(quote, '"' | '\'')).and_then(|quote| {
            let inside = &rest[1..];
            inside.find(quote).map(|end| &inside[..end])
        });
        let fits =
            |zone: &&str| !zone.is_empty() && zone.chars().all(|c| c.is_ascii_alphanumeric() || "/_+-:".contains(c));
        match zone.filter(fits) {
            Some(zone) => {
                self.at += zone.len() + 2;
                let zone = (zone != "UTC").then(|| zone.to_owned());
                Ok(ColumnType::Timestamp { unit, zone })
            }
            None => Err(self.problem(start..self.text.len(), "a time zone stands in quotes".to_owned(), help)),
        }
    }

    fn unknown(&self, range: Range<usize>, word: &str, start: usize) -> Problem {
        if word.is_empty() {
            let help = "write a type such as `string`, `int64` or `float64 | null`";
            return self.problem(start..self.text.len(), "a type is missing here".to_owned(), help);
        }
        let lower = word.to_lowercase();
        let known = || NAMES.iter().map(|(name, _)| *name).chain(["decimal", "list", "map"]);
        let other = OTHER_NAMES.iter().find(|(name, _)| *name == lower).map(|(_, ours)| *ours);
        let near = other
            .or_else(|| known().find(|name| *name == lower))
            .or_else(|| engine_base::suggest::nearest(word, known()));
        let message = match word {
            "decimal" | "list" | "map" => format!("`{word}` needs to say of what"),
            _ => format!("`{word}` is not a type"),
        };
        match near {
            Some(near) if word == "decimal" || word == "list" || word == "map" => {
                self.problem(range, message, &format!("write `{near}`"))
            }
            Some(near) => self.problem(range, message, &format!("did you mean `{near}`?")),
            None => {
                let names: Vec<&str> = known().collect();
                self.problem(range, message, &format!("the types are {}", names.join(", ")))
            }
        }
    }
}
