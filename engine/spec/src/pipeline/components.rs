//! Connections, sources, operators and sinks: a name, a `type`, and the kind's own keys.

use std::collections::HashMap;
use std::sync::Arc;

use engine_base::codes::spec as codes;
use engine_base::{Diagnostic, Diagnostics, Span};
use indexmap::{IndexMap, IndexSet};

use super::include::Folders;
use super::{Component, Instance};
use crate::node::{Entry, Node, Value};

/// Keys that nearly all components have, for "did you mean `type`".
const KIND_SLIPS: &[&str] = &["kind", "typ", "types", "tpye", "Type"];

/// Reads the sections of one file.
pub(super) struct Reader<'n, 'd> {
    pub(super) root: &'n Node,
    pub(super) folders: &'n Arc<Folders>,
    /// By component: keys that stayed from the file when a profile changed `type`.
    pub(super) kept: &'n HashMap<String, Vec<String>>,
    pub(super) broken: IndexSet<String>,
    pub(super) diagnostics: &'d mut Diagnostics,
}

impl Reader<'_, '_> {
    /// The components of a section; `noun` is "a source".
    pub(super) fn section(&mut self, section: &str, noun: &str) -> IndexMap<String, Component> {
        let mut components = IndexMap::new();
        // A section that is no map was reported with the frame.
        for entry in self.root.get(section).map(Node::entries).unwrap_or_default() {
            check_name(entry, noun, self.diagnostics);
            let kept = self.kept.get(&format!("{section}.{}", entry.key)).cloned().unwrap_or_default();
            match component(entry, noun, self.folders, kept, self.diagnostics) {
                Some(component) => {
                    components.insert(entry.key.clone(), component);
                }
                None => {
                    self.broken.insert(entry.key.clone());
                }
            }
        }
        components
    }
}

/// A component from its entry.
pub(super) fn component(
    entry: &Entry,
    noun: &str,
    folders: &Arc<Folders>,
    kept: Vec<String>,
    diagnostics: &mut Diagnostics,
) -> Option<Component> {
    let (kind, kind_span) = kind(&entry.value, &entry.key, entry.key_span, noun, diagnostics)?;
    // What keeps nothing under its name has no such key.
    let keeps = matches!(noun, "a source" | "an operator");
    let renamed_from = if keeps { renamed_from(&entry.value, diagnostics) } else { None };
    let mut node = entry.value.without(if keeps { &["type", "renamed_from"] } else { &["type"] });
    node.written.head = Some(entry.key_span);
    Some(Component {
        name: entry.key.clone(),
        name_span: entry.key_span,
        kind,
        kind_span,
        node,
        base_dir: folders.of(entry.key_span).to_path_buf(),
        folders: folders.clone(),
        instance: None,
        unnamed: false,
        renamed_from,
        kept,
    })
}

/// The name that a component had before.
pub(super) fn renamed_from(node: &Node, diagnostics: &mut Diagnostics) -> Option<(String, Span)> {
    let old = node.get("renamed_from")?;
    if crate::decode::refuse_secret(old, "renamed_from", diagnostics) {
        return None;
    }
    match &old.value {
        Value::String(name) => Some((name.clone(), old.span)),
        _ => {
            let message = format!("`renamed_from` takes a text, not {}", crate::decode::found(old));
            diagnostics.push(Diagnostic::error(codes::WRONG_TYPE, old.span, message).help("write the old name"));
            None
        }
    }
}

