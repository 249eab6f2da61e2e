//! The plan: the steps of a pipeline in an order in which every step stands after those it reads, with everything that
//! is known of them. `dry-run`, `graph`, the runtime and the metrics all speak of this.
//!
//! ```text
//! outputs of a step:   0 main │ 1.. side outputs (`rejected`, `late`, ...) │ last `errors`, where a row can fail
//! wanted[i]:           the columns of outputs[i] that somebody reads, computed backwards from the sinks
//! ```

use crate::kinds::{Columns, Output, Planned, StreamType};
use engine_base::{SourceId, Span, StepId};
use engine_spec::Objective;
use engine_spec::pipeline::MaxInFlight;
use std::collections::BTreeSet;
use std::sync::Arc;

/// The name of the error output's port.
pub const ERRORS: &str = "errors";

/// What an epoch adds to a row's latency at most while the engine keeps up, nanoseconds: for estimates.
pub const EPOCH_NS: i64 = 5_000_000;

/// A pipeline that can run.
#[derive(Debug)]
pub struct Plan {
    /// The pipeline's name.
    pub name: String,
    /// What it is for.
    pub description: Option<String>,
    /// The steps, each after those it reads. A step's [`StepId`] is its place here.
    pub steps: Vec<Step>,
    /// The promises, each checked against the plan.
    pub objectives: Vec<PlannedObjective>,
    /// The budget of what is in flight.
    pub max_in_flight: MaxInFlight,
    /// How far the event time of a source may be ahead of the slowest, nanoseconds.
    pub align_ns: Option<i64>,
    /// How much memory the state of all steps may take, bytes.
    pub memory_limit: Option<u64>,
    /// How often output that is due exactly once is committed, nanoseconds.
    pub commit_ns: i64,
    /// How often state is written down, nanoseconds.
    pub checkpoint_ns: i64,
    /// SHA-256 over everything that bears on results, in hex: steps, their keys, types, parameters and models.
    pub digest: String,
    /// The same over what the rows come to, whatever systems they come from and go to.
    pub logic: String,
    /// Of each step, what tells whose state is its own.
    pub identities: Vec<Identity>,
}

/// What tells whether kept state is that of a step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// SHA-256 in hex over what bears on what it keeps: its keys, the rows that it takes, and what is read of those that it
    /// gives.
    pub digest: String,
    /// The same under the names that components had before, where any was renamed.
    pub before: String,
    /// What its slots are made of, where they can be converted: see [`crate::kinds::StateLayout`].
    pub parts: String,
}

/// A step of a plan.
#[derive(Debug)]
pub struct Step {
    /// Its place in [`Plan::steps`].
    pub id: StepId,
    /// Its name: that of its component, or `component.where`, `component.set` and so on for a step that a key of the
    /// component implies.
    pub name: String,
    /// The name that it had before, under which its state may still be kept.
    pub renamed_from: Option<String>,
    /// Its `type:`; for an implied step `filter`, `map` or `event_time`.
    pub kind: &'static str,
    /// Implied by a key of a component, rather than written as one.
    pub implied: bool,
    /// What it is in the dataflow.
    pub role: Role,
    /// What it reads: one edge for each input.
    pub inputs: Vec<Edge>,
    /// What it puts out: see the module.
    pub outputs: Vec<Output>,
    /// The columns of each output that somebody reads, [`crate::hidden`] ones among them.
    pub wanted: Vec<Columns>,
    /// Whether the last output is `errors`.
    pub can_fail: bool,
    /// Key columns of each input, where rows must be brought together by key; an empty list brings all to one worker.
    pub exchange: Option<Vec<Vec<String>>>,
    /// What it keeps, in words.
    pub state: Option<String>,
    /// Whether it acts on watermarks.
    pub timed: bool,
    /// Its planned form.
    pub planned: Arc<dyn Planned>,
    /// What a person should see of it.
    pub facts: Vec<(String, String)>,
    /// Where it is named.
    pub span: Span,
}

/// What a step is in the dataflow.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Role {
    /// Rows enter here.
    Source {
        /// Its number among the sources, in the order of the file.
        source: SourceId,
        /// Whether it can be read again from a recorded mark.
        replayable: bool,
        /// Whether it comes to an end by itself.
        finite: bool,
    },
    /// Rows are changed here.
    Operator,
    /// Rows leave here.
    Sink {
        /// The longest a delivery may take before it fails, nanoseconds, where it is bounded.
        timeout_ns: Option<i64>,
        /// By what means each row takes effect exactly once; `None` where it is delivered at least once.
        exact: Option<&'static str>,
    },
}

/// An output of a step, as read by another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Edge {
    /// The step that puts out.
    pub from: StepId,
    /// The index into its outputs.
    pub port: usize,
}

/// An objective and what the plan knows about it.
#[derive(Clone, Debug)]
pub struct PlannedObjective {
    /// As it was written.
    pub objective: Objective,
    /// The steps that it speaks of; all that it can speak of where it names none.
    pub targets: Vec<StepId>,
    /// What a row takes at the least while the engine keeps up, nanoseconds, where a latency is measured.
    pub floor_ns: Option<i64>,
    /// What a row takes at the most before it is acknowledged or failed, nanoseconds, where that is bounded.
    pub ceiling_ns: Option<i64>,
}

