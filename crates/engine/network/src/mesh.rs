//! The pods of other machines: a plain route where a machine is on a link of this one, VXLAN to all others.
//!
//! [`plan`] decides, pure; [`Mesh`] makes it so, again and again, and takes back what is not meant any more. Hardware addresses on
//! the VXLAN link follow from machines' addresses, so that nobody has to tell them.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use linux::Errno;
use linux::netlink::Socket;
use linux::netlink::overlay::{Via, Vxlan};
use linux::netlink::route::Mac;

use crate::error::NetworkError;
use crate::names;
use crate::subnet::Subnet;

/// Marks routes as ours, as `ip route` shows it: `proto 75`.
const PROTOCOL: u8 = 75;
const PORT: u16 = 4789;
/// What VXLAN adds to a packet: over IPv4, over IPv6.
const OVERHEAD: (u32, u32) = (50, 70);

/// Another machine with pods.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peer {
    pub address: IpAddr,
    /// Of its pods, one of each family at most.
    pub subnets: Vec<Subnet>,
}

/// This machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Own {
    pub address: IpAddr,
    pub subnets: Vec<Subnet>,
}

/// An address of this machine, and the link that has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Attached {
    pub link: u32,
    pub address: IpAddr,
    pub prefix: u8,
}

/// How a subnet is reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hop {
    /// Through the machine itself, on this link.
    Direct { link: u32, gateway: IpAddr },
    /// Through the VXLAN link, to this machine.
    Tunnel { machine: IpAddr, gateway: IpAddr },
}

/// Decides how every subnet of others is reached. Pure.
pub fn plan(attached: &[Attached], own: &Own, peers: &[Peer]) -> BTreeMap<Subnet, Hop> {
    let mut hops = BTreeMap::new();
    for peer in peers.iter().filter(|peer| peer.address != own.address) {
        let near = attached.iter().find(|at| {
            Subnet::of(at.address, at.prefix).is_some_and(|subnet| subnet.contains(peer.address))
                && at.address != peer.address
        });
        // Nobody's subnet may lead our own pods' packets away.
        let others = peer.subnets.iter().filter(|subnet| !own.subnets.iter().any(|mine| mine.overlaps(subnet)));
        for subnet in others {
            let direct = near.filter(|_| subnet.is_ipv4() == peer.address.is_ipv4());
            let hop = match (direct, subnet.nth(1)) {
                (Some(at), _) => Hop::Direct { link: at.link, gateway: peer.address },
                (None, Some(gateway)) => Hop::Tunnel { machine: peer.address, gateway },
                (None, None) => continue,
            };
            hops.entry(*subnet).or_insert(hop);
        }
    }
    hops
}

/// The hardware address of a machine's VXLAN link: locally administered, from its address.
pub fn mac(machine: IpAddr) -> Mac {
    let bytes = match machine {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    };
    let hash = bytes
        .iter()
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3));
    let [a, b, c, d, e, ..] = hash.to_be_bytes();
    [0x0a, a, b, c, d, e]
}

/// What leads to other machines' pods, of one instance.
#[derive(Debug)]
pub struct Mesh {
    name: String,
    /// All machines of a cluster use the same.
    id: u32,
    /// Tunnels that were made: gateway and machine.
    tunnels: BTreeSet<(IpAddr, IpAddr)>,
}

impl Mesh {
    pub fn new(tag: &str, id: u32) -> Self {
        Self { name: names::overlay(tag), id: id & 0xff_ffff, tunnels: BTreeSet::new() }
    }

    /// Makes it so that `peers` are reached, whatever is there. Routes to other parts of `cluster` are taken away.
    pub fn apply(&mut self, own: &Own, peers: &[Peer], cluster: &[Subnet]) -> Result<(), NetworkError> {
        let mut socket = Socket::route()?;
        let links = socket.links()?;
        let attached: Vec<Attached> = socket
            .addresses()?
            .into_iter()
            .filter(|(link, ..)| links.iter().any(|known| known.index == *link && known.up && known.name != self.name))
            .map(|(link, address, prefix)| Attached { link, address, prefix })
            .collect();
        let hops = plan(&attached, own, peers);
        let tunnels: BTreeSet<(IpAddr, IpAddr)> = hops
            .values()
            .filter_map(|hop| match hop {
                Hop::Tunnel { machine, gateway } => Some((*gateway, *machine)),
                Hop::Direct { .. } => None,
            })
            .collect();
        let overlay = match tunnels.is_empty() {
            true => None,
            false => {
                let at = attached.iter().find(|at| at.address == own.address).map(|at| at.link);
                let mtu = links.iter().find(|link| Some(link.index) == at).map_or(1500, |link| link.mtu);
                Some(self.overlay(&mut socket, own.address, mtu)?)
            }
        };
        for (subnet, hop) in &hops {
            let (link, gateway, onlink) = match (hop, overlay) {
                (Hop::Direct { link, gateway }, _) => (*link, *gateway, false),
                (Hop::Tunnel { gateway, .. }, Some(overlay)) => (overlay, *gateway, true),
                (Hop::Tunnel { .. }, None) => continue,
            };
            // Answers to what comes out of a tunnel have to go into it as well.
            let source =
                own.subnets.iter().find(|mine| mine.is_ipv4() == subnet.is_ipv4()).and_then(|mine| mine.nth(1));
            let source = source.filter(|source| onlink && attached.iter().any(|at| at.address == *source));
            let via = Via { destination: subnet.address(), prefix: subnet.prefix(), gateway, link, onlink, source };
            socket.set_route(&via, PROTOCOL)?;
        }
        for (destination, prefix) in socket.routes_of(PROTOCOL)? {
            let Some(subnet) = Subnet::of(destination, prefix) else { continue };
            if !hops.contains_key(&subnet) && cluster.iter().any(|all| all.overlaps(&subnet)) {
                ignore_missing(socket.delete_route(destination, prefix, PROTOCOL))?;
            }
        }
        if let Some(overlay) = overlay {
            for (gateway, machine) in &tunnels {
                socket.set_neighbour(overlay, *gateway, mac(*machine))?;
                socket.set_forwarding(overlay, mac(*machine), *machine)?;
            }
            for (gateway, machine) in self.tunnels.difference(&tunnels) {
                if !tunnels.iter().any(|(_, other)| other == machine) {
                    ignore_missing(socket.delete_forwarding(overlay, mac(*machine)))?;
                }
                if !tunnels.iter().any(|(other, _)| other == gateway) {
                    ignore_missing(socket.delete_neighbour(overlay, *gateway))?;
                }
            }
        } else if let Some(link) = links.iter().find(|link| link.name == self.name) {
            socket.delete_link(link.index)?;
        }
        self.tunnels = tunnels;
        Ok(())
    }

