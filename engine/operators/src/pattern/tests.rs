//! Patterns against an obvious reference: each row of a key begins a walk over the rows after it, one by one and alone.

use super::plan::PatternPlan;
use super::step::PatternStep;
use crate::payload;
use crate::testing::{Given, with_step};
use arrow::array::{ArrayRef, Int64Array, RecordBatch, StringArray};
use arrow::datatypes::SchemaRef;
use engine_base::{Epoch, SourceId, StepId};
use engine_dataflow::StepState as _;
use engine_dataflow::rows::{RowPosition, made_by, origin};
use engine_dataflow::{EpochStep, Moment, Positions, Rows, StepOutput, Times};
use engine_state::Change;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

mod cases;

const SOURCE: &str = "
    schema: { id: int64, k: string | null, v: int64 | null, at: int64 }
    event_time: { column: at, unit: ns }";

#[derive(Clone, Debug)]
struct Row {
    id: i64,
    k: Option<String>,
    v: Option<i64>,
    at: i64,
}

/// Random numbers with a seed.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % bound
    }
}

/// The condition of an element, alone or with an earlier one.
#[derive(Clone, Copy, Debug)]
enum Condition {
    Less(i64),
    More(i64),
    Even,
    Any,
    Divides,
    Above(usize),
    Soon(usize),
    DividesBy(usize),
}

impl Condition {
    fn text(self) -> String {
        match self {
            Condition::Less(bound) => format!("v < {bound}"),
            Condition::More(bound) => format!("v > {bound}"),
            Condition::Even => "v % 2 = 0".to_owned(),
            Condition::Any => "true".to_owned(),
            Condition::Divides => "10 / v > 2".to_owned(),
            Condition::Above(e) => format!("v > e{e}.v"),
            Condition::Soon(e) => format!("id <= e{e}.id + 2"),
            Condition::DividesBy(e) => format!("10 / (v - e{e}.v) > 2"),
        }
    }

    fn earlier(self) -> Option<usize> {
        match self {
            Condition::Above(e) | Condition::Soon(e) | Condition::DividesBy(e) => Some(e),
            _ => None,
        }
    }

    /// `None` where it fails. `last` has the last row of each element.
    fn holds(self, row: &Row, last: &[Option<&Row>]) -> Option<bool> {
        let of = |e: usize| last[e].and_then(|row| row.v);
        let divides = |divisor: Option<i64>| match divisor {
            None => Some(false),
            Some(0) => None,
            Some(divisor) => Some(10 / divisor > 2),
        };
        match self {
            Condition::Less(bound) => Some(row.v.is_some_and(|v| v < bound)),
            Condition::More(bound) => Some(row.v.is_some_and(|v| v > bound)),
            Condition::Even => Some(row.v.is_some_and(|v| v % 2 == 0)),
            Condition::Any => Some(true),
            Condition::Divides => divides(row.v),
            Condition::Above(e) => Some(row.v.zip(of(e)).is_some_and(|(v, earlier)| v > earlier)),
            Condition::Soon(e) => Some(last[e].is_some_and(|earlier| row.id <= earlier.id + 2)),
            Condition::DividesBy(e) => divides(row.v.zip(of(e)).map(|(v, earlier)| v - earlier)),
        }
    }
}

#[derive(Clone, Debug)]
struct Element {
    condition: Condition,
    min: usize,
    max: usize,
    optional: bool,
    absent: bool,
}

const MANY: usize = 1_000_000;

#[derive(Clone, Debug)]
struct Form {
    elements: Vec<Element>,
    within: i64,
    overlap: bool,
}

