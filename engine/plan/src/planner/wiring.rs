//! Who reads whom: names to components, circles, and an order in which each component stands after those it reads.

use super::keys::{self, KeyNames};
use super::names::{Named, Names, local_steps};
use super::{list, unknown_kind};
use crate::common::{ManyInputs, OneInput};
use crate::kinds::{InputKeys, OperatorKind, Registries, SinkKind, SourceKind};
use crate::language;
use crate::plan::ERRORS;
use engine_base::codes::{plan as codes, spec as spec_codes};
use engine_base::{Diagnostic, Diagnostics, Span};
use engine_spec::{Component, Expression, Input, Instance, Node, Pipeline};
use indexmap::{IndexMap, IndexSet};
use std::borrow::Cow;
use std::collections::{HashMap, HashSet};

/// Every component of a pipeline with what it reads.
pub(super) struct Wiring<'a> {
    pub(super) parts: Vec<Part<'a>>,
    instances: &'a IndexMap<String, Instance>,
    /// The parts that the names of instances stand for, with the instance.
    outputs: HashMap<usize, &'a str>,
}

/// A source, operator or sink.
pub(super) struct Part<'a> {
    /// With only the keys that its kind takes.
    pub(super) component: Cow<'a, Component>,
    pub(super) kind: PartKind,
    pub(super) inputs: Vec<Reference>,
    /// Its input stands under another key, which was reported, and may have that key's form.
    input_meant: bool,
    /// The parts that it reads.
    needs: Vec<usize>,
    /// Its inputs can't be told, so it can't be planned. The reason is noted.
    pub(super) broken: bool,
}

/// The kind of a component, or the section it stands in where its type is unknown.
#[derive(Clone, Copy)]
pub(super) enum PartKind {
    Source(&'static SourceKind),
    Operator(&'static OperatorKind),
    Sink(&'static SinkKind),
    Unknown { sink: bool },
}

impl PartKind {
    /// The keys that the planner reads.
    pub(super) fn shared_keys(self) -> Vec<&'static str> {
        let (keys, more): (&[&str], &[&str]) = match self {
            PartKind::Source(kind) => {
                (if kind.decodes { &["schema", "format", "metadata"] } else { &[] }, &["set", "event_time"])
            }
            PartKind::Operator(kind) => return kind.inputs.keys(),
            PartKind::Sink(kind) => {
                (&["input", "where", "columns", "delivery"], if kind.encodes { &["format", "timestamps"] } else { &[] })
            }
            PartKind::Unknown { .. } => (&[], &[]),
        };
        keys.iter().chain(more).copied().collect()
    }

    /// The keys under which its inputs stand.
    fn input_keys(self) -> Vec<&'static str> {
        match self {
            PartKind::Source(_) => Vec::new(),
            PartKind::Operator(kind) => kind.inputs.keys(),
            PartKind::Sink(_) => vec!["input"],
            PartKind::Unknown { .. } => vec!["input", "inputs"],
        }
    }
}

/// A name that a component reads.
pub(super) struct Reference {
    pub(super) from: String,
    pub(super) filter: Option<Expression>,
    /// Where the name stands.
    pub(super) span: Span,
    /// The path of the input in the component.
    pub(super) path: Vec<String>,
    /// The component that is read: an index into the parts.
    pub(super) owner: Option<usize>,
    /// The components whose errors are read, where they are those of all steps of an instance.
    others: Vec<usize>,
    /// What follows the component's name: empty, `errors`, `set.errors`.
    pub(super) rest: String,
    /// The instance of a template by whose name it was found, and what was written after a dot.
    pub(super) via: Option<(String, String)>,
}

impl Reference {
    fn owners(&self) -> Vec<usize> {
        if self.others.is_empty() { self.owner.into_iter().collect() } else { self.others.clone() }
    }
}

impl<'a> Wiring<'a> {
    /// Reads kinds and inputs, and resolves the names of components.
    pub(super) fn read(
        pipeline: &'a Pipeline,
        registries: &Registries,
        keys: &mut KeyNames,
        found: &mut Diagnostics,
    ) -> Wiring<'a> {
        let mut parts = Vec::new();
        for component in pipeline.sources.values() {
            let kind = registries.sources.iter().find(|kind| kind.name == component.kind).copied();
            let kind = kind.map_or_else(
                || {
                    let built: Vec<&str> = registries.sources.iter().map(|kind| kind.name).collect();
                    found.push(unknown_kind("source", component, &built, language::SOURCES, registries));
                    PartKind::Unknown { sink: false }
                },
                PartKind::Source,
            );
            parts.push(Part::new(component, kind, keys, found));
        }
        parts.extend(pipeline.operators.values().map(|component| Part::operator(component, registries, keys, found)));
        for component in pipeline.sinks.values() {
            let kind = registries.sinks.iter().find(|kind| kind.name == component.kind).copied();
            let kind = kind.map_or_else(
                || {
                    let built: Vec<&str> = registries.sinks.iter().map(|kind| kind.name).collect();
                    found.push(unknown_kind("sink", component, &built, language::SINKS, registries));
                    PartKind::Unknown { sink: true }
                },
                PartKind::Sink,
            );
            let mut part = Part::new(component, kind, keys, found);
            part.read_inputs(found);
            parts.push(part);
        }
        let mut wiring = Wiring { parts, instances: &pipeline.instances, outputs: HashMap::new() };
        let names = wiring.names(&pipeline.broken);
        wiring.resolve(&names, found);
        names.unused_inputs().into_iter().for_each(|(template, input, span)| {
            let message = format!("no step of the template `{template}` reads its input `{input}`");
            let problem = Diagnostic::warning(spec_codes::UNUSED_TEMPLATE, span, message);
            found.push(problem.help("let a step read it, or take it out"));
        });
        wiring
    }

