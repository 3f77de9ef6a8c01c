//! What a sandbox and a container of the interface are to the engine. Pure, but that a profile's file has been read before.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use grpc::Outcome;
use pods::{ContainerRequest, DeviceRequest, Foreign, Limits, PERIOD_MICROS, PortRequest, SandboxRequest, Seccomp};
use tonic::Status;

use super::records::Record;
use crate::wire::*;

/// Labels of the engine's container that are ours and not the kubelet's.
const OWN: &str = "io.knarr.cri.";
const NAME: &str = "io.knarr.cri.name";
const ATTEMPT: &str = "io.knarr.cri.attempt";
const IMAGE: &str = "io.knarr.cri.image";
const ASKED_IMAGE: &str = "io.knarr.cri.asked-image";

fn invalid(message: impl Into<String>) -> Status {
    Status::invalid_argument(message.into())
}

/// Which namespaces a sandbox or container has.
pub fn namespaces(config: &PodSandboxConfig) -> NamespaceOption {
    let context = config.linux.as_ref().and_then(|linux| linux.security_context.as_ref());
    context.and_then(|context| context.namespace_options.clone()).unwrap_or_default()
}

/// `/etc/resolv.conf`; `None` is the host's.
fn resolv_conf(dns: &DnsConfig) -> Option<String> {
    if dns.servers.is_empty() && dns.searches.is_empty() && dns.options.is_empty() {
        return None;
    }
    let mut text: String = dns.servers.iter().map(|server| format!("nameserver {server}\n")).collect();
    for (word, list) in [("search", &dns.searches), ("options", &dns.options)] {
        if !list.is_empty() {
            text.push_str(&format!("{word} {}\n", list.join(" ")));
        }
    }
    Some(text)
}

/// A sandbox of this id. `host_name`: this machine's.
pub fn sandbox(id: &str, config: &PodSandboxConfig, host_name: &str) -> Outcome<SandboxRequest> {
    let metadata = config.metadata.as_ref().ok_or_else(|| invalid("sandbox config must include metadata"))?;
    let namespaces = namespaces(config);
    if namespaces.userns_options.as_ref().is_some_and(|users| users.mode == NamespaceMode::Pod as i32) {
        return Err(invalid("user namespaces are not supported"));
    }
    let mut ports = Vec::new();
    for port in config.port_mappings.iter().filter(|port| port.host_port != 0) {
        let number = |value: i32| u16::try_from(value).map_err(|_| invalid(format!("{value} is no port")));
        let protocol = match Protocol::try_from(port.protocol) {
            Ok(Protocol::Tcp) => "TCP",
            Ok(Protocol::Udp) => "UDP",
            Ok(Protocol::Sctp) => "SCTP",
            Err(_) => return Err(invalid(format!("unknown protocol {}", port.protocol))),
        };
        ports.push(PortRequest {
            protocol: protocol.into(),
            port: number(port.container_port)?,
            host_port: number(port.host_port)?,
            host_ip: port.host_ip.clone(),
        });
    }
    let linux = config.linux.clone().unwrap_or_default();
    Ok(SandboxRequest {
        uid: id.to_owned(),
        namespace: metadata.namespace.clone(),
        name: metadata.name.clone(),
        hostname: if config.hostname.is_empty() { host_name.to_owned() } else { config.hostname.clone() },
        host_network: namespaces.network == NamespaceMode::Node as i32,
        host_ipc: namespaces.ipc == NamespaceMode::Node as i32,
        ports,
        resolv_conf: config.dns_config.as_ref().and_then(resolv_conf),
        sysctls: linux.sysctls,
        ..SandboxRequest::default()
    })
}

/// Where a container's output goes.
pub fn log_path(sandbox: &PodSandboxConfig, container: &ContainerConfig) -> Option<PathBuf> {
    let named = !sandbox.log_directory.is_empty() && !container.log_path.is_empty();
    named.then(|| Path::new(&sandbox.log_directory).join(&container.log_path))
}

/// The profile's file that has to be read for a container.
pub fn seccomp_file(config: &ContainerConfig) -> Option<&str> {
    let profile = config.linux.as_ref()?.security_context.as_ref()?.seccomp.as_ref()?;
    (profile.profile_type == ProfileType::Localhost as i32).then_some(profile.localhost_ref.as_str())
}

