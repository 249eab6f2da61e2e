//! The source operator of a worker: all its readers, and the opening and closing of epochs (architecture, decision 2).
//!
//! ```text
//!            ┌────────────────────────── ingest ───────────────────────────┐
//!  Reader 0 ─┤ poll ─▶ rows at the open epoch ─▶ output 0                    │
//!  Reader 1 ─┤ poll ─▶ rows at the open epoch ─▶ output 1                    │
//!            │ record marks, state watermarks, ─▶ both ─▶ broadcast ────────┼─▶ every worker's `heard` and its
//!            │ then downgrade                                              │   timed steps
//!            └──────────────▲──────────────────────────────────────────────┘
//!                           └ a higher epoch heard: close up to it at once (Lamport's rule)
//! ```
//!
//! An epoch is opened by its first row and closed as soon as its readers have nothing more (at most once a
//! [`EPOCH_NS_MIN`]), or when it is [`EPOCH_NS_MAX`] old or holds [`EPOCH_BYTES_MAX`]. Without rows there are no epochs, no
//! timers and no work.

use crate::cuts::{Check, CutBoard, RecordedCuts};
use crate::errors::{SourceNames, error_rows};
use crate::exchange::hash_rows;
use crate::flight::{Budget, InFlight};
use crate::meter::{Meter, Pulse, count_failed};
use crate::operate::{ChainStep, Link, StepShared, through};
use crate::rows::{Rows, Times, partition_of};
use crate::snapshot::{self, Part, Snapshots};
use crate::source::{Mark, Marks, Polled, Reader, Removal, Waker};
use crate::watermark::{SourceTime, Standing, Statement, TimePolicy};
use crate::{control::Control, cuts};
use engine_base::{Clock, Epoch, SourceId};
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use timely::container::{CapacityContainerBuilder, NoopBuilder};
use timely::dataflow::channels::pact::Exchange;
use timely::dataflow::operators::Capability;
use timely::dataflow::operators::generic::OutputBuilder;
use timely::dataflow::operators::generic::builder_rc::OperatorBuilder;
use timely::dataflow::{Scope, Stream, StreamVec};
use timely::progress::operate::FrontierInterest;
use timely::scheduling::Activator;

/// The shortest time between two closes while input trickles in, nanoseconds.
pub const EPOCH_NS_MIN: u64 = 1_000_000;
/// The age at which an epoch closes though there is more input, nanoseconds.
pub const EPOCH_NS_MAX: u64 = 5_000_000;
/// The bytes of input at which an epoch closes.
pub const EPOCH_BYTES_MAX: u64 = 8 << 20;
/// How much one poll of a reader takes, bytes: small enough to stay in the second-level cache on its way.
pub const POLL_BYTES: usize = 256 << 10;

/// How far the watermark of a silent source goes in one step, nanoseconds: how often an engine wakes that has windows open
/// and nothing to read.
const IDLE_STEP_NS: u64 = 100_000_000;

/// How often readers are asked how far behind they are, nanoseconds.
const LAG_NS: u64 = 500_000_000;
/// For how long after the start a share waits until all others have told where they stand, where none may be far ahead.
const ALIGN_START_NS: u64 = 100_000_000;

/// Makes a worker's reader of a source once its waker is known.
pub type OpenReader = Box<dyn FnOnce(Waker) -> Result<Option<Box<dyn Reader>>, String>>;

/// A source on one worker.
pub struct SourceInput {
    /// Its name.
    pub name: Arc<str>,
    /// Its number.
    pub id: SourceId,
    /// Opens this worker's share; `Ok(None)` where it has none.
    pub open: OpenReader,
    /// Its instruments.
    pub meter: Arc<dyn Meter>,
    /// Steps that every row takes at once: those that its own keys imply.
    pub steps: Vec<ChainStep>,
    /// How its watermark follows from the event times that those steps give; `None` where nobody asks for it.
    pub time: Option<TimePolicy>,
    /// The partitions that the run had from which this one goes on, and the event time that each had reached, nanoseconds since
    /// 1970 UTC; `None` of one that had no row yet.
    pub reached_ns: BTreeMap<u32, Option<i64>>,
}

/// What the source operators of a process share.
#[derive(Clone)]
pub struct IngestShared {
    /// Where cuts are noted.
    pub board: Arc<CutBoard>,
    /// Stopping.
    pub control: Arc<Control>,
    /// The clock.
    pub clock: Arc<dyn Clock>,
    /// Bounds of what is in flight.
    pub budget: Budget,
    /// The bytes in flight on all workers.
    pub in_flight: Arc<AtomicU64>,
    /// Cuts to follow instead of making new ones.
    pub follow: Option<Arc<RecordedCuts>>,
    /// What comes after the last cut that is followed: new ones, or the end.
    pub then_live: bool,
    /// The first epoch where no cuts are followed.
    pub first: u64,
    /// Who takes snapshots, where there are any.
    pub snapshots: Option<Arc<Snapshots>>,
    /// Input that is not what it was when the cuts that are followed were recorded is taken as it is.
    pub accept_changed_input: bool,
    /// Names of sources, for error rows.
    pub names: SourceNames,
    /// What is committed, for [`Reader::committed`] and [`Removal`].
    pub committed: Arc<Committed>,
    /// Who hears of epochs and of what is in flight.
    pub pulse: Arc<dyn Pulse>,
    /// How much in the steps of all workers waits for time to pass: windows that are open.
    pub waiting_for_time: Arc<AtomicU64>,
    /// How far the event time of a source, or of a worker's share of it, may be ahead of the slowest, nanoseconds; beyond it it
    /// is not read until the others come up. `None` where they are read as they come.
    pub align_ns: Option<i64>,
    /// At which multiples of the clock, nanoseconds, an epoch is to close while something waits for time to pass: windows that are
    /// put out early.
    pub ticks_ns: Vec<i64>,
}

