//! Reading pods: what the kubelet's rooms ask of a pod's spec.

use std::time::Duration;

use jiff::Timestamp;
use resources::{Value, meta};

/// Which list of the spec a container stands in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    Init,
    /// An init container that runs on beside the others.
    Sidecar,
    Main,
    Ephemeral,
}

pub fn containers(pod: &Value) -> impl Iterator<Item = (Role, &Value)> {
    let role = |container: &Value| if container["restartPolicy"] == "Always" { Role::Sidecar } else { Role::Init };
    let list = |name: &str| meta::list_at(pod, &["spec", name]).iter();
    list("initContainers")
        .map(move |container| (role(container), container))
        .chain(list("containers").map(|container| (Role::Main, container)))
        .chain(list("ephemeralContainers").map(|container| (Role::Ephemeral, container)))
}

pub fn name(container: &Value) -> &str {
    meta::str_at(container, &["name"])
}

/// `name_namespace(uid)`, as messages name a pod.
pub fn full_name(pod: &Value) -> String {
    format!("{}_{}({})", meta::name(pod), meta::namespace(pod), meta::uid(pod))
}

/// Where a container stands in the spec: `spec.containers{name}`.
pub fn field_path(pod: &Value, name: &str) -> String {
    let role = containers(pod).find(|(_, container)| self::name(container) == name).map(|(role, _)| role);
    let list = match role {
        Some(Role::Init | Role::Sidecar) => "initContainers",
        Some(Role::Ephemeral) => "ephemeralContainers",
        Some(Role::Main) | None => "containers",
    };
    format!("spec.{list}{{{name}}}")
}

pub fn host_network(pod: &Value) -> bool {
    pod["spec"]["hostNetwork"] == true
}

/// The host name inside the pod.
pub fn hostname(pod: &Value, node: &str) -> String {
    if host_network(pod) {
        return node.to_owned();
    }
    let name = match meta::str_at(pod, &["spec", "hostname"]) {
        "" => meta::name(pod),
        name => name,
    };
    let cut: String = name.chars().take(63).collect();
    cut.trim_end_matches(['-', '.']).to_owned()
}

/// How long the pod may take to end, once it is told to.
pub fn grace(pod: &Value) -> Duration {
    let own = meta::at(pod, &["spec", "terminationGracePeriodSeconds"]).and_then(Value::as_u64).unwrap_or(30);
    let asked = meta::at(pod, &["metadata", "deletionGracePeriodSeconds"]).and_then(Value::as_u64);
    Duration::from_secs(asked.unwrap_or(own))
}

pub fn time(value: &Value) -> Option<Timestamp> {
    value.as_str().and_then(|text| text.parse().ok())
}

/// `Guaranteed`, `Burstable` or `BestEffort`.
pub fn quality(pod: &Value) -> &'static str {
    let mut any = false;
    let mut guaranteed = true;
    // What the pod says for all of its containers counts alone.
    let whole = &pod["spec"]["resources"];
    let own = ["requests", "limits"].iter().any(|which| whole[*which].as_object().is_some_and(|map| !map.is_empty()));
    let all: Vec<&Value> = match own {
        true => vec![whole],
        false => containers(pod)
            .filter(|(role, _)| *role != Role::Ephemeral)
            .map(|(_, container)| &container["resources"])
            .collect(),
    };
    for resources in all {
        for resource in ["cpu", "memory"] {
            let amount = |which: &str| resources[which].get(resource).and_then(Value::as_str);
            let (request, limit) = (amount("requests"), amount("limits"));
            any |= [request, limit].into_iter().flatten().any(|text| text != "0");
            guaranteed &= limit.is_some_and(|limit| limit != "0" && request.is_none_or(|request| request == limit));
        }
    }
    match (any, guaranteed) {
        (false, _) => "BestEffort",
        (true, true) => "Guaranteed",
        (true, false) => "Burstable",
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn quality_follows_from_requests_and_limits() {
        let rows = [
            (json!({}), "BestEffort"),
            (json!({"requests": {"cpu": "1"}}), "Burstable"),
            (json!({"limits": {"cpu": "1", "memory": "1Gi"}}), "Guaranteed"),
            (json!({"limits": {"cpu": "1", "memory": "1Gi"}, "requests": {"cpu": "500m"}}), "Burstable"),
        ];
        for (resources, expected) in rows {
            let pod = json!({"spec": {"containers": [{"name": "c", "resources": resources}]}});
            assert_eq!(quality(&pod), expected, "{resources}");
        }
    }

    #[test]
    fn host_names_fit() {
        let long = json!({"metadata": {"name": "a".repeat(62) + "-tail"}});
        assert_eq!(hostname(&long, "n"), "a".repeat(62));
        assert_eq!(hostname(&json!({"metadata": {"name": "p"}, "spec": {"hostNetwork": true}}), "n"), "n");
    }
}
