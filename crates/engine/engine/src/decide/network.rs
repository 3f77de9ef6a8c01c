//! What a network is to be: a create request checked and filled in, in Docker's words. Pure.

use std::collections::BTreeMap;
use std::net::IpAddr;

use jiff::Timestamp;
use network::{Driver, Network, Subnet, VlanKind, choose_pool, unique_local};
use serde::{Deserialize, Serialize};

use crate::{EndpointSettings, Error, NetworkPool, NetworkRequest, NetworkView, Result};

/// Networks that every engine has. Their ids are fixed.
pub(crate) const BRIDGE: (&str, &str) = ("bridge", "6272696467650000000000000000000000000000000000000000006b6e617272");
pub(crate) const HOST: (&str, &str) = ("host", "686f737400000000000000000000000000000000000000000000006b6e617272");
pub(crate) const NONE: (&str, &str) = ("none", "6e6f6e6500000000000000000000000000000000000000000000006b6e617272");

pub(crate) fn is_predefined(name: &str) -> bool {
    [BRIDGE.0, HOST.0, NONE.0].contains(&name)
}

const BRIDGE_NAME: &str = "com.docker.network.bridge.name";
const ICC: &str = "com.docker.network.bridge.enable_icc";
const MASQUERADE: &str = "com.docker.network.bridge.enable_ip_masquerade";
const HOST_BINDING: &str = "com.docker.network.bridge.host_binding_ipv4";
const MTU: &str = "com.docker.network.driver.mtu";
const DEFAULT_BRIDGE: &str = "com.docker.network.bridge.default_bridge";
/// Nobody on the network speaks with the addresses of another.
const PIN: &str = "knarr.pin-addresses";
const IFACE_PREFIX: &str = "com.docker.network.container_iface_prefix";

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct NetworkRecord {
    pub(crate) name: String,
    pub(crate) created_at: Timestamp,
    /// `bridge`, `macvlan`, `ipvlan`, `host`, `null`.
    pub(crate) driver: String,
    #[serde(default)]
    pub(crate) internal: bool,
    #[serde(default)]
    pub(crate) attachable: bool,
    pub(crate) ipv4: bool,
    pub(crate) ipv6: bool,
    #[serde(default)]
    pub(crate) ipam_options: BTreeMap<String, String>,
    pub(crate) pools: Vec<PoolRecord>,
    #[serde(default)]
    pub(crate) options: BTreeMap<String, String>,
    #[serde(default)]
    pub(crate) labels: BTreeMap<String, String>,
    /// The bridge, or the parent interface.
    pub(crate) bridge: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct PoolRecord {
    pub(crate) subnet: Subnet,
    pub(crate) range: Option<Subnet>,
    pub(crate) gateway: IpAddr,
    #[serde(default)]
    pub(crate) auxiliary: BTreeMap<String, IpAddr>,
    /// A caller named the subnet: its containers may name their addresses.
    #[serde(default)]
    pub(crate) named: bool,
}

/// What the decision needs to know of the machine.
pub(crate) struct Facts<'a> {
    /// Subnets of other networks.
    pub(crate) networks: &'a [Subnet],
    /// Subnets that routes and addresses of this machine use.
    pub(crate) machine: &'a [Subnet],
    /// For the unique local prefix.
    pub(crate) seed: &'a str,
    /// The bridge's name if none is asked for.
    pub(crate) bridge: String,
    pub(crate) now: Timestamp,
}

fn truth(options: &BTreeMap<String, String>, name: &str, default: bool) -> Result<bool> {
    match options.get(name).map(String::as_str) {
        None | Some("") => Ok(default),
        Some("true" | "1" | "t" | "T" | "TRUE" | "True") => Ok(true),
        Some("false" | "0" | "f" | "F" | "FALSE" | "False") => Ok(false),
        Some(other) => Err(Error::Invalid(format!("failed to parse {name} value: {other:?}"))),
    }
}

