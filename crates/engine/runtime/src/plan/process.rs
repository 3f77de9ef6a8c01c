//! The `process` object of a spec, for a container's first process and for exec alike. Pure.

use std::collections::BTreeMap;

use linux::caps::{CapSet, Capability};
use oci_spec::runtime::{
    Capabilities, IOPriorityClass, LinuxCapabilities, LinuxSchedulerFlag, LinuxSchedulerPolicy, PosixRlimitType,
    Process, Scheduler,
};

use super::error::Faults;
use super::facts::HostFacts;
use super::types::{CapabilitySets, ProcessPlan, Rlimit, SchedulerPlan};

/// In runc's words, which tools know.
pub(super) const NO_SELINUX: &str = "selinux label is specified in config, but selinux is disabled or not supported";

/// The number of a capability given with or without `CAP_`, in any case.
pub fn capability_number(name: &str) -> Option<u8> {
    Capability::from_name(name, true).map(Capability::number)
}

fn bits(set: Option<&Capabilities>) -> u64 {
    set.into_iter().flatten().filter_map(|c| capability_number(&c.to_string())).fold(0, |bits, n| bits | 1 << n)
}

/// The five sets as bits.
pub fn capability_sets(sets: &LinuxCapabilities) -> CapabilitySets {
    CapabilitySets {
        bounding: bits(sets.bounding().as_ref()),
        effective: bits(sets.effective().as_ref()),
        inheritable: bits(sets.inheritable().as_ref()),
        permitted: bits(sets.permitted().as_ref()),
        ambient: bits(sets.ambient().as_ref()),
    }
}

