//! A planned expression over aggregates: the calls, and what is computed of their results.
//!
//! `sum(a) FILTER (WHERE ok) / count(*)` is the calls `$0 = sum(a)`, filtered, and `$1 = count(*)`, and the expression
//! `$0 / $1`. Who keeps the state feeds the calls' arguments, row by row in the canonical order, and runs the program of
//! [`Aggregation::finish`] over the results.

use crate::error::ExprError;
use crate::failure::{INVALID, panicked, row_error};
use crate::panics::catching;
use crate::program::{Program, strict_cast};
use crate::scalar::Scalar;
use arrow::array::{Array, ArrayRef, Int64Array};
use arrow::datatypes::{DataType, Field, SchemaRef};
use datafusion_common::{Result as DataFusionResult, ScalarValue};
use datafusion_expr::Accumulator;
use datafusion_physical_expr::aggregate::AggregateFunctionExpr;
use engine_base::{RowError, codes};
use std::collections::BTreeSet;
use std::sync::Arc;

/// An expression over aggregates.
#[derive(Clone, Debug)]
pub struct Aggregation {
    /// The aggregates, each once. The result of call `i` is the column `$i` of the expression over them.
    pub calls: Vec<AggregateCall>,
    /// The type of its value.
    pub data_type: DataType,
    /// Whether its value may be null.
    pub nullable: bool,
    pub(crate) outer: Scalar,
    pub(crate) columns: BTreeSet<String>,
    pub(crate) beside: BTreeSet<String>,
}

impl Aggregation {
    /// Binds the expression over the results to a batch with the columns `$0`, `$1`, … and those of the row beside, such as
    /// `current.amount`.
    pub fn finish(&self, schema: &SchemaRef) -> Result<Program, ExprError> {
        self.outer.compile(schema)
    }

    /// The columns that the aggregates' arguments, filters and orders read.
    pub fn columns(&self) -> &BTreeSet<String> {
        &self.columns
    }

    /// The columns of the row beside that the expression over the results reads, with their qualifier.
    pub fn current_columns(&self) -> &BTreeSet<String> {
        &self.beside
    }

    /// As it was written.
    pub fn text(&self) -> &str {
        self.outer.text()
    }

    /// The expression over the results.
    pub fn outer(&self) -> &Scalar {
        &self.outer
    }

    /// The columns `$0`, `$1`, … with their types.
    pub fn result_fields(&self) -> Vec<Field> {
        let field =
            |(at, call): (usize, &AggregateCall)| Field::new(result_column(at), call.data_type.clone(), call.nullable);
        self.calls.iter().enumerate().map(field).collect()
    }
}

/// The name of a call's result.
pub(crate) fn result_column(call: usize) -> String {
    format!("${call}")
}

/// One aggregate.
#[derive(Clone, Debug)]
pub struct AggregateCall {
    /// Which.
    pub function: AggregateFunction,
    /// What it takes of each row, of the types it wants. `count(*)` takes nothing.
    pub args: Vec<Scalar>,
    /// Only rows for which this is true count.
    pub filter: Option<Scalar>,
    /// Each value counts once. `array_agg` gives them in their own order.
    pub distinct: bool,
    /// The group of rows that it is over, where it is not over all: see [`Scope::with_group`](crate::Scope::with_group).
    pub group: Option<String>,
    /// The order it wants, where the order makes a difference and is not that of its arguments. It sorts by itself; of rows that
    /// are equal in it, those that came first are first.
    pub order_by: Vec<OrderBy>,
    /// The type of its result.
    pub data_type: DataType,
    /// Whether its result may be null; of no rows it nearly always is.
    pub nullable: bool,
    pub(crate) prototype: Option<Arc<AggregateFunctionExpr>>,
}

/// A key of an `ORDER BY` within an aggregate.
#[derive(Clone, Debug)]
pub struct OrderBy {
    /// The key.
    pub value: Scalar,
    /// Greatest first.
    pub descending: bool,
    /// Nulls before all others.
    pub nulls_first: bool,
}

