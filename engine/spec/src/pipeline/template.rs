//! `templates:` and `type: template`: steps that are written once, as components of each instance.
//!
//! ```text
//! cards: { type: template, template: scoring, input: valid, with: { threshold: 0.8 } }
//!   valid ─▶ cards.history ─▶ cards.risky        `cards` stands for `cards.risky`, the template's output
//! ```
//!
//! Nothing is put together from text: the template's tree is taken anew for each instance, its spans lead into a view of
//! the file ([`SourceMap::view`]) so that problems say which instance they are of, and names stay as they are written. Which
//! step a name means is told by the plan, which knows the keys that hold names ([`Instance`]).

mod declared;

use std::collections::HashSet;
use std::sync::Arc;

use engine_base::codes::spec as codes;
use engine_base::{Diagnostic, Diagnostics, SourceMap, Span, diagnostic};
use indexmap::{IndexMap, IndexSet};
use schemars::JsonSchema;
use serde::Deserialize;

use declared::{Reader, Template, circles};

use super::frame::{AnyComponent, ComponentMap};
use super::include::Folders;
use super::parameters::{self, ParameterConfig};
use super::{Component, Parameter, chain, components};
use crate::decode::list;
use crate::node::{Entry, Node, Value};
use crate::substitute::Values;
use crate::types::{ColumnType, FieldSpec};
use crate::value::Input;

/// How deep templates may stand in one another.
const MAX_DEPTH: usize = 16;
/// The most steps, and values in them, that all instances together may have.
const MAX_STEPS: usize = 10_000;
const MAX_NODES: usize = 400_000;
/// What no step of a template can be named: `INSTANCE.errors` are the rows that fail in any of its steps.
const ERRORS: &str = "errors";

/// Steps that are written once and used in several places. An operator of `type: template` is an instance of it.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "Template")]
pub struct TemplateConfig {
    /// What it does.
    pub description: Option<String>,
    /// Values that an instance gives `with` it: `param.NAME` in the template's expressions, `${param:NAME}` in its other
    /// texts. A parameter of the pipeline is seen as well, unless one of these has its name.
    pub parameters: Option<IndexMap<String, ParameterConfig>>,
    /// Names for what an instance reads. The template's steps read these and each other, and nothing else.
    pub inputs: Vec<String>,
    /// The steps. In an instance they go by `INSTANCE.STEP`.
    #[schemars(with = "IndexMap<String, AnyComponent<2>>")]
    pub operators: ComponentMap,
    /// The step, or the output of a step, that the name of an instance stands for: the last step unless said.
    pub output: Option<String>,
}

/// The steps of a template, with inputs and values of its own. Its steps are read as `NAME.STEP`, what is the template's
/// `output` as `NAME`, and the rows that fail in any of its steps as `NAME.errors`.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "template")]
pub struct InstanceConfig {
    /// The name of the template.
    pub template: String,
    /// What it reads, if the template has one input.
    #[schemars(with = "Option<Input>")]
    pub input: Option<Node>,
    /// What it reads, by the template's names for it.
    #[schemars(with = "Option<IndexMap<String, Input>>")]
    pub inputs: Option<IndexMap<String, Node>>,
    /// The values of the template's parameters; those with a default may be left out.
    #[schemars(with = "Option<IndexMap<String, serde_json::Value>>")]
    pub with: Option<IndexMap<String, Node>>,
}

/// Operators with chains and templates taken apart.
#[derive(Clone, Debug, Default)]
pub struct Expanded {
    /// The operators.
    pub operators: IndexMap<String, Component>,
    /// The steps of each chain, in order; the last has the chain's name.
    pub chains: IndexMap<String, Vec<String>>,
    /// The instances of templates.
    pub instances: IndexMap<String, Instance>,
}

/// An instance of a template: what its names mean.
#[derive(Clone, Debug)]
pub struct Instance {
    /// The template.
    pub template: String,
    /// Where the instance is named.
    pub name_span: Span,
    /// The instance that it stands in.
    pub within: Option<String>,
    /// It is a step of a chain without a name of its own, or stands in such a one.
    pub unnamed: bool,
    /// What the template's steps may read besides each other.
    pub input_names: Vec<String>,
    /// By the template's name for it, what it reads, in the names of what it stands in. One that is missing, or that is a
    /// step of its own because only some of the rows are read, is not here.
    pub inputs: IndexMap<String, Given>,
    /// What its name stands for, in its own names.
    pub output: (String, Span),
    /// The full names of all its steps, those of instances in it as well.
    pub steps: Vec<String>,
    /// The template's parameters, with this instance's values.
    pub parameters: IndexMap<String, Parameter>,
    /// Parameters that are declared and wrong.
    pub wrong_parameters: Vec<String>,
}

