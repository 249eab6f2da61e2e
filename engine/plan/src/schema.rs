//! The JSON Schema of the language, made from the structs that read it.
//!
//! Each section is a map of components; which keys a component takes follows from its `type`:
//!
//! ```text
//! sources:  { NAME: Source }         Source = if type is `file` then source_file; if type is `kafka` then source_kafka; ...
//! ```
//!
//! so that an editor completes `type:` first and then the keys of that type. Where the language reads a number, a
//! boolean or a text of some form, `${env:NAME}` is taken as well.

use crate::common::{DecodingKeys, EncodingKeys, ManyInputs, OneInput, SetKeys, SinkKeys, SourceTimeKeys};
use crate::kinds::{InputKeys, Registries};
use crate::sql::SqlConfig;
use engine_spec::Input;
use engine_spec::pipeline::{ChainConfig, InstanceConfig, MAIN_ONLY, PipelineFile};
use schemars::generate::SchemaSettings;
use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde_json::{Map, Value, json};

type Object = Map<String, Value>;

fn generator() -> SchemaGenerator {
    SchemaSettings::draft2020_12().into_generator()
}

/// The keys that a schema of an object names; `None` if it takes any key.
pub(crate) fn property_names(schema: fn(&mut SchemaGenerator) -> Schema) -> Option<Vec<String>> {
    let mut generator = generator();
    let schema = schema(&mut generator).to_value();
    let mut names = Vec::new();
    let defs = Value::Object(generator.definitions().clone());
    collect_names(&schema, &defs, &mut names, 0).then_some(names)
}

/// How deep references to references are followed.
const DEPTH_MAX: usize = 16;

fn collect_names(schema: &Value, defs: &Value, names: &mut Vec<String>, depth: usize) -> bool {
    if depth > DEPTH_MAX {
        return true;
    }
    if schema.as_bool() == Some(true) {
        return false;
    }
    if let Some(target) = schema.get("$ref").and_then(Value::as_str).and_then(|path| definition(path, defs))
        && !collect_names(target, defs, names, depth + 1)
    {
        return false;
    }
    if schema.get("additionalProperties").is_some_and(|more| more.as_bool() != Some(false)) {
        return false;
    }
    for name in schema.get("properties").and_then(Value::as_object).into_iter().flat_map(Map::keys) {
        if !names.contains(name) {
            names.push(name.clone());
        }
    }
    let parts = ["allOf", "anyOf", "oneOf"].into_iter().filter_map(|key| schema.get(key)?.as_array()).flatten();
    parts.into_iter().all(|part| collect_names(part, defs, names, depth + 1))
}

fn definition<'a>(path: &str, defs: &'a Value) -> Option<&'a Value> {
    defs.get(path.strip_prefix("#/$defs/")?)
}

/// The JSON Schema (2020-12) of a pipeline file.
pub fn language(registries: &Registries) -> Value {
    let mut writer = Writer { generator: generator(), defs: Object::new() };
    let sections = [
        ("Connection", writer.connections(registries)),
        ("Source", writer.sources(registries)),
        ("Model", writer.models(registries)),
        ("Operator", writer.operators(registries)),
        ("Sink", writer.sinks(registries)),
    ];
    let mut root = writer.generator.root_schema_for::<PipelineFile>().to_value();
    root["required"] = json!(["version"]);
    // A file with a name is run, and says where rows come from and go to, here or in a file that it includes; one without
    // is included.
    root["if"] = json!({ "required": ["pipeline"] });
    root["then"] = json!({ "anyOf": [{ "required": ["sources", "sinks"] }, { "required": ["include"] }] });
    let absent: Object = MAIN_ONLY.iter().map(|key| ((*key).to_owned(), json!(false))).collect();
    root["else"] = json!({ "properties": absent });
    writer.finish(root, sections)
}

struct Writer {
    generator: SchemaGenerator,
    defs: Object,
}

/// A kind for one branch of a section.
struct Branch {
    name: &'static str,
    summary: &'static str,
    own: Value,
    common: Vec<Value>,
}

impl Writer {
    fn of<T: JsonSchema>(&mut self) -> Value {
        T::json_schema(&mut self.generator).to_value()
    }

