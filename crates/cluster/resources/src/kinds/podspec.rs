//! The pod spec, which pods and everything that makes pods share: defaults and validation.

use std::collections::BTreeSet;

use serde_json::{Map, Value, json};

use super::rules::{Faults, default_to, each, sub};
use crate::errors::FieldError;
use crate::names;
use crate::quantity::Quantity;

/// The three lists of containers, with the path of each.
const CONTAINER_LISTS: [&str; 3] = ["initContainers", "containers", "ephemeralContainers"];

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

/// Every container of the spec, of all three kinds, with its path.
pub(crate) fn containers<'a>(spec: &'a Value, path: &str) -> Vec<(String, &'a Value)> {
    let mut out = Vec::new();
    for list in CONTAINER_LISTS {
        for (at, container) in spec[list].as_array().into_iter().flatten().enumerate() {
            out.push((format!("{path}.{list}[{at}]"), container));
        }
    }
    out
}

pub(crate) fn validate(spec: &Value, path: &str, faults: &mut Faults) {
    let mut volumes = BTreeSet::new();
    for (at, volume) in spec["volumes"].as_array().into_iter().flatten().enumerate() {
        let here = format!("{path}.volumes[{at}]");
        let name = volume["name"].as_str().unwrap_or_default();
        if name.is_empty() {
            faults.required(&format!("{here}.name"), "");
        } else {
            faults.all_invalid(&format!("{here}.name"), name, names::dns_label(name));
        }
        if !name.is_empty() && !volumes.insert(name) {
            faults.push(FieldError::duplicate(format!("{here}.name"), name));
        }
        volume_source(volume, &here, faults);
    }
    if spec["containers"].as_array().is_none_or(Vec::is_empty) {
        faults.required(&format!("{path}.containers"), "");
    }
    let mut seen = BTreeSet::new();
    for (here, container) in containers(spec, path) {
        let name = container["name"].as_str().unwrap_or_default();
        if name.is_empty() {
            faults.required(&format!("{here}.name"), "");
        } else {
            faults.all_invalid(&format!("{here}.name"), name, names::dns_label(name));
            if !seen.insert(name) {
                faults.push(FieldError::duplicate(format!("{here}.name"), name));
            }
        }
        validate_container(container, &here, &volumes, faults);
    }
    faults.required_one_of(spec, "restartPolicy", path, &["Always", "OnFailure", "Never"]);
    faults.one_of(spec, "dnsPolicy", path, &["ClusterFirstWithHostNet", "ClusterFirst", "Default", "None"]);
    if spec["dnsPolicy"] == "None" && spec["dnsConfig"]["nameservers"].as_array().is_none_or(Vec::is_empty) {
        let detail = "must provide at least one DNS nameserver when `dnsPolicy` is None";
        faults.required(&format!("{path}.dnsConfig.nameservers"), detail);
    }
    faults.non_negative(spec, "terminationGracePeriodSeconds", path);
    faults.positive(spec, "activeDeadlineSeconds", path);
    for (field, judge) in [
        ("serviceAccountName", names::dns_subdomain as fn(&str) -> Vec<String>),
        ("nodeName", names::dns_subdomain),
        ("priorityClassName", names::dns_subdomain),
        ("runtimeClassName", names::dns_subdomain),
        ("hostname", names::dns_label),
        ("subdomain", names::dns_label),
    ] {
        if let Some(text) = spec[field].as_str().filter(|text| !text.is_empty()) {
            faults.all_invalid(&format!("{path}.{field}"), text, judge(text));
        }
    }
    for (key, value) in spec["nodeSelector"].as_object().into_iter().flatten() {
        faults.label(key, value, &format!("{path}.nodeSelector"));
    }
    for (at, toleration) in spec["tolerations"].as_array().into_iter().flatten().enumerate() {
        validate_toleration(toleration, &format!("{path}.tolerations[{at}]"), faults);
    }
    if spec["hostUsers"] == false && spec["hostNetwork"] == true {
        faults.forbidden(&format!("{path}.hostNetwork"), "when `hostUsers` is false");
    }
    for (at, alias) in spec["hostAliases"].as_array().into_iter().flatten().enumerate() {
        let ip = alias["ip"].as_str().unwrap_or_default();
        if ip.parse::<std::net::IpAddr>().is_err() {
            let here = format!("{path}.hostAliases[{at}].ip");
            faults.invalid(&here, ip, "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)");
        }
    }
    for (at, constraint) in spec["topologySpreadConstraints"].as_array().into_iter().flatten().enumerate() {
        let here = format!("{path}.topologySpreadConstraints[{at}]");
        faults.positive(constraint, "maxSkew", &here);
        if constraint["topologyKey"].as_str().unwrap_or_default().is_empty() {
            faults.required(&format!("{here}.topologyKey"), "can not be empty");
        }
        faults.required_one_of(constraint, "whenUnsatisfiable", &here, &["DoNotSchedule", "ScheduleAnyway"]);
    }
}

