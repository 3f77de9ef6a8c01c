//! The engine's side: starts or finds the keeper, holds duplicates of everything it holds, and puts another in its place when it dies.

mod link;
mod spawn;

use std::collections::{BTreeMap, HashMap};
use std::ffi::OsString;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use vocab::ErrorKind;

use self::link::{Entry, Link, Reader, Reply, SharedSink, Waiting, encoded, send};
use crate::model::{Exited, Kind, LogSpec, Phase, Stdio, Stream};
use crate::protocol::{Fault, FromClient, Record, Request, Role, SinkRole, ToClient, WITH_NAMES};

/// Where the keeper lives and how to start one.
#[derive(Debug, Clone)]
pub struct Config {
    /// The instance's run directory; the keeper's socket and exit files are in `keeper/` below it.
    pub run: PathBuf,
    /// Program and leading arguments that lead to [`crate::serve`]; `--run <run>` and further arguments are appended.
    pub command: Vec<OsString>,
}

#[derive(Debug, Clone, thiserror::Error)]
pub enum Error {
    /// A step of the launch failed: nothing runs, nothing is left.
    #[error("{0}")]
    Launch(runtime::Failure),
    #[error("the keeper holds nothing named {0:?}")]
    NotHeld(String),
    #[error("the keeper already holds {0:?}")]
    Held(String),
    #[error("keeper: {what}: {message}")]
    Refused { what: &'static str, kind: ErrorKind, message: String },
    #[error("keeper: {what}")]
    System {
        what: &'static str,
        #[source]
        source: linux::Error,
    },
    /// The keeper died before it had answered. What was being started has been killed; another keeper takes over.
    #[error("keeper: {0}: it died before it had answered")]
    Died(&'static str),
}

impl Error {
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Launch(failure) => failure.kind(),
            Self::NotHeld(_) => ErrorKind::NotFound,
            Self::Held(_) => ErrorKind::Conflict,
            Self::Refused { kind, .. } => *kind,
            Self::System { source, .. } => source.kind(),
            Self::Died(_) => ErrorKind::Unavailable,
        }
    }
}

pub type Result<T> = std::result::Result<T, Error>;

/// Something that a keeper holds.
#[derive(Debug, Clone)]
pub struct Held {
    pub id: String,
    pub kind: Kind,
    pub pid: i32,
    /// From `/proc/PID/stat`, in clock ticks after boot: with the pid, an identity of the process.
    pub start_time: u64,
    pub stdio: Stdio,
    pub log: Option<LogSpec>,
    pub phase: Phase,
}

/// What is to be started: a plan as the keeper's launcher understands it.
#[derive(Debug)]
pub struct Work {
    kind: Kind,
    plan: Vec<u8>,
    /// The container's first process, for an exec.
    target: Option<OwnedFd>,
}

impl Work {
    pub fn container(plan: &runtime::Plan) -> Result<Self> {
        Ok(Self { kind: Kind::Container, plan: encode("plan", plan)?, target: None })
    }

    /// `target` is a pidfd of the container's first process ([`Keeper::pidfd`]).
    pub fn exec(plan: &runtime::ExecPlan, target: OwnedFd) -> Result<Self> {
        Ok(Self { kind: Kind::Exec, plan: encode("exec plan", plan)?, target: Some(target) })
    }

    /// Bytes for a launcher other than the runtime's.
    pub fn raw(kind: Kind, plan: Vec<u8>, target: Option<OwnedFd>) -> Self {
        Self { kind, plan, target }
    }
}

fn encode<T: serde::Serialize>(what: &'static str, value: &T) -> Result<Vec<u8>> {
    postcard::to_allocvec(value).map_err(|error| Error::Refused {
        what,
        kind: ErrorKind::Internal,
        message: error.to_string(),
    })
}

