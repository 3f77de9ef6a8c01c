//! Carries networks out: bridges, veth pairs, addresses and routes by netlink, and the one nftables table.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, OwnedFd};

use linux::netlink::Socket;
use linux::netlink::nft::{Family, Protocol};
use linux::netlink::route::{Mac, Veth};
use linux::ns::{self, Namespaces};

use crate::{Endpoint, Network, NetworkError, PortBinding, PublishedPort, Subnet, rules};

/// The networks of one engine instance in the kernel. One caller at a time.
pub struct Bridges {
    tag: String,
    route: Socket,
    nft: Socket,
    /// Host ports held for as long as they are published, so that nobody else takes them.
    held: BTreeMap<(IpAddr, u16, Protocol), OwnedFd>,
}

/// One interface of a container, to be made in its network namespace.
#[derive(Debug)]
pub struct Plug<'a> {
    pub network: &'a Network,
    /// The host's end; at most 15 bytes.
    pub host_name: &'a str,
    /// `eth0`, `eth1`...
    pub name: &'a str,
    pub addresses: &'a [IpAddr],
    pub mac: Option<Mac>,
    /// Whether this network's gateway is the container's way out.
    pub default_route: bool,
}

impl Bridges {
    pub fn new(tag: &str) -> Result<Self, NetworkError> {
        Ok(Self { tag: tag.to_owned(), route: Socket::route()?, nft: Socket::netfilter()?, held: BTreeMap::new() })
    }

    /// Subnets that routes and addresses of this machine use already.
    pub fn taken(&mut self) -> Result<Vec<Subnet>, NetworkError> {
        let mut taken: Vec<_> = self
            .route
            .destinations()?
            .into_iter()
            .filter_map(|(address, prefix)| Subnet::of(address, prefix))
            .collect();
        taken
            .extend(self.route.addresses()?.into_iter().filter_map(|(_, address, prefix)| Subnet::of(address, prefix)));
        Ok(taken)
    }

    /// Makes the network's bridge with the gateways' addresses, unless it is there.
    pub fn add_network(&mut self, network: &Network) -> Result<(), NetworkError> {
        let index = match self.route.link(&network.bridge)? {
            Some(link) => link.index,
            None => {
                self.route.add_bridge(&network.bridge, None, network.mtu)?;
                let link = self.route.link(&network.bridge)?;
                link.map(|link| link.index).ok_or_else(|| gone("bridge", &network.bridge))?
            }
        };
        let there = self.route.addresses()?;
        for (subnet, gateway) in &network.subnets {
            if !there.contains(&(index, *gateway, subnet.prefix())) {
                self.route.add_address(index, *gateway, subnet.prefix())?;
            }
        }
        if !network.internal {
            set("net/ipv4/ip_forward", "1")?;
            // Published ports answer on 127.0.0.1 too; the forward chain drops such packets from elsewhere.
            set(&format!("net/ipv4/conf/{}/route_localnet", network.bridge), "1")?;
            if network.subnets.iter().any(|(subnet, _)| !subnet.is_ipv4()) {
                set("net/ipv6/conf/all/forwarding", "1")?;
            }
        }
        Ok(())
    }

    /// Removes the network's bridge; no error where it is gone.
    pub fn remove_network(&mut self, network: &Network) -> Result<(), NetworkError> {
        if let Some(link) = self.route.link(&network.bridge)? {
            self.route.delete_link(link.index)?;
        }
        Ok(())
    }

    /// Puts the table for these networks and endpoints in place of what was there, atomically.
    pub fn apply_rules(&mut self, networks: &[Network], endpoints: &[Endpoint]) -> Result<(), NetworkError> {
        Ok(self.nft.replace_table(&rules::table(&self.tag, networks, endpoints))?)
    }

    /// Whether the table is still there; somebody may have flushed the ruleset.
    pub fn has_rules(&mut self) -> Result<bool, NetworkError> {
        Ok(self.nft.has_table(Family::Inet, &rules::table_name(&self.tag))?)
    }

    pub fn remove_rules(&mut self) -> Result<(), NetworkError> {
        Ok(self.nft.remove_table(Family::Inet, &rules::table_name(&self.tag))?)
    }

