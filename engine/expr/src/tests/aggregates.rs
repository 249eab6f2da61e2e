//! Aggregates: how they are taken apart, and what their states give.

use super::survive::aggregated as run;
use super::{batch, check_file, context, shown_error, shown_type};
use crate::{AggregateFunction, Context, Scope};
use arrow::datatypes::{DataType, Field};
use std::fmt::Write as _;

fn scope() -> Scope {
    Scope::new(batch().schema()).with("current", batch().schema())
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
