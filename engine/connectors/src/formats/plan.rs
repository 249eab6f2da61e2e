//! `format:` as it is written, checked and planned, for every connector that decodes or encodes.

use super::columns::Column;
use super::csv::{CsvDecoder, CsvEncoder, CsvOptions};
use super::json::{JsonDecoder, JsonEncoder};
use super::raw::{LINE, RawDecoder};
use super::split::Splitting;
use super::{RecordDecoder, RecordEncoder, Timestamps};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use engine_base::Diagnostic;
use engine_base::codes::{connector as codes, spec};
use engine_plan::language::FORMATS_NOT_BUILT;
use engine_plan::{Cx, SinkCommon, SourceCommon};
use engine_spec::{Node, Value};
use schemars::JsonSchema;
use serde::Deserialize;
use std::sync::Arc;

/// A format with its options.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Format {
    Json,
    Csv(CsvOptions),
    Raw,
}

/// The options of `format: { type: csv }`.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct CsvConfig {
    /// The character between fields; a comma unless said.
    delimiter: String,
    /// The character around fields that hold delimiters, quotes or line ends; `"` unless said. Inside it is doubled.
    quote: String,
    /// Whether the first record of a file names the columns. Columns are then found by name, in any order, and others are
    /// ignored; a file whose header lacks a column that may not be null stops the source. Without a header columns stand in
    /// the order of the schema.
    header: bool,
    /// A field with this text is null, in a column of any type. An empty field is null anyway, except in a `string` column.
    null: Option<String>,
}

impl Default for CsvConfig {
    fn default() -> Self {
        CsvConfig { delimiter: ",".to_owned(), quote: "\"".to_owned(), header: true, null: None }
    }
}

/// A format without options.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct NoOptions {}

/// The formats that can be read, then those that can be written.
const DECODED: &[&str] = &["json", "csv", "raw"];
const ENCODED: &[&str] = &["json", "csv"];

/// A planned `format:` of a source.
#[derive(Clone, Debug)]
pub struct Decoding {
    format: Format,
    schema: SchemaRef,
    extra_error: bool,
}

/// A planned `format:` of a sink.
#[derive(Clone, Debug)]
pub struct Encoding {
    format: Format,
    timestamps: Timestamps,
}

impl Decoding {
    /// Checks `format` and `schema` of a source. `json` where no format is named.
    pub fn plan(cx: &mut Cx<'_>, common: &SourceCommon) -> Option<Self> {
        let format = format(cx, common.format.as_ref(), DECODED)?;
        let schema = match (&format, &common.schema) {
            (Format::Raw, Some(_)) => {
                let span =
                    cx.component.node.entry("schema").map_or_else(|| cx.span(&["schema"]), |entry| entry.key_span);
                let found = Diagnostic::error(codes::SCHEMA_NOT_TAKEN, span, "`format: raw` takes no schema")
                    .help("leave `schema` out: there is one column, `line`, of type `string`");
                cx.push(found);
                return None;
            }
            (Format::Raw, None) => Arc::new(Schema::new(vec![Field::new(LINE, DataType::Utf8, false)])),
            (_, Some(schema)) => schema.clone(),
            (_, None) => {
                // A schema that is there and could not be read has been told of already.
                if cx.component.node.get("schema").is_none() {
                    let found = Diagnostic::error(codes::SCHEMA_NEEDED, cx.component.name_span, "a schema is missing")
                        .at_caret("this source has no `schema`")
                        .help("name its columns: `schema: { id: int64, at: timestamp, note: string | null }`");
                    cx.push(found);
                }
                return None;
            }
        };
        let decoding = Decoding { format, schema, extra_error: common.extra_error };
        decoding.types_are_carried(cx).then_some(decoding)
    }

