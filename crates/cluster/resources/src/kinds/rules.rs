//! Collecting faults, and the checks that many kinds share.

use serde_json::{Map, Value};

use crate::errors::{FaultKind, FieldError};
use crate::{meta, names};

/// Faults found so far.
#[derive(Debug, Default)]
pub struct Faults(pub Vec<FieldError>);

impl Faults {
    pub fn push(&mut self, error: FieldError) {
        self.0.push(error);
    }

    pub fn required(&mut self, path: &str, detail: &str) {
        self.push(FieldError::required(path, detail));
    }

    pub fn invalid(&mut self, path: &str, value: impl Into<Value>, detail: impl Into<String>) {
        self.push(FieldError::invalid(path, value, detail));
    }

    pub fn forbidden(&mut self, path: &str, detail: &str) {
        self.push(FieldError::forbidden(path, detail));
    }

    /// One invalid-value fault for each text.
    pub fn all_invalid(&mut self, path: &str, value: &str, texts: Vec<String>) {
        for text in texts {
            self.invalid(path, value, text);
        }
    }

    /// The string at `path` below `object`, if present, is one of these.
    pub fn one_of(&mut self, object: &Value, name: &str, path: &str, supported: &[&str]) {
        if let Some(text) = object.get(name).and_then(Value::as_str)
            && !supported.contains(&text)
        {
            self.push(FieldError::unsupported(below(path, name), text, supported));
        }
    }

    /// The string is present, and one of these.
    pub fn required_one_of(&mut self, object: &Value, name: &str, path: &str, supported: &[&str]) {
        match object.get(name).and_then(Value::as_str).unwrap_or_default() {
            "" => self.required(&below(path, name), ""),
            _ => self.one_of(object, name, path, supported),
        }
    }

    pub fn non_negative(&mut self, object: &Value, name: &str, path: &str) {
        if let Some(number) = object.get(name).and_then(Value::as_i64)
            && number < 0
        {
            self.invalid(&format!("{path}.{name}"), number, "must be greater than or equal to 0");
        }
    }

    pub fn positive(&mut self, object: &Value, name: &str, path: &str) {
        if let Some(number) = object.get(name).and_then(Value::as_i64)
            && number <= 0
        {
            self.invalid(&format!("{path}.{name}"), number, "must be greater than 0");
        }
    }

    /// The list is not longer than this.
    pub fn at_most(&mut self, list: &[Value], max: usize, path: &str) {
        if list.len() > max {
            self.push(FieldError::new(path, FaultKind::TooMany(list.len(), max as u64)));
        }
    }

    pub fn port(&mut self, value: &Value, path: &str) {
        match value {
            Value::Number(number) => {
                if !number.as_i64().is_some_and(|port| (1..=65535).contains(&port)) {
                    self.invalid(path, value.clone(), "must be between 1 and 65535, inclusive");
                }
            }
            Value::String(name) => self.all_invalid(path, name, names::port_name(name)),
            Value::Null => self.required(path, ""),
            other => self.invalid(path, other.clone(), "must be a port number or name"),
        }
    }

    /// The value did not change.
    pub fn immutable(&mut self, new: Option<&Value>, old: Option<&Value>, path: &str) {
        if new != old {
            self.invalid(path, new.cloned().unwrap_or(Value::Null), "field is immutable");
        }
    }

    /// A `LabelSelector` object.
    pub fn label_selector(&mut self, selector: &Value, path: &str) {
        for (key, value) in selector["matchLabels"].as_object().into_iter().flatten() {
            self.label(key, value, &format!("{path}.matchLabels"));
        }
        for (at, expression) in selector["matchExpressions"].as_array().into_iter().flatten().enumerate() {
            let path = format!("{path}.matchExpressions[{at}]");
            let values = expression["values"].as_array().map_or(0, Vec::len);
            match expression["operator"].as_str().unwrap_or_default() {
                "In" | "NotIn" if values == 0 => {
                    self.required(&format!("{path}.values"), "must be specified when `operator` is 'In' or 'NotIn'");
                }
                "Exists" | "DoesNotExist" if values > 0 => {
                    let detail = "may not be specified when `operator` is 'Exists' or 'DoesNotExist'";
                    self.forbidden(&format!("{path}.values"), detail);
                }
                "In" | "NotIn" | "Exists" | "DoesNotExist" => {}
                other => self.invalid(&format!("{path}.operator"), other, "not a valid selector operator"),
            }
            let key = expression["key"].as_str().unwrap_or_default();
            self.all_invalid(&format!("{path}.key"), key, names::qualified_name(key));
        }
    }

    pub fn label(&mut self, key: &str, value: &Value, path: &str) {
        self.all_invalid(path, key, names::qualified_name(key));
        let value = value.as_str().unwrap_or_default();
        self.all_invalid(path, value, names::label_value(value));
    }
}

/// The path of a field; that of the object itself is empty.
fn below(path: &str, name: &str) -> String {
    if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") }
}

/// Fills a field that is missing.
pub(crate) fn default_to(object: &mut Map<String, Value>, name: &str, value: impl Into<Value>) {
    object.entry(name).or_insert_with(|| value.into());
}

/// The map at `spec`, made if missing.
pub(crate) fn spec(object: &mut Value) -> &mut Map<String, Value> {
    meta::object_at(object, &["spec"])
}

