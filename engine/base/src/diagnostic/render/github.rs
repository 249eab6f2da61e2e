//! GitHub's workflow commands: `::error file=..,line=..,col=..,title=..::..`.

use super::Place;
use crate::diagnostic::{Diagnostics, Severity, SourceMap};

pub(super) fn render(diagnostics: &Diagnostics, sources: &SourceMap) -> String {
    let mut text = String::new();
    for item in diagnostics.iter() {
        let command = match item.severity {
            Severity::Error => "error",
            Severity::Warning => "warning",
            Severity::Note => "notice",
        };
        let mut properties = Vec::new();
        if let Some(place) = item.primary.as_ref().and_then(|label| Place::of(label.span, sources)) {
            properties.push(format!("file={}", property(&place.file.path)));
            properties.push(format!("line={}", place.line));
            properties.push(format!("endLine={}", place.end_line));
            properties.push(format!("col={}", place.column));
            // Columns over several lines mean nothing to GitHub.
            if place.end_line == place.line && place.end_column > place.column {
                properties.push(format!("endColumn={}", place.end_column));
            }
        }
        properties.push(format!("title={}", property(item.code.0)));
        let message = std::iter::once(item.message.as_str()).chain(item.help.iter().map(String::as_str));
        let message = message.collect::<Vec<_>>().join("\n");
        text.push_str(&format!("::{command} {}::{}\n", properties.join(","), data(&message)));
    }
    text
}

fn data(text: &str) -> String {
    text.replace('%', "%25").replace('\r', "%0D").replace('\n', "%0A")
}

fn property(text: &str) -> String {
    data(text).replace(':', "%3A").replace(',', "%2C")
}
