//! `parameters`, with the values of `--param`.

use engine_base::codes::spec as codes;
use engine_base::{Diagnostic, Diagnostics};
use indexmap::IndexMap;
use schemars::JsonSchema;
use serde::Deserialize;

use super::overrides::CommandLine;
use super::{LoadOptions, Parameter, components};
use crate::decode::{found, plain_scalar};
use crate::node::{Entry, Node, Value};
use crate::types::{ColumnType, FieldSpec};
use crate::{Files, substitute};

/// A value that is given when the pipeline starts.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "Parameter")]
pub struct ParameterConfig {
    /// Its type: a scalar such as `float64`, `string` or `int64 | null`.
    #[serde(rename = "type")]
    pub ty: FieldSpec,
    /// The value unless `--param` gives one. Without a default, `--param` must.
    pub default: Option<Node>,
    /// What it is for.
    pub description: Option<String>,
}

pub(super) fn read(
    root: &mut Node,
    files: &dyn Files,
    options: &LoadOptions,
    command_line: &CommandLine,
    diagnostics: &mut Diagnostics,
) -> IndexMap<String, Parameter> {
    let mut parameters = IndexMap::new();
    let values = substitute::Values { files, parameters: None, required: options.secrets_required };
    if let Value::Map(entries) = &mut root.value {
        for entry in entries.iter_mut().filter(|entry| entry.key == "parameters") {
            values.replace_in(&mut entry.value, diagnostics);
        }
    }
    let mut unreadable = Vec::new();
    for entry in root.get("parameters").map(Node::entries).unwrap_or_default() {
        components::check_name(entry, "a parameter", diagnostics);
        // What the declaration has wrong is reported with the frame.
        let Some(config) = entry.value.decode::<ParameterConfig>(&mut Diagnostics::new()) else {
            unreadable.push(entry.key.as_str());
            continue;
        };
        if !check_type(entry, &config.ty, diagnostics) {
            unreadable.push(entry.key.as_str());
            continue;
        }
        let given = options.params.iter().zip(&command_line.params).rfind(|((name, _), _)| *name == entry.key);
        let value = match given {
            Some(((_, text), (_, span))) => {
                let mut node = Node::new(*span, Value::String(text.clone()));
                node.substituted = true;
                Some(node)
            }
            None => config.default,
        };
        let value = match value {
            Some(value) => typed(value, &config.ty, &entry.key, diagnostics),
            None if config.ty.nullable => Some(Node::new(entry.key_span, Value::Null)),
            None => {
                if options.secrets_required {
                    diagnostics.push(
                        Diagnostic::error(
                            codes::PARAMETER_WITHOUT_VALUE,
                            entry.key_span,
                            format!("the parameter `{}` has no value", entry.key),
                        )
                        .help(format!("start with `--param {}=VALUE`, or give it a `default`", entry.key)),
                    );
                }
                None
            }
        };
        let parameter = Parameter { name: entry.key.clone(), ty: config.ty, value, span: entry.key_span };
        parameters.insert(entry.key.clone(), parameter);
    }
    for ((name, _), (span, _)) in options.params.iter().zip(&command_line.params) {
        if !parameters.contains_key(name) && !unreadable.contains(&name.as_str()) {
            diagnostics.push(
                Diagnostic::error(codes::UNKNOWN_PARAMETER, *span, format!("there is no parameter `{name}`"))
                    .did_you_mean(name, parameters.keys().map(String::as_str))
                    .help(match parameters.is_empty() {
                        true => "the file has no `parameters`".to_owned(),
                        false => {
                            let names: Vec<&str> = parameters.keys().map(String::as_str).collect();
                            format!("the file has {}", crate::decode::list(&names).replace(" or ", " and "))
                        }
                    }),
            );
        }
    }
    parameters
}

