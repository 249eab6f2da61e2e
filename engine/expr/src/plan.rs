//! Syntax tree to typed expression, one node at a time.
//!
//! Each node is typed as soon as its parts are: DataFusion coerces it, constant parts are computed, and whatever it refuses
//! is told in our words at that node's place. DataFusion's own planner and simplifier are not used: the one knows no places,
//! the other moves conditions before the conditions that guard them (`(d <> 0 AND 1/d > 2) OR (e AND 1/d > 2)` becomes
//! `1/d > 2 AND (d <> 0 OR e)`) and folds with arithmetic that wraps.
//!
//! A constant part that fails (`1 / 0`) is an error of the text where every row would need it, and is left to the rows where
//! a row may pass it by: in a branch of `CASE`, to the right of `AND` and `OR`, in the later arguments of `coalesce`.

mod calls;
mod literals;
mod names;
mod operators;

use crate::aggregate::{AggregateCall, Aggregation, result_column};
use crate::context::{Context, Scope};
use crate::error::ExprError;
use crate::failure::row_error;
use crate::functions::{Functions, fail, functions};
use crate::panics::catching;
use crate::parse::{Parsed, parse};
use crate::program::{Constant, constant, lower, schema_of};
use crate::scalar::{Hidden, Scalar};
use crate::types::{column_type, type_name};
use arrow::array::RecordBatch;
use arrow::datatypes::{DataType, Field, FieldRef};
use datafusion_common::tree_node::{Transformed, TreeNode, TreeNodeRewriter};
use datafusion_common::{Column, DFSchema, DataFusionError, ScalarValue};
use datafusion_expr::expr::{BinaryExpr, Case, Cast, ScalarFunction};
use datafusion_expr::simplify::{ExprSimplifyResult, SimplifyContext};
use datafusion_expr::{Expr, ExprSchemable, Operator, Volatility};
use datafusion_expr_common::casts::try_cast_literal_to_type;
use datafusion_optimizer::analyzer::type_coercion::TypeCoercionRewriter;
use datafusion_sql::sqlparser::ast::{self, Spanned};
use engine_base::RowError;
use engine_base::codes::expr as codes;
use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::Arc;

/// The deepest tree. A worker's stack holds the evaluation of one that deep many times over.
const MAX_DEPTH: u32 = 150;
/// Longer chains of `AND` or `OR` become balanced trees, which mean the same.
const LONG_CHAIN: usize = 16;

/// Plans an expression over one row.
pub(crate) fn scalar(context: &Context, scope: &Scope, text: &str, condition: bool) -> Result<Scalar, ExprError> {
    let parsed = parse(text)?;
    let mut planner = Planner::new(context, scope, &parsed, Mode::Row);
    let expr = planner.plan(&parsed.tree)?;
    if condition {
        planner.check_condition(&expr, &parsed.tree)?;
    }
    planner.finish(expr, text.trim(), condition)
}

/// Plans an expression over aggregates.
pub(crate) fn aggregate(context: &Context, scope: &Scope, text: &str) -> Result<Aggregation, ExprError> {
    let parsed = parse(text)?;
    let mut planner = Planner::new(context, scope, &parsed, Mode::Around);
    let expr = planner.plan(&parsed.tree)?;
    let outer = planner.finish(expr, text.trim(), false)?;
    // A call may have been simplified away; then nobody needs its state.
    let (calls, outer) = planner.used_calls(outer)?;
    let results: BTreeSet<String> = (0..calls.len()).map(result_column).collect();
    let beside = outer.columns().difference(&results).cloned().collect();
    let mut columns = BTreeSet::new();
    for call in &calls {
        for part in call.args.iter().chain(&call.filter).chain(call.order_by.iter().map(|key| &key.value)) {
            columns.extend(part.columns().iter().cloned());
        }
    }
    Ok(Aggregation { data_type: outer.data_type().clone(), nullable: outer.nullable(), calls, outer, columns, beside })
}

/// Where in an expression the planner is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    /// An expression over one row.
    Row,
    /// Around aggregates: results and the row beside.
    Around,
    /// In an aggregate's argument, filter or order: one row again.
    Within,
}