fn mtu(options: &BTreeMap<String, String>) -> Result<Option<u32>> {
    match options.get(MTU).map(String::as_str) {
        None | Some("" | "0") => Ok(None),
        Some(text) => match text.parse::<u32>() {
            Ok(mtu) if (68..=65535).contains(&mtu) => Ok(Some(mtu)),
            _ => Err(Error::Invalid(format!("failed to parse {MTU} value: {text:?}"))),
        },
    }
}

/// The kernel's rules for an interface's name.
fn check_interface(name: &str) -> Result<()> {
    let plain = name.bytes().all(|b| b.is_ascii_graphic() && !matches!(b, b'/' | b':'));
    if name.is_empty() || name.len() > 15 || !plain || name == "." || name == ".." {
        return Err(Error::Invalid(format!("invalid interface name: {name:?}")));
    }
    Ok(())
}

fn check_name(name: &str) -> Result<()> {
    let good = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-');
    if name.is_empty() || name.len() > 255 || !name.bytes().all(good) || !name.as_bytes()[0].is_ascii_alphanumeric() {
        return Err(Error::Invalid(format!(
            "invalid network name {name:?}: only [a-zA-Z0-9][a-zA-Z0-9_.-] are allowed"
        )));
    }
    Ok(())
}

/// The record that a create request makes.
pub(crate) fn plan_network(request: NetworkRequest, facts: &Facts<'_>) -> Result<NetworkRecord> {
    check_name(&request.name)?;
    if is_predefined(&request.name) || request.name == "default" {
        return Err(Error::Forbidden(format!("operation is not permitted on predefined {} network", request.name)));
    }
    let driver = if request.driver.is_empty() { "bridge" } else { &request.driver };
    match driver {
        "bridge" | "macvlan" | "ipvlan" => {}
        "host" | "null" => {
            return Err(Error::Forbidden(format!("only one instance of \"{driver}\" network is allowed")));
        }
        "overlay" => {
            return Err(Error::Forbidden(
                "This node is not a swarm manager. Use \"docker swarm init\" or \"docker swarm join\" to connect this node to swarm and try again."
                    .into(),
            ));
        }
        other => {
            return Err(Error::NotFound(format!(
                "could not find plugin {other} in v1 plugin registry: plugin not found"
            )));
        }
    }
    if !matches!(request.ipam_driver.as_str(), "" | "default") {
        return Err(Error::Invalid(format!("invalid ipam driver: {:?}", request.ipam_driver)));
    }
    if let Some((name, value)) = request.ipam_options.iter().next() {
        return Err(Error::Unsupported(format!("ipam option {name}={value} is not supported by this engine")));
    }
    let options = &request.options;
    if driver == "bridge" {
        const KNOWN: [&str; 6] = [BRIDGE_NAME, ICC, MASQUERADE, HOST_BINDING, DEFAULT_BRIDGE, IFACE_PREFIX];
        for name in options.keys() {
            let drivers = name.starts_with("com.docker.network.bridge.");
            let plain = matches!(
                (name.as_str(), options[name].as_str()),
                ("com.docker.network.bridge.gateway_mode_ipv4" | "com.docker.network.bridge.gateway_mode_ipv6", "nat")
                    | ("com.docker.network.bridge.inhibit_ipv4", "false")
            );
            if drivers && !KNOWN.contains(&name.as_str()) && !plain {
                return Err(Error::Unsupported(format!(
                    "option {name}={} is not supported by this engine",
                    options[name]
                )));
            }
        }
    }
    let ipv4 = request.ipv4.unwrap_or(true);
    let any_ipv6 = request.pools.iter().any(|pool| pool.subnet.contains(':'));
    let ipv6 = request.ipv6.unwrap_or(any_ipv6);
    if !ipv4 && !ipv6 {
        return Err(Error::Invalid("IPv4 or IPv6 must be enabled".into()));
    }
    let pools = plan_pools(&request.pools, ipv4, ipv6, driver == "bridge", facts)?;
    let bridge = match driver {
        "bridge" => match options.get(BRIDGE_NAME).filter(|name| !name.is_empty()) {
            Some(name) => {
                check_interface(name)?;
                name.clone()
            }
            None => facts.bridge.clone(),
        },
        _ => match options.get("parent").filter(|name| !name.is_empty()) {
            Some(parent) if parent.contains('.') => {
                return Err(Error::Unsupported(format!(
                    "parent {parent}: make VLAN interfaces yourself and name them without a dot"
                )));
            }
            Some(parent) => {
                check_interface(parent)?;
                parent.clone()
            }
            None => {
                return Err(Error::Invalid(format!("a {driver} network needs a parent interface: -o parent=NAME")));
            }
        },
    };
    let record = NetworkRecord {
        name: request.name,
        created_at: facts.now,
        driver: driver.to_owned(),
        internal: request.internal,
        attachable: request.attachable,
        ipv4,
        ipv6,
        ipam_options: request.ipam_options,
        pools,
        options: request.options,
        labels: request.labels,
        bridge,
    };
    kernel_network("", &record)?;
    host_binding(&record)?;
    pins_addresses(&record)?;
    if let Some(prefix) = record.options.get(IFACE_PREFIX) {
        check_interface(&format!("{prefix}00"))?;
    }
    Ok(record)
}

