//! Containers' resolvers while no engine is there. The keeper holds their sockets and never reads them: when the engine that
//! answers is gone, it starts one more process for all of them, which does, and which ends when an engine answers again.
//!
//! What is asked comes from containers: the keeper, whose death with the engine's would cost their output, does not look at it.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};

use linux::epoll::Interest;
use linux::{Errno, pidfd, pipe, socket};
use runtime::RefusedKind;
use serde::{Deserialize, Serialize};

use super::{Server, free_place, refuse, token};
use crate::model::Phase;
use crate::protocol::{Fault, encode};

/// What the keeper tells the process that answers, each a message over its standard input. The end of it: finish what was
/// asked, and end.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Order {
    /// Answer this container. Descriptors: its UDP socket, its TCP listener.
    Serve { id: String },
    /// Somebody else reads its questions from now on: answer those that were read.
    Leave { id: String },
    /// The container has ended: it asks nothing, and has no name any more.
    Ended { id: String },
}

impl Order {
    /// `None` if this is no order.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        postcard::from_bytes(bytes).ok()
    }
}

/// What was told last of a container, to the process that answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Told {
    Nothing,
    Serve,
    Ended,
}

/// One container's resolver.
#[derive(Debug)]
pub(crate) struct Names {
    /// UDP, TCP; `None` once the container has ended.
    pub sockets: Option<(OwnedFd, OwnedFd)>,
    /// The connection of the engine that answers.
    engine: Option<usize>,
    told: Told,
}

impl Names {
    pub(super) fn of(sockets: (OwnedFd, OwnedFd), engine: usize) -> Self {
        Self { sockets: Some(sockets), engine: Some(engine), told: Told::Nothing }
    }

    /// What has to be told of it.
    const fn wanted(&self) -> Told {
        match (&self.sockets, self.engine) {
            (None, _) => Told::Ended,
            (Some(_), Some(_)) => Told::Nothing,
            (Some(_), None) => Told::Serve,
        }
    }
}

/// The process that answers.
#[derive(Debug)]
pub(super) struct Helper {
    /// `None`: it has been told to end.
    control: Option<OwnedFd>,
    pidfd: OwnedFd,
    /// The socket to it is full.
    stuck: bool,
}

