//! Hearing of changes to nftables: somebody else may flush the ruleset, and with it what containers rely on.

use std::os::fd::AsRawFd;

use rustix::io::Errno;
use rustix::net::RecvFlags;
use rustix::net::netlink;

use super::nft::NFTABLES;
use super::{Socket, attributes};
use crate::{Attempt, Error, Result};

/// `NFNLGRP_NFTABLES`.
const GROUP: i32 = 7;
/// Kinds of news: tables, chains, rules, sets and elements that went.
const REMOVALS: [u16; 5] = [2, 5, 8, 11, 14];

/// What a watch heard of a table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum News {
    Nothing,
    /// Somebody removed something of it.
    Removed,
    /// There was more than could be kept: anything may have happened.
    Overrun,
}

/// Hears of every change to the nftables of the network namespace in which it was made.
pub struct RulesetWatch {
    socket: Socket,
}

impl RulesetWatch {
    pub fn new() -> Result<Self> {
        let socket = Socket::open(Some(netlink::NETFILTER), "NETFILTER")?;
        let group = GROUP;
        // SAFETY: the pointer and length are those of a live i32, which the kernel only reads.
        let ret = unsafe {
            libc::setsockopt(
                socket.fd.as_raw_fd(),
                libc::SOL_NETLINK,
                libc::NETLINK_ADD_MEMBERSHIP,
                (&raw const group).cast(),
                size_of::<i32>() as libc::socklen_t,
            )
        };
        crate::sys::check(ret.into())
            .map(drop)
            .attempt("setsockopt", format_args!("NETLINK_ADD_MEMBERSHIP, NFTABLES"))?;
        rustix::fs::fcntl_setfl(&socket.fd, rustix::fs::OFlags::NONBLOCK)
            .attempt("fcntl", format_args!("NETLINK, O_NONBLOCK"))?;
        Ok(Self { socket })
    }

    /// Reads what there is. True if something of `table` was removed by anybody but the socket with the number `own`, or if news
    /// were lost.
    pub fn lost(&mut self, table: &str, own: u32) -> Result<bool> {
        Ok(self.news(table, own)? != News::Nothing)
    }

    /// Reads what there is about `table` and was not done by the socket with the number `own`.
    pub fn news(&mut self, table: &str, own: u32) -> Result<News> {
        let mut buffer = vec![0; 64 << 10];
        let mut news = News::Nothing;
        loop {
            let received =
                rustix::io::retry_on_intr(|| rustix::net::recv(&self.socket.fd, &mut buffer[..], RecvFlags::empty()));
            match received {
                Ok((length, _)) if is_lost(&buffer[..length], table, own) => news = News::Removed,
                Ok(_) => {}
                Err(Errno::AGAIN) => return Ok(news),
                Err(Errno::NOBUFS) => news = if news == News::Removed { news } else { News::Overrun },
                Err(errno) => return Err(Error::new("netlink recv", "changes of nftables", errno)),
            }
        }
    }
}

impl std::os::fd::AsFd for RulesetWatch {
    fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

fn is_lost(mut bytes: &[u8], table: &str, own: u32) -> bool {
    // Header: length, kind, flags, sequence, the sender's number; then four bytes before the attributes.
    while let Some(header) = bytes.get(..16) {
        let length = u32::from_ne_bytes([header[0], header[1], header[2], header[3]]) as usize;
        let kind = u16::from_ne_bytes([header[4], header[5]]);
        let sender = u32::from_ne_bytes([header[12], header[13], header[14], header[15]]);
        let Some(body) = bytes.get(16..length) else { return false };
        let removal = kind >> 8 == NFTABLES && REMOVALS.contains(&(kind & 0xff));
        if removal && sender != own {
            // Attribute 1 names the table in every kind of these.
            let name = attributes(body.get(4..).unwrap_or_default()).find(|(kind, _)| *kind == 1);
            if name.is_some_and(|(_, name)| name.strip_suffix(b"\0").unwrap_or(name) == table.as_bytes()) {
                return true;
            }
        }
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    false
}
