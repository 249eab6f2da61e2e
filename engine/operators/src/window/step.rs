//! `window` at work on a worker: rows into panes, and panes out when the watermark passes.

use super::numbers::{KeyNumbers, Numbers};
use super::pane::{Before, NewRow, Pane, Session, Slot};
use super::plan::{When, WindowForm, WindowPlan};
use super::session::touched;
use crate::RenderCx;
use crate::aggregates::{Calls, Results};
use crate::keyed::{Keys, LatePort, Waiting, kept_by_key};
use crate::render::{assemble, assemble_loose, evaluate, fail, give_sound};
use arrow::array::{ArrayRef, BinaryBuilder, BooleanArray, TimestampNanosecondArray};
use arrow::datatypes::{Field, Schema, SchemaRef};
use engine_base::{RowError, StepId};
use engine_dataflow::rows::made_by;
use engine_dataflow::{EpochStep, Moment, Positions, RowPosition, Rows, StepOutput, StepState, Times};
use engine_expr::Program;
use engine_plan::{Planned, hidden};
use engine_state::{SlotId, SlotStore};
use smallvec::{SmallVec, smallvec};
use std::collections::{BTreeMap, BTreeSet, HashSet, VecDeque};
use std::sync::Arc;

/// By how many rows the slot of a key is asked for ahead of its use.
const AHEAD: usize = 12;
/// How many rows a step puts out before others have their turn.
const FIRE_ROWS: usize = 8_192;
/// How many panes a step frees before others have their turn.
const FREE_PANES: usize = 32_768;

/// Makes the step of a planned `window` on a worker.
pub fn render(planned: &dyn Planned, cx: &RenderCx<'_>) -> Result<Box<dyn EpochStep>, String> {
    let plan: &WindowPlan = crate::planned(planned, "window")?;
    Ok(Box::new(WindowStep::new(plan, cx, cx.store())?))
}

/// A window that is being put out.
struct Due {
    start: i64,
    end: i64,
    /// Its panes, those of a key side by side, the earliest first.
    slots: Vec<SlotId>,
    /// How many each key has; where there is none, each has one.
    counts: Vec<u32>,
    /// How many keys and panes are done.
    done: (usize, usize),
}

/// Slots that are another than they were when they were put out.
struct Touched {
    slots: BTreeSet<SlotId>,
    /// Since when the first of them is, by the clock, and the first end of a window of theirs. Nanoseconds since 1970 UTC.
    since_ns: i64,
    first_end_ns: i64,
}

impl Default for Touched {
    fn default() -> Self {
        Touched { slots: BTreeSet::new(), since_ns: i64::MAX, first_end_ns: i64::MAX }
    }
}

impl Touched {
    fn add(&mut self, slot: SlotId, since_ns: i64, first_end: Option<i64>) {
        self.slots.insert(slot);
        self.since_ns = self.since_ns.min(since_ns);
        self.first_end_ns = self.first_end_ns.min(first_end.unwrap_or(i64::MAX));
    }
}

/// A window on its way out.
struct Fired {
    key: SmallVec<[u8; 24]>,
    start: i64,
    end: i64,
    pane: Pane,
    /// What tells it from another of the same key and bounds, for windows of a count.
    mark: Box<[u8]>,
    /// It is taken back.
    removes: bool,
}

struct OutputColumn {
    calls: std::ops::Range<usize>,
    schema: SchemaRef,
    program: Program,
}

