//! Which columns are not null in a row for which a condition is true.
//!
//! Everything here errs on the side of "may be null".

use datafusion_expr::expr::{Between, BinaryExpr, Cast, InList, Like, ScalarFunction};
use datafusion_expr::{Expr, Operator};
use std::collections::BTreeSet;

type Columns = BTreeSet<String>;

/// The columns that a true condition proves.
pub(crate) fn when_true(condition: &Expr) -> Columns {
    match condition {
        Expr::BinaryExpr(BinaryExpr { left, op: Operator::And, right }) => union(when_true(left), when_true(right)),
        Expr::BinaryExpr(BinaryExpr { left, op: Operator::Or, right }) => both(when_true(left), when_true(right)),
        Expr::BinaryExpr(BinaryExpr { left, op: Operator::IsNotDistinctFrom, right }) => match (&**left, &**right) {
            (value, Expr::Literal(literal, _)) | (Expr::Literal(literal, _), value) if !literal.is_null() => {
                when_known(value)
            }
            _ => Columns::new(),
        },
        Expr::Not(inner) | Expr::IsFalse(inner) => when_false(inner),
        Expr::IsTrue(inner) => when_true(inner),
        Expr::IsNotNull(inner) | Expr::IsNotUnknown(inner) => when_known(inner),
        Expr::Between(Between { expr, negated: false, low, high }) => {
            union(when_known(expr), union(when_known(low), when_known(high)))
        }
        Expr::Between(Between { expr, .. }) => when_known(expr),
        Expr::InList(InList { expr, .. }) => when_known(expr),
        other => when_known(other),
    }
}

/// The columns that a false condition proves.
fn when_false(condition: &Expr) -> Columns {
    match condition {
        Expr::BinaryExpr(BinaryExpr { left, op: Operator::And, right }) => both(when_false(left), when_false(right)),
        Expr::BinaryExpr(BinaryExpr { left, op: Operator::Or, right }) => union(when_false(left), when_false(right)),
        Expr::Not(inner) => when_true(inner),
        Expr::IsNull(inner) | Expr::IsUnknown(inner) => when_known(inner),
        Expr::Between(Between { expr, negated: true, low, high }) => {
            union(when_known(expr), union(when_known(low), when_known(high)))
        }
        Expr::Between(Between { expr, .. }) | Expr::InList(InList { expr, .. }) => when_known(expr),
        other => when_known(other),
    }
}

/// The columns that are not null where the value isn't.
fn when_known(value: &Expr) -> Columns {
    match value {
        Expr::Column(column) => Columns::from([column.name.clone()]),
        Expr::Cast(Cast { expr, .. }) => when_known(expr),
        Expr::TryCast(cast) => when_known(&cast.expr),
        Expr::Negative(inner) | Expr::Not(inner) => when_known(inner),
        Expr::Like(Like { expr, pattern, .. }) | Expr::SimilarTo(Like { expr, pattern, .. }) => {
            union(when_known(expr), when_known(pattern))
        }
        Expr::BinaryExpr(BinaryExpr { left, op, right }) if op.returns_null_on_null() => {
            union(when_known(left), when_known(right))
        }
        // A list with a null in it is null for what it doesn't hold, but the value itself is known.
        Expr::InList(InList { expr, .. }) | Expr::Between(Between { expr, .. }) => when_known(expr),
        Expr::ScalarFunction(ScalarFunction { func, args }) => match (func.name(), args.as_slice()) {
            ("get_field" | "array_element", [from, ..]) => when_known(from),
            (_, args) if func.is_strict() => args.iter().map(when_known).fold(Columns::new(), union),
            _ => Columns::new(),
        },
        _ => Columns::new(),
    }
}

fn union(mut one: Columns, two: Columns) -> Columns {
    one.extend(two);
    one
}

fn both(one: Columns, two: Columns) -> Columns {
    one.intersection(&two).cloned().collect()
}
