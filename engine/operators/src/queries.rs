//! Queries against the real kinds: whatever is written, a plan comes out or a problem with its place, and never a panic.

use crate::testing::{Given, check_problems};
use proptest::prelude::*;

const SOURCE: &str =
    "schema: { id: int64, amount: float64, city: string | null, at: timestamp }\nevent_time: { column: at }";

fn operators(query: &str) -> String {
    format!("q:\n  type: sql\n  input: rows\n  query: |\n    {}", query.replace('\n', "\n    "))
}

fn problems(query: &str) -> (bool, String) {
    let operators = operators(query);
    let (plan, problems) =
        Given { source: SOURCE, operators: &operators, read: &[("q", &[])], ..Given::default() }.plan();
    (plan.is_some(), problems)
}

#[test]
fn problems_of_the_steps_point_into_the_query() {
    let check = |query: &str, expected: &str| {
        let operators = operators(query);
        check_problems(
            &Given { source: SOURCE, operators: &operators, read: &[("q", &[])], ..Given::default() },
            expected,
        );
    };
    check(
        "SELECT b.city,\n  sum(b.ammount) AS s\nFROM TUMBLE(rows, INTERVAL '1 minute') AS b\nWHERE b.idd > 0\nGROUP BY b.city, window_end\nHAVING max(b.iid) > 1",
        "E0207 `ammount` there is no column `ammount` | did you mean `amount`? | the columns are: id, amount, city, at | for text, write single quotes: `'ammount'`, in YAML `\"'ammount'\"`
         E0207 `idd` there is no column `idd` | did you mean `id`? | the columns are: id, amount, city, at | for text, write single quotes: `'idd'`, in YAML `\"'idd'\"`
         E0207 `iid` there is no column `iid` | did you mean `id`? | the columns are: id, amount, city, at | for text, write single quotes: `'iid'`, in YAML `\"'iid'\"`",
    );
}

/// Parts of queries, some of which fit together.
fn select() -> impl Strategy<Value = String> {
    let items = prop::sample::select(vec![
        "*",
        "id",
        "r.id, city",
        "id AS key, amount * 2 AS id",
        "count(*) AS n",
        "city, sum(amount) AS total",
        "*, id % 2 AS odd",
        "upper(city) AS city, max(id) AS id",
        "a.id, b.city AS other",
        "window_start, count(DISTINCT city) AS n",
        "a.*",
        "x + 1 AS y",
    ]);
    let from = prop::sample::select(vec![
        "rows",
        "rows AS r",
        "TUMBLE(rows, INTERVAL '1 minute') AS r",
        "HOP(rows, INTERVAL '1' SECOND, INTERVAL '1' MINUTE)",
        "TABLE(SESSION(TABLE rows, DESCRIPTOR(at), INTERVAL '5 seconds'))",
        "rows AS a JOIN rows AS b ON a.id = b.id",
        "rows a LEFT JOIN rows b ON a.id = b.id AND a.at BETWEEN b.at - INTERVAL '1 hour' AND b.at",
        "rows a LEFT ANTI JOIN rows b ON a.city = b.city",
        "rows a FULL JOIN rows b ON a.id = b.id AND a.city = b.city AND a.amount > 1",
    ]);
    let filter = prop::sample::select(vec![
        "",
        "WHERE id > 1",
        "WHERE a.id IS NULL OR b.id > 1",
        "WHERE r.city = 'x'",
        "WHERE count(*) > 1",
    ]);
    let group = prop::sample::select(vec![
        "",
        "GROUP BY id",
        "GROUP BY city, window_start",
        "GROUP BY upper(city)",
        "GROUP BY r.id, id, window_end",
        "GROUP BY b.city",
    ]);
    let having = prop::sample::select(vec![
        "",
        "HAVING count(*) > 1",
        "HAVING n > 1 AND max(id) > 2 AND (city = 'x' OR id = 1)",
    ]);
    let order = prop::sample::select(vec![
        "",
        "ORDER BY id LIMIT 3",
        "ORDER BY n DESC, a.id NULLS FIRST LIMIT 1",
        "ORDER BY upper(city) LIMIT 2",
    ]);
    let distinct = prop::sample::select(vec!["", "DISTINCT"]);
    (distinct, items, from, filter, group, having, order).prop_map(
        |(distinct, items, from, filter, group, having, order)| {
            format!("SELECT {distinct} {items}\nFROM {from}\n{filter}\n{group}\n{having}\n{order}")
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1_500, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_query_is_planned_or_refused(one in select(), other in select(), both in 0..4, cut in 0usize..200) {
        let mut query = if both == 0 { format!("{one} UNION ALL {other}") } else { one };
        if both == 1 {
            let words: Vec<&str> = query.split_inclusive(' ').collect();
            let cut = cut % words.len();
            query = words.iter().enumerate().filter(|(at, _)| *at != cut).map(|(_, word)| *word).collect();
        }
        let (planned, problems) = problems(&query);
        prop_assert!(planned || !problems.is_empty(), "neither a plan nor a problem: {query}");
        prop_assert!(!problems.contains("E0225"), "{query}\n{problems}");
    }
}
