//! What is kept of a container between commands: `<root>/<id>/`.
//!
//! * `cgroup`: a link whose text is the container's cgroup. Made first, so that whatever a killed command leaves can be found and removed.
//! * `exec.fifo`: the gate. The container's process has it open until it executes the program, so whether somebody reads it *is* the
//!   difference between created and running; no command can leave a wrong answer behind.
//! * `error`: what the process says if it fails after the creating command has gone.
//! * `state.json`: written last, by rename. A container without it was never created.

use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use linux::fs::OFlags;
use serde::{Deserialize, Serialize};

use crate::hooks::Status;
use crate::plan::{CgroupPlan, Hook, Namespace, valid_id};

/// Why a command failed, in runc's words where tools match them.
#[derive(Debug, thiserror::Error)]
pub(super) enum StateError {
    #[error("invalid container ID format: {0:?}")]
    InvalidId(String),
    #[error("container does not exist: {0:?}")]
    NotFound(String),
    #[error("container with given ID already exists: {0:?}")]
    Exists(String),
    #[error("container {0:?} was not created completely; delete --force removes what is left of it")]
    Incomplete(String),
    #[error("{what} {path}: {error}")]
    Io { what: &'static str, path: PathBuf, error: std::io::Error },
    #[error("{path}: {error}")]
    Format { path: PathBuf, error: serde_json::Error },
}

/// `state.json`. Fields may be added; none is removed or changes its meaning, because a newer program reads what an older one wrote.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Record {
    pub(super) oci_version: String,
    pub(super) id: String,
    pub(super) init_process_pid: i32,
    /// Clock ticks after boot (`/proc/PID/stat`): together with the pid it names one process for ever.
    pub(super) init_process_start: u64,
    pub(super) created: String,
    pub(super) bundle: PathBuf,
    pub(super) rootfs: String,
    pub(super) owner: String,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) annotations: Vec<(String, String)>,
    pub(super) cgroup: String,
    #[serde(default)]
    pub(super) cgroup_optional: bool,
    pub(super) namespaces: Vec<Namespace>,
    /// The container made its pid namespace: everything in it ends with its first process. Older records do not say.
    #[serde(default)]
    pub(super) private_pids: Option<bool>,
    pub(super) setgroups: bool,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) poststart: Vec<Hook>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) poststop: Vec<Hook>,
}

/// What a container is doing, as `runc state` says it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Doing {
    Created,
    Running,
    Paused,
    Stopped,
}

impl Doing {
    pub(super) const fn word(self) -> &'static str {
        match self {
            Self::Created => "created",
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Stopped => "stopped",
        }
    }
}

/// The directory of one container.
#[derive(Debug, Clone)]
pub(super) struct Dir {
    pub(super) id: String,
    pub(super) path: PathBuf,
}

