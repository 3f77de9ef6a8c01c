//! Services, where they lead, and how one gets to them.

use serde_json::Value;

use super::text::{age, labels, load_balancer, name, or_none, selector, some_of, text};
use super::{AGE, NAME, Table, string, wide};
use crate::meta::{list_at, str_at};

pub(super) const SERVICE: Table = Table {
    columns: &[
        NAME,
        string("Type"),
        string("Cluster-IP"),
        string("External-IP"),
        string("Port(s)"),
        AGE,
        wide("Selector"),
    ],
    cells: |object, now| {
        vec![
            name(object),
            text(object, &["spec", "type"]),
            or_none(str_at(object, &["spec", "clusterIP"])),
            external_ip(object).into(),
            service_ports(object),
            age(object, now),
            labels(&object["spec"]["selector"]),
        ]
    },
};

fn external_ip(service: &Value) -> String {
    let external: Vec<&str> = list_at(service, &["spec", "externalIPs"]).iter().filter_map(Value::as_str).collect();
    match str_at(service, &["spec", "type"]) {
        "ExternalName" => str_at(service, &["spec", "externalName"]).to_owned(),
        "LoadBalancer" => {
            let mut all = vec![load_balancer(service)];
            all.extend(external.iter().map(|&ip| ip.to_owned()));
            all.retain(|text| !text.is_empty());
            if all.is_empty() { "<pending>".into() } else { all.join(",") }
        }
        _ if external.is_empty() => "<none>".into(),
        _ => external.join(","),
    }
}

fn service_ports(service: &Value) -> Value {
    let one = |port: &Value| {
        let protocol = port["protocol"].as_str().unwrap_or_default();
        match port["nodePort"].as_i64() {
            Some(node) if node > 0 => format!("{}:{node}/{protocol}", port["port"]),
            _ => format!("{}/{protocol}", port["port"]),
        }
    };
    or_none(&list_at(service, &["spec", "ports"]).iter().map(one).collect::<Vec<_>>().join(","))
}

pub(super) const ENDPOINTS: Table = Table {
    columns: &[NAME, string("Endpoints"), AGE],
    cells: |object, now| {
        let mut all = Vec::new();
        for subset in list_at(object, &["subsets"]) {
            let addresses = || {
                let addresses = list_at(subset, &["addresses"]).iter();
                addresses.map(|address| address["ip"].as_str().unwrap_or_default())
            };
            let ports = list_at(subset, &["ports"]);
            if ports.is_empty() {
                all.extend(addresses().map(str::to_owned));
            }
            for port in ports {
                all.extend(addresses().map(|ip| {
                    let port = &port["port"];
                    if ip.contains(':') { format!("[{ip}]:{port}") } else { format!("{ip}:{port}") }
                }));
            }
        }
        vec![name(object), some_of(all, "<none>"), age(object, now)]
    },
};

pub(super) const ENDPOINT_SLICE: Table = Table {
    columns: &[NAME, string("AddressType"), string("Ports"), string("Endpoints"), AGE],
    cells: |object, now| {
        let port = |port: &Value| match (&port["port"], port["name"].as_str()) {
            (Value::Number(number), _) => number.to_string(),
            (_, Some(name)) if !name.is_empty() => name.to_owned(),
            _ => "*".to_owned(),
        };
        let ports = list_at(object, &["ports"]).iter().map(port).collect();
        let all = list_at(object, &["endpoints"]).iter();
        let addresses = all.flat_map(|endpoint| list_at(endpoint, &["addresses"])).filter_map(Value::as_str);
        vec![
            name(object),
            text(object, &["addressType"]),
            some_of(ports, "<unset>"),
            some_of(addresses.map(str::to_owned).collect(), "<unset>"),
            age(object, now),
        ]
    },
};

pub(super) const INGRESS: Table = Table {
    columns: &[NAME, string("Class"), string("Hosts"), string("Address"), string("Ports"), AGE],
    cells: |object, now| {
        let hosts = list_at(object, &["spec", "rules"]).iter().filter_map(|rule| rule["host"].as_str());
        let hosts = hosts.filter(|host| !host.is_empty()).map(str::to_owned).collect();
        let tls = !list_at(object, &["spec", "tls"]).is_empty();
        vec![
            name(object),
            or_none(str_at(object, &["spec", "ingressClassName"])),
            some_of(hosts, "*"),
            load_balancer(object).into(),
            (if tls { "80, 443" } else { "80" }).into(),
            age(object, now),
        ]
    },
};

pub(super) const INGRESS_CLASS: Table = Table {
    columns: &[NAME, string("Controller"), string("Parameters"), AGE],
    cells: |object, now| {
        let to = &object["spec"]["parameters"];
        let parameters = match to["name"].as_str() {
            Some(name) => {
                let group = to["apiGroup"].as_str().unwrap_or_default();
                let kind = crate::errors::qualified(group, to["kind"].as_str().unwrap_or_default());
                format!("{kind}/{name}")
            }
            None => "<none>".into(),
        };
        vec![name(object), text(object, &["spec", "controller"]), parameters.into(), age(object, now)]
    },
};

pub(super) const NETWORK_POLICY: Table = Table {
    columns: &[NAME, string("Pod-Selector"), AGE],
    cells: |object, now| vec![name(object), selector(&object["spec"]["podSelector"]), age(object, now)],
};

pub(super) const IP_ADDRESS: Table = Table {
    columns: &[NAME, string("ParentRef"), AGE],
    cells: |object, now| {
        let to = &object["spec"]["parentRef"];
        let part = |key: &str| to[key].as_str().unwrap_or_default();
        let resource = crate::errors::qualified(part("group"), part("resource"));
        let parent = match (to.is_object(), part("namespace")) {
            (false, _) => "<none>".to_owned(),
            (true, "") => format!("{resource}/{}", part("name")),
            (true, namespace) => format!("{resource}/{namespace}/{}", part("name")),
        };
        vec![name(object), parent.into(), age(object, now)]
    },
};

pub(super) const SERVICE_CIDR: Table = Table {
    columns: &[NAME, string("CIDRs"), AGE],
    cells: |object, now| {
        let cidrs: Vec<&str> = list_at(object, &["spec", "cidrs"]).iter().filter_map(Value::as_str).collect();
        vec![name(object), cidrs.join(",").into(), age(object, now)]
    },
};
