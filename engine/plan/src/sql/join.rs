//! A join of a query: what of ON is the match, what the nearness in event time, and what comes out.

use super::select::{Fresh, Output, Source, all_columns, has_pairs};
use super::text::{all, entry, list, map, renamed, string};
use super::{Compiler, Draft, TimeColumn, called, is_grouped};
use engine_base::codes::query as codes;
use engine_expr::query::{Bound, Condition, Item, Join, JoinKind, Name, Select, Term};
use engine_spec::{Entry, Node, Piece, TimeSpan};
use std::ops::Range;

const SIDES: [&str; 2] = ["left", "right"];

/// A join as a step, and what is left to do behind it.
pub(super) struct Joined {
    pub(super) draft: Draft,
    pub(super) source: Source,
    /// WHERE is done.
    pub(super) filtered: bool,
    /// The SELECT list is done.
    pub(super) projected: bool,
}

/// What the tables of a join are called.
struct Tables([Option<String>; 2]);

impl Tables {
    /// The side and column of `a.x`.
    fn side<'n>(&self, name: &'n Name) -> Option<(usize, &'n str)> {
        let [table, column] = name.parts.as_slice() else { return None };
        Some((self.of(&table.text)?, &column.text))
    }

    fn of(&self, table: &str) -> Option<usize> {
        self.0.iter().position(|known| known.as_deref() == Some(table))
    }

    /// The names of an expression as those of a join: `left.x` for `a.x`.
    fn rename(&self, name: &Name) -> Option<(Range<usize>, String)> {
        let table = name.parts.first().filter(|_| name.parts.len() > 1)?;
        Some((table.range.clone(), SIDES[self.of(&table.text)?].to_owned()))
    }
}