    fn types_are_carried(&self, cx: &mut Cx<'_>) -> bool {
        let mut carried = true;
        for field in self.schema.fields() {
            let nested = matches!(field.data_type(), DataType::List(_) | DataType::Map(_, _) | DataType::Struct(_));
            let problem = match Column::new(field) {
                Err(problem) => problem,
                Ok(_) if nested && matches!(self.format, Format::Csv(_)) => {
                    format!("CSV can't carry `{}`, which is a list, a map or a struct", field.name())
                }
                Ok(_) => continue,
            };
            carried = false;
            let inline = cx.component.node.at(&["schema", field.name()]).map(|node| node.span);
            let span = inline.unwrap_or_else(|| cx.span(&["schema"]));
            let found = Diagnostic::error(codes::TYPE_NOT_CARRIED, span, problem)
                .help("read it as `string` or `json` and take it apart in a `map` step");
            cx.push(found);
        }
        carried
    }

    /// JSON without a pipeline that says so, for tests and fuzz targets.
    #[doc(hidden)]
    pub fn json(schema: SchemaRef, extra_error: bool) -> Self {
        Decoding { format: Format::Json, schema, extra_error }
    }

    /// CSV without a pipeline that says so, for tests and fuzz targets.
    #[doc(hidden)]
    pub fn csv(schema: SchemaRef, options: CsvOptions, extra_error: bool) -> Self {
        Decoding { format: Format::Csv(options), schema, extra_error }
    }

    /// Lines without a pipeline that says so, for tests and fuzz targets.
    #[doc(hidden)]
    pub fn raw() -> Self {
        let schema = Arc::new(Schema::new(vec![Field::new(LINE, DataType::Utf8, false)]));
        Decoding { format: Format::Raw, schema, extra_error: false }
    }

    /// The columns that records have.
    pub fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    /// A decoder of `columns`, which are some of the schema's. It gives them in this order.
    pub fn decoder(&self, columns: &[Arc<Field>]) -> Result<Box<dyn RecordDecoder>, String> {
        Ok(match &self.format {
            Format::Json => Box::new(JsonDecoder::new(&self.schema, columns, self.extra_error)?),
            Format::Csv(options) => {
                Box::new(CsvDecoder::new(&self.schema, columns, options.clone(), self.extra_error)?)
            }
            Format::Raw => Box::new(RawDecoder::new(columns)?),
        })
    }

    /// How records are found in a stream of bytes.
    pub fn splitting(&self) -> Splitting {
        match &self.format {
            Format::Csv(options) => Splitting::Csv { delimiter: options.delimiter, quote: options.quote },
            Format::Json | Format::Raw => Splitting::Lines,
        }
    }

    /// Whether the first record of a file is a header.
    pub fn has_header(&self) -> bool {
        matches!(&self.format, Format::Csv(options) if options.header)
    }

    /// Its name, for the dry-run.
    pub fn name(&self) -> &'static str {
        self.format.name()
    }
}

impl Encoding {
    /// Checks `format` and `timestamps` of a sink. `json` where no format is named.
    pub fn plan(cx: &mut Cx<'_>, common: &SinkCommon) -> Option<Self> {
        let format = format(cx, common.format.as_ref(), ENCODED);
        let timestamps = match &common.timestamps {
            None => Some(Timestamps::default()),
            Some(node) => node.decode(cx.diagnostics),
        };
        Some(Encoding { format: format?, timestamps: timestamps? })
    }

    /// A format with its default options.
    #[cfg(test)]
    pub(crate) fn of(name: &str) -> Self {
        let format = if name == "csv" { Format::Csv(CsvOptions::default()) } else { Format::Json };
        Encoding { format, timestamps: Timestamps::default() }
    }

    /// An encoder of rows of this schema.
    pub fn encoder(&self, schema: &SchemaRef) -> Box<dyn RecordEncoder> {
        match &self.format {
            Format::Csv(options) => Box::new(CsvEncoder::new(schema, options.clone(), self.timestamps)),
            Format::Json | Format::Raw => Box::new(JsonEncoder::new(schema, self.timestamps)),
        }
    }

    /// Its name, for the dry-run.
    pub fn name(&self) -> &'static str {
        self.format.name()
    }
}