    /// What templates that nothing uses would have: checked, and never planned with the others.
    pub(super) fn unused(
        pipeline: &'a Pipeline,
        registries: &Registries,
        keys: &mut KeyNames,
        found: &mut Diagnostics,
    ) -> Wiring<'a> {
        let operators = pipeline.unused.operators.values();
        let parts = operators.map(|component| Part::operator(component, registries, keys, found)).collect();
        let mut wiring = Wiring { parts, instances: &pipeline.unused.instances, outputs: HashMap::new() };
        let names = wiring.names(&pipeline.broken);
        wiring.resolve(&names, found);
        wiring
    }

    fn names(&self, broken: &'a IndexSet<String>) -> Names<'a> {
        let parts = self.parts.iter().map(|part| (part.component.name.as_str(), part.is_sink()));
        Names::new(parts, self.instances, broken)
    }

    fn resolve(&mut self, names: &Names<'a>, found: &mut Diagnostics) {
        for (name, instance) in self.instances {
            let within = instance.within.as_deref();
            for given in instance.inputs.values() {
                match names.find(within, &given.from) {
                    Named::Unknown => found.push(self.unknown_input(names, within, &given.from, given.span)),
                    Named::Sink(owner) => found.push(self.sink_as_input(given.span, owner)),
                    _ => {}
                }
            }
            let (output, span) = &instance.output;
            if let Named::Unknown = names.find(Some(name), output) {
                found.push(self.unknown_output(name, output, *span));
            }
        }
        let mut resolved = Vec::new();
        for part in &self.parts {
            let within = part.component.instance.as_deref();
            for reference in &part.inputs {
                let named = names.find(within, &reference.from);
                match &named {
                    Named::Unknown => {
                        found.push(self.unknown_input(names, within, &reference.from, reference.span));
                    }
                    Named::Sink(owner) => found.push(self.sink_as_input(reference.span, *owner)),
                    _ => {}
                }
                resolved.push(named);
            }
        }
        let mut resolved = resolved.into_iter();
        for part in &mut self.parts {
            for (reference, named) in part.inputs.iter_mut().zip(resolved.by_ref()) {
                match named {
                    Named::Output { owner, from, rest, via, given } => {
                        reference.owner = Some(owner);
                        (reference.from, reference.rest, reference.via) = (from, rest, via);
                        reference.span = given.unwrap_or(reference.span);
                    }
                    Named::Errors { instance, owners } => {
                        reference.owner = owners.first().copied();
                        reference.others = owners;
                        (reference.from, reference.rest) = (format!("{instance}.{ERRORS}"), ERRORS.to_owned());
                    }
                    Named::Sink(_) | Named::Broken | Named::Unknown => part.broken = true,
                }
            }
        }
        for part in &mut self.parts {
            let owners = part.inputs.iter().flat_map(Reference::owners);
            part.needs = owners.collect();
        }
        // The outermost first: what is read by its name.
        for name in self.instances.keys() {
            if let Named::Output { owner, .. } = names.output_of(name) {
                self.outputs.entry(owner).or_insert(name);
            }
        }
    }

    fn sink_as_input(&self, span: Span, owner: usize) -> Diagnostic {
        let sink = &self.parts[owner];
        let name = &sink.component.name;
        let problem =
            Diagnostic::error(codes::SINK_AS_INPUT, span, format!("`{name}` is a sink: no rows come out of it"));
        let problem = match sink.inputs.first() {
            Some(before) => problem.help(format!("read what it reads: `{}`", before.from)),
            None => problem,
        };
        problem.help(format!("rows that it can't deliver are read as `{name}.{ERRORS}`"))
    }

    /// What an instance's steps may not read, or what stands for nothing.
    fn unknown_input(&self, names: &Names<'_>, within: Option<&str>, from: &str, span: Span) -> Diagnostic {
        let parts = self.parts.iter().filter(|part| !part.is_sink()).map(|part| part.component.name.as_str());
        let instance = within.and_then(|name| Some((name, self.instances.get(name)?)));
        let (readable, message): (Vec<&str>, String) = match instance {
            None => {
                let readable = parts.chain(self.instances.keys().map(String::as_str));
                (readable.collect(), format!("there is no source or operator named `{from}`"))
            }
            Some((name, instance)) => {
                let template = &instance.template;
                (names.local(name), format!("the template `{template}` has no step and no input named `{from}`"))
            }
        };
        let problem =
            Diagnostic::error(codes::UNKNOWN_INPUT, span, message).did_you_mean(from, readable.iter().copied());
        if !problem.help.is_empty() {
            return problem;
        }
        if instance.is_some() && !matches!(names.find(None, from), Named::Unknown) {
            return problem.help(format!(
                "its steps read each other and its inputs only: add `{}` to its `inputs`",
                from.split('.').next().unwrap_or_default()
            ));
        }
        // `valdi.errors`: the part before the dot may be the slip.
        if let Some((name, port)) = from.rsplit_once('.')
            && let Some(near) = engine_base::suggest::nearest(name, readable.iter().copied())
        {
            return problem.help(format!("did you mean `{near}.{port}`?"));
        }
        match readable.len() {
            0 => problem.help("the pipeline has no sources and operators to read"),
            1..=8 => problem.help(format!("there are {}", list(&readable))),
            _ => problem,
        }
    }

    /// A template's output that is none of its steps.
    fn unknown_output(&self, name: &str, output: &str, span: Span) -> Diagnostic {
        let template = self.instances.get(name).map_or("", |instance| instance.template.as_str());
        let parts = self.parts.iter().map(|part| part.component.name.as_str());
        let steps = local_steps(parts.chain(self.instances.keys().map(String::as_str)), name);
        let message = format!("the template `{template}` has no step named `{output}`");
        let problem =
            Diagnostic::error(codes::UNKNOWN_INPUT, span, message).did_you_mean(output, steps.iter().copied());
        match steps.len() {
            1..=8 if problem.help.is_empty() => problem.help(format!("its steps are {}", list(&steps))),
            _ => problem,
        }
    }

    /// The parts, each after those it reads, in the order of the file where that is open. A part in a circle is reported
    /// and marked as broken.
    pub(super) fn order(&mut self, found: &mut Diagnostics) -> Vec<usize> {
        #[derive(Clone, Copy, PartialEq)]
        enum Mark {
            New,
            Open,
            Done,
        }
        let mut marks = vec![Mark::New; self.parts.len()];
        let mut order = Vec::with_capacity(self.parts.len());
        let mut broken = Vec::new();
        for start in 0..self.parts.len() {
            if marks[start] != Mark::New {
                continue;
            }
            // A stack of our own: a chain of a hundred thousand steps must not overflow the thread's.
            let mut stack = vec![(start, 0)];
            marks[start] = Mark::Open;
            while let Some((at, next)) = stack.last_mut() {
                let at = *at;
                let Some(owner) = self.parts[at].needs.get(*next).copied() else {
                    marks[at] = Mark::Done;
                    order.push(at);
                    stack.pop();
                    continue;
                };
                *next += 1;
                match marks[owner] {
                    Mark::Done => {}
                    Mark::New => {
                        marks[owner] = Mark::Open;
                        stack.push((owner, 0));
                    }
                    Mark::Open => {
                        let from = stack.iter().position(|(part, _)| *part == owner).unwrap_or(0);
                        let circle: Vec<usize> = stack[from..].iter().map(|(part, _)| *part).collect();
                        found.push(self.circle(&circle));
                        broken.extend(circle);
                    }
                }
            }
        }
        for at in broken {
            self.parts[at].broken = true;
        }
        order
    }

    /// `circle` holds parts each of which reads the next, and the last the first.
    fn circle(&self, circle: &[usize]) -> Diagnostic {
        const SHOWN_MAX: usize = 8;
        let reads = |at: usize| {
            let (part, owner) = (&self.parts[circle[at]], circle[(at + 1) % circle.len()]);
            part.inputs.iter().find(|reference| reference.owners().contains(&owner))
        };
        let span = |at: usize| reads(at).map_or(self.parts[circle[at]].component.name_span, |reads| reads.span);
        let name = |at: usize| self.parts[circle[at % circle.len()]].component.name.as_str();
        // Rows flow against the direction of reading.
        let mut way: Vec<&str> = (0..=circle.len()).rev().map(name).collect();
        if way.len() > SHOWN_MAX {
            way.splice(SHOWN_MAX / 2..way.len() - SHOWN_MAX / 2, ["..."]);
        }
        if circle.len() == 1 {
            return Diagnostic::error(codes::CYCLE, span(0), format!("`{}` reads itself", name(0)))
                .help("let it read the step whose rows it should work on");
        }
        let mut problem = Diagnostic::error(
            codes::CYCLE,
            span(0),
            format!("steps read each other in a circle: {}", way.join(" -> ")),
        )
        .at_caret(format!("`{}` reads `{}`", name(0), name(1)));
        for at in 1..circle.len().min(SHOWN_MAX) {
            problem = problem.also(span(at), format!("`{}` reads `{}`", name(at), name(at + 1)));
        }
        problem.help("rows flow from sources to sinks: one of these must read something else")
    }

    /// Warns of sources and operators whose rows go nowhere. Where an input is wrong, that may be just what it meant.
    pub(super) fn check_unused(&self, pipeline: &Pipeline, found: &mut Diagnostics) {
        if self.parts.iter().any(|part| part.broken) {
            return;
        }
        let mut rows_read = vec![false; self.parts.len()];
        let mut errors_read = vec![false; self.parts.len()];
        for reference in self.parts.iter().flat_map(|part| &part.inputs) {
            let errors = reference.rest == ERRORS || reference.rest.ends_with(".errors");
            let read = if errors { &mut errors_read } else { &mut rows_read };
            reference.owners().into_iter().for_each(|owner| read[owner] = true);
        }
        // Some instances of a template may leave unread what others read.
        let of_template = |part: &Part<'a>| {
            let instance = pipeline.instances.get(part.component.instance.as_ref()?)?;
            Some((instance.template.clone(), part.component.local_name().to_owned()))
        };
        let read_somewhere: HashSet<(String, String)> = self
            .parts
            .iter()
            .zip(&rows_read)
            .filter(|(_, read)| **read)
            .filter_map(|(part, _)| of_template(part))
            .collect();
        for (at, part) in self.parts.iter().enumerate() {
            if part.is_sink() || rows_read[at] {
                continue;
            }
            let stands_for = self.outputs.get(&at).and_then(|name| Some((*name, self.instances.get(*name)?.name_span)));
            if stands_for.is_none() && of_template(part).is_some_and(|step| read_somewhere.contains(&step)) {
                continue;
            }
            let (name, span) = stands_for.unwrap_or((&part.component.name, part.component.name_span));
            let message = match errors_read[at] {
                true => format!("nothing reads the rows of `{name}`, only its errors"),
                false => format!("nothing reads `{name}`"),
            };
            found.push(
                Diagnostic::warning(codes::UNUSED_STEP, span, message)
                    .help(format!("let a sink read it (`input: {name}`), or take it out")),
            );
        }
    }
}

