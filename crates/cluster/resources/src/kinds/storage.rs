//! PersistentVolume, PersistentVolumeClaim, StorageClass and the CSI kinds.

use serde_json::{Value, json};

use super::podspec::node_selector;
use super::rules::{Faults, default_to, spec};
use super::{Strategy, csi, status};
use crate::{meta, names};

const MODES: [&str; 4] = ["ReadOnlyMany", "ReadWriteMany", "ReadWriteOnce", "ReadWriteOncePod"];

pub(super) const VOLUME: Strategy = Strategy {
    default: |object| {
        let spec = spec(object);
        default_to(spec, "persistentVolumeReclaimPolicy", "Retain");
        default_to(spec, "volumeMode", "Filesystem");
        if let Some(path) = spec.get_mut("hostPath").and_then(Value::as_object_mut) {
            default_to(path, "type", "");
        }
    },
    prepare_create: |object| object["status"] = json!({"phase": "Pending"}),
    validate: validate_volume,
    validate_update: |new, old, faults| {
        let source = |object: &Value| {
            let fields = object["spec"].as_object().into_iter().flatten();
            fields
                .filter(|(key, _)| SOURCES.contains(&key.as_str()))
                .map(|(key, value)| (key.clone(), value.clone()))
                .collect::<serde_json::Map<_, _>>()
        };
        if source(new) != source(old) {
            let detail = "spec.persistentvolumesource is immutable after creation";
            faults.forbidden("spec.persistentvolumesource", detail);
        }
        faults.immutable(new["spec"].get("volumeMode"), old["spec"].get("volumeMode"), "spec.volumeMode");
        if old["spec"]["nodeAffinity"].is_object() {
            let path = "spec.nodeAffinity";
            faults.immutable(new["spec"].get("nodeAffinity"), old["spec"].get("nodeAffinity"), path);
        }
    },
    ..Strategy::PLAIN
};

pub(super) const CLAIM: Strategy = Strategy {
    default: |object| default_to(spec(object), "volumeMode", "Filesystem"),
    prepare_create: |object| {
        object["status"] = json!({"phase": "Pending"});
        sources(spec(object));
    },
    prepare_update: |new, _| sources(spec(new)),
    validate: |object, faults| claim_spec(&object["spec"], "spec", faults),
    validate_update: |new, old, faults| {
        let fixed = |object: &Value| {
            let mut spec = object["spec"].clone();
            if let Some(map) = spec.as_object_mut().filter(|_| old["status"]["phase"] == "Bound") {
                map.remove("resources");
                map.remove("volumeAttributesClassName");
            }
            spec
        };
        let (mut now, was) = (fixed(new), fixed(old));
        if was.get("volumeName").is_none() {
            // Binding may set the volume, once.
            now.as_object_mut().map(|map| map.remove("volumeName"));
        }
        if now != was {
            let detail = "spec is immutable after creation except resources.requests and volumeAttributesClassName for bound claims";
            faults.forbidden("spec", detail);
        }
        let size = |storage: &Value| storage.as_str().and_then(|text| crate::quantity::Quantity::parse(text).ok());
        // A claim may ask for less again while it has not been given more.
        let capacity = size(&old["status"]["capacity"]["storage"]);
        if capacity.is_some() && size(&new["spec"]["resources"]["requests"]["storage"]) < capacity {
            faults.forbidden("spec.resources.requests.storage", "field can not be less than status.capacity");
        }
    },
    validate_status: status::claim,
    ..Strategy::PLAIN
};

/// The old and the new way to name what a claim is filled from say the same. Another namespace is never named: nothing
/// here asks whether its owner agrees.
fn sources(spec: &mut serde_json::Map<String, Value>) {
    if let Some(reference) = spec.get_mut("dataSourceRef").and_then(Value::as_object_mut)
        && !vocab::weak::without("namespace")
    {
        reference.remove("namespace");
    }
    match (spec.get("dataSource").cloned(), spec.get("dataSourceRef").cloned()) {
        (Some(old), None) => drop(spec.insert("dataSourceRef".into(), old)),
        (None, Some(new)) => drop(spec.insert("dataSource".into(), new)),
        _ => {}
    }
}