/// Each map in the list at `name`.
pub(crate) fn each<'a>(
    object: &'a mut Map<String, Value>,
    name: &str,
) -> impl Iterator<Item = &'a mut Map<String, Value>> {
    object.get_mut(name).and_then(Value::as_array_mut).into_iter().flatten().filter_map(Value::as_object_mut)
}

/// The map at `name`, if there is one.
pub(crate) fn sub<'a>(object: &'a mut Map<String, Value>, name: &str) -> Option<&'a mut Map<String, Value>> {
    object.get_mut(name).and_then(Value::as_object_mut)
}

const ANNOTATIONS_BYTES_MAX: usize = 256 << 10;

/// What every object's metadata must fulfil. `name_faults` judges the name of this kind.
pub fn validate_meta(object: &Value, namespaced: bool, name_faults: fn(&str) -> Vec<String>, faults: &mut Faults) {
    let prefix = meta::get(object, "generateName");
    if !prefix.is_empty() {
        // The prefix may end in a dash, which the generated suffix makes right.
        let masked = format!("{}a", prefix.trim_end_matches('-'));
        faults.all_invalid("metadata.generateName", prefix, name_faults(&masked));
    }
    let name = meta::name(object);
    if name.is_empty() {
        faults.required("metadata.name", "name or generateName is required");
    } else {
        faults.all_invalid("metadata.name", name, name_faults(name));
    }
    let namespace = meta::namespace(object);
    match (namespaced, namespace.is_empty()) {
        (true, true) => faults.required("metadata.namespace", ""),
        (true, false) => faults.all_invalid("metadata.namespace", namespace, names::dns_label(namespace)),
        (false, false) => faults.forbidden("metadata.namespace", "not allowed on this type"),
        (false, true) => {}
    }
    for (key, value) in meta::map_at(object, &["metadata", "labels"]) {
        faults.label(key, value, "metadata.labels");
    }
    let mut size = 0;
    for (key, value) in meta::map_at(object, &["metadata", "annotations"]) {
        faults.all_invalid("metadata.annotations", key, names::qualified_name(&key.to_ascii_lowercase()));
        size += key.len() + value.as_str().map_or(0, str::len);
    }
    if size > ANNOTATIONS_BYTES_MAX {
        faults.push(FieldError::too_long("metadata.annotations", ANNOTATIONS_BYTES_MAX as u64));
    }
    let mut controller: Option<String> = None;
    for (at, owner) in meta::owners(object).iter().enumerate() {
        let path = format!("metadata.ownerReferences[{at}]");
        for (field, text) in
            [("apiVersion", &owner.api_version), ("kind", &owner.kind), ("name", &owner.name), ("uid", &owner.uid)]
        {
            if text.is_empty() {
                faults.push(FieldError::invalid(format!("{path}.{field}"), "", "must not be empty"));
            }
        }
        if owner.kind == "Event" && (owner.api_version == "v1" || owner.api_version.starts_with("events.k8s.io/")) {
            faults.invalid(&path, owner.api_version.as_str(), "is disallowed from being an owner");
        }
        if owner.controller {
            if let Some(other) = &controller {
                let detail = format!(
                    "Only one reference can have Controller set to true. Found \"true\" in references for {other} and {}",
                    owner.name
                );
                faults.invalid("metadata.ownerReferences", Value::Null, detail);
            }
            controller = Some(owner.name.clone());
        }
    }
    for finalizer in meta::finalizers(object) {
        faults.all_invalid("metadata.finalizers", &finalizer, names::qualified_name(&finalizer));
    }
}

/// Finalizers of built-in kinds are standard ones or belong to somebody's domain. Definitions and custom resources may
/// have any.
pub fn validate_finalizers(object: &Value, faults: &mut Faults) {
    for finalizer in meta::finalizers(object) {
        if !finalizer.contains('/') && !matches!(finalizer.as_str(), "orphan" | "foregroundDeletion" | "kubernetes") {
            let detail = "name is neither a standard finalizer name nor is it fully qualified";
            faults.invalid("metadata.finalizers", finalizer, detail);
        }
    }
}

/// What may not change in metadata.
pub fn validate_meta_update(new: &Value, old: &Value, faults: &mut Faults) {
    for field in ["name", "namespace", "uid", "creationTimestamp"] {
        let (new, old) = (meta::at(new, &["metadata", field]), meta::at(old, &["metadata", field]));
        faults.immutable(new, old, &format!("metadata.{field}"));
    }
    for field in ["deletionTimestamp", "deletionGracePeriodSeconds"] {
        let (new, old) = (meta::at(new, &["metadata", field]), meta::at(old, &["metadata", field]));
        if new != old {
            faults.invalid(&format!("metadata.{field}"), new.cloned().unwrap_or(Value::Null), "field is immutable");
        }
    }
    if meta::is_terminating(old) {
        let before = meta::finalizers(old);
        let added: Vec<String> = meta::finalizers(new).into_iter().filter(|name| !before.contains(name)).collect();
        if !added.is_empty() {
            let detail = format!(
                "no new finalizers can be added if the object is being deleted, found new finalizers []string{{{}}}",
                added.iter().map(|name| format!("{name:?}")).collect::<Vec<_>>().join(", ")
            );
            faults.forbidden("metadata.finalizers", &detail);
        }
    }
}
