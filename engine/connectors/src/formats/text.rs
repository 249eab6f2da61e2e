//! Values as text: dates, times, decimals, durations and base64, both ways, for every format that writes them as text.

use arrow::array::timezone::Tz;
use arrow::datatypes::TimeUnit;
use chrono::{Offset, TimeZone};

const NS_PER_SECOND: i64 = 1_000_000_000;

/// Ticks of a unit in a second.
pub fn per_second(unit: TimeUnit) -> i64 {
    match unit {
        TimeUnit::Second => 1,
        TimeUnit::Millisecond => 1_000,
        TimeUnit::Microsecond => 1_000_000,
        TimeUnit::Nanosecond => NS_PER_SECOND,
    }
}

/// Two digits from `at` on.
#[inline(always)]
fn two(text: &[u8], at: usize) -> Option<i64> {
    match text.get(at..at + 2)? {
        [tens @ b'0'..=b'9', ones @ b'0'..=b'9'] => Some(i64::from(tens - b'0') * 10 + i64::from(ones - b'0')),
        _ => None,
    }
}

/// Days since 1970-01-01 of a date of the Gregorian calendar; `None` where there is no such day.
fn days(year: i64, month: i64, day: i64) -> Option<i64> {
    const LENGTHS: [i64; 12] = [31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
    let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    let length = *LENGTHS.get(usize::try_from(month - 1).ok()?)? + i64::from(month == 2 && leap);
    if !(1..=length).contains(&day) {
        return None;
    }
    // Years that start in March, in eras of 400 years: http://howardhinnant.github.io/date_algorithms.html
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400);
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    Some(era * 146_097 + year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year - 719_468)
}

/// Year, month and day of a count of days since 1970-01-01.
fn civil(days: i64) -> (i64, u32, u32) {
    let days = days + 719_468;
    let era = days.div_euclid(146_097);
    let day_of_era = days.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    (year_of_era + era * 400 + i64::from(month <= 2), month as u32, day as u32)
}

/// A date at the start of the text, as days since 1970-01-01, and what follows it.
#[inline(always)]
fn date_prefix(text: &[u8]) -> Option<(i64, &[u8])> {
    if matches!(text.first(), Some(b'+' | b'-')) {
        return far_date_prefix(text);
    }
    if text.get(4) != Some(&b'-') || text.get(7) != Some(&b'-') {
        return None;
    }
    Some((days(two(text, 0)? * 100 + two(text, 2)?, two(text, 5)?, two(text, 8)?)?, &text[10..]))
}

/// A date with a sign and four to twelve digits of the year, as ISO 8601 has them and [`write_date`] writes them: as many as
/// the seconds of a `timestamp(s)` can count.
#[cold]
fn far_date_prefix(text: &[u8]) -> Option<(i64, &[u8])> {
    let (sign, rest) = text.split_first()?;
    let digits = rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
    let (year, rest) = rest.split_at(digits);
    if !(4..=12).contains(&digits) || rest.first() != Some(&b'-') || rest.get(3) != Some(&b'-') {
        return None;
    }
    let year = year.iter().fold(0, |year, digit| year * 10 + i64::from(digit - b'0'));
    let year = if *sign == b'-' { -year } else { year };
    Some((days(year, two(rest, 1)?, two(rest, 4)?)?, &rest[6..]))
}

/// A date, `YYYY-MM-DD`, as days since 1970-01-01; beyond the years 0 to 9999 with a sign.
pub fn parse_date(text: &[u8]) -> Option<i64> {
    match date_prefix(text)? {
        (days, []) => i32::try_from(days).is_ok().then_some(days),
        _ => None,
    }
}

