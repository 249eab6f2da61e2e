//! The spanned tree: a YAML document in which every node and key knows its place.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use engine_base::{Diagnostics, FileId, Span};

/// A node of the document.
#[derive(Clone)]
pub struct Node {
    /// Its place in the file it was written in.
    pub span: Span,
    /// What it is.
    pub value: Value,
    /// The text came, wholly or partly, from `${...}`: a scalar is then read as the type that its key wants.
    pub substituted: bool,
    /// It holds a secret: it must never be shown.
    pub secret: bool,
    /// How it was written.
    pub(crate) written: Written,
}

/// How a scalar was written: what [`Node::locate`] and the text of numbers need.
#[derive(Clone, Debug, Default)]
pub(crate) struct Written {
    /// The text of a plain scalar that is not a string (`1.50`, `~`), or of a string before substitution.
    pub(crate) raw: Option<Arc<str>>,
    /// Where the bytes of the text stand.
    pub(crate) places: Places,
    /// The key that it is the value of: where a key that it lacks is missed.
    pub(crate) head: Option<Span>,
    /// What the decoder makes of it, if not what was written.
    pub(crate) stand_in: Option<StandIn>,
    /// Nothing stands there but a comment, which may be meant as the value: `color: #fff`.
    pub(crate) only_comment: bool,
    /// It comes from a command line, where nobody writes quotes: a number is text where a text is due.
    pub(crate) lenient: bool,
    /// Keys that the decoder took out because they were wrong.
    pub(crate) dropped: Vec<String>,
}

/// A node without a value of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum StandIn {
    /// It comes from a variable or secret that is not to be had here, so that it reads as any value that its key takes.
    Placeholder,
    /// It was wrong, which was reported; it reads as any value so that the rest can be checked.
    Blank,
}

/// Where the bytes of a scalar's text stand in the file.
#[derive(Clone, Debug, Default)]
pub(crate) enum Places {
    /// Not to be told apart: the whole span.
    #[default]
    Whole,
    /// One after the other from this byte of the file.
    From(usize),
    /// Steps of (byte of the text, byte of the file), ascending; in between one after the other.
    Steps(Arc<[(usize, usize)]>),
}

impl fmt::Debug for Node {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.secret { f.write_str("***") } else { self.value.fmt(f) }
    }
}

/// The strict core of YAML: only `true` and `false` are booleans; there are no tags and no merge keys.
#[derive(Clone, Debug)]
pub enum Value {
    /// `null`, `~` or nothing.
    Null,
    /// `true` or `false`.
    Bool(bool),
    /// A whole number.
    Int(i128),
    /// Any other number.
    Float(f64),
    /// Text.
    String(String),
    /// A sequence.
    List(Vec<Node>),
    /// A mapping, in the order of the file. Keys are unique.
    Map(Vec<Entry>),
}

/// A piece of a text that is put together from another's: see [`Node::composed`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Piece {
    /// These bytes of the other text.
    Of(Range<usize>),
    /// What stands in the place of these bytes.
    Instead(Range<usize>, String),
}

/// A key and its value.
#[derive(Clone, Debug)]
pub struct Entry {
    /// The key.
    pub key: String,
    /// Its place.
    pub key_span: Span,
    /// The value.
    pub value: Node,
}

impl Node {
    /// A node that was not read from a file, or whose text can't be located within `span`.
    pub fn new(span: Span, value: Value) -> Node {
        Node { span, value, substituted: false, secret: false, written: Written::default() }
    }

    /// The text of any scalar as it was written: of `1.50` too, which is a number.
    pub fn text(&self) -> Option<&str> {
        match &self.value {
            Value::String(text) => Some(text),
            _ => self.written.raw.as_deref(),
        }
    }

