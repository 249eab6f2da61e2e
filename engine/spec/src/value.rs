//! Scalars with a meaning: expressions, spans of time, sizes, rates, secrets, inputs.
//!
//! Each is a string in YAML, reads itself through serde with an error that names the remedy, and describes itself in the
//! JSON Schema. What an expression *means* is left to the `expr` crate.

use std::borrow::Cow;
use std::fmt;
use std::marker::PhantomData;

use engine_base::codes::spec as codes;
use engine_base::units;
use indexmap::IndexMap;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::value::MapAccessDeserializer;
use serde::de::{self, Deserialize, Deserializer, IntoDeserializer, MapAccess, Visitor};
use serde::{Serialize, Serializer};

use crate::decode::coded;

/// Serde's newtype names that [`crate::decode`] treats with care: it hands out the raw text of the scalar, or refuses.
pub(crate) mod names {
    pub(crate) const EXPRESSION: &str = "$expression";
    pub(crate) const TIME_SPAN: &str = "$time_span";
    pub(crate) const SIZE: &str = "$size";
    pub(crate) const RATE: &str = "$rate";
    pub(crate) const SECRET: &str = "$secret";
    pub(crate) const INPUT: &str = "$input";
    pub(crate) const NODE: &str = "$node";
}

/// How a [`crate::Node`] passes through serde as itself: the decoder lays it down here, the node's `Deserialize` takes it.
pub(crate) mod handoff {
    use std::cell::RefCell;

    use crate::Node;

    thread_local! {
        static HANDED: RefCell<Option<Node>> = const { RefCell::new(None) };
    }

    pub(crate) fn give<T>(node: &Node, read: impl FnOnce() -> T) -> T {
        HANDED.with(|handed| *handed.borrow_mut() = Some(node.clone()));
        let value = read();
        HANDED.with(|handed| handed.borrow_mut().take());
        value
    }

    pub(crate) fn take() -> Option<Node> {
        HANDED.with(|handed| handed.borrow_mut().take())
    }
}

/// `set:` and `columns:`: new column to expression, in the order of the file.
pub type Assignments = IndexMap<String, Expression>;

/// An expression as it was written. `${...}` is refused inside; parameters are read as `param.NAME`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Expression(pub String);

impl Expression {
    /// The SQL text.
    pub fn text(&self) -> &str {
        &self.0
    }

    /// A SQL literal for a piece of text: quotes doubled, in single quotes.
    pub fn quoted(text: &str) -> Expression {
        Expression(format!("'{}'", text.replace('\'', "''")))
    }
}

impl fmt::Display for Expression {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Serialize for Expression {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for Expression {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_newtype_struct(names::EXPRESSION, ExpressionVisitor)
    }
}

struct ExpressionVisitor;

impl<'de> Visitor<'de> for ExpressionVisitor {
    type Value = Expression;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an expression")
    }

    fn visit_newtype_struct<D: Deserializer<'de>>(self, deserializer: D) -> Result<Expression, D::Error> {
        deserializer.deserialize_any(self)
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Expression, E> {
        if text.trim().is_empty() {
            return Err(E::custom(coded(
                codes::EMPTY_EXPRESSION,
                "an expression is missing here",
                "write one, such as `amount > 0`; for an empty text write `\"''\"`",
            )));
        }
        Ok(Expression(text.to_owned()))
    }

    fn visit_bool<E: de::Error>(self, value: bool) -> Result<Expression, E> {
        Ok(Expression(value.to_string()))
    }

    fn visit_i64<E: de::Error>(self, value: i64) -> Result<Expression, E> {
        Ok(Expression(value.to_string()))
    }

    fn visit_u64<E: de::Error>(self, value: u64) -> Result<Expression, E> {
        Ok(Expression(value.to_string()))
    }

    fn visit_f64<E: de::Error>(self, value: f64) -> Result<Expression, E> {
        Ok(Expression(value.to_string()))
    }

    fn visit_unit<E: de::Error>(self) -> Result<Expression, E> {
        self.visit_str("")
    }

    /// `{ literal: order }`: a text that nobody can take for a column.
    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Expression, A::Error> {
        #[derive(serde::Deserialize)]
        #[serde(field_identifier, rename_all = "snake_case")]
        enum Key {
            Literal,
        }
        let mut literal = None;
        while let Some(Key::Literal) = map.next_key()? {
            literal = Some(map.next_value::<Literal>()?);
        }
        literal.map(|literal| Expression(literal.0)).ok_or_else(|| de::Error::missing_field("literal"))
    }
}

/// A literal as SQL text.
struct Literal(String);

