//! The container's control group: where it is, and what its limits are in the words of `linux::cgroup`. Pure.

use std::collections::BTreeMap;

use linux::cgroup::{
    Access, BlockIo, Cpu, DeviceKind, DeviceRule, HugepageLimit, InterfacePriority, Memory, Network, Rdma, Resources,
    ThrottleDevice, WeightDevice,
};
use oci_spec::runtime::{LinuxDeviceCgroup, LinuxDeviceType, LinuxResources, LinuxThrottleDevice, Spec};

use super::build::Options;
use super::error::{Faults, PlanError};
use super::facts::HostFacts;
use super::types::CgroupPlan;

pub(super) fn cgroup_plan(
    spec: &Spec,
    facts: &HostFacts,
    options: &Options,
    warnings: &mut Vec<String>,
    faults: &mut Faults,
) -> CgroupPlan {
    let linux = spec.linux().as_ref();
    let asked = linux.and_then(|linux| linux.cgroups_path().as_ref()).map(|path| path.to_string_lossy().into_owned());
    let path = group_path(asked.as_deref(), facts, options, faults);
    let path = if facts.cgroups.hierarchies.is_empty() {
        warnings.push("no cgroup hierarchy is mounted: the container has no limits".into());
        String::new()
    } else {
        path
    };
    let given = linux.and_then(|linux| linux.resources().as_ref());
    let mut resources = given.map(|given| resources(given, "linux.resources", faults)).unwrap_or_default();
    if !resources.unified.is_empty() && !facts.cgroups.is_v2_only() && facts.cgroups.unified().is_none() {
        faults.unsupported("linux.resources.unified", "this host has no cgroup v2");
    }
    let rules = resources.devices.take().unwrap_or_default();
    if vocab::weak::without("devices") {
        resources.devices = None;
    } else if facts.initial_user_namespace && facts.privileged {
        resources.devices = Some(device_rules(rules));
    } else if !rules.is_empty() {
        // Nobody but the host's root can set device rules; what others may open is already less.
        warnings.push("device rules need root in the host's first user namespace and are not set".into());
    }
    CgroupPlan { path, resources, optional: options.cgroup_optional }
}

/// `cgroupsPath` as a path below every hierarchy's root, with a leading slash.
fn group_path(asked: Option<&str>, facts: &HostFacts, options: &Options, faults: &mut Faults) -> String {
    let own = facts.own_cgroup.trim_matches('/');
    let join = |parent: &str, child: &str| {
        let (parent, child) = (parent.trim_matches('/'), child.trim_matches('/'));
        if parent.is_empty() { child.to_owned() } else { format!("{parent}/{child}") }
    };
    let path = match asked.filter(|path| !path.is_empty()) {
        None if options.systemd_cgroup => join("system.slice", &format!("runc-{}.scope", options.id)),
        None => join(own, &options.id),
        Some(path) if options.systemd_cgroup => match systemd_path(path) {
            Some(path) => path,
            None => {
                faults.invalid("linux.cgroupsPath", format!("{path:?}: with --systemd-cgroup it is slice:prefix:name"));
                return String::new();
            }
        },
        Some(path) if path.starts_with('/') => path.trim_matches('/').to_owned(),
        Some(path) => join(own, path),
    };
    let plain = |part: &str| !part.is_empty() && part != "." && part != ".." && !part.contains(['\0', '\n']);
    let parts: Vec<&str> = path.split('/').filter(|part| !part.is_empty() && *part != ".").collect();
    if parts.is_empty() || !parts.iter().all(|part| plain(part)) {
        faults.invalid("linux.cgroupsPath", format!("{path:?} is not the path of a group below the root"));
        return String::new();
    }
    format!("/{}", parts.join("/"))
}

/// `a-b.slice:prefix:name` is `a.slice/a-b.slice/prefix-name.scope`, where systemd itself would put it.
fn systemd_path(path: &str) -> Option<String> {
    let mut parts = path.split(':');
    let (slice, prefix, name) = (parts.next()?, parts.next()?, parts.next()?);
    if parts.next().is_some() || name.is_empty() {
        return None;
    }
    let slice = if slice.is_empty() { "system.slice" } else { slice };
    let mut expanded = String::new();
    if slice != "-.slice" {
        let stem = slice.strip_suffix(".slice").filter(|stem| !stem.is_empty() && !stem.contains('/'))?;
        let mut so_far = String::new();
        for part in stem.split('-') {
            if part.is_empty() {
                return None;
            }
            so_far = if so_far.is_empty() { part.to_owned() } else { format!("{so_far}-{part}") };
            expanded.push_str(&format!("{so_far}.slice/"));
        }
    }
    let unit = if name.ends_with(".slice") {
        name.to_owned()
    } else if prefix.is_empty() {
        format!("{name}.scope")
    } else {
        format!("{prefix}-{name}.scope")
    };
    Some(format!("{expanded}{unit}"))
}

