//! `--security-opt`, namespace modes and sysctls: what they may say and what they mean.

use std::collections::BTreeMap;

use crate::{Error, HostConfig, Result};

/// Where a namespace comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum NamespaceMode<'a> {
    Private,
    Host,
    /// Another container's, by whatever names it.
    Container(&'a str),
    /// One that is held by a file, as a pod's sandbox is: `ns:/path`.
    Path(&'a str),
}

fn parse_mode<'a>(text: &'a str, what: &str, private: &[&str]) -> Result<NamespaceMode<'a>> {
    match text {
        "host" => Ok(NamespaceMode::Host),
        text if private.contains(&text) => Ok(NamespaceMode::Private),
        text if text.starts_with("ns:/") => Ok(NamespaceMode::Path(&text[3..])),
        text => match text.strip_prefix("container:") {
            Some(name) if !name.is_empty() => Ok(NamespaceMode::Container(name)),
            _ => Err(Error::Invalid(format!("invalid {what} mode: {text}"))),
        },
    }
}

pub(crate) fn pid_mode(host: &HostConfig) -> Result<NamespaceMode<'_>> {
    parse_mode(&host.pid_mode, "PID", &["", "private"])
}

pub(crate) fn ipc_mode(host: &HostConfig) -> Result<NamespaceMode<'_>> {
    parse_mode(&host.ipc_mode, "IPC", &["", "private", "shareable", "none"])
}

pub(crate) fn uts_mode(host: &HostConfig) -> Result<NamespaceMode<'_>> {
    match parse_mode(&host.uts_mode, "UTS", &["", "private"])? {
        NamespaceMode::Container(_) => Err(Error::Invalid(format!("invalid UTS mode: {}", host.uts_mode))),
        mode => Ok(mode),
    }
}

pub(crate) fn cgroupns_mode(host: &HostConfig) -> Result<NamespaceMode<'_>> {
    match parse_mode(&host.cgroupns_mode, "cgroup namespace", &["", "private"])? {
        NamespaceMode::Container(_) => {
            Err(Error::Invalid(format!("invalid cgroup namespace mode: {}", host.cgroupns_mode)))
        }
        mode => Ok(mode),
    }
}

/// Whether a network of that name exists is the networks' to say.
pub(crate) fn network_mode(host: &HostConfig) -> Result<NamespaceMode<'_>> {
    match host.network_mode.as_str() {
        "" | "default" | "none" | "bridge" => Ok(NamespaceMode::Private),
        "host" => Ok(NamespaceMode::Host),
        mode if mode.starts_with("ns:/") => Ok(NamespaceMode::Path(&mode[3..])),
        mode => match mode.strip_prefix("container:") {
            Some("") => {
                Err(Error::Invalid("invalid network mode: invalid container format container:<name|id>".into()))
            }
            Some(name) => Ok(NamespaceMode::Container(name)),
            None => Ok(NamespaceMode::Private),
        },
    }
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) enum SeccompChoice {
    #[default]
    Builtin,
    Unconfined,
    /// A profile in Docker's JSON, as the client read it from a file.
    Profile(String),
}

/// What `security_opt` asks for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct SecurityOptions {
    pub(crate) no_new_privileges: bool,
    pub(crate) seccomp: SeccompChoice,
    pub(crate) apparmor: Option<String>,
    /// `systempaths=unconfined`: nothing masked, nothing read-only beneath /proc and /sys.
    pub(crate) unconfined_paths: bool,
    pub(crate) writable_cgroups: bool,
}

pub(crate) fn parse_security_opt(options: &[String]) -> Result<SecurityOptions> {
    let mut parsed = SecurityOptions::default();
    for option in options {
        let refused = || Error::Invalid(format!("invalid --security-opt 2: {option:?}"));
        if option == "no-new-privileges" {
            parsed.no_new_privileges = true;
            continue;
        }
        if option == "disable" {
            continue;
        }
        // The colon is Docker's older spelling.
        let (name, value) = option
            .split_once('=')
            .or_else(|| option.split_once(':'))
            .ok_or_else(|| Error::Invalid(format!("invalid --security-opt 1: {option:?}")))?;
        let truth = |value: &str| match value {
            "true" | "1" | "t" | "T" | "TRUE" | "True" => Ok(true),
            "false" | "0" | "f" | "F" | "FALSE" | "False" => Ok(false),
            _ => Err(refused()),
        };
        match name {
            "no-new-privileges" => parsed.no_new_privileges = truth(value)?,
            "writable-cgroups" => parsed.writable_cgroups = truth(value)?,
            "seccomp" => {
                parsed.seccomp = match value {
                    // An empty profile must never mean "none".
                    "" => return Err(refused()),
                    "unconfined" => SeccompChoice::Unconfined,
                    "builtin" => SeccompChoice::Builtin,
                    profile => SeccompChoice::Profile(profile.to_owned()),
                };
            }
            "apparmor" if value.is_empty() => return Err(refused()),
            "apparmor" => parsed.apparmor = Some(value.to_owned()),
            "systempaths" if value == "unconfined" => parsed.unconfined_paths = true,
            // SELinux is not on any host that this version supports; Docker ignores labels there as well.
            "label" => {}
            _ => return Err(refused()),
        }
    }
    Ok(parsed)
}