pub(super) struct WindowStep {
    step: Arc<str>,
    step_id: StepId,
    store: Box<dyn SlotStore<Slot>>,
    form: WindowForm,
    lateness_ns: i64,
    when: When,
    /// Where windows are corrected: slots that are another than they were when they were put out.
    touched: Touched,
    epoch: u64,
    /// Up to where slices are freed once all of the epoch is out.
    freeing: Option<i64>,
    keys: Keys,
    calls: Calls,
    /// Places among the key columns, then 0 and 1 for the bounds: what is wanted of them, in order.
    keys_wanted: Vec<usize>,
    bounds_wanted: Vec<usize>,
    columns: Vec<OutputColumn>,
    output: SchemaRef,
    gives_event_time: bool,
    late: LatePort,
    /// Fixed windows: the keys of each slice, by its start.
    slices: BTreeMap<i64, Slice>,
    /// Windows of several slices: the numbers of the keys.
    numbers: Option<KeyNumbers>,
    /// Sessions: keys by the end of a session that they had; it may have grown since.
    ends: BTreeMap<i64, BTreeSet<Box<[u8]>>>,
    /// Windows of a count, and of all rows: the keys that have one.
    open: HashSet<SlotId>,
    /// The windows that end after the one and up to the other are to be put out; of those, the one whose turn it is.
    closing: Option<(Option<i64>, i64)>,
    due: Option<Due>,
    fired: VecDeque<Fired>,
    /// Panes of slices that are done with.
    freed: Vec<Numbers>,
    /// How many rows came.
    arrivals: u64,
    clock_ns: i64,
    /// The watermark before the epoch, nanoseconds.
    before_ns: Option<i64>,
    waiting: Waiting,
}

struct Slice {
    end: i64,
    slots: Vec<Numbers>,
}

impl WindowStep {
    pub(super) fn new(plan: &WindowPlan, cx: &RenderCx<'_>, store: Box<dyn SlotStore<Slot>>) -> Result<Self, String> {
        let input = cx.inputs.first().ok_or("a window without an input")?;
        let wanted = cx.wanted.first().ok_or("a window without an output")?;
        let wanted_at =
            |names: &[String]| -> Vec<usize> { (0..names.len()).filter(|at| wanted.contains(&names[*at])).collect() };
        let mut calls = Calls::default();
        let mut columns = Vec::new();
        for (_, aggregation) in plan.columns.iter().filter(|(name, _)| wanted.contains(name)) {
            let first = calls.calls.len();
            for call in &aggregation.calls {
                calls.add(call, 0, input)?;
            }
            let results = aggregation.calls.iter().enumerate();
            let inner: Vec<Field> =
                results.map(|(at, call)| Field::new(format!("${at}"), call.data_type.clone(), true)).collect();
            let schema: SchemaRef = Arc::new(Schema::new(inner));
            let program = aggregation.finish(&schema).map_err(|error| error.message)?;
            columns.push(OutputColumn { calls: first..calls.calls.len(), schema, program });
        }
        let fields: Vec<_> =
            plan.output.fields().iter().filter(|field| wanted.contains(field.name())).cloned().collect();
        Ok(WindowStep {
            step: cx.step.clone(),
            step_id: cx.step_id,
            store,
            form: plan.form.clone(),
            lateness_ns: plan.lateness_ns,
            when: plan.when,
            touched: Touched::default(),
            epoch: 0,
            freeing: None,
            keys: Keys::new(&plan.key, input)?,
            calls: calls.placed(),
            keys_wanted: wanted_at(&plan.key),
            bounds_wanted: wanted_at(&plan.bounds),
            columns,
            output: Arc::new(Schema::new(fields)),
            gives_event_time: wanted.contains(hidden::EVENT_TIME),
            late: LatePort::new(cx, 1)?,
            slices: BTreeMap::new(),
            numbers: matches!(&plan.form, WindowForm::Fixed(windows) if windows.many_slices())
                .then(KeyNumbers::default),
            ends: BTreeMap::new(),
            open: HashSet::new(),
            closing: None,
            due: None,
            fired: VecDeque::new(),
            freed: Vec::new(),
            arrivals: 0,
            clock_ns: 0,
            before_ns: None,
            waiting: Waiting::new(cx),
        })
    }

    /// Takes up a slot that was put back.
    fn restored(&mut self, id: SlotId, key: &[u8], slice: i64) {
        let Some(slot) = self.store.get(id) else { return };
        for session in &slot.sessions {
            let next = session.pane.last_arrival().map_or(0, |arrival| arrival + 1);
            self.arrivals = self.arrivals.max(next);
            match &self.form {
                WindowForm::Count { .. } | WindowForm::Global => {
                    self.open.insert(id);
                }
                WindowForm::Session { .. } => {
                    self.ends.entry(session.end).or_default().insert(key.into());
                }
                WindowForm::Fixed(_) => {
                    let new = || Slice { end: session.end, slots: Vec::new() };
                    let key = self.numbers.as_mut().map_or(0, |numbers| numbers.add(key));
                    self.slices.entry(slice).or_insert_with(new).slots.push(Numbers { slot: id, key });
                    if let (Some(before), WindowForm::Fixed(windows)) = (&slot.before, &self.form) {
                        let first_end = windows.ends((slice, session.end)).next();
                        self.touched.add(id, before.since_ns, first_end);
                    }
                }
            }
        }
    }

