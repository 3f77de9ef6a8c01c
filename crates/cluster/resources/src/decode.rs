//! From bytes to a tree that fits its schema: JSON with duplicate detection, then pruning of unknown fields, checks of
//! types, and the normal form in which built-in objects are kept (no nulls, no empty lists and maps).

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};
use serde_json::map::Entry;
use serde_json::{Map, Number, Value};

use crate::quantity::Quantity;
use crate::schema::{Node, Shape};

/// A parsed body.
#[derive(Debug, Clone, PartialEq)]
pub struct Parsed {
    pub value: Value,
    /// Paths of fields that stand twice in their object; the last one counts.
    pub duplicates: Vec<String>,
}

/// Parses JSON. Nesting is limited to 128 by the parser.
pub fn parse_json(bytes: &[u8]) -> Result<Parsed, String> {
    let mut duplicates = Vec::new();
    let mut deserializer = serde_json::Deserializer::from_slice(bytes);
    let seed = Seed { duplicates: &mut duplicates, path: &Path::Root };
    let value = seed.deserialize(&mut deserializer).map_err(|error| error.to_string())?;
    deserializer.end().map_err(|error| error.to_string())?;
    Ok(Parsed { value, duplicates })
}

/// Where in the tree we are, written as upstream writes paths: `spec.containers[0].name`. A chain through the stack of who walks:
/// going down costs nothing, and only what is told makes a text.
#[derive(Debug, Clone, Copy)]
enum Path<'a> {
    Root,
    Field(&'a Path<'a>, &'a str),
    Index(&'a Path<'a>, usize),
}

impl Path<'_> {
    /// Field names alone, as Go's JSON errors have it.
    fn fields(&self) -> String {
        match self {
            Self::Root => String::new(),
            Self::Field(Path::Root, name) => (*name).to_owned(),
            Self::Field(above, name) => match above.fields() {
                above if above.is_empty() => (*name).to_owned(),
                above => format!("{above}.{name}"),
            },
            Self::Index(above, _) => above.fields(),
        }
    }
}

impl fmt::Display for Path<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Root => Ok(()),
            Self::Field(Path::Root, name) => f.write_str(name),
            Self::Field(above, name) => write!(f, "{above}.{name}"),
            Self::Index(above, index) => write!(f, "{above}[{index}]"),
        }
    }
}

struct Seed<'a> {
    duplicates: &'a mut Vec<String>,
    path: &'a Path<'a>,
}

impl<'de> DeserializeSeed<'de> for Seed<'_> {
    type Value = Value;
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Seed<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }
    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }
    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }
    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }
    fn visit_f64<E: serde::de::Error>(self, value: f64) -> Result<Value, E> {
        Number::from_f64(value).map(Value::Number).ok_or_else(|| E::custom("number out of range"))
    }
    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(Value::String(value.to_owned()))
    }
    fn visit_string<E>(self, value: String) -> Result<Value, E> {
        Ok(Value::String(value))
    }
    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }
    fn visit_none<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Value, A::Error> {
        let mut items = Vec::new();
        loop {
            let path = Path::Index(self.path, items.len());
            match seq.next_element_seed(Seed { duplicates: self.duplicates, path: &path })? {
                Some(item) => items.push(item),
                None => return Ok(Value::Array(items)),
            }
        }
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
        let mut out = Map::new();
        while let Some(key) = map.next_key::<String>()? {
            let path = Path::Field(self.path, &key);
            let value = map.next_value_seed(Seed { duplicates: self.duplicates, path: &path })?;
            match out.entry(key) {
                Entry::Vacant(place) => drop(place.insert(value)),
                Entry::Occupied(mut place) => {
                    if self.duplicates.len() > 1000 {
                        return Err(A::Error::custom("too many duplicate fields"));
                    }
                    self.duplicates.push(Path::Field(self.path, place.key()).to_string());
                    place.insert(value);
                }
            }
        }
        Ok(Value::Object(out))
    }
}

/// A value of a type that its field cannot hold; the text is Go's.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct TypeError(pub String);

/// Fits `value` to `node`: unknown fields are taken out and their paths answered, quantities and times are written
/// canonically, nulls and empty lists and maps are dropped. Custom resources (nodes with rules) keep nulls and empty
/// values and are not checked for types here; `crd` does that.
pub fn conform(value: &mut Value, node: &Node) -> Result<Vec<String>, TypeError> {
    let mut walk = Walk { unknown: Vec::new(), owner: "" };
    walk.node(value, node, &Path::Root)?;
    Ok(walk.unknown)
}

