//! From the JSON that is stored to Kubernetes' protobuf, in one pass over the text: no tree is made.
//!
//! What JSON leaves out is left out here, which protobuf reads as zero or "not set". Fields that JSON writes into the
//! message around them go back into their own message, one occurrence for each field: readers merge occurrences.
//! Fields without a known number (a few that came with the newest release) are left out.

use std::borrow::Cow;
use std::fmt;
use std::sync::OnceLock;

use serde::de::{DeserializeSeed, Deserializer, Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

use super::{MAGIC, ProtoError};
use crate::facts::facts;
use crate::kinds;
use crate::schema::{Field, Node, Shape, StructDef, StructRef};

pub const SCHEMA_PROPS: &str = "x:apiextensions.v1.JSONSchemaProps";

/// Objects of this shape can be written as protobuf.
pub fn is_encodable(node: &Node) -> bool {
    let known = |def: &StructDef| def.field("metadata").is_some_and(|field| !field.node.tag.is_empty());
    matches!(&node.shape, Shape::Struct(StructRef::Builtin(_))) && node.struct_def().is_some_and(known)
}

/// The message for a JSON object, without envelope.
pub fn encode(json: &[u8], node: &Node) -> Result<Vec<u8>, ProtoError> {
    let mut out = Vec::with_capacity(json.len());
    encode_into(json, node, &mut out)?;
    Ok(out)
}

fn encode_into(json: &[u8], node: &Node, out: &mut Vec<u8>) -> Result<(), ProtoError> {
    let def = node.struct_def().ok_or_else(|| ProtoError::Unsupported("this kind".into()))?;
    let mut reader = serde_json::Deserializer::from_slice(json);
    Message { def, out }.deserialize(&mut reader).map_err(|_| ProtoError::Malformed)
}

/// A message as an item of a list: with the field's number and its length.
pub fn encode_item(json: &[u8], node: &Node) -> Result<Vec<u8>, ProtoError> {
    let mut out = Vec::with_capacity(json.len());
    let mark = open(&mut out, 2);
    encode_into(json, node, &mut out)?;
    close(&mut out, mark);
    Ok(out)
}

/// What precedes a message of `length` bytes in a whole body.
pub fn head(api_version: &str, kind: &str, length: usize) -> Vec<u8> {
    let mut out = Vec::with_capacity(64);
    out.extend_from_slice(MAGIC);
    let mark = open(&mut out, 1);
    text(&mut out, 1, api_version);
    text(&mut out, 2, kind);
    close(&mut out, mark);
    key(&mut out, 2, 2);
    varint(&mut out, length as u64);
    out
}

/// A whole body.
pub fn wrap(api_version: &str, kind: &str, message: &[u8]) -> Vec<u8> {
    let mut out = head(api_version, kind, message.len());
    out.extend_from_slice(message);
    out
}

/// The beginning of a list's message: its metadata.
pub fn list_meta(json: &[u8]) -> Result<Vec<u8>, ProtoError> {
    let mut out = Vec::new();
    let mark = open(&mut out, 1);
    encode_into(json, &facts().node("m:apis.meta.v1.ListMeta"), &mut out)?;
    close(&mut out, mark);
    Ok(out)
}

/// One event of a watch as the stream carries it: length, then the event around a whole body.
pub fn frame(kind: &str, body: &[u8]) -> Vec<u8> {
    let mut event = Vec::with_capacity(body.len() + 32);
    text(&mut event, 1, kind);
    let mark = open(&mut event, 2);
    key(&mut event, 1, 2);
    varint(&mut event, body.len() as u64);
    event.extend_from_slice(body);
    close(&mut event, mark);
    let mut out = Vec::with_capacity(event.len() + 4);
    out.extend_from_slice(&(event.len() as u32).to_be_bytes());
    out.append(&mut event);
    out
}

/// The shape of `PartialObjectMetadata`: the metadata of any object, and nothing else of it.
pub fn partial_node() -> &'static Node {
    static NODE: OnceLock<Node> = OnceLock::new();
    NODE.get_or_init(|| {
        let mut metadata = facts().node("m:apis.meta.v1.ObjectMeta");
        metadata.tag = vec![1];
        let fields = vec![Field { name: "metadata".into(), required: false, node: metadata }];
        let def = StructDef { fields, ..StructDef::default() };
        Node::new(Shape::Struct(StructRef::Inline(def.into())))
    })
}

fn varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

fn key(out: &mut Vec<u8>, number: u32, wire: u32) {
    varint(out, u64::from(number << 3 | wire));
}

fn text(out: &mut Vec<u8>, number: u32, text: &str) {
    key(out, number, 2);
    varint(out, text.len() as u64);
    out.extend_from_slice(text.as_bytes());
}

/// Begins a message whose length is not known yet; one byte is kept for it.
fn open(out: &mut Vec<u8>, number: u32) -> usize {
    key(out, number, 2);
    out.push(0);
    out.len()
}