    /// Gives a container's network namespace an interface on the network. When the namespace ends, so does the pair.
    pub fn plug(&mut self, netns: impl AsFd, plug: &Plug<'_>) -> Result<(), NetworkError> {
        let netns = netns.as_fd();
        let bridge = self.route.link(&plug.network.bridge)?.ok_or_else(|| gone("bridge", &plug.network.bridge))?;
        self.route.add_veth(&Veth {
            name: plug.host_name,
            master: Some(bridge.index),
            peer_name: plug.name,
            peer_netns: netns,
            peer_mac: plug.mac,
            mtu: plug.network.mtu,
        })?;
        let port = self.route.link(plug.host_name)?.ok_or_else(|| gone("interface", plug.host_name))?;
        self.route.set_hairpin(port.index)?;
        let mut inside = Socket::route_in(netns)?;
        let link = inside.link(plug.name)?.ok_or_else(|| gone("interface", plug.name))?;
        inside.set_up(link.index)?;
        for address in plug.addresses {
            let at = plug.network.subnets.iter().find(|(subnet, _)| subnet.contains(*address));
            let (subnet, gateway) = at.ok_or_else(|| gone("subnet of", &address.to_string()))?;
            inside.add_address(link.index, *address, subnet.prefix())?;
            if plug.default_route && !plug.network.internal {
                inside.add_route(None, *gateway, link.index)?;
            }
        }
        Ok(())
    }

    /// Takes a container off a network while it runs.
    pub fn unplug(&mut self, host_name: &str) -> Result<(), NetworkError> {
        if let Some(link) = self.route.link(host_name)? {
            self.route.delete_link(link.index)?;
        }
        Ok(())
    }

    /// Chooses and holds a host port. The port is bound, so that no other program can take it, and never listened on:
    /// the rules send its packets to the container before a socket would see them.
    pub fn hold_port(&mut self, binding: &PortBinding) -> Result<PublishedPort, NetworkError> {
        let (address, protocol, range) = (binding.host_address, binding.protocol, binding.host_ports);
        let mut last = None;
        for port in range.first..=range.last {
            if port != 0 && self.held.contains_key(&(address, port, protocol)) {
                last = Some(NetworkError::PortAllocated { address, port });
                continue;
            }
            match linux::net::hold_port(protocol, SocketAddr::new(address, port)) {
                Ok((fd, host_port)) => {
                    self.held.insert((address, host_port, protocol), fd);
                    let container_port = binding.container_port;
                    return Ok(PublishedPort { protocol, container_port, host_address: address, host_port });
                }
                Err(error) if error.is(linux::Errno::ADDRINUSE) => {
                    last = Some(NetworkError::PortAllocated { address, port });
                }
                Err(error) => return Err(NetworkError::PortBind { address, port, cause: error.to_string() }),
            }
        }
        match last {
            Some(error) if range.first == range.last => Err(error),
            _ => Err(NetworkError::PortsExhausted { address, first: range.first, last: range.last }),
        }
    }

    pub fn release_port(&mut self, port: &PublishedPort) {
        self.held.remove(&(port.host_address, port.host_port, port.protocol));
    }

    /// A new network namespace with its loopback up. It lives as long as the descriptor or a process in it.
    pub fn new_netns() -> Result<OwnedFd, NetworkError> {
        let make = || {
            ns::unshare(Namespaces::NET)?;
            linux::net::loopback_up()?;
            ns::open("/proc/thread-self/ns/net")
        };
        // A thread of its own: the caller must not change its namespace.
        let made = std::thread::spawn(make).join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        Ok(made?)
    }
}

fn gone(what: &str, name: &str) -> NetworkError {
    NetworkError::Kernel(linux::Error::new("netlink", format_args!("find {what} {name}"), linux::Errno::NODEV))
}

fn set(name: &str, value: &str) -> Result<(), NetworkError> {
    let path = format!("/proc/sys/{name}");
    // Reading first: a container's /proc/sys may be read-only and already right.
    if std::fs::read_to_string(&path).is_ok_and(|now| now.trim() == value) {
        return Ok(());
    }
    std::fs::write(&path, value).map_err(|error| NetworkError::Setting {
        path,
        value: value.to_owned(),
        cause: error.to_string(),
    })
}
