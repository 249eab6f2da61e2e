//! Whether an expression can be null, closer than DataFusion's functions say it: most declare that they may be null
//! whatever they are given.

use datafusion_common::ExprSchema;
use datafusion_expr::{Expr, ExprSchemable};

/// Functions that are never null: they leave nulls out.
const NEVER_NULL: &[&str] = &["concat"];
/// Functions that are null only where every argument is.
const NULL_OF_ALL: &[&str] = &["greatest", "least", "coalesce"];
/// Functions that are null only where an argument is.
const NULL_OF_ANY: &[&str] = &[
    "abs", "ceil", "floor", "round", "trunc", "signum", "exp", "sqrt", "ln", "log10", "log2", "power", "date_part",
    "date_trunc", "upper", "lower", "btrim", "character_length", "octet_length", "starts_with", "ends_with", "strpos",
];

/// Whether the expression can be null over rows of the schema.
pub(crate) fn nullable(expr: &Expr, schema: &dyn ExprSchema) -> bool {
    match expr {
        Expr::ScalarFunction(call) if NEVER_NULL.contains(&call.name()) => false,
        Expr::ScalarFunction(call) if NULL_OF_ALL.contains(&call.name()) => {
            call.args.iter().all(|argument| nullable(argument, schema))
        }
        Expr::ScalarFunction(call) if NULL_OF_ANY.contains(&call.name()) => {
            call.args.iter().any(|argument| nullable(argument, schema))
        }
        Expr::BinaryExpr(binary) => nullable(&binary.left, schema) || nullable(&binary.right, schema),
        Expr::Cast(cast) => nullable(&cast.expr, schema),
        Expr::Alias(alias) => nullable(&alias.expr, schema),
        Expr::Negative(inner) | Expr::Not(inner) => nullable(inner, schema),
        other => other.nullable(schema).unwrap_or(true),
    }
}
