//! Taking over what a dead keeper held: its journal and pipes first, then every process with its descriptors, then the work goes on.

use std::fs::File;
use std::os::fd::OwnedFd;

use super::Server;
use super::args::valid_id;
use super::held::Held;
use super::names::Names;
use super::pump::{Plumbing, Source};
use crate::log::file::LogFile;
use crate::log::journal::{Journal, SLOTS_MAX};
use crate::model::{Phase, Stream};
use crate::protocol::{HeldMessage, Role, ToClient};

impl Server<'_> {
    pub(super) fn inherit(&mut self, index: usize, fds: Vec<OwnedFd>) {
        let Ok([journal, read, write]) = <[OwnedFd; 3]>::try_from(fds) else { return self.drop_conn(index) };
        if !self.by_id.is_empty() {
            complain!("keeper: refused to inherit: it holds something already");
            return self.drop_conn(index);
        }
        let plumbing = Journal::inherit(File::from(journal)).and_then(|journal| Plumbing::with(journal, (read, write)));
        match plumbing {
            Ok(plumbing) => {
                self.plumbing = plumbing;
                self.adopting = Some(index);
            }
            Err(error) => {
                complain!("keeper: inherit: {error}");
                self.drop_conn(index);
            }
        }
    }

    pub(super) fn adopt(&mut self, index: usize, message: HeldMessage, fds: Vec<OwnedFd>) {
        let record = message.record;
        let slot = record.slot as usize;
        let taken = self.slots.get(slot).is_some_and(Option::is_some) || self.by_id.contains_key(&record.id);
        if slot >= SLOTS_MAX || taken || !valid_id(&record.id) {
            return complain!("keeper: refused to adopt {:?} at {slot}", record.id);
        }
        if self.slots.len() <= slot {
            self.slots.resize_with(slot + 1, || None);
        }
        let mut pidfd = None;
        let (mut stdout, mut stderr, mut stdin, mut tty, mut tty_pipe) = (None, None, None, None, None);
        let (mut names_udp, mut names_tcp) = (None, None);
        let mut sinks = Vec::new();
        for (role, fd) in message.roles.iter().zip(fds) {
            match role {
                Role::Pidfd => pidfd = Some(fd),
                Role::Stdout => stdout = Some(Source::new(Stream::Stdout, fd, Vec::new())),
                Role::Stderr => stderr = Some(Source::new(Stream::Stderr, fd, Vec::new())),
                Role::Stdin => stdin = Some(fd),
                Role::Tty => tty = Some(fd),
                Role::TtyPipe => tty_pipe = Some(fd),
                Role::NamesUdp => names_udp = Some(fd),
                Role::NamesTcp => names_tcp = Some(fd),
                Role::Sink(role) => sinks.push((*role, fd)),
            }
        }
        let Some(pidfd) = pidfd else { return complain!("keeper: refused to adopt {:?}: no pidfd", record.id) };
        let ended = matches!(record.phase, Phase::Ended(_));
        self.slots[slot] = Some(Held {
            id: record.id.clone(),
            kind: record.kind,
            pid: record.pid,
            start_time: record.start_time,
            pidfd,
            stdio: record.stdio,
            phase: record.phase,
            log: record.log.clone().map(LogFile::new),
            spec: record.log,
            stdout,
            stderr,
            stdin,
            tty,
            tty_pipe,
            names: names_udp.zip(names_tcp).map(|sockets| Names::of(sockets, index)),
            launch: None,
            ending: false,
            ending_since_ms: 0,
            leaving: false,
        });
        self.by_id.insert(record.id, slot);
        self.watch(slot);
        if ended && let Some(held) = self.slots[slot].as_ref() {
            let _ = self.epoll.delete(&held.pidfd);
        }
        let (roles, fds): (Vec<_>, Vec<_>) = sinks.into_iter().unzip();
        self.subscribe(slot, &roles, fds);
    }

    pub(super) fn resume(&mut self, index: usize) {
        let slots = &mut self.slots;
        let recovered = self.plumbing.recover(|slot, stream| {
            let Held { log, stdout, stderr, .. } = slots.get_mut(slot)?.as_mut()?;
            let source = match stream {
                Stream::Stdout => stdout.as_ref(),
                Stream::Stderr => stderr.as_ref(),
            };
            Some((source?, log.as_mut()?))
        });
        if let Err(error) = recovered {
            complain!("keeper: recovery: {error}");
        }
        for slot in 0..self.slots.len() {
            for stream in [Stream::Stdout, Stream::Stderr] {
                let delivered = self.plumbing.journal.delivered(slot, stream);
                if let Some(source) = self.slots[slot].as_mut().and_then(|held| held.source(stream)) {
                    source.sinks.iter_mut().for_each(|sink| sink.sent = delivered);
                    self.mark_busy(slot, stream);
                }
            }
        }
        self.adopting = None;
        self.settle_names();
        self.send(index, &ToClient::Listed);
    }
}
