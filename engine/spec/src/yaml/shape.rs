//! The event stream of a text as an arena: what stands where, with every bound checked before anything grows.

use std::borrow::Cow;
use std::collections::HashMap;

use engine_base::codes::spec as codes;
use engine_base::{Diagnostic, FileId, Span};
use saphyr_parser::{Event, Parser, ScalarStyle};

use super::syntax::Failure;
use super::{MAX_ALIAS_NODES, MAX_DEPTH, MAX_NODES, Problems, Stop};

/// A text's nodes.
pub(super) struct Shapes<'t> {
    pub(super) nodes: Vec<Shape<'t>>,
    pub(super) root: Option<usize>,
    pub(super) bytes: Bytes,
}

/// A node as it was written.
pub(super) struct Shape<'t> {
    pub(super) kind: Kind<'t>,
    pub(super) start: usize,
    pub(super) end: usize,
    /// How many nodes it stands for, itself included and aliases repeated.
    size: usize,
    /// How many levels of lists and maps, itself included.
    height: usize,
    /// It has a tag, which was reported.
    pub(super) tagged: bool,
}

pub(super) enum Kind<'t> {
    Scalar { text: Cow<'t, str>, style: ScalarStyle },
    List(Vec<usize>),
    Map(Vec<(usize, usize)>),
    Alias(usize),
}

impl Shapes<'_> {
    /// The node that aliases lead to.
    pub(super) fn resolve(&self, mut at: usize) -> usize {
        // An alias leads to an earlier node, so this ends.
        while let Kind::Alias(to) = self.nodes[at].kind {
            at = to;
        }
        at
    }
}

/// From character indices, which the parsers count in, to bytes.
pub(super) struct Bytes {
    /// Empty for ASCII text.
    of_char: Vec<u32>,
    length: usize,
}

impl Bytes {
    pub(super) fn of(text: &str) -> Bytes {
        let of_char = match text.is_ascii() {
            true => Vec::new(),
            false => text.char_indices().map(|(byte, _)| u32::try_from(byte).unwrap_or(u32::MAX)).collect(),
        };
        Bytes { of_char, length: text.len() }
    }

    pub(super) fn at(&self, index: usize) -> usize {
        if self.of_char.is_empty() {
            return index.min(self.length);
        }
        self.of_char.get(index).map_or(self.length, |byte| *byte as usize)
    }
}

struct Reader<'t, 'p> {
    file: FileId,
    text: &'t str,
    nodes: Vec<Shape<'t>>,
    /// Open lists and maps, with the key that waits for its value.
    open: Vec<(usize, Option<usize>)>,
    root: Option<usize>,
    /// Anchor number to node, and whether it is complete.
    anchors: HashMap<usize, usize>,
    alias_nodes: usize,
    problems: &'p mut Problems,
}

/// Reads the events of a text.
pub(super) fn read<'t>(file: FileId, text: &'t str, problems: &mut Problems) -> Result<Shapes<'t>, Stop> {
    let bytes = Bytes::of(text);
    let mut reader = Reader {
        file,
        text,
        nodes: Vec::new(),
        open: Vec::new(),
        root: None,
        anchors: HashMap::new(),
        alias_nodes: 0,
        problems,
    };
    let mut documents = 0;
    for event in Parser::new_from_str(text) {
        let (event, span) = event.map_err(|error| {
            let open_flow = reader.open.iter().rev().map(|(at, _)| reader.nodes[*at].start);
            Stop::Syntax(Failure {
                byte: bytes.at(error.marker().index()),
                reason: error.info().to_owned(),
                open_flow: open_flow.take_while(|start| text[*start..].starts_with(['{', '['])).next(),
            })
        })?;
        let start = bytes.at(span.start.index());
        let end = bytes.at(span.end.index()).max(start);
        if matches!(event, Event::DocumentStart(_)) {
            documents += 1;
            if documents > 1 {
                return Err(reader.fatal(
                    codes::DOCUMENTS,
                    (start, end),
                    "a second document starts here: a file is one pipeline",
                    "put it into a file of its own, or remove the `---`",
                ));
            }
        }
        reader.event(event, start, end)?;
        if reader.nodes.len() > MAX_NODES {
            return Err(reader.fatal(
                codes::FILE_TOO_LARGE,
                (start, end),
                &format!("the file has more than {MAX_NODES} values"),
                "a pipeline file holds no data: put rows, mappings and weights into files of their own",
            ));
        }
    }
    if reader.root.is_none() {
        return Err(reader.fatal(
            codes::DOCUMENTS,
            (0, 0),
            "the file is empty",
            "begin with `version: 1` and `pipeline: name`, and name `sources:` and `sinks:`",
        ));
    }
    Ok(Shapes { nodes: reader.nodes, root: reader.root, bytes })
}