/// Limits as the engine counts them.
pub fn limits(resources: &LinuxContainerResources) -> Limits {
    let period = if resources.cpu_period > 0 { resources.cpu_period } else { PERIOD_MICROS };
    Limits {
        cpu_shares: resources.cpu_shares,
        cpu_quota_micros: match resources.cpu_quota {
            quota @ 1.. => (i128::from(quota) * i128::from(PERIOD_MICROS) / i128::from(period)).max(1000) as i64,
            _ => 0,
        },
        memory_bytes: resources.memory_limit_in_bytes.max(0),
    }
}

/// Limits that nothing here would set: better refused than believed in.
pub fn check_limits(resources: &LinuxContainerResources) -> Outcome<()> {
    // Kubelets name every size, most of them without a limit.
    if let Some(pages) = resources.hugepage_limits.iter().find(|pages| pages.limit > 0) {
        return Err(invalid(format!("limits of huge pages are not supported: {}", pages.page_size)));
    }
    // What every kubelet asks for on cgroup v2 is let pass: without it a process is killed alone and not with its container.
    match resources.unified.keys().find(|name| *name != "memory.oom.group") {
        Some(name) => Err(invalid(format!("unified cgroup settings are not supported: {name}"))),
        None => Ok(()),
    }
}

fn check_context(context: &LinuxContainerSecurityContext) -> Outcome<()> {
    if let Some(name) = context.capabilities.iter().flat_map(|all| &all.add_ambient_capabilities).next() {
        return Err(invalid(format!("ambient capabilities are not supported: {name}")));
    }
    match context.supplemental_groups_policy == SupplementalGroupsPolicy::Strict as i32 {
        true => Err(invalid("the supplemental groups policy Strict is not supported")),
        false => Ok(()),
    }
}

fn user(context: &LinuxContainerSecurityContext) -> Outcome<String> {
    let user = match (&context.run_as_user, context.run_as_username.as_str()) {
        (Some(_), name) if !name.is_empty() => return Err(invalid("both RunAsUser and RunAsUsername are set")),
        (Some(uid), _) => uid.value.to_string(),
        (None, name) => name.to_owned(),
    };
    match &context.run_as_group {
        Some(_) if user.is_empty() => Err(invalid("user must be specified when RunAsGroup is set")),
        Some(group) => Ok(format!("{user}:{}", group.value)),
        None => Ok(user),
    }
}

fn mount(mount: &Mount) -> Outcome<pods::Mount> {
    let propagation = match MountPropagation::try_from(mount.propagation) {
        Ok(MountPropagation::HostToContainer) => "rslave",
        Ok(MountPropagation::Bidirectional) => "rshared",
        _ => "rprivate",
    };
    if mount.recursive_read_only && (!mount.readonly || propagation != "rprivate") {
        return Err(invalid(format!(
            "{} is recursively read-only but not read-only and private",
            mount.container_path
        )));
    }
    Ok(pods::Mount {
        source: PathBuf::from(&mount.host_path),
        target: mount.container_path.clone(),
        read_only: mount.readonly,
        recursive_read_only: mount.recursive_read_only,
        propagation,
    })
}

