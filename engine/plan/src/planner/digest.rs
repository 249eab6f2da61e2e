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
    parameters(pipeline, &mut text);
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
    steps.iter().for_each(|step| outputs(step, &mut text));
    for model in models.values() {
        section(&mut text, model.name(), model.digest());
    }
    hex(&text)
}

/// A digest over what bears on what the rows come to, whatever systems they come from and go to: a tail of the input that is
/// replayed comes to the same only if this is the same.
pub(super) fn logic(pipeline: &Pipeline, steps: &[Step], models: &ModelSet) -> String {
    let mut text = String::from("logic 1\n");
    parameters(pipeline, &mut text);
    for Component { name, kind, node, .. } in pipeline.operators.values() {
        section(&mut text, "component", name);
        section(&mut text, "type", kind);
        canonical(node, &mut text);
    }
    steps.iter().for_each(|step| outputs(step, &mut text));
    for model in models.values() {
        section(&mut text, model.name(), model.digest());
    }
    hex(&text)
}

/// A digest of each step, over what bears on what it keeps: its keys, and the rows that it takes and gives.
pub(super) fn of_steps(pipeline: &Pipeline, steps: &[Step]) -> Vec<String> {
    let of = |step: &Step| {
        let mut text = String::from("step 1\n");
        parameters(pipeline, &mut text);
        section(&mut text, "type", step.kind);
        if let Some(component) = pipeline.operators.get(&step.name) {
            canonical(&component.node, &mut text);
        }
        for input in &step.inputs {
            if let Some(step) = steps.get(input.from.0 as usize) {
                outputs(step, &mut text);
            }
        }
        outputs(step, &mut text);
        hex(&text)
    };
    steps.iter().map(of).collect()
}

fn parameters(pipeline: &Pipeline, text: &mut String) {
    for parameter in pipeline.parameters.values() {
        section(text, "parameter", &parameter.name);
        if let Some(value) = &parameter.value {
            canonical(value, text);
        }
    }
}

fn outputs(step: &Step, text: &mut String) {
    section(text, "step", &step.name);
    for output in &step.outputs {
        section(text, "output", &output.port);
        for field in output.stream.schema.fields() {
            section(text, field.name(), &types::column_text(field));
        }
    }
}

fn hex(text: &str) -> String {
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
