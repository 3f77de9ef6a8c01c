//! Webhook configurations, admission policies, certificate requests.

use serde_json::{Value, json};

use super::Strategy;
use super::rules::{default_to, each, sub};
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
            validate: |object, faults| {
                for (at, hook) in meta::list_at(object, &["webhooks"]).iter().enumerate() {
                    let path = format!("webhooks[{at}]");
                    let name = hook["name"].as_str().unwrap_or_default();
                    faults.all_invalid(&format!("{path}.name"), name, crate::names::dns_subdomain(name));
                    if name.split('.').count() < 3 {
                        let detail = "should be a domain with at least three segments separated by dots";
                        faults.invalid(&format!("{path}.name"), name, detail);
                    }
                    if hook["sideEffects"].is_null() {
                        let detail = "must specify one of None, NoneOnDryRun";
                        faults.required(&format!("{path}.sideEffects"), detail);
                    } else {
                        faults.one_of(hook, "sideEffects", &path, &["None", "NoneOnDryRun"]);
                    }
                    if hook["admissionReviewVersions"].as_array().is_none_or(Vec::is_empty) {
                        let detail = "must specify one of v1, v1beta1";
                        faults.required(&format!("{path}.admissionReviewVersions"), detail);
                    }
                    let config = &hook["clientConfig"];
                    if config.get("url").is_some() == config.get("service").is_some() {
                        faults.required(&format!("{path}.clientConfig"), "exactly one of url or service is required");
                    }
                    faults.one_of(hook, "failurePolicy", &path, &["Fail", "Ignore"]);
                    if !hook["timeoutSeconds"].as_i64().is_some_and(|secs| (1..=30).contains(&secs)) {
                        let value = hook["timeoutSeconds"].clone();
                        let detail = "the timeout value must be between 1 and 30 seconds";
                        faults.invalid(&format!("{path}.timeoutSeconds"), value, detail);
                    }
                }
            },
            generation: true,
            ..Strategy::PLAIN
        },
        _ => Strategy { generation: true, ..Strategy::PLAIN },
    }
}

pub(super) fn certificates(resource: &str) -> Strategy {
    match resource {
        "certificatesigningrequests" => Strategy {
            validate: |object, faults| {
                let spec = &object["spec"];
                if spec["request"].as_str().unwrap_or_default().is_empty() {
                    faults.required("spec.request", "");
                }
                if spec["usages"].as_array().is_none_or(Vec::is_empty) {
                    faults.required("spec.usages", "");
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
        _ => Strategy::PLAIN,
    }
}
