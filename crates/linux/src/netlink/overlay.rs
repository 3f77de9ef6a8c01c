//! What carries packets between machines (rtnetlink(7)): routes of ours, told by their protocol, VXLAN links, neighbours and
//! forwarding entries that are said and not learned.

use std::net::IpAddr;

use super::route::{
    IFLA_ADDRESS, IFLA_IFNAME, IFLA_INFO_DATA, IFLA_INFO_KIND, IFLA_LINKINFO, IFLA_MTU, Mac, RTA_DST, RTA_GATEWAY,
    RTA_OIF, RTM_DELROUTE, RTM_GETROUTE, RTM_NEWLINK, RTM_NEWROUTE, family_and_bytes, link, read_address,
};
use super::{Message, NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE, Socket, attributes};
use crate::Result;

const RTM_NEWNEIGH: u16 = 28;
const RTM_DELNEIGH: u16 = 29;
const RTA_PREFSRC: u16 = 7;
const RT_TABLE_MAIN: u8 = 254;
const RTN_UNICAST: u8 = 1;
const RTNH_F_ONLINK: u32 = 4;
const NDA_DST: u16 = 1;
const NDA_LLADDR: u16 = 2;
const NUD_PERMANENT: u16 = 0x80;
const NTF_SELF: u8 = 2;
const IFF_UP: u32 = 1;
const IFLA_VXLAN_ID: u16 = 1;
const IFLA_VXLAN_LOCAL: u16 = 4;
const IFLA_VXLAN_LEARNING: u16 = 7;
const IFLA_VXLAN_PORT: u16 = 15;
const IFLA_VXLAN_LOCAL6: u16 = 17;

/// A VXLAN link, whose peers are told one by one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Vxlan<'a> {
    pub name: &'a str,
    /// 24 bits.
    pub id: u32,
    /// This machine's address; packets come from it.
    pub local: IpAddr,
    pub port: u16,
    pub mac: Mac,
    /// Bytes.
    pub mtu: u32,
}

/// A route through another machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Via {
    pub destination: IpAddr,
    pub prefix: u8,
    pub gateway: IpAddr,
    pub link: u32,
    /// The gateway is there whatever the link's addresses say.
    pub onlink: bool,
    /// The address that this machine's own packets get.
    pub source: Option<IpAddr>,
}

impl Socket {
    /// Makes a VXLAN link that is up. Fails with EEXIST where an interface has that name.
    pub fn add_vxlan(&mut self, vxlan: &Vxlan<'_>) -> Result<()> {
        let mut message = link(RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, 0, IFF_UP);
        message.string(IFLA_IFNAME, vxlan.name);
        message.attribute(IFLA_ADDRESS, &vxlan.mac);
        message.u32(IFLA_MTU, vxlan.mtu);
        message.nest(IFLA_LINKINFO, |info| {
            info.string(IFLA_INFO_KIND, "vxlan");
            info.nest(IFLA_INFO_DATA, |data| {
                data.u32(IFLA_VXLAN_ID, vxlan.id);
                let local = if vxlan.local.is_ipv4() { IFLA_VXLAN_LOCAL } else { IFLA_VXLAN_LOCAL6 };
                data.attribute(local, &family_and_bytes(vxlan.local).1);
                data.attribute(IFLA_VXLAN_LEARNING, &[0]);
                data.attribute(IFLA_VXLAN_PORT, &vxlan.port.to_be_bytes());
            });
        });
        self.request(message, format_args!("add vxlan {} of {}", vxlan.name, vxlan.local))
    }

