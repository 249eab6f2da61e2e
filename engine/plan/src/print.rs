//! The plan as text for people: what `dry-run` prints. Drawings are in [`crate::graph`].

use crate::kinds::{StreamKind, StreamType};
use crate::plan::{ERRORS, Plan, PlannedObjective, Role, Step};
use crate::types::column_text;
use engine_base::StepId;
use engine_spec::TimeSpan;
use engine_spec::pipeline::Measure;
use std::fmt::Write;

/// Where lines are broken.
const WIDTH: usize = 110;
/// Where values begin.
const INDENT: usize = 14;

/// The whole plan, a paragraph for each step, with totals at the end.
pub fn plan_text(plan: &Plan) -> String {
    let mut text = format!("pipeline {}\n", plan.name);
    if let Some(description) = &plan.description {
        wrapped(&mut text, "", 2, description.split_whitespace().map(str::to_owned), " ");
    }
    let readers = plan.readers();
    for step in &plan.steps {
        text.push('\n');
        step_text(&mut text, plan, step, &readers[step.id.0 as usize]);
    }
    for objective in &plan.objectives {
        text.push('\n');
        objective_text(&mut text, plan, objective);
    }
    text.push('\n');
    totals(&mut text, plan, &readers);
    text
}

fn step_text(text: &mut String, plan: &Plan, step: &Step, readers: &[Vec<(StepId, usize)>]) {
    let role = match step.role {
        Role::Source { .. } => "source ",
        Role::Sink { .. } => "sink ",
        Role::Operator => "",
    };
    let _ = writeln!(text, "{}: {role}{}", step.name, step.kind);
    let mut line = |label: &str, value: &str| {
        wrapped(text, label, INDENT, value.split([' ', '\n']).map(str::to_owned), " ");
    };
    if !step.inputs.is_empty() {
        let reads: Vec<String> = step.inputs.iter().map(|edge| plan.step(edge.from).output_name(edge.port)).collect();
        line("reads", &reads.join(", "));
    }
    for (name, value) in &step.facts {
        line(name, value);
    }
    if let Role::Sink { exact: Some(means), .. } = step.role {
        let commit = TimeSpan(plan.commit_ns);
        line("delivery", &format!("exactly once, by {means}; a commit every {commit} at most"));
    }
    if let Some(keys) = &step.exchange {
        let mut keys: Vec<String> = keys.iter().map(|key| key.join(", ")).collect();
        keys.dedup();
        match keys.join(" = ").as_str() {
            "" => line("exchange", "all rows to one worker"),
            keys => line("exchange", &format!("by {keys}")),
        }
    }
    if let Some(state) = &step.state {
        line("keeps", state);
    }
    if let Role::Source { replayable, finite, .. } = step.role {
        let ends = if finite { "comes to an end" } else { "goes on for ever" };
        let again = if replayable { "can be read again from a mark" } else { "can't be read again" };
        line("input", &format!("{ends}, {again}"));
    }
    for (port, output) in step.row_outputs().iter().enumerate() {
        let label = if output.port.is_empty() { "columns" } else { &output.port };
        let unread = readers[port].is_empty();
        if port > 0 && (unread || output.stream == step.outputs[0].stream) {
            let value = if unread { "not read by any step" } else { "the same columns" };
            wrapped(text, label, INDENT, value.split(' ').map(str::to_owned), " ");
            continue;
        }
        wrapped(text, label, INDENT, columns(&output.stream).into_iter(), ", ");
        wrapped(text, "stream", INDENT, stream_text(&output.stream).split(' ').map(str::to_owned), " ");
        if unread {
            wrapped(text, "", INDENT, "not read by any step".split(' ').map(str::to_owned), " ");
        } else if matches!(step.role, Role::Source { .. }) {
            let wanted = &step.wanted[port];
            let names = output.stream.schema.fields().iter().map(|field| field.name());
            let skipped: Vec<String> = names.filter(|name| !wanted.contains(*name)).cloned().collect();
            if !skipped.is_empty() {
                wrapped(text, "not decoded", INDENT, skipped.into_iter(), ", ");
            }
        }
    }
    if let Some(port) = step.error_port() {
        let value = match readers[port].as_slice() {
            [] => "kept in errors.jsonl".to_owned(),
            readers => {
                let names: Vec<&str> = readers.iter().map(|(reader, _)| plan.step(*reader).name.as_str()).collect();
                format!("read by {}", names.join(", "))
            }
        };
        wrapped(text, ERRORS, INDENT, value.split(' ').map(str::to_owned), " ");
    }
}

/// `name: type` of each column.
fn columns(stream: &StreamType) -> Vec<String> {
    match stream.schema.fields().len() {
        0 => vec!["none".to_owned()],
        _ => stream.schema.fields().iter().map(|field| format!("{}: {}", field.name(), column_text(field))).collect(),
    }
}