/// `path` is the prefix of field names, `process` or empty.
pub(super) fn process_plan(
    process: &Process,
    path: &str,
    facts: &HostFacts,
    warnings: &mut Vec<String>,
    faults: &mut Faults,
) -> ProcessPlan {
    let args = process.args().clone().unwrap_or_default();
    if args.first().is_none_or(String::is_empty) {
        faults.invalid(format!("{path}.args"), "must name a program");
    }
    for (n, arg) in args.iter().enumerate() {
        if arg.contains('\0') {
            faults.invalid(format!("{path}.args[{n}]"), "contains a NUL byte");
        }
    }
    let cwd = process.cwd().to_string_lossy().into_owned();
    if !cwd.starts_with('/') {
        faults.invalid(format!("{path}.cwd"), format!("{cwd:?} is not an absolute path"));
    } else if cwd.contains('\0') {
        faults.invalid(format!("{path}.cwd"), "contains a NUL byte");
    }
    let env = environment(process.env().as_deref().unwrap_or_default(), path, faults);
    let home_from_passwd = !env.iter().any(|entry| entry.starts_with("HOME=") && entry.len() > 5);

    let user = process.user();
    let id_max = i32::MAX as u32;
    for (name, id) in [("uid", user.uid()), ("gid", user.gid())] {
        if id > id_max {
            faults.invalid(format!("{path}.user.{name}"), format!("{id} is larger than {id_max}"));
        }
    }
    let groups = user.additional_gids().clone().unwrap_or_default();
    for (n, gid) in groups.iter().enumerate() {
        if *gid > id_max {
            faults.invalid(format!("{path}.user.additionalGids[{n}]"), format!("{gid} is larger than {id_max}"));
        }
    }
    let umask = user.umask();
    if umask.is_some_and(|mask| mask > 0o777) {
        faults.invalid(format!("{path}.user.umask"), format!("{:o} is not a file mode mask", umask.unwrap_or(0)));
    }

    let known = facts.known_capabilities;
    let capabilities = process.capabilities().as_ref().map(|c| {
        let mut sets = capability_sets(c);
        let asked = sets.bounding | sets.effective | sets.inheritable | sets.permitted | sets.ambient;
        if asked & !known != 0 {
            let names: Vec<&str> = CapSet(asked & !known).iter().filter_map(Capability::name).collect();
            warnings.push(format!("this kernel does not know {}", names.join(", ")));
            for set in
                [&mut sets.bounding, &mut sets.effective, &mut sets.inheritable, &mut sets.permitted, &mut sets.ambient]
            {
                *set &= known;
            }
        }
        if sets.effective & !sets.permitted != 0 {
            faults.invalid(format!("{path}.capabilities.effective"), "holds a capability that is not in permitted");
        }
        // The kernel keeps an ambient capability only while it is both permitted and inheritable.
        let raised = sets.ambient & sets.permitted & sets.inheritable;
        if raised != sets.ambient {
            warnings.push("ambient capabilities that are not permitted and inheritable are not raised".into());
            sets.ambient = raised;
        }
        sets
    });

    let mut rlimits = Vec::new();
    for (n, limit) in process.rlimits().iter().flatten().enumerate() {
        let (resource, name) = rlimit(limit.typ());
        let field = format!("{path}.rlimits[{n}]");
        if limit.soft() > limit.hard() {
            faults.invalid(field.clone(), format!("{name}: soft {} is above hard {}", limit.soft(), limit.hard()));
        }
        if rlimits.iter().any(|known: &Rlimit| known.resource == resource) {
            faults.invalid(field, format!("{name} is given twice"));
        }
        rlimits.push(Rlimit { resource, name: name.into(), soft: limit.soft(), hard: limit.hard() });
    }

    // Without AppArmor everything is unconfined already: who asks for that has it.
    let says_something = |label: &String| !label.is_empty() && (facts.apparmor || label != "unconfined");
    let apparmor = process.apparmor_profile().clone().filter(says_something);
    if apparmor.is_some() && !facts.apparmor {
        faults.unsupported(format!("{path}.apparmorProfile"), "this kernel has no AppArmor");
    }
    let selinux = process.selinux_label().clone().filter(|label| !label.is_empty());
    if selinux.is_some() && !facts.selinux {
        faults.unsupported(format!("{path}.selinuxLabel"), NO_SELINUX);
    }
    if let Some(score) = process.oom_score_adj()
        && !(-1000..=1000).contains(&score)
    {
        faults.invalid(format!("{path}.oomScoreAdj"), format!("{score} is not within -1000 and 1000"));
    }
    let scheduler = process.scheduler().as_ref().map(|s| scheduler(s, path, faults));
    let io_priority = process.io_priority().as_ref().map(|priority| {
        let class = match priority.class() {
            IOPriorityClass::IoprioClassRt => 1,
            IOPriorityClass::IoprioClassBe => 2,
            IOPriorityClass::IoprioClassIdle => 3,
        };
        let level = priority.priority();
        if !(0..=7).contains(&level) {
            faults.invalid(format!("{path}.ioPriority.priority"), format!("{level} is not within 0 and 7"));
        }
        class << 13 | (level.clamp(0, 7) as u32)
    });
    let (mut affinity_initial, mut affinity_final) = (None, None);
    if let Some(affinity) = process.exec_cpu_affinity() {
        for (name, list, to) in [
            ("initial", affinity.initial(), &mut affinity_initial),
            ("final", affinity.cpu_affinity_final(), &mut affinity_final),
        ] {
            if let Some(list) = list.as_ref().filter(|list| !list.is_empty()) {
                match number_list(list) {
                    Ok(cpus) => *to = Some(cpus),
                    Err(message) => faults.invalid(format!("{path}.execCPUAffinity.{name}"), message),
                }
            }
        }
    }
    ProcessPlan {
        args,
        env,
        cwd,
        uid: user.uid(),
        gid: user.gid(),
        groups,
        umask,
        home_from_passwd,
        capabilities,
        no_new_privileges: process.no_new_privileges().unwrap_or(false),
        rlimits,
        apparmor,
        selinux,
        scheduler,
        io_priority,
        memory_policy: None,
        personality: None,
        affinity_initial,
        affinity_final,
        preserve_fds: 0,
        seccomp: None,
    }
}

/// Entries in order; of several with one name the last value stands, where runc puts it: at the first's place.
fn environment(entries: &[String], path: &str, faults: &mut Faults) -> Vec<String> {
    let mut index: BTreeMap<&str, usize> = BTreeMap::new();
    let mut env: Vec<String> = Vec::with_capacity(entries.len());
    for (n, entry) in entries.iter().enumerate() {
        let field = format!("{path}.env[{n}]");
        match entry.split_once('=') {
            _ if entry.contains('\0') => faults.invalid(field, "contains a NUL byte"),
            None | Some(("", _)) => faults.invalid(field, format!("{entry:?} is not NAME=value")),
            Some((name, _)) => match index.get(name) {
                Some(&at) => entry.clone_into(&mut env[at]),
                None => {
                    index.insert(name, env.len());
                    env.push(entry.clone());
                }
            },
        }
    }
    env
}