/// A container in a sandbox. `profile`: what [`seccomp_file`] holds. Mounts of images are not among its mounts.
pub fn container(
    sandbox: &str,
    record: &Record,
    config: &ContainerConfig,
    profile: Option<String>,
    host_name: &str,
) -> Outcome<ContainerRequest> {
    let metadata = config.metadata.as_ref().ok_or_else(|| invalid("container config must include metadata"))?;
    let pod = record.config.metadata.clone().unwrap_or_default();
    let image = config.image.clone().unwrap_or_default();
    let linux = config.linux.clone().unwrap_or_default();
    let (context, resources) = (linux.security_context.unwrap_or_default(), linux.resources.unwrap_or_default());
    check_limits(&resources)?;
    check_context(&context)?;
    let own = context.namespace_options.clone().unwrap_or_default();
    let shared = namespaces(&record.config);
    let capabilities = context.capabilities.clone().unwrap_or_default();
    let stop_signal = signal_name(config.stop_signal).map(|name| format!("SIG{name}")).unwrap_or_default();
    let mut labels = config.labels.clone();
    if let Some(taken) = labels.keys().find(|name| is_own(name)) {
        return Err(invalid(format!("the label {taken} is not a kubelet's to set")));
    }
    labels.insert(NAME.into(), metadata.name.clone());
    labels.insert(ATTEMPT.into(), metadata.attempt.to_string());
    labels.insert(IMAGE.into(), image.image.clone());
    if !image.user_specified_image.is_empty() {
        labels.insert(ASKED_IMAGE.into(), image.user_specified_image.clone());
    }
    let seccomp = match context.seccomp.as_ref().and_then(|seccomp| ProfileType::try_from(seccomp.profile_type).ok()) {
        Some(ProfileType::Unconfined) => Seccomp::Unconfined,
        Some(ProfileType::Localhost) => Seccomp::Profile(profile.unwrap_or_default()),
        Some(ProfileType::RuntimeDefault) | None => Seccomp::Default,
    };
    let apparmor = context.apparmor.as_ref().filter(|profile| profile.profile_type == ProfileType::Localhost as i32);
    let pid = NamespaceMode::try_from(own.pid).unwrap_or_default();
    Ok(ContainerRequest {
        pod_uid: pod.uid,
        pod_name: pod.name,
        pod_namespace: pod.namespace,
        name: metadata.name.clone(),
        attempt: metadata.attempt,
        image: image.image,
        command: Some(config.command.clone()).filter(|command| !command.is_empty()),
        args: Some(config.args.clone()).filter(|args| !args.is_empty()),
        env: config.envs.iter().map(|variable| (variable.key.clone(), variable.value.clone())).collect(),
        working_dir: config.working_dir.clone(),
        hostname: match record.config.hostname.as_str() {
            "" => host_name.to_owned(),
            name => name.to_owned(),
        },
        mounts: config.mounts.iter().filter(|mount| mount.image.is_none()).map(mount).collect::<Outcome<_>>()?,
        tty: config.tty,
        stdin: config.stdin,
        stdin_once: config.stdin_once,
        host_network: shared.network == NamespaceMode::Node as i32,
        host_ipc: shared.ipc == NamespaceMode::Node as i32,
        host_pid: pid == NamespaceMode::Node,
        share_pid: pid == NamespaceMode::Pod,
        pid_of: (pid == NamespaceMode::Target).then(|| own.target_id.clone()),
        user: user(&context)?,
        groups: context.supplemental_groups.iter().map(ToString::to_string).collect(),
        privileged: context.privileged,
        read_only_root: context.readonly_rootfs,
        no_new_privileges: context.no_new_privs,
        seccomp,
        apparmor: apparmor.map(|profile| profile.localhost_ref.clone()).unwrap_or_default(),
        stop_signal,
        cap_add: capabilities.add_capabilities,
        cap_drop: capabilities.drop_capabilities,
        limits: limits(&resources),
        oom_score_adj: i32::try_from(resources.oom_score_adj).map_err(|_| invalid("oom_score_adj is out of range"))?,
        annotations: config.annotations.clone(),
        devices: config.devices.iter().map(device).collect(),
        cdi_devices: config.cdi_devices.iter().map(|device| device.name.clone()).collect(),
        foreign: Some(Foreign {
            sandbox: sandbox.to_owned(),
            labels,
            cgroup_parent: record.config.linux.as_ref().map(|linux| linux.cgroup_parent.clone()).unwrap_or_default(),
            log: log_path(&record.config, config),
            cpuset_cpus: resources.cpuset_cpus,
            cpuset_mems: resources.cpuset_mems,
            masked_paths: context.masked_paths,
            readonly_paths: context.readonly_paths,
        }),
        ..ContainerRequest::default()
    })
}

fn device(device: &Device) -> DeviceRequest {
    DeviceRequest {
        source: device.host_path.clone(),
        target: device.container_path.clone(),
        permissions: device.permissions.clone(),
    }
}

fn is_own(label: &str) -> bool {
    label.starts_with(OWN) || [pods::labels::SANDBOX, pods::labels::TYPE].contains(&label)
}

/// What the labels of the engine's container say.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Named {
    pub sandbox: String,
    pub metadata: ContainerMetadata,
    pub image: ImageSpec,
    /// The kubelet's own.
    pub labels: BTreeMap<String, String>,
}