    /// Takes the rows of a batch into their panes. Windows that end at `closed_ns` or before are gone.
    fn batch(&mut self, rows: &Rows, closed_ns: Option<i64>, out: &mut StepOutput) {
        let mut failed: BTreeMap<usize, RowError> = BTreeMap::new();
        let arguments = self.calls.arguments(rows, &mut failed);
        let keys = self.keys.encode(rows);
        let mut late: Vec<u32> = Vec::new();
        let mut new = NewRow {
            words: vec![0; self.calls.row_words()],
            extras: Vec::new(),
            arrival: 0,
            leaf: vec![0; self.calls.words],
        };
        // Rows mostly come one after the other: the slice of the last is that of the next.
        let mut slice = (0, 0);
        for row in 0..rows.num_rows() {
            if failed.contains_key(&row) {
                continue;
            }
            // The plan refuses inputs without event time, and the source makes a null one an error row.
            let time_ns = rows.event_ns.as_ref().map_or(0, |times| times.get(row));
            let holds = match &self.form {
                // As for the row before.
                WindowForm::Fixed(_) if slice.0 <= time_ns && time_ns < slice.1 => true,
                WindowForm::Fixed(windows) => windows.hold(time_ns),
                WindowForm::Session { gap_ns } => time_ns.checked_add(*gap_ns).is_some_and(|end| end < i64::MAX),
                WindowForm::Count { .. } | WindowForm::Global => true,
            };
            if !holds {
                let reason =
                    "the window of this event time reaches beyond the years from 1677 to 2262 that times can be of";
                failed.insert(row, RowError::new("event_time", reason));
                continue;
            }
            let key = keys.get(row);
            // The memory is asked for the slot of a later row; it is likely of the same slice.
            if row + AHEAD < rows.num_rows() {
                self.store.prefetch(keys.get(row + AHEAD), slice.0);
            }
            let too_late = match &self.form {
                WindowForm::Fixed(windows) => {
                    if !(slice.0 <= time_ns && time_ns < slice.1) {
                        slice = windows.slice_of(time_ns);
                    }
                    let last_end = windows.last_end(slice);
                    // With gaps between windows, a row may be in none: it is of no use, and not late.
                    if windows.ends(slice).next().is_none() {
                        out.dropped += 1;
                        continue;
                    }
                    closed_ns.is_some_and(|closed_ns| last_end <= closed_ns)
                }
                WindowForm::Session { gap_ns } => {
                    let end = time_ns.saturating_add(*gap_ns);
                    let open = || {
                        let slot = self.store.find(key, 0).and_then(|id| self.store.get(id));
                        slot.is_some_and(|slot| !touched(&slot.sessions, time_ns, end).is_empty())
                    };
                    closed_ns.is_some_and(|closed_ns| end <= closed_ns) && !open()
                }
                // Rows are taken as they come, of whatever time.
                WindowForm::Count { .. } | WindowForm::Global => false,
            };
            if too_late {
                late.push(row as u32);
                continue;
            }
            new.words.fill(0);
            new.extras.clear();
            new.arrival = self.arrivals;
            self.arrivals += 1;
            self.calls.keep(&arguments, row, &mut new.words, &mut new.extras);
            match self.form {
                WindowForm::Fixed(_) => self.add_to_slice(slice, key, rows.ingest_ns.get(row), &mut new),
                WindowForm::Session { gap_ns } => self.add_to_session(time_ns, gap_ns, key, &mut new),
                WindowForm::Count { rows: full } => {
                    let taken = self.add_to_open(time_ns, key, &mut new);
                    if let Some(id) = taken.filter(|(_, taken)| *taken >= full).map(|(id, _)| id) {
                        self.fire_open(id, full_mark(&rows.position(row)));
                    }
                }
                WindowForm::Global => {
                    self.add_to_open(time_ns, key, &mut new);
                }
            }
        }
        self.late.give(rows, late, out);
        fail(&self.step, rows, failed.into_iter().collect(), out);
    }

