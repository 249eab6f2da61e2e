//! What came against what was expected, and the difference as people read it.

use super::case::Expect;
use super::rows::ExpectedRow;
use std::collections::{HashMap, VecDeque};
use std::fmt::Write;

/// Where an output is not as expected.
#[derive(Clone, Debug)]
pub(crate) struct Difference {
    /// Which of the case's expectations it is.
    pub(crate) expect: usize,
    /// One sentence.
    pub(crate) summary: String,
    /// Lines with `-` what is missing, `+` what is there and not expected, `~` what differs.
    pub(crate) lines: Vec<String>,
    /// Everything that came.
    pub(crate) came: Vec<Vec<String>>,
}

/// How many lines of a difference are shown.
const SHOWN_MAX: usize = 20;

/// The difference, if there is one. `came` has a cell for each column of the output.
pub(super) fn compare(at: usize, expect: &Expect, came: Vec<Vec<String>>) -> Option<Difference> {
    let (missing, unexpected) = match expect.ordered {
        true => in_order(expect, &came),
        false => in_any_order(expect, &came),
    };
    let difference = |summary: String, lines| Some(Difference { expect: at, summary, lines, came: came.clone() });
    let unexpected = if expect.subset { Vec::new() } else { unexpected };
    if missing.is_empty() && unexpected.is_empty() {
        let written = |row: &ExpectedRow| row.columns.len() == expect.schema.fields().len();
        if expect.exact && !expect.rows.iter().all(written) {
            let all: Vec<&str> = expect.schema.fields().iter().map(|field| field.name().as_str()).collect();
            let summary = format!("`exact` rows have all columns: {}", all.join(", "));
            return difference(summary, Vec::new());
        }
        return None;
    }
    if expect.ordered && in_any_order(expect, &came).0.is_empty() {
        let lines = came.iter().map(|row| format!("  {}", shown(expect, &all_columns(expect), row)));
        return difference("the rows came in another order".to_owned(), lines.take(SHOWN_MAX).collect());
    }
    let counted = |n: usize, what: &str| match n {
        0 => None,
        1 => Some(format!("1 row is {what}")),
        n => Some(format!("{n} rows are {what}")),
    };
    let parts: Vec<String> =
        [counted(missing.len(), "missing"), counted(unexpected.len(), "not expected")].into_iter().flatten().collect();
    difference(parts.join(", "), lines(expect, &came, &missing, unexpected))
}

fn in_order(expect: &Expect, came: &[Vec<String>]) -> (Vec<usize>, Vec<usize>) {
    let mut missing = Vec::new();
    let mut unexpected = Vec::new();
    let mut next = 0;
    for (at, row) in expect.rows.iter().enumerate() {
        match (next..came.len()).find(|other| fits(expect, row, &came[*other])) {
            Some(found) => {
                unexpected.extend(next..found);
                next = found + 1;
            }
            None => missing.push(at),
        }
    }
    unexpected.extend(next..came.len());
    (missing, unexpected)
}

fn in_any_order(expect: &Expect, came: &[Vec<String>]) -> (Vec<usize>, Vec<usize>) {
    let mut free = vec![true; came.len()];
    let mut missing = Vec::new();
    // Rows that say more choose first.
    let mut order: Vec<usize> = (0..expect.rows.len()).collect();
    order.sort_by_key(|at| std::cmp::Reverse(expect.rows[*at].columns.len()));
    let mut known: HashMap<&[usize], HashMap<Vec<&str>, VecDeque<usize>>> = HashMap::new();
    for at in order {
        let row = &expect.rows[at];
        let found = if expect.tolerance.is_some() {
            (0..came.len()).find(|other| free[*other] && fits(expect, row, &came[*other]))
        } else {
            let by_cells = known.entry(&row.columns).or_insert_with(|| {
                let mut by_cells: HashMap<Vec<&str>, VecDeque<usize>> = HashMap::new();
                for (other, cells) in came.iter().enumerate() {
                    let key = row.columns.iter().map(|column| cells[*column].as_str()).collect();
                    by_cells.entry(key).or_default().push_back(other);
                }
                by_cells
            });
            let key: Vec<&str> = row.cells.iter().map(String::as_str).collect();
            let rows = by_cells.get_mut(&key);
            rows.and_then(|rows| std::iter::from_fn(|| rows.pop_front()).find(|other| free[*other]))
        };
        match found {
            Some(other) => free[other] = false,
            None => missing.push(at),
        }
    }
    missing.sort_unstable();
    (missing, (0..came.len()).filter(|other| free[*other]).collect())
}

fn fits(expect: &Expect, row: &ExpectedRow, came: &[String]) -> bool {
    row.columns.iter().zip(&row.cells).all(|(column, cell)| same(cell, &came[*column], expect.tolerance))
}