/// What an instance reads for an input of its template.
#[derive(Clone, Debug)]
pub struct Given {
    /// The name.
    pub from: String,
    /// Where it is written.
    pub span: Span,
    /// Where the template names the input.
    pub declared: Span,
}

/// Replaces what comes from outside in templates, but for their steps: those see the parameters of their instance.
pub(super) fn replace_in(templates: &mut Node, values: &Values<'_>, diagnostics: &mut Diagnostics) {
    let Value::Map(templates) = &mut templates.value else { return };
    for template in templates {
        let Value::Map(keys) = &mut template.value.value else { continue };
        for key in keys.iter_mut().filter(|key| key.key != "operators") {
            values.replace_in(&mut key.value, diagnostics);
        }
    }
}

/// What templates are taken apart with.
pub(super) struct Expander<'a> {
    pub(super) values: &'a Values<'a>,
    pub(super) parameters: &'a IndexMap<String, Parameter>,
    pub(super) folders: &'a Arc<Folders>,
    pub(super) sources: &'a mut SourceMap,
    pub(super) broken: &'a mut IndexSet<String>,
    /// Nothing of the files was left out.
    pub(super) complete: bool,
    pub(super) diagnostics: &'a mut Diagnostics,
}

impl Expander<'_> {
    /// Takes chains and templates apart: the operators, and those that unused templates would have.
    pub(super) fn expand(self, root: &Node, operators: IndexMap<String, Component>) -> (Expanded, Expanded) {
        let mut templates = IndexMap::new();
        for entry in root.get("templates").map(Node::entries).unwrap_or_default() {
            components::check_name(entry, "a template", self.diagnostics);
            templates.insert(entry.key.clone(), Reader { diagnostics: self.diagnostics }.read(entry));
        }
        let circles = circles(&templates, self.diagnostics);
        circles.into_iter().for_each(|name| {
            templates.insert(name, None);
        });
        let mut work = Work {
            outer: self,
            templates: &templates,
            used: HashSet::new(),
            steps: 0,
            nodes: 0,
            told_size: false,
            out: Expanded::default(),
        };
        work.scope(operators, None, 0);
        let expanded = std::mem::take(&mut work.out);
        work.check_unused();
        (expanded, work.out)
    }
}

/// The way through one pipeline.
struct Work<'w, 'a> {
    outer: Expander<'a>,
    templates: &'w IndexMap<String, Option<Template>>,
    used: HashSet<String>,
    steps: usize,
    nodes: usize,
    told_size: bool,
    out: Expanded,
}

/// What an instance gives to its template.
struct Gifts {
    inputs: IndexMap<String, Given>,
    parameters: IndexMap<String, Parameter>,
}

impl Work<'_, '_> {
    /// Takes apart what stands in one file or template; `within` is the instance.
    fn scope(&mut self, operators: IndexMap<String, Component>, instance: Option<&Component>, depth: usize) {
        let within = instance.map(|instance| instance.name.as_str());
        let within_before = instance.and_then(|instance| instance.renamed_from.as_ref());
        let full = |name: &str| within.map_or_else(|| name.to_owned(), |within| format!("{within}.{name}"));
        let mut broken = IndexSet::new();
        let (operators, chains) = chain::expand(operators, &mut broken, self.outer.diagnostics);
        self.outer.broken.extend(broken.iter().map(|name| full(name)));
        for (chain, steps) in chains {
            self.out.chains.insert(full(&chain), steps.iter().map(|step| full(step)).collect());
        }
        for (name, mut component) in operators {
            component.renamed_from = match (component.renamed_from.take(), within_before) {
                (Some((old, span)), None) => Some((full(&old), span)),
                (Some((old, span)), Some((before, _))) => Some((format!("{before}.{old}"), span)),
                (None, Some((before, span))) => Some((format!("{before}.{name}"), *span)),
                (None, None) => None,
            };
            component.name = full(&name);
            component.instance = within.map(str::to_owned);
            if component.kind == "template" {
                let name = component.name.clone();
                if self.instance(component, depth).is_none() {
                    self.outer.broken.insert(name);
                }
            } else {
                self.out.operators.insert(component.name.clone(), component);
            }
        }
    }

