//! Validation of webhook configurations.

use std::collections::BTreeSet;

use serde_json::Value;

use super::rules::Faults;
use crate::errors::FieldError;
use crate::{meta, names};

/// Versions of the review that this API speaks.
const REVIEWS: [&str; 2] = ["v1", "v1beta1"];

/// What a condition of a webhook may look at.
const VARIABLES: [&str; 4] = ["object", "oldObject", "request", "authorizer"];

pub(super) fn validate(object: &Value, faults: &mut Faults) {
    let mut seen = BTreeSet::new();
    for (at, hook) in meta::list_at(object, &["webhooks"]).iter().enumerate() {
        let path = format!("webhooks[{at}]");
        webhook(hook, &path, faults);
        versions(hook, &path, faults);
        let name = hook["name"].as_str().unwrap_or_default();
        if !name.is_empty() && !seen.insert(name) {
            faults.push(FieldError::duplicate(format!("{path}.name"), name));
        }
    }
}

fn webhook(hook: &Value, path: &str, faults: &mut Faults) {
    let here = format!("{path}.name");
    match hook["name"].as_str().unwrap_or_default() {
        "" => faults.required(&here, ""),
        name => {
            faults.all_invalid(&here, name, names::dns_subdomain(name));
            if name.split('.').count() < 3 {
                faults.invalid(&here, name, "should be a domain with at least three segments separated by dots");
            }
        }
    }
    for (at, rule) in meta::list_at(hook, &["rules"]).iter().enumerate() {
        self::rule(rule, &format!("{path}.rules[{at}]"), faults);
    }
    faults.one_of(hook, "failurePolicy", path, &["Fail", "Ignore"]);
    faults.one_of(hook, "matchPolicy", path, &["Equivalent", "Exact"]);
    faults.one_of(hook, "reinvocationPolicy", path, &["IfNeeded", "Never"]);
    match hook["sideEffects"].as_str() {
        None => faults.required(&format!("{path}.sideEffects"), "must specify one of None, NoneOnDryRun"),
        Some(_) => faults.one_of(hook, "sideEffects", path, &["None", "NoneOnDryRun"]),
    }
    if !hook["timeoutSeconds"].as_i64().is_some_and(|secs| (1..=30).contains(&secs)) {
        let value = hook["timeoutSeconds"].clone();
        let detail = "the timeout value must be between 1 and 30 seconds";
        faults.invalid(&format!("{path}.timeoutSeconds"), value, detail);
    }
    for field in ["namespaceSelector", "objectSelector"] {
        faults.label_selector(&hook[field], &format!("{path}.{field}"));
    }
    client(&hook["clientConfig"], &format!("{path}.clientConfig"), faults);
    let mut seen = BTreeSet::new();
    for (at, condition) in meta::list_at(hook, &["matchConditions"]).iter().enumerate() {
        let here = format!("{path}.matchConditions[{at}]");
        let text = |field: &str| condition[field].as_str().unwrap_or_default();
        if text("expression").trim().is_empty() {
            faults.required(&format!("{here}.expression"), "");
        } else if let Err(error) = cel::Program::compile(text("expression"), &VARIABLES) {
            faults.invalid(&format!("{here}.expression"), text("expression"), format!("compilation failed: {error}"));
        }
        if text("name").is_empty() {
            faults.required(&format!("{here}.name"), "");
        } else {
            faults.all_invalid(&format!("{here}.name"), text("name"), names::qualified_name(text("name")));
            if !seen.insert(text("name").to_owned()) {
                faults.push(FieldError::duplicate(format!("{here}.name"), text("name")));
            }
        }
    }
}

fn versions(hook: &Value, path: &str, faults: &mut Faults) {
    let path = format!("{path}.admissionReviewVersions");
    let versions = meta::list_at(hook, &["admissionReviewVersions"]);
    if versions.is_empty() {
        return faults.required(&path, "must specify one of v1, v1beta1");
    }
    for (at, version) in versions.iter().enumerate() {
        let text = version.as_str().unwrap_or_default();
        let here = format!("{path}[{at}]");
        if versions[..at].contains(version) {
            faults.invalid(&here, text, "duplicate version");
        } else {
            faults.all_invalid(&here, text, names::dns_1035_label(text));
        }
    }
    if !versions.iter().any(|version| version.as_str().is_some_and(|version| REVIEWS.contains(&version))) {
        faults.invalid(&path, versions.to_vec(), "must include at least one of v1, v1beta1");
    }
}

