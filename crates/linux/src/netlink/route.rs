//! Links, addresses and routes (rtnetlink(7)): the few requests that container networks are made of.

use std::net::IpAddr;
use std::os::fd::{AsFd, AsRawFd};

use super::{Message, NLM_F_CREATE, NLM_F_EXCL, Socket, attributes};
use crate::Result;

const RTM_NEWLINK: u16 = 16;
const RTM_DELLINK: u16 = 17;
const RTM_GETLINK: u16 = 18;
const RTM_SETLINK: u16 = 19;
const RTM_NEWADDR: u16 = 20;
const RTM_GETADDR: u16 = 22;
const RTM_NEWROUTE: u16 = 24;
const RTM_GETROUTE: u16 = 26;

const IFLA_ADDRESS: u16 = 1;
const IFLA_IFNAME: u16 = 3;
const IFLA_MTU: u16 = 4;
const IFLA_MASTER: u16 = 10;
const IFLA_PROTINFO: u16 = 12;
const IFLA_BRPORT_MODE: u16 = 4;
const IFLA_LINKINFO: u16 = 18;
const IFLA_NET_NS_FD: u16 = 28;
const IFLA_INFO_KIND: u16 = 1;
const IFLA_INFO_DATA: u16 = 2;
const VETH_INFO_PEER: u16 = 1;

const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
const IFA_BROADCAST: u16 = 4;
const IFA_FLAGS: u16 = 8;
/// Duplicate address detection would keep a new container's address unusable for a second.
const IFA_F_NODAD: u32 = 2;

const RTA_DST: u16 = 1;
const RTA_OIF: u16 = 4;
const RTA_GATEWAY: u16 = 5;

const IFF_UP: u32 = 1;

/// A MAC address.
pub type Mac = [u8; 6];

/// A network interface as the kernel shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Link {
    pub index: u32,
    pub name: String,
    pub up: bool,
    /// `None` for interfaces without a six-byte address.
    pub mac: Option<Mac>,
    /// Bytes.
    pub mtu: u32,
    /// The bridge that it is a port of.
    pub master: Option<u32>,
    /// `bridge`, `veth`...; `None` for hardware.
    pub kind: Option<String>,
}

/// A pair of interfaces, one here and one in another network namespace.
#[derive(Debug)]
pub struct Veth<'a, F> {
    pub name: &'a str,
    /// The bridge that this end becomes a port of.
    pub master: Option<u32>,
    pub peer_name: &'a str,
    pub peer_netns: F,
    pub peer_mac: Option<Mac>,
    /// Bytes; `None` leaves the kernel's 1500.
    pub mtu: Option<u32>,
}

impl Socket {
    /// Makes a bridge that is up. Fails with EEXIST where an interface has that name.
    pub fn add_bridge(&mut self, name: &str, mac: Option<Mac>, mtu: Option<u32>) -> Result<()> {
        let mut message = link(RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, 0, IFF_UP);
        message.string(IFLA_IFNAME, name);
        if let Some(mac) = mac {
            message.attribute(IFLA_ADDRESS, &mac);
        }
        if let Some(mtu) = mtu {
            message.u32(IFLA_MTU, mtu);
        }
        message.nest(IFLA_LINKINFO, |info| info.string(IFLA_INFO_KIND, "bridge"));
        self.request(message, format_args!("add bridge {name}"))
    }

    /// Makes both ends in one request: this end up, the other down and without address.
    pub fn add_veth(&mut self, veth: &Veth<'_, impl AsFd>) -> Result<()> {
        let mut message = link(RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, 0, IFF_UP);
        message.string(IFLA_IFNAME, veth.name);
        if let Some(master) = veth.master {
            message.u32(IFLA_MASTER, master);
        }
        if let Some(mtu) = veth.mtu {
            message.u32(IFLA_MTU, mtu);
        }
        message.nest(IFLA_LINKINFO, |info| {
            info.string(IFLA_INFO_KIND, "veth");
            info.nest(IFLA_INFO_DATA, |data| {
                data.nest(VETH_INFO_PEER, |peer| {
                    peer.bytes.extend_from_slice(&link_header(0, 0));
                    peer.string(IFLA_IFNAME, veth.peer_name);
                    peer.u32(IFLA_NET_NS_FD, veth.peer_netns.as_fd().as_raw_fd() as u32);
                    if let Some(mac) = veth.peer_mac {
                        peer.attribute(IFLA_ADDRESS, &mac);
                    }
                    if let Some(mtu) = veth.mtu {
                        peer.u32(IFLA_MTU, mtu);
                    }
                });
            });
        });
        self.request(message, format_args!("add veth {}", veth.name))
    }

