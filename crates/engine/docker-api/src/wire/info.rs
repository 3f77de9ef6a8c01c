//! The engine about itself: `version`, `info`, `system df`.

use serde_json::{Value, json};

use super::{container, image, none_if_empty, time};
use crate::http::version::{ApiVersion, NEWEST, OLDEST};

/// This program's version.
pub(crate) const ENGINE_VERSION: &str = env!("CARGO_PKG_VERSION");

/// The machine's architecture in Go's words.
const fn go_arch() -> &'static str {
    if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" }
}

/// One finding of the doctor, in the manner of Docker's JSON.
pub fn finding(finding: &engine::Finding) -> Value {
    json!({
        "Area": finding.area,
        "Place": finding.place,
        "Problem": finding.problem,
        "Remedy": finding.remedy,
    })
}

pub(crate) fn version(info: &engine::Info) -> Value {
    let details = json!({
        "ApiVersion": NEWEST.to_string(),
        "Arch": go_arch(),
        "BuildTime": "",
        "Experimental": "false",
        "GitCommit": "",
        "GoVersion": "",
        "KernelVersion": info.kernel_version,
        "MinAPIVersion": OLDEST.to_string(),
        "Os": "linux",
    });
    json!({
        "Platform": { "Name": "Knarr" },
        "Components": [{ "Name": "Engine", "Version": ENGINE_VERSION, "Details": details }],
        "Version": ENGINE_VERSION,
        "ApiVersion": NEWEST.to_string(),
        "MinAPIVersion": OLDEST.to_string(),
        "GitCommit": "",
        "GoVersion": "",
        "Os": "linux",
        "Arch": go_arch(),
        "KernelVersion": info.kernel_version,
        "BuildTime": "",
    })
}

pub(crate) fn info(info: engine::Info, now: jiff::Timestamp) -> Value {
    json!({
        "ID": info.id,
        "Containers": info.containers,
        "ContainersRunning": info.running,
        "ContainersPaused": info.paused,
        "ContainersStopped": info.stopped,
        "Images": info.images,
        "Driver": info.storage_driver,
        "DriverStatus": [["Backing Filesystem", info.backing_file_system]],
        "Plugins": {
            "Volume": info.volume_drivers,
            "Network": ["bridge", "host", "null"],
            "Authorization": null,
            "Log": engine::LOG_DRIVERS,
        },
        "MemoryLimit": info.memory_limit,
        "SwapLimit": info.swap_limit,
        "CpuCfsPeriod": info.cpu_cfs,
        "CpuCfsQuota": info.cpu_cfs,
        "CPUShares": info.cpu_shares,
        "CPUSet": info.cpuset,
        "PidsLimit": info.pids_limit,
        "OomKillDisable": info.oom_kill_disable,
        "IPv4Forwarding": info.ipv4_forwarding,
        "Debug": false,
        "NFd": info.open_files,
        "NGoroutines": info.tasks,
        "NEventsListener": info.event_listeners,
        "SystemTime": time::nano(now),
        "LoggingDriver": "json-file",
        "CgroupDriver": "cgroupfs",
        "CgroupVersion": info.cgroup_version.to_string(),
        "KernelVersion": info.kernel_version,
        "OperatingSystem": info.operating_system,
        "OSVersion": info.os_version,
        "OSType": "linux",
        "Architecture": info.architecture,
        "IndexServerAddress": "",
        "RegistryConfig": {
            "IndexConfigs": {
                "docker.io": { "Mirrors": [], "Name": "docker.io", "Official": true, "Secure": true },
            },
            "InsecureRegistryCIDRs": [],
            "Mirrors": null,
        },
        "NCPU": info.cpus,
        "MemTotal": info.memory_bytes,
        "GenericResources": null,
        "DockerRootDir": info.root.to_string_lossy(),
        "HttpProxy": "",
        "HttpsProxy": "",
        "NoProxy": "",
        "Name": info.hostname,
        "Labels": info.labels,
        "ExperimentalBuild": false,
        "ServerVersion": ENGINE_VERSION,
        "Runtimes": { "knarr": { "path": "knarr" } },
        "DefaultRuntime": "knarr",
        "Swarm": {
            "NodeID": "",
            "NodeAddr": "",
            "LocalNodeState": "inactive",
            "ControlAvailable": false,
            "Error": "",
            "RemoteManagers": null,
        },
        "LiveRestoreEnabled": true,
        "Isolation": "",
        "InitBinary": "knarr",
        "ContainerdCommit": { "ID": "" },
        "RuncCommit": { "ID": ENGINE_VERSION },
        "InitCommit": { "ID": ENGINE_VERSION },
        "SecurityOptions": info.security_options,
        "CDISpecDirs": info.cdi_dirs,
        "DiscoveredDevices": info.cdi_devices.iter().map(|id| json!({"Source": "cdi", "ID": id})).collect::<Vec<_>>(),
        "FirewallBackend": { "Driver": "nftables" },
        "Warnings": none_if_empty(info.warnings),
    })
}

/// A volume, with its size if that was measured.
pub(crate) fn volume(volume: engine::VolumeView) -> Value {
    let mut value = json!({
        "CreatedAt": time::nano(volume.created_at),
        "Driver": volume.driver,
        "Labels": if volume.labels.is_empty() { Value::Null } else { json!(volume.labels) },
        "Mountpoint": volume.mountpoint.to_string_lossy(),
        "Name": volume.name,
        "Options": if volume.options.is_empty() { Value::Null } else { json!(volume.options) },
        "Scope": volume.scope,
    });
    if let Some(status) = volume.status {
        value["Status"] = json!(status);
    }
    if let Some(size) = volume.size_bytes {
        value["UsageData"] = json!({ "RefCount": volume.used_by, "Size": size });
    }
    value
}

/// One record of the build cache.
fn build_record(entry: build::CacheEntry) -> Value {
    json!({
        "ID": entry.key,
        "Parents": entry.parent.map(|parent| vec![parent.hex()]),
        "Type": entry.kind.name(),
        "Description": entry.record.description,
        "InUse": entry.in_use,
        "Shared": entry.shared,
        "Size": entry.record.bytes,
        "CreatedAt": time::nano(entry.record.created_at),
        "LastUsedAt": time::nano(entry.record.last_used_at),
        "UsageCount": entry.record.uses,
    })
}

/// Which parts of `system df` were asked for.
#[derive(Debug, Clone, Copy)]
pub(crate) struct UsageParts {
    pub(crate) images: bool,
    pub(crate) containers: bool,
    pub(crate) volumes: bool,
}

pub(crate) fn disk_usage(
    usage: engine::DiskUsage,
    images: Vec<engine::ImageSummary>,
    cache: Option<Vec<build::CacheEntry>>,
    parts: UsageParts,
    version: ApiVersion,
) -> Value {
    let images =
        images.into_iter().map(|summary| image::Summary::from_model(summary, version, true)).collect::<Vec<_>>();
    let containers = usage.containers.into_iter().map(container::Summary::from_model).collect::<Vec<_>>();
    let volumes = usage.volumes.into_iter().map(volume).collect::<Vec<_>>();
    let shown = |wanted: bool, value: Value| if wanted { value } else { Value::Null };
    json!({
        "LayersSize": if parts.images { usage.layers_bytes } else { 0 },
        "Images": shown(parts.images, json!(images)),
        "Containers": shown(parts.containers, json!(containers)),
        "Volumes": shown(parts.volumes, json!(volumes)),
        "BuildCache": cache.map(|entries| entries.into_iter().map(build_record).collect::<Vec<_>>()),
    })
}