#[derive(Debug)]
pub struct StartRequest {
    /// Unique among everything held: a container's or an exec's id (at most 128 bytes of `[a-zA-Z0-9_.-]`).
    pub id: String,
    pub work: Work,
    pub stdio: Stdio,
    pub log: Option<LogSpec>,
    /// Streams that receive output from its first byte on.
    pub sinks: Vec<Sink>,
    /// Wait, fully set up (namespaces exist), until [`Keeper::release`]. Containers only.
    pub gated: bool,
}

/// What runs now (or waits at its gate).
#[derive(Debug)]
pub struct Started {
    pub pid: i32,
    pub start_time: u64,
    pub pidfd: OwnedFd,
    /// Write end of its standard input (`Stdio::Pipes { stdin: true }`). Blocks; closing it alone does not end the input: [`Keeper::close_stdin`].
    pub stdin: Option<OwnedFd>,
    /// Its root file system (no more than a path): as long as this is held the kernel does not let go of the overlay, which it does by writing
    /// everything that is dirty on the disk below. Dropping it blocks. `None` for an exec, or if it could not be had.
    pub root: Option<OwnedFd>,
    /// Master of its terminal, for input (`Stdio::Tty`). Read output through a [`Sink`] only: the keeper reads the master.
    pub tty: Option<OwnedFd>,
    /// What was asked for and could not be had.
    pub warnings: Vec<String>,
}

/// The keeper's end of a subscription to output; hand it to [`StartRequest::sinks`] or [`Keeper::subscribe`].
#[derive(Debug)]
pub struct Sink {
    pub(crate) stdout: Option<OwnedFd>,
    pub(crate) stderr: Option<OwnedFd>,
}

/// The reader's end of a subscription: pipes that end when the process has ended and everything was delivered. A full pipe stops the
/// container's output (back-pressure); dropping an end unsubscribes.
#[derive(Debug)]
pub struct Streams {
    /// Non-blocking read end.
    pub stdout: Option<OwnedFd>,
    /// Non-blocking read end. With a terminal everything is stdout.
    pub stderr: Option<OwnedFd>,
}

impl Sink {
    /// A subscription to one or both streams, raw bytes.
    pub fn new(stdout: bool, stderr: bool) -> Result<(Self, Streams)> {
        let pipe = |wanted: bool| -> Result<(Option<OwnedFd>, Option<OwnedFd>)> {
            if !wanted {
                return Ok((None, None));
            }
            let (read, write) =
                linux::pipe::pipe_nonblocking().map_err(|source| Error::System { what: "subscription", source })?;
            Ok((Some(read), Some(write)))
        };
        let (out_read, out_write) = pipe(stdout)?;
        let (err_read, err_write) = pipe(stderr)?;
        Ok((Self { stdout: out_write, stderr: err_write }, Streams { stdout: out_read, stderr: err_read }))
    }
}

/// What happens without being asked for.
#[derive(Debug, Clone)]
pub enum Event {
    /// A held process ended. It stays held (with its log and exit) until [`Keeper::forget`]. May arrive before the answer to its start is
    /// looked at.
    Exited { id: String, exited: Exited },
    /// A keeper died and this one has taken over what it held, same pids.
    Replaced { pid: i32 },
    /// No keeper could be started; what was held is still held by this process. Tried again with the next request.
    Lost { message: String },
}

/// A handle on the keeper. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Keeper {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    config: Config,
    build: u64,
    state: Mutex<State>,
    /// Held while a keeper is being started.
    starting: tokio::sync::Mutex<()>,
    events: mpsc::UnboundedSender<Event>,
}

#[derive(Debug, Default)]
struct State {
    links: BTreeMap<u32, Link>,
    /// The engine is ending: a keeper that dies now is the next engine's to replace.
    closed: bool,
    /// The highest number ever used.
    generation: u32,
    seq: u64,
    key: u64,
}

impl State {
    fn owner(&mut self, id: &str) -> Result<(u32, &mut Link)> {
        let found = self.links.iter_mut().find(|(_, link)| link.held.contains_key(id));
        found.map(|(generation, link)| (*generation, link)).ok_or_else(|| Error::NotHeld(id.to_owned()))
    }

