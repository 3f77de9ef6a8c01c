//! What this machine lends to a container: the part of a create request that an image can never provide.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// Resources, isolation and mounts. Stored as asked for, so that `inspect` shows it unchanged; what it means on this
/// host is decided at each start. Strings that follow a small grammar of Docker's (`binds`, modes, `security_opt`)
/// stay strings here and are checked at create.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct HostConfig {
    /// `source:destination[:options]`; a source without a slash is a named volume.
    pub binds: Vec<String>,
    pub mounts: Vec<MountRequest>,
    /// Destination to options: `/run` -> `rw,noexec,size=64k`.
    pub tmpfs: BTreeMap<String, String>,
    /// `container[:ro|rw]`.
    pub volumes_from: Vec<String>,
    /// Volume driver for volumes that a bind names.
    pub volume_driver: String,
    pub container_id_file: String,
    pub log: LogConfig,
    /// Empty or `default`, `none`, `host`, `bridge`, `container:<id or name>`, or a network's name.
    pub network_mode: String,
    /// `80/tcp` to the host's side.
    pub port_bindings: BTreeMap<String, Vec<PortBinding>>,
    pub publish_all_ports: bool,
    pub restart_policy: RestartPolicy,
    pub auto_remove: bool,
    pub cap_add: Vec<String>,
    pub cap_drop: Vec<String>,
    /// Empty (private), `private`, `host`.
    pub cgroupns_mode: String,
    pub dns: Vec<String>,
    pub dns_options: Vec<String>,
    pub dns_search: Vec<String>,
    /// `name:address`; the address `host-gateway` stands for the host.
    pub extra_hosts: Vec<String>,
    pub group_add: Vec<String>,
    /// Empty (private), `private`, `shareable`, `none`, `host`, `container:<id or name>`.
    pub ipc_mode: String,
    pub cgroup: String,
    pub links: Vec<String>,
    /// -1000..=1000.
    pub oom_score_adj: i32,
    /// Empty (private), `host`, `container:<id or name>`.
    pub pid_mode: String,
    pub privileged: bool,
    pub readonly_rootfs: bool,
    /// `no-new-privileges[=bool]`, `seccomp=unconfined|builtin|<profile JSON>`, `apparmor=...`, `label=...`,
    /// `systempaths=unconfined`, `writable-cgroups=bool`.
    pub security_opt: Vec<String>,
    pub storage_opt: BTreeMap<String, String>,
    /// Empty (private) or `host`.
    pub uts_mode: String,
    /// Empty (the engine's: `--userns-remap`, else the host's), `host`, or `auto[:size=N]`: ids of its own.
    pub userns_mode: String,
    /// Bytes; 0 is 64 MiB.
    pub shm_size_bytes: i64,
    pub sysctls: BTreeMap<String, String>,
    pub runtime: String,
    pub isolation: String,
    pub console_size: Option<ConsoleSize>,
    pub annotations: BTreeMap<String, String>,
    /// `None` is Docker's current list.
    pub masked_paths: Option<Vec<String>>,
    /// `None` is Docker's current list.
    pub readonly_paths: Option<Vec<String>>,
    /// Run a tiny init as process 1 that forwards signals and reaps.
    pub init: Option<bool>,
    pub resources: Resources,
}

