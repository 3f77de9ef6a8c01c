//! `HostConfig` and the limits in it.
//!
//! A field that this engine does not know, or cannot honour, is refused when it says anything: a container that
//! silently lacks a limit or a mount is worse than none.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::config::words;
use super::{console_size, none_if_empty, set, unset};
use crate::http::error::{ApiError, ApiResult};

#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(crate) struct HostConfig {
    binds: Option<Vec<String>>,
    #[serde(rename = "ContainerIDFile")]
    container_id_file: Option<String>,
    log_config: Option<LogConfig>,
    network_mode: Option<String>,
    port_bindings: Option<BTreeMap<String, Option<Vec<PortBinding>>>>,
    restart_policy: Option<RestartPolicy>,
    auto_remove: Option<bool>,
    volume_driver: Option<String>,
    volumes_from: Option<Vec<String>>,
    console_size: Option<[u32; 2]>,
    #[serde(skip_serializing_if = "Option::is_none")]
    annotations: Option<BTreeMap<String, String>>,
    #[serde(deserialize_with = "words")]
    cap_add: Option<Vec<String>>,
    #[serde(deserialize_with = "words")]
    cap_drop: Option<Vec<String>>,
    cgroupns_mode: Option<String>,
    dns: Option<Vec<String>>,
    dns_options: Option<Vec<String>>,
    dns_search: Option<Vec<String>>,
    extra_hosts: Option<Vec<String>>,
    group_add: Option<Vec<String>>,
    ipc_mode: Option<String>,
    cgroup: Option<String>,
    links: Option<Vec<String>>,
    oom_score_adj: Option<i32>,
    pid_mode: Option<String>,
    privileged: Option<bool>,
    publish_all_ports: Option<bool>,
    readonly_rootfs: Option<bool>,
    security_opt: Option<Vec<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    storage_opt: Option<BTreeMap<String, String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tmpfs: Option<BTreeMap<String, String>>,
    #[serde(rename = "UTSMode")]
    uts_mode: Option<String>,
    userns_mode: Option<String>,
    shm_size: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    sysctls: Option<BTreeMap<String, String>>,
    runtime: Option<String>,
    isolation: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    mounts: Option<Vec<Mount>>,
    masked_paths: Option<Vec<String>>,
    readonly_paths: Option<Vec<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    init: Option<bool>,
    #[serde(flatten)]
    resources: Resources,
    /// Names that are none of Docker's, or of a version yet to come.
    #[serde(flatten, skip_serializing)]
    unknown: BTreeMap<String, Value>,
}

#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(crate) struct Resources {
    cpu_shares: Option<i64>,
    memory: Option<i64>,
    nano_cpus: Option<i64>,
    cgroup_parent: Option<String>,
    blkio_weight: Option<u16>,
    blkio_weight_device: Option<Vec<WeightDevice>>,
    blkio_device_read_bps: Option<Vec<ThrottleDevice>>,
    blkio_device_write_bps: Option<Vec<ThrottleDevice>>,
    #[serde(rename = "BlkioDeviceReadIOps")]
    blkio_device_read_iops: Option<Vec<ThrottleDevice>>,
    #[serde(rename = "BlkioDeviceWriteIOps")]
    blkio_device_write_iops: Option<Vec<ThrottleDevice>>,
    cpu_period: Option<i64>,
    cpu_quota: Option<i64>,
    cpu_realtime_period: Option<i64>,
    cpu_realtime_runtime: Option<i64>,
    cpuset_cpus: Option<String>,
    cpuset_mems: Option<String>,
    devices: Option<Vec<DeviceMapping>>,
    device_cgroup_rules: Option<Vec<String>>,
    device_requests: Option<Vec<DeviceRequest>>,
    #[serde(skip_serializing)]
    kernel_memory: Option<i64>,
    #[serde(rename = "KernelMemoryTCP", skip_serializing)]
    kernel_memory_tcp: Option<i64>,
    memory_reservation: Option<i64>,
    memory_swap: Option<i64>,
    memory_swappiness: Option<i64>,
    oom_kill_disable: Option<bool>,
    pids_limit: Option<i64>,
    ulimits: Option<Vec<Ulimit>>,
    cpu_count: Option<i64>,
    cpu_percent: Option<i64>,
    #[serde(rename = "IOMaximumIOps")]
    io_maximum_iops: Option<u64>,
    #[serde(rename = "IOMaximumBandwidth")]
    io_maximum_bandwidth: Option<u64>,
}

