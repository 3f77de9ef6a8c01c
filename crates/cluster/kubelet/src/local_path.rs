//! Directories of the built-in `local-path` provisioner on this node: made when a pod needs one, removed when the volume goes.
//!
//! A directory is found by the volume's name below a place of this node's own; a path that stands in the volume's spec is
//! never followed.

use std::fs;
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use cache::Kind;
use client::{Client, Patch};
use resources::binding::{LOCAL_PATH, LOCAL_PATH_FINALIZER, LOCAL_PATH_ROOT, PROVISIONED_BY, SELECTED_NODE};
use resources::{Status, Value, meta};
use serde_json::json;

/// Below the instance's root.
fn place(root: &Path) -> PathBuf {
    root.join("local-path")
}

/// The directory of a volume, if it is one of this provisioner's on this node.
pub fn directory(root: &Path, node: &str, volume: &Value) -> Option<PathBuf> {
    let annotation = |key: &str| meta::str_at(volume, &["metadata", "annotations", key]);
    let name = meta::name(volume);
    let plain = !name.is_empty() && !name.contains('/') && name != "." && name != "..";
    let ours = annotation(PROVISIONED_BY) == LOCAL_PATH && annotation(SELECTED_NODE) == node && plain;
    ours.then(|| place(root).join(name))
}

/// Makes a volume's directory: any user of the pod may write to it.
pub fn make(path: &Path) -> Result<(), String> {
    let failed = |error: std::io::Error| format!("make {}: {error}", path.display());
    if let Some(parent) = path.parent() {
        fs::DirBuilder::new().recursive(true).mode(0o711).create(parent).map_err(failed)?;
    }
    match fs::DirBuilder::new().create(path) {
        Ok(()) => fs::set_permissions(path, fs::Permissions::from_mode(0o777)).map_err(failed),
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists && path.is_dir() => Ok(()),
        Err(error) => Err(failed(error)),
    }
}

/// Tells where this node keeps its volumes.
pub async fn announce(api: &Client, node: &str, root: &Path) -> Result<(), Status> {
    let patch = json!({"metadata": {"annotations": {LOCAL_PATH_ROOT: place(root)}}});
    api.patch(&Kind::Node.gvr(), "", node, "", &Patch::Merge(patch)).await.map(drop)
}

/// Whether a volume waits for this node to remove its directory.
fn is_waiting(volume: &Value) -> bool {
    meta::is_terminating(volume) && meta::finalizers(volume).iter().any(|name| name == LOCAL_PATH_FINALIZER)
}

/// Removes the directory of a volume that is being deleted, and lets the volume go.
pub async fn take(api: Client, root: PathBuf, node: String, volume: std::sync::Arc<Value>) {
    let Some(path) = directory(&root, &node, &volume).filter(|_| is_waiting(&volume)) else { return };
    let shown = path.display().to_string();
    let removed = tokio::task::spawn_blocking(move || match fs::remove_dir_all(&path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    });
    match removed.await {
        Ok(Ok(())) => {}
        // The volume is told again when it changes, and when the agent starts anew.
        Ok(Err(error)) => return tracing::warn!(path = shown, %error, "cannot remove a volume's directory"),
        Err(error) => return tracing::warn!(path = shown, %error, "cannot remove a volume's directory"),
    }
    let mut left = meta::finalizers(&volume);
    left.retain(|name| name != LOCAL_PATH_FINALIZER);
    let patch = Patch::Merge(json!({"metadata": {"uid": meta::uid(&volume), "finalizers": left,
        "resourceVersion": meta::resource_version(&volume)}}));
    match api.patch(&Kind::Volume.gvr(), "", meta::name(&volume), "", &patch).await {
        Ok(_) => {}
        // Somebody else changed it; that change brings us here again.
        Err(status) if matches!(status.code, 404 | 409) => {}
        Err(status) => tracing::warn!(volume = meta::name(&volume), message = status.message, "cannot let a volume go"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_follows_from_the_name_alone() {
        let volume = |name: &str, node: &str, by: &str| {
            json!({"metadata": {"name": name, "annotations": {PROVISIONED_BY: by, SELECTED_NODE: node}},
                "spec": {"hostPath": {"path": "/etc"}}})
        };
        let of = |volume: &Value| directory(Path::new("/r"), "n1", volume);
        assert_eq!(of(&volume("pvc-1", "n1", LOCAL_PATH)), Some(PathBuf::from("/r/local-path/pvc-1")));
        for other in [
            volume("pvc-1", "n2", LOCAL_PATH),
            volume("pvc-1", "n1", "x.io/other"),
            volume("..", "n1", LOCAL_PATH),
            volume("a/../../b", "n1", LOCAL_PATH),
            volume("", "n1", LOCAL_PATH),
        ] {
            assert_eq!(of(&other), None, "{other}");
        }
    }
}
