//! `route`: each row to the first case that is true.

use crate::filter::truth;
use crate::render::{Projection, compile, evaluate, fail};
use crate::{OperatorEntry, Render, RenderCx, check, planned};
use arrow::array::BooleanArray;
use arrow::buffer::BooleanBuffer;
use engine_base::codes::{operator as codes, plan as plan_codes};
use engine_base::{Diagnostic, RowError};
use engine_dataflow::{RowStep, Rows, StepOutput};
use engine_expr::{Program, Scalar};
use engine_plan::kinds::InputKeys;
use engine_plan::rowwise::reads_event_time;
use engine_plan::{Columns, Cx, OperatorKind, Output, Planned, PlannedOperator, StreamType, types};
use engine_spec::Expression;
use indexmap::IndexMap;
use schemars::JsonSchema;
use serde::Deserialize;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

static KIND: OperatorKind = OperatorKind {
    name: "route",
    summary: "Sends each row to the first of its `cases` that is true, read as `NAME.CASE`.",
    config_schema: |generator| generator.subschema_for::<RouteConfig>(),
    inputs: InputKeys::One,
    plan,
};

/// The registry line of `route`.
pub(crate) fn entry() -> OperatorEntry {
    OperatorEntry { kind: &KIND, render: Render::Rows(|plan, cx| render(planned::<RoutePlan>(plan, "route")?, cx)) }
}

/// Sends each row to the first case that is true, and to `else` if none is.
///
/// Each case is an output, read as `NAME.CASE`; there is no output `NAME`. A case that is null is not true. A row for
/// which a case fails before one is true goes to `NAME.errors`. Without `else`, a row for which no case is true is
/// dropped.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct RouteConfig {
    /// `case: boolean expression`, tried in this order.
    cases: IndexMap<String, Expression>,
    /// The name of the output of all other rows.
    #[serde(rename = "else")]
    otherwise: Option<String>,
}

/// A planned `route`. Its ports are the cases, then `otherwise`.
#[derive(Debug)]
pub struct RoutePlan {
    /// Name and condition, in order.
    pub cases: Vec<(String, Scalar)>,
    /// The name of the output of all other rows.
    pub otherwise: Option<String>,
}

impl Planned for RoutePlan {
    fn reads(&self, wanted: &[Columns]) -> Vec<Columns> {
        let mut reads: Columns = wanted.iter().flatten().cloned().collect();
        for (_, condition) in &self.cases {
            reads.extend(condition.columns().iter().cloned());
            reads_event_time(condition, &mut reads);
        }
        vec![reads]
    }

    fn facts(&self) -> Vec<(String, String)> {
        let cases = self.cases.iter().map(|(name, condition)| (name.clone(), condition.text().to_owned()));
        cases.chain(self.otherwise.iter().map(|name| (name.clone(), "else".to_owned()))).collect()
    }
}

