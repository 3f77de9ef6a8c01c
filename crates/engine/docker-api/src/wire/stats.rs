//! Readings of what a container uses. Docker sends two at a time (`precpu_stats`), so that a client can show rates.

use std::collections::BTreeMap;

use serde::Serialize;

use super::{Empty, time};

#[derive(Debug, Serialize)]
pub(crate) struct Stats {
    name: String,
    id: String,
    read: String,
    preread: String,
    num_procs: u32,
    pids_stats: Pids,
    cpu_stats: Cpu,
    precpu_stats: Cpu,
    memory_stats: Memory,
    blkio_stats: Blkio,
    storage_stats: Empty,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    networks: BTreeMap<String, Network>,
}

#[derive(Debug, Default, Serialize)]
struct Pids {
    #[serde(skip_serializing_if = "is_zero")]
    current: u64,
    #[serde(skip_serializing_if = "is_zero")]
    limit: u64,
}

#[derive(Debug, Default, Serialize)]
struct Cpu {
    cpu_usage: CpuUsage,
    #[serde(skip_serializing_if = "is_zero")]
    system_cpu_usage: u64,
    #[serde(skip_serializing_if = "is_zero")]
    online_cpus: u64,
    throttling_data: Throttling,
}

#[derive(Debug, Default, Serialize)]
struct CpuUsage {
    total_usage: u64,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    percpu_usage: Vec<u64>,
    usage_in_kernelmode: u64,
    usage_in_usermode: u64,
}

#[derive(Debug, Default, Serialize)]
struct Throttling {
    periods: u64,
    throttled_periods: u64,
    throttled_time: u64,
}

#[derive(Debug, Default, Serialize)]
struct Memory {
    #[serde(skip_serializing_if = "is_zero")]
    usage: u64,
    #[serde(skip_serializing_if = "is_zero")]
    max_usage: u64,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    stats: BTreeMap<String, u64>,
    #[serde(skip_serializing_if = "is_zero")]
    failcnt: u64,
    #[serde(skip_serializing_if = "is_zero")]
    limit: u64,
}

/// The lists that no kernel fills any more stay `null`.
#[derive(Debug, Default, Serialize)]
struct Blkio {
    io_service_bytes_recursive: Option<Vec<BlkioEntry>>,
    io_serviced_recursive: Option<Vec<BlkioEntry>>,
    io_queue_recursive: Option<()>,
    io_service_time_recursive: Option<()>,
    io_wait_time_recursive: Option<()>,
    io_merged_recursive: Option<()>,
    io_time_recursive: Option<()>,
    sectors_recursive: Option<()>,
}

#[derive(Debug, Serialize)]
struct BlkioEntry {
    major: u64,
    minor: u64,
    op: String,
    value: u64,
}

#[derive(Debug, Serialize)]
struct Network {
    rx_bytes: u64,
    rx_packets: u64,
    rx_errors: u64,
    rx_dropped: u64,
    tx_bytes: u64,
    tx_packets: u64,
    tx_errors: u64,
    tx_dropped: u64,
}

fn is_zero(value: &u64) -> bool {
    *value == 0
}

impl Stats {
    /// `previous` is the reading before this one; without it the older half is zero.
    pub(crate) fn from_model(stats: engine::Stats, previous: Option<&engine::Stats>) -> Self {
        let blkio = |pick: fn(&engine::BlkioEntry) -> u64| {
            let entry = |e: &engine::BlkioEntry| BlkioEntry {
                major: e.major,
                minor: e.minor,
                op: e.op.clone(),
                value: pick(e),
            };
            stats.running.then(|| stats.blkio.iter().map(entry).collect())
        };
        Self {
            blkio_stats: Blkio {
                io_service_bytes_recursive: blkio(|entry| entry.bytes),
                io_serviced_recursive: blkio(|entry| entry.operations),
                ..Blkio::default()
            },
            name: format!("/{}", stats.name),
            id: stats.id,
            // A container that does not run was not read.
            read: time::nano_or_never(stats.read_at.filter(|_| stats.running)),
            preread: time::nano_or_never(
                previous.filter(|previous| previous.running).and_then(|previous| previous.read_at),
            ),
            num_procs: 0,
            pids_stats: Pids {
                current: stats.pids.current,
                limit: match stats.pids.limit {
                    Some(limit) => limit,
                    // What Docker reports for "no limit" on a running container.
                    None if stats.running => u64::MAX,
                    None => 0,
                },
            },
            precpu_stats: previous.map(|previous| Cpu::from_model(&previous.cpu)).unwrap_or_default(),
            cpu_stats: Cpu::from_model(&stats.cpu),
            memory_stats: Memory {
                usage: stats.memory.usage_bytes,
                max_usage: stats.memory.max_usage_bytes,
                stats: stats.memory.stats,
                failcnt: stats.memory.failcnt,
                limit: stats.memory.limit_bytes,
            },
            storage_stats: Empty {},
            networks: stats.networks.into_iter().map(|(name, figures)| (name, Network::from_model(&figures))).collect(),
        }
    }
}

impl Cpu {
    fn from_model(cpu: &engine::CpuStats) -> Self {
        Self {
            cpu_usage: CpuUsage {
                total_usage: cpu.total_nanos,
                percpu_usage: cpu.per_cpu_nanos.clone(),
                usage_in_kernelmode: cpu.system_nanos,
                usage_in_usermode: cpu.user_nanos,
            },
            system_cpu_usage: cpu.host_nanos,
            online_cpus: cpu.online.into(),
            throttling_data: Throttling {
                periods: cpu.periods,
                throttled_periods: cpu.throttled_periods,
                throttled_time: cpu.throttled_nanos,
            },
        }
    }
}

impl Network {
    fn from_model(figures: &engine::NetworkStats) -> Self {
        Self {
            rx_bytes: figures.rx_bytes,
            rx_packets: figures.rx_packets,
            rx_errors: figures.rx_errors,
            rx_dropped: figures.rx_dropped,
            tx_bytes: figures.tx_bytes,
            tx_packets: figures.tx_packets,
            tx_errors: figures.tx_errors,
            tx_dropped: figures.tx_dropped,
        }
    }
}
