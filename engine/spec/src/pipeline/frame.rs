//! The keys at the top of the file.

use std::borrow::Cow;

use engine_base::codes::spec as codes;
use engine_base::{Diagnostic, Diagnostics};
use indexmap::IndexMap;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::Deserialize;

use super::include::Includes;
use super::parameters::ParameterConfig;
use super::template::TemplateConfig;
use super::tests_section::TestConfig;
use super::{MaxInFlight, Measure, Objective};
use crate::node::{Entry, Node, Value};
use crate::value::{Size, TimeSpan};

/// One pipeline: where rows come from, what happens to them, where they go.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(title = "Pipeline")]
pub struct PipelineFile {
    /// The version of the language: 1.
    #[schemars(with = "Version")]
    pub version: Node,
    /// The name of the pipeline. State, metrics and checkpoints go by it.
    #[schemars(regex(pattern = r"^[A-Za-z_][A-Za-z0-9_-]*$"))]
    pub pipeline: String,
    /// What the pipeline is for.
    pub description: Option<String>,
    /// Files whose sections are taken as if they stood here: a path, or a list of them, relative to this file. Such a file
    /// has `version` and any of `parameters`, `connections`, `sources`, `models`, `templates`, `operators`, `sinks`,
    /// `objectives`, `tests` and `include`.
    #[schemars(with = "Option<Includes>")]
    pub include: Option<Node>,
    /// Values that are given when the pipeline starts (`--param name=value`): `param.NAME` in expressions, `${param:NAME}`
    /// in other texts.
    pub parameters: Option<IndexMap<String, ParameterConfig>>,
    /// Systems that several components use, said once: addresses and credentials.
    #[schemars(with = "Option<IndexMap<String, AnyComponent<0>>>")]
    pub connections: Option<ComponentMap>,
    /// Where rows come from.
    #[schemars(with = "IndexMap<String, AnyComponent<1>>")]
    pub sources: Option<ComponentMap>,
    /// The models that `predict` uses: the path of a model card, or the card itself.
    #[schemars(with = "Option<IndexMap<String, ModelRefConfig>>")]
    pub models: Option<IndexMap<String, Node>>,
    /// Steps that are written once and used in several places, by operators of `type: template`.
    pub templates: Option<IndexMap<String, TemplateConfig>>,
    /// What happens to the rows, step by step. A step reads sources and other steps by their names.
    #[schemars(with = "Option<IndexMap<String, AnyComponent<2>>>")]
    pub operators: Option<ComponentMap>,
    /// Where rows go.
    #[schemars(with = "IndexMap<String, AnyComponent<3>>")]
    pub sinks: Option<ComponentMap>,
    /// Other edges for the same logic, chosen with `--profile NAME`: connector keys and `format` of sources and sinks, and
    /// connections. Schemas, event time and operators stay.
    #[schemars(with = "Option<IndexMap<String, ProfileConfig>>")]
    pub profiles: Option<Node>,
    /// Promises that are measured while the pipeline runs; a breach is logged and shown in the metrics.
    #[schemars(with = "Option<Vec<ObjectiveConfig>>")]
    pub objectives: Option<Node>,
    /// How much may be between the sources and the sinks; beyond it the sources wait.
    pub max_in_flight: Option<MaxInFlight>,
    /// How far the event time of a source may be ahead of the slowest, `1m`: one that is farther waits, so that what steps keep
    /// until the others come up is bounded. Sources are read as they come unless it is said.
    pub align: Option<TimeSpan>,
    /// How much memory the state of all steps may take together, about: `2GiB`. State that was not used for longest is kept on
    /// disk beyond it. Rows that `distinct`, `top` of changelogs and joins without bounds keep can't leave the memory: where they
    /// need more, the run ends with an error.
    pub memory_limit: Option<Size>,
    /// What is promised when a process dies: `at_least_once` (the default) or `exactly_once`. A sink may say otherwise for
    /// itself.
    pub delivery: Option<Delivery>,
    /// How often output that is due exactly once is committed.
    pub commit: Option<CommitConfig>,
    /// How often state is written down, so that a restart has little to read again.
    pub checkpoint: Option<CheckpointConfig>,
    /// Tests of the pipeline, run by `engine test` on a virtual clock.
    pub tests: Option<Vec<TestConfig>>,
}

