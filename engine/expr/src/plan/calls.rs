//! Calls: functions of a row, the planner's own, and aggregates.

use super::{Broken, Mode, Planner, internal, no_column};
use crate::aggregate::{AggregateCall, AggregateFunction, OrderBy, result_column};
use crate::error::{ExprError, both, every};
use crate::failure::{clip, row_error};
use crate::functions::check_path;
use crate::panics::catching;
use crate::parse::short;
use crate::scalar::{Hidden, Scalar};
use crate::types::{column_type, timestamp, type_name};
use arrow::compute::SortOptions;
use arrow::datatypes::{DataType, Field, Schema};
use datafusion_common::{DataFusionError, ScalarValue};
use datafusion_expr::expr::{self, Case, NullTreatment, ScalarFunction};
use datafusion_expr::utils::AggregateOrderSensitivity;
use datafusion_expr::{AggregateUDF, Expr, Operator, ScalarUDF, TypeSignature, Volatility};
use datafusion_expr_common::signature::{ArrayFunctionArgument, ArrayFunctionSignature, Coercion, TypeSignatureClass};
use datafusion_physical_expr::PhysicalExpr;
use datafusion_physical_expr::aggregate::AggregateExprBuilder;
use datafusion_physical_expr::expressions::{Column as PhysicalColumn, Literal, PhysicalSortExpr};
use datafusion_sql::sqlparser::ast::{
    self, DateTimeField, DictionaryField, DuplicateTreatment, Function, FunctionArg, FunctionArgExpr,
    FunctionArgumentClause, FunctionArguments, OrderByExpr, Spanned, TrimWhereField,
};
use engine_base::codes::expr as codes;
use std::collections::BTreeSet;
use std::sync::Arc;

/// A call as the syntax tree has it, with its parts sorted out.
struct Written<'n> {
    name: String,
    args: Vec<&'n FunctionArgExpr>,
    distinct: bool,
    order_by: Vec<&'n OrderByExpr>,
    filter: Option<&'n ast::Expr>,
    nulls: Option<NullTreatment>,
    within_group: bool,
}

impl<'n> Written<'n> {
    /// The arguments as expressions; `*` is none.
    fn values(&self) -> Option<Vec<&'n ast::Expr>> {
        self.args
            .iter()
            .map(|arg| match arg {
                FunctionArgExpr::Expr(expr) => Some(expr),
                _ => None,
            })
            .collect()
    }
}

