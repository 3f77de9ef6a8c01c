//! LimitRanger: what a namespace's limit ranges give to containers and what they keep out. Pure.

use std::sync::Arc;

use resources::quantity::Quantity;
use resources::{Value, meta};

/// Fills in default requests and limits of a pod's containers and says so in an annotation.
pub fn default(pod: &mut Value, ranges: &[Arc<Value>]) {
    let mut said = Vec::new();
    for limit in ranges.iter().flat_map(|range| meta::list_at(range, &["spec", "limits"])) {
        if limit["type"] != "Container" {
            continue;
        }
        for list in ["containers", "initContainers"] {
            for container in meta::items_mut(pod, &["spec", list]) {
                let name = container["name"].as_str().unwrap_or_default().to_owned();
                for (from, to, word) in [("defaultRequest", "requests", "request"), ("default", "limits", "limit")] {
                    let given: Vec<String> = fill(container, to, &limit[from]);
                    if !given.is_empty() {
                        let kind = if list == "containers" { "container" } else { "init container" };
                        said.push(format!("{} {word} for {kind} {name}", given.join(", ")));
                    }
                }
            }
        }
    }
    if !said.is_empty() {
        let text = format!("LimitRanger plugin set: {}", said.join("; "));
        meta::object_at(pod, &["metadata", "annotations"]).insert("kubernetes.io/limit-ranger".into(), text.into());
    }
}

/// Adds amounts that are missing; answers their names. A limit that is set is a request as well.
fn fill(container: &mut Value, list: &str, from: &Value) -> Vec<String> {
    let mut given = Vec::new();
    for (resource, amount) in from.as_object().into_iter().flatten() {
        let resources = &container["resources"];
        let covered = list == "requests" && resources["limits"].get(resource).is_some();
        if resources[list].get(resource).is_none() && !covered {
            meta::object_at(container, &["resources", list]).insert(resource.clone(), amount.clone());
            given.push(resource.clone());
        }
    }
    given
}

type Amounts = std::collections::BTreeMap<String, Quantity>;

fn amounts(value: &Value) -> Amounts {
    let entries = value.as_object().into_iter().flatten();
    entries.filter_map(|(name, amount)| Some((name.clone(), Quantity::parse(amount.as_str()?).ok()?))).collect()
}

/// What the ranges forbid in an object; nothing if it is no pod and no claim.
pub fn faults(group: &str, plural: &str, object: &Value, ranges: &[Arc<Value>]) -> Vec<String> {
    let mut out = Vec::new();
    for limit in ranges.iter().flat_map(|range| meta::list_at(range, &["spec", "limits"])) {
        match (limit["type"].as_str().unwrap_or_default(), group, plural) {
            ("Container", "", "pods") => {
                for list in ["initContainers", "containers"] {
                    for container in meta::list_at(object, &["spec", list]) {
                        let resources = &container["resources"];
                        judge(
                            limit,
                            "Container",
                            &amounts(&resources["requests"]),
                            &amounts(&resources["limits"]),
                            &mut out,
                        );
                    }
                }
            }
            ("Pod", "", "pods") => {
                let sum = |list: &str| super::quota::pod_amounts(object, list);
                judge(limit, "Pod", &sum("requests"), &sum("limits"), &mut out);
            }
            ("PersistentVolumeClaim", "", "persistentvolumeclaims") => {
                let asked = amounts(&object["spec"]["resources"]["requests"]);
                let bounds = |key: &str| amounts(&limit[key]);
                for (name, least) in bounds("min") {
                    match asked.get(&name) {
                        Some(asked) if asked.nanos() < least.nanos() => out.push(format!(
                            "minimum {name} usage per PersistentVolumeClaim is {}, but request is {}",
                            least.canonical(),
                            asked.canonical()
                        )),
                        _ => {}
                    }
                }
                for (name, most) in bounds("max") {
                    match asked.get(&name) {
                        Some(asked) if asked.nanos() > most.nanos() => out.push(format!(
                            "maximum {name} usage per PersistentVolumeClaim is {}, but request is {}",
                            most.canonical(),
                            asked.canonical()
                        )),
                        _ => {}
                    }
                }
            }
            _ => {}
        }
    }
    out
}

