//! `map`: computes, keeps, drops and renames columns. Its plan is the one of `columns:` of a sink.

use crate::render::{assemble, compile, evaluate, fail, sound};
use crate::{OperatorEntry, Render, RenderCx, check, planned};
use arrow::array::{Array, ArrayRef};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use engine_base::codes::{operator as codes, plan as plan_codes};
use engine_base::{Diagnostic, RowError, Span};
use engine_dataflow::{RowStep, Rows, StepOutput};
use engine_expr::{Program, Scalar, Scope, is_open};
use engine_plan::kinds::InputKeys;
use engine_plan::kinds::{EventTime, Replaced};
use engine_plan::rowwise::MapPlan;
use engine_plan::{Cx, OperatorKind, Output, PlannedOperator, StreamType, hidden};
use engine_spec::Assignments;
use indexmap::IndexMap;
use schemars::JsonSchema;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::sync::Arc;

static KIND: OperatorKind = OperatorKind {
    name: "map",
    summary: "Computes, keeps, drops and renames columns, one row for each row.",
    config_schema: |generator| generator.subschema_for::<MapConfig>(),
    inputs: InputKeys::One,
    plan,
};

/// The registry line of `map`.
pub(crate) fn entry() -> OperatorEntry {
    OperatorEntry { kind: &KIND, render: Render::Rows(|plan, cx| render_map(planned::<MapPlan>(plan, "map")?, cx)) }
}

/// Computes, keeps, drops and renames columns, one row for each row.
///
/// The keys apply in this order: `set`, then `keep` or `drop`, then `rename`. A row for which an expression of `set`
/// fails goes to `NAME.errors`. A column that no later step reads is not computed, and so can't fail.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct MapConfig {
    /// `new: expression`, over the columns of the input: no expression sees what another one sets. A column that is
    /// there already is replaced in its place; others are added at the end. The event time of a row stays what it is,
    /// whatever becomes of the column that it was read from; that column can't be replaced before a step that needs event
    /// time.
    #[serde(default)]
    set: Assignments,
    /// The columns that stay, in this order; all others go.
    keep: Option<Vec<String>>,
    /// The columns that go; all others stay.
    drop: Option<Vec<String>>,
    /// `new: old`.
    #[serde(default)]
    rename: IndexMap<String, String>,
}

/// A column on its way through the keys.
struct Column {
    field: Field,
    /// `None` where it could not be planned, which is noted.
    value: Option<Scalar>,
}

impl Column {
    fn name(&self) -> &str {
        self.field.name()
    }
}

fn plan(cx: &mut Cx<'_>, inputs: &[StreamType]) -> Option<PlannedOperator> {
    let input = inputs.first()?;
    let config: MapConfig = cx.config()?;
    let noted = cx.diagnostics.len();
    if config.set.is_empty() && config.keep.is_none() && config.drop.is_none() && config.rename.is_empty() {
        let span = cx.component.kind_span;
        cx.push(
            Diagnostic::error(codes::NOTHING_TO_DO, span, "this `map` changes nothing")
                .help("give it one of `set`, `keep`, `drop` and `rename`, or read its input directly"),
        );
        return Some(PlannedOperator::wrong(vec![Output { port: String::new(), stream: input.clone() }]));
    }
    let mut columns = Vec::new();
    for field in input.schema.fields() {
        let quoted = format!("\"{}\"", field.name().replace('"', "\"\""));
        let value = cx.expr.scalar(&quoted, &Scope::new(input.schema.clone()));
        columns.push(Column { field: field.as_ref().clone(), value: cx.noted(&[], value) });
    }
    set(cx, &config, input, &mut columns);
    let set_noted = cx.diagnostics.len();
    choose(cx, &config, &input.schema, &mut columns);
    rename(cx, &config, &input.schema, &mut columns);
    if columns.is_empty() && cx.diagnostics.len() == noted && !is_open(&input.schema) {
        let key = if config.keep.is_some() { "keep" } else { "drop" };
        cx.error(codes::NOTHING_TO_DO, &[key], "no column is left");
    }
    let stream = input.with_columns(columns.iter().map(|column| column.field.clone()).collect::<Vec<_>>());
    let same = |column: &&Column, name: &str| column.value.as_ref().and_then(Scalar::as_column) == Some(name);
    let stream = stream.renamed(|name| columns.iter().find(|column| same(column, name)).map(|it| it.name().to_owned()));
    // Which columns a wrong `keep`, `drop` or `rename` would leave can't be told.
    let mut stream = if cx.diagnostics.len() > set_noted { stream.opened() } else { stream };
    stream.event_time = stream.event_time.as_ref().map(|time| event_time(cx, &config, time, &columns));
    let outputs = vec![Output { port: String::new(), stream }];
    let values = columns.into_iter().map(|column| Some((column.field.name().clone(), column.value?)));
    let columns = match values.collect::<Option<Vec<(String, Scalar)>>>() {
        Some(columns) if cx.diagnostics.len() == noted => columns,
        _ => return Some(PlannedOperator::wrong(outputs)),
    };
    Some(PlannedOperator {
        outputs,
        can_fail: columns.iter().any(|(_, value)| value.as_column().is_none()),
        exchange: None,
        state: None,
        timed: false,
        planned: Arc::new(MapPlan { columns }),
    })
}

