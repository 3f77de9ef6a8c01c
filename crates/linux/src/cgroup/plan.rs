//! What resources mean for a layout: which value goes into which file of which controller, in which order.
//!
//! Pure. What has to be known of the group's present state comes in as [`Current`]; what has no place in this layout comes out
//! as an error (a limit that would not hold) or a warning (a hint that v2 or newer kernels dropped).

use std::borrow::Cow;

use serde::{Deserialize, Serialize};
use vocab::ErrorKind;

use super::controller::{Controller, ControllerSet};
use super::convert::{cpu_weight_from_shares, io_weight_from_blkio};
use super::devices::{DeviceRule, DeviceRuleError, v1_writes};
use super::layout::{Layout, Version};
use super::resources::{BlockIo, Cpu, HugepageLimit, Memory, Network, Rdma, Resources, ThrottleDevice};

/// One file to write in one controller's directory of the group.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Write {
    pub controller: Controller,
    pub file: Cow<'static, str>,
    pub value: String,
    pub tolerance: Tolerance,
}

/// Which failure of a write is not one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Tolerance {
    None,
    /// The file may be missing: the value says what a kernel without it does anyway.
    Missing,
    /// `EINVAL` may come from a neighbour that is written later: once more at the end.
    Retry,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Plan {
    pub writes: Vec<Write>,
    /// The v2 device program's rules, where v2 controls devices.
    pub device_program: Option<Vec<DeviceRule>>,
    pub warnings: Vec<String>,
}

/// What the group has now, as far as a decision needs it. The default describes a new group.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Current {
    /// v1 `memory.limit_in_bytes`; `None` is unlimited.
    pub memory_limit: Option<u64>,
    /// Bytes used, for `check_before_update`.
    pub memory_usage: u64,
    pub swap_usage: u64,
    /// `blkio.bfq.weight` or `io.bfq.weight` is there.
    pub bfq: bool,
    /// v1 `blkio.weight` (the CFQ scheduler, gone since Linux 5.0) is there.
    pub cfq: bool,
    /// `hugetlb.*.rsvd.*` is there.
    pub hugetlb_reserved: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PlanError {
    #[error("{asked} cannot be limited: the {controller} controller is not available in this group")]
    Unavailable { controller: Controller, asked: &'static str },
    #[error("{0}")]
    Invalid(String),
    #[error("memory limit {limit} is below what is used now ({usage} bytes)")]
    BelowUsage { limit: i64, usage: u64 },
    #[error("{0} exists only on cgroup v1")]
    V1Only(&'static str),
    #[error("the unified map ({0:?}) needs cgroup v2")]
    UnifiedOnV1(String),
    #[error(transparent)]
    Device(#[from] DeviceRuleError),
}

impl PlanError {
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Unavailable { .. } | Self::V1Only(_) | Self::UnifiedOnV1(_) => ErrorKind::Unsupported,
            Self::Invalid(_) => ErrorKind::Invalid,
            Self::BelowUsage { .. } => ErrorKind::Conflict,
            Self::Device(error) => error.kind(),
        }
    }
}

/// `available` narrows the layout to what this group has: a delegated subtree often offers fewer controllers than the root.
/// [`super::Group::available`] reads it; where nothing is known yet take all that the layout has a home for.
pub fn plan(
    layout: &Layout,
    available: ControllerSet,
    resources: &Resources,
    current: &Current,
) -> Result<Plan, PlanError> {
    let mut planner = Planner { layout, available, current, plan: Plan::default() };
    planner.memory(&resources.memory)?;
    planner.cpu(&resources.cpu)?;
    planner.cpuset(&resources.cpu)?;
    planner.pids(resources.pids)?;
    planner.block_io(&resources.block_io)?;
    planner.hugetlb(&resources.hugepages)?;
    planner.rdma(&resources.rdma)?;
    planner.network(&resources.network)?;
    if let Some(rules) = &resources.devices {
        planner.devices(rules)?;
    }
    planner.unified(resources)?;
    Ok(planner.plan)
}

struct Planner<'a> {
    layout: &'a Layout,
    available: ControllerSet,
    current: &'a Current,
    plan: Plan,
}

