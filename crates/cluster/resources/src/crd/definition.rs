//! Judging a definition itself, and filling in what it leaves out.

use serde_json::Value;

use super::{expressions, to_node};
use crate::kinds::Faults;
use crate::meta;
use crate::names;

/// Fills in what a definition leaves out.
pub fn default_definition(definition: &mut Value) {
    let names = meta::object_at(definition, &["spec", "names"]);
    let kind = names.get("kind").and_then(Value::as_str).unwrap_or_default().to_owned();
    names.entry("singular").or_insert_with(|| kind.to_lowercase().into());
    names.entry("listKind").or_insert_with(|| format!("{kind}List").into());
    let spec = meta::object_at(definition, &["spec"]);
    spec.entry("conversion").or_insert_with(|| serde_json::json!({"strategy": "None"}));
}

/// The status that a definition starts with; typed clients read it before anybody has accepted the names.
pub fn prepare_definition(definition: &mut Value) {
    let versions = meta::list_at(definition, &["spec", "versions"]);
    let stored: Vec<Value> =
        versions.iter().filter(|version| version["storage"] == true).map(|version| version["name"].clone()).collect();
    definition["status"] = serde_json::json!({"acceptedNames": {"kind": "", "plural": ""}, "storedVersions": stored});
}

/// Checks a definition.
pub fn validate_definition(definition: &Value, faults: &mut Faults) {
    let spec = &definition["spec"];
    let (group, plural) = (meta::str_at(spec, &["group"]), meta::str_at(spec, &["names", "plural"]));
    let wanted = format!("{plural}.{group}");
    if meta::name(definition) != wanted {
        faults.invalid("metadata.name", meta::name(definition), "must be spec.names.plural+\".\"+spec.group");
    }
    if group.is_empty() {
        faults.required("spec.group", "");
    } else if !group.contains('.') {
        faults.invalid("spec.group", group, "should be a domain with at least one dot");
    } else {
        faults.all_invalid("spec.group", group, names::dns_subdomain(group));
    }
    faults.required_one_of(spec, "scope", "spec", &["Cluster", "Namespaced"]);
    for field in ["plural", "kind"] {
        if meta::str_at(spec, &["names", field]).is_empty() {
            faults.required(&format!("spec.names.{field}"), "");
        }
    }
    let listed = meta::list_at(spec, &["versions"]);
    if listed.iter().filter(|version| version["storage"] == true).count() != 1 {
        faults.invalid("spec.versions", Value::Null, "must have exactly one version marked as storage version");
    }
    for (at, version) in listed.iter().enumerate() {
        let path = format!("spec.versions[{at}]");
        let name = version["name"].as_str().unwrap_or_default();
        faults.all_invalid(&format!("{path}.name"), name, names::dns_1035_label(name));
        match version["schema"].get("openAPIV3Schema") {
            None => faults.required(&format!("{path}.schema.openAPIV3Schema"), "schemas are required"),
            Some(schema) => {
                let path = format!("{path}.schema.openAPIV3Schema");
                structural(schema, &path, true, faults);
                rules(schema, &path, true, faults);
            }
        }
    }
    if spec["conversion"]["strategy"] == "Webhook" && spec["conversion"].get("webhook").is_none() {
        faults.required("spec.conversion.webhook.clientConfig", "required when strategy is set to Webhook");
    }
    if spec["preserveUnknownFields"] == true {
        let detail =
            "cannot set to true, set x-kubernetes-preserve-unknown-fields to true in spec.versions[*].schema instead";
        faults.invalid("spec.preserveUnknownFields", true, detail);
    }
}

/// Every position has a type; nothing that a structural schema may not say.
fn structural(schema: &Value, path: &str, root: bool, faults: &mut Faults) {
    let free = schema["x-kubernetes-int-or-string"] == true || schema["x-kubernetes-preserve-unknown-fields"] == true;
    match schema["type"].as_str() {
        None if !free => faults.required(&format!("{path}.type"), "must not be empty for specified object fields"),
        Some(kind) if root && kind != "object" => {
            faults.invalid(&format!("{path}.type"), kind, "must be object at the root")
        }
        _ => {}
    }
    if let Some(pattern) = schema["pattern"].as_str()
        && let Err(error) = regex::Regex::new(pattern)
    {
        faults.invalid(
            &format!("{path}.pattern"),
            pattern,
            format!("must be a valid regular expression, but isn't: {error}"),
        );
    }
    if schema["type"] == "array" && schema.get("items").is_none() {
        faults.required(&format!("{path}.items"), "must be specified");
    }
    if let Some(items) = schema.get("items") {
        structural(items, &format!("{path}.items"), false, faults);
    }
    if schema["x-kubernetes-list-type"] == "map"
        && schema["x-kubernetes-list-map-keys"].as_array().is_none_or(Vec::is_empty)
    {
        let detail = "must not be empty if x-kubernetes-list-type is map";
        faults.required(&format!("{path}.x-kubernetes-list-map-keys"), detail);
    }
    if schema.get("properties").is_some() && schema.get("additionalProperties").is_some_and(|more| *more != false) {
        faults.forbidden(
            &format!("{path}.additionalProperties"),
            "additionalProperties and properties are mutual exclusive",
        );
    }
    for (name, child) in schema["properties"].as_object().into_iter().flatten() {
        structural(child, &format!("{path}.properties[{name}]"), false, faults);
    }
    if let Some(child @ Value::Object(_)) = schema.get("additionalProperties") {
        structural(child, &format!("{path}.additionalProperties"), false, faults);
    }
}

/// Every rule compiles, and reads an old value only where there is one to compare with.
fn rules(schema: &Value, path: &str, correlated: bool, faults: &mut Faults) {
    let listed = meta::list_at(schema, &["x-kubernetes-validations"]);
    if !listed.is_empty() {
        let node = to_node(schema);
        for (at, rule) in listed.iter().enumerate() {
            expressions::validate(rule, &node, correlated, &format!("{path}.x-kubernetes-validations[{at}]"), faults);
        }
    }
    if let Some(items) = schema.get("items") {
        let keyed = schema["x-kubernetes-list-type"] == "map";
        rules(items, &format!("{path}.items"), correlated && keyed, faults);
    }
    for (name, child) in schema["properties"].as_object().into_iter().flatten() {
        rules(child, &format!("{path}.properties[{name}]"), correlated, faults);
    }
    if let Some(child @ Value::Object(_)) = schema.get("additionalProperties") {
        rules(child, &format!("{path}.additionalProperties"), correlated, faults);
    }
}
