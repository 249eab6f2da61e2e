//! An end of the dataflow that remembers what came to it: what tests look at.

use crate::rows::Rows;
use std::sync::{Arc, Mutex, PoisonError};
use timely::container::NoopBuilder;
use timely::dataflow::Stream;
use timely::dataflow::channels::pact::Pipeline;
use timely::dataflow::operators::generic::OutputBuilder;
use timely::dataflow::operators::generic::builder_rc::OperatorBuilder;
use timely::progress::operate::FrontierInterest;

/// What came to an end, from all workers: the epoch and its rows.
#[derive(Debug, Default)]
pub struct Captured(Mutex<Vec<(u64, Rows)>>);

impl Captured {
    /// Takes everything that came so far, by epoch; in an epoch in the order in which it came.
    pub fn take(&self) -> Vec<(u64, Rows)> {
        let mut all = std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner));
        all.sort_by_key(|(epoch, _)| *epoch);
        all
    }
}

/// Remembers the rows of a stream. What it returns never carries rows; its frontier tells what has come.
pub fn capture<'scope>(input: Stream<'scope, u64, Rows>, name: &str, to: Arc<Captured>) -> Stream<'scope, u64, Rows> {
    let mut builder = OperatorBuilder::new(name.to_owned(), input.scope());
    let mut input = builder.new_input(input, Pipeline);
    builder.set_notify_for(0, FrontierInterest::Never);
    let (output, done) = builder.new_output::<Rows>();
    let _output = OutputBuilder::<_, NoopBuilder<Rows>>::from(output);
    builder.build(move |_caps| {
        move |_frontiers| {
            input.for_each(|cap, rows| {
                let Some(epoch) = cap.least().copied() else { return };
                let mut all = to.0.lock().unwrap_or_else(PoisonError::into_inner);
                all.push((epoch, std::mem::take(rows)));
            });
        }
    });
    done
}
