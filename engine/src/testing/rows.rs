//! Rows of a test: YAML to columns by a schema, and columns to cells that can be compared and shown.

use arrow::array::{RecordBatch, RecordBatchOptions};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use engine_base::codes::testing as codes;
use engine_base::{Diagnostic, Diagnostics, Span, suggest};
use engine_connectors::formats::json::{JsonDecoder, JsonEncoder};
use engine_connectors::formats::{RecordDecoder, RecordEncoder, Timestamps, is_json};
use engine_spec::{Files, Node, Value};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Rows as they are written: in the pipeline file, or one JSON object a line in a file of their own.
pub(super) enum Written<'n> {
    Nodes(&'n [Node]),
    File { path: PathBuf, lines: Vec<Vec<u8>>, span: Span },
}

impl<'n> Written<'n> {
    /// Reads a list of rows, or `{ file: rows.jsonl }`.
    pub(super) fn read(
        node: &'n Node,
        base_dir: &Path,
        files: &dyn Files,
        diagnostics: &mut Diagnostics,
    ) -> Option<Self> {
        match &node.value {
            Value::List(rows) => Some(Written::Nodes(rows)),
            Value::Null => Some(Written::Nodes(&[])),
            _ => match node.get("file").and_then(Node::as_str) {
                Some(file) => Self::file(file, node.span_at(&["file"]), base_dir, files, diagnostics),
                None => {
                    let problem = Diagnostic::error(codes::TEST_VALUE, node.span, "these are no rows");
                    diagnostics.push(
                        problem.help("write a list of maps, `[{ card: a, amount: 5 }]`, or `{ file: rows.jsonl }`"),
                    );
                    None
                }
            },
        }
    }

    /// Reads a file of rows.
    pub(super) fn file(
        file: &str,
        span: Span,
        base_dir: &Path,
        files: &dyn Files,
        diagnostics: &mut Diagnostics,
    ) -> Option<Self> {
        let path = base_dir.join(file);
        match files.read(&path) {
            Ok(text) => {
                let lines = text.split(|byte| *byte == b'\n').map(<[u8]>::trim_ascii).map(<[u8]>::to_vec).collect();
                Some(Written::File { path, lines, span })
            }
            Err(error) => {
                let message = format!("{} can't be read: {error}", path.display());
                diagnostics.push(
                    Diagnostic::error(codes::TEST_VALUE, span, message)
                        .help("the path is relative to the pipeline file; each line is a JSON object"),
                );
                None
            }
        }
    }
}

/// Rows that are given to a source, as the columns of it that somebody reads: as in a run, what nobody reads is not decoded.
/// `None` with problems noted.
pub(super) fn given(
    written: &Written<'_>,
    schema: &SchemaRef,
    read: &SchemaRef,
    diagnostics: &mut Diagnostics,
) -> Option<RecordBatch> {
    let fields: Vec<Arc<Field>> = read.fields().iter().cloned().collect();
    let mut decoder = match JsonDecoder::new(schema, &fields, false) {
        Ok(decoder) => decoder,
        Err(reason) => {
            if let Written::File { span, .. } = written {
                diagnostics.push(Diagnostic::error(codes::TEST_ROW, *span, reason));
            }
            return None;
        }
    };
    let mut sound = true;
    match written {
        Written::Nodes(rows) => {
            for row in *rows {
                sound &= known_columns(row, schema, diagnostics).is_some()
                    && decode(&mut decoder, &json(row, schema), row, diagnostics);
            }
        }
        Written::File { path, lines, span } => {
            for (at, line) in lines.iter().enumerate().filter(|(_, line)| !line.is_empty()) {
                if let Err(error) = decoder.decode(line) {
                    sound = false;
                    diagnostics.push(wrong_line(path, at, *span, &error.reason));
                }
            }
        }
    }
    if !sound {
        return None;
    }
    let options = RecordBatchOptions::new().with_row_count(Some(decoder.rows()));
    RecordBatch::try_new_with_options(read.clone(), decoder.finish(), &options).ok()
}

fn wrong_line(path: &Path, at: usize, span: Span, reason: &str) -> Diagnostic {
    let message = format!("{}:{}: {reason}", path.display(), at + 1);
    Diagnostic::error(codes::TEST_ROW, span, message).help("each line is a JSON object that fits the schema")
}

