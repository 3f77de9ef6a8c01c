//! Limits: which are sensible, and how the OCI spec spells them.

use oci_spec::runtime::{
    LinuxBlockIo, LinuxBlockIoBuilder, LinuxCpu, LinuxDeviceCgroup, LinuxMemory, LinuxPidsBuilder, LinuxResources,
    LinuxThrottleDevice, LinuxThrottleDeviceBuilder, LinuxWeightDevice, LinuxWeightDeviceBuilder,
};

use crate::{DeviceRequest, Error, Resources, Result, ThrottleDevice};

const MEMORY_MIN: i64 = 6 << 20;
const CPUS_MAX: usize = 8192;

/// Checks limits by Docker's rules and in its words. `cpus`: how many processors are online.
pub(crate) fn check_resources(r: &Resources, cpus: usize) -> Result<()> {
    let refused = |why: String| Err(Error::Invalid(why));
    if r.memory_bytes < 0 || (r.memory_bytes > 0 && r.memory_bytes < MEMORY_MIN) {
        return refused("Minimum memory limit allowed is 6MB".into());
    }
    if r.memory_bytes > 0 && r.memory_swap_bytes > 0 && r.memory_swap_bytes < r.memory_bytes {
        return refused("Minimum memoryswap limit should be larger than memory limit, see usage".into());
    }
    if r.memory_bytes == 0 && r.memory_swap_bytes > 0 {
        return refused("You should always set the Memory limit when using Memoryswap limit, see usage".into());
    }
    if r.memory_swap_bytes < -1 {
        return refused(format!("Invalid value: {}, memory and swap must be -1 or more", r.memory_swap_bytes));
    }
    if let Some(swappiness) = r.memory_swappiness
        && !(-1..=100).contains(&swappiness)
    {
        return refused(format!("Invalid value: {swappiness}, valid memory swappiness range is 0-100"));
    }
    if r.memory_reservation_bytes < 0 || (r.memory_reservation_bytes > 0 && r.memory_reservation_bytes < MEMORY_MIN) {
        return refused("Minimum memory reservation allowed is 6MB".into());
    }
    if r.memory_bytes > 0 && r.memory_reservation_bytes > r.memory_bytes {
        return refused("Minimum memory limit can not be less than memory reservation limit, see usage".into());
    }
    if r.nano_cpus > 0 && r.cpu_period_micros > 0 {
        return refused("Conflicting options: Nano CPUs and CPU Period cannot both be set".into());
    }
    if r.nano_cpus > 0 && r.cpu_quota_micros > 0 {
        return refused("Conflicting options: Nano CPUs and CPU Quota cannot both be set".into());
    }
    if r.nano_cpus < 0 || (r.nano_cpus > 0 && (r.nano_cpus < 10_000_000 || r.nano_cpus > cpus as i64 * 1_000_000_000)) {
        return refused(format!("range of CPUs is from 0.01 to {cpus}.00, as there are only {cpus} CPUs available"));
    }
    if r.cpu_shares < 0 {
        return refused(format!("shares cannot be negative: {}", r.cpu_shares));
    }
    if r.cpu_period_micros != 0 && !(1000..=1_000_000).contains(&r.cpu_period_micros) {
        return refused("CPU cfs period can not be less than 1ms (i.e. 1000) or larger than 1s (i.e. 1000000)".into());
    }
    if r.cpu_quota_micros > 0 && r.cpu_quota_micros < 1000 {
        return refused("CPU cfs quota can not be less than 1ms (i.e. 1000)".into());
    }
    if r.cpu_realtime_period_micros != 0 || r.cpu_realtime_runtime_micros != 0 {
        return refused("Your kernel does not support CPU real-time scheduler".into());
    }
    if r.blkio_weight != 0 && !(10..=1000).contains(&r.blkio_weight) {
        return refused("Range of blkio weight is from 10 to 1000".into());
    }
    check_cpu_list(&r.cpuset_cpus, "cpus", Some(cpus))?;
    check_cpu_list(&r.cpuset_mems, "mems", None)?;
    for rule in &r.device_cgroup_rules {
        parse_device_rule(rule)?;
    }
    for limit in &r.ulimits {
        rlimit_type(&limit.name)?;
        if limit.hard != -1 && (limit.soft > limit.hard || limit.soft == -1) {
            return refused(format!(
                "ulimit soft limit must be less than or equal to hard limit: {} > {}",
                limit.soft, limit.hard
            ));
        }
    }
    for request in &r.device_requests {
        // Whether the device is there is seen at each start; what it is called is known now.
        device_names(request, &|_| true)?;
    }
    Ok(())
}