const fn rlimit(kind: PosixRlimitType) -> (u32, &'static str) {
    match kind {
        PosixRlimitType::RlimitCpu => (0, "RLIMIT_CPU"),
        PosixRlimitType::RlimitFsize => (1, "RLIMIT_FSIZE"),
        PosixRlimitType::RlimitData => (2, "RLIMIT_DATA"),
        PosixRlimitType::RlimitStack => (3, "RLIMIT_STACK"),
        PosixRlimitType::RlimitCore => (4, "RLIMIT_CORE"),
        PosixRlimitType::RlimitRss => (5, "RLIMIT_RSS"),
        PosixRlimitType::RlimitNproc => (6, "RLIMIT_NPROC"),
        PosixRlimitType::RlimitNofile => (7, "RLIMIT_NOFILE"),
        PosixRlimitType::RlimitMemlock => (8, "RLIMIT_MEMLOCK"),
        PosixRlimitType::RlimitAs => (9, "RLIMIT_AS"),
        PosixRlimitType::RlimitLocks => (10, "RLIMIT_LOCKS"),
        PosixRlimitType::RlimitSigpending => (11, "RLIMIT_SIGPENDING"),
        PosixRlimitType::RlimitMsgqueue => (12, "RLIMIT_MSGQUEUE"),
        PosixRlimitType::RlimitNice => (13, "RLIMIT_NICE"),
        PosixRlimitType::RlimitRtprio => (14, "RLIMIT_RTPRIO"),
        PosixRlimitType::RlimitRttime => (15, "RLIMIT_RTTIME"),
    }
}

fn scheduler(scheduler: &Scheduler, path: &str, faults: &mut Faults) -> SchedulerPlan {
    let policy = match scheduler.policy() {
        LinuxSchedulerPolicy::SchedOther => 0,
        LinuxSchedulerPolicy::SchedFifo => 1,
        LinuxSchedulerPolicy::SchedRr => 2,
        LinuxSchedulerPolicy::SchedBatch => 3,
        LinuxSchedulerPolicy::SchedIso => {
            faults.unsupported(format!("{path}.scheduler.policy"), "Linux does not implement SCHED_ISO");
            0
        }
        LinuxSchedulerPolicy::SchedIdle => 5,
        LinuxSchedulerPolicy::SchedDeadline => 6,
    };
    let flags = scheduler.flags().iter().flatten().fold(0, |bits, flag| {
        bits | match flag {
            LinuxSchedulerFlag::SchedResetOnFork => 0x01,
            LinuxSchedulerFlag::SchedFlagReclaim => 0x02,
            LinuxSchedulerFlag::SchedFlagDLOverrun => 0x04,
            LinuxSchedulerFlag::SchedFlagKeepPolicy => 0x08,
            LinuxSchedulerFlag::SchedFlagKeepParams => 0x10,
            LinuxSchedulerFlag::SchedFlagUtilClampMin => 0x20,
            LinuxSchedulerFlag::SchedFlagUtilClampMax => 0x40,
        }
    });
    let nice = scheduler.nice().unwrap_or(0);
    if !(-20..=19).contains(&nice) {
        faults.invalid(format!("{path}.scheduler.nice"), format!("{nice} is not within -20 and 19"));
    }
    let priority = scheduler.priority().unwrap_or(0);
    if priority != 0 && !matches!(policy, 1 | 2) {
        faults.invalid(format!("{path}.scheduler.priority"), "only SCHED_FIFO and SCHED_RR have a priority");
    }
    if priority < 0 {
        faults.invalid(format!("{path}.scheduler.priority"), format!("{priority} is negative"));
    }
    let (runtime, deadline, period) =
        (scheduler.runtime().unwrap_or(0), scheduler.deadline().unwrap_or(0), scheduler.period().unwrap_or(0));
    if policy != 6 && (runtime, deadline, period) != (0, 0, 0) {
        faults.invalid(format!("{path}.scheduler"), "runtime, deadline and period belong to SCHED_DEADLINE only");
    }
    SchedulerPlan { policy, flags, nice, priority: priority.max(0) as u32, runtime, deadline, period }
}

/// `0-3,7` as its numbers.
pub(super) fn number_list(list: &str) -> Result<Vec<u32>, String> {
    let mut numbers = Vec::new();
    for part in list.split(',').map(str::trim).filter(|part| !part.is_empty()) {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let parse = |text: &str| text.trim().parse::<u32>().ok().filter(|n| *n < 8192);
        match (parse(first), parse(last)) {
            (Some(first), Some(last)) if first <= last => numbers.extend(first..=last),
            _ => return Err(format!("{part:?} is not a number or a range")),
        }
    }
    if numbers.is_empty() {
        return Err(format!("{list:?} names nothing"));
    }
    numbers.sort_unstable();
    numbers.dedup();
    Ok(numbers)
}
