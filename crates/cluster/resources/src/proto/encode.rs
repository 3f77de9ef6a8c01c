//! From the JSON that is stored to Kubernetes' protobuf, in one pass over the text: no tree is made. The same pass over a
//! [`Length`] says how long the message will be, so that a list's head can be sent before its items are encoded.
//!
//! What JSON leaves out is left out here, which protobuf reads as zero or "not set". Fields that JSON writes into the
//! message around them go back into their own message, one occurrence for each field: readers merge occurrences.
//! Fields without a known number (a few that came with the newest release) are left out.

use std::sync::OnceLock;

use super::json::Reader;
use super::memo::{Found, Memo, Place};
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
    encode_into(json, node, &mut out, &mut Memo::none())?;
    Ok(out)
}

fn encode_into<S: Sink>(json: &[u8], node: &Node, out: &mut S, memo: &mut Memo<S::Kept>) -> Result<(), ProtoError> {
    let def = node.struct_def().ok_or_else(|| ProtoError::Unsupported("this kind".into()))?;
    let mut reader = Reader::new(json);
    message(&mut reader, def, out, memo, Place::TOP)?;
    reader.end()
}

/// Encodes the items of a list, one after the other.
pub struct Items<'a> {
    node: &'a Node,
    memo: Memo<Vec<u8>>,
}

impl<'a> Items<'a> {
    pub fn new(node: &'a Node) -> Self {
        Self { node, memo: Memo::new() }
    }

    /// Appends the message for a JSON object with the field's number and its length.
    pub fn append(&mut self, json: &[u8], out: &mut Vec<u8>) -> Result<(), ProtoError> {
        item(json, self.node, out, &mut self.memo)
    }
}

/// Tells how long items of a list will be.
pub struct Lengths<'a> {
    node: &'a Node,
    memo: Memo<usize>,
}

impl<'a> Lengths<'a> {
    pub fn new(node: &'a Node) -> Self {
        Self { node, memo: Memo::new() }
    }

    /// How many bytes [`Items::append`] appends.
    pub fn of(&mut self, json: &[u8]) -> Result<usize, ProtoError> {
        let mut length = Length::default();
        item(json, self.node, &mut length, &mut self.memo)?;
        Ok(length.0)
    }
}

