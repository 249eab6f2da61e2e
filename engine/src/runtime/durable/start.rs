//! What makes a run durable, put together: the committer, the checkpointer, and the channels by which the dataflow tells them
//! how far it is. On threads, where they run by themselves.

use super::checkpointer::{Checkpointer, Message};
use super::committer::{Committer, Event};
use super::open::{Closing, Recovered, StateDir, Threads};
use crate::runtime::graph::{Durable, SharedSink};
use engine_base::{Clock, StepId};
use engine_connectors::Delivered;
use engine_dataflow::ingest::Committed;
use engine_dataflow::run;
use engine_dataflow::snapshot::Snapshots;
use engine_dataflow::{Control, CutBoard};
use engine_plan::plan::{Plan, Role, Step};
use engine_state::background::give_way;
use std::collections::{BTreeMap, HashMap};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

/// What a durable run is made of.
pub(crate) struct Parts<'a> {
    pub(crate) plan: &'a Plan,
    pub(crate) workers: usize,
    pub(crate) board: &'a Arc<CutBoard>,
    pub(crate) control: &'a Arc<Control>,
    pub(crate) committed: &'a Arc<Committed>,
    pub(crate) clock: &'a Arc<dyn Clock>,
    /// What a worker gives of a snapshot at one time.
    pub(crate) portion_bytes: usize,
}

/// What makes a run durable, before anybody runs it.
pub(crate) struct Works {
    pub(crate) committer: Committer,
    pub(crate) checkpointer: Checkpointer,
    /// What they hear.
    pub(crate) events: Receiver<Event>,
    pub(crate) messages: Receiver<Message>,
    pub(crate) hub: Hub,
    closing: Closing,
}

/// By which they are told.
pub(crate) struct Hub {
    pub(crate) snapshots: Arc<Snapshots>,
    pub(crate) watcher: Arc<dyn run::Watch>,
    pub(crate) events: Sender<Event>,
    pub(crate) messages: Sender<Message>,
}

/// The threads of a durable run.
pub(crate) struct Running {
    pub(crate) snapshots: Arc<Snapshots>,
    pub(crate) watcher: Arc<dyn run::Watch>,
    events: Sender<Event>,
    messages: Sender<Message>,
    committer: JoinHandle<Result<(), String>>,
    checkpointer: JoinHandle<Result<(), String>>,
    closing: Closing,
}

/// Passes on how far the run is.
struct Watcher {
    events: Mutex<Sender<Event>>,
    messages: Mutex<Sender<Message>>,
}

impl run::Watch for Watcher {
    fn progress(&self, progress: run::Progress) {
        // When the threads are gone the run is failing.
        let _ = self.events.lock().unwrap_or_else(PoisonError::into_inner).send(Event::Progress(progress));
    }

    fn through(&self, _worker: usize, snapshot: u64) {
        let _ = self.messages.lock().unwrap_or_else(PoisonError::into_inner).send(Message::Through(snapshot));
    }
}

/// The sinks that deliver exactly once.
pub(crate) fn exact_sinks(plan: &Plan) -> impl Iterator<Item = &Step> {
    plan.sinks().filter(|step| matches!(step.role, Role::Sink { exact: Some(_), .. }))
}

/// Begins the run: when the sinks are open and nothing is written yet, it is noted where they go on.
pub(crate) fn begin(
    state: &mut StateDir,
    recovered: &mut Recovered,
    plan: &Plan,
    handles: &HashMap<StepId, SharedSink>,
) -> Result<(), String> {
    let notes = first_notes(plan, recovered, handles);
    state.begin(plan, &notes)?;
    for (sink, exact) in &mut recovered.exact {
        exact.delivered = notes.get(sink).cloned().or_else(|| exact.delivered.take());
    }
    Ok(())
}

