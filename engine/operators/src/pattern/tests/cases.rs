//! What is wrong with a pattern, what comes of those of the handbook, and how fast it goes.

use super::{Random, Row, SOURCE, lines_of, rows_of, step_of};
use crate::testing::{Given, check_problems};
use engine_base::Epoch;
use engine_dataflow::{EpochStep, Moment, StepOutput};

const MUST: &str = "E0395 `sequence` nothing in this sequence must come | name an element that is neither absent nor optional: `- large: { where: amount > 500 }`";

fn problems(keys: &str, expected: &str) {
    let operators = format!("f:\n  type: pattern\n  input: rows\n{keys}");
    check_problems(&Given { source: SOURCE, operators: &operators, read: &[("f", &[])], ..Given::default() }, expected);
}

#[test]
fn what_is_wrong_with_a_pattern_is_told() {
    problems(
        "  key: kk
  within: 0s
  sequence:
    - gone: { where: v > 1, absent: true }
    - a: { where: v < b.v, repeat: 0.. }
    - b: { where: v + 1, repeat: 5..2 }
    - a: { where: v > a.w, optional: true, repeat: 3.. }
    - v: { where: v > a.v, absent: true, repeat: 2 }
    - param: { where: v > gone.v, optional: true, absent: true }
    - c: { where: v > 1 }
      d: { where: v > 1 }",
        "E0320 `kk` there is no column `kk` here | did you mean `k`? | the columns are `id`, `k`, `v`, `at`
         E0343 `0s` `within` must be longer than nothing
         E0395 `gone` `gone` is absent before anything came | an absent element stands behind another, whose last row is where it counts from
         E0207 `b` there is no column `b` | the columns of the input stand alone: `v` | there are: id, k, v, at
         E0396 `0..` this is no number of rows, from the least to the greatest | write `3`, `3..` for three or more, or `2..5`; for none at all, `optional: true`
         E0223 `v + 1` a condition is due here, and this is a value of type int64
         E0396 `5..2` this is no number of rows, from the least to the greatest | write `3`, `3..` for three or more, or `2..5`; for none at all, `optional: true`
         E0395 `a` there is an element `a` already | give each element a name of its own; one that comes several times is `repeat: 3..`
         E0207 `w` `a` has no column `w` | its columns are: id, k, v, at
         E0396 `optional` `a` may be missing, and must come 3 times if it comes | an optional element comes once or more often: `repeat: 1..`
         E0395 `v` `v` can't be the name of an element: expressions would take it for a column | give the element another name
         E0396 `repeat` `v` is absent: it takes no rows | leave `repeat` or `absent` out
         E0395 `param` `param` can't be the name of an element: expressions would take it for parameters | give the element another name
         E0207 `gone` there is no column or row `gone` | the columns of the input stand alone: `v` | there are: a, b, id, k, v, at
         E0396 `optional` `param` is absent: it takes no rows | leave `optional` or `absent` out
         E0395 `c: { where: v > 1 }` an element of the sequence is one name and what it takes, and here are 2 | start each on its own: `- small: { where: amount < 2 }`",
    );
    problems("  key: k\n  within: 1h\n  sequence: []", MUST);
    problems(
        "  key: k
  within: 1h
  sequence:
    - a: { where: v > 1, optional: true }
    - b: { where: v > 1, absent: true }",
        MUST,
    );
    problems(
        "  key: k
  within: 1h
  sequence:
    - a: { where: v < 2, repeat: 3.. }
    - b: { where: v > 5 }
    - gone: { where: v = 7, absent: true }
  columns:
    k: b.v
    one: a.v
    two: sum(a.v + b.v)
    three: lag(v)
    four: gone.v
    five: array_agg(v ORDER BY id)
    six: v",
        "E0319 `k` there is a column `k` already | the key is put out anyway; give the new column another name
         E0221 `a.v` `a.v` may be of many rows | take one value of them: `last(a.v)`, `max(a.v)`
         E0218 `sum(a.v + b.v)` an aggregate is over the rows of one group, and this one reads those of `a` and `b` | take an aggregate of each, and compute with their results
         E0347 `lag(v)` `lag` is the value of the row before, and a match has one row for many | use `rolling`, or `last(x)`
         E0207 `gone` there is no column or row `gone` | the columns of the input stand alone: `v` | there are: a, b, id, k, v, at
         E0143 `array_agg(v ORDER BY id)` `ORDER BY` inside an aggregate of `pattern` is not built yet | rows are taken in the order of their event time
         E0221 `v` `v` stands outside an aggregate | take one value of the rows': `last(v)`, `max(v)`",
    );
    let many: Vec<String> = (0..65).map(|at| format!("    - e{at}: {{ where: v > 1 }}\n")).collect();
    problems(
        &format!("  key: k\n  within: 1h\n  sequence:\n{}", many.concat()),
        "E0395 `sequence` a sequence has at most 64 elements, and this one has 65 | find its parts with a `pattern` each, one behind the other",
    );
}

