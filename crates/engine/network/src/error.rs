//! What can go wrong, in Docker's words where clients match on them.

use std::net::IpAddr;

use linux::netlink::nft::Protocol;
use vocab::ErrorKind;

use crate::{Subnet, protocol_name};

/// `0.0.0.0:80/tcp`.
fn host_port(address: IpAddr, port: u16, protocol: Protocol) -> String {
    format!("{}/{}", std::net::SocketAddr::new(address, port), protocol_name(protocol))
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NetworkError {
    #[error("invalid subnet {0:?}: expected an address and a prefix length, as 172.20.0.0/16")]
    BadSubnet(String),
    #[error("Pool overlaps with other one on this address space")]
    PoolOverlaps,
    #[error("all predefined address pools have been fully subnetted")]
    PoolsExhausted,
    #[error("no available IPv4 addresses on this network's address pools: {subnet}")]
    SubnetExhausted { subnet: Subnet },
    #[error("Address already in use: {0}")]
    AddressInUse(IpAddr),
    #[error("{address} is not an address for a container in {subnet}")]
    NotInSubnet { address: IpAddr, subnet: Subnet },
    #[error("Bind for {at} failed: port is already allocated", at = std::net::SocketAddr::new(*address, *port))]
    PortAllocated { address: IpAddr, port: u16 },
    /// By another program.
    #[error(
        "failed to bind host port for {host}: address already in use",
        host = host_port(*address, *port, *protocol)
    )]
    PortTaken { address: IpAddr, port: u16, protocol: Protocol },
    #[error("failed to bind host port for {host}: {cause}", host = host_port(*address, *port, *protocol))]
    PortBind { address: IpAddr, port: u16, protocol: Protocol, cause: String },
    #[error("the subnets of this machine are being chosen by somebody else for too long")]
    Busy,
    #[error("no free port between {first} and {last} on {address}")]
    PortsExhausted { address: IpAddr, first: u16, last: u16 },
    #[error("set {path} to {value}: {cause}")]
    Setting { path: String, value: String, cause: String },
    #[error(transparent)]
    Kernel(#[from] linux::Error),
}

impl NetworkError {
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::BadSubnet(_) | Self::NotInSubnet { .. } => ErrorKind::Invalid,
            Self::PoolOverlaps | Self::AddressInUse(_) => ErrorKind::Forbidden,
            Self::PoolsExhausted | Self::SubnetExhausted { .. } | Self::PortsExhausted { .. } => ErrorKind::Exhausted,
            // dockerd answers 500 to a taken port, and clients show the text.
            Self::PortAllocated { .. } | Self::PortTaken { .. } | Self::PortBind { .. } | Self::Setting { .. } => {
                ErrorKind::Internal
            }
            Self::Busy => ErrorKind::Unavailable,
            Self::Kernel(error) => error.kind(),
        }
    }
}
