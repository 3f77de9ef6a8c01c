//! Webhook configurations, certificate requests.

use serde_json::{Value, json};

use super::rules::{Faults, default_to, each, sub};
use super::{Strategy, hooks, policies};
use crate::meta;

pub(super) fn strategy(resource: &str) -> Strategy {
    match resource {
        "mutatingwebhookconfigurations" | "validatingwebhookconfigurations" => Strategy {
            default: |object| {
                let mutating = object["kind"] == "MutatingWebhookConfiguration";
                let Some(map) = object.as_object_mut() else { return };
                for hook in each(map, "webhooks") {
                    default_to(hook, "failurePolicy", "Fail");
                    default_to(hook, "matchPolicy", "Equivalent");
                    default_to(hook, "namespaceSelector", json!({}));
                    default_to(hook, "objectSelector", json!({}));
                    default_to(hook, "timeoutSeconds", 10);
                    if mutating {
                        default_to(hook, "reinvocationPolicy", "Never");
                    }
                    if let Some(service) = sub(hook, "clientConfig").and_then(|config| sub(config, "service")) {
                        default_to(service, "port", 443);
                    }
                    for rule in each(hook, "rules") {
                        default_to(rule, "scope", "*");
                    }
                }
            },
            validate: hooks::validate,
            generation: true,
            ..Strategy::PLAIN
        },
        _ => policies::strategy(resource),
    }
}

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

pub(super) fn certificates(resource: &str) -> Strategy {
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
                        faults.push(crate::FieldError::unsupported(path, usage.clone(), &USAGES));
                    } else if usages[..at].contains(usage) {
                        faults.push(crate::FieldError::duplicate(path, usage.clone()));
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