/// The event time behind the step: that of the input, of a column that may have another name, or may show it no longer.
fn event_time(cx: &Cx<'_>, config: &MapConfig, before: &EventTime, columns: &[Column]) -> EventTime {
    let mut time = before.clone();
    let Some(column) = time.column.take() else { return time };
    let same = |column: &Column, name: &str| column.value.as_ref().and_then(Scalar::as_column) == Some(name);
    let span = match columns.iter().find(|other| other.name() == column) {
        Some(other) if same(other, &column) => {
            time.column = Some(column);
            return time;
        }
        Some(_) if config.set.contains_key(&column) => check::key_span(cx, &["set"], &column),
        Some(_) => check::key_span(cx, &["rename"], &column),
        None => {
            // Renamed, or gone; a name that another column gets later is free.
            time.column = columns.iter().find(|other| same(other, &column)).map(|other| other.name().to_owned());
            return time;
        }
    };
    time.replaced.get_or_insert(Replaced { column, step: cx.component.name.clone(), span });
    time
}

/// A column that holds an expression. What is known of a column beside its type (that it is JSON) goes along when it is
/// passed on as it is.
pub(crate) fn field_of(name: &str, value: &Scalar, input: &SchemaRef) -> Field {
    match value.as_column().and_then(|column| input.field_with_name(column).ok()) {
        Some(field) => field.clone().with_name(name),
        None => Field::new(name, value.data_type().clone(), value.nullable()),
    }
}

fn set(cx: &mut Cx<'_>, config: &MapConfig, input: &StreamType, columns: &mut Vec<Column>) {
    for (name, expression) in &config.set {
        let value = check::scalar(cx, &["set", name], expression, input);
        let field = match &value {
            Some(value) => field_of(name, value, &input.schema),
            None => Field::new(name, DataType::Null, true),
        };
        match columns.iter_mut().find(|column| column.name() == name) {
            Some(column) => *column = Column { field, value },
            None => columns.push(Column { field, value }),
        }
    }
}

fn choose(cx: &mut Cx<'_>, config: &MapConfig, input: &Schema, columns: &mut Vec<Column>) {
    let (key, named) = match (&config.keep, &config.drop) {
        (None, None) => return,
        (Some(keep), None) => ("keep", keep),
        (None, Some(drop)) => ("drop", drop),
        (Some(_), Some(_)) => {
            let keep = check::key_span(cx, &[], "keep");
            let drop = check::key_span(cx, &[], "drop");
            cx.push(
                Diagnostic::error(codes::KEEP_AND_DROP, drop, "`keep` and `drop` don't go together")
                    .also(keep, "what is not named here goes anyway")
                    .help("leave out one of them"),
            );
            return;
        }
    };
    let fields: Vec<Field> = columns.iter().map(|column| column.field.clone()).collect();
    let schema: SchemaRef = Arc::new(Schema::new_with_metadata(fields, input.metadata().clone()));
    let mut chosen: BTreeMap<&str, usize> = BTreeMap::new();
    for (at, name) in named.iter().enumerate() {
        let place = at.to_string();
        let path = [key, place.as_str()];
        let there = schema.index_of(name).is_ok() || cx.column(&path, name, &schema).is_some();
        if there && chosen.insert(name, at).is_some() {
            let span = cx.span(&path);
            cx.push(
                Diagnostic::error(plan_codes::COLUMN_TAKEN, span, format!("`{name}` is named twice"))
                    .help("name each column once"),
            );
        }
    }
    if key == "drop" {
        columns.retain(|column| !chosen.contains_key(column.name()));
    } else {
        columns.retain(|column| chosen.contains_key(column.name()));
        columns.sort_by_key(|column| chosen.get(column.name()).copied());
    }
}

