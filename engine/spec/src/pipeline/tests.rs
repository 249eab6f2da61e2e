//! Whole files: profiles, overrides, substitution, chains.

use std::collections::HashMap;
use std::io;

use super::*;

#[derive(Default)]
struct Memory(HashMap<&'static str, &'static str>);

impl Files for Memory {
    fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        let text = self.0.get(path.to_str().unwrap_or_default());
        text.map(|text| text.as_bytes().to_vec()).ok_or_else(|| io::ErrorKind::NotFound.into())
    }
    fn env(&self, name: &str) -> Option<String> {
        (name == "HOME").then(|| "home".to_owned())
    }
    fn secret(&self, name: &str) -> Option<String> {
        (name == "TOKEN").then(|| "hush".to_owned())
    }
    fn glob(&self, _: &Path) -> io::Result<Vec<PathBuf>> {
        Ok(Vec::new())
    }
}

const GOOD: &str = include_str!("../../tests/good.yaml");

fn load_with(text: &'static str, options: &LoadOptions) -> (Option<Pipeline>, Vec<String>) {
    let mut sources = SourceMap::default();
    let mut diagnostics = Diagnostics::new();
    let files = Memory(HashMap::from([("dir/p.yaml", text), ("models/m.yaml", "type: candle\nweights: w\n")]));
    let pipeline = load(Path::new("dir/p.yaml"), &files, options, &mut sources, &mut diagnostics);
    (pipeline, diagnostics.iter().map(|item| format!("{} {}", item.code, item.message)).collect())
}

fn good(options: &LoadOptions) -> Pipeline {
    let (pipeline, problems) = load_with(GOOD, options);
    assert!(problems.is_empty(), "{problems:?}");
    pipeline.unwrap()
}

fn text<'p>(component: &'p Component, path: &[&str]) -> Option<&'p str> {
    component.node.at(path)?.text()
}

#[test]
fn a_whole_pipeline() {
    let pipeline = good(&LoadOptions::default());
    assert_eq!(pipeline.name, "fraud");
    assert_eq!(pipeline.folders.of(pipeline.name_span), Path::new("dir"));
    assert!(pipeline.description.as_deref().is_some_and(|text| text.contains("\"here\" costs ${5}.")));
    let source = &pipeline.sources["transactions"];
    assert_eq!((source.kind.as_str(), source.node.get("type").is_none()), ("file", true));
    assert_eq!(text(source, &["path"]), Some("data/eu/transactions.jsonl"));
    let operators: Vec<&str> = pipeline.operators.keys().map(String::as_str).collect();
    let of_instance = ["sample.others", "sample.both", "sample.some.1", "sample.some"];
    assert_eq!(operators, [&["valid", "history", "features.1", "scaled", "features"][..], &of_instance[..]].concat());
    let inputs: Vec<_> = pipeline.operators.values().take(5).map(|step| text(step, &["input"])).collect();
    assert_eq!(inputs, [Some("transactions"), None, Some("history"), Some("features.1"), Some("scaled")]);
    let unnamed: Vec<bool> = pipeline.operators.values().take(5).map(|step| step.unnamed).collect();
    assert_eq!(unnamed, [false, false, true, false, false]);
    assert_eq!(pipeline.parameters["threshold"].value.as_ref().and_then(Node::text), Some("0.9"));
    assert!(matches!(pipeline.parameters["limit"].value.as_ref().map(|node| &node.value), Some(crate::Value::Null)));
    assert_eq!(pipeline.objectives.len(), 2);
    assert_eq!(pipeline.objectives[0].target.as_ref().map(|(name, _)| name.as_str()), Some("holds"));
    assert_eq!(pipeline.max_in_flight.bytes, Some(Size(128 << 20)));
    assert!(pipeline.broken.is_empty());
}

#[test]
fn a_profile_swaps_the_edges() {
    let pipeline = good(&LoadOptions { profile: Some("kafka".to_owned()), ..LoadOptions::default() });
    let source = &pipeline.sources["transactions"];
    assert_eq!(source.kind, "kafka");
    assert_eq!(text(source, &["topic"]), Some("transactions"));
    assert!(source.node.get("path").is_none());
    assert!(source.node.get("schema").is_some() && source.node.get("event_time").is_some());
    assert_eq!(source.kept, ["format", "metadata"]);
    let sink = &pipeline.sinks["holds"];
    assert_eq!((text(sink, &["input"]), text(sink, &["format"])), (Some("features"), Some("json")));
    assert_eq!(pipeline.sinks["alerts"].kind, "webhook");
}