    fn add_to_slice(&mut self, slice: (i64, i64), key: &[u8], ingest_ns: i64, row: &mut NewRow) {
        let words = self.calls.words;
        let mut new = false;
        let make = &mut || {
            new = true;
            let one = Session { start: slice.0, end: slice.1, pane: Pane::new(words) };
            Slot { sessions: smallvec![one], taken: 0, before: None }
        };
        let id = self.store.find_or_insert(key, slice.0, make);
        if new {
            let of_slice = self.slices.entry(slice.0).or_insert_with(|| Slice { end: slice.1, slots: Vec::new() });
            let key = self.numbers.as_mut().map_or(0, |numbers| numbers.add(key));
            of_slice.slots.push(Numbers { slot: id, key });
        }
        let first = match &self.form {
            WindowForm::Fixed(windows) if self.when != When::OnClose => windows.ends(slice).next(),
            _ => None,
        };
        // What has been put out of windows is corrected: early, of all of them.
        let touches = first.is_some_and(|first| match self.when {
            When::OnClose => false,
            When::AtEnd => self.before_ns.is_some_and(|before_ns| first <= before_ns),
            When::Early { .. } => true,
        });
        let Some(slot) = self.store.get_mut(id) else { return };
        let Some(session) = slot.sessions.first_mut() else { return };
        if touches && slot.before.is_none() {
            let pane = (!new).then(|| session.pane.clone());
            // Before anything was stated there is no clock but the row's.
            let since_ns = if self.clock_ns == i64::MIN { ingest_ns } else { self.clock_ns };
            slot.before = Some(Box::new(Before { since_ns, pane }));
            self.touched.add(id, since_ns, first);
        }
        session.pane.add(row, &self.calls);
    }

    /// Lets what was put out of windows be taken back, and what they are now come instead, where rows came after their end.
    ///
    /// Windows that end at `closed_ns` or before are corrected no longer.
    fn correct(&mut self, closed_ns: Option<i64>) {
        let WindowForm::Fixed(windows) = self.form.clone() else { return };
        let before_ns = match self.when {
            When::Early { .. } => i64::MAX,
            _ => self.before_ns.unwrap_or(i64::MIN),
        };
        let mut corrected: BTreeSet<(i64, Box<[u8]>)> = BTreeSet::new();
        for id in &self.touched.slots {
            let Some(slot) = self.store.get(*id).and_then(|slot| slot.sessions.first()) else { continue };
            let key = self.store.key(*id).unwrap_or_default();
            let open = |end: &i64| *end <= before_ns && closed_ns.is_none_or(|closed_ns| *end > closed_ns);
            let ends = windows.ends((slot.start, slot.end)).filter(open);
            corrected.extend(ends.map(|end| (end, Box::from(key))));
        }
        for (end, key) in corrected {
            let of_window = self
                .slices
                .range(windows.slices_from(end)..end)
                .filter(|(start, slice)| windows.ends((**start, slice.end)).any(|of_slice| of_slice == end));
            let starts: Vec<i64> = of_window.map(|(start, _)| *start).collect();
            let Some(first) = starts.first() else { continue };
            let start = windows.start_of(end, *first);
            let (mut was, mut is): (Option<Pane>, Option<Pane>) = (None, None);
            for slot in starts.iter().filter_map(|start| self.store.find(&key, *start)) {
                let Some(slot) = self.store.get(slot) else { continue };
                let now = slot.sessions.first().map(|session| &session.pane);
                let before = slot.before.as_ref().map_or(now, |before| before.pane.as_ref());
                for (whole, part) in [(&mut was, before), (&mut is, now)] {
                    match (whole, part) {
                        (Some(whole), Some(part)) => whole.join(part, &self.calls),
                        (whole, Some(part)) => *whole = Some(part.clone()),
                        (_, None) => {}
                    }
                }
            }
            for (pane, removes) in [(was, true), (is, false)] {
                if let Some(pane) = pane {
                    let key = SmallVec::from_slice(&key);
                    self.fired.push_back(Fired { key, start, end, pane, mark: Box::default(), removes });
                }
            }
        }
        for id in std::mem::take(&mut self.touched).slots {
            if let Some(slot) = self.store.get_mut(id) {
                slot.before = None;
            }
        }
    }

