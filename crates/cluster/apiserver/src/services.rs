//! Addresses and ports of services: chosen from a range, never given twice.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};

use resources::{FieldError, Value, meta};
use serde_json::json;

use crate::allocated::Others;

/// The range of service addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Range {
    pub base: Ipv4Addr,
    pub prefix: u8,
}

impl Default for Range {
    fn default() -> Self {
        Self { base: Ipv4Addr::new(10, 96, 0, 0), prefix: 12 }
    }
}

pub const NODE_PORTS: std::ops::RangeInclusive<i64> = 30000..=32767;

impl Range {
    pub fn contains(&self, ip: Ipv4Addr) -> bool {
        let mask = u32::MAX.checked_shl(32 - u32::from(self.prefix)).unwrap_or(0);
        u32::from(ip) & mask == u32::from(self.base) & mask
    }

    /// The address of the API itself.
    pub fn first(&self) -> Ipv4Addr {
        Ipv4Addr::from(u32::from(self.base) + 1)
    }

    fn size(&self) -> u32 {
        1u32.checked_shl(32 - u32::from(self.prefix)).unwrap_or(u32::MAX)
    }
}

/// Services that ask for a certain address or port usually take a low one: what is chosen for others comes from above this
/// many, as long as there is something free.
fn kept_low(size: u32, share: u32, most: u32) -> u32 {
    if size < 32 { 0 } else { (size / share).clamp(16, most) }
}

/// Numbers below `size` in the order in which they are tried: upper ones from a random one on, then the low ones.
fn tried(size: u32, low: u32, pick: u32) -> impl Iterator<Item = u32> {
    let upper = (size - low).max(1);
    let low = if low < size { low } else { 0 };
    (0..size - low).map(move |step| low + (pick % upper + step) % upper).chain(0..low)
}

/// Gives a service what it lacks and has a right to, and no other one has. `pick` is a random number.
pub fn allocate(service: &mut Value, others: Others<'_>, range: Range, pick: u32) -> Result<(), FieldError> {
    let kind = meta::str_at(service, &["spec", "type"]).to_owned();
    if kind == "ExternalName" {
        for field in ["clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy", "healthCheckNodePort"] {
            service["spec"].as_object_mut().map(|spec| spec.remove(field));
        }
        return Ok(());
    }
    families(service)?;
    let used = |ip: Ipv4Addr| others.have_address(ip.into());
    let listed = meta::list_at(service, &["spec", "clusterIPs"]).first().and_then(Value::as_str);
    let asked = match meta::str_at(service, &["spec", "clusterIP"]) {
        "" => listed.unwrap_or_default().to_owned(),
        ip => ip.to_owned(),
    };
    let ip = match asked.as_str() {
        "None" => asked,
        "" => {
            // Neither the network's address nor the last one.
            let size = range.size() - 2;
            let free = tried(size, kept_low(range.size(), 16, 256), pick)
                .map(|number| Ipv4Addr::from(u32::from(range.base) + 1 + number))
                .find(|ip| *ip != range.first() && !used(*ip));
            free.ok_or_else(|| FieldError::invalid("spec.clusterIPs", Value::Null, "range is full"))?.to_string()
        }
        asked => {
            let refused = |why: &str| {
                let why = format!("failed to allocate IP {asked}: {why}");
                Err(FieldError::invalid("spec.clusterIPs", json!([asked]), why))
            };
            match asked.parse::<IpAddr>() {
                Ok(IpAddr::V4(ip)) if range.contains(ip) && !used(ip) => asked.to_owned(),
                Ok(IpAddr::V4(ip)) if range.contains(ip) => return refused("provided IP is already allocated"),
                Ok(_) => {
                    let span = format!("{}/{}", range.base, range.prefix);
                    return refused(&format!("the provided network does not contain the IP: it is not in {span}"));
                }
                // Validation has said so already.
                Err(_) => return Ok(()),
            }
        }
    };
    let spec = meta::object_at(service, &["spec"]);
    spec.insert("clusterIPs".into(), json!([ip]));
    spec.insert("clusterIP".into(), ip.into());
    let allocates = kind == "NodePort"
        || (kind == "LoadBalancer" && spec.get("allocateLoadBalancerNodePorts") != Some(&Value::Bool(false)));
    let mut used = Ports { others, own: BTreeSet::new() };
    // Ports that the service has keep their numbers, also where no new ones are given.
    node_ports(service, &mut used, pick, allocates)?;
    health_port(service, &mut used, pick)
}

