//! One JSON object: `{ "errors": 1, "warnings": 0, "diagnostics": [...] }`.

use serde_json::{Value, json};

use super::{Place, severity};
use crate::diagnostic::{Diagnostics, Label, Severity, SourceMap};

pub(super) fn render(diagnostics: &Diagnostics, sources: &SourceMap) -> String {
    let count = |severity: Severity| diagnostics.iter().filter(|item| item.severity == severity).count();
    let items: Vec<Value> = diagnostics
        .iter()
        .map(|item| {
            let mut object = json!({
                "code": item.code.0,
                "severity": severity(item.severity),
                "message": item.message,
                "labels": item.labels.iter().map(|label| labelled(label, sources)).collect::<Vec<_>>(),
                "help": item.help,
            });
            let primary = item.primary.as_ref().map_or(json!({}), |label| labelled(label, sources));
            for key in ["file", "line", "column", "end_line", "end_column"] {
                object[key] = primary.get(key).cloned().unwrap_or(Value::Null);
            }
            if let Some(label) = item.primary.as_ref().filter(|label| !label.text.is_empty()) {
                object["label"] = json!(label.text);
            }
            object
        })
        .collect();
    let all = json!({
        "errors": count(Severity::Error),
        "warnings": count(Severity::Warning),
        "diagnostics": items,
    });
    format!("{all:#}\n")
}

fn labelled(label: &Label, sources: &SourceMap) -> Value {
    match Place::of(label.span, sources) {
        Some(place) => json!({
            "message": label.text,
            "file": place.file.path,
            "line": place.line,
            "column": place.column,
            "end_line": place.end_line,
            "end_column": place.end_column,
        }),
        None => json!({ "message": label.text }),
    }
}
