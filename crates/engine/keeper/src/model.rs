//! The words that keeper and engine share. They travel between versions: variants and fields are only ever added at the end.

use std::path::PathBuf;

use linux::process::Exit;
use serde::{Deserialize, Serialize};

/// What is started.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Kind {
    /// A container's first process, from a `runtime::Plan`.
    Container,
    /// One more process in a running container, from a `runtime::ExecPlan`.
    Exec,
}

/// Standard input, output and error of what is started.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Stdio {
    /// All three are `/dev/null`.
    Null,
    /// Output and error are pipes; input is one too, or `/dev/null`.
    Pipes { stdin: bool },
    /// A terminal of the container. The plan must ask for one.
    Tty { rows: u16, cols: u16 },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Stream {
    Stdout,
    Stderr,
}

impl Stream {
    pub const fn name(self) -> &'static str {
        match self {
            Self::Stdout => "stdout",
            Self::Stderr => "stderr",
        }
    }
}

/// How records are written.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum LogDriver {
    /// Docker's json-file. `attrs` is a JSON object to put into every record (labels and environment that the user asked for).
    JsonFile { attrs: Option<String> },
    /// The text format of the Kubernetes CRI.
    Cri,
}

/// Where and how output is logged.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogSpec {
    pub driver: LogDriver,
    /// Absolute. Made if absent (0640), appended to otherwise. Older files are `<path>.1`, `<path>.2`, … with the youngest first.
    pub path: PathBuf,
    /// A file of at least this many bytes is rotated before the next record; `None` never.
    pub max_size: Option<u64>,
    /// Files kept in all; at least 1. With 1, rotation starts the file anew.
    pub max_files: u32,
}

impl LogSpec {
    /// Docker's default is one file without limit; ours is bounded, because a full disk takes everything down.
    pub const DEFAULT_MAX_SIZE: u64 = 20 << 20;
    pub const DEFAULT_MAX_FILES: u32 = 5;

    /// json-file with our default limits.
    pub fn json_file(path: impl Into<PathBuf>) -> Self {
        Self {
            driver: LogDriver::JsonFile { attrs: None },
            path: path.into(),
            max_size: Some(Self::DEFAULT_MAX_SIZE),
            max_files: Self::DEFAULT_MAX_FILES,
        }
    }
}

/// How far a held process is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Phase {
    /// Cloned, not yet executing the program.
    Starting,
    /// Set up and waiting for [`crate::client::Keeper::release`].
    Gated,
    Running,
    Ended(Exited),
}

/// The end of a held process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exited {
    /// `None` if it ended while no keeper lived and the kernel is too old to tell (before 6.15).
    pub exit: Option<Exit>,
    /// When the keeper saw it: seconds and nanoseconds since 1970.
    pub at: (i64, u32),
}

impl Exited {
    /// Docker's exit code: 128 + signal for a signal, 255 if unknown.
    pub fn code(&self) -> i32 {
        self.exit.map_or(255, Exit::shell_code)
    }
}
