//! The output that a name stands for: a step's, an implied step's, or the errors of several steps.

use super::names::local_steps;
use super::wiring::{Part, Reference};
use super::{NewStep, Planner, list};
use crate::kinds::{Origins, Output, StreamKind, StreamType};
use crate::plan::{ERRORS, Edge, Role};
use crate::rowwise::UnionPlan;
use crate::types;
use engine_base::codes::plan as codes;
use engine_base::{Diagnostic, Span};
use std::sync::Arc;

impl Planner<'_> {
    /// The output that a reference names. `None` where its owner could not be planned, or has no such output (noted).
    pub(super) fn output(&mut self, reference: &Reference, part: &Part<'_>) -> Option<Edge> {
        reference.owner?;
        let owner = match reference.rest.as_str() {
            "" => {
                let main = self.placed.get(&reference.from)?.main;
                let step = &self.steps[main.from.0 as usize];
                if step.outputs.get(main.port).is_some_and(|output| output.port.is_empty()) {
                    return Some(main);
                }
                if self.failed.contains(&reference.from) {
                    return None;
                }
                let readable: Vec<String> = (0..step.outputs.len()).map(|port| step.output_name(port)).collect();
                let readable: Vec<&str> = readable.iter().map(String::as_str).collect();
                let name = &reference.from;
                let problem = Diagnostic::error(
                    codes::UNKNOWN_OUTPUT,
                    reference.span,
                    format!("`{name}` has no one output: each row goes to one of several"),
                );
                self.found.push(problem.help(format!("read one of {}", list(&readable))));
                return None;
            }
            rest => &reference.from[..reference.from.len() - rest.len() - 1],
        };
        // An implied step, `transactions.set`, is read like any other.
        if let Some(placed) = self.placed.get(&reference.from) {
            return Some(placed.main);
        }
        if reference.rest == ERRORS {
            if let Some(instance) = self.pipeline.instances.get(owner) {
                return self.errors_of(reference, owner, &instance.steps, instance.name_span, part);
            }
            if let Some(steps) = self.pipeline.chains.get(owner) {
                let instances = &self.pipeline.instances;
                let of_step = |step: &String| instances.get(step).map_or(vec![step.clone()], |step| step.steps.clone());
                let steps: Vec<String> = steps.iter().flat_map(of_step).collect();
                let span = self.pipeline.operators.get(owner).map_or(reference.span, |step| step.name_span);
                return self.errors_of(reference, owner, &steps, span, part);
            }
        }
        self.named_output(reference, owner, part)
    }

    /// The rows that fail in any step of a chain, or of an instance of a template.
    fn errors_of(
        &mut self,
        reference: &Reference,
        owner: &str,
        steps: &[String],
        span: Span,
        part: &Part<'_>,
    ) -> Option<Edge> {
        let mut edges = Vec::with_capacity(steps.len());
        for name in steps {
            let step = &self.steps[self.placed.get(name)?.own.0 as usize];
            edges.extend(step.error_port().map(|port| Edge { from: step.id, port }));
        }
        match edges.as_slice() {
            [] if self.pipeline.instances.contains_key(owner) => {
                let message = format!("`{owner}` has no output `{ERRORS}`");
                let problem = Diagnostic::error(codes::UNKNOWN_OUTPUT, reference.span, message);
                self.found.push(problem.at_caret("no row can fail in any of its steps"));
                None
            }
            // Told as of any other step.
            [] => self.named_output(reference, owner, part),
            [only] => Some(*only),
            _ => {
                let schema = types::error_schema();
                let origins = Origins::default();
                let stream = StreamType { schema: schema.clone(), event_time: None, kind: StreamKind::Append, origins };
                let id = self.add(NewStep {
                    name: format!("{owner}.{ERRORS}"),
                    kind: "union",
                    implied: true,
                    role: Role::Operator,
                    planned: Arc::new(UnionPlan { inputs: edges.len(), schema }),
                    inputs: edges,
                    outputs: vec![Output { port: String::new(), stream }],
                    can_fail: false,
                    span,
                });
                Some(Edge { from: id, port: 0 })
            }
        }
    }

    /// An output by the name of its step and its port.
    fn named_output(&mut self, reference: &Reference, owner: &str, part: &Part<'_>) -> Option<Edge> {
        let (step, port) = reference.from.rsplit_once('.')?;
        if let Some(placed) = self.placed.get(step) {
            let outputs = &self.steps[placed.own.0 as usize].outputs;
            if let Some(at) = outputs.iter().position(|output| output.port == port) {
                return Some(Edge { from: placed.own, port: at });
            }
        }
        let placed = self.placed.get(owner)?;
        // A step that failed is only guessed at, and its outputs are not known.
        if self.failed.contains(owner) || part.component.name == owner {
            return None;
        }
        let outputs = &self.steps[placed.own.0 as usize].outputs;
        let readable: Vec<String> = outputs
            .iter()
            .map(|output| match output.port.as_str() {
                "" => owner.to_owned(),
                port => format!("{owner}.{port}"),
            })
            .collect();
        let readable: Vec<&str> = readable.iter().map(String::as_str).collect();
        if let Some((instance, wrong)) = reference.via.as_ref().filter(|(_, wrong)| !wrong.is_empty()) {
            let problem = self.unknown_part(instance, wrong, reference.span, outputs);
            self.found.push(problem);
            return None;
        }
        let wrong = &reference.rest;
        let mut problem =
            Diagnostic::error(codes::UNKNOWN_OUTPUT, reference.span, format!("`{owner}` has no output `{wrong}`"));
        if wrong == ERRORS {
            problem = problem.at_caret("no row can fail in it");
        } else {
            let near = engine_base::suggest::nearest(wrong, outputs.iter().map(|output| output.port.as_str()));
            if let Some(near) = near.filter(|near| !near.is_empty()) {
                problem = problem.help(format!("did you mean `{owner}.{near}`?"));
            }
        }
        self.found.push(problem.help(match readable.as_slice() {
            [] => format!("nothing comes out of `{owner}`"),
            [one] => format!("its output is {}", list(&[one])),
            many => format!("its outputs are {}", list(many)),
        }));
        None
    }

    /// What is read of an instance of a template, and is none of its steps and no output of it.
    fn unknown_part(&self, instance: &str, wrong: &str, span: Span, outputs: &[Output]) -> Diagnostic {
        let pipeline = self.pipeline;
        let names = pipeline.operators.keys().chain(pipeline.instances.keys()).map(String::as_str);
        let steps = local_steps(names, instance);
        let ports = outputs.iter().map(|output| output.port.as_str()).filter(|port| !port.is_empty());
        let message = format!("`{instance}` has no step and no output `{wrong}`");
        let problem = Diagnostic::error(codes::UNKNOWN_OUTPUT, span, message);
        match engine_base::suggest::nearest(wrong, steps.iter().copied().chain(ports)) {
            Some(near) => problem.help(format!("did you mean `{instance}.{near}`?")),
            None if steps.len() <= 8 => problem.help(format!("its steps are {}", list(&steps))),
            None => problem,
        }
    }
}
