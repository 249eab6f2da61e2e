//! `union`: the rows of several inputs of one schema, as one stream.

use crate::render::assemble;
use crate::{OperatorEntry, Render, RenderCx, check};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use engine_base::codes::operator as codes;
use engine_base::{Diagnostic, StepId};
use engine_dataflow::{RowStep, Rows, StepOutput};
use engine_expr::is_open;
use engine_plan::kinds::InputKeys;
use engine_plan::rowwise::UnionPlan;
use engine_plan::{
    Cx, EventTime, OperatorKind, Origins, Output, Planned, PlannedOperator, StreamKind, StreamType, hidden, types,
};
use schemars::JsonSchema;
use serde::Deserialize;
use std::sync::Arc;

static KIND: OperatorKind = OperatorKind {
    name: "union",
    summary: "Puts the rows of several inputs of one schema into one stream.",
    config_schema: |generator| generator.subschema_for::<UnionConfig>(),
    inputs: InputKeys::Many,
    plan,
};

/// The registry line of `union`.
pub(crate) fn entry() -> OperatorEntry {
    OperatorEntry { kind: &KIND, render: Render::Union }
}

/// Puts the rows of several inputs into one stream.
///
/// All `inputs` must have the same columns by name and type; the order of the first one's holds. A column may be null
/// if it may be null in any input. The stream has event time if all inputs have, and rows may come as late as in any of
/// them. Rows of one input keep their order; how those of several mix is not determined.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct UnionConfig {}

fn plan(cx: &mut Cx<'_>, inputs: &[StreamType]) -> Option<PlannedOperator> {
    let _: UnionConfig = cx.config()?;
    let (first, others) = inputs.split_first()?;
    let noted = cx.diagnostics.len();
    let mut fields: Vec<Field> = first.schema.fields().iter().map(|field| field.as_ref().clone()).collect();
    for (at, other) in others.iter().enumerate() {
        agree(cx, &(at + 1).to_string(), &mut fields, &first.schema, &other.schema);
    }
    let event_time = inputs
        .iter()
        .map(|input| input.event_time.as_ref())
        .collect::<Option<Vec<&EventTime>>>()
        .map(|all| EventTime { column: same_column(inputs), ..EventTime::of_all(all) });
    let schema: SchemaRef = Arc::new(Schema::new(fields));
    let origins = Origins::of_all(inputs.iter().map(|input| &input.origins));
    let stream = StreamType { schema: schema.clone(), event_time, kind: StreamKind::Append, origins };
    // Where the inputs differ, which columns are meant can't be told.
    let open = inputs.iter().any(|input| is_open(&input.schema));
    if cx.diagnostics.len() > noted || open {
        return Some(PlannedOperator::wrong(vec![Output { port: String::new(), stream: stream.opened() }]));
    }
    Some(PlannedOperator {
        outputs: vec![Output { port: String::new(), stream }],
        can_fail: false,
        exchange: None,
        state: None,
        timed: false,
        planned: Arc::new(UnionPlan { inputs: inputs.len(), schema }),
    })
}

/// The column that tells the event time in all inputs.
fn same_column(inputs: &[StreamType]) -> Option<String> {
    let column = |input: &StreamType| input.event_time.as_ref()?.column.clone();
    let first = column(inputs.first()?)?;
    inputs.iter().all(|input| column(input).as_ref() == Some(&first)).then_some(first)
}

/// Notes where an input differs from the first, and takes over what may be null in it.
fn agree(cx: &mut Cx<'_>, place: &str, fields: &mut [Field], first: &Schema, other: &Schema) {
    let span = cx.span(&["inputs", place]);
    let first_span = cx.span(&["inputs", "0"]);
    let mut problems = Vec::new();
    let mut missing = Vec::new();
    let mut wrong_type = None;
    let open = is_open(first) || is_open(other);
    for field in fields.iter_mut() {
        match other.field_with_name(field.name()) {
            Err(_) if open => {}
            Err(_) => missing.push(field.name().clone()),
            // Why a type is not known is told where the column is made.
            Ok(there) if there.data_type().is_null() || field.data_type().is_null() => {
                *field = field.clone().with_data_type(DataType::Null);
            }
            Ok(there) if same_type(field, there) => {
                *field = widened(field, there);
            }
            Ok(there) => {
                let (here, there) = (types::column_text(there), types::column_text(field));
                problems.push(format!("`{}` is `{here}` here and `{there}` in the first input", field.name()));
                wrong_type = wrong_type.or_else(|| Some((field.name().clone(), sql_name(field)?)));
            }
        }
    }
    let extra: Vec<&str> = other
        .fields()
        .iter()
        .map(|field| field.name().as_str())
        .filter(|name| !open && !fields.iter().any(|field| field.name() == name))
        .collect();
    if !missing.is_empty() {
        problems.insert(0, format!("it has no {}", check::listed(missing.iter().map(String::as_str))));
    }
    if !extra.is_empty() {
        problems.push(format!("the first has no {}", check::listed(extra.iter().copied())));
    }
    if problems.is_empty() {
        return;
    }
    let mut error = Diagnostic::error(codes::UNION_MISMATCH, span, "this input has other columns than the first")
        .at_caret(problems.join("; "))
        .also(first_span, "the first input");
    let slip = missing.iter().find_map(|old| {
        engine_base::suggest::nearest(old, extra.iter().copied()).map(|new| (old.clone(), new.to_owned()))
    });
    if let Some((first, here)) = slip {
        error = error.help(format!("a `map` before it with `rename: {{ {first}: {here} }}` makes them agree"));
    } else if let (true, Some(extra)) = (missing.is_empty(), extra.first()) {
        error = error.help(format!("a `map` before it with `drop: [{extra}]` takes away what is too many"));
    } else if let Some((name, sql)) = wrong_type {
        error =
            error.help(format!("a `map` before it with `set: {{ {name}: CAST({name} AS {sql}) }}` makes them agree"));
    }
    cx.push(error);
}

