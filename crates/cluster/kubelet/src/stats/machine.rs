//! The node's own figures, from `/proc` and the file system that the instance's root is on.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use jiff::Timestamp;

use pods::{Traffic, traffic};

const NANOS_PER_TICK: u64 = 10_000_000;

#[derive(Debug, Clone, PartialEq)]
pub struct MachineUse {
    pub booted: Timestamp,
    /// Of all processors together, without the time in which they had nothing to do.
    pub cpu_nanos: u64,
    pub memory: Memory,
    pub disk: Disk,
    pub network: BTreeMap<String, Traffic>,
    pub processes: u64,
    pub processes_max: u64,
    pub pressure: BTreeMap<&'static str, String>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Memory {
    pub total_bytes: u64,
    pub usage_bytes: u64,
    /// In use and not file cache that can be dropped at once.
    pub working_set_bytes: u64,
    pub available_bytes: u64,
    pub rss_bytes: u64,
    pub swap_total_bytes: u64,
    pub swap_used_bytes: u64,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Disk {
    pub capacity_bytes: u64,
    pub available_bytes: u64,
    pub inodes: u64,
    pub inodes_free: u64,
}

impl Disk {
    pub fn used_bytes(&self) -> u64 {
        self.capacity_bytes.saturating_sub(self.available_bytes)
    }
}

pub fn read(root: &Path) -> MachineUse {
    let text = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let stat = text("/proc/stat");
    let number = |path: &str| text(path).trim().parse().unwrap_or(0);
    let processes = text("/proc/loadavg");
    let processes = processes.split_whitespace().nth(3).and_then(|word| word.split_once('/')?.1.parse().ok());
    let pressure = ["cpu", "memory", "io"].map(|kind| (kind, text(&format!("/proc/pressure/{kind}"))));
    MachineUse {
        booted: booted(&stat),
        cpu_nanos: busy_nanos(&stat),
        memory: memory(&text("/proc/meminfo")),
        disk: disk(root),
        network: traffic(&text("/proc/net/dev")),
        processes: processes.unwrap_or(0),
        processes_max: number("/proc/sys/kernel/pid_max"),
        pressure: pressure.into_iter().filter(|(_, text)| !text.is_empty()).collect(),
    }
}

pub fn disk(root: &Path) -> Disk {
    let Ok(stat) = rustix::fs::statvfs(root) else { return Disk::default() };
    Disk {
        capacity_bytes: stat.f_blocks.saturating_mul(stat.f_frsize),
        available_bytes: stat.f_bavail.saturating_mul(stat.f_frsize),
        inodes: stat.f_files,
        inodes_free: stat.f_ffree,
    }
}

fn booted(stat: &str) -> Timestamp {
    let secs = stat.lines().find_map(|line| line.strip_prefix("btime ")?.trim().parse::<i64>().ok());
    secs.and_then(|secs| Timestamp::from_second(secs).ok()).unwrap_or(Timestamp::UNIX_EPOCH)
}

/// The first line: user, nice, system, idle, iowait, irq, softirq, steal.
fn busy_nanos(stat: &str) -> u64 {
    let words = stat.lines().next().and_then(|line| line.strip_prefix("cpu ")).unwrap_or_default();
    let ticks = words.split_whitespace().take(8).enumerate().filter(|(at, _)| !matches!(at, 3 | 4));
    ticks.filter_map(|(_, word)| word.parse::<u64>().ok()).sum::<u64>() * NANOS_PER_TICK
}

pub fn memory(meminfo: &str) -> Memory {
    let bytes = |name: &str| -> u64 {
        let line = meminfo.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        line.and_then(|rest| rest.split_whitespace().next()?.parse::<u64>().ok()).unwrap_or(0) << 10
    };
    let (total, free) = (bytes("MemTotal"), bytes("MemFree"));
    let usage = total.saturating_sub(free);
    let working_set = usage.saturating_sub(bytes("Inactive(file)"));
    let swap = bytes("SwapTotal");
    Memory {
        total_bytes: total,
        usage_bytes: usage,
        working_set_bytes: working_set,
        available_bytes: total.saturating_sub(working_set),
        rss_bytes: bytes("AnonPages"),
        swap_total_bytes: swap,
        swap_used_bytes: swap.saturating_sub(bytes("SwapFree")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_read_from_proc() {
        let stat = "cpu  10 20 30 1000 2000 1 2 3 99 99\ncpu0 1\nbtime 1700000000\n";
        assert_eq!(busy_nanos(stat), 66 * NANOS_PER_TICK);
        assert_eq!(booted(stat).as_second(), 1_700_000_000);
        let info = "MemTotal:  1000 kB\nMemFree:  300 kB\nInactive(file):  200 kB\nSwapTotal: 10 kB\nSwapFree: 4 kB\n";
        let memory = memory(info);
        assert_eq!((memory.usage_bytes, memory.working_set_bytes), (700 << 10, 500 << 10));
        assert_eq!((memory.available_bytes, memory.swap_used_bytes), (500 << 10, 6 << 10));
        for broken in ["", "cpu", "cpu x", "x:"] {
            assert_eq!(busy_nanos(broken), 0, "{broken}");
        }
    }
}
