//! `serde_yaml`'s reading of a text, walked in step with its shapes: the typed tree with every place.

use std::cell::RefCell;
use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use engine_base::codes::spec as codes;
use engine_base::{Diagnostic, FileId, Span};
use saphyr_parser::ScalarStyle;
use serde::de::{self, DeserializeSeed, EnumAccess, IgnoredAny, MapAccess, SeqAccess, VariantAccess, Visitor};

use super::shape::{Kind, Shape, Shapes};
use super::syntax::{Failure, quoted};
use super::{Problems, Stop, places};
use crate::node::{Entry, Node, StandIn, Value, Written};

struct Reader<'t> {
    file: FileId,
    text: &'t str,
    shapes: &'t Shapes<'t>,
    problems: RefCell<&'t mut Problems>,
    /// The node at which the two readings part.
    parted: RefCell<Option<usize>>,
}

pub(super) fn read(
    file: FileId,
    text: &str,
    shapes: &Shapes<'_>,
    problems: &mut Problems,
) -> Result<Option<Node>, Stop> {
    let Some(root) = shapes.root else { return Ok(None) };
    let reader = Reader { file, text, shapes, problems: RefCell::new(problems), parted: RefCell::new(None) };
    let read = Seed { reader: &reader, at: root }.deserialize(serde_yaml::Deserializer::from_str(text));
    let error = match read {
        Ok(node) => return Ok(Some(node)),
        Err(error) => error,
    };
    if let Some(at) = *reader.parted.borrow() {
        let (start, end) = (shapes.nodes[at].start, shapes.nodes[at].end);
        return Err(Stop::Fatal(Box::new(
            Diagnostic::error(
                codes::YAML_SYNTAX,
                Span { file, start, end },
                "this can be read in more than one way as YAML",
            )
            .help("write it more plainly: each key on its own line, text in quotes"),
        )));
    }
    let byte = error.location().map_or(0, |place| shapes.bytes.at(place.index()));
    Err(Stop::Syntax(Failure { byte, reason: error.to_string(), open_flow: None }))
}

#[derive(Clone, Copy)]
struct Seed<'r, 't> {
    reader: &'r Reader<'t>,
    at: usize,
}

impl<'r, 't> Seed<'r, 't> {
    fn shape(&self) -> &'r Shape<'t> {
        &self.reader.shapes.nodes[self.at]
    }

    fn span(&self) -> Span {
        let shape = self.shape();
        Span { file: self.reader.file, start: shape.start, end: shape.end }
    }

    fn child(&self, at: usize) -> Seed<'r, 't> {
        Seed { reader: self.reader, at: self.reader.shapes.resolve(at) }
    }

    fn kind(&self) -> &'r Kind<'t> {
        &self.reader.shapes.nodes[self.at].kind
    }

    fn parted<E: de::Error>(&self) -> E {
        self.reader.parted.borrow_mut().get_or_insert(self.at);
        E::custom("the two readings part")
    }

    fn problem(&self, problem: Diagnostic) {
        self.reader.problems.borrow_mut().push(problem);
    }

    fn written(&self, value: &str) -> Written {
        let shape = &self.reader.shapes.nodes[self.at];
        match &shape.kind {
            Kind::Scalar { style, .. } => Written {
                places: places::find(self.reader.text, shape.start, shape.end, *style, value),
                ..Written::default()
            },
            _ => Written::default(),
        }
    }

    /// A scalar that is not text: its raw text is kept.
    fn plain<E: de::Error>(&self, value: Value) -> Result<Node, E> {
        let text = match self.kind() {
            Kind::Scalar { text, style } if *style == ScalarStyle::Plain || self.shape().tagged => text,
            _ => return Err(self.parted()),
        };
        let mut node = Node::new(self.span(), value);
        node.written = self.written(text);
        node.written.raw = Some(Arc::from(text.as_ref()));
        Ok(node)
    }

    /// `where: tag = 'a #1'`: a quote stands open where YAML begins a comment.
    fn check_comment(&self, text: &str) {
        let shape = self.shape();
        if !matches!(shape.kind, Kind::Scalar { style: ScalarStyle::Plain, .. }) {
            return;
        }
        let rest = self.reader.text[shape.end..].lines().next().unwrap_or_default();
        if !rest.trim_start().starts_with('#') {
            return;
        }
        let mut quote = None;
        for c in text.chars().filter(|c| matches!(c, '\'' | '"')) {
            quote = match quote {
                Some(open) if open == c => None,
                Some(open) => Some(open),
                None => Some(c),
            };
        }
        if quote.is_some_and(|quote| rest.contains(quote)) {
            let span = Span { file: self.reader.file, start: shape.start, end: shape.end + rest.trim_end().len() };
            let whole = &self.reader.text[span.start..span.end];
            self.problem(
                Diagnostic::error(codes::NEEDS_QUOTES, span, "YAML ends this text at the ` #`, inside its quotes")
                    .help(format!("put the whole text in quotes: `{}`", quoted(whole))),
            );
        }
    }

