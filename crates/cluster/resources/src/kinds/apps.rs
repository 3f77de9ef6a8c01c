//! Workloads: Deployment, ReplicaSet, StatefulSet, DaemonSet, ReplicationController, ControllerRevision.

use serde_json::{Map, Value, json};

use super::rules::{Faults, default_to, each, spec, sub};
use super::{Strategy, podspec};
use crate::meta;
use crate::selector::LabelSelector;

pub(super) const DEPLOYMENT: Strategy = Strategy {
    default: |object| {
        let spec = spec(object);
        podspec::default_template(spec);
        default_to(spec, "replicas", 1);
        default_to(spec, "revisionHistoryLimit", 10);
        default_to(spec, "progressDeadlineSeconds", 600);
        let strategy = spec.entry("strategy").or_insert_with(|| json!({}));
        if let Some(strategy) = strategy.as_object_mut() {
            default_to(strategy, "type", "RollingUpdate");
            if strategy["type"] == "RollingUpdate" {
                let rolling = strategy.entry("rollingUpdate").or_insert_with(|| json!({}));
                if let Some(rolling) = rolling.as_object_mut() {
                    default_to(rolling, "maxUnavailable", "25%");
                    default_to(rolling, "maxSurge", "25%");
                }
            }
        }
    },
    validate: |object, faults| {
        let spec = &object["spec"];
        replicated(spec, faults);
        faults.required_one_of(&spec["strategy"], "type", "spec.strategy", &["Recreate", "RollingUpdate"]);
        if spec["strategy"]["type"] == "Recreate" && spec["strategy"].get("rollingUpdate").is_some() {
            let detail = "may not be specified when strategy `type` is 'Recreate'";
            faults.forbidden("spec.strategy.rollingUpdate", detail);
        }
        let rolling = &spec["strategy"]["rollingUpdate"];
        for name in ["maxUnavailable", "maxSurge"] {
            int_or_percent(&rolling[name], &format!("spec.strategy.rollingUpdate.{name}"), faults);
        }
        if is_zero(&rolling["maxUnavailable"]) && is_zero(&rolling["maxSurge"]) {
            let detail = "may not be 0 when `maxSurge` is 0";
            faults.invalid("spec.strategy.rollingUpdate.maxUnavailable", rolling["maxUnavailable"].clone(), detail);
        }
        faults.non_negative(spec, "revisionHistoryLimit", "spec");
        faults.non_negative(spec, "minReadySeconds", "spec");
        faults.non_negative(spec, "progressDeadlineSeconds", "spec");
        always_restarts(spec, faults);
    },
    validate_update: selector_stays,
    generation: true,
    ..Strategy::PLAIN
};

pub(super) const REPLICA_SET: Strategy = Strategy {
    default: |object| {
        let spec = spec(object);
        podspec::default_template(spec);
        default_to(spec, "replicas", 1);
    },
    validate: |object, faults| {
        replicated(&object["spec"], faults);
        faults.non_negative(&object["spec"], "minReadySeconds", "spec");
        always_restarts(&object["spec"], faults);
    },
    validate_update: selector_stays,
    generation: true,
    ..Strategy::PLAIN
};

pub(super) const STATEFUL_SET: Strategy = Strategy {
    default: |object| {
        let spec = spec(object);
        podspec::default_template(spec);
        default_to(spec, "replicas", 1);
        default_to(spec, "revisionHistoryLimit", 10);
        default_to(spec, "podManagementPolicy", "OrderedReady");
        let strategy = spec.entry("updateStrategy").or_insert_with(|| json!({}));
        if let Some(strategy) = strategy.as_object_mut() {
            default_to(strategy, "type", "RollingUpdate");
            if strategy["type"] == "RollingUpdate" {
                let rolling = strategy.entry("rollingUpdate").or_insert_with(|| json!({}));
                if let Some(rolling) = rolling.as_object_mut() {
                    default_to(rolling, "partition", 0);
                }
            }
        }
        let retention = spec.entry("persistentVolumeClaimRetentionPolicy").or_insert_with(|| json!({}));
        if let Some(retention) = retention.as_object_mut() {
            default_to(retention, "whenDeleted", "Retain");
            default_to(retention, "whenScaled", "Retain");
        }
        for claim in each(spec, "volumeClaimTemplates") {
            default_to(claim, "apiVersion", "v1");
            default_to(claim, "kind", "PersistentVolumeClaim");
            if let Some(spec) = sub(claim, "spec") {
                default_to(spec, "volumeMode", "Filesystem");
            }
            claim.insert("status".into(), json!({"phase": "Pending"}));
        }
    },
    validate: |object, faults| {
        let spec = &object["spec"];
        replicated(spec, faults);
        faults.required_one_of(spec, "podManagementPolicy", "spec", &["OrderedReady", "Parallel"]);
        faults.required_one_of(&spec["updateStrategy"], "type", "spec.updateStrategy", &["OnDelete", "RollingUpdate"]);
        always_restarts(spec, faults);
    },
    validate_update: |new, old, faults| {
        let free = [
            "replicas",
            "ordinals",
            "template",
            "updateStrategy",
            "revisionHistoryLimit",
            "minReadySeconds",
            "persistentVolumeClaimRetentionPolicy",
        ];
        let fixed = |object: &Value| -> Map<String, Value> {
            let fields = object["spec"].as_object().into_iter().flatten();
            fields
                .filter(|(key, _)| !free.contains(&key.as_str()))
                .map(|(key, value)| (key.clone(), value.clone()))
                .collect()
        };
        if fixed(new) != fixed(old) {
            let detail = "updates to statefulset spec for fields other than 'replicas', 'ordinals', 'template', \
                'updateStrategy', 'revisionHistoryLimit', 'persistentVolumeClaimRetentionPolicy' and \
                'minReadySeconds' are forbidden";
            faults.forbidden("spec", detail);
        }
    },
    generation: true,
    ..Strategy::PLAIN
};

