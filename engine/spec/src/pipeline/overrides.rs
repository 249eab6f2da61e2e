//! `--set path=value`, and the command line as a file that carets can point into.

use engine_base::codes::spec as codes;
use engine_base::{Diagnostic, Diagnostics, FileId, SourceMap, Span};

use super::LoadOptions;
use crate::node::{Entry, Node, Value};
use crate::yaml;

/// The options as a pseudo file, `<command line>`, one on a line.
pub(super) struct CommandLine {
    file: FileId,
    text: String,
    /// The name in `--profile NAME`.
    pub(super) profile: Option<Span>,
    /// For each `--set`: the path and the value.
    set: Vec<(Span, Span)>,
    /// For each `--param`: the name and the value.
    pub(super) params: Vec<(Span, Span)>,
}

impl CommandLine {
    pub(super) fn new(options: &LoadOptions, sources: &mut SourceMap) -> CommandLine {
        let mut text = String::new();
        let mut part = |before: &str, part: &str| {
            text.push_str(before);
            let start = text.len();
            text.push_str(part);
            (start, text.len())
        };
        let profile = options.profile.as_deref().map(|name| {
            let span = part("--profile ", name);
            part("\n", "");
            span
        });
        let mut pairs = |flag: &str, pairs: &[(String, String)]| -> Vec<_> {
            let spans = pairs.iter().map(|(name, value)| {
                let name = part(flag, name);
                let value = part("=", value);
                part("\n", "");
                (name, value)
            });
            spans.collect()
        };
        let set = pairs("--set ", &options.set);
        let params = pairs("--param ", &options.params);
        let file = match text.is_empty() {
            true => FileId(u32::MAX),
            false => sources.add("<command line>", text.as_str()),
        };
        let span = |(start, end)| Span { file, start, end };
        let spans = |pairs: Vec<_>| pairs.into_iter().map(|(name, value)| (span(name), span(value))).collect();
        CommandLine { file, text, profile: profile.map(span), set: spans(set), params: spans(params) }
    }
}

pub(super) fn apply(root: &mut Node, options: &LoadOptions, command_line: &CommandLine, diagnostics: &mut Diagnostics) {
    for ((path, value), (path_span, value_span)) in options.set.iter().zip(&command_line.set) {
        let mut node = match value.trim().is_empty() {
            true => Node::new(*path_span, Value::String(String::new())),
            false => {
                let parsed = yaml::parse_part(
                    command_line.file,
                    &command_line.text,
                    value_span.start,
                    value_span.end,
                    diagnostics,
                );
                let Some(node) = parsed.root else { continue };
                node
            }
        };
        node.for_each(&mut |node| node.written.lenient = true);
        node.written.head = Some(*path_span);
        if path.split('.').next() == Some("include") {
            let message = "`include` can't be set: files are brought in before anything is changed";
            let problem = Diagnostic::error(codes::BAD_OVERRIDE, *path_span, message);
            diagnostics.push(problem.help("set the keys of what they define: `--set sources.rows.path=rows.jsonl`"));
            continue;
        }
        put(root, path, *path_span, node, diagnostics);
    }
}

fn put(root: &mut Node, path: &str, span: Span, new: Node, diagnostics: &mut Diagnostics) {
    let parts: Vec<&str> = path.split('.').collect();
    let Some((last, owners)) = parts.split_last() else { return };
    let mut node = root;
    let mut at = 0;
    for part in owners {
        let part_span = Span { start: span.start + at, end: span.start + at + part.len(), ..span };
        node = match step(node, part) {
            Ok(node) => node,
            Err(problem) => {
                diagnostics.push(problem.at(part_span, part));
                return;
            }
        };
        at += part.len() + 1;
    }
    let last_span = Span { start: span.start + at, end: span.start + at + last.len(), ..span };
    match &mut node.value {
        Value::Map(entries) if !last.is_empty() => match entries.iter_mut().find(|entry| entry.key == *last) {
            Some(entry) => entry.value = new,
            None => entries.push(Entry { key: (*last).to_owned(), key_span: last_span, value: new }),
        },
        Value::List(items) if last.parse::<usize>().is_ok_and(|at| at < items.len()) => {
            let at = last.parse().unwrap_or(0_usize);
            items[at] = new;
        }
        _ => {
            let problem = step(node, last).err().unwrap_or(Missing { names: Vec::new(), what: "no key" });
            diagnostics.push(problem.at(last_span, last));
        }
    }
}

/// A part of a path that leads nowhere.
struct Missing {
    names: Vec<String>,
    what: &'static str,
}

impl Missing {
    fn at(self, span: Span, part: &str) -> Diagnostic {
        let message = format!("there is {} `{part}` to set", self.what);
        Diagnostic::error(codes::BAD_OVERRIDE, span, message)
            .did_you_mean(part, self.names.iter().map(String::as_str))
            .help("write the keys down to the value with dots: `--set sources.rows.path=rows.jsonl`")
    }
}

fn step<'n>(node: &'n mut Node, part: &str) -> Result<&'n mut Node, Missing> {
    let found = match &node.value {
        Value::Map(entries) => entries
            .iter()
            .position(|entry| entry.key == part)
            .ok_or_else(|| Missing { names: entries.iter().map(|entry| entry.key.clone()).collect(), what: "no key" }),
        Value::List(items) => part
            .parse::<usize>()
            .ok()
            .filter(|at| *at < items.len())
            .ok_or(Missing { names: Vec::new(), what: "no item" }),
        _ => Err(Missing { names: Vec::new(), what: "nothing below" }),
    }?;
    match &mut node.value {
        Value::Map(entries) => Ok(&mut entries[found].value),
        Value::List(items) => Ok(&mut items[found]),
        _ => Err(Missing { names: Vec::new(), what: "nothing below" }),
    }
}
