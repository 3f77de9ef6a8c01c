//! The engine of this process as a pod runtime.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use engine::{
    AttachOptions, Attached, ConsoleSize, ContainerConfig, ContainerSummary, CreateRequest, Engine, EventQuery,
    HostConfig, ListOptions, LogOptions, RemoveOptions, Resources, Status, Stream, WaitCondition,
};
use network::cni::Cni;
use tokio::sync::{mpsc, oneshot};
use vocab::ErrorKind;

use crate::exec::Ran;
use crate::groups::{Groups, PERIOD_MICROS};
use crate::plugins;
use crate::runtime::{
    ContainerRequest, ContainerSeen, DeviceRequest, GroupRequest, ImageSeen, Input, Limits, LogLine, LogQuery, Login,
    Mount, NetworkConfig, Output, Pipe, Process, Runtime, RuntimeError, Sandbox, SandboxRequest, Seccomp, State,
    Traffic, Used, labels,
};
use crate::sandbox::Sandboxes;

/// Last words beyond this are not told.
const MESSAGE_BYTES_MAX: usize = 4096;
const PROBE_OUTPUT_MAX: usize = 10 << 10;
/// When a log is rotated, and how many files are kept: upstream's defaults.
const LOG_OPTIONS: [(&str, &str); 2] = [("max-size", "10m"), ("max-file", "5")];

#[derive(Debug, Clone)]
pub struct EngineRuntime {
    engine: Engine,
    sandboxes: Sandboxes,
    groups: Groups,
    /// Other people's plugins give pods their network.
    cni: Option<Cni>,
}

pub(crate) fn told(error: engine::Error) -> RuntimeError {
    match error.kind() {
        ErrorKind::NotFound => RuntimeError::NotFound(error.to_string()),
        ErrorKind::Invalid | ErrorKind::Unsupported => RuntimeError::Invalid(error.to_string()),
        _ => RuntimeError::Failed(error.to_string()),
    }
}

pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, RuntimeError> + Send + 'static,
) -> Result<T, RuntimeError> {
    let done = tokio::task::spawn_blocking(work).await;
    done.unwrap_or_else(|error| Err(RuntimeError::Failed(format!("a thread ended: {error}"))))
}

impl EngineRuntime {
    /// `run`: the instance's run directory, where sandboxes live.
    pub fn new(engine: Engine, run: &Path) -> Self {
        let groups = Groups::new(&engine::instance_tag(run));
        Self { engine, sandboxes: Sandboxes::new(run), groups, cni: None }
    }

    /// Pods get their network from plugins.
    pub fn with_cni(self, cni: Cni) -> Self {
        Self { cni: Some(cni), ..self }
    }

    /// Gives a sandbox its network; its addresses.
    async fn plug(&self, request: &SandboxRequest, netns: PathBuf) -> Result<Vec<String>, RuntimeError> {
        let addresses = match self.cni.clone() {
            Some(cni) => {
                let attachment = plugins::attachment(request, netns);
                blocking(move || cni.add(&attachment).map_err(plugins::told)).await?
            }
            None => self.engine.pod_plug(plug(request, netns)?).await.map_err(told)?,
        };
        Ok(addresses.iter().map(ToString::to_string).collect())
    }

    /// Sandboxes as files.
    pub fn held(&self) -> &Sandboxes {
        &self.sandboxes
    }

    pub fn engine(&self) -> &Engine {
        &self.engine
    }

    /// Makes a container, or finds the one that an earlier try made; its id.
    pub async fn create(&self, request: &ContainerRequest) -> Result<String, RuntimeError> {
        let mut create = self.request(request);
        if request.share_pid && request.pid_of.is_none() {
            create.host.pid_mode = format!("container:{}", self.first_process(request).await?);
        }
        let name = create.name.clone().unwrap_or_default();
        match self.engine.create(create).await {
            Ok(created) => Ok(created.id.to_string()),
            Err(engine::Error::NameInUse { holder, .. }) if request.foreign.is_none() => Ok(holder.to_string()),
            Err(engine::Error::NameInUse { .. }) => Err(RuntimeError::Failed(format!("{name} is there already"))),
            Err(error) => Err(told(error)),
        }
    }