/// The type of a column in `CAST(x AS ...)`, for the commonest.
fn sql_name(field: &Field) -> Option<&'static str> {
    match field.data_type() {
        _ if types::is_json(field) => None,
        DataType::Boolean => Some("BOOLEAN"),
        DataType::Int32 => Some("INT"),
        DataType::Int64 => Some("BIGINT"),
        DataType::Float32 => Some("REAL"),
        DataType::Float64 => Some("DOUBLE"),
        DataType::Utf8 => Some("VARCHAR"),
        DataType::Date32 => Some("DATE"),
        _ => None,
    }
}

/// Equal types, whatever may be null in them. Text and JSON are two types, though Arrow has one for both.
fn same_type(a: &Field, b: &Field) -> bool {
    if types::is_json(a) != types::is_json(b) {
        return false;
    }
    match (a.data_type(), b.data_type()) {
        (DataType::List(x), DataType::List(y)) | (DataType::LargeList(x), DataType::LargeList(y)) => same_type(x, y),
        (DataType::FixedSizeList(x, n), DataType::FixedSizeList(y, m)) => n == m && same_type(x, y),
        (DataType::Map(x, _), DataType::Map(y, _)) => same_type(x, y),
        (DataType::Struct(x), DataType::Struct(y)) => {
            x.len() == y.len() && x.iter().zip(y.iter()).all(|(x, y)| x.name() == y.name() && same_type(x, y))
        }
        (a, b) => a == b,
    }
}

/// The field, nullable where either is, inside of lists and structs too.
fn widened(a: &Field, b: &Field) -> Field {
    let data_type = match (a.data_type(), b.data_type()) {
        (DataType::List(x), DataType::List(y)) => DataType::List(Arc::new(widened(x, y))),
        (DataType::LargeList(x), DataType::LargeList(y)) => DataType::LargeList(Arc::new(widened(x, y))),
        (DataType::FixedSizeList(x, n), DataType::FixedSizeList(y, _)) => {
            DataType::FixedSizeList(Arc::new(widened(x, y)), *n)
        }
        (DataType::Struct(x), DataType::Struct(y)) => {
            DataType::Struct(x.iter().zip(y).map(|(x, y)| widened(x, y)).collect())
        }
        (DataType::Map(x, sorted), DataType::Map(y, _)) => DataType::Map(Arc::new(widened(x, y)), *sorted),
        (other, _) => other.clone(),
    };
    Field::new(a.name(), data_type, a.is_nullable() || b.is_nullable()).with_metadata(a.metadata().clone())
}

/// The step that an input's rows go through on their way into the union: columns in the order of the first input.
///
/// `input` counts from 0. A source row may come in by several inputs, so rows of all but the first get the number of
/// the input into their positions, and stay unique.
pub fn render_union_input(planned: &dyn Planned, cx: &RenderCx<'_>, input: usize) -> Result<Box<dyn RowStep>, String> {
    let plan: &UnionPlan = crate::planned(planned, "union")?;
    let schema = cx.inputs.get(input).ok_or("a union without that input")?;
    let wanted = cx.wanted.first().ok_or("a union without an output")?;
    let mut fields = Vec::new();
    let mut columns = Vec::new();
    for field in plan.schema.fields().iter().filter(|field| wanted.contains(field.name())) {
        let at = schema.index_of(field.name()).map_err(|_| format!("the column `{}` was pruned", field.name()))?;
        columns.push(at);
        fields.push(field.clone());
    }
    let input = u16::try_from(input).map_err(|_| "a union of more than 65,536 inputs")?;
    Ok(Box::new(UnionInput {
        columns,
        schema: Arc::new(Schema::new(fields)),
        copy: (input > 0).then_some((cx.step_id, input)),
        event_time: wanted.contains(hidden::EVENT_TIME),
    }))
}

