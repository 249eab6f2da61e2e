//! `join`: rows of two streams that belong together, by equal columns and by event time.
//!
//! ```text
//! within (interval.rs)      left  ──────●───────────      a right row matches if it is at most `before` earlier
//!                           right ───○──┼──○──○─────      and at most `after` later; pairs go out at the close of the
//!                                 └before┴─after─┘        epoch in which the second of the two is there
//!
//! window (same_window.rs)   left  │ ●   ● │   ●   │       rows of one window match, and go out when it closes
//!                           right │   ○   │ ○     │
//! ```
//!
//! Without either, all rows with one key match, whenever they come (changelog.rs).
//!
//! Both sides are kept as bytes of the columns that are read of them later (`slot.rs`), until the other side's watermark says
//! that no row can meet them any more. A side that may be missing puts a row out alone then. Pairs are put together a portion
//! at a time (`pairs.rs`): a hot key can make millions of them in an epoch.

mod changelog;
mod columns;
mod index;
mod interval;
mod pairs;
mod plan;
mod same_window;
mod slot;
mod taken;
#[cfg(test)]
mod tests;

pub use plan::{JoinPlan, kind};

use crate::{OperatorEntry, Render, RenderCx};
use engine_dataflow::EpochStep;
use engine_plan::Planned;

/// The registry line of `join`.
pub(crate) fn entry() -> OperatorEntry {
    let of_plan = |plan: &dyn Planned| match plan.downcast::<JoinPlan>() {
        Some(JoinPlan { form: plan::Form::Changelog, .. }) => {
            Render::Region(|plan, cx| changelog::region(crate::planned(plan, "join")?, cx))
        }
        _ => Render::Epochs(render),
    };
    OperatorEntry { kind: kind(), render: Render::OfPlan(of_plan) }
}

/// Makes the step of a planned `join` on a worker.
pub fn render(planned: &dyn Planned, cx: &RenderCx<'_>) -> Result<Box<dyn EpochStep>, String> {
    let plan: &JoinPlan = crate::planned(planned, "join")?;
    let store = cx.store();
    Ok(match &plan.form {
        plan::Form::Interval(span) => Box::new(interval::Interval::new(plan, *span, cx, store)?),
        plan::Form::Changelog => return Err("a join of changelogs runs on differential dataflow".to_owned()),
        plan::Form::Window(windows) => Box::new(same_window::SameWindow::new(plan, windows.clone(), cx, store)?),
    })
}

/// The place of the left side among two.
const LEFT: usize = 0;
/// The place of the right side.
const RIGHT: usize = 1;
/// How many rows a step puts out before others have their turn.
const PORTION_ROWS: usize = 8_192;