    /// Frees the slices whose last window ends at `closed_ns` or before.
    fn free(&mut self, closed_ns: i64) {
        let WindowForm::Fixed(windows) = &self.form else { return };
        let done = |(start, slice): &(&i64, &Slice)| windows.last_end((**start, slice.end)) <= closed_ns;
        let starts: Vec<i64> = self.slices.range(..closed_ns).take_while(done).map(|(start, _)| *start).collect();
        starts.into_iter().for_each(|start| self.free_slice(start));
    }

    fn free_slice(&mut self, start: i64) {
        let Some(slice) = self.slices.remove(&start) else { return };
        match self.freed.is_empty() {
            true => self.freed = slice.slots,
            false => self.freed.extend(slice.slots),
        }
    }

    /// Frees a portion of the panes that are done with.
    fn free_panes(&mut self) {
        let first = self.freed.len().saturating_sub(FREE_PANES);
        for at in first..self.freed.len() {
            if let Some(ahead) = self.freed.get(at + AHEAD) {
                self.store.prefetch_slot(ahead.slot);
                if let Some(numbers) = &self.numbers {
                    numbers.prefetch(ahead.key);
                }
            }
            self.store.remove(self.freed[at].slot);
            if let Some(numbers) = &mut self.numbers {
                numbers.remove(self.freed[at].key);
            }
        }
        self.freed.truncate(first);
        if first == 0 {
            self.freed = Vec::new();
        }
    }

    /// Adds a row to the one window of its key. Gives how many rows it has.
    fn add_to_open(&mut self, time_ns: i64, key: &[u8], row: &mut NewRow) -> Option<(SlotId, u64)> {
        let words = self.calls.words;
        let end = time_ns.saturating_add(1);
        let mut new = false;
        let make = &mut || {
            new = true;
            Slot {
                sessions: smallvec![Session { start: time_ns, end, pane: Pane::new(words) }],
                taken: 0,
                before: None,
            }
        };
        let id = self.store.find_or_insert(key, 0, make);
        if new {
            self.open.insert(id);
        }
        let slot = self.store.get_mut(id)?;
        slot.taken += 1;
        let window = slot.sessions.first_mut()?;
        window.start = window.start.min(time_ns);
        window.end = window.end.max(end);
        window.pane.add(row, &self.calls);
        Some((id, slot.taken))
    }

    /// Lets the one window of a key go out.
    fn fire_open(&mut self, id: SlotId, mark: Box<[u8]>) {
        self.open.remove(&id);
        let key = SmallVec::from_slice(self.store.key(id).unwrap_or_default());
        let window = self.store.get_mut(id).and_then(|slot| slot.sessions.pop());
        self.store.remove(id);
        if let Some(Session { start, end, pane }) = window {
            self.fired.push_back(Fired { key, start, end, pane, mark, removes: false });
        }
    }

    fn add_to_session(&mut self, time_ns: i64, gap_ns: i64, key: &[u8], row: &mut NewRow) {
        let id = self.store.find_or_insert(key, 0, &mut Slot::default);
        let Some(slot) = self.store.get_mut(id) else { return };
        let (start, end) = (time_ns, time_ns.saturating_add(gap_ns));
        let range = touched(&slot.sessions, start, end);
        let mut joined = slot.sessions.drain(range.clone());
        let mut session = joined.next().unwrap_or_else(|| Session { start, end, pane: Pane::new(self.calls.words) });
        for later in joined {
            session.pane.join(&later.pane, &self.calls);
            session.end = session.end.max(later.end);
        }
        session.start = session.start.min(start);
        session.end = session.end.max(end);
        session.pane.add(row, &self.calls);
        self.ends.entry(session.end).or_default().insert(key.into());
        slot.sessions.insert(range.start, session);
    }

