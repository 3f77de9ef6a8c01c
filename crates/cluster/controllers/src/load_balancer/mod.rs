//! Services of type LoadBalancer get their address: from a pool, if one is set, and else the nodes' own.
//!
//! An address of a pool belongs to one service. The nodes' addresses are shared by all services, each with its ports: of two that
//! want the same port the older one has it, and the other one waits and is told why.
//!
//! * `pool` — addresses to give
//! * `announcer` — which node says on the wire that such an address is its own

mod announcer;
mod pool;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use cache::{Key, Kind, Outcome, Part, View, Write};
use jiff::Timestamp;
use resources::{Value, meta};
use serde_json::json;

use crate::pods;

pub use announcer::ANNOUNCED_BY;
pub use pool::PoolRange;

const EXCLUDED: &str = "node.kubernetes.io/exclude-from-external-load-balancers";
const NONE_LEFT: &str = "no address is left in the pool";

#[derive(Default)]
pub struct LoadBalancers {
    pool: Vec<PoolRange>,
    /// Given, and maybe not in the view yet.
    given: BTreeMap<Key, BTreeSet<IpAddr>>,
}

impl LoadBalancers {
    /// An empty pool gives services the nodes' addresses.
    pub fn new(pool: Vec<PoolRange>) -> Self {
        Self { pool, given: BTreeMap::new() }
    }

    fn choose(&mut self, view: &View, key: &Key, service: &Value) -> Result<Vec<IpAddr>, String> {
        let mut taken: BTreeSet<IpAddr> = BTreeSet::new();
        for other in view.list(Kind::Service).filter(|other| is_ours(other) && Key::of(other) != *key) {
            taken.extend(addresses(other));
        }
        let others = self.given.iter().filter(|(other, _)| *other != key).flat_map(|(_, given)| given);
        taken.extend(others.copied());
        let have: BTreeSet<IpAddr> =
            addresses(service).into_iter().chain(self.given.get(key).into_iter().flatten().copied()).collect();
        let asked = meta::str_at(service, &["spec", "loadBalancerIP"]).parse::<IpAddr>().ok();
        let families: Vec<Value> = match meta::list_at(service, &["spec", "ipFamilies"]) {
            [] => vec!["IPv4".into()],
            families => families.to_vec(),
        };
        let mut chosen = Vec::new();
        for family in families {
            let ipv6 = family == "IPv6";
            let free = |address: &IpAddr| {
                address.is_ipv6() == ipv6
                    && !taken.contains(address)
                    && self.pool.iter().any(|range| range.contains(*address))
            };
            if let Some(asked) = asked.filter(|asked| asked.is_ipv6() == ipv6) {
                match free(&asked) {
                    true => chosen.push(asked),
                    false => return Err(format!("the address {asked} is not in the pool or is another service's")),
                }
                continue;
            }
            let kept = have.iter().copied().find(&free);
            let found = kept.or_else(|| self.pool.iter().flat_map(PoolRange::addresses).find(&free));
            chosen.push(found.ok_or_else(|| NONE_LEFT.to_owned())?);
        }
        Ok(chosen)
    }
}

