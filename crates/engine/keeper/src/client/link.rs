//! The connection to one keeper, and duplicates of everything that keeper holds.

use std::collections::HashMap;
use std::io::ErrorKind;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use linux::pipe;
use linux::socket;
use tokio::io::Interest;
use tokio::net::UnixStream;
use tokio::sync::oneshot;

use super::{Config, Error, Result};
use crate::model::Phase;
use crate::protocol::{Fault, FromClient, HeldMessage, Hello, MESSAGE_MAX, PROTOCOL, Role, SinkRole, ToClient, encode};
use crate::server::socket_path;

/// A keeper that does not say what it holds for so long is as good as dead.
const HANDSHAKE_MAX: Duration = Duration::from_secs(20);

pub(super) type Reply = std::result::Result<Vec<String>, Fault>;

/// One thing held, as the keeper told of it.
#[derive(Debug, Clone)]
pub(super) struct Entry {
    pub message: HeldMessage,
    pub fds: Vec<Arc<OwnedFd>>,
    /// Write ends of living subscriptions.
    pub sinks: Vec<SharedSink>,
}

/// A subscription's write end under its number.
pub(super) type SharedSink = (SinkRole, Arc<OwnedFd>);

impl Entry {
    pub(super) fn fd(&self, role: Role) -> Option<BorrowedFd<'_>> {
        let at = self.message.roles.iter().position(|known| *known == role)?;
        self.fds.get(at).map(|fd| fd.as_fd())
    }

    pub(super) fn shared(&self, role: Role) -> Option<Arc<OwnedFd>> {
        let at = self.message.roles.iter().position(|known| *known == role)?;
        self.fds.get(at).cloned()
    }

    pub(super) fn drop_fd(&mut self, role: Role) {
        if let Some(at) = self.message.roles.iter().position(|known| *known == role) {
            self.message.roles.remove(at);
            self.fds.remove(at);
        }
    }
}

/// What the client knows of one keeper.
#[derive(Debug)]
pub(super) struct Link {
    pub socket: Arc<UnixStream>,
    /// It has died; what it held is being handed to another.
    pub dead: bool,
    pub pid: i32,
    pub build: u64,
    pub protocol: u32,
    /// Journal, read and write end of the auxiliary pipe.
    pub common: Vec<Arc<OwnedFd>>,
    pub held: HashMap<String, Entry>,
    /// Subscriptions of what is being started and was not told of yet.
    pub early_sinks: HashMap<String, Vec<SharedSink>>,
    pub pending: HashMap<u64, Waiting>,
    /// Roots of containers that are being started.
    pub roots: HashMap<String, OwnedFd>,
}

/// Who waits for an answer, and what a good answer changes: at once, because the keeper may be dead before the one who waits is awake.
#[derive(Debug)]
pub(super) struct Waiting {
    pub sender: oneshot::Sender<Option<Reply>>,
    pub then: Option<(String, Phase)>,
}

/// Messages from one socket, with their descriptors.
#[derive(Debug)]
pub(super) struct Reader {
    socket: Arc<UnixStream>,
    buf: Vec<u8>,
}

impl Reader {
    pub(super) fn new(socket: Arc<UnixStream>) -> Self {
        Self { socket, buf: vec![0; MESSAGE_MAX] }
    }

    /// `None` when the keeper is gone.
    pub(super) async fn bytes(&mut self) -> Option<(&[u8], Vec<OwnedFd>)> {
        let mut fds = Vec::new();
        loop {
            self.socket.readable().await.ok()?;
            let received =
                self.socket.try_io(Interest::READABLE, || Ok(socket::recv(&self.socket, &mut self.buf, &mut fds)?));
            match received {
                Ok(received) if received.len == 0 || received.truncated => return None,
                Ok(received) => return Some((&self.buf[..received.len], fds)),
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {}
                Err(_) => return None,
            }
        }
    }

    pub(super) async fn message(&mut self) -> Option<(ToClient, Vec<OwnedFd>)> {
        let (bytes, fds) = self.bytes().await?;
        // A message of a newer version that we do not know means nothing to us, but a malformed one means that we misunderstand each other.
        postcard::from_bytes(bytes).ok().map(|message| (message, fds))
    }
}