    fn string(&self, text: &str) -> Node {
        self.check_comment(text);
        let mut node = Node::new(self.span(), Value::String(text.to_owned()));
        node.written = self.written(text);
        node
    }

    fn is_flow(&self) -> bool {
        self.reader.text[self.reader.shapes.nodes[self.at].start..].starts_with(['{', '['])
    }

    fn plain_text(&self, at: usize) -> Option<&'r str> {
        match &self.reader.shapes.nodes[at].kind {
            Kind::Scalar { text, style: ScalarStyle::Plain } => Some(text),
            _ => None,
        }
    }

    /// How many of the pieces after an unbalanced `first` belong to it, because a comma split it.
    fn split_pieces(&self, first: usize, following: impl Iterator<Item = Option<usize>>) -> usize {
        let mut depth = self.plain_text(first).map_or(0, open_parentheses);
        if depth <= 0 {
            return 0;
        }
        let mut pieces = 0;
        for piece in following {
            let Some(text) = piece.and_then(|piece| self.plain_text(piece)) else { return 0 };
            depth += open_parentheses(text);
            pieces += 1;
            if depth <= 0 {
                return pieces;
            }
        }
        0
    }

    /// Reports an expression that a comma split, and gives it back whole.
    fn rejoin(&self, key: Option<&str>, first: usize, last: usize) -> Node {
        let start = self.reader.shapes.nodes[first].start;
        let end = self.reader.shapes.nodes[last].end;
        let span = Span { file: self.reader.file, start, end };
        let whole = self.reader.text.get(start..end).unwrap_or_default();
        let (message, help) = match key {
            Some(key) => (
                format!("YAML splits the value of `{key}` at its comma"),
                format!("quote this expression: `{key}: {}`", quoted(whole)),
            ),
            None => (
                "YAML splits this value at its comma".to_owned(),
                format!("quote this expression: `{}`", quoted(whole)),
            ),
        };
        self.problem(Diagnostic::error(codes::SPLIT_EXPRESSION, span, message).help(help));
        let mut node = Node::new(span, Value::String(whole.to_owned()));
        node.written.places = crate::node::Places::From(start);
        node
    }

    fn key(&self, node: &Node) -> Option<String> {
        let text = match &node.value {
            Value::List(_) | Value::Map(_) => None,
            _ => node.text().filter(|text| !text.is_empty()),
        };
        match text {
            Some(text) => return Some(text.to_owned()),
            None => self.problem(
                Diagnostic::error(codes::KEY_NOT_TEXT, node.span, "a key is a single text")
                    .help("write `key: value`; a text that starts with `{`, `[` or `?` needs quotes"),
            ),
        }
        None
    }
}

/// Opening less closing parentheses outside of quotes.
fn open_parentheses(text: &str) -> i64 {
    let mut quote = None;
    let mut depth = 0;
    for c in text.chars() {
        match (quote, c) {
            (Some(open), c) if c == open => quote = None,
            (None, '\'' | '"') => quote = Some(c),
            (None, '(') => depth += 1,
            (None, ')') => depth -= 1,
            _ => {}
        }
    }
    // A quote left open means that the comma stood inside it.
    if quote.is_some() { depth.max(1) } else { depth }
}

impl<'de> DeserializeSeed<'de> for Seed<'_, '_> {
    type Value = Node;

