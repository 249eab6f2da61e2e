//! The keys of sinks that write to a table, and what can be told of them before anything runs.

use super::batch::Layout;
use super::columns::{Kind, Sent};
use crate::delivery::{DeliveryKeys, OnError, schema_with_keys};
use arrow::datatypes::{Field, SchemaRef};
use engine_base::codes::{connector, plan as codes, spec, system};
use engine_base::{Diagnostic, SourceMap, Span};
use engine_plan::types::{column_text, unhashable};
use engine_plan::{Columns, Cx, ExactlyOnce, StreamKind, StreamType};
use engine_spec::TimeSpan;
use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::Deserialize;
use serde_json::{Map, Value};
use std::time::Duration;

/// How many rows a transaction has at most, whatever `batch` says.
const BATCH_ROWS_MAX: usize = 100_000;

/// The keys that all of them share.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct TableKeys {
    /// The table, written as the database has it, capitals included: `cases`, or `schema.cases`.
    pub(crate) table: String,
    /// What becomes of a row: `append` (the default) inserts it, `upsert` inserts it or replaces the row with its key. A
    /// changelog needs `upsert`: rows that are taken back are deleted by their key.
    #[serde(default)]
    pub(crate) mode: Mode,
    /// For `upsert`, the columns that tell rows apart. The table must have a unique index or primary key of them. They must not
    /// be null.
    pub(crate) key: Option<KeyColumns>,
    /// Make the table, with `key` as its primary key, if it is not there.
    #[serde(default)]
    pub(crate) create: bool,
    /// How many rows go into one transaction.
    #[serde(default)]
    pub(crate) batch: BatchKeys,
}

impl TableKeys {
    const NAMES: [&str; 5] = ["table", "mode", "key", "create", "batch"];
}

/// What becomes of a row.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Mode {
    /// It is inserted.
    #[default]
    Append,
    /// It is inserted, or replaces the row with its key.
    Upsert,
}

/// Columns.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(untagged, expecting = "a column, or a list of columns")]
pub(crate) enum KeyColumns {
    /// One.
    One(String),
    /// Several.
    Many(Vec<String>),
}

/// How many rows go together.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct BatchKeys {
    /// The most rows of a transaction.
    pub(crate) max_rows: usize,
    /// How long a row may wait for others. Without it a transaction takes what has gathered while the last was on its way.
    pub(crate) max_wait: TimeSpan,
}

impl Default for BatchKeys {
    fn default() -> Self {
        BatchKeys { max_rows: 5_000, max_wait: TimeSpan(0) }
    }
}

/// The JSON Schema of a kind's own keys together with those of tables and of delivery.
pub(crate) fn schema<T: JsonSchema>(generator: &mut SchemaGenerator) -> Schema {
    let mut schema = schema_with_keys::<T>(generator);
    let mut shared = TableKeys::json_schema(generator);
    let shared = shared.ensure_object();
    if let Some(Value::Object(shared)) = shared.remove("properties") {
        let properties = schema.ensure_object().entry("properties").or_insert_with(|| Value::Object(Map::new()));
        if let Value::Object(properties) = properties {
            properties.extend(shared);
        }
    }
    if let Some(Value::Array(shared)) = shared.remove("required") {
        let required = schema.ensure_object().entry("required").or_insert_with(|| Value::Array(Vec::new()));
        if let Value::Array(required) = required {
            required.extend(shared);
        }
    }
    schema
}

/// A table as it was planned.
#[derive(Clone, Debug)]
pub(crate) struct Table {
    /// Its name in parts: the schema, if one was said, and the table.
    pub(crate) name: Vec<String>,
    /// Where it was named, for what is found when the pipeline runs.
    pub(crate) place: String,
    pub(crate) create: bool,
    /// Names of the key's columns; none for `append`.
    pub(crate) key: Vec<String>,
    pub(crate) layout: Layout,
    pub(crate) kinds: Vec<Kind>,
    pub(crate) max_rows: usize,
    pub(crate) max_wait: Duration,
    /// `batch` was said, not left to its defaults.
    pub(crate) batch_said: bool,
    pub(crate) delivery: DeliveryKeys,
}

