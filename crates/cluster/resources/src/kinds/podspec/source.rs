//! Where values of variables and files come from: the pod's own fields, its containers' resources, keys of config maps and
//! secrets.

use serde_json::Value;

use crate::errors::FieldError;
use crate::kinds::rules::Faults;
use crate::meta::list_at;
use crate::names;

const MORE_THAN_ONE: &str = "may not have more than one field specified at a time";
const VARIABLE: &str =
    "a valid environment variable name must consist only of printable ASCII characters other than '='";

/// Fields of a pod that variables may be of.
const IN_VARIABLES: [&str; 9] = [
    "metadata.name",
    "metadata.namespace",
    "metadata.uid",
    "spec.nodeName",
    "spec.serviceAccountName",
    "status.hostIP",
    "status.hostIPs",
    "status.podIP",
    "status.podIPs",
];

/// Fields of a pod that files may be of.
const IN_FILES: [&str; 5] =
    ["metadata.annotations", "metadata.labels", "metadata.name", "metadata.namespace", "metadata.uid"];

/// Fields that are known, and so are refused in other words than those that are not.
const KNOWN: [&str; 5] =
    ["metadata.annotations", "metadata.labels", "spec.restartPolicy", "spec.schedulerName", "status.phase"];

fn is_variable(name: &str) -> bool {
    !name.is_empty() && !name.contains('=') && name.chars().all(|c| (' '..='~').contains(&c))
}

pub(super) fn env(variable: &Value, path: &str, faults: &mut Faults) {
    let name = variable["name"].as_str().unwrap_or_default();
    if name.is_empty() {
        faults.required(&format!("{path}.name"), "");
    } else if !is_variable(name) {
        faults.invalid(&format!("{path}.name"), name, VARIABLE);
    }
    let source = &variable["valueFrom"];
    if !source.is_object() {
        return;
    }
    let path = format!("{path}.valueFrom");
    let mut count = 0;
    for kind in ["fieldRef", "resourceFieldRef", "configMapKeyRef", "secretKeyRef", "fileKeyRef"] {
        let reference = &source[kind];
        if !reference.is_object() {
            continue;
        }
        count += 1;
        let here = format!("{path}.{kind}");
        match kind {
            "fieldRef" => field(reference, &IN_VARIABLES, &here, faults),
            "resourceFieldRef" => resource(reference, false, &here, faults),
            "fileKeyRef" => {}
            _ => key(reference, &here, faults),
        }
    }
    if count == 0 {
        let detail =
            "must specify one of: `fieldRef`, `resourceFieldRef`, `configMapKeyRef`, `secretKeyRef` or `fileKeyRef`";
        faults.invalid(&path, "", detail);
    }
    if variable["value"].as_str().is_some_and(|value| !value.is_empty()) {
        if count > 0 {
            faults.invalid(&path, "", "may not be specified when `value` is not empty");
        }
    } else if count > 1 {
        faults.invalid(&path, "", MORE_THAN_ONE);
    }
}

fn key(reference: &Value, path: &str, faults: &mut Faults) {
    let here = format!("{path}.key");
    match reference["key"].as_str().unwrap_or_default() {
        "" => faults.required(&here, ""),
        key => faults.all_invalid(&here, key, names::config_key(key)),
    }
}

pub(super) fn field(reference: &Value, allowed: &[&str], path: &str, faults: &mut Faults) {
    if reference["apiVersion"].as_str().unwrap_or_default().is_empty() {
        faults.required(&format!("{path}.apiVersion"), "");
    }
    let here = format!("{path}.fieldPath");
    let text = reference["fieldPath"].as_str().unwrap_or_default();
    if text.is_empty() {
        return faults.required(&here, "");
    }
    // One label or annotation: metadata.labels['KEY'].
    if let Some((of, rest)) = text.split_once("['") {
        let key = rest.strip_suffix("']").unwrap_or_default();
        match of {
            "metadata.labels" => faults.all_invalid(path, key, names::qualified_name(key)),
            "metadata.annotations" => faults.all_invalid(path, key, names::qualified_name(&key.to_lowercase())),
            _ => faults.invalid(path, text, format!("{of} does not support subscript")),
        }
        return;
    }
    if allowed.contains(&text) {
        return;
    }
    if IN_VARIABLES.contains(&text) || KNOWN.contains(&text) {
        faults.push(FieldError::unsupported(here, text, allowed));
    } else {
        faults.invalid(&here, text, format!("error converting fieldPath: field label not supported: {text}"));
    }
}

