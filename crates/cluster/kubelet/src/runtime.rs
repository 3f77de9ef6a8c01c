//! The door to containers, shaped like the container runtime interface.

use std::collections::BTreeMap;
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

/// What a pod's containers share.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct SandboxRequest {
    pub uid: String,
    pub namespace: String,
    pub name: String,
    pub hostname: String,
    pub host_network: bool,
    pub host_ipc: bool,
    /// `/etc/resolv.conf`; `None` is the host's.
    pub resolv_conf: Option<String>,
    /// Lines for `/etc/hosts`.
    pub aliases: Vec<(String, Vec<String>)>,
    pub sysctls: BTreeMap<String, String>,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Sandbox {
    /// Empty: the pod has no network of its own yet or uses the host's.
    pub ip: String,
    /// Small files of the pod, in memory, gone with the sandbox.
    pub directory: PathBuf,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mount {
    pub source: PathBuf,
    pub target: String,
    pub read_only: bool,
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
    /// Share the process namespace of this container.
    pub pid_of: Option<String>,
    /// `user[:group]`; empty is the image's.
    pub user: String,
    pub groups: Vec<String>,
    pub privileged: bool,
    pub read_only_root: bool,
    pub no_new_privileges: bool,
    pub seccomp_unconfined: bool,
    pub unmasked_proc: bool,
    pub cap_add: Vec<String>,
    pub cap_drop: Vec<String>,
    pub cpu_shares: i64,
    pub cpu_quota_micros: i64,
    pub memory_bytes: i64,
    pub oom_score_adj: i32,
    /// Where last words are written inside the container, and the file of the host that takes them.
    pub message: Option<(String, PathBuf)>,
    pub annotations: BTreeMap<String, String>,
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

#[derive(Debug, Clone, PartialEq)]
pub struct ImageSeen {
    pub id: String,
    pub tags: Vec<String>,
    pub size_bytes: u64,
    /// `USER` of the image.
    pub user: String,
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

type Answer<T> = Result<T, RuntimeError>;

/// Containers, sandboxes and images of this node. Methods that make something find it again if it is there already.
pub trait Runtime: Send + Sync + 'static {
    fn sandbox(&self, request: &SandboxRequest) -> impl Future<Output = Answer<Sandbox>> + Send;
    /// `None`: there is none (any more).
    fn find_sandbox(&self, uid: &str) -> impl Future<Output = Option<Sandbox>> + Send;
    fn remove_sandbox(&self, uid: &str) -> impl Future<Output = Answer<()>> + Send;
    /// Pods that have a sandbox.
    fn sandboxes(&self) -> impl Future<Output = Vec<String>> + Send;

    fn image(&self, name: &str) -> impl Future<Output = Answer<Option<ImageSeen>>> + Send;
    fn images(&self) -> impl Future<Output = Answer<Vec<ImageSeen>>> + Send;
    fn pull(&self, name: &str) -> impl Future<Output = Answer<()>> + Send;

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
    fn connect(&self, uid: &str, port: u16) -> impl Future<Output = Answer<tokio::net::TcpStream>> + Send;

    /// Uids of pods whose containers changed.
    fn changes(&self) -> impl Future<Output = Answer<mpsc::Receiver<String>>> + Send;
}
