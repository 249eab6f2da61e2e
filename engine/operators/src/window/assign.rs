//! From a time to its slice, and from a slice to the windows that it is part of.

use arrow::array::timezone::Tz;
use chrono::{DateTime, Days, MappedLocalTime, NaiveDate, NaiveDateTime, TimeDelta, TimeZone};

/// Windows of fixed bounds: tumbling and hopping ones.
#[derive(Clone, Debug)]
pub(crate) enum Windows {
    /// Windows of `size`, one starting `every`, on multiples of `every` since 1970 UTC plus `offset`. All nanoseconds.
    Spans { size: i64, every: i64, offset: i64 },
    /// Windows of so many whole days of a time zone, one after the other.
    Days { days: i64, zone: Tz },
}

impl Windows {
    /// The slice of a time: where it starts and ends, nanoseconds since 1970 UTC.
    pub(crate) fn slice_of(&self, time_ns: i64) -> (i64, i64) {
        match self {
            Windows::Spans { size, every, offset } => {
                let width = gcd(*size, *every);
                let start = floor_to(time_ns.saturating_sub(*offset), width).saturating_add(*offset);
                (start, start.saturating_add(width))
            }
            Windows::Days { days, zone } => {
                let local = zone.from_utc_datetime(&DateTime::from_timestamp_nanos(time_ns).naive_utc()).naive_local();
                let day = floor_to(local.date().signed_duration_since(EPOCH).num_days(), *days);
                (start_of_day(zone, day), start_of_day(zone, day + days))
            }
        }
    }

    /// Whether the windows of a time have bounds that are times themselves: those close to the first and the last of all have not.
    pub(crate) fn hold(&self, time_ns: i64) -> bool {
        let (reach, offset) = match self {
            Windows::Spans { size, every, offset } => (size.saturating_add(*every), offset.saturating_abs()),
            Windows::Days { .. } => (self.longest_ns(), DAY_NS),
        };
        let margin = reach.saturating_mul(2).saturating_add(offset);
        i64::MIN.saturating_add(margin) <= time_ns && time_ns <= i64::MAX.saturating_sub(margin)
    }

    /// Whether a window is put together from several slices.
    pub(crate) fn many_slices(&self) -> bool {
        matches!(self, Windows::Spans { size, every, .. } if *size > gcd(*size, *every))
    }

    /// The end of the last window that a slice is part of, nanoseconds since 1970 UTC.
    pub(crate) fn last_end(&self, slice: (i64, i64)) -> i64 {
        match self {
            Windows::Spans { size, every, offset } => {
                let start = floor_to(slice.0.saturating_sub(*offset), *every).saturating_add(*offset);
                start.saturating_add(*size)
            }
            Windows::Days { .. } => slice.1,
        }
    }

    /// The ends of the windows that a slice is part of, in order.
    pub(crate) fn ends(&self, slice: (i64, i64)) -> impl Iterator<Item = i64> {
        let last = self.last_end(slice);
        let (first, every) = match self {
            Windows::Spans { size, every, offset } => {
                let shift = offset.saturating_add(*size);
                let before = floor_to(slice.1.saturating_sub(shift).saturating_sub(1), *every);
                (before.saturating_add(*every).saturating_add(shift), *every)
            }
            Windows::Days { .. } => (slice.1, i64::MAX),
        };
        std::iter::successors(Some(first), move |end| end.checked_add(every)).take_while(move |end| *end <= last)
    }

    /// From where the slices of the window with this end start, nanoseconds since 1970 UTC: where it starts, if that can be
    /// told from its end.
    pub(crate) fn slices_from(&self, end: i64) -> i64 {
        match self {
            Windows::Spans { size, .. } => end.saturating_sub(*size),
            Windows::Days { .. } => end.saturating_sub(self.longest_ns()),
        }
    }

    /// The first window that ends after a time, or of all, that has one of these slices: where it starts and ends. Slices
    /// are starts and ends, in order.
    pub(crate) fn next(
        &self,
        after_ns: Option<i64>,
        mut slices: impl Iterator<Item = (i64, i64)>,
    ) -> Option<(i64, i64)> {
        // An earlier slice has no later windows than another, so that the first which has one has the first of all.
        slices.find_map(|slice| {
            let first = self.ends(slice).next()?;
            let end = match (self, after_ns) {
                (Windows::Spans { every, .. }, Some(after_ns)) if first <= after_ns => {
                    let steps = after_ns.saturating_sub(first) / every + 1;
                    first.saturating_add(steps.saturating_mul(*every))
                }
                (Windows::Days { .. }, Some(after_ns)) if first <= after_ns => return None,
                _ => first,
            };
            (end <= self.last_end(slice)).then(|| (self.start_of(end, slice.0), end))
        })
    }

    /// Where the window with this end starts, nanoseconds since 1970 UTC. `first` is the start of one of its slices.
    pub(crate) fn start_of(&self, end: i64, first: i64) -> i64 {
        match self {
            Windows::Spans { size, .. } => end.saturating_sub(*size),
            Windows::Days { .. } => first,
        }
    }

    /// How long a window is at the most, nanoseconds.
    pub(crate) fn longest_ns(&self) -> i64 {
        match self {
            Windows::Spans { size, .. } => *size,
            // The day on which clocks go back, and half of the zones' history.
            Windows::Days { days, .. } => days.saturating_add(1).saturating_mul(DAY_NS),
        }
    }
}