impl Plan {
    /// The step of an id. Ids come from this plan only.
    pub fn step(&self, id: StepId) -> &Step {
        &self.steps[id.0 as usize]
    }

    /// The step of that name.
    pub fn find(&self, name: &str) -> Option<&Step> {
        self.steps.iter().find(|step| step.name == name)
    }

    /// The output behind an edge.
    pub fn output(&self, edge: Edge) -> &Output {
        &self.step(edge.from).outputs[edge.port]
    }

    /// The sources, in the order of their numbers.
    pub fn sources(&self) -> impl Iterator<Item = &Step> {
        self.steps.iter().filter(|step| matches!(step.role, Role::Source { .. }))
    }

    /// The sinks.
    pub fn sinks(&self) -> impl Iterator<Item = &Step> {
        self.steps.iter().filter(|step| matches!(step.role, Role::Sink { .. }))
    }

    /// Who reads each output of each step: `readers()[step][port]` lists (reader, its input).
    pub fn readers(&self) -> Vec<Vec<Vec<(StepId, usize)>>> {
        let mut readers: Vec<Vec<Vec<(StepId, usize)>>> =
            self.steps.iter().map(|step| vec![Vec::new(); step.outputs.len()]).collect();
        for step in &self.steps {
            for (input, edge) in step.inputs.iter().enumerate() {
                readers[edge.from.0 as usize][edge.port].push((step.id, input));
            }
        }
        readers
    }

    /// The steps that the keys of a source imply, in order: each row takes them as it enters.
    pub fn entry_steps(&self, source: StepId) -> Vec<StepId> {
        let prefix = format!("{}.", self.step(source).name);
        let mut steps = Vec::new();
        let mut at = source;
        let implied = |at: StepId| {
            let next = Edge { from: at, port: 0 };
            let of_source = |step: &&Step| step.implied && step.inputs == [next] && step.name.starts_with(&prefix);
            self.steps.iter().find(of_source)
        };
        while let Some(step) = implied(at) {
            steps.push(step.id);
            at = step.id;
        }
        steps
    }

    /// The sources that a step which acts on watermarks stands on.
    pub fn timed_sources(&self) -> BTreeSet<SourceId> {
        let timed = self.steps.iter().filter(|step| step.timed).flat_map(|step| &step.inputs);
        let streams = timed.map(|edge| &self.output(*edge).stream);
        let sources = |stream: &StreamType| -> Vec<SourceId> {
            match &stream.event_time {
                Some(event_time) => event_time.follows.keys().copied().collect(),
                // That it ends is all that is to be known of it.
                None => stream.origins.sources.iter().copied().collect(),
            }
        };
        streams.flat_map(sources).collect()
    }

    /// Steps that run fused as one operator: maximal runs of row-wise steps, each the only reader of the one before.
    ///
    /// Every row-wise step but those of [`Plan::entry_steps`] is in just one of them, alone where nothing can be fused.
    pub fn chains(&self) -> Vec<Vec<StepId>> {
        let readers = self.readers();
        let mut chains: Vec<Vec<StepId>> = Vec::new();
        let mut chain_of: Vec<Option<usize>> = vec![None; self.steps.len()];
        let entry: BTreeSet<StepId> = self.sources().flat_map(|source| self.entry_steps(source.id)).collect();
        for step in self.steps.iter().filter(|step| step.is_row_wise() && !entry.contains(&step.id)) {
            let edge = step.inputs[0];
            let before = self.step(edge.from);
            let only_reader = edge.port == 0
                && before.outputs.iter().zip(&readers[edge.from.0 as usize]).all(|(output, readers)| {
                    output.port == ERRORS || readers.iter().all(|(reader, _)| *reader == step.id)
                });
            let chain = match chain_of[edge.from.0 as usize] {
                Some(chain) if only_reader => chain,
                _ => {
                    chains.push(Vec::new());
                    chains.len() - 1
                }
            };
            chains[chain].push(step.id);
            chain_of[step.id.0 as usize] = Some(chain);
        }
        chains
    }
}

impl Step {
    /// Whether it acts on each row alone as it arrives, and so can be fused with its neighbours.
    pub fn is_row_wise(&self) -> bool {
        self.role == Role::Operator && self.exchange.is_none() && self.state.is_none() && self.inputs.len() == 1
    }

    /// The index of the error output, where a row can fail.
    pub fn error_port(&self) -> Option<usize> {
        self.can_fail.then(|| self.outputs.len() - 1)
    }

    /// The outputs without the error output: those that a kind's `render` knows.
    pub fn row_outputs(&self) -> &[Output] {
        &self.outputs[..self.outputs.len() - usize::from(self.can_fail)]
    }

    /// The name under which an output is read: `step`, `step.late`.
    pub fn output_name(&self, port: usize) -> String {
        match self.outputs[port].port.as_str() {
            "" => self.name.clone(),
            port => format!("{}.{port}", self.name),
        }
    }
}
