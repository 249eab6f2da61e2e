//! JSON Schema to column types.
//!
//! What a column type can say is taken: `type`, `format`, `properties`, `required`, `items`, `enum`, local `$ref`s, `null`
//! as an alternative. A part that would need another type is an error that names it; a part that only narrows values
//! (`minimum`, `pattern`, ...) is not checked on rows, which a warning says.

use engine_base::codes::spec as codes;
use engine_base::{Diagnostic, Diagnostics, Span};

use super::{ColumnType, FieldSpec, SchemaSpec};
use crate::node::{Entry, Node, Value};

/// How deep `$ref`s and types may nest: a schema that refers to itself has no end.
const MAX_DEPTH: usize = 32;

/// Keywords that describe and don't restrict.
const ANNOTATIONS: &[&str] = &[
    "$schema",
    "$id",
    "$defs",
    "definitions",
    "$comment",
    "$anchor",
    "title",
    "description",
    "examples",
    "example",
    "default",
    "deprecated",
    "readOnly",
    "writeOnly",
    "contentMediaType",
];

/// Keywords that this module reads.
const READ: &[&str] = &[
    "type",
    "format",
    "properties",
    "required",
    "items",
    "enum",
    "const",
    "$ref",
    "nullable",
    "oneOf",
    "anyOf",
    "allOf",
    "additionalProperties",
    "contentEncoding",
    "unevaluatedProperties",
];

/// Keywords that narrow values.
const NARROWING: &[&str] = &[
    "minimum",
    "maximum",
    "exclusiveMinimum",
    "exclusiveMaximum",
    "multipleOf",
    "minLength",
    "maxLength",
    "pattern",
    "minItems",
    "maxItems",
    "uniqueItems",
    "contains",
    "minContains",
    "maxContains",
    "minProperties",
    "maxProperties",
    "propertyNames",
    "dependentRequired",
];

struct Reader<'n, 'd> {
    root: &'n Node,
    diagnostics: &'d mut Diagnostics,
    narrowing: Vec<(String, Span)>,
}

pub(super) fn read(root: &Node, diagnostics: &mut Diagnostics) -> Option<SchemaSpec> {
    let mut reader = Reader { root, diagnostics, narrowing: Vec::new() };
    let spec = reader.root();
    if let Some((first, span)) = reader.narrowing.first().cloned() {
        let mut names: Vec<String> = reader.narrowing.iter().map(|(name, _)| format!("`{name}`")).collect();
        names.sort();
        names.dedup();
        let message = match names.len() {
            1 => format!("`{first}` of a JSON Schema is not checked on rows"),
            _ => format!("{} of a JSON Schema are not checked on rows", names.join(", ")),
        };
        reader.diagnostics.push(
            Diagnostic::warning(codes::UNSUPPORTED_JSON_SCHEMA, span, message)
                .help("check values with a `filter`, whose rejected rows are `name.rejected`"),
        );
    }
    spec
}

