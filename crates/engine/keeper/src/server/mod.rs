//! The keeper's process: one thread, one epoll loop. It starts what it is asked to start, moves output, notes ends, answers engines.
//!
//! It allocates when something starts and hardly ever after; an idle keeper wakes for nothing. Here are the loop and its books; what it does
//! is told in `conns` (engines and what they ask), `start`, `output`, `end` and `handover`.

mod args;
mod conn;
mod conns;
mod end;
mod handover;
mod held;
pub mod launcher;
mod names;
mod output;
pub(crate) mod pump;
mod start;

use std::collections::{BTreeMap, VecDeque};
use std::os::fd::OwnedFd;
use std::os::unix::fs::DirBuilderExt;
use std::time::Duration;

use linux::clone::SingleThreaded;
use linux::epoll::{Epoll, Interest, Ready};
use linux::signal::SignalFd;
use linux::timer::Timer;
use linux::{process, socket};
use runtime::RefusedKind;

pub use self::args::{Args, ServeError};
pub(crate) use self::args::{directory, exit_path, socket_path, valid_id};
use self::conn::Conn;
use self::held::Held;
use self::launcher::Launcher;
pub use self::names::Order;
use self::pump::Plumbing;
use crate::model::Stream;
use crate::protocol::{Fault, MESSAGE_MAX};

/// A keeper without anything to hold and without an engine ends after this long.
const IDLE_END: Duration = Duration::from_secs(10);

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
                    complain!("{error}");
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
    pub(super) const NAMES: u64 = 11;
    pub(super) const NAMES_END: u64 = 12;

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
    /// Those that answer containers' questions while no engine does; all but the last are about to end.
    names: Vec<Option<names::Helper>>,
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
            names: Vec::new(),
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
            token::NAMES => self.settle_names(),
            token::NAMES_END => self.helper_ended(index),
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
        self.settle_names();
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

/// Milliseconds of a clock that only goes forward.
fn now_ms() -> u64 {
    use std::sync::OnceLock;
    use std::time::Instant;
    static START: OnceLock<Instant> = OnceLock::new();
    START.get_or_init(Instant::now).elapsed().as_millis() as u64
}