struct UnionInput {
    columns: Vec<usize>,
    schema: SchemaRef,
    copy: Option<(StepId, u16)>,
    event_time: bool,
}

impl RowStep for UnionInput {
    fn step(&mut self, rows: Rows, out: &mut StepOutput) {
        let columns = self
            .columns
            .iter()
            .zip(self.schema.fields())
            .map(|(at, field)| {
                let column = rows.batch.column(*at);
                // Only what may be null inside of it differs, if anything.
                if column.data_type() == field.data_type() {
                    column.clone()
                } else {
                    arrow::compute::cast(column, field.data_type())
                        .unwrap_or_else(|error| panic!("arrow widens what may be null: {error}"))
                }
            })
            .collect();
        let mut given = rows.with_batch(assemble(&self.schema, columns, rows.num_rows()));
        if !self.event_time {
            given.event_ns = None;
        }
        if let Some((step, input)) = self.copy {
            given.extend_positions(step, input, |_| 0);
        }
        out.give(0, given);
    }
}

#[cfg(test)]
mod tests {
    use crate::testing::{Given, check, check_problems};

    const SOURCE: &str = "schema: { id: int64, a: string | null, tags: list<int64> | null, extra: json | null }";
    const LINES: &str = r#"
        {"id": 1, "a": "x", "tags": [1]}
        {"id": 2, "a": null, "tags": []}
    "#;

    fn union(operators: &'static str) -> Given<'static> {
        Given { source: SOURCE, operators, read: &[("u", &[])], ..Given::default() }
    }

    #[test]
    fn rows_of_all_inputs_in_the_order_of_the_first() {
        let given = union(
            "
            x: { type: filter, input: rows, where: a IS NOT NULL }
            small: { type: map, input: x, keep: [id, a] }
            other: { type: map, input: rows, keep: [a, id] }
            u: { type: union, inputs: [small, other] }",
        );
        let mut rows = given.run(LINES, &[]).remove("u").expect("rows");
        rows.sort();
        assert_eq!(rows, [r#"{"id":1,"a":"x"}"#, r#"{"id":1,"a":"x"}"#, r#"{"id":2,"a":null}"#]);
    }

    #[test]
    fn what_may_be_null_in_one_may_be_null_in_all() {
        // The first input has no nulls by its type, inside of the list neither; the second has.
        check(
            &union(
                "
                first: { type: map, input: { from: rows, where: 'id = 1' }, set: { n: 1 }, keep: [n] }
                second: { type: map, input: { from: rows, where: 'id = 2' }, set: { n: nullif(1, id) }, keep: [n] }
                u: { type: union, inputs: [first, second] }",
            ),
            LINES,
            r#"
            u {"n":1}
            u {"n":1}
            "#,
        );
    }

    #[test]
    fn copies_of_a_row_are_told_apart() {
        let given = Given {
            read: &[("m", &[])],
            ..union(
                "
                one: { type: map, input: rows, keep: [id] }
                two: { type: map, input: rows, keep: [id] }
                u: { type: union, inputs: [one, two] }
                m: { type: map, input: u, set: { r: random() }, keep: [r] }",
            )
        };
        let rows = given.run(LINES, &[]).remove("m").expect("rows");
        assert_eq!(rows.iter().collect::<std::collections::BTreeSet<_>>().len(), 4);
    }

    #[test]
    fn inputs_that_differ_are_refused() {
        check_problems(
            &union(
                "
                one: { type: map, input: rows, keep: [id, a] }
                two: { type: map, input: rows, keep: [id, a], rename: { aa: a } }
                u: { type: union, inputs: [one, two] }",
            ),
            "E0353 `two` this input has other columns than the first ^ it has no `a`; the first has no `aa` \
             | a `map` before it with `rename: { a: aa }` makes them agree",
        );
        check_problems(
            &union(
                "
                one: { type: map, input: rows, keep: [id] }
                two: { type: map, input: rows, set: { id: 'CAST(id AS DOUBLE)' }, keep: [id] }
                u: { type: union, inputs: [one, two] }",
            ),
            "E0353 `two` this input has other columns than the first ^ `id` is `float64` here and `int64` in the first input \
             | a `map` before it with `set: { id: CAST(id AS BIGINT) }` makes them agree",
        );
        check_problems(
            &union(
                "
                one: { type: map, input: rows, keep: [a] }
                two: { type: map, input: rows, keep: [extra], rename: { a: extra } }
                u: { type: union, inputs: [one, two] }",
            ),
            "E0353 `two` this input has other columns than the first ^ `a` is `json | null` here and `string | null` in the first input \
             | a `map` before it with `set: { a: CAST(a AS VARCHAR) }` makes them agree",
        );
    }
}