    fn sources(&mut self, registries: &Registries) -> Value {
        let branches = registries.sources.iter().map(|kind| {
            let mut common = Vec::new();
            if kind.decodes {
                common.push(self.of::<DecodingKeys>());
            }
            common.push(self.of::<SetKeys>());
            common.push(self.of::<SourceTimeKeys>());
            common.push(renamed_from());
            Branch { name: kind.name, summary: kind.summary, own: self.own(kind.config_schema), common }
        });
        let branches = branches.collect();
        self.section("source", "Where rows enter. The kind is its `type`.", branches)
    }

    fn sinks(&mut self, registries: &Registries) -> Value {
        let branches = registries.sinks.iter().map(|kind| {
            let mut common = vec![self.of::<OneInput>(), self.of::<SinkKeys>()];
            if kind.encodes {
                common.push(self.of::<EncodingKeys>());
            }
            Branch { name: kind.name, summary: kind.summary, own: self.own(kind.config_schema), common }
        });
        let branches = branches.collect();
        self.section("sink", "Where rows leave. The kind is its `type`.", branches)
    }

    fn operators(&mut self, registries: &Registries) -> Value {
        let mut branches = Vec::new();
        let mut steps = Vec::new();
        for kind in &registries.operators {
            let own = self.own(kind.config_schema);
            let inputs = match kind.inputs {
                InputKeys::One => self.of::<OneInput>(),
                InputKeys::Many => self.of::<ManyInputs>(),
                InputKeys::Named(keys) => self.named_inputs(keys),
            };
            if kind.inputs == InputKeys::One {
                let name = json!({ "properties": { "name": step_name(), "renamed_from": old_name() } });
                steps.push(Branch { name: kind.name, summary: kind.summary, own: own.clone(), common: vec![name] });
            }
            branches.push(Branch { name: kind.name, summary: kind.summary, own, common: vec![inputs, renamed_from()] });
        }
        let mut chain = self.of::<ChainConfig>();
        if let Some(steps) = chain.pointer_mut("/properties/steps") {
            steps["items"] = json!({ "$ref": "#/$defs/Step" });
        }
        let summary = "The steps of a template.";
        let mut own = self.of::<InstanceConfig>();
        branches.push(Branch { name: "template", summary, own: own.clone(), common: vec![renamed_from()] });
        if let Some(keys) = own.pointer_mut("/properties").and_then(Value::as_object_mut) {
            keys.retain(|key, _| key != "input" && key != "inputs");
            keys.insert("name".to_owned(), step_name());
        }
        steps.push(Branch { name: "template", summary, own, common: vec![renamed_from()] });
        let step = self.section("step", "A step of a chain: it reads the one before it.", steps);
        self.defs.insert("Step".to_owned(), step);
        let summary = "Several steps, one after the other.";
        branches.push(Branch { name: "chain", summary, own: chain, common: vec![renamed_from()] });
        let sql = self.of::<SqlConfig>();
        let summary = "One SELECT over named inputs.";
        branches.push(Branch { name: "sql", summary, own: sql, common: vec![renamed_from()] });
        self.section("operator", "What changes rows. The kind is its `type`.", branches)
    }

    fn named_inputs(&mut self, keys: &[(&str, &str)]) -> Value {
        let input = self.generator.subschema_for::<Input>().to_value();
        let property = |says: &str| {
            let mut property = input.clone();
            property["description"] = json!(says);
            property
        };
        let properties: Object = keys.iter().map(|(key, says)| ((*key).to_owned(), property(says))).collect();
        let names: Vec<&str> = keys.iter().map(|(key, _)| *key).collect();
        json!({ "properties": properties, "required": names })
    }

    fn connections(&mut self, registries: &Registries) -> Value {
        let branches = registries.connections.iter().map(|kind| Branch {
            name: kind.name,
            summary: kind.summary,
            own: self.own(kind.config_schema),
            common: Vec::new(),
        });
        let branches = branches.collect();
        self.section("connection", "A system's address and credentials. The kind is its `type`.", branches)
    }

    fn models(&mut self, registries: &Registries) -> Value {
        let branches = registries.models.iter().map(|kind| Branch {
            name: kind.name,
            summary: kind.summary,
            own: self.own(kind.config_schema),
            common: vec![
                json!({ "properties": { "model": { "type": "string", "description": "The card's own name." } } }),
            ],
        });
        let branches = branches.collect();
        let card = self.section("model", "A model card. The kind is its `type`.", branches);
        json!({ "anyOf": [
            { "type": "string", "description": "The path of a model card, relative to this file." },
            card
        ] })
    }

