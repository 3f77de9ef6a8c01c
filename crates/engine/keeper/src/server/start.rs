//! From a request to a program that runs: the clone, the child's reports, the gate, the answer.

use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileExt;

use linux::epoll::Interest;
use linux::{Errno, pidfd, pipe, proc};
use runtime::{Event, RefusedKind};
use vocab::crash;

use super::args::valid_id;
use super::held::{Asker, Held, Launch};
use super::launcher::Job;
use super::pump::{PIPE_SIZE, Source};
use super::{Server, free_place, refuse, token};
use crate::log::file::LogFile;
use crate::log::journal::SLOTS_MAX;
use crate::model::{Kind, LogSpec, Phase, Stdio, Stream};
use crate::protocol::{Fault, SinkRole, ToClient, encode};

impl Server<'_> {
    #[expect(clippy::too_many_arguments, reason = "the fields of one message")]
    pub(super) fn start(
        &mut self,
        asker: Asker,
        id: String,
        kind: Kind,
        stdio: Stdio,
        log: Option<LogSpec>,
        gated: bool,
        sinks: &[SinkRole],
        fds: Vec<OwnedFd>,
    ) -> Result<(), Fault> {
        if !valid_id(&id) {
            return Err(refuse(RefusedKind::Invalid, format!("invalid id {id:?}")));
        }
        if log.as_ref().is_some_and(|log| !log.path.is_absolute()) {
            return Err(refuse(RefusedKind::Invalid, "the path of a log must be absolute"));
        }
        if self.by_id.contains_key(&id) {
            return Err(Fault::AlreadyHeld);
        }
        let slot = free_place(&mut self.slots);
        if slot >= SLOTS_MAX {
            return Err(refuse(RefusedKind::Unavailable, format!("{SLOTS_MAX} things are held already")));
        }
        let mut fds = fds.into_iter();
        let plan = read_plan(fds.next()).map_err(system)?;
        let target = if kind == Kind::Exec { fds.next() } else { None };

        let mut pipes = None;
        let (mut stdout, mut stderr, mut stdin) = (None, None, None);
        if let Stdio::Pipes { stdin: wanted } = stdio {
            let (out_read, out_write) = output_pipe().map_err(system)?;
            let (err_read, err_write) = output_pipe().map_err(system)?;
            let in_read = if wanted {
                let (read, write) = pipe::pipe().map_err(system)?;
                stdin = Some(write);
                read
            } else {
                dev_null().map_err(system)?
            };
            stdout = Some(Source::new(Stream::Stdout, out_read, Vec::new()));
            stderr = Some(Source::new(Stream::Stderr, err_read, Vec::new()));
            pipes = Some([in_read, out_write, err_write]);
        }
        let (gate_read, gate) = match kind {
            Kind::Container => pipe::pipe().map(|(read, write)| (Some(read), Some(write))).map_err(system)?,
            Kind::Exec => (None, None),
        };
        crash::point("keeper.start.before_clone");
        let job = Job { kind, plan: &plan, target, stdio, pipes, gate: gate_read };
        let mut child = self.launcher.launch(self.token, job).map_err(Fault::Launch)?;
        crash::point("keeper.start.cloned");
        let pid = child.pid();
        let pidfd = child.take_pidfd().ok_or(Errno::BADF).or_else(|_| pidfd::open(pid)).map_err(system)?;
        let start_time = proc::stat(pid).map(|stat| stat.start_time).unwrap_or(0);
        self.plumbing.journal.reset_slot(slot);
        let _ = self.epoll.add(child.report(), token::new(token::REPORT, slot), Interest::IN);
        let warnings = child.warnings();
        let held = Held {
            id: id.clone(),
            kind,
            pid,
            start_time,
            pidfd,
            stdio,
            phase: Phase::Starting,
            log: log.clone().map(LogFile::new),
            spec: log,
            stdout,
            stderr,
            stdin,
            tty: None,
            tty_pipe: None,
            names: None,
            launch: Some(Launch { child, gate, gated, asker: Some(asker), warnings }),
            ending: false,
            ending_since_ms: 0,
            leaving: false,
        };
        self.slots[slot] = Some(held);
        self.by_id.insert(id, slot);
        if matches!(stdio, Stdio::Tty { .. }) {
            // The master comes later; subscribers can be there before it.
            if let Err(error) = self.make_tty_pipe(slot) {
                complain!("keeper: {error}");
            }
        }
        self.watch(slot);
        self.subscribe(slot, sinks, fds.collect());
        self.tell_held(slot);
        crash::point("keeper.start.told");
        // It may have said everything already.
        self.launch_news(slot);
        Ok(())
    }

    pub(super) fn make_tty_pipe(&mut self, slot: usize) -> linux::Result<()> {
        let (read, write) = output_pipe()?;
        pipe::set_nonblocking(&write, true)?;
        if let Some(held) = self.slots[slot].as_mut() {
            held.stdout = Some(Source::new(Stream::Stdout, read, Vec::new()));
            held.tty_pipe = Some(write);
        }
        Ok(())
    }

    /// Puts everything of a slot that can become ready into the epoll set.
    pub(super) fn watch(&self, slot: usize) {
        let Some(held) = self.slots[slot].as_ref() else { return };
        let edge = Interest::IN | Interest::EDGE;
        let mut failed = self.epoll.add(&held.pidfd, token::new(token::PIDFD, slot), Interest::IN).err();
        if let Some(source) = &held.stdout {
            failed = failed.or(self.epoll.add(&source.fd, token::new(token::STDOUT, slot), edge).err());
        }
        if let Some(source) = &held.stderr {
            failed = failed.or(self.epoll.add(&source.fd, token::new(token::STDERR, slot), edge).err());
        }
        if let Some(tty) = &held.tty {
            failed = failed.or(self.epoll.add(tty, token::new(token::TTY, slot), edge).err());
        }
        if let Some(error) = failed {
            complain!("keeper: {}: {error}", held.id);
        }
    }

    pub(super) fn subscribe(&mut self, slot: usize, roles: &[SinkRole], fds: Vec<OwnedFd>) {
        let mut unused = Vec::new();
        for (role, fd) in roles.iter().zip(fds) {
            let stream = if role.stderr { Stream::Stderr } else { Stream::Stdout };
            let kind = if role.stderr { token::SINK_ERR } else { token::SINK_OUT };
            let source = self.slots[slot].as_mut().and_then(|held| held.source(stream));
            match source {
                Some(source) => {
                    let _ = self.epoll.add(&fd, token::new(kind, slot), Interest::OUT | Interest::EDGE);
                    source.subscribe(role.key, fd);
                }
                None => unused.push(role.key),
            }
        }
        self.sinks_closed(slot, unused);
    }

    pub(super) fn sinks_closed(&mut self, slot: usize, keys: Vec<u64>) {
        let Some(id) = self.slots[slot].as_ref().map(|held| held.id.clone()) else { return };
        for key in keys {
            self.tell_all(&ToClient::SinkClosed { id: id.clone(), key });
        }
    }

    pub(super) fn launch_news(&mut self, slot: usize) {
        loop {
            let Some(launch) = self.slots[slot].as_mut().and_then(|held| held.launch.as_mut()) else { return };
            match launch.child.poll() {
                Event::Pending => return,
                Event::Warning(text) => launch.warnings.push(text),
                Event::Console(master) => {
                    let _ = pipe::set_nonblocking(&master, true);
                    if let Some(held) = self.slots[slot].as_mut() {
                        let edge = Interest::IN | Interest::EDGE;
                        let _ = self.epoll.add(&master, token::new(token::TTY, slot), edge);
                        held.tty = Some(master);
                    }
                    self.tell_held(slot);
                    self.mark_busy(slot, Stream::Stdout);
                }
                Event::RuntimeHooks => {
                    if let Err(failure) = launch.child.run_hooks(self.token) {
                        return self.launch_failed(slot, failure);
                    }
                }
                Event::Ready => {
                    // The engine was told of it when it was cloned. A child that is gone is noticed through its pidfd.
                    let _ = launch.child.commit();
                    self.lend_root(slot);
                    let Some(launch) = self.slots[slot].as_mut().and_then(|held| held.launch.as_mut()) else { return };
                    if launch.gated {
                        let (asker, warnings) = (launch.asker.take(), std::mem::take(&mut launch.warnings));
                        self.set_phase(slot, Phase::Gated);
                        self.answer(asker, Ok(warnings));
                    } else {
                        open_gate(launch);
                    }
                }
                Event::Started => {
                    let (asker, warnings) = (launch.asker.take(), std::mem::take(&mut launch.warnings));
                    self.end_launch(slot);
                    crash::point("keeper.start.before_answer");
                    self.set_phase(slot, Phase::Running);
                    self.answer(asker, Ok(warnings));
                    return;
                }
                Event::Failed(failure) => return self.launch_failed(slot, failure),
            }
        }
    }

    /// Gives the engine a hold on the container's root while its first process waits at the gate. The kernel writes everything that is dirty on
    /// the disk below when it lets go of an overlay; with this hold that is the engine's to time, and not a part of the container's end. Without
    /// it (no engine, a socket that is full) nothing else changes.
    pub(super) fn lend_root(&mut self, slot: usize) {
        let Some(held) = self.slots[slot].as_ref().filter(|held| held.kind == Kind::Container) else { return };
        let asker = held.launch.as_ref().and_then(|launch| launch.asker);
        let conn = asker.and_then(|asker| self.conns.get(asker.conn)?.as_ref()).filter(|conn| conn.outbox.is_empty());
        let (Some(conn), Ok(bytes)) = (conn, encode(&ToClient::Root { id: held.id.clone() })) else { return };
        if let Ok(root) = linux::fs::Root::open(format!("/proc/{}/root", held.pid)) {
            let _ = conn.send(&bytes, &[root.as_fd()]);
        }
    }

    pub(super) fn end_launch(&mut self, slot: usize) {
        if let Some(launch) = self.slots[slot].as_mut().and_then(|held| held.launch.take()) {
            let _ = self.epoll.delete(launch.child.report());
        }
    }

    pub(super) fn launch_failed(&mut self, slot: usize, failure: runtime::Failure) {
        let Some(held) = self.slots[slot].as_mut() else { return };
        let asker = held.launch.as_ref().and_then(|launch| launch.asker);
        // The child is ending by itself; it does not linger if something went wrong with that.
        let _ = pidfd::send_signal(&held.pidfd, 9);
        let _ = pidfd::wait(&held.pidfd, true);
        self.end_launch(slot);
        self.let_go(slot);
        self.answer(asker, Err(Fault::Launch(failure)));
    }

    pub(super) fn set_phase(&mut self, slot: usize, phase: Phase) {
        if let Some(held) = self.slots[slot].as_mut() {
            held.phase = phase;
        }
    }

    pub(super) fn answer(&mut self, asker: Option<Asker>, result: Result<Vec<String>, Fault>) {
        if let Some(asker) = asker {
            self.send(asker.conn, &ToClient::Reply { seq: asker.seq, result });
        }
    }
}