impl Form {
    fn random(random: &mut Random) -> Form {
        let mut elements: Vec<Element> = Vec::new();
        let reads = random.below(2) == 0;
        for at in 0..1 + random.below(4) {
            let absent = at > 0 && random.below(4) == 0;
            let optional = !absent && random.below(4) == 0;
            let (min, max) = match random.below(6) {
                _ if absent => (1, 1),
                0 if !optional => (2, 2),
                1 if !optional => (2, MANY),
                2 => (1, 2 + random.below(2) as usize),
                3 => (1, MANY),
                _ => (1, 1),
            };
            let earlier: Vec<usize> = (0..elements.len()).filter(|at| !elements[*at].absent).collect();
            let one = earlier.get(random.below(4) as usize).copied().filter(|_| reads);
            let condition = match (random.below(6), one) {
                (0 | 1, Some(e)) => Condition::Above(e),
                (2, Some(e)) => Condition::Soon(e),
                (3, Some(e)) => Condition::DividesBy(e),
                (0, _) => Condition::Even,
                (1, _) => Condition::Divides,
                (2 | 3, _) => Condition::Less(1 + random.below(5) as i64),
                (4, _) if random.below(2) == 0 => Condition::Any,
                _ => Condition::More(random.below(6) as i64),
            };
            elements.push(Element { condition, min, max, optional, absent });
        }
        if elements.iter().all(|element| element.absent || element.optional) {
            elements[0].optional = false;
        }
        Form { elements, within: 1 + random.below(25) as i64, overlap: random.below(3) == 0 }
    }

    fn yaml(&self) -> String {
        let mut text = format!(
            "f:\n  type: pattern\n  input: rows\n  key: k\n  within: {}ns\n  overlap: {}\n  sequence:\n",
            self.within, self.overlap
        );
        for (at, element) in self.elements.iter().enumerate() {
            text += &format!("    - e{at}:\n        where: {}\n", element.condition.text());
            match (element.min, element.max) {
                _ if element.absent => text += "        absent: true\n",
                (1, 1) => {}
                (min, MANY) => text += &format!("        repeat: {min}..\n"),
                (min, max) if min == max => text += &format!("        repeat: {min}\n"),
                (min, max) => text += &format!("        repeat: {min}..{max}\n"),
            }
            if element.optional {
                text += "        optional: true\n";
            }
        }
        text += "  columns:\n    all: array_agg(id)\n    n: count(*)\n    low: min(v) FILTER (WHERE v > 2)\n    odd: 100 / (count(*) - 5)\n";
        for (at, element) in self.elements.iter().enumerate().filter(|(_, element)| !element.absent) {
            text += &format!("    n{at}: count(e{at})\n    ids{at}: array_agg(e{at}.id)\n");
            text += &format!(
                "    sum{at}: sum(e{at}.v) - 0\n    first{at}: first(e{at}.v)\n    last{at}: last(e{at}.id + 1)\n"
            );
            if element.max == 1 {
                text += &format!("    own{at}: e{at}.id\n");
            }
        }
        text
    }
}

/// The rows of an epoch, and the watermark at its close.
type Epochs = Vec<(Vec<Row>, Option<i64>)>;

/// Rows in some disorder, with late ones, rows of one time, null keys and skew.
fn epochs(random: &mut Random) -> Epochs {
    let mut epochs = Vec::new();
    let (mut now, mut id, mut watermark) = (random.below(100) as i64 - 50, 0, None);
    for _ in 0..random.below(12) {
        let mut rows = Vec::new();
        for _ in 0..random.below(12) {
            now += random.below(4) as i64;
            let at = now - if random.below(10) == 0 { random.below(40) } else { random.below(6) } as i64;
            let k = match random.below(8) {
                0 => None,
                1..6 => Some("hot".to_owned()),
                k => Some(format!("k{k}")),
            };
            let v = (random.below(8) > 0).then(|| random.below(7) as i64);
            rows.push(Row { id, k, v, at });
            id += 1;
        }
        if random.below(3) > 0 {
            watermark = watermark.max(Some(now - random.below(12) as i64));
        }
        epochs.push((rows, watermark));
    }
    epochs.push((Vec::new(), Some(i64::MAX)));
    epochs
}

