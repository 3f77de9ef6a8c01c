//! The keeper's process: one thread, one epoll loop. It starts what it is asked to start, moves output, notes ends, answers engines.
//!
//! It allocates when something starts and hardly ever after; an idle keeper wakes for nothing.
//!
//! One file because it is one state machine: every event may touch what is held, who listens, and the loop's own books.

mod conn;
mod held;
pub mod launcher;
pub(crate) mod pump;

use std::collections::{BTreeMap, VecDeque};
use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, FileExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use linux::clone::SingleThreaded;
use linux::epoll::{Epoll, Interest, Ready};
use linux::pipe::{self, Splice};
use linux::signal::SignalFd;
use linux::timer::Timer;
use linux::{Errno, pidfd, proc, process, socket};
use runtime::{Event, RefusedKind};
use vocab::crash;

use self::conn::{Conn, OUTBOX_MAX, Out, Sent};
use self::held::{Asker, Held, Launch};
use self::launcher::{Job, Launcher};
use self::pump::{PIPE_SIZE, Plumbing, Pumped, Source};
use crate::log::file::LogFile;
use crate::log::journal::{Journal, SLOTS_MAX};
use crate::model::{Exited, Kind, LogSpec, Phase, Stdio, Stream};
use crate::protocol::{
    Fault, FromClient, HeldMessage, Hello, MESSAGE_MAX, PROTOCOL, Request, Role, SinkRole, ToClient, encode,
};

/// What the keeper's command line says.
#[derive(Debug, Clone)]
pub struct Args {
    /// The instance's run directory.
    pub run: PathBuf,
    /// Which keeper of this run directory; its socket is `<run>/keeper/<generation>.sock`.
    pub generation: u32,
    /// Fingerprint of the program, from the engine that starts it.
    pub build: u64,
    /// Become a daemon: the caller's process exits once the socket listens.
    pub detach: bool,
}

impl Args {
    /// Reads `--run DIR --generation N --build N [--detach]`.
    pub fn parse(args: impl IntoIterator<Item = std::ffi::OsString>) -> Result<Self, String> {
        let mut args = args.into_iter();
        let mut parsed = Self { run: PathBuf::new(), generation: 0, build: 0, detach: false };
        while let Some(name) = args.next() {
            let name = name.to_string_lossy().into_owned();
            if name == "--detach" {
                parsed.detach = true;
                continue;
            }
            let value = args.next().ok_or_else(|| format!("keeper: {name} needs a value"))?;
            let number = || value.to_string_lossy().parse::<u64>().map_err(|_| format!("keeper: {name}: not a number"));
            match name.as_str() {
                "--run" => parsed.run = value.clone().into(),
                "--generation" => parsed.generation = number()? as u32,
                "--build" => parsed.build = number()?,
                _ => return Err(format!("keeper: unknown argument {name}")),
            }
        }
        if parsed.run.as_os_str().is_empty() { Err("keeper: --run is missing".into()) } else { Ok(parsed) }
    }
}

#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    #[error("keeper: {0}")]
    System(#[from] linux::Error),
    #[error("keeper: {path}: {source}")]
    Directory { path: PathBuf, source: std::io::Error },
}

pub(crate) fn directory(run: &Path) -> PathBuf {
    run.join("keeper")
}

pub(crate) fn socket_path(run: &Path, generation: u32) -> PathBuf {
    directory(run).join(format!("{generation}.sock"))
}

pub(crate) fn exit_path(run: &Path, id: &str) -> PathBuf {
    directory(run).join(format!("{id}.exit"))
}

/// Ids name files: letters, digits, `_`, `.`, `-`, not beginning with a dot.
pub(crate) fn valid_id(id: &str) -> bool {
    (1..=128).contains(&id.len())
        && !id.starts_with('.')
        && id.bytes().all(|b| b.is_ascii_alphanumeric() || b"_.-".contains(&b))
}

/// A keeper without anything to hold and without an engine ends after this long.
const IDLE_END: Duration = Duration::from_secs(10);
/// Batches of one stream before others have their turn.
const ROUNDS: usize = 4;
/// How long to wait for somebody else to reap what ended after its keeper had died.
const REAP_WAIT_MS: u64 = 2000;

