//! `tests:`: what `engine test` runs on a virtual clock. Names, columns and values are checked by whoever has the plan.

use engine_base::Diagnostics;
use indexmap::IndexMap;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::Deserialize;
use std::borrow::Cow;

use crate::node::{Node, Value};
use crate::value::TimeSpan;

/// A test of the pipeline, run by `engine test` on a virtual clock.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "Test")]
pub struct TestConfig {
    /// What is shown, in a few words.
    pub name: String,
    /// What models answer: by `predict` step or by model.
    #[schemars(with = "Option<IndexMap<String, MockConfig>>")]
    pub mock: Option<IndexMap<String, Node>>,
    /// Where the clock stands at the beginning; `2026-01-01T00:00:00Z` unless said.
    pub clock: Option<String>,
    /// What happens, in order.
    pub steps: Vec<TestStepConfig>,
}

/// Something that happens in a test, or is expected of it.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(rename = "TestStep")]
pub enum TestStepConfig {
    /// Rows come in: by source a list of rows, or `{ file: rows.jsonl }`.
    Give(#[schemars(with = "IndexMap<String, RowsConfig>")] IndexMap<String, Node>),
    /// No row from before this time is expected any more: of all sources, or by source.
    Watermark(#[schemars(with = "WatermarkConfig")] Node),
    /// The clock goes on.
    Advance(TimeSpan),
    /// These sources fall silent: the others go on without them. They are no longer silent once they give a row.
    Idle(#[schemars(with = "NamesConfig")] Node),
    /// These sources come to their end; `all` for all of them.
    End(#[schemars(with = "NamesConfig")] Node),
    /// What came out since the last time that a name was asked for: by sink, step or side output a list of rows, or a map
    /// that says more.
    Expect(#[schemars(with = "IndexMap<String, ExpectConfig>")] IndexMap<String, Node>),
    /// The process dies. Not built yet.
    #[schemars(skip)]
    Crash(Node),
}

/// What an `expect` says of an output, where a list of rows is not enough.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "ExpectedRows")]
pub struct ExpectedConfig {
    /// The rows, in the columns that matter.
    #[schemars(with = "Option<Vec<IndexMap<String, serde_json::Value>>>")]
    pub rows: Option<Node>,
    /// A file of rows, one JSON object a line.
    pub file: Option<String>,
    /// The rows come in this order; else in any.
    #[serde(default)]
    pub ordered: bool,
    /// Rows have no other columns than those that are written.
    #[serde(default)]
    pub exact: bool,
    /// There may be more rows than these.
    #[serde(default)]
    pub subset: bool,
    /// By how much numbers may differ; not at all unless said.
    pub tolerance: Option<f64>,
}

/// What is put into the JSON Schema for a part that is read as a node.
macro_rules! schema_of {
    ($type:ident, $name:literal, $schema:tt) => {
        struct $type;

        impl JsonSchema for $type {
            fn schema_name() -> Cow<'static, str> {
                $name.into()
            }
            fn json_schema(generator: &mut SchemaGenerator) -> Schema {
                let _ = &generator;
                json_schema!($schema)
            }
        }
    };
}

schema_of!(RowsConfig, "GivenRows", {
    "description": "Rows, each a map of columns; or a file with one JSON object a line.",
    "anyOf": [
        { "type": "array", "items": { "type": "object" } },
        { "type": "object", "properties": { "file": { "type": "string" } }, "required": ["file"], "additionalProperties": false }
    ]
});

schema_of!(WatermarkConfig, "TestWatermark", {
    "description": "A time for all sources, or a map of source to time.",
    "anyOf": [{ "type": "string" }, { "type": "object", "additionalProperties": { "type": "string" } }]
});

schema_of!(NamesConfig, "SourceNames", {
    "description": "The name of a source, or a list of them.",
    "anyOf": [{ "type": "string" }, { "type": "array", "items": { "type": "string" } }]
});

schema_of!(MockConfig, "Mock", {
    "description": "An answer for all rows (a value or an expression), or a map of new column to answer. With `fail` rows fail with \
                    that reason: all, or those at the places `rows` (`1..3`) among the rows given, or those `where` a condition holds.",
    "anyOf": [
        { "type": ["number", "string", "boolean", "array"] },
        {
            "type": "object",
            "properties": { "fail": { "type": "string" }, "rows": { "type": ["string", "integer"] }, "where": { "type": "string" } },
            "additionalProperties": { "type": ["number", "string", "boolean", "array"] }
        }
    ]
});

struct ExpectConfig;

impl JsonSchema for ExpectConfig {
    fn schema_name() -> Cow<'static, str> {
        "Expect".into()
    }
    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let more = generator.subschema_for::<ExpectedConfig>();
        json_schema!({
            "description": "Rows in the columns that matter, or a map that says more.",
            "anyOf": [{ "type": "array", "items": { "type": "object" } }, more]
        })
    }
}

/// A test as it is written.
#[derive(Clone, Debug)]
pub struct Test {
    /// Its keys.
    pub config: TestConfig,
    /// Where they stand.
    pub node: Node,
}

/// Reads the section; a test that can't be read is reported and left out.
pub(super) fn read(root: &Node, diagnostics: &mut Diagnostics) -> Vec<Test> {
    let Some(Node { value: Value::List(items), .. }) = root.get("tests") else { return Vec::new() };
    // What is wrong with one is reported with the frame, which decodes them all.
    let mut found = Diagnostics::new();
    let tests = items.iter().filter_map(|node| Some(Test { config: node.decode(&mut found)?, node: node.clone() }));
    let tests: Vec<Test> = tests.collect();
    let mut names = std::collections::HashMap::new();
    for test in &tests {
        let span = test.node.span_at(&["name"]);
        if let Some(first) = names.insert(test.config.name.clone(), span) {
            diagnostics.push(
                engine_base::Diagnostic::error(
                    engine_base::codes::testing::TEST_NAME,
                    span,
                    format!("there is a test `{}` already", test.config.name),
                )
                .also(first, "the other one")
                .help("tests are chosen and reported by their names: give this one another"),
            );
        }
    }
    tests
}