fn decode(decoder: &mut JsonDecoder, record: &[u8], row: &Node, diagnostics: &mut Diagnostics) -> bool {
    let Err(error) = decoder.decode(record) else { return true };
    // The reason begins with the column.
    let column = error.reason.split('`').nth(1).map(|path| path.split('.').next().unwrap_or(path));
    let span = column.and_then(|column| row.get(column)).map_or(row.span, |node| node.span);
    diagnostics.push(
        Diagnostic::error(codes::TEST_ROW, span, error.reason)
            .help("rows of a test are read by the schema, as the source's records are"),
    );
    false
}

/// The places of a row's columns in the schema. `None` with a problem noted.
fn known_columns(row: &Node, schema: &SchemaRef, diagnostics: &mut Diagnostics) -> Option<Vec<usize>> {
    if !matches!(row.value, Value::Map(_)) {
        let problem = Diagnostic::error(codes::TEST_ROW, row.span, "a row is a map of columns");
        diagnostics.push(problem.help("write `{ card: a, amount: 5 }`"));
        return None;
    }
    let mut places = Vec::new();
    for entry in row.entries() {
        match schema.index_of(&entry.key) {
            Ok(at) => places.push(at),
            Err(_) => {
                let names: Vec<&str> = schema.fields().iter().map(|field| field.name().as_str()).collect();
                let message = format!("there is no column `{}` here", entry.key);
                let problem = Diagnostic::error(codes::TEST_ROW, entry.key_span, message);
                diagnostics.push(match suggest::nearest(&entry.key, names.iter().copied()) {
                    Some(near) => problem.help(format!("did you mean `{near}`?")),
                    None => problem.help(format!("the columns are `{}`", names.join("`, `"))),
                });
                return None;
            }
        }
    }
    Some(places)
}

/// A row that is expected: its cells in the columns that are written.
#[derive(Clone, Debug)]
pub(crate) struct ExpectedRow {
    /// Places in the schema, in the order in which they are written.
    pub(crate) columns: Vec<usize>,
    /// Their cells.
    pub(crate) cells: Vec<String>,
}

/// Rows that are expected of an output. `None` with problems noted.
pub(super) fn expected(
    written: &Written<'_>,
    schema: &SchemaRef,
    diagnostics: &mut Diagnostics,
) -> Option<Vec<ExpectedRow>> {
    let mut rows = Some(Vec::new());
    let mut take = |row: Option<ExpectedRow>| match (row, &mut rows) {
        (Some(row), Some(rows)) => rows.push(row),
        _ => rows = None,
    };
    match written {
        Written::Nodes(nodes) => {
            for node in *nodes {
                let Some(columns) = known_columns(node, schema, diagnostics) else {
                    take(None);
                    continue;
                };
                take(match expected_row(&json(node, schema), columns, schema) {
                    Ok(row) => Some(row),
                    Err(reason) => {
                        let column = reason.split('`').nth(1);
                        let span = column.and_then(|column| node.get(column)).map_or(node.span, |node| node.span);
                        diagnostics.push(
                            Diagnostic::error(codes::TEST_ROW, span, reason).help(
                                "an expected row is read by the types of the output: `engine dry-run` shows them",
                            ),
                        );
                        None
                    }
                });
            }
        }
        Written::File { path, lines, span } => {
            for (at, line) in lines.iter().enumerate().filter(|(_, line)| !line.is_empty()) {
                let row = match serde_json::from_slice::<serde_json::Map<String, serde_json::Value>>(line) {
                    Ok(map) => {
                        let places: Result<Vec<usize>, String> = map
                            .keys()
                            .map(|name| schema.index_of(name).map_err(|_| format!("there is no column `{name}` here")))
                            .collect();
                        places.map(|mut places| {
                            places.sort_unstable();
                            places
                        })
                    }
                    Err(error) => Err(format!("no JSON object: {error}")),
                };
                match row.and_then(|columns| expected_row(line, columns, schema)) {
                    Ok(row) => take(Some(row)),
                    Err(reason) => {
                        diagnostics.push(wrong_line(path, at, *span, &reason));
                        take(None);
                    }
                }
            }
        }
    }
    rows
}

fn expected_row(record: &[u8], columns: Vec<usize>, schema: &SchemaRef) -> Result<ExpectedRow, String> {
    // What is not written may be anything, null among it.
    let fields: Vec<Field> = columns.iter().map(|at| schema.field(*at).clone().with_nullable(true)).collect();
    let narrow: SchemaRef = Arc::new(Schema::new(fields));
    let fields: Vec<Arc<Field>> = narrow.fields().iter().cloned().collect();
    let mut decoder = JsonDecoder::new(&narrow, &fields, false)?;
    decoder.decode(record).map_err(|error| error.reason)?;
    let options = RecordBatchOptions::new().with_row_count(Some(1));
    let batch =
        RecordBatch::try_new_with_options(narrow, decoder.finish(), &options).map_err(|error| error.to_string())?;
    Ok(ExpectedRow { columns, cells: cells(&batch).pop().unwrap_or_default() })
}

