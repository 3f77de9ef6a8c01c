//! Networks and endpoints in, one nftables table out. Pure, and constant-time for a packet in the number of ports and
//! networks: what differs by port or network stands in maps and sets.
//!
//! | chain | what it does |
//! |---|---|
//! | `guard` | drops what comes from elsewhere and pretends to be for the host's own loopback |
//! | `prerouting`, `output` | sends a published port of this host to its container |
//! | `postrouting` | gives outgoing traffic the host's address, and traffic that comes back in by a published port the bridge's |
//! | `forward` | answers, published ports and traffic within a network pass; everything else to a container is dropped; an internal network sends nothing out; pods are open to all |

use std::net::IpAddr;

use linux::netlink::nft::{
    ADDRESS_LOCAL, Base, Chain, Conntrack, Data, Element, Expr, Family, Field, Found, Hook, HookKind, HookPoint, Meta,
    Set, Table, Type, Value, Verdict, interface,
};

use crate::{Endpoint, Network, Protocol, Subnet};

const NFPROTO_IPV4: u8 = 2;
const NFPROTO_IPV6: u8 = 10;
/// Conntrack state bits: established and related.
pub(crate) const ANSWER: u32 = 2 | 4;
/// Conntrack status bit `IPS_DST_NAT`.
const PUBLISHED: u32 = 1 << 5;

pub fn table_name(tag: &str) -> String {
    format!("knarr-{tag}")
}

/// The whole table of the instance `tag`.
pub fn table(tag: &str, networks: &[Network], endpoints: &[Endpoint]) -> Table {
    let hook = |kind, at, priority| Some(Hook { kind, at, priority, accept: true });
    let published = || [translated(IpVersion::V4), translated(IpVersion::V6)].concat();
    let networks: Vec<Network> =
        networks.iter().filter(|network| network.driver == crate::Driver::Bridge).cloned().collect();
    let networks = networks.as_slice();
    let chains = vec![
        Chain {
            name: "guard".into(),
            hook: hook(HookKind::Filter, HookPoint::Prerouting, -300),
            rules: guard_rules(tag),
        },
        Chain { name: "prerouting".into(), hook: hook(HookKind::Nat, HookPoint::Prerouting, -100), rules: published() },
        Chain { name: "output".into(), hook: hook(HookKind::Nat, HookPoint::Output, -100), rules: published() },
        Chain {
            name: "postrouting".into(),
            hook: hook(HookKind::Nat, HookPoint::Postrouting, 100),
            rules: networks
                .iter()
                .flat_map(masquerade_rules)
                .chain(loopback_rules(tag))
                .chain([loop_rule(IpVersion::V4), loop_rule(IpVersion::V6)])
                .collect(),
        },
        Chain { name: "forward".into(), hook: hook(HookKind::Filter, HookPoint::Forward, 0), rules: forward_rules() },
    ];
    let versions = [IpVersion::V4, IpVersion::V6];
    let mut sets: Vec<Set> = versions.iter().flat_map(|version| port_maps(*version, endpoints)).collect();
    sets.extend(versions.iter().map(|version| loop_set(*version, networks, endpoints)));
    sets.extend(bridge_sets(networks));
    Table { family: Family::Inet, name: table_name(tag), sets, chains }
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum IpVersion {
    V4,
    V6,
}

impl IpVersion {
    fn of(address: IpAddr) -> Self {
        if address.is_ipv4() { Self::V4 } else { Self::V6 }
    }

    const fn suffix(self) -> &'static str {
        match self {
            Self::V4 => "4",
            Self::V6 => "6",
        }
    }

    const fn address_type(self) -> Type {
        match self {
            Self::V4 => Type::Ipv4,
            Self::V6 => Type::Ipv6,
        }
    }

    /// Address length in registers of four bytes.
    const fn registers(self) -> u8 {
        match self {
            Self::V4 => 1,
            Self::V6 => 4,
        }
    }

    /// Where the destination address stands in the header.
    const fn destination(self) -> (u32, u32) {
        match self {
            Self::V4 => (16, 4),
            Self::V6 => (24, 16),
        }
    }

    const fn source(self) -> (u32, u32) {
        match self {
            Self::V4 => (12, 4),
            Self::V6 => (8, 16),
        }
    }

    fn is_spoken(self) -> [Expr; 2] {
        let protocol = if self == Self::V4 { NFPROTO_IPV4 } else { NFPROTO_IPV6 };
        [
            Expr::Meta { key: Meta::NetworkProtocol, to: 0 },
            Expr::Compare { from: 0, equal: true, value: vec![protocol] },
        ]
    }

    const fn family(self) -> Family {
        match self {
            Self::V4 => Family::Ip,
            Self::V6 => Family::Ip6,
        }
    }
}