/// The body of update.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct UpdateBody {
    #[serde(flatten)]
    resources: Resources,
    #[serde(rename = "RestartPolicy")]
    restart_policy: Option<RestartPolicy>,
}

#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct LogConfig {
    r#type: Option<String>,
    config: Option<BTreeMap<String, String>>,
}

#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(crate) struct PortBinding {
    host_ip: Option<String>,
    host_port: Option<String>,
}

#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct RestartPolicy {
    name: Option<String>,
    maximum_retry_count: Option<i64>,
}

#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct WeightDevice {
    path: Option<String>,
    weight: Option<u16>,
}

#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct ThrottleDevice {
    path: Option<String>,
    rate: Option<u64>,
}

#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct DeviceMapping {
    path_on_host: Option<String>,
    path_in_container: Option<String>,
    cgroup_permissions: Option<String>,
}

#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct DeviceRequest {
    driver: Option<String>,
    count: Option<i64>,
    #[serde(rename = "DeviceIDs")]
    device_ids: Option<Vec<String>>,
    capabilities: Option<Vec<Vec<String>>>,
    options: Option<BTreeMap<String, String>>,
}

#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct Ulimit {
    name: Option<String>,
    hard: Option<i64>,
    soft: Option<i64>,
}

#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct Mount {
    r#type: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    source: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    target: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    read_only: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    consistency: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    bind_options: Option<BindOptions>,
    #[serde(skip_serializing_if = "Option::is_none")]
    volume_options: Option<VolumeOptions>,
    #[serde(skip_serializing_if = "Option::is_none")]
    image_options: Option<ImageOptions>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tmpfs_options: Option<TmpfsOptions>,
}

#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct BindOptions {
    #[serde(skip_serializing_if = "Option::is_none")]
    propagation: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    non_recursive: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    create_mountpoint: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    read_only_non_recursive: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    read_only_force_recursive: Option<bool>,
}

#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct VolumeOptions {
    #[serde(skip_serializing_if = "Option::is_none")]
    no_copy: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    labels: Option<BTreeMap<String, String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    subpath: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    driver_config: Option<DriverConfig>,
}

#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct DriverConfig {
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    options: Option<BTreeMap<String, String>>,
}

#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct ImageOptions {
    #[serde(skip_serializing_if = "Option::is_none")]
    subpath: Option<String>,
}

#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct TmpfsOptions {
    #[serde(skip_serializing_if = "Option::is_none")]
    size_bytes: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    mode: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    options: Option<Vec<Vec<String>>>,
}

/// Whether a JSON value says nothing: Go's zero values.
pub(super) fn says_nothing(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => true,
        Value::Bool(true) => false,
        Value::Number(number) => number.as_f64() == Some(0.0),
        Value::String(text) => text.is_empty(),
        Value::Array(list) => list.iter().all(says_nothing),
        Value::Object(map) => map.values().all(says_nothing),
    }
}