/// The last committed cut, and the last one that is released, for telling sources.
#[derive(Debug, Default)]
pub struct Committed {
    version: AtomicU64,
    safe: Mutex<Safe>,
}

/// What may be told, and to whom.
#[derive(Debug, Default)]
struct Safe {
    /// Every sink has acknowledged what stands before it, and that is durable.
    committed: cuts::Cut,
    /// Nobody will ever ask again for what stands before it.
    released: cuts::Cut,
    removals: Vec<(SourceId, Arc<dyn Removal>)>,
}

impl Committed {
    /// A run goes on: what the one before may not have told those who remove. A sink may be without some of it until the journal
    /// has brought that out again, so readers don't hear of it.
    pub fn resume(&self, committed: cuts::Cut, released: cuts::Cut) {
        let mut safe = self.safe();
        (safe.committed, safe.released) = (committed, released);
    }

    /// A cut is durable.
    pub fn set(&self, cut: cuts::Cut) {
        let mut safe = self.safe();
        safe.committed = cut;
        safe.tell(|removal, marks| removal.committed(marks), |safe| &safe.committed);
        self.version.fetch_add(1, Ordering::Release);
    }

    /// What stands before a cut is never read again.
    pub fn release(&self, cut: cuts::Cut) {
        let mut safe = self.safe();
        safe.released = cut;
        safe.tell(|removal, marks| removal.released(marks), |safe| &safe.released);
    }

    /// Has one hear of what is committed and released of a source, until the run is over.
    pub fn attend(&self, source: SourceId, removal: Arc<dyn Removal>) {
        let mut safe = self.safe();
        if let Some(marks) = safe.committed.get(&source) {
            removal.committed(marks);
        }
        if let Some(marks) = safe.released.get(&source) {
            removal.released(marks);
        }
        safe.removals.push((source, removal));
    }

    /// The run is over: waits until what was told is carried out.
    pub fn finish(&self) -> Result<(), String> {
        let removals = std::mem::take(&mut self.safe().removals);
        let mut ended = Ok(());
        for (_, removal) in removals {
            ended = ended.and(removal.close());
        }
        ended
    }

    fn newer_than(&self, seen: &mut u64) -> Option<cuts::Cut> {
        let version = self.version.load(Ordering::Acquire);
        if version == *seen {
            return None;
        }
        *seen = version;
        Some(self.safe().committed.clone())
    }

    fn safe(&self) -> MutexGuard<'_, Safe> {
        self.safe.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Safe {
    fn tell(&self, tell: impl Fn(&dyn Removal, &Marks), cut: impl Fn(&Safe) -> &cuts::Cut) {
        for (source, removal) in &self.removals {
            if let Some(marks) = cut(self).get(source) {
                tell(&**removal, marks);
            }
        }
    }
}

/// The streams and handles of a worker's source operator.
pub struct Ingested<'scope> {
    /// The rows of each source.
    pub rows: Vec<Stream<'scope, u64, Rows>>,
    /// Records that could not be decoded, of each source, as error rows.
    pub errors: Vec<Stream<'scope, u64, Rows>>,
    /// The failed rows of each step of each source.
    pub step_errors: Vec<Vec<Stream<'scope, u64, Rows>>>,
    /// What all workers state of the sources that have a [`TimePolicy`], at each epoch's close.
    pub statements: StreamVec<'scope, u64, Statement>,
    /// What this worker has in flight; released by the worker's loop.
    pub flight: Rc<RefCell<InFlight>>,
    /// Wakes the source operator on this thread.
    pub activator: Activator,
}

struct Slot {
    name: Arc<str>,
    id: SourceId,
    reader: Option<Box<dyn Reader>>,
    meter: Arc<dyn Meter>,
    noted: Marks,
    /// The places where it starts are noted.
    begun: bool,
    /// The steps that its rows take here, and the place of their first capability.
    links: Vec<Link>,
    links_at: usize,
    time: Option<SlotTime>,
    /// What was read of each partition in the open epoch.
    read: BTreeMap<u32, Read>,
    reached_ns: BTreeMap<u32, Option<i64>>,
    /// Since when it is not read because it is ahead of others, monotonic nanoseconds.
    ahead_since_ns: Option<u64>,
}

/// The event time of a source on this worker.
struct SlotTime {
    time: SourceTime,
    ended: bool,
    stated: Option<Standing>,
}

/// What was read of a partition in the open epoch.
#[derive(Default)]
struct Read {
    records: u64,
    /// The hash of the first row.
    first: u64,
    last: Option<Rows>,
}

impl Read {
    fn add(&mut self, rows: &Rows) {
        let count = rows.num_rows();
        if self.last.is_none() {
            self.first = hash_of(&rows.slice(0, 1));
        }
        self.records += count as u64;
        self.last = Some(rows.slice(count - 1, 1));
    }

    fn check(&self) -> Check {
        let last = self.last.as_ref().map_or(0, hash_of);
        Check { records: self.records, ends: self.first.rotate_left(1) ^ last }
    }
}

fn hash_of(row: &Rows) -> u64 {
    hash_rows(row.batch.columns(), 1)[0]
}

impl Slot {
    /// What was read of each partition in the open epoch.
    fn checks(&self) -> BTreeMap<u32, Check> {
        self.read.iter().map(|(partition, read)| (*partition, read.check())).collect()
    }

