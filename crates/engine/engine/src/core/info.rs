//! What the engine says about itself and its host.

use std::sync::Arc;

use super::Inner;
use crate::{DiskUsage, Info, Result, Status};

impl Inner {
    /// Blocking.
    pub(crate) fn info(&self) -> Info {
        let containers = self.registry().all();
        let count = |wanted: &dyn Fn(Status) -> bool| containers.iter().filter(|c| wanted(c.status())).count();
        let os = std::fs::read_to_string("/etc/os-release").unwrap_or_default();
        let field = |name: &str| {
            let line = os.lines().find_map(|l| l.strip_prefix(name)?.strip_prefix('='));
            line.map(|value| value.trim_matches('"').to_owned()).unwrap_or_default()
        };
        let layout = self.cgroups.layout();
        let features = layout.features();
        let v2 = layout.is_v2_only();
        let read = |path: &str| std::fs::read_to_string(path).map(|t| t.trim().to_owned()).unwrap_or_default();
        let mut warnings = Vec::new();
        for (present, what) in [
            (features.memory, "memory limit"),
            (features.swap, "swap limit"),
            (features.cpu_cfs, "cpu cfs quota"),
            (features.pids, "pids limit"),
        ] {
            if !present {
                warnings.push(format!("WARNING: No {what} support"));
            }
        }
        if let Some(problem) = self.networks.closed_for() {
            warnings
                .push(format!("WARNING: published ports are closed, a filter at input cannot be followed: {problem}"));
        }
        Info {
            id: self.engine_id.clone(),
            containers: containers.len(),
            running: count(&|s| matches!(s, Status::Running | Status::Restarting)),
            paused: count(&|s| s == Status::Paused),
            stopped: count(&|s| !s.is_running()),
            images: self.images.list(&image::ListFilter::default()).map_or(0, |list| list.len()),
            root: self.config.root.clone(),
            hostname: hostname(),
            kernel_version: read("/proc/sys/kernel/osrelease"),
            operating_system: field("PRETTY_NAME"),
            os_version: field("VERSION_ID"),
            architecture: std::env::consts::ARCH.into(),
            cpus: self.facts.cpus,
            memory_bytes: host_memory(),
            cgroup_version: if v2 { 2 } else { 1 },
            storage_driver: "overlay2".into(),
            backing_file_system: file_system_of(&self.config.root),
            security_options: ["name=seccomp,profile=builtin"]
                .into_iter()
                .chain(self.config.users.remap.as_ref().map(|_| "name=userns"))
                .chain(["name=cgroupns"])
                .map(Into::into)
                .collect(),
            cdi_devices: cdi::Devices::read(&self.config.cdi_dirs).names().map(ToString::to_string).collect(),
            cdi_dirs: self.config.cdi_dirs.clone(),
            volume_drivers: self.volumes.driver_names(),
            warnings,
            open_files: std::fs::read_dir("/proc/self/fd").map_or(0, Iterator::count),
            tasks: std::fs::read_dir("/proc/self/task").map_or(0, Iterator::count),
            event_listeners: self.events.listeners(),
            started_at: Some(self.opened_at),
            keeper_pid: self.keeper.pids().first().copied().unwrap_or(0),
            labels: self.config.labels.clone(),
            memory_limit: features.memory,
            swap_limit: features.swap,
            cpu_cfs: features.cpu_cfs,
            cpu_shares: features.cpu_shares,
            cpuset: features.cpuset,
            pids_limit: features.pids,
            oom_kill_disable: features.oom_kill_disable,
            ipv4_forwarding: read("/proc/sys/net/ipv4/ip_forward") == "1",
        }
    }

    /// Blocking.
    pub(crate) fn disk_usage(self: &Arc<Self>) -> Result<DiskUsage> {
        let images = self.images.usage()?;
        let options = crate::ListOptions { all: true, size: true, ..Default::default() };
        let mut volumes = self.volumes.views();
        volumes.retain(|volume| volume.driver == "local");
        let used = self.volumes_in_use();
        for volume in &mut volumes {
            volume.size_bytes = Some(tree_bytes(&volume.mountpoint));
            volume.used_by = used.get(&volume.name).map_or(0, Vec::len);
        }
        Ok(DiskUsage { layers_bytes: images.layers_bytes, containers: self.list(&options)?, volumes })
    }
}

pub(crate) fn hostname() -> String {
    std::fs::read_to_string("/proc/sys/kernel/hostname").map(|t| t.trim().to_owned()).unwrap_or_default()
}

pub(crate) fn host_memory() -> u64 {
    let text = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let line = text.lines().find_map(|l| l.strip_prefix("MemTotal:"));
    line.and_then(|l| l.trim().trim_end_matches(" kB").parse::<u64>().ok()).unwrap_or(0) * 1024
}

/// The type of the mount that holds `path`.
fn file_system_of(path: &std::path::Path) -> String {
    let mounts = linux::proc::mountinfo(None).unwrap_or_default();
    let holding = mounts.into_iter().filter(|m| path.starts_with(&m.target));
    holding.max_by_key(|m| m.target.as_os_str().len()).map(|m| m.fs_type).unwrap_or_default()
}

/// Bytes that a tree's files have; what cannot be counted counts as nothing.
pub(crate) fn tree_bytes(path: &std::path::Path) -> u64 {
    image::tree_size(path).unwrap_or_else(|error| {
        tracing::warn!(%error, "cannot count");
        0
    })
}
