//! The clauses of a SELECT as steps, in the order in which they act: WHERE, groups, HAVING, the list, DISTINCT, ORDER BY.

use super::text::{all, entry, list, map, quoted, renamed, string};
use super::{Compiler, Draft, TimeColumn, called, is_grouped};
use engine_base::Span;
use engine_base::codes::query as codes;
use engine_expr::query::{Interval, Item, JoinKind, Name, Order, Select, Term, WindowForm, Windows, Word};
use engine_spec::{Entry, Node, Piece, TimeSpan, Value};
use std::ops::Range;

/// The bounds of a window.
const BOUNDS: [&str; 2] = ["window_start", "window_end"];

/// What the names of a query are called in the steps behind its FROM.
#[derive(Default)]
pub(super) struct Source {
    /// What its tables are called.
    pub(super) tables: Vec<String>,
    /// (table, column) to the name that it has behind a join, where that is another.
    pub(super) names: Vec<((Option<usize>, String), String)>,
}

impl Source {
    /// How many parts of a name are its column, and what that is called. Parameters are none.
    fn resolve(&self, name: &Name) -> Option<(usize, String)> {
        let first = name.parts.first()?;
        let table = self.tables.iter().position(|table| *table == first.text);
        let (parts, key) = match (table, name.parts.get(1)) {
            (Some(table), Some(column)) => (2, (Some(table), column.text.clone())),
            (None, Some(_)) if first.text == "param" => return None,
            _ => (1, (None, first.text.clone())),
        };
        let known = self.names.iter().find(|(known, _)| *known == key);
        Some((parts, known.map_or(key.1, |(_, name)| name.clone())))
    }

    /// The column that a name is, where it is no field of one.
    pub(super) fn column(&self, name: &Name) -> Option<String> {
        self.resolve(name).filter(|(parts, _)| *parts == name.parts.len()).map(|(_, column)| column)
    }

    /// The bytes of a name that go, and what comes for them.
    fn rename(&self, name: &Name) -> Option<(Range<usize>, String)> {
        let (parts, column) = self.resolve(name)?;
        let (first, last) = (&name.parts[0], &name.parts[parts - 1]);
        if last.text == column {
            // The table goes; the column stays as it is written.
            return (parts > 1).then(|| (first.range.start..last.range.start, String::new()));
        }
        Some((first.range.start..last.range.end, quoted(&column)))
    }
}

/// A column of the SELECT list.
pub(super) struct Output<'q> {
    pub(super) name: String,
    pub(super) term: &'q Term,
    /// Where it is named.
    pub(super) range: Range<usize>,
}

/// A column of GROUP BY.
struct Key<'q> {
    column: String,
    term: &'q Term,
    /// It is computed, under a name that nobody wrote.
    computed: bool,
}

