//! HorizontalPodAutoscaler and PodDisruptionBudget.

use serde_json::{Map, Value, json};

use super::rules::{Faults, default_to, spec, sub};
use super::{Strategy, status};
use crate::errors::{FaultKind, FieldError};
use crate::{meta, names};

pub(super) const AUTOSCALER: Strategy = Strategy {
    default: |object| {
        let spec = spec(object);
        default_to(spec, "minReplicas", 1);
        let v2 = !spec.contains_key("targetCPUUtilizationPercentage");
        if v2 && spec.get("metrics").and_then(Value::as_array).is_none_or(Vec::is_empty) {
            let cpu = json!({"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 80}});
            spec.insert("metrics".into(), json!([{"type": "Resource", "resource": cpu}]));
        }
        if let Some(behavior) = sub(spec, "behavior")
            && (behavior.contains_key("scaleUp") || behavior.contains_key("scaleDown"))
        {
            let percent = json!({"type": "Percent", "value": 100, "periodSeconds": 15});
            let pods = json!({"type": "Pods", "value": 4, "periodSeconds": 15});
            scaling(behavior, "scaleUp", Some(0), json!([pods, percent]));
            scaling(behavior, "scaleDown", None, json!([percent]));
        }
    },
    validate: |object, faults| {
        let spec = &object["spec"];
        if let Some(min) = spec["minReplicas"].as_i64().filter(|min| *min < 1) {
            faults.invalid("spec.minReplicas", min, "must be greater than or equal to 1");
        }
        let max = spec["maxReplicas"].as_i64().unwrap_or(0);
        if max < 1 {
            faults.invalid("spec.maxReplicas", max, "must be greater than 0");
        }
        if spec["minReplicas"].as_i64().is_some_and(|min| max < min) {
            faults.invalid("spec.maxReplicas", max, "must be greater than or equal to `minReplicas`");
        }
        for field in ["kind", "name"] {
            let path = format!("spec.scaleTargetRef.{field}");
            match spec["scaleTargetRef"][field].as_str().unwrap_or_default() {
                "" => faults.required(&path, ""),
                text => faults.all_invalid(&path, text, names::path_segment(text)),
            }
        }
        for (at, metric) in meta::list_at(spec, &["metrics"]).iter().enumerate() {
            validate_metric(metric, &format!("spec.metrics[{at}]"), faults);
        }
        for way in ["scaleUp", "scaleDown"] {
            validate_scaling(&spec["behavior"][way], &format!("spec.behavior.{way}"), faults);
        }
    },
    validate_status: status::autoscaler,
    ..Strategy::PLAIN
};

fn scaling(behavior: &mut Map<String, Value>, way: &str, window: Option<u32>, policies: Value) {
    let rules = behavior.entry(way).or_insert_with(|| json!({}));
    let Some(rules) = rules.as_object_mut() else { return };
    if let Some(window) = window {
        default_to(rules, "stabilizationWindowSeconds", window);
    }
    default_to(rules, "selectPolicy", "Max");
    if rules.get("policies").and_then(Value::as_array).is_none_or(Vec::is_empty) {
        rules.insert("policies".into(), policies);
    }
}

const SOURCES: [(&str, &str); 5] = [
    ("ContainerResource", "containerResource"),
    ("External", "external"),
    ("Object", "object"),
    ("Pods", "pods"),
    ("Resource", "resource"),
];

fn validate_metric(metric: &Value, path: &str, faults: &mut Faults) {
    let kind = metric["type"].as_str().unwrap_or_default();
    let Some((_, wanted)) = SOURCES.iter().find(|(name, _)| *name == kind) else {
        match kind {
            "" => faults.required(&format!("{path}.type"), "must specify a metric source type"),
            _ => faults.one_of(metric, "type", path, &SOURCES.map(|(name, _)| name)),
        }
        return;
    };
    for (_, field) in SOURCES.iter().filter(|(_, field)| field != wanted && metric[*field].is_object()) {
        faults.forbidden(&format!("{path}.{field}"), "must populate the given metric source only");
    }
    let source = &metric[*wanted];
    let path = format!("{path}.{wanted}");
    if !source.is_object() {
        return faults.required(&path, "must populate information for the given metric source");
    }
    if matches!(kind, "Resource" | "ContainerResource") {
        if source["name"].as_str().unwrap_or_default().is_empty() {
            faults.required(&format!("{path}.name"), "must specify a resource name");
        }
        if kind == "ContainerResource" && source["container"].as_str().unwrap_or_default().is_empty() {
            faults.required(&format!("{path}.container"), "must specify a container");
        }
    } else if source["metric"]["name"].as_str().unwrap_or_default().is_empty() {
        faults.required(&format!("{path}.metric.name"), "must specify a metric name");
    }
    let target = &source["target"];
    faults.required_one_of(target, "type", &format!("{path}.target"), &["AverageValue", "Utilization", "Value"]);
    faults.positive(target, "averageUtilization", &format!("{path}.target"));
    for field in ["averageValue", "value"] {
        let number = target[field].as_str().and_then(|text| crate::quantity::Quantity::parse(text).ok());
        if number.is_some_and(|number| number.is_negative()) {
            faults.invalid(&format!("{path}.target.{field}"), target[field].clone(), "must be positive");
        }
    }
    let has = |field: &str| !target[field].is_null();
    let (missing, both) = match kind {
        "Resource" | "ContainerResource" => (
            (!has("averageUtilization") && !has("averageValue"))
                .then_some(("averageUtilization", "must set either a target raw value or a target utilization")),
            (has("averageUtilization") && has("averageValue"))
                .then_some(("averageValue", "may not set both a target raw value and a target utilization")),
        ),
        "Pods" => {
            ((!has("averageValue")).then_some(("averageValue", "must specify a positive target averageValue")), None)
        }
        _ => (
            (!has("value") && !has("averageValue"))
                .then_some(("averageValue", "must set either a target value for metric or a per-pod target")),
            (kind == "External" && has("value") && has("averageValue"))
                .then_some(("value", "may not set both a target value for metric and a per-pod target")),
        ),
    };
    if let Some((field, detail)) = missing {
        faults.required(&format!("{path}.target.{field}"), detail);
    }
    if let Some((field, detail)) = both {
        faults.forbidden(&format!("{path}.target.{field}"), detail);
    }
}

/// The longest that a scaling may look back, and a policy's period.
const WINDOW_SECS_MAX: i64 = 3600;
const PERIOD_SECS_MAX: i64 = 1800;

fn validate_scaling(rules: &Value, path: &str, faults: &mut Faults) {
    if !rules.is_object() {
        return;
    }
    faults.non_negative(rules, "stabilizationWindowSeconds", path);
    if let Some(secs) = rules["stabilizationWindowSeconds"].as_i64().filter(|secs| *secs > WINDOW_SECS_MAX) {
        let detail = format!("must be less than or equal to {WINDOW_SECS_MAX}");
        faults.invalid(&format!("{path}.stabilizationWindowSeconds"), secs, detail);
    }
    faults.one_of(rules, "selectPolicy", path, &["Disabled", "Max", "Min"]);
    let policies = meta::list_at(rules, &["policies"]);
    if policies.is_empty() {
        faults.required(&format!("{path}.policies"), "must specify at least one Policy");
    }
    for (at, policy) in policies.iter().enumerate() {
        let path = format!("{path}.policies[{at}]");
        faults.one_of(policy, "type", &path, &["Percent", "Pods"]);
        for field in ["value", "periodSeconds"] {
            match policy[field].as_i64() {
                None | Some(0) => faults.invalid(&format!("{path}.{field}"), 0, "must be greater than zero"),
                Some(number) if number < 0 => {
                    faults.invalid(&format!("{path}.{field}"), number, "must be greater than zero");
                }
                Some(_) => {}
            }
        }
        if let Some(secs) = policy["periodSeconds"].as_i64().filter(|secs| *secs > PERIOD_SECS_MAX) {
            let detail = format!("must be less than or equal to {PERIOD_SECS_MAX}");
            faults.invalid(&format!("{path}.periodSeconds"), secs, detail);
        }
    }
}

pub(super) const DISRUPTION_BUDGET: Strategy = Strategy {
    validate: |object, faults| {
        let spec = &object["spec"];
        if spec.get("minAvailable").is_some() && spec.get("maxUnavailable").is_some() {
            let detail = "minAvailable and maxUnavailable cannot be both set";
            faults.invalid("spec", spec.clone(), detail);
        }
        for field in ["minAvailable", "maxUnavailable"] {
            let path = format!("spec.{field}");
            match &spec[field] {
                Value::Number(number) if number.as_i64().is_some_and(|number| number < 0) => {
                    faults.invalid(&path, number.clone(), "must be greater than or equal to 0");
                }
                Value::String(text) => percent(text, &path, faults),
                _ => {}
            }
        }
        faults.label_selector(&spec["selector"], "spec.selector");
        faults.one_of(spec, "unhealthyPodEvictionPolicy", "spec", &["AlwaysAllow", "IfHealthyBudget"]);
    },
    generation: true,
    validate_status: status::disruption_budget,
    ..Strategy::PLAIN
};

/// A percentage of at most a hundred.
fn percent(text: &str, path: &str, faults: &mut Faults) {
    let digits =
        text.strip_suffix('%').filter(|rest| !rest.is_empty() && rest.bytes().all(|byte| byte.is_ascii_digit()));
    match digits {
        None => {
            let detail = "a valid percent string must be a numeric string followed by an ending '%' (e.g. '1%',  or '93%', \
                          regex used for validation is '[0-9]+%')";
            faults.push(FieldError::new(path, FaultKind::Invalid(text.into(), detail.into())));
        }
        Some(digits) if digits.parse::<u32>().map_or(true, |number| number > 100) => {
            faults.invalid(path, text, "must not be greater than 100%");
        }
        Some(_) => {}
    }
}
