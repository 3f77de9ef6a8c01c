//! Admission policies and their bindings. They are kept and judged here; running them is another matter.

use serde_json::{Map, Value, json};

use super::Strategy;
use super::rules::{Faults, default_to, each, spec, sub};
use crate::meta;

/// What an expression of a policy may read.
const VARIABLES: [&str; 8] =
    ["object", "oldObject", "request", "params", "namespaceObject", "authorizer", "variables", "self"];

pub(super) fn strategy(resource: &str) -> Strategy {
    match resource {
        "validatingadmissionpolicies" | "mutatingadmissionpolicies" => POLICY,
        "validatingadmissionpolicybindings" | "mutatingadmissionpolicybindings" => BINDING,
        _ => Strategy { generation: true, ..Strategy::PLAIN },
    }
}

fn default_match(resources: &mut Map<String, Value>) {
    default_to(resources, "matchPolicy", "Equivalent");
    default_to(resources, "namespaceSelector", json!({}));
    default_to(resources, "objectSelector", json!({}));
    for list in ["resourceRules", "excludeResourceRules"] {
        for rule in each(resources, list) {
            default_to(rule, "scope", "*");
        }
    }
}

const POLICY: Strategy = Strategy {
    default: |object| {
        let spec = spec(object);
        default_to(spec, "failurePolicy", "Fail");
        if let Some(resources) = sub(spec, "matchConstraints") {
            default_match(resources);
        }
    },
    validate: |object, faults| {
        let spec = &object["spec"];
        faults.one_of(spec, "failurePolicy", "spec", &["Fail", "Ignore"]);
        if spec["paramKind"].is_object() {
            for field in ["apiVersion", "kind"] {
                if spec["paramKind"][field].as_str().unwrap_or_default().is_empty() {
                    faults.required(&format!("spec.paramKind.{field}"), "");
                }
            }
        }
        match spec["matchConstraints"].is_object() {
            false => faults.required("spec.matchConstraints", ""),
            true => {
                if meta::list_at(spec, &["matchConstraints", "resourceRules"]).is_empty() {
                    faults.required("spec.matchConstraints.resourceRules", "");
                }
                validate_match(&spec["matchConstraints"], "spec.matchConstraints", faults);
            }
        }
        named_expressions(spec, "matchConditions", "name", faults);
        named_expressions(spec, "variables", "name", faults);
        if object["kind"] == "MutatingAdmissionPolicy" {
            return validate_mutations(spec, faults);
        }
        let validations = meta::list_at(spec, &["validations"]);
        if validations.is_empty() && meta::list_at(spec, &["auditAnnotations"]).is_empty() {
            faults.required("spec.validations", "validations or auditAnnotations must contain at least one item");
            faults.required("spec.auditAnnotations", "validations or auditAnnotations must contain at least one item");
        }
        for (at, validation) in validations.iter().enumerate() {
            let path = format!("spec.validations[{at}]");
            match validation["expression"].as_str().unwrap_or_default().trim() {
                "" => faults.required(&format!("{path}.expression"), "expression is not specified"),
                source => expression(source, &format!("{path}.expression"), faults),
            }
            if let Some(source) = validation["messageExpression"].as_str() {
                expression(source, &format!("{path}.messageExpression"), faults);
            }
            let reasons = ["Forbidden", "Invalid", "RequestEntityTooLarge", "Unauthorized"];
            faults.one_of(validation, "reason", &path, &reasons);
        }
        for (at, annotation) in meta::list_at(spec, &["auditAnnotations"]).iter().enumerate() {
            let path = format!("spec.auditAnnotations[{at}]");
            if annotation["key"].as_str().unwrap_or_default().is_empty() {
                faults.required(&format!("{path}.key"), "");
            }
            match annotation["valueExpression"].as_str().unwrap_or_default().trim() {
                "" => faults.required(&format!("{path}.valueExpression"), "valueExpression is not specified"),
                source => expression(source, &format!("{path}.valueExpression"), faults),
            }
        }
    },
    generation: true,
    ..Strategy::PLAIN
};

