//! `filter`: the rows for which an expression is true. Its plan is the one of `where:` on inputs and sinks.

use crate::render::{Projection, compile, evaluate, fail, sound};
use crate::{OperatorEntry, Render, RenderCx, check, planned};
use arrow::array::{Array, AsArray, BooleanArray};
use arrow::compute::prep_null_mask_filter;
use engine_dataflow::{RowStep, Rows, StepOutput};
use engine_expr::Program;
use engine_plan::kinds::InputKeys;
use engine_plan::rowwise::FilterPlan;
use engine_plan::{Cx, OperatorKind, Output, PlannedOperator, StreamType, types};
use engine_spec::Expression;
use schemars::JsonSchema;
use serde::Deserialize;
use std::collections::BTreeSet;
use std::sync::Arc;

static KIND: OperatorKind = OperatorKind {
    name: "filter",
    summary: "Keeps the rows for which `where` is true; the others can be read as `NAME.rejected`.",
    config_schema: |generator| generator.subschema_for::<FilterConfig>(),
    inputs: InputKeys::One,
    plan,
};

/// The registry line of `filter`.
pub(crate) fn entry() -> OperatorEntry {
    OperatorEntry {
        kind: &KIND,
        render: Render::Rows(|plan, cx| render_filter(planned::<FilterPlan>(plan, "filter")?, cx)),
    }
}

/// Keeps the rows for which an expression is true.
///
/// A row for which it is null is not kept. A column that can't be null where the expression is true
/// (`amount > 0 AND card IS NOT NULL`) is not nullable in the steps that follow. The rows that are not kept are the
/// output `NAME.rejected`.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct FilterConfig {
    /// A boolean expression over the columns of the input: `amount > 0 AND currency IS NOT NULL`.
    #[serde(rename = "where")]
    predicate: Expression,
}

fn plan(cx: &mut Cx<'_>, inputs: &[StreamType]) -> Option<PlannedOperator> {
    let input = inputs.first()?;
    let config: FilterConfig = cx.config()?;
    let Some(predicate) = check::predicate(cx, &["where"], &config.predicate, input) else {
        // Whatever is wrong with the condition, the rows are those of the input.
        let output = |port: &str| Output { port: port.to_owned(), stream: input.never_null() };
        return Some(PlannedOperator::wrong(vec![output(""), output("rejected")]));
    };
    let kept = StreamType { schema: types::narrow(&input.schema, &predicate.non_null_when_true()), ..input.clone() };
    Some(PlannedOperator {
        outputs: vec![
            Output { port: String::new(), stream: kept },
            Output { port: "rejected".to_owned(), stream: input.clone() },
        ],
        can_fail: true,
        exchange: None,
        state: None,
        timed: false,
        planned: Arc::new(FilterPlan { predicate }),
    })
}

/// The step of a `filter`, or of a `where:` on an input or a sink: then there is no port but the main one.
pub fn render_filter(plan: &FilterPlan, cx: &RenderCx<'_>) -> Result<Box<dyn RowStep>, String> {
    let input = cx.inputs.first().ok_or("a filter without an input")?;
    let port = |at: usize, non_null: &BTreeSet<String>| match (cx.wanted.get(at), cx.read.get(at)) {
        (Some(wanted), Some(true)) => Some(Projection::new(input, wanted, non_null)),
        _ => None,
    };
    Ok(Box::new(Filter {
        step: cx.step.clone(),
        program: compile(&plan.predicate, input)?,
        kept: port(0, &plan.predicate.non_null_when_true()),
        rejected: port(1, &BTreeSet::new()),
    }))
}

struct Filter {
    step: Arc<str>,
    program: Program,
    kept: Option<Projection>,
    rejected: Option<Projection>,
}

impl RowStep for Filter {
    fn step(&mut self, rows: Rows, out: &mut StepOutput) {
        let evaluated = evaluate(&mut self.program, &rows);
        let mask = truth(&evaluated.array);
        let kept_rows = mask.true_count();
        match &self.kept {
            Some(kept) if kept_rows > 0 => out.give(0, kept.apply(&rows, Some(&mask))),
            Some(_) => {}
            None => out.dropped += kept_rows as u64,
        }
        if let Some(rejected) = &self.rejected {
            let failed = sound(rows.num_rows(), &evaluated.errors);
            let others = BooleanArray::new(&!mask.values() & failed.values(), None);
            if others.true_count() > 0 {
                out.give(1, rejected.apply(&rows, Some(&others)));
            }
        } else {
            out.dropped += (rows.num_rows() - kept_rows - evaluated.errors.len()) as u64;
        }
        fail(&self.step, &rows, evaluated.errors, out);
    }
}