impl Part for LoadBalancers {
    fn name(&self) -> &'static str {
        "service-lb-controller"
    }

    fn watches(&self) -> &'static [Kind] {
        &[Kind::Service, Kind::Node, Kind::EndpointSlice]
    }

    fn keys(&self, view: &View, kind: Kind, object: &Value) -> Vec<Key> {
        let balanced = || view.list(Kind::Service).filter(|service| is_ours(service)).map(|service| Key::of(service));
        match kind {
            // One that lets go of an address or a port may be what another one waits for.
            Kind::Service if self.given.contains_key(&Key::of(object)) || is_ours(object) => {
                balanced().chain([Key::of(object)]).collect()
            }
            Kind::Service => match addresses(object).is_empty() {
                true => Vec::new(),
                false => vec![Key::of(object)],
            },
            // Where its pods are decides who may announce it.
            Kind::EndpointSlice if self.pool.is_empty() => Vec::new(),
            Kind::EndpointSlice => {
                let service = meta::at(object, &["metadata", "labels", "kubernetes.io/service-name"]);
                let service = service.and_then(Value::as_str).map(|name| Key::new(meta::namespace(object), name));
                service.into_iter().filter(|key| view.at(Kind::Service, key).is_some_and(|one| is_ours(one))).collect()
            }
            _ => balanced().collect(),
        }
    }

    fn reconcile(&mut self, view: &View, key: &Key, _: Timestamp) -> Outcome {
        let Some(service) = view.at(Kind::Service, key) else {
            self.given.remove(key);
            return Outcome::default();
        };
        if !is_ours(service) || meta::is_terminating(service) {
            self.given.remove(key);
            // Another class's balancer writes what is its own.
            let other = service["spec"]["type"] == "LoadBalancer" && service["spec"].get("loadBalancerClass").is_some();
            let write = if other { None } else { status(service, &[]) };
            return Outcome::of(write.into_iter().chain(announcer::tell(service, None)).collect());
        }
        let chosen = match self.pool.is_empty() {
            true => of_nodes(view, key, service),
            false => self.choose(view, key, service),
        };
        match chosen {
            Ok(chosen) => {
                self.given.insert(key.clone(), chosen.iter().copied().collect());
                let announcer = match self.pool.is_empty() {
                    true => None,
                    false => announcer::choose(view, key, service),
                };
                // The status first: it is refused once the object has changed, and the annotation is not.
                let mut writes: Vec<Write> = status(service, &chosen).into_iter().collect();
                writes.extend(announcer::tell(service, announcer));
                Outcome::of(writes)
            }
            Err(why) => {
                self.given.remove(key);
                let mut writes: Vec<Write> = status(service, &[]).into_iter().collect();
                let text = format!("Error syncing load balancer: failed to ensure load balancer: {why}");
                writes.push(Write::warning(Kind::Service, service, "SyncLoadBalancerFailed", text));
                Outcome::of(writes)
            }
        }
    }
}

/// A service that asks for an address, and not for somebody else's.
fn is_ours(service: &Value) -> bool {
    service["spec"]["type"] == "LoadBalancer" && service["spec"].get("loadBalancerClass").is_none()
}

/// Whether a node takes part in what comes from outside.
fn takes(node: &Value) -> bool {
    let excluded = meta::at(node, &["metadata", "labels", EXCLUDED]).is_some();
    pods::is_ready(node) && !excluded && !meta::is_terminating(node)
}

fn addresses(service: &Value) -> Vec<IpAddr> {
    let list = meta::list_at(service, &["status", "loadBalancer", "ingress"]);
    list.iter().filter_map(|entry| entry["ip"].as_str()?.parse().ok()).collect()
}

/// What it says, unless it says so already.
fn status(service: &Value, addresses_now: &[IpAddr]) -> Option<Write> {
    if addresses(service) == addresses_now {
        return None;
    }
    let ingress: Vec<Value> =
        addresses_now.iter().map(|address| json!({"ip": address.to_string(), "ipMode": "VIP"})).collect();
    let mut status = service["status"].clone();
    status["loadBalancer"] = if ingress.is_empty() { json!({}) } else { json!({"ingress": ingress}) };
    pods::status_write(Kind::Service, service, status)
}

fn ports(service: &Value) -> BTreeSet<(String, i64)> {
    let list = meta::list_at(service, &["spec", "ports"]);
    list.iter()
        .map(|port| (port["protocol"].as_str().unwrap_or("TCP").to_owned(), port["port"].as_i64().unwrap_or(0)))
        .collect()
}

