//! Windows of fixed bounds in the language: what `window` and `join` read and check of them.

use super::assign::{DAY_NS, Windows};
use crate::check;
use arrow::array::timezone::Tz;
use arrow::datatypes::{DataType, Field, FieldRef, TimeUnit};
use engine_base::Diagnostic;
use engine_base::codes::{rolling as codes, spec as spec_codes};
use engine_plan::Cx;
use engine_spec::{SpanOr, TimeSpan};
use schemars::JsonSchema;
use serde::Deserialize;
use std::sync::Arc;

/// A length and what the windows start from.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct TumblingFrom {
    /// How long a window is.
    size: TimeSpan,
    /// A time zone, `Europe/Berlin`: windows are whole days of it. Days on which its clocks change are shorter or longer.
    zone: Option<String>,
    /// By how much windows start later than multiples of `size` since 1970-01-01T00:00:00Z.
    offset: Option<TimeSpan>,
}

/// Windows that overlap.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Hopping {
    /// How long a window is.
    size: TimeSpan,
    /// How long after one window the next one starts.
    every: TimeSpan,
    /// By how much windows start later than multiples of `every` since 1970-01-01T00:00:00Z.
    offset: Option<TimeSpan>,
}

/// Names of the columns that tell the window.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Bounds {
    /// The start of the window, inclusive.
    start: String,
    /// The end of the window, exclusive.
    end: String,
}

impl Default for Bounds {
    fn default() -> Self {
        Bounds { start: "window_start".to_owned(), end: "window_end".to_owned() }
    }
}

impl Bounds {
    /// Adds the columns, and gives their names; one that is taken is noted.
    pub(crate) fn add_to(self, cx: &mut Cx<'_>, fields: &mut Vec<FieldRef>) -> [String; 2] {
        let utc = DataType::Timestamp(TimeUnit::Nanosecond, Some("UTC".into()));
        for (key, bound) in [("start", &self.start), ("end", &self.end)] {
            if fields.iter().any(|field| field.name() == bound) {
                let path = ["as", key];
                let span = if cx.component.node.at(&path).is_some() { cx.span(&path) } else { cx.component.kind_span };
                cx.push(
                    check::taken(span, bound)
                        .help("give the window's bound another name: `as: { start: from, end: to }`"),
                );
            }
            fields.push(Arc::new(Field::new(bound, utc.clone(), false)));
        }
        [self.start, self.end]
    }
}

impl Windows {
    /// What a person should see of it.
    pub(crate) fn fact(&self) -> (String, String) {
        let span = |ns: i64| TimeSpan(ns).to_string();
        match self {
            Windows::Spans { size, every, .. } if size == every => ("tumbling".to_owned(), span(*size)),
            Windows::Spans { size, every, .. } => {
                ("hopping".to_owned(), format!("{} every {}", span(*size), span(*every)))
            }
            Windows::Days { days, zone } => ("tumbling".to_owned(), format!("{days}d of {}", zone_name(zone))),
        }
    }
}

fn zone_name(zone: &Tz) -> String {
    // It has its name in its debug text only: `Tz(Timezone(Europe/Berlin))`.
    let text = format!("{zone:?}");
    text.rsplit('(').next().unwrap_or(&text).trim_end_matches(')').to_owned()
}

/// Windows that overlap, as they are written at `path`.
pub(crate) fn hopping(cx: &mut Cx<'_>, path: &[&str], written: &Hopping) -> Option<Windows> {
    let size = positive(cx, &[path, &["size"]].concat(), written.size);
    let every = positive(cx, &[path, &["every"]].concat(), written.every);
    let offset = written.offset.map_or(0, |offset| offset.ns());
    Some(Windows::Spans { size: size?, every: every?, offset })
}

/// Windows one after the other, as they are written at `path`.
pub(crate) fn tumbling(cx: &mut Cx<'_>, path: &[&str], written: &SpanOr<TumblingFrom>) -> Option<Windows> {
    match written {
        SpanOr::Span(size) => {
            let size = positive(cx, path, *size)?;
            Some(Windows::Spans { size, every: size, offset: 0 })
        }
        SpanOr::Map(from) => {
            let size = positive(cx, &[path, &["size"]].concat(), from.size)?;
            let Some(zone) = &from.zone else {
                let offset = from.offset.map_or(0, |offset| offset.ns());
                return Some(Windows::Spans { size, every: size, offset });
            };
            let Ok(tz) = zone.parse::<Tz>() else {
                let span = cx.span(&[path, &["zone"]].concat());
                cx.push(
                    Diagnostic::error(spec_codes::BAD_VALUE, span, format!("there is no time zone `{zone}`"))
                        .help("write a name of the IANA time zone database, such as `Europe/Berlin`"),
                );
                return None;
            };
            if size % DAY_NS != 0 || from.offset.is_some() {
                let span = cx.span(path);
                let message = "windows of a time zone are whole days of it, without an offset";
                cx.push(
                    Diagnostic::error(codes::WINDOW_FORM, span, message)
                        .help("write `size: 1d`, or leave `zone` out: hours are the same in most zones"),
                );
                return None;
            }
            Some(Windows::Days { days: size / DAY_NS, zone: tz })
        }
    }
}

/// The length of a window, which holds something.
pub(crate) fn positive(cx: &mut Cx<'_>, path: &[&str], span: TimeSpan) -> Option<i64> {
    if span.ns() <= 0 {
        cx.error(codes::EMPTY_WINDOW, path, "a window must be longer than nothing");
        return None;
    }
    Some(span.ns())
}