impl Server<'_> {
    /// An engine answers this container from now on.
    pub(super) fn take_names(&mut self, slot: usize, engine: usize, fds: Vec<OwnedFd>) -> Result<(), Fault> {
        let held = self.slots[slot].as_mut().ok_or(Fault::NotHeld)?;
        if matches!(held.phase, Phase::Ended(_)) {
            return Ok(());
        }
        let mut fds = fds.into_iter();
        let told = held.names.as_ref().map_or(Told::Nothing, |names| names.told);
        match (fds.next(), fds.next(), &mut held.names) {
            (Some(udp), Some(tcp), _) => held.names = Some(Names { told, ..Names::of((udp, tcp), engine) }),
            (None, None, Some(names)) => names.engine = Some(engine),
            _ => return Err(refuse(RefusedKind::Invalid, "a resolver has two sockets")),
        }
        self.settle_names();
        Ok(())
    }

    /// What it answered is asked in vain until somebody else does.
    pub(super) fn engine_left(&mut self, engine: usize) {
        for names in self.slots.iter_mut().flatten().filter_map(|held| held.names.as_mut()) {
            if names.engine == Some(engine) {
                names.engine = None;
            }
        }
        self.settle_names();
    }

    /// Tells the process that answers what has changed; starts it when there is something to answer, and lets it end when
    /// there is not.
    pub(super) fn settle_names(&mut self) {
        if self.adopting.is_some() {
            return;
        }
        let all = || self.slots.iter().flatten().filter_map(|held| held.names.as_ref());
        if !all().any(|names| names.wanted() == Told::Serve) {
            return self.dismiss_helper();
        }
        let current = self.names.iter().position(|helper| helper.as_ref().is_some_and(|h| h.control.is_some()));
        let index = match current.map_or_else(|| self.start_helper(), Ok) {
            Ok(index) => index,
            Err(error) => {
                complain!("keeper: nobody resolves names: {error}");
                return self.want_timer();
            }
        };
        let Some(helper) = self.names[index].as_mut() else { return };
        let Some(control) = helper.control.as_ref() else { return };
        let mut full = false;
        for held in self.slots.iter_mut().flatten() {
            let Some(names) = held.names.as_mut() else { continue };
            let wanted = names.wanted();
            if wanted == names.told {
                continue;
            }
            let id = held.id.clone();
            let order = match wanted {
                Told::Serve => Order::Serve { id },
                Told::Nothing => Order::Leave { id },
                Told::Ended => Order::Ended { id },
            };
            let fds: Vec<BorrowedFd<'_>> = match (&order, &names.sockets) {
                (Order::Serve { .. }, Some((udp, tcp))) => vec![udp.as_fd(), tcp.as_fd()],
                _ => Vec::new(),
            };
            let Ok(bytes) = encode(&order) else { continue };
            match socket::send(control, &bytes, &fds) {
                Ok(_) => names.told = wanted,
                Err(error) if error.is(Errno::AGAIN) || error.is(Errno::NOBUFS) || error.is(Errno::TOOMANYREFS) => {
                    full = true;
                    break;
                }
                // It is dying: its end will be told.
                Err(_) => break,
            }
        }
        if full != helper.stuck {
            helper.stuck = full;
            let _ = match full {
                true => self.epoll.add(control, token::new(token::NAMES, index), Interest::OUT),
                false => self.epoll.delete(control),
            };
        }
    }

    fn dismiss_helper(&mut self) {
        for helper in self.names.iter_mut().flatten() {
            if let Some(control) = helper.control.take()
                && helper.stuck
            {
                let _ = self.epoll.delete(&control);
            }
        }
        self.nothing_is_told();
    }

    fn nothing_is_told(&mut self) {
        for names in self.slots.iter_mut().flatten().filter_map(|held| held.names.as_mut()) {
            names.told = Told::Nothing;
        }
    }

    fn start_helper(&mut self) -> linux::Result<usize> {
        let (ours, theirs) = socket::pair(socket::Kind::SeqPacket)?;
        pipe::set_nonblocking(&ours, true)?;
        let run = &self.args.run;
        let child = linux::clone::spawn(self.token, &Default::default(), || {
            if linux::signal::reset_for_exec().is_err() {
                return 1;
            }
            // The keeper's own program: a read-only view, or a sealed copy.
            let mut command = Command::new("/proc/self/exe");
            command.args(["resolver", "--run"]).arg(run).stdin(Stdio::from(theirs)).stdout(Stdio::null());
            complain!("keeper: start the resolver: {}", command.exec());
            1
        })?;
        let index = free_place(&mut self.names);
        self.epoll.add(&child.pidfd, token::new(token::NAMES_END, index), Interest::IN)?;
        self.names[index] = Some(Helper { control: Some(ours), pidfd: child.pidfd, stuck: false });
        self.nothing_is_told();
        Ok(index)
    }

    pub(super) fn helper_ended(&mut self, index: usize) {
        let Some(helper) = self.names.get_mut(index).and_then(Option::take) else { return };
        let _ = pidfd::wait(&helper.pidfd, false);
        let _ = self.epoll.delete(&helper.pidfd);
        if let Some(control) = &helper.control {
            if helper.stuck {
                let _ = self.epoll.delete(control);
            }
            complain!("keeper: the resolver has ended: another one follows");
            self.nothing_is_told();
            // In a second: one that cannot live is not to be all that this process does.
            self.want_timer();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn somebody_answers_as_long_as_the_container_lives() {
        let (udp, tcp) = socket::pair(socket::Kind::SeqPacket).unwrap();
        let mut names = Names::of((udp, tcp), 3);
        assert_eq!(names.wanted(), Told::Nothing);
        names.engine = None;
        assert_eq!(names.wanted(), Told::Serve);
        names.sockets = None;
        assert_eq!(names.wanted(), Told::Ended);
        names.engine = Some(4);
        assert_eq!(names.wanted(), Told::Ended, "whoever runs: it has no name any more");
    }

    /// A process that an older keeper started reads these bytes.
    #[test]
    fn orders_are_understood_for_ever() {
        for (bytes, order) in [
            (b"\0\x01a", Order::Serve { id: "a".into() }),
            (b"\x01\x01a", Order::Leave { id: "a".into() }),
            (b"\x02\x01a", Order::Ended { id: "a".into() }),
        ] {
            assert_eq!(encode(&order).unwrap(), bytes);
            assert_eq!(Order::decode(bytes), Some(order));
        }
        assert_eq!(Order::decode(b""), None);
    }
}
