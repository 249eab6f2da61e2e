//! `flatten`: one row for each element of a list.

use crate::render::assemble;
use crate::{OperatorEntry, Render, RenderCx, check, planned};
use arrow::array::{Array, ArrayRef, AsArray, Int64Array, OffsetSizeTrait, UInt32Array};
use arrow::compute::take;
use arrow::datatypes::{DataType, Field, FieldRef, Schema, SchemaRef};
use engine_base::codes::operator as codes;
use engine_base::{Diagnostic, StepId};
use engine_dataflow::{RowStep, Rows, StepOutput};
use engine_plan::kinds::InputKeys;
use engine_plan::{Columns, Cx, OperatorKind, Output, Planned, PlannedOperator, StreamType, hidden, types};
use schemars::JsonSchema;
use serde::Deserialize;
use std::sync::Arc;

/// The most rows in a batch that is put out: one row may hold a list of millions.
const MAX_ROWS_OUT: usize = 8192;

static KIND: OperatorKind = OperatorKind {
    name: "flatten",
    summary: "Puts out one row for each element of a list.",
    config_schema: |generator| generator.subschema_for::<FlattenConfig>(),
    inputs: InputKeys::One,
    plan,
};

/// The registry line of `flatten`.
pub(crate) fn entry() -> OperatorEntry {
    OperatorEntry { kind: &KIND, render: Render::Rows(|plan, cx| render(planned::<FlattenPlan>(plan, "flatten")?, cx)) }
}

/// Puts out one row for each element of a list, with the row's other columns beside it.
///
/// The element stands in the place of the list. A row whose list is empty or null puts out nothing; an element that is
/// null is a row like any other.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct FlattenConfig {
    /// The column with the list.
    column: String,
    /// The name of the column with the element; that of the list if not given.
    #[serde(rename = "as")]
    name: Option<String>,
    /// The name of a new last column, an `int64` with the element's number in its list, from 1 as in `l[1]`.
    index: Option<String>,
}

/// A planned `flatten`.
#[derive(Debug)]
pub struct FlattenPlan {
    /// The column with the list.
    pub column: String,
    /// The column with the element.
    pub element: String,
    /// The column with its number.
    pub index: Option<String>,
}

impl Planned for FlattenPlan {
    fn reads(&self, wanted: &[Columns]) -> Vec<Columns> {
        let own = |name: &String| *name == self.element || self.index.as_ref() == Some(name);
        let mut reads: Columns = wanted.iter().flatten().filter(|name| !own(name)).cloned().collect();
        reads.insert(self.column.clone());
        vec![reads]
    }

    fn facts(&self) -> Vec<(String, String)> {
        let mut facts = vec![("column".to_owned(), self.column.clone())];
        if self.element != self.column {
            facts.push(("as".to_owned(), self.element.clone()));
        }
        facts.extend(self.index.iter().map(|index| ("index".to_owned(), index.clone())));
        facts
    }
}

fn plan(cx: &mut Cx<'_>, inputs: &[StreamType]) -> Option<PlannedOperator> {
    let input = inputs.first()?;
    let config: FlattenConfig = cx.config()?;
    let noted = cx.diagnostics.len();
    let name = config.name.clone().unwrap_or_else(|| config.column.clone());
    // The others are there all the same; a list that is not named may be the one that was meant.
    let wrong = || {
        let others = input.schema.fields().iter().filter(|field| *field.name() != config.column);
        let beside = others.map(|field| match element_of(field.data_type()) {
            Some(_) => Arc::new(field.as_ref().clone().with_data_type(DataType::Null)),
            None => field.clone(),
        });
        let element: FieldRef = Arc::new(Field::new(&name, DataType::Null, true));
        let index = config.index.as_ref().map(|index| number(index));
        let stream = input.with_columns(beside.chain([element]).chain(index).collect::<Vec<FieldRef>>());
        Some(PlannedOperator::wrong(vec![Output { port: String::new(), stream }]))
    };
    let Some(list) = cx.column(&["column"], &config.column, &input.schema) else { return wrong() };
    let Some(element) = element_of(list.data_type()) else {
        let span = cx.span(&["column"]);
        cx.push(
            Diagnostic::error(codes::NOT_A_LIST, span, format!("`{}` is not a list", config.column))
                .at_caret(format!("this is `{}`", types::column_text(list)))
                .help("`flatten` takes a column of type `list<T>`"),
        );
        return wrong();
    };
    let there = |name: &str| name != config.column && input.schema.index_of(name).is_ok();
    if there(&name) {
        let span = cx.span(&["as"]);
        cx.push(check::taken(span, &name));
    }
    if let Some(index) = config.index.as_ref().filter(|index| there(index) || **index == name) {
        let span = cx.span(&["index"]);
        cx.push(check::taken(span, index));
    }
    if cx.diagnostics.len() > noted {
        return wrong();
    }
    let mut fields: Vec<FieldRef> = Vec::new();
    for field in input.schema.fields() {
        fields.push(if *field.name() == config.column { named(element, &name) } else { field.clone() });
    }
    fields.extend(config.index.as_ref().map(|index| number(index)));
    let stream = input.with_columns(fields);
    Some(PlannedOperator {
        outputs: vec![Output { port: String::new(), stream }],
        can_fail: false,
        exchange: None,
        state: None,
        timed: false,
        planned: Arc::new(FlattenPlan { column: config.column, element: name, index: config.index }),
    })
}

