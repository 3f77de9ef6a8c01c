//! Workloads: Deployment, ReplicaSet, StatefulSet, DaemonSet, ReplicationController, ControllerRevision.

use serde_json::{Map, Value, json};

use super::rules::{Faults, default_to, each, spec, sub};
use super::{Strategy, podspec, status};
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
        replicated(spec, "deployment", faults);
        faults.required_one_of(&spec["strategy"], "type", "spec.strategy", &["Recreate", "RollingUpdate"]);
        if spec["strategy"]["type"] == "Recreate" && spec["strategy"].get("rollingUpdate").is_some() {
            let detail = "may not be specified when strategy `type` is 'Recreate'";
            faults.forbidden("spec.strategy.rollingUpdate", detail);
        }
        let rolling = &spec["strategy"]["rollingUpdate"];
        for name in ["maxUnavailable", "maxSurge"] {
            int_or_percent(&rolling[name], &format!("spec.strategy.rollingUpdate.{name}"), faults);
        }
        at_most_all(&rolling["maxUnavailable"], "spec.strategy.rollingUpdate.maxUnavailable", faults);
        if is_zero(&rolling["maxUnavailable"]) && is_zero(&rolling["maxSurge"]) {
            let detail = "may not be 0 when `maxSurge` is 0";
            faults.invalid("spec.strategy.rollingUpdate.maxUnavailable", rolling["maxUnavailable"].clone(), detail);
        }
        faults.non_negative(spec, "revisionHistoryLimit", "spec");
        faults.non_negative(spec, "minReadySeconds", "spec");
        faults.non_negative(spec, "progressDeadlineSeconds", "spec");
        let number = |field: &str| spec[field].as_i64().unwrap_or(0);
        if spec["progressDeadlineSeconds"].is_number() && number("progressDeadlineSeconds") <= number("minReadySeconds")
        {
            let value = number("progressDeadlineSeconds");
            faults.invalid("spec.progressDeadlineSeconds", value, "must be greater than minReadySeconds");
        }
        always_restarts(spec, "ReplicaSet", faults);
    },
    validate_update: selector_stays,
    validate_status: status::deployment,
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
        replicated(&object["spec"], "deployment", faults);
        faults.non_negative(&object["spec"], "minReadySeconds", "spec");
        always_restarts(&object["spec"], "ReplicaSet", faults);
    },
    validate_update: selector_stays,
    validate_status: status::replica_set,
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
        // Its pods have the volumes of its claims.
        let mut with_claims = object["spec"].clone();
        let claims = meta::list_at(&object["spec"], &["volumeClaimTemplates"]).iter().map(meta::name);
        let mut volumes = meta::list_at(&with_claims, &["template", "spec", "volumes"]).to_vec();
        for name in claims {
            if !volumes.iter().any(|volume| volume["name"] == name) {
                volumes.push(json!({"name": name, "emptyDir": {}}));
            }
        }
        if !volumes.is_empty() {
            with_claims["template"]["spec"]["volumes"] = volumes.into();
        }
        let spec = &with_claims;
        faults.required_one_of(spec, "podManagementPolicy", "spec", &["OrderedReady", "Parallel"]);
        let strategy = &spec["updateStrategy"];
        faults.required_one_of(strategy, "type", "spec.updateStrategy", &["OnDelete", "RollingUpdate"]);
        let rolling = &strategy["rollingUpdate"];
        if strategy["type"] == "OnDelete" && rolling.is_object() {
            let detail = "only allowed for updateStrategy 'RollingUpdate'";
            faults.invalid("spec.updateStrategy.rollingUpdate", rolling.clone(), detail);
        }
        faults.non_negative(rolling, "partition", "spec.updateStrategy.rollingUpdate");
        let path = "spec.updateStrategy.rollingUpdate.maxUnavailable";
        int_or_percent(&rolling["maxUnavailable"], path, faults);
        at_most_all(&rolling["maxUnavailable"], path, faults);
        if rolling.get("maxUnavailable").is_some_and(is_zero) {
            faults.invalid(path, rolling["maxUnavailable"].clone(), "cannot be 0");
        }
        let retention = &spec["persistentVolumeClaimRetentionPolicy"];
        for field in ["whenDeleted", "whenScaled"] {
            faults.one_of(retention, field, "spec.persistentVolumeClaimRetentionPolicy", &["Delete", "Retain"]);
        }
        for field in ["minReadySeconds", "revisionHistoryLimit"] {
            faults.non_negative(spec, field, "spec");
        }
        faults.non_negative(&spec["ordinals"], "start", "spec.ordinals");
        replicated(spec, "statefulset", faults);
        always_restarts(spec, "StatefulSet", faults);
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
    validate_status: status::stateful_set,
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
        selects_its_template(spec, "daemonset", faults);
        podspec::validate_template(&spec["template"], "spec.template", faults);
        always_restarts(spec, "DaemonSet", faults);
        faults.non_negative(spec, "minReadySeconds", "spec");
        let strategy = &spec["updateStrategy"];
        faults.one_of(strategy, "type", "spec.updateStrategy", &["OnDelete", "RollingUpdate"]);
        if strategy["type"] == "RollingUpdate" {
            let rolling = &strategy["rollingUpdate"];
            let path = |name: &str| format!("spec.updateStrategy.rollingUpdate.{name}");
            for name in ["maxUnavailable", "maxSurge"] {
                int_or_percent(&rolling[name], &path(name), faults);
                at_most_all(&rolling[name], &path(name), faults);
            }
            match (is_zero(&rolling["maxUnavailable"]), is_zero(&rolling["maxSurge"])) {
                (true, true) => {
                    let value = rolling["maxUnavailable"].clone();
                    faults.invalid(&path("maxUnavailable"), value, "cannot be 0 when maxSurge is 0");
                }
                (false, false) => {
                    let detail = "may not be set when maxUnavailable is non-zero";
                    faults.invalid(&path("maxSurge"), rolling["maxSurge"].clone(), detail);
                }
                _ => {}
            }
        }
        faults.non_negative(spec, "revisionHistoryLimit", "spec");
    },
    validate_update: selector_stays,
    validate_status: status::daemon_set,
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
        faults.non_negative(spec, "minReadySeconds", "spec");
        if spec["selector"].as_object().is_none_or(Map::is_empty) {
            faults.required("spec.selector", "");
        }
        let labels = &spec["template"]["metadata"]["labels"];
        let fits = |(key, value): (&String, &Value)| labels.get(key) == Some(value);
        if !spec["selector"].as_object().into_iter().flatten().all(fits) {
            let detail = "`selector` does not match template `labels`";
            faults.invalid("spec.template.metadata.labels", labels.clone(), detail);
        }
        podspec::validate_template(&spec["template"], "spec.template", faults);
        always_restarts(spec, "ReplicationController", faults);
    },
    validate_status: status::replica_set,
    generation: true,
    ..Strategy::PLAIN
};

