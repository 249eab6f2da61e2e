//! Checks over the whole pipeline: what is said and never used, and objectives against what the plan knows.

use super::Planner;
use crate::plan::{EPOCH_NS, PlannedObjective, Role, Step};
use engine_base::codes::{plan as codes, rolling};
use engine_base::{Diagnostic, Span, StepId};
use engine_spec::pipeline::Measure;
use engine_spec::{Node, Objective, Parameter, TimeSpan, Value};
use std::collections::{HashMap, HashSet};

impl Planner<'_> {
    /// Warns of parameters, connections and models that nothing uses.
    pub(super) fn check_unused(&mut self) {
        let pipeline = self.pipeline;
        let mut used = HashSet::new();
        if !pipeline.parameters.is_empty() {
            // A text search over what was written (and what `--set` and profiles made of it): a mention in a comment counts
            // as a use, which costs no more than a warning that is not given.
            // Files from the pipeline's own on are this pipeline's.
            for (_, file) in self.sources.files().filter(|(id, _)| *id >= pipeline.root.span.file) {
                mentioned(&file.text, &mut used);
            }
            texts(&pipeline.root, &mut |text| mentioned(text, &mut used));
        }
        // A file that several pipelines include has what one of them needs.
        let own = |span: Span| !pipeline.folders.is_included(span);
        let unused = |parameter: &&Parameter| own(parameter.span) && !used.contains(parameter.name.as_str());
        for parameter in pipeline.parameters.values().filter(unused) {
            let name = &parameter.name;
            self.found.push(
                Diagnostic::warning(
                    codes::UNUSED_PARAMETER,
                    parameter.span,
                    format!("nothing uses the parameter `{name}`"),
                )
                .help(format!(
                    "use it as `param.{name}` in an expression or `${{param:{name}}}` in a value, or take it out"
                )),
            );
        }
        let mut connections = HashSet::new();
        let mut models = HashSet::new();
        for component in pipeline.sources.values().chain(pipeline.operators.values()).chain(pipeline.sinks.values()) {
            named(&component.node, "connection", &mut connections);
            named(&component.node, "model", &mut models);
        }
        // A profile that is not chosen uses its connections all the same.
        let profiles = pipeline.profiles.as_ref().map(Node::entries).unwrap_or_default();
        for section in profiles.iter().flat_map(|profile| profile.value.entries()) {
            for component in section.value.entries() {
                named(&component.value, "connection", &mut connections);
            }
        }
        // Where one that is not there is named, that may be just the one that is not.
        let all_there = |names: &HashSet<String>, section: &str| {
            names.iter().all(|name| pipeline.root.get(section).is_some_and(|section| section.get(name).is_some()))
        };
        for connection in pipeline.connections.values().filter(|_| all_there(&connections, "connections")) {
            let name = connection.name.as_str();
            if own(connection.name_span) && !connections.contains(name) {
                self.found.push(
                    Diagnostic::warning(
                        codes::UNUSED_CONNECTION,
                        connection.name_span,
                        format!("nothing uses the connection `{name}`"),
                    )
                    .help(format!("name it in a source or sink (`connection: {name}`), or take it out")),
                );
            }
        }
        for model in pipeline.models.values().filter(|_| all_there(&models, "models")) {
            let name = model.name.as_str();
            if own(model.name_span) && !models.contains(name) {
                self.found.push(
                    Diagnostic::warning(
                        codes::UNUSED_MODEL,
                        model.name_span,
                        format!("nothing uses the model `{name}`"),
                    )
                    .help(format!("name it in a `predict` step (`model: {name}`), or take it out")),
                );
            }
        }
    }

    /// Warns of steps that read an input which never ends, and are not made for it.
    pub(super) fn check_endless(&mut self) {
        // Steps stand behind what they read.
        let mut endless: Vec<bool> = Vec::with_capacity(self.steps.len());
        for step in &self.steps {
            let reads = step.inputs.iter().any(|edge| endless.get(edge.from.0 as usize).copied().unwrap_or(false));
            endless.push(reads || matches!(step.role, Role::Source { finite: false, .. }));
            if let Some(caution) = step.planned.endless().filter(|_| reads) {
                let problem = Diagnostic::warning(rolling::WITHOUT_END, step.span, caution.message);
                self.found.push(problem.help(caution.help));
            }
        }
    }

    /// State is found under one name, and only by one.
    pub(super) fn check_renamed(&mut self) {
        let pipeline = self.pipeline;
        let all = || pipeline.sources.values().chain(pipeline.operators.values());
        let mut taken: HashMap<&str, &str> = HashMap::new();
        for component in all() {
            let Some((before, span)) = &component.renamed_from else { continue };
            let message = match taken.insert(before, &component.name) {
                Some(other) => format!("`{other}` was `{before}` before: its state can't go to two"),
                None if all().any(|other| other.name == *before) => {
                    format!("`{before}` is still there, with its state")
                }
                None => continue,
            };
            let problem = Diagnostic::error(codes::RENAMED, *span, message);
            self.found.push(problem.help("name the component that has gone, or take `renamed_from` out"));
        }
    }

    /// Objectives with the steps they speak of.
    pub(super) fn plan_objectives(&mut self) -> Vec<PlannedObjective> {
        let pipeline = self.pipeline;
        let objectives = &pipeline.objectives;
        objectives.iter().filter_map(|objective| self.plan_objective(objective)).collect()
    }

    fn plan_objective(&mut self, objective: &Objective) -> Option<PlannedObjective> {
        let pipeline = self.pipeline;
        let (what, candidates): (&str, fn(&Step) -> bool) = match objective.measure {
            Measure::EndToEnd => ("sink", |step| matches!(step.role, Role::Sink { .. })),
            Measure::StepLatency => ("step", |step| !step.implied && !matches!(step.role, Role::Source { .. })),
            Measure::ErrorRate => ("step", |step| !step.implied),
            Measure::Lag => ("source", |step| matches!(step.role, Role::Source { .. })),
        };
        let targets: Vec<StepId> = match &objective.target {
            None => self.steps.iter().filter(|step| candidates(step)).map(|step| step.id).collect(),
            Some((name, span)) => {
                if let Some(step) = self.steps.iter().find(|step| step.name == *name && candidates(step)) {
                    vec![step.id]
                } else {
                    // The step may be there and wrong, which is noted.
                    if !self.failed.contains(name) && !self.pipeline.broken.contains(name) {
                        self.found.push(self.unknown_target(name, *span, what, objective.measure));
                    }
                    return None;
                }
            }
        };
        let timeouts = targets.iter().map(|id| match self.steps[id.0 as usize].role {
            Role::Sink { timeout_ns, .. } => timeout_ns,
            _ => None,
        });
        let (floor_ns, ceiling_ns) = match objective.measure {
            Measure::EndToEnd => {
                let slowest = timeouts.collect::<Option<Vec<i64>>>().and_then(|timeouts| timeouts.into_iter().max());
                let is_exact =
                    |id: &StepId| matches!(self.steps[id.0 as usize].role, Role::Sink { exact: Some(_), .. });
                // What is due exactly once waits for the next commit before it goes out.
                let commit_ns = if targets.iter().any(is_exact) { pipeline.commit.ns() } else { 0 };
                let floor_ns = EPOCH_NS.saturating_add(commit_ns);
                (Some(floor_ns), slowest.map(|timeout| timeout.saturating_add(floor_ns)))
            }
            _ => (None, None),
        };
        let planned = PlannedObjective { objective: objective.clone(), targets, floor_ns, ceiling_ns };
        self.check_reach(&planned);
        Some(planned)
    }

    fn unknown_target(&self, name: &str, span: Span, what: &str, measure: Measure) -> Diagnostic {
        let pipeline = self.pipeline;
        let (sources, operators, sinks) = (&pipeline.sources, &pipeline.operators, &pipeline.sinks);
        let readable: Vec<&str> = match measure {
            Measure::EndToEnd => sinks.keys().map(String::as_str).collect(),
            Measure::Lag => sources.keys().map(String::as_str).collect(),
            Measure::StepLatency => operators.keys().chain(sinks.keys()).map(String::as_str).collect(),
            Measure::ErrorRate => {
                sources.keys().chain(operators.keys()).chain(sinks.keys()).map(String::as_str).collect()
            }
        };
        if let Some(instance) = pipeline.instances.get(name)
            && matches!(measure, Measure::StepLatency | Measure::ErrorRate)
        {
            let message = format!("`{name}` is an instance of a template, and an objective is about one step");
            let steps: Vec<&str> = instance.steps.iter().map(String::as_str).collect();
            let problem = Diagnostic::error(codes::OBJECTIVE_TARGET, span, message);
            return match steps.len() {
                1..=8 => problem.help(format!("name one of {}", super::list(&steps))),
                _ => problem.help(format!("name one of its steps: `{name}.STEP`")),
            };
        }
        let is_other = sources.contains_key(name) || operators.contains_key(name) || sinks.contains_key(name);
        let message = match is_other {
            true => format!("`{name}` is not a {what}"),
            false => format!("there is no {what} named `{name}`"),
        };
        let problem =
            Diagnostic::error(codes::OBJECTIVE_TARGET, span, message).did_you_mean(name, readable.iter().copied());
        match readable.len() {
            1..=8 if problem.help.is_empty() => problem.help(format!("the {what}s are {}", super::list(&readable))),
            _ => problem,
        }
    }

    /// Warns where a threshold is out of reach whatever happens.
    fn check_reach(&mut self, planned: &PlannedObjective) {
        let objective = &planned.objective;
        let floor = planned.floor_ns.unwrap_or(0);
        for (name, threshold) in [("p50", objective.p50), ("p95", objective.p95), ("p99", objective.p99)] {
            if threshold.is_some_and(|threshold| threshold.ns() < floor) {
                let floor = TimeSpan(floor);
                self.found.push(
                    Diagnostic::warning(
                        codes::OBJECTIVE_OUT_OF_REACH,
                        objective.span,
                        format!(
                            "`{name}` of `{}` can't be held: a row takes up to {floor} for its epoch alone",
                            objective.name
                        ),
                    )
                    .help(format!("promise {floor} or more")),
                );
                return;
            }
        }
        let (Some(max), Some(ceiling)) = (objective.max, planned.ceiling_ns) else { return };
        if max.ns() < ceiling {
            let sinks: Vec<&str> = planned.targets.iter().map(|id| self.steps[id.0 as usize].name.as_str()).collect();
            self.found.push(
                Diagnostic::warning(
                    codes::OBJECTIVE_OUT_OF_REACH,
                    objective.span,
                    format!(
                        "`max` of `{}` can't be held: a delivery to {} may take {} before it fails",
                        objective.name,
                        super::list(&sinks),
                        TimeSpan(ceiling - floor)
                    ),
                )
                .help("give the sink a shorter `timeout`, or promise less"),
            );
        }
    }
}

