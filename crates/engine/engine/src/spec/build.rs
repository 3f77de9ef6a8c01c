//! Puts the spec together.

use std::path::{Path, PathBuf};

use linux::idmap::{IdMaps, IdSpan};
use oci_spec::runtime::{
    Capabilities, Capability, LinuxBuilder, LinuxCapabilitiesBuilder, LinuxDevice, LinuxDeviceBuilder,
    LinuxDeviceCgroup, LinuxDeviceType, LinuxIdMapping, LinuxIdMappingBuilder, LinuxNamespace, LinuxNamespaceBuilder,
    LinuxNamespaceType, LinuxSeccomp, PosixRlimit, PosixRlimitBuilder, ProcessBuilder, RootBuilder, Spec, SpecBuilder,
    UserBuilder,
};

use super::resources::{device_rule, linux_resources, parse_device_rule, rlimit_type};
use super::security::{NamespaceMode, SecurityOptions};
use crate::decide::caps;
use crate::decide::merge::{DEFAULT_PATH, command_line, environment};
use crate::decide::mounts::ContainerMount;
use crate::decide::user::ExecUser;
use crate::{ContainerConfig, ContainerId, Error, HostConfig, Result};

/// What the host is like, as far as a spec depends on it.
#[derive(Debug, Clone, Default)]
pub(crate) struct HostFacts {
    /// Bit n: the engine can hand out capability n.
    pub(crate) capabilities: u64,
    /// Online processors.
    pub(crate) cpus: usize,
    /// Processors whose thermal counters exist.
    pub(crate) thermal_cpus: Vec<u32>,
    /// The engine's own hard limit of open files.
    pub(crate) nofile_hard: u64,
    /// The host has a folder of its message queues, `/dev/mqueue`.
    pub(crate) mqueue_folder: bool,
    /// `/knarr-<tag>`: where this instance's cgroups live.
    pub(crate) cgroup_parent: String,
}

/// A device node that the container gets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct HostDevice {
    /// Where it is on the host.
    pub(crate) source: PathBuf,
    pub(crate) path: String,
    /// `b` or `c`.
    pub(crate) kind: char,
    pub(crate) major: i64,
    pub(crate) minor: i64,
    /// Permission bits.
    pub(crate) mode: u32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    /// `rwm` or a part of it.
    pub(crate) access: String,
}

/// Namespaces of others that it joins, as paths.
#[derive(Debug, Clone, Default)]
pub(crate) struct Joined {
    pub(crate) pid: Option<PathBuf>,
    pub(crate) ipc: Option<PathBuf>,
    pub(crate) network: Option<PathBuf>,
    pub(crate) user: Option<PathBuf>,
}

/// The files that go over the image's own; an empty path leaves the image's.
#[derive(Debug, Clone, Default)]
pub(crate) struct NetworkFiles {
    pub(crate) resolv_conf: PathBuf,
    pub(crate) hostname: PathBuf,
    pub(crate) hosts: PathBuf,
}

pub(crate) struct SpecInput<'a> {
    pub(crate) id: ContainerId,
    /// Merged with the image's.
    pub(crate) config: &'a ContainerConfig,
    pub(crate) host: &'a HostConfig,
    pub(crate) security: &'a SecurityOptions,
    pub(crate) user: &'a ExecUser,
    /// Its ids on the host; `None` is the host's own.
    pub(crate) users: Option<&'a IdMaps>,
    /// With sources filled in.
    pub(crate) mounts: &'a [ContainerMount],
    pub(crate) files: &'a NetworkFiles,
    pub(crate) joined: &'a Joined,
    pub(crate) facts: &'a HostFacts,
    /// Resolved for this container's capabilities; `None` is unconfined.
    pub(crate) seccomp: Option<LinuxSeccomp>,
    /// `--device`, or everything with `--privileged`.
    pub(crate) devices: &'a [HostDevice],
    /// Files over those of `/proc` and `/sys`, and where they go.
    pub(crate) view: &'a [(PathBuf, &'static str)],
    /// The program that `--init` binds in.
    pub(crate) init: Option<&'a Path>,
    /// Finds a block device's numbers, for blkio limits.
    pub(crate) device_numbers: &'a dyn Fn(&str) -> Result<(i64, i64)>,
}

