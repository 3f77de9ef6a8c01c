//! NodeRestriction: a node's agent may write its own node, its own lease and the pods that it runs, and nothing else.
//! Pure.

use resources::{Value, meta};

use super::{Attributes, Operation};

/// The name of the node whose agent the user is.
pub fn node_of(user: &crate::authn::User) -> Option<&str> {
    let member = user.groups.iter().any(|group| group == "system:nodes");
    user.name.strip_prefix("system:node:").filter(|_| member)
}

/// Labels that agents may set on their node besides those without Kubernetes' prefix.
const OWN_LABELS: [&str; 12] = [
    "kubernetes.io/hostname",
    "kubernetes.io/arch",
    "kubernetes.io/os",
    "beta.kubernetes.io/arch",
    "beta.kubernetes.io/os",
    "beta.kubernetes.io/instance-type",
    "node.kubernetes.io/instance-type",
    "topology.kubernetes.io/region",
    "topology.kubernetes.io/zone",
    "failure-domain.beta.kubernetes.io/region",
    "failure-domain.beta.kubernetes.io/zone",
    "node.kubernetes.io/windows-build",
];

fn is_own_label(key: &str) -> bool {
    let space = key.split_once('/').map_or("", |(space, _)| space);
    let kubernetes = ["kubernetes.io", "k8s.io"].iter().any(|end| space == *end || space.ends_with(&format!(".{end}")));
    !kubernetes
        || OWN_LABELS.contains(&key)
        || ["kubelet.kubernetes.io", "node.kubernetes.io"]
            .iter()
            .any(|own| space == *own || space.ends_with(&format!(".{own}")))
}

/// A volume that is being deleted loses the finalizer by which it waits for this node, and changes in nothing else.
fn lets_go(node: &str, new: &Value, old: &Value) -> bool {
    use resources::binding::{LOCAL_PATH_FINALIZER, SELECTED_NODE};
    let mut wanted = old.clone();
    let mut left = meta::finalizers(old);
    left.retain(|name| name != LOCAL_PATH_FINALIZER);
    meta::set_finalizers(&mut wanted, left);
    let mut given = new.clone();
    for object in [&mut wanted, &mut given] {
        for books in ["managedFields", "resourceVersion"] {
            meta::unset(object, books);
        }
    }
    meta::is_terminating(old)
        && meta::str_at(old, &["metadata", "annotations", SELECTED_NODE]) == node
        && meta::finalizers(&given) == meta::finalizers(&wanted)
        && {
            meta::unset(&mut given, "finalizers");
            meta::unset(&mut wanted, "finalizers");
            given == wanted
        }
}

