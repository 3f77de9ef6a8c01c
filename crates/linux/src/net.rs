//! Small things about networks: a new namespace's loopback, and ports that are held. Links, addresses, routes and rules are
//! [`crate::netlink`]'s.

use std::net::Ipv4Addr;
use std::os::fd::OwnedFd;

use rustix::io::Errno;
use rustix::net::addr::{SocketAddrArg, SocketAddrLen, SocketAddrOpaque};
use rustix::net::{AddressFamily, SendFlags, SocketAddrUnix, SocketFlags, SocketType};

use crate::netlink::Socket;
use crate::netlink::nft::Protocol;
use crate::netlink::route::Mac;
use crate::{Attempt, Result};

/// Brings `lo` of the calling thread's network namespace up (one rtnetlink request). It is interface 1 in every namespace.
pub fn loopback_up() -> Result<()> {
    Socket::route()?.set_up(1)
}

/// Takes a port of this machine without ever answering on it: bound, not listening, and not to be shared. Port 0 lets the
/// kernel choose. Returns the port.
pub fn hold_port(protocol: Protocol, address: std::net::SocketAddr) -> Result<(OwnedFd, u16)> {
    let kind = match protocol {
        Protocol::Tcp => SocketType::STREAM,
        Protocol::Udp => SocketType::DGRAM,
        Protocol::Sctp => return Err(crate::Error::new("bind", "SCTP", Errno::PROTONOSUPPORT)),
    };
    let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let fd = rustix::net::socket_with(family, kind, SocketFlags::CLOEXEC, None)
        .attempt("socket", format_args!("{family:?}, {kind:?}"))?;
    if address.is_ipv6() {
        // "::" must not take the IPv4 port along: that one is published by itself.
        rustix::net::sockopt::set_ipv6_v6only(&fd, true).attempt("setsockopt", format_args!("IPV6_V6ONLY"))?;
    }
    rustix::net::bind(&fd, &address).attempt("bind", format_args!("{address}"))?;
    let bound = rustix::net::getsockname(&fd).attempt("getsockname", format_args!("{address}"))?;
    let bound = std::net::SocketAddr::try_from(bound).attempt("getsockname", format_args!("{address}"))?;
    Ok((fd, bound.port()))
}

/// Takes an abstract name that one descriptor of this network namespace can have at a time: a lock that ends with its holder.
/// EADDRINUSE while somebody has it.
pub fn claim(name: &[u8]) -> Result<OwnedFd> {
    let what = format_args!("abstract {}", String::from_utf8_lossy(name));
    let address = SocketAddrUnix::new_abstract_name(name).attempt("bind", what)?;
    let fd = rustix::net::socket_with(AddressFamily::UNIX, SocketType::DGRAM, SocketFlags::CLOEXEC, None)
        .attempt("socket", format_args!("UNIX, DGRAM"))?;
    rustix::net::bind(&fd, &address).attempt("bind", what)?;
    Ok(fd)
}

const ETH_P_ARP: u16 = 0x0806;

/// Tells everybody on a link that this address is at this machine now (a gratuitous ARP request): who knew it elsewhere turns here at once.
pub fn announce(link: u32, mac: Mac, address: Ipv4Addr) -> Result<()> {
    let what = format_args!("{address} on link {link}");
    let fd = rustix::net::socket_with(AddressFamily::PACKET, SocketType::DGRAM, SocketFlags::CLOEXEC, None)
        .attempt("socket", format_args!("PACKET, DGRAM"))?;
    rustix::net::sendto(&fd, &arp_request(mac, address), SendFlags::empty(), &Broadcast { link })
        .attempt("sendto", what)?;
    Ok(())
}

/// Ethernet and IPv4, sender and target the same.
fn arp_request(mac: Mac, address: Ipv4Addr) -> Vec<u8> {
    let mut message = vec![0, 1, 0x08, 0, 6, 4, 0, 1];
    message.extend(mac);
    message.extend(address.octets());
    message.extend([0; 6]);
    message.extend(address.octets());
    message
}

/// Every station of a link.
struct Broadcast {
    link: u32,
}

// SAFETY: the pointer is to a whole sockaddr_ll (packet(7)) that outlives the call, with its length.
unsafe impl SocketAddrArg for Broadcast {
    unsafe fn with_sockaddr<R>(&self, f: impl FnOnce(*const SocketAddrOpaque, SocketAddrLen) -> R) -> R {
        let address = libc::sockaddr_ll {
            sll_family: libc::AF_PACKET as u16,
            sll_protocol: ETH_P_ARP.to_be(),
            sll_ifindex: self.link as i32,
            sll_hatype: 0,
            sll_pkttype: 0,
            sll_halen: 6,
            sll_addr: [0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0, 0],
        };
        f((&raw const address).cast(), size_of::<libc::sockaddr_ll>() as SocketAddrLen)
    }
}