    /// The container of a request, in the engine's words.
    pub fn request(&self, request: &ContainerRequest) -> CreateRequest {
        let sandbox = self.sandboxes.path(request.sandbox());
        let held = |name: &str| format!("ns:{}", sandbox.join(name).display());
        let mut labels = match &request.foreign {
            Some(foreign) => {
                let mut labels = foreign.labels.clone();
                labels.insert(labels::SANDBOX.to_owned(), foreign.sandbox.clone());
                labels
            }
            None => BTreeMap::from([
                (labels::POD_NAME.to_owned(), request.pod_name.clone()),
                (labels::POD_NAMESPACE.to_owned(), request.pod_namespace.clone()),
                (labels::POD_UID.to_owned(), request.pod_uid.clone()),
                (labels::CONTAINER.to_owned(), request.name.clone()),
                (labels::ATTEMPT.to_owned(), request.attempt.to_string()),
            ]),
        };
        labels.insert(labels::TYPE.to_owned(), "container".to_owned());
        let mut mounts: Vec<Mount> = request.mounts.clone();
        let file = |source: &str, target: &str, read_only| Mount {
            source: sandbox.join(source),
            target: target.to_owned(),
            read_only,
            recursive_read_only: false,
            propagation: "private",
        };
        let covered = |target: &str| request.mounts.iter().any(|mount| mount.target.trim_end_matches('/') == target);
        for (source, target) in
            [("resolv.conf", "/etc/resolv.conf"), ("hostname", "/etc/hostname"), ("hosts", "/etc/hosts")]
        {
            if !covered(target) {
                mounts.push(file(source, target, false));
            }
        }
        if !request.host_ipc && !covered("/dev/shm") {
            mounts.push(file("shm", "/dev/shm", false));
        }
        if let Some((target, source)) = &request.message {
            labels.insert(labels::MESSAGE.to_owned(), source.to_string_lossy().into_owned());
            if !covered(target) {
                mounts.push(Mount {
                    source: source.clone(),
                    target: target.clone(),
                    read_only: false,
                    recursive_read_only: false,
                    propagation: "private",
                });
            }
        }
        let mut security = Vec::new();
        if request.no_new_privileges {
            security.push("no-new-privileges".to_owned());
        }
        match &request.seccomp {
            Seccomp::Default | Seccomp::Local(_) => {}
            Seccomp::Unconfined => security.push("seccomp=unconfined".to_owned()),
            Seccomp::Profile(text) => security.push(format!("seccomp={text}")),
        }
        if request.unmasked_proc {
            security.push("systempaths=unconfined".to_owned());
        }
        if !request.apparmor.is_empty() {
            security.push(format!("apparmor={}", request.apparmor));
        }
        let foreign = request.foreign.as_ref();
        let cgroup_parent = match foreign.map(|foreign| foreign.cgroup_parent.as_str()) {
            // Without a class of its own it is in the engine's own group.
            Some(parent) => parent.to_owned(),
            None => self.groups.path(request.class, &request.pod_uid).to_string_lossy().into_owned(),
        };
        let host = HostConfig {
            // Its namespaces are the pod's, which are the host's user's.
            userns_mode: "host".into(),
            masked_paths: foreign.map(|foreign| foreign.masked_paths.clone()),
            readonly_paths: foreign.map(|foreign| foreign.readonly_paths.clone()),
            mounts: mounts.iter().map(bind).collect(),
            network_mode: if request.host_network { "host".into() } else { held("net") },
            uts_mode: if request.host_network { "host".into() } else { held("uts") },
            ipc_mode: if request.host_ipc { "host".into() } else { held("ipc") },
            pid_mode: match (&request.pid_of, request.host_pid) {
                (_, true) => "host".into(),
                (Some(id), _) => format!("container:{id}"),
                (None, false) => String::new(),
            },
            cap_add: request.cap_add.clone(),
            cap_drop: request.cap_drop.clone(),
            group_add: request.groups.clone(),
            privileged: request.privileged,
            readonly_rootfs: request.read_only_root,
            security_opt: security,
            oom_score_adj: request.oom_score_adj,
            annotations: request.annotations.clone(),
            resources: Resources {
                cgroup_parent,
                cpuset_cpus: foreign.map(|foreign| foreign.cpuset_cpus.clone()).unwrap_or_default(),
                cpuset_mems: foreign.map(|foreign| foreign.cpuset_mems.clone()).unwrap_or_default(),
                devices: request.devices.iter().map(device).collect(),
                device_requests: by_name(&request.cdi_devices),
                ..limited(&request.limits)
            },
            log: match foreign.and_then(|foreign| foreign.log.as_ref()).or(request.log.as_ref()) {
                Some(path) => engine::LogConfig {
                    driver: "cri".into(),
                    options: match foreign {
                        // Whoever names the file rotates it.
                        Some(_) => rotated(&[("path", &path.to_string_lossy())]),
                        None => rotated(&[&LOG_OPTIONS[..], &[("path", &path.to_string_lossy())]].concat()),
                    },
                },
                None => engine::LogConfig { driver: "json-file".into(), options: rotated(&LOG_OPTIONS) },
            },
            ..HostConfig::default()
        };
        let config = ContainerConfig {
            // On the host's network the name is the host's too, and nobody else's can be asked for.
            hostname: if request.host_network { String::new() } else { request.hostname.clone() },
            user: request.user.clone(),
            tty: request.tty,
            stop_signal: Some(request.stop_signal.clone()).filter(|signal| !signal.is_empty()),
            open_stdin: request.stdin,
            stdin_once: request.stdin_once,
            env: request.env.iter().map(|(name, value)| format!("{name}={value}")).collect(),
            entrypoint: request.command.clone(),
            cmd: request.args.clone(),
            working_dir: request.working_dir.clone(),
            image: request.image.clone(),
            labels,
            ..ContainerConfig::default()
        };
        let name = format!(
            "k8s_{}_{}_{}_{}_{}",
            request.name, request.pod_name, request.pod_namespace, request.pod_uid, request.attempt
        );
        CreateRequest { name: Some(name), config, host, ..CreateRequest::default() }
    }