/// A point in time as RFC 3339 writes it (`2026-01-01T10:00:00.5Z`, `2026-01-01 11:00:00+01:00`), in ticks of `unit` since
/// 1970-01-01 UTC. Digits finer than the unit are cut off.
///
/// Without a zone it is taken as a time of `zone`, and of UTC where there is none.
pub fn parse_timestamp(text: &[u8], unit: TimeUnit, zone: Option<&Tz>) -> Result<i64, &'static str> {
    const FORM: &str = "is not a time such as `2026-01-01T10:00:00Z`";
    const FAR: &str = "is a time too far off for the column's unit";
    let (date, clock) = date_prefix(text).ok_or(FORM)?;
    let form =
        matches!(clock.first(), Some(b'T' | b't' | b' ')) && clock.get(3) == Some(&b':') && clock.get(6) == Some(&b':');
    let (Some(hour), Some(minute), Some(second), true) = (two(clock, 1), two(clock, 4), two(clock, 7), form) else {
        return Err(FORM);
    };
    // A leap second is the start of the next minute.
    if hour > 23 || minute > 59 || second > 60 {
        return Err(FORM);
    }
    let mut rest = &clock[9..];
    let mut nanos = 0_i64;
    if let Some(fraction) = rest.strip_prefix(b".") {
        let count = fraction.iter().take_while(|byte| byte.is_ascii_digit()).count();
        if count == 0 {
            return Err(FORM);
        }
        let digits = fraction[..count].iter().map(|byte| i64::from(byte - b'0'));
        nanos = digits.chain(std::iter::repeat(0)).take(9).fold(0, |nanos, digit| nanos * 10 + digit);
        rest = &fraction[count..];
    }
    let local = i128::from(date) * 86_400 + i128::from(hour * 3_600 + minute * 60 + second);
    let seconds = match rest {
        b"Z" | b"z" => local,
        b"" => local - i128::from(local_offset(i64::try_from(local).map_err(|_| FAR)?, zone)?),
        _ => local - i128::from(written_offset(rest).ok_or(FORM)?),
    };
    let ticks = per_second(unit);
    // Before 1970 the whole seconds may lie below what the fraction brings back into range.
    let value = seconds * i128::from(ticks) + i128::from(nanos / (NS_PER_SECOND / ticks));
    i64::try_from(value).map_err(|_| FAR)
}

/// `+01:00`, `-0530` or `+01` in seconds.
fn written_offset(text: &[u8]) -> Option<i64> {
    let sign = match text.first()? {
        b'+' => 1,
        b'-' => -1,
        _ => return None,
    };
    let hours = two(text, 1)?;
    let minutes = match text.len() {
        3 => 0,
        5 => two(text, 3)?,
        6 if text[3] == b':' => two(text, 4)?,
        _ => return None,
    };
    (hours < 24 && minutes < 60).then_some(sign * (hours * 3_600 + minutes * 60))
}

/// How far a zone is ahead of UTC, in seconds, when its clocks show `local` (seconds).
fn local_offset(local: i64, zone: Option<&Tz>) -> Result<i64, &'static str> {
    let Some(zone) = zone else { return Ok(0) };
    let time = chrono::DateTime::from_timestamp(local, 0).ok_or("is a time too far off")?.naive_utc();
    // Twice in the year clocks are turned; the hour that comes twice is taken as the first of the two.
    let offset = zone.offset_from_local_datetime(&time).earliest().ok_or("is a time that the column's zone skips")?;
    Ok(i64::from(offset.fix().local_minus_utc()))
}

/// The zone of a timestamp column, where it is another than UTC.
pub fn zone_of(zone: Option<&str>) -> Result<Option<Tz>, String> {
    match zone {
        None | Some("UTC" | "Z" | "+00:00" | "+00" | "Etc/UTC") => Ok(None),
        Some(zone) => zone.parse().map(Some).map_err(|_| format!("`{zone}` is not a time zone")),
    }
}

/// Appends a date, `YYYY-MM-DD`; beyond the years 0 to 9999 with a sign, as ISO 8601 has it.
pub fn write_date(out: &mut Vec<u8>, days: i64) {
    let (year, month, day) = civil(days);
    if (0..=9_999).contains(&year) {
        let year = year as u32;
        let mut text = *b"0000-00-00";
        put_two(&mut text, 0, year / 100);
        put_two(&mut text, 2, year % 100);
        put_two(&mut text, 5, month);
        put_two(&mut text, 8, day);
        out.extend_from_slice(&text);
    } else {
        out.extend_from_slice(format!("{year:+05}-{month:02}-{day:02}").as_bytes());
    }
}

fn put_two(text: &mut [u8], at: usize, value: u32) {
    text[at] = b'0' + (value / 10 % 10) as u8;
    text[at + 1] = b'0' + (value % 10) as u8;
}