fn item<S: Sink>(json: &[u8], node: &Node, out: &mut S, memo: &mut Memo<S::Kept>) -> Result<(), ProtoError> {
    let mark = open(out, 2);
    encode_into(json, node, out, memo)?;
    close(out, mark);
    Ok(())
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
    encode_into(json, &facts().node("m:apis.meta.v1.ListMeta"), &mut out, &mut Memo::none())?;
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

/// Where a message goes.
pub(crate) trait Sink {
    /// A part of what was put, to be put again.
    type Kept: Default;

    fn put(&mut self, bytes: &[u8]);

    /// Keeps one byte for the length of the message that begins here; answers where that is.
    fn begin(&mut self) -> usize;

    /// The message that began there ends here.
    fn end(&mut self, begin: usize);

    /// Bytes so far.
    fn size(&self) -> usize;

    /// What was put since there were `from` bytes.
    fn keep(&self, from: usize, kept: &mut Self::Kept);

    fn replay(&mut self, kept: &Self::Kept);
}

impl Sink for Vec<u8> {
    type Kept = Vec<u8>;

    #[inline]
    fn put(&mut self, bytes: &[u8]) {
        self.extend_from_slice(bytes);
    }

    fn begin(&mut self) -> usize {
        self.push(0);
        self.len()
    }

    fn end(&mut self, begin: usize) {
        let length = self.len() - begin;
        if length < 0x80 {
            self[begin - 1] = length as u8;
            return;
        }
        let (digits, count) = digits(length as u64);
        let more = count - 1;
        self.extend(std::iter::repeat_n(0, more));
        self.copy_within(begin..begin + length, begin + more);
        self[begin - 1..begin + more].copy_from_slice(&digits[..count]);
    }

    fn size(&self) -> usize {
        self.len()
    }

    fn keep(&self, from: usize, kept: &mut Vec<u8>) {
        kept.clear();
        kept.extend_from_slice(&self[from..]);
    }

    fn replay(&mut self, kept: &Vec<u8>) {
        self.extend_from_slice(kept);
    }
}

/// Counts what would be written.
#[derive(Debug, Default)]
struct Length(usize);

impl Sink for Length {
    type Kept = usize;

    #[inline]
    fn put(&mut self, bytes: &[u8]) {
        self.0 += bytes.len();
    }

    fn begin(&mut self) -> usize {
        self.0 += 1;
        self.0
    }

    #[inline]
    fn end(&mut self, begin: usize) {
        let length = self.0 - begin;
        if length >= 0x80 {
            self.0 += digits(length as u64).1 - 1;
        }
    }

    fn size(&self) -> usize {
        self.0
    }

    fn keep(&self, from: usize, kept: &mut usize) {
        *kept = self.0 - from;
    }

    fn replay(&mut self, kept: &usize) {
        self.0 += kept;
    }
}

/// A number in groups of seven bits, and how many there are.
fn digits(mut value: u64) -> ([u8; 10], usize) {
    let (mut out, mut count) = ([0; 10], 0);
    while value >= 0x80 {
        out[count] = value as u8 | 0x80;
        value >>= 7;
        count += 1;
    }
    out[count] = value as u8;
    (out, count + 1)
}

#[inline]
pub(crate) fn varint(out: &mut impl Sink, value: u64) {
    if value < 0x80 {
        return out.put(&[value as u8]);
    }
    let (digits, count) = digits(value);
    out.put(&digits[..count]);
}

#[inline]
pub(crate) fn key(out: &mut impl Sink, number: u32, wire: u32) {
    varint(out, u64::from(number << 3 | wire));
}

pub(crate) fn text(out: &mut impl Sink, number: u32, text: &str) {
    bytes(out, number, text.as_bytes());
}

#[inline]
fn bytes(out: &mut impl Sink, number: u32, bytes: &[u8]) {
    key(out, number, 2);
    varint(out, bytes.len() as u64);
    out.put(bytes);
}

/// Begins a message whose length is not known yet; one byte is kept for it.
#[inline]
pub(crate) fn open(out: &mut impl Sink, number: u32) -> usize {
    key(out, number, 2);
    out.begin()
}

pub(crate) fn close(out: &mut impl Sink, begin: usize) {
    out.end(begin);
}

/// The object that comes next, as a message of this type.
fn message<S: Sink>(
    reader: &mut Reader<'_>,
    def: &StructDef,
    out: &mut S,
    memo: &mut Memo<S::Kept>,
    place: Place,
) -> Result<(), ProtoError> {
    let schema = def.name == SCHEMA_PROPS;
    let (mut first, mut next) = (true, 0);
    reader.open(b'{')?;
    while let Some(name) = reader.key(&mut first)? {
        let Some(field) = field(def, &name, &mut next).filter(|field| !field.node.tag.is_empty()) else {
            reader.raw()?;
            continue;
        };
        // Behind the search, `next` is the field's number.
        let place = place.at(next);
        match &field.node.tag[..] {
            [_] if schema && super::is_polymorphic(&field.name) => polymorphic(reader, field, def, out, memo, place)?,
            [number] => content(reader, &field.node, *number, out, memo, place)?,
            // The messages around the field, all but the last number of its tag.
            [around @ .., number] => {
                let begun: Vec<usize> = around.iter().map(|number| open(out, *number)).collect();
                content(reader, &field.node, *number, out, memo, place)?;
                begun.into_iter().rev().for_each(|begin| close(out, begin));
            }
            [] => {}
        }
    }
    Ok(())
}

/// The field of this name. Stored objects have their keys in order, as the table has: it is looked for from the last one on.
#[inline]
fn field<'a>(def: &'a StructDef, name: &[u8], next: &mut usize) -> Option<&'a Field> {
    let is = |field: &Field| field.name.len() == name.len() && field.name.as_bytes() == name;
    let (before, behind) = def.fields.split_at(*next);
    let at = match behind.iter().position(is) {
        Some(at) => *next + at,
        None => before.iter().position(is)?,
    };
    *next = at + 1;
    def.fields.get(at)
}