impl Table {
    /// A table of our own, to which rows are only added: made where it is not there. `place` is where the sink is named.
    pub(crate) fn fixed(
        name: &str,
        schema: &SchemaRef,
        sent: &[(Kind, Sent)],
        place: String,
        delivery: DeliveryKeys,
    ) -> Table {
        let BatchKeys { max_rows, max_wait } = BatchKeys::default();
        let layout = Layout {
            fields: schema.fields().iter().cloned().collect(),
            sent: sent.iter().map(|(_, sent)| *sent).collect(),
            key: Vec::new(),
            all_or_nothing: delivery.on_error == OnError::Stop,
        };
        Table {
            name: vec![name.to_owned()],
            place,
            create: true,
            key: Vec::new(),
            layout,
            kinds: sent.iter().map(|(kind, _)| *kind).collect(),
            max_rows,
            max_wait: max_wait.duration(),
            batch_said: false,
            delivery,
        }
    }

    /// The name as it was written.
    pub(crate) fn written(&self) -> String {
        self.name.join(".")
    }

    /// The name as SQL has it.
    pub(crate) fn quoted(&self) -> String {
        self.name.iter().map(|part| quote(part)).collect::<Vec<_>>().join(".")
    }

    /// The columns.
    pub(crate) fn fields(&self) -> impl Iterator<Item = &Field> {
        self.layout.fields.iter().map(AsRef::as_ref)
    }

    /// A complaint about the table, with the place where it is named.
    pub(crate) fn complaint(&self, problem: impl std::fmt::Display, remedy: impl std::fmt::Display) -> String {
        format!("{}: {problem}; {remedy}", self.place)
    }

    pub(crate) fn reads(&self) -> Vec<Columns> {
        vec![self.fields().map(|field| field.name().clone()).collect()]
    }

    pub(crate) fn facts(&self) -> Vec<(String, String)> {
        let mode = if self.key.is_empty() { "append" } else { "upsert" };
        let mut facts = vec![("table".to_owned(), self.written()), ("mode".to_owned(), mode.to_owned())];
        if !self.key.is_empty() {
            facts.push(("key".to_owned(), self.key.join(", ")));
        }
        facts.push(("batch".to_owned(), format!("up to {} rows", self.max_rows)));
        facts
    }

    /// Whether and by what it delivers exactly once.
    pub(crate) fn exactly_once(&self) -> ExactlyOnce {
        match self.batch_said {
            true => ExactlyOnce::No {
                reason: "a transaction has the rows of one commit of the pipeline then, and `batch` would cut them otherwise",
                help: "leave `batch` out",
            },
            false => ExactlyOnce::By("rows and a marker in one transaction"),
        }
    }

    /// Whether a row can fail, and how long it may take to.
    pub(crate) fn ends(&self) -> (bool, Option<i64>) {
        (self.delivery.on_error == OnError::DeadLetter, Some(self.delivery.timeout.ns()))
    }
}

/// An identifier of SQL.
pub(crate) fn quote(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// A list of identifiers, as they stand between parentheses.
pub(crate) fn quoted_list<'a>(names: impl IntoIterator<Item = &'a str>) -> String {
    names.into_iter().map(quote).collect::<Vec<_>>().join(", ")
}

/// The keys that are a kind's own.
pub(crate) fn own_keys<T: serde::de::DeserializeOwned>(cx: &mut Cx<'_>) -> Option<T> {
    cx.config.without(&DeliveryKeys::NAMES).without(&TableKeys::NAMES).decode(cx.diagnostics)
}