impl<'a> Part<'a> {
    fn new(component: &'a Component, kind: PartKind, keys: &mut KeyNames, found: &mut Diagnostics) -> Part<'a> {
        let own = match kind {
            PartKind::Source(kind) => keys.own(kind.name, "source", kind.config_schema),
            PartKind::Operator(kind) => keys.own(kind.name, "operator", kind.config_schema),
            PartKind::Sink(kind) => keys.own(kind.name, "sink", kind.config_schema),
            PartKind::Unknown { .. } => None,
        };
        let known = keys::known(component, &kind.shared_keys(), &kind.input_keys(), own.as_deref(), found);
        // What stands under a key of inputs that was not written.
        let meant = |key: &&str| known.node.get(key).is_some() && component.node.get(key).is_none();
        let input_meant = kind.input_keys().iter().any(meant);
        Part { component: known, kind, inputs: Vec::new(), input_meant, needs: Vec::new(), broken: false }
    }

    fn operator(
        component: &'a Component,
        registries: &Registries,
        keys: &mut KeyNames,
        found: &mut Diagnostics,
    ) -> Part<'a> {
        let kind = registries.operators.iter().find(|kind| kind.name == component.kind).copied();
        let kind = kind.map_or_else(
            || {
                let built: Vec<&str> = registries.operators.iter().map(|kind| kind.name).collect();
                found.push(unknown_kind("operator", component, &built, language::OPERATORS, registries));
                PartKind::Unknown { sink: false }
            },
            PartKind::Operator,
        );
        let mut part = Part::new(component, kind, keys, found);
        part.read_inputs(found);
        part
    }