    fn seen(summary: ContainerSummary) -> Option<ContainerSeen> {
        let label = |name: &str| summary.labels.get(name).cloned();
        let state = match summary.state.status {
            Status::Created if summary.state.error.is_empty() => State::Created,
            Status::Running | Status::Paused | Status::Restarting => {
                State::Running { started: summary.state.started_at.unwrap_or(summary.created_at) }
            }
            _ => State::Exited {
                started: summary.state.started_at,
                finished: summary.state.finished_at.or(summary.state.started_at).unwrap_or(summary.created_at),
                code: summary.state.exit_code,
                oom: summary.state.oom_killed,
                error: summary.state.error.clone(),
            },
        };
        let message = match (&state, label(labels::MESSAGE)) {
            (State::Exited { .. }, Some(path)) => last_words(Path::new(&path)),
            _ => String::new(),
        };
        Some(ContainerSeen {
            id: summary.id.to_string(),
            pod_uid: label(labels::POD_UID)?,
            name: label(labels::CONTAINER)?,
            attempt: label(labels::ATTEMPT)?.parse().ok()?,
            image: summary.image,
            image_id: summary.image_id.to_string(),
            state,
            message,
        })
    }
}

/// A port without an address answers on all of both families.
fn plug(request: &SandboxRequest, netns: PathBuf) -> Result<engine::PodPlug, RuntimeError> {
    let mut ports = Vec::new();
    for port in &request.ports {
        let invalid = |what: &str| RuntimeError::Invalid(format!("host port {}: {what}", port.host_port));
        let protocol = engine::parse_protocol(&port.protocol.to_lowercase());
        let protocol = protocol.ok_or_else(|| invalid(&format!("unknown protocol {}", port.protocol)))?;
        let addresses: Vec<IpAddr> = match port.host_ip.as_str() {
            "" => vec![Ipv4Addr::UNSPECIFIED.into(), Ipv6Addr::UNSPECIFIED.into()],
            text => vec![text.parse().map_err(|_| invalid(&format!("{text:?} is no address")))?],
        };
        ports.extend(addresses.into_iter().map(|host_address| engine::PublishedPort {
            protocol,
            container_port: port.port,
            host_address,
            host_port: port.host_port,
        }));
    }
    let (send_limit, receive_limit) = (request.send_limit, request.receive_limit);
    Ok(engine::PodPlug { uid: request.uid.clone(), netns, ports, send_limit, receive_limit })
}