impl Compiler<'_> {
    pub(super) fn join(&mut self, select: &Select, join: &Join, outputs: &[Output<'_>]) -> Option<Joined> {
        let sides = [&select.from, &join.table];
        if let Some(windows) = sides.iter().find_map(|side| side.windows.as_ref()) {
            let help = "rows of the same window meet in the operator `join`, with `window: { tumbling: 1m }`; windows of what a join \
                        gives are a query of their own";
            self.problem(
                codes::QUERY_CLAUSE,
                &windows.range,
                "a window of a table that is joined is not supported in a query",
                help,
            );
            return None;
        }
        let tables = Tables(sides.map(|side| called(side).map(str::to_owned)));
        if tables.0[0] == tables.0[1] {
            let help = "give one of them, or both, another name: `FROM bids AS a JOIN bids AS b`";
            let range = &join.table.name.range;
            self.problem(codes::QUERY_JOIN, range, "the two tables can't be told apart by their names", help);
            return None;
        }
        let span = self.span(&join.range);
        let mut entries = Vec::new();
        for (key, side) in SIDES.iter().zip(sides) {
            let input = self.table(side)?;
            entries.push(entry(key, self.span(&side.name.range), input));
        }
        let mut residual: Vec<&Condition> = Vec::new();
        let matches = self.matches(join, &tables, &mut residual)?;
        entries.push(entry("match", self.span(&join.on_range), matches));
        let (within, times) = self.within(&mut residual, &tables)?;
        entries.extend(within);
        if join.kind != JoinKind::Inner {
            let kind = match join.kind {
                JoinKind::Inner => "inner",
                JoinKind::Left => "left",
                JoinKind::Right => "right",
                JoinKind::Full => "full",
                JoinKind::Semi => "semi",
                JoinKind::Anti => "anti",
            };
            entries.push(entry("join", span, string(span, kind)));
        }
        // Of an inner join, a condition on pairs is one on matches.
        let filter = select.filter.as_ref().filter(|_| join.kind == JoinKind::Inner);
        let conditions: Vec<&Term> = residual.iter().map(|condition| &condition.term).chain(filter).collect();
        if let Some(first) = conditions.first() {
            let span = self.span(&first.range);
            let pieces = conditions.iter().map(|term| renamed(term, |name| tables.rename(name))).collect();
            entries.push(entry("where", span, self.query().composed(&all(pieces))));
        }
        let filtered = filter.is_some() || select.filter.is_none();
        let named = |side: usize| tables.0[side].clone().unwrap_or_default();
        let (source, columns, projected) = if !has_pairs(join.kind) {
            self.check_left(select, outputs, &tables)?;
            (Source { tables: vec![named(0)], names: Vec::new() }, None, false)
        } else if filtered && !is_grouped(select) {
            let source = Source { tables: vec![named(0), named(1)], names: Vec::new() };
            (source, Some(self.chosen(select, outputs, &tables)?), true)
        } else {
            let (columns, source) = self.staged(select, &tables);
            (source, Some(columns), false)
        };
        entries.extend(columns.map(|columns| entry("columns", self.span(&select.range), columns)));
        let mut draft = Draft::new("join", "join", span, entries);
        draft.times = times;
        Some(Joined { draft, source, filtered, projected })
    }

    /// The columns that are equal; all other conditions are `residual`.
    fn matches<'q>(&mut self, join: &'q Join, tables: &Tables, residual: &mut Vec<&'q Condition>) -> Option<Node> {
        let mut pairs: Vec<Entry> = Vec::new();
        for condition in &join.on {
            let sides = condition.equal.as_ref().and_then(|(a, b)| Some((tables.side(a)?, tables.side(b)?, a, b)));
            let (left, right, left_name, right_name) = match sides {
                Some(((0, left), (1, right), a, b)) => (left, right, a, b),
                Some(((1, right), (0, left), b, a)) => (left, right, a, b),
                _ => {
                    residual.push(condition);
                    continue;
                }
            };
            if pairs.iter().any(|pair| pair.key == left) {
                residual.push(condition);
                continue;
            }
            let right = string(self.span(&right_name.range()), right);
            pairs.push(entry(left, self.span(&left_name.range()), right));
        }
        if pairs.is_empty() {
            let help = "write the columns with their tables: `ON a.x = b.y`; what is computed first is computed by a `map` before";
            self.problem(
                codes::QUERY_JOIN,
                &join.on_range,
                "no column of one table is equal to one of the other here",
                help,
            );
            return None;
        }
        Some(map(self.span(&join.on_range), pairs))
    }

    /// How near rows are in event time, where two conditions bound that.
    fn within(&mut self, residual: &mut Vec<&Condition>, tables: &Tables) -> Option<(Option<Entry>, Vec<TimeColumn>)> {
        // Of a bound: the columns of both sides, and whether it is `before`, with how much that is.
        let read = |bound: &Bound| -> Option<([Name; 2], bool, i64)> {
            let sides = (tables.side(&bound.value)?.0, tables.side(&bound.other)?.0);
            let Bound { value, other, offset_ns, at_least, .. } = bound;
            Some(match sides {
                (0, 1) => ([value.clone(), other.clone()], !at_least, if *at_least { -offset_ns } else { *offset_ns }),
                (1, 0) => ([other.clone(), value.clone()], *at_least, if *at_least { -offset_ns } else { *offset_ns }),
                _ => return None,
            })
        };
        let texts = |names: &[Name; 2]| {
            names.each_ref().map(|name| name.parts.iter().map(|part| part.text.clone()).collect::<Vec<_>>())
        };
        let of = |condition: &Condition| -> Vec<([Name; 2], bool, i64)> {
            condition.bounds.iter().map(read).collect::<Option<Vec<_>>>().unwrap_or_default()
        };
        let Some(columns) =
            residual.iter().flat_map(|condition| of(condition)).find(|(.., ns)| *ns != 0).map(|(names, ..)| names)
        else {
            return Some((None, Vec::new()));
        };
        let bounds = |condition: &Condition| -> Vec<(bool, i64)> {
            let bounds = of(condition);
            let one = bounds.iter().all(|(names, ..)| texts(names) == texts(&columns));
            bounds.into_iter().filter(|_| one).map(|(_, before, ns)| (before, ns)).collect()
        };
        let least = |is_before: bool| {
            let all = residual.iter().flat_map(|condition| bounds(condition));
            all.filter(|(before, _)| *before == is_before).map(|(_, ns)| ns).min()
        };
        let (Some(before), Some(after)) = (least(true), least(false)) else { return Some((None, Vec::new())) };
        let (near, rest): (Vec<&Condition>, Vec<&Condition>) =
            residual.iter().partition(|condition| !bounds(condition).is_empty());
        let range = near.first()?.term.range.start..near.last()?.term.range.end;
        *residual = rest;
        if before < 0 || after < 0 {
            let help = "let the bounds lie on both sides of the time itself: `b.at BETWEEN a.at AND a.at + INTERVAL '1 hour'`, and put a \
                        further condition in brackets";
            self.problem(codes::QUERY_JOIN, &range, "a join does not begin, or end, at a distance", help);
            return None;
        }
        let span = self.span(&range);
        let part = |key: &str, ns: i64| entry(key, span, string(span, TimeSpan(ns).to_string()));
        let within = entry("within", span, map(span, vec![part("before", before), part("after", after)]));
        let time = |(input, name): (usize, &Name)| {
            let column = name.parts.last().map(|part| part.text.clone()).unwrap_or_default();
            TimeColumn { input, column, span: self.span(&name.range()) }
        };
        Some((Some(within), columns.iter().enumerate().map(time).collect()))
    }

    /// Where only left rows come out, no clause behind ON names the right ones.
    fn check_left(&mut self, select: &Select, outputs: &[Output<'_>], tables: &Tables) -> Option<()> {
        let right = |name: &&Name| tables.side(name).is_some_and(|(side, _)| side == 1);
        let Some(name) = terms(select, outputs).flat_map(|term| &term.names).find(right) else { return Some(()) };
        let help = "leave it out; `JOIN` and `LEFT JOIN` have the columns of both, and ON may name both";
        let message = "only left rows come out of this join, without columns of the right table";
        self.problem(codes::QUERY_JOIN, &name.range(), message, help);
        None
    }

    /// The SELECT list as the columns of the join.
    fn chosen(&mut self, select: &Select, outputs: &[Output<'_>], tables: &Tables) -> Option<Node> {
        let span = self.span(&select.range);
        let star = select.items.iter().any(|item| matches!(item, Item::All { .. }));
        if !star {
            let column = |output: &Output<'_>| {
                let pieces = renamed(output.term, |name| tables.rename(name));
                entry(&output.name, self.span(&output.range), self.query().composed(&pieces))
            };
            return Some(map(span, outputs.iter().map(column).collect()));
        }
        let mut names = Vec::new();
        for item in &select.items {
            match item {
                Item::All { table: None, range } => {
                    names.extend(SIDES.iter().map(|side| string(self.span(range), format!("{side}.*"))));
                }
                Item::All { table: Some(table), range } => {
                    let Some(side) = tables.of(&table.text) else {
                        let message = format!("there is no table `{}` in this query", table.text);
                        self.problem(codes::QUERY_TABLE, &table.range, message, "name one of FROM");
                        return None;
                    };
                    names.push(string(self.span(range), format!("{}.*", SIDES[side])));
                }
                Item::Column { term, alias } => {
                    let name = term.names.first().filter(|name| term.plain && name.parts.len() <= 2);
                    let same = |name: &&Name| {
                        alias.as_ref().is_none_or(|alias| name.parts.last().is_some_and(|last| last.text == alias.text))
                    };
                    let Some(name) = name.filter(same) else {
                        let help = "name the columns one by one, or let a query behind it compute this one";
                        let message = "`*` beside what is computed or renamed is not supported in a join";
                        self.problem(codes::QUERY_CLAUSE, &term.range, message, help);
                        return None;
                    };
                    let text = match tables.side(name) {
                        Some((side, column)) => format!("{}.{column}", SIDES[side]),
                        None => name.parts.iter().map(|part| part.text.as_str()).collect::<Vec<_>>().join("."),
                    };
                    names.push(string(self.span(&term.range), text));
                }
            }
        }
        Some(list(span, names))
    }

    /// The columns that the clauses behind a join read, each under a name of its own.
    fn staged(&mut self, select: &Select, tables: &Tables) -> (Node, Source) {
        let span = self.span(&select.range);
        let named = tables.0.iter().map(|name| name.clone().unwrap_or_default()).collect();
        let mut source = Source { tables: named, names: Vec::new() };
        if select.items.iter().any(|item| matches!(item, Item::All { .. })) && !is_grouped(select) {
            return (all_columns(span, &SIDES), source);
        }
        let mut fresh = Fresh { text: self.query().text().unwrap_or_default().to_owned(), given: Vec::new() };
        let mut columns: Vec<Entry> = Vec::new();
        let aliases: Vec<&str> = select
            .items
            .iter()
            .filter_map(|item| match item {
                Item::Column { alias: Some(alias), .. } => Some(alias.text.as_str()),
                _ => None,
            })
            .collect();
        // Names of SELECT stand in HAVING and ORDER BY for what it computes.
        let listed = select.items.iter().filter_map(|item| match item {
            Item::Column { term, .. } => Some((term, false)),
            Item::All { .. } => None,
        });
        let before =
            select.filter.iter().chain(select.group_by.iter().flat_map(|(terms, _)| terms)).map(|term| (term, false));
        let behind = select.having.iter().map(|term| (term, true));
        for (term, may_be_alias) in listed.chain(before).chain(behind) {
            for name in &term.names {
                let Some(first) = name.parts.first() else { continue };
                let table = tables.of(&first.text).filter(|_| name.parts.len() > 1);
                let is_param = table.is_none() && first.text == "param" && name.parts.len() > 1;
                let is_alias =
                    may_be_alias && !term.aggregates && table.is_none() && aliases.contains(&first.text.as_str());
                let column = &name.parts[usize::from(table.is_some())];
                let key = (table, column.text.clone());
                if is_param || is_alias || source.names.iter().any(|(known, _)| *known == key) {
                    continue;
                }
                let taken = columns.iter().any(|entry| entry.key == column.text);
                let new =
                    if taken { fresh.name(&format!("{}_{}", first.text, column.text)) } else { column.text.clone() };
                let range = first.range.start..column.range.end;
                let mut pieces = Vec::new();
                if let Some(side) = table {
                    pieces.push(Piece::Instead(first.range.clone(), SIDES[side].to_owned()));
                    pieces.push(Piece::Of(first.range.end..range.end));
                } else {
                    pieces.push(Piece::Of(range.clone()));
                }
                columns.push(entry(&new, self.span(&range), self.query().composed(&pieces)));
                source.names.push((key, new));
            }
        }
        if columns.is_empty() {
            // Only rows are counted.
            return (all_columns(span, &SIDES[..1]), source);
        }
        (map(span, columns), source)
    }
}

/// All expressions behind FROM.
fn terms<'q>(select: &'q Select, outputs: &'q [Output<'q>]) -> impl Iterator<Item = &'q Term> {
    let grouped = select.group_by.iter().flat_map(|(terms, _)| terms);
    let ordered = select.order_by.iter().map(|order| &order.term);
    let listed = outputs.iter().map(|output| output.term);
    listed.chain(&select.filter).chain(grouped).chain(&select.having).chain(ordered)
}
