//! What serde complains of, and the same in plain words.

use std::fmt;

use engine_base::codes::spec as codes;
use engine_base::{Code, Diagnostic, codes as registry};
use serde::de::{self, Expected, Unexpected};

use super::Context;
use crate::node::{Node, Value};
use crate::yaml::quoted;

/// A step from a node to one below it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    Entry(usize),
    Item(usize),
}

/// A serde error with the way to the place where it arose.
#[derive(Debug)]
pub(super) struct Failure {
    pub(super) kind: Kind,
    /// From the place upwards.
    pub(super) steps: Vec<Step>,
    /// Some node has claimed it.
    pub(super) placed: bool,
    /// It is the key of the last step that is wrong.
    pub(super) on_key: bool,
}

#[derive(Debug)]
pub(super) enum Kind {
    UnknownField {
        field: String,
        expected: &'static [&'static str],
    },
    Missing(String),
    UnknownVariant {
        variant: String,
        expected: &'static [&'static str],
    },
    /// A variant that needs settings, or has none.
    VariantSettings {
        variant: String,
        needs: bool,
    },
    /// What serde found and wanted, in its words.
    WrongType {
        found: String,
        wanted: String,
    },
    OutOfRange {
        wanted: String,
    },
    NotVariants(&'static [&'static str]),
    Secret,
    Coded {
        code: Code,
        message: String,
        help: String,
    },
    Custom(String),
    /// Already reported, or no problem at all.
    Silent,
}

impl Failure {
    pub(super) fn new(kind: Kind) -> Failure {
        Failure { kind, steps: Vec::new(), placed: false, on_key: false }
    }

    pub(super) fn coded(code: Code, message: impl Into<String>, help: impl Into<String>) -> Failure {
        Failure::new(Kind::Coded { code, message: message.into(), help: help.into() })
    }

    /// From the root downwards.
    pub(super) fn path(&self) -> Vec<Step> {
        self.steps.iter().rev().copied().collect()
    }

    /// One level up.
    pub(super) fn below(mut self, step: Step) -> Failure {
        self.placed = true;
        self.steps.push(step);
        self
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.kind)
    }
}

impl std::error::Error for Failure {}

impl de::Error for Failure {
    fn custom<T: fmt::Display>(message: T) -> Self {
        let text = message.to_string();
        let Some(carried) = text.strip_prefix('\u{1}') else { return Failure::new(Kind::Custom(text)) };
        let mut parts = carried.splitn(3, '\u{1}');
        let code = parts.next().and_then(registry::find).map(|info| info.code);
        let (message, help) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
        match code {
            Some(code) => Failure::coded(code, message, help),
            None => Failure::coded(codes::BAD_VALUE, message, help),
        }
    }

    fn invalid_type(found: Unexpected<'_>, wanted: &dyn Expected) -> Self {
        Failure::new(Kind::WrongType { found: found.to_string(), wanted: wanted.to_string() })
    }

    fn invalid_value(found: Unexpected<'_>, wanted: &dyn Expected) -> Self {
        match found {
            Unexpected::Signed(_) | Unexpected::Unsigned(_) | Unexpected::Float(_) => {
                Failure::new(Kind::OutOfRange { wanted: wanted.to_string() })
            }
            found => Failure::new(Kind::WrongType { found: found.to_string(), wanted: wanted.to_string() }),
        }
    }

    fn invalid_length(length: usize, wanted: &dyn Expected) -> Self {
        Failure::coded(
            codes::BAD_VALUE,
            format!("this has {length} {}", if length == 1 { "entry" } else { "entries" }),
            format!("it takes {}", plain(&wanted.to_string())),
        )
    }

