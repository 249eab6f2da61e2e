//! Durations, sizes and rates as they are written in the pipeline file: always with a unit.
//!
//! Parsing is exact (integers throughout, fractions included) and checked; every error says what to write instead.

/// What is wrong with a value, and what to write instead.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnitError {
    /// A plain sentence, without a full stop.
    pub message: String,
    /// The remedy.
    pub help: String,
    /// The value is a bare number.
    pub unit_missing: bool,
}

const DURATIONS: &[(&str, i128)] = &[
    ("ns", 1),
    ("us", 1_000),
    ("ms", 1_000_000),
    ("s", 1_000_000_000),
    ("m", 60_000_000_000),
    ("h", 3_600_000_000_000),
    ("d", 86_400_000_000_000),
    ("w", 604_800_000_000_000),
];

const SIZES: &[(&str, i128)] = &[
    ("B", 1),
    ("KB", 1_000),
    ("kB", 1_000),
    ("MB", 1_000_000),
    ("GB", 1_000_000_000),
    ("TB", 1_000_000_000_000),
    ("KiB", 1 << 10),
    ("MiB", 1 << 20),
    ("GiB", 1 << 30),
    ("TiB", 1 << 40),
];

/// A duration such as `250ms` or `1.5s` in nanoseconds.
pub fn parse_duration(text: &str) -> Result<i64, UnitError> {
    let kind =
        Kind { noun: "a duration", units: DURATIONS, list: "ns, us, ms, s, m, h, d, w", example: "ms", wrong: "250ms" };
    let value = kind.parse(text)?;
    i64::try_from(value).map_err(|_| kind.too_large(text, "292 years"))
}

/// A size such as `64KiB` or `1MB` in bytes.
pub fn parse_size(text: &str) -> Result<u64, UnitError> {
    let kind = Kind {
        noun: "a size",
        units: SIZES,
        list: "B, KB, MB, GB, TB, KiB, MiB, GiB, TiB",
        example: "MiB",
        wrong: "64KiB",
    };
    let value = kind.parse(text)?;
    u64::try_from(value).map_err(|_| kind.too_large(text, "16 EiB"))
}

/// A rate such as `100/s` or `6000/m`, a second.
pub fn parse_rate(text: &str) -> Result<f64, UnitError> {
    let (number, seconds) = match text.trim().split_once('/') {
        None => (text.trim(), None),
        Some((number, unit)) => (
            number.trim_end(),
            match unit.trim() {
                "s" => Some(1.0),
                "m" => Some(60.0),
                "h" => Some(3_600.0),
                "d" => Some(86_400.0),
                _ => None,
            },
        ),
    };
    let plain = !number.is_empty() && number.bytes().all(|b| b.is_ascii_digit() || b == b'.');
    let value = number.parse::<f64>().ok().filter(|value| plain && value.is_finite());
    match (value, seconds) {
        (Some(value), Some(seconds)) if value > 0.0 => Ok(value / seconds),
        (Some(_), Some(_)) => Err(UnitError {
            message: "a rate of zero lets nothing through".to_owned(),
            help: "write a rate above zero: `100/s`".to_owned(),
            unit_missing: false,
        }),
        (Some(_), None) if !text.contains('/') => Err(UnitError {
            message: format!("`{}` has no unit", text.trim()),
            help: format!("write a unit: `{}/s`", text.trim()),
            unit_missing: true,
        }),
        _ => Err(UnitError {
            message: format!("`{}` is not a rate", shorten(text)),
            help: "write a number and `/s`, `/m`, `/h` or `/d`: `100/s`".to_owned(),
            unit_missing: false,
        }),
    }
}

/// A duration as it would be written: the largest unit that divides it.
pub fn format_duration(ns: i64) -> String {
    let whole = DURATIONS.iter().rev().find(|(unit, factor)| *unit != "w" && ns != 0 && ns as i128 % factor == 0);
    match whole {
        Some((unit, factor)) => format!("{}{unit}", ns as i128 / factor),
        None => "0s".to_owned(),
    }
}

