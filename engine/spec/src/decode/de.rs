//! Serde's `Deserializer` over a node.

use serde::de::value::StrDeserializer;
use serde::de::{
    self, DeserializeOwned, DeserializeSeed, Deserializer, EnumAccess, Error, IntoDeserializer, MapAccess, SeqAccess,
    VariantAccess, Visitor,
};

use engine_base::codes::spec as codes;

use super::blank::Blank;
use super::failure::{Failure, Kind, Step};
use crate::node::{Node, StandIn, Value};
use crate::value::{handoff, names};

type Result<T> = std::result::Result<T, Failure>;

/// A node to be read.
#[derive(Clone, Copy)]
pub(super) struct De<'n> {
    node: &'n Node,
    /// The type is one that keeps secrets.
    keeps_secret: bool,
}

impl<'n> De<'n> {
    pub(super) fn new(node: &'n Node) -> De<'n> {
        De { node, keeps_secret: false }
    }

    /// What to read instead of the node, or the reason not to.
    fn stand_in(&self) -> Result<Option<Blank>> {
        if self.node.secret && !self.keeps_secret {
            return Err(place(self.node, Failure::new(Kind::Secret)));
        }
        Ok(match self.node.written.stand_in {
            None => None,
            Some(StandIn::Placeholder) => Some(Blank::placeholder()),
            Some(StandIn::Blank) => Some(Blank::repair()),
        })
    }

    fn wrong(&self, wanted: &str) -> Failure {
        let kind = Kind::WrongType { found: String::new(), wanted: wanted.to_owned() };
        place(self.node, Failure::new(kind))
    }

    /// The text around a variable that is not to be had: `http://placeholder:80`.
    fn placeholder_text(&self) -> Option<&str> {
        self.node.is_placeholder().then(|| self.node.as_str()).flatten()
    }

    fn empty(&self) -> bool {
        matches!(self.node.value, Value::Null) && self.node.text() == Some("")
    }

    /// A number or boolean as the text of a substituted scalar says it.
    fn typed(&self) -> Value {
        match &self.node.value {
            Value::String(text) if self.node.substituted => plain_scalar(text),
            other => match other {
                Value::Bool(value) => Value::Bool(*value),
                Value::Int(value) => Value::Int(*value),
                Value::Float(value) => Value::Float(*value),
                _ => Value::Null,
            },
        }
    }
}

/// Reads `node` as a `T`.
pub(super) fn read<T: DeserializeOwned>(node: &Node) -> Result<T> {
    T::deserialize(De::new(node)).map_err(|failure| place(node, failure))
}

/// A plain scalar's text as the strict core reads it.
pub(crate) fn plain_scalar(text: &str) -> Value {
    match serde_yaml::from_str::<serde_yaml::Value>(text) {
        Ok(serde_yaml::Value::Bool(value)) if text == "true" || text == "false" => Value::Bool(value),
        Ok(serde_yaml::Value::Number(number)) => match (number.as_i64(), number.as_u64(), number.as_f64()) {
            (Some(value), ..) => Value::Int(value.into()),
            (_, Some(value), _) => Value::Int(value.into()),
            (.., Some(value)) => Value::Float(value),
            _ => Value::String(text.to_owned()),
        },
        _ => Value::String(text.to_owned()),
    }
}

/// Whether a node, or its key if one is given, is what serde complains of.
type Wanted = dyn Fn(&Node, Option<&str>) -> bool;

/// Claims a failure that no node below has claimed; looks for the place below if serde has lost it.
fn place(node: &Node, mut failure: Failure) -> Failure {
    if failure.placed {
        return failure;
    }
    failure.placed = true;
    if node.written.stand_in.is_some() && !matches!(failure.kind, Kind::Secret) {
        // What a made-up value runs into is no problem of the file.
        failure.kind = Kind::Silent;
        return failure;
    }
    // Serde buffers what it reads for `tag`, `untagged` and `flatten`, and complains without a place.
    let wanted: Option<Box<Wanted>> = match &failure.kind {
        Kind::UnknownField { field, .. } => {
            let field = field.clone();
            Some(Box::new(move |_, key| key == Some(field.as_str())))
        }
        Kind::WrongType { found, .. } if !found.is_empty() => {
            let found = found.clone();
            Some(Box::new(move |node, key| key.is_none() && unexpected(node) == Some(found.clone())))
        }
        _ => None,
    };
    if let Some(wanted) = wanted
        && let Some((steps, on_key)) = search(node, &wanted)
    {
        failure.steps = steps;
        failure.on_key = on_key;
    } else if super::has_blank(node) && !matches!(failure.kind, Kind::Missing(_)) {
        // What a blank led to in serde's buffer.
        failure.kind = Kind::Silent;
    }
    failure
}

/// The way down to what `wanted` says yes to, from there upwards. Looks below the node only.
fn search(node: &Node, wanted: &Wanted) -> Option<(Vec<Step>, bool)> {
    let below = |child: &Node, step: Step| {
        search(child, wanted).map(|(mut steps, on_key)| {
            steps.push(step);
            (steps, on_key)
        })
    };
    match &node.value {
        Value::Map(entries) => entries.iter().enumerate().find_map(|(at, entry)| {
            let step = Step::Entry(at);
            if wanted(&entry.value, Some(&entry.key)) {
                return Some((vec![step], true));
            }
            if wanted(&entry.value, None) {
                return Some((vec![step], false));
            }
            below(&entry.value, step)
        }),
        Value::List(items) => items.iter().enumerate().find_map(|(at, item)| {
            let step = Step::Item(at);
            if wanted(item, None) { Some((vec![step], false)) } else { below(item, step) }
        }),
        _ => None,
    }
}

/// A scalar as serde's `Unexpected` shows it.
fn unexpected(node: &Node) -> Option<String> {
    use de::Unexpected;
    Some(match &node.value {
        Value::Bool(value) => Unexpected::Bool(*value).to_string(),
        Value::Int(value) => Unexpected::Signed(i64::try_from(*value).ok()?).to_string(),
        Value::Float(value) => Unexpected::Float(*value).to_string(),
        Value::String(text) => Unexpected::Str(text).to_string(),
        _ => return None,
    })
}

fn visit_int<'de, V: Visitor<'de>>(value: i128, visitor: V) -> Result<V::Value> {
    if let Ok(value) = u64::try_from(value) {
        visitor.visit_u64(value)
    } else if let Ok(value) = i64::try_from(value) {
        visitor.visit_i64(value)
    } else {
        visitor.visit_f64(value as f64)
    }
}

macro_rules! numbers {
    ($($method:ident $name:literal $type:ty),*) => { $(
        fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value> {
            if let Some(blank) = self.stand_in()? {
                return blank.$method(visitor);
            }
            let read = match self.typed() {
                Value::Int(value) => match <$type>::try_from(value) {
                    Ok(_) => visit_int(value, visitor),
                    Err(_) => Err(Failure::new(Kind::OutOfRange { wanted: $name.to_owned() })),
                },
                _ => Err(self.wrong($name)),
            };
            read.map_err(|failure| place(self.node, failure))
        }
    )* };
}

macro_rules! floats {
    ($($method:ident)*) => { $(
        fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value> {
            if let Some(blank) = self.stand_in()? {
                return blank.$method(visitor);
            }
            let read = match self.typed() {
                Value::Int(value) => visitor.visit_f64(value as f64),
                Value::Float(value) => visitor.visit_f64(value),
                _ => Err(self.wrong("f64")),
            };
            read.map_err(|failure| place(self.node, failure))
        }
    )* };
}

impl<'de> Deserializer<'de> for De<'_> {
    type Error = Failure;

