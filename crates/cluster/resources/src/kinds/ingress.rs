//! Ingress, IngressClass, IPAddress, ServiceCIDR.

use std::net::IpAddr;

use serde_json::{Value, json};

use super::network::is_cidr;
use super::rules::Faults;
use super::{Strategy, status};
use crate::{FieldError, meta, names};

pub(super) const INGRESS: Strategy = Strategy {
    validate: |object, faults| {
        let spec = &object["spec"];
        let rules = meta::list_at(spec, &["rules"]);
        if rules.is_empty() && spec.get("defaultBackend").is_none() {
            faults.invalid("spec", json!([]), "either `defaultBackend` or `rules` must be specified");
        }
        for (at, rule) in rules.iter().enumerate() {
            let path = format!("spec.rules[{at}]");
            host(rule["host"].as_str().unwrap_or_default(), &format!("{path}.host"), faults);
            let paths = meta::list_at(rule, &["http", "paths"]);
            if rule["http"].is_object() && paths.is_empty() {
                faults.required(&format!("{path}.http.paths"), "");
            }
            for (n, one) in paths.iter().enumerate() {
                http_path(one, &format!("{path}.http.paths[{n}]"), faults);
            }
        }
        for (at, tls) in meta::list_at(spec, &["tls"]).iter().enumerate() {
            for (n, name) in meta::list_at(tls, &["hosts"]).iter().enumerate() {
                host(name.as_str().unwrap_or_default(), &format!("spec.tls[{at}].hosts[{n}]"), faults);
            }
        }
        if let Some(default) = spec.get("defaultBackend") {
            backend(default, "spec.defaultBackend", faults);
        }
        if let Some(class) = spec["ingressClassName"].as_str() {
            faults.all_invalid("spec.ingressClassName", class, names::dns_subdomain(class));
            let old = meta::str_at(object, &["metadata", "annotations", "kubernetes.io/ingress.class"]);
            if !old.is_empty() && old != class {
                let detail = "must match `ingressClassName` when both are specified";
                faults.invalid("metadata.annotations[kubernetes.io/ingress.class]", old, detail);
            }
        }
    },
    generation: true,
    validate_status: status::ingress,
    ..Strategy::PLAIN
};

fn host(name: &str, path: &str, faults: &mut Faults) {
    if name.is_empty() {
        return;
    }
    if name.parse::<IpAddr>().is_ok() {
        return faults.invalid(path, name, "must be a DNS name, not an IP address");
    }
    let plain = name.strip_prefix("*.").unwrap_or(name);
    faults.all_invalid(path, name, names::dns_subdomain(plain));
}

fn http_path(path: &Value, here: &str, faults: &mut Faults) {
    match path["pathType"].as_str() {
        None => faults.required(&format!("{here}.pathType"), "pathType must be specified"),
        Some(_) => faults.one_of(path, "pathType", here, &["Exact", "ImplementationSpecific", "Prefix"]),
    }
    let text = path["path"].as_str().unwrap_or_default();
    if path["pathType"] != "ImplementationSpecific" || !text.is_empty() {
        if !text.starts_with('/') {
            faults.invalid(&format!("{here}.path"), text, "must be an absolute path");
        } else if path["pathType"] != "ImplementationSpecific" {
            for part in ["//", "/./", "/../", "%2f", "%2F"].into_iter().filter(|part| text.contains(part)) {
                faults.invalid(&format!("{here}.path"), text, format!("must not contain '{part}'"));
            }
            for end in ["/..", "/."].into_iter().filter(|end| text.ends_with(end)) {
                faults.invalid(&format!("{here}.path"), text, format!("cannot end with '{end}'"));
            }
        }
    }
    backend(&path["backend"], &format!("{here}.backend"), faults);
}

