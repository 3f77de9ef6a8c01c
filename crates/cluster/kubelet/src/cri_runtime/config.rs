//! What a pod's sandbox and its containers are in the interface, and what it says of them. Pure.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use cri::wire::*;
use jiff::Timestamp;
use pods::{
    ContainerRequest, ContainerSeen, ImageSeen, Limits, MASKED_PATHS, PERIOD_MICROS, READONLY_PATHS, SandboxRequest,
    Seccomp, State, Traffic, Used, labels,
};

/// Says of a container that it has a terminal: attaching to it has to say so again.
pub const TTY: &str = "io.knarr.container.tty";

/// The image as the pod names it: runtimes tell a name of their own.
const IMAGE: &str = "io.knarr.container.image";

fn texts(list: &[&str]) -> Vec<String> {
    list.iter().map(|text| (*text).to_owned()).collect()
}

fn pod_labels(uid: &str, name: &str, namespace: &str) -> BTreeMap<String, String> {
    let all = [(labels::POD_UID, uid), (labels::POD_NAME, name), (labels::POD_NAMESPACE, namespace)];
    all.map(|(label, value)| (label.to_owned(), value.to_owned())).into()
}

fn mode(host: bool) -> i32 {
    if host { NamespaceMode::Node as i32 } else { NamespaceMode::Pod as i32 }
}

/// A resolver's file as the interface says it; `None` is the host's.
fn dns(text: &str) -> DnsConfig {
    let mut config = DnsConfig::default();
    for line in text.lines() {
        let mut words = line.split_whitespace();
        match words.next() {
            Some("nameserver") => config.servers.extend(words.next().map(str::to_owned)),
            Some("search") => config.searches = words.map(str::to_owned).collect(),
            Some("options") => config.options.extend(words.map(str::to_owned)),
            _ => {}
        }
    }
    config
}

/// `parent`: the pod's control group. `logs`: where the logs of all pods are.
pub fn sandbox(request: &SandboxRequest, attempt: u32, parent: &Path, logs: &Path) -> PodSandboxConfig {
    let ports = request.ports.iter().map(|port| PortMapping {
        protocol: match port.protocol.as_str() {
            "UDP" => Protocol::Udp as i32,
            "SCTP" => Protocol::Sctp as i32,
            _ => Protocol::Tcp as i32,
        },
        container_port: i32::from(port.port),
        host_port: i32::from(port.host_port),
        host_ip: port.host_ip.clone(),
    });
    let limit = |name: &str, bytes: Option<u64>| {
        bytes.map(|bytes| (format!("kubernetes.io/{name}-bandwidth"), bytes.saturating_mul(8).to_string()))
    };
    let options = NamespaceOption {
        network: mode(request.host_network),
        ipc: mode(request.host_ipc),
        pid: NamespaceMode::Pod as i32,
        ..NamespaceOption::default()
    };
    let context = LinuxSandboxSecurityContext {
        namespace_options: Some(options),
        privileged: request.privileged,
        seccomp: Some(SecurityProfile::default()),
        ..LinuxSandboxSecurityContext::default()
    };
    PodSandboxConfig {
        metadata: Some(PodSandboxMetadata {
            name: request.name.clone(),
            uid: request.uid.clone(),
            namespace: request.namespace.clone(),
            attempt,
        }),
        hostname: if request.host_network { String::new() } else { request.hostname.clone() },
        log_directory: logs
            .join(format!("{}_{}_{}", request.namespace, request.name, request.uid))
            .to_string_lossy()
            .into_owned(),
        dns_config: request.resolv_conf.as_deref().map(dns),
        port_mappings: ports.collect(),
        labels: pod_labels(&request.uid, &request.name, &request.namespace),
        annotations: [limit("egress", request.send_limit), limit("ingress", request.receive_limit)]
            .into_iter()
            .flatten()
            .collect(),
        linux: Some(LinuxPodSandboxConfig {
            cgroup_parent: parent.to_string_lossy().into_owned(),
            security_context: Some(context),
            sysctls: request.sysctls.clone(),
            ..LinuxPodSandboxConfig::default()
        }),
    }
}

