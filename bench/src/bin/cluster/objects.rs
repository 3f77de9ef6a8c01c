//! What is written: objects of the size that deployments make.

use serde_json::{Value, json};

pub fn config_map(name: &str, value: u64) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, "labels": {"app": "bench"}},
        "data": {"value": value.to_string(), "settings.conf": "listen = 0.0.0.0:8080\nworkers = 4\nlog = info\ntimeout = 30s\n"}})
}

/// A pod as a Deployment's controller writes it, of 3 KB once the API has filled it in, as those that upstream was measured with.
/// No scheduler looks at it: that one is measured elsewhere.
pub fn pod(name: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": name, "labels": {"app": "web", "pod-template-hash": "7d4b9c6f5"},
            "ownerReferences": [{"apiVersion": "v1", "kind": "ConfigMap", "name": "owner", "uid": "OWNER", "controller": true,
                "blockOwnerDeletion": true}]},
        "spec": {"schedulerName": "bench",
            "containers": [{"name": "web", "image": "registry.example.com/shop/web:1.24.3",
                "ports": [{"containerPort": 8080}],
                "resources": {"requests": {"cpu": "100m", "memory": "128Mi"}}}]}})
}
