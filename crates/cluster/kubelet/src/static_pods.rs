//! Pods that a directory of this node declares. The API shows each as a mirror pod, which is what runs here: it is made when its
//! file comes, made anew when somebody deletes it or the file changes, and goes with the file.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use client::{DeleteOptions, PODS};
use resources::{Value, meta};
use serde_json::json;

use crate::manage::Doors;
use crate::runtime::Runtime;
use crate::shutdown;

const EVERY: Duration = Duration::from_secs(2);
const FILE_BYTES_MAX: u64 = 1 << 20;
const MIRROR: &str = "kubernetes.io/config.mirror";
const SOURCE: &str = "kubernetes.io/config.source";

/// Follows the directory until it is dropped.
pub async fn run<R: Runtime>(doors: Arc<Doors<R>>, directory: PathBuf) {
    let mut complained = Vec::new();
    loop {
        let (read, bad) = {
            let (directory, node) = (directory.clone(), doors.node.name.clone());
            tokio::task::spawn_blocking(move || read(&directory, &node)).await.unwrap_or_default()
        };
        if bad != complained {
            bad.iter().for_each(|text| tracing::warn!("static pods: {text}"));
            complained = bad;
        }
        let have: Vec<Arc<Value>> = {
            let view = doors.view.read().unwrap_or_else(PoisonError::into_inner);
            view.pods_on(&doors.node.name).filter(|pod| source(pod) == "file").cloned().collect()
        };
        let (create, delete) = differ(&read, &have);
        for pod in delete {
            let options = DeleteOptions { uid: meta::uid(&pod).to_owned(), ..DeleteOptions::default() };
            let _ = doors.api.delete(&PODS, meta::namespace(&pod), meta::name(&pod), &options).await;
        }
        for pod in create {
            match doors.api.create(&PODS, meta::namespace(pod), pod).await {
                Ok(_) => {}
                Err(status) if status.reason == "AlreadyExists" => {}
                Err(status) => {
                    tracing::warn!(pod = meta::name(pod), message = status.message, "cannot make a static pod")
                }
            }
        }
        tokio::time::sleep(EVERY).await;
    }
}

fn source(pod: &Value) -> &str {
    meta::str_at(pod, &["metadata", "annotations", SOURCE])
}

fn key(pod: &Value) -> (String, String) {
    (meta::namespace(pod).to_owned(), meta::name(pod).to_owned())
}

/// Pods to make and pods to delete. Pure.
fn differ<'a>(wanted: &'a BTreeMap<(String, String), Value>, have: &[Arc<Value>]) -> (Vec<&'a Value>, Vec<Arc<Value>>) {
    let hash = |pod: &Value| meta::str_at(pod, &["metadata", "annotations", MIRROR]).to_owned();
    let create = wanted.iter().filter(|(at, _)| !have.iter().any(|pod| key(pod) == **at)).map(|(_, pod)| pod).collect();
    let gone = |pod: &&Arc<Value>| {
        // What ended with the machine begins again with it.
        let ended = matches!(meta::str_at(pod, &["status", "reason"]), shutdown::REASON | "NodeShutdown");
        let other = wanted.get(&key(pod)).is_none_or(|wanted| hash(wanted) != hash(pod));
        !meta::is_terminating(pod) && (other || ended)
    };
    (create, have.iter().filter(gone).cloned().collect())
}

/// The pods of all files, as the API is to show them, and what is wrong with the others.
fn read(directory: &Path, node: &str) -> (BTreeMap<(String, String), Value>, Vec<String>) {
    let (mut pods, mut bad) = (BTreeMap::new(), Vec::new());
    let mut files: Vec<PathBuf> =
        std::fs::read_dir(directory).into_iter().flatten().flatten().map(|entry| entry.path()).collect();
    files.sort();
    for file in files {
        let name = file.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let known = [".yaml", ".yml", ".json"].iter().any(|end| name.ends_with(end));
        if name.starts_with('.') || !known {
            continue;
        }
        let bytes = linux::fs::open_host(&file, rustix::fs::OFlags::RDONLY)
            .and_then(|fd| linux::fs::read_regular(fd, FILE_BYTES_MAX, &file))
            .map_err(|error| error.to_string());
        match bytes.and_then(|bytes| mirror(&bytes, node)) {
            Ok(pod) => drop(pods.insert(key(&pod), pod)),
            Err(error) => bad.push(format!("{}: {error}", file.display())),
        }
    }
    (pods, bad)
}