pub fn addresses(status: &PodSandboxStatusResponse) -> Vec<String> {
    let network = status.status.as_ref().and_then(|status| status.network.as_ref());
    let all = network.into_iter().flat_map(|network| {
        let more = network.additional_ips.iter().map(|more| more.ip.clone());
        std::iter::once(network.ip.clone()).chain(more)
    });
    all.filter(|ip| !ip.is_empty()).collect()
}

pub fn resources(limits: &Limits, oom_score_adj: i32) -> LinuxContainerResources {
    LinuxContainerResources {
        cpu_shares: limits.cpu_shares,
        cpu_quota: limits.cpu_quota_micros,
        cpu_period: if limits.cpu_quota_micros > 0 { PERIOD_MICROS } else { 0 },
        memory_limit_in_bytes: limits.memory_bytes,
        // No swap beyond the limit, as upstream without swap support.
        memory_swap_limit_in_bytes: limits.memory_bytes,
        oom_score_adj: i64::from(oom_score_adj),
        ..LinuxContainerResources::default()
    }
}

pub fn limits(resources: &LinuxContainerResources) -> Limits {
    Limits {
        cpu_shares: resources.cpu_shares,
        cpu_quota_micros: resources.cpu_quota.max(0),
        memory_bytes: resources.memory_limit_in_bytes.max(0),
    }
}

/// `user[:group]`, each a number or a name.
fn user(text: &str, context: &mut LinuxContainerSecurityContext) {
    let (user, group) = text.split_once(':').unwrap_or((text, ""));
    match user.parse() {
        Ok(value) => context.run_as_user = Some(Int64Value { value }),
        Err(_) => context.run_as_username = user.to_owned(),
    }
    context.run_as_group = group.parse().ok().map(|value| Int64Value { value });
}

fn mount(mount: &pods::Mount) -> Mount {
    let propagation = match mount.propagation {
        "rslave" => MountPropagation::HostToContainer,
        "rshared" => MountPropagation::Bidirectional,
        _ => MountPropagation::Private,
    };
    Mount {
        container_path: mount.target.clone(),
        host_path: mount.source.to_string_lossy().into_owned(),
        readonly: mount.read_only,
        propagation: propagation as i32,
        recursive_read_only: mount.recursive_read_only,
        ..Mount::default()
    }
}

fn device(device: &pods::DeviceRequest) -> Device {
    Device {
        container_path: device.target.clone(),
        host_path: device.source.clone(),
        permissions: device.permissions.clone(),
    }
}

