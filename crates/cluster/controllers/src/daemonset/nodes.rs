//! Which nodes the pods of a DaemonSet run on. Pure.

use resources::{Value, meta, placement};
use serde_json::json;

/// What a node's state means for a set's pod on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Verdict {
    /// A pod belongs here.
    pub runs: bool,
    /// A pod that is here may stay.
    pub stays: bool,
}

/// What pods of DaemonSets tolerate: they are there for the node's sake, not for their own.
pub fn tolerations(host_network: bool) -> Vec<Value> {
    let mut out: Vec<Value> = [
        ("not-ready", "NoExecute"),
        ("unreachable", "NoExecute"),
        ("disk-pressure", "NoSchedule"),
        ("memory-pressure", "NoSchedule"),
        ("pid-pressure", "NoSchedule"),
        ("unschedulable", "NoSchedule"),
    ]
    .iter()
    .map(|(key, effect)| json!({"key": format!("node.kubernetes.io/{key}"), "operator": "Exists", "effect": effect}))
    .collect();
    if host_network {
        out.push(
            json!({"key": "node.kubernetes.io/network-unavailable", "operator": "Exists", "effect": "NoSchedule"}),
        );
    }
    out
}

/// The spec of a set's pods with what they tolerate.
pub fn spec(set: &Value) -> Value {
    let mut spec = set["spec"]["template"]["spec"].clone();
    tolerate(&mut spec);
    spec
}

fn tolerate(spec: &mut Value) {
    let mut list = meta::list_at(spec, &["tolerations"]).to_vec();
    for toleration in tolerations(spec["hostNetwork"] == true) {
        if !list.contains(&toleration) {
            list.push(toleration);
        }
    }
    spec["tolerations"] = list.into();
}

/// Makes a pod's spec one for this node alone; the scheduler binds it there when it fits.
pub fn fix(spec: &mut Value, node: &str) {
    tolerate(spec);
    let term = json!({"key": "metadata.name", "operator": "In", "values": [node]});
    let required = "requiredDuringSchedulingIgnoredDuringExecution";
    // The name replaces whatever names were asked for; labels that were asked for have been looked at already.
    let affinity = meta::object_at(spec, &["affinity", "nodeAffinity"]);
    affinity.insert(required.into(), json!({"nodeSelectorTerms": [{"matchFields": [term]}]}));
}

/// The node that a pod is on, or was made for.
pub fn of_pod(pod: &Value) -> &str {
    let bound = meta::str_at(pod, &["spec", "nodeName"]);
    if !bound.is_empty() {
        return bound;
    }
    let path =
        ["spec", "affinity", "nodeAffinity", "requiredDuringSchedulingIgnoredDuringExecution", "nodeSelectorTerms"];
    let fields = meta::list_at(pod, &path).iter().flat_map(|term| meta::list_at(term, &["matchFields"]));
    fields
        .filter(|field| field["key"] == "metadata.name" && field["operator"] == "In")
        .find_map(|field| meta::list_at(field, &["values"]).first()?.as_str())
        .unwrap_or_default()
}

pub fn judge(spec: &Value, node: &Value) -> Verdict {
    let no = Verdict { runs: false, stays: false };
    let name = spec["nodeName"].as_str().unwrap_or_default();
    if (!name.is_empty() && name != meta::name(node)) || !placement::selects_node(spec, node) {
        return no;
    }
    if placement::untolerated(spec, node, &["NoExecute"]).is_some() {
        return no;
    }
    Verdict { runs: placement::untolerated(spec, node, &["NoSchedule"]).is_none(), stays: true }
}
