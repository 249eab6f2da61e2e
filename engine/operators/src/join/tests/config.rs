//! What is said of a `join` that is wrong, and which columns come out of one that is right.

use super::SOURCE;
use crate::testing::{Given, check_problems};
use engine_plan::types::column_text;

/// Sides with some columns of one name, of types that can't all be compared.
const SIDES: &str = "
    orders: { type: map, input: rows, set: { text: \"'a'\", price: 'v * 1.5', extra: v } }
    pays: { type: map, input: rows, set: { text: \"'a'\", price: 'v * 1.5', pid: id, paid: v }, drop: [v] }";

fn problems(join: &str, expected: &str) {
    let operators = format!("{SIDES}\n    j: {{ type: join, left: orders, right: pays, {join} }}");
    check_problems(&Given { source: SOURCE, operators: &operators, read: &[("j", &[])], ..Given::default() }, expected);
}

/// The columns that come out, with their types, and what a person sees of the step.
fn columns(join: &str, expected: &str, facts: &str) {
    let operators = format!("{SIDES}\n    j: {{ type: join, left: orders, right: pays, {join} }}");
    let given = Given { source: SOURCE, operators: &operators, read: &[("j", &[])], ..Given::default() };
    let (plan, problems) = given.plan();
    let plan = plan.unwrap_or_else(|| panic!("{problems}"));
    let step = plan.find("j").unwrap();
    let fields = step.outputs[0].stream.schema.fields();
    let found: Vec<String> = fields.iter().map(|field| format!("{}: {}", field.name(), column_text(field))).collect();
    assert_eq!(found.join(", "), expected);
    let found: Vec<String> = step.facts.iter().map(|(name, fact)| format!("{name} {fact}")).collect();
    assert_eq!(found.join("; "), facts);
}

#[test]
fn what_matches_is_checked() {
    problems(
        "match: { idd: pid, k: kk }, within: { after: 1h }",
        "E0320 `idd` the left rows have no column `idd` | did you mean `id`? | their columns are `id`, `k`, `v`, \
         `at`, `text`, `price`, `extra`
         E0320 `kk` the right rows have no column `kk` | did you mean `k`? | their columns are `id`, `k`, `at`, \
         `text`, `price`, `pid`, `paid`",
    );
    problems(
        "match: [id, k, id, v], within: { after: 1h }",
        "E0319 `id` `id` is named twice | name each column once
         E0320 `v` the right rows have no column `v` | where the names differ, write a map of left column to right \
         column: `match: { id: order_id }` | their columns are `id`, `k`, `at`, `text`, `price`, `pid`, `paid`",
    );
    problems(
        "match: { id: text, price: price }, within: { after: 1h }",
        "E0381 `text` `left.id` is int64 and `right.text` is string ^ their values can't be compared | make them of \
         one type with a `map` before the join: `set: { text: CAST(text AS int64) }`
         E0308 `price` `price` is of type float64, which can't be matched | cast it to an integer, a decimal or a \
         string with a `map` before",
    );
    problems(
        "match: {}, within: { after: 1h }",
        "E0151 `{}` `match` names no column | name at least one that is equal in rows that belong together: `match: { \
         id: order_id }`",
    );
    problems(
        "match: 5, within: { after: 1h }",
        "E0119 `5` `match` takes a map of left column to right column, or a list of columns that both sides have, not \
         the number `5` | write a map of left column to right column, or a list of columns that both sides have",
    );
    problems("within: { after: 1h }", "E0118 `j` the key `match` is missing | add `match:`");
}

#[test]
fn a_join_is_bounded_in_one_way() {
    problems(
        "match: id, join: left, where: now() > left.at, columns: { r: random(), at: event_time() }",
        "E0143 `where` `where` is not built yet | a join that is not `inner` takes it with `within` or `window` only; filter \
         a side before
         E0309 `now() > left.at` the time of the row's arrival is another one when the row is taken back ^ these rows are a \
         changelog | compute it before the step that makes the changelog, as a column
         E0309 `random()` a random number is another one when the row is taken back ^ these rows are a changelog | compute it \
         before the step that makes the changelog, as a column
         E0323 `event_time()` `event_time()` needs event time, which these rows don't have | declare it at the source: \
         `event_time: { column: at, max_delay: 5s }`",
    );
    problems(
        "match: id, as: { start: s }",
        "E0380 `as` `as` names the bounds of windows, and there is no `window` | leave it out",
    );
    problems(
        "match: id, within: { after: 1h }, window: { tumbling: 1m }",
        "E0380 `window` a join has either `within` or `window` | `within` says how far apart two rows may be, \
         `window` that they are in the same one: leave out one",
    );
    problems(
        "match: id, window: {}",
        "E0346 `{}` the `window` of a join is `tumbling` or `hopping` | write just one: `window: { tumbling: 1m }`, \
         for example",
    );
    problems(
        "match: id, window: { tumbling: 1m, hopping: { size: 2m, every: 1m } }",
        "E0346 `{ tumbling: 1m, hopping: { size: 2m, every: 1m } }` a window is either `tumbling` or `hopping` | \
         write just one: `window: { tumbling: 1m }`, for example",
    );
    problems("match: id, window: { tumbling: 0s }", "E0343 `0s` a window must be longer than nothing");
    problems(
        "match: id, window: { session: { gap: 1m } }",
        "E0117 `session` unknown key `session` | the keys here are `tumbling` and `hopping`",
    );
    problems(
        "match: id, within: { after: 1h }, as: { start: s }",
        "E0380 `as` `as` names the bounds of windows, and there is no `window` | leave it out",
    );
    problems(
        "match: id, within: { after: 1 }, join: outer",
        "E0122 `1` `1` has no unit, and `after` needs one | write a unit: `1ms`
         E0121 `outer` `join` can't be `outer` | it is `inner`, `left`, `right`, `full`, `semi` or `anti`",
    );
    problems(
        "match: id, within: { after: 1h }, lateness: 1s",
        "E0117 `lateness` unknown key `lateness` | the keys of `join` are `left`, `right`, `as`, `columns`, `join`, \
         `match`, `where`, `window` and `within`",
    );
}

#[test]
fn columns_are_checked() {
    problems(
        "match: id, within: {}, where: v > 0 AND at > pays.at, columns: [left.*, right.at, right.nope, paidd, k, orders.v, 5]",
        "E0207 `at` there is no column `at` | did you mean `left.at`? | did you mean `right.at`? | did you mean \
         `orders.at`? | did you mean `pays.at`? | the columns are: v, extra, pid, paid | for text, write single \
         quotes: `'at'`, in YAML `\"'at'\"`
         E0319 `right.at` there is a column `at` already | write a map to give it another name: `columns: { right_at: \
         right.at }`
         E0320 `right.nope` the right rows have no column `nope` | their columns are `id`, `k`, `at`, `text`, \
         `price`, `pid`, `paid`
         E0320 `paidd` there is no column `paidd` here | did you mean `paid`? | the columns are `left.*`, `right.*`, \
         `orders.*`, `pays.*`, `left.id`, `left.k`, `v`, `left.at`, `left.text`, `left.price`, `extra`, `right.id` \
         and 6 more
         E0320 `k` both sides have a column `k` | write `left.k` or `right.k`
         E0319 `orders.v` there is a column `v` already | write a map to give it another name: `columns: { left_v: \
         left.v }`
         E0119 `5` a text is due here, not the number `5` | put it in quotes: `\"5\"`",
    );
    problems(
        "match: id, within: {}, join: anti, columns: [id, right.paid, paid]",
        "E0382 `right.paid` only left rows come out of this join, without columns of the right side | leave it out; \
         `join: inner` and `join: left` have the columns of both
         E0382 `paid` only left rows come out of this join, without columns of the right side | leave it out; `join: \
         inner` and `join: left` have the columns of both",
    );
    problems(
        "match: id, within: {}, join: semi, columns: { id: left.id, paid: right.paid }",
        "E0382 `right.paid` only left rows come out of this join, without columns of the right side | leave it out; \
         `join: inner` and `join: left` have the columns of both",
    );
    problems(
        "match: id, within: {}, columns: []",
        "E0151 `[]` `columns` names no column | name at least one, or leave the key out for all",
    );
    problems(
        "match: id, within: {}, columns: { a: left.v + 1, b: left.at + 1, c: price }",
        "E0213 `left.at + 1` a timestamp and an int64 can't be added | a span of time has a unit: `at + INTERVAL '5m'`
         E0207 `price` there is no column `price` | did you mean `left.price`? | did you mean `right.price`? | did \
         you mean `orders.price`? | did you mean `pays.price`? | the columns are: v, extra, pid, paid | for text, \
         write single quotes: `'price'`, in YAML `\"'price'\"`",
    );
    problems(
        "match: id, within: {}, where: left.v",
        "E0223 `left.v` a condition is due here, and this is a value of type int64 | compare it: `left.v <> 0`",
    );
    problems(
        "match: id, window: { tumbling: 1m }, columns: { window_start: left.at }",
        "E0319 `join` there is a column `window_start` already | give the window's bound another name: `as: { start: \
         from, end: to }`",
    );
    problems(
        "match: id, window: { tumbling: 1m }, as: { start: id, ends: x }",
        "E0117 `ends` unknown key `ends` | did you mean `end`? | the keys here are `start` and `end`",
    );
    problems(
        "match: id, window: { tumbling: 1m }, as: { start: id }",
        "E0319 `id` there is a column `id` already | give the window's bound another name: `as: { start: from, end: \
         to }`",
    );
    problems(
        "match: id, within: {}, join: anti, columns: { id: left.id, due: v - paid }",
        "E0382 `v - paid` only left rows come out of this join, without columns of the right side | leave it out; \
         `join: inner` and `join: left` have the columns of both",
    );
}

#[test]
fn columns_of_both_sides() {
    columns(
        "match: id, within: { after: 1h }",
        "id: int64, k: int64 | null, v: int64, at: timestamp, text: string, price: float64, extra: int64, pid: int64, \
         paid: int64",
        "join inner; match left.id = right.id; within 0s before to 1h after the left row",
    );
    columns(
        "match: id, within: { after: 1h }, join: left",
        "id: int64, k: int64 | null, v: int64, at: timestamp, text: string, price: float64, extra: int64, pid: int64 \
         | null, paid: int64 | null",
        "join left; match left.id = right.id; within 0s before to 1h after the left row",
    );
    columns(
        "match: [id, k], within: { before: 5m }, join: right",
        "id: int64, k: int64 | null, v: int64 | null, at: timestamp | null, text: string | null, price: float64 | \
         null, extra: int64 | null, pid: int64, paid: int64",
        "join right; match left.id = right.id, left.k = right.k; within 5m before to 0s after the left row",
    );
    columns(
        "match: { id: pid, k: k }, within: { after: 1h }, join: full",
        "id: int64 | null, k: int64 | null, v: int64 | null, at: timestamp | null, text: string | null, price: \
         float64 | null, extra: int64 | null, pid: int64 | null, paid: int64 | null",
        "join full; match left.id = right.pid, left.k = right.k; within 0s before to 1h after the left row",
    );
    columns(
        "match: id, within: { after: 1h }, join: anti",
        "id: int64, k: int64 | null, v: int64, at: timestamp, text: string, price: float64, extra: int64",
        "join anti; match left.id = right.id; within 0s before to 1h after the left row",
    );
    columns(
        "match: id, within: { after: 1h }, join: semi, where: left.v > right.paid, columns: [left.v, id]",
        "v: int64, id: int64",
        "join semi; match left.id = right.id; within 0s before to 1h after the left row; where left.v > right.paid",
    );
    columns(
        "match: id, within: { after: 1h }, columns: [pays.*, orders.v, extra]",
        "id: int64, k: int64 | null, at: timestamp, text: string, price: float64, pid: int64, paid: int64, v: int64, \
         extra: int64",
        "join inner; match left.id = right.id; within 0s before to 1h after the left row",
    );
    columns(
        "match: id, within: { after: 1h }, join: left, columns: { due: v - paid, id: orders.id, paid: right.paid }",
        "due: int64 | null, id: int64, paid: int64 | null",
        "join left; match left.id = right.id; within 0s before to 1h after the left row; due v - paid",
    );
    columns(
        "match: id, window: { tumbling: 1m }, as: { start: minute }, columns: [v, paid]",
        "v: int64, paid: int64, minute: timestamp, window_end: timestamp",
        "join inner; match left.id = right.id; tumbling 1m",
    );
    columns(
        "match: id, window: { tumbling: { size: 1d, zone: Europe/Berlin } }, columns: [v]",
        "v: int64, window_start: timestamp, window_end: timestamp",
        "join inner; match left.id = right.id; tumbling 1d of Europe/Berlin",
    );
    columns(
        "match: id, window: { hopping: { size: 2m, every: 1m } }, join: full, columns: [left.id]",
        "id: int64 | null, window_start: timestamp, window_end: timestamp",
        "join full; match left.id = right.id; hopping 2m every 1m",
    );
}

/// A side that is wrong in itself, or has no event time, is told of once and nothing else follows from it.
#[test]
fn sides_are_checked() {
    let check = |operators: &str, expected: &str| {
        let operators = operators.lines().map(|line| format!("    {}\n", line.trim())).collect::<String>();
        let operators = operators.as_str();
        check_problems(&Given { source: SOURCE, operators, read: &[("j", &[])], ..Given::default() }, expected);
    };
    check(
        "j: { type: join, left: rows, match: id, within: { after: 1h } }",
        "E0118 `j` the key `right` is missing | add `right:`",
    );
    check(
        "j: { type: join, input: rows, match: id, within: { after: 1h } }",
        "E0117 `input` unknown key `input` | `join` has several inputs: write `left:` and `right:` | the keys of \
         `join` are `left`, `right`, `as`, `columns`, `join`, `match`, `where`, `window` and `within`",
    );
    check(
        "j: { type: join, left: rows, right: rows.errors, match: id, within: { after: 1h } }",
        "E0323 `rows.errors` `join` needs event time, which these rows don't have | say when each row happened, at \
         the source: `event_time: { column: at, max_delay: 5s }`
         E0320 `id` the right rows have no column `id` | where the names differ, write a map of left column to right \
         column: `match: { id: order_id }` | their columns are `step`, `code`, `reason`, `payload`, `position`, `at`",
    );
    check(
        "w: { type: map, input: rows, set: { x: nope } }
         j: { type: join, left: rows, right: w, match: { id: x }, within: { after: 1h }, where: right.x > 1, columns: [left.*, right.x] }",
        "E0207 `nope` there is no column `nope` | the columns are: id, k, v, at | for text, write single quotes: \
         `'nope'`, in YAML `\"'nope'\"`",
    );
    check("j: { type: join, left: rows, right: rows, match: id, within: { after: 1h } }", "");
}