pub(crate) fn build_spec(input: &SpecInput<'_>) -> Result<Spec> {
    let (config, host) = (input.config, input.host);
    let (program, args) = command_line(config);
    let mut command = vec![program];
    command.extend(args);
    if input.init.is_some() {
        command.splice(0..0, [super::mounts::INIT_PATH.to_owned(), "--".to_owned()]);
    }
    let cwd = if config.working_dir.is_empty() { "/" } else { &config.working_dir };
    let user = UserBuilder::default()
        .uid(input.user.uid)
        .gid(input.user.gid)
        .additional_gids(input.user.groups.clone())
        .build()
        .map_err(broken)?;
    let mut process = ProcessBuilder::default()
        .terminal(config.tty)
        .user(user)
        .args(command)
        .env(environment(&config.env, DEFAULT_PATH, &config.hostname, config.tty, &input.user.home))
        .cwd(cwd)
        .capabilities(capabilities(host, input.user.uid, input.facts)?)
        .rlimits(rlimits(host, input.facts)?)
        .no_new_privileges(input.security.no_new_privileges)
        .oom_score_adj(host.oom_score_adj)
        .build()
        .map_err(broken)?;
    if let Some(profile) = &input.security.apparmor {
        process.set_apparmor_profile(Some(profile.clone()));
    }

    let mut resources = linux_resources(&host.resources, input.device_numbers)?;
    resources.set_devices(Some(device_rules(host, input.devices)?));
    let mut linux = LinuxBuilder::default()
        .namespaces(namespaces(host, input.joined, input.users.is_some())?)
        .resources(resources)
        .cgroups_path(cgroup_path(input))
        .sysctl(sysctls(host, input.users.is_some())?)
        // In a user namespace nobody makes nodes: there the host's are bound.
        .devices(input.devices.iter().filter(|_| input.users.is_none()).map(device_node).collect::<Result<Vec<_>>>()?)
        .masked_paths(hidden(host, input.security, host.masked_paths.as_ref(), || {
            super::masked_paths(&input.facts.thermal_cpus)
        }))
        .readonly_paths(hidden(host, input.security, host.readonly_paths.as_ref(), || {
            super::READONLY_PATHS.map(str::to_owned).to_vec()
        }))
        .build()
        .map_err(broken)?;
    linux.set_seccomp(input.seccomp.clone());
    if let Some(users) = input.users {
        linux.set_uid_mappings(Some(mappings(&users.uid)?));
        linux.set_gid_mappings(Some(mappings(&users.gid)?));
    }
    linux.set_rootfs_propagation(super::mounts::rootfs_propagation(input.mounts, host));

    let root = RootBuilder::default().path("rootfs").readonly(host.readonly_rootfs).build().map_err(broken)?;
    let mut spec = SpecBuilder::default()
        .version("1.2.0")
        .root(root)
        .process(process)
        .mounts(super::mounts::mounts(input)?)
        .linux(linux)
        .annotations(host.annotations.clone().into_iter().collect::<std::collections::HashMap<_, _>>())
        .build()
        .map_err(broken)?;
    let private_uts = super::uts_mode(host)? == NamespaceMode::Private;
    spec.set_hostname(private_uts.then(|| config.hostname.clone()));
    let domain = private_uts && !config.domainname.is_empty();
    spec.set_domainname(domain.then(|| config.domainname.clone()));
    Ok(spec)
}

/// A builder refuses only when a field that it needs was left out, which is a mistake of this file.
fn broken(error: oci_spec::OciSpecError) -> Error {
    Error::internal("build the OCI spec", error)
}

pub(crate) fn cgroup_path(input: &SpecInput<'_>) -> PathBuf {
    let parent = match input.host.resources.cgroup_parent.as_str() {
        "" => input.facts.cgroup_parent.as_str(),
        parent => parent,
    };
    Path::new("/").join(parent.trim_start_matches('/')).join(input.id.to_string())
}

/// Bounding, permitted and effective alike; nothing inheritable (RT-10). A process of another user has them in its
/// bounding set only, so that it gains them by a set-user-ID program alone.
pub(crate) fn capabilities(
    host: &HostConfig,
    uid: u32,
    facts: &HostFacts,
) -> Result<oci_spec::runtime::LinuxCapabilities> {
    let names = caps::decide_caps(&host.cap_add, &host.cap_drop, host.privileged, facts.capabilities)?;
    let bounding = to_set(&names)?;
    let acting = if uid == 0 { bounding.clone() } else { Capabilities::new() };
    LinuxCapabilitiesBuilder::default()
        .bounding(bounding)
        .permitted(acting.clone())
        .effective(acting)
        .inheritable(Capabilities::new())
        .ambient(Capabilities::new())
        .build()
        .map_err(broken)
}

pub(crate) fn to_set(names: &[&str]) -> Result<Capabilities> {
    names
        .iter()
        .map(|name| {
            let bare = name.strip_prefix("CAP_").unwrap_or(name);
            bare.parse::<Capability>().map_err(|e| Error::internal(format_args!("capability {name}"), e))
        })
        .collect()
}

/// What was asked for, and open files explicitly: a container must not depend on how the engine was started (RT-34).
pub(crate) fn rlimits(host: &HostConfig, facts: &HostFacts) -> Result<Vec<PosixRlimit>> {
    let limit = |name: &str, soft: u64, hard: u64| {
        PosixRlimitBuilder::default().typ(rlimit_type(name)?).soft(soft).hard(hard).build().map_err(broken)
    };
    let number = |n: i64| u64::try_from(n).unwrap_or(u64::MAX);
    let mut list = Vec::new();
    for asked in &host.resources.ulimits {
        list.push(limit(&asked.name, number(asked.soft), number(asked.hard))?);
    }
    if !host.resources.ulimits.iter().any(|u| u.name == "nofile") {
        let most = facts.nofile_hard.min(1 << 20);
        list.push(limit("nofile", most, most)?);
    }
    Ok(list)
}