    /// The place in the file of a range of bytes of this scalar's text, whatever its quoting or block style.
    pub fn locate(&self, range: Range<usize>) -> Span {
        let clamp = |byte: usize| byte.clamp(self.span.start, self.span.end.max(self.span.start));
        let at = |byte: usize| match &self.written.places {
            Places::Whole => None,
            Places::From(start) => Some(clamp(start.saturating_add(byte))),
            Places::Steps(steps) => {
                let step = steps.get(steps.partition_point(|(text, _)| *text <= byte).checked_sub(1)?)?;
                Some(clamp(step.1.saturating_add(byte - step.0)))
            }
        };
        let end = if range.end > range.start { at(range.end - 1).map(|last| last + 1) } else { at(range.start) };
        match (at(range.start), end) {
            (Some(start), Some(end)) => Span { start, end: end.max(start), ..self.span },
            _ => self.span,
        }
    }

    /// A text put together from pieces of this one's, which knows where in the file they stand.
    pub fn composed(&self, pieces: &[Piece]) -> Node {
        let mut text = String::new();
        let mut steps: Vec<(usize, usize)> = Vec::new();
        let mut span: Option<Span> = None;
        let mut step = |at: usize, byte: usize| match steps.last() {
            Some((text, file)) if file + (at - text) == byte => {}
            _ => steps.push((at, byte)),
        };
        let of = self.text().unwrap_or_default();
        for piece in pieces {
            let (range, written) = match piece {
                Piece::Of(range) => (range.clone(), of.get(range.clone()).unwrap_or_default()),
                Piece::Instead(range, written) => (range.clone(), written.as_str()),
            };
            let place = self.locate(range.clone());
            for byte in 0..written.len() {
                let at = match piece {
                    Piece::Of(_) => self.locate(range.start + byte..range.start + byte + 1).start,
                    Piece::Instead(..) => (place.start + byte).min(place.end.max(place.start + 1) - 1),
                };
                step(text.len() + byte, at);
            }
            text.push_str(written);
            span = Some(match span {
                Some(span) => Span { start: span.start.min(place.start), end: span.end.max(place.end), ..span },
                None => place,
            });
        }
        let places = match self.written.places {
            Places::Whole => Places::Whole,
            _ => Places::Steps(steps.into()),
        };
        Node {
            span: span.unwrap_or(self.span),
            value: Value::String(text),
            substituted: self.substituted,
            secret: self.secret,
            written: Written { places, ..Written::default() },
        }
    }

    /// The same under a key that stands at `head`: where a key that it lacks is missed.
    #[must_use]
    pub fn below(mut self, head: Span) -> Node {
        self.written.head = Some(head);
        self
    }

    /// Whether it stands for a variable or secret that is not to be had here (dry-run): its text says nothing.
    pub fn is_placeholder(&self) -> bool {
        self.written.stand_in == Some(StandIn::Placeholder)
    }

    /// The place to name when something is missing in this node: its key, else its first line.
    pub fn head(&self) -> Span {
        self.written.head.unwrap_or(self.span)
    }

    /// Moves it and all below by `bytes` within its file.
    pub(crate) fn shift(&mut self, bytes: usize) {
        self.for_each(&mut |node| {
            let shifted = |span: Span| Span { start: span.start + bytes, end: span.end + bytes, ..span };
            node.span = shifted(node.span);
            node.written.head = node.written.head.map(shifted);
            match &mut node.written.places {
                Places::Whole => {}
                Places::From(start) => *start += bytes,
                Places::Steps(steps) => *steps = steps.iter().map(|(text, file)| (*text, file + bytes)).collect(),
            }
            if let Value::Map(entries) = &mut node.value {
                for entry in entries {
                    entry.key_span = shifted(entry.key_span);
                }
            }
        });
    }

    /// Moves what stands in the file `from` to the same places of `to`, which has the same text.
    pub(crate) fn move_to(&mut self, from: FileId, to: FileId) {
        let moved = |span: Span| if span.file == from { Span { file: to, ..span } } else { span };
        self.for_each(&mut |node| {
            node.span = moved(node.span);
            node.written.head = node.written.head.map(moved);
            if let Value::Map(entries) = &mut node.value {
                for entry in entries {
                    entry.key_span = moved(entry.key_span);
                }
            }
        });
    }

    /// Visits this node and all below it; nesting is bounded by the parser.
    pub(crate) fn for_each(&mut self, visit: &mut dyn FnMut(&mut Node)) {
        visit(self);
        match &mut self.value {
            Value::List(items) => items.iter_mut().for_each(|item| item.for_each(visit)),
            Value::Map(entries) => entries.iter_mut().for_each(|entry| entry.value.for_each(visit)),
            _ => {}
        }
    }