impl<'t> Reader<'t, '_> {
    fn fatal(&self, code: engine_base::Code, (start, end): (usize, usize), message: &str, help: &str) -> Stop {
        let span = Span { file: self.file, start, end };
        Stop::Fatal(Box::new(Diagnostic::error(code, span, message).help(help)))
    }

    fn event(&mut self, event: Event<'t>, start: usize, end: usize) -> Result<(), Stop> {
        match event {
            Event::Scalar(text, style, anchor, tag) => {
                let end =
                    if style == ScalarStyle::Plain { end.min(start + trimmed(&self.text[start..end])) } else { end };
                self.tag(tag.is_some(), start, end);
                let at = self.add(Kind::Scalar { text, style }, start, end, 1);
                self.nodes[at].tagged = tag.is_some();
                self.anchor(anchor, at);
                self.place(at);
            }
            Event::Alias(anchor) => {
                let (target, size, height) = match self.anchors.get(&anchor) {
                    Some(at) if !self.open.iter().any(|(open, _)| open == at) => {
                        (*at, self.nodes[*at].size, self.nodes[*at].height)
                    }
                    _ => {
                        return Err(self.fatal(
                            codes::ALIAS,
                            (start, end),
                            "this alias stands inside what it repeats",
                            "write the value out",
                        ));
                    }
                };
                self.alias_nodes = self.alias_nodes.saturating_add(size);
                if self.alias_nodes > MAX_ALIAS_NODES {
                    return Err(self.fatal(
                        codes::ALIAS,
                        (start, end),
                        &format!("the aliases of this file repeat more than {MAX_ALIAS_NODES} values"),
                        "write out what is repeated, or repeat less of it",
                    ));
                }
                self.depth(height, start, end)?;
                let at = self.add(Kind::Alias(target), start, end, size);
                self.nodes[at].height = height;
                self.place(at);
            }
            Event::SequenceStart(anchor, tag) => {
                self.begin(Kind::List(Vec::new()), anchor, tag.is_some(), start, end)?
            }
            Event::MappingStart(anchor, tag) => self.begin(Kind::Map(Vec::new()), anchor, tag.is_some(), start, end)?,
            Event::SequenceEnd | Event::MappingEnd => self.end(start),
            Event::Nothing | Event::StreamStart | Event::StreamEnd | Event::DocumentStart(_) | Event::DocumentEnd => {}
        }
        Ok(())
    }

    fn add(&mut self, kind: Kind<'t>, start: usize, end: usize, size: usize) -> usize {
        self.nodes.push(Shape { kind, start, end, size, height: 0, tagged: false });
        self.nodes.len() - 1
    }

    fn anchor(&mut self, anchor: usize, at: usize) {
        if anchor > 0 {
            self.anchors.insert(anchor, at);
        }
    }

    fn tag(&mut self, tagged: bool, start: usize, end: usize) {
        if tagged {
            let written = self.text[start..end].lines().next().unwrap_or_default();
            self.problems.push(
                Diagnostic::error(
                    codes::TAG,
                    Span { file: self.file, start, end: start + written.trim_end().len() },
                    "`!` starts a YAML tag, and tags are not part of the language",
                )
                .help(match written.len() {
                    0..=60 => {
                        format!("remove the tag; if this is text or an expression, put it in quotes: `\"{written}\"`")
                    }
                    _ => "remove the tag; if this is text or an expression, put it in quotes".to_owned(),
                }),
            );
        }
    }

    fn depth(&self, more: usize, start: usize, end: usize) -> Result<(), Stop> {
        if self.open.len() + more > MAX_DEPTH {
            return Err(self.fatal(
                codes::TOO_DEEP,
                (start, end),
                &format!("lists and maps stand more than {MAX_DEPTH} levels deep in one another"),
                "close the brackets, or flatten the value",
            ));
        }
        Ok(())
    }

    fn begin(&mut self, kind: Kind<'t>, anchor: usize, tagged: bool, start: usize, end: usize) -> Result<(), Stop> {
        self.depth(1, start, end)?;
        self.tag(tagged, start, end);
        let at = self.add(kind, start, end, 1);
        self.nodes[at].tagged = tagged;
        self.anchor(anchor, at);
        self.open.push((at, None));
        Ok(())
    }

    fn end(&mut self, end_event: usize) {
        let Some((at, _)) = self.open.pop() else { return };
        let children: Vec<usize> = match &self.nodes[at].kind {
            Kind::List(items) => items.clone(),
            Kind::Map(entries) => entries.iter().flat_map(|(key, value)| [*key, *value]).collect(),
            Kind::Scalar { .. } | Kind::Alias(_) => Vec::new(),
        };
        let size = children.iter().fold(1_usize, |sum, child| sum.saturating_add(self.nodes[*child].size));
        let height = 1 + children.iter().map(|child| self.nodes[*child].height).max().unwrap_or(0);
        let last = children.iter().map(|child| self.nodes[*child].end).max().unwrap_or(end_event);
        let closed = self.text[end_event..].starts_with(['}', ']']);
        let node = &mut self.nodes[at];
        node.size = size;
        node.height = height;
        // A block ends with its last child: the event stands after the blank lines and comments that follow.
        node.end = if closed { end_event + 1 } else { last }.max(node.start);
        self.place(at);
    }

    /// Puts a finished node into what is open.
    fn place(&mut self, at: usize) {
        let Some((parent, key)) = self.open.last_mut() else {
            self.root = Some(at);
            return;
        };
        match (&mut self.nodes[*parent].kind, key.take()) {
            (Kind::List(items), _) => items.push(at),
            (Kind::Map(entries), Some(key)) => entries.push((key, at)),
            (Kind::Map(_), None) => *key = Some(at),
            (Kind::Scalar { .. } | Kind::Alias(_), _) => {}
        }
    }
}

fn trimmed(text: &str) -> usize {
    text.trim_end().len()
}
