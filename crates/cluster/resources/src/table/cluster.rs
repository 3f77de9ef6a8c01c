//! Namespaces, nodes, what is kept in them, and what happened.

use std::collections::BTreeSet;

use jiff::Timestamp;
use serde_json::Value;

use super::text::{age, condition, name, or, or_none, or_unset, since, some_of, text};
use super::{AGE, NAME, Table, integer, string, wide};
use crate::meta::{self, at, list_at, map_at, str_at};

pub(super) const CONFIG_MAP: Table = Table {
    columns: &[NAME, string("Data"), AGE],
    cells: |object, now| {
        let count = map_at(object, &["data"]).count() + map_at(object, &["binaryData"]).count();
        vec![name(object), count.into(), age(object, now)]
    },
};

pub(super) const SECRET: Table = Table {
    columns: &[NAME, string("Type"), integer("Data"), AGE],
    cells: |object, now| {
        vec![name(object), text(object, &["type"]), map_at(object, &["data"]).count().into(), age(object, now)]
    },
};

pub(super) const NAMESPACE: Table = Table {
    columns: &[NAME, string("Status"), AGE],
    cells: |object, now| vec![name(object), text(object, &["status", "phase"]), age(object, now)],
};

pub(super) const NODE: Table = Table {
    columns: &[
        NAME,
        string("Status"),
        string("Roles"),
        AGE,
        string("Version"),
        wide("Internal-IP"),
        wide("External-IP"),
        wide("OS-Image"),
        wide("Kernel-Version"),
        wide("Container-Runtime"),
    ],
    cells: |node, now| {
        let address = |kind: &str| {
            let found = list_at(node, &["status", "addresses"]).iter().find(|address| address["type"] == kind);
            or_none(found.map_or("", |address| address["address"].as_str().unwrap_or_default()))
        };
        let info = |field: &str| str_at(node, &["status", "nodeInfo", field]);
        vec![
            name(node),
            node_status(node).into(),
            node_roles(node),
            age(node, now),
            info("kubeletVersion").into(),
            address("InternalIP"),
            address("ExternalIP"),
            or(info("osImage"), "<unknown>"),
            or(info("kernelVersion"), "<unknown>"),
            or(info("containerRuntimeVersion"), "<unknown>"),
        ]
    },
};

fn node_status(node: &Value) -> String {
    let ready = condition(node, "Ready").and_then(|condition| condition["status"].as_str());
    let mut text = match ready {
        Some("True") => "Ready".to_owned(),
        Some(_) => "NotReady".to_owned(),
        None => "Unknown".to_owned(),
    };
    if node["spec"]["unschedulable"] == true {
        text += ",SchedulingDisabled";
    }
    text
}

fn node_roles(node: &Value) -> Value {
    let roles: BTreeSet<&str> = map_at(node, &["metadata", "labels"])
        .filter_map(|(key, value)| match key.strip_prefix("node-role.kubernetes.io/") {
            Some(role) => Some(role),
            None if key == "kubernetes.io/role" => value.as_str(),
            None => None,
        })
        .filter(|role| !role.is_empty())
        .collect();
    or_none(&roles.into_iter().collect::<Vec<_>>().join(","))
}

pub(super) const EVENT: Table = Table {
    columns: &[
        string("Last Seen"),
        string("Type"),
        string("Reason"),
        string("Object"),
        wide("Subobject"),
        wide("Source"),
        string("Message"),
        wide("First Seen"),
        wide("Count"),
        wide("Name"),
    ],
    cells: event,
};

