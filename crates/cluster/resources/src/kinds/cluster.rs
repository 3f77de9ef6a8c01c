//! Namespace, Event, LimitRange, ResourceQuota, Lease, PriorityClass.

use serde_json::{Value, json};

use super::Strategy;
use super::rules::default_to;
use crate::{meta, names};

pub(super) const NAMESPACE: Strategy = Strategy {
    default: |object| {
        // Selectors rely on every namespace carrying its name as a label.
        let name = meta::name(object).to_owned();
        if !name.is_empty() {
            meta::object_at(object, &["metadata", "labels"]).insert("kubernetes.io/metadata.name".into(), name.into());
        }
    },
    prepare_create: |object| {
        object["status"] = json!({"phase": "Active"});
        let spec = meta::object_at(object, &["spec"]);
        let finalizers = spec.entry("finalizers").or_insert_with(|| json!([]));
        if let Some(list) = finalizers.as_array_mut()
            && !list.iter().any(|name| name == "kubernetes")
        {
            list.push("kubernetes".into());
        }
    },
    prepare_update: |new, old| {
        // spec.finalizers change through the finalize subresource only.
        new["spec"] = old["spec"].clone();
    },
    name: names::dns_label,
    ..Strategy::PLAIN
};

pub(super) const EVENT: Strategy = Strategy {
    validate: |object, faults| {
        let involved = object.get("involvedObject").or(object.get("regarding"));
        let namespace = involved.map_or("", |object| object["namespace"].as_str().unwrap_or_default());
        let own = meta::namespace(object);
        let fits = if namespace.is_empty() { own == "default" || own.is_empty() } else { namespace == own };
        if !(fits || namespace.is_empty() && own == "kube-system") {
            faults.invalid("involvedObject.namespace", namespace, "does not match event.namespace");
        }
    },
    create_on_update: true,
    ..Strategy::PLAIN
};

pub(super) const LIMIT_RANGE: Strategy = Strategy {
    default: |object| {
        let spec = meta::object_at(object, &["spec"]);
        for limit in super::rules::each(spec, "limits") {
            if limit.get("type").is_none_or(|kind| kind != "Container") {
                continue;
            }
            // The default request is the default limit, and that the maximum, where not said otherwise.
            if let Some(max) = limit.get("max").cloned() {
                fill(limit, "default", &max);
            }
            if let Some(default) = limit.get("default").cloned() {
                fill(limit, "defaultRequest", &default);
            }
            if let Some(min) = limit.get("min").cloned() {
                fill(limit, "defaultRequest", &min);
            }
        }
    },
    validate: |object, faults| {
        for (at, limit) in meta::list_at(object, &["spec", "limits"]).iter().enumerate() {
            if limit["type"].as_str().unwrap_or_default().is_empty() {
                faults.required(&format!("spec.limits[{at}].type"), "");
            }
        }
    },
    ..Strategy::PLAIN
};

fn fill(limit: &mut serde_json::Map<String, Value>, name: &str, from: &Value) {
    let to = limit.entry(name).or_insert_with(|| json!({}));
    if let (Some(to), Some(from)) = (to.as_object_mut(), from.as_object()) {
        for (key, value) in from {
            to.entry(key).or_insert_with(|| value.clone());
        }
    }
}

pub(super) const RESOURCE_QUOTA: Strategy = Strategy {
    validate: |object, faults| {
        for (name, value) in meta::map_at(object, &["spec", "hard"]) {
            let negative = value.as_str().and_then(|text| crate::quantity::Quantity::parse(text).ok());
            if negative.is_some_and(|quantity| quantity.is_negative()) {
                let path = format!("spec.hard[{name}]");
                faults.invalid(&path, value.clone(), "must be greater than or equal to 0");
            }
        }
    },
    validate_update: |new, old, faults| {
        faults.immutable(new["spec"].get("scopes"), old["spec"].get("scopes"), "spec.scopes");
    },
    ..Strategy::PLAIN
};

pub(super) const LEASE: Strategy = Strategy {
    validate: |object, faults| {
        faults.positive(&object["spec"], "leaseDurationSeconds", "spec");
        faults.non_negative(&object["spec"], "leaseTransitions", "spec");
    },
    create_on_update: true,
    unconditional_update: false,
    ..Strategy::PLAIN
};

/// The largest priority a user may give; more is the system's.
const PRIORITY_MAX: i64 = 1_000_000_000;

pub(super) const PRIORITY_CLASS: Strategy = Strategy {
    default: |object| {
        if let Some(map) = object.as_object_mut() {
            default_to(map, "preemptionPolicy", "PreemptLowerPriority");
            default_to(map, "value", 0);
        }
    },
    validate: |object, faults| {
        let name = meta::name(object);
        let system = matches!(name, "system-node-critical" | "system-cluster-critical");
        if name.starts_with("system-") && !system {
            faults.forbidden(
                "metadata.name",
                "priority class names with 'system-' prefix are reserved for system use only. error: ",
            );
        }
        if object["value"].as_i64().is_some_and(|value| value > PRIORITY_MAX) && !system {
            faults.forbidden("value", &format!("maximum allowed value of a user defined priority is {PRIORITY_MAX}"));
        }
    },
    validate_update: |new, old, faults| {
        if new["value"] != old["value"] {
            faults.forbidden("value", "may not be changed in an update.");
        }
        faults.immutable(new.get("preemptionPolicy"), old.get("preemptionPolicy"), "preemptionPolicy");
    },
    generation: true,
    ..Strategy::PLAIN
};
