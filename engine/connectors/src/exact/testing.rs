//! For tests of all sinks that deliver exactly once: a journal beside a sink that crashes at random moments.

use crate::testing::{Bell, PATIENCE};
use crate::{Delivered, Exact, SinkHandle};
use engine_dataflow::{ErrorRow, Rows, Writer};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// What a sink is told at its first start, by a journal that holds batches up to `last`.
pub(crate) fn fresh(pipeline: &str, last: u64) -> Exact {
    Exact { pipeline: pipeline.into(), delivered: None, last, reset: false }
}

/// The same when batches up to `sequence` are delivered.
pub(crate) fn after(pipeline: &str, sequence: u64, note: &str, last: u64) -> Exact {
    Exact { delivered: Some(Delivered { sequence, note: note.to_owned() }), ..fresh(pipeline, last) }
}

/// What came of batches.
#[derive(Debug, Default)]
pub(crate) struct Outcome {
    /// The rows that failed, by offset: code and reason.
    pub(crate) failed: Vec<(u64, String)>,
    /// The last note.
    pub(crate) note: String,
}

/// Writes batches, whose numbers go on behind `after`, and waits until all are acknowledged.
pub(crate) fn write_after(
    writer: &mut dyn Writer,
    bell: &Bell,
    after: u64,
    batches: Vec<Rows>,
) -> Result<Outcome, String> {
    let deadline = Instant::now() + PATIENCE;
    let last = after + batches.len() as u64;
    let (mut next, mut up_to, mut outcome) = (after + 1, after, Outcome::default());
    let mut waiting: std::collections::VecDeque<Rows> = batches.into();
    loop {
        while let Some(rows) = waiting.pop_front() {
            match writer.write(rows, next) {
                Ok(()) => next += 1,
                Err(rows) => {
                    waiting.push_front(rows);
                    break;
                }
            }
        }
        writer.flush();
        let answered = writer.acknowledged();
        assert!(answered.up_to >= up_to, "tickets are released in order: {} after {up_to}", answered.up_to);
        assert!(answered.up_to < next, "only what was written");
        up_to = answered.up_to;
        outcome.note = answered.note.unwrap_or(outcome.note);
        outcome.failed.extend(answered.failed.iter().map(told));
        if let Some(reason) = answered.fatal {
            return Err(reason);
        }
        if waiting.is_empty() && up_to == last {
            outcome.failed.sort();
            return Ok(outcome);
        }
        if Instant::now() > deadline {
            return Err(format!("only {up_to} of {last} were acknowledged in time"));
        }
        bell.wait(Duration::from_secs(5));
    }
}

/// Opens nothing: writes through a sink and closes it.
pub(crate) fn deliver(sink: Box<dyn SinkHandle>, after: u64, batches: Vec<Rows>) -> Result<Outcome, String> {
    let bell = Bell::default();
    let mut writer = sink.writer(0, bell.waker());
    let outcome = write_after(&mut *writer, &bell, after, batches);
    drop(writer);
    sink.close()?;
    outcome
}

fn told(row: &ErrorRow) -> (u64, String) {
    (row.position.offset, row.error.to_string())
}

/// A sink that crashes.
pub(crate) struct Crashing<'a> {
    /// Opens it, or says why not.
    pub(crate) open: &'a dyn Fn(Exact) -> crate::Opened,
    /// The rows of a batch.
    pub(crate) batch: &'a dyn Fn(u64) -> Rows,
    /// The batch of a row.
    pub(crate) batch_of: &'a dyn Fn(u64) -> u64,
    /// The longest that one life lasts.
    pub(crate) life: Duration,
}

/// Lets a sink crash so many times at random moments, the journal knowing less than the sink had told, and brings it to an
/// end: the number of batches, and the rows that failed.
pub(crate) fn crash(seed: u64, crashes: usize, sink: &Crashing<'_>) -> (u64, Vec<(u64, String)>) {
    let mut random = SmallRng::seed_from_u64(seed);
    let mut exact = fresh(&format!("crashing {seed}"), 0);
    let mut recorded: BTreeMap<u64, String> = BTreeMap::new();
    for life in 0..=crashes {
        let ends = life == crashes;
        exact.last += random.random_range(0..6);
        let open = (sink.open)(exact.clone()).unwrap_or_else(|reason| panic!("life {life} of seed {seed}: {reason}"));
        let note = open.first_note();
        let delivered = exact.delivered.get_or_insert_default();
        delivered.note = note.unwrap_or(std::mem::take(&mut delivered.note));
        let bell = Bell::default();
        let mut writer = open.writer(0, bell.waker());
        let until = Instant::now() + sink.life.mul_f64(random.random_range(0.0..1.0));
        let mut next = delivered.sequence + 1;
        let mut failed: Vec<(u64, String)> = Vec::new();
        let deadline = Instant::now() + PATIENCE;
        // Each third life ends between an answer and its record, however long that answer takes; the journal may be behind
        // in the others too.
        let unrecorded = !ends && life % 3 == 0;
        let notes = !unrecorded && (ends || random.random_bool(0.5));
        loop {
            while next <= exact.last && writer.write((sink.batch)(next), next).is_ok() {
                next += 1;
            }
            writer.flush();
            let answered = writer.acknowledged();
            assert_eq!(answered.fatal, None, "life {life} of seed {seed}");
            failed.extend(answered.failed.iter().map(told));
            if answered.up_to > delivered.sequence && notes && (ends || random.random_bool(0.3)) {
                let note = answered.note.unwrap_or_default();
                *delivered = Delivered { sequence: answered.up_to, note };
                for (row, error) in failed.extract_if(.., |(row, _)| (sink.batch_of)(*row) <= answered.up_to) {
                    assert_eq!(recorded.insert(row, error), None, "row {row} failed twice");
                }
            } else if ends && delivered.sequence == exact.last {
                break;
            }
            let over = match unrecorded {
                true => answered.up_to > delivered.sequence,
                false => !ends && Instant::now() >= until,
            };
            if over {
                break;
            }
            assert!(Instant::now() < deadline, "batch {} of {} in life {life}", delivered.sequence, exact.last);
            if !ends && random.random_bool(0.3) && exact.last < delivered.sequence + 8 {
                exact.last += 1;
            }
            bell.wait(Duration::from_millis(1));
        }
        drop(writer);
        match ends {
            true => drop(open.close().unwrap()),
            false => drop(open),
        }
    }
    (exact.last, recorded.into_iter().collect())
}
