//! The kinds of dynamic resource allocation: DeviceClass, DeviceTaintRule, ResourceClaim, ResourceClaimTemplate, ResourceSlice.

use serde_json::Value;

use super::Strategy;
use super::rules::Faults;
use crate::{FieldError, meta, names};

pub(super) fn strategy(resource: &str) -> Strategy {
    match resource {
        "resourceclaims" => Strategy {
            validate: |object, faults| validate_claim(&object["spec"], "spec", faults),
            validate_update: |new, old, faults| fixed(new, old, faults),
            ..Strategy::PLAIN
        },
        "resourceclaimtemplates" => Strategy {
            validate: |object, faults| validate_claim(&object["spec"]["spec"], "spec.spec", faults),
            validate_update: |new, old, faults| fixed(new, old, faults),
            ..Strategy::PLAIN
        },
        "devicetaintrules" => Strategy { validate: validate_taint_rule, generation: true, ..Strategy::PLAIN },
        "resourceslices" => Strategy {
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
        },
        "deviceclasses" => Strategy {
            validate: |object, faults| validate_selectors(&object["spec"], "spec", faults),
            generation: true,
            ..Strategy::PLAIN
        },
        _ => Strategy::PLAIN,
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
        // The first version has the fields of one device in the request itself.
        let (exactly, choices) =
            (request["exactly"].is_object(), !meta::list_at(request, &["firstAvailable"]).is_empty());
        let flat = !request["deviceClassName"].is_null();
        match (exactly || flat, choices) {
            (true, true) => {
                faults.invalid(
                    &path,
                    Value::Null,
                    "exactly one of `exactly` or `firstAvailable` is required, but multiple fields are set",
                );
            }
            (false, false) => faults.required(&path, "exactly one of `exactly` or `firstAvailable` is required"),
            _ => {}
        }
        if exactly {
            let path = format!("{path}.exactly");
            if request["exactly"]["deviceClassName"].as_str().unwrap_or_default().is_empty() {
                faults.required(&format!("{path}.deviceClassName"), "");
            }
            faults.one_of(&request["exactly"], "allocationMode", &path, &["All", "ExactCount"]);
            faults.positive(&request["exactly"], "count", &path);
            validate_selectors(&request["exactly"], &path, faults);
        }
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
    if devices.len() > 128 {
        faults.push(FieldError::new("spec.devices", crate::errors::FaultKind::TooMany(devices.len(), 128)));
    }
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