/// Both groups' events, whose fields have different names.
fn event(object: &Value, now: Timestamp) -> Vec<Value> {
    let text = |path: &[&str]| str_at(object, path);
    let pick = |fields: &[&str]| fields.iter().map(|field| text(&[field])).find(|text| !text.is_empty()).unwrap_or("");
    let time = |fields: &[&str]| match pick(fields) {
        "" => Value::from("<unknown>"),
        time => since(time, now),
    };
    let involved = if object.get("involvedObject").is_some() { "involvedObject" } else { "regarding" };
    let kind = text(&[involved, "kind"]).to_lowercase();
    let of = match text(&[involved, "name"]) {
        "" => kind,
        name => format!("{kind}/{name}"),
    };
    let source = if object.get("deprecatedSource").is_some() { "deprecatedSource" } else { "source" };
    let either = |first: &'static str, then: &[&str]| match text(&[source, first]) {
        "" => pick(then).to_owned(),
        text => text.to_owned(),
    };
    let mut by = vec![either("component", &["reportingComponent", "reportingController"])];
    by.extend(Some(either("host", &["reportingInstance"])).filter(|host| !host.is_empty()));
    let once = at(object, &["count"]).or(at(object, &["deprecatedCount"])).and_then(Value::as_i64).unwrap_or(0).max(1);
    let count = at(object, &["series", "count"]).and_then(Value::as_i64).unwrap_or(once);
    vec![
        match text(&["series", "lastObservedTime"]) {
            "" => time(&[
                "lastTimestamp",
                "deprecatedLastTimestamp",
                "firstTimestamp",
                "deprecatedFirstTimestamp",
                "eventTime",
            ]),
            seen => since(seen, now),
        },
        text(&["type"]).into(),
        text(&["reason"]).into(),
        of.into(),
        text(&[involved, "fieldPath"]).into(),
        by.join(", ").into(),
        pick(&["message", "note"]).trim().into(),
        time(&["firstTimestamp", "deprecatedFirstTimestamp", "eventTime"]),
        count.into(),
        meta::name(object).into(),
    ]
}

pub(super) const COMPONENT_STATUS: Table = Table {
    columns: &[NAME, string("Status"), string("Message"), string("Error")],
    cells: |object, _| {
        let healthy = list_at(object, &["conditions"]).iter().find(|condition| condition["type"] == "Healthy");
        let field = |field: &str| healthy.map_or("", |condition| condition[field].as_str().unwrap_or_default());
        let status = match field("status") {
            "True" => "Healthy",
            "False" => "Unhealthy",
            _ => "Unknown",
        };
        vec![name(object), status.into(), field("message").into(), field("error").into()]
    },
};

pub(super) const LEASE: Table = Table {
    columns: &[NAME, string("Holder"), AGE],
    cells: |object, now| vec![name(object), text(object, &["spec", "holderIdentity"]), age(object, now)],
};

pub(super) const LEASE_CANDIDATE: Table = Table {
    columns: &[NAME, string("LeaseName"), string("BinaryVersion"), string("EmulationVersion"), AGE],
    cells: |object, now| {
        vec![
            name(object),
            text(object, &["spec", "leaseName"]),
            text(object, &["spec", "binaryVersion"]),
            text(object, &["spec", "emulationVersion"]),
            age(object, now),
        ]
    },
};

pub(super) const RUNTIME_CLASS: Table = Table {
    columns: &[NAME, string("Handler"), AGE],
    cells: |object, now| vec![name(object), text(object, &["handler"]), age(object, now)],
};

pub(super) const STORAGE_VERSION: Table = Table {
    columns: &[NAME, string("CommonEncodingVersion"), string("StorageVersions"), AGE],
    cells: |object, now| {
        let one = |version: &Value| {
            let part = |key: &str| version[key].as_str().unwrap_or_default();
            format!("{}={}", part("apiServerID"), part("encodingVersion"))
        };
        let versions = list_at(object, &["status", "storageVersions"]).iter().map(one).collect();
        vec![
            name(object),
            or_unset(str_at(object, &["status", "commonEncodingVersion"])),
            some_of(versions, "<unset>"),
            age(object, now),
        ]
    },
};

pub(super) const API_SERVICE: Table = Table {
    columns: &[NAME, string("Service"), string("Available"), AGE],
    cells: |object, now| {
        let service = &object["spec"]["service"];
        let service = match service["name"].as_str() {
            Some(name) => format!("{}/{name}", service["namespace"].as_str().unwrap_or_default()),
            None => "Local".into(),
        };
        let available = match condition(object, "Available") {
            None => "Unknown".to_owned(),
            Some(condition) => match (condition["status"].as_str().unwrap_or_default(), &condition["reason"]) {
                ("True", _) => "True".to_owned(),
                (status, reason) => format!("{status} ({})", reason.as_str().unwrap_or_default()),
            },
        };
        vec![name(object), service.into(), available.into(), age(object, now)]
    },
};
