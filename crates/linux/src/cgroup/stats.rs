//! What a group uses. Files that a kernel or a layout does not have leave their fields `None` or empty; reading never fails
//! half way, because statistics of a group that is just ending are still worth showing.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::controller::Controller;
use super::group::{Group, read_at};
use super::layout::Version;

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stats {
    pub cpu: CpuStats,
    pub memory: MemoryStats,
    pub pids: PidsStats,
    /// By device (major, minor).
    pub io: BTreeMap<(u32, u32), IoDevice>,
    /// By page size (`2MB`).
    pub hugetlb: BTreeMap<String, HugetlbStats>,
    /// Lines of `rdma.current`, by device and counter.
    pub rdma: BTreeMap<String, BTreeMap<String, u64>>,
    pub cpu_pressure: Option<Pressure>,
    pub memory_pressure: Option<Pressure>,
    pub io_pressure: Option<Pressure>,
}

/// Nanoseconds throughout.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CpuStats {
    pub usage_ns: u64,
    pub user_ns: u64,
    pub system_ns: u64,
    /// v1 only; empty on v2.
    pub per_cpu_ns: Vec<u64>,
    pub periods: u64,
    pub throttled_periods: u64,
    pub throttled_ns: u64,
    pub burst_periods: u64,
    pub burst_ns: u64,
}

/// Bytes; a limit of `None` is unlimited.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemoryStats {
    pub usage: Option<u64>,
    pub max_usage: Option<u64>,
    pub limit: Option<u64>,
    /// Memory and swap together on v1 (`memsw`), swap alone on v2.
    pub swap_usage: Option<u64>,
    pub swap_limit: Option<u64>,
    /// Times the limit was hit (v1 `failcnt`, v2 `memory.events` max).
    pub failures: Option<u64>,
    pub oom_kills: Option<u64>,
    /// `memory.stat` as the kernel names its lines.
    pub stat: BTreeMap<String, u64>,
}