    fn read_inputs(&mut self, found: &mut Diagnostics) {
        let mut problems = Diagnostics::new();
        let node = &self.component.node;
        // The keys of an unknown kind are read as far as they go, so that what it reads does not look unused.
        let (keys, quiet) = match self.kind {
            PartKind::Operator(kind) => (kind.inputs, false),
            PartKind::Unknown { .. } if node.get("inputs").is_some() => (InputKeys::Many, true),
            PartKind::Unknown { .. } => (InputKeys::One, true),
            _ => (InputKeys::One, false),
        };
        match keys {
            InputKeys::Many => match node.only(&["inputs"]).decode::<ManyInputs>(&mut problems) {
                Some(keys) => self.push_all(keys.inputs, &mut problems),
                None => self.broken = true,
            },
            InputKeys::One => match node.only(&["input"]).decode::<OneInput>(&mut problems) {
                Some(keys) => self.push(keys.input, vec!["input".into()]),
                None => self.broken = true,
            },
            InputKeys::Named(keys) => {
                for (key, _) in keys {
                    match named_input(&self.component.node, key, &mut problems) {
                        Some(input) => self.push(input, vec![(*key).to_owned()]),
                        None => self.broken = true,
                    }
                }
            }
        }
        self.broken |= problems.has_errors();
        let told = self.broken && self.input_meant;
        if !quiet && !told {
            found.extend(problems);
        }
    }

