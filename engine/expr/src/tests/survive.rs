//! The body of the tests of robustness, which the fuzz target `expressions` runs too: any text through the planner, and
//! what could be planned over a small batch.

use super::samples::{batch, context, evaluate, evaluate_part, facts, rendered, scope};
use arrow::array::{Array, ArrayRef, AsArray, RecordBatch};
use arrow::compute::{concat, filter};
use arrow::datatypes::{Field, Schema};
use engine_base::RowError;
use engine_expr::{AggregateCall, AggregateFunction, Aggregation, Context, ExprError, Scalar, Scope};
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant};

/// Far above what any text takes, far below a hang.
const LONG: Duration = Duration::from_secs(20);

/// What a text is planned against. Making it takes longer than planning most texts.
static SAMPLES: LazyLock<(Context, Scope, RecordBatch)> =
    LazyLock::new(|| (context(), scope().with("current", batch().schema()), batch()));

/// A text as each of the three sorts of expression.
pub(crate) struct Planned {
    pub(crate) scalar: Result<Scalar, ExprError>,
    pub(crate) predicate: Result<Scalar, ExprError>,
    pub(crate) aggregate: Result<Aggregation, ExprError>,
}

impl Planned {
    /// Plans a text; the planner must come to an answer of its own, in words of its own.
    pub(crate) fn of(text: &str) -> Planned {
        let (context, scope, _) = &*SAMPLES;
        let started = Instant::now();
        let planned = Planned {
            scalar: context.scalar(text, scope),
            predicate: context.predicate(text, scope),
            aggregate: context.aggregate(text, scope),
        };
        let took = started.elapsed();
        assert!(took < LONG, "{} bytes took {took:?}: {}", text.len(), text.chars().take(200).collect::<String>());
        let errors =
            [planned.scalar.as_ref().err(), planned.predicate.as_ref().err(), planned.aggregate.as_ref().err()];
        errors.into_iter().flatten().for_each(|error| {
            ours(text, error);
            error.also.iter().for_each(|error| ours(text, error));
        });
        planned
    }
}

fn ours(text: &str, error: &ExprError) {
    assert_ne!(error.code.0, "E0225", "{text}: {error}");
    if let Some(range) = &error.range {
        assert!(text.get(range.clone()).is_some(), "{range:?} is no range of {text:?}");
    }
    let words = format!("{} {}", error.message, error.help.join(" "));
    // What a message quotes stands on one line there.
    let line: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    for jargon in
        ["Error during planning", "candidate", "Utf8", "Int64", "Execution error", "Internal error", "DataFusion"]
    {
        assert!(!words.contains(jargon) || line.contains(jargon), "{text}: {words}");
    }
}

/// Plans a text, and evaluates what could be planned.
pub(crate) fn survive(text: &str) {
    let (_, _, batch) = &*SAMPLES;
    let planned = Planned::of(text);
    // `current.x` can be planned here, and is computed by the step that has it.
    let computable = |scalar: &Scalar| scalar.columns().iter().all(|name| batch.column_by_name(name).is_some());
    if let Ok(scalar) = planned.scalar
        && computable(&scalar)
    {
        keeps_its_word(text, &scalar, batch);
    }
    if let Ok(predicate) = planned.predicate
        && computable(&predicate)
    {
        narrows_rightly(text, &predicate, batch);
    }
    if let Ok(aggregation) = planned.aggregate
        && aggregation.calls.iter().all(|call| call.function != AggregateFunction::Lag)
    {
        aggregated(&aggregation, batch, &[]);
        aggregated(&aggregation, batch, &[1, 3]);
    }
}

