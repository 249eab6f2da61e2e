//! The JSON Schema that editors use, against pipelines that are right and some that are not.

use crate::{engine, package};
use serde_json::{Value, json};
use std::path::PathBuf;
use std::process::Command;

fn schema() -> Value {
    let output = Command::new(engine()).arg("schema").output().expect("the engine runs");
    assert!(output.status.success());
    serde_json::from_slice(&output.stdout).expect("JSON")
}

fn examples() -> Vec<PathBuf> {
    let folder = package().join("../pipelines");
    let folders = [folder.clone(), folder.join("nexmark")];
    let mut files: Vec<PathBuf> = folders
        .iter()
        .flat_map(|folder| std::fs::read_dir(folder).expect("a folder of examples"))
        .map(|entry| entry.expect("an entry").path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "yaml"))
        .collect();
    files.sort();
    files
}

fn problems(validator: &jsonschema::Validator, instance: &Value) -> Vec<String> {
    validator.iter_errors(instance).map(|error| format!("{}: {error}", error.instance_path())).collect()
}

#[test]
fn every_example_is_valid() {
    let schema = schema();
    assert!(jsonschema::meta::is_valid(&schema), "the schema itself is not valid");
    let validator = jsonschema::validator_for(&schema).expect("a schema");
    let examples = examples();
    assert!(!examples.is_empty(), "there are no examples");
    for file in examples {
        let text = std::fs::read_to_string(&file).expect("an example");
        let instance: Value = serde_yaml::from_str(&text).expect("YAML");
        assert_eq!(problems(&validator, &instance), Vec::<String>::new(), "{}", file.display());
    }
}

/// Whether a source, operator or sink beside sound others is valid.
#[track_caller]
fn check(section: &str, component: Value, valid: bool) {
    check_named(section, "tried", component, valid);
}

#[track_caller]
fn check_named(section: &str, name: &str, component: Value, valid: bool) {
    thread_local!(static VALIDATOR: jsonschema::Validator = jsonschema::validator_for(&schema()).expect("a schema"));
    let mut pipeline = json!({
        "version": 1,
        "pipeline": "p",
        "sources": { "rows": { "type": "stdin", "format": "json", "schema": { "a": "int64" } } },
        "operators": {},
        "sinks": { "out": { "type": "blackhole", "input": "rows" } },
    });
    pipeline[section][name] = component;
    let problems = VALIDATOR.with(|validator| problems(validator, &pipeline));
    assert_eq!(problems.is_empty(), valid, "{}\n{pipeline:#}", problems.join("\n"));
}

#[test]
fn a_type_has_its_own_keys() {
    check("operators", json!({ "type": "filter", "input": "rows", "where": "a > 1" }), true);
    check("operators", json!({ "type": "filter", "input": { "from": "rows", "where": true }, "where": "a > 1" }), true);
    check("operators", json!({ "type": "filter", "input": "rows", "were": "a > 1" }), false);
    check("operators", json!({ "type": "filter", "where": "a > 1" }), false);
    check("operators", json!({ "type": "fliter", "input": "rows", "where": "a > 1" }), false);
    check("operators", json!({ "input": "rows", "where": "a > 1" }), false);
    check("operators", json!({ "type": "join", "left": "rows", "right": "rows", "match": "a" }), true);
    check("operators", json!({ "type": "union", "inputs": ["rows", "rows"] }), true);
    check("operators", json!({ "type": "union", "inputs": ["rows"] }), false);
    check(
        "operators",
        json!({ "type": "chain", "input": "rows", "steps": [{ "type": "filter", "where": "a > 1" }] }),
        true,
    );
    check(
        "operators",
        json!({ "type": "chain", "input": "rows", "steps": [{ "type": "filter", "were": "a > 1" }] }),
        false,
    );
    check("sources", json!({ "type": "file", "path": "rows.jsonl", "format": "json", "schema": "rows.yaml" }), true);
    check("sources", json!({ "type": "file", "format": "json", "schema": "rows.yaml" }), false);
    check("sinks", json!({ "type": "blackhole", "input": "rows", "columns": ["a"], "where": "a > 1" }), true);
    check("sinks", json!({ "type": "blackhole", "input": "rows", "columns": { "b": "a + 1" } }), true);
}