    fn entry(&mut self, id: &str) -> Result<&mut Entry> {
        let (_, link) = self.owner(id)?;
        link.held.get_mut(id).ok_or_else(|| Error::NotHeld(id.to_owned()))
    }
}

impl Keeper {
    /// From now on no keeper is started in place of one that dies: the engine is ending.
    pub fn close(&self) {
        self.shared.state().closed = true;
    }

    /// [`Self::close`], and keepers that hold nothing end.
    pub async fn leave(&self) {
        self.close();
        let empty: Vec<u32> = {
            let state = self.shared.state();
            let empty = state.links.iter().filter(|(_, link)| !link.dead && link.held.is_empty());
            empty.map(|(generation, _)| *generation).collect()
        };
        for generation in empty {
            // Refused if something has just been started there; one that is dead has ended already.
            let _ = self.shared.ask(generation, "quit", Request::Quit, &[], None).await;
        }
    }

    /// Finds the keepers of this run directory, starts one if none fits, and tells what they hold. Events of processes that ended before are
    /// not repeated: their phase says so.
    pub async fn connect_or_spawn(config: Config) -> Result<(Self, Vec<Held>, mpsc::UnboundedReceiver<Event>)> {
        let build = spawn::fingerprint(&config)?;
        let (events, receiver) = mpsc::unbounded_channel();
        let run = config.run.clone();
        let shared = Arc::new(Shared {
            config,
            build,
            state: Mutex::default(),
            starting: tokio::sync::Mutex::default(),
            events,
        });
        for generation in spawn::generations(&run) {
            match link::connect(&shared.config, generation).await {
                Ok((link, reader)) => shared.install(generation, link, reader),
                Err(_) => spawn::remove_socket(&run, generation),
            }
            let mut state = shared.state();
            state.generation = state.generation.max(generation);
        }
        shared.current().await?;
        let held = shared.state().links.values().flat_map(|link| link.held.values().map(Entry::held)).collect();
        Ok((Self { shared }, held, receiver))
    }

    /// Starts it and answers once the program runs (or, gated, once it waits).
    pub async fn start(&self, request: StartRequest) -> Result<Started> {
        let StartRequest { id, work, stdio, log, sinks, gated } = request;
        if !crate::server::valid_id(&id) {
            let message = format!("invalid id {id:?}");
            return Err(Error::Refused { what: "start", kind: ErrorKind::Invalid, message });
        }
        let plan =
            linux::memfd::sealed("plan", &work.plan).map_err(|source| Error::System { what: "start", source })?;
        let generation = self.shared.current().await?;
        let sinks = self.shared.number(sinks);
        let mut fds = vec![plan.as_fd()];
        fds.extend(work.target.as_ref().map(AsFd::as_fd));
        let copies = copies(&sinks);
        fds.extend(copies.iter().map(|fd| fd.as_fd()));
        let roles = sinks.iter().map(|(role, _)| *role).collect();
        let message = Request::Start { id: id.clone(), kind: work.kind, stdio, log, gated, sinks: roles };
        {
            let mut state = self.shared.state();
            if state.owner(&id).is_ok() {
                return Err(Error::Held(id));
            }
            let link = state.links.get_mut(&generation).ok_or(Error::Died("start"))?;
            link.early_sinks.insert(id.clone(), sinks);
        }
        let then = Some((id.clone(), if gated { Phase::Gated } else { Phase::Running }));
        let reply = self.shared.ask(generation, "start", message, &fds, then).await;
        // Only the keeper's and the handover's copies may keep a subscription open.
        drop(copies);
        let mut state = self.shared.state();
        let root = state.links.get_mut(&generation).and_then(|link| {
            link.early_sinks.remove(&id);
            link.roots.remove(&id)
        });
        match reply {
            Ok(Some(Ok(warnings))) => Ok(Started { root, ..state.entry(&id)?.started(warnings)? }),
            Ok(Some(Err(fault))) => Err(refused("start", &id, fault)),
            Ok(None) => Err(Error::Died("start")),
            Err(error) => Err(error),
        }
    }

