//! Which keys a component takes: those all of its section share, and its kind's own, as its JSON Schema names them.

use super::list;
use crate::language;
use engine_base::codes::spec as codes;
use engine_base::{Diagnostic, Diagnostics};
use engine_spec::{Component, Node};
use schemars::{Schema, SchemaGenerator};
use std::collections::HashMap;
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

/// The part of a component that is its kind's own, with every unknown key reported and taken out.
///
/// A key that stayed from the file when a profile changed the type is passed over if the new type has none of that name.
pub(super) fn split(
    component: &Component,
    kind: &str,
    common: &[&str],
    own: Option<&[String]>,
    found: &mut Diagnostics,
) -> Node {
    let mut taken: Vec<&str> = common.to_vec();
    for entry in component.node.entries() {
        let key = entry.key.as_str();
        if common.contains(&key) {
            continue;
        }
        let Some(own) = own else { continue };
        if own.iter().any(|name| name == key) {
            continue;
        }
        taken.push(key);
        if component.kept.iter().any(|kept| kept == key) {
            continue;
        }
        if let Some((_, why)) = language::KEYS_NOT_BUILT.iter().find(|(name, _)| *name == key) {
            found.push(
                Diagnostic::error(codes::NOT_BUILT, entry.key_span, format!("`{key}` is not built yet")).help(*why),
            );
            continue;
        }
        let known: Vec<&str> = common.iter().copied().chain(own.iter().map(String::as_str)).collect();
        let mut problem = Diagnostic::error(codes::UNKNOWN_KEY, entry.key_span, format!("unknown key `{key}`"));
        problem = match (key, known.contains(&"input"), known.contains(&"inputs")) {
            ("inputs", true, _) => problem.help(format!("`{kind}` has one input: write `input:`")),
            ("input", _, true) => problem.help(format!("`{kind}` has several inputs: write `inputs: [a, b]`")),
            _ => problem.did_you_mean(key, known.iter().copied()),
        };
        found.push(problem.help(format!("the keys of `{kind}` are {}", list(&known))));
    }
    component.node.without(&taken)
}