/// The mirror of a pod's file. Pure.
fn mirror(bytes: &[u8], node: &str) -> Result<Value, String> {
    let mut pod = parse(bytes)?;
    if pod["kind"] != "Pod" || meta::name(&pod).is_empty() {
        return Err("it declares no pod with a name".into());
    }
    let hash = format!("{:016x}", hash(bytes));
    let name = format!("{}-{node}", meta::name(&pod));
    meta::set(&mut pod, "name", name);
    if meta::namespace(&pod).is_empty() {
        meta::set(&mut pod, "namespace", "default");
    }
    meta::unset(&mut pod, "uid");
    let annotations = meta::object_at(&mut pod, &["metadata", "annotations"]);
    for (key, value) in [(SOURCE, "file"), (MIRROR, &hash), ("kubernetes.io/config.hash", &hash)] {
        annotations.insert(key.to_owned(), value.into());
    }
    let spec = meta::object_at(&mut pod, &["spec"]);
    spec.insert("nodeName".into(), node.into());
    // Nothing sends away what the node itself declares.
    spec.insert("tolerations".into(), json!([{"operator": "Exists", "effect": "NoExecute"}]));
    // The API has no say in it, so it is given no identity there.
    spec.insert("automountServiceAccountToken".into(), false.into());
    pod.as_object_mut().map(|object| object.remove("status"));
    Ok(pod)
}

fn parse(bytes: &[u8]) -> Result<Value, String> {
    let text = std::str::from_utf8(bytes).map_err(|error| error.to_string())?;
    serde_saphyr::from_str(text).map_err(|error| error.to_string())
}

/// FNV-1a: what changes a file changes this, and nobody attacks their own files.
fn hash(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_becomes_a_mirror_pod_and_changes_with_it() {
        let text = "apiVersion: v1\nkind: Pod\nmetadata: {name: web}\nspec: {containers: [{name: c, image: i}]}\n";
        let one = mirror(text.as_bytes(), "n1").unwrap();
        assert_eq!((meta::name(&one), meta::namespace(&one)), ("web-n1", "default"));
        assert_eq!((one["spec"]["nodeName"].as_str(), source(&one)), (Some("n1"), "file"));
        let wanted: BTreeMap<_, _> = [(key(&one), one.clone())].into();
        let (create, delete) = differ(&wanted, &[]);
        assert_eq!((create.len(), delete.len()), (1, 0));
        let (create, delete) = differ(&wanted, &[Arc::new(one.clone())]);
        assert_eq!((create.len(), delete.len()), (0, 0));
        let mut ended = one.clone();
        ended["status"] = json!({"phase": "Failed", "reason": "Terminated"});
        let (create, delete) = differ(&wanted, &[Arc::new(ended)]);
        assert_eq!((create.len(), delete.len()), (0, 1), "the machine went down meanwhile");
        let none = BTreeMap::new();
        let other = mirror(text.replace("image: i", "image: j").as_bytes(), "n1").unwrap();
        let (create, delete) = differ(&wanted, &[Arc::new(other.clone())]);
        assert_eq!((create.len(), delete.len()), (0, 1), "it is made anew when it has gone");
        let (create, delete) = differ(&none, &[Arc::new(one)]);
        assert_eq!((create.len(), delete.len()), (0, 1));
        for bad in ["", "kind: Pod", "kind: Service\nmetadata: {name: a}", ":", "[1"] {
            assert!(mirror(bad.as_bytes(), "n1").is_err(), "{bad}");
        }
    }
}
