//! A deserializer that makes up a value of whatever type is asked for.
//!
//! It stands in for a wrong or missing value, so that the rest of a struct can be checked, and for a variable or secret
//! that is not to be had in a dry run.

use serde::de::value::StrDeserializer;
use serde::de::{DeserializeSeed, Deserializer, EnumAccess, MapAccess, SeqAccess, VariantAccess, Visitor};

use super::failure::{Failure, Kind};
use crate::node::{Node, StandIn, Value};
use crate::value::{handoff, names};

/// The text that a placeholder reads as.
pub(crate) const PLACEHOLDER: &str = "placeholder";

/// A made-up value.
#[derive(Clone, Copy)]
pub(super) struct Blank {
    stand_in: StandIn,
    /// How many levels it may still go down: a struct may hold itself.
    depth: u8,
}

type Result<T> = std::result::Result<T, Failure>;

impl Blank {
    pub(super) fn placeholder() -> Blank {
        Blank { stand_in: StandIn::Placeholder, depth: 16 }
    }

    pub(super) fn repair() -> Blank {
        Blank { stand_in: StandIn::Blank, depth: 16 }
    }

    fn below(self) -> Result<Blank> {
        match self.depth.checked_sub(1) {
            Some(depth) => Ok(Blank { depth, ..self }),
            None => Err(Failure::new(Kind::Silent)),
        }
    }
}

/// Whatever a made-up value runs into is no problem of the file.
fn silent<T>(result: Result<T>) -> Result<T> {
    result.map_err(|failure| Failure { kind: Kind::Silent, ..failure })
}

macro_rules! made_up {
    ($($method:ident $visit:ident $value:expr;)*) => { $(
        fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value> {
            silent(visitor.$visit($value))
        }
    )* };
}

impl<'de> Deserializer<'de> for Blank {
    type Error = Failure;

    made_up! {
        deserialize_any visit_str PLACEHOLDER;
        deserialize_bool visit_bool false;
        deserialize_i8 visit_i8 1;
        deserialize_i16 visit_i16 1;
        deserialize_i32 visit_i32 1;
        deserialize_i64 visit_i64 1;
        deserialize_u8 visit_u8 1;
        deserialize_u16 visit_u16 1;
        deserialize_u32 visit_u32 1;
        deserialize_u64 visit_u64 1;
        deserialize_f32 visit_f32 1.0;
        deserialize_f64 visit_f64 1.0;
        deserialize_char visit_char 'x';
        deserialize_str visit_str PLACEHOLDER;
        deserialize_string visit_str PLACEHOLDER;
        deserialize_identifier visit_str PLACEHOLDER;
        deserialize_bytes visit_str PLACEHOLDER;
        deserialize_byte_buf visit_str PLACEHOLDER;
    }

    fn deserialize_ignored_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value> {
        silent(visitor.visit_unit())
    }

    fn deserialize_unit<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value> {
        silent(visitor.visit_unit())
    }

    fn deserialize_unit_struct<V: Visitor<'de>>(self, _: &'static str, visitor: V) -> Result<V::Value> {
        silent(visitor.visit_unit())
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value> {
        silent(match self.stand_in {
            StandIn::Placeholder => visitor.visit_some(self.below()?),
            StandIn::Blank => visitor.visit_none(),
        })
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(self, name: &'static str, visitor: V) -> Result<V::Value> {
        let text = match name {
            names::EXPRESSION => "NULL",
            names::TIME_SPAN => "1s",
            names::SIZE => "1MiB",
            names::RATE => "1/s",
            names::SECRET | names::INPUT => PLACEHOLDER,
            names::NODE => {
                let span = engine_base::Span { file: engine_base::FileId(0), start: 0, end: 0 };
                let mut node = Node::new(span, Value::Null);
                node.written.stand_in = Some(self.stand_in);
                return silent(handoff::give(&node, || {
                    visitor.visit_newtype_struct(serde::de::value::UnitDeserializer::new())
                }));
            }
            _ => return silent(visitor.visit_newtype_struct(self.below()?)),
        };
        silent(visitor.visit_newtype_struct(StrDeserializer::new(text)))
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value> {
        self.deserialize_tuple(0, visitor)
    }

    fn deserialize_tuple<V: Visitor<'de>>(self, length: usize, visitor: V) -> Result<V::Value> {
        silent(visitor.visit_seq(Repeated { value: self.below()?, left: length }))
    }

    fn deserialize_tuple_struct<V: Visitor<'de>>(self, _: &'static str, length: usize, visitor: V) -> Result<V::Value> {
        self.deserialize_tuple(length, visitor)
    }

    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value> {
        self.deserialize_struct("", &[], visitor)
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value> {
        silent(visitor.visit_map(Fields { value: self.below()?, fields }))
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value> {
        let variant = variants.first().ok_or_else(|| Failure::new(Kind::Silent))?;
        silent(visitor.visit_enum(First { value: self.below()?, variant }))
    }
}

struct Repeated {
    value: Blank,
    left: usize,
}

impl<'de> SeqAccess<'de> for Repeated {
    type Error = Failure;

    fn next_element_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<Option<T::Value>> {
        match self.left.checked_sub(1) {
            Some(left) => {
                self.left = left;
                seed.deserialize(self.value).map(Some)
            }
            None => Ok(None),
        }
    }
}

struct Fields {
    value: Blank,
    fields: &'static [&'static str],
}

impl<'de> MapAccess<'de> for Fields {
    type Error = Failure;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>> {
        let Some((field, rest)) = self.fields.split_first() else { return Ok(None) };
        self.fields = rest;
        seed.deserialize(StrDeserializer::<Failure>::new(field)).map(Some)
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value> {
        seed.deserialize(self.value)
    }
}

struct First {
    value: Blank,
    variant: &'static str,
}

impl<'de> EnumAccess<'de> for First {
    type Error = Failure;
    type Variant = Blank;

    fn variant_seed<V: DeserializeSeed<'de>>(self, seed: V) -> Result<(V::Value, Blank)> {
        Ok((seed.deserialize(StrDeserializer::<Failure>::new(self.variant))?, self.value))
    }
}

impl<'de> VariantAccess<'de> for Blank {
    type Error = Failure;

    fn unit_variant(self) -> Result<()> {
        Ok(())
    }

    fn newtype_variant_seed<T: DeserializeSeed<'de>>(self, seed: T) -> Result<T::Value> {
        seed.deserialize(self)
    }

    fn tuple_variant<V: Visitor<'de>>(self, length: usize, visitor: V) -> Result<V::Value> {
        self.deserialize_tuple(length, visitor)
    }

    fn struct_variant<V: Visitor<'de>>(self, fields: &'static [&'static str], visitor: V) -> Result<V::Value> {
        self.deserialize_struct("", fields, visitor)
    }
}