fn backend(backend: &Value, path: &str, faults: &mut Faults) {
    let service = &backend["service"];
    if backend["resource"].is_object() {
        if service.is_object() {
            faults.invalid(path, "", "cannot set both resource and service backends");
        }
        for field in ["kind", "name"] {
            if backend["resource"][field].as_str().unwrap_or_default().is_empty() {
                faults.required(&format!("{path}.resource.{field}"), "");
            }
        }
        return;
    }
    match service["name"].as_str().unwrap_or_default() {
        "" => faults.required(&format!("{path}.service.name"), ""),
        name => faults.all_invalid(&format!("{path}.service.name"), name, names::dns_1035_label(name)),
    }
    let (number, name) = (&service["port"]["number"], service["port"]["name"].as_str().unwrap_or_default());
    match (number.as_i64().filter(|number| *number != 0), name) {
        (None, "") => faults.required(&format!("{path}.service"), "port name or number is required"),
        (Some(_), name) if !name.is_empty() => {
            faults.invalid(&format!("{path}.service"), "", "cannot set both port name & port number");
        }
        (Some(_), _) => faults.port(number, &format!("{path}.service.port.number")),
        (None, name) => faults.all_invalid(&format!("{path}.service.port.name"), name, names::port_name(name)),
    }
}

pub(super) const INGRESS_CLASS: Strategy = Strategy {
    validate: |object, faults| {
        match object["spec"]["controller"].as_str().unwrap_or_default() {
            "" => faults.required("spec.controller", ""),
            name if name.len() > 250 => faults.push(FieldError::too_long("spec.controller", 250)),
            name => match name.split_once('/') {
                Some((domain, rest)) if !rest.is_empty() && names::dns_subdomain(domain).is_empty() => {}
                _ => {
                    let detail = "must be a domain-prefixed path (such as \"acme.io/foo\")";
                    faults.invalid("spec.controller", name, detail);
                }
            },
        }
        let parameters = &object["spec"]["parameters"];
        if parameters.is_object() {
            for field in ["kind", "name"] {
                if parameters[field].as_str().unwrap_or_default().is_empty() {
                    faults.required(&format!("spec.parameters.{field}"), "");
                }
            }
            let namespaced = !parameters["namespace"].as_str().unwrap_or_default().is_empty();
            match parameters["scope"].as_str().unwrap_or("Cluster") {
                "Namespace" if !namespaced => {
                    faults.required("spec.parameters.namespace", "`parameters.scope` is set to 'Namespace'");
                }
                "Cluster" if namespaced => {
                    faults.forbidden("spec.parameters.namespace", "`parameters.scope` is set to 'Cluster'");
                }
                _ => faults.one_of(parameters, "scope", "spec.parameters", &["Cluster", "Namespace"]),
            }
        }
    },
    validate_update: |new, old, faults| {
        faults.immutable(new["spec"].get("controller"), old["spec"].get("controller"), "spec.controller");
    },
    generation: true,
    ..Strategy::PLAIN
};

pub(super) const IP_ADDRESS: Strategy = Strategy {
    name: |name| match name.parse::<IpAddr>() {
        Ok(ip) if ip.to_string() == name => Vec::new(),
        Ok(ip) => vec![format!("must be in canonical form (\"{ip}\")")],
        Err(_) => vec!["must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)".into()],
    },
    validate: |object, faults| {
        let reference = &object["spec"]["parentRef"];
        if !reference.is_object() {
            return faults.required("spec.parentRef", "");
        }
        for field in ["resource", "name"] {
            if reference[field].as_str().unwrap_or_default().is_empty() {
                faults.required(&format!("spec.parentRef.{field}"), "");
            }
        }
    },
    validate_update: |new, old, faults| {
        faults.immutable(new["spec"].get("parentRef"), old["spec"].get("parentRef"), "spec.parentRef");
    },
    ..Strategy::PLAIN
};

pub(super) const SERVICE_CIDR: Strategy = Strategy {
    validate: |object, faults| {
        let cidrs = meta::list_at(object, &["spec", "cidrs"]);
        if cidrs.is_empty() {
            faults.required("spec.cidrs", "at least one CIDR required");
        }
        if cidrs.len() > 2 {
            let detail = "may only hold up to 2 values";
            faults.invalid("spec.cidrs", cidrs.to_vec(), detail);
        }
        for (at, cidr) in cidrs.iter().enumerate() {
            let text = cidr.as_str().unwrap_or_default();
            if !is_cidr(text) {
                let detail = "must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)";
                faults.invalid(&format!("spec.cidrs[{at}]"), text, detail);
            }
        }
    },
    validate_update: |new, old, faults| {
        faults.immutable(new["spec"].get("cidrs"), old["spec"].get("cidrs"), "spec.cidrs");
    },
    ..Strategy::PLAIN
};
