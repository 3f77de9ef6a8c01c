//! What controllers need to know about pods, and how they make them.

use std::time::Duration;

use cache::{Key, Kind, View, Write};
use jiff::Timestamp;
use resources::selector::LabelSelector;
use resources::{Value, meta};
use serde_json::json;

/// Neither ended nor told to end.
pub fn is_active(pod: &Value) -> bool {
    !meta::is_terminating(pod) && !is_ended(pod)
}

pub fn is_ended(pod: &Value) -> bool {
    matches!(meta::str_at(pod, &["status", "phase"]), "Succeeded" | "Failed")
}

pub fn condition<'a>(object: &'a Value, kind: &str) -> Option<&'a Value> {
    meta::list_at(object, &["status", "conditions"]).iter().find(|condition| condition["type"] == kind)
}

pub fn is_ready(pod: &Value) -> bool {
    condition(pod, "Ready").is_some_and(|condition| condition["status"] == "True")
}

pub fn time(value: &Value) -> Option<Timestamp> {
    value.as_str().and_then(|text| text.parse().ok())
}

/// Ready for at least `min_ready_secs`; or when it will be, if nothing happens.
pub fn available(pod: &Value, min_ready_secs: i64, now: Timestamp) -> Result<(), Option<Duration>> {
    if !is_ready(pod) {
        return Err(None);
    }
    if min_ready_secs == 0 {
        return Ok(());
    }
    let since = condition(pod, "Ready").and_then(|condition| time(&condition["lastTransitionTime"])).ok_or(None)?;
    let left = min_ready_secs - now.duration_since(since).as_secs();
    if left <= 0 { Ok(()) } else { Err(Some(Duration::from_secs(left.unsigned_abs()))) }
}

/// `metadata.ownerReferences` for what this object controls.
pub fn owner_reference(kind: Kind, owner: &Value) -> Value {
    json!([{"apiVersion": kind.api_version(), "kind": kind.as_str(), "name": meta::name(owner), "uid": meta::uid(owner),
        "controller": true, "blockOwnerDeletion": true}])
}

/// A pod from a template.
pub fn from_template(kind: Kind, owner: &Value, template: &Value, name: &str) -> Value {
    let mut pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name,
        "namespace": meta::namespace(owner), "ownerReferences": owner_reference(kind, owner)},
        "spec": template["spec"]});
    for field in ["labels", "annotations", "finalizers"] {
        if let Some(value) = meta::at(template, &["metadata", field]) {
            pod["metadata"][field] = value.clone();
        }
    }
    pod
}

/// The name of a pod that is one of many: as `generateName` would make it.
pub fn one_of_many(owner: &Value, suffix: &str) -> (String, String) {
    let base: String = format!("{}-", meta::name(owner)).chars().take(58).collect();
    (format!("{base}{suffix}"), base)
}

/// A selector that selects something; none matches nothing.
pub fn selector(object: &Value) -> Option<LabelSelector> {
    let selector = meta::at(object, &["spec", "selector"]).filter(|selector| !selector.is_null())?;
    // A ReplicationController's is a plain map of labels.
    let plain = selector.get("matchLabels").is_none() && selector.get("matchExpressions").is_none();
    let wrapped = plain.then(|| json!({"matchLabels": selector}));
    LabelSelector::from_object(wrapped.as_ref().unwrap_or(selector)).ok().filter(|selector| !selector.is_empty())
}

/// The controller of an object.
pub fn controller(object: &Value) -> Option<meta::Owner> {
    meta::owners(object).into_iter().find(|owner| owner.controller)
}

/// The key of the controller of `kind`, if that is what controls the object.
pub fn controller_key(object: &Value, kind: Kind) -> Option<Key> {
    let owner = controller(object).filter(|owner| owner.kind == kind.as_str())?;
    Some(Key::new(meta::namespace(object), owner.name))
}

/// Keys of the owners that an object concerns: its controller, or those whose selector an orphan matches.
pub fn owner_keys(view: &View, kind: Kind, object: &Value) -> Vec<Key> {
    if let Some(owner) = controller(object) {
        let key = Key::new(meta::namespace(object), &owner.name);
        return if owner.kind == kind.as_str() { vec![key] } else { Vec::new() };
    }
    view.in_namespace(kind, meta::namespace(object))
        .filter(|owner| selector(owner).is_some_and(|selector| selector.matches_object(object)))
        .map(|owner| Key::of(owner))
        .collect()
}

