//! The kinds of dynamic resource allocation: DeviceClass, DeviceTaintRule, ResourceClaim, ResourceClaimTemplate, ResourceSlice.

use serde_json::{Map, Value};

use super::Strategy;
use super::rules::{Faults, default_to, each, sub};
use crate::{FieldError, meta, names};

pub mod beta;

/// Alternatives of one request.
const CHOICES_MAX: usize = 8;

const CLAIM: Strategy = Strategy {
    default: |object| default_claim(object, &["spec"]),
    validate: |object, faults| validate_claim(&object["spec"], "spec", faults),
    validate_update: fixed,
    ..Strategy::PLAIN
};

const TEMPLATE: Strategy = Strategy {
    default: |object| default_claim(object, &["spec", "spec"]),
    validate: |object, faults| validate_claim(&object["spec"]["spec"], "spec.spec", faults),
    validate_update: fixed,
    ..Strategy::PLAIN
};

const SLICE: Strategy = Strategy {
    validate: validate_slice,
    validate_update: |new, old, faults| {
        for path in [&["pool", "name"][..], &["driver"], &["nodeName"]] {
            let value = |object: &Value| meta::at(&object["spec"], path).cloned().unwrap_or("".into());
            if value(new) != value(old) {
                faults.invalid(&format!("spec.{}", path.join(".")), value(new), "field is immutable");
            }
        }
    },
    generation: true,
    ..Strategy::PLAIN
};

pub(super) fn strategy(resource: &str) -> Strategy {
    match resource {
        "resourceclaims" => CLAIM,
        "resourceclaimtemplates" => TEMPLATE,
        "devicetaintrules" => Strategy { validate: validate_taint_rule, generation: true, ..Strategy::PLAIN },
        "resourceslices" => SLICE,
        "deviceclasses" => Strategy {
            validate: |object, faults| validate_selectors(&object["spec"], "spec", faults),
            generation: true,
            ..Strategy::PLAIN
        },
        _ => Strategy::PLAIN,
    }
}

/// One device of the class, where nothing else is said.
fn default_claim(object: &mut Value, spec: &[&str]) {
    let requests = [spec, &["devices", "requests"]].concat();
    for request in meta::items_mut(object, &requests).filter_map(Value::as_object_mut) {
        sub(request, "exactly").into_iter().for_each(default_request);
        each(request, "firstAvailable").for_each(default_request);
    }
}

fn default_request(request: &mut Map<String, Value>) {
    default_to(request, "allocationMode", "ExactCount");
    if request["allocationMode"] == "ExactCount" && request.get("count").and_then(Value::as_i64).unwrap_or(0) == 0 {
        request.insert("count".to_owned(), 1.into());
    }
    for toleration in each(request, "tolerations") {
        default_to(toleration, "operator", "Equal");
    }
}

fn validate_taint_rule(object: &Value, faults: &mut Faults) {
    let spec = &object["spec"];
    let selector = &spec["deviceSelector"];
    let given = |field: &str| selector[field].as_str();
    if let Some(driver) = given("driver") {
        driver_name(driver, "spec.deviceSelector.driver", faults);
    }
    if let Some(pool) = given("pool") {
        pool_name(pool, "spec.deviceSelector.pool", faults);
    }
    if let Some(device) = given("device") {
        faults.all_invalid("spec.deviceSelector.device", device, names::dns_label(device));
    }
    validate_taint(&spec["taint"], "spec.taint", faults);
    for (at, condition) in meta::list_at(object, &["status", "conditions"]).iter().enumerate() {
        let path = format!("status.conditions[{at}]");
        faults.required_one_of(condition, "status", &path, &["False", "True", "Unknown"]);
    }
}

fn validate_taint(taint: &Value, path: &str, faults: &mut Faults) {
    let text = |field: &str| taint[field].as_str().unwrap_or_default();
    match text("key") {
        "" => faults.required(&format!("{path}.key"), ""),
        key => faults.all_invalid(&format!("{path}.key"), key, names::qualified_name(key)),
    }
    if !text("value").is_empty() {
        faults.all_invalid(&format!("{path}.value"), text("value"), names::label_value(text("value")));
    }
    faults.required_one_of(taint, "effect", path, &["NoExecute", "NoSchedule", "None"]);
}

fn driver_name(driver: &str, path: &str, faults: &mut Faults) {
    match driver {
        "" => faults.required(path, ""),
        driver => {
            if driver.len() > 63 {
                faults.push(FieldError::new(path, crate::errors::FaultKind::TooLong(63)));
            }
            faults.all_invalid(path, driver, names::dns_subdomain(driver));
        }
    }
}

/// Subdomains with slashes between them.
fn pool_name(pool: &str, path: &str, faults: &mut Faults) {
    if pool.is_empty() {
        return faults.required(path, "");
    }
    if pool.len() > 253 {
        faults.push(FieldError::new(path, crate::errors::FaultKind::TooLong(253)));
    }
    for part in pool.split('/') {
        faults.all_invalid(path, part, names::dns_subdomain(part));
    }
}

fn fixed(new: &Value, old: &Value, faults: &mut Faults) {
    if new["spec"] != old["spec"] {
        faults.invalid("spec", new["spec"].clone(), "field is immutable");
    }
}

