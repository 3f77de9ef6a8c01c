//! Links, addresses and routes (rtnetlink(7)): the few requests that container networks are made of.

use std::net::IpAddr;
use std::os::fd::{AsFd, AsRawFd};

use super::{Message, NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE, Socket, attributes};
use crate::Result;

pub(super) const RTM_NEWLINK: u16 = 16;
const RTM_DELLINK: u16 = 17;
const RTM_GETLINK: u16 = 18;
const RTM_SETLINK: u16 = 19;
const RTM_NEWADDR: u16 = 20;
const RTM_DELADDR: u16 = 21;
const RTM_GETADDR: u16 = 22;
pub(super) const RTM_NEWROUTE: u16 = 24;
pub(super) const RTM_DELROUTE: u16 = 25;
pub(super) const RTM_GETROUTE: u16 = 26;
const RTM_NEWQDISC: u16 = 36;
const TC_LINKLAYER_ETHERNET: u8 = 1;

pub(super) const IFLA_ADDRESS: u16 = 1;
pub(super) const IFLA_IFNAME: u16 = 3;
pub(super) const IFLA_MTU: u16 = 4;
const IFLA_LINK: u16 = 5;
const IFLA_MASTER: u16 = 10;
const IFLA_PROTINFO: u16 = 12;
const IFLA_BRPORT_MODE: u16 = 4;
const IFLA_BRPORT_ISOLATED: u16 = 33;
pub(super) const IFLA_LINKINFO: u16 = 18;
const IFLA_NET_NS_FD: u16 = 28;
pub(super) const IFLA_INFO_KIND: u16 = 1;
pub(super) const IFLA_INFO_DATA: u16 = 2;
const VETH_INFO_PEER: u16 = 1;
const IFLA_MACVLAN_MODE: u16 = 1;
const IFLA_IPVLAN_MODE: u16 = 1;

const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
const IFA_BROADCAST: u16 = 4;
const IFA_FLAGS: u16 = 8;
/// Duplicate address detection would keep a new container's address unusable for a second.
const IFA_F_NODAD: u32 = 2;

pub(super) const RTA_DST: u16 = 1;
pub(super) const RTA_OIF: u16 = 4;
pub(super) const RTA_GATEWAY: u16 = 5;

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

