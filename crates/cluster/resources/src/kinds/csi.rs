//! CSIDriver, CSINode, CSIStorageCapacity, VolumeAttachment, VolumeAttributesClass.

use serde_json::json;

use super::Strategy;
use super::rules::{default_to, spec};
use crate::{FieldError, meta, names};

pub(super) const DRIVER: Strategy = Strategy {
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
    validate: |object, faults| {
        let spec = &object["spec"];
        if meta::name(object).len() > 63 {
            faults.push(FieldError::too_long("metadata.name", 63));
        }
        faults.one_of(spec, "fsGroupPolicy", "spec", &["File", "None", "ReadWriteOnceWithFSType"]);
        for (at, mode) in meta::list_at(spec, &["volumeLifecycleModes"]).iter().enumerate() {
            if *mode != "Ephemeral" && *mode != "Persistent" {
                let path = format!("spec.volumeLifecycleModes[{at}]");
                faults.push(FieldError::unsupported(path, mode.clone(), &["Ephemeral", "Persistent"]));
            }
        }
        let mut audiences = Vec::new();
        for (at, request) in meta::list_at(spec, &["tokenRequests"]).iter().enumerate() {
            let path = format!("spec.tokenRequests[{at}]");
            if audiences.contains(&&request["audience"]) {
                faults.push(FieldError::duplicate(format!("{path}.audience"), request["audience"].clone()));
            }
            audiences.push(&request["audience"]);
            if let Some(secs) = request["expirationSeconds"].as_i64().filter(|secs| *secs < 600) {
                let detail = "may not specify a duration less than 10 minutes";
                faults.invalid(&format!("{path}.expirationSeconds"), secs, detail);
            }
        }
    },
    validate_update: |new, old, faults| {
        for field in ["attachRequired", "volumeLifecycleModes"] {
            faults.immutable(new["spec"].get(field), old["spec"].get(field), &format!("spec.{field}"));
        }
    },
    generation: true,
    ..Strategy::PLAIN
};

pub(super) const NODE: Strategy = Strategy {
    validate: |object, faults| {
        let mut seen = std::collections::BTreeSet::new();
        for (at, driver) in meta::list_at(object, &["spec", "drivers"]).iter().enumerate() {
            let path = format!("spec.drivers[{at}]");
            match driver["name"].as_str().unwrap_or_default() {
                "" => faults.required(&format!("{path}.name"), ""),
                name if !seen.insert(name) => faults.push(FieldError::duplicate(format!("{path}.name"), name)),
                name => faults.all_invalid(&format!("{path}.name"), name, names::dns_subdomain(&name.to_lowercase())),
            }
            if driver["nodeID"].as_str().unwrap_or_default().is_empty() {
                faults.required(&format!("{path}.nodeID"), "");
            }
            faults.non_negative(&driver["allocatable"], "count", &format!("{path}.allocatable"));
        }
    },
    ..Strategy::PLAIN
};

pub(super) const ATTACHMENT: Strategy = Strategy {
    validate: |object, faults| {
        let spec = &object["spec"];
        for field in ["attacher", "nodeName"] {
            if spec[field].as_str().unwrap_or_default().is_empty() {
                faults.required(&format!("spec.{field}"), "");
            }
        }
        let (by_name, inline) =
            (!spec["source"]["persistentVolumeName"].is_null(), spec["source"]["inlineVolumeSpec"].is_object());
        match (by_name, inline) {
            (true, true) => {
                faults
                    .forbidden("spec.source", "must specify exactly one of inlineVolumeSpec and persistentVolumeName");
            }
            (false, false) => {
                faults.required("spec.source", "must specify exactly one of inlineVolumeSpec and persistentVolumeName");
            }
            _ => {}
        }
    },
    validate_update: |new, old, faults| {
        if new["spec"] != old["spec"] {
            faults.invalid("spec", new["spec"].clone(), "field is immutable");
        }
    },
    ..Strategy::PLAIN
};

pub(super) const CAPACITY: Strategy = Strategy {
    validate: |object, faults| {
        let class = object["storageClassName"].as_str().unwrap_or_default();
        faults.all_invalid("storageClassName", class, names::dns_subdomain(class));
        for field in ["capacity", "maximumVolumeSize"] {
            let size = object[field].as_str().and_then(|text| crate::quantity::Quantity::parse(text).ok());
            if size.is_some_and(|size| size.is_negative()) {
                faults.invalid(field, object[field].clone(), "must be greater than or equal to 0");
            }
        }
        if object["nodeTopology"].is_object() {
            faults.label_selector(&object["nodeTopology"], "nodeTopology");
        }
    },
    validate_update: |new, old, faults| {
        for field in ["nodeTopology", "storageClassName"] {
            faults.immutable(new.get(field), old.get(field), field);
        }
    },
    ..Strategy::PLAIN
};

pub(super) const ATTRIBUTES_CLASS: Strategy = Strategy {
    validate: |object, faults| {
        if object["driverName"].as_str().unwrap_or_default().is_empty() {
            faults.required("driverName", "");
        }
        if object["parameters"].as_object().is_none_or(serde_json::Map::is_empty) {
            faults.required("parameters", "must contain at least one key/value pair");
        }
        if object["parameters"].get("").is_some() {
            faults.invalid("parameters", "", "field can not be empty.");
        }
    },
    validate_update: |new, old, faults| {
        for field in ["driverName", "parameters"] {
            if new.get(field) != old.get(field) {
                faults.forbidden(field, &format!("updates to {field} are forbidden."));
            }
        }
    },
    ..Strategy::PLAIN
};