/// A container, and the file of its system call profile if it has one of its own. `image`: by its id. `directory`: the pod's files.
pub fn container(
    request: &ContainerRequest,
    image: &str,
    directory: &Path,
) -> (ContainerConfig, Option<(PathBuf, String)>) {
    let mut all = pod_labels(&request.pod_uid, &request.pod_name, &request.pod_namespace);
    all.insert(labels::CONTAINER.into(), request.name.clone());
    let mut annotations = request.annotations.clone();
    annotations.insert(labels::ATTEMPT.into(), request.attempt.to_string());
    annotations.insert(IMAGE.into(), request.image.clone());
    if request.tty {
        annotations.insert(TTY.into(), "true".into());
    }
    let covered = |target: &str| request.mounts.iter().any(|mount| mount.target.trim_end_matches('/') == target);
    let mut mounts: Vec<Mount> = request.mounts.iter().map(mount).collect();
    let mut file = |source: &Path, target: &str| {
        let (container_path, host_path) = (target.to_owned(), source.to_string_lossy().into_owned());
        mounts.push(Mount { container_path, host_path, ..Mount::default() });
    };
    if !covered("/etc/hosts") {
        file(&directory.join("hosts"), "/etc/hosts");
    }
    if let Some((target, source)) = &request.message {
        annotations.insert(labels::MESSAGE.into(), source.to_string_lossy().into_owned());
        if !covered(target) {
            file(source, target);
        }
    }
    let profile = match &request.seccomp {
        Seccomp::Profile(text) => {
            Some((directory.join(format!("seccomp-{}-{}.json", request.name, request.attempt)), text.clone()))
        }
        _ => None,
    };
    let seccomp = SecurityProfile {
        profile_type: match &request.seccomp {
            Seccomp::Unconfined => ProfileType::Unconfined as i32,
            Seccomp::Profile(_) => ProfileType::Localhost as i32,
            Seccomp::Default | Seccomp::Local(_) => ProfileType::RuntimeDefault as i32,
        },
        localhost_ref: profile.as_ref().map(|(path, _)| path.to_string_lossy().into_owned()).unwrap_or_default(),
    };
    let apparmor = (!request.apparmor.is_empty()).then(|| SecurityProfile {
        profile_type: ProfileType::Localhost as i32,
        localhost_ref: request.apparmor.clone(),
    });
    let pid = match (&request.pid_of, request.host_pid, request.share_pid) {
        (_, true, _) => NamespaceMode::Node,
        (Some(_), ..) => NamespaceMode::Target,
        (None, _, true) => NamespaceMode::Pod,
        (None, ..) => NamespaceMode::Container,
    };
    let masks = !(request.unmasked_proc || request.privileged);
    let mut context = LinuxContainerSecurityContext {
        capabilities: Some(Capability {
            add_capabilities: request.cap_add.clone(),
            drop_capabilities: request.cap_drop.clone(),
            add_ambient_capabilities: Vec::new(),
        }),
        privileged: request.privileged,
        namespace_options: Some(NamespaceOption {
            network: mode(request.host_network),
            ipc: mode(request.host_ipc),
            pid: pid as i32,
            target_id: request.pid_of.clone().unwrap_or_default(),
            ..NamespaceOption::default()
        }),
        readonly_rootfs: request.read_only_root,
        supplemental_groups: request.groups.iter().filter_map(|group| group.parse().ok()).collect(),
        no_new_privs: request.no_new_privileges,
        masked_paths: if masks { texts(&MASKED_PATHS) } else { Vec::new() },
        readonly_paths: if masks { texts(&READONLY_PATHS) } else { Vec::new() },
        seccomp: Some(seccomp),
        apparmor,
        ..LinuxContainerSecurityContext::default()
    };
    if !request.user.is_empty() {
        user(&request.user, &mut context);
    }
    let config = ContainerConfig {
        metadata: Some(ContainerMetadata { name: request.name.clone(), attempt: request.attempt }),
        image: Some(ImageSpec {
            image: image.to_owned(),
            user_specified_image: request.image.clone(),
            ..ImageSpec::default()
        }),
        command: request.command.clone().unwrap_or_default(),
        args: request.args.clone().unwrap_or_default(),
        working_dir: request.working_dir.clone(),
        envs: request.env.iter().map(|(key, value)| KeyValue { key: key.clone(), value: value.clone() }).collect(),
        mounts,
        devices: request.devices.iter().map(device).collect(),
        cdi_devices: request.cdi_devices.iter().map(|name| CdiDevice { name: name.clone() }).collect(),
        labels: all,
        annotations,
        log_path: format!("{}/{}.log", request.name, request.attempt),
        stdin: request.stdin,
        stdin_once: request.stdin_once,
        tty: request.tty,
        linux: Some(LinuxContainerConfig {
            resources: Some(resources(&request.limits, request.oom_score_adj)),
            security_context: Some(context),
        }),
        stop_signal: signal_number(&request.stop_signal),
    };
    (config, profile)
}

