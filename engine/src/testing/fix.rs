//! `engine test --fix`: what came out, written into the file as what is expected.

use super::case::{Case, Expect};
use super::compare::{Difference, columns_shown, shown};
use engine_base::{FileId, SourceMap};
use std::path::PathBuf;

/// A file with its new text.
pub(crate) struct Fixed {
    pub(crate) path: PathBuf,
    pub(crate) text: String,
}

/// A line of rows that is longer than this is broken up.
const LINE_MAX: usize = 120;

/// New texts for the pipeline file and for files of rows, where something came out that was not expected.
pub(crate) fn fix(differences: &[(&Case, Difference)], sources: &SourceMap) -> Vec<Fixed> {
    let mut fixed = Vec::new();
    let mut edits: Vec<(FileId, usize, usize, String)> = Vec::new();
    for (case, difference) in differences {
        let expect = &case.expects[difference.expect];
        match &expect.file {
            Some(path) => fixed.push(Fixed { path: path.clone(), text: lines(expect, difference) }),
            None => {
                let span = expect.rows_span;
                let Some(file) = sources.file(span.file) else { continue };
                let new = yaml(expect, difference, &file.text, span.start, span.end);
                edits.push((span.file, span.start, span.end, new));
            }
        }
    }
    // From the end on, so that places before stay where they are.
    edits.sort_by_key(|(_, start, ..)| std::cmp::Reverse(*start));
    for (id, file) in sources.files() {
        let mut text = file.text.to_string();
        let of_file: Vec<_> = edits.iter().filter(|(of, ..)| *of == id).collect();
        for (_, start, end, new) in &of_file {
            text.replace_range(*start..*end, new);
        }
        if !of_file.is_empty() {
            fixed.push(Fixed { path: PathBuf::from(&file.path), text });
        }
    }
    fixed
}

/// The rows as JSON lines.
fn lines(expect: &Expect, difference: &Difference) -> String {
    let columns = columns_shown(expect);
    let line = |row: &Vec<String>| {
        let cells = columns.iter().map(|column| {
            format!("{}:{}", serde_json::Value::from(expect.schema.field(*column).name().as_str()), row[*column])
        });
        format!("{{{}}}\n", cells.collect::<Vec<_>>().join(","))
    };
    difference.came.iter().map(line).collect()
}

/// The rows as YAML in the place of those that stand at `start..end`.
fn yaml(expect: &Expect, difference: &Difference, text: &str, start: usize, end: usize) -> String {
    let columns = columns_shown(expect);
    let rows: Vec<String> = difference.came.iter().map(|row| shown(expect, &columns, row)).collect();
    let line_start = text[..start].rfind('\n').map_or(0, |at| at + 1);
    let before = &text[line_start..start];
    let indent = before.len() - before.trim_start().len();
    let old = &text[start..end];
    // What follows the rows on their last line stays, and so does the line end that a block may take in.
    let tail = &old[old.trim_end().len()..];
    if old.starts_with('-') && !rows.is_empty() {
        let separator = format!("\n{}", " ".repeat(before.len()));
        let rows: Vec<String> = rows.iter().map(|row| format!("- {row}")).collect();
        return rows.join(&separator) + tail;
    }
    let space = if old.is_empty() { " " } else { "" };
    let one_line = format!("{space}[{}]", rows.join(", "));
    if before.len() + one_line.len() <= LINE_MAX || rows.is_empty() {
        return one_line + tail;
    }
    let inner = " ".repeat(indent + 4);
    format!("{space}[\n{inner}{}\n{}]{tail}", rows.join(&format!(",\n{inner}")), " ".repeat(indent + 2))
}
