//! `${env:NAME}`, `${secret:NAME}` and `${param:NAME}` in string values, after parsing.
//!
//! What is replaced is marked, so that the decoder reads it as the type its key wants, refuses it in expressions, and lets
//! secrets only into keys that keep them. `$${` stands for a plain `${`.

use std::sync::Arc;

use engine_base::codes::spec as codes;
use engine_base::{Diagnostic, Diagnostics, Span};

use crate::decode::PLACEHOLDER;
use crate::node::{Node, Places, StandIn, Value};
use crate::{Files, Parameter};

use indexmap::IndexMap;

/// Where values come from.
pub(crate) struct Values<'a> {
    pub(crate) files: &'a dyn Files,
    /// The parameters; `None` while they are read themselves.
    pub(crate) parameters: Option<&'a IndexMap<String, Parameter>>,
    /// A missing one is an error rather than a placeholder.
    pub(crate) required: bool,
}

/// What a reference stands for.
enum Found {
    Text {
        text: String,
        secret: bool,
    },
    Placeholder {
        secret: bool,
    },
    /// Reported.
    Wrong,
}

impl Values<'_> {
    /// Replaces every reference in `node` and below.
    pub(crate) fn replace_in(&self, node: &mut Node, diagnostics: &mut Diagnostics) {
        node.for_each(&mut |node| self.replace(node, diagnostics));
    }

    fn replace(&self, node: &mut Node, diagnostics: &mut Diagnostics) {
        let Value::String(text) = &node.value else { return };
        if !text.contains("${") || node.substituted {
            return;
        }
        let mut replaced = String::with_capacity(text.len());
        let (mut any, mut secret, mut placeholder) = (false, false, false);
        let mut at = 0;
        while let Some(dollar) = text[at..].find("${").map(|found| at + found) {
            if text[..dollar].ends_with('$') {
                replaced.push_str(&text[at..dollar - 1]);
                replaced.push_str("${");
                at = dollar + 2;
                continue;
            }
            replaced.push_str(&text[at..dollar]);
            any = true;
            let Some(length) = reference_length(&text[dollar..]) else {
                diagnostics.push(
                    Diagnostic::error(
                        codes::BAD_SUBSTITUTION,
                        node.locate(dollar..dollar + 2),
                        "this `${` is not closed",
                    )
                    .help("close it with `}`; for a plain `${` write `$${`"),
                );
                at = text.len();
                break;
            };
            let end = dollar + length;
            match self.find(&text[dollar + 2..end - 1], node.locate(dollar..end), diagnostics) {
                Found::Text { text, secret: is_secret } => {
                    replaced.push_str(&text);
                    secret |= is_secret;
                }
                Found::Placeholder { secret: is_secret } => {
                    replaced.push_str(PLACEHOLDER);
                    placeholder = true;
                    secret |= is_secret;
                }
                Found::Wrong => {
                    replaced.push_str(PLACEHOLDER);
                    placeholder = true;
                }
            }
            at = end;
        }
        replaced.push_str(&text[at..]);
        let written: Arc<str> = Arc::from(text.as_str());
        node.value = Value::String(replaced);
        node.written.places = Places::Whole;
        if any {
            node.substituted = true;
            node.secret = secret;
            node.written.raw = Some(written);
            if placeholder {
                node.written.stand_in = Some(StandIn::Placeholder);
            }
        }
    }

    fn find(&self, inside: &str, span: Span, diagnostics: &mut Diagnostics) -> Found {
        let (kind, rest) = inside.split_once(':').unwrap_or((inside, ""));
        let (name, default) = match rest.split_once(":-") {
            Some((name, default)) => (name, Some(default)),
            None => (rest, None),
        };
        let mut wrong = |problem: Diagnostic| {
            diagnostics.push(problem);
            Found::Wrong
        };
        let unknown = |message: String| Diagnostic::error(codes::BAD_SUBSTITUTION, span, message);
        if !["env", "secret", "param"].contains(&kind) {
            let problem =
                unknown(format!("`${{{inside}}}` is not known")).did_you_mean(kind, ["env", "secret", "param"]);
            return wrong(match inside.contains(':') {
                false if is_name(inside) => problem.help(format!("for an environment variable write `${{env:{inside}}}`")),
                _ => problem.help("write `${env:NAME}`, `${env:NAME:-default}`, `${secret:NAME}` or `${param:NAME}`; for a plain `${` write `$${`"),
            });
        }
        if !is_name(name) {
            let message = match name {
                "" => format!("the name of {} is missing", noun(kind)),
                _ => format!("`{name}` is not the name of {}", noun(kind)),
            };
            return wrong(
                unknown(message).help(format!("write `${{{kind}:NAME}}`; a name has letters, digits and `_`")),
            );
        }
        if default.is_some() && kind != "env" {
            return wrong(unknown(format!("{} takes no default here", noun(kind))).help(match kind {
                "param" => "give the parameter a `default` where it is declared",
                _ => "set the secret where the engine runs",
            }));
        }
        match kind {
            "env" => match (self.files.env(name), default) {
                (Some(text), _) => Found::Text { text, secret: false },
                (None, Some(default)) => Found::Text { text: default.to_owned(), secret: false },
                (None, None) => {
                    let message = format!("the environment variable `{name}` is not set");
                    let help = format!("set it, or write a default: `${{env:{name}:-value}}`");
                    if self.required {
                        return wrong(Diagnostic::error(codes::MISSING_ENV, span, message).help(help));
                    }
                    diagnostics.push(
                        Diagnostic::warning(codes::MISSING_ENV, span, message)
                            .at_caret("a placeholder is checked instead")
                            .help(help),
                    );
                    Found::Placeholder { secret: false }
                }
            },
            "secret" => match self.files.secret(name) {
                Some(text) => Found::Text { text, secret: true },
                None if self.required => wrong(
                    Diagnostic::error(codes::MISSING_SECRET, span, format!("the secret `{name}` is not set"))
                        .help(self.files.secret_help(name)),
                ),
                None => Found::Placeholder { secret: true },
            },
            _ => self.parameter(name, span, diagnostics),
        }
    }

    fn parameter(&self, name: &str, span: Span, diagnostics: &mut Diagnostics) -> Found {
        let Some(parameters) = self.parameters else {
            diagnostics.push(
                Diagnostic::error(codes::BAD_SUBSTITUTION, span, "a parameter can't be made of another")
                    .help("write the value, or `${env:NAME}`"),
            );
            return Found::Wrong;
        };
        let Some(parameter) = parameters.get(name) else {
            let problem = Diagnostic::error(codes::UNKNOWN_PARAMETER, span, format!("there is no parameter `{name}`"))
                .did_you_mean(name, parameters.keys().map(String::as_str))
                .help("declare it under `parameters`");
            diagnostics.push(problem);
            return Found::Wrong;
        };
        match &parameter.value {
            Some(value) if !value.is_placeholder() => {
                Found::Text { text: value.text().unwrap_or_default().to_owned(), secret: false }
            }
            _ => Found::Placeholder { secret: false },
        }
    }
}

fn noun(kind: &str) -> &'static str {
    match kind {
        "env" => "an environment variable",
        "secret" => "a secret",
        _ => "a parameter",
    }
}

fn is_name(name: &str) -> bool {
    name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
        && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_' || c == '-' || c == '.' || c == '/')
}

/// The length of the reference that `text` starts with, braces in its default included.
fn reference_length(text: &str) -> Option<usize> {
    let mut depth = 0_usize;
    for (at, b) in text.bytes().enumerate() {
        match b {
            b'{' => depth += 1,
            b'}' => depth -= 1,
            _ => {}
        }
        if b == b'}' && depth == 0 {
            return Some(at + 1);
        }
    }
    None
}
