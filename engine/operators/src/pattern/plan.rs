//! The config of `pattern` and its checks.

use super::slot::Rules;
use super::walk::{ELEMENTS_MAX, Element, Shape};
use crate::aggregates::null_of_rows;
use crate::check::{self, OneOrMany};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use engine_base::Diagnostic;
use engine_base::codes::{fold as codes, rolling as rolling_codes};
use engine_expr::{AggregateFunction, Aggregation, Scalar, Scope};
use engine_plan::{Columns, Cx, OperatorKind, Output, Planned, PlannedOperator, StreamType, hidden, kinds::InputKeys};
use engine_spec::{Assignments, Expression, TimeSpan};
use indexmap::IndexMap;
use schemars::JsonSchema;
use serde::Deserialize;
use std::sync::Arc;

/// Finds rows of a key that follow one another within a span of event time; other rows may lie between them.
///
/// A match puts out its key and `columns`. Rows that come too late are the output `NAME.late`.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Config {
    /// The column, or columns, whose equal values belong together. Null is a value of its own.
    key: OneOrMany,
    /// How long after its first row a match may go on.
    within: TimeSpan,
    /// What a match is made of, in order: `- small: { where: amount < 2, repeat: 3.. }`.
    sequence: Vec<IndexMap<String, ElementConfig>>,
    /// New columns, over the names of the elements: `first(small.at)`, `count(small)`, `large.amount`. Only the key is put out
    /// without.
    #[serde(default)]
    columns: Option<Assignments>,
    /// Each row that can be first has its match; unless said, a match begins after the last row of the one before.
    #[serde(default)]
    overlap: bool,
}

/// An element of the sequence.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct ElementConfig {
    /// The rows that it takes, over their columns and those of the last row of an element before: `amount > small.amount`.
    #[serde(rename = "where")]
    condition: Expression,
    /// How many rows it takes: `3`, at least `3..`, or `2..5`; one unless said.
    repeat: Option<Repeat>,
    /// It may be missing.
    #[serde(default)]
    optional: bool,
    /// No such row may lie between the elements before and after it; at the end of the sequence, until `within` is over.
    #[serde(default)]
    absent: bool,
}

/// A number of rows.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(untagged)]
enum Repeat {
    /// Just so many.
    Times(u32),
    /// A range: `3..`, `2..5`.
    Range(String),
}

/// The planned form of `pattern`.
#[derive(Debug)]
pub struct PatternPlan {
    pub(super) output: SchemaRef,
    pub(super) key: Vec<String>,
    pub(super) rules: Rules,
    pub(super) elements: Vec<Named>,
    pub(super) columns: Vec<(String, Aggregation)>,
}

/// An element with its name and condition.
#[derive(Debug)]
pub(super) struct Named {
    pub(super) name: String,
    pub(super) condition: Scalar,
    /// The columns of earlier elements that the condition reads: `small.amount`.
    pub(super) earlier: Vec<String>,
}

impl PatternPlan {
    /// The element of a name.
    pub(super) fn element(&self, name: &str) -> Option<usize> {
        self.elements.iter().position(|element| element.name == name)
    }

    /// The element and the column of the input behind `small.amount`; a bare name is of no element.
    pub(super) fn behind<'a>(&self, name: &'a str) -> (Option<usize>, &'a str) {
        behind(self.elements.iter().map(|element| element.name.as_str()), name)
    }
}

fn behind<'a, 'n>(mut elements: impl Iterator<Item = &'n str>, name: &'a str) -> (Option<usize>, &'a str) {
    let Some((head, column)) = name.split_once('.') else { return (None, name) };
    match elements.position(|element| element == head) {
        Some(element) => (Some(element), column),
        None => (None, name),
    }
}

impl Planned for PatternPlan {
    fn reads(&self, wanted: &[Columns]) -> Vec<Columns> {
        let main = wanted.first().cloned().unwrap_or_default();
        let mut reads: Columns = self.key.iter().cloned().collect();
        reads.insert(hidden::EVENT_TIME.to_owned());
        reads.extend(wanted.iter().skip(1).flatten().cloned());
        let conditions = self.elements.iter().flat_map(|element| element.condition.columns());
        let columns = self.columns.iter().filter(|(name, _)| main.contains(name));
        let columns = columns.flat_map(|(_, value)| value.columns().iter().chain(value.current_columns()));
        reads.extend(conditions.chain(columns).map(|name| self.behind(name).1.to_owned()));
        vec![reads]
    }