impl Planner<'_> {
    /// A call.
    pub(super) fn function(&mut self, function: &Function, node: &ast::Expr) -> Result<Expr, ExprError> {
        let written = self.written_call(function, node)?;
        let name = written.name.as_str();
        if matches!(function.args, FunctionArguments::None)
            && let [ast::ObjectNamePart::Identifier(ident)] = function.name.0.as_slice()
            && self.scope.columns.field_with_name(&ident.value).is_ok()
        {
            return self.identifier(ident);
        }
        if name == "lag" || self.functions.aggregate(name).is_some() && self.functions.scalar(name).is_none() {
            return self.aggregate_call(&written, node);
        }
        let plain =
            !written.distinct && written.order_by.is_empty() && written.filter.is_none() && written.nulls.is_none();
        if let Some(own) = self.own(&written, node)? {
            return Ok(own);
        }
        let Some(udf) = self.functions.scalar(name).cloned() else {
            let unknown = self.unknown_function(name, function);
            return Err(self.with_arguments(unknown, &written));
        };
        if !plain {
            return Err(ExprError::new(
                codes::UNSUPPORTED,
                format!("`{name}` is no aggregate, so it takes no DISTINCT, ORDER BY, FILTER or NULLS"),
            )
            .at(self.place(node)));
        }
        if udf.signature().volatility == Volatility::Volatile {
            return Err(ExprError::new(codes::NOT_DETERMINISTIC, format!("`{name}` is not a function of the row"))
                .at(self.place(node)));
        }
        let Some(args) = written.values() else {
            return Err(ExprError::new(codes::ARGUMENTS, "`*` stands only in `count(*)`").at(self.place(node)));
        };
        let short_circuits = udf.short_circuits();
        let planned = every(args.iter().enumerate().map(|(at, arg)| match short_circuits && at > 0 {
            true => self.plan_conditional(arg),
            false => self.plan(arg),
        }))?;
        self.check_constants(name, &planned, &args)?;
        self.call(udf, planned, &args, node, short_circuits)
    }

    /// The parts of a call, and what no call may have.
    fn written_call<'n>(&self, function: &'n Function, node: &ast::Expr) -> Result<Written<'n>, ExprError> {
        let unsupported =
            |what: &str, help: &str| Err(ExprError::new(codes::UNSUPPORTED, what).at(self.place(node)).help(help));
        let name = match function.name.0.as_slice() {
            [ast::ObjectNamePart::Identifier(ident)] if self.parsed.dotted(ident).is_none() => {
                ident.value.to_lowercase()
            }
            _ => {
                return Err(ExprError::new(codes::UNKNOWN_FUNCTION, "a function has a plain name, without a dot")
                    .at(self.parsed.span(function.name.span())));
            }
        };
        if function.over.is_some() {
            return unsupported(
                "window functions (OVER) are not supported",
                "rows of the past are what `rolling` gives",
            );
        }
        if !matches!(function.parameters, FunctionArguments::None) || function.uses_odbc_syntax {
            return unsupported("a call has one pair of parentheses", "write `f(a, b)`");
        }
        let mut written = Written {
            name,
            args: Vec::new(),
            distinct: false,
            order_by: Vec::new(),
            filter: function.filter.as_deref(),
            nulls: function.null_treatment.map(NullTreatment::from),
            within_group: false,
        };
        match &function.args {
            FunctionArguments::None => {}
            FunctionArguments::Subquery(_) => {
                return unsupported("a subquery can't stand in an expression over one row", "write `f(a, b)`");
            }
            FunctionArguments::List(list) => {
                written.distinct = list.duplicate_treatment == Some(DuplicateTreatment::Distinct);
                for arg in &list.args {
                    match arg {
                        FunctionArg::Unnamed(arg) => written.args.push(arg),
                        _ => return unsupported("arguments have no names", "write `f(a, b)`"),
                    }
                }
                for clause in &list.clauses {
                    match clause {
                        FunctionArgumentClause::OrderBy(keys) => written.order_by.extend(keys),
                        FunctionArgumentClause::IgnoreOrRespectNulls(nulls) => written.nulls = Some((*nulls).into()),
                        _ => {
                            return unsupported(
                                "of clauses within a call only DISTINCT and ORDER BY are supported",
                                "leave it out",
                            );
                        }
                    }
                }
            }
        }
        if !function.within_group.is_empty() {
            if !written.order_by.is_empty() {
                return unsupported("a call has one ORDER BY", "leave one out");
            }
            written.within_group = true;
            written.order_by.extend(&function.within_group);
        }
        Ok(written)
    }

    fn unknown_function(&self, name: &str, function: &Function) -> ExprError {
        let error = ExprError::new(codes::UNKNOWN_FUNCTION, format!("there is no function `{}`", short(name)))
            .at(self.parsed.span(function.name.span()));
        match self.functions.elsewhere(name) {
            Some(write) => error.help(write),
            None => error.did_you_mean(name, self.functions.names()),
        }
    }

    /// The problem of a call, and those of its arguments.
    fn with_arguments(&mut self, mut problem: ExprError, written: &Written<'_>) -> ExprError {
        let errors = written.values().unwrap_or_default().into_iter().filter_map(|arg| self.plan(arg).err());
        // Whether an unknown function would take a row or many can't be told: a column may stand there.
        for error in errors.flat_map(ExprError::all).filter(|error| error.code != codes::OUTSIDE_AGGREGATE) {
            problem = problem.and(error);
        }
        problem
    }

    /// The planner's own functions: what is known of the row beside its columns, and maps from pairs.
    fn own(&mut self, written: &Written<'_>, node: &ast::Expr) -> Result<Option<Expr>, ExprError> {
        let expr = match written.name.as_str() {
            "now" | "current_timestamp" => self.hidden(Hidden::Now, &timestamp())?,
            "event_time" => self.hidden(Hidden::EventTime, &timestamp())?,
            "current_date" | "today" => {
                let now = self.hidden(Hidden::Now, &timestamp())?;
                self.cast_to(now, DataType::Date32, false, node)?
            }
            "random" => {
                self.draws += 1;
                self.hidden(Hidden::Random(self.draws), &DataType::Float64)?
            }
            "uuid" => {
                self.draws += 1;
                self.hidden(Hidden::Uuid(self.draws), &DataType::Utf8)?
            }
            "map" | "make_map" => {
                let Some(args) = written.values() else { return Ok(None) };
                let planned = every(args.iter().map(|arg| self.plan(arg)))?;
                // Two lists are DataFusion's own form; else pairs.
                if planned.len() == 2 && planned.iter().all(|arg| self.type_of(arg).is_list()) && written.name == "map"
                {
                    return self.call_planned("map", planned, node).map(Some);
                }
                if planned.is_empty() || planned.len() % 2 != 0 {
                    return Err(ExprError::new(
                        codes::ARGUMENTS,
                        format!("`{}` takes keys and values by turns", written.name),
                    )
                    .at(self.place(node))
                    .help("write `map('a', 1, 'b', 2)`, or two lists: `map(['a', 'b'], [1, 2])`"));
                }
                return self.map_of(planned, node).map(Some);
            }
            _ => return Ok(None),
        };
        if !written.args.is_empty() {
            return Err(
                ExprError::new(codes::ARGUMENTS, format!("`{}` takes no argument", written.name)).at(self.place(node))
            );
        }
        Ok(Some(expr))
    }

    fn map_of(&mut self, pairs: Vec<Expr>, node: &ast::Expr) -> Result<Expr, ExprError> {
        let (keys, values): (Vec<_>, Vec<_>) = pairs.into_iter().enumerate().partition(|(at, _)| at % 2 == 0);
        let keys = self.call_planned("make_array", keys.into_iter().map(|(_, key)| key).collect(), node)?;
        let values = self.call_planned("make_array", values.into_iter().map(|(_, value)| value).collect(), node)?;
        self.call_planned("map", vec![keys, values], node)
    }

    /// `MAP {'a': 1}`
    pub(super) fn map_literal(&mut self, map: &ast::Map, node: &ast::Expr) -> Result<Expr, ExprError> {
        let pairs = every(map.entries.iter().flat_map(|entry| [&entry.key, &entry.value]).map(|part| self.plan(part)))?;
        self.map_of(pairs, node)
    }

    /// `{'a': 1}`: a struct.
    pub(super) fn dictionary(&mut self, fields: &[DictionaryField], node: &ast::Expr) -> Result<Expr, ExprError> {
        let values = every(fields.iter().map(|field| self.plan(&field.value)))?;
        let names = fields.iter().map(|field| Expr::Literal(ScalarValue::from(field.key.value.as_str()), None));
        let args = names.zip(values).flat_map(|(name, value)| [name, value]).collect();
        self.call_planned("named_struct", args, node)
    }

    /// A call by name of arguments that are planned already.
    pub(super) fn call_planned(&mut self, name: &str, args: Vec<Expr>, node: &ast::Expr) -> Result<Expr, ExprError> {
        let Some(udf) = self.functions.scalar(name).cloned() else {
            return Err(ExprError::new(codes::INTERNAL, format!("there is no function `{name}`")));
        };
        self.call(udf, args, &[], node, false)
    }

    /// A call by name.
    pub(super) fn named_call(&mut self, name: &str, args: &[&ast::Expr], node: &ast::Expr) -> Result<Expr, ExprError> {
        let planned = every(args.iter().map(|arg| self.plan(arg)))?;
        let Some(udf) = self.functions.scalar(name).cloned() else {
            return Err(ExprError::new(codes::INTERNAL, format!("there is no function `{name}`")));
        };
        self.call(udf, planned, args, node, false)
    }

    fn call(
        &mut self,
        udf: Arc<ScalarUDF>,
        planned: Vec<Expr>,
        args: &[&ast::Expr],
        node: &ast::Expr,
        short_circuits: bool,
    ) -> Result<Expr, ExprError> {
        let types: Vec<DataType> = planned.iter().map(|arg| self.type_of(arg)).collect();
        if udf.name() == "nullif"
            && types.iter().any(DataType::is_floating)
            && let [value, null] = planned.as_slice()
        {
            // The function looks for the same bits; a comparison knows floats.
            let equal = self.equal(value.clone(), null.clone(), node)?;
            let branch = (Box::new(equal), Box::new(Expr::Literal(ScalarValue::Null, None)));
            let case = Case::new(None, vec![branch], Some(Box::new(value.clone())));
            return self.settle(Expr::Case(case), node, |_, error| internal(error));
        }
        if udf.name() == "to_timestamp"
            && types.first().is_some_and(DataType::is_floating)
            && let [seconds] = planned.as_slice()
        {
            // The function takes the nearest timestamp for a number beyond all timestamps, and 1970 for NaN; a cast fails.
            let factor = Box::new(Expr::Literal(ScalarValue::Float64(Some(1e9)), None));
            let ns = expr::BinaryExpr::new(Box::new(seconds.clone()), Operator::Multiply, factor);
            let ns = self.settle(Expr::BinaryExpr(ns), node, |_, error| internal(error))?;
            let whole = Expr::Cast(expr::Cast::new(Box::new(ns), DataType::Int64));
            let whole = self.settle(whole, node, |_, error| internal(error))?;
            return self.call_planned("to_timestamp_nanos", vec![whole], node);
        }
        let call = Expr::ScalarFunction(ScalarFunction::new_udf(Arc::clone(&udf), planned));
        // Of `coalesce(a, b)` what coercion puts around b fails only for the rows that need b.
        self.conditional += u32::from(short_circuits);
        let settled = self.settle(call, node, |planner, error| {
            let usage = udf.documentation().map(|documentation| documentation.syntax_example.as_str());
            let signature = &udf.signature().type_signature;
            planner.misfit(udf.name(), usage, signature, &types, args, error)
        });
        self.conditional -= u32::from(short_circuits);
        settled
    }

    /// Arguments that a function doesn't take, in our words.
    fn misfit(
        &self,
        name: &str,
        usage: Option<&str>,
        signature: &TypeSignature,
        types: &[DataType],
        args: &[&ast::Expr],
        error: &DataFusionError,
    ) -> ExprError {
        let counts = counts(signature);
        let problem = match &counts {
            Some(counts) if !counts.contains(&types.len()) => {
                let wanted = match counts.iter().copied().collect::<Vec<_>>().as_slice() {
                    [0] => "no argument".to_owned(),
                    [1] => "1 argument".to_owned(),
                    [only] => format!("{only} arguments"),
                    several => {
                        let several: Vec<String> = several.iter().map(ToString::to_string).collect();
                        format!("{} arguments", several.join(" or "))
                    }
                };
                ExprError::new(codes::ARGUMENTS, format!("`{name}` takes {wanted}, not {}", types.len()))
            }
            _ if types.is_empty() => ExprError::new(codes::ARGUMENTS, format!("`{name}` takes arguments")),
            _ => {
                let given: Vec<String> = types.iter().map(type_name).collect();
                let problem = ExprError::new(codes::ARGUMENTS, format!("`{name}` doesn't take ({})", given.join(", ")));
                match args {
                    [only] => problem.at(self.place(only)),
                    _ => problem,
                }
            }
        };
        let problem = match usage {
            Some(usage) => problem.help(format!("usage: {usage}")),
            None => problem,
        };
        match accepted(signature) {
            Some(accepted) if !types.is_empty() => problem.help(format!("it takes {accepted}")),
            Some(_) => problem,
            // The function judges for itself, and its own words are all there is.
            None if usage.is_none() => problem.help(clip(&row_error(error).reason, 120)),
            None => problem,
        }
    }

    /// Constants that can be wrong: patterns and paths.
    fn check_constants(&self, name: &str, planned: &[Expr], args: &[&ast::Expr]) -> Result<(), ExprError> {
        match (name, planned, args) {
            // DataFusion takes it, and gives the text back.
            ("substr" | "substring", [_], _) => {
                Err(ExprError::new(codes::ARGUMENTS, format!("`{name}` takes 2 or 3 arguments, not 1"))
                    .at(args.first().and_then(|arg| self.place(arg)))
                    .help("usage: substr(str, start_pos[, length])"))
            }
            (name, [_, pattern, ..], [_, node, ..]) if name.starts_with("regexp_") => self.check_regex(pattern, node),
            ("json_get", [_, Expr::Literal(ScalarValue::Utf8(Some(path)), _)], [_, node]) => match check_path(path) {
                Ok(()) => Ok(()),
                Err(wrong) => Err(ExprError::new(codes::ARGUMENTS, wrong)
                    .at(self.place(node))
                    .help("usage: json_get(text, '$.a.b')")),
            },
            _ => Ok(()),
        }
    }

    /// `EXTRACT(hour FROM at)`
    pub(super) fn extract(
        &mut self,
        field: &DateTimeField,
        value: &ast::Expr,
        node: &ast::Expr,
    ) -> Result<Expr, ExprError> {
        let field = field.to_string().trim_matches('\'').to_lowercase();
        let value = self.plan(value)?;
        self.call_planned("date_part", vec![Expr::Literal(ScalarValue::from(field), None), value], node)
    }

    /// `SUBSTRING(text FROM 2 FOR 3)`
    pub(super) fn substring(
        &mut self,
        value: &ast::Expr,
        from: Option<&ast::Expr>,
        length: Option<&ast::Expr>,
        node: &ast::Expr,
    ) -> Result<Expr, ExprError> {
        let from = match from {
            Some(from) => self.plan(from),
            None => Ok(Expr::Literal(ScalarValue::Int64(Some(1)), None)),
        };
        let args = every([self.plan(value), from].into_iter().chain(length.map(|length| self.plan(length))))?;
        self.call_planned("substr", args, node)
    }

    /// `TRIM(LEADING 'x' FROM text)`
    pub(super) fn trim(
        &mut self,
        value: &ast::Expr,
        side: Option<&TrimWhereField>,
        what: Option<&ast::Expr>,
        characters: Option<&[ast::Expr]>,
        node: &ast::Expr,
    ) -> Result<Expr, ExprError> {
        let name = match side {
            Some(TrimWhereField::Leading) => "ltrim",
            Some(TrimWhereField::Trailing) => "rtrim",
            Some(TrimWhereField::Both) | None => "btrim",
        };
        let args: Vec<&ast::Expr> = std::iter::once(value).chain(what).chain(characters.unwrap_or_default()).collect();
        self.named_call(name, &args, node)
    }

    /// An aggregate: planned as a call of its own, it leaves the name of its result.
    fn aggregate_call(&mut self, written: &Written<'_>, node: &ast::Expr) -> Result<Expr, ExprError> {
        let name = written.name.as_str();
        match self.mode {
            Mode::Around => {}
            Mode::Within => {
                return Err(ExprError::new(
                    codes::NESTED_AGGREGATE,
                    format!("`{name}` stands within another aggregate"),
                )
                .at(self.place(node))
                .help("compute the inner one in a step before"));
            }
            Mode::Row => {
                let error =
                    ExprError::new(codes::AGGREGATE_HERE, format!("`{name}` needs many rows, and here there is one"))
                        .at(self.place(node));
                let error = self.with_arguments(error, written);
                return Err(match name {
                    "max" | "min" if written.args.len() > 1 => error.help(format!(
                        "the {} of several values is `{}`",
                        if name == "max" { "greatest" } else { "least" },
                        if name == "max" { "greatest(a, b)" } else { "least(a, b)" }
                    )),
                    "lag" => error.help("`lag(x)` is the value of the row before, in `rolling`"),
                    _ => error.help("aggregates stand under `columns:` of `rolling`, `window` and `aggregate`"),
                });
            }
        }
        let call = self.planned_call(written, node)?;
        let same = self.calls.iter().position(|known| same_call(known, &call));
        let (data_type, nullable) = (call.data_type.clone(), call.nullable);
        let at = same.unwrap_or_else(|| {
            self.calls.push(call);
            self.calls.len() - 1
        });
        self.column(result_column(at), &data_type, nullable)
    }

    fn planned_call(&mut self, written: &Written<'_>, node: &ast::Expr) -> Result<AggregateCall, ExprError> {
        let name = written.name.as_str();
        let mut row = Planner::new(self.context, self.scope, self.parsed, Mode::Within);
        row.draws = self.draws;
        row.depth = self.depth;
        let call = row.row_call(written, node);
        self.draws = row.draws;
        let (function, args, filter, order_by) = call?;
        let group = row.group_of_call(node)?;
        let call = match function {
            None => row.lag(name, args, filter.is_some(), written, node),
            Some(udf) => row.built(written, udf, args, filter, order_by, node),
        };
        Ok(AggregateCall { group, ..call? })
    }

    /// The one group of rows that a call reads; none where it is over all rows.
    fn group_of_call(&self, node: &ast::Expr) -> Result<Option<String>, ExprError> {
        let of_column = |name: &str| {
            let of_group =
                |group: &&(String, _)| name.strip_prefix(group.0.as_str()).is_some_and(|rest| rest.starts_with('.'));
            self.scope.groups.iter().find(of_group).map(|(group, _)| group.clone())
        };
        let visible = self.used.iter().filter(|field| Hidden::of(field.name()).is_none());
        let groups: BTreeSet<Option<String>> =
            visible.map(|field| of_column(field.name())).chain(self.whole.iter().cloned().map(Some)).collect();
        if groups.len() > 1 {
            let names: Vec<String> = groups.iter().flatten().map(|group| format!("`{group}`")).collect();
            let others = if groups.contains(&None) { " and of all" } else { "" };
            let message = format!(
                "an aggregate is over the rows of one group, and this one reads those of {}{others}",
                names.join(" and ")
            );
            return Err(ExprError::new(codes::UNSUPPORTED, message)
                .at(self.place(node))
                .help("take an aggregate of each, and compute with their results"));
        }
        Ok(groups.into_iter().next().flatten())
    }

    /// The group that a name alone stands for: `count(small)`.
    fn whole_group(&self, arg: &ast::Expr) -> Option<String> {
        let ast::Expr::Identifier(ident) = arg else { return None };
        let alone = self.parsed.dotted(ident).is_none() && self.scope.columns.field_with_name(&ident.value).is_err();
        self.scope.group(&ident.value).filter(|_| alone).map(|_| ident.value.clone())
    }

    /// The parts of an aggregate's call, planned over one row.
    #[expect(clippy::type_complexity, reason = "the parts of one call, taken apart at once")]
    fn row_call<'n>(
        &mut self,
        written: &Written<'n>,
        node: &ast::Expr,
    ) -> Result<
        (Option<Arc<AggregateUDF>>, Vec<(Expr, Option<&'n ast::Expr>)>, Option<Expr>, Vec<(Expr, &'n OrderByExpr)>),
        ExprError,
    > {
        let udf = self.functions.aggregate(&written.name).cloned();
        let args = every(written.args.iter().filter_map(|arg| {
            match arg {
                FunctionArgExpr::Expr(expr) if let Some(group) = self.whole_group(expr) => {
                    if written.name == "count" && written.args.len() == 1 && !written.distinct {
                        self.whole = Some(group);
                        return None;
                    }
                    Some(Err(ExprError::new(codes::ARGUMENTS, format!("`{group}` stands for rows, not for a value"))
                        .at(self.place(expr))
                        .help(format!("name a column of them, `{group}.x`; how many they are is `count({group})`"))))
                }
                FunctionArgExpr::Expr(expr) => Some(self.plan(expr).map(|planned| (planned, Some(expr)))),
                FunctionArgExpr::Wildcard
                    if written.name == "count" && written.args.len() == 1 && !written.distinct =>
                {
                    None
                }
                _ => Some(Err(ExprError::new(codes::ARGUMENTS, "`*` stands only in `count(*)`")
                    .at(self.place(node))
                    .help("name the column"))),
            }
        }));
        if written.args.is_empty() && written.name == "count" {
            return Err(ExprError::new(codes::ARGUMENTS, "`count` takes a column, or `*` for all rows")
                .at(self.place(node))
                .help("write `count(*)`"));
        }
        let filter = written.filter.map(|filter| {
            let planned = self.plan(filter)?;
            self.check_condition(&planned, filter)?;
            Ok(planned)
        });
        let order_by = every(written.order_by.iter().map(|key| match key.with_fill {
            Some(_) => Err(ExprError::new(codes::UNSUPPORTED, "WITH FILL is not supported").at(self.place(node))),
            None => Ok((self.plan(&key.expr)?, *key)),
        }));
        let (args, (filter, order_by)) = both(args, both(filter.transpose(), order_by))?;
        Ok((udf, args, filter, order_by))
    }

    /// `lag(x)`
    fn lag(
        &self,
        name: &str,
        args: Vec<(Expr, Option<&ast::Expr>)>,
        filtered: bool,
        written: &Written<'_>,
        node: &ast::Expr,
    ) -> Result<AggregateCall, ExprError> {
        let error = |message: String| {
            ExprError::new(codes::ARGUMENTS, message).at(self.place(node)).help("usage: lag(expression)")
        };
        if filtered || written.distinct || !written.order_by.is_empty() || written.nulls.is_some() {
            return Err(error(format!(
                "`{name}` takes the row before as it is: no FILTER, DISTINCT, ORDER BY or NULLS"
            )));
        }
        let Ok([(arg, _)]) = <[_; 1]>::try_from(args) else {
            return Err(error(format!("`{name}` takes 1 argument, not {}", written.args.len())));
        };
        let computed = self.type_of(&arg);
        let data_type = column_type(&computed).ok_or_else(|| no_column(&computed).at(self.place(node)))?;
        let arg = self.cast_to(arg, data_type.clone(), false, node)?;
        let text = self.arg_texts(node).into_iter().next().unwrap_or_default();
        let arg = Scalar::new(text, arg, &self.used, data_type.clone(), true);
        Ok(AggregateCall {
            function: AggregateFunction::Lag,
            args: vec![arg],
            filter: None,
            distinct: false,
            group: None,
            order_by: Vec::new(),
            data_type,
            nullable: true,
            prototype: None,
        })
    }

    /// What is written for each argument of a call.
    fn arg_texts(&self, node: &ast::Expr) -> Vec<&str> {
        let ranges = self.place(node).map(|call| self.parsed.arguments(call)).unwrap_or_default();
        ranges.into_iter().filter_map(|range| self.parsed.text.get(range)).collect()
    }

    /// A call of one of DataFusion's aggregates, with the arguments it wants.
    fn built(
        &self,
        written: &Written<'_>,
        udf: Arc<AggregateUDF>,
        args: Vec<(Expr, Option<&ast::Expr>)>,
        filter: Option<Expr>,
        order_by: Vec<(Expr, &OrderByExpr)>,
        node: &ast::Expr,
    ) -> Result<AggregateCall, ExprError> {
        let refuse = |message: String| ExprError::new(codes::ARGUMENTS, message).at(self.place(node));
        let name = written.name.as_str();
        let ordered_set = udf.supports_within_group_clause();
        if written.within_group && !ordered_set {
            return Err(refuse(format!("`{name}` takes no WITHIN GROUP"))
                .help("an order stands within the parentheses: `f(x ORDER BY y)`"));
        }
        let sensitive = udf.order_sensitivity();
        if !order_by.is_empty() && !ordered_set && sensitive == AggregateOrderSensitivity::Insensitive {
            return Err(refuse(format!("the order makes no difference to `{name}`")).help("leave ORDER BY out"));
        }
        if !order_by.is_empty() && !ordered_set && sensitive == AggregateOrderSensitivity::HardRequirement {
            let error = refuse(format!("`{name}` takes the rows in the order in which they come"));
            return Err(match name {
                "string_agg" => error.help("write `array_to_string(array_agg(x ORDER BY y), ',')`"),
                _ => error.help("leave ORDER BY out"),
            });
        }
        if written.nulls.is_some() && !udf.supports_null_handling_clause() {
            return Err(refuse(format!("`{name}` takes no IGNORE NULLS"))
                .help("leave nulls out by `FILTER (WHERE x IS NOT NULL)`"));
        }
        let star = args.is_empty() && name == "count";
        let nodes: Vec<&ast::Expr> = args.iter().filter_map(|(_, node)| *node).collect();
        let mut values: Vec<Expr> = args.into_iter().map(|(arg, _)| arg).collect();
        let mut texts = self.arg_texts(node);
        // An ordered set's own value is what WITHIN GROUP orders by.
        if ordered_set
            && written.within_group
            && let Some((value, key)) = order_by.first()
        {
            values.insert(0, value.clone());
            texts.insert(0, self.written(&key.expr));
        }
        if star {
            values.push(Expr::Literal(ScalarValue::Int64(Some(1)), None));
        }
        let types: Vec<DataType> = values.iter().map(|value| self.type_of(value)).collect();
        let call = expr::AggregateFunction::new_udf(
            Arc::clone(&udf),
            values,
            written.distinct,
            None,
            Vec::new(),
            written.nulls,
        );
        let misfit = |error: &DataFusionError| {
            let usage = udf.documentation().map(|documentation| documentation.syntax_example.as_str());
            let problem = self.misfit(name, usage, &udf.signature().type_signature, &types, &nodes, error);
            if problem.range.is_some() { problem } else { problem.at(self.place(node)) }
        };
        let values = match self.settled(Expr::AggregateFunction(call)) {
            Ok(Expr::AggregateFunction(call)) => call.params.args,
            Ok(_) => return Err(refuse(format!("`{name}` can't be computed"))),
            Err(Broken::Refused(error)) => return Err(misfit(&error)),
            Err(Broken::Fails(error)) => {
                return Err(ExprError::new(
                    codes::ALWAYS_FAILS,
                    format!("every row would fail here: {}", error.reason),
                )
                .at(self.place(node)));
            }
        };
        let scalar = |text: &str, value: &Expr| {
            let nullable = datafusion_expr::ExprSchemable::nullable(value, self.schema.as_ref()).unwrap_or(true);
            Scalar::new(text, value.clone(), &self.used, self.type_of(value), nullable)
        };
        let mut fields: Vec<Field> = Vec::new();
        let mut physical: Vec<Arc<dyn PhysicalExpr>> = Vec::new();
        for value in &values {
            let at = fields.len();
            let field = Field::new(format!("a{at}"), self.type_of(value), true);
            physical.push(match value {
                Expr::Literal(literal, _) => Arc::new(Literal::new(literal.clone())),
                _ => Arc::new(PhysicalColumn::new(field.name(), at)),
            });
            fields.push(field);
        }
        let mut keys = Vec::new();
        let mut sorts = Vec::new();
        for (value, key) in &order_by {
            let descending = key.options.asc == Some(false);
            let nulls_first = key.options.nulls_first.unwrap_or(descending);
            // Values that count once are ordered by themselves.
            if written.distinct
                && let Some(at) = values.iter().position(|known| known == value)
            {
                sorts.push(PhysicalSortExpr {
                    expr: Arc::clone(&physical[at]),
                    options: SortOptions { descending, nulls_first },
                });
                continue;
            }
            let field = Field::new(format!("a{}", fields.len()), self.type_of(value), true);
            sorts.push(PhysicalSortExpr {
                expr: Arc::new(PhysicalColumn::new(field.name(), fields.len())),
                options: SortOptions { descending, nulls_first },
            });
            fields.push(field);
            // An ordered set takes its order as its first argument.
            if !ordered_set {
                keys.push(OrderBy { value: scalar(self.written(&key.expr), value), descending, nulls_first });
            }
        }
        // Without an order it would be that of a hash table.
        if name == "array_agg" && written.distinct && sorts.is_empty() {
            let options = SortOptions { descending: false, nulls_first: false };
            sorts.push(PhysicalSortExpr { expr: Arc::clone(&physical[0]), options });
        }
        let ignore_nulls = written.nulls == Some(NullTreatment::IgnoreNulls);
        let mut builder = AggregateExprBuilder::new(Arc::clone(&udf), physical)
            .schema(Arc::new(Schema::new(fields)))
            .alias(name)
            .order_by(sorts)
            .with_distinct(written.distinct);
        if ignore_nulls {
            builder = builder.ignore_nulls();
        }
        let prototype = builder.build().map_err(|error| misfit(&error))?;
        // Some combinations are refused only here.
        match catching(|| prototype.create_accumulator()) {
            Ok(Ok(_)) => {}
            Ok(Err(error)) => {
                return Err(refuse(format!("`{name}` is not supported like this: {}", row_error(&error).reason)));
            }
            Err(_) => return Err(refuse(format!("`{name}` is not supported like this"))),
        }
        let result = prototype.field();
        let data_type =
            column_type(result.data_type()).ok_or_else(|| no_column(result.data_type()).at(self.place(node)))?;
        let plain = !written.within_group && order_by.is_empty() && written.nulls.is_none();
        let args = match star {
            true => Vec::new(),
            false => values
                .iter()
                .enumerate()
                .map(|(at, value)| scalar(texts.get(at).copied().unwrap_or_default(), value))
                .collect(),
        };
        Ok(AggregateCall {
            function: kind(udf.name(), &values.iter().map(|value| self.type_of(value)).collect::<Vec<_>>(), plain),
            args,
            filter: filter.map(|filter| scalar(written.filter.map_or("", |node| self.written(node)), &filter)),
            distinct: written.distinct,
            group: None,
            order_by: keys,
            data_type,
            nullable: result.is_nullable(),
            prototype: Some(Arc::new(prototype)),
        })
    }
}

