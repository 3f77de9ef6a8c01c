//! What list and inspect show.

use std::collections::BTreeMap;
use std::path::PathBuf;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use vocab::Digest;

use super::{ContainerConfig, ContainerId, ContainerState, EndpointSettings, ExecId, HostConfig, PortBinding};

/// `inspect`: the whole container.
#[derive(Debug, Clone)]
pub struct ContainerView {
    pub id: ContainerId,
    /// Without the leading slash.
    pub name: String,
    pub created_at: Timestamp,
    /// The program and its arguments after entrypoint and command were joined.
    pub path: String,
    pub args: Vec<String>,
    pub state: ContainerState,
    pub image_id: Digest,
    pub config: ContainerConfig,
    pub host: HostConfig,
    pub restart_count: u32,
    /// `overlay2`: Docker's name for it.
    pub driver: &'static str,
    pub platform: String,
    pub mounts: Vec<MountPoint>,
    pub exec_ids: Vec<ExecId>,
    pub paths: ContainerPaths,
    pub graph: GraphView,
    /// By network name.
    pub networks: BTreeMap<String, EndpointSettings>,
    /// `80/tcp` to where it is published; empty when exposed only.
    pub ports: BTreeMap<String, Vec<PortBinding>>,
    /// The network namespace as a path under `/proc` while it runs.
    pub sandbox_key: String,
    /// Filled if asked for.
    pub size: Option<ContainerSize>,
}

#[derive(Debug, Clone, Default)]
pub struct ContainerPaths {
    pub resolv_conf: PathBuf,
    pub hostname: PathBuf,
    pub hosts: PathBuf,
    /// Empty when the log driver keeps none.
    pub log: PathBuf,
}

/// Where the root file system's parts are.
#[derive(Debug, Clone, Default)]
pub struct GraphView {
    /// Topmost first.
    pub lowers: Vec<PathBuf>,
    pub upper: PathBuf,
    pub work: PathBuf,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ContainerSize {
    /// The writable layer.
    pub rw_bytes: u64,
    /// The image and the writable layer.
    pub root_fs_bytes: u64,
}

/// One mount as `inspect` lists it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct MountPoint {
    pub kind: super::MountKind,
    /// A volume's name, or empty.
    pub name: String,
    pub source: String,
    pub destination: String,
    /// A volume's driver, or empty.
    pub driver: String,
    /// The options as given (`z`, `ro`, ...).
    pub mode: String,
    pub rw: bool,
    pub propagation: String,
}

/// One line of `list`.
#[derive(Debug, Clone)]
pub struct ContainerSummary {
    pub id: ContainerId,
    /// Without the leading slash; links would add further ones.
    pub names: Vec<String>,
    /// As the caller named it; the id if that name has moved to another image.
    pub image: String,
    pub image_id: Digest,
    /// Program and arguments, joined and quoted as Docker shows them.
    pub command: String,
    pub created_at: Timestamp,
    pub state: ContainerState,
    /// `Up 3 minutes (Paused)`, `Exited (0) 2 hours ago`, ...
    pub status: String,
    pub labels: BTreeMap<String, String>,
    pub network_mode: String,
    pub annotations: BTreeMap<String, String>,
    pub mounts: Vec<MountPoint>,
    pub networks: BTreeMap<String, EndpointSettings>,
    pub ports: Vec<PortView>,
    pub size: Option<ContainerSize>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PortView {
    pub ip: String,
    pub private: u16,
    /// 0: exposed, not published.
    pub public: u16,
    /// `tcp`, `udp`, `sctp`.
    pub protocol: String,
}

/// `ps` inside the container, read from `/proc` by the host: nothing of the container's is run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TopTable {
    pub titles: Vec<String>,
    pub processes: Vec<Vec<String>>,
}

/// One changed path, as `diff` shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    pub kind: ChangeKind,
    /// Absolute inside the container. Bytes that are not UTF-8 are replaced: the wire cannot carry them.
    pub path: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChangeKind {
    Modified,
    Added,
    Deleted,
}

/// A file inside a container, as `docker cp` asks about it.
#[derive(Debug, Clone, PartialEq)]
pub struct PathStat {
    pub name: String,
    pub size_bytes: u64,
    /// Type and permission bits as the kernel has them (`st_mode`).
    pub mode: u32,
    pub mtime: Timestamp,
    /// For a symbolic link: where it points, resolved inside the container.
    pub link_target: String,
}

/// What `prune` removed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Pruned {
    pub ids: Vec<String>,
    pub space_reclaimed_bytes: u64,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct RemoveOptions {
    /// Kill it first if it runs.
    pub force: bool,
    /// Remove its anonymous volumes as well.
    pub volumes: bool,
}

/// `commit`.
#[derive(Debug, Clone, Default)]
pub struct CommitRequest {
    /// `repository[:tag]`; `None` leaves the image untagged.
    pub reference: Option<String>,
    pub comment: String,
    pub author: String,
    /// Freeze the container while its layer is read.
    pub pause: bool,
    /// Dockerfile instructions to apply (`CMD ["x"]`, `ENV a=b`).
    pub changes: Vec<String>,
    /// Overrides of the container's configuration, merged as Docker does.
    pub config: Option<ContainerConfig>,
}