/// Why the agent of `node` may not do this; `None` if it may.
pub fn refusal(node: &str, attributes: &Attributes<'_>, object: Option<&Value>) -> Option<String> {
    let nothing = Value::Null;
    let (new, old) = (object.unwrap_or(&nothing), attributes.old.unwrap_or(&nothing));
    let text = |why: &str| Some(why.to_owned());
    match (attributes.resource.group.as_str(), attributes.resource.plural.as_str(), attributes.sub) {
        ("", "pods", "") => match attributes.operation {
            Operation::Create => {
                if meta::str_at(new, &["metadata", "annotations", "kubernetes.io/config.mirror"]).is_empty() {
                    return Some(format!(
                        "pod does not have \"kubernetes.io/config.mirror\" annotation, node {node:?} can only create mirror pods"
                    ));
                }
                if meta::str_at(new, &["spec", "nodeName"]) != node {
                    return Some(format!("node {node:?} can only create pods with spec.nodeName set to itself"));
                }
                let owners = meta::owners(new);
                if owners.iter().any(|owner| {
                    owner.kind != "Node" || owner.name != node || !owner.controller || owner.block_deletion
                }) {
                    return Some(format!("node {node:?} can only create pods with an owner reference set to itself"));
                }
                let names_others =
                    ["serviceAccountName"].iter().any(|key| !meta::str_at(new, &["spec", key]).is_empty())
                        || meta::list_at(new, &["spec", "volumes"]).iter().any(|volume| {
                            ["secret", "configMap", "persistentVolumeClaim", "projected"]
                                .iter()
                                .any(|key| volume.get(key).is_some())
                        })
                        || !meta::list_at(new, &["spec", "resourceClaims"]).is_empty();
                match names_others {
                    true => Some(format!("node {node:?} can not create pods that reference other objects")),
                    false => None,
                }
            }
            Operation::Delete if meta::str_at(old, &["spec", "nodeName"]) != node => {
                Some(format!("node {node:?} can only delete pods with spec.nodeName set to itself"))
            }
            Operation::Delete => None,
            _ => Some(format!(
                "unexpected operation {:?}, node {node:?} can only create and delete mirror pods",
                attributes.operation.as_str()
            )),
        },
        ("", "pods", "status") => {
            if meta::str_at(old, &["spec", "nodeName"]) != node {
                return Some(format!(
                    "node {node:?} can only update pod status for pods with spec.nodeName set to itself"
                ));
            }
            match meta::at(new, &["metadata", "labels"]) == meta::at(old, &["metadata", "labels"]) {
                true => None,
                false => Some(format!("node {node:?} cannot update labels through pod status")),
            }
        }
        ("", "pods", "eviction") => match meta::str_at(old, &["spec", "nodeName"]) == node {
            true => None,
            false => Some(format!("node {node:?} can only evict pods with spec.nodeName set to itself")),
        },
        ("", "nodes", _) => {
            if attributes.name != node {
                return Some(format!("node {node:?} is not allowed to modify node {:?}", attributes.name));
            }
            if matches!(attributes.operation, Operation::Delete) {
                return None;
            }
            if attributes.operation == Operation::Update && attributes.sub.is_empty() {
                if new["spec"]["taints"] != old["spec"]["taints"] {
                    return Some(format!("node {node:?} is not allowed to modify taints"));
                }
                if new["metadata"]["ownerReferences"] != old["metadata"]["ownerReferences"] {
                    return Some(format!("node {node:?} is not allowed to modify ownerReferences"));
                }
            }
            if attributes.operation == Operation::Create && !new["spec"]["configSource"].is_null() {
                return text("node is not allowed to create pods with a configSource");
            }
            let labels = |object: &Value| -> std::collections::BTreeMap<String, Value> {
                meta::map_at(object, &["metadata", "labels"]).map(|(key, value)| (key.clone(), value.clone())).collect()
            };
            let (before, after) = (labels(old), labels(new));
            let mut changed: Vec<&String> =
                before.keys().chain(after.keys()).filter(|key| before.get(*key) != after.get(*key)).collect();
            changed.retain(|key| !is_own_label(key));
            changed.dedup();
            match changed.is_empty() {
                true => None,
                false => {
                    let list: Vec<&str> = changed.iter().map(|key| key.as_str()).collect();
                    Some(format!("is not allowed to modify labels: {}", list.join(", ")))
                }
            }
        }
        ("coordination.k8s.io", "leases", _) => {
            match attributes.namespace == "kube-node-lease" && attributes.name == node {
                true => None,
                false => {
                    Some(format!("can only access leases in the \"kube-node-lease\" system namespace named {node:?}"))
                }
            }
        }
        ("", "persistentvolumes", _) => match lets_go(node, new, old) {
            true => None,
            false => Some(format!("node {node:?} can only let go of volumes that it has removed from its own disk")),
        },
        ("storage.k8s.io", "csinodes", _) => match attributes.name == node {
            true => None,
            false => Some(format!("can only access CSINode with the same name as the requesting node, {node:?}")),
        },
        ("", "serviceaccounts", "token") => {
            let bound = &new["spec"]["boundObjectRef"];
            match bound["kind"] == "Pod" && !meta::str_at(bound, &["uid"]).is_empty() {
                true => None,
                false => text("node requested token not bound to a pod"),
            }
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::super::options;
    use super::*;
    use crate::authn::User;
    use crate::catalog::Catalog;
    use serde_json::json;

    #[test]
    fn agents_write_their_own_things_alone() {
        let catalog = Catalog::builtin();
        let user = User::node("n1");
        assert_eq!(node_of(&user), Some("n1"));
        assert_eq!(node_of(&User::component("system:node:n1")), None, "the group is part of it");
        let on = |node: &str| json!({"metadata": {"name": "p"}, "spec": {"nodeName": node}});
        let mirror = json!({"metadata": {"name": "p", "annotations": {"kubernetes.io/config.mirror": "x"}}, "spec": {"nodeName": "n1"}});
        let mut secretive = mirror.clone();
        secretive["spec"]["volumes"] = json!([{"name": "s", "secret": {"secretName": "x"}}]);
        let labelled = |key: &str| json!({"metadata": {"name": "n1", "labels": {key: "1"}}, "spec": {}});
        let tainted = json!({"metadata": {"name": "n1"}, "spec": {"taints": [{"key": "a"}]}});
        let plain = json!({"metadata": {"name": "n1"}, "spec": {}});
        let volume = |node: &str, finalizers: Value, size: &str| {
            let annotations = json!({resources::binding::SELECTED_NODE: node});
            json!({"metadata": {"name": "p", "deletionTimestamp": "2026-01-01T00:00:00Z", "annotations": annotations,
                "finalizers": finalizers}, "spec": {"capacity": {"storage": size}}})
        };
        let held = json!(["knarr.io/local-path", "x"]);
        let going = volume("n1", held.clone(), "1");
        use Operation::*;
        let rows = [
            (
                "",
                "persistentvolumes",
                "",
                Update,
                "p",
                Some(volume("n1", json!(["x"]), "1")),
                Some(going.clone()),
                true,
            ),
            ("", "persistentvolumes", "", Update, "p", Some(volume("n1", json!([]), "1")), Some(going.clone()), false),
            ("", "persistentvolumes", "", Update, "p", Some(volume("n1", json!(["x"]), "2")), Some(going), false),
            (
                "",
                "persistentvolumes",
                "",
                Update,
                "p",
                Some(volume("n2", json!(["x"]), "1")),
                Some(volume("n2", held, "1")),
                false,
            ),
            ("", "pods", "", Create, "p", Some(on("n1")), None, false),
            ("", "pods", "", Create, "p", Some(mirror), None, true),
            ("", "pods", "", Create, "p", Some(secretive), None, false),
            ("", "pods", "", Delete, "p", None, Some(on("n1")), true),
            ("", "pods", "", Delete, "p", None, Some(on("n2")), false),
            ("", "pods", "status", Update, "p", Some(on("n1")), Some(on("n1")), true),
            ("", "pods", "status", Update, "p", Some(on("n2")), Some(on("n2")), false),
            ("", "nodes", "", Update, "n1", Some(plain.clone()), Some(plain.clone()), true),
            ("", "nodes", "", Update, "n2", Some(plain.clone()), Some(plain.clone()), false),
            ("", "nodes", "", Update, "n1", Some(tainted), Some(plain.clone()), false),
            ("", "nodes", "", Update, "n1", Some(labelled("example.com/x")), Some(plain.clone()), true),
            ("", "nodes", "", Update, "n1", Some(labelled("kubernetes.io/hostname")), Some(plain.clone()), true),
            (
                "",
                "nodes",
                "",
                Update,
                "n1",
                Some(labelled("node-restriction.kubernetes.io/x")),
                Some(plain.clone()),
                false,
            ),
            (
                "",
                "nodes",
                "status",
                Update,
                "n1",
                Some(labelled("node-role.kubernetes.io/control-plane")),
                Some(plain),
                false,
            ),
            ("storage.k8s.io", "csinodes", "", Create, "n1", None, None, true),
            ("storage.k8s.io", "csinodes", "", Create, "n2", None, None, false),
        ];
        for (group, plural, sub, operation, name, new, old, allowed) in rows {
            let resource = catalog.preferred(group, plural).unwrap();
            let attributes = Attributes {
                operation,
                resource,
                sub,
                namespace: "default",
                name,
                user: &user,
                dry: false,
                old: old.as_ref(),
                options: options(operation, false, false, ""),
            };
            let found = refusal("n1", &attributes, new.as_ref());
            assert_eq!(found.is_none(), allowed, "{plural}/{sub} {operation:?} {name}: {found:?}");
        }
    }
}