/// Runs until there is nothing to hold and nobody to serve. The token is to be made first thing in `main`.
pub fn serve(token: &SingleThreaded, args: &Args, launcher: &dyn Launcher) -> Result<(), ServeError> {
    let dir = directory(&args.run);
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(&dir)
        .map_err(|source| ServeError::Directory { path: dir, source })?;
    let path = socket_path(&args.run, args.generation);
    // A socket on which nobody listens is left over; one that answers belongs to a living keeper.
    if socket::connect(&path, socket::Kind::SeqPacket).is_err() {
        let _ = std::fs::remove_file(&path);
    }
    let listener = socket::listen(&path, socket::Kind::SeqPacket, 0o600)?;
    if args.detach {
        let child = linux::clone::spawn(token, &Default::default(), || {
            let run = || -> Result<(), ServeError> {
                process::setsid()?;
                // A clone of a single-threaded process has one thread.
                let token = SingleThreaded::new()?;
                Server::new(&token, args, launcher, listener)?.run()
            };
            match run() {
                Ok(()) => 0,
                Err(error) => {
                    eprintln!("{error}");
                    1
                }
            }
        })?;
        drop(child);
        return Ok(());
    }
    Server::new(token, args, launcher, listener)?.run()
}

/// What an epoll token stands for: kind in the upper byte, index below.
mod token {
    pub(super) const LISTENER: u64 = 0;
    pub(super) const SIGNALS: u64 = 1;
    pub(super) const TIMER: u64 = 2;
    pub(super) const CONN: u64 = 3;
    pub(super) const PIDFD: u64 = 4;
    pub(super) const REPORT: u64 = 5;
    pub(super) const STDOUT: u64 = 6;
    pub(super) const STDERR: u64 = 7;
    pub(super) const TTY: u64 = 8;
    pub(super) const SINK_OUT: u64 = 9;
    pub(super) const SINK_ERR: u64 = 10;

    pub(super) fn new(kind: u64, index: usize) -> u64 {
        kind << 56 | index as u64
    }

    pub(super) fn split(token: u64) -> (u64, usize) {
        (token >> 56, (token & (u64::MAX >> 8)) as usize)
    }
}

struct Server<'a> {
    token: &'a SingleThreaded,
    args: &'a Args,
    launcher: &'a dyn Launcher,
    listener: OwnedFd,
    epoll: Epoll,
    signals: SignalFd,
    timer: Timer,
    plumbing: Plumbing,
    slots: Vec<Option<Held>>,
    by_id: BTreeMap<String, usize>,
    conns: Vec<Option<Conn>>,
    /// Streams that may have more to move.
    busy: VecDeque<(usize, Stream)>,
    /// The message that is being received.
    buf: Vec<u8>,
    /// Something waits for time to pass: an unfinished line, an end not yet explained, an idle keeper's own end.
    timer_wanted: bool,
    idle_since_ms: u64,
    /// The connection that hands over: until its `Resume` nothing is moved.
    adopting: Option<usize>,
    ended: bool,
}

impl<'a> Server<'a> {
    fn new(
        token: &'a SingleThreaded,
        args: &'a Args,
        launcher: &'a dyn Launcher,
        listener: OwnedFd,
    ) -> linux::Result<Self> {
        let _ = linux::rlimit::raise_soft(linux::rlimit::Resource::NOFILE);
        let _ = process::set_name(c"knarr-keeper");
        let _ = process::chdir("/");
        let epoll = Epoll::new()?;
        let signals = SignalFd::new(&[1, 2, 15])?;
        let timer = Timer::new()?;
        epoll.add(&listener, token::new(token::LISTENER, 0), Interest::IN)?;
        epoll.add(&signals, token::new(token::SIGNALS, 0), Interest::IN)?;
        epoll.add(&timer, token::new(token::TIMER, 0), Interest::IN)?;
        let mut server = Self {
            token,
            args,
            launcher,
            listener,
            epoll,
            signals,
            timer,
            plumbing: Plumbing::new()?,
            slots: Vec::new(),
            by_id: BTreeMap::new(),
            conns: Vec::new(),
            busy: VecDeque::new(),
            buf: vec![0; MESSAGE_MAX],
            timer_wanted: false,
            idle_since_ms: now_ms(),
            adopting: None,
            ended: false,
        };
        server.want_timer();
        Ok(server)
    }

    fn run(&mut self) -> Result<(), ServeError> {
        let mut ready = Vec::new();
        while !self.ended {
            let timeout = if self.busy.is_empty() || self.adopting.is_some() { -1 } else { 0 };
            self.epoll.wait(&mut ready, timeout)?;
            for event in &ready {
                self.handle(*event);
            }
            if self.adopting.is_none()
                && let Some((slot, stream)) = self.busy.pop_front()
            {
                self.pump(slot, stream);
            }
        }
        let _ = std::fs::remove_file(socket_path(&self.args.run, self.args.generation));
        Ok(())
    }

