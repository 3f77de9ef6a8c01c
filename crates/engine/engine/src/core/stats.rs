//! One reading of what a container uses.

use jiff::Timestamp;

use super::{Container, Inner};
use crate::{BlkioEntry, CpuStats, MemoryStats, NetworkStats, PidsStats, Result, Stats, Status};

impl Inner {
    /// Blocking.
    pub(crate) fn stats(&self, container: &Container) -> Result<Stats> {
        let state = container.state();
        let mut stats = Stats {
            read_at: Some(Timestamp::now()),
            id: container.id.to_string(),
            name: container.name(),
            ..Default::default()
        };
        if !matches!(state.status, Status::Running | Status::Paused) {
            return Ok(stats);
        }
        // It may end at any moment: then there is no group and nothing is used.
        let Ok(group) = self.group(container) else { return Ok(stats) };
        let used = group.stats();
        stats.running = true;
        stats.cpu = CpuStats {
            total_nanos: used.cpu.usage_ns,
            user_nanos: used.cpu.user_ns,
            system_nanos: used.cpu.system_ns,
            per_cpu_nanos: used.cpu.per_cpu_ns,
            host_nanos: host_cpu_nanos(),
            online: self.facts.cpus as u32,
            periods: used.cpu.periods,
            throttled_periods: used.cpu.throttled_periods,
            throttled_nanos: used.cpu.throttled_ns,
        };
        stats.memory = MemoryStats {
            usage_bytes: used.memory.usage.unwrap_or(0),
            max_usage_bytes: used.memory.max_usage.unwrap_or(0),
            limit_bytes: used.memory.limit.unwrap_or_else(super::info::host_memory),
            failcnt: used.memory.failures.unwrap_or(0),
            stats: used.memory.stat,
        };
        stats.pids = PidsStats { current: used.pids.current.unwrap_or(0), limit: used.pids.limit };
        for ((major, minor), device) in used.io {
            let rows = [("read", device.read_bytes, device.read_ops), ("write", device.write_bytes, device.write_ops)];
            for (op, bytes, operations) in rows {
                stats.blkio.push(BlkioEntry {
                    major: u64::from(major),
                    minor: u64::from(minor),
                    op: op.into(),
                    bytes,
                    operations,
                });
            }
        }
        let own_network = crate::spec::network_mode(&container.record().host)? == crate::spec::NamespaceMode::Private;
        if own_network {
            let text = std::fs::read_to_string(format!("/proc/{}/net/dev", state.pid)).unwrap_or_default();
            stats.networks = parse_net_dev(&text);
        }
        Ok(stats)
    }
}

/// Time of all processors, in any mode.
fn host_cpu_nanos() -> u64 {
    const NANOS_PER_TICK: u64 = 10_000_000;
    let text = std::fs::read_to_string("/proc/stat").unwrap_or_default();
    let line = text.lines().next().and_then(|l| l.strip_prefix("cpu ")).unwrap_or_default();
    // Guest time is part of user time already.
    line.split_whitespace().take(8).filter_map(|n| n.parse::<u64>().ok()).sum::<u64>() * NANOS_PER_TICK
}

/// Every interface but the loopback.
fn parse_net_dev(text: &str) -> std::collections::BTreeMap<String, NetworkStats> {
    let lines = text.lines().filter_map(|line| {
        let (name, rest) = line.split_once(':')?;
        let n: Vec<u64> = rest.split_whitespace().map_while(|n| n.parse().ok()).collect();
        let name = name.trim();
        if name == "lo" || n.len() < 12 {
            return None;
        }
        let stats = NetworkStats {
            rx_bytes: n[0],
            rx_packets: n[1],
            rx_errors: n[2],
            rx_dropped: n[3],
            tx_bytes: n[8],
            tx_packets: n[9],
            tx_errors: n[10],
            tx_dropped: n[11],
        };
        Some((name.to_owned(), stats))
    });
    lines.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn interfaces_are_read_and_the_loopback_is_left_out() {
        let text = "Inter-|   Receive\n face |bytes\n    lo: 1 1 0 0 0 0 0 0 1 1 0 0 0 0 0 0\n  eth0: 10 2 1 3 0 0 0 0 20 4 5 6 0 0 0 0\n";
        let stats = parse_net_dev(text);
        assert_eq!(stats.keys().collect::<Vec<_>>(), ["eth0"]);
        let eth0 = &stats["eth0"];
        assert_eq!((eth0.rx_bytes, eth0.rx_dropped, eth0.tx_bytes, eth0.tx_dropped), (10, 3, 20, 6));
    }
}