    fn facts(&self) -> Vec<(String, String)> {
        let mut facts = vec![
            ("key".to_owned(), self.key.join(", ")),
            ("within".to_owned(), TimeSpan(self.rules.within_ns).to_string()),
        ];
        for (named, element) in self.elements.iter().zip(&self.rules.shape.elements) {
            let mut text = named.condition.text().to_owned();
            match (element.min, element.max) {
                (1, Some(1)) => {}
                (min, Some(max)) if min == max => text += &format!(", {min} times"),
                (min, Some(max)) => text += &format!(", {min} to {max} times"),
                (min, None) => text += &format!(", {min} times or more"),
            }
            text += if element.absent { ", absent" } else { "" };
            text += if element.optional { ", optional" } else { "" };
            facts.push((named.name.clone(), text));
        }
        facts.extend(self.columns.iter().map(|(name, value)| (name.clone(), value.text().to_owned())));
        if self.rules.overlap {
            facts.push(("overlap".to_owned(), "one match for each first row".to_owned()));
        }
        if self.rules.shape.waits() {
            facts.push(("waits".to_owned(), "for the end of `within`".to_owned()));
        }
        facts
    }
}

/// The kind `pattern`.
pub fn kind() -> &'static OperatorKind {
    static KIND: OperatorKind = OperatorKind {
        name: "pattern",
        summary: "A sequence of rows of one key within a span of event time",
        config_schema: |generator| generator.subschema_for::<Config>(),
        inputs: InputKeys::One,
        plan,
    };
    &KIND
}

fn plan(cx: &mut Cx<'_>, inputs: &[StreamType]) -> Option<PlannedOperator> {
    let config: Config = cx.config()?;
    let input = inputs.first()?;
    let key = config.key.names();
    check::key(cx, &key, &input.schema);
    check::timed(cx, input);
    let within_ns = config.within.ns();
    if within_ns <= 0 {
        cx.error(rolling_codes::EMPTY_WINDOW, &["within"], "`within` must be longer than nothing");
    }
    let (shape, names) = shape(cx, &config.sequence, &input.schema);
    let conditions = conditions(cx, &config.sequence, &shape, &names, input);
    let mut fields: Vec<Field> =
        key.iter().filter_map(|name| input.schema.field_with_name(name).ok().cloned()).collect();
    let columns = columns(cx, config.columns.as_ref(), &shape, &names, input, &mut fields);
    let held = input.event_time.as_ref().map(|event_time| event_time.held(0));
    let stream = StreamType { event_time: held, ..input.with_columns(fields) };
    let output = stream.schema.clone();
    let late = Output { port: "late".to_owned(), stream: input.clone() };
    let outputs = vec![Output { port: String::new(), stream }, late];
    let (Some(_), Some(conditions), false) = (&input.event_time, conditions, cx.diagnostics.has_errors()) else {
        return Some(PlannedOperator::wrong(outputs));
    };
    let elements: Vec<Named> = names
        .iter()
        .zip(conditions)
        .map(|(name, condition)| {
            let of_element = |column: &&String| behind(names.iter().map(String::as_str), column).0.is_some();
            let earlier = condition.columns().iter().filter(of_element).cloned().collect();
            Named { name: name.clone(), condition, earlier }
        })
        .collect();
    let mut read: Vec<(usize, usize)> = Vec::new();
    for (reader, element) in elements.iter().enumerate() {
        for of in element.earlier.iter().filter_map(|name| behind(names.iter().map(String::as_str), name).0) {
            match read.iter_mut().find(|(known, _)| *known == of) {
                Some((_, until)) => *until = reader,
                None => read.push((of, reader)),
            }
        }
    }
    let overlap = config.overlap;
    let rules = Rules { shape: Shape { elements: shape, read }, within_ns, overlap };
    let planned = PatternPlan { output, key: key.clone(), rules, elements, columns };
    Some(PlannedOperator {
        outputs,
        can_fail: true,
        state: Some(format!(
            "the rows of each {} that may be of a match, within {}",
            key.join(", "),
            TimeSpan(within_ns)
        )),
        exchange: Some(vec![key]),
        timed: true,
        planned: Arc::new(planned),
    })
}