/// What is promised when a process dies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Delivery {
    /// Nothing is lost; some rows may come twice.
    AtLeastOnce,
    /// Nothing is lost, and nothing comes twice. It needs a state directory (`engine run --state`).
    ExactlyOnce,
}

/// How often output is committed.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CommitConfig {
    /// The time between two commits while there is output, `20ms` unless said: what exactly once adds to the latency of a row
    /// at most, beside the commit of the system itself.
    pub every: TimeSpan,
}

/// How often state is written down.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CheckpointConfig {
    /// The time between two checkpoints while there is input, `10s` unless said: a restart reads again what came since the last.
    pub every: TimeSpan,
}

/// Components by name; each has a `type` and the keys of that kind.
pub type ComponentMap = IndexMap<String, Node>;

/// Stands for a component of any kind in the JSON Schema: 0 is `Connection`, 1 `Source`, 2 `Operator`, 3 `Sink`. Whoever
/// knows the kinds puts their schemas in its place.
#[derive(Clone, Copy, Debug)]
pub struct AnyComponent<const SECTION: u8>;

impl<const SECTION: u8> JsonSchema for AnyComponent<SECTION> {
    fn schema_name() -> Cow<'static, str> {
        match SECTION {
            0 => "Connection",
            1 => "Source",
            2 => "Operator",
            _ => "Sink",
        }
        .into()
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "object", "properties": { "type": { "type": "string" } }, "required": ["type"] })
    }
}

struct Version;

impl JsonSchema for Version {
    fn inline_schema() -> bool {
        true
    }
    fn schema_name() -> Cow<'static, str> {
        "Version".into()
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "const": 1 })
    }
}

struct ModelRefConfig;

impl JsonSchema for ModelRefConfig {
    fn schema_name() -> Cow<'static, str> {
        "Model".into()
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "description": "The path of a model card, or the card itself.",
            "anyOf": [{ "type": "string" }, { "type": "object", "required": ["type"] }]
        })
    }
}

/// A profile: what it gives replaces what the file says.
#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
#[expect(dead_code, reason = "for its JSON Schema; profiles are merged as nodes")]
struct ProfileConfig {
    /// Connections of this profile.
    connections: Option<IndexMap<String, serde_json::Value>>,
    /// Keys of sources. With a `type`, all keys of the connector are replaced.
    sources: Option<IndexMap<String, serde_json::Value>>,
    /// Keys of sinks. With a `type`, all keys of the connector are replaced.
    sinks: Option<IndexMap<String, serde_json::Value>>,
}

/// A promise that is measured while the pipeline runs.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "Objective")]
pub struct ObjectiveConfig {
    /// Its name, in logs and metrics.
    pub name: String,
    /// What is measured: `end_to_end` (the event's or the broker's time to the sink's acknowledgement), `step_latency`,
    /// `error_rate` or `lag`.
    pub measure: Measure,
    /// The sink that `end_to_end` or `error_rate` is about; all of them if none is named.
    pub sink: Option<String>,
    /// The step that `step_latency` or `error_rate` is about.
    pub step: Option<String>,
    /// The source that `lag` is about; all of them if none is named.
    pub source: Option<String>,
    /// Half of the rows may take at most this long.
    pub p50: Option<TimeSpan>,
    /// 95 of 100 rows may take at most this long.
    pub p95: Option<TimeSpan>,
    /// 99 of 100 rows may take at most this long.
    pub p99: Option<TimeSpan>,
    /// Each row may take at most this long; a source may be at most this far behind.
    pub max: Option<TimeSpan>,
    /// The greatest part of rows that may fail, from 0 to 1.
    pub max_ratio: Option<f64>,
    /// How many rows a source may be behind.
    pub max_rows: Option<u64>,
    /// The time over which it is measured.
    pub over: TimeSpan,
}

/// Keys at the top that are no sections.
const OTHER_KEYS: &[&str] = &[
    "version",
    "pipeline",
    "description",
    "include",
    "objectives",
    "max_in_flight",
    "align",
    "memory_limit",
    "delivery",
    "commit",
    "checkpoint",
    "tests",
];

/// How often output is committed where the file does not say, nanoseconds.
const COMMIT_NS: i64 = 20_000_000;
/// How often state is written down where the file does not say, nanoseconds.
const CHECKPOINT_NS: i64 = 10_000_000_000;

