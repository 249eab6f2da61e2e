//! Operators, tests and `CASE`.

use super::{LONG_CHAIN, Planner, internal};
use crate::error::{ExprError, both, every};
use crate::failure::clip;
use crate::types::type_name;
use arrow::datatypes::{DataType, TimeUnit};
use datafusion_common::ScalarValue;
use datafusion_expr::expr::{BinaryExpr, Case, Cast, InList, Like};
use datafusion_expr::{Between, Expr, Operator};
use datafusion_sql::sqlparser::ast::{self, BinaryOperator, CaseWhen, UnaryOperator, Value, ValueWithSpan};
use engine_base::codes::expr as codes;

impl Planner<'_> {
    /// `a AND b AND c`: the parts of a chain, however long, left to right.
    pub(super) fn chain(
        &mut self,
        left: &ast::Expr,
        op: &BinaryOperator,
        right: &ast::Expr,
        node: &ast::Expr,
    ) -> Result<Expr, ExprError> {
        let mut parts = vec![right];
        let mut rest = left;
        while let ast::Expr::BinaryOp { left, op: inner, right } = rest {
            if inner != op {
                break;
            }
            parts.push(right);
            rest = left;
        }
        parts.push(rest);
        parts.reverse();
        let planned = every(parts.iter().enumerate().map(|(at, part)| {
            let part_planned = if at == 0 { self.plan(part)? } else { self.plan_conditional(part)? };
            let data_type = self.type_of(&part_planned);
            if matches!(data_type, DataType::Boolean | DataType::Null) {
                return Ok(part_planned);
            }
            let error = ExprError::new(
                codes::OPERANDS,
                format!("`{op}` joins conditions, and this is a value of type {}", type_name(&data_type)),
            )
            .at(self.place(part));
            Err(match data_type.is_numeric() {
                true => error.help(format!("compare it: `{} <> 0`", self.written(part))),
                false => error.help("compare it with something"),
            })
        }))?;
        let op = if *op == BinaryOperator::And { Operator::And } else { Operator::Or };
        self.conditional += 1;
        let joined = self.join(planned, op, node);
        self.conditional -= 1;
        joined
    }

    fn join(&mut self, mut parts: Vec<Expr>, op: Operator, node: &ast::Expr) -> Result<Expr, ExprError> {
        let settle = |planner: &Self, left: Expr, right: Expr| {
            let joined = Expr::BinaryExpr(BinaryExpr::new(Box::new(left), op, Box::new(right)));
            planner.settle(joined, node, |_, error| internal(error))
        };
        if parts.len() > LONG_CHAIN {
            let later = parts.split_off(parts.len() / 2);
            let (left, right) = (self.join(parts, op, node)?, self.join(later, op, node)?);
            return settle(self, left, right);
        }
        let mut parts = parts.into_iter();
        let mut joined = parts.next().unwrap_or(Expr::Literal(ScalarValue::Null, None));
        for part in parts {
            joined = settle(self, joined, part)?;
        }
        Ok(joined)
    }

    /// Any other operator between two values.
    pub(super) fn binary(
        &mut self,
        left: &ast::Expr,
        op: &BinaryOperator,
        right: &ast::Expr,
        node: &ast::Expr,
    ) -> Result<Expr, ExprError> {
        let operator = match op {
            BinaryOperator::Plus => Operator::Plus,
            BinaryOperator::Minus => Operator::Minus,
            BinaryOperator::Multiply => Operator::Multiply,
            BinaryOperator::Divide => Operator::Divide,
            BinaryOperator::Modulo => Operator::Modulo,
            BinaryOperator::Eq => return self.compare(left, Operator::Eq, right, node),
            BinaryOperator::NotEq => return self.compare(left, Operator::NotEq, right, node),
            BinaryOperator::Lt => return self.compare(left, Operator::Lt, right, node),
            BinaryOperator::LtEq => return self.compare(left, Operator::LtEq, right, node),
            BinaryOperator::Gt => return self.compare(left, Operator::Gt, right, node),
            BinaryOperator::GtEq => return self.compare(left, Operator::GtEq, right, node),
            BinaryOperator::Spaceship => return self.compare(left, Operator::IsNotDistinctFrom, right, node),
            BinaryOperator::StringConcat => return self.concat(left, right, node),
            BinaryOperator::BitwiseAnd => Operator::BitwiseAnd,
            BinaryOperator::BitwiseOr => Operator::BitwiseOr,
            BinaryOperator::PGBitwiseShiftLeft => Operator::BitwiseShiftLeft,
            BinaryOperator::PGBitwiseShiftRight => Operator::BitwiseShiftRight,
            BinaryOperator::PGRegexMatch => return self.matches(left, Operator::RegexMatch, right, node, false),
            BinaryOperator::PGRegexIMatch => return self.matches(left, Operator::RegexIMatch, right, node, false),
            BinaryOperator::PGRegexNotMatch => return self.matches(left, Operator::RegexNotMatch, right, node, false),
            BinaryOperator::PGRegexNotIMatch => {
                return self.matches(left, Operator::RegexNotIMatch, right, node, false);
            }
            other => {
                let error = ExprError::new(
                    codes::UNSUPPORTED,
                    format!("the operator `{}` is not supported", clip(&other.to_string(), 20)),
                )
                .at(self.place(node));
                return Err(match other {
                    BinaryOperator::BitwiseXor | BinaryOperator::PGExp => error.help("a power is `power(a, b)`"),
                    BinaryOperator::Xor => error.help("write `a <> b` for conditions"),
                    BinaryOperator::DuckIntegerDivide | BinaryOperator::MyIntegerDivide => {
                        error.help("`/` of two integers is whole already")
                    }
                    BinaryOperator::AtArrow => error.help("write `array_has_all(a, b)`"),
                    BinaryOperator::ArrowAt => error.help("write `array_has_all(b, a)`"),
                    BinaryOperator::PGStartsWith => error.help("write `starts_with(text, prefix)`"),
                    BinaryOperator::PGLikeMatch => error.help("write `text LIKE 'pattern'`"),
                    _ => error,
                });
            }
        };
        let (left_value, right_value) = both(self.plan(left), self.plan(right))?;
        let (left_value, right_value) = self.spans(left_value, right_value, node)?;
        let types = (self.type_of(&left_value), self.type_of(&right_value));
        if operator == Operator::Divide && quotient_never_fits(&types.0, &types.1) {
            return Err(misfit(operator, &types.0, &types.1).at(self.place(node)));
        }
        let expr = Expr::BinaryExpr(BinaryExpr::new(Box::new(left_value), operator, Box::new(right_value)));
        self.settle(expr, node, |_, _| misfit(operator, &types.0, &types.1))
    }

    /// A comparison.
    pub(super) fn compare(
        &mut self,
        left: &ast::Expr,
        operator: Operator,
        right: &ast::Expr,
        node: &ast::Expr,
    ) -> Result<Expr, ExprError> {
        let (left_value, right_value) = both(self.plan(left), self.plan(right))?;
        let (left_value, right_value) = self.spans(left_value, right_value, node)?;
        let types = (self.type_of(&left_value), self.type_of(&right_value));
        let expr = Expr::BinaryExpr(BinaryExpr::new(Box::new(left_value), operator, Box::new(right_value)));
        self.settle(expr, node, |planner, _| {
            let error = cannot_compare(&types.0, &types.1);
            match (&types.0, &types.1) {
                (number, DataType::Boolean) if number.is_numeric() => {
                    error.help(format!("if `{}` is 0 or 1, write `{0} <> 0`", planner.written(left)))
                }
                _ => error,
            }
        })
    }

    /// A constant interval beside a duration becomes one: `at - seen < INTERVAL '5m'`. Days count 24 hours then.
    fn spans(&self, left: Expr, right: Expr, node: &ast::Expr) -> Result<(Expr, Expr), ExprError> {
        let duration = |expr: &Expr| matches!(self.type_of(expr), DataType::Duration(_));
        match (duration(&left), duration(&right)) {
            (true, false) => Ok((self.in_ns(left, &right), self.as_duration(right, node)?)),
            (false, true) => Ok((self.as_duration(left, node)?, right)),
            _ => Ok((left, right)),
        }
    }

    /// A duration beside an interval, in the interval's unit.
    fn in_ns(&self, duration: Expr, beside: &Expr) -> Expr {
        let to = DataType::Duration(TimeUnit::Nanosecond);
        match self.type_of(beside) {
            DataType::Interval(_) if self.type_of(&duration) != to => Expr::Cast(Cast::new(Box::new(duration), to)),
            _ => duration,
        }
    }

    fn as_duration(&self, expr: Expr, node: &ast::Expr) -> Result<Expr, ExprError> {
        let error = |message: &str| ExprError::new(codes::OPERANDS, message).at(self.place(node));
        match &expr {
            Expr::Literal(ScalarValue::IntervalMonthDayNano(Some(value)), _) => {
                if value.months != 0 {
                    return Err(error("a duration can't be compared or added with months, which differ in length")
                        .help("write days: `INTERVAL '30d'`"));
                }
                let days = i64::from(value.days).checked_mul(86_400_000_000_000);
                match days.and_then(|days| days.checked_add(value.nanoseconds)) {
                    Some(ns) => Ok(Expr::Literal(ScalarValue::DurationNanosecond(Some(ns)), None)),
                    None => Err(error("the interval is too long for a duration")),
                }
            }
            _ => Ok(expr),
        }
    }

    /// `a || b`
    fn concat(&mut self, left: &ast::Expr, right: &ast::Expr, node: &ast::Expr) -> Result<Expr, ExprError> {
        let (left_value, right_value) = both(self.plan(left), self.plan(right))?;
        let types = (self.type_of(&left_value), self.type_of(&right_value));
        if types.0 == DataType::Boolean && types.1 == DataType::Boolean {
            return Err(ExprError::new(codes::FOREIGN_OPERATOR, "`||` joins texts, and these are conditions")
                .at(self.place(node))
                .help("write `OR`"));
        }
        if types.0.is_list() || types.1.is_list() {
            let name = match (types.0.is_list(), types.1.is_list()) {
                (true, true) => "array_concat",
                (true, false) => "array_append",
                _ => "array_prepend",
            };
            return self.call_planned(name, vec![left_value, right_value], node);
        }
        let expr =
            Expr::BinaryExpr(BinaryExpr::new(Box::new(left_value), Operator::StringConcat, Box::new(right_value)));
        self.settle(expr, node, |_, _| {
            ExprError::new(
                codes::OPERANDS,
                format!("`||` joins texts, not {} and {}", type_name(&types.0), type_name(&types.1)),
            )
            .help("turn a value into text: `CAST(x AS string)`")
        })
    }

    /// `-x`, `NOT x`
    pub(super) fn unary(&mut self, op: UnaryOperator, value: &ast::Expr, node: &ast::Expr) -> Result<Expr, ExprError> {
        match op {
            UnaryOperator::Minus => {
                if let ast::Expr::Value(ValueWithSpan { value: Value::Number(digits, _), .. }) = value {
                    return self.number(digits, true, value);
                }
                let planned = self.plan(value)?;
                let data_type = self.type_of(&planned);
                self.settle(Expr::Negative(Box::new(planned)), node, |_, _| {
                    let error = ExprError::new(
                        codes::OPERANDS,
                        format!("there is no negative of a value of type {}", type_name(&data_type)),
                    );
                    match data_type.is_unsigned_integer() {
                        true => error.help("turn it into a signed number first: `-CAST(x AS int64)`"),
                        false => error,
                    }
                })
            }
            UnaryOperator::Plus => {
                let planned = self.plan(value)?;
                let data_type = self.type_of(&planned);
                match data_type.is_numeric() || data_type.is_null() {
                    true => Ok(planned),
                    false => Err(ExprError::new(
                        codes::OPERANDS,
                        format!("`+` stands before a number, not a value of type {}", type_name(&data_type)),
                    )
                    .at(self.place(node))),
                }
            }
            UnaryOperator::Not => {
                let planned = self.plan(value)?;
                let data_type = self.type_of(&planned);
                if !matches!(data_type, DataType::Boolean | DataType::Null) {
                    return Err(ExprError::new(
                        codes::OPERANDS,
                        format!("NOT turns a condition round, and this is a value of type {}", type_name(&data_type)),
                    )
                    .at(self.place(value))
                    .help("compare it with something"));
                }
                self.settle(Expr::Not(Box::new(planned)), node, |_, error| internal(error))
            }
            other => Err(ExprError::new(codes::UNSUPPORTED, format!("the operator `{other}` is not supported"))
                .at(self.place(node))),
        }
    }

    /// `x IS NULL` and its kin.
    pub(super) fn test(
        &mut self,
        value: &ast::Expr,
        form: fn(Box<Expr>) -> Expr,
        node: &ast::Expr,
    ) -> Result<Expr, ExprError> {
        let planned = self.plan(value)?;
        let data_type = self.type_of(&planned);
        self.settle(form(Box::new(planned)), node, |_, _| {
            ExprError::new(
                codes::OPERANDS,
                format!("IS TRUE and IS FALSE test conditions, not a value of type {}", type_name(&data_type)),
            )
        })
    }

    /// `x IN (a, b)`
    pub(super) fn in_list(
        &mut self,
        value: &ast::Expr,
        list: &[ast::Expr],
        negated: bool,
        node: &ast::Expr,
    ) -> Result<Expr, ExprError> {
        let planned = self.plan(value);
        if list.is_empty() {
            return Err(ExprError::new(codes::SYNTAX, "the list behind IN is empty").at(self.place(node)));
        }
        let (planned, items) = both(planned, every(list.iter().map(|item| self.plan(item))))?;
        let of = self.type_of(&planned);
        let types: Vec<DataType> = items.iter().map(|item| self.type_of(item)).collect();
        if list.len() == 1 && types[0].is_list() {
            return Err(ExprError::new(codes::OPERANDS, "IN takes values in parentheses, not a list")
                .at(self.place(&list[0]))
                .help(format!("write `{} = ANY({})`", self.written(value), self.written(&list[0]))));
        }
        if of.is_floating() || types.iter().any(DataType::is_floating) {
            // A list is looked up by its bits; a comparison knows floats.
            let mut equal = Vec::with_capacity(items.len());
            for (item, written) in items.into_iter().zip(list) {
                equal.push(self.equal(planned.clone(), item, written)?);
            }
            let any = self.join(equal, Operator::Or, node)?;
            return match negated {
                true => self.settle(Expr::Not(Box::new(any)), node, |_, error| internal(error)),
                false => Ok(any),
            };
        }
        self.settle(Expr::InList(InList::new(Box::new(planned), items, negated)), node, |planner, _| {
            let odd = types.iter().position(|data_type| data_type != &of && !data_type.is_null()).unwrap_or(0);
            cannot_compare(&of, &types[odd]).at(planner.place(&list[odd]))
        })
    }

    /// `a = b` of two values that are planned.
    pub(super) fn equal(&self, left: Expr, right: Expr, node: &ast::Expr) -> Result<Expr, ExprError> {
        let types = (self.type_of(&left), self.type_of(&right));
        let equal = Expr::BinaryExpr(BinaryExpr::new(Box::new(left), Operator::Eq, Box::new(right)));
        self.settle(equal, node, |_, _| cannot_compare(&types.0, &types.1))
    }

    /// `x BETWEEN a AND b`
    pub(super) fn between(
        &mut self,
        value: &ast::Expr,
        negated: bool,
        low: &ast::Expr,
        high: &ast::Expr,
        node: &ast::Expr,
    ) -> Result<Expr, ExprError> {
        let bounds = both(self.plan(low), self.plan(high));
        let (value, (low, high)) = both(self.plan(value), bounds)?;
        let (value, low) = self.spans(value, low, node)?;
        let (value, high) = self.spans(value, high, node)?;
        let types = (self.type_of(&value), self.type_of(&low), self.type_of(&high));
        let between = Between::new(Box::new(value), negated, Box::new(low), Box::new(high));
        self.settle(Expr::Between(between), node, |_, _| {
            cannot_compare(&types.0, if types.1 == types.0 { &types.2 } else { &types.1 })
        })
    }

    /// `x LIKE pattern`
    pub(super) fn like(
        &mut self,
        negated: bool,
        any_case: bool,
        value: &ast::Expr,
        pattern: &ast::Expr,
        escape: Option<&ValueWithSpan>,
        node: &ast::Expr,
    ) -> Result<Expr, ExprError> {
        if escape.is_some_and(|escape| !matches!(&escape.value, Value::SingleQuotedString(text) if text == "\\")) {
            return Err(
                ExprError::new(codes::UNSUPPORTED, "a pattern's escape is always the backslash").at(self.place(node))
            );
        }
        let (value, pattern) = both(self.plan(value), self.plan(pattern))?;
        let types = (self.type_of(&value), self.type_of(&pattern));
        if types.0.is_numeric() || types.0 == DataType::Boolean {
            return Err(not_text("LIKE", &types.0, &types.1).at(self.place(node)));
        }
        let like = Like::new(negated, Box::new(value), Box::new(pattern), None, any_case);
        self.settle(Expr::Like(like), node, |_, _| not_text("LIKE", &types.0, &types.1))
    }

    /// `x ~ 'regex'`; `whole` where the pattern must match all of the text, as SIMILAR TO wants it.
    pub(super) fn matches(
        &mut self,
        value: &ast::Expr,
        operator: Operator,
        pattern: &ast::Expr,
        node: &ast::Expr,
        whole: bool,
    ) -> Result<Expr, ExprError> {
        let pattern_node = pattern;
        let (value, mut pattern) = both(self.plan(value), self.plan(pattern))?;
        let types = (self.type_of(&value), self.type_of(&pattern));
        if whole {
            let Expr::Literal(ScalarValue::Utf8(Some(text)), _) = &pattern else {
                return Err(ExprError::new(codes::UNSUPPORTED, "SIMILAR TO takes a constant pattern")
                    .at(self.place(node))
                    .help("write `x ~ pattern`"));
            };
            pattern = Expr::Literal(ScalarValue::from(format!("^(?:{})$", similar_as_regex(text))), None);
        }
        self.check_regex(&pattern, pattern_node)?;
        let expr = Expr::BinaryExpr(BinaryExpr::new(Box::new(value), operator, Box::new(pattern)));
        self.settle(expr, node, |_, _| not_text("a pattern", &types.0, &types.1))
    }

    /// A constant pattern must be one.
    pub(super) fn check_regex(&self, pattern: &Expr, node: &ast::Expr) -> Result<(), ExprError> {
        let Expr::Literal(ScalarValue::Utf8(Some(text)), _) = pattern else { return Ok(()) };
        match regex::Regex::new(text) {
            Ok(_) => Ok(()),
            Err(error) => {
                let why = error.to_string();
                let why = why.lines().last().unwrap_or_default().trim().trim_start_matches("error: ").to_owned();
                Err(ExprError::new(codes::ARGUMENTS, format!("'{}' is not a regular expression", clip(text, 40)))
                    .at(self.place(node))
                    .help(clip(&why, 120)))
            }
        }
    }

    /// `x = ANY(list)`
    pub(super) fn any_of(&mut self, value: &ast::Expr, list: &ast::Expr, node: &ast::Expr) -> Result<Expr, ExprError> {
        let (value, list_value) = both(self.plan(value), self.plan(list))?;
        let data_type = self.type_of(&list_value);
        if !data_type.is_list() {
            return Err(ExprError::new(
                codes::OPERANDS,
                format!("ANY takes a list, not a value of type {}", type_name(&data_type)),
            )
            .at(self.place(list))
            .help("several values stand behind IN: `x IN (a, b)`"));
        }
        self.call_planned("array_has", vec![list_value, value], node)
    }

    /// `CASE`
    pub(super) fn case(
        &mut self,
        operand: Option<&ast::Expr>,
        conditions: &[CaseWhen],
        otherwise: Option<&ast::Expr>,
        node: &ast::Expr,
    ) -> Result<Expr, ExprError> {
        let operand_value = operand.map(|operand| self.plan(operand)).transpose();
        let branches = every(conditions.iter().enumerate().map(|(at, branch)| {
            let when = if at == 0 { self.plan(&branch.condition) } else { self.plan_conditional(&branch.condition) };
            let when = when.and_then(|when| {
                if operand.is_none() {
                    self.check_condition(&when, &branch.condition)?;
                }
                Ok(when)
            });
            let (when, then) = both(when, self.plan_conditional(&branch.result))?;
            Ok((Box::new(when), Box::new(then)))
        }));
        let otherwise_value = otherwise.map(|otherwise| self.plan_conditional(otherwise)).transpose();
        let (operand_value, (mut branches, otherwise_value)) = both(operand_value, both(branches, otherwise_value))?;
        let results: Vec<(DataType, &ast::Expr)> = branches
            .iter()
            .zip(conditions)
            .map(|((_, then), branch)| (self.type_of(then), &branch.result))
            .chain(otherwise_value.iter().zip(otherwise).map(|(value, node)| (self.type_of(value), node)))
            .collect();
        let tested: Vec<(DataType, &ast::Expr)> = match &operand_value {
            Some(value) => {
                let of = self.type_of(value);
                branches
                    .iter()
                    .zip(conditions)
                    .map(|((when, _), branch)| (self.type_of(when), &branch.condition))
                    .chain(operand.map(|node| (of, node)))
                    .collect()
            }
            None => Vec::new(),
        };
        let mut operand_value = operand_value;
        if tested.iter().any(|(data_type, _)| data_type.is_floating())
            && let Some(value) = operand_value.take()
        {
            // `CASE` looks for the same bits; a comparison knows floats.
            for ((when, _), branch) in branches.iter_mut().zip(conditions) {
                let when_value = std::mem::replace(&mut **when, Expr::Literal(ScalarValue::Null, None));
                **when = self.equal(value.clone(), when_value, &branch.condition)?;
            }
        }
        let case = Case::new(operand_value.map(Box::new), branches, otherwise_value.map(Box::new));
        // What coercion puts around a branch fails only for the rows that take it.
        self.conditional += 1;
        let settled = self.settle(Expr::Case(case), node, |planner, _| {
            let odd = |typed: &[(DataType, &ast::Expr)]| -> Option<ExprError> {
                let (first, _) = typed.iter().find(|(data_type, _)| !data_type.is_null())?;
                let (other, node) = typed.iter().find(|(data_type, _)| data_type != first && !data_type.is_null())?;
                Some(
                    ExprError::new(
                        codes::OPERANDS,
                        format!("the branches are of types {} and {}", type_name(first), type_name(other)),
                    )
                    .at(planner.place(node))
                    .help("cast one: `CAST(x AS type)`"),
                )
            };
            odd(&results)
                .or_else(|| odd(&tested))
                .unwrap_or_else(|| ExprError::new(codes::OPERANDS, "the branches don't fit together"))
        });
        self.conditional -= 1;
        settled
    }
}