fn rename(cx: &mut Cx<'_>, config: &MapConfig, input: &Schema, columns: &mut [Column]) {
    // All at once, so that two columns can swap names.
    let mut renamed: BTreeMap<&str, &str> = BTreeMap::new();
    for (new, old) in &config.rename {
        let span = cx.span(&["rename", new]);
        if !columns.iter().any(|column| column.name() == old) {
            let names: Vec<&str> = columns.iter().map(Column::name).collect();
            if is_open(input) {
                cx.follows(&["rename", new]);
                continue;
            }
            cx.push(unknown_old(span, new, old, &names));
        } else if let Some(other) = renamed.insert(old, new) {
            let message = format!("`{old}` is renamed twice: to `{other}` and to `{new}`");
            cx.push(
                Diagnostic::error(plan_codes::COLUMN_TAKEN, span, message)
                    .help(format!("`set: {{ {new}: {old} }}` makes a copy")),
            );
        }
    }
    for (old, new) in &renamed {
        if old != new && !renamed.contains_key(new) && columns.iter().any(|column| column.name() == *new) {
            let span = check::key_span(cx, &["rename"], new);
            cx.push(check::taken(span, new).help(format!("drop or rename the old `{new}`, or choose another name")));
        }
    }
    for column in columns {
        if let Some(new) = renamed.get(column.field.name().as_str()) {
            column.field = column.field.clone().with_name(*new);
        }
    }
}

fn unknown_old(span: Span, new: &str, old: &str, names: &[&str]) -> Diagnostic {
    let error = Diagnostic::error(plan_codes::UNKNOWN_COLUMN, span, format!("there is no column `{old}` here"));
    // The likeliest slip is to put the old name first.
    if names.contains(&new) {
        return error.help(format!("it is `new: old`; did you mean `{old}: {new}`?"));
    }
    error
        .did_you_mean(old, names.iter().copied())
        .help(format!("the columns are {}", check::listed(names.iter().copied())))
}

/// The step of a `map`, or of the `columns:` of a sink.
pub fn render_map(plan: &MapPlan, cx: &RenderCx<'_>) -> Result<Box<dyn RowStep>, String> {
    let input = cx.inputs.first().ok_or("a map without an input")?;
    let wanted = cx.wanted.first().ok_or("a map without an output")?;
    let computed = Computed::new(input, plan.columns.iter().filter(|(name, _)| wanted.contains(name)))?;
    Ok(Box::new(Map { step: cx.step.clone(), computed, event_time: wanted.contains(hidden::EVENT_TIME) }))
}

struct Map {
    step: Arc<str>,
    computed: Computed,
    event_time: bool,
}

impl RowStep for Map {
    fn step(&mut self, mut rows: Rows, out: &mut StepOutput) {
        let (columns, failed) = self.computed.evaluate(&rows);
        let failed: Vec<(usize, RowError)> = failed.into_iter().collect();
        let given = if failed.is_empty() {
            rows.with_batch(assemble(&self.computed.schema, columns, rows.num_rows()))
        } else {
            // The columns of failed rows hold nulls where there can be none: only what is left fits the schema.
            let mask = sound(rows.num_rows(), &failed);
            let loose = rows.with_batch(assemble(&self.computed.loose, columns, rows.num_rows())).filter(&mask);
            let columns = loose.batch.columns().to_vec();
            loose.with_batch(assemble(&self.computed.schema, columns, loose.num_rows()))
        };
        fail(&self.step, &rows, failed, out);
        rows = given;
        if !self.event_time {
            rows.event_ns = None;
        }
        out.give(0, rows);
    }
}