#[test]
fn the_command_line_sets_values() {
    let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
    let pipeline = good(&LoadOptions {
        set: vec![
            pair("sources.transactions.path", "12"),
            pair("operators.features.steps.2.where", "z > 5"),
            pair("max_in_flight", "{ age: 1s }"),
            pair("objectives.1.max_ratio", "0.5"),
        ],
        params: vec![pair("threshold", "1"), pair("threshold", "0.25"), pair("region", "007")],
        ..LoadOptions::default()
    });
    assert_eq!(text(&pipeline.sources["transactions"], &["path"]), Some("12"));
    assert_eq!(text(&pipeline.operators["features"], &["where"]), Some("z > 5"));
    assert_eq!(pipeline.max_in_flight, MaxInFlight { bytes: None, age: Some(TimeSpan(1_000_000_000)) });
    assert_eq!(pipeline.objectives[1].max_ratio, Some(0.5));
    assert_eq!(pipeline.parameters["threshold"].value.as_ref().and_then(Node::text), Some("0.25"));
    assert!(
        matches!(pipeline.parameters["region"].value.as_ref().map(|node| &node.value), Some(crate::Value::String(text)) if text == "007")
    );
    let path = pipeline.sources["transactions"].node.get("path").unwrap();
    assert!(path.written.lenient);
    assert_eq!(path.decode::<String>(&mut Diagnostics::new()).as_deref(), Some("12"));
}

const SHORT: &str = "version: 1\npipeline: p\nsources:\n  a: { type: x, path: \"${env:HOME}/${env:GONE}\", token: \"${secret:TOKEN}\" }\nsinks:\n  b: { type: y, input: a }\nmodels:\n  m: ../models/m.yaml\n";

#[test]
fn values_come_from_the_environment() {
    let (pipeline, problems) = load_with(SHORT, &LoadOptions::default());
    assert_eq!(problems, ["E0129 the environment variable `GONE` is not set"]);
    let pipeline = pipeline.unwrap();
    let source = &pipeline.sources["a"];
    assert_eq!(text(source, &["path"]), Some("home/placeholder"));
    assert!(source.node.get("path").unwrap().is_placeholder());
    let token = source.node.get("token").unwrap();
    assert!(token.secret && token.as_str() == Some("hush"));
    assert!(!format!("{pipeline:?}").contains("hush"));
    let (_, problems) = load_with(SHORT, &LoadOptions { secrets_required: true, ..LoadOptions::default() });
    assert_eq!(problems, ["E0129 the environment variable `GONE` is not set"]);
    assert_eq!(pipeline.models["m"].base_dir, Path::new("models"));
    assert_eq!(pipeline.models["m"].card.get("weights").and_then(Node::as_str), Some("w"));
}

/// What is left out is known by name, so that nothing else is blamed.
#[test]
fn broken_parts_are_named() {
    let (pipeline, problems) = load_with(
        "version: 1\npipeline: p\nsources:\n  a: { type: x }\n  lost: { type: x path: y }\noperators:\n  typeless: { input: a }\n  empty: { type: chain, input: a, steps: [] }\nsinks:\n  b: { type: y, input: a }\n",
        &LoadOptions::default(),
    );
    assert_eq!(problems.len(), 3, "{problems:?}");
    let mut broken: Vec<String> = pipeline.unwrap().broken.into_iter().collect();
    broken.sort();
    assert_eq!(broken, ["empty", "lost", "typeless"]);
}

#[test]
fn expressions_are_located() {
    let pipeline = good(&LoadOptions::default());
    let step = &pipeline.operators["scaled"];
    let node = step.node.at(&["set", "z"]).unwrap();
    let value = node.as_str().unwrap();
    let at = value.find("greatest").unwrap();
    let span = node.locate(at..at + 8);
    assert_eq!(&GOOD[span.start..span.end], "greatest");
}

#[test]
fn fifty_steps_are_quick() {
    let mut text = GOOD.to_owned();
    let steps: String = (0..50)
        .map(|n| format!("  s{n}:\n    type: map\n    input: valid\n    set:\n      a: amount * {n}\n      b: coalesce(a, b)\n    drop: [x, y]\n\n"))
        .collect();
    text = text.replace("\nsinks:\n", &format!("\n{steps}\nsinks:\n"));
    let text: &'static str = text.leak();
    // The quickest of some rounds: other tests run beside this one.
    let quickest = (0..20)
        .map(|_| {
            let started = std::time::Instant::now();
            let (pipeline, problems) = load_with(text, &LoadOptions::default());
            assert!(problems.is_empty() && pipeline.is_some());
            started.elapsed()
        })
        .min();
    assert!(quickest.is_some_and(|took| took.as_millis() < 10), "{quickest:?}");
}

/// Whoever knows the kinds puts their schemas in the place of these.
#[test]
fn the_json_schema_has_a_place_for_kinds() {
    let schema = schemars::schema_for!(PipelineFile);
    let definitions = schema.get("$defs").and_then(|definitions| definitions.as_object()).unwrap();
    for name in ["Connection", "Source", "Operator", "Sink", "Parameter", "Objective", "TimeSpan", "Size"] {
        assert!(definitions.contains_key(name), "{name} is not among {:?}", definitions.keys());
    }
    let required: Vec<&str> =
        schema.get("required").unwrap().as_array().unwrap().iter().filter_map(|key| key.as_str()).collect();
    assert_eq!(required, ["version", "pipeline", "sources", "sinks"]);
}