fn close(out: &mut Vec<u8>, begin: usize) {
    let length = out.len() - begin;
    if length < 0x80 {
        out[begin - 1] = length as u8;
        return;
    }
    let mut digits = Vec::with_capacity(5);
    varint(&mut digits, length as u64);
    let more = digits.len() - 1;
    out.extend(std::iter::repeat_n(0, more));
    out.copy_within(begin..begin + length, begin + more);
    out[begin - 1..begin + more].copy_from_slice(&digits);
}

/// Begins the messages around a field, all but the last number of its tag; answers where they begin.
fn open_around(out: &mut Vec<u8>, tag: &[u32]) -> Vec<usize> {
    let around = tag.split_last().map_or(&[][..], |(_, around)| around);
    around.iter().map(|number| open(out, *number)).collect()
}

struct Message<'a> {
    def: &'a StructDef,
    out: &'a mut Vec<u8>,
}

impl<'de> DeserializeSeed<'de> for Message<'_> {
    type Value = ();
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Message<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let schema = self.def.name == SCHEMA_PROPS;
        while let Some(name) = map.next_key::<Key<'de>>()? {
            match self.def.field(&name.0).filter(|field| !field.node.tag.is_empty()) {
                None => drop(map.next_value::<IgnoredAny>()?),
                Some(field) if schema && super::is_polymorphic(&field.name) => {
                    let raw = map.next_value::<&RawValue>()?;
                    polymorphic(raw.get(), field, self.def, self.out).map_err(A::Error::custom)?;
                }
                Some(field) if field.node.tag.len() == 1 => {
                    let number = field.node.tag[0];
                    map.next_value_seed(Content { node: &field.node, number, out: self.out })?;
                }
                Some(field) => {
                    let around = open_around(self.out, &field.node.tag);
                    let number = *field.node.tag.last().expect("checked above");
                    map.next_value_seed(Content { node: &field.node, number, out: self.out })?;
                    around.into_iter().rev().for_each(|begin| close(self.out, begin));
                }
            }
        }
        Ok(())
    }
}

/// A key, borrowed where it has no escapes.
struct Key<'a>(Cow<'a, str>);

impl<'de> serde::Deserialize<'de> for Key<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Read;
        impl<'de> Visitor<'de> for Read {
            type Value = Cow<'de, str>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a key")
            }
            fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Self::Value, E> {
                Ok(Cow::Borrowed(text))
            }
            fn visit_str<E>(self, text: &str) -> Result<Self::Value, E> {
                Ok(Cow::Owned(text.to_owned()))
            }
        }
        deserializer.deserialize_str(Read).map(Self)
    }
}

/// What stands in a field: written with the field's number, or not at all for null.
struct Content<'a> {
    node: &'a Node,
    number: u32,
    out: &'a mut Vec<u8>,
}

impl<'de> DeserializeSeed<'de> for Content<'_> {
    type Value = ();
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        if !matches!(self.node.shape, Shape::Raw | Shape::Any) {
            return deserializer.deserialize_any(self);
        }
        let raw = <&RawValue as serde::Deserialize>::deserialize(deserializer)?;
        if raw.get() != "null" {
            let begin = open(self.out, self.number);
            text(self.out, 1, raw.get());
            close(self.out, begin);
        }
        Ok(())
    }
}

impl Content<'_> {
    fn integer<E: serde::de::Error>(self, value: i64) -> Result<(), E> {
        match self.node.shape {
            Shape::Int32 | Shape::Int64 => {
                key(self.out, self.number, 0);
                varint(self.out, value as u64);
            }
            Shape::Double => return self.double(value as f64),
            Shape::IntOrString => {
                let begin = open(self.out, self.number);
                key(self.out, 2, 0);
                varint(self.out, value as u64);
                close(self.out, begin);
            }
            _ => return Err(E::custom("a number where there should be none")),
        }
        Ok(())
    }

    fn double<E: serde::de::Error>(self, value: f64) -> Result<(), E> {
        if self.node.shape != Shape::Double {
            return Err(E::custom("a fraction where there should be none"));
        }
        key(self.out, self.number, 1);
        self.out.extend_from_slice(&value.to_bits().to_le_bytes());
        Ok(())
    }
}

