//! FlowSchema and PriorityLevelConfiguration.

use serde_json::{Value, json};

use super::Strategy;
use super::rules::{default_to, spec, sub};
use crate::meta;

pub(super) fn strategy(resource: &str) -> Strategy {
    match resource {
        "flowschemas" => SCHEMA,
        "prioritylevelconfigurations" => LEVEL,
        _ => Strategy { generation: true, ..Strategy::PLAIN },
    }
}

const PRECEDENCE_MAX: i64 = 10_000;

const SCHEMA: Strategy = Strategy {
    default: |object| default_to(spec(object), "matchingPrecedence", 1000),
    validate: |object, faults| {
        let spec = &object["spec"];
        if spec["priorityLevelConfiguration"]["name"].as_str().unwrap_or_default().is_empty() {
            faults.required("spec.priorityLevelConfiguration.name", "must reference a priority level");
        }
        let precedence = spec["matchingPrecedence"].as_i64().unwrap_or(0);
        if precedence <= 0 {
            faults.invalid("spec.matchingPrecedence", precedence, "must be a positive value");
        } else if precedence > PRECEDENCE_MAX {
            let detail = format!("must not be greater than {PRECEDENCE_MAX}");
            faults.invalid("spec.matchingPrecedence", precedence, detail);
        }
        if spec["distinguisherMethod"].is_object() {
            faults.required_one_of(
                &spec["distinguisherMethod"],
                "type",
                "spec.distinguisherMethod",
                &["ByNamespace", "ByUser"],
            );
        }
        for (at, rule) in meta::list_at(spec, &["rules"]).iter().enumerate() {
            let path = format!("spec.rules[{at}]");
            let subjects = meta::list_at(rule, &["subjects"]);
            if subjects.is_empty() {
                faults.required(&format!("{path}.subjects"), "subjects must contain at least one value");
            }
            for (n, subject) in subjects.iter().enumerate() {
                let path = format!("{path}.subjects[{n}]");
                faults.required_one_of(subject, "kind", &path, &["Group", "ServiceAccount", "User"]);
                let field = match subject["kind"].as_str() {
                    Some("User") => "user",
                    Some("Group") => "group",
                    Some("ServiceAccount") => "serviceAccount",
                    _ => continue,
                };
                if !subject[field].is_object() {
                    faults.required(
                        &format!("{path}.{field}"),
                        &format!(
                            "{field} is required when subject kind is '{}'",
                            subject["kind"].as_str().unwrap_or_default()
                        ),
                    );
                }
            }
            let none = |field: &str| meta::list_at(rule, &[field]).is_empty();
            if none("resourceRules") && none("nonResourceRules") {
                faults.required(&path, "at least one of resourceRules and nonResourceRules has to be non-empty");
            }
        }
    },
    generation: true,
    ..Strategy::PLAIN
};

const LEVEL: Strategy = Strategy {
    default: |object| {
        let spec = spec(object);
        if let Some(limited) = sub(spec, "limited") {
            default_to(limited, "nominalConcurrencyShares", 30);
            default_to(limited, "lendablePercent", 0);
            if let Some(response) = sub(limited, "limitResponse")
                && let Some(queuing) = sub(response, "queuing")
            {
                default_to(queuing, "queues", 64);
                default_to(queuing, "handSize", 8);
                default_to(queuing, "queueLengthLimit", 50);
            }
        }
        if spec.get("type").is_some_and(|kind| kind == "Exempt") {
            let exempt = spec.entry("exempt").or_insert_with(|| json!({}));
            if let Some(exempt) = exempt.as_object_mut() {
                default_to(exempt, "nominalConcurrencyShares", 0);
                default_to(exempt, "lendablePercent", 0);
            }
        }
    },
    validate: |object, faults| {
        let spec = &object["spec"];
        faults.required_one_of(spec, "type", "spec", &["Exempt", "Limited"]);
        match (spec["type"].as_str(), spec["limited"].is_object()) {
            (Some("Exempt"), true) => faults.forbidden("spec.limited", "must be nil if the type is not Limited"),
            (Some("Limited"), false) => faults.required("spec.limited", "must not be empty when type is Limited"),
            (Some("Limited"), true) => limited(&spec["limited"], faults),
            _ => {}
        }
    },
    generation: true,
    ..Strategy::PLAIN
};

fn limited(limited: &Value, faults: &mut super::Faults) {
    let path = "spec.limited";
    faults.non_negative(limited, "nominalConcurrencyShares", path);
    if let Some(percent) = limited["lendablePercent"].as_i64().filter(|percent| !(0..=100).contains(percent)) {
        faults.invalid("spec.limited.lendablePercent", percent, "must be between 0 and 100, inclusive");
    }
    let response = &limited["limitResponse"];
    faults.required_one_of(response, "type", "spec.limited.limitResponse", &["Queue", "Reject"]);
    let queuing = response["queuing"].is_object();
    match response["type"].as_str() {
        Some("Reject") if queuing => {
            faults.forbidden(
                "spec.limited.limitResponse.queuing",
                "must be nil if limited.limitResponse.type is not Limited",
            );
        }
        Some("Queue") if !queuing => {
            faults.required(
                "spec.limited.limitResponse.queuing",
                "must not be empty if limited.limitResponse.type is Limited",
            );
        }
        Some("Queue") => {
            for field in ["queues", "handSize", "queueLengthLimit"] {
                if response["queuing"][field].as_i64().unwrap_or(0) <= 0 {
                    let path = format!("spec.limited.limitResponse.queuing.{field}");
                    faults.invalid(&path, response["queuing"][field].clone(), "must be positive");
                }
            }
        }
        _ => {}
    }
}