impl<'de> Deserialize<'de> for Literal {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct V;
        impl Visitor<'_> for V {
            type Value = Literal;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a text, a number, `true`, `false` or `null`")
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<Literal, E> {
                Ok(Literal(Expression::quoted(text).0))
            }
            fn visit_bool<E: de::Error>(self, value: bool) -> Result<Literal, E> {
                Ok(Literal(value.to_string()))
            }
            fn visit_i64<E: de::Error>(self, value: i64) -> Result<Literal, E> {
                Ok(Literal(value.to_string()))
            }
            fn visit_u64<E: de::Error>(self, value: u64) -> Result<Literal, E> {
                Ok(Literal(value.to_string()))
            }
            fn visit_f64<E: de::Error>(self, value: f64) -> Result<Literal, E> {
                Ok(Literal(value.to_string()))
            }
            fn visit_unit<E: de::Error>(self) -> Result<Literal, E> {
                Ok(Literal("NULL".to_owned()))
            }
        }
        deserializer.deserialize_any(V)
    }
}

impl JsonSchema for Expression {
    fn inline_schema() -> bool {
        false
    }
    fn schema_name() -> Cow<'static, str> {
        "Expression".into()
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "description": "A SQL scalar expression over the columns of the input, such as `amount > param.threshold`. \
                            Text stands in single quotes inside it (`\"'order'\"`) or as `{ literal: order }`. \
                            Parameters are `param.NAME`; `${...}` is not replaced here.",
            "anyOf": [
                { "type": ["string", "number", "boolean"] },
                {
                    "type": "object",
                    "properties": { "literal": { "type": ["string", "number", "boolean", "null"] } },
                    "required": ["literal"],
                    "additionalProperties": false
                }
            ]
        })
    }
}

/// What the unit newtypes share: a string in YAML, a parser in [`units`], a code for its errors.
macro_rules! unit_newtype {
    ($type:ident, $name:expr, $parse:path, $code:expr, $expecting:literal, $pattern:literal, $description:literal) => {
        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                struct V;
                impl<'de> Visitor<'de> for V {
                    type Value = $type;
                    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                        f.write_str($expecting)
                    }
                    fn visit_newtype_struct<D: Deserializer<'de>>(self, deserializer: D) -> Result<$type, D::Error> {
                        deserializer.deserialize_any(self)
                    }
                    fn visit_str<E: de::Error>(self, text: &str) -> Result<$type, E> {
                        $parse(text).map($type).map_err(|error| {
                            let code = if error.unit_missing { codes::MISSING_UNIT } else { $code };
                            E::custom(coded(code, &error.message, &error.help))
                        })
                    }
                    fn visit_u64<E: de::Error>(self, value: u64) -> Result<$type, E> {
                        self.visit_str(&value.to_string())
                    }
                    fn visit_i64<E: de::Error>(self, value: i64) -> Result<$type, E> {
                        self.visit_str(&value.to_string())
                    }
                    fn visit_f64<E: de::Error>(self, value: f64) -> Result<$type, E> {
                        self.visit_str(&value.to_string())
                    }
                }
                deserializer.deserialize_newtype_struct($name, V)
            }
        }

        impl JsonSchema for $type {
            fn schema_name() -> Cow<'static, str> {
                stringify!($type).into()
            }
            fn json_schema(_: &mut SchemaGenerator) -> Schema {
                json_schema!({ "type": "string", "pattern": $pattern, "description": $description })
            }
        }
    };
}

/// A span of time in nanoseconds, never negative: `250ms`, `5m`, `1d`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TimeSpan(pub i64);

impl TimeSpan {
    /// In nanoseconds.
    pub fn ns(self) -> i64 {
        self.0
    }

    /// As the standard library's type.
    pub fn duration(self) -> std::time::Duration {
        std::time::Duration::from_nanos(self.0.max(0).unsigned_abs())
    }
}

impl fmt::Display for TimeSpan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&units::format_duration(self.0))
    }
}

impl Serialize for TimeSpan {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

unit_newtype!(
    TimeSpan,
    names::TIME_SPAN,
    units::parse_duration,
    codes::BAD_DURATION,
    "a span of time such as `250ms`",
    r"^[0-9]+(\.[0-9]+)?(ns|us|ms|s|m|h|d|w)$",
    "A span of time with its unit: `250ms`, `5m`, `1d`. Units: ns, us, ms, s, m, h, d, w."
);

/// A span of time, or a map that says more. What is wrong is told of the form that was written, which serde's `untagged` can't.
#[derive(Debug, JsonSchema)]
#[schemars(untagged)]
pub enum SpanOr<T> {
    /// A span of time.
    Span(TimeSpan),
    /// A map.
    Map(T),
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for SpanOr<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct V<T>(PhantomData<T>);
        impl<'de, T: Deserialize<'de>> Visitor<'de> for V<T> {
            type Value = SpanOr<T>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a span of time such as `250ms`, or a map")
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<SpanOr<T>, E> {
                TimeSpan::deserialize(text.into_deserializer()).map(SpanOr::Span)
            }
            fn visit_u64<E: de::Error>(self, value: u64) -> Result<SpanOr<T>, E> {
                self.visit_str(&value.to_string())
            }
            fn visit_i64<E: de::Error>(self, value: i64) -> Result<SpanOr<T>, E> {
                self.visit_str(&value.to_string())
            }
            fn visit_f64<E: de::Error>(self, value: f64) -> Result<SpanOr<T>, E> {
                self.visit_str(&value.to_string())
            }
            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<SpanOr<T>, A::Error> {
                T::deserialize(MapAccessDeserializer::new(map)).map(SpanOr::Map)
            }
        }
        deserializer.deserialize_any(V(PhantomData))
    }
}