    numbers!(
        deserialize_i8 "i8" i8, deserialize_i16 "i16" i16, deserialize_i32 "i32" i32, deserialize_i64 "i64" i64,
        deserialize_u8 "u8" u8, deserialize_u16 "u16" u16, deserialize_u32 "u32" u32, deserialize_u64 "u64" u64
    );

    floats!(deserialize_f32 deserialize_f64);

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value> {
        if let Some(blank) = self.stand_in()? {
            return match self.placeholder_text() {
                Some(text) => visitor.visit_str(text).map_err(|_: Failure| Failure::new(Kind::Silent)),
                None => blank.deserialize_any(visitor),
            };
        }
        let read = match &self.node.value {
            Value::Null => visitor.visit_unit(),
            Value::Bool(value) => visitor.visit_bool(*value),
            Value::Int(value) => visit_int(*value, visitor),
            Value::Float(value) => visitor.visit_f64(*value),
            Value::String(text) if self.node.substituted => match plain_scalar(text) {
                Value::Bool(value) => visitor.visit_bool(value),
                Value::Int(value) => visit_int(value, visitor),
                Value::Float(value) => visitor.visit_f64(value),
                _ => visitor.visit_str(text),
            },
            Value::String(text) => visitor.visit_str(text),
            Value::List(items) => visit_items(items, visitor),
            Value::Map(entries) => visitor.visit_map(Entries { entries, at: 0 }),
        };
        read.map_err(|failure| place(self.node, failure))
    }