/// Two maps: ports published on one address of the host (`ports4at`), and on all (`ports4`).
fn port_maps(version: IpVersion, endpoints: &[Endpoint]) -> Vec<Set> {
    let (mut at, mut all) = (Vec::new(), Vec::new());
    for endpoint in endpoints {
        let Some(address) = endpoint.addresses.iter().copied().find(|address| IpVersion::of(*address) == version)
        else {
            continue;
        };
        for port in endpoint.ports.iter().filter(|port| IpVersion::of(port.host_address) == version) {
            let value = Value::Fields(vec![Field::Address(address), Field::Port(port.container_port)]);
            let mut key = vec![Field::Protocol(port.protocol), Field::Port(port.host_port)];
            if port.host_address.is_unspecified() {
                all.push(Element { key, value });
            } else {
                key.insert(0, Field::Address(port.host_address));
                at.push(Element { key, value });
            }
        }
    }
    let data = Data::Values(vec![version.address_type(), Type::Port]);
    let [name_at, name] = port_map_names(version.suffix());
    vec![
        Set {
            name: name_at,
            key: vec![version.address_type(), Type::Protocol, Type::Port],
            data: data.clone(),
            elements: at,
        },
        Set { name, key: vec![Type::Protocol, Type::Port], data, elements: all },
    ]
}

/// Of the maps for one address, and for all.
pub(crate) fn port_map_names(suffix: &str) -> [String; 2] {
    [format!("ports{suffix}at"), format!("ports{suffix}")]
}

fn bridge_sets(networks: &[Network]) -> Vec<Set> {
    let names = |name: &str, wanted: &dyn Fn(&&Network) -> bool| Set {
        name: name.into(),
        key: vec![Type::Interface],
        data: Data::None,
        elements: networks
            .iter()
            .filter(wanted)
            .map(|network| Element { key: vec![Field::Interface(network.bridge.clone())], value: Value::None })
            .collect(),
    };
    let pairs = networks.iter().filter(|network| network.between_containers).map(|network| {
        let bridge = Field::Interface(network.bridge.clone());
        Element { key: vec![bridge.clone(), bridge], value: Value::None }
    });
    let within =
        Set { name: "within".into(), key: vec![Type::Interface; 2], data: Data::None, elements: pairs.collect() };
    vec![
        names("bridges", &|_| true),
        names("closed", &|network| network.pods.is_none()),
        names("internal", &|network| network.internal),
        within,
    ]
}

fn translated(version: IpVersion) -> Vec<Vec<Expr>> {
    let port = Some(version.registers());
    published_rules(version, &Expr::DestinationNat { family: version.family(), address: 0, port })
}

/// What a published port takes goes on to `then`, with the container's address in register 0 and its port behind.
pub(crate) fn published_rules(version: IpVersion, then: &Expr) -> Vec<Vec<Expr>> {
    let (offset, length) = version.destination();
    let after_address = version.registers();
    let local = [
        Expr::AddressType { destination: true, to: 0 },
        Expr::Compare { from: 0, equal: true, value: ADDRESS_LOCAL.to_ne_bytes().to_vec() },
    ];
    let [name_at, name] = port_map_names(version.suffix());
    // Nothing could answer ::1 from outside of the host: such a connection is refused rather than lost.
    let not_loopback = [
        Expr::Payload { base: Base::Network, offset, length, to: 0 },
        Expr::Compare { from: 0, equal: false, value: std::net::Ipv6Addr::LOCALHOST.octets().to_vec() },
    ];
    let local: Vec<Expr> =
        if version == IpVersion::V6 { local.into_iter().chain(not_loopback).collect() } else { local.into() };
    let port_at = |register| {
        [
            Expr::Meta { key: Meta::TransportProtocol, to: register },
            Expr::Payload { base: Base::Transport, offset: 2, length: 2, to: register + 1 },
        ]
    };
    let mut at = version.is_spoken().to_vec();
    at.extend(local.clone());
    at.push(Expr::Payload { base: Base::Network, offset, length, to: 0 });
    at.extend(port_at(after_address));
    at.push(Expr::Lookup { set: name_at, from: 0, found: Found::Value(0) });
    at.push(then.clone());
    let mut all = version.is_spoken().to_vec();
    all.extend(local);
    all.extend(port_at(0));
    all.push(Expr::Lookup { set: name, from: 0, found: Found::Value(0) });
    all.push(then.clone());
    vec![at, all]
}