#[test]
fn templates_and_their_instances() {
    let instance = |keys: Value| {
        let mut instance = json!({ "type": "template", "template": "t" });
        instance.as_object_mut().expect("a map").extend(keys.as_object().expect("a map").clone());
        instance
    };
    check("operators", instance(json!({ "input": "rows", "with": { "n": 1 } })), true);
    check("operators", instance(json!({ "inputs": { "a": { "from": "rows", "where": "a > 1" } } })), true);
    check("operators", instance(json!({ "inputs": ["rows"] })), false);
    check("operators", instance(json!({ "input": "rows", "wiht": { "n": 1 } })), false);
    let chain =
        |step: Value| json!({ "type": "chain", "input": "rows", "steps": [step, { "type": "filter", "where": true }] });
    check("operators", chain(instance(json!({ "name": "first", "with": { "n": 1 } }))), true);
    check("operators", chain(instance(json!({ "input": "rows" }))), false);
    let template = |operators: Value| json!({ "inputs": ["rows"], "operators": operators, "output": "a" });
    let step = |kind: &str| json!({ "a": { "type": kind, "input": "rows", "where": true } });
    check("templates", template(step("filter")), true);
    check("templates", template(step("fliter")), false);
    check("templates", json!({ "operators": step("filter") }), false);
}

/// A file that is run has a name; one without is included.
#[test]
fn files_that_include_and_files_that_are_included() {
    let validator = jsonschema::validator_for(&schema()).expect("a schema");
    let file = |valid: bool, file: Value| {
        assert_eq!(problems(&validator, &file).is_empty(), valid, "{file:#}");
    };
    let sources = json!({ "rows": { "type": "stdin", "format": "json", "schema": { "a": "int64" } } });
    file(true, json!({ "version": 1, "pipeline": "p", "include": "a.yaml" }));
    file(true, json!({ "version": 1, "pipeline": "p", "include": ["a.yaml"], "sources": sources }));
    file(false, json!({ "version": 1, "pipeline": "p", "include": { "a": 1 } }));
    file(false, json!({ "version": 1, "pipeline": "p", "sources": sources }));
    file(true, json!({ "version": 1, "sources": sources, "description": "rows", "tests": [] }));
    file(false, json!({ "version": 1, "sources": sources, "profiles": {} }));
    file(false, json!({ "sources": sources }));
}

/// What dry-run refuses by its form alone, the schema refuses too.
#[test]
fn what_is_not_built_is_not_in_the_schema() {
    let rolling = |key: &str, value: Value| {
        let mut step =
            json!({ "type": "rolling", "input": "rows", "key": "a", "over": "5m", "columns": { "n": "count(*)" } });
        step[key] = value;
        step
    };
    check("operators", rolling("order", json!("arrival")), true);
    check("operators", rolling("order", json!("event_time")), true);
    check("operators", rolling("order", json!("time")), false);
    check("operators", rolling("over", json!({ "rows": 5 })), true);
    check("operators", rolling("over", json!({ "row": 5 })), false);
    let sink = |key: &str, value: &str| json!({ "type": "stdout", "input": "rows", key: value });
    check("sinks", sink("format", "csv"), true);
    check("sinks", sink("format", "parquet"), false);
    check("sinks", sink("delivery", "at_least_once"), true);
    check("sinks", sink("delivery", "exactly_once"), true);
    check("sinks", sink("delivery", "once"), false);
    let filter = json!({ "type": "filter", "input": "rows", "where": true });
    for (name, valid) in [("b_2", true), ("a-b", true), ("1f", false), ("a.b", false), ("a b", false)] {
        check_named("operators", name, filter.clone(), valid);
    }
}

#[test]
fn values_may_come_from_outside() {
    let window = |size: &str| json!({ "type": "rolling", "input": "rows", "key": "a", "over": size, "columns": { "n": "count(*)" } });
    check("operators", window("5m"), true);
    check("operators", window("5"), false);
    check("operators", window("${param:size}"), true);
    let source = |delay: &str| json!({ "type": "stdin", "format": "json", "schema": { "a": "timestamp" }, "event_time": { "column": "a", "max_delay": delay } });
    check("sources", source("5s"), true);
    check("sources", source("${env:DELAY:-5s}"), true);
    check("sources", source("five"), false);
}
