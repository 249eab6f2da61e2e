//! Single cases that a person can follow: the ends of inputs, a silent side, null keys, late rows, rows that fail, many rows at
//! once, and when state goes.

use super::*;
use engine_dataflow::watermark::{InputTime, Standing, Statement, Timeline, watermarks_ns};
use std::sync::atomic::Ordering;

const ENDED: Option<i64> = Some(i64::MAX);

fn row(id: i64, k: impl Into<Option<i64>>, v: i64, at: i64) -> Row {
    Row { id, k: k.into(), v, at }
}

fn epoch(left: &[Row], right: &[Row], watermarks: [Option<i64>; 2]) -> EpochRows {
    EpochRows { rows: [left.to_vec(), right.to_vec()], watermarks }
}

const NEAR: Near = Near::Within { before: 10, after: 20 };
const SAME: Near = Near::Window { size: 10, every: 10, offset: 0 };
const HOPS: Near = Near::Window { size: 10, every: 5, offset: 0 };

fn case(kind: &'static str, near: Near, epochs: &[EpochRows]) -> Case {
    Case { kind, near, condition: false, epochs: epochs.to_vec() }
}

/// What comes out of each epoch, in every way to run it: rows as `left-right@time`, then what fails, is late or is dropped.
fn told(case: &Case) -> Vec<String> {
    let plain = Way { workers: 1, batch: 100, restore: false, sizes: (7, 8_192) };
    let outs = run(case, plain);
    for way in [Way { batch: 1, sizes: (7, 2), ..plain }, Way { batch: 2, restore: true, ..plain }] {
        assert_eq!(run(case, way), outs, "{way:?}");
    }
    let short = |row: &String| {
        let of = |name: &str| {
            let mut words = row.split(' ');
            let value = words.find_map(|word| word.strip_prefix(name)).unwrap();
            if value == "null" { "." } else { value }.to_owned()
        };
        format!("{}-{}@{}", of("l="), of("r="), of("t="))
    };
    let told = |out: &Out| {
        let mut parts = vec![out.rows.iter().map(short).collect::<Vec<_>>().join(" ")];
        parts.extend(out.errors.iter().map(|error| format!("{error} fails")));
        for (side, name) in [(LEFT, "left"), (RIGHT, "right")] {
            parts.extend(out.late[side].iter().map(|id| format!("{name} {id} late")));
        }
        parts.extend((out.dropped > 0).then(|| format!("{} dropped", out.dropped)));
        parts.retain(|part| !part.is_empty());
        parts.join(", ")
    };
    outs.iter().map(told).collect()
}

/// For each kind of join, what comes out of each epoch; the reference agrees.
#[track_caller]
fn check_kinds(near: Near, condition: bool, epochs: &[EpochRows], expected: [&[&str]; 6]) {
    for (kind, expected) in KINDS.into_iter().zip(expected) {
        let case = Case { condition, ..case(kind, near, epochs) };
        assert_eq!(told(&case), expected, "{kind} {near:?}");
        let outs = run(&case, Way { workers: 2, batch: 100, restore: false, sizes: (7, 8_192) });
        assert_eq!(outs.iter().map(Out::sorted).collect::<Vec<_>>(), reference(&case), "{kind} {near:?}");
    }
}

/// When a side has ended, nothing of the other waits for it any more, and what still comes is not kept.
#[test]
fn the_end_of_a_side_decides_for_the_other() {
    let epochs = [
        epoch(&[row(1, 1, 0, 0), row(2, 2, 0, 0)], &[row(3, 3, 0, 0)], [ENDED, Some(0)]),
        epoch(&[], &[row(4, 1, 0, 20), row(5, 1, 0, 21), row(6, 4, 0, 5)], [ENDED, Some(21)]),
        epoch(&[], &[], [ENDED, ENDED]),
    ];
    check_kinds(
        NEAR,
        false,
        &epochs,
        [
            &["", "1-4@20", ""],
            &["", "1-4@20 2-.@0", ""],
            &[".-3@0", "1-4@20 .-6@5 .-5@21", ""],
            &[".-3@0", "1-4@20 2-.@0 .-6@5 .-5@21", ""],
            &["", "1-.@0", ""],
            &["", "2-.@0", ""],
        ],
    );
    let epochs = [
        epoch(&[row(1, 1, 0, 0)], &[row(2, 1, 0, 9), row(3, 1, 0, 10)], [ENDED, Some(9)]),
        epoch(&[], &[row(4, 1, 0, 9)], [ENDED, Some(10)]),
        epoch(&[], &[row(5, 1, 0, 12)], [ENDED, ENDED]),
    ];
    check_kinds(
        SAME,
        false,
        &epochs,
        [
            &["", "1-2@9 1-4@9", ""],
            &["", "1-2@9 1-4@9", ""],
            &["", "1-2@9 1-4@9", ".-3@19 .-5@19"],
            &["", "1-2@9 1-4@9", ".-3@19 .-5@19"],
            &["", "1-.@9", ""],
            &["", "", ""],
        ],
    );
}

