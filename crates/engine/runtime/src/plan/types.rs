//! What a plan is made of: plain values, serialisable (no self-describing format needed), decided once and carried out
//! without a further decision.

use std::path::PathBuf;

use linux::idmap::IdSpan;
use serde::{Deserialize, Serialize};

use super::options::{Attrs, Propagation};

/// Where a container's root file system comes from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum RootfsSource {
    /// A directory, as in an OCI bundle; what is mounted below it comes along.
    Directory(PathBuf),
    /// An overlay that the container's own mount namespace mounts, so that it never shows in the host's table.
    Overlay {
        /// Read-only directories, the uppermost layer first. Not empty.
        lowers: Vec<PathBuf>,
        upper: PathBuf,
        /// Empty directory on the same file system as `upper`.
        work: PathBuf,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Namespace {
    User,
    Mount,
    Pid,
    Network,
    Ipc,
    Uts,
    Cgroup,
    Time,
}

impl Namespace {
    /// In the order in which they are joined: the user namespace decides what the others may do.
    pub const ALL: [Self; 8] =
        [Self::User, Self::Cgroup, Self::Ipc, Self::Uts, Self::Network, Self::Time, Self::Pid, Self::Mount];

    /// `CLONE_NEW*`.
    pub const fn flag(self) -> u64 {
        match self {
            Self::Time => 0x80,
            Self::Mount => 0x2_0000,
            Self::Cgroup => 0x200_0000,
            Self::Uts => 0x400_0000,
            Self::Ipc => 0x800_0000,
            Self::User => 0x1000_0000,
            Self::Pid => 0x2000_0000,
            Self::Network => 0x4000_0000,
        }
    }

    /// The name in `/proc/PID/ns`.
    pub const fn proc_name(self) -> &'static str {
        match self {
            Self::User => "user",
            Self::Mount => "mnt",
            Self::Pid => "pid",
            Self::Network => "net",
            Self::Ipc => "ipc",
            Self::Uts => "uts",
            Self::Cgroup => "cgroup",
            Self::Time => "time",
        }
    }
}

/// A namespace to enter by its file (`/proc/PID/ns/net`, `/run/netns/x`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Join {
    pub namespace: Namespace,
    pub path: PathBuf,
}

