//! Which keys a component takes: those all of its section share, and its kind's own, as its JSON Schema names them.

use super::list;
use crate::language;
use engine_base::codes::spec as codes;
use engine_base::{Diagnostic, Diagnostics, suggest};
use engine_spec::{Component, Value};
use schemars::{Schema, SchemaGenerator};
use std::borrow::Cow;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;

/// The own keys of kinds, by section and kind, worked out once.
#[derive(Default)]
pub(super) struct KeyNames(HashMap<(&'static str, &'static str), Option<Arc<[String]>>>);

impl KeyNames {
    /// The keys of a kind; `None` where its schema is open and any key may be one.
    pub(super) fn own(
        &mut self,
        kind: &'static str,
        section: &'static str,
        schema: fn(&mut SchemaGenerator) -> Schema,
    ) -> Option<Arc<[String]>> {
        self.0
            .entry((section, kind))
            .or_insert_with(|| crate::schema::property_names(schema).map(|names| names.into_iter().collect()))
            .clone()
    }
}

/// A component with only the keys that its kind takes: an unknown key is reported, and then read as the key that was
/// probably meant, so that nobody reports that one as missing.
///
/// `inputs` are the keys of its inputs. A key that stayed from the file when a profile changed the type is passed over if the new type has none of that name.
pub(super) fn known<'c>(
    component: &'c Component,
    common: &[&str],
    inputs: &[&str],
    own: Option<&[String]>,
    found: &mut Diagnostics,
) -> Cow<'c, Component> {
    let Some(own) = own else { return Cow::Borrowed(component) };
    let known: Vec<&str> = common.iter().copied().chain(own.iter().map(String::as_str)).collect();
    let mut wrong: Vec<(&str, Option<&str>)> = Vec::new();
    for entry in component.node.entries() {
        let key = entry.key.as_str();
        if known.contains(&key) {
            continue;
        }
        if component.kept.iter().any(|kept| kept == key) {
            wrong.push((key, None));
            continue;
        }
        if let Some((_, why)) = language::KEYS_NOT_BUILT.iter().find(|(name, _)| *name == key) {
            found.push(
                Diagnostic::error(codes::NOT_BUILT, entry.key_span, format!("`{key}` is not built yet")).help(*why),
            );
            wrong.push((key, None));
            continue;
        }
        let kind = &component.kind;
        let problem = Diagnostic::error(codes::UNKNOWN_KEY, entry.key_span, format!("unknown key `{key}`"));
        let (problem, meant) = match key {
            "inputs" if known.contains(&"input") => {
                (problem.help(format!("`{kind}` has one input: write `input:`")), Some("input"))
            }
            "input" if known.contains(&"inputs") => {
                (problem.help(format!("`{kind}` has several inputs: write `inputs: [a, b]`")), Some("inputs"))
            }
            "input" | "inputs" if !inputs.is_empty() => {
                let keys: Vec<String> = inputs.iter().map(|key| format!("`{key}:`")).collect();
                let meant = inputs.iter().copied().find(|meant| component.node.get(meant).is_none());
                (problem.help(format!("`{kind}` has several inputs: write {}", keys.join(" and "))), meant)
            }
            _ => (problem.did_you_mean(key, known.iter().copied()), suggest::nearest(key, known.iter().copied())),
        };
        found.push(problem.help(format!("the keys of `{kind}` are {}", list(&known))));
        wrong.push((key, meant.filter(|meant| component.node.get(meant).is_none())));
    }
    if wrong.is_empty() {
        return Cow::Borrowed(component);
    }
    let mut repaired = component.clone();
    if let Value::Map(entries) = &mut repaired.node.value {
        entries.retain_mut(|entry| match wrong.iter().find(|(key, _)| *key == entry.key) {
            None => true,
            Some((_, None)) => false,
            Some((_, Some(meant))) => {
                entry.key = (*meant).to_owned();
                true
            }
        });
        let mut seen = HashSet::new();
        entries.retain(|entry| seen.insert(entry.key.clone()));
    }
    Cow::Owned(repaired)
}