/// Which aggregates have a variant of their own.
fn kind(name: &str, types: &[DataType], plain: bool) -> AggregateFunction {
    let other = || AggregateFunction::Other(name.to_owned());
    let [only] = types else { return other() };
    if !plain {
        return other();
    }
    match name {
        "count" => AggregateFunction::Count,
        "sum" if only.is_numeric() => AggregateFunction::Sum,
        "avg" if only.is_numeric() || matches!(only, DataType::Duration(_)) => AggregateFunction::Avg,
        "min" => AggregateFunction::Min,
        "max" => AggregateFunction::Max,
        "var" | "var_samp" => AggregateFunction::Variance { population: false },
        "var_pop" => AggregateFunction::Variance { population: true },
        "stddev" | "stddev_samp" => AggregateFunction::Stddev { population: false },
        "stddev_pop" => AggregateFunction::Stddev { population: true },
        "first_value" => AggregateFunction::First,
        "last_value" => AggregateFunction::Last,
        _ => other(),
    }
}

/// Whether two calls are one: the same function of the same values.
fn same_call(one: &AggregateCall, two: &AggregateCall) -> bool {
    let values = |call: &AggregateCall| -> Vec<Expr> {
        let parts = call.args.iter().chain(&call.filter).chain(call.order_by.iter().map(|key| &key.value));
        parts.map(|part| part.expr().clone()).collect()
    };
    let orders = |call: &AggregateCall| -> Vec<(bool, bool)> {
        call.order_by.iter().map(|key| (key.descending, key.nulls_first)).collect()
    };
    let drawn = one.args.iter().chain(&one.filter).any(Scalar::reads_position);
    let options = |call: &AggregateCall| {
        call.prototype
            .as_ref()
            .map(|prototype| (prototype.ignore_nulls(), prototype.is_reversed(), sort_options(prototype)))
    };
    !drawn
        && one.function == two.function
        && one.distinct == two.distinct
        && one.group == two.group
        && one.args.len() == two.args.len()
        && one.filter.is_some() == two.filter.is_some()
        && values(one) == values(two)
        && orders(one) == orders(two)
        && options(one) == options(two)
}

