//! The pipeline file as a whole: its frame checked, profile and overrides applied, values substituted, chains expanded.
//!
//! ```text
//! files ─▶ Node ─▶ profile ─▶ --set ─▶ parameters ─▶ ${...} ─▶ sections ─▶ chains, templates ─▶ Pipeline
//! ```
//!
//! What a kind's own keys mean is left to whoever knows the kind: a [`Component`] hands out its node.

mod chain;
mod components;
mod frame;
mod include;
mod overrides;
mod parameters;
mod profile;
mod template;
mod tests_section;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use engine_base::codes::spec as codes;
use engine_base::{Diagnostic, Diagnostics, SourceMap, Span};
use indexmap::{IndexMap, IndexSet};
use schemars::JsonSchema;
use serde::Deserialize;

use crate::types::FieldSpec;
use crate::value::{Size, TimeSpan};
use crate::{Files, Node, Value, yaml};

pub use chain::ChainConfig;
pub use frame::{AnyComponent, ComponentMap, Delivery, ObjectiveConfig, PipelineFile};
pub use include::{Folders, MAIN_ONLY};
pub use parameters::ParameterConfig;
pub use template::{Expanded, Given, Instance, InstanceConfig, TemplateConfig};
pub use tests_section::{ExpectedConfig, Test, TestConfig, TestStepConfig};

/// What the command line says about a pipeline.
#[derive(Clone, Debug, Default)]
pub struct LoadOptions {
    /// `--profile NAME`.
    pub profile: Option<String>,
    /// `--set path=value`, in order: a path of keys with dots, and YAML text.
    pub set: Vec<(String, String)>,
    /// `--param name=value`, in order.
    pub params: Vec<(String, String)>,
    /// A secret or environment variable that is missing is an error (`run`) rather than a placeholder (`dry-run`).
    pub secrets_required: bool,
}

/// A pipeline with profile, overrides and substitutions applied and chains expanded; the kinds' own keys not yet read.
#[derive(Clone, Debug)]
pub struct Pipeline {
    /// Its name.
    pub name: String,
    /// Where it is named.
    pub name_span: Span,
    /// What it is for.
    pub description: Option<String>,
    /// The folders of its files, for paths.
    pub folders: Arc<Folders>,
    /// The whole document after profile, overrides and substitution.
    pub root: Node,
    /// All profiles as they are written: for checks, such as what is used in some profile only.
    pub profiles: Option<Node>,
    /// `parameters`, with their values.
    pub parameters: IndexMap<String, Parameter>,
    /// `connections`
    pub connections: IndexMap<String, Component>,
    /// `sources`
    pub sources: IndexMap<String, Component>,
    /// `models`
    pub models: IndexMap<String, ModelRef>,
    /// `operators`, chains and templates taken apart.
    pub operators: IndexMap<String, Component>,
    /// The steps of each chain, in order; the last has the chain's name.
    pub chains: IndexMap<String, Vec<String>>,
    /// The instances of templates.
    pub instances: IndexMap<String, Instance>,
    /// What templates that nothing uses would have, each under its own name: for checks.
    pub unused: Expanded,
    /// `sinks`
    pub sinks: IndexMap<String, Component>,
    /// `objectives`
    pub objectives: Vec<Objective>,
    /// `max_in_flight`
    pub max_in_flight: MaxInFlight,
    /// `align`
    pub align: Option<TimeSpan>,
    /// `memory_limit`
    pub memory_limit: Option<Size>,
    /// `delivery`
    pub delivery: Delivery,
    /// `commit: { every }`
    pub commit: TimeSpan,
    /// `checkpoint: { every }`
    pub checkpoint: TimeSpan,
    /// `tests`
    pub tests: Vec<Test>,
    /// Components that were left out because of an error that was reported: a step that reads one is not to blame.
    pub broken: IndexSet<String>,
}

