//! Diagnostics as text: for people, as JSON, as SARIF and as GitHub annotations.
//!
//! Pure functions that never fail: a span that lies outside its file, or inside a character, is moved to the nearest place
//! that exists; long files and lines are cut to the part that is shown.

mod github;
mod human;
mod json;
mod sarif;

use std::str::FromStr;

use super::{Diagnostics, Severity, SourceFile, SourceMap, Span};

/// How diagnostics are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// For people: the line, a caret, the remedy.
    Human {
        /// With ANSI colours.
        color: bool,
    },
    /// One JSON object with a list of diagnostics.
    Json,
    /// SARIF 2.1.0, which code scanners and editors read.
    Sarif,
    /// Workflow commands, which GitHub shows beside the lines of a change.
    Github,
}

impl Format {
    /// The names that [`FromStr`] reads.
    pub const NAMES: &[&str] = &["human", "json", "sarif", "github"];
}

impl FromStr for Format {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        match name {
            "human" => Ok(Format::Human { color: false }),
            "json" => Ok(Format::Json),
            "sarif" => Ok(Format::Sarif),
            "github" => Ok(Format::Github),
            other => Err(format!("`{other}` is not a format: it is human, json, sarif or github")),
        }
    }
}

/// Writes all diagnostics, in their order. Empty for none in the formats that are read by people.
pub fn render(format: Format, diagnostics: &Diagnostics, sources: &SourceMap) -> String {
    match format {
        Format::Human { color } => human::render(diagnostics, sources, color),
        Format::Json => json::render(diagnostics, sources),
        Format::Sarif => sarif::render(diagnostics, sources),
        Format::Github => github::render(diagnostics, sources),
    }
}

/// A span as people and tools count: lines and columns from one, the end exclusive.
struct Place<'s> {
    file: &'s SourceFile,
    line: usize,
    column: usize,
    end_line: usize,
    end_column: usize,
}

impl<'s> Place<'s> {
    /// `None` if the span's file is not in the map.
    fn of(span: Span, sources: &'s SourceMap) -> Option<Place<'s>> {
        let file = sources.file(span.file)?;
        let (start, end) = clamp(&file.text, span);
        let (line, column) = file.line_column(start);
        let (end_line, end_column) = file.line_column(end);
        Some(Place { file, line, column, end_line, end_column })
    }
}

/// The nearest range of whole characters in `text`.
fn clamp(text: &str, span: Span) -> (usize, usize) {
    let mut start = span.start.min(text.len());
    while !text.is_char_boundary(start) {
        start -= 1;
    }
    let mut end = span.end.clamp(start, text.len());
    while !text.is_char_boundary(end) {
        end += 1;
    }
    (start, end)
}

fn severity(severity: Severity) -> &'static str {
    match severity {
        Severity::Error => "error",
        Severity::Warning => "warning",
        Severity::Note => "note",
    }
}

#[cfg(test)]
mod tests;