fn from_subnet(subnet: &Subnet) -> Vec<Expr> {
    let version = IpVersion::of(subnet.address());
    let mut rule = version.is_spoken().to_vec();
    rule.extend(address_in(subnet, version.source(), true));
    rule
}

/// Whether an address of the header, which stands at an offset with a length, is in the subnet.
fn address_in(subnet: &Subnet, (offset, length): (u32, u32), inside: bool) -> [Expr; 3] {
    let octets = |address: IpAddr| match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    };
    let mask = (0..length * 8).map(|bit| bit < u32::from(subnet.prefix()));
    let mask: Vec<bool> = mask.collect();
    let mask = mask.chunks(8).map(|bits| bits.iter().fold(0, |byte, bit| byte << 1 | u8::from(*bit))).collect();
    [
        Expr::Payload { base: Base::Network, offset, length, to: 0 },
        Expr::Mask { from: 0, mask, to: 0 },
        Expr::Compare { from: 0, equal: inside, value: octets(subnet.address()) },
    ]
}

fn leaves_by(bridge: &str, equal: bool) -> [Expr; 2] {
    [Expr::Meta { key: Meta::OutputName, to: 0 }, Expr::Compare { from: 0, equal, value: interface(bridge) }]
}

fn masquerade_rules(network: &Network) -> Vec<Vec<Expr>> {
    let mut rules = Vec::new();
    for (subnet, _) in &network.subnets {
        if network.masquerade && !network.internal {
            let version = IpVersion::of(subnet.address());
            let mut out = from_subnet(subnet);
            // A network of several bridges leaves one by another: frames within it stay as they are.
            out.extend(address_in(subnet, version.destination(), false));
            let others = network.pods.iter().flat_map(|pods| &pods.cluster);
            for other in others.filter(|other| IpVersion::of(other.address()) == version) {
                out.extend(address_in(other, version.destination(), false));
            }
            out.extend(leaves_by(&network.bridge, false));
            out.push(Expr::Masquerade);
            rules.push(out);
        }
        // Answers between pods come back through the host by themselves.
        if network.pods.is_some() {
            continue;
        }
        // A container that asks for its own (or a neighbour's) published port: the answer must come back through the host.
        let mut back = from_subnet(subnet);
        back.extend(leaves_by(&network.bridge, true));
        back.extend(has_bits(Conntrack::Status, PUBLISHED));
        back.push(Expr::Masquerade);
        rules.push(back);
    }
    rules
}

/// From 127.0.0.0/8 to a container or pod: none could answer that address.
fn loopback_rules(tag: &str) -> [Vec<Expr>; 2] {
    let loopback = Subnet::of([127, 0, 0, 0].into(), 8).expect("a prefix of eight bits");
    by_interface(Meta::OutputName, tag).map(|there| [from_subnet(&loopback), there, vec![Expr::Masquerade]].concat())
}

/// A container's side of the host: a bridge, or a pod's wire. A name compared by its beginning needs no set that changes with
/// every pod.
fn by_interface(key: Meta, tag: &str) -> [Vec<Expr>; 2] {
    let wire = crate::names::pod_prefix(tag).into_bytes();
    [
        vec![Expr::Meta { key, to: 0 }, Expr::Lookup { set: "bridges".into(), from: 0, found: Found::Match }],
        vec![Expr::Meta { key, to: 0 }, Expr::Compare { from: 0, equal: true, value: wire }],
    ]
}

/// Addresses of pods that publish ports, each with itself.
fn loop_set(version: IpVersion, networks: &[Network], endpoints: &[Endpoint]) -> Set {
    let of_pods = |id: &str| networks.iter().any(|network| network.id == id && network.pods.is_some());
    let addresses = endpoints
        .iter()
        .filter(|endpoint| !endpoint.ports.is_empty() && of_pods(&endpoint.network))
        .flat_map(|endpoint| endpoint.addresses.iter().copied())
        .filter(|address| IpVersion::of(*address) == version);
    let twice = |address| Element { key: vec![Field::Address(address); 2], value: Value::None };
    Set {
        name: format!("loops{}", version.suffix()),
        key: vec![version.address_type(); 2],
        data: Data::None,
        elements: addresses.map(twice).collect(),
    }
}

/// A pod that asks for its own published port would get its own packet back, and take it for an invention.
fn loop_rule(version: IpVersion) -> Vec<Expr> {
    let mut rule = version.is_spoken().to_vec();
    let mut register = 0;
    for (offset, length) in [version.source(), version.destination()] {
        rule.push(Expr::Payload { base: Base::Network, offset, length, to: register });
        register += version.registers();
    }
    rule.push(Expr::Lookup { set: format!("loops{}", version.suffix()), from: 0, found: Found::Match });
    rule.push(Expr::Masquerade);
    rule
}

