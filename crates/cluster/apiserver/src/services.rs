//! Addresses and ports of services: chosen from a range, never given twice.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr};

use resources::{FieldError, Value, meta};
use serde_json::json;

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

/// Gives a service what it lacks and has a right to; `others` are all other services. `pick` is a random number.
pub fn allocate(service: &mut Value, others: &[Value], range: Range, pick: u32) -> Result<(), FieldError> {
    let kind = meta::str_at(service, &["spec", "type"]).to_owned();
    if kind == "ExternalName" {
        for field in ["clusterIP", "clusterIPs"] {
            service["spec"].as_object_mut().map(|spec| spec.remove(field));
        }
        return Ok(());
    }
    let used: BTreeSet<&str> = others
        .iter()
        .flat_map(|other| meta::list_at(other, &["spec", "clusterIPs"]))
        .filter_map(Value::as_str)
        .filter(|ip| *ip != "None")
        .collect();
    let listed = meta::list_at(service, &["spec", "clusterIPs"]).first().and_then(Value::as_str);
    let asked = match meta::str_at(service, &["spec", "clusterIP"]) {
        "" => listed.unwrap_or_default().to_owned(),
        ip => ip.to_owned(),
    };
    let ip = match asked.as_str() {
        "None" => asked,
        "" => {
            let size = range.size() - 2;
            let free = (0..size)
                .map(|step| Ipv4Addr::from(u32::from(range.base) + 1 + (pick % size + step) % size))
                .find(|ip| *ip != range.first() && !used.contains(ip.to_string().as_str()));
            free.ok_or_else(|| FieldError::invalid("spec.clusterIPs", Value::Null, "range is full"))?.to_string()
        }
        asked => {
            let refused = |why: &str| {
                let why = format!("failed to allocate IP {asked}: {why}");
                Err(FieldError::invalid("spec.clusterIPs", json!([asked]), why))
            };
            match asked.parse::<IpAddr>() {
                Ok(IpAddr::V4(ip)) if range.contains(ip) && !used.contains(asked) => asked.to_owned(),
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
    spec.entry("ipFamilies").or_insert_with(|| json!(["IPv4"]));
    spec.entry("ipFamilyPolicy").or_insert_with(|| "SingleStack".into());
    let allocates = kind == "NodePort"
        || (kind == "LoadBalancer" && spec.get("allocateLoadBalancerNodePorts") != Some(&Value::Bool(false)));
    if allocates {
        node_ports(service, others, pick)?;
    }
    Ok(())
}

fn node_ports(service: &mut Value, others: &[Value], pick: u32) -> Result<(), FieldError> {
    let mut used: BTreeSet<i64> = others
        .iter()
        .flat_map(|other| meta::list_at(other, &["spec", "ports"]))
        .filter_map(|port| port["nodePort"].as_i64())
        .collect();
    let ports = meta::items_mut(service, &["spec", "ports"]);
    for (at, port) in ports.enumerate() {
        let path = format!("spec.ports[{at}].nodePort");
        match port["nodePort"].as_i64().filter(|number| *number != 0) {
            Some(number) if !NODE_PORTS.contains(&number) => {
                let detail = "provided port is not in the valid range. The range of valid ports is 30000-32767";
                return Err(FieldError::invalid(path, number, detail));
            }
            Some(number) if used.contains(&number) => {
                return Err(FieldError::invalid(path, number, "provided port is already allocated"));
            }
            Some(number) => drop(used.insert(number)),
            None => {
                let count = NODE_PORTS.end() - NODE_PORTS.start() + 1;
                let free = (0..count)
                    .map(|step| NODE_PORTS.start() + (i64::from(pick) + step) % count)
                    .find(|number| !used.contains(number));
                let number = free.ok_or_else(|| FieldError::invalid(&path, 0, "range is full"))?;
                used.insert(number);
                port["nodePort"] = number.into();
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

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
}