/// What comes out in an epoch: matches, late rows, and what failed.
#[derive(Clone, Debug, Default, PartialEq)]
struct Out {
    matches: Vec<String>,
    late: Vec<i64>,
    errors: BTreeSet<(i64, String)>,
}

/// A walk from a row: what it takes, when its match is put out if there is one, and the rows for which a condition failed.
struct Walk {
    taken: Vec<(usize, usize)>,
    /// The time; of one time before those that wait for it; the row that ends it, or the first.
    out: Option<(i64, bool, usize)>,
    failed: Vec<usize>,
}

/// From where a walk stands, the elements that may come next, up to the first that must.
fn reach(elements: &[Element], from: usize) -> Vec<usize> {
    let mut reach = Vec::new();
    for (at, element) in elements.iter().enumerate().skip(from) {
        reach.push(at);
        if !element.absent && !element.optional {
            break;
        }
    }
    reach
}

fn walk(form: &Form, rows: &[Row], start: usize) -> Walk {
    let elements = &form.elements;
    let mut walk = Walk { taken: Vec::new(), out: None, failed: Vec::new() };
    let end = rows[start].at + form.within;
    let mut last: Vec<Option<&Row>> = vec![None; elements.len()];
    for at in start..rows.len() {
        if rows[at].at > end {
            break;
        }
        let of_last = walk.taken.last().copied();
        let (element, count) = match of_last {
            None => (None, 0),
            Some((element, _)) => (Some(element), walk.taken.iter().filter(|(of, _)| *of == element).count()),
        };
        // A row of an absent element since closes what is behind it.
        let mut ahead = match element {
            None => reach(elements, 0),
            Some(element) if count >= elements[element].min => reach(elements, element + 1),
            Some(_) => Vec::new(),
        };
        if let Some((_, taken)) = of_last {
            let seen = |absent: &usize| {
                let holds = |row: &Row| elements[*absent].condition.holds(row, &last) == Some(true);
                elements[*absent].absent && rows[taken + 1..at].iter().any(holds)
            };
            let closed = ahead.iter().position(seen).unwrap_or(ahead.len());
            ahead.truncate(closed);
        }
        let again = element.filter(|element| count < elements[*element].max);
        let complete = element.is_some_and(|element| is_complete(form, rows, &walk, element, count, at, &last));
        if element.is_some() && again.is_none() && !complete && ahead.iter().all(|ahead| elements[*ahead].absent) {
            return walk;
        }
        if ahead.iter().chain(&again).any(|one| elements[*one].condition.holds(&rows[at], &last).is_none()) {
            walk.failed.push(at);
        }
        let takes =
            |one: &&usize| !elements[**one].absent && elements[**one].condition.holds(&rows[at], &last) == Some(true);
        let Some(one) = ahead.iter().rev().chain(&again).find(takes).copied() else {
            if at == start {
                return walk;
            }
            continue;
        };
        let count = if element == Some(one) { count + 1 } else { 1 };
        last[one] = Some(&rows[at]);
        walk.taken.push((one, at));
        if one == elements.len() - 1 && count == elements[one].max {
            walk.out = Some((rows[at].at, false, at));
            return walk;
        }
    }
    if let Some((element, _)) = walk.taken.last().copied() {
        let count = walk.taken.iter().filter(|(of, _)| *of == element).count();
        let until = rows.iter().position(|row| row.at > end).unwrap_or(rows.len());
        if is_complete(form, rows, &walk, element, count, until, &last) {
            walk.out = Some((end, true, start));
        }
    }
    walk
}

/// Whether all that must come has come, and nothing that must not, in the rows before one.
fn is_complete(
    form: &Form,
    rows: &[Row],
    walk: &Walk,
    element: usize,
    count: usize,
    until: usize,
    last: &[Option<&Row>],
) -> bool {
    let rest = &form.elements[element + 1..];
    let since = &rows[walk.taken[walk.taken.len() - 1].1 + 1..until];
    let came = |absent: &Element| since.iter().any(|row| absent.condition.holds(row, last) == Some(true));
    count >= form.elements[element].min
        && rest.iter().all(|one| one.absent || one.optional)
        && !rest.iter().any(|one| one.absent && came(one))
}