/// Objects of `kind` that belong to `owner` by uid; and writes that take in orphans its selector matches and let go of what
/// it matches no more.
pub fn claim<'a>(
    view: &'a View,
    kind: Kind,
    owner_kind: Kind,
    owner: &Value,
    writes: &mut Vec<Write>,
) -> Vec<&'a std::sync::Arc<Value>> {
    let Some(selector) = selector(owner) else { return Vec::new() };
    let leaving = meta::is_terminating(owner);
    let mut claimed = Vec::new();
    for object in view.owned(kind, meta::uid(owner)) {
        if selector.matches_object(object) {
            claimed.push(object);
        } else if !meta::is_terminating(object) && !leaving {
            let others: Vec<Value> = meta::list_at(object, &["metadata", "ownerReferences"])
                .iter()
                .filter(|reference| reference["uid"] != meta::uid(owner))
                .cloned()
                .collect();
            let patch = json!({"metadata": {"uid": meta::uid(object), "ownerReferences": others}});
            writes.push(Write::Merge { kind, key: Key::of(object), sub: "", patch });
        }
    }
    if leaving {
        return claimed;
    }
    for object in view.orphans(kind, meta::namespace(owner)) {
        if !meta::is_terminating(object) && !is_ended(object) && selector.matches_object(object) {
            let mut references = meta::list_at(object, &["metadata", "ownerReferences"]).to_vec();
            references.extend(owner_reference(owner_kind, owner).as_array().into_iter().flatten().cloned());
            let patch = json!({"metadata": {"uid": meta::uid(object), "ownerReferences": references}});
            writes.push(Write::Merge { kind, key: Key::of(object), sub: "", patch });
            // Counted at once: else one too many would be made before the view shows it.
            claimed.push(object);
        }
    }
    claimed
}

/// `status` of an object, unless it is that already.
pub fn status_write(kind: Kind, object: &Value, status: Value) -> Option<Write> {
    if object["status"] == status {
        return None;
    }
    let mut changed = object.clone();
    changed["status"] = status;
    Some(Write::Status(kind, changed))
}

/// Sorted so that those to be ended first come first: not assigned, not running, not ready, cheap, crowded, young.
pub fn rank_for_deletion<'a>(pods: &mut [&'a std::sync::Arc<Value>], together: impl Fn(&'a Value) -> usize) {
    pods.sort_by_cached_key(|pod| {
        let phase = match meta::str_at(pod, &["status", "phase"]) {
            "Running" => 2,
            "Unknown" => 1,
            _ => 0,
        };
        let cost: i64 = meta::str_at(pod, &["metadata", "annotations", "controller.kubernetes.io/pod-deletion-cost"])
            .parse()
            .unwrap_or(0);
        let ready_at = condition(pod, "Ready").and_then(|ready| time(&ready["lastTransitionTime"]));
        let restarts: i64 = meta::list_at(pod, &["status", "containerStatuses"])
            .iter()
            .filter_map(|status| status["restartCount"].as_i64())
            .max()
            .unwrap_or(0);
        (
            !meta::str_at(pod, &["spec", "nodeName"]).is_empty(),
            phase,
            is_ready(pod),
            cost,
            std::cmp::Reverse(together(pod)),
            std::cmp::Reverse(ready_at),
            std::cmp::Reverse(restarts),
            std::cmp::Reverse(meta::get(pod, "creationTimestamp").to_owned()),
            meta::name(pod).to_owned(),
        )
    });
}

/// `IntOrString`: a number, or a percentage of `of`.
pub fn share(value: &Value, of: i64, round_up: bool) -> i64 {
    if let Some(number) = value.as_i64() {
        return number;
    }
    let percent: i64 = value.as_str().and_then(|text| text.trim_end_matches('%').parse().ok()).unwrap_or(0);
    let exact = percent * of;
    if round_up { exact.div_euclid(100) + i64::from(exact.rem_euclid(100) != 0) } else { exact.div_euclid(100) }
}