/// The spec's rules, then what every container may use: making any node, and the devices that are in every `/dev`.
fn device_rules(mut rules: Vec<DeviceRule>) -> Vec<DeviceRule> {
    let rule = |kind, major, minor, access| DeviceRule { allow: true, kind, major, minor, access };
    rules.push(rule(DeviceKind::Char, None, None, Access::MKNOD));
    rules.push(rule(DeviceKind::Block, None, None, Access::MKNOD));
    // null, zero, full, random, urandom, tty, ptmx, and the pts. Not 5:1: a container's /dev/console is one of the pts, the
    // number is the console of the machine.
    for (major, minor) in [(1, 3), (1, 5), (1, 7), (1, 8), (1, 9), (5, 0), (5, 2)] {
        rules.push(rule(DeviceKind::Char, Some(major), Some(minor), Access::ALL));
    }
    rules.push(rule(DeviceKind::Char, Some(136), None, Access::ALL));
    rules
}

/// Resources alone, as `update` gives them. `devices` is `None` where the input has none.
///
/// # Errors
/// Every fault with its field path.
pub fn resources_of(given: &LinuxResources) -> Result<Resources, PlanError> {
    let mut faults = Faults::default();
    let mut out = resources(given, "resources", &mut faults);
    out.devices = out.devices.filter(|rules| !rules.is_empty()).map(device_rules);
    if faults.0.is_empty() { Ok(out) } else { Err(PlanError { faults: faults.0 }) }
}

