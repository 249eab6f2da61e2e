//! Constants: numbers, texts, dates, intervals, and the types of casts.

use super::{Planner, internal};
use crate::error::{ExprError, both};
use crate::failure::clip;
use crate::parse::TIMESTAMP_IN;
use crate::types::{CAST_TYPES, cast_type, type_name};
use arrow::compute::can_cast_types;
use arrow::datatypes::{DataType, IntervalMonthDayNano, IntervalUnit};
use datafusion_common::ScalarValue;
use datafusion_expr::Expr;
use datafusion_expr::expr::{Cast, TryCast};
use datafusion_sql::sqlparser::ast::{self, CastKind, Value, ValueWithSpan};
use engine_base::codes::expr as codes;

/// The units that durations have everywhere in the language, in nanoseconds, days and months.
const UNITS: &[(&str, i64, i32)] = &[
    ("ns", 1, 0),
    ("us", 1_000, 0),
    ("µs", 1_000, 0),
    ("ms", 1_000_000, 0),
    ("s", 1_000_000_000, 0),
    ("m", 60_000_000_000, 0),
    ("h", 3_600_000_000_000, 0),
    ("d", 0, 1),
    ("w", 0, 7),
];

impl Planner<'_> {
    /// A number, a text, TRUE, NULL.
    pub(super) fn value(&mut self, value: &ValueWithSpan, node: &ast::Expr) -> Result<Expr, ExprError> {
        let literal = match &value.value {
            Value::Number(digits, _) => return self.number(digits, false, node),
            Value::SingleQuotedString(text)
            | Value::EscapedStringLiteral(text)
            | Value::NationalStringLiteral(text) => ScalarValue::from(text.as_str()),
            Value::DollarQuotedString(text) => ScalarValue::from(text.value.as_str()),
            Value::HexStringLiteral(digits) => match bytes_of(digits) {
                Some(bytes) => ScalarValue::Binary(Some(bytes)),
                None => {
                    return Err(ExprError::new(codes::BAD_LITERAL, "these are not pairs of hexadecimal digits")
                        .at(self.place(node)));
                }
            },
            Value::Boolean(value) => ScalarValue::from(*value),
            Value::Null => ScalarValue::Null,
            Value::Placeholder(name) => {
                return Err(ExprError::new(
                    codes::UNSUPPORTED,
                    format!("`{}` is a placeholder, and nothing fills it", clip(name, 40)),
                )
                .at(self.place(node))
                .help("a parameter of the pipeline is `param.name`"));
            }
            _ => {
                return Err(ExprError::new(codes::UNSUPPORTED, "this form of text is not supported")
                    .at(self.place(node))
                    .help("write `'text'`"));
            }
        };
        Ok(Expr::Literal(literal, None))
    }

    /// A number, with its sign so that the least integer can be written.
    pub(super) fn number(&mut self, digits: &str, negative: bool, node: &ast::Expr) -> Result<Expr, ExprError> {
        let signed = if negative { format!("-{digits}") } else { digits.to_owned() };
        let literal = if !digits.contains(['.', 'e', 'E']) {
            match (signed.parse::<i64>(), signed.parse::<u64>()) {
                (Ok(value), _) => ScalarValue::from(value),
                (_, Ok(value)) => ScalarValue::from(value),
                _ => {
                    return Err(ExprError::new(
                        codes::BAD_LITERAL,
                        "this number is too large for an integer of 64 bits",
                    )
                    .at(self.place(node))
                    .help(format!("write `{signed}.0` for a float64, or `CAST('{signed}' AS decimal(38, 0))`")));
                }
            }
        } else {
            match signed.parse::<f64>() {
                Ok(value) if value.is_finite() => ScalarValue::from(value),
                _ => {
                    return Err(ExprError::new(codes::BAD_LITERAL, "this number is too large for a float64")
                        .at(self.place(node)));
                }
            }
        };
        Ok(Expr::Literal(literal, None))
    }

    /// `DATE '2026-01-31'`
    pub(super) fn typed_string(&mut self, typed: &ast::TypedString, node: &ast::Expr) -> Result<Expr, ExprError> {
        let data_type = self.cast_type(&typed.data_type).map_err(|error| error.at(self.place(node)))?;
        match &typed.value.value {
            Value::SingleQuotedString(text) => {
                let literal = Expr::Literal(ScalarValue::from(text.as_str()), None);
                self.cast_to(literal, data_type, false, node)
            }
            _ => Err(ExprError::new(codes::BAD_LITERAL, "a text is due behind the type").at(self.place(node))),
        }
    }

    fn cast_type(&self, written: &ast::DataType) -> Result<DataType, ExprError> {
        cast_type(written).ok_or_else(|| {
            let name = written.to_string().replace(TIMESTAMP_IN, "timestamp");
            let base: String = name.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
            let error =
                ExprError::new(codes::UNKNOWN_TYPE, format!("there is no type `{}`", clip(&name.to_lowercase(), 40)));
            match written {
                ast::DataType::Timestamp(..) => error.help("a timestamp's precision is 0, 3, 6 or 9"),
                ast::DataType::Custom(name, _) if name.to_string() == TIMESTAMP_IN => error
                    .help("it has a unit, s, ms, us or ns, and may have a zone: `timestamp(ms, \"Europe/Berlin\")`"),
                ast::DataType::Decimal(_) | ast::DataType::Numeric(_) => {
                    error.help("a decimal has 1 to 38 digits: `decimal(18, 2)`")
                }
                ast::DataType::Time(..) => {
                    error.help("there are dates and timestamps; `date_part('hour', at)` is the hour")
                }
                ast::DataType::Uuid => error.help("a UUID is a string"),
                ast::DataType::Varchar(_)
                | ast::DataType::Char(_)
                | ast::DataType::Character(_)
                | ast::DataType::CharacterVarying(_) => error.help("a string has no length: `string`"),
                _ => error
                    .did_you_mean(
                        &base.to_lowercase(),
                        CAST_TYPES.iter().copied().chain(["integer", "bigint", "double", "varchar", "boolean", "text"]),
                    )
                    .known("the types are", CAST_TYPES.iter().copied()),
            }
        })
    }

    /// `CAST(x AS type)`, `x::type`, `TRY_CAST(x AS type)`
    pub(super) fn cast(
        &mut self,
        kind: &CastKind,
        value: &ast::Expr,
        data_type: &ast::DataType,
        node: &ast::Expr,
    ) -> Result<Expr, ExprError> {
        let value_node = value;
        let to = self.cast_type(data_type).map_err(|error| {
            let place = self.place(value_node).and_then(|value| self.parsed.cast_type(value));
            error.at(place.or_else(|| self.place(node)))
        });
        let (value, to) = both(self.plan(value), to)?;
        self.cast_to(value, to, matches!(kind, CastKind::TryCast | CastKind::SafeCast), node)
    }

    pub(super) fn cast_to(
        &self,
        value: Expr,
        to: DataType,
        or_null: bool,
        node: &ast::Expr,
    ) -> Result<Expr, ExprError> {
        let from = self.type_of(&value);
        if from == to {
            return Ok(value);
        }
        if !can_cast_types(&from, &to) {
            let error = ExprError::new(
                codes::IMPOSSIBLE_CAST,
                format!("a value of type {} can't become one of type {}", type_name(&from), type_name(&to)),
            )
            .at(self.place(node));
            return Err(match (&from, &to) {
                (DataType::List(_), DataType::Utf8) => error.help("write `array_to_string(list, ', ')`"),
                _ => error,
            });
        }
        let cast = match or_null {
            true => Expr::TryCast(TryCast::new(Box::new(value), to)),
            false => Expr::Cast(Cast::new(Box::new(value), to)),
        };
        self.settle(cast, node, |_, error| internal(error))
    }

    /// `at AT TIME ZONE 'Europe/Berlin'`: the same instant, its parts as that zone's clocks show them.
    pub(super) fn at_time_zone(
        &mut self,
        value: &ast::Expr,
        zone: &ast::Expr,
        node: &ast::Expr,
    ) -> Result<Expr, ExprError> {
        let zone = match self.plan(zone)? {
            Expr::Literal(ScalarValue::Utf8(Some(zone)), _) => zone,
            _ => {
                return Err(ExprError::new(codes::BAD_LITERAL, "the zone is a constant text")
                    .at(self.place(node))
                    .help("write `'Europe/Berlin'`"));
            }
        };
        if zone.parse::<arrow::array::timezone::Tz>().is_err() {
            return Err(ExprError::new(codes::BAD_LITERAL, format!("there is no time zone '{}'", clip(&zone, 40)))
                .at(self.place(node))
                .help("zones have names such as `Europe/Berlin`, `UTC` and `+02:00`"));
        }
        let value = self.plan(value)?;
        match self.type_of(&value) {
            DataType::Timestamp(unit, _) => {
                self.cast_to(value, DataType::Timestamp(unit, Some(zone.into())), false, node)
            }
            other => Err(ExprError::new(
                codes::OPERANDS,
                format!("AT TIME ZONE takes a timestamp, not a value of type {}", type_name(&other)),
            )
            .at(self.place(node))),
        }
    }

    /// `INTERVAL '5m'`, `INTERVAL '3 months'`, `INTERVAL '5' MINUTE`, `INTERVAL 5 MINUTE`
    pub(super) fn interval(&mut self, interval: &ast::Interval, node: &ast::Expr) -> Result<Expr, ExprError> {
        let wrong = |planner: &Self, message: String| {
            Err(ExprError::new(codes::BAD_LITERAL, message)
                .at(planner.place(node))
                .help("the units are ns, us, ms, s, m (minutes), h, d, w, or words: `INTERVAL '3 months'`, `INTERVAL '1 day 2 hours'`"))
        };
        if interval.last_field.is_some()
            || interval.leading_precision.is_some()
            || interval.fractional_seconds_precision.is_some()
        {
            return wrong(self, "an interval has one unit, or several in its text".to_owned());
        }
        let text = match &*interval.value {
            ast::Expr::Value(ValueWithSpan { value: Value::SingleQuotedString(text), .. }) => text.trim().to_owned(),
            ast::Expr::Value(ValueWithSpan { value: Value::Number(digits, _), .. }) => digits.clone(),
            _ => return wrong(self, "an interval is a constant".to_owned()),
        };
        let text = match &interval.leading_field {
            Some(unit) => format!("{text} {}", unit.to_string().to_lowercase()),
            None => text,
        };
        if text.parse::<f64>().is_ok() {
            return wrong(self, format!("the interval '{}' has no unit", clip(&text, 40)));
        }
        if let Some(value) = in_units(&text) {
            return match value {
                Some(value) => Ok(Expr::Literal(ScalarValue::IntervalMonthDayNano(Some(value)), None)),
                None => wrong(self, format!("the interval '{}' is too long", clip(&text, 40))),
            };
        }
        match ScalarValue::from(text.as_str()).cast_to(&DataType::Interval(IntervalUnit::MonthDayNano)) {
            Ok(value) if !value.is_null() => Ok(Expr::Literal(value, None)),
            _ => wrong(self, format!("'{}' is not an interval", clip(&text, 40))),
        }
    }
}

