//! What can go wrong with a control group: always with the file and the value.

use std::path::{Path, PathBuf};

use rustix::io::Errno;
use vocab::ErrorKind;

use super::plan::PlanError;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("cgroup: write {value:?} to {path}: {errno}")]
    Write { path: PathBuf, value: String, errno: Errno },
    #[error("cgroup: {call} {path}: {errno}")]
    Io { call: &'static str, path: PathBuf, errno: Errno },
    #[error("cgroup path {0:?}: only plain names apart by '/' are allowed")]
    Path(PathBuf),
    #[error("cgroup: no hierarchy is mounted (looked at /proc/self/mountinfo)")]
    NoHierarchy,
    #[error("cgroup {path}: still has processes after {waited_ms} ms: {pids:?}")]
    Busy { path: PathBuf, waited_ms: u64, pids: Vec<i32> },
    #[error("cgroup {path}: not {state} after {waited_ms} ms")]
    Freeze { path: PathBuf, state: &'static str, waited_ms: u64 },
    #[error("cgroup {path}: cannot read {text:?}")]
    Format { path: PathBuf, text: String },
    #[error("cgroup device program: {call}: {errno}")]
    Bpf { call: &'static str, errno: Errno },
    #[error(transparent)]
    Plan(#[from] PlanError),
}

impl Error {
    pub(super) fn io(call: &'static str, path: impl AsRef<Path>) -> impl FnOnce(Errno) -> Self {
        move |errno| Self::Io { call, path: path.as_ref().to_owned(), errno }
    }

    /// The kernel's error number, if a system call failed.
    pub fn errno(&self) -> Option<Errno> {
        match self {
            Self::Write { errno, .. } | Self::Io { errno, .. } | Self::Bpf { errno, .. } => Some(*errno),
            _ => None,
        }
    }

    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Write { errno, .. } | Self::Io { errno, .. } | Self::Bpf { errno, .. } => match *errno {
                Errno::NOENT | Errno::NODEV => ErrorKind::NotFound,
                Errno::EXIST | Errno::BUSY => ErrorKind::Conflict,
                Errno::ACCESS | Errno::PERM | Errno::ROFS => ErrorKind::Forbidden,
                Errno::INVAL | Errno::RANGE => ErrorKind::Invalid,
                Errno::NOSPC | Errno::NOMEM | Errno::AGAIN => ErrorKind::Exhausted,
                Errno::NOSYS | Errno::OPNOTSUPP => ErrorKind::Unsupported,
                _ => ErrorKind::Internal,
            },
            Self::Path(_) => ErrorKind::Invalid,
            Self::NoHierarchy => ErrorKind::Unsupported,
            Self::Busy { .. } | Self::Freeze { .. } => ErrorKind::Unavailable,
            Self::Format { .. } => ErrorKind::Internal,
            Self::Plan(error) => error.kind(),
        }
    }
}