/// `append, event time at most 5s late`, `changelog by id, no event time`.
pub fn stream_text(stream: &StreamType) -> String {
    let kind = match &stream.kind {
        StreamKind::Append => "append".to_owned(),
        StreamKind::Changelog { key } => format!("changelog by {}", key.join(", ")),
    };
    match &stream.event_time {
        Some(event_time) if event_time.max_delay_ns == 0 => format!("{kind}, event time"),
        Some(event_time) => format!("{kind}, event time at most {} late", TimeSpan(event_time.max_delay_ns)),
        None => format!("{kind}, no event time"),
    }
}

fn objective_text(text: &mut String, plan: &Plan, planned: &PlannedObjective) {
    let objective = &planned.objective;
    let measure = match objective.measure {
        Measure::EndToEnd => "end to end",
        Measure::StepLatency => "step latency",
        Measure::ErrorRate => "error rate",
        Measure::Lag => "lag",
    };
    let _ = writeln!(text, "objective {}: {measure}", objective.name);
    let names: Vec<&str> = planned.targets.iter().map(|id| plan.step(*id).name.as_str()).collect();
    wrapped(text, "of", INDENT, names.into_iter().map(str::to_owned), ", ");
    let mut promises = Vec::new();
    for (name, threshold) in
        [("p50", objective.p50), ("p95", objective.p95), ("p99", objective.p99), ("max", objective.max)]
    {
        promises.extend(threshold.map(|threshold| format!("{name} {threshold}")));
    }
    promises.extend(objective.max_ratio.map(|ratio| format!("at most {ratio} of the rows")));
    promises.extend(objective.max_rows.map(|rows| format!("at most {rows} rows")));
    wrapped(text, "promises", INDENT, promises.into_iter(), ", ");
    wrapped(text, "over", INDENT, std::iter::once(objective.over.to_string()), "");
    if let Some(floor) = planned.floor_ns {
        let most = match planned.ceiling_ns {
            Some(ceiling) => format!("at most {} for the delivery", TimeSpan(ceiling - floor)),
            None => "no bound on the delivery".to_owned(),
        };
        let estimate = format!("{} for the epoch, {most}", TimeSpan(floor));
        wrapped(text, "estimate", INDENT, estimate.split(' ').map(str::to_owned), " ");
    }
}

fn totals(text: &mut String, plan: &Plan, readers: &[Vec<Vec<(StepId, usize)>>]) {
    let sources = plan.sources().count();
    let sinks = plan.sinks().count();
    let operators = plan.steps.len() - sources - sinks;
    let entered: usize = plan.sources().map(|source| plan.entry_steps(source.id).len()).sum();
    let fused = entered + plan.chains().iter().filter(|chain| chain.len() > 1).map(Vec::len).sum::<usize>();
    let keep = plan.steps.iter().filter(|step| step.state.is_some()).count();
    let errors = plan
        .steps
        .iter()
        .filter(|step| step.error_port().is_some_and(|port| readers[step.id.0 as usize][port].is_empty()));
    let mut parts = vec![
        counted(plan.steps.len(), "step"),
        counted(sources, "source"),
        counted(operators, "operator"),
        counted(sinks, "sink"),
    ];
    if fused > 0 {
        parts.push(format!("{fused} fused"));
    }
    parts.push(match keep {
        0 => "no state".to_owned(),
        keep => format!("{keep} with state"),
    });
    parts.push(match errors.count() {
        0 => "all errors read".to_owned(),
        kept => format!("errors of {kept} kept in errors.jsonl"),
    });
    let _ = writeln!(text, "{}", parts.join(", "));
    let _ = writeln!(text, "digest {}", &plan.digest[..plan.digest.len().min(16)]);
}

fn counted(count: usize, noun: &str) -> String {
    format!("{count} {noun}{}", if count == 1 { "" } else { "s" })
}

/// `  label      word word word`, broken between words where the line is full.
fn wrapped(text: &mut String, label: &str, indent: usize, words: impl Iterator<Item = String>, separator: &str) {
    let mut line = match label {
        "" => " ".repeat(indent),
        label => format!("  {label:<width$} ", width = indent.saturating_sub(3)),
    };
    let mut empty = true;
    for word in words {
        if !empty {
            line.push_str(separator.trim_end());
            if line.chars().count() + 1 + word.chars().count() > WIDTH {
                text.push_str(line.trim_end());
                text.push('\n');
                line = " ".repeat(indent);
            } else if separator.ends_with(' ') {
                line.push(' ');
            }
        }
        line.push_str(&word);
        empty = false;
    }
    text.push_str(line.trim_end());
    text.push('\n');
}
