//! Regions on differential dataflow against what they are defined as, epoch by epoch, on one worker and on several.

use arrow::array::{ArrayRef, Int64Array, RecordBatch};
use engine_base::SystemClock;
use engine_dataflow::capture::{Captured, capture};
use engine_dataflow::changes::{Encode, Join, Region, RegionStep, Sides, region};
use engine_dataflow::operate::StepShared;
use engine_dataflow::snapshot::Participants;
use engine_dataflow::{Control, Positions, Rows, SourceNames, StepOutput, Times, Unmetered};
use std::collections::BTreeMap;
use std::sync::Arc;
use timely::container::NoopBuilder;
use timely::dataflow::channels::pact::Pipeline;
use timely::dataflow::operators::generic::OutputBuilder;
use timely::dataflow::operators::generic::builder_rc::OperatorBuilder;
use timely::dataflow::operators::vec::Input;
use timely::dataflow::{Stream, StreamVec};

/// A row: a key (none below zero), what it is ordered by, and something else.
type Row = (i64, i64, i64);
/// By epoch and input, rows and whether they are taken back.
type Updates = Vec<[Vec<(Row, bool)>; 2]>;
/// What is put out, with how often.
type Counts = BTreeMap<(Option<Row>, Option<Row>), isize>;

/// What a region does, for the reference and the dataflow.
#[derive(Clone, Copy, Debug)]
enum What {
    Distinct,
    Top(usize, bool),
    Join(Join),
}

fn bytes(row: &Row) -> Vec<u8> {
    [row.0, row.1, row.2].iter().flat_map(|value| value.to_be_bytes()).collect()
}

fn row_of(bytes: &[u8]) -> Row {
    let part = |at: usize| i64::from_be_bytes(bytes[at * 8..at * 8 + 8].try_into().unwrap());
    (part(0), part(1), part(2))
}

fn rows_of(rows: &[(Row, bool)]) -> Rows {
    let column =
        |of: fn(&Row) -> i64| Arc::new(rows.iter().map(|(row, _)| of(row)).collect::<Int64Array>()) as ArrayRef;
    Rows {
        batch: RecordBatch::try_from_iter([
            ("k", column(|row| row.0)),
            ("o", column(|row| row.1)),
            ("v", column(|row| row.2)),
        ])
        .unwrap(),
        positions: Positions::Range { origin: 0, first: 0 },
        ingest_ns: Times::One(0),
        born_ns: Times::One(0),
        event_ns: None,
        removes: Some(rows.iter().map(|(_, removes)| *removes).collect()),
    }
}

fn encode() -> Encode {
    Box::new(|rows, give, _| {
        let column = |at: usize| rows.batch.column(at).as_any().downcast_ref::<Int64Array>().unwrap().clone();
        let (keys, orders, values) = (column(0), column(1), column(2));
        for row in 0..rows.num_rows() {
            let key = (keys.value(row) >= 0).then(|| keys.value(row).to_be_bytes());
            let bytes = bytes(&(keys.value(row), orders.value(row), values.value(row)));
            give(row, key.as_ref().map(|key| &key[..]), &orders.value(row).to_be_bytes(), &bytes);
        }
    })
}

/// One-column batches: the number of the side pair in what was put out, so that a test can read it back.
fn to_rows<'scope>(batches: StreamVec<'scope, u64, Vec<(Row, bool)>>) -> Stream<'scope, u64, Rows> {
    let mut builder = OperatorBuilder::new("rows".to_owned(), batches.scope());
    let mut input = builder.new_input(batches, Pipeline);
    let (output, stream) = builder.new_output::<Rows>();
    let mut output = OutputBuilder::<_, NoopBuilder<Rows>>::from(output);
    builder.build(move |_| {
        move |_| {
            input.for_each(|cap, batches| {
                for batch in batches.drain(..) {
                    output.activate().session_with_builder(&cap).give_container(&mut rows_of(&batch));
                }
            });
        }
    });
    stream
}

fn run(what: What, updates: &Updates, workers: usize, portion: usize) -> BTreeMap<u64, Counts> {
    let captured = Arc::new(Captured::default());
    let put_out: Arc<std::sync::Mutex<Vec<(u64, Sides, isize)>>> = Arc::default();
    let shared = StepShared {
        clock: SystemClock::shared(),
        names: SourceNames::new(std::iter::empty()),
        control: Arc::new(Control::default()),
        room: None,
        snapshots: None,
    };
    let (updates, to, seen) = (updates.clone(), captured.clone(), put_out.clone());
    let guards = timely::execute(timely::Config::process(workers), move |worker| {
        let index = worker.index();
        let (mut inputs, probe) = worker.dataflow::<u64, _, _>(|scope| {
            let (left, left_rows) = scope.new_input::<Vec<(Row, bool)>>();
            let (right, right_rows) = scope.new_input::<Vec<(Row, bool)>>();
            let seen = seen.clone();
            let build = Box::new(move |epoch: u64, _: i64, changes: &[(Sides, isize)], _: &mut StepOutput| {
                assert!(changes.iter().is_sorted_by_key(|(_, count)| *count > 0), "what goes stands before what comes");
                let mut seen = seen.lock().unwrap();
                seen.extend(changes.iter().map(|(sides, count)| (epoch, sides.clone(), *count)));
            });
            let (of, both) = match what {
                What::Distinct => (Region::Distinct, false),
                What::Top(limit, ties) => (Region::Top { limit, ties }, false),
                What::Join(join) => (Region::Join(join), true),
            };
            let mut streams = vec![to_rows(left_rows)];
            let mut encoders = vec![encode()];
            if both {
                streams.push(to_rows(right_rows));
                encoders.push(encode());
            }
            let step = RegionStep { inputs: encoders, region: of, build };
            let built = region("r", streams, step, Arc::new(Unmetered), &shared, Vec::new(), &Participants::default());
            use timely::dataflow::operators::Probe;
            ([left, right], capture(built.changes, "out", to.clone()).probe().0)
        });
        for (epoch, sides) in updates.iter().enumerate() {
            for (input, rows) in inputs.iter_mut().zip(sides) {
                let mine = rows.iter().enumerate().filter(|(at, _)| at % worker.peers() == index);
                let mine: Vec<(Row, bool)> = mine.map(|(_, row)| *row).collect();
                for rows in mine.chunks(portion) {
                    input.send(rows.to_vec());
                }
                input.advance_to(epoch as u64 + 1);
            }
            if epoch % 3 == 0 {
                worker.step_while(|| probe.less_than(&(epoch as u64 + 1)));
            }
        }
    });
    drop(guards.unwrap());
    let mut all: BTreeMap<u64, Counts> = BTreeMap::new();
    for (epoch, sides, count) in put_out.lock().unwrap().drain(..) {
        let sides = (sides.0.as_deref().map(row_of), sides.1.as_deref().map(row_of));
        *all.entry(epoch).or_default().entry(sides).or_default() += count;
    }
    all
}