impl<'n> Reader<'n, '_> {
    fn unsupported(&mut self, span: Span, what: &str, help: &str) {
        let message = format!("{what} has no column type");
        self.diagnostics.push(Diagnostic::error(codes::UNSUPPORTED_JSON_SCHEMA, span, message).help(help));
    }

    fn root(&mut self) -> Option<SchemaSpec> {
        let node = self.follow(self.root, 0)?;
        let Some(Value::Map(_)) = node.get("properties").map(|properties| &properties.value) else {
            let problem = Diagnostic::error(codes::BAD_SCHEMA, node.head(), "this JSON Schema has no `properties`");
            self.diagnostics.push(problem.help("a row is an object: write `type: object` and `properties`"));
            return None;
        };
        self.check_keywords(node);
        let extra_error = closed(node);
        let fields = self.properties(node, 0)?;
        Some(SchemaSpec {
            fields: fields.into_iter().map(|(entry, field)| (entry.key.clone(), field, entry.key_span)).collect(),
            extra_error,
        })
    }

    /// The schema that `$ref`s lead to.
    fn follow(&mut self, node: &'n Node, depth: usize) -> Option<&'n Node> {
        let mut node = node;
        for _ in depth..MAX_DEPTH {
            let Some(reference) = node.entry("$ref") else { return Some(node) };
            let text = reference.value.as_str().unwrap_or_default();
            let target = text.strip_prefix('#').and_then(|pointer| {
                pointer
                    .split('/')
                    .skip(1)
                    .try_fold(self.root, |node, part| node.get(&part.replace("~1", "/").replace("~0", "~")))
            });
            match target {
                Some(target) => node = target,
                None if text.starts_with('#') => {
                    let problem =
                        Diagnostic::error(codes::BAD_SCHEMA, reference.value.span, format!("`{text}` leads nowhere"));
                    self.diagnostics.push(problem.help("define it under `$defs`"));
                    return None;
                }
                None => {
                    self.unsupported(
                        reference.value.span,
                        "a `$ref` to another file",
                        "copy the definition under `$defs` and write `#/$defs/NAME`",
                    );
                    return None;
                }
            }
        }
        self.unsupported(
            node.head(),
            "a type that holds itself",
            "use `type: object` without `properties`, which is read as `json`",
        );
        None
    }

    fn check_keywords(&mut self, node: &Node) -> bool {
        let mut ok = true;
        for entry in node.entries() {
            let key = entry.key.as_str();
            if NARROWING.contains(&key) {
                self.narrowing.push((entry.key.clone(), entry.key_span));
            } else if !ANNOTATIONS.contains(&key) && !READ.contains(&key) && !key.starts_with("x-") {
                self.unsupported(
                    entry.key_span,
                    &format!("`{key}`"),
                    "remove it, or describe the column in our own form: `name: type`",
                );
                ok = false;
            }
        }
        ok
    }

    fn properties(&mut self, node: &'n Node, depth: usize) -> Option<Vec<(&'n Entry, FieldSpec)>> {
        let required: Vec<&str> = match node.get("required").map(|required| &required.value) {
            Some(Value::List(items)) => items.iter().filter_map(Node::as_str).collect(),
            _ => Vec::new(),
        };
        let properties = node.get("properties")?.entries();
        let fields: Vec<Option<_>> = properties
            .iter()
            .map(|entry| {
                let mut field = self.field(&entry.value, depth + 1)?;
                field.nullable |= !required.contains(&entry.key.as_str());
                Some((entry, field))
            })
            .collect();
        fields.into_iter().collect()
    }

    fn field(&mut self, node: &'n Node, depth: usize) -> Option<FieldSpec> {
        if depth > MAX_DEPTH {
            self.unsupported(
                node.head(),
                "a type that holds itself",
                "use `type: object` without `properties`, which is read as `json`",
            );
            return None;
        }
        if let Value::Bool(true) = node.value {
            return Some(FieldSpec { ty: ColumnType::Json, nullable: true });
        }
        let node = self.follow(node, depth)?;
        if !self.check_keywords(node) {
            return None;
        }
        for key in ["oneOf", "anyOf", "allOf"] {
            if let Some(entry) = node.entry(key) {
                return self.alternatives(entry, key == "allOf", depth);
            }
        }
        let mut nullable = matches!(node.get("nullable").map(|value| &value.value), Some(Value::Bool(true)));
        let mut names: Vec<&str> = match node.get("type").map(|ty| &ty.value) {
            Some(Value::String(name)) => vec![name],
            Some(Value::List(items)) => items.iter().filter_map(Node::as_str).collect(),
            _ => Vec::new(),
        };
        let before = names.len();
        names.retain(|name| *name != "null");
        nullable |= names.len() < before;
        let ty = match names.as_slice() {
            [] if before > 0 => {
                self.unsupported(
                    node.span_at(&["type"]),
                    "`null` alone",
                    "name the type that it has when it is not null",
                );
                return None;
            }
            [] => match node.entry("enum").or_else(|| node.entry("const")) {
                Some(values) => self.type_of_values(values)?,
                None if node.get("properties").is_some() => self.object(node, depth)?,
                None if node.get("items").is_some() => self.array(node, depth)?,
                None => ColumnType::Json,
            },
            [name] => self.named(node, name, depth)?,
            [first, ..] if names.iter().all(|name| matches!(*name, "integer" | "number")) => {
                self.named(node, if names.contains(&"number") { "number" } else { first }, depth)?
            }
            _ => {
                self.unsupported(
                    node.span_at(&["type"]),
                    "more than one type",
                    "name one; for values of many types leave `type` out, which is read as `json`",
                );
                return None;
            }
        };
        Some(FieldSpec { ty, nullable })
    }

    fn named(&mut self, node: &'n Node, name: &str, depth: usize) -> Option<ColumnType> {
        let format = node.get("format").and_then(Node::as_str).unwrap_or_default();
        let encoding = node.get("contentEncoding").and_then(Node::as_str).unwrap_or_default();
        Some(match name {
            "string" => match format {
                "date-time" => ColumnType::timestamp(),
                "date" => ColumnType::Date,
                "byte" | "binary" => ColumnType::Binary,
                _ if encoding == "base64" => ColumnType::Binary,
                _ => ColumnType::String,
            },
            "integer" => match format {
                "int8" => ColumnType::Int8,
                "int16" => ColumnType::Int16,
                "int32" => ColumnType::Int32,
                "uint8" => ColumnType::UInt8,
                "uint16" => ColumnType::UInt16,
                "uint32" => ColumnType::UInt32,
                "uint64" | "uint" => ColumnType::UInt64,
                _ => ColumnType::Int64,
            },
            "number" => match format {
                "float" => ColumnType::Float32,
                _ => ColumnType::Float64,
            },
            "boolean" => ColumnType::Bool,
            "object" => self.object(node, depth)?,
            "array" => self.array(node, depth)?,
            other => {
                let known = ["string", "integer", "number", "boolean", "object", "array", "null"];
                let problem = Diagnostic::error(
                    codes::BAD_SCHEMA,
                    node.span_at(&["type"]),
                    format!("`{other}` is not a type of JSON Schema"),
                );
                self.diagnostics
                    .push(problem.did_you_mean(other, known).help(format!("the types are {}", known.join(", "))));
                return None;
            }
        })
    }

    fn object(&mut self, node: &'n Node, depth: usize) -> Option<ColumnType> {
        if node.get("properties").is_some_and(|properties| !properties.entries().is_empty()) {
            let fields = self.properties(node, depth)?;
            return Some(ColumnType::Struct(
                fields.into_iter().map(|(entry, field)| (entry.key.clone(), field)).collect(),
            ));
        }
        match node.get("additionalProperties") {
            Some(values) if matches!(values.value, Value::Map(_)) => {
                let value = self.field(values, depth + 1)?;
                Some(ColumnType::Map(Box::new(ColumnType::String), Box::new(value)))
            }
            _ => Some(ColumnType::Json),
        }
    }

    fn array(&mut self, node: &'n Node, depth: usize) -> Option<ColumnType> {
        match node.get("items") {
            Some(items) if matches!(items.value, Value::Map(_)) => {
                Some(ColumnType::List(Box::new(self.field(items, depth + 1)?)))
            }
            Some(items) if matches!(items.value, Value::List(_)) => {
                self.unsupported(
                    items.span,
                    "an array with a type for each place",
                    "use an object with a name for each place",
                );
                None
            }
            _ => Some(ColumnType::Json),
        }
    }

    fn alternatives(&mut self, entry: &'n Entry, all: bool, depth: usize) -> Option<FieldSpec> {
        let Value::List(items) = &entry.value.value else {
            self.unsupported(entry.key_span, &format!("this `{}`", entry.key), "write a list");
            return None;
        };
        let is_null = |node: &Node| node.get("type").is_some_and(|ty| ty.as_str() == Some("null"));
        let others: Vec<&Node> = items.iter().filter(|item| all || !is_null(item)).collect();
        match others.as_slice() {
            [only] => {
                let mut field = self.field(only, depth + 1)?;
                field.nullable |= !all && items.len() > 1;
                Some(field)
            }
            _ => {
                let what = format!("`{}` of several types", entry.key);
                self.unsupported(
                    entry.key_span,
                    &what,
                    "name one type, which may be null; for values of many types leave it out, which is read as `json`",
                );
                None
            }
        }
    }

    fn type_of_values(&mut self, entry: &Entry) -> Option<ColumnType> {
        let values: Vec<&Node> = match &entry.value.value {
            Value::List(items) => items.iter().collect(),
            _ => vec![&entry.value],
        };
        let all = |is: fn(&Value) -> bool| !values.is_empty() && values.iter().all(|node| is(&node.value));
        if all(|value| matches!(value, Value::String(_))) {
            Some(ColumnType::String)
        } else if all(|value| matches!(value, Value::Int(_))) {
            Some(ColumnType::Int64)
        } else if all(|value| matches!(value, Value::Int(_) | Value::Float(_))) {
            Some(ColumnType::Float64)
        } else if all(|value| matches!(value, Value::Bool(_))) {
            Some(ColumnType::Bool)
        } else {
            self.unsupported(
                entry.key_span,
                &format!("`{}` of values of many types", entry.key),
                "name a `type` beside it",
            );
            None
        }
    }
}

/// Whether an object takes no other fields.
fn closed(node: &Node) -> bool {
    ["additionalProperties", "unevaluatedProperties"]
        .iter()
        .any(|key| matches!(node.get(key).map(|value| &value.value), Some(Value::Bool(false))))
}