    fn handle(&mut self, ready: Ready) {
        let (kind, index) = token::split(ready.token);
        match kind {
            token::LISTENER => self.accept(),
            token::SIGNALS => {
                // Asked to go: only if nobody would be left alone.
                while let Ok(Some(_)) = self.signals.read() {
                    self.ended |= self.by_id.is_empty();
                }
            }
            token::TIMER => self.tick(),
            token::CONN => self.serve_conn(index, ready.events),
            token::PIDFD if self.adopting.is_none() => self.process_ended(index),
            token::REPORT => self.launch_news(index),
            token::SINK_OUT | token::SINK_ERR => {
                let stream = if kind == token::SINK_OUT { Stream::Stdout } else { Stream::Stderr };
                if ready.events.contains(Interest::ERR) {
                    self.drop_left_sinks(index, stream);
                }
                self.mark_busy(index, stream);
            }
            token::STDOUT | token::TTY => self.mark_busy(index, Stream::Stdout),
            token::STDERR => self.mark_busy(index, Stream::Stderr),
            _ => {}
        }
    }

    fn mark_busy(&mut self, slot: usize, stream: Stream) {
        if !self.busy.contains(&(slot, stream)) {
            self.busy.push_back((slot, stream));
        }
    }

    // Time.

    fn want_timer(&mut self) {
        if !self.timer_wanted {
            self.timer_wanted = self.timer.arm(Duration::from_secs(1)).is_ok();
        }
    }

    /// For what is about to be known.
    fn want_timer_soon(&mut self) {
        self.timer_wanted = self.timer.arm(Duration::from_millis(5)).is_ok();
    }

    fn tick(&mut self) {
        self.timer.acknowledge();
        self.timer_wanted = false;
        let now = now_ms();
        let mut again = false;
        let mut old = Vec::new();
        let mut ending = Vec::new();
        for (slot, held) in self.slots.iter().enumerate() {
            let Some(held) = held else { continue };
            for source in [&held.stdout, &held.stderr].into_iter().flatten() {
                if source.tail_is_old(now) {
                    old.push((slot, source.stream));
                }
                again |= source.has_tail();
            }
            if held.ending {
                ending.push(slot);
            }
        }
        for (slot, stream) in old {
            self.mark_busy(slot, stream);
        }
        for slot in ending {
            self.process_ended(slot);
        }
        if self.busy.is_empty() {
            self.plumbing.rest();
        }
        let alone = self.by_id.is_empty() && self.conns.iter().all(Option::is_none);
        if !alone {
            self.idle_since_ms = now;
        } else if now - self.idle_since_ms >= IDLE_END.as_millis() as u64 {
            self.ended = true;
        }
        if again || alone || self.plumbing.is_big() {
            self.want_timer();
        }
    }

    // Connections.

    fn accept(&mut self) {
        while let Ok(Some(fd)) = socket::accept(&self.listener) {
            // The directory is closed to others; this is the second lock.
            let allowed = socket::peer(&fd).is_ok_and(|peer| peer.uid == linux::cred::effective_ids().0);
            if !allowed {
                continue;
            }
            let index = free_place(&mut self.conns);
            if self.epoll.add(&fd, token::new(token::CONN, index), Interest::IN).is_ok() {
                self.conns[index] = Some(Conn::new(fd));
            }
        }
    }

    fn serve_conn(&mut self, index: usize, events: Interest) {
        if events.intersects(Interest::OUT) {
            self.flush(index);
        }
        if !events.intersects(Interest::IN | Interest::HUP | Interest::ERR) {
            return;
        }
        loop {
            let Some(conn) = self.conns.get(index).and_then(Option::as_ref) else { return };
            let mut fds = Vec::new();
            match socket::recv(&conn.fd, &mut self.buf, &mut fds) {
                Ok(received) if received.len == 0 || received.truncated => return self.drop_conn(index),
                Ok(received) => {
                    let bytes = self.buf[..received.len].to_vec();
                    self.message(index, &bytes, fds);
                }
                Err(error) if error.is(Errno::AGAIN) => return,
                Err(error) if error.is(Errno::INTR) => {}
                Err(_) => return self.drop_conn(index),
            }
        }
    }

    fn drop_conn(&mut self, index: usize) {
        if let Some(conn) = self.conns[index].take() {
            let _ = self.epoll.delete(&conn.fd);
        }
        for held in self.slots.iter_mut().flatten() {
            if let Some(launch) = &mut held.launch
                && launch.asker.is_some_and(|asker| asker.conn == index)
            {
                launch.asker = None;
            }
        }
        if self.adopting == Some(index) {
            self.resume(index);
        }
        self.idle_since_ms = now_ms();
        self.want_timer();
    }