/// Kinds that stand for Docker's capability `gpu`, which names no vendor.
const GPU_KINDS: [&str; 2] = ["nvidia.com/gpu", "amd.com/gpu"];

/// The qualified names that a request means: `--device vendor.com/class=name` as they are, `--gpus` by number or id of the first
/// vendor who is here.
pub(crate) fn device_names(request: &DeviceRequest, is_here: &dyn Fn(&str) -> bool) -> Result<Vec<String>> {
    let sets: Vec<String> = request.capabilities.iter().map(|all| format!("[{}]", all.join(" "))).collect();
    let no_driver = || {
        let (driver, sets) = (&request.driver, sets.join(" "));
        Error::Invalid(format!("could not select device driver {driver:?} with capabilities: [{sets}]"))
    };
    if request.count != 0 && !request.device_ids.is_empty() {
        return Err(Error::Invalid("cannot set both Count and DeviceIDs on device request".into()));
    }
    let vendor = match &*request.driver {
        "cdi" if request.count != 0 => {
            return Err(Error::Invalid("invalid count in CDI device request: device IDs are its names".into()));
        }
        "cdi" => return Ok(request.device_ids.clone()),
        "" => None,
        "nvidia" => Some(GPU_KINDS[0]),
        "amd" => Some(GPU_KINDS[1]),
        _ => return Err(no_driver()),
    };
    let is_gpu = request.capabilities.iter().any(|all| all.iter().any(|one| one == "gpu"));
    if !(is_gpu || vendor.is_some() && request.capabilities.is_empty()) {
        return Err(no_driver());
    }
    let kinds: &[&str] = vendor.as_slice();
    let kinds = if kinds.is_empty() { &GPU_KINDS } else { kinds };
    let kind = kinds.iter().find(|kind| is_here(kind)).ok_or_else(no_driver)?;
    Ok(match request.count {
        ..0 => vec![format!("{kind}=all")],
        0 if request.device_ids.is_empty() => vec![format!("{kind}=all")],
        0 => request.device_ids.iter().map(|id| format!("{kind}={id}")).collect(),
        // More than any machine has are not counted out.
        count => (0..count.min(GPUS_MAX)).map(|at| format!("{kind}={at}")).collect(),
    })
}

const GPUS_MAX: i64 = 1024;

/// `0-3,7`. Bounded before it is expanded: a range up to 2^63 must not cost memory.
fn check_cpu_list(list: &str, what: &str, available: Option<usize>) -> Result<()> {
    if list.is_empty() {
        return Ok(());
    }
    let refused = || Error::Invalid(format!("Invalid value {list} for cpuset {what}"));
    for part in list.trim().split(',') {
        let (low, high) = part.split_once('-').unwrap_or((part, part));
        let number = |text: &str| text.parse::<usize>().ok().filter(|n| *n < CPUS_MAX).ok_or_else(refused);
        let (low, high) = (number(low)?, number(high)?);
        if high < low {
            return Err(refused());
        }
        if let Some(available) = available
            && high >= available
        {
            let last = available.saturating_sub(1);
            return Err(Error::Invalid(format!(
                "Requested CPUs are not available - requested {list}, available: 0-{last}"
            )));
        }
    }
    Ok(())
}

/// How many processors a checked list names; `None` for an empty one.
pub(crate) fn count_cpus(list: &str) -> Option<usize> {
    let mut named = std::collections::BTreeSet::new();
    for part in list.trim().split(',').filter(|part| !part.is_empty()) {
        let (low, high) = part.split_once('-').unwrap_or((part, part));
        let (low, high) = (low.parse::<usize>().ok()?, high.parse::<usize>().ok()?.min(CPUS_MAX));
        named.extend(low..=high);
    }
    (!named.is_empty()).then_some(named.len())
}