/// One family is configured: what asks for another is refused, what would rather have two gets one.
fn families(service: &mut Value) -> Result<(), FieldError> {
    for (at, family) in meta::list_at(service, &["spec", "ipFamilies"]).iter().enumerate() {
        if family != "IPv4" {
            let path = format!("spec.ipFamilies[{at}]");
            return Err(FieldError::invalid(path, family.clone(), "not configured on this cluster"));
        }
    }
    if service["spec"]["ipFamilyPolicy"] == "RequireDualStack" {
        let detail = "this cluster is not configured for dual-stack services";
        return Err(FieldError::invalid("spec.ipFamilyPolicy", "RequireDualStack", detail));
    }
    let spec = meta::object_at(service, &["spec"]);
    spec.entry("ipFamilies").or_insert_with(|| json!(["IPv4"]));
    spec.entry("ipFamilyPolicy").or_insert_with(|| "SingleStack".into());
    Ok(())
}

/// Ports on the nodes that are in use, by others or by the service itself.
struct Ports<'a> {
    others: Others<'a>,
    own: BTreeSet<i64>,
}

impl Ports<'_> {
    fn are_free(&self, number: i64) -> bool {
        !self.own.contains(&number) && !self.others.have_port(number)
    }
}

fn take_port(used: &mut Ports<'_>, pick: u32, path: &str) -> Result<i64, FieldError> {
    let size = (NODE_PORTS.end() - NODE_PORTS.start() + 1) as u32;
    let free = tried(size, kept_low(size, 32, 128), pick)
        .map(|number| NODE_PORTS.start() + i64::from(number))
        .find(|number| used.are_free(*number));
    let number = free.ok_or_else(|| FieldError::invalid(path, 0, "range is full"))?;
    used.own.insert(number);
    Ok(number)
}

fn claim_port(used: &mut Ports<'_>, number: i64, path: &str) -> Result<(), FieldError> {
    if !NODE_PORTS.contains(&number) {
        let detail = "provided port is not in the valid range. The range of valid ports is 30000-32767";
        return Err(FieldError::invalid(path, number, detail));
    }
    match used.are_free(number) {
        true => {
            used.own.insert(number);
            Ok(())
        }
        false => Err(FieldError::invalid(path, number, "provided port is already allocated")),
    }
}

/// Ports asked for are claimed before others are chosen. The same port over two protocols has one number on the nodes.
fn node_ports(service: &mut Value, used: &mut Ports<'_>, pick: u32, allocates: bool) -> Result<(), FieldError> {
    let mut own: BTreeMap<i64, BTreeSet<String>> = BTreeMap::new();
    let mut by_port: BTreeMap<i64, i64> = BTreeMap::new();
    let protocol = |port: &Value| port["protocol"].as_str().unwrap_or("TCP").to_owned();
    for (at, port) in meta::list_at(service, &["spec", "ports"]).iter().enumerate() {
        let path = format!("spec.ports[{at}].nodePort");
        let Some(number) = port["nodePort"].as_i64().filter(|number| *number != 0) else { continue };
        let protocols = own.entry(number).or_default();
        if protocols.is_empty() {
            claim_port(used, number, &path)?;
        }
        if !protocols.insert(protocol(port)) {
            return Err(FieldError::invalid(path, number, "provided port is already allocated"));
        }
        by_port.entry(port["port"].as_i64().unwrap_or(0)).or_insert(number);
    }
    if !allocates {
        return Ok(());
    }
    for (at, port) in meta::items_mut(service, &["spec", "ports"]).enumerate() {
        if port["nodePort"].as_i64().is_some_and(|number| number != 0) {
            continue;
        }
        let known = by_port.get(&port["port"].as_i64().unwrap_or(0)).copied();
        let shared = known.filter(|number| own.get(number).is_some_and(|with| !with.contains(&protocol(port))));
        let number = match shared {
            Some(number) => number,
            None => take_port(used, pick.wrapping_add(at as u32), &format!("spec.ports[{at}].nodePort"))?,
        };
        own.entry(number).or_default().insert(protocol(port));
        by_port.insert(port["port"].as_i64().unwrap_or(0), number);
        port["nodePort"] = number.into();
    }
    Ok(())
}

