//! A template on its own: what it declares, checked once however often it is used.

use std::collections::HashSet;

use engine_base::codes::{plan as plan_codes, spec as codes};
use engine_base::{Diagnostic, Diagnostics, Span};
use indexmap::IndexMap;

use super::{ERRORS, MAX_DEPTH, TemplateConfig};
use crate::node::{Entry, Node, Value};
use crate::pipeline::parameters::{self, ParameterConfig};
use crate::pipeline::{Parameter, components};

/// A template, as far as it can be read on its own.
pub(super) struct Template {
    pub(super) name_span: Span,
    pub(super) inputs: Vec<(String, Span)>,
    pub(super) parameters: IndexMap<String, Parameter>,
    pub(super) wrong_parameters: Vec<String>,
    pub(super) operators: Node,
    pub(super) output: (String, Span),
    /// Templates that it uses, and where.
    pub(super) uses: Vec<(String, Span)>,
    pub(super) nodes: usize,
}

/// Reads templates.
pub(super) struct Reader<'d> {
    pub(super) diagnostics: &'d mut Diagnostics,
}

impl Reader<'_> {
    /// A template, or `None` where it is wrong, which is reported here or with the frame.
    pub(super) fn read(&mut self, entry: &Entry) -> Option<Template> {
        let name = &entry.key;
        let config: TemplateConfig = entry.value.decode(&mut Diagnostics::new())?;
        let node = &entry.value;
        let mut problems = Diagnostics::new();
        let mut bad = |span: Span, message: String, help: &str| {
            problems.push(Diagnostic::error(codes::BAD_TEMPLATE, span, message).help(help));
        };
        let operators = node.get("operators")?;
        let step = |name: &str| operators.entry(name);
        let mut inputs: Vec<(String, Span)> = Vec::new();
        for (at, input) in config.inputs.iter().enumerate() {
            let span = node.span_at(&["inputs", &at.to_string()]);
            if inputs.iter().any(|(known, _)| known == input) {
                bad(span, format!("`{input}` is an input of the template already"), "name each input once");
            } else if let Some(step) = step(input) {
                let message = format!("`{input}` is the name of an input of the template already");
                bad(step.key_span, message, "give the step another name");
            } else if !components::is_name(input) {
                self.diagnostics.push(components::bad_name(input, span, "an input"));
            }
            inputs.push((input.clone(), span));
        }
        if inputs.is_empty() {
            let help = "name what it reads: `inputs: [rows]`";
            bad(node.span_at(&["inputs"]), format!("the template `{name}` has no inputs"), help);
        }
        if let Some(reserved) = step(ERRORS) {
            let message = "a step of a template can't be named `errors`: the rows that fail in any of its steps are";
            bad(reserved.key_span, message.to_owned(), "choose another name");
        }
        let last = operators.entries().last();
        if last.is_none() {
            let span = node.entry("operators").map_or(node.head(), |entry| entry.key_span);
            bad(span, format!("the template `{name}` has no steps"), "write them below `operators:`");
        }
        let output = match (config.output, last) {
            (Some(output), _) => (output, node.span_at(&["output"])),
            (None, Some(last)) => (last.key.clone(), last.key_span),
            (None, None) => return self.refused(problems),
        };
        let head = output.0.split('.').next().unwrap_or_default();
        if inputs.iter().any(|(input, _)| input == head) && step(head).is_none() {
            let message = format!("`{head}` is an input of the template, and its output is the output of a step");
            bad(output.1, message, "name a step");
        }
        if problems.has_errors() {
            return self.refused(problems);
        }
        let (parameters, wrong_parameters) = self.parameters_of(node);
        self.check_parameters_used(node);
        let mut uses = Vec::new();
        let mut nodes = 0;
        for operator in operators.entries() {
            uses_of(&operator.value, &mut uses);
        }
        operators.clone().for_each(&mut |_| nodes += 1);
        Some(Template {
            name_span: entry.key_span,
            inputs,
            parameters,
            wrong_parameters,
            operators: operators.clone(),
            output,
            uses,
            nodes,
        })
    }

    fn refused(&mut self, problems: Diagnostics) -> Option<Template> {
        self.diagnostics.extend(problems);
        None
    }

    /// The parameters that a template declares, with their defaults; and the names of those that are wrong.
    fn parameters_of(&mut self, node: &Node) -> (IndexMap<String, Parameter>, Vec<String>) {
        let mut declared = IndexMap::new();
        let mut wrong = Vec::new();
        for entry in node.get("parameters").map(Node::entries).unwrap_or_default() {
            components::check_name(entry, "a parameter", self.diagnostics);
            let config = entry.value.decode::<ParameterConfig>(&mut Diagnostics::new());
            let Some(config) = config.filter(|config| parameters::check_type(entry, &config.ty, self.diagnostics))
            else {
                wrong.push(entry.key.clone());
                continue;
            };
            let given = config.default.is_some();
            let value = match config.default {
                Some(value) => parameters::typed(value, &config.ty, &entry.key, self.diagnostics),
                None if config.ty.nullable => Some(Node::new(entry.key_span, Value::Null)),
                None => None,
            };
            if given && value.is_none() {
                wrong.push(entry.key.clone());
                continue;
            }
            let parameter = Parameter { name: entry.key.clone(), ty: config.ty, value, span: entry.key_span };
            declared.insert(entry.key.clone(), parameter);
        }
        (declared, wrong)
    }

    fn check_parameters_used(&mut self, node: &Node) {
        let mut used = HashSet::new();
        node.get("operators").into_iter().for_each(|operators| mentioned(operators, &mut used));
        for entry in node.get("parameters").map(Node::entries).unwrap_or_default() {
            let name = &entry.key;
            if !used.contains(name.as_str()) {
                let message = format!("no step of the template uses the parameter `{name}`");
                self.diagnostics.push(Diagnostic::warning(plan_codes::UNUSED_PARAMETER, entry.key_span, message).help(
                    format!(
                        "use it as `param.{name}` in an expression or `${{param:{name}}}` in a value, or take it out"
                    ),
                ));
            }
        }
    }
}