/// What comes out for rows of an id, a key, a number and a time, at the end of an epoch with them all and of the input; and the
/// event time of each.
fn lines(operators: &str, rows: &[(i64, Option<&str>, i64, i64)]) -> Vec<String> {
    let given = Given { source: SOURCE, operators, read: &[("f", &[])], ..Given::default() };
    let (plan, problems) = given.plan();
    let plan = plan.unwrap_or_else(|| panic!("{problems}"));
    let source = plan.sources().next().unwrap();
    let (schema, wanted) = (source.outputs[0].stream.schema.clone(), &source.wanted[0]);
    let places: Vec<usize> =
        (0..schema.fields().len()).filter(|at| wanted.contains(schema.field(*at).name())).collect();
    let rows: Vec<Row> =
        rows.iter().map(|(id, k, v, at)| Row { id: *id, k: k.map(str::to_owned), v: Some(*v), at: *at }).collect();
    let mut rows = rows_of(&rows.iter().collect::<Vec<_>>(), &schema);
    rows.batch = rows.batch.project(&places).unwrap();
    let mut step = step_of(&plan);
    let mut out = StepOutput::new(2);
    let moment = |epoch| Moment {
        epoch: Epoch(epoch),
        late_ns: vec![None],
        watermark_ns: vec![(epoch > 0).then_some(i64::MAX)],
        clock_ns: 0,
    };
    step.close(&moment(0), vec![vec![rows]], &mut out);
    step.close(&moment(1), vec![vec![]], &mut out);
    while step.resume(&mut out) {}
    assert!(out.errors.is_empty(), "{:?}", out.errors);
    assert_eq!(step.rows(), 0, "at the end nothing is left");
    out.ports[0].iter().flat_map(lines_of).map(|line| line.to_string()).collect()
}

#[test]
fn small_ones_before_a_large_one() {
    let operators = "f:
  type: pattern
  input: rows
  key: k
  within: 10ns
  sequence:
    - small: { where: v < 2, repeat: 3.. }
    - large: { where: v > 500 }
  columns: { first: first(small.at), tries: count(small), most: max(small.v), v: large.v, at: max(at) }";
    let rows = [
        (0, Some("a"), 1, 0),
        (1, Some("a"), 1, 5),
        (2, Some("b"), 1, 5),
        (3, Some("a"), 7, 9),
        (4, Some("a"), 0, 10),
        // The first one is more than 10 away from here; the others do.
        (5, Some("a"), 1, 11),
        (6, Some("b"), 1, 12),
        (7, Some("a"), 501, 15),
        (8, None, 1, 15),
        (9, Some("a"), 502, 15),
        (10, Some("b"), 1, 15),
        (11, Some("b"), 600, 15),
        (12, None, 1, 16),
        (13, None, 1, 16),
        (14, None, 1000, 27),
    ];
    let expected = [
        r#"{"at":15,"first":5,"k":"a","most":1,"tries":3,"v":501}"#,
        r#"{"at":15,"first":5,"k":"b","most":1,"tries":3,"v":600}"#,
    ];
    assert_eq!(lines(operators, &rows), expected);
}