/// What stands in a field: written with the field's number, or not at all for null.
fn content<S: Sink>(
    reader: &mut Reader<'_>,
    node: &Node,
    number: u32,
    out: &mut S,
    memo: &mut Memo<S::Kept>,
    place: Place,
) -> Result<(), ProtoError> {
    let first = reader.peek()?;
    if first == b'n' {
        return reader.raw().map(drop);
    }
    let mut lesson = None;
    if matches!(first, b'{' | b'[') {
        lesson = match memo.find(reader, node, number, place, out) {
            Found::Known => return Ok(()),
            Found::Unknown(lesson) => lesson,
        };
    }
    match (&node.shape, first) {
        (Shape::Raw | Shape::Any, _) => {
            let begin = open(out, number);
            bytes(out, 1, reader.raw()?);
            close(out, begin);
        }
        (Shape::Struct(reference), b'{') => {
            let begin = open(out, number);
            message(reader, reference.def(), out, memo, place)?;
            close(out, begin);
        }
        (Shape::Map(item), b'{') => {
            let mut first = true;
            reader.open(b'{')?;
            while let Some(name) = reader.key(&mut first)? {
                let entry = open(out, number);
                bytes(out, 1, &name);
                // A map of lists is a map of messages that hold a list.
                match &item.shape {
                    Shape::List(_) => {
                        let begin = open(out, 2);
                        content(reader, item, 1, out, memo, place)?;
                        close(out, begin);
                    }
                    _ => content(reader, item, 2, out, memo, place)?,
                }
                close(out, entry);
            }
        }
        (Shape::List(item), b'[') => {
            let (mut first, mut count) = (true, 0);
            reader.open(b'[')?;
            while reader.item(&mut first, b']')? {
                count += 1;
                content(reader, item, number, out, memo, place.at(count))?;
            }
        }
        (shape, b'"') => string(&reader.string()?, shape, number, out)?,
        (Shape::Bool, _) => {
            key(out, number, 0);
            out.put(&[u8::from(flag(reader)?)]);
        }
        (shape, _) => scalar(reader.word()?, shape, number, out)?,
    }
    memo.learn(lesson, reader, out);
    Ok(())
}

fn flag(reader: &mut Reader<'_>) -> Result<bool, ProtoError> {
    reader.word()?.parse().map_err(|_| ProtoError::Malformed)
}

fn scalar(word: &str, shape: &Shape, number: u32, out: &mut impl Sink) -> Result<(), ProtoError> {
    // Numbers above the signed ones keep their bits.
    let integer = || word.parse::<i64>().or_else(|_| word.parse::<u64>().map(|value| value as i64));
    match shape {
        Shape::Int32 | Shape::Int64 => {
            key(out, number, 0);
            varint(out, integer().map_err(|_| ProtoError::Malformed)? as u64);
        }
        Shape::IntOrString => {
            let begin = open(out, number);
            key(out, 2, 0);
            varint(out, integer().map_err(|_| ProtoError::Malformed)? as u64);
            close(out, begin);
        }
        Shape::Double => {
            let value: f64 = word.parse().map_err(|_| ProtoError::Malformed)?;
            key(out, number, 1);
            out.put(&value.to_bits().to_le_bytes());
        }
        _ => return Err(ProtoError::Malformed),
    }
    Ok(())
}

fn string(value: &[u8], shape: &Shape, number: u32, out: &mut impl Sink) -> Result<(), ProtoError> {
    let utf8 = || std::str::from_utf8(value).map_err(|_| ProtoError::Malformed);
    match shape {
        Shape::String => bytes(out, number, value),
        Shape::Bytes => bytes(out, number, &kinds::from_base64(utf8()?).ok_or(ProtoError::Malformed)?),
        Shape::Quantity => {
            let begin = open(out, number);
            bytes(out, 1, value);
            close(out, begin);
        }
        Shape::Time | Shape::MicroTime => {
            let time = match whole_second(value) {
                Some(time) => time,
                None => utf8()?.parse().map_err(|_| ProtoError::Malformed)?,
            };
            let begin = open(out, number);
            key(out, 1, 0);
            varint(out, time.as_second() as u64);
            key(out, 2, 0);
            varint(out, i64::from(time.subsec_nanosecond()) as u64);
            close(out, begin);
        }
        Shape::IntOrString => {
            let begin = open(out, number);
            key(out, 1, 0);
            out.put(&[1]);
            bytes(out, 3, value);
            close(out, begin);
        }
        _ => return Err(ProtoError::Malformed),
    }
    Ok(())
}

