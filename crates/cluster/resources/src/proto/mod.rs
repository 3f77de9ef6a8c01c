//! Kubernetes' protobuf, `application/vnd.kubernetes.protobuf`, driven by the field numbers of the table of facts: here
//! from a body to a tree, in [`encode`] from stored JSON to a body.
//!
//! Protobuf writes fields that JSON leaves out (empty strings, zeros and false that mean "not set"). They are left out
//! here as well, except where not set and zero differ: those fields are named below.

pub(crate) mod encode;
mod json;
mod memo;

pub use encode::{Items, Lengths, encode, frame, head, is_encodable, list_meta, partial_node, wrap};

use serde_json::{Map, Value};

use crate::facts::facts;
use crate::kinds;
use crate::schema::{Node, Shape, StructDef};

/// What begins every body.
const MAGIC: &[u8] = b"k8s\0";
const DEPTH_MAX: usize = 64;

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ProtoError {
    #[error("the body does not begin as Kubernetes' protobuf does")]
    Magic,
    #[error("the protobuf message is cut short or malformed")]
    Malformed,
    #[error("the protobuf message nests too deeply")]
    Depth,
    #[error("{kind} has a field with number {number} that this server does not know")]
    Unknown { kind: String, number: String },
    #[error("{0} cannot be read from protobuf; send JSON")]
    Unsupported(String),
}

/// A body: version and kind as it names them, and the message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Envelope<'a> {
    pub api_version: String,
    pub kind: String,
    pub raw: &'a [u8],
}

/// Opens a body.
pub fn envelope(body: &[u8]) -> Result<Envelope<'_>, ProtoError> {
    let rest = body.strip_prefix(MAGIC).ok_or(ProtoError::Magic)?;
    let mut out = Envelope { api_version: String::new(), kind: String::new(), raw: &[] };
    for field in fields(rest) {
        match field? {
            (1, Wire::Bytes(meta)) => {
                for field in fields(meta) {
                    match field? {
                        (1, Wire::Bytes(text)) => out.api_version = utf8(text)?,
                        (2, Wire::Bytes(text)) => out.kind = utf8(text)?,
                        _ => {}
                    }
                }
            }
            (2, Wire::Bytes(raw)) => out.raw = raw,
            _ => {}
        }
    }
    Ok(out)
}

/// The message as a tree of the shape of `node`.
pub fn decode(raw: &[u8], node: &Node) -> Result<Value, ProtoError> {
    let Some(def) = node.struct_def() else { return Err(ProtoError::Unsupported("this kind".into())) };
    message(raw, def, 0)
}

#[derive(Debug, Clone, Copy)]
enum Wire<'a> {
    Varint(u64),
    Fixed64(u64),
    Fixed32(u32),
    Bytes(&'a [u8]),
}

/// The fields of a message: number and content.
fn fields(mut rest: &[u8]) -> impl Iterator<Item = Result<(u32, Wire<'_>), ProtoError>> {
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let field = next(&mut rest);
        if field.is_none() {
            rest = &[];
        }
        Some(field.ok_or(ProtoError::Malformed))
    })
}

fn next<'a>(rest: &mut &'a [u8]) -> Option<(u32, Wire<'a>)> {
    let tag = varint(rest)?;
    let number = u32::try_from(tag >> 3).ok().filter(|number| *number > 0)?;
    let mut take = |count: usize| -> Option<&'a [u8]> {
        let (head, tail) = rest.split_at_checked(count)?;
        *rest = tail;
        Some(head)
    };
    let wire = match tag & 7 {
        0 => Wire::Varint(varint(rest)?),
        1 => Wire::Fixed64(u64::from_le_bytes(take(8)?.try_into().ok()?)),
        5 => Wire::Fixed32(u32::from_le_bytes(take(4)?.try_into().ok()?)),
        2 => {
            let length = usize::try_from(varint(rest)?).ok()?;
            let (head, tail) = rest.split_at_checked(length)?;
            *rest = tail;
            Wire::Bytes(head)
        }
        _ => return None,
    };
    Some((number, wire))
}

