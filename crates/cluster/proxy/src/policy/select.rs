//! Selectors carried out: policies, pods and namespaces in, addresses and ports out.

use std::collections::BTreeSet;
use std::net::IpAddr;

use cache::{Kind, View};
use linux::netlink::nft::Protocol;
use resources::selector::LabelSelector;
use resources::{Value, meta};

use super::{Allow, Direction, Peers, Policy, Ports};
use crate::Block;

/// A pod as policies see it: those on the host's network have the host's address and are not theirs.
struct Pod<'a> {
    object: &'a Value,
    addresses: Vec<IpAddr>,
}

fn pod(object: &Value) -> Option<Pod<'_>> {
    let ended = matches!(meta::str_at(object, &["status", "phase"]), "Succeeded" | "Failed");
    if ended || object["spec"]["hostNetwork"] == true {
        return None;
    }
    let listed = meta::list_at(object, &["status", "podIPs"]).iter().filter_map(|entry| entry["ip"].as_str());
    let mut addresses: Vec<IpAddr> =
        listed.chain([meta::str_at(object, &["status", "podIP"])]).filter_map(|ip| ip.parse().ok()).collect();
    addresses.sort_unstable();
    addresses.dedup();
    (!addresses.is_empty()).then_some(Pod { object, addresses })
}

/// What all policies of the cluster say about the pods of this node.
pub fn policies(view: &View, node: &str) -> Vec<Policy> {
    let mut found = Vec::new();
    for object in view.list(Kind::NetworkPolicy) {
        let namespace = meta::namespace(object);
        let Some(selector) = selector(&object["spec"]["podSelector"]) else { continue };
        let own: Vec<Pod<'_>> = view
            .in_namespace(Kind::Pod, namespace)
            .filter(|pod| meta::str_at(pod, &["spec", "nodeName"]) == node && selector.matches_object(pod))
            .filter_map(|object| pod(object))
            .collect();
        if own.is_empty() {
            continue;
        }
        let types = meta::list_at(object, &["spec", "policyTypes"]);
        for (word, direction, rules, side) in
            [("Ingress", Direction::Ingress, "ingress", "from"), ("Egress", Direction::Egress, "egress", "to")]
        {
            if !types.iter().any(|named| *named == word) {
                continue;
            }
            let allows = meta::list_at(object, &["spec", rules])
                .iter()
                .map(|rule| allow(view, namespace, rule, side, &own))
                .collect();
            found.push(Policy {
                name: format!("{namespace}/{}", meta::name(object)),
                direction,
                isolates: own.iter().flat_map(|pod| pod.addresses.iter().copied()).collect(),
                allows,
            });
        }
    }
    found
}

fn selector(value: &Value) -> Option<LabelSelector> {
    let empty = serde_json::json!({});
    LabelSelector::from_object(if value.is_object() { value } else { &empty }).ok()
}

fn allow(view: &View, namespace: &str, rule: &Value, side: &str, own: &[Pod<'_>]) -> Allow {
    let listed = meta::list_at(rule, &[side]);
    let mut peers = Vec::new();
    let mut selected: Vec<Pod<'_>> = Vec::new();
    for peer in listed {
        let block = &peer["ipBlock"];
        if block.is_object() {
            let excepted = meta::list_at(block, &["except"]).iter();
            peers.push(Peers::Blocks {
                with: block["cidr"].as_str().and_then(Block::parse).into_iter().collect(),
                without: excepted.filter_map(|text| Block::parse(text.as_str()?)).collect(),
            });
            continue;
        }
        let pods = select(view, namespace, peer);
        let addresses = pods.iter().flat_map(|pod| pod.addresses.iter().copied()).collect();
        let within = if peer["namespaceSelector"].is_object() { "" } else { namespace };
        let named = format!("{within} {} {}", peer["namespaceSelector"], peer["podSelector"]);
        peers.push(Peers::Pods { selected: named, addresses });
        selected.extend(pods);
    }
    // A port by its name is another one for each pod that listens.
    let listeners: Vec<&Pod<'_>> = if side == "from" { own.iter().collect() } else { selected.iter().collect() };
    let everybody: Vec<Pod<'_>> = match side == "to" && listed.is_empty() {
        true => view.list(Kind::Pod).filter_map(|object| pod(object)).collect(),
        false => Vec::new(),
    };
    let listeners = || listeners.iter().copied().chain(&everybody);
    let entries = meta::list_at(rule, &["ports"]);
    let ports: Vec<Ports> = entries.iter().filter_map(|entry| port(entry, listeners())).collect();
    Allow { peers: (!listed.is_empty()).then_some(peers), ports: (!entries.is_empty()).then_some(ports) }
}