/// All of this machine's memory; it does not change.
fn host_memory() -> u64 {
    static TOTAL: std::sync::OnceLock<u64> = std::sync::OnceLock::new();
    *TOTAL.get_or_init(|| {
        let text = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
        let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:"));
        line.and_then(|rest| rest.split_whitespace().next()?.parse::<u64>().ok()).unwrap_or(0) << 10
    })
}

fn rotated(options: &[(&str, &str)]) -> BTreeMap<String, String> {
    options.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect()
}

fn limited(limits: &Limits) -> Resources {
    Resources {
        cpu_shares: limits.cpu_shares,
        cpu_quota_micros: limits.cpu_quota_micros,
        cpu_period_micros: if limits.cpu_quota_micros > 0 { PERIOD_MICROS } else { 0 },
        memory_bytes: limits.memory_bytes,
        // No swap beyond the limit, as upstream without swap support.
        memory_swap_bytes: limits.memory_bytes,
        ..Resources::default()
    }
}

fn by_name(devices: &[String]) -> Vec<engine::DeviceRequest> {
    if devices.is_empty() {
        return Vec::new();
    }
    vec![engine::DeviceRequest {
        driver: "cdi".into(),
        device_ids: devices.to_vec(),
        ..engine::DeviceRequest::default()
    }]
}

fn device(device: &DeviceRequest) -> engine::DeviceMapping {
    engine::DeviceMapping {
        path_on_host: device.source.clone(),
        path_in_container: device.target.clone(),
        cgroup_permissions: device.permissions.clone(),
    }
}

fn bind(mount: &Mount) -> engine::MountRequest {
    engine::MountRequest {
        kind: engine::MountKind::Bind,
        source: mount.source.to_string_lossy().into_owned(),
        target: mount.target.clone(),
        read_only: mount.read_only,
        consistency: String::new(),
        bind: Some(engine::BindOptions {
            propagation: mount.propagation.into(),
            read_only_non_recursive: mount.read_only && !mount.recursive_read_only,
            read_only_force_recursive: mount.recursive_read_only,
            ..engine::BindOptions::default()
        }),
        volume: None,
        tmpfs: None,
        image_subpath: None,
    }
}

/// The end of a termination message; the file is the workload's own and may be anything.
pub fn last_words(path: &Path) -> String {
    let Ok(fd) = linux::fs::open_host(path, rustix::fs::OFlags::RDONLY | rustix::fs::OFlags::NOFOLLOW) else {
        return String::new();
    };
    let bytes = linux::fs::read_regular(fd, 1 << 20, path).unwrap_or_default();
    let from = bytes.len().saturating_sub(MESSAGE_BYTES_MAX);
    String::from_utf8_lossy(&bytes[from..]).into_owned()
}

/// What a terminal's size belongs to.
pub(crate) enum Resized {
    Container(String),
    Exec(String),
}

