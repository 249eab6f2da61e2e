//! The keys that components share whatever their kind. The planner reads them; a kind reads the others.
//!
//! Their doc comments are the reference and the JSON Schema, as a kind's own are.

use engine_spec::{Assignments, Expression, Input, Node, TimeSpan};
use indexmap::IndexMap;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::Deserialize;
use serde_json::json;

/// A key of every source.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct SetKeys {
    /// Columns that are added to those of the schema and of `metadata`, or replace them: column to expression.
    pub(crate) set: Assignments,
}

/// Another, apart from it so that each is read whatever is wrong with the other.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct SourceTimeKeys {
    /// When each row happened.
    pub(crate) event_time: Option<EventTimeKeys>,
}

/// Keys of sources that decode records.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct DecodingKeys {
    /// The columns: the path of a schema file, or a map of column to type, such as `amount: float64` or `note: string | null`.
    #[schemars(with = "Option<engine_spec::SchemaSpec>")]
    pub(crate) schema: Option<Node>,
    /// How a record is read: a name such as `json` or `csv`, or a map with `type` and the format's own keys. In JSON a float
    /// may also be the string `"NaN"`, `"Infinity"` or `"-Infinity"`, as sinks write what is not finite.
    #[schemars(schema_with = "format_form")]
    pub(crate) format: Option<Node>,
    /// What the system knows of each record, as columns: column to `key`, `headers['name']`, `timestamp`, `path` and so on.
    pub(crate) metadata: IndexMap<String, String>,
}

/// When each row happened.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct EventTimeKeys {
    /// The column that tells it. Either this or `value`.
    pub(crate) column: Option<String>,
    /// An expression that tells it. Either this or `column`.
    pub(crate) value: Option<Expression>,
    /// What an integer counts since 1970.
    pub(crate) unit: Option<Unit>,
    /// How far behind the latest row another may come. None unless said.
    pub(crate) max_delay: Option<TimeSpan>,
    /// How long a partition may be silent, at its end and reachable, before the others go on without it; `30s` unless said. When
    /// all are silent, event time goes on with the clock, so that the last windows close.
    pub(crate) idle_after: Option<TimeSpan>,
}

/// What an integer counts since 1970.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Unit {
    /// Seconds.
    S,
    /// Milliseconds.
    Ms,
    /// Microseconds.
    Us,
    /// Nanoseconds.
    Ns,
}

impl Unit {
    pub(crate) fn ns(self) -> i64 {
        match self {
            Unit::S => 1_000_000_000,
            Unit::Ms => 1_000_000,
            Unit::Us => 1_000,
            Unit::Ns => 1,
        }
    }
}

/// The input of a sink, or of an operator with one input.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct OneInput {
    /// What it reads.
    pub(crate) input: Input,
}

/// The inputs of an operator with several.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct ManyInputs {
    /// What it reads: two or more.
    #[schemars(length(min = 2))]
    pub(crate) inputs: Vec<Input>,
}

/// Keys of every sink, beside its input.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct SinkKeys {
    /// Only the rows for which this is true.
    #[serde(rename = "where")]
    pub(crate) filter: Option<Expression>,
    /// What is put out: a list of columns, or a map of new column to expression. All columns in order unless said.
    #[schemars(schema_with = "columns_form")]
    pub(crate) columns: Option<Node>,
    /// What holds of every row when the engine is stopped at any time and started again; what the pipeline says unless said.
    pub(crate) delivery: Option<Delivery>,
}

/// Keys of sinks that encode rows.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct EncodingKeys {
    /// How a row is written: a name such as `json` or `csv`, or a map with `type` and the format's own keys. Floats that are
    /// not finite are `"NaN"`, `"Infinity"` and `"-Infinity"`, which JSON has no numbers for.
    #[schemars(schema_with = "format_form")]
    pub(crate) format: Option<Node>,
    /// How JSON and CSV write a timestamp: `rfc3339` (the default), or `epoch_ms`. RFC 3339 ends with the year 9999; beyond it a
    /// year has a sign, as in ISO 8601: `+10000-01-01T00:00:00Z`.
    #[schemars(schema_with = "timestamps_form")]
    pub(crate) timestamps: Option<Node>,
}

/// What holds of every row when the engine is stopped at any time and started again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Delivery {
    /// It reaches the sink, perhaps more than once.
    AtLeastOnce,
    /// It takes effect once, whatever dies. It needs a state directory (`engine run --state`).
    ExactlyOnce,
}

fn format_form(_: &mut SchemaGenerator) -> Schema {
    let name = json!({ "type": "string", "not": { "enum": crate::language::FORMATS_NOT_BUILT } });
    json_schema!({ "anyOf": [
        name,
        { "type": "object", "properties": { "type": name }, "required": ["type"] }
    ] })
}

fn timestamps_form(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "enum": ["rfc3339", "epoch_ms"] })
}

fn columns_form(generator: &mut SchemaGenerator) -> Schema {
    let expression = generator.subschema_for::<Expression>();
    json_schema!({ "anyOf": [
        { "type": "array", "items": { "type": "string" }, "minItems": 1, "description": "Columns, in order." },
        { "type": "object", "additionalProperties": expression, "minProperties": 1, "description": "New column to expression." }
    ] })
}
