//! Netlink: one socket type and one message builder for links, addresses and routes ([`route`]), for what carries packets between machines ([`overlay`]), for nftables ([`nft`]) and for
//! tracked connections ([`conntrack`]); [`watch`] hears of changes that others make.
//!
//! A socket belongs to the network namespace in which it was made, so that one thread can configure many namespaces:
//! [`Socket::route_in`] makes one elsewhere.

pub mod conntrack;
pub mod nft;
pub mod overlay;
pub mod route;
pub mod watch;

use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use rustix::io::Errno;
use rustix::net::netlink::{self, SocketAddrNetlink};
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType};

use crate::ns::{self, Namespaces};
use crate::{Attempt, Error, Result};

const NLM_F_REQUEST: u16 = 1;
const NLM_F_ACK: u16 = 4;
const NLM_F_DUMP: u16 = 0x300;
const NLM_F_CREATE: u16 = 0x400;
const NLM_F_EXCL: u16 = 0x200;
const NLM_F_REPLACE: u16 = 0x100;
const NLM_F_APPEND: u16 = 0x800;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const NLA_F_NESTED: u16 = 1 << 15;
const NLA_TYPE_MASK: u16 = 0x3fff;
const HEADER: usize = 16;

/// A netlink socket. One request at a time.
#[derive(Debug)]
pub struct Socket {
    fd: OwnedFd,
    sequence: u32,
}

impl Socket {
    /// For links, addresses and routes of the calling thread's network namespace.
    pub fn route() -> Result<Self> {
        Self::open(None, "ROUTE")
    }

    /// For nftables of the calling thread's network namespace.
    pub fn netfilter() -> Result<Self> {
        Self::open(Some(netlink::NETFILTER), "NETFILTER")
    }

    /// As [`Socket::route`], in the network namespace behind a descriptor. The caller's own namespace does not change: a thread
    /// that lives for this call only goes there.
    pub fn route_in(netns: impl AsFd) -> Result<Self> {
        let netns = netns.as_fd();
        std::thread::scope(|scope| {
            let inside = scope.spawn(|| ns::setns(netns, Namespaces::NET).and_then(|()| Self::route()));
            inside.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    /// The number under which the kernel tells others what this socket changed.
    pub fn port(&self) -> Result<u32> {
        let name = rustix::net::getsockname(&self.fd).attempt("getsockname", format_args!("NETLINK"))?;
        Ok(SocketAddrNetlink::try_from(name).attempt("getsockname", format_args!("NETLINK"))?.pid())
    }

    fn open(protocol: Option<rustix::net::Protocol>, name: &str) -> Result<Self> {
        let fd = rustix::net::socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, protocol)
            .attempt("socket", format_args!("NETLINK, {name}"))?;
        // Explanations in words, and no echo of the request; kernels without either only say less.
        let _ = set_option(&fd, libc::NETLINK_EXT_ACK);
        let _ = set_option(&fd, libc::NETLINK_CAP_ACK);
        rustix::net::bind(&fd, &SocketAddrNetlink::new(0, 0)).attempt("bind", format_args!("NETLINK, {name}"))?;
        Ok(Self { fd, sequence: 0 })
    }

    /// Sends one request and waits for its acknowledgement.
    fn request(&mut self, message: Message, what: impl std::fmt::Display) -> Result<()> {
        self.send(message, NLM_F_ACK).attempt("netlink send", format_args!("{what}"))?;
        self.replies(&what, |_, _| ())
    }

    /// Sends one request, hands what it is answered with to `each`, and waits for its acknowledgement.
    fn fetch(&mut self, message: Message, what: impl std::fmt::Display, each: impl FnMut(u16, &[u8])) -> Result<()> {
        self.send(message, NLM_F_ACK).attempt("netlink send", format_args!("{what}"))?;
        self.replies(&what, each)
    }

    /// Sends a dump request and hands every answer's type and body (after the netlink header) to `each`.
    fn dump(&mut self, message: Message, what: impl std::fmt::Display, each: impl FnMut(u16, &[u8])) -> Result<()> {
        self.send(message, NLM_F_DUMP).attempt("netlink send", format_args!("{what}"))?;
        self.replies(&what, each)
    }

    fn send(&mut self, mut message: Message, flags: u16) -> std::result::Result<(), Errno> {
        self.sequence = self.sequence.wrapping_add(1);
        message.finish(flags, self.sequence);
        self.send_bytes(&message.bytes)
    }

    fn send_bytes(&self, bytes: &[u8]) -> std::result::Result<(), Errno> {
        let sent = rustix::io::retry_on_intr(|| rustix::net::send(&self.fd, bytes, SendFlags::empty()))?;
        if sent == bytes.len() { Ok(()) } else { Err(Errno::MSGSIZE) }
    }

    fn replies(&mut self, what: &dyn std::fmt::Display, mut each: impl FnMut(u16, &[u8])) -> Result<()> {
        let mut buffer = vec![0; 64 << 10];
        loop {
            let received =
                rustix::io::retry_on_intr(|| rustix::net::recv(&self.fd, &mut buffer[..], RecvFlags::empty()));
            let (length, _) = received.attempt("netlink recv", format_args!("{what}"))?;
            for (kind, sequence, body) in messages(&buffer[..length]) {
                // An answer to a request whose caller gave up on an error before.
                if sequence != self.sequence {
                    continue;
                }
                match kind {
                    NLMSG_ERROR => return verdict(body, what),
                    NLMSG_DONE => return Ok(()),
                    _ => each(kind, body),
                }
            }
        }
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

fn set_option(fd: &OwnedFd, option: i32) -> std::result::Result<(), Errno> {
    let on: i32 = 1;
    // SAFETY: the pointer and length are those of a live i32, which the kernel only reads.
    let ret = unsafe {
        libc::setsockopt(
            fd.as_raw_fd(),
            libc::SOL_NETLINK,
            option,
            (&raw const on).cast(),
            size_of::<i32>() as libc::socklen_t,
        )
    };
    crate::sys::check(ret.into()).map(drop)
}

/// Type, sequence and body of each whole message in what was received.
fn messages(mut bytes: &[u8]) -> impl Iterator<Item = (u16, u32, &[u8])> {
    std::iter::from_fn(move || {
        let length = u32::from_ne_bytes(bytes.get(..4)?.try_into().ok()?) as usize;
        let (header, body) = (bytes.get(..HEADER)?, bytes.get(HEADER..length)?);
        let kind = u16::from_ne_bytes(header[4..6].try_into().ok()?);
        let sequence = u32::from_ne_bytes(header[8..12].try_into().ok()?);
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, sequence, body))
    })
}

/// What an error message says: 0 is the acknowledgement. Its text, where there is one, is attribute 1 after the header that
/// it answers.
fn verdict(body: &[u8], what: &dyn std::fmt::Display) -> Result<()> {
    let code = body.get(..4).and_then(|code| code.try_into().ok()).map_or(-libc::EPROTO, i32::from_ne_bytes);
    if code == 0 {
        return Ok(());
    }
    let text = attributes(body.get(4 + HEADER..).unwrap_or_default())
        .find(|(kind, _)| *kind == 1)
        .map(|(_, text)| format!(" ({})", String::from_utf8_lossy(text).trim_end_matches('\0')))
        .unwrap_or_default();
    Err(Error::new("netlink", format_args!("{what}{text}"), Errno::from_raw_os_error(-code)))
}

/// Type and value of each attribute.
fn attributes(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let length = u16::from_ne_bytes(bytes.get(..2)?.try_into().ok()?) as usize;
        let kind = u16::from_ne_bytes(bytes.get(2..4)?.try_into().ok()?) & NLA_TYPE_MASK;
        let value = bytes.get(4..length)?;
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, value))
    })
}