/// Reads the keys that are shared and checks the columns. `parts_max` is how many parts a table's name may have, and `sent` in which form
/// the values of a kind go.
pub(crate) fn plan(
    cx: &mut Cx<'_>,
    input: &StreamType,
    parts_max: usize,
    sent: impl Fn(Kind) -> Sent,
) -> Option<Table> {
    let delivery = DeliveryKeys::read(cx);
    let keys: TableKeys = cx.config.only(&TableKeys::NAMES).decode(cx.diagnostics)?;
    let name = plan_name(cx, &keys.table, parts_max);
    let batch = plan_batch(cx, &keys.batch);
    let key = plan_key(cx, &keys, input);
    let kinds = plan_columns(cx, &input.schema);
    let (delivery, name, key, kinds) = (delivery?, name?, key?, kinds?);
    batch?;
    let schema = &input.schema;
    let layout = Layout {
        fields: schema.fields().iter().cloned().collect(),
        sent: kinds.iter().map(|kind| sent(*kind)).collect(),
        key: key.iter().map(|column| schema.index_of(column)).collect::<Result<_, _>>().ok()?,
        all_or_nothing: delivery.on_error == OnError::Stop,
    };
    let place = place(cx.sources, cx.span(&["table"]));
    let (max_rows, max_wait) = (keys.batch.max_rows, keys.batch.max_wait.duration());
    let batch_said = cx.component.node.get("batch").is_some();
    Some(Table { name, place, create: keys.create, key, layout, kinds, max_rows, max_wait, batch_said, delivery })
}

/// `file:line` of a span.
pub(crate) fn place(sources: &SourceMap, span: Span) -> String {
    let file = sources.file(span.file);
    file.map_or_else(String::new, |file| format!("{}:{}", file.path, file.line_column(span.start).0))
}

fn plan_name(cx: &mut Cx<'_>, table: &str, parts_max: usize) -> Option<Vec<String>> {
    if cx.component.node.get("table").is_some_and(|node| node.is_placeholder()) {
        return Some(vec![table.to_owned()]);
    }
    let parts: Vec<String> = table.split('.').map(str::to_owned).collect();
    let bad = |part: &String| part.trim().is_empty() || part.contains(['"', '\0', '`', '[', ']']);
    let problem = if parts.iter().any(bad) {
        format!("`{table}` can't be the name of a table")
    } else if parts.len() > parts_max {
        format!("`{table}` has {} parts, and a table's name has at most {parts_max} here", parts.len())
    } else {
        return Some(parts);
    };
    let help = match parts_max {
        1 => "write the table alone: `table: cases`",
        _ => "write `table: cases`, or with its schema `table: desk.cases`, without quotes",
    };
    let found = Diagnostic::error(spec::BAD_VALUE, cx.span(&["table"]), problem).help(help);
    cx.push(found);
    None
}

fn plan_batch(cx: &mut Cx<'_>, batch: &BatchKeys) -> Option<()> {
    if (1..=BATCH_ROWS_MAX).contains(&batch.max_rows) {
        return Some(());
    }
    let message = format!("`max_rows` is from 1 to {BATCH_ROWS_MAX}");
    let found = Diagnostic::error(spec::OUT_OF_RANGE, cx.span(&["batch", "max_rows"]), message);
    cx.push(found.help("leave it out for 5000"));
    None
}

