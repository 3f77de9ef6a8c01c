//! What a group may use, in the words of the OCI runtime spec ("config-linux", Control Groups). Plain values: every field
//! that is `None` or empty leaves the kernel's setting alone.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::devices::DeviceRule;

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Resources {
    pub memory: Memory,
    pub cpu: Cpu,
    /// Tasks allowed; negative is unlimited, 0 becomes 1 (as runc does: 0 would forbid the container itself).
    pub pids: Option<i64>,
    pub block_io: BlockIo,
    pub hugepages: Vec<HugepageLimit>,
    pub rdma: Vec<Rdma>,
    pub network: Network,
    /// v2 files and what to write into them, after everything else.
    pub unified: BTreeMap<String, String>,
    /// `Some` puts the group under device control: all is denied first, then the rules are applied in order, the last
    /// that matches wins. `None` leaves device access alone.
    pub devices: Option<Vec<DeviceRule>>,
}

/// Bytes throughout; -1 is unlimited.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Memory {
    pub limit: Option<i64>,
    pub reservation: Option<i64>,
    /// Memory **and** swap together, as in the OCI spec.
    pub swap: Option<i64>,
    /// Obsolete in every supported kernel: reported as a warning.
    pub kernel: Option<i64>,
    /// v1 only; a warning on v2.
    pub kernel_tcp: Option<i64>,
    /// 0 to 100, v1 only; a warning on v2.
    pub swappiness: Option<u64>,
    /// v1 only; a warning on v2.
    pub disable_oom_killer: bool,
    /// v1 only (v2 is always hierarchical): `memory.use_hierarchy`.
    pub use_hierarchy: Option<bool>,
    /// Refuse a limit below what is used now instead of killing for it.
    pub check_before_update: bool,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cpu {
    /// 2 to 262,144; becomes `cpu.weight` on v2. 0 is unset.
    pub shares: Option<u64>,
    /// Microseconds; negative is unlimited, 0 is unset.
    pub quota: Option<i64>,
    /// Microseconds; 0 is unset.
    pub period: Option<u64>,
    /// Microseconds.
    pub burst: Option<u64>,
    /// Microseconds, v1 only; a warning on v2.
    pub realtime_runtime: Option<i64>,
    /// Microseconds, v1 only; a warning on v2.
    pub realtime_period: Option<u64>,
    /// A list such as `0-3,7`.
    pub cpus: Option<String>,
    pub mems: Option<String>,
    /// 1 makes the group SCHED_IDLE.
    pub idle: Option<i64>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BlockIo {
    /// 10 to 1000; 0 is unset.
    pub weight: Option<u16>,
    /// v1 CFQ only; a warning elsewhere.
    pub leaf_weight: Option<u16>,
    pub weight_devices: Vec<WeightDevice>,
    /// Bytes a second.
    pub read_bps: Vec<ThrottleDevice>,
    pub write_bps: Vec<ThrottleDevice>,
    /// Operations a second.
    pub read_iops: Vec<ThrottleDevice>,
    pub write_iops: Vec<ThrottleDevice>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WeightDevice {
    pub major: u64,
    pub minor: u64,
    pub weight: Option<u16>,
    pub leaf_weight: Option<u16>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ThrottleDevice {
    pub major: u64,
    pub minor: u64,
    /// 0 takes the limit away.
    pub rate: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HugepageLimit {
    /// As the kernel names it: `2MB`, `1GB`.
    pub page_size: String,
    /// Bytes.
    pub limit: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rdma {
    /// Device name, for example `mlx5_1`.
    pub device: String,
    pub handles: Option<u32>,
    pub objects: Option<u32>,
}

/// v1 only (v2 leaves classifying to eBPF and nftables): refused on v2.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Network {
    pub class_id: Option<u32>,
    pub priorities: Vec<InterfacePriority>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InterfacePriority {
    pub interface: String,
    pub priority: u32,
}
