//! What a pod says about nodes and about other pods: affinity, tolerations, spreading.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use crate::errors::FieldError;
use crate::kinds::rules::Faults;
use crate::meta::list_at;
use crate::names;

const REQUIRED: &str = "requiredDuringSchedulingIgnoredDuringExecution";
const PREFERRED: &str = "preferredDuringSchedulingIgnoredDuringExecution";

pub(super) fn affinity(affinity: &Value, path: &str, faults: &mut Faults) {
    let node = &affinity["nodeAffinity"];
    if node[REQUIRED].is_object() {
        node_selector(&node[REQUIRED], &format!("{path}.nodeAffinity.{REQUIRED}"), faults);
    }
    for (at, term) in list_at(node, &[PREFERRED]).iter().enumerate() {
        let here = format!("{path}.nodeAffinity.{PREFERRED}[{at}]");
        weight(term, &here, faults);
        node_term(&term["preference"], &format!("{here}.preference"), faults);
    }
    for kind in ["podAffinity", "podAntiAffinity"] {
        for (at, term) in list_at(affinity, &[kind, REQUIRED]).iter().enumerate() {
            pod_term(term, &format!("{path}.{kind}.{REQUIRED}[{at}]"), faults);
        }
        for (at, term) in list_at(affinity, &[kind, PREFERRED]).iter().enumerate() {
            let here = format!("{path}.{kind}.{PREFERRED}[{at}]");
            weight(term, &here, faults);
            pod_term(&term["podAffinityTerm"], &format!("{here}.podAffinityTerm"), faults);
        }
    }
}

fn weight(term: &Value, path: &str, faults: &mut Faults) {
    let weight = term["weight"].as_i64().unwrap_or(0);
    if !(1..=100).contains(&weight) {
        faults.invalid(&format!("{path}.weight"), weight, "must be in the range 1-100");
    }
}

/// Terms of which a node fulfils one: affinities have them, and volumes.
pub(crate) fn node_selector(selector: &Value, path: &str, faults: &mut Faults) {
    let terms = list_at(selector, &["nodeSelectorTerms"]);
    if terms.is_empty() {
        faults.required(&format!("{path}.nodeSelectorTerms"), "must have at least one node selector term");
    }
    for (at, term) in terms.iter().enumerate() {
        node_term(term, &format!("{path}.nodeSelectorTerms[{at}]"), faults);
    }
}

fn node_term(term: &Value, path: &str, faults: &mut Faults) {
    for (at, expression) in list_at(term, &["matchExpressions"]).iter().enumerate() {
        let here = format!("{path}.matchExpressions[{at}]");
        let count = list_at(expression, &["values"]).len();
        let values = format!("{here}.values");
        match expression["operator"].as_str().unwrap_or_default() {
            "In" | "NotIn" if count == 0 => {
                faults.required(&values, "must be specified when `operator` is 'In' or 'NotIn'");
            }
            "Exists" | "DoesNotExist" if count > 0 => {
                faults.forbidden(&values, "may not be specified when `operator` is 'Exists' or 'DoesNotExist'");
            }
            "Gt" | "Lt" if count != 1 => {
                faults.required(&values, "must be specified single value when `operator` is 'Lt' or 'Gt'");
            }
            "In" | "NotIn" | "Exists" | "DoesNotExist" | "Gt" | "Lt" => {}
            other => faults.invalid(&format!("{here}.operator"), other, "not a valid selector operator"),
        }
        let key = expression["key"].as_str().unwrap_or_default();
        faults.all_invalid(&format!("{here}.key"), key, names::qualified_name(key));
    }
    for (at, field) in list_at(term, &["matchFields"]).iter().enumerate() {
        let here = format!("{path}.matchFields[{at}]");
        let key = field["key"].as_str().unwrap_or_default();
        match field["operator"].as_str().unwrap_or_default() {
            "In" | "NotIn" => {
                if list_at(field, &["values"]).len() != 1 {
                    let detail = "must be only one value when `operator` is 'In' or 'NotIn' for node field selector";
                    faults.required(&format!("{here}.values"), detail);
                }
            }
            other => faults.invalid(&format!("{here}.operator"), other, "not a valid selector operator"),
        }
        if key != "metadata.name" {
            faults.invalid(&format!("{here}.key"), key, "not a valid field selector key");
        }
    }
}

fn pod_term(term: &Value, path: &str, faults: &mut Faults) {
    if term["labelSelector"].is_object() {
        faults.label_selector(&term["labelSelector"], &format!("{path}.labelSelector"));
    }
    if term["namespaceSelector"].is_object() {
        faults.label_selector(&term["namespaceSelector"], &format!("{path}.namespaceSelector"));
    }
    for name in list_at(term, &["namespaces"]).iter().filter_map(Value::as_str) {
        faults.all_invalid(&format!("{path}.namespace"), name, names::dns_label(name));
    }
    topology_key(term, path, faults);
}

