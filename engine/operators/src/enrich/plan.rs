//! The config of `enrich` and its checks.

use super::{ROWS, TABLE};
use crate::changes::comparable;
use crate::check;
use arrow::datatypes::{DataType, Field};
use engine_base::Diagnostic;
use engine_base::codes::{join as join_codes, plan as codes, spec as spec_codes};
use engine_plan::kinds::InputKeys;
use engine_plan::{Columns, Cx, OperatorKind, Origins, Output, Planned, PlannedOperator, StreamType, hidden, types};
use engine_spec::TimeSpan;
use indexmap::IndexMap;
use schemars::JsonSchema;
use serde::Deserialize;
use std::sync::Arc;

/// Each row with the row of a table that has its key. The table's rows are read as they come: of a stream of rows that stay each
/// replaces the one before with its key, of a changelog they come and go.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Config {
    /// The columns that are equal: a column of the rows to a column of the table, or a list where both have one name. Null equals
    /// nothing.
    #[serde(rename = "match")]
    matches: Match,
    /// As of when the table is looked at: as it was at the row's event time (`event_time`), or as it is when the row comes (`latest`).
    as_of: AsOf,
    /// How far event time may go on while a row waits for the table, where it is looked at as of event time; `0s` unless said. For a
    /// table that comes to an end, as a file does, rows wait until they know.
    wait: Option<TimeSpan>,
    /// What becomes of a row that the table has no row for: it goes on without (`keep`, the default), it is dropped, or it is an
    /// error.
    #[serde(default)]
    missing: Missing,
    /// The columns of the table that the rows get: a list, or a map of new name to column of the table. Unless said, all whose
    /// names the rows don't have.
    columns: Option<Chosen>,
}

/// Columns that are equal.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(untagged)]
enum Match {
    /// A column that both have.
    One(String),
    /// Columns that both have.
    Same(Vec<String>),
    /// A column of the rows to a column of the table.
    Pairs(IndexMap<String, String>),
}

/// Columns of the table.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(untagged)]
enum Chosen {
    /// By their own names.
    Same(Vec<String>),
    /// By new names.
    Named(IndexMap<String, String>),
}

/// As of when the table is looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(super) enum AsOf {
    /// As it was at the row's event time.
    EventTime,
    /// As it is.
    Latest,
}

/// What becomes of a row that the table has no row for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(super) enum Missing {
    /// It goes on, with nulls.
    #[default]
    Keep,
    /// It is dropped.
    Drop,
    /// It fails.
    Error,
}

/// The planned form of `enrich`.
#[derive(Debug)]
pub(super) struct EnrichPlan {
    /// The columns that are equal: of the rows, and of the table.
    pub(super) keys: [Vec<String>; 2],
    pub(super) as_of: AsOf,
    /// How far event time goes on while a row waits, nanoseconds; `None` where rows don't wait, the greatest for a table that ends.
    pub(super) wait_ns: Option<i64>,
    pub(super) missing: Missing,
    /// New columns: the field, and the column of the table.
    pub(super) columns: Vec<(Field, String)>,
    /// The names of the columns of the rows.
    rows: Columns,
}

impl Planned for EnrichPlan {
    fn reads(&self, wanted: &[Columns]) -> Vec<Columns> {
        let main = wanted.first().cloned().unwrap_or_default();
        let timed = self.as_of == AsOf::EventTime;
        let mut rows: Columns = main.iter().filter(|name| self.rows.contains(*name)).cloned().collect();
        rows.extend(self.keys[ROWS].iter().cloned());
        if timed || main.contains(hidden::EVENT_TIME) {
            rows.insert(hidden::EVENT_TIME.to_owned());
        }
        let mut table: Columns = self
            .columns
            .iter()
            .filter(|(field, _)| main.contains(field.name()))
            .map(|(_, name)| name.clone())
            .collect();
        table.extend(self.keys[TABLE].iter().cloned());
        if timed {
            table.insert(hidden::EVENT_TIME.to_owned());
        }
        vec![rows, table]
    }

    fn facts(&self) -> Vec<(String, String)> {
        let pairs = self.keys[ROWS].iter().zip(&self.keys[TABLE]);
        let pairs: Vec<String> = pairs.map(|(row, table)| format!("{row} = table.{table}")).collect();
        let mut facts = vec![("match".to_owned(), pairs.join(", "))];
        let as_of = match self.as_of {
            AsOf::EventTime => "the row's event time",
            AsOf::Latest => "the row's arrival",
        };
        facts.push(("as of".to_owned(), as_of.to_owned()));
        facts.extend(self.wait_ns.map(|wait_ns| {
            let wait = match wait_ns {
                i64::MAX => "for the whole table".to_owned(),
                wait_ns => TimeSpan(wait_ns).to_string(),
            };
            ("waits".to_owned(), wait)
        }));
        let missing = match self.missing {
            Missing::Keep => return facts,
            Missing::Drop => "dropped",
            Missing::Error => "an error",
        };
        facts.push(("missing".to_owned(), missing.to_owned()));
        facts
    }
}

