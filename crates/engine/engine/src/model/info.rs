//! The engine about itself and its host.

use std::path::PathBuf;

use jiff::Timestamp;

use super::{ContainerSummary, VolumeView};

#[derive(Debug, Clone, Default)]
pub struct Info {
    /// Made once per root.
    pub id: String,
    pub containers: usize,
    pub running: usize,
    pub paused: usize,
    pub stopped: usize,
    pub images: usize,
    pub root: PathBuf,
    pub hostname: String,
    pub kernel_version: String,
    pub operating_system: String,
    pub os_version: String,
    /// `x86_64`.
    pub architecture: String,
    pub cpus: usize,
    pub memory_bytes: u64,
    /// 1 or 2.
    pub cgroup_version: u8,
    pub storage_driver: String,
    pub backing_file_system: String,
    pub security_options: Vec<String>,
    /// Where devices' files are looked for, and the names of those found.
    pub cdi_dirs: Vec<PathBuf>,
    pub cdi_devices: Vec<String>,
    /// `local`, and the plugins that are there.
    pub volume_drivers: Vec<String>,
    pub warnings: Vec<String>,
    pub open_files: usize,
    pub tasks: usize,
    pub event_listeners: usize,
    pub started_at: Option<Timestamp>,
    pub keeper_pid: i32,
    pub labels: Vec<String>,
    pub memory_limit: bool,
    pub swap_limit: bool,
    pub cpu_cfs: bool,
    pub cpu_shares: bool,
    pub cpuset: bool,
    pub pids_limit: bool,
    pub oom_kill_disable: bool,
    pub ipv4_forwarding: bool,
}

/// `system df`. Image figures come from the image store.
#[derive(Debug, Clone, Default)]
pub struct DiskUsage {
    pub layers_bytes: u64,
    /// With sizes.
    pub containers: Vec<ContainerSummary>,
    pub volumes: Vec<VolumeView>,
}

/// One thing that `doctor` found.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Finding {
    /// `cgroup`, `process`, `mount`, `layer`, `blob`, `log`, `run`, `volume`, `database`.
    pub area: String,
    /// A path, an id, a pid.
    pub place: String,
    pub problem: String,
    pub remedy: String,
}
