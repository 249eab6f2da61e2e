//! The step that gives rows their event time, which the planner inserts after a source with `event_time:`.

use crate::RenderCx;
use crate::render::{Projection, compile, evaluate, fail, sound};
use engine_base::RowError;
use engine_dataflow::{RowStep, Rows, StepOutput, Times};
use engine_expr::Program;
use engine_plan::event_time::EventTimePlan;
use engine_plan::hidden;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// The step of `event_time:` of a source. It fills the event time of rows where a later step reads it, and then a row
/// without one is a failed row; otherwise it lets rows pass.
pub fn render_event_time(plan: &EventTimePlan, cx: &RenderCx<'_>) -> Result<Box<dyn RowStep>, String> {
    let input = cx.inputs.first().ok_or("an event time without an input")?;
    let wanted = cx.wanted.first().ok_or("an event time without an output")?;
    let program = match wanted.contains(hidden::EVENT_TIME) {
        true => Some(compile(&plan.value, input)?),
        false => None,
    };
    Ok(Box::new(EventTime {
        step: cx.step.clone(),
        plan: EventTimePlan { value: plan.value.clone(), ..*plan },
        program,
        port: Projection::new(input, wanted, &BTreeSet::new()),
    }))
}

struct EventTime {
    step: Arc<str>,
    plan: EventTimePlan,
    /// The value of the event time; `None` where nobody reads it.
    program: Option<Program>,
    port: Projection,
}

impl RowStep for EventTime {
    fn step(&mut self, mut rows: Rows, out: &mut StepOutput) {
        let Some(program) = &mut self.program else {
            out.give(0, self.port.apply(&rows, None));
            return;
        };
        let evaluated = evaluate(program, &rows);
        let (times, without) = self.plan.to_ns(&evaluated.array);
        rows.event_ns = Some(Times::Each(times));
        if evaluated.errors.is_empty() && without.is_empty() {
            out.give(0, self.port.apply(&rows, None));
            return;
        }
        // A row whose expression failed has no value either: the first reason is the one that counts.
        let mut failed: BTreeMap<usize, RowError> = without.into_iter().collect();
        failed.extend(evaluated.errors);
        let failed: Vec<(usize, RowError)> = failed.into_iter().collect();
        out.give(0, self.port.apply(&rows, Some(&sound(rows.num_rows(), &failed))));
        fail(&self.step, &rows, failed, out);
    }
}

#[cfg(test)]
mod tests {
    use crate::testing::{Given, check};

    const LINES: &str = r#"
        {"id": 1, "at": 10}
        {"id": 2, "at": null}
        {"id": 3, "at": 30}
    "#;

    fn given<'a>(operators: &'a str, read: &'a [(&'a str, &'a [&'a str])]) -> Given<'a> {
        let source = "
            schema: { id: int64, at: int64 | null }
            event_time: { column: at, unit: s }";
        Given { source, operators, read, ..Given::default() }
    }

    #[test]
    fn a_row_without_event_time_fails_where_it_is_read() {
        check(
            &given(
                "
                late: { type: filter, input: rows, where: id <> 1 }
                m: { type: map, input: late, set: { t: event_time() }, keep: [t] }",
                &[("m", &[]), ("rows.event_time.errors", &[])],
            ),
            LINES,
            r#"
            m {"t":"1970-01-01T00:00:30Z"}
            rows.event_time.errors 1 event_time: the event time is null {"id":2,"at":null}
            "#,
        );
    }

    #[test]
    fn nothing_is_read_that_nobody_wants() {
        check(
            &given("m: { type: map, input: rows, keep: [id] }", &[("m", &[])]),
            LINES,
            r#"
            m {"id":1}
            m {"id":2}
            m {"id":3}
            "#,
        );
    }
}
