//! Webhook configurations and policies.

use serde_json::json;

use super::rules::{default_to, each, sub};
use super::{Strategy, hooks, policies};

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
