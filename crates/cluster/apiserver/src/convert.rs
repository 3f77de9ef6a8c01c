//! Between the versions of a resource: the form stored and the form asked for.

use std::time::Duration;

use bytes::Bytes;
use resources::kinds::devices::beta;
use resources::{Status, Value, meta};
use serde_json::json;

use crate::admission::hooks::Client;
use crate::admission::webhook;
use crate::api::{Api, Outcome, new_uid};
use crate::catalog::Resource;
use crate::codec;

/// Stored objects in the version of `resource`. Where a definition names a webhook for it, that is asked once for all of
/// them.
pub async fn show_all(api: &Api, stored: Vec<Bytes>, resource: &Resource) -> Outcome<Vec<Bytes>> {
    let Some(converter) = converter(resource) else {
        return Ok(stored.into_iter().map(|bytes| to_version(&bytes, resource)).collect());
    };
    let wanted = resource.api_version();
    let head = format!("{{\"apiVersion\":{}", Value::from(wanted.as_str()));
    let others: Vec<usize> = (0..stored.len()).filter(|at| !stored[*at].starts_with(head.as_bytes())).collect();
    if others.is_empty() {
        return Ok(stored);
    }
    let objects = others.iter().map(|at| codec::decode(&stored[*at])).collect();
    let converted = ask(api, converter, &wanted, objects).await?;
    let mut out = stored;
    for (at, object) in others.into_iter().zip(converted) {
        out[at] = serde_json::to_vec(&object).expect("trees always encode").into();
    }
    Ok(out)
}

/// Turns a stored object into the version of `resource`.
pub async fn show_value(api: &Api, object: &mut Value, resource: &Resource) -> Outcome<()> {
    let wanted = resource.api_version();
    match converter(resource).filter(|_| object["apiVersion"] != wanted.as_str()) {
        Some(converter) => one(api, converter, &wanted, object).await,
        None => {
            from_stored(object, resource);
            Ok(())
        }
    }
}

/// Turns an object of the version of `resource` into the one that is stored.
pub async fn store_value(api: &Api, object: &mut Value, resource: &Resource) -> Outcome<()> {
    match converter(resource).filter(|_| !resource.is_stored_form()) {
        Some(converter) => one(api, converter, &resource.stored_as.0, object).await,
        None => {
            to_stored(object, resource);
            Ok(())
        }
    }
}

fn converter(resource: &Resource) -> Option<&Value> {
    resource.custom.as_ref()?.converter.as_ref()
}

async fn one(api: &Api, converter: &Value, wanted: &str, object: &mut Value) -> Outcome<()> {
    let converted = ask(api, converter, wanted, vec![object.take()]).await?;
    *object = converted.into_iter().next().expect("as many come back as were sent");
    Ok(())
}

/// Asks a conversion webhook. Names, uids and everything else in metadata but labels and annotations stay as they were.
async fn ask(api: &Api, converter: &Value, wanted: &str, objects: Vec<Value>) -> Outcome<Vec<Value>> {
    const PATIENCE: Duration = Duration::from_secs(30);
    let uid = new_uid();
    let review = json!({"kind": "ConversionReview", "apiVersion": "apiextensions.k8s.io/v1",
        "request": {"uid": uid, "desiredAPIVersion": wanted, "objects": objects}});
    let failed = |why: String| Status::internal(format!("conversion webhook to {wanted} failed: {why}"));
    let answer = webhook::ask(api, &Client::read(converter), &review, PATIENCE).await.map_err(failed)?;
    let response = &answer["response"];
    if response["uid"] != uid.as_str() {
        return Err(failed("the answer is to another question".into()));
    }
    if response["result"]["status"] != "Success" {
        let said = response["result"]["message"].as_str().unwrap_or("without explanation");
        return Err(failed(said.to_owned()));
    }
    let converted = meta::list_at(response, &["convertedObjects"]);
    if converted.len() != objects.len() {
        return Err(failed(format!("{} objects were sent and {} came back", objects.len(), converted.len())));
    }
    let mut out = Vec::with_capacity(objects.len());
    for (before, after) in objects.into_iter().zip(converted) {
        let mut after = after.clone();
        if after["apiVersion"] != wanted || after["kind"] != before["kind"] {
            return Err(failed(format!("an object came back as {} {}", after["apiVersion"], after["kind"])));
        }
        let mut metadata = before["metadata"].clone();
        for field in ["labels", "annotations"] {
            match after["metadata"].get(field) {
                Some(value) => metadata[field] = value.clone(),
                None => drop(metadata.as_object_mut().map(|map| map.remove(field))),
            }
        }
        after["metadata"] = metadata;
        out.push(after);
    }
    Ok(out)
}

/// Stored bytes in the version of `resource`; shared when that is the version stored.
pub fn to_version(stored: &Bytes, resource: &Resource) -> Bytes {
    if resource.is_stored_form() && resource.custom.is_none() {
        return stored.clone();
    }
    if resource.custom.is_some()
        && !stored.starts_with(format!("{{\"apiVersion\":\"{}\"", resource.stored_as.0).as_bytes())
    {
        // Written when another version was the one to be stored.
        let mut object = codec::decode(stored);
        object["apiVersion"] = resource.api_version().into();
        return serde_json::to_vec(&object).expect("trees always encode").into();
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
    match (resource.group.as_str(), resource.version.as_str(), resource.plural.as_str()) {
        ("events.k8s.io", "v1", "events") | ("autoscaling", "v1", "horizontalpodautoscalers") => true,
        ("resource.k8s.io", "v1beta1", plural) => beta::differs(plural),
        _ => false,
    }
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
        ("resource.k8s.io", "v1beta1") => beta::from_v1(object, &resource.plural),
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
        ("resource.k8s.io", "v1beta1") => beta::to_v1(object, &resource.plural),
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