    /// Finds the windows that end after `before_ns` and at `closed_ns` or before.
    fn close_windows(&mut self, before_ns: Option<i64>, closed_ns: i64) {
        match self.form {
            WindowForm::Fixed(_) => self.closing = Some((before_ns, closed_ns)),
            WindowForm::Session { .. } => self.close_sessions(closed_ns),
            // Only the end of the input closes them.
            WindowForm::Count { .. } | WindowForm::Global if closed_ns == i64::MAX => self.close_open(),
            WindowForm::Count { .. } | WindowForm::Global => {}
        }
    }

    fn close_open(&mut self) {
        let mut ids: Vec<SlotId> = self.open.iter().copied().collect();
        ids.sort_unstable_by(|a, b| self.store.key(*a).cmp(&self.store.key(*b)));
        ids.into_iter().for_each(|id| self.fire_open(id, Box::from([REST])));
    }

    /// The next of the windows that close now. They are looked for one by one: there may be as many as there is time between
    /// two watermarks.
    fn next_due(&mut self) -> bool {
        let (WindowForm::Fixed(windows), Some((after_ns, closed_ns))) = (&self.form, self.closing) else {
            return false;
        };
        let from = after_ns.map_or(i64::MIN, |after_ns| windows.slices_from(after_ns));
        let slices = self.slices.range(from..closed_ns).map(|(start, slice)| (*start, slice.end));
        let Some((start, end)) = windows.next(after_ns, slices).filter(|(_, end)| *end <= closed_ns) else {
            self.closing = None;
            return false;
        };
        self.closing = Some((Some(end), closed_ns));
        let slices = self.slices.range(start..end);
        let (slots, counts) = match &self.numbers {
            Some(numbers) if slices.clone().nth(1).is_some() => {
                numbers.by_key(slices.map(|(_, slice)| slice.slots.as_slice()))
            }
            _ => (slices.flat_map(|(_, slice)| &slice.slots).map(|pane| pane.slot).collect(), Vec::new()),
        };
        self.due = Some(Due { start, end, slots, counts, done: (0, 0) });
        true
    }

    /// Frees the slices of which a window was the last. Those that may be corrected are freed when they can't be any more.
    fn free_window(&mut self, start: i64, end: i64) {
        let WindowForm::Fixed(windows) = &self.form else { return };
        let last = |(start, slice): &(&i64, &Slice)| windows.last_end((**start, slice.end)) == end;
        let freed: Vec<i64> = self.slices.range(start..end).take_while(last).map(|(start, _)| *start).collect();
        freed.into_iter().for_each(|start| self.free_slice(start));
    }

    fn close_sessions(&mut self, closed_ns: i64) {
        let later = closed_ns.checked_add(1).map_or_else(BTreeMap::new, |bound| self.ends.split_off(&bound));
        let reached = std::mem::replace(&mut self.ends, later);
        for (end, keys) in reached {
            for key in keys {
                let Some(id) = self.store.find(&key, 0) else { continue };
                let Some(slot) = self.store.get_mut(id) else { continue };
                let Some(at) = slot.sessions.iter().position(|session| session.end == end) else { continue };
                let Session { start, end, pane } = slot.sessions.remove(at);
                if slot.sessions.is_empty() {
                    self.store.remove(id);
                }
                self.fired.push_back(Fired {
                    key: SmallVec::from_slice(&key),
                    start,
                    end,
                    pane,
                    mark: Box::default(),
                    removes: false,
                });
            }
        }
    }

