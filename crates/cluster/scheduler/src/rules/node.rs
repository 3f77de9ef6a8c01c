//! Nodes that take nothing new, and pods that name their node.

use super::Refusal;
use crate::rules::taints::tolerates;
use crate::{Facts, NodeFacts, PodFacts};

/// A cordoned node.
pub fn unschedulable(pod: &PodFacts, node: &NodeFacts, _: &Facts<'_>) -> Result<(), Refusal> {
    let taint = serde_json::json!({"key": "node.kubernetes.io/unschedulable", "effect": "NoSchedule"});
    if node.node["spec"]["unschedulable"] == true && !tolerates(pod.spec(), &taint) {
        return Err(Refusal::lasting("node(s) were unschedulable"));
    }
    Ok(())
}

pub fn name(pod: &PodFacts, node: &NodeFacts, _: &Facts<'_>) -> Result<(), Refusal> {
    match pod.spec()["nodeName"].as_str() {
        None | Some("") => Ok(()),
        Some(name) if name == node.name() => Ok(()),
        Some(_) => Err(Refusal::lasting("node(s) didn't match the requested node name")),
    }
}
