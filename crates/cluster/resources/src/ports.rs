//! Ports of pods by their names.

use serde_json::Value;

use crate::meta;

/// The number of a port that a container, or a sidecar, gives a name.
pub fn named_port(pod: &Value, name: &str, protocol: &str) -> Option<i64> {
    let sidecars = meta::list_at(pod, &["spec", "initContainers"]).iter();
    let sidecars = sidecars.filter(|container| container["restartPolicy"] == "Always");
    meta::list_at(pod, &["spec", "containers"])
        .iter()
        .chain(sidecars)
        .flat_map(|container| meta::list_at(container, &["ports"]))
        .find(|port| port["name"] == name && port["protocol"].as_str().unwrap_or("TCP") == protocol)
        .and_then(|port| port["containerPort"].as_i64())
}
