//! The step that gives rows their event time, which the planner inserts directly after a source with `event_time:`.

use crate::kinds::{Columns, Planned, hidden};
use arrow::array::{Array, ArrayRef, AsArray};
use arrow::buffer::ScalarBuffer;
use arrow::compute::cast;
use arrow::datatypes::{DataType, Int64Type, TimeUnit};
use engine_base::RowError;
use engine_expr::Scalar;
use engine_spec::TimeSpan;

/// Nanoseconds in a day, for a date.
const DAY_NS: i64 = 86_400_000_000_000;

/// Fills the hidden event time and passes every column on.
///
/// Where no later step reads [`hidden::EVENT_TIME`] it does nothing at all, and no row can fail in it.
#[derive(Debug)]
pub struct EventTimePlan {
    /// A timestamp, a date or an integer.
    pub value: Scalar,
    /// What one unit of an integer, a date or a timestamp is in nanoseconds.
    pub unit_ns: i64,
    /// How far behind the greatest event time seen a row may come, nanoseconds.
    pub max_delay_ns: i64,
    /// How long a partition may be silent before the others go on without it, nanoseconds.
    pub idle_after_ns: i64,
}

impl Planned for EventTimePlan {
    fn reads(&self, wanted: &[Columns]) -> Vec<Columns> {
        let mut reads: Columns = wanted.iter().flatten().cloned().collect();
        if reads.remove(hidden::EVENT_TIME) {
            reads.extend(self.value.columns().iter().cloned());
        }
        vec![reads]
    }

    fn facts(&self) -> Vec<(String, String)> {
        let max_delay = TimeSpan(self.max_delay_ns).to_string();
        let value = self.value.as_column().unwrap_or_else(|| self.value.text());
        vec![("event_time".into(), value.into()), ("max_delay".into(), max_delay)]
    }
}

impl EventTimePlan {
    /// The unit of a type that has one by itself; `None` for an integer, which needs `unit:`, and `Err` for a type that
    /// is no time.
    #[allow(clippy::result_unit_err)]
    pub fn own_unit_ns(data_type: &DataType) -> Result<Option<i64>, ()> {
        match data_type {
            DataType::Timestamp(TimeUnit::Second, _) => Ok(Some(1_000_000_000)),
            DataType::Timestamp(TimeUnit::Millisecond, _) => Ok(Some(1_000_000)),
            DataType::Timestamp(TimeUnit::Microsecond, _) => Ok(Some(1_000)),
            DataType::Timestamp(TimeUnit::Nanosecond, _) => Ok(Some(1)),
            DataType::Date32 => Ok(Some(DAY_NS)),
            data_type if data_type.is_integer() => Ok(None),
            _ => Err(()),
        }
    }

    /// Whether a row can be without an event time: its value is null, or too far from 1970 for 64 bits of nanoseconds.
    pub fn can_fail(&self) -> bool {
        self.value.nullable() || self.unit_ns != 1 || self.value.as_column().is_none()
    }

    /// The event time of each row, nanoseconds since 1970 UTC, from the evaluated `value`; and the rows that have none.
    /// Such a row's event time is 0: it goes to the error output.
    pub fn to_ns(&self, values: &ArrayRef) -> (ScalarBuffer<i64>, Vec<(usize, RowError)>) {
        let integers = match cast(values, &DataType::Int64) {
            Ok(integers) => integers,
            // Not to be had: `own_unit_ns` admits only types that Arrow casts to 64-bit integers.
            Err(error) => {
                let failed = |row| (row, RowError::new("event_time", format!("the event time can't be read: {error}")));
                return (vec![0; values.len()].into(), (0..values.len()).map(failed).collect());
            }
        };
        let integers = integers.as_primitive::<Int64Type>();
        if self.unit_ns == 1 && integers.null_count() == 0 {
            return (integers.values().clone(), Vec::new());
        }
        let mut errors = Vec::new();
        let times = (0..integers.len())
            .map(|row| {
                let time = integers.is_valid(row).then(|| integers.value(row));
                match time.map(|time| time.checked_mul(self.unit_ns)) {
                    Some(Some(time)) => time,
                    Some(None) => {
                        let reason = "the event time is more than 292 years from 1970; is its unit right?";
                        errors.push((row, RowError::new("event_time", reason)));
                        0
                    }
                    None if values.is_null(row) => {
                        errors.push((row, RowError::new("event_time", "the event time is null")));
                        0
                    }
                    None => {
                        errors.push((row, RowError::new("event_time", "the event time is above the range of int64")));
                        0
                    }
                }
            })
            .collect();
        (times, errors)
    }
}
