//! Expressions, what they give and how they fail, as data that a user could read.
//!
//! The files beside this one hold a case a block: the expression, and indented below it what comes of it. They are filled in
//! by `UPDATE_EXPECT=1 cargo test -p engine-expr` and reviewed by a person.

mod aggregates;
mod invariance;
mod robust;
mod samples;
mod survive;

use crate::{ExprError, RowFacts, type_name};
use arrow::array::Array;
use arrow::datatypes::DataType;
use samples::{batch, context, evaluate, facts, rendered, scope};
use std::fmt::Write as _;
use std::path::PathBuf;
use std::sync::Arc;

pub(crate) fn shown_type(data_type: &DataType, nullable: bool) -> String {
    format!("{}{}", type_name(data_type), if nullable { " | null" } else { "" })
}

/// A value that a file of cases can hold: a long one is cut, and says how long it is.
fn shortened(cell: String) -> String {
    let length = cell.chars().count();
    if length <= 200 { cell } else { format!("{}… ({length} characters)", cell.chars().take(40).collect::<String>()) }
}

/// A problem as the file's reader would see it: message, caret, remedies.
pub(crate) fn shown_error(text: &str, error: &ExprError) -> String {
    error.clone().all().iter().map(|error| shown_one(text, error)).collect()
}

fn shown_one(text: &str, error: &ExprError) -> String {
    let mut shown = format!("{}: {}\n", error.code, error.message);
    if let Some(range) = &error.range {
        let line = text[..range.start].matches('\n').count();
        let start = text[..range.start].rfind('\n').map_or(0, |at| at + 1);
        let end = text[range.start..].find('\n').map_or(text.len(), |at| range.start + at);
        let before = text[start..range.start].chars().count();
        let marked = text[range.start..range.end.min(end)].chars().count().max(1);
        if line > 0 {
            writeln!(shown, "{}", &text[start..end]).expect("a string takes text");
        }
        writeln!(shown, "{}{}", " ".repeat(before), "^".repeat(marked)).expect("a string takes text");
    }
    for help in &error.help {
        writeln!(shown, "help: {help}").expect("a string takes text");
    }
    shown
}

/// The folder of this package: where cargo says it is now, since a binary of another clone may be found in a shared build
/// folder.
fn package() -> PathBuf {
    std::env::var_os("CARGO_MANIFEST_DIR").map_or_else(|| env!("CARGO_MANIFEST_DIR").into(), PathBuf::from)
}

/// Runs every block of a file through `outcome` and compares what stands below it.
pub(crate) fn check_file(name: &str, outcome: impl Fn(&str) -> String) {
    let path = package().join("src/tests").join(name);
    let written = std::fs::read_to_string(&path).expect("the file of cases");
    let mut filled = String::new();
    let mut lines = written.lines().peekable();
    while let Some(line) = lines.next() {
        if line.is_empty() || line.starts_with("# ") {
            writeln!(filled, "{line}").expect("a string takes text");
            continue;
        }
        // A case of several lines goes on with `| `.
        let mut text = line.to_owned();
        writeln!(filled, "{line}").expect("a string takes text");
        while let Some(more) = lines.next_if(|line| line.starts_with("| ")) {
            writeln!(filled, "{more}").expect("a string takes text");
            text.push('\n');
            text.push_str(&more[2..]);
        }
        while lines.next_if(|line| line.starts_with("    ")).is_some() {}
        for line in outcome(&text).lines() {
            writeln!(filled, "    {line}").expect("a string takes text");
        }
    }
    if std::env::var_os("UPDATE_EXPECT").is_some() {
        std::fs::write(&path, &filled).expect("the file of cases");
        return;
    }
    for (number, (want, got)) in written.lines().zip(filled.lines()).enumerate() {
        assert_eq!(want, got, "{name}, line {}", number + 1);
    }
    assert_eq!(written.lines().count(), filled.lines().count(), "{name}");
}

