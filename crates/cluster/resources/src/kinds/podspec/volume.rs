//! Volumes of a pod.

use std::collections::BTreeMap;

use serde_json::Value;

use super::container::no_backsteps;
use super::source::{downward, file_path, items, mode};
use crate::errors::FieldError;
use crate::kinds::rules::Faults;
use crate::meta::list_at;
use crate::names;
use crate::quantity::Quantity;

/// In the order in which upstream looks: of several, the first is the volume.
const KINDS: [&str; 28] = [
    "emptyDir",
    "hostPath",
    "gitRepo",
    "gcePersistentDisk",
    "awsElasticBlockStore",
    "secret",
    "nfs",
    "iscsi",
    "glusterfs",
    "flocker",
    "persistentVolumeClaim",
    "rbd",
    "cephfs",
    "cinder",
    "quobyte",
    "downwardAPI",
    "fc",
    "configMap",
    "azureFile",
    "flexVolume",
    "vsphereVolume",
    "azureDisk",
    "storageos",
    "portworxVolume",
    "projected",
    "scaleIO",
    "csi",
    "ephemeral",
];

const ONE_TYPE: &str = "may not specify more than 1 volume type";

/// Answers the names of the volumes, and whether each is a claim, which may be mounted as a device.
pub(super) fn validate_all(spec: &Value, path: &str, faults: &mut Faults) -> BTreeMap<String, bool> {
    let mut volumes = BTreeMap::new();
    for (at, volume) in list_at(spec, &["volumes"]).iter().enumerate() {
        let here = format!("{path}.volumes[{at}]");
        source(volume, &here, faults);
        let name = volume["name"].as_str().unwrap_or_default();
        let wrong = if name.is_empty() { Vec::new() } else { names::dns_label(name) };
        let claim = volume["persistentVolumeClaim"].is_object() || volume["ephemeral"].is_object();
        if name.is_empty() {
            faults.required(&format!("{here}.name"), "");
        } else if wrong.is_empty() && volumes.insert(name.to_owned(), claim).is_some() {
            faults.push(FieldError::duplicate(format!("{here}.name"), name));
        }
        faults.all_invalid(&format!("{here}.name"), name, wrong);
    }
    volumes
}

fn source(volume: &Value, path: &str, faults: &mut Faults) {
    let mut any = false;
    for kind in KINDS.iter().chain(&["image"]).filter(|kind| volume[**kind].is_object()) {
        let here = format!("{path}.{kind}");
        if any {
            faults.forbidden(&here, ONE_TYPE);
            continue;
        }
        any = true;
        one(kind, &volume[*kind], &here, faults);
    }
    if !any {
        faults.required(path, "must specify a volume type");
    }
}

fn one(kind: &str, source: &Value, path: &str, faults: &mut Faults) {
    let text = |field: &str| source[field].as_str().unwrap_or_default();
    let needs: &[&str] = match kind {
        "hostPath" => &["path"],
        "secret" => &["secretName"],
        "configMap" => &["name"],
        "persistentVolumeClaim" => &["claimName"],
        "nfs" => &["server", "path"],
        "iscsi" => &["targetPortal", "iqn"],
        "glusterfs" => &["endpoints", "path"],
        "csi" => &["driver"],
        "image" => &["reference"],
        "gitRepo" => &["repository"],
        "cinder" | "awsElasticBlockStore" => &["volumeID"],
        "gcePersistentDisk" => &["pdName"],
        _ => &[],
    };
    for field in needs.iter().filter(|field| text(field).is_empty()) {
        faults.required(&format!("{path}.{field}"), "");
    }
    match kind {
        "emptyDir" => {
            let size = source["sizeLimit"].as_str().and_then(|text| Quantity::parse(text).ok());
            if size.is_some_and(|size| size.is_negative()) {
                faults.forbidden(&format!("{path}.sizeLimit"), "SizeLimit field must be a valid resource quantity");
            }
        }
        "hostPath" => {
            no_backsteps(text("path"), &format!("{path}.path"), faults);
            let kinds =
                ["", "BlockDevice", "CharDevice", "Directory", "DirectoryOrCreate", "File", "FileOrCreate", "Socket"];
            faults.one_of(source, "type", path, &kinds);
        }
        "nfs" if !text("path").is_empty() && !text("path").starts_with('/') => {
            faults.invalid(&format!("{path}.path"), text("path"), "must be an absolute path");
        }
        "secret" | "configMap" => items(source, path, faults),
        "downwardAPI" => downward(source, path, faults),
        "projected" => projected(source, path, faults),
        "ephemeral" => match &source["volumeClaimTemplate"] {
            Value::Object(_) => {
                let template = &source["volumeClaimTemplate"]["spec"];
                crate::kinds::storage::claim_spec(template, &format!("{path}.volumeClaimTemplate.spec"), faults);
            }
            _ => faults.required(&format!("{path}.volumeClaimTemplate"), ""),
        },
        "image" => faults.one_of(source, "pullPolicy", path, &["Always", "IfNotPresent", "Never"]),
        _ => {}
    }
}

fn projected(source: &Value, path: &str, faults: &mut Faults) {
    mode(source, "defaultMode", path, faults);
    let mut paths = std::collections::BTreeSet::new();
    for (at, source) in list_at(source, &["sources"]).iter().enumerate() {
        let here = format!("{path}.sources[{at}]");
        let mut any = false;
        let kinds =
            ["secret", "configMap", "downwardAPI", "serviceAccountToken", "clusterTrustBundle", "podCertificate"];
        for kind in kinds.iter().filter(|kind| source[**kind].is_object()) {
            let here = format!("{here}.{kind}");
            if any {
                faults.forbidden(&here, ONE_TYPE);
                continue;
            }
            any = true;
            let source = &source[*kind];
            match *kind {
                "secret" | "configMap" => {
                    if source["name"].as_str().unwrap_or_default().is_empty() {
                        faults.required(&format!("{here}.name"), "");
                    }
                    items(source, &here, faults);
                }
                "downwardAPI" => downward(source, &here, faults),
                "serviceAccountToken" => {
                    let secs = source["expirationSeconds"].as_i64().unwrap_or(3600);
                    if secs < 600 {
                        let detail = "may not specify a duration less than 10 minutes";
                        faults.invalid(&format!("{here}.expirationSeconds"), secs, detail);
                    } else if secs > 1 << 32 {
                        let detail = "may not specify a duration larger than 2^32 seconds";
                        faults.invalid(&format!("{here}.expirationSeconds"), secs, detail);
                    }
                    file_path(source, &here, faults);
                }
                "clusterTrustBundle" => file_path(source, &here, faults),
                _ => {}
            }
            for path in [source].into_iter().chain(list_at(source, &["items"])).filter_map(|item| item["path"].as_str())
            {
                if !paths.insert(path.to_owned()) {
                    faults.invalid(&here, path, "conflicting duplicate paths");
                }
            }
        }
        if !any {
            faults.required(&here, "must specify a volume type");
        }
    }
}
