//! What a name means: a source, a step, an output of one; in a template, the template's own names.
//!
//! ```text
//! operators of the file:   valid, cards.errors, cards ─▶ cards.risky, cards.history
//! steps of `cards`:        history ─▶ cards.history, transactions ─▶ what `cards` reads ─▶ valid
//! ```

use crate::plan::ERRORS;
use engine_base::Span;
use engine_spec::Instance;
use indexmap::{IndexMap, IndexSet};
use std::cell::RefCell;
use std::collections::{HashMap, HashSet};

/// The names of some parts.
pub(super) struct Names<'a> {
    index: HashMap<String, usize>,
    is_sink: Vec<bool>,
    instances: &'a IndexMap<String, Instance>,
    broken: &'a IndexSet<String>,
    /// Inputs of instances that something reads: the instance and the input.
    used: RefCell<HashSet<(&'a str, &'a str)>>,
}

/// What a name means.
pub(super) enum Named {
    /// An output of a part.
    Output {
        owner: usize,
        /// Its full name: that of the part, and after a dot `rest`.
        from: String,
        rest: String,
        /// The instance by whose name it was found, and what was said after a dot.
        via: Option<(String, String)>,
        /// Where an instance says what it reads, if it was found as an input of the instance.
        given: Option<Span>,
    },
    /// The rows that fail in any step of an instance.
    Errors { instance: String, owners: Vec<usize> },
    /// The rows of a sink, of which there are none.
    Sink(usize),
    /// Not to be told, because of a problem that is told elsewhere.
    Broken,
    /// Nothing.
    Unknown,
}

impl<'a> Names<'a> {
    /// The names of parts: each with whether it is a sink.
    pub(super) fn new<'n>(
        parts: impl IntoIterator<Item = (&'n str, bool)>,
        instances: &'a IndexMap<String, Instance>,
        broken: &'a IndexSet<String>,
    ) -> Names<'a> {
        let mut index = HashMap::new();
        let mut is_sink = Vec::new();
        for (at, (name, sink)) in parts.into_iter().enumerate() {
            index.insert(name.to_owned(), at);
            is_sink.push(sink);
        }
        Names { index, is_sink, instances, broken, used: RefCell::default() }
    }

    /// What `from` means to the steps of an instance, or to what stands in no template.
    pub(super) fn find(&self, within: Option<&str>, from: &str) -> Named {
        for (name, rest) in prefixes(from) {
            let name = full(within, name);
            if let Some(owner) = self.index.get(&name) {
                if self.is_sink[*owner] && rest.is_empty() {
                    return Named::Sink(*owner);
                }
                let (from, rest) = (join(&name, rest), rest.to_owned());
                return Named::Output { owner: *owner, from, rest, via: None, given: None };
            }
            if let Some(instance) = self.instances.get(&name) {
                return self.of_instance(&name, instance, rest);
            }
        }
        if let Some((name, instance)) = within.and_then(|name| self.instances.get_key_value(name)) {
            let (input, rest) = from.split_once('.').unwrap_or((from, ""));
            if let Some((input, given)) = instance.inputs.get_key_value(input) {
                self.used.borrow_mut().insert((name, input));
                let outside = instance.within.as_deref();
                return match self.find(outside, &given.from) {
                    // Told where the instance names it.
                    Named::Broken | Named::Unknown | Named::Sink(_) => Named::Broken,
                    _ if !rest.is_empty() => self.find(outside, &join(&given.from, rest)),
                    Named::Output { owner, from, rest, via, .. } => {
                        Named::Output { owner, from, rest, via, given: Some(given.span) }
                    }
                    found @ Named::Errors { .. } => found,
                };
            }
        }
        let broken = prefixes(from).any(|(name, _)| self.broken.contains(&full(within, name)));
        if broken { Named::Broken } else { Named::Unknown }
    }

    fn of_instance(&self, name: &str, instance: &Instance, rest: &str) -> Named {
        if rest == ERRORS {
            let owners: Vec<usize> = instance.steps.iter().filter_map(|step| self.index.get(step).copied()).collect();
            return match owners.is_empty() {
                true => Named::Broken,
                false => Named::Errors { instance: name.to_owned(), owners },
            };
        }
        let via = Some((name.to_owned(), rest.to_owned()));
        match self.find(Some(name), &join(&instance.output.0, rest)) {
            Named::Output { owner, from, rest, .. } => Named::Output { owner, from, rest, via, given: None },
            // Told where the template names its output.
            Named::Unknown | Named::Sink(_) => Named::Broken,
            found => found,
        }
    }

    /// What the name of an instance stands for.
    pub(super) fn output_of(&self, name: &str) -> Named {
        match self.instances.get(name) {
            Some(instance) => self.find(Some(name), &instance.output.0),
            None => Named::Unknown,
        }
    }

    /// The names that the steps of an instance may read: its own steps, and its inputs.
    pub(super) fn local(&self, within: &str) -> Vec<&str> {
        let inputs = self.instances.get(within).map(|instance| instance.input_names.as_slice()).unwrap_or_default();
        let mut local = local_steps(self.index.keys().chain(self.instances.keys()).map(String::as_str), within);
        // An input of which only some rows are read is a step as well.
        local.retain(|step| !inputs.iter().any(|input| input == step));
        inputs.iter().map(String::as_str).chain(local).collect()
    }

    /// The inputs of instances that no step reads: the instance's template, the input, and where the template names it.
    pub(super) fn unused_inputs(&self) -> Vec<(&'a str, &'a str, Span)> {
        let used = self.used.borrow();
        let inputs = self.instances.iter().flat_map(|(name, instance)| {
            instance.inputs.iter().map(move |(input, given)| (name.as_str(), instance, input.as_str(), given))
        });
        inputs
            .filter(|(name, _, input, _)| !used.contains(&(*name, *input)))
            .map(|(_, instance, input, given)| (instance.template.as_str(), input, given.declared))
            .collect()
    }
}

/// The names of the steps right in an instance, sorted.
pub(super) fn local_steps<'n>(names: impl Iterator<Item = &'n str>, within: &str) -> Vec<&'n str> {
    let mut steps: Vec<&str> = names
        .filter_map(|name| name.strip_prefix(within)?.strip_prefix('.'))
        .filter(|name| !name.contains('.'))
        .collect();
    steps.sort_unstable();
    steps
}

fn full(within: Option<&str>, name: &str) -> String {
    within.map_or_else(|| name.to_owned(), |within| format!("{within}.{name}"))
}

fn join(name: &str, rest: &str) -> String {
    if rest.is_empty() { name.to_owned() } else { format!("{name}.{rest}") }
}

/// A name as (component, rest), the longest component first: `a.b.c` as (`a.b.c`, ``), (`a.b`, `c`), (`a`, `b.c`).
pub(super) fn prefixes(name: &str) -> impl Iterator<Item = (&str, &str)> {
    let dots = name.rmatch_indices('.').map(|(at, _)| (&name[..at], &name[at + 1..]));
    std::iter::once((name, "")).chain(dots)
}