fn validate_claim(spec: &Value, path: &str, faults: &mut Faults) {
    let mut seen = std::collections::BTreeSet::new();
    for (at, request) in meta::list_at(spec, &["devices", "requests"]).iter().enumerate() {
        let path = format!("{path}.devices.requests[{at}]");
        let name = request["name"].as_str().unwrap_or_default();
        match name {
            "" => faults.required(&format!("{path}.name"), ""),
            name if !seen.insert(name) => faults.push(FieldError::duplicate(format!("{path}.name"), name)),
            name => faults.all_invalid(&format!("{path}.name"), name, names::dns_label(name)),
        }
        let exactly = request["exactly"].is_object();
        let choices = meta::list_at(request, &["firstAvailable"]);
        match (exactly, choices.is_empty()) {
            (true, false) => {
                faults.invalid(
                    &path,
                    Value::Null,
                    "exactly one of `exactly` or `firstAvailable` is required, but multiple fields are set",
                );
            }
            (false, true) => faults.required(&path, "exactly one of `exactly` or `firstAvailable` is required"),
            _ => {}
        }
        if exactly {
            validate_request(&request["exactly"], &format!("{path}.exactly"), faults);
        }
        let mut chosen = std::collections::BTreeSet::new();
        for (at, choice) in choices.iter().enumerate() {
            let path = format!("{path}.firstAvailable[{at}]");
            match choice["name"].as_str().unwrap_or_default() {
                "" => faults.required(&format!("{path}.name"), ""),
                name if !chosen.insert(name) => faults.push(FieldError::duplicate(format!("{path}.name"), name)),
                name => faults.all_invalid(&format!("{path}.name"), name, names::dns_label(name)),
            }
            validate_request(choice, &path, faults);
        }
        faults.at_most(choices, CHOICES_MAX, &format!("{path}.firstAvailable"));
    }
}

/// How many devices of which class.
fn validate_request(request: &Value, path: &str, faults: &mut Faults) {
    match request["deviceClassName"].as_str().unwrap_or_default() {
        "" => faults.required(&format!("{path}.deviceClassName"), ""),
        name => faults.all_invalid(&format!("{path}.deviceClassName"), name, names::dns_subdomain(name)),
    }
    validate_selectors(request, path, faults);
    let count = request["count"].as_i64().unwrap_or(0);
    match request["allocationMode"].as_str() {
        Some("All") if count != 0 => {
            faults.invalid(&format!("{path}.count"), count, "must not be specified when allocationMode is 'All'");
        }
        Some("ExactCount") if count <= 0 => {
            faults.invalid(&format!("{path}.count"), count, "must be greater than zero")
        }
        _ => faults.one_of(request, "allocationMode", path, &["All", "ExactCount"]),
    }
}

/// CEL selectors of devices.
fn validate_selectors(object: &Value, path: &str, faults: &mut Faults) {
    for (at, selector) in meta::list_at(object, &["selectors"]).iter().enumerate() {
        let path = format!("{path}.selectors[{at}].cel.expression");
        match selector["cel"]["expression"].as_str().unwrap_or_default().trim() {
            "" => faults.required(&path, ""),
            source => {
                if let Err(error) = cel::Program::compile(source, &["device"]) {
                    faults.invalid(&path, source, format!("compilation failed: {error}"));
                }
            }
        }
    }
}

fn validate_slice(object: &Value, faults: &mut Faults) {
    let spec = &object["spec"];
    driver_name(spec["driver"].as_str().unwrap_or_default(), "spec.driver", faults);
    pool_name(spec["pool"]["name"].as_str().unwrap_or_default(), "spec.pool.name", faults);
    if spec["pool"]["resourceSliceCount"].as_i64().unwrap_or(0) <= 0 {
        let count = spec["pool"]["resourceSliceCount"].clone();
        faults.invalid("spec.pool.resourceSliceCount", count, "must be greater than zero");
    }
    let named = !spec["nodeName"].as_str().unwrap_or_default().is_empty();
    let places =
        [named, spec["nodeSelector"].is_object(), spec["allNodes"] == true, spec["perDeviceNodeSelection"] == true];
    match places.into_iter().filter(|set| *set).count() {
        0 => {
            let detail = "exactly one of `nodeName`, `nodeSelector`, `allNodes`, `perDeviceNodeSelection` is required";
            faults.required("spec", detail);
        }
        1 => {}
        _ => {
            let detail = "exactly one of `nodeName`, `nodeSelector`, `allNodes`, `perDeviceNodeSelection` is required, but multiple fields are set";
            faults.invalid("spec", Value::Null, detail);
        }
    }
    let devices = meta::list_at(spec, &["devices"]);
    faults.at_most(devices, 128, "spec.devices");
    let mut seen = std::collections::BTreeSet::new();
    for (at, device) in devices.iter().enumerate() {
        for (number, taint) in meta::list_at(device, &["taints"]).iter().enumerate() {
            validate_taint(taint, &format!("spec.devices[{at}].taints[{number}]"), faults);
        }
        let path = format!("spec.devices[{at}].name");
        match device["name"].as_str().unwrap_or_default() {
            "" => faults.required(&path, ""),
            name if !seen.insert(name) => faults.push(FieldError::duplicate(path, name)),
            name => faults.all_invalid(&path, name, names::dns_label(name)),
        }
    }
}