/// One request being written.
struct Message {
    bytes: Vec<u8>,
}

impl Message {
    /// `header` is the fixed part that follows the netlink header.
    fn new(kind: u16, flags: u16, header: &[u8]) -> Self {
        let mut bytes = vec![0; HEADER];
        bytes[4..6].copy_from_slice(&kind.to_ne_bytes());
        bytes[6..8].copy_from_slice(&(NLM_F_REQUEST | flags).to_ne_bytes());
        bytes.extend_from_slice(header);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        Self { bytes }
    }

    fn attribute(&mut self, kind: u16, value: &[u8]) {
        self.bytes.extend_from_slice(&((value.len() + 4) as u16).to_ne_bytes());
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        self.bytes.extend_from_slice(value);
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }

    /// A string with the NUL byte that ends it.
    fn string(&mut self, kind: u16, value: &str) {
        let mut bytes = value.as_bytes().to_vec();
        bytes.push(0);
        self.attribute(kind, &bytes);
    }

    fn u32(&mut self, kind: u16, value: u32) {
        self.attribute(kind, &value.to_ne_bytes());
    }

    /// nftables speaks network byte order.
    fn be32(&mut self, kind: u16, value: u32) {
        self.attribute(kind, &value.to_be_bytes());
    }

    fn nest(&mut self, kind: u16, inside: impl FnOnce(&mut Self)) {
        let start = self.bytes.len();
        self.attribute(kind | NLA_F_NESTED, &[]);
        inside(self);
        let length = (self.bytes.len() - start) as u16;
        self.bytes[start..start + 2].copy_from_slice(&length.to_ne_bytes());
    }

    fn finish(&mut self, flags: u16, sequence: u32) {
        let length = self.bytes.len() as u32;
        self.bytes[..4].copy_from_slice(&length.to_ne_bytes());
        let flags = u16::from_ne_bytes([self.bytes[6], self.bytes[7]]) | flags;
        self.bytes[6..8].copy_from_slice(&flags.to_ne_bytes());
        self.bytes[8..12].copy_from_slice(&sequence.to_ne_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nested_attributes_read_back() {
        let mut message = Message::new(1, 0, &[7; 3]);
        message.nest(5, |inner| {
            inner.string(1, "eth0");
            inner.u32(2, 9);
        });
        message.finish(NLM_F_ACK, 3);
        let (kind, sequence, body) = messages(&message.bytes).next().unwrap();
        assert_eq!((kind, sequence, &body[..4]), (1, 3, &[7, 7, 7, 0][..]));
        let (kind, nest) = attributes(&body[4..]).next().unwrap();
        let inner: Vec<_> = attributes(nest).collect();
        assert_eq!((kind, inner), (5, vec![(1, &b"eth0\0"[..]), (2, &9u32.to_ne_bytes()[..])]));
    }

    #[test]
    fn cut_input_ends_the_walk() {
        assert_eq!(messages(&[40, 0, 0, 0, 1, 2]).count(), 0);
        assert_eq!(attributes(&[9, 0, 1, 0, 5]).count(), 0);
        assert_eq!(attributes(&[0, 0, 0, 0, 0, 0, 0, 0]).count(), 0, "a length of zero must not loop");
    }
}