    /// Where its share of the source stands. `None` where nobody asks.
    fn standing(&self, now_ns: u64) -> Option<Standing> {
        let time = self.time.as_ref()?;
        Some(match &self.reader {
            _ if time.ended => Standing::Ended,
            // Of partitions that are not known yet anything may come.
            Some(reader) if !self.begun || !reader.knows_its_share() => Standing::Unknown,
            _ => time.time.standing(now_ns),
        })
    }

    /// When its standing moves though no row comes, monotonic nanoseconds: at once, later or never (`u64::MAX`).
    fn moves_at_ns(&mut self, paused: bool, last_closed_ns: u64, now_ns: u64, waiting: &AtomicU64) -> u64 {
        if let (Some(time), Some(reader)) = (&mut self.time, &self.reader) {
            let paused = paused || self.ahead_since_ns.is_some();
            time.time.look(now_ns, |partition| !paused && reader.at_end(partition));
        }
        let (Some(standing), Some(time)) = (self.standing(now_ns), &self.time) else { return u64::MAX };
        match (time.stated, standing) {
            (Some(stated), standing) if stated == standing => time.time.idle_at_ns(now_ns).unwrap_or(u64::MAX),
            // What moves by the clock alone moves in steps, and only where something waits for it.
            (Some(Standing::Idle(_)), Standing::Idle(_)) => match waiting.load(Ordering::Relaxed) {
                0 => u64::MAX,
                _ => last_closed_ns.saturating_add(IDLE_STEP_NS),
            },
            _ => now_ns,
        }
    }
}

/// What all workers told.
#[derive(Default)]
struct Heard {
    /// The highest epoch that is open anywhere.
    epoch: Cell<u64>,
    /// Where each worker's share of each source stands: by source and worker.
    standings: RefCell<BTreeMap<(u16, u32), Standing>>,
}

impl Heard {
    /// Whether all of so many shares have told where they stand, and have had a row, or are not there.
    fn all_stand(&self, shares: usize) -> bool {
        let standings = self.standings.borrow();
        standings.len() >= shares && !standings.values().any(|standing| *standing == Standing::Unknown)
    }

    /// The least event time that any share but this one has reached. What is idle, or has had no row yet, holds nobody back.
    fn slowest_ns(&self, but: (u16, u32)) -> Option<i64> {
        let standings = self.standings.borrow();
        let others = standings.iter().filter(|(share, _)| **share != but);
        let active = others.filter_map(|(_, standing)| match standing {
            Standing::Active(at_ns) => Some(*at_ns),
            _ => None,
        });
        active.min()
    }
}

/// What workers tell each other.
#[derive(Clone, Copy, Debug, serde::Serialize, serde::Deserialize)]
enum Told {
    /// An epoch closed; this is the next.
    Closed(u64),
    /// Where a source stands.
    States(Statement),
}

struct Pace {
    /// The open epoch: the time of every capability.
    current: u64,
    /// Rows were put out in it.
    dirty: bool,
    opened_ns: u64,
    closed_ns: u64,
    bytes: u64,
    /// When what is read in the epoch is said to be read, nanoseconds since 1970 UTC.
    read_ns: i64,
    /// When this operator is woken next for the sake of time, monotonic nanoseconds.
    wake_at_ns: u64,
}