    fn send(&mut self, index: usize, message: &ToClient) {
        match encode(message) {
            Ok(bytes) => self.queue(index, Out::Bytes(bytes)),
            Err(error) => eprintln!("keeper: {error}"),
        }
    }

    fn queue(&mut self, index: usize, out: Out) {
        let Some(conn) = self.conns.get_mut(index).and_then(Option::as_mut) else { return };
        conn.outbox.push_back(out);
        if conn.outbox.len() > OUTBOX_MAX {
            return self.drop_conn(index);
        }
        if !conn.stuck {
            self.flush(index);
        }
    }

    fn flush(&mut self, index: usize) {
        loop {
            let Some(conn) = self.conns.get(index).and_then(Option::as_ref) else { return };
            let sent = match conn.outbox.front() {
                None => break,
                Some(Out::Bytes(bytes)) => conn.send(bytes, &[]),
                Some(Out::Common) => {
                    let Ok(bytes) = encode(&ToClient::Common) else { return };
                    let Plumbing { journal, aux, .. } = &self.plumbing;
                    conn.send(&bytes, &[journal.as_fd(), aux.0.as_fd(), aux.1.as_fd()])
                }
                Some(Out::Held(slot)) => match self.slots.get(*slot).and_then(Option::as_ref) {
                    None => Sent::Yes,
                    Some(held) => {
                        let (message, fds) = held.message(*slot);
                        let Ok(bytes) = encode(&ToClient::Held(message)) else { return };
                        conn.send(&bytes, &fds)
                    }
                },
            };
            let Some(conn) = self.conns[index].as_mut() else { return };
            match sent {
                Sent::Yes => {
                    conn.outbox.pop_front();
                }
                Sent::Later => {
                    conn.stuck = true;
                    let both = Interest::IN | Interest::OUT;
                    let _ = self.epoll.modify(&conn.fd, token::new(token::CONN, index), both);
                    return;
                }
                Sent::Broken => return self.drop_conn(index),
            }
        }
        if let Some(conn) = self.conns[index].as_mut()
            && std::mem::replace(&mut conn.stuck, false)
        {
            let _ = self.epoll.modify(&conn.fd, token::new(token::CONN, index), Interest::IN);
        }
    }

    fn tell_all(&mut self, message: &ToClient) {
        for index in 0..self.conns.len() {
            if self.conns[index].as_ref().is_some_and(|conn| conn.greeted) {
                self.send(index, message);
            }
        }
    }

    fn tell_held(&mut self, slot: usize) {
        for index in 0..self.conns.len() {
            if self.conns[index].as_ref().is_some_and(|conn| conn.greeted) {
                self.queue(index, Out::Held(slot));
            }
        }
    }

    // Messages.

    fn message(&mut self, index: usize, bytes: &[u8], fds: Vec<OwnedFd>) {
        let greeted = self.conns[index].as_ref().is_some_and(|conn| conn.greeted);
        if !greeted {
            return match Hello::decode(bytes) {
                Some(hello) if hello.protocol >= 1 => self.greet(index),
                _ => self.drop_conn(index),
            };
        }
        match postcard::from_bytes::<FromClient>(bytes) {
            Ok(FromClient::Inherit) => self.inherit(index, fds),
            Ok(FromClient::Adopt(message)) => self.adopt(message, fds),
            Ok(FromClient::Resume) => self.resume(index),
            Ok(FromClient::Request { seq, request }) => {
                let asker = Asker { conn: index, seq };
                match self.request(asker, request, fds) {
                    Ok(Some(warnings)) => self.send(index, &ToClient::Reply { seq, result: Ok(warnings) }),
                    // Answered later.
                    Ok(None) => {}
                    Err(fault) => self.send(index, &ToClient::Reply { seq, result: Err(fault) }),
                }
            }
            Err(_) => self.drop_conn(index),
        }
    }

    fn greet(&mut self, index: usize) {
        let hello = Hello { protocol: PROTOCOL, build: self.args.build, pid: std::process::id() as i32 };
        if let Some(conn) = self.conns[index].as_mut() {
            conn.greeted = true;
        }
        self.queue(index, Out::Bytes(hello.encode()));
        self.queue(index, Out::Common);
        for slot in 0..self.slots.len() {
            if self.slots[slot].is_some() {
                self.queue(index, Out::Held(slot));
            }
        }
        self.send(index, &ToClient::Listed);
    }

