//! Connections that the kernel tracks: those of an address that is no longer a container's are forgotten, so that nobody's
//! packets follow an old translation.

use std::net::IpAddr;

use super::{Message, NLM_F_ACK, Socket, attributes};
use crate::{Attempt, Result};

/// `NFNL_SUBSYS_CTNETLINK`.
const SUBSYSTEM: u16 = 1 << 8;
const GET: u16 = SUBSYSTEM | 1;
const DELETE: u16 = SUBSYSTEM | 2;

const CTA_TUPLE_ORIG: u16 = 1;
const CTA_TUPLE_REPLY: u16 = 2;
const CTA_PROTOINFO: u16 = 4;
const CTA_ID: u16 = 12;
const TCP_SYN_SENT: u8 = 1;
const TCP_ESTABLISHED: u8 = 3;
const CTA_TUPLE_IP: u16 = 1;
const CTA_TUPLE_PROTO: u16 = 2;

/// A connection of datagrams or a stream, as it began.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Flow {
    /// 6 is TCP, 17 UDP.
    pub protocol: u8,
    pub source: IpAddr,
    /// What the first packet was sent to.
    pub destination: (IpAddr, u16),
    /// Whose answers are waited for: another one than the destination where that was translated.
    pub answers_from: IpAddr,
    /// A stream that nobody has begun to end.
    pub is_open: bool,
    /// A stream that nobody has answered yet.
    pub is_asking: bool,
}

impl Socket {
    /// Forgets every connection that one of the addresses takes part in. The socket is one of [`Socket::netfilter`].
    pub fn forget_connections(&mut self, addresses: &[IpAddr]) -> Result<()> {
        for ipv4 in [true, false] {
            let of_family: Vec<Vec<u8>> =
                addresses.iter().filter(|address| address.is_ipv4() == ipv4).map(octets).collect();
            if of_family.is_empty() {
                continue;
            }
            self.forget(ipv4, |original, reply, _| {
                of_family.iter().any(|address| names(original, address) || names(reply, address))
            })?;
        }
        Ok(())
    }

    /// Hands every connection to `each`. The socket is one of [`Socket::netfilter`].
    pub fn flows(&mut self, mut each: impl FnMut(&Flow)) -> Result<()> {
        self.forget_flows(|flow| {
            each(flow);
            false
        })
    }

    /// Forgets the connections that are stale. The socket is one of [`Socket::netfilter`].
    pub fn forget_flows(&mut self, mut stale: impl FnMut(&Flow) -> bool) -> Result<()> {
        for ipv4 in [true, false] {
            self.forget(ipv4, |original, reply, state| flow(original, reply, state).is_some_and(|flow| stale(&flow)))?;
        }
        Ok(())
    }

    fn forget(&mut self, ipv4: bool, mut is_meant: impl FnMut(&[u8], &[u8], Option<&[u8]>) -> bool) -> Result<()> {
        let family = if ipv4 { libc::AF_INET } else { libc::AF_INET6 } as u8;
        let mut doomed = Vec::new();
        self.dump(Message::new(GET, 0, &[family, 0, 0, 0]), "list connections", |_, body| {
            let all: Vec<_> = attributes(body.get(4..).unwrap_or_default()).collect();
            let part = |wanted| all.iter().find(|(kind, _)| *kind == wanted).map(|(_, value)| *value);
            let (Some(original), Some(reply)) = (part(CTA_TUPLE_ORIG), part(CTA_TUPLE_REPLY)) else { return };
            if is_meant(original, reply, part(CTA_PROTOINFO)) {
                doomed.push((original.to_vec(), part(CTA_ID).map(<[u8]>::to_vec)));
            }
        })?;
        for (original, id) in doomed {
            let mut message = Message::new(DELETE, 0, &[family, 0, 0, 0]);
            message.nest(CTA_TUPLE_ORIG, |tuple| tuple.bytes.extend_from_slice(&original));
            if let Some(id) = id {
                message.attribute(CTA_ID, &id);
            }
            self.send(message, NLM_F_ACK).attempt("netlink send", format_args!("forget a connection"))?;
            match self.replies(&"forget a connection", |_, _| ()) {
                // It ended meanwhile.
                Err(error) if error.is(crate::Errno::NOENT) => {}
                other => other?,
            }
        }
        Ok(())
    }
}

/// The state of a stream: begun, answered, established, and then the ways to its end.
fn tcp_state(state: &[u8]) -> Option<u8> {
    const TCP: u16 = 1;
    const STATE: u16 = 1;
    let (_, tcp) = attributes(state).find(|(kind, _)| *kind == TCP)?;
    attributes(tcp).find(|(kind, _)| *kind == STATE)?.1.first().copied()
}

/// Addresses are attributes 1 and 2 of a tuple's addresses, or 3 and 4 for IPv6; then protocol and ports.
fn flow(original: &[u8], reply: &[u8], state: Option<&[u8]>) -> Option<Flow> {
    let inside = |bytes: &[u8], outer: u16, wanted: &[u16]| {
        let (_, nest) = attributes(bytes).find(|(kind, _)| *kind == outer)?;
        attributes(nest).find(|(kind, _)| wanted.contains(kind)).map(|(_, value)| value.to_vec())
    };
    let address = |bytes: &[u8], wanted: &[u16]| -> Option<IpAddr> {
        let octets = inside(bytes, CTA_TUPLE_IP, wanted)?;
        match octets.len() {
            4 => <[u8; 4]>::try_from(octets).ok().map(IpAddr::from),
            _ => <[u8; 16]>::try_from(octets).ok().map(IpAddr::from),
        }
    };
    let protocol = inside(original, CTA_TUPLE_PROTO, &[1])?.first().copied()?;
    let port = inside(original, CTA_TUPLE_PROTO, &[3])?;
    Some(Flow {
        protocol,
        source: address(original, &[1, 3])?,
        destination: (address(original, &[2, 4])?, u16::from_be_bytes(port.try_into().ok()?)),
        answers_from: address(reply, &[1, 3])?,
        is_open: state.and_then(tcp_state).is_some_and(|state| (1..=TCP_ESTABLISHED).contains(&state)),
        is_asking: state.and_then(tcp_state) == Some(TCP_SYN_SENT),
    })
}

fn octets(address: &IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    }
}

/// Whether a tuple's source or destination is the address.
fn names(tuple: &[u8], address: &[u8]) -> bool {
    attributes(tuple)
        .filter(|(kind, _)| *kind == CTA_TUPLE_IP)
        .any(|(_, inner)| attributes(inner).any(|(_, value)| value == address))
}
