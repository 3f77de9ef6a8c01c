//! Networks, endpoints and published ports as plain values. The engine keeps them; this crate decides with them.

use std::net::IpAddr;

use linux::netlink::nft::Protocol;
use linux::netlink::route::VlanKind;
use serde::{Deserialize, Serialize};

use crate::Subnet;

/// 64 hex digits, as Docker's.
pub type NetworkId = String;

/// What a network's interfaces stand on.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Driver {
    /// A bridge of our own.
    #[default]
    Bridge,
    /// Interfaces on top of one of the host's; our rules do not apply to them.
    On(VlanKind),
}

/// A network of this machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Network {
    pub id: NetworkId,
    pub driver: Driver,
    /// The name of its bridge, or of the parent interface; at most 15 bytes.
    pub bridge: String,
    /// IPv4, IPv6 or both; each with the gateway's address, which the bridge carries.
    pub subnets: Vec<(Subnet, IpAddr)>,
    /// No way out and no way in, except between its own containers.
    pub internal: bool,
    /// Containers of the network may speak to each other (`com.docker.network.bridge.enable_icc`).
    pub between_containers: bool,
    /// Outgoing traffic takes the host's address (`com.docker.network.bridge.enable_ip_masquerade`).
    pub masquerade: bool,
    /// Bytes; `None` leaves the kernel's.
    pub mtu: Option<u32>,
    /// A network of pods, by Kubernetes' model.
    pub pods: Option<PodModel>,
}

/// What differs on a network of pods: everybody who has a route reaches them, without translation, and they reach each other
/// through the host alone, so that rules apply between two of them as to everybody else. Its bridge has no ports: it carries the
/// subnet. A pod's interface is a wire of its own to the host, which routes the pod's address there. (On a common bridge the
/// kernel would translate and forward frames between two pods behind the rules' back where `br_netfilter` is loaded, and answers
/// would miss the translation where it is not.)
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PodModel {
    /// Where other pods are: what is sent there keeps its source address.
    pub cluster: Vec<Subnet>,
}

/// What published ports are to the host's filters at the hook `input`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum PublishedPorts {
    /// They pass them by, as Docker's do.
    #[default]
    BypassInput,
    /// They are filtered as if a program of the host listened.
    ObeyInput,
}

impl PublishedPorts {
    pub fn name(self) -> &'static str {
        match self {
            Self::BypassInput => "bypass-input",
            Self::ObeyInput => "obey-input",
        }
    }

    pub fn parse(text: &str) -> Option<Self> {
        [Self::BypassInput, Self::ObeyInput].into_iter().find(|mode| mode.name() == text)
    }
}

/// A container's place on a network.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    pub network: NetworkId,
    pub container: String,
    pub addresses: Vec<IpAddr>,
    pub ports: Vec<PublishedPort>,
}

/// A port of a container that the host answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PublishedPort {
    #[serde(with = "protocol")]
    pub protocol: Protocol,
    pub container_port: u16,
    /// Unspecified (0.0.0.0 or ::) answers on every address of the host.
    pub host_address: IpAddr,
    pub host_port: u16,
}

/// `tcp`, `udp`, `sctp`.
pub const fn protocol_name(protocol: Protocol) -> &'static str {
    match protocol {
        Protocol::Tcp => "tcp",
        Protocol::Udp => "udp",
        Protocol::Sctp => "sctp",
    }
}

pub fn parse_protocol(name: &str) -> Option<Protocol> {
    [Protocol::Tcp, Protocol::Udp, Protocol::Sctp].into_iter().find(|protocol| protocol_name(*protocol) == name)
}

/// A protocol by its name, for records.
mod protocol {
    use super::{Protocol, parse_protocol, protocol_name};
    use serde::{Deserialize, Deserializer, Serializer};

    pub fn serialize<S: Serializer>(protocol: &Protocol, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(protocol_name(*protocol))
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Protocol, D::Error> {
        let name = String::deserialize(deserializer)?;
        parse_protocol(&name).ok_or_else(|| serde::de::Error::custom(format!("unknown protocol {name}")))
    }
}

/// What was asked for, before a host port is chosen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PortBinding {
    pub protocol: Protocol,
    pub container_port: u16,
    pub host_address: IpAddr,
    pub host_ports: Range,
}

/// Host ports to choose from, first and last. Docker takes the first free one of a range; 0-0 lets the engine choose.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Range {
    pub first: u16,
    pub last: u16,
}
