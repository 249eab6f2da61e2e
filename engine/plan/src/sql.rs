//! `type: sql`: one SELECT as components of its own, one a clause.
//!
//! ```text
//! busy: { type: sql, input: bids, query: SELECT ... FROM HOP(bids, ...) WHERE ... GROUP BY ... HAVING ... }
//!   bids ─▶ busy.where ─▶ busy.window ─▶ busy.having ─▶ busy
//! ```
//!
//! It stands before the planner, as the expansion of chains does: no types are needed, since each expression goes on as it is
//! written, with its place in the query. What only types can tell, such as whether a column is the event time, is left as a
//! check for the planner ([`TimeColumn`]).

mod join;
mod select;
mod text;

use engine_base::codes::{query as codes, spec as spec_codes};
use engine_base::{Diagnostic, Diagnostics, Span};
use engine_expr::ExprError;
use engine_expr::query::{self, Item, Select, Table, Word};
use engine_spec::{Component, Entry, Node, Pipeline, Value};
use schemars::JsonSchema;
use serde::Deserialize;
use std::borrow::Cow;
use std::collections::HashMap;
use std::ops::Range;
use text::{entry, string};

/// One SELECT over named inputs, as the operators that do it: `filter`, `map`, `window`, `aggregate`, `join`, `distinct`, `top`
/// and `union`. `dry-run` shows them as `NAME.where`, `NAME.window` and so on; the last is `NAME`.
///
/// `NAME.errors` has the rows that failed in any of them. What is not supported is told by the name of its clause.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "sql")]
pub(crate) struct SqlConfig {
    /// The table of the query, by its name or as `input`.
    #[schemars(with = "Option<engine_spec::Input>")]
    input: Option<Node>,
    /// The tables of the query, by their names.
    #[schemars(with = "Option<Vec<engine_spec::Input>>")]
    inputs: Option<Node>,
    /// The SELECT.
    query: String,
}

/// A column that a query takes for the event time of an input.
#[derive(Debug)]
pub(crate) struct TimeColumn {
    /// Which input of the step.
    pub(crate) input: usize,
    /// Its name.
    pub(crate) column: String,
    /// Where it stands.
    pub(crate) span: Span,
}

/// The columns that queries take for the event time, by step.
pub(crate) type TimeColumns = HashMap<String, Vec<TimeColumn>>;

/// The pipeline with each query replaced by its steps.
pub(crate) fn expand<'p>(pipeline: &'p Pipeline, found: &mut Diagnostics) -> (Cow<'p, Pipeline>, TimeColumns) {
    let mut times = TimeColumns::new();
    if pipeline.operators.values().all(|component| component.kind != "sql") {
        return (Cow::Borrowed(pipeline), times);
    }
    let mut expanded = pipeline.clone();
    for (name, component) in std::mem::take(&mut expanded.operators) {
        if component.kind != "sql" {
            expanded.operators.insert(name, component);
            continue;
        }
        let mut compiler = Compiler {
            component: &component,
            tables: Vec::new(),
            read: Vec::new(),
            steps: Vec::new(),
            times: &mut times,
            found,
        };
        if compiler.run().is_none() {
            expanded.broken.insert(name);
            continue;
        }
        let names: Vec<String> = compiler.steps.iter().map(|step| step.name.clone()).collect();
        expanded.operators.extend(compiler.steps.into_iter().map(|step| (step.name.clone(), step)));
        // What fails in a query of a chain fails in the chain.
        for steps in expanded.chains.values_mut() {
            if let Some(at) = steps.iter().position(|step| *step == name) {
                steps.splice(at..=at, names.iter().cloned());
            }
        }
        // The last step of a chain has its name, and the chain's errors are those of all its steps.
        expanded.chains.entry(name).or_insert(names);
    }
    (Cow::Owned(expanded), times)
}

struct Compiler<'a> {
    component: &'a Component,
    /// The inputs by their names.
    tables: Vec<(String, Node)>,
    /// Which of them the query reads.
    read: Vec<usize>,
    steps: Vec<Component>,
    times: &'a mut TimeColumns,
    found: &'a mut Diagnostics,
}

/// A step of a query, not yet named.
struct Draft {
    /// What stands behind the query's name where it is not the last.
    suffix: &'static str,
    kind: &'static str,
    /// The clause.
    span: Span,
    entries: Vec<Entry>,
    times: Vec<TimeColumn>,
}

impl Draft {
    fn new(suffix: &'static str, kind: &'static str, span: Span, entries: Vec<Entry>) -> Draft {
        Draft { suffix, kind, span, entries, times: Vec::new() }
    }
}