/// Builds the source operator of this worker.
pub fn ingest<'scope>(
    scope: Scope<'scope, u64>,
    sources: Vec<SourceInput>,
    shared: &IngestShared,
    steps: &StepShared,
) -> Ingested<'scope> {
    let mut builder = OperatorBuilder::new("sources".to_owned(), scope);
    let mut rows_out = Vec::new();
    let mut rows = Vec::new();
    let mut errors_out = Vec::new();
    let mut errors = Vec::new();
    for _ in &sources {
        let (output, stream) = builder.new_output::<Rows>();
        rows_out.push(OutputBuilder::<_, NoopBuilder<Rows>>::from(output));
        rows.push(stream);
    }
    for _ in &sources {
        let (output, stream) = builder.new_output::<Rows>();
        errors_out.push(OutputBuilder::<_, NoopBuilder<Rows>>::from(output));
        errors.push(stream);
    }
    let mut links = Vec::new();
    let mut step_errors = Vec::new();
    let mut links_at = 2 * sources.len();
    let sources: Vec<_> = sources
        .into_iter()
        .map(|mut source| {
            let own = std::mem::take(&mut source.steps);
            let (own, streams): (Vec<Link>, Vec<_>) =
                own.into_iter().map(|step| Link::alone(step, &mut builder)).unzip();
            let at = links_at;
            links_at += own.len();
            links.push((own, at));
            step_errors.push(streams);
            source
        })
        .collect();
    let (told_out, told) = builder.new_output::<Vec<Told>>();
    let mut told_out = OutputBuilder::<_, CapacityContainerBuilder<Vec<Told>>>::from(told_out);

    let info = builder.operator_info();
    let activator = scope.activator_for(info.address.clone());
    let waker = Waker::of_operator(&scope, &info);
    shared.control.on_stop(waker.clone());
    let (heard, statements) = listen(told, activator.clone(), shared.align_ns.is_some());

    let mut slots: Vec<Slot> = Vec::new();
    for (source, (links, links_at)) in sources.into_iter().zip(links) {
        let reader = (source.open)(waker.clone()).unwrap_or_else(|error| {
            shared.control.fail(format!("source `{}`: {error}", source.name));
            None
        });
        if let Some(removal) = reader.as_ref().and_then(|reader| reader.removal()) {
            shared.committed.attend(source.id, removal);
        }
        slots.push(Slot {
            name: source.name,
            id: source.id,
            reader,
            meter: source.meter,
            noted: Marks::new(),
            begun: false,
            links,
            links_at,
            time: source.time.map(|policy| SlotTime { time: SourceTime::new(policy), ended: false, stated: None }),
            read: BTreeMap::new(),
            reached_ns: source.reached_ns,
            ahead_since_ns: None,
        });
    }

    let flight = Rc::new(RefCell::new(InFlight::new(shared.budget, shared.in_flight.clone())));
    let (shared, in_flight, wake, steps) = (shared.clone(), flight.clone(), activator.clone(), steps.clone());
    let (peers, worker) = (scope.peers(), scope.index());
    builder.build(move |mut caps: Vec<Capability<u64>>| {
        let mut follow = shared.follow.clone().filter(|cuts| !cuts.epochs.is_empty() || !shared.then_live).map(Follow::new);
        let first = follow.as_ref().map_or(shared.first, Follow::first);
        let snapshots = shared.snapshots.clone();
        let is_kept = shared.board.is_kept();
        for cap in &mut caps {
            cap.downgrade(&first);
        }
        let mut pace =
            Pace { current: first, dirty: false, opened_ns: 0, closed_ns: 0, bytes: 0, read_ns: 0, wake_at_ns: 0 };
        if let (Some(snapshots), None) = (&snapshots, &follow) {
            snapshots.opens(worker, Some(first));
        }
        let mut committed = 0;
        let mut lag_told_ns = 0;
        let mut lag_due = false;
        let mut paused_since_ns = None;
        // One worker states the clock for all.
        let ticks_ns = if worker == 0 { shared.ticks_ns.clone() } else { Vec::new() };
        let mut ticked_ns = shared.clock.now_ns();
        let mut started_ns = None;
        let shares = slots.len() * peers;
        move |_frontiers| {
            if caps.is_empty() {
                return;
            }
            let now_ns = shared.clock.monotonic_ns();
            let mut announce = None;
            let mut told = Vec::new();
            let (worker, clock_ns) = (worker as u32, shared.clock.now_ns());
            let passed = |tick_ns: &i64| ticked_ns.div_euclid(*tick_ns) < clock_ns.div_euclid(*tick_ns);
            let tick = ticks_ns.iter().any(passed) && shared.waiting_for_time.load(Ordering::Relaxed) > 0;
            if follow.is_none() && heard.epoch.get() > pace.current {
                state(&mut slots, worker, now_ns, clock_ns, &mut told);
                tell(&mut told, &mut told_out, &caps, pace.current, &shared.board);
                close(heard.epoch.get(), &mut pace, &mut caps, &mut slots, &shared, worker, now_ns);
            }
            if let Some(cut) = shared.committed.newer_than(&mut committed) {
                for slot in &mut slots {
                    if let (Some(reader), Some(marks)) = (&mut slot.reader, cut.get(&slot.id)) {
                        reader.committed(marks);
                    }
                }
            }
            if now_ns.saturating_sub(lag_told_ns) >= LAG_NS {
                lag_told_ns = now_ns;
                lag_due = false;
                let mut behind = false;
                for slot in &slots {
                    for (partition, records) in slot.reader.iter().flat_map(|reader| reader.lag()) {
                        slot.meter.lag(partition, records);
                        behind |= records > 0;
                    }
                }
                // What was told must not stand when nothing happens any more.
                if behind {
                    lag_due = true;
                    wake.activate_after(Duration::from_nanos(LAG_NS));
                }
            }
            let since_ns = in_flight.borrow().since_ns();
            let since_ns = since_ns.map(|since| shared.clock.now_ns() - now_ns.saturating_sub(since) as i64);
            shared.pulse.in_flight(worker as usize, in_flight.borrow().bytes(), since_ns);
            // What a former run has committed is replayed to its end first: without that, what is done and what steps keep would be
            // said to be further than they are. Only a fault ends a replay.
            let replays = follow.is_some() && shared.then_live;
            let stopping = shared.control.stopping() && (!replays || shared.control.failed());
            let mut full = in_flight.borrow().exceeds(now_ns);
            if follow.is_some() {
                // The epoch that is followed ends where it is cut: what is in flight of it is acknowledged once all workers have read
                // the rest. So the budget counts when something before it is.
                full &= in_flight.borrow().has_before(pace.current);
            }
            if let Some(since_ns) = paused_since_ns {
                let ns = now_ns.saturating_sub(since_ns);
                slots.iter().filter(|slot| slot.reader.is_some()).for_each(|slot| slot.meter.paused(ns));
            }
            paused_since_ns = (full && !stopping).then_some(now_ns);
            if paused_since_ns.is_some() && !lag_due {
                lag_due = true;
                wake.activate_after(Duration::from_nanos(LAG_NS));
            }
            let paused = stopping || full;
            let moves_at_ns = |slots: &mut [Slot], pace: &Pace, now_ns: u64| {
                let of = |slot: &mut Slot| slot.moves_at_ns(paused, pace.closed_ns, now_ns, &shared.waiting_for_time);
                slots.iter_mut().map(of).min().unwrap_or(u64::MAX)
            };
            let mut more = false;
            // A small budget is kept to: what is read at once is acknowledged at once.
            let portion = POLL_BYTES.min(usize::try_from(shared.budget.bytes).unwrap_or(POLL_BYTES));
            if !paused {
                for at in 0..slots.len() {
                    if !std::mem::replace(&mut slots[at].begun, true) {
                        begin(&mut slots[at], now_ns, &shared.board);
                    }
                    let until = follow.as_ref().map(|follow| follow.limits(slots[at].id));
                    let id = slots[at].id;
                    let slot = &mut slots[at];
                    if let (Some(align_ns), None) = (shared.align_ns, until) {
                        let slowest_ns = heard.slowest_ns((id.0, worker));
                        // At the start nobody knows yet who is ahead of whom.
                        let starts = now_ns.saturating_sub(*started_ns.get_or_insert(now_ns)) < ALIGN_START_NS
                            && !heard.all_stand(shares);
                        if starts {
                            wake.activate_after(Duration::from_nanos(EPOCH_NS_MIN));
                        }
                        let ahead = match (slot.standing(now_ns), slowest_ns) {
                            (Some(Standing::Active(_)), _) if starts => true,
                            (Some(Standing::Active(at_ns)), Some(slowest_ns)) => {
                                at_ns > slowest_ns.saturating_add(align_ns)
                            }
                            _ => false,
                        };
                        if let Some(since_ns) = slot.ahead_since_ns {
                            slot.meter.paused(now_ns.saturating_sub(since_ns));
                        }
                        slot.ahead_since_ns = ahead.then_some(now_ns);
                        if ahead {
                            continue;
                        }
                    }
                    let Some(reader) = &mut slot.reader else { continue };
                    let polled = reader.poll(portion, until);
                    let found = reader.found();
                    if let Some(time) = &mut slot.time {
                        time.time.assigned(found.keys().copied(), now_ns);
                    }
                    if !found.is_empty() {
                        shared.board.starts(id, &found);
                    }
                    match polled {
                        Polled::Some(polled) => {
                            more = true;
                            if !pace.dirty {
                                pace.dirty = true;
                                pace.opened_ns = now_ns;
                                pace.read_ns = clock_ns;
                            }
                            pace.bytes += polled.bytes;
                            in_flight.borrow_mut().add(pace.current, polled.bytes, now_ns);
                            let out: u64 = polled.rows.iter().map(|rows| rows.num_rows() as u64).sum();
                            let busy_ns = shared.clock.monotonic_ns().saturating_sub(now_ns);
                            slots[at].meter.batch(polled.records, out, busy_ns);
                            count_failed(&*slots[at].meter, &polled.errors);
                            let slot = &mut slots[at];
                            slot.meter.bytes(polled.bytes);
                            let mut output = rows_out[at].activate();
                            let mut session = output.session_with_builder(&caps[at]);
                            let (links_at, count) = (slot.links_at, slot.links.len());
                            let cap_of = |behind: usize| &caps[links_at + count - 1 - behind];
                            let time = &mut slot.time;
                            let mut give = |mut rows: Rows| {
                                if let (Some(time), Some(event_ns)) = (time.as_mut(), &rows.event_ns) {
                                    let (_, partition) = partition_of(rows.positions.source(0).0);
                                    time.time.saw(partition, greatest(event_ns), now_ns);
                                }
                                session.give_container(&mut rows);
                            };
                            if is_kept || follow.as_ref().is_some_and(|follow| !follow.cuts.checks.is_empty()) {
                                for rows in polled.rows.iter().filter(|rows| rows.num_rows() > 0) {
                                    let (_, partition) = partition_of(rows.positions.source(0).0);
                                    slot.read.entry(partition).or_default().add(rows);
                                }
                                for failed in &polled.errors {
                                    let (_, partition) = partition_of(failed.position.origin);
                                    slot.read.entry(partition).or_default().records += 1;
                                }
                            }
                            for mut rows in polled.rows {
                                if rows.num_rows() > 0 {
                                    // One time for all of an epoch: it is written down, and the same in a replay.
                                    let read_ns = match &follow {
                                        Some(follow) => follow.read_ns(partition_of(rows.positions.source(0).0)),
                                        None => is_kept.then_some(pace.read_ns),
                                    };
                                    if let Some(read_ns) = read_ns {
                                        rows.ingest_ns = Times::One(read_ns);
                                    }
                                    through(&mut slot.links, rows, &cap_of, &mut give, &steps);
                                }
                            }
                            if !polled.errors.is_empty() {
                                let mut failed = error_rows(polled.errors, &shared.names);
                                let mut output = errors_out[at].activate();
                                output.session_with_builder(&caps[slots.len() + at]).give_container(&mut failed);
                            }
                        }
                        Polled::Pending => {}
                        Polled::Done => {
                            let marks = reader.marks();
                            let short = follow.as_ref().and_then(|follow| short_of(&follow.cuts, slots[at].id, &marks));
                            if let Some((partition, next)) = short {
                                shared.control.fail(format!(
                                    "source `{}` ended before the cuts that are followed: partition {partition} was cut at {next}; \
                                     this is not the input that they were recorded of",
                                    slots[at].name
                                ));
                            }
                            note(&mut slots[at], &pace, &shared.board);
                            slots[at].reader = None;
                            slots[at].time.iter_mut().for_each(|time| time.ended = true);
                        }
                        Polled::Failed(reason) => {
                            let name = slots[at].name.clone();
                            note(&mut slots[at], &pace, &shared.board);
                            slots[at].reader = None;
                            shared.control.fail(format!("source `{name}`: {reason}"));
                        }
                    }
                }
            }
            // Cuts that are followed are followed to their end: what is stated of event time may come after the last row.
            let mut ended = stopping || follow.is_none() && slots.iter().all(|slot| slot.reader.is_none());
            // A snapshot is due of the open epoch, or something waits for its end: it closes though nothing came.
            let is_due = snapshots.as_ref().and_then(|snapshots| snapshots.due()).is_some_and(|due| due >= pace.current)
                || shared.control.is_to_close(pace.current);
            if let Some(following) = &mut follow {
                if following.is_reached(&slots) {
                    if let Some((at, reason)) = following.differs(&slots) {
                        let (name, epoch) = (&slots[at].name, pace.current);
                        if shared.accept_changed_input {
                            tracing::warn!(source = &**name, epoch, "{reason}; it is taken as it is now");
                        } else {
                            shared.control.fail(format!(
                                "source `{name}`: {reason}: it was compacted, rewritten or replaced. Put the input back as it was; or \
                                 start once with --accept-changed-input, which takes it as it is now: what was committed stays, and what \
                                 steps keep follows the new input; or start from the beginning with another --state"
                            ));
                        }
                    }
                    if worker == 0 {
                        told.extend(following.cuts.stated(pace.current).map(Told::States));
                    } else if following.at == 0 {
                        // One worker states what all did.
                        told.extend(slots.iter().filter(|slot| slot.time.is_some()).map(|slot| {
                            let standing = Standing::Absent;
                            Told::States(Statement { worker, source: slot.id.0, standing, clock_ns: i64::MIN })
                        }));
                    }
                    tell(&mut told, &mut told_out, &caps, pace.current, &shared.board);
                    match following.advance() {
                        Some(next) => {
                            close(next, &mut pace, &mut caps, &mut slots, &shared, worker, now_ns);
                            more = true;
                        }
                        None if shared.then_live => {
                            let next = (pace.current + 1).max(shared.first);
                            close(next, &mut pace, &mut caps, &mut slots, &shared, worker, now_ns);
                            // From here on each worker speaks for itself.
                            slots.iter_mut().filter_map(|slot| slot.time.as_mut()).for_each(|time| time.stated = None);
                            if let Some(snapshots) = &snapshots {
                                snapshots.opens(worker as usize, Some(next));
                            }
                            follow = None;
                            more = true;
                        }
                        None => ended = true,
                    }
                }
            } else if pace.dirty || tick || is_due || moves_at_ns(&mut slots, &pace, now_ns) <= now_ns {
                // A watermark that moves is a reason for an epoch as a row is.
                let age_ns = now_ns.saturating_sub(pace.opened_ns);
                let rested_ns = now_ns.saturating_sub(pace.closed_ns);
                if is_due || age_ns >= EPOCH_NS_MAX || pace.bytes >= EPOCH_BYTES_MAX || (!more && rested_ns >= EPOCH_NS_MIN) {
                    let next = pace.current + 1;
                    state(&mut slots, worker, now_ns, clock_ns, &mut told);
                    if tick {
                        tell_the_clock(&slots, worker, clock_ns, &mut told);
                        ticked_ns = clock_ns;
                    }
                    tell(&mut told, &mut told_out, &caps, pace.current, &shared.board);
                    close(next, &mut pace, &mut caps, &mut slots, &shared, worker, now_ns);
                    shared.pulse.epoch_closed();
                    announce = Some(next);
                } else if !more {
                    wake.activate_after(Duration::from_nanos(EPOCH_NS_MIN - rested_ns));
                }
            }
            if let Some(epoch) = announce
                && peers > 1
            {
                told.push(Told::Closed(epoch));
                tell(&mut told, &mut told_out, &caps, pace.current, &shared.board);
            }
            if ended {
                // An end by a signal is no end of the input: what is open stays open.
                if follow.is_none() {
                    state(&mut slots, worker, now_ns, clock_ns, &mut told);
                    tell(&mut told, &mut told_out, &caps, pace.current, &shared.board);
                }
                for slot in &mut slots {
                    note(slot, &pace, &shared.board);
                }
                if let Some(snapshots) = &snapshots {
                    snapshots.opens(worker as usize, None);
                    give_times(&slots, snapshots, snapshot::LAST);
                }
                caps.clear();
                slots.clear();
            } else if more {
                wake.activate();
            } else if follow.is_none() && !pace.dirty {
                let to_tick_ns = ticks_ns.iter().map(|tick_ns| (tick_ns - clock_ns.rem_euclid(*tick_ns)) as u64).min();
                let tick_at_ns = to_tick_ns.map_or(u64::MAX, |to_tick_ns| now_ns.saturating_add(to_tick_ns));
                let at_ns = moves_at_ns(&mut slots, &pace, now_ns).min(tick_at_ns);
                let planned = pace.wake_at_ns > now_ns && pace.wake_at_ns <= at_ns;
                if at_ns < u64::MAX && !planned {
                    pace.wake_at_ns = at_ns;
                    wake.activate_after(Duration::from_nanos(at_ns.saturating_sub(now_ns).max(EPOCH_NS_MIN)));
                }
            }
        }
    });
    Ingested { rows, errors, step_errors, statements, flight, activator }
}

