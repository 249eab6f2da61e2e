//! What is behind the sinks: systems that take batches when it suits them, answer late, or lose the answer.

use super::input::Given;
use super::random::Random;
use super::world::{Shared, World};
use arrow::array::{Array, AsArray};
use arrow::datatypes::{DataType, TimestampNanosecondType};
use arrow::util::display::array_value_to_string;
use engine_base::RowError;
use engine_connectors::{Exact, SinkHandle, SinkStats};
use engine_dataflow::{Acknowledged, ErrorRow, Rows, Waker, Writer};
use engine_plan::{Columns, ExactlyOnce, Planned, PlannedSink, SinkKind};
use schemars::JsonSchema;
use serde::Deserialize;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

/// Batches that a writer takes before it is full.
const QUEUE: usize = 3;

/// What a system knows of what it has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(super) enum Keeps {
    /// A marker in the transaction of each batch, and which rows of it were refused: a table.
    Marker,
    /// Nothing, but it can be cut off: a file.
    Length,
    /// Nothing.
    #[default]
    Nothing,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Config {
    /// What it knows of what it has.
    #[serde(default)]
    keeps: Keeps,
}

/// What the planner sees of it.
pub(super) static KIND: SinkKind = SinkKind {
    name: "simulated",
    summary: "",
    config_schema: |generator| generator.subschema_for::<Config>(),
    encodes: false,
    sees_all: false,
    changelogs: false,
    plan: |cx, input, _| {
        let Config { keeps } = cx.config()?;
        let columns = input.schema.fields().iter().map(|field| field.name().clone()).collect();
        Some(PlannedSink {
            can_fail: keeps == Keeps::Marker,
            timeout_ns: None,
            exactly_once: match keeps {
                Keeps::Nothing => ExactlyOnce::No { reason: "it knows nothing", help: "take another" },
                _ => ExactlyOnce::By("a simulation"),
            },
            planned: Arc::new(Simulated { keeps, columns }),
        })
    },
};

#[derive(Debug)]
pub(super) struct Simulated {
    pub(super) keeps: Keeps,
    columns: Columns,
}

impl Planned for Simulated {
    fn reads(&self, _wanted: &[Columns]) -> Vec<Columns> {
        vec![self.columns.clone()]
    }
}

/// A system.
pub(super) struct System {
    keeps: Keeps,
    pub(super) rows: Vec<Vec<String>>,
    ids: BTreeSet<i64>,
    /// The last batch that it has.
    marker: u64,
    /// The rows of each batch that it refused.
    refused: BTreeMap<u64, Vec<usize>>,
    /// How much of it stays when the power fails.
    synced: usize,
    /// What the writers of the process that lives have given it.
    lanes: BTreeMap<usize, Lane>,
}

/// What one writer gave.
struct Lane {
    sent: VecDeque<Sent>,
    answered: u64,
    failed: Vec<ErrorRow>,
    note: Option<String>,
    waker: Waker,
}

struct Sent {
    ticket: u64,
    rows: Rows,
    cells: Vec<Vec<String>>,
    is_taken: bool,
}

impl System {
    fn new(keeps: Keeps) -> System {
        System {
            keeps,
            rows: Vec::new(),
            ids: BTreeSet::new(),
            marker: 0,
            refused: BTreeMap::new(),
            synced: 0,
            lanes: BTreeMap::new(),
        }
    }

    /// Whether it has a row of this id.
    pub(super) fn has(&self, id: i64) -> bool {
        self.ids.contains(&id)
    }

    /// The ids in its first column.
    pub(super) fn ids(&self) -> &BTreeSet<i64> {
        &self.ids
    }

    fn add(&mut self, cells: Vec<String>) {
        self.ids.extend(cells.first().and_then(|id| id.parse::<i64>().ok()));
        self.rows.push(cells);
    }

    fn cut(&mut self, length: usize) {
        let rows = std::mem::take(&mut self.rows);
        self.ids.clear();
        rows.into_iter().take(length).for_each(|cells| self.add(cells));
    }

