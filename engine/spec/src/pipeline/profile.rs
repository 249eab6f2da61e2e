//! `--profile`: the edges swapped, never the logic.
//!
//! Every profile of the file is checked, whichever is chosen.

use std::collections::HashMap;

use engine_base::codes::spec as codes;
use engine_base::{Diagnostic, Diagnostics, Span};

use crate::node::{Entry, Node, Value};

/// What a profile may hold.
const SECTIONS: &[&str] = &["connections", "sources", "sinks"];
/// Keys of a source or sink that are logic: a profile can't give them, and they stay when it changes `type`.
const LOGIC: &[&str] = &["input", "where", "columns", "schema", "event_time", "set"];
/// Keys that stay when a profile changes `type` and doesn't give them.
const KEPT: &[&str] = &["format", "metadata", "timestamps"];

/// Checks all profiles, merges the chosen one into `root` and takes `profiles` out. Gives back, by `section.name`, the
/// keys that stayed although the profile changed `type`.
pub(super) fn apply(
    root: &mut Node,
    chosen: Option<(&str, Span)>,
    complete: bool,
    diagnostics: &mut Diagnostics,
) -> HashMap<String, Vec<String>> {
    let mut kept = HashMap::new();
    let profiles = root.entry("profiles").cloned();
    if let Some(profiles) = profiles.as_ref().filter(|profiles| !matches!(profiles.value.value, Value::Map(_))) {
        let message = format!("`profiles` takes a map of names, not {}", crate::decode::found(&profiles.value));
        diagnostics.push(
            Diagnostic::error(codes::WRONG_TYPE, profiles.value.span, message).help("write `name:` below it, indented"),
        );
    }
    let entries = profiles.as_ref().map(|profiles| profiles.value.entries()).unwrap_or_default();
    for profile in entries {
        check(root, profile, complete, diagnostics);
    }
    if let Some((name, span)) = chosen {
        match entries.iter().find(|entry| entry.key == name) {
            Some(profile) => merge(root, &profile.value, &mut kept),
            None if complete => {
                let names: Vec<&str> = entries.iter().map(|entry| entry.key.as_str()).collect();
                let problem = Diagnostic::error(codes::UNKNOWN_PROFILE, span, format!("there is no profile `{name}`"))
                    .did_you_mean(name, names.iter().copied());
                diagnostics.push(problem.help(match names.is_empty() {
                    true => "the file has no `profiles`".to_owned(),
                    false => format!("the file has {}", crate::decode::list(&names).replace(" or ", " and ")),
                }));
            }
            None => {}
        }
    }
    if let Value::Map(entries) = &mut root.value {
        entries.retain(|entry| entry.key != "profiles");
    }
    kept
}