/// States where the sources stand that moved since they were stated last.
fn state(slots: &mut [Slot], worker: u32, now_ns: u64, clock_ns: i64, told: &mut Vec<Told>) {
    for slot in slots {
        let standing = slot.standing(now_ns);
        if let (Some(standing), Some(time)) = (standing, &mut slot.time)
            && time.stated != Some(standing)
        {
            time.stated = Some(standing);
            told.push(Told::States(Statement { worker, source: slot.id.0, standing, clock_ns }));
        }
    }
}

/// States the clock, with where a source stands anyway.
fn tell_the_clock(slots: &[Slot], worker: u32, clock_ns: i64, told: &mut Vec<Told>) {
    if told.iter().any(|told| matches!(told, Told::States(_))) {
        return;
    }
    let stated = |slot: &Slot| Some((slot.id.0, slot.time.as_ref()?.stated?));
    told.extend(
        slots
            .iter()
            .find_map(stated)
            .map(|(source, standing)| Told::States(Statement { worker, source, standing, clock_ns })),
    );
}

/// Sends what is to be told at the epoch that is open.
fn tell(
    told: &mut Vec<Told>,
    output: &mut OutputBuilder<u64, CapacityContainerBuilder<Vec<Told>>>,
    caps: &[Capability<u64>],
    epoch: u64,
    board: &CutBoard,
) {
    if told.is_empty() {
        return;
    }
    for told in told.iter() {
        if let Told::States(statement) = told {
            board.stated(Epoch(epoch), *statement);
        }
    }
    if let Some(cap) = caps.last() {
        let mut output = output.activate();
        let mut session = output.session(cap);
        told.drain(..).for_each(|told| session.give(told));
    }
}