/// Where a volume's bytes may be.
const SOURCES: [&str; 22] = [
    "hostPath",
    "gcePersistentDisk",
    "awsElasticBlockStore",
    "glusterfs",
    "nfs",
    "rbd",
    "quobyte",
    "cephfs",
    "iscsi",
    "cinder",
    "fc",
    "flexVolume",
    "flocker",
    "azureFile",
    "azureDisk",
    "vsphereVolume",
    "photonPersistentDisk",
    "portworxVolume",
    "scaleIO",
    "local",
    "storageos",
    "csi",
];

fn validate_volume(object: &Value, faults: &mut Faults) {
    let spec = &object["spec"];
    if meta::list_at(spec, &["accessModes"]).is_empty() {
        faults.required("spec.accessModes", "");
    }
    access_modes(spec, "spec", faults);
    let capacity = spec["capacity"].as_object().filter(|map| !map.is_empty());
    match capacity {
        None => faults.required("spec.capacity", ""),
        Some(map) if !map.contains_key("storage") || map.len() > 1 => {
            faults.push(crate::FieldError::unsupported("spec.capacity", spec["capacity"].clone(), &["storage"]));
        }
        Some(map) => positive(&map["storage"], "spec.capacity[storage]", faults),
    }
    let policies = ["Delete", "Recycle", "Retain"];
    faults.one_of(spec, "persistentVolumeReclaimPolicy", "spec", &policies);
    if spec["nodeAffinity"].is_object() {
        match &spec["nodeAffinity"]["required"] {
            Value::Object(_) => {
                node_selector(&spec["nodeAffinity"]["required"], "spec.nodeAffinity.required", faults);
            }
            _ => faults.required("spec.nodeAffinity.required", "must specify required node constraints"),
        }
    }
    let mut any = false;
    for kind in SOURCES.iter().filter(|kind| spec[**kind].is_object()) {
        let path = format!("spec.{kind}");
        if any {
            faults.forbidden(&path, "may not specify more than 1 volume type");
            continue;
        }
        any = true;
        volume_source(kind, spec, &path, faults);
    }
    if !any {
        faults.required("spec", "must specify a volume type");
    }
    if spec["hostPath"]["path"] == "/" && spec["persistentVolumeReclaimPolicy"] == "Recycle" {
        let detail = "may not be 'recycle' for a hostPath mount of '/'";
        faults.forbidden("spec.persistentVolumeReclaimPolicy", detail);
    }
    class_name(spec, "storageClassName", "spec", faults);
    faults.one_of(spec, "volumeMode", "spec", &["Block", "Filesystem"]);
}

fn volume_source(kind: &str, spec: &Value, path: &str, faults: &mut Faults) {
    let needs: &[&str] = match kind {
        "hostPath" | "local" => &["path"],
        "nfs" => &["server", "path"],
        "csi" => &["driver", "volumeHandle"],
        "iscsi" => &["targetPortal", "iqn"],
        _ => &[],
    };
    let text = |field: &str| spec[kind][field].as_str().unwrap_or_default();
    for field in needs.iter().filter(|field| text(field).is_empty()) {
        faults.required(&format!("{path}.{field}"), "");
    }
    if ["hostPath", "local"].contains(&kind) && text("path").split('/').any(|part| part == "..") {
        faults.invalid(&format!("{path}.path"), text("path"), "must not contain '..'");
    }
    if kind == "local" && !spec["nodeAffinity"].is_object() {
        faults.required("spec.nodeAffinity", "Local volume requires node affinity");
    }
}

fn positive(storage: &Value, path: &str, faults: &mut Faults) {
    let size = storage.as_str().and_then(|text| crate::quantity::Quantity::parse(text).ok());
    if size.is_some_and(|size| size.nanos() <= 0) {
        faults.invalid(path, storage.clone(), "must be greater than zero");
    }
}