/// Templates that an operator uses itself, or in the steps of a chain.
fn uses_of(operator: &Node, uses: &mut Vec<(String, Span)>) {
    if operator.get("type").and_then(Node::as_str) == Some("template")
        && let Some(node) = operator.get("template")
        && let Some(name) = node.as_str()
    {
        uses.push((name.to_owned(), node.span));
    }
    if let Some(Value::List(steps)) = operator.get("steps").map(|steps| &steps.value) {
        // A chain can't stand in a chain.
        for step in steps.iter().filter(|step| step.get("steps").is_none()) {
            uses_of(step, uses);
        }
    }
}

/// Names after `param.` and `param:`.
fn mentioned<'n>(node: &'n Node, used: &mut HashSet<&'n str>) {
    match &node.value {
        Value::String(text) => {
            for (at, found) in text.match_indices("param") {
                let Some(rest) = text[at + found.len()..].strip_prefix(['.', ':']) else { continue };
                let end = rest.find(|c: char| !(c.is_alphanumeric() || c == '_' || c == '-')).unwrap_or(rest.len());
                used.insert(&rest[..end]);
            }
        }
        Value::List(items) => items.iter().for_each(|item| mentioned(item, used)),
        Value::Map(entries) => entries.iter().for_each(|entry| mentioned(&entry.value, used)),
        _ => {}
    }
}

/// The templates that use themselves, each circle reported once.
pub(super) fn circles(templates: &IndexMap<String, Option<Template>>, diagnostics: &mut Diagnostics) -> Vec<String> {
    let uses = |at: usize| templates[at].as_ref().map(|template| template.uses.as_slice()).unwrap_or_default();
    let name = |at: usize| templates.get_index(at).map_or("", |(name, _)| name.as_str());
    let mut done = vec![false; templates.len()];
    let mut wrong = Vec::new();
    for start in 0..templates.len() {
        // The way down to a template, with the next of its uses; a stack of our own, for no depth is too deep for it.
        let mut way = if done[start] { Vec::new() } else { vec![(start, 0_usize)] };
        while let Some((at, next)) = way.last_mut() {
            let at = *at;
            let Some((used, _)) = uses(at).get(*next) else {
                done[at] = true;
                way.pop();
                continue;
            };
            *next += 1;
            let Some(used) = templates.get_index_of(used).filter(|used| !done[*used]) else { continue };
            let Some(from) = way.iter().position(|(open, _)| *open == used) else {
                way.push((used, 0));
                continue;
            };
            let circle = &way[from..];
            let span = |(at, next): (usize, usize)| uses(at)[next - 1].1;
            let names: Vec<&str> = circle.iter().map(|(at, _)| name(*at)).collect();
            let problem = match names.as_slice() {
                [only] => Diagnostic::error(codes::TEMPLATE_CIRCLE, span(circle[0]), format!("`{only}` uses itself")),
                names => {
                    let message =
                        format!("templates use each other in a circle: {} -> {}", names.join(" -> "), names[0]);
                    let mut problem = Diagnostic::error(codes::TEMPLATE_CIRCLE, span(circle[0]), message)
                        .at_caret(format!("`{}` uses `{}`", names[0], names[1]));
                    for (at, step) in circle.iter().enumerate().skip(1).take(MAX_DEPTH) {
                        let used = names[(at + 1) % names.len()];
                        problem = problem.also(span(*step), format!("`{}` uses `{used}`", names[at]));
                    }
                    problem
                }
            };
            diagnostics.push(problem.help("a template is taken apart where it is used, so it can't hold itself"));
            wrong.extend(circle.iter().map(|(at, _)| name(*at).to_owned()));
        }
    }
    wrong
}