/// A size as it would be written: the largest binary unit that divides it.
pub fn format_size(bytes: u64) -> String {
    let whole = SIZES
        .iter()
        .rev()
        .find(|(unit, factor)| (unit.ends_with("iB") || *unit == "B") && bytes != 0 && bytes as i128 % factor == 0);
    match whole {
        Some((unit, factor)) => format!("{}{unit}", bytes as i128 / factor),
        None => "0B".to_owned(),
    }
}

struct Kind {
    noun: &'static str,
    units: &'static [(&'static str, i128)],
    list: &'static str,
    example: &'static str,
    wrong: &'static str,
}

impl Kind {
    fn parse(&self, text: &str) -> Result<i128, UnitError> {
        let trimmed = text.trim();
        let split = trimmed.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(trimmed.len());
        let (number, unit) = trimmed.split_at(split);
        let unit = unit.trim_start();
        if trimmed.starts_with('-') {
            return Err(self
                .error(format!("{} can't be negative", self.noun), format!("write {}: `{}`", self.noun, self.wrong)));
        }
        let Some((whole, fraction)) = digits(number) else {
            let help = format!("write a number and a unit: `{}`", self.wrong);
            return Err(self.error(format!("`{}` is not {}", shorten(text), self.noun), help));
        };
        if unit.is_empty() {
            return Err(UnitError {
                message: format!("`{}` has no unit", shorten(trimmed)),
                help: format!("write a unit: `{}{}`", shorten(number), self.example),
                unit_missing: true,
            });
        }
        let Some((_, factor)) = self.units.iter().find(|(name, _)| *name == unit) else {
            return Err(self.unknown_unit(number, unit));
        };
        scale(whole, fraction, *factor).ok_or_else(|| self.too_large(text, "the largest that fits"))
    }

    fn unknown_unit(&self, number: &str, unit: &str) -> UnitError {
        let known = match unit.to_lowercase().as_str() {
            "sec" | "secs" | "second" | "seconds" => Some("s"),
            "min" | "mins" | "minute" | "minutes" => Some("m"),
            "hour" | "hours" | "hr" | "hrs" => Some("h"),
            "day" | "days" => Some("d"),
            "week" | "weeks" => Some("w"),
            "millis" | "msec" | "milliseconds" | "millisecond" => Some("ms"),
            "µs" | "μs" | "usec" | "micros" | "microseconds" => Some("us"),
            "nanos" | "nanoseconds" => Some("ns"),
            "k" | "ki" => Some("KiB"),
            "mi" | "m" => Some("MiB"),
            "gi" | "g" => Some("GiB"),
            "byte" | "bytes" => Some("B"),
            lower => self.units.iter().map(|(name, _)| *name).find(|name| name.to_lowercase() == lower),
        }
        .filter(|known| self.units.iter().any(|(name, _)| name == known));
        let help = match known {
            Some(known) => format!("write `{}{known}`", shorten(number)),
            None => format!("the units are {}", self.list),
        };
        self.error(format!("`{}` is not a unit of {}", shorten(unit), self.noun.trim_start_matches("a ")), help)
    }

    fn too_large(&self, text: &str, limit: &str) -> UnitError {
        self.error(
            format!("`{}` is too large for {}", shorten(text), self.noun),
            format!("the limit is {limit}; write a smaller value"),
        )
    }

    fn error(&self, message: String, help: String) -> UnitError {
        UnitError { message, help, unit_missing: false }
    }
}

/// The digits before and after the point, if `number` is one.
fn digits(number: &str) -> Option<(&str, &str)> {
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    let all_digits = |text: &str| text.bytes().all(|b| b.is_ascii_digit());
    let complete = !whole.is_empty() && (!number.contains('.') || !fraction.is_empty());
    (complete && all_digits(whole) && all_digits(fraction)).then_some((whole, fraction))
}

