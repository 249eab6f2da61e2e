//! One digest over all that bears on results: two runs with the same digest compute the same.

use crate::kinds::{Columns, Output};
use crate::model::ModelSet;
use crate::plan::{Identity, Step};
use crate::types;
use engine_spec::{Component, Node, Pipeline, Value};
use sha2::{Digest, Sha256};
use std::collections::HashMap;
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
                canonical(value, &Names::default(), &mut text);
            }
        }
    }
    let components = pipeline.sources.values().chain(pipeline.operators.values()).chain(pipeline.sinks.values());
    for component in pipeline.connections.values().chain(components) {
        let Component { name, kind, node, .. } = component;
        section(&mut text, "component", name);
        section(&mut text, "type", kind);
        canonical(node, &Names::default(), &mut text);
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
    let mut text = String::from("logic 2\n");
    parameters(pipeline, &mut text);
    for Component { name, kind, node, .. } in pipeline.operators.values() {
        section(&mut text, "component", name);
        section(&mut text, "type", kind);
        canonical(node, &Names::default(), &mut text);
    }
    for step in steps {
        outputs(step, &mut text);
        // What is read decides what is kept.
        for wanted in &step.wanted {
            section(&mut text, "wanted", &wanted.len().to_string());
            wanted.iter().for_each(|column| section(&mut text, "column", column));
        }
    }
    for model in models.values() {
        section(&mut text, model.name(), model.digest());
    }
    hex(&text)
}

/// What tells of each step whose state is its own.
pub(super) fn of_steps(pipeline: &Pipeline, steps: &[Step]) -> Vec<Identity> {
    let renamed = || {
        let of = |component: &Component| Some((component.name.clone(), component.renamed_from.as_ref()?.0.clone()));
        pipeline.sources.values().chain(pipeline.operators.values()).filter_map(of).collect()
    };
    let (now, before) = (Names::default(), Names(renamed()));
    let of = |step: &Step| {
        let layout = step.planned.state_layout(&step.wanted);
        let digest =
            |names: &Names| of_step(pipeline, steps, step, layout.as_ref().map(|layout| &*layout.fixed), names);
        let (digest, before) = (digest(&now), digest(&before));
        Identity { digest, before, parts: layout.map(|layout| layout.parts).unwrap_or_default() }
    };
    steps.iter().map(of).collect()
}

fn of_step(pipeline: &Pipeline, steps: &[Step], step: &Step, fixed: Option<&str>, names: &Names) -> String {
    let mut text = String::new();
    section(&mut text, "type", step.kind);
    let mut reads = step.planned.reads(&step.wanted[..step.row_outputs().len()]);
    reads.resize_with(step.inputs.len(), Columns::new);
    for (at, (input, mut reads)) in step.inputs.iter().zip(reads).enumerate() {
        let Some(from) = steps.get(input.from.0 as usize) else { continue };
        section(&mut text, "input", &names.before(&from.name));
        section(&mut text, "port", &from.outputs[input.port].port);
        let key = step.exchange.as_ref().and_then(|keys| keys.get(at)).cloned().unwrap_or_default();
        key.iter().for_each(|column| section(&mut text, "key", column));
        if fixed.is_some() {
            reads.clear();
        }
        reads.extend(key);
        columns(&from.outputs[input.port], &reads, &mut text);
    }
    match fixed {
        Some(fixed) => section(&mut text, "state", &names.before(fixed)),
        None => {
            if let Some(component) = pipeline.operators.get(&step.name) {
                canonical(&component.node, names, &mut text);
            }
            step.facts.iter().for_each(|(name, value)| section(&mut text, name, &names.before(value)));
            for (output, wanted) in step.outputs.iter().zip(&step.wanted) {
                section(&mut text, "output", &output.port);
                columns(output, wanted, &mut text);
            }
        }
    }
    let parts = step.planned.state_layout(&step.wanted).map(|layout| layout.parts).unwrap_or_default();
    let mut whole = String::from("step 2\n");
    for parameter in pipeline.parameters.values() {
        let named = format!("param.{}", parameter.name);
        if text.contains(&named) || parts.contains(&named) {
            section(&mut whole, "parameter", &parameter.name);
            if let Some(value) = &parameter.value {
                canonical(value, names, &mut whole);
            }
        }
    }
    whole.push_str(&text);
    hex(&whole)
}

/// These columns of an output, with their types.
fn columns(output: &Output, wanted: &Columns, text: &mut String) {
    for field in output.stream.schema.fields().iter().filter(|field| wanted.contains(field.name())) {
        section(text, field.name(), &types::column_text(field));
    }
    wanted.iter().filter(|column| column.starts_with('@')).for_each(|column| section(text, "hidden", column));
}

/// Components that were renamed: by the names that they have now, those of before.
#[derive(Default)]
struct Names(HashMap<String, String>);

impl Names {
    /// A text with the names of before, wherever one stands alone.
    fn before(&self, text: &str) -> String {
        if self.0.is_empty() {
            return text.to_owned();
        }
        let is_of_name = |letter: char| letter.is_alphanumeric() || matches!(letter, '_' | '-' | '.');
        let mut result = String::with_capacity(text.len());
        let mut rest = text;
        while !rest.is_empty() {
            let word = rest.find(|letter| !is_of_name(letter)).unwrap_or(rest.len());
            let (word, behind) = rest.split_at(word);
            result.push_str(&self.word(word));
            let other = behind.find(is_of_name).unwrap_or(behind.len());
            result.push_str(&behind[..other]);
            rest = &behind[other..];
        }
        result
    }

    /// `name`, or `name.errors` and `name.column`.
    fn word(&self, word: &str) -> String {
        let ends = word.match_indices('.').map(|(at, _)| at).chain([word.len()]);
        let known = ends.filter_map(|end| Some((end, self.0.get(&word[..end])?))).next_back();
        known.map_or_else(|| word.to_owned(), |(end, before)| format!("{before}{}", &word[end..]))
    }
}

fn parameters(pipeline: &Pipeline, text: &mut String) {
    for parameter in pipeline.parameters.values() {
        section(text, "parameter", &parameter.name);
        if let Some(value) = &parameter.value {
            canonical(value, &Names::default(), text);
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

fn canonical(node: &Node, names: &Names, text: &mut String) {
    if node.secret {
        text.push_str("secret\n");
        return;
    }
    match &node.value {
        Value::Null => text.push_str("null\n"),
        Value::Bool(value) => section(text, "bool", &value.to_string()),
        Value::Int(value) => section(text, "int", &value.to_string()),
        Value::Float(value) => section(text, "float", &format!("{:016x}", value.to_bits())),
        Value::String(value) => section(text, "string", &names.before(value)),
        Value::List(items) => {
            section(text, "list", &items.len().to_string());
            items.iter().for_each(|item| canonical(item, names, text));
        }
        Value::Map(entries) => {
            section(text, "map", &entries.len().to_string());
            for entry in entries {
                section(text, "key", &entry.key);
                canonical(&entry.value, names, text);
            }
        }
    }
}
