//! Expressions whose values leave the engine as text or bytes beside a row: keys, headers, topics.

use crate::formats::Timestamps;
use crate::formats::values::Values;
use arrow::array::{Array, AsArray};
use arrow::datatypes::{DataType, Field};
use engine_base::codes::system as codes;
use engine_base::{Diagnostic, RowError};
use engine_dataflow::Rows;
use engine_expr::{Program, RowFacts, Scalar};
use engine_plan::Cx;

/// Notes an error where the value of an expression can't be written as text. `what` is what it is to be: "a key".
pub(crate) fn check(cx: &mut Cx<'_>, path: &[&str], scalar: &Scalar, what: &str) -> bool {
    let nested = matches!(
        scalar.data_type(),
        DataType::List(_)
            | DataType::LargeList(_)
            | DataType::FixedSizeList(_, _)
            | DataType::ListView(_)
            | DataType::LargeListView(_)
            | DataType::Map(_, _)
            | DataType::Struct(_)
            | DataType::Union(_, _)
    );
    if nested {
        let type_name = engine_expr::type_name(scalar.data_type());
        let found = Diagnostic::error(codes::NOT_TEXT, cx.span(path), format!("{what} can't be of type `{type_name}`"))
            .help("make a text of it, or take one field or element");
        cx.push(found);
    }
    !nested
}

/// The value of an expression for each row, as text (bytes as they are); `None` where it is null.
pub(crate) fn evaluate(program: &mut Program, rows: &Rows) -> Vec<Result<Option<Vec<u8>>, RowError>> {
    let now_ns = |row: usize| rows.ingest_ns.get(row);
    let event_ns = rows.event_ns.as_ref().map(|times| |row: usize| times.get(row));
    let seed = |row: usize| rows.seed(row);
    let facts = RowFacts {
        now_ns: &now_ns,
        event_ns: event_ns.as_ref().map(|event_ns| event_ns as &dyn Fn(usize) -> i64),
        seed: &seed,
    };
    let evaluated = program.evaluate(&rows.batch, &facts);
    let array = evaluated.array;
    let field = Field::new("", array.data_type().clone(), true);
    let mut texts: Vec<Result<Option<Vec<u8>>, RowError>> =
        match (array.data_type(), Values::new(&field, &array, Timestamps::Rfc3339)) {
            (DataType::Binary, _) => {
                array.as_binary::<i32>().iter().map(|value| Ok(value.map(<[u8]>::to_vec))).collect()
            }
            (_, Ok(values)) => (0..array.len())
                .map(|row| {
                    Ok((!values.is_null(row)).then(|| {
                        let mut text = Vec::new();
                        values.write_plain(row, &mut text);
                        text
                    }))
                })
                .collect(),
            (_, Err(problem)) => vec![Err(RowError::new("encode", problem)); rows.num_rows()],
        };
    for (row, error) in evaluated.errors {
        if let Some(text) = texts.get_mut(row) {
            *text = Err(error);
        }
    }
    texts
}