fn cannot_compare(left: &DataType, right: &DataType) -> ExprError {
    let error = ExprError::new(
        codes::OPERANDS,
        format!("{} and {} can't be compared", with_article(left), with_article(right)),
    );
    match (left, right) {
        (DataType::Timestamp(..) | DataType::Date32, other) | (other, DataType::Timestamp(..) | DataType::Date32)
            if other.is_numeric() =>
        {
            error.help("a number becomes a timestamp by `to_timestamp_millis(x)` and its kin")
        }
        (DataType::Timestamp(..), DataType::Interval(_) | DataType::Duration(_)) => {
            error.help("subtract two timestamps first: `now() - at > INTERVAL '5m'`")
        }
        _ => error,
    }
}

fn with_article(data_type: &DataType) -> String {
    let name = type_name(data_type);
    let article = if name.starts_with(['a', 'e', 'i', 'o']) { "an" } else { "a" };
    format!("{article} {name}")
}

fn not_text(what: &str, left: &DataType, right: &DataType) -> ExprError {
    let odd = if matches!(left, DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View) { right } else { left };
    ExprError::new(codes::OPERANDS, format!("{what} is for text, and this is a value of type {}", type_name(odd)))
        .help("turn a value into text: `CAST(x AS string)`")
}

/// Whether a quotient of decimals has too many digits for any value from 1 on: Arrow computes it with the places of the
/// dividend, four more, and those of the divisor.
fn quotient_never_fits(left: &DataType, right: &DataType) -> bool {
    const MORE_PLACES: i16 = 4;
    const MOST_DIGITS: i16 = 38;
    let places = |data_type: &DataType| match data_type {
        DataType::Decimal128(_, places) => Some(i16::from(*places)),
        _ => None,
    };
    match (places(left), places(right)) {
        (Some(left), Some(right)) => (left + MORE_PLACES).min(MOST_DIGITS) + right > MOST_DIGITS,
        _ => false,
    }
}