/// What the frame says besides its sections.
pub(super) struct Frame {
    pub(super) name: String,
    pub(super) description: Option<String>,
    pub(super) max_in_flight: MaxInFlight,
    pub(super) align: Option<TimeSpan>,
    pub(super) memory_limit: Option<Size>,
    pub(super) delivery: Delivery,
    pub(super) commit: TimeSpan,
    pub(super) checkpoint: TimeSpan,
}

pub(super) fn is_map(root: &Node, diagnostics: &mut Diagnostics) -> bool {
    if matches!(root.value, Value::Map(_)) {
        return true;
    }
    let message = format!("a pipeline is a map of keys and values, not {}", crate::decode::found(root));
    diagnostics.push(
        Diagnostic::error(codes::WRONG_TYPE, root.span, message)
            .help("begin with `version: 1` and `pipeline: name`, and name `sources:` and `sinks:`"),
    );
    false
}

/// Sections that hold entries by name.
const SECTIONS: &[&str] =
    &["parameters", "connections", "sources", "models", "templates", "operators", "sinks", "profiles"];

/// Keys that belong below the empty key before them, and stand beside it: reports them and puts them there.
pub(super) fn adopt_unindented(root: &mut Node, diagnostics: &mut Diagnostics) {
    let Value::Map(entries) = &mut root.value else { return };
    let known: Vec<&str> = SECTIONS.iter().copied().chain(OTHER_KEYS.iter().copied()).collect();
    let known = |key: &str| known.contains(&key);
    adopt(entries, |owner| SECTIONS.contains(&owner.key.as_str()), |child| !known(&child.key), diagnostics);
    for section in entries.iter_mut().filter(|entry| ["sources", "operators", "sinks"].contains(&entry.key.as_str())) {
        if let Value::Map(components) = &mut section.value.value {
            let is_map = |entry: &Entry| matches!(entry.value.value, Value::Map(_));
            adopt(components, |_| true, |child| !is_map(child) || child.key == "event_time", diagnostics);
        }
    }
}

fn adopt(
    entries: &mut Vec<Entry>,
    may_own: impl Fn(&Entry) -> bool,
    belongs_below: impl Fn(&Entry) -> bool,
    diagnostics: &mut Diagnostics,
) {
    let is_empty = |entry: &Entry| entry.value.text() == Some("") && matches!(entry.value.value, Value::Null);
    let mut at = 0;
    while at < entries.len() {
        let owner = &entries[at];
        at += 1;
        if !is_empty(owner) || !may_own(owner) {
            continue;
        }
        let count = entries[at..].iter().take_while(|child| belongs_below(child) && !is_empty(child)).count();
        if count == 0 {
            continue;
        }
        let children: Vec<Entry> = entries.drain(at..at + count).collect();
        let owner = &mut entries[at - 1];
        let first = &children[0];
        diagnostics.push(
            Diagnostic::error(
                codes::INDENTATION,
                first.key_span,
                format!("`{}` stands beside `{}`, not below it", first.key, owner.key),
            )
            .also(owner.key_span, "this has nothing below it")
            .help(format!("indent what belongs to `{}` deeper than it", owner.key)),
        );
        owner.value = Node { value: Value::Map(children), ..owner.value.clone() };
        owner.value.written.raw = None;
    }
}

/// Checks the version of a file, which may be missing only where something else could not be read.
pub(super) fn version(root: &Node, complete: bool, diagnostics: &mut Diagnostics) {
    let top = root.entries().first().map_or(root.span, |entry| entry.key_span);
    match root.get("version") {
        None if complete => {
            diagnostics.push(
                Diagnostic::error(codes::VERSION, top, "the key `version` is missing")
                    .help("begin the file with `version: 1`"),
            );
        }
        None => {}
        Some(version) if matches!(version.value, Value::Int(1)) || version.is_placeholder() => {}
        Some(version) => {
            let message = format!("the version can't be {}", crate::decode::found(version));
            diagnostics.push(Diagnostic::error(codes::VERSION, version.span, message).help("write `version: 1`"));
        }
    }
}