    /// Adds a route, or makes the one to this destination be this.
    pub fn set_route(&mut self, via: &Via, protocol: u8) -> Result<()> {
        let (family, gateway) = family_and_bytes(via.gateway);
        let mut header = [family, via.prefix, 0, 0, RT_TABLE_MAIN, protocol, 0, RTN_UNICAST, 0, 0, 0, 0];
        if via.onlink {
            header[8..].copy_from_slice(&RTNH_F_ONLINK.to_ne_bytes());
        }
        let mut message = Message::new(RTM_NEWROUTE, NLM_F_CREATE | NLM_F_REPLACE, &header);
        message.attribute(RTA_DST, &family_and_bytes(via.destination).1);
        message.attribute(RTA_GATEWAY, &gateway);
        message.u32(RTA_OIF, via.link);
        if let Some(source) = via.source {
            message.attribute(RTA_PREFSRC, &family_and_bytes(source).1);
        }
        let (to, prefix, through) = (via.destination, via.prefix, via.gateway);
        self.request(message, format_args!("set route to {to}/{prefix} via {through} on link {}", via.link))
    }

    pub fn delete_route(&mut self, destination: IpAddr, prefix: u8, protocol: u8) -> Result<()> {
        let (family, bytes) = family_and_bytes(destination);
        let header = [family, prefix, 0, 0, RT_TABLE_MAIN, protocol, 255, 0, 0, 0, 0, 0];
        let mut message = Message::new(RTM_DELROUTE, 0, &header);
        message.attribute(RTA_DST, &bytes);
        self.request(message, format_args!("delete route to {destination}/{prefix}"))
    }

    /// Destinations of all routes that carry this protocol.
    pub fn routes_of(&mut self, protocol: u8) -> Result<Vec<(IpAddr, u8)>> {
        let mut found = Vec::new();
        self.dump(Message::new(RTM_GETROUTE, 0, &[0; 12]), "list routes", |_, body| {
            let Some(header) = body.get(..12).filter(|header| header[5] == protocol) else { return };
            let destination = attributes(&body[12..]).find(|(kind, _)| *kind == RTA_DST);
            found.extend(destination.and_then(|(_, value)| read_address(value)).map(|address| (address, header[1])));
        })?;
        Ok(found)
    }

    /// Says which hardware address a neighbour has.
    pub fn set_neighbour(&mut self, link: u32, address: IpAddr, mac: Mac) -> Result<()> {
        let (family, bytes) = family_and_bytes(address);
        let mut message = Message::new(RTM_NEWNEIGH, NLM_F_CREATE | NLM_F_REPLACE, &neighbour(family, link, 0));
        message.attribute(NDA_DST, &bytes);
        message.attribute(NDA_LLADDR, &mac);
        self.request(message, format_args!("set neighbour {address} on link {link}"))
    }

    pub fn delete_neighbour(&mut self, link: u32, address: IpAddr) -> Result<()> {
        let (family, bytes) = family_and_bytes(address);
        let mut message = Message::new(RTM_DELNEIGH, 0, &neighbour(family, link, 0));
        message.attribute(NDA_DST, &bytes);
        self.request(message, format_args!("delete neighbour {address} on link {link}"))
    }

    /// Says behind which machine a hardware address is, on a VXLAN link.
    pub fn set_forwarding(&mut self, link: u32, mac: Mac, machine: IpAddr) -> Result<()> {
        let header = neighbour(libc::AF_BRIDGE as u8, link, NTF_SELF);
        let mut message = Message::new(RTM_NEWNEIGH, NLM_F_CREATE | NLM_F_REPLACE, &header);
        message.attribute(NDA_LLADDR, &mac);
        message.attribute(NDA_DST, &family_and_bytes(machine).1);
        self.request(message, format_args!("set forwarding to {machine} on link {link}"))
    }

    pub fn delete_forwarding(&mut self, link: u32, mac: Mac) -> Result<()> {
        let mut message = Message::new(RTM_DELNEIGH, 0, &neighbour(libc::AF_BRIDGE as u8, link, NTF_SELF));
        message.attribute(NDA_LLADDR, &mac);
        self.request(message, format_args!("delete a forwarding entry on link {link}"))
    }
}

/// `struct ndmsg`.
fn neighbour(family: u8, link: u32, flags: u8) -> [u8; 12] {
    let mut header = [0; 12];
    header[0] = family;
    header[4..8].copy_from_slice(&link.to_ne_bytes());
    header[8..10].copy_from_slice(&NUD_PERMANENT.to_ne_bytes());
    header[10] = flags;
    header
}
