//! One engine's connection: what could not be sent yet waits here, so that a slow engine never holds the keeper up.

use std::collections::VecDeque;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use linux::Errno;
use linux::socket;

#[derive(Debug)]
pub(crate) enum Out {
    Bytes(Vec<u8>),
    /// Journal and auxiliary pipe.
    Common,
    /// Whatever this slot holds by the time it is sent.
    Held(usize),
}

#[derive(Debug)]
pub(crate) struct Conn {
    pub fd: OwnedFd,
    /// The version of its hello; 0 before it.
    pub protocol: u32,
    pub outbox: VecDeque<Out>,
    /// Waiting for room in the socket.
    pub stuck: bool,
}

/// An engine that reads nothing for this many messages is as good as dead.
pub(crate) const OUTBOX_MAX: usize = 200_000;

#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Sent {
    Yes,
    Later,
    Broken,
}

impl Conn {
    pub(crate) fn new(fd: OwnedFd) -> Self {
        Self { fd, protocol: 0, outbox: VecDeque::new(), stuck: false }
    }

    pub(crate) fn greeted(&self) -> bool {
        self.protocol > 0
    }

    pub(crate) fn send(&self, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> Sent {
        loop {
            return match socket::send(self.fd.as_fd(), bytes, fds) {
                Ok(_) => Sent::Yes,
                Err(error) if error.is(Errno::INTR) => continue,
                Err(error) if error.is(Errno::AGAIN) || error.is(Errno::NOBUFS) => Sent::Later,
                Err(error) => {
                    // Too many descriptors in flight: the engine has to take some first.
                    if error.is(Errno::TOOMANYREFS) { Sent::Later } else { Sent::Broken }
                }
            };
        }
    }
}