pub(super) fn read(root: &Node, complete: bool, diagnostics: &mut Diagnostics) -> Frame {
    // The first key is the place for what the whole file lacks.
    let top = root.entries().first().map_or(root.span, |entry| entry.key_span);
    let missing = |code, message: &str, help: &str| Diagnostic::error(code, top, message).help(help);
    version(root, complete, diagnostics);
    let name = match root.get("pipeline") {
        None if complete => {
            let help = "name the pipeline: `pipeline: name`";
            diagnostics.push(missing(codes::MISSING_KEY, "the key `pipeline` is missing", help));
            String::new()
        }
        // A secret is refused below; it must not be shown as a name.
        node => node.filter(|node| !node.secret).and_then(Node::as_str).unwrap_or_default().to_owned(),
    };
    if let Some(node) = root.get("pipeline").filter(|_| !super::components::is_name(&name) && !name.is_empty()) {
        diagnostics.push(super::components::bad_name(&name, node.span, "a pipeline"));
    }
    if complete {
        for (section, what, example) in [
            ("sources", "nothing comes in", "`sources: { rows: { type: stdin, ... } }`"),
            ("sinks", "nothing goes out", "`sinks: { out: { type: stdout, input: ... } }`"),
        ] {
            match root.entry(section) {
                None => diagnostics.push(missing(
                    codes::NOTHING_TO_DO,
                    &format!("the key `{section}` is missing: {what}"),
                    &format!("add {example}"),
                )),
                Some(entry) if matches!(&entry.value.value, Value::Map(entries) if entries.is_empty()) => {
                    let message = format!("`{section}` is empty: {what}");
                    let problem = Diagnostic::error(codes::NOTHING_TO_DO, entry.key_span, message);
                    diagnostics.push(problem.help(format!("add {example}")));
                }
                Some(_) => {}
            }
        }
    }

    // The checks above say it better; here the rest is found: unknown keys and wrong types.
    let mut checked = root.clone();
    if let Value::Map(entries) = &mut checked.value {
        for key in ["version", "pipeline"] {
            if !entries.iter().any(|entry| entry.key == key) {
                let mut value = Node::new(top, Value::String("1".to_owned()));
                value.substituted = true;
                entries.push(Entry { key: key.to_owned(), key_span: top, value });
            }
        }
        if !complete {
            // What is lost to a syntax error leaves an empty section behind.
            entries.retain(|entry| entry.value.text() != Some(""));
        }
    }
    let file = checked.decode::<PipelineFile>(diagnostics);
    let align = file.as_ref().and_then(|file| file.align);
    if align.is_some_and(|align| align.ns() <= 0) {
        let problem =
            Diagnostic::error(codes::BAD_VALUE, root.span_at(&["align"]), "`align` must be longer than nothing");
        diagnostics.push(problem.help("write how far sources may be apart in event time: `align: 1m`"));
    }
    let memory_limit = file.as_ref().and_then(|file| file.memory_limit);
    if memory_limit.is_some_and(|limit| limit.bytes() == 0) {
        let problem =
            Diagnostic::error(codes::BAD_VALUE, root.span_at(&["memory_limit"]), "`memory_limit` can't be zero");
        diagnostics.push(problem.help("write how much memory state may take: `memory_limit: 2GiB`, or leave it out"));
    }
    let delivery = file.as_ref().and_then(|file| file.delivery).unwrap_or(Delivery::AtLeastOnce);
    let commit = file.as_ref().and_then(|file| file.commit).map_or(TimeSpan(COMMIT_NS), |commit| commit.every);
    let checkpoint =
        file.as_ref().and_then(|file| file.checkpoint).map_or(TimeSpan(CHECKPOINT_NS), |checkpoint| checkpoint.every);
    for (key, every, example) in [("commit", commit, "20ms"), ("checkpoint", checkpoint, "10s")] {
        if every.ns() <= 0 {
            let message = format!("`{key}` must be every so often, which is longer than nothing");
            let problem = Diagnostic::error(codes::BAD_VALUE, root.span_at(&[key, "every"]), message);
            diagnostics.push(problem.help(format!("write `{key}: {{ every: {example} }}`")));
        }
    }
    let max_in_flight = file.and_then(|file| file.max_in_flight);
    if let Some(node) = root.get("max_in_flight").filter(|_| max_in_flight.is_some()) {
        if node.entries().is_empty() {
            let problem = Diagnostic::error(codes::BAD_VALUE, node.head(), "`max_in_flight` bounds nothing");
            diagnostics.push(problem.help("write `max_in_flight: { bytes: 128MiB, age: 5s }`"));
        }
        let zero = [
            ("bytes", max_in_flight.and_then(|bound| bound.bytes).is_some_and(|bytes| bytes.bytes() == 0)),
            ("age", max_in_flight.and_then(|bound| bound.age).is_some_and(|age| age.ns() == 0)),
        ];
        for (key, _) in zero.iter().filter(|(_, zero)| *zero) {
            let problem = Diagnostic::error(codes::BAD_VALUE, node.span_at(&[key]), format!("`{key}` can't be zero"));
            diagnostics.push(problem.help("nothing could ever be in flight: write a larger bound, or leave it out"));
        }
    }
    Frame {
        name,
        description: root.get("description").filter(|node| !node.secret).and_then(Node::as_str).map(str::to_owned),
        max_in_flight: max_in_flight.unwrap_or_default(),
        align,
        memory_limit,
        delivery,
        commit,
        checkpoint,
    }
}