impl<'de> Visitor<'de> for Content<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a value of shape {:?}", self.node.shape)
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_bool<E: serde::de::Error>(self, value: bool) -> Result<(), E> {
        if self.node.shape != Shape::Bool {
            return Err(E::custom("a boolean where there should be none"));
        }
        key(self.out, self.number, 0);
        self.out.push(u8::from(value));
        Ok(())
    }

    fn visit_i64<E: serde::de::Error>(self, value: i64) -> Result<(), E> {
        self.integer(value)
    }

    fn visit_u64<E: serde::de::Error>(self, value: u64) -> Result<(), E> {
        self.integer(value as i64)
    }

    fn visit_f64<E: serde::de::Error>(self, value: f64) -> Result<(), E> {
        self.double(value)
    }

    fn visit_str<E: serde::de::Error>(self, value: &str) -> Result<(), E> {
        match self.node.shape {
            Shape::String => text(self.out, self.number, value),
            Shape::Bytes => {
                let raw = kinds::from_base64(value).ok_or_else(|| E::custom("base64"))?;
                key(self.out, self.number, 2);
                varint(self.out, raw.len() as u64);
                self.out.extend_from_slice(&raw);
            }
            Shape::Quantity => {
                let begin = open(self.out, self.number);
                text(self.out, 1, value);
                close(self.out, begin);
            }
            Shape::Time | Shape::MicroTime => {
                let time: jiff::Timestamp = value.parse().map_err(E::custom)?;
                let begin = open(self.out, self.number);
                key(self.out, 1, 0);
                varint(self.out, time.as_second() as u64);
                key(self.out, 2, 0);
                varint(self.out, i64::from(time.subsec_nanosecond()) as u64);
                close(self.out, begin);
            }
            Shape::IntOrString => {
                let begin = open(self.out, self.number);
                key(self.out, 1, 0);
                self.out.push(1);
                text(self.out, 3, value);
                close(self.out, begin);
            }
            _ => return Err(E::custom("a string where there should be none")),
        }
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<(), A::Error> {
        let Shape::List(item) = &self.node.shape else {
            return Err(A::Error::custom("a list where there should be none"));
        };
        while seq.next_element_seed(Content { node: item, number: self.number, out: self.out })?.is_some() {}
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        match &self.node.shape {
            Shape::Struct(reference) => {
                let begin = open(self.out, self.number);
                Message { def: reference.def(), out: self.out }.visit_map(map)?;
                close(self.out, begin);
            }
            Shape::Map(item) => {
                while let Some(name) = map.next_key::<Key<'de>>()? {
                    let entry = open(self.out, self.number);
                    text(self.out, 1, &name.0);
                    // A map of lists is a map of messages that hold a list.
                    match &item.shape {
                        Shape::List(_) => {
                            let begin = open(self.out, 2);
                            map.next_value_seed(Content { node: item, number: 1, out: self.out })?;
                            close(self.out, begin);
                        }
                        _ => map.next_value_seed(Content { node: item, number: 2, out: self.out })?,
                    }
                    close(self.out, entry);
                }
            }
            _ => return Err(A::Error::custom("an object where there should be none")),
        }
        Ok(())
    }
}

/// Parts of a schema that JSON writes as a schema, a list of them, a boolean or a list of names.
fn polymorphic(raw: &str, field: &Field, def: &StructDef, out: &mut Vec<u8>) -> Result<(), ProtoError> {
    let number = field.node.tag[0];
    if field.name == "dependencies" {
        let entries: std::collections::BTreeMap<Cow<'_, str>, &RawValue> =
            serde_json::from_str(raw).map_err(|_| ProtoError::Malformed)?;
        for (name, raw) in entries {
            let entry = open(out, number);
            text(out, 1, &name);
            let value = open(out, 2);
            schema_or(raw.get(), (1, 2, None), def, out)?;
            close(out, value);
            close(out, entry);
        }
        return Ok(());
    }
    let begin = open(out, number);
    let numbers = if field.name == "items" { (1, 2, None) } else { (2, 0, Some(1)) };
    schema_or(raw, numbers, def, out)?;
    close(out, begin);
    Ok(())
}

/// Writes a schema, a list or a boolean under these numbers.
fn schema_or(
    raw: &str,
    (schema, list, flag): (u32, u32, Option<u32>),
    def: &StructDef,
    out: &mut Vec<u8>,
) -> Result<(), ProtoError> {
    let one = |raw: &str, number: u32, out: &mut Vec<u8>| {
        let begin = open(out, number);
        let mut reader = serde_json::Deserializer::from_str(raw);
        Message { def, out }.deserialize(&mut reader).map_err(|_| ProtoError::Malformed)?;
        close(out, begin);
        Ok(())
    };
    match (raw.as_bytes().first(), flag) {
        (Some(b'{'), flag) => {
            if let Some(number) = flag {
                key(out, number, 0);
                out.push(1);
            }
            one(raw, schema, out)
        }
        (Some(b't' | b'f'), Some(number)) => {
            key(out, number, 0);
            out.push(u8::from(raw == "true"));
            Ok(())
        }
        (Some(b'['), None) => {
            let items: Vec<&RawValue> = serde_json::from_str(raw).map_err(|_| ProtoError::Malformed)?;
            for item in items {
                match item.get().starts_with('"') {
                    true => {
                        let name: Cow<'_, str> = serde_json::from_str(item.get()).map_err(|_| ProtoError::Malformed)?;
                        text(out, list, &name);
                    }
                    false => one(item.get(), list, out)?,
                }
            }
            Ok(())
        }
        _ => Err(ProtoError::Malformed),
    }
}
