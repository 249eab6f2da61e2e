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

#[test]
fn an_aggregate_is_over_one_group_of_rows_or_over_all() {
    let (context, batch) = (context(), batch());
    let scope = Scope::new(batch.schema())
        .with_group("small", batch.schema())
        .with_group("large", batch.schema())
        .with("large", batch.schema());
    let planned = |text: &str| context.aggregate(text, &scope);
    let groups = |text: &str| -> Vec<Option<String>> {
        planned(text).expect("plans").calls.iter().map(|call| call.group.clone()).collect()
    };
    let of = |name: &str| Some(name.to_owned());
    assert_eq!(groups("first(small.id) + last(large.id) * large.id"), [of("small"), of("large")]);
    assert_eq!(groups("count(small) + count(large) + count(*) + count(id)"), [of("small"), of("large"), None, None]);
    assert_eq!(groups("sum(small.id) FILTER (WHERE small.id > 1) - count(small)"), [of("small"), of("small")]);
    let columns = |text: &str| Vec::from_iter(planned(text).expect("plans").columns().iter().cloned());
    assert_eq!(columns("max(small.id + 1) + min(id)"), ["id", "small.id"]);
    let problem = |text: &str| {
        let all = planned(text).expect_err("does not plan").all();
        all.into_iter().map(|one| format!("{} | {}", one.message, one.help.join(" | "))).collect::<Vec<_>>().join("\n")
    };
    let expected = [
        ("small.id", "`small.id` may be of many rows | take one value of them: `last(small.id)`, `max(small.id)`"),
        ("first(small.idd)", "`small` has no column `idd` | did you mean `id`? | "),
        (
            "sum(small.id + large.id)",
            "an aggregate is over the rows of one group, and this one reads those of `large` and `small` | ",
        ),
        (
            "sum(small.id + id)",
            "an aggregate is over the rows of one group, and this one reads those of `small` and of all | ",
        ),
        (
            "first(small)",
            "`small` stands for rows, not for a value | name a column of them, `small.x`; how many they are is `count(small)`",
        ),
        ("count(smal)", "there is no column `smal` | "),
        ("last(smal.id)", "there is no column or row `smal` | did you mean `small`? | "),
    ];
    for (text, start) in expected {
        let found = problem(text);
        assert!(found.starts_with(start), "{text}: {found}");
    }
}