/// The addresses of the nodes, unless an older service has one of the ports there.
fn of_nodes(view: &View, key: &Key, service: &Value) -> Result<Vec<IpAddr>, String> {
    let age = |service: &Value| (meta::get(service, "creationTimestamp").to_owned(), Key::of(service));
    let (own_age, own_ports) = (age(service), ports(service));
    let before = view.list(Kind::Service).filter(|other| is_ours(other) && !meta::is_terminating(other));
    for other in before.filter(|other| Key::of(other) != *key && age(other) < own_age) {
        if let Some((protocol, port)) = ports(other).intersection(&own_ports).next() {
            return Err(format!("port {port}/{protocol} of the nodes is that of service {}", Key::of(other)));
        }
    }
    let families = meta::list_at(service, &["spec", "ipFamilies"]);
    let wanted = |ip: &IpAddr| match families {
        [] => ip.is_ipv4(),
        _ => families.contains(&json!(if ip.is_ipv4() { "IPv4" } else { "IPv6" })),
    };
    let mut all: BTreeSet<IpAddr> = BTreeSet::new();
    for node in view.list(Kind::Node).filter(|node| takes(node)) {
        let list = meta::list_at(node, &["status", "addresses"]).iter();
        let internal = list.filter(|entry| entry["type"] == "InternalIP");
        all.extend(internal.filter_map(|entry| entry["address"].as_str()?.parse::<IpAddr>().ok()).filter(wanted));
    }
    Ok(all.into_iter().collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn service(name: &str, created: &str, port: i64) -> Value {
        json!({"metadata": {"name": name, "namespace": "d", "uid": name, "resourceVersion": "1", "creationTimestamp": created},
            "spec": {"type": "LoadBalancer", "ipFamilies": ["IPv4"], "ports": [{"port": port, "protocol": "TCP"}]},
            "status": {"loadBalancer": {}}})
    }

    fn node() -> Value {
        json!({"metadata": {"name": "n", "resourceVersion": "1"}, "status": {
            "conditions": [{"type": "Ready", "status": "True"}],
            "addresses": [{"type": "InternalIP", "address": "192.0.2.2"}, {"type": "Hostname", "address": "n"}]}})
    }

    /// What each service gets, or why not.
    fn run(pool: &[&str], services: &[Value]) -> Vec<String> {
        let mut view = View::default();
        view.put(Kind::Node, node());
        for service in services {
            view.put(Kind::Service, service.clone());
        }
        let pool = pool.iter().map(|text| PoolRange::parse(text).unwrap()).collect();
        let mut part = LoadBalancers::new(pool);
        let mut lines = Vec::new();
        for service in services {
            let outcome = part.reconcile(&view, &Key::of(service), Timestamp::UNIX_EPOCH);
            lines.push(outcome.writes.iter().fold(String::new(), |line, write| match write {
                Write::Status(_, service) => line + &format!("{:?}", addresses(service)),
                Write::Event { message, .. } => line + message.rsplit(": ").next().unwrap(),
                Write::Merge { patch, .. } => {
                    line + " by " + patch["metadata"]["annotations"][ANNOUNCED_BY].as_str().unwrap()
                }
                other => panic!("{other:?}"),
            }));
        }
        lines
    }

    #[test]
    fn nodes_addresses_are_shared_and_the_older_has_the_port() {
        let services = [
            service("b", "2026-01-02T00:00:00Z", 80),
            service("a", "2026-01-01T00:00:00Z", 80),
            service("c", "2026-01-03T00:00:00Z", 81),
        ];
        let lines = run(&[], &services);
        assert_eq!(lines, ["port 80/TCP of the nodes is that of service d/a", "[192.0.2.2]", "[192.0.2.2]"]);
    }

    #[test]
    fn a_pool_gives_each_its_own_until_it_is_empty() {
        let mut services = [service("a", "1", 80), service("b", "1", 80), service("c", "1", 80)];
        assert_eq!(run(&["198.51.100.8/31"], &services), ["[198.51.100.8] by n", "[198.51.100.9] by n", NONE_LEFT]);
        services[1]["spec"]["loadBalancerIP"] = "198.51.100.8".into();
        services[2]["status"]["loadBalancer"] = json!({"ingress": [{"ip": "198.51.100.9"}]});
        let wanted =
            ["[198.51.100.8] by n", "the address 198.51.100.8 is not in the pool or is another service's", " by n"];
        assert_eq!(run(&["198.51.100.8-198.51.100.9"], &services), wanted, "who has one keeps it");
    }

    #[test]
    fn another_class_is_anothers_and_another_type_lets_go() {
        let mut other = service("a", "1", 80);
        other["spec"]["loadBalancerClass"] = "example.com/x".into();
        other["status"]["loadBalancer"] = json!({"ingress": [{"ip": "203.0.113.1"}]});
        let mut was = service("b", "1", 80);
        was["spec"]["type"] = "ClusterIP".into();
        was["status"]["loadBalancer"] = json!({"ingress": [{"ip": "192.0.2.2"}]});
        assert_eq!(run(&[], &[other, was]), ["", "[]"]);
    }
}
