//! The kinds of operator: one file a kind, and one line in [`operators`].
//!
//! A kind has two halves. `plan` checks its config against the types of its inputs and is all that the planner sees
//! ([`OperatorKind`]); `render` makes the step that runs on a worker, against inputs that hold only the columns
//! somebody reads ([`Render`]). Epochs, exchange by key and watermarks are left to `dataflow`, models to `models`.
//!
//! What a rendered step puts out at a port holds exactly the columns wanted there, in the order of the planned schema.
//! A batch of which no column is wanted still has its number of rows.

use aggregates::layout::{Change, Layout};
use arrow::datatypes::SchemaRef;
use engine_base::{Clock, StepId};
use engine_dataflow::changes::RegionStep;
use engine_dataflow::{EpochStep, RowStep};
use engine_plan::{Columns, OperatorKind, Planned};
use engine_state::{MemoryStore, SlotState, SlotStore, StateMemory, TieredStore};
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, LazyLock};

mod aggregate;
mod aggregates;
mod changes;
mod check;
mod codec;
mod deduplicate;
mod distinct;
mod enrich;
pub mod event_time;
pub mod filter;
pub mod flatten;
pub mod join;
mod keyed;
mod literal;
pub mod map;
pub mod pattern;
mod payload;
pub mod predict;
mod render;
pub mod rolling;
pub mod route;
pub mod stateful;
mod top;
pub mod union;
pub mod window;

#[cfg(test)]
mod oracle;
#[cfg(test)]
mod queries;
#[cfg(test)]
mod testing;

pub use event_time::render_event_time;
pub use filter::render_filter;
pub use map::render_map;
pub use union::render_union_input;

/// A kind of operator: what the planner sees of it, and what the runtime makes of it.
pub struct OperatorEntry {
    /// Its name, config, and how it is planned.
    pub kind: &'static OperatorKind,
    /// How it is made to run.
    pub render: Render,
}

/// How a planned step is made to run on a worker. An error is a sentence for the operator of the pipeline: the plan was
/// right, but what it stands on is not (weights that can't be read any more).
#[derive(Clone, Copy)]
pub enum Render {
    /// A row-wise step, on arrival.
    Rows(RenderRows),
    /// A keyed step, at the close of an epoch.
    Epochs(RenderEpochs),
    /// On differential dataflow.
    Region(RenderRegion),
    /// In the way that suits how it was planned.
    OfPlan(fn(&dyn Planned) -> Render),
    /// The streams of all inputs as one, each through the step of [`render_union_input`].
    Union,
}

/// Makes a row-wise step of its planned form.
pub type RenderRows = fn(&dyn Planned, &RenderCx<'_>) -> Result<Box<dyn RowStep>, String>;

/// Makes a keyed step of its planned form.
pub type RenderEpochs = fn(&dyn Planned, &RenderCx<'_>) -> Result<Box<dyn EpochStep>, String>;

/// Makes a step on differential dataflow of its planned form.
pub type RenderRegion = fn(&dyn Planned, &RenderCx<'_>) -> Result<RegionStep, String>;

/// What a step is told while it is rendered on a worker.
pub struct RenderCx<'a> {
    /// Its name, for error rows.
    pub step: Arc<str>,
    /// Its number, for the positions of rows that it copies or expands.
    pub step_id: StepId,
    /// The schema of each input's batches: columns that somebody reads, this step's own reads among them.
    pub inputs: &'a [SchemaRef],
    /// The columns that are read at each output port, hidden ones among them; without the error port.
    pub wanted: &'a [Columns],
    /// Whether anybody reads the port at all; nothing is put out at one that nobody reads.
    pub read: &'a [bool],
    /// The number of this worker.
    pub worker: usize,
    /// The number of workers.
    pub workers: usize,
    /// The clock.
    pub clock: Arc<dyn Clock>,
    /// How much in the steps of all workers waits for time to pass: a step that keeps windows open counts them in.
    pub waiting_for_time: Arc<AtomicU64>,
    /// The bound for the memory of state, where there is one.
    pub state_memory: Option<Arc<StateMemory>>,
    /// Whether checkpoints are made: stores note what changes.
    pub durable: bool,
}

impl RenderCx<'_> {
    /// An empty store for the slots of the step.
    fn store<S: SlotState + 'static>(&self) -> Box<dyn SlotStore<S>> {
        match &self.state_memory {
            Some(memory) if self.durable => Box::new(TieredStore::tracking(memory)),
            Some(memory) => Box::new(TieredStore::new(memory)),
            None if self.durable => Box::new(MemoryStore::tracking()),
            None => Box::new(MemoryStore::new()),
        }
    }
}

