//! A pipeline and the registries to a [`Plan`], with every problem.
//!
//! ```text
//! connections, models, parameters ──▶ wiring: who reads whom, cycles, an order
//!      ──▶ each component in that order: its shared keys, the steps they imply, its kind's own `plan`
//!      ──▶ checks over the whole (unused, objectives) ──▶ columns wanted, backwards ──▶ digest
//! ```
//!
//! A component that can't be planned leaves what can be told of its outputs to those that read it: a column that is wrong is
//! there and of no known type, and where not even the columns are known, any may be there. So all problems are told at once,
//! and none that only follows from another ([`engine_base::codes::FOLLOWS`]).

mod checks;
mod component;
mod digest;
mod implied;
mod keys;
mod names;
mod outputs;
mod prune;
mod wiring;

use crate::kinds::{
    Claim, Columns, Cx, EventTime, Origins, Output, Planned, Registries, Replaced, StreamKind, StreamType, Use, hidden,
};
use crate::model::{ModelCx, ModelSet};
use crate::plan::{ERRORS, Edge, Plan, Role, Step};
use crate::sql::{self, TimeColumns};
use crate::{language, types};
use engine_base::codes::plan as codes;
use engine_base::{Diagnostic, Diagnostics, Severity, SourceMap, Span, StepId};
use engine_expr::{Context, ParamValue};
use engine_spec::{Component, Files, Folders, Instance, Node, Pipeline, Value};
use indexmap::IndexSet;
use keys::KeyNames;
use std::collections::HashMap;
use std::sync::Arc;
use wiring::Wiring;

/// After this many problems the rest is not looked for: a person reads the first few, and a hostile file may have
/// hundreds of thousands.
const MAX_PROBLEMS: usize = 500;

/// Plans a pipeline.
///
/// `None` where there is an error, or (in a dry run) a value that is known only in a run; both are noted.
pub fn plan(
    pipeline: &Pipeline,
    registries: &Registries,
    files: &dyn Files,
    sources: &mut SourceMap,
    diagnostics: &mut Diagnostics,
) -> Option<Plan> {
    let mut noted = Diagnostics::new();
    let (pipeline, times) = sql::expand(pipeline, &mut noted);
    let unread = noted.has_errors();
    diagnostics.extend(noted);
    let broken_before = diagnostics.has_errors();
    let pipeline = &*pipeline;
    let mut planner = Planner {
        pipeline,
        times,
        registries,
        files,
        sources,
        found: Diagnostics::new(),
        expr: Context::new(parameters(pipeline, None)),
        scopes: HashMap::new(),
        models: ModelSet::new(),
        keys: KeyNames::default(),
        steps: Vec::new(),
        placed: HashMap::new(),
        failed: IndexSet::new(),
        told_replaced: Vec::new(),
        source_count: 0,
        broken_before,
    };
    let plan = planner.run();
    planner.found.settle(planner.sources);
    diagnostics.extend(planner.found);
    plan.filter(|_| !unread)
}

struct Planner<'a> {
    pipeline: &'a Pipeline,
    registries: &'a Registries,
    files: &'a dyn Files,
    sources: &'a mut SourceMap,
    found: Diagnostics,
    expr: Context,
    /// What expressions in instances of templates see.
    scopes: HashMap<String, Context>,
    models: ModelSet,
    keys: KeyNames,
    steps: Vec<Step>,
    /// Where the outputs of a component or an implied step are.
    placed: HashMap<String, Placed>,
    /// Components that could not be planned, each after those it reads.
    failed: IndexSet<String>,
    /// Places where the column of the event time is replaced, which are told.
    told_replaced: Vec<Span>,
    source_count: u16,
    /// The columns that queries take for the event time, by step.
    times: TimeColumns,
    /// Problems were found before planning.
    broken_before: bool,
}

/// Where a name's outputs are: a source's main rows come from the last of the steps that its keys imply.
#[derive(Clone, Copy, Debug)]
struct Placed {
    own: StepId,
    main: Edge,
}