/// What the workers agree on when a side is silent: the other goes on without it, and what has no match comes out.
#[test]
fn a_silent_side_does_not_hold_back_the_other() {
    let inputs = [0, 1].map(|source| InputTime { sources: vec![(source, 0)], max_delay_ns: 3 });
    let mut timeline = Timeline::new(2, 1);
    let mut reached = [None; 2];
    let mut after = |standings: [Standing; 2]| {
        for (source, standing) in standings.into_iter().enumerate() {
            timeline.hear(Statement { worker: 0, source: source as u16, standing, clock_ns: 0 });
        }
        for (reached, stated) in reached.iter_mut().zip(watermarks_ns(&timeline, &inputs)) {
            *reached = (*reached).max(stated);
        }
        reached
    };
    use Standing::{Active, Ended, Idle, Unknown};
    let watermarks = [
        after([Active(100), Unknown]),
        after([Active(100), Idle(None)]),
        after([Idle(Some(200)), Idle(None)]),
        after([Idle(Some(200)), Active(198)]),
        after([Ended, Ended]),
    ];
    assert_eq!(
        watermarks,
        [[Some(100), None], [Some(100), Some(97)], [Some(200), Some(197)], [Some(200), Some(198)], [ENDED, ENDED]]
    );
    let epochs = [
        epoch(&[row(1, 1, 0, 76), row(2, 1, 0, 77), row(3, 1, 0, 177)], &[], watermarks[0]),
        epoch(&[], &[], watermarks[1]),
        epoch(&[], &[], watermarks[2]),
        // Those of the silent side that come then are late by how far the other is, less its delay.
        epoch(&[], &[row(4, 1, 0, 196), row(5, 1, 0, 197), row(6, 2, 0, 198)], watermarks[3]),
        epoch(&[], &[], watermarks[4]),
    ];
    check_kinds(
        NEAR,
        false,
        &epochs,
        [
            &["", "", "", "3-5@197, right 4 late", ""],
            &["", "1-.@76", "2-.@77", "3-5@197, right 4 late", ""],
            &["", "", "", "3-5@197, right 4 late", ".-6@198"],
            &["", "1-.@76", "2-.@77", "3-5@197, right 4 late", ".-6@198"],
            &["", "", "", "3-.@177, right 4 late", ""],
            &["", "1-.@76", "2-.@77", "right 4 late", ""],
        ],
    );
}

/// Null equals nothing: such a row comes out at once where it may come out alone, and is dropped elsewhere.
#[test]
fn null_keys_match_nothing() {
    let epochs = [
        epoch(&[row(1, None, 0, 3), row(2, 1, 0, 3)], &[row(3, None, 0, 3), row(4, 1, 0, 3)], [Some(3), Some(3)]),
        epoch(&[], &[], [ENDED, ENDED]),
    ];
    check_kinds(
        NEAR,
        false,
        &epochs,
        [
            &["2-4@3, 2 dropped", ""],
            &["2-4@3 1-.@3, 1 dropped", ""],
            &["2-4@3 .-3@3, 1 dropped", ""],
            &["2-4@3 1-.@3 .-3@3", ""],
            &["2-.@3, 2 dropped", ""],
            &["1-.@3, 1 dropped", ""],
        ],
    );
    check_kinds(
        SAME,
        false,
        &epochs,
        [
            &["2 dropped", "2-4@9"],
            &["1-.@9, 1 dropped", "2-4@9"],
            &[".-3@9, 1 dropped", "2-4@9"],
            &["1-.@9 .-3@9", "2-4@9"],
            &["2 dropped", "2-.@9"],
            &["1-.@9, 1 dropped", ""],
        ],
    );
    check_kinds(
        HOPS,
        false,
        &epochs,
        [
            &["2 dropped", "2-4@4 2-4@9"],
            &["1-.@4 1-.@9, 1 dropped", "2-4@4 2-4@9"],
            &[".-3@4 .-3@9, 1 dropped", "2-4@4 2-4@9"],
            &["1-.@4 1-.@9 .-3@4 .-3@9", "2-4@4 2-4@9"],
            &["2 dropped", "2-.@4 2-.@9"],
            &["1-.@4 1-.@9, 1 dropped", ""],
        ],
    );
}

