//! What a pod's spec gets where its writer said nothing.

use serde_json::{Map, Value, json};

use super::CONTAINER_LISTS;
use crate::kinds::rules::{default_to, each, sub};

pub(crate) fn default(spec: &mut Map<String, Value>) {
    default_to(spec, "restartPolicy", "Always");
    default_to(spec, "dnsPolicy", "ClusterFirst");
    default_to(spec, "schedulerName", "default-scheduler");
    default_to(spec, "terminationGracePeriodSeconds", 30);
    default_to(spec, "securityContext", json!({}));
    // Both names of the field are kept, as upstream does.
    if let Some(name) = spec.get("serviceAccountName").or(spec.get("serviceAccount")).cloned() {
        spec.insert("serviceAccount".into(), name.clone());
        spec.insert("serviceAccountName".into(), name);
    }
    let host_network = spec.get("hostNetwork") == Some(&Value::Bool(true));
    for list in CONTAINER_LISTS {
        for container in each(spec, list) {
            default_container(container, host_network);
        }
    }
    for volume in each(spec, "volumes") {
        default_volume(volume);
    }
}

fn default_container(container: &mut Map<String, Value>, host_network: bool) {
    let image = container.get("image").and_then(Value::as_str).unwrap_or_default();
    let pull = if pulls_always(image) { "Always" } else { "IfNotPresent" };
    default_to(container, "imagePullPolicy", pull);
    default_to(container, "terminationMessagePath", "/dev/termination-log");
    default_to(container, "terminationMessagePolicy", "File");
    default_to(container, "resources", json!({}));
    if let Some(resources) = sub(container, "resources")
        && let Some(limits) = resources.get("limits").and_then(Value::as_object).cloned()
    {
        // A limit without a request asks for the limit.
        let requests = resources.entry("requests").or_insert_with(|| json!({}));
        if let Some(requests) = requests.as_object_mut() {
            for (name, limit) in limits {
                requests.entry(name).or_insert(limit);
            }
        }
    }
    for port in each(container, "ports") {
        default_to(port, "protocol", "TCP");
        if host_network && let Some(number) = port.get("containerPort").cloned() {
            default_to(port, "hostPort", number);
        }
    }
    for env in each(container, "env") {
        if let Some(source) = sub(env, "valueFrom")
            && let Some(reference) = sub(source, "fieldRef")
        {
            default_to(reference, "apiVersion", "v1");
        }
        if let Some(source) = sub(env, "valueFrom")
            && let Some(reference) = sub(source, "resourceFieldRef")
        {
            default_to(reference, "divisor", "0");
        }
    }
    for name in ["livenessProbe", "readinessProbe", "startupProbe"] {
        if let Some(probe) = sub(container, name) {
            default_to(probe, "timeoutSeconds", 1);
            default_to(probe, "periodSeconds", 10);
            default_to(probe, "successThreshold", 1);
            default_to(probe, "failureThreshold", 3);
            default_handler(probe);
        }
    }
    if let Some(lifecycle) = sub(container, "lifecycle") {
        for name in ["postStart", "preStop"] {
            if let Some(handler) = sub(lifecycle, name) {
                default_handler(handler);
            }
        }
    }
}

fn default_handler(handler: &mut Map<String, Value>) {
    if let Some(get) = sub(handler, "httpGet") {
        default_to(get, "path", "/");
        default_to(get, "scheme", "HTTP");
    }
    if let Some(grpc) = sub(handler, "grpc") {
        default_to(grpc, "service", "");
    }
}

/// The image's tag is `latest` or there is neither tag nor digest.
fn pulls_always(image: &str) -> bool {
    if image.contains('@') {
        return false;
    }
    let last = image.rsplit('/').next().unwrap_or_default();
    last.split_once(':').is_none_or(|(_, tag)| tag == "latest")
}

fn default_volume(volume: &mut Map<String, Value>) {
    const SOURCES_OUTSIDE: [&str; 2] = ["name", "$patch"];
    if volume.keys().all(|key| SOURCES_OUTSIDE.contains(&key.as_str())) {
        volume.insert("emptyDir".into(), json!({}));
    }
    for name in ["configMap", "secret", "downwardAPI", "projected"] {
        if let Some(source) = sub(volume, name) {
            default_to(source, "defaultMode", 0o644);
        }
    }
    if let Some(source) = sub(volume, "hostPath") {
        default_to(source, "type", "");
    }
    if let Some(source) = sub(volume, "downwardAPI") {
        default_field_refs(source);
    }
    if let Some(projected) = sub(volume, "projected") {
        for source in each(projected, "sources") {
            if let Some(token) = sub(source, "serviceAccountToken") {
                default_to(token, "expirationSeconds", 3600);
            }
            if let Some(downward) = sub(source, "downwardAPI") {
                default_field_refs(downward);
            }
        }
    }
    if let Some(iscsi) = sub(volume, "iscsi") {
        default_to(iscsi, "iscsiInterface", "default");
    }
    if let Some(template) = sub(volume, "ephemeral").and_then(|source| sub(source, "volumeClaimTemplate"))
        && let Some(spec) = sub(template, "spec")
    {
        default_to(spec, "volumeMode", "Filesystem");
    }
}

fn default_field_refs(source: &mut Map<String, Value>) {
    for item in each(source, "items") {
        if let Some(reference) = sub(item, "fieldRef") {
            default_to(reference, "apiVersion", "v1");
        }
    }
}

/// A pod template inside a workload.
pub(crate) fn default_template(spec: &mut Map<String, Value>) {
    let template = spec.entry("template").or_insert_with(|| json!({}));
    if let Some(template) = template.as_object_mut() {
        let pod = template.entry("spec").or_insert_with(|| json!({}));
        if let Some(pod) = pod.as_object_mut() {
            default(pod);
        }
    }
}