/// `2006-01-02T15:04:05Z`, which almost all times are; `None` for any other form.
fn whole_second(text: &[u8]) -> Option<jiff::Timestamp> {
    let [a, b, c, d, b'-', e, f, b'-', g, h, b'T', i, j, b':', k, l, b':', m, n, b'Z'] = text else { return None };
    let number = |digits: &[&u8]| {
        digits.iter().try_fold(0_i16, |sum, digit| digit.is_ascii_digit().then(|| sum * 10 + i16::from(**digit - b'0')))
    };
    let pair = |tens, ones| number(&[tens, ones]).map(|pair| pair as i8);
    let (year, month, day) = (number(&[a, b, c, d])?, pair(e, f)?, pair(g, h)?);
    let time = jiff::civil::DateTime::new(year, month, day, pair(i, j)?, pair(k, l)?, pair(m, n)?, 0).ok()?;
    jiff::tz::Offset::UTC.to_timestamp(time).ok()
}

/// Parts of a schema that JSON writes as a schema, a list of them, a boolean or a list of names.
fn polymorphic<S: Sink>(
    reader: &mut Reader<'_>,
    field: &Field,
    def: &StructDef,
    out: &mut S,
    memo: &mut Memo<S::Kept>,
    place: Place,
) -> Result<(), ProtoError> {
    let number = field.node.tag[0];
    if field.name == "dependencies" {
        let mut first = true;
        reader.open(b'{')?;
        while let Some(name) = reader.key(&mut first)? {
            let entry = open(out, number);
            bytes(out, 1, &name);
            let value = open(out, 2);
            schema_or(reader, (1, 2, None), def, out, memo, place)?;
            close(out, value);
            close(out, entry);
        }
        return Ok(());
    }
    let begin = open(out, number);
    let numbers = if field.name == "items" { (1, 2, None) } else { (2, 0, Some(1)) };
    schema_or(reader, numbers, def, out, memo, place)?;
    close(out, begin);
    Ok(())
}

