//! Who reads whom: names to components, circles, and an order in which each component stands after those it reads.

use super::keys::{self, KeyNames};
use super::{list, unknown_kind};
use crate::common::{ManyInputs, OneInput};
use crate::kinds::{InputKeys, OperatorKind, Registries, SinkKind, SourceKind};
use crate::language;
use crate::plan::ERRORS;
use engine_base::codes::{plan as codes, spec as spec_codes};
use engine_base::{Diagnostic, Diagnostics, Span};
use engine_spec::{Component, Expression, Input, Node, Pipeline};
use indexmap::{IndexMap, IndexSet};
use std::borrow::Cow;
use std::collections::HashMap;

/// Every component of a pipeline with what it reads.
pub(super) struct Wiring<'a> {
    pub(super) parts: Vec<Part<'a>>,
}

/// A source, operator or sink.
pub(super) struct Part<'a> {
    /// With only the keys that its kind takes.
    pub(super) component: Cow<'a, Component>,
    pub(super) kind: PartKind,
    pub(super) inputs: Vec<Reference>,
    /// Its input stands under another key, which was reported, and may have that key's form.
    input_meant: bool,
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
    /// What follows the component's name: empty, `errors`, `set.errors`.
    pub(super) rest: String,
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
        for component in pipeline.operators.values() {
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
            parts.push(part);
        }
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
        let mut wiring = Wiring { parts };
        wiring.resolve(&pipeline.broken, found);
        wiring
    }

    fn resolve(&mut self, broken: &IndexSet<String>, found: &mut Diagnostics) {
        let index: HashMap<&str, usize> =
            self.parts.iter().enumerate().map(|(at, part)| (part.component.name.as_str(), at)).collect();
        let is_sink: Vec<bool> = self.parts.iter().map(Part::is_sink).collect();
        let mut resolved = Vec::new();
        for part in &self.parts {
            for reference in &part.inputs {
                let known = prefixes(&reference.from).find_map(|(name, rest)| Some((*index.get(name)?, rest)));
                let sink_rows = known.is_some_and(|(owner, rest)| is_sink[owner] && rest.is_empty());
                if let Some((owner, _)) = known.filter(|_| sink_rows) {
                    found.push(self.sink_as_input(reference, owner));
                } else if known.is_none() && !prefixes(&reference.from).any(|(name, _)| broken.contains(name)) {
                    found.push(self.unknown_input(reference));
                }
                let owner = known.map(|(owner, _)| owner).filter(|_| !sink_rows);
                resolved.push((owner, known.map_or(String::new(), |(_, rest)| rest.to_owned())));
            }
        }
        let mut resolved = resolved.into_iter();
        for part in &mut self.parts {
            for (reference, (owner, rest)) in part.inputs.iter_mut().zip(resolved.by_ref()) {
                part.broken |= owner.is_none();
                reference.owner = owner;
                reference.rest = rest;
            }
        }
    }

    fn sink_as_input(&self, reference: &Reference, owner: usize) -> Diagnostic {
        let sink = &self.parts[owner];
        let name = &sink.component.name;
        let problem = Diagnostic::error(
            codes::SINK_AS_INPUT,
            reference.span,
            format!("`{name}` is a sink: no rows come out of it"),
        );
        let problem = match sink.inputs.first() {
            Some(before) => problem.help(format!("read what it reads: `{}`", before.from)),
            None => problem,
        };
        problem.help(format!("rows that it can't deliver are read as `{name}.{ERRORS}`"))
    }

    fn unknown_input(&self, reference: &Reference) -> Diagnostic {
        let from = &reference.from;
        let readable: Vec<&str> =
            self.parts.iter().filter(|part| !part.is_sink()).map(|part| part.component.name.as_str()).collect();
        let problem = Diagnostic::error(
            codes::UNKNOWN_INPUT,
            reference.span,
            format!("there is no source or operator named `{from}`"),
        )
        .did_you_mean(from, readable.iter().copied());
        if !problem.help.is_empty() {
            return problem;
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
                let Some(reference) = self.parts[at].inputs.get(*next) else {
                    marks[at] = Mark::Done;
                    order.push(at);
                    stack.pop();
                    continue;
                };
                *next += 1;
                let Some(owner) = reference.owner else { continue };
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
            part.inputs.iter().find(|reference| reference.owner == Some(owner))
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
    pub(super) fn check_unused(&self, found: &mut Diagnostics) {
        if self.parts.iter().any(|part| part.broken) {
            return;
        }
        let mut rows_read = vec![false; self.parts.len()];
        let mut errors_read = vec![false; self.parts.len()];
        for reference in self.parts.iter().flat_map(|part| &part.inputs) {
            if let Some(owner) = reference.owner {
                let errors = reference.rest == ERRORS || reference.rest.ends_with(".errors");
                if errors { errors_read[owner] = true } else { rows_read[owner] = true }
            }
        }
        for (at, part) in self.parts.iter().enumerate() {
            if part.is_sink() || rows_read[at] {
                continue;
            }
            let name = &part.component.name;
            let message = match errors_read[at] {
                true => format!("nothing reads the rows of `{name}`, only its errors"),
                false => format!("nothing reads `{name}`"),
            };
            found.push(
                Diagnostic::warning(codes::UNUSED_STEP, part.component.name_span, message)
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
        Part { component: known, kind, inputs: Vec::new(), input_meant, broken: false }
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
            rest: String::new(),
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

/// A name as (component, rest), the longest component first: `a.b.c` as (`a.b.c`, ``), (`a.b`, `c`), (`a`, `b.c`).
fn prefixes(name: &str) -> impl Iterator<Item = (&str, &str)> {
    let dots = name.rmatch_indices('.').map(|(at, _)| (&name[..at], &name[at + 1..]));
    std::iter::once((name, "")).chain(dots)
}
