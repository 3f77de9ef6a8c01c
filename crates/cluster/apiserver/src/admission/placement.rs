//! TaintNodesByCondition and PodTopologyLabels: what a new node and a placed pod are given. Pure.

use resources::{Value, meta};
use serde_json::json;

/// The labels of a node that its pods carry too.
const TOPOLOGY: [&str; 2] = ["topology.kubernetes.io/region", "topology.kubernetes.io/zone"];

/// Nobody is scheduled to a new node before the node's controller has seen that it is ready.
pub fn taint(node: &mut Value) {
    let (key, effect) = ("node.kubernetes.io/not-ready", "NoSchedule");
    let taints = meta::list_at(node, &["spec", "taints"]);
    if taints.iter().any(|taint| taint["key"] == key && taint["effect"] == effect) {
        return;
    }
    let taints: Vec<Value> = taints.iter().cloned().chain([json!({"effect": effect, "key": key})]).collect();
    meta::object_at(node, &["spec"]).insert("taints".into(), taints.into());
}

/// Gives the object the labels of `from` that it has no value for: all of a binding's, or of a node those that tell where it is.
pub fn label(object: &mut Value, from: &Value, all: bool) {
    let labels: Vec<(String, Value)> = meta::map_at(from, &["metadata", "labels"])
        .filter(|(key, _)| all || TOPOLOGY.contains(&key.as_str()))
        .map(|(key, value)| (key.clone(), value.clone()))
        .collect();
    if labels.is_empty() {
        return;
    }
    let own = meta::object_at(object, &["metadata", "labels"]);
    for (key, value) in labels {
        own.entry(key).or_insert(value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_node_has_the_taint_once() {
        let not_ready = json!({"effect": "NoSchedule", "key": "node.kubernetes.io/not-ready"});
        let mine = json!({"effect": "NoExecute", "key": "node.kubernetes.io/not-ready"});
        for (given, wanted) in [
            (json!({}), json!([not_ready])),
            (json!({"spec": {}}), json!([not_ready])),
            (json!({"spec": {"taints": [mine]}}), json!([mine, not_ready])),
            (json!({"spec": {"taints": [not_ready, mine]}}), json!([not_ready, mine])),
        ] {
            let mut node = given;
            taint(&mut node);
            assert_eq!(node["spec"]["taints"], wanted);
        }
    }

    #[test]
    fn labels_are_added_and_never_changed() {
        let node = json!({"metadata": {"labels": {"topology.kubernetes.io/zone": "z", "topology.kubernetes.io/region": "r", "rack": "1"}}});
        let mut pod = json!({"metadata": {"labels": {"topology.kubernetes.io/zone": "mine"}}});
        label(&mut pod, &node, false);
        let wanted = json!({"topology.kubernetes.io/zone": "mine", "topology.kubernetes.io/region": "r"});
        assert_eq!(pod["metadata"]["labels"], wanted);
        let mut bare = json!({"metadata": {}});
        label(&mut bare, &json!({"metadata": {"labels": {"rack": "1"}}}), false);
        assert_eq!(bare, json!({"metadata": {}}));
        label(&mut bare, &node, true);
        assert_eq!(bare["metadata"]["labels"], node["metadata"]["labels"]);
    }
}