/// The state of planning one text.
struct Planner<'a> {
    functions: &'static Functions,
    context: &'a Context,
    scope: &'a Scope,
    parsed: &'a Parsed<'a>,
    mode: Mode,
    /// The columns named so far, by the name that a program reads them by.
    used: Vec<FieldRef>,
    /// The same as DataFusion wants it.
    schema: Arc<DFSchema>,
    /// How many `random()` and `uuid()` have been met: each draws numbers of its own.
    draws: u32,
    /// Above zero where a row may pass this part by.
    conditional: u32,
    depth: u32,
    calls: Vec<AggregateCall>,
    /// The group of rows that `count` was given by its name.
    whole: Option<String>,
}

/// Why a node came to nothing.
enum Broken {
    /// Its constant fails.
    Fails(RowError),
    /// DataFusion refuses it.
    Refused(DataFusionError),
}

impl From<DataFusionError> for Broken {
    fn from(error: DataFusionError) -> Self {
        Broken::Refused(error)
    }
}

impl<'a> Planner<'a> {
    fn new(context: &'a Context, scope: &'a Scope, parsed: &'a Parsed<'a>, mode: Mode) -> Self {
        Planner {
            functions: functions(),
            context,
            scope,
            parsed,
            mode,
            used: Vec::new(),
            schema: Arc::clone(DFSchema::empty_ref()),
            draws: 0,
            conditional: 0,
            depth: 0,
            calls: Vec::new(),
            whole: None,
        }
    }

    /// Plans a node and what is below it.
    fn plan(&mut self, node: &ast::Expr) -> Result<Expr, ExprError> {
        if self.depth >= MAX_DEPTH {
            return Err(ExprError::new(
                codes::TOO_LARGE,
                format!("the expression is more than {MAX_DEPTH} operators deep"),
            )
            .help("compute a part of it as a column in a `map` before this step"));
        }
        self.depth += 1;
        let planned = self.node(node);
        self.depth -= 1;
        planned
    }

    /// Plans a part that a row may pass by.
    fn plan_conditional(&mut self, node: &ast::Expr) -> Result<Expr, ExprError> {
        self.conditional += 1;
        let planned = self.plan(node);
        self.conditional -= 1;
        planned
    }

