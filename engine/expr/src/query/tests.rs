//! Clauses and places of queries, and that no text whatever is too much.

use super::{Item, JoinKind, Query, Select, Term, WindowForm, read};
use proptest::prelude::*;

fn one(text: &str) -> Select {
    let query = read(text).unwrap_or_else(|error| panic!("{text}: {error}"));
    query.selects.into_iter().next().expect("a SELECT")
}

fn texts<'t>(text: &'t str, terms: impl IntoIterator<Item = &'t Term>) -> Vec<&'t str> {
    terms.into_iter().map(|term| &text[term.range.clone()]).collect()
}

fn listed(select: &Select) -> Vec<(&Term, Option<&str>)> {
    let mut all = Vec::new();
    for item in &select.items {
        if let Item::Column { term, alias } = item {
            all.push((term, alias.as_ref().map(|alias| alias.text.as_str())));
        }
    }
    all
}

#[test]
fn clauses_are_cut_where_they_begin() {
    let text = "SELECT b.offset AS o, CASE WHEN x IS DISTINCT FROM y THEN 1 ELSE 2 END kind, extract(hour FROM at) AS \"from\"\n\
                FROM bids b WHERE offset > 5 AND b.limit BETWEEN 1 AND 2 -- not FROM this\n\
                GROUP BY b.offset, kind HAVING count(*) > 1 AND (a OR b) AND c BETWEEN 1 AND 2 ORDER BY o DESC NULLS FIRST, kind LIMIT 7;";
    let select = one(text);
    let items = listed(&select);
    assert_eq!(items.iter().map(|(_, alias)| *alias).collect::<Vec<_>>(), [Some("o"), Some("kind"), Some("from")]);
    assert_eq!(
        texts(text, items.iter().map(|(term, _)| *term)),
        ["b.offset", "CASE WHEN x IS DISTINCT FROM y THEN 1 ELSE 2 END", "extract(hour FROM at)"]
    );
    assert_eq!(select.from.alias.as_ref().map(|alias| alias.text.as_str()), Some("b"));
    assert_eq!(texts(text, &select.filter), ["offset > 5 AND b.limit BETWEEN 1 AND 2"]);
    let (grouped, _) = select.group_by.as_ref().expect("groups");
    assert_eq!(texts(text, grouped), ["b.offset", "kind"]);
    assert_eq!(texts(text, &select.having), ["count(*) > 1", "(a OR b)", "c BETWEEN 1 AND 2"]);
    assert!(select.having[0].aggregates && !select.having[1].aggregates);
    let order: Vec<_> = select.order_by.iter().map(|order| (order.descending, order.nulls_first)).collect();
    assert_eq!(order, [(true, Some(true)), (false, None)]);
    assert_eq!(select.limit.map(|(limit, _)| limit), Some(7));
}

#[test]
fn names_know_their_places() {
    let text = "SELECT 'ä', concat(b.item.price, x, param.y, l[1], s['k']) AS z FROM bids AS b WHERE a OR b";
    let select = one(&text.replace("'ä', ", "'ä' AS a, "));
    let text = text.replace("'ä', ", "'ä' AS a, ");
    let (term, _) = listed(&select)[1];
    let names: Vec<&str> = term.names.iter().map(|name| &text[name.range()]).collect();
    assert_eq!(names, ["b.item.price", "x", "param.y", "l", "s"]);
    assert!(!term.plain && listed(&one("SELECT b.x FROM b"))[0].0.plain);
}

