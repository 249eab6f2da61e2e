//! The fast path against a slow, obvious one: `filter` and `map` over random rows in random batches, and the same rows
//! one by one through plain Rust.

use crate::testing::Given;
use proptest::prelude::*;
use std::collections::BTreeMap;

#[derive(Clone, Debug)]
struct Row {
    id: usize,
    a: Option<i64>,
    s: Option<String>,
}

/// A value, or the code of the reason why there is none.
type Result<T> = std::result::Result<T, &'static str>;

/// A predicate as SQL and as Rust.
type Predicate = (&'static str, fn(&Row) -> Result<Option<bool>>);

/// An expression as SQL and as Rust, whose result is JSON.
type Value = (&'static str, fn(&Row) -> Result<String>);

const PREDICATES: &[Predicate] = &[
    ("a > 5", |row| Ok(row.a.map(|a| a > 5))),
    ("100 / a > 3", |row| match row.a {
        Some(0) => Err("divide_by_zero"),
        a => Ok(a.map(|a| 100 / a > 3)),
    }),
    ("a <> 0 AND 100 / a > 3", |row| Ok(row.a.map(|a| a != 0 && 100 / a > 3))),
    ("a < 0 OR s IS NULL", |row| match (row.a.map(|a| a < 0), row.s.is_none()) {
        (Some(true), _) | (_, true) => Ok(Some(true)),
        (negative, false) => Ok(negative),
    }),
    ("CAST(s AS BIGINT) > 0", |row| match row.s.as_deref().map(str::parse::<i64>) {
        None => Ok(None),
        Some(Ok(value)) => Ok(Some(value > 0)),
        Some(Err(_)) => Err("cast"),
    }),
    ("true", |_| Ok(Some(true))),
    ("a > 100", |row| Ok(row.a.map(|a| a > 100))),
];

const VALUES: &[Value] = &[
    ("coalesce(a, 0) + 1", |row| Ok((row.a.unwrap_or(0) + 1).to_string())),
    ("a * 1000000000000000000", |row| match row.a {
        None => Ok("null".to_owned()),
        Some(a) => a.checked_mul(1_000_000_000_000_000_000).map(|value| value.to_string()).ok_or("overflow"),
    }),
    ("upper(s)", |row| Ok(json(row.s.as_deref().map(str::to_uppercase).as_deref()))),
    ("CASE WHEN a <> 0 THEN 100 / a ELSE -1 END", |row| match row.a {
        Some(a) if a != 0 => Ok((100 / a).to_string()),
        _ => Ok("-1".to_owned()),
    }),
    ("s || '!'", |row| Ok(json(row.s.as_ref().map(|s| format!("{s}!")).as_deref()))),
];

fn json(text: Option<&str>) -> String {
    text.map_or("null".to_owned(), |text| format!("{text:?}"))
}

fn rows() -> impl Strategy<Value = Vec<Row>> {
    let a = prop_oneof![1 => Just(None), 8 => (-20i64..20).prop_map(Some)];
    let s = prop_oneof![
        1 => Just(None),
        3 => (-9i64..9).prop_map(|number| Some(number.to_string())),
        1 => "[a-z]{0,3}".prop_map(Some)
    ];
    prop::collection::vec((a, s), 1..80)
        .prop_map(|rows| rows.into_iter().enumerate().map(|(id, (a, s))| Row { id, a, s }).collect())
}

/// The rows of each output, row by row.
fn slowly(rows: &[Row], (_, predicate): Predicate, values: &[Value]) -> BTreeMap<String, Vec<String>> {
    let mut read: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for row in rows {
        let output = match predicate(row) {
            Err(code) => ("f.errors", format!("{} {code}", row.id)),
            Ok(Some(true)) => {
                let columns: Vec<Result<String>> = values.iter().map(|(_, value)| value(row)).collect();
                match columns.iter().find_map(|column| column.as_ref().err()) {
                    Some(code) => ("m.errors", format!("{} {code}", row.id)),
                    None => {
                        let columns = columns.into_iter().flatten().enumerate();
                        let members: String = columns.map(|(at, value)| format!(",\"v{at}\":{value}")).collect();
                        ("m", format!("{{\"id\":{}{members}}}", row.id))
                    }
                }
            }
            Ok(_) => ("f.rejected", format!("{{\"id\":{}}}", row.id)),
        };
        read.entry(output.0.to_owned()).or_default().push(output.1);
    }
    read
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn filter_and_map_equal_plain_loops(
        rows in rows(),
        predicate in prop::sample::select(PREDICATES),
        values in prop::sample::subsequence(VALUES, 1..=VALUES.len()),
        cuts in prop::collection::vec(1usize..20, 1..6),
    ) {
        let set: Vec<String> = values.iter().enumerate().map(|(at, (text, _))| format!("v{at}: {text}")).collect();
        let keep: Vec<String> = (0..values.len()).map(|at| format!("v{at}")).collect();
        let operators = format!(
            "f:\n  type: filter\n  input: rows\n  where: {}\nm:\n  type: map\n  input: f\n  keep: [id, {}]\n  set:\n    {}",
            predicate.0,
            keep.join(", "),
            set.join("\n    ")
        );
        let given = Given {
            source: "schema: { id: int64, a: int64 | null, s: string | null, unread: string | null }",
            operators: &operators,
            read: &[("m", &[]), ("f.rejected", &["id"]), ("f.errors", &[]), ("m.errors", &[])],
            ..Given::default()
        };
        let lines: Vec<String> = rows
            .iter()
            .map(|row| {
                let a = row.a.map_or("null".to_owned(), |a| a.to_string());
                format!("{{\"id\":{},\"a\":{a},\"s\":{}}}", row.id, json(row.s.as_deref()))
            })
            .collect();
        let mut read = given.run(&lines.join("\n"), &cuts);
        for (name, rows) in &mut read {
            if name.ends_with(".errors") {
                // The place and the code; the sentence is the expression crate's own affair.
                for row in rows {
                    let code = row.split(':').next().unwrap_or_default().to_owned();
                    *row = code;
                }
            }
        }
        prop_assert_eq!(read, slowly(&rows, predicate, &values));
    }
}
