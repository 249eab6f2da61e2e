//! One SELECT: text to clauses, each expression with its place in the text.
//!
//! The text is cut at its clauses by its tokens, and what stands between is read by the parser of expressions. So a query has
//! the expressions of the language and no others, every part knows its bytes (the syntax tree of a whole query does not), and
//! what is not supported is named before a parser stumbles over it. What a clause means is left to who asks.

mod from;
mod select;
#[cfg(test)]
mod tests;
mod words;

use crate::error::ExprError;
use crate::functions::functions;
use crate::parse;
use datafusion_sql::sqlparser::ast::{self, Ident, visit_expressions};
use std::ops::{ControlFlow, Range};

/// One SELECT, or several with UNION ALL between them.
#[derive(Clone, Debug)]
pub struct Query {
    /// In the order of the text.
    pub selects: Vec<Select>,
}

/// One SELECT.
#[derive(Clone, Debug)]
pub struct Select {
    /// All of it.
    pub range: Range<usize>,
    /// DISTINCT, where it stands.
    pub distinct: Option<Range<usize>>,
    /// What comes out.
    pub items: Vec<Item>,
    /// The table, left of a join.
    pub from: Table,
    /// What it is joined with.
    pub join: Option<Join>,
    /// WHERE
    pub filter: Option<Term>,
    /// GROUP BY, and where it stands.
    pub group_by: Option<(Vec<Term>, Range<usize>)>,
    /// HAVING: conditions all of which hold.
    pub having: Vec<Term>,
    /// ORDER BY
    pub order_by: Vec<Order>,
    /// LIMIT: how many, and where that stands.
    pub limit: Option<(u64, Range<usize>)>,
}

/// A part of the SELECT list.
#[derive(Clone, Debug)]
pub enum Item {
    /// All columns, of one table where it is named.
    All {
        /// `b` of `b.*`.
        table: Option<Word>,
        /// Where it stands.
        range: Range<usize>,
    },
    /// An expression.
    Column {
        /// What it is.
        term: Term,
        /// The name behind AS.
        alias: Option<Word>,
    },
}

/// A name in the text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Word {
    /// Without quotes.
    pub text: String,
    /// Where it stands.
    pub range: Range<usize>,
}

/// An expression.
#[derive(Clone, Debug)]
pub struct Term {
    /// Where it stands.
    pub range: Range<usize>,
    /// Its words and signs with one space between: two terms of one form say the same.
    pub form: String,
    /// The columns that it names, in the order of the text.
    pub names: Vec<Name>,
    /// Whether there is an aggregate in it.
    pub aggregates: bool,
    /// It is one name and nothing else.
    pub plain: bool,
    /// It is a number, which in ORDER BY and GROUP BY of other SQL counts columns.
    pub number: bool,
}

/// A column that an expression names: `price`, `b.price`, `b.item.price`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Name {
    /// What stands between the dots.
    pub parts: Vec<Word>,
}

impl Name {
    /// All of it.
    pub fn range(&self) -> Range<usize> {
        let of = |word: Option<&Word>| word.map_or(0..0, |word| word.range.clone());
        of(self.parts.first()).start..of(self.parts.last()).end
    }
}

/// A table of FROM.
#[derive(Clone, Debug)]
pub struct Table {
    /// Its name, with dots between the parts.
    pub name: Word,
    /// What it is called in the query.
    pub alias: Option<Word>,
    /// The windows that its rows fall into.
    pub windows: Option<Windows>,
}

/// `TUMBLE(...)`, `HOP(...)` or `SESSION(...)`.
#[derive(Clone, Debug)]
pub struct Windows {
    /// Which.
    pub form: WindowForm,
    /// By how much they start later.
    pub offset: Option<Interval>,
    /// The column of `DESCRIPTOR(at)`.
    pub time: Option<Word>,
    /// The whole call.
    pub range: Range<usize>,
}

