//! API objects in, plain values out. What is not understood is left out: the API has validated what people write, and slices of
//! other controllers may say anything.

use std::net::IpAddr;

use linux::netlink::nft::Protocol;
use resources::{Value, meta};

use crate::Block;
use crate::model::{Backend, Service, ServicePort};

fn protocol(value: &Value) -> Option<Protocol> {
    match value.as_str().unwrap_or("TCP") {
        "TCP" => Some(Protocol::Tcp),
        "UDP" => Some(Protocol::Udp),
        "SCTP" => Some(Protocol::Sctp),
        _ => None,
    }
}

fn port(value: &Value) -> Option<u16> {
    value.as_u64().and_then(|port| u16::try_from(port).ok()).filter(|port| *port != 0)
}

fn addresses<'a>(list: impl Iterator<Item = &'a Value>) -> Vec<IpAddr> {
    let mut all: Vec<IpAddr> = list.filter_map(|ip| ip.as_str()?.parse().ok()).collect();
    all.sort_unstable();
    all.dedup();
    all
}

/// Where this node is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Here<'a> {
    pub node: &'a str,
    /// Empty: it is in none.
    pub zone: &'a str,
}

/// A service and its slices, as this node sees them. `None`: it has no address.
pub fn service<'a>(object: &Value, slices: impl Iterator<Item = &'a Value> + Clone, here: Here<'_>) -> Option<Service> {
    let spec = &object["spec"];
    if spec["type"] == "ExternalName" || meta::is_terminating(object) {
        return None;
    }
    let mut cluster_ips = addresses(meta::list_at(spec, &["clusterIPs"]).iter());
    if cluster_ips.is_empty() {
        cluster_ips = addresses([&spec["clusterIP"]].into_iter());
    }
    if cluster_ips.is_empty() {
        return None;
    }
    let balancer = meta::list_at(object, &["status", "loadBalancer", "ingress"]).iter();
    // A balancer that hands connections over itself does not want them kept from it.
    let balancer =
        balancer.filter(|entry| entry["ipMode"].as_str().unwrap_or("VIP") == "VIP").map(|entry| &entry["ip"]);
    let balanced = spec["type"] == "LoadBalancer";
    let sources = meta::list_at(spec, &["loadBalancerSourceRanges"]).iter();
    Some(Service {
        cluster_ips,
        external_ips: addresses(meta::list_at(spec, &["externalIPs"]).iter()),
        balancer_ips: if balanced { addresses(balancer) } else { Vec::new() },
        sources: sources.filter_map(|text| Block::parse(text.as_str()?)).collect(),
        affinity_secs: (spec["sessionAffinity"] == "ClientIP")
            .then(|| spec["sessionAffinityConfig"]["clientIP"]["timeoutSeconds"].as_u64().unwrap_or(10800)),
        internal_local: spec["internalTrafficPolicy"] == "Local",
        external_local: spec["externalTrafficPolicy"] == "Local",
        health_port: port(&spec["healthCheckNodePort"]).filter(|_| balanced),
        ports: meta::list_at(spec, &["ports"])
            .iter()
            .filter_map(|entry| {
                Some(ServicePort {
                    protocol: protocol(&entry["protocol"])?,
                    port: port(&entry["port"])?,
                    node_port: port(&entry["nodePort"]),
                    backends: backends(entry, slices.clone(), here),
                })
            })
            .collect(),
    })
}

fn backends<'a>(entry: &Value, slices: impl Iterator<Item = &'a Value>, here: Here<'_>) -> Vec<Backend> {
    let name = entry["name"].as_str().unwrap_or_default();
    let wanted = protocol(&entry["protocol"]);
    let mut found = Vec::new();
    for slice in slices.filter(|slice| slice["addressType"] != "FQDN") {
        let ports = meta::list_at(slice, &["ports"]).iter();
        let same =
            |port: &&Value| port["name"].as_str().unwrap_or_default() == name && protocol(&port["protocol"]) == wanted;
        for number in ports.filter(same).filter_map(|entry| port(&entry["port"])) {
            for endpoint in meta::list_at(slice, &["endpoints"]) {
                let condition = |name: &str| endpoint["conditions"][name].as_bool();
                let ready = condition("ready").unwrap_or(true);
                // Any of an endpoint's addresses is as good as the first.
                let address = endpoint["addresses"][0].as_str().and_then(|ip| ip.parse::<IpAddr>().ok());
                let Some(address) = address.filter(|address| is_endpoint(*address)) else { continue };
                found.push(Backend {
                    address,
                    port: number,
                    local: endpoint["nodeName"].as_str().is_none_or(|name| name == here.node),
                    ready,
                    serving: condition("serving").unwrap_or(ready),
                    terminating: condition("terminating").unwrap_or(false),
                    for_zone: meant(endpoint, "forZones", here.zone),
                    for_node: meant(endpoint, "forNodes", here.node),
                    pod: endpoint["targetRef"]["uid"].as_str().unwrap_or_default().to_owned(),
                });
            }
        }
    }
    found.sort();
    found.dedup();
    found
}