fn plan(cx: &mut Cx<'_>, inputs: &[StreamType]) -> Option<PlannedOperator> {
    let input = inputs.first()?;
    let config: RouteConfig = cx.config()?;
    let noted = cx.diagnostics.len();
    if config.cases.is_empty() {
        let span = cx.span(&["cases"]);
        cx.push(
            Diagnostic::error(codes::NOTHING_TO_DO, span, "a route needs at least one case")
                .help("write `cases: { high: risk > 0.9 }`, which is read as `NAME.high`"),
        );
    }
    let mut outputs = Vec::new();
    let mut cases = Vec::new();
    for (name, expression) in &config.cases {
        let Some(condition) = check::predicate(cx, &["cases", name], expression, input) else {
            outputs.push(Output { port: name.clone(), stream: input.never_null() });
            continue;
        };
        let schema = types::narrow(&input.schema, &condition.non_null_when_true());
        outputs.push(Output { port: name.clone(), stream: StreamType { schema, ..input.clone() } });
        cases.push((name.clone(), condition));
    }
    if let Some(name) = &config.otherwise {
        let span = cx.span(&["else"]);
        let before = cx.diagnostics.len();
        if config.cases.contains_key(name) {
            let case = check::key_span(cx, &["cases"], name);
            cx.push(
                Diagnostic::error(plan_codes::RESERVED_NAME, span, format!("there is a case `{name}` already"))
                    .also(case, "here")
                    .help("`else` is an output of its own; choose another name"),
            );
        } else if !name.chars().all(|c| c.is_alphanumeric() || c == '_' || c == '-') {
            cx.push(
                Diagnostic::error(plan_codes::RESERVED_NAME, span, format!("`{name}` can't be the name of an output"))
                    .help("`else` is no condition, but the name of the output of all other rows: `else: other`"),
            );
        }
        // A name that can't be one is no output, so that it is not told twice.
        if cx.diagnostics.len() == before {
            outputs.push(Output { port: name.clone(), stream: input.clone() });
        }
    }
    if cx.diagnostics.len() > noted {
        return Some(PlannedOperator::wrong(outputs));
    }
    Some(PlannedOperator {
        outputs,
        can_fail: true,
        exchange: None,
        state: None,
        timed: false,
        planned: Arc::new(RoutePlan { cases, otherwise: config.otherwise }),
    })
}

fn render(plan: &RoutePlan, cx: &RenderCx<'_>) -> Result<Box<dyn RowStep>, String> {
    let input = cx.inputs.first().ok_or("a route without an input")?;
    let port = |at: usize, non_null: &BTreeSet<String>| match (cx.wanted.get(at), cx.read.get(at)) {
        (Some(wanted), Some(true)) => Some(Projection::new(input, wanted, non_null)),
        _ => None,
    };
    let cases = plan
        .cases
        .iter()
        .enumerate()
        .map(|(at, (_, condition))| {
            Ok(Case { program: compile(condition, input)?, port: port(at, &condition.non_null_when_true()) })
        })
        .collect::<Result<_, String>>()?;
    let otherwise = plan.otherwise.as_ref().and_then(|_| port(plan.cases.len(), &BTreeSet::new()));
    Ok(Box::new(Route { step: cx.step.clone(), cases, otherwise }))
}

struct Case {
    program: Program,
    port: Option<Projection>,
}

struct Route {
    step: Arc<str>,
    cases: Vec<Case>,
    otherwise: Option<Projection>,
}

impl RowStep for Route {
    fn step(&mut self, rows: Rows, out: &mut StepOutput) {
        // The rows that no case has taken yet.
        let mut open = BooleanBuffer::new_set(rows.num_rows());
        let mut failed: BTreeMap<usize, RowError> = BTreeMap::new();
        for (at, case) in self.cases.iter_mut().enumerate() {
            if open.count_set_bits() == 0 {
                break;
            }
            let evaluated = evaluate(&mut case.program, &rows);
            let mine = &open & truth(&evaluated.array).values();
            open = &open & &!&mine;
            // What fails for a row that an earlier case has taken is nobody's business.
            let mut gone: Vec<usize> = Vec::new();
            for (row, error) in evaluated.errors {
                if open.value(row) {
                    failed.insert(row, error);
                    gone.push(row);
                }
            }
            if !gone.is_empty() {
                open = open.iter().enumerate().map(|(row, is)| is && gone.binary_search(&row).is_err()).collect();
            }
            give(case.port.as_ref(), at, &rows, mine, out);
        }
        give(self.otherwise.as_ref(), self.cases.len(), &rows, open, out);
        fail(&self.step, &rows, failed.into_iter().collect(), out);
    }
}

fn give(port: Option<&Projection>, at: usize, rows: &Rows, mask: BooleanBuffer, out: &mut StepOutput) {
    let count = mask.count_set_bits();
    match port {
        Some(port) if count > 0 => out.give(at, port.apply(rows, Some(&BooleanArray::new(mask, None)))),
        Some(_) => {}
        None => out.dropped += count as u64,
    }
}