    fn deserialize_bool<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value> {
        if let Some(blank) = self.stand_in()? {
            return blank.deserialize_bool(visitor);
        }
        let read = match self.typed() {
            Value::Bool(value) => visitor.visit_bool(value),
            _ => Err(self.wrong("bool")),
        };
        read.map_err(|failure| place(self.node, failure))
    }

    fn deserialize_str<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value> {
        if let Some(blank) = self.stand_in()? {
            return match self.placeholder_text() {
                Some(text) => visitor.visit_str(text).map_err(|_: Failure| Failure::new(Kind::Silent)),
                None => blank.deserialize_str(visitor),
            };
        }
        let read = match (&self.node.value, self.node.text()) {
            (Value::String(text), _) => visitor.visit_str(text),
            (Value::Bool(_) | Value::Int(_) | Value::Float(_), Some(text)) if self.node.written.lenient => {
                visitor.visit_str(text)
            }
            _ => Err(self.wrong("string")),
        };
        read.map_err(|failure| place(self.node, failure))
    }

    fn deserialize_string<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value> {
        self.deserialize_str(visitor)
    }

    fn deserialize_char<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value> {
        self.deserialize_str(visitor)
    }

    fn deserialize_identifier<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value> {
        self.deserialize_str(visitor)
    }

    fn deserialize_bytes<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value> {
        self.deserialize_str(visitor)
    }

    fn deserialize_byte_buf<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value> {
        self.deserialize_str(visitor)
    }

    /// `null` is no value; a key with nothing after it is a slip.
    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value> {
        match (self.node.written.stand_in, &self.node.value) {
            (Some(StandIn::Blank), _) => Blank::repair().deserialize_option(visitor),
            (None, Value::Null) if !self.empty() => visitor.visit_none(),
            _ => visitor.visit_some(self),
        }
    }

    fn deserialize_unit<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value> {
        if let Some(blank) = self.stand_in()? {
            return blank.deserialize_unit(visitor);
        }
        let read = match &self.node.value {
            Value::Null => visitor.visit_unit(),
            Value::Map(entries) if entries.is_empty() => visitor.visit_unit(),
            _ => Err(self.wrong("unit")),
        };
        read.map_err(|failure| place(self.node, failure))
    }