impl HostConfig {
    pub(crate) fn into_model(self) -> ApiResult<engine::HostConfig> {
        if let Some((name, _)) = self.unknown.iter().find(|(_, value)| !says_nothing(value)) {
            return Err(ApiError::invalid(format!("HostConfig.{name} is not known to this engine")));
        }
        if self.isolation.as_deref().is_some_and(|isolation| !matches!(isolation, "" | "default")) {
            return Err(ApiError::invalid(format!(
                "Invalid isolation: {:?} - linux only supports 'default'",
                unset(self.isolation)
            )));
        }
        let log = self.log_config.unwrap_or_default();
        Ok(engine::HostConfig {
            binds: unset(self.binds),
            mounts: unset(self.mounts).into_iter().map(Mount::into_model).collect::<ApiResult<_>>()?,
            tmpfs: unset(self.tmpfs),
            volumes_from: unset(self.volumes_from),
            volume_driver: unset(self.volume_driver),
            container_id_file: unset(self.container_id_file),
            log: engine::LogConfig { driver: unset(log.r#type), options: unset(log.config) },
            network_mode: unset(self.network_mode),
            port_bindings: unset(self.port_bindings)
                .into_iter()
                .map(|(port, bindings)| (port, unset(bindings).into_iter().map(PortBinding::into_model).collect()))
                .collect(),
            publish_all_ports: unset(self.publish_all_ports),
            restart_policy: self.restart_policy.unwrap_or_default().into_model()?,
            auto_remove: unset(self.auto_remove),
            cap_add: unset(self.cap_add),
            cap_drop: unset(self.cap_drop),
            cgroupns_mode: unset(self.cgroupns_mode),
            dns: unset(self.dns),
            dns_options: unset(self.dns_options),
            dns_search: unset(self.dns_search),
            extra_hosts: unset(self.extra_hosts),
            group_add: unset(self.group_add),
            ipc_mode: unset(self.ipc_mode),
            cgroup: unset(self.cgroup),
            links: unset(self.links),
            oom_score_adj: unset(self.oom_score_adj),
            pid_mode: unset(self.pid_mode),
            privileged: unset(self.privileged),
            readonly_rootfs: unset(self.readonly_rootfs),
            security_opt: unset(self.security_opt),
            storage_opt: unset(self.storage_opt),
            uts_mode: unset(self.uts_mode),
            userns_mode: unset(self.userns_mode),
            shm_size_bytes: unset(self.shm_size),
            sysctls: unset(self.sysctls),
            runtime: unset(self.runtime),
            isolation: unset(self.isolation),
            console_size: console_size(self.console_size)?,
            annotations: unset(self.annotations),
            masked_paths: self.masked_paths,
            readonly_paths: self.readonly_paths,
            init: self.init,
            resources: self.resources.into_model()?,
        })
    }

    pub(crate) fn from_model(host: engine::HostConfig) -> Self {
        let size = host.console_size.map_or([0, 0], |size| [size.rows.into(), size.cols.into()]);
        let bindings = |(port, bindings): (String, Vec<engine::PortBinding>)| {
            (port, Some(bindings.into_iter().map(PortBinding::from_model).collect()))
        };
        Self {
            binds: none_if_empty(host.binds),
            container_id_file: set(host.container_id_file),
            log_config: set(LogConfig { r#type: set(host.log.driver), config: set(host.log.options) }),
            network_mode: set(host.network_mode),
            port_bindings: set(host.port_bindings.into_iter().map(bindings).collect()),
            restart_policy: set(RestartPolicy::from_model(host.restart_policy)),
            auto_remove: set(host.auto_remove),
            volume_driver: set(host.volume_driver),
            volumes_from: none_if_empty(host.volumes_from),
            console_size: set(size),
            annotations: none_if_empty(host.annotations),
            cap_add: none_if_empty(host.cap_add),
            cap_drop: none_if_empty(host.cap_drop),
            cgroupns_mode: set(host.cgroupns_mode),
            dns: set(host.dns),
            dns_options: set(host.dns_options),
            dns_search: set(host.dns_search),
            extra_hosts: none_if_empty(host.extra_hosts),
            group_add: none_if_empty(host.group_add),
            ipc_mode: set(host.ipc_mode),
            cgroup: set(host.cgroup),
            links: none_if_empty(host.links),
            oom_score_adj: set(host.oom_score_adj),
            pid_mode: set(host.pid_mode),
            privileged: set(host.privileged),
            publish_all_ports: set(host.publish_all_ports),
            readonly_rootfs: set(host.readonly_rootfs),
            security_opt: none_if_empty(host.security_opt),
            storage_opt: none_if_empty(host.storage_opt),
            tmpfs: none_if_empty(host.tmpfs),
            uts_mode: set(host.uts_mode),
            userns_mode: set(host.userns_mode),
            shm_size: set(host.shm_size_bytes),
            sysctls: none_if_empty(host.sysctls),
            runtime: set(host.runtime),
            isolation: set(host.isolation),
            mounts: none_if_empty(host.mounts.into_iter().map(Mount::from_model).collect::<Vec<_>>()),
            masked_paths: host.masked_paths,
            readonly_paths: host.readonly_paths,
            init: host.init,
            resources: Resources::from_model(host.resources),
            unknown: BTreeMap::new(),
        }
    }
}

impl Ulimit {
    fn into_model(self) -> engine::Ulimit {
        engine::Ulimit { name: unset(self.name), soft: unset(self.soft), hard: unset(self.hard) }
    }
}

/// Limits as a build's query has them: a list in JSON.
pub(crate) fn parse_ulimits(text: &str) -> ApiResult<Vec<engine::Ulimit>> {
    let list: Option<Vec<Ulimit>> = serde_json::from_str(text)
        .map_err(|error| ApiError::invalid(format!("error reading ulimit settings: {error}")))?;
    Ok(unset(list).into_iter().map(Ulimit::into_model).collect())
}

impl Resources {
    pub(crate) fn into_model(self) -> ApiResult<engine::Resources> {
        for (name, value) in [("CpuCount", self.cpu_count), ("CpuPercent", self.cpu_percent)] {
            if unset(value) != 0 {
                return Err(ApiError::invalid(format!("{name} is a limit of Windows containers")));
            }
        }
        for (name, value) in
            [("IOMaximumIOps", self.io_maximum_iops), ("IOMaximumBandwidth", self.io_maximum_bandwidth)]
        {
            if unset(value) != 0 {
                return Err(ApiError::invalid(format!("{name} is a limit of Windows containers")));
            }
        }
        for (name, value) in [("KernelMemory", self.kernel_memory), ("KernelMemoryTCP", self.kernel_memory_tcp)] {
            if unset(value) > 0 {
                return Err(ApiError::invalid(format!("{name} is no longer a limit of the kernel")));
            }
        }
        let throttle = |list: Option<Vec<ThrottleDevice>>| -> Vec<_> {
            let device = |d: ThrottleDevice| engine::ThrottleDevice { path: unset(d.path), rate: unset(d.rate) };
            unset(list).into_iter().map(device).collect()
        };
        let weight = |d: WeightDevice| engine::WeightDevice { path: unset(d.path), weight: unset(d.weight) };
        Ok(engine::Resources {
            cpu_shares: unset(self.cpu_shares),
            memory_bytes: unset(self.memory),
            nano_cpus: unset(self.nano_cpus),
            cgroup_parent: unset(self.cgroup_parent),
            blkio_weight: unset(self.blkio_weight),
            blkio_weight_device: unset(self.blkio_weight_device).into_iter().map(weight).collect(),
            blkio_device_read_bps: throttle(self.blkio_device_read_bps),
            blkio_device_write_bps: throttle(self.blkio_device_write_bps),
            blkio_device_read_iops: throttle(self.blkio_device_read_iops),
            blkio_device_write_iops: throttle(self.blkio_device_write_iops),
            cpu_period_micros: unset(self.cpu_period),
            cpu_quota_micros: unset(self.cpu_quota),
            cpu_realtime_period_micros: unset(self.cpu_realtime_period),
            cpu_realtime_runtime_micros: unset(self.cpu_realtime_runtime),
            cpuset_cpus: unset(self.cpuset_cpus),
            cpuset_mems: unset(self.cpuset_mems),
            devices: unset(self.devices)
                .into_iter()
                .map(|d| engine::DeviceMapping {
                    path_on_host: unset(d.path_on_host),
                    path_in_container: unset(d.path_in_container),
                    cgroup_permissions: unset(d.cgroup_permissions),
                })
                .collect(),
            device_cgroup_rules: unset(self.device_cgroup_rules),
            device_requests: unset(self.device_requests)
                .into_iter()
                .map(|r| engine::DeviceRequest {
                    driver: unset(r.driver),
                    count: unset(r.count),
                    device_ids: unset(r.device_ids),
                    capabilities: unset(r.capabilities),
                    options: unset(r.options),
                })
                .collect(),
            memory_reservation_bytes: unset(self.memory_reservation),
            memory_swap_bytes: unset(self.memory_swap),
            memory_swappiness: self.memory_swappiness,
            oom_kill_disable: self.oom_kill_disable,
            pids_limit: self.pids_limit,
            ulimits: unset(self.ulimits).into_iter().map(Ulimit::into_model).collect(),
        })
    }

    fn from_model(resources: engine::Resources) -> Self {
        let throttle = |list: Vec<engine::ThrottleDevice>| {
            set(list.into_iter().map(|d| ThrottleDevice { path: set(d.path), rate: set(d.rate) }).collect())
        };
        let weight = |d: engine::WeightDevice| WeightDevice { path: set(d.path), weight: set(d.weight) };
        let devices = resources.devices.into_iter().map(|d| DeviceMapping {
            path_on_host: set(d.path_on_host),
            path_in_container: set(d.path_in_container),
            cgroup_permissions: set(d.cgroup_permissions),
        });
        let requests = resources.device_requests.into_iter().map(|r| DeviceRequest {
            driver: set(r.driver),
            count: set(r.count),
            device_ids: none_if_empty(r.device_ids),
            capabilities: set(r.capabilities),
            options: set(r.options),
        });
        let ulimits =
            resources.ulimits.into_iter().map(|u| Ulimit { name: set(u.name), hard: set(u.hard), soft: set(u.soft) });
        Self {
            cpu_shares: set(resources.cpu_shares),
            memory: set(resources.memory_bytes),
            nano_cpus: set(resources.nano_cpus),
            cgroup_parent: set(resources.cgroup_parent),
            blkio_weight: set(resources.blkio_weight),
            blkio_weight_device: set(resources.blkio_weight_device.into_iter().map(weight).collect()),
            blkio_device_read_bps: throttle(resources.blkio_device_read_bps),
            blkio_device_write_bps: throttle(resources.blkio_device_write_bps),
            blkio_device_read_iops: throttle(resources.blkio_device_read_iops),
            blkio_device_write_iops: throttle(resources.blkio_device_write_iops),
            cpu_period: set(resources.cpu_period_micros),
            cpu_quota: set(resources.cpu_quota_micros),
            cpu_realtime_period: set(resources.cpu_realtime_period_micros),
            cpu_realtime_runtime: set(resources.cpu_realtime_runtime_micros),
            cpuset_cpus: set(resources.cpuset_cpus),
            cpuset_mems: set(resources.cpuset_mems),
            devices: set(devices.collect()),
            device_cgroup_rules: none_if_empty(resources.device_cgroup_rules),
            device_requests: none_if_empty(requests.collect::<Vec<_>>()),
            kernel_memory: None,
            kernel_memory_tcp: None,
            memory_reservation: set(resources.memory_reservation_bytes),
            memory_swap: set(resources.memory_swap_bytes),
            // What clients send for "not said".
            memory_swappiness: resources.memory_swappiness.filter(|value| *value != -1),
            oom_kill_disable: resources.oom_kill_disable,
            pids_limit: resources.pids_limit.filter(|limit| *limit > 0),
            ulimits: set(ulimits.collect()),
            cpu_count: set(0),
            cpu_percent: set(0),
            io_maximum_iops: set(0),
            io_maximum_bandwidth: set(0),
        }
    }
}

impl UpdateBody {
    pub(crate) fn into_model(self) -> ApiResult<engine::UpdateRequest> {
        // An empty name is what the client sends when the policy is not to change.
        let policy = self.restart_policy.filter(|policy| policy.name.as_ref().is_some_and(|name| !name.is_empty()));
        Ok(engine::UpdateRequest {
            resources: self.resources.into_model()?,
            restart_policy: policy.map(RestartPolicy::into_model).transpose()?,
        })
    }
}

impl PortBinding {
    fn into_model(self) -> engine::PortBinding {
        engine::PortBinding { host_ip: unset(self.host_ip), host_port: unset(self.host_port) }
    }

    pub(crate) fn from_model(binding: engine::PortBinding) -> Self {
        Self { host_ip: set(binding.host_ip), host_port: set(binding.host_port) }
    }
}

impl RestartPolicy {
    fn into_model(self) -> ApiResult<engine::RestartPolicy> {
        let mode = match self.name.as_deref().unwrap_or_default() {
            "" | "no" => engine::RestartMode::No,
            "always" => engine::RestartMode::Always,
            "on-failure" => engine::RestartMode::OnFailure,
            "unless-stopped" => engine::RestartMode::UnlessStopped,
            other => {
                let text = "invalid restart policy: unknown policy '{other}'; use one of 'no', 'always', 'on-failure', or 'unless-stopped'";
                return Err(ApiError::invalid(text.replace("{other}", other)));
            }
        };
        let retries = unset(self.maximum_retry_count);
        if retries < 0 {
            return Err(ApiError::invalid("invalid restart policy: maximum retry count cannot be negative"));
        }
        if retries != 0 && mode != engine::RestartMode::OnFailure {
            return Err(ApiError::invalid(
                "invalid restart policy: maximum retry count can only be used with 'on-failure'",
            ));
        }
        let retries_max = u32::try_from(retries).map_err(|_| {
            ApiError::invalid(format!("invalid restart policy: maximum retry count {retries} is too large"))
        })?;
        Ok(engine::RestartPolicy { mode, retries_max })
    }

    fn from_model(policy: engine::RestartPolicy) -> Self {
        let name = match policy.mode {
            engine::RestartMode::No => "no",
            engine::RestartMode::Always => "always",
            engine::RestartMode::OnFailure => "on-failure",
            engine::RestartMode::UnlessStopped => "unless-stopped",
        };
        Self { name: set(name.to_owned()), maximum_retry_count: set(policy.retries_max.into()) }
    }
}

pub(crate) const fn mount_type(kind: engine::MountKind) -> &'static str {
    match kind {
        engine::MountKind::Bind => "bind",
        engine::MountKind::Volume => "volume",
        engine::MountKind::Tmpfs => "tmpfs",
        engine::MountKind::Image => "image",
    }
}

impl Mount {
    fn into_model(self) -> ApiResult<engine::MountRequest> {
        let kind = match self.r#type.as_deref().unwrap_or_default() {
            "bind" => engine::MountKind::Bind,
            "volume" => engine::MountKind::Volume,
            "tmpfs" => engine::MountKind::Tmpfs,
            "image" => engine::MountKind::Image,
            other => {
                return Err(ApiError::invalid(format!("invalid mount config for type {other:?}: mount type unknown")));
            }
        };
        Ok(engine::MountRequest {
            kind,
            source: unset(self.source),
            target: unset(self.target),
            read_only: unset(self.read_only),
            consistency: unset(self.consistency),
            bind: self.bind_options.map(|bind| engine::BindOptions {
                propagation: unset(bind.propagation),
                non_recursive: unset(bind.non_recursive),
                create_mountpoint: unset(bind.create_mountpoint),
                read_only_non_recursive: unset(bind.read_only_non_recursive),
                read_only_force_recursive: unset(bind.read_only_force_recursive),
            }),
            volume: self.volume_options.map(|volume| {
                let driver = unset(volume.driver_config);
                engine::VolumeOptions {
                    no_copy: unset(volume.no_copy),
                    labels: unset(volume.labels),
                    subpath: unset(volume.subpath),
                    driver: unset(driver.name),
                    driver_options: unset(driver.options),
                }
            }),
            tmpfs: self.tmpfs_options.map(|tmpfs| engine::TmpfsOptions {
                size_bytes: unset(tmpfs.size_bytes),
                mode: unset(tmpfs.mode),
                options: unset(tmpfs.options),
            }),
            image_subpath: self.image_options.and_then(|image| image.subpath).filter(|path| !path.is_empty()),
        })
    }

    fn from_model(mount: engine::MountRequest) -> Self {
        let on = |flag: bool| Some(flag).filter(|flag| *flag);
        Self {
            r#type: set(mount_type(mount.kind).to_owned()),
            source: none_if_empty(mount.source),
            target: none_if_empty(mount.target),
            read_only: on(mount.read_only),
            consistency: none_if_empty(mount.consistency),
            bind_options: mount.bind.map(|bind| BindOptions {
                propagation: none_if_empty(bind.propagation),
                non_recursive: on(bind.non_recursive),
                create_mountpoint: on(bind.create_mountpoint),
                read_only_non_recursive: on(bind.read_only_non_recursive),
                read_only_force_recursive: on(bind.read_only_force_recursive),
            }),
            volume_options: mount.volume.map(|volume| {
                let driver =
                    DriverConfig { name: none_if_empty(volume.driver), options: none_if_empty(volume.driver_options) };
                VolumeOptions {
                    no_copy: on(volume.no_copy),
                    labels: none_if_empty(volume.labels),
                    subpath: none_if_empty(volume.subpath),
                    driver_config: (driver.name.is_some() || driver.options.is_some()).then_some(driver),
                }
            }),
            image_options: mount.image_subpath.map(|path| ImageOptions { subpath: set(path) }),
            tmpfs_options: mount.tmpfs.map(|tmpfs| TmpfsOptions {
                size_bytes: Some(tmpfs.size_bytes).filter(|size| *size != 0),
                mode: Some(tmpfs.mode).filter(|mode| *mode != 0),
                options: none_if_empty(tmpfs.options),
            }),
        }
    }
}