/// The aggregates that have an implementation of our own, and the others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AggregateFunction {
    /// `count(x)`, of one argument, and `count(*)`, of none.
    Count,
    /// `sum` of integers, floats or decimals. Of integers an overflow fails.
    Sum,
    /// `avg` of a float, decimal or duration.
    Avg,
    /// `min`
    Min,
    /// `max`
    Max,
    /// `var`, `var_pop`, of a float.
    Variance {
        /// Divided by the number of rows, not by one less.
        population: bool,
    },
    /// `stddev`, `stddev_pop`, of a float.
    Stddev {
        /// Divided by the number of rows, not by one less.
        population: bool,
    },
    /// `first(x)`, of the first row in canonical order, null or not.
    First,
    /// `last(x)`
    Last,
    /// `lag(x)`: of the row before, in `rolling`.
    Lag,
    /// Any other of DataFusion's, by its name: use [`AggregateCall::accumulator`].
    Other(String),
}

impl AggregateCall {
    /// Whether it passes over nulls: `IGNORE NULLS`.
    pub fn ignores_nulls(&self) -> bool {
        self.prototype.as_ref().is_some_and(|prototype| prototype.ignore_nulls())
    }

    /// The call's state, as DataFusion keeps it; for every function but `lag`.
    pub fn accumulator(&self) -> Result<RowAccumulator, ExprError> {
        let internal = |what: String| ExprError::new(codes::expr::INTERNAL, what);
        let prototype = self.prototype.as_ref().ok_or_else(|| internal("this aggregate keeps no state".to_owned()))?;
        let inner = catching(|| prototype.create_accumulator())
            .map_err(|message| internal(panicked(&message).reason))?
            .map_err(|error| internal(row_error(&error).reason))?;
        Ok(RowAccumulator { inner, data_type: self.data_type.clone(), star: self.args.is_empty() })
    }
}

/// The state of one aggregate over some rows.
#[derive(Debug)]
pub struct RowAccumulator {
    inner: Box<dyn Accumulator>,
    data_type: DataType,
    star: bool,
}

impl RowAccumulator {
    /// Adds rows: an array for each argument, then one for each key of `order_by`. For `count(*)`, any array of their number.
    ///
    /// After an error the state is undefined; throw it away.
    pub fn update(&mut self, values: &[ArrayRef]) -> Result<(), RowError> {
        let ones: [ArrayRef; 1];
        let values = match values {
            [any, ..] if self.star => {
                ones = [Arc::new(Int64Array::from(vec![1; any.len()]))];
                &ones
            }
            values => values,
        };
        guarded(|| self.inner.update_batch(values))
    }

    /// Adds the rows of other states, as [`RowAccumulator::state`] gives them: one array a state column, one row a state.
    pub fn merge(&mut self, states: &[ArrayRef]) -> Result<(), RowError> {
        guarded(|| self.inner.merge_batch(states))
    }

    /// The state as columns of one row. DataFusion's states may be taken out by this, so that it is the last act.
    pub fn state(mut self) -> Result<Vec<ArrayRef>, RowError> {
        guarded(|| self.inner.state()?.iter().map(ScalarValue::to_array).collect())
    }

    /// The result as an array of one row. DataFusion's states may be used up by this, so that it is the last act.
    pub fn evaluate(mut self) -> Result<ArrayRef, RowError> {
        guarded(|| {
            let result = self.inner.evaluate()?.to_array()?;
            if *result.data_type() == self.data_type { Ok(result) } else { strict_cast(&result, &self.data_type) }
        })
    }

    /// The bytes it takes.
    pub fn size(&self) -> usize {
        self.inner.size()
    }
}

fn guarded<T>(work: impl FnOnce() -> DataFusionResult<T>) -> Result<T, RowError> {
    match catching(work) {
        Ok(done) => done.map_err(|error| row_error(&error)),
        Err(message) if message.is_empty() => Err(RowError::new(INVALID, "an aggregate failed")),
        Err(message) => Err(panicked(&message)),
    }
}
