//! PersistentVolume, PersistentVolumeClaim, StorageClass and the CSI kinds.

use serde_json::{Value, json};

use super::Strategy;
use super::rules::{Faults, default_to, spec};
use crate::meta;

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
    validate: |object, faults| {
        access_modes(&object["spec"], faults);
        if object["spec"]["capacity"]["storage"].is_null() {
            faults.required("spec.capacity", "");
        }
        let policies = ["Delete", "Recycle", "Retain"];
        faults.one_of(&object["spec"], "persistentVolumeReclaimPolicy", "spec", &policies);
    },
    ..Strategy::PLAIN
};

pub(super) const CLAIM: Strategy = Strategy {
    default: |object| default_to(spec(object), "volumeMode", "Filesystem"),
    prepare_create: |object| object["status"] = json!({"phase": "Pending"}),
    validate: |object, faults| {
        access_modes(&object["spec"], faults);
        if object["spec"]["resources"]["requests"]["storage"].is_null() {
            faults.required("spec.resources[storage]", "");
        }
    },
    validate_update: |new, old, faults| {
        let fixed = |object: &Value| {
            let mut spec = object["spec"].clone();
            if let Some(map) = spec.as_object_mut() {
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
    },
    ..Strategy::PLAIN
};

fn access_modes(spec: &Value, faults: &mut Faults) {
    let modes = meta::list_at(spec, &["accessModes"]);
    if modes.is_empty() {
        faults.required("spec.accessModes", "at least 1 access mode is required");
    }
    for mode in modes.iter().filter(|mode| !mode.as_str().is_some_and(|mode| MODES.contains(&mode))) {
        faults.push(crate::FieldError::unsupported("spec.accessModes", mode.clone(), &MODES));
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
                if object["provisioner"].as_str().unwrap_or_default().is_empty() {
                    faults.required("provisioner", "");
                }
                faults.one_of(object, "reclaimPolicy", "", &["Delete", "Retain"]);
                faults.one_of(object, "volumeBindingMode", "", &["Immediate", "WaitForFirstConsumer"]);
            },
            validate_update: |new, old, faults| {
                for field in ["parameters", "provisioner", "reclaimPolicy"] {
                    if new.get(field) != old.get(field) {
                        faults.forbidden(field, "updates to this field are forbidden.");
                    }
                }
                faults.immutable(new.get("volumeBindingMode"), old.get("volumeBindingMode"), "volumeBindingMode");
            },
            ..Strategy::PLAIN
        },
        "csidrivers" => Strategy {
            default: |object| {
                let spec = spec(object);
                default_to(spec, "attachRequired", true);
                default_to(spec, "podInfoOnMount", false);
                default_to(spec, "storageCapacity", false);
                default_to(spec, "requiresRepublish", false);
                default_to(spec, "seLinuxMount", false);
                default_to(spec, "fsGroupPolicy", "ReadWriteOnceWithFSType");
                default_to(spec, "volumeLifecycleModes", json!(["Persistent"]));
            },
            generation: true,
            ..Strategy::PLAIN
        },
        _ => Strategy::PLAIN,
    }
}
