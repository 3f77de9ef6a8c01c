//! Carries networks out in the kernel: bridges, veth pairs, addresses and routes by netlink.

use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use linux::netlink::Socket;
use linux::netlink::route::{Mac, Veth};
use linux::ns::{self, Namespaces};

use crate::{Driver, Network, NetworkError, Subnet, names};

/// The links of one engine instance. Any number of callers at a time.
#[derive(Debug)]
pub struct Bridges {
    tag: String,
}

/// One interface of a container, to be made in its network namespace.
#[derive(Debug, Clone)]
pub struct Plug<'a> {
    pub network: &'a Network,
    /// The host's end, of a bridge network; at most 15 bytes.
    pub host_name: &'a str,
    /// `eth0`, `eth1`...
    pub name: &'a str,
    pub addresses: &'a [IpAddr],
    pub mac: Option<Mac>,
    /// Which of the network's bridges it goes to: 0 is the first.
    pub segment: usize,
    /// Whether this network's gateway is the container's way out.
    pub default_route: bool,
    /// What the container may send, in bytes a second.
    pub send_limit: Option<u64>,
    /// What the container may receive, in bytes a second.
    pub receive_limit: Option<u64>,
}

impl Bridges {
    pub fn new(tag: &str) -> Self {
        Self { tag: tag.to_owned() }
    }

    pub fn tag(&self) -> &str {
        &self.tag
    }

    /// Subnets that routes and addresses of this machine use already.
    pub fn taken(&self) -> Result<Vec<Subnet>, NetworkError> {
        let mut route = Socket::route()?;
        let taken = route.destinations()?.into_iter().filter_map(|(address, prefix)| Subnet::of(address, prefix));
        let mut taken: Vec<_> = taken.collect();
        taken.extend(route.addresses()?.into_iter().filter_map(|(_, address, prefix)| Subnet::of(address, prefix)));
        Ok(taken)
    }

    /// Holds off every other instance in this network namespace that chooses subnets, until the answer is dropped: two that
    /// look at once would choose the same.
    pub fn choosing(&self) -> Result<OwnedFd, NetworkError> {
        const NAME: &[u8] = b"knarr-chooses-subnets";
        for _ in 0..5000 {
            match linux::net::claim(NAME) {
                Ok(claim) => return Ok(claim),
                Err(error) if error.is(linux::Errno::ADDRINUSE) => {
                    std::thread::sleep(std::time::Duration::from_millis(2));
                }
                Err(error) => return Err(error.into()),
            }
        }
        Err(NetworkError::Busy)
    }

    /// Makes the network's bridge with the gateways' addresses, unless it is there.
    pub fn add_network(&self, network: &Network) -> Result<(), NetworkError> {
        let mut route = Socket::route()?;
        if network.driver != Driver::Bridge {
            return route.link(&network.bridge)?.map(drop).ok_or_else(|| gone("interface", &network.bridge));
        }
        let index = match route.link(&network.bridge)? {
            Some(link) => link.index,
            None => {
                route.add_bridge(&network.bridge, Some(self.bridge_mac(&network.bridge)), network.mtu)?;
                let link = route.link(&network.bridge)?;
                link.map(|link| link.index).ok_or_else(|| gone("bridge", &network.bridge))?
            }
        };
        let ipv6 = network.subnets.iter().any(|(subnet, _)| !subnet.is_ipv4());
        // Nobody on this wire tells the host where to go (NW-01).
        set_if_there(&format!("net/ipv6/conf/{}/accept_ra", network.bridge), "0")?;
        set_if_there(&format!("net/ipv6/conf/{}/disable_ipv6", network.bridge), if ipv6 { "0" } else { "1" })?;
        let there = route.addresses()?;
        for (subnet, gateway) in &network.subnets {
            if !there.contains(&(index, *gateway, subnet.prefix())) {
                route.add_address(index, *gateway, subnet.prefix())?;
            }
        }
        if !network.internal {
            set("net/ipv4/ip_forward", "1")?;
            // Published ports answer on 127.0.0.1 too; the rules drop such packets from elsewhere (NW-02).
            set(&format!("net/ipv4/conf/{}/route_localnet", network.bridge), "1")?;
            if ipv6 {
                set("net/ipv6/conf/all/forwarding", "1")?;
            }
        }
        Ok(())
    }