    fn deserialize<D: de::Deserializer<'de>>(self, deserializer: D) -> Result<Node, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Seed<'_, '_> {
    type Value = Node;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("YAML")
    }

    fn visit_unit<E: de::Error>(self) -> Result<Node, E> {
        self.plain(Value::Null)
    }

    fn visit_none<E: de::Error>(self) -> Result<Node, E> {
        self.plain(Value::Null)
    }

    fn visit_bool<E: de::Error>(self, value: bool) -> Result<Node, E> {
        match self.kind() {
            // `True` and `TRUE` are text here: one way to write a thing.
            Kind::Scalar { text, .. } if text != "true" && text != "false" => Ok(self.string(text)),
            _ => self.plain(Value::Bool(value)),
        }
    }

    fn visit_i64<E: de::Error>(self, value: i64) -> Result<Node, E> {
        self.plain(Value::Int(value.into()))
    }

    fn visit_u64<E: de::Error>(self, value: u64) -> Result<Node, E> {
        self.plain(Value::Int(value.into()))
    }

    fn visit_i128<E: de::Error>(self, value: i128) -> Result<Node, E> {
        self.plain(Value::Int(value))
    }

    fn visit_u128<E: de::Error>(self, value: u128) -> Result<Node, E> {
        self.plain(i128::try_from(value).map_or(Value::Float(value as f64), Value::Int))
    }

    fn visit_f64<E: de::Error>(self, value: f64) -> Result<Node, E> {
        self.plain(Value::Float(value))
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Node, E> {
        match self.kind() {
            Kind::Scalar { .. } => Ok(self.string(text)),
            _ => Err(self.parted()),
        }
    }

    fn visit_enum<A: EnumAccess<'de>>(self, tagged: A) -> Result<Node, A::Error> {
        let (IgnoredAny, value) = tagged.variant()?;
        let mut node = value.newtype_variant_seed(self)?;
        if let Value::Null | Value::Bool(_) | Value::Int(_) | Value::Float(_) | Value::String(_) = node.value {
            node.written.stand_in = Some(StandIn::Blank);
        }
        Ok(node)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Node, A::Error> {
        let Kind::List(shapes) = self.kind() else { return Err(self.parted()) };
        let mut items = Vec::with_capacity(shapes.len());
        for shape in shapes {
            match seq.next_element_seed(self.child(*shape))? {
                Some(node) => items.push(node),
                None => return Err(self.parted()),
            }
        }
        if seq.next_element::<IgnoredAny>()?.is_some() {
            return Err(self.parted());
        }
        if self.is_flow() {
            let mut at = 0;
            while at < items.len() {
                let following = shapes[at + 1..].iter().map(|shape| Some(*shape));
                let pieces = self.split_pieces(shapes[at], following);
                if pieces > 0 {
                    // Items and shapes are the same in number up to here: a repair ends the search in this list.
                    items[at] = self.rejoin(None, shapes[at], shapes[at + pieces]);
                    items.drain(at + 1..=at + pieces);
                    break;
                }
                at += 1;
            }
        }
        Ok(Node::new(self.span(), Value::List(items)))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Node, A::Error> {
        let Kind::Map(shapes) = self.kind() else { return Err(self.parted()) };
        let mut nodes = Vec::with_capacity(shapes.len());
        for (key, value) in shapes {
            let Some(key) = map.next_key_seed(self.child(*key))? else { return Err(self.parted()) };
            nodes.push((key, map.next_value_seed(self.child(*value))?));
        }
        if map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {
            return Err(self.parted());
        }

        let flow = self.is_flow();
        let mut entries: Vec<Entry> = Vec::with_capacity(nodes.len());
        let mut seen: HashMap<String, Span> = HashMap::with_capacity(nodes.len());
        // What a merge key means is still read, so that nothing is reported as missing.
        let mut merged: Vec<Entry> = Vec::new();
        let mut skip = 0;
        for (at, (key_node, mut value)) in nodes.into_iter().enumerate() {
            if skip > 0 {
                skip -= 1;
                continue;
            }
            let Some(key) = self.key(&key_node) else { continue };
            if key == "<<" {
                self.problem(
                    Diagnostic::error(
                        codes::MERGE_KEY,
                        key_node.span,
                        "merge keys (`<<`) are not part of the language",
                    )
                    .help("write the keys out; what several components share stands once under `connections`"),
                );
                merged.extend(value.entries().iter().cloned());
                continue;
            }
            if flow {
                let following = shapes[at + 1..]
                    .iter()
                    .map(|(key, value)| self.plain_text(*value).is_some_and(str::is_empty).then_some(*key));
                skip = self.split_pieces(shapes[at].1, following);
                if skip > 0 {
                    value = self.rejoin(Some(&key), shapes[at].1, shapes[at + skip].0);
                }
            }
            if let Some(first) = seen.get(&key) {
                self.problem(
                    Diagnostic::error(codes::DUPLICATE_KEY, key_node.span, format!("`{key}` is given twice"))
                        .also(*first, "first here")
                        .help("remove one of them"),
                );
                continue;
            }
            if value.written.raw.as_deref() == Some("") {
                // Nothing was written: the key is the only place to point at.
                value.span = key_node.span;
                let rest = self.reader.text[key_node.span.end..].lines().next().unwrap_or_default();
                value.written.only_comment = rest.trim_start_matches([':', ' ']).starts_with('#');
            }
            value.written.head = Some(key_node.span);
            seen.insert(key.clone(), key_node.span);
            entries.push(Entry { key, key_span: key_node.span, value });
        }
        merged.retain(|entry| !seen.contains_key(&entry.key));
        entries.extend(merged);
        Ok(Node::new(self.span(), Value::Map(entries)))
    }
}