/// The kind `enrich`.
pub(super) fn kind() -> &'static OperatorKind {
    static KIND: OperatorKind = OperatorKind {
        name: "enrich",
        summary: "Each row with the row of a table that has its key, as of its event time or as it is",
        config_schema: |generator| generator.subschema_for::<Config>(),
        inputs: InputKeys::Named(&[
            ("input", "The rows."),
            ("table", "The table: a source or step whose rows are looked up by `match`."),
        ]),
        plan,
    };
    &KIND
}

fn plan(cx: &mut Cx<'_>, inputs: &[StreamType]) -> Option<PlannedOperator> {
    let config: Config = cx.config()?;
    let [rows, table] = inputs else { return None };
    let before = cx.diagnostics.len();
    let (keys, same) = keys(cx, &config.matches, [rows, table]);
    if config.as_of == AsOf::EventTime {
        timed(cx, rows, "input");
        timed(cx, table, "table");
    }
    if rows.kind.is_changelog() {
        let span = cx.span(&["input"]);
        cx.push(
            Diagnostic::error(codes::CHANGELOG_INPUT, span, "the rows of `input` must stay, and this is a changelog")
                .help("join the two without `within` and `window`: then what comes out follows both"),
        );
    }
    comparable(cx, table);
    let ends = table.origins.finite;
    let wait_ns = match (&config.wait, config.as_of) {
        (Some(_), AsOf::Latest) => {
            let span = check::key_span(cx, &[], "wait");
            cx.push(
                Diagnostic::error(
                    spec_codes::BAD_VALUE,
                    span,
                    "`wait` is for a table that is looked at as of event time",
                )
                .help("leave it out: the table is taken as it is when a row comes, once one that ends has ended"),
            );
            None
        }
        (Some(wait), AsOf::EventTime) => (wait.ns() > 0).then(|| wait.ns()),
        (None, _) => ends.then_some(i64::MAX),
    };
    if wait_ns.is_some() {
        comparable(cx, rows);
    }
    let columns = columns(cx, config.columns.as_ref(), rows, table, &same, config.missing);
    let fields = rows.schema.fields().iter().map(|field| field.as_ref().clone());
    let fields: Vec<Field> = fields.chain(columns.iter().map(|(field, _)| field.clone())).collect();
    let mut stream = rows.with_columns(fields);
    stream.origins = Origins::of_all([&rows.origins, &table.origins]);
    if let (Some(event_time), Some(wait_ns)) = (&mut stream.event_time, wait_ns) {
        // Rows that wait come out behind those that did not.
        event_time.windows.clear();
        let held_ns = if wait_ns == i64::MAX { 0 } else { wait_ns };
        event_time.follows.values_mut().for_each(|held| *held = held.saturating_add(held_ns));
        // What they wait for: the table, as far as the steps before it hold it back.
        let held = |source| table.event_time.as_ref().and_then(|event_time| event_time.follows.get(source)).copied();
        for source in &table.origins.sources {
            let held_ns = held(source).unwrap_or(0);
            let follows = event_time.follows.entry(*source).or_insert(held_ns);
            *follows = (*follows).max(held_ns);
        }
    }
    let outputs = vec![Output { port: String::new(), stream }];
    if cx.diagnostics.len() > before {
        return Some(PlannedOperator::wrong(outputs));
    }
    let key = keys[ROWS].join(", ");
    let state = match config.as_of {
        AsOf::Latest => format!("the table by {key}"),
        AsOf::EventTime => format!("the table by {key}, and what it was as long as rows may need it"),
    };
    let names = rows.schema.fields().iter().map(|field| field.name().clone()).collect();
    let [of_rows, of_table] = &keys;
    Some(PlannedOperator {
        outputs,
        can_fail: config.missing == Missing::Error,
        exchange: Some(vec![of_rows.clone(), of_table.clone()]),
        state: Some(state),
        timed: wait_ns.is_some() || config.as_of == AsOf::EventTime,
        planned: Arc::new(EnrichPlan {
            keys,
            as_of: config.as_of,
            wait_ns,
            missing: config.missing,
            columns,
            rows: names,
        }),
    })
}