/// A late row is late once, and nothing else: it neither matches nor comes out alone, whatever its key.
#[test]
fn late_rows_of_each_side_are_put_aside_once() {
    let epochs = [
        epoch(&[row(1, 1, 0, 32)], &[row(2, 1, 0, 31)], [Some(30), Some(32)]),
        epoch(
            &[row(3, 1, 0, 29), row(4, 1, 0, 30), row(5, None, 0, 29)],
            &[row(6, 1, 0, 31), row(7, 1, 0, 32), row(8, None, 0, 31)],
            [Some(32), Some(32)],
        ),
        epoch(&[], &[], [ENDED, ENDED]),
    ];
    check_kinds(
        NEAR,
        false,
        &epochs,
        [
            &["1-2@32", "4-2@31 4-7@32 1-7@32, left 3 late, left 5 late, right 6 late, right 8 late", ""],
            &["1-2@32", "4-2@31 4-7@32 1-7@32, left 3 late, left 5 late, right 6 late, right 8 late", ""],
            &["1-2@32", "4-2@31 4-7@32 1-7@32, left 3 late, left 5 late, right 6 late, right 8 late", ""],
            &["1-2@32", "4-2@31 4-7@32 1-7@32, left 3 late, left 5 late, right 6 late, right 8 late", ""],
            &["1-.@32", "4-.@30, left 3 late, left 5 late, right 6 late, right 8 late", ""],
            &["", "left 3 late, left 5 late, right 6 late, right 8 late", ""],
        ],
    );
    // In windows a row is late when the last one of its own has closed, by both watermarks.
    let epochs = [
        epoch(&[row(1, 1, 0, 12)], &[row(2, 1, 0, 9)], [Some(20), Some(15)]),
        epoch(
            &[row(3, 1, 0, 9), row(4, 1, 0, 10), row(5, None, 0, 3)],
            &[row(6, 1, 0, 4), row(7, 1, 0, 14), row(8, None, 0, 12)],
            [Some(20), Some(20)],
        ),
        epoch(&[], &[], [ENDED, ENDED]),
    ];
    check_kinds(
        HOPS,
        false,
        &epochs,
        [
            &["1-2@14", "1-7@19 4-7@19, left 3 late, left 5 late, right 6 late, 1 dropped", ""],
            &["1-2@14", "1-7@19 4-7@19, left 3 late, left 5 late, right 6 late, 1 dropped", ""],
            &[".-2@9 1-2@14", ".-8@19 1-7@19 4-7@19, left 3 late, left 5 late, right 6 late", ""],
            &[".-2@9 1-2@14", ".-8@19 1-7@19 4-7@19, left 3 late, left 5 late, right 6 late", ""],
            &["1-.@14", "1-.@19 4-.@19, left 3 late, left 5 late, right 6 late, 1 dropped", ""],
            &["", "left 3 late, left 5 late, right 6 late, 1 dropped", ""],
        ],
    );
}

/// A pair for which `where` fails is an error and no match; so its rows may come out alone.
#[test]
fn a_condition_that_fails_is_no_match() {
    let epochs = [
        epoch(
            &[row(1, 1, 5, 3), row(2, 2, 5, 3), row(3, 3, 6, 3)],
            &[row(4, 1, 5, 3), row(5, 2, 5, 4), row(6, 2, 0, 5), row(7, 3, 5, 3)],
            [None, None],
        ),
        epoch(&[], &[], [ENDED, ENDED]),
    ];
    check_kinds(
        NEAR,
        true,
        &epochs,
        [
            &["2-6@5, 5 5 fails, 5 5 fails", ""],
            &["2-6@5, 5 5 fails, 5 5 fails", "1-.@3 3-.@3"],
            &["2-6@5, 5 5 fails, 5 5 fails", ".-4@3 .-7@3 .-5@4"],
            &["2-6@5, 5 5 fails, 5 5 fails", "1-.@3 3-.@3 .-4@3 .-7@3 .-5@4"],
            &["2-.@3, 5 5 fails, 5 5 fails", ""],
            &["5 5 fails, 5 5 fails", "1-.@3 3-.@3"],
        ],
    );
    check_kinds(
        SAME,
        true,
        &epochs,
        [
            &["", "2-6@9, 5 5 fails, 5 5 fails"],
            &["", "2-6@9 1-.@9 3-.@9, 5 5 fails, 5 5 fails"],
            &["", "2-6@9 .-4@9 .-5@9 .-7@9, 5 5 fails, 5 5 fails"],
            &["", "2-6@9 1-.@9 3-.@9 .-4@9 .-5@9 .-7@9, 5 5 fails, 5 5 fails"],
            &["", "2-.@9, 5 5 fails, 5 5 fails"],
            &["", "1-.@9 3-.@9, 5 5 fails, 5 5 fails"],
        ],
    );
}