fn varint(rest: &mut &[u8]) -> Option<u64> {
    let mut value = 0u64;
    for shift in (0..70).step_by(7) {
        let (&byte, tail) = rest.split_first()?;
        *rest = tail;
        // The tenth byte has room for one bit.
        if shift == 63 && byte > 1 {
            return None;
        }
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

fn utf8(bytes: &[u8]) -> Result<String, ProtoError> {
    String::from_utf8(bytes.to_vec()).map_err(|_| ProtoError::Malformed)
}

fn message(raw: &[u8], def: &StructDef, depth: usize) -> Result<Value, ProtoError> {
    let mut out = Map::new();
    if def.fields.iter().any(|field| !field.node.tag.is_empty()) || raw.is_empty() {
        part(raw, def, &mut Vec::new(), &mut out, depth)?;
    } else if !def.fields.is_empty() {
        return Err(ProtoError::Unsupported(def.go_name().to_owned()));
    }
    out.retain(|name, value| !is_unset(def, name, value));
    Ok(Value::Object(out))
}

/// One message, or a part of one that JSON writes into the message around it.
fn part(
    raw: &[u8],
    def: &StructDef,
    prefix: &mut Vec<u32>,
    out: &mut Map<String, Value>,
    depth: usize,
) -> Result<(), ProtoError> {
    if depth > DEPTH_MAX {
        return Err(ProtoError::Depth);
    }
    for entry in fields(raw) {
        let (number, wire) = entry?;
        prefix.push(number);
        let field = def.fields.iter().find(|field| field.node.tag == *prefix);
        match (field, wire) {
            (Some(field), Wire::Bytes(raw)) if def.name == encode::SCHEMA_PROPS && is_polymorphic(&field.name) => {
                polymorphic(raw, &field.name, def, out, depth)?;
            }
            (Some(field), wire) => match &field.node.shape {
                Shape::List(item) => {
                    let list = out.entry(field.name.as_str()).or_insert_with(|| Value::Array(Vec::new()));
                    if let Value::Array(list) = list {
                        repeated(wire, item, list, depth)?;
                    }
                }
                Shape::Map(item) => {
                    let (key, value) = map_entry(wire, item, depth)?;
                    let map = out.entry(field.name.as_str()).or_insert_with(|| Value::Object(Map::new()));
                    if let Value::Object(map) = map {
                        map.insert(key, value);
                    }
                }
                _ => {
                    let value = single(wire, &field.node, depth)?;
                    out.insert(field.name.clone(), value);
                }
            },
            (None, Wire::Bytes(inner)) if def.fields.iter().any(|field| field.node.tag.starts_with(prefix)) => {
                part(inner, def, prefix, out, depth + 1)?;
            }
            (None, wire) => {
                // Zeros of fields that came later than this server carry no wish.
                if !is_zero(wire) {
                    let number = prefix.iter().map(u32::to_string).collect::<Vec<_>>().join(".");
                    return Err(ProtoError::Unknown { kind: def.go_name().to_owned(), number });
                }
            }
        }
        prefix.pop();
    }
    Ok(())
}

/// Fields of a schema that hold a schema or something else: a list of schemas, a boolean, names.
fn is_polymorphic(field: &str) -> bool {
    matches!(field, "items" | "additionalProperties" | "additionalItems" | "dependencies")
}

fn polymorphic(
    raw: &[u8],
    name: &str,
    def: &StructDef,
    out: &mut Map<String, Value>,
    depth: usize,
) -> Result<(), ProtoError> {
    let (mut key, mut value) = (String::new(), None);
    let (schema_at, body) = match name {
        "items" => (1, raw),
        "dependencies" => {
            let mut body: &[u8] = &[];
            for entry in fields(raw) {
                match entry? {
                    (1, Wire::Bytes(text)) => key = utf8(text)?,
                    (2, Wire::Bytes(raw)) => body = raw,
                    _ => {}
                }
            }
            (1, body)
        }
        _ => (2, raw),
    };
    for entry in fields(body) {
        match entry? {
            (number, Wire::Bytes(raw)) if number == schema_at => value = Some(message(raw, def, depth + 1)?),
            (1, Wire::Varint(allowed)) if value.is_none() => value = Some((allowed != 0).into()),
            (2, Wire::Bytes(raw)) => {
                let item = if name == "items" { message(raw, def, depth + 1)? } else { utf8(raw)?.into() };
                match &mut value {
                    Some(Value::Array(list)) => list.push(item),
                    _ => value = Some(Value::Array(vec![item])),
                }
            }
            _ => {}
        }
    }
    let value = value.unwrap_or(Value::Null);
    if name != "dependencies" {
        out.insert(name.to_owned(), value);
    } else if let Value::Object(map) = out.entry(name).or_insert_with(|| Value::Object(Map::new())) {
        map.insert(key, value);
    }
    Ok(())
}

fn is_zero(wire: Wire<'_>) -> bool {
    match wire {
        Wire::Varint(value) | Wire::Fixed64(value) => value == 0,
        Wire::Fixed32(value) => value == 0,
        Wire::Bytes(bytes) => bytes.is_empty(),
    }
}

/// Numbers may come packed.
fn repeated(wire: Wire<'_>, item: &Node, list: &mut Vec<Value>, depth: usize) -> Result<(), ProtoError> {
    match (&item.shape, wire) {
        (Shape::Int32 | Shape::Int64 | Shape::Bool, Wire::Bytes(mut packed)) => {
            while !packed.is_empty() {
                let value = varint(&mut packed).ok_or(ProtoError::Malformed)?;
                list.push(single(Wire::Varint(value), item, depth)?);
            }
        }
        _ => list.push(single(wire, item, depth)?),
    }
    Ok(())
}

fn map_entry(wire: Wire<'_>, item: &Node, depth: usize) -> Result<(String, Value), ProtoError> {
    let Wire::Bytes(raw) = wire else { return Err(ProtoError::Malformed) };
    let (mut key, mut value) = (String::new(), None);
    for entry in fields(raw) {
        match entry? {
            (1, Wire::Bytes(text)) => key = utf8(text)?,
            // A map of lists is a map of messages that hold a list.
            (2, Wire::Bytes(raw)) if matches!(item.shape, Shape::List(_)) => {
                let mut list = Vec::new();
                for entry in fields(raw) {
                    if let ((1, wire), Some(inner)) = (entry?, item.item()) {
                        repeated(wire, inner, &mut list, depth + 1)?;
                    }
                }
                value = Some(Value::Array(list));
            }
            (2, wire) => value = Some(single(wire, item, depth)?),
            _ => {}
        }
    }
    let empty = || match item.shape {
        Shape::Struct(_) => Value::Object(Map::new()),
        Shape::List(_) => Value::Array(Vec::new()),
        _ => "".into(),
    };
    Ok((key, value.unwrap_or_else(empty)))
}

fn single(wire: Wire<'_>, node: &Node, depth: usize) -> Result<Value, ProtoError> {
    Ok(match (&node.shape, wire) {
        (Shape::String, Wire::Bytes(text)) => utf8(text)?.into(),
        (Shape::Bytes, Wire::Bytes(raw)) => kinds::base64(raw).into(),
        (Shape::Int32 | Shape::Int64, Wire::Varint(value)) => (value as i64).into(),
        (Shape::Bool, Wire::Varint(value)) => (value != 0).into(),
        (Shape::Double, Wire::Fixed64(bits)) => f64::from_bits(bits).into(),
        (Shape::Struct(reference), Wire::Bytes(raw)) => message(raw, reference.def(), depth + 1)?,
        (Shape::Quantity, Wire::Bytes(raw)) => match first_bytes(raw, 1)? {
            Some(text) => utf8(text)?.into(),
            None => "0".into(),
        },
        (Shape::Time | Shape::MicroTime, Wire::Bytes(raw)) => time(raw, &node.shape)?,
        (Shape::IntOrString, Wire::Bytes(raw)) => int_or_string(raw)?,
        // RawExtension, FieldsV1 and JSON hold JSON text.
        (Shape::Raw | Shape::Any, Wire::Bytes(raw)) => match first_bytes(raw, 1)? {
            Some(text) => crate::decode::parse_json(text).map_err(|_| ProtoError::Malformed)?.value,
            None => Value::Null,
        },
        _ => return Err(ProtoError::Malformed),
    })
}

fn first_bytes(raw: &[u8], wanted: u32) -> Result<Option<&[u8]>, ProtoError> {
    let mut found = None;
    for entry in fields(raw) {
        if let (number, Wire::Bytes(bytes)) = entry?
            && number == wanted
        {
            found = Some(bytes);
        }
    }
    Ok(found)
}

/// Null for the zero time, which Go writes as an empty message.
fn time(raw: &[u8], shape: &Shape) -> Result<Value, ProtoError> {
    let (mut secs, mut nanos, mut set) = (0i64, 0i32, false);
    for entry in fields(raw) {
        set = true;
        match entry? {
            (1, Wire::Varint(value)) => secs = value as i64,
            (2, Wire::Varint(value)) => nanos = value as i32,
            _ => {}
        }
    }
    if !set {
        return Ok(Value::Null);
    }
    let time = jiff::Timestamp::new(secs, nanos).map_err(|_| ProtoError::Malformed)?;
    let places = if *shape == Shape::MicroTime { 6 } else { 0 };
    Ok(crate::decode::format_time(time, places).into())
}

fn int_or_string(raw: &[u8]) -> Result<Value, ProtoError> {
    let (mut kind, mut number, mut text) = (0, 0i64, String::new());
    for entry in fields(raw) {
        match entry? {
            (1, Wire::Varint(value)) => kind = value,
            (2, Wire::Varint(value)) => number = value as i32 as i64,
            (3, Wire::Bytes(bytes)) => text = utf8(bytes)?,
            _ => {}
        }
    }
    Ok(if kind == 0 { number.into() } else { text.into() })
}

/// The field holds what Go writes for "not set".
fn is_unset(def: &StructDef, name: &str, value: &Value) -> bool {
    match value {
        Value::Null => true,
        // An empty storage class means "none", a missing one "the default".
        Value::String(text) => text.is_empty() && name != "storageClassName",
        Value::Number(number) => number.as_i64() == Some(0) && ZERO_IS_UNSET.contains(&name),
        Value::Bool(false) => !FALSE_IS_SET.contains(&name) && !is_polymorphic(name),
        Value::Object(map) => map.is_empty() && def.go_name() == "ObjectMeta",
        _ => false,
    }
}

/// Numbers that Go writes although nobody set them.
const ZERO_IS_UNSET: [&str; 15] = [
    "generation",
    "observedGeneration",
    "hostPort",
    "initialDelaySeconds",
    "timeoutSeconds",
    "periodSeconds",
    "successThreshold",
    "failureThreshold",
    "nodePort",
    "minReadySeconds",
    "count",
    "port",
    "remainingItemCount",
    "targetPort",
    "currentReplicas",
];

/// Flags of three states, where false is something somebody said.
const FALSE_IS_SET: [&str; 27] = [
    "allocateLoadBalancerNodePorts",
    "allowPrivilegeEscalation",
    "allowVolumeExpansion",
    "attachRequired",
    "automountServiceAccountToken",
    "blockOwnerDeletion",
    "controller",
    "enableServiceLinks",
    "force",
    "hostUsers",
    "immutable",
    "manualSelector",
    "optional",
    "orphanDependents",
    "podInfoOnMount",
    "privileged",
    "readOnlyRootFilesystem",
    "ready",
    "requiresRepublish",
    "runAsNonRoot",
    "seLinuxMount",
    "serving",
    "setHostnameAsFQDN",
    "shareProcessNamespace",
    "storageCapacity",
    "suspend",
    "terminating",
];

/// The schema of a kind that is no resource of its own (options, reviews, scales), by version and kind.
pub fn node_of(api_version: &str, kind: &str) -> Option<Node> {
    let table = facts();
    let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
    let wanted = format!("{group}/{version}/{kind}");
    let known = table.types.iter().find(|def| def.gvk.as_deref() == Some(&wanted)).map(|def| def.name.clone());
    // Options belong to every group.
    let options = || (kind == "DeleteOptions").then(|| "m:apis.meta.v1.DeleteOptions".to_owned());
    known.or_else(options).map(|name| table.node(&name))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn field(number: u32, content: &[u8]) -> Vec<u8> {
        let mut out = vec![(number << 3 | 2) as u8, content.len() as u8];
        out.extend_from_slice(content);
        out
    }

    #[test]
    fn a_pod_is_read() {
        let source = field(2, &field(2, &[])); // volumeSource.emptyDir
        let volume = [field(1, b"v"), source].concat();
        let port = [field(1, b""), vec![0x10, 0, 0x18, 80], field(4, b"TCP")].concat();
        let limits = field(1, &[field(1, b"cpu"), field(2, &field(1, b"500m"))].concat());
        let container =
            [field(1, b"c"), field(2, b"img"), field(6, &port), field(8, &limits), vec![0x88, 0x01, 0]].concat();
        let spec = [field(1, &volume), field(2, &container), vec![0x20, 0]].concat();
        let meta =
            [field(1, b"p"), field(3, b""), field(11, &[field(1, b"a"), field(2, b"b")].concat()), field(8, &[])]
                .concat();
        let pod = [field(1, &meta), field(2, &spec), field(3, &[])].concat();
        let unknown = [field(1, &[field(1, b"v1"), field(2, b"Pod")].concat()), field(2, &pod)].concat();
        let body = [MAGIC, &unknown].concat();
        let opened = envelope(&body).unwrap();
        assert_eq!((opened.api_version.as_str(), opened.kind.as_str()), ("v1", "Pod"));
        let read = decode(opened.raw, &facts().node("a:core.v1.Pod")).unwrap();
        assert_eq!(
            read,
            json!({"metadata": {"name": "p", "labels": {"a": "b"}}, "status": {}, "spec": {
                "terminationGracePeriodSeconds": 0, "volumes": [{"name": "v", "emptyDir": {}}],
                "containers": [{"name": "c", "image": "img", "ports": [{"containerPort": 80, "protocol": "TCP"}],
                    "resources": {"limits": {"cpu": "500m"}}}]}})
        );
    }

    /// What is written reads back the same, for every kind that has numbers: all its fields are set.
    #[test]
    fn every_kind_reads_back_what_it_wrote() {
        let mut kinds = 0;
        for gv in &facts().groups {
            for resource in &gv.resources {
                let node = facts().node(&facts().struct_def(resource.type_id.unwrap()).name);
                if !is_encodable(&node) {
                    continue;
                }
                kinds += 1;
                let mut object = sample(&node, &mut Vec::new(), &mut 0);
                for field in ["apiVersion", "kind"] {
                    object.as_object_mut().unwrap().remove(field);
                }
                let written = encode(object.to_string().as_bytes(), &node).unwrap();
                let mut item = Vec::new();
                Items::new(&node).append(object.to_string().as_bytes(), &mut item).unwrap();
                let length = Lengths::new(&node).of(object.to_string().as_bytes());
                assert_eq!(length, Ok(item.len()), "{}", resource.kind);
                let read = decode(&written, &node).unwrap();
                assert_eq!(read, object, "{} {}", gv.version, resource.kind);
            }
        }
        assert!(kinds > 80, "{kinds}");
    }

    /// A value of a shape with every field that has a number, no two alike.
    fn sample(node: &Node, within: &mut Vec<String>, count: &mut i64) -> Value {
        *count += 1;
        match &node.shape {
            Shape::String => format!("s{count}").into(),
            Shape::Bytes => kinds::base64(format!("b{count}").as_bytes()).into(),
            Shape::Int32 | Shape::Int64 => (*count).into(),
            Shape::Bool => true.into(),
            Shape::Double => (*count as f64 + 0.5).into(),
            Shape::Quantity => format!("{count}m").into(),
            Shape::Time => "2024-01-02T03:04:05Z".into(),
            Shape::MicroTime => "2024-01-02T03:04:05.000006Z".into(),
            Shape::IntOrString if *count % 2 == 0 => (*count).into(),
            Shape::IntOrString => format!("{count}%").into(),
            Shape::Any | Shape::Raw => json!({"raw": *count}),
            Shape::List(item) => vec![sample(item, within, count), sample(item, within, count)].into(),
            Shape::Map(item) => json!({"one": sample(item, within, count), "two": sample(item, within, count)}),
            Shape::Struct(reference) => {
                let def = reference.def();
                let mut out = Map::new();
                if within.contains(&def.name) {
                    return Value::Object(out);
                }
                within.push(def.name.clone());
                for field in def.fields.iter().filter(|field| !field.node.tag.is_empty()) {
                    let value = match field.name.as_str() {
                        "items" if def.name == encode::SCHEMA_PROPS => json!([{"type": "string"}, {"type": "number"}]),
                        "additionalProperties" if def.name == encode::SCHEMA_PROPS => json!({"type": "string"}),
                        "additionalItems" if def.name == encode::SCHEMA_PROPS => json!(false),
                        "dependencies" if def.name == encode::SCHEMA_PROPS => {
                            json!({"a": ["b", "c"], "d": {"type": "string"}})
                        }
                        _ => sample(&field.node, within, count),
                    };
                    if value != json!([{}, {}]) && value != json!({"one": {}, "two": {}}) {
                        out.insert(field.name.clone(), value);
                    }
                }
                within.pop();
                Value::Object(out)
            }
        }
    }

    #[test]
    fn cut_and_strange_messages_are_refused() {
        let node = facts().node("a:core.v1.Pod");
        for bad in [&[0x0a, 5, 1][..], &[0xff; 12], &[0x07], &[0x00], &[0x0a]] {
            assert!(decode(bad, &node).is_err(), "{bad:?}");
        }
        assert!(matches!(decode(&field(15, b"x"), &node), Err(ProtoError::Unknown { .. })));
        assert_eq!(envelope(b"{}"), Err(ProtoError::Magic));
        let mut deep = Vec::new();
        let schema = facts().node("x:apiextensions.v1.JSONSchemaProps");
        for _ in 0..100 {
            let not = schema.child("not").unwrap().tag[0];
            let mut outer = Vec::new();
            let tag = u64::from(not << 3 | 2);
            for mut value in [tag, deep.len() as u64] {
                while value >= 0x80 {
                    outer.push(value as u8 | 0x80);
                    value >>= 7;
                }
                outer.push(value as u8);
            }
            outer.extend_from_slice(&deep);
            deep = outer;
        }
        assert_eq!(decode(&deep, &schema), Err(ProtoError::Depth));
    }
}