fn plan_pools(
    asked: &[NetworkPool],
    ipv4: bool,
    ipv6: bool,
    reserved: bool,
    facts: &Facts<'_>,
) -> Result<Vec<PoolRecord>> {
    let invalid = |why: String| Error::Invalid(format!("invalid network config:\n{why}"));
    let mut pools: Vec<PoolRecord> = Vec::new();
    let mut ranges = Vec::new();
    for pool in asked {
        if pool.subnet.is_empty() {
            if !pool.ip_range.is_empty() || !pool.gateway.is_empty() || !pool.auxiliary.is_empty() {
                return Err(Error::Invalid("a gateway or range needs a subnet".into()));
            }
            continue;
        }
        let subnet: Subnet = pool
            .subnet
            .parse()
            .map_err(|_| invalid(format!("invalid subnet {}: invalid CIDR block notation", pool.subnet)))?;
        let given = pool.subnet.split('/').next().and_then(|text| text.parse::<IpAddr>().ok());
        if given != Some(subnet.address()) {
            return Err(invalid(format!("invalid subnet {}: it should be {subnet}", pool.subnet)));
        }
        if (subnet.is_ipv4() && !ipv4) || (!subnet.is_ipv4() && !ipv6) {
            let family = if subnet.is_ipv4() { "IPv4" } else { "IPv6" };
            return Err(invalid(format!("invalid subnet {subnet}: {family} has been disabled")));
        }
        if subnet.size() < 4 && !matches!(subnet.prefix(), 31 | 127) {
            return Err(invalid(format!("invalid subnet {subnet}: too small for a gateway and a container")));
        }
        if pools.iter().any(|other| other.subnet.is_ipv4() == subnet.is_ipv4()) {
            return Err(Error::Invalid("a network here has one subnet of each address family".into()));
        }
        let range = match pool.ip_range.as_str() {
            "" => None,
            text => {
                let range: Subnet = text
                    .parse()
                    .map_err(|_| invalid(format!("invalid ip-range {text}: invalid CIDR block notation")))?;
                if !subnet.overlaps(&range) || range.prefix() < subnet.prefix() {
                    return Err(invalid(format!("invalid ip-range {text}: parent subnet {subnet} doesn't contain it")));
                }
                ranges.push(range);
                Some(range)
            }
        };
        let inside = |text: &str, what: &str| -> Result<IpAddr> {
            let address: IpAddr =
                text.parse().map_err(|_| invalid(format!("invalid {what} {text}: invalid address")))?;
            if subnet.contains(address) {
                Ok(address)
            } else {
                Err(invalid(format!("invalid {what} {text}: parent subnet {subnet} doesn't contain this address")))
            }
        };
        let gateway = match pool.gateway.as_str() {
            "" => {
                let first = range.unwrap_or(subnet);
                let nth = if subnet.prefix() == 31 || subnet.prefix() == 127 { 0 } else { 1 };
                first.nth(nth).or_else(|| subnet.nth(nth))
            }
            text => Some(inside(text.split('/').next().unwrap_or(text), "gateway")?),
        };
        let gateway = gateway.ok_or_else(|| invalid(format!("invalid subnet {subnet}: no room for a gateway")))?;
        let mut auxiliary = BTreeMap::new();
        for (name, text) in &pool.auxiliary {
            auxiliary.insert(name.clone(), inside(text, "auxiliary address")?);
        }
        // The wire of a parent interface is the machine's own: its subnet is in use already, and should be.
        let in_use = reserved && facts.machine.iter().any(|other| other.prefix() > 0 && other.overlaps(&subnet));
        if in_use || facts.networks.iter().any(|other| other.overlaps(&subnet)) {
            return Err(network::NetworkError::PoolOverlaps.into());
        }
        pools.push(PoolRecord { subnet, range, gateway, auxiliary, named: true });
    }
    let taken = [facts.networks, facts.machine].concat();
    if ipv4 && !pools.iter().any(|pool| pool.subnet.is_ipv4()) {
        pools.insert(0, chosen(choose_pool(&taken)?));
    }
    if ipv6 && !pools.iter().any(|pool| !pool.subnet.is_ipv4()) {
        pools.push(chosen(unique_local(facts.seed, &taken)?));
    }
    Ok(pools)
}