pub(super) fn resource(reference: &Value, in_file: bool, path: &str, faults: &mut Faults) {
    if in_file && reference["containerName"].as_str().unwrap_or_default().is_empty() {
        faults.required(&format!("{path}.containerName"), "");
    }
    let here = format!("{path}.resource");
    let name = reference["resource"].as_str().unwrap_or_default();
    let allowed = [
        "limits.cpu",
        "limits.ephemeral-storage",
        "limits.memory",
        "requests.cpu",
        "requests.ephemeral-storage",
        "requests.memory",
    ];
    let huge = ["limits.hugepages-", "requests.hugepages-"].iter().any(|prefix| name.starts_with(prefix));
    if name.is_empty() {
        faults.required(&here, "");
    } else if !allowed.contains(&name) && !huge {
        faults.push(FieldError::unsupported(here, name, &allowed));
    }
}

pub(super) fn env_from(from: &Value, path: &str, faults: &mut Faults) {
    if let Some(prefix) = from["prefix"].as_str().filter(|prefix| !prefix.is_empty())
        && !is_variable(prefix)
    {
        faults.invalid(&format!("{path}.prefix"), prefix, VARIABLE);
    }
    let mut count = 0;
    for kind in ["configMapRef", "secretRef"] {
        if from[kind].is_object() {
            count += 1;
            if from[kind]["name"].as_str().unwrap_or_default().is_empty() {
                faults.required(&format!("{path}.{kind}.name"), "");
            }
        }
    }
    match count {
        0 => faults.invalid(path, "", "must specify one of: `configMapRef` or `secretRef`"),
        1 => {}
        _ => faults.invalid(path, "", MORE_THAN_ONE),
    }
}

/// Files made of the pod's own fields.
pub(super) fn downward(source: &Value, path: &str, faults: &mut Faults) {
    mode(source, "defaultMode", path, faults);
    for (at, item) in list_at(source, &["items"]).iter().enumerate() {
        let here = format!("{path}.items[{at}]");
        file_path(item, &here, faults);
        match (item["fieldRef"].is_object(), item["resourceFieldRef"].is_object()) {
            (true, true) => {
                let detail = "fieldRef and resourceFieldRef can not be specified simultaneously";
                faults.invalid(&here, "resource", detail);
            }
            (true, false) => field(&item["fieldRef"], &IN_FILES, &format!("{here}.fieldRef"), faults),
            (false, true) => resource(&item["resourceFieldRef"], true, &format!("{here}.resourceFieldRef"), faults),
            (false, false) => faults.required(&here, "one of fieldRef and resourceFieldRef is required"),
        }
        mode(item, "mode", &here, faults);
    }
}

/// Files made of chosen keys.
pub(super) fn items(source: &Value, path: &str, faults: &mut Faults) {
    mode(source, "defaultMode", path, faults);
    for (at, item) in list_at(source, &["items"]).iter().enumerate() {
        let here = format!("{path}.items[{at}]");
        if item["key"].as_str().unwrap_or_default().is_empty() {
            faults.required(&format!("{here}.key"), "");
        }
        file_path(item, &here, faults);
        mode(item, "mode", &here, faults);
    }
}

pub(super) fn mode(object: &Value, field: &str, path: &str, faults: &mut Faults) {
    if let Some(mode) = object[field].as_i64()
        && !(0..=0o777).contains(&mode)
    {
        let detail = "must be a number between 0 and 0777 (octal), both inclusive";
        faults.invalid(&format!("{path}.{field}"), mode, detail);
    }
}

/// The name of a file in a volume: two dots at its beginning are the volume's own.
pub(super) fn file_path(object: &Value, path: &str, faults: &mut Faults) {
    let here = format!("{path}.path");
    let text = object["path"].as_str().unwrap_or_default();
    if text.is_empty() {
        return faults.required(&here, "");
    }
    super::container::local_path(text, &here, faults);
    if text.starts_with("..") && !text.starts_with("../") && text != ".." {
        faults.invalid(&here, text, "must not start with '..'");
    }
}