const EPOCH: NaiveDate = NaiveDate::from_epoch_days(0).expect("the day is in range");
/// Nanoseconds of a day without a change of clocks.
pub(crate) const DAY_NS: i64 = 86_400_000_000_000;

/// The start of a local day, nanoseconds since 1970 UTC. Where clocks skip midnight, it is the first time after.
fn start_of_day(zone: &Tz, day: i64) -> i64 {
    let span = Days::new(day.unsigned_abs());
    let date = if day < 0 { EPOCH.checked_sub_days(span) } else { EPOCH.checked_add_days(span) };
    let Some(midnight) = date.and_then(|date| date.and_hms_opt(0, 0, 0)) else {
        return if day < 0 { i64::MIN } else { i64::MAX };
    };
    let at = |quarters: i64| -> Option<i64> {
        let local: NaiveDateTime = midnight.checked_add_signed(TimeDelta::minutes(15 * quarters))?;
        match zone.from_local_datetime(&local) {
            MappedLocalTime::Single(time) | MappedLocalTime::Ambiguous(time, _) => time.timestamp_nanos_opt(),
            MappedLocalTime::None => None,
        }
    };
    // Clocks have never skipped more than a day.
    (0..=96).find_map(at).unwrap_or(if day < 0 { i64::MIN } else { i64::MAX })
}

fn floor_to(value: i64, step: i64) -> i64 {
    value.saturating_sub(value.rem_euclid(step))
}

fn gcd(a: i64, b: i64) -> i64 {
    if b == 0 { a } else { gcd(b, a % b) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_in_the_windows_that_hold_it() {
        for (size, every, offset) in [(10, 10, 0), (10, 5, 0), (10, 4, 1), (3, 7, 2), (6, 6, -5)] {
            let windows = Windows::Spans { size, every, offset };
            for time in -50..50 {
                let slice = windows.slice_of(time);
                assert!(slice.0 <= time && time < slice.1, "{windows:?} {time}");
                let by_hand: Vec<i64> = (-100..100)
                    .filter(|end| (end - size - offset).rem_euclid(every) == 0 && end - size <= time && time < *end)
                    .collect();
                assert_eq!(windows.ends(slice).collect::<Vec<_>>(), by_hand, "{windows:?} {time}");
                assert!(by_hand.last().is_none_or(|last| *last == windows.last_end(slice)), "{windows:?} {time}");
            }
        }
    }

    #[test]
    fn windows_come_one_after_the_other() {
        for (size, every, offset) in [(10, 10, 0), (10, 5, 0), (10, 4, 1), (3, 7, 2), (6, 6, -5), (20, 1, 0)] {
            let windows = Windows::Spans { size, every, offset };
            for seed in 0..200_i64 {
                let times = (0..seed % 5 + 1).map(|n| (seed * 7 + n * n * (seed % 11)) % 90 - 40);
                let slices: std::collections::BTreeMap<i64, i64> = times.map(|time| windows.slice_of(time)).collect();
                let mut all: Vec<i64> = slices.iter().flat_map(|slice| windows.ends((*slice.0, *slice.1))).collect();
                all.sort_unstable();
                all.dedup();
                let mut found = Vec::new();
                let mut after = None;
                loop {
                    let from = after.map_or(i64::MIN, |after| windows.slices_from(after));
                    let later = slices.range(from..).map(|(start, end)| (*start, *end));
                    let Some((start, end)) = windows.next(after, later) else { break };
                    assert_eq!(end - start, size);
                    found.push(end);
                    after = Some(end);
                }
                assert_eq!(found, all, "{windows:?} {slices:?}");
            }
        }
    }

    #[test]
    fn days_are_those_of_the_zone() {
        let at = |text: &str| text.parse::<DateTime<chrono::Utc>>().unwrap().timestamp_nanos_opt().unwrap();
        let days = |days, zone: &str| Windows::Days { days, zone: zone.parse().unwrap() };
        let check = |windows: &Windows, time, start, end| {
            assert_eq!(windows.slice_of(at(time)), (at(start), at(end)), "{time}");
        };
        let berlin = days(1, "Europe/Berlin");
        check(&berlin, "2026-01-05T22:59:59Z", "2026-01-04T23:00:00Z", "2026-01-05T23:00:00Z");
        check(&berlin, "2026-01-05T23:00:00Z", "2026-01-05T23:00:00Z", "2026-01-06T23:00:00Z");
        // The days on which clocks change have 23 and 25 hours.
        check(&berlin, "2026-03-29T12:00:00Z", "2026-03-28T23:00:00Z", "2026-03-29T22:00:00Z");
        check(&berlin, "2026-10-25T12:00:00Z", "2026-10-24T22:00:00Z", "2026-10-25T23:00:00Z");
        // Clocks skipped midnight: the day began at one o'clock.
        check(&days(1, "America/Sao_Paulo"), "2018-11-04T12:00:00Z", "2018-11-04T03:00:00Z", "2018-11-05T02:00:00Z");
        // Weeks count from 1970-01-01, a Thursday.
        check(&days(7, "UTC"), "2026-01-05T00:00:00Z", "2026-01-01T00:00:00Z", "2026-01-08T00:00:00Z");
    }
}