/// Every kind of operator, in the order of the reference.
pub fn operators() -> &'static [OperatorEntry] {
    static OPERATORS: LazyLock<Vec<OperatorEntry>> = LazyLock::new(|| {
        vec![
            filter::entry(),
            map::entry(),
            flatten::entry(),
            route::entry(),
            union::entry(),
            deduplicate::entry(),
            OperatorEntry { kind: window::kind(), render: Render::Epochs(window::render) },
            OperatorEntry { kind: rolling::kind(), render: Render::Epochs(rolling::render) },
            aggregate::entry(),
            distinct::entry(),
            top::entry(),
            join::entry(),
            enrich::entry(),
            OperatorEntry { kind: stateful::kind(), render: Render::Epochs(stateful::render) },
            OperatorEntry { kind: pattern::kind(), render: Render::Epochs(pattern::render) },
            predict::entry(),
        ]
    });
    &OPERATORS
}

/// The planner's half of every kind.
pub fn operator_kinds() -> Vec<&'static OperatorKind> {
    operators().iter().map(|entry| entry.kind).collect()
}

/// The same for tests: a `predict` may have the key `mock`, which says what its model answers.
pub fn test_operator_kinds() -> Vec<&'static OperatorKind> {
    let tested = predict::tested();
    operator_kinds().into_iter().map(|kind| if kind.name == tested.name { tested } else { kind }).collect()
}

/// The kind of this name.
pub fn find(name: &str) -> Option<&'static OperatorEntry> {
    operators().iter().find(|entry| entry.kind.name == name)
}

/// How a step of this kind is made to run: the kinds of [`operators`], and `event_time`, which a source's key implies.
pub fn render_of(kind: &str, plan: &dyn Planned) -> Option<Render> {
    match kind {
        "event_time" => Some(Render::Rows(|plan, cx| render_event_time(planned(plan, "event_time")?, cx))),
        kind => find(kind).map(|entry| match entry.render {
            Render::OfPlan(of_plan) => of_plan(plan),
            render => render,
        }),
    }
}

/// What the state of a step becomes whose parts changed.
pub struct Conversion {
    /// The parts that begin with nothing.
    pub new: Vec<String>,
    /// The parts that are dropped.
    pub gone: Vec<String>,
    convert: Convert,
}

/// The bytes of a slot as those of another.
type Convert = Box<dyn Fn(&[u8]) -> Result<Vec<u8>, String>>;

impl Conversion {
    /// The bytes of a slot as the other step has them.
    pub fn convert(&self, state: &[u8]) -> Result<Vec<u8>, String> {
        (self.convert)(state)
    }
}

/// How the state of a kind that was written with some parts is made that of others ([`engine_plan::kinds::StateLayout`]).
pub fn conversion(kind: &str, from: &str, to: &str) -> Result<Conversion, String> {
    let (from, to) = (Layout::read(from)?, Layout::read(to)?);
    let (new, gone) = (to.beyond(&from), from.beyond(&to));
    let change = Change::new(from, to);
    let convert: Convert = match kind {
        "window" => Box::new(move |state| window::convert(state, &change)),
        "rolling" => Box::new(move |state| rolling::convert(state, &change)),
        _ => return Err(format!("the state of a `{kind}` can't be converted")),
    };
    Ok(Conversion { new, gone, convert })
}

/// The planned form of a kind, as its own type.
fn planned<'a, T: Planned>(planned: &'a dyn Planned, kind: &str) -> Result<&'a T, String> {
    planned.downcast().ok_or_else(|| format!("the planned form of a `{kind}` is of another kind"))
}
