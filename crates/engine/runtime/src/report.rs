//! What a launched child says, and what it is told: small messages over one socket pair. The child's end closes by itself when the
//! program is executed, so the end of the stream is the good news.

use std::cell::OnceCell;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use linux::Errno;
use linux::socket;
use serde::{Deserialize, Serialize};
use vocab::ErrorKind;

/// The step of a launch that failed, in the launcher or in the child.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub struct Failure {
    /// What was to be done, `mount proc on /proc`.
    pub step: String,
    pub cause: Cause,
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.step, self.cause)
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Cause {
    /// A system call, with its arguments and errno.
    Call(linux::Error),
    /// Something else that was checked, with the kind a caller acts on.
    Refused { message: String, kind: RefusedKind },
}

/// The part of [`ErrorKind`] that can travel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum RefusedKind {
    NotFound,
    Forbidden,
    Invalid,
    Unsupported,
    Unavailable,
    Internal,
}

impl std::fmt::Display for Cause {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Call(error) => error.fmt(f),
            Self::Refused { message, .. } => f.write_str(message),
        }
    }
}

impl From<linux::Error> for Cause {
    fn from(error: linux::Error) -> Self {
        Self::Call(error)
    }
}

impl Cause {
    pub fn refused(kind: RefusedKind, message: impl Into<String>) -> Self {
        Self::Refused { message: message.into(), kind }
    }

    pub const fn at(self, step: String) -> Failure {
        Failure { step, cause: self }
    }
}

impl Failure {
    pub fn kind(&self) -> ErrorKind {
        match &self.cause {
            Cause::Call(error) => error.kind(),
            Cause::Refused { kind, .. } => match kind {
                RefusedKind::NotFound => ErrorKind::NotFound,
                RefusedKind::Forbidden => ErrorKind::Forbidden,
                RefusedKind::Invalid => ErrorKind::Invalid,
                RefusedKind::Unsupported => ErrorKind::Unsupported,
                RefusedKind::Unavailable => ErrorKind::Unavailable,
                RefusedKind::Internal => ErrorKind::Internal,
            },
        }
    }
}

/// From the child.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum FromChild {
    /// The first stage made the container's process (its pid in the launcher's pid namespace).
    Pid(i32),
    /// Something asked for was not possible and is not fatal.
    Warning(String),
    /// The master of the container's terminal comes with this message.
    Console,
    /// The createRuntime hooks may run now; the child waits for [`ToChild`].
    Hooks,
    /// Everything is set up, the child waits at the gate.
    Ready,
    Failed(Failure),
}

/// To the child.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum ToChild {
    /// Go on; with the pid that the child has for its launcher.
    Go {
        pid: i32,
    },
    Abort(Failure),
}

/// News of a launch.
#[derive(Debug)]
pub enum Event {
    /// Nothing yet; wait until the descriptor is readable.
    Pending,
    Warning(String),
    /// The terminal's master (only for [`crate::Stdio::Terminal`]).
    Console(OwnedFd),
    /// The createRuntime hooks are to be run now: [`crate::run_runtime_hooks`].
    RuntimeHooks,
    /// Set up, about to wait at its gate: [`Report::commit`] lets it outlive the launcher.
    Ready,
    /// The program runs. The last event.
    Started,
    /// The launch failed and the child is ending. The last event.
    Failed(Failure),
}

/// The launcher's end of the socket.
#[derive(Debug)]
pub struct Report {
    socket: OwnedFd,
}

impl AsFd for Report {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

const MESSAGE_MAX: usize = 64 * 1024;

impl Report {
    pub(crate) fn new(socket: OwnedFd) -> Self {
        Self { socket }
    }

    /// The next event, or [`Event::Pending`] at once. For an event loop: poll the descriptor for reading.
    pub fn poll(&self) -> Event {
        match linux::epoll::poll_one(&self.socket, linux::epoll::Interest::IN, 0) {
            Ok(true) => self.wait(),
            Ok(false) => Event::Pending,
            Err(error) => Event::Failed(Cause::Call(error).at("hear from the child".into())),
        }
    }

    /// Lets a child that is [`Event::Ready`] wait at its gate without its launcher. Until then it ends when the launcher does, so a
    /// launcher that dies before it has put the container on record leaves no process behind.
    ///
    /// # Errors
    /// The child has ended.
    pub fn commit(&self) -> linux::Result<()> {
        self.tell(&ToChild::Go { pid: 0 })
    }