    /// `None` where it can't be taken apart, which is reported.
    fn instance(&mut self, component: Component, depth: usize) -> Option<()> {
        let templates = self.templates;
        let config: Option<InstanceConfig> = component.node.decode(self.outer.diagnostics);
        let named = component.node.get("template")?;
        let name = named.as_str().filter(|_| !named.secret)?;
        // Used all the same, whatever is wrong with it.
        self.used.insert(name.to_owned());
        let config = config?;
        if named.substituted {
            let message = "the name of a template is written out";
            let problem = Diagnostic::error(codes::BAD_INSTANCE, named.span, message);
            self.outer.diagnostics.push(problem.help("give the templates' differences as parameters, `with: { ... }`"));
            return None;
        }
        let Some(template) = templates.get(name) else {
            if self.outer.complete {
                let problem =
                    Diagnostic::error(codes::UNKNOWN_TEMPLATE, named.span, format!("there is no template `{name}`"))
                        .did_you_mean(name, templates.keys().map(String::as_str));
                let names: Vec<&str> = templates.keys().map(String::as_str).collect();
                self.outer.diagnostics.push(match names.as_slice() {
                    [] => problem.help("write it below `templates:`, or include the file that has it"),
                    names if names.len() <= 8 => {
                        problem.help(format!("there are {}", list(names).replace(" or ", " and ")))
                    }
                    _ => problem,
                });
            }
            return None;
        };
        let template = template.as_ref()?;
        let inputs = self.inputs(&component, name, template, &config);
        let parameters = self.parameters(&component, name, template, config.with.as_ref());
        self.body(name, template, &component, Gifts { inputs, parameters }, true, depth)
    }

    /// What an instance reads. Where it reads some of the rows only, that is a step of its own.
    fn inputs(
        &mut self,
        component: &Component,
        name: &str,
        template: &Template,
        config: &InstanceConfig,
    ) -> IndexMap<String, Given> {
        let names: Vec<&str> = template.inputs.iter().map(|(input, _)| input.as_str()).collect();
        let mut given: Vec<(&str, &Node)> = Vec::new();
        let bad = |span: Span, message: String| Diagnostic::error(codes::BAD_INSTANCE, span, message);
        let mut problems = Vec::new();
        let map = format!(
            "`inputs: {{ {} }}`",
            names.iter().map(|name| format!("{name}: ...")).collect::<Vec<_>>().join(", ")
        );
        let mut missed = names.clone();
        match (&config.input, &config.inputs) {
            (Some(_), Some(_)) => {
                let span = component.node.entry("inputs").map_or(component.name_span, |entry| entry.key_span);
                problems.push(bad(span, "an instance has `input` or `inputs`, not both".to_owned()).help("remove one"));
                missed.clear();
            }
            (Some(input), None) => match names.as_slice() {
                [only] => given.push((only, input)),
                _ => {
                    let span = component.node.entry("input").map_or(component.name_span, |entry| entry.key_span);
                    let message = format!("the template `{name}` has several inputs");
                    problems.push(bad(span, message).help(format!("write {map}")));
                    missed.clear();
                }
            },
            (None, Some(inputs)) => {
                for (input, node) in inputs {
                    if names.contains(&input.as_str()) {
                        given.push((input, node));
                        continue;
                    }
                    let span = component.node.get("inputs").and_then(|inputs| inputs.entry(input));
                    let span = span.map_or(component.name_span, |entry| entry.key_span);
                    let problem = bad(span, format!("the template `{name}` has no input `{input}`"));
                    let problem = problem.did_you_mean(input, names.iter().copied());
                    let near = engine_base::suggest::nearest(input, names.iter().copied());
                    // The one that was meant is not missing.
                    missed.retain(|missed| near != Some(*missed));
                    problems.push(problem.help(format!("its inputs are {}", list(&names).replace(" or ", " and "))));
                }
            }
            (None, None) => {
                let help = match names.as_slice() {
                    [_] => "add `input: name`".to_owned(),
                    _ => format!("add {map}"),
                };
                problems.push(
                    bad(component.name_span, format!("the instance `{}` reads nothing", component.name)).help(help),
                );
                missed.clear();
            }
        }
        missed.retain(|missed| !given.iter().any(|(name, _)| name == missed));
        for missed in missed {
            let span = component.node.get("inputs").map_or(component.name_span, |node| node.head());
            let message = format!("the input `{missed}` of the template `{name}` is not given");
            problems.push(bad(span, message).help(format!("write {map}")));
        }
        problems.into_iter().for_each(|problem| self.outer.diagnostics.push(problem));
        let mut inputs = IndexMap::new();
        for (input, declared) in &template.inputs {
            let written = given.iter().find(|(name, _)| name == input).map(|(_, node)| *node);
            let read = written.and_then(|node| Some((node, read_input(node, self.outer.diagnostics)?)));
            let full = format!("{}.{input}", component.name);
            let Some((node, read)) = read else {
                self.outer.broken.insert(full);
                continue;
            };
            let from = node.get("from").unwrap_or(node);
            let Some(filter) = node.entry("where") else {
                inputs.insert(input.clone(), Given { from: read.from, span: from.span, declared: *declared });
                continue;
            };
            // Only some of the rows: a step of its own, which stands where the instance does.
            let entry =
                |key: &str, key_span, value: &Node| Entry { key: key.to_owned(), key_span, value: value.clone() };
            let keys = vec![entry("input", from.span, from), entry("where", filter.key_span, &filter.value)];
            let step = Component {
                name: full.clone(),
                name_span: from.span,
                kind: "filter".to_owned(),
                kind_span: filter.key_span,
                node: Node { value: Value::Map(keys), ..node.clone() },
                ..component.clone()
            };
            self.out.operators.insert(full, step);
        }
        inputs
    }