struct Walk<'n> {
    unknown: Vec<String>,
    /// Name of the struct whose field is looked at.
    owner: &'n str,
}

impl<'n> Walk<'n> {
    fn mismatch(&self, value: &Value, wanted: &str, path: &Path<'_>) -> TypeError {
        let found = match value {
            Value::Null => "null".to_owned(),
            Value::Bool(_) => "bool".to_owned(),
            Value::Number(number) if number.is_f64() || wanted.starts_with("int") => format!("number {number}"),
            Value::Number(_) => "number".to_owned(),
            Value::String(_) => "string".to_owned(),
            Value::Array(_) => "array".to_owned(),
            Value::Object(_) => "object".to_owned(),
        };
        let place = match path.fields() {
            fields if fields.is_empty() => "Go value".to_owned(),
            fields => format!("Go struct field {}.{fields}", self.owner),
        };
        TypeError(format!("json: cannot unmarshal {found} into {place} of type {wanted}"))
    }

    fn node(&mut self, value: &mut Value, node: &'n Node, path: &Path<'_>) -> Result<(), TypeError> {
        if node.rules.is_some() && !fits(value, &node.shape) {
            return Ok(());
        }
        match &node.shape {
            Shape::Any => Ok(()),
            Shape::Raw if value.is_object() => Ok(()),
            Shape::Raw => Err(self.mismatch(value, "map[string]interface {}", path)),
            Shape::String if value.is_string() => Ok(()),
            Shape::Bytes => self.bytes(value, path),
            Shape::Bool if value.is_boolean() => Ok(()),
            Shape::Int32 => match value.as_i64() {
                Some(number) if i32::try_from(number).is_ok() => Ok(()),
                _ => Err(self.mismatch(value, "int32", path)),
            },
            Shape::Int64 if value.as_i64().is_some() => Ok(()),
            Shape::Double if value.is_number() => Ok(()),
            Shape::IntOrString => match value {
                Value::String(_) => Ok(()),
                Value::Number(number) if number.as_i64().is_some() => Ok(()),
                _ => Err(self.mismatch(value, "intstr.IntOrString", path)),
            },
            Shape::Quantity => self.quantity(value, path),
            Shape::Time => self.time(value, 0, path),
            Shape::MicroTime => self.time(value, 6, path),
            Shape::List(item) => self.list(value, item, node.rules.is_some(), path),
            Shape::Map(item) => self.map(value, item, node.rules.is_some(), path),
            Shape::Struct(_) => self.fields(value, node, path),
            shape => Err(self.mismatch(value, go_type(shape).as_str(), path)),
        }
    }

    fn list(&mut self, value: &mut Value, item: &'n Node, custom: bool, path: &Path<'_>) -> Result<(), TypeError> {
        let Value::Array(items) = value else {
            return Err(self.mismatch(value, &format!("[]{}", go_type(&item.shape)), path));
        };
        for (index, entry) in items.iter_mut().enumerate() {
            if entry.is_null() && !custom {
                *entry = zero(&item.shape);
            } else {
                self.node(entry, item, &Path::Index(path, index))?;
            }
        }
        Ok(())
    }

    fn map(&mut self, value: &mut Value, item: &'n Node, custom: bool, path: &Path<'_>) -> Result<(), TypeError> {
        let Value::Object(entries) = value else {
            return Err(self.mismatch(value, &format!("map[string]{}", go_type(&item.shape)), path));
        };
        for (key, entry) in entries.iter_mut() {
            if entry.is_null() && !custom {
                *entry = zero(&item.shape);
            } else {
                self.node(entry, item, &Path::Field(path, key))?;
            }
        }
        Ok(())
    }