/// The cells of each row, each a JSON text.
pub(super) fn cells(batch: &RecordBatch) -> Vec<Vec<String>> {
    let mut rows = vec![Vec::with_capacity(batch.num_columns()); batch.num_rows()];
    for at in 0..batch.num_columns() {
        let Ok(column) = batch.project(&[at]) else { continue };
        let name = serde_json::Value::from(column.schema().field(0).name().as_str()).to_string();
        let (mut out, mut ends) = (Vec::new(), Vec::new());
        let mut encoder = JsonEncoder::new(&column.schema(), Timestamps::Rfc3339);
        if encoder.encode(&column, &mut out, Some(&mut ends)).is_err() {
            continue;
        }
        let mut from = 0;
        for (row, end) in rows.iter_mut().zip(ends) {
            // {"name":CELL} and a line end
            let line = String::from_utf8_lossy(&out[from..end]);
            let line = line.trim_end();
            let cell = line.get(name.len() + 2..line.len().saturating_sub(1)).unwrap_or_default();
            row.push(cell.to_owned());
            from = end;
        }
    }
    rows
}

/// A row as the JSON record that its source would have read.
fn json(row: &Node, schema: &SchemaRef) -> Vec<u8> {
    let mut out = Vec::new();
    object(row.entries().iter().map(|entry| (entry.key.as_str(), &entry.value)), &mut out, |name| {
        schema.field_with_name(name).ok().cloned()
    });
    out
}

fn object<'n>(
    entries: impl Iterator<Item = (&'n str, &'n Node)>,
    out: &mut Vec<u8>,
    field_of: impl Fn(&str) -> Option<Field>,
) {
    out.push(b'{');
    for (at, (name, node)) in entries.enumerate() {
        if at > 0 {
            out.push(b',');
        }
        out.extend(serde_json::Value::from(name).to_string().into_bytes());
        out.push(b':');
        value(node, field_of(name).as_ref(), out);
    }
    out.push(b'}');
}

fn value(node: &Node, field: Option<&Field>, out: &mut Vec<u8>) {
    let data_type = field.filter(|field| !is_json(field)).map(Field::data_type);
    let quoted = |text: &str, out: &mut Vec<u8>| out.extend(serde_json::Value::from(text).to_string().into_bytes());
    match (&node.value, data_type) {
        (Value::Null, _) => out.extend(b"null"),
        // Text keeps what was written: `1.50`, `true`.
        (Value::Bool(_) | Value::Int(_) | Value::Float(_), Some(DataType::Utf8 | DataType::LargeUtf8)) => {
            quoted(node.text().unwrap_or_default(), out);
        }
        (Value::Bool(value), _) => out.extend(value.to_string().into_bytes()),
        (Value::Int(value), _) => out.extend(value.to_string().into_bytes()),
        (Value::Float(value), _) => {
            match node.text().filter(|text| serde_json::from_str::<serde_json::Number>(text).is_ok()) {
                // Decimals have digits that a float has not.
                Some(text) => out.extend(text.bytes()),
                None if value.is_nan() => quoted("NaN", out),
                None if value.is_infinite() => quoted(if *value > 0.0 { "Infinity" } else { "-Infinity" }, out),
                None => out.extend(value.to_string().into_bytes()),
            }
        }
        (Value::String(text), _) => quoted(text, out),
        (Value::List(items), _) => {
            let item = match data_type {
                Some(DataType::List(item) | DataType::LargeList(item) | DataType::FixedSizeList(item, _)) => {
                    Some(item.as_ref())
                }
                _ => None,
            };
            out.push(b'[');
            for (at, node) in items.iter().enumerate() {
                if at > 0 {
                    out.push(b',');
                }
                value(node, item, out);
            }
            out.push(b']');
        }
        (Value::Map(entries), _) => {
            object(entries.iter().map(|entry| (entry.key.as_str(), &entry.value)), out, |name| match data_type {
                Some(DataType::Struct(fields)) => fields.find(name).map(|(_, field)| field.as_ref().clone()),
                Some(DataType::Map(entry, _)) => match entry.data_type() {
                    DataType::Struct(fields) => fields.get(1).map(|field| field.as_ref().clone()),
                    _ => None,
                },
                _ => None,
            });
        }
    }
}