pub(super) fn objectives(root: &Node, diagnostics: &mut Diagnostics) -> Vec<Objective> {
    let Some(node) = root.get("objectives") else { return Vec::new() };
    let Value::List(items) = &node.value else {
        let message = format!("`objectives` takes a list, not {}", crate::decode::found(node));
        diagnostics.push(
            Diagnostic::error(codes::WRONG_TYPE, node.head(), message)
                .help("write one `- name: ...` for each objective"),
        );
        return Vec::new();
    };
    items.iter().filter_map(|item| objective(item, diagnostics)).collect()
}

fn objective(node: &Node, diagnostics: &mut Diagnostics) -> Option<Objective> {
    let config: ObjectiveConfig = node.decode(diagnostics)?;
    let (targets, thresholds): (&[&str], &[&str]) = match config.measure {
        Measure::EndToEnd => (&["sink"], &["p50", "p95", "p99", "max"]),
        Measure::StepLatency => (&["step"], &["p50", "p95", "p99", "max"]),
        Measure::ErrorRate => (&["step", "sink"], &["max_ratio"]),
        Measure::Lag => (&["source"], &["max", "max_rows"]),
    };
    let measure = node.get("measure").and_then(Node::as_str).unwrap_or_default();
    let given = |key: &&&str| node.entry(key);
    let mut ok = true;
    let mut problem = |span, message: String, help: String| {
        diagnostics.push(Diagnostic::error(codes::BAD_OBJECTIVE, span, message).help(help));
        ok = false;
    };
    for key in ["sink", "step", "source"].iter().filter(|key| !targets.contains(key)) {
        if let Some(entry) = node.entry(key) {
            problem(entry.key_span, format!("`{measure}` is not about a {key}"), format!("name a `{}`", targets[0]));
        }
    }
    for key in ["p50", "p95", "p99", "max", "max_ratio", "max_rows"].iter().filter(|key| !thresholds.contains(key)) {
        if let Some(entry) = node.entry(key) {
            let help = format!("it takes {}", crate::decode::list(thresholds));
            problem(entry.key_span, format!("`{measure}` has no `{key}`"), help);
        }
    }
    let named: Vec<_> = targets.iter().filter_map(|key| given(&key)).collect();
    if named.len() > 1 {
        problem(
            named[1].key_span,
            "an objective is about one thing".to_owned(),
            "write one objective for each".to_owned(),
        );
    }
    if config.measure == Measure::StepLatency && named.is_empty() {
        problem(node.head(), "`step_latency` needs to know of which step".to_owned(), "add `step: name`".to_owned());
    }
    if thresholds.iter().filter_map(|key| given(&key)).count() == 0 {
        let help = format!("add {}", crate::decode::list(thresholds));
        problem(node.head(), "this objective promises nothing".to_owned(), help);
    }
    if let Some(ratio) = config.max_ratio.filter(|ratio| !(0.0..=1.0).contains(ratio)) {
        let span = node.span_at(&["max_ratio"]);
        problem(
            span,
            format!("`max_ratio` can't be {ratio}"),
            "write a part from 0 to 1: `0.01` is one of a hundred".to_owned(),
        );
    }
    if config.over.ns() == 0 {
        problem(node.span_at(&["over"]), "`over` can't be zero".to_owned(), "write a span of time: `1m`".to_owned());
    }
    let target = named.first().and_then(|entry| Some((entry.value.as_str()?.to_owned(), entry.value.span)));
    ok.then(|| Objective {
        name: config.name,
        measure: config.measure,
        target,
        p50: config.p50,
        p95: config.p95,
        p99: config.p99,
        max: config.max,
        max_ratio: config.max_ratio,
        max_rows: config.max_rows,
        over: config.over,
        span: node.head(),
    })
}
