//! The door to containers, shaped like the container runtime interface.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use bytes::Bytes;
use jiff::Timestamp;
use tokio::sync::mpsc;

/// Labels by which a pod's containers are found, as every kubelet sets them.
pub mod labels {
    pub const POD_NAME: &str = "io.kubernetes.pod.name";
    pub const POD_NAMESPACE: &str = "io.kubernetes.pod.namespace";
    pub const POD_UID: &str = "io.kubernetes.pod.uid";
    pub const CONTAINER: &str = "io.kubernetes.container.name";
    /// How many containers of this name the pod had before.
    pub const ATTEMPT: &str = "io.kubernetes.container.restartCount";
    /// Its sandbox, where that is not named by the pod's uid.
    pub const SANDBOX: &str = "io.kubernetes.sandbox.id";
    /// `container`, or `podsandbox` for what only serves the pod.
    pub const TYPE: &str = "io.kubernetes.docker.type";
    /// Where its last words are, beneath the sandbox.
    pub const MESSAGE: &str = "io.kubernetes.container.terminationMessage";
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RuntimeError {
    #[error("{0}")]
    NotFound(String),
    /// The request can never succeed as it stands.
    #[error("{0}")]
    Invalid(String),
    #[error("{0}")]
    Failed(String),
}

/// The node's network of pods.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NetworkConfig {
    /// This node's part, one of each family: `10.42.0.0/22`.
    pub subnets: Vec<String>,
    /// All nodes' parts.
    pub cluster: Vec<String>,
}

/// A port of the host that leads to the pod.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PortRequest {
    /// `TCP`, `UDP`, `SCTP`.
    pub protocol: String,
    pub port: u16,
    pub host_port: u16,
    /// Empty is every address.
    pub host_ip: String,
}

/// What a group of processes may use; zero is no limit.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Limits {
    pub cpu_shares: i64,
    /// Of every tenth of a second.
    pub cpu_quota_micros: i64,
    pub memory_bytes: i64,
}

/// A pod's control group.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct GroupRequest {
    pub uid: String,
    /// `burstable`, `besteffort`, or empty for guaranteed pods.
    pub class: &'static str,
    pub limits: Limits,
}

/// Which system calls a container may make.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Seccomp {
    #[default]
    Default,
    Unconfined,
    /// A profile of this node, by its path beneath the node's directory of profiles.
    Local(String),
    /// The profile itself.
    Profile(String),
}

/// What a pod's containers share.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct SandboxRequest {
    pub uid: String,
    pub namespace: String,
    pub name: String,
    pub hostname: String,
    /// Its name in the cluster, for `/etc/hosts`; empty without one.
    pub fqdn: String,
    /// The kind of runtime it asks for; empty is the usual one.
    pub handler: String,
    pub host_network: bool,
    pub host_ipc: bool,
    pub ports: Vec<PortRequest>,
    /// What it may send and receive, in bytes a second.
    pub send_limit: Option<u64>,
    pub receive_limit: Option<u64>,
    /// `/etc/resolv.conf`; `None` is the host's.
    pub resolv_conf: Option<String>,
    /// Lines for `/etc/hosts`.
    pub aliases: Vec<(String, Vec<String>)>,
    pub sysctls: BTreeMap<String, String>,
    /// The class of the pod's control group.
    pub class: &'static str,
    /// One of its containers has all rights.
    pub privileged: bool,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Sandbox {
    /// Empty: the pod uses the host's network. The first one is the pod's own, before others.
    pub ips: Vec<String>,
    /// Small files of the pod, in memory, gone with the sandbox.
    pub directory: PathBuf,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mount {
    pub source: PathBuf,
    pub target: String,
    pub read_only: bool,
    /// What is mounted below is read-only as well, or the container does not begin.
    pub recursive_read_only: bool,
    /// `private`, `rslave` or `rshared`.
    pub propagation: &'static str,
}

/// A container to be made.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ContainerRequest {
    pub pod_uid: String,
    pub pod_name: String,
    pub pod_namespace: String,
    pub name: String,
    pub attempt: u32,
    pub image: String,
    /// `None`: the image's entrypoint.
    pub command: Option<Vec<String>>,
    /// `None`: the image's, unless a command is given.
    pub args: Option<Vec<String>>,
    pub env: Vec<(String, String)>,
    pub working_dir: String,
    pub hostname: String,
    pub mounts: Vec<Mount>,
    pub tty: bool,
    pub stdin: bool,
    pub stdin_once: bool,
    pub host_network: bool,
    pub host_pid: bool,
    pub host_ipc: bool,
    /// All containers of the pod share one process namespace.
    pub share_pid: bool,
    /// Share the process namespace of this container.
    pub pid_of: Option<String>,
    /// The class of the pod's control group.
    pub class: &'static str,
    /// `user[:group]`; empty is the image's.
    pub user: String,
    pub groups: Vec<String>,
    pub privileged: bool,
    pub read_only_root: bool,
    pub no_new_privileges: bool,
    pub seccomp: Seccomp,
    /// A profile that the host has loaded; empty is none.
    pub apparmor: String,
    /// Empty is the image's.
    pub stop_signal: String,
    pub unmasked_proc: bool,
    pub cap_add: Vec<String>,
    pub cap_drop: Vec<String>,
    pub limits: Limits,
    pub oom_score_adj: i32,
    /// Where last words are written inside the container, and the file of the host that takes them.
    pub message: Option<(String, PathBuf)>,
    /// The file that takes its output, in the format that collectors of logs know; `None` keeps it with the container.
    pub log: Option<PathBuf>,
    pub devices: Vec<DeviceRequest>,
    /// Devices of vendors by their CDI names.
    pub cdi_devices: Vec<String>,
    /// What only whoever speaks the container runtime interface asks for.
    pub foreign: Option<Foreign>,
    pub annotations: BTreeMap<String, String>,
}