pub(super) const DAEMON_SET: Strategy = Strategy {
    default: |object| {
        let spec = spec(object);
        podspec::default_template(spec);
        default_to(spec, "revisionHistoryLimit", 10);
        let strategy = spec.entry("updateStrategy").or_insert_with(|| json!({}));
        if let Some(strategy) = strategy.as_object_mut() {
            default_to(strategy, "type", "RollingUpdate");
            if strategy["type"] == "RollingUpdate" {
                let rolling = strategy.entry("rollingUpdate").or_insert_with(|| json!({}));
                if let Some(rolling) = rolling.as_object_mut() {
                    default_to(rolling, "maxUnavailable", 1);
                    default_to(rolling, "maxSurge", 0);
                }
            }
        }
    },
    validate: |object, faults| {
        let spec = &object["spec"];
        selects_its_template(spec, faults);
        podspec::validate_template(&spec["template"], "spec.template", faults);
        faults.required_one_of(&spec["updateStrategy"], "type", "spec.updateStrategy", &["OnDelete", "RollingUpdate"]);
        faults.non_negative(spec, "minReadySeconds", "spec");
        always_restarts(spec, faults);
    },
    validate_update: selector_stays,
    generation: true,
    ..Strategy::PLAIN
};

pub(super) const REPLICATION_CONTROLLER: Strategy = Strategy {
    default: |object| {
        let labels = object["spec"]["template"]["metadata"]["labels"].clone();
        if labels.is_object() {
            // The controller and its selector take the template's labels when they have none.
            let spec = spec(object);
            default_to(spec, "selector", labels.clone());
            if object["metadata"].get("labels").is_none() {
                meta::set(object, "labels", labels);
            }
        }
        let spec = spec(object);
        podspec::default_template(spec);
        default_to(spec, "replicas", 1);
    },
    validate: |object, faults| {
        let spec = &object["spec"];
        faults.non_negative(spec, "replicas", "spec");
        if spec["selector"].as_object().is_none_or(Map::is_empty) {
            faults.required("spec.selector", "");
        }
        podspec::validate_template(&spec["template"], "spec.template", faults);
        always_restarts(spec, faults);
    },
    generation: true,
    ..Strategy::PLAIN
};

pub(super) const CONTROLLER_REVISION: Strategy = Strategy {
    validate: |object, faults| {
        if object["revision"].as_i64().is_some_and(|revision| revision < 0) {
            faults.invalid("revision", object["revision"].clone(), "must be greater than or equal to 0");
        }
    },
    validate_update: |new, old, faults| faults.immutable(new.get("data"), old.get("data"), "data"),
    ..Strategy::PLAIN
};

fn replicated(spec: &Value, faults: &mut Faults) {
    faults.non_negative(spec, "replicas", "spec");
    selects_its_template(spec, faults);
    podspec::validate_template(&spec["template"], "spec.template", faults);
}

fn selects_its_template(spec: &Value, faults: &mut Faults) {
    let selector = &spec["selector"];
    if selector.is_null() {
        faults.required("spec.selector", "");
        // Upstream goes on to find that nothing is selected.
        faults.invalid(
            "spec.template.metadata.labels",
            spec["template"]["metadata"]["labels"].clone(),
            "`selector` does not match template `labels`",
        );
        return;
    }
    faults.label_selector(selector, "spec.selector");
    if selector.as_object().is_some_and(Map::is_empty) {
        faults.invalid("spec.selector", selector.clone(), "empty selector is invalid for deployment");
        return;
    }
    let labels = &spec["template"]["metadata"]["labels"];
    let selects = LabelSelector::from_object(selector)
        .is_ok_and(|selector| selector.matches(&|key: &str| labels.get(key).and_then(Value::as_str)));
    if !selects {
        faults.invalid("spec.template.metadata.labels", labels.clone(), "`selector` does not match template `labels`");
    }
}

fn always_restarts(spec: &Value, faults: &mut Faults) {
    let pod = &spec["template"]["spec"];
    if pod["restartPolicy"] != "Always" && pod["restartPolicy"].is_string() {
        let value = pod["restartPolicy"].clone();
        let error = crate::FieldError::unsupported("spec.template.spec.restartPolicy", value, &["Always"]);
        faults.push(error);
    }
    if pod["activeDeadlineSeconds"].is_number() {
        faults.forbidden(
            "spec.template.spec.activeDeadlineSeconds",
            "activeDeadlineSeconds in ReplicaSet is not Supported",
        );
    }
}

fn selector_stays(new: &Value, old: &Value, faults: &mut Faults) {
    faults.immutable(new["spec"].get("selector"), old["spec"].get("selector"), "spec.selector");
}

fn is_zero(value: &Value) -> bool {
    *value == 0 || *value == "0%" || *value == "0"
}

fn int_or_percent(value: &Value, path: &str, faults: &mut Faults) {
    match value {
        Value::Number(number) if number.as_i64().is_some_and(|number| number < 0) => {
            faults.invalid(path, value.clone(), "must be greater than or equal to 0");
        }
        Value::String(text) => {
            let digits = text
                .strip_suffix('%')
                .filter(|digits| !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit()));
            if digits.is_none() {
                let detail = "a valid percent string must be a numeric string followed by an ending '%' (e.g. '1%',  or \
                    '93%', regex used for validation is '[0-9]+%')";
                faults.invalid(path, text.as_str(), detail);
            }
        }
        _ => {}
    }
}