fn sort_options(prototype: &datafusion_physical_expr::aggregate::AggregateFunctionExpr) -> Vec<SortOptions> {
    prototype.order_bys().iter().map(|key| key.options).collect()
}

/// How many arguments a signature takes; `None` if any number.
fn counts(signature: &TypeSignature) -> Option<BTreeSet<usize>> {
    match signature {
        TypeSignature::Exact(types) => Some(BTreeSet::from([types.len()])),
        TypeSignature::Coercible(types) => Some(BTreeSet::from([types.len()])),
        TypeSignature::Uniform(count, _)
        | TypeSignature::Numeric(count)
        | TypeSignature::String(count)
        | TypeSignature::Comparable(count)
        | TypeSignature::Any(count) => Some(BTreeSet::from([*count])),
        TypeSignature::Nullary => Some(BTreeSet::from([0])),
        TypeSignature::ArraySignature(ArrayFunctionSignature::Array { arguments, .. }) => {
            Some(BTreeSet::from([arguments.len()]))
        }
        TypeSignature::ArraySignature(_) => Some(BTreeSet::from([1])),
        TypeSignature::OneOf(several) => {
            several.iter().map(counts).collect::<Option<Vec<_>>>().map(|counts| counts.into_iter().flatten().collect())
        }
        TypeSignature::Variadic(_) | TypeSignature::VariadicAny | TypeSignature::UserDefined => None,
    }
}