/// How rows fall into windows.
#[derive(Clone, Debug)]
pub enum WindowForm {
    /// One after the other.
    Tumble {
        /// How long.
        size: Interval,
    },
    /// Overlapping.
    Hop {
        /// How long after one the next starts.
        slide: Interval,
        /// How long.
        size: Interval,
    },
    /// Of rows less than a gap apart.
    Session {
        /// The gap.
        gap: Interval,
    },
}

/// `INTERVAL '1 minute'`
#[derive(Clone, Debug)]
pub struct Interval {
    /// How long.
    pub ns: i64,
    /// Where it stands.
    pub range: Range<usize>,
}

/// A join.
#[derive(Clone, Debug)]
pub struct Join {
    /// Which rows come out.
    pub kind: JoinKind,
    /// The words before the table.
    pub range: Range<usize>,
    /// The right side.
    pub table: Table,
    /// ON: conditions all of which hold.
    pub on: Vec<Condition>,
    /// Where they stand.
    pub on_range: Range<usize>,
}

/// Which rows come out of a join.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum JoinKind {
    /// Pairs.
    Inner,
    /// Pairs, and left rows without a match.
    Left,
    /// Pairs, and right rows without a match.
    Right,
    /// Pairs, and rows of either side without a match.
    Full,
    /// Left rows with a match.
    Semi,
    /// Left rows without a match.
    Anti,
}

/// A condition of ON.
#[derive(Clone, Debug)]
pub struct Condition {
    /// As an expression.
    pub term: Term,
    /// `a.x = b.y`
    pub equal: Option<(Name, Name)>,
    /// What it says of how far two columns are apart, such as `a.at >= b.at - INTERVAL '1 minute'`; BETWEEN says two things.
    pub bounds: Vec<Bound>,
}

/// `value` is at least, or at most, `other` and so much.
#[derive(Clone, Debug)]
pub struct Bound {
    /// The column that is bounded.
    pub value: Name,
    /// The column that bounds it.
    pub other: Name,
    /// What is added to that, nanoseconds.
    pub offset_ns: i64,
    /// At least; at most otherwise.
    pub at_least: bool,
    /// Where `other` and the offset stand.
    pub range: Range<usize>,
}

/// A part of ORDER BY.
#[derive(Clone, Debug)]
pub struct Order {
    /// What rows are ordered by.
    pub term: Term,
    /// DESC
    pub descending: bool,
    /// NULLS FIRST, or LAST, where one is said.
    pub nulls_first: Option<bool>,
}

/// Reads a query. What is not supported is told by the name of its clause.
pub fn read(text: &str) -> Result<Query, ExprError> {
    select::query(text)
}

/// Reads the expression at `range` of the query.
fn term(text: &str, range: Range<usize>, form: String) -> Result<Term, ExprError> {
    let part = text.get(range.clone()).unwrap_or_default();
    let parsed = parse::parse(part).map_err(|error| error.within(&range))?;
    let word = |ident: &Ident| {
        let at = parsed.span(ident.span)?;
        Some(Word { text: ident.value.clone(), range: at.start + range.start..at.end + range.start })
    };
    let mut names: Vec<Name> = Vec::new();
    let mut aggregates = false;
    let _ = visit_expressions(&parsed.tree, |expr| {
        match expr {
            ast::Expr::Identifier(ident) => {
                let parts = parsed.dotted(ident).unwrap_or(std::slice::from_ref(ident));
                names.extend(parts.iter().map(word).collect::<Option<Vec<Word>>>().map(|parts| Name { parts }));
            }
            ast::Expr::Function(function) => {
                if let [ast::ObjectNamePart::Identifier(name)] = function.name.0.as_slice() {
                    let name = name.value.to_lowercase();
                    let functions = functions();
                    aggregates |= functions.aggregate(&name).is_some() && functions.scalar(&name).is_none();
                }
            }
            _ => {}
        }
        ControlFlow::<()>::Continue(())
    });
    names.sort_by_key(|name| name.range().start);
    let plain = matches!(&parsed.tree, ast::Expr::Identifier(_)) && names.len() == 1;
    let number = matches!(&parsed.tree, ast::Expr::Value(value) if matches!(value.value, ast::Value::Number(..)));
    Ok(Term { range, form, names, aggregates, plain, number })
}
