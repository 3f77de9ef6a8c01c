//! Waiting for many descriptors. Each carries a number of the caller's choice.

use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use rustix::io::Errno;

use crate::sys::{self, flags};
use crate::{Attempt, Result};

flags! {
    /// `EPOLL*`. ERR and HUP are always reported.
    pub struct Interest: u32 {
        IN = libc::EPOLLIN;
        OUT = libc::EPOLLOUT;
        RDHUP = libc::EPOLLRDHUP;
        PRI = libc::EPOLLPRI;
        ERR = libc::EPOLLERR;
        HUP = libc::EPOLLHUP;
        EDGE = libc::EPOLLET;
        ONESHOT = libc::EPOLLONESHOT;
    }
}

#[derive(Debug)]
pub struct Epoll {
    fd: OwnedFd,
}

/// One ready descriptor: the number it was added with, and what it is ready for.
#[derive(Debug, Clone, Copy)]
pub struct Ready {
    pub token: u64,
    pub events: Interest,
}

impl Epoll {
    pub fn new() -> Result<Self> {
        // SAFETY: a flag in, a new descriptor out.
        let fd = sys::check_fd(unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) }.into())
            .attempt("epoll_create1", format_args!(""))?;
        Ok(Self { fd })
    }

    pub fn add(&self, fd: impl AsFd, token: u64, interest: Interest) -> Result<()> {
        self.ctl(libc::EPOLL_CTL_ADD, "ADD", fd, token, interest)
    }

    pub fn modify(&self, fd: impl AsFd, token: u64, interest: Interest) -> Result<()> {
        self.ctl(libc::EPOLL_CTL_MOD, "MOD", fd, token, interest)
    }

    /// Needed before the descriptor is closed if it has duplicates elsewhere: those would keep it in here.
    pub fn delete(&self, fd: impl AsFd) -> Result<()> {
        self.ctl(libc::EPOLL_CTL_DEL, "DEL", fd, 0, Interest::empty())
    }

    fn ctl(&self, op: i32, name: &str, fd: impl AsFd, token: u64, interest: Interest) -> Result<()> {
        let fd = fd.as_fd();
        let mut event = libc::epoll_event { events: interest.bits(), u64: token };
        // SAFETY: `event` is valid; both descriptors are borrowed.
        let ret = unsafe { libc::epoll_ctl(self.fd.as_raw_fd(), op, fd.as_raw_fd(), &raw mut event) };
        sys::check(ret.into())
            .map(drop)
            .attempt("epoll_ctl", format_args!("{name}, fd {}, {interest:?}", fd.as_raw_fd()))
    }

    /// Waits for at most `timeout_ms` (−1: for ever) and fills `ready`. An interrupting signal counts as nothing ready.
    pub fn wait(&self, ready: &mut Vec<Ready>, timeout_ms: i32) -> Result<()> {
        const EVENTS_MAX: usize = 64;
        let mut events = [libc::epoll_event { events: 0, u64: 0 }; EVENTS_MAX];
        ready.clear();
        // SAFETY: `events` has room for EVENTS_MAX events.
        let ret = unsafe { libc::epoll_wait(self.fd.as_raw_fd(), events.as_mut_ptr(), EVENTS_MAX as i32, timeout_ms) };
        match sys::check(ret.into()) {
            Ok(n) => {
                ready.extend(events[..n].iter().map(|e| Ready { token: e.u64, events: Interest::from_bits(e.events) }));
                Ok(())
            }
            Err(Errno::INTR) => Ok(()),
            Err(errno) => Err(errno).attempt("epoll_wait", format_args!("{timeout_ms} ms")),
        }
    }
}

/// Waits until one descriptor is ready for `interest` (IN, OUT, PRI); false after `timeout_ms` (−1: never).
pub fn poll_one(fd: impl AsFd, interest: Interest, timeout_ms: i32) -> Result<bool> {
    let fd = fd.as_fd();
    let mut poll = libc::pollfd { fd: fd.as_raw_fd(), events: interest.bits() as i16, revents: 0 };
    loop {
        // SAFETY: one valid pollfd.
        match sys::check(unsafe { libc::poll(&raw mut poll, 1, timeout_ms) }.into()) {
            Err(Errno::INTR) => continue,
            other => return other.map(|n| n > 0).attempt("poll", format_args!("fd {}", fd.as_raw_fd())),
        }
    }
}
