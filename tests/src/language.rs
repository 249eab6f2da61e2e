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
    let mut files: Vec<PathBuf> = std::fs::read_dir(folder)
        .into_iter()
        .flatten()
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
    check("sinks", sink("delivery", "exactly_once"), false);
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