impl Compiler<'_> {
    /// The steps of a SELECT, the last of which is `name`.
    pub(super) fn select(&mut self, select: &Select, name: &str) -> Option<()> {
        if let Some(filter) = select.filter.as_ref().filter(|filter| filter.aggregates) {
            let help = "conditions on the rows of a group as a whole stand in HAVING";
            self.problem(codes::QUERY_GROUP, &filter.range, "an aggregate in WHERE, before there are groups", help);
            return None;
        }
        let outputs = self.outputs(select)?;
        let mut drafts = Vec::new();
        let mut source = Source::default();
        let (mut filtered, mut projected) = (false, false);
        let mut input = None;
        match &select.join {
            Some(join) => {
                let joined = self.join(select, join, &outputs)?;
                (source, filtered, projected) = (joined.source, joined.filtered, joined.projected);
                drafts.push(joined.draft);
            }
            None => {
                source.tables.extend(called(&select.from).map(str::to_owned));
                let span = self.span(&select.from.name.range);
                input = Some(entry("input", span, self.table(&select.from)?));
            }
        }
        self.check_stars(select, &source)?;
        if let Some(filter) = select.filter.as_ref().filter(|_| !filtered) {
            let pieces = renamed(filter, |name| source.rename(name));
            let span = self.span(&filter.range);
            let condition = entry("where", span, self.query().composed(&pieces));
            drafts.push(Draft::new("where", "filter", span, vec![condition]));
        }
        if is_grouped(select) {
            self.group(select, &outputs, &source, &mut drafts)?;
        } else if let Some(windows) = &select.from.windows {
            let help = "add `GROUP BY window_start, window_end`; rows as they come have no window";
            self.problem(
                codes::QUERY_GROUP,
                &windows.range,
                "windows come out as groups, and there is no GROUP BY",
                help,
            );
            return None;
        } else if !projected {
            drafts.extend(self.project(select, &outputs, &source));
        }
        if let Some(distinct) = &select.distinct {
            drafts.push(Draft::new("distinct", "distinct", self.span(distinct), Vec::new()));
        }
        if let Some((limit, range)) = &select.limit {
            let top = self.top(select, &outputs, *limit, range)?;
            drafts.push(top);
        }
        if drafts.is_empty() {
            // All rows as they are.
            let span = self.span(&select.range);
            drafts.push(Draft::new("where", "filter", span, vec![entry("where", span, string(span, "true"))]));
        }
        if let (Some(input), Some(first)) = (input, drafts.first_mut()) {
            first.entries.insert(0, input);
        }
        self.chain(name, drafts);
        Some(())
    }

    /// The columns of the SELECT list, each with a name of its own.
    fn outputs<'q>(&mut self, select: &'q Select) -> Option<Vec<Output<'q>>> {
        let mut outputs: Vec<Output<'q>> = Vec::new();
        let mut sound = true;
        for item in &select.items {
            let Item::Column { term, alias } = item else { continue };
            let Some(Word { text: name, range }) = name_of(term, alias.as_ref()) else {
                let help = "write `AS` and a name behind it";
                self.problem(codes::QUERY_NAME, &term.range, "this column has no name", help);
                sound = false;
                continue;
            };
            if outputs.iter().any(|other| other.name == name) {
                let message = format!("two columns are named `{name}`");
                self.problem(codes::QUERY_NAME, &range, message, "give one of them another name: `x AS y`");
                sound = false;
                continue;
            }
            outputs.push(Output { name, term, range });
        }
        sound.then_some(outputs)
    }

    /// Stars name a table that is there, and stand where all columns are known.
    fn check_stars(&mut self, select: &Select, source: &Source) -> Option<()> {
        for (at, item) in select.items.iter().enumerate() {
            let Item::All { table, range } = item else { continue };
            if let Some(table) = table.as_ref().filter(|table| !source.tables.contains(&table.text)) {
                let message = format!("there is no table `{}` in this query", table.text);
                let tables: Vec<String> = source.tables.iter().map(|table| format!("`{table}`")).collect();
                self.problem(codes::QUERY_TABLE, &table.range, message, format!("there is {}", tables.join(" and ")));
                return None;
            }
            if is_grouped(select) {
                let help = "name the columns of GROUP BY that should come out";
                self.problem(
                    codes::QUERY_GROUP,
                    range,
                    "`*` has columns that are neither grouped nor aggregated",
                    help,
                );
                return None;
            }
            if at > 0 && select.join.is_none() {
                let help = "new columns stand at the end: `SELECT *, price * 2 AS double`";
                self.problem(codes::QUERY_CLAUSE, range, "`*` behind another column is not supported in a query", help);
                return None;
            }
        }
        Some(())
    }

    /// The list of a SELECT without groups. None where all columns come out as they are.
    fn project(&mut self, select: &Select, outputs: &[Output<'_>], source: &Source) -> Option<Draft> {
        let mut set = Vec::new();
        for output in outputs {
            let column = output.term.names.first().filter(|_| output.term.plain).and_then(|name| source.column(name));
            if column.as_deref() != Some(&output.name) {
                let pieces = renamed(output.term, |name| source.rename(name));
                set.push(entry(&output.name, self.span(&output.range), self.query().composed(&pieces)));
            }
        }
        let all = select.items.iter().any(|item| matches!(item, Item::All { .. }));
        if all && set.is_empty() { None } else { Some(self.map(select, set, (!all).then_some(outputs))) }
    }

    fn map(&self, select: &Select, set: Vec<Entry>, keep: Option<&[Output<'_>]>) -> Draft {
        let span = self.span(&select.range);
        let mut entries = Vec::new();
        if !set.is_empty() {
            entries.push(entry("set", span, map(span, set)));
        }
        if let Some(outputs) = keep {
            let names = outputs.iter().map(|output| string(self.span(&output.range), output.name.clone())).collect();
            entries.push(entry("keep", span, list(span, names)));
        }
        Draft::new("select", "map", span, entries)
    }

    /// Groups, HAVING and the list.
    fn group(
        &mut self,
        select: &Select,
        outputs: &[Output<'_>],
        source: &Source,
        drafts: &mut Vec<Draft>,
    ) -> Option<()> {
        let windows = select.from.windows.as_ref();
        let column = |term: &Term| term.names.first().filter(|_| term.plain).and_then(|name| source.column(name));
        let bound = |column: &str| windows.is_some() && BOUNDS.contains(&column);
        let mut keys: Vec<Key<'_>> = Vec::new();
        let mut fresh = Fresh { text: self.query().text().unwrap_or_default().to_owned(), given: Vec::new() };
        let (mut bounded, mut computed) = (false, Vec::new());
        for term in select.group_by.iter().flat_map(|(terms, _)| terms) {
            let Some(column) = column(term) else {
                let name = fresh.name("key");
                let pieces = renamed(term, |name| source.rename(name));
                computed.push(entry(&name, self.span(&term.range), self.query().composed(&pieces)));
                keys.push(Key { column: name, term, computed: true });
                continue;
            };
            if bound(&column) {
                bounded = true;
                continue;
            }
            // A name that SELECT gives, unless a column of the input is known to have it as well.
            let is_given = |output: &&Output<'_>| {
                let reads = output.term.names.iter().any(|name| source.column(name).as_ref() == Some(&column));
                output.name == column && !reads && !output.term.aggregates
            };
            if let Some(output) = outputs.iter().find(is_given) {
                let message = format!("`{column}` is a name that SELECT gives, and groups are of what it reads");
                let written =
                    self.query().text().and_then(|text| text.get(output.term.range.clone())).unwrap_or_default();
                let help = format!("write what it stands for: `GROUP BY {written}`");
                self.problem(codes::QUERY_GROUP, &term.range, message, help);
                return None;
            }
            if !keys.iter().any(|key| key.column == column) {
                keys.push(Key { column, term, computed: false });
            }
        }
        if let Some(windows) = windows.filter(|_| !bounded) {
            let range = select.group_by.as_ref().map_or(&windows.range, |(_, range)| range);
            let help = "add `window_start, window_end` to GROUP BY";
            self.problem(codes::QUERY_GROUP, range, "groups of a window are told apart by its bounds", help);
            return None;
        }
        if !computed.is_empty() {
            let span = select.group_by.as_ref().map_or(self.span(&select.range), |(_, range)| self.span(range));
            drafts.push(Draft::new("keys", "map", span, vec![entry("set", span, map(span, computed))]));
        }

        // The aggregates under the names of their columns, where no other has them.
        let mut columns: Vec<Entry> = Vec::new();
        let mut made: Vec<(&str, String)> = Vec::new();
        for output in outputs.iter().filter(|output| output.term.aggregates) {
            let taken = keys.iter().any(|key| key.column == output.name) || bound(&output.name);
            let name = if taken { fresh.name(&output.name) } else { output.name.clone() };
            let pieces = renamed(output.term, |name| source.rename(name));
            columns.push(entry(&name, self.span(&output.range), self.query().composed(&pieces)));
            made.push((&output.name, name));
        }
        let behind = |name: &Name| -> Option<String> {
            let column = source.column(name)?;
            let is_key = keys.iter().any(|key| !key.computed && key.column == column) || bound(&column);
            is_key.then_some(column)
        };
        let mut conditions = Vec::new();
        for term in &select.having {
            if term.aggregates {
                let name = fresh.name("having");
                let pieces = renamed(term, |name| source.rename(name));
                columns.push(entry(&name, self.span(&term.range), self.query().composed(&pieces)));
                conditions.push(vec![Piece::Instead(term.range.clone(), name)]);
                continue;
            }
            let column = |name: &Name| {
                let given = name.parts.first().filter(|_| name.parts.len() == 1);
                let made = given.and_then(|given| made.iter().find(|(output, _)| *output == given.text));
                behind(name).or_else(|| made.map(|(_, column)| column.clone()))
            };
            self.check_grouped(term, |name| column(name).is_some() || source.column(name).is_none())?;
            conditions.push(renamed(term, |name| Some((name.range(), quoted(&column(name)?)))));
        }
        if columns.is_empty() {
            // What comes out is the groups alone.
            let span = self.span(&select.range);
            columns.push(entry(&fresh.name("rows"), span, string(span, "count(*)")));
        }
        let mut entries = Vec::new();
        let span = match (windows, &select.group_by) {
            (Some(windows), _) => self.span(&windows.range),
            (None, Some((_, range))) => self.span(range),
            (None, None) => self.span(&select.range),
        };
        if !keys.is_empty() {
            let names = keys.iter().map(|key| string(self.span(&key.term.range), key.column.clone())).collect();
            entries.push(entry("key", span, list(span, names)));
        }
        entries.extend(windows.map(|windows| self.windows(windows)));
        entries.push(entry("columns", span, map(span, columns)));
        let kind = if windows.is_some() { "window" } else { "aggregate" };
        let mut draft = Draft::new(kind, kind, span, entries);
        if let Some(time) = windows.and_then(|windows| windows.time.as_ref()) {
            draft.times.push(TimeColumn { input: 0, column: time.text.clone(), span: self.span(&time.range) });
        }
        drafts.push(draft);
        if !conditions.is_empty() {
            let condition = self.query().composed(&all(conditions));
            let span = condition.span;
            drafts.push(Draft::new("having", "filter", span, vec![entry("where", span, condition)]));
        }

        let mut set = Vec::new();
        for output in outputs {
            let made = made.iter().find(|(name, _)| *name == output.name).map(|(_, column)| column.clone());
            let plain = || output.term.names.first().filter(|_| output.term.plain).and_then(behind);
            let of_key = || keys.iter().find(|key| key.computed && key.term.form == output.term.form);
            let pieces = match made.or_else(plain).or_else(|| of_key().map(|key| key.column.clone())) {
                Some(column) if column == output.name => continue,
                Some(column) => vec![Piece::Instead(output.term.range.clone(), quoted(&column))],
                None => {
                    self.check_grouped(output.term, |name| {
                        source
                            .resolve(name)
                            .is_none_or(|(parts, _)| behind(&Name { parts: name.parts[..parts].to_vec() }).is_some())
                    })?;
                    renamed(output.term, |name| source.rename(name))
                }
            };
            set.push(entry(&output.name, self.span(&output.range), self.query().composed(&pieces)));
        }
        drafts.push(self.map(select, set, Some(outputs)));
        Some(())
    }

    /// Notes the first name that is neither grouped nor aggregated.
    fn check_grouped(&mut self, term: &Term, is_known: impl Fn(&Name) -> bool) -> Option<()> {
        let Some(name) = term.names.iter().find(|name| !is_known(name)) else { return Some(()) };
        let range = name.range();
        let written = self.query().text().and_then(|text| text.get(range.clone())).unwrap_or_default().to_owned();
        let message = format!("`{written}` is neither grouped nor aggregated");
        let help = format!("add it to GROUP BY, or take an aggregate: `max({written})`, `last({written})`");
        self.problem(codes::QUERY_GROUP, &range, message, help);
        None
    }

    /// The key of `window` that says how rows fall into windows.
    fn windows(&self, windows: &Windows) -> Entry {
        let span = self.span(&windows.range);
        let value = |interval: &Interval| string(self.span(&interval.range), TimeSpan(interval.ns).to_string());
        let part = |key: &str, interval: &Interval| entry(key, self.span(&interval.range), value(interval));
        let offset = windows.offset.as_ref().map(|offset| part("offset", offset));
        match &windows.form {
            WindowForm::Tumble { size } if offset.is_none() => entry("tumbling", span, value(size)),
            WindowForm::Tumble { size } => {
                entry("tumbling", span, map(span, std::iter::once(part("size", size)).chain(offset).collect()))
            }
            WindowForm::Hop { slide, size } => {
                let parts = [part("size", size), part("every", slide)].into_iter().chain(offset).collect();
                entry("hopping", span, map(span, parts))
            }
            WindowForm::Session { gap } => entry("session", span, map(span, vec![part("gap", gap)])),
        }
    }

    /// ORDER BY and LIMIT, over the columns of the list.
    fn top(&mut self, select: &Select, outputs: &[Output<'_>], limit: u64, range: &Range<usize>) -> Option<Draft> {
        let by =
            select.order_by.iter().map(|order| self.order(select, outputs, order)).collect::<Option<Vec<Node>>>()?;
        let range = select.order_by.first().map_or(range.clone(), |first| first.term.range.start..range.end);
        let span = self.span(&range);
        let limit = Node::new(self.span(&select.limit.as_ref()?.1), Value::Int(limit.into()));
        Some(Draft::new("top", "top", span, vec![entry("by", span, list(span, by)), entry("limit", span, limit)]))
    }

    fn order(&mut self, select: &Select, outputs: &[Output<'_>], order: &Order) -> Option<Node> {
        let term = &order.term;
        let all = select.items.iter().any(|item| matches!(item, Item::All { .. }));
        let given = |name: &Name| -> Option<String> {
            let texts = |name: &Name| name.parts.iter().map(|part| part.text.clone()).collect::<Vec<_>>();
            let written = texts(name);
            let by_name = outputs.iter().find(|output| written == [output.name.as_str()]);
            let by_column = || {
                outputs.iter().find(|output| {
                    let Some(other) = output.term.names.first().filter(|_| output.term.plain).map(texts) else {
                        return false;
                    };
                    other == written || other.last() == written.last() && (other.len() == 1 || written.len() == 1)
                })
            };
            by_name.or_else(by_column).map(|output| output.name.clone())
        };
        let whole = outputs.iter().find(|output| !term.plain && output.term.form == term.form);
        let mut pieces = match whole {
            Some(output) => vec![Piece::Instead(term.range.clone(), quoted(&output.name))],
            None => {
                let tables: Vec<&str> = [Some(&select.from), select.join.as_ref().map(|join| &join.table)]
                    .into_iter()
                    .flatten()
                    .filter_map(called)
                    .collect();
                let unknown = term.names.iter().find(|name| {
                    given(name).is_none() && !all && name.parts.first().is_none_or(|first| first.text != "param")
                });
                if let Some(range) = term.aggregates.then(|| term.range.clone()).or_else(|| unknown.map(Name::range)) {
                    let text = self.query().text().unwrap_or_default();
                    let written = text.get(range.clone()).unwrap_or_default().to_owned();
                    let message = format!("rows are ordered by what comes out, and `{written}` is not in SELECT");
                    self.problem(codes::QUERY_NAME, &range, message, "add it to the SELECT list");
                    return None;
                }
                renamed(term, |name| match (given(name), name.parts.as_slice()) {
                    (Some(output), _) => Some((name.range(), quoted(&output))),
                    (None, [table, column, ..]) if tables.contains(&table.text.as_str()) => {
                        Some((table.range.start..column.range.start, String::new()))
                    }
                    _ => None,
                })
            }
        };
        let words = [(order.descending, " desc"), (order.nulls_first == Some(true), " nulls first")];
        let end = term.range.end.saturating_sub(1)..term.range.end;
        pieces.extend(
            words.iter().filter(|(said, _)| *said).map(|(_, word)| Piece::Instead(end.clone(), (*word).to_owned())),
        );
        Some(self.query().composed(&pieces))
    }
}

/// What a column of the SELECT list is called.
pub(super) fn name_of(term: &Term, alias: Option<&Word>) -> Option<Word> {
    let plain = || term.names.first().filter(|_| term.plain)?.parts.last();
    alias.or_else(plain).cloned()
}

/// Names that stand nowhere in the query, so that no column that it reads has them.
pub(super) struct Fresh {
    pub(super) text: String,
    pub(super) given: Vec<String>,
}

impl Fresh {
    pub(super) fn name(&mut self, base: &str) -> String {
        let free = |name: &String| !self.text.contains(name.as_str()) && !self.given.contains(name);
        let numbered = (1u32..).map(|number| match number {
            1 => base.to_owned(),
            number => format!("{base}_{number}"),
        });
        let name = numbered.into_iter().find(free).unwrap_or_default();
        self.given.push(name.clone());
        name
    }
}

/// Whether a join puts out pairs.
pub(super) fn has_pairs(kind: JoinKind) -> bool {
    !matches!(kind, JoinKind::Semi | JoinKind::Anti)
}

/// A place that is as good as any, for what nobody wrote.
pub(super) fn all_columns(span: Span, sides: &[&str]) -> Node {
    list(span, sides.iter().map(|side| string(span, format!("{side}.*"))).collect())
}