/// A stream and where it comes from.
#[derive(Clone, Debug)]
struct Incoming {
    edge: Edge,
    stream: StreamType,
}

/// What is to be added as a step.
struct NewStep {
    name: String,
    kind: &'static str,
    implied: bool,
    role: Role,
    inputs: Vec<Edge>,
    outputs: Vec<Output>,
    can_fail: bool,
    planned: Arc<dyn Planned>,
    span: Span,
}

impl Planner<'_> {
    fn run(&mut self) -> Option<Plan> {
        let pipeline = self.pipeline;
        for (name, instance) in pipeline.instances.iter().chain(&pipeline.unused.instances) {
            self.scopes.insert(name.clone(), Context::new(parameters(pipeline, Some(instance))));
        }
        self.check_connections();
        self.plan_models();
        let mut wiring = Wiring::read(self.pipeline, self.registries, &mut self.keys, &mut self.found);
        let order = wiring.order(&mut self.found);
        for at in order {
            if self.found.len() >= MAX_PROBLEMS {
                return None;
            }
            let part = &wiring.parts[at];
            if !self.plan_part(part) {
                self.failed.insert(part.component.name.clone());
            }
        }
        wiring.check_unused(pipeline, &mut self.found);
        self.check_unused_templates();
        self.check_claims();
        self.check_unused();
        self.check_endless();
        self.check_renamed();
        let objectives = self.plan_objectives();
        if !self.failed.is_empty() && !self.found.has_errors() && !self.broken_before {
            self.note_unknown_until_run(&wiring);
        }
        if self.found.has_errors() || !self.failed.is_empty() {
            return None;
        }
        prune::prune(&mut self.steps);
        let digest = digest::digest(self.pipeline, &self.steps, &self.models);
        let logic = digest::logic(self.pipeline, &self.steps, &self.models);
        let identities = digest::of_steps(self.pipeline, &self.steps);
        Some(Plan {
            name: self.pipeline.name.clone(),
            description: self.pipeline.description.clone(),
            steps: std::mem::take(&mut self.steps),
            objectives,
            max_in_flight: self.pipeline.max_in_flight,
            align_ns: self.pipeline.align.map(|align| align.ns()),
            memory_limit: self.pipeline.memory_limit.map(|limit| limit.bytes()),
            commit_ns: self.pipeline.commit.ns(),
            checkpoint_ns: self.pipeline.checkpoint.ns(),
            digest,
            logic,
            identities,
        })
    }

    fn check_connections(&mut self) {
        let pipeline = self.pipeline;
        for connection in pipeline.connections.values() {
            let Some(kind) = self.registries.connections.iter().find(|kind| kind.name == connection.kind).copied()
            else {
                let built: Vec<&str> = self.registries.connections.iter().map(|kind| kind.name).collect();
                let problem = unknown_kind("connection", connection, &built, language::CONNECTIONS, self.registries);
                self.found.push(problem);
                continue;
            };
            let own = self.keys.own(kind.name, "connection", kind.config_schema);
            let connection = keys::known(connection, &[], &[], own.as_deref(), &mut self.found);
            let mut found = Diagnostics::new();
            (kind.check)(&mut self.cx(&connection, connection.node.clone(), &mut found));
            self.found.extend(found);
        }
    }

    fn plan_models(&mut self) {
        let pipeline = self.pipeline;
        for model in pipeline.models.values() {
            let Some(kind) = model.card.get("type") else {
                self.found.push(
                    Diagnostic::error(
                        engine_base::codes::spec::MISSING_KEY,
                        model.card.head(),
                        format!("the card of the model `{}` has no `type`", model.name),
                    )
                    .help(format!("add `type:`; {}", kinds_help("model", &self.registries.model_names()))),
                );
                continue;
            };
            let Some(kind_name) = kind.as_str() else {
                // The decoder's words for a value of the wrong type.
                let _: Option<String> = kind.decode(&mut self.found);
                continue;
            };
            let card = Component {
                name: model.name.clone(),
                name_span: model.name_span,
                kind: kind_name.to_owned(),
                kind_span: kind.span,
                node: model.card.without(&["type"]),
                base_dir: model.base_dir.clone(),
                folders: Arc::new(Folders::one(&model.base_dir)),
                instance: None,
                unnamed: false,
                renamed_from: None,
                kept: Vec::new(),
            };
            let Some(kind) = self.registries.models.iter().find(|kind| kind.name == card.kind).copied() else {
                let built = self.registries.model_names();
                self.found.push(unknown_kind("model", &card, &built, language::MODELS, self.registries));
                continue;
            };
            let mut found = Diagnostics::new();
            let planned = (kind.plan)(&mut ModelCx {
                name: &model.name,
                card: &card.node,
                base_dir: &model.base_dir,
                files: self.files,
                diagnostics: &mut found,
                sources: self.sources,
            });
            self.found.extend(found);
            if let Some(planned) = planned {
                self.models.insert(model.name.clone(), planned);
            }
        }
    }

    /// Two components that use one thing and must not.
    fn check_claims(&mut self) {
        let claims: Vec<(usize, Claim)> = self
            .steps
            .iter()
            .enumerate()
            .flat_map(|(at, step)| step.planned.claims().into_iter().map(move |claim| (at, claim)))
            .collect();
        for (at, (step, claim)) in claims.iter().enumerate() {
            let clash = claims[..at]
                .iter()
                .find(|(_, other)| other.thing == claim.thing && !(other.by == Use::Read && claim.by == Use::Read));
            let Some((other, others)) = clash else { continue };
            let (step, other) = (&self.steps[*step], &self.steps[*other]);
            let does = |claim: &Claim| if claim.by == Use::Write { "writes" } else { "reads" };
            let message =
                format!("`{}` {} {}, which `{}` {}", step.name, does(claim), claim.thing, other.name, does(others));
            self.found.push(
                Diagnostic::error(codes::CLAIMED_TWICE, step.span, message).also(other.span, "the other one").help(
                    match (claim.by, others.by) {
                        (Use::Write, Use::Write) => {
                            "give each a file of its own, or bring the rows together with a `union` before one sink"
                        }
                        (Use::Take, Use::Take) => "read it once: two steps may have one `input`",
                        _ => "let the sink write to another file",
                    },
                ),
            );
        }
    }

    /// What a kind is told about a component.
    fn cx<'c>(&'c mut self, component: &'c Component, config: Node, found: &'c mut Diagnostics) -> Cx<'c> {
        Cx {
            component,
            config,
            files: self.files,
            expr: component.instance.as_ref().and_then(|name| self.scopes.get(name)).unwrap_or(&self.expr),
            diagnostics: found,
            sources: self.sources,
            connections: &self.pipeline.connections,
            models: &self.models,
            root: &self.pipeline.root,
        }
    }

    /// Adds a step; its error output is added where it can fail.
    fn add(&mut self, new: NewStep) -> StepId {
        let id = StepId(u32::try_from(self.steps.len()).unwrap_or(u32::MAX));
        let mut outputs = new.outputs;
        if new.can_fail {
            let stream = StreamType {
                schema: types::error_schema(),
                event_time: None,
                kind: StreamKind::Append,
                origins: Origins::default(),
            };
            outputs.push(Output { port: ERRORS.to_owned(), stream });
        }
        let facts = new.planned.facts();
        self.placed.insert(new.name.clone(), Placed { own: id, main: Edge { from: id, port: 0 } });
        self.steps.push(Step {
            id,
            name: new.name,
            renamed_from: None,
            kind: new.kind,
            implied: new.implied,
            role: new.role,
            inputs: new.inputs,
            wanted: vec![Columns::new(); outputs.len()],
            outputs,
            can_fail: new.can_fail,
            exchange: None,
            state: None,
            timed: false,
            planned: new.planned,
            facts,
            span: new.span,
        });
        id
    }

    /// Whether streams whose event time `what` reads have it, and their column shows it still.
    fn check_timed<'s>(&mut self, span: Span, what: &str, streams: impl IntoIterator<Item = &'s StreamType>) -> bool {
        let mut sound = true;
        for stream in streams {
            let problem = match &stream.event_time {
                None => {
                    let message = format!("{what} needs event time, which these rows don't have");
                    Diagnostic::error(codes::NO_EVENT_TIME, span, message)
                        .help("say when each row happened, at the source: `event_time: { column: at }`")
                }
                Some(EventTime { replaced: Some(replaced), .. }) => {
                    sound = false;
                    if self.told_replaced.contains(&replaced.span) {
                        continue;
                    }
                    self.told_replaced.push(replaced.span);
                    let Replaced { column, step, span: place } = replaced;
                    let message =
                        format!("`{step}` replaces `{column}`, which event time is read from, and it is needed behind");
                    Diagnostic::error(codes::EVENT_TIME_REPLACED, *place, message)
                        .at_caret("a row keeps the event time that it came with")
                        .also(span, format!("{what} needs it"))
                        .help(format!("give the new column another name, such as `{column}_2`"))
                }
                Some(_) => continue,
            };
            sound = false;
            self.found.push(problem);
        }
        sound
    }

    /// The stream behind an output of a step.
    fn incoming(&self, edge: Edge) -> Incoming {
        Incoming { edge, stream: self.steps[edge.from.0 as usize].outputs[edge.port].stream.clone() }
    }

    /// Notes what can't be checked, where a placeholder stands in for a value of the run.
    fn note_unknown_until_run(&mut self, wiring: &Wiring<'_>) {
        let first = self.failed.first();
        let Some(part) = wiring.parts.iter().find(|part| first == Some(&part.component.name)) else { return };
        let name = &part.component.name;
        let message = format!("`{name}` has a value that is known only in a run, so it was not checked any further");
        self.found.push(
            Diagnostic::new(Severity::Note, codes::UNKNOWN_UNTIL_RUN, Some(part.component.name_span), message)
                .help("set the environment variable, or give it a default: `${env:NAME:-value}`"),
        );
    }
}