fn rule(rule: &Value, path: &str, faults: &mut Faults) {
    let list = |field: &str| meta::list_at(rule, &[field]);
    for (field, what) in
        [("operations", "operations"), ("apiGroups", "API groups"), ("apiVersions", "API versions"), ("resources", "")]
    {
        let here = format!("{path}.{field}");
        if list(field).is_empty() {
            faults.required(&here, "");
        }
        if !what.is_empty() && list(field).len() > 1 && list(field).iter().any(|text| text == "*") {
            let detail = format!("if '*' is present, must not specify other {what}");
            faults.invalid(&here, rule[field].clone(), detail);
        }
        for (at, text) in list(field).iter().enumerate() {
            let here = format!("{here}[{at}]");
            let operations = ["*", "CONNECT", "CREATE", "DELETE", "UPDATE"];
            if text == "" && (field == "apiVersions" || field == "resources") {
                faults.required(&here, "");
            } else if field == "operations" && !text.as_str().is_some_and(|text| operations.contains(&text)) {
                faults.push(FieldError::unsupported(here, text.clone(), &operations));
            }
        }
    }
    let resources = list("resources");
    let many = resources.len() > 1;
    if many && resources.iter().any(|text| text == "*/*") {
        let detail = "if '*/*' is present, must not specify other resources";
        faults.invalid(&format!("{path}.resources"), rule["resources"].clone(), detail);
    } else if many && resources.iter().any(|text| text == "*") {
        let plain = resources.iter().filter(|text| text.as_str().is_some_and(|text| !text.contains('/'))).count();
        if plain > 1 {
            let detail = "if '*' is present, must not specify other resources without subresources";
            faults.invalid(&format!("{path}.resources"), rule["resources"].clone(), detail);
        }
    }
    faults.one_of(rule, "scope", path, &["*", "Cluster", "Namespaced"]);
}

/// Where a webhook is: by address, or by service. Definitions name converters in the same way.
fn client(config: &Value, path: &str, faults: &mut Faults) {
    let service = &config["service"];
    match (config["url"].as_str(), service.is_object()) {
        (Some(url), false) => self::url(url, &format!("{path}.url"), faults),
        (None, true) => {
            let path = format!("{path}.service");
            let text = |field: &str| service[field].as_str().unwrap_or_default();
            for (field, detail) in
                [("name", "service name is required"), ("namespace", "service namespace is required")]
            {
                if text(field).is_empty() {
                    faults.required(&format!("{path}.{field}"), detail);
                }
            }
            if let Some(port) = service["port"].as_i64().filter(|port| !(1..=65535).contains(port)) {
                let detail = "port is not valid: must be between 1 and 65535, inclusive";
                faults.invalid(&format!("{path}.port"), port, detail);
            }
            service_path(text("path"), &format!("{path}.path"), faults);
        }
        _ => faults.required(path, "exactly one of url or service is required"),
    }
}

fn service_path(text: &str, path: &str, faults: &mut Faults) {
    if text.is_empty() || text == "/" {
        return;
    }
    let Some(rest) = text.strip_prefix('/') else {
        return faults.invalid(path, text, "must start with a '/'");
    };
    let steps: Vec<&str> = rest.strip_suffix('/').unwrap_or(rest).split('/').collect();
    for (at, step) in steps.iter().enumerate() {
        if step.is_empty() {
            faults.invalid(path, text, format!("segment[{at}] may not be empty"));
        } else {
            faults.all_invalid(
                path,
                text,
                names::dns_subdomain(step).into_iter().map(|f| format!("segment[{at}]: {f}")).collect(),
            );
        }
    }
}

fn url(text: &str, path: &str, faults: &mut Faults) {
    const FORM: &str = "; desired format: https://host[/path]";
    let Some((scheme, rest)) = text.split_once("://") else {
        return faults.invalid(path, "", format!("'https' is the only allowed URL scheme{FORM}"));
    };
    if scheme != "https" {
        faults.invalid(path, scheme, format!("'https' is the only allowed URL scheme{FORM}"));
    }
    let (rest, fragment) = rest.split_once('#').unwrap_or((rest, ""));
    let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
    let authority = rest.split('/').next().unwrap_or_default();
    let (user, host) = authority.rsplit_once('@').unwrap_or(("", authority));
    if host.is_empty() {
        faults.invalid(path, host, format!("host must be specified{FORM}"));
    }
    for (found, detail) in [
        (user, "user information is not permitted in the URL"),
        (fragment, "fragments are not permitted in the URL"),
        (query, "query parameters are not permitted in the URL"),
    ] {
        if !found.is_empty() {
            faults.invalid(path, found, detail);
        }
    }
}