/// An interval in the language's own units, such as `1h30m`: `None` if it is not written so, `Some(None)` if it is too long.
fn in_units(text: &str) -> Option<Option<IntervalMonthDayNano>> {
    let (negative, mut rest) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    let (mut days, mut nanoseconds): (i128, i128) = (0, 0);
    if rest.is_empty() {
        return None;
    }
    while !rest.is_empty() {
        let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let (number, behind) = rest.split_at(end);
        let behind = behind.trim_start();
        let end = behind.find(|c: char| !c.is_alphabetic()).unwrap_or(behind.len());
        let (unit, behind) = behind.split_at(end);
        let (_, unit_ns, unit_days) = UNITS.iter().find(|(name, ..)| *name == unit)?;
        if number.is_empty() {
            return None;
        }
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        let whole: i128 = if whole.is_empty() { 0 } else { whole.parse().ok()? };
        let day_ns = i128::from(*unit_days) * 86_400_000_000_000;
        // A part of a day is hours; whole days stay days, as the calendar counts them.
        let fraction_ns = match fraction.is_empty() {
            true => 0,
            false => {
                let digits: String = fraction.chars().take(12).collect();
                let scale = 10i128.checked_pow(u32::try_from(digits.len()).ok()?)?;
                digits.parse::<i128>().ok()? * (day_ns + i128::from(*unit_ns)) / scale
            }
        };
        days = days.saturating_add(whole.saturating_mul(i128::from(*unit_days)));
        nanoseconds =
            nanoseconds.saturating_add(whole.saturating_mul(i128::from(*unit_ns))).saturating_add(fraction_ns);
        rest = behind.trim_start();
    }
    let sign = if negative { -1 } else { 1 };
    let value = i32::try_from(sign * days).ok().zip(i64::try_from(sign * nanoseconds).ok());
    Some(value.map(|(days, nanoseconds)| IntervalMonthDayNano::new(0, days, nanoseconds)))
}

fn bytes_of(digits: &str) -> Option<Vec<u8>> {
    if !digits.len().is_multiple_of(2) || !digits.is_ascii() {
        return None;
    }
    (0..digits.len()).step_by(2).map(|at| u8::from_str_radix(&digits[at..at + 2], 16).ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::in_units;

    #[test]
    fn the_units_of_the_language() {
        let check = |text: &str, want: Option<(i32, i64)>| {
            assert_eq!(
                in_units(text).map(|value| value.map(|it| (it.days, it.nanoseconds)).unwrap_or_default()),
                want,
                "{text}"
            );
        };
        check("5m", Some((0, 300_000_000_000)));
        check("250ms", Some((0, 250_000_000)));
        check("1h30m", Some((0, 5_400_000_000_000)));
        check("1 h 30 m", Some((0, 5_400_000_000_000)));
        check("2d", Some((2, 0)));
        check("1w", Some((7, 0)));
        check("1.5s", Some((0, 1_500_000_000)));
        check("0.5d", Some((0, 43_200_000_000_000)));
        check("-5m", Some((0, -300_000_000_000)));
        check("3 months", None);
        check("5 minutes", None);
        check("m", None);
        assert_eq!(in_units("99999999999999999999s"), Some(None));
    }
}
