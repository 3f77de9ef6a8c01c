//! Roles and bindings.

use serde_json::Value;

use super::Strategy;
use super::rules::{Faults, default_to};
use crate::{meta, names};

const GROUP: &str = "rbac.authorization.k8s.io";

pub(super) fn strategy(resource: &str) -> Strategy {
    match resource {
        "roles" => Strategy {
            validate: |role, faults| rules(role, true, faults),
            name: names::path_segment,
            ..Strategy::PLAIN
        },
        "clusterroles" => Strategy {
            validate: |role, faults| {
                rules(role, false, faults);
                aggregation(&role["aggregationRule"], faults);
            },
            name: names::path_segment,
            ..Strategy::PLAIN
        },
        _ => Strategy {
            default: |binding| {
                if let Some(reference) = binding.get_mut("roleRef").and_then(Value::as_object_mut) {
                    default_to(reference, "apiGroup", GROUP);
                }
                for subject in meta::items_mut(binding, &["subjects"]) {
                    let user = matches!(subject["kind"].as_str(), Some("User" | "Group"));
                    if let Some(subject) = subject.as_object_mut()
                        && user
                    {
                        default_to(subject, "apiGroup", GROUP);
                    }
                }
            },
            validate: binding,
            validate_update: |new, old, faults| {
                if new["roleRef"] != old["roleRef"] {
                    faults.invalid("roleRef", new["roleRef"].clone(), "cannot change roleRef");
                }
            },
            name: names::path_segment,
            ..Strategy::PLAIN
        },
    }
}

fn rules(role: &Value, namespaced: bool, faults: &mut Faults) {
    for (at, rule) in meta::list_at(role, &["rules"]).iter().enumerate() {
        let path = format!("rules[{at}]");
        let empty = |name: &str| rule[name].as_array().is_none_or(Vec::is_empty);
        if empty("verbs") {
            faults.required(&format!("{path}.verbs"), "verbs must contain at least one value");
        }
        if !empty("nonResourceURLs") {
            if namespaced {
                let detail = "namespaced rules cannot apply to non-resource URLs";
                faults.invalid(&format!("{path}.nonResourceURLs"), rule["nonResourceURLs"].clone(), detail);
            }
            if !empty("apiGroups") || !empty("resources") || !empty("resourceNames") {
                let detail = "rules cannot apply to both regular resources and non-resource URLs";
                faults.invalid(&format!("{path}.nonResourceURLs"), rule["nonResourceURLs"].clone(), detail);
            }
            continue;
        }
        if empty("apiGroups") {
            faults.required(&format!("{path}.apiGroups"), "resource rules must supply at least one api group");
        }
        if empty("resources") {
            faults.required(&format!("{path}.resources"), "resource rules must supply at least one resource");
        }
    }
}

/// A role that collects others says which.
fn aggregation(rule: &Value, faults: &mut Faults) {
    if !rule.is_object() {
        return;
    }
    let selectors = meta::list_at(rule, &["clusterRoleSelectors"]);
    if selectors.is_empty() {
        let detail = "at least one clusterRoleSelector required if aggregationRule is non-nil";
        faults.required("aggregationRule.clusterRoleSelectors", detail);
    }
    for (at, selector) in selectors.iter().enumerate() {
        faults.label_selector(selector, &format!("aggregationRule.clusterRoleSelectors[{at}]"));
    }
}

fn binding(binding: &Value, faults: &mut Faults) {
    let reference = &binding["roleRef"];
    if reference["apiGroup"] != GROUP {
        faults.push(crate::FieldError::unsupported("roleRef.apiGroup", reference["apiGroup"].clone(), &[GROUP]));
    }
    let kinds: &[&str] =
        if binding["kind"] == "ClusterRoleBinding" { &["ClusterRole"] } else { &["ClusterRole", "Role"] };
    faults.one_of(reference, "kind", "roleRef", kinds);
    match reference["name"].as_str().unwrap_or_default() {
        "" => faults.required("roleRef.name", ""),
        name => faults.all_invalid("roleRef.name", name, names::path_segment(name)),
    }
    for (at, subject) in meta::list_at(binding, &["subjects"]).iter().enumerate() {
        let path = format!("subjects[{at}]");
        let text = |field: &str| subject[field].as_str().unwrap_or_default();
        if text("name").is_empty() {
            faults.required(&format!("{path}.name"), "");
        }
        let group = match text("kind") {
            "ServiceAccount" => {
                if !text("name").is_empty() {
                    faults.all_invalid(&format!("{path}.name"), text("name"), names::dns_subdomain(text("name")));
                }
                // In a role binding it may be of the binding's own namespace.
                if binding["kind"] == "ClusterRoleBinding" && text("namespace").is_empty() {
                    faults.required(&format!("{path}.namespace"), "");
                }
                ""
            }
            "User" | "Group" => GROUP,
            _ => {
                faults.one_of(subject, "kind", &path, &["Group", "ServiceAccount", "User"]);
                continue;
            }
        };
        if text("apiGroup") != group {
            faults.push(crate::FieldError::unsupported(format!("{path}.apiGroup"), text("apiGroup"), &[group]));
        }
    }
}