/// The elements and their names. Each item of the list has a name, if a wrong one.
fn shape(
    cx: &mut Cx<'_>,
    sequence: &[IndexMap<String, ElementConfig>],
    input: &SchemaRef,
) -> (Vec<Element>, Vec<String>) {
    let (mut elements, mut names): (Vec<Element>, Vec<String>) = (Vec::new(), Vec::new());
    for (at, item) in sequence.iter().enumerate() {
        let place = at.to_string();
        let path = ["sequence", place.as_str()];
        let Some((name, config)) = item.iter().next().filter(|_| item.len() == 1) else {
            let span = cx.span(&path);
            let message =
                format!("an element of the sequence is one name and what it takes, and here are {}", item.len());
            cx.push(
                Diagnostic::error(codes::BAD_SEQUENCE, span, message)
                    .help("start each on its own: `- small: { where: amount < 2 }`"),
            );
            continue;
        };
        let span = check::key_span(cx, &path, name);
        if names.contains(name) {
            let message = format!("there is an element `{name}` already");
            cx.push(
                Diagnostic::error(codes::BAD_SEQUENCE, span, message)
                    .help("give each element a name of its own; one that comes several times is `repeat: 3..`"),
            );
        } else if input.field_with_name(name).is_ok() || name == "param" || name.contains('.') {
            let what = if name == "param" { "parameters" } else { "a column" };
            let what = if name.contains('.') { "a field" } else { what };
            let message = format!("`{name}` can't be the name of an element: expressions would take it for {what}");
            cx.push(Diagnostic::error(codes::BAD_SEQUENCE, span, message).help("give the element another name"));
        }
        let (min, max) = repeat(cx, at, name, config);
        names.push(name.clone());
        elements.push(Element { min, max, optional: config.optional, absent: config.absent });
    }
    let must = elements.iter().any(|element| !element.absent && !element.optional);
    let span = check::key_span(cx, &[], "sequence");
    if elements.first().is_some_and(|element| element.absent) {
        let span = check::key_span(cx, &["sequence", "0"], &names[0]);
        let message = format!("`{}` is absent before anything came", names[0]);
        cx.push(
            Diagnostic::error(codes::BAD_SEQUENCE, span, message)
                .help("an absent element stands behind another, whose last row is where it counts from"),
        );
    } else if !must && elements.len() == sequence.len() {
        cx.push(
            Diagnostic::error(codes::BAD_SEQUENCE, span, "nothing in this sequence must come")
                .help("name an element that is neither absent nor optional: `- large: { where: amount > 500 }`"),
        );
    }
    if elements.len() > ELEMENTS_MAX {
        let message = format!("a sequence has at most {ELEMENTS_MAX} elements, and this one has {}", elements.len());
        cx.push(
            Diagnostic::error(codes::BAD_SEQUENCE, span, message)
                .help("find its parts with a `pattern` each, one behind the other"),
        );
    }
    (elements, names)
}

/// The least and the greatest number of an element's rows.
fn repeat(cx: &mut Cx<'_>, at: usize, name: &str, config: &ElementConfig) -> (u32, Option<u32>) {
    let place = at.to_string();
    let path = ["sequence", place.as_str(), name];
    let within = |key: &'static str| [path[0], path[1], path[2], key];
    let found = match &config.repeat {
        None => Some((1, Some(1))),
        Some(Repeat::Times(times)) => Some((*times, Some(*times))),
        Some(Repeat::Range(text)) => range(text),
    };
    let Some((min, max)) = found.filter(|(min, max)| *min >= 1 && max.is_none_or(|max| *min <= max)) else {
        let span = cx.span(&within("repeat"));
        let message = "this is no number of rows, from the least to the greatest";
        cx.push(
            Diagnostic::error(codes::BAD_REPEAT, span, message)
                .help("write `3`, `3..` for three or more, or `2..5`; for none at all, `optional: true`"),
        );
        return (1, Some(1));
    };
    if config.absent && (config.repeat.is_some() || config.optional) {
        let key = if config.optional { "optional" } else { "repeat" };
        let span = check::key_span(cx, &path, key);
        let message = format!("`{name}` is absent: it takes no rows");
        cx.push(Diagnostic::error(codes::BAD_REPEAT, span, message).help(format!("leave `{key}` or `absent` out")));
    } else if config.optional && min > 1 {
        let span = check::key_span(cx, &path, "optional");
        let message = format!("`{name}` may be missing, and must come {min} times if it comes");
        cx.push(
            Diagnostic::error(codes::BAD_REPEAT, span, message)
                .help("an optional element comes once or more often: `repeat: 1..`"),
        );
    }
    (min, max)
}