    /// The template's parameters, with the values of this instance.
    fn parameters(
        &mut self,
        component: &Component,
        name: &str,
        template: &Template,
        with: Option<&IndexMap<String, Node>>,
    ) -> IndexMap<String, Parameter> {
        let mut parameters = template.parameters.clone();
        let entries = component.node.get("with").map(Node::entries).unwrap_or_default();
        for entry in entries.iter().filter(|entry| !parameters.contains_key(&entry.key)) {
            if template.wrong_parameters.contains(&entry.key) {
                continue;
            }
            let message = format!("the template `{name}` has no parameter `{}`", entry.key);
            let known: Vec<&str> = template.parameters.keys().map(String::as_str).collect();
            let problem = Diagnostic::error(codes::UNKNOWN_PARAMETER, entry.key_span, message)
                .did_you_mean(&entry.key, known.iter().copied());
            self.outer.diagnostics.push(match known.is_empty() {
                true => problem.help("it has none"),
                false => problem.help(format!("it has {}", list(&known).replace(" or ", " and "))),
            });
        }
        for parameter in parameters.values_mut() {
            if let Some(value) = with.and_then(|with| with.get(&parameter.name)) {
                parameter.value = match expression(value) {
                    Some(outer) => {
                        let message = format!("`with` takes values, and `param.{outer}` is an expression");
                        let problem = Diagnostic::error(codes::BAD_PARAMETER, value.span, message);
                        self.outer.diagnostics.push(problem.help(format!("write `\"${{param:{outer}}}\"`")));
                        None
                    }
                    None => parameters::typed(value.clone(), &parameter.ty, &parameter.name, self.outer.diagnostics),
                };
            } else if parameter.value.is_none() {
                let span = component.node.entry("with").map_or(component.name_span, |entry| entry.key_span);
                let message = format!("the parameter `{}` of the template `{name}` has no value", parameter.name);
                self.outer.diagnostics.push(
                    Diagnostic::error(codes::PARAMETER_WITHOUT_VALUE, span, message)
                        .also(parameter.span, "declared here")
                        .help(format!("add `with: {{ {}: ... }}`, or give it a `default`", parameter.name)),
                );
            }
        }
        parameters
    }

