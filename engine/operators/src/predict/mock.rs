//! What a test has a model answer: `mock:` of a `predict` step, which only the kind for tests takes.

use super::OutputColumn;
use crate::{RenderCx, check, render};
use arrow::array::{Array, AsArray, BooleanArray};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Float32Type};
use engine_base::codes::testing as codes;
use engine_base::{Diagnostic, RowError, suggest};
use engine_dataflow::Rows;
use engine_dataflow::rows::is_made;
use engine_expr::{Program, Scalar};
use engine_plan::{Columns, Cx, StreamType};
use engine_spec::{Expression, Node, Value};
use std::collections::BTreeMap;
use std::ops::RangeInclusive;

/// The key of a component that holds it.
pub(super) const KEY: &str = "mock";

/// What is answered instead of asking the model.
#[derive(Debug)]
pub(super) struct MockPlan {
    /// By the place of the new column.
    answers: Vec<(usize, Answer)>,
    fails: Option<Failing>,
}

#[derive(Debug)]
enum Answer {
    /// A number, by an expression over the input's columns.
    Number(Scalar),
    /// The same list for each row.
    List(Vec<f32>),
}

/// Which rows fail.
#[derive(Debug)]
struct Failing {
    reason: String,
    /// Those at these places among the rows given, from one.
    places: Option<RangeInclusive<u64>>,
    /// Those for which this holds.
    when: Option<Scalar>,
}

impl MockPlan {
    /// Whether the model is asked at all: not if every column has an answer.
    pub(super) fn asks(&self) -> bool {
        self.answers.is_empty()
    }

    /// The columns of the input that it reads.
    pub(super) fn reads(&self) -> Columns {
        let answers = self.answers.iter().filter_map(|(_, answer)| match answer {
            Answer::Number(scalar) => Some(scalar),
            Answer::List(_) => None,
        });
        let when = self.fails.iter().filter_map(|fails| fails.when.as_ref());
        answers.chain(when).flat_map(|scalar| scalar.columns().iter().cloned()).collect()
    }
}

/// Plans the mock of a component, if it has one. `None` within with a problem noted.
pub(super) fn plan(cx: &mut Cx<'_>, input: &StreamType, outputs: &[OutputColumn]) -> Option<MockPlan> {
    let node = cx.component.node.get(KEY)?.clone();
    let Value::Map(entries) = &node.value else {
        let [only] = outputs else {
            let names = check::listed(outputs.iter().map(|output| output.field.name().as_str()));
            cx.push(
                Diagnostic::error(
                    codes::TEST_VALUE,
                    node.span,
                    "this step adds several columns, and one answer is given",
                )
                .help(format!("answer for each: a map of {names}")),
            );
            return None;
        };
        let answer = answer(cx, &[KEY], &node, input, only)?;
        return Some(MockPlan { answers: vec![(0, answer)], fails: None });
    };
    let mut answers = Vec::new();
    for entry in entries.iter().filter(|entry| !["fail", "rows", "where"].contains(&entry.key.as_str())) {
        let Some(at) = outputs.iter().position(|output| *output.field.name() == entry.key) else {
            let names: Vec<&str> = outputs.iter().map(|output| output.field.name().as_str()).collect();
            let message = format!("`{}` adds no column `{}`", cx.component.name, entry.key);
            let problem = Diagnostic::error(codes::TEST_NAME, entry.key_span, message);
            let near = suggest::nearest(&entry.key, names.iter().copied());
            cx.push(problem.help(match near {
                Some(near) => format!("did you mean `{near}`?"),
                None => format!("it adds {}", check::listed(names)),
            }));
            return None;
        };
        answers.push((at, answer(cx, &[KEY, &entry.key], &entry.value, input, &outputs[at])?));
    }
    if !answers.is_empty() && answers.len() < outputs.len() {
        let missing = outputs.iter().enumerate().filter(|(at, _)| !answers.iter().any(|(answered, _)| answered == at));
        let missing = check::listed(missing.map(|(_, output)| output.field.name().as_str()));
        let message = format!("nothing is answered for {missing}");
        cx.push(
            Diagnostic::error(codes::TEST_VALUE, node.span, message)
                .help("a mock stands for the whole model: answer for each column that it adds"),
        );
        return None;
    }
    let fails = match node.get("fail") {
        None => {
            if let Some(key) = ["rows", "where"].iter().find_map(|key| node.entry(key)) {
                let message = format!("`{}` says which rows fail, and nothing says with what", key.key);
                cx.push(Diagnostic::error(codes::TEST_VALUE, key.key_span, message).help("add `fail: timeout`"));
                return None;
            }
            None
        }
        Some(reason) => Some(Failing {
            reason: reason.text().unwrap_or("failed").to_owned(),
            places: match node.get("rows") {
                Some(rows) => Some(places(cx, rows)?),
                None => None,
            },
            when: match node.get("where") {
                Some(text) => {
                    let text = Expression(text.text().unwrap_or_default().to_owned());
                    Some(check::predicate(cx, &[KEY, "where"], &text, input)?)
                }
                None => None,
            },
        }),
    };
    if answers.is_empty() && fails.is_none() {
        cx.push(
            Diagnostic::error(codes::TEST_VALUE, node.span, "this mock answers nothing")
                .help("write an answer for each column, or `fail: timeout`"),
        );
        return None;
    }
    Some(MockPlan { answers, fails })
}