    /// Puts the panes of due windows together, up to a portion.
    fn gather(&mut self) {
        while self.fired.len() < FIRE_ROWS && (self.due.is_some() || self.next_due()) {
            let Some(due) = &mut self.due else { return };
            while self.fired.len() < FIRE_ROWS && due.done.1 < due.slots.len() {
                let (key_at, first) = due.done;
                let count = due.counts.get(key_at).map_or(1, |count| *count as usize);
                due.done = (key_at + 1, first + count);
                let ahead = due.slots.iter().skip(first + AHEAD).take(count);
                ahead.for_each(|id| self.store.prefetch_slot(*id));
                let of_key = &due.slots[first..first + count];
                let key = SmallVec::from_slice(self.store.key(of_key[0]).unwrap_or_default());
                let mut of_key =
                    of_key.iter().filter_map(|id| self.store.get(*id)).filter_map(|slot| slot.sessions.first());
                let Some(mut pane) = of_key.next().map(|session| session.pane.clone()) else { continue };
                of_key.for_each(|session| pane.join(&session.pane, &self.calls));
                let (start, end) = (due.start, due.end);
                self.fired.push_back(Fired { key, start, end, pane, mark: Box::default(), removes: false });
            }
            if due.done.1 < due.slots.len() {
                return;
            }
            if let Some(Due { start, end, .. }) = self.due.take()
                && self.when == When::OnClose
            {
                self.free_window(start, end);
            }
        }
    }

    /// Puts out a portion of what has fired.
    fn put_out(&mut self, out: &mut StepOutput) {
        let count = self.fired.len().min(FIRE_ROWS);
        if count == 0 {
            return;
        }
        let fired: Vec<Fired> = self.fired.drain(..count).collect();
        let mut failed: BTreeMap<usize, RowError> = BTreeMap::new();
        let mut results: Vec<Results> = self.calls.calls.iter().map(|call| call.results(count)).collect();
        for (call, result) in self.calls.calls.iter().zip(&mut results) {
            for (row, window) in fired.iter().enumerate() {
                let finished = window.pane.finish(call, result);
                if let Err(error) = finished {
                    failed.insert(row, error);
                }
            }
        }
        let keys = self.keys.decode(fired.iter().map(|window| &*window.key));
        let time = |of: &dyn Fn(&Fired) -> i64| -> ArrayRef {
            Arc::new(TimestampNanosecondArray::from_iter_values(fired.iter().map(of)).with_timezone("UTC"))
        };
        let bounds = [time(&|window| window.start), time(&|window| window.end)];
        let mut columns: Vec<ArrayRef> = self.keys_wanted.iter().map(|at| keys[*at].clone()).collect();
        columns.extend(self.bounds_wanted.iter().map(|at| bounds[*at].clone()));
        let arrays: Vec<ArrayRef> =
            self.calls.calls.iter().zip(results).map(|(call, result)| call.array(result)).collect();
        // Rows may come late to windows that no watermark closes; what comes of them is not late.
        let least_ns = match self.form {
            WindowForm::Count { .. } | WindowForm::Global => self.before_ns.unwrap_or(i64::MIN),
            WindowForm::Fixed(_) | WindowForm::Session { .. } => i64::MIN,
        };
        let event_ns: Vec<i64> = fired.iter().map(|window| window.end.saturating_sub(1).max(least_ns)).collect();
        // A window that is corrected comes several times: its epoch tells which it is, and what goes stands before what comes.
        let epoch = (self.when != When::OnClose).then_some(self.epoch);
        let offset = |window: &Fired| epoch.unwrap_or(window.end as u64 ^ 1 << 63);
        let mut suffixes = BinaryBuilder::with_capacity(count, count * 24);
        let mut suffix = Vec::new();
        for window in &fired {
            suffix.clear();
            suffix.extend(epoch.map(|_| u8::from(!window.removes)));
            append_suffix(window, &mut suffix);
            suffixes.append_value(&suffix);
        }
        let removes = fired.iter().any(|window| window.removes);
        let facts = Rows {
            batch: assemble(&Arc::new(Schema::empty()), Vec::new(), count),
            positions: Positions::Mixed {
                origins: vec![made_by(self.step_id); count].into(),
                // In the order of their ends, also of those before 1970.
                offsets: fired.iter().map(offset).collect::<Vec<u64>>().into(),
                suffixes: Some(suffixes.finish()),
            },
            ingest_ns: Times::One(self.clock_ns),
            born_ns: Times::One(self.clock_ns),
            event_ns: Some(Times::Each(event_ns.into())),
            removes: removes.then(|| fired.iter().map(|window| window.removes).collect()),
        };
        for column in &mut self.columns {
            let inner = facts.with_batch(assemble(&column.schema, arrays[column.calls.clone()].to_vec(), count));
            let evaluated = evaluate(&mut column.program, &inner);
            failed.extend(evaluated.errors);
            columns.push(evaluated.array);
        }
        let mut rows = facts;
        if !self.gives_event_time {
            rows.event_ns = None;
        }
        if failed.is_empty() {
            out.give(0, rows.with_batch(assemble(&self.output, columns, count)));
            return;
        }
        let good: BooleanArray = (0..count).map(|row| Some(!failed.contains_key(&row))).collect();
        let whole = rows.with_batch(assemble_loose(&self.output, columns.clone(), count));
        fail(&self.step, &whole, failed.into_iter().collect(), out);
        give_sound(&rows, &self.output, columns, &good, out);
    }
}