/// `c 1:3 rwm`, `b *:* r`, `a *:* rwm`.
pub(crate) fn parse_device_rule(rule: &str) -> Result<LinuxDeviceCgroup> {
    let refused = || Error::Invalid(format!("invalid device cgroup rule format: '{rule}'"));
    let fields: Vec<&str> = rule.split(' ').collect();
    let [kind, numbers, access] = fields[..] else { return Err(refused()) };
    let letter = match kind {
        "a" | "b" | "c" => kind,
        _ => return Err(refused()),
    };
    let (major, minor) = numbers.split_once(':').ok_or_else(refused)?;
    let number = |text: &str| match text {
        "*" => Ok(-1),
        text if text.bytes().all(|b| b.is_ascii_digit()) => text.parse::<u32>().map(i64::from).map_err(|_| refused()),
        _ => Err(refused()),
    };
    if access.is_empty() || access.len() > 3 || !access.bytes().all(|b| b"rwm".contains(&b)) {
        return Err(refused());
    }
    Ok(device_rule(true, letter, number(major)?, number(minor)?, access))
}

/// -1 is any number.
pub(crate) fn device_rule(allow: bool, kind: &str, major: i64, minor: i64, access: &str) -> LinuxDeviceCgroup {
    use oci_spec::runtime::LinuxDeviceType as Type;
    let mut rule = LinuxDeviceCgroup::default();
    rule.set_allow(allow).set_access(Some(access.to_owned()));
    rule.set_typ(Some(match kind {
        "b" => Type::B,
        "c" => Type::C,
        _ => Type::A,
    }));
    let known = |n: i64| (n >= 0).then_some(n);
    rule.set_major(known(major)).set_minor(known(minor));
    rule
}

pub(crate) fn rlimit_type(name: &str) -> Result<oci_spec::runtime::PosixRlimitType> {
    use oci_spec::runtime::PosixRlimitType as Type;
    Ok(match name {
        "core" => Type::RlimitCore,
        "cpu" => Type::RlimitCpu,
        "data" => Type::RlimitData,
        "fsize" => Type::RlimitFsize,
        "locks" => Type::RlimitLocks,
        "memlock" => Type::RlimitMemlock,
        "msgqueue" => Type::RlimitMsgqueue,
        "nice" => Type::RlimitNice,
        "nofile" => Type::RlimitNofile,
        "nproc" => Type::RlimitNproc,
        "rss" => Type::RlimitRss,
        "rtprio" => Type::RlimitRtprio,
        "rttime" => Type::RlimitRttime,
        "sigpending" => Type::RlimitSigpending,
        "stack" => Type::RlimitStack,
        "as" => Type::RlimitAs,
        _ => return Err(Error::Invalid(format!("invalid ulimit type: {name}"))),
    })
}

/// The limits alone, without device rules. `device_numbers` finds a block device's major and minor.
pub(crate) fn linux_resources(
    r: &Resources,
    device_numbers: &dyn Fn(&str) -> Result<(i64, i64)>,
) -> Result<LinuxResources> {
    let mut out = LinuxResources::default();
    out.set_memory(memory(r)).set_cpu(cpu(r)).set_block_io(block_io(r, device_numbers)?);
    if let Some(limit) = r.pids_limit.filter(|n| *n != 0) {
        out.set_pids(Some(LinuxPidsBuilder::default().limit(limit.max(-1)).build().expect("every field is given")));
    }
    out.set_devices(None);
    Ok(out)
}

fn memory(r: &Resources) -> Option<LinuxMemory> {
    let set = |n: i64| (n != 0).then_some(n);
    let mut memory = LinuxMemory::default();
    memory
        .set_limit(set(r.memory_bytes))
        .set_reservation(set(r.memory_reservation_bytes))
        .set_swap(set(r.memory_swap_bytes));
    memory.set_swappiness(r.memory_swappiness.and_then(|n| u64::try_from(n).ok()));
    memory.set_disable_oom_killer(r.oom_kill_disable.filter(|on| *on));
    (memory != LinuxMemory::default()).then_some(memory)
}