/// `3..`, `2..5` or, in quotes, `3`.
fn range(text: &str) -> Option<(u32, Option<u32>)> {
    match text.trim().split_once("..") {
        None => text.trim().parse().ok().map(|times| (times, Some(times))),
        Some((min, "")) => Some((min.trim().parse().ok()?, None)),
        Some((min, max)) => Some((min.trim().parse().ok()?, Some(max.trim().parse().ok()?))),
    }
}

/// A stream's columns, which may all be null: of a row that may be missing.
fn loose(schema: &SchemaRef) -> SchemaRef {
    let fields = schema.fields().iter().map(|field| field.as_ref().clone().with_nullable(true));
    Arc::new(Schema::new_with_metadata(fields.collect::<Vec<_>>(), schema.metadata().clone()))
}

/// The condition of each element; `None` where one is wrong.
fn conditions(
    cx: &mut Cx<'_>,
    sequence: &[IndexMap<String, ElementConfig>],
    shape: &[Element],
    names: &[String],
    input: &StreamType,
) -> Option<Vec<Scalar>> {
    let mut scope = Scope::new(input.schema.clone());
    let mut conditions = Vec::new();
    let items = sequence.iter().enumerate().filter(|(_, item)| item.len() == 1);
    for (((at, item), element), name) in items.zip(shape).zip(names) {
        let place = at.to_string();
        let path = ["sequence", place.as_str(), name, "where"];
        let planned = cx.predicate(&path, &item[0].condition, &scope);
        conditions.push(planned.filter(|planned| check::has_time(cx, &path, planned, input)));
        if !element.absent {
            let columns = if element.optional { loose(&input.schema) } else { input.schema.clone() };
            scope = scope.with(name, columns);
        }
    }
    conditions.into_iter().collect()
}

/// The new columns; their fields go behind those of the key.
fn columns(
    cx: &mut Cx<'_>,
    written: Option<&Assignments>,
    shape: &[Element],
    names: &[String],
    input: &StreamType,
    fields: &mut Vec<Field>,
) -> Vec<(String, Aggregation)> {
    let mut scope = Scope::new(input.schema.clone());
    for (name, element) in names.iter().zip(shape).filter(|(_, element)| !element.absent) {
        let columns = if element.optional { loose(&input.schema) } else { input.schema.clone() };
        scope = scope.with_group(name, input.schema.clone());
        if element.max == Some(1) {
            scope = scope.with(name, columns);
        }
    }
    let mut columns = Vec::new();
    for (name, value) in written.into_iter().flatten() {
        if fields.iter().any(|field| field.name() == name) {
            let span = check::key_span(cx, &["columns"], name);
            cx.push(check::taken(span, name).help("the key is put out anyway; give the new column another name"));
            continue;
        }
        let path = ["columns", name.as_str()];
        let planned = cx.expr.aggregate(&value.0, &scope);
        let Some(aggregation) = cx.noted(&path, planned) else {
            fields.push(Field::new(name, DataType::Null, true));
            continue;
        };
        check::unordered(cx, &path, &aggregation, "rows are taken in the order of their event time");
        if aggregation.calls.iter().any(|call| call.function == AggregateFunction::Lag) {
            let span = cx.span(&path);
            let message = "`lag` is the value of the row before, and a match has one row for many";
            cx.push(Diagnostic::error(rolling_codes::NO_ROW_BEFORE, span, message).help("use `rolling`, or `last(x)`"));
        }
        fields.push(field_of(name, &aggregation, shape, names, input));
        columns.push((name.clone(), aggregation));
    }
    columns
}

/// A new column. Of an element that is always there, an aggregate has at least one row.
fn field_of(name: &str, value: &Aggregation, shape: &[Element], names: &[String], input: &StreamType) -> Field {
    let names = || names.iter().map(String::as_str);
    if let Some(column) = value.outer().as_column()
        && let (Some(element), column) = behind(names(), column)
        && let Ok(field) = input.schema.field_with_name(column)
    {
        let nullable = field.is_nullable() || shape[element].optional;
        return field.clone().with_name(name).with_nullable(nullable);
    }
    let always = |group: &Option<String>| match group {
        Some(group) => names().position(|name| name == group).is_some_and(|at| !shape[at].optional),
        None => true,
    };
    let nullable = match value.calls.iter().all(|call| always(&call.group)) {
        true => null_of_rows(value),
        false => value.nullable,
    };
    Field::new(name, value.data_type.clone(), nullable)
}