/// Columns computed from those of a row.
pub(crate) struct Computed {
    values: Vec<Value>,
    /// The columns, each with its own nullability.
    pub(crate) schema: SchemaRef,
    /// The same, all nullable: what the values are while failed rows are among them.
    pub(crate) loose: SchemaRef,
}

enum Value {
    /// A column of the input as it is.
    Column(usize),
    /// An expression.
    Program(Box<Program>),
}

impl Computed {
    /// The programs of some columns over the batches of a schema.
    pub(crate) fn new<'a>(
        input: &SchemaRef,
        columns: impl Iterator<Item = &'a (String, Scalar)>,
    ) -> Result<Computed, String> {
        let mut values = Vec::new();
        let mut fields = Vec::new();
        for (name, value) in columns {
            let plain = value.as_column().and_then(|column| input.index_of(column).ok());
            values.push(match plain {
                Some(at) => Value::Column(at),
                None => Value::Program(Box::new(compile(value, input)?)),
            });
            fields.push(field_of(name, value, input));
        }
        let loose: Vec<Field> = fields.iter().map(|field| field.clone().with_nullable(true)).collect();
        Ok(Computed { values, schema: Arc::new(Schema::new(fields)), loose: Arc::new(Schema::new(loose)) })
    }

    /// The columns, and the rows that failed: for each the reason of the first column that did.
    pub(crate) fn evaluate(&mut self, rows: &Rows) -> (Vec<ArrayRef>, BTreeMap<usize, RowError>) {
        let mut failed: BTreeMap<usize, RowError> = BTreeMap::new();
        let mut columns = Vec::with_capacity(self.values.len());
        for (value, field) in self.values.iter_mut().zip(self.schema.fields()) {
            let column = match value {
                Value::Column(at) => rows.batch.column(*at).clone(),
                Value::Program(program) => {
                    let evaluated = evaluate(program, rows);
                    for (row, error) in evaluated.errors {
                        failed.entry(row).or_insert(error);
                    }
                    evaluated.array
                }
            };
            if !field.is_nullable() && column.null_count() > 0 {
                // A function that says it never gives null, and does: the promise to later steps is kept all the same.
                for row in (0..column.len()).filter(|row| column.is_null(*row)) {
                    let reason = || RowError::new("null", format!("`{}` is null, and can't be", field.name()));
                    failed.entry(row).or_insert_with(reason);
                }
            }
            columns.push(column);
        }
        (columns, failed)
    }
}

#[cfg(test)]
mod tests {
    use crate::testing::{Given, check, check_problems};

    const SOURCE: &str = "schema: { id: int64, amount: int64, rate: float64 | null, extra: json | null }";
    const LINES: &str = r#"
        {"id": 1, "amount": 10, "rate": 0.5, "extra": "[1]"}
        {"id": 2, "amount": 0, "rate": null}
        {"id": 3, "amount": 4, "rate": 2.0}
    "#;