fn judge(limit: &Value, kind: &str, requests: &Amounts, limits: &Amounts, out: &mut Vec<String>) {
    for (name, least) in amounts(&limit["min"]) {
        let shown = least.canonical();
        match (requests.get(&name), limits.get(&name)) {
            (None, _) => out.push(format!("minimum {name} usage per {kind} is {shown}.  No request is specified")),
            (Some(asked), _) if asked.nanos() < least.nanos() => {
                out.push(format!("minimum {name} usage per {kind} is {shown}, but request is {}", asked.canonical()));
            }
            (_, Some(most)) if most.nanos() < least.nanos() => {
                out.push(format!("minimum {name} usage per {kind} is {shown}, but limit is {}", most.canonical()));
            }
            _ => {}
        }
    }
    for (name, most) in amounts(&limit["max"]) {
        let shown = most.canonical();
        match (limits.get(&name), requests.get(&name)) {
            (None, _) => out.push(format!("maximum {name} usage per {kind} is {shown}.  No limit is specified")),
            (Some(set), _) if set.nanos() > most.nanos() => {
                out.push(format!("maximum {name} usage per {kind} is {shown}, but limit is {}", set.canonical()));
            }
            (_, Some(asked)) if asked.nanos() > most.nanos() => {
                out.push(format!("maximum {name} usage per {kind} is {shown}, but request is {}", asked.canonical()));
            }
            _ => {}
        }
    }
    for (name, ratio) in amounts(&limit["maxLimitRequestRatio"]) {
        match (limits.get(&name), requests.get(&name)) {
            (Some(set), Some(asked)) if asked.nanos() > 0 => {
                let real = set.nanos() as f64 / asked.nanos() as f64;
                if real > ratio.nanos() as f64 / 1e9 {
                    out.push(format!(
                        "{name} max limit to request ratio per {kind} is {}, but provided ratio is {real:.6}",
                        ratio.canonical()
                    ));
                }
            }
            (None, _) => out.push(format!(
                "{name} max limit to request ratio per {kind} is {}, but no limit is specified",
                ratio.canonical()
            )),
            _ => out.push(format!(
                "{name} max limit to request ratio per {kind} is {}, but no request is specified or request is 0",
                ratio.canonical()
            )),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn defaults_are_given_and_bounds_are_kept() {
        let ranges =
            [Arc::new(json!({"spec": {"limits": [{"type": "Container", "default": {"cpu": "1", "memory": "1Gi"},
            "defaultRequest": {"cpu": "100m"}, "min": {"cpu": "50m"}, "max": {"cpu": "2", "memory": "2Gi"},
            "maxLimitRequestRatio": {"cpu": "10"}}, {"type": "Pod", "max": {"cpu": "3"}}]}}))];
        let mut pod = json!({"spec": {"containers": [{"name": "c", "resources": {"limits": {"memory": "512Mi"}}}]}});
        default(&mut pod, &ranges);
        assert_eq!(
            pod["spec"]["containers"][0]["resources"],
            json!({"requests": {"cpu": "100m"}, "limits": {"cpu": "1", "memory": "512Mi"}})
        );
        let text = "LimitRanger plugin set: cpu request for container c; cpu limit for container c";
        assert_eq!(pod["metadata"]["annotations"]["kubernetes.io/limit-ranger"], text);
        assert_eq!(faults("", "pods", &pod, &ranges), Vec::<String>::new());
        let rows = [
            (
                json!({"requests": {"cpu": "10m"}, "limits": {"cpu": "50m", "memory": "1Gi"}}),
                "minimum cpu usage per Container is 50m, but request is 10m",
            ),
            (
                json!({"requests": {"cpu": "1"}, "limits": {"cpu": "3", "memory": "1Gi"}}),
                "maximum cpu usage per Container is 2, but limit is 3",
            ),
            (
                json!({"requests": {"cpu": "1"}, "limits": {"cpu": "2"}}),
                "maximum memory usage per Container is 2Gi.  No limit is specified",
            ),
            (
                json!({"requests": {"cpu": "50m"}, "limits": {"cpu": "2", "memory": "1Gi"}}),
                "cpu max limit to request ratio per Container is 10, but provided ratio is 40.000000",
            ),
        ];
        for (resources, text) in rows {
            let pod = json!({"spec": {"containers": [{"name": "c", "resources": resources}]}});
            assert_eq!(faults("", "pods", &pod, &ranges), [text]);
        }
    }
}
