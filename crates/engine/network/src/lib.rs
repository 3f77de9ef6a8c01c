//! Container networks on this machine: subnets and addresses, bridges and veth pairs, published ports and isolation.
//!
//! * `subnet` — address arithmetic, and which subnet a new network gets
//! * `ipam` — which address an endpoint gets
//! * `model` — networks, endpoints, published ports: plain values
//! * `rules` — networks and endpoints in, one nftables table out (pure)
//! * `input` — the host's own filters, for published ports that are to obey them (pure)
//! * `pins` — which addresses belong to which port of a bridge
//! * `bridge` — carries it out: bridges, veth pairs, addresses, routes
//! * `firewall` — puts the one table in place, changes what differs, and notices when somebody flushed it
//! * `ports` — host ports that are held for as long as they are published
//! * `mesh` — the way to the pods of other machines: plain routes, VXLAN
//! * `cni` — pods' networks by other people's plugins instead
//! * `names` — bridges and interfaces by the instance's tag, so that what is left over can be told
//!
//! It keeps no records: the engine owns those and hands in what is there. It never touches a table, link or address that is
//! not its instance's own.

mod bridge;
pub mod cni;
mod error;
mod firewall;
mod input;
mod ipam;
mod mesh;
mod model;
pub mod names;
mod pins;
mod ports;
mod rules;
mod subnet;

pub use bridge::{Bridges, Plug};
pub use error::NetworkError;
pub use firewall::{Firewall, Guard, Heard};
pub use ipam::Ipam;
pub use mesh::{Attached, Hop, Mesh, Own, Peer, plan as plan_mesh};
pub use model::{
    Driver, Endpoint, Network, NetworkId, PodModel, PortBinding, PublishedPort, PublishedPorts, Range, parse_protocol,
    protocol_name,
};
pub use pins::Pin;
pub use ports::HeldPorts;
pub use rules::{resolver_table, table, table_name};
pub use subnet::{Subnet, choose_pool, unique_local};

pub use linux::netlink::nft::Protocol;
pub use linux::netlink::route::{Mac, VlanKind};
/// Questions and answers of the resolver that containers have at 127.0.0.11.
pub use vocab::dns;