fn chosen(subnet: Subnet) -> PoolRecord {
    let gateway = subnet.nth(1).unwrap_or_else(|| subnet.address());
    PoolRecord { subnet, range: None, gateway, auxiliary: BTreeMap::new(), named: false }
}

/// The network `bridge`.
pub(crate) fn default_bridge(subnet: Subnet, bridge: String, now: Timestamp) -> NetworkRecord {
    let options = [
        (DEFAULT_BRIDGE, "true"),
        (ICC, "true"),
        (MASQUERADE, "true"),
        (HOST_BINDING, "0.0.0.0"),
        (BRIDGE_NAME, bridge.as_str()),
    ];
    NetworkRecord {
        name: BRIDGE.0.into(),
        created_at: now,
        driver: "bridge".into(),
        internal: false,
        attachable: false,
        ipv4: true,
        ipv6: false,
        ipam_options: BTreeMap::new(),
        pools: vec![chosen(subnet)],
        options: options.map(|(name, value)| (name.to_owned(), value.to_owned())).into(),
        labels: BTreeMap::new(),
        bridge,
    }
}

/// `host` and `none`.
pub(crate) fn placeholder(name: &str, driver: &str, now: Timestamp) -> NetworkRecord {
    NetworkRecord {
        name: name.into(),
        created_at: now,
        driver: driver.into(),
        internal: false,
        attachable: false,
        ipv4: true,
        ipv6: false,
        ipam_options: BTreeMap::new(),
        pools: Vec::new(),
        options: BTreeMap::new(),
        labels: BTreeMap::new(),
        bridge: String::new(),
    }
}

