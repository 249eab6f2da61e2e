//! The sink operator: its capabilities are the acknowledgements.
//!
//! A batch's capability is held until its ticket is acknowledged, so the frontier behind all sinks *is* the account of what
//! every system has taken: nothing else keeps one.
//!
//! ```text
//! rows ─▶ waiting (writer's queue is full) ─▶ Writer::write(ticket) ─▶ sent ─▶ acknowledged: failed rows out, capability dropped
//! ```

use crate::control::Control;
use crate::errors::{SourceNames, error_rows};
use crate::meter::{Meter, count_failed};
use crate::rows::{Rows, Times};
use crate::sink::Writer;
use crate::source::Waker;
use engine_base::Clock;
use std::collections::VecDeque;
use std::sync::Arc;
use timely::container::NoopBuilder;
use timely::dataflow::Stream;
use timely::dataflow::channels::pact::Pipeline;
use timely::dataflow::operators::Capability;
use timely::dataflow::operators::generic::OutputBuilder;
use timely::dataflow::operators::generic::builder_rc::OperatorBuilder;
use timely::progress::operate::FrontierInterest;

/// Makes a worker's writer once its waker is known.
pub type OpenWriter = Box<dyn FnOnce(Waker) -> Result<Box<dyn Writer>, String>>;

/// What the sinks of a process share.
#[derive(Clone)]
pub struct SinkShared {
    /// Stopping.
    pub control: Arc<Control>,
    /// The clock, for latency.
    pub clock: Arc<dyn Clock>,
    /// Names of sources, for error rows.
    pub names: SourceNames,
    /// The last epoch that an earlier run has had acknowledged by all sinks: what is put out again up to there comes of a
    /// replay, and goes nowhere.
    pub acknowledged: Option<u64>,
}

/// The streams of a sink.
pub struct SinkStreams<'scope> {
    /// Never carries rows; its frontier tells what is acknowledged.
    pub done: Stream<'scope, u64, Rows>,
    /// Rows that could not be delivered.
    pub errors: Stream<'scope, u64, Rows>,
}

struct Batch {
    /// Held for its own sake: while it lives, the epoch is not acknowledged.
    _done: Capability<u64>,
    errors: Capability<u64>,
    born_ns: Times,
    rows: usize,
}

/// Builds the operator of a sink on this worker.
pub fn deliver<'scope>(
    input: Stream<'scope, u64, Rows>,
    name: &str,
    open: OpenWriter,
    meter: Arc<dyn Meter>,
    shared: &SinkShared,
) -> SinkStreams<'scope> {
    let scope = input.scope();
    let mut builder = OperatorBuilder::new(name.to_owned(), scope);
    let mut input = builder.new_input(input, Pipeline);
    builder.set_notify_for(0, FrontierInterest::Always);
    let (done_out, done) = builder.new_output::<Rows>();
    let (errors_out, errors) = builder.new_output::<Rows>();
    let mut errors_out = OutputBuilder::<_, NoopBuilder<Rows>>::from(errors_out);
    let waker = Waker::of_operator(&scope, &builder.operator_info());
    shared.control.on_stop(waker.clone());
    let mut writer = match open(waker) {
        Ok(writer) => Some(writer),
        Err(error) => {
            shared.control.fail(format!("sink `{name}`: {error}"));
            None
        }
    };
    let (shared, name, worker) = (shared.clone(), name.to_owned(), scope.index());
    builder.build(move |caps| {
        drop((caps, done_out));
        let mut waiting: VecDeque<(Rows, Batch)> = VecDeque::new();
        let mut sent: VecDeque<(u64, Batch)> = VecDeque::new();
        let mut ticket = 0u64;
        let mut flushed = None;
        // Failed rows of batches that are not acknowledged yet.
        let mut failed_ahead = 0u64;
        move |frontiers| {
            input.for_each(|cap, rows| {
                let rows = std::mem::take(rows);
                if rows.num_rows() == 0 || cap.least().is_some_and(|epoch| shared.acknowledged >= Some(*epoch)) {
                    return;
                }
                if let (Some(done), Some(errors)) = (cap.retain_least(0), cap.retain_least(1)) {
                    let batch = Batch { _done: done, errors, born_ns: rows.born_ns.clone(), rows: rows.num_rows() };
                    waiting.push_back((rows, batch));
                }
            });
            if shared.control.failed() {
                // No cut is committed any more, so these are read again after the fault is mended.
                waiting.clear();
                sent.clear();
                writer = None;
            }
            let Some(out) = &mut writer else { return };
            let frontier = frontiers[0].frontier().first().copied();
            loop {
                let start_ns = shared.clock.monotonic_ns();
                let mut written = 0;
                while let Some((rows, batch)) = waiting.pop_front() {
                    match out.write(rows, ticket + 1) {
                        Ok(()) => {
                            ticket += 1;
                            written += batch.rows as u64;
                            sent.push_back((ticket, batch));
                        }
                        Err(rows) => {
                            waiting.push_front((rows, batch));
                            break;
                        }
                    }
                }
                if written > 0 {
                    let busy_ns = shared.clock.monotonic_ns().saturating_sub(start_ns);
                    meter.batch(written, 0, busy_ns);
                    flushed = None;
                }
                // The epoch closed or the input ended: what is gathered goes out.
                if flushed != Some(frontier) {
                    out.flush();
                    flushed = Some(frontier);
                }
                let answered = out.acknowledged();
                if let Some(reason) = answered.fatal {
                    shared.control.fail(format!("sink `{name}`: {reason}"));
                    waiting.clear();
                    sent.clear();
                    writer = None;
                    return;
                }
                let failed = answered.failed.len() as u64;
                let now_ns = shared.clock.now_ns();
                let mut acknowledged = 0;
                let mut errors_cap = None;
                while sent.front().is_some_and(|(ticket, _)| *ticket <= answered.up_to) {
                    let Some((_, batch)) = sent.pop_front() else { break };
                    acknowledged += batch.rows as u64;
                    latency(&*meter, now_ns, &batch.born_ns, batch.rows);
                    // The earliest capability serves all failed rows of this answer.
                    errors_cap.get_or_insert(batch.errors);
                }
                count_failed(&*meter, &answered.failed);
                if failed > 0 {
                    let held = errors_cap.as_ref().or(sent.front().map(|(_, batch)| &batch.errors));
                    if let Some(cap) = held {
                        let mut rows = error_rows(answered.failed, &shared.names);
                        errors_out.activate().session_with_builder(cap).give_container(&mut rows);
                    }
                }
                failed_ahead += failed;
                if acknowledged > 0 {
                    let failed = failed_ahead.min(acknowledged);
                    failed_ahead -= failed;
                    meter.batch(0, acknowledged - failed, 0);
                }
                let oldest = sent.front().map(|(_, batch)| batch.born_ns.get(0));
                meter.waiting(worker, oldest.or(waiting.front().map(|(_, batch)| batch.born_ns.get(0))));
                // Room may have come with the answers; without progress the writer's waker calls again.
                if acknowledged == 0 || waiting.is_empty() {
                    break;
                }
            }
        }
    });
    SinkStreams { done, errors }
}

/// End-to-end latency by row: from birth to acknowledgement.
pub(crate) fn latency(meter: &dyn Meter, now_ns: i64, born_ns: &Times, rows: usize) {
    match born_ns {
        Times::One(born) => meter.latency(now_ns.saturating_sub(*born).max(0) as u64, rows as u64),
        Times::Each(born) => {
            for born in born.iter() {
                meter.latency(now_ns.saturating_sub(*born).max(0) as u64, 1);
            }
        }
    }
}