/// How much may be between the sources and the sinks; beyond it the sources wait.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct MaxInFlight {
    /// The rows in flight may take up this much memory, such as `128MiB`.
    pub bytes: Option<Size>,
    /// The oldest row in flight may be this old, such as `5s`.
    pub age: Option<TimeSpan>,
}

/// A connection, source, operator or sink: a name, a `type` and the rest, which the kind reads.
#[derive(Clone, Debug)]
pub struct Component {
    /// Its name.
    pub name: String,
    /// Where it is named.
    pub name_span: Span,
    /// Its `type`.
    pub kind: String,
    /// Where the type stands.
    pub kind_span: Span,
    /// Its keys without `type`.
    pub node: Node,
    /// The folder of the file that it is named in.
    pub base_dir: PathBuf,
    /// The folders of all files: a key may come from another file than the component, such as from a profile.
    pub folders: Arc<Folders>,
    /// The instance of a template that it is a step of: it sees that one's names and parameters.
    pub instance: Option<String>,
    /// A step of a chain that has no name of its own; `name` is made up from the chain's.
    pub unnamed: bool,
    /// The name that it had before, whose state it goes on with, and where that is said.
    pub renamed_from: Option<(String, Span)>,
    /// Keys that stayed from the file when a profile changed `type`, such as `format`: a kind that has no such key may
    /// pass over them.
    pub kept: Vec<String>,
}

impl Component {
    /// The place of a key, or of the nearest thing above it that exists; the name for an empty path.
    pub fn span(&self, path: &[&str]) -> Span {
        if path.is_empty() { self.name_span } else { self.node.span_at(path) }
    }

    /// Its name without that of the instance that it is a step of.
    pub fn local_name(&self) -> &str {
        let instance = self.instance.as_deref().unwrap_or_default();
        self.name.strip_prefix(instance).and_then(|name| name.strip_prefix('.')).unwrap_or(&self.name)
    }

    /// What a path under this key is relative to: the folder of the file that it is written in.
    pub fn dir(&self, path: &[&str]) -> &Path {
        self.folders.of(self.span(path))
    }
}

/// A model: its card, not yet read.
#[derive(Clone, Debug)]
pub struct ModelRef {
    /// Its name in the pipeline.
    pub name: String,
    /// Where it is named.
    pub name_span: Span,
    /// The card.
    pub card: Node,
    /// The folder of the card.
    pub base_dir: PathBuf,
}

/// A parameter: `param.NAME` in expressions, `${param:NAME}` elsewhere.
#[derive(Clone, Debug)]
pub struct Parameter {
    /// Its name.
    pub name: String,
    /// Its type.
    pub ty: FieldSpec,
    /// Its value, from `--param` or `default`, with the place where it was said.
    pub value: Option<Node>,
    /// Where it is declared.
    pub span: Span,
}

/// What an objective measures.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Measure {
    /// From the event's or the broker's time to the sink's acknowledgement.
    EndToEnd,
    /// Time in one step.
    StepLatency,
    /// Error rows to rows.
    ErrorRate,
    /// How far a source is behind.
    Lag,
}

/// A promise that is measured while the pipeline runs.
#[derive(Clone, Debug)]
pub struct Objective {
    /// Its name.
    pub name: String,
    /// What is measured.
    pub measure: Measure,
    /// The sink, step or source that it is about; all if `None`.
    pub target: Option<(String, Span)>,
    /// The median may be at most this.
    pub p50: Option<TimeSpan>,
    /// The 95th percentile may be at most this.
    pub p95: Option<TimeSpan>,
    /// The 99th percentile may be at most this.
    pub p99: Option<TimeSpan>,
    /// The greatest may be at most this.
    pub max: Option<TimeSpan>,
    /// Errors to rows may be at most this.
    pub max_ratio: Option<f64>,
    /// A source may be at most this many rows behind.
    pub max_rows: Option<u64>,
    /// The time over which it is measured.
    pub over: TimeSpan,
    /// Where it stands.
    pub span: Span,
}