impl MemoryStats {
    /// What `docker stats` and the kubelet call used: without the page cache that can be dropped at once.
    pub fn working_set(&self) -> u64 {
        let inactive = ["total_inactive_file", "inactive_file"].iter().find_map(|k| self.stat.get(*k)).copied();
        self.usage.unwrap_or(0).saturating_sub(inactive.unwrap_or(0))
    }
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PidsStats {
    pub current: Option<u64>,
    pub limit: Option<u64>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct IoDevice {
    pub read_bytes: u64,
    pub write_bytes: u64,
    pub discard_bytes: u64,
    pub read_ops: u64,
    pub write_ops: u64,
    pub discard_ops: u64,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HugetlbStats {
    /// Bytes.
    pub usage: u64,
    pub max_usage: Option<u64>,
    pub failures: u64,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pressure {
    pub some: PressureLine,
    pub full: PressureLine,
}

/// Averages in hundredths of a percent (`1.25` % is 125), total in microseconds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PressureLine {
    pub avg10: u32,
    pub avg60: u32,
    pub avg300: u32,
    pub total_us: u64,
}

impl Group {
    /// Reads all statistics: 10 to 25 small files.
    pub fn stats(&self) -> Stats {
        let v2 = |file: &str| self.clone_into().and_then(|dir| read_at(dir, file).ok());
        Stats {
            cpu: self.cpu_stats(),
            memory: self.memory_stats(),
            pids: self.pids_stats(),
            io: self.io_stats(),
            hugetlb: self.hugetlb_stats(),
            rdma: self.read(Controller::Rdma, "rdma.current").map(|t| parse_rdma(&t)).unwrap_or_default(),
            cpu_pressure: v2("cpu.pressure").and_then(|t| parse_pressure(&t)),
            memory_pressure: v2("memory.pressure").and_then(|t| parse_pressure(&t)),
            io_pressure: v2("io.pressure").and_then(|t| parse_pressure(&t)),
        }
    }

    /// Processor time alone: one to four small files.
    pub fn cpu_stats(&self) -> CpuStats {
        let mut cpu = CpuStats::default();
        let v2 = self.version_of(Controller::Cpuacct) != Some(Version::V1);
        if v2 {
            let text = self.clone_into().and_then(|dir| read_at(dir, "cpu.stat").ok()).unwrap_or_default();
            let map = parse_flat(&text);
            let ns = |key: &str| map.get(key).copied().unwrap_or(0).saturating_mul(1000);
            (cpu.usage_ns, cpu.user_ns, cpu.system_ns) = (ns("usage_usec"), ns("user_usec"), ns("system_usec"));
        } else {
            cpu.usage_ns = self.number(Controller::Cpuacct, "cpuacct.usage").unwrap_or(0);
            cpu.user_ns = self.number(Controller::Cpuacct, "cpuacct.usage_user").unwrap_or(0);
            cpu.system_ns = self.number(Controller::Cpuacct, "cpuacct.usage_sys").unwrap_or(0);
            let per_cpu = self.read(Controller::Cpuacct, "cpuacct.usage_percpu").unwrap_or_default();
            cpu.per_cpu_ns = per_cpu.split_whitespace().filter_map(|n| n.parse().ok()).collect();
        }
        let throttling = parse_flat(&self.read(Controller::Cpu, "cpu.stat").unwrap_or_default());
        let get = |key: &str| throttling.get(key).copied().unwrap_or(0);
        cpu.periods = get("nr_periods");
        cpu.throttled_periods = get("nr_throttled");
        cpu.throttled_ns = get("throttled_time").max(get("throttled_usec").saturating_mul(1000));
        cpu.burst_periods = get("nr_bursts");
        cpu.burst_ns = get("burst_time").max(get("burst_usec").saturating_mul(1000));
        cpu
    }

    pub fn memory_stats(&self) -> MemoryStats {
        const C: Controller = Controller::Memory;
        let stat = parse_flat(&self.read(C, "memory.stat").unwrap_or_default());
        match self.version_of(C) {
            None => MemoryStats::default(),
            Some(Version::V1) => {
                // "Unlimited" is the largest page-aligned number.
                let limit = |file: &str| self.number(C, file).filter(|n| *n < i64::MAX as u64 - 0xffff);
                MemoryStats {
                    usage: self.number(C, "memory.usage_in_bytes"),
                    max_usage: self.number(C, "memory.max_usage_in_bytes"),
                    limit: limit("memory.limit_in_bytes"),
                    swap_usage: self.number(C, "memory.memsw.usage_in_bytes"),
                    swap_limit: limit("memory.memsw.limit_in_bytes"),
                    failures: self.number(C, "memory.failcnt"),
                    oom_kills: parse_flat(&self.read(C, "memory.oom_control").unwrap_or_default())
                        .get("oom_kill")
                        .copied(),
                    stat,
                }
            }
            Some(Version::V2) => {
                let events = parse_flat(&self.read(C, "memory.events").unwrap_or_default());
                MemoryStats {
                    usage: self.number(C, "memory.current"),
                    max_usage: self.number(C, "memory.peak"),
                    limit: self.number(C, "memory.max"),
                    swap_usage: self.number(C, "memory.swap.current"),
                    swap_limit: self.number(C, "memory.swap.max"),
                    failures: events.get("max").copied(),
                    oom_kills: events.get("oom_kill").copied(),
                    stat,
                }
            }
        }
    }

    pub fn pids_stats(&self) -> PidsStats {
        PidsStats {
            current: self.number(Controller::Pids, "pids.current"),
            limit: self.number(Controller::Pids, "pids.max"),
        }
    }

    pub fn io_stats(&self) -> BTreeMap<(u32, u32), IoDevice> {
        const C: Controller = Controller::Io;
        match self.version_of(C) {
            None => BTreeMap::new(),
            Some(Version::V2) => parse_io_v2(&self.read(C, "io.stat").unwrap_or_default()),
            Some(Version::V1) => {
                // BFQ counts what it schedules; the throttle counters see every device. The fuller pair wins.
                let pair = |kind: &str| {
                    let read = |what: &str| self.read(C, &format!("blkio.{kind}.{what}_recursive"));
                    let plain = |what: &str| self.read(C, &format!("blkio.{kind}.{what}"));
                    let bytes = read("io_service_bytes").or_else(|| plain("io_service_bytes")).unwrap_or_default();
                    let ops = read("io_serviced").or_else(|| plain("io_serviced")).unwrap_or_default();
                    parse_io_v1(&bytes, &ops)
                };
                let bfq = pair("bfq");
                if bfq.is_empty() { pair("throttle") } else { bfq }
            }
        }
    }

    fn hugetlb_stats(&self) -> BTreeMap<String, HugetlbStats> {
        const C: Controller = Controller::Hugetlb;
        let Some(version) = self.version_of(C) else { return BTreeMap::new() };
        let mut all = BTreeMap::new();
        for size in page_sizes() {
            let stats = match version {
                Version::V1 => HugetlbStats {
                    usage: match self.number(C, &format!("hugetlb.{size}.usage_in_bytes")) {
                        Some(usage) => usage,
                        None => continue,
                    },
                    max_usage: self.number(C, &format!("hugetlb.{size}.max_usage_in_bytes")),
                    failures: self.number(C, &format!("hugetlb.{size}.failcnt")).unwrap_or(0),
                },
                Version::V2 => HugetlbStats {
                    usage: match self.number(C, &format!("hugetlb.{size}.current")) {
                        Some(usage) => usage,
                        None => continue,
                    },
                    max_usage: None,
                    failures: parse_flat(&self.read(C, &format!("hugetlb.{size}.events")).unwrap_or_default())
                        .get("max")
                        .copied()
                        .unwrap_or(0),
                },
            };
            all.insert(size, stats);
        }
        all
    }

    fn read(&self, controller: Controller, file: &str) -> Option<String> {
        self.version_of(controller)?;
        self.read_file(controller, file).ok()
    }

    /// `None` also for "max".
    fn number(&self, controller: Controller, file: &str) -> Option<u64> {
        self.read(controller, file)?.trim().parse().ok()
    }
}

/// The huge page sizes of this machine as the controller names them: `hugepages-2048kB` is `2MB`.
fn page_sizes() -> Vec<String> {
    let Ok(entries) = std::fs::read_dir("/sys/kernel/mm/hugepages") else { return Vec::new() };
    let name = |entry: std::io::Result<std::fs::DirEntry>| {
        let name = entry.ok()?.file_name().into_string().ok()?;
        let kb: u64 = name.strip_prefix("hugepages-")?.strip_suffix("kB")?.parse().ok()?;
        Some(match kb {
            kb if kb % (1 << 20) == 0 => format!("{}GB", kb >> 20),
            kb if kb % (1 << 10) == 0 => format!("{}MB", kb >> 10),
            kb => format!("{kb}KB"),
        })
    };
    entries.filter_map(name).collect()
}

/// Lines `key number`.
fn parse_flat(text: &str) -> BTreeMap<String, u64> {
    let pair = |line: &str| line.split_once(' ').and_then(|(k, v)| Some((k.to_owned(), v.trim().parse().ok()?)));
    text.lines().filter_map(pair).collect()
}

fn device(text: &str) -> Option<(u32, u32)> {
    let (major, minor) = text.split_once(':')?;
    Some((major.parse().ok()?, minor.parse().ok()?))
}

/// Lines `8:0 rbytes=1 wbytes=2 rios=3 wios=4 dbytes=5 dios=6`.
fn parse_io_v2(text: &str) -> BTreeMap<(u32, u32), IoDevice> {
    let mut all = BTreeMap::new();
    for line in text.lines() {
        let mut words = line.split_whitespace();
        let Some(key) = words.next().and_then(device) else { continue };
        let io: &mut IoDevice = all.entry(key).or_default();
        for (name, value) in words.filter_map(|w| w.split_once('=')) {
            let Ok(n) = value.parse() else { continue };
            match name {
                "rbytes" => io.read_bytes = n,
                "wbytes" => io.write_bytes = n,
                "dbytes" => io.discard_bytes = n,
                "rios" => io.read_ops = n,
                "wios" => io.write_ops = n,
                "dios" => io.discard_ops = n,
                _ => {}
            }
        }
    }
    all
}

/// Lines `8:0 Read 4096`; a last line `Total 4096` without a device.
fn parse_io_v1(bytes: &str, ops: &str) -> BTreeMap<(u32, u32), IoDevice> {
    let mut all: BTreeMap<(u32, u32), IoDevice> = BTreeMap::new();
    for (text, is_bytes) in [(bytes, true), (ops, false)] {
        for line in text.lines() {
            let mut words = line.split_whitespace();
            let (Some(key), Some(what), Some(n)) = (words.next().and_then(device), words.next(), words.next()) else {
                continue;
            };
            let Ok(n) = n.parse::<u64>() else { continue };
            let io = all.entry(key).or_default();
            match (what, is_bytes) {
                ("Read", true) => io.read_bytes = n,
                ("Write", true) => io.write_bytes = n,
                ("Discard", true) => io.discard_bytes = n,
                ("Read", false) => io.read_ops = n,
                ("Write", false) => io.write_ops = n,
                ("Discard", false) => io.discard_ops = n,
                _ => {}
            }
        }
    }
    all
}

/// Lines `mlx4_0 hca_handle=2 hca_object=2000`.
fn parse_rdma(text: &str) -> BTreeMap<String, BTreeMap<String, u64>> {
    let mut all = BTreeMap::new();
    for line in text.lines() {
        let mut words = line.split_whitespace();
        let Some(name) = words.next() else { continue };
        let counters =
            words.filter_map(|w| w.split_once('=')).filter_map(|(k, v)| Some((k.to_owned(), v.parse().ok()?)));
        all.insert(name.to_owned(), counters.collect());
    }
    all
}

/// Lines `some avg10=0.12 avg60=0.00 avg300=0.00 total=123`; `full` is missing for processors on older kernels.
fn parse_pressure(text: &str) -> Option<Pressure> {
    let mut pressure = Pressure::default();
    let mut any = false;
    for line in text.lines() {
        let mut words = line.split_whitespace();
        let target = match words.next() {
            Some("some") => &mut pressure.some,
            Some("full") => &mut pressure.full,
            _ => continue,
        };
        any = true;
        for (key, value) in words.filter_map(|w| w.split_once('=')) {
            let hundredths = || {
                let (whole, part) = value.split_once('.').unwrap_or((value, "0"));
                Some(
                    whole.parse::<u32>().ok()?.checked_mul(100)?
                        + format!("{part:0<2}").get(..2)?.parse::<u32>().ok()?,
                )
            };
            match key {
                "avg10" => target.avg10 = hundredths().unwrap_or(0),
                "avg60" => target.avg60 = hundredths().unwrap_or(0),
                "avg300" => target.avg300 = hundredths().unwrap_or(0),
                "total" => target.total_us = value.parse().unwrap_or(0),
                _ => {}
            }
        }
    }
    any.then_some(pressure)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn io_of_both_versions_reads_alike() {
        let expected =
            IoDevice { read_bytes: 1, write_bytes: 2, discard_bytes: 5, read_ops: 3, write_ops: 4, discard_ops: 6 };
        let v2 = parse_io_v2("8:0 rbytes=1 wbytes=2 rios=3 wios=4 dbytes=5 dios=6\nnonsense\n");
        let bytes = "8:0 Read 1\n8:0 Write 2\n8:0 Sync 9\n8:0 Discard 5\n8:0 Total 3\nTotal 3\n";
        let v1 = parse_io_v1(bytes, "8:0 Read 3\n8:0 Write 4\n8:0 Discard 6\n");
        assert_eq!((&v2, &v1), (&BTreeMap::from([((8, 0), expected)]), &BTreeMap::from([((8, 0), expected)])));
    }

    #[test]
    fn pressure_is_read_in_hundredths() {
        let text =
            "some avg10=1.25 avg60=0.07 avg300=12.00 total=123456\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=7\n";
        let some = PressureLine { avg10: 125, avg60: 7, avg300: 1200, total_us: 123_456 };
        assert_eq!(
            parse_pressure(text),
            Some(Pressure { some, full: PressureLine { total_us: 7, ..PressureLine::default() } })
        );
        assert_eq!(parse_pressure(""), None);
    }

    #[test]
    fn rdma_lines_and_hostile_numbers() {
        assert_eq!(parse_rdma("m hca_handle=2 hca_object=max\n")["m"], BTreeMap::from([("hca_handle".into(), 2)]));
        assert_eq!(parse_flat("a 1\nb x\nc\nd 18446744073709551616\n"), BTreeMap::from([("a".into(), 1)]));
    }

    #[test]
    fn the_working_set_leaves_out_the_inactive_cache() {
        let stat = BTreeMap::from([("inactive_file".to_owned(), 30)]);
        assert_eq!(MemoryStats { usage: Some(100), stat, ..MemoryStats::default() }.working_set(), 70);
    }
}
