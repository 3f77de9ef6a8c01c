//! Between the versions of a resource: the form stored and the form asked for.

use bytes::Bytes;
use resources::{Value, meta};

use crate::catalog::Resource;
use crate::codec;

/// Stored bytes in the version of `resource`; shared when that is the version stored.
pub fn to_version(stored: &Bytes, resource: &Resource) -> Bytes {
    if resource.is_stored_form() {
        return stored.clone();
    }
    if !differs(resource) {
        return codec::with_api_version(stored, &resource.stored_as.0, &resource.api_version());
    }
    let mut object = codec::decode(stored);
    from_stored(&mut object, resource);
    serde_json::to_vec(&object).expect("trees always encode").into()
}

/// The version's shape is another than the stored one's.
fn differs(resource: &Resource) -> bool {
    matches!(
        (resource.group.as_str(), resource.version.as_str(), resource.plural.as_str()),
        ("events.k8s.io", "v1", "events") | ("autoscaling", "v1", "horizontalpodautoscalers")
    )
}

const EVENT_FIELDS: [(&str, &str); 7] = [
    ("involvedObject", "regarding"),
    ("message", "note"),
    ("reportingComponent", "reportingController"),
    ("source", "deprecatedSource"),
    ("firstTimestamp", "deprecatedFirstTimestamp"),
    ("lastTimestamp", "deprecatedLastTimestamp"),
    ("count", "deprecatedCount"),
];

/// Turns the stored form into that of `resource`.
pub fn from_stored(object: &mut Value, resource: &Resource) {
    if resource.is_stored_form() {
        return;
    }
    object["apiVersion"] = resource.api_version().into();
    match (resource.group.as_str(), resource.version.as_str()) {
        ("events.k8s.io", _) => rename(object, EVENT_FIELDS.iter().copied()),
        ("autoscaling", "v1") => {
            let metrics = object["spec"].as_object_mut().and_then(|spec| spec.remove("metrics"));
            let mut rest = Vec::new();
            for metric in metrics.as_ref().and_then(Value::as_array).into_iter().flatten() {
                let target = &metric["resource"]["target"]["averageUtilization"];
                if metric["resource"]["name"] == "cpu" && target.is_number() {
                    object["spec"]["targetCPUUtilizationPercentage"] = target.clone();
                } else {
                    rest.push(metric.clone());
                }
            }
            if !rest.is_empty() {
                // What v1 has no field for travels in an annotation, so that nothing is lost on the way back.
                let text = Value::from(rest).to_string();
                meta::object_at(object, &["metadata", "annotations"])
                    .insert("autoscaling.alpha.kubernetes.io/metrics".into(), text.into());
            }
        }
        _ => {}
    }
}

/// Turns the form of `resource` into the stored one.
pub fn to_stored(object: &mut Value, resource: &Resource) {
    object["apiVersion"] = resource.stored_as.0.as_str().into();
    match (resource.group.as_str(), resource.version.as_str()) {
        ("events.k8s.io", _) => rename(object, EVENT_FIELDS.iter().map(|(stored, shown)| (*shown, *stored))),
        ("autoscaling", "v1") => {
            let mut metrics = Vec::new();
            let target = object["spec"].as_object_mut().and_then(|spec| spec.remove("targetCPUUtilizationPercentage"));
            if let Some(target) = target {
                metrics.push(serde_json::json!({"type": "Resource", "resource":
                    {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": target}}}));
            }
            let annotations = meta::object_at(object, &["metadata", "annotations"]);
            if let Some(Value::String(rest)) = annotations.remove("autoscaling.alpha.kubernetes.io/metrics")
                && let Ok(Value::Array(rest)) = serde_json::from_str(&rest)
            {
                metrics.extend(rest);
            }
            if annotations.is_empty() {
                meta::unset(object, "annotations");
            }
            if !metrics.is_empty() {
                object["spec"]["metrics"] = metrics.into();
            }
        }
        _ => {}
    }
}

fn rename<'a>(object: &mut Value, names: impl Iterator<Item = (&'a str, &'a str)>) {
    let Some(map) = object.as_object_mut() else { return };
    for (from, to) in names {
        if let Some(value) = map.remove(from) {
            map.insert(to.to_owned(), value);
        }
    }
}