    fn unknown_variant(variant: &str, expected: &'static [&'static str]) -> Self {
        Failure::new(Kind::UnknownVariant { variant: variant.to_owned(), expected })
    }

    fn unknown_field(field: &str, expected: &'static [&'static str]) -> Self {
        Failure::new(Kind::UnknownField { field: field.to_owned(), expected })
    }

    fn missing_field(field: &'static str) -> Self {
        Failure::new(Kind::Missing(field.to_owned()))
    }

    fn duplicate_field(field: &'static str) -> Self {
        Failure::coded(codes::DUPLICATE_KEY, format!("`{field}` is given twice, once by another name"), "remove one")
    }
}

/// `a`, `b` or `c`.
pub(crate) fn list(names: &[&str]) -> String {
    let quoted: Vec<String> = names.iter().map(|name| format!("`{name}`")).collect();
    match quoted.split_last() {
        None => "nothing".to_owned(),
        Some((last, [])) => last.clone(),
        Some((last, others)) => format!("{} or {last}", others.join(", ")),
    }
}

/// A type in serde's words as a person would say it.
fn plain(wanted: &str) -> String {
    match wanted {
        "a string" | "str" | "string" | "a character" => "a text".to_owned(),
        "a boolean" | "bool" => "`true` or `false`".to_owned(),
        "u8" | "u16" | "u32" | "u64" | "u128" | "usize" => "a whole number, zero or more".to_owned(),
        "i8" | "i16" | "i32" | "i64" | "i128" | "isize" => "a whole number".to_owned(),
        "a nonzero u8" | "a nonzero u16" | "a nonzero u32" | "a nonzero u64" | "a nonzero usize" => {
            "a whole number above zero".to_owned()
        }
        "f32" | "f64" | "float" => "a number".to_owned(),
        "a sequence" | "an array" => "a list".to_owned(),
        "a map" | "map" => "a map of keys and values".to_owned(),
        "unit" => "nothing".to_owned(),
        other if other.starts_with("struct ") || other.starts_with("tuple struct") => {
            "a map of keys and values".to_owned()
        }
        other => other.strip_prefix("a sequence of ").map_or_else(|| other.to_owned(), |of| format!("a list of {of}")),
    }
}

fn range(wanted: &str) -> Option<String> {
    Some(match wanted {
        "u8" => format!("0 to {}", u8::MAX),
        "u16" => format!("0 to {}", u16::MAX),
        "u32" => format!("0 to {}", u32::MAX),
        "u64" | "usize" => format!("0 to {}", u64::MAX),
        "i8" => format!("{} to {}", i8::MIN, i8::MAX),
        "i16" => format!("{} to {}", i16::MIN, i16::MAX),
        "i32" => format!("{} to {}", i32::MIN, i32::MAX),
        "i64" | "isize" => format!("{} to {}", i64::MIN, i64::MAX),
        other if other.starts_with("a nonzero") => "1 or more".to_owned(),
        _ => return None,
    })
}

/// What a node is, in words. A secret's value is not told.
pub(crate) fn found(node: &Node) -> String {
    if node.secret {
        return "a secret".to_owned();
    }
    let text = node.text().unwrap_or_default();
    let short = text.chars().count() <= 40 && !text.contains('\n');
    match &node.value {
        Value::Null if text.is_empty() => "nothing".to_owned(),
        Value::Null => "null".to_owned(),
        Value::Bool(value) => format!("`{value}`"),
        Value::Int(_) | Value::Float(_) if short => format!("the number `{text}`"),
        Value::Int(_) | Value::Float(_) => "a number".to_owned(),
        Value::String(_) if short => format!("the text `{text}`"),
        Value::String(_) => "a text".to_owned(),
        Value::List(_) => "a list".to_owned(),
        Value::Map(_) => "a map".to_owned(),
    }
}

const COMMENT_HELP: &str = "`#` starts a comment in YAML: put it in quotes if it is the value";

/// Reports a secret where it would be shown.
pub(crate) fn refuse_secret(node: &Node, key: &str, diagnostics: &mut engine_base::Diagnostics) -> bool {
    if node.secret {
        diagnostics.push(secret_shown(node.span, &format!("`{key}`")));
    }
    node.secret
}