/// Names after `param.` and `param:`.
fn mentioned(text: &str, used: &mut HashSet<String>) {
    for (at, found) in text.match_indices("param") {
        let rest = &text[at + found.len()..];
        let Some(rest) = rest.strip_prefix(['.', ':']) else { continue };
        let end = rest.find(|c: char| !(c.is_alphanumeric() || c == '_' || c == '-')).unwrap_or(rest.len());
        used.insert(rest[..end].to_owned());
    }
}

/// Every text of a tree.
fn texts(node: &Node, each: &mut impl FnMut(&str)) {
    match &node.value {
        Value::String(text) => each(text),
        Value::List(items) => items.iter().for_each(|item| texts(item, each)),
        Value::Map(entries) => entries.iter().for_each(|entry| texts(&entry.value, each)),
        _ => {}
    }
}

/// Texts under `key`, however deep.
fn named(node: &Node, key: &str, names: &mut HashSet<String>) {
    match &node.value {
        Value::List(items) => items.iter().for_each(|item| named(item, key, names)),
        Value::Map(entries) => {
            for entry in entries {
                match entry.value.as_str() {
                    Some(name) if entry.key == key => {
                        names.insert(name.to_owned());
                    }
                    _ => named(&entry.value, key, names),
                }
            }
        }
        _ => {}
    }
}
