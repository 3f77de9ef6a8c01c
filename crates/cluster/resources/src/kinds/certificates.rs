//! Requests for certificates, their approval and signing, and whom to trust for a signer's certificates.

use serde_json::{Value, json};

use super::Strategy;
use super::rules::Faults;
use crate::{FieldError, decode, meta};

/// What a certificate may be asked for.
const USAGES: [&str; 23] = [
    "any",
    "cert sign",
    "client auth",
    "code signing",
    "content commitment",
    "crl sign",
    "data encipherment",
    "decipher only",
    "digital signature",
    "email protection",
    "encipher only",
    "ipsec end system",
    "ipsec tunnel",
    "ipsec user",
    "key agreement",
    "key encipherment",
    "microsoft sgc",
    "netscape sgc",
    "ocsp signing",
    "s/mime",
    "server auth",
    "signing",
    "timestamping",
];

pub(super) fn strategy(resource: &str) -> Strategy {
    match resource {
        "certificatesigningrequests" => Strategy {
            validate: |object, faults| {
                let spec = &object["spec"];
                if spec["request"].as_str().unwrap_or_default().is_empty() {
                    faults.required("spec.request", "");
                }
                let usages = meta::list_at(spec, &["usages"]);
                if usages.is_empty() {
                    faults.required("spec.usages", "");
                }
                for (at, usage) in usages.iter().enumerate() {
                    let path = format!("spec.usages[{at}]");
                    if !usage.as_str().is_some_and(|usage| USAGES.contains(&usage)) {
                        faults.push(FieldError::unsupported(path, usage.clone(), &USAGES));
                    } else if usages[..at].contains(usage) {
                        faults.push(FieldError::duplicate(path, usage.clone()));
                    }
                }
                if let Some(secs) = spec["expirationSeconds"].as_i64().filter(|secs| *secs < 600) {
                    let detail = "may not specify a duration less than 600 seconds (10 minutes)";
                    faults.invalid("spec.expirationSeconds", secs, detail);
                }
                match spec["signerName"].as_str().unwrap_or_default() {
                    "" => faults.required("spec.signerName", ""),
                    name if !name.contains('/') => {
                        let detail = "must be a fully qualified domain and path of the form 'example.com/signer-name'";
                        faults.invalid("spec.signerName", name, detail);
                    }
                    _ => {}
                }
                conditions(object, faults);
            },
            prepare_update: |new: &mut Value, old: &Value| new["spec"] = old["spec"].clone(),
            ..Strategy::PLAIN
        },
        "clustertrustbundles" => Strategy {
            validate: trust_bundle,
            validate_update: |new, old, faults| {
                let signer = |object: &Value| object["spec"].get("signerName").cloned();
                faults.immutable(signer(new).as_ref(), signer(old).as_ref(), "spec.signerName");
            },
            // What is before the last colon is the signer's.
            name: |name| crate::names::dns_subdomain(name.rsplit(':').next().unwrap_or_default()),
            ..Strategy::PLAIN
        },
        "podcertificaterequests" => Strategy {
            validate: pod_certificate_request,
            validate_update: |new, old, faults| {
                faults.immutable(new.get("spec"), old.get("spec"), "spec");
            },
            ..Strategy::PLAIN
        },
        _ => Strategy::PLAIN,
    }
}

/// What ends a request, and stays when it was said once.
const VERDICTS: [&str; 3] = ["Approved", "Denied", "Failed"];

/// An update of its approval has written the request's conditions, one of its status the certificate as well: the rest stays, and
/// conditions get the times that their writer left out.
pub fn signing_request_prepare(new: &mut Value, old: &Value, sub: &str, now: jiff::Timestamp) {
    new["spec"] = old["spec"].clone();
    if sub == "approval" {
        let conditions = new["status"].get("conditions").cloned();
        new["status"] = old.get("status").cloned().unwrap_or_else(|| json!({}));
        match conditions {
            Some(conditions) => new["status"]["conditions"] = conditions,
            None => drop(new["status"].as_object_mut().map(|status| status.remove("conditions"))),
        }
    }
    let now = Value::from(decode::format_time(now, 0));
    let before = meta::list_at(old, &["status", "conditions"]);
    for condition in meta::items_mut(new, &["status", "conditions"]) {
        let same = before.iter().find(|was| was["type"] == condition["type"] && was["status"] == condition["status"]);
        let since = same.map(|was| was["lastTransitionTime"].clone()).filter(Value::is_string);
        for (field, value) in
            [("lastUpdateTime", now.clone()), ("lastTransitionTime", since.unwrap_or_else(|| now.clone()))]
        {
            if condition[field].is_null() {
                condition[field] = value;
            }
        }
    }
}

