//! Which volume a claim can have. Pure; the binder and the scheduler ask the same questions.

use serde_json::Value;

use crate::quantity::Quantity;
use crate::selector::LabelSelector;
use crate::{meta, placement};

/// The class of claims that is no class: volumes come from people.
pub const NO_PROVISIONER: &str = "kubernetes.io/no-provisioner";
/// The built-in provisioner of directories on nodes.
pub const LOCAL_PATH: &str = "knarr.io/local-path";
/// Names the node where a claim's volume is wanted, and in a volume of [`LOCAL_PATH`] the node that has it.
pub const SELECTED_NODE: &str = "volume.kubernetes.io/selected-node";
/// Keeps a volume of [`LOCAL_PATH`] until its node has removed the directory.
pub const LOCAL_PATH_FINALIZER: &str = "knarr.io/local-path";
/// A node's annotation: the directory below which its volumes are.
pub const LOCAL_PATH_ROOT: &str = "knarr.io/local-path-root";
pub const PROVISIONED_BY: &str = "pv.kubernetes.io/provisioned-by";

pub fn class(object: &Value) -> &str {
    let class = meta::str_at(object, &["spec", "storageClassName"]);
    match class {
        "" => meta::str_at(object, &["metadata", "annotations", "volume.beta.kubernetes.io/storage-class"]),
        class => class,
    }
}

fn mode(object: &Value) -> &str {
    match meta::str_at(object, &["spec", "volumeMode"]) {
        "" => "Filesystem",
        mode => mode,
    }
}

/// An amount of storage in bytes.
pub fn bytes(value: &Value) -> i128 {
    let text = match value {
        Value::String(text) => text.clone(),
        Value::Number(number) => number.to_string(),
        _ => return 0,
    };
    Quantity::parse(&text).map_or(0, |quantity| quantity.nanos() / 1_000_000_000)
}

/// Whether a volume's `claimRef` names this claim; one without uid was written by a person.
pub fn is_for(volume: &Value, claim: &Value) -> bool {
    let reference = &volume["spec"]["claimRef"];
    let uid = reference["uid"].as_str().unwrap_or_default();
    reference["name"] == meta::name(claim)
        && reference["namespace"] == meta::namespace(claim)
        && (uid.is_empty() || uid == meta::uid(claim))
}

/// Whether a volume can be a claim's, wherever it is.
pub fn fits(volume: &Value, claim: &Value) -> bool {
    let reserved = !volume["spec"]["claimRef"].is_null();
    let free = match reserved {
        true => is_for(volume, claim),
        false => matches!(meta::str_at(volume, &["status", "phase"]), "" | "Pending" | "Available"),
    };
    if !free || meta::is_terminating(volume) || class(volume) != class(claim) || mode(volume) != mode(claim) {
        return false;
    }
    let offered = meta::list_at(volume, &["spec", "accessModes"]);
    if !meta::list_at(claim, &["spec", "accessModes"]).iter().all(|mode| offered.contains(mode)) {
        return false;
    }
    if bytes(&volume["spec"]["capacity"]["storage"]) < bytes(&claim["spec"]["resources"]["requests"]["storage"]) {
        return false;
    }
    let selector = &claim["spec"]["selector"];
    selector.is_null() || LabelSelector::from_object(selector).is_ok_and(|selector| selector.matches_object(volume))
}

/// The volume that suits a claim best: one kept for it, else the smallest; on a node, one that the node can reach.
pub fn best<'a, V>(volumes: impl Iterator<Item = &'a V>, claim: &Value, node: Option<&Value>) -> Option<&'a V>
where
    V: std::ops::Deref<Target = Value>,
{
    volumes
        .filter(|volume| fits(volume, claim) && node.is_none_or(|node| placement::reaches_volume(volume, node)))
        .min_by_key(|volume| {
            let kept = is_for(volume, claim);
            (!kept, bytes(&volume["spec"]["capacity"]["storage"]), meta::name(volume).to_owned())
        })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn volume(name: &str, more: Value) -> Box<Value> {
        let mut volume = json!({"metadata": {"name": name, "labels": {"disk": "fast"}}, "status": {"phase": "Available"},
            "spec": {"capacity": {"storage": "2Gi"}, "accessModes": ["ReadWriteOnce", "ReadOnlyMany"], "storageClassName": "s"}});
        crate::patch::merge_patch(&mut volume, &more);
        Box::new(volume)
    }

    fn claim(more: Value) -> Value {
        let mut claim = json!({"metadata": {"name": "c", "namespace": "d", "uid": "u"},
            "spec": {"accessModes": ["ReadWriteOnce"], "storageClassName": "s", "resources": {"requests": {"storage": "1Gi"}}}});
        crate::patch::merge_patch(&mut claim["spec"], &more);
        claim
    }

    #[test]
    fn what_fits() {
        for (of_volume, of_claim, expected) in [
            (json!({}), json!({}), true),
            (json!({"spec": {"storageClassName": "t"}}), json!({}), false),
            (json!({"spec": {"volumeMode": "Block"}}), json!({}), false),
            (json!({}), json!({"accessModes": ["ReadWriteMany"]}), false),
            (json!({}), json!({"resources": {"requests": {"storage": "2049Mi"}}}), false),
            (json!({}), json!({"selector": {"matchLabels": {"disk": "slow"}}}), false),
            (json!({}), json!({"selector": {"matchLabels": {"disk": "fast"}}}), true),
            (json!({"status": {"phase": "Released"}}), json!({}), false),
            (json!({"spec": {"claimRef": {"name": "c", "namespace": "d"}}}), json!({}), true),
            (json!({"spec": {"claimRef": {"name": "c", "namespace": "d", "uid": "old"}}}), json!({}), false),
            (json!({"metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z"}}), json!({}), false),
        ] {
            assert_eq!(
                fits(&volume("v", of_volume.clone()), &claim(of_claim.clone())),
                expected,
                "{of_volume} {of_claim}"
            );
        }
    }

    #[test]
    fn the_smallest_that_the_node_reaches() {
        let at = |node: &str| json!({"required": {"nodeSelectorTerms": [{"matchFields": [{"key": "metadata.name", "operator": "In", "values": [node]}]}]}});
        let size = |size: &str| json!({"spec": {"capacity": {"storage": size}}});
        let far = volume("far", json!({"spec": {"capacity": {"storage": "1Gi"}, "nodeAffinity": at("n2")}}));
        let all = [volume("large", size("9Gi")), volume("small", size("3Gi")), far];
        let node = json!({"metadata": {"name": "n1"}});
        let name = |found: Option<&Box<Value>>| found.map(|volume| meta::name(volume).to_owned());
        assert_eq!(name(best(all.iter(), &claim(json!({})), None)).as_deref(), Some("far"));
        assert_eq!(name(best(all.iter(), &claim(json!({})), Some(&node))).as_deref(), Some("small"));
    }
}