/// The `type` of a component.
pub(super) fn kind(
    node: &Node,
    name: &str,
    name_span: Span,
    noun: &str,
    diagnostics: &mut Diagnostics,
) -> Option<(String, Span)> {
    let bare = noun.trim_start_matches("an ").trim_start_matches("a ");
    if !matches!(node.value, Value::Map(_)) {
        let message = format!("the {bare} `{name}` is a map of keys and values, not {}", crate::decode::found(node));
        let help = format!("write `{name}:` and below it, indented, `type: ...` and the keys of that type");
        diagnostics.push(Diagnostic::error(codes::WRONG_TYPE, node.span, message).help(help));
        return None;
    }
    match node.get("type") {
        Some(kind) if crate::decode::refuse_secret(kind, "type", diagnostics) => None,
        Some(kind) if kind.as_str().is_some_and(|text| !text.trim().is_empty()) => {
            Some((kind.as_str().unwrap_or_default().to_owned(), kind.span))
        }
        Some(kind) => {
            let message = format!("`type` takes the name of a kind, not {}", crate::decode::found(kind));
            diagnostics.push(
                Diagnostic::error(codes::WRONG_TYPE, kind.span, message).help("write a kind such as `type: file`"),
            );
            None
        }
        None => {
            let slip = node.entries().iter().find(|entry| KIND_SLIPS.contains(&entry.key.as_str()));
            let span = slip.map_or(name_span, |entry| entry.key_span);
            let problem = Diagnostic::error(codes::MISSING_KEY, span, format!("the {bare} `{name}` has no `type`"));
            diagnostics.push(match slip {
                Some(_) => problem.help("did you mean `type`?"),
                None => problem.help(format!("add `type:` below `{name}`")),
            });
            None
        }
    }
}

/// Whether a text is a name: `[A-Za-z_][A-Za-z0-9_-]*`.
pub(super) fn is_name(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
        && text.chars().all(|c| c.is_ascii_alphanumeric() || c == '_' || c == '-')
}

pub(super) fn check_name(entry: &Entry, noun: &str, diagnostics: &mut Diagnostics) {
    if !is_name(&entry.key) {
        diagnostics.push(bad_name(&entry.key, entry.key_span, noun));
    }
}

pub(super) fn bad_name(name: &str, span: Span, noun: &str) -> Diagnostic {
    let problem = Diagnostic::error(codes::BAD_NAME, span, format!("`{name}` can't be the name of {noun}"));
    let mut better: String =
        name.chars().map(|c| if c.is_ascii_alphanumeric() || c == '_' || c == '-' { c } else { '_' }).collect();
    if better.starts_with(|c: char| !(c.is_ascii_alphabetic() || c == '_')) {
        better.insert(0, '_');
    }
    let problem = problem.help("a name begins with a letter and has letters, digits, `_` and `-`");
    match better.chars().any(|c| c.is_ascii_alphabetic()) && better.len() <= 60 {
        true => problem.help(format!("write `{better}`")),
        false => problem,
    }
}

/// Names are identity over sources, operators and sinks together.
pub(super) fn check_names(
    sources: &IndexMap<String, Component>,
    operators: &IndexMap<String, Component>,
    instances: &IndexMap<String, Instance>,
    sinks: &IndexMap<String, Component>,
    diagnostics: &mut Diagnostics,
) {
    let mut seen: HashMap<&str, (Span, &str)> = HashMap::new();
    fn named<'c>(
        section: &'c IndexMap<String, Component>,
        noun: &'static str,
    ) -> impl Iterator<Item = (&'c str, Span, &'static str)> {
        section.values().map(move |component| (component.name.as_str(), component.name_span, noun))
    }
    let instances = instances.iter().map(|(name, instance)| (name.as_str(), instance.name_span, "an operator"));
    let all = named(sources, "a source").chain(named(operators, "an operator")).chain(instances);
    for (name, span, noun) in all.chain(named(sinks, "a sink")) {
        if let Some((first, first_noun)) = seen.insert(name, (span, noun)) {
            let message = format!("`{name}` is the name of {first_noun} already");
            diagnostics.push(
                Diagnostic::error(codes::NAME_TAKEN, span, message)
                    .also(first, format!("{first_noun} of this name"))
                    .help("state, metrics and tests go by names: give this one another"),
            );
        }
    }
}