fn shown(form: &Form, key: &Option<String>, rows: &[Row], walk: &Walk, event: i64) -> Result<String, ()> {
    let of = |element: Option<usize>| -> Vec<&Row> {
        let taken = walk.taken.iter().filter(|(of, _)| element.is_none_or(|element| *of == element));
        taken.map(|(_, at)| &rows[*at]).collect()
    };
    let ids = |rows: &[&Row]| match rows {
        [] => Value::Null,
        rows => json!(rows.iter().map(|row| row.id).collect::<Vec<_>>()),
    };
    let all = of(None);
    let mut line = json!({ "k": key, "all": ids(&all), "n": all.len(), "@": event });
    line["low"] = json!(all.iter().filter_map(|row| row.v).filter(|v| *v > 2).min());
    line["odd"] = json!(100i64.checked_div(all.len() as i64 - 5).ok_or(())?);
    for (at, element) in form.elements.iter().enumerate().filter(|(_, element)| !element.absent) {
        let rows = of(Some(at));
        line[format!("n{at}")] = json!(rows.len());
        line[format!("ids{at}")] = ids(&rows);
        let values: Vec<i64> = rows.iter().filter_map(|row| row.v).collect();
        line[format!("sum{at}")] = json!((!values.is_empty()).then(|| values.iter().sum::<i64>()));
        line[format!("first{at}")] = json!(rows.first().and_then(|row| row.v));
        line[format!("last{at}")] = json!(rows.last().map(|row| row.id + 1));
        if element.max == 1 {
            line[format!("own{at}")] = json!(rows.first().map(|row| row.id));
        }
    }
    Ok(line.to_string())
}

fn reference(form: &Form, epochs: &Epochs) -> Vec<Out> {
    let mut all: Vec<Out> = vec![Out::default(); epochs.len()];
    let mut of_keys: BTreeMap<Option<String>, Vec<Row>> = BTreeMap::new();
    let mut before: Option<i64> = None;
    for (epoch, (rows, watermark)) in epochs.iter().enumerate() {
        for row in rows {
            let alone = form.elements.iter().filter(|element| element.condition.earlier().is_none());
            let fails = alone.map(|element| element.condition.holds(row, &[])).any(|holds| holds.is_none());
            if before.is_some_and(|before| row.at < before) {
                all[epoch].late.push(row.id);
            } else if fails {
                all[epoch].errors.insert((row.id, "divide_by_zero".to_owned()));
            } else {
                of_keys.entry(row.k.clone()).or_default().push(row.clone());
            }
        }
        before = before.max(*watermark);
    }
    // The first epoch at whose close a time is over.
    let epoch_of = |time: i64| {
        let over = |(_, watermark): &(Vec<Row>, Option<i64>)| watermark.is_some_and(|watermark| watermark > time);
        epochs.iter().position(over).unwrap()
    };
    let mut matches: Vec<(usize, i64, i64, Result<String, ()>)> = Vec::new();
    for (key, mut rows) in of_keys {
        rows.sort_by_key(|row| (row.at, row.id));
        let walks: Vec<Walk> = (0..rows.len()).map(|start| walk(form, &rows, start)).collect();
        let mut order: Vec<usize> = (0..rows.len()).filter(|start| walks[*start].out.is_some()).collect();
        order.sort_by_key(|start| (walks[*start].out, *start));
        // The last row that a walk sees, where a match ends it.
        let mut ended: Vec<Option<usize>> = vec![None; rows.len()];
        for start in order {
            let (event, waits, row) = walks[start].out.unwrap();
            if ended[start].is_some() {
                continue;
            }
            let line = shown(form, &key, &rows, &walks[start], event);
            matches.push((epoch_of(event), event, rows[start].id, line));
            if !form.overlap {
                let (_, last) = walks[start].taken[walks[start].taken.len() - 1];
                let seen = if waits { rows.partition_point(|row| row.at <= event) - 1 } else { row };
                ended[..=last].iter_mut().filter(|ended| ended.is_none()).for_each(|ended| *ended = Some(seen));
            }
        }
        for (start, walk) in walks.iter().enumerate() {
            // Each row is asked whether it is a first one.
            let sees = |at: &&usize| **at == start || ended[start].is_none_or(|ended| **at <= ended);
            for at in walk.failed.iter().filter(sees) {
                all[epoch_of(rows[*at].at)].errors.insert((rows[*at].id, "divide_by_zero".to_owned()));
            }
        }
    }
    matches.sort_by_key(|(epoch, event, first, _)| (*epoch, *event, *first));
    for (epoch, _, _, line) in matches {
        match line {
            Ok(line) => all[epoch].matches.push(line),
            Err(()) => {
                all[epoch].errors.insert((-1, "divide_by_zero".to_owned()));
            }
        }
    }
    all
}