    /// The VXLAN link, made if it is missing or another machine's by now.
    fn overlay(&self, socket: &mut Socket, local: IpAddr, mtu: u32) -> Result<u32, NetworkError> {
        if let Some(link) = socket.link(&self.name)? {
            if link.mac == Some(mac(local)) && link.kind.as_deref() == Some("vxlan") {
                if !link.up {
                    socket.set_up(link.index)?;
                }
                return Ok(link.index);
            }
            socket.delete_link(link.index)?;
        }
        let overhead = if local.is_ipv4() { OVERHEAD.0 } else { OVERHEAD.1 };
        let vxlan = Vxlan {
            name: &self.name,
            id: self.id,
            local,
            port: PORT,
            mac: mac(local),
            mtu: mtu.saturating_sub(overhead).max(1280),
        };
        socket.add_vxlan(&vxlan)?;
        let made = socket.link(&self.name)?;
        made.map(|link| link.index)
            .ok_or_else(|| NetworkError::Kernel(linux::Error::new("find link", &self.name, Errno::NODEV)))
    }

    /// Takes everything away.
    pub fn remove(&mut self, cluster: &[Subnet]) -> Result<(), NetworkError> {
        let mut socket = Socket::route()?;
        for (destination, prefix) in socket.routes_of(PROTOCOL)? {
            let subnet = Subnet::of(destination, prefix);
            if subnet.is_some_and(|subnet| cluster.iter().any(|all| all.overlaps(&subnet))) {
                ignore_missing(socket.delete_route(destination, prefix, PROTOCOL))?;
            }
        }
        if let Some(link) = socket.link(&self.name)? {
            socket.delete_link(link.index)?;
        }
        self.tunnels.clear();
        Ok(())
    }
}

/// Somebody was faster.
fn ignore_missing(outcome: linux::Result<()>) -> Result<(), NetworkError> {
    match outcome {
        Err(error) if error.is(Errno::SRCH) || error.is(Errno::NOENT) => Ok(()),
        other => other.map_err(NetworkError::from),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(address: &str, subnets: &[&str]) -> Peer {
        let subnets = subnets.iter().map(|text| text.parse().unwrap()).collect();
        Peer { address: address.parse().unwrap(), subnets }
    }

    #[test]
    fn a_shared_link_needs_no_tunnel() {
        let own = Own { address: "10.0.0.1".parse().unwrap(), subnets: vec!["10.42.0.0/22".parse().unwrap()] };
        let attached = |text: &str, prefix| Attached { link: 2, address: text.parse().unwrap(), prefix };
        let attached = [attached("10.0.0.1", 24), attached("fd00::1", 64)];
        let peers = [
            peer("10.0.0.1", &["10.42.0.0/22"]),
            peer("10.0.0.2", &["10.42.4.0/22", "fd42:2::/64"]),
            peer("10.9.0.3", &["10.42.8.0/22"]),
            peer("10.0.0.4", &["10.42.1.0/24"]),
            peer("10.0.0.5", &["10.42.4.0/22"]),
        ];
        let shown: Vec<String> = plan(&attached, &own, &peers)
            .iter()
            .map(|(subnet, hop)| match hop {
                Hop::Direct { link, gateway } => format!("{subnet} via {gateway} on {link}"),
                Hop::Tunnel { machine, gateway } => format!("{subnet} via {gateway} in {machine}"),
            })
            .collect();
        // The first that has a subnet keeps it, and nobody has ours.
        let expected = [
            "10.42.4.0/22 via 10.0.0.2 on 2",
            "10.42.8.0/22 via 10.42.8.1 in 10.9.0.3",
            "fd42:2::/64 via fd42:2::1 in 10.0.0.2",
        ];
        assert_eq!(shown, expected);
    }

    #[test]
    fn hardware_addresses_are_local_and_differ() {
        let of = |text: &str| mac(text.parse().unwrap());
        assert_ne!(of("10.0.0.1"), of("10.0.0.2"));
        assert_eq!(of("10.0.0.1")[0] & 3, 2, "local, one machine");
    }
}
