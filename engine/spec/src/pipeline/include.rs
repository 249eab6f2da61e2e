//! `include:`: other files brought in before anything else is read.
//!
//! ```text
//! fraud.yaml ─include─▶ common/sources.yaml ─include─▶ common/connections.yaml
//!      ▼                       ▼                              ▼
//!   sections        +      sections            +          sections        = one tree, of which every node knows its file
//! ```
//!
//! A file is brought in once, however many name it. What stands in it comes before what stands in the file that names it.

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};

use engine_base::codes::spec as codes;
use engine_base::{Diagnostic, Diagnostics, FileId, SourceMap, Span};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};

use super::frame;
use crate::node::{Entry, Node, Value};
use crate::yaml::{self, Lost};
use crate::{Files, decode};

/// The most files that a pipeline is put together from, and how deep they may name each other.
const MAX_FILES: usize = 200;
const MAX_DEPTH: usize = 16;

/// Sections of entries by name that an included file may have, and what an entry is.
const MAPS: &[(&str, &str)] = &[
    ("parameters", "a parameter"),
    ("connections", "a connection"),
    ("sources", "a source"),
    ("models", "a model"),
    ("templates", "a template"),
    ("operators", "an operator"),
    ("sinks", "a sink"),
];
/// Sections that are lists.
const LISTS: &[&str] = &["objectives", "tests"];
/// Its other keys.
const OTHERS: &[&str] = &["version", "description", "include"];
/// Keys that only the main file has.
pub const MAIN_ONLY: &[&str] = &["pipeline", "profiles", "max_in_flight", "delivery", "commit", "checkpoint"];

/// The folders of the files that a pipeline is put together from: a path is relative to the file that names it.
#[derive(Clone, Debug, Default)]
pub struct Folders {
    main: PathBuf,
    others: HashMap<FileId, PathBuf>,
}

impl Folders {
    /// For what stands in one file.
    pub fn one(folder: impl Into<PathBuf>) -> Folders {
        Folders { main: folder.into(), others: HashMap::new() }
    }

    /// The folder that a path written at `span` is relative to: for the command line that of the main file.
    pub fn of(&self, span: Span) -> &Path {
        self.others.get(&span.file).unwrap_or(&self.main)
    }

    /// The same with a view of a file.
    pub(super) fn with_view(&self, file: FileId, view: FileId) -> Folders {
        let mut folders = self.clone();
        let folder = self.others.get(&file).unwrap_or(&self.main).clone();
        folders.others.insert(view, folder);
        folders
    }

    /// Whether this stands in an included file.
    pub fn is_included(&self, span: Span) -> bool {
        self.others.contains_key(&span.file)
    }
}

/// What `include` takes, for the JSON Schema.
pub(super) struct Includes;

impl JsonSchema for Includes {
    fn inline_schema() -> bool {
        true
    }
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Includes".into()
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "anyOf": [{ "type": "string" }, { "type": "array", "items": { "type": "string" } }] })
    }
}

/// What came of the includes.
pub(super) struct Included {
    /// Nothing was left out.
    pub(super) complete: bool,
    pub(super) lost: Vec<Lost>,
    pub(super) folders: Folders,
}

/// Brings in what `root` includes.
pub(super) fn read(
    root: &mut Node,
    path: &Path,
    files: &dyn Files,
    sources: &mut SourceMap,
    diagnostics: &mut Diagnostics,
) -> Included {
    let main = path.parent().map(Path::to_path_buf).unwrap_or_default();
    let mut reader = Reader {
        files,
        sources,
        diagnostics,
        open: vec![Open { path: path.to_owned(), id: files.canonical(path), span: root.span }],
        known: HashSet::new(),
        parts: Vec::new(),
        included: Included { complete: true, lost: Vec::new(), folders: Folders::one(main) },
    };
    reader.includes_of(root);
    let Reader { parts, included, .. } = reader;
    if !parts.is_empty() {
        merge(root, parts, diagnostics);
    }
    included
}

struct Reader<'a> {
    files: &'a dyn Files,
    sources: &'a mut SourceMap,
    diagnostics: &'a mut Diagnostics,
    /// The files on the way to the one that is read, the main file first.
    open: Vec<Open>,
    known: HashSet<PathBuf>,
    /// The files that were read, each after those it includes.
    parts: Vec<Node>,
    included: Included,
}

struct Open {
    path: PathBuf,
    /// The same for each way to a file.
    id: PathBuf,
    /// Where it is included.
    span: Span,
}