/// The element of a list as a column; what is known of it beside its type (that it is JSON) goes along.
fn named(element: &FieldRef, name: &str) -> FieldRef {
    Arc::new(element.as_ref().clone().with_name(name))
}

fn number(name: &str) -> FieldRef {
    Arc::new(Field::new(name, DataType::Int64, false))
}

/// The element of a list type.
fn element_of(list: &DataType) -> Option<&FieldRef> {
    match list {
        DataType::List(element) | DataType::LargeList(element) | DataType::FixedSizeList(element, _) => Some(element),
        _ => None,
    }
}

fn render(plan: &FlattenPlan, cx: &RenderCx<'_>) -> Result<Box<dyn RowStep>, String> {
    let input = cx.inputs.first().ok_or("a flatten without an input")?;
    let wanted = cx.wanted.first().ok_or("a flatten without an output")?;
    let list = input.index_of(&plan.column).map_err(|_| format!("the column `{}` was pruned", plan.column))?;
    let element =
        element_of(input.field(list).data_type()).ok_or_else(|| format!("`{}` is not a list", plan.column))?;
    let mut fields: Vec<FieldRef> = Vec::new();
    let mut columns = Vec::new();
    for (at, field) in input.fields().iter().enumerate() {
        if at == list {
            if wanted.contains(&plan.element) {
                fields.push(named(element, &plan.element));
                columns.push(Column::Element);
            }
        } else if wanted.contains(field.name()) {
            fields.push(field.clone());
            columns.push(Column::Beside(at));
        }
    }
    if let Some(index) = plan.index.as_ref().filter(|index| wanted.contains(*index)) {
        fields.push(number(index));
        columns.push(Column::Index);
    }
    Ok(Box::new(Flatten {
        step_id: cx.step_id,
        list,
        columns,
        schema: Arc::new(Schema::new(fields)),
        event_time: wanted.contains(hidden::EVENT_TIME),
    }))
}

enum Column {
    Beside(usize),
    Element,
    Index,
}

struct Flatten {
    step_id: StepId,
    list: usize,
    columns: Vec<Column>,
    schema: SchemaRef,
    event_time: bool,
}

impl RowStep for Flatten {
    fn step(&mut self, mut rows: Rows, out: &mut StepOutput) {
        if !self.event_time {
            rows.event_ns = None;
        }
        let elements = Elements::of(rows.batch.column(self.list));
        let mut from: Vec<u32> = Vec::new();
        let mut element: Vec<u32> = Vec::new();
        let mut ordinal: Vec<u32> = Vec::new();
        for row in 0..rows.num_rows() {
            for (number, place) in elements.range(row).enumerate() {
                from.push(row as u32);
                element.push(place as u32);
                ordinal.push(number as u32);
                if from.len() == MAX_ROWS_OUT {
                    self.put_out(&rows, &elements.values, &mut from, &mut element, &mut ordinal, out);
                }
            }
        }
        self.put_out(&rows, &elements.values, &mut from, &mut element, &mut ordinal, out);
    }
}

impl Flatten {
    /// Puts out the rows gathered so far: number `i` is element `element[i]` of row `from[i]`.
    fn put_out(
        &self,
        rows: &Rows,
        values: &ArrayRef,
        from: &mut Vec<u32>,
        element: &mut Vec<u32>,
        ordinal: &mut Vec<u32>,
        out: &mut StepOutput,
    ) {
        if from.is_empty() {
            return;
        }
        let from = UInt32Array::from(std::mem::take(from));
        let element = UInt32Array::from(std::mem::take(element));
        let ordinal = std::mem::take(ordinal);
        // The list itself is not copied along.
        let bare = rows.with_batch(assemble(&Arc::new(Schema::empty()), Vec::new(), rows.num_rows()));
        let mut expanded = bare.take(&from);
        let gather = |column: &ArrayRef, at: &UInt32Array| {
            take(column, at, None).unwrap_or_else(|error| panic!("arrow takes from every column type: {error}"))
        };
        let columns = self
            .columns
            .iter()
            .map(|column| match column {
                Column::Beside(at) => gather(rows.batch.column(*at), &from),
                Column::Element => gather(values, &element),
                Column::Index => Arc::new(ordinal.iter().map(|at| i64::from(*at) + 1).collect::<Int64Array>()),
            })
            .collect();
        expanded.batch = assemble(&self.schema, columns, from.len());
        expanded.extend_positions(self.step_id, 0, |row| ordinal[row]);
        out.give(0, expanded);
    }
}

/// The elements of a list column of any of Arrow's layouts.
struct Elements {
    values: ArrayRef,
    /// Where the elements of each row begin and end; a null list has none.
    ranges: Vec<(usize, usize)>,
}