    fn node(&mut self, node: &ast::Expr) -> Result<Expr, ExprError> {
        use ast::Expr as Sql;
        match node {
            Sql::Identifier(ident) => self.identifier(ident),
            Sql::CompoundIdentifier(parts) => self.name(parts),
            Sql::CompoundFieldAccess { root, access_chain } => self.access(root, access_chain, node),
            Sql::Nested(inner) => self.node(inner),
            Sql::Value(value) => self.value(value, node),
            Sql::TypedString(typed) => self.typed_string(typed, node),
            Sql::Interval(interval) => self.interval(interval, node),
            Sql::BinaryOp { left, op: op @ (ast::BinaryOperator::And | ast::BinaryOperator::Or), right } => {
                self.chain(left, op, right, node)
            }
            Sql::BinaryOp { left, op, right } => self.binary(left, op, right, node),
            Sql::UnaryOp { op, expr } => self.unary(*op, expr, node),
            Sql::IsNull(inner) => self.test(inner, Expr::IsNull, node),
            Sql::IsNotNull(inner) => self.test(inner, Expr::IsNotNull, node),
            Sql::IsTrue(inner) => self.test(inner, Expr::IsTrue, node),
            Sql::IsNotTrue(inner) => self.test(inner, Expr::IsNotTrue, node),
            Sql::IsFalse(inner) => self.test(inner, Expr::IsFalse, node),
            Sql::IsNotFalse(inner) => self.test(inner, Expr::IsNotFalse, node),
            Sql::IsUnknown(inner) => self.test(inner, Expr::IsUnknown, node),
            Sql::IsNotUnknown(inner) => self.test(inner, Expr::IsNotUnknown, node),
            Sql::IsDistinctFrom(left, right) => self.compare(left, Operator::IsDistinctFrom, right, node),
            Sql::IsNotDistinctFrom(left, right) => self.compare(left, Operator::IsNotDistinctFrom, right, node),
            Sql::InList { expr, list, negated } => self.in_list(expr, list, *negated, node),
            Sql::Between { expr, negated, low, high } => self.between(expr, *negated, low, high, node),
            Sql::Like { negated, any: false, expr, pattern, escape_char } => {
                self.like(*negated, false, expr, pattern, escape_char.as_ref(), node)
            }
            Sql::ILike { negated, any: false, expr, pattern, escape_char } => {
                self.like(*negated, true, expr, pattern, escape_char.as_ref(), node)
            }
            Sql::SimilarTo { negated, expr, pattern, escape_char: None } => self.matches(
                expr,
                if *negated { Operator::RegexNotMatch } else { Operator::RegexMatch },
                pattern,
                node,
                true,
            ),
            Sql::RLike { negated, expr, pattern, .. } => self.matches(
                expr,
                if *negated { Operator::RegexNotMatch } else { Operator::RegexMatch },
                pattern,
                node,
                false,
            ),
            Sql::AnyOp { left, compare_op: ast::BinaryOperator::Eq, right, .. } => self.any_of(left, right, node),
            Sql::Case { operand, conditions, else_result, .. } => {
                self.case(operand.as_deref(), conditions, else_result.as_deref(), node)
            }
            Sql::Cast { kind, expr, data_type, array: false, format: None } => self.cast(kind, expr, data_type, node),
            Sql::AtTimeZone { timestamp, time_zone } => self.at_time_zone(timestamp, time_zone, node),
            Sql::Function(function) => self.function(function, node),
            Sql::Extract { field, expr, .. } => self.extract(field, expr, node),
            Sql::Position { expr, r#in } => self.named_call("strpos", &[r#in, expr], node),
            Sql::Substring { expr, substring_from, substring_for, .. } => {
                self.substring(expr, substring_from.as_deref(), substring_for.as_deref(), node)
            }
            Sql::Trim { expr, trim_where, trim_what, trim_characters } => {
                self.trim(expr, trim_where.as_ref(), trim_what.as_deref(), trim_characters.as_deref(), node)
            }
            Sql::Overlay { expr, overlay_what, overlay_from, overlay_for } => {
                let mut args: Vec<&ast::Expr> = vec![expr, overlay_what, overlay_from];
                args.extend(overlay_for.as_deref());
                self.named_call("overlay", &args, node)
            }
            Sql::Array(array) => self.named_call("make_array", &array.elem.iter().collect::<Vec<_>>(), node),
            Sql::Dictionary(fields) => self.dictionary(fields, node),
            Sql::Map(map) => self.map_literal(map, node),
            other => Err(self.unsupported(other)),
        }
    }

    /// SQL that is no part of the language, by name.
    fn unsupported(&self, node: &ast::Expr) -> ExprError {
        use ast::Expr as Sql;
        let (what, help) = match node {
            Sql::Subquery(_) | Sql::Exists { .. } | Sql::InSubquery { .. } => (
                "a subquery can't stand in an expression over one row",
                "rows of the past are what `rolling` gives, rows of another stream `join` and `enrich`",
            ),
            Sql::Tuple(_) => ("values in parentheses stand only behind IN", "a list of values is `[a, b]`"),
            Sql::Wildcard(_) | Sql::QualifiedWildcard(..) => ("`*` stands only in `count(*)`", "name the column"),
            Sql::Lambda(_) => ("a lambda is not supported", "`flatten` makes a row of each element of a list"),
            Sql::Like { .. } | Sql::ILike { .. } => ("LIKE ANY is not supported", "join the patterns with OR"),
            Sql::SimilarTo { .. } => ("SIMILAR TO takes no ESCAPE", "write `x ~ 'regex'`"),
            Sql::AnyOp { .. } | Sql::AllOp { .. } => (
                "of ANY and ALL only `= ANY(list)` is supported",
                "`array_min(list)` and `array_max(list)` bound a list",
            ),
            Sql::InUnnest { .. } => ("IN UNNEST is not supported", "write `x = ANY(list)`"),
            Sql::Cast { .. } => ("a cast takes a type only", "write `CAST(x AS type)`"),
            Sql::Collate { .. } => {
                ("COLLATE is not supported", "texts are compared by their bytes; `lower(x)` folds case")
            }
            Sql::IsNormalized { .. } => ("IS NORMALIZED is not supported", "leave it out"),
            Sql::JsonAccess { .. } => ("`:` is not supported", "a value in JSON text is `json_get(text, '$.a.b')`"),
            _ => ("this form of SQL is not supported", "`engine explain E0218` says what is"),
        };
        ExprError::new(codes::UNSUPPORTED, what).at(self.place(node)).help(help)
    }

    /// The bytes of a node, where they are known.
    fn place(&self, node: &ast::Expr) -> Option<Range<usize>> {
        match node {
            ast::Expr::Nested(inner) => self.place(inner),
            ast::Expr::Function(function) => self.parsed.call(function.name.span()),
            other => self.parsed.range(other).map(|range| self.parsed.balanced(range)),
        }
    }

    /// The text of a node.
    fn written(&self, node: &ast::Expr) -> &'a str {
        self.place(node).and_then(|range| self.parsed.text.get(range)).unwrap_or(self.parsed.text)
    }

