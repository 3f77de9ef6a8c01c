//! The contents of a limited container's `/proc` files, from the host's and the container's figures. Pure.

use std::fmt::Write;
use std::time::Duration;

use crate::{Resources, Stats};

const TICKS_PER_SEC: u64 = 100;
const NANOS_PER_TICK: u64 = 1_000_000_000 / TICKS_PER_SEC;

/// Averages over 1, 5 and 15 minutes of how many processors the container kept busy.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(crate) struct Load {
    averages: [f64; 3],
    last: Option<(Duration, u64)>,
}

impl Load {
    /// Takes a reading in: time since the start, and processor time used.
    pub(crate) fn take(&mut self, up: Duration, used_nanos: u64) {
        if let Some((then, before)) = self.last
            && let Some(passed) = up.checked_sub(then).filter(|passed| !passed.is_zero())
        {
            let busy = used_nanos.saturating_sub(before) as f64 / passed.as_nanos() as f64;
            for (average, minutes) in self.averages.iter_mut().zip([1.0, 5.0, 15.0]) {
                let weight = (-passed.as_secs_f64() / (minutes * 60.0)).exp();
                *average = *average * weight + busy * (1.0 - weight);
            }
        }
        self.last = Some((up, used_nanos));
    }
}

/// What is known about a container and its host.
pub(crate) struct Seen<'a> {
    pub(crate) resources: &'a Resources,
    pub(crate) host_cpus: usize,
    pub(crate) stats: &'a Stats,
    pub(crate) up: Duration,
    /// Seconds since 1970 at which the container was started.
    pub(crate) started_secs: i64,
    pub(crate) load: Load,
}

