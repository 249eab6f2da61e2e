//! The steps of a dataflow: row-wise ones that act on arrival, and those that act at an epoch's close.

use crate::rows::{ErrorRow, Rows};
use engine_base::Epoch;
use engine_state::Change;

/// What a step puts out for the rows it was given.
#[derive(Debug, Default)]
pub struct StepOutput {
    /// Port 0 is the main output; side outputs follow in the order of the plan's ports (the error port is not among them).
    pub ports: Vec<Vec<Rows>>,
    /// Rows that failed.
    pub errors: Vec<ErrorRow>,
    /// Rows that came too late for the step's state. They are also at its `late` port.
    pub late: u64,
    /// A row for which the pipeline is to stop (`on_error: stop`). What else came of its batch goes nowhere.
    pub fatal: Option<ErrorRow>,
    /// Rows that nobody reads: those a filter rejects, a route's case, or late ones, where nothing reads that output.
    pub dropped: u64,
    /// Rows by what became of them, for a step that knows several ends: of a prediction `ok` or `fallback`.
    pub outcomes: Vec<(&'static str, u64)>,
}

impl StepOutput {
    /// Empty outputs for `ports` ports.
    pub fn new(ports: usize) -> Self {
        StepOutput { ports: (0..ports).map(|_| Vec::new()).collect(), ..StepOutput::default() }
    }

    /// Puts rows out at a port; empty ones are dropped.
    pub fn give(&mut self, port: usize, rows: Rows) {
        if rows.num_rows() > 0 {
            self.ports[port].push(rows);
        }
    }
}

/// A row-wise step: `filter`, `map`, `flatten`, `route`, inline `predict`. Acts on arrival; several are fused.
///
/// Contract: the result for a row depends on that row alone, never on the rows beside it; every input row comes out, is
/// dropped by meaning (a filter), or is in `errors`; rows keep their order.
pub trait RowStep {
    /// Takes rows, puts rows out.
    fn step(&mut self, rows: Rows, out: &mut StepOutput);
}

/// The epoch that closes, and its event time.
#[derive(Clone, Debug)]
pub struct Moment {
    /// The epoch.
    pub epoch: Epoch,
    /// For each input, the watermark before the epoch, nanoseconds since 1970 UTC: by it rows are late. `None` where nothing is
    /// known of it, or where the step does not ask for event time.
    pub late_ns: Vec<Option<i64>>,
    /// For each input, the watermark at the epoch's close, which fires once the rows are in.
    pub watermark_ns: Vec<Option<i64>>,
    /// The wall clock that all workers agree on, nanoseconds since 1970 UTC: what `now()` gives for a row that the step
    /// makes, and when it was born.
    pub clock_ns: i64,
}

impl Moment {
    /// The close of an epoch for a step with `inputs` inputs that knows no event time.
    pub fn timeless(epoch: Epoch, inputs: usize) -> Moment {
        Moment { epoch, late_ns: vec![None; inputs], watermark_ns: vec![None; inputs], clock_ns: 0 }
    }
}

/// A step with state by key: it gets all rows of an epoch that this worker owns, when the epoch has closed, in canonical
/// order (architecture, decision 3).
pub trait EpochStep {
    /// Takes the rows of an epoch. `inputs[i]` holds those of input `i`, in canonical order across the batches. A step that
    /// asked for event time is also called for an epoch without rows in which a watermark moved.
    fn close(&mut self, moment: &Moment, inputs: Vec<Vec<Rows>>, out: &mut StepOutput);

    /// Goes on with what the last [`EpochStep::close`] left, a portion at a time, so that other steps come in between; called
    /// until it says that nothing is left. No further epoch is closed before.
    fn resume(&mut self, _out: &mut StepOutput) -> bool {
        false
    }

    /// What a checkpoint writes of it. `None` for a step that keeps nothing from one epoch to the next.
    fn state(&mut self) -> Option<&mut dyn StepState> {
        None
    }
}

/// The state of a step by key: what a checkpoint writes, and a restart puts back.
pub trait StepState {
    /// From now on [`StepState::drain`] visits what has changed up to now, as it is now, whatever the step does meanwhile. Called
    /// between epochs, when what was frozen before is drained.
    fn freeze(&mut self);

    /// Visits about so many bytes of what is frozen, at least one change. False when nothing is left of it. Called at any time.
    fn drain(&mut self, bytes: usize, visit: &mut dyn FnMut(Change<'_>)) -> bool;

    /// Visits what changed since the last call, at once. Called between epochs.
    fn drain_changes(&mut self, visit: &mut dyn FnMut(Change<'_>)) {
        while self.drain(usize::MAX, visit) {}
        self.freeze();
        while self.drain(usize::MAX, visit) {}
    }

    /// Puts a slot back as a checkpoint has it, before the first row.
    fn restore(&mut self, key: &[u8], slice: i64, state: &[u8]) -> Result<(), String>;

    /// How the groups of its keys are found.
    fn key_groups(&self) -> KeyGroups;
}

/// Tells the group of each key ([`crate::exchange::group_of`]), on any thread.
pub type KeyGroups = Box<dyn Fn(&[&[u8]]) -> Result<Vec<u16>, String> + Send>;
