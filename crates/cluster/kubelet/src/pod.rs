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
    for (role, container) in containers(pod) {
        if role == Role::Ephemeral {
            continue;
        }
        for resource in ["cpu", "memory"] {
            let amount = |which: &str| container["resources"][which].get(resource).and_then(Value::as_str);
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
