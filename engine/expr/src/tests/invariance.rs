//! What a row gives never depends on the rows beside it: random expressions over random batches, cut at random places.
//!
//! The whole batch, its pieces and each row alone must give the same values and the same failures, reasons included. On the
//! way it is checked that what is typed as never null is never null, and that no kernel panics.

use super::rendered;
use crate::{Context, Evaluated, RowFacts, Scalar, Scope};
use arrow::array::TimestampNanosecondArray;
use arrow::array::builder::{ListBuilder, StringBuilder};
use arrow::array::{
    Array, ArrayRef, BooleanArray, Decimal128Array, Float64Array, Int32Array, Int64Array, RecordBatch, StringArray,
};
use arrow::datatypes::{Field, Schema};
use proptest::prelude::*;
use std::sync::Arc;

/// A generator whose every draw follows from its seed.
pub(super) struct Draw(u64);

impl Draw {
    pub(super) fn new(seed: u64) -> Self {
        Draw(seed)
    }

    pub(super) fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let x = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let x = (x ^ (x >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        usize::try_from((x ^ (x >> 31)) % bound as u64).expect("below a usize")
    }

    pub(super) fn of<'a>(&mut self, choices: &[&'a str]) -> &'a str {
        choices[self.below(choices.len())]
    }

    /// An expression of whole numbers. Each kind falls back to its leaves at depth 0.
    fn int(&mut self, depth: usize) -> String {
        if depth == 0 {
            return self.of(&["i", "j", "k", "0", "1", "-3", "7", "9223372036854775807", "length(s)"]).to_owned();
        }
        let d = depth - 1;
        match self.below(16) {
            0..=3 => format!("({} {} {})", self.int(d), self.of(&["+", "-", "*", "/", "%"]), self.int(d)),
            4 => format!("(-{})", self.int(d)),
            5 => format!("CAST({} AS int64)", self.text(d)),
            6 => format!("TRY_CAST({} AS int64)", self.text(d)),
            7 => format!("CAST({} AS int64)", self.float(d)),
            8 => format!("CASE WHEN {} THEN {} ELSE {} END", self.truth(d), self.int(d), self.int(d)),
            9 => format!(
                "CASE WHEN {} THEN {} WHEN {} THEN {} END",
                self.truth(d),
                self.int(d),
                self.truth(d),
                self.int(d)
            ),
            10 => format!(
                "CASE {} WHEN {} THEN {} WHEN 1 THEN {} ELSE {} END",
                self.int(d),
                self.int(d),
                self.int(d),
                self.int(d),
                self.int(d)
            ),
            11 => format!("coalesce({}, {}, {})", self.int(d), self.int(d), self.int(d)),
            12 => format!("nullif({}, {})", self.int(d), self.int(d)),
            13 => format!("{}({}, {})", self.of(&["greatest", "least", "nvl"]), self.int(d), self.int(d)),
            14 => format!("abs({})", self.int(d)),
            _ => format!("CAST({} AS int32)", self.int(d)),
        }
    }

    fn float(&mut self, depth: usize) -> String {
        if depth == 0 {
            return self.of(&["f", "g", "0.0", "1.5", "-2e10", "i", "p"]).to_owned();
        }
        let d = depth - 1;
        match self.below(9) {
            0..=2 => format!("({} {} {})", self.float(d), self.of(&["+", "-", "*", "/"]), self.float(d)),
            3 => format!("CAST({} AS float64)", self.text(d)),
            4 => format!("CASE WHEN {} THEN {} ELSE {} END", self.truth(d), self.float(d), self.float(d)),
            5 => format!("coalesce({}, {})", self.float(d), self.float(d)),
            6 => format!("round({}, 2)", self.float(d)),
            7 => format!("CAST({} AS decimal(12, 3))", self.float(d)),
            _ => format!("{}({})", self.of(&["sqrt", "floor", "exp", "abs"]), self.float(d)),
        }
    }

    fn truth(&mut self, depth: usize) -> String {
        if depth == 0 {
            return self.of(&["b", "c", "true", "false", "NULL", "(i > 0)", "(j IS NULL)"]).to_owned();
        }
        let d = depth - 1;
        match self.below(16) {
            0..=2 => format!("({} AND {})", self.truth(d), self.truth(d)),
            3..=5 => format!("({} OR {})", self.truth(d), self.truth(d)),
            6 => format!("(NOT {})", self.truth(d)),
            7 | 8 => {
                format!("({} {} {})", self.int(d), self.of(&["=", "<>", "<", ">=", "IS DISTINCT FROM"]), self.int(d))
            }
            9 => format!("({} {} {})", self.float(d), self.of(&["=", "<", ">"]), self.float(d)),
            10 => format!("({} IN ({}, {}, 5))", self.int(d), self.int(d), self.int(d)),
            11 => format!("({} BETWEEN {} AND {})", self.int(d), self.int(d), self.int(d)),
            12 => format!("({} LIKE '%1%')", self.text(d)),
            13 => format!("CASE WHEN {} THEN {} ELSE {} END", self.truth(d), self.truth(d), self.truth(d)),
            14 => format!("({} {})", self.int(d), self.of(&["IS NULL", "IS NOT NULL"])),
            _ => format!("({} {} {})", self.text(d), self.of(&["=", "<", "~"]), self.of(&["'1'", "s", "'^a'"])),
        }
    }

    fn text(&mut self, depth: usize) -> String {
        if depth == 0 {
            return self.of(&["s", "r", "'12'", "'x'", "json_get(r, '$.a')"]).to_owned();
        }
        let d = depth - 1;
        match self.below(9) {
            0 => format!("({} || {})", self.text(d), self.text(d)),
            1 => format!("upper({})", self.text(d)),
            2 => format!("substr({}, {}, 2)", self.text(d), self.int(0)),
            3 => format!("CAST({} AS string)", self.int(d)),
            4 => format!("CASE WHEN {} THEN {} ELSE {} END", self.truth(d), self.text(d), self.text(d)),
            5 => format!("coalesce({}, {})", self.text(d), self.text(d)),
            6 => format!("repeat({}, {})", self.text(0), self.int(0)),
            7 => format!("CAST({} AS string)", self.time(d)),
            _ => format!("l[{}]", self.int(d)),
        }
    }

    fn time(&mut self, depth: usize) -> String {
        if depth == 0 {
            return self.of(&["t", "TIMESTAMP '2026-01-31T10:00:00Z'"]).to_owned();
        }
        let d = depth - 1;
        match self.below(4) {
            0 => format!("({} + INTERVAL '{}')", self.time(d), self.of(&["5m", "1 month", "300 years"])),
            1 => format!("date_trunc('day', {})", self.time(d)),
            2 => format!("CAST({} AS timestamp)", self.text(0)),
            _ => format!("coalesce({}, {})", self.time(d), self.time(d)),
        }
    }

    fn expression(&mut self, depth: usize) -> String {
        match self.below(5) {
            0 => self.int(depth),
            1 | 2 => self.truth(depth),
            3 => self.float(depth),
            _ => self.text(depth),
        }
    }
}

