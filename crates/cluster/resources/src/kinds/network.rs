//! Service, Endpoints, EndpointSlice, Ingress, IngressClass, NetworkPolicy.

use std::collections::BTreeSet;
use std::net::IpAddr;

use serde_json::{Value, json};

use super::Strategy;
use super::rules::{Faults, default_to, each, spec};
use crate::errors::FieldError;
use crate::{meta, names};

pub(super) const SERVICE: Strategy = Strategy {
    default: |object| {
        let spec = spec(object);
        default_to(spec, "sessionAffinity", "None");
        default_to(spec, "type", "ClusterIP");
        if spec["sessionAffinity"] == "None" {
            spec.remove("sessionAffinityConfig");
        } else if spec["sessionAffinity"] == "ClientIP" {
            default_to(spec, "sessionAffinityConfig", json!({"clientIP": {"timeoutSeconds": 10800}}));
        }
        let kind = spec["type"].as_str().unwrap_or_default().to_owned();
        for port in each(spec, "ports") {
            default_to(port, "protocol", "TCP");
            let number = port.get("port").cloned().unwrap_or(Value::Null);
            if port.get("targetPort").is_none_or(|target| *target == 0 || *target == "") {
                port.insert("targetPort".into(), number);
            }
        }
        if kind != "ExternalName" {
            default_to(spec, "internalTrafficPolicy", "Cluster");
        }
        if kind == "NodePort" || kind == "LoadBalancer" {
            default_to(spec, "externalTrafficPolicy", "Cluster");
        }
        if kind == "LoadBalancer" {
            default_to(spec, "allocateLoadBalancerNodePorts", true);
        }
    },
    prepare_create: |object| object["status"] = json!({"loadBalancer": {}}),
    prepare_update: |new, old| {
        // What was allocated stays unless the type no longer has it.
        let kept: &[&str] = match (new["spec"]["type"].as_str(), old["spec"]["type"].as_str()) {
            (Some("ExternalName"), _) => &[],
            _ => &["clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy"],
        };
        for field in kept {
            let missing = new["spec"].get(field).is_none_or(|value| *value == "");
            if missing && let Some(value) = old["spec"].get(field).cloned() {
                new["spec"][field] = value;
            }
        }
        let node_ports = matches!(new["spec"]["type"].as_str(), Some("NodePort" | "LoadBalancer"));
        let was = meta::list_at(old, &["spec", "ports"]).to_vec();
        for port in meta::items_mut(new, &["spec", "ports"]) {
            let before = was.iter().find(|old| old["port"] == port["port"] && old["protocol"] == port["protocol"]);
            let allocated = before.and_then(|before| before.get("nodePort")).cloned();
            if node_ports
                && port.get("nodePort").is_none()
                && let Some(allocated) = allocated
            {
                port["nodePort"] = allocated;
            } else if !node_ports && before.is_some_and(|before| before.get("nodePort") == port.get("nodePort")) {
                port.as_object_mut().map(|port| port.remove("nodePort"));
            }
        }
    },
    validate: validate_service,
    validate_update: |new, old, faults| {
        let kind = |object: &Value| object["spec"]["type"] == "ExternalName";
        let ip = |object: &Value| object["spec"]["clusterIP"].as_str().unwrap_or_default().to_owned();
        if !kind(new) && !kind(old) && !ip(old).is_empty() && ip(new) != ip(old) {
            faults.invalid("spec.clusterIPs[0]", new["spec"]["clusterIPs"].clone(), "may not change once set");
        }
    },
    name: names::dns_1035_label,
    ..Strategy::PLAIN
};

fn validate_service(object: &Value, faults: &mut Faults) {
    let spec = &object["spec"];
    let kind = spec["type"].as_str().unwrap_or_default();
    let headless = spec["clusterIP"] == "None";
    faults.required_one_of(spec, "type", "spec", &["ClusterIP", "ExternalName", "LoadBalancer", "NodePort"]);
    faults.required_one_of(spec, "sessionAffinity", "spec", &["ClientIP", "None"]);
    let ports = meta::list_at(spec, &["ports"]);
    if ports.is_empty() && !headless && kind != "ExternalName" {
        faults.required("spec.ports", "");
    }
    if headless && kind == "LoadBalancer" {
        faults.invalid("spec.clusterIPs[0]", "None", "may not be set to 'None' for LoadBalancer services");
    }
    if kind == "ExternalName" {
        let name = spec["externalName"].as_str().unwrap_or_default();
        match name.trim_end_matches('.') {
            "" => faults.required("spec.externalName", ""),
            name => faults.all_invalid("spec.externalName", name, names::dns_subdomain(name)),
        }
    }
    let mut names_seen = BTreeSet::new();
    let mut pairs = BTreeSet::new();
    for (at, port) in ports.iter().enumerate() {
        let path = format!("spec.ports[{at}]");
        let name = port["name"].as_str().unwrap_or_default();
        if name.is_empty() {
            if ports.len() > 1 {
                faults.required(&format!("{path}.name"), "");
            }
        } else {
            faults.all_invalid(&format!("{path}.name"), name, names::dns_label(name));
            if !names_seen.insert(name) {
                faults.push(FieldError::duplicate(format!("{path}.name"), name));
            }
        }
        faults.port(&port["port"], &format!("{path}.port"));
        faults.required_one_of(port, "protocol", &path, &["SCTP", "TCP", "UDP"]);
        faults.port(&port["targetPort"], &format!("{path}.targetPort"));
        if kind == "ClusterIP" && port["nodePort"].as_i64().is_some_and(|number| number != 0) {
            faults.forbidden(&format!("{path}.nodePort"), "may not be used when `type` is 'ClusterIP'");
        }
        if !pairs.insert((port["port"].as_i64(), port["protocol"].as_str())) {
            faults
                .push(FieldError::duplicate(path.clone(), json!({"port": port["port"], "protocol": port["protocol"]})));
        }
    }
    for (key, value) in spec["selector"].as_object().into_iter().flatten() {
        faults.label(key, value, "spec.selector");
    }
    for (at, ip) in meta::list_at(spec, &["clusterIPs"]).iter().enumerate() {
        let text = ip.as_str().unwrap_or_default();
        if text != "None" && text.parse::<IpAddr>().is_err() {
            let path = format!("spec.clusterIPs[{at}]");
            faults.invalid(&path, text, "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)");
        }
    }
    for (at, ip) in meta::list_at(spec, &["externalIPs"]).iter().enumerate() {
        let text = ip.as_str().unwrap_or_default();
        if text.parse::<IpAddr>().is_err() {
            let path = format!("spec.externalIPs[{at}]");
            faults.invalid(&path, text, "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)");
        }
    }
    faults.one_of(spec, "internalTrafficPolicy", "spec", &["Cluster", "Local"]);
    faults.one_of(spec, "externalTrafficPolicy", "spec", &["Cluster", "Local"]);
}