    fn push_all(&mut self, inputs: Vec<Input>, found: &mut Diagnostics) {
        if inputs.len() < 2 {
            found.push(
                Diagnostic::error(
                    codes::TOO_FEW_INPUTS,
                    self.component.node.span_at(&["inputs"]),
                    format!("`{}` brings rows of two or more inputs together", self.component.name),
                )
                .help("add another input, or leave the step out"),
            );
        }
        for (at, input) in inputs.into_iter().enumerate() {
            self.push(input, vec!["inputs".into(), at.to_string()]);
        }
    }

    fn push(&mut self, input: Input, path: Vec<String>) {
        let mut keys: Vec<&str> = path.iter().map(String::as_str).collect();
        let node = &self.component.node;
        let span = match node.at(&keys) {
            Some(input) if input.get("from").is_some() => {
                keys.push("from");
                node.span_at(&keys)
            }
            _ => node.span_at(&keys),
        };
        self.inputs.push(Reference {
            from: input.from,
            filter: input.filter,
            span,
            path,
            owner: None,
            others: Vec::new(),
            rest: String::new(),
            via: None,
        });
    }

    pub(super) fn is_sink(&self) -> bool {
        matches!(self.kind, PartKind::Sink(_) | PartKind::Unknown { sink: true })
    }
}

/// The input under a key of its own, or a problem.
fn named_input(node: &Node, key: &str, found: &mut Diagnostics) -> Option<Input> {
    if node.get(key).is_none() {
        found.push(
            Diagnostic::error(spec_codes::MISSING_KEY, node.head(), format!("the key `{key}` is missing"))
                .help(format!("add `{key}:`")),
        );
        return None;
    }
    // Read below its key, which problems name.
    let below: IndexMap<String, Input> = node.only(&[key]).decode(found)?;
    below.into_values().next()
}