fn class_name(spec: &Value, field: &str, path: &str, faults: &mut Faults) {
    if let Some(name) = spec[field].as_str().filter(|name| !name.is_empty()) {
        faults.all_invalid(&format!("{path}.{field}"), name, names::dns_subdomain(name));
    }
}

/// What a claim asks for; pods bring claims in their volumes, stateful sets in their templates.
pub(super) fn claim_spec(spec: &Value, path: &str, faults: &mut Faults) {
    if meta::list_at(spec, &["accessModes"]).is_empty() {
        faults.required(&format!("{path}.accessModes"), "at least 1 access mode is required");
    }
    if spec["selector"].is_object() {
        faults.label_selector(&spec["selector"], &format!("{path}.selector"));
    }
    access_modes(spec, path, faults);
    let storage = &spec["resources"]["requests"]["storage"];
    match storage {
        Value::Null => faults.required(&format!("{path}.resources[storage]"), ""),
        storage => positive(storage, &format!("{path}.resources[storage]"), faults),
    }
    class_name(spec, "storageClassName", path, faults);
    faults.one_of(spec, "volumeMode", path, &["Block", "Filesystem"]);
    for field in ["dataSource", "dataSourceRef"] {
        let source = &spec[field];
        if !source.is_object() {
            continue;
        }
        let text = |key: &str| source[key].as_str().unwrap_or_default();
        for key in ["name", "kind"].iter().filter(|key| text(key).is_empty()) {
            faults.required(&format!("{path}.{field}.{key}"), "");
        }
        if text("apiGroup").is_empty() && !["", "PersistentVolumeClaim"].contains(&text("kind")) {
            faults.invalid(&format!("{path}.{field}"), text("kind"), "");
        }
    }
    class_name(spec, "volumeAttributesClassName", path, faults);
}

fn access_modes(spec: &Value, path: &str, faults: &mut Faults) {
    let modes = meta::list_at(spec, &["accessModes"]);
    let path = format!("{path}.accessModes");
    for mode in modes.iter().filter(|mode| !mode.as_str().is_some_and(|mode| MODES.contains(&mode))) {
        faults.push(crate::FieldError::unsupported(path.clone(), mode.clone(), &MODES));
    }
    if modes.iter().any(|mode| mode == "ReadWriteOncePod") && modes.iter().any(|mode| mode != "ReadWriteOncePod") {
        faults.forbidden(&path, "may not use ReadWriteOncePod with other access modes");
    }
}

pub(super) fn strategy(resource: &str) -> Strategy {
    match resource {
        "storageclasses" => Strategy {
            default: |object| {
                if let Some(map) = object.as_object_mut() {
                    default_to(map, "reclaimPolicy", "Delete");
                    default_to(map, "volumeBindingMode", "Immediate");
                }
            },
            validate: |object, faults| {
                match object["provisioner"].as_str().unwrap_or_default() {
                    "" => faults.required("provisioner", ""),
                    name => faults.all_invalid("provisioner", name, names::qualified_name(&name.to_lowercase())),
                }
                if object["parameters"].get("").is_some() {
                    faults.invalid("parameters", "", "field can not be empty.");
                }
                faults.one_of(object, "reclaimPolicy", "", &["Delete", "Retain"]);
                faults.one_of(object, "volumeBindingMode", "", &["Immediate", "WaitForFirstConsumer"]);
            },
            validate_update: |new, old, faults| {
                for field in ["parameters", "provisioner", "reclaimPolicy"] {
                    if new.get(field) != old.get(field) {
                        faults.forbidden(field, &format!("updates to {field} are forbidden."));
                    }
                }
                faults.immutable(new.get("volumeBindingMode"), old.get("volumeBindingMode"), "volumeBindingMode");
            },
            ..Strategy::PLAIN
        },
        "csidrivers" => csi::DRIVER,
        "csinodes" => csi::NODE,
        "volumeattachments" => csi::ATTACHMENT,
        "csistoragecapacities" => csi::CAPACITY,
        "volumeattributesclasses" => csi::ATTRIBUTES_CLASS,
        _ => Strategy::PLAIN,
    }
}