fn topology_key(term: &Value, path: &str, faults: &mut Faults) {
    let here = format!("{path}.topologyKey");
    match term["topologyKey"].as_str().unwrap_or_default() {
        "" => faults.required(&here, "can not be empty"),
        key => faults.all_invalid(&here, key, names::qualified_name(key)),
    }
}

pub(super) fn toleration(toleration: &Value, path: &str, faults: &mut Faults) {
    let text = |field: &str| toleration[field].as_str().unwrap_or_default();
    let (key, operator, value) = (text("key"), text("operator"), text("value"));
    if !key.is_empty() {
        faults.all_invalid(&format!("{path}.key"), key, names::qualified_name(key));
    } else if operator != "Exists" {
        let detail = "operator must be Exists when `key` is empty, which means \"match all values and all keys\"";
        faults.invalid(&format!("{path}.operator"), operator, detail);
    }
    if toleration["tolerationSeconds"].is_number() && text("effect") != "NoExecute" {
        let detail = "effect must be 'NoExecute' when `tolerationSeconds` is set";
        faults.invalid(&format!("{path}.effect"), text("effect"), detail);
    }
    match operator {
        "" | "Equal" => faults.all_invalid(&format!("{path}.operator"), value, names::label_value(value)),
        "Exists" if !value.is_empty() => {
            faults.invalid(&format!("{path}.operator"), value, "value must be empty when `operator` is 'Exists'");
        }
        "Exists" | "Gt" | "Lt" => {}
        _ => faults.one_of(toleration, "operator", path, &["Equal", "Exists"]),
    }
    if !text("effect").is_empty() {
        faults.one_of(toleration, "effect", path, &["NoExecute", "NoSchedule", "PreferNoSchedule"]);
    }
}

pub(super) fn spread(spec: &Value, path: &str, faults: &mut Faults) {
    let mut seen = BTreeSet::new();
    for (at, constraint) in list_at(spec, &["topologySpreadConstraints"]).iter().enumerate() {
        let here = format!("{path}.topologySpreadConstraints[{at}]");
        let unsatisfiable = constraint["whenUnsatisfiable"].as_str().unwrap_or_default();
        if constraint["maxSkew"].as_i64().unwrap_or(0) <= 0 {
            faults.invalid(&format!("{here}.maxSkew"), constraint["maxSkew"].clone(), "must be greater than zero");
        }
        topology_key(constraint, &here, faults);
        faults.one_of(constraint, "whenUnsatisfiable", &here, &["DoNotSchedule", "ScheduleAnyway"]);
        let key = constraint["topologyKey"].as_str().unwrap_or_default();
        let pair = format!("{{{key}, {unsatisfiable}}}");
        if !seen.insert(pair.clone()) {
            faults.push(FieldError::duplicate(format!("{here}.{{topologyKey, whenUnsatisfiable}}"), pair));
        }
        if let Some(domains) = constraint["minDomains"].as_i64() {
            if domains <= 0 {
                faults.invalid(&format!("{here}.minDomains"), domains, "must be greater than zero");
            }
            if unsatisfiable != "DoNotSchedule" {
                let detail = format!("can only use minDomains if whenUnsatisfiable=DoNotSchedule, not {unsatisfiable}");
                faults.invalid(&format!("{here}.minDomains"), domains, detail);
            }
        }
        for field in ["nodeAffinityPolicy", "nodeTaintsPolicy"] {
            faults.one_of(constraint, field, &here, &["Honor", "Ignore"]);
        }
        if constraint["labelSelector"].is_object() {
            faults.label_selector(&constraint["labelSelector"], &format!("{here}.labelSelector"));
        }
        keys(constraint, &here, faults);
    }
}

/// Labels whose values the pod brings itself; no selector may name them again.
fn keys(constraint: &Value, path: &str, faults: &mut Faults) {
    let selector = &constraint["labelSelector"];
    let in_selector = |key: &str| {
        selector["matchLabels"].get(key).is_some()
            || list_at(selector, &["matchExpressions"]).iter().any(|expression| expression["key"] == json!(key))
    };
    let keys = list_at(constraint, &["matchLabelKeys"]);
    if !keys.is_empty() && !selector.is_object() {
        faults.forbidden(&format!("{path}.matchLabelKeys"), "must not be specified when labelSelector is not set");
        return;
    }
    for (at, key) in keys.iter().enumerate() {
        let key = key.as_str().unwrap_or_default();
        let here = format!("{path}.matchLabelKeys[{at}]");
        faults.all_invalid(&here, key, names::qualified_name(key));
        if in_selector(key) {
            faults.invalid(&here, key, "exists in both matchLabelKeys and labelSelector");
        }
    }
}
