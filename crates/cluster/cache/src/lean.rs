//! An object without what neither controllers nor the scheduler read: who manages which of its fields, and what only a
//! node asks of a container. Nobody writes an object as a whole that lacks more than its books, which the API puts back.

use std::borrow::Cow;
use std::fmt;

use resources::{Value, meta};
use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};

use crate::Kind;

/// Where in an object something stands, as far as that matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    Object,
    Pod,
    Metadata,
    PodSpec,
    Container,
    Elsewhere,
}

const OF_NODES: &[&str] = &[
    "args",
    "command",
    "env",
    "envFrom",
    "lifecycle",
    "livenessProbe",
    "readinessProbe",
    "securityContext",
    "startupProbe",
    "volumeDevices",
    "volumeMounts",
];

impl Place {
    fn of(kind: Kind) -> Self {
        if kind == Kind::Pod { Self::Pod } else { Self::Object }
    }

    /// What stands in a field here; `None` if it is left out.
    fn below(self, field: &str) -> Option<Self> {
        match (self, field) {
            (Self::Object | Self::Pod, "metadata") => Some(Self::Metadata),
            (Self::Pod, "spec") => Some(Self::PodSpec),
            (Self::Metadata, "managedFields") => None,
            (Self::PodSpec, "containers" | "initContainers") => Some(Self::Container),
            (Self::Container, field) if OF_NODES.contains(&field) => None,
            _ => Some(Self::Elsewhere),
        }
    }
}

/// Reads an object; what is left out is never made. `None` if it is no JSON.
pub(crate) fn read(kind: Kind, told: &[u8]) -> Option<Value> {
    let mut reader = serde_json::Deserializer::from_slice(told);
    let object = Seed(Place::of(kind)).deserialize(&mut reader).ok()?;
    reader.end().ok()?;
    Some(object)
}

/// Takes the same out of a tree.
pub(crate) fn shorten(kind: Kind, object: &mut Value) {
    meta::unset(object, "managedFields");
    if kind != Kind::Pod {
        return;
    }
    for list in ["initContainers", "containers"] {
        for container in meta::items_mut(object, &["spec", list]).filter_map(Value::as_object_mut) {
            container.retain(|field, _| !OF_NODES.contains(&field.as_str()));
        }
    }
}

struct Seed(Place);

impl<'de> DeserializeSeed<'de> for Seed {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        match self.0 {
            Place::Elsewhere => serde::Deserialize::deserialize(deserializer),
            _ => deserializer.deserialize_any(self),
        }
    }
}

impl<'de> Visitor<'de> for Seed {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object of the API")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Value, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = seq.next_element_seed(Self(self.0))? {
            items.push(item);
        }
        Ok(Value::Array(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
        let mut out = serde_json::Map::new();
        while let Some(field) = map.next_key::<Cow<'de, str>>()? {
            match self.0.below(&field) {
                Some(place) => drop(out.insert(field.into_owned(), map.next_value_seed(Self(place))?)),
                None => drop(map.next_value::<IgnoredAny>()?),
            }
        }
        Ok(Value::Object(out))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_only_nodes_ask_for_is_left_out() {
        let object = json!({
            "metadata": {"name": "a", "labels": {"env": "prod", "managedFields": "a label"}, "managedFields": [{"manager": "m"}]},
            "spec": {"nodeSelector": {"env": "x"}, "containers": [{"name": "c", "image": "i", "env": [{"name": "A"}],
                "resources": {"requests": {"cpu": "1"}}, "ports": [{"name": "env"}]}], "initContainers": null},
            "status": {"args": 1.5, "command": [true, -1]}});
        let told = object.to_string();
        for kind in [Kind::Pod, Kind::Service] {
            let mut short = object.clone();
            shorten(kind, &mut short);
            assert_eq!(read(kind, told.as_bytes()), Some(short.clone()));
            let metadata = json!({"name": "a", "labels": {"env": "prod", "managedFields": "a label"}});
            assert_eq!(short["metadata"], metadata);
            assert_eq!(short["spec"]["containers"][0].get("env").is_some(), kind == Kind::Service);
            assert_eq!(short["status"], object["status"]);
        }
        assert_eq!(read(Kind::Pod, b"{"), None);
    }
}
