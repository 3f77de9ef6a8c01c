//! One reading of what a container uses. Rates are the reader's business: take two.

use jiff::Timestamp;

#[derive(Debug, Clone, Default)]
pub struct Stats {
    pub read_at: Option<Timestamp>,
    /// False: it does not run, all figures are zero.
    pub running: bool,
    pub id: String,
    pub name: String,
    pub cpu: CpuStats,
    pub memory: MemoryStats,
    pub blkio: Vec<BlkioEntry>,
    pub pids: PidsStats,
    /// By interface inside the container; empty without a network.
    pub networks: std::collections::BTreeMap<String, NetworkStats>,
}

#[derive(Debug, Clone, Default)]
pub struct CpuStats {
    pub total_nanos: u64,
    pub user_nanos: u64,
    pub system_nanos: u64,
    pub per_cpu_nanos: Vec<u64>,
    /// Time that all processors of the host spent, busy or not.
    pub host_nanos: u64,
    pub online: u32,
    pub periods: u64,
    pub throttled_periods: u64,
    pub throttled_nanos: u64,
}

#[derive(Debug, Clone, Default)]
pub struct MemoryStats {
    pub usage_bytes: u64,
    /// cgroup v1 only; 0 elsewhere.
    pub max_usage_bytes: u64,
    /// The host's memory if not limited.
    pub limit_bytes: u64,
    /// cgroup v1 only.
    pub failcnt: u64,
    /// `memory.stat` as the kernel names it.
    pub stats: std::collections::BTreeMap<String, u64>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BlkioEntry {
    pub major: u64,
    pub minor: u64,
    /// `read`, `write`.
    pub op: String,
    pub bytes: u64,
    pub operations: u64,
}

#[derive(Debug, Clone, Default)]
pub struct PidsStats {
    pub current: u64,
    /// `None`: unlimited.
    pub limit: Option<u64>,
}

#[derive(Debug, Clone, Default)]
pub struct NetworkStats {
    pub rx_bytes: u64,
    pub rx_packets: u64,
    pub rx_errors: u64,
    pub rx_dropped: u64,
    pub tx_bytes: u64,
    pub tx_packets: u64,
    pub tx_errors: u64,
    pub tx_dropped: u64,
}