    /// A reference to a column by the name that a program reads it by.
    fn column(&mut self, name: String, data_type: &DataType, nullable: bool) -> Result<Expr, ExprError> {
        if data_type.is_null() {
            return Err(ExprError::follows());
        }
        if !self.used.iter().any(|field| *field.name() == name) {
            self.used.push(Arc::new(Field::new(&name, data_type.clone(), nullable)));
            let schema =
                schema_of(&self.used).map_err(|error| ExprError::new(codes::INTERNAL, row_error(&error).reason))?;
            self.schema = Arc::new(schema);
        }
        Ok(Expr::Column(Column::new_unqualified(name)))
    }

    fn hidden(&mut self, hidden: Hidden, data_type: &DataType) -> Result<Expr, ExprError> {
        self.column(hidden.column(), data_type, false)
    }

    fn type_of(&self, expr: &Expr) -> DataType {
        expr.get_type(self.schema.as_ref()).unwrap_or(DataType::Null)
    }

    /// Types a node whose parts are typed, and computes it if it is constant. `misfit` says in our words that DataFusion
    /// refuses it.
    fn settle(
        &self,
        expr: Expr,
        node: &ast::Expr,
        misfit: impl FnOnce(&Self, &DataFusionError) -> ExprError,
    ) -> Result<Expr, ExprError> {
        match self.settled(expr) {
            Ok(expr) => Ok(expr),
            Err(Broken::Refused(error)) => {
                let problem = misfit(self, &error);
                Err(match problem.range {
                    Some(_) => problem,
                    None => problem.at(self.place(node)),
                })
            }
            Err(Broken::Fails(error)) => {
                Err(ExprError::new(codes::ALWAYS_FAILS, format!("every row would fail here: {}", error.reason))
                    .at(self.place(node)))
            }
        }
    }

    fn settled(&self, expr: Expr) -> Result<Expr, Broken> {
        let coerced = TypeCoercionRewriter::new(&self.schema).f_up(expr)?.data;
        coerced.get_type(self.schema.as_ref())?;
        let mut broken = None;
        let expr = coerced
            .map_children(|child| {
                Ok(Transformed::yes(match child {
                    Expr::Cast(Cast { ref expr, ref field }) if matches!(**expr, Expr::Literal(..)) => {
                        let to = field.data_type().clone();
                        match &**expr {
                            Expr::Literal(value, _) => match value.cast_to(&to) {
                                Ok(value) => Expr::Literal(value, None),
                                Err(error) => self.or_fail(row_error(&error), to, true, &mut broken),
                            },
                            _ => child,
                        }
                    }
                    child => child,
                }))
            })?
            .data;
        if let Some(error) = broken {
            return Err(Broken::Fails(error));
        }
        let called = matches!(expr, Expr::ScalarFunction(_));
        let expr = self.polish(expr, 3)?;
        if called && self.conditional == 0 {
            self.try_without_rows(&expr)?;
        }
        Ok(expr)
    }

