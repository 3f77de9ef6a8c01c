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

/// The longest name that the kernel takes.
const KERNEL_NAME_MAX: usize = 64;

/// What `hostname` says within the pod: its host name, unless the pod wants another one or its whole name in the cluster.
pub fn kernel_name(pod: &Value, node: &str, fqdn: &str) -> Result<String, String> {
    let named = meta::str_at(pod, &["spec", "hostnameOverride"]);
    if !named.is_empty() && !host_network(pod) {
        return Ok(named.to_owned());
    }
    if pod["spec"]["setHostnameAsFQDN"] != true || fqdn.is_empty() {
        return Ok(hostname(pod, node));
    }
    match fqdn.len() {
        length if length > KERNEL_NAME_MAX => Err(format!(
            "failed to construct FQDN from Pod hostname and cluster domain, FQDN {fqdn} is too long ({KERNEL_NAME_MAX} characters \
             is the max, {length} characters requested)"
        )),
        _ => Ok(fqdn.to_owned()),
    }
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
        let seen = |spec: Value, fqdn: &str| kernel_name(&json!({"metadata": {"name": "p"}, "spec": spec}), "n", fqdn);
        let whole = || json!({"setHostnameAsFQDN": true});
        assert_eq!(seen(json!({}), "p.s.d.svc.cluster.local"), Ok("p".into()));
        assert_eq!(seen(whole(), "p.s.d.svc.cluster.local"), Ok("p.s.d.svc.cluster.local".into()));
        assert_eq!(seen(whole(), ""), Ok("p".into()), "without a subdomain it has no other name");
        let why = seen(whole(), &format!("{}.s.d.svc.cluster.local", "p".repeat(60))).unwrap_err();
        assert!(why.ends_with("is too long (64 characters is the max, 82 characters requested)"), "{why}");
        assert_eq!(seen(json!({"hostnameOverride": "old.example.com"}), "x"), Ok("old.example.com".into()));
    }
}