fn io(what: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> StateError + use<> {
    let path = path.to_owned();
    move |error| StateError::Io { what, path, error }
}

impl Dir {
    pub(super) fn of(root: &Path, id: &str) -> Result<Self, StateError> {
        if !valid_id(id) {
            return Err(StateError::InvalidId(id.to_owned()));
        }
        Ok(Self { id: id.to_owned(), path: root.join(id) })
    }

    fn file(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// Claims the id and says where the cgroup will be.
    pub(super) fn claim(root: &Path, id: &str, cgroup: &str) -> Result<Self, StateError> {
        let dir = Self::of(root, id)?;
        let make = || std::fs::DirBuilder::new().mode(0o700).create(&dir.path);
        let made = match make() {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                std::fs::DirBuilder::new().recursive(true).mode(0o700).create(root).map_err(io("make", root))?;
                make()
            }
            other => other,
        };
        match made {
            Ok(()) => {}
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {
                return Err(StateError::Exists(id.to_owned()));
            }
            Err(error) => return Err(io("make", &dir.path)(error)),
        }
        vocab::crash::point("runtime.create.claimed");
        let link = dir.file("cgroup");
        if let Err(error) = std::os::unix::fs::symlink(if cgroup.is_empty() { "-" } else { cgroup }, &link) {
            let _ = dir.remove();
            return Err(io("make", &link)(error));
        }
        Ok(dir)
    }

    /// The gate, open at both ends, and the file for late errors.
    pub(super) fn make_gate(&self) -> Result<(OwnedFd, OwnedFd), StateError> {
        let path = self.file("exec.fifo");
        let as_io = |error: linux::Error| io("make", &path)(error.into());
        let host = linux::fs::open_host(&self.path, OFlags::PATH | OFlags::DIRECTORY).map_err(as_io)?;
        let as_io = |error: linux::Error| io("make", &path)(error.into());
        linux::fs::mknodat(&host, "exec.fifo", linux::fs::FileType::Fifo, linux::fs::Mode::from_raw_mode(0o600), 0, 0)
            .map_err(as_io)?;
        let as_io = |error: linux::Error| io("open", &path)(error.into());
        let gate = linux::fs::open_host(&path, OFlags::RDWR | OFlags::NONBLOCK)
            .and_then(|fd| linux::pipe::set_nonblocking(&fd, false).map(|()| fd))
            .map_err(as_io)?;
        let error = self.file("error");
        let late = std::fs::OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&error)
            .map_err(io("make", &error))?;
        Ok((gate, late.into()))
    }

    pub(super) fn write(&self, record: &Record) -> Result<(), StateError> {
        let (path, temporary) = (self.file("state.json"), self.file("state.json.new"));
        let bytes = serde_json::to_vec(record).map_err(|error| StateError::Format { path: path.clone(), error })?;
        let mut file = std::fs::OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&temporary)
            .map_err(io("make", &temporary))?;
        file.write_all(&bytes).map_err(io("write", &temporary))?;
        std::fs::rename(&temporary, &path).map_err(io("rename", &temporary))
    }

    pub(super) fn read(&self) -> Result<Record, StateError> {
        let path = self.file("state.json");
        match std::fs::read(&path) {
            Ok(bytes) => serde_json::from_slice(&bytes).map_err(|error| StateError::Format { path, error }),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Err(if self.path.exists() {
                StateError::Incomplete(self.id.clone())
            } else {
                StateError::NotFound(self.id.clone())
            }),
            Err(error) => Err(io("read", &path)(error)),
        }
    }

    /// The cgroup of a container that may be incomplete.
    pub(super) fn cgroup_hint(&self) -> Option<String> {
        let text = std::fs::read_link(self.file("cgroup")).ok()?;
        Some(text.to_string_lossy().into_owned()).filter(|path| path.starts_with('/'))
    }

    /// The gate's writing end, if the container waits at it.
    pub(super) fn open_gate(&self) -> Option<OwnedFd> {
        linux::fs::open_host(self.file("exec.fifo"), OFlags::WRONLY | OFlags::NONBLOCK).ok()
    }

    pub(super) fn late_error(&self) -> String {
        let mut text = String::new();
        if let Ok(file) = std::fs::File::open(self.file("error")) {
            let _ = file.take(64 * 1024).read_to_string(&mut text);
        }
        text
    }

    /// Forgets the container: first that it exists, then the rest.
    pub(super) fn remove(&self) -> Result<(), StateError> {
        for name in ["state.json", "state.json.new", "exec.fifo", "error", "cgroup"] {
            match std::fs::remove_file(self.file(name)) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    return Err(io("remove", &self.file(name))(error));
                }
                _ => {}
            }
        }
        match std::fs::remove_dir(&self.path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(io("remove", &self.path)(error)),
            _ => Ok(()),
        }
    }
}

impl Record {
    pub(super) fn cgroup_plan(&self) -> CgroupPlan {
        CgroupPlan { path: self.cgroup.clone(), resources: Default::default(), optional: self.cgroup_optional }
    }

    pub(super) fn private_pids(&self) -> bool {
        self.private_pids.unwrap_or_else(|| self.namespaces.contains(&Namespace::Pid))
    }

    /// The container's first process if it lives: not a later process with the same number, and not a zombie.
    pub(super) fn process(&self) -> Option<OwnedFd> {
        let pidfd = linux::pidfd::open(self.init_process_pid).ok()?;
        self.lives().then_some(pidfd)
    }

    fn is_same(&self, start_time: u64) -> bool {
        start_time == self.init_process_start || vocab::weak::without("start-time")
    }

    fn lives(&self) -> bool {
        linux::proc::stat(self.init_process_pid)
            .is_ok_and(|stat| self.is_same(stat.start_time) && !matches!(stat.state, 'Z' | 'X' | 'x'))
    }

    pub(super) fn doing(&self, dir: &Dir) -> Doing {
        if !self.lives() {
            Doing::Stopped
        } else if dir.open_gate().is_some() {
            Doing::Created
        } else if self.is_frozen() {
            Doing::Paused
        } else {
            Doing::Running
        }
    }

    fn is_frozen(&self) -> bool {
        !self.cgroup.is_empty()
            && crate::launch::cgroups()
                .ok()
                .and_then(|cgroups| cgroups.find(Path::new(&self.cgroup)).ok())
                .is_some_and(|group| group.is_frozen().unwrap_or(false))
    }

    /// For hooks.
    pub(super) fn hook_state(&self, status: Status) -> String {
        let pid = if status == Status::Stopped { 0 } else { self.init_process_pid };
        crate::hooks::state_value(&self.oci_version, &self.id, status, pid, &self.bundle, &self.annotations).to_string()
    }
}