fn secret_shown(span: engine_base::Span, what: &str) -> Diagnostic {
    Diagnostic::error(codes::SECRET_SHOWN, span, format!("{what} is shown in plans and logs, so it takes no secret"))
        .help("put the secret into a key that is kept secret, or use `${env:NAME}` for what may be seen")
}

/// A failure as a diagnostic.
pub(super) fn explain(failure: &Failure, context: &Context) -> Diagnostic {
    let span = context.span;
    let key = context.key.as_deref();
    match &failure.kind {
        Kind::UnknownField { field, expected } => {
            let problem = Diagnostic::error(codes::UNKNOWN_KEY, span, format!("unknown key `{field}`"))
                .did_you_mean(field, expected.iter().copied());
            match expected.len() {
                0 => problem.help("no keys stand here"),
                1..=16 => problem.help(format!("the keys here are {}", list_and(expected))),
                _ if problem.help.is_empty() => problem.help(format!("the keys here are {}", list_and(expected))),
                _ => problem,
            }
        }
        Kind::Missing(field) => {
            let problem = Diagnostic::error(codes::MISSING_KEY, span, format!("the key `{field}` is missing"));
            problem.help(match key {
                Some(key) => format!("add `{field}:` below `{key}`"),
                None => format!("add `{field}:`"),
            })
        }
        Kind::UnknownVariant { variant, expected } => {
            let message = match key.filter(|_| !failure.on_key) {
                Some(key) => format!("`{key}` can't be `{variant}`"),
                None => format!("`{variant}` is not known here"),
            };
            Diagnostic::error(codes::UNKNOWN_VALUE, span, message)
                .did_you_mean(variant, expected.iter().copied())
                .help(format!("it is {}", list(expected)))
        }
        Kind::NotVariants(expected) => {
            let problem = wrong_type(context, &list(expected));
            problem.help(format!("write {}", list(expected)))
        }
        Kind::VariantSettings { variant, needs } => {
            let (message, help) = match needs {
                true => {
                    (format!("`{variant}` needs its settings"), format!("write `{variant}:` with its keys below it"))
                }
                false => (format!("`{variant}` has no settings"), format!("write `{variant}` alone")),
            };
            Diagnostic::error(codes::WRONG_TYPE, span, message).help(help)
        }
        Kind::WrongType { wanted, .. } => {
            let problem = wrong_type(context, &plain(wanted));
            remedy(problem, context, wanted)
        }
        Kind::OutOfRange { wanted } => {
            let number = context.node.as_ref().and_then(Node::text).unwrap_or("this number");
            match (range(wanted), key) {
                (Some(range), Some(key)) => {
                    Diagnostic::error(codes::OUT_OF_RANGE, span, format!("`{number}` is out of range for `{key}`"))
                        .help(format!("it takes {range}"))
                }
                (Some(range), None) => {
                    Diagnostic::error(codes::OUT_OF_RANGE, span, format!("`{number}` is out of range"))
                        .help(format!("it takes {range}"))
                }
                (None, _) => wrong_type(context, &plain(wanted)),
            }
        }
        Kind::Secret => secret_shown(span, &key.map_or("this value".to_owned(), |key| format!("`{key}`"))),
        Kind::Coded { code, message, help } => {
            let message = match key {
                Some(key) if *code == codes::MISSING_UNIT => format!("{message}, and `{key}` needs one"),
                _ => message.clone(),
            };
            let problem = Diagnostic::error(*code, span, message).help(help.clone());
            match context.node.as_ref().is_some_and(|node| node.written.only_comment) {
                true => problem.help(COMMENT_HELP),
                false => problem,
            }
        }
        Kind::Custom(message) => match key {
            Some(key) if message.starts_with("data did not match any variant") => {
                Diagnostic::error(codes::BAD_VALUE, span, format!("`{key}` has none of the forms that it takes"))
                    .help("see the reference of this key")
            }
            Some(key) => Diagnostic::error(codes::BAD_VALUE, span, format!("`{key}`: {message}")),
            None => Diagnostic::error(codes::BAD_VALUE, span, message.clone()),
        },
        Kind::Silent => Diagnostic::error(codes::BAD_VALUE, span, "this value can't be read"),
    }
}