/// The greatest of the event times of a batch.
fn greatest(event_ns: &Times) -> i64 {
    match event_ns {
        Times::One(time) => *time,
        Times::Each(times) => times.iter().copied().max().unwrap_or(i64::MIN),
    }
}

/// Notes where the partitions of a source stand before anything is read from them.
fn begin(slot: &mut Slot, now_ns: u64, board: &CutBoard) {
    let marks = slot.reader.as_ref().map(|reader| reader.marks()).unwrap_or_default();
    if let Some(time) = &mut slot.time {
        for partition in marks.keys() {
            if let Some(reached_ns) = slot.reached_ns.get(partition) {
                time.time.restore(*partition, *reached_ns, now_ns);
            }
        }
        time.time.assigned(marks.keys().copied(), now_ns);
    }
    if !marks.is_empty() {
        board.starts(slot.id, &marks);
    }
}

/// Notes where a source stands, if it moved.
fn note(slot: &mut Slot, pace: &Pace, board: &CutBoard) {
    if let Some(reader) = &slot.reader {
        let marks = reader.marks();
        if marks != slot.noted {
            let moved = |(partition, mark): &(&u32, &Mark)| slot.noted.get(*partition) != Some(*mark);
            let moved = marks.iter().filter(moved).map(|(partition, mark)| (*partition, mark.clone())).collect();
            board.closed(Epoch(pace.current), slot.id, &moved, pace.read_ns, &slot.checks());
            slot.noted = marks;
        }
    }
}