pub(super) const ENDPOINTS: Strategy = Strategy {
    default: |object| {
        for subset in meta::items_mut(object, &["subsets"]).filter_map(Value::as_object_mut) {
            for port in each(subset, "ports") {
                default_to(port, "protocol", "TCP");
            }
        }
    },
    create_on_update: true,
    ..Strategy::PLAIN
};

pub(super) const ENDPOINT_SLICE: Strategy = Strategy {
    default: |object| {
        for port in meta::items_mut(object, &["ports"]).filter_map(Value::as_object_mut) {
            default_to(port, "name", "");
            default_to(port, "protocol", "TCP");
        }
    },
    validate: |object, faults| {
        faults.required_one_of(object, "addressType", "", &["FQDN", "IPv4", "IPv6"]);
        for (at, endpoint) in meta::list_at(object, &["endpoints"]).iter().enumerate() {
            if endpoint["addresses"].as_array().is_none_or(Vec::is_empty) {
                faults.required(&format!("endpoints[{at}].addresses"), "must contain at least 1 address");
            }
        }
    },
    validate_update: |new, old, faults| {
        faults.immutable(new.get("addressType"), old.get("addressType"), "addressType");
    },
    generation: true,
    ..Strategy::PLAIN
};

pub(super) fn strategy(resource: &str) -> Strategy {
    match resource {
        "ingresses" => INGRESS,
        "networkpolicies" => NETWORK_POLICY,
        "ingressclasses" => Strategy { generation: true, ..Strategy::PLAIN },
        _ => Strategy::PLAIN,
    }
}

const INGRESS: Strategy = Strategy {
    validate: |object, faults| {
        let spec = &object["spec"];
        let rules = meta::list_at(spec, &["rules"]);
        if rules.is_empty() && spec.get("defaultBackend").is_none() {
            faults.invalid("spec", json!([]), "either `defaultBackend` or `rules` must be specified");
        }
        for (at, rule) in rules.iter().enumerate() {
            for (n, path) in meta::list_at(rule, &["http", "paths"]).iter().enumerate() {
                let here = format!("spec.rules[{at}].http.paths[{n}]");
                match path["pathType"].as_str() {
                    None => faults.required(&format!("{here}.pathType"), "pathType must be specified"),
                    Some(_) => faults.one_of(path, "pathType", &here, &["Exact", "ImplementationSpecific", "Prefix"]),
                }
                let text = path["path"].as_str().unwrap_or_default();
                if path["pathType"] != "ImplementationSpecific" && !text.starts_with('/') {
                    faults.invalid(&format!("{here}.path"), text, "must be an absolute path");
                }
                backend(&path["backend"], &format!("{here}.backend"), faults);
            }
        }
        if let Some(default) = spec.get("defaultBackend") {
            backend(default, "spec.defaultBackend", faults);
        }
    },
    generation: true,
    ..Strategy::PLAIN
};

fn backend(backend: &Value, path: &str, faults: &mut Faults) {
    if backend.get("resource").is_some() {
        return;
    }
    let service = &backend["service"];
    if service["name"].as_str().unwrap_or_default().is_empty() {
        faults.required(&format!("{path}.service.name"), "");
    }
    if service["port"]["number"].is_null() && service["port"]["name"].is_null() {
        faults.required(&format!("{path}.service"), "port name or number is required");
    }
}

const NETWORK_POLICY: Strategy = Strategy {
    default: |object| {
        let spec = spec(object);
        if !spec.contains_key("policyTypes") {
            let mut types = vec!["Ingress"];
            if spec.get("egress").and_then(Value::as_array).is_some_and(|rules| !rules.is_empty()) {
                types.push("Egress");
            }
            spec.insert("policyTypes".into(), types.into());
        }
        default_to(spec, "podSelector", json!({}));
        for list in ["ingress", "egress"] {
            for rule in each(spec, list) {
                for port in each(rule, "ports") {
                    default_to(port, "protocol", "TCP");
                }
            }
        }
    },
    validate: |object, faults| {
        faults.label_selector(&object["spec"]["podSelector"], "spec.podSelector");
        for (at, kind) in meta::list_at(object, &["spec", "policyTypes"]).iter().enumerate() {
            if *kind != "Ingress" && *kind != "Egress" {
                let path = format!("spec.policyTypes[{at}]");
                faults.push(FieldError::unsupported(path, kind.clone(), &["Egress", "Ingress"]));
            }
        }
    },
    generation: true,
    ..Strategy::PLAIN
};