    /// Takes the first batch of a lane that it has not taken yet, as a whole. What is wrong with that, if anything is.
    fn take(&mut self, worker: usize) -> Option<String> {
        let sent = self.lanes.get_mut(&worker)?.sent.front_mut()?;
        sent.is_taken = true;
        let (ticket, cells) = (sent.ticket, sent.cells.clone());
        match self.keeps {
            Keeps::Marker if ticket <= self.marker => {}
            Keeps::Marker => {
                let before = std::mem::replace(&mut self.marker, ticket);
                if ticket != before + 1 {
                    return Some(format!("batch {ticket} came behind batch {before}"));
                }
                let is_refused = |cells: &[String]| cells[0].parse::<i64>().is_ok_and(Given::is_refused);
                let refused = (0..cells.len()).filter(|row| is_refused(&cells[*row])).collect();
                self.refused.insert(ticket, refused);
                cells.into_iter().filter(|cells| !is_refused(cells)).for_each(|cells| self.add(cells));
            }
            Keeps::Length | Keeps::Nothing => cells.into_iter().for_each(|cells| self.add(cells)),
        }
        None
    }

    /// Answers for the first batch of a lane, which it has taken.
    fn answer(&mut self, worker: usize) {
        let Some(lane) = self.lanes.get_mut(&worker) else { return };
        let Some(sent) = lane.sent.pop_front() else { return };
        self.synced = self.rows.len();
        lane.answered = sent.ticket;
        lane.note = match self.keeps {
            Keeps::Length => Some(self.rows.len().to_string()),
            _ => None,
        };
        for row in self.refused.get(&sent.ticket).into_iter().flatten().filter(|_| self.keeps == Keeps::Marker) {
            lane.failed.push(ErrorRow {
                step: "rolled".into(),
                error: RowError::new("refused", "it is refused"),
                payload: sent.cells[*row][0].clone().into_bytes(),
                position: sent.rows.position(*row),
                ingest_ns: sent.rows.ingest_ns.get(*row),
            });
        }
        lane.waker.wake();
    }

    /// The process is gone. Of what was on its way some is taken yet; of a file that was not synced some may be lost.
    fn crash(&mut self, random: &mut Random, power: bool) {
        for (worker, lane) in std::mem::take(&mut self.lanes) {
            self.lanes.insert(worker, lane);
            while random.once_in(2) && self.lanes[&worker].sent.front().is_some_and(|sent| !sent.is_taken) {
                self.take(worker);
                self.lanes.get_mut(&worker).and_then(|lane| lane.sent.pop_front());
            }
            let half = self.lanes.remove(&worker).and_then(|mut lane| lane.sent.pop_front());
            if let (Some(sent), Keeps::Length | Keeps::Nothing) = (half.filter(|sent| !sent.is_taken), self.keeps) {
                let some = random.below(sent.cells.len() as u64 + 1) as usize;
                sent.cells.into_iter().take(some).for_each(|cells| self.add(cells));
            }
        }
        if self.keeps == Keeps::Length && power {
            let lost = random.below((self.rows.len() - self.synced) as u64 + 1) as usize;
            self.cut(self.rows.len() - lost);
        }
    }
}

impl World {
    /// Some system takes a batch, answers, or loses the answer. False if there is nothing to do.
    pub(super) fn some_system_acts(&mut self) -> bool {
        let of = |(name, system): (&String, &System)| {
            let lanes = system.lanes.iter().filter(|(_, lane)| !lane.sent.is_empty());
            lanes.map(|(worker, _)| (name.clone(), *worker)).collect::<Vec<_>>()
        };
        let all: Vec<(String, usize)> = self.systems.iter().flat_map(of).collect();
        if all.is_empty() {
            return false;
        }
        let (name, worker) = all[self.random.below(all.len() as u64) as usize].clone();
        let loses = self.random.once_in(8);
        let Some(system) = self.systems.get_mut(&name) else { return false };
        let Some(sent) = system.lanes.get_mut(&worker).and_then(|lane| lane.sent.front_mut()) else { return false };
        let ticket = sent.ticket;
        let (does, problem) = if !sent.is_taken {
            ("takes", system.take(worker))
        } else if loses && system.keeps != Keeps::Length {
            // Its writer asks again.
            sent.is_taken = false;
            ("loses the answer to", None)
        } else {
            system.answer(worker);
            ("answers", None)
        };
        let has = system.rows.len();
        self.note(&format!("{name} {does} {ticket} of {worker}, has {has}"));
        if let Some(problem) = problem {
            self.breaks(format!("{name}: {problem}"));
        }
        true
    }

    /// The process is gone, and with the power what was not synced.
    pub(super) fn crash(&mut self, power: bool) {
        self.readers.clear();
        self.systems.values_mut().for_each(|system| system.crash(&mut self.random, power));
    }
}