fn check(root: &Node, profile: &Entry, complete: bool, diagnostics: &mut Diagnostics) {
    if !matches!(profile.value.value, Value::Map(_)) {
        let message = format!("the profile `{}` is a map, not {}", profile.key, crate::decode::found(&profile.value));
        diagnostics.push(
            Diagnostic::error(codes::WRONG_TYPE, profile.value.span, message)
                .help("write `sources:` and `sinks:` below it, indented"),
        );
        return;
    }
    for section in profile.value.entries() {
        if !SECTIONS.contains(&section.key.as_str()) {
            diagnostics.push(wrong_section(profile, section));
            continue;
        }
        if !matches!(section.value.value, Value::Map(_)) {
            let what = crate::decode::found(&section.value);
            diagnostics.push(
                Diagnostic::error(
                    codes::WRONG_TYPE,
                    section.value.span,
                    format!("`{}` is a map of names, not {what}", section.key),
                )
                .help("write `name: { key: value }` below it, indented"),
            );
            continue;
        }
        if section.key == "connections" {
            continue;
        }
        let base = root.get(&section.key);
        for component in section.value.entries() {
            let exists = base.is_some_and(|base| base.get(&component.key).is_some());
            if !exists && complete {
                let names = base.map(Node::entries).unwrap_or_default().iter().map(|entry| entry.key.as_str());
                let noun = section.key.trim_end_matches('s');
                diagnostics.push(
                    Diagnostic::error(
                        codes::PROFILE_UNKNOWN_COMPONENT,
                        component.key_span,
                        format!("there is no {noun} `{}` that this profile could change", component.key),
                    )
                    .did_you_mean(&component.key, names)
                    .help("a profile changes what the file has; it adds nothing but connections"),
                );
            }
            if !matches!(component.value.value, Value::Map(_)) {
                let what = crate::decode::found(&component.value);
                diagnostics.push(
                    Diagnostic::error(
                        codes::WRONG_TYPE,
                        component.value.span,
                        format!("`{}` is a map of keys and values, not {what}", component.key),
                    )
                    .help("write `{ type: ..., key: value }`"),
                );
            }
            for key in component.value.entries().iter().filter(|key| LOGIC.contains(&key.key.as_str())) {
                diagnostics.push(
                    Diagnostic::error(
                        codes::PROFILE_CHANGES_LOGIC,
                        key.key_span,
                        format!("a profile can't change `{}`", key.key),
                    )
                    .help("a profile swaps the connector and its `format`; what the rows mean stays the same"),
                );
            }
        }
    }
}

fn wrong_section(profile: &Entry, section: &Entry) -> Diagnostic {
    let key = section.key.as_str();
    let span = section.key_span;
    match key {
        "operators" | "models" | "parameters" | "objectives" | "max_in_flight" | "align" | "delivery" | "commit"
        | "checkpoint" | "version" | "pipeline" | "include" | "templates" => {
            Diagnostic::error(codes::PROFILE_CHANGES_LOGIC, span, format!("a profile can't change `{key}`"))
                .help("a profile holds `connections`, `sources` and `sinks`; use a parameter for a value that differs")
        }
        _ => {
            Diagnostic::error(codes::UNKNOWN_KEY, span, format!("unknown key `{key}` in the profile `{}`", profile.key))
                .did_you_mean(key, SECTIONS.iter().copied())
                .help("a profile holds `connections`, `sources` and `sinks`")
        }
    }
}

fn merge(root: &mut Node, profile: &Node, kept: &mut HashMap<String, Vec<String>>) {
    for section in profile.entries().iter().filter(|section| SECTIONS.contains(&section.key.as_str())) {
        let Value::Map(sections) = &mut root.value else { return };
        let base = match sections.iter_mut().find(|entry| entry.key == section.key) {
            Some(base) => base,
            None if section.key == "connections" => {
                sections.push(section.clone());
                continue;
            }
            None => continue,
        };
        let Value::Map(base) = &mut base.value.value else { continue };
        for component in section.value.entries() {
            let Some(entry) = base.iter_mut().find(|entry| entry.key == component.key) else {
                if section.key == "connections" {
                    base.push(component.clone());
                }
                continue;
            };
            let (Value::Map(keys), Value::Map(new)) = (&mut entry.value.value, &component.value.value) else {
                continue;
            };
            if new.iter().any(|key| key.key == "type") {
                keys.retain(|key| LOGIC.contains(&key.key.as_str()) || KEPT.contains(&key.key.as_str()));
                let stayed = keys.iter().map(|key| key.key.clone());
                let stayed =
                    stayed.filter(|key| KEPT.contains(&key.as_str()) && !new.iter().any(|new| new.key == *key));
                kept.insert(format!("{}.{}", section.key, component.key), stayed.collect());
            }
            for key in new.iter().filter(|key| !LOGIC.contains(&key.key.as_str())) {
                match keys.iter_mut().find(|old| old.key == key.key) {
                    Some(old) => *old = key.clone(),
                    None => keys.push(key.clone()),
                }
            }
        }
    }
}