/// Who approves does not sign, who signs does not approve, and neither takes back what was said.
pub fn signing_request_stays(new: &Value, old: &Value, sub: &str, faults: &mut Faults) {
    let of = |object: &Value, kind: &str| -> Vec<Value> {
        let conditions = meta::list_at(object, &["status", "conditions"]).iter();
        conditions.filter(|condition| condition["type"] == kind).cloned().collect()
    };
    for kind in VERDICTS {
        let (now, before) = (of(new, kind), of(old, kind));
        let adds = now.len() > before.len();
        let what = match () {
            () if adds && kind != "Failed" && sub != "approval" => "add",
            () if now.len() < before.len() => "remove",
            () if !adds && now != before => "modify",
            () => continue,
        };
        faults.forbidden("status.conditions", &format!("updates may not {what} a condition of type {kind:?}"));
    }
    let certificate = |object: &Value| object["status"]["certificate"].as_str().unwrap_or_default().to_owned();
    let (now, before) = (certificate(new), certificate(old));
    if now != before && !before.is_empty() {
        faults.forbidden("status.certificate", "updates may not modify existing certificate content");
    } else if now != before && sub != "status" {
        faults.forbidden("status.certificate", "updates may not set certificate content");
    }
}

fn conditions(object: &Value, faults: &mut Faults) {
    let list = meta::list_at(object, &["status", "conditions"]);
    for (at, condition) in list.iter().enumerate() {
        let path = |field: &str| format!("status.conditions[{at}].{field}");
        let kind = &condition["type"];
        if list[..at].iter().any(|other| other["type"] == *kind) {
            faults.push(FieldError::duplicate(path("type"), kind.clone()));
        }
        match kind.as_str().unwrap_or_default() {
            "" => faults.required(&path("type"), ""),
            verdict if VERDICTS.contains(&verdict) && condition["status"] != "True" => {
                faults.push(FieldError::unsupported(path("status"), condition["status"].clone(), &["True"]));
            }
            verdict @ ("Approved" | "Denied") => {
                let other = if verdict == "Approved" { "Denied" } else { "Approved" };
                if list[..at].iter().any(|condition| condition["type"] == other) {
                    faults.invalid(&path("type"), verdict, "Approved and Denied conditions are mutually exclusive");
                }
            }
            _ if condition["status"].as_str().unwrap_or_default().is_empty() => faults.required(&path("status"), ""),
            _ => {}
        }
    }
}

/// Anchors of a signer carry its name in theirs.
fn trust_bundle(object: &Value, faults: &mut Faults) {
    let name = meta::name(object);
    let signer = object["spec"]["signerName"].as_str().unwrap_or_default();
    if signer.is_empty() {
        if name.contains(':') {
            let detail = "ClusterTrustBundle without signer name must not have \":\" in its name";
            faults.invalid("metadata.name", name, detail);
        }
    } else {
        let prefix = format!("{}:", signer.replace('/', ":"));
        if !name.starts_with(&prefix) {
            let detail = format!("ClusterTrustBundle for signerName {signer} must be named with prefix {prefix}");
            faults.invalid("metadata.name", name, detail);
        }
    }
    if !object["spec"]["trustBundle"].as_str().unwrap_or_default().contains("-----BEGIN CERTIFICATE-----") {
        faults.invalid("spec.trustBundle", "<value omitted>", "at least one trust anchor must be provided");
    }
}

fn pod_certificate_request(object: &Value, faults: &mut Faults) {
    let spec = &object["spec"];
    let text = |field: &str| spec[field].as_str().unwrap_or_default();
    match text("signerName") {
        "" => faults.required("spec.signerName", ""),
        name if !name.contains('/') => {
            let detail = "must be a fully qualified domain and path of the form 'example.com/signer-name'";
            faults.invalid("spec.signerName", name, detail);
        }
        _ => {}
    }
    for field in ["podName", "serviceAccountName", "nodeName"] {
        faults.all_invalid(&format!("spec.{field}"), text(field), crate::names::dns_subdomain(text(field)));
    }
    for field in ["podUID", "serviceAccountUID", "nodeUID"] {
        if text(field).is_empty() {
            faults.required(&format!("spec.{field}"), "must not be empty");
        }
    }
    match spec["maxExpirationSeconds"].as_i64() {
        None => faults.required("spec.maxExpirationSeconds", "must be set"),
        Some(secs) if secs < 3600 => {
            let detail = "must be at least 3600 seconds (1 hour)";
            faults.invalid("spec.maxExpirationSeconds", secs, detail);
        }
        Some(_) => {}
    }
}