/// A column that fails takes its pair with it. The pair is a match all the same.
#[test]
fn a_column_that_fails_leaves_a_match() {
    let epochs = [
        epoch(&[row(1, 1, i64::MAX, 3)], &[row(2, 1, 1, 3), row(3, 1, 0, 4)], [None, None]),
        epoch(&[row(4, 2, i64::MAX, 5)], &[row(5, 2, 1, 5)], [ENDED, ENDED]),
    ];
    for (near, expected) in [
        (NEAR, ["1-3@4, 9223372036854775807 1 fails", "9223372036854775807 1 fails"]),
        (SAME, ["", "1-3@9, 9223372036854775807 1 fails, 9223372036854775807 1 fails"]),
    ] {
        let found = told(&case("full", near, &epochs));
        assert_eq!(found, expected, "{near:?}");
    }
}

/// A step as a pipeline runs it, and what it counts of steps that wait for time.
struct Real {
    step: Box<dyn EpochStep>,
    schemas: Vec<SchemaRef>,
    waiting: Arc<std::sync::atomic::AtomicU64>,
    before: [Option<i64>; 2],
}

impl Real {
    fn new(case: &Case) -> Real {
        let operators = case.yaml();
        let (plan, problems) =
            Given { source: SOURCE, operators: &operators, read: &[("j", &[])], ..Given::default() }.plan();
        let plan = plan.unwrap_or_else(|| panic!("{problems}\n{operators}"));
        let (step, schemas, waiting) = with_step(&plan, "j", |planned, cx| {
            (crate::join::render(planned, cx).unwrap(), cx.inputs.to_vec(), cx.waiting_for_time.clone())
        });
        Real { step, schemas, waiting, before: [None; 2] }
    }

    /// Closes an epoch: how many rows each turn gives.
    fn close(&mut self, EpochRows { rows, watermarks }: &EpochRows) -> Vec<usize> {
        let inputs = [LEFT, RIGHT].map(|side| {
            let all: Vec<&Row> = rows[side].iter().collect();
            all.chunks(5_000).map(|rows| rows_of(rows, side, &self.schemas[side])).collect()
        });
        let moment =
            Moment { epoch: Epoch(0), late_ns: self.before.to_vec(), watermark_ns: watermarks.to_vec(), clock_ns: 0 };
        self.before = *watermarks;
        let count = |out: &StepOutput| out.ports.iter().flatten().map(Rows::num_rows).sum::<usize>();
        let mut out = StepOutput::new(3);
        self.step.close(&moment, inputs.to_vec(), &mut out);
        assert_eq!(count(&out), 0, "rows go out in turns");
        let mut turns = Vec::new();
        loop {
            let mut out = StepOutput::new(3);
            let more = self.step.resume(&mut out);
            turns.push(count(&out));
            if !more {
                return turns;
            }
        }
    }

    fn waits(&self) -> bool {
        self.waiting.load(Ordering::Relaxed) > 0
    }
}

/// A hot key, or the end of many rows, does not keep a worker from its other steps.
#[test]
fn many_rows_go_out_in_turns() {
    let most = 2 * crate::join::PORTION_ROWS;
    let wide = |v: i64| epoch(&of(0, 200, 1, v), &of(1_000, 200, 1, 0), [None, None]);
    fn of(first: i64, count: i64, k: i64, v: i64) -> Vec<Row> {
        (0..count).map(|at| row(first + at, k, v, at % 10)).collect()
    }
    let end = epoch(&[], &[], [ENDED, ENDED]);
    for near in [NEAR, SAME] {
        for (kind, condition, v, expected) in
            [("inner", false, 0, 40_000), ("inner", true, 3, 40_000), ("inner", true, 1, 0), ("semi", true, 1, 0)]
        {
            let mut step = Real::new(&Case { condition, ..case(kind, near, &[]) });
            let mut turns = step.close(&wide(v));
            turns.extend(step.close(&end));
            assert_eq!(turns.iter().sum::<usize>(), expected, "{near:?} {kind} {v}");
            assert!(turns.iter().all(|turn| *turn <= most), "{turns:?}");
            // Pairs that don't come out take their time too.
            assert!(turns.len() > 40_000 / most, "{turns:?}");
        }
        let mut step = Real::new(&case("full", near, &[]));
        step.close(&epoch(&of(0, 30_000, 1, 0), &of(100_000, 30_000, 2, 0), [None, None]));
        let turns = step.close(&end);
        assert_eq!(turns.iter().sum::<usize>(), 60_000);
        assert!(turns.iter().all(|turn| *turn <= most), "{turns:?}");
    }
}

