//! Service, Endpoints, EndpointSlice, NetworkPolicy.

use std::collections::BTreeSet;
use std::net::IpAddr;

use serde_json::{Value, json};

use super::rules::{Faults, default_to, each, spec};
use super::{Strategy, ingress, status};
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
            for point in meta::items_mut(object, &["status", "loadBalancer", "ingress"]) {
                if let Some(point) = point.as_object_mut().filter(|point| point.get("ip").is_some_and(|ip| *ip != "")) {
                    default_to(point, "ipMode", "VIP");
                }
            }
        }
    },
    prepare_create: |object| object["status"] = json!({"loadBalancer": {}}),
    prepare_update: |new, old| {
        // What was allocated stays unless the type no longer has it.
        let kept: &[&str] = match (new["spec"]["type"].as_str(), old["spec"]["type"].as_str()) {
            (Some("ExternalName"), _) => &[],
            (Some("LoadBalancer"), _) => {
                &["clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy", "healthCheckNodePort"]
            }
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
    validate_status: status::service,
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
    if headless && matches!(kind, "LoadBalancer" | "NodePort") {
        faults.invalid("spec.clusterIPs[0]", "None", format!("may not be set to 'None' for {kind} services"));
    }
    let health = spec["healthCheckNodePort"].as_i64().filter(|port| *port != 0);
    if let Some(port) = health.filter(|_| kind != "LoadBalancer" || spec["externalTrafficPolicy"] != "Local") {
        let detail = "may only be set when `type` is 'LoadBalancer' and `externalTrafficPolicy` is 'Local'";
        faults.invalid("spec.healthCheckNodePort", port, detail);
    }
    if let Some(timeout) = spec["sessionAffinityConfig"]["clientIP"]["timeoutSeconds"].as_i64()
        && !(1..=86400).contains(&timeout)
    {
        faults.invalid(
            "spec.sessionAffinityConfig.clientIP.timeoutSeconds",
            timeout,
            "must be between 1 and 86400, inclusive",
        );
    }
    for (at, range) in meta::list_at(spec, &["loadBalancerSourceRanges"]).iter().enumerate() {
        let text = range.as_str().unwrap_or_default();
        if !is_cidr(text.trim()) {
            let detail = "must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)";
            faults.invalid(&format!("spec.loadBalancerSourceRanges[{at}]"), text, detail);
        }
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
    faults.one_of(spec, "trafficDistribution", "spec", &["PreferClose", "PreferSameNode", "PreferSameZone"]);
}

/// An address, a slash and a prefix that fits it.
pub(super) fn is_cidr(text: &str) -> bool {
    let Some((address, prefix)) = text.split_once('/') else { return false };
    let Ok(address) = address.parse::<IpAddr>() else { return false };
    prefix.parse::<u8>().is_ok_and(|prefix| prefix <= if address.is_ipv4() { 32 } else { 128 })
}

pub(super) const ENDPOINTS: Strategy = Strategy {
    default: |object| {
        for subset in meta::items_mut(object, &["subsets"]).filter_map(Value::as_object_mut) {
            for port in each(subset, "ports") {
                default_to(port, "protocol", "TCP");
            }
        }
    },
    validate: |object, faults| {
        for (at, subset) in meta::list_at(object, &["subsets"]).iter().enumerate() {
            endpoint_subset(subset, &format!("subsets[{at}]"), faults);
        }
    },
    create_on_update: true,
    ..Strategy::PLAIN
};

fn endpoint_subset(subset: &Value, path: &str, faults: &mut Faults) {
    let lists = ["addresses", "notReadyAddresses"];
    if lists.iter().all(|list| meta::list_at(subset, &[list]).is_empty()) {
        faults.required(path, "must specify `addresses` or `notReadyAddresses`");
    }
    for list in lists {
        for (at, address) in meta::list_at(subset, &[list]).iter().enumerate() {
            let path = format!("{path}.{list}[{at}]");
            let ip = address["ip"].as_str().unwrap_or_default();
            let here = format!("{path}.ip");
            match ip.parse::<IpAddr>() {
                Err(_) => {
                    faults.invalid(&here, ip, "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)");
                }
                Ok(address) => ordinary_address(address, ip, &here, faults),
            }
            for (field, judge) in
                [("hostname", names::dns_label as fn(&str) -> Vec<String>), ("nodeName", names::dns_subdomain)]
            {
                if let Some(name) = address[field].as_str().filter(|name| !name.is_empty()) {
                    faults.all_invalid(&format!("{path}.{field}"), name, judge(name));
                }
            }
        }
    }
    let ports = meta::list_at(subset, &["ports"]);
    for (at, port) in ports.iter().enumerate() {
        let path = format!("{path}.ports[{at}]");
        match port["name"].as_str().unwrap_or_default() {
            "" if ports.len() > 1 => faults.required(&format!("{path}.name"), ""),
            "" => {}
            name => faults.all_invalid(&format!("{path}.name"), name, names::dns_label(name)),
        }
        faults.port(&port["port"], &format!("{path}.port"));
        faults.required_one_of(port, "protocol", &path, &["SCTP", "TCP", "UDP"]);
    }
}

pub(super) const ENDPOINT_SLICE: Strategy = Strategy {
    default: |object| {
        for port in meta::items_mut(object, &["ports"]).filter_map(Value::as_object_mut) {
            default_to(port, "name", "");
            default_to(port, "protocol", "TCP");
        }
    },
    validate: |object, faults| {
        faults.required_one_of(object, "addressType", "", &["FQDN", "IPv4", "IPv6"]);
        let endpoints = meta::list_at(object, &["endpoints"]);
        let ports = meta::list_at(object, &["ports"]);
        for (list, path, max) in [(endpoints, "endpoints", 1000), (ports, "ports", 20_000)] {
            faults.at_most(list, max, path);
        }
        let kind = object["addressType"].as_str().unwrap_or_default();
        for (at, endpoint) in endpoints.iter().enumerate() {
            let path = format!("endpoints[{at}].addresses");
            let addresses = meta::list_at(endpoint, &["addresses"]);
            if addresses.is_empty() {
                faults.required(&path, "must contain at least 1 address");
            }
            faults.at_most(addresses, 100, &path);
            for (n, address) in addresses.iter().enumerate() {
                slice_address(address.as_str().unwrap_or_default(), kind, &format!("{path}[{n}]"), faults);
            }
            if let Some(name) = endpoint["hostname"].as_str() {
                faults.all_invalid(&format!("endpoints[{at}].hostname"), name, names::dns_label(name));
            }
        }
        let mut seen = BTreeSet::new();
        for (at, port) in ports.iter().enumerate() {
            let name = port["name"].as_str().unwrap_or_default();
            if !name.is_empty() {
                faults.all_invalid(&format!("ports[{at}].name"), name, names::dns_label(name));
            }
            if !seen.insert(name) {
                faults.push(FieldError::duplicate(format!("ports[{at}].name"), name));
            }
            faults.required_one_of(port, "protocol", &format!("ports[{at}]"), &["SCTP", "TCP", "UDP"]);
            if let Some(name) = port["appProtocol"].as_str() {
                faults.all_invalid(&format!("ports[{at}].appProtocol"), name, names::qualified_name(name));
            }
        }
    },
    validate_update: |new, old, faults| {
        faults.immutable(new.get("addressType"), old.get("addressType"), "addressType");
    },
    generation: true,
    ..Strategy::PLAIN
};

fn slice_address(text: &str, kind: &str, path: &str, faults: &mut Faults) {
    let address = match (kind, text.parse::<IpAddr>()) {
        ("FQDN", _) => return faults.all_invalid(path, text, names::dns_subdomain(text)),
        ("IPv4", Ok(address @ IpAddr::V4(_))) | ("IPv6", Ok(address @ IpAddr::V6(_))) => address,
        ("IPv4" | "IPv6", _) => return faults.invalid(path, text, format!("must be a valid {kind} address")),
        _ => return,
    };
    ordinary_address(address, text, path, faults);
}

/// Addresses that mean this very machine or link lead nowhere from elsewhere.
fn ordinary_address(address: IpAddr, text: &str, path: &str, faults: &mut Faults) {
    let link_local = match address {
        IpAddr::V4(v4) => v4.is_link_local(),
        IpAddr::V6(v6) => v6.segments()[0] & 0xffc0 == 0xfe80,
    };
    if address.is_unspecified() {
        faults.invalid(path, text, "may not be unspecified (0.0.0.0 or ::)");
    } else if address.is_loopback() {
        faults.invalid(path, text, "may not be in the loopback range (127.0.0.0/8, ::1/128)");
    } else if link_local {
        faults.invalid(path, text, "may not be in the link-local range (169.254.0.0/16, fe80::/10)");
    } else if link_local_multicast(address) {
        faults.invalid(path, text, "may not be in the link-local multicast range (224.0.0.0/24, ff02::/10)");
    }
}

fn link_local_multicast(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => v4.octets()[..3] == [224, 0, 0],
        IpAddr::V6(v6) => v6.segments()[0] & 0xff0f == 0xff02,
    }
}

pub(super) fn strategy(resource: &str) -> Strategy {
    match resource {
        "ingresses" => ingress::INGRESS,
        "networkpolicies" => NETWORK_POLICY,
        "ingressclasses" => ingress::INGRESS_CLASS,
        "ipaddresses" => ingress::IP_ADDRESS,
        "servicecidrs" => ingress::SERVICE_CIDR,
        _ => Strategy::PLAIN,
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
        for (list, side) in [("ingress", "from"), ("egress", "to")] {
            for (at, rule) in meta::list_at(object, &["spec", list]).iter().enumerate() {
                let path = format!("spec.{list}[{at}]");
                policy_rule(rule, side, &path, faults);
            }
        }
    },
    generation: true,
    ..Strategy::PLAIN
};

fn policy_rule(rule: &Value, side: &str, path: &str, faults: &mut Faults) {
    for (at, port) in meta::list_at(rule, &["ports"]).iter().enumerate() {
        let path = format!("{path}.ports[{at}]");
        faults.required_one_of(port, "protocol", &path, &["SCTP", "TCP", "UDP"]);
        if port["port"].is_number() || port["port"].is_string() {
            faults.port(&port["port"], &format!("{path}.port"));
        }
        if let Some(end) = port["endPort"].as_i64() {
            let path = format!("{path}.endPort");
            match port["port"].as_i64() {
                None => faults.required(&path, "may not be specified when `port` is not specified or is not a number"),
                Some(first) if end < first => faults.invalid(&path, end, "must be greater than or equal to `port`"),
                Some(_) if end > 65535 => faults.invalid(&path, end, "must be between 1 and 65535, inclusive"),
                Some(_) => {}
            }
        }
    }
    for (at, peer) in meta::list_at(rule, &[side]).iter().enumerate() {
        let path = format!("{path}.{side}[{at}]");
        for selector in ["podSelector", "namespaceSelector"] {
            if peer[selector].is_object() {
                faults.label_selector(&peer[selector], &format!("{path}.{selector}"));
            }
        }
        let block = &peer["ipBlock"];
        let selects = peer["podSelector"].is_object() || peer["namespaceSelector"].is_object();
        if block.is_object() && selects {
            faults.push(FieldError::forbidden(path.clone(), "may not specify both ipBlock and another peer"));
        } else if !block.is_object() && !selects {
            faults.required(&path, "must specify a peer");
        }
        if block.is_object() {
            let cidr = block["cidr"].as_str().unwrap_or_default();
            let detail = "must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)";
            if !is_cidr(cidr) {
                faults.invalid(&format!("{path}.ipBlock.cidr"), cidr, detail);
            }
            for (n, except) in meta::list_at(block, &["except"]).iter().enumerate() {
                let text = except.as_str().unwrap_or_default();
                if !is_cidr(text) {
                    faults.invalid(&format!("{path}.ipBlock.except[{n}]"), text, detail);
                }
            }
        }
    }
}
