//! The built-in provisioner: a directory on the node of the claim's first pod.
//!
//! Only the node itself touches its disk: its agent makes the directory when a pod needs it, and removes it when the volume is
//! being deleted, by the volume's name below a place of its own; what the volume's spec says is for readers. A finalizer waits
//! for it. Pure.

use cache::{Key, Kind, View, Write};
use resources::binding::{LOCAL_PATH_FINALIZER as FINALIZER, LOCAL_PATH_ROOT as ROOT};
use resources::{Value, binding, meta};
use serde_json::json;

const DEFAULT_ROOT: &str = "/var/lib/knarr/local-path";

/// The class that claims without one get.
pub fn storage_class() -> Value {
    json!({"apiVersion": "storage.k8s.io/v1", "kind": "StorageClass", "provisioner": binding::LOCAL_PATH,
        "reclaimPolicy": "Delete", "volumeBindingMode": "WaitForFirstConsumer",
        "metadata": {"name": "local-path", "annotations": {"storageclass.kubernetes.io/is-default-class": "true"}}})
}

pub fn provision(view: &View, class: &Value, claim: &Value, node: Option<&Value>) -> Vec<Write> {
    // With immediate binding nobody has chosen: the first node that is ready.
    let ready = |node: &&std::sync::Arc<Value>| {
        crate::pods::condition(node, "Ready").is_some_and(|condition| condition["status"] == "True")
    };
    let Some(node) = node.or_else(|| view.list(Kind::Node).find(ready).map(|node| &**node)) else { return Vec::new() };
    let refuse = |why: String| vec![Write::warning(Kind::Claim, claim, "ProvisioningFailed", why)];
    if meta::str_at(claim, &["spec", "volumeMode"]) == "Block" {
        return refuse("failed to provision volume: a directory is no block device".into());
    }
    if !claim["spec"]["selector"].is_null() {
        return refuse("failed to provision volume: claim.Spec.Selector is not supported".into());
    }
    let alone = |mode: &Value| *mode == "ReadWriteOnce" || *mode == "ReadWriteOncePod";
    if !meta::list_at(claim, &["spec", "accessModes"]).iter().all(alone) {
        return refuse("failed to provision volume: a directory of a node has access modes ReadWriteOnce and ReadWriteOncePod only".into());
    }
    let name = format!("pvc-{}", meta::uid(claim));
    if view.get(Kind::Volume, "", &name).is_some() {
        return Vec::new();
    }
    let root = match meta::str_at(node, &["metadata", "annotations", ROOT]) {
        "" => DEFAULT_ROOT,
        root => root,
    };
    let host = meta::str_at(node, &["metadata", "labels", "kubernetes.io/hostname"]);
    let host = if host.is_empty() { meta::name(node) } else { host };
    let policy = match meta::str_at(class, &["reclaimPolicy"]) {
        "" => "Delete",
        policy => policy,
    };
    let term = json!({"key": "kubernetes.io/hostname", "operator": "In", "values": [host]});
    let mut volume = json!({"apiVersion": "v1", "kind": "PersistentVolume",
        "metadata": {"name": name, "finalizers": [FINALIZER], "annotations": {
            binding::PROVISIONED_BY: binding::LOCAL_PATH, binding::SELECTED_NODE: meta::name(node)}},
        "spec": {"capacity": {"storage": claim["spec"]["resources"]["requests"]["storage"]},
            "accessModes": claim["spec"]["accessModes"], "persistentVolumeReclaimPolicy": policy,
            "storageClassName": meta::name(class), "volumeMode": "Filesystem",
            "hostPath": {"path": format!("{}/{name}", root.trim_end_matches('/')), "type": "DirectoryOrCreate"},
            "claimRef": {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "namespace": meta::namespace(claim),
                "name": meta::name(claim), "uid": meta::uid(claim), "resourceVersion": meta::resource_version(claim)},
            "nodeAffinity": {"required": {"nodeSelectorTerms": [{"matchExpressions": [term]}]}}}});
    if let Some(options) = class.get("mountOptions").filter(|options| !options.is_null()) {
        volume["spec"]["mountOptions"] = options.clone();
    }
    let text = format!("Successfully provisioned volume {name}");
    vec![Write::Create(Kind::Volume, volume), Write::normal(Kind::Claim, claim, "ProvisioningSucceeded", text)]
}

/// A node that has gone for good takes its directories along.
pub fn let_go(view: &View, volume: &Value) -> Option<Write> {
    let node = meta::str_at(volume, &["metadata", "annotations", binding::SELECTED_NODE]);
    let mut left = meta::finalizers(volume);
    if !left.iter().any(|name| name == FINALIZER) || view.get(Kind::Node, "", node).is_some() {
        return None;
    }
    left.retain(|name| name != FINALIZER);
    let patch = json!({"metadata": {"uid": meta::uid(volume), "finalizers": left}});
    Some(Write::Merge { kind: Kind::Volume, key: Key::of(volume), sub: "", patch })
}
