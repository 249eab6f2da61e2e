//! Column types and schemas as they are written.
//!
//! A schema is inline or a file, in our form or as JSON Schema ([`read_schema`]). Our form is a map of column to type:
//!
//! ```yaml
//! card: string
//! amount: decimal(18, 2)
//! note: string | null
//! items: { list: { sku: string, count: int32 } }
//! extra: error
//! ```
//!
//! The columns may also stand below `fields:`, beside `description` and `extra`; a file that does so can't take `extra`
//! for a column. What an Arrow type looks like is left to the `plan` crate.

mod json_schema;
mod parse;

use std::borrow::Cow;
use std::fmt;
use std::path::Path;

use engine_base::codes::spec as codes;
use engine_base::{Diagnostic, Diagnostics, SourceMap, Span};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{Deserialize, Deserializer, Error};

use crate::node::{Node, Value};
use crate::{Files, yaml};

/// The unit of a timestamp.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum TimeUnit {
    /// Seconds.
    S,
    /// Milliseconds.
    Ms,
    /// Microseconds.
    Us,
    /// Nanoseconds.
    Ns,
}

/// The type of a column.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum ColumnType {
    /// `bool`
    Bool,
    /// `int8`
    Int8,
    /// `int16`
    Int16,
    /// `int32`
    Int32,
    /// `int64`
    Int64,
    /// `uint8`
    UInt8,
    /// `uint16`
    UInt16,
    /// `uint32`
    UInt32,
    /// `uint64`
    UInt64,
    /// `float32`
    Float32,
    /// `float64`
    Float64,
    /// `decimal(precision, scale)`
    Decimal(u8, i8),
    /// `string`
    String,
    /// `binary`
    Binary,
    /// `date`
    Date,
    /// `timestamp`, `timestamp(ms)`, `timestamp(ms, "Europe/Berlin")`
    Timestamp {
        /// The unit; nanoseconds unless said.
        unit: TimeUnit,
        /// The zone that it is shown in; UTC if `None`.
        zone: Option<String>,
    },
    /// `duration`, in nanoseconds
    Duration,
    /// `json`: text that holds JSON
    Json,
    /// `list<T>`
    List(Box<FieldSpec>),
    /// `map<K, V>`
    Map(Box<ColumnType>, Box<FieldSpec>),
    /// `{ field: T }`
    Struct(Vec<(String, FieldSpec)>),
}

impl ColumnType {
    /// Whether it has no parts.
    pub fn is_scalar(&self) -> bool {
        !matches!(self, ColumnType::List(_) | ColumnType::Map(..) | ColumnType::Struct(_))
    }

    /// `timestamp` as it is unless more is said.
    pub(crate) fn timestamp() -> ColumnType {
        ColumnType::Timestamp { unit: TimeUnit::Ns, zone: None }
    }
}

/// A type and whether it may be null: `string | null`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct FieldSpec {
    /// The type.
    pub ty: ColumnType,
    /// May be null.
    pub nullable: bool,
}

impl fmt::Display for TimeUnit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            TimeUnit::S => "s",
            TimeUnit::Ms => "ms",
            TimeUnit::Us => "us",
            TimeUnit::Ns => "ns",
        })
    }
}

impl fmt::Display for ColumnType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some((name, _)) = parse::NAMES.iter().find(|(_, ty)| ty == self) {
            return f.write_str(name);
        }
        match self {
            ColumnType::Decimal(precision, scale) => write!(f, "decimal({precision}, {scale})"),
            ColumnType::Timestamp { unit, zone: None } => write!(f, "timestamp({unit})"),
            ColumnType::Timestamp { unit, zone: Some(zone) } => write!(f, "timestamp({unit}, \"{zone}\")"),
            ColumnType::List(item) => write!(f, "list<{item}>"),
            ColumnType::Map(key, value) => write!(f, "map<{key}, {value}>"),
            ColumnType::Struct(fields) => {
                f.write_str("{ ")?;
                for (at, (name, field)) in fields.iter().enumerate() {
                    write!(f, "{}{name}: {field}", if at > 0 { ", " } else { "" })?;
                }
                f.write_str(" }")
            }
            _ => f.write_str("?"),
        }
    }
}

impl fmt::Display for FieldSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.ty, if self.nullable { " | null" } else { "" })
    }
}