    fn deserialize_unit_struct<V: Visitor<'de>>(self, _: &'static str, visitor: V) -> Result<V::Value> {
        self.deserialize_unit(visitor)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(mut self, name: &'static str, visitor: V) -> Result<V::Value> {
        let read = match name {
            names::NODE => {
                return handoff::give(self.node, || visitor.visit_newtype_struct(().into_deserializer()))
                    .map_err(|failure| place(self.node, failure));
            }
            names::SECRET => {
                self.keeps_secret = true;
                visitor.visit_newtype_struct(self)
            }
            names::EXPRESSION => self.expression(visitor),
            names::TIME_SPAN | names::SIZE | names::RATE => match (self.stand_in()?, &self.node.value) {
                (Some(blank), _) => blank.deserialize_newtype_struct(name, visitor),
                (None, Value::Int(_) | Value::Float(_)) => match self.node.text() {
                    // The text as it was written, so that `5.0` is quoted as such.
                    Some(text) => visitor.visit_newtype_struct(StrDeserializer::new(text)),
                    None => visitor.visit_newtype_struct(self),
                },
                (None, Value::String(text)) => visitor.visit_newtype_struct(StrDeserializer::new(text)),
                (None, _) => visitor.visit_newtype_struct(self),
            },
            _ => visitor.visit_newtype_struct(self),
        };
        read.map_err(|failure| place(self.node, failure))
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value> {
        if let Some(blank) = self.stand_in()? {
            return blank.deserialize_seq(visitor);
        }
        let read = match &self.node.value {
            Value::List(items) => visit_items(items, visitor),
            _ => Err(self.wrong("a sequence")),
        };
        read.map_err(|failure| place(self.node, failure))
    }

    fn deserialize_tuple<V: Visitor<'de>>(self, length: usize, visitor: V) -> Result<V::Value> {
        match self.stand_in()? {
            Some(blank) => blank.deserialize_tuple(length, visitor),
            None => self.deserialize_seq(visitor),
        }
    }

    fn deserialize_tuple_struct<V: Visitor<'de>>(self, _: &'static str, length: usize, visitor: V) -> Result<V::Value> {
        self.deserialize_tuple(length, visitor)
    }

    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value> {
        if let Some(blank) = self.stand_in()? {
            return blank.deserialize_map(visitor);
        }
        let read = match &self.node.value {
            Value::Map(entries) => visitor.visit_map(Entries { entries, at: 0 }),
            _ => Err(self.wrong("a map")),
        };
        read.map_err(|failure| place(self.node, failure))
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value> {
        match self.stand_in()? {
            Some(blank) => blank.deserialize_struct(name, fields, visitor),
            None => self.deserialize_map(visitor),
        }
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        name: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value> {
        if let Some(blank) = self.stand_in()? {
            return blank.deserialize_enum(name, variants, visitor);
        }
        let read = match &self.node.value {
            Value::String(text) => visitor.visit_enum(Variant { name: text, content: None }),
            Value::Map(entries) if entries.len() == 1 => {
                visitor.visit_enum(Variant { name: &entries[0].key, content: Some(&entries[0].value) })
            }
            _ if !self.node.written.dropped.is_empty() => Err(Failure::new(Kind::Silent)),
            _ => Err(Failure::new(Kind::NotVariants(variants))),
        };
        read.map_err(|failure| place(self.node, failure))
    }

    fn deserialize_ignored_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value> {
        visitor.visit_unit()
    }
}

impl De<'_> {
    fn expression<'de, V: Visitor<'de>>(self, visitor: V) -> Result<V::Value> {
        if self.node.substituted || self.node.secret {
            let written = self.node.written.raw.as_deref().unwrap_or_default();
            let reference = |kind: &str| {
                let (_, rest) = written.split_once(kind)?;
                rest.split_once('}').map(|(name, _)| name)
            };
            let help = match (reference("${param:"), reference("${env:")) {
                _ if written.contains("${secret:") => {
                    "an expression is shown in plans, so it takes no secret".to_owned()
                }
                (Some(name), _) => format!("write `param.{name}`"),
                (None, Some(name)) => format!(
                    "declare a parameter, `parameters: {{ x: {{ type: ..., default: \"${{env:{name}}}\" }} }}`, and write `param.x`"
                ),
                (None, None) => "declare a parameter under `parameters`, and write `param.NAME`".to_owned(),
            };
            return Err(Failure::coded(
                codes::SUBSTITUTION_IN_EXPRESSION,
                "`${...}` is not replaced in an expression",
                help,
            ));
        }
        if let Some(blank) = self.stand_in()? {
            return blank.deserialize_newtype_struct(names::EXPRESSION, visitor);
        }
        match &self.node.value {
            Value::Map(_) if self.node.written.dropped.iter().any(|key| key == "literal") => {
                Err(Failure::new(Kind::Silent))
            }
            Value::Map(entries) if entries.iter().all(|entry| entry.key != "literal") => Err(Failure::coded(
                codes::WRONG_TYPE,
                "an expression is due here, not a map",
                "`{` and `: ` make a map in YAML: put the expression in quotes, or below a `|`; a text is `{ literal: text }`",
            )),
            Value::List(_) => Err(Failure::coded(
                codes::WRONG_TYPE,
                "an expression is due here, not a list",
                "`[` and `- ` make a list in YAML: put the expression in quotes, or below a `|`",
            )),
            Value::Map(_) => visitor.visit_newtype_struct(self),
            _ => visitor.visit_newtype_struct(StrDeserializer::new(self.node.text().unwrap_or_default())),
        }
    }
}