    /// Removes a link; of a veth pair both ends go.
    pub fn delete_link(&mut self, index: u32) -> Result<()> {
        self.request(link(RTM_DELLINK, 0, index, 0), format_args!("delete link {index}"))
    }

    pub fn set_up(&mut self, index: u32) -> Result<()> {
        self.request(link(RTM_NEWLINK, 0, index, IFF_UP), format_args!("set link {index} up"))
    }

    /// Lets a bridge's port send a frame back where it came from: a container that asks for a port of the host which
    /// leads to itself.
    pub fn set_hairpin(&mut self, index: u32) -> Result<()> {
        let mut header = link_header(index, 0);
        header[0] = libc::AF_BRIDGE as u8;
        let mut message = Message::new(RTM_SETLINK, 0, &header);
        message.nest(IFLA_PROTINFO, |port| port.attribute(IFLA_BRPORT_MODE, &[1]));
        self.request(message, format_args!("set hairpin mode of link {index}"))
    }

    /// Every link of the namespace.
    pub fn links(&mut self) -> Result<Vec<Link>> {
        let mut links = Vec::new();
        self.dump(Message::new(RTM_GETLINK, 0, &link_header(0, 0)), "list links", |kind, body| {
            if kind == RTM_NEWLINK {
                links.extend(read_link(body));
            }
        })?;
        Ok(links)
    }

    /// The link with this name, if there is one.
    pub fn link(&mut self, name: &str) -> Result<Option<Link>> {
        Ok(self.links()?.into_iter().find(|link| link.name == name))
    }

    /// Adds an address with its prefix length; the kernel adds the route to the subnet.
    pub fn add_address(&mut self, index: u32, address: IpAddr, prefix: u8) -> Result<()> {
        let (family, bytes) = family_and_bytes(address);
        let mut header = vec![family, prefix, 0, 0];
        header.extend_from_slice(&index.to_ne_bytes());
        let mut message = Message::new(RTM_NEWADDR, NLM_F_CREATE | NLM_F_EXCL, &header);
        message.attribute(IFA_LOCAL, &bytes);
        message.attribute(IFA_ADDRESS, &bytes);
        match address {
            IpAddr::V4(address) if prefix < 31 => {
                let host_bits = u32::MAX >> prefix;
                message.attribute(IFA_BROADCAST, &(u32::from(address) | host_bits).to_be_bytes());
            }
            IpAddr::V4(_) => {}
            IpAddr::V6(_) => message.u32(IFA_FLAGS, IFA_F_NODAD),
        }
        self.request(message, format_args!("add address {address}/{prefix} to link {index}"))
    }

    /// Addresses and prefix lengths of all links, with the link's index.
    pub fn addresses(&mut self) -> Result<Vec<(u32, IpAddr, u8)>> {
        let mut found = Vec::new();
        self.dump(Message::new(RTM_GETADDR, 0, &[0; 8]), "list addresses", |_, body| {
            let Some(header) = body.get(..8) else { return };
            let index = u32::from_ne_bytes([header[4], header[5], header[6], header[7]]);
            // IFA_LOCAL where there is one: IFA_ADDRESS is the peer's on point-to-point links.
            let all: Vec<_> = attributes(&body[8..]).collect();
            let value =
                |wanted| all.iter().find(|(kind, _)| *kind == wanted).and_then(|(_, value)| read_address(value));
            found.extend(value(IFA_LOCAL).or_else(|| value(IFA_ADDRESS)).map(|address| (index, address, header[1])));
        })?;
        Ok(found)
    }