    /// Lets a gated container execute its program, and answers once it does. If that fails, nothing runs and nothing is held any more.
    pub async fn release(&self, id: &str) -> Result<()> {
        let (generation, _) = self.shared.state().owner(id).map(|(generation, link)| (generation, link.pid))?;
        let then = Some((id.to_owned(), Phase::Running));
        match self.shared.ask(generation, "release", Request::Release { id: id.to_owned() }, &[], then).await? {
            Some(Ok(_)) => Ok(()),
            Some(Err(fault)) => Err(refused("release", id, fault)),
            None => Err(Error::Died("release")),
        }
    }

    /// Adds a subscription to the output from now on.
    pub async fn subscribe(&self, id: &str, sink: Sink) -> Result<()> {
        let sinks = self.shared.number(vec![sink]);
        let copies = copies(&sinks);
        let roles = sinks.iter().map(|(role, _)| *role).collect();
        let generation = {
            let mut state = self.shared.state();
            let (generation, link) = state.owner(id)?;
            if let Some(entry) = link.held.get_mut(id) {
                entry.sinks.extend(sinks);
            }
            generation
        };
        let fds: Vec<BorrowedFd<'_>> = copies.iter().map(|fd| fd.as_fd()).collect();
        let request = Request::Subscribe { id: id.to_owned(), sinks: roles };
        // A keeper that dies meanwhile leaves the subscription to the next one.
        self.shared.tell(generation, "subscribe", id, request, &fds).await
    }

    /// A duplicate of the pidfd, for signals and for joining namespaces.
    pub fn pidfd(&self, id: &str) -> Result<OwnedFd> {
        self.shared.state().entry(id)?.duplicate(Role::Pidfd)?.ok_or_else(|| Error::NotHeld(id.to_owned()))
    }

    /// A duplicate of the write end of standard input, or of the terminal's master; `None` if it has neither (any more).
    pub fn stdin(&self, id: &str) -> Result<Option<OwnedFd>> {
        let mut state = self.shared.state();
        let entry = state.entry(id)?;
        match entry.duplicate(Role::Stdin)? {
            Some(fd) => Ok(Some(fd)),
            None => entry.duplicate(Role::Tty),
        }
    }

    /// Closes the duplicates of standard input that keeper and client hold: with the caller's own closed, the program reads its end.
    pub async fn close_stdin(&self, id: &str) -> Result<()> {
        let generation = {
            let mut state = self.shared.state();
            state.entry(id)?.drop_fd(Role::Stdin);
            state.owner(id)?.0
        };
        self.shared.tell(generation, "close stdin", id, Request::CloseStdin { id: id.to_owned() }, &[]).await
    }

    /// The resolver of a container that ran before this engine: duplicates of its UDP socket and its TCP listener.
    pub fn names(&self, id: &str) -> Result<Option<(OwnedFd, OwnedFd)>> {
        let mut state = self.shared.state();
        let entry = state.entry(id)?;
        Ok(entry.duplicate(Role::NamesUdp)?.zip(entry.duplicate(Role::NamesTcp)?))
    }

    /// This engine answers the container's resolver from now on; when it is gone, the keeper sees to it that somebody does.
    /// `sockets`, UDP and TCP, where the keeper has none yet. A keeper of an older program takes none: nobody answers then.
    pub async fn answer_names(&self, id: &str, sockets: Option<(OwnedFd, OwnedFd)>) -> Result<()> {
        let sockets = sockets.map(|(udp, tcp)| [(Role::NamesUdp, Arc::new(udp)), (Role::NamesTcp, Arc::new(tcp))]);
        let copies: Vec<Arc<OwnedFd>> = sockets.iter().flatten().map(|(_, fd)| Arc::clone(fd)).collect();
        let generation = {
            let mut state = self.shared.state();
            let (generation, link) = state.owner(id)?;
            if link.protocol < WITH_NAMES {
                return Ok(());
            }
            if let Some(entry) = link.held.get_mut(id)
                && !matches!(entry.message.record.phase, Phase::Ended(_))
            {
                for (role, fd) in sockets.into_iter().flatten() {
                    entry.drop_fd(role);
                    entry.message.roles.push(role);
                    entry.fds.push(fd);
                }
            }
            generation
        };
        let fds: Vec<BorrowedFd<'_>> = copies.iter().map(|fd| fd.as_fd()).collect();
        self.shared.tell(generation, "answer names", id, Request::Names { id: id.to_owned() }, &fds).await
    }