fn visit_items<'de, V: Visitor<'de>>(items: &[Node], visitor: V) -> Result<V::Value> {
    let mut access = Items { items, at: 0 };
    let value = visitor.visit_seq(&mut access)?;
    if access.at < items.len() {
        return Err(Failure::invalid_length(items.len(), &format!("{} entries", access.at).as_str()));
    }
    Ok(value)
}

struct Items<'n> {
    items: &'n [Node],
    at: usize,
}

impl<'de> SeqAccess<'de> for &mut Items<'_> {
    type Error = Failure;

    fn next_element_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<Option<T::Value>> {
        let Some(item) = self.items.get(self.at) else { return Ok(None) };
        let step = Step::Item(self.at);
        self.at += 1;
        seed.deserialize(De::new(item)).map(Some).map_err(|failure| place(item, failure).below(step))
    }

    fn size_hint(&self) -> Option<usize> {
        Some(self.items.len() - self.at)
    }
}

struct Entries<'n> {
    entries: &'n [crate::node::Entry],
    at: usize,
}

impl<'de> MapAccess<'de> for Entries<'_> {
    type Error = Failure;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>> {
        let Some(entry) = self.entries.get(self.at) else { return Ok(None) };
        let key: StrDeserializer<'_, Failure> = StrDeserializer::new(&entry.key);
        seed.deserialize(key).map(Some).map_err(|mut failure| {
            failure.on_key = true;
            failure.below(Step::Entry(self.at))
        })
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value> {
        let Some(entry) = self.entries.get(self.at) else { return Err(Failure::new(Kind::Silent)) };
        let step = Step::Entry(self.at);
        self.at += 1;
        seed.deserialize(De::new(&entry.value)).map_err(|failure| place(&entry.value, failure).below(step))
    }

    fn size_hint(&self) -> Option<usize> {
        Some(self.entries.len() - self.at)
    }
}

/// `name`, or `{ name: content }`.
struct Variant<'n> {
    name: &'n str,
    content: Option<&'n Node>,
}

impl Variant<'_> {
    fn settings<T>(&self, needs: bool) -> Result<T> {
        Err(Failure::new(Kind::VariantSettings { variant: self.name.to_owned(), needs }))
    }
}

impl<'de, 'n> EnumAccess<'de> for Variant<'n> {
    type Error = Failure;
    type Variant = Variant<'n>;

    fn variant_seed<V: DeserializeSeed<'de>>(self, seed: V) -> Result<(V::Value, Variant<'n>)> {
        let name: StrDeserializer<'_, Failure> = StrDeserializer::new(self.name);
        let variant = seed.deserialize(name).map_err(|mut failure| {
            if self.content.is_some() {
                failure.on_key = true;
                failure = failure.below(Step::Entry(0));
            }
            failure
        })?;
        Ok((variant, self))
    }
}

impl<'de> VariantAccess<'de> for Variant<'_> {
    type Error = Failure;

    fn unit_variant(self) -> Result<()> {
        match self.content.map(|content| &content.value) {
            None | Some(Value::Null) => Ok(()),
            Some(Value::Map(entries)) if entries.is_empty() => Ok(()),
            Some(_) => self.settings(false),
        }
    }

    fn newtype_variant_seed<T: DeserializeSeed<'de>>(self, seed: T) -> Result<T::Value> {
        match self.content {
            Some(content) => {
                seed.deserialize(De::new(content)).map_err(|failure| place(content, failure).below(Step::Entry(0)))
            }
            None => self.settings(true),
        }
    }

    fn tuple_variant<V: Visitor<'de>>(self, length: usize, visitor: V) -> Result<V::Value> {
        match self.content {
            Some(content) => De::new(content)
                .deserialize_tuple(length, visitor)
                .map_err(|failure| place(content, failure).below(Step::Entry(0))),
            None => self.settings(true),
        }
    }

    fn struct_variant<V: Visitor<'de>>(self, fields: &'static [&'static str], visitor: V) -> Result<V::Value> {
        match self.content {
            Some(content) => De::new(content)
                .deserialize_struct("", fields, visitor)
                .map_err(|failure| place(content, failure).below(Step::Entry(0))),
            None => self.settings(true),
        }
    }
}
