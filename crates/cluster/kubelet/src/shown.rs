//! Pods that only show a container which somebody runs without the cluster: nothing is started, probed or ended for them.

use resources::{Value, meta};

/// The container's id.
pub const SHOWN_CONTAINER: &str = "knarr.io/container";

pub fn shown_container(pod: &Value) -> Option<&str> {
    let mirror = meta::at(pod, &["metadata", "annotations", "kubernetes.io/config.mirror"]).is_some();
    let id = meta::at(pod, &["metadata", "annotations", SHOWN_CONTAINER]).and_then(Value::as_str);
    id.filter(|_| mirror)
}