impl Reader<'_> {
    /// Takes `include` out of a file and reads what it names.
    fn includes_of(&mut self, root: &mut Node) {
        let Value::Map(entries) = &mut root.value else { return };
        let Some(at) = entries.iter().position(|entry| entry.key == "include") else { return };
        let entry = entries.remove(at);
        let items = match &entry.value.value {
            Value::Null => &[],
            Value::List(items) => items.as_slice(),
            _ => std::slice::from_ref(&entry.value),
        };
        for item in items {
            match item.as_str() {
                Some(text) if text.contains("${") => {
                    let message = "an include is a plain path: files are read before any value is replaced";
                    let problem = Diagnostic::error(codes::BAD_INCLUDE, item.span, message);
                    self.refuse(problem.help("for what differs between runs use a parameter or a profile"));
                }
                Some(text) if !text.trim().is_empty() => self.file(text, item.span),
                _ => {
                    let message = format!("`include` takes paths of files, not {}", decode::found(item));
                    let problem = Diagnostic::error(codes::WRONG_TYPE, item.span, message);
                    self.refuse(problem.help("write `include: common.yaml`, or a list: `include: [a.yaml, b.yaml]`"));
                }
            }
        }
    }

    /// Notes a problem by which a file is not there: what else refers to it can't be told from a slip.
    fn refuse(&mut self, problem: Diagnostic) {
        self.diagnostics.push(problem);
        self.missing();
    }

    fn missing(&mut self) {
        self.included.complete = false;
        self.included.lost.push(Lost { section: "include".to_owned(), entry: None });
    }

    fn file(&mut self, text: &str, span: Span) {
        let Some(by) = self.open.last() else { return };
        let path = yaml::tidy(&by.path.parent().unwrap_or(Path::new("")).join(text));
        let id = self.files.canonical(&path);
        if let Some(at) = self.open.iter().position(|open| open.id == id) {
            // Nothing is missing by it.
            let problem = self.circle(at, span);
            self.diagnostics.push(problem);
            return;
        }
        if !self.known.insert(id.clone()) {
            return;
        }
        if self.open.len() > MAX_DEPTH || self.known.len() > MAX_FILES {
            let message = format!("a pipeline has at most {MAX_FILES} files, and {MAX_DEPTH} that include each other");
            let problem = Diagnostic::error(codes::BAD_INCLUDE, span, message);
            self.refuse(problem.help("put what belongs together into one file"));
            return;
        }
        let read = yaml::read_file(&path, Some(span), self.files, self.sources, self.diagnostics);
        let Some((file, Some(mut root), complete, lost)) =
            read.map(|(file, parsed)| (file, parsed.root, parsed.complete, parsed.lost))
        else {
            self.missing();
            return;
        };
        if !matches!(root.value, Value::Map(_)) {
            let message = format!("an included file is a map of keys and values, not {}", decode::found(&root));
            let problem = Diagnostic::error(codes::WRONG_TYPE, root.span, message).also(span, "included here");
            self.refuse(problem.help("begin with `version: 1`, and write sections such as `sources:` below it"));
            return;
        }
        self.included.complete &= complete;
        self.included.lost.extend(lost);
        let folder = path.parent().map(Path::to_path_buf).unwrap_or_default();
        self.included.folders.others.insert(file, folder);
        frame::adopt_unindented(&mut root, self.diagnostics);
        frame::version(&root, complete, self.diagnostics);
        self.check_keys(&root, span);
        self.open.push(Open { path, id, span });
        self.includes_of(&mut root);
        self.open.pop();
        self.parts.push(root);
    }

    fn circle(&self, at: usize, span: Span) -> Diagnostic {
        let shown = |open: &Open| open.path.display().to_string();
        let first = shown(&self.open[at]);
        let [only] = &self.open[at..] else {
            let way: Vec<String> = self.open[at..].iter().map(shown).chain([first.clone()]).collect();
            let message = format!("files include each other in a circle: {}", way.join(" -> "));
            let mut problem = Diagnostic::error(codes::BAD_INCLUDE, span, message);
            problem = problem.at_caret(format!("includes `{first}` again"));
            for open in &self.open[at + 1..] {
                problem = problem.also(open.span, format!("includes `{}`", shown(open)));
            }
            return problem.help("put what both need into a file of its own, which both include");
        };
        let message = format!("`{}` includes itself", shown(only));
        Diagnostic::error(codes::BAD_INCLUDE, span, message).help("leave it out")
    }

    fn check_keys(&mut self, root: &Node, included: Span) {
        for entry in root.entries() {
            let key = entry.key.as_str();
            let known = MAPS.iter().map(|(map, _)| *map).chain(LISTS.iter().copied()).chain(OTHERS.iter().copied());
            if known.clone().any(|known| known == key) {
                continue;
            }
            let known: Vec<&str> = known.collect();
            let help = format!("an included file has {}", decode::list(&known).replace(" or ", " and "));
            self.diagnostics.push(if MAIN_ONLY.contains(&key) {
                let message = format!("an included file can't have `{key}`");
                Diagnostic::error(codes::BAD_INCLUDE, entry.key_span, message)
                    .also(included, "included here")
                    .help(format!("`{key}` stands in the file that is run; {help}"))
            } else {
                Diagnostic::error(codes::UNKNOWN_KEY, entry.key_span, format!("unknown key `{key}`"))
                    .did_you_mean(key, known.iter().copied())
                    .help(help)
            });
        }
    }
}