fn validate_toleration(toleration: &Value, path: &str, faults: &mut Faults) {
    let key = toleration["key"].as_str().unwrap_or_default();
    let operator = toleration["operator"].as_str().unwrap_or_default();
    if !key.is_empty() {
        faults.all_invalid(&format!("{path}.key"), key, names::qualified_name(key));
    } else if operator != "Exists" {
        let detail = "operator must be Exists when `key` is empty, which means \"match all values and all keys\"";
        faults.invalid(&format!("{path}.operator"), operator, detail);
    }
    if toleration.get("tolerationSeconds").is_some() && toleration["effect"] != "NoExecute" {
        let effect = toleration["effect"].as_str().unwrap_or_default();
        faults.invalid(&format!("{path}.effect"), effect, "effect must be 'NoExecute' when `tolerationSeconds` is set");
    }
    if operator == "Exists" && toleration["value"].as_str().is_some_and(|value| !value.is_empty()) {
        let value = toleration["value"].clone();
        faults.invalid(&format!("{path}.operator"), value, "value must be empty when `operator` is 'Exists'");
    }
    faults.one_of(toleration, "operator", path, &["", "Equal", "Exists", "Gt", "Lt"]);
    faults.one_of(toleration, "effect", path, &["", "NoSchedule", "PreferNoSchedule", "NoExecute"]);
}

fn volume_source(volume: &Value, path: &str, faults: &mut Faults) {
    let sources: Vec<&String> =
        volume.as_object().into_iter().flatten().map(|(key, _)| key).filter(|key| *key != "name").collect();
    match sources.len() {
        0 => faults.required(path, "must specify a volume type"),
        1 => {}
        _ => {
            for extra in &sources[1..] {
                faults.forbidden(&format!("{path}.{extra}"), "may not specify more than 1 volume type");
            }
        }
    }
    if volume.get("hostPath").is_some_and(|source| source["path"].as_str().unwrap_or_default().is_empty()) {
        faults.required(&format!("{path}.hostPath.path"), "");
    }
    if volume
        .get("hostPath")
        .is_some_and(|source| source["path"].as_str().unwrap_or_default().split('/').any(|part| part == ".."))
    {
        let value = volume["hostPath"]["path"].clone();
        faults.invalid(&format!("{path}.hostPath.path"), value, "must not contain '..'");
    }
    for (source, name) in [("configMap", "name"), ("secret", "secretName"), ("persistentVolumeClaim", "claimName")] {
        if volume.get(source).is_some_and(|source| source[name].as_str().unwrap_or_default().is_empty()) {
            faults.required(&format!("{path}.{source}.{name}"), "");
        }
    }
}

fn validate_container(container: &Value, path: &str, volumes: &BTreeSet<&str>, faults: &mut Faults) {
    let image = container["image"].as_str().unwrap_or_default();
    if image.is_empty() {
        faults.required(&format!("{path}.image"), "");
    } else if image.trim() != image {
        faults.invalid(&format!("{path}.image"), image, "must not have leading or trailing whitespace");
    }
    faults.one_of(container, "imagePullPolicy", path, &["Always", "IfNotPresent", "Never"]);
    faults.one_of(container, "terminationMessagePolicy", path, &["File", "FallbackToLogsOnError"]);
    let mut ports = BTreeSet::new();
    for (at, port) in container["ports"].as_array().into_iter().flatten().enumerate() {
        let here = format!("{path}.ports[{at}]");
        if let Some(name) = port["name"].as_str().filter(|name| !name.is_empty()) {
            faults.all_invalid(&format!("{here}.name"), name, names::port_name(name));
            if !ports.insert(name) {
                faults.push(FieldError::duplicate(format!("{here}.name"), name));
            }
        }
        match port["containerPort"].as_i64() {
            None | Some(0) => faults.required(&format!("{here}.containerPort"), ""),
            Some(_) => faults.port(&port["containerPort"], &format!("{here}.containerPort")),
        }
        if port["hostPort"].as_i64().is_some_and(|port| port != 0) {
            faults.port(&port["hostPort"], &format!("{here}.hostPort"));
        }
        faults.one_of(port, "protocol", &here, &["TCP", "UDP", "SCTP"]);
    }
    for (at, env) in container["env"].as_array().into_iter().flatten().enumerate() {
        let here = format!("{path}.env[{at}]");
        let name = env["name"].as_str().unwrap_or_default();
        if name.is_empty() {
            faults.required(&format!("{here}.name"), "");
        } else if name.contains('=') || !name.chars().all(|c| (' '..='~').contains(&c)) {
            let detail =
                "a valid environment variable name must consist only of printable ASCII characters other than '='";
            faults.invalid(&format!("{here}.name"), name, detail);
        }
        let value = env["value"].as_str().unwrap_or_default();
        if !value.is_empty() && env.get("valueFrom").is_some() {
            faults.invalid(&format!("{here}.valueFrom"), "", "may not be specified when `value` is not empty");
        }
        if let Some(source) = env.get("valueFrom").and_then(Value::as_object)
            && source.len() != 1
        {
            let detail = "may not have more than one field specified at a time";
            faults.invalid(&format!("{here}.valueFrom"), "", if source.is_empty() { "must specify one of: `fieldRef`, `resourceFieldRef`, `configMapKeyRef`, `secretKeyRef` or `fileKeyRef`" } else { detail });
        }
    }
    let mut mounted = BTreeSet::new();
    for (at, mount) in container["volumeMounts"].as_array().into_iter().flatten().enumerate() {
        let here = format!("{path}.volumeMounts[{at}]");
        let name = mount["name"].as_str().unwrap_or_default();
        if name.is_empty() {
            faults.required(&format!("{here}.name"), "");
        } else if !volumes.contains(name) {
            faults.push(FieldError::not_found(format!("{here}.name"), name));
        }
        let place = mount["mountPath"].as_str().unwrap_or_default();
        if place.is_empty() {
            faults.required(&format!("{here}.mountPath"), "");
        } else if !mounted.insert(place) {
            faults.invalid(&format!("{here}.mountPath"), place, "must be unique");
        }
        if let Some(sub) = mount["subPath"].as_str()
            && (sub.starts_with('/') || sub.split('/').any(|part| part == ".."))
        {
            let detail = if sub.starts_with('/') { "must be a relative path" } else { "must not contain '..'" };
            faults.invalid(&format!("{here}.subPath"), sub, detail);
        }
    }
    for name in ["livenessProbe", "readinessProbe", "startupProbe"] {
        if let Some(probe) = container.get(name) {
            validate_probe(probe, &format!("{path}.{name}"), name != "readinessProbe", faults);
        }
    }
    validate_resources(&container["resources"], &format!("{path}.resources"), faults);
    let security = &container["securityContext"];
    if security["privileged"] == true && security["allowPrivilegeEscalation"] == false {
        let detail = "cannot set `allowPrivilegeEscalation` to false and `privileged` to true";
        faults.invalid(&format!("{path}.securityContext"), security.clone(), detail);
    }
    for field in ["runAsUser", "runAsGroup"] {
        if security[field].as_i64().is_some_and(|id| !(0..=i64::from(i32::MAX)).contains(&id)) {
            let detail = "must be between 0 and 2147483647, inclusive";
            faults.invalid(&format!("{path}.securityContext.{field}"), security[field].clone(), detail);
        }
    }
}