/// `None`: it is no kubelet's.
pub fn seen(status: &ContainerStatus) -> Option<ContainerSeen> {
    let metadata = status.metadata.as_ref()?;
    let at = |nanos: i64| Timestamp::from_nanosecond(i128::from(nanos)).ok().filter(|_| nanos > 0);
    let created = at(status.created_at).unwrap_or(Timestamp::UNIX_EPOCH);
    let state = match ContainerState::try_from(status.state) {
        Ok(ContainerState::Created) => State::Created,
        Ok(ContainerState::Running) => State::Running { started: at(status.started_at).unwrap_or(created) },
        _ => State::Exited {
            started: at(status.started_at),
            finished: at(status.finished_at).or(at(status.started_at)).unwrap_or(created),
            code: status.exit_code,
            oom: status.reason == "OOMKilled",
            error: if status.started_at == 0 { status.message.clone() } else { String::new() },
        },
    };
    let message = match (&state, status.annotations.get(labels::MESSAGE)) {
        (State::Exited { .. }, Some(path)) => pods::last_words(Path::new(path)),
        _ => String::new(),
    };
    let told = status.image.as_ref().map(|image| image.image.clone());
    Some(ContainerSeen {
        id: status.id.clone(),
        pod_uid: status.labels.get(labels::POD_UID)?.clone(),
        name: status.labels.get(labels::CONTAINER)?.clone(),
        attempt: metadata.attempt,
        image: status.annotations.get(IMAGE).cloned().or(told).unwrap_or_default(),
        image_id: if status.image_id.is_empty() { status.image_ref.clone() } else { status.image_id.clone() },
        state,
        message,
    })
}

pub fn image(image: Image) -> ImageSeen {
    ImageSeen {
        id: image.id,
        tags: image.repo_tags,
        digests: image.repo_digests,
        size_bytes: image.size,
        user: image.uid.map_or(image.username, |uid| uid.value.to_string()),
    }
}

/// `None`: it does not run.
pub fn used(stats: &ContainerStats) -> Option<Used> {
    let of = |value: &Option<UInt64Value>| value.as_ref().map_or(0, |value| value.value);
    let (cpu, memory) = (stats.cpu.as_ref()?, stats.memory.as_ref()?);
    let working_set_bytes = of(&memory.working_set_bytes);
    let limit = memory.available_bytes.as_ref().map(|available| available.value + working_set_bytes);
    Some(Used {
        cpu_nanos: of(&cpu.usage_core_nano_seconds),
        memory_bytes: of(&memory.usage_bytes).max(working_set_bytes),
        working_set_bytes,
        rss_bytes: of(&memory.rss_bytes),
        swap_bytes: stats.swap.as_ref().map_or(0, |swap| of(&swap.swap_usage_bytes)),
        page_faults: of(&memory.page_faults),
        major_page_faults: of(&memory.major_page_faults),
        memory_limit_bytes: limit.filter(|limit| *limit > working_set_bytes),
        cgroup: stats.attributes.as_ref().map(|attributes| attributes.id.clone()).unwrap_or_default(),
        ..Used::default()
    })
}