impl<'de> Deserialize<'de> for FieldSpec {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let node = Node::deserialize(deserializer)?;
        if node.written.stand_in.is_some() {
            return Ok(FieldSpec { ty: ColumnType::String, nullable: true });
        }
        let mut diagnostics = Diagnostics::new();
        match read_type(&node, &mut diagnostics) {
            Some(field) => Ok(field),
            None => Err(D::Error::custom(diagnostics.iter().next().map_or("not a type".to_owned(), |problem| {
                crate::decode::coded(problem.code, &problem.message, &problem.help.join("; "))
            }))),
        }
    }
}

impl JsonSchema for FieldSpec {
    fn schema_name() -> Cow<'static, str> {
        "ColumnType".into()
    }
    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let field = generator.subschema_for::<FieldSpec>();
        json_schema!({
            "description": "The type of a column: `bool`, `int8` to `int64`, `uint8` to `uint64`, `float32`, `float64`, \
                            `decimal(p, s)`, `string`, `binary`, `date`, `timestamp`, `timestamp(ms, \"Europe/Berlin\")`, \
                            `duration`, `json`, `list<T>` or `{ list: T }`, `map<K, V>`, `{ field: T }` for a struct. \
                            `T | null` may be null.",
            "anyOf": [
                { "type": "string" },
                { "type": "object", "additionalProperties": field }
            ]
        })
    }
}

/// The columns of a stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SchemaSpec {
    /// Column, type and the place where it was said, in order.
    pub fields: Vec<(String, FieldSpec, Span)>,
    /// Unknown fields of a record are an error (`extra: error`); otherwise they are ignored.
    pub extra_error: bool,
}

impl JsonSchema for SchemaSpec {
    fn schema_name() -> Cow<'static, str> {
        "Schema".into()
    }
    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let field = generator.subschema_for::<FieldSpec>();
        json_schema!({
            "description": "The columns of a stream: the path of a schema file (our YAML form or JSON Schema), or a map \
                            of column to type. Unknown fields are ignored; `extra: error` says otherwise.",
            "anyOf": [
                { "type": "string" },
                { "type": "object", "additionalProperties": field }
            ]
        })
    }
}

/// A type as it is written: a text, or a map for a list or struct.
pub fn read_type(node: &Node, diagnostics: &mut Diagnostics) -> Option<FieldSpec> {
    if crate::decode::refuse_secret(node, "type", diagnostics) {
        return None;
    }
    match &node.value {
        Value::String(text) => parse::parse(text, node, diagnostics),
        Value::Map(entries) => match entries.as_slice() {
            [] => {
                let problem = Diagnostic::error(codes::BAD_TYPE, node.head(), "a struct without fields is no type");
                diagnostics.push(problem.help("write `{ field: type }`"));
                None
            }
            [entry] if entry.key == "list" => {
                let item = read_type(&entry.value, diagnostics)?;
                Some(FieldSpec { ty: ColumnType::List(Box::new(item)), nullable: false })
            }
            entries => {
                let fields: Vec<_> = entries
                    .iter()
                    .map(|entry| Some((entry.key.clone(), read_type(&entry.value, diagnostics)?)))
                    .collect();
                let fields = fields.into_iter().collect::<Option<Vec<_>>>()?;
                Some(FieldSpec { ty: ColumnType::Struct(fields), nullable: false })
            }
        },
        Value::List(items) if items.len() == 1 => {
            let problem = Diagnostic::error(codes::BAD_TYPE, node.span, "a list type is written in another way");
            diagnostics.push(problem.help("write `list<T>` or `{ list: T }`"));
            None
        }
        _ => {
            let what = crate::decode::found(node);
            let problem = Diagnostic::error(codes::BAD_TYPE, node.span, format!("a type is due here, not {what}"));
            diagnostics.push(problem.help("write a type such as `string`, `int64` or `float64 | null`"));
            None
        }
    }
}