fn timed(cx: &mut Cx<'_>, stream: &StreamType, key: &str) {
    if stream.event_time.is_none() {
        let span = cx.span(&[key]);
        let message = "`as_of: event_time` needs event time, which these rows don't have";
        cx.push(Diagnostic::error(codes::NO_EVENT_TIME, span, message).help(
            "say when each row happened, at the source: `event_time: { column: at, max_delay: 5s }`; or write `as_of: latest`",
        ));
    }
}

/// The columns to match, of both, and those of one name.
fn keys(cx: &mut Cx<'_>, matches: &Match, streams: [&StreamType; 2]) -> ([Vec<String>; 2], Vec<String>) {
    let same = |name: &String| (name.clone(), name.clone());
    let pairs: Vec<(String, String)> = match matches {
        Match::One(name) => vec![same(name)],
        Match::Same(names) => names.iter().map(same).collect(),
        Match::Pairs(pairs) => pairs.iter().map(|(row, table)| (row.clone(), table.clone())).collect(),
    };
    if pairs.is_empty() {
        let span = cx.span(&["match"]);
        cx.push(
            Diagnostic::error(spec_codes::BAD_VALUE, span, "`match` names no column")
                .help("name at least one that is equal in a row and its row of the table: `match: { sku: id }`"),
        );
    }
    let mut keys: [Vec<String>; 2] = Default::default();
    for (at, (row, table)) in pairs.iter().enumerate() {
        let at = at.to_string();
        let path: Vec<&str> = match matches {
            Match::One(_) => vec!["match"],
            Match::Same(_) => vec!["match", &at],
            Match::Pairs(_) => vec!["match", row],
        };
        let mut found = Vec::new();
        for (name, stream) in [row, table].into_iter().zip(streams) {
            let Some(field) = cx.column(&path, name, &stream.schema).cloned() else { continue };
            if check::can_be_key(field.data_type()) {
                found.push(field);
                continue;
            }
            let span = cx.span(&path);
            let ty = engine_expr::type_name(field.data_type());
            cx.push(
                Diagnostic::error(
                    codes::UNHASHABLE_KEY,
                    span,
                    format!("`{name}` is of type {ty}, which can't be matched"),
                )
                .help("cast it to an integer, a decimal or a string with a `map` before"),
            );
        }
        if let [one, other] = found.as_slice()
            && (one.data_type() != other.data_type() || types::is_json(one) != types::is_json(other))
        {
            let text = |field: &Field| types::column_text(&field.clone().with_nullable(false));
            let message = format!("`{row}` is {} and `{table}` of the table is {}", text(one), text(other));
            let span = cx.span(&path);
            cx.push(
                Diagnostic::error(join_codes::MATCH_TYPES, span, message)
                    .at_caret("their values can't be compared")
                    .help("make them of one type with a `map` before"),
            );
        }
        keys[ROWS].push(row.clone());
        keys[TABLE].push(table.clone());
    }
    let same = pairs.into_iter().map(|(_, table)| table).collect();
    (keys, same)
}

/// The new columns.
fn columns(
    cx: &mut Cx<'_>,
    chosen: Option<&Chosen>,
    rows: &StreamType,
    table: &StreamType,
    matched: &[String],
    missing: Missing,
) -> Vec<(Field, String)> {
    let is_taken = |name: &str| rows.schema.field_with_name(name).is_ok();
    let names: Vec<(String, String)> = match chosen {
        None => {
            let others = table.schema.fields().iter().map(|field| field.name());
            let others = others.filter(|name| !is_taken(name) && !matched.contains(name));
            others.map(|name| (name.clone(), name.clone())).collect()
        }
        Some(Chosen::Same(names)) => names.iter().map(|name| (name.clone(), name.clone())).collect(),
        Some(Chosen::Named(names)) => names.iter().map(|(new, name)| (new.clone(), name.clone())).collect(),
    };
    let mut columns: Vec<(Field, String)> = Vec::new();
    for (at, (new, name)) in names.into_iter().enumerate() {
        let at = at.to_string();
        let path = ["columns", if matches!(chosen, Some(Chosen::Named(_))) { new.as_str() } else { at.as_str() }];
        if is_taken(&new) || columns.iter().any(|(field, _)| *field.name() == new) {
            let span = cx.span(&path);
            cx.push(
                check::taken(span, &new).help(format!("give it another name: `columns: {{ table_{new}: {name} }}`")),
            );
        }
        let field = match cx.column(&path, &name, &table.schema) {
            Some(field) => field.clone(),
            None => Field::new(&name, DataType::Null, true),
        };
        let nullable = field.is_nullable() || missing == Missing::Keep;
        columns.push((field.with_name(&new).with_nullable(nullable), name));
    }
    columns
}
