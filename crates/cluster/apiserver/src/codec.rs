//! Between trees and stored bytes.
//!
//! An object is stored as JSON with sorted keys, with an empty place for its resource version that the store fills in,
//! so that what readers get is what is stored. `apiVersion` comes first, before all others, so that another version of the
//! same shape is made by exchanging the head.

use bytes::Bytes;
use serde_json::Value;

/// Bytes to store and where the resource version goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Encoded {
    pub bytes: Bytes,
    pub stamp_at: u32,
}

/// Encodes an object; a resource version it carries is left out.
pub fn encode(object: &Value) -> Encoded {
    // Room for a pod: making it larger step by step would copy it at every step.
    let mut out = Vec::with_capacity(4096);
    let mut stamp_at = 0;
    out.push(b'{');
    let empty = serde_json::Map::new();
    let fields = object.as_object().unwrap_or(&empty);
    let mut first = true;
    let head = fields.get_key_value("apiVersion");
    for (key, value) in head.into_iter().chain(fields.iter().filter(|(key, _)| *key != "apiVersion")) {
        comma(&mut out, &mut first);
        write(&mut out, key);
        out.push(b':');
        if key != "metadata" {
            write(&mut out, value);
            continue;
        }
        out.push(b'{');
        let mut first = true;
        let meta = value.as_object().unwrap_or(&empty);
        let stamp = |out: &mut Vec<u8>, first: &mut bool| {
            comma(out, first);
            out.extend_from_slice(b"\"resourceVersion\":\"");
            let at = out.len() as u32;
            out.push(b'"');
            at
        };
        for (key, value) in meta {
            if stamp_at == 0 && key.as_str() >= "resourceVersion" {
                stamp_at = stamp(&mut out, &mut first);
            }
            if key != "resourceVersion" {
                comma(&mut out, &mut first);
                write(&mut out, key);
                out.push(b':');
                write(&mut out, value);
            }
        }
        if stamp_at == 0 {
            stamp_at = stamp(&mut out, &mut first);
        }
        out.push(b'}');
    }
    out.push(b'}');
    Encoded { bytes: out.into(), stamp_at }
}

fn comma(out: &mut Vec<u8>, first: &mut bool) {
    if !std::mem::replace(first, false) {
        out.push(b',');
    }
}

fn write(out: &mut Vec<u8>, value: &impl serde::Serialize) {
    serde_json::to_writer(out, value).expect("trees always encode into memory");
}

/// A stored object with another `apiVersion`, for versions that differ in nothing else.
pub fn with_api_version(stored: &Bytes, from: &str, to: &str) -> Bytes {
    let head = format!("{{\"apiVersion\":\"{from}\"");
    match stored.strip_prefix(head.as_bytes()) {
        Some(rest) if from != to => {
            let mut out = Vec::with_capacity(stored.len() + to.len());
            out.extend_from_slice(b"{\"apiVersion\":\"");
            out.extend_from_slice(to.as_bytes());
            out.push(b'"');
            out.extend_from_slice(rest);
            out.into()
        }
        Some(_) => stored.clone(),
        // Something else stands at its head.
        None => {
            let mut object = decode(stored);
            object["apiVersion"] = to.into();
            serde_json::to_vec(&object).expect("trees always encode").into()
        }
    }
}

/// A list item: items inside lists of built-in kinds go without `apiVersion` and `kind`; clients accept both, and
/// leaving them in lets the bytes be shared.
pub fn decode(stored: &[u8]) -> Value {
    serde_json::from_slice(stored).expect("what is stored was encoded here")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_place_of_the_resource_version_is_known() {
        for meta in [json!({}), json!({"name": "a", "uid": "u"}), json!({"resourceVersion": "7", "name": "a"})] {
            let object = json!({"age": 1, "apiVersion": "v1", "kind": "X", "metadata": meta, "spec": {"a": [1]}});
            let encoded = encode(&object);
            assert!(encoded.bytes.starts_with(b"{\"apiVersion\":\"v1\",\"age\""), "its version is at its head");
            let at = encoded.stamp_at as usize;
            let stamped = [&encoded.bytes[..at], b"42", &encoded.bytes[at..]].concat();
            let mut expected = object.clone();
            expected["metadata"]["resourceVersion"] = "42".into();
            assert_eq!(decode(&stamped), expected);
            let other = with_api_version(&Bytes::from(stamped), "v1", "g/v2");
            expected["apiVersion"] = "g/v2".into();
            assert_eq!(decode(&other), expected);
            let sorted = Bytes::from(serde_json::to_vec(&object).unwrap());
            assert_eq!(decode(&with_api_version(&sorted, "v1", "g/v2"))["apiVersion"], "g/v2", "as others wrote it");
        }
    }
}
