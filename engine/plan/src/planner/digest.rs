//! One digest over all that bears on results: two runs with the same digest compute the same.

use crate::model::ModelSet;
use crate::plan::Step;
use crate::types;
use engine_spec::{Component, Node, Pipeline, Value};
use sha2::{Digest, Sha256};
use std::fmt::Write;

/// SHA-256 in hex. Secrets are left out: a changed password changes no result.
pub(super) fn digest(pipeline: &Pipeline, steps: &[Step], models: &ModelSet) -> String {
    let mut text = String::from("plan 1\n");
    section(&mut text, "name", &pipeline.name);
    for parameter in pipeline.parameters.values() {
        section(&mut text, "parameter", &parameter.name);
        if let Some(value) = &parameter.value {
            canonical(value, &mut text);
        }
    }
    for (name, instance) in &pipeline.instances {
        section(&mut text, "instance", name);
        for parameter in instance.parameters.values() {
            section(&mut text, "parameter", &parameter.name);
            if let Some(value) = &parameter.value {
                canonical(value, &mut text);
            }
        }
    }
    let components = pipeline.sources.values().chain(pipeline.operators.values()).chain(pipeline.sinks.values());
    for component in pipeline.connections.values().chain(components) {
        let Component { name, kind, node, .. } = component;
        section(&mut text, "component", name);
        section(&mut text, "type", kind);
        canonical(node, &mut text);
    }
    for step in steps {
        section(&mut text, "step", &step.name);
        for output in &step.outputs {
            section(&mut text, "output", &output.port);
            for field in output.stream.schema.fields() {
                section(&mut text, field.name(), &types::column_text(field));
            }
        }
    }
    for model in models.values() {
        section(&mut text, model.name(), model.digest());
    }
    Sha256::digest(text.as_bytes()).iter().fold(String::new(), |mut hex, byte| {
        let _ = write!(hex, "{byte:02x}");
        hex
    })
}

/// Lengths in front, so that no two documents have one text.
fn section(text: &mut String, name: &str, value: &str) {
    let _ = writeln!(text, "{}:{name} {}:{value}", name.len(), value.len());
}

fn canonical(node: &Node, text: &mut String) {
    if node.secret {
        text.push_str("secret\n");
        return;
    }
    match &node.value {
        Value::Null => text.push_str("null\n"),
        Value::Bool(value) => section(text, "bool", &value.to_string()),
        Value::Int(value) => section(text, "int", &value.to_string()),
        Value::Float(value) => section(text, "float", &format!("{:016x}", value.to_bits())),
        Value::String(value) => section(text, "string", value),
        Value::List(items) => {
            section(text, "list", &items.len().to_string());
            items.iter().for_each(|item| canonical(item, text));
        }
        Value::Map(entries) => {
            section(text, "map", &entries.len().to_string());
            for entry in entries {
                section(text, "key", &entry.key);
                canonical(&entry.value, text);
            }
        }
    }
}