    fn fields(&mut self, value: &mut Value, node: &'n Node, path: &Path<'_>) -> Result<(), TypeError> {
        let def = node.struct_def().expect("called for structs");
        let Value::Object(entries) = value else {
            return Err(self.mismatch(value, &def.go_type(), path));
        };
        let outer = std::mem::replace(&mut self.owner, def.go_name());
        let custom = node.rules.is_some();
        let mut drop_keys = Vec::new();
        for (key, entry) in entries.iter_mut() {
            let here = Path::Field(path, key);
            let Some(field) = def.field(key) else {
                if let Some(additional) = &def.additional {
                    self.node(entry, additional, &here)?;
                } else if !def.open {
                    self.unknown.push(here.to_string());
                    drop_keys.push(key.clone());
                }
                continue;
            };
            let nested_custom = field.node.rules.is_some();
            if entry.is_null() {
                // Null is Go's zero value; a custom resource keeps it where its schema allows it.
                if !(custom || nested_custom) || (!field.node.nullable && field.node.default.is_some()) {
                    drop_keys.push(key.clone());
                }
                continue;
            }
            self.node(entry, &field.node, &here)?;
            let empty = match (&field.node.shape, &*entry) {
                (Shape::List(_), Value::Array(items)) => items.is_empty() && !field.required,
                (Shape::Map(_), Value::Object(map)) => map.is_empty(),
                _ => false,
            };
            if empty && !nested_custom && !keeps_empty(&def.name, key) {
                drop_keys.push(key.clone());
            }
        }
        for key in drop_keys {
            entries.remove(&key);
        }
        self.owner = outer;
        Ok(())
    }

    fn bytes(&self, value: &mut Value, path: &Path<'_>) -> Result<(), TypeError> {
        let Value::String(text) = value else { return Err(self.mismatch(value, "[]uint8", path)) };
        // Go ignores line breaks in base64.
        if text.contains(['\n', '\r']) {
            text.retain(|c| c != '\n' && c != '\r');
        }
        match base64_fault(text) {
            None => Ok(()),
            Some(at) => Err(TypeError(format!("illegal base64 data at input byte {at}"))),
        }
    }

    fn quantity(&self, value: &mut Value, path: &Path<'_>) -> Result<(), TypeError> {
        let text = match value {
            Value::String(text) => text.clone(),
            Value::Number(number) => number.to_string(),
            _ => return Err(self.mismatch(value, "resource.Quantity", path)),
        };
        match Quantity::parse(&text) {
            Ok(quantity) => {
                *value = Value::String(quantity.canonical());
                Ok(())
            }
            Err(error) => Err(TypeError(error.to_string())),
        }
    }

    fn time(&self, value: &mut Value, places: usize, path: &Path<'_>) -> Result<(), TypeError> {
        let Value::String(text) = value else {
            return Err(self.mismatch(value, if places == 0 { "v1.Time" } else { "v1.MicroTime" }, path));
        };
        match text.parse::<jiff::Timestamp>() {
            Ok(time) if text.contains(['T', 't']) => {
                *value = Value::String(format_time(time, places));
                Ok(())
            }
            _ => Err(TypeError(format!(
                "parsing time {text:?} as \"2006-01-02T15:04:05Z07:00\": cannot parse {text:?} as \"2006\""
            ))),
        }
    }
}

/// RFC 3339 in UTC with this many places of a second.
pub fn format_time(time: jiff::Timestamp, places: usize) -> String {
    match places {
        0 => time.strftime("%Y-%m-%dT%H:%M:%SZ").to_string(),
        _ => time.strftime("%Y-%m-%dT%H:%M:%S%.6fZ").to_string(),
    }
}

/// Lists and maps that mean something when empty and present.
fn keeps_empty(type_name: &str, field: &str) -> bool {
    matches!(
        (type_name, field),
        ("a:rbac.v1.ClusterRole" | "a:rbac.v1.Role", "rules")
            | ("a:networking.v1.NetworkPolicySpec", "ingress" | "egress")
            | ("x:apiextensions.v1.JSONSchemaProps", _)
    )
}

/// The JSON kind fits the shape, whatever the value.
pub fn fits(value: &Value, shape: &Shape) -> bool {
    match shape {
        Shape::Any => true,
        Shape::String | Shape::Bytes | Shape::Time | Shape::MicroTime => value.is_string(),
        Shape::Quantity => value.is_string() || value.is_number(),
        Shape::Int32 | Shape::Int64 => value.as_i64().is_some(),
        Shape::Double => value.is_number(),
        Shape::Bool => value.is_boolean(),
        Shape::IntOrString => value.is_string() || value.as_i64().is_some(),
        Shape::List(_) => value.is_array(),
        Shape::Raw | Shape::Map(_) | Shape::Struct(_) => value.is_object(),
    }
}

fn zero(shape: &Shape) -> Value {
    match shape {
        Shape::Int32 | Shape::Int64 | Shape::Double | Shape::IntOrString => 0.into(),
        Shape::Bool => false.into(),
        Shape::List(_) => Value::Array(Vec::new()),
        Shape::Raw | Shape::Map(_) | Shape::Struct(_) => Value::Object(Map::new()),
        Shape::Any => Value::Null,
        _ => "".into(),
    }
}

