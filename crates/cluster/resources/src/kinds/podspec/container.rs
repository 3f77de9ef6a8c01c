//! Containers of all three kinds.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use super::source::{env, env_from};
use super::{probe, resources, security};
use crate::errors::FieldError;
use crate::kinds::rules::Faults;
use crate::meta::list_at;
use crate::names;

/// What containers are judged against besides themselves.
pub(super) struct Around<'a> {
    /// Names of the pod's volumes, and whether each is a claim.
    pub volumes: &'a BTreeMap<String, bool>,
    pub grace_secs: i64,
    pub host_network: bool,
    claims: BTreeSet<&'a str>,
}

pub(super) fn validate_all(spec: &Value, path: &str, volumes: &BTreeMap<String, bool>, faults: &mut Faults) {
    let claims = list_at(spec, &["resourceClaims"]).iter().filter_map(|claim| claim["name"].as_str()).collect();
    let around = Around {
        volumes,
        grace_secs: spec["terminationGracePeriodSeconds"].as_i64().unwrap_or(30),
        host_network: spec["hostNetwork"] == true,
        claims,
    };
    if list_at(spec, &["containers"]).is_empty() {
        faults.required(&format!("{path}.containers"), "");
    }
    let mut seen = BTreeSet::new();
    for list in ["containers", "initContainers", "ephemeralContainers"] {
        let mut host_ports = BTreeSet::new();
        for (at, container) in list_at(spec, &[list]).iter().enumerate() {
            let here = format!("{path}.{list}[{at}]");
            let name = container["name"].as_str().unwrap_or_default();
            if name.is_empty() {
                faults.required(&format!("{here}.name"), "");
            } else {
                faults.all_invalid(&format!("{here}.name"), name, names::dns_label(name));
                if !seen.insert(name) {
                    faults.push(FieldError::duplicate(format!("{here}.name"), name));
                }
            }
            common(container, &here, &around, faults);
            match list {
                "containers" => regular(container, &here, &around, faults),
                "initContainers" => init(container, &here, &around, faults),
                _ => ephemeral(container, &here, &seen, faults),
            }
            // Init containers run one after the other: each has its ports for itself.
            if list == "containers" {
                claim_host_ports(container, &here, &mut host_ports, faults);
            }
        }
    }
}

fn common(container: &Value, path: &str, around: &Around<'_>, faults: &mut Faults) {
    let image = container["image"].as_str().unwrap_or_default();
    if image.is_empty() {
        faults.required(&format!("{path}.image"), "");
    } else if image.trim() != image {
        faults.invalid(&format!("{path}.image"), image, "must not have leading or trailing whitespace");
    }
    faults.one_of(container, "terminationMessagePolicy", path, &["FallbackToLogsOnError", "File"]);
    ports(container, path, around, faults);
    for (at, variable) in list_at(container, &["env"]).iter().enumerate() {
        env(variable, &format!("{path}.env[{at}]"), faults);
    }
    for (at, from) in list_at(container, &["envFrom"]).iter().enumerate() {
        env_from(from, &format!("{path}.envFrom[{at}]"), faults);
    }
    mounts(container, path, around, faults);
    faults.one_of(container, "imagePullPolicy", path, &["Always", "IfNotPresent", "Never"]);
    resources::validate_resources(&container["resources"], &format!("{path}.resources"), faults);
    for (at, claim) in list_at(container, &["resources", "claims"]).iter().enumerate() {
        let name = claim["name"].as_str().unwrap_or_default();
        let here = format!("{path}.resources.claims[{at}].name");
        if name.is_empty() {
            faults.required(&here, "");
        } else if !around.claims.contains(name) {
            faults.push(FieldError::not_found(here, name));
        }
    }
    security::of_container(&container["securityContext"], &format!("{path}.securityContext"), faults);
    faults.one_of(container, "restartPolicy", path, &["Always", "Never", "OnFailure"]);
}

fn regular(container: &Value, path: &str, around: &Around<'_>, faults: &mut Faults) {
    probe::lifecycle(&container["lifecycle"], around.grace_secs, &format!("{path}.lifecycle"), faults);
    probe::all(container, path, faults);
}

/// Init containers that stay are like the others; those that end have no life to look after.
fn init(container: &Value, path: &str, around: &Around<'_>, faults: &mut Faults) {
    if container["restartPolicy"] == "Always" {
        return regular(container, path, around, faults);
    }
    for field in ["lifecycle", "livenessProbe", "readinessProbe", "startupProbe"] {
        if container[field].is_object() {
            let detail = "may not be set for init containers without restartPolicy=Always";
            faults.forbidden(&format!("{path}.{field}"), detail);
        }
    }
}

fn ephemeral(container: &Value, path: &str, names: &BTreeSet<&str>, faults: &mut Faults) {
    if let Some(target) = container["targetContainerName"].as_str().filter(|name| !name.is_empty())
        && !names.contains(target)
    {
        faults.push(FieldError::not_found(format!("{path}.targetContainerName"), target));
    }
    let detail = "cannot be set for an Ephemeral Container";
    for field in ["ports", "livenessProbe", "readinessProbe", "startupProbe", "lifecycle", "resources", "resizePolicy"]
    {
        let empty = match &container[field] {
            Value::Object(map) => map.is_empty(),
            Value::Array(list) => list.is_empty(),
            _ => true,
        };
        if !empty {
            faults.forbidden(&format!("{path}.{field}"), detail);
        }
    }
    for (at, mount) in list_at(container, &["volumeMounts"]).iter().enumerate() {
        for field in ["subPath", "subPathExpr"] {
            if mount[field].as_str().is_some_and(|text| !text.is_empty()) {
                faults.forbidden(&format!("{path}.volumeMounts[{at}].{field}"), detail);
            }
        }
    }
}