/// A size in bytes: `64KiB`, `128MiB`, `1MB`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Size(pub u64);

impl Size {
    /// In bytes.
    pub fn bytes(self) -> u64 {
        self.0
    }
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&units::format_size(self.0))
    }
}

impl Serialize for Size {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

unit_newtype!(
    Size,
    names::SIZE,
    units::parse_size,
    codes::BAD_SIZE,
    "a size such as `64KiB`",
    r"^[0-9]+(\.[0-9]+)?(B|KB|MB|GB|TB|KiB|MiB|GiB|TiB)$",
    "A size with its unit: `64KiB`, `128MiB`, `1MB`. Units: B, KB, MB, GB, TB (powers of 1000), KiB, MiB, GiB, TiB (powers of 1024)."
);

/// How often a second: `100/s`, `6000/m`.
#[derive(Clone, Copy, Debug, Default, PartialEq, PartialOrd)]
pub struct Rate(pub f64);

impl Rate {
    /// A second.
    pub fn per_second(self) -> f64 {
        self.0
    }
}

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/s", self.0)
    }
}

impl Serialize for Rate {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

unit_newtype!(
    Rate,
    names::RATE,
    units::parse_rate,
    codes::BAD_RATE,
    "a rate such as `100/s`",
    r"^[0-9]+(\.[0-9]+)?/(s|m|h|d)$",
    "A rate with its unit: `100/s`, `6000/m`. Units: s, m, h, d."
);

/// Text that is never shown: the only type of key that takes a secret, `${secret:NAME}`.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Secret(pub String);

impl Secret {
    /// The text itself, for the system that asks for it.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

impl Serialize for Secret {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str("***")
    }
}

impl<'de> Deserialize<'de> for Secret {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct V;
        impl<'de> Visitor<'de> for V {
            type Value = Secret;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a text")
            }
            fn visit_newtype_struct<D: Deserializer<'de>>(self, deserializer: D) -> Result<Secret, D::Error> {
                deserializer.deserialize_str(self)
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<Secret, E> {
                Ok(Secret(text.to_owned()))
            }
        }
        deserializer.deserialize_newtype_struct(names::SECRET, V)
    }
}

impl JsonSchema for Secret {
    fn schema_name() -> Cow<'static, str> {
        "Secret".into()
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": "string",
            "description": "A text that is never shown, logged or put in a plan; usually `${secret:NAME}`."
        })
    }
}

/// What a step or sink reads: `name`, `name.errors`, or `{ from: name, where: expression }`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Input {
    /// The name of a source, a step or a side output.
    pub from: String,
    /// Only the rows for which this is true.
    pub filter: Option<Expression>,
}

impl<'de> Deserialize<'de> for Input {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct V;
        impl<'de> Visitor<'de> for V {
            type Value = Input;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("the name of an input, or `{ from: name, where: expression }`")
            }
            fn visit_newtype_struct<D: Deserializer<'de>>(self, deserializer: D) -> Result<Input, D::Error> {
                deserializer.deserialize_any(self)
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<Input, E> {
                Ok(Input { from: text.to_owned(), filter: None })
            }
            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Input, A::Error> {
                #[derive(serde::Deserialize)]
                #[serde(deny_unknown_fields)]
                struct Long {
                    from: String,
                    #[serde(rename = "where")]
                    filter: Option<Expression>,
                }
                let long = Long::deserialize(de::value::MapAccessDeserializer::new(map))?;
                Ok(Input { from: long.from, filter: long.filter })
            }
        }
        deserializer.deserialize_newtype_struct(names::INPUT, V)
    }
}

impl JsonSchema for Input {
    fn schema_name() -> Cow<'static, str> {
        "Input".into()
    }
    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let expression = generator.subschema_for::<Expression>();
        json_schema!({
            "description": "What is read: the name of a source, a step or a side output such as `name.errors`; \
                            or `{ from: name, where: expression }` for some of its rows.",
            "anyOf": [
                { "type": "string" },
                {
                    "type": "object",
                    "properties": { "from": { "type": "string" }, "where": expression },
                    "required": ["from"],
                    "additionalProperties": false
                }
            ]
        })
    }
}

/// A node as it is, for a value whose type depends on something else. It may hold a secret: see [`crate::Node::secret`].
impl<'de> Deserialize<'de> for crate::Node {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct V;
        impl<'de> Visitor<'de> for V {
            type Value = crate::Node;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a value")
            }
            fn visit_newtype_struct<D: Deserializer<'de>>(self, _: D) -> Result<crate::Node, D::Error> {
                handoff::take().ok_or_else(|| de::Error::custom("a node is read from a pipeline file only"))
            }
        }
        deserializer.deserialize_newtype_struct(names::NODE, V)
    }
}

impl JsonSchema for crate::Node {
    fn inline_schema() -> bool {
        true
    }
    fn schema_name() -> Cow<'static, str> {
        "Value".into()
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!(true)
    }
}
