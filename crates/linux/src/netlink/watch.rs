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
/// What ends the news of each transaction: its attribute 1 is a number.
const NEW_GENERATION: u16 = 15;

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

    /// Reads what there is about `table` and was not done by the socket with the number `own`.
    pub fn news(&mut self, table: &str, own: u32) -> Result<News> {
        Ok(self.news_and_others(table, own, &|_| false)?.0)
    }

    /// As [`RulesetWatch::news`], and whether a table whose name `other` wants was changed (or may have been).
    pub fn news_and_others(&mut self, table: &str, own: u32, other: &dyn Fn(&str) -> bool) -> Result<(News, bool)> {
        let mut buffer = vec![0; 64 << 10];
        let (mut news, mut others) = (News::Nothing, false);
        loop {
            let received =
                rustix::io::retry_on_intr(|| rustix::net::recv(&self.socket.fd, &mut buffer[..], RecvFlags::empty()));
            match received {
                Ok((length, _)) => {
                    for (kind, name) in changed(&buffer[..length], own) {
                        if name == table && REMOVALS.contains(&kind) {
                            news = News::Removed;
                        }
                        others |= other(&name);
                    }
                }
                Err(Errno::AGAIN) => return Ok((news, others)),
                Err(Errno::NOBUFS) => {
                    others = true;
                    news = if news == News::Removed { news } else { News::Overrun };
                }
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

/// Kind and table of each change that was not done by the socket with the number `own`.
fn changed(mut bytes: &[u8], own: u32) -> Vec<(u16, String)> {
    let mut all = Vec::new();
    // Header: length, kind, flags, sequence, the sender's number; then four bytes before the attributes.
    while let Some(header) = bytes.get(..16) {
        let length = u32::from_ne_bytes([header[0], header[1], header[2], header[3]]) as usize;
        let kind = u16::from_ne_bytes([header[4], header[5]]);
        let sender = u32::from_ne_bytes([header[12], header[13], header[14], header[15]]);
        let Some(body) = bytes.get(16..length) else { break };
        if kind >> 8 == NFTABLES && kind & 0xff != NEW_GENERATION && sender != own {
            // Attribute 1 names the table in every kind of these.
            let name = attributes(body.get(4..).unwrap_or_default()).find(|(kind, _)| *kind == 1);
            let name = name.map(|(_, name)| String::from_utf8_lossy(name.strip_suffix(b"\0").unwrap_or(name)));
            all.extend(name.map(|name| (kind & 0xff, name.into_owned())));
        }
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    all
}
