//! `pattern` at work on a worker: rows wait for the watermark, and walks go on with those that it has passed.

use super::kept::{Kept, place_of, rows_with};
use super::output::{Fired, Output};
use super::plan::PatternPlan;
use super::slot::{Facts, Match, Row, Rules, Slot};
use super::walk::Last;
use crate::RenderCx;
use crate::keyed::{Keys, LatePort, Waiting, kept_by_key};
use crate::render::{compile, evaluate, fail};
use arrow::array::{Array, ArrayRef, AsArray, UInt32Array};
use arrow::datatypes::{Schema, SchemaRef};
use engine_base::RowError;
use engine_dataflow::{EpochStep, Moment, Rows, StepOutput, StepState};
use engine_expr::Program;
use engine_plan::Planned;
use engine_state::{SlotId, SlotStore};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

/// How many matches are put out before others have their turn, and about how many rows they have together.
const FIRE_ROWS: usize = 8_192;

/// Makes the step of a planned `pattern` on a worker.
pub fn render(planned: &dyn Planned, cx: &RenderCx<'_>) -> Result<Box<dyn EpochStep>, String> {
    let plan: &PatternPlan = crate::planned(planned, "pattern")?;
    Ok(Box::new(PatternStep::new(plan, cx, cx.store())?))
}

/// The condition of an element.
struct Condition {
    program: Program,
    /// What it reads of other rows; none where it reads the row alone, as it comes.
    with: Option<With>,
}

/// What a condition reads of kept rows.
struct With {
    /// Places among the kept columns, of the row itself.
    row: Vec<usize>,
    /// Of the last row of an earlier element: its place in [`Last`], and the place among the kept columns.
    earlier: Vec<(usize, usize)>,
    schema: SchemaRef,
}

/// What needs to be known of a row: whether the conditions of some elements hold with these last rows.
struct Question {
    /// Its place in the round.
    row: usize,
    last: Last,
    earlier: Vec<Option<Arc<Facts>>>,
    elements: u64,
    holds: u64,
}

pub(super) struct PatternStep {
    step: Arc<str>,
    store: Box<dyn SlotStore<Slot>>,
    keys: Keys,
    rules: Rules,
    conditions: Vec<Condition>,
    /// The elements whose conditions read other rows.
    others: u64,
    kept: Kept,
    output: Output,
    late: LatePort,
    /// Keys by the time beyond which the watermark finds something to do.
    wake: BTreeSet<(i64, SlotId)>,
    fired: VecDeque<Fired>,
    clock_ns: i64,
    waiting: Waiting,
}

impl PatternStep {
    pub(super) fn new(
        plan: &PatternPlan,
        cx: &RenderCx<'_>,
        store: Box<dyn SlotStore<Slot>>,
    ) -> Result<PatternStep, String> {
        let input = cx.inputs.first().ok_or("a pattern without an input")?;
        let wanted = cx.wanted.first().ok_or("a pattern without an output")?;
        let mut names = Output::reads(plan, wanted);
        for element in plan.elements.iter().filter(|element| !element.earlier.is_empty()) {
            names.extend(element.condition.columns().iter().map(|name| plan.behind(name).1.to_owned()));
        }
        let kept = Kept::new(input, &names)?;
        let mut conditions = Vec::new();
        for (at, element) in plan.elements.iter().enumerate() {
            let condition = &element.condition;
            let salted = |schema: &SchemaRef| Ok::<_, String>(compile(condition, schema)?.with_salt(at as u64));
            if element.earlier.is_empty() {
                conditions.push(Condition { program: salted(input)?, with: None });
                continue;
            }
            let (mut row, mut earlier, mut fields) = (Vec::new(), Vec::new(), Vec::new());
            // Those of the row itself first.
            for of_row in [true, false] {
                for name in condition.columns() {
                    let (of, column) = plan.behind(name);
                    let place = kept.place(column)?;
                    match of.map(|of| plan.rules.shape.read.iter().position(|(known, _)| *known == of)) {
                        None if of_row => row.push(place),
                        Some(Some(read)) if !of_row => earlier.push((read, place)),
                        _ => continue,
                    }
                    fields.push(kept.named(|_| name.clone())[place].clone());
                }
            }
            let schema: SchemaRef = Arc::new(Schema::new(fields));
            conditions.push(Condition { program: salted(&schema)?, with: Some(With { row, earlier, schema }) });
        }
        let others = conditions.iter().enumerate().filter(|(_, condition)| condition.with.is_some());
        Ok(PatternStep {
            step: cx.step.clone(),
            store,
            keys: Keys::new(&plan.key, input)?,
            rules: plan.rules.clone(),
            others: others.fold(0, |others, (at, _)| others | 1 << at),
            conditions,
            output: Output::new(plan, cx, &kept)?,
            kept,
            late: LatePort::new(cx, 1)?,
            wake: BTreeSet::new(),
            fired: VecDeque::new(),
            clock_ns: 0,
            waiting: Waiting::new(cx),
        })
    }

    /// Takes up a slot that was put back.
    fn restored(&mut self, slot: SlotId, _key: &[u8], _slice: i64) {
        self.wake_when_due(slot);
    }