/// The parameters as expressions know them, in an instance of a template those of the template before the pipeline's. One whose value is known only in a run is null of its type; one that is wrong is
/// of no known type.
fn parameters(
    pipeline: &Pipeline,
    instance: Option<&Instance>,
) -> Vec<(String, arrow::datatypes::DataType, bool, ParamValue)> {
    let declared = pipeline.root.get("parameters").map(Node::entries).unwrap_or_default();
    let own = instance.into_iter().flat_map(|instance| instance.parameters.values());
    let own_wrong = instance.into_iter().flat_map(|instance| &instance.wrong_parameters);
    // The last of a name is taken.
    let wrong = declared
        .iter()
        .map(|entry| &entry.key)
        .filter(|name| !pipeline.parameters.contains_key(*name))
        .filter(|name| instance.is_none_or(|instance| !instance.parameters.contains_key(*name)))
        .chain(own_wrong)
        .map(|name| (name.clone(), arrow::datatypes::DataType::Null, true, ParamValue::Null));
    pipeline
        .parameters
        .values()
        .chain(own)
        .map(|parameter| {
            let value = parameter.value.as_ref().filter(|node| !node.is_placeholder());
            let value = value.map_or(ParamValue::Null, param_value);
            (parameter.name.clone(), types::data_type(&parameter.ty.ty), parameter.ty.nullable, value)
        })
        .chain(wrong)
        .collect()
}