/// The columns of the key; none where rows are only added.
fn plan_key(cx: &mut Cx<'_>, keys: &TableKeys, input: &StreamType) -> Option<Vec<String>> {
    let mode = cx.component.node.get("mode").map_or(cx.component.kind_span, |node| node.span);
    if keys.mode == Mode::Append {
        if input.kind.is_changelog() {
            let found = Diagnostic::error(
                codes::CHANGELOG_INPUT,
                mode,
                format!("`{}` only adds rows, and its input is a changelog", cx.component.name),
            )
            .at_caret("rows that are taken back would stay")
            .help("write `mode: upsert` and a `key`: what is taken back is then deleted by its key");
            cx.push(found);
            return None;
        }
        if keys.key.is_some() {
            let found = Diagnostic::error(spec::BAD_VALUE, cx.span(&["key"]), "`append` uses no `key`")
                .help("write `mode: upsert`, or leave `key` out");
            cx.push(found);
            return None;
        }
        return Some(Vec::new());
    }
    let columns = match &keys.key {
        Some(KeyColumns::One(column)) => vec![column.clone()],
        Some(KeyColumns::Many(columns)) => columns.clone(),
        None => Vec::new(),
    };
    if columns.is_empty() {
        let found = Diagnostic::error(spec::MISSING_KEY, mode, "`upsert` needs a `key`")
            .help("add the columns that tell rows apart: `key: [id]`");
        cx.push(found);
        return None;
    }
    let one = matches!(keys.key, Some(KeyColumns::One(_)));
    let mut sound = true;
    for (at, column) in columns.iter().enumerate() {
        let at_text = at.to_string();
        let path: &[&str] = if one { &["key"] } else { &["key", &at_text] };
        let Some(field) = cx.column(path, column, &input.schema).cloned() else {
            sound = false;
            continue;
        };
        let why = unhashable(field.data_type()).or_else(|| {
            matches!(Kind::of(&field), Some(Kind::Json))
                .then_some("values that are equal may be written in several ways")
        });
        let text = column_text(&field);
        let found = if columns[..at].contains(column) {
            Diagnostic::error(connector::COLUMN_TWICE, cx.span(path), format!("`{column}` stands in the key twice"))
                .help("name it once")
        } else if let Some(why) = why {
            Diagnostic::error(codes::UNHASHABLE_KEY, cx.span(path), format!("`{column}` is {text} and can't be a key"))
                .at_caret(why)
                .help("use an integer, text, decimal, date or timestamp, or make one before with `map`")
        } else if field.is_nullable() {
            Diagnostic::error(
                system::MAY_BE_NULL,
                cx.span(path),
                format!("a key must not be null, and `{column}` is {text}"),
            )
            .help(format!("filter such rows away (`where: {column} IS NOT NULL`), or give them a value"))
        } else {
            continue;
        };
        cx.push(found);
        sound = false;
    }
    if sound {
        warn_of_others(cx, &columns, input);
    }
    sound.then_some(columns)
}

/// Warns where rows that a changelog tells apart have one key in the table.
fn warn_of_others(cx: &mut Cx<'_>, key: &[String], input: &StreamType) {
    let StreamKind::Changelog { key: rows_key } = &input.kind else { return };
    // Columns that were renamed on the way are not looked for.
    let known = rows_key.iter().all(|column| input.schema.field_with_name(column).is_ok());
    let Some(missing) = rows_key.iter().find(|column| known && !key.contains(column)) else { return };
    let message = format!("`key` leaves out `{missing}`, by which the changelog tells its rows apart");
    let found = Diagnostic::warning(codes::CHANGELOG_INPUT, cx.span(&["key"]), message)
        .at_caret("rows with one key replace and delete each other")
        .help(format!("write `key: [{}]`", rows_key.join(", ")));
    cx.push(found);
}

fn plan_columns(cx: &mut Cx<'_>, schema: &SchemaRef) -> Option<Vec<Kind>> {
    if schema.fields().is_empty() {
        let found = Diagnostic::error(spec::NOTHING_TO_DO, cx.component.kind_span, "the rows have no columns")
            .help("name columns of the input: `columns: [id, amount]`");
        cx.push(found);
        return None;
    }
    let mut kinds = Vec::with_capacity(schema.fields().len());
    let mut sound = true;
    for field in schema.fields() {
        if field.data_type().is_null() {
            // Of a step before that is wrong; or a literal `NULL`, which has no type for a table either.
            cx.follows(&["input"]);
            sound = false;
            continue;
        }
        match Kind::of(field) {
            Some(kind) => kinds.push(kind),
            None => {
                let place = match cx.component.node.get("columns") {
                    Some(node) => node.span,
                    None => cx.component.kind_span,
                };
                let message =
                    format!("the column `{}` is {}, which a table can't hold", field.name(), column_text(field));
                let found = Diagnostic::error(connector::TYPE_NOT_CARRIED, place, message);
                cx.push(found.help("make a number or a text of it before, or leave it out with `columns`"));
                sound = false;
            }
        }
    }
    sound.then_some(kinds)
}