/// How many slots are there after each epoch.
fn slots(case: &Case) -> Vec<usize> {
    let operators = case.yaml();
    let given = Given { source: SOURCE, operators: &operators, read: &[("j", &[])], ..Given::default() };
    let plan = given.plan().0.unwrap();
    let (mut step, schemas) = Step::new(&plan, (7, 8_192));
    let mut before = [None; 2];
    let mut counts = Vec::new();
    for EpochRows { rows, watermarks } in &case.epochs {
        let inputs = [LEFT, RIGHT].map(|side| {
            let rows: Vec<&Row> = rows[side].iter().collect();
            if rows.is_empty() { Vec::new() } else { vec![rows_of(&rows, side, &schemas[side])] }
        });
        let moment =
            Moment { epoch: Epoch(0), late_ns: before.to_vec(), watermark_ns: watermarks.to_vec(), clock_ns: 0 };
        before = *watermarks;
        let mut out = StepOutput::new(3);
        step.step().close(&moment, inputs.to_vec(), &mut out);
        while step.step().resume(&mut out) {}
        counts.push(step.slots());
        assert_eq!(step.slots() == 0, step.is_empty());
    }
    counts
}

/// State goes when the watermarks have passed it, a slice at a time, without any row that makes it go.
#[test]
fn state_goes_when_time_has_passed() {
    for kind in KINDS {
        // Slices of 7 ns: the rows are in the first one, which a right row can meet up to 6 + 20, a left one up to 6 + 10.
        let rows = epoch(&[row(1, 1, 0, 0)], &[row(2, 2, 0, 6)], [None, None]);
        let passed = |left: i64, right: i64| epoch(&[], &[], [Some(left), Some(right)]);
        let epochs = [rows.clone(), passed(16, 26), passed(17, 26), passed(17, 27)];
        assert_eq!(slots(&case(kind, NEAR, &epochs)), [2, 2, 2, 0], "{kind}");
        // What no row can meet any more when it comes is not kept at all.
        let dead = epoch(&[row(3, 1, 0, 20)], &[], [Some(20), Some(60)]);
        assert_eq!(slots(&case(kind, NEAR, &[passed(20, 50), dead])), [0, 0], "{kind}");
        let epochs = [rows.clone(), passed(100, 9), passed(100, 10)];
        assert_eq!(slots(&case(kind, SAME, &epochs)), [2, 2, 0], "{kind}");
        // It is in two windows: those that end at 5 and at 10.
        let epochs = [epoch(&[row(1, 1, 0, 0)], &[], [None, None]), passed(5, 5), passed(9, 100), passed(10, 100)];
        assert_eq!(slots(&case(kind, HOPS, &epochs)), [1, 1, 1, 0], "{kind}");
    }
    // A key that comes again and again does not grow.
    let epochs: Vec<EpochRows> =
        (0..200).map(|at| epoch(&[row(at, 1, 0, at)], &[row(1_000 + at, 1, 0, at)], [Some(at), Some(at)])).collect();
    for (near, most) in [(NEAR, 6), (SAME, 3), (HOPS, 6)] {
        let counts = slots(&case("full", near, &epochs));
        assert!(counts.iter().all(|count| *count <= most), "{near:?} {counts:?}");
    }
}

/// As long as something is kept, silent sources let event time go on.
#[test]
fn it_says_whether_it_waits_for_time() {
    for near in [NEAR, SAME] {
        let mut step = Real::new(&case("inner", near, &[]));
        assert!(!step.waits());
        step.close(&epoch(&[row(1, 1, 0, 0)], &[], [None, None]));
        assert!(step.waits(), "{near:?}");
        step.close(&epoch(&[], &[], [Some(500_000_000), Some(500_000_000)]));
        assert!(!step.waits(), "{near:?}");
    }
}
