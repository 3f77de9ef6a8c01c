//! Containers as `inspect`, `ps`, `top`, `diff` and `cp` see them.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::config::Config;
use super::host::{HostConfig, PortBinding, mount_type};
use super::network::EndpointSettings;
use super::{none_if_empty, time};

#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct Inspect {
    id: String,
    created: String,
    path: String,
    args: Vec<String>,
    state: State,
    image: String,
    resolv_conf_path: String,
    hostname_path: String,
    hosts_path: String,
    log_path: String,
    name: String,
    restart_count: u32,
    driver: &'static str,
    platform: String,
    mount_label: &'static str,
    process_label: &'static str,
    app_armor_profile: &'static str,
    #[serde(rename = "ExecIDs")]
    exec_ids: Option<Vec<String>>,
    host_config: HostConfig,
    graph_driver: GraphDriver,
    #[serde(skip_serializing_if = "Option::is_none")]
    size_rw: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    size_root_fs: Option<u64>,
    mounts: Vec<MountPoint>,
    config: Config,
    network_settings: NetworkSettings,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
struct State {
    status: &'static str,
    running: bool,
    paused: bool,
    restarting: bool,
    #[serde(rename = "OOMKilled")]
    oom_killed: bool,
    dead: bool,
    pid: i32,
    exit_code: i32,
    error: String,
    started_at: String,
    finished_at: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    health: Option<Health>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
struct Health {
    status: &'static str,
    failing_streak: u32,
    log: Vec<HealthProbe>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
struct HealthProbe {
    start: String,
    end: String,
    exit_code: i32,
    output: String,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct GraphDriver {
    data: BTreeMap<&'static str, String>,
    name: &'static str,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
struct MountPoint {
    r#type: &'static str,
    #[serde(skip_serializing_if = "String::is_empty")]
    name: String,
    source: String,
    destination: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    driver: String,
    mode: String,
    #[serde(rename = "RW")]
    rw: bool,
    propagation: String,
}

/// The fields at the top describe the default bridge; clients up to 1.51 read them.
#[derive(Debug, Default, Serialize)]
#[serde(rename_all = "PascalCase")]
struct NetworkSettings {
    bridge: String,
    #[serde(rename = "SandboxID")]
    sandbox_id: String,
    sandbox_key: String,
    ports: BTreeMap<String, Option<Vec<PortBinding>>>,
    hairpin_mode: bool,
    #[serde(rename = "LinkLocalIPv6Address")]
    link_local_ipv6_address: String,
    #[serde(rename = "LinkLocalIPv6PrefixLen")]
    link_local_ipv6_prefix_len: u8,
    #[serde(rename = "SecondaryIPAddresses")]
    secondary_ip_addresses: Option<()>,
    #[serde(rename = "SecondaryIPv6Addresses")]
    secondary_ipv6_addresses: Option<()>,
    #[serde(rename = "EndpointID")]
    endpoint_id: String,
    gateway: String,
    #[serde(rename = "GlobalIPv6Address")]
    global_ipv6_address: String,
    #[serde(rename = "GlobalIPv6PrefixLen")]
    global_ipv6_prefix_len: u8,
    #[serde(rename = "IPAddress")]
    ip_address: String,
    #[serde(rename = "IPPrefixLen")]
    ip_prefix_len: u8,
    #[serde(rename = "IPv6Gateway")]
    ipv6_gateway: String,
    mac_address: String,
    networks: BTreeMap<String, EndpointSettings>,
}

fn text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

impl Inspect {
    pub(crate) fn from_model(view: engine::ContainerView) -> Self {
        let bindings = |(port, bindings): (String, Vec<engine::PortBinding>)| {
            (port, none_if_empty(bindings.into_iter().map(PortBinding::from_model).collect::<Vec<_>>()))
        };
        let mut network = NetworkSettings {
            sandbox_key: view.sandbox_key,
            ports: view.ports.into_iter().map(bindings).collect(),
            ..NetworkSettings::default()
        };
        if let Some(bridge) = view.networks.get("bridge").cloned() {
            network.endpoint_id = bridge.endpoint_id;
            network.gateway = bridge.gateway;
            network.ip_address = bridge.ip_address;
            network.ip_prefix_len = bridge.ip_prefix_len;
            network.ipv6_gateway = bridge.ipv6_gateway;
            network.global_ipv6_address = bridge.global_ipv6_address;
            network.global_ipv6_prefix_len = bridge.global_ipv6_prefix_len;
            network.mac_address = bridge.mac_address;
        }
        network.networks = endpoints(view.networks);
        Self {
            graph_driver: GraphDriver::from_model(
                view.driver,
                &view.graph.lowers,
                Some((&view.graph.upper, &view.graph.work)),
            ),
            id: view.id.to_string(),
            created: time::nano(view.created_at),
            path: view.path,
            args: view.args,
            state: State::from_model(view.state),
            image: view.image_id.to_string(),
            resolv_conf_path: text(&view.paths.resolv_conf),
            hostname_path: text(&view.paths.hostname),
            hosts_path: text(&view.paths.hosts),
            log_path: text(&view.paths.log),
            name: format!("/{}", view.name),
            restart_count: view.restart_count,
            driver: view.driver,
            platform: view.platform,
            mount_label: "",
            process_label: "",
            app_armor_profile: "",
            exec_ids: none_if_empty(view.exec_ids.iter().map(ToString::to_string).collect::<Vec<_>>()),
            host_config: HostConfig::from_model(view.host),
            size_rw: view.size.map(|size| size.rw_bytes),
            size_root_fs: view.size.map(|size| size.root_fs_bytes),
            mounts: view.mounts.into_iter().map(MountPoint::from_model).collect(),
            config: Config::from_model(view.config),
            network_settings: network,
        }
    }
}

fn endpoints(networks: BTreeMap<String, engine::EndpointSettings>) -> BTreeMap<String, EndpointSettings> {
    networks.into_iter().map(|(name, endpoint)| (name, EndpointSettings::from_model(endpoint))).collect()
}

impl State {
    fn from_model(state: engine::ContainerState) -> Self {
        use engine::Status;
        Self {
            status: state.status.as_str(),
            running: state.status.is_running(),
            paused: state.status == Status::Paused,
            restarting: state.status == Status::Restarting,
            oom_killed: state.oom_killed,
            dead: state.status == Status::Dead,
            pid: state.pid,
            exit_code: state.exit_code,
            error: state.error,
            started_at: time::nano_or_never(state.started_at),
            finished_at: time::nano_or_never(state.finished_at),
            health: state.health.map(|health| Health {
                status: health.status.as_str(),
                failing_streak: health.failing_streak,
                log: health
                    .log
                    .into_iter()
                    .map(|probe| HealthProbe {
                        start: time::nano(probe.started_at),
                        end: time::nano(probe.finished_at),
                        exit_code: probe.exit_code,
                        output: probe.output,
                    })
                    .collect(),
            }),
        }
    }
}

impl GraphDriver {
    /// An image has no writable layer: its topmost layer stands as the upper one, as Docker shows it.
    pub(crate) fn from_model(name: &'static str, lowers: &[PathBuf], writable: Option<(&Path, &Path)>) -> Self {
        let joined = |paths: &[PathBuf]| paths.iter().map(|path| text(path)).collect::<Vec<_>>().join(":");
        let mut data = BTreeMap::new();
        match writable {
            Some((upper, work)) => {
                data.insert("LowerDir", joined(lowers));
                data.insert("UpperDir", text(upper));
                data.insert("WorkDir", text(work));
                // The merged view exists inside the container's mount namespace only.
                data.insert("MergedDir", String::new());
            }
            None => {
                if let Some((top, rest)) = lowers.split_first() {
                    data.insert("UpperDir", text(top));
                    if !rest.is_empty() {
                        data.insert("LowerDir", joined(rest));
                    }
                    // Nothing is mounted for an image.
                    data.insert("WorkDir", String::new());
                    data.insert("MergedDir", String::new());
                }
            }
        }
        Self { data, name }
    }
}

impl MountPoint {
    fn from_model(mount: engine::MountPoint) -> Self {
        Self {
            r#type: mount_type(mount.kind),
            name: mount.name,
            source: mount.source,
            destination: mount.destination,
            driver: mount.driver,
            mode: mount.mode,
            rw: mount.rw,
            propagation: mount.propagation,
        }
    }
}

/// One line of `ps`.
#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct Summary {
    id: String,
    names: Vec<String>,
    image: String,
    #[serde(rename = "ImageID")]
    image_id: String,
    command: String,
    created: i64,
    ports: Vec<Port>,
    #[serde(skip_serializing_if = "Option::is_none")]
    size_rw: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    size_root_fs: Option<u64>,
    labels: BTreeMap<String, String>,
    state: &'static str,
    status: String,
    host_config: SummaryHost,
    network_settings: SummaryNetworks,
    mounts: Vec<MountPoint>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
struct SummaryHost {
    network_mode: String,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    annotations: BTreeMap<String, String>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
struct SummaryNetworks {
    networks: BTreeMap<String, EndpointSettings>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
struct Port {
    #[serde(rename = "IP", skip_serializing_if = "String::is_empty")]
    ip: String,
    private_port: u16,
    #[serde(skip_serializing_if = "Option::is_none")]
    public_port: Option<u16>,
    r#type: String,
}

impl Summary {
    pub(crate) fn from_model(summary: engine::ContainerSummary) -> Self {
        let port = |port: engine::PortView| Port {
            ip: port.ip,
            private_port: port.private,
            public_port: Some(port.public).filter(|public| *public != 0),
            r#type: port.protocol,
        };
        Self {
            id: summary.id.to_string(),
            names: summary.names.iter().map(|name| format!("/{name}")).collect(),
            image: summary.image,
            image_id: summary.image_id.to_string(),
            command: summary.command,
            created: summary.created_at.as_second(),
            ports: summary.ports.into_iter().map(port).collect(),
            size_rw: summary.size.map(|size| size.rw_bytes),
            size_root_fs: summary.size.map(|size| size.root_fs_bytes),
            labels: summary.labels,
            state: summary.state.status.as_str(),
            status: summary.status,
            host_config: SummaryHost { network_mode: summary.network_mode, annotations: summary.annotations },
            network_settings: SummaryNetworks { networks: endpoints(summary.networks) },
            mounts: summary.mounts.into_iter().map(MountPoint::from_model).collect(),
        }
    }
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct Top {
    titles: Vec<String>,
    processes: Vec<Vec<String>>,
}

impl Top {
    pub(crate) fn from_model(table: engine::TopTable) -> Self {
        Self { titles: table.titles, processes: table.processes }
    }
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct Change {
    path: String,
    kind: u8,
}

impl Change {
    pub(crate) fn from_model(change: engine::Change) -> Self {
        let kind = match change.kind {
            engine::ChangeKind::Modified => 0,
            engine::ChangeKind::Added => 1,
            engine::ChangeKind::Deleted => 2,
        };
        Self { path: change.path, kind }
    }
}

/// The JSON inside `X-Docker-Container-Path-Stat`.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct PathStat {
    name: String,
    size: u64,
    mode: u32,
    mtime: String,
    link_target: String,
}

impl PathStat {
    pub(crate) fn from_model(stat: engine::PathStat) -> Self {
        Self {
            name: stat.name,
            size: stat.size_bytes,
            mode: go_file_mode(stat.mode),
            mtime: time::nano(stat.mtime),
            link_target: stat.link_target,
        }
    }
}

/// `st_mode` as Go's `os.FileMode`: the permission bits are the kernel's, the type bits are Go's own.
fn go_file_mode(mode: u32) -> u32 {
    let file_type = match mode & 0o170_000 {
        0o040_000 => 1 << 31,
        0o120_000 => 1 << 27,
        0o060_000 => 1 << 26,
        0o020_000 => 1 << 26 | 1 << 21,
        0o010_000 => 1 << 25,
        0o140_000 => 1 << 24,
        _ => 0,
    };
    let special = [(0o4000, 1 << 23), (0o2000, 1 << 22), (0o1000, 1 << 20)];
    let special: u32 = special.iter().filter(|(kernel, _)| mode & kernel != 0).map(|(_, go)| go).sum();
    file_type | special | mode & 0o777
}

#[derive(Debug, Serialize)]
pub(crate) struct ExecInspect {
    #[serde(rename = "ID")]
    id: String,
    #[serde(rename = "Running")]
    running: bool,
    #[serde(rename = "ExitCode")]
    exit_code: Option<i32>,
    #[serde(rename = "ProcessConfig")]
    process: ExecProcess,
    #[serde(rename = "OpenStdin")]
    open_stdin: bool,
    #[serde(rename = "OpenStderr")]
    open_stderr: bool,
    #[serde(rename = "OpenStdout")]
    open_stdout: bool,
    #[serde(rename = "CanRemove")]
    can_remove: bool,
    #[serde(rename = "ContainerID")]
    container_id: String,
    #[serde(rename = "DetachKeys")]
    detach_keys: String,
    #[serde(rename = "Pid")]
    pid: i32,
}

#[derive(Debug, Serialize)]
struct ExecProcess {
    tty: bool,
    entrypoint: String,
    arguments: Vec<String>,
    privileged: bool,
    #[serde(skip_serializing_if = "String::is_empty")]
    user: String,
}

impl ExecInspect {
    pub(crate) fn from_model(exec: engine::ExecView) -> Self {
        let mut words = exec.config.cmd.into_iter();
        Self {
            id: exec.id.to_string(),
            running: exec.running,
            exit_code: exec.exit_code,
            process: ExecProcess {
                tty: exec.config.tty,
                entrypoint: words.next().unwrap_or_default(),
                arguments: words.collect(),
                privileged: exec.config.privileged,
                user: exec.config.user,
            },
            open_stdin: exec.config.attach_stdin,
            open_stderr: exec.config.attach_stderr,
            open_stdout: exec.config.attach_stdout,
            can_remove: exec.can_remove,
            container_id: exec.container.to_string(),
            detach_keys: exec.config.detach_keys,
            pid: exec.pid,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn file_modes_are_gos() {
        for (kernel, go) in [
            (0o100_644, 0o644),
            (0o040_755, 0x8000_0000 | 0o755),
            (0o120_777, 0x0800_0000 | 0o777),
            (0o020_620, 0x0420_0000 | 0o620),
            (0o060_660, 0x0400_0000 | 0o660),
            (0o104_755, 0x0080_0000 | 0o755),
            (0o041_777, 0x8010_0000 | 0o777),
            (0o140_755, 0x0100_0000 | 0o755),
            (0o010_600, 0x0200_0000 | 0o600),
        ] {
            assert_eq!(go_file_mode(kernel), go, "{kernel:o}");
        }
    }
}