fn resources(given: &LinuxResources, path: &str, faults: &mut Faults) -> Resources {
    let mut out = Resources::default();
    if let Some(memory) = given.memory() {
        out.memory = Memory {
            limit: memory.limit().filter(|n| *n != 0),
            reservation: memory.reservation().filter(|n| *n != 0),
            swap: memory.swap().filter(|n| *n != 0),
            #[allow(deprecated, reason = "asked for by old tools; answered with a warning")]
            kernel: memory.kernel().filter(|n| *n != 0),
            kernel_tcp: memory.kernel_tcp().filter(|n| *n != 0),
            swappiness: memory.swappiness(),
            disable_oom_killer: memory.disable_oom_killer().unwrap_or(false),
            use_hierarchy: memory.use_hierarchy(),
            check_before_update: memory.check_before_update().unwrap_or(false),
        };
        if memory.swappiness().is_some_and(|n| n > 100) {
            faults.invalid(format!("{path}.memory.swappiness"), "is not within 0 and 100");
        }
    }
    if let Some(cpu) = given.cpu() {
        out.cpu = Cpu {
            shares: cpu.shares().filter(|n| *n != 0),
            quota: cpu.quota().filter(|n| *n != 0),
            period: cpu.period().filter(|n| *n != 0),
            burst: cpu.burst(),
            realtime_runtime: cpu.realtime_runtime().filter(|n| *n != 0),
            realtime_period: cpu.realtime_period().filter(|n| *n != 0),
            cpus: cpu.cpus().clone().filter(|list| !list.is_empty()),
            mems: cpu.mems().clone().filter(|list| !list.is_empty()),
            idle: cpu.idle(),
        };
        for (name, list) in [("cpus", &out.cpu.cpus), ("mems", &out.cpu.mems)] {
            if let Some(Err(message)) = list.as_deref().map(super::process::number_list) {
                faults.invalid(format!("{path}.cpu.{name}"), message);
            }
        }
    }
    out.pids = given.pids().as_ref().map(|pids| pids.limit()).filter(|n| *n != 0);
    if let Some(io) = given.block_io() {
        let numbers = |major: i64, minor: i64, field: &str, faults: &mut Faults| {
            let number = |n: i64| u64::try_from(n).ok();
            match (number(major), number(minor)) {
                (Some(major), Some(minor)) => (major, minor),
                _ => {
                    faults.invalid(format!("{path}.blockIO.{field}"), format!("{major}:{minor} is not a device"));
                    (0, 0)
                }
            }
        };
        let throttles = |list: &Option<Vec<LinuxThrottleDevice>>, field: &str, faults: &mut Faults| {
            list.iter()
                .flatten()
                .map(|device| {
                    let (major, minor) = numbers(device.major(), device.minor(), field, faults);
                    ThrottleDevice { major, minor, rate: device.rate() }
                })
                .collect()
        };
        out.block_io = BlockIo {
            weight: io.weight().filter(|n| *n != 0),
            leaf_weight: io.leaf_weight().filter(|n| *n != 0),
            weight_devices: io
                .weight_device()
                .iter()
                .flatten()
                .map(|device| {
                    let (major, minor) = numbers(device.major(), device.minor(), "weightDevice", faults);
                    WeightDevice { major, minor, weight: device.weight(), leaf_weight: device.leaf_weight() }
                })
                .collect(),
            read_bps: throttles(io.throttle_read_bps_device(), "throttleReadBpsDevice", faults),
            write_bps: throttles(io.throttle_write_bps_device(), "throttleWriteBpsDevice", faults),
            read_iops: throttles(io.throttle_read_iops_device(), "throttleReadIOPSDevice", faults),
            write_iops: throttles(io.throttle_write_iops_device(), "throttleWriteIOPSDevice", faults),
        };
    }
    for (n, limit) in given.hugepage_limits().iter().flatten().enumerate() {
        let field = format!("{path}.hugepageLimits[{n}]");
        let size = limit.page_size();
        if !size.ends_with('B') || !size.bytes().all(|b| b.is_ascii_alphanumeric()) {
            faults.invalid(format!("{field}.pageSize"), format!("{size:?} is not a page size such as 2MB"));
        }
        match u64::try_from(limit.limit()) {
            Ok(bytes) => out.hugepages.push(HugepageLimit { page_size: size.clone(), limit: bytes }),
            Err(_) => faults.invalid(format!("{field}.limit"), "is negative"),
        }
    }
    let mut rdma: Vec<Rdma> = given
        .rdma()
        .iter()
        .flatten()
        .map(|(device, limits)| Rdma {
            device: device.clone(),
            handles: limits.hca_handles(),
            objects: limits.hca_objects(),
        })
        .collect();
    rdma.sort_by(|a, b| a.device.cmp(&b.device));
    out.rdma = rdma;
    if let Some(network) = given.network() {
        out.network = Network {
            class_id: network.class_id().filter(|n| *n != 0),
            priorities: network
                .priorities()
                .iter()
                .flatten()
                .map(|p| InterfacePriority { interface: p.name().clone(), priority: p.priority() })
                .collect(),
        };
    }
    let unified: BTreeMap<String, String> =
        given.unified().iter().flatten().map(|(key, value)| (key.clone(), value.clone())).collect();
    for key in unified.keys() {
        if key.contains('/') || key == "." || key == ".." || !key.contains('.') || key.contains('\0') {
            faults.invalid(format!("{path}.unified[{key:?}]"), "is not the name of a cgroup file");
        }
    }
    out.unified = unified;
    if let Some(devices) = given.devices() {
        out.devices = Some(
            devices
                .iter()
                .enumerate()
                .filter_map(|(n, rule)| device_rule(rule, &format!("{path}.devices[{n}]"), faults))
                .collect(),
        );
    }
    out
}

fn device_rule(rule: &LinuxDeviceCgroup, field: &str, faults: &mut Faults) -> Option<DeviceRule> {
    let kind = match rule.typ().unwrap_or(LinuxDeviceType::A) {
        LinuxDeviceType::A => DeviceKind::All,
        LinuxDeviceType::B => DeviceKind::Block,
        LinuxDeviceType::C | LinuxDeviceType::U => DeviceKind::Char,
        LinuxDeviceType::P => {
            faults.invalid(format!("{field}.type"), "a rule is for a, b or c");
            return None;
        }
    };
    // -1 and nothing both mean any.
    let number = |value: Option<i64>, name: &str, faults: &mut Faults| match value {
        None | Some(-1) => None,
        Some(n) => {
            if u32::try_from(n).is_err() {
                faults.invalid(format!("{field}.{name}"), format!("{n} is not a device number"));
            }
            u32::try_from(n).ok()
        }
    };
    let (major, minor) = (number(rule.major(), "major", faults), number(rule.minor(), "minor", faults));
    let letters = rule.access().clone().unwrap_or_default();
    let Some(access) = Access::parse(&letters) else {
        faults.invalid(format!("{field}.access"), format!("{letters:?}: letters r, w and m only"));
        return None;
    };
    Some(DeviceRule { allow: rule.allow(), kind, major, minor, access })
}
