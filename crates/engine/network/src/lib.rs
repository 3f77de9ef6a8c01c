//! Container networks on this machine: subnets and addresses, bridges and veth pairs, published ports and isolation.
//!
//! * `subnet` — address arithmetic, and which subnet a new network gets
//! * `ipam` — which address an endpoint gets
//! * `model` — networks, endpoints, published ports: plain values
//! * `rules` — networks and endpoints in, one nftables table out (pure)
//! * `bridge` — carries it out: bridges, veth pairs, addresses, routes, and the one table
//!
//! It keeps no records: the engine owns those and hands in what is there. It never touches a table, link or address that is
//! not its instance's own.

mod bridge;
mod error;
mod ipam;
mod model;
mod rules;
mod subnet;

pub use bridge::{Bridges, Plug};
pub use error::NetworkError;
pub use ipam::Ipam;
pub use model::{Endpoint, Network, NetworkId, PortBinding, PublishedPort, Range};
pub use rules::{table, table_name};
pub use subnet::{Subnet, choose_pool};

pub use linux::netlink::nft::Protocol;