/// The port on which each node says whether it has pods of the service, for balancers that keep the client's address.
fn health_port(service: &mut Value, used: &mut Ports<'_>, pick: u32) -> Result<(), FieldError> {
    let spec = &service["spec"];
    let needed = spec["type"] == "LoadBalancer" && spec["externalTrafficPolicy"] == "Local";
    let asked = spec["healthCheckNodePort"].as_i64().filter(|number| *number != 0);
    let path = "spec.healthCheckNodePort";
    match (needed, asked) {
        (false, _) => drop(meta::object_at(service, &["spec"]).remove("healthCheckNodePort")),
        (true, Some(number)) => claim_port(used, number, path)?,
        (true, None) => service["spec"]["healthCheckNodePort"] = take_port(used, pick.rotate_left(7), path)?.into(),
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::allocated::Book;

    fn allocate(service: &mut Value, others: &[Value], range: Range, pick: u32) -> Result<(), FieldError> {
        let mut book = Book::default();
        for (number, other) in others.iter().enumerate() {
            book.set(&number.to_string().into(), Some(other));
        }
        super::allocate(service, book.of(b"own"), range, pick)
    }

    #[test]
    fn no_address_or_port_is_given_twice() {
        let range = Range { base: Ipv4Addr::new(10, 0, 0, 0), prefix: 29 };
        let mut services: Vec<Value> = Vec::new();
        for n in 0..5 {
            let mut service = json!({"spec": {"type": "NodePort", "ports": [{"port": 80}]}});
            allocate(&mut service, &services, range, n * 7).unwrap();
            assert!(!services.iter().any(|other| other["spec"]["clusterIP"] == service["spec"]["clusterIP"]));
            assert!(!services.iter().any(|other| other["spec"]["ports"] == service["spec"]["ports"]));
            services.push(service);
        }
        let mut one_more = json!({"spec": {"type": "ClusterIP"}});
        assert!(allocate(&mut one_more, &services, range, 0).is_err(), "the first address is the API's");
        let mut taken = json!({"spec": {"clusterIP": services[0]["spec"]["clusterIP"]}});
        assert!(allocate(&mut taken, &services, range, 0).unwrap_err().to_string().contains("already allocated"));
        let mut headless = json!({"spec": {"type": "ClusterIP", "clusterIP": "None"}});
        allocate(&mut headless, &services, range, 0).unwrap();
        assert_eq!(headless["spec"]["clusterIPs"], json!(["None"]));
    }

    #[test]
    fn what_is_chosen_stays_off_what_people_ask_for() {
        let range = Range::default();
        let mut others: Vec<Value> = Vec::new();
        for n in 0..50u32 {
            let mut service = json!({"spec": {"type": "NodePort", "ports": [{"port": 80}]}});
            allocate(&mut service, &others, range, n.wrapping_mul(0x9e37_79b9)).unwrap();
            let ip: Ipv4Addr = service["spec"]["clusterIP"].as_str().unwrap().parse().unwrap();
            assert!(range.contains(ip) && u32::from(ip) > u32::from(range.base) + 256, "{ip}");
            assert!(service["spec"]["ports"][0]["nodePort"].as_i64().unwrap() >= 30086);
            others.push(service);
        }
    }

    #[test]
    fn ports_of_one_number_share_theirs_and_claims_come_first() {
        let check = |spec: Value, others: &[Value]| {
            let mut service = json!({"spec": spec});
            allocate(&mut service, others, Range::default(), 7).map(|()| service["spec"].clone())
        };
        let dns = json!([{"port": 53, "protocol": "UDP"}, {"port": 53, "protocol": "TCP"}, {"port": 9153, "protocol": "TCP"}]);
        let spec = check(json!({"type": "NodePort", "ports": dns}), &[]).unwrap();
        assert_eq!(spec["ports"][0]["nodePort"], spec["ports"][1]["nodePort"]);
        assert_ne!(spec["ports"][0]["nodePort"], spec["ports"][2]["nodePort"]);
        let twice = json!([{"port": 1, "nodePort": 30001}, {"port": 2, "nodePort": 30001}]);
        assert!(check(json!({"type": "NodePort", "ports": twice}), &[]).is_err());
        let taken = [json!({"spec": {"healthCheckNodePort": 30001}})];
        let asked = json!([{"port": 1, "nodePort": 30001}]);
        assert!(check(json!({"type": "NodePort", "ports": asked}), &taken).is_err());
        let low = json!([{"port": 1, "nodePort": 80}]);
        assert!(check(json!({"type": "NodePort", "ports": low}), &[]).unwrap_err().to_string().contains("valid range"));
    }

    #[test]
    fn a_health_port_is_there_for_local_traffic_alone() {
        let check = |spec: Value| {
            let mut service = json!({"spec": spec});
            allocate(&mut service, &[], Range::default(), 7).unwrap();
            service["spec"]["healthCheckNodePort"].as_i64()
        };
        let local = json!({"type": "LoadBalancer", "externalTrafficPolicy": "Local", "ports": [{"port": 80}]});
        assert!(check(local.clone()).is_some());
        let mut other = local;
        other["externalTrafficPolicy"] = "Cluster".into();
        other["healthCheckNodePort"] = 30123.into();
        assert_eq!(check(other), None);
    }

    #[test]
    fn one_family_is_what_there_is() {
        let check = |spec: Value| allocate(&mut json!({"spec": spec}), &[], Range::default(), 7);
        assert!(check(json!({"type": "ClusterIP", "ipFamilyPolicy": "PreferDualStack"})).is_ok());
        assert!(check(json!({"type": "ClusterIP", "ipFamilyPolicy": "RequireDualStack"})).is_err());
        assert!(check(json!({"type": "ClusterIP", "ipFamilies": ["IPv6"]})).is_err());
    }
}