/// All of an output, as it is defined.
fn defined(what: What, inputs: &[BTreeMap<Row, isize>; 2]) -> Counts {
    let mut out = Counts::new();
    let rows = |at: usize| inputs[at].iter().filter(|(_, count)| **count > 0);
    match what {
        What::Distinct => {
            let keyed = rows(0).filter(|(row, _)| row.0 >= 0);
            out.extend(keyed.map(|(row, _)| ((Some(*row), None), 1)));
        }
        What::Top(limit, ties) => {
            let mut of_key: BTreeMap<i64, Vec<Row>> = BTreeMap::new();
            for (row, count) in rows(0).filter(|(row, _)| row.0 >= 0) {
                of_key.entry(row.0).or_default().extend(std::iter::repeat_n(*row, *count as usize));
            }
            for mut rows in of_key.into_values() {
                rows.sort_by_key(|row| (row.1, *row));
                for (at, row) in rows.iter().enumerate() {
                    if at < limit || ties && row.1 == rows[limit - 1].1 {
                        *out.entry((Some(*row), None)).or_default() += 1;
                    }
                }
            }
        }
        What::Join(join) => {
            let matches = |a: &Row, b: &Row| a.0 >= 0 && a.0 == b.0;
            for (left, n) in rows(0) {
                let found: Vec<_> = rows(1).filter(|(right, _)| matches(left, right)).collect();
                let alone = matches!(join, Join::Left | Join::Full | Join::Anti) && found.is_empty();
                if alone || join == Join::Semi && !found.is_empty() {
                    *out.entry((Some(*left), None)).or_default() += n;
                }
                if !matches!(join, Join::Semi | Join::Anti) {
                    found
                        .iter()
                        .for_each(|(right, m)| *out.entry((Some(*left), Some(**right))).or_default() += n * **m);
                }
            }
            if matches!(join, Join::Right | Join::Full) {
                for (right, n) in rows(1).filter(|(right, _)| !rows(0).any(|(left, _)| matches(left, right))) {
                    *out.entry((None, Some(*right))).or_default() += n;
                }
            }
        }
    }
    out
}

fn reference(what: What, updates: &Updates) -> BTreeMap<u64, Counts> {
    let mut inputs: [BTreeMap<Row, isize>; 2] = Default::default();
    let mut before = Counts::new();
    let mut all = BTreeMap::new();
    for (epoch, sides) in updates.iter().enumerate() {
        for (input, rows) in inputs.iter_mut().zip(sides) {
            for (row, removes) in rows {
                *input.entry(*row).or_default() += if *removes { -1 } else { 1 };
            }
        }
        let now = defined(what, &inputs);
        let mut changes = now.clone();
        before.iter().for_each(|(sides, count)| *changes.entry(*sides).or_default() -= count);
        changes.retain(|_, count| *count != 0);
        if !changes.is_empty() {
            all.insert(epoch as u64, changes);
        }
        before = now;
    }
    all
}

#[test]
fn what_changes_is_the_difference_of_what_is_defined() {
    let joins = [Join::Inner, Join::Left, Join::Right, Join::Full, Join::Semi, Join::Anti].map(What::Join);
    let mut all = vec![What::Distinct, What::Top(1, false), What::Top(3, false), What::Top(2, true)];
    all.extend(joins);
    let mut put_out = 0;
    for seed in 0..15u64 {
        let mut random = seed;
        let mut next = move |bound: u64| {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (random >> 33) % bound
        };
        let mut live: [Vec<Row>; 2] = Default::default();
        let mut updates = Updates::new();
        for _ in 0..1 + next(8) {
            let sides = live.each_mut().map(|live| {
                let mut rows = Vec::new();
                for _ in 0..next(12) {
                    if !live.is_empty() && next(3) == 0 {
                        rows.push((live.swap_remove(next(live.len() as u64) as usize), true));
                    } else {
                        let row = (next(4) as i64 - 1, next(5) as i64, next(2) as i64);
                        live.push(row);
                        rows.push((row, false));
                    }
                }
                rows
            });
            updates.push(sides);
        }
        for what in &all {
            let expected = reference(*what, &updates);
            put_out += expected.values().map(BTreeMap::len).sum::<usize>();
            for (workers, portion) in [(1, 100), (2, 1), (4, 3)] {
                assert_eq!(
                    run(*what, &updates, workers, portion),
                    expected,
                    "seed {seed} {what:?} {workers}: {updates:?}"
                );
            }
        }
    }
    assert!(put_out > 2_000, "{put_out}");
}