pub(super) async fn send(socket: &UnixStream, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> std::io::Result<()> {
    loop {
        socket.writable().await?;
        match socket.try_io(Interest::WRITABLE, || Ok(socket::send(socket, bytes, fds)?)) {
            Ok(_) => return Ok(()),
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {}
            Err(error) => return Err(error),
        }
    }
}

pub(super) fn encoded(what: &'static str, message: &FromClient) -> Result<Vec<u8>> {
    encode(message).map_err(|message| Error::Refused { what, kind: vocab::ErrorKind::Invalid, message })
}

/// Connects, greets, and learns everything that the keeper holds.
pub(super) async fn connect(config: &Config, generation: u32) -> Result<(Link, Reader)> {
    let system = |source| Error::System { what: "connect", source };
    let lost = |_| Error::Died("connect");
    let socket = socket::connect(socket_path(&config.run, generation), socket::Kind::SeqPacket).map_err(system)?;
    pipe::set_nonblocking(&socket, true).map_err(system)?;
    // tokio knows no SEQPACKET sockets; what it does with a stream (wait until it is ready) is right for them too.
    let socket = UnixStream::from_std(socket.into()).map_err(lost)?;
    let socket = Arc::new(socket);
    let mut reader = Reader::new(Arc::clone(&socket));
    let hello = Hello { protocol: PROTOCOL, build: 0, pid: std::process::id() as i32 };
    send(&socket, &hello.encode(), &[]).await.map_err(lost)?;
    let handshake = async {
        let (bytes, _) = reader.bytes().await?;
        let hello = Hello::decode(bytes)?;
        let mut link = Link {
            socket,
            dead: false,
            pid: hello.pid,
            build: hello.build,
            protocol: hello.protocol,
            common: Vec::new(),
            held: HashMap::new(),
            early_sinks: HashMap::new(),
            pending: HashMap::new(),
            roots: HashMap::new(),
        };
        loop {
            match reader.message().await? {
                (ToClient::Listed, _) => return Some(link),
                (message, fds) => link.note(message, fds),
            }
        }
    };
    match tokio::time::timeout(HANDSHAKE_MAX, handshake).await {
        Ok(Some(link)) => Ok((link, reader)),
        _ => Err(Error::Died("connect")),
    }
}

impl Link {
    /// Takes note of what the keeper tells about what it holds.
    pub(super) fn note(&mut self, message: ToClient, fds: Vec<OwnedFd>) {
        match message {
            ToClient::Common => self.common = fds.into_iter().map(Arc::new).collect(),
            ToClient::Held(message) => {
                let id = message.record.id.clone();
                let sinks = match self.held.remove(&id) {
                    Some(before) => before.sinks,
                    None => self.early_sinks.remove(&id).unwrap_or_default(),
                };
                let fds = fds.into_iter().map(Arc::new).collect();
                self.held.insert(id, Entry { message, fds, sinks });
            }
            ToClient::Exited { id, exited } => {
                if let Some(entry) = self.held.get_mut(&id) {
                    entry.message.record.phase = Phase::Ended(exited);
                    for role in [Role::Stdin, Role::NamesUdp, Role::NamesTcp] {
                        entry.drop_fd(role);
                    }
                }
            }
            ToClient::SinkClosed { id, key } => {
                let gone = |sinks: &mut Vec<SharedSink>| sinks.retain(|(role, _)| role.key != key);
                if let Some(entry) = self.held.get_mut(&id) {
                    gone(&mut entry.sinks);
                }
                if let Some(sinks) = self.early_sinks.get_mut(&id) {
                    gone(sinks);
                }
            }
            ToClient::Reply { seq, result } => {
                let Some(waiting) = self.pending.remove(&seq) else { return };
                if let Some((id, phase)) = waiting.then {
                    self.answered(&id, phase, &result);
                }
                // Nobody waits any more: the caller gave up.
                let _ = waiting.sender.send(Some(result));
            }
            ToClient::Root { id } => self.roots.extend(fds.into_iter().next().map(|fd| (id, fd))),
            ToClient::Listed => {}
        }
    }

    fn answered(&mut self, id: &str, phase: Phase, reply: &Reply) {
        match reply {
            Ok(_) => {
                if let Some(entry) = self.held.get_mut(id)
                    && !matches!(entry.message.record.phase, Phase::Ended(_))
                {
                    entry.message.record.phase = phase;
                }
            }
            Err(Fault::Launch(_)) => {
                self.held.remove(id);
            }
            Err(_) => {}
        }
    }

    /// Gives everything in `self.held` and `self.common`, which a dead keeper held, to this new one. The descriptors stay with us as well.
    pub(super) async fn hand_over(&mut self, reader: &mut Reader) -> Result<()> {
        let lost = |_| Error::Died("hand over");
        let common: Vec<BorrowedFd<'_>> = self.common.iter().map(|fd| fd.as_fd()).collect();
        send(&self.socket, &encoded("hand over", &FromClient::Inherit)?, &common).await.map_err(lost)?;
        for entry in self.held.values() {
            let mut message = entry.message.clone();
            let mut fds: Vec<BorrowedFd<'_>> = entry.fds.iter().map(|fd| fd.as_fd()).collect();
            for (role, fd) in &entry.sinks {
                message.roles.push(Role::Sink(*role));
                fds.push(fd.as_fd());
            }
            send(&self.socket, &encoded("hand over", &FromClient::Adopt(message))?, &fds).await.map_err(lost)?;
        }
        send(&self.socket, &encoded("hand over", &FromClient::Resume)?, &[]).await.map_err(lost)?;
        let resumed = async {
            loop {
                match reader.message().await? {
                    (ToClient::Listed, _) => return Some(()),
                    (message, fds) => self.note(message, fds),
                }
            }
        };
        match tokio::time::timeout(HANDSHAKE_MAX, resumed).await {
            Ok(Some(())) => Ok(()),
            _ => Err(Error::Died("hand over")),
        }
    }
}