fn param_value(node: &Node) -> ParamValue {
    match &node.value {
        Value::Bool(value) => ParamValue::Bool(*value),
        Value::Int(value) => match (i64::try_from(*value), u64::try_from(*value)) {
            (Ok(value), _) => ParamValue::Int(value),
            (_, Ok(value)) => ParamValue::UInt(value),
            _ => ParamValue::String(value.to_string()),
        },
        Value::Float(value) => ParamValue::Float(*value),
        Value::String(text) => ParamValue::String(text.clone()),
        Value::Null | Value::List(_) | Value::Map(_) => ParamValue::Null,
    }
}

impl Registries {
    fn model_names(&self) -> Vec<&'static str> {
        self.models.iter().map(|kind| kind.name).collect()
    }

    /// In which sections a type stands: `source`, `operator`, `sink`.
    fn sections_of(&self, name: &str) -> Vec<&'static str> {
        let mut sections = Vec::new();
        if self.sources.iter().any(|kind| kind.name == name) {
            sections.push("source");
        }
        if self.operators.iter().any(|kind| kind.name == name) {
            sections.push("operator");
        }
        if self.sinks.iter().any(|kind| kind.name == name) {
            sections.push("sink");
        }
        if self.models.iter().any(|kind| kind.name == name) {
            sections.push("model");
        }
        sections
    }
}