/// What a container's interface on a parent of the host is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum VlanKind {
    /// An address of its own on the parent's wire; the number is the kernel's mode (1 private, 2 VEPA, 4 bridge, 8 passthru).
    Macvlan(u32),
    /// The parent's MAC address, told apart by IP address; the number is the kernel's mode (0 L2, 1 L3, 2 L3S).
    Ipvlan(u16),
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

    /// Makes a pair whose ends are ports of two bridges of this namespace, both up.
    pub fn add_pair(&mut self, name: &str, master: u32, peer: &str, peer_master: u32, mtu: Option<u32>) -> Result<()> {
        let mut message = link(RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, 0, IFF_UP);
        message.string(IFLA_IFNAME, name);
        message.u32(IFLA_MASTER, master);
        if let Some(mtu) = mtu {
            message.u32(IFLA_MTU, mtu);
        }
        message.nest(IFLA_LINKINFO, |info| {
            info.string(IFLA_INFO_KIND, "veth");
            info.nest(IFLA_INFO_DATA, |data| {
                data.nest(VETH_INFO_PEER, |inner| {
                    inner.bytes.extend_from_slice(&link_header(0, 0));
                    inner.string(IFLA_IFNAME, peer);
                    if let Some(mtu) = mtu {
                        inner.u32(IFLA_MTU, mtu);
                    }
                });
            });
        });
        self.request(message, format_args!("add pair {name}, {peer}"))?;
        let peer_index = self.link(peer)?.map(|link| link.index);
        let missing = || crate::Error::new("netlink", format_args!("find link {peer}"), crate::Errno::NODEV);
        // Up only now: before the pair is whole an end cannot be.
        let mut message = Message::new(RTM_SETLINK, 0, &link_header(peer_index.ok_or_else(missing)?, IFF_UP));
        message.u32(IFLA_MASTER, peer_master);
        self.request(message, format_args!("make {peer} a port of link {peer_master}"))
    }

    /// Removes a link; of a veth pair both ends go.
    pub fn delete_link(&mut self, index: u32) -> Result<()> {
        self.request(link(RTM_DELLINK, 0, index, 0), format_args!("delete link {index}"))
    }

    pub fn set_up(&mut self, index: u32) -> Result<()> {
        self.request(link(RTM_NEWLINK, 0, index, IFF_UP), format_args!("set link {index} up"))
    }

    /// Makes an interface on top of another one, in a network namespace, down and without address.
    pub fn add_vlan(
        &mut self,
        name: &str,
        parent: u32,
        kind: VlanKind,
        netns: impl AsFd,
        mac: Option<Mac>,
        mtu: Option<u32>,
    ) -> Result<()> {
        let mut message = link(RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, 0, 0);
        message.string(IFLA_IFNAME, name);
        message.u32(IFLA_LINK, parent);
        message.u32(IFLA_NET_NS_FD, netns.as_fd().as_raw_fd() as u32);
        if let Some(mac) = mac {
            message.attribute(IFLA_ADDRESS, &mac);
        }
        if let Some(mtu) = mtu {
            message.u32(IFLA_MTU, mtu);
        }
        message.nest(IFLA_LINKINFO, |info| match kind {
            VlanKind::Macvlan(mode) => {
                info.string(IFLA_INFO_KIND, "macvlan");
                info.nest(IFLA_INFO_DATA, |data| data.u32(IFLA_MACVLAN_MODE, mode));
            }
            VlanKind::Ipvlan(mode) => {
                info.string(IFLA_INFO_KIND, "ipvlan");
                info.nest(IFLA_INFO_DATA, |data| data.attribute(IFLA_IPVLAN_MODE, &mode.to_ne_bytes()));
            }
        });
        self.request(message, format_args!("add {kind:?} {name} on link {parent}"))
    }

    /// Keeps a bridge's port from reaching other ports that are kept so as well.
    pub fn set_isolated(&mut self, index: u32) -> Result<()> {
        let mut header = link_header(index, 0);
        header[0] = libc::AF_BRIDGE as u8;
        let mut message = Message::new(RTM_SETLINK, 0, &header);
        message.nest(IFLA_PROTINFO, |port| port.attribute(IFLA_BRPORT_ISOLATED, &[1]));
        self.request(message, format_args!("isolate link {index}"))
    }

    /// Limits what a link sends to `bytes_per_second`, with a token bucket that holds `burst_bytes`.
    pub fn limit_sending(&mut self, index: u32, bytes_per_second: u64, burst_bytes: u32) -> Result<()> {
        const TC_H_ROOT: u32 = 0xffff_ffff;
        const TCA_KIND: u16 = 1;
        const TCA_OPTIONS: u16 = 2;
        const TCA_TBF_PARMS: u16 = 1;
        const TCA_TBF_RATE64: u16 = 4;
        const TCA_TBF_BURST: u16 = 6;
        let mut message =
            Message::new(RTM_NEWQDISC, NLM_F_CREATE | NLM_F_REPLACE, &traffic_header(index, TC_H_ROOT, 0));
        message.string(TCA_KIND, "tbf");
        // struct tc_tbf_qopt: rate and peak rate (struct tc_ratespec, 12 bytes each), limit, buffer, mtu.
        let mut options = [0; 36];
        options[8..12].copy_from_slice(&u32::try_from(bytes_per_second).unwrap_or(u32::MAX).to_ne_bytes());
        options[1] = TC_LINKLAYER_ETHERNET;
        options[24..28].copy_from_slice(&burst_bytes.saturating_mul(4).to_ne_bytes());
        message.nest(TCA_OPTIONS, |inner| {
            inner.attribute(TCA_TBF_PARMS, &options);
            if bytes_per_second > u64::from(u32::MAX) {
                inner.attribute(TCA_TBF_RATE64, &bytes_per_second.to_ne_bytes());
            }
            inner.u32(TCA_TBF_BURST, burst_bytes);
        });
        self.request(message, format_args!("limit link {index} to {bytes_per_second} bytes a second"))
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

    /// The link with this name, if there is one. The kernel looks it up: the number of links does not matter.
    pub fn link(&mut self, name: &str) -> Result<Option<Link>> {
        let mut message = Message::new(RTM_GETLINK, 0, &link_header(0, 0));
        message.string(IFLA_IFNAME, name);
        let mut found = None;
        let asked = self.fetch(message, format_args!("find link {name}"), |kind, body| {
            if kind == RTM_NEWLINK {
                found = read_link(body);
            }
        });
        match asked {
            Ok(()) => Ok(found),
            Err(error) if error.is(crate::Errno::NODEV) => Ok(None),
            Err(error) => Err(error),
        }
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

    /// Takes an address away from a link.
    pub fn delete_address(&mut self, index: u32, address: IpAddr, prefix: u8) -> Result<()> {
        let (family, bytes) = family_and_bytes(address);
        let mut header = vec![family, prefix, 0, 0];
        header.extend_from_slice(&index.to_ne_bytes());
        let mut message = Message::new(RTM_DELADDR, 0, &header);
        message.attribute(IFA_LOCAL, &bytes);
        message.attribute(IFA_ADDRESS, &bytes);
        self.request(message, format_args!("take address {address}/{prefix} from link {index}"))
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

    /// A route to what is reached on a link directly.
    pub fn add_link_route(&mut self, destination: IpAddr, prefix: u8, index: u32) -> Result<()> {
        const RT_TABLE_MAIN: u8 = 254;
        const RTPROT_BOOT: u8 = 3;
        const RT_SCOPE_LINK: u8 = 253;
        const RTN_UNICAST: u8 = 1;
        let (family, bytes) = family_and_bytes(destination);
        let scope = if destination.is_ipv4() { RT_SCOPE_LINK } else { 0 };
        let header = [family, prefix, 0, 0, RT_TABLE_MAIN, RTPROT_BOOT, scope, RTN_UNICAST, 0, 0, 0, 0];
        let mut message = Message::new(RTM_NEWROUTE, NLM_F_CREATE | NLM_F_EXCL, &header);
        message.attribute(RTA_DST, &bytes);
        message.u32(RTA_OIF, index);
        self.request(message, format_args!("add route to {destination}/{prefix} on link {index}"))
    }

    /// Removes the default route of an address family, wherever it leads; no error where there is none.
    pub fn delete_default_route(&mut self, ipv4: bool) -> Result<()> {
        const RT_TABLE_MAIN: u8 = 254;
        const RT_SCOPE_NOWHERE: u8 = 255;
        let family = if ipv4 { libc::AF_INET } else { libc::AF_INET6 } as u8;
        // An IPv6 removal matches the scope; IPv4 takes "nowhere" for any.
        let scope = if ipv4 { RT_SCOPE_NOWHERE } else { 0 };
        let header = [family, 0, 0, 0, RT_TABLE_MAIN, 0, scope, 0, 0, 0, 0, 0];
        match self.request(Message::new(RTM_DELROUTE, 0, &header), "delete the default route") {
            Err(error) if error.is(crate::Errno::SRCH) || error.is(crate::Errno::NOENT) => Ok(()),
            other => other,
        }
    }

    /// A route to a range of addresses that are on nobody's link: what goes there is to be led elsewhere on its way. Where this
    /// machine asks, it does so from `source`.
    pub fn add_range(&mut self, destination: IpAddr, prefix: u8, index: u32, source: Option<IpAddr>) -> Result<()> {
        const RT_TABLE_MAIN: u8 = 254;
        const RTPROT_STATIC: u8 = 4;
        const RT_SCOPE_LINK: u8 = 253;
        const RTN_UNICAST: u8 = 1;
        const RTA_PREFSRC: u16 = 7;
        let (family, bytes) = family_and_bytes(destination);
        let scope = if destination.is_ipv4() { RT_SCOPE_LINK } else { 0 };
        let header = [family, prefix, 0, 0, RT_TABLE_MAIN, RTPROT_STATIC, scope, RTN_UNICAST, 0, 0, 0, 0];
        let mut message = Message::new(RTM_NEWROUTE, NLM_F_CREATE | super::NLM_F_REPLACE, &header);
        message.attribute(RTA_DST, &bytes);
        message.u32(RTA_OIF, index);
        if let Some(source) = source {
            message.attribute(RTA_PREFSRC, &family_and_bytes(source).1);
        }
        self.request(message, format_args!("add route to {destination}/{prefix} on link {index}"))
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

pub(super) fn link(kind: u16, flags: u16, index: u32, up: u32) -> Message {
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

/// `struct tcmsg`.
fn traffic_header(index: u32, parent: u32, handle: u32) -> [u8; 20] {
    let mut header = [0; 20];
    header[4..8].copy_from_slice(&index.to_ne_bytes());
    header[8..12].copy_from_slice(&handle.to_ne_bytes());
    header[12..16].copy_from_slice(&parent.to_ne_bytes());
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

pub(super) fn family_and_bytes(address: IpAddr) -> (u8, Vec<u8>) {
    match address {
        IpAddr::V4(address) => (libc::AF_INET as u8, address.octets().to_vec()),
        IpAddr::V6(address) => (libc::AF_INET6 as u8, address.octets().to_vec()),
    }
}

pub(super) fn read_address(bytes: &[u8]) -> Option<IpAddr> {
    match bytes.len() {
        4 => <[u8; 4]>::try_from(bytes).ok().map(IpAddr::from),
        16 => <[u8; 16]>::try_from(bytes).ok().map(IpAddr::from),
        _ => None,
    }
}
