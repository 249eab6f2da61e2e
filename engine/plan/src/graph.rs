//! The dataflow as a drawing: what `engine graph` prints, as text or for Mermaid.
//!
//! Steps that run fused stand together; an edge says what kind of stream it is and by which key rows are exchanged.

use crate::kinds::StreamKind;
use crate::plan::{Edge, Plan, Role, Step};
use engine_base::StepId;
use std::collections::HashSet;
use std::fmt::Write;

/// Between the steps of a fused chain.
const FUSED: &str = " ═ ";

/// A node of the drawing: a fused chain, or one step.
struct Group {
    steps: Vec<StepId>,
}

/// The groups in the order of the plan, and the group of each step.
fn groups(plan: &Plan) -> (Vec<Group>, Vec<usize>) {
    let mut groups: Vec<Group> = plan.chains().into_iter().map(|steps| Group { steps }).collect();
    let chained: HashSet<StepId> = groups.iter().flat_map(|group| group.steps.iter().copied()).collect();
    let alone = plan.steps.iter().map(|step| step.id).filter(|id| !chained.contains(id));
    groups.extend(alone.map(|id| Group { steps: vec![id] }));
    groups.sort_by_key(|group| group.steps[0]);
    let mut group_of = vec![0; plan.steps.len()];
    for (at, group) in groups.iter().enumerate() {
        for step in &group.steps {
            group_of[step.0 as usize] = at;
        }
    }
    (groups, group_of)
}

/// `by card`: where rows are exchanged on their way into an input.
fn exchange(step: &Step, input: usize) -> Option<String> {
    let key = step.exchange.as_ref()?.get(input)?;
    Some(if key.is_empty() { "to one worker".to_owned() } else { format!("by {}", key.join(", ")) })
}

/// `append, event time, by card`; a side output's name comes first.
fn edge_label(plan: &Plan, edge: Edge, reader: &Step, input: usize) -> String {
    let output = plan.output(edge);
    let mut parts = Vec::new();
    if !output.port.is_empty() {
        parts.push(output.port.clone());
    }
    parts.push(match &output.stream.kind {
        StreamKind::Append => "append".to_owned(),
        StreamKind::Changelog { key } => format!("changelog of {}", key.join(", ")),
    });
    if output.stream.event_time.is_some() {
        parts.push("event time".to_owned());
    }
    parts.extend(exchange(reader, input));
    parts.join(", ")
}

fn node_text(step: &Step) -> String {
    let role = match step.role {
        Role::Source { .. } => "source ",
        Role::Sink { .. } => "sink ",
        Role::Operator => "",
    };
    let state = if step.state.is_some() { ", keeps state" } else { "" };
    format!("{} [{role}{}{state}]", step.name, step.kind)
}

/// A tree from each source. A step with several inputs is drawn under the first, and named under the others.
pub fn text(plan: &Plan) -> String {
    let (groups, group_of) = groups(plan);
    // Edges out of each group: the label, and the group that reads.
    let mut children: Vec<Vec<(String, usize)>> = groups.iter().map(|_| Vec::new()).collect();
    for group in &groups {
        // Only the first step of a chain reads from outside it.
        let reader = plan.step(group.steps[0]);
        for (input, edge) in reader.inputs.iter().enumerate() {
            let from = group_of[edge.from.0 as usize];
            let last = groups[from].steps.last() == Some(&edge.from);
            let mut label = edge_label(plan, *edge, reader, input);
            if !last {
                // An output of a step within a chain says whose it is.
                label = format!("{}.{label}", plan.step(edge.from).name);
            }
            children[from].push((label, group_of[reader.id.0 as usize]));
        }
    }
    let mut out = String::new();
    let mut drawn = vec![false; groups.len()];
    // (group, the lines to its left, its own branch with its label)
    let mut stack: Vec<(usize, String, String)> = Vec::new();
    let roots = groups.iter().enumerate().filter(|(_, group)| plan.step(group.steps[0]).inputs.is_empty());
    for (root, _) in roots.collect::<Vec<_>>().into_iter().rev() {
        stack.push((root, String::new(), String::new()));
    }
    let mut fused = false;
    while let Some((group, left, branch)) = stack.pop() {
        let steps = &groups[group].steps;
        if drawn[group] {
            let _ = writeln!(out, "{left}{branch}{} (drawn above)", plan.step(steps[0]).name);
            continue;
        }
        drawn[group] = true;
        let names: Vec<String> = steps.iter().map(|step| node_text(plan.step(*step))).collect();
        fused |= names.len() > 1;
        let _ = writeln!(out, "{left}{branch}{}", names.join(FUSED));
        let left = match branch.chars().next() {
            Some('├') => format!("{left}│  "),
            Some(_) => format!("{left}   "),
            None => left,
        };
        let count = children[group].len();
        for (at, (label, child)) in children[group].iter().enumerate().rev() {
            let corner = if at + 1 == count { '└' } else { '├' };
            stack.push((*child, left.clone(), format!("{corner}─ {label} ─ ")));
        }
    }
    if fused {
        let _ = writeln!(out, "\n═ fused: rows pass on within one operator");
    }
    out
}

/// A flowchart for Mermaid.
pub fn mermaid(plan: &Plan) -> String {
    let (groups, _) = groups(plan);
    let mut out = String::from("flowchart LR\n");
    for (at, group) in groups.iter().enumerate() {
        let fused = group.steps.len() > 1;
        if fused {
            let _ = writeln!(out, "  subgraph fused{at}[\"fused\"]");
        }
        for id in &group.steps {
            let step = plan.step(*id);
            let (open, close) = match step.role {
                Role::Source { .. } => ("([", "])"),
                Role::Sink { .. } => ("[[", "]]"),
                Role::Operator if step.state.is_some() => ("[(", ")]"),
                Role::Operator => ("[", "]"),
            };
            let indent = if fused { "    " } else { "  " };
            let _ = writeln!(out, "{indent}s{id}{open}\"{}<br/>{}\"{close}", quoted(&step.name), quoted(step.kind));
        }
        if fused {
            let _ = writeln!(out, "  end");
        }
    }
    for step in &plan.steps {
        for (input, edge) in step.inputs.iter().enumerate() {
            let label = edge_label(plan, *edge, step, input);
            let _ = writeln!(out, "  s{} -->|\"{}\"| s{}", edge.from, quoted(&label), step.id);
        }
    }
    out
}

/// Text within a quoted label: Mermaid takes entities.
fn quoted(text: &str) -> String {
    text.replace('&', "#amp;").replace('"', "#quot;").replace('<', "#lt;").replace('>', "#gt;")
}