impl Elements {
    fn of(column: &ArrayRef) -> Elements {
        fn with_offsets<O: OffsetSizeTrait>(column: &ArrayRef) -> Elements {
            let list = column.as_list::<O>();
            let ranges =
                list.offsets().windows(2).enumerate().map(|(row, ends)| {
                    if list.is_null(row) { (0, 0) } else { (ends[0].as_usize(), ends[1].as_usize()) }
                });
            Elements { ranges: ranges.collect(), values: list.values().clone() }
        }
        match column.data_type() {
            DataType::LargeList(_) => with_offsets::<i64>(column),
            DataType::FixedSizeList(_, size) => {
                let list = column.as_fixed_size_list();
                let size = usize::try_from(*size).unwrap_or(0);
                let range = |row: usize| {
                    let start = usize::try_from(list.value_offset(row)).unwrap_or(0);
                    if list.is_null(row) { (0, 0) } else { (start, start + size) }
                };
                Elements { ranges: (0..list.len()).map(range).collect(), values: list.values().clone() }
            }
            _ => with_offsets::<i32>(column),
        }
    }

    fn range(&self, row: usize) -> std::ops::Range<usize> {
        self.ranges[row].0..self.ranges[row].1
    }
}

#[cfg(test)]
mod tests {
    use super::MAX_ROWS_OUT;
    use crate::testing::{Given, check, check_problems};

    const SOURCE: &str = "schema: { id: int64, tags: list<string | null> | null, name: string | null }";
    const LINES: &str = r#"
        {"id": 1, "tags": ["a", "b"], "name": "x"}
        {"id": 2, "tags": []}
        {"id": 3, "tags": null}
        {"id": 4, "tags": ["c", null]}
        {"id": 5, "tags": ["d"]}
    "#;

    fn flatten(operators: &'static str) -> Given<'static> {
        Given { source: SOURCE, operators, read: &[("f", &[])], ..Given::default() }
    }

    #[test]
    fn one_row_for_each_element() {
        check(
            &flatten("f: { type: flatten, input: rows, column: tags, as: tag, index: n }"),
            LINES,
            r#"
            f {"id":1,"tag":"a","name":"x","n":1}
            f {"id":1,"tag":"b","name":"x","n":2}
            f {"id":4,"tag":"c","name":null,"n":1}
            f {"id":4,"tag":null,"name":null,"n":2}
            f {"id":5,"tag":"d","name":null,"n":1}
            "#,
        );
        check(
            &Given { read: &[("f", &["id"])], ..flatten("f: { type: flatten, input: rows, column: tags }") },
            LINES,
            r#"
            f {"id":1}
            f {"id":1}
            f {"id":4}
            f {"id":4}
            f {"id":5}
            "#,
        );
    }

    #[test]
    fn structs_come_out_whole() {
        check(
            &Given {
                source: "schema: { id: int64, items: { list: { sku: string, n: int64 } } }",
                operators: "
                    f: { type: flatten, input: rows, column: items, as: item }
                    m: { type: map, input: f, set: { sku: item.sku }, keep: [id, sku] }",
                read: &[("m", &[])],
                ..Given::default()
            },
            r#"{"id": 1, "items": [{"sku": "a", "n": 1}, {"sku": "b", "n": 2}]}"#,
            r#"
            m {"id":1,"sku":"a"}
            m {"id":1,"sku":"b"}
            "#,
        );
    }

    #[test]
    fn a_long_list_comes_out_in_parts() {
        let count = MAX_ROWS_OUT + 10;
        let line = format!(r#"{{"id": 1, "tags": [{}]}}"#, vec![r#""t""#; count].join(","));
        let given = flatten("f: { type: flatten, input: rows, column: tags, index: n }");
        let rows = &given.run(&line, &[])["f"];
        assert_eq!(rows.len(), count);
        assert_eq!(rows[count - 1], format!(r#"{{"id":1,"tags":"t","name":null,"n":{count}}}"#));
    }

    #[test]
    fn random_functions_tell_the_elements_apart() {
        let given = Given {
            read: &[("m", &[])],
            ..flatten(
                "
                f: { type: flatten, input: rows, column: tags }
                m: { type: map, input: f, set: { r: random() }, keep: [r] }",
            )
        };
        let rows = given.run(LINES, &[]);
        assert_eq!(rows, given.run(LINES, &[1]));
        assert_eq!(rows["m"].iter().collect::<std::collections::BTreeSet<_>>().len(), 5);
    }

    #[test]
    fn problems_have_their_place() {
        check_problems(
            &flatten("f: { type: flatten, input: rows, column: id }"),
            "E0352 `id` `id` is not a list ^ this is `int64` | `flatten` takes a column of type `list<T>`",
        );
        check_problems(
            &flatten("f: { type: flatten, input: rows, column: tag }"),
            "E0320 `tag` there is no column `tag` here | did you mean `tags`? | the columns are `id`, `tags`, `name`",
        );
        check_problems(
            &flatten("f: { type: flatten, input: rows, column: tags, as: name, index: name }"),
            "
            E0319 `name` there is a column `name` already
            E0319 `name` there is a column `name` already
            ",
        );
    }
}