/// Tells the event time that the sources have reached, for a snapshot.
fn give_times(slots: &[Slot], snapshots: &Snapshots, number: u64) {
    for slot in slots {
        if let Some(time) = &slot.time {
            snapshots.give(number, Part::Times { source: slot.id, reached_ns: time.time.reached_ns() });
        }
    }
}

/// Closes the open epoch: first the marks, then the capabilities, so that no frontier passes an epoch without its cut.
fn close(
    next: u64,
    pace: &mut Pace,
    caps: &mut [Capability<u64>],
    slots: &mut [Slot],
    shared: &IngestShared,
    worker: u32,
    now_ns: u64,
) {
    for slot in slots.iter_mut() {
        note(slot, pace, &shared.board);
        slot.read.clear();
    }
    if let Some(snapshots) = &shared.snapshots {
        // Before the capabilities go: a snapshot that is asked for from here on is of this epoch or a later one.
        if let Some(number) = snapshots.moves(worker as usize, next) {
            give_times(slots, snapshots, number);
        }
    }
    for cap in caps {
        cap.downgrade(&next);
    }
    *pace = Pace { current: next, dirty: false, opened_ns: now_ns, closed_ns: now_ns, bytes: 0, ..*pace };
}

/// The cuts that are followed, and how far.
struct Follow {
    cuts: Arc<RecordedCuts>,
    at: usize,
    /// Up to where the partitions of each source may be read: the last marks at or before the epoch that is followed.
    limits: BTreeMap<SourceId, BTreeMap<u32, u64>>,
    none: BTreeMap<u32, u64>,
}

impl Follow {
    fn new(cuts: Arc<RecordedCuts>) -> Follow {
        let mut follow = Follow { cuts, at: 0, limits: BTreeMap::new(), none: BTreeMap::new() };
        follow.take_limits();
        follow
    }

    /// The first epoch.
    fn first(&self) -> u64 {
        self.cuts.epochs.first().map_or(0, |(epoch, _)| epoch.0)
    }

    fn take_limits(&mut self) {
        for ((source, partition), next) in self.cuts.epochs.get(self.at).iter().flat_map(|(_, marks)| marks) {
            self.limits.entry(*source).or_default().insert(*partition, *next);
        }
    }

    /// Goes on to the next epoch, which it gives.
    fn advance(&mut self) -> Option<u64> {
        self.at += 1;
        self.take_limits();
        self.cuts.epochs.get(self.at).map(|(epoch, _)| epoch.0)
    }

    fn limits(&self, source: SourceId) -> &BTreeMap<u32, u64> {
        self.limits.get(&source).unwrap_or(&self.none)
    }

    /// When the rows of a partition were read that the epoch has of it.
    fn read_ns(&self, place: (SourceId, u32)) -> Option<i64> {
        self.cuts.read_ns(self.cuts.epochs.get(self.at)?.0.0, place)
    }

    /// What of a source, by its place, is not what was read when the epoch was recorded; in words.
    fn differs(&self, slots: &[Slot]) -> Option<(usize, String)> {
        let recorded = self.cuts.checks.get(&self.cuts.epochs.get(self.at)?.0.0)?;
        for (at, slot) in slots.iter().enumerate() {
            let here = slot.checks();
            for ((_, partition), then) in recorded.iter().filter(|((source, _), _)| *source == slot.id) {
                // A partition of another worker.
                let is_mine = here.contains_key(partition)
                    || slot.reader.as_ref().is_some_and(|reader| reader.marks().contains_key(partition));
                let now = here.get(partition).copied().unwrap_or_default();
                if is_mine && now != *then {
                    let what = match now.records == then.records {
                        true => "has other records".to_owned(),
                        false => format!("has {} records where there were {}", now.records, then.records),
                    };
                    return Some((
                        at,
                        format!("partition {partition} {what} than those that were read before the restart"),
                    ));
                }
            }
        }
        None
    }