#[cfg(test)]
mod tests {
    use crate::testing::{Given, check, check_problems};

    const SOURCE: &str = "schema: { id: int64, risk: float64 | null, n: int64 }";
    const LINES: &str = r#"
        {"id": 1, "risk": 0.95, "n": 0}
        {"id": 2, "risk": 0.6, "n": 1}
        {"id": 3, "risk": null, "n": 1}
        {"id": 4, "risk": 0.1, "n": 0}
        {"id": 5, "risk": 0.1, "n": 1}
    "#;
    const ROUTE: &str = "r: { type: route, input: rows, cases: { high: risk > 0.9, odd: 1 / n > 0 }, else: low }";

    #[test]
    fn the_first_case_that_is_true_takes_the_row() {
        check(
            &Given {
                source: SOURCE,
                operators: "r: { type: route, input: rows, cases: { high: risk > 0.9, some: risk > 0.5 }, else: low }",
                read: &[("r.high", &["id"]), ("r.some", &["id"]), ("r.low", &["id", "risk"])],
                ..Given::default()
            },
            LINES,
            r#"
            r.high {"id":1}
            r.low {"id":3,"risk":null}
            r.low {"id":4,"risk":0.1}
            r.low {"id":5,"risk":0.1}
            r.some {"id":2}
            "#,
        );
    }

    #[test]
    fn a_case_fails_only_rows_that_no_case_has_taken() {
        check(
            &Given {
                source: SOURCE,
                operators: ROUTE,
                read: &[("r.high", &["id"]), ("r.odd", &["id"]), ("r.low", &["id"]), ("r.errors", &[])],
                ..Given::default()
            },
            LINES,
            r#"
            r.errors 3 divide_by_zero: division by zero {"id":4,"risk":0.1,"n":0}
            r.high {"id":1}
            r.odd {"id":2}
            r.odd {"id":3}
            r.odd {"id":5}
            "#,
        );
    }

    #[test]
    fn outputs_that_nobody_reads_are_not_put_out() {
        let given = Given { source: SOURCE, operators: ROUTE, read: &[("r.odd", &["id"])], ..Given::default() };
        check(
            &given,
            LINES,
            r#"
            r.odd {"id":2}
            r.odd {"id":3}
            r.odd {"id":5}
            "#,
        );
    }

    #[test]
    fn a_case_knows_what_is_not_null() {
        let (plan, problems) =
            Given { source: SOURCE, operators: ROUTE, read: &[("r.high", &[]), ("r.low", &[])], ..Given::default() }
                .plan();
        let plan = plan.expect(&problems);
        let route = plan.find("r").expect("the step");
        let risk = |port: usize| route.outputs[port].stream.schema.field_with_name("risk").expect("risk").is_nullable();
        assert_eq!([risk(0), risk(1), risk(2)], [false, true, true]);
    }

    #[test]
    fn problems_have_their_place() {
        let given =
            |operators: &'static str| Given { source: SOURCE, operators, read: &[("r", &[])], ..Given::default() };
        check_problems(
            &given(ROUTE),
            "E0302 `r` `r` has no one output: each row goes to one of several \
             | read one of `r.high`, `r.odd`, `r.low` and `r.errors`",
        );
        check_problems(
            &given("r: { type: route, input: rows, cases: { high: risk > 0.9 }, else: risk <= 0.9 }"),
            "E0327 `risk <= 0.9` `risk <= 0.9` can't be the name of an output \
             | `else` is no condition, but the name of the output of all other rows: `else: other`",
        );
        check_problems(
            &given("r: { type: route, input: rows, cases: { high: risk > 0.9 }, else: high }"),
            "E0327 `high` there is a case `high` already | `else` is an output of its own; choose another name",
        );
        check_problems(
            &given("r: { type: route, input: rows, cases: {} }"),
            "E0350 `{}` a route needs at least one case | write `cases: { high: risk > 0.9 }`, which is read as `NAME.high`",
        );
    }
}
