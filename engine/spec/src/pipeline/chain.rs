//! `type: chain`: unnamed steps one after the other, as components of their own.
//!
//! ```text
//! clean: { type: chain, input: a, steps: [s1, s2, { name: mid, .. }, s4] }
//!   a ─▶ clean.1 ─▶ clean.2 ─▶ mid ─▶ clean
//! ```
//!
//! The last step goes by the chain's name, so that whoever reads the chain reads it. Whether a step without a name may
//! keep state is left to the plan ([`Component::unnamed`]).

use engine_base::codes::spec as codes;
use engine_base::{Diagnostic, Diagnostics, Span};
use indexmap::{IndexMap, IndexSet};
use schemars::JsonSchema;
use serde::Deserialize;

use super::Component;
use super::components;
use crate::node::{Entry, Node, Value};

/// Steps one after the other, without naming each: the first reads the chain's input, each other the step before it, and
/// whoever reads the chain reads the last.
///
/// `NAME.errors` has the rows that failed in any of the steps; its column `step` says in which: the last is `NAME`, the
/// others are `NAME.1`, `NAME.2` and so on, or as their `name` says. The payload is the row as it came to that step, as JSON
/// text, so that steps with different columns agree. The errors of one step are read as `NAME.1.errors`.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "chain")]
pub struct ChainConfig {
    /// What the first step reads.
    #[schemars(with = "Option<crate::Input>")]
    pub input: Option<Node>,
    /// What the first step reads, if it takes several inputs.
    #[schemars(with = "Option<Vec<crate::Input>>")]
    pub inputs: Option<Node>,
    /// The steps: operators without `input`. One that keeps state needs a `name`.
    #[schemars(with = "Vec<super::AnyComponent<2>>")]
    pub steps: Vec<Node>,
}

/// The operators with each chain replaced by its steps, and the names of each chain's steps.
pub(super) fn expand(
    operators: IndexMap<String, Component>,
    broken: &mut IndexSet<String>,
    diagnostics: &mut Diagnostics,
) -> (IndexMap<String, Component>, IndexMap<String, Vec<String>>) {
    let mut chains = IndexMap::new();
    let mut expanded: IndexMap<String, Component> = IndexMap::with_capacity(operators.len());
    let mut taken: Vec<(Component, Span)> = Vec::new();
    for (name, component) in operators {
        if component.kind != "chain" {
            expanded.insert(name, component);
            continue;
        }
        match steps(&component, diagnostics) {
            Some(steps) => {
                chains.insert(name, steps.iter().map(|step| step.name.clone()).collect());
                for step in steps {
                    match expanded.get(&step.name) {
                        Some(first) => taken.push((step, first.name_span)),
                        None => {
                            expanded.insert(step.name.clone(), step);
                        }
                    }
                }
            }
            None => {
                broken.insert(name);
            }
        }
    }
    for (step, first) in taken {
        diagnostics.push(
            Diagnostic::error(
                codes::NAME_TAKEN,
                step.name_span,
                format!("`{}` is the name of an operator already", step.name),
            )
            .also(first, "an operator of this name")
            .help("state, metrics and tests go by names: give this one another"),
        );
    }
    (expanded, chains)
}

fn steps(chain: &Component, diagnostics: &mut Diagnostics) -> Option<Vec<Component>> {
    let config: ChainConfig = chain.node.decode(diagnostics)?;
    let mut bad = |span: Span, message: String, help: &str| {
        diagnostics.push(Diagnostic::error(codes::BAD_CHAIN, span, message).help(help));
    };
    let inputs: Vec<&Entry> = ["input", "inputs"].iter().filter_map(|key| chain.node.entry(key)).collect();
    match inputs.as_slice() {
        [_] => {}
        [] => {
            bad(chain.name_span, format!("the chain `{}` reads nothing", chain.name), "add `input: name`");
            return None;
        }
        [_, second, ..] => {
            bad(second.key_span, "a chain has `input` or `inputs`, not both".to_owned(), "remove one");
            return None;
        }
    }
    if config.steps.is_empty() {
        bad(
            chain.node.span_at(&["steps"]),
            format!("the chain `{}` has no steps", chain.name),
            "add a step: `- type: filter`",
        );
        return None;
    }
    let mut result: Vec<Component> = Vec::with_capacity(config.steps.len());
    let mut ok = true;
    let last = config.steps.len() - 1;
    for (at, step) in config.steps.iter().enumerate() {
        let label = format!("{}.{}", chain.name, at + 1);
        let step_span = step.entries().first().map_or(step.span, |entry| entry.key_span);
        let Some((kind, kind_span)) = components::kind(step, &label, step_span, "a step", diagnostics) else {
            ok = false;
            continue;
        };
        let mut bad = |span: Span, message: String, help: &str| {
            diagnostics.push(Diagnostic::error(codes::BAD_CHAIN, span, message).help(help));
            ok = false;
        };
        if kind == "chain" {
            bad(kind_span, "a chain can't stand in a chain".to_owned(), "put its steps here");
        }
        for key in ["input", "inputs"] {
            if let Some(entry) = step.entry(key) {
                let help = "leave it out, or write the step outside of the chain";
                bad(entry.key_span, "a step of a chain reads the step before it".to_owned(), help);
            }
        }
        let named = step.entry("name");
        let (name, name_span, unnamed) = match named {
            Some(entry) if at == last => {
                bad(
                    entry.key_span,
                    format!("the last step of a chain goes by the chain's name, `{}`", chain.name),
                    "leave out `name`",
                );
                (chain.name.clone(), chain.name_span, false)
            }
            Some(entry) if crate::decode::refuse_secret(&entry.value, "name", diagnostics) => {
                ok = false;
                (label, step_span, true)
            }
            Some(entry) => match entry.value.as_str() {
                Some(name) if components::is_name(name) => (name.to_owned(), entry.value.span, false),
                Some(name) => {
                    diagnostics.push(components::bad_name(name, entry.value.span, "an operator"));
                    ok = false;
                    (label, step_span, true)
                }
                None => {
                    let what = crate::decode::found(&entry.value);
                    let message = format!("`name` takes a text, not {what}");
                    diagnostics
                        .push(Diagnostic::error(codes::WRONG_TYPE, entry.value.span, message).help("write a name"));
                    ok = false;
                    (label, step_span, true)
                }
            },
            None if at == last => (chain.name.clone(), chain.name_span, false),
            None => (label, step_span, true),
        };
        let input = match result.last() {
            None => inputs[0].clone(),
            Some(before) => Entry {
                key: "input".to_owned(),
                key_span: step_span,
                value: Node::new(before.name_span, Value::String(before.name.clone())),
            },
        };
        let mut node = step.without(&["type", "name", "input", "inputs", "renamed_from"]);
        node.written.head = Some(step_span);
        if let Value::Map(entries) = &mut node.value {
            entries.insert(0, input);
        }
        let of_chain = |(old, span): &(String, Span)| {
            let old = if at == last { old.clone() } else { format!("{old}.{}", at + 1) };
            (old, *span)
        };
        let renamed_from = components::renamed_from(step, diagnostics)
            .or_else(|| chain.renamed_from.as_ref().filter(|_| unnamed || at == last).map(of_chain));
        result.push(Component {
            name,
            name_span,
            kind,
            kind_span,
            node,
            base_dir: chain.base_dir.clone(),
            folders: chain.folders.clone(),
            instance: None,
            unnamed,
            renamed_from,
            kept: Vec::new(),
        });
    }
    ok.then_some(result)
}