impl Format {
    fn name(&self) -> &'static str {
        match self {
            Format::Json => "json",
            Format::Csv(_) => "csv",
            Format::Raw => "raw",
        }
    }
}

/// Reads the node of `format:`.
fn format(cx: &mut Cx<'_>, node: Option<&Node>, built: &[&str]) -> Option<Format> {
    let Some(node) = node else { return Some(Format::Json) };
    let (name, named_at, options) = match &node.value {
        Value::Map(_) => match node.get("type") {
            Some(name) => (name.as_str(), name.span, Some(node.without(&["type"]))),
            None => {
                let found = Diagnostic::error(spec::MISSING_KEY, node.span, "a format needs a `type`")
                    .help("write `format: json`, or `format: { type: csv, delimiter: \";\" }`");
                cx.push(found);
                return None;
            }
        },
        _ => (node.as_str(), node.span, None),
    };
    let Some(name) = name else {
        cx.push(
            Diagnostic::error(spec::WRONG_TYPE, named_at, "a format is a name")
                .help(format!("the formats are {}", list(built))),
        );
        return None;
    };
    match name {
        _ if FORMATS_NOT_BUILT.contains(&name) => {
            let found = Diagnostic::error(spec::NOT_BUILT, named_at, format!("the format `{name}` is not built yet"))
                .help(format!("the formats are {}", list(built)));
            cx.push(found);
            None
        }
        "raw" if !built.contains(&"raw") => {
            let found =
                Diagnostic::error(codes::FORMAT_ONE_WAY, named_at, "the format `raw` can be read only, not written")
                    .help("write `format: csv` with one column, or `format: json`");
            cx.push(found);
            None
        }
        "json" | "raw" => {
            if let Some(options) = options {
                options.decode::<NoOptions>(cx.diagnostics)?;
            }
            Some(if name == "json" { Format::Json } else { Format::Raw })
        }
        "csv" => {
            let config = match &options {
                Some(options) => options.decode::<CsvConfig>(cx.diagnostics)?,
                None => CsvConfig::default(),
            };
            csv_options(cx, node, config).map(Format::Csv)
        }
        other => {
            let mut found = Diagnostic::error(codes::UNKNOWN_FORMAT, named_at, format!("there is no format `{other}`"));
            found = match other {
                "jsonl" | "ndjson" | "json_lines" | "jsonlines" => found.help("JSON Lines is `format: json`"),
                "text" | "lines" | "line" | "plain" => found.help("lines of text are `format: raw`"),
                _ => found.did_you_mean(other, built.iter().copied()),
            };
            if found.help.is_empty() {
                found = found.help(format!("the formats are {}", list(built)));
            }
            cx.push(found);
            None
        }
    }
}

fn csv_options(cx: &mut Cx<'_>, node: &Node, config: CsvConfig) -> Option<CsvOptions> {
    let mut character = |key: &str, text: &str| match text.as_bytes() {
        [byte @ (b'\t' | b' '..=b'~')] => Some(*byte),
        _ => {
            let span = node.span_at(&[key]);
            let found =
                Diagnostic::error(codes::BAD_FORMAT_OPTION, span, format!("`{key}` must be one ASCII character"))
                    .help(format!("write one character: `{key}: {}`", if key == "quote" { "\"'\"" } else { "\";\"" }));
            cx.push(found);
            None
        }
    };
    let (delimiter, quote) = (character("delimiter", &config.delimiter), character("quote", &config.quote));
    let (delimiter, quote) = (delimiter?, quote?);
    if delimiter == quote {
        let found = Diagnostic::error(
            codes::BAD_FORMAT_OPTION,
            node.span_at(&["quote"]),
            "`quote` and `delimiter` are the same character",
        )
        .help("let one of them be another character");
        cx.push(found);
        return None;
    }
    Some(CsvOptions { delimiter, quote, header: config.header, null: config.null })
}

fn list(names: &[&str]) -> String {
    names.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ")
}