/// Writes a schema, a list or a boolean under these numbers.
fn schema_or<S: Sink>(
    reader: &mut Reader<'_>,
    (schema, list, flagged): (u32, u32, Option<u32>),
    def: &StructDef,
    out: &mut S,
    memo: &mut Memo<S::Kept>,
    place: Place,
) -> Result<(), ProtoError> {
    match (reader.peek()?, flagged) {
        (b'{', flagged) => {
            if let Some(number) = flagged {
                key(out, number, 0);
                out.put(&[1]);
            }
            let begin = open(out, schema);
            message(reader, def, out, memo, place)?;
            close(out, begin);
        }
        (b't' | b'f', Some(number)) => {
            key(out, number, 0);
            out.put(&[u8::from(flag(reader)?)]);
        }
        (b'[', None) => {
            let mut first = true;
            reader.open(b'[')?;
            while reader.item(&mut first, b']')? {
                if reader.peek()? == b'"' {
                    bytes(out, list, &reader.string()?);
                    continue;
                }
                let begin = open(out, list);
                message(reader, def, out, memo, place)?;
                close(out, begin);
            }
        }
        _ => return Err(ProtoError::Malformed),
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_as_any_reader_reads_them() {
        for text in ["2024-02-29T23:59:59Z", "1969-12-31T00:00:01Z", "0001-01-01T00:00:00Z", "9999-12-30T22:00:00Z"] {
            assert_eq!(whole_second(text.as_bytes()), text.parse().ok(), "{text}");
        }
        for text in
            ["2023-02-29T00:00:00Z", "2024-01-02T03:04:05.5Z", "2024-01-02T03:04:05+01:00", "2024-1-02T03:04:005Z"]
        {
            assert_eq!(whole_second(text.as_bytes()), None, "{text}");
        }
    }

    #[test]
    fn a_length_is_known_before_it_is_written() {
        let node = facts().node("a:core.v1.Pod");
        for size in [0, 1, 100, 126, 127, 128, 129, 16_382, 16_383, 16_384, 70_000] {
            let pod = serde_json::json!({"metadata": {"name": "a".repeat(size), "labels": {"k": "v".repeat(size)}},
                "spec": {"containers": [{"name": "c", "env": [{"name": "A", "value": "\"".repeat(size)}]}]},
                "status": {"startTime": "2024-02-29T23:59:59Z"}});
            let mut written = Vec::new();
            Items::new(&node).append(pod.to_string().as_bytes(), &mut written).unwrap();
            assert_eq!(Lengths::new(&node).of(pod.to_string().as_bytes()).unwrap(), written.len(), "{size}");
        }
    }

    /// A pod of which little, much or all is as in the one before.
    fn pod(number: usize) -> String {
        let text = "x".repeat(number % 3 * 20);
        let container = |n: usize| {
            serde_json::json!({"name": format!("c{n}"), "image": format!("shop/web:{}", number / 7),
            "env": [{"name": "A", "value": text}, {"name": "A long name", "value": "a long value, always the same"}]})
        };
        let containers: Vec<_> = (0..number % 4).map(container).collect();
        let conditions: Vec<_> = (0..3)
            .map(|n| serde_json::json!({"type": format!("T{n}"), "lastTransitionTime": format!("2024-02-29T23:59:{:02}Z", number % 5)}))
            .collect();
        serde_json::json!({"metadata": {"name": number.to_string(), "labels": {"app": "web", "tier": number % 2, "long": "a long label"},
            "managedFields": [{"manager": "m", "fieldsV1": {"f:metadata": {"f:labels": {}}}}]},
            "spec": {"containers": containers, "initContainers": containers},
            "status": {"conditions": conditions, "phase": "Running"}})
        .to_string()
        .replace("\"tier\":0", "\"tier\":\"a\"")
        .replace("\"tier\":1", "\"tier\":\"b\"")
    }

    #[test]
    fn what_is_remembered_is_what_would_be_written() {
        let node = facts().node("a:core.v1.Pod");
        let (mut items, mut lengths) = (Items::new(&node), Lengths::new(&node));
        for number in 0..500 {
            let json = pod(if number < 250 { number } else { 250 + number % 2 });
            let (mut alone, mut together) = (Vec::new(), Vec::new());
            Items::new(&node).append(json.as_bytes(), &mut alone).unwrap();
            items.append(json.as_bytes(), &mut together).unwrap();
            assert_eq!(together, alone, "{json}");
            assert_eq!(lengths.of(json.as_bytes()), Ok(alone.len()), "{json}");
        }
    }

    #[test]
    fn what_has_no_number_is_left_out_also_behind_what_is_remembered() {
        let node = facts().node("a:core.v1.Pod");
        let mut items = Items::new(&node);
        let [mut first, mut second, mut third] = [Vec::new(), Vec::new(), Vec::new()];
        let text = |more: &str| format!(r#"{{"metadata":{{"labels":{{"a":"long enough to be kept"}}}}{more}}}"#);
        items.append(text("").as_bytes(), &mut first).unwrap();
        items.append(text(r#","no":{"such":"field"}"#).as_bytes(), &mut second).unwrap();
        assert_eq!(first, second);
        // It begins as what is remembered, and is something else.
        assert!(items.append(text("x").as_bytes(), &mut third).is_err());
    }

    #[test]
    fn keys_in_any_order_find_their_fields() {
        let node = facts().node("a:core.v1.Pod");
        let sorted = br#"{"metadata":{"name":"a","namespace":"b","uid":"c"},"spec":{"nodeName":"n"}}"#;
        let turned =
            br#"{"spec":{"nodeName":"n"},"x":[1],"metadata":{"uid":"c","name":"a","namespace":"b"},"apiVersion":"v1"}"#;
        let back = |json: &[u8]| super::super::decode(&encode(json, &node).unwrap(), &node).unwrap();
        assert_eq!(back(sorted), back(turned));
    }
}
