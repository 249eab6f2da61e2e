//! Aggregates: how they are taken apart, and what their states give.

use super::{batch, check_file, context, facts, rendered, schema, shown_error, shown_type};
use crate::{AggregateFunction, Aggregation, Context, Scope};
use arrow::array::{ArrayRef, AsArray, RecordBatch};
use arrow::compute::{concat, filter};
use arrow::datatypes::{DataType, Field};
use std::fmt::Write as _;
use std::sync::Arc;

fn scope() -> Scope {
    Scope::new(batch().schema()).with("current", batch().schema())
}

/// All rows of the batch through the calls, then the expression over the results beside each row of the batch.
pub(super) fn run(aggregation: &Aggregation, batch: &RecordBatch, pieces: &[usize]) -> Vec<String> {
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
    let results = RecordBatch::try_new_with_options(schema(fields), columns, &options).expect("columns that fit");
    let mut program = aggregation.finish(&results.schema()).expect("compiles over its own results");
    rendered(&program.evaluate(&results, &facts()))
}

/// One call's result: a state for each piece, merged in order.
fn result_of(
    call: &crate::AggregateCall,
    batch: &RecordBatch,
    pieces: &[usize],
) -> Result<ArrayRef, engine_base::RowError> {
    let values = |part: &crate::Scalar| {
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

#[test]
fn aggregations() {
    let (context, scope, batch) = (context(), scope(), batch());
    check_file("aggregates.txt", |text| match context.aggregate(text, &scope) {
        Err(error) => shown_error(text, &error),
        Ok(aggregation) => {
            let mut shown = format!("{}\n", shown_type(&aggregation.data_type, aggregation.nullable));
            for (at, call) in aggregation.calls.iter().enumerate() {
                let args: Vec<String> = call
                    .args
                    .iter()
                    .map(|arg| format!("{}: {}", arg.text(), crate::type_name(arg.data_type())))
                    .collect();
                write!(shown, "${at} = {:?}({})", call.function, args.join(", ")).expect("a string takes text");
                if call.distinct {
                    shown.push_str(" distinct");
                }
                if let Some(filter) = &call.filter {
                    write!(shown, " where {}", filter.text()).expect("a string takes text");
                }
                for key in &call.order_by {
                    write!(shown, " by {} {}", key.value.text(), if key.descending { "desc" } else { "asc" })
                        .expect("a string takes text");
                }
                writeln!(shown, ": {}", shown_type(&call.data_type, call.nullable)).expect("a string takes text");
            }
            let columns = |set: &std::collections::BTreeSet<String>| Vec::from_iter(set.iter().cloned()).join(" ");
            writeln!(shown, "reads {} | {}", columns(aggregation.columns()), columns(aggregation.current_columns()))
                .expect("a string takes text");
            if aggregation.calls.iter().all(|call| call.function != AggregateFunction::Lag) {
                let cells = run(&aggregation, &batch, &[]);
                let same = cells.iter().all(|cell| *cell == cells[0]);
                let cells = if same { cells[0].clone() } else { cells.join("  ·  ") };
                writeln!(shown, "{cells}").expect("a string takes text");
            }
            shown
        }
    });
}

#[test]
fn states_merge() {
    let (context, batch) = (context(), batch());
    for text in [
        "count(*)",
        "count(amount)",
        "sum(id)",
        "avg(amount)",
        "min(card)",
        "max(at)",
        "stddev(id)",
        "max_by(card, amount)",
        "min_by(card, amount)",
        "array_agg(id)",
        "count(DISTINCT card)",
        "median(id)",
        "bool_or(ok)",
        "sum(id) FILTER (WHERE ok)",
    ] {
        let aggregation = context.aggregate(text, &scope()).expect(text);
        let whole = run(&aggregation, &batch, &[]);
        assert_eq!(run(&aggregation, &batch, &[1]), whole, "{text}");
        assert_eq!(run(&aggregation, &batch, &[2]), whole, "{text}");
        assert_eq!(run(&aggregation, &batch, &[0, 1, 2, 3]), whole, "{text}");
    }
}

#[test]
fn calls_are_shared_and_unused_ones_dropped() {
    let calls = |text: &str| Context::default().aggregate(text, &scope()).expect(text).calls.len();
    assert_eq!(calls("sum(id) / count(*) + count(*)"), 2);
    assert_eq!(calls("sum(id) + SUM(id)"), 1);
    assert_eq!(calls("sum(id) + sum(id) FILTER (WHERE ok)"), 2);
    assert_eq!(calls("count(id) + count(DISTINCT id)"), 2);
    assert_eq!(calls("CASE WHEN true THEN sum(id) ELSE avg(n) END"), 1);
    assert_eq!(calls("first_value(id ORDER BY at) + first_value(id ORDER BY at DESC)"), 2);
    // Each draws for itself.
    assert_eq!(calls("sum(random()) + sum(random())"), 2);
    assert_eq!(calls("5"), 0);
}

#[test]
fn results_have_the_names_and_types_of_their_columns() {
    let aggregation = context().aggregate("avg(n) - current.amount", &scope()).expect("plans");
    assert_eq!(aggregation.result_fields(), [Field::new("$0", DataType::Float64, true)]);
    assert_eq!(aggregation.calls[0].args[0].data_type(), &DataType::Float64);
    assert_eq!(aggregation.calls[0].args[0].text(), "n");
    assert_eq!(aggregation.text(), "avg(n) - current.amount");
    assert_eq!(context().aggregate("sum(id)", &scope()).expect("plans").outer().as_column(), Some("$0"));
}