/// Carries an attached process between channels; `exit` is awaited when all output has been delivered.
pub(crate) fn carry(
    engine: Engine,
    attached: Attached,
    resized: Resized,
    exit: impl Future<Output = Result<i32, RuntimeError>> + Send + 'static,
) -> Process {
    let Attached { mut output, input, .. } = attached;
    let (to_reader, output_receiver) = mpsc::channel(16);
    let (input_sender, mut from_writer) = mpsc::channel(16);
    let (tell_exit, exit_receiver) = oneshot::channel();
    tokio::spawn(async move {
        while let Some(Ok(chunk)) = output.next().await {
            let piece = Output { stderr: chunk.stream == Stream::Stderr, bytes: chunk.bytes };
            if to_reader.send(piece).await.is_err() {
                return;
            }
        }
        let _ = tell_exit.send(exit.await);
    });
    tokio::spawn(async move {
        let mut input = input;
        while let Some(next) = from_writer.recv().await {
            match next {
                Input::Bytes(bytes) => {
                    if let Some(sink) = &mut input
                        && sink.write(&bytes).await.is_err()
                    {
                        input = None;
                    }
                }
                Input::End => drop(input.take().map(engine::InputSink::close)),
                Input::Size(rows, cols) => {
                    let size = ConsoleSize { rows, cols };
                    let _ = match &resized {
                        Resized::Container(id) => engine.resize(id, size).await,
                        Resized::Exec(id) => engine.exec_resize(id, size).await,
                    };
                }
            }
        }
    });
    Process { output: output_receiver, input: input_sender, exit: exit_receiver }
}

impl Runtime for EngineRuntime {
    async fn network(&self, config: &NetworkConfig) -> Result<(), RuntimeError> {
        if let Some(cni) = self.cni.clone() {
            return blocking(move || cni.status().map_err(plugins::told)).await;
        }
        let subnets = |texts: &[String]| {
            let parsed = texts.iter().map(|text| text.parse());
            parsed.collect::<Result<Vec<_>, _>>().map_err(|error| RuntimeError::Invalid(format!("{error}")))
        };
        let (subnets, cluster) = (subnets(&config.subnets)?, subnets(&config.cluster)?);
        self.engine.pod_network(engine::PodNetwork { subnets, cluster, mtu: None }).await.map_err(told)
    }

    async fn sandbox(&self, request: &SandboxRequest) -> Result<Sandbox, RuntimeError> {
        if let Some(sandbox) = self.sandboxes.find(&request.uid) {
            return Ok(sandbox);
        }
        // There is one kind of runtime, under these names.
        if !matches!(request.handler.as_str(), "" | "runc" | "knarr") {
            return Err(RuntimeError::Invalid(format!("no runtime for {:?} is configured", request.handler)));
        }
        // What a crash left half made.
        self.remove_sandbox(&request.uid).await?;
        let (sandboxes, asked) = (self.sandboxes.clone(), request.clone());
        blocking(move || sandboxes.prepare(&asked)).await?;
        let mut ips = Vec::new();
        if !request.host_network {
            let netns = self.sandboxes.path(&request.uid).join("net");
            ips = self.plug(request, netns).await?;
        }
        let (sandboxes, asked) = (self.sandboxes.clone(), request.clone());
        blocking(move || sandboxes.finish(&asked, ips)).await
    }

    async fn find_sandbox(&self, uid: &str) -> Option<Sandbox> {
        self.sandboxes.find(uid)
    }

    async fn remove_sandbox(&self, uid: &str) -> Result<(), RuntimeError> {
        self.end_first_process(uid).await?;
        if let Some(cni) = self.cni.clone() {
            let removed = uid.to_owned();
            // While its namespace is there.
            blocking(move || cni.del(&removed).map_err(plugins::told)).await?;
        }
        let (sandboxes, removed) = (self.sandboxes.clone(), uid.to_owned());
        blocking(move || sandboxes.remove(&removed)).await?;
        self.engine.pod_unplug(uid).await;
        let (groups, uid) = (self.groups.clone(), uid.to_owned());
        blocking(move || groups.remove(&uid)).await
    }

    async fn sandboxes(&self) -> Vec<String> {
        let mut all = self.sandboxes.list();
        all.extend(self.engine.pods_plugged());
        all.extend(self.cni.iter().flat_map(Cni::attached));
        all.sort();
        all.dedup();
        all
    }

    async fn group(&self, request: &GroupRequest) -> Result<(), RuntimeError> {
        let (groups, request) = (self.groups.clone(), request.clone());
        blocking(move || groups.make(&request).map(drop)).await
    }

    async fn share_class(&self, class: &'static str, shares: i64) -> Result<(), RuntimeError> {
        let groups = self.groups.clone();
        blocking(move || groups.share(class, shares)).await
    }