    /// A kind's own schema as an object, not as a reference.
    fn own(&mut self, schema: fn(&mut SchemaGenerator) -> Schema) -> Value {
        let mut schema = schema(&mut self.generator).to_value();
        for _ in 0..DEPTH_MAX {
            let defs = self.generator.definitions();
            let Some(name) = schema.get("$ref").and_then(Value::as_str).and_then(|path| path.strip_prefix("#/$defs/"))
            else {
                break;
            };
            let Some(target) = defs.get(name) else { break };
            schema = target.clone();
        }
        // A root schema brings its definitions along.
        if let Some(defs) = schema.as_object_mut().and_then(|object| object.remove("$defs")) {
            self.defs.extend(defs.as_object().cloned().unwrap_or_default());
        }
        schema
    }

    /// A section's component: a definition for each kind, and one that chooses by `type`.
    fn section(&mut self, section: &str, description: &str, branches: Vec<Branch>) -> Value {
        let kinds: Vec<Value> =
            branches.iter().map(|branch| json!({ "const": branch.name, "description": branch.summary })).collect();
        let mut choices = Vec::new();
        for branch in branches {
            let name = format!("{section}_{}", branch.name);
            let condition = json!({ "properties": { "type": { "const": branch.name } }, "required": ["type"] });
            choices.push(json!({ "if": condition, "then": { "$ref": format!("#/$defs/{name}") } }));
            self.defs.insert(name, merge(branch));
        }
        let mut chooser = json!({
            "type": "object",
            "description": description,
            "properties": { "type": { "anyOf": kinds, "description": "What it is." } },
            "required": ["type"],
        });
        match choices.is_empty() {
            true => chooser["properties"]["type"] = json!(false),
            false => chooser["allOf"] = Value::Array(choices),
        }
        chooser
    }

    /// The whole: the frame, with the sections' components in the places that it left for them.
    fn finish<const N: usize>(mut self, root: Value, sections: [(&str, Value); N]) -> Value {
        let Value::Object(mut root) = root else { return root };
        let mut defs = match root.remove("$defs") {
            Some(Value::Object(defs)) => defs,
            _ => Object::new(),
        };
        defs.extend(self.generator.take_definitions(true));
        defs.extend(std::mem::take(&mut self.defs));
        defs.extend(sections.map(|(name, component)| (name.to_owned(), component)));
        for (name, schema) in &mut defs {
            if name != "Expression" {
                substitutable(schema);
            }
        }
        let mut rest = Value::Object(root);
        substitutable_below(&mut rest);
        defs.insert(SUBSTITUTION.to_owned(), substitution());
        names_of_components(&mut rest);
        let mut whole = Object::new();
        whole.insert("$schema".into(), json!("https://json-schema.org/draft/2020-12/schema"));
        if let Value::Object(rest) = rest {
            whole.extend(rest);
        }
        prune_definitions(&mut whole, defs);
        Value::Object(whole)
    }
}

/// The name of a step of a chain.
fn step_name() -> Value {
    json!({ "type": "string", "description": "Its name, due where it keeps state." })
}

/// The name that a component had before.
fn old_name() -> Value {
    json!({ "type": "string", "description": "The name that it had before: it goes on with the state under that name." })
}

fn renamed_from() -> Value {
    json!({ "properties": { "renamed_from": old_name() } })
}

/// What a component, a model or a parameter can be named.
const NAME: &str = "^[A-Za-z_][A-Za-z0-9_-]*$";

/// Holds the keys of the sections to what can be a name.
fn names_of_components(root: &mut Value) {
    for section in ["parameters", "connections", "sources", "models", "templates", "operators", "sinks"] {
        let Some(section) = root.pointer_mut(&format!("/properties/{section}")) else { continue };
        section["propertyNames"] = json!({ "pattern": NAME });
    }
}

/// One closed object of the keys that all share and a kind's own.
fn merge(branch: Branch) -> Value {
    let mut properties = Object::new();
    properties.insert("type".into(), json!({ "const": branch.name, "description": branch.summary }));
    let mut required = vec![json!("type")];
    let mut others = Vec::new();
    for part in branch.common.into_iter().chain([branch.own]) {
        let Value::Object(part) = part else { continue };
        for (key, value) in part {
            match (key.as_str(), value) {
                ("properties", Value::Object(own)) => properties.extend(own),
                ("required", Value::Array(own)) => required.extend(own),
                ("type" | "title" | "description" | "$schema" | "additionalProperties" | "default", _) => {}
                // A choice between forms: kept as it is, beside the keys.
                (_, value) => others.push(json!({ key: value })),
            }
        }
    }
    let closed = if others.is_empty() { "additionalProperties" } else { "unevaluatedProperties" };
    let mut merged = json!({
        "type": "object",
        "description": branch.summary,
        "properties": properties,
        "required": required,
        closed: false,
    });
    if !others.is_empty() {
        merged["allOf"] = Value::Array(others);
    }
    merged
}