/// The network as the kernel's side knows it.
pub(crate) fn kernel_network(id: &str, record: &NetworkRecord) -> Result<Network> {
    let options = &record.options;
    let unknown = |what: &str, mode: &str| Err(Error::Invalid(format!("requested {what} mode '{mode}' is not valid")));
    let driver = match record.driver.as_str() {
        "macvlan" => match options.get("macvlan_mode").map(String::as_str) {
            None | Some("" | "bridge") => Driver::On(VlanKind::Macvlan(4)),
            Some("private") => Driver::On(VlanKind::Macvlan(1)),
            Some("vepa") => Driver::On(VlanKind::Macvlan(2)),
            Some("passthru") => Driver::On(VlanKind::Macvlan(8)),
            Some(other) => return unknown("macvlan", other),
        },
        "ipvlan" => match options.get("ipvlan_mode").map(String::as_str) {
            None | Some("" | "l2") => Driver::On(VlanKind::Ipvlan(0)),
            Some("l3") => Driver::On(VlanKind::Ipvlan(1)),
            Some("l3s") => Driver::On(VlanKind::Ipvlan(2)),
            Some(other) => return unknown("ipvlan", other),
        },
        _ => Driver::Bridge,
    };
    Ok(Network {
        id: id.to_owned(),
        driver,
        bridge: record.bridge.clone(),
        subnets: record.pools.iter().map(|pool| (pool.subnet, pool.gateway)).collect(),
        internal: record.internal,
        between_containers: truth(options, ICC, true)?,
        masquerade: truth(options, MASQUERADE, true)?,
        mtu: mtu(options)?,
        pods: None,
    })
}

/// Where ports are published that name no address; `None` is everywhere.
pub(crate) fn host_binding(record: &NetworkRecord) -> Result<Option<IpAddr>> {
    match record.options.get(HOST_BINDING).map(String::as_str) {
        None | Some("" | "0.0.0.0") => Ok(None),
        Some(text) => text
            .parse::<std::net::Ipv4Addr>()
            .map(|address| Some(address.into()))
            .map_err(|_| Error::Invalid(format!("failed to parse {HOST_BINDING} value: {text:?}"))),
    }
}

/// Whether its containers are kept from claiming each other's addresses.
pub(crate) fn pins_addresses(record: &NetworkRecord) -> Result<bool> {
    Ok(truth(&record.options, PIN, true)? && record.driver == "bridge")
}

/// `eth`, or what the network's option says.
pub(crate) fn interface_prefix(record: &NetworkRecord) -> &str {
    record.options.get(IFACE_PREFIX).map_or("eth", String::as_str)
}

/// Whether names are resolved on it: the default bridge has none, as Docker's.
pub(crate) fn has_names(record: &NetworkRecord) -> bool {
    !is_predefined(&record.name)
}

/// Checks what a request says about a container's place on a network.
pub(crate) fn check_endpoint(network: &NetworkRecord, asked: &EndpointSettings) -> Result<()> {
    let invalid = |why: String| {
        Err(Error::Invalid(format!("invalid config for network {}: invalid endpoint settings:\n{why}", network.name)))
    };
    let addresses = [(&asked.ipv4_address, "IPv4"), (&asked.ipv6_address, "IPv6")];
    for (text, family) in addresses {
        if text.is_empty() {
            continue;
        }
        if is_predefined(&network.name) {
            return invalid("user specified IP address is supported on user defined networks only".into());
        }
        let Ok(address) = text.parse::<IpAddr>() else {
            return invalid(format!("invalid {family} address: {text}"));
        };
        if address.is_ipv4() != (family == "IPv4") {
            return invalid(format!("invalid {family} address: {text}"));
        }
        let pools = || network.pools.iter().filter(|pool| pool.subnet.is_ipv4() == address.is_ipv4());
        if !pools().any(|pool| pool.subnet.contains(address)) {
            return invalid(format!("no configured subnet or ip-range contain the IP address {address}"));
        }
        if !pools().any(|pool| pool.named) {
            return invalid(
                "user specified IP address is supported only when connecting to networks with user configured subnets"
                    .into(),
            );
        }
    }
    if !asked.link_local_ips.is_empty() {
        return Err(Error::Unsupported("link-local addresses are not supported by this engine".into()));
    }
    if !asked.aliases.is_empty() && is_predefined(&network.name) {
        return invalid("network-scoped aliases are only supported for user-defined networks".into());
    }
    let linked = asked.links.iter().filter_map(|link| link.rsplit(':').next());
    for alias in asked.aliases.iter().map(String::as_str).chain(linked) {
        let good = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_');
        if alias.is_empty() || alias.len() > 253 || !alias.bytes().all(good) {
            return invalid(format!("invalid network alias: {alias:?}"));
        }
    }
    if !asked.mac_address.is_empty() {
        parse_mac(&asked.mac_address)?;
    }
    rate_limits(asked)?;
    for name in asked.driver_options.keys() {
        match name.as_str() {
            SEND_RATE | RECEIVE_RATE => {}
            INTERFACE_NAME => check_interface(&asked.driver_options[name])?,
            other => {
                return Err(Error::Unsupported(format!("endpoint option {other} is not supported by this engine")));
            }
        }
    }
    Ok(())
}