impl Planner<'_> {
    fn need(&self, controller: Controller, asked: &'static str) -> Result<Version, PlanError> {
        let home = self.layout.home(controller).filter(|_| self.available.contains(controller));
        home.map(|(_, version)| version).ok_or(PlanError::Unavailable { controller, asked })
    }

    fn put(&mut self, controller: Controller, file: impl Into<Cow<'static, str>>, value: impl ToString) {
        self.put_with(controller, file, value, Tolerance::None);
    }

    fn put_with(
        &mut self,
        controller: Controller,
        file: impl Into<Cow<'static, str>>,
        value: impl ToString,
        tolerance: Tolerance,
    ) {
        self.plan.writes.push(Write { controller, file: file.into(), value: value.to_string(), tolerance });
    }

    fn warn(&mut self, text: impl Into<String>) {
        self.plan.warnings.push(text.into());
    }

    fn memory(&mut self, memory: &Memory) -> Result<(), PlanError> {
        if memory.kernel.is_some() {
            self.warn("the kernel memory limit is ignored: the kernel has none any more");
        }
        let limit = memory.limit.filter(|n| *n != 0);
        // Lifting the memory limit alone lifts the swap limit, which could otherwise be below it.
        let swap_asked = memory.swap.filter(|n| *n != 0);
        let swap = swap_asked.or(limit.filter(|n| *n == -1));
        let reservation = memory.reservation.filter(|n| *n != 0);
        let v1_only = memory.kernel_tcp.is_some()
            || memory.swappiness.is_some()
            || memory.disable_oom_killer
            || memory.use_hierarchy.is_some();
        if limit.is_none() && swap.is_none() && reservation.is_none() && !v1_only {
            return Ok(());
        }
        for (name, value) in [("memory limit", limit), ("memory swap", swap), ("memory reservation", reservation)] {
            if value.is_some_and(|n| n < -1) {
                return Err(PlanError::Invalid(format!("{name} {}: must be -1 or more", value.unwrap_or_default())));
            }
        }
        if let (Some(limit), Some(swap)) = (limit, swap_asked)
            && swap != -1
            && (limit == -1 || swap < limit)
        {
            return Err(PlanError::Invalid(format!(
                "memory+swap limit {swap} must not be below the memory limit {limit}"
            )));
        }
        let version = self.need(Controller::Memory, "memory")?;
        if memory.check_before_update
            && let Some(limit) = limit.filter(|n| *n > 0)
        {
            let usage = self.current.memory_usage;
            if usage > limit as u64 {
                return Err(PlanError::BelowUsage { limit, usage });
            }
            let total = usage + self.current.swap_usage;
            if let Some(swap) = swap.filter(|n| *n > 0 && total > *n as u64) {
                return Err(PlanError::BelowUsage { limit: swap, usage: total });
            }
        }
        match version {
            Version::V1 => self.memory_v1(memory, limit, swap, swap_asked.is_none(), reservation),
            Version::V2 => self.memory_v2(memory, limit, swap, swap_asked.is_none(), reservation),
        }
    }

    fn memory_v1(
        &mut self,
        memory: &Memory,
        limit: Option<i64>,
        swap: Option<i64>,
        swap_implied: bool,
        reservation: Option<i64>,
    ) -> Result<(), PlanError> {
        const C: Controller = Controller::Memory;
        if let Some(on) = memory.use_hierarchy {
            self.put(C, "memory.use_hierarchy", u8::from(on));
        }
        // The kernel keeps limit <= limit+swap at every moment: raise the sum first, lower it last.
        let swap_tolerance = if swap_implied { Tolerance::Missing } else { Tolerance::None };
        let swap_first = match (limit, swap) {
            (Some(_), Some(-1)) => true,
            (Some(_), Some(swap)) => self.current.memory_limit.is_some_and(|now| now < swap as u64),
            _ => false,
        };
        if let Some(swap) = swap.filter(|_| swap_first) {
            self.put_with(C, "memory.memsw.limit_in_bytes", swap, swap_tolerance);
        }
        if let Some(limit) = limit {
            self.put(C, "memory.limit_in_bytes", limit);
        }
        if let Some(swap) = swap.filter(|_| !swap_first) {
            self.put_with(C, "memory.memsw.limit_in_bytes", swap, swap_tolerance);
        }
        if let Some(reservation) = reservation {
            self.put(C, "memory.soft_limit_in_bytes", reservation);
        }
        if let Some(tcp) = memory.kernel_tcp {
            self.put(C, "memory.kmem.tcp.limit_in_bytes", tcp);
        }
        if memory.disable_oom_killer {
            self.put(C, "memory.oom_control", 1);
        }
        match memory.swappiness {
            // The kernel's own default, as clients send it for "unset".
            None | Some(u64::MAX) => {}
            Some(value @ 0..=100) => self.put(C, "memory.swappiness", value),
            Some(value) => return Err(PlanError::Invalid(format!("memory swappiness {value}: must be 0 to 100"))),
        }
        Ok(())
    }

    fn memory_v2(
        &mut self,
        memory: &Memory,
        limit: Option<i64>,
        swap: Option<i64>,
        swap_implied: bool,
        reservation: Option<i64>,
    ) -> Result<(), PlanError> {
        const C: Controller = Controller::Memory;
        let text = |n: i64| if n == -1 { "max".to_owned() } else { n.to_string() };
        if let Some(swap) = swap {
            // v2 limits swap alone.
            let alone = match (swap, limit) {
                (-1, _) => -1,
                (swap, Some(limit)) => swap - limit,
                (_, None) => {
                    return Err(PlanError::Invalid("a memory+swap limit needs a memory limit".into()));
                }
            };
            // A kernel without swap accounting does what "max" and 0 ask for.
            let tolerance = if swap_implied || alone <= 0 { Tolerance::Missing } else { Tolerance::None };
            self.put_with(C, "memory.swap.max", text(alone), tolerance);
        }
        if let Some(limit) = limit {
            self.put(C, "memory.max", text(limit));
        }
        if let Some(reservation) = reservation {
            self.put(C, "memory.low", text(reservation));
        }
        let dropped = [
            (memory.kernel_tcp.is_some(), "kernel TCP memory limit"),
            (memory.swappiness.is_some_and(|n| n != u64::MAX), "swappiness"),
            (memory.disable_oom_killer, "disabling the OOM killer"),
        ];
        for (_, what) in dropped.into_iter().filter(|(asked, _)| *asked) {
            self.warn(format!("{what} is ignored: cgroup v2 has no such setting"));
        }
        Ok(())
    }

    fn cpu(&mut self, cpu: &Cpu) -> Result<(), PlanError> {
        const C: Controller = Controller::Cpu;
        let shares = cpu.shares.filter(|n| *n != 0);
        let quota = cpu.quota.filter(|n| *n != 0);
        let period = cpu.period.filter(|n| *n != 0);
        let realtime =
            cpu.realtime_period.filter(|n| *n != 0).is_some() || cpu.realtime_runtime.filter(|n| *n != 0).is_some();
        if shares.is_none()
            && quota.is_none()
            && period.is_none()
            && cpu.burst.is_none()
            && cpu.idle.is_none()
            && !realtime
        {
            return Ok(());
        }
        if let Some(shares) = shares.filter(|n| !(2..=262_144).contains(n)) {
            return Err(PlanError::Invalid(format!("cpu shares {shares}: must be 2 to 262144")));
        }
        match self.need(C, "processor time")? {
            Version::V1 => {
                if let Some(idle) = cpu.idle {
                    self.put(C, "cpu.idle", idle);
                }
                if let Some(shares) = shares {
                    self.put(C, "cpu.shares", shares);
                }
                let retry = if quota.is_some() { Tolerance::Retry } else { Tolerance::None };
                if let Some(period) = period {
                    self.put_with(C, "cpu.cfs_period_us", period, retry);
                }
                if let Some(burst) = cpu.burst {
                    let none = if burst == 0 { Tolerance::Missing } else { retry };
                    self.put_with(C, "cpu.cfs_burst_us", burst, none);
                }
                if let Some(quota) = quota {
                    self.put(C, "cpu.cfs_quota_us", quota.max(-1));
                }
                if let Some(period) = cpu.realtime_period.filter(|n| *n != 0) {
                    self.put_with(C, "cpu.rt_period_us", period, Tolerance::Retry);
                }
                if let Some(runtime) = cpu.realtime_runtime.filter(|n| *n != 0) {
                    self.put(C, "cpu.rt_runtime_us", runtime);
                }
            }
            Version::V2 => {
                if let Some(idle) = cpu.idle {
                    self.put(C, "cpu.idle", idle);
                }
                if let Some(weight) = shares.and_then(cpu_weight_from_shares) {
                    self.put(C, "cpu.weight", weight);
                }
                if quota.is_some() || period.is_some() {
                    let quota = quota.filter(|n| *n > 0).map_or_else(|| "max".to_owned(), |n| n.to_string());
                    self.put(C, "cpu.max", format!("{quota} {}", period.unwrap_or(100_000)));
                }
                if let Some(burst) = cpu.burst {
                    let tolerance = if burst == 0 { Tolerance::Missing } else { Tolerance::None };
                    self.put_with(C, "cpu.max.burst", burst, tolerance);
                }
                if realtime {
                    self.warn("realtime processor time is ignored: cgroup v2 has no such setting");
                }
            }
        }
        Ok(())
    }

    fn cpuset(&mut self, cpu: &Cpu) -> Result<(), PlanError> {
        for (file, value, asked) in
            [("cpuset.cpus", &cpu.cpus, "processors"), ("cpuset.mems", &cpu.mems, "memory nodes")]
        {
            if let Some(list) = value.as_deref().filter(|v| !v.is_empty()) {
                if !list.bytes().all(|b| b.is_ascii_digit() || b",-".contains(&b)) {
                    return Err(PlanError::Invalid(format!("{file} {list:?}: expected a list such as 0-3,7")));
                }
                self.need(Controller::Cpuset, asked)?;
                self.put(Controller::Cpuset, file, list);
            }
        }
        Ok(())
    }

    fn pids(&mut self, limit: Option<i64>) -> Result<(), PlanError> {
        let Some(limit) = limit else { return Ok(()) };
        if limit < 0 && self.need(Controller::Pids, "processes").is_err() {
            return Ok(());
        }
        self.need(Controller::Pids, "processes")?;
        let text = match limit {
            0 => "1".to_owned(),
            n if n < 0 => "max".to_owned(),
            n => n.to_string(),
        };
        self.put(Controller::Pids, "pids.max", text);
        Ok(())
    }

    fn block_io(&mut self, io: &BlockIo) -> Result<(), PlanError> {
        const C: Controller = Controller::Io;
        if *io == BlockIo::default() {
            return Ok(());
        }
        let weights = io.weight.into_iter().chain(io.weight_devices.iter().filter_map(|d| d.weight));
        if let Some(weight) = weights.filter(|w| *w != 0).find(|w| !(10..=1000).contains(w)) {
            return Err(PlanError::Invalid(format!("block I/O weight {weight}: must be 10 to 1000")));
        }
        let version = self.need(C, "block I/O")?;
        let leaf = io.leaf_weight.is_some() || io.weight_devices.iter().any(|d| d.leaf_weight.is_some());
        if leaf && (version == Version::V2 || !self.current.cfq) {
            self.warn("the block I/O leaf weight is ignored: the kernel has no CFQ scheduler");
        }
        match version {
            Version::V1 => {
                let (weight_file, device_file) = if self.current.cfq {
                    ("blkio.weight", "blkio.weight_device")
                } else {
                    ("blkio.bfq.weight", "blkio.bfq.weight_device")
                };
                if let Some(weight) = io.weight.filter(|w| *w != 0) {
                    self.put(C, weight_file, weight);
                }
                if let Some(weight) = io.leaf_weight.filter(|w| *w != 0 && self.current.cfq) {
                    self.put(C, "blkio.leaf_weight", weight);
                }
                for device in &io.weight_devices {
                    if let Some(weight) = device.weight {
                        self.put(C, device_file, format!("{}:{} {weight}", device.major, device.minor));
                    }
                    if let Some(weight) = device.leaf_weight.filter(|_| self.current.cfq) {
                        self.put(C, "blkio.leaf_weight_device", format!("{}:{} {weight}", device.major, device.minor));
                    }
                }
                let throttles = [
                    ("blkio.throttle.read_bps_device", &io.read_bps),
                    ("blkio.throttle.write_bps_device", &io.write_bps),
                    ("blkio.throttle.read_iops_device", &io.read_iops),
                    ("blkio.throttle.write_iops_device", &io.write_iops),
                ];
                for (file, devices) in throttles {
                    for ThrottleDevice { major, minor, rate } in devices {
                        self.put(C, file, format!("{major}:{minor} {rate}"));
                    }
                }
            }
            Version::V2 => {
                if let Some(weight) = io.weight.filter(|w| *w != 0) {
                    if self.current.bfq {
                        self.put(C, "io.bfq.weight", weight);
                    } else if let Some(weight) = io_weight_from_blkio(weight) {
                        self.put(C, "io.weight", weight);
                    }
                }
                for device in &io.weight_devices {
                    let Some(weight) = device.weight else { continue };
                    let (file, weight) = match self.current.bfq {
                        true => ("io.bfq.weight", u64::from(weight)),
                        false => ("io.weight", io_weight_from_blkio(weight).unwrap_or(100)),
                    };
                    self.put(C, file, format!("{}:{} {weight}", device.major, device.minor));
                }
                let throttles = [
                    ("rbps", &io.read_bps),
                    ("wbps", &io.write_bps),
                    ("riops", &io.read_iops),
                    ("wiops", &io.write_iops),
                ];
                for (key, devices) in throttles {
                    for ThrottleDevice { major, minor, rate } in devices {
                        let rate = if *rate == 0 { "max".to_owned() } else { rate.to_string() };
                        self.put(C, "io.max", format!("{major}:{minor} {key}={rate}"));
                    }
                }
            }
        }
        Ok(())
    }

    fn hugetlb(&mut self, limits: &[HugepageLimit]) -> Result<(), PlanError> {
        const C: Controller = Controller::Hugetlb;
        for HugepageLimit { page_size, limit } in limits {
            if page_size.is_empty() || !page_size.bytes().all(|b| b.is_ascii_alphanumeric()) {
                return Err(PlanError::Invalid(format!("huge page size {page_size:?}: expected one such as 2MB")));
            }
            let (plain, reserved) = match self.need(C, "huge pages")? {
                Version::V1 => ("limit_in_bytes", "rsvd.limit_in_bytes"),
                Version::V2 => ("max", "rsvd.max"),
            };
            self.put(C, format!("hugetlb.{page_size}.{plain}"), limit);
            if self.current.hugetlb_reserved {
                self.put_with(C, format!("hugetlb.{page_size}.{reserved}"), limit, Tolerance::Missing);
            }
        }
        Ok(())
    }

    fn rdma(&mut self, limits: &[Rdma]) -> Result<(), PlanError> {
        for Rdma { device, handles, objects } in limits {
            if device.is_empty() || device.contains(char::is_whitespace) {
                return Err(PlanError::Invalid(format!("RDMA device name {device:?}")));
            }
            self.need(Controller::Rdma, "RDMA")?;
            let mut line = device.clone();
            if let Some(n) = handles {
                line += &format!(" hca_handle={n}");
            }
            if let Some(n) = objects {
                line += &format!(" hca_object={n}");
            }
            if line != *device {
                self.put(Controller::Rdma, "rdma.max", line);
            }
        }
        Ok(())
    }

    fn network(&mut self, network: &Network) -> Result<(), PlanError> {
        let on_v1 = |controller, asked| match self.layout.home(controller) {
            Some((_, Version::V1)) => Ok(()),
            _ if self.layout.is_v2_only() => Err(PlanError::V1Only(asked)),
            _ => Err(PlanError::Unavailable { controller, asked }),
        };
        if let Some(class) = network.class_id {
            on_v1(Controller::NetCls, "the network class id")?;
            self.put(Controller::NetCls, "net_cls.classid", class);
        }
        if !network.priorities.is_empty() {
            on_v1(Controller::NetPrio, "the network priority")?;
        }
        for p in &network.priorities {
            if p.interface.is_empty() || p.interface.contains(char::is_whitespace) {
                return Err(PlanError::Invalid(format!("network interface name {:?}", p.interface)));
            }
            self.put(Controller::NetPrio, "net_prio.ifpriomap", format!("{} {}", p.interface, p.priority));
        }
        Ok(())
    }

    fn devices(&mut self, rules: &[DeviceRule]) -> Result<(), PlanError> {
        match self.need(Controller::Devices, "device access")? {
            Version::V1 => self.plan.writes.extend(v1_writes(rules)?),
            Version::V2 => self.plan.device_program = Some(rules.to_vec()),
        }
        Ok(())
    }

    fn unified(&mut self, resources: &Resources) -> Result<(), PlanError> {
        for (file, value) in &resources.unified {
            if !self.layout.is_v2_only() {
                return Err(PlanError::UnifiedOnV1(file.clone()));
            }
            let plain = !file.is_empty()
                && file.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b))
                && file.contains('.');
            // `cgroup.*` moves processes and delegates controllers: not a resource.
            if !plain || file.starts_with("cgroup.") || file.contains("..") {
                return Err(PlanError::Invalid(format!("unified: {file:?} is not a controller's file")));
            }
            let prefix = file.split('.').next().unwrap_or_default();
            // An unknown controller is the kernel's to judge: the write fails with the file's name.
            let controller = Controller::from_name(prefix);
            if let Some(controller) = controller {
                self.need(controller, "a unified setting")?;
            }
            // Several lines (io.max of several devices) are several writes: the kernel reads one line a write.
            for line in value.lines().filter(|l| !l.is_empty()) {
                self.put(controller.unwrap_or(Controller::Misc), file.clone(), line);
            }
        }
        Ok(())
    }
}

#[cfg(test)]
#[path = "plan_tests.rs"]
mod tests;