fn list_and(names: &[&str]) -> String {
    list(names).replace(" or ", " and ")
}

fn wrong_type(context: &Context, wanted: &str) -> Diagnostic {
    let what = context.node.as_ref().map_or("something else".to_owned(), found);
    let message = match (&context.key, what.as_str()) {
        (Some(key), "nothing") => format!("`{key}` has no value; it takes {wanted}"),
        (Some(key), what) => format!("`{key}` takes {wanted}, not {what}"),
        (None, what) => format!("{wanted} is due here, not {what}"),
    };
    let problem = Diagnostic::error(codes::WRONG_TYPE, context.span, message);
    match context.node.as_ref().is_some_and(|node| node.substituted) {
        true => problem.at_caret("after `${...}` was replaced"),
        false => problem,
    }
}

/// Adds the remedy for the common slips, and the code where there is a special one.
fn remedy(mut problem: Diagnostic, context: &Context, wanted: &str) -> Diagnostic {
    let Some(node) = &context.node else { return problem };
    let text = node.text().unwrap_or_default();
    let wanted = plain(wanted);
    let help = match (&node.value, wanted.as_str()) {
        _ if node.secret => return problem,
        (Value::Null, _) if node.written.only_comment => COMMENT_HELP.to_owned(),
        (Value::Null, _) if text.is_empty() => match context.key.as_deref() {
            Some(key) => format!("write a value, indent what belongs to `{key}` deeper than it, or leave the key out"),
            None => "write a value".to_owned(),
        },
        (Value::Bool(_) | Value::Int(_) | Value::Float(_) | Value::Null, "a text") => {
            format!("put it in quotes: `{}`", quoted(text))
        }
        (Value::String(_), "`true` or `false`") => {
            let bool = match text.to_ascii_lowercase().as_str() {
                "yes" | "on" | "y" | "true" | "t" => Some("true"),
                "no" | "off" | "n" | "false" | "f" => Some("false"),
                _ => None,
            };
            match bool {
                Some(bool) => {
                    problem.code = codes::NOT_A_BOOLEAN;
                    format!("write `{bool}`")
                }
                None => "write `true` or `false`".to_owned(),
            }
        }
        (Value::Int(0 | 1), "`true` or `false`") => {
            problem.code = codes::NOT_A_BOOLEAN;
            format!("write `{}`", if text == "0" { "false" } else { "true" })
        }
        (Value::String(_), wanted) if wanted.contains("number") && text.parse::<f64>().is_ok() => {
            format!("write it without quotes: `{text}`")
        }
        (Value::String(_) | Value::Int(_) | Value::Float(_) | Value::Bool(_), wanted)
            if wanted.starts_with("a list") =>
        {
            match text.len() {
                0..=60 => format!("write `[{text}]`"),
                _ => "write `[a, b]`, or one `- item` a line".to_owned(),
            }
        }
        (Value::String(_), "a map of keys and values") if text.contains(':') => {
            "a space is due after each `:`, and each key stands on its own line".to_owned()
        }
        (Value::Map(_), wanted) if wanted.starts_with("a list") => "write `[a, b]`, or one `- item` a line".to_owned(),
        (Value::Map(entries), "a text") if entries.len() == 1 => {
            "put the text in quotes if it has a `:` or `{` in it".to_owned()
        }
        (Value::List(items), "a text") if items.len() == 1 => "write it without the brackets".to_owned(),
        (_, wanted) => format!("write {wanted}"),
    };
    problem.help.push(help);
    problem
}