pub(super) const CONTROLLER_REVISION: Strategy = Strategy {
    validate: |object, faults| {
        if object.get("data").is_none() {
            faults.required("data", "data is mandatory");
        }
        if object["revision"].as_i64().is_some_and(|revision| revision < 0) {
            faults.invalid("revision", object["revision"].clone(), "must be greater than or equal to 0");
        }
    },
    validate_update: |new, old, faults| faults.immutable(new.get("data"), old.get("data"), "data"),
    ..Strategy::PLAIN
};

fn replicated(spec: &Value, kind: &str, faults: &mut Faults) {
    faults.non_negative(spec, "replicas", "spec");
    selects_its_template(spec, kind, faults);
    podspec::validate_template(&spec["template"], "spec.template", faults);
}

/// `kind` is whose selector upstream says it is, where it selects nothing.
fn selects_its_template(spec: &Value, kind: &str, faults: &mut Faults) {
    let selector = &spec["selector"];
    if selector.is_null() {
        if kind != "daemonset" {
            faults.required("spec.selector", "");
        }
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
        faults.invalid("spec.selector", selector.clone(), format!("empty selector is invalid for {kind}"));
        return;
    }
    let labels = &spec["template"]["metadata"]["labels"];
    let selects = LabelSelector::from_object(selector)
        .is_ok_and(|selector| selector.matches(&|key: &str| labels.get(key).and_then(Value::as_str)));
    if !selects {
        faults.invalid("spec.template.metadata.labels", labels.clone(), "`selector` does not match template `labels`");
    }
}

fn always_restarts(spec: &Value, kind: &str, faults: &mut Faults) {
    let pod = &spec["template"]["spec"];
    if pod["restartPolicy"] != "Always" && pod["restartPolicy"].is_string() {
        let value = pod["restartPolicy"].clone();
        let error = crate::FieldError::unsupported("spec.template.spec.restartPolicy", value, &["Always"]);
        faults.push(error);
    }
    if pod["activeDeadlineSeconds"].is_number() {
        let detail = format!("activeDeadlineSeconds in {kind} is not Supported");
        faults.forbidden("spec.template.spec.activeDeadlineSeconds", &detail);
    }
}

fn selector_stays(new: &Value, old: &Value, faults: &mut Faults) {
    faults.immutable(new["spec"].get("selector"), old["spec"].get("selector"), "spec.selector");
}

fn is_zero(value: &Value) -> bool {
    *value == 0 || *value == "0%" || *value == "0"
}

fn at_most_all(value: &Value, path: &str, faults: &mut Faults) {
    let percent = value.as_str().and_then(|text| text.strip_suffix('%')).and_then(|digits| digits.parse::<u64>().ok());
    if percent.is_some_and(|percent| percent > 100) {
        faults.invalid(path, value.clone(), "must not be greater than 100%");
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pods_of_a_set_mount_the_claims_of_its_templates() {
        let container = json!({"name": "c", "image": "i", "volumeMounts": [{"name": "data", "mountPath": "/data"}]});
        let mut set = json!({"metadata": {"name": "db"}, "spec": {"selector": {"matchLabels": {"app": "db"}}, "serviceName": "db",
            "template": {"metadata": {"labels": {"app": "db"}}, "spec": {"containers": [container]}},
            "volumeClaimTemplates": [{"metadata": {"name": "data"}, "spec": {"accessModes": ["ReadWriteOnce"]}}]}});
        (STATEFUL_SET.default)(&mut set);
        let found = |set: &Value| {
            let mut faults = Faults(Vec::new());
            (STATEFUL_SET.validate)(set, &mut faults);
            faults.0.iter().map(ToString::to_string).collect::<Vec<_>>()
        };
        assert_eq!(found(&set), Vec::<String>::new());
        set["spec"]["volumeClaimTemplates"][0]["metadata"]["name"] = "other".into();
        assert_eq!(found(&set).len(), 1);
    }
}