    async fn remove_groups(&self) -> Result<(), RuntimeError> {
        let groups = self.groups.clone();
        blocking(move || groups.remove_all()).await
    }

    async fn limit(&self, id: &str, limits: &Limits) -> Result<(), RuntimeError> {
        let request = engine::UpdateRequest { resources: limited(limits), ..engine::UpdateRequest::default() };
        self.engine.update(id, request).await.map(drop).map_err(told)
    }

    async fn limits(&self, id: &str) -> Result<Limits, RuntimeError> {
        let have = self.engine.inspect(id, false).await.map_err(told)?.host.resources;
        Ok(Limits {
            cpu_shares: have.cpu_shares,
            cpu_quota_micros: have.cpu_quota_micros,
            memory_bytes: have.memory_bytes,
        })
    }

    async fn image(&self, name: &str) -> Result<Option<ImageSeen>, RuntimeError> {
        match self.engine.image_inspect(name).await {
            Ok(view) => Ok(Some(ImageSeen {
                id: view.id.to_string(),
                tags: view.tags,
                digests: view.digests,
                size_bytes: view.size_bytes,
                user: view.config.user,
            })),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(told(error)),
        }
    }

    async fn images(&self) -> Result<Vec<ImageSeen>, RuntimeError> {
        let images = self.engine.image_list(engine::ImageListOptions::default()).await.map_err(told)?;
        let seen = images.into_iter().map(|image| ImageSeen {
            id: image.id.to_string(),
            tags: image.tags,
            digests: image.digests,
            size_bytes: image.size_bytes,
            user: String::new(),
        });
        Ok(seen.collect())
    }

    async fn pull(&self, name: &str, login: &Login) -> Result<(), RuntimeError> {
        let request = engine::PullRequest {
            reference: name.to_owned(),
            all_tags: false,
            platform: None,
            credentials: engine::Credentials {
                username: login.username.clone(),
                password: login.password.clone(),
                identity_token: login.identity_token.clone(),
                ..engine::Credentials::default()
            },
        };
        let mut reports = self.engine.image_pull(request).await.map_err(told)?;
        while let Some(report) = reports.next().await {
            report.map_err(told)?;
        }
        Ok(())
    }

    async fn image_volume(&self, request: &ContainerRequest, place: &Path) -> Result<PathBuf, RuntimeError> {
        self.mount_image(request, place).await
    }

    async fn remove_image(&self, id: &str) -> Result<(), RuntimeError> {
        let names = self.engine.image_inspect(id).await.map_err(told)?.tags;
        // By its names, each without force: whoever uses it keeps it.
        for name in &names {
            self.engine.image_remove(name, false, false).await.map_err(told)?;
        }
        match self.engine.image_remove(id, false, false).await {
            Err(error) if error.kind() != ErrorKind::NotFound => Err(told(error)),
            _ => Ok(()),
        }
    }

    async fn containers(&self, pod_uid: Option<&str>) -> Result<Vec<ContainerSeen>, RuntimeError> {
        let mut options = ListOptions { all: true, ..ListOptions::default() };
        options.filters.insert(
            "label",
            match pod_uid {
                Some(uid) => format!("{}={uid}", labels::POD_UID),
                None => labels::POD_UID.to_owned(),
            },
        );
        let mut seen: Vec<ContainerSeen> =
            self.engine.list(options).await.map_err(told)?.into_iter().filter_map(Self::seen).collect();
        seen.sort_by(|a, b| (&a.name, a.attempt).cmp(&(&b.name, b.attempt)));
        Ok(seen)
    }

    async fn start(&self, request: &ContainerRequest) -> Result<String, RuntimeError> {
        let id = self.create(request).await?;
        vocab::crash::point("pods.start.created");
        match self.engine.start(&id).await {
            Ok(()) => Ok(id),
            Err(error) if error.kind() == ErrorKind::NotModified => Ok(id),
            Err(error) => Err(told(error)),
        }
    }