impl ContainerRequest {
    /// What its sandbox is named by.
    pub fn sandbox(&self) -> &str {
        self.foreign.as_ref().map_or(&self.pod_uid, |foreign| &foreign.sandbox)
    }
}

/// A container for another kubelet, which names sandboxes, control groups and files itself.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Foreign {
    pub sandbox: String,
    /// All of the container's labels.
    pub labels: BTreeMap<String, String>,
    /// Empty is the engine's own.
    pub cgroup_parent: String,
    /// The file that takes its output in the format of the interface; `None` keeps it with the container.
    pub log: Option<PathBuf>,
    pub cpuset_cpus: String,
    pub cpuset_mems: String,
    pub masked_paths: Vec<String>,
    pub readonly_paths: Vec<String>,
}

/// A device of the host.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DeviceRequest {
    pub source: String,
    pub target: String,
    /// `rwm` or a part of it.
    pub permissions: String,
}

#[derive(Debug, Clone, PartialEq)]
pub enum State {
    Created,
    Running { started: Timestamp },
    Exited { started: Option<Timestamp>, finished: Timestamp, code: i32, oom: bool, error: String },
}

/// A container as it is.
#[derive(Debug, Clone, PartialEq)]
pub struct ContainerSeen {
    pub id: String,
    pub pod_uid: String,
    pub name: String,
    pub attempt: u32,
    pub image: String,
    pub image_id: String,
    pub state: State,
    /// What it left in its termination message file.
    pub message: String,
}

#[derive(Debug, Clone, Default, PartialEq)]
pub struct ImageSeen {
    pub id: String,
    pub tags: Vec<String>,
    /// `repository@digest` of every registry that gave or took it.
    pub digests: Vec<String>,
    pub size_bytes: u64,
    /// `USER` of the image.
    pub user: String,
}

/// What a running container uses, and has used.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Used {
    pub cpu_nanos: u64,
    pub periods: u64,
    pub throttled_periods: u64,
    pub throttled_nanos: u64,
    pub memory_bytes: u64,
    /// Without file cache that can be dropped at once.
    pub working_set_bytes: u64,
    pub rss_bytes: u64,
    pub swap_bytes: u64,
    pub page_faults: u64,
    pub major_page_faults: u64,
    pub memory_limit_bytes: Option<u64>,
    pub processes: u64,
    /// Where its control group is.
    pub cgroup: String,
}

/// What went through an interface.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Traffic {
    pub rx_bytes: u64,
    pub rx_errors: u64,
    pub tx_bytes: u64,
    pub tx_errors: u64,
}

#[derive(Debug, Clone, Default, PartialEq)]
pub struct LogQuery {
    pub follow: bool,
    pub since: Option<Timestamp>,
    pub tail: Option<u64>,
}

#[derive(Debug, Clone, PartialEq)]
pub struct LogLine {
    pub at: Timestamp,
    pub stderr: bool,
    /// With its newline, if it has one.
    pub line: Bytes,
}

impl From<engine::LogEntry> for LogLine {
    fn from(entry: engine::LogEntry) -> Self {
        Self { at: entry.at, stderr: entry.stream == engine::Stream::Stderr, line: entry.line }
    }
}

impl LogLine {
    /// A line of the container runtime interface's log format, without its newline.
    pub fn parse(line: &[u8]) -> Option<Self> {
        engine::parse_cri(line).map(Self::from)
    }
}

#[derive(Debug, Clone, PartialEq)]
pub struct Output {
    pub stderr: bool,
    pub bytes: Bytes,
}

#[derive(Debug, Clone, PartialEq)]
pub enum Input {
    Bytes(Bytes),
    /// Rows and columns of the terminal.
    Size(u16, u16),
    /// No more input.
    End,
}

/// A process that somebody is connected to.
#[derive(Debug)]
pub struct Process {
    /// Ends when the process has ended and all was delivered.
    pub output: mpsc::Receiver<Output>,
    pub input: mpsc::Sender<Input>,
    /// Its exit code, once it has ended; nothing for an attach that was broken off.
    pub exit: tokio::sync::oneshot::Receiver<Result<i32, RuntimeError>>,
}