/// The rows for which a boolean column is true, without nulls. A failed row is null, and so not among them.
pub(crate) fn truth(array: &dyn Array) -> BooleanArray {
    match array.as_boolean_opt() {
        Some(mask) if mask.null_count() > 0 => prep_null_mask_filter(mask),
        Some(mask) => mask.clone(),
        // `where: null` has no type of its own, and is true nowhere.
        None => BooleanArray::from(vec![false; array.len()]),
    }
}

#[cfg(test)]
mod tests {
    use crate::testing::{Given, check, check_problems};

    const SOURCE: &str = "schema: { id: int64, amount: int64 | null, note: string | null }";
    const LINES: &str = r#"
        {"id": 1, "amount": 10, "note": "a"}
        {"id": 2, "amount": null, "note": "b"}
        {"id": 3, "amount": 0, "note": null}
        {"id": 4, "amount": 20}
        {"id": 5, "amount": 5, "note": "c"}
    "#;

    #[test]
    fn keeps_true_and_rejects_false_and_null() {
        check(
            &Given {
                source: SOURCE,
                operators: "large: { type: filter, input: rows, where: amount > 5 }",
                read: &[("large", &[]), ("large.rejected", &["id"])],
                ..Given::default()
            },
            LINES,
            r#"
            large {"id":1,"amount":10,"note":"a"}
            large {"id":4,"amount":20,"note":null}
            large.rejected {"id":2}
            large.rejected {"id":3}
            large.rejected {"id":5}
            "#,
        );
    }

    #[test]
    fn a_row_that_fails_is_neither_kept_nor_rejected() {
        check(
            &Given {
                source: SOURCE,
                operators: "large: { type: filter, input: rows, where: 100 / amount > 8 }",
                read: &[("large", &["id"]), ("large.rejected", &["id"]), ("large.errors", &[])],
                ..Given::default()
            },
            LINES,
            r#"
            large {"id":1}
            large {"id":5}
            large.errors 2 divide_by_zero: division by zero {"id":3,"amount":0,"note":null}
            large.rejected {"id":2}
            large.rejected {"id":4}
            "#,
        );
    }

    #[test]
    fn rows_without_columns_are_still_counted() {
        check(
            &Given {
                source: SOURCE,
                operators: "
                    large: { type: filter, input: rows, where: amount > 5 }
                    one: { type: map, input: large, set: { one: 1 }, keep: [one] }",
                read: &[("one", &[])],
                ..Given::default()
            },
            LINES,
            r#"
            one {"one":1}
            one {"one":1}
            "#,
        );
    }

    #[test]
    fn what_is_known_after_the_filter_is_in_the_types() {
        let (plan, problems) = Given {
            source: SOURCE,
            operators: "large: { type: filter, input: rows, where: amount > 5 AND note IS NOT NULL }",
            read: &[("large", &[]), ("large.rejected", &[])],
            ..Given::default()
        }
        .plan();
        let plan = plan.expect(&problems);
        let large = plan.find("large").expect("the step");
        let nullable = |port: usize| -> Vec<bool> {
            large.outputs[port].stream.schema.fields().iter().map(|field| field.is_nullable()).collect()
        };
        assert_eq!(nullable(0), [false, false, false]);
        assert_eq!(nullable(1), [false, true, true]);
    }

    #[test]
    fn event_time_is_refused_where_there_is_none() {
        check_problems(
            &Given {
                source: SOURCE,
                operators: "old: { type: filter, input: rows, where: event_time() < now() }",
                read: &[("old", &[])],
                ..Given::default()
            },
            "E0323 `event_time() < now()` `event_time()` needs event time, which these rows don't have \
             | declare it at the source: `event_time: { column: at, max_delay: 5s }`",
        );
    }
}