/// Whether a parameter can be of this type; that it can't is reported.
pub(super) fn check_type(entry: &Entry, ty: &FieldSpec, diagnostics: &mut Diagnostics) -> bool {
    let sound = ty.ty.is_scalar() && !matches!(ty.ty, ColumnType::Json | ColumnType::Binary | ColumnType::Duration);
    if !sound {
        diagnostics.push(
            Diagnostic::error(
                codes::BAD_PARAMETER,
                entry.value.span_at(&["type"]),
                format!("a parameter can't be of type `{ty}`"),
            )
            .help("write a scalar type: `bool`, `int64`, `float64`, `decimal(18, 2)`, `string`, `date` or `timestamp`"),
        );
    }
    sound
}

/// The value as the parameter's type has it, or a report.
pub(super) fn typed(mut node: Node, ty: &FieldSpec, name: &str, diagnostics: &mut Diagnostics) -> Option<Node> {
    if node.secret {
        diagnostics.push(
            Diagnostic::error(codes::SECRET_SHOWN, node.span, "a parameter is shown in plans, so it can't be a secret")
                .help("use `${secret:NAME}` at the key that needs it"),
        );
        return None;
    }
    if node.is_placeholder() {
        return Some(node);
    }
    let value = match &node.value {
        Value::String(text) if node.substituted && ty.ty != ColumnType::String => match text.as_str() {
            "null" | "~" => Value::Null,
            text => plain_scalar(text),
        },
        value => value.clone(),
    };
    let integer = |low: i128, high: i128| match &value {
        Value::Int(value) => Some((low..=high).contains(value)),
        _ => None,
    };
    // `None` is a wrong type, `Some(false)` a number out of range.
    let fits = match &ty.ty {
        _ if matches!(value, Value::Null) => ty.nullable.then_some(true),
        ColumnType::Bool => matches!(value, Value::Bool(_)).then_some(true),
        ColumnType::Int8 => integer(i8::MIN.into(), i8::MAX.into()),
        ColumnType::Int16 => integer(i16::MIN.into(), i16::MAX.into()),
        ColumnType::Int32 => integer(i32::MIN.into(), i32::MAX.into()),
        ColumnType::Int64 => integer(i64::MIN.into(), i64::MAX.into()),
        ColumnType::UInt8 => integer(0, u8::MAX.into()),
        ColumnType::UInt16 => integer(0, u16::MAX.into()),
        ColumnType::UInt32 => integer(0, u32::MAX.into()),
        ColumnType::UInt64 => integer(0, u64::MAX.into()),
        ColumnType::Float32 | ColumnType::Float64 => matches!(value, Value::Int(_) | Value::Float(_)).then_some(true),
        ColumnType::Decimal(..) => match &value {
            Value::Int(_) | Value::Float(_) => Some(true),
            Value::String(text) => text.parse::<f64>().is_ok().then_some(true),
            _ => None,
        },
        _ => matches!(value, Value::String(_)).then_some(true),
    };
    let what = found(&node);
    match fits {
        Some(true) => {
            if node.written.raw.is_none()
                && let Value::String(text) = &node.value
            {
                node.written.raw = Some(text.as_str().into());
            }
            if node.substituted
                && let Value::String(text) = &node.value
            {
                // The text of a number is what it reads as now, not the `${...}` it came from.
                node.written.raw = Some(text.as_str().into());
            }
            node.value = value;
            Some(node)
        }
        Some(false) => {
            let message = format!("{what} is out of range for the parameter `{name}` of type `{ty}`");
            let problem = Diagnostic::error(codes::BAD_PARAMETER, node.span, message);
            diagnostics.push(problem.help("write a smaller number, or declare a larger type"));
            None
        }
        None => {
            let message = format!("the parameter `{name}` is of type `{ty}`, and this is {what}");
            let problem = Diagnostic::error(codes::BAD_PARAMETER, node.span, message);
            diagnostics.push(match (&node.value, &ty.ty) {
                (Value::Null, _) => problem.help(format!("write a value, or `type: {ty} | null`")),
                (Value::Bool(_) | Value::Int(_) | Value::Float(_), ColumnType::String) => {
                    problem.help(format!("put it in quotes: `\"{}\"`", node.text().unwrap_or_default()))
                }
                _ => problem.help(format!("write a value of type `{ty}`")),
            });
            None
        }
    }
}
