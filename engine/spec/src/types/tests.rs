//! Schemas as they are written: our form and JSON Schema.

use std::io;
use std::path::PathBuf;

use engine_base::FileId;

use super::*;

fn parse(text: &str) -> Node {
    yaml::parse(FileId(0), text, &mut Diagnostics::new()).root.unwrap()
}

/// A type as it is written reads as itself, or as the second.
fn check(text: &str, expected: &str) {
    let mut diagnostics = Diagnostics::new();
    let field = read_type(&parse(text), &mut diagnostics);
    assert!(diagnostics.is_empty(), "{text}: {diagnostics:?}");
    assert_eq!(field.unwrap().to_string(), expected, "{text}");
}

#[test]
fn types() {
    for (name, _) in parse::NAMES {
        check(name, name);
    }
    check("string | null", "string | null");
    check("null|string", "string | null");
    check("decimal(18, 2)", "decimal(18, 2)");
    check("decimal(5)", "decimal(5, 0)");
    check("list<string>", "list<string>");
    check("list< list< int64|null > | null >", "list<list<int64 | null> | null>");
    check("map<string, float64 | null>", "map<string, float64 | null>");
    check("{ list: { a: int8, b: { c: date } } }", "list<{ a: int8, b: { c: date } }>");
    check("timestamp(ms)", "timestamp(ms)");
    check("timestamp(ns)", "timestamp");
    check("timestamp(ms, \"Europe/Berlin\")", "timestamp(ms, \"Europe/Berlin\")");
    check("timestamp('UTC')", "timestamp");
}

struct One(&'static str);

impl Files for One {
    fn read(&self, _: &Path) -> io::Result<Vec<u8>> {
        Ok(self.0.as_bytes().to_vec())
    }
    fn env(&self, _: &str) -> Option<String> {
        None
    }
    fn secret(&self, _: &str) -> Option<String> {
        None
    }
    fn glob(&self, _: &Path) -> io::Result<Vec<PathBuf>> {
        Ok(Vec::new())
    }
}

fn schema(path: &str, text: &'static str) -> (Option<String>, Vec<String>) {
    let mut diagnostics = Diagnostics::new();
    let node = parse(path);
    let schema = read_schema(&node, Path::new(""), &One(text), &mut SourceMap::default(), &mut diagnostics);
    let shown = schema.map(|schema| {
        let fields: Vec<String> = schema.fields.iter().map(|(name, field, _)| format!("{name}: {field}")).collect();
        format!("{}{}", fields.join("; "), if schema.extra_error { "; extra: error" } else { "" })
    });
    (shown, diagnostics.iter().map(|item| item.message.clone()).collect())
}

fn check_schema(path: &str, text: &'static str, expected: &str) {
    let (shown, problems) = schema(path, text);
    assert!(problems.is_empty(), "{problems:?}");
    assert_eq!(shown.as_deref(), Some(expected));
}

#[test]
fn our_own_form() {
    check_schema("{ a: string, b: int64 | null }", "", "a: string; b: int64 | null");
    check_schema("s.yaml", "a: string\nextra: error\n", "a: string; extra: error");
    check_schema("s.yaml", "extra: string\nb: { extra: int8 }\n", "extra: string; b: { extra: int8 }");
    check_schema("s.yaml", "description: x\nfields: { extra: string }\nextra: error\n", "extra: string; extra: error");
    check_schema("s.yaml", "fields: string\nextra: ignore\n", "fields: string");
}

#[test]
fn json_schema() {
    check_schema(
        "s.json",
        r##"{
	"$schema": "https://json-schema.org/draft/2020-12/schema",
	"title": "row", "type": "object", "additionalProperties": false,
	"required": ["id", "at", "maybe", "tags", "address", "kind", "ref"],
	"properties": {
		"id": { "type": "string", "format": "uuid" },
		"at": { "type": "string", "format": "date-time" },
		"day": { "type": "string", "format": "date" },
		"count": { "type": "integer" },
		"small": { "type": "integer", "format": "int32" },
		"amount": { "type": ["number", "null"] },
		"maybe": { "oneOf": [{ "type": "boolean" }, { "type": "null" }] },
		"tags": { "type": "array", "items": { "type": "string" } },
		"address": { "$ref": "#/$defs/address" },
		"kind": { "enum": ["a", "b"] },
		"ref": { "allOf": [{ "$ref": "#/$defs/address" }], "description": "x" },
		"labels": { "type": "object", "additionalProperties": { "type": "string" } },
		"raw": {},
		"bytes": { "type": "string", "contentEncoding": "base64" },
		"openapi": { "type": "string", "nullable": true }
	},
	"$defs": { "address": { "type": "object", "required": ["city"], "properties": { "city": { "type": "string" }, "zip": { "type": "string" } } } }
}"##,
        "id: string; at: timestamp; day: date | null; count: int64 | null; small: int32 | null; amount: float64 | null; \
         maybe: bool | null; tags: list<string>; address: { city: string, zip: string | null }; kind: string; \
         ref: { city: string, zip: string | null }; labels: map<string, string> | null; raw: json | null; \
         bytes: binary | null; openapi: string | null; extra: error",
    );
}

#[test]
fn what_narrows_values_is_said() {
    let (shown, problems) = schema(
        "s.json",
        r#"{ "type": "object", "properties": { "a": { "type": "integer", "minimum": 0, "maximum": 5 } } }"#,
    );
    assert_eq!(shown.as_deref(), Some("a: int64 | null"));
    assert_eq!(problems, ["`maximum`, `minimum` of a JSON Schema are not checked on rows"]);
}

#[test]
fn other_formats_are_refused() {
    for path in ["s.avsc", "s.proto"] {
        let (shown, problems) = schema(path, "");
        assert!(shown.is_none() && problems[0].contains("not built yet"), "{problems:?}");
    }
    let (_, problems) = schema("s.json", r#"{ "type": "record", "name": "x", "fields": [] }"#);
    assert_eq!(problems, ["schemas in Avro are not built yet"]);
}