    /// A function that fails without a row fails by its constants: `date_part('hours of fun', at)`.
    fn try_without_rows(&self, expr: &Expr) -> Result<(), Broken> {
        if matches!(expr, Expr::Literal(..) | Expr::Column(_)) {
            return Ok(());
        }
        let lowered = lower(expr, &self.schema)?;
        let batch = RecordBatch::new_empty(Arc::clone(self.schema.inner()));
        match catching(|| lowered.evaluate(&batch)) {
            Ok(Err(error)) => Err(Broken::Fails(row_error(&error))),
            // A panic here is the kernel's way with no rows, and says nothing of rows.
            Ok(Ok(_)) | Err(_) => Ok(()),
        }
    }

    /// The expression that fails for the rows that need it, or, where all do, the failure.
    fn or_fail(&self, error: RowError, data_type: DataType, nullable: bool, broken: &mut Option<RowError>) -> Expr {
        if self.conditional > 0 {
            return fail(&error, data_type, nullable);
        }
        broken.get_or_insert(error);
        Expr::Literal(ScalarValue::Null, None)
    }

    /// Makes a typed node as simple as it gets: constants computed, branches that are never taken cut.
    fn polish(&self, expr: Expr, rounds: u8) -> Result<Expr, Broken> {
        let expr = match expr {
            Expr::ScalarFunction(ScalarFunction { func, args }) => {
                let info = SimplifyContext::builder()
                    .with_schema(Arc::clone(&self.schema))
                    .with_config_options(Arc::clone(&self.functions.config))
                    .build();
                match func.simplify(args, &info)? {
                    ExprSimplifyResult::Original(args) => {
                        // What DataFusion's simplification calls by itself is DataFusion's own: take ours.
                        let func = self.functions.scalar(func.name()).map_or(func, Arc::clone);
                        Expr::ScalarFunction(ScalarFunction { func, args })
                    }
                    ExprSimplifyResult::Simplified(simple) if rounds > 0 => return self.polish_all(simple, rounds - 1),
                    ExprSimplifyResult::Simplified(simple) => simple,
                }
            }
            Expr::BinaryExpr(BinaryExpr { left, op: op @ (Operator::And | Operator::Or), right }) => {
                // `false AND x` is false, `true AND x` is x, and the same from the right.
                let deciding = op == Operator::Or;
                match (truth(&left), truth(&right)) {
                    (Some(left), _) if left == deciding => return Ok(truth_literal(deciding)),
                    (_, Some(right)) if right == deciding => return Ok(truth_literal(deciding)),
                    (Some(_), _) => return Ok(*right),
                    (_, Some(_)) => return Ok(*left),
                    _ => Expr::BinaryExpr(BinaryExpr { left, op, right }),
                }
            }
            Expr::BinaryExpr(binary) => Expr::BinaryExpr(unwrap_cast(binary, &self.schema)),
            Expr::Case(case) if case.expr.is_none() => self.cut_branches(case)?,
            other => other,
        };
        if matches!(expr, Expr::Literal(..)) || !is_constant(&expr) {
            return Ok(expr);
        }
        match constant(&expr) {
            Constant::Value(value) => Ok(Expr::Literal(value, None)),
            Constant::Refused(error) => Err(Broken::Refused(error)),
            Constant::Fails(error) if self.conditional > 0 => {
                let data_type = expr.get_type(self.schema.as_ref())?;
                Ok(fail(&error, data_type, expr.nullable(self.schema.as_ref()).unwrap_or(true)))
            }
            Constant::Fails(error) => Err(Broken::Fails(error)),
        }
    }