    /// The terminal's size. Invalid if it has no terminal.
    pub fn resize(&self, id: &str, rows: u16, cols: u16) -> Result<()> {
        let mut state = self.shared.state();
        let tty = state.entry(id)?.fd(Role::Tty).ok_or_else(|| Error::Refused {
            what: "resize",
            kind: ErrorKind::Invalid,
            message: format!("{id} has no terminal"),
        })?;
        linux::pty::set_size(tty, linux::pty::Size { rows, cols })
            .map_err(|source| Error::System { what: "resize", source })
    }

    /// Lets go of what has ended: descriptors, log, exit file. Conflict while it runs. Nothing held by that name is fine: only its exit file, if
    /// there is one, goes.
    pub async fn forget(&self, id: &str) -> Result<()> {
        let owner = {
            let mut state = self.shared.state();
            match state.owner(id) {
                Err(_) => None,
                Ok((generation, link)) => {
                    let ended = link.held.get(id).is_some_and(|e| matches!(e.message.record.phase, Phase::Ended(_)));
                    if !ended {
                        return Err(Error::Refused {
                            what: "forget",
                            kind: ErrorKind::Conflict,
                            message: format!("{id} has not ended"),
                        });
                    }
                    link.held.remove(id);
                    Some(generation)
                }
            }
        };
        match owner {
            Some(generation) => {
                let request = Request::Forget { id: id.to_owned() };
                self.shared.tell(generation, "forget", id, request, &[]).await?;
                self.shared.retire(generation).await;
            }
            None if crate::server::valid_id(id) => {
                let _ = std::fs::remove_file(crate::server::exit_path(&self.shared.config.run, id));
            }
            None => {}
        }
        Ok(())
    }

    /// How something ended that no keeper holds any more because keeper and engine died together. `None` if nothing is known.
    pub fn recorded_exit(&self, id: &str) -> Option<Exited> {
        if !crate::server::valid_id(id) {
            return None;
        }
        let bytes = std::fs::read(crate::server::exit_path(&self.shared.config.run, id)).ok()?;
        serde_json::from_slice(&bytes).ok()
    }

    /// Ids of what has an exit on disk, held or not.
    pub fn recorded_exits(&self) -> Vec<String> {
        let dir = std::fs::read_dir(crate::server::directory(&self.shared.config.run));
        let names = dir.into_iter().flatten().flatten().filter_map(|entry| entry.file_name().into_string().ok());
        names.filter_map(|name| Some(name.strip_suffix(".exit")?.to_owned())).collect()
    }

    /// What is held under this id.
    pub fn held(&self, id: &str) -> Option<Held> {
        self.shared.state().entry(id).ok().map(|entry| entry.held())
    }

    /// All that is held, by whatever keeper.
    pub fn all_held(&self) -> Vec<Held> {
        self.shared.state().links.values().flat_map(|link| link.held.values().map(Entry::held)).collect()
    }