const SUBSTITUTION: &str = "Substitution";

fn substitution() -> Value {
    json!({
        "type": "string",
        "pattern": r"\$\{(env|secret|param):[^}]+\}",
        "description": "A value from outside: `${env:NAME}`, `${env:NAME:-default}`, `${secret:NAME}` or `${param:NAME}`.",
    })
}

/// Lets `${...}` stand where a schema takes a scalar of some form.
fn substitutable(schema: &mut Value) {
    if is_scalar(schema) {
        let description = schema.as_object_mut().and_then(|object| object.remove("description"));
        let default = schema.as_object_mut().and_then(|object| object.remove("default"));
        let scalar = schema.take();
        *schema = json!({ "anyOf": [scalar, { "$ref": format!("#/$defs/{SUBSTITUTION}") }] });
        if let Some(description) = description {
            schema["description"] = description;
        }
        if let Some(default) = default {
            schema["default"] = default;
        }
    } else {
        substitutable_below(schema);
    }
}

fn substitutable_below(schema: &mut Value) {
    let Value::Object(schema) = schema else { return };
    for (key, value) in schema {
        match (key.as_str(), value) {
            ("properties" | "patternProperties", Value::Object(properties)) => {
                // `type` chooses the branch, and is written out.
                properties.iter_mut().filter(|(name, _)| *name != "type").for_each(|(_, schema)| substitutable(schema));
            }
            ("items" | "additionalProperties" | "then", value) => substitutable(value),
            ("anyOf" | "oneOf" | "allOf" | "prefixItems", Value::Array(parts)) => {
                parts.iter_mut().for_each(substitutable);
            }
            _ => {}
        }
    }
}

/// Whether only scalars of some form fit: a plain text takes `${...}` as it is.
fn is_scalar(schema: &Value) -> bool {
    if schema.get("const").is_some_and(|value| !value.is_null()) || schema.get("enum").is_some() {
        return true;
    }
    if let Some(parts) = schema.get("anyOf").or_else(|| schema.get("oneOf")).and_then(Value::as_array) {
        let is_null = |part: &Value| part.get("type").and_then(Value::as_str) == Some("null");
        return parts.iter().any(is_scalar) && parts.iter().all(|part| is_scalar(part) || is_null(part));
    }
    let formed = ["pattern", "format", "minLength", "maxLength"].iter().any(|key| schema.get(*key).is_some());
    let scalar = |name: &str| matches!(name, "integer" | "number" | "boolean") || name == "string" && formed;
    match schema.get("type") {
        Some(Value::String(name)) => scalar(name),
        Some(Value::Array(names)) => {
            let names: Vec<&str> = names.iter().filter_map(Value::as_str).collect();
            names.iter().any(|name| scalar(name)) && names.iter().all(|name| scalar(name) || *name == "null")
        }
        _ => false,
    }
}

/// Adds the definitions that something refers to.
fn prune_definitions(whole: &mut Object, mut defs: Object) {
    let mut used = Vec::new();
    for value in whole.values() {
        references(value, &mut used);
    }
    let mut next = 0;
    while let Some(name) = used.get(next).cloned() {
        if let Some(schema) = defs.get(&name) {
            references(schema, &mut used);
        }
        next += 1;
    }
    defs.retain(|name, _| used.contains(name));
    whole.insert("$defs".into(), Value::Object(defs));
}

fn references(value: &Value, used: &mut Vec<String>) {
    match value {
        Value::Array(items) => items.iter().for_each(|item| references(item, used)),
        Value::Object(object) => {
            for (key, value) in object {
                match (key.as_str(), value.as_str().and_then(|path| path.strip_prefix("#/$defs/"))) {
                    ("$ref", Some(name)) if !used.iter().any(|known| known == name) => used.push(name.to_owned()),
                    _ => references(value, used),
                }
            }
        }
        _ => {}
    }
}
