//! PodGroup and Workload.

use serde_json::Value;

use super::Strategy;
use super::rules::Faults;
use crate::errors::FieldError;
use crate::{meta, names};

const TEMPLATES_MAX: usize = 8;

pub(super) const POD_GROUP: Strategy = Strategy {
    validate: |object, faults| policy(&object["spec"]["schedulingPolicy"], "spec.schedulingPolicy", faults),
    validate_update: |new, old, faults| faults.immutable(new.get("spec"), old.get("spec"), "spec"),
    ..Strategy::PLAIN
};

pub(super) const WORKLOAD: Strategy = Strategy {
    validate: |object, faults| {
        let path = "spec.podGroupTemplates";
        let templates = meta::list_at(object, &["spec", "podGroupTemplates"]);
        if templates.is_empty() {
            faults.required(path, "must have at least one item");
        }
        faults.at_most(templates, TEMPLATES_MAX, path);
        for (at, template) in templates.iter().enumerate() {
            let path = format!("{path}[{at}]");
            match template["name"].as_str().unwrap_or_default() {
                "" => faults.required(&format!("{path}.name"), ""),
                name => faults.all_invalid(&format!("{path}.name"), name, names::dns_label(name)),
            }
            if templates[..at].iter().any(|other| other["name"] == template["name"]) {
                faults.push(FieldError::duplicate(path.clone(), template["name"].clone()));
            }
            policy(&template["schedulingPolicy"], &format!("{path}.schedulingPolicy"), faults);
        }
    },
    validate_update: |new, old, faults| {
        let templates = |object: &Value| object["spec"].get("podGroupTemplates").cloned();
        faults.immutable(templates(new).as_ref(), templates(old).as_ref(), "spec.podGroupTemplates");
    },
    ..Strategy::PLAIN
};

/// Exactly one way to schedule.
fn policy(policy: &Value, path: &str, faults: &mut Faults) {
    match (policy["basic"].is_object(), policy["gang"].is_object()) {
        (false, false) => faults.invalid(path, "", "must specify one of: `basic`, `gang`"),
        (true, true) => faults.invalid(path, "{basic, gang}", "must specify exactly one of: `basic`, `gang`"),
        _ => {}
    }
    if let Some(gang) = policy["gang"].as_object() {
        let count = gang.get("minCount").and_then(Value::as_i64).unwrap_or(0);
        if count < 1 {
            faults.invalid(&format!("{path}.gang.minCount"), count, "must be greater than or equal to 1");
        }
    }
}