    /// Polishes what a function was simplified to, from its leaves up.
    fn polish_all(&self, expr: Expr, rounds: u8) -> Result<Expr, Broken> {
        let mut broken = None;
        let polished = expr.transform_up(|node| {
            let data_type = node.get_type(self.schema.as_ref())?;
            match self.polish(node, rounds) {
                Ok(node) => Ok(Transformed::yes(node)),
                Err(Broken::Refused(error)) => Err(error),
                // A function that was simplified may pass by what fails: its own arguments have been looked at already.
                Err(Broken::Fails(error)) => Ok(Transformed::yes(self.or_fail(error, data_type, true, &mut broken))),
            }
        })?;
        match broken {
            Some(error) => Err(Broken::Fails(error)),
            None => Ok(polished.data),
        }
    }

    /// A `CASE` without the branches whose conditions are constant.
    fn cut_branches(&self, case: Case) -> Result<Expr, Broken> {
        let data_type = Expr::Case(case.clone()).get_type(self.schema.as_ref())?;
        let mut branches = Vec::with_capacity(case.when_then_expr.len());
        let mut otherwise = case.else_expr;
        for (when, then) in case.when_then_expr {
            match &*when {
                Expr::Literal(ScalarValue::Boolean(Some(true)), _) => {
                    otherwise = Some(then);
                    break;
                }
                Expr::Literal(ScalarValue::Boolean(_) | ScalarValue::Null, _) => {}
                _ => branches.push((when, then)),
            }
        }
        if !branches.is_empty() {
            return Ok(Expr::Case(Case { expr: None, when_then_expr: branches, else_expr: otherwise }));
        }
        let value = match otherwise {
            Some(value) => *value,
            None => Expr::Literal(ScalarValue::try_new_null(&data_type)?, None),
        };
        Ok(value)
    }

    /// Whether the expression may stand where a condition is due.
    fn check_condition(&self, expr: &Expr, node: &ast::Expr) -> Result<(), ExprError> {
        let data_type = self.type_of(expr);
        let written = self.written(node);
        let error = |message: String| ExprError::new(codes::NOT_BOOLEAN, message).at(self.place(node));
        match &data_type {
            DataType::Boolean => Ok(()),
            DataType::Null => Err(error("a condition is due here, and NULL is never true".to_owned())),
            other => {
                let error = error(format!("a condition is due here, and this is a value of type {}", type_name(other)));
                Err(match other {
                    _ if !matches!(node, ast::Expr::Identifier(_)) => error,
                    number if number.is_numeric() => error.help(format!("compare it: `{written} <> 0`")),
                    DataType::Utf8 => error.help(format!("compare it: `{written} = 'text'`")),
                    _ => error.help(format!("compare it, or write `{written} IS NOT NULL`")),
                })
            }
        }
    }

    /// Gives the whole a type that a column can have.
    fn finish(&self, expr: Expr, text: &str, condition: bool) -> Result<Scalar, ExprError> {
        let computed = self.type_of(&expr);
        let (expr, data_type) = match &expr {
            Expr::Column(_) => (expr, computed),
            _ => match column_type(&computed) {
                Some(data_type) if data_type == computed => (expr, data_type),
                Some(data_type) => {
                    let cast = Expr::Cast(Cast::new(Box::new(expr), data_type.clone()));
                    (self.settle(cast, &self.parsed.tree, |_, error| internal(error))?, data_type)
                }
                None if condition => (expr, computed),
                None => return Err(no_column(&computed)),
            },
        };
        let nullable = expr.nullable(self.schema.as_ref()).unwrap_or(true);
        if let Err(error) = lower(&expr, &self.schema) {
            return Err(ExprError::new(
                codes::UNSUPPORTED,
                format!("this can't be computed: {}", row_error(&error).reason),
            ));
        }
        Ok(Scalar::new(text, expr, &self.used, data_type, nullable))
    }