/// Limits, as `docker update` can change them while the container runs. Zero and `None` mean "not limited".
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Resources {
    pub cpu_shares: i64,
    pub memory_bytes: i64,
    pub nano_cpus: i64,
    pub cgroup_parent: String,
    pub blkio_weight: u16,
    pub blkio_weight_device: Vec<WeightDevice>,
    pub blkio_device_read_bps: Vec<ThrottleDevice>,
    pub blkio_device_write_bps: Vec<ThrottleDevice>,
    pub blkio_device_read_iops: Vec<ThrottleDevice>,
    pub blkio_device_write_iops: Vec<ThrottleDevice>,
    pub cpu_period_micros: i64,
    pub cpu_quota_micros: i64,
    pub cpu_realtime_period_micros: i64,
    pub cpu_realtime_runtime_micros: i64,
    pub cpuset_cpus: String,
    pub cpuset_mems: String,
    pub devices: Vec<DeviceMapping>,
    /// `c 1:3 rwm`.
    pub device_cgroup_rules: Vec<String>,
    pub device_requests: Vec<DeviceRequest>,
    pub memory_reservation_bytes: i64,
    /// Memory plus swap; -1 is unlimited swap.
    pub memory_swap_bytes: i64,
    /// 0..=100, `None` or -1: the kernel's own.
    pub memory_swappiness: Option<i64>,
    pub oom_kill_disable: Option<bool>,
    /// `None`, 0 and -1 are unlimited.
    pub pids_limit: Option<i64>,
    pub ulimits: Vec<Ulimit>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct WeightDevice {
    pub path: String,
    pub weight: u16,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ThrottleDevice {
    pub path: String,
    pub rate: u64,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DeviceMapping {
    pub path_on_host: String,
    pub path_in_container: String,
    /// `rwm` or a part of it; empty is `rwm`.
    pub cgroup_permissions: String,
}

/// `--gpus` and devices by their CDI names (driver `cdi`). Requests that no driver can serve are refused at create.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct DeviceRequest {
    /// `cdi`, or a vendor's; empty: whoever has the capability.
    pub driver: String,
    /// -1: all.
    pub count: i64,
    pub device_ids: Vec<String>,
    pub capabilities: Vec<Vec<String>>,
    pub options: BTreeMap<String, String>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Ulimit {
    /// `nofile`, without `RLIMIT_`.
    pub name: String,
    /// -1 is unlimited.
    pub soft: i64,
    pub hard: i64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConsoleSize {
    pub rows: u16,
    pub cols: u16,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct LogConfig {
    /// Empty (`json-file`), `json-file`, `none`; other drivers are refused.
    pub driver: String,
    pub options: BTreeMap<String, String>,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct PortBinding {
    pub host_ip: String,
    /// A port, a range, or empty for any.
    pub host_port: String,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum RestartMode {
    #[default]
    No,
    Always,
    OnFailure,
    UnlessStopped,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct RestartPolicy {
    pub mode: RestartMode,
    /// For `OnFailure`: 0 is no limit.
    pub retries_max: u32,
}

/// `--mount`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct MountRequest {
    pub kind: MountKind,
    /// A host path, a volume's name, or empty for an anonymous volume and tmpfs.
    pub source: String,
    pub target: String,
    pub read_only: bool,
    pub consistency: String,
    pub bind: Option<BindOptions>,
    pub volume: Option<VolumeOptions>,
    pub tmpfs: Option<TmpfsOptions>,
    /// For `MountKind::Image`: a path inside the image.
    pub image_subpath: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum MountKind {
    Bind,
    Volume,
    Tmpfs,
    Image,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct BindOptions {
    /// Empty (`rprivate`), `private`, `rprivate`, `shared`, `rshared`, `slave`, `rslave`.
    pub propagation: String,
    pub non_recursive: bool,
    pub create_mountpoint: bool,
    pub read_only_non_recursive: bool,
    pub read_only_force_recursive: bool,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct VolumeOptions {
    pub no_copy: bool,
    pub labels: BTreeMap<String, String>,
    pub subpath: String,
    pub driver: String,
    pub driver_options: BTreeMap<String, String>,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct TmpfsOptions {
    /// Bytes; 0 is the kernel's default.
    pub size_bytes: i64,
    pub mode: u32,
    /// Further mount options, each a flag or a key and its value.
    pub options: Vec<Vec<String>>,
}

/// One endpoint of a container on a network: asked for in a request, observed in a view.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct EndpointSettings {
    pub ipv4_address: String,
    pub ipv6_address: String,
    pub link_local_ips: Vec<String>,
    pub links: Vec<String>,
    pub aliases: Vec<String>,
    pub driver_options: BTreeMap<String, String>,
    pub gw_priority: i64,
    pub mac_address: String,
    // Observed:
    pub network_id: String,
    pub endpoint_id: String,
    pub gateway: String,
    pub ip_address: String,
    pub ip_prefix_len: u8,
    pub ipv6_gateway: String,
    pub global_ipv6_address: String,
    pub global_ipv6_prefix_len: u8,
    pub dns_names: Vec<String>,
}

/// What `docker update` can change. `None` leaves a value as it is.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct UpdateRequest {
    /// Fields at zero, empty or `None` stay as they are (Docker's rule).
    pub resources: Resources,
    pub restart_policy: Option<RestartPolicy>,
}