#[test]
fn values() {
    let (context, scope, batch) = (context(), scope(), batch());
    check_file("values.txt", |text| match context.scalar(text, &scope) {
        Ok(scalar) => {
            let cells: Vec<String> = rendered(&evaluate(&scalar, &batch)).into_iter().map(shortened).collect();
            let same = cells.iter().all(|cell| *cell == cells[0]) && scalar.is_constant();
            let cells = if same { format!("constant {}", cells[0]) } else { cells.join("  ·  ") };
            format!("{}\n{cells}", shown_type(scalar.data_type(), scalar.nullable()))
        }
        Err(error) => shown_error(text, &error),
    });
}

#[test]
fn errors() {
    let context = context();
    let scope = scope().with("current", batch().schema());
    check_file("errors.txt", |text| {
        let text = text.strip_prefix("(empty)").unwrap_or(text);
        match context.scalar(text, &scope) {
            Ok(scalar) => format!("OK {}", shown_type(scalar.data_type(), scalar.nullable())),
            Err(error) => shown_error(text, &error),
        }
    });
}

#[test]
fn conditions() {
    let (context, scope) = (context(), scope());
    check_file("conditions.txt", |text| match context.predicate(text, &scope) {
        Ok(scalar) => format!("non-null when true: {}", Vec::from_iter(scalar.non_null_when_true()).join(", ")),
        Err(error) => shown_error(text, &error),
    });
}

#[test]
fn reads_only_what_it_needs() {
    let (context, scope) = (context(), scope());
    let reads = |text: &str| {
        let scalar = context.scalar(text, &scope).expect(text);
        let columns = Vec::from_iter(scalar.columns().iter().cloned()).join(" ");
        (
            columns,
            scalar.reads_now(),
            scalar.reads_event_time(),
            scalar.reads_position(),
            scalar.as_column().map(str::to_owned),
        )
    };
    let column = Some("amount".to_owned());
    assert_eq!(reads("amount"), ("amount".into(), false, false, false, column.clone()));
    assert_eq!(reads("(amount)"), ("amount".into(), false, false, false, column));
    assert_eq!(reads("amount + id"), ("amount id".into(), false, false, false, None));
    assert_eq!(reads("now()"), (String::new(), true, false, false, None));
    assert_eq!(reads("at > now() - INTERVAL '5m'"), ("at".into(), true, false, false, None));
    assert_eq!(reads("event_time()"), (String::new(), false, true, false, None));
    assert_eq!(reads("id + random()"), ("id".into(), false, false, true, None));
    assert_eq!(reads("uuid()"), (String::new(), false, false, true, None));
    // A branch that the parameter cuts is not read.
    assert_eq!(
        reads("CASE WHEN param.strict THEN id ELSE big END"),
        ("id".into(), false, false, false, Some("id".into()))
    );
    assert_eq!(reads("param.strict AND ok"), ("ok".into(), false, false, false, Some("ok".into())));
}

#[test]
fn a_plain_column_is_not_copied_and_a_pruned_schema_is_enough() {
    let batch = batch();
    let context = context();
    let plain = context.scalar("card", &scope()).expect("plans");
    let column = plain.compile(&batch.schema()).expect("compiles").evaluate(&batch, &RowFacts::none()).array;
    assert!(Arc::ptr_eq(&column, batch.column_by_name("card").expect("there")));

    let scalar = context.scalar("amount * id", &scope()).expect("plans");
    let at = |name: &str| batch.schema().index_of(name).expect("there");
    let pruned = batch.project(&[at("id"), at("card"), at("amount")]).expect("columns that are there");
    let evaluated = scalar.compile(&pruned.schema()).expect("compiles").evaluate(&pruned, &RowFacts::none());
    assert_eq!(rendered(&evaluated), ["10.5", "null", "-9.0", "0.0"]);
    let missing = batch.project(&[at("id")]).expect("columns that are there");
    assert_eq!(
        scalar.compile(&missing.schema()).expect_err("a column is missing").message,
        "the batch has no column `amount`"
    );
}