fn cpu(r: &Resources) -> Option<LinuxCpu> {
    let mut cpu = LinuxCpu::default();
    if r.cpu_shares > 0 {
        cpu.set_shares(Some(r.cpu_shares as u64));
    }
    if r.nano_cpus > 0 {
        cpu.set_period(Some(100_000));
        cpu.set_quota(Some(r.nano_cpus / 10_000));
    }
    if r.cpu_period_micros > 0 {
        cpu.set_period(Some(r.cpu_period_micros as u64));
    }
    if r.cpu_quota_micros != 0 {
        cpu.set_quota(Some(r.cpu_quota_micros));
    }
    let text = |s: &str| (!s.is_empty()).then(|| s.to_owned());
    cpu.set_cpus(text(&r.cpuset_cpus)).set_mems(text(&r.cpuset_mems));
    (cpu != LinuxCpu::default()).then_some(cpu)
}

fn block_io(r: &Resources, device_numbers: &dyn Fn(&str) -> Result<(i64, i64)>) -> Result<Option<LinuxBlockIo>> {
    let throttle = |list: &[ThrottleDevice]| -> Result<Option<Vec<LinuxThrottleDevice>>> {
        let entries: Result<Vec<_>> = list
            .iter()
            .map(|device| {
                let (major, minor) = device_numbers(&device.path)?;
                let builder = LinuxThrottleDeviceBuilder::default().major(major).minor(minor).rate(device.rate);
                Ok(builder.build().expect("every field is given"))
            })
            .collect();
        Ok(Some(entries?).filter(|list| !list.is_empty()))
    };
    let weights: Result<Vec<LinuxWeightDevice>> = r
        .blkio_weight_device
        .iter()
        .map(|device| {
            let (major, minor) = device_numbers(&device.path)?;
            let builder = LinuxWeightDeviceBuilder::default().major(major).minor(minor).weight(device.weight);
            Ok(builder.build().expect("every field is given"))
        })
        .collect();
    let mut io = LinuxBlockIoBuilder::default().build().expect("every field has a default");
    let empty = io.clone();
    io.set_weight((r.blkio_weight != 0).then_some(r.blkio_weight));
    io.set_weight_device(Some(weights?).filter(|list| !list.is_empty()));
    io.set_throttle_read_bps_device(throttle(&r.blkio_device_read_bps)?);
    io.set_throttle_write_bps_device(throttle(&r.blkio_device_write_bps)?);
    io.set_throttle_read_iops_device(throttle(&r.blkio_device_read_iops)?);
    io.set_throttle_write_iops_device(throttle(&r.blkio_device_write_iops)?);
    Ok((io != empty).then_some(io))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Ulimit;

    #[test]
    fn devices_are_asked_for_by_name_number_or_vendor() {
        let request = |driver: &str, count, ids: &[&str], capabilities: &[&str]| DeviceRequest {
            driver: driver.into(),
            count,
            device_ids: ids.iter().map(|id| (*id).to_owned()).collect(),
            capabilities: vec![capabilities.iter().map(|one| (*one).to_owned()).collect()],
            ..DeviceRequest::default()
        };
        let amd = |kind: &str| kind == "amd.com/gpu";
        let both = |_: &str| true;
        type Row<'a> = (DeviceRequest, &'a dyn Fn(&str) -> bool, &'a [&'a str]);
        let rows: [Row<'_>; 7] = [
            (request("cdi", 0, &["v.com/net=a", "v.com/net=b"], &[]), &amd, &["v.com/net=a", "v.com/net=b"]),
            (request("", -1, &[], &["gpu"]), &both, &["nvidia.com/gpu=all"]),
            (request("", -1, &[], &["gpu"]), &amd, &["amd.com/gpu=all"]),
            (request("", 2, &[], &["compute", "gpu"]), &both, &["nvidia.com/gpu=0", "nvidia.com/gpu=1"]),
            (request("nvidia", 0, &["GPU-1", "3"], &["gpu"]), &both, &["nvidia.com/gpu=GPU-1", "nvidia.com/gpu=3"]),
            (request("amd", 1, &[], &["gpu"]), &both, &["amd.com/gpu=0"]),
            (DeviceRequest { driver: "nvidia".into(), ..DeviceRequest::default() }, &both, &["nvidia.com/gpu=all"]),
        ];
        for (request, is_here, wanted) in rows {
            assert_eq!(device_names(&request, is_here).unwrap(), wanted, "{request:?}");
        }
        let refused = [
            (request("", -1, &[], &["gpu"]), "could not select device driver \"\" with capabilities: [[gpu]]"),
            (request("nvidia", 1, &["a"], &["gpu"]), "cannot set both Count and DeviceIDs on device request"),
            (
                request("other", 1, &[], &["tpu", "x"]),
                "could not select device driver \"other\" with capabilities: [[tpu x]]",
            ),
            (request("", 1, &[], &["tpu"]), "could not select device driver \"\" with capabilities: [[tpu]]"),
            (request("cdi", 1, &[], &[]), "invalid count in CDI device request: device IDs are its names"),
        ];
        for (request, wanted) in refused {
            assert_eq!(device_names(&request, &|_| false).unwrap_err().to_string(), wanted, "{request:?}");
        }
    }

    #[test]
    fn limits_that_make_no_sense_are_refused_in_dockers_words() {
        let r = Resources::default;
        let rows = [
            (Resources { memory_bytes: 5 << 20, ..r() }, "Minimum memory limit allowed is 6MB"),
            (
                Resources { memory_bytes: 8 << 20, memory_swap_bytes: 7 << 20, ..r() },
                "Minimum memoryswap limit should be larger than memory limit, see usage",
            ),
            (
                Resources { memory_swap_bytes: 7 << 20, ..r() },
                "You should always set the Memory limit when using Memoryswap limit, see usage",
            ),
            (
                Resources { nano_cpus: 3_000_000_000, ..r() },
                "range of CPUs is from 0.01 to 2.00, as there are only 2 CPUs available",
            ),
            (Resources { blkio_weight: 5, ..r() }, "Range of blkio weight is from 10 to 1000"),
            (Resources { cpuset_cpus: "0-x".into(), ..r() }, "Invalid value 0-x for cpuset cpus"),
            (
                Resources { cpuset_cpus: "1-9223372036854775807".into(), ..r() },
                "Invalid value 1-9223372036854775807 for cpuset cpus",
            ),
            (
                Resources { cpuset_cpus: "0-2".into(), ..r() },
                "Requested CPUs are not available - requested 0-2, available: 0-1",
            ),
            (
                Resources { device_cgroup_rules: vec!["c 1:x rwm".into()], ..r() },
                "invalid device cgroup rule format: 'c 1:x rwm'",
            ),
            (
                Resources { ulimits: vec![Ulimit { name: "what".into(), soft: 1, hard: 1 }], ..r() },
                "invalid ulimit type: what",
            ),
        ];
        for (resources, wanted) in rows {
            assert_eq!(check_resources(&resources, 2).unwrap_err().to_string(), wanted);
        }
        let extremes = [i64::MIN, -2, -1, 0, 1, i64::MAX];
        for a in extremes {
            for b in extremes {
                let odd = Resources {
                    memory_bytes: a,
                    memory_swap_bytes: b,
                    nano_cpus: a,
                    cpu_period_micros: b,
                    pids_limit: Some(a),
                    memory_swappiness: Some(b),
                    ..r()
                };
                if check_resources(&odd, 2).is_ok() {
                    linux_resources(&odd, &|_| Ok((8, 0))).unwrap();
                }
            }
        }
    }

    #[test]
    fn limits_are_spelt_as_the_spec_spells_them() {
        let asked = Resources {
            memory_bytes: 64 << 20,
            memory_swap_bytes: -1,
            nano_cpus: 1_500_000_000,
            cpuset_cpus: "0-1".into(),
            pids_limit: Some(100),
            blkio_device_read_bps: vec![ThrottleDevice { path: "/dev/sda".into(), rate: 1000 }],
            ..Default::default()
        };
        let got = serde_json::to_value(linux_resources(&asked, &|_| Ok((8, 0))).unwrap()).unwrap();
        let wanted = serde_json::json!({
            "memory": {"limit": 67108864, "swap": -1},
            "cpu": {"period": 100000, "quota": 150000, "cpus": "0-1"},
            "pids": {"limit": 100},
            "blockIO": {"throttleReadBpsDevice": [{"major": 8, "minor": 0, "rate": 1000}]},
        });
        assert_eq!(got, wanted);
        let none = linux_resources(&Resources::default(), &|_| Ok((8, 0))).unwrap();
        assert_eq!(serde_json::to_value(none).unwrap(), serde_json::json!({}));
    }
}