    /// How many rows are kept.
    #[cfg(test)]
    pub(super) fn rows(&self) -> usize {
        let slots = self.wake.iter().filter_map(|(_, slot)| self.store.get(*slot));
        assert_eq!(self.wake.len(), self.store.len(), "each key is looked at some day");
        slots.map(Slot::rows).sum()
    }

    /// Takes the rows of a batch in, to wait for the watermark.
    fn batch(&mut self, rows: &Rows, late_ns: Option<i64>, out: &mut StepOutput) {
        // The plan refuses inputs without event time, and the source makes a null one an error row.
        let time_ns = |rows: &Rows, row: usize| rows.event_ns.as_ref().map_or(0, |times| times.get(row));
        let is_late = |row: &u32| late_ns.is_some_and(|late_ns| time_ns(rows, *row as usize) < late_ns);
        let (late, good): (Vec<u32>, Vec<u32>) = (0..rows.num_rows() as u32).partition(is_late);
        let rows = match late.is_empty() {
            true => rows.clone(),
            false => {
                self.late.give(rows, late, out);
                rows.take(&UInt32Array::from(good))
            }
        };
        let count = rows.num_rows();
        if count == 0 {
            return;
        }
        let mut failed: BTreeMap<usize, RowError> = BTreeMap::new();
        let mut holds = vec![0u64; count];
        for (element, condition) in self.conditions.iter_mut().enumerate().filter(|(_, one)| one.with.is_none()) {
            let evaluated = evaluate(&mut condition.program, &rows);
            for (row, error) in evaluated.errors {
                failed.entry(row).or_insert(error);
            }
            let mask = evaluated.array.as_boolean();
            let values = mask.values();
            for (row, holds) in holds.iter_mut().enumerate() {
                *holds |= u64::from(values.value(row) && mask.is_valid(row)) << element;
            }
        }
        let keys = self.keys.encode(&rows);
        let values = self.kept.encode(&rows);
        let mut touched: BTreeSet<SlotId> = BTreeSet::new();
        for (row, holds) in holds.into_iter().enumerate() {
            if failed.contains_key(&row) || (holds == 0 && self.others == 0) {
                continue;
            }
            let facts = Facts {
                time_ns: time_ns(&rows, row),
                ingest_ns: rows.ingest_ns.get(row),
                place: place_of(&rows, row),
                values: values.as_ref().map_or_else(Box::default, |values| values.row(row).data().into()),
            };
            let slot = self.store.find_or_insert(keys.get(row), 0, &mut Slot::default);
            if let Some(slot) = self.store.get_mut(slot) {
                slot.add(Row { facts: Arc::new(facts), holds, with: Vec::new() });
            }
            touched.insert(slot);
        }
        touched.into_iter().for_each(|slot| self.wake_when_due(slot));
        fail(&self.step, &rows, failed.into_iter().collect(), out);
    }

    /// Sees to it that a key is looked at when it has something to do.
    fn wake_when_due(&mut self, id: SlotId) {
        let Some(slot) = self.store.get_mut(id) else { return };
        let due_ns = slot.due_ns(self.rules.within_ns);
        let before_ns = std::mem::replace(&mut slot.wake_ns, due_ns);
        if before_ns != due_ns {
            before_ns.into_iter().for_each(|wake_ns| {
                self.wake.remove(&(wake_ns, id));
            });
            due_ns.into_iter().for_each(|wake_ns| {
                self.wake.insert((wake_ns, id));
            });
        }
    }

    /// Goes on with the rows that the watermark has passed, and ends what is over.
    fn advance(&mut self, now_ns: i64, out: &mut StepOutput) {
        // Of the time of the watermark itself, more may come; at the end of the input nothing does.
        let passed = |time_ns: i64| time_ns < now_ns || now_ns == i64::MAX;
        let mut due: Vec<(SlotId, VecDeque<Row>, Vec<Match>)> = Vec::new();
        while let Some((wake_ns, id)) = self.wake.first().copied()
            && passed(wake_ns)
        {
            self.wake.pop_first();
            let Some(slot) = self.store.get_mut(id) else { continue };
            slot.wake_ns = None;
            due.push((id, slot.passed(passed), Vec::new()));
        }
        if self.others == 0 {
            for (id, rows, found) in &mut due {
                let Some(slot) = self.store.get_mut(*id) else { continue };
                for row in rows.drain(..) {
                    let time_ns = row.facts.time_ns;
                    slot.settle(&self.rules, |end_ns| end_ns < time_ns, found);
                    slot.take(&self.rules, row, found);
                }
            }
        } else {
            self.rounds(&mut due, out);
        }
        let mut fired: Vec<Fired> = Vec::new();
        for (id, _, mut found) in due {
            let Some(slot) = self.store.get_mut(id) else { continue };
            slot.settle(&self.rules, passed, &mut found);
            let is_empty = slot.is_empty();
            let key = self.store.key(id).unwrap_or_default();
            fired.extend(found.into_iter().map(|found| Fired { key: key.into(), found }));
            match is_empty {
                true => self.store.remove(id),
                false => self.wake_when_due(id),
            }
        }
        fired.sort_by(|a, b| a.order().cmp(&b.order()));
        self.fired = fired.into();
    }