/// Who may write the maps of the new user namespace.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum MapWriter {
    /// We have CAP_SETUID and CAP_SETGID over the parent namespace, or map a single id of our own.
    Direct,
    /// The set-uid programs `newuidmap` and `newgidmap` (rootless with ranges from /etc/subuid).
    Helpers,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct IdMaps {
    pub uid: Vec<IdSpan>,
    pub gid: Vec<IdSpan>,
    pub writer: MapWriter,
    /// An unprivileged writer must give up setgroups(2) in the new namespace first.
    pub deny_setgroups: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CgroupPlan {
    /// The group, from the root of every hierarchy, with a leading `/`. Empty: no group is made or joined.
    pub path: String,
    pub resources: linux::cgroup::Resources,
    /// A group that cannot be made or limited is a warning (rootless without delegation), not an error.
    pub optional: bool,
}

/// A mount that needs more privilege than the child has: the launcher makes it before it clones and the child attaches it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EarlyMount {
    pub source: PathBuf,
    /// What to take of the source, found beneath it.
    pub within: Option<PathBuf>,
    pub recursive: bool,
    /// Ids as seen through the mount; `None` only opens it.
    pub idmap: Option<EarlyIdmap>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EarlyIdmap {
    pub uid: Vec<IdSpan>,
    pub gid: Vec<IdSpan>,
    pub recursive: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum MountSource {
    /// A new instance of a file system.
    Fs {
        fstype: String,
        /// What mountinfo shows as source; empty for none.
        source: String,
        /// `key=value` or a flag, in order.
        params: Vec<(String, Option<String>)>,
    },
    Bind {
        path: PathBuf,
        /// What of it: resolved beneath `path` when it is mounted.
        within: Option<PathBuf>,
        recursive: bool,
    },
    /// `Plan::early[index]`.
    Early { index: usize },
    /// The cgroup file system, whole or as the container's own part of it.
    Cgroup,
    /// No new mount: the one that an earlier entry made at the destination gets other attributes.
    Existing,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MountStep {
    pub destination: String,
    pub source: MountSource,
    /// For the mount itself, set before it is attached.
    pub attrs: Attrs,
    pub recursive_attrs: Attrs,
    pub propagation: Vec<Propagation>,
    /// tmpfs: start with what the image has there.
    pub copy_up: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum NodeKind {
    Char,
    Block,
    Fifo,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceNode {
    pub path: String,
    pub kind: NodeKind,
    pub major: u32,
    pub minor: u32,
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hook {
    pub path: PathBuf,
    /// `argv`, the first included; the path when the spec gives none.
    pub args: Vec<String>,
    /// Exactly this; nothing is inherited.
    pub env: Vec<String>,
    pub timeout_secs: Option<u64>,
}

#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Hooks {
    pub prestart: Vec<Hook>,
    pub create_runtime: Vec<Hook>,
    pub create_container: Vec<Hook>,
    pub start_container: Vec<Hook>,
    pub poststart: Vec<Hook>,
    pub poststop: Vec<Hook>,
}

impl Hooks {
    /// Hooks that the launcher runs while the child waits.
    pub const fn before_pivot_outside(&self) -> bool {
        !self.prestart.is_empty() || !self.create_runtime.is_empty()
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct ConsoleSize {
    pub rows: u16,
    pub cols: u16,
}

/// One act of the container's first process. They are carried out in order; the first that fails ends the launch and is
/// named in the error.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Step {
    /// Wait until the launcher has written the id maps, then be root of the new user namespace.
    BecomeRoot {
        setgroups: bool,
    },
    /// Write 0 into every `cgroup.procs` that the launcher opened.
    JoinCgroups,
    /// Enter the namespaces of `Plan::join` (opened by the launcher), in the order given.
    JoinNamespaces,
    /// `CLONE_NEWCGROUP`, once inside the group that becomes its root.
    UnshareCgroup,
    /// Lines for `/proc/self/timens_offsets`; enters the new time namespace.
    TimeOffsets(String),
    NewSession,
    /// A session keyring of its own, so that the host's keys are not reachable. A kernel without keys is no error.
    SessionKeyring {
        name: String,
    },
    LoopbackUp,
    /// Lowering may be refused (EPERM): a warning then.
    OomScoreAdj(i32),
    /// `kernel.x=y` as `("kernel/x", "y")`.
    Sysctl {
        path: String,
        value: String,
    },
    /// Cuts the mount namespace off from the host's, so that nothing propagates back.
    RootPropagation(Propagation),
    AttachRootfs,
    Mount(Box<MountStep>),
    DeviceNode(DeviceNode),
    /// `/dev/fd -> /proc/self/fd` and the like; left alone where something is there already.
    Symlink {
        path: String,
        target: String,
    },
    /// `/dev/pts/ptmx` as `/dev/ptmx`.
    Ptmx,
    /// Tell the launcher to run the createRuntime hooks, and wait.
    RuntimeHooks,
    /// createContainer hooks, in the container's namespaces with the host's root still in place.
    CreateContainerHooks,
    /// A pty from the container's own devpts, its slave on stdio and on `/dev/console`.
    Console {
        size: Option<ConsoleSize>,
        mount: bool,
    },
    PivotRoot,
    /// Without pivot_root: move the root over `/` and chroot.
    MoveRoot,
    /// Read-only after everything below it is in place.
    SealMount {
        destination: String,
    },
    SealRoot,
    MaskPath(String),
    ReadonlyPath(String),
    Hostname(String),
    Domainname(String),
    Umask(u32),
    /// Made if it is missing, as root, before `/` may become read-only.
    WorkingDirectory(String),
}

impl Step {
    /// The step's name in errors.
    pub fn name(&self) -> String {
        match self {
            Self::BecomeRoot { .. } => "become root of the user namespace".into(),
            Self::JoinCgroups => "join the cgroup".into(),
            Self::JoinNamespaces => "join namespaces".into(),
            Self::UnshareCgroup => "new cgroup namespace".into(),
            Self::TimeOffsets(_) => "set time offsets".into(),
            Self::NewSession => "new session".into(),
            Self::SessionKeyring { .. } => "new session keyring".into(),
            Self::LoopbackUp => "bring lo up".into(),
            Self::OomScoreAdj(score) => format!("set oom_score_adj {score}"),
            Self::Sysctl { path, value } => format!("set sysctl {path} to {value:?}"),
            Self::RootPropagation(_) => "set propagation of /".into(),
            Self::AttachRootfs => "attach the root file system".into(),
            Self::Mount(mount) => match &mount.source {
                MountSource::Fs { fstype, .. } => format!("mount {fstype} on {}", mount.destination),
                MountSource::Bind { path, .. } => format!("bind {} on {}", path.display(), mount.destination),
                MountSource::Early { .. } => format!("attach a mount on {}", mount.destination),
                MountSource::Existing => format!("change the mount on {}", mount.destination),
                MountSource::Cgroup => format!("mount cgroups on {}", mount.destination),
            },
            Self::DeviceNode(node) => format!("make device {}", node.path),
            Self::Symlink { path, .. } => format!("make link {path}"),
            Self::Ptmx => "make /dev/ptmx".into(),
            Self::RuntimeHooks => "run createRuntime hooks".into(),
            Self::CreateContainerHooks => "run createContainer hooks".into(),
            Self::Console { .. } => "set up the console".into(),
            Self::PivotRoot => "pivot_root".into(),
            Self::MoveRoot => "move the root and chroot".into(),
            Self::SealMount { destination } => format!("make {destination} read-only"),
            Self::SealRoot => "make / read-only".into(),
            Self::MaskPath(path) => format!("mask {path}"),
            Self::ReadonlyPath(path) => format!("make {path} read-only"),
            Self::Hostname(name) => format!("set hostname {name}"),
            Self::Domainname(name) => format!("set domainname {name}"),
            Self::Umask(mask) => format!("set umask {mask:o}"),
            Self::WorkingDirectory(path) => format!("make working directory {path}"),
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rlimit {
    /// `RLIMIT_*` number.
    pub resource: u32,
    pub name: String,
    pub soft: u64,
    pub hard: u64,
}

/// Five bit sets, bit n = capability n.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct CapabilitySets {
    pub bounding: u64,
    pub effective: u64,
    pub inheritable: u64,
    pub permitted: u64,
    pub ambient: u64,
}

/// sched_setattr(2).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct SchedulerPlan {
    pub policy: u32,
    pub flags: u64,
    pub nice: i32,
    pub priority: u32,
    /// Nanoseconds.
    pub runtime: u64,
    pub deadline: u64,
    pub period: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemoryPolicyPlan {
    /// `MPOL_*` with its flags.
    pub mode: u32,
    /// Node numbers.
    pub nodes: Vec<u32>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SeccompPlan {
    pub filter: linux::seccomp::Filter,
    /// Unix socket that gets the notify descriptor and a JSON state.
    pub listener: Option<SeccompListener>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SeccompListener {
    pub path: PathBuf,
    pub metadata: String,
}

/// The program and everything about it that exec keeps.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessPlan {
    pub args: Vec<String>,
    /// Exactly this, in order, duplicates settled (the last wins).
    pub env: Vec<String>,
    pub cwd: String,
    pub uid: u32,
    pub gid: u32,
    pub groups: Vec<u32>,
    pub umask: Option<u32>,
    /// HOME is asked for from /etc/passwd of the container when the environment has none.
    pub home_from_passwd: bool,
    pub capabilities: Option<CapabilitySets>,
    pub no_new_privileges: bool,
    pub rlimits: Vec<Rlimit>,
    pub apparmor: Option<String>,
    pub selinux: Option<String>,
    pub scheduler: Option<SchedulerPlan>,
    /// `ioprio_set` value.
    pub io_priority: Option<u32>,
    pub memory_policy: Option<MemoryPolicyPlan>,
    /// `personality(2)`.
    pub personality: Option<u64>,
    /// CPU list before and after the process joined its cgroup (exec only).
    pub affinity_initial: Option<Vec<u32>>,
    pub affinity_final: Option<Vec<u32>>,
    /// Inherited descriptors 3..3+n.
    pub preserve_fds: u32,
    pub seccomp: Option<SeccompPlan>,
}

/// Everything about one container, ready to be carried out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    pub id: String,
    pub oci_version: String,
    /// For the state that hooks read.
    pub bundle: PathBuf,
    pub annotations: Vec<(String, String)>,
    /// `CLONE_NEW*` made with the child; the cgroup and time namespaces are unshared later by steps.
    pub clone_flags: u64,
    /// Every namespace that is new or joined, as exec has to enter it.
    pub namespaces: Vec<Namespace>,
    pub join: Vec<Join>,
    /// A first child joins namespaces and clones the container's process: needed where a namespace must be entered before
    /// another is made, or a pid namespace is joined.
    pub two_stages: bool,
    pub id_maps: Option<IdMaps>,
    /// Through which maps the layers of the root are seen: those of the user namespace, new or joined.
    pub rootfs_maps: Option<EarlyIdmap>,
    pub cgroup: CgroupPlan,
    /// Cgroup mounts show the container's own group as the root.
    pub cgroup_namespace: bool,
    pub rootfs: RootfsSource,
    pub rootfs_by_launcher: bool,
    pub early: Vec<EarlyMount>,
    pub steps: Vec<Step>,
    pub process: ProcessPlan,
    pub hooks: Hooks,
    pub terminal: bool,
    pub console_size: Option<ConsoleSize>,
    /// What the spec asked for and will not get, for the log.
    pub warnings: Vec<String>,
}

/// Everything about one more process in a running container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExecPlan {
    /// Of the container.
    pub id: String,
    /// The container's state object as JSON, for a seccomp agent.
    pub state: String,
    /// What to enter of the target's; the rest is the launcher's own already.
    pub namespaces: Vec<Namespace>,
    /// The group to join, as [`CgroupPlan::path`]; empty for none.
    pub cgroup: String,
    pub cgroup_optional: bool,
    /// As user namespaces without setgroups(2) need it.
    pub setgroups: bool,
    pub process: ProcessPlan,
    pub oom_score_adj: Option<i32>,
    pub terminal: bool,
    pub console_size: Option<ConsoleSize>,
    pub warnings: Vec<String>,
}