    fn map(keys: &'static str) -> Given<'static> {
        Given { source: SOURCE, operators: keys, read: &[("m", &[])], ..Given::default() }
    }

    #[test]
    fn set_then_keep_then_rename() {
        check(
            &map("
                m:
                  type: map
                  input: rows
                  set: { amount: amount * 2, twice: amount + amount }
                  keep: [twice, amount, id]
                  rename: { key: id, id: twice }"),
            LINES,
            r#"
            m {"id":20,"amount":20,"key":1}
            m {"id":0,"amount":0,"key":2}
            m {"id":8,"amount":8,"key":3}
            "#,
        );
    }

    #[test]
    fn drop_leaves_the_others_in_order_and_rename_can_swap() {
        check(
            &map("m: { type: map, input: rows, drop: [rate, extra], rename: { id: amount, amount: id } }"),
            LINES,
            r#"
            m {"amount":1,"id":10}
            m {"amount":2,"id":0}
            m {"amount":3,"id":4}
            "#,
        );
    }

    #[test]
    fn a_row_fails_alone_and_only_for_what_is_read() {
        let operators = "m: { type: map, input: rows, set: { share: 100 / amount, z: rate * 2 }, drop: [rate, extra] }";
        let given = Given { source: SOURCE, operators, ..Given::default() };
        check(
            &Given { read: &[("m", &["id", "share"]), ("m.errors", &[])], ..given },
            LINES,
            r#"
            m {"id":1,"share":10}
            m {"id":3,"share":25}
            m.errors 1 divide_by_zero: division by zero {"id":2,"amount":0,"rate":null,"extra":null}
            "#,
        );
        check(
            &Given { read: &[("m", &["id", "z"])], ..given },
            LINES,
            r#"
            m {"id":1,"z":1.0}
            m {"id":2,"z":null}
            m {"id":3,"z":4.0}
            "#,
        );
    }

    #[test]
    fn json_stays_json() {
        let (plan, problems) = map("m: { type: map, input: rows, set: { copy: extra }, rename: { e: extra } }").plan();
        let plan = plan.expect(&problems);
        let schema = &plan.find("m").expect("the step").outputs[0].stream.schema;
        for name in ["copy", "e"] {
            assert!(engine_plan::types::is_json(schema.field_with_name(name).expect("the column")), "{name}");
        }
        check(
            &map("m: { type: map, input: rows, set: { copy: extra }, keep: [copy] }"),
            r#"{"id": 1, "amount": 1}"#,
            r#"m {"copy":null}"#,
        );
    }

    #[test]
    fn volatile_functions_belong_to_their_row() {
        // The same whatever the batches: `check` cuts them in several ways.
        let given = map("m: { type: map, input: rows, set: { r: random(), t: now() }, keep: [r, t] }");
        let whole = given.run(LINES, &[]);
        assert_eq!(whole, given.run(LINES, &[1]));
        assert_eq!(whole["m"].iter().collect::<std::collections::BTreeSet<_>>().len(), 3);
    }

    #[test]
    fn every_step_tells_its_own_problem() {
        let steps: Vec<String> = (0..50)
            .map(|at| {
                let input = if at == 0 { "rows".to_owned() } else { format!("m{}", at - 1) };
                let before = if at == 0 { "id".to_owned() } else { format!("c{}", at - 1) };
                format!("m{at}: {{ type: map, input: {input}, set: {{ c{at}: '{before} + idd{at}' }} }}")
            })
            .collect();
        let operators = steps.join("\n");
        let (plan, problems) = Given { source: SOURCE, operators: &operators, read: &[("m49", &[])], ..map("") }.plan();
        assert!(plan.is_none());
        let told: Vec<String> = (0..50).map(|at| format!("there is no column `idd{at}`")).collect();
        assert_eq!(problems.lines().count(), told.len(), "{problems}");
        assert!(told.iter().all(|message| problems.contains(message)), "{problems}");
    }

    #[test]
    fn a_column_that_is_wrong_is_no_second_problem() {
        let given = |operators| Given { source: SOURCE, operators, read: &[("z", &[])], ..map("") };
        check_problems(
            &given(
                "
                m: { type: map, input: rows, set: { share: amuont / 2, twice: amount * 2 } }
                y: { type: map, input: m, set: { s: share + 1, t: twice || foo(share) }, keep: [s, t] }
                z: { type: map, input: y, set: { u: s + t + v }, drop: [t], rename: { w: s, x: wrong } }",
            ),
            "
            E0207 `amuont` there is no column `amuont` | did you mean `amount`? \
             | the columns are: id, amount, rate, extra | for text, write single quotes: `'amuont'`, in YAML `\"'amuont'\"`
            E0211 `foo` there is no function `foo`
            E0207 `v` there is no column `v` | the columns are: s, t | for text, write single quotes: `'v'`, in YAML `\"'v'\"`
            E0320 `wrong` there is no column `wrong` here | the columns are `s`, `u`
            ",
        );
        // Nothing is known behind `keep: [amuont]` but what stands behind it by itself.
        check_problems(
            &given(
                "
                m: { type: map, input: rows, keep: [amuont] }
                y: { type: filter, input: m, where: 'amount > 1 AND foo(id) > bar(2)' }
                z: { type: rolling, input: y, key: id, over: 0s, columns: { n: cuont(*), s: sum(amount) } }",
            ),
            "
            E0320 `amuont` there is no column `amuont` here | did you mean `amount`? | the columns are `id`, `amount`, `rate`, `extra`
            E0211 `foo` there is no function `foo`
            E0211 `bar` there is no function `bar` | did you mean `var`?
            E0323 `rolling` `rolling` needs event time, which these rows don't have \
             | say when each row happened, at the source: `event_time: { column: at, max_delay: 5s }`
            E0343 `0s` a window must be longer than nothing
            E0211 `cuont` there is no function `cuont` | did you mean `count`?
            ",
        );
    }

    #[test]
    fn the_column_of_the_event_time_is_not_replaced() {
        fn timed(operators: &str) -> Given<'_> {
            let source = "
                schema: { id: int64, at: timestamp, other: timestamp }
                event_time: { column: at, max_delay: 1s }";
            Given { source, operators, read: &[("r", &[])], ..Given::default() }
        }
        let rolling = "r: { type: rolling, input: m, key: id, over: 1m, columns: { n: count(*) } }";
        let replaced = |map: &str, at: &str| {
            let operators = format!("m: {{ type: map, input: rows, {map} }}\n{rolling}");
            check_problems(
                &timed(&operators),
                &format!(
                    "E0331 `{at}` `m` replaces `at`, which event time is read from, and it is needed behind \
                     ^ a row keeps the event time that it came with | give the new column another name, such as `at_2`"
                ),
            );
        };
        replaced("set: { at: other }", "at");
        replaced("set: { at: to_timestamp_millis(id) }", "at");
        replaced("rename: { at: other, other: at }", "at");
        let fine = |map: &str| {
            let operators = format!("m: {{ type: map, input: rows, {map} }}\n{rolling}");
            check_problems(&timed(&operators), "");
        };
        fine("set: { at: at, hour: to_timestamp_millis(id) }");
        fine("rename: { seen: at }");
        fine("drop: [at]");
        // Nothing behind it needs event time.
        check_problems(&timed("r: { type: map, input: rows, set: { at: other } }"), "");
        // Under its new name it is the same column, and behind a step that passes it on.
        check_problems(
            &timed(
                "
                a: { type: map, input: rows, rename: { seen: at } }
                b: { type: filter, input: a, where: id > 1 }
                m: { type: map, input: b, set: { seen: other } }
                r: { type: filter, input: m, where: 'event_time() < seen' }",
            ),
            "E0331 `seen` `m` replaces `seen`, which event time is read from, and it is needed behind \
             ^ a row keeps the event time that it came with | give the new column another name, such as `seen_2`",
        );
    }

    #[test]
    fn problems_have_their_place() {
        check_problems(
            &map("m: { type: map, input: rows }"),
            "E0350 `map` this `map` changes nothing | give it one of `set`, `keep`, `drop` and `rename`, or read its input directly",
        );
        check_problems(
            &map("m: { type: map, input: rows, keep: [id, amuont, id] }"),
            "
            E0320 `amuont` there is no column `amuont` here | did you mean `amount`? | the columns are `id`, `amount`, `rate`, `extra`
            E0319 `id` `id` is named twice | name each column once
            ",
        );
        check_problems(
            &map("m: { type: map, input: rows, rename: { id: key } }"),
            "E0320 `key` there is no column `key` here | it is `new: old`; did you mean `key: id`?",
        );
        check_problems(
            &map("m: { type: map, input: rows, rename: { rate: id } }"),
            "E0319 `rate` there is a column `rate` already | drop or rename the old `rate`, or choose another name",
        );
        check_problems(
            &map("m: { type: map, input: rows, keep: [id], drop: [rate] }"),
            "E0351 `drop` `keep` and `drop` don't go together | leave out one of them",
        );
        check_problems(&map("m: { type: map, input: rows, keep: [] }"), "E0350 `[]` no column is left");
    }
}