    /// A route through a gateway; without a destination the default route.
    pub fn add_route(&mut self, destination: Option<(IpAddr, u8)>, gateway: IpAddr, index: u32) -> Result<()> {
        const RT_TABLE_MAIN: u8 = 254;
        const RTPROT_BOOT: u8 = 3;
        const RTN_UNICAST: u8 = 1;
        let (family, gateway_bytes) = family_and_bytes(gateway);
        let prefix = destination.map_or(0, |(_, prefix)| prefix);
        let header = [family, prefix, 0, 0, RT_TABLE_MAIN, RTPROT_BOOT, 0, RTN_UNICAST, 0, 0, 0, 0];
        let mut message = Message::new(RTM_NEWROUTE, NLM_F_CREATE | NLM_F_EXCL, &header);
        if let Some((destination, _)) = destination {
            message.attribute(RTA_DST, &family_and_bytes(destination).1);
        }
        message.attribute(RTA_GATEWAY, &gateway_bytes);
        message.u32(RTA_OIF, index);
        self.request(message, format_args!("add route via {gateway} on link {index}"))
    }

    /// Destinations of all unicast routes but the default ones: subnets that are taken.
    pub fn destinations(&mut self) -> Result<Vec<(IpAddr, u8)>> {
        let mut found = Vec::new();
        self.dump(Message::new(RTM_GETROUTE, 0, &[0; 12]), "list routes", |_, body| {
            let Some(header) = body.get(..12).filter(|header| header[1] > 0 && header[7] == 1) else { return };
            let destination = attributes(&body[12..]).find(|(kind, _)| *kind == RTA_DST);
            found.extend(destination.and_then(|(_, value)| read_address(value)).map(|address| (address, header[1])));
        })?;
        Ok(found)
    }
}

fn link(kind: u16, flags: u16, index: u32, up: u32) -> Message {
    Message::new(kind, flags, &link_header(index, up))
}

/// `struct ifinfomsg`; the change mask names only IFF_UP.
fn link_header(index: u32, up: u32) -> [u8; 16] {
    let mut header = [0; 16];
    header[4..8].copy_from_slice(&index.to_ne_bytes());
    header[8..12].copy_from_slice(&up.to_ne_bytes());
    header[12..16].copy_from_slice(&up.to_ne_bytes());
    header
}

fn read_link(body: &[u8]) -> Option<Link> {
    let header = body.get(..16)?;
    let number = |at: usize| u32::from_ne_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]);
    let mut link = Link {
        index: number(4),
        name: String::new(),
        up: number(8) & IFF_UP != 0,
        mac: None,
        mtu: 0,
        master: None,
        kind: None,
    };
    let as_u32 = |value: &[u8]| value.try_into().ok().map(u32::from_ne_bytes);
    let text = |value: &[u8]| String::from_utf8_lossy(value).trim_end_matches('\0').to_owned();
    for (kind, value) in attributes(&body[16..]) {
        match kind {
            IFLA_IFNAME => link.name = text(value),
            IFLA_ADDRESS => link.mac = value.try_into().ok(),
            IFLA_MTU => link.mtu = as_u32(value)?,
            IFLA_MASTER => link.master = as_u32(value),
            IFLA_LINKINFO => {
                link.kind = attributes(value).find(|(kind, _)| *kind == IFLA_INFO_KIND).map(|(_, kind)| text(kind));
            }
            _ => {}
        }
    }
    Some(link)
}

fn family_and_bytes(address: IpAddr) -> (u8, Vec<u8>) {
    match address {
        IpAddr::V4(address) => (libc::AF_INET as u8, address.octets().to_vec()),
        IpAddr::V6(address) => (libc::AF_INET6 as u8, address.octets().to_vec()),
    }
}

fn read_address(bytes: &[u8]) -> Option<IpAddr> {
    match bytes.len() {
        4 => <[u8; 4]>::try_from(bytes).ok().map(IpAddr::from),
        16 => <[u8; 16]>::try_from(bytes).ok().map(IpAddr::from),
        _ => None,
    }
}