/// Loads a pipeline: reads, parses, applies profile and overrides, substitutes, checks the frame.
///
/// Reports every problem it finds. `None` if the file could not be read as a whole; otherwise what it understood, which
/// is worth planning even after errors (see [`Pipeline::broken`]).
pub fn load(
    path: &Path,
    files: &dyn Files,
    options: &LoadOptions,
    sources: &mut SourceMap,
    diagnostics: &mut Diagnostics,
) -> Option<Pipeline> {
    let pipeline = read(path, files, options, sources, diagnostics);
    diagnostics.settle(sources);
    pipeline
}

fn read(
    path: &Path,
    files: &dyn Files,
    options: &LoadOptions,
    sources: &mut SourceMap,
    diagnostics: &mut Diagnostics,
) -> Option<Pipeline> {
    let (_, parsed) = yaml::read_file(path, None, files, sources, diagnostics)?;
    let mut root = parsed.root?;
    if !frame::is_map(&root, diagnostics) {
        return None;
    }
    frame::adopt_unindented(&mut root, diagnostics);
    let included = include::read(&mut root, &yaml::tidy(path), files, sources, diagnostics);
    let complete = parsed.complete && included.complete;
    let folders = Arc::new(included.folders);
    let command_line = overrides::CommandLine::new(options, sources);
    let profiles = root.get("profiles").cloned();
    let kept = profile::apply(&mut root, options.profile.as_deref().zip(command_line.profile), complete, diagnostics);
    overrides::apply(&mut root, options, &command_line, diagnostics);

    let parameters = parameters::read(&mut root, files, options, &command_line, diagnostics);
    let values = crate::substitute::Values { files, parameters: Some(&parameters), required: options.secrets_required };
    stand_in_for_unused(&mut root, &values, diagnostics);
    replace_in(&mut root, &values, diagnostics);

    let frame = frame::read(&root, complete, diagnostics);
    let mut reader =
        components::Reader { root: &root, folders: &folders, kept: &kept, broken: IndexSet::new(), diagnostics };
    let connections = reader.section("connections", "a connection");
    let read_sources = reader.section("sources", "a source");
    let steps = reader.section("operators", "an operator");
    let sinks = reader.section("sinks", "a sink");
    let mut broken = reader.broken;
    let expander = template::Expander {
        values: &values,
        parameters: &parameters,
        folders: &folders,
        sources,
        broken: &mut broken,
        complete,
        diagnostics,
    };
    let (Expanded { operators, chains, instances }, unused) = expander.expand(&root, steps);
    components::check_names(&read_sources, &operators, &instances, &sinks, diagnostics);
    let models = models(&root, &folders, &values, files, sources, diagnostics);
    let objectives = frame::objectives(&root, diagnostics);
    let tests = tests_section::read(&root, diagnostics);

    // A component lost to a syntax error is known by name; what else refers to a lost part can't be told from a slip.
    for lost in parsed.lost.into_iter().chain(included.lost) {
        match (lost.section.as_str(), lost.entry) {
            ("sources" | "operators" | "sinks", Some(name)) => {
                broken.insert(name);
            }
            ("objectives" | "max_in_flight" | "align" | "memory_limit" | "description" | "tests", _) => {}
            _ => return None,
        }
    }
    let name = root.entry("pipeline");
    Some(Pipeline {
        name: frame.name,
        name_span: name.map_or(root.head(), |entry| entry.value.span),
        description: frame.description,
        folders,
        parameters,
        connections,
        sources: read_sources,
        models,
        operators,
        chains,
        instances,
        unused,
        sinks,
        objectives,
        max_in_flight: frame.max_in_flight,
        align: frame.align,
        memory_limit: frame.memory_limit,
        delivery: frame.delivery,
        commit: frame.commit,
        checkpoint: frame.checkpoint,
        tests,
        broken,
        root,
        profiles,
    })
}