fn validate_probe(probe: &Value, path: &str, one_success: bool, faults: &mut Faults) {
    let handlers = ["exec", "httpGet", "tcpSocket", "grpc"].iter().filter(|name| probe.get(**name).is_some()).count();
    match handlers {
        0 => faults.required(path, "must specify a handler type"),
        1 => {}
        _ => faults.forbidden(path, "may not specify more than 1 handler type"),
    }
    for field in ["initialDelaySeconds", "timeoutSeconds", "periodSeconds", "successThreshold", "failureThreshold"] {
        faults.non_negative(probe, field, path);
    }
    if one_success && probe["successThreshold"].as_i64().is_some_and(|count| count > 1) {
        faults.invalid(&format!("{path}.successThreshold"), probe["successThreshold"].clone(), "must be 1");
    }
    if let Some(get) = probe.get("httpGet") {
        faults.port(&get["port"], &format!("{path}.httpGet.port"));
        faults.one_of(get, "scheme", &format!("{path}.httpGet"), &["HTTP", "HTTPS"]);
    }
    if let Some(socket) = probe.get("tcpSocket") {
        faults.port(&socket["port"], &format!("{path}.tcpSocket.port"));
    }
    if probe.get("exec").is_some_and(|exec| exec["command"].as_array().is_none_or(Vec::is_empty)) {
        faults.required(&format!("{path}.exec.command"), "");
    }
}

pub(crate) fn validate_resources(resources: &Value, path: &str, faults: &mut Faults) {
    let amount = |value: &Value| value.as_str().and_then(|text| Quantity::parse(text).ok());
    for list in ["limits", "requests"] {
        for (name, value) in resources[list].as_object().into_iter().flatten() {
            let here = format!("{path}.{list}[{name}]");
            if amount(value).is_some_and(|quantity| quantity.is_negative()) {
                faults.invalid(&here, value.clone(), "must be greater than or equal to 0");
            }
            let known =
                ["cpu", "memory", "ephemeral-storage"].contains(&name.as_str()) || name.starts_with("hugepages-");
            if !known && !name.contains('/') {
                faults.invalid(&here, name.as_str(), "must be a standard resource type or fully qualified");
                faults.invalid(&here, name.as_str(), "must be a standard resource for containers");
            }
        }
    }
    for (name, request) in resources["requests"].as_object().into_iter().flatten() {
        let limit = resources["limits"].get(name);
        if let (Some(asked), Some(most)) = (amount(request), limit.and_then(amount))
            && asked > most
        {
            let limit = limit.and_then(Value::as_str).unwrap_or_default();
            let detail = format!("must be less than or equal to {name} limit of {limit}");
            faults.invalid(&format!("{path}.requests"), request.clone(), detail);
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

pub(crate) fn validate_template(template: &Value, path: &str, faults: &mut Faults) {
    for (key, value) in template["metadata"]["labels"].as_object().into_iter().flatten() {
        faults.label(key, value, &format!("{path}.metadata.labels"));
    }
    validate(&template["spec"], &format!("{path}.spec"), faults);
}