fn ports(container: &Value, path: &str, around: &Around<'_>, faults: &mut Faults) {
    let mut seen = BTreeSet::new();
    for (at, port) in list_at(container, &["ports"]).iter().enumerate() {
        let here = format!("{path}.ports[{at}]");
        if let Some(name) = port["name"].as_str().filter(|name| !name.is_empty()) {
            let wrong = names::port_name(name);
            if wrong.is_empty() && !seen.insert(name) {
                faults.push(FieldError::duplicate(format!("{here}.name"), name));
            }
            faults.all_invalid(&format!("{here}.name"), name, wrong);
        }
        match port["containerPort"].as_i64() {
            None | Some(0) => faults.required(&format!("{here}.containerPort"), ""),
            Some(_) => faults.port(&port["containerPort"], &format!("{here}.containerPort")),
        }
        if port["hostPort"].as_i64().is_some_and(|port| port != 0) {
            faults.port(&port["hostPort"], &format!("{here}.hostPort"));
        }
        faults.required_one_of(port, "protocol", &here, &["SCTP", "TCP", "UDP"]);
        if around.host_network && port["hostPort"] != port["containerPort"] {
            let detail = "must match `hostPort` when `hostNetwork` is true";
            faults.invalid(&format!("{here}.containerPort"), port["containerPort"].clone(), detail);
        }
    }
}

fn claim_host_ports(container: &Value, path: &str, taken: &mut BTreeSet<String>, faults: &mut Faults) {
    for (at, port) in list_at(container, &["ports"]).iter().enumerate() {
        let Some(number) = port["hostPort"].as_i64().filter(|port| *port != 0) else { continue };
        let part = |key: &str| port[key].as_str().unwrap_or_default();
        let place = format!("{}/{}/{number}", part("protocol"), part("hostIP"));
        if !taken.insert(place.clone()) {
            faults.push(FieldError::duplicate(format!("{path}.ports[{at}].hostPort"), place));
        }
    }
}

/// A path that stays below where it begins.
pub(super) fn local_path(text: &str, path: &str, faults: &mut Faults) {
    if text.starts_with('/') {
        faults.invalid(path, text, "must be a relative path");
    }
    no_backsteps(text, path, faults);
}

pub(super) fn no_backsteps(text: &str, path: &str, faults: &mut Faults) {
    if text.split('/').any(|part| part == "..") {
        faults.invalid(path, text, "must not contain '..'");
    }
}

fn mounts(container: &Value, path: &str, around: &Around<'_>, faults: &mut Faults) {
    let devices = list_at(container, &["volumeDevices"]);
    let device_paths: BTreeSet<&str> = devices.iter().filter_map(|device| device["devicePath"].as_str()).collect();
    let mut mounted = BTreeSet::new();
    for (at, mount) in list_at(container, &["volumeMounts"]).iter().enumerate() {
        let here = format!("{path}.volumeMounts[{at}]");
        let text = |key: &str| mount[key].as_str().unwrap_or_default();
        let name = text("name");
        if name.is_empty() {
            faults.required(&format!("{here}.name"), "");
        } else if !around.volumes.contains_key(name) {
            faults.push(FieldError::not_found(format!("{here}.name"), name));
        }
        let place = text("mountPath");
        if place.is_empty() {
            faults.required(&format!("{here}.mountPath"), "");
        }
        if !mounted.insert(place) {
            faults.invalid(&format!("{here}.mountPath"), place, "must be unique");
        }
        if !place.is_empty() && device_paths.contains(place) {
            faults.invalid(&format!("{here}.mountPath"), place, "must not already exist in volumeDevices");
        }
        local_path(text("subPath"), &format!("{here}.subPath"), faults);
        if !text("subPathExpr").is_empty() {
            if !text("subPath").is_empty() {
                let detail = "subPathExpr and subPath are mutually exclusive";
                faults.invalid(&format!("{here}.subPathExpr"), text("subPathExpr"), detail);
            }
            local_path(text("subPathExpr"), &format!("{here}.subPathExpr"), faults);
        }
        let propagations = ["Bidirectional", "HostToContainer", "None"];
        faults.one_of(mount, "mountPropagation", &here, &propagations);
        if mount["mountPropagation"] == "Bidirectional" && container["securityContext"]["privileged"] != true {
            let detail = "Bidirectional mount propagation is available only to privileged containers";
            faults.forbidden(&format!("{here}.mountPropagation"), detail);
        }
    }
    let (mut names_seen, mut paths_seen) = (BTreeSet::new(), BTreeSet::new());
    for (at, device) in devices.iter().enumerate() {
        let here = format!("{path}.volumeDevices[{at}]");
        let text = |key: &str| device[key].as_str().unwrap_or_default();
        let (name, place) = (text("name"), text("devicePath"));
        if name.is_empty() {
            faults.required(&format!("{here}.name"), "");
        } else if !names_seen.insert(name) {
            faults.invalid(&format!("{here}.name"), name, "must be unique");
        } else {
            match around.volumes.get(name) {
                None => faults.push(FieldError::not_found(format!("{here}.name"), name)),
                Some(false) => {
                    let detail = "can only use volume source type of PersistentVolumeClaim or Ephemeral for block mode";
                    faults.invalid(&format!("{here}.name"), name, detail);
                }
                Some(true) => {}
            }
        }
        if place.is_empty() {
            faults.required(&format!("{here}.devicePath"), "");
        } else if !paths_seen.insert(place) {
            faults.invalid(&format!("{here}.devicePath"), place, "must be unique");
        } else if mounted.contains(place) {
            faults.invalid(&format!("{here}.devicePath"), place, "must not already exist in volumeMounts");
        }
    }
}