/// What a registry is shown. Empty: nothing.
#[derive(Clone, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Login {
    pub username: String,
    pub password: String,
    /// Stands for a login: exchanged for tokens.
    pub identity_token: String,
}

impl fmt::Debug for Login {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Login")
    }
}

/// Both directions of a connection to a port.
pub trait Pipe: tokio::io::AsyncRead + tokio::io::AsyncWrite + Send + Unpin {}

impl<T: tokio::io::AsyncRead + tokio::io::AsyncWrite + Send + Unpin> Pipe for T {}

type Answer<T> = Result<T, RuntimeError>;

/// Containers, sandboxes and images of this node. Methods that make something find it again if it is there already.
pub trait Runtime: Clone + Send + Sync + 'static {
    /// Makes the network of pods, or makes sure that it is this one.
    fn network(&self, config: &NetworkConfig) -> impl Future<Output = Answer<()>> + Send;
    fn sandbox(&self, request: &SandboxRequest) -> impl Future<Output = Answer<Sandbox>> + Send;
    /// `None`: there is none (any more).
    fn find_sandbox(&self, uid: &str) -> impl Future<Output = Option<Sandbox>> + Send;
    fn remove_sandbox(&self, uid: &str) -> impl Future<Output = Answer<()>> + Send;
    /// Pods that have a sandbox.
    fn sandboxes(&self) -> impl Future<Output = Vec<String>> + Send;

    /// Makes the pod's control group, or changes its limits.
    fn group(&self, request: &GroupRequest) -> impl Future<Output = Answer<()>> + Send;
    /// What all pods of a class get together, beside the other class.
    fn share_class(&self, class: &'static str, shares: i64) -> impl Future<Output = Answer<()>> + Send;
    /// Takes the groups of all pods away, when none is left.
    fn remove_groups(&self) -> impl Future<Output = Answer<()>> + Send;
    /// Changes the limits of a running container.
    fn limit(&self, id: &str, limits: &Limits) -> impl Future<Output = Answer<()>> + Send;
    /// The limits of a container.
    fn limits(&self, id: &str) -> impl Future<Output = Answer<Limits>> + Send;

    fn image(&self, name: &str) -> impl Future<Output = Answer<Option<ImageSeen>>> + Send;
    fn images(&self) -> impl Future<Output = Answer<Vec<ImageSeen>>> + Send;
    fn pull(&self, name: &str, login: &Login) -> impl Future<Output = Answer<()>> + Send;

    /// Mounts an image's files at `place`, read-only; the request names pod, volume and image.
    fn image_volume(
        &self,
        request: &ContainerRequest,
        place: &std::path::Path,
    ) -> impl Future<Output = Answer<PathBuf>> + Send;
    /// Takes an image away that no container uses.
    fn remove_image(&self, id: &str) -> impl Future<Output = Answer<()>> + Send;

    /// Containers of a pod, or of all pods.
    fn containers(&self, pod_uid: Option<&str>) -> impl Future<Output = Answer<Vec<ContainerSeen>>> + Send;
    /// Makes and starts it; its id. After a failure to start, the container is there with the error in its state.
    fn start(&self, request: &ContainerRequest) -> impl Future<Output = Answer<String>> + Send;
    /// Asks it to end and kills it after `grace`; returns when it has ended.
    fn stop(&self, id: &str, grace: Duration) -> impl Future<Output = Answer<()>> + Send;
    fn kill(&self, id: &str) -> impl Future<Output = Answer<()>> + Send;
    fn remove(&self, id: &str) -> impl Future<Output = Answer<()>> + Send;

    /// Runs a program in a container: exit code and the first kilobytes of its output.
    fn exec_sync(
        &self,
        id: &str,
        command: &[String],
        timeout: Duration,
    ) -> impl Future<Output = Answer<(i32, String)>> + Send;
    fn exec(
        &self,
        id: &str,
        command: &[String],
        tty: bool,
        stdin: bool,
    ) -> impl Future<Output = Answer<Process>> + Send;
    fn attach(&self, id: &str, stdin: bool) -> impl Future<Output = Answer<Process>> + Send;
    fn logs(&self, id: &str, query: &LogQuery) -> impl Future<Output = Answer<mpsc::Receiver<LogLine>>> + Send;
    /// Connects to a port of the pod.
    fn connect(&self, uid: &str, port: u16) -> impl Future<Output = Answer<Box<dyn Pipe>>> + Send;

    /// Bytes that a container has written into its own root.
    fn written(&self, id: &str) -> impl Future<Output = Answer<u64>> + Send;
    /// `None`: it does not run.
    fn used(&self, id: &str) -> impl Future<Output = Answer<Option<Used>>> + Send;
    /// What went through the interfaces of a pod, by their names.
    fn traffic(&self, uid: &str) -> impl Future<Output = Answer<BTreeMap<String, Traffic>>> + Send;

    /// Uids of pods whose containers changed.
    fn changes(&self) -> impl Future<Output = Answer<mpsc::Receiver<String>>> + Send;
}