fn validate_mutations(spec: &Value, faults: &mut Faults) {
    let mutations = meta::list_at(spec, &["mutations"]);
    if mutations.is_empty() {
        faults.required("spec.mutations", "mutations must contain at least one item");
    }
    for (at, mutation) in mutations.iter().enumerate() {
        let path = format!("spec.mutations[{at}]");
        faults.required_one_of(mutation, "patchType", &path, &["ApplyConfiguration", "JSONPatch"]);
        let field = match mutation["patchType"].as_str() {
            Some("ApplyConfiguration") => "applyConfiguration",
            Some("JSONPatch") => "jsonPatch",
            _ => continue,
        };
        if mutation[field]["expression"].as_str().unwrap_or_default().trim().is_empty() {
            faults.required(&format!("{path}.{field}.expression"), "expression is not specified");
        }
    }
    faults.required_one_of(spec, "reinvocationPolicy", "spec", &["IfNeeded", "Never"]);
}

fn named_expressions(spec: &Value, list: &str, name: &str, faults: &mut Faults) {
    let mut seen = std::collections::BTreeSet::new();
    for (at, one) in meta::list_at(spec, &[list]).iter().enumerate() {
        let path = format!("spec.{list}[{at}]");
        match one[name].as_str().unwrap_or_default() {
            "" => faults.required(&format!("{path}.{name}"), ""),
            text if !seen.insert(text) => faults.push(crate::FieldError::duplicate(format!("{path}.{name}"), text)),
            _ => {}
        }
        match one["expression"].as_str().unwrap_or_default().trim() {
            "" => faults.required(&format!("{path}.expression"), ""),
            source => expression(source, &format!("{path}.expression"), faults),
        }
    }
}

fn expression(source: &str, path: &str, faults: &mut Faults) {
    if let Err(error) = cel::Program::compile(source, &VARIABLES) {
        faults.invalid(path, source, format!("compilation failed: {error}"));
    }
}

fn validate_match(resources: &Value, path: &str, faults: &mut Faults) {
    faults.one_of(resources, "matchPolicy", path, &["Equivalent", "Exact"]);
    for selector in ["namespaceSelector", "objectSelector"] {
        faults.label_selector(&resources[selector], &format!("{path}.{selector}"));
    }
    for (at, rule) in meta::list_at(resources, &["resourceRules"]).iter().enumerate() {
        let path = format!("{path}.resourceRules[{at}]");
        for field in ["operations", "apiGroups", "apiVersions", "resources"] {
            if meta::list_at(rule, &[field]).is_empty() {
                faults.required(&format!("{path}.{field}"), "");
            }
        }
        faults.one_of(rule, "scope", &path, &["*", "Cluster", "Namespaced"]);
    }
}

const BINDING: Strategy = Strategy {
    default: |object| {
        if let Some(resources) = sub(spec(object), "matchResources") {
            default_match(resources);
        }
    },
    validate: |object, faults| {
        let spec = &object["spec"];
        if spec["policyName"].as_str().unwrap_or_default().is_empty() {
            faults.required("spec.policyName", "");
        }
        let reference = &spec["paramRef"];
        if reference.is_object() {
            let (name, selector) = (!reference["name"].is_null(), reference["selector"].is_object());
            if name == selector {
                let detail = if name {
                    "name and selector are mutually exclusive"
                } else {
                    "one of name or selector must be specified"
                };
                match name {
                    true => faults.forbidden("spec.paramRef.name", detail),
                    false => faults.required("spec.paramRef", detail),
                }
            }
            let supported = ["Allow", "Deny"];
            faults.required_one_of(reference, "parameterNotFoundAction", "spec.paramRef", &supported);
        }
        if spec["matchResources"].is_object() {
            validate_match(&spec["matchResources"], "spec.matchResources", faults);
        }
        if object["kind"] != "ValidatingAdmissionPolicyBinding" {
            return;
        }
        let actions = meta::list_at(spec, &["validationActions"]);
        if actions.is_empty() {
            faults.required("spec.validationActions", "at least one validation action is required");
        }
        let mut seen = Vec::new();
        for (at, action) in actions.iter().enumerate() {
            let path = format!("spec.validationActions[{at}]");
            if !matches!(action.as_str(), Some("Audit" | "Deny" | "Warn")) {
                faults.push(crate::FieldError::unsupported(path, action.clone(), &["Audit", "Deny", "Warn"]));
            } else if seen.contains(action) {
                faults.push(crate::FieldError::duplicate(path, action.clone()));
            }
            seen.push(action.clone());
        }
        if seen.contains(&json!("Deny")) && seen.contains(&json!("Warn")) {
            let detail = "must not contain both Deny and Warn (repeating the same validation failure information in the API \
                          response and headers serves no purpose)";
            faults.invalid("spec.validationActions", actions.to_vec(), detail);
        }
    },
    generation: true,
    ..Strategy::PLAIN
};
