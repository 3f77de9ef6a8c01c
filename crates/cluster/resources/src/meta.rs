//! Reading and writing `metadata`.

use serde_json::{Map, Value};

pub fn str_at<'a>(value: &'a Value, path: &[&str]) -> &'a str {
    at(value, path).and_then(Value::as_str).unwrap_or_default()
}

pub fn at<'a>(value: &'a Value, path: &[&str]) -> Option<&'a Value> {
    path.iter().try_fold(value, |value, key| value.get(key))
}

/// The object at a path below `value`, made if it is missing.
pub fn object_at<'a>(value: &'a mut Value, path: &[&str]) -> &'a mut Map<String, Value> {
    let mut here = value;
    for key in path {
        if !here.is_object() {
            *here = Value::Object(Map::new());
        }
        here = here.as_object_mut().expect("made above").entry(*key).or_insert_with(|| Value::Object(Map::new()));
    }
    if !here.is_object() {
        *here = Value::Object(Map::new());
    }
    here.as_object_mut().expect("made above")
}

pub fn list_at<'a>(value: &'a Value, path: &[&str]) -> &'a [Value] {
    at(value, path).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default()
}

/// The items of a list to change; none, and nothing is made, if there is no list.
pub fn items_mut<'a>(value: &'a mut Value, path: &[&str]) -> impl Iterator<Item = &'a mut Value> {
    let found = path.iter().try_fold(value, |value, key| value.get_mut(*key));
    found.and_then(Value::as_array_mut).into_iter().flatten()
}

pub fn map_at<'a>(value: &'a Value, path: &[&str]) -> impl Iterator<Item = (&'a String, &'a Value)> {
    at(value, path).and_then(Value::as_object).into_iter().flatten()
}

/// `metadata.NAME` as a string, empty if missing.
pub fn get<'a>(object: &'a Value, name: &str) -> &'a str {
    str_at(object, &["metadata", name])
}

pub fn set(object: &mut Value, name: &str, value: impl Into<Value>) {
    object_at(object, &["metadata"]).insert(name.to_owned(), value.into());
}

pub fn unset(object: &mut Value, name: &str) {
    object_at(object, &["metadata"]).remove(name);
}

pub fn name(object: &Value) -> &str {
    get(object, "name")
}

pub fn namespace(object: &Value) -> &str {
    get(object, "namespace")
}

pub fn uid(object: &Value) -> &str {
    get(object, "uid")
}

pub fn resource_version(object: &Value) -> &str {
    get(object, "resourceVersion")
}

pub fn is_terminating(object: &Value) -> bool {
    !get(object, "deletionTimestamp").is_empty()
}

pub fn finalizers(object: &Value) -> Vec<String> {
    list_at(object, &["metadata", "finalizers"]).iter().filter_map(Value::as_str).map(str::to_owned).collect()
}

pub fn set_finalizers(object: &mut Value, finalizers: Vec<String>) {
    if finalizers.is_empty() {
        unset(object, "finalizers");
    } else {
        set(object, "finalizers", finalizers);
    }
}

pub fn generation(object: &Value) -> i64 {
    at(object, &["metadata", "generation"]).and_then(Value::as_i64).unwrap_or(0)
}

/// One entry of `metadata.ownerReferences`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Owner {
    pub api_version: String,
    pub kind: String,
    pub name: String,
    pub uid: String,
    pub controller: bool,
    pub block_deletion: bool,
}

pub fn owners(object: &Value) -> Vec<Owner> {
    let text = |owner: &Value, key: &str| owner[key].as_str().unwrap_or_default().to_owned();
    list_at(object, &["metadata", "ownerReferences"])
        .iter()
        .map(|owner| Owner {
            api_version: text(owner, "apiVersion"),
            kind: text(owner, "kind"),
            name: text(owner, "name"),
            uid: text(owner, "uid"),
            controller: owner["controller"] == true,
            block_deletion: owner["blockOwnerDeletion"] == true,
        })
        .collect()
}
