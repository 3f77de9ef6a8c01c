//! What the workload is: the part of a create request that an image can also provide.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{EndpointSettings, HostConfig};

/// Everything that `docker create` says.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct CreateRequest {
    /// Without a name the engine makes one (`adjective_surname`).
    pub name: Option<String>,
    /// `os[/arch[/variant]]`; `None` is this machine's.
    pub platform: Option<String>,
    pub config: ContainerConfig,
    pub host: HostConfig,
    /// Asked-for endpoints by network name.
    pub networks: BTreeMap<String, EndpointSettings>,
}

/// What `create` answers.
#[derive(Debug, Clone, PartialEq)]
pub struct Created {
    pub id: super::ContainerId,
    /// What was accepted but will not act as the caller may expect on this host.
    pub warnings: Vec<String>,
}

/// The workload. In a create request the empty value of a field means "as the image says"; in a stored container the
/// image's values have been merged in.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ContainerConfig {
    /// Empty: the id's first twelve digits (or the host's name with `--uts host` or `--network host`).
    pub hostname: String,
    pub domainname: String,
    /// `user[:group]`, names or numbers; resolved inside the root at each start.
    pub user: String,
    pub attach_stdin: bool,
    pub attach_stdout: bool,
    pub attach_stderr: bool,
    pub tty: bool,
    /// Keep a pipe open as standard input even if nobody is attached.
    pub open_stdin: bool,
    /// Close standard input when the first attached client that had it goes away.
    pub stdin_once: bool,
    /// `NAME=value`; a bare `NAME` in a request removes the image's value.
    pub env: Vec<String>,
    pub cmd: Option<Vec<String>>,
    pub entrypoint: Option<Vec<String>>,
    pub working_dir: String,
    /// The image as the caller named it.
    pub image: String,
    pub labels: BTreeMap<String, String>,
    /// Paths of anonymous volumes.
    pub volumes: BTreeSet<String>,
    /// `80/tcp`.
    pub exposed_ports: BTreeSet<String>,
    /// A name (`SIGTERM`, `TERM`) or a number.
    pub stop_signal: Option<String>,
    /// Seconds to wait between the stop signal and KILL; `None` is 10, negative means for ever.
    pub stop_timeout_secs: Option<i64>,
    pub shell: Option<Vec<String>>,
    pub healthcheck: Option<Healthcheck>,
    pub on_build: Vec<String>,
    pub network_disabled: bool,
    pub mac_address: String,
}

/// `HEALTHCHECK`. Durations of zero mean "inherit or default".
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Healthcheck {
    /// `[]` inherits, `["NONE"]` disables, `["CMD", ...]` execs, `["CMD-SHELL", line]` uses the shell.
    pub test: Vec<String>,
    pub interval: Duration,
    pub timeout: Duration,
    pub start_period: Duration,
    pub start_interval: Duration,
    pub retries: u32,
}