    /// Where conditions read earlier rows, a row can't be judged before the one before it: round by round, each with a row of
    /// each key, so that the conditions of many keys are computed at once.
    fn rounds(&mut self, due: &mut [(SlotId, VecDeque<Row>, Vec<Match>)], out: &mut StepOutput) {
        let mut failed: Vec<(Arc<Facts>, RowError)> = Vec::new();
        loop {
            let next = |(at, (_, rows, _)): (usize, &mut (_, VecDeque<Row>, _))| Some((at, rows.pop_front()?));
            let mut round: Vec<(usize, Row)> = due.iter_mut().enumerate().filter_map(next).collect();
            if round.is_empty() {
                break;
            }
            let mut questions: Vec<Question> = Vec::new();
            for (place, (at, row)) in round.iter().enumerate() {
                let (id, _, found) = &mut due[*at];
                let Some(slot) = self.store.get_mut(*id) else { continue };
                slot.settle(&self.rules, |end_ns| end_ns < row.facts.time_ns, found);
                for (last, elements) in slot.questions(&self.rules.shape, self.others) {
                    let earlier = last.iter().map(|row| slot.facts(row.checked_sub(1)?).cloned()).collect();
                    questions.push(Question { row: place, last, earlier, elements, holds: 0 });
                }
            }
            let mut wrong: BTreeMap<usize, RowError> = BTreeMap::new();
            for (element, condition) in self.conditions.iter_mut().enumerate() {
                let Some(with) = &condition.with else { continue };
                let asked: Vec<usize> =
                    (0..questions.len()).filter(|at| questions[*at].elements & 1 << element != 0).collect();
                if asked.is_empty() {
                    continue;
                }
                let facts: Vec<&Facts> = asked.iter().map(|at| &*round[questions[*at].row].1.facts).collect();
                let of_row = if with.row.is_empty() {
                    Vec::new()
                } else {
                    self.kept.decode(facts.iter().map(|facts| Some(*facts)))
                };
                let mut columns: Vec<ArrayRef> = with.row.iter().map(|place| of_row[*place].clone()).collect();
                for (read, place) in &with.earlier {
                    let earlier = asked.iter().map(|at| questions[*at].earlier[*read].as_deref());
                    columns.push(self.kept.decode(earlier).swap_remove(*place));
                }
                let evaluated = evaluate(&mut condition.program, &rows_with(&facts, with.schema.clone(), columns));
                for (row, error) in evaluated.errors {
                    wrong.entry(questions[asked[row]].row).or_insert(error);
                }
                let mask = evaluated.array.as_boolean();
                for (row, at) in asked.into_iter().enumerate() {
                    questions[at].holds |= u64::from(mask.is_valid(row) && mask.value(row)) << element;
                }
            }
            for question in questions.into_iter().filter(|question| question.holds != 0) {
                round[question.row].1.with.push((question.last, question.holds));
            }
            failed.extend(wrong.into_iter().map(|(row, error)| (round[row].1.facts.clone(), error)));
            for (at, row) in round {
                let (id, _, found) = &mut due[at];
                if let Some(slot) = self.store.get_mut(*id) {
                    slot.take(&self.rules, row, found);
                }
            }
        }
        if failed.is_empty() {
            return;
        }
        failed.sort_by(|a, b| a.0.place.cmp(&b.0.place));
        let facts: Vec<&Facts> = failed.iter().map(|(facts, _)| &**facts).collect();
        let rows = self.kept.rows(&facts);
        fail(&self.step, &rows, failed.iter().map(|(_, error)| error.clone()).enumerate().collect(), out);
    }

    /// Puts out a portion of the matches.
    fn put_out(&mut self, out: &mut StepOutput) {
        let mut rows = 0;
        let mut portion: Vec<Fired> = Vec::new();
        while rows < FIRE_ROWS
            && let Some(fired) = self.fired.pop_front()
        {
            rows += fired.found.rows.len();
            portion.push(fired);
        }
        if !portion.is_empty() {
            self.output.give(&self.kept, &self.keys, &portion, self.clock_ns, out);
        }
    }
}

kept_by_key!(PatternStep, |step| step.keys.types());

impl EpochStep for PatternStep {
    fn state(&mut self) -> Option<&mut dyn StepState> {
        Some(self)
    }

    fn close(&mut self, moment: &Moment, inputs: Vec<Vec<Rows>>, out: &mut StepOutput) {
        self.clock_ns = moment.clock_ns;
        let late_ns = moment.late_ns.first().copied().flatten();
        for rows in inputs.iter().flatten() {
            self.batch(rows, late_ns, out);
        }
        if let Some(now_ns) = moment.watermark_ns.first().copied().flatten() {
            self.advance(now_ns, out);
        }
        self.waiting.set(!self.wake.is_empty());
    }

    fn resume(&mut self, out: &mut StepOutput) -> bool {
        self.put_out(out);
        self.store.settle();
        !self.fired.is_empty()
    }
}
