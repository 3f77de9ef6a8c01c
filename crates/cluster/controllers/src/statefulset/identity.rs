//! What makes a pod the one of its ordinal: name, labels, host name, storage. Pure.

use cache::{Key, Kind, Write};
use resources::{Value, meta};
use serde_json::json;

use super::claims;
use crate::pods;

const REVISION: &str = "controller-revision-hash";
const NAME: &str = "statefulset.kubernetes.io/pod-name";
const INDEX: &str = "apps.kubernetes.io/pod-index";

/// The ordinal in a pod's name, if it is one of the set's names.
pub fn ordinal(set: &Value, pod: &Value) -> Option<i64> {
    let digits = meta::name(pod).strip_prefix(meta::name(set))?.strip_prefix('-')?;
    let ordinal: i64 = digits.parse().ok()?;
    (ordinal.to_string() == digits).then_some(ordinal)
}

pub fn revision(pod: &Value) -> &str {
    meta::str_at(pod, &["metadata", "labels", REVISION])
}

pub fn pod(set: &Value, template: &Value, ordinal: i64, revision: &str) -> Value {
    let name = format!("{}-{ordinal}", meta::name(set));
    let mut pod = pods::from_template(Kind::StatefulSet, set, template, &name);
    let labels = meta::object_at(&mut pod, &["metadata", "labels"]);
    labels.insert(REVISION.into(), revision.into());
    labels.insert(NAME.into(), name.as_str().into());
    labels.insert(INDEX.into(), ordinal.to_string().into());
    pod["spec"]["hostname"] = name.into();
    let service = meta::str_at(set, &["spec", "serviceName"]);
    if !service.is_empty() {
        pod["spec"]["subdomain"] = service.into();
    }
    let mut volumes: Vec<Value> = Vec::new();
    for template in claims::templates(set) {
        let claim = claims::name(set, template, ordinal);
        volumes.push(json!({"name": meta::name(template), "persistentVolumeClaim": {"claimName": claim}}));
    }
    // A claim's template takes the place of a volume of its name.
    let own: Vec<Value> = meta::list_at(template, &["spec", "volumes"])
        .iter()
        .filter(|volume| !volumes.iter().any(|claim| claim["name"] == volume["name"]))
        .cloned()
        .collect();
    volumes.extend(own);
    if !volumes.is_empty() {
        pod["spec"]["volumes"] = volumes.into();
    }
    pod
}

/// Puts back labels that somebody took off.
pub fn repair(set: &Value, pod: &Value, ordinal: i64) -> Option<Write> {
    let index = ordinal.to_string();
    let label = |key: &str| meta::str_at(pod, &["metadata", "labels", key]);
    if (label(NAME) == meta::name(pod) && label(INDEX) == index)
        || meta::is_terminating(pod)
        || self::ordinal(set, pod).is_none()
    {
        return None;
    }
    let patch = json!({"metadata": {"labels": {NAME: meta::name(pod), INDEX: index}}});
    Some(Write::Merge { kind: Kind::Pod, key: Key::of(pod), sub: "", patch })
}