/// The problem of a `type:` that is in no registry.
fn unknown_kind(
    section: &str,
    component: &Component,
    built: &[&str],
    language: &[&str],
    registries: &Registries,
) -> Diagnostic {
    let (kind, span) = (component.kind.as_str(), component.kind_span);
    if language.contains(&kind) {
        let message = format!("{} of type `{kind}` is not built yet", with_article(section));
        return Diagnostic::error(codes::KIND_NOT_BUILT, span, message)
            .at_caret("part of the language, but not of this version")
            .help(kinds_help(section, built));
    }
    let problem = Diagnostic::error(codes::UNKNOWN_KIND, span, format!("there is no {section} of type `{kind}`"));
    let elsewhere = registries.sections_of(kind);
    if !elsewhere.is_empty() {
        let articles: Vec<String> = elsewhere.iter().map(|section| with_article(section)).collect();
        let places: Vec<String> = elsewhere.iter().map(|section| format!("`{section}s:`")).collect();
        let (what, places) = (articles.join(" or "), places.join(" or "));
        return problem.help(format!("`{kind}` is the type of {what}: it stands under {places}"));
    }
    if let Some((_, here)) =
        language::ELSEWHERE.iter().find(|(word, here)| word.eq_ignore_ascii_case(kind) && language.contains(here))
    {
        return problem.help(format!("here that is `{here}`"));
    }
    let problem = problem.did_you_mean(kind, built.iter().chain(language).copied());
    if problem.help.is_empty() { problem.help(kinds_help(section, built)) } else { problem }
}

fn with_article(noun: &str) -> String {
    format!("{} {noun}", if noun.starts_with(['a', 'e', 'i', 'o']) { "an" } else { "a" })
}

fn kinds_help(section: &str, built: &[&str]) -> String {
    match built {
        [] => format!("no type of {section} is built yet"),
        [only] => format!("the only type of {section} is `{only}`"),
        built => format!("the types of {section} are {}", list(built)),
    }
}

/// `a`, `b` and `c`.
fn list(names: &[&str]) -> String {
    let quoted: Vec<String> = names.iter().map(|name| format!("`{name}`")).collect();
    match quoted.split_last() {
        None => "none".to_owned(),
        Some((last, [])) => last.clone(),
        Some((last, others)) => format!("{} and {last}", others.join(", ")),
    }
}

/// Whether a diagnostic needs no columns to be true: it is about the file, not about what flows.
fn needs_no_types(diagnostic: &Diagnostic) -> bool {
    diagnostic.code.0.starts_with("E01")
}

/// Every column of every output, and its event time: what would be read if somebody read everything.
fn everything(outputs: &[Output]) -> Vec<Columns> {
    outputs.iter().map(|output| visible(&output.stream)).collect()
}

fn visible(stream: &StreamType) -> Columns {
    stream.schema.fields().iter().map(|field| field.name().clone()).collect()
}

/// The inputs whose event time a step reads when all its outputs are read.
fn timed<'s>(
    planned: &dyn Planned,
    outputs: &[Output],
    inputs: &'s [StreamType],
) -> impl IntoIterator<Item = &'s StreamType> {
    let reads = planned.reads(&everything(outputs));
    reads.into_iter().zip(inputs).filter(|(reads, _)| reads.contains(hidden::EVENT_TIME)).map(|(_, input)| input)
}