/// A step over epochs in batches, with a restart now and then.
fn run(form: &Form, epochs: &Epochs, batch: usize, restore: u64) -> Vec<Out> {
    // Something behind it reads the event time.
    let operators = format!("{}later: {{ type: map, input: f, set: {{ time: event_time() }} }}", form.yaml());
    let read: &[(&str, &[&str])] = &[("later", &[]), ("f.late", &["id"]), ("f.errors", &[])];
    let given = Given { source: SOURCE, operators: &operators, read, ..Given::default() };
    let (plan, problems) = given.plan();
    let plan = plan.unwrap_or_else(|| panic!("{problems}\n{operators}"));
    let schema = plan.sources().next().unwrap().outputs[0].stream.schema.clone();
    let mut step = step_of(&plan);
    let mut checkpoint: BTreeMap<Vec<u8>, Vec<u8>> = BTreeMap::new();
    let mut random = Random(restore);
    let (mut all, mut before) = (Vec::new(), None);
    let mut positions: BTreeSet<RowPosition> = BTreeSet::new();
    for (number, (rows, watermark)) in epochs.iter().enumerate() {
        if restore > 0 && random.below(2) == 0 {
            step.drain_changes(&mut |change| match change {
                Change::Put { key, state, .. } => {
                    checkpoint.insert(key.to_vec(), state.to_vec());
                }
                Change::Delete { key, .. } => {
                    checkpoint.remove(key);
                }
            });
            step = step_of(&plan);
            for (key, state) in &checkpoint {
                let cut = random.below(state.len() as u64) as usize;
                assert!(step.restore(key, 0, &state[..cut]).is_err());
                step.restore(key, 0, state).unwrap();
            }
        }
        let rows: Vec<&Row> = rows.iter().collect();
        let batches = rows.chunks(batch).map(|rows| rows_of(rows, &schema)).collect();
        let late_ns = vec![before];
        before = before.max(*watermark);
        let moment = Moment { epoch: Epoch(number as u64), late_ns, watermark_ns: vec![before], clock_ns: 0 };
        let mut step_out = StepOutput::new(2);
        step.close(&moment, vec![batches], &mut step_out);
        while step.resume(&mut step_out) {}
        let mut out = Out::default();
        for error in &step_out.errors {
            let payload: Value = serde_json::from_slice(&error.payload).unwrap();
            let of_row = error.position.origin == origin(SourceId(0), 0);
            let id = if of_row { payload["id"].as_i64().unwrap() } else { -1 };
            out.errors.insert((id, error.error.code.to_owned()));
        }
        let mut last = None;
        for rows in &step_out.ports[0] {
            for (row, line) in lines_of(rows).into_iter().enumerate() {
                let (position, event) = (rows.position(row), rows.event_ns.as_ref().unwrap().get(row));
                assert_eq!(position.origin, made_by(StepId(2)));
                assert!(last.as_ref().is_none_or(|last| *last < position), "matches come in canonical order");
                assert!(positions.insert(position.clone()), "{position:?} twice");
                assert!(moment.late_ns[0].is_none_or(|late_ns| event >= late_ns), "no match is late");
                last = Some(position);
                let mut line = line;
                line["@"] = json!(event);
                out.matches.push(line.to_string());
            }
        }
        let ids = step_out.ports[1].iter().flat_map(lines_of).map(|line| line["id"].as_i64().unwrap());
        out.late.extend(ids);
        assert_eq!(step_out.late, out.late.len() as u64);
        if let Some(watermark) = before {
            let recent = |row: &Row| watermark < i64::MAX && row.at >= watermark - form.within;
            let recent = epochs[..=number].iter().flat_map(|(rows, _)| rows).filter(|row| recent(row)).count();
            assert!(step.rows() <= recent, "{} rows are kept, and {recent} may be of use", step.rows());
        }
        all.push(out);
    }
    all
}