/// What a request says about a container's place on a network that it does not have: it is the host's, another's or none.
pub(crate) fn check_no_endpoint(asked: &EndpointSettings) -> Result<()> {
    let ours = [&asked.ipv4_address, &asked.ipv6_address].iter().all(|text| text.is_empty());
    let refusals = [
        (!ours, "user specified IP address is supported on user defined networks only"),
        (!asked.mac_address.is_empty(), "conflicting options: mac-address and the network mode"),
        (!asked.aliases.is_empty(), "network-scoped alias is supported only for containers in user defined networks"),
        (!asked.links.is_empty(), "links are only supported for user-defined networks"),
        (!asked.driver_options.is_empty(), "endpoint options are only supported where a container has an endpoint"),
    ];
    if !asked.link_local_ips.is_empty() {
        return Err(Error::Unsupported("link-local addresses are not supported by this engine".into()));
    }
    match refusals.iter().find(|(said, _)| *said) {
        Some((_, why)) => Err(Error::Invalid((*why).into())),
        None => Ok(()),
    }
}

pub(crate) const INTERFACE_NAME: &str = "com.docker.network.endpoint.ifname";
const SEND_RATE: &str = "knarr.send-rate";
const RECEIVE_RATE: &str = "knarr.receive-rate";

/// What a container may send and receive on the network, in bytes a second.
pub(crate) fn rate_limits(asked: &EndpointSettings) -> Result<(Option<u64>, Option<u64>)> {
    let rate = |name: &str| match asked.driver_options.get(name) {
        None => Ok(None),
        Some(text) => parse_rate(text)
            .map(Some)
            .ok_or_else(|| Error::Invalid(format!("invalid rate {name}={text:?}: expected as 10mbit or 500kbit"))),
    };
    Ok((rate(SEND_RATE)?, rate(RECEIVE_RATE)?))
}

/// `10mbit`, `1gbit`, `500kbit`, in bytes a second.
fn parse_rate(text: &str) -> Option<u64> {
    let digits = text.find(|c: char| !c.is_ascii_digit())?;
    let number = text[..digits].parse::<u64>().ok()?;
    let scale = match text[digits..].to_ascii_lowercase().as_str() {
        "bit" => 1,
        "kbit" => 1_000,
        "mbit" => 1_000_000,
        "gbit" => 1_000_000_000,
        _ => return None,
    };
    number.checked_mul(scale).map(|bits| bits / 8).filter(|bytes| *bytes >= 1000)
}

/// `02:42:ac:11:00:02`.
pub(crate) fn parse_mac(text: &str) -> Result<network::Mac> {
    let refused = || Error::Invalid(format!("invalid MAC address: address {text}: invalid MAC address"));
    let mut mac = [0; 6];
    let mut parts = text.split([':', '-']);
    for byte in &mut mac {
        let part = parts.next().filter(|part| part.len() == 2).ok_or_else(refused)?;
        *byte = u8::from_str_radix(part, 16).map_err(|_| refused())?;
    }
    // Not one that speaks to many, and not none.
    if parts.next().is_some() || mac[0] & 1 == 1 || mac == [0; 6] {
        return Err(refused());
    }
    Ok(mac)
}

