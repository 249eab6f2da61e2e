//! The functions that expressions may call: DataFusion's, less those that are no function of the row, and our own.
//!
//! The registry is built once per process. What DataFusion folds when it plans (`now()`), or draws from a global generator
//! (`random()`), is not in it: the planner turns such a call into a hidden column.

mod adapted;
mod extreme;
mod fail;
mod fold;
mod geo;
mod ieee;
mod json;
mod pattern;

use crate::types::UTC;
use datafusion_common::config::ConfigOptions;
use datafusion_expr::execution_props::ExecutionProps;
use datafusion_expr::{AggregateUDF, ScalarUDF};
use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};

#[cfg(test)]
pub(crate) use adapted::NULL_WHERE_AN_ARGUMENT_IS;
pub(crate) use fail::fail;
pub(crate) use json::check_path;

/// All functions by lower-case name.
#[derive(Debug)]
pub(crate) struct Functions {
    scalar: BTreeMap<String, Arc<ScalarUDF>>,
    aggregate: BTreeMap<String, Arc<AggregateUDF>>,
    /// UTC is the zone of what has none.
    pub(crate) config: Arc<ConfigOptions>,
    pub(crate) props: ExecutionProps,
}

/// What the planner itself makes of a name.
pub(crate) const BUILT_IN: &[&str] = &["now", "current_date", "today", "random", "uuid", "event_time", "lag"];

/// DataFusion's functions that are left out: they speak of Arrow's types, of files, or of times of day, which the language
/// does not have.
const LEFT_OUT: &[&str] = &[
    "arrow_cast",
    "arrow_try_cast",
    "arrow_field",
    "arrow_metadata",
    "arrow_typeof",
    "cast_to_type",
    "try_cast_to_type",
    "current_date",
    "current_time",
    "file_row_index",
    "input_file_name",
    "make_time",
    "now",
    "random",
    "to_time",
    "union_extract",
    "union_tag",
    "uuid",
    "version",
    "with_metadata",
    "grouping",
];

/// Names of other systems, and what to write here.
const ELSEWHERE: &[(&str, &str)] = &[
    ("if", "write `CASE WHEN a THEN b ELSE c END`"),
    ("iif", "write `CASE WHEN a THEN b ELSE c END`"),
    ("iff", "write `CASE WHEN a THEN b ELSE c END`"),
    ("isnull", "write `x IS NULL`"),
    ("len", "write `length(x)`"),
    ("size", "write `length(x)` for text, `array_length(x)` for a list"),
    ("datediff", "subtract one timestamp from the other: `a - b`"),
    ("timestampdiff", "subtract one timestamp from the other: `a - b`"),
    ("dateadd", "write `at + INTERVAL '5m'`"),
    ("date_add", "write `at + INTERVAL '5m'`"),
    ("date_sub", "write `at - INTERVAL '5m'`"),
    ("strftime", "write `to_char(at, '%Y-%m-%d')`"),
    ("json_extract", "write `json_get(text, '$.a.b')`"),
    ("json_value", "write `json_get(text, '$.a.b')`"),
    ("get_json_object", "write `json_get(text, '$.a.b')`"),
    ("int", "write `CAST(x AS int64)`"),
    ("float", "write `CAST(x AS float64)`"),
    ("str", "write `CAST(x AS string)`"),
    ("string", "write `CAST(x AS string)`"),
    ("to_number", "write `CAST(x AS float64)`"),
    ("try_convert", "write `TRY_CAST(x AS int64)`"),
    ("convert", "write `CAST(x AS int64)`"),
    ("current_time", "`now()` is the row's time; `date_part('hour', now())` its hour"),
    ("localtime", "`now()` is the row's time; `date_part('hour', now())` its hour"),
    ("localtimestamp", "write `now() AT TIME ZONE 'Europe/Berlin'`"),
    ("getdate", "write `now()`"),
    ("sysdate", "write `now()`"),
    ("rand", "write `random()`"),
    ("gen_random_uuid", "write `uuid()`"),
    ("row_number", "`generate` alone numbers its rows"),
    ("lead", "no row knows its successor; `lag(x)` is the value of the row before"),
    ("rank", "write a `top` operator"),
];

/// The process's functions.
pub(crate) fn functions() -> &'static Functions {
    static FUNCTIONS: OnceLock<Functions> = OnceLock::new();
    FUNCTIONS.get_or_init(Functions::new)
}

impl Functions {
    fn new() -> Self {
        let mut options = ConfigOptions::default();
        options.execution.time_zone = Some(UTC.to_owned());
        let config = Arc::new(options);
        let mut scalar = BTreeMap::new();
        let ours = [json::json_get(), pattern::regexp_extract(), geo::geo_distance_m(), ieee::sqrt(), ieee::power()];
        let theirs = datafusion_functions::all_default_functions()
            .into_iter()
            .chain(datafusion_functions_nested::all_default_nested_functions())
            .filter(|function| !LEFT_OUT.contains(&function.name()))
            .map(|function| match function.inner().with_updated_config(&config) {
                Some(updated) => Arc::new(updated),
                None => function,
            })
            .map(|function| fold::exact(&function).unwrap_or(function))
            .map(adapted::adapted);
        for function in theirs.chain(ours) {
            for name in function.aliases().iter().map(String::as_str).chain([function.name()]) {
                scalar.insert(name.to_lowercase(), Arc::clone(&function));
            }
        }
        let mut aggregate = BTreeMap::new();
        let theirs = datafusion_functions_aggregate::all_default_aggregate_functions();
        for function in theirs.into_iter().chain([extreme::max_by(), extreme::min_by()]) {
            if LEFT_OUT.contains(&function.name()) {
                continue;
            }
            for name in function.aliases().iter().map(String::as_str).chain([function.name()]) {
                aggregate.insert(name.to_lowercase(), Arc::clone(&function));
            }
        }
        for (short, name) in [("first", "first_value"), ("last", "last_value")] {
            if let Some(function) = aggregate.get(name).cloned() {
                aggregate.insert(short.to_owned(), function);
            }
        }
        let mut props = ExecutionProps::new();
        props.config_options = Some(Arc::clone(&config));
        Functions { scalar, aggregate, config, props }
    }

    /// The row function of a lower-case name.
    pub(crate) fn scalar(&self, name: &str) -> Option<&Arc<ScalarUDF>> {
        self.scalar.get(name)
    }

    /// The aggregate function of a lower-case name.
    pub(crate) fn aggregate(&self, name: &str) -> Option<&Arc<AggregateUDF>> {
        self.aggregate.get(name)
    }

    /// Every name, for "did you mean".
    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        self.scalar.keys().chain(self.aggregate.keys()).map(String::as_str).chain(BUILT_IN.iter().copied())
    }

    /// What to write for a function of another system.
    pub(crate) fn elsewhere(&self, name: &str) -> Option<&'static str> {
        ELSEWHERE.iter().find(|(other, _)| *other == name).map(|(_, write)| *write)
    }
}