#[test]
fn a_match_without_columns_is_its_key_and_conditions_read_earlier_rows() {
    let operators = "f:
  type: pattern
  input: rows
  key: [k, id]
  within: 10ns
  overlap: true
  sequence:
    - low: { where: v > 0 }
    - higher: { where: v > low.v, optional: true }
    - highest: { where: v > 2 * coalesce(higher.v, low.v) }";
    let rows =
        [(1, Some("a"), 2, 0), (1, Some("a"), 3, 1), (1, Some("a"), 7, 2), (1, Some("a"), 20, 2), (2, None, 9, 2)];
    // 2 3 7, and 3 7 with nothing between; 7 20.
    let expected = [r#"{"id":1,"k":"a"}"#; 3];
    assert_eq!(lines(operators, &rows), expected);
}

#[test]
fn only_what_is_read_is_asked_for() {
    let operators = "
    f:
      type: pattern
      input: rows
      key: k
      within: 10ns
      sequence:
        - a: { where: v > 2 }
        - b: { where: v > a.v, repeat: 2.. }
        - gone: { where: v < b.v, absent: true }
      columns: { n: count(b), unread: last(b.id) }
    m: { type: map, input: f, keep: [n] }";
    let given = Given { source: SOURCE, operators, read: &[("m", &[])], ..Given::default() };
    let (plan, problems) = given.plan();
    let plan = plan.unwrap_or_else(|| panic!("{problems}"));
    let wanted: Vec<&str> = plan.sources().next().unwrap().wanted[0].iter().map(String::as_str).collect();
    // The event time is that of a column, which stands for it.
    assert_eq!(wanted, ["at", "k", "v"]);
    let step = plan.find("f").unwrap();
    assert!(step.timed);
    let facts: Vec<String> = step.planned.facts().into_iter().map(|(name, value)| format!("{name}: {value}")).collect();
    let expected = [
        "key: k",
        "within: 10ns",
        "a: v > 2",
        "b: v > a.v, 2 times or more",
        "gone: v < b.v, absent",
        "n: count(b)",
        "unread: last(b.id)",
        "waits: for the end of `within`",
    ];
    assert_eq!(facts, expected);
}

/// How many rows a second one worker takes, in epochs of 100,000 rows: `pattern.*rows_a_second --ignored --nocapture`.
#[test]
#[ignore = "measures"]
#[allow(clippy::print_stdout)] // what it is for
fn rows_a_second() {
    const ROWS: usize = 100_000;
    // What is small, how many of them, what is large, and within what: one row comes a millisecond.
    let forms = [
        ("one row in fifty is small", "v < 2", "3..", "v > 98", "10m"),
        ("all rows are small", "v >= 0", "3..", "v < 0", "10m"),
        ("large reads small", "v < 2", "3..", "v > small.v + 97", "10m"),
        ("each row is first, and a hundred of them walk", "v >= 0", "1", "v > small.v + 100", "100ms"),
    ];
    for (name, small, repeat, large, within) in forms {
        let operators = format!(
            "f:
  type: pattern
  input: rows
  key: k
  within: {within}
  sequence:
    - small: {{ where: {small}, repeat: {repeat} }}
    - large: {{ where: {large} }}
  columns: {{ first: first(small.at), tries: count(small), v: large.v }}"
        );
        let given = Given { source: SOURCE, operators: &operators, read: &[("f", &[])], ..Given::default() };
        let (plan, problems) = given.plan();
        let plan = plan.unwrap_or_else(|| panic!("{problems}"));
        let source = plan.sources().next().unwrap();
        let (schema, wanted) = (source.outputs[0].stream.schema.clone(), &source.wanted[0]);
        let places: Vec<usize> =
            (0..schema.fields().len()).filter(|at| wanted.contains(schema.field(*at).name())).collect();
        for keys in [1, 1_000, 100_000] {
            let mut step = step_of(&plan);
            let mut random = Random(keys);
            let (mut took, mut matches) = (Vec::new(), 0);
            for epoch in 0..5u64 {
                let rows: Vec<Row> = (0..ROWS as i64)
                    .map(|row| Row {
                        id: epoch as i64 * ROWS as i64 + row,
                        k: Some(format!("key-{}", random.below(keys))),
                        v: Some(random.below(100) as i64),
                        at: (epoch as i64 * 100_000 + row) * 1_000_000,
                    })
                    .collect();
                let rows = rows_of(&rows.iter().collect::<Vec<_>>(), &schema);
                let rows = rows.with_batch(rows.batch.project(&places).unwrap());
                let watermark = |epoch: u64| Some(epoch as i64 * 100_000 * 1_000_000);
                let moment = Moment {
                    epoch: Epoch(epoch),
                    late_ns: vec![watermark(epoch)],
                    watermark_ns: vec![watermark(epoch + 1)],
                    clock_ns: 0,
                };
                let started = std::time::Instant::now();
                let mut out = StepOutput::new(2);
                step.close(&moment, vec![vec![rows]], &mut out);
                while step.resume(&mut out) {}
                took.push(started.elapsed().as_secs_f64());
                matches += out.ports[0].iter().map(|rows| rows.num_rows()).sum::<usize>();
            }
            took.sort_by(f64::total_cmp);
            println!("{name}, {keys} keys: {:.0} rows a second, {matches} matches", ROWS as f64 / took[2]);
        }
    }
}