fn batch(draw: &mut Draw, rows: usize) -> RecordBatch {
    let some = |draw: &mut Draw| draw.below(4) > 0;
    let ints = [0, 1, -1, 2, 5, -7, i64::MAX, i64::MIN, 1_000_000_007];
    let small = [0, 1, -1, 3, i32::MIN, i32::MAX];
    let floats = [0.0, -0.0, 1.5, -2.5, 1e300, f64::NAN, f64::INFINITY, 7.0];
    let texts = ["12", "-3", "x", "", "1e5", "ä1", "99999999999999999999", r#"{"a": 5}"#, "2026-01-31"];
    let i: Vec<i64> = (0..rows).map(|_| ints[draw.below(ints.len())]).collect();
    let j: Vec<Option<i64>> = (0..rows).map(|_| some(draw).then(|| ints[draw.below(ints.len())])).collect();
    let k: Vec<Option<i32>> = (0..rows).map(|_| some(draw).then(|| small[draw.below(small.len())])).collect();
    let f: Vec<f64> = (0..rows).map(|_| floats[draw.below(floats.len())]).collect();
    let g: Vec<Option<f64>> = (0..rows).map(|_| some(draw).then(|| floats[draw.below(floats.len())])).collect();
    let b: Vec<bool> = (0..rows).map(|_| draw.below(2) == 0).collect();
    let c: Vec<Option<bool>> = (0..rows).map(|_| some(draw).then(|| draw.below(2) == 0)).collect();
    let s: Vec<&str> = (0..rows).map(|_| texts[draw.below(texts.len())]).collect();
    let r: Vec<Option<&str>> = (0..rows).map(|_| some(draw).then(|| texts[draw.below(texts.len())])).collect();
    let p: Vec<Option<i128>> =
        (0..rows).map(|_| some(draw).then(|| [0, 150, -99_999_999_999][draw.below(3)])).collect();
    let t: Vec<i64> = (0..rows).map(|_| [0, 1_769_855_400_000_000_000, i64::MAX, i64::MIN][draw.below(4)]).collect();
    let mut l = ListBuilder::new(StringBuilder::new());
    for _ in 0..rows {
        match draw.below(4) {
            0 => l.append_null(),
            1 => l.append_value([None::<&str>; 0]),
            _ => l.append_value([Some(texts[draw.below(texts.len())]), None]),
        }
    }
    let column =
        |name: &str, nullable: bool, array: ArrayRef| (Field::new(name, array.data_type().clone(), nullable), array);
    let columns: Vec<(Field, ArrayRef)> = vec![
        column("i", false, Arc::new(Int64Array::from(i))),
        column("j", true, Arc::new(Int64Array::from(j))),
        column("k", true, Arc::new(Int32Array::from(k))),
        column("f", false, Arc::new(Float64Array::from(f))),
        column("g", true, Arc::new(Float64Array::from(g))),
        column("b", false, Arc::new(BooleanArray::from(b))),
        column("c", true, Arc::new(BooleanArray::from(c))),
        column("s", false, Arc::new(StringArray::from(s))),
        column("r", true, Arc::new(StringArray::from(r))),
        column("p", true, Arc::new(Decimal128Array::from(p).with_precision_and_scale(11, 2).expect("a decimal type"))),
        column("t", false, Arc::new(TimestampNanosecondArray::from(t).with_timezone("UTC"))),
        column("l", true, Arc::new(l.finish())),
    ];
    let (fields, arrays): (Vec<Field>, Vec<ArrayRef>) = columns.into_iter().unzip();
    RecordBatch::try_new(Arc::new(Schema::new(fields)), arrays).expect("columns that fit their schema")
}

fn evaluate(scalar: &Scalar, batch: &RecordBatch) -> Evaluated {
    scalar.compile(&batch.schema()).expect("compiles on its own schema").evaluate(batch, &RowFacts::none())
}

/// The values and failures of a batch cut at these rows.
fn in_pieces(scalar: &Scalar, batch: &RecordBatch, cuts: &[usize]) -> Vec<String> {
    let mut cells = Vec::new();
    let mut first = 0;
    for end in cuts.iter().copied().chain([batch.num_rows()]) {
        cells.extend(rendered(&evaluate(scalar, &batch.slice(first, end - first))));
        first = end;
    }
    cells
}

fn check(text: &str, batch: &RecordBatch, cuts: &[usize]) {
    // Constants that always fail are refused when planning; that is not what is tested here.
    let Ok(scalar) = Context::default().scalar(text, &Scope::new(batch.schema())) else { return };
    let whole = evaluate(&scalar, batch);
    let cells = rendered(&whole);
    let alone: Vec<usize> = (1..batch.num_rows()).collect();
    assert_eq!(in_pieces(&scalar, batch, &alone), cells, "each row alone: {text}");
    assert_eq!(in_pieces(&scalar, batch, cuts), cells, "cut at {cuts:?}: {text}");
    let failed: Vec<usize> = whole.errors.iter().map(|(row, _)| *row).collect();
    assert!(failed.is_sorted(), "{text}");
    for (row, error) in &whole.errors {
        assert_ne!(error.code, "panic", "row {row} of {text}: {error}");
        assert!(error.reason.chars().count() <= 160, "{text}: {error}");
    }
    if !scalar.nullable() {
        let nulls: Vec<usize> = (0..whole.array.len()).filter(|row| whole.array.is_null(*row)).collect();
        assert_eq!(nulls, failed, "never null, it says: {text}");
    }
    assert_eq!(whole.array.data_type(), scalar.data_type(), "{text}");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 3000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_row_alone_decides(seed in any::<u64>(), depth in 1usize..5, rows in 1usize..60, cuts in proptest::collection::vec(0usize..60, 0..5)) {
        let mut draw = Draw::new(seed);
        let text = draw.expression(depth);
        let mut cuts: Vec<usize> = cuts.into_iter().filter(|cut| *cut < rows).collect();
        cuts.sort_unstable();
        check(&text, &batch(&mut draw, rows), &cuts);
    }
}

#[test]
fn guards_hold_in_any_company() {
    let mut draw = Draw::new(7);
    let batch = batch(&mut draw, 300);
    for text in [
        "i <> 0 AND 100 / i > 2",
        "i = 0 OR 100 / i > 2",
        "(i <> 0 AND 100 / i > 2) OR (b AND i <> 0 AND 100 / i < 5)",
        "CASE WHEN i = 0 THEN 0 ELSE 100 / i END > 3",
        "coalesce(CASE WHEN i = 0 THEN 1 END, 100 / i) > 3",
        "NOT (i = 0) AND 100 % i = 1 AND 7 / i > 0",
        "i NOT IN (0) AND 100 / i > 2",
    ] {
        let scalar = Context::default().scalar(text, &Scope::new(batch.schema())).expect(text);
        assert_eq!(evaluate(&scalar, &batch).errors, [], "{text}");
        check(text, &batch, &[1, 5, 100]);
    }
}

#[test]
fn few_and_many_failures_are_found() {
    for zeros in [1usize, 3, 40, 100, 1000] {
        let rows = 1000;
        let values: Vec<i64> = (0..rows).map(|row| i64::from(row % (rows / zeros) != 0)).collect();
        let wanted: Vec<usize> =
            values.iter().enumerate().filter(|(_, value)| **value == 0).map(|(row, _)| row).collect();
        let column: ArrayRef = Arc::new(Int64Array::from(values));
        let batch = RecordBatch::try_from_iter([("d", column)]).expect("one column");
        let scalar = Context::default().scalar("10 / d", &Scope::new(batch.schema())).expect("plans");
        let evaluated = evaluate(&scalar, &batch);
        assert_eq!(evaluated.errors.iter().map(|(row, _)| *row).collect::<Vec<_>>(), wanted);
        assert!(evaluated.errors.iter().all(|(_, error)| error.code == "divide_by_zero"));
        assert_eq!(evaluated.array.len(), rows);
        assert_eq!(evaluated.array.null_count(), wanted.len());
    }
}

/// Each function said to be null only where an argument is, on what is odd.
#[test]
fn functions_are_null_only_where_they_say() {
    let mut draw = Draw::new(3);
    let batch = batch(&mut draw, 64);
    let scope = Scope::new(batch.schema());
    let mut unplanned = Vec::new();
    for name in crate::functions::NULL_WHERE_AN_ARGUMENT_IS {
        let calls = [
            format!("{name}(f)"),
            format!("{name}(i)"),
            format!("{name}(s)"),
            format!("{name}(t)"),
            format!("{name}(s, 'x')"),
            format!("{name}(s, i % 100)"),
            format!("{name}(f, f)"),
            format!("{name}(s, 'x', 'y')"),
            format!("{name}(s, s, s)"),
            format!("{name}(s, ',', 2)"),
            format!("{name}(i % 5000, i % 12, 1)"),
            format!("{name}('day', t)"),
            format!("{name}(INTERVAL '1h', t)"),
            format!("{name}(t, '%Y')"),
            format!("{name}(t, s)"),
        ];
        let planned: Vec<&String> =
            calls.iter().filter(|call| Context::default().scalar(call, &scope).is_ok()).collect();
        if planned.is_empty() {
            unplanned.push(*name);
        }
        for call in planned {
            check(call, &batch, &[7, 30]);
        }
    }
    assert_eq!(unplanned, [] as [&str; 0], "functions that no call here fits");
}
