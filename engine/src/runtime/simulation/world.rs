//! What outlives a process: the source's system with its rows, the sinks' systems with theirs.

use super::input::Given;
use super::random::{Random, Trace};
use super::systems::System;
use engine_dataflow::Waker;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// All of it, with the random choices that everything is driven by.
pub(super) struct World {
    pub(super) random: Random,
    pub(super) trace: Trace,
    pub(super) partitions: Vec<Partition>,
    pub(super) systems: BTreeMap<String, System>,
    /// Wakes the readers of the process that lives.
    pub(super) readers: Vec<Waker>,
    /// Partitions may fall idle, so that which rows are late depends on when they came.
    pub(super) idles: bool,
    /// What was found to be wrong first.
    pub(super) broken: Option<String>,
}

/// A partition of the source.
pub(super) struct Partition {
    pub(super) rows: Vec<Given>,
    /// How many of them are there to be read.
    pub(super) there: u64,
    /// Up to where the engine said that all sinks have it.
    pub(super) committed: u64,
    /// Up to where it said that nobody will ever ask for it again.
    pub(super) released: u64,
}

/// The world, shared with readers and writers.
#[derive(Clone)]
pub(super) struct Shared(Arc<Mutex<World>>);

impl Shared {
    pub(super) fn new(world: World) -> Shared {
        Shared(Arc::new(Mutex::new(world)))
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, World> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl World {
    pub(super) fn note(&mut self, line: &str) {
        self.trace.note(line);
    }

    pub(super) fn breaks(&mut self, reason: String) {
        self.trace.note(&reason);
        self.broken.get_or_insert(reason);
    }

    /// Some rows more are there to be read.
    pub(super) fn give_some(&mut self) {
        let at = self.random.below(self.partitions.len() as u64) as usize;
        let more = 1 + self.random.below(6);
        let partition = &mut self.partitions[at];
        partition.there = (partition.there + more).min(partition.rows.len() as u64);
        let line = format!("source {at} has {}", partition.there);
        self.note(&line);
        self.readers.iter().for_each(Waker::wake);
    }

    /// Whether all rows are there.
    pub(super) fn is_given(&self) -> bool {
        self.partitions.iter().all(|partition| partition.there == partition.rows.len() as u64)
    }

    /// The engine says that it will never read what stands before: so each start must keep to that.
    pub(super) fn release(&mut self, partition: u32, next: u64) {
        let line = format!("source {partition} lets go of what is before {next}");
        self.note(&line);
        let of = &mut self.partitions[partition as usize];
        of.released = of.released.max(next);
    }

    /// The engine begins to read a partition.
    pub(super) fn check_begun(&mut self, partition: u32, next: u64) {
        let released = self.partitions[partition as usize].released;
        if next < released {
            self.breaks(format!("source {partition} is read from {next}, and what is before {released} was let go of"));
        }
    }

    /// The engine says that the rows of a partition up to here are safe: every sink has what came of them, or gave it as late, or
    /// has refused it.
    pub(super) fn check_committed(&mut self, partition: u32, next: u64) {
        let from = std::mem::replace(&mut self.partitions[partition as usize].committed, next);
        let ids: Vec<i64> = self.partitions[partition as usize]
            .rows
            .iter()
            .take(next as usize)
            .skip(from as usize)
            .map(|row| row.id)
            .collect();
        self.note(&format!("source {partition} is told of {next}"));
        for id in ids {
            let has = |sink: &str| self.systems.get(sink).is_some_and(|system| system.has(id));
            let late = has("late_rolled");
            if !late && !Given::is_refused(id) && !has("rolled") || !late && !has("copies") {
                self.breaks(format!("row {id} is committed at the source, and a sink does not have it"));
            }
        }
    }
}