/// Appends a point in time as RFC 3339 with as many digits of the second as it needs (none, three, six or nine), in UTC
/// with a `Z` or in the zone with its offset.
pub fn write_timestamp(out: &mut Vec<u8>, value: i64, unit: TimeUnit, zone: Option<&Tz>) {
    let ticks = per_second(unit);
    let mut seconds = value.div_euclid(ticks);
    let nanos = value.rem_euclid(ticks) * (NS_PER_SECOND / ticks);
    let mut offset = 0;
    if let Some(zone) = zone
        && let Some(time) = chrono::DateTime::from_timestamp(seconds, 0)
    {
        offset = i64::from(zone.offset_from_utc_datetime(&time.naive_utc()).fix().local_minus_utc());
        seconds = seconds.saturating_add(offset);
    }
    write_date(out, seconds.div_euclid(86_400));
    let of_day = seconds.rem_euclid(86_400) as u32;
    let mut clock = *b"T00:00:00";
    put_two(&mut clock, 1, of_day / 3_600);
    put_two(&mut clock, 4, of_day / 60 % 60);
    put_two(&mut clock, 7, of_day % 60);
    out.extend_from_slice(&clock);
    if nanos > 0 {
        let (mut digits, mut fraction) = (9, nanos);
        while fraction % 1_000 == 0 {
            fraction /= 1_000;
            digits -= 3;
        }
        let mut text = *b".000000000";
        for at in (1..=digits).rev() {
            text[at] = b'0' + (fraction % 10) as u8;
            fraction /= 10;
        }
        out.extend_from_slice(&text[..=digits]);
    }
    if zone.is_none() {
        out.push(b'Z');
    } else {
        let size = offset.unsigned_abs() as u32;
        let mut text = *b"+00:00";
        text[0] = if offset < 0 { b'-' } else { b'+' };
        put_two(&mut text, 1, size / 3_600);
        put_two(&mut text, 4, size / 60 % 60);
        out.extend_from_slice(&text);
    }
}

/// A decimal in plain or scientific notation as a whole number of units of `scale`; nothing is rounded.
pub fn parse_decimal(text: &[u8], precision: u8, scale: i8) -> Result<i128, String> {
    let not_one = || "is not a decimal number".to_owned();
    let (negative, rest) = match text {
        [b'-', rest @ ..] => (true, rest),
        [b'+', rest @ ..] => (false, rest),
        rest => (false, rest),
    };
    let (mantissa, exponent) = match rest.iter().position(|byte| matches!(byte, b'e' | b'E')) {
        None => (rest, 0),
        Some(at) => {
            let exponent = std::str::from_utf8(&rest[at + 1..]).ok().and_then(|text| text.parse::<i32>().ok());
            (&rest[..at], exponent.filter(|exponent| exponent.abs() <= 1_000).ok_or_else(not_one)?)
        }
    };
    let point = mantissa.iter().position(|byte| *byte == b'.');
    let (whole, fraction) = point.map_or((mantissa, &[][..]), |at| (&mantissa[..at], &mantissa[at + 1..]));
    let digits = || whole.iter().chain(fraction);
    if whole.is_empty() && fraction.is_empty() || !digits().all(u8::is_ascii_digit) {
        return Err(not_one());
    }
    let too_large = || format!("does not fit decimal({precision}, {scale})");
    // The digit at place p (0 is the last before the point) counts 10^(p + exponent + scale) units.
    let mut place = whole.len() as i32 - 1 + exponent + i32::from(scale);
    let mut value: i128 = 0;
    for digit in digits().map(|byte| i128::from(byte - b'0')) {
        if place < 0 && digit != 0 {
            return Err(format!("has more than {scale} digits behind the point"));
        }
        if place >= 0 {
            value = value.checked_mul(10).and_then(|value| value.checked_add(digit)).ok_or_else(too_large)?;
        }
        place -= 1;
    }
    // Zeros that an exponent stands for; none can be missing before a zero.
    while place >= 0 && value != 0 {
        value = value.checked_mul(10).ok_or_else(too_large)?;
        place -= 1;
    }
    if value >= 10_i128.checked_pow(u32::from(precision)).unwrap_or(i128::MAX) {
        return Err(too_large());
    }
    Ok(if negative { -value } else { value })
}

/// Appends a decimal in plain notation, with all digits of its scale.
pub fn write_decimal(out: &mut Vec<u8>, value: i128, scale: i8) {
    if value < 0 {
        out.push(b'-');
    }
    let mut buffer = itoa::Buffer::new();
    let digits = buffer.format(value.unsigned_abs()).as_bytes();
    let scale = i32::from(scale);
    if scale <= 0 {
        out.extend_from_slice(digits);
        if value != 0 {
            out.extend(std::iter::repeat_n(b'0', scale.unsigned_abs() as usize));
        }
        return;
    }
    let scale = scale as usize;
    if digits.len() > scale {
        out.extend_from_slice(&digits[..digits.len() - scale]);
    } else {
        out.push(b'0');
    }
    out.push(b'.');
    out.extend(std::iter::repeat_n(b'0', scale.saturating_sub(digits.len())));
    out.extend_from_slice(&digits[digits.len().saturating_sub(scale)..]);
}