fn go_type(shape: &Shape) -> String {
    match shape {
        Shape::String => "string".into(),
        Shape::Bytes => "[]uint8".into(),
        Shape::Int32 => "int32".into(),
        Shape::Int64 => "int64".into(),
        Shape::Bool => "bool".into(),
        Shape::Double => "float64".into(),
        Shape::Quantity => "resource.Quantity".into(),
        Shape::Time => "v1.Time".into(),
        Shape::MicroTime => "v1.MicroTime".into(),
        Shape::IntOrString => "intstr.IntOrString".into(),
        Shape::Any => "interface {}".into(),
        Shape::Raw => "map[string]interface {}".into(),
        Shape::List(item) => format!("[]{}", go_type(&item.shape)),
        Shape::Map(item) => format!("map[string]{}", go_type(&item.shape)),
        Shape::Struct(reference) => reference.def().go_type(),
    }
}

fn base64_fault(text: &str) -> Option<usize> {
    let digits = text.trim_end_matches('=');
    let padding = text.len() - digits.len();
    let bad = digits.bytes().position(|b| !(b.is_ascii_alphanumeric() || b == b'+' || b == b'/'));
    if bad.is_some() {
        return bad;
    }
    (!text.len().is_multiple_of(4) || padding > 2).then_some(digits.len())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::facts::facts;
    use serde_json::json;

    #[test]
    fn duplicates_are_found_with_their_path() {
        let parsed = parse_json(br#"{"a":{"b":1,"b":2},"l":[{"c":1,"c":1}]}"#).unwrap();
        assert_eq!(parsed.duplicates, ["a.b", "l[0].c"]);
        assert_eq!(parsed.value["a"]["b"], 2);
        assert!(parse_json(b"{} x").is_err() && parse_json(b"").is_err());
        let deep = "[".repeat(100_000);
        assert!(parse_json(deep.as_bytes()).is_err(), "nesting is limited");
    }

    #[test]
    fn unknown_fields_are_named_and_taken_out() {
        let node = facts().node("a:core.v1.Pod");
        let mut pod = json!({"spec": {"containers": [{"name": "a", "imagee": "x", "env": []}], "nodeSelector": null,
            "x": 1}, "metadata": {"labels": {"any": "thing"}, "annotations": {}}});
        let unknown = conform(&mut pod, &node).unwrap();
        assert_eq!(unknown, ["spec.containers[0].imagee", "spec.x"]);
        assert_eq!(pod, json!({"spec": {"containers": [{"name": "a"}]}, "metadata": {"labels": {"any": "thing"}}}));
    }

    #[test]
    fn wrong_types_are_told_in_gos_words() {
        let rows = [
            (
                json!({"spec": {"replicas": "1"}}),
                "string into Go struct field DeploymentSpec.spec.replicas of type int32",
            ),
            (json!({"spec": []}), "array into Go struct field Deployment.spec of type v1.DeploymentSpec"),
            (
                json!({"spec": {"template": {"spec": {"containers": [{"name": 1}]}}}}),
                "number into Go struct field Container.spec.template.spec.containers.name of type string",
            ),
        ];
        for (mut value, text) in rows {
            let error = conform(&mut value, &facts().node("a:apps.v1.Deployment")).unwrap_err();
            assert_eq!(error.0, format!("json: cannot unmarshal {text}"));
        }
    }

    #[test]
    fn quantities_and_times_become_canonical() {
        let mut pod = json!({"metadata": {"creationTimestamp": "2024-01-01T02:00:00+02:00"},
            "spec": {"containers": [{"name": "a", "resources": {"limits": {"cpu": 0.5, "memory": "1024Mi"}}}]}});
        conform(&mut pod, &facts().node("a:core.v1.Pod")).unwrap();
        let limits = &pod["spec"]["containers"][0]["resources"]["limits"];
        assert_eq!((&limits["cpu"], &limits["memory"]), (&json!("500m"), &json!("1Gi")));
        assert_eq!(pod["metadata"]["creationTimestamp"], "2024-01-01T00:00:00Z");
        let mut secret = json!({"data": {"k": "not base64!"}});
        assert!(conform(&mut secret, &facts().node("a:core.v1.Secret")).is_err());
    }
}