    async fn stop(&self, id: &str, grace: Duration) -> Result<(), RuntimeError> {
        let secs = i64::try_from(grace.as_secs()).unwrap_or(i64::MAX);
        match self.engine.stop(id, None, Some(secs)).await {
            Err(error) if !matches!(error.kind(), ErrorKind::NotModified | ErrorKind::NotFound) => Err(told(error)),
            _ => Ok(()),
        }
    }

    async fn kill(&self, id: &str) -> Result<(), RuntimeError> {
        match self.engine.kill(id, "KILL").await {
            Err(error) if !matches!(error.kind(), ErrorKind::Conflict | ErrorKind::NotFound) => Err(told(error)),
            _ => Ok(()),
        }
    }

    async fn remove(&self, id: &str) -> Result<(), RuntimeError> {
        match self.engine.remove(id, RemoveOptions { force: true, volumes: true }).await {
            Err(error) if error.kind() != ErrorKind::NotFound => Err(told(error)),
            _ => Ok(()),
        }
    }

    async fn exec_sync(&self, id: &str, command: &[String], timeout: Duration) -> Result<(i32, String), RuntimeError> {
        match self.run(id, command, Some(timeout), PROBE_OUTPUT_MAX).await? {
            Some(Ran { stdout, stderr, code }) => {
                let mut text = [stdout, stderr].concat();
                text.truncate(PROBE_OUTPUT_MAX);
                Ok((code, String::from_utf8_lossy(&text).into_owned()))
            }
            None => Err(RuntimeError::Failed(format!("command timed out after {}s", timeout.as_secs()))),
        }
    }

    async fn exec(&self, id: &str, command: &[String], tty: bool, stdin: bool) -> Result<Process, RuntimeError> {
        self.begin_exec(id, command, tty, stdin).await.map(|(_, process)| process)
    }

    async fn attach(&self, id: &str, stdin: bool) -> Result<Process, RuntimeError> {
        let options = AttachOptions { stdin, stdout: true, stderr: true, logs: false, stream: true };
        let waiter = self.engine.wait(id, WaitCondition::NotRunning).await.map_err(told)?;
        let attached = self.engine.attach(id, options).await.map_err(told)?;
        let exit = async move { waiter.outcome().await.map(|outcome| outcome.exit_code).map_err(told) };
        Ok(carry(self.engine.clone(), attached, Resized::Container(id.to_owned()), exit))
    }

    async fn logs(&self, id: &str, query: &LogQuery) -> Result<mpsc::Receiver<LogLine>, RuntimeError> {
        let options =
            LogOptions { follow: query.follow, since: query.since, tail: query.tail, ..LogOptions::default() };
        let mut lines = self.engine.logs(id, options).await.map_err(told)?;
        let (sender, receiver) = mpsc::channel(64);
        tokio::spawn(async move {
            loop {
                let next = tokio::select! {
                    next = lines.next() => next,
                    () = sender.closed() => return,
                };
                let Some(Ok(entry)) = next else { return };
                let line = LogLine::from(entry);
                if sender.send(line).await.is_err() {
                    return;
                }
            }
        });
        Ok(receiver)
    }

    async fn connect(&self, uid: &str, port: u16) -> Result<Box<dyn Pipe>, RuntimeError> {
        let missing = || RuntimeError::NotFound(format!("pod {uid} has no network: it does not run"));
        let sandbox = self.sandboxes.find(uid).ok_or_else(missing)?;
        // Without addresses of its own it is on the host's network, which this thread is in already.
        let path = (!sandbox.ips.is_empty()).then(|| sandbox.directory.join("net"));
        let connected = blocking(move || {
            // A socket belongs to the network in which it was made: a thread of its own goes there.
            std::thread::spawn(move || {
                let failed =
                    |what: &str, error: &dyn std::fmt::Display| RuntimeError::Failed(format!("{what}: {error}"));
                if let Some(path) = path {
                    let netns = linux::ns::open(&path).map_err(|error| failed("open the pod's network", &error))?;
                    linux::ns::setns(&netns, linux::ns::Namespaces::NET)
                        .map_err(|error| failed("enter the pod's network", &error))?;
                }
                let address = std::net::SocketAddr::from(([127, 0, 0, 1], port));
                let stream = std::net::TcpStream::connect_timeout(&address, Duration::from_secs(10))
                    .map_err(|error| failed(&format!("connect to port {port} of the pod"), &error))?;
                stream.set_nonblocking(true).map_err(|error| failed("set up the connection", &error))?;
                Ok(stream)
            })
            .join()
            .unwrap_or_else(|_| Err(RuntimeError::Failed("a thread ended".into())))
        })
        .await?;
        let connected = tokio::net::TcpStream::from_std(connected);
        connected.map(|stream| Box::new(stream) as _).map_err(|error| RuntimeError::Failed(error.to_string()))
    }