/// A duration with its unit (`250ms`, `-1.5h`) in nanoseconds.
pub fn parse_duration(text: &[u8]) -> Result<i64, String> {
    let text = std::str::from_utf8(text).map_err(|_| "is not a duration".to_owned())?;
    let (negative, size) = text.strip_prefix('-').map_or((false, text), |size| (true, size));
    let ns = engine_base::units::parse_duration(size).map_err(|_| "is not a duration such as `250ms`".to_owned())?;
    Ok(if negative { -ns } else { ns })
}

/// Appends a duration with the largest unit that divides it.
pub fn write_duration(out: &mut Vec<u8>, ticks: i64, unit: TimeUnit) {
    let ns = i128::from(ticks) * i128::from(NS_PER_SECOND / per_second(unit));
    if ns < 0 {
        out.push(b'-');
    }
    match i64::try_from(ns.unsigned_abs()) {
        Ok(ns) => out.extend_from_slice(engine_base::units::format_duration(ns).as_bytes()),
        // Beyond 292 years; such a duration is not read back.
        Err(_) => out.extend_from_slice(format!("{}s", ns.unsigned_abs() / NS_PER_SECOND as u128).as_bytes()),
    }
}

const BASE64: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

/// Appends bytes as standard base64 with padding.
pub fn write_base64(out: &mut Vec<u8>, bytes: &[u8]) {
    for group in bytes.chunks(3) {
        let word = group.iter().fold(0_u32, |word, byte| word << 8 | u32::from(*byte)) << (8 * (3 - group.len()));
        for at in 0..4 {
            out.push(if at <= group.len() { BASE64[(word >> (18 - 6 * at) & 63) as usize] } else { b'=' });
        }
    }
}

