//! Volumes, claims, classes, drivers and devices.

use serde_json::Value;

use super::text::{age, name, or_none, or_unset, terminating_or, text};
use super::{AGE, NAME, Table, boolean, integer, string, wide};
use crate::meta::{self, list_at, str_at};

/// In the order that upstream writes them, each once.
fn modes(modes: &Value) -> Value {
    let short =
        [("ReadWriteOnce", "RWO"), ("ReadOnlyMany", "ROX"), ("ReadWriteMany", "RWX"), ("ReadWriteOncePod", "RWOP")];
    let has = |mode: &str| modes.as_array().into_iter().flatten().any(|own| *own == mode);
    let found: Vec<&str> = short.into_iter().filter(|(mode, _)| has(mode)).map(|(_, short)| short).collect();
    found.join(",").into()
}

/// The class by the field, or by the annotation that came before it.
fn class(object: &Value) -> Value {
    match str_at(object, &["metadata", "annotations", "volume.beta.kubernetes.io/storage-class"]) {
        "" => text(object, &["spec", "storageClassName"]),
        class => class.into(),
    }
}

pub(super) const VOLUME: Table = Table {
    columns: &[
        NAME,
        string("Capacity"),
        string("Access Modes"),
        string("Reclaim Policy"),
        string("Status"),
        string("Claim"),
        string("StorageClass"),
        string("VolumeAttributesClass"),
        string("Reason"),
        AGE,
        wide("VolumeMode"),
    ],
    cells: |object, now| {
        let claim = &object["spec"]["claimRef"];
        let claim = match claim["name"].as_str() {
            Some(name) => format!("{}/{name}", claim["namespace"].as_str().unwrap_or_default()),
            None => String::new(),
        };
        vec![
            name(object),
            text(object, &["spec", "capacity", "storage"]),
            modes(&object["spec"]["accessModes"]),
            text(object, &["spec", "persistentVolumeReclaimPolicy"]),
            terminating_or(object, str_at(object, &["status", "phase"])),
            claim.into(),
            class(object),
            or_unset(str_at(object, &["spec", "volumeAttributesClassName"])),
            text(object, &["status", "reason"]),
            age(object, now),
            or_unset(str_at(object, &["spec", "volumeMode"])),
        ]
    },
};

pub(super) const CLAIM: Table = Table {
    columns: &[
        NAME,
        string("Status"),
        string("Volume"),
        string("Capacity"),
        string("Access Modes"),
        string("StorageClass"),
        string("VolumeAttributesClass"),
        AGE,
        wide("VolumeMode"),
    ],
    cells: |object, now| {
        let volume = str_at(object, &["spec", "volumeName"]);
        let (capacity, modes) = match (volume, str_at(object, &["status", "capacity", "storage"])) {
            ("", _) => ("".into(), "".into()),
            (_, "") => ("0".into(), modes(&object["status"]["accessModes"])),
            (_, size) => (Value::from(size), modes(&object["status"]["accessModes"])),
        };
        vec![
            name(object),
            terminating_or(object, str_at(object, &["status", "phase"])),
            volume.into(),
            capacity,
            modes,
            class(object),
            or_unset(str_at(object, &["spec", "volumeAttributesClassName"])),
            age(object, now),
            or_unset(str_at(object, &["spec", "volumeMode"])),
        ]
    },
};

pub(super) const CLASS: Table = Table {
    columns: &[
        NAME,
        string("Provisioner"),
        string("ReclaimPolicy"),
        string("VolumeBindingMode"),
        boolean("AllowVolumeExpansion"),
        AGE,
    ],
    cells: |object, now| {
        let default =
            ["storageclass.kubernetes.io/is-default-class", "storageclass.beta.kubernetes.io/is-default-class"]
                .iter()
                .any(|key| str_at(object, &["metadata", "annotations", key]) == "true");
        let name = meta::name(object);
        vec![
            (if default { format!("{name} (default)") } else { name.into() }).into(),
            text(object, &["provisioner"]),
            text(object, &["reclaimPolicy"]),
            text(object, &["volumeBindingMode"]),
            (object["allowVolumeExpansion"] == true).into(),
            age(object, now),
        ]
    },
};

pub(super) const ATTACHMENT: Table = Table {
    columns: &[NAME, string("Attacher"), string("PV"), string("Node"), boolean("Attached"), AGE],
    cells: |object, now| {
        vec![
            name(object),
            text(object, &["spec", "attacher"]),
            text(object, &["spec", "source", "persistentVolumeName"]),
            text(object, &["spec", "nodeName"]),
            (object["status"]["attached"] == true).into(),
            age(object, now),
        ]
    },
};

pub(super) const ATTRIBUTES_CLASS: Table = Table {
    columns: &[NAME, string("DriverName"), AGE],
    cells: |object, now| vec![name(object), text(object, &["driverName"]), age(object, now)],
};

pub(super) const CSI_DRIVER: Table = Table {
    columns: &[
        NAME,
        boolean("AttachRequired"),
        boolean("PodInfoOnMount"),
        boolean("StorageCapacity"),
        string("TokenRequests"),
        boolean("RequiresRepublish"),
        string("Modes"),
        AGE,
    ],
    cells: |object, now| {
        let spec = &object["spec"];
        let audiences = list_at(spec, &["tokenRequests"]).iter();
        let audiences: Vec<&str> = audiences.map(|token| token["audience"].as_str().unwrap_or_default()).collect();
        let modes: Vec<&str> = list_at(spec, &["volumeLifecycleModes"]).iter().filter_map(Value::as_str).collect();
        vec![
            name(object),
            (spec["attachRequired"] != false).into(),
            (spec["podInfoOnMount"] == true).into(),
            (spec["storageCapacity"] == true).into(),
            (if spec["tokenRequests"].is_array() { audiences.join(",") } else { "<unset>".into() }).into(),
            (spec["requiresRepublish"] == true).into(),
            or_none(&modes.join(",")),
            age(object, now),
        ]
    },
};

pub(super) const CSI_NODE: Table = Table {
    columns: &[NAME, integer("Drivers"), AGE],
    cells: |object, now| vec![name(object), list_at(object, &["spec", "drivers"]).len().into(), age(object, now)],
};

pub(super) const CSI_CAPACITY: Table = Table {
    columns: &[NAME, string("StorageClass"), string("Capacity")],
    cells: |object, _| vec![name(object), text(object, &["storageClassName"]), text(object, &["capacity"])],
};

pub(super) const RESOURCE_CLAIM: Table = Table {
    columns: &[NAME, string("State"), AGE],
    cells: |object, now| {
        let ending = meta::is_terminating(object);
        let mut states = Vec::new();
        if ending {
            states.push("deleted");
        }
        if object["status"]["allocation"].is_object() {
            states.push("allocated");
            if !list_at(object, &["status", "reservedFor"]).is_empty() {
                states.push("reserved");
            }
        } else if !ending {
            states.push("pending");
        }
        vec![name(object), states.join(",").into(), age(object, now)]
    },
};

pub(super) const RESOURCE_SLICE: Table = Table {
    columns: &[NAME, string("Node"), string("Driver"), string("Pool"), AGE],
    cells: |object, now| {
        vec![
            name(object),
            or_unset(str_at(object, &["spec", "nodeName"])),
            text(object, &["spec", "driver"]),
            text(object, &["spec", "pool", "name"]),
            age(object, now),
        ]
    },
};
