//! ConfigMap, Secret, ServiceAccount.

use serde_json::{Value, json};

use super::Strategy;
use super::rules::Faults;
use crate::errors::FieldError;
use crate::{meta, names};

const DATA_BYTES_MAX: usize = 1 << 20;

pub(super) const CONFIG_MAP: Strategy = Strategy {
    validate: |object, faults| {
        let mut size = 0;
        for list in ["data", "binaryData"] {
            for (key, value) in meta::map_at(object, &[list]) {
                faults.all_invalid(&format!("{list}[{key}]"), key, names::config_key(key));
                size += value.as_str().map_or(0, str::len);
                if list == "binaryData" && object["data"].get(key).is_some() {
                    faults.invalid(&format!("data[{key}]"), key.as_str(), "duplicate of key present in binaryData");
                }
            }
        }
        if size > DATA_BYTES_MAX {
            faults.push(FieldError::too_long("", DATA_BYTES_MAX as u64));
        }
    },
    validate_update: |new, old, faults| frozen(new, old, &["data", "binaryData"], faults),
    ..Strategy::PLAIN
};

pub(super) const SECRET: Strategy = Strategy {
    default: |object| {
        if object.get("type").is_none() {
            object["type"] = "Opaque".into();
        }
        // stringData is written into data and never kept.
        let strings = object.as_object_mut().and_then(|map| map.remove("stringData"));
        if let Some(Value::Object(strings)) = strings {
            let data = meta::object_at(object, &["data"]);
            for (key, value) in strings {
                data.insert(key, base64(value.as_str().unwrap_or_default().as_bytes()).into());
            }
        }
    },
    validate: |object, faults| {
        let mut size = 0;
        for (key, value) in meta::map_at(object, &["data"]) {
            faults.all_invalid(&format!("data[{key}]"), key, names::config_key(key));
            size += value.as_str().map_or(0, |text| text.len() / 4 * 3);
        }
        if size > DATA_BYTES_MAX {
            faults.push(FieldError::too_long("data", DATA_BYTES_MAX as u64));
        }
        let has = |key: &str| object["data"].get(key).is_some();
        let needs: &[&str] = match object["type"].as_str().unwrap_or_default() {
            "kubernetes.io/tls" => &["tls.crt", "tls.key"],
            "kubernetes.io/dockerconfigjson" => &[".dockerconfigjson"],
            "kubernetes.io/dockercfg" => &[".dockercfg"],
            "kubernetes.io/ssh-auth" => &["ssh-privatekey"],
            "kubernetes.io/basic-auth" if !has("username") && !has("password") => &["username", "password"],
            "kubernetes.io/service-account-token" => {
                let account = &object["metadata"]["annotations"]["kubernetes.io/service-account.name"];
                if account.as_str().unwrap_or_default().is_empty() {
                    faults.required("metadata.annotations[kubernetes.io/service-account.name]", "");
                }
                &[]
            }
            _ => &[],
        };
        for key in needs.iter().filter(|key| !has(key)) {
            faults.required(&format!("data[{key}]"), "");
        }
        for key in needs.iter().filter(|key| key.starts_with(".docker")) {
            let bytes = object["data"][*key].as_str().and_then(from_base64).unwrap_or_default();
            if has(key) && serde_json::from_slice::<serde_json::Map<String, Value>>(&bytes).is_err() {
                let path = format!("data[{key}]");
                faults.invalid(&path, "<secret contents redacted>", "must be a JSON object");
            }
        }
    },
    validate_update: |new, old, faults| {
        faults.immutable(new.get("type"), old.get("type"), "type");
        frozen(new, old, &["data"], faults);
    },
    ..Strategy::PLAIN
};

pub(super) const SERVICE_ACCOUNT: Strategy = Strategy {
    prepare_create: |object| {
        // Old manifests list secrets that a controller made elsewhere.
        if object["secrets"] == json!([]) {
            object.as_object_mut().map(|map| map.remove("secrets"));
        }
    },
    ..Strategy::PLAIN
};

/// `immutable: true` cannot be taken back, nor the data changed.
fn frozen(new: &Value, old: &Value, lists: &[&str], faults: &mut Faults) {
    if old["immutable"] != true {
        return;
    }
    if new["immutable"] != true {
        faults.forbidden("immutable", "field is immutable when `immutable` is set");
    }
    for list in lists {
        if new.get(list) != old.get(list) {
            faults.forbidden(list, "field is immutable when `immutable` is set");
        }
    }
}

/// Standard base64 with padding.
pub(crate) fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut out = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for chunk in bytes.chunks(3) {
        let word = chunk.iter().fold(0u32, |word, byte| word << 8 | u32::from(*byte)) << (8 * (3 - chunk.len()));
        for at in 0..4 {
            let digit = DIGITS[(word >> (18 - 6 * at)) as usize & 63];
            out.push(if at <= chunk.len() { digit as char } else { '=' });
        }
    }
    out
}

/// The bytes that standard base64 stands for; `None` if it is none.
pub(crate) fn from_base64(text: &str) -> Option<Vec<u8>> {
    let digits = text.trim_end_matches('=').as_bytes();
    let mut out = Vec::with_capacity(digits.len() * 3 / 4);
    for chunk in digits.chunks(4) {
        let mut word = 0u32;
        for byte in chunk {
            let digit = match byte {
                b'A'..=b'Z' => byte - b'A',
                b'a'..=b'z' => byte - b'a' + 26,
                b'0'..=b'9' => byte - b'0' + 52,
                b'+' => 62,
                b'/' => 63,
                _ => return None,
            };
            word = word << 6 | u32::from(digit);
        }
        if chunk.len() == 1 {
            return None;
        }
        word <<= 6 * (4 - chunk.len());
        out.extend_from_slice(&word.to_be_bytes()[1..chunk.len()]);
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn string_data_becomes_data() {
        let mut secret = json!({"stringData": {"a": "hi", "b": "hey", "c": "four"}});
        (SECRET.default)(&mut secret);
        assert_eq!(secret, json!({"type": "Opaque", "data": {"a": "aGk=", "b": "aGV5", "c": "Zm91cg=="}}));
    }
}
