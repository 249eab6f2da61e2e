//! The steps that the planner itself inserts: a filter for `where:` on inputs and sinks, a map for `columns:` of a sink and
//! `set:` of a source, and a union for the errors of a chain. The kinds of these names plan themselves as the same.

use crate::kinds::{Columns, Planned};
use arrow::datatypes::SchemaRef;
use engine_expr::Scalar;

/// Keeps the rows for which the predicate is true; null is false.
#[derive(Debug)]
pub struct FilterPlan {
    /// A boolean expression.
    pub predicate: Scalar,
}

/// Puts out one row for each row, with exactly these columns.
#[derive(Debug)]
pub struct MapPlan {
    /// The columns in order: name and value.
    pub columns: Vec<(String, Scalar)>,
}

/// Puts the rows of several inputs into one stream.
#[derive(Debug)]
pub struct UnionPlan {
    /// How many inputs it has.
    pub inputs: usize,
    /// The columns of its output.
    pub schema: SchemaRef,
}

impl Planned for UnionPlan {
    fn reads(&self, wanted: &[Columns]) -> Vec<Columns> {
        let reads: Columns = wanted.iter().flatten().cloned().collect();
        vec![reads; self.inputs]
    }
}

impl Planned for FilterPlan {
    fn reads(&self, wanted: &[Columns]) -> Vec<Columns> {
        let mut reads: Columns = wanted.iter().flatten().cloned().collect();
        reads.extend(self.predicate.columns().iter().cloned());
        reads_event_time(&self.predicate, &mut reads);
        vec![reads]
    }

    fn facts(&self) -> Vec<(String, String)> {
        vec![("where".into(), self.predicate.text().into())]
    }
}

impl Planned for MapPlan {
    fn reads(&self, wanted: &[Columns]) -> Vec<Columns> {
        // Hidden columns pass through.
        let mut reads: Columns = wanted[0].iter().filter(|name| name.starts_with('@')).cloned().collect();
        for (name, value) in &self.columns {
            if wanted[0].contains(name) {
                reads.extend(value.columns().iter().cloned());
                reads_event_time(value, &mut reads);
            }
        }
        vec![reads]
    }

    fn facts(&self) -> Vec<(String, String)> {
        self.columns
            .iter()
            .filter(|(name, value)| value.as_column() != Some(name))
            .map(|(name, value)| (name.clone(), value.text().to_owned()))
            .collect()
    }
}

/// Adds the hidden event-time column where the expression calls `event_time()`.
pub fn reads_event_time(expression: &Scalar, reads: &mut Columns) {
    if expression.reads_event_time() {
        reads.insert(crate::hidden::EVENT_TIME.to_owned());
    }
}