/// `whole.fraction × factor` without rounding on the way; below one it is cut off. `None` on overflow.
fn scale(whole: &str, fraction: &str, factor: i128) -> Option<i128> {
    let whole = whole.parse::<i128>().ok()?.checked_mul(factor)?;
    // 18 digits are beyond the finest unit of the largest factor.
    let fraction = &fraction[..fraction.len().min(18)];
    if fraction.is_empty() {
        return Some(whole);
    }
    let part = fraction.parse::<i128>().ok()?.checked_mul(factor)? / 10_i128.pow(u32::try_from(fraction.len()).ok()?);
    whole.checked_add(part)
}

fn shorten(text: &str) -> String {
    if text.chars().count() <= 40 { text.to_owned() } else { text.chars().take(40).chain(['…']).collect() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations() {
        let check = |text: &str, ns: i64| assert_eq!(parse_duration(text), Ok(ns), "{text}");
        check("10ns", 10);
        check("10us", 10_000);
        check("250ms", 250_000_000);
        check("1.5s", 1_500_000_000);
        check("0.1ms", 100_000);
        check("30s", 30_000_000_000);
        check("5m", 300_000_000_000);
        check("1h", 3_600_000_000_000);
        check("1d", 86_400_000_000_000);
        check("2w", 1_209_600_000_000_000);
        check("0s", 0);
        check("5 m", 300_000_000_000);
    }

    #[test]
    fn sizes_and_rates() {
        let check = |text: &str, bytes: u64| assert_eq!(parse_size(text), Ok(bytes), "{text}");
        check("512B", 512);
        check("64KiB", 65_536);
        check("128MiB", 134_217_728);
        check("1MB", 1_000_000);
        check("1.5GiB", 1_610_612_736);
        assert_eq!(parse_rate("100/s"), Ok(100.0));
        assert_eq!(parse_rate("6000/m"), Ok(100.0));
        assert_eq!(parse_rate("0.5/s"), Ok(0.5));
    }

    #[test]
    fn errors_name_the_remedy() {
        let check = |error: UnitError, message: &str, help: &str| {
            assert_eq!((error.message.as_str(), error.help.as_str()), (message, help));
        };
        check(parse_duration("250").unwrap_err(), "`250` has no unit", "write a unit: `250ms`");
        check(parse_duration("5min").unwrap_err(), "`min` is not a unit of duration", "write `5m`");
        check(
            parse_duration("5x").unwrap_err(),
            "`x` is not a unit of duration",
            "the units are ns, us, ms, s, m, h, d, w",
        );
        check(parse_duration("soon").unwrap_err(), "`soon` is not a duration", "write a number and a unit: `250ms`");
        check(parse_duration("-5s").unwrap_err(), "a duration can't be negative", "write a duration: `250ms`");
        check(parse_size("64").unwrap_err(), "`64` has no unit", "write a unit: `64MiB`");
        check(parse_size("64kib").unwrap_err(), "`kib` is not a unit of size", "write `64KiB`");
        check(parse_rate("100").unwrap_err(), "`100` has no unit", "write a unit: `100/s`");
        check(
            parse_rate("x/s").unwrap_err(),
            "`x/s` is not a rate",
            "write a number and `/s`, `/m`, `/h` or `/d`: `100/s`",
        );
        for text in [
            "",
            ".",
            "1.",
            ".5s",
            "1..2s",
            "99999999999999999999999999999999999999999w",
            "300000w",
            "1e3s",
            "١s",
            "\u{0}",
        ] {
            assert!(parse_duration(text).is_err(), "{text}");
            assert!(parse_size(text).is_err(), "{text}");
            assert!(parse_rate(text).is_err(), "{text}");
        }
    }

    #[test]
    fn what_is_formatted_parses_back() {
        for ns in [0, 1, 999, 1_000, 1_500_000_000, 60_000_000_000, 86_400_000_000_000, i64::MAX] {
            assert_eq!(parse_duration(&format_duration(ns)), Ok(ns));
        }
        for bytes in [0, 1, 1_000, 65_536, 134_217_728, u64::MAX] {
            assert_eq!(parse_size(&format_size(bytes)), Ok(bytes));
        }
    }
}