    /// Waits for the next event.
    pub fn wait(&self) -> Event {
        match self.receive() {
            Ok(None) => Event::Started,
            Ok(Some((FromChild::Warning(text), _))) => Event::Warning(text),
            Ok(Some((FromChild::Console, Some(fd)))) => Event::Console(fd),
            Ok(Some((FromChild::Hooks, _))) => Event::RuntimeHooks,
            Ok(Some((FromChild::Ready, _))) => Event::Ready,
            Ok(Some((FromChild::Failed(failure), _))) => Event::Failed(failure),
            Ok(Some((FromChild::Pid(_) | FromChild::Console, _))) => Event::Failed(
                Cause::refused(RefusedKind::Internal, "a message out of turn").at("hear from the child".into()),
            ),
            Err(error) => Event::Failed(Cause::Call(error).at("hear from the child".into())),
        }
    }

    pub(crate) fn receive(&self) -> linux::Result<Option<(FromChild, Option<OwnedFd>)>> {
        let mut buf = vec![0; MESSAGE_MAX];
        let mut fds = Vec::new();
        let received = loop {
            match socket::recv(&self.socket, &mut buf, &mut fds) {
                Err(error) if error.is(Errno::INTR) => {}
                // The child ended with something of ours unread in its buffer.
                Err(error) if error.is(Errno::CONNRESET) => return Ok(None),
                other => break other?,
            }
        };
        if received.len == 0 {
            return Ok(None);
        }
        let message = postcard::from_bytes(&buf[..received.len]).map_err(|error| {
            linux::Error::new("recvmsg", format_args!("message of the child: {error}"), Errno::BADMSG)
        })?;
        Ok(Some((message, fds.pop())))
    }

    pub(crate) fn tell(&self, message: &ToChild) -> linux::Result<()> {
        let bytes = encode(message)?;
        socket::send(&self.socket, &bytes, &[]).map(drop)
    }
}

pub(crate) fn encode<T: Serialize>(message: &T) -> linux::Result<Vec<u8>> {
    let bytes = postcard::to_allocvec(message);
    bytes.map_err(|error| linux::Error::new("encode", error.to_string(), Errno::INVAL))
}

/// The child's end.
#[derive(Debug)]
pub(crate) struct Channel {
    pub(crate) socket: OwnedFd,
    /// Takes the text of a failure when the launcher has gone (after the gate).
    pub(crate) late: Option<OwnedFd>,
    /// Closes when a first stage has said what it has to say: the second stage, made by it and already running, speaks after it.
    pub(crate) turn: OnceCell<OwnedFd>,
}

impl Channel {
    pub(crate) fn say(&self, message: &FromChild, fd: Option<BorrowedFd<'_>>) -> linux::Result<()> {
        if let Some(turn) = self.turn.get() {
            // Nothing is ever written: it is the end of the pipe that is awaited, and an end is read as often as one likes.
            while linux::pipe::read(turn, &mut [0]).is_err_and(|error| error.is(Errno::INTR)) {}
        }
        let bytes = encode(message)?;
        let fds: Vec<BorrowedFd<'_>> = fd.into_iter().collect();
        socket::send(&self.socket, &bytes, &fds).map(drop)
    }

    /// A warning is worth no failure.
    pub(crate) fn warn(&self, text: impl Into<String>) {
        let _ = self.say(&FromChild::Warning(text.into()), None);
    }

    pub(crate) fn fail(&self, failure: Failure) {
        if let Some(late) = &self.late {
            let _ = linux::pipe::write(late, failure.to_string().as_bytes());
        }
        let mut failure = failure;
        failure.step.truncate(4096);
        let _ = self.say(&FromChild::Failed(failure), None);
    }

    pub(crate) fn hear(&self) -> linux::Result<ToChild> {
        let mut buf = vec![0; 8192];
        let received = loop {
            match socket::recv(&self.socket, &mut buf, &mut Vec::new()) {
                Err(error) if error.is(Errno::INTR) => {}
                other => break other?,
            }
        };
        if received.len == 0 {
            return Err(linux::Error::new("recvmsg", "the launcher has gone", Errno::PIPE));
        }
        postcard::from_bytes(&buf[..received.len]).map_err(|error| {
            linux::Error::new("recvmsg", format_args!("message of the launcher: {error}"), Errno::BADMSG)
        })
    }
}