pub(super) fn mappings(spans: &[IdSpan]) -> Result<Vec<LinuxIdMapping>> {
    let one = |span: &IdSpan| {
        let builder = LinuxIdMappingBuilder::default();
        builder.container_id(span.inside).host_id(span.outside).size(span.count).build().map_err(broken)
    };
    spans.iter().map(one).collect()
}

fn namespaces(host: &HostConfig, joined: &Joined, users: bool) -> Result<Vec<LinuxNamespace>> {
    let modes = [
        (LinuxNamespaceType::Mount, NamespaceMode::Private, &None),
        (LinuxNamespaceType::Network, super::network_mode(host)?, &joined.network),
        (LinuxNamespaceType::Uts, super::uts_mode(host)?, &None),
        (LinuxNamespaceType::Pid, super::pid_mode(host)?, &joined.pid),
        (LinuxNamespaceType::Ipc, super::ipc_mode(host)?, &joined.ipc),
        (LinuxNamespaceType::Cgroup, super::cgroupns_mode(host)?, &None),
    ];
    let mut list = Vec::new();
    if users {
        let mut own = LinuxNamespaceBuilder::default().typ(LinuxNamespaceType::User).build().map_err(broken)?;
        own.set_path(joined.user.clone());
        list.push(own);
    }
    for (kind, mode, path) in modes {
        let mut namespace = LinuxNamespaceBuilder::default().typ(kind).build().map_err(broken)?;
        match mode {
            NamespaceMode::Host => continue,
            // Its own, ready made.
            NamespaceMode::Private => {
                namespace.set_path(path.clone());
            }
            NamespaceMode::Path(path) => {
                namespace.set_path(Some(path.into()));
            }
            NamespaceMode::Container(name) => {
                let path = path.clone().ok_or_else(|| {
                    Error::internal("join a namespace", format_args!("container {name} was not resolved"))
                })?;
                namespace.set_path(Some(path));
            }
        }
        list.push(namespace);
    }
    Ok(list)
}

fn sysctls(host: &HostConfig, users: bool) -> Result<std::collections::HashMap<String, String>> {
    let mut all: std::collections::HashMap<String, String> = host.sysctls.clone().into_iter().collect();
    // Docker's defaults for a network of its own: any port without privilege, ping without a raw socket.
    if super::network_mode(host)? == NamespaceMode::Private {
        // A user namespace has not so many groups, and the kernel takes only those that it has.
        let groups = [("net.ipv4.ping_group_range", "0 2147483647")].into_iter().filter(|_| !users);
        for (name, value) in [("net.ipv4.ip_unprivileged_port_start", "0")].into_iter().chain(groups) {
            all.entry(name.to_owned()).or_insert_with(|| value.to_owned());
        }
    }
    Ok(all)
}

/// Denied first, always (RT-12).
fn device_rules(host: &HostConfig, devices: &[HostDevice]) -> Result<Vec<LinuxDeviceCgroup>> {
    if host.privileged {
        return Ok(vec![device_rule(true, "a", -1, -1, "rwm")]);
    }
    let mut rules = vec![device_rule(false, "a", -1, -1, "rwm")];
    // Making a node is harmless, opening it is what counts.
    rules.push(device_rule(true, "c", -1, -1, "m"));
    rules.push(device_rule(true, "b", -1, -1, "m"));
    // null, zero, full, random, urandom, tty, console, ptmx, and the slaves of /dev/pts.
    for (major, minor) in [(1, 3), (1, 5), (1, 7), (1, 8), (1, 9), (5, 0), (5, 1), (5, 2), (136, -1)] {
        rules.push(device_rule(true, "c", major, minor, "rwm"));
    }
    for device in devices {
        let kind = if device.kind == 'b' { "b" } else { "c" };
        rules.push(device_rule(true, kind, device.major, device.minor, &device.access));
    }
    for rule in &host.resources.device_cgroup_rules {
        rules.push(parse_device_rule(rule)?);
    }
    Ok(rules)
}

fn device_node(device: &HostDevice) -> Result<LinuxDevice> {
    LinuxDeviceBuilder::default()
        .path(&device.path)
        .typ(if device.kind == 'b' { LinuxDeviceType::B } else { LinuxDeviceType::C })
        .major(device.major)
        .minor(device.minor)
        .file_mode(device.mode)
        .uid(device.uid)
        .gid(device.gid)
        .build()
        .map_err(broken)
}

fn hidden(
    host: &HostConfig,
    security: &SecurityOptions,
    asked: Option<&Vec<String>>,
    default: impl FnOnce() -> Vec<String>,
) -> Vec<String> {
    if host.privileged || security.unconfined_paths {
        return Vec::new();
    }
    asked.cloned().unwrap_or_else(default)
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