/// Whether an endpoint's hints name this place; nothing if they name none.
fn meant(endpoint: &Value, field: &str, place: &str) -> Option<bool> {
    let named = meta::list_at(endpoint, &["hints", field]);
    (!named.is_empty()).then(|| named.iter().any(|one| one["name"] == place))
}

/// A slice that somebody wrote by hand must not lead to what only this node can reach.
fn is_endpoint(address: IpAddr) -> bool {
    let link_local = match address {
        IpAddr::V4(address) => address.is_link_local() || address.is_broadcast(),
        IpAddr::V6(address) => address.is_unicast_link_local(),
    };
    !address.is_loopback() && !address.is_unspecified() && !address.is_multicast() && !link_local
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn slice(endpoints: Value) -> Value {
        json!({"addressType": "IPv4", "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}], "endpoints": endpoints})
    }

    #[test]
    fn ports_meet_by_name_and_protocol() {
        let object = json!({"spec": {"clusterIPs": ["10.96.0.9"], "clusterIP": "10.96.0.9", "ports": [
            {"name": "http", "port": 80, "protocol": "TCP", "nodePort": 30080}, {"name": "dns", "port": 53, "protocol": "UDP"}]}});
        let slices = [slice(json!([
            {"addresses": ["10.0.0.2"], "nodeName": "n", "targetRef": {"uid": "u"}, "conditions": {"ready": true}},
            {"addresses": ["10.0.0.3"], "nodeName": "m", "conditions": {"ready": false, "serving": true, "terminating": true}},
            {"addresses": ["127.0.0.1"]}, {"addresses": ["169.254.169.254"]}, {"addresses": ["x"]}]))];
        let service = service(&object, slices.iter(), Here { node: "n", zone: "" }).unwrap();
        let [http, dns] = service.ports.as_slice() else { panic!() };
        assert_eq!((http.node_port, http.backends.len(), dns.backends.len()), (Some(30080), 2, 0));
        assert_eq!(http.usable(true, false), [("10.0.0.2".parse().unwrap(), 8080)]);
        assert_eq!((http.backends[0].local, http.backends[1].local), (true, false));
    }

    #[test]
    fn what_ends_serves_only_where_nothing_else_does() {
        let backend = |address: &str, ready, terminating, local| Backend {
            address: address.parse().unwrap(),
            port: 1,
            local,
            ready,
            serving: true,
            terminating,
            for_zone: None,
            for_node: None,
            pod: String::new(),
        };
        let check = |backends: Vec<Backend>, local| {
            let port = ServicePort { protocol: Protocol::Tcp, port: 1, node_port: None, backends };
            port.usable(true, local).into_iter().map(|(ip, _)| ip.to_string()).collect::<Vec<_>>()
        };
        let (ready, ending) = (backend("10.0.0.1", true, false, false), backend("10.0.0.2", false, true, true));
        assert_eq!(check(vec![ready.clone(), ending.clone()], false), ["10.0.0.1"]);
        assert_eq!(check(vec![ready, ending.clone()], true), ["10.0.0.2"]);
        assert_eq!(check(vec![ending], false), ["10.0.0.2"]);
    }

    #[test]
    fn what_is_meant_for_here_comes_before_the_rest() {
        let object = json!({"spec": {"clusterIPs": ["10.96.0.9"], "ports": [{"name": "http", "port": 80}]}});
        let endpoint = |address: &str, node: &str, hints: Value| json!({"addresses": [address], "nodeName": node, "conditions": {"ready": true}, "hints": hints});
        let zone = |name: &str| json!({"forZones": [{"name": name}]});
        let node = |name: &str, zone: &str| json!({"forZones": [{"name": zone}], "forNodes": [{"name": name}]});
        let (here, near, far) = (node("n", "east"), node("m", "east"), node("k", "west"));
        for (what, all, expected) in [
            ("the zone's", vec![zone("east"), zone("west"), zone("east")], "10.0.0.0 10.0.0.2"),
            ("none is near", vec![zone("west"), zone("north")], "10.0.0.0 10.0.0.1"),
            ("one does not say", vec![zone("east"), zone("west"), Value::Null], "10.0.0.0 10.0.0.1 10.0.0.2"),
            ("the node's", vec![here, near.clone(), far.clone()], "10.0.0.0"),
            ("else the zone's", vec![near, far], "10.0.0.0"),
        ] {
            let all =
                all.into_iter().enumerate().map(|(n, hints)| endpoint(&format!("10.0.0.{n}"), "m", hints)).collect();
            let slices = [slice(all)];
            let service = service(&object, slices.iter(), Here { node: "n", zone: "east" }).unwrap();
            let usable = service.ports[0].usable(true, false).into_iter().map(|(address, _)| address.to_string());
            assert_eq!(usable.collect::<Vec<_>>().join(" "), expected, "{what}");
        }
    }

    #[test]
    fn services_without_an_address_are_none() {
        for spec in [json!({"clusterIP": "None"}), json!({"type": "ExternalName"}), json!({})] {
            assert_eq!(service(&json!({"spec": spec}), [].iter(), Here::default()), None);
        }
    }
}