/// Where sinks go on that the journal does not have so: those that are new, and those whose target is another one.
fn first_notes(
    plan: &Plan,
    recovered: &Recovered,
    handles: &HashMap<StepId, SharedSink>,
) -> BTreeMap<String, Delivered> {
    let new = |step: &Step| {
        let handle = handles.get(&step.id)?.lock().unwrap_or_else(PoisonError::into_inner);
        let known = recovered.exact.get(&step.name)?.delivered.as_ref();
        let sequence = known.map_or(0, |known| known.sequence);
        let note = match (handle.as_ref()?.first_note(), known) {
            (Some(note), _) => note,
            (None, Some(known)) => known.note.clone(),
            (None, None) => String::new(),
        };
        let delivered = Delivered { sequence, note };
        (known != Some(&delivered)).then(|| (step.name.clone(), delivered))
    };
    exact_sinks(plan).filter_map(new).collect()
}

/// Puts together what makes a run durable, and what its graph needs of that.
pub(crate) fn assemble(state: StateDir, mut recovered: Recovered, parts: Parts<'_>) -> (Durable, Works) {
    let (event_sender, events) = channel();
    let (message_sender, messages) = channel();
    let snapshots = Arc::new(Snapshots::new(parts.workers, parts.portion_bytes, giver(message_sender.clone())));
    let outstanding = recovered.batches();
    let mut outboxes = HashMap::new();
    let mut by_name = Vec::new();
    for (at, step) in exact_sinks(parts.plan).enumerate() {
        let events = Mutex::new(event_sender.clone());
        let delivered = Box::new(move |delivered| {
            let _ = events.lock().unwrap_or_else(PoisonError::into_inner).send(Event::Delivered(at, delivered));
        });
        let outbox = recovered.outbox(&step.name, delivered);
        outboxes.insert(step.id, outbox.clone());
        by_name.push((step.name.clone(), outbox));
    }
    let threads = Threads {
        plan: parts.plan,
        workers: parts.workers,
        board: parts.board.clone(),
        control: parts.control.clone(),
        committed: parts.committed.clone(),
        snapshots: snapshots.clone(),
        outboxes: by_name,
        outstanding,
        clock: parts.clock.clone(),
    };
    let (committer, checkpointer, closing) = state.threads(threads, &recovered);
    let watcher: Arc<dyn run::Watch> =
        Arc::new(Watcher { events: Mutex::new(event_sender.clone()), messages: Mutex::new(message_sender.clone()) });
    let hub = Hub { snapshots, watcher, events: event_sender, messages: message_sender };
    (Durable { recovered, outboxes }, Works { committer, checkpointer, events, messages, hub, closing })
}

/// For the channel of the checkpointer.
fn giver(to: Sender<Message>) -> Box<dyn Fn(u64, engine_dataflow::snapshot::Part) + Send + Sync> {
    let to = Mutex::new(to);
    Box::new(move |number, part| {
        // When it is gone the run is failing.
        let _ = to.lock().unwrap_or_else(PoisonError::into_inner).send(Message::Part(number, part));
    })
}

impl Works {
    /// Starts the threads.
    pub(crate) fn start(self) -> Result<Running, String> {
        let Works { committer, checkpointer, events, messages, hub, closing } = self;
        let spawn = |name: &str| std::thread::Builder::new().name(name.to_owned());
        let started = |error| format!("a thread can't be started: {error}");
        let committer = spawn("commit").spawn(move || committer.run(&events)).map_err(started)?;
        let write_checkpoints = move || {
            give_way();
            checkpointer.run(&messages)
        };
        let checkpointer = spawn("checkpoint").spawn(write_checkpoints).map_err(started)?;
        let Hub { snapshots, watcher, events, messages } = hub;
        Ok(Running { snapshots, watcher, events, messages, committer, checkpointer, closing })
    }
}

impl Running {
    /// Waits for what is left to be written. The state directory is free for others when what is returned is dropped.
    pub(crate) fn finish(self) -> (Result<(), String>, Closing) {
        let Running { events, messages, committer, checkpointer, closing, .. } = self;
        let _ = events.send(Event::End);
        let panicked = |_| Err("a thread that makes the run durable panicked".to_owned());
        let committed = committer.join().unwrap_or_else(panicked);
        let _ = messages.send(Message::End);
        let written = checkpointer.join().unwrap_or_else(panicked);
        let result = committed.and(written).and_then(|()| closing.grant_savepoint());
        (result, closing)
    }
}