/// What a signature takes, in the language's words; `None` if the function judges for itself.
fn accepted(signature: &TypeSignature) -> Option<String> {
    /// More alternatives than this say nothing.
    const MOST: usize = 4;
    let names = |types: &[DataType]| {
        let mut names: Vec<String> = Vec::new();
        for name in types.iter().map(type_name) {
            if !names.contains(&name) {
                names.push(name);
            }
        }
        names.join(" or ")
    };
    let repeat = |what: &str, count: usize| format!("({})", vec![what; count].join(", "));
    Some(match signature {
        TypeSignature::Exact(types) => format!("({})", types.iter().map(type_name).collect::<Vec<_>>().join(", ")),
        TypeSignature::Uniform(count, types) => repeat(&names(types), *count),
        TypeSignature::Numeric(count) => repeat("number", *count),
        TypeSignature::String(count) => repeat("string", *count),
        TypeSignature::Comparable(count) => repeat("comparable value", *count),
        TypeSignature::Any(count) => repeat("any value", *count),
        TypeSignature::Nullary => "no argument".to_owned(),
        TypeSignature::Variadic(types) => format!("any number of {}", names(types)),
        TypeSignature::VariadicAny => "any number of values".to_owned(),
        TypeSignature::Coercible(types) => {
            let class = |coercion: &Coercion| match coercion {
                Coercion::Exact { desired_type, .. } | Coercion::Implicit { desired_type, .. } => {
                    class_name(desired_type)
                }
            };
            format!("({})", types.iter().map(class).collect::<Vec<_>>().join(", "))
        }
        TypeSignature::ArraySignature(ArrayFunctionSignature::Array { arguments, .. }) => {
            let argument = |argument: &ArrayFunctionArgument| match argument {
                ArrayFunctionArgument::Element => "element",
                ArrayFunctionArgument::Index => "int64",
                ArrayFunctionArgument::Array => "list",
                ArrayFunctionArgument::String => "string",
            };
            format!("({})", arguments.iter().map(argument).collect::<Vec<_>>().join(", "))
        }
        TypeSignature::ArraySignature(ArrayFunctionSignature::RecursiveArray) => "(list)".to_owned(),
        TypeSignature::ArraySignature(ArrayFunctionSignature::MapArray) => "(map)".to_owned(),
        TypeSignature::OneOf(several) => {
            let mut names: Vec<String> = Vec::new();
            for name in several.iter().filter_map(accepted) {
                if !names.contains(&name) {
                    names.push(name);
                }
            }
            if names.is_empty() || names.len() > MOST {
                return None;
            }
            names.join(", or ")
        }
        TypeSignature::UserDefined => return None,
    })
}

fn class_name(class: &TypeSignatureClass) -> String {
    match class {
        TypeSignatureClass::Any => "any value".to_owned(),
        TypeSignatureClass::Timestamp => "timestamp".to_owned(),
        TypeSignatureClass::Time => "time".to_owned(),
        TypeSignatureClass::Interval => "interval".to_owned(),
        TypeSignatureClass::Duration => "duration".to_owned(),
        TypeSignatureClass::Integer => "integer".to_owned(),
        TypeSignatureClass::Float => "float".to_owned(),
        TypeSignatureClass::Decimal => "decimal".to_owned(),
        TypeSignatureClass::Numeric => "number".to_owned(),
        TypeSignatureClass::Binary => "binary".to_owned(),
        TypeSignatureClass::Native(logical) => match logical.default_cast_for(&DataType::Null) {
            Ok(data_type) => type_name(&data_type),
            Err(_) => logical.native().to_string().to_lowercase(),
        },
    }
}