    async fn written(&self, id: &str) -> Result<u64, RuntimeError> {
        let view = self.engine.inspect(id, true).await.map_err(told)?;
        Ok(view.size.map_or(0, |size| size.rw_bytes))
    }

    async fn used(&self, id: &str) -> Result<Option<Used>, RuntimeError> {
        let stats = match self.engine.stats(id).await {
            Ok(stats) => stats,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(told(error)),
        };
        if !stats.running {
            return Ok(None);
        }
        // The kernel's first version of these counts its own group only unless asked for the total.
        let figure = |names: &[&str]| names.iter().find_map(|name| stats.memory.stats.get(*name)).copied().unwrap_or(0);
        Ok(Some(Used {
            cpu_nanos: stats.cpu.total_nanos,
            periods: stats.cpu.periods,
            throttled_periods: stats.cpu.throttled_periods,
            throttled_nanos: stats.cpu.throttled_nanos,
            memory_bytes: stats.memory.usage_bytes,
            working_set_bytes: stats
                .memory
                .usage_bytes
                .saturating_sub(figure(&["total_inactive_file", "inactive_file"])),
            rss_bytes: figure(&["total_rss", "anon"]),
            swap_bytes: figure(&["total_swap", "swap"]),
            page_faults: figure(&["total_pgfault", "pgfault"]),
            major_page_faults: figure(&["total_pgmajfault", "pgmajfault"]),
            memory_limit_bytes: Some(stats.memory.limit_bytes).filter(|limit| *limit < host_memory()),
            processes: stats.pids.current,
            cgroup: stats.id,
        }))
    }

    async fn traffic(&self, uid: &str) -> Result<BTreeMap<String, Traffic>, RuntimeError> {
        let path = self.sandboxes.path(uid).join("net");
        blocking(move || {
            // A thread of its own goes to the pod's network: only there does `/proc/thread-self/net` show it.
            std::thread::spawn(move || {
                let failed =
                    |what: &str, error: &dyn std::fmt::Display| RuntimeError::Failed(format!("{what}: {error}"));
                let netns = linux::ns::open(&path).map_err(|error| failed("open the pod's network", &error))?;
                linux::ns::setns(&netns, linux::ns::Namespaces::NET)
                    .map_err(|error| failed("enter the pod's network", &error))?;
                let text = std::fs::read_to_string("/proc/thread-self/net/dev")
                    .map_err(|error| failed("read the pod's traffic", &error))?;
                Ok(crate::traffic::traffic(&text))
            })
            .join()
            .unwrap_or_else(|_| Err(RuntimeError::Failed("a thread ended".into())))
        })
        .await
    }

    async fn changes(&self) -> Result<mpsc::Receiver<String>, RuntimeError> {
        let mut query = EventQuery::default();
        query.filters.insert("type", "container");
        query.filters.insert("label", labels::POD_UID);
        let mut events = self.engine.events(query).await.map_err(told)?;
        let (sender, receiver) = mpsc::channel(256);
        tokio::spawn(async move {
            while let Some(Ok(event)) = events.next().await {
                if !matches!(event.action.as_str(), "start" | "die" | "destroy" | "oom") {
                    continue;
                }
                let Some(uid) = event.attributes.get(labels::POD_UID) else { continue };
                if sender.send(uid.clone()).await.is_err() {
                    return;
                }
            }
        });
        Ok(receiver)
    }
}