#[test]
fn time_and_chance_are_facts_of_the_row() {
    let context = context();
    let scope = scope();
    let batch = batch();
    let cells = |text: &str| rendered(&evaluate(&context.scalar(text, &scope).expect(text), &batch));
    assert_eq!(cells("now()")[0], "2026-01-31T10:30:00Z");
    assert_eq!(cells("now()")[3], "2026-01-31T10:30:03Z");
    assert_eq!(cells("CURRENT_TIMESTAMP"), cells("now()"));
    assert_eq!(cells("current_date")[0], "2026-01-31");
    assert_eq!(cells("event_time()")[0], "2026-01-31T09:30:00Z");
    // The same rows draw the same, each call and each program of its own.
    assert_eq!(cells("random()"), cells("random()"));
    assert_eq!(cells("random() = random()"), ["false"; 4]);
    assert_eq!(cells("random() >= 0 AND random() < 1"), ["true"; 4]);
    assert_ne!(cells("random()")[0], cells("random()")[1]);
    assert!(
        cells("uuid() ~ '^[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$'")
            .iter()
            .all(|cell| cell == "true")
    );
    let random = context.scalar("random()", &scope).expect("plans");
    let salted = random.compile(&batch.schema()).expect("compiles").with_salt(7).evaluate(&batch, &facts());
    assert_ne!(rendered(&salted), rendered(&evaluate(&random, &batch)));
    // Where there is no event time, each row says so.
    let event = context.scalar("event_time()", &scope).expect("plans");
    let evaluated = event.compile(&batch.schema()).expect("compiles").evaluate(&batch, &RowFacts::none());
    assert_eq!(rendered(&evaluated), ["!invalid: the row has no event time"; 4]);
}

#[test]
fn a_missing_parameter_is_checked_and_fails_only_when_it_is_needed() {
    let context = context();
    let scalar = context.scalar("id + param.missing", &scope()).expect("plans without the value");
    assert_eq!(shown_type(scalar.data_type(), scalar.nullable()), "int64");
    assert_eq!(rendered(&evaluate(&scalar, &batch()))[0], "!invalid: the parameter `missing` has no value");
    assert!(context.scalar("card + param.missing", &scope()).is_err());
}

#[test]
fn an_empty_batch_has_no_failures() {
    let empty = batch().slice(0, 0);
    for text in ["id / 0 + id / id", "CASE WHEN ok THEN 1 / 0 END", "1", "card", "now()", "CAST(card AS int64)"] {
        let Ok(scalar) = context().scalar(text, &scope()) else { continue };
        let evaluated = evaluate(&scalar, &empty);
        assert_eq!((evaluated.array.len(), evaluated.errors.len()), (0, 0), "{text}");
        assert_eq!(evaluated.array.data_type(), scalar.data_type(), "{text}");
    }
}

/// Found by fuzzing: what doubles with each part of an expression never ends here.
#[test]
fn the_work_for_an_expression_does_not_double_with_each_of_its_parts() {
    let long = |first: &str, part: &str| format!("{first}{}", part.repeat(40));
    for text in [
        long("u + 1", " + u"),
        long("u + 1", " - n"),
        long("CAST(amount AS decimal(20, 2))", " + CAST(1 AS decimal(5, 2))"),
        long("amount", " + n + amount"),
        long("amount > 1", " = (amount > n)"),
        long("card", " || '-' || card"),
        long("-u", " * 1"),
    ] {
        survive::survive(&text);
    }
}

#[test]
fn a_planned_expression_becomes_one_of_another_type() {
    let (context, scope, batch) = (context(), scope(), batch());
    let planned = |text: &str| context.scalar(text, &scope).expect("plans");
    let small = planned("id * 100").cast(&DataType::Int8).expect("casts");
    assert_eq!((small.text(), small.data_type()), ("id * 100", &DataType::Int8));
    let cells = rendered(&evaluate(&small, &batch));
    assert!(cells[0] == "100" && cells[1].starts_with("!overflow"), "{cells:?}");
    let same = planned("id").cast(planned("id").data_type()).expect("casts");
    assert_eq!(same.as_column(), Some("id"));
    let digits = planned("CAST(id AS decimal(30, 2)) * 40").cast(&DataType::Decimal128(4, 2)).expect("casts");
    let cells = rendered(&evaluate(&digits, &batch));
    assert!(cells[0] == "40.00" && cells[2].starts_with('!'), "{cells:?}");
    let error = planned("1000").cast(&DataType::Int8).expect_err("too large");
    assert_eq!(error.code.0, "E0217");
    let error = planned("ok").cast(&DataType::Date32).expect_err("no such cast");
    assert_eq!(error.code.0, "E0215");
}