    /// The steps of a template as those of `component`; `viewed` unless it stands for the template itself.
    fn body(
        &mut self,
        name: &str,
        template: &Template,
        component: &Component,
        gifts: Gifts,
        viewed: bool,
        depth: usize,
    ) -> Option<()> {
        self.steps += template.operators.entries().len();
        self.nodes += template.nodes;
        if depth >= MAX_DEPTH || self.steps > MAX_STEPS || self.nodes > MAX_NODES {
            if !std::mem::replace(&mut self.told_size, true) {
                let message = format!(
                    "the instances of templates are too many: at most {MAX_STEPS} steps, {MAX_DEPTH} templates deep"
                );
                let span = self.outer.sources.origin(component.name_span);
                let problem = Diagnostic::error(codes::BAD_TEMPLATE, span, message);
                self.outer.diagnostics.push(problem.help("let the rows of several go through one step"));
            }
            return None;
        }
        let file = template.name_span.file;
        let instance =
            diagnostic::Instance { name: component.name.clone(), template: name.to_owned(), span: component.name_span };
        let view = if viewed { self.outer.sources.view(file, instance) } else { file };
        let moved = |span: Span| if span.file == file { Span { file: view, ..span } } else { span };
        let mut operators = template.operators.clone();
        operators.move_to(file, view);
        let mut seen = self.outer.parameters.clone();
        seen.extend(gifts.parameters.iter().map(|(name, parameter)| (name.clone(), parameter.clone())));
        for name in &template.wrong_parameters {
            // Declared and wrong, which is told there.
            let ty = FieldSpec { ty: ColumnType::String, nullable: true };
            let parameter = Parameter { name: name.clone(), ty, value: None, span: template.name_span };
            seen.insert(name.clone(), parameter);
        }
        Values { parameters: Some(&seen), ..*self.outer.values }.replace_in(&mut operators, self.outer.diagnostics);
        let folders = Arc::new(self.outer.folders.with_view(file, view));
        let mut steps = IndexMap::new();
        for entry in operators.entries() {
            components::check_name(entry, "an operator", self.outer.diagnostics);
            match components::component(entry, "an operator", &folders, Vec::new(), self.outer.diagnostics) {
                Some(mut step) => {
                    step.unnamed = component.unnamed;
                    steps.insert(entry.key.clone(), step);
                }
                None => {
                    self.outer.broken.insert(format!("{}.{}", component.name, entry.key));
                }
            }
        }
        let mut inputs = gifts.inputs;
        inputs.values_mut().for_each(|given| given.declared = moved(given.declared));
        let instance = Instance {
            template: name.to_owned(),
            name_span: component.name_span,
            within: component.instance.clone(),
            unnamed: component.unnamed,
            input_names: template.inputs.iter().map(|(input, _)| input.clone()).collect(),
            inputs,
            output: (template.output.0.clone(), moved(template.output.1)),
            steps: Vec::new(),
            parameters: gifts.parameters,
            wrong_parameters: template.wrong_parameters.clone(),
        };
        self.out.instances.insert(component.name.clone(), instance);
        let before = self.out.operators.len();
        self.scope(steps, Some(component), depth + 1);
        let steps = self.out.operators.keys().skip(before).cloned().collect();
        if let Some(instance) = self.out.instances.get_mut(&component.name) {
            instance.steps = steps;
        }
        Some(())
    }

    /// Warns of templates that nothing uses, and takes each apart on its own so that it is checked all the same.
    fn check_unused(&mut self) {
        let templates = self.templates;
        let within: HashSet<&str> = templates
            .values()
            .flatten()
            .flat_map(|template| template.uses.iter().map(|(name, _)| name.as_str()))
            .collect();
        for (name, template) in templates {
            let Some(template) = template else { continue };
            if self.used.contains(name) || within.contains(name.as_str()) {
                continue;
            }
            // A file that several pipelines include has what one of them needs.
            if self.outer.complete && !self.outer.folders.is_included(template.name_span) {
                self.outer.diagnostics.push(
                    Diagnostic::warning(
                        codes::UNUSED_TEMPLATE,
                        template.name_span,
                        format!("nothing uses the template `{name}`"),
                    )
                    .help(format!("use it (`type: template`, `template: {name}`), or take it out")),
                );
            }
            let alone = Component {
                name: name.clone(),
                name_span: template.name_span,
                kind: "template".to_owned(),
                kind_span: template.name_span,
                node: Node::new(template.name_span, Value::Map(Vec::new())),
                base_dir: self.outer.folders.of(template.name_span).to_path_buf(),
                folders: self.outer.folders.clone(),
                instance: None,
                unnamed: false,
                renamed_from: None,
                kept: Vec::new(),
            };
            // What it reads is not known.
            let unknown = template.inputs.iter().map(|(input, _)| format!("{name}.{input}"));
            let broken: IndexSet<String> = unknown.collect();
            let gifts = Gifts { inputs: IndexMap::new(), parameters: template.parameters.clone() };
            self.outer.broken.extend(broken);
            self.body(name, template, &alone, gifts, false, 0);
        }
    }
}

fn read_input(node: &Node, diagnostics: &mut Diagnostics) -> Option<Input> {
    // Read below a key, which problems name.
    let key = Entry { key: "input".to_owned(), key_span: node.head(), value: node.clone() };
    let owner = Node::new(node.span, Value::Map(vec![key]));
    owner.decode::<IndexMap<String, Input>>(diagnostics)?.into_values().next()
}

/// The parameter, where a value is written as an expression would name it.
fn expression(value: &Node) -> Option<&str> {
    value
        .as_str()
        .filter(|_| !value.substituted)?
        .trim()
        .strip_prefix("param.")
        .filter(|name| components::is_name(name))
}

#[cfg(test)]
mod tests;
