//! The engine's side: starts or finds the keeper, holds duplicates of everything it holds, and puts another in its place when it dies.

use std::ffi::OsString;
use std::os::fd::OwnedFd;
use std::path::PathBuf;

use tokio::sync::mpsc;
use vocab::ErrorKind;

use crate::model::{Exited, Kind, LogSpec, Phase, Stdio};

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
    /// A held process ended. It stays held (with its log and exit) until [`Keeper::forget`].
    Exited { id: String, exited: Exited },
    /// A keeper died and this one has taken over what it held, same pids.
    Replaced { pid: i32 },
    /// No keeper could be started; what was held is still held by this process. Tried again with the next request.
    Lost { message: String },
}

/// A handle on the keeper. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Keeper {
    _config: std::sync::Arc<Config>,
}

fn unbuilt<T>(what: &'static str) -> Result<T> {
    Err(Error::Refused { what, kind: ErrorKind::Unsupported, message: "not in this build".into() })
}

impl Keeper {
    /// Finds the keepers of this run directory, starts one if none fits, and tells what they hold. Events of processes that ended before are
    /// not repeated: their phase says so.
    pub async fn connect_or_spawn(_config: Config) -> Result<(Self, Vec<Held>, mpsc::UnboundedReceiver<Event>)> {
        unbuilt("connect")
    }

    /// Starts it and answers once the program runs (or, gated, once it waits).
    pub async fn start(&self, _request: StartRequest) -> Result<Started> {
        unbuilt("start")
    }

    /// Lets a gated container execute its program, and answers once it does.
    pub async fn release(&self, _id: &str) -> Result<()> {
        unbuilt("release")
    }

    /// Adds a subscription to the output from now on.
    pub async fn subscribe(&self, _id: &str, _sink: Sink) -> Result<()> {
        unbuilt("subscribe")
    }

    /// A duplicate of the pidfd, for signals and for joining namespaces.
    pub fn pidfd(&self, _id: &str) -> Result<OwnedFd> {
        unbuilt("pidfd")
    }

    /// A duplicate of the write end of standard input, or of the terminal's master.
    pub fn stdin(&self, _id: &str) -> Result<OwnedFd> {
        unbuilt("stdin")
    }

    /// Closes the keeper's duplicate of standard input: with the caller's own closed, the program reads its end.
    pub async fn close_stdin(&self, _id: &str) -> Result<()> {
        unbuilt("close stdin")
    }

    /// The terminal's size.
    pub fn resize(&self, _id: &str, _rows: u16, _cols: u16) -> Result<()> {
        unbuilt("resize")
    }

    /// Lets go of what has ended: descriptors, log, exit file. Refused (Conflict) while it runs.
    pub async fn forget(&self, _id: &str) -> Result<()> {
        unbuilt("forget")
    }

    /// Pids of the living keepers, the one for new work first.
    pub fn pids(&self) -> Vec<i32> {
        Vec::new()
    }
}