/// Replaces what comes from outside, but for the steps of templates: those see the parameters of their instance.
fn replace_in(root: &mut Node, values: &crate::substitute::Values<'_>, diagnostics: &mut Diagnostics) {
    let Value::Map(entries) = &mut root.value else { return };
    for entry in entries {
        match entry.key.as_str() {
            "templates" => template::replace_in(&mut entry.value, values, diagnostics),
            _ => values.replace_in(&mut entry.value, diagnostics),
        }
    }
}

/// A run can do without what only a connection of another profile needs.
fn stand_in_for_unused(root: &mut Node, values: &crate::substitute::Values<'_>, diagnostics: &mut Diagnostics) {
    if !values.required {
        return;
    }
    let mut used = Vec::new();
    for section in ["sources", "templates", "operators", "sinks", "models"] {
        root.get(section).into_iter().for_each(|section| named_connections(section, &mut used));
    }
    // A name that is put together stands for any.
    if used.iter().any(|name| name.contains("${")) {
        return;
    }
    let optional = crate::substitute::Values { required: false, ..*values };
    let Value::Map(sections) = &mut root.value else { return };
    for section in sections.iter_mut().filter(|section| section.key == "connections") {
        let Value::Map(connections) = &mut section.value.value else { continue };
        for connection in connections.iter_mut().filter(|connection| !used.contains(&connection.key)) {
            let mut found = Diagnostics::new();
            optional.replace_in(&mut connection.value, &mut found);
            // What is missing is not needed: nothing to warn of.
            found.iter().filter(|problem| problem.code != codes::MISSING_ENV).for_each(|problem| {
                diagnostics.push(problem.clone());
            });
        }
    }
}

/// The values of all keys `connection`.
fn named_connections(node: &Node, names: &mut Vec<String>) {
    match &node.value {
        Value::Map(entries) => {
            for entry in entries {
                names.extend(entry.value.as_str().filter(|_| entry.key == "connection").map(str::to_owned));
                named_connections(&entry.value, names);
            }
        }
        Value::List(items) => items.iter().for_each(|item| named_connections(item, names)),
        _ => {}
    }
}

/// `models`: the cards, read from their files or inline.
fn models(
    root: &Node,
    folders: &Folders,
    values: &crate::substitute::Values<'_>,
    files: &dyn Files,
    sources: &mut SourceMap,
    diagnostics: &mut Diagnostics,
) -> IndexMap<String, ModelRef> {
    let mut models = IndexMap::new();
    for entry in root.get("models").map(Node::entries).unwrap_or_default() {
        components::check_name(entry, "a model", diagnostics);
        let base_dir = folders.of(entry.value.span);
        let (card, base_dir) = match &entry.value.value {
            _ if crate::decode::refuse_secret(&entry.value, &entry.key, diagnostics) => continue,
            _ if entry.value.is_placeholder() => continue,
            crate::Value::Map(_) => (entry.value.clone(), base_dir.to_path_buf()),
            crate::Value::String(path) if !path.trim().is_empty() => {
                let path = yaml::tidy(&base_dir.join(path));
                let read = yaml::read_file(&path, Some(entry.value.span), files, sources, diagnostics);
                let Some(mut card) = read.and_then(|(_, parsed)| parsed.root.filter(|_| parsed.complete)) else {
                    continue;
                };
                values.replace_in(&mut card, diagnostics);
                (card, path.parent().map(Path::to_path_buf).unwrap_or_default())
            }
            _ => {
                let what = crate::decode::found(&entry.value);
                let message = format!("the model `{}` is the path of a card or a card, not {what}", entry.key);
                diagnostics.push(
                    Diagnostic::error(codes::WRONG_TYPE, entry.value.span, message)
                        .help("write `name: ../models/name/model.yaml`"),
                );
                continue;
            }
        };
        let model = ModelRef { name: entry.key.clone(), name_span: entry.key_span, card, base_dir };
        models.insert(entry.key.clone(), model);
    }
    models
}

#[cfg(test)]
mod tests;