fn same(expected: &str, came: &str, tolerance: Option<f64>) -> bool {
    if expected == came {
        return true;
    }
    let Some(tolerance) = tolerance else { return false };
    let parse = |text: &str| serde_json::from_str::<serde_json::Value>(text).ok();
    match (parse(expected), parse(came)) {
        (Some(a), Some(b)) => near(&a, &b, tolerance),
        _ => false,
    }
}

fn near(a: &serde_json::Value, b: &serde_json::Value, tolerance: f64) -> bool {
    use serde_json::Value;
    match (a, b) {
        (Value::Number(a), Value::Number(b)) => match (a.as_f64(), b.as_f64()) {
            (Some(a), Some(b)) => (a - b).abs() <= tolerance,
            _ => false,
        },
        (Value::Array(a), Value::Array(b)) => a.len() == b.len() && a.iter().zip(b).all(|(a, b)| near(a, b, tolerance)),
        (Value::Object(a), Value::Object(b)) => {
            a.len() == b.len() && a.iter().all(|(key, a)| b.get(key).is_some_and(|b| near(a, b, tolerance)))
        }
        _ => a == b,
    }
}

/// What is missing and what is not expected, with those side by side that are nearly the same.
fn lines(expect: &Expect, came: &[Vec<String>], missing: &[usize], mut unexpected: Vec<usize>) -> Vec<String> {
    let mut lines = Vec::new();
    let columns = columns_shown(expect);
    for at in missing {
        let row = &expect.rows[*at];
        let equal = |other: &usize| {
            let cells = row.columns.iter().zip(&row.cells);
            cells.filter(|(column, cell)| same(cell, &came[*other][**column], expect.tolerance)).count()
        };
        let near = unexpected.iter().copied().enumerate().max_by_key(|(_, other)| equal(other));
        match near.filter(|(_, other)| equal(other) > 0) {
            Some((place, other)) => {
                unexpected.remove(place);
                let cells = row.columns.iter().zip(&row.cells).map(|(column, cell)| {
                    let name = expect.schema.field(*column).name();
                    let came = &came[other][*column];
                    match same(cell, came, expect.tolerance) {
                        true => format!("{name}: {}", plain(came)),
                        false => format!("{name}: {} is {}", plain(cell), plain(came)),
                    }
                });
                lines.push(format!("~ {{ {} }}", cells.collect::<Vec<_>>().join(", ")));
            }
            None => {
                let cells = row.columns.iter().zip(&row.cells);
                let cells =
                    cells.map(|(column, cell)| format!("{}: {}", expect.schema.field(*column).name(), plain(cell)));
                lines.push(format!("- {{ {} }}", cells.collect::<Vec<_>>().join(", ")));
            }
        }
    }
    lines.extend(unexpected.iter().map(|other| format!("+ {}", shown(expect, &columns, &came[*other]))));
    if lines.len() > SHOWN_MAX {
        let more = lines.len() - SHOWN_MAX;
        lines.truncate(SHOWN_MAX);
        lines.push(format!("  and {more} more"));
    }
    lines
}

fn all_columns(expect: &Expect) -> Vec<usize> {
    (0..expect.schema.fields().len()).collect()
}

/// The columns that the expected rows have, in the order in which they are written; all where they have none.
pub(super) fn columns_shown(expect: &Expect) -> Vec<usize> {
    let mut columns: Vec<usize> = Vec::new();
    for column in expect.rows.iter().flat_map(|row| &row.columns) {
        if !columns.contains(column) {
            columns.push(*column);
        }
    }
    if columns.is_empty() { all_columns(expect) } else { columns }
}

/// A row as a YAML flow map.
pub(super) fn shown(expect: &Expect, columns: &[usize], row: &[String]) -> String {
    let mut text = String::from("{");
    for (at, column) in columns.iter().enumerate() {
        let name = expect.schema.field(*column).name();
        let separator = if at == 0 { " " } else { ", " };
        // Writing to a string can't fail.
        let _ = write!(text, "{separator}{}: {}", plain_key(name), plain(&row[*column]));
    }
    text.push_str(" }");
    text
}

fn plain_key(name: &str) -> String {
    if is_plain(name) { name.to_owned() } else { serde_json::Value::from(name).to_string() }
}

/// A cell as YAML: text without quotes where it is text all the same.
fn plain(cell: &str) -> String {
    match serde_json::from_str::<serde_json::Value>(cell) {
        Ok(serde_json::Value::String(text)) if is_plain(&text) => text,
        // JSON is YAML, but for flow maps whose colons want a space.
        _ => cell.to_owned(),
    }
}

fn is_plain(text: &str) -> bool {
    let starts = text.starts_with(|first: char| first.is_ascii_alphabetic());
    let word =
        |text: &str| ["true", "false", "null", "yes", "no", "on", "off"].contains(&text.to_ascii_lowercase().as_str());
    starts
        && !word(text)
        && text.chars().all(|c| c.is_ascii_alphanumeric() || "_-. ".contains(c))
        && !text.ends_with(' ')
}