/// Appends the bytes of a text in base64, standard or URL-safe alphabet, padded or not.
pub fn parse_base64(text: &[u8], out: &mut Vec<u8>) -> Result<(), &'static str> {
    const WRONG: &str = "is not base64";
    let unpadded = text.strip_suffix(b"==").or_else(|| text.strip_suffix(b"=")).unwrap_or(text);
    if unpadded.len() % 4 == 1 || (unpadded.len() != text.len() && !text.len().is_multiple_of(4)) {
        return Err(WRONG);
    }
    for group in unpadded.chunks(4) {
        let mut word = 0_u32;
        for byte in group {
            let value = match byte {
                b'A'..=b'Z' => byte - b'A',
                b'a'..=b'z' => byte - b'a' + 26,
                b'0'..=b'9' => byte - b'0' + 52,
                b'+' | b'-' => 62,
                b'/' | b'_' => 63,
                _ => return Err(WRONG),
            };
            word = word << 6 | u32::from(value);
        }
        word <<= 6 * (4 - group.len());
        out.extend_from_slice(&word.to_be_bytes()[1..group.len()]);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use chrono::NaiveDate;
    use proptest::prelude::*;

    fn text(write: impl FnOnce(&mut Vec<u8>)) -> String {
        let mut out = Vec::new();
        write(&mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn reads_times_as_people_write_them() {
        let berlin = zone_of(Some("Europe/Berlin")).unwrap();
        let check = |input: &str, zone: Option<&Tz>, expected: Result<i64, ()>| {
            let found = parse_timestamp(input.as_bytes(), TimeUnit::Millisecond, zone).map_err(drop);
            assert_eq!(found, expected, "{input}");
        };
        check("1970-01-01T00:00:00Z", None, Ok(0));
        check("1970-01-01T00:00:00.1239Z", None, Ok(123));
        check("1969-12-31T23:59:59.5Z", None, Ok(-500));
        check("1970-01-01 01:00:00+01:00", None, Ok(0));
        check("1970-01-01t01:00:00+0100", None, Ok(0));
        check("1970-01-01T01:00:00+01", None, Ok(0));
        check("1969-12-31T19:00:00-05:00", None, Ok(0));
        check("1970-01-01T00:00:00", None, Ok(0));
        check("1970-01-01T01:00:00", berlin.as_ref(), Ok(0));
        check("2024-07-01T02:00:00", berlin.as_ref(), Ok(1_719_792_000_000));
        check("2024-03-31T02:30:00", berlin.as_ref(), Err(()));
        check("2024-10-27T02:30:00", berlin.as_ref(), Ok(1_729_989_000_000));
        check("2016-12-31T23:59:60Z", None, Ok(1_483_228_800_000));
        check("2000-02-29T00:00:00Z", None, Ok(951_782_400_000));
        // What was read may be of another year in the column's zone, and is written there: found by the fuzz target `decoders`.
        check("+10000-01-01T05:29:59+05:30", None, Ok(253_402_300_799_000));
        check("-0001-12-31T23:59:59Z", None, Ok(-62_167_219_201_000));
        check("+292278994-08-17T07:12:55.807Z", None, Ok(i64::MAX));
        check("+292278994-08-17T07:12:55.808Z", None, Err(()));
        for wrong in [
            "",
            "1970",
            "1970-01-01",
            "1970-01-01T",
            "1970-01-01T00:00",
            "1970-01-01T00:00:00.Z",
            "1970-13-01T00:00:00Z",
            "1970-02-30T00:00:00Z",
            "1900-02-29T00:00:00Z",
            "1970-01-01T24:00:00Z",
            "1970-01-01T00:60:00Z",
            "1970-01-01T00:00:61Z",
            "1970-01-01T00:00:00X",
            "1970-01-01T00:00:00+1",
            "1970-01-01T00:00:00+25:00",
            "1970-01-01T00:00:00Z ",
            "1970/01/01T00:00:00Z",
            "+970-01-01T00:00:00Z",
            "+1234567890123-01-01T00:00:00Z",
            "-0001-13-31T23:59:59Z",
            "-0001-12-31",
            "+",
        ] {
            check(wrong, None, Err(()));
        }
        assert!(parse_timestamp(b"2300-01-01T00:00:00Z", TimeUnit::Nanosecond, None).is_err());
        for least_or_greatest in [i64::MIN, i64::MAX] {
            for unit in [TimeUnit::Second, TimeUnit::Millisecond, TimeUnit::Microsecond, TimeUnit::Nanosecond] {
                let written = text(|out| write_timestamp(out, least_or_greatest, unit, None));
                assert_eq!(parse_timestamp(written.as_bytes(), unit, None), Ok(least_or_greatest), "{written}");
            }
        }
    }

    #[test]
    fn writes_as_many_digits_as_needed() {
        let berlin = zone_of(Some("Europe/Berlin")).unwrap();
        let ns = |value, zone: Option<&Tz>| text(|out| write_timestamp(out, value, TimeUnit::Nanosecond, zone));
        assert_eq!(ns(0, None), "1970-01-01T00:00:00Z");
        assert_eq!(ns(500_000_000, None), "1970-01-01T00:00:00.500Z");
        assert_eq!(ns(1_000, None), "1970-01-01T00:00:00.000001Z");
        assert_eq!(ns(-1, None), "1969-12-31T23:59:59.999999999Z");
        assert_eq!(ns(0, berlin.as_ref()), "1970-01-01T01:00:00+01:00");
        assert_eq!(ns(1_719_792_000_000_000_000, berlin.as_ref()), "2024-07-01T02:00:00+02:00");
        let fixed = zone_of(Some("-05:30")).unwrap();
        assert_eq!(ns(0, fixed.as_ref()), "1969-12-31T18:30:00-05:30");
    }

    #[test]
    fn decimals_are_exact_or_refused() {
        let check = |input: &str, expected: Option<i128>| {
            assert_eq!(parse_decimal(input.as_bytes(), 6, 2).ok(), expected, "{input}");
        };
        check("0", Some(0));
        check("1", Some(100));
        check("-1.5", Some(-150));
        check("1.50000", Some(150));
        check("9999.99", Some(999_999));
        check("10000", None);
        check("1.005", None);
        check("1e2", Some(10_000));
        check("1.25e1", Some(1_250));
        check("125e-2", Some(125));
        check("125e-3", None);
        check("0e999", Some(0));
        check("1e99", None);
        check(".5", Some(50));
        check("5.", Some(500));
        for wrong in ["", "-", ".", "1.2.3", "abc", "1e", "e5", "0x1", "1_000", "NaN"] {
            check(wrong, None);
        }
        assert_eq!(parse_decimal(b"1300", 3, -2), Ok(13));
        assert_eq!(parse_decimal(&[b'9'; 60], 38, 0).ok(), None);
        assert_eq!(text(|out| write_decimal(out, -5, 2)), "-0.05");
        assert_eq!(text(|out| write_decimal(out, 12_345, 2)), "123.45");
        assert_eq!(text(|out| write_decimal(out, 13, -2)), "1300");
    }

    #[test]
    fn base64_takes_both_alphabets_and_no_nonsense() {
        let check = |input: &str, expected: Option<&[u8]>| {
            let mut out = Vec::new();
            let found = parse_base64(input.as_bytes(), &mut out).ok().map(|()| out);
            assert_eq!(found.as_deref(), expected, "{input}");
        };
        check("", Some(b""));
        check("aGk=", Some(b"hi"));
        check("aGk", Some(b"hi"));
        check("aA==", Some(b"h"));
        check("-_8=", Some(b"\xfb\xff"));
        check("+/8=", Some(b"\xfb\xff"));
        for wrong in ["a", "a===", "aGk==", "a b=", "=", "é", "aGk=aGk="] {
            check(wrong, None);
        }
    }

    proptest! {
        #[test]
        fn dates_agree_with_chrono(near in -719_000_i64..2_900_000, far in -90_000_000_i64..90_000_000, is_far: bool) {
            let days = if is_far { far } else { near };
            let date = NaiveDate::from_num_days_from_ce_opt((days + 719_163) as i32).unwrap();
            let written = text(|out| write_date(out, days));
            prop_assert_eq!(&written, &date.format("%Y-%m-%d").to_string());
            prop_assert_eq!(parse_date(written.as_bytes()), Some(days));
        }

        #[test]
        fn times_come_back(near in -62_135_596_800_i64..253_402_300_800, far in -8_000_000_000_000_i64..8_000_000_000_000, is_far: bool, fraction: u32, unit in 0_usize..4, zone in 0_usize..3) {
            let unit = [TimeUnit::Second, TimeUnit::Millisecond, TimeUnit::Microsecond, TimeUnit::Nanosecond][unit];
            let zone = zone_of([None, Some("Europe/Berlin"), Some("-05:30")][zone]).unwrap();
            let second = if is_far { far } else { near };
            let second = if unit == TimeUnit::Nanosecond { second % 9_000_000_000 } else { second };
            let value = second * per_second(unit) + i64::from(fraction) % per_second(unit);
            let written = text(|out| write_timestamp(out, value, unit, zone.as_ref()));
            // Before 1893 Berlin's offset has seconds, which RFC 3339 can't write.
            if zone.is_none() || value > 0 {
                prop_assert_eq!(parse_timestamp(written.as_bytes(), unit, None), Ok(value), "{}", written);
            }
            if zone.is_none() {
                let time = chrono::DateTime::from_timestamp(value.div_euclid(per_second(unit)), 0).unwrap();
                let whole = time.format("%Y-%m-%dT%H:%M:%S").to_string();
                prop_assert!(written.starts_with(&whole), "{} is {}", written, whole);
            }
        }

        #[test]
        fn decimals_come_back(value in -99_999_999_999_999_999_999_i128..99_999_999_999_999_999_999, scale in -3_i8..20) {
            let written = text(|out| write_decimal(out, value, scale));
            prop_assert_eq!(parse_decimal(written.as_bytes(), 38, scale), Ok(value), "{}", written);
        }

        #[test]
        fn durations_come_back(value in any::<i64>().prop_filter("has no opposite", |value| *value != i64::MIN)) {
            let written = text(|out| write_duration(out, value, TimeUnit::Nanosecond));
            prop_assert_eq!(parse_duration(written.as_bytes()), Ok(value), "{}", written);
        }

        #[test]
        fn base64_comes_back(bytes: Vec<u8>) {
            let written = text(|out| write_base64(out, &bytes));
            let mut out = Vec::new();
            parse_base64(written.as_bytes(), &mut out).unwrap();
            prop_assert_eq!(out, bytes);
        }

        #[test]
        fn nothing_panics(bytes: Vec<u8>, scale: i8) {
            let _ = parse_date(&bytes);
            let _ = parse_timestamp(&bytes, TimeUnit::Nanosecond, None);
            let _ = parse_decimal(&bytes, 38, scale);
            let _ = parse_duration(&bytes);
            let _ = parse_base64(&bytes, &mut Vec::new());
        }
    }
}