/// Reads a schema: the path of a file relative to `base_dir`, or the columns themselves.
pub fn read_schema(
    node: &Node,
    base_dir: &Path,
    files: &dyn Files,
    sources: &mut SourceMap,
    diagnostics: &mut Diagnostics,
) -> Option<SchemaSpec> {
    if crate::decode::refuse_secret(node, "schema", diagnostics) {
        return None;
    }
    match &node.value {
        // A path that is not known yet was said to be so where it was substituted.
        Value::String(_) if node.is_placeholder() => None,
        Value::String(path) if path.trim().is_empty() => {
            let problem = Diagnostic::error(codes::BAD_SCHEMA, node.span, "the path of the schema is empty");
            diagnostics.push(problem.help("write the path of a schema file, or the columns: `{ name: string }`"));
            None
        }
        Value::String(path) => {
            let extension = Path::new(path).extension().and_then(|extension| extension.to_str()).unwrap_or_default();
            if let Some(format) = match extension {
                "avsc" => Some("Avro"),
                "proto" => Some("Protobuf"),
                _ => None,
            } {
                diagnostics.push(not_built(node.span, format));
                return None;
            }
            let path = base_dir.join(path);
            let (_, parsed) = yaml::read_file(&path, Some(node.span), files, sources, diagnostics)?;
            read_columns(&parsed.root?, extension == "json", diagnostics)
        }
        Value::Map(_) => read_columns(node, false, diagnostics),
        _ => {
            let what = crate::decode::found(node);
            let problem = Diagnostic::error(codes::BAD_SCHEMA, node.span, format!("a schema is due here, not {what}"));
            diagnostics.push(problem.help("write the path of a schema file, or the columns: `{ name: string }`"));
            None
        }
    }
}

fn not_built(span: Span, format: &str) -> Diagnostic {
    Diagnostic::error(codes::NOT_BUILT, span, format!("schemas in {format} are not built yet"))
        .help("write the columns as a map of column to type, or as JSON Schema")
}

fn read_columns(node: &Node, is_json: bool, diagnostics: &mut Diagnostics) -> Option<SchemaSpec> {
    let Value::Map(entries) = &node.value else {
        let what = crate::decode::found(node);
        let problem =
            Diagnostic::error(codes::BAD_SCHEMA, node.span, format!("a schema is a map of columns, not {what}"));
        diagnostics.push(problem.help("write one column a line: `name: type`"));
        return None;
    };
    if node.get("type").is_some_and(|ty| ty.as_str() == Some("record"))
        && node.get("fields").is_some_and(|fields| matches!(fields.value, Value::List(_)))
    {
        diagnostics.push(not_built(node.head(), "Avro"));
        return None;
    }
    let has_map = |key: &str| node.get(key).is_some_and(|value| matches!(value.value, Value::Map(_)));
    if is_json || node.get("$schema").is_some() || has_map("properties") || has_map("$defs") {
        return json_schema::read(node, diagnostics);
    }

    let mut extra_error = false;
    let mut ok = true;
    let columns: Vec<&crate::Entry> = match node.get("fields").map(|fields| &fields.value) {
        Some(Value::Map(fields))
            if entries.iter().all(|entry| ["fields", "extra", "description"].contains(&entry.key.as_str())) =>
        {
            if let Some(extra) = node.get("extra") {
                (extra_error, ok) = read_extra(extra, diagnostics);
            }
            fields.iter().collect()
        }
        _ => {
            // `error` and `ignore` are no types, so `extra` can be told from a column of that name.
            let is_extra = |entry: &&crate::Entry| {
                entry.key == "extra" && matches!(entry.value.as_str(), Some("error" | "ignore"))
            };
            extra_error = entries.iter().filter(is_extra).any(|entry| entry.value.as_str() == Some("error"));
            entries.iter().filter(|entry| !is_extra(entry)).collect()
        }
    };
    if columns.is_empty() {
        let problem = Diagnostic::error(codes::BAD_SCHEMA, node.head(), "this schema has no columns");
        diagnostics.push(problem.help("write one column a line: `name: type`"));
        return None;
    }
    let mut fields = Vec::with_capacity(columns.len());
    for entry in columns {
        match read_type(&entry.value, diagnostics) {
            Some(field) => fields.push((entry.key.clone(), field, entry.key_span)),
            None => ok = false,
        }
    }
    ok.then_some(SchemaSpec { fields, extra_error })
}

fn read_extra(node: &Node, diagnostics: &mut Diagnostics) -> (bool, bool) {
    match node.as_str() {
        Some("error") => (true, true),
        Some("ignore") => (false, true),
        _ => {
            let what = crate::decode::found(node);
            let problem = Diagnostic::error(codes::UNKNOWN_VALUE, node.span, format!("`extra` can't be {what}"));
            diagnostics.push(problem.help("it is `error` or `ignore`"));
            (false, false)
        }
    }
}

#[cfg(test)]
mod tests;
