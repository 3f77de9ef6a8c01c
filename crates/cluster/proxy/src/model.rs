//! Services as plain values.

use std::net::IpAddr;

use linux::netlink::nft::Protocol;

use crate::Block;

/// A service with addresses of its own. Headless ones and names of elsewhere are the name server's alone.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Service {
    pub cluster_ips: Vec<IpAddr>,
    /// Addresses by which it is reached from outside: external ones, and the balancer's.
    pub external_ips: Vec<IpAddr>,
    pub balancer_ips: Vec<IpAddr>,
    /// Who may use the balancer's addresses; empty: everybody.
    pub sources: Vec<Block>,
    /// A client stays with one endpoint, until it has been silent for so many seconds.
    pub affinity_secs: Option<u64>,
    /// What comes in by the service's own address goes to this node's endpoints only.
    pub internal_local: bool,
    /// The same, for what comes from outside; its source address is kept.
    pub external_local: bool,
    /// Where this node says how many endpoints it has.
    pub health_port: Option<u16>,
    pub ports: Vec<ServicePort>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServicePort {
    pub protocol: Protocol,
    pub port: u16,
    pub node_port: Option<u16>,
    /// In a fixed order.
    pub backends: Vec<Backend>,
}

/// One address and port behind a service.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Backend {
    pub address: IpAddr,
    pub port: u16,
    /// On this node.
    pub local: bool,
    pub ready: bool,
    pub serving: bool,
    pub terminating: bool,
    /// Whether it is meant for this zone and for this node before others; nothing if it does not say.
    pub for_zone: Option<bool>,
    pub for_node: Option<bool>,
    /// The pod's uid, if it is one.
    pub pod: String,
}

impl Backend {
    /// Whether new connections may go there in any case: an endpoint that ends serves only where there is no other.
    pub fn is_last_resort(&self) -> bool {
        self.serving && self.terminating
    }
}

impl Service {
    /// Addresses of this node to which something may be led.
    pub fn local_endpoints(&self) -> usize {
        let all = self.ports.iter().flat_map(|port| [true, false].map(|ipv4| port.usable(ipv4, true)));
        let addresses: std::collections::BTreeSet<IpAddr> = all.flatten().map(|(address, _)| address).collect();
        addresses.len()
    }
}

impl ServicePort {
    /// Where connections of a family go: to what is ready, and if nothing is, to what serves while it ends.
    pub fn usable(&self, ipv4: bool, local_only: bool) -> Vec<(IpAddr, u16)> {
        let of_family = || {
            let all = self.backends.iter().filter(move |backend| backend.address.is_ipv4() == ipv4);
            all.filter(move |backend| backend.local || !local_only)
        };
        let ready: Vec<&Backend> = of_family().filter(|backend| backend.ready).collect();
        let ready = if local_only { ready } else { near(ready) };
        let mut chosen: Vec<(IpAddr, u16)> = ready.into_iter().map(|backend| (backend.address, backend.port)).collect();
        if chosen.is_empty() {
            let resort = of_family().filter(|backend| backend.is_last_resort());
            chosen = resort.map(|backend| (backend.address, backend.port)).collect();
        }
        chosen.sort_unstable();
        chosen.dedup();
        chosen
    }
}

/// Those meant for this node, or else for its zone; all of them where one does not say for whom it is, or none is near.
fn near(ready: Vec<&Backend>) -> Vec<&Backend> {
    for meant in [|backend: &Backend| backend.for_node, |backend: &Backend| backend.for_zone] {
        let all_say = ready.iter().all(|backend| meant(backend).is_some());
        if all_say && ready.iter().any(|backend| meant(backend) == Some(true)) {
            return ready.into_iter().filter(|backend| meant(backend) == Some(true)).collect();
        }
    }
    ready
}