    /// Pids of the living keepers, the one for new work first.
    pub fn pids(&self) -> Vec<i32> {
        let state = self.shared.state();
        let current = |link: &&Link| link.build == self.shared.build;
        let living = state.links.values().rev().filter(|link| !link.dead);
        let (first, others): (Vec<&Link>, Vec<&Link>) = living.partition(current);
        first.into_iter().chain(others).map(|link| link.pid).collect()
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing panics while it holds the lock; if it did, the maps would still be whole.
        self.state.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// The keeper for new work, started if there is none.
    async fn current(self: &Arc<Self>) -> Result<u32> {
        let find = || {
            let state = self.state();
            let found = state.links.iter().rev().find(|(_, link)| !link.dead && link.build == self.build);
            found.map(|(generation, _)| *generation)
        };
        if let Some(generation) = find() {
            return Ok(generation);
        }
        // Also waits for a keeper that is taking over from a dead one.
        let _one_at_a_time = self.starting.lock().await;
        if let Some(generation) = find() {
            return Ok(generation);
        }
        let (generation, link, reader) = self.start_keeper().await?;
        self.install(generation, link, reader);
        Ok(generation)
    }

    async fn start_keeper(self: &Arc<Self>) -> Result<(u32, Link, Reader)> {
        let generation = {
            let mut state = self.state();
            state.generation += 1;
            state.generation
        };
        let shared = Arc::clone(self);
        tokio::task::spawn_blocking(move || spawn::spawn(&shared.config, generation, shared.build))
            .await
            .map_err(|_| Error::Died("start"))??;
        let (link, reader) = link::connect(&self.config, generation).await?;
        Ok((generation, link, reader))
    }

    fn install(self: &Arc<Self>, generation: u32, link: Link, reader: Reader) {
        self.state().links.insert(generation, link);
        tokio::spawn(Arc::clone(self).follow(generation, reader));
    }

    /// Reads what one keeper says until it dies, then puts another in its place, and so on.
    async fn follow(self: Arc<Self>, mut generation: u32, mut reader: Reader) {
        loop {
            self.listen(generation, &mut reader).await;
            spawn::remove_socket(&self.config.run, generation);
            if !self.note_death(generation) {
                return;
            }
            match self.replace(generation).await {
                Some(next) => (generation, reader) = next,
                None => return,
            }
        }
    }

    async fn listen(&self, generation: u32, reader: &mut Reader) {
        while let Some((message, fds)) = reader.message().await {
            let exited = match &message {
                ToClient::Exited { id, exited } => Some((id.clone(), *exited)),
                _ => None,
            };
            if let Some(link) = self.state().links.get_mut(&generation) {
                link.note(message, fds);
            }
            if let Some((id, exited)) = exited {
                // Nobody listens any more: the engine is shutting down.
                let _ = self.events.send(Event::Exited { id, exited });
            }
        }
    }

    /// True if somebody has to take over.
    fn note_death(&self, generation: u32) -> bool {
        let mut state = self.state();
        let Some(dead) = state.links.get_mut(&generation) else { return false };
        dead.dead = true;
        for (_, waiting) in dead.pending.drain() {
            // Nobody waits any more: the caller gave up.
            let _ = waiting.sender.send(None);
        }
        // A child that the keeper did not live to announce: its gate is closed for ever, or its start was never answered.
        dead.held.retain(|_, entry| {
            let announced = entry.message.record.phase != Phase::Starting;
            if !announced && let Some(pidfd) = entry.fd(Role::Pidfd) {
                let _ = linux::pidfd::send_signal(pidfd, 9);
            }
            announced
        });
        let orphans = !dead.held.is_empty() && !state.closed;
        if !orphans {
            state.links.remove(&generation);
        }
        orphans
    }

    /// Until another keeper holds what a dead one held. Callers see no gap: the dead one's entries stay in place meanwhile, and what callers change
    /// in them is told to the new one.
    async fn replace(self: &Arc<Self>, generation: u32) -> Option<(u32, Reader)> {
        let _one_at_a_time = self.starting.lock().await;
        let mut wait = Duration::from_millis(50);
        let (next, link, reader, snapshot) = loop {
            if self.state().closed {
                return None;
            }
            match self.hand_over(generation).await {
                Ok(done) => break done,
                Err(error) => {
                    if self.events.send(Event::Lost { message: error.to_string() }).is_err() {
                        // The engine is shutting down.
                        return None;
                    }
                    tokio::time::sleep(wait).await;
                    wait = (wait * 2).min(Duration::from_secs(5));
                }
            }
        };
        let pid = link.pid;
        let changes = {
            let mut state = self.state();
            let dead = state.links.remove(&generation)?;
            state.links.insert(next, link);
            changes(&snapshot, dead, state.links.get_mut(&next)?)
        };
        for (request, sinks) in changes {
            let fds: Vec<BorrowedFd<'_>> = sinks.iter().map(|fd| fd.as_fd()).collect();
            let (socket, seq) = {
                let mut state = self.state();
                state.seq += 1;
                (Arc::clone(&state.links.get(&next)?.socket), state.seq)
            };
            // The answer says nothing new; and if this keeper dies as well, the next is told all of it.
            if let Ok(bytes) = encoded("hand over", &FromClient::Request { seq, request }) {
                let _ = send(&socket, &bytes, &fds).await;
            }
        }
        let _ = self.events.send(Event::Replaced { pid });
        Some((next, reader))
    }

    async fn hand_over(self: &Arc<Self>, generation: u32) -> Result<(u32, Link, Reader, HashMap<String, Entry>)> {
        let (next, mut link, mut reader) = self.start_keeper().await?;
        let snapshot = {
            let state = self.state();
            let dead = state.links.get(&generation).ok_or(Error::Died("hand over"))?;
            link.common.clone_from(&dead.common);
            dead.held.clone()
        };
        link.held.clone_from(&snapshot);
        link.hand_over(&mut reader).await?;
        Ok((next, link, reader, snapshot))
    }

    /// Ends a keeper of another build once it has nothing left.
    async fn retire(&self, generation: u32) {
        let done = {
            let state = self.state();
            state.links.get(&generation).is_some_and(|link| link.build != self.build && link.held.is_empty())
        };
        if done {
            // Refused if something has just been started there.
            let _ = self.ask(generation, "quit", Request::Quit, &[], None).await;
        }
    }

    /// Sends a request and waits for its answer; `None` if the keeper died first.
    async fn ask(
        &self,
        generation: u32,
        what: &'static str,
        request: Request,
        fds: &[BorrowedFd<'_>],
        then: Option<(String, Phase)>,
    ) -> Result<Option<Reply>> {
        let (sender, receiver) = oneshot::channel();
        let (socket, bytes, seq) = {
            let mut state = self.state();
            state.seq += 1;
            let seq = state.seq;
            let link = state.links.get_mut(&generation).ok_or(Error::Died(what))?;
            if link.dead {
                return Ok(None);
            }
            let bytes = encoded(what, &FromClient::Request { seq, request })?;
            link.pending.insert(seq, Waiting { sender, then });
            (Arc::clone(&link.socket), bytes, seq)
        };
        if send(&socket, &bytes, fds).await.is_err() {
            if let Some(link) = self.state().links.get_mut(&generation) {
                link.pending.remove(&seq);
            }
            return Ok(None);
        }
        Ok(receiver.await.unwrap_or(None))
    }

    /// A request whose effect is already in what would be handed over, so that the keeper's death answers it.
    async fn tell(
        &self,
        generation: u32,
        what: &'static str,
        id: &str,
        request: Request,
        fds: &[BorrowedFd<'_>],
    ) -> Result<()> {
        match self.ask(generation, what, request, fds, None).await {
            Ok(Some(Err(fault))) => Err(refused(what, id, fault)),
            Ok(_) | Err(Error::Died(_)) => Ok(()),
            Err(error) => Err(error),
        }
    }

    fn number(&self, sinks: Vec<Sink>) -> Vec<SharedSink> {
        let mut state = self.state();
        let ends = sinks.into_iter().flat_map(|sink| {
            let out = sink.stdout.map(|fd| (Stream::Stdout, fd));
            let err = sink.stderr.map(|fd| (Stream::Stderr, fd));
            out.into_iter().chain(err)
        });
        ends.map(|(stream, fd)| {
            state.key += 1;
            (SinkRole { key: state.key, stderr: stream == Stream::Stderr }, Arc::new(fd))
        })
        .collect()
    }
}

/// References for as long as they are being sent: a subscription may end meanwhile.
fn copies(sinks: &[SharedSink]) -> Vec<Arc<OwnedFd>> {
    sinks.iter().map(|(_, fd)| Arc::clone(fd)).collect()
}

/// Brings what callers did to a dead keeper's entries since the snapshot into the new link, and says what its keeper has to be told of that.
fn changes(snapshot: &HashMap<String, Entry>, dead: Link, link: &mut Link) -> Vec<(Request, Vec<Arc<OwnedFd>>)> {
    let mut requests = Vec::new();
    for (id, before) in snapshot {
        let Some(now) = dead.held.get(id) else {
            link.held.remove(id);
            requests.push((Request::Forget { id: id.clone() }, Vec::new()));
            continue;
        };
        let Some(entry) = link.held.get_mut(id) else { continue };
        if before.fd(Role::Stdin).is_some() && now.fd(Role::Stdin).is_none() {
            entry.drop_fd(Role::Stdin);
            requests.push((Request::CloseStdin { id: id.clone() }, Vec::new()));
        }
        if before.fd(Role::NamesUdp).is_none()
            && let names = [Role::NamesUdp, Role::NamesTcp]
            && let Some(sockets) = names.map(|role| now.shared(role)).into_iter().collect::<Option<Vec<_>>>()
        {
            entry.message.roles.extend(names);
            entry.fds.extend(sockets.iter().cloned());
            requests.push((Request::Names { id: id.clone() }, sockets));
        }
        let known = |role: &SinkRole| before.sinks.iter().any(|(before, _)| before.key == role.key);
        let new: Vec<SharedSink> = now.sinks.iter().filter(|(role, _)| !known(role)).cloned().collect();
        if !new.is_empty() {
            let roles = new.iter().map(|(role, _)| *role).collect();
            requests.push((Request::Subscribe { id: id.clone(), sinks: roles }, copies(&new)));
            entry.sinks.extend(new);
        }
    }
    requests
}

fn duplicate(fd: BorrowedFd<'_>) -> Result<OwnedFd> {
    fd.try_clone_to_owned().map_err(|error| Error::System {
        what: "duplicate a descriptor",
        source: linux::Error::new(
            "fcntl",
            "F_DUPFD_CLOEXEC",
            linux::Errno::from_raw_os_error(error.raw_os_error().unwrap_or(5)),
        ),
    })
}

impl Entry {
    fn held(&self) -> Held {
        let Record { id, kind, pid, start_time, stdio, log, phase, slot: _ } = self.message.record.clone();
        Held { id, kind, pid, start_time, stdio, log, phase }
    }

    fn duplicate(&self, role: Role) -> Result<Option<OwnedFd>> {
        self.fd(role).map(duplicate).transpose()
    }

    fn started(&self, warnings: Vec<String>) -> Result<Started> {
        let record = &self.message.record;
        Ok(Started {
            pid: record.pid,
            start_time: record.start_time,
            pidfd: self.duplicate(Role::Pidfd)?.ok_or_else(|| Error::NotHeld(record.id.clone()))?,
            stdin: self.duplicate(Role::Stdin)?,
            root: None,
            tty: self.duplicate(Role::Tty)?,
            warnings,
        })
    }
}

fn refused(what: &'static str, id: &str, fault: Fault) -> Error {
    let refused = |kind, message| Error::Refused { what, kind, message };
    match fault {
        Fault::Launch(failure) => Error::Launch(failure),
        Fault::NotHeld => Error::NotHeld(id.to_owned()),
        Fault::AlreadyHeld => Error::Held(id.to_owned()),
        Fault::StillRunning => refused(ErrorKind::Conflict, format!("{id} has not ended")),
        Fault::Refused { kind, message } => {
            let failure = runtime::Cause::refused(kind, message.clone()).at(what.to_owned());
            refused(failure.kind(), message)
        }
    }
}