impl Compiler<'_> {
    fn run(&mut self) -> Option<()> {
        let component = self.component;
        let config: SqlConfig = component.node.decode(self.found)?;
        let query_node = component.node.get("query").filter(|node| !node.is_placeholder())?;
        self.inputs(&config)?;
        let query = match query::read(&config.query) {
            Ok(query) => query,
            Err(error) => {
                self.expression(error);
                return None;
            }
        };
        let name = &component.name;
        match query.selects.as_slice() {
            [select] => self.select(select, name)?,
            selects => {
                let mut inputs = Vec::new();
                let selects = self.by_place(selects)?;
                for (number, select) in selects.iter().enumerate() {
                    let part = format!("{name}.{}", number + 1);
                    inputs.push(string(self.span(&select.range), part.clone()));
                    self.select(select, &part)?;
                }
                let list = Node::new(query_node.span, Value::List(inputs));
                self.push(name.clone(), "union", query_node.span, vec![entry("inputs", query_node.span, list)]);
            }
        }
        let unread = (0..self.tables.len()).find(|at| !self.read.contains(at));
        if let Some((table, node)) = unread.and_then(|at| self.tables.get(at)) {
            let message = format!("the query reads no table `{table}`");
            let problem = Diagnostic::error(codes::QUERY_TABLE, node.span, message);
            self.found.push(problem.help("take it out of the inputs, or name it in FROM"));
            return None;
        }
        Some(())
    }

    /// The parts of UNION ALL with the names that the first gives: in SQL columns go by their places, in a `union` by their names.
    fn by_place(&mut self, selects: &[Select]) -> Option<Vec<Select>> {
        let names = |select: &Select| -> Option<Vec<Option<Word>>> {
            let name = |item: &Item| match item {
                Item::All { .. } => None,
                Item::Column { term, alias } => Some(select::name_of(term, alias.as_ref())),
            };
            select.items.iter().map(name).collect()
        };
        let first = names(selects.first()?);
        let mut placed: Vec<Select> = selects.to_vec();
        for select in placed.iter_mut().skip(1) {
            match (&first, names(select)) {
                // All columns of each: they are those of the first, or the union says which are not.
                (None, None) => {}
                (Some(first), Some(own)) if first.len() == own.len() => {
                    for (item, name) in select.items.iter_mut().zip(first) {
                        // The first has no name for it, and is told so.
                        let (Item::Column { term, alias }, Some(name)) = (item, name) else { continue };
                        *alias = Some(Word { text: name.text.clone(), range: term.range.clone() });
                    }
                }
                (Some(first), Some(own)) => {
                    let message = format!(
                        "this SELECT has {} columns, and the first of UNION ALL has {}",
                        own.len(),
                        first.len()
                    );
                    let help = "give all parts the same columns, in the same places";
                    self.problem(codes::QUERY_CLAUSE, &select.range, message, help);
                    return None;
                }
                _ => {
                    let message = "in UNION ALL columns go by their places, and those of `*` are not known here";
                    let help = "name the columns in all parts, or write `*` in all";
                    self.problem(codes::QUERY_CLAUSE, &select.range, message, help);
                    return None;
                }
            }
        }
        Some(placed)
    }

    /// The tables of the query.
    fn inputs(&mut self, config: &SqlConfig) -> Option<()> {
        let node = &self.component.node;
        let nodes: Vec<Node> = match (&config.input, &config.inputs) {
            (Some(input), None) => vec![input.clone()],
            (None, Some(inputs)) => match &inputs.value {
                Value::List(items) => items.clone(),
                _ => {
                    let _: Option<Vec<engine_spec::Input>> = inputs.decode(self.found);
                    return None;
                }
            },
            (None, None) => {
                let message = format!("the query of `{}` reads nothing", self.component.name);
                let problem = Diagnostic::error(spec_codes::MISSING_KEY, node.head(), message);
                self.found.push(problem.help("add `input: name`, or `inputs: [name, name]`"));
                return None;
            }
            (Some(_), Some(_)) => {
                let span = node.entry("inputs").map_or(node.head(), |entry| entry.key_span);
                let problem = Diagnostic::error(codes::QUERY_TABLE, span, "a query has `input` or `inputs`, not both");
                self.found.push(problem.help("remove one"));
                return None;
            }
        };
        for node in nodes {
            // What is wrong with the others is told all the same.
            let Some(input) = node.decode::<engine_spec::Input>(self.found) else { continue };
            if self.tables.iter().any(|(name, _)| *name == input.from) {
                let problem = Diagnostic::error(
                    codes::QUERY_TABLE,
                    node.span,
                    format!("`{}` is among the inputs twice", input.from),
                );
                self.found.push(problem.help("name it once; the query may read it twice, with `AS` and another name"));
                continue;
            }
            self.tables.push((input.from, node));
        }
        if self.tables.is_empty() { None } else { Some(()) }
    }

    /// The input that a table of the query is.
    fn table(&mut self, table: &Table) -> Option<Node> {
        let name = table.name.text.as_str();
        let alone = self.tables.len() == 1 && name.eq_ignore_ascii_case("input");
        let known = self.tables.iter().position(|(known, _)| known == name).or(alone.then_some(0));
        let Some(at) = known else {
            let names: Vec<&str> = self.tables.iter().map(|(name, _)| name.as_str()).collect();
            let listed: Vec<String> = names.iter().map(|name| format!("`{name}`")).collect();
            let span = self.span(&table.name.range);
            let problem = Diagnostic::error(codes::QUERY_TABLE, span, format!("`{name}` is no input of this query"))
                .did_you_mean(name, names)
                .help(format!("its inputs are {}", listed.join(", ")));
            self.found.push(problem);
            return None;
        };
        self.read.push(at);
        Some(self.tables[at].1.clone())
    }

    /// Names the steps of a SELECT and has each read the one before. The first has its inputs.
    fn chain(&mut self, name: &str, drafts: Vec<Draft>) {
        let last = drafts.len() - 1;
        let mut before: Option<String> = None;
        for (at, mut draft) in drafts.into_iter().enumerate() {
            let step = if at == last { name.to_owned() } else { format!("{name}.{}", draft.suffix) };
            if let Some(before) = before {
                draft.entries.insert(0, entry("input", draft.span, string(draft.span, before)));
            }
            if !draft.times.is_empty() {
                self.times.insert(step.clone(), draft.times);
            }
            before = Some(step.clone());
            self.push(step, draft.kind, draft.span, draft.entries);
        }
    }

    fn push(&mut self, name: String, kind: &str, span: Span, entries: Vec<Entry>) {
        let node = Node::new(span, Value::Map(entries)).below(span);
        let suffix = name.strip_prefix(&self.component.name).unwrap_or_default();
        let renamed_from =
            self.component.renamed_from.as_ref().map(|(before, said)| (format!("{before}{suffix}"), *said));
        self.steps.push(Component {
            renamed_from,
            name,
            name_span: self.component.name_span,
            kind: kind.to_owned(),
            kind_span: span,
            node,
            base_dir: self.component.base_dir.clone(),
            folders: self.component.folders.clone(),
            instance: self.component.instance.clone(),
            unnamed: self.component.unnamed,
            kept: Vec::new(),
        });
    }

    fn query(&self) -> &Node {
        self.component.node.get("query").unwrap_or(&self.component.node)
    }

    /// The place of some bytes of the query.
    fn span(&self, range: &Range<usize>) -> Span {
        self.query().locate(range.clone())
    }

    /// Notes a problem at some bytes of the query.
    fn problem(
        &mut self,
        code: engine_base::Code,
        range: &Range<usize>,
        message: impl Into<String>,
        help: impl Into<String>,
    ) {
        let problem = Diagnostic::error(code, self.span(range), message).help(help);
        self.found.push(problem);
    }

    fn expression(&mut self, error: ExprError) {
        for problem in error.all() {
            let span = problem.range.as_ref().map_or(self.query().span, |range| self.span(range));
            let mut diagnostic = Diagnostic::error(problem.code, span, problem.message);
            diagnostic.help = problem.help;
            self.found.push(diagnostic);
        }
    }
}

/// What a table is called in its query; nothing where its name has dots.
fn called(table: &Table) -> Option<&str> {
    let name = table.alias.as_ref().unwrap_or(&table.name).text.as_str();
    (table.alias.is_some() || !name.contains('.')).then_some(name)
}

/// Whether an input has `column` as its event time; where not, the problem.
pub(crate) fn check_time(time: &TimeColumn, known: Option<&crate::kinds::EventTime>) -> Option<Diagnostic> {
    // Without event time the step itself says so.
    let known = known?;
    if known.column.as_deref() == Some(&time.column) {
        return None;
    }
    let message = format!("`{}` is not the event time of these rows", time.column);
    let problem = Diagnostic::error(codes::QUERY_TIME, time.span, message);
    Some(match &known.column {
        Some(column) => {
            problem.help(format!("that is `{column}`: rows are near each other, and in windows, by it alone"))
        }
        None => problem.help("no column of theirs shows it any more; read the step that has it still"),
    })
}

/// Whether rows of a SELECT are of many.
fn is_grouped(select: &Select) -> bool {
    let aggregate = |item: &query::Item| matches!(item, query::Item::Column { term, .. } if term.aggregates);
    select.group_by.is_some() || !select.having.is_empty() || select.items.iter().any(aggregate)
}