    /// A bridge without an address of its own takes its lowest port's, and changes it when that container ends.
    fn bridge_mac(&self, bridge: &str) -> Mac {
        let bytes = self.tag.bytes().chain(bridge.bytes());
        let hash =
            bytes.fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3));
        let [_, _, a, b, c, d, e, f] = hash.to_be_bytes();
        // Locally administered, for one receiver.
        [(a & 0xfc) | 2, b, c, d, e, f]
    }

    /// What belongs to the network's bridge, under its name.
    pub fn pin(&self, network: &Network) -> (String, crate::Pin) {
        let addresses = network.subnets.iter().map(|(_, gateway)| *gateway).collect();
        let pin = crate::Pin { port: None, mac: Some(self.bridge_mac(&network.bridge)), addresses };
        (network.bridge.clone(), pin)
    }

    /// Removes the network's bridges; no error where they are gone.
    pub fn remove_network(&self, network: &Network, segments: usize) -> Result<(), NetworkError> {
        if network.driver != Driver::Bridge {
            return Ok(());
        }
        let further = (1..segments).flat_map(|number| {
            let [bridge, pair, _] = names::segment(&self.tag, &network.bridge, number);
            [pair, bridge]
        });
        let all: Vec<String> = further.chain([network.bridge.clone()]).collect();
        self.remove_links(&all.iter().map(String::as_str).collect::<Vec<_>>())
    }

    /// Removes links by name; no error where one is gone.
    pub fn remove_links(&self, names: &[&str]) -> Result<(), NetworkError> {
        let mut route = Socket::route()?;
        for name in names {
            if let Some(link) = route.link(name)? {
                match route.delete_link(link.index) {
                    // It went with its network namespace.
                    Err(error) if error.is(linux::Errno::NODEV) => {}
                    other => other?,
                }
            }
        }
        Ok(())
    }

    /// Names of links that are there.
    pub fn links(&self) -> Result<Vec<String>, NetworkError> {
        Ok(Socket::route()?.links()?.into_iter().map(|link| link.name).collect())
    }

    /// A new network namespace with its loopback up and these interfaces. It lives as long as the descriptor or a process in
    /// it; the pairs go with it.
    pub fn sandbox(&self, plugs: &[Plug<'_>]) -> Result<OwnedFd, NetworkError> {
        // A thread of its own: the caller must not change its namespace.
        std::thread::scope(|scope| {
            let made = scope.spawn(|| {
                let mut host = Socket::route()?;
                ns::unshare(Namespaces::NET)?;
                let netns = ns::open("/proc/thread-self/ns/net")?;
                let mut inside = Socket::route()?;
                inside.set_up(1)?;
                for plug in plugs {
                    self.wire(&mut host, &mut inside, netns.as_fd(), plug)?;
                }
                Ok(netns)
            });
            made.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    /// As [`Bridges::sandbox`], in a network namespace that somebody else has made and nobody uses yet.
    pub fn furnish(&self, netns: impl AsFd, plugs: &[Plug<'_>]) -> Result<(), NetworkError> {
        let netns = netns.as_fd();
        let mut host = Socket::route()?;
        within(netns, || {
            let mut inside = Socket::route()?;
            inside.set_up(1)?;
            plugs.iter().try_for_each(|plug| self.wire(&mut host, &mut inside, netns, plug))
        })
    }

    /// Gives a container's network namespace one more interface.
    pub fn plug(&self, netns: impl AsFd, plug: &Plug<'_>) -> Result<(), NetworkError> {
        let netns = netns.as_fd();
        let mut host = Socket::route()?;
        within(netns, || self.wire(&mut host, &mut Socket::route()?, netns, plug))?;
        if plug.network.pods.is_some() {
            settle_wire(plug)?;
        }
        Ok(())
    }

    /// Both ends of one interface; the caller's thread is in the container's network namespace.
    fn wire(
        &self,
        host: &mut Socket,
        inside: &mut Socket,
        netns: BorrowedFd<'_>,
        plug: &Plug<'_>,
    ) -> Result<(), NetworkError> {
        let mac = plug.mac.or_else(|| plug.addresses.iter().find_map(|address| mac_of(*address)));
        match plug.network.driver {
            Driver::Bridge if plug.network.pods.is_some() => add_wire(host, netns, plug, mac)?,
            Driver::Bridge => self.add_port(host, netns, plug, mac)?,
            Driver::On(kind) => {
                let parent = host.link(&plug.network.bridge)?.ok_or_else(|| gone("interface", &plug.network.bridge))?;
                // An ipvlan has its parent's MAC address.
                let mac = mac.filter(|_| matches!(kind, crate::VlanKind::Macvlan(_)));
                host.add_vlan(plug.name, parent.index, kind, netns, mac, plug.network.mtu)?;
            }
        }
        let link = inside.link(plug.name)?.ok_or_else(|| gone("interface", plug.name))?;
        if let Some(limit) = plug.send_limit {
            inside.limit_sending(link.index, limit, burst(limit))?;
        }
        let ipv6 = plug.addresses.iter().any(IpAddr::is_ipv6);
        set_if_there(&format!("net/ipv6/conf/{}/disable_ipv6", plug.name), if ipv6 { "0" } else { "1" })?;
        if ipv6 {
            set_if_there(&format!("net/ipv6/conf/{}/accept_ra", plug.name), "0")?;
        }
        inside.set_up(link.index)?;
        let routed = plug.network.pods.is_some();
        for address in plug.addresses {
            let (subnet, gateway) = place(plug.network, *address)?;
            let whole = if address.is_ipv4() { 32 } else { 128 };
            inside.add_address(link.index, *address, if routed { whole } else { subnet.prefix() })?;
            if routed {
                inside.add_link_route(gateway, whole, link.index)?;
            }
        }
        if plug.default_route {
            add_default_routes(inside, link.index, plug)?;
        }
        Ok(())
    }

    fn add_port(
        &self,
        host: &mut Socket,
        netns: BorrowedFd<'_>,
        plug: &Plug<'_>,
        mac: Option<Mac>,
    ) -> Result<(), NetworkError> {
        let bridge = match plug.segment {
            0 => host.link(&plug.network.bridge)?.ok_or_else(|| gone("bridge", &plug.network.bridge))?.index,
            number => self.segment(host, plug.network, number)?,
        };
        host.add_veth(&Veth {
            name: plug.host_name,
            master: Some(bridge),
            peer_name: plug.name,
            peer_netns: netns,
            peer_mac: mac,
            mtu: plug.network.mtu,
        })?;
        let port = host.link(plug.host_name)?.ok_or_else(|| gone("interface", plug.host_name))?;
        host.set_hairpin(port.index)?;
        if !plug.network.between_containers {
            host.set_isolated(port.index)?;
        }
        if let Some(limit) = plug.receive_limit {
            host.limit_sending(port.index, limit, burst(limit))?;
        }
        Ok(())
    }

    /// A further bridge of a large network, joined to the first by a pair. Its index.
    fn segment(&self, host: &mut Socket, network: &Network, number: usize) -> Result<u32, NetworkError> {
        let [bridge, here, there] = names::segment(&self.tag, &network.bridge, number);
        if let Some(link) = host.link(&bridge)?
            && host.link(&here)?.is_some()
        {
            return Ok(link.index);
        }
        let first = host.link(&network.bridge)?.ok_or_else(|| gone("bridge", &network.bridge))?.index;
        match host.add_bridge(&bridge, Some(self.bridge_mac(&bridge)), network.mtu) {
            Err(error) if error.is(linux::Errno::EXIST) => {}
            other => other?,
        }
        set_if_there(&format!("net/ipv6/conf/{bridge}/disable_ipv6"), "1")?;
        let index = host.link(&bridge)?.ok_or_else(|| gone("bridge", &bridge))?.index;
        let pair = host.add_pair(&here, first, &there, index, network.mtu);
        match pair {
            // Another start made it at the same time.
            Err(error) if error.is(linux::Errno::EXIST) => {}
            other => other?,
        }
        Ok(index)
    }

    /// Makes an interface of a running container its way out, in place of what was.
    pub fn set_default_route(&self, netns: impl AsFd, plug: Option<&Plug<'_>>) -> Result<(), NetworkError> {
        within(netns.as_fd(), || {
            let mut inside = Socket::route()?;
            inside.delete_default_route(true)?;
            inside.delete_default_route(false)?;
            let Some(plug) = plug else { return Ok(()) };
            let link = inside.link(plug.name)?.ok_or_else(|| gone("interface", plug.name))?;
            add_default_routes(&mut inside, link.index, plug)
        })
    }

    /// Takes an interface away from inside of a container's network namespace, with its other end.
    pub fn unplug(&self, netns: impl AsFd, name: &str) -> Result<(), NetworkError> {
        within(netns.as_fd(), || {
            let mut inside = Socket::route()?;
            match inside.link(name)? {
                Some(link) => Ok(inside.delete_link(link.index)?),
                None => Ok(()),
            }
        })
    }
}

/// Runs `act` on a thread in another network namespace.
pub(crate) fn within<T: Send>(
    netns: BorrowedFd<'_>,
    act: impl FnOnce() -> Result<T, NetworkError> + Send,
) -> Result<T, NetworkError> {
    std::thread::scope(|scope| {
        let inside = scope.spawn(|| {
            ns::setns(netns, Namespaces::NET)?;
            act()
        });
        inside.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

/// A pod's wire: the host's end carries the gateway's address and the route to the pod.
fn add_wire(host: &mut Socket, netns: BorrowedFd<'_>, plug: &Plug<'_>, mac: Option<Mac>) -> Result<(), NetworkError> {
    host.add_veth(&Veth {
        name: plug.host_name,
        master: None,
        peer_name: plug.name,
        peer_netns: netns,
        peer_mac: mac,
        mtu: plug.network.mtu,
    })?;
    let wire = host.link(plug.host_name)?.ok_or_else(|| gone("interface", plug.host_name))?;
    for address in plug.addresses {
        let (_, gateway) = place(plug.network, *address)?;
        let whole = if address.is_ipv4() { 32 } else { 128 };
        host.add_address(wire.index, gateway, whole)?;
        host.add_link_route(*address, whole, wire.index)?;
    }
    if let Some(limit) = plug.receive_limit {
        host.limit_sending(wire.index, limit, burst(limit))?;
    }
    Ok(())
}

/// Settings of the host's end, which are made in the host's own namespace.
fn settle_wire(plug: &Plug<'_>) -> Result<(), NetworkError> {
    let name = plug.host_name;
    // A pod speaks with its own address and no other.
    set(&format!("net/ipv4/conf/{name}/rp_filter"), "1")?;
    // Published ports answer on 127.0.0.1 too, as on bridges.
    set(&format!("net/ipv4/conf/{name}/route_localnet"), "1")?;
    set_if_there(&format!("net/ipv6/conf/{name}/accept_ra"), "0")
}

fn add_default_routes(inside: &mut Socket, index: u32, plug: &Plug<'_>) -> Result<(), NetworkError> {
    if plug.network.internal {
        return Ok(());
    }
    for address in plug.addresses {
        let (_, gateway) = place(plug.network, *address)?;
        inside.add_route(None, gateway, index)?;
    }
    Ok(())
}

/// The subnet that an address lies in, and its gateway.
fn place(network: &Network, address: IpAddr) -> Result<(Subnet, IpAddr), NetworkError> {
    let at = network.subnets.iter().find(|(subnet, _)| subnet.contains(address));
    at.copied().ok_or_else(|| gone("subnet of", &address.to_string()))
}

/// A hundredth of a second's worth, and never less than a few packets.
fn burst(bytes_per_second: u64) -> u32 {
    u32::try_from(bytes_per_second / 100).unwrap_or(u32::MAX / 8).clamp(16 << 10, u32::MAX / 8)
}

/// The MAC address that goes with an IPv4 address: a neighbour that remembers it is never wrong.
pub fn mac_of(address: IpAddr) -> Option<Mac> {
    let IpAddr::V4(address) = address else { return None };
    let [a, b, c, d] = Ipv4Addr::octets(&address);
    Some([2, 0x42, a, b, c, d])
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

/// A kernel without IPv6 has no such settings, and needs none.
fn set_if_there(name: &str, value: &str) -> Result<(), NetworkError> {
    let path = format!("/proc/sys/{name}");
    match std::fs::write(&path, value) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        Err(_) => set(name, value),
    }
}