fn select<'a>(view: &'a View, namespace: &str, peer: &Value) -> Vec<Pod<'a>> {
    let Some(pods) = selector(&peer["podSelector"]) else { return Vec::new() };
    let matching = |namespace: &str| -> Vec<Pod<'a>> {
        view.in_namespace(Kind::Pod, namespace)
            .filter(|object| pods.matches_object(object))
            .filter_map(|object| pod(object))
            .collect()
    };
    if !peer["namespaceSelector"].is_object() {
        return matching(namespace);
    }
    let Some(namespaces) = selector(&peer["namespaceSelector"]) else { return Vec::new() };
    view.list(Kind::Namespace)
        .filter(|object| namespaces.matches_object(object))
        .flat_map(|object| matching(meta::name(object)))
        .collect()
}

fn port<'a>(entry: &Value, listeners: impl Iterator<Item = &'a Pod<'a>>) -> Option<Ports> {
    let word = entry["protocol"].as_str().unwrap_or("TCP");
    let protocol = match word {
        "TCP" => Protocol::Tcp,
        "UDP" => Protocol::Udp,
        "SCTP" => Protocol::Sctp,
        _ => return None,
    };
    let number = |value: &Value| value.as_u64().and_then(|number| u16::try_from(number).ok());
    Some(match &entry["port"] {
        Value::Null => Ports::Any(protocol),
        Value::String(name) => {
            let mut at = BTreeSet::new();
            for pod in listeners {
                let port = resources::ports::named_port(pod.object, name, word);
                let port = port.and_then(|port| u16::try_from(port).ok());
                at.extend(port.into_iter().flat_map(|port| pod.addresses.iter().map(move |address| (*address, port))));
            }
            Ports::Named { name: name.clone(), protocol, at }
        }
        value => {
            let first = number(value)?;
            Ports::Range(protocol, first, number(&entry["endPort"]).unwrap_or(first))
        }
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn view() -> View {
        let mut view = View::default();
        for (name, team) in [("d", "a"), ("other", "b")] {
            view.put(
                Kind::Namespace,
                json!({"metadata": {"name": name, "resourceVersion": "1", "labels": {"team": team}}}),
            );
        }
        let pods = [
            ("d", "web", "n1", "10.1.0.2"),
            ("d", "db", "n1", "10.1.0.3"),
            ("d", "far", "n2", "10.1.4.2"),
            ("other", "web", "n1", "10.1.0.4"),
        ];
        for (namespace, name, node, ip) in pods {
            view.put(
                Kind::Pod,
                json!({"metadata": {"name": name, "namespace": namespace, "uid": ip, "resourceVersion": "1", "labels": {"app": name}},
                    "spec": {"nodeName": node, "containers": [{"ports": [{"name": "http", "containerPort": 8080}]}]},
                    "status": {"phase": "Running", "podIP": ip}}),
            );
        }
        view.put(
            Kind::Pod,
            json!({"metadata": {"name": "host", "namespace": "d", "resourceVersion": "1"},
                "spec": {"nodeName": "n1", "hostNetwork": true}, "status": {"podIP": "192.0.2.2"}}),
        );
        view
    }

    /// Directions with who is isolated, and each rule's peers and ports.
    fn check(spec: Value) -> Vec<String> {
        let mut view = view();
        view.put(
            Kind::NetworkPolicy,
            json!({"metadata": {"name": "p", "namespace": "d", "resourceVersion": "1"}, "spec": spec}),
        );
        let line = |policy: Policy| {
            let ips = |all: &BTreeSet<IpAddr>| all.iter().map(|ip| ip.to_string()).collect::<Vec<_>>().join(" ");
            let mut text = format!("{:?} {}:", policy.direction, ips(&policy.isolates));
            for allow in policy.allows {
                text.push_str(" [");
                for peer in allow.peers.unwrap_or_default() {
                    text.push_str(&match peer {
                        Peers::Pods { addresses, .. } => format!("({})", ips(&addresses)),
                        Peers::Blocks { with, without } => format!("({}-{})", with[0], without.len()),
                    });
                }
                for port in allow.ports.unwrap_or_default() {
                    text.push_str(&match port {
                        Ports::Any(protocol) => format!(" {protocol:?}"),
                        Ports::Range(protocol, first, last) => format!(" {protocol:?} {first}-{last}"),
                        Ports::Named { at, .. } => format!(" {}", at.len()),
                    });
                }
                text.push(']');
            }
            text
        };
        policies(&view, "n1").into_iter().map(line).collect()
    }

    #[test]
    fn selectors_become_addresses() {
        let deny = json!({"podSelector": {}, "policyTypes": ["Ingress", "Egress"]});
        assert_eq!(check(deny), ["Ingress 10.1.0.2 10.1.0.3:", "Egress 10.1.0.2 10.1.0.3:"]);
        let from = |peers: Value, ports: Value| {
            check(json!({"podSelector": {"matchLabels": {"app": "db"}}, "policyTypes": ["Ingress"],
                "ingress": [{"from": peers, "ports": ports}]}))
        };
        let own = json!([{"podSelector": {"matchLabels": {"app": "web"}}}]);
        assert_eq!(from(own, json!([{"port": 5432}])), ["Ingress 10.1.0.3: [(10.1.0.2) Tcp 5432-5432]"]);
        let others = json!([{"namespaceSelector": {"matchLabels": {"team": "b"}}}, {"podSelector": {}}]);
        let ports = json!([{"port": 1, "endPort": 9, "protocol": "UDP"}, {"protocol": "SCTP"}, {"port": "http"}]);
        let wanted = ["Ingress 10.1.0.3: [(10.1.0.4)(10.1.0.2 10.1.0.3 10.1.4.2) Udp 1-9 Sctp 1]"];
        assert_eq!(from(others, ports), wanted);
        let both = json!([{"namespaceSelector": {}, "podSelector": {"matchLabels": {"app": "web"}}}]);
        assert_eq!(from(both, json!([])), ["Ingress 10.1.0.3: [(10.1.0.2 10.1.0.4)]"]);
        let block = json!([{"ipBlock": {"cidr": "10.0.0.0/8", "except": ["10.1.0.0/16"]}}]);
        assert_eq!(from(block, json!([])), ["Ingress 10.1.0.3: [(10.0.0.0/8-1)]"]);
        let egress = json!({"podSelector": {"matchLabels": {"app": "web"}}, "policyTypes": ["Egress"],
            "egress": [{"to": [{"podSelector": {"matchLabels": {"app": "db"}}}], "ports": [{"port": "http"}]}, {}]});
        assert_eq!(check(egress), ["Egress 10.1.0.2: [(10.1.0.3) 1] []"]);
        let nobody = json!({"podSelector": {"matchLabels": {"app": "far"}}, "policyTypes": ["Ingress"]});
        assert_eq!(check(nobody), [] as [&str; 0], "its pods are another node's");
    }
}