/// `None`: it is no container of a kubelet's.
pub fn named(labels: &BTreeMap<String, String>) -> Option<Named> {
    let metadata = ContainerMetadata { name: labels.get(NAME)?.clone(), attempt: labels.get(ATTEMPT)?.parse().ok()? };
    let image = ImageSpec {
        image: labels.get(IMAGE)?.clone(),
        user_specified_image: labels.get(ASKED_IMAGE).cloned().unwrap_or_default(),
        ..ImageSpec::default()
    };
    let own = labels.iter().filter(|(name, _)| !is_own(name)).map(|(name, value)| (name.clone(), value.clone()));
    Some(Named { sandbox: labels.get(pods::labels::SANDBOX)?.clone(), metadata, image, labels: own.collect() })
}

/// Whether all that a selector names is there.
pub fn matches(selector: &BTreeMap<String, String>, labels: &BTreeMap<String, String>) -> bool {
    selector.iter().all(|(name, value)| labels.get(name) == Some(value))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod() -> PodSandboxConfig {
        let metadata = PodSandboxMetadata { name: "p".into(), uid: "u".into(), namespace: "d".into(), attempt: 1 };
        PodSandboxConfig { metadata: Some(metadata), log_directory: "/logs".into(), ..PodSandboxConfig::default() }
    }

    #[test]
    fn what_would_have_no_effect_is_refused() {
        let pages = |limit| vec![HugepageLimit { page_size: "2MB".into(), limit }];
        let unified = |name: &str| [(name.to_owned(), "1".to_owned())].into();
        let limits = |hugepage_limits, unified| LinuxContainerResources {
            hugepage_limits,
            unified,
            ..LinuxContainerResources::default()
        };
        let said = |outcome: Outcome<()>| outcome.err().map(|status| status.message().to_owned());
        for (asked, refused) in [
            (limits(pages(0), unified("memory.oom.group")), None),
            (limits(pages(1 << 21), BTreeMap::new()), Some("limits of huge pages are not supported: 2MB")),
            (
                limits(Vec::new(), unified("memory.high")),
                Some("unified cgroup settings are not supported: memory.high"),
            ),
        ] {
            assert_eq!(said(check_limits(&asked)).as_deref(), refused, "{asked:?}");
        }
        let ambient = Capability { add_ambient_capabilities: vec!["NET_RAW".into()], ..Capability::default() };
        let strict = SupplementalGroupsPolicy::Strict as i32;
        for (capabilities, supplemental_groups_policy, refused) in [
            (Some(Capability::default()), 0, None),
            (Some(ambient), 0, Some("ambient capabilities are not supported: NET_RAW")),
            (None, strict, Some("the supplemental groups policy Strict is not supported")),
        ] {
            let context = LinuxContainerSecurityContext {
                capabilities,
                supplemental_groups_policy,
                ..LinuxContainerSecurityContext::default()
            };
            assert_eq!(said(check_context(&context)).as_deref(), refused);
        }
    }

    #[test]
    fn a_sandbox_has_the_namespaces_ports_and_resolver_that_it_asks_for() {
        let mut config = pod();
        config.dns_config = Some(DnsConfig {
            servers: vec!["1.1.1.1".into()],
            searches: vec!["a".into(), "b".into()],
            options: vec!["ndots:5".into()],
        });
        config.port_mappings = vec![
            PortMapping { container_port: 80, host_port: 8080, ..PortMapping::default() },
            PortMapping { container_port: 81, ..PortMapping::default() },
            PortMapping { protocol: 1, container_port: 53, host_port: 53, host_ip: "127.0.0.1".into() },
        ];
        let asked = sandbox("id", &config, "node").unwrap();
        assert_eq!(asked.resolv_conf.as_deref(), Some("nameserver 1.1.1.1\nsearch a b\noptions ndots:5\n"));
        assert_eq!((asked.hostname.as_str(), asked.host_network, asked.host_ipc), ("node", false, false));
        let ports: Vec<_> =
            asked.ports.iter().map(|port| (port.protocol.as_str(), port.host_port, port.port)).collect();
        assert_eq!(ports, [("TCP", 8080, 80), ("UDP", 53, 53)]);
        config.port_mappings[0].host_port = 70_000;
        assert_eq!(sandbox("id", &config, "node").unwrap_err().message(), "70000 is no port");
        let options = NamespaceOption { network: 2, ipc: 2, ..NamespaceOption::default() };
        let context =
            LinuxSandboxSecurityContext { namespace_options: Some(options), ..LinuxSandboxSecurityContext::default() };
        let linux = LinuxPodSandboxConfig { security_context: Some(context), ..LinuxPodSandboxConfig::default() };
        let host = sandbox("id", &PodSandboxConfig { linux: Some(linux), ..pod() }, "node").unwrap();
        assert_eq!((host.host_network, host.host_ipc, host.resolv_conf), (true, true, None));
    }

    fn made(
        change: impl FnOnce(&mut ContainerConfig, &mut LinuxContainerSecurityContext),
    ) -> Outcome<ContainerRequest> {
        let mut config = ContainerConfig {
            metadata: Some(ContainerMetadata { name: "c".into(), attempt: 2 }),
            image: Some(ImageSpec {
                image: "sha256:1".into(),
                user_specified_image: "web".into(),
                ..ImageSpec::default()
            }),
            log_path: "c/2.log".into(),
            labels: [("app".to_owned(), "x".to_owned())].into(),
            ..ContainerConfig::default()
        };
        let mut context = LinuxContainerSecurityContext::default();
        change(&mut config, &mut context);
        let resources = config.linux.take().and_then(|linux| linux.resources);
        config.linux = Some(LinuxContainerConfig { resources, security_context: Some(context) });
        container("s1", &Record { config: pod(), ..Record::default() }, &config, None, "node")
    }

    #[test]
    fn a_containers_names_are_found_again_in_its_labels() {
        let request = made(|_, _| ()).unwrap();
        let foreign = request.foreign.unwrap();
        assert_eq!(foreign.log.as_deref(), Some(Path::new("/logs/c/2.log")));
        let mut labels = foreign.labels;
        assert_eq!(named(&labels), None, "no sandbox yet");
        labels.insert(pods::labels::SANDBOX.into(), "s1".into());
        labels.insert(pods::labels::TYPE.into(), "container".into());
        let named = named(&labels).unwrap();
        assert_eq!((named.sandbox.as_str(), named.metadata.name.as_str(), named.metadata.attempt), ("s1", "c", 2));
        assert_eq!((named.image.image.as_str(), named.image.user_specified_image.as_str()), ("sha256:1", "web"));
        assert_eq!(named.labels, [("app".to_owned(), "x".to_owned())].into());
        let stolen = made(|config, _| drop(config.labels.insert(NAME.into(), "y".into())));
        assert_eq!(stolen.unwrap_err().message(), "the label io.knarr.cri.name is not a kubelet's to set");
    }

    #[test]
    fn whom_a_container_runs_as_is_said_once() {
        let id = |value| Some(Int64Value { value });
        let rows = [
            ("nobody", None, "", None, Ok("")),
            ("a number", id(5), "", None, Ok("5")),
            ("a name", None, "www", None, Ok("www")),
            ("a group", id(0), "", id(7), Ok("0:7")),
            ("both", id(5), "www", None, Err("both RunAsUser and RunAsUsername are set")),
            ("a group alone", None, "", id(7), Err("user must be specified when RunAsGroup is set")),
        ];
        for (what, uid, name, group, expected) in rows {
            let request = made(|_, context| {
                (context.run_as_user, context.run_as_username, context.run_as_group) = (uid, name.into(), group);
            });
            let got = request.as_ref().map(|request| request.user.as_str()).map_err(Status::message);
            assert_eq!(got, expected, "{what}");
        }
    }

    #[test]
    fn a_processor_quota_is_of_the_engines_period() {
        let of = |quota, period| {
            limits(&LinuxContainerResources {
                cpu_quota: quota,
                cpu_period: period,
                ..LinuxContainerResources::default()
            })
            .cpu_quota_micros
        };
        for (quota, period, expected) in
            [(0, 0, 0), (-1, 0, 0), (50_000, 0, 50_000), (50_000, 200_000, 25_000), (1, 100_000, 1000)]
        {
            assert_eq!(of(quota, period), expected, "{quota} of {period}");
        }
    }

    #[test]
    fn a_process_namespace_is_the_pods_unless_it_says_otherwise() {
        for (mode, shared, host, other) in
            [(0, true, false, None), (1, false, false, None), (2, false, true, None), (3, false, false, Some("c0"))]
        {
            let request = made(|_, context| {
                context.namespace_options =
                    Some(NamespaceOption { pid: mode, target_id: "c0".into(), ..NamespaceOption::default() });
            })
            .unwrap();
            assert_eq!(
                (request.share_pid, request.host_pid, request.pid_of.as_deref()),
                (shared, host, other),
                "{mode}"
            );
        }
    }
}
