//! One thing that the keeper holds: a process with its streams, log and end.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use crate::log::file::LogFile;
use crate::model::{Kind, LogSpec, Phase, Stdio, Stream};
use crate::protocol::{HeldMessage, Record, Role, WITH_NAMES};
use crate::server::launcher::Launching;
use crate::server::names::Names;
use crate::server::pump::Source;

/// Who waits for an answer: connection and sequence number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Asker {
    pub conn: usize,
    pub seq: u64,
}

/// A child that does not execute its program yet.
#[derive(Debug)]
pub(crate) struct Launch {
    pub child: Box<dyn Launching>,
    /// Write end of the child's gate.
    pub gate: Option<OwnedFd>,
    /// The engine opens the gate.
    pub gated: bool,
    pub asker: Option<Asker>,
    pub warnings: Vec<String>,
}

#[derive(Debug)]
pub(crate) struct Held {
    pub id: String,
    pub kind: Kind,
    pub pid: i32,
    pub start_time: u64,
    pub pidfd: OwnedFd,
    pub stdio: Stdio,
    pub phase: Phase,
    pub spec: Option<LogSpec>,
    pub log: Option<LogFile>,
    pub stdout: Option<Source>,
    pub stderr: Option<Source>,
    pub stdin: Option<OwnedFd>,
    /// The terminal's master, and the write end of the pipe into which its output goes (read as `stdout`).
    pub tty: Option<OwnedFd>,
    pub tty_pipe: Option<OwnedFd>,
    pub names: Option<Names>,
    pub launch: Option<Launch>,
    /// Its pidfd has fired; how it ended is not known yet.
    pub ending: bool,
    /// When to give up asking how it ended.
    pub ending_since_ms: u64,
    /// Forgotten by the engine, with output that its subscribers have not taken yet.
    pub leaving: bool,
}

impl Held {
    pub(crate) fn source(&mut self, stream: Stream) -> Option<&mut Source> {
        match stream {
            Stream::Stdout => self.stdout.as_mut(),
            Stream::Stderr => self.stderr.as_mut(),
        }
    }

    pub(crate) fn record(&self, slot: usize) -> Record {
        Record {
            id: self.id.clone(),
            kind: self.kind,
            pid: self.pid,
            start_time: self.start_time,
            stdio: self.stdio,
            log: self.spec.clone(),
            phase: self.phase,
            slot: slot as u32,
        }
    }

    /// The message that tells of it to an engine of this protocol, and the descriptors that go with it.
    pub(crate) fn message(&self, slot: usize, protocol: u32) -> (HeldMessage, Vec<BorrowedFd<'_>>) {
        let mut roles = vec![Role::Pidfd];
        let mut fds = vec![self.pidfd.as_fd()];
        let names = self.names.as_ref().and_then(|names| names.sockets.as_ref()).filter(|_| protocol >= WITH_NAMES);
        for (role, fd) in [
            (Role::Stdout, self.stdout.as_ref().map(|source| source.fd.as_fd())),
            (Role::Stderr, self.stderr.as_ref().map(|source| source.fd.as_fd())),
            (Role::Stdin, self.stdin.as_ref().map(AsFd::as_fd)),
            (Role::Tty, self.tty.as_ref().map(AsFd::as_fd)),
            (Role::TtyPipe, self.tty_pipe.as_ref().map(AsFd::as_fd)),
            (Role::NamesUdp, names.map(|(udp, _)| udp.as_fd())),
            (Role::NamesTcp, names.map(|(_, tcp)| tcp.as_fd())),
        ] {
            if let Some(fd) = fd {
                roles.push(role);
                fds.push(fd);
            }
        }
        (HeldMessage { record: self.record(slot), roles }, fds)
    }
}