    fn request(&mut self, asker: Asker, request: Request, fds: Vec<OwnedFd>) -> Result<Option<Vec<String>>, Fault> {
        match request {
            Request::Start { id, kind, stdio, log, gated, sinks } => {
                self.start(asker, id, kind, stdio, log, gated, &sinks, fds)?;
                Ok(None)
            }
            Request::Release { id } => {
                let slot = self.slot(&id)?;
                let held = self.slots[slot].as_mut().ok_or(Fault::NotHeld)?;
                let Some(launch) = held.launch.as_mut().filter(|_| held.phase == Phase::Gated) else {
                    return Err(refuse(RefusedKind::Invalid, "it does not wait at a gate"));
                };
                launch.asker = Some(asker);
                open_gate(launch);
                Ok(None)
            }
            Request::Subscribe { id, sinks } => {
                let slot = self.slot(&id)?;
                self.subscribe(slot, &sinks, fds);
                Ok(Some(Vec::new()))
            }
            Request::CloseStdin { id } => {
                let slot = self.slot(&id)?;
                if let Some(held) = self.slots[slot].as_mut() {
                    held.stdin = None;
                }
                Ok(Some(Vec::new()))
            }
            Request::Forget { id } => {
                let slot = self.slot(&id)?;
                let ended = self.slots[slot].as_ref().is_some_and(|held| matches!(held.phase, Phase::Ended(_)));
                if !ended {
                    return Err(Fault::StillRunning);
                }
                self.let_go(slot);
                let _ = std::fs::remove_file(exit_path(&self.args.run, &id));
                Ok(Some(Vec::new()))
            }
            Request::Quit => {
                if !self.by_id.is_empty() {
                    return Err(Fault::StillRunning);
                }
                self.ended = true;
                Ok(Some(Vec::new()))
            }
        }
    }

    fn slot(&self, id: &str) -> Result<usize, Fault> {
        self.by_id.get(id).copied().ok_or(Fault::NotHeld)
    }

    // Starting.