fn step_of(plan: &engine_plan::Plan) -> PatternStep {
    with_step(plan, "f", |planned, cx| {
        let planned: &PatternPlan = planned.downcast().unwrap();
        PatternStep::new(planned, cx, crate::testing::store()).unwrap()
    })
}

fn rows_of(rows: &[&Row], schema: &SchemaRef) -> Rows {
    let columns: Vec<ArrayRef> = vec![
        Arc::new(rows.iter().map(|row| row.id).collect::<Int64Array>()),
        Arc::new(rows.iter().map(|row| row.k.clone()).collect::<StringArray>()),
        Arc::new(rows.iter().map(|row| row.v).collect::<Int64Array>()),
        Arc::new(rows.iter().map(|row| row.at).collect::<Int64Array>()),
    ];
    Rows {
        batch: RecordBatch::try_new(schema.clone(), columns).unwrap(),
        positions: Positions::Offsets {
            origin: origin(SourceId(0), 0),
            offsets: rows.iter().map(|row| row.id as u64).collect::<Vec<_>>().into(),
        },
        ingest_ns: Times::One(0),
        born_ns: Times::One(0),
        event_ns: Some(Times::Each(rows.iter().map(|row| row.at).collect())),
        removes: None,
    }
}

fn lines_of(rows: &Rows) -> Vec<Value> {
    let numbers: Vec<usize> = (0..rows.num_rows()).collect();
    payload::json_rows(&rows.batch, &numbers).into_iter().map(|line| serde_json::from_slice(&line).unwrap()).collect()
}

/// Runs a case; how many matches, late rows and errors came of it.
fn check(seed: u64) -> [usize; 3] {
    let mut random = Random(seed);
    let form = Form::random(&mut random);
    let epochs = epochs(&mut random);
    let expected = reference(&form, &epochs);
    for (batch, restore) in [(100, 0), (1, seed + 1), (5, seed + 2)] {
        let got = run(&form, &epochs, batch, restore);
        for (at, (got, expected)) in got.iter().zip(&expected).enumerate() {
            let how = format!("batches of {batch}, restore {restore}");
            assert_eq!(got, expected, "seed {seed}, epoch {at}, {how}: {}\n{epochs:#?}", form.yaml());
        }
    }
    let count = |of: &dyn Fn(&Out) -> usize| expected.iter().map(of).sum();
    [count(&|out| out.matches.len()), count(&|out| out.late.len()), count(&|out| out.errors.len())]
}

#[test]
fn patterns_equal_an_obvious_reference() {
    let counts = (0..3000).map(check).fold([0; 3], |all, one| [0, 1, 2].map(|at| all[at] + one[at]));
    assert!(counts.iter().all(|count| *count > 1_000), "the cases say too little: {counts:?}");
}