/// The mark of windows that the end of the input closes; those that are full begin with another.
const REST: u8 = 0;

/// The mark of a window of a count: a row fills only one.
fn full_mark(by: &RowPosition) -> Box<[u8]> {
    let source = by.origin.to_be_bytes().into_iter().chain(by.offset.to_be_bytes());
    [REST + 1].into_iter().chain(source).chain(by.suffix.iter().copied()).collect()
}

/// What tells windows of one end apart: the key, the start for sessions of one key, and the mark for those of a count.
fn append_suffix(window: &Fired, suffix: &mut Vec<u8>) {
    suffix.extend_from_slice(&window.key);
    suffix.extend_from_slice(&(window.start as u64 ^ 1 << 63).to_be_bytes());
    suffix.extend_from_slice(&window.mark);
}

kept_by_key!(WindowStep, |step| step.keys.types());

impl EpochStep for WindowStep {
    fn state(&mut self) -> Option<&mut dyn StepState> {
        Some(self)
    }

    fn close(&mut self, moment: &Moment, inputs: Vec<Vec<Rows>>, out: &mut StepOutput) {
        self.clock_ns = moment.clock_ns;
        self.before_ns = moment.late_ns.first().copied().flatten();
        self.epoch = moment.epoch.0;
        let end_of = |watermark_ns: Option<i64>| {
            watermark_ns.map(|watermark_ns| match watermark_ns {
                // The input has ended: nothing is waited for.
                i64::MAX => i64::MAX,
                watermark_ns => watermark_ns.saturating_sub(self.lateness_ns),
            })
        };
        let before_ns = end_of(self.before_ns);
        let closed_ns = end_of(moment.watermark_ns.first().copied().flatten());
        for rows in inputs.iter().flatten() {
            self.batch(rows, before_ns, out);
        }
        let reached_ns = moment.watermark_ns.first().copied().flatten();
        match self.when {
            When::OnClose => {
                if let Some(closed_ns) = closed_ns.filter(|closed_ns| before_ns != Some(*closed_ns)) {
                    self.close_windows(before_ns, closed_ns);
                }
            }
            When::AtEnd => {
                self.correct(before_ns);
                if let Some(reached_ns) = reached_ns.filter(|reached_ns| self.before_ns != Some(*reached_ns)) {
                    self.close_windows(self.before_ns, reached_ns);
                }
                self.freeing = closed_ns;
            }
            When::Early { every_ns } => {
                let ticks = self.touched.since_ns.div_euclid(every_ns) < self.clock_ns.div_euclid(every_ns);
                if ticks || reached_ns.is_some_and(|reached_ns| self.touched.first_end_ns <= reached_ns) {
                    self.correct(before_ns);
                }
                self.freeing = closed_ns;
            }
        }
        self.waiting.set(!self.slices.is_empty() || !self.ends.is_empty());
    }

    fn resume(&mut self, out: &mut StepOutput) -> bool {
        self.gather();
        self.put_out(out);
        let more = !self.fired.is_empty() || self.due.is_some() || self.closing.is_some();
        if !more && let Some(closed_ns) = self.freeing.take() {
            self.free(closed_ns);
        }
        self.free_panes();
        self.store.settle();
        let more = more || !self.freed.is_empty();
        if !more {
            self.waiting.set(!self.slices.is_empty() || !self.ends.is_empty());
        }
        more
    }
}