    /// The value under `key`, where this is a map that has it.
    pub fn get(&self, key: &str) -> Option<&Node> {
        self.entry(key).map(|entry| &entry.value)
    }

    /// The entry of `key`, where this is a map that has it.
    pub fn entry(&self, key: &str) -> Option<&Entry> {
        self.entries().iter().find(|entry| entry.key == key)
    }

    /// The entries of a map; none for any other node.
    pub fn entries(&self) -> &[Entry] {
        match &self.value {
            Value::Map(entries) => entries,
            _ => &[],
        }
    }

    /// The node at a path of keys and list indices written as numbers: `["columns", "z", "value"]`.
    pub fn at(&self, path: &[&str]) -> Option<&Node> {
        path.iter().try_fold(self, |node, key| match &node.value {
            Value::List(items) => key.parse::<usize>().ok().and_then(|at| items.get(at)),
            _ => node.get(key),
        })
    }

    /// The span of the node at a path, or of the deepest node on the way that exists.
    pub fn span_at(&self, path: &[&str]) -> Span {
        (0..=path.len()).rev().find_map(|n| self.at(&path[..n])).map_or(self.span, |node| node.span)
    }

    /// The text of a string node.
    pub fn as_str(&self) -> Option<&str> {
        match &self.value {
            Value::String(text) => Some(text),
            _ => None,
        }
    }

    /// This map without `keys`: for splitting the keys that all kinds share from a kind's own.
    #[must_use]
    pub fn without(&self, keys: &[&str]) -> Node {
        self.filtered(|key| !keys.contains(&key))
    }

    /// This map with only `keys`.
    #[must_use]
    pub fn only(&self, keys: &[&str]) -> Node {
        self.filtered(|key| keys.contains(&key))
    }

    fn filtered(&self, keep: impl Fn(&str) -> bool) -> Node {
        let mut node = self.clone();
        if let Value::Map(entries) = &mut node.value {
            entries.retain(|entry| keep(&entry.key));
        }
        node
    }

    /// The typed struct that this node is written for, with every problem: see [`crate::decode`].
    pub fn decode<T: serde::de::DeserializeOwned>(&self, diagnostics: &mut Diagnostics) -> Option<T> {
        crate::decode::decode(self, diagnostics)
    }
}

#[cfg(test)]
mod tests {
    use super::{Node, Piece};
    use engine_base::SourceMap;

    /// The text of a file under a key, and the file.
    fn read(file: &str) -> (Node, String) {
        let mut sources = SourceMap::default();
        let id = sources.add("a.yaml", file);
        let parsed = crate::yaml::parse(id, file, &mut engine_base::Diagnostics::new());
        (parsed.root.expect("a document").get("q").expect("the key").clone(), file.to_owned())
    }

    #[test]
    fn a_text_of_pieces_knows_where_each_stands() {
        for file in [
            "q: |\n  one\n    two äö\n  three\n",
            "q: one two äö three\n",
            "q: 'one two äö three'\n",
            "q: >-\n  one\n  two äö\n  three\n",
        ] {
            let (node, file) = read(file);
            let text = node.text().expect("a text").to_owned();
            let range = |word: &str| {
                let start = text.find(word).expect("the word");
                start..start + word.len()
            };
            let made = node.composed(&[
                Piece::Instead(range("one"), "something longer(".to_owned()),
                Piece::Of(range("two äö")),
                Piece::Instead(range("three"), ")".to_owned()),
            ]);
            assert_eq!(made.text(), Some("something longer(two äö)"));
            let at = |word: &str| {
                let start = made.text().and_then(|text| text.find(word)).expect("the word");
                let span = made.locate(start..start + word.len());
                file[span.start..span.end].to_owned()
            };
            assert_eq!(at("two äö"), "two äö", "{file}");
            assert_eq!(at("äö"), "äö", "{file}");
            assert_eq!(at("something longer("), "one", "{file}");
            assert_eq!(&file[made.span.start..made.span.start + 3], "one");
        }
    }
}