pub fn traffic(network: NetworkUsage) -> BTreeMap<String, Traffic> {
    let of = |value: Option<UInt64Value>| value.map_or(0, |value| value.value);
    let all = network.default_interface.into_iter().chain(network.interfaces);
    let row = |one: NetworkInterfaceUsage| {
        let traffic = Traffic {
            rx_bytes: of(one.rx_bytes),
            rx_errors: of(one.rx_errors),
            tx_bytes: of(one.tx_bytes),
            tx_errors: of(one.tx_errors),
        };
        (one.name, traffic)
    };
    all.map(row).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sandbox_is_asked_for_as_the_pod_says() {
        let request = SandboxRequest {
            uid: "u".into(),
            namespace: "d".into(),
            name: "p".into(),
            hostname: "p".into(),
            resolv_conf: Some("nameserver 10.96.0.10\nsearch a b\noptions ndots:5\n".into()),
            receive_limit: Some(1000),
            privileged: true,
            ..SandboxRequest::default()
        };
        let config = sandbox(&request, 2, Path::new("/knarr-1/kubepods/podu"), Path::new("/r/pod-logs"));
        assert_eq!(config.metadata.unwrap().attempt, 2);
        assert_eq!(config.log_directory, "/r/pod-logs/d_p_u");
        assert_eq!(config.annotations, [("kubernetes.io/ingress-bandwidth".to_owned(), "8000".to_owned())].into());
        let dns = config.dns_config.unwrap();
        assert_eq!(
            (dns.servers.join(","), dns.searches.join(","), dns.options.join(",")),
            ("10.96.0.10".into(), "a,b".into(), "ndots:5".into())
        );
        let linux = config.linux.unwrap();
        assert_eq!(linux.cgroup_parent, "/knarr-1/kubepods/podu");
        assert!(linux.security_context.unwrap().privileged);
    }

    #[test]
    fn a_container_keeps_what_the_pod_says_of_it() {
        let request = ContainerRequest {
            pod_uid: "u".into(),
            name: "c".into(),
            attempt: 3,
            image: "web:1".into(),
            user: "1000:7".into(),
            groups: vec!["5".into()],
            seccomp: Seccomp::Profile("{}".into()),
            message: Some(("/dev/termination-log".into(), "/run/m".into())),
            stop_signal: "SIGUSR1".into(),
            tty: true,
            ..ContainerRequest::default()
        };
        let (config, profile) = container(&request, "sha256:1", Path::new("/run/pods/u"));
        assert_eq!(profile, Some(("/run/pods/u/seccomp-c-3.json".into(), "{}".into())));
        let mounts: Vec<_> =
            config.mounts.iter().map(|mount| (mount.host_path.as_str(), mount.container_path.as_str())).collect();
        assert_eq!(mounts, [("/run/pods/u/hosts", "/etc/hosts"), ("/run/m", "/dev/termination-log")]);
        assert_eq!((config.log_path.as_str(), config.stop_signal), ("c/3.log", 29));
        let image = config.image.unwrap();
        assert_eq!((image.image.as_str(), image.user_specified_image.as_str()), ("sha256:1", "web:1"));
        let context = config.linux.unwrap().security_context.unwrap();
        assert_eq!((context.run_as_user.unwrap().value, context.run_as_group.unwrap().value), (1000, 7));
        assert_eq!(context.supplemental_groups, [5]);
        assert_eq!(context.namespace_options.unwrap().pid, NamespaceMode::Container as i32);
        assert!(!context.masked_paths.is_empty());
        let status = ContainerStatus {
            id: "i".into(),
            metadata: config.metadata,
            labels: config.labels,
            annotations: config.annotations,
            // Some tell the name under which they know it.
            image: Some(ImageSpec { image: "docker.io/library/web:1".into(), ..ImageSpec::default() }),
            image_id: "sha256:1".into(),
            state: ContainerState::Exited as i32,
            created_at: 1_000_000_000,
            started_at: 2_000_000_000,
            finished_at: 3_000_000_000,
            exit_code: 137,
            reason: "OOMKilled".into(),
            ..ContainerStatus::default()
        };
        let seen = seen(&status).unwrap();
        assert_eq!((seen.name.as_str(), seen.attempt, seen.image.as_str()), ("c", 3, "web:1"));
        let at = |secs| Timestamp::from_second(secs).unwrap();
        let expected =
            State::Exited { started: Some(at(2)), finished: at(3), code: 137, oom: true, error: String::new() };
        assert_eq!(seen.state, expected);
    }

    #[test]
    fn a_privileged_container_sees_everything() {
        let of = |privileged, unmasked_proc| {
            let request = ContainerRequest { privileged, unmasked_proc, ..ContainerRequest::default() };
            let (config, _) = container(&request, "i", Path::new("/p"));
            config.linux.unwrap().security_context.unwrap().masked_paths.is_empty()
        };
        assert_eq!([of(false, false), of(true, false), of(false, true)], [false, true, true]);
    }

    #[test]
    fn figures_that_are_missing_are_no_use() {
        assert_eq!(used(&ContainerStats::default()), None);
        let value = |value| Some(UInt64Value { value });
        let stats = ContainerStats {
            cpu: Some(CpuUsage { usage_core_nano_seconds: value(7), ..CpuUsage::default() }),
            memory: Some(MemoryUsage {
                working_set_bytes: value(10),
                available_bytes: value(5),
                ..MemoryUsage::default()
            }),
            ..ContainerStats::default()
        };
        let used = used(&stats).unwrap();
        assert_eq!((used.cpu_nanos, used.memory_bytes, used.memory_limit_bytes), (7, 10, Some(15)));
    }
}