pub(crate) fn mac_text(mac: network::Mac) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}

/// Which of a container's networks is its way out: the highest priority, and of those the first by name. Internal networks lead
/// nowhere.
pub(crate) fn gateway<'a>(networks: impl Iterator<Item = (&'a str, i64, bool)>) -> Option<&'a str> {
    networks
        .filter(|(_, _, internal)| !internal)
        .min_by_key(|(name, priority, _)| (std::cmp::Reverse(*priority), *name))
        .map(|(name, ..)| name)
}

pub(crate) fn view(id: &str, record: &NetworkRecord) -> NetworkView {
    let pool = |pool: &PoolRecord| NetworkPool {
        subnet: pool.subnet.to_string(),
        ip_range: pool.range.map(|range| range.to_string()).unwrap_or_default(),
        gateway: pool.gateway.to_string(),
        auxiliary: pool.auxiliary.iter().map(|(name, address)| (name.clone(), address.to_string())).collect(),
    };
    NetworkView {
        id: id.to_owned(),
        name: record.name.clone(),
        created_at: record.created_at,
        driver: record.driver.clone(),
        internal: record.internal,
        attachable: record.attachable,
        ipv4: record.ipv4,
        ipv6: record.ipv6,
        ipam_driver: "default".into(),
        ipam_options: record.ipam_options.clone(),
        pools: record.pools.iter().map(pool).collect(),
        options: record.options.clone(),
        labels: record.labels.clone(),
        containers: BTreeMap::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(change: impl FnOnce(&mut NetworkRequest)) -> Result<NetworkRecord, String> {
        let mut request = NetworkRequest { name: "net".into(), ..Default::default() };
        change(&mut request);
        let subnet = |text: &str| text.parse::<Subnet>().unwrap();
        let facts = Facts {
            networks: &[subnet("172.17.0.0/16")],
            machine: &[subnet("0.0.0.0/0"), subnet("192.168.1.0/24")],
            seed: "seed",
            bridge: "k0".into(),
            now: Timestamp::UNIX_EPOCH,
        };
        // A default route is a destination of everything and takes nothing.
        let facts = Facts { machine: &facts.machine[1..], ..facts };
        plan_network(request, &facts).map_err(|e| e.to_string())
    }

    fn pool(subnet: &str, range: &str, gateway: &str) -> NetworkPool {
        NetworkPool { subnet: subnet.into(), ip_range: range.into(), gateway: gateway.into(), ..Default::default() }
    }

    #[test]
    fn subnets_are_chosen_where_none_is_named() {
        let plain = plan(|_| {}).unwrap();
        assert_eq!(plain.pools.len(), 1);
        assert_eq!(plain.pools[0].subnet.to_string(), "172.18.0.0/16");
        assert_eq!(plain.pools[0].gateway.to_string(), "172.18.0.1");
        let dual = plan(|r| r.ipv6 = Some(true)).unwrap();
        assert_eq!(dual.pools.len(), 2);
        assert!(dual.pools[1].subnet.to_string().starts_with("fd"), "{}", dual.pools[1].subnet);
        let named = plan(|r| r.pools = vec![pool("10.9.0.0/16", "10.9.4.0/24", "")]).unwrap();
        assert_eq!(named.pools[0].gateway.to_string(), "10.9.4.1");
        let six = plan(|r| r.pools = vec![pool("fd00:9::/64", "", "")]).unwrap();
        assert!(six.ipv6 && six.pools.len() == 2);
    }

    #[test]
    fn what_cannot_be_is_refused_in_dockers_words() {
        let rows: Vec<(Result<NetworkRecord, String>, &str)> = vec![
            (plan(|r| r.name = "bridge".into()), "operation is not permitted on predefined bridge network"),
            (plan(|r| r.name = "a b".into()), "invalid network name"),
            (
                plan(|r| r.driver = "weave".into()),
                "could not find plugin weave in v1 plugin registry: plugin not found",
            ),
            (
                plan(|r| r.pools = vec![pool("172.17.5.0/24", "", "")]),
                "Pool overlaps with other one on this address space",
            ),
            (plan(|r| r.pools = vec![pool("192.168.0.0/16", "", "")]), "Pool overlaps"),
            (plan(|r| r.pools = vec![pool("10.0.0.5/24", "", "")]), "it should be 10.0.0.0/24"),
            (plan(|r| r.pools = vec![pool("10.0.0.0/24", "", "10.0.1.1")]), "doesn't contain this address"),
            (plan(|r| r.pools = vec![pool("10.0.0.0/24", "10.0.1.0/25", "")]), "invalid ip-range"),
            (plan(|r| r.pools = vec![pool("x", "", "")]), "invalid CIDR block notation"),
            (plan(|r| drop(r.options.insert(MTU.into(), "9".into()))), "failed to parse"),
            (plan(|r| drop(r.options.insert(BRIDGE_NAME.into(), "a/b".into()))), "invalid interface name"),
            (
                plan(|r| drop(r.options.insert("com.docker.network.bridge.what".into(), "1".into()))),
                "is not supported by this engine",
            ),
            (plan(|r| r.driver = "macvlan".into()), "needs a parent interface"),
        ];
        for (got, wanted) in rows {
            let got = got.unwrap_err();
            assert!(got.contains(wanted), "{got} / {wanted}");
        }
    }

    #[test]
    fn endpoints_are_checked_against_their_network() {
        let named = plan(|r| r.pools = vec![pool("10.9.0.0/16", "", "")]).unwrap();
        let chosen = plan(|_| {}).unwrap();
        let check = |network: &NetworkRecord, change: fn(&mut EndpointSettings)| {
            let mut asked = EndpointSettings::default();
            change(&mut asked);
            check_endpoint(network, &asked).map_err(|e| e.to_string())
        };
        assert!(check(&named, |a| a.ipv4_address = "10.9.0.7".into()).is_ok());
        assert!(check(&named, |a| a.aliases = vec!["db".into()]).is_ok());
        let refused = [
            check(&named, |a| a.ipv4_address = "10.8.0.7".into()),
            check(&named, |a| a.ipv4_address = "fd00::1".into()),
            check(&chosen, |a| a.ipv4_address = "172.18.0.9".into()),
            check(&named, |a| a.aliases = vec!["a b".into()]),
            check(&named, |a| a.mac_address = "01:00:00:00:00:01".into()),
            check(&named, |a| drop(a.driver_options.insert("what".into(), "1".into()))),
            check(&named, |a| drop(a.driver_options.insert(SEND_RATE.into(), "fast".into()))),
        ];
        for (at, got) in refused.iter().enumerate() {
            assert!(got.is_err(), "{at}");
        }
    }

    #[test]
    fn the_way_out_is_by_priority_then_name() {
        assert_eq!(gateway([("b", 0, false), ("a", 0, false)].into_iter()), Some("a"));
        assert_eq!(gateway([("b", 1, false), ("a", 0, false)].into_iter()), Some("b"));
        assert_eq!(gateway([("a", 9, true), ("z", 0, false)].into_iter()), Some("z"));
        assert_eq!(gateway([("a", 0, true)].into_iter()), None);
    }

    #[test]
    fn rates_and_mac_addresses_read() {
        assert_eq!(parse_rate("8mbit"), Some(1_000_000));
        for bad in ["", "8", "8xbit", "1bit", "99999999999999999999gbit", "-1mbit"] {
            assert_eq!(parse_rate(bad), None, "{bad}");
        }
        assert_eq!(mac_text(parse_mac("02:42:AC-11:00:02").unwrap()), "02:42:ac:11:00:02");
    }
}