    /// The calls that the outer expression still reads, and that expression with their numbers closed up.
    fn used_calls(&mut self, outer: Scalar) -> Result<(Vec<AggregateCall>, Scalar), ExprError> {
        let all = std::mem::take(&mut self.calls);
        if (0..all.len()).all(|call| outer.columns().contains(&result_column(call))) {
            return Ok((all, outer));
        }
        let mut renamed = Vec::new();
        let mut calls = Vec::new();
        for (at, call) in all.into_iter().enumerate() {
            if outer.columns().contains(&result_column(at)) {
                renamed.push((result_column(at), result_column(calls.len())));
                calls.push(call);
            }
        }
        let new_name = |old: &str| renamed.iter().find(|(from, _)| from == old).map(|(_, to)| to.clone());
        let expr = outer.expr().clone().transform_up(|node| match &node {
            Expr::Column(column) => Ok(match new_name(&column.name) {
                Some(name) => Transformed::yes(Expr::Column(Column::new_unqualified(name))),
                None => Transformed::no(node),
            }),
            _ => Ok(Transformed::no(node)),
        });
        let expr = expr.map_err(|error| internal(&error))?.data;
        let fields: Vec<FieldRef> = outer
            .fields()
            .iter()
            .map(|field| match new_name(field.name()) {
                Some(name) => Arc::new(field.as_ref().clone().with_name(name)),
                None => Arc::clone(field),
            })
            .collect();
        Ok((calls, Scalar::new(outer.text(), expr, &fields, outer.data_type().clone(), outer.nullable())))
    }
}

/// A refusal that has no better words.
fn internal(error: &DataFusionError) -> ExprError {
    ExprError::new(codes::UNSUPPORTED, format!("this is not supported: {}", row_error(error).reason))
}

fn no_column(data_type: &DataType) -> ExprError {
    let error = ExprError::new(
        codes::NO_COLUMN_TYPE,
        match data_type {
            DataType::Null => "a bare NULL has no type".to_owned(),
            other => format!("a value of type {} can't be a column", type_name(other)),
        },
    );
    match data_type {
        DataType::Null => error.help("give it one: `CAST(NULL AS string)`"),
        DataType::Interval(_) => error.help("the difference of two timestamps is a duration, which can"),
        DataType::Time32(_) | DataType::Time64(_) => error.help("`date_part('hour', at)` is the hour of a timestamp"),
        _ => error,
    }
}

fn truth(expr: &Expr) -> Option<bool> {
    match expr {
        Expr::Literal(ScalarValue::Boolean(value), _) => *value,
        _ => None,
    }
}

fn truth_literal(value: bool) -> Expr {
    Expr::Literal(ScalarValue::Boolean(Some(value)), None)
}

/// Whether an expression reads nothing and gives the same each time.
fn is_constant(expr: &Expr) -> bool {
    let varies = expr.exists(|node| {
        Ok(match node {
            Expr::Column(_) | Expr::AggregateFunction(_) => true,
            Expr::ScalarFunction(call) => call.func.signature().volatility == Volatility::Volatile,
            _ => false,
        })
    });
    !varies.unwrap_or(true)
}

/// `CAST(small AS int64) > 5` compares in the small type, where the constant has a place in it.
fn unwrap_cast(binary: BinaryExpr, schema: &DFSchema) -> BinaryExpr {
    let comparison = matches!(
        binary.op,
        Operator::Eq | Operator::NotEq | Operator::Lt | Operator::LtEq | Operator::Gt | Operator::GtEq
    );
    if !comparison {
        return binary;
    }
    let narrow = |cast: &Expr, literal: &Expr| -> Option<(Expr, Expr)> {
        let (Expr::Cast(Cast { expr, field }), Expr::Literal(value, _)) = (cast, literal) else { return None };
        let inner = expr.get_type(schema).ok()?;
        let widening = inner.is_integer() && (field.data_type().is_integer() || field.data_type().is_decimal());
        let value = try_cast_literal_to_type(value, &inner).filter(|value| widening && !value.is_null())?;
        Some((expr.as_ref().clone(), Expr::Literal(value, None)))
    };
    if let Some((left, right)) = narrow(&binary.left, &binary.right) {
        return BinaryExpr::new(Box::new(left), binary.op, Box::new(right));
    }
    if let Some((right, left)) = narrow(&binary.right, &binary.left) {
        return BinaryExpr::new(Box::new(left), binary.op, Box::new(right));
    }
    binary
}
