//! The mount list: Docker's defaults, what the caller mounts over or beside them, and the network files.

use std::path::{Path, PathBuf};

use oci_spec::runtime::{Mount, MountBuilder};

use super::SpecInput;
use super::security::NamespaceMode;
use crate::decide::mounts::{ContainerMount, MountIds, Submounts};
use crate::{HostConfig, MountKind, Result};

fn mount(kind: &str, source: impl Into<PathBuf>, destination: &str, options: &[&str]) -> Mount {
    MountBuilder::default()
        .destination(destination)
        .typ(kind)
        .source(source)
        .options(options.iter().map(|o| o.to_string()).collect::<Vec<_>>())
        .build()
        .expect("every field is given")
}

/// In the order in which they are made: parents before children.
pub(super) fn mounts(input: &SpecInput<'_>) -> Result<Vec<Mount>> {
    let host = input.host;
    let covered = |destination: &str| {
        let under_dev = destination.starts_with("/dev/") && input.mounts.iter().any(|m| m.destination == "/dev");
        under_dev || input.mounts.iter().any(|m| m.destination == destination)
    };
    let mut list: Vec<Mount> =
        defaults(input)?.into_iter().filter(|m| !covered(&m.destination().to_string_lossy())).collect();
    if host.readonly_rootfs {
        const KEPT: [&str; 5] = ["/proc", "/dev", "/dev/shm", "/dev/mqueue", "/dev/pts"];
        for entry in &mut list {
            if !KEPT.iter().any(|k| Path::new(k) == entry.destination()) {
                let mut options = entry.options().clone().unwrap_or_default();
                if !options.iter().any(|o| o == "ro") {
                    options.push("ro".into());
                    entry.set_options(Some(options));
                }
            }
        }
    }
    let mut own: Vec<(&str, Mount)> = Vec::with_capacity(input.mounts.len() + 4);
    for m in input.mounts {
        own.push((m.destination.as_str(), own_mount(m)?));
    }
    let files = [
        ("/etc/resolv.conf", &input.files.resolv_conf),
        ("/etc/hostname", &input.files.hostname),
        ("/etc/hosts", &input.files.hosts),
    ];
    // A container that joins another's network shares that one's files, whose paths the caller gave us.
    for (destination, source) in files {
        if !covered(destination) && !source.as_os_str().is_empty() {
            let mut mode = vec!["rbind", "rprivate"];
            mode.extend(host.readonly_rootfs.then_some("ro"));
            // The container's root may change them, as on a machine of its own.
            mode.extend(input.users.map(|_| "idmap"));
            own.push((destination, mount("bind", source, destination, &mode)));
        }
    }
    for device in input.devices.iter().filter(|_| input.users.is_some()) {
        own.push((&device.path, mount("bind", &device.source, &device.path, &["bind", "nosuid", "noexec"])));
    }
    for (source, destination) in input.view {
        if !covered(destination) {
            let options = ["bind", "ro", "nosuid", "nodev", "noexec"];
            own.push((destination, mount("bind", source, destination, &options)));
        }
    }
    if let Some(program) = input.init {
        own.push((INIT_PATH, mount("bind", program, INIT_PATH, &["bind", "ro"])));
    }
    own.sort_by_key(|(destination, _)| destination.split('/').count());
    list.extend(own.into_iter().map(|(_, mount)| mount));
    Ok(list)
}

/// Where `--init` puts the tiny init.
pub(crate) const INIT_PATH: &str = "/sbin/docker-init";

fn defaults(input: &SpecInput<'_>) -> Result<Vec<Mount>> {
    let host = input.host;
    let shm_size = if host.shm_size_bytes > 0 { host.shm_size_bytes } else { 64 << 20 };
    let ipc = super::ipc_mode(host)?;
    let sys_mode = if host.privileged { "rw" } else { "ro" };
    let cgroup_mode = if host.privileged || input.security.writable_cgroups { "rw" } else { "ro" };
    let mut list = vec![
        mount("proc", "proc", "/proc", &["nosuid", "noexec", "nodev"]),
        mount("tmpfs", "tmpfs", "/dev", &["nosuid", "strictatime", "mode=755", "size=65536k"]),
        mount(
            "devpts",
            "devpts",
            "/dev/pts",
            &["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"],
        ),
        mount("sysfs", "sysfs", "/sys", &["nosuid", "noexec", "nodev", sys_mode]),
        mount("cgroup", "cgroup", "/sys/fs/cgroup", &["nosuid", "noexec", "nodev", cgroup_mode]),
    ];
    match ipc {
        NamespaceMode::Host => {
            const OPTIONS: [&str; 3] = ["nosuid", "noexec", "nodev"];
            match input.users {
                // The host's queues are those of its namespace, whether or not it shows them in a folder of its own.
                None => list.push(mount("mqueue", "mqueue", "/dev/mqueue", &OPTIONS)),
                // The kernel shows them to nobody but the host's root anew.
                Some(_) if input.facts.mqueue_folder => {
                    list.push(mount("bind", "/dev/mqueue", "/dev/mqueue", &[&["bind"], &OPTIONS[..]].concat()));
                }
                Some(_) => {}
            }
            list.push(mount("bind", "/dev/shm", "/dev/shm", &["rbind", "rprivate"]));
        }
        NamespaceMode::Private | NamespaceMode::Container(_) | NamespaceMode::Path(_) => {
            list.push(mount("mqueue", "mqueue", "/dev/mqueue", &["nosuid", "noexec", "nodev"]));
            if host.ipc_mode != "none" {
                let size = format!("size={shm_size}");
                list.push(mount("tmpfs", "shm", "/dev/shm", &["nosuid", "noexec", "nodev", "mode=1777", &size]));
            }
        }
    }
    Ok(list)
}

fn own_mount(m: &ContainerMount) -> Result<Mount> {
    if m.kind == MountKind::Tmpfs {
        let options: Vec<&str> = m.tmpfs_options.iter().map(String::as_str).collect();
        return Ok(mount("tmpfs", "tmpfs", &m.destination, &options));
    }
    let mut options = vec![if m.recursive { "rbind" } else { "bind" }];
    let propagation = if m.propagation.is_empty() { "rprivate" } else { &m.propagation };
    options.push(propagation);
    if !m.rw {
        // Docker makes the mounts beneath read-only as well where the kernel can.
        options.push(if m.recursive && m.read_only_submounts == Submounts::ReadOnly { "rro" } else { "ro" });
    }
    if m.ids == MountIds::Container {
        options.push("idmap");
    }
    let mut own = mount("bind", &m.source, &m.destination, &options);
    if let MountIds::Maps(maps) = &m.ids {
        own.set_uid_mappings(Some(super::build::mappings(&maps.uid)?));
        own.set_gid_mappings(Some(super::build::mappings(&maps.gid)?));
    }
    Ok(own)
}

/// Shared and slave mounts need the root to be at least a slave of the host's.
pub(super) fn rootfs_propagation(mounts: &[ContainerMount], _host: &HostConfig) -> Option<String> {
    let any = |words: [&str; 2]| mounts.iter().any(|m| words.contains(&m.propagation.as_str()));
    match () {
        _ if any(["shared", "rshared"]) => Some("shared".into()),
        _ if any(["slave", "rslave"]) => Some("rslave".into()),
        _ => None,
    }
}
