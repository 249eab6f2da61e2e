//! SARIF 2.1.0: the results of one run, with the rules that they break.

use serde_json::{Value, json};

use super::{Place, severity};
use crate::codes;
use crate::diagnostic::{Code, Diagnostics, Label, SourceMap};

pub(super) fn render(diagnostics: &Diagnostics, sources: &SourceMap) -> String {
    let mut used: Vec<Code> = diagnostics.iter().map(|item| item.code).collect();
    used.sort_unstable();
    used.dedup();
    let rules: Vec<Value> = used.iter().map(|code| rule(*code)).collect();
    let results: Vec<Value> = diagnostics
        .iter()
        .map(|item| {
            let text = std::iter::once(item.message.as_str()).chain(item.help.iter().map(String::as_str));
            let mut result = json!({
                "ruleId": item.code.0,
                "ruleIndex": used.iter().position(|code| *code == item.code).unwrap_or(0),
                "level": severity(item.severity),
                "message": { "text": text.collect::<Vec<_>>().join("\n") },
                "locations": item.primary.iter().filter_map(|label| location(label, sources)).collect::<Vec<_>>(),
            });
            let related: Vec<Value> = item.labels.iter().filter_map(|label| location(label, sources)).collect();
            if !related.is_empty() {
                result["relatedLocations"] = json!(related);
            }
            result
        })
        .collect();
    let log = json!({
        "$schema": "https://json.schemastore.org/sarif-2.1.0.json",
        "version": "2.1.0",
        "runs": [{
            "tool": { "driver": { "name": "engine", "version": env!("CARGO_PKG_VERSION"), "rules": rules } },
            "columnKind": "unicodeCodePoints",
            "results": results,
        }],
    });
    format!("{log:#}\n")
}

fn rule(code: Code) -> Value {
    match codes::find(code.0) {
        Some(info) => json!({
            "id": code.0,
            "shortDescription": { "text": info.title },
            "help": { "text": info.explanation, "markdown": info.explanation },
        }),
        None => json!({ "id": code.0 }),
    }
}

fn location(label: &Label, sources: &SourceMap) -> Option<Value> {
    let place = Place::of(label.span, sources)?;
    let mut location = json!({
        "physicalLocation": {
            "artifactLocation": { "uri": uri(&place.file.path) },
            "region": {
                "startLine": place.line,
                "startColumn": place.column,
                "endLine": place.end_line,
                "endColumn": place.end_column,
            },
        },
    });
    if !label.text.is_empty() {
        location["message"] = json!({ "text": label.text });
    }
    Some(location)
}

/// A path as a relative or `file` URI.
fn uri(path: &str) -> String {
    let mut uri = String::with_capacity(path.len());
    if path.starts_with('/') {
        uri.push_str("file://");
    }
    for byte in path.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' | b'/' => uri.push(char::from(byte)),
            b'\\' => uri.push('/'),
            byte => uri.push_str(&format!("%{byte:02X}")),
        }
    }
    uri
}