pub(super) fn open_gate(launch: &mut Launch) {
    if let Some(gate) = launch.gate.take() {
        crash::point("keeper.start.before_gate");
        // A child that is gone is noticed through its pidfd.
        let _ = pipe::write(&gate, b"g");
    }
}

/// The plan out of sealed memory, so that nobody can change it while it is read.
pub(super) fn read_plan(fd: Option<OwnedFd>) -> linux::Result<Vec<u8>> {
    let file = File::from(fd.ok_or_else(|| linux::Error::new("plan", "no descriptor", Errno::BADF))?);
    linux::memfd::check_sealed(&file)?;
    let mut plan = vec![0; linux::fs::fstat(&file)?.st_size as usize];
    linux::Attempt::attempt(file.read_exact_at(&mut plan, 0), "read", format_args!("plan"))?;
    Ok(plan)
}

/// A pipe whose read end does not block.
pub(super) fn output_pipe() -> linux::Result<(OwnedFd, OwnedFd)> {
    let (read, write) = pipe::pipe()?;
    pipe::set_nonblocking(&read, true)?;
    // Refused to an unprivileged user who has many: the default works as well.
    let _ = pipe::set_size(&read, PIPE_SIZE);
    Ok((read, write))
}

pub(super) fn dev_null() -> linux::Result<OwnedFd> {
    linux::Attempt::attempt(File::open("/dev/null"), "open", format_args!("/dev/null")).map(OwnedFd::from)
}

pub(super) fn system(error: linux::Error) -> Fault {
    Fault::Launch(runtime::Cause::Call(error).at("prepare".into()))
}