#[test]
fn windows_and_joins() {
    let windows = |text: &str| one(text).from.windows.expect("windows");
    for text in [
        "SELECT a FROM HOP(b, INTERVAL '2 seconds', INTERVAL '1 minute 30 seconds') GROUP BY a",
        "SELECT a FROM TABLE(HOP(TABLE b, DESCRIPTOR(at), INTERVAL '2' SECOND, INTERVAL '90' SECONDS)) AS w GROUP BY a",
    ] {
        match windows(text).form {
            WindowForm::Hop { slide, size } => assert_eq!((slide.ns, size.ns), (2_000_000_000, 90_000_000_000)),
            other => panic!("{other:?}"),
        }
    }
    let text = "SELECT 1 AS x FROM a LEFT OUTER JOIN b ON a.x = b.y AND b.at BETWEEN a.at - INTERVAL '1 hour' AND a.at AND (a.z OR b.z)";
    let join = one(text).join.expect("a join");
    assert_eq!(join.kind, JoinKind::Left);
    assert_eq!(texts(text, join.on.iter().map(|condition| &condition.term))[2], "(a.z OR b.z)");
    assert!(join.on[0].equal.is_some() && join.on[2].equal.is_none());
    let bounds: Vec<_> = join.on[1].bounds.iter().map(|bound| (bound.at_least, bound.offset_ns)).collect();
    assert_eq!(bounds, [(true, -3_600_000_000_000), (false, 0)]);
    // What stands beside an OR is no condition of its own.
    let join = one("SELECT 1 AS x FROM a JOIN b ON a.x = b.y OR a.z").join.expect("a join");
    assert!(join.on.len() == 1 && join.on[0].equal.is_none());
}

/// All places that a query tells lie in its text, and between characters.
fn sound(text: &str, query: &Query) {
    let terms = query.selects.iter().flat_map(|select| {
        let listed = select.items.iter().filter_map(|item| match item {
            Item::Column { term, .. } => Some(term),
            Item::All { .. } => None,
        });
        let on = select.join.iter().flat_map(|join| join.on.iter().map(|condition| &condition.term));
        let grouped = select.group_by.iter().flat_map(|(terms, _)| terms);
        let ordered = select.order_by.iter().map(|order| &order.term);
        listed.chain(on).chain(&select.filter).chain(grouped).chain(&select.having).chain(ordered)
    });
    for term in terms {
        assert!(text.get(term.range.clone()).is_some_and(|part| !part.trim().is_empty()), "{text}: {term:?}");
        assert!(term.names.iter().all(|name| text.get(name.range()).is_some()), "{text}: {term:?}");
    }
}

const WORDS: &[&str] = &[
    "SELECT",
    "FROM",
    "WHERE",
    "GROUP BY",
    "HAVING",
    "ORDER BY",
    "LIMIT",
    "JOIN",
    "LEFT",
    "ON",
    "AS",
    "UNION ALL",
    "DISTINCT",
    "TUMBLE(",
    "HOP(",
    "TABLE(",
    "DESCRIPTOR(",
    "INTERVAL",
    "'1 minute'",
    "'é",
    "BETWEEN",
    "AND",
    "OR",
    "CASE",
    "END",
    "WHEN",
    "(",
    ")",
    "[",
    "]",
    ",",
    ".",
    "*",
    "=",
    ">=",
    "-",
    "a",
    "b.x",
    "\"q\"",
    "1",
    "count(*)",
    "--",
    "/*",
    ";",
    "NULLS FIRST",
    "é",
    "OVER",
    "EXCEPT",
    "USING",
    "ROLLUP",
    "SEMI",
    "IS",
    "NOT",
    "'",
    "::",
    "at",
    "\n",
];

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4_000))]

    #[test]
    fn words_in_any_order_are_read_or_refused(words in prop::collection::vec(prop::sample::select(WORDS), 0..24)) {
        let text = words.join(" ");
        match read(&text) {
            Ok(query) => sound(&text, &query),
            Err(error) => for problem in error.all() {
                prop_assert!(!problem.message.is_empty());
                if let Some(range) = problem.range {
                    prop_assert!(text.get(range.clone()).is_some(), "{text}: {range:?}");
                }
            },
        }
    }

    #[test]
    fn a_query_with_a_word_too_few_or_too_many_is_read_or_refused(at in 0usize..40, word in prop::sample::select(WORDS), remove: bool) {
        const QUERY: &str = "SELECT DISTINCT o . id , CASE WHEN p . paid > 0 THEN 1 END AS paid FROM orders AS o LEFT JOIN payments p \
                             ON o . id = p . id AND p . at BETWEEN o . at AND o . at + INTERVAL '1 hour' WHERE o . x > 1 GROUP BY o . id \
                             HAVING count(*) > 1 ORDER BY paid DESC LIMIT 3";
        let mut words: Vec<&str> = QUERY.split(' ').collect();
        let at = at.min(words.len() - 1);
        if remove { words.remove(at); } else { words.insert(at, word); }
        let text = words.join(" ");
        if let Ok(query) = read(&text) {
            sound(&text, &query);
        }
    }
}
