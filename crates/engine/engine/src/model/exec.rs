//! Further processes in a running container.

use std::collections::BTreeMap;

use super::{ConsoleSize, ContainerId, ExecId};

/// `exec create`.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ExecConfig {
    /// Program and arguments; must not be empty.
    pub cmd: Vec<String>,
    /// Empty: as the container's.
    pub user: String,
    /// Added to the container's.
    pub env: Vec<String>,
    /// Empty: as the container's.
    pub working_dir: String,
    pub tty: bool,
    pub attach_stdin: bool,
    pub attach_stdout: bool,
    pub attach_stderr: bool,
    pub privileged: bool,
    pub console_size: Option<ConsoleSize>,
    /// Kept for `inspect` alone: the edge that reads the keys acts on them.
    pub detach_keys: String,
}

#[derive(Debug, Clone, Default, PartialEq)]
pub struct ExecStart {
    /// Do not wait and attach nothing.
    pub detach: bool,
    /// Must equal what `create` said (Docker's rule is lenient; so are we).
    pub tty: bool,
    pub console_size: Option<ConsoleSize>,
}

#[derive(Debug, Clone, PartialEq)]
pub struct ExecView {
    pub id: ExecId,
    pub container: ContainerId,
    pub config: ExecConfig,
    pub running: bool,
    /// `None` until it has ended.
    pub exit_code: Option<i32>,
    /// As the host numbers it; 0 while it has not been started or after it ended.
    pub pid: i32,
    pub can_remove: bool,
    pub labels: BTreeMap<String, String>,
}