    /// Whether each partition of this worker stands where the followed cut has it.
    fn is_reached(&self, slots: &[Slot]) -> bool {
        let Some((_, marks)) = self.cuts.epochs.get(self.at) else { return true };
        slots.iter().all(|slot| {
            let Some(reader) = &slot.reader else { return true };
            let at = cuts::offsets(&reader.marks());
            marks
                .iter()
                .filter(|((id, partition), _)| *id == slot.id && at.contains_key(partition))
                .all(|((_, partition), next)| at.get(partition).is_some_and(|at| at >= next))
        })
    }
}

/// A partition that ended before the cuts do, and where they cut it.
fn short_of(cuts: &RecordedCuts, source: SourceId, marks: &Marks) -> Option<(u32, u64)> {
    let all = cuts.epochs.iter().flat_map(|(_, marks)| marks);
    let mut of_source = all.filter(|((id, _), _)| *id == source).map(|((_, partition), next)| (*partition, *next));
    of_source.rfind(|(partition, next)| marks.get(partition).is_some_and(|mark| mark.next < *next))
}

/// Listens to what workers tell: wakes the source operator when a higher epoch is heard of, and passes statements on.
fn listen<'scope>(
    told: StreamVec<'scope, u64, Told>,
    activator: Activator,
    aligned: bool,
) -> (Rc<Heard>, StreamVec<'scope, u64, Statement>) {
    let scope = told.scope();
    let peers = scope.peers() as u64;
    let heard = Rc::new(Heard::default());

    // Each once for each worker.
    let mut spread = OperatorBuilder::new("told".to_owned(), scope);
    let mut input = spread.new_input(told, timely::dataflow::channels::pact::Pipeline);
    spread.set_notify_for(0, FrontierInterest::Never);
    let (output, copies) = spread.new_output::<Vec<(u64, Told)>>();
    let mut output = OutputBuilder::<_, CapacityContainerBuilder<Vec<(u64, Told)>>>::from(output);
    spread.build(move |_| {
        move |_frontiers| {
            let mut output = output.activate();
            input.for_each(|cap, told| {
                let mut session = output.session(&cap);
                for told in told.drain(..) {
                    for peer in 0..peers {
                        session.give((peer, told));
                    }
                }
            });
        }
    });

    let mut hear = OperatorBuilder::new("heard".to_owned(), scope);
    let mut input = hear.new_input(copies, Exchange::new(|copy: &(u64, Told)| copy.0));
    hear.set_notify_for(0, FrontierInterest::Never);
    let (output, statements) = hear.new_output::<Vec<Statement>>();
    let mut output = OutputBuilder::<_, CapacityContainerBuilder<Vec<Statement>>>::from(output);
    let known = heard.clone();
    hear.build(move |_| {
        move |_frontiers| {
            let mut output = output.activate();
            input.for_each(|cap, copies| {
                let mut session = output.session(&cap);
                for (_, told) in copies.drain(..) {
                    match told {
                        Told::Closed(number) if number > known.epoch.get() => {
                            known.epoch.set(number);
                            activator.activate();
                        }
                        Told::Closed(_) => {}
                        Told::States(statement) => {
                            if aligned {
                                let share = (statement.source, statement.worker);
                                known.standings.borrow_mut().insert(share, statement.standing);
                                activator.activate();
                            }
                            session.give(statement);
                        }
                    }
                }
            });
        }
    });
    (heard, statements)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, Default)]
    struct Heard(Mutex<Vec<String>>);

    impl Heard {
        fn note(&self, what: &str, marks: &Marks) {
            self.0.lock().unwrap().push(format!("{what} {}", marks[&0].next));
        }
    }

    impl Removal for Heard {
        fn committed(&self, marks: &Marks) {
            self.note("committed", marks);
        }
        fn released(&self, marks: &Marks) {
            self.note("released", marks);
        }
        fn close(&self) -> Result<(), String> {
            self.0.lock().unwrap().push("closed".to_owned());
            Err("it is full".to_owned())
        }
    }

    #[test]
    fn a_removal_hears_of_its_source_from_first_to_last() {
        let cut = |source: u16, next: u64| {
            cuts::Cut::from([(SourceId(source), Marks::from([(0, Mark { next, detail: String::new() })]))])
        };
        let (committed, heard, other) = (Committed::default(), Arc::new(Heard::default()), Arc::new(Heard::default()));
        committed.resume(cut(1, 5), cut(1, 3));
        assert_eq!(committed.newer_than(&mut 0), None, "readers don't hear of it");
        // What was told before it came, it hears when it comes.
        committed.attend(SourceId(1), heard.clone());
        committed.attend(SourceId(2), other.clone());
        committed.set(cut(1, 7));
        committed.release(cut(2, 9));
        assert_eq!(committed.finish(), Err("it is full".to_owned()));
        assert_eq!(committed.finish(), Ok(()), "once");
        committed.set(cut(1, 8));
        assert_eq!(*heard.0.lock().unwrap(), ["committed 5", "released 3", "committed 7", "closed"]);
        assert_eq!(*other.0.lock().unwrap(), ["released 9", "closed"]);
    }
}