/// Puts the sections of `parts` before those of `root`.
fn merge(root: &mut Node, parts: Vec<Node>, diagnostics: &mut Diagnostics) {
    let Value::Map(main) = &mut root.value else { return };
    let mut sections: Vec<Entry> = Vec::new();
    for part in parts {
        let Value::Map(entries) = part.value else { continue };
        for entry in entries {
            let noun = MAPS.iter().find(|(key, _)| *key == entry.key).map(|(_, noun)| *noun);
            let is_list = LISTS.contains(&entry.key.as_str());
            match (&entry.value.value, noun) {
                (Value::Map(_), Some(_)) => {}
                (Value::List(_), None) if is_list => {}
                (Value::Null, _) => continue,
                _ if noun.is_none() && !is_list => continue,
                _ => {
                    let (key, what) = (&entry.key, decode::found(&entry.value));
                    let due = if is_list { "a list" } else { "a map of names" };
                    let problem = format!("`{key}` takes {due}, not {what}");
                    let problem = Diagnostic::error(codes::WRONG_TYPE, entry.value.span, problem);
                    diagnostics.push(match is_list {
                        true => problem.help("write one `- name: ...` for each"),
                        false => problem.help("write `name:` below it, indented"),
                    });
                    continue;
                }
            }
            match sections.iter_mut().find(|section| section.key == entry.key) {
                Some(section) => append(&mut section.value, entry.value, noun, diagnostics),
                None => sections.push(entry),
            }
        }
    }
    for mut section in sections {
        let noun = MAPS.iter().find(|(key, _)| *key == section.key).map(|(_, noun)| *noun);
        match main.iter_mut().find(|entry| entry.key == section.key) {
            // What is wrong there is told with the frame.
            Some(own) if matches!(own.value.value, Value::Null | Value::Map(_) | Value::List(_)) => {
                let nothing = Node::new(own.value.span, Value::Null);
                let own_value = std::mem::replace(&mut own.value, nothing);
                let (span, head) = (own_value.span, own_value.written.head);
                let empty = matches!(own_value.value, Value::Null);
                if !empty {
                    append(&mut section.value, own_value, noun, diagnostics);
                }
                own.value = section.value;
                if !empty {
                    own.value.span = span;
                    own.value.written.head = head;
                }
            }
            Some(_) => {}
            None => main.push(section),
        }
    }
}

/// Adds the entries of `more` to those of `to`; a name that is there already is reported with both places.
fn append(to: &mut Node, more: Node, noun: Option<&str>, diagnostics: &mut Diagnostics) {
    match (&mut to.value, more.value) {
        (Value::List(items), Value::List(more)) => items.extend(more),
        (Value::Map(entries), Value::Map(more)) => {
            let mut known: HashMap<String, Span> =
                entries.iter().map(|entry| (entry.key.clone(), entry.key_span)).collect();
            for entry in more {
                let Some(first) = known.get(&entry.key) else {
                    known.insert(entry.key.clone(), entry.key_span);
                    entries.push(entry);
                    continue;
                };
                let noun = noun.unwrap_or("an entry");
                let message = format!("`{}` is the name of {noun} already", entry.key);
                diagnostics.push(
                    Diagnostic::error(codes::NAME_TAKEN, entry.key_span, message)
                        .also(*first, "defined here first")
                        .help("give this one another name, or take one of them out"),
                );
            }
        }
        // Lists and maps in one place: the second is told with the frame, if it is the main file's.
        (_, more) => to.value = more,
    }
}

#[cfg(test)]
pub(super) mod tests;
