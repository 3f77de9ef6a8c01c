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
const CTA_ID: u16 = 12;
const CTA_TUPLE_IP: u16 = 1;

impl Socket {
    /// Forgets every connection that one of the addresses takes part in. The socket is one of [`Socket::netfilter`].
    pub fn forget_connections(&mut self, addresses: &[IpAddr]) -> Result<()> {
        for ipv4 in [true, false] {
            let of_family: Vec<Vec<u8>> =
                addresses.iter().filter(|address| address.is_ipv4() == ipv4).map(octets).collect();
            if of_family.is_empty() {
                continue;
            }
            let family = if ipv4 { libc::AF_INET } else { libc::AF_INET6 } as u8;
            let mut doomed = Vec::new();
            self.dump(Message::new(GET, 0, &[family, 0, 0, 0]), "list connections", |_, body| {
                let all: Vec<_> = attributes(body.get(4..).unwrap_or_default()).collect();
                let part = |wanted| all.iter().find(|(kind, _)| *kind == wanted).map(|(_, value)| *value);
                let (Some(original), Some(reply)) = (part(CTA_TUPLE_ORIG), part(CTA_TUPLE_REPLY)) else { return };
                if of_family.iter().any(|address| names(original, address) || names(reply, address)) {
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
        }
        Ok(())
    }
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