/// Any of the bits is set.
pub(crate) fn has_bits(key: Conntrack, bits: u32) -> [Expr; 3] {
    [
        Expr::Conntrack { key, to: 0 },
        Expr::Mask { from: 0, mask: bits.to_ne_bytes().to_vec(), to: 0 },
        Expr::Compare { from: 0, equal: false, value: vec![0; 4] },
    ]
}

/// Published ports make containers answer on 127.0.0.1, for which the bridges accept such packets. Containers must not reach
/// the host's loopback by that, nor neighbours what is published on loopback alone (NW-02).
fn guard_rules(tag: &str) -> Vec<Vec<Expr>> {
    let (offset, length) = IpVersion::V4.destination();
    let mut loopback = IpVersion::V4.is_spoken().to_vec();
    loopback.extend([
        Expr::Payload { base: Base::Network, offset, length, to: 0 },
        Expr::Mask { from: 0, mask: vec![255, 0, 0, 0], to: 0 },
        Expr::Compare { from: 0, equal: true, value: vec![127, 0, 0, 0] },
    ]);
    let from_inside = by_interface(Meta::InputName, tag)
        .map(|there| [loopback.clone(), there, vec![Expr::Counter, Expr::Verdict(Verdict::Drop)]].concat());
    let mut published = loopback;
    published.extend([
        Expr::Meta { key: Meta::InputName, to: 0 },
        Expr::Compare { from: 0, equal: false, value: interface("lo") },
        Expr::Payload { base: Base::Network, offset, length, to: 0 },
        Expr::Meta { key: Meta::TransportProtocol, to: 1 },
        Expr::Payload { base: Base::Transport, offset: 2, length: 2, to: 2 },
        Expr::Lookup { set: "ports4at".into(), from: 0, found: Found::Value(4) },
        Expr::Counter,
        Expr::Verdict(Verdict::Drop),
    ]);
    from_inside.into_iter().chain([published]).collect()
}

/// The table in a container's own namespace that sends questions for 127.0.0.11, port 53, to the ports on which its resolver
/// really listens: the container may bind port 53 itself.
pub fn resolver_table(address: std::net::Ipv4Addr, udp: u16, tcp: u16) -> Table {
    let (offset, length) = IpVersion::V4.destination();
    let rule = |protocol: Protocol, port: u16| {
        vec![
            Expr::Payload { base: Base::Network, offset, length, to: 0 },
            Expr::Compare { from: 0, equal: true, value: address.octets().to_vec() },
            Expr::Meta { key: Meta::TransportProtocol, to: 0 },
            Expr::Compare { from: 0, equal: true, value: vec![protocol as u8] },
            Expr::Payload { base: Base::Transport, offset: 2, length: 2, to: 0 },
            Expr::Compare { from: 0, equal: true, value: 53u16.to_be_bytes().to_vec() },
            Expr::Load { value: address.octets().to_vec(), to: 0 },
            Expr::Load { value: port.to_be_bytes().to_vec(), to: 1 },
            Expr::DestinationNat { family: Family::Ip, address: 0, port: Some(1) },
        ]
    };
    let hook = Hook { kind: HookKind::Nat, at: HookPoint::Output, priority: -100, accept: true };
    Table {
        family: Family::Ip,
        name: "knarr-resolver".into(),
        sets: Vec::new(),
        chains: vec![Chain {
            name: "output".into(),
            hook: Some(hook),
            rules: vec![rule(Protocol::Udp, udp), rule(Protocol::Tcp, tcp)],
        }],
    }
}

fn forward_rules() -> Vec<Vec<Expr>> {
    let mut answers = has_bits(Conntrack::State, ANSWER).to_vec();
    answers.push(Expr::Verdict(Verdict::Accept));
    let within = vec![
        Expr::Meta { key: Meta::InputName, to: 0 },
        Expr::Meta { key: Meta::OutputName, to: 4 },
        Expr::Lookup { set: "within".into(), from: 0, found: Found::Match },
        Expr::Verdict(Verdict::Accept),
    ];
    let edge = |key, set: &str| {
        vec![
            Expr::Meta { key, to: 0 },
            Expr::Lookup { set: set.into(), from: 0, found: Found::Match },
            Expr::Counter,
            Expr::Verdict(Verdict::Drop),
        ]
    };
    let mut published = has_bits(Conntrack::Status, PUBLISHED).to_vec();
    published.push(Expr::Verdict(Verdict::Accept));
    vec![
        answers,
        within,
        edge(Meta::InputName, "internal"),
        edge(Meta::OutputName, "internal"),
        published,
        edge(Meta::OutputName, "closed"),
    ]
}