impl Seen<'_> {
    /// How many processors the container can use: its set, or as many as its quota keeps busy, rounded up.
    pub(crate) fn cpus(&self) -> usize {
        let r = self.resources;
        let set = crate::spec::count_cpus(&r.cpuset_cpus).unwrap_or(0);
        let from_set = if set == 0 { self.host_cpus } else { set.min(self.host_cpus) };
        let quota = match (r.nano_cpus, r.cpu_quota_micros) {
            (nanos, _) if nanos > 0 => (nanos as u64).div_ceil(1_000_000_000),
            (_, quota) if quota > 0 => {
                let period = if r.cpu_period_micros > 0 { r.cpu_period_micros } else { 100_000 };
                (quota as u64).div_ceil(period as u64)
            }
            _ => u64::MAX,
        };
        from_set.min(usize::try_from(quota).unwrap_or(usize::MAX)).max(1)
    }

    fn memory_limit(&self) -> Option<u64> {
        u64::try_from(self.resources.memory_bytes).ok().filter(|limit| *limit > 0)
    }

    /// Memory, swap: limits in bytes.
    fn swap_limit(&self) -> Option<u64> {
        let memory = self.memory_limit()?;
        match self.resources.memory_swap_bytes {
            -1 => None,
            0 => Some(memory),
            both => Some(u64::try_from(both).ok()?.saturating_sub(memory)),
        }
    }

    fn counter(&self, names: &[&str]) -> u64 {
        names.iter().find_map(|name| self.stats.memory.stats.get(*name).copied()).unwrap_or(0)
    }

    /// The host's file with the container's figures in place of the host's.
    pub(crate) fn meminfo(&self, host: &str) -> String {
        let Some(limit) = self.memory_limit() else { return host.to_owned() };
        let host_value = |name: &str| {
            let line = host.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
            line.and_then(|rest| rest.trim().trim_end_matches(" kB").parse::<u64>().ok()).unwrap_or(0) * 1024
        };
        let total = limit.min(host_value("MemTotal"));
        let used = self.stats.memory.usage_bytes.min(total);
        let file = self.counter(&["total_cache", "cache", "file"]).min(used);
        let inactive_file = self.counter(&["total_inactive_file", "inactive_file"]);
        let active_file = self.counter(&["total_active_file", "active_file"]);
        let inactive_anon = self.counter(&["total_inactive_anon", "inactive_anon"]);
        let active_anon = self.counter(&["total_active_anon", "active_anon"]);
        let swap_total = self.swap_limit().map_or(host_value("SwapTotal"), |swap| swap.min(host_value("SwapTotal")));
        let swap_used = self.counter(&["total_swap", "swap"]).min(swap_total);
        let own = [
            ("MemTotal", total),
            ("MemFree", total - used),
            ("MemAvailable", (total - used + inactive_file + active_file).min(total)),
            ("Buffers", 0),
            ("Cached", file),
            ("SwapCached", 0),
            ("Active", active_anon + active_file),
            ("Inactive", inactive_anon + inactive_file),
            ("Active(anon)", active_anon),
            ("Inactive(anon)", inactive_anon),
            ("Active(file)", active_file),
            ("Inactive(file)", inactive_file),
            ("Unevictable", self.counter(&["total_unevictable", "unevictable"])),
            ("SwapTotal", swap_total),
            ("SwapFree", swap_total - swap_used),
            ("Dirty", self.counter(&["total_dirty", "file_dirty"])),
            ("Writeback", self.counter(&["total_writeback", "file_writeback"])),
            ("AnonPages", self.counter(&["total_rss", "rss", "anon"])),
            ("Mapped", self.counter(&["total_mapped_file", "mapped_file", "file_mapped"])),
            ("Shmem", self.counter(&["total_shmem", "shmem"])),
        ];
        let mut out = String::with_capacity(host.len());
        for line in host.lines() {
            let name = line.split(':').next().unwrap_or_default();
            match own.iter().find(|(known, _)| *known == name) {
                Some((_, bytes)) => {
                    let label = format!("{name}:");
                    let _ = writeln!(out, "{label:<16}{:>8} kB", bytes / 1024);
                }
                None => {
                    out.push_str(line);
                    out.push('\n');
                }
            }
        }
        out
    }

    pub(crate) fn swaps(&self) -> String {
        let head = "Filename\t\t\t\tType\t\tSize\t\tUsed\t\tPriority\n";
        match self.swap_limit() {
            Some(0) | None => head.to_owned(),
            Some(total) => {
                let used = self.counter(&["total_swap", "swap"]).min(total);
                format!("{head}none\t\t\t\t\tvirtual\t\t{}\t\t{}\t\t0\n", total / 1024, used / 1024)
            }
        }
    }

    /// The first processors of the host's, counted from zero.
    pub(crate) fn cpuinfo(&self, host: &str) -> String {
        let blocks: Vec<&str> = host.split("\n\n").filter(|block| block.starts_with("processor")).collect();
        if blocks.is_empty() {
            return host.to_owned();
        }
        let mut out = String::new();
        for (number, block) in blocks.iter().cycle().take(self.cpus()).enumerate() {
            for line in block.lines() {
                match line.split(':').next().map(str::trim_end) {
                    Some("processor") => {
                        let _ = writeln!(out, "processor\t: {number}");
                    }
                    _ => {
                        out.push_str(line);
                        out.push('\n');
                    }
                }
            }
            out.push('\n');
        }
        out
    }

    fn up_ticks(&self) -> u64 {
        self.up.as_millis() as u64 * TICKS_PER_SEC / 1000
    }

    pub(crate) fn stat(&self, host: &str) -> String {
        let cpus = self.cpus() as u64;
        let user = self.stats.cpu.user_nanos / NANOS_PER_TICK;
        let system = self.stats.cpu.system_nanos / NANOS_PER_TICK;
        let idle = (self.up_ticks() * cpus).saturating_sub(user + system);
        let mut out = format!("cpu  {user} 0 {system} {idle} 0 0 0 0 0 0\n");
        for cpu in 0..cpus {
            // Which of its processors it was is nobody's business: each has its part.
            let part = |all: u64| all / cpus + u64::from(cpu < all % cpus);
            let _ = writeln!(out, "cpu{cpu} {} 0 {} {} 0 0 0 0 0 0", part(user), part(system), part(idle));
        }
        let pids = self.stats.pids.current;
        let _ = write!(out, "intr 0\nctxt 0\nbtime {}\nprocesses {pids}\n", self.started_secs);
        out.push_str("procs_running 1\nprocs_blocked 0\n");
        if let Some(softirq) = host.lines().find(|line| line.starts_with("softirq")) {
            let zeros = softirq.split_whitespace().skip(1).map(|_| " 0").collect::<String>();
            let _ = writeln!(out, "softirq{zeros}");
        }
        out
    }

    pub(crate) fn uptime(&self) -> String {
        let used = self.stats.cpu.total_nanos as f64 / 1e9;
        let idle = (self.up.as_secs_f64() * self.cpus() as f64 - used).max(0.0);
        format!("{:.2} {idle:.2}\n", self.up.as_secs_f64())
    }

    pub(crate) fn loadavg(&self) -> String {
        let [one, five, fifteen] = self.load.averages;
        let pids = self.stats.pids.current.max(1);
        let running = (one.round() as u64).clamp(1, pids);
        format!("{one:.2} {five:.2} {fifteen:.2} {running}/{pids} {pids}\n")
    }

    /// The host's disks with the container's own reads and writes.
    pub(crate) fn diskstats(&self, host: &str) -> String {
        let mut out = String::new();
        for line in host.lines() {
            let words: Vec<&str> = line.split_whitespace().collect();
            let [major, minor, name, ..] = words[..] else { continue };
            let of = |op: &str| {
                let entry = self.stats.blkio.iter().find(|entry| {
                    entry.op == op && entry.major.to_string() == major && entry.minor.to_string() == minor
                });
                entry.map_or((0, 0), |entry| (entry.operations, entry.bytes / 512))
            };
            let ((reads, read), (writes, written)) = (of("read"), of("write"));
            let _ = writeln!(
                out,
                "{major:>4} {minor:>7} {name} {reads} 0 {read} 0 {writes} 0 {written} 0 0 0 0 0 0 0 0 0 0"
            );
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen<'a>(resources: &'a Resources, stats: &'a Stats) -> Seen<'a> {
        Seen {
            resources,
            host_cpus: 8,
            stats,
            up: Duration::from_secs(100),
            started_secs: 1_700_000_000,
            load: Load::default(),
        }
    }

    #[test]
    fn processors_are_the_set_or_what_the_quota_keeps_busy() {
        let cpus = |change: &dyn Fn(&mut Resources)| {
            let mut resources = Resources::default();
            change(&mut resources);
            seen(&resources, &Stats::default()).cpus()
        };
        assert_eq!(cpus(&|_| {}), 8);
        assert_eq!(cpus(&|r| r.nano_cpus = 1_500_000_000), 2);
        assert_eq!(cpus(&|r| r.cpuset_cpus = "0-2,7".into()), 4);
        assert_eq!(cpus(&|r| r.cpu_quota_micros = 50_000), 1);
        assert_eq!(
            cpus(&|r| {
                r.cpu_quota_micros = 300_000;
                r.cpu_period_micros = 100_000;
                r.cpuset_cpus = "1".into();
            }),
            1
        );
    }

    #[test]
    fn memory_is_the_limit_and_what_is_left_of_it() {
        let resources = Resources { memory_bytes: 64 << 20, memory_swap_bytes: 96 << 20, ..Default::default() };
        let mut stats = Stats::default();
        stats.memory.usage_bytes = 16 << 20;
        stats.memory.stats = [("total_inactive_file".to_owned(), 4 << 20)].into();
        let host = "MemTotal:       16000000 kB\nMemFree:        1 kB\nMemAvailable:   2 kB\nSwapTotal:      9000000 kB\nSwapFree:       1 kB\nHugePages_Total:       0\n";
        let text = seen(&resources, &stats).meminfo(host);
        let value = |name: &str| {
            let line = text.lines().find(|line| line.starts_with(&format!("{name}:"))).unwrap();
            line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap()
        };
        assert_eq!((value("MemTotal"), value("MemFree"), value("MemAvailable")), (65536, 49152, 53248));
        assert_eq!((value("SwapTotal"), value("SwapFree")), (32768, 32768));
        assert!(text.ends_with("HugePages_Total:       0\n"));
        assert!(seen(&resources, &stats).swaps().contains("virtual\t\t32768\t\t0"));
    }

    #[test]
    fn time_and_processors_add_up() {
        let resources = Resources { nano_cpus: 2_000_000_000, ..Default::default() };
        let mut stats = Stats::default();
        stats.cpu.user_nanos = 30_000_000_000;
        stats.cpu.system_nanos = 10_000_000_000;
        stats.cpu.total_nanos = 40_000_000_000;
        let seen = seen(&resources, &stats);
        assert_eq!(seen.uptime(), "100.00 160.00\n");
        let text = seen.stat("softirq 5 1 2\n");
        assert!(text.starts_with("cpu  3000 0 1000 16000 0"), "{text}");
        assert!(text.contains("\ncpu1 1500 0 500 8000 ") && !text.contains("cpu2"), "{text}");
        assert!(text.contains("btime 1700000000\n") && text.ends_with("softirq 0 0 0\n"), "{text}");
        let info = "processor\t: 0\nmodel\t: a\n\nprocessor\t: 1\nmodel\t: b\n\nprocessor\t: 2\nmodel\t: c\n\n";
        assert_eq!(seen.cpuinfo(info), "processor\t: 0\nmodel\t: a\n\nprocessor\t: 1\nmodel\t: b\n\n");
    }

    #[test]
    fn load_follows_use() {
        let mut load = Load::default();
        for second in 0..=600u64 {
            load.take(Duration::from_secs(second), second * 1_000_000_000);
        }
        let [one, five, fifteen] = load.averages;
        assert!((0.99..=1.0).contains(&one) && five < one && fifteen < five, "{load:?}");
    }
}
