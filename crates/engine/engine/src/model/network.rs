//! Networks: what can be asked for and what is seen.

use std::collections::BTreeMap;

use jiff::Timestamp;

/// `network create`. Text that follows a grammar (addresses, subnets) is checked by the engine.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct NetworkRequest {
    pub name: String,
    /// Empty (`bridge`), `bridge`, `macvlan`, `ipvlan`; others are refused.
    pub driver: String,
    /// No way out and no way in.
    pub internal: bool,
    /// Kept and shown; every network here takes containers.
    pub attachable: bool,
    /// `None` is yes.
    pub ipv4: Option<bool>,
    /// `None` is no, unless a pool is IPv6.
    pub ipv6: Option<bool>,
    /// Empty or `default`; others are refused, but for `null`, which gives no addresses.
    pub ipam_driver: String,
    pub ipam_options: BTreeMap<String, String>,
    pub pools: Vec<NetworkPool>,
    pub options: BTreeMap<String, String>,
    pub labels: BTreeMap<String, String>,
}

/// A subnet of a network. Empty text is "choose" in a request.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NetworkPool {
    pub subnet: String,
    /// Containers get addresses from this part only.
    pub ip_range: String,
    pub gateway: String,
    /// Names of other devices on the wire and their addresses, which no container gets.
    pub auxiliary: BTreeMap<String, String>,
}

/// A network as `inspect` shows it.
#[derive(Debug, Clone, PartialEq)]
pub struct NetworkView {
    pub id: String,
    pub name: String,
    pub created_at: Timestamp,
    /// `bridge`, `host`, `null`, `macvlan`, `ipvlan`.
    pub driver: String,
    pub internal: bool,
    pub attachable: bool,
    pub ipv4: bool,
    pub ipv6: bool,
    pub ipam_driver: String,
    pub ipam_options: BTreeMap<String, String>,
    pub pools: Vec<NetworkPool>,
    pub options: BTreeMap<String, String>,
    pub labels: BTreeMap<String, String>,
    /// Running containers on it, by id.
    pub containers: BTreeMap<String, EndpointView>,
}

/// A running container on a network.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct EndpointView {
    pub name: String,
    pub endpoint_id: String,
    pub mac_address: String,
    /// With the prefix length; empty without one.
    pub ipv4_address: String,
    pub ipv6_address: String,
}

/// What `network create` answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NetworkCreated {
    pub id: String,
    pub warning: String,
}