    #[expect(clippy::too_many_arguments, reason = "the fields of one message")]
    fn start(
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
            launch: Some(Launch { child, gate, gated, asker: Some(asker), warnings }),
            ending: false,
            ending_since_ms: 0,
        };
        self.slots[slot] = Some(held);
        self.by_id.insert(id, slot);
        if matches!(stdio, Stdio::Tty { .. }) {
            // The master comes later; subscribers can be there before it.
            if let Err(error) = self.make_tty_pipe(slot) {
                eprintln!("keeper: {error}");
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

    fn make_tty_pipe(&mut self, slot: usize) -> linux::Result<()> {
        let (read, write) = output_pipe()?;
        pipe::set_nonblocking(&write, true)?;
        if let Some(held) = self.slots[slot].as_mut() {
            held.stdout = Some(Source::new(Stream::Stdout, read, Vec::new()));
            held.tty_pipe = Some(write);
        }
        Ok(())
    }

    /// Puts everything of a slot that can become ready into the epoll set.
    fn watch(&self, slot: usize) {
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
            eprintln!("keeper: {}: {error}", held.id);
        }
    }

    fn subscribe(&mut self, slot: usize, roles: &[SinkRole], fds: Vec<OwnedFd>) {
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

    fn sinks_closed(&mut self, slot: usize, keys: Vec<u64>) {
        let Some(id) = self.slots[slot].as_ref().map(|held| held.id.clone()) else { return };
        for key in keys {
            self.tell_all(&ToClient::SinkClosed { id: id.clone(), key });
        }
    }

    fn launch_news(&mut self, slot: usize) {
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
                    if let Err(failure) = launch.child.run_hooks() {
                        return self.launch_failed(slot, failure);
                    }
                }
                Event::Ready => {
                    // The engine was told of it when it was cloned. A child that is gone is noticed through its pidfd.
                    let _ = launch.child.commit();
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

    fn end_launch(&mut self, slot: usize) {
        if let Some(launch) = self.slots[slot].as_mut().and_then(|held| held.launch.take()) {
            let _ = self.epoll.delete(launch.child.report());
        }
    }

    fn launch_failed(&mut self, slot: usize, failure: runtime::Failure) {
        let Some(held) = self.slots[slot].as_mut() else { return };
        let asker = held.launch.as_ref().and_then(|launch| launch.asker);
        // The child is ending by itself; it does not linger if something went wrong with that.
        let _ = pidfd::send_signal(&held.pidfd, 9);
        let _ = pidfd::wait(&held.pidfd, true);
        self.end_launch(slot);
        self.let_go(slot);
        self.answer(asker, Err(Fault::Launch(failure)));
    }

    fn set_phase(&mut self, slot: usize, phase: Phase) {
        if let Some(held) = self.slots[slot].as_mut() {
            held.phase = phase;
        }
    }

    fn answer(&mut self, asker: Option<Asker>, result: Result<Vec<String>, Fault>) {
        if let Some(asker) = asker {
            self.send(asker.conn, &ToClient::Reply { seq: asker.seq, result });
        }
    }

    // Output.

    fn pump(&mut self, slot: usize, stream: Stream) {
        let mut closed = Vec::new();
        let mut outcome = Pumped::More;
        for _ in 0..ROUNDS {
            outcome = self.pump_once(slot, stream, &mut closed);
            if outcome != Pumped::More {
                break;
            }
        }
        match outcome {
            Pumped::More => self.mark_busy(slot, stream),
            // What an exec has left running in the background does not keep its streams open.
            Pumped::Idle { .. } if self.is_ended_exec(slot) => self.end_stream(slot, stream, &mut closed),
            Pumped::Idle { tail: true } => self.want_timer(),
            // A subscriber's pipe reports room by itself.
            Pumped::Idle { tail: false } | Pumped::Blocked => {}
            Pumped::Ended => self.end_stream(slot, stream, &mut closed),
        }
        self.sinks_closed(slot, closed);
        if self.plumbing.is_big() {
            self.want_timer();
        }
    }

    fn is_ended_exec(&self, slot: usize) -> bool {
        let held = self.slots.get(slot).and_then(Option::as_ref);
        held.is_some_and(|held| held.kind == Kind::Exec && matches!(held.phase, Phase::Ended(_)))
    }

    fn pump_once(&mut self, slot: usize, stream: Stream, closed: &mut Vec<u64>) -> Pumped {
        let Some(held) = self.slots.get_mut(slot).and_then(Option::as_mut) else {
            return Pumped::Idle { tail: false };
        };
        let mut more = false;
        if let (Some(tty), Some(into), Stream::Stdout) = (&held.tty, &held.tty_pipe, stream) {
            // EIO: nobody has the terminal open right now.
            let moved = pipe::splice(tty, into, PIPE_SIZE, Splice::NONBLOCK);
            more = moved.as_ref().is_ok_and(|n| *n > 0);
            let empty = moved.is_err_and(|error| !error.is(Errno::AGAIN))
                || held.stdout.as_ref().is_some_and(|source| pipe::available(&source.fd).is_ok_and(|n| n == 0));
            if !more && empty && matches!(held.phase, Phase::Ended(_)) {
                // Nothing will come any more. (The engine's duplicate keeps the pipe behind the terminal from ending by itself.)
                let _ = self.epoll.delete(tty);
                held.tty = None;
                held.tty_pipe = None;
                held.stdout.iter_mut().for_each(|source| source.closing = true);
            }
        }
        let Held { log, stdout, stderr, .. } = held;
        let source = match stream {
            Stream::Stdout => stdout.as_mut(),
            Stream::Stderr => stderr.as_mut(),
        };
        let Some(source) = source else { return Pumped::Idle { tail: false } };
        match self.plumbing.pump(slot, source, log.as_mut(), now_ms(), closed) {
            Ok(Pumped::Idle { .. }) if more => Pumped::More,
            Ok(outcome) => outcome,
            Err(error) => {
                eprintln!("keeper: {} {}: {error}", held.id, stream.name());
                Pumped::Idle { tail: false }
            }
        }
    }

    /// Subscribers whose reader has gone. A container that writes nothing would never find out by writing.
    fn drop_left_sinks(&mut self, slot: usize, stream: Stream) {
        let Some(source) = self.slots.get_mut(slot).and_then(Option::as_mut).and_then(|held| held.source(stream))
        else {
            return;
        };
        let mut closed = Vec::new();
        // Nothing is asked for: what a poll reports unasked is that the other end is gone.
        for sink in
            source.sinks.extract_if(.., |sink| linux::epoll::poll_one(&sink.fd, Interest::empty(), 0).unwrap_or(true))
        {
            let _ = self.epoll.delete(&sink.fd);
            closed.push(sink.key);
        }
        self.sinks_closed(slot, closed);
    }

    fn end_stream(&mut self, slot: usize, stream: Stream, closed: &mut Vec<u64>) {
        let Some(held) = self.slots[slot].as_mut() else { return };
        let source = match stream {
            Stream::Stdout => held.stdout.take(),
            Stream::Stderr => held.stderr.take(),
        };
        if let Some(source) = source {
            let _ = self.epoll.delete(&source.fd);
            for sink in source.sinks {
                let _ = self.epoll.delete(&sink.fd);
                closed.push(sink.key);
            }
        }
    }

    // Ends.

    fn process_ended(&mut self, slot: usize) {
        let Some(held) = self.slots.get_mut(slot).and_then(Option::as_mut) else { return };
        if matches!(held.phase, Phase::Ended(_)) {
            return;
        }
        if held.launch.is_some() {
            // The report says why; without one more word it ended before it got anywhere.
            self.launch_news(slot);
            let Some(held) = self.slots.get_mut(slot).and_then(Option::as_mut) else { return };
            if held.launch.is_some() {
                let cause = runtime::Cause::refused(RefusedKind::Internal, "the child ended without a word");
                return self.launch_failed(slot, cause.at("launch".into()));
            }
            return self.process_ended(slot);
        }
        let now = now_ms();
        if !std::mem::replace(&mut held.ending, true) {
            held.ending_since_ms = now;
            let _ = self.epoll.delete(&held.pidfd);
        }
        let exit = match how_it_ended(held) {
            Some(exit) => Some(exit),
            None if now - held.ending_since_ms < REAP_WAIT_MS => return self.want_timer_soon(),
            None => None,
        };
        held.ending = false;
        let exited = Exited { exit, at: process::wall_clock() };
        let id = held.id.clone();
        // Its last words come before its end.
        for stream in [Stream::Stdout, Stream::Stderr] {
            self.drain(slot, stream);
        }
        if let Some(held) = self.slots[slot].as_mut() {
            held.stdin = None;
            held.phase = Phase::Ended(exited);
        }
        // Now that it has ended, streams may end.
        self.mark_busy(slot, Stream::Stdout);
        self.mark_busy(slot, Stream::Stderr);
        crash::point("keeper.exit.before_record");
        if let Err(error) = write_exit(&self.args.run, &id, &exited) {
            eprintln!("keeper: exit of {id}: {error}");
        }
        crash::point("keeper.exit.recorded");
        self.tell_all(&ToClient::Exited { id, exited });
    }

    /// Moves what is there now, as far as subscribers take it.
    fn drain(&mut self, slot: usize, stream: Stream) {
        let mut closed = Vec::new();
        // A writer that outlives the process must not hold up its end.
        for _ in 0..1000 {
            match self.pump_once(slot, stream, &mut closed) {
                Pumped::More => {}
                Pumped::Ended => {
                    self.end_stream(slot, stream, &mut closed);
                    break;
                }
                _ => break,
            }
        }
        self.sinks_closed(slot, closed);
    }

    /// Closes everything of a slot.
    fn let_go(&mut self, slot: usize) {
        let mut closed = Vec::new();
        for stream in [Stream::Stdout, Stream::Stderr] {
            self.end_stream(slot, stream, &mut closed);
        }
        self.sinks_closed(slot, closed);
        if let Some(held) = self.slots[slot].take() {
            let _ = self.epoll.delete(&held.pidfd);
            if let Some(tty) = &held.tty {
                let _ = self.epoll.delete(tty);
            }
            self.by_id.remove(&held.id);
        }
        self.busy.retain(|(busy, _)| *busy != slot);
        self.idle_since_ms = now_ms();
        self.want_timer();
    }

    // Handover.

    fn inherit(&mut self, index: usize, fds: Vec<OwnedFd>) {
        let Ok([journal, read, write]) = <[OwnedFd; 3]>::try_from(fds) else { return self.drop_conn(index) };
        if !self.by_id.is_empty() {
            eprintln!("keeper: refused to inherit: it holds something already");
            return self.drop_conn(index);
        }
        let plumbing = Journal::inherit(File::from(journal)).and_then(|journal| Plumbing::with(journal, (read, write)));
        match plumbing {
            Ok(plumbing) => {
                self.plumbing = plumbing;
                self.adopting = Some(index);
            }
            Err(error) => {
                eprintln!("keeper: inherit: {error}");
                self.drop_conn(index);
            }
        }
    }

    fn adopt(&mut self, message: HeldMessage, fds: Vec<OwnedFd>) {
        let record = message.record;
        let slot = record.slot as usize;
        let taken = self.slots.get(slot).is_some_and(Option::is_some) || self.by_id.contains_key(&record.id);
        if slot >= SLOTS_MAX || taken || !valid_id(&record.id) {
            return eprintln!("keeper: refused to adopt {:?} at {slot}", record.id);
        }
        if self.slots.len() <= slot {
            self.slots.resize_with(slot + 1, || None);
        }
        let mut pidfd = None;
        let (mut stdout, mut stderr, mut stdin, mut tty, mut tty_pipe) = (None, None, None, None, None);
        let mut sinks = Vec::new();
        for (role, fd) in message.roles.iter().zip(fds) {
            match role {
                Role::Pidfd => pidfd = Some(fd),
                Role::Stdout => stdout = Some(Source::new(Stream::Stdout, fd, Vec::new())),
                Role::Stderr => stderr = Some(Source::new(Stream::Stderr, fd, Vec::new())),
                Role::Stdin => stdin = Some(fd),
                Role::Tty => tty = Some(fd),
                Role::TtyPipe => tty_pipe = Some(fd),
                Role::Sink(role) => sinks.push((*role, fd)),
            }
        }
        let Some(pidfd) = pidfd else { return eprintln!("keeper: refused to adopt {:?}: no pidfd", record.id) };
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
            launch: None,
            ending: false,
            ending_since_ms: 0,
        });
        self.by_id.insert(record.id, slot);
        self.watch(slot);
        if ended && let Some(held) = self.slots[slot].as_ref() {
            let _ = self.epoll.delete(&held.pidfd);
        }
        let (roles, fds): (Vec<_>, Vec<_>) = sinks.into_iter().unzip();
        self.subscribe(slot, &roles, fds);
    }

    fn resume(&mut self, index: usize) {
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
            eprintln!("keeper: recovery: {error}");
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
        self.send(index, &ToClient::Listed);
    }
}

/// Our own children are reaped; what was adopted is reaped by init, and the kernel (6.15) or, if we are quick, `/proc` tells.
fn how_it_ended(held: &Held) -> Option<process::Exit> {
    match pidfd::wait(&held.pidfd, false) {
        Ok(exit) => exit,
        Err(_) => {
            let zombie = || {
                let stat = proc::stat(held.pid).ok()?;
                let same = stat.start_time == held.start_time && stat.state == 'Z';
                same.then(|| process::Exit::from_wait_status(stat.exit_status))
            };
            pidfd::info(&held.pidfd).ok().and_then(|info| info.exit).or_else(zombie)
        }
    }
}

fn open_gate(launch: &mut Launch) {
    if let Some(gate) = launch.gate.take() {
        crash::point("keeper.start.before_gate");
        // A child that is gone is noticed through its pidfd.
        let _ = pipe::write(&gate, b"g");
    }
}

fn write_exit(run: &Path, id: &str, exited: &Exited) -> std::io::Result<()> {
    let path = exit_path(run, id);
    let temporary = path.with_extension("exit.new");
    std::fs::write(&temporary, serde_json::to_vec(exited)?)?;
    std::fs::rename(temporary, path)
}

/// The plan out of sealed memory, so that nobody can change it while it is read.
fn read_plan(fd: Option<OwnedFd>) -> linux::Result<Vec<u8>> {
    let file = File::from(fd.ok_or_else(|| linux::Error::new("plan", "no descriptor", Errno::BADF))?);
    linux::memfd::check_sealed(&file)?;
    let mut plan = vec![0; linux::fs::fstat(&file)?.st_size as usize];
    linux::Attempt::attempt(file.read_exact_at(&mut plan, 0), "read", format_args!("plan"))?;
    Ok(plan)
}

/// A pipe whose read end does not block.
fn output_pipe() -> linux::Result<(OwnedFd, OwnedFd)> {
    let (read, write) = pipe::pipe()?;
    pipe::set_nonblocking(&read, true)?;
    // Refused to an unprivileged user who has many: the default works as well.
    let _ = pipe::set_size(&read, PIPE_SIZE);
    Ok((read, write))
}

fn dev_null() -> linux::Result<OwnedFd> {
    linux::Attempt::attempt(File::open("/dev/null"), "open", format_args!("/dev/null")).map(OwnedFd::from)
}

fn free_place<T>(places: &mut Vec<Option<T>>) -> usize {
    places.iter().position(Option::is_none).unwrap_or_else(|| {
        places.push(None);
        places.len() - 1
    })
}

fn refuse(kind: RefusedKind, message: impl Into<String>) -> Fault {
    Fault::Refused { kind, message: message.into() }
}

fn system(error: linux::Error) -> Fault {
    Fault::Launch(runtime::Cause::Call(error).at("prepare".into()))
}

/// Milliseconds of a clock that only goes forward.
fn now_ms() -> u64 {
    use std::sync::OnceLock;
    use std::time::Instant;
    static START: OnceLock<Instant> = OnceLock::new();
    START.get_or_init(Instant::now).elapsed().as_millis() as u64
}