/// Opens a sink.
pub(super) fn open(
    world: &Shared,
    name: &str,
    planned: &dyn Planned,
    exact: Option<&Exact>,
) -> Result<Box<dyn SinkHandle>, String> {
    let planned = planned.downcast::<Simulated>().ok_or_else(|| format!("`{name}` is no simulated sink"))?;
    let mut locked = world.lock();
    let system = locked.systems.entry(name.to_owned()).or_insert_with(|| System::new(planned.keeps));
    let mut note = String::new();
    if let Some(exact) = exact {
        let delivered = exact.delivered_sequence();
        match system.keeps {
            Keeps::Marker if system.marker > exact.last || system.marker < delivered => {
                let (has, last) = (system.marker, exact.last);
                return Err(format!("`{name}` has batch {has}, and the journal knows of {delivered} to {last}"));
            }
            Keeps::Length => {
                let known = exact.delivered.as_ref().and_then(|delivered| delivered.note.parse::<usize>().ok());
                let length = known.unwrap_or(system.rows.len());
                if length > system.rows.len() {
                    return Err(format!("`{name}` has {} rows, and should have {length}", system.rows.len()));
                }
                system.cut(length);
                system.synced = length;
                note = length.to_string();
            }
            _ => {}
        }
    }
    let has = system.rows.len();
    locked.note(&format!("{name} opens with {has}"));
    Ok(Box::new(Handle { world: world.clone(), name: name.to_owned(), note, exact: exact.is_some() }))
}

struct Handle {
    world: Shared,
    name: String,
    note: String,
    exact: bool,
}

impl SinkHandle for Handle {
    fn writer(&self, worker: usize, waker: Waker) -> Box<dyn Writer> {
        let lane = Lane { sent: VecDeque::new(), answered: 0, failed: Vec::new(), note: None, waker };
        if let Some(system) = self.world.lock().systems.get_mut(&self.name) {
            system.lanes.insert(worker, lane);
        }
        Box::new(SimWriter { world: self.world.clone(), name: self.name.clone(), worker, exact: self.exact })
    }

    fn close(self: Box<Self>) -> Result<SinkStats, String> {
        Ok(self.stats())
    }

    fn stats(&self) -> SinkStats {
        SinkStats::default()
    }

    fn first_note(&self) -> Option<String> {
        Some(self.note.clone())
    }
}

struct SimWriter {
    world: Shared,
    name: String,
    worker: usize,
    exact: bool,
}

impl Writer for SimWriter {
    fn write(&mut self, rows: Rows, ticket: u64) -> Result<(), Rows> {
        let mut world = self.world.lock();
        let system = world.systems.get_mut(&self.name);
        let Some(lane) = system.and_then(|system| system.lanes.get_mut(&self.worker)) else { return Err(rows) };
        if lane.sent.len() >= QUEUE {
            return Err(rows);
        }
        let cells = cells(&rows);
        let line = format!("{} is given {ticket} by {}: {cells:?}", self.name, self.worker);
        lane.sent.push_back(Sent { ticket, rows, cells, is_taken: false });
        world.note(&line);
        Ok(())
    }

    fn acknowledged(&mut self) -> Acknowledged {
        let mut world = self.world.lock();
        let system = world.systems.get_mut(&self.name);
        let Some(lane) = system.and_then(|system| system.lanes.get_mut(&self.worker)) else {
            return Acknowledged::default();
        };
        Acknowledged {
            up_to: lane.answered,
            failed: std::mem::take(&mut lane.failed),
            note: lane.note.clone().filter(|_| self.exact),
            fatal: None,
        }
    }

    fn flush(&mut self) {}
}

/// Rows as text. Times are seconds.
fn cells(rows: &Rows) -> Vec<Vec<String>> {
    let cell = |column: &Arc<dyn Array>, row: usize| match column.data_type() {
        DataType::Timestamp(..) => match column.as_primitive_opt::<TimestampNanosecondType>() {
            Some(times) => (times.value(row) / 1_000_000_000).to_string(),
            None => String::new(),
        },
        _ => array_value_to_string(column, row).unwrap_or_default(),
    };
    let columns = rows.batch.columns();
    (0..rows.num_rows()).map(|row| columns.iter().map(|column| cell(column, row)).collect()).collect()
}