/// The row alone decides; the type is the planned one; null is only what may be, or has failed.
fn keeps_its_word(text: &str, scalar: &Scalar, batch: &RecordBatch) {
    let whole = evaluate(scalar, batch);
    let alone: Vec<String> =
        (0..batch.num_rows()).flat_map(|row| rendered(&evaluate_part(scalar, batch, row, 1))).collect();
    assert_eq!(rendered(&whole), alone, "each row alone: {text}");
    assert_eq!(whole.array.data_type(), scalar.data_type(), "{text}");
    let failed: Vec<usize> = whole.errors.iter().map(|(row, _)| *row).collect();
    assert!(failed.is_sorted(), "{text}");
    if !scalar.nullable() {
        let nulls: Vec<usize> = (0..whole.array.len()).filter(|row| whole.array.is_null(*row)).collect();
        assert_eq!(nulls, failed, "never null, it says: {text}");
    }
}

/// Where a condition is true, the columns that it says are not null are not.
fn narrows_rightly(text: &str, predicate: &Scalar, batch: &RecordBatch) {
    let outcome = evaluate(predicate, batch).array;
    let outcome = outcome.as_boolean();
    for column in predicate.non_null_when_true() {
        let Some(values) = batch.column_by_name(&column) else { continue };
        for row in 0..batch.num_rows() {
            let holds = outcome.is_valid(row) && outcome.value(row);
            assert!(!holds || values.is_valid(row), "`{column}` is null in row {row}, and true is: {text}");
        }
    }
}

/// All rows of the batch through the calls, then the expression over the results beside each row of the batch.
pub(crate) fn aggregated(aggregation: &Aggregation, batch: &RecordBatch, pieces: &[usize]) -> Vec<String> {
    let mut fields = aggregation.result_fields();
    let mut columns: Vec<ArrayRef> = Vec::new();
    for (at, call) in aggregation.calls.iter().enumerate() {
        let result = match result_of(call, batch, pieces) {
            Ok(result) => result,
            Err(error) => return vec![format!("!{error}")],
        };
        assert_eq!(result.data_type(), fields[at].data_type());
        let copies: Vec<&dyn arrow::array::Array> = (0..batch.num_rows()).map(|_| result.as_ref()).collect();
        columns.push(concat(&copies).expect("arrays of one type"));
    }
    for name in aggregation.current_columns() {
        let bare = name.strip_prefix("current.").expect("the only qualifier");
        let column = batch.column_by_name(bare).expect("there");
        fields.push(Field::new(name, column.data_type().clone(), true));
        columns.push(Arc::clone(column));
    }
    let options = arrow::array::RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
    let results =
        RecordBatch::try_new_with_options(Arc::new(Schema::new(fields)), columns, &options).expect("columns that fit");
    let mut program = aggregation.finish(&results.schema()).expect("compiles over its own results");
    rendered(&program.evaluate(&results, &facts()))
}

/// One call's result: a state for each piece, merged in order.
fn result_of(call: &AggregateCall, batch: &RecordBatch, pieces: &[usize]) -> Result<ArrayRef, RowError> {
    let values = |part: &Scalar| {
        let evaluated = part.compile(&batch.schema()).expect("compiles").evaluate(batch, &facts());
        match evaluated.errors.into_iter().next() {
            Some((_, error)) => Err(error),
            None => Ok(evaluated.array),
        }
    };
    let mut args: Vec<ArrayRef> = call.args.iter().map(values).collect::<Result<_, _>>()?;
    if args.is_empty() {
        args.push(Arc::clone(batch.column(0)));
    }
    for key in &call.order_by {
        args.push(values(&key.value)?);
    }
    let keep = call.filter.as_ref().map(values).transpose()?;
    let mut whole = call.accumulator().expect("a state");
    let mut first = 0;
    for end in pieces.iter().copied().chain([batch.num_rows()]) {
        let cut: Vec<ArrayRef> = args
            .iter()
            .map(|array| {
                let piece = array.slice(first, end - first);
                match &keep {
                    Some(keep) => {
                        filter(&piece, keep.slice(first, end - first).as_boolean()).expect("a boolean for each row")
                    }
                    None => piece,
                }
            })
            .collect();
        first = end;
        if pieces.is_empty() {
            whole.update(&cut)?;
        } else {
            let mut part = call.accumulator().expect("a state");
            part.update(&cut)?;
            whole.merge(&part.state()?)?;
        }
    }
    whole.evaluate()
}