fn answer(cx: &mut Cx<'_>, path: &[&str], node: &Node, input: &StreamType, output: &OutputColumn) -> Option<Answer> {
    let mut wrong = |help: String| {
        let column = output.field.name();
        let message = format!("`{column}` can't be answered by this");
        cx.push(Diagnostic::error(codes::TEST_VALUE, node.span, message).help(help));
        None
    };
    match (&node.value, output.list) {
        (Value::List(items), Some(len)) => {
            let numbers: Option<Vec<f32>> = items.iter().map(number).collect();
            match numbers.filter(|numbers| numbers.len() == len) {
                Some(numbers) => Some(Answer::List(numbers)),
                None => wrong(format!("write a list of {len} numbers")),
            }
        }
        (_, Some(len)) => wrong(format!("write a list of {len} numbers")),
        (Value::Int(_) | Value::Float(_) | Value::String(_), None) => {
            let text = Expression(node.text().unwrap_or_default().to_owned());
            let scalar = check::scalar(cx, path, &text, input)?;
            if !scalar.data_type().is_numeric() {
                let ty = engine_expr::type_name(scalar.data_type());
                let message = format!("`{}` is a number, and this is of type {ty}", output.field.name());
                cx.push(
                    Diagnostic::error(codes::TEST_VALUE, node.span, message)
                        .help("write a number, or an expression that gives one"),
                );
                return None;
            }
            Some(Answer::Number(scalar))
        }
        _ => wrong("write a number, or an expression that gives one".to_owned()),
    }
}

fn number(node: &Node) -> Option<f32> {
    match &node.value {
        Value::Int(value) => Some(*value as f32),
        Value::Float(value) => Some(*value as f32),
        _ => None,
    }
}

/// `3`, `1..3`: places from one, both ends included.
fn places(cx: &mut Cx<'_>, node: &Node) -> Option<RangeInclusive<u64>> {
    let text = node.text().unwrap_or_default();
    let (first, last) = text.split_once("..").unwrap_or((text, text));
    let place = |text: &str| text.trim().parse::<u64>().ok().filter(|place| *place > 0);
    match (place(first), place(last)) {
        (Some(first), Some(last)) if first <= last => Some(first..=last),
        _ => {
            cx.push(
                Diagnostic::error(codes::TEST_VALUE, node.span, "these are no places of rows")
                    .help("write `1..3` for the first three rows given, or `2` for the second"),
            );
            None
        }
    }
}

/// A mock at work on a worker.
pub(super) struct Mock {
    answers: Vec<(usize, Answered)>,
    reason: Option<String>,
    places: Option<RangeInclusive<u64>>,
    when: Option<Program>,
}

enum Answered {
    Number(Program),
    List(Vec<f32>),
}

impl Mock {
    pub(super) fn new(plan: &MockPlan, cx: &RenderCx<'_>) -> Result<Self, String> {
        let input = cx.inputs.first().ok_or("a predict without an input")?;
        let answers = plan.answers.iter().map(|(at, answer)| {
            let answered = match answer {
                Answer::Number(scalar) => Answered::Number(render::compile(scalar, input)?),
                Answer::List(numbers) => Answered::List(numbers.clone()),
            };
            Ok::<_, String>((*at, answered))
        });
        let answers = answers.collect::<Result<_, _>>()?;
        let fails = plan.fails.as_ref();
        let when = fails.and_then(|fails| fails.when.as_ref());
        Ok(Mock {
            answers,
            reason: fails.map(|fails| fails.reason.clone()),
            places: fails.and_then(|fails| fails.places.clone()),
            when: when.map(|when| render::compile(when, input)).transpose()?,
        })
    }

    /// Puts the answers in the place of what the model said, and fails the rows that are to fail.
    pub(super) fn answer(&mut self, rows: &Rows, results: &mut [Vec<f32>], failed: &mut BTreeMap<usize, RowError>) {
        let count = rows.num_rows();
        for (at, answer) in &mut self.answers {
            results[*at] = match answer {
                Answered::List(numbers) => numbers.repeat(count),
                Answered::Number(program) => {
                    let evaluated = render::evaluate(program, rows);
                    failed.extend(evaluated.errors);
                    let numbers = cast(&evaluated.array, &DataType::Float32);
                    let Ok(numbers) = numbers else { continue };
                    let numbers = numbers.as_primitive::<Float32Type>();
                    for row in (0..count).filter(|row| numbers.is_null(*row)) {
                        let error = || RowError::new("model", "the mock answers null");
                        failed.entry(row).or_insert_with(error);
                    }
                    (0..count).map(|row| if numbers.is_null(row) { 0.0 } else { numbers.value(row) }).collect()
                }
            };
        }
        let Some(reason) = &self.reason else { return };
        let when = self.when.as_mut().map(|when| render::evaluate(when, rows).array);
        let holds = |row: usize| {
            let mask: Option<&BooleanArray> = when.as_ref().map(|mask| mask.as_boolean());
            mask.is_none_or(|mask| mask.is_valid(row) && mask.value(row))
        };
        for row in 0..count {
            let (origin, offset) = rows.positions.source(row);
            let counts = self.places.as_ref().is_none_or(|places| !is_made(origin) && places.contains(&(offset + 1)));
            if counts && holds(row) {
                failed.insert(row, RowError::new("model", format!("the mock fails: {reason}")));
            }
        }
    }
}
