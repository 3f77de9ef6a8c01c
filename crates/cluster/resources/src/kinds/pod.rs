//! Pods and pod templates.

use serde_json::{Value, json};

use super::rules::{Faults, spec};
use super::{Strategy, podspec, status};
use crate::{decode, meta};

pub(super) const POD: Strategy = Strategy {
    default: |pod| podspec::default(spec(pod)),
    prepare_create: |pod| {
        let class = qos_class(&pod["spec"]);
        pod["status"] = json!({"phase": "Pending", "qosClass": class});
        if pod["spec"]["schedulingGates"].as_array().is_some_and(|gates| !gates.is_empty()) {
            pod["status"]["conditions"] = json!([{"type": "PodScheduled", "status": "False", "reason": "SchedulingGated",
                "message": "Scheduling is blocked due to non-empty scheduling gates"}]);
        }
    },
    validate: |pod, faults| podspec::validate(&pod["spec"], "spec", faults),
    validate_update: only_some_fields_change,
    generation: true,
    graceful: true,
    validate_status: status::pod,
    ..Strategy::PLAIN
};

pub(super) const TEMPLATE: Strategy = Strategy {
    default: |object| {
        let spec = meta::object_at(object, &["template", "spec"]);
        podspec::default(spec);
    },
    validate: |object, faults| podspec::validate_template(&object["template"], "template", faults),
    generation: true,
    ..Strategy::PLAIN
};

/// Guaranteed: every container's requests equal its limits for cpu and memory. BestEffort: none has any.
fn qos_class(spec: &Value) -> &'static str {
    let mut any = false;
    let mut guaranteed = true;
    for (_, container) in podspec::containers(spec, "") {
        let resources = &container["resources"];
        for name in ["cpu", "memory"] {
            let (request, limit) = (resources["requests"].get(name), resources["limits"].get(name));
            let set = |value: Option<&Value>| value.is_some_and(|value| value != "0");
            any |= set(request) || set(limit);
            guaranteed &= set(limit) && (request.is_none() || request == limit);
        }
    }
    match (any, guaranteed) {
        (false, _) => "BestEffort",
        (true, true) => "Guaranteed",
        (true, false) => "Burstable",
    }
}

/// Of a pod's spec an update may change images, the deadline (only down), the grace period of a pod that is killed at
/// once, tolerations by adding, and scheduling gates by removing.
fn only_some_fields_change(new: &Value, old: &Value, faults: &mut Faults) {
    let mut masked = new["spec"].clone();
    let before = &old["spec"];
    for list in ["containers", "initContainers"] {
        let (now, then) = (masked[list].as_array().map_or(0, Vec::len), before[list].as_array().map_or(0, Vec::len));
        if now != then {
            faults.forbidden(&format!("spec.{list}"), "pod updates may not add or remove containers");
            return;
        }
        for at in 0..now {
            if masked[list][at]["image"].as_str().unwrap_or_default().is_empty() {
                faults.required(&format!("spec.{list}[{at}].image"), "");
            }
            masked[list][at]["image"] = before[list][at]["image"].clone();
        }
    }
    for field in
        ["activeDeadlineSeconds", "terminationGracePeriodSeconds", "schedulingGates", "nodeSelector", "affinity"]
    {
        let gated = before["schedulingGates"].as_array().is_some_and(|gates| !gates.is_empty());
        let free = match field {
            "nodeSelector" | "affinity" => gated,
            "schedulingGates" => {
                let gates = |spec: &Value| spec["schedulingGates"].as_array().cloned().unwrap_or_default();
                let was = gates(before);
                gates(&new["spec"]).iter().all(|gate| was.contains(gate))
            }
            "terminationGracePeriodSeconds" => {
                before[field].as_i64().is_some_and(|secs| secs < 0) && new["spec"][field] == 1
            }
            _ => match (new["spec"][field].as_i64(), before[field].as_i64()) {
                (Some(new), Some(old)) => new <= old,
                (Some(_), None) => true,
                (None, old) => old.is_none(),
            },
        };
        if free {
            restore(&mut masked, before, field);
        }
    }
    let (now, then) = (new["spec"]["tolerations"].as_array(), before["tolerations"].as_array());
    if then.into_iter().flatten().all(|toleration| now.is_some_and(|now| now.contains(toleration))) {
        restore(&mut masked, before, "tolerations");
    }
    if masked != *before {
        let detail = "pod updates may not change fields other than `spec.containers[*].image`,\
            `spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to existing \
            tolerations),`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)";
        faults.forbidden("spec", detail);
    }
}

/// Ephemeral containers are added; those that are there stay as they are, in any order.
pub fn ephemeral_containers_stay(new: &Value, old: &Value, faults: &mut Faults) {
    let path = ["spec", "ephemeralContainers"];
    let now = meta::list_at(new, &path);
    for was in meta::list_at(old, &path) {
        let name = was["name"].as_str().unwrap_or_default();
        let detail = match now.iter().find(|container| container["name"] == was["name"]) {
            None => format!("existing ephemeral containers {name:?} may not be removed\n"),
            Some(container) if container != was => {
                format!("existing ephemeral containers {name:?} may not be changed\n")
            }
            Some(_) => continue,
        };
        faults.forbidden("spec.ephemeralContainers", &detail);
    }
}

fn restore(masked: &mut Value, before: &Value, field: &str) {
    match before.get(field) {
        Some(value) => masked[field] = value.clone(),
        None => drop(masked.as_object_mut().map(|map| map.remove(field))),
    }
}

/// Sets a condition; its transition time moves only when its status changes.
pub fn conditions_set(object: &mut Value, kind: &str, status: &str, reason: &str, message: &str, now: jiff::Timestamp) {
    let stamp = decode::format_time(now, 0);
    let conditions = meta::object_at(object, &["status"]).entry("conditions").or_insert_with(|| json!([]));
    let Some(list) = conditions.as_array_mut() else { return };
    let mut fresh = json!({"type": kind, "status": status, "lastTransitionTime": stamp});
    for (key, text) in [("reason", reason), ("message", message)] {
        if !text.is_empty() {
            fresh[key] = text.into();
        }
    }
    match list.iter_mut().find(|condition| condition["type"] == kind) {
        Some(have) => {
            if have["status"] == status {
                fresh["lastTransitionTime"] = have["lastTransitionTime"].clone();
            }
            *have = fresh;
        }
        None => list.push(fresh),
    }
}

/// Ready and all containers of a pod, as `kubectl get pods` counts them.
pub fn ready_count(pod: &Value) -> (usize, usize) {
    let statuses = meta::list_at(pod, &["status", "containerStatuses"]);
    let ready = statuses.iter().filter(|status| status["ready"] == true).count();
    (ready, meta::list_at(pod, &["spec", "containers"]).len())
}