/// Arithmetic that doesn't exist.
fn misfit(operator: Operator, left: &DataType, right: &DataType) -> ExprError {
    let (l, r) = (with_article(left), with_article(right));
    let message = match operator {
        Operator::Plus => format!("{l} and {r} can't be added"),
        Operator::Minus => format!("{r} can't be subtracted from {l}"),
        Operator::Multiply => format!("{l} and {r} can't be multiplied"),
        Operator::Divide => format!("{l} can't be divided by {r}"),
        Operator::Modulo => format!("{l} has no remainder by {r}"),
        other => format!("`{other}` takes whole numbers, not {l} and {r}"),
    };
    let error = ExprError::new(codes::OPERANDS, message);
    if left.is_decimal() && right.is_decimal() {
        let why = match operator {
            Operator::Multiply => "a product has the decimal places of both sides",
            _ => {
                "a quotient has the decimal places of the dividend and four more, and is computed with those of the divisor"
            }
        };
        return error
            .help(format!("{why}, and a decimal has at most 38 digits"))
            .help("take fewer: `CAST(x AS decimal(18, 4))`, or compute with `CAST(x AS float64)`");
    }
    let text = |data_type: &DataType| matches!(data_type, DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View);
    let time = |data_type: &DataType| matches!(data_type, DataType::Timestamp(..) | DataType::Date32);
    if (time(left) || time(right)) && (left.is_numeric() || right.is_numeric() || text(left) || text(right)) {
        return error.help("a span of time has a unit: `at + INTERVAL '5m'`");
    }
    if time(left) && time(right) {
        return error.help("two timestamps can be subtracted");
    }
    if operator == Operator::Plus && (text(left) || text(right)) {
        return error.help("texts are joined by `||`, numbers in text become numbers by `CAST(x AS float64)`");
    }
    if text(left) || text(right) {
        return error.help("a number in text becomes one by `CAST(x AS float64)`");
    }
    if matches!(left, DataType::Duration(_)) || matches!(right, DataType::Duration(_)) {
        return error.help("a duration in nanoseconds is `CAST(x AS int64)`");
    }
    error
}

/// SIMILAR TO's `%` and `_` in a regular expression's words; the rest is the same.
fn similar_as_regex(pattern: &str) -> String {
    let mut regex = String::with_capacity(pattern.len() + 8);
    let mut escaped = false;
    for c in pattern.chars() {
        match c {
            _ if escaped => {
                regex.push_str(&regex::escape(c.encode_utf8(&mut [0; 4])));
                escaped = false;
            }
            '\\' => escaped = true,
            '%' => regex.push_str("(?s:.*)"),
            '_' => regex.push_str("(?s:.)"),
            '.' | '^' | '$' => {
                regex.push('\\');
                regex.push(c);
            }
            c => regex.push(c),
        }
    }
    regex
}