/// Docker's current list.
pub const MASKED_PATHS: [&str; 12] = [
    "/proc/asound",
    "/proc/acpi",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/sys/firmware",
    "/sys/devices/virtual/powercap",
];

/// Docker's current list.
pub const READONLY_PATHS: [&str; 5] = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

/// The masked paths of a host with `cpus` processors: each one's thermal counters are hidden as well (RT-21).
pub(crate) fn masked_paths(thermal_cpus: &[u32]) -> Vec<String> {
    let fixed = MASKED_PATHS.iter().map(|p| p.to_string());
    fixed.chain(thermal_cpus.iter().map(|n| format!("/sys/devices/system/cpu/cpu{n}/thermal_throttle"))).collect()
}

/// Sysctls that belong to a namespace the container has of its own, and nothing else (RT-25, RT-26).
pub(crate) fn check_sysctls(sysctls: &BTreeMap<String, String>, host: &HostConfig) -> Result<()> {
    const IPC: [&str; 8] = [
        "kernel.msgmax",
        "kernel.msgmnb",
        "kernel.msgmni",
        "kernel.sem",
        "kernel.shmall",
        "kernel.shmmax",
        "kernel.shmmni",
        "kernel.shm_rmid_forced",
    ];
    let private_ipc = ipc_mode(host)? != NamespaceMode::Host;
    let private_net = network_mode(host)? == NamespaceMode::Private;
    for (name, value) in sysctls {
        let refused = |why: &str| Err(Error::Invalid(format!("sysctl {name:?} {why}")));
        let letters = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-' | b'/' | b':');
        if name.is_empty() || !name.bytes().all(letters) || name.contains("..") {
            return refused("is not a valid name");
        }
        if value.contains(['\n', '\0']) {
            return refused("has a value with a line break");
        }
        let dotted = name.replace('/', ".");
        if IPC.contains(&dotted.as_str()) || dotted.starts_with("fs.mqueue.") {
            if !private_ipc {
                return refused("not allowed in host ipc namespace");
            }
        } else if dotted.starts_with("net.") {
            if !private_net {
                return refused("not allowed in host network namespace");
            }
        } else {
            return refused("is not in a separate kernel namespace");
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn security_options_read_as_docker_reads_them() {
        let check = |options: &[&str]| {
            let options: Vec<String> = options.iter().map(|o| o.to_string()).collect();
            parse_security_opt(&options)
        };
        assert_eq!(check(&[]).unwrap(), SecurityOptions::default());
        assert!(check(&["no-new-privileges"]).unwrap().no_new_privileges);
        assert!(!check(&["no-new-privileges:false"]).unwrap().no_new_privileges);
        assert_eq!(check(&["seccomp=unconfined"]).unwrap().seccomp, SeccompChoice::Unconfined);
        assert_eq!(check(&["seccomp:{\"a\":1}"]).unwrap().seccomp, SeccompChoice::Profile("{\"a\":1}".into()));
        assert!(check(&["systempaths=unconfined"]).unwrap().unconfined_paths);
        for bad in ["", "what", "seccomp=", "apparmor=", "no-new-privileges=maybe", "systempaths=x", "magic=1"] {
            assert!(check(&[bad]).is_err(), "{bad}");
        }
    }

    #[test]
    fn sysctls_stay_in_namespaces_of_the_containers_own() {
        let check = |name: &str, network: &str, ipc: &str| {
            let host = HostConfig { network_mode: network.into(), ipc_mode: ipc.into(), ..Default::default() };
            check_sysctls(&[(name.to_owned(), "1".to_owned())].into(), &host).is_ok()
        };
        assert!(check("net.ipv4.ip_forward", "", ""));
        assert!(!check("net.ipv4.ip_forward", "host", ""));
        assert!(!check("net.ipv4.ip_forward", "container:x", ""));
        assert!(check("kernel.shmmax", "", ""));
        assert!(!check("kernel.shmmax", "", "host"));
        assert!(check("fs/mqueue/msg_max", "", ""));
        for bad in ["kernel.core_pattern", "vm.swappiness", "net.ipv4.x\nkernel.y", "net.../../kernel.x", "net.a+b", ""]
        {
            assert!(!check(bad, "", ""), "{bad:?}");
        }
    }
}
